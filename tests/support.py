"""What the tests by capability share: calling machserial's functions, and what a refusal has to look like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import psycopg
import pytest
from databases import SharedSession
from psycopg import sql
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

HOSTILE = [
    "'",
    "it''s",
    '"quoted"',
    "back\\slash",
    "\\'",
    "$$",
    "$source$ $1 $x$",
    "%",
    "%s %L %I %1$s %%",
    "'; drop table machserial.serials; --",
    "$$; drop table machserial.serials; --",
    "é ß 漢字 🔩",
    "line\nbreak",
    "null",
    "; select 1",
    "/* comment",
    "(a|b)*[c].^$",
]
# Of these, what can be serial numbers where the setting serial_characters is UNICODE.
HOSTILE_NUMBERS = [text for text in HOSTILE if "\n" not in text]


def allow_unicode(connection: psycopg.Connection) -> None:
    connection.execute("update machserial.settings set value = 'UNICODE' where name = 'serial_characters'")


def call(connection: psycopg.Connection, function: str, **arguments: object) -> list:
    """The rows of machserial.<function>(argument => value, …)."""
    query = sql.SQL("select * from machserial.{}({})").format(
        sql.Identifier(function),
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments
        ),
    )
    adapted = {name: Jsonb(given) if isinstance(given, dict) else given for name, given in arguments.items()}
    return connection.cursor(row_factory=namedtuple_row).execute(query, adapted).fetchall()


def column(connection: psycopg.Connection, query: str, *parameters: object) -> list:
    return [row[0] for row in connection.execute(query, parameters or None)]


def value(connection: psycopg.Connection, query: str, *parameters: object) -> object:
    return connection.execute(query, parameters or None).fetchone()[0]


def generated(connection: psycopg.Connection, part_id: str = "P", quantity: int = 1, **arguments: object) -> list[str]:
    """The serial numbers that generate() gives."""
    rows = call(connection, "generate", part_id=part_id, quantity=quantity, **arguments)
    return [row.serial_number for row in rows]


def preview(connection: psycopg.Connection, pattern: str, quantity: int = 1, **arguments: object) -> list[str]:
    return [row[0] for row in call(connection, "preview", pattern=pattern, quantity=quantity, **arguments)]


def make_part(connection: psycopg.Connection, part_id: str = "P", part_type: str = "TYPE", **arguments: object) -> str:
    call(connection, "register_part", part_id=part_id, part_type=part_type, **arguments)
    return part_id


def make_format(connection: psycopg.Connection, name: str, pattern: str, **arguments: object) -> object:
    return call(connection, "create_format", name=name, pattern=pattern, **arguments)[0]


def register(connection: psycopg.Connection, numbers: list[str], part_id: str = "P", **arguments: object) -> list:
    return call(connection, "register_serials", serial_numbers=numbers, part_id=part_id, **arguments)


def publish(connection: psycopg.Connection) -> None:
    """Commits what a fixture has made, where the test may have other sessions; see connection in conftest.py."""
    if not isinstance(connection, SharedSession):
        connection.commit()


def mostly_slow(cases: Iterable, kept: Iterable) -> list:
    """Cases of a parametrized test, of which make test takes those that are kept, and make test-all all."""
    kept = list(kept)
    assert kept
    return [
        case if case in kept else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]


@contextmanager
def violated(connection: psycopg.Connection, sqlstate: str) -> Iterator[SimpleNamespace]:
    """The statement inside breaks a rule of the table itself; what came before it in the transaction stays."""
    seen = SimpleNamespace()
    with pytest.raises(psycopg.Error) as raised, connection.transaction():
        yield seen
    seen.diag = raised.value.diag
    assert raised.value.sqlstate == sqlstate, str(raised.value)


@contextmanager
def refused(connection: psycopg.Connection, sqlstate: str) -> Iterator[SimpleNamespace]:
    """The call inside is refused, and says what it is about, what was found and what to do."""
    with violated(connection, sqlstate) as seen:
        yield seen
    seen.message, seen.detail, seen.hint = (
        seen.diag.message_primary,
        seen.diag.message_detail,
        seen.diag.message_hint,
    )
    assert seen.message and seen.detail and seen.hint, f"{seen.message} / {seen.detail} / {seen.hint}"


def at_once(count: int, work: Callable[[int], object]) -> list:
    """work(0), work(1), … each in a thread of its own; their results in order, or the first exception."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))
