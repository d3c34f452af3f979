"""What docs/ says is so: the references are those of this very code, every command that is named exists, and the SQL of
the troubleshooting guide runs as printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import psycopg
import pytest
from machserial import reference
from machserial.cli import main
from make_docs import PAGES, ROOT
from support import call, column, generated, make_format, make_part

DOCS = Path(__file__).resolve().parent.parent / "docs"
GUIDES = ("troubleshooting.md", "operations.md", "deployment.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(name: str) -> str:
    return (DOCS / name).read_text()


def blocks(name: str, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(text_of(name)) if kind == language]


# The references


def test_the_reference_of_the_command_is_not_stale():
    assert text_of("cli.md") == reference.cli_reference(), "run make docs"


def test_the_reference_of_the_sql_is_not_stale(connection):
    assert text_of("sql.md") == reference.sql_reference(connection), "run make docs"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_what_make_docs_writes_now(connection, path):
    assert (ROOT / path).read_text() == PAGES[path](connection), f"{path} is stale: make docs"


def test_the_page_on_health_follows_the_thresholds(connection):
    page = PAGES["docs/health.md"]
    before = page(connection)
    names = column(connection, "select name from machserial.health_thresholds")
    assert all(f"| `{name}` |" in before for name in names)
    connection.execute("update machserial.health_thresholds set warning = 81 where name = 'connections'")
    assert page(connection) == before.replace("| ≥ 80 | ≥ 95 |", "| ≥ 81 | ≥ 95 |", 1)


def test_everything_public_says_what_it_is(connection):
    """Functions, tables, views, types, and the columns of tables and of what views add."""
    cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
    functions = cursor.execute(reference.FUNCTIONS).fetchall()
    relations = cursor.execute(reference.RELATIONS).fetchall()
    assert len(functions) > 80 and len(relations) > 20
    assert [one["name"] for one in (*functions, *relations) if not one["comment"]] == []
    silent = [
        f"{relation['name']}.{one['name']}"
        for relation in relations
        if not relation["is_view"] and not relation["is_type"]
        for one in cursor.execute(reference.COLUMNS, [relation["oid"]]).fetchall()
        if not one["comment"]
    ]
    assert silent == []


# Commands


def command_lines(text: str) -> Iterator[list[str]]:
    """The words after machserial, of lines of code and of code within a line."""
    inline = re.findall(r"`(machserial [^`]+)`", BLOCK.sub("", text))
    lines = [line for kind, body in BLOCK.findall(text) if kind in ("", "sh", "ini") for line in body.splitlines()]
    for line in [*inline, *lines]:
        for found in re.finditer(r"(?:^|[\s/(])machserial ([a-z][^|&;#>)]*)", f" {line}"):
            yield shlex.split(found[1])


def resolve(words: list[str]) -> tuple[str, click.Command | None, list[str]]:
    """The command's name, the command itself, and what follows it."""
    command, name = main, []
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, command, words = [*name, words[0]], command.commands.get(words[0]), words[1:]
    return " ".join(name), command, words


@pytest.mark.parametrize("name", GUIDES)
def test_every_command_line_is_one(name):
    lines = list(command_lines(text_of(name)))
    assert len(lines) > 5
    wrong = []
    for words in lines:
        command_name, command, rest = resolve(words)
        if command is None:
            wrong.append(f"no such command: {' '.join(words)}")
            continue
        try:
            # Placeholders stand for values: FILE, 17, …
            command.make_context(command_name, list(rest), resilient_parsing=False, **main.context_settings)
        except click.exceptions.NoArgsIsHelpError:
            pass
        except click.UsageError as error:
            # A command that is only named has no arguments.
            if rest or not isinstance(error, click.MissingParameter):
                wrong.append(f"{' '.join(words)}: {error.format_message()}")
    assert wrong == []


# The SQL of the troubleshooting guide


@pytest.fixture
def factory(connection):
    """What the guide speaks of: PART-001 with a trigger and serials, SERIAL-001, DUPLICATE-SERIAL-001, serial 1."""
    connection.execute("set search_path = machserial, public")
    call(connection, "register_site", site_id="SITE-001")
    for part_id in ("PART-001", "PART-002"):
        make_part(connection, part_id, "PUMP")
    make_format(connection, "pumps", "SERIAL-{SEQ:3}")
    call(connection, "assign_format", part_id="PART-001", format="pumps")
    generated(connection, "PART-001", 12, site_id="SITE-001")
    call(connection, "create_trigger", part_id="PART-001", trigger_type="WORK_ORDER_CREATE",
         assignment_type="SYSTEM_GENERATED")  # fmt: skip
    call(connection, "receive_vendor_serial", serial_number="DUPLICATE-SERIAL-001", vendor_name="V",
         part_id="PART-001")  # fmt: skip
    call(connection, "register_serials", serial_numbers=["DUPLICATE-SERIAL-001"], part_id="PART-001",
         on_conflict="RECORD")  # fmt: skip
    connection.commit()
    connection.autocommit = True
    return connection


def statements(block: str) -> Iterator[str]:
    yield from (part.strip() for part in re.split(r";\s*$", block, flags=re.MULTILINE) if part.strip())


@pytest.mark.own_database
def test_every_statement_of_the_guide_runs_as_printed(factory):
    """-- refused: SQLSTATE above a statement says that it must be, and how."""
    ran = 0
    for block in blocks("troubleshooting.md", "sql"):
        for statement in statements(block):
            refused = re.search(r"^-- refused: (\w{5})", statement, re.MULTILINE)
            try:
                factory.execute(statement)
            except psycopg.Error as error:
                assert refused and error.sqlstate == refused[1], f"{statement}\n{error}"
                assert error.diag.message_hint, statement
            else:
                assert not refused, f"{statement}\nwas not refused"
            ran += 1
    assert ran > 25


@pytest.mark.own_database
def test_the_guide_answers_what_it_promises(factory):
    """Beside the statements that tests/test_guide.py holds against their meaning."""
    conflict = "select status from machserial.serial_conflicts"
    assert column(factory, conflict) == ["PENDING"]
    for block in blocks("troubleshooting.md", "sql"):
        for statement in statements(block):
            if "resolve_conflict" in statement:
                factory.execute(statement)
    assert column(factory, conflict) == ["RESOLVED"]


def test_the_guide_goes_in_the_order_of_the_original():
    titles = re.findall(r"^#{2,3} (.*)$", text_of("troubleshooting.md"), re.MULTILINE)
    original = [
        "System Health Check", "Quick Status Command", "Service Won't Start", "Database Connection Errors",
        "High Memory Usage", "Slow API Responses", "Serial Number Uniqueness Constraint Violations", "Migration Failed",
        "Connection Pool Exhaustion", "Serial Numbers Not Being Generated", "Invalid Pattern Template",
        "Audit Trail Queries Slow", "Uniqueness Check Timeout", "Orphaned Serial Records", "Audit Trail Gaps",
        "Enable Debug Logging", "Debug Serial Generation", "Debug Database Queries", "Complete Service Restart",
        "Emergency Database Recovery", "Disable Service Temporarily",
    ]  # fmt: skip
    assert [title for title in titles if title in original] == original
