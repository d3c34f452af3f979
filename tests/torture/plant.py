"""The plant that is tortured: parts, formats of every kind, triggers, and an application's own tables.

shop.done is the application's: each transaction of a writer leaves its token there, so that afterwards it can be told
for certain whether that transaction was committed.
"""

from __future__ import annotations

import psycopg
from support import call

# part: type, scopes
PARTS = {
    "PUMP": ("MACHINE", ["SITE", "PART_TYPE"]),
    "VALVE": ("MACHINE", ["SITE", "PART_TYPE"]),
    "CHIP": ("ELECTRONICS", ["ENTERPRISE"]),
    "LABEL": ("PAPER", ["SITE"]),
}
SITES = ("DEFAULT", "EAST")
FORMATS = {
    "SEQUENCE": {"pattern": "S{SEQ:9}"},
    "GAPLESS": {"pattern": "G{SEQ:9}", "allocation": "GAPLESS"},
    "DAILY": {"pattern": "{SITE}-{YYYY}{MM}{DD}-{SEQ:7}", "reset": "DAILY", "counter_per": "SITE"},
    "RANDOM": {"pattern": "R{RANDOM:12}"},
    "JUMPING": {"pattern": "J{SEQ:12}{CHECK:luhn}"},
    "BLOCKS": {"pattern": "B{SEQ:9}"},
}
AD_HOC = "AD-HOC-{SEQ:9}"
TRIGGERS = {
    "WORK_ORDER_CREATE": "SYSTEM_GENERATED",
    "MATERIAL_RECEIPT": "VENDOR",
    "OPERATION_COMPLETE": "LATE_ASSIGNMENT",
}
# The id of the first of them.
WORK_ORDER_TRIGGER = 1
SHOP = """
create schema shop;
create table shop.done (token text primary key);
create table shop.orders (
    id bigint generated always as identity primary key,
    part text not null,
    quantity integer not null,
    numbers text[]
);
"""


def build(session: psycopg.Connection) -> None:
    """Installs machserial and everything else into an empty database."""
    session.execute("create extension machserial")
    session.execute("select machserial.migrate()")
    furnish(session)


def furnish(session: psycopg.Connection) -> None:
    """Everything else into a database with machserial."""
    call(session, "register_site", site_id="EAST", time_zone="Pacific/Kiritimati")
    for part, (part_type, scopes) in PARTS.items():
        call(session, "register_part", part_id=part, part_type=part_type, scopes=scopes)
    for name, arguments in FORMATS.items():
        call(session, "create_format", name=name, **arguments)
    for part in PARTS:
        call(session, "assign_format", part_id=part, format="SEQUENCE")
    for trigger_type, assignment_type in TRIGGERS.items():
        call(session, "create_trigger", part_id="PUMP", trigger_type=trigger_type, assignment_type=assignment_type)
    session.execute(SHOP)
    call(
        session,
        "attach",
        relation="shop.orders",
        trigger_type="WORK_ORDER_CREATE",
        part_column="part",
        quantity_column="quantity",
        serial_column="numbers",
    )
    session.commit()
