"""Settings of the database: what they may be, and that each of them does something."""

from __future__ import annotations

from itertools import pairwise

import pytest
from command import REFUSED, Command
from support import call, make_format, make_part, refused, register, value


def set_to(connection, name: str, text: str) -> None:
    connection.execute(
        "insert into machserial.settings values (%s, %s, 'For a test.') "
        "on conflict (name) do update set value = excluded.value",
        (name, text),
    )


def test_the_standard(connection):
    settings = dict(connection.execute("select name, value from machserial.settings").fetchall())
    assert settings.items() >= {
        "audit_retention_days": "2555", "batch_size": "100", "propagation_depth_limit": "50"
    }.items()  # fmt: skip
    assert value(connection, "select count(*) from machserial.settings where description = ''") == 0
    known = dict(connection.execute("select name, standard from machserial._known_settings()").fetchall())
    assert known == settings


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *((name, text) for name in ("audit_retention_days", "batch_size", "uniqueness_cache_ttl")
          for text in ("0", "-1", "1.5", "", "many", "9" * 30)),
        ("batch_size", "100001"),
        ("propagation_depth_limit", "0"),
    ],
)  # fmt: skip
def test_what_a_setting_cannot_be(connection, name, wrong):
    with refused(connection, "22023") as refusal:
        set_to(connection, name, wrong)
    assert name in refusal.message and "whole number" in refusal.detail
    set_to(connection, name, "77")
    assert value(connection, "select machserial._setting(%s)", name) == "77"


def test_a_setting_that_is_a_word_is_one_of_its_words(connection):
    for text, kept in (("unicode", "UNICODE"), ("ascii", "ASCII")):
        set_to(connection, "serial_characters", text)
        assert value(connection, "select value from machserial.settings where name = 'serial_characters'") == kept
    for wrong in ("", "UTF8", "1", "\u0131"):
        with refused(connection, "22023") as refusal:
            set_to(connection, "serial_characters", wrong)
        assert "ASCII, UNICODE" in refusal.detail


def test_an_unknown_setting_is_refused(connection):
    for statement in (
        "insert into machserial.settings values ('serial_character', 'ASCII', 'x')",
        "update machserial.settings set name = 'serial_character' where name = 'serial_characters'",
    ):
        with refused(connection, "22023") as refusal:
            connection.execute(statement)
        assert "serial_character" in refusal.message and "batch_size" in refusal.detail
        assert "serial_characters" in refusal.hint


def test_the_command_lists_every_setting_and_refuses_what_one_cannot_be(deployed_dsn):
    command = Command(deployed_dsn)
    listed = {row["name"]: row for row in command.answer("settings", "list")}
    known = command.query("select name, standard from machserial._known_settings()")
    assert {name: row["standard"] for name, row in listed.items()} == dict(known)
    assert all(row["value"] == row["standard"] and row["description"] for row in listed.values())
    assert command.answer("settings", "set", "serial_characters", "unicode")["value"] == "UNICODE"
    assert "UTF8" in command.refusal(REFUSED, "settings", "set", "serial_characters", "UTF8")
    assert "no setting" in command.refusal(REFUSED, "settings", "set", "serial_character", "ASCII")


def test_a_setting_that_is_not_there_has_its_standard(connection):
    connection.execute("delete from machserial.settings")
    assert value(connection, "select machserial._setting('batch_size')") == "100"
    with refused(connection, "22023"):
        connection.execute("insert into machserial.settings values ('batch_size', 'x', 'y')")


def test_how_deep_a_lineage_is_followed_unless_it_is_told(connection):
    make_part(connection, "P")
    ids = [row.serial_id for row in register(connection, [f"N{n}" for n in range(60)])]
    for parent, child in pairwise(ids):
        call(connection, "merge", source_serial_ids=[parent], target_serial_id=child, operation_code="O",
             routing_sequence=1)  # fmt: skip
    assert len(call(connection, "lineage", serial_id=ids[0])) == 51
    assert len(call(connection, "lineage", serial_id=ids[0], max_depth=59)) == 60
    set_to(connection, "propagation_depth_limit", "7")
    assert len(call(connection, "lineage", serial_id=ids[0])) == 8
    assert len(call(connection, "lineage", serial_id=ids[0], max_depth=59)) == 60


def test_how_many_numbers_a_receipt_sends_in_one_call(deployed_dsn):
    command = Command(deployed_dsn)
    command.query("select machserial.register_part('P', 'T')")
    command.query("update machserial.settings set value = '7' where name = 'batch_size'")
    # One statement inserts what came in one call.
    command.query("create table calls (size bigint)")
    command.query(
        "create function note() returns trigger language plpgsql as "
        "'begin insert into public.calls select count(*) from arrived; return null; end'"
    )
    command.query(
        "create trigger zz_note after insert on machserial.vendor_serials referencing new table as arrived "
        "for each statement execute function note()"
    )
    numbers = [f"N{n}" for n in range(20)]
    command.answer("vendor", "receive", *numbers, "--vendor", "V", "--part", "P")
    assert command.query("select size from calls order by size desc") == [(7,), (7,), (6,)]


def notices(connection, statement: str) -> list[str]:
    said = []

    def note(diag) -> None:
        said.append(f"{diag.message_primary} / {diag.message_detail}")

    connection.add_notice_handler(note)
    connection.execute(statement)
    connection.remove_notice_handler(note)
    return said


def test_generation_says_what_it_chooses_while_debug_is_on(connection):
    call(connection, "register_site", site_id="BER")
    make_part(connection, "P")
    make_format(connection, "F", "A-{SITE}{{{CTX:line}{SEQ:4}{RANDOM:hex:3}{CHECK:luhn}", counter_per="SITE",
                letter_case="UPPER")  # fmt: skip
    call(connection, "assign_format", part_id="P", format="F")
    statement = "select machserial.generate('P', 2, site_id => 'BER', context => '{\"line\": \"l7\"}')"
    assert notices(connection, statement) == []
    connection.execute("set machserial.debug = on")
    (said,) = notices(connection, statement)
    message, detail = said.split(" / ")
    assert message == (
        "part P is numbered by format F, version 1 (assigned to the part or its type): "
        "A-{SITE}{{{CTX:line}{SEQ:4}{RANDOM:hex:3}{CHECK:luhn}"
    )
    number = value(connection, "select serial_number from machserial.serials where sequence_number = 3")
    counter = value(connection, "select id from machserial.counters where site_id = 'BER'")
    assert detail == (
        f"Counter {counter} (site BER) gives 3 to 4. {number}, the first of 2: {{SITE}} = BER, {{CTX:line}} = L7, "
        f"{{SEQ:4}} = 0003, {{RANDOM:hex:3}} = {number[12:15]}, {{CHECK:luhn}} = {number[15]}."
    )
    (said,) = notices(connection, "select machserial.generate('P', pattern => 'R{RANDOM:8}')")
    assert "of the pattern given" in said and "No counter." in said
    register(connection, ["M0001"])
    make_format(connection, "for placeholders", "Q{SEQ:4}")
    make_part(connection, "Q")
    call(connection, "assign_format", part_id="Q", format="for placeholders")
    (placeholder,) = call(connection, "create_placeholders", part_id="Q")
    (said,) = notices(connection, f"select machserial.assign_placeholders(placeholder_ids => '{{{placeholder.id}}}')")
    assert "format for placeholders" in said and "{SEQ:4} = 0001" in said
    said = notices(connection, "select machserial.generate('P', pattern => 'M{SEQ:4}')")
    assert ["Attempt 2" in one for one in said] == [False, True]
    connection.execute("set machserial.debug = off")
    assert notices(connection, statement) == []
    connection.execute("reset machserial.debug")
    assert notices(connection, statement) == []


def test_who_may_only_generate_is_told_as_well(connection):
    make_part(connection, "P")
    make_format(connection, "F", "F{SEQ:4}")
    connection.execute("create role application")
    connection.execute("grant usage on schema machserial to application")
    connection.execute("grant execute on all functions in schema machserial to application")
    connection.execute("grant select on all tables in schema machserial to application")
    connection.execute("grant insert on machserial.serials, machserial.requests to application")
    connection.execute("set role application")
    connection.execute("set machserial.debug = on")
    (said,) = notices(connection, "select machserial.generate('P', format => 'F')")
    assert "asked for by name" in said and "{SEQ:4} = 0001" in said
