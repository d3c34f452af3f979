"""Vendor serials: received as they are, judged by their vendor's rule, accepted or sent back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.rows import namedtuple_row
from support import (
    HOSTILE_NUMBERS,
    allow_unicode,
    at_once,
    call,
    column,
    generated,
    make_format,
    make_part,
    mostly_slow,
    publish,
    refused,
    register,
    value,
    violated,
)

EVENTS = "select event_type from machserial.audit_events where event_type like 'VENDOR%%' order by id"


@pytest.fixture
def plant(connection):
    """A database with the parts P and P2 of type T, Q of type U, and the sites DEFAULT and BER."""
    call(connection, "register_site", site_id="BER")
    make_part(connection, "P", "T")
    make_part(connection, "P2", "T")
    make_part(connection, "Q", "U")
    publish(connection)
    return connection


def receive(connection, number: object, vendor: str = "ACME", part_id: str = "P", **arguments: object) -> object:
    return call(
        connection, "receive_vendor_serial", serial_number=number, vendor_name=vendor, part_id=part_id, **arguments
    )[0]


def receive_many(connection, numbers: list, vendor: str = "ACME", part_id: str = "P", **arguments: object) -> list:
    return call(
        connection, "receive_vendor_serials", serial_numbers=numbers, vendor_name=vendor, part_id=part_id, **arguments
    )


def set_rule(connection, vendor: str = "ACME", **arguments: object) -> object:
    return call(connection, "set_vendor_rule", vendor_name=vendor, **arguments)[0]


def accept(connection, vendor_serial_id: object, **arguments: object) -> object:
    return call(connection, "accept_vendor_serial", vendor_serial_id=vendor_serial_id, **arguments)[0]


def reject(connection, vendor_serial_id: object, reason: object = "scratched") -> object:
    return call(connection, "reject_vendor_serial", vendor_serial_id=vendor_serial_id, reason=reason)[0]


def waive(connection, vendor_serial_id: object, reason: object = "agreed by phone") -> object:
    return call(connection, "waive_vendor_rule", vendor_serial_id=vendor_serial_id, reason=reason)[0]


def row(connection, relation: str, key: int) -> object:
    query = f"select * from machserial.{relation} where id = %s"
    return connection.cursor(row_factory=namedtuple_row).execute(query, (key,)).fetchone()


def statuses(connection, key: int) -> tuple[str, str]:
    """The status of the serial and of the vendor serial, which are always the same."""
    return row(connection, "serials", key).status, row(connection, "vendor_serials", key).status


# Receipt


def test_a_received_number_is_on_record_pending_and_claimed(plant):
    plant.execute("set local machserial.actor = 'Ada'")
    got = receive(plant, "V-1", received_date="2024-11-01", site_id="BER")
    assert (got.serial_number, got.vendor_name, got.part_id, got.site_id, got.status, got.validation_errors) == (
        "V-1", "ACME", "P", "BER", "PENDING", [],
    )  # fmt: skip
    assert (got.received_date.date().isoformat(), got.received_by, got.created_by) == ("2024-11-01", "Ada", "Ada")
    serial = row(plant, "serials", got.id)
    assert (serial.serial_number, serial.part_type, serial.site_id, serial.source, serial.status, serial.scopes) == (
        "V-1", "T", "BER", "VENDOR", "PENDING", ["SITE", "PART_TYPE"],
    )  # fmt: skip
    assert receive(plant, "V-2", received_date=None).received_date == value(plant, "select now()")
    with refused(plant, "23505") as refusal:
        receive(plant, "V-1", "OTHER", "P2", site_id="BER")
    assert "V-1" in refusal.message and str(got.id) in refusal.detail and "SITE" in refusal.detail
    with refused(plant, "23505"):
        register(plant, ["V-1"])
    receive(plant, "V-1", part_id="Q")


def test_a_number_is_stored_as_received_but_for_what_stands_around_it(plant):
    allow_unicode(plant)
    numbers = ["a1", "A1", "A 1", "A-1", "é", *HOSTILE_NUMBERS]
    assert [receive(plant, f" \t{number}\r\n").serial_number for number in numbers] == numbers
    assert column(plant, "select serial_number from machserial.vendor_serials order by id") == numbers
    others = [f"{number}2" for number in numbers]
    assert [row.serial_number for row in receive_many(plant, [f"\n{number} " for number in others], "$$ 'x'")] == others
    assert column(plant, "select serial_number from machserial.serials order by id")[: len(numbers)] == numbers
    with refused(plant, "23505"):
        receive(plant, " A1 ")


def test_a_receipt_with_bad_arguments_is_refused(plant):
    for arguments, sqlstate in [
        ({"serial_number": None}, "22023"),
        ({"serial_number": ""}, "22023"),
        ({"serial_number": " \n"}, "22023"),
        ({"serial_number": "x" * 256}, "22023"),
        ({"vendor_name": None}, "22023"),
        ({"vendor_name": " "}, "22023"),
        ({"part_id": None}, "23503"),
        ({"part_id": "NOBODY"}, "23503"),
        ({"site_id": "NOWHERE"}, "23503"),
    ]:
        good = {"serial_number": "N", "vendor_name": "ACME", "part_id": "P"}
        with refused(plant, sqlstate):
            call(plant, "receive_vendor_serial", **{**good, **arguments})
        if "serial_number" not in arguments:
            with refused(plant, sqlstate):
                receive_many(plant, ["N"], **{"vendor": "ACME", **_for_many(arguments)})
    with refused(plant, "22023"):
        receive_many(plant, None)
    receive(plant, " " + "x" * 255 + " ")
    assert receive_many(plant, []) == []
    assert value(plant, "select count(*) from machserial.serials") == 1


def _for_many(arguments: dict) -> dict:
    return {"vendor" if name == "vendor_name" else name: given for name, given in arguments.items()}


def test_of_many_the_good_go_in_and_the_others_come_back_with_their_reasons(plant):
    held = register(plant, ["TAKEN"])[0].serial_id
    set_rule(plant, regex="^[A-Z]+$")
    numbers = ["GOOD", "TAKEN", None, " ", "GOOD ", "bad", "x" * 256, "ALSO"]
    rows = receive_many(plant, numbers, received_date="2024-11-01", site_id=None)
    assert [row.serial_number for row in rows] == ["GOOD", "TAKEN", None, "", "GOOD", "bad", "x" * 256, "ALSO"]
    assert [row.status for row in rows] == [
        "PENDING", "REFUSED", "REFUSED", "REFUSED", "REFUSED", "PENDING", "REFUSED", "PENDING",
    ]  # fmt: skip
    assert rows[0].errors == rows[7].errors == []
    for place, words in {1: f"serial {held}", 2: "null", 3: "empty", 4: "more than once", 5: "'bad'", 6: "256"}.items():
        assert words in rows[place].errors[0] and len(rows[place].errors) == 1
    stored = [row(plant, "vendor_serials", one.vendor_serial_id) for one in rows if one.vendor_serial_id]
    assert [(one.serial_number, one.status, one.validation_errors) for one in stored] == [
        ("GOOD", "PENDING", []), ("bad", "PENDING", rows[5].errors), ("ALSO", "PENDING", []),
    ]  # fmt: skip
    assert {one.received_date.date().isoformat() for one in stored} == {"2024-11-01"}
    assert plant.execute(
        "select serial_number, source, part_id, conflicting_serial_ids from machserial.serial_conflicts order by id"
    ).fetchall() == [
        ("TAKEN", "VENDOR", "P", [held]), ("GOOD", "VENDOR", "P", [rows[0].vendor_serial_id]),
    ]  # fmt: skip
    detected = "select serial_number from machserial.audit_events where event_type = 'CONFLICT_DETECTED' order by id"
    assert column(plant, detected) == ["TAKEN", "GOOD"]


@pytest.mark.parametrize("thousands", mostly_slow([1, 10], [1]))
def test_thousands_are_received_and_thousands_of_duplicates_put_on_record(plant, thousands):
    # A session that has begun with single numbers is no slower afterwards.
    for number in range(7):
        receive_many(plant, [f"S{number}"])
    count, duplicates = thousands * 1000, thousands * 400
    numbers = [f"N{number:05}" for number in range(count)]
    rows = receive_many(plant, numbers[::-1])
    assert [row.serial_number for row in rows] == numbers[::-1] and {row.status for row in rows} == {"PENDING"}
    again = receive_many(plant, [*numbers[:duplicates], "NEW"])
    assert [row.status for row in again] == ["REFUSED"] * duplicates + ["PENDING"]
    assert value(plant, "select count(distinct conflicting_serial_ids) from machserial.serial_conflicts") == duplicates
    for key in column(plant, "select id from machserial.vendor_serials where serial_number ~ '^S'"):
        accept(plant, key)
    ids = [row.vendor_serial_id for row in rows]
    assert {row.status for row in call(plant, "accept_vendor_serials", vendor_serial_ids=ids)} == {"ACTIVE"}
    assert value(plant, "select count(*) from machserial.serials where status = 'ACTIVE'") == count + 7
    accepted = "select count(*) from machserial.audit_events where event_type = 'VENDOR_ACCEPTED'"
    assert value(plant, accepted) == count + 7
    plant.execute("set local machserial.reason = 'recall'")
    plant.execute("update machserial.serials set status = 'RETIRED' where serial_number like 'N0%'")
    assert value(plant, "select count(*) from machserial.vendor_serials where status = 'RETIRED'") == count


def test_the_guide_s_queries_run_as_printed(plant):
    first = receive(plant, "DUPLICATE-SERIAL-001")
    reject(plant, first.id)
    second = receive(plant, "DUPLICATE-SERIAL-001")
    receive(plant, "ANOTHER")
    plant.execute("set local search_path = machserial, public")
    assert plant.execute(
        "SELECT serial_number, COUNT(*) FROM vendor_serials GROUP BY serial_number HAVING COUNT(*) > 1;"
    ).fetchall() == [("DUPLICATE-SERIAL-001", 2)]
    found = plant.execute(
        "SELECT id, serial_number, part_id, status, created_at FROM vendor_serials "
        "WHERE serial_number = 'DUPLICATE-SERIAL-001' ORDER BY created_at;"
    ).fetchall()
    assert {(key, status) for key, _, _, status, _ in found} == {(first.id, "REJECTED"), (second.id, "PENDING")}


# The table itself


def test_a_row_that_is_inserted_directly_makes_its_serial_and_is_judged(plant):
    set_rule(plant, max_length=3)
    plant.execute(
        "insert into machserial.vendor_serials (serial_number, vendor_name, part_id, site_id, validation_errors) "
        "values (' D1 ', 'ACME', 'P', 'BER', '{}'), ('D234', 'ACME', 'Q', default, default)"
    )
    with plant.cursor().copy("copy machserial.vendor_serials (vendor_name, serial_number, part_id) from stdin") as copy:
        copy.write("ACME\tC1\tP\nOTHER\tC2345\tP\n")
    assert plant.execute(
        "select v.serial_number, v.site_id, v.status, cardinality(v.validation_errors), "
        "(s.serial_number, s.part_id, s.site_id, s.status, s.source) "
        "  = (v.serial_number, v.part_id, v.site_id, v.status, 'VENDOR') "
        "from machserial.vendor_serials as v inner join machserial.serials as s using (id) order by v.id"
    ).fetchall() == [
        ("D1", "BER", "PENDING", 0, True), ("D234", "DEFAULT", "PENDING", 1, True),
        ("C1", "DEFAULT", "PENDING", 0, True), ("C2345", "DEFAULT", "PENDING", 0, True),
    ]  # fmt: skip
    for columns, values, sqlstate in [
        ("serial_number, vendor_name, part_id", "'D1', 'ACME', 'P'", "23505"),
        ("serial_number, vendor_name, part_id", "'X', ' ', 'P'", "22023"),
        ("serial_number, part_id", "'X', 'P'", "22023"),
        ("vendor_name, part_id, serial_number", "'ACME', 'P', 'A  B'", "23514"),
        ("serial_number, vendor_name", "'X', 'ACME'", "23503"),
        ("serial_number, vendor_name, part_id, site_id", "'X', 'ACME', 'P', 'NOWHERE'", "23503"),
        ("serial_number, vendor_name, part_id, status", "'XXXX', 'ACME', 'P', 'ACTIVE'", "55000"),
        ("id, vendor_name", "4711, 'ACME'", "23503"),
    ]:
        with refused(plant, sqlstate):
            plant.execute(f"insert into machserial.vendor_serials ({columns}) values ({values})")
    with violated(plant, "23514"):
        plant.execute(
            "insert into machserial.vendor_serials (serial_number, vendor_name, part_id, status) values "
            "('X', 'OTHER', 'P', 'LOST')"
        )


def test_a_serial_that_is_there_may_get_its_vendor_and_says_what_it_is_itself(plant):
    key = register(plant, ["V"], source="VENDOR")[0].serial_id
    own = register(plant, ["M"])[0].serial_id
    insert = "insert into machserial.vendor_serials (id, vendor_name, {}) values (%s, 'ACME', '{}')"
    for name, wrong in {"serial_number": "W", "part_id": "P2", "site_id": "BER", "status": "PENDING"}.items():
        with refused(plant, "22023"):
            plant.execute(insert.format(name, wrong), (key,))
    with refused(plant, "22023") as refusal:
        plant.execute(insert.format("part_id", "P"), (own,))
    assert "MANUAL" in refusal.detail
    plant.execute(insert.format("part_id", "P"), (key,))
    got = row(plant, "vendor_serials", key)
    assert (got.serial_number, got.part_id, got.site_id, got.status) == ("V", "P", "DEFAULT", "ACTIVE")


def test_what_was_received_stays(plant):
    set_rule(plant, regex="^A")
    kept = receive(plant, "B")
    waive(plant, kept.id)
    accept(plant, kept.id)
    for assignment in [
        "id = 4711", "serial_number = 'C'", "part_id = 'P2'", "site_id = 'BER'", "vendor_name = 'OTHER'",
        "validation_errors = '{}'", "validated_at = now() - interval '1 day'",
        "received_by = 'somebody'", "created_by = 'somebody'", "created_at = '2020-01-01'",
        "waived_reason = 'other'", "waived_by = 'other'", "waived_at = null, waived_by = null, waived_reason = null",
        "accepted_by = 'somebody'", "accepted_at = null, accepted_by = null", "accepted_by = 'me', status = 'RETIRED'",
        "rejected_at = now(), rejected_by = 'me', rejection_reason = 'none'",
    ]:  # fmt: skip
        with refused(plant, "55000") as refusal:
            plant.execute(f"update machserial.vendor_serials set {assignment}")
        assert assignment.split()[0] in refusal.detail
    for statement in ("delete from {}", "delete from {} where false", "truncate {}", "truncate {} cascade"):
        with refused(plant, "55000"):
            plant.execute(statement.format("machserial.vendor_serials"))
    # A date that was mistyped can be set right; saying again what it is changes nothing.
    plant.execute("update machserial.vendor_serials set received_date = '2020-01-01', vendor_name = 'ACME'")
    assert column(plant, EVENTS)[-1] == "VENDOR_UPDATED"
    details = value(plant, "select details from machserial.audit_events order by id desc limit 1")
    assert details["received_date"]["new"].startswith("2020-01-01") and details["vendor_name"] == "ACME"


# Rules


RULES = [
    ({"regex": "^AC-[0-9]{3}$"}, ["AC-123"], ["AC-12", "ac-123", "AC-1234", "xAC-123"]),
    ({"min_length": 3}, ["123", "é漢🔩"], ["12"]),
    ({"max_length": 3}, ["123", "1"], ["1234"]),
    ({"check_algorithm": "LUHN"}, ["79927398713", "ACME-7992-7398713"], ["79927398710", "ABC", "0", "ABC0"]),
    ({"check_algorithm": "mod97_10"}, ["79444"], ["79445", "4"]),
    ({"pattern": "AC-{SEQ:3}"}, ["AC-001"], ["AC-1", "AD-001", "AC-0001", "xAC-001"]),
    (
        {"pattern": "{YYYY}{MM}{DD}-{SEQ:3}{CHECK:luhn}"},
        ["20240229-0011", "20240131-0018"],
        ["20240229-0012", "20230229-0012", "20241301-0010", "2024022-0018"],
    ),
    ({"pattern": "{YY}-{SEQ:2}-{YY}"}, ["24-01-24"], ["24-01-25"]),
    ({"pattern": "{LOT}-{MM}-{LOT}"}, ["A-12-B", "A-01-99-B", "A-12-13-B"], ["A-13-B", "A-12"]),
    ({"pattern": "{LOT}{SEQ:3}{CHECK:luhn}"}, ["L70011", "L7-10004"], ["L70012", "0018"]),
    ({"pattern": "{LOT}{CHECK:gs1_pair}"}, [], ["A" * 60]),
    ({"regex": "^A", "min_length": 3, "pattern": "A{SEQ:2}"}, ["A12"], ["B"]),
]


@pytest.mark.parametrize(("rule", "good", "bad"), RULES, ids=[str(rule) for rule, _, _ in RULES])
def test_a_rule_says_which_numbers_are_good(plant, rule, good, bad):
    allow_unicode(plant)
    set_rule(plant, **rule)
    rows = receive_many(plant, [*good, *bad])
    assert {row.status for row in rows} == {"PENDING"}
    assert [(row.serial_number, row.errors == []) for row in rows] == [
        *((number, True) for number in good), *((number, False) for number in bad),
    ]  # fmt: skip
    for broken in rows[len(good) :]:
        assert broken.errors == row(plant, "vendor_serials", broken.vendor_serial_id).validation_errors
    if rule.keys() == {"pattern"} and "gs1" not in rule["pattern"]:
        for number in [*good, *bad]:
            (verdict,) = call(plant, "validate_serial", serial_number=number, pattern=rule["pattern"])
            assert verdict.is_valid == (number in good), number


def test_each_criterion_that_is_broken_is_an_error_and_names_what_was_found(plant):
    set_rule(plant, regex="^A", min_length=9, max_length=9, check_algorithm="luhn", pattern="A{SEQ:8}")
    errors = receive(plant, "B1").validation_errors
    assert len(errors) == 4 and all("'B1'" in error for error in errors)
    for error, word in zip(errors, ["2 characters", "^A", "luhn", "A{SEQ:8}"], strict=True):
        assert word in error


def test_the_part_s_own_rule_comes_before_the_general_one(plant):
    set_rule(plant, regex="^GENERAL")
    set_rule(plant, part_id="P2", regex="^OWN")
    set_rule(plant, "OTHER", regex="^OTHER")
    for vendor, part_id, number, fits in [
        ("ACME", "P", "GENERAL1", True), ("ACME", "P", "OWN1", False),
        ("ACME", "P2", "OWN2", True), ("ACME", "P2", "GENERAL2", False),
        ("OTHER", "P2", "OWN3", False), ("NOBODY", "P2", "ANY", True), ("acme", "P", "ANY2", True),
    ]:  # fmt: skip
        assert (receive(plant, number, vendor, part_id).validation_errors == []) == fits, number
    call(plant, "delete_vendor_rule", vendor_name="ACME", part_id="P2")
    assert receive(plant, "GENERAL3", part_id="P2").validation_errors == []


def test_a_rule_is_replaced_as_a_whole_and_deleted(plant):
    first = set_rule(plant, part_id="P", regex="^A", min_length=2)
    second = set_rule(plant, part_id="P", check_algorithm="Modulo11")
    assert (second.id, second.part_id, second.regex, second.min_length) == (first.id, "P", None, None)
    assert second.check_algorithm == "mod11"
    set_rule(plant, part_id="P", check_algorithm="mod11")
    with violated(plant, "23505"):
        plant.execute("insert into machserial.vendor_rules (vendor_name, part_id, regex) values ('ACME', 'P', 'x')")
    plant.execute("update machserial.vendor_rules set pattern = 'A{SEQ:3}'")
    assert receive(plant, "A12").validation_errors != []
    with refused(plant, "P0002"):
        call(plant, "delete_vendor_rule", vendor_name="ACME")
    with refused(plant, "P0002"):
        call(plant, "delete_vendor_rule", vendor_name=None)
    with refused(plant, "55000"):
        plant.execute("truncate machserial.vendor_rules")
    assert call(plant, "delete_vendor_rule", vendor_name="ACME", part_id="P")[0].pattern == "A{SEQ:3}"
    events = plant.execute(
        "select event_type, part_id, details -> 'old' ->> 'check_algorithm', details -> 'new' ->> 'check_algorithm' "
        "from machserial.audit_events where event_type like 'VENDOR_RULE%' order by id"
    ).fetchall()
    assert events == [
        ("VENDOR_RULE_SET", "P", None, None), ("VENDOR_RULE_SET", "P", None, "mod11"),
        ("VENDOR_RULE_SET", "P", "mod11", "mod11"), ("VENDOR_RULE_DELETED", "P", "mod11", None),
    ]  # fmt: skip


def test_a_faulty_rule_is_refused_also_as_a_row(plant):
    for wrong, sqlstate in [
        ({}, "22023"),
        ({"vendor_name": None, "regex": "x"}, "22023"),
        ({"vendor_name": " ", "regex": "x"}, "22023"),
        ({"regex": "a("}, "22023"),
        ({"regex": "[z-a]"}, "22023"),
        ({"pattern": "A{SEQUENCE:3}"}, "22023"),
        ({"pattern": ""}, "22023"),
        ({"min_length": 0}, "22023"),
        ({"max_length": -1}, "22023"),
        ({"min_length": 256}, "22023"),
        ({"min_length": 5, "max_length": 4}, "22023"),
        ({"check_algorithm": "lune"}, "22023"),
        ({"part_id": "NOBODY", "regex": "x"}, "23503"),
    ]:
        rule = {"vendor_name": "ACME", **wrong}
        with refused(plant, sqlstate):
            call(plant, "set_vendor_rule", **rule)
        names, marks = ", ".join(rule), ", ".join(["%s"] * len(rule))
        with refused(plant, sqlstate):
            plant.execute(f"insert into machserial.vendor_rules ({names}) values ({marks})", list(rule.values()))
    set_rule(plant, regex="^A")
    with refused(plant, "22023"):
        plant.execute("update machserial.vendor_rules set regex = 'a('")


# From receipt to use


def test_a_broken_rule_keeps_a_serial_from_use_until_it_is_waived(plant):
    set_rule(plant, regex="^A")
    key = receive(plant, "B").id
    attempts = [
        lambda: accept(plant, key),
        lambda: call(plant, "accept_vendor_serials", vendor_serial_ids=[key]),
        lambda: plant.execute("update machserial.vendor_serials set status = 'ACTIVE'"),
        lambda: plant.execute("update machserial.serials set status = 'ACTIVE'"),
    ]
    for attempt in attempts:
        with refused(plant, "55000") as refusal:
            attempt()
        assert "'B'" in refusal.detail and f"waive_vendor_rule({key}" in refusal.hint
    # The rule of the day counts, whatever becomes of it.
    call(plant, "delete_vendor_rule", vendor_name="ACME")
    with refused(plant, "55000"):
        attempts[0]()
    for reason in (None, " "):
        with refused(plant, "22023"):
            waive(plant, key, reason)
    plant.execute("set local machserial.actor = 'Ada'")
    waived = waive(plant, key)
    assert (waived.waived_by, waived.waived_reason, waived.status) == ("Ada", "agreed by phone", "PENDING")
    with refused(plant, "55000"):
        waive(plant, key)
    for attempt in attempts:
        with plant.transaction(force_rollback=True):
            attempt()
            assert statuses(plant, key) == ("ACTIVE", "ACTIVE")


def test_only_what_is_broken_and_pending_is_waived(plant):
    set_rule(plant, regex="^A")
    fine, broken = receive(plant, "A").id, receive(plant, "B").id
    for key, sqlstate in [(fine, "55000"), (4711, "P0002"), (None, "P0002")]:
        with refused(plant, sqlstate):
            waive(plant, key)
    with refused(plant, "55000"):
        plant.execute("update machserial.vendor_serials set waived_reason = 'because' where id = %s", (fine,))
    with refused(plant, "22023"):
        plant.execute("update machserial.vendor_serials set waived_by = 'boss' where id = %s", (broken,))
    plant.execute("update machserial.vendor_serials set waived_reason = 'because' where id = %s", (broken,))
    assert row(plant, "vendor_serials", broken).waived_at is not None
    rejected = receive(plant, "C").id
    reject(plant, rejected)
    with refused(plant, "55000"):
        waive(plant, rejected)


def test_a_serial_is_accepted_once(plant):
    plant.execute("set local machserial.actor = 'Ada'")
    internal = register(plant, ["OURS"])[0].serial_id
    key = receive(plant, "V").id
    got = accept(plant, key, internal_serial_id=internal)
    assert (got.status, got.internal_serial_id, got.accepted_by) == ("ACTIVE", internal, "Ada")
    assert got.accepted_at is not None and statuses(plant, key) == ("ACTIVE", "ACTIVE")
    with refused(plant, "55000") as refusal:
        accept(plant, key)
    assert refusal.detail == "It is ACTIVE, accepted by Ada."
    with refused(plant, "55000"):
        reject(plant, key)
    for unknown in (4711, None, internal):
        with refused(plant, "P0002"):
            accept(plant, unknown)
        with refused(plant, "P0002"):
            reject(plant, unknown)


def test_the_internal_serial_is_one_in_use_and_nobody_else_s(plant):
    numbers = register(plant, ["ACTIVE", "RETIRED", "INVALID", "REJECTED"], scopes=["SITE"])
    internal = {row.serial_number: row.serial_id for row in numbers}
    plant.execute("set local machserial.reason = 'gone'")
    for status in ("RETIRED", "INVALID"):
        plant.execute("update machserial.serials set status = %s where serial_number = %s", (status, status))
    plant.execute("insert into machserial.serials (serial_number, part_id, status) values ('R', 'P', 'REJECTED')")
    internal["REJECTED"] = column(plant, "select id from machserial.serials where serial_number = 'R'")[0]
    first, second = receive(plant, "V1").id, receive(plant, "V2").id
    accept(plant, first, internal_serial_id=internal["ACTIVE"])
    for wrong, sqlstate in [
        (internal["RETIRED"], "55000"), (internal["INVALID"], "55000"), (internal["REJECTED"], "55000"),
        (second, "55000"), (4711, "23503"), (internal["ACTIVE"], "23505"),
    ]:  # fmt: skip
        with refused(plant, sqlstate):
            accept(plant, second, internal_serial_id=wrong)
        with violated(plant, sqlstate):
            plant.execute("update machserial.vendor_serials set internal_serial_id = %s where id = %s", (wrong, second))
    assert statuses(plant, second) == ("PENDING", "PENDING")
    accept(plant, second)
    plant.execute("update machserial.vendor_serials set internal_serial_id = null where id = %s", (first,))
    details = value(plant, "select details from machserial.audit_events order by id desc limit 1")
    assert details["internal_serial_id"] == {"old": internal["ACTIVE"], "new": None}


def test_a_rejected_number_is_free_and_may_be_sent_again(plant):
    first = receive(plant, "V").id
    for reason in (None, "  "):
        with refused(plant, "22023"):
            reject(plant, first, reason)
    plant.execute("set local machserial.actor = 'Ada'")
    got = reject(plant, first, "scratched")
    assert (got.status, got.rejection_reason, got.rejected_by) == ("REJECTED", "scratched", "Ada")
    assert got.rejected_at is not None and row(plant, "serials", first).status_reason == "scratched"
    for again in (accept, reject):
        with refused(plant, "55000") as refusal:
            again(plant, first)
        assert "REJECTED" in refusal.detail and "scratched" in refusal.detail
    second = receive(plant, "V")
    assert second.id != first and accept(plant, second.id).status == "ACTIVE"
    assert statuses(plant, first) == ("REJECTED", "REJECTED")
    (third,) = receive_many(plant, ["V"])
    assert third.status == "REFUSED"


def test_many_are_accepted_all_or_none(plant):
    set_rule(plant, regex="^A")
    rows = receive_many(plant, ["A1", "A2", "B1", "A3"])
    a1, a2, b1, a3 = (row.vendor_serial_id for row in rows)
    accept(plant, a3)
    for ids, sqlstate in [([a1, b1], "55000"), ([a1, a3], "55000"), ([a1, 4711], "P0002"), ([a1, None], "P0002")]:
        with refused(plant, sqlstate):
            call(plant, "accept_vendor_serials", vendor_serial_ids=ids)
    with refused(plant, "22023"):
        call(plant, "accept_vendor_serials", vendor_serial_ids=None)
    assert call(plant, "accept_vendor_serials", vendor_serial_ids=[]) == []
    assert statuses(plant, a1) == ("PENDING", "PENDING")
    accepted = call(plant, "accept_vendor_serials", vendor_serial_ids=[a2, a1, a2])
    assert [(row.id, row.status) for row in accepted] == [(a1, "ACTIVE"), (a2, "ACTIVE")]


def test_the_status_is_one_whichever_table_it_is_written_to(plant):
    plant.execute("set local machserial.reason = 'by order'")
    for relation in ("serials", "vendor_serials"):
        for steps in (["ACTIVE", "RETIRED", "INVALID"], ["REJECTED"], ["CONFLICT", "PENDING", "ACTIVE", "CONFLICT"]):
            key = receive(plant, f"{relation}-{steps}").id
            for step in steps:
                plant.execute(f"update machserial.{relation} set status = %s where id = %s", (step, key))
                assert statuses(plant, key) == (step, step)
                assert row(plant, "serials", key).status_reason == "by order"
            got = row(plant, "vendor_serials", key)
            assert (got.accepted_at is not None, got.rejection_reason) == (
                "ACTIVE" in steps, "by order" if "REJECTED" in steps else None,
            )  # fmt: skip
        # The life cycle is the serial's.
        with refused(plant, "55000"):
            plant.execute(f"update machserial.{relation} set status = 'ACTIVE' where status = 'INVALID'")
        with refused(plant, "55000"):
            plant.execute(f"update machserial.{relation} set status = 'PENDING' where status = 'REJECTED'")
        with refused(plant, "55000"):
            plant.execute(f"update machserial.{relation} set status = 'LOST' where status = 'CONFLICT'")
        plant.execute(f"update machserial.{relation} set status = status")
        plant.execute(f"update machserial.{relation} set status = 'ACTIVE' where false")
    plant.execute("set local machserial.reason = ''")
    key = receive(plant, "X").id
    for statement in ("set status = 'REJECTED'", "set status = 'RETIRED'"):
        for relation in ("serials", "vendor_serials"):
            with refused(plant, "22023"):
                plant.execute(f"update machserial.{relation} {statement} where id = %s", (key,))
    plant.execute("update machserial.serials set status = 'REJECTED', status_reason = 'bent' where id = %s", (key,))
    assert row(plant, "vendor_serials", key).rejection_reason == "bent"


def test_a_vendor_serial_is_looked_at_again(plant):
    def look(key: int) -> tuple:
        (seen,) = call(plant, "validate_vendor_serial", vendor_serial_id=key)
        assert seen.is_valid == (seen.errors == [])
        return seen.is_valid, seen.format_valid, seen.is_unique, len(seen.errors), len(seen.warnings)

    key = receive(plant, "B").id
    assert look(key) == (True, True, True, 0, 1)
    set_rule(plant, regex="^B")
    assert look(key) == (True, True, True, 0, 0)
    set_rule(plant, regex="^A", max_length=1)
    assert look(key) == (False, False, True, 1, 0)
    broken = receive(plant, "BB").id
    assert look(broken) == (False, False, True, 2, 0)
    waive(plant, broken)
    assert look(broken) == (True, False, True, 0, 3)
    late = receive(plant, "C").id
    set_rule(plant, regex="^C")
    assert look(late) == (True, True, True, 0, 1)
    reject(plant, late)
    assert look(late)[2]
    register(plant, ["C"])
    assert look(late) == (False, True, False, 1, 1)
    for unknown in (4711, None):
        with refused(plant, "P0002"):
            look(unknown)


def test_every_step_is_an_event(plant):
    set_rule(plant, regex="^A")
    plant.execute("set local machserial.actor = 'Ada'")
    key = receive(plant, "B", received_date="2024-11-01").id
    waive(plant, key, "agreed")
    accept(plant, key)
    plant.execute("update machserial.serials set status = 'RETIRED', status_reason = 'worn' where id = %s", (key,))
    reject(plant, receive(plant, "C").id, "bent")
    rows = plant.execute(
        "select event_type, serial_number, part_id, site_id, performed_by, reason, details ->> 'vendor_name' "
        "from machserial.audit_events where event_type like 'VENDOR%' and event_type not like '%RULE%' order by id"
    ).fetchall()
    assert rows == [
        (event, number, "P", "DEFAULT", "Ada", reason, "ACME")
        for event, number, reason in [
            ("VENDOR_RECEIVED", "B", None), ("VENDOR_WAIVED", "B", "agreed"), ("VENDOR_ACCEPTED", "B", None),
            ("VENDOR_RECEIVED", "C", None), ("VENDOR_REJECTED", "C", "bent"),
        ]
    ]  # fmt: skip
    details = column(plant, "select details from machserial.audit_events where event_type = 'VENDOR_RECEIVED'")[0]
    assert details["received_date"].startswith("2024-11-01") and "'B'" in details["validation_errors"][0]
    with plant.transaction(force_rollback=True):
        direct = "insert into machserial.vendor_serials (serial_number, vendor_name, part_id) values ('D', 'X', 'P')"
        plant.execute(direct)
        assert column(plant, EVENTS)[-1] == "VENDOR_RECEIVED"


RECEIPTS = {
    "receive_vendor_serial": "select machserial.receive_vendor_serial('V1', 'ACME', 'P')",
    "receive_vendor_serials": "select machserial.receive_vendor_serials('ACME', 'P', '{V1,V2,V2}')",
    "insert": "insert into machserial.vendor_serials (serial_number, vendor_name, part_id) values ('V1', 'ACME', 'P')",
    "insert of several": "insert into machserial.vendor_serials (serial_number, vendor_name, part_id) "
    "select 'V' || n, 'ACME', 'P' from generate_series(1, 9) as n",
    "both at once": "with made as (insert into machserial.serials (serial_number, part_id, source, status) "
    "values ('V1', 'P', 'VENDOR', 'PENDING') returning id) "
    "insert into machserial.vendor_serials (id, vendor_name) select id, 'ACME' from made",
    "fire": "select machserial.fire('MATERIAL_RECEIPT', 'P', "
    "'{\"vendor_name\": \"ACME\", \"serial_numbers\": [\"V1\", \"V2\"]}')",
}
STEPS = {
    "accept": ("select machserial.accept_vendor_serials(array(select id from machserial.vendor_serials))", "ACCEPTED"),
    "reject": ("select machserial.reject_vendor_serial(id, 'bent') from machserial.vendor_serials", "REJECTED"),
    "accept by SQL": ("update machserial.vendor_serials set status = 'ACTIVE'", "ACCEPTED"),
    "reject by SQL": (
        "update machserial.vendor_serials set status = 'REJECTED', rejection_reason = 'bent'", "REJECTED"
    ),
    "accept by the serial": ("update machserial.serials set status = 'ACTIVE' where source = 'VENDOR'", "ACCEPTED"),
    "reject by the serial": (
        "update machserial.serials set status = 'REJECTED', status_reason = 'bent' where source = 'VENDOR'", "REJECTED"
    ),
}  # fmt: skip
TOLD = (
    "select event_type, count(*), count(distinct serial_id) from machserial.audit_events "
    "where serial_number like 'V%' and event_type !~ '^CONFLICT' group by 1 order by 1"
)


@pytest.mark.parametrize("receipt", RECEIPTS)
def test_a_receipt_and_each_of_its_steps_is_one_event(plant, receipt):
    call(plant, "create_trigger", part_id="P", trigger_type="MATERIAL_RECEIPT", assignment_type="VENDOR")
    plant.execute(RECEIPTS[receipt])
    count = value(plant, "select count(*) from machserial.vendor_serials")
    assert plant.execute(TOLD).fetchall() == [("VENDOR_RECEIVED", count, count)]
    for statement, outcome in STEPS.values():
        with plant.transaction(force_rollback=True):
            plant.execute(statement)
            assert plant.execute(TOLD).fetchall() == sorted(
                [("VENDOR_RECEIVED", count, count), (f"VENDOR_{outcome}", count, count)]
            ), statement
            [(reason, details)] = plant.execute(
                "select distinct reason, details - 'vendor_name' from machserial.audit_events where event_type = %s",
                (f"VENDOR_{outcome}",),
            ).fetchall()
            assert reason == ("bent" if outcome == "REJECTED" else None)
            becomes = "REJECTED" if outcome == "REJECTED" else "ACTIVE"
            assert details == {"status": {"old": "PENDING", "new": becomes}}
            assert call(plant, "integrity") == []


def test_what_else_is_written_with_a_step_is_told_by_the_serial(plant):
    key = receive(plant, "V1").id
    plant.execute("update machserial.serials set status = 'ACTIVE', lot_number = 'L-1' where id = %s", (key,))
    plant.execute("update machserial.serials set status = 'CONFLICT', status_reason = 'seen' where id = %s", (key,))
    plant.execute("update machserial.serials set status = 'ACTIVE', status_reason = 'misread' where id = %s", (key,))
    call(plant, "retire_serial", serial_id=key, reason="worn")
    told = plant.execute(
        "select event_type, reason, details - 'vendor_name' from machserial.audit_events "
        "where serial_id = %s and event_type !~ '^CONFLICT' order by id offset 1",
        (key,),
    ).fetchall()
    assert sorted(told, key=str) == sorted([
        ("SERIAL_UPDATED", None, {"lot_number": {"old": None, "new": "L-1"}}),
        ("VENDOR_ACCEPTED", None, {"status": {"old": "PENDING", "new": "ACTIVE"}}),
        ("SERIAL_UPDATED", "seen", {"status": {"old": "ACTIVE", "new": "CONFLICT"}}),
        ("VENDOR_UPDATED", "misread", {"status": {"old": "CONFLICT", "new": "ACTIVE"}}),
        ("SERIAL_RETIRED", "worn", {"status": {"old": "ACTIVE", "new": "RETIRED"}}),
    ], key=str)  # fmt: skip
    assert call(plant, "integrity") == []


def test_a_serial_of_a_vendor_s_without_a_receipt_tells_of_itself(plant):
    (row,) = register(plant, ["V1"], source="VENDOR")
    plant.execute(
        "update machserial.serials set status = 'RETIRED', status_reason = 'x' where id = %s", (row.serial_id,)
    )
    plant.execute(
        "insert into machserial.serials (serial_number, part_id, source, status) "
        "values ('V2', 'P', 'VENDOR', 'PENDING')"
    )
    plant.execute("update machserial.serials set status = 'ACTIVE' where serial_number = 'V2'")
    assert plant.execute(TOLD).fetchall() == [
        ("SERIAL_REGISTERED", 2, 2), ("SERIAL_RETIRED", 1, 1), ("SERIAL_UPDATED", 1, 1)
    ]  # fmt: skip
    # Its receipt, put on record later, is not a second beginning: what was changed behind its back is seen.
    plant.execute("insert into machserial.vendor_serials (id, vendor_name) select id, 'ACME' from machserial.serials "
                  "where serial_number = 'V2'")  # fmt: skip
    assert plant.execute(TOLD).fetchall()[-1] == ("VENDOR_RECEIVED", 1, 1)
    assert call(plant, "integrity") == []
    plant.execute("set session_replication_role = replica")
    for table in ("serials", "vendor_serials"):
        plant.execute(f"update machserial.{table} set status = 'PENDING' where serial_number = 'V2'")
    plant.execute("set session_replication_role = origin")
    assert [row.name for row in call(plant, "integrity")] == ["status"]


@pytest.mark.parametrize("key", ["-1", "0", "1 << 60", "(select last_value + 5 from machserial.serials_id_seq)"])
def test_a_receipt_cannot_choose_the_id_of_its_serial(plant, key):
    receive(plant, "V1")
    with refused(plant, "23503"):
        plant.execute(
            "insert into machserial.vendor_serials (id, serial_number, part_id, site_id, vendor_name, status, "
            f"validated_at) values ({key}, 'V2', 'P', 'DEFAULT', 'ACME', 'PENDING', now())"
        )


# Generators and other sessions


@pytest.mark.parametrize("allocation", ["SEQUENCE", "GAPLESS"])
def test_a_generator_steps_over_what_was_received(plant, connect, allocation):
    make_format(plant, "F", "G-{SEQ:5}", allocation=allocation)
    receive(plant, "G-00002")
    receive_many(plant, [f"G-{number:05}" for number in [4, 5, *range(100, 1100)]])
    assert [generated(plant, format="F")[0] for _ in range(3)] == ["G-00001", "G-00003", "G-00006"]
    numbers = generated(plant, quantity=2000, format="F")
    assert numbers == [f"G-{number:05}" for number in [*range(7, 100), *range(1100, 3007)]]
    plant.commit()
    # What another session has received and not yet committed decides itself by its end.
    for ending, expected in (("commit", "G-03008"), ("rollback", "G-03009")):
        receiver, generator = connect(), connect(autocommit=True)
        receive(receiver, expected if ending == "rollback" else "G-03007")
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(generated, generator, format="F")
            await_lock(plant, generator)
            getattr(receiver, ending)()
            assert waiting.result(60) == [expected]


def await_lock(observer: psycopg.Connection, session: psycopg.Connection) -> None:
    """Returns when the session waits for a lock."""
    query = "select exists (select from pg_locks where pid = %s and not granted)"
    for _ in range(6000):
        if value(observer, query, session.info.backend_pid):
            observer.rollback()
            return
        observer.execute("select pg_sleep(0.01)")
    raise AssertionError("the session never waited")


def test_generators_and_receipts_at_once_never_give_a_number_twice(plant, connect):
    make_format(plant, "F", "G-{SEQ:5}")
    plant.commit()
    sessions = [connect(autocommit=True) for _ in range(4)]

    def work(client: int) -> int:
        if client % 2:
            return sum(len(generated(sessions[client], quantity=150, format="F")) for _ in range(4))
        answers = receive_many(sessions[client], [f"G-{number:05}" for number in range(1, 1200, 2)][:: 1 - client])
        return sum(answer.vendor_serial_id is not None for answer in answers)

    assert sum(at_once(4, work)) == value(plant, "select count(*) from machserial.serials")
    assert value(plant, "select count(distinct serial_number) = count(*) from machserial.serials")
    assert value(plant, "select count(*) from machserial.serials where source = 'SYSTEM_GENERATED'") == 1200


@pytest.mark.parametrize(("ending", "outcome"), [("commit", "23505"), ("rollback", None)])
def test_two_sessions_receive_one_number(plant, connect, ending, outcome):
    first, second = connect(), connect()
    receive(first, "V")
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(receive, second, "V")
        await_lock(plant, second)
        getattr(first, ending)()
        if outcome:
            with pytest.raises(psycopg.errors.UniqueViolation) as raised:
                waiting.result(60)
            assert "ACME" not in raised.value.diag.message_detail and "SITE" in raised.value.diag.message_detail
        else:
            assert waiting.result(60).status == "PENDING"


def test_two_sessions_decide_about_one_serial_and_one_of_them_does(plant, connect):
    for other in (accept, reject):
        key = receive(plant, f"V-{other.__name__}").id
        plant.commit()
        first, second = connect(), connect()
        accept(first, key)
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(other, second, key)
            await_lock(plant, second)
            first.commit()
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
                waiting.result(60)
        assert statuses(plant, key) == ("ACTIVE", "ACTIVE")
        plant.commit()


def test_lots_that_overlap_are_received_and_accepted_without_a_deadlock(plant, connect):
    numbers = [f"L{number:04}" for number in range(1500)]
    sessions = [connect(autocommit=True) for _ in range(4)]

    def take(client: int) -> int:
        answers = receive_many(sessions[client], numbers[:: -1 if client % 2 else 1])
        return sum(answer.status == "PENDING" for answer in answers)

    def use(client: int) -> int:
        try:
            in_order = ids[:: -1 if client % 2 else 1]
            return len(call(sessions[client], "accept_vendor_serials", vendor_serial_ids=in_order))
        except psycopg.errors.ObjectNotInPrerequisiteState:
            return 0

    assert sum(at_once(4, take)) == 1500
    ids = column(plant, "select id from machserial.vendor_serials")
    plant.commit()
    assert sum(at_once(4, use)) == 1500
    assert value(plant, "select count(*) from machserial.serial_conflicts") == 4500


def test_a_receipt_is_imported_with_its_history(plant):
    insert = "insert into machserial.vendor_serials (serial_number, vendor_name, part_id, status{}) values {}"
    with refused(plant, "22023"):
        plant.execute(insert.format("", "('R1', 'V', 'P', 'REJECTED')"))
    plant.execute(insert.format(", rejection_reason", "('R1', 'V', 'P', 'REJECTED', 'old stock')"))
    plant.execute(insert.format(", accepted_by", "('A1', 'V', 'P', 'ACTIVE', 'ada')"))
    found = plant.execute(
        "select status, accepted_by, rejected_at is not null from machserial.vendor_serials order by serial_number"
    ).fetchall()
    assert found == [("ACTIVE", "ada", False), ("REJECTED", None, True)]


def test_a_space_around_its_name_makes_no_other_vendor(plant):
    call(plant, "set_vendor_rule", vendor_name=" Foundry ", min_length=9)
    (received,) = call(plant, "receive_vendor_serial", serial_number="X", vendor_name="Foundry\t", part_id="P")
    (bulk,) = call(plant, "receive_vendor_serials", serial_numbers=["Y"], vendor_name=" Foundry", part_id="P")
    assert received.vendor_name == "Foundry" and len(received.validation_errors) == len(bulk.errors) == 1
    assert call(plant, "delete_vendor_rule", vendor_name="Foundry ")[0].vendor_name == "Foundry"
