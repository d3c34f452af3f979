"""A plant with two sites for the tests of roles: everything at site ZZZ has ZZZ in it, so that any of it is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
from conftest import install
from psycopg import sql
from servers import Server
from support import call, value

OWN, FOREIGN = "AAA", "ZZZ"
ROLES = ("viewer", "operator", "supervisor", "admin")


def populate(connection: psycopg.Connection, site: str) -> None:
    """Something of every kind at a site."""
    call(connection, "register_site", site_id=site, name=f"plant {site}")
    context = {"work_order_id": f"{site}-WO", "lot_number": f"{site}-LOT", "secret": f"{site}-CTX"}
    call(connection, "generate", part_id="P", quantity=3, site_id=site, context=context, request_id=f"{site}-REQUEST")
    first = call(connection, "register_serial", serial_number=f"{site}-HAND-1", part_id="P", site_id=site)[0]
    second = call(connection, "register_serial", serial_number=f"{site}-HAND-2", part_id="P", site_id=site)[0]
    call(
        connection, "transform", source_serial_id=first.serial_id, target_serial_id=second.serial_id,
        operation_code=f"{site}-OP", routing_sequence=1,
    )  # fmt: skip
    call(
        connection, "register_serial", serial_number=f"{site}-HAND-1", part_id="P", site_id=site, on_conflict="RECORD"
    )
    call(connection, "receive_vendor_serial", serial_number=f"{site}-V", vendor_name=f"{site} Ltd", part_id="P",
         site_id=site)  # fmt: skip
    connection.execute(
        "insert into machserial.late_assignment_placeholders (part_id, site_id, work_order_id) values ('P', %s, %s)",
        (site, f"{site}-PLACE"),
    )
    block = call(connection, "allocate_block", format="PER SITE", quantity=5, holder=f"{site} line", part_id="P",
                 site_id=site, request_id=f"{site}-BLOCK")[0]  # fmt: skip
    used = connection.execute("select s from machserial.block_serials(%s) as s limit 1", (block.block_id,)).fetchone()
    call(connection, "report_block", block_id=block.block_id, used=list(used))
    call(connection, "register_serial", serial_number=f"{site}-EVERYWHERE", part_id="E", site_id=site)


def make_plant(connection: psycopg.Connection) -> None:
    """Two sites, and the roles. P is unique per site and type, E everywhere."""
    call(connection, "register_part", part_id="P", part_type="T")
    call(connection, "register_part", part_id="E", part_type="T", scopes=["ENTERPRISE"])
    call(connection, "create_format", name="PER SITE", pattern="{SITE}-{SEQ:6}", counter_per="SITE")
    call(connection, "create_format", name="SHARED", pattern="SHARED-{SEQ:6}")
    call(connection, "assign_format", part_id="P", format="PER SITE")
    for site in (OWN, FOREIGN):
        populate(connection, site)
    call(connection, "create_roles")
    connection.execute("select machserial.seal_audit()")


def make_logins(connection: psycopg.Connection, limited: bool) -> None:
    """A login for each role; those that are limited to OWN are called own_<role>."""
    for role in ROLES:
        name = f"own_{role}" if limited else f"all_{role}"
        connection.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
        connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(f"machserial_{role}"), sql.Identifier(name)))
        if limited:
            call(connection, "grant_site", role=name, site_id=OWN)


def ordinary_database(new_database: Callable[..., str], server: Server, mode: str = "plain") -> str:
    """A database with machserial of an owner who is no superuser: plant."""
    server.execute("create role plant login createrole")
    dsn = new_database("plant", owner="plant")
    with psycopg.connect(dsn, user="plant") as connection:
        install(connection, mode)
    return dsn


def everything(connection: psycopg.Connection, relation: str) -> str:
    """All that a relation shows, as one text."""
    return value(connection, f"select coalesce(string_agg(r::text, ' '), '') from machserial.{relation} as r")


def relations(connection: psycopg.Connection) -> list[str]:
    """Tables and views, and the partitions by themselves."""
    return [
        row[0]
        for row in connection.execute(
            "select relname::text from pg_class where relnamespace = 'machserial'::regnamespace "
            "and relkind in ('r', 'p', 'v') order by 1"
        ).fetchall()
    ]


def text_of(error: psycopg.Error) -> str:
    """All that an error says."""
    diag = error.diag
    parts = (diag.message_primary, diag.message_detail, diag.message_hint, diag.context, diag.constraint_name)
    return " ".join(part or "" for part in parts)


ROOT = Path(__file__).resolve().parent.parent
