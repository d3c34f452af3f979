"""The user's guide is one long transcript: each of its statements is run, and what is printed beneath must come."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

GUIDE = (Path(__file__).resolve().parent.parent / "docs" / "user-guide.md").read_text()
STEP = re.compile(r"^```sql\n(?P<statements>.*?)^```$(?:\n\n```text\n(?P<printed>.*?)^```$)?", re.MULTILINE | re.DOTALL)

MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00")

# bigint, integer, smallint, numeric, double precision: what psql writes to the right
NUMBERS = (20, 23, 21, 1700, 701)


def statements(text: str) -> Iterator[str]:
    """Each statement ends with a semicolon at the end of its line."""
    yield from (part.strip() for part in re.split(r";$", text, flags=re.MULTILINE) if part.strip())


def as_psql_prints(result: psycopg.pq.abc.PGresult) -> str:
    """The result as psql's aligned table, without spaces at the ends of lines."""
    columns = []
    for column in range(result.nfields):
        cells = [(result.get_value(row, column) or b"").decode() for row in range(result.ntuples)]
        name = result.fname(column).decode()
        width = max(map(len, [name, *cells]))
        to_the_right = result.ftype(column) in NUMBERS
        aligned = [cell.rjust(width) if to_the_right else cell.ljust(width) for cell in cells]
        left = (width - len(name)) // 2
        columns.append([" " * left + name.ljust(width - left), "-" * width, *aligned])
    head, rule, *rows = zip(*columns, strict=True)
    lines = [" " + " | ".join(head), "-" + "-+-".join(rule) + "-", *(" " + " | ".join(row) for row in rows)]
    lines.append(f"({len(rows)} row{'' if len(rows) == 1 else 's'})")
    return "\n".join(line.rstrip() for line in lines)


def as_psql_refuses(error: psycopg.Error) -> str:
    diag = error.diag
    told = {"ERROR": diag.message_primary, "DETAIL": diag.message_detail, "HINT": diag.message_hint}
    return "\n".join(f"{name}:  {text}" for name, text in told.items() if text)


def run(connection: psycopg.Connection, statement: str) -> str:
    """What psql would print of it, but for command tags."""
    notices: list[str] = []

    def note(diag: psycopg.errors.Diagnostic) -> None:
        notices.append(f"{diag.severity}:  {diag.message_primary}")

    connection.add_notice_handler(note)
    try:
        cursor = connection.execute(statement)
    except psycopg.Error as error:
        return as_psql_refuses(error)
    finally:
        connection.remove_notice_handler(note)
    printed = as_psql_prints(cursor.pgresult) if cursor.description else ""
    return "\n".join(part for part in [*notices, printed] if part)


@pytest.mark.own_database
def test_every_step_of_the_guide_prints_what_stands_there(connection: psycopg.Connection) -> None:
    connection.commit()
    connection.autocommit = True
    steps = list(STEP.finditer(GUIDE))
    assert len(steps) == GUIDE.count("```sql") and len(steps) > 20
    for step in steps:
        printed = [run(connection, one) for one in statements(step["statements"])]
        expected = step["printed"]
        shown = "\n".join(part for part in printed if part)
        if expected is None:
            assert "ERROR" not in shown, f"{step['statements']}\n{shown}"
        else:
            assert MOMENT.sub("then", shown) == MOMENT.sub("then", expected.rstrip("\n")), shown
