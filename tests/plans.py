"""What a session's plans read: whether one reads a table that grows from end to end, and how much that is.

PL/pgSQL plans each query once a session. So a plan is not made for the tables that it is carried out on, nor for the
number of rows: what it must never do is read more than those rows, whatever it was made for.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator

import psycopg
from psycopg import ClientCursor
from verbs import Verb

# The tables that get rows with every unit. What people enter (parts, formats, triggers, rules) grows too, but slowly:
# it is analyzed before a whole reading of it would be felt.
GROWING = {
    "serials",
    "vendor_serials",
    "late_assignment_placeholders",
    "serial_propagations",
    "serial_conflicts",
    "number_blocks",
    "block_usages",
    "requests",
    "trigger_executions",
    "audit_events",
}
# Pages that PostgreSQL looks at, at the end of an index, to plan.
WHILE_PLANNING = 100
WATCH = """
load 'auto_explain';
set auto_explain.log_min_duration = 0;
set auto_explain.log_nested_statements = on;
set auto_explain.log_analyze = on;
set auto_explain.log_timing = off;
set auto_explain.log_format = json;
set auto_explain.log_level = notice
"""
# As report_block() was: the plan may read the whole registry for a few numbers, since a setting of the caller's keeps
# it from looking them up.
OLD_EXAMINATION = """
create function public.examine_usages() returns trigger language plpgsql set enable_nestloop = off as $$
declare
    stray bigint;
begin
    select count(*) into stray
    from new_usages as n
    left join machserial.serials as s on s.id = n.serial_id
    where s.sequence_number is distinct from n.sequence_number;
    return null;
end
$$;
create trigger old_examination after insert on machserial.block_usages
referencing new table as new_usages
for each statement execute function public.examine_usages()
"""
RUN = """
create function pg_temp.run(statement text) returns void language plpgsql as $$ begin execute statement; end $$
"""
# Rows for the tables that grow: a million serials, say, and of all else an eighth, which no call may read as a whole
# either.
UNITS = """
insert into machserial.serials (
    serial_number, part_id, part_type, source, status, scopes, format_id, sequence_number, work_order_id,
    generation_request_id
)
select
    'X' || i, 'X' || i %% 1000, 'X', case i %% 2 when 0 then 'VENDOR' else 'MANUAL' end, 'ACTIVE',
    '{SITE,PART_TYPE}', 1, i, 'X' || i / 10, i
from generate_series(1, %(rows)s) as i;
insert into machserial.vendor_serials (id, serial_number, part_id, site_id, vendor_name, status, validated_at)
select s.id, s.serial_number, s.part_id, s.site_id, 'X', 'ACTIVE', now()
from machserial.serials as s where s.part_id like 'X%%' and s.sequence_number %% 8 = 0;
insert into machserial.late_assignment_placeholders (
    part_id, work_order_id, status, serial_id, assigned_at, assigned_by
)
select s.part_id, s.work_order_id, 'SERIALIZED', s.id, now(), 'x'
from machserial.serials as s where s.part_id like 'X%%' and s.sequence_number %% 8 = 1;
insert into machserial.serial_propagations (
    propagation_type, parent_serial_id, child_serial_id, operation_code, routing_sequence
)
select 'MERGE', s.id, s.id + 1, 'OP', 1
from machserial.serials as s where s.part_id like 'X%%' and s.sequence_number %% 8 = 3;
insert into machserial.block_usages (block_id, sequence_number, serial_id)
select 1000000 + s.sequence_number / 100, s.sequence_number, s.id
from machserial.serials as s where s.part_id like 'X%%' and s.sequence_number %% 8 = 5;
insert into machserial.serial_conflicts (
    serial_number, part_id, site_id, scopes, source, serial_id, conflicting_serial_ids, conflicting_scopes
)
select s.serial_number, s.part_id, s.site_id, s.scopes, s.source, s.id, array[s.id], s.scopes
from machserial.serials as s where s.part_id like 'X%%' and s.sequence_number %% 8 = 0;
insert into machserial.requests (site_id, verb, request_id, arguments)
select 'DEFAULT', 'generate', 'X' || i, '{}' from generate_series(1, %(rows)s / 8) as i;
insert into machserial.audit_events (event_type, event_source, serial_id, serial_number, part_id, site_id)
select 'SERIAL_REGISTERED', 'x', s.id, s.serial_number, s.part_id, s.site_id
from machserial.serials as s where s.part_id like 'X%%' and s.sequence_number %% 8 = 0;
insert into machserial.number_blocks (
    counter_id, site_id, holder, first_value, last_value, increment, quantity, issued_at
)
select 1000000, 'DEFAULT', 'x', i * 100, i * 100 + 99, 1, 100, now()
from generate_series(1, %(rows)s / 100) as i;
insert into machserial.trigger_executions (trigger_id, executions, units)
select 1000000 + i %% 1000, 1, 1 from generate_series(1, %(rows)s / 10) as i;
"""
# And for what people enter.
ENTRIES = """
insert into machserial.parts (id, part_type, default_scopes)
select 'X' || i, 'X', '{SITE,PART_TYPE}' from generate_series(1, %(rows)s / 20) as i;
insert into machserial.serial_formats (name, pattern, sequence_maximum)
select 'X' || i, 'X' || i || '{SEQ:9}', 999999999 from generate_series(1, %(rows)s / 100) as i;
insert into machserial.format_assignments (part_id, format_id)
select 'X' || i, 1 from generate_series(1, %(rows)s / 20) as i;
insert into machserial.counters (format_id, part_id, first_value)
select 1, 'X' || i, 1 from generate_series(1, %(rows)s / 20) as i;
insert into machserial.numbering_plans (
    part_id, site_id, format, pattern, part_type, scopes, time_zone, format_id, format_name, allocation,
    sequence_increment, valid_from, valid_until, configuration
)
select
    'X' || i, 'DEFAULT', '', '', 'X', '{SITE,PART_TYPE}', 'UTC', 1, 'X', 'SEQUENCE', 1, '-infinity', 'infinity', 0
from generate_series(1, %(rows)s / 20) as i;
insert into machserial.trigger_definitions (part_id, trigger_type, assignment_type)
select 'X' || i, 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED' from generate_series(1, %(rows)s / 20) as i;
insert into machserial.vendor_rules (vendor_name, part_id, regex)
select 'X', 'X' || i, '^V' from generate_series(1, %(rows)s / 20) as i;
"""


def nodes(plan: dict) -> Iterator[dict]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


def table_of(node: dict) -> str:
    return re.sub(r"^(audit_events)_\d{4}_\d\d$", r"\1", node.get("Relation Name", ""))


def reads_a_growing_table_whole(node: dict) -> bool:
    is_scan = node["Node Type"] in ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Index Scan")
    return is_scan and table_of(node) in GROWING and "Index Cond" not in node


def is_done_against_a_setting(node: dict) -> bool:
    """There was no other way. PostgreSQL takes it to cost so much that it compiles the query first."""
    return node.get("Disabled", False) or node["Total Cost"] > 1e9


def rows_looked_at(node: dict) -> float:
    """Also those that came to nothing."""
    kinds = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter")
    return node.get("Actual Loops", 0) * sum(node.get(kind, 0) for kind in kinds)


def place(context: str | None) -> str | None:
    """Function and line of a query inside functions; None for a caller's own."""
    found = re.search(r"^PL/pgSQL function (\w+\.)?(\w+)\(.*?\) line (\d+)", context or "", re.MULTILINE)
    return f"{found[2]}() line {found[3]}" if found else None


class Session:
    """A session that calls verbs, each call in a transaction of its own."""

    # Of all sessions: each call has a number that no other has.
    numbers = itertools.count(1)

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self.seen: list[tuple[str, dict]] = []
        connection.execute(RUN)
        connection.add_notice_handler(self._see)
        connection.commit()

    def _see(self, notice: psycopg.Error) -> None:
        message, where = notice.message_primary or "", place(notice.context)
        if where and message.startswith("duration:"):
            self.seen.append((where, json.loads(message.partition("plan:\n")[2])["Plan"]))

    def prepare(self, verb: Verb, rows: int) -> str:
        return verb.prepare(self.connection, next(Session.numbers), rows)

    def call(self, verb: Verb, rows: int, times: int = 1) -> None:
        for _ in range(times):
            self.connection.execute(self.prepare(verb, rows))
            self.connection.commit()

    def pages(self, verb: Verb, rows: int, times: int = 2) -> int:
        """The pages that a call touches: the fewest of some calls, of which the first may have to plan anew."""
        return min(self._pages(self.prepare(verb, rows)) for _ in range(times))

    def _pages(self, statement: str) -> int:
        explained = "explain (analyze, buffers, timing off, format json) select pg_temp.run(%s)"
        plan = ClientCursor(self.connection).execute(explained, (statement,)).fetchone()[0][0]["Plan"]
        self.connection.commit()
        return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]

    def watched(self, verb: Verb, rows: int) -> list[tuple[str, dict]]:
        """The plans of the queries that a call runs inside functions, each with its place."""
        statement = self.prepare(verb, rows)
        self.seen = []
        self.connection.execute(WATCH)
        self.connection.execute(statement)
        self.connection.execute("set auto_explain.log_min_duration = -1")
        self.connection.commit()
        return self.seen

    def whole_readings(self, verb: Verb, rows: int) -> set[str]:
        """Where a call reads a table that grows as a whole, or cannot do as its settings say."""
        return {f"{verb.name}: {reading}" for reading in whole_readings(self.watched(verb, rows))}

    def loops_in_loops(self, verb: Verb, rows: int) -> set[str]:
        """Where a call about many rows looks at each of them for each of them."""
        return {
            f"{verb.name}: {where}: {node['Node Type']} looks at {rows_looked_at(node):.0f} for {rows} rows"
            for where, plan in self.watched(verb, rows)
            for node in nodes(plan)
            if rows_looked_at(node) > 30 * rows
        }


def whole_readings(seen: list[tuple[str, dict]]) -> set[str]:
    return {
        f"{where}: {node['Node Type']} of {node.get('Index Name', node.get('Relation Name'))}"
        for where, plan in seen
        for node in nodes(plan)
        if reads_a_growing_table_whole(node) or is_done_against_a_setting(node)
    }


def shape(node: dict) -> str:
    """A plan without its figures."""
    what = " ".join(node[key] for key in ("Node Type", "Index Name", "Relation Name") if key in node)
    inner = ", ".join(shape(part) for part in node.get("Plans", []))
    return f"{what} ({inner})" if inner else what


def outgrown(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """The verbs that touch more pages than before, by name."""
    return [
        f"{name}: {before[name]} pages became {now}"
        for name, now in after.items()
        if now > 2 * before[name] + WHILE_PLANNING
    ]


def without_triggers(connection: psycopg.Connection, script: str, **arguments: object) -> None:
    connection.execute("set session_replication_role = replica; set maintenance_work_mem = '512MB'")
    for statement in script.split(";\n"):
        if statement.strip():
            load(connection, statement, arguments)
    connection.execute("reset session_replication_role")
    connection.commit()


def load(connection: psycopg.Connection, statement: str, arguments: dict[str, object]) -> None:
    """Builds the indexes of a table after its rows: a million rows then take a third of the time."""
    inserted = re.match(r"insert into machserial\.(\w+)", statement.strip())
    table = f"machserial.{inserted[1]}" if inserted and inserted[1] != "audit_events" else None
    if table:
        connection.execute("update pg_index set indisready = false where indrelid = %s::regclass", (table,))
    ClientCursor(connection).execute(statement, arguments or None)
    if table:
        connection.commit()
        connection.execute(f"reindex table {table}")
    connection.commit()


def add_units(connection: psycopg.Connection, rows: int) -> None:
    without_triggers(connection, UNITS, rows=rows)


def add_entries(connection: psycopg.Connection, rows: int) -> None:
    without_triggers(connection, ENTRIES, rows=rows)


def empty(connection: psycopg.Connection) -> None:
    """Empties the tables that grow. The planner then knows nothing of them, as of new ones."""
    without_triggers(connection, f"truncate {', '.join(f'machserial.{name}' for name in sorted(GROWING))} cascade")
