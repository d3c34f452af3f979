"""Counters and generate(), the main job: a part gets its serial numbers."""

from __future__ import annotations

from datetime import date
from itertools import islice, product

import psycopg
import pytest
from support import (
    call,
    column,
    generated,
    make_format,
    make_part,
    mostly_slow,
    preview,
    refused,
    register,
    value,
    violated,
)


def status(connection, name: str, key: str = "") -> object:
    (row,) = [row for row in call(connection, "counter_status", format=name) if row.counter_key == key]
    return row


def local_date(connection, zone: str) -> date:
    return value(connection, "select (now() at time zone %s)::date", zone)


def count_serials(connection) -> int:
    return value(connection, "select count(*) from machserial.serials")


# What a call says


def test_a_part_gets_numbers_that_are_on_record(connection):
    make_part(connection, "PART-001", scopes=["ENTERPRISE", "SITE"])
    call(connection, "register_site", site_id="BER", time_zone="Europe/Berlin")
    made = make_format(connection, "F", "{SITE}-{WO}-{SEQ:4}")
    connection.execute("set local machserial.actor = 'Ada'")
    context = {"work_order_id": "WO-1", "lot_number": "L-2", "operation_code": "OP10", "shift": "night", "line": 3}
    rows = call(connection, "generate", part_id="PART-001", quantity=2, format="F", site_id="BER", context=context)
    assert [(row.serial_number, row.sequence_number) for row in rows] == [("BER-WO-1-0001", 1), ("BER-WO-1-0002", 2)]
    assert rows[0].serial_id != rows[1].serial_id
    stored = call(connection, "find_serial", serial_number="BER-WO-1-0002")[0]
    assert (stored.id, stored.part_id, stored.part_type, stored.site_id) == (
        rows[1].serial_id, "PART-001", "TYPE", "BER",
    )  # fmt: skip
    assert (stored.source, stored.status, set(stored.scopes)) == ("SYSTEM_GENERATED", "ACTIVE", {"ENTERPRISE", "SITE"})
    assert (stored.format_id, stored.sequence_number) == (made.id, 2)
    assert (stored.work_order_id, stored.lot_number, stored.operation_code) == ("WO-1", "L-2", "OP10")
    assert stored.context == {"shift": "night", "line": 3}
    assert stored.created_by == "Ada" and stored.created_at == value(connection, "select now()")
    assert column(connection, "select id from machserial.system_generated_serials order by id") == [
        row.serial_id for row in rows
    ]


def test_each_serial_has_its_audit_event(connection):
    make_part(connection)
    connection.execute("set local machserial.actor = 'Ada'")
    connection.execute("set local machserial.reason = 'Order 7'")
    for quantity in (1, 150):
        generated(connection, quantity=quantity, pattern="A{SEQ:4}")
    register(connection, ["X1", "X2"])
    assert connection.execute(
        "select event_type, performed_by, reason, db_user = session_user, part_id, site_id, performed_at = now(), "
        "count(*) from machserial.audit_events where serial_id is not null group by 1, 2, 3, 4, 5, 6, 7 order by 1"
    ).fetchall() == [
        ("SERIAL_GENERATED", "Ada", "Order 7", True, "P", "DEFAULT", True, 151),
        ("SERIAL_REGISTERED", "Ada", "Order 7", True, "P", "DEFAULT", True, 2),
    ]
    assert column(
        connection,
        "select count(*) from machserial.serials as s join machserial.audit_events as e "
        "on e.serial_id = s.id and e.serial_number = s.serial_number",
    ) == [153]


def test_one_number_is_given_unless_more_are_asked_for(connection):
    make_part(connection)
    assert len(call(connection, "generate", part_id="P", pattern="A{SEQ:3}")) == 1


def test_a_quantity_is_from_one_to_a_million(connection):
    make_part(connection)
    for quantity in (0, -1, None, 1_000_001, 2_147_483_647):
        with refused(connection, "22023"):
            generated(connection, quantity=quantity, pattern="A{SEQ:7}")
    # A million is not refused for being a million.
    with refused(connection, "2200H"):
        generated(connection, quantity=1_000_000, pattern="A{SEQ:5}")
    assert count_serials(connection) == 0


@pytest.mark.own_database
@pytest.mark.parametrize("quantity", mostly_slow([20_000, 1_000_000], [20_000]))
def test_many_numbers_in_one_call(connection, quantity):
    make_part(connection, scopes=["ENTERPRISE"])
    assert connection.execute(
        "select count(distinct serial_number), min(sequence_number), max(sequence_number) "
        "from machserial.generate('P', %s, pattern => 'M{SEQ:7}')",
        (quantity,),
    ).fetchone() == (quantity, 1, quantity)


def test_the_named_format_comes_before_the_pattern_and_that_before_the_assigned_one(connection):
    make_part(connection)
    with refused(connection, "23503"):
        generated(connection)
    for name in ("NAMED", "ASSIGNED"):
        make_format(connection, name, name + "{SEQ:2}")
    with refused(connection, "23503"):
        generated(connection)
    call(connection, "assign_format", part_id="P", format="ASSIGNED")
    assert generated(connection, format="NAMED", pattern="ADHOC{SEQ:2}") == ["NAMED01"]
    assert generated(connection, pattern="ADHOC{SEQ:2}") == ["ADHOC01"]
    assert generated(connection) == ["ASSIGNED01"]
    assert generated(connection, format="NAMED") == ["NAMED02"]


def test_an_ad_hoc_pattern_goes_on_counting(connection):
    make_part(connection)
    make_part(connection, "Q")
    assert generated(connection, quantity=2, pattern="A{SEQ:3}") == ["A001", "A002"]
    assert generated(connection, "Q", quantity=2, pattern="A{SEQ:3}") == ["A003", "A004"]
    assert generated(connection, pattern="A{SEQ:4}") == ["A0001"]


def test_an_ad_hoc_pattern_is_what_is_written_whatever_formats_are_called(connection):
    make_part(connection)
    make_format(connection, "A{SEQ:3}", "X{SEQ:3}")
    assert generated(connection, pattern="A{SEQ:3}") == ["A001"]
    assert generated(connection, format="A{SEQ:3}") == ["X001"]


def test_an_ad_hoc_pattern_cannot_be_revised_into_another(connection):
    make_part(connection)
    generated(connection, pattern="A{SEQ:3}")
    for (name,) in connection.execute("select name from machserial.serial_formats").fetchall():
        with refused(connection, "55000"):
            call(connection, "revise_format", name=name, pattern="X{SEQ:3}")
    assert generated(connection, pattern="A{SEQ:3}") == ["A002"]


def test_an_ad_hoc_pattern_that_was_deactivated_issues_nothing(connection):
    make_part(connection)
    generated(connection, pattern="A{SEQ:3}")
    call(connection, "deactivate_format", name="ad hoc: A{SEQ:3}")
    with refused(connection, "55000"):
        generated(connection, pattern="A{SEQ:3}")


def test_unknown_things_are_refused(connection):
    make_part(connection)
    for arguments, sqlstate in [
        ({"part_id": "NOBODY", "pattern": "A{SEQ:3}"}, "23503"),
        ({"part_id": "P", "format": "NOTHING"}, "23503"),
        ({"part_id": "P", "pattern": "A{SEQ:3}", "site_id": "NOWHERE"}, "23503"),
        ({"part_id": None, "pattern": "A{SEQ:3}"}, "22023"),
        ({"part_id": "", "pattern": "A{SEQ:3}"}, "22023"),
        ({"part_id": "P", "pattern": "A{SQE:3}"}, "22023"),
        ({"part_id": "P", "pattern": ""}, "22023"),
        ({"part_id": "P", "pattern": "A{LOT}{SEQ:3}"}, "22023"),
        ({"part_id": "P", "pattern": "A{CTX:x}{SEQ:3}", "context": {"y": 1}}, "22023"),
    ]:
        with refused(connection, sqlstate):
            call(connection, "generate", **arguments)
    for context in ("[1]", '"text"', "7", "null"):
        with refused(connection, "22023"):
            connection.execute(
                "select machserial.generate('P', pattern => 'A{SEQ:3}', context => %s::jsonb)", (context,)
            )
    assert value(connection, "select count(*) from machserial.serial_formats") == 0
    assert generated(connection, pattern="A{SEQ:3}", context=None) == ["A001"]


def test_a_number_that_would_be_too_long_is_a_bad_argument(connection):
    make_part(connection)
    with refused(connection, "22023"):
        generated(connection, pattern="{LOT}-{SEQ:3}", context={"lot_number": "x" * 252})
    assert len(generated(connection, pattern="{LOT}-{SEQ:3}", context={"lot_number": "x" * 251})[0]) == 255


# Counting


def test_counting_begins_and_steps_as_the_format_says(connection):
    make_part(connection)
    for allocation in ("SEQUENCE", "GAPLESS"):
        make_format(
            connection, allocation, allocation + "{SEQ:4}", sequence_start=10, sequence_increment=5,
            allocation=allocation,
        )  # fmt: skip
        rows = call(connection, "generate", part_id="P", quantity=3, format=allocation)
        rows += call(connection, "generate", part_id="P", quantity=1, format=allocation)
        rows += call(connection, "generate", part_id="P", quantity=200, format=allocation)
        assert [row.sequence_number for row in rows] == list(range(10, 10 + 5 * 204, 5))
        assert [row.serial_number for row in rows] == [f"{allocation}{row.sequence_number:04}" for row in rows]


def test_counting_may_begin_with_zero(connection):
    make_part(connection)
    for allocation in ("SEQUENCE", "GAPLESS"):
        make_format(connection, allocation, allocation + "{SEQ:1}", sequence_start=0, allocation=allocation)
        assert generated(connection, quantity=10, format=allocation) == [f"{allocation}{n}" for n in range(10)]
        with refused(connection, "2200H"):
            generated(connection, format=allocation)


def test_each_format_part_and_site_counts_for_itself_if_the_format_says_so(connection):
    keys = [("P", "DEFAULT"), ("Q", "DEFAULT"), ("P", "BER"), ("Q", "BER"), ("P", "DEFAULT")]
    call(connection, "register_site", site_id="BER")
    make_part(connection, "P")
    make_part(connection, "Q")
    for allocation, (counter_per, expected) in product(
        ("SEQUENCE", "GAPLESS"),
        [
            ("FORMAT", [1, 2, 3, 4, 5]),
            ("PART", [1, 1, 2, 2, 3]),
            ("SITE", [1, 2, 1, 2, 3]),
            ("SITE_PART", [1, 1, 1, 1, 2]),
        ],
    ):
        name = f"{allocation}-{counter_per}"
        make_format(connection, name, name + "{SITE}{PART}{SEQ:3}", counter_per=counter_per, allocation=allocation)
        rows = [
            call(connection, "generate", part_id=part_id, site_id=site_id, format=name)[0] for part_id, site_id in keys
        ]
        assert [row.sequence_number for row in rows] == expected, name


def test_parts_that_would_write_the_same_number_step_over_each_other_s(connection):
    make_part(connection, "P")
    make_part(connection, "Q")
    make_format(connection, "F", "F{SEQ:2}", counter_per="PART")
    assert generated(connection, "P", 3, format="F") == ["F01", "F02", "F03"]
    assert generated(connection, "Q", 2, format="F") == ["F04", "F05"]
    assert generated(connection, "P", 1, format="F") == ["F06"]
    make_part(connection, "R", part_type="OTHER")
    call(connection, "register_site", site_id="BER")
    assert generated(connection, "R", 2, format="F", site_id="BER") == ["F01", "F02"]


# Resets

RESETS = {
    "DAILY": ("{YYYY}{MM}{DD}", "%Y%m%d"),
    "WEEKLY": ("{IYYY}{WW}", "%G%V"),
    "MONTHLY": ("{YY}{MM}", "%y%m"),
    "YEARLY": ("{YYYY}", "%Y"),
}


def test_a_day_begins_at_midnight_of_the_site(connection):
    # These two are 26 hours apart: it is never the same day at both.
    zones = {"EAST": "Pacific/Kiritimati", "WEST": "Etc/GMT+12"}
    make_part(connection)
    for site_id, zone in zones.items():
        call(connection, "register_site", site_id=site_id, time_zone=zone)
    for allocation in ("SEQUENCE", "GAPLESS"):
        make_format(
            connection, allocation, allocation[0] + "{YYYY}{MM}{DD}-{SEQ:2}", reset="DAILY", allocation=allocation
        )
        for number in ("01", "02"):
            for site_id, zone in zones.items():
                assert generated(connection, format=allocation, site_id=site_id) == [
                    f"{allocation[0]}{local_date(connection, zone):%Y%m%d}-{number}"
                ]


def test_counting_begins_again_with_each_period(connection):
    make_part(connection)
    today = local_date(connection, "UTC")
    for (reset, (tokens, written)), allocation in product(RESETS.items(), ("SEQUENCE", "GAPLESS")):
        name = f"{allocation}-{reset}"
        make_format(connection, name, f"{name}-{tokens}-{{SEQ:3}}", reset=reset, allocation=allocation)
        assert generated(connection, quantity=2, format=name) == [
            f"{name}-{today.strftime(written)}-00{n}" for n in "12"
        ]
        # As if what has been counted had been counted in a period long past.
        connection.execute(
            "update machserial.counters as c set period = 'past ' || period, period_starts = period_starts - 4000 "
            "from machserial.serial_formats as f where f.id = c.format_id and f.name = %s and period_starts <= %s",
            (name, today),
        )
        with connection.transaction(force_rollback=True):
            connection.execute(
                "update machserial.serials set status = 'INVALID', claim_released = true, status_reason = 'a test'"
            )
            assert generated(connection, format=name) == [f"{name}-{today.strftime(written)}-001"]


def move_to_the_past(connection) -> int:
    """As if the present counter had counted 30 days ago; its id."""
    return value(
        connection,
        "update machserial.counters set period = 'past', period_starts = period_starts - 30 "
        "where period_starts = now()::date returning id",
    )


def move_to_the_present(connection, counter: int) -> None:
    """As if the clock had been set back: that counter's period is the present one again."""
    connection.execute("delete from machserial.counters where period_starts = now()::date")
    connection.execute(
        "update machserial.counters set period = to_char(now(), 'YYYY-MM-DD'), period_starts = now() where id = %s",
        (counter,),
    )


def retired_counters(connection) -> list[int]:
    return column(connection, "select id from machserial.counters where retired_at is not null")


def test_counters_of_past_periods_are_retired_and_go_on_if_they_are_needed_again(connection):
    connection.execute("set time zone 'UTC'")
    make_part(connection)
    make_format(connection, "F", "{YYYY}{MM}{DD}-{SEQ:3}", reset="DAILY")
    generated(connection, quantity=7, format="F")
    counter = move_to_the_past(connection)
    # Twice: nothing is left to do the second time.
    for _ in range(2):
        call(connection, "maintain")
        assert retired_counters(connection) == [counter]
    assert value(connection, "select to_regclass(%s) is null", f"machserial.counter_{counter}")
    assert [row.last_value for row in call(connection, "counter_status", format="F") if row.last_value] == [7]
    move_to_the_present(connection, counter)
    assert generated(connection, format="F")[0].endswith("-008")
    assert retired_counters(connection) == []


def test_counters_of_recent_periods_and_of_formats_that_never_reset_are_kept(connection):
    make_part(connection)
    make_format(connection, "F", "{YYYY}{MM}{DD}-{SEQ:3}", reset="DAILY")
    generated(connection, format="F")
    generated(connection, pattern="A{SEQ:3}")
    # Yesterday: at some site it may still be that day, and transactions may still run that began in it.
    connection.execute("update machserial.counters set period_starts = now()::date - 1, period = 'x' || id "
                       "where period_starts is not null")  # fmt: skip
    connection.execute("update machserial.counters set created_at = created_at - interval '10 years'")
    call(connection, "maintain")
    assert value(connection, "select count(*) from machserial.counters where retired_at is not null") == 0


def test_a_retired_counter_that_was_moved_on_is_not_forgotten(connection):
    connection.execute("set time zone 'UTC'")
    make_part(connection)
    make_format(connection, "F", "{YYYY}{MM}{DD}-{SEQ:3}", reset="DAILY")
    generated(connection, quantity=3, format="F")
    call(connection, "reset_counter", format="F", next_value=50, reason="moved")
    counter = move_to_the_past(connection)
    call(connection, "maintain")
    assert retired_counters(connection) == [counter]
    move_to_the_present(connection, counter)
    assert generated(connection, format="F")[0].endswith("-050")


def test_maintenance_leaves_the_session_s_settings_alone(connection):
    connection.execute("set local lock_timeout = '7s'")
    call(connection, "maintain")
    assert value(connection, "show lock_timeout") == "7s"


# Exhaustion

ALLOCATIONS = pytest.mark.parametrize("allocation", ["SEQUENCE", "GAPLESS"])


@ALLOCATIONS
def test_a_refused_call_consumes_nothing_and_the_last_number_is_given(connection, allocation):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:2}", allocation=allocation)
    assert len(generated(connection, quantity=94, format="F")) == 94
    for quantity in (6, 10, 1000):
        with refused(connection, "2200H"):
            generated(connection, quantity=quantity, format="F")
    assert generated(connection, quantity=5, format="F") == ["F95", "F96", "F97", "F98", "F99"]
    for quantity in (1, 100):
        with refused(connection, "2200H"):
            generated(connection, quantity=quantity, format="F")
    assert count_serials(connection) == 99


@ALLOCATIONS
def test_a_counter_that_begins_near_its_end_is_not_overdrawn(connection, allocation):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:5}", sequence_start=99_995, allocation=allocation)
    with refused(connection, "2200H"):
        generated(connection, quantity=10, format="F")
    assert generated(connection, quantity=5, format="F") == [f"F{n}" for n in range(99_995, 100_000)]
    make_format(connection, "G", "G{SEQ:5}", allocation=allocation)
    generated(connection, format="G")
    call(connection, "reset_counter", format="G", next_value=99_998, reason="moved")
    with refused(connection, "2200H"):
        generated(connection, quantity=3, format="G")
    assert generated(connection, quantity=2, format="G") == ["G99998", "G99999"]


@ALLOCATIONS
def test_a_refused_call_consumes_nothing_when_taken_numbers_lie_between(connection, allocation):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:2}", allocation=allocation)
    generated(connection, quantity=80, format="F")
    register(connection, [f"F{number}" for number in (81, 83, 84, 90, 99)])
    with refused(connection, "2200H"):
        generated(connection, quantity=15, format="F")
    expected = [f"F{number}" for number in range(81, 100) if number not in (81, 83, 84, 90, 99)]
    assert generated(connection, quantity=14, format="F") == expected
    with refused(connection, "2200H"):
        generated(connection, format="F")


@ALLOCATIONS
@pytest.mark.parametrize("wanted", [10, 150])
def test_a_refused_call_consumes_nothing_when_the_rest_is_taken(connection, allocation, wanted):
    make_part(connection, scopes=["ENTERPRISE"])
    make_format(connection, "F", "F{SEQ:4}", sequence_start=8000, allocation=allocation)
    register(connection, [f"F{number}" for number in range(8005, 10_000)])
    with refused(connection, "2200H"):
        generated(connection, quantity=wanted, format="F")
    assert generated(connection, quantity=5, format="F") == [f"F{number}" for number in range(8000, 8005)]


@ALLOCATIONS
def test_a_step_beyond_all_numbers_is_exhaustion_too(connection, allocation):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:1}", sequence_increment=10**18, allocation=allocation)
    assert generated(connection, format="F") == ["F1"]
    assert status(connection, "F").last_value == 1
    with refused(connection, "2200H"):
        generated(connection, format="F")


def test_every_alphabet_is_counted_to_its_end(connection):
    make_part(connection)
    for name, size in [("hex", 16), ("alpha", 26), ("safe", 32), ("base36", 36)]:
        pattern = f"{name}-{{SEQ:1:{name}}}"
        numbers = generated(connection, quantity=size - 1, pattern=pattern)
        assert numbers == preview(connection, pattern, size - 1) and len(set(numbers)) == size - 1
        with refused(connection, "2200H"):
            generated(connection, pattern=pattern)


def test_a_random_space_is_filled_to_its_last_number(connection):
    make_part(connection)
    for pattern, size in [("H{RANDOM:hex:2}", 256), ("N{RANDOM:numeric:1}{RANDOM:numeric:2}{CHECK:luhn}", 1000)]:
        numbers = generated(connection, pattern=pattern)
        numbers += generated(connection, quantity=size // 2, pattern=pattern)
        for _ in range(3):
            numbers += generated(connection, quantity=size // 8, pattern=pattern)
        left = size - len(numbers)
        with refused(connection, "2200H"):
            generated(connection, quantity=left + 1, pattern=pattern)
        numbers += generated(connection, quantity=left - 1, pattern=pattern)
        numbers += generated(connection, pattern=pattern)
        assert len(set(numbers)) == size
        with refused(connection, "2200H"):
            generated(connection, pattern=pattern)


def test_a_random_space_is_filled_around_what_is_taken(connection):
    make_part(connection)
    register(connection, [f"R{number:02}" for number in range(0, 100, 3)])
    numbers = generated(connection, quantity=66, pattern="R{RANDOM:numeric:2}")
    assert sorted(numbers) == [f"R{number:02}" for number in range(100) if number % 3]


def test_a_pattern_in_which_nothing_varies_has_one_number(connection):
    make_part(connection)
    with refused(connection, "2200H"):
        generated(connection, quantity=2, pattern="ONLY")
    assert generated(connection, pattern="ONLY") == ["ONLY"]
    with refused(connection, "2200H"):
        generated(connection, pattern="ONLY")
    for lot in ("1", "2"):
        assert generated(connection, pattern="LOT-{LOT}", context={"lot_number": lot}) == [f"LOT-{lot}"]


# Numbers that are taken


def taken_directly(connection, numbers: list[str]) -> None:
    connection.execute(
        "insert into machserial.serials (serial_number, part_id, part_type) select unnest(%s::text[]), 'P', 'TYPE'",
        (numbers,),
    )


@ALLOCATIONS
@pytest.mark.parametrize("take", [register, taken_directly])
def test_taken_numbers_are_stepped_over(connection, allocation, take):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:5}", allocation=allocation)
    taken = {1, 2, 5, *range(20, 60), *range(100, 2500), 2600, *range(2700, 2800, 2)}
    take(connection, [f"F{number:05}" for number in taken])
    free = (number for number in range(1, 100_000) if number not in taken)
    for quantity in (1, 1, 2, 40, 1, 200, 1, 150):
        expected = [f"F{number:05}" for number in islice(free, quantity)]
        assert generated(connection, quantity=quantity, format="F") == expected


def test_only_numbers_that_are_taken_in_a_scope_of_the_part_are_stepped_over(connection):
    make_part(connection, "P", part_type="T", scopes=["SITE"])
    make_part(connection, "Q", part_type="U", scopes=["PART_TYPE"])
    make_part(connection, "R", part_type="T", scopes=["ENTERPRISE"])
    call(connection, "register_site", site_id="BER")
    register(connection, ["A001"], "P", site_id="BER")
    register(connection, ["A002"], "Q")
    register(connection, ["A003"], "R")
    # The first two are not claimed where P is numbered, at DEFAULT, within that site; the third is claimed everywhere.
    assert generated(connection, "P", 3, pattern="A{SEQ:3}") == ["A001", "A002", "A004"]
    register(connection, ["B001"], "P")
    assert generated(connection, "P", 1, pattern="B{SEQ:3}") == ["B002"]


def test_numbers_that_have_lost_their_claim_are_free_and_those_out_of_use_are_not(connection):
    make_part(connection)
    statuses = ["PENDING", "ACTIVE", "CONFLICT", "REJECTED", "RETIRED", "INVALID"]
    for number, state in enumerate(statuses, 1):
        connection.execute(
            "insert into machserial.serials (serial_number, part_id, part_type, status) values (%s, 'P', 'TYPE', %s)",
            (f"A{number:03}", state),
        )
    assert generated(connection, quantity=3, pattern="A{SEQ:3}") == ["A003", "A004", "A007"]


def test_a_gapless_counter_has_no_gap_beside_random_characters(connection):
    make_format(connection, "F", "{PART}-{SEQ:4}{RANDOM:numeric:1}", allocation="GAPLESS", counter_per="PART")
    for part_id in map("P{:02}".format, range(12)):
        make_part(connection, part_id, scopes=["ENTERPRISE"])
        # Of the first ten sequence numbers one random digit each is left.
        register(
            connection, [f"{part_id}-{number:04}{digit}" for number in range(1, 11) for digit in range(9)], part_id
        )
        generated(connection, part_id, 5, format="F")
        generated(connection, part_id, 1, format="F")
        issued = column(
            connection,
            "select sequence_number from machserial.serials where part_id = %s and sequence_number > 10 order by 1",
            part_id,
        )
        assert issued == list(range(11, 11 + len(issued)))
        assert max([10, *issued]) >= status(connection, "F", part_id).last_value


# Requests


def test_the_same_request_gives_the_same_serials_and_consumes_nothing(connection):
    make_part(connection)
    for quantity, request in [(1, "one"), (5, "five"), (150, "many")]:
        arguments = {"part_id": "P", "quantity": quantity, "pattern": "A{SEQ:5}", "request_id": request}
        first = call(connection, "generate", **arguments)
        assert len(first) == quantity
        register(connection, [f"between {request}"])
        for _ in range(2):
            assert call(connection, "generate", **arguments) == first
    assert count_serials(connection) == 156 + 3
    assert generated(connection, pattern="A{SEQ:5}") == ["A00157"]


def test_a_request_may_be_repeated_from_another_session(connection, connect):
    make_part(connection)
    arguments = {"part_id": "P", "quantity": 3, "pattern": "{SEQ:3}{RANDOM:4}", "request_id": "r"}
    first = call(connection, "generate", **arguments)
    connection.commit()
    assert call(connect(), "generate", **arguments) == first


def test_random_numbers_are_repeated_in_their_order(connection):
    make_part(connection)
    arguments = {"part_id": "P", "quantity": 120, "pattern": "{RANDOM:6}", "request_id": "r"}
    assert call(connection, "generate", **arguments) == call(connection, "generate", **arguments)


def test_a_request_cannot_be_used_for_something_else(connection):
    make_part(connection)
    make_part(connection, "Q")
    call(connection, "register_site", site_id="BER")
    make_format(connection, "F", "F{SEQ:3}")
    given = {"part_id": "P", "quantity": 2, "pattern": "A{SEQ:3}", "context": {"a": 1}, "request_id": "r"}
    first = call(connection, "generate", **given)
    for other in [
        {"part_id": "Q"},
        {"quantity": 3},
        {"pattern": "B{SEQ:3}"},
        {"pattern": None, "format": "F"},
        {"format": "F"},
        {"context": {"a": 2}},
        {"context": {}},
    ]:
        with refused(connection, "22023"):
            call(connection, "generate", **{**given, **other})
    assert call(connection, "generate", **given) == first
    assert call(connection, "generate", **given, site_id="DEFAULT") == first
    assert count_serials(connection) == 2
    # A request is its site's own, and its verb's.
    elsewhere = call(connection, "generate", **given, site_id="BER")
    assert len(elsewhere) == 2 and elsewhere != first
    assert call(connection, "generate", **given, site_id="BER") == elsewhere
    block = call(connection, "allocate_block", format="F", quantity=2, holder="H", request_id="r")[0]
    assert call(connection, "allocate_block", format="F", quantity=2, holder="H", request_id="r")[0] == block


def test_a_request_is_forgotten_after_its_time(connection):
    make_part(connection)
    given = {"part_id": "P", "pattern": "A{SEQ:3}", "request_id": "r"}
    first = call(connection, "generate", **given)
    age = "update machserial.requests set created_at = created_at - %s * interval '1 day'"
    for days, goes in ((89, 0), (2, 1)):
        connection.execute(age, (days,))
        connection.execute("update machserial.serials set lot_number = 'L'")
        done = {row.task: row.done for row in call(connection, "maintain")}
        assert done["requests forgotten"] == goes
    assert call(connection, "generate", **given) != first


def test_a_request_that_was_rolled_back_or_refused_is_free_again(connection):
    make_part(connection)
    with connection.transaction(force_rollback=True):
        generated(connection, pattern="A{SEQ:3}", request_id="r")
    with refused(connection, "23503"):
        generated(connection, format="NOTHING", request_id="r")
    with refused(connection, "2200H"):
        generated(connection, quantity=10, pattern="A{SEQ:1}", request_id="r")
    assert len(generated(connection, quantity=4, pattern="B{SEQ:3}", request_id="r")) == 4


def test_a_request_is_answered_also_when_its_serials_have_gone_on_living(connection):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:3}")
    first = generated(connection, quantity=3, format="F", request_id="r")
    connection.execute("update machserial.serials set status = 'RETIRED', status_reason = 'worn out'")
    call(connection, "deactivate_format", name="F")
    assert generated(connection, quantity=3, format="F", request_id="r") == first


# Transactions


def test_a_rollback_leaves_no_rows(connection):
    with connection.transaction(force_rollback=True):
        make_part(connection)
        generated(connection, quantity=150, pattern="A{SEQ:3}")
        generated(connection, quantity=2, pattern="A{SEQ:3}")
    for table in ("parts", "serials", "audit_events", "serial_formats", "counters", "requests"):
        assert value(connection, f"select count(*) from machserial.{table}") == 0


def test_a_sequence_leaves_a_gap_and_a_gapless_counter_does_not(connection):
    make_part(connection)
    for allocation, expected in [("SEQUENCE", 155), ("GAPLESS", 3)]:
        make_format(connection, allocation, allocation + "{SEQ:4}", allocation=allocation)
        generated(connection, quantity=2, format=allocation)
        for quantity in (2, 150):
            with connection.transaction(force_rollback=True):
                generated(connection, quantity=quantity, format=allocation)
        assert generated(connection, format=allocation) == [f"{allocation}{expected:04}"]


def test_a_gapless_counter_gives_back_what_was_rolled_back_over_taken_numbers(connection):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:3}", allocation="GAPLESS")
    register(connection, ["F002", "F003"])
    for _ in range(3):
        with connection.transaction(force_rollback=True):
            assert generated(connection, quantity=3, format="F") == ["F001", "F004", "F005"]
    assert generated(connection, quantity=3, format="F") == ["F001", "F004", "F005"]


# Looking after counters


@ALLOCATIONS
def test_the_status_of_a_counter_is_told(connection, allocation):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:3}", sequence_start=10, sequence_increment=5, allocation=allocation)
    fresh = status(connection, "F")
    assert (fresh.format, fresh.counter_key, fresh.period) == ("F", "", "")
    assert (fresh.last_value, fresh.capacity, fresh.used_percent) == (None, 198, 0)
    generated(connection, quantity=99, format="F")
    half = status(connection, "F")
    assert (half.last_value, half.capacity, half.used_percent) == (10 + 98 * 5, 198, 50)
    assert (half.next_value, half.highest_value, half.remaining) == (505, 999, 99)
    generated(connection, quantity=99, format="F")
    full = status(connection, "F")
    assert (full.last_value, full.used_percent, full.remaining) == (995, 100, 0)


def test_the_status_is_told_for_each_counter_of_each_format(connection):
    make_part(connection, "P")
    make_part(connection, "Q")
    call(connection, "register_site", site_id="BER")
    make_format(connection, "F", "{SITE}{PART}{SEQ:3}", counter_per="SITE_PART")
    make_format(connection, "G", "{YYYY}{SEQ:3}", reset="YEARLY")
    make_format(connection, "R", "{RANDOM:9}")
    for part_id, site_id, quantity in [("P", "BER", 1), ("Q", "BER", 2), ("P", None, 3)]:
        generated(connection, part_id, quantity, site_id=site_id, format="F")
    generated(connection, quantity=4, format="G")
    counted = {(row.format, row.counter_key): row for row in call(connection, "counter_status") if row.last_value}
    assert {key: row.last_value for key, row in counted.items()} == {
        ("F", "BER/P"): 1, ("F", "BER/Q"): 2, ("F", "DEFAULT/P"): 3, ("G", ""): 4,
    }  # fmt: skip
    assert counted["G", ""].period == f"{local_date(connection, 'UTC'):%Y}"
    assert {row.format for row in call(connection, "counter_status", format="G")} == {"G"}
    with refused(connection, "23503"):
        call(connection, "counter_status", format="NOTHING")


def test_a_counter_whose_sequence_somebody_has_dropped(connection):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:3}")
    make_format(connection, "G", "G{SEQ:3}")
    for _ in range(2):
        generated(connection, format="F")
        generated(connection, format="G")
    lost = value(connection, "select min(id) from machserial.counters")
    connection.execute(f"drop sequence machserial.counter_{lost}")
    # The others are told, and of this one why not.
    assert status(connection, "G").last_value == 2 and status(connection, "G").problem is None
    found = status(connection, "F")
    assert (found.last_value, found.next_value, found.used_percent, found.remaining) == (None, None, None, None)
    assert (found.capacity, found.highest_value) == (999, 999) and f"counter_{lost}" in found.problem
    for name, arguments in (
        ("generate", {"part_id": "P", "format": "F", "quantity": 5}),
        ("generate", {"part_id": "P", "format": "F", "request_id": "R"}),
        ("reset_counter", {"format": "F", "next_value": 100, "reason": "r"}),
        ("fence", {"format": "F", "highest": "F100", "reason": "r"}),
        ("allocate_block", {"format": "F", "quantity": 5, "holder": "H"}),
        ("revise_format", {"name": "F", "pattern": "FF{SEQ:3}"}),
    ):
        with refused(connection, "55000") as why:
            call(connection, name, **arguments)
        assert f"counter_{lost}" in why.message and "format F" in why.detail and "integrity()" in why.hint
    call(connection, "maintain")
    for remedy in column(connection, "select remedy from machserial.integrity()"):
        connection.execute(remedy)
    assert status(connection, "F").next_value == 3
    assert generated(connection, format="F") == ["F003"]


@ALLOCATIONS
def test_a_counter_can_be_moved_on_and_never_back(connection, allocation):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:3}", allocation=allocation)
    generated(connection, quantity=10, format="F")
    for backward in (0, 1, 9, 10, 1000, -1, None):
        with refused(connection, "22023"):
            call(connection, "reset_counter", format="F", next_value=backward, reason="moved")
    call(connection, "reset_counter", format="F", next_value=100, reason="moved")
    assert status(connection, "F").next_value == 100
    for backward in (1, 5, 10):
        with refused(connection, "22023"):
            call(connection, "reset_counter", format="F", next_value=backward, reason="moved")
    assert generated(connection, quantity=2, format="F") == ["F100", "F101"]
    call(connection, "reset_counter", format="F", next_value=102, reason="moved")
    assert generated(connection, format="F") == ["F102"]
    assert value(connection, "select count(*) from machserial.audit_events where event_type = 'COUNTER_RESET'") == 2


@ALLOCATIONS
def test_a_counter_of_long_steps_never_moves_back_little_by_little(connection, allocation):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:3}", sequence_increment=10, allocation=allocation)
    call(connection, "reset_counter", format="F", next_value=5, reason="moved")
    assert (status(connection, "F").next_value, status(connection, "F").last_value) == (5, None)
    block = call(connection, "allocate_block", format="F", quantity=3, holder="LINE")[0]
    assert (block.first_value, block.last_value) == (5, 25)
    for backward in (26, 34):
        with refused(connection, "22023"):
            call(connection, "reset_counter", format="F", next_value=backward, reason="moved")
    call(connection, "reset_counter", format="F", next_value=37, reason="moved")
    for backward in (28, 36):
        with refused(connection, "22023"):
            call(connection, "reset_counter", format="F", next_value=backward, reason="moved")
    assert generated(connection, quantity=2, format="F") == ["F037", "F047"]


@ALLOCATIONS
def test_a_new_version_does_not_move_below_what_the_old_one_has_issued(connection, allocation):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:3}", allocation=allocation)
    generated(connection, quantity=49, format="F")
    call(connection, "revise_format", name="F", description="the same")
    for backward in (5, 49):
        with refused(connection, "22023"):
            call(connection, "reset_counter", format="F", next_value=backward, reason="moved")
    call(connection, "reset_counter", format="F", next_value=50, reason="moved")
    assert generated(connection, format="F") == ["F050"]


@ALLOCATIONS
def test_a_counter_is_moved_for_its_part_and_site_only(connection, allocation):
    call(connection, "register_site", site_id="BER")
    make_part(connection, "P")
    make_part(connection, "Q")
    make_format(connection, "F", "{SITE}{PART}{SEQ:3}", counter_per="SITE_PART", allocation=allocation)
    call(connection, "reset_counter", format="F", next_value=50, part_id="P", site_id="BER", reason="moved")
    assert generated(connection, "P", format="F", site_id="BER") == ["BERP050"]
    assert generated(connection, "P", format="F") == ["DEFAULTP001"]
    assert generated(connection, "Q", format="F", site_id="BER") == ["BERQ001"]
    for arguments in [{"part_id": "NOBODY"}, {}, {"part_id": "P", "site_id": "NOWHERE"}]:
        with refused(connection, "23503"):
            call(connection, "reset_counter", format="F", next_value=60, reason="moved", **arguments)
    with refused(connection, "23503"):
        call(connection, "reset_counter", format="NOTHING", next_value=60, reason="moved")
    make_format(connection, "R", "{RANDOM:9}")
    with refused(connection, "22023"):
        call(connection, "reset_counter", format="R", next_value=60, reason="moved")


def test_numbers_issued_by_a_counter_cannot_be_rewritten(connection):
    make_part(connection)
    generated(connection, quantity=2, pattern="A{SEQ:3}")
    with refused(connection, "55000") as refusal:
        connection.execute("update machserial.system_generated_serials set sequence_number = 50")
    assert "reset_counter" in refusal.hint
    assert generated(connection, pattern="A{SEQ:3}") == ["A003"]


def test_a_counter_s_row_is_unique(connection):
    make_format(connection, "F", "F{SEQ:3}")
    with violated(connection, "23505"):
        connection.execute(
            "insert into machserial.counters (format_id, first_value) select format_id, 1 from machserial.counters"
        )


# Nodes


def test_each_node_has_ids_of_its_own(connection):
    make_part(connection)
    generated(connection, pattern="A{SEQ:4}")
    for node in (3, 5, 32767):
        call(connection, "set_node", node=node)
        ids = [row.serial_id for row in call(connection, "generate", part_id="P", quantity=2, pattern="A{SEQ:4}")]
        assert [number >> 48 for number in ids] == [node, node] and len(set(ids)) == 2
        made = make_format(connection, f"F{node}", f"F{node}{{SEQ:3}}")
        assert made.id >> 48 == node
        assert generated(connection, format=f"F{node}") == [f"F{node}001"]
        # Saying it again gives no id twice.
        call(connection, "set_node", node=node)
        assert call(connection, "generate", part_id="P", pattern="A{SEQ:4}")[0].serial_id > max(ids)
    assert value(connection, "select count(distinct id >> 48) from machserial.audit_events") == 4


def test_a_node_that_was_left_goes_on_where_it_was(connection):
    make_part(connection)
    ids = set()
    for node in (0, 7, 0, 7, 0):
        call(connection, "set_node", node=node)
        for quantity in (1, 3):
            rows = call(connection, "generate", part_id="P", quantity=quantity, pattern="A{SEQ:4}")
            assert {row.serial_id >> 48 for row in rows} == {node}
            ids |= {row.serial_id for row in rows}
    assert len(ids) == 20


def test_a_node_is_a_number_from_0_to_32767(connection):
    for node in (-1, 32768, None):
        with refused(connection, "22023"):
            call(connection, "set_node", node=node)


def test_a_failed_call_in_a_transaction_leaves_the_counter_usable(connect, connection):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:1}")
    connection.commit()
    session = connect(autocommit=True)
    with pytest.raises(psycopg.errors.SequenceGeneratorLimitExceeded):
        generated(session, quantity=10, format="F")
    # No lock outlives the call.
    assert value(
        connection,
        "select count(*) from pg_locks as l join pg_database as d on d.oid = l.database "
        "where d.datname = current_database() and l.pid <> pg_backend_pid() and l.locktype <> 'virtualxid'",
    ) == 0  # fmt: skip
    connection.execute("set lock_timeout = '1s'")
    assert len(generated(connection, quantity=9, format="F")) == 9
