"""What a serial number may be: one rule, the same for every way in and for all that is on record."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator

import psycopg
import pytest
from conftest import install
from servers import Server
from support import call, column, generated, make_format, make_part, refused, register, value, violated

UNICODE = "update machserial.settings set value = 'UNICODE' where name = 'serial_characters'"
ASCII = "update machserial.settings set value = 'ascii' where name = 'serial_characters'"

# What cannot be a serial number under either setting, the character that is to blame, and its place.
NEVER = {
    "A\tB": ("U+0009 (TAB)", 2),
    "A\nB": ("U+000A (LINE FEED)", 2),
    "A\x1dB": ("U+001D (GROUP SEPARATOR)", 2),
    "A\x7f-": ("U+007F (DELETE)", 2),
    "A  B": ("U+0020 (SPACE)", 3),
    "A\u00a0B": ("U+00A0 (NO-BREAK SPACE)", 2),
    "\u200bA": ("U+200B (ZERO WIDTH SPACE)", 1),
    "AB\u2060": ("U+2060 (WORD JOINER)", 3),
    "\ufeffA": ("U+FEFF (BYTE ORDER MARK)", 1),
    "A\u00adB": ("U+00AD (SOFT HYPHEN)", 2),
    "A\u202eB": ("U+202E", 2),
    "A\u3000B": ("U+3000 (IDEOGRAPHIC SPACE)", 2),
    "A\ufe0f": ("U+FE0F", 2),
    "A\ufffd": ("U+FFFD (REPLACEMENT CHARACTER)", 2),
    "A\U000e0041": ("U+E0041", 2),
}
# What can under UNICODE only.
LETTERS = {
    "SÉRIE-1": ("U+00C9 (É)", 2),
    "\u0410BC": ("U+0410 (\u0410)", 1),
    "漢字 🔩": ("U+6F22 (漢)", 1),
    "\uff33\uff2e": ("U+FF33 (\uff33)", 1),
}
GOOD = ["A", "A B", "~!@#$%^&*()", "'\"\\", "x" * 255, "A B C-1"]
# What is not seen, or is no character, though its category is another than those that are refused as a whole.
UNSEEN = {
    0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x2065, 0x2800, 0x3164, *range(0xFE00, 0xFE10),
    0xFFA0, *range(0xFFF0, 0x10000), *range(0xFDD0, 0xFDF0),
    *(plane << 16 | low for plane in range(17) for low in (0xFFFE, 0xFFFF)), *range(0x40000, 0x110000),
}  # fmt: skip


@pytest.fixture
def plant(connection: psycopg.Connection) -> psycopg.Connection:
    make_part(connection)
    make_format(connection, "F", "F{SEQ:6}")
    call(connection, "assign_format", part_id="P", format="F")
    call(connection, "create_trigger", part_id="P", trigger_type="MATERIAL_RECEIPT", assignment_type="VENDOR")
    return connection


def verbs_that_store(plant: psycopg.Connection) -> dict[str, Callable[[str], list[str]]]:
    """What takes a number from people and puts it on record: each tells what it has stored."""
    place = {"part_id": "P", "vendor_name": "V"}

    def assign(number: str) -> list[str]:
        (placeholder,) = call(plant, "create_placeholders", part_id="P")
        (assigned,) = call(plant, "assign_placeholder", placeholder_id=placeholder.id, serial_number=number)
        return column(plant, "select serial_number from machserial.serials where id = %s", assigned.serial_id)

    def register_one(number: str) -> list[str]:
        (registered,) = call(plant, "register_serial", serial_number=number, part_id="P")
        return column(plant, "select serial_number from machserial.serials where id = %s", registered.serial_id)

    def receive_many(number: str) -> list[str]:
        (answer,) = call(plant, "receive_vendor_serials", serial_numbers=[number], **place)
        if answer.status == "REFUSED":
            raise psycopg.errors.InvalidParameterValue(answer.errors[0])
        return [answer.serial_number]

    def fire(number: str) -> list[str]:
        context = {"vendor_name": "V", "serial_number": number}
        return [row.serial_number for row in call(plant, "fire", trigger_type="MATERIAL_RECEIPT", part_id="P",
                                                  context=context)]  # fmt: skip

    return {
        "register_serial": register_one,
        "register_serials": lambda number: [row.serial_number for row in register(plant, [number])],
        "assign_placeholder": assign,
        "receive_vendor_serial": lambda number: [
            row.serial_number for row in call(plant, "receive_vendor_serial", serial_number=number, **place)
        ],
        "receive_vendor_serials": receive_many,
        "fire": fire,
    }


def rows_that_store(plant: psycopg.Connection) -> dict[str, Callable[[str], object]]:
    """Writing to the tables directly."""

    def copy(number: str) -> None:
        with plant.cursor().copy("copy machserial.serials (serial_number, part_id) from stdin") as rows:
            rows.write_row((number, "P"))

    return {
        "insert": lambda number: plant.execute(
            "insert into machserial.serials (serial_number, part_id) values (%s, 'P')", (number,)
        ),
        "copy": copy,
        "vendor_serials": lambda number: plant.execute(
            "insert into machserial.vendor_serials (serial_number, part_id, vendor_name) values (%s, 'P', 'V')",
            (number,),
        ),
        "serial_conflicts": lambda number: plant.execute(
            "insert into machserial.serial_conflicts (serial_number, part_id, site_id, scopes, source, "
            "conflicting_serial_ids, conflicting_scopes) values (%s, 'P', 'DEFAULT', '{SITE}', 'MANUAL', '{}', '{}')",
            (number,),
        ),
    }


def tried(plant: psycopg.Connection, store: Callable[[str], object], number: str) -> object:
    """What it stores, undone afterwards; or how it is refused."""
    try:
        with plant.transaction(force_rollback=True):
            return store(number)
    except psycopg.Error as error:
        return error


# The rule


def test_the_rule_for_every_character_there_is(connection):
    """Each in the middle of a number, against the Unicode of Python, which may be an older one than the server's."""
    rows = connection.execute(
        "select code, machserial._is_serial_number('A' || chr(code) || 'Z', 'ASCII'), "
        "machserial._is_serial_number('A' || chr(code) || 'Z', 'UNICODE') "
        "from generate_series(1, 1114111) as code where code not between 55296 and 57343"
    ).fetchall()
    assert {code for code, ascii, _ in rows if ascii} == set(range(0x20, 0x7F))
    for code, _, unicode in rows:
        character = chr(code)
        is_refused = unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp", "Co") and character != " "
        is_one = not is_refused and code not in UNSEEN and unicodedata.is_normalized("NFC", f"A{character}Z")
        # What Python does not know yet the server may know better.
        if unicodedata.category(character) != "Cn" or not is_one:
            assert unicode is is_one, f"U+{code:04X}"


def test_where_blanks_may_stand_and_how_long_a_number_may_be(connection):
    def is_one(number: str | None) -> list[bool]:
        return [
            value(connection, "select machserial._is_serial_number(%s, %s)", number, characters)
            for characters in ("ASCII", "UNICODE")
        ]

    assert [number for number in GOOD if is_one(number) != [True, True]] == []
    for wrong in ("", " ", " A", "A ", "A  B", "x" * 256, "A\n", "\nA"):
        assert is_one(wrong) == [False, False], wrong
    assert is_one("é" * 255) == [False, True]
    assert is_one("é" * 256) == [False, False]
    assert is_one("é é") == [False, True]
    assert is_one("é  é") == is_one(" é") == is_one("é ") == [False, False]
    # The same letter composed and in two pieces.
    assert is_one("\u00c9") == [False, True]
    assert is_one("E\u0301") == is_one("\u212b") == [False, False]


@pytest.mark.parametrize("characters", ["ASCII", "UNICODE"])
def test_no_way_in_stores_what_another_refuses(plant, characters):
    plant.execute(UNICODE if characters == "UNICODE" else ASCII)
    ways = verbs_that_store(plant)
    tables = rows_that_store(plant)
    wrong = NEVER if characters == "UNICODE" else {**NEVER, **LETTERS}
    good = [*GOOD, *LETTERS] if characters == "UNICODE" else GOOD
    for number, (shown, place) in wrong.items():
        for name, store in ways.items():
            # What stands around a number is not of the number.
            error = tried(plant, store, f" {number}\r\n")
            assert getattr(error, "sqlstate", None) == "22023", (name, number, error)
            told = str(error) if name == "receive_vendor_serials" else error.diag.message_detail
            assert f"position {place} has {shown}" in told.lower().replace(shown.lower(), shown), (name, told)
        for name, store in tables.items():
            error = tried(plant, store, number)
            assert getattr(error, "sqlstate", None) == "23514", (name, number, error)
            assert f"Position {place} has {shown}" in error.diag.message_detail, (name, error)
            assert error.diag.message_hint and error.diag.constraint_name.endswith("_serial_number_is_one")
    for number in good:
        for name, store in ways.items():
            assert tried(plant, store, f"\t {number} \n") == [number], (name, number)
        for name, store in tables.items():
            assert not isinstance(tried(plant, store, number), psycopg.Error), (name, number)


def test_the_table_does_not_trim(plant):
    for name in ("insert", "copy", "serial_conflicts"):
        assert tried(plant, rows_that_store(plant)[name], "A ").sqlstate == "23514"


def test_the_first_of_several_that_cannot_be_one_is_named(plant):
    with refused(plant, "22023") as refusal:
        register(plant, ["A", " B ", "C\u200bC", "D\tD"])
    assert refusal.message == "'C\u200bC' cannot be a serial number"
    assert refusal.detail == "It is number 3 of those given; position 2 has U+200B (ZERO WIDTH SPACE)."
    with refused(plant, "22023") as refusal:
        register(plant, ["A", None])
    assert refusal.detail == "It is number 2 of those given; it is null."
    with refused(plant, "22023") as refusal:
        register(plant, ["É"])
    assert "serial_characters" in refusal.hint
    plant.execute(refusal.hint.split(": ", 1)[1])
    assert [row.serial_number for row in register(plant, ["É"])] == ["É"]


def test_a_text_that_is_not_composed_is_refused_and_the_place_is_told(plant):
    plant.execute(UNICODE)
    with refused(plant, "22023") as refusal:
        register(plant, ["SE\u0301RIE"])
    assert refusal.detail.startswith("Position 2 has U+0045 (E): in normal form (NFC) there is another")


def test_verbs_that_ask_for_a_number_trim_it(plant):
    (serial,) = register(plant, ["A-1"])
    asked = " \tA-1\r\n"
    assert [row.id for row in call(plant, "find_serial", serial_number=asked)] == [serial.serial_id]
    assert call(plant, "check_uniqueness", serial_number=asked, part_id="P")[0].conflicting_serial_ids == [
        serial.serial_id
    ]
    assert [row.serial_number for row in call(plant, "uniqueness_report", serial_number=asked, part_id="P")] == ["A-1"]
    claims = call(plant, "claims_of", serial_numbers=[asked, " B "], part_id="P")
    assert [row.serial_number for row in claims] == ["A-1"]
    assert call(plant, "validate_serial", serial_number=asked, pattern="A-{SEQ:1}")[0].is_valid
    register(plant, [asked], on_conflict="RECORD")
    resolved = call(plant, "resolve_conflict", serial_number=asked, part_id="P", resolution="KEEP",
                    keep_serial_id=serial.serial_id, reason="a test")  # fmt: skip
    assert [row.serial_number for row in resolved] == ["A-1"]
    (block,) = call(plant, "allocate_block", format="F", quantity=1, holder="H")
    reported = call(plant, "report_block", block_id=block.block_id, used=["F000001\n", " F000001"])
    assert [row.serial_number for row in reported] == ["F000001"]
    call(plant, "fence", format="F", highest=" F000009\n", reason="a test")
    assert generated(plant) == ["F000010"]


def test_what_cannot_be_a_number_is_not_free(plant):
    for number, (shown, _) in {**NEVER, **LETTERS}.items():
        with refused(plant, "22023") as refusal:
            call(plant, "check_uniqueness", serial_number=number, part_id="P")
        assert shown in refusal.detail
        (verdict,) = call(plant, "validate_serial", serial_number=number, pattern="{LOT}")
        assert not verdict.is_valid and shown in verdict.errors[0]
        assert call(plant, "find_serial", serial_number=number) == []


def test_near_matches_of_letters_beyond_ascii(plant):
    plant.execute(UNICODE)
    register(plant, ["S\u00c9RIE 1"])
    assert call(plant, "check_uniqueness", serial_number="s\u00c9r1e-I", part_id="P")[0].near_matches == [
        "S\u00c9RIE 1"
    ]


# Patterns and what is put into them

UNWRITABLE = {
    " A{SEQ:4}": 1,
    "A{SEQ:4} ": 9,
    "A  B{SEQ:4}": 3,
    "A {PREFIX: B}{SEQ:4}": 11,
    "{SEQ:4}{PREFIX:x }": 17,
    "A\t{SEQ:4}": 2,
    "{{A}} \u200b{SEQ:4}": 7,
}
UNWRITABLE_IN_ASCII = {"\u00c9{SEQ:4}": 1, "{SEQ:4}{PREFIX:a\u0410}": 17}


def ways_to_make_a_format(plant: psycopg.Connection) -> list[Callable[[str], object]]:
    return [
        lambda pattern: make_format(plant, "new", pattern),
        lambda pattern: call(plant, "revise_format", name="F", pattern=pattern),
        lambda pattern: generated(plant, pattern=pattern),
        lambda pattern: call(plant, "preview", pattern=pattern),
        lambda pattern: call(plant, "parse_pattern", pattern=pattern),
        lambda pattern: call(plant, "set_vendor_rule", vendor_name="V", pattern=pattern),
        lambda pattern: plant.execute(
            "insert into machserial.serial_formats (name, pattern) values ('direct', %s)", (pattern,)
        ),
    ]


@pytest.mark.parametrize("characters", ["ASCII", "UNICODE"])
def test_a_pattern_that_could_write_no_serial_number_is_refused(plant, characters):
    plant.execute(UNICODE if characters == "UNICODE" else ASCII)
    wrong = UNWRITABLE if characters == "UNICODE" else {**UNWRITABLE, **UNWRITABLE_IN_ASCII}
    for pattern, place in wrong.items():
        for make in ways_to_make_a_format(plant):
            with refused(plant, "22023") as refusal:
                make(pattern)
            assert refusal.detail == f"At character position {place}.", pattern
        (verdict,) = call(plant, "validate_pattern", pattern=pattern)
        assert not verdict.is_valid and verdict.errors[0].startswith(f"position {place}: ")
    for pattern in ("A B{SEQ:4}", "{LOT} {SEQ:4}", "A{PREFIX: B}{SEQ:4}", "{SEQ:4}"):
        for make in ways_to_make_a_format(plant)[4:5]:
            make(pattern)


def test_a_pattern_with_an_accent_of_its_own_for_a_letter_that_varies_is_refused(plant):
    plant.execute(UNICODE)
    for pattern in ("{RANDOM:alpha:3}\u0301", "\u00c9{SEQ:3:hex}\u0301"):
        with refused(plant, "22023"):
            make_format(plant, "new", pattern)
    # No digit has a form with this accent.
    make_format(plant, "new", "{SEQ:3}\u0301")
    assert generated(plant, format="new", quantity=3) == ["001\u0301", "002\u0301", "003\u0301"]


@pytest.mark.parametrize(
    ("pattern", "key", "wrong"),
    [
        ("{LOT}-{SEQ:4}", "lot_number", " L1"),
        ("{SEQ:4}{LOT}", "lot_number", "L1 "),
        ("A {WO}{SEQ:4}", "work_order_id", " W"),
        ("{CTX:line}{SEQ:4}", "line", "L\u200b1"),
        ("{CTX:line}{RANDOM:8}", "line", "\u00c9"),
        ("{CTX:line}{SEQ:4}{CHECK:luhn}", "line", "a\tb"),
    ],
)
def test_a_context_that_would_make_no_serial_number_is_refused(plant, pattern, key, wrong):
    make_format(plant, "new", pattern, allocation="GAPLESS" if "SEQ" in pattern else "SEQUENCE")
    good = {key: "L1"}
    (first,) = generated(plant, format="new", context=good)
    given = {"format": "new", "context": {key: wrong}}
    for quantity in (1, 3):
        with refused(plant, "22023") as refusal:
            generated(plant, quantity=quantity, **given)
        assert "osition" in refusal.detail
    with refused(plant, "22023"):
        call(plant, "preview", pattern=pattern, context={key: wrong})
    # Where what is given ends up within the number, a blank is as good as any character.
    (second,) = generated(plant, format="new", context={key: "L 1"})
    assert second.replace(" ", "")[:-1].startswith(first[:1].strip())
    call(plant, "create_trigger", part_id="P", trigger_type="QUALITY_CHECKPOINT", assignment_type="SYSTEM_GENERATED",
         format="new")  # fmt: skip
    with refused(plant, "22023"):
        call(plant, "fire", trigger_type="QUALITY_CHECKPOINT", part_id="P", context={key: wrong})


def test_a_site_or_part_whose_id_cannot_stand_in_a_number_is_refused(plant):
    for site in (" B", "B\u200b", "\u00c9"):
        call(plant, "register_site", site_id=site)
    make_part(plant, "Q ")
    make_format(plant, "site", "{SITE}-{SEQ:4}", counter_per="SITE")
    make_format(plant, "part", "{SEQ:4}-{PART}")
    for site in (" B", "B\u200b", "\u00c9"):
        for quantity in (1, 1, 200):
            with refused(plant, "22023"):
                generated(plant, format="site", site_id=site, quantity=quantity)
        with refused(plant, "22023"):
            call(plant, "allocate_block", format="site", quantity=2, holder="H", site_id=site)
    for _ in range(2):
        with refused(plant, "22023"):
            generated(plant, "Q ", format="part")
    assert generated(plant, format="site", quantity=2) == ["DEFAULT-0001", "DEFAULT-0002"]
    plant.execute(UNICODE)
    assert generated(plant, format="site", site_id="\u00c9")[0].startswith("\u00c9-")
    # The plan of a site that was sound a moment ago does not get by what is asked for now.
    plant.execute(ASCII)
    with refused(plant, "22023"):
        generated(plant, format="site", site_id="\u00c9")


# The setting


def test_integrity_names_what_breaks_the_rule(plant):
    plant.execute(UNICODE)
    register(plant, ["\u00c9", "A"])
    findings = call(plant, "integrity")
    assert findings == []
    plant.execute(ASCII)
    (finding,) = call(plant, "integrity")
    assert (finding.name, finding.severity) == ("serial_number", "WARNING")
    assert "U+00C9" in finding.message
    plant.execute(finding.remedy.rsplit(": ", 1)[1])
    assert call(plant, "integrity") == []
    # A row of another setting can still be worked with.
    plant.execute(ASCII)
    (serial,) = call(plant, "find_serial", serial_number="\u00c9")
    call(plant, "retire_serial", serial_id=serial.id, reason="a test")


@pytest.fixture(params=["LATIN1", "LATIN9", "SQL_ASCII", "EUC_JP"])
def other_encoding(request: pytest.FixtureRequest, server: Server) -> Iterator[psycopg.Connection]:
    server.execute(f"create database other template template0 encoding {request.param}")
    with psycopg.connect(server.dsn("other"), client_encoding="UTF8") as connection:
        install(connection, "plain")
        make_part(connection)
        yield connection
    server.execute("drop database other with (force)")


def test_a_database_of_another_encoding_has_ascii_only(other_encoding):
    encoding = value(other_encoding, "select getdatabaseencoding()")
    with refused(other_encoding, "22023") as refusal:
        other_encoding.execute(UNICODE)
    assert encoding in refusal.detail
    number, shown = {
        "LATIN1": ("\u00e9", "U+00E9 (\u00e9)"),
        "LATIN9": ("\u20ac", "U+20AC (\u20ac)"),
        "EUC_JP": ("\u6f22", "U+6F22 (\u6f22)"),
        "SQL_ASCII": ("\u00e9", "the byte 0xC3"),
    }[encoding]
    for store in (verbs_that_store(other_encoding)["register_serial"], rows_that_store(other_encoding)["insert"]):
        assert f"has {shown}" in tried(other_encoding, store, f"A{number}").diag.message_detail
    with violated(other_encoding, "22023"):
        make_format(other_encoding, "F", f"{number}{{SEQ:4}}")
    assert [row.serial_number for row in register(other_encoding, ["A 1"])] == ["A 1"]
    # Restored from a database of another encoding, say.
    other_encoding.execute("alter table machserial.settings disable trigger settings_are_examined")
    other_encoding.execute(UNICODE)
    assert tried(other_encoding, rows_that_store(other_encoding)["insert"], f"A{number}").sqlstate == "23514"
