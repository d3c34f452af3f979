"""The token language of number patterns: parsing, faults, previews, and judging a number against a pattern."""

from __future__ import annotations

import re
import string
from collections import Counter
from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from support import (
    HOSTILE,
    HOSTILE_NUMBERS,
    allow_unicode,
    call,
    generated,
    make_format,
    make_part,
    preview,
    refused,
    value,
)

# The database is made once a test, and every example cleans up behind itself.
examples = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)

fewer_examples = settings(examples, max_examples=settings().max_examples // 2)

ALPHABETS = {
    "numeric": string.digits,
    "hex": "0123456789ABCDEF",
    "alpha": string.ascii_uppercase,
    "alphanumeric": string.digits + string.ascii_uppercase,
    "safe": "23456789ABCDEFGHJKLMNPQRSTUVWXYZ",
}
SEQ_ALPHABETS = {
    "base36": ALPHABETS["alphanumeric"],
    "hex": ALPHABETS["hex"],
    "alpha": ALPHABETS["alpha"],
    "safe": ALPHABETS["safe"],
}
CONTEXT = {"work_order_id": "WO-77", "lot_number": "L9", "color": "Red"}
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)


def written(number: int, width: int, alphabet: str = string.digits) -> str:
    """number in so many characters of an alphabet: the oracle for {SEQ:n:alphabet}."""
    characters = ""
    for _ in range(width):
        number, digit = divmod(number, len(alphabet))
        characters = alphabet[digit] + characters
    assert number == 0
    return characters


def is_valid(connection, serial_number: str, pattern: str) -> bool:
    verdict = call(connection, "validate_serial", serial_number=serial_number, pattern=pattern)[0]
    assert verdict.is_valid == (verdict.errors == [])
    return verdict.is_valid


def serial_errors(connection, serial_number: str, pattern: str) -> list[str]:
    verdict = call(connection, "validate_serial", serial_number=serial_number, pattern=pattern)[0]
    assert not verdict.is_valid and verdict.errors
    return verdict.errors


# Tokens


@pytest.mark.parametrize("moment", [NOON, datetime(2027, 1, 2, 3, tzinfo=timezone.utc)])
def test_every_token_writes_what_its_name_says(connection, moment):
    iso = moment.isocalendar()
    expected = {
        "{YYYY}": f"{moment.year}",
        "{YY}": f"{moment.year % 100:02}",
        "{MM}": f"{moment.month:02}",
        "{DD}": f"{moment.day:02}",
        "{DDD}": f"{moment.timetuple().tm_yday:03}",
        "{WW}": f"{iso.week:02}",
        "{IYYY}": f"{iso.year}",
        "{SEQ:6}": "000042",
        "{SEQ:4:base36}": "0016",
        "{SEQ:4:hex}": "002A",
        "{SEQ:4:alpha}": "AABQ",
        "{SEQ:4:safe}": "223C",
        "{PREFIX:ab-C}": "ab-C",
        "{SITE}": "BER",
        "{PART}": "part 7",
        "{WO}": "WO-77",
        "{LOT}": "L9",
        "{CTX:color}": "Red",
        "plain text": "plain text",
        "{{": "{",
        "}}": "}",
        "{{{SEQ:2}}}": "{42}",
        "{{SEQ:2}}": "{SEQ:2}",
        "7{CHECK:luhn}": "75",
    }
    call(connection, "register_site", site_id="BER", time_zone="UTC")
    for pattern, text in expected.items():
        arguments = dict(at=moment, site_id="BER", part_id="part 7", context=CONTEXT, start=42)
        assert preview(connection, pattern, **arguments) == [text], pattern


def test_random_tokens_have_the_length_and_the_characters_of_their_type(connection):
    for pattern, kind, length in [
        ("{RANDOM:7}", "alphanumeric", 7),
        ("{RANDOM:numeric}", "numeric", 4),
        ("{RANDOM:alpha}", "alpha", 4),
        ("{RANDOM:alphanumeric}", "alphanumeric", 4),
        ("{RANDOM:hex:3}", "hex", 3),
        ("{RANDOM:safe:12}", "safe", 12),
        ("{RANDOM:numeric:64}", "numeric", 64),
    ]:
        for number in preview(connection, pattern, 50):
            assert len(number) == length and set(number) <= set(ALPHABETS[kind]), pattern


def test_a_uuid_is_a_new_one_each_time(connection):
    numbers = preview(connection, "{UUID}", 100)
    assert len(set(numbers)) == 100
    for number in numbers:
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", number)


def test_two_random_tokens_in_a_pattern_are_drawn_apart(connection):
    for width in (2, 20):
        pattern = f"{{RANDOM:hex:{width}}}-{{RANDOM:hex:{width}}}"
        pairs = [number.split("-") for number in preview(connection, pattern, 50)]
        assert any(left != right for left, right in pairs)
        assert len({left for left, _ in pairs}) > 1 and len({right for _, right in pairs}) > 1


def chi_square_bound(degrees: int, z: float = 6.5) -> float:
    """What chi-square exceeds about once in 10^10 times (Wilson and Hilferty)."""
    return degrees * (1 - 2 / (9 * degrees) + z * (2 / (9 * degrees)) ** 0.5) ** 3


@pytest.mark.parametrize("length", [1, 5, 64])
def test_random_characters_are_spread_evenly_in_every_place(connection, length):
    for kind, alphabet in ALPHABETS.items():
        numbers = preview(connection, f"{{RANDOM:{kind}:{length}}}", 3000)
        for place in {0, length // 2, length - 1}:
            counts = Counter(number[place] for number in numbers)
            expected = len(numbers) / len(alphabet)
            chi_square = sum((counts[character] - expected) ** 2 / expected for character in alphabet)
            assert chi_square < chi_square_bound(len(alphabet) - 1), (kind, length, place, counts)


def test_alphabets_count_in_their_own_digits(connection):
    assert preview(connection, "{SEQ:2:alpha}", 3, start=0) == ["AA", "AB", "AC"]
    assert preview(connection, "{SEQ:2:alpha}") == ["AB"]
    assert preview(connection, "{SEQ:2:alpha}", 2, start=25) == ["AZ", "BA"]
    assert preview(connection, "{SEQ:1:safe}", 2) == ["3", "4"]
    assert preview(connection, "{SEQ:1:base36}", 2, start=9) == ["9", "A"]
    assert preview(connection, "{SEQ:1:base36}") == ["1"]
    for name, alphabet in SEQ_ALPHABETS.items():
        for width, start in [(3, 1), (3, len(alphabet) ** 3 - 2), (9, 10**9), (12, 10**14)]:
            expected = [written(number, width, alphabet) for number in (start, start + 1)]
            assert preview(connection, f"{{SEQ:{width}:{name}}}", 2, start=start) == expected


LAST_VALUES = {
    "{SEQ:1}": 9,
    "{SEQ:3}": 999,
    "{SEQ:18}": 10**18 - 1,
    "{SEQ:2:alpha}": 26**2 - 1,
    "{SEQ:13:alpha}": 26**13 - 1,
    "{SEQ:15:hex}": 16**15 - 1,
    "{SEQ:12:safe}": 32**12 - 1,
    "{SEQ:12:base36}": 36**12 - 1,
    "A{SEQ:2}{CHECK:luhn}": 99,
}


def test_a_sequence_number_that_does_not_fit_is_refused_and_never_written_longer(connection):
    for pattern, last in LAST_VALUES.items():
        fits = preview(connection, pattern, 2, start=last - 1)
        assert len({len(number) for number in fits}) == 1
        for start, quantity in [(last, 2), (last + 1, 1)]:
            with refused(connection, "2200H"):
                preview(connection, pattern, quantity, start=start)


def test_the_largest_start_that_can_be_asked_for_is_refused_like_any_other(connection):
    for pattern in LAST_VALUES:
        for quantity in (1, 5):
            with refused(connection, "2200H"):
                preview(connection, pattern, quantity, start=2**63 - 1)


def test_preview_refuses_what_makes_no_sense(connection):
    for arguments in [
        {"quantity": 0},
        {"quantity": -1},
        {"quantity": None},
        {"quantity": 1_000_001},
        {"start": -1},
        {"start": None},
    ]:
        with refused(connection, "22023"):
            preview(connection, "A{SEQ:3}", **arguments)
    with refused(connection, "23503"):
        preview(connection, "A{SEQ:3}", site_id="NOWHERE")


def test_preview_gives_five_numbers_and_consumes_nothing(connection):
    make_part(connection)
    for _ in range(2):
        assert [row[0] for row in call(connection, "preview", pattern="A{SEQ:2}")] == [
            "A01", "A02", "A03", "A04", "A05",
        ]  # fmt: skip
    assert generated(connection, pattern="A{SEQ:2}") == ["A01"]
    assert value(connection, "select count(*) from machserial.serials") == 1


def test_what_a_token_needs_must_be_given(connection):
    for token, name in [
        ("{PART}", "part"),
        ("{WO}", "work_order_id"),
        ("{LOT}", "lot_number"),
        ("{CTX:color}", "color"),
    ]:
        for context in ({}, {"work_order_id": None, "lot_number": None, "color": None}, {name: ""}, None):
            with refused(connection, "22023") as refusal:
                preview(connection, f"A-{token}-{{SEQ:2}}", context=context)
            assert name in refusal.message + refusal.hint
    # A site is always known: null is DEFAULT.
    assert preview(connection, "{SITE}{SEQ:1}") == ["DEFAULT1"]


def test_context_values_need_not_be_texts(connection):
    assert preview(connection, "{CTX:line}/{CTX:hot}", context={"line": 7, "hot": True}) == ["7/true"]


# Dates


def test_dates_are_those_of_the_site_s_time_zone(connection):
    moment = datetime(2026, 12, 31, 11, 30, tzinfo=timezone.utc)
    for zone in ("Pacific/Kiritimati", "Etc/GMT+12", "America/New_York", "Asia/Kolkata"):
        call(connection, "register_site", site_id=zone, time_zone=zone)
        there = moment.astimezone(ZoneInfo(zone))
        assert preview(connection, "{YYYY}-{MM}-{DD}", at=moment, site_id=zone) == [f"{there:%Y-%m-%d}"]
    # An hour later it is next year in Berlin, whatever the session's own zone is.
    call(connection, "register_site", site_id="BER", time_zone="Europe/Berlin")
    connection.execute("set local time zone 'America/Los_Angeles'")
    moment = datetime(2026, 12, 31, 23, 30, tzinfo=timezone.utc)
    assert preview(connection, "{YY}{DDD}", at=moment, site_id="BER") == ["27001"]
    assert preview(connection, "{YY}{DDD}", at=moment) == ["26365"]


def test_iso_weeks_around_new_year(connection):
    for year in range(2018, 2034):
        for day in range(-4, 5):
            moment = datetime(year, 1, 1, 12, tzinfo=timezone.utc) + timedelta(days=day)
            iso = moment.isocalendar()
            assert preview(connection, "{IYYY}W{WW}", at=moment) == [f"{iso.year}W{iso.week:02}"]


@examples
@given(st.dates(date(1970, 1, 1), date(9999, 12, 30)), st.integers(0, 86399))
def test_every_date_token_agrees_with_the_calendar(connection, day, second):
    moment = datetime(day.year, day.month, day.day, tzinfo=timezone.utc) + timedelta(seconds=second)
    iso = moment.isocalendar()
    assert preview(connection, "{YYYY} {YY} {MM} {DD} {DDD} {WW} {IYYY}", at=moment) == [
        f"{day.year} {day.year % 100:02} {day.month:02} {day.day:02} {day.timetuple().tm_yday:03} "
        f"{iso.week:02} {iso.year}"
    ]


# Faults

FAULTS = [
    # pattern, position of the fault, what the hint must offer
    ("", None, ""),
    ("   ", None, ""),
    ("A{", 2, "{{"),
    ("A}", 2, "}}"),
    ("{SEQ:3}}", 8, "}}"),
    ("{{SEQ:3}", 8, "}}"),
    ("A{SEQ:3", 2, "{SEQ:n}"),
    ("{A{SEQ:3}", 1, "{{"),
    ("{}", 1, "{"),
    ("AB{SEQ}", 3, "{SEQ:n}"),
    ("AB{SEQ:}", 3, "{SEQ:n}"),
    ("AB{SEQ:0}", 3, "{SEQ:n}"),
    ("AB{SEQ:-1}", 3, "{SEQ:n}"),
    ("AB{SEQ:1.5}", 3, "{SEQ:n}"),
    ("AB{SEQ:19}", 3, "{SEQ:n}"),
    ("AB{SEQ:16:hex}", 3, "{SEQ:n}"),
    ("AB{SEQ:14:alpha}", 3, "{SEQ:n}"),
    ("AB{SEQ:13:base36}", 3, "{SEQ:n}"),
    ("AB{SEQ:13:safe}", 3, "{SEQ:n}"),
    ("AB{SEQ:99999999999}", 3, "{SEQ:n}"),
    ("AB{SEQ:4:roman}", 3, "base36"),
    ("AB{SEQ:4:hex:2}", 3, "{SEQ:n"),
    ("AB{seq:4}", 3, "{SEQ:n}"),
    ("AB{SQE:4}", 3, "{SEQ:n}"),
    ("AB{SEQ 4}", 3, "{SEQ:n}"),
    ("{SEQ:3}-{SEQ:3}", 9, "{SEQ:n}"),
    ("{YYY}", 1, "{YY"),
    ("{yyyy}", 1, "{YYYY}"),
    ("{YYYY:2}", 1, "{YYYY}"),
    ("{WEEK}", 1, "{"),
    ("{MM}{DDDD}{SEQ:2}", 5, "{DDD}"),
    ("{RANDOM}", 1, "{RANDOM:n}"),
    ("{RANDOM:0}", 1, "{RANDOM:n}"),
    ("{RANDOM:emoji:3}", 1, "alphanumeric"),
    ("{RANDOM:hex:}", 1, "{RANDOM:"),
    ("{RANDM:4}", 1, "{RANDOM:n}"),
    ("{CHECK:luhn}{SEQ:3}", 1, "{CHECK:algorithm}"),
    ("{SEQ:3}{CHECK}", 8, "{CHECK:algorithm}"),
    ("{SEQ:3}{CHECK:}", 8, "{CHECK:algorithm}"),
    ("{SEQ:3}{CHECK:crc32}", 8, "luhn"),
    ("{SEQ:3}{CEHCK:luhn}", 8, "{CHECK:algorithm}"),
    ("{PREFIX}", 1, "{PREFIX:text}"),
    ("{PREFX:ACME}", 1, "{PREFIX:text}"),
    ("{CTX}", 1, "{CTX:key}"),
    ("{CTX:}", 1, "{CTX:key}"),
    ("{SITES}", 1, "{SITE}"),
    ("{PRT}", 1, "{PART}"),
    ("{LOT:3}", 1, "{LOT}"),
    ("{UID}", 1, "{UUID}"),
    ("漢🔩{SEQ}", 3, "{SEQ:n}"),
    ("a\n\n{SEQ}", 4, "{SEQ:n}"),
]


def test_a_faulty_pattern_is_refused_with_the_place_and_the_remedy(connection):
    for pattern, position, remedy in FAULTS:
        for function, arguments in [
            ("parse_pattern", {}),
            ("preview", {}),
            ("create_format", {"name": "F"}),
            ("validate_serial", {"serial_number": "A1"}),
        ]:
            with refused(connection, "22023") as refusal:
                call(connection, function, pattern=pattern, **arguments)
            if position is not None:
                assert re.search(rf"\b{position}\b", refusal.detail), (pattern, refusal.detail)
            assert remedy in refusal.hint, (pattern, refusal.hint)
    assert value(connection, "select count(*) from machserial.serial_formats") == 0


def test_a_missing_pattern_is_refused(connection):
    for function in ("parse_pattern", "preview"):
        with refused(connection, "22023"):
            call(connection, function, pattern=None)


def test_validate_pattern_tells_every_fault_with_its_place(connection):
    verdict = call(connection, "validate_pattern", pattern="{SQE:3}-{YYY}-{MM}")[0]
    assert not verdict.is_valid
    assert len(verdict.errors) == 2
    assert re.search(r"\b1\b", verdict.errors[0]) and "{SEQ:n}" in verdict.errors[0]
    assert re.search(r"\b9\b", verdict.errors[1])


def test_validate_pattern_agrees_with_the_table_of_faults(connection):
    for pattern, position, _ in FAULTS:
        verdict = call(connection, "validate_pattern", pattern=pattern)[0]
        assert not verdict.is_valid and verdict.errors, pattern
        if position is not None:
            assert re.search(rf"\b{position}\b", " ".join(verdict.errors)), (pattern, verdict.errors)


def test_validate_pattern_warns_of_what_is_seldom_meant(connection):
    constant = call(connection, "validate_pattern", pattern="ABC-{YYYY}")[0]
    assert constant.is_valid and len(constant.warnings) == 1
    mixed_years = call(connection, "validate_pattern", pattern="{YYYY}{WW}{SEQ:4}")[0]
    assert mixed_years.is_valid and "{IYYY}" in mixed_years.warnings[0]
    sound = call(connection, "validate_pattern", pattern="{IYYY}{WW}{SEQ:4}")[0]
    assert (sound.is_valid, sound.errors, sound.warnings) == (True, [], [])


anything = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
token_like = st.lists(
    st.one_of(
        st.sampled_from(["{", "}", "{{", "}}", ":", "SEQ", "RANDOM", "CHECK", "YYYY", "CTX", "PREFIX", "luhn", "hex"]),
        st.sampled_from(["{SEQ:3}", "{RANDOM:2}", "{CHECK:luhn}", "{LOT}", "4", "99999999999", "-"]),
        st.sampled_from(HOSTILE),
        anything,
    )
).map("".join)


@examples
@example(None)
@example("")
@example("{" * 3000)
@example("{" + "x" * 5000 + "}")
@example("}" + "é" * 5000)
@example("{SEQ:" + "9" * 1000 + "}")
@example("{CHECK:" + "'" * 300 + "}")
@given(token_like | anything)
def test_validate_pattern_never_raises_and_agrees_with_create_format(connection, pattern):
    verdict = call(connection, "validate_pattern", pattern=pattern)[0]
    assert verdict.is_valid is (verdict.errors == [])
    if verdict.is_valid:
        with connection.transaction(force_rollback=True):
            assert make_format(connection, "F", pattern).pattern == pattern
    else:
        with refused(connection, "22023"):
            make_format(connection, "F", pattern)


def test_a_pattern_whose_check_digit_has_nothing_to_check_is_not_valid(connection):
    for pattern in ("ABC{CHECK:luhn}{SEQ:3}", "{SEQ:3}{CHECK:mod27_26}"):
        verdict = call(connection, "validate_pattern", pattern=pattern)[0]
        assert not verdict.is_valid and verdict.errors, pattern
        with refused(connection, "22023"):
            make_format(connection, "F", pattern)


def test_a_pattern_that_is_always_too_long_for_a_serial_number_is_not_valid(connection):
    for pattern in ("x" * 253 + "{SEQ:3}", "{RANDOM:64}" * 4, "{UUID}" * 8):
        assert not call(connection, "validate_pattern", pattern=pattern)[0].is_valid
        with refused(connection, "22023"):
            make_format(connection, "F", pattern)
    longest = "x" * 252 + "{SEQ:3}"
    assert call(connection, "validate_pattern", pattern=longest)[0].is_valid
    make_part(connection)
    assert len(generated(connection, pattern=longest)[0]) == 255


def test_parse_pattern_takes_a_pattern_apart(connection):
    rows = call(connection, "parse_pattern", pattern="A-{YYYY}{{{SEQ:4:hex}{CHECK:mod97_10}{LOT}")
    assert [(row.ordinal, row.token) for row in rows] == [
        (1, "LITERAL"), (2, "YYYY"), (3, "LITERAL"), (4, "SEQ"), (5, "CHECK"), (6, "LOT"),
    ]  # fmt: skip
    assert [(row.min_length, row.max_length) for row in rows] == [
        (2, 2), (4, 4), (1, 1), (4, 4), (2, 2), (1, None),
    ]  # fmt: skip
    assert rows[0].argument == "A-" and rows[2].argument == "{" and rows[4].argument == "mod97_10"


def test_names_of_the_original_system_are_understood(connection):
    assert preview(connection, "{SEQ:5}{CHECK:modulo11}", 20) == preview(connection, "{SEQ:5}{CHECK:mod11}", 20)
    assert preview(connection, "{SEQ:5}{CHECK:custom}", 20) == preview(connection, "{SEQ:5}{CHECK:verhoeff}", 20)


# Check digits inside patterns

DIGITS, LETTERS, BASE36 = string.digits, string.ascii_uppercase, string.digits + string.ascii_uppercase
PAYLOADS = {
    **dict.fromkeys(("luhn", "mod10", "mod11", "verhoeff", "damm", "mod11_2", "mod11_10"), DIGITS),
    **dict.fromkeys(("luhn36", "mod37_2", "mod97_10", "mod1271_36", "mod37_36"), BASE36),
    **dict.fromkeys(("mod661_26", "mod27_26"), LETTERS),
    "gs1_pair": "!\"%&'()*+,-./" + DIGITS + ":;<=>?" + LETTERS + "_" + LETTERS.lower(),
}


def check_digit(connection, algorithm: str, left: str) -> str:
    """The check digit over what the algorithm knows of the text to its left."""
    payload = "".join(character for character in left if character in PAYLOADS[algorithm])
    return value(connection, "select machserial.check_digit(%s, %s)", algorithm, payload)


def test_a_check_digit_covers_all_that_the_algorithm_knows_to_its_left(connection):
    allow_unicode(connection)
    assert preview(connection, "PROD-{SEQ:6}{CHECK:luhn}") == ["PROD-0000018"]
    for algorithm in PAYLOADS:
        for pattern in ("A-1 ü{SEQ:4:base36}é{{{CHECK:%s}", "{SEQ:3}A.{CHECK:%s}-x", "{YY}{RANDOM:9}/B{CHECK:%s}"):
            for number in preview(connection, pattern % algorithm, 20, start=1290 // 3):
                width = 2 if algorithm in ("gs1_pair", "mod97_10", "mod661_26", "mod1271_36") else 1
                behind = 2 if pattern.endswith("-x") else 0
                left = number[: len(number) - width - behind]
                assert number[len(left) : len(left) + width] == check_digit(connection, algorithm, left)


def test_check_digits_may_check_check_digits(connection):
    for number in preview(connection, "{SEQ:3}{CHECK:damm}-{CHECK:luhn}{CHECK:mod97_10}", 50):
        damm, luhn, mod97 = number[3], number[5], number[6:]
        assert damm == check_digit(connection, "damm", number[:3])
        assert luhn == check_digit(connection, "luhn", number[:5])
        assert mod97 == check_digit(connection, "mod97_10", number[:6])


# Whole patterns: what generate() writes is what preview() shows and what validate_serial() accepts

texts = st.one_of(
    st.sampled_from(HOSTILE_NUMBERS),
    st.text(st.characters(max_codepoint=0x2AF, categories=["L", "N", "P", "S"], exclude_characters="{}"), min_size=1,
            max_size=6),
)  # fmt: skip
fixed_tokens = st.one_of(
    st.sampled_from(["{YYYY}", "{YY}", "{MM}", "{DD}", "{DDD}", "{WW}", "{IYYY}", "{{", "}}"]),
    texts,
    texts.map("{{PREFIX:{}}}".format),
)
open_tokens = st.sampled_from(["{SITE}", "{PART}", "{WO}", "{LOT}", "{CTX:color}"])
checks = st.sampled_from(sorted(PAYLOADS)).map("{{CHECK:{}}}".format)
random_tokens = st.one_of(
    st.builds("{{RANDOM:{}:{}}}".format, st.sampled_from(sorted(ALPHABETS)), st.integers(1, 9)), st.just("{UUID}")
)
sequences = st.one_of(
    st.integers(4, 18).map("{{SEQ:{}}}".format),
    st.builds("{{SEQ:{}:{}}}".format, st.integers(3, 12), st.sampled_from(sorted(SEQ_ALPHABETS))),
)


@st.composite
def patterns(draw, *tokens: st.SearchStrategy) -> str:
    left = draw(st.lists(st.one_of(*tokens), max_size=4))
    right = draw(st.lists(st.one_of(*tokens, checks), max_size=4))
    return "".join([*left, draw(sequences), *right])


def previewed(connection, pattern: str, quantity: int = 1, **arguments: object) -> list[str]:
    """Nothing if this pattern cannot be written: nothing to check, too much for gs1_pair, no serial number."""
    allow_unicode(connection)
    try:
        with connection.transaction():
            return preview(connection, pattern, quantity, **arguments)
    except psycopg.errors.InvalidParameterValue:
        return []


@fewer_examples
@given(patterns(fixed_tokens, open_tokens), st.integers(1, 200), texts, texts)
def test_generate_writes_what_preview_shows(connection, pattern, start, name, other):
    with connection.transaction(force_rollback=True):
        make_part(connection, part_id=name)
        call(connection, "register_site", site_id=other, time_zone="Asia/Tokyo")
        arguments = {"site_id": other, "part_id": name, "context": {**CONTEXT, "lot_number": name, "color": other}}
        assume(previewed(connection, pattern, **arguments))
        make_format(connection, "F", pattern, sequence_start=start)
        for quantity in (1, 3, 120):
            expected = preview(connection, pattern, quantity, start=start, **arguments)
            assert generated(connection, quantity=quantity, format="F", **arguments) == expected
            start += quantity


@fewer_examples
@given(patterns(fixed_tokens, random_tokens), st.integers(1, 200))
def test_what_is_generated_is_valid_and_as_long_as_parse_pattern_says(connection, pattern, start):
    assume(previewed(connection, pattern))
    with connection.transaction(force_rollback=True):
        make_part(connection)
        make_format(connection, "F", pattern, sequence_start=start)
        parsed = call(connection, "parse_pattern", pattern=pattern)
        for number in generated(connection, format="F") + generated(connection, quantity=5, format="F"):
            assert sum(row.min_length for row in parsed) <= len(number) <= sum(row.max_length for row in parsed)
            assert is_valid(connection, number, pattern), number


@fewer_examples
@given(patterns(fixed_tokens, open_tokens), st.integers(1, 200))
def test_a_number_with_open_parts_is_valid_too(connection, pattern, start):
    for number in previewed(connection, pattern, part_id="PART-1", context=CONTEXT, start=start):
        assert is_valid(connection, number, pattern), number


# The letter case of a format


def test_upper_writes_the_whole_number_in_capitals_before_its_check_digit(connection):
    make_part(connection, part_id="part-x")
    call(connection, "register_site", site_id="ber")
    context = {"lot_number": "lot9", "color": "red"}
    pattern = "ab-{PREFIX:cd}-{SITE}-{PART}-{LOT}-{CTX:color}-{SEQ:2:hex}{CHECK:mod37_36}{CHECK:gs1_pair}{UUID}"
    pattern = pattern.replace("{CHECK:gs1_pair}", "")
    make_format(connection, "U", pattern, letter_case="UPPER", sequence_start=171)
    (number,) = generated(connection, "part-x", format="U", site_id="ber", context=context)
    assert number.startswith("AB-CD-BER-PART-X-LOT9-RED-AB")
    assert number == number.upper()
    left = "AB-CD-BER-PART-X-LOT9-RED-AB"
    assert number[len(left)] == check_digit(connection, "mod37_36", left)
    make_format(connection, "E", "ab{SEQ:2:hex}x", letter_case="EXACT")
    assert generated(connection, "part-x", format="E") == ["ab01x"]


# Judging a number


def test_a_number_of_the_right_shape_is_valid(connection):
    for number, pattern in [
        ("A-001", "A-{SEQ:3}"),
        ("A-001", "A-{SEQ:3:hex}"),
        ("20240229-01", "{YYYY}{MM}{DD}-{SEQ:2}"),
        ("2024366", "{YYYY}{DDD}"),
        ("24366", "{YY}{DDD}"),
        ("2020-W53", "{IYYY}-W{WW}"),
        ("0229", "{MM}{DD}"),
        ("31", "{DD}"),
        ("366", "{DDD}"),
        ("53", "{WW}"),
        ("PROD-0000018", "PROD-{SEQ:6}{CHECK:luhn}"),
        ("7c9e6679-7425-40de-944b-e07fc1f90ae7", "{UUID}"),
        ("any lot/any order", "{LOT}/{WO}"),
    ]:
        assert is_valid(connection, number, pattern), (number, pattern)


def test_a_number_of_another_shape_is_not_valid_and_the_place_is_told(connection):
    for number, pattern, position in [
        ("B-001", "A-{SEQ:3}", 1),
        ("A-01", "A-{SEQ:3}", 3),
        ("A-0011", "A-{SEQ:3}", 6),
        ("A-0x1", "A-{SEQ:3}", 3),
        ("A-00\n1", "A-{SEQ:3}", 5),
        ("A-001  1", "A-{SEQ:3}", 7),
        ("a-001", "A-{SEQ:3}", 1),
        ("A-00G", "A-{SEQ:3:hex}", 3),
        ("A-0O1", "A-{SEQ:3:safe}", 3),
        ("A-٠٠١", "A-{SEQ:3}", 3),
        ("AXB", "A.B", 1),
        ("", "A", 1),
        ("2026-", "{YYYY}-{LOT}", 6),
        ("12", "{UUID}", 1),
        ("001*", "{SEQ:3}{CHECK:luhn}", 4),
    ]:
        errors = serial_errors(connection, number, pattern)
        assert re.search(rf"\bposition {position}\b", " ".join(errors)), (number, pattern, errors)
    assert serial_errors(connection, None, "A-{SEQ:3}")


def test_a_date_that_does_not_exist_is_not_valid(connection):
    for number, pattern in [
        ("20260230", "{YYYY}{MM}{DD}"),
        ("20250229", "{YYYY}{MM}{DD}"),
        ("21000229", "{YYYY}{MM}{DD}"),
        ("250229", "{YY}{MM}{DD}"),
        ("20261301", "{YYYY}{MM}{DD}"),
        ("20260001", "{YYYY}{MM}{DD}"),
        ("20260100", "{YYYY}{MM}{DD}"),
        ("20260431", "{YYYY}{MM}{DD}"),
        ("0230", "{MM}{DD}"),
        ("13", "{MM}"),
        ("32", "{DD}"),
        ("2025366", "{YYYY}{DDD}"),
        ("25366", "{YY}{DDD}"),
        ("2026000", "{YYYY}{DDD}"),
        ("367", "{DDD}"),
        ("2025-W53", "{IYYY}-W{WW}"),
        ("2026-W54", "{IYYY}-W{WW}"),
        ("2026-W00", "{IYYY}-W{WW}"),
        ("54", "{WW}"),
    ]:
        assert serial_errors(connection, number, pattern), (number, pattern)


def test_dates_that_contradict_each_other_are_not_valid(connection):
    for number, pattern in [
        ("13-01", "{MM}-{MM}"),
        ("01-13", "{MM}-{MM}"),
        ("2025 2026", "{YYYY} {YYYY}"),
        ("2026 25", "{YYYY} {YY}"),
        ("2026-0101-364", "{YYYY}-{MM}{DD}-{DDD}"),
        ("2026-1123 2026W01", "{YYYY}-{MM}{DD} {IYYY}W{WW}"),
    ]:
        assert serial_errors(connection, number, pattern), (number, pattern)
    assert is_valid(connection, "2026-1123-327 2026W48", "{YYYY}-{MM}{DD}-{DDD} {IYYY}W{WW}")


def test_a_wrong_check_digit_is_not_valid_and_the_right_one_is_told(connection):
    errors = serial_errors(connection, "PROD-0000017", "PROD-{SEQ:6}{CHECK:luhn}")
    assert re.search(r"\bposition 12\b", errors[0]) and "8" in errors[0]
    for algorithm in PAYLOADS:
        pattern = f"A{{SEQ:4:base36}}B{{CHECK:{algorithm}}}."
        (number,) = preview(connection, pattern, start=123456)
        assert is_valid(connection, number, pattern)
        replacement = "3" if number[-2] != "3" else "4"
        assert serial_errors(connection, number[:-2] + replacement + ".", pattern), number


def test_several_errors_are_told_together(connection):
    errors = serial_errors(connection, "20261332-0000010", "{YYYY}{MM}{DD}-{SEQ:6}{CHECK:luhn}")
    assert len(errors) >= 2


def test_a_number_is_valid_if_there_is_a_way_to_read_it(connection):
    for pattern, context in [
        ("{LOT}{CHECK:luhn}{WO}", {"lot_number": "L1", "work_order_id": "W2"}),
        ("{LOT}{MM}{WO}", {"lot_number": "L", "work_order_id": "99"}),
        ("{LOT}{SEQ:2}{CHECK:damm}-{WO}", {"lot_number": "8", "work_order_id": "1-1"}),
    ]:
        for number in preview(connection, pattern, 3, at=NOON, context=context):
            assert is_valid(connection, number, pattern), number


# Injection


def test_hostile_text_in_patterns_and_values_is_data(connection):
    allow_unicode(connection)
    for text in HOSTILE_NUMBERS:
        pattern = f"{text}{{PREFIX:{text}}}{{SITE}}{{PART}}{{CTX:{text}}}{{SEQ:2}}{{CHECK:luhn}}"
        context = {"lot_number": text, "work_order_id": text, text: text}
        expected = f"{text * 5}01"
        with connection.transaction(force_rollback=True):
            make_part(connection, part_id=text, part_type=text, name=text)
            call(connection, "register_site", site_id=text, name=text)
            given = {"site_id": text, "part_id": text, "context": context}
            assert preview(connection, pattern, **given) == [expected + check_digit(connection, "luhn", expected)]
            for quantity in (1, 2):
                made = generated(connection, text, quantity, pattern=pattern, site_id=text, context=context)
                assert all(number.startswith(text * 5) for number in made)
            make_format(connection, text, pattern, letter_case="UPPER", description=text)
            (number,) = generated(connection, text, format=text, site_id=text, context=context)
            assert number.startswith(value(connection, "select upper(%s collate \"C\")", text) * 5)
            assert call(connection, "counter_status", format=text)[0].format == text
            call(connection, "assign_format", part_id=text, format=text)
            call(connection, "revise_format", name=text, pattern=pattern + "2")
            assert call(connection, "format_for", part_id=text)[0].version == 2
            call(connection, "deactivate_format", name=text)
            assert call(connection, "find_serial", serial_number=number)[0].serial_number == number
    assert value(connection, "select to_regclass('machserial.serials') is not null")


@pytest.mark.parametrize("pattern", ["{SEQ:2:hex}{CHECK:luhn}", "{SEQ:4}{CHECK:gs1_pair}{CHECK:mod27_26}"])
def test_a_number_in_which_a_check_finds_nothing_is_issued_like_any_other(connection, pattern):
    """Among 250 numbers are some without a digit, and some whose pair has no letter: they count as zero."""
    make_part(connection)
    make_format(connection, "F", pattern, sequence_start=0)
    numbers = generated(connection, quantity=250, format="F")
    assert numbers == preview(connection, pattern, 250, start=0)
    if pattern.startswith("{SEQ:2:hex}"):
        assert numbers[0xAB] == "AB0"
    for number in numbers:
        assert call(connection, "validate_serial", serial_number=number, pattern=pattern)[0].is_valid, number

