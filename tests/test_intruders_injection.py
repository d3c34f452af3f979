"""Texts that become code, or could: patterns compile into functions, conditions are JSONPath, rules are regular
expressions,
names of tables and columns go into triggers. Whatever is in them is a text, or is refused."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from conftest import install
from psycopg import sql
from support import HOSTILE, allow_unicode, call, column, generated, make_format, make_part, preview, value

# Long, and nothing in it depends on how machserial was installed.
ONE_MODE = True

# Each ends a literal, a block, a function or a statement somewhere, and would then create the role "injected".
BREAKING_OUT = [
    *HOSTILE,
    "'||(select machserial_injected())||'",
    "'); create role injected; --",
    "\\'); create role injected; --",
    "E'\\\\'); create role injected; --",
    "$$; create role injected; --",
    "$source$; create role injected; --",
    "'; end $$; create role injected; --",
    "%I%L%s%1$I%%",
    "'/**/||/**/version()||'",
    "U&'\\0027",
    "\\x27||version()||\\x27",
    "\t\r\n\v\f",
    "\u2028\u202e\u200b\ufeff",
    "ＳＥＱ；'＇",
    "' collate \"C\" || current_user || '",
    "]]]})(*&^%$#@!~`",
    "a" * 200,
]


# What a session that reads backslashes otherwise could read otherwise.
WITH_BACKSLASHES = [text for text in BREAKING_OUT if "\\" in text or "'" in text]


@pytest.fixture(scope="module")
def shared(server, mode) -> Iterator[psycopg.Connection]:
    server.execute("create database injected")
    with psycopg.connect(server.dsn("injected"), autocommit=True) as connection:
        with connection.transaction():
            install(connection, mode)
        make_part(connection, scopes=["ENTERPRISE"])
        yield connection
    server.execute("drop database injected")


@pytest.fixture(params=["on", "off"], ids=["conforming", "not conforming"])
def connection(shared: psycopg.Connection, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    """In a transaction that is rolled back; the session reads backslashes in literals, or does not."""
    with shared.transaction(force_rollback=True):
        shared.execute("select set_config('standard_conforming_strings', %s, true)", (request.param,))
        shared.execute("set local escape_string_warning = off")
        allow_unicode(shared)
        yield shared
        assert column(shared, "select rolname from pg_roles where rolname = 'injected'") == []


def texts(connection: psycopg.Connection) -> list[str]:
    """All of them in the usual session; of those that another could read otherwise every third."""
    is_usual = value(connection, "show standard_conforming_strings") == "on"
    return BREAKING_OUT if is_usual else WITH_BACKSLASHES[::3]


def in_pattern(text: str) -> str:
    """text as a literal in a pattern, or as an argument."""
    return text.replace("{", "{{").replace("}", "}}")


def in_argument(text: str) -> str:
    """What of a text an argument of a token can hold."""
    return "".join(character for character in text if character not in "{}") or "x"


def test_literals_and_prefixes(connection: psycopg.Connection) -> None:
    """He wants the renderer's source to end where his text begins: it is made and called as the owner."""
    for number, text in enumerate(texts(connection)[::2]):
        pattern = f"{in_pattern(text)}{{PREFIX:{in_argument(text)}}}{{SEQ:3}}"
        expected = f"{text}{in_argument(text)}"
        if call(connection, "validate_pattern", pattern=pattern)[0].is_valid and len(expected) < 250:
            make_format(connection, f"format {number}", pattern)
            # The number stands as it was written, and as the preview says, which is made by other code.
            assert (
                generated(connection, format=f"format {number}") == [f"{expected}001"] == preview(connection, pattern)
            )
            make_format(connection, f"upper {number}", pattern, letter_case="UPPER")
            made = generated(connection, format=f"upper {number}", quantity=2)
            assert made[0].endswith(("001", "002")) and len(made) == 2
        else:
            with pytest.raises(psycopg.Error) as raised, connection.transaction():
                make_format(connection, f"format {number}", pattern)
                generated(connection, format=f"format {number}")
            assert raised.value.sqlstate == "22023", pattern


def test_keys_and_values_of_the_context(connection: psycopg.Connection) -> None:
    """He wants the key of {CTX:...}, or what the call brings along, to be read as code."""
    for number, text in enumerate(texts(connection)[::2]):
        key = in_argument(text)
        pattern = f"{{CTX:{key}}}/{{WO}}/{{LOT}}/{{SITE}}/{{SEQ:3}}"
        if not call(connection, "validate_pattern", pattern=pattern)[0].is_valid:
            continue
        make_format(connection, f"context {number}", pattern)
        context = {key: text, "work_order_id": text, "lot_number": text}
        expected = f"{text}/{text}/{text}/DEFAULT/001"
        if not value(connection, "select machserial._is_serial_number(%s, 'UNICODE')", expected):
            with pytest.raises(psycopg.errors.InvalidParameterValue), connection.transaction():
                generated(connection, format=f"context {number}", context=context)
            continue
        assert generated(connection, format=f"context {number}", context=context) == [expected]
        kept = connection.execute(
            "select work_order_id, lot_number, context from machserial.serials where context ? %s and format_id = "
            "(select max(id) from machserial.serial_formats)", (key,),
        ).fetchall()  # fmt: skip
        assert (text, text, {key: text}) in kept


def test_names_of_everything(connection: psycopg.Connection) -> None:
    """He wants a name to be read as code: of parts and sites (which key counters), formats, requests, holders,
    vendors."""
    for text in texts(connection)[::5]:
        make_part(connection, text, text, name=text, scopes=["SITE"])
        call(connection, "register_site", site_id=text, name=text)
        make_format(connection, text, "{SEQ:5}", description=text, counter_per="SITE_PART")
        call(connection, "assign_format", part_id=text, format=text)
        arguments = {"part_id": text, "site_id": text, "request_id": text}
        assert generated(connection, **arguments) == generated(connection, **arguments) == ["00001"]
        block = call(connection, "allocate_block", format=text, quantity=1, holder=text, part_id=text, site_id=text)[0]
        assert [row[0] for row in call(connection, "block_serials", block_id=block.block_id)] == ["00002"]
        assert call(connection, "counter_status", format=text)[0].counter_key
        call(connection, "revise_format", name=text, description=text)
        assert call(connection, "audit_trail", part_id=text, performed_by=text, event_type=text) == []
        assert call(connection, "audit_trail", part_id=text)
    assert call(connection, "integrity") == []


def test_conditions(connection: psycopg.Connection) -> None:
    """He wants a condition of a trigger to be run as SQL, or to read what is not in the context."""
    for text in texts(connection):
        for conditions in ({"key": text}, {text: {"key": text}}):
            made = call(
                connection, "create_trigger", part_id="P", trigger_type="QUALITY_CHECKPOINT",
                assignment_type="LATE_ASSIGNMENT", conditions=conditions,
            )[0]  # fmt: skip
            assert (
                len(call(connection, "fire", trigger_type="QUALITY_CHECKPOINT", part_id="P", context=conditions)) == 1
            )
            call(connection, "explain_triggers", trigger_type="QUALITY_CHECKPOINT", part_id="P", context={text: text})
            call(connection, "delete_trigger", trigger_id=made.id)
        # As a JSONPath it is one, or it is refused.
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(
                    "select machserial.create_trigger('P', 'QUALITY_CHECKPOINT', 'LATE_ASSIGNMENT', conditions => "
                    "to_jsonb(%s::text))",
                    (text,),
                )
        except psycopg.Error as error:
            assert error.sqlstate == "22023", (text, error)


def test_rules_of_vendors(connection: psycopg.Connection) -> None:
    """He wants a regular expression, a pattern or a vendor's name to be run as SQL, or to run for ever."""
    for text in texts(connection):
        call(connection, "set_vendor_rule", vendor_name=text or "V", min_length=1)
        for rule in ({"regex": text}, {"pattern": text}, {"stdnum_kind": text}, {"check_algorithm": text}):
            try:
                with connection.transaction():
                    call(connection, "set_vendor_rule", vendor_name="V", **rule)
                    call(connection, "receive_vendor_serial", serial_number="X-1", vendor_name="V", part_id="P")
            except psycopg.Error as error:
                assert error.sqlstate in ("22023", "0A000", "23505"), (rule, error)


def test_tables_and_columns(connection: psycopg.Connection) -> None:
    """He wants the name of a table or of a column to be run in the trigger that attach() makes."""
    call(
        connection, "create_trigger", part_id="P", trigger_type="WORK_ORDER_CREATE", assignment_type="SYSTEM_GENERATED",
    )  # fmt: skip
    make_format(connection, "attached", "T{SEQ:6}")
    call(connection, "assign_format", part_id="P", format="attached")
    for text in texts(connection):
        name = text.encode()[:60].decode(errors="ignore")
        columns = [sql.Identifier(f"{letter}{name}"[:40]) for letter in "kpqcs"]
        _key, part, quantity, context, serials = (identifier._obj[0] for identifier in columns)
        table = sql.Identifier("public", name)
        connection.execute(
            sql.SQL("create table {} ({} text primary key, {} text, {} integer, {} text, {} text[])").format(
                table, *columns
            )
        )
        relation = value(connection, "select %s::regclass::text", table.as_string(connection))
        call(
            connection, "attach", relation=relation, trigger_type="WORK_ORDER_CREATE", part_column=part,
            quantity_column=quantity, context_columns=[f"{text}={context}", context], serial_column=serials,
        )  # fmt: skip
        connection.execute(
            sql.SQL("insert into {} ({}, {}, {}, {}) values ({}, 'P', 2, {})").format(
                table, *columns[:4], sql.Literal(text), sql.Literal(text)
            )
        )
        numbers = value(connection, sql.SQL("select {} from {}").format(columns[4], table))
        assert len(numbers) == 2 and numbers[0].startswith("T")
        assert column(
            connection, "select context ->> %s from machserial.serials where serial_number = %s", context, numbers[0]
        ) == [text]
        call(connection, "detach", relation=relation, trigger_type="WORK_ORDER_CREATE")
        connection.execute(sql.SQL("drop table {}").format(table))


def test_a_renderer_that_does_not_quote_would_be_noticed(shared: psycopg.Connection) -> None:
    """Negative control: the same texts, with the function that quotes them weakened to one that does not."""
    with shared.transaction(force_rollback=True):
        source = value(shared, "select pg_get_functiondef(oid) from pg_proc where proname = '_constant_expression'")
        weakened = source.replace("expression := quote_literal(argument);", "expression := '''' || argument || '''';")
        assert weakened != source
        shared.execute(weakened)
        make_format(shared, "weak", "'||current_user||'{SEQ:3}")
        assert generated(shared, format="weak") == ["postgres001"]
