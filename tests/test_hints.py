"""What errors and findings tell people to do can be done: functions, arguments and commands that they name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import psycopg
from conftest import ROOT
from machserial.cli import main
from support import column, refused, register

SOURCES = [path for folder in ("sql/functions", "sql/migrations") for path in sorted((ROOT / folder).rglob("*.sql"))]
# They are made by the second extension.
OF_PLPYTHON = re.findall(
    r"^create function machserial\.(\w+)",
    "".join(path.read_text() for path in sorted((ROOT / "plpython").rglob("*.sql"))),
    re.MULTILINE,
)
# A call, with what stands between its brackets; those of a text end at the latest where the text does.
CALL = re.compile(r"\bmachserial\.([a-z]\w*)\(((?:[^()\n]|\([^()\n]*\))*)")
NAMED = re.compile(r"\b([a-z_]+) =>")


def texts(source: str) -> Iterator[str]:
    """The literals of an SQL source, adjacent ones joined, without comments."""
    source = re.sub(r"--.*", "", source)
    for literal in re.finditer(r"'(?:[^']|'')*'(?:\s*\n\s*'(?:[^']|'')*')*", source):
        yield re.sub(r"'\s*\n\s*'", "", literal.group())[1:-1].replace("''", "'")


def advice() -> list[str]:
    return [text for path in SOURCES for text in texts(path.read_text())]


def arguments_of(connection: psycopg.Connection) -> dict[str, set[str]]:
    rows = connection.execute(
        "select p.proname, p.proargnames from pg_proc as p where p.pronamespace = 'machserial'::regnamespace"
    )
    return {name: set(arguments or []) for name, arguments in rows}


def strange_advice(text: str, arguments: dict[str, set[str]]) -> Iterator[str]:
    for name, given in CALL.findall(text):
        if name not in arguments and name not in OF_PLPYTHON:
            yield f"machserial.{name}() does not exist: {text}"
        # What format() puts in is not known here, and a % is no end of a name.
        for argument in NAMED.findall(given.replace("%s =>", "")):
            if argument not in arguments.get(name, {argument}):
                yield f"machserial.{name}() has no argument {argument}: {text}"
    for argument in NAMED.findall(CALL.sub("", text)):
        if not any(argument in names for names in arguments.values()):
            yield f"no function has an argument {argument}: {text}"


def test_functions_and_arguments_that_texts_name_exist(connection):
    arguments = arguments_of(connection)
    found = [text for text in advice() if CALL.search(text) or NAMED.search(text)]
    assert len(found) > 100
    assert [fault for text in found for fault in strange_advice(text, arguments)] == []
    for wrong in ("machserial.retire(1)", "machserial.retire_serial(serial_number => 1)", "give no_such => 1"):
        assert list(strange_advice(wrong, arguments)), wrong


def test_commands_that_texts_name_exist():
    told = re.compile(r"(?:[:;] |\bwith |\brun |\bsee |\bor )machserial ([a-z-]+(?: [a-z-]+)?)")
    found = {words for text in advice() for words in told.findall(text)}
    # Not every sentence about machserial is a command.
    found -= {"gives no", "is paused"}
    assert {"resume", "fence", "migrate verify"} < found
    for words in found:
        first, _, second = words.partition(" ")
        command = main.get_command(click.Context(main), first)
        assert command, words
        if second and isinstance(command, click.Group):
            assert command.get_command(click.Context(command), second), words


def test_a_number_that_is_given_twice_is_blamed_on_the_call(connection):
    connection.execute("select machserial.register_part('P', 'T')")
    with refused(connection, "23505") as refusal:
        register(connection, ["ZZ0", "ZZ1", "ZZ1"])
    assert refusal.message == "serial number ZZ1 is given twice"
    assert column(connection, "select serial_number from machserial.serials") == []
    register(connection, ["ZZ1"])
    with refused(connection, "23505") as refusal:
        register(connection, ["ZZ1", "ZZ1"])
    assert refusal.message == "serial number ZZ1 is taken" and "by serial" in refusal.detail


def test_a_hint_fits_what_was_wrong(connection):
    connection.execute("select machserial.register_part('P', 'T')")
    for quantity, hint in ((0, "Give 1 to 1,000,000."), (-1, "Give 1 to 1,000,000."), (1_000_001, "Split")):
        with refused(connection, "22023") as refusal:
            connection.execute("select machserial.generate('P', %s)", (quantity,))
        assert refusal.hint.startswith(hint)
    register(connection, ["A"])
    with refused(connection, "23505") as refusal:
        connection.execute("select machserial.receive_vendor_serial('A', 'V', 'P')")
    assert "on_conflict" not in refusal.hint and "receive_vendor_serials" in refusal.hint
