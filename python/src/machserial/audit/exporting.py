"""The audit trail as a whole, or what filters leave of it: for files, for programs, and for paper.

However many events there are, few are in memory at a time.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import psycopg
from psycopg import sql

from machserial.files import new_files, spreadsheets
from machserial.functions import Row

CHUNK = 2000  # events that are fetched at a time

SELECT = """
    select
        e.id, e.event_type, e.event_source, e.serial_id, e.serial_number, e.part_id, e.site_id, e.performed_by,
        e.db_user, to_char(e.performed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as performed_at,
        e.reason, e.details, e.transaction_id
    from machserial.audit_events as e
    where {conditions}
    order by e.performed_at, e.id
"""

COLUMNS = (
    "id", "event_type", "event_source", "serial_id", "serial_number", "part_id", "site_id", "performed_by", "db_user",
    "performed_at", "reason", "details", "transaction_id",
)  # fmt: skip
# Those that a spreadsheet may take for a formula; see the module spreadsheets.
TEXTS = ("event_type", "event_source", "performed_by", "db_user", "reason")
GUARDED = """
    case when left(ltrim(o.{column}, ''''), 1) in ({formula}) then '''' || o.{column} else o.{column} end as {column}
"""

CONDITIONS = {
    "serial_id": "e.serial_id = {}",
    "part_id": "e.part_id = {}",
    "event_type": 'e.event_type = upper({} collate "C")',
    "performed_by": "e.performed_by = {}",
    "since": "e.performed_at >= {}::timestamptz",
    "until": "e.performed_at < {}::timestamptz",
}

LABELS = {"serial_id": "serial", "part_id": "part", "event_type": "type", "performed_by": "by"}

PRINTED_BY = """
    select
        current_database() as database, current_setting('server_version') as server, inet_server_addr() as address,
        to_char(now() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') as printed_at,
        coalesce(nullif(current_setting('machserial.actor', true), ''), session_user) as printed_by,
        to_char(%(since)s::timestamptz at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') as since,
        to_char(%(until)s::timestamptz at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"') as until
"""

# A sheet of A4 or Letter, upright, at 12 characters an inch and 6 lines an inch.
PAGE_WIDTH = 92
PAGE_LINES = 60
PRINTED = {"id": 9, "performed_at": 19, "event_type": 20, "serial_number": 18, "part_id": 11, "performed_by": 10}
HEADINGS = ("Id", "Time (UTC)", "Event", "Serial", "Part", "By")
FURTHER = ("serial_id", "site_id", "reason", "details", "event_source", "db_user", "transaction_id")


@dataclass(frozen=True)
class Filters:
    """Which events; of what is given all must hold. since counts, until does not."""

    serial_id: int | None = None
    part_id: str | None = None
    event_type: str | None = None
    performed_by: str | None = None
    since: str | None = None
    until: str | None = None

    def given(self) -> dict[str, object]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def query(self) -> sql.Composable:
        """The events, oldest first, as columns for files. Without parameters, which COPY does not take."""
        conditions = [sql.SQL(CONDITIONS[name]).format(sql.Literal(value)) for name, value in self.given().items()]
        return sql.SQL(SELECT).format(conditions=sql.SQL(" and ").join([sql.SQL("true"), *conditions]))


def csv(connection: psycopg.Connection, filters: Filters) -> Iterator[bytes]:
    """CSV with a header. An empty text is quoted, null is not; what a spreadsheet would run begins with '."""
    formula = sql.SQL(", ").join(map(sql.Literal, spreadsheets.FORMULA))
    columns = [
        sql.SQL(GUARDED if name in TEXTS else "o.{column}").format(column=sql.Identifier(name), formula=formula)
        for name in COLUMNS
    ]
    query = sql.SQL("copy (select {} from ({}) as o) to stdout (format csv, header, encoding 'UTF8')").format(
        sql.SQL(", ").join(columns), filters.query()
    )
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for block in copy:
            yield bytes(block)


def json_lines(connection: psycopg.Connection, filters: Filters) -> Iterator[bytes]:
    """An object a line."""
    query = sql.SQL("select row_to_json(o)::text as event from ({}) as o").format(filters.query())
    for row in _fetched(connection, query):
        yield row["event"].encode() + b"\n"


def printable(connection: psycopg.Connection, filters: Filters) -> Iterator[bytes]:
    """Pages of plain text for an inspector: what was asked for, the events, how many they are, and an anchor."""
    # Count and anchor are of the same moment as the events.
    connection.execute("set transaction isolation level repeatable read")
    period = {"since": filters.since, "until": filters.until}
    about = connection.execute(PRINTED_BY, period).fetchone()
    lines = itertools.chain(_header(filters, about), _printed_events(connection, filters))
    for page, body in enumerate(_pages(lines), start=1):
        head = f"Audit trail of {about['database']}"
        # On the first page they follow the header.
        headings = _headings() if page > 1 else ()
        text = [head + f"Page {page}".rjust(PAGE_WIDTH - len(head)), "", *headings, *body]
        yield ("\n".join(text) + "\n\f").encode()


def write_file(path: Path, blocks: Iterable[bytes]) -> None:
    """Writes path as a whole or not at all. Raises ExpectedError."""
    with new_files.replacing(path) as file:
        file.writelines(blocks)


def _fetched(connection: psycopg.Connection, query: sql.Composable) -> Iterator[Row]:
    with connection.cursor("audit_export") as cursor:
        cursor.itersize = CHUNK
        yield from cursor.execute(query)


def _pages(lines: Iterator[str]) -> Iterator[list[str]]:
    while page := list(itertools.islice(lines, PAGE_LINES)):
        yield page


def _headings() -> Iterator[str]:
    yield from _columns(HEADINGS)
    yield "-" * PAGE_WIDTH


def _printed_events(connection: psycopg.Connection, filters: Filters) -> Iterator[str]:
    # Numbers in the details as PostgreSQL prints them: 1.10 stays 1.10.
    query = sql.SQL("select o.*, o.details::text as details from ({}) as o").format(filters.query())
    events = 0
    for event in _fetched(connection, query):
        events += 1
        yield from _printed_event(event)
    yield "-" * PAGE_WIDTH
    yield f"Events: {events}"
    anchor = connection.execute("select machserial.audit_anchor() as anchor").fetchone()["anchor"]
    yield "Anchor: " + (anchor or "none: nothing is sealed")


def _header(filters: Filters, about: Row) -> Iterator[str]:
    chosen = [f"{LABELS[name]} {_plain(value)}" for name, value in filters.given().items() if name in LABELS]
    server = f"PostgreSQL {about['server']}" + (f" at {about['address']}" if about["address"] else "")
    facts = {
        "Database": f"{about['database']}, {server}",
        "Period": f"{about['since'] or 'from the beginning'} to {about['until'] or 'the present'}",
        "Filters": ", ".join(chosen) or "none",
        "Printed": f"{about['printed_at']} by {_plain(about['printed_by'])}",
    }
    for name, fact in facts.items():
        yield from textwrap.wrap(f"{name + ':':<10} {fact}", PAGE_WIDTH, subsequent_indent=" " * 11)
    yield ""
    yield from _headings()


def _printed_event(event: Row) -> Iterator[str]:
    at = event["performed_at"].replace("T", " ")[: PRINTED["performed_at"]]
    yield from _columns([_plain(value) for value in ({**event, "performed_at": at}[name] for name in PRINTED)])
    further = [f"{name.replace('_', ' ')}: {_plain(event[name])}" for name in FURTHER if event[name] is not None]
    indent = " " * (PRINTED["id"] + 1)
    yield from textwrap.wrap("; ".join(further), PAGE_WIDTH, initial_indent=indent, subsequent_indent=indent)


def _columns(cells: Iterable[str]) -> Iterator[str]:
    """A line of the table, and more where a cell needs them: on paper nothing is cut off."""
    folded = [textwrap.wrap(cell, width) for cell, width in zip(cells, PRINTED.values(), strict=True)]
    for parts in itertools.zip_longest(*folded, fillvalue=""):
        line = [part.ljust(width) for part, width in zip(parts, PRINTED.values(), strict=True)]
        yield " ".join(line).rstrip()


def _plain(value: object) -> str:
    """As text without anything that a printer takes for a command."""
    text = "" if value is None else str(value)
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
