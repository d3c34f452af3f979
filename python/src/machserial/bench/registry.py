"""One machserial, and beside it the bare rows: the same columns, defaults and indexes in tables that have nothing else.

The bare tables are made from those of machserial as they are at the moment (like ... including indexes), and it is
looked at that a row which goes into them holds what generate() stores; so they follow whatever changes there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from machserial.errors import ExpectedError

PART, PART_TYPE, FORMAT = "P", "T", "BENCH"
PREFIX = "SN-"
FILLED = "OLD-"  # the numbers that were there before
PATTERN = f"{PREFIX}{{SEQ:9}}"
# Whose serials were there before: so many parts of a plant.
OTHER_PARTS = 100

PREPARE = f"""
select machserial.register_part('{PART}', '{PART_TYPE}');
select count(machserial.register_part('P' || n, '{PART_TYPE}')) from generate_series(1, {OTHER_PARTS}) as n;
select machserial.create_format('{FORMAT}', '{PATTERN}');
select machserial.assign_format('{PART}', '{FORMAT}');
"""

LIKE = "including defaults including identity including generated including indexes including storage"
SERIALS_AND_EVENTS = f"""
create schema {{schema}};
create table {{schema}}.serials (like machserial.serials {LIKE});
create table {{schema}}.audit_events (like machserial.audit_events {LIKE}) partition by range (performed_at);
create sequence {{schema}}.numbers;
"""
PARTITIONS = """
select c.relname as name, pg_get_expr(c.relpartbound, c.oid) as bound
from pg_inherits as i
inner join pg_class as c on c.oid = i.inhrelid
where i.inhparent = 'machserial.audit_events'::regclass
"""
# What machserial's rules are when they are declared. Spelled out: there they may be kept by other means.
RULES = """
alter table {schema}.serials
add foreign key (site_id) references machserial.sites (id),
add foreign key (format_id) references machserial.serial_formats (id),
add foreign key (part_id, part_type) references machserial.parts (id, part_type),
add check (serial_number <> '' and length(serial_number) <= 255),
add check (source in ('SYSTEM_GENERATED', 'VENDOR', 'MANUAL', 'LATE_ASSIGNMENT', 'IMPORT')),
add check (status in ('PENDING', 'ACTIVE', 'CONFLICT', 'REJECTED', 'RETIRED', 'INVALID')),
add check (not claim_released or status in ('RETIRED', 'INVALID')),
add check (scopes <@ '{{ENTERPRISE,SITE,PART_TYPE}}'::text[] and cardinality(scopes) > 0)
"""

SCOPES = "'{SITE,PART_TYPE}'"
# The values that generate() gives; everything else is a default.
SERIAL_COLUMNS = "serial_number, sequence_number, part_id, part_type, site_id, source, scopes, format_id"
SERIAL_VALUES = (
    "'{prefix}' || lpad({number}::text, 9, '0'), {number}, '{part}', '{part_type}', 'DEFAULT', 'SYSTEM_GENERATED', "
    "{scopes}, {format_id}"
)
EVENT = """
    insert into {schema}.audit_events (event_type, event_source, serial_id, serial_number, part_id, site_id)
    select 'SERIAL_GENERATED', current_setting('application_name'), id, serial_number, part_id, site_id from made
"""

RULES_AT_WORK = """
select t.tgrelid::regclass::text as relation, quote_ident(t.tgname) as name
from pg_trigger as t
inner join pg_class as c on c.oid = t.tgrelid
where
    c.relnamespace = 'machserial'::regnamespace and not t.tgisinternal and t.tgparentid = 0
    and t.tgenabled = 'O' and c.relkind in ('r', 'p')
order by 1, 2
"""

FILL_SERIALS = """
insert into {schema}.serials (
    serial_number, sequence_number, part_id, part_type, site_id, source, scopes, format_id, created_at
)
select
    '{prefix}' || lpad(n::text, 9, '0'), n, {part}, '{part_type}', 'DEFAULT', 'SYSTEM_GENERATED',
    {scopes}, {format_id}, now()
from generate_series(%(first)s::bigint, %(last)s::bigint) as n
"""
# Spread over three months, some of them of rare kinds and of few people.
FILL_EVENTS = """
insert into {schema}.audit_events (
    event_type, event_source, serial_id, serial_number, part_id, site_id, performed_by, performed_at
)
select
    case when n %% 1000 = 0 then 'SERIAL_RETIRED' else 'SERIAL_GENERATED' end, 'bench', n,
    '{filled}' || lpad(n::text, 9, '0'), 'P' || (n %% {parts} + 1), 'DEFAULT',
    case when n %% 100 = 0 then 'inspector' else 'line' end,
    now() - (%(total)s - n) * (interval '90 days' / %(total)s)
from generate_series(%(first)s::bigint, %(last)s::bigint) as n
"""
AT_ONCE = 1_000_000


class Registry:
    """A database with machserial, a part with a format, and the schema bare."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        with self.session() as session:
            session.execute("select machserial._make_audit_partitions(now() - interval '3 months', 3)")
            session.execute(PREPARE)
            self.format_id = session.execute(
                "select id from machserial.serial_formats where name = %s", [FORMAT]
            ).fetchone()[0]
            self.add_tables(session, "bare")
            require_same_rows(self, session)

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection]:
        """A connection that commits each statement, as the timed ones are."""
        with psycopg.connect(self.dsn, autocommit=True, application_name="bench") as session:
            session.execute("set client_min_messages = warning")
            yield session

    def add_tables(self, session: psycopg.Connection, schema: str, with_rules: bool = False) -> None:
        """The bare tables once more. with_rules: and what foreign keys and checks say, declared."""
        session.execute(SERIALS_AND_EVENTS.format(schema=schema))
        for name, bound in session.execute(PARTITIONS).fetchall():
            session.execute(f"create table {schema}.{name} partition of {schema}.audit_events {bound}")
        if with_rules:
            session.execute(RULES.format(schema=schema))

    def checkpoint(self) -> None:
        """So that none comes while somebody is timed. Without the right to, PostgreSQL's own have to do."""
        with self.session() as session:
            try:
                session.execute("checkpoint")
            except psycopg.errors.InsufficientPrivilege:
                return

    # What is measured

    def bare_rows(self, schema: str = "bare", number: str = "", rows: str = "1", event: bool = True) -> str:
        """The serial rows and their events in one statement. number: what gives the next one; rows: how many."""
        value = number or f"nextval('{schema}.numbers')"
        values = self.values("n.value")
        made = f"""
            insert into {schema}.serials ({SERIAL_COLUMNS})
            select {values} from (select {value} as value from generate_series(1, {rows})) as n
            returning id, serial_number, part_id, site_id
        """
        events = f", told as ({EVENT.format(schema=schema)})" if event else ""
        return f"with made as ({made}){events} "

    def values(self, number: str) -> str:
        """The values of a serial row with that number."""
        return SERIAL_VALUES.format(
            prefix=PREFIX, number=number, part=PART, part_type=PART_TYPE, scopes=SCOPES, format_id=self.format_id
        )

    def bare_batch(self, schema: str = "bare") -> str:
        """With the quantity as its parameter."""
        return self.bare_rows(schema, rows="%s::integer") + "select count(*) from made"

    def bare_single(self, schema: str = "bare", number: str = "", event: bool = True) -> str:
        """One serial row and its event, as a script of pgbench."""
        return self.bare_rows(schema, number, event=event) + "select serial_number from made"

    # Filling

    def fill_serials(
        self, session: psycopg.Connection, schema: str, last: int, first: int = 1, is_own: bool = False
    ) -> None:
        """Serials that were there before, numbered first to last. is_own: of the part and in the numbers measured."""
        statement = FILL_SERIALS.format(
            schema=schema,
            prefix=PREFIX if is_own else FILLED,
            part=f"'{PART}'" if is_own else f"'P' || (n %% {OTHER_PARTS} + 1)",
            part_type=PART_TYPE,
            scopes=SCOPES,
            format_id=self.format_id,
        )
        _fill(session, statement, first, last, last)

    def fill_events(self, session: psycopg.Connection, schema: str, last: int, first: int = 1, total: int = 0) -> None:
        """Events first to last of so many in all, over three months."""
        _fill(session, FILL_EVENTS.format(schema=schema, filled=FILLED, parts=OTHER_PARTS), first, last, total or last)

    def settle(self, session: psycopg.Connection) -> None:
        """What autovacuum and the checkpointer would do some time after a fill."""
        session.execute("vacuum analyze")
        self.checkpoint()

    def empty(self, *schemas: str) -> None:
        """Takes serials and events out of machserial and of the schemas."""
        with self.session() as session:
            with rules_off(session):
                session.execute("truncate machserial.serials, machserial.audit_events cascade")
            for schema in schemas:
                session.execute(f"truncate {schema}.serials, {schema}.audit_events")


@contextmanager
def rules_off(session: psycopg.Connection) -> Iterator[None]:
    """For filling and emptying only: no trigger of machserial fires during the block, which is a transaction."""
    with session.transaction():
        if _may_switch_roles(session):
            session.execute("set local session_replication_role = replica")
            yield
            return
        # What an owner who is no superuser may do.
        triggers = session.execute(RULES_AT_WORK).fetchall()
        for relation, name in triggers:
            session.execute(f"alter table {relation} disable trigger {name}")
        yield
        for relation, name in triggers:
            session.execute(f"alter table {relation} enable trigger {name}")


def _may_switch_roles(session: psycopg.Connection) -> bool:
    return session.execute("select rolsuper from pg_roles where rolname = current_user").fetchone()[0]


def _fill(session: psycopg.Connection, statement: str, first: int, last: int, total: int) -> None:
    for begin in range(first, last + 1, AT_ONCE):
        with rules_off(session):
            end = min(begin + AT_ONCE - 1, last)
            session.execute(statement, {"first": begin, "last": end, "total": total})


NOT_COMPARED = {
    "serials": ["id", "serial_number", "sequence_number", "created_at"],
    "audit_events": ["id", "serial_id", "serial_number", "transaction_id", "performed_at"],
}


def require_same_rows(registry: Registry, session: psycopg.Connection) -> None:
    """The bare rows are only what they are said to be while they hold what generate() stores."""
    session.execute("select machserial.generate(%s)", [PART])
    session.execute(registry.bare_batch(), [1])
    for table, left_out in NOT_COMPARED.items():
        ours, bare = (_only_row(session, schema, table, left_out) for schema in ("machserial", "bare"))
        if ours != bare:
            different = sorted(name for name in ours.keys() | bare.keys() if ours.get(name) != bare.get(name))
            raise ExpectedError(
                f"a bare row of {table} is not what generate() stores",
                detail=f"different: {', '.join(different)}",
                remedy="make machserial.bench.registry store the same",
            )


def _only_row(session: psycopg.Connection, schema: str, table: str, left_out: list[str]) -> dict[str, object]:
    query = sql.SQL(
        "select to_jsonb(t) - %s::text[] from {} as t where serial_number is not null order by id desc limit 1"
    )
    return session.execute(query.format(sql.Identifier(schema, table)), [left_out]).fetchone()[0]
