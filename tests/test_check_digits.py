"""check_digits: fifteen algorithms, over texts and compiled into patterns."""

import itertools
import json
import random
import string
from functools import partial

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from stdnum import damm, ean, isbn, luhn, verhoeff
from stdnum.iso7064 import mod_11_2, mod_11_10, mod_37_2, mod_37_36, mod_97_10
from support import mostly_slow, value

DIGITS = string.digits
LETTERS = string.ascii_uppercase
BASE36 = DIGITS + LETTERS
HEX = "0123456789ABCDEF"
SAFE = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
# GS1 General Specifications, figure 7.11-1: GS1 AI encodable character set 82.
GS1_82 = "!\"%&'()*+,-./" + DIGITS + ":;<=>?" + LETTERS + "_" + LETTERS.lower()
ALPHABETS = (DIGITS, BASE36, HEX, LETTERS, SAFE)

PAYLOAD = {
    "luhn": DIGITS,
    "luhn36": BASE36,
    "mod10": DIGITS,
    "gs1_pair": GS1_82,
    "mod11": DIGITS,
    "verhoeff": DIGITS,
    "damm": DIGITS,
    "mod11_2": DIGITS,
    "mod37_2": BASE36,
    "mod97_10": BASE36,
    "mod661_26": LETTERS,
    "mod1271_36": BASE36,
    "mod11_10": DIGITS,
    "mod27_26": LETTERS,
    "mod37_36": BASE36,
}
ALGORITHMS = tuple(PAYLOAD)
PAIRS = {"gs1_pair", "mod97_10", "mod661_26", "mod1271_36"}
RESULT = {
    **PAYLOAD,
    "gs1_pair": SAFE,
    "mod11": DIGITS + "X",
    "mod11_2": DIGITS + "X",
    "mod37_2": BASE36 + "*",
    "mod97_10": DIGITS,
}

several = partial(
    settings, max_examples=settings().max_examples // 2, deadline=None, suppress_health_check=list(HealthCheck)
)


def value_of(connection, query, *arguments):
    return connection.execute(query, arguments).fetchone()[0]


def check_digits(connection, algorithm, payloads):
    rows = connection.execute(
        "select machserial.check_digit(%s, p.payload) from unnest(%s::text[]) with ordinality as p (payload, n)"
        " order by p.n",
        (algorithm, list(payloads)),
    )
    return [row[0] for row in rows]


def validities(connection, algorithm, values):
    rows = connection.execute(
        "select machserial.has_valid_check_digit(%s, v.value) from unnest(%s::text[]) with ordinality as v (value, n)"
        " order by v.n",
        (algorithm, list(values)),
    )
    return [row[0] for row in rows]


def refusal(connection, query, *arguments):
    with pytest.raises(psycopg.Error) as caught, connection.transaction():
        connection.execute(query, arguments)
    assert caught.value.sqlstate == "22023", caught.value
    return caught.value.diag


# --- Oracles: python-stdnum, and for what it lacks the definition in the standard -----------------------------------


def isbn10(payload):
    """The weights 2, 3, 4 … from the right; for nine digits stdnum's isbn says the same."""
    total = sum((place + 2) * int(digit) for place, digit in enumerate(reversed(payload)))
    return (DIGITS + "X")[-total % 11]


def pure_pair(radix, modulus, alphabet):
    """ISO/IEC 7064, 6.2: the weighted sum of all characters, with radix ** place, is 1 modulo modulus."""

    def check(payload):
        total = sum(alphabet.index(c) * radix ** (place + 2) for place, c in enumerate(reversed(payload)))
        first, second = divmod((1 - total) % modulus, radix)
        return alphabet[first] + alphabet[second]

    return check


def gs1_pair(payload):
    """GS1 General Specifications, 7.9.5: prime weights from the right, modulo 1021, two characters of five bits."""
    primes = [n for n in range(2, 84) if all(n % d for d in range(2, n))]
    total = sum(GS1_82.index(c) * prime for c, prime in zip(reversed(payload), primes, strict=False)) % 1021
    return SAFE[total >> 5] + SAFE[total & 31]


ORACLE = {
    "luhn": luhn.calc_check_digit,
    "luhn36": partial(luhn.calc_check_digit, alphabet=BASE36),
    "mod10": ean.calc_check_digit,
    "gs1_pair": gs1_pair,
    "mod11": isbn10,
    "verhoeff": verhoeff.calc_check_digit,
    "damm": damm.calc_check_digit,
    "mod11_2": mod_11_2.calc_check_digit,
    "mod37_2": mod_37_2.calc_check_digit,
    "mod97_10": mod_97_10.calc_check_digits,
    "mod661_26": pure_pair(26, 661, LETTERS),
    "mod1271_36": pure_pair(36, 1271, BASE36),
    "mod11_10": mod_11_10.calc_check_digit,
    "mod27_26": partial(mod_37_36.calc_check_digit, alphabet=LETTERS),
    "mod37_36": mod_37_36.calc_check_digit,
}


def payloads_for(algorithm):
    longest = 23 if algorithm == "gs1_pair" else 200
    return st.lists(st.text(PAYLOAD[algorithm], min_size=1, max_size=longest), min_size=50, max_size=100)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@several()
@given(data=st.data())
def test_agrees_with_the_oracle(connection, algorithm, data):
    payloads = data.draw(payloads_for(algorithm))
    expected = [ORACLE[algorithm](payload) for payload in payloads]
    assert check_digits(connection, algorithm, payloads) == expected
    values = [payload + check for payload, check in zip(payloads, expected, strict=True)]
    assert all(validities(connection, algorithm, values))


def test_mod11_is_the_check_digit_of_isbn_10(connection):
    generator = random.Random(10)
    payloads = ["".join(generator.choices(DIGITS, k=9)) for _ in range(500)]
    values = [p + c for p, c in zip(payloads, check_digits(connection, "mod11", payloads), strict=True)]
    assert all(isbn.is_valid(value) for value in values)
    assert any(value.endswith("X") for value in values)


PUBLISHED = [
    ("luhn", "79927398713"),
    ("luhn", "0000018"),
    ("mod10", "629104150021" + "3"),  # GS1: how to calculate a check digit manually, GTIN-13
    ("mod10", "37610425002123456" + "9"),  # GS1: the same, SSCC
    ("mod11", "097522980X"),
    ("mod11", "0306406152"),
    ("verhoeff", "2363"),
    ("damm", "5724"),
    # ISO/IEC 7064:2003, the standard's own examples.
    ("mod11_2", "079X"),
    ("mod11_2", "07940"),
    ("mod97_10", "79444"),
    ("mod11_10", "07945"),
    ("mod1271_36", "ISO793W"),
    # ISO 17442 (LEI) and ISO 27729 (ISNI).
    ("mod97_10", "213800KUD8LAJWSQ9D15"),
    ("mod11_2", "000000012146438X"),
    ("mod37_2", "G123489654321Y"),
    ("mod37_36", "A12425GABC1234002M"),
    # LiosK/cdigit, test/mod661_26.js, mod1271_36.js, mod27_26.js.
    ("mod661_26", "BAISDLAFKBM"),
    ("mod661_26", "GCJFBCIOJTLVOUR"),
    ("mod661_26", "XKFSHTWWCOMYYASPSYTHJWCJ"),
    ("mod1271_36", "W1KDMNBFIZIVIDJQQ0F76S9P"),
    ("mod1271_36", "0TXLE9L2FBO7ZZ1A6QWBBH6M"),
    ("mod27_26", "JEJLMGJS"),
    ("mod27_26", "VAQKBDHZQDYVZIATTNETJULCDAVRMQIEKIBDD"),
    # GS1 General Specifications, 7.9.5, and the unit tests of gs1/gmn-helpers.
    ("gs1_pair", "1987654Ad4X4bL5ttr2310c2K"),
    ("gs1_pair", "12345ANJ"),
    ("gs1_pair", "12345678901234567890123NT"),
    ("gs1_pair", "12345_ABCDEFGHIJKLMCP"),
    ("gs1_pair", "12345_NOPQRSTUVWXYZDN"),
    ("gs1_pair", "12345_abcdefghijklmN3"),
    ("gs1_pair", "12345_nopqrstuvwxyzP2"),
    ("gs1_pair", "12345_!\"%&'()*+,-./LC"),
    ("gs1_pair", "12345_0123456789:;<=>?62"),
    ("gs1_pair", "7907665Bm8v2AB"),
    ("gs1_pair", "53395376X1:nST"),
    ("gs1_pair", "0881063PhHvY89"),
    ("gs1_pair", "00000!HV"),
    ("gs1_pair", "99999zzzzzzzzzzzzzzzzzzT2"),
]


def test_published_vectors(connection):
    for algorithm, number in PUBLISHED:
        length = 2 if algorithm in PAIRS else 1
        assert check_digits(connection, algorithm, [number[:-length]]) == [number[-length:]], number
        assert validities(connection, algorithm, [number]) == [True], number


# --- What the algorithms promise ------------------------------------------------------------------------------------


def random_values(connection, algorithm, count, length=9, seed=7064):
    generator = random.Random(seed)
    payloads = ["".join(generator.choices(PAYLOAD[algorithm], k=length)) for _ in range(count)]
    checks = check_digits(connection, algorithm, payloads)
    return [payload + check for payload, check in zip(payloads, checks, strict=True)]


def test_every_single_substitution_is_detected(connection):
    for algorithm in ALGORITHMS:
        wrong = [
            value[:place] + other + value[place + 1 :]
            for value in random_values(connection, algorithm, 3)
            for place in range(len(value))
            for other in (PAYLOAD[algorithm] if place < 9 else RESULT[algorithm])
            if other != value[place]
        ]
        if algorithm == "mod97_10":
            # A letter is two digits: one for another may add a multiple of 97 only where a digit becomes a letter.
            wrong = [w for w in wrong if mod_97_10.checksum(w) != 1]
        assert len(wrong) > 200
        assert not any(validities(connection, algorithm, wrong))


def test_every_adjacent_transposition_is_detected(connection):
    for algorithm in ("verhoeff", "damm", "mod11_2", "mod37_2", "mod97_10", "mod661_26", "mod1271_36"):
        values = random_values(connection, algorithm, 100)
        if algorithm == "mod97_10":
            generator = random.Random(97)
            payloads = ["".join(generator.choices(DIGITS, k=9)) for _ in range(100)]
            values = [p + c for p, c in zip(payloads, check_digits(connection, algorithm, payloads), strict=True)]
        length = 2 if algorithm in PAIRS else 1
        wrong = [
            value[:place] + value[place + 1] + value[place] + value[place + 2 :]
            for value in values
            for place in range(len(value) - 1 - length)
            if value[place] != value[place + 1]
        ]
        assert len(wrong) > 500
        assert not any(validities(connection, algorithm, wrong))


def test_one_payload_has_one_valid_ending(connection):
    for algorithm in ALGORITHMS:
        payload = "".join(random.Random(3).choices(PAYLOAD[algorithm], k=7))
        endings = list(RESULT[algorithm])
        if algorithm in PAIRS:
            endings = [a + b for a in endings for b in endings]
        verdicts = validities(connection, algorithm, [payload + ending for ending in endings])
        valid = [ending for ending, is_valid in zip(endings, verdicts, strict=True) if is_valid]
        assert valid == check_digits(connection, algorithm, [payload])


def test_describes_its_results(connection):
    for algorithm in ALGORITHMS:
        length = value_of(connection, "select machserial._check_length(%s)", algorithm)
        alphabet = value_of(connection, "select machserial._check_alphabet(%s)", algorithm)
        values = random_values(connection, algorithm, 2000, 3)
        assert {len(value) - 3 for value in values} == {length}
        assert set("".join(value[3:] for value in values)) <= set(alphabet)
        assert set(alphabet) == set(RESULT[algorithm])


# --- Names, nulls and refusals --------------------------------------------------------------------------------------


def test_names_in_any_case_and_those_of_the_original_system(connection):
    for given_name, name in [("LUHN", "luhn"), ("Modulo11", "mod11"), ("custom", "verhoeff"), ("mod97_10", "mod97_10")]:
        assert value_of(connection, "select machserial._check_name(%s)", given_name) == name
        assert check_digits(connection, given_name, ["12345"]) == check_digits(connection, name, ["12345"])
        value = "12345" + check_digits(connection, name, ["12345"])[0]
        assert validities(connection, given_name, [value]) == [True]


def test_null_in_gives_null(connection):
    for function in ("check_digit", "has_valid_check_digit"):
        for arguments in [("luhn", None), (None, "123"), (None, None)]:
            query = sql.SQL("select machserial.{}(%s::text, %s::text)").format(sql.Identifier(function))
            assert connection.execute(query, arguments).fetchone() == (None,)


def test_an_unknown_algorithm_is_refused(connection):
    for name in ("lunh", "", "mod 97-10", "luhn'; drop table x --"):
        for query in (
            "select machserial.check_digit(%s, '123')",
            "select machserial.has_valid_check_digit(%s, '123')",
            "select machserial._check_length(%s)",
            "select machserial._compile_check(%s, '[]', 'p')",
        ):
            diagnosis = refusal(connection, query, name)
            assert name.replace("'", "''") in diagnosis.message_detail
            assert all(known in diagnosis.message_hint for known in ALGORITHMS)


def test_a_near_name_is_suggested(connection):
    assert "Did you mean mod97_10?" in refusal(connection, "select machserial._check_name('MOD 97-10')").message_hint


FOREIGN = [
    ("luhn", "12A4", 3),
    ("luhn", " 124", 1),
    ("luhn36", "ABCd", 4),
    ("mod11", "12X", 3),
    ("mod11_2", "X12", 1),
    ("mod37_2", "AB*C", 3),
    ("mod27_26", "AB1", 3),
    ("mod661_26", "ÄB", 1),
    ("mod97_10", "12a", 3),
    ("gs1_pair", "12345 6", 6),
    ("gs1_pair", "1234é", 5),
    ("damm", "12％3", 3),
]


def test_a_foreign_character_is_refused_with_its_position(connection):
    for algorithm, payload, position in FOREIGN:
        diagnosis = refusal(connection, "select machserial.check_digit(%s, %s)", algorithm, payload)
        assert diagnosis.message_detail == f"Position {position} of '{payload}'."
        assert payload[position - 1] in diagnosis.message_primary
        assert diagnosis.message_hint
        assert validities(connection, algorithm, [payload + "0", payload + "00"]) == [False, False]


def test_an_empty_payload_is_refused(connection):
    for algorithm in ALGORITHMS:
        diagnosis = refusal(connection, "select machserial.check_digit(%s, '')", algorithm)
        assert algorithm in diagnosis.message_primary and diagnosis.message_detail and diagnosis.message_hint
        sign = RESULT[algorithm][0]
        assert validities(connection, algorithm, ["", sign, " " + sign * 2, "1 " + sign * 2]) == [False] * 4


def test_gs1_pair_has_weights_for_23_characters(connection):
    assert check_digits(connection, "gs1_pair", ["1" * 23])
    diagnosis = refusal(connection, "select machserial.check_digit('gs1_pair', %s)", "1" * 24)
    assert "24" in diagnosis.message_detail
    assert validities(connection, "gs1_pair", ["1" * 24 + "22"]) == [False]


def test_mod97_10_endings_outside_02_to_98_are_not_valid(connection):
    # 00 and 97, 01 and 98, 99 and 02 leave the same remainder.
    payloads = [str(n) for n in range(1000)]
    for payload, check in zip(payloads, check_digits(connection, "mod97_10", payloads), strict=True):
        assert 2 <= int(check) <= 98
        twin = {"97": "00", "98": "01", "02": "99"}.get(check)
        if twin:
            assert mod_97_10.is_valid(payload + twin)
            assert validities(connection, "mod97_10", [payload + check, payload + twin]) == [True, False]


def test_long_payloads(connection):
    for algorithm in ALGORITHMS:
        if algorithm != "gs1_pair":
            payload = PAYLOAD[algorithm][-1] * 2000
            assert check_digits(connection, algorithm, [payload]) == [ORACLE[algorithm](payload)]


@pytest.mark.own_database
def test_a_column_may_have_any_collation(connection):
    if not value(connection, "select exists (select from pg_collation where collname = 'de-x-icu')"):
        pytest.skip("this server was built without ICU")
    connection.execute(
        "create collation public.caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    )
    row = connection.execute(
        "select machserial.check_digit('luhn36', 'AB1' collate public.caseless),"
        " machserial.check_digit('mod37_36', 'AB1' collate public.caseless),"
        " machserial.has_valid_check_digit('mod11', '09752298x' || 'x' collate public.caseless),"
        " machserial.has_valid_check_digit('mod11', '097522980x' collate public.caseless)"
    ).fetchone()
    connection.rollback()
    assert row == (ORACLE["luhn36"]("AB1"), ORACLE["mod37_36"]("AB1"), False, False)


# --- In patterns ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@several()
@given(texts=st.lists(st.text(GS1_82 + " äß€{}$\\", max_size=40), min_size=50, max_size=100))
def test_unknown_characters_are_skipped_in_a_pattern(connection, algorithm, texts):
    known = ["".join(c for c in text if c in PAYLOAD[algorithm])[:23] for text in texts]
    pairs = [(text[: 23 + len(text)], k) for text, k in zip(texts, known, strict=True) if k]
    if algorithm == "gs1_pair":
        pairs = [(t, k) for t, k in pairs if sum(c in GS1_82 for c in t) <= 23]
    else:
        pairs = [(t, "".join(c for c in t if c in PAYLOAD[algorithm])) for t, _ in pairs]
    rows = connection.execute(
        "select machserial._check_filter(%s, t.text), machserial._check_in_pattern(%s, t.text)"
        " from unnest(%s::text[]) with ordinality as t (text, n) order by t.n",
        (algorithm, algorithm, [text for text, _ in pairs]),
    ).fetchall()
    assert rows == [(k, ORACLE[algorithm](k)) for _, k in pairs]


def test_the_documented_pattern_example(connection):
    assert value_of(connection, "select machserial._check_in_pattern('luhn', 'PROD-000001')") == "8"


def test_nothing_left_to_check_is_refused(connection):
    for algorithm in ALGORITHMS:
        for text in ("", "€ €"):
            diagnosis = refusal(connection, "select machserial._check_in_pattern(%s, %s)", algorithm, text)
            assert algorithm in diagnosis.message_primary
            assert repr(text) in diagnosis.message_detail


def test_numbers_are_encoded_in_fixed_width(connection):
    for alphabet, width in itertools.product(ALPHABETS, (1, 2, 3, 6, 12)):
        generator = random.Random(width)
        limit = min(len(alphabet) ** width, 2**63)
        numbers = [0, 1, limit - 1] + [generator.randrange(limit) for _ in range(50)]
        expression = value_of(connection, "select machserial._encode_expression('v.number', %s, %s)", width, alphabet)
        query = expression.replace("%", "%%").join(
            ["select ", " from unnest(%s::bigint[]) with ordinality as v (number, n) order by v.n"]
        )
        encoded = [row[0] for row in connection.execute(query, (numbers,))]
        assert [text for text in encoded if len(text) != width] == []
        for number, text in zip(numbers, encoded, strict=True):
            assert sum(alphabet.index(c) * len(alphabet) ** place for place, c in enumerate(reversed(text))) == number


def fixed(text, sample=...):
    """A text that is constant for one call; sample: of the same shape, None where only the call knows it."""
    sample = text if sample is ... else sample
    piece = {"fixed": "'" + text.replace("'", "''") + "'::text"}
    return piece if sample is None else {**piece, "sample": sample}


def digits(name, width, alphabet=DIGITS):
    return {"digits": f"(numbers.{name} / 1)", "width": width, "alphabet": alphabet}


def compile_check(connection, algorithm, segments, prefix="check_9"):
    declarations, expression = connection.execute(
        "select c.declarations, c.expression from machserial._compile_check(%s, %s, %s) as c",
        (algorithm, json.dumps(segments), prefix),
    ).fetchone()
    assert all(d["name"].startswith(prefix) for d in declarations)
    return declarations, expression


def both_ways(connection, algorithm, segments, numbers):
    """The compiled result, and that of the slow way, for each pair of numbers; and the compiled expression."""
    declarations, expression = compile_check(connection, algorithm, segments)
    left_text = " || ".join(
        s["fixed"]
        if "fixed" in s
        else s["text"]
        if "text" in s
        else value_of(
            connection, "select machserial._encode_expression(%s, %s, %s)", s["digits"], s["width"], s["alphabet"]
        )
        for s in segments
    )
    once = "".join(
        f" cross join lateral (select ({d['expression']})::{d['type']} as {d['name']}) as declared_{i}"
        for i, d in enumerate(declarations)
    )
    query = (
        f"select {expression}, machserial._check_in_pattern('{algorithm}', {left_text})".replace("%", "%%")
        + " from rows from (unnest(%s::bigint[]), unnest(%s::bigint[])) with ordinality as numbers (a, b, n)"
        + once.replace("%", "%%")
        + " order by numbers.n"
    )
    rows = connection.execute(query, ([a for a, _ in numbers], [b for _, b in numbers])).fetchall()
    return [row[0] for row in rows], [row[1] for row in rows], expression


def numbers_for(segments, count=25, seed=1):
    generator = random.Random(seed)
    limits = {"a": 1, "b": 1}
    for segment in segments:
        if "digits" in segment:
            name = "a" if "numbers.a" in segment["digits"] else "b"
            limits[name] = min(len(segment["alphabet"]) ** segment["width"], 2**63)
    pairs = [(0, 0), (limits["a"] - 1, 0), (0, limits["b"] - 1), (limits["a"] - 1, limits["b"] - 1)]
    return pairs + [(generator.randrange(limits["a"]), generator.randrange(limits["b"])) for _ in range(count)]


def is_slow(expression):
    return "machserial._check_in_pattern" in expression


def knows(algorithm, alphabet):
    return set(alphabet) <= set(PAYLOAD[algorithm])


def own_alphabet(algorithm):
    return DIGITS if knows(algorithm, DIGITS) else LETTERS


def shapes(alphabet, other):
    """What patterns look like left of {CHECK}: in each the digits are written in alphabet or in other."""
    return {
        "digits only": [digits("a", 6, alphabet)],
        "one digit": [digits("a", 1, alphabet)],
        "prefix": [fixed("PROD-7"), digits("a", 6, alphabet)],
        "separators": [fixed("P-"), digits("a", 5, alphabet), fixed("-")],
        "date before": [fixed("SN"), fixed("260722", "991231"), fixed("-"), digits("a", 4, alphabet)],
        "date behind": [fixed("A"), digits("a", 5, alphabet), fixed("/2026", "/1999"), fixed("-07", "-12")],
        "context before": [fixed("WO-47X1", None), fixed("-"), digits("a", 6, alphabet)],
        "context behind": [digits("a", 6, alphabet), fixed("L0T 81", None), fixed("B", "B")],
        "context of nothing": [digits("a", 3, alphabet), fixed("- -", None)],
        "two pieces": [fixed("X1"), digits("a", 3, alphabet), fixed("-2Y"), digits("b", 4, other), fixed("Z9")],
        "adjacent pieces": [digits("a", 4, other), digits("b", 3, alphabet)],
        "context between": [digits("a", 3, alphabet), fixed("0O-1", None), digits("b", 2, other)],
        "quotes": [fixed("it's \\ $$ % {}"), digits("a", 5, alphabet), fixed("'%s'||chr(65)--", None)],
    }


@pytest.mark.parametrize("algorithm", mostly_slow(ALGORITHMS, list(ALGORITHMS)[::3]))
def test_the_compiled_expression_is_right(connection, algorithm):
    for alphabet in ALPHABETS:
        for shape, segments in shapes(alphabet, own_alphabet(algorithm)).items():
            try:
                with connection.transaction():
                    fast, slow, expression = both_ways(connection, algorithm, segments, numbers_for(segments))
            except psycopg.errors.InvalidParameterValue as error:
                # Some number, if not all of them, has nothing that the algorithm knows.
                assert not knows(algorithm, alphabet) and "nothing" in error.diag.message_primary
                continue
            assert fast == slow, (shape, alphabet)
            if knows(algorithm, alphabet):
                assert not is_slow(expression), (shape, alphabet, "the common shapes are arithmetic")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@several()
@given(data=st.data())
def test_the_compiled_expression_is_right_for_any_shape(connection, algorithm, data):
    text = st.text("AZ09-a'\\ ", max_size=5)
    names = iter("ab")
    segments = []
    for _ in range(data.draw(st.integers(1, 5))):
        kind = data.draw(st.sampled_from(["fixed", "unknown", "digits"]))
        if kind == "digits" and (name := next(names, None)):
            alphabets = [a for a in ALPHABETS if knows(algorithm, a) or not set(a) & set(PAYLOAD[algorithm])]
            segments.append(digits(name, data.draw(st.integers(1, 7)), data.draw(st.sampled_from(alphabets))))
        else:
            segments.append(fixed(data.draw(text), ... if kind == "fixed" else None))
    try:
        with connection.transaction():
            fast, slow, _ = both_ways(connection, algorithm, segments, numbers_for(segments, 20))
    except psycopg.errors.InvalidParameterValue as error:
        assert "nothing" in error.diag.message_primary or "at most 23" in error.diag.message_primary
        return
    assert fast == slow


def test_very_wide_numbers(connection):
    # 16 letters, 14 of SAFE and 20 digits hold more than a bigint: their leading digits are zeros.
    for algorithm in ALGORITHMS:
        for width, alphabet in ((18, DIGITS), (20, DIGITS), (12, BASE36), (16, LETTERS), (14, SAFE)):
            if knows(algorithm, alphabet):
                segments = [digits("a", width, alphabet)]
                fast, slow, _ = both_ways(connection, algorithm, segments, numbers_for(segments))
                assert fast == slow, (algorithm, width, alphabet)


def test_texts_that_vary_take_the_slow_way(connection):
    for algorithm in ALGORITHMS:
        segments = [fixed("A1"), {"text": "md5(numbers.a::text)::text"}, digits("b", 3, own_alphabet(algorithm))]
        if algorithm == "gs1_pair":
            segments[1] = {"text": "left(md5(numbers.a::text), 8)"}
        fast, slow, expression = both_ways(connection, algorithm, segments, [(n, n) for n in range(100)])
        assert fast == slow
        assert is_slow(expression)


def test_constant_text_is_evaluated_once(connection):
    for algorithm in ALGORITHMS:
        declarations, expression = compile_check(connection, algorithm, [fixed("A1"), fixed("B2", None)])
        assert [d["type"] for d in declarations] == ["text"] and expression == declarations[0]["name"]
        fast, slow, _ = both_ways(connection, algorithm, [fixed("A1"), fixed("B2", None)], [(1, 1)])
        assert fast == slow


def test_what_can_never_work_is_refused_when_it_is_compiled(connection):
    cases = [
        ("luhn", [], "nothing"),
        ("luhn", [fixed("ABC-")], "nothing"),
        ("luhn", [fixed("ABC-"), digits("a", 4, LETTERS)], "nothing"),
        ("mod27_26", [digits("a", 4)], "nothing"),
        ("gs1_pair", [fixed("A" * 20), digits("a", 4)], "at most 23"),
    ]
    for algorithm, segments, complaint in cases:
        diagnosis = refusal(
            connection, "select machserial._compile_check(%s, %s, 'p')", algorithm, json.dumps(segments)
        )
        assert complaint in diagnosis.message_primary
