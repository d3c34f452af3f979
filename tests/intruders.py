"""What the attack tests share: a working day that calls nearly everything, traps that tell when they are stepped on,
and a look at all that an intruder might have left behind.

A trap is an object of the intruder's with the name of something that machserial uses: a function, an operator, a type,
a table. It does what the real one does, and counts. The count is a sequence: no rollback takes it back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import psycopg
from conftest import BUILD, install
from psycopg import sql
from psycopg.adapt import Loader
from servers import Server
from support import call

TRAPS = "evil"
KEEPER, INTRUDER = "keeper", "intruder"


@contextmanager
def fortress(server: Server, database: str) -> Iterator[SimpleNamespace]:
    """An empty database of the role keeper, who is no superuser. The role intruder may make schemas in it, and objects
    in its schema public, as everybody could before PostgreSQL 15.

    keeper, intruder, superuser: a connection of each, with autocommit. connect(user, **options): another one.
    """
    server.execute(f"create role {KEEPER} login")
    server.execute(f"create role {INTRUDER} login")
    server.execute(f"create database {database} owner {KEEPER}")
    server.execute(f"grant create, connect on database {database} to {INTRUDER}")
    server.execute(f"grant create on schema public to {INTRUDER}, {KEEPER}", dbname=database)
    opened: list[psycopg.Connection] = []

    def connect(user: str, **options: str) -> psycopg.Connection:
        opened.append(psycopg.connect(server.dsn(database, user=user, **options), autocommit=True))
        return opened[-1]

    yield SimpleNamespace(
        keeper=connect(KEEPER), intruder=connect(INTRUDER), superuser=connect(server.user), connect=connect,
        database=database, server=server,
    )  # fmt: skip
    for one in opened:
        one.close()
    server.execute(f"drop database {database}")
    for (role,) in server.execute("select rolname from pg_roles where rolname !~ '^pg_' and oid <> 10"):
        server.execute(sql.SQL("drop role {}").format(sql.Identifier(role)).as_string())


def garrison(place: SimpleNamespace, mode: str) -> None:
    """Installs machserial in a fortress, as its owner."""
    with place.keeper.transaction():
        install(place.keeper, mode)


# What in a text depends on the clock or on chance.
CLOCK = re.compile(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}")


def _plain(result: object, name: str) -> object:
    """What of a result is the same every day: texts and truths, without the day's name and dates; no numbers."""
    if isinstance(result, str):
        return CLOCK.sub("*", result.replace(name.lower(), "@").replace(name, "@"))
    if isinstance(result, (list, tuple)):
        return [_plain(element, name) for element in result]
    if isinstance(result, dict):
        return {key: _plain(element, name) for key, element in result.items()}
    return result if isinstance(result, bool) else "*" if result is not None else None


class Moment(Loader):
    """A time, whatever the session's style: it is another every day, and the client knows only some styles."""

    def load(self, data: bytes) -> str:
        return "*"


def day(connection: psycopg.Connection, name: str = "DAYA") -> list[tuple[str, object]]:
    """A day's work through the public functions: each with what of its result is the same on every day.

    name: begins the names of all that it makes, so that a database can have several days; four letters. Each call is
    qualified and
    given literals, without an operator or a cast: what happens by names happens inside machserial.
    """
    told: list[tuple[str, object]] = []
    for kind in ("timestamptz", "date", "interval"):
        connection.adapters.register_loader(kind, Moment)

    def do(function: str, **arguments: object) -> list:
        rows = call(connection, function, **arguments)
        told.append((function, _plain(rows, name)))
        return rows

    part, other, site, work_order = f"{name}-PART", f"{name}-OTHER", f"{name}-SITE", f"{name}-WO"
    _master_data(do, name, part, other, site)
    serials = _numbers(do, name, part, site, work_order)
    _conflicts(do, name, part, other)
    _vendors(do, name, part)
    _late_assignment(do, part, work_order)
    _propagation(do, part, serials)
    _events(connection, do, name, part)
    _reports(connection, part)
    return told


def _reports(connection: psycopg.Connection, part: str) -> None:
    """What tells of the whole database, and so differs from day to day."""
    for function in (
        "trigger_statistics",
        "counter_status",
        "pending_conflicts",
        "conflict_history",
        "audit_statistics",
        "health",
        "ready",
        "pending_migrations",
        "audit_months",
        "unfenced_counters",
    ):
        call(connection, function)
    call(connection, "audit_trail", part_id=part, page_size=20)


def _master_data(do, name: str, part: str, other: str, site: str) -> None:
    do("register_site", site_id=site, name="Site", time_zone="Europe/Berlin")
    do("register_part", part_id=part, part_type=f"{name}-TYPE", name="Part")
    do("register_part", part_id=other, part_type=f"{name}-TYPE", scopes=["ENTERPRISE", "PART_TYPE"])
    do("create_format", name=f"{name}-plain", pattern=f"{name}-{{SEQ:6}}{{CHECK:luhn}}")
    do(
        "create_format",
        name=f"{name}-daily",
        pattern=f"{name}{{YYYY}}{{MM}}{{DD}}-{{SEQ:4}}",
        reset="DAILY",
        allocation="GAPLESS",
        counter_per="SITE",
    )
    do(
        "create_format",
        name=f"{name}-long",
        letter_case="UPPER",
        pattern=f"{name}{{PREFIX:o'x \\ $$ %s}}{{SITE}}/{{PART}}/{{WO}}/{{CTX:line}}/{{SEQ:3:alpha}}",
    )
    do("assign_format", part_id=part, format=f"{name}-plain")
    do("assign_format_to_type", part_type=f"{name}-TYPE", format=f"{name}-daily", priority=1)
    do("format_for", part_id=part)
    do("parse_pattern", pattern="{PREFIX:a}{YY}{DDD}{SEQ:4:hex}{CHECK:mod97_10}")
    do("preview", pattern="X{SEQ:4}{CHECK:damm}", quantity=3)
    do("validate_pattern", pattern="X{SEQ:4")
    do("validate_serial", serial_number="X00011", pattern="X{SEQ:4}{CHECK:luhn}")
    do("check_digit", algorithm="mod11", payload="12345")
    do("has_valid_check_digit", algorithm="luhn", value="79927398713")


def _numbers(do, name: str, part: str, site: str, work_order: str) -> list[int]:
    made = do("generate", part_id=part, quantity=6, request_id=f"{name}-request")
    do("generate", part_id=part, quantity=6, request_id=f"{name}-request")
    do("generate", part_id=part, quantity=2, format=f"{name}-daily", site_id=site)
    do(
        "generate",
        part_id=part,
        format=f"{name}-long",
        site_id=site,
        context={"work_order_id": work_order, "line": "l'1\\"},
    )
    do("generate", part_id=part, quantity=2, pattern=f"{name}P{{SEQ:3}}")
    do("revise_format", name=f"{name}-plain", description="revised")
    do("generate", part_id=part)
    block = do(
        "allocate_block", format=f"{name}-plain", quantity=3, holder="line 1", part_id=part, request_id=f"{name}-block"
    )[0]
    numbers = [row[0] for row in do("block_serials", block_id=block.block_id)]
    do("report_block", block_id=block.block_id, used=numbers[:2])
    do("return_block", block_id=block.block_id)
    do("reset_counter", format=f"{name}-plain", next_value=50, reason="moved on")
    do("fence", format=f"{name}-daily", site_id=site, reason="after a restore", margin=3)
    do("counter_status", format=f"{name}-plain")
    do("find_serial", serial_number=made[0].serial_number)
    return [row.serial_id for row in made]


def _conflicts(do, name: str, part: str, other: str) -> None:
    do("register_serial", serial_number=f"{name}-M1", part_id=part)
    do("register_serials", serial_numbers=[f"{name}-M1", f"{name}-M2"], part_id=other, on_conflict="RECORD")
    do("check_uniqueness", serial_number=f"{name}-MI", part_id=part)
    do("claims_of", serial_numbers=[f"{name}-M1", f"{name}-M2"], part_id=part)
    do("pending_conflicts", part_id=other)
    do("uniqueness_report", serial_number=f"{name}-M1", part_id=part)
    do("resolve_conflict", serial_number=f"{name}-M1", part_id=other, resolution="MARK_INVALID", reason="a typo")
    do("conflict_history", part_id=other)
    do("uniqueness_statistics", part_id=part)


def _vendors(do, name: str, part: str) -> None:
    do("set_vendor_rule", vendor_name=f"{name}-V", regex="^V-[A-Z]+$", max_length=20)
    good = do("receive_vendor_serial", serial_number=f"V-{name}", vendor_name=f"{name}-V", part_id=part)
    bad = do("receive_vendor_serial", serial_number=f"{name}-X1", vendor_name=f"{name}-V", part_id=part)
    more = do(
        "receive_vendor_serials", serial_numbers=[f"{name}-X2", f"{name}-X2"], vendor_name=f"{name}-V", part_id=part
    )
    do("validate_vendor_serial", vendor_serial_id=bad[0].id)
    do("waive_vendor_rule", vendor_serial_id=bad[0].id, reason="agreed")
    do("accept_vendor_serial", vendor_serial_id=bad[0].id)
    do("accept_vendor_serials", vendor_serial_ids=[good[0].id])
    do(
        "reject_vendor_serial",
        vendor_serial_id=next(m.vendor_serial_id for m in more if m.vendor_serial_id),
        reason="no",
    )
    do("delete_vendor_rule", vendor_name=f"{name}-V")


def _late_assignment(do, part: str, work_order: str) -> None:
    made = do("create_placeholders", part_id=part, quantity=4, work_order_id=work_order, operation_code="OP10")
    do("pending_placeholders", part_id=part)
    do("assign_placeholder", placeholder_id=made[0].id)
    do("fail_placeholder", placeholder_id=made[1].id, reason="scrapped")
    do("assign_placeholders", work_order_id=work_order)
    do("placeholder_statistics", part_id=part)


def _propagation(do, part: str, serials: list[int]) -> None:
    first, second, third, fourth, fifth, sixth = serials
    do("pass_through", serial_id=first, operation_code="OP10", routing_sequence=10)
    do("split", source_serial_id=first, target_serial_ids=[second, third], operation_code="OP20", routing_sequence=20)
    do("merge", source_serial_ids=[second, third], target_serial_id=fourth, operation_code="OP30", routing_sequence=30)
    do("transform", source_serial_id=fourth, target_serial_id=fifth, operation_code="OP40", routing_sequence=40)
    do("lineage", serial_id=fifth)
    do("propagation_history", part_id=part)
    do("propagation_statistics", part_id=part)
    do("retire_serial", serial_id=fifth, reason="end of life")
    do("invalidate_serial", serial_id=sixth, reason="misprint")


def _events(connection: psycopg.Connection, do, name: str, part: str) -> None:
    trigger = do(
        "create_trigger",
        part_id=part,
        trigger_type="WORK_ORDER_CREATE",
        assignment_type="SYSTEM_GENERATED",
        conditions={"line": 1},
    )[0]
    do("update_trigger", trigger_id=trigger.id, batch_size=2)
    do("disable_trigger", trigger_id=trigger.id)
    do("enable_trigger", trigger_id=trigger.id)
    do("explain_triggers", trigger_type="WORK_ORDER_CREATE", part_id=part, context={"line": 2})
    do("fire", trigger_type="WORK_ORDER_CREATE", part_id=part, context={"line": 1}, quantity=2)
    table = f"work_orders_{name}".lower()
    connection.execute(
        sql.SQL(
            "create table public.{} (id pg_catalog.text primary key, part pg_catalog.text, line pg_catalog.int4, "
            "serials pg_catalog.text)"
        ).format(sql.Identifier(table))
    )
    do(
        "attach",
        relation=f"public.{table}",
        trigger_type="WORK_ORDER_CREATE",
        part_column="part",
        context_columns=["line"],
        serial_column="serials",
    )
    connection.execute(
        sql.SQL("insert into public.{} (id, part, line) values (%s, %s, 1)").format(sql.Identifier(table)), ("W1", part)
    )
    serials = connection.execute(sql.SQL("select serials from public.{}").format(sql.Identifier(table))).fetchall()
    do("detach", relation=f"public.{table}", trigger_type="WORK_ORDER_CREATE")
    assert serials[0][0].startswith(f"{name}-")
    do("delete_trigger", trigger_id=trigger.id)


def night(connection: psycopg.Connection) -> list[str]:
    """What maintains and proves: sealing, verifying, looking for damage. Returns what was found: nothing."""
    call(connection, "maintain")
    call(connection, "seal_audit")
    call(connection, "write_test")
    found = [f"audit: {row}" for row in call(connection, "verify_audit", full=True)]
    return found + [f"integrity: {row}" for row in call(connection, "integrity")]


# Traps.

# Functions that take any type: a trap for a type at hand is the better match, wherever the name is looked up.
POLYMORPHIC = [
    ("array_to_string", "text[], text", "text"),
    ("cardinality", "text[]", "integer"),
    ("cardinality", "bigint[]", "integer"),
    ("unnest", "text[]", "setof text"),
    ("unnest", "bigint[]", "setof bigint"),
    ("to_jsonb", "text", "jsonb"),
    ("to_jsonb", "text[]", "jsonb"),
    ("jsonb_build_object", "text, text", "jsonb"),
    ("jsonb_build_object", "text, bigint", "jsonb"),
    ("format", "text, text", "text"),
    ("format", "text, text, text", "text"),
    ("format", "text, bigint", "text"),
    ("concat_ws", "text, text, text", "text"),
    ("num_nonnulls", "text, text", "integer"),
]

# The functions of PostgreSQL that the code mentions, and that can be written again as they are.
SHADOWED_FUNCTIONS = """
    select p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid)
    from pg_proc as p
    where
        p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and p.provariadic = 0 and p.proallargtypes is
        null
        and p.pronargs > 0
        and not exists (
            select from unnest(p.proargtypes || p.prorettype) as t (oid) inner join pg_type as y on y.oid = t.oid
            where y.typtype = 'p'
        )
        and p.proname = any(%s)
"""
SHADOWED_OPERATORS = """
    select o.oprname, l.typ, r.typ, format_type(o.oprresult, null)
    from pg_operator as o
    cross join lateral (select case o.oprleft when 'anyarray'::regtype then 'text[]' else format_type(o.oprleft,
    null) end)
        as l (typ)
    cross join lateral (
        select case o.oprright when 'anyarray'::regtype then 'text[]' else format_type(o.oprright, null) end
    ) as r (typ)
    where
        o.oprnamespace = 'pg_catalog'::regnamespace and o.oprkind = 'b'
        and l.typ = any(%(types)s) and r.typ = any(%(types)s)
        and o.oprresult not in (select t.oid from pg_type as t where t.typtype = 'p')
"""
OPERAND_TYPES = [
    "text", "text[]", "bigint", "integer", "boolean", "jsonb", "numeric", "date", "oid", "name", "regclass", "jsonpath",
    "timestamp with time zone", "timestamp without time zone", "interval", '"char"',
]  # fmt: skip
SHADOWED_TYPES = ("text", "jsonb", "name", "date", "timestamptz", "regclass", "regtype", "oid", "bytea", "jsonpath")
SHADOWED_VIEWS = (
    "pg_class",
    "pg_proc",
    "pg_constraint",
    "pg_namespace",
    "pg_roles",
    "pg_type",
    "pg_trigger",
    "pg_index",
)


def lay_traps(connection: psycopg.Connection, schema: str = TRAPS) -> None:
    """Fills a schema with traps, all of them open to everybody, as the schema's owner. machserial may not be there
    yet."""
    place = sql.Identifier(schema)
    mentioned = sorted(set(re.findall(r"([a-z0-9_]+)[(]", (BUILD / "machserial.sql").read_text())))

    def lay(statement: str, **parts: object) -> None:
        connection.execute(sql.SQL(statement).format(place=place, count=sql.Literal(f"{schema}.sprung"), **parts))

    lay("create sequence {place}.sprung")
    lay("grant usage on schema {place} to public; grant all on sequence {place}.sprung to public")
    lay(
        "create function {place}.spring(how pg_catalog.text) returns pg_catalog.bool language plpgsql as $$ begin "
        "perform pg_catalog.nextval({count}); "
        "raise warning 'trap %, stepped on by %', how, current_user; return true; end $$"
    )
    for name, arguments, result in connection.execute(SHADOWED_FUNCTIONS, [mentioned]).fetchall() + POLYMORPHIC:
        numbers = ", ".join(f"${number}" for number, _ in enumerate(arguments.split(", "), 1))
        lay(
            "create function {place}.{name}({arguments}) returns {result} language plpgsql as $$ begin "
            "perform {place}.spring({label}); {give} pg_catalog.{name}({numbers}); end $$",
            name=sql.Identifier(name), arguments=sql.SQL(arguments), label=sql.Literal(f"function {name}"),
            result=sql.SQL(result), numbers=sql.SQL(numbers),
            give=sql.SQL("return query select" if result.lower().startswith("setof") else "return"),
        )  # fmt: skip
    operators = connection.execute(SHADOWED_OPERATORS, {"types": OPERAND_TYPES}).fetchall()
    for number, (name, left, right, result) in enumerate(operators):
        lay(
            "create function {place}.{function}({left}, {right}) returns {result} language plpgsql as $$ begin "
            "perform {place}.spring({label}); return $1 operator(pg_catalog.{name}) $2; end $$; "
            "create operator {place}.{name} (leftarg = {left}, rightarg = {right}, function = {place}.{function})",
            function=sql.Identifier(f"operator_{number}"), left=sql.SQL(left), right=sql.SQL(right),
            result=sql.SQL(result), label=sql.Literal(f"{left} {name} {right}"), name=sql.SQL(name),
        )  # fmt: skip
    for name in SHADOWED_TYPES:
        lay(
            "create domain {place}.{name} as pg_catalog.{name} check ({place}.spring({label}))",
            name=sql.Identifier(name), label=sql.Literal(f"type {name}"),
        )  # fmt: skip
    for name in SHADOWED_VIEWS:
        lay(
            "create view {place}.{name} as select c.*, {place}.spring({label}) as trap from pg_catalog.{name} as c; "
            "grant select on {place}.{name} to public",
            name=sql.Identifier(name), label=sql.Literal(f"view {name}"),
        )  # fmt: skip


def sprung(connection: psycopg.Connection, schema: str = TRAPS) -> int:
    """How often a trap has been stepped on."""
    query = sql.SQL("select case when is_called then last_value else 0 end from {}.sprung").format(
        sql.Identifier(schema)
    )
    return connection.execute(query).fetchone()[0]


# Who is there, and what they must not learn of each other.

ROLES = ("viewer", "operator", "supervisor", "admin")
OWN, FOREIGN = "SITE-A", "SITE-B"
# In every text of the foreign site that nobody outside of it knows.
SECRET = "Secret"


def man(place: SimpleNamespace) -> None:
    """The four roles, with a login for each that is called like it, and for each a limited_... that is limited to
    OWN."""
    place.server.execute(f"alter role {KEEPER} createrole")
    call(place.keeper, "create_roles")
    for role in ROLES:
        for login in (role, f"limited_{role}"):
            place.superuser.execute(f"create role {login} login in role machserial_{role}")
    for site in (OWN, FOREIGN):
        call(place.keeper, "register_site", site_id=site)
    for role in ROLES:
        call(place.keeper, "grant_site", role=f"limited_{role}", site_id=OWN)


def settle(connection: psycopg.Connection) -> SimpleNamespace:
    """Data of every kind at both sites, which share part and formats. Returns what an insider of OWN may have heard of
    FOREIGN: ids, and the one number KNOWN-B. All its other texts have the word SECRET in them."""
    for part in ("P", "Q"):
        call(connection, "register_part", part_id=part, part_type="T", scopes=["SITE"])
    call(connection, "create_format", name="shared", pattern="{SITE}{CTX:what}{SEQ:5}")
    call(connection, "create_format", name="own", pattern="{SITE}-{SEQ:5}", counter_per="SITE", allocation="GAPLESS")
    call(connection, "create_format", name="site", pattern="S{SITE}-{SEQ:5}", counter_per="SITE")
    call(connection, "assign_format", part_id="P", format="site")
    heard = SimpleNamespace()
    for site, word in ((OWN, "Open"), (FOREIGN, SECRET)):
        connection.execute("select set_config('machserial.actor', %s, false)", (f"{word} actor",))
        connection.execute("select set_config('machserial.reason', %s, false)", (f"{word} reason",))
        heard = _settle_site(connection, site, word)
    connection.execute("reset machserial.actor; reset machserial.reason")
    call(connection, "seal_audit")
    return heard


def _settle_site(connection: psycopg.Connection, site: str, word: str) -> SimpleNamespace:
    context = {"what": word, "work_order_id": f"{word} order", "lot_number": f"{word} lot", "more": f"{word} detail"}
    here = {"part_id": "P", "site_id": site}
    made = call(
        connection, "generate", quantity=3, format="shared", context=context, request_id=f"request {site}", **here
    )
    for name in ("own", "site"):
        call(connection, "generate", quantity=2, format=name, context=context, **here)
    known = call(connection, "register_serial", serial_number=f"KNOWN-{site[-1]}", **here)[0].serial_id
    call(connection, "register_serial", serial_number=f"{word} 0001", **here)
    call(connection, "register_serial", serial_number=f"{word} 0001", on_conflict="RECORD", **here)
    call(connection, "retire_serial", serial_id=made[2].serial_id, reason=f"{word} why")
    vendor = call(
        connection, "receive_vendor_serial", serial_number=f"{word} V1", vendor_name=f"{word} vendor", **here
    )[0].id
    waiting = call(
        connection, "create_placeholders", work_order_id=f"{word} order", operation_code="OP", lot_number=f"{word} lot",
        context={"more": word}, **here,
    )[0].id  # fmt: skip
    block = call(connection, "allocate_block", format="site", quantity=4, holder=f"{word} line", **here)[0].block_id
    numbers = [row[0] for row in call(connection, "block_serials", block_id=block)]
    call(connection, "report_block", block_id=block, used=numbers[:1])
    edge = call(
        connection, "transform", source_serial_id=made[0].serial_id, target_serial_id=made[1].serial_id,
        operation_code=f"{word} OP", routing_sequence=1, notes=f"{word} note",
    )[0].id  # fmt: skip
    event = connection.execute("select max(id) from machserial.audit_events where site_id = %s", (site,)).fetchone()[0]
    conflict = connection.execute("select id from machserial.serial_conflicts where site_id = %s", (site,)).fetchone()[
        0
    ]
    counters = [
        row[0]
        for row in connection.execute("select id from machserial.counters where site_id = %s order by id", (site,))
    ]
    return SimpleNamespace(
        serial=known, generated=made[0].serial_id, vendor_serial=vendor, placeholder=waiting, block=block, edge=edge,
        event=event, conflict=conflict, counters=counters, number=f"KNOWN-{site[-1]}", request=f"request {site}",
    )  # fmt: skip
