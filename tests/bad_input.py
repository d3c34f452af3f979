"""Every public function and every table against bad input: the values, the calls, and what is a fault of an answer.

Functions and tables are read from the catalog, so that a new one is tried without a word here. An answer is right if it
is a result, or an error whose SQLSTATE the function's comment names after "Errors:". It is a fault if it is internal
(XX000), undocumented, longer than anybody reads, leaves something changed, or never comes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import psycopg
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from psycopg import sql

# A statement that takes longer hangs.
PATIENCE = "120s"
# More than that is no message. A pattern, of at most 1000 characters, is quoted whole.
LONGEST_MESSAGE = 4000
# What PostgreSQL itself may answer to any statement: docs/errors.md.
OF_EVERY_STATEMENT = {"42501", "54001"}
# What a table may answer to a statement that breaks its rules: docs/errors.md.
OF_EVERY_TABLE = {
    *OF_EVERY_STATEMENT,
    *("23502", "23503", "23505", "23514", "23P01"),  # its constraints
    *("22023", "22P02", "22003", "22007", "22008", "55000", "0A000", "2200H", "P0002"),  # its triggers
    *("428C9", "54000"),  # an identity that is given, a key too long for any index
}
# Of what nobody is promised anything: only internal errors are faults.
ANYTHING = frozenset({"*"})
INTERNAL_TEXT = re.compile(r"cache lookup failed|unrecognized node|could not find|assertion", re.I)

TEN_MEGABYTES = "repeat('x', 10485760)"
# In its place where time is short: still longer than an index or a reader bears.
LONG = "repeat('x', 300000)"
DEEP_ARRAY = "(repeat('[', 1000) || repeat(']', 1000))"
DEEP_OBJECT = "(repeat('{\"a\":', 1000) || '1' || repeat('}', 1000))"

TEXTS = [
    "",
    " ",
    "\t\r\n",
    "'",
    "it''s",
    '"quoted"',
    "back\\slash\\",
    "$$",
    "$source$ $1 $x$",
    "%",
    "%s %L %I %1$s %%",
    "'; drop table machserial.serials; --",
    "/* comment",
    "null",
    "(a|b)*[c].^$",
    "{SEQ:999999999}",
    "{SEQ:4}" * 100,
    "{",
    "{{}}{}",
    "\u202eABC\u202c",  # right to left
    "שלום",
    "A\u200bB\u200d\ufeff",  # zero width
    "e\u0301\u0302" * 50,  # combining
    "ПРОD-Ο0Оl1I",  # look-alikes
    "👩‍👩‍👧‍👦🔩",
    "\U0010ffff\ufffd",
    "\x01\x02\x1b[31m\x7f\x85",  # control
    "x" * 64,  # longer than an identifier
    "x" * 256,
    "é" * 1001,
    "0" * 40,
    "-1",
    "99999999999999999999",
    "NaN",
]
# As SQL, so that what is large is made where it is used.
VALUES = {
    "text": [*(sql.Literal(text).as_string() for text in TEXTS), TEN_MEGABYTES],
    "integer": ["0", "1", "-1", "2147483647", "-2147483648", "'2147483648'", "'x'"],
    "bigint": [
        *("0", "-1", "2147483648", "9223372036854775807", "'-9223372036854775808'", "281474976710656"),
        *("'9223372036854775808'", "'1e3'"),
    ],
    "numeric": ["0", "-1", "'NaN'", "'Infinity'", "'-Infinity'", "1e-1000", "1e1000", "0.5", "'1e200000'", "''"],
    "boolean": ["true", "false", "'maybe'"],
    "timestamp with time zone": [
        *("'infinity'", "'-infinity'", "'epoch'", "'294276-12-31 23:59:59.999999+00'", "'4714-11-24 00:00:00+00 BC'"),
        *("'0001-01-01 00:00+00'", "'294277-01-01'", "'2024-02-30'", "'now'"),
    ],
    "date": ["'infinity'", "'-infinity'", "'5874897-12-31'", "'4714-11-24 BC'", "'2024-02-29'", "'2023-02-29'"],
    "interval": ["'0'", "'-1 day'", "'178000000 years'", "'x'"],
    "jsonb": [
        *("'null'", "'[]'", "'{}'", "'1'", "'\"$\"'", "'true'", "'\"\"'", DEEP_ARRAY, DEEP_OBJECT),
        *("'{\"lot_number\": 1}'", '\'{"work_order_id": {"a": []}}\'', "'{\"lot_number\": null}'"),
        *("'{\"operation_code\": [1, null]}'", '\'{"": ""}\'', "'{\"a\": 1e131000}'", "'{\"a\": 1e400000}'"),
        '\'{"work_order_id": "\\u202e\\u200b\\t", "lot_number": ""}\'',
        '\'{"a": "\\u0000"}\'',
        '\'{"a": "\\ud800"}\'',
        "'{\"a\"'",
        f"jsonb_build_object('work_order_id', {TEN_MEGABYTES})",
        f"jsonb_build_object({TEN_MEGABYTES}, 1)",
        "(select jsonb_object_agg('k' || i, i) from generate_series(1, 10000) as i)",
        "'\"$.** ? (@ > 1)\"'",
        "'\"strict $.a.b == 1\"'",
        "'\"$.a[9999999999] == 1\"'",
        "'\"1 / 0 == 1\"'",
        '\'"$ like_regex \\"(a*)*b\\""\'',
        '\'"$.a.datetime() < \\"2020-01-01\\".datetime()"\'',
    ],
    "text[]": [
        *("'{}'", "'{null}'", "'{\"\"}'", "'{a,null,a}'", "'{{a,b},{c,d}}'", "'[5:6]={a,b}'", "'{{a},{b'"),
        "'{a,A,\"a \"}'",
        "array_fill('x'::text, '{20000}')",
        f"array[{TEN_MEGABYTES}, '%L', '\u202e']",
        "array['\u200b', E'\\t', 'ENTERPRISE']",
    ],
    "bigint[]": [
        *("'{}'", "'{null}'", "'{1,1}'", "'{{1,2},{3,4}}'", "'[5:6]={1,2}'", "'{9223372036854775807,0,-1}'", "'{x}'"),
        "array_fill(1::bigint, '{20000}')",
    ],
    "integer[]": ["'{}'", "'{null}'", "'{{1},{2}}'", "'[5:6]={1,2}'", "'{2147483647}'"],
    "bytea": ["''", "'\\x00'", "decode(repeat('ff', 32), 'hex')", "convert_to(repeat('x', 10485760), 'UTF8')"],
    "bytea[]": ["'{}'", "'{null}'", "array['\\x00'::bytea]", "array_fill(''::bytea, '{1000}')"],
    "regclass": [
        *("0", "4294967295", "'pg_class'", "'pg_stat_activity'", "'machserial.serials'", "'machserial.blocks'"),
        *("'orders_view'", "'orders_partitioned'", "'orders_partition'", "'orders_sequence'", "'orders_index'"),
        *("'orders_materialized'", "'orders_type'", "'orders_temporary'", "'orders_of_another'", "'no_such'"),
        *("'orders_foreign'", "'information_schema.tables'"),
    ],
    "regrole": ["0", "'pg_monitor'", "'no_such'"],
    "name": ["''", "'x'", "repeat('x', 100)", "'\"'"],
}
# What is taken for an argument of a type that no one has thought of.
DEFAULTS = {
    "text": "'x'",
    "integer": "1",
    "bigint": "1",
    "numeric": "1",
    "boolean": "true",
    "timestamp with time zone": "now()",
    "date": "current_date",
    "jsonb": "'{}'",
    "text[]": "'{x}'",
    "bigint[]": "'{1}'",
}


@dataclass(frozen=True)
class Function:
    """A function of the schema as the catalog tells of it."""

    signature: str
    name: str
    is_procedure: bool
    arguments: tuple[tuple[str, str], ...]
    documented: frozenset[str]

    def call(self, given: dict[str, str]) -> str:
        """The statement that calls it with these values, each an SQL expression."""
        types = dict(self.arguments)
        named = ", ".join(f'"{name}" => ({value})::{types[name]}' for name, value in given.items())
        return f"{'call' if self.is_procedure else 'select * from'} machserial.{self.name}({named})"


@dataclass(frozen=True)
class Answer:
    """What came back: no sqlstate means a result."""

    sqlstate: str | None = None
    message: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Call:
    """A statement, what it may answer, and how it is to be spoken of."""

    statement: str
    subject: str
    permitted: frozenset[str]


FUNCTIONS = """
select p.oid::regprocedure::text, p.proname::text, p.prokind = 'p',
    array(
        select a.name from unnest(p.proargnames) with ordinality as a (name, ordinal)
        where coalesce(p.proargmodes[a.ordinal], 'i') in ('i', 'b', 'v') order by a.ordinal
    ),
    array(
        select format_type(t.id, null) from unnest(p.proargtypes::oid[]) with ordinality as t (id, ordinal)
        order by t.ordinal
    ),
    coalesce(obj_description(p.oid, 'pg_proc'), '')
from pg_proc as p
where p.pronamespace = 'machserial'::regnamespace and p.prokind in ('f', 'p')
    and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype) and p.proname ~ %s
order by 1
"""


def documented_codes(comment: str) -> frozenset[str]:
    """The SQLSTATEs that a comment names after "Errors:"."""
    _, _, errors = comment.partition("Errors:")
    return frozenset(re.findall(r"\b(?=[0-9A-Z]*[0-9])[0-9A-Z]{5}\b", errors))


def functions(connection: psycopg.Connection, names: str = "^[^_]") -> list[Function]:
    rows = connection.execute(FUNCTIONS, (names,)).fetchall()
    return [
        Function(signature, name, is_procedure, tuple(zip(arguments, types, strict=True)), documented_codes(comment))
        for signature, name, is_procedure, arguments, types, comment in rows
    ]


# Where bad input goes

SCENE = """
do $$ begin
    if not exists (select from pg_roles where rolname = 'limited_one') then create role limited_one; end if;
end $$;
select machserial.grant_site('limited_one', 'DEFAULT');
select machserial.register_site('BER', 'Berlin', 'Europe/Berlin');
select machserial.register_part('P', 'T');
select machserial.register_part('Q', 'U');
select machserial.register_part('BARE', 'BARE');
select machserial.create_format('F', 'F{SEQ:6}');
select machserial.create_format('TINY', 'T{SEQ:1}');
select machserial.create_format('GAPLESS', 'G{SEQ:6}', allocation => 'GAPLESS');
select machserial.create_format('DAILY', 'D{YYYY}{DDD}{SEQ:4}', reset => 'DAILY', counter_per => 'SITE');
select machserial.create_format('TO DEACTIVATE', 'O{SEQ:4}');
select machserial.assign_format('P', 'F');
select machserial.assign_format_to_type('U', 'GAPLESS');
select machserial.set_vendor_rule('ACME', 'P', regex => '^[AV]', max_length => 20);
select machserial.receive_vendor_serial('V' || i, 'ACME', 'P') from generate_series(1, 3) as i;
select machserial.receive_vendor_serial('broken', 'ACME', 'P');
select machserial.register_serials(array['N1', 'N2', 'N3', 'N4', 'N5', 'N6'], 'P');
select machserial.register_serial('N1', 'P', on_conflict => 'RECORD');
select machserial.create_placeholders('P', 4, 'WO-1', 'LOT-1', 'OP-1');
select machserial.generate('P', 3, request_id => 'R');
select machserial.generate('P', 8, format => 'TINY');
select machserial.create_trigger('P', 'OPERATION_COMPLETE', 'SYSTEM_GENERATED', 'F', 'OP-1', '{"kind": "final"}');
select machserial.create_trigger('P', 'WORK_ORDER_CREATE', 'LATE_ASSIGNMENT');
select machserial.create_trigger('P', 'MATERIAL_RECEIPT', 'SYSTEM_GENERATED', conditions => '"$.amount > 3"');
select machserial.allocate_block('F', 5, 'line 1', 'P');
select machserial.allocate_block('F', 5, 'line 2', 'P', request_id => 'BLOCK');
select machserial.pass_through(s.id, 'OP-1', 10) from machserial.serials as s where s.serial_number = 'N1';
create table public.orders (id bigint generated always as identity primary key, part text, amount integer, serial text);
create view public.orders_view as select * from public.orders;
create materialized view public.orders_materialized as select * from public.orders;
create table public.orders_partitioned (id bigint, part text, amount integer, serial text) partition by range (id);
create table public.orders_partition partition of public.orders_partitioned for values from (1) to (10);
create sequence public.orders_sequence;
create index orders_index on public.orders (part);
create type public.orders_type as (part text, amount integer);
create table public.orders_attached (id bigint generated always as identity primary key, part text);
create table public.orders_of_another (part text, amount integer);
create foreign data wrapper orders_wrapper;
create server orders_server foreign data wrapper orders_wrapper;
create foreign table public.orders_foreign (part text, amount integer) server orders_server;
select machserial.attach('public.orders_attached', 'WORK_ORDER_CREATE', 'part');
do $$ begin create role machserial_stranger; exception when duplicate_object then null; end $$;
alter table public.orders_of_another owner to machserial_stranger;
"""
# Accepted arguments by name, "function.name" where one function means something else by it. <…> is an id of the scene.
ACCEPTED = {
    "part_id": "'P'",
    "role": "'limited_one'",
    "part_type": "'T'",
    "site_id": "'DEFAULT'",
    "format": "'F'",
    "name": "'F'",
    "create_format.name": "'NEW'",
    "register_part.name": "'a name'",
    "register_site.name": "'a name'",
    "register_site.site_id": "'NEW'",
    "time_zone": "'UTC'",
    "health_check.name": "'connections'",
    "pattern": "'X{SEQ:4}'",
    "validate_serial.serial_number": "'X0001'",
    "reset": "'NEVER'",
    "counter_per": "'FORMAT'",
    "allocation": "'SEQUENCE'",
    "letter_case": "'EXACT'",
    "effective_from": "now()",
    "effective_until": "'2999-01-01'",
    "context": """'{"lot_number": "L", "kind": "final", "operation_code": "OP-1"}'""",
    "conditions": """'{"kind": "final"}'""",
    "request_id": "null",
    "serial_number": "'NEW'",
    "uniqueness_report.serial_number": "'N1'",
    "resolve_conflict.serial_number": "'N1'",
    "resolve_conflict.keep_serial_id": "<disputed>",
    "resolve_conflict.retired_serial_id": "null",
    "resolution": "'KEEP'",
    "serial_numbers": "'{NEW,NEWER}'",
    "assign_placeholders.serial_numbers": "'{NEW}'",
    "assign_placeholders.work_order_id": "null",
    "placeholder_ids": "'{<placeholder>}'",
    "placeholder_id": "<placeholder>",
    "scopes": "'{SITE}'",
    "source": "'MANUAL'",
    "on_conflict": "'RAISE'",
    "vendor_name": "'ACME'",
    "vendor_serial_id": "<vendor_serial>",
    "waive_vendor_rule.vendor_serial_id": "<broken_vendor_serial>",
    "vendor_serial_ids": "'{<vendor_serial>}'",
    "internal_serial_id": "null",
    "stdnum_kind": "null",
    "regex": "'^A'",
    "min_length": "1",
    "max_length": "20",
    "check_algorithm": "'luhn'",
    "algorithm": "'luhn'",
    "payload": "'123'",
    "value": "'1230'",
    "trigger_type": "'OPERATION_COMPLETE'",
    "attach.trigger_type": "'MATERIAL_RECEIPT'",
    "detach.trigger_type": "'WORK_ORDER_CREATE'",
    "detach.relation": "'public.orders_attached'",
    "assignment_type": "'SYSTEM_GENERATED'",
    "trigger_id": "<trigger>",
    "relation": "'public.orders'",
    "part_column": "'part'",
    "quantity_column": "'amount'",
    "context_columns": "'{amount}'",
    "serial_column": "'serial'",
    "serial_id": "<serial>",
    "account_for_serial.serial_id": "<unaccounted>",
    "source_serial_id": "<serial>",
    "target_serial_id": "<other_serial>",
    "source_serial_ids": "'{<serial>}'",
    "target_serial_ids": "'{<other_serial>}'",
    "fence.highest": "'F000900'",
    "fence.part_id": "null",
    "fence.site_id": "null",
    "reset_counter.part_id": "null",
    "reset_counter.site_id": "null",
    "reset_counter.next_value": "900000",
    "block_id": "<block>",
    "report_block.used": "array(select machserial.block_serials(<block>) limit 1)",
    "only": "'claims'",
    "expires_at": "'2100-01-01'",
    "event_id": "<event>",
    "anchor": "null",
    "month": "'2020-01-01'",
    "node": "3",
    "operation_code": "'OP-1'",
    "after": "null",
    "since": "'-infinity'",
    "until": "'infinity'",
    "start": "1",
}
IDS = {
    "disputed": "select id from machserial.serials where serial_number = 'N1'",
    "serial": "select id from machserial.serials where serial_number = 'N2'",
    "other_serial": "select id from machserial.serials where serial_number = 'N4'",
    "unaccounted": "select id from machserial.serials where serial_number = 'N5'",
    "vendor_serial": "select id from machserial.vendor_serials order by id limit 1",
    "broken_vendor_serial": "select id from machserial.vendor_serials order by id desc limit 1",
    "placeholder": "select min(id) from machserial.late_assignment_placeholders",
    "trigger": "select min(id) from machserial.trigger_definitions",
    "block": "select min(block_id) from machserial.blocks",
    "event": "select min(id) from machserial.audit_events",
}


# Every counter, but no identity: PostgreSQL takes an id before it looks at the row.
COUNTERS = """
select coalesce(md5(string_agg(c.oid || ' ' || coalesce(pg_sequence_last_value(c.oid), -1), ',' order by c.oid)), '')
from pg_class as c
where c.relnamespace = 'machserial'::regnamespace and c.relkind = 'S'
    and not exists (
        select from pg_depend as d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i')
            and d.refclassid = 'pg_class'::regclass
    )
"""
TABLES = """
select string_agg(
    format('select %L, count(*), sum(hashtextextended(t::text, 0)) from %s as t', c.oid::regclass, c.oid::regclass),
    ' union all ' order by c.oid
)
from pg_class as c
where c.relnamespace in ('machserial'::regnamespace, 'public'::regnamespace) and c.relkind = 'r'
"""


class Range:
    """A populated database: one connection that asks, a second that watches what stays, and the faults seen."""

    def __init__(self, asker: psycopg.Connection, witness: psycopg.Connection, is_thorough: bool = False) -> None:
        """Both of them in autocommit; the witness is a superuser. Who is not thorough tries every other value."""
        self.asker, self.witness, self.is_thorough = asker, witness, is_thorough
        self.faults: list[str] = []
        self.asked = self.accepted = 0
        self.functions = functions(witness)
        self.ids = {name: witness.execute(query).fetchone()[0] for name, query in IDS.items()}
        self.refused_values: dict[tuple[str, str], str | None] = {}
        asker.execute(f"set statement_timeout = '{PATIENCE}'")
        asker.execute("create temporary table orders_temporary (part text, amount integer)")
        self.content, self.counters = self.rows(), self.counter_values()

    def close(self) -> None:
        self.asker.close()
        self.witness.close()

    def rows(self) -> list[tuple]:
        return self.witness.execute(self.witness.execute(TABLES).fetchone()[0]).fetchall()

    def counter_values(self) -> str:
        return self.witness.execute(COUNTERS).fetchone()[0]

    def accepted_arguments(self, function: Function) -> dict[str, str]:
        """One value for each argument with which the function answers."""
        given = {}
        for name, data_type in function.arguments:
            wanted = ACCEPTED.get(f"{function.name}.{name}") or ACCEPTED.get(name) or DEFAULTS.get(data_type, "null")
            given[name] = re.sub("<([a-z_]+)>", lambda match: str(self.ids[match[1]]), wanted)
        return given

    def refusal_of_value(self, value: str, data_type: str) -> str | None:
        """The SQLSTATE with which PostgreSQL refuses the value alone, before any function sees it."""
        key = (value, data_type)
        if key not in self.refused_values:
            try:
                self.asker.execute(f"select ({value})::{data_type}")
                self.refused_values[key] = None
            except psycopg.Error as error:
                self.refused_values[key] = error.sqlstate
        return self.refused_values[key]

    def bad_values(self, data_type: str, turn: int) -> list[str]:
        """All there are of a type, or in turns one half and the other, and what is large not quite as large."""
        values = VALUES.get(data_type, [])
        return values if self.is_thorough else [value.replace(TEN_MEGABYTES, LONG) for value in values[turn % 2 :: 2]]

    def call(self, function: Function, given: dict[str, str]) -> Call:
        types = dict(function.arguments)
        refused = {self.refusal_of_value(value, types[name]) for name, value in given.items()} - {None}
        subject = f"{function.name}({', '.join(f'{name} => {value[:60]}' for name, value in given.items())})"
        permitted = refused or (function.documented | OF_EVERY_STATEMENT)
        return Call(function.call(given), subject, frozenset(permitted))

    def calls(self, function: Function) -> Iterator[Call]:
        """The accepted call; then, one argument after the other, every bad value of its type; then nulls only."""
        accepted = self.accepted_arguments(function)
        yield self.call(function, accepted)
        for turn, (name, data_type) in enumerate(function.arguments):
            for value in ("null", *self.bad_values(data_type, turn)):
                yield self.call(function, {**accepted, name: value})
        yield self.call(function, dict.fromkeys(accepted, "null"))

    def tables(self) -> list[tuple[str, dict[str, str]]]:
        """Every table with its columns and their types; a partitioned one once."""
        found = self.witness.execute(
            "select c.relname::text, array_agg(a.attname::text order by a.attnum), "
            "array_agg(format_type(a.atttypid, null) order by a.attnum) from pg_class as c "
            "inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped "
            "and a.attgenerated = '' where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p') "
            "and not c.relispartition group by c.relname order by c.relname"
        ).fetchall()
        return [(name, dict(zip(columns, types, strict=True))) for name, columns, types in found]

    def writes(self, table: str, columns: dict[str, str]) -> Iterator[Call]:
        """A copy of a row with a bad value, an update to it, a row of nothing else: in turns, or all of them."""
        names = ", ".join(f'"{name}"' for name in columns)
        for turn, (name, data_type) in enumerate(columns.items()):
            for place, value in enumerate(("null", *self.bad_values(data_type, turn))):
                refused = self.refusal_of_value(value, data_type)
                permitted = frozenset({refused} if refused else OF_EVERY_TABLE)
                bad = f"({value})::{data_type}"
                copied = ", ".join(bad if other == name else f't."{other}"' for other in columns)
                statements = (
                    f"insert into machserial.{table} ({names}) overriding system value "
                    f"select {copied} from machserial.{table} as t limit 1",
                    f'update machserial.{table} as t set "{name}" = {bad} '
                    f"where (t.tableoid, t.ctid) in (select u.tableoid, u.ctid from machserial.{table} as u limit 1)",
                    f'insert into machserial.{table} ("{name}") values ({bad})',
                )
                for statement in statements if self.is_thorough else [statements[place % 3]]:
                    yield Call(statement, f"{statement.split(' ', 1)[0]} {table}.{name} {value[:60]}", permitted)

    def careless_calls(self, function: Function) -> Iterator[Call]:
        """Nulls, then all arguments bad at once, as often as the longest list of bad values takes."""
        types = [data_type for _, data_type in function.arguments]
        rounds = [dict.fromkeys(dict(function.arguments), "null")]
        most = max((len(self.bad_values(data_type, 0)) for data_type in types), default=0)
        for number in range(most):
            rounds.append(
                {
                    name: values[(number + shift) % len(values)]
                    for shift, (name, data_type) in enumerate(function.arguments)
                    for values in [self.bad_values(data_type, shift) or ["null"]]
                }
            )
        for chosen in rounds:
            call = self.call(function, chosen)
            yield Call(call.statement, call.subject, ANYTHING)

    # Asking

    def ask_all(self, calls: Iterable[Call]) -> list[Answer]:
        """Asks one after the other, each of them undone; then nothing may have changed."""
        # Values are looked at outside of the transaction.
        calls = list(calls)
        # A procedure may end transactions: it is called outside of any.
        is_undone = not calls[0].statement.startswith("call ")
        self.asker.execute("begin; savepoint before" if is_undone else "")
        answers = [self.ask(call, "rollback to savepoint before; " if is_undone else "") for call in calls]
        self.asker.execute("rollback" if is_undone else "")
        locks = self.asker.execute(
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        ).fetchone()[0]
        if locks:
            self.faults.append(f"{calls[0].subject} and the like: {locks} advisory locks are left")
            self.asker.execute("select pg_advisory_unlock_all()")
        content = self.rows()
        if content != self.content:
            changed = {name for name, *_ in set(content) ^ set(self.content)}
            self.faults.append(f"{calls[0].subject} and the like: left a change in {', '.join(sorted(changed))}")
            self.content = content
        return answers

    def ask(self, call: Call, undoing: str) -> Answer:
        self.asked += 1
        answer = self.answer(undoing + call.statement)
        counters = self.counter_values()
        if answer.sqlstate is None:
            self.accepted += 1
        else:
            self.judge(call, answer, counters)
        self.counters = counters
        return answer

    def answer(self, statement: str) -> Answer:
        try:
            cursor = self.asker.execute(statement)
            while cursor.nextset():
                pass
        except psycopg.Error as error:
            # A server that is gone answers nothing.
            if self.asker.closed or error.sqlstate is None:
                raise
            parts = (error.diag.message_primary, error.diag.message_detail, error.diag.message_hint)
            return Answer(error.sqlstate, " / ".join(part for part in parts if part), parts[-1] or "")
        return Answer()

    def judge(self, call: Call, answer: Answer, counters: str) -> None:
        code, message = answer.sqlstate, answer.message
        told = f"{call.subject}: {code} {message[:200]}"
        if code.startswith("XX") or INTERNAL_TEXT.search(message):
            self.faults.append(f"internal: {told}")
        elif code == "57014" and call.permitted is not ANYTHING:
            self.faults.append(f"without end: {told}")
        if call.permitted is ANYTHING:
            return
        if code not in call.permitted and code != "57014":
            self.faults.append(f"undocumented: {told}")
        if len(message) > LONGEST_MESSAGE:
            self.faults.append(f"{len(message)} characters long: {told}")
        if counters != self.counters:
            self.faults.append(f"numbers consumed: {told}")
        if lacking := self.arguments_advised(answer.hint) - self.arguments_of(call):
            self.faults.append(f"its hint names {lacking}, no argument of it: {told}")

    def arguments_advised(self, hint: str) -> set[str]:
        """Those of the function that was called; with the name of another function it is that one's."""
        return set(re.findall(r"\b([a-z_]+) => ", re.sub(r"\w+\([^()]*\)", "", hint)))

    def arguments_of(self, call: Call) -> set[str]:
        name = call.subject.split("(", 1)[0]
        return {argument for function in self.functions if function.name == name for argument, _ in function.arguments}

    def report(self) -> str:
        return "\n".join([f"{len(self.faults)} faults in {self.asked} calls:", *self.faults[:40]])


def make_scene(connection: psycopg.Connection) -> None:
    """Populates a database with something for every function to work on."""
    connection.execute(SCENE)
    connection.commit()
    # What is committed can be sealed.
    connection.execute("select machserial.seal_audit()")
    connection.commit()


def application(known: Range) -> str:
    """A role with an application's rights: every function, every table, nothing of the owner's."""
    known.witness.execute("create role application login")
    for right in (
        "usage on schema machserial",
        "execute on all functions in schema machserial",
        "select, insert, update, delete on all tables in schema machserial",
    ):
        known.witness.execute(f"grant {right} to application")
    return "application"


# What hypothesis makes up


def literal(text: str) -> str:
    return sql.Literal(text).as_string()


# Without surrogates and NUL, which no text of PostgreSQL can hold.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)
TOKENS = [
    "{SEQ:4}",
    "{SEQ:2:safe}",
    "{YYYY}",
    "{DDD}",
    "{CHECK:luhn}",
    "{PART}",
    "{CTX:a}",
    "{WO}",
    "{",
    "}",
    "{{",
    "{RANDOM:2}",
]
PATTERNS = st.lists(st.sampled_from(TOKENS) | ANY_TEXT.map(lambda text: text[:5]), max_size=30).map("".join)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), ANY_TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT | st.just("lot_number"), inner, max_size=3),
    max_leaves=8,
)
GENERATED = {
    "text": st.one_of(ANY_TEXT, PATTERNS, st.integers().map(str)).map(literal),
    "integer": st.integers(-(2**31), 2**31 - 1).map(str),
    "bigint": st.integers(-(2**63), 2**63 - 1).map(lambda number: f"'{number}'"),
    "numeric": st.decimals(allow_nan=True, allow_infinity=True).map(lambda number: f"'{number}'".replace("s", "")),
    "boolean": st.booleans().map(str),
    "timestamp with time zone": st.datetimes().map(lambda moment: f"'{moment.isoformat()}+00'"),
    "date": st.dates().map(lambda day: f"'{day.isoformat()}'"),
    "jsonb": JSON.map(json.dumps).map(literal),
    "text[]": st.lists(st.none() | ANY_TEXT, max_size=5).map(literal),
    "bigint[]": st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=5).map(literal),
    "bytea": st.binary(max_size=64).map(lambda content: f"'\\x{content.hex()}'"),
}


@st.composite
def calls_of(draw: Callable, tried: Range) -> Call:
    """A call of any function: each argument accepted, bad or made up."""
    function = draw(st.sampled_from(tried.functions))
    given = {}
    for (name, data_type), accepted in zip(
        function.arguments, tried.accepted_arguments(function).values(), strict=True
    ):
        bad = VALUES.get(data_type, ["null"])
        made_up = GENERATED.get(data_type, st.just("null"))
        given[name] = draw(st.one_of(st.just(accepted), st.just(accepted), st.sampled_from(bad), made_up))
    return tried.call(function, given)


def made_up(tried: Range, number: int, count: int) -> list[Call]:
    """So many calls that hypothesis makes up, the same for the same number."""
    found = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(calls_of(tried))
    def collect(call: Call) -> None:
        found.append(call)

    collect()
    return found


# Faults that must be noticed

FAULTY = {
    "internal": "create function machserial.planted(part_id text) returns void language plpgsql as $$ begin "
    "raise exception using errcode = 'XX000', message = 'something'; end $$",
    "undocumented": "create function machserial.planted(part_id text) returns void language plpgsql as $$ begin "
    "perform 1 / length(part_id); end $$",
    "characters long": "create function machserial.planted(part_id text) returns void language plpgsql as $$ begin "
    "raise exception using errcode = '22023', message = part_id; end $$",
    "numbers consumed": "create function machserial.planted(part_id text) returns void language plpgsql as $$ begin "
    "perform nextval(s.oid) from pg_class as s where s.relname ~ '^counter_' and s.relkind = 'S'; "
    "raise exception using errcode = '22023', message = 'no'; end $$",
    "advisory locks": "create function machserial.planted(part_id text) returns void language plpgsql as $$ begin "
    "perform pg_advisory_lock(7); raise exception using errcode = '22023', message = 'no'; end $$",
    "left a change": "create procedure machserial.planted(part_id text) language plpgsql as $$ begin "
    "insert into machserial.sites (id) values ('half'); commit; "
    "raise exception using errcode = '22023', message = 'no'; end $$",
    "without end": "create function machserial.planted(part_id text) returns void language plpgsql as $$ begin "
    "loop perform 1; end loop; end $$",
}
PLANTED = {
    fault: f"{made}; comment on routine machserial.planted(text) is 'Errors: 22023 always.'"
    for fault, made in FAULTY.items()
}
