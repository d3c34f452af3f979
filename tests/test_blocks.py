"""Blocks: numbers for those who are offline. Nobody else gets them, and each is accounted for in the end."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import psycopg
import pytest
from support import (
    HOSTILE,
    at_once,
    call,
    column,
    generated,
    make_format,
    make_part,
    publish,
    refused,
    register,
    value,
    violated,
)

ALLOCATIONS = pytest.mark.parametrize("allocation", ["SEQUENCE", "GAPLESS"])
LIMITS = "set statement_timeout = '60s'; set lock_timeout = '60s'"


@pytest.fixture
def plant(connection):
    """A database with the parts P and Q, the site BER, and the format F, whose numbers look like F0001."""
    make_part(connection, "P")
    make_part(connection, "Q")
    call(connection, "register_site", site_id="BER", time_zone="Europe/Berlin")
    make_format(connection, "F", "F{SEQ:4}")
    publish(connection)
    return connection


def allocate(connection, quantity: int = 10, format: str = "F", holder: str = "LINE-1", **arguments: object) -> object:
    return call(connection, "allocate_block", format=format, quantity=quantity, holder=holder, **arguments)[0]


def numbers_of(connection, block: object) -> list[str]:
    return [row[0] for row in call(connection, "block_serials", block_id=block.block_id)]


def report(connection, block: object, used: list[str], **arguments: object) -> list:
    return call(connection, "report_block", block_id=block.block_id, used=used, **arguments)


def states(connection, block: object) -> tuple:
    """(status, used, open, returned, expired), which add up to the quantity."""
    found = connection.execute(
        "select status, used, open, returned, expired, quantity from machserial.blocks where block_id = %s",
        (block.block_id,),
    ).fetchone()
    assert sum(found[1:5]) == found[5]
    return found[:5]


def events(connection) -> list[tuple]:
    return connection.execute(
        "select event_type, performed_by, reason, part_id, details from machserial.audit_events "
        "where event_type like 'BLOCK%' order by id"
    ).fetchall()


def advisory_locks(connection) -> list[tuple]:
    """All but that on a numbering plan which a transaction has made: nobody waits for it."""
    return connection.execute(
        "select l.* from pg_locks as l join pg_database as d on d.oid = l.database "
        "where d.datname = current_database() and l.locktype = 'advisory' "
        "and l.classid <> (hashtext('machserial.plan')::bigint & 4294967295)::oid"
    ).fetchall()


def guard(connection, name: str = "machserial.block") -> tuple[int, int]:
    """The two keys of the advisory lock on the only counter."""
    return connection.execute("select hashtext(%s), hashint8(max(id)) from machserial.counters", (name,)).fetchone()


# Allocation


@ALLOCATIONS
def test_nobody_else_gets_the_numbers_of_a_block(plant, allocation):
    make_format(plant, "G", "G{SEQ:4}", sequence_start=10, sequence_increment=5, allocation=allocation)
    assert generated(plant, quantity=2, format="G") == ["G0010", "G0015"]
    plant.execute("set local machserial.actor = 'Ada'")
    first = allocate(plant, 3, "G", "LINE-1", part_id="P", site_id="BER")
    assert first[:4] == (first.block_id, 20, 30, "OPEN")
    assert (first.format, first.holder, first.part_id, first.site_id) == ("G", "LINE-1", "P", "BER")
    assert (first.quantity, first.open, first.expires_at) == (3, 3, None)
    assert first.allocated_by == "Ada" and first.allocated_at == value(plant, "select now()")
    second = allocate(plant, 150, "G")
    assert (second.first_value, second.last_value) == (35, 35 + 149 * 5)
    assert numbers_of(plant, first) == ["G0020", "G0025", "G0030"]
    for quantity, expected in [(1, ["G0785"]), (150, [f"G{n:04}" for n in range(790, 790 + 150 * 5, 5)])]:
        assert generated(plant, quantity=quantity, format="G") == expected
    (status,) = call(plant, "counter_status", format="G")
    assert status.last_value == 790 + 149 * 5
    # No serial before it is reported.
    assert value(plant, "select count(*) from machserial.serials") == 153


def test_a_block_right_after_its_format_was_made(connection):
    make_format(connection, "F", "F{SEQ:4}")
    block = call(connection, "allocate_block", format="F", quantity=10, holder="LINE-1")[0]
    assert block[1:4] == (1, 10, "OPEN") and block.part_id is None
    assert numbers_of(connection, block) == [f"F{n:04}" for n in range(1, 11)]


@ALLOCATIONS
def test_values_given_to_a_block_count_as_given(plant, allocation):
    make_format(plant, "G", "G{SEQ:4}", allocation=allocation)
    allocate(plant, 100, "G")
    for backward in (1, 50, 100):
        with refused(plant, "22023"):
            call(plant, "reset_counter", format="G", next_value=backward, reason="moved")
    call(plant, "reset_counter", format="G", next_value=200, reason="moved")
    assert allocate(plant, 2, "G").first_value == 200
    revised = make_revision(plant, "G", "N{SEQ:4}")
    assert allocate(plant, 2, "G").first_value == 202 and revised.version == 2


def make_revision(connection, name: str, pattern: str) -> object:
    return call(connection, "revise_format", name=name, pattern=pattern)[0]


@ALLOCATIONS
def test_taken_numbers_do_not_count(plant, allocation):
    make_format(plant, "G", "G{SEQ:5}", sequence_increment=2, allocation=allocation)
    taken = [3, 5, 11, *range(301, 401, 2), 1005]
    register(plant, [f"G{n:05}" for n in taken])
    free = (n for n in range(1, 100_000, 2) if n not in taken)
    for quantity in (1, 3, 200, 300):
        block = allocate(plant, quantity, "G", part_id="P")
        expected = [next(free) for _ in range(quantity)]
        assert numbers_of(plant, block) == [f"G{n:05}" for n in expected]
        assert (block.last_value, block.open) == (expected[-1], quantity)
    with refused(plant, "22023"):
        report(plant, block, ["G01005"])


def test_a_number_counts_as_taken_where_the_part_would_collide(plant):
    make_part(plant, "OTHER", "OTHER")
    register(plant, ["F0001"], "OTHER", scopes=["PART_TYPE"])
    register(plant, ["F0002"], "Q", site_id="BER", scopes=["PART_TYPE"])
    register(plant, ["F0004"], "OTHER", scopes=["SITE"])
    with plant.transaction(force_rollback=True):
        assert numbers_of(plant, allocate(plant, 2, part_id="P")) == ["F0001", "F0003"]
    plant.execute("select machserial.register_part('P', 'TYPE', scopes => '{ENTERPRISE,PART_TYPE}')")
    call(plant, "reset_counter", format="F", next_value=100, reason="moved")
    register(plant, ["F0101"], "Q", site_id="BER", scopes=["PART_TYPE"])
    register(plant, ["F0102"], "OTHER", scopes=["SITE"])
    register(plant, ["F0103"], "OTHER", scopes=["ENTERPRISE"])
    # Nobody else has a number of the whole enterprise.
    assert numbers_of(plant, allocate(plant, 3, part_id="P")) == ["F0100", "F0104", "F0105"]


@ALLOCATIONS
def test_a_block_that_does_not_fit_consumes_nothing(plant, allocation):
    make_format(plant, "G", "G{SEQ:3}", allocation=allocation)
    register(plant, ["G500", "G999"])
    generated(plant, quantity=7, format="G")
    for quantity in (991, 1000, 1_000_000):
        with refused(plant, "2200H"):
            allocate(plant, quantity, "G", part_id="P")
    block = allocate(plant, 990, "G", part_id="P")
    assert (block.first_value, block.last_value, len(numbers_of(plant, block))) == (8, 998, 990)
    for refusal in (lambda: allocate(plant, 1, "G", part_id="P"), lambda: generated(plant, format="G")):
        with refused(plant, "2200H"):
            refusal()
    make_format(plant, "H", "H{SEQ:1}", sequence_increment=10**18, allocation=allocation)
    with refused(plant, "2200H"):
        allocate(plant, 2, "H")
    assert allocate(plant, 1, "H").last_value == 1


def test_what_a_block_cannot_be(plant):
    for name, pattern, arguments in [
        ("RANDOM", "{RANDOM:8}", {}), ("BOTH", "{SEQ:4}{RANDOM:4}", {}), ("UUID", "{SEQ:4}{UUID}", {}),
        ("FIXED", "ONLY-{YYYY}", {}), ("WO", "{WO}{SEQ:4}", {}), ("LOT", "{LOT}{SEQ:4}", {}),
        ("CTX", "{CTX:x}{SEQ:4}", {}), ("PART", "{PART}{SEQ:4}", {}),
        ("PER PART", "{SEQ:4}", {"counter_per": "PART"}), ("PER SITE PART", "{SEQ:4}", {"counter_per": "SITE_PART"}),
    ]:  # fmt: skip
        make_format(plant, name, pattern, **arguments)
        with refused(plant, "22023"):
            allocate(plant, 1, name)
    make_format(plant, "OFF", "O{SEQ:4}")
    call(plant, "deactivate_format", name="OFF")
    for arguments, sqlstate in [
        *(({"quantity": quantity}, "22023") for quantity in (0, -1, None, 1_000_001)),
        *(({"holder": holder}, "22023") for holder in (None, "", "  ")),
        *(({"expires_at": moment}, "22023") for moment in ("2020-01-01", value(plant, "select now()"))),
        ({"format": "NOTHING"}, "23503"), ({"format": None}, "23503"), ({"part_id": "NOBODY"}, "23503"),
        ({"site_id": "NOWHERE"}, "23503"), ({"format": "OFF"}, "55000"),
    ]:  # fmt: skip
        with refused(plant, sqlstate):
            allocate(plant, **arguments)
    assert value(plant, "select count(*) from machserial.blocks") == 0
    assert allocate(plant, 1).first_value == 1


def test_a_format_that_numbers_one_part_says_which(plant):
    make_format(plant, "G", "{PART}-{SEQ:4}", counter_per="PART")
    call(plant, "assign_format", part_id="Q", format="G")
    block = allocate(plant, 2, "G")
    assert block.part_id == "Q" and numbers_of(plant, block) == ["Q-0001", "Q-0002"]
    call(plant, "assign_format", part_id="P", format="G")
    with refused(plant, "22023"):
        allocate(plant, 2, "G")
    assert numbers_of(plant, allocate(plant, 1, "G", part_id="P")) == ["P-0001"]


def test_the_numbers_of_a_block_are_always_the_same(plant):
    make_format(plant, "G", "g{{{SITE}{PART}{YYYY}{DDD}{CHECK:luhn}-{SEQ:3:safe}{CHECK:mod37_36}", counter_per="SITE",
                letter_case="UPPER")  # fmt: skip
    block = allocate(plant, 40, "G", part_id="P", site_id="BER")
    numbers = numbers_of(plant, block)
    # As if it had been allocated long ago.
    with violated(plant, "55000"):
        plant.execute("update machserial.number_blocks set issued_at = '2020-02-03 00:00'")
    plant.execute("alter table machserial.number_blocks disable trigger user")
    plant.execute("update machserial.number_blocks set issued_at = '2020-02-03 00:00'")
    plant.execute("alter table machserial.number_blocks enable trigger user")
    aged = numbers_of(plant, block)
    assert aged[0].startswith("G{BERP2020034") and aged[0] != numbers[0] and len({*aged}) == 40
    make_revision(plant, "G", "X{SEQ:3}")
    call(plant, "register_site", site_id="BER", time_zone="Asia/Tokyo")
    rows = report(plant, block, aged)
    assert numbers_of(plant, block) == aged == [row.serial_number for row in rows]
    assert all(row.serial_id and not row.has_conflict for row in rows)
    with refused(plant, "22023"):
        report(plant, block, [numbers[0]])


def test_a_request_gives_one_block(plant, connect):
    later = value(plant, "select now() + interval '1 day'")
    arguments = {"quantity": 5, "part_id": "P", "request_id": "r", "expires_at": later}
    block = allocate(plant, **arguments)
    # Often counted from now, so another moment when the request is repeated.
    again = {**arguments, "expires_at": later + timedelta(seconds=1)}
    assert allocate(plant, **again, site_id="DEFAULT").block_id == block.block_id
    make_format(plant, "G", "G{SEQ:4}")
    for other in [{"quantity": 6}, {"holder": "LINE-2"}, {"part_id": None}, {"format": "G"}]:
        with refused(plant, "22023"):
            allocate(plant, **{**arguments, **other})
    call(plant, "return_block", block_id=block.block_id)
    call(plant, "deactivate_format", name="F")
    assert allocate(plant, **arguments).status == "RETURNED"
    assert column(plant, "select request_id from machserial.blocks") == ["r"]
    plant.commit()
    with refused(plant, "2200H"):
        allocate(plant, 10_000, "G", request_id="too many")
    assert allocate(plant, 10, "G", request_id="too many").quantity == 10


def test_a_block_is_audited(plant):
    plant.execute("set local machserial.actor = 'Ada'")
    block = allocate(plant, 4, part_id="P")
    register(plant, ["F0003"])
    plant.execute("set local machserial.reason = 'Order 7'")
    report(plant, block, ["F0002", "F0003"])
    report(plant, block, ["F0002", "F0003"])
    plant.execute("update machserial.number_blocks set expires_at = '2999-01-01 00:00+00'")
    call(plant, "return_block", block_id=block.block_id)
    second = allocate(plant, 2, part_id="P")
    report(plant, second, numbers_of(plant, second))
    named = {"block_id": block.block_id, "holder": "LINE-1"}
    found = events(plant)
    assert [event[:2] + event[3:4] for event in found] == [
        (f"BLOCK_{what}", "Ada", "P")
        for what in ("ALLOCATED", "REPORTED", "UPDATED", "RETURNED", "ALLOCATED", "REPORTED", "USED")
    ]
    assert [event[2] for event in found] == [None] + 6 * ["Order 7"]
    assert found[0][4].items() >= {**named, "first_value": 1, "last_value": 4, "quantity": 4}.items()
    assert found[1][4] == {**named, "used": 1, "conflicts": 1}
    assert found[2][4] == {**named, "expires_at": {"old": None, "new": "2999-01-01T00:00:00+00:00"}}
    assert found[3][4] == {**named, "status": {"old": "OPEN", "new": "RETURNED"}}
    closed = call(plant, "return_block", block_id=allocate(plant, 1).block_id)[0]
    assert (closed.closed_by, closed.closing_reason) == ("Ada", "Order 7")


# Reports


def test_what_was_used_becomes_a_serial_once(plant):
    block = allocate(plant, 5, part_id="P", site_id="BER")
    rows = report(plant, block, ["F0004", "F0002", "F0004"])
    assert [row.serial_number for row in rows] == ["F0004", "F0002"]
    stored = call(plant, "find_serial", serial_number="F0004")[0]
    assert (stored.id, stored.part_id, stored.site_id, stored.source, stored.status, stored.sequence_number) == (
        rows[0].serial_id, "P", "BER", "SYSTEM_GENERATED", "ACTIVE", 4,
    )  # fmt: skip
    assert value(plant, "select name from machserial.serial_formats where id = %s", stored.format_id) == "F"
    assert states(plant, block) == ("OPEN", 2, 3, 0, 0)
    assert report(plant, block, ["F0004", "F0002"]) == rows and report(plant, block, []) == []
    assert len(report(plant, block, ["F0001", "F0002", "F0003"])) == 3
    assert states(plant, block) == ("OPEN", 4, 1, 0, 0)
    report(plant, block, numbers_of(plant, block))
    assert states(plant, block) == ("USED", 5, 0, 0, 0)
    assert report(plant, block, ["F0004", "F0002"]) == rows
    assert value(plant, "select count(*) from machserial.serials") == 5
    assert value(plant, "select closed_at = now() from machserial.blocks")


def test_numbers_of_others_are_refused_and_nothing_is_done(plant):
    block = allocate(plant, 5, part_id="P")
    allocate(plant, 5, part_id="P")
    for strange in ["F0006", "F0000", "F9999", "F00001", "F001", "f0001", "G0001", "F00 01", "F\u200b0001", "", None,
                    "1", "F00０1", *HOSTILE]:  # fmt: skip
        with refused(plant, "22023"):
            report(plant, block, ["F0001", strange])
    with refused(plant, "22023") as refusal:
        report(plant, block, [f"X{number}" for number in range(1000)])
    assert "1000" in refusal.detail and "'X2'" in refusal.detail and len(refusal.detail) < 100
    with refused(plant, "22023"):
        report(plant, block, None)
    assert states(plant, block) == ("OPEN", 0, 5, 0, 0)


def test_unknown_blocks(plant):
    for unknown in (99, None):
        for function, arguments in [("block_serials", {}), ("report_block", {"used": []}), ("return_block", {})]:
            with refused(plant, "P0002"):
                call(plant, function, block_id=unknown, **arguments)


def test_whoever_leaves_the_part_open_says_it_with_each_report(plant):
    block = allocate(plant, 5)
    with refused(plant, "22023"):
        report(plant, block, ["F0001"])
    with refused(plant, "23503"):
        report(plant, block, ["F0001"], part_id="NOBODY")
    report(plant, block, ["F0001"], part_id="P")
    report(plant, block, ["F0002"], part_id="Q")
    # What is on record needs no part.
    assert len(report(plant, block, ["F0001", "F0002"])) == 2
    call(plant, "assign_format", part_id="Q", format="F")
    report(plant, block, ["F0003"])
    assert column(plant, "select part_id from machserial.serials order by serial_number") == ["P", "Q", "Q"]
    fixed = allocate(plant, 5, part_id="P")
    with refused(plant, "22023"):
        report(plant, fixed, ["F0006"], part_id="Q")
    report(plant, fixed, ["F0006"], part_id="P")


def test_a_number_that_somebody_else_has_registered_is_a_conflict_once(plant):
    block = allocate(plant, 3, part_id="P")
    (other,) = register(plant, ["F0002"], "Q")
    rows = report(plant, block, ["F0001", "F0002"])
    assert [(row.has_conflict, row.serial_id is None) for row in rows] == [(False, False), (True, True)]
    recorded = "select id, serial_number, part_id, source, conflicting_serial_ids from machserial.serial_conflicts"
    conflict = (rows[1].conflict_id, "F0002", "P", "SYSTEM_GENERATED", [other.serial_id])
    for _ in range(2):
        assert report(plant, block, ["F0002", "F0001"]) == rows[::-1]
        assert plant.execute(recorded).fetchall() == [conflict]
    # The holder has used it, whosever it is.
    assert states(plant, block) == ("OPEN", 2, 1, 0, 0)
    report(plant, block, ["F0003"])
    assert states(plant, block) == ("USED", 3, 0, 0, 0)


def test_a_duplicate_becomes_a_serial_when_its_number_has_become_free(plant):
    block = allocate(plant, 3, part_id="P")
    kept, _ = register(plant, ["F0001", "F0002"], "Q")
    rows = report(plant, block, ["F0001", "F0002"])
    call(plant, "return_block", block_id=block.block_id)
    about = {"part_id": "P", "reason": "a misprint"}
    call(plant, "resolve_conflict", serial_number="F0001", resolution="KEEP", keep_serial_id=kept.serial_id, **about)
    call(plant, "resolve_conflict", serial_number="F0002", resolution="MARK_INVALID", **about)
    again = report(plant, block, ["F0001", "F0002"])
    assert again[0] == rows[0] and (again[1].has_conflict, again[1].conflict_id) == (False, None)
    assert again == report(plant, block, ["F0001", "F0002"])
    assert value(plant, "select part_id from machserial.serials where id = %s", again[1].serial_id) == "P"
    assert value(plant, "select count(*) from machserial.serial_conflicts") == 2
    assert states(plant, block) == ("RETURNED", 2, 0, 1, 0)


def test_a_block_of_thousands_is_reported_after_a_single_number(plant):
    make_format(plant, "G", "{SITE}-{YY}{SEQ:6:base36}{CHECK:mod97_10}")
    block = allocate(plant, 20_000, "G", part_id="P", site_id="BER")
    numbers = numbers_of(plant, block)
    register(plant, numbers[7000:7100], site_id="BER")
    report(plant, block, numbers[:1])
    plant.execute("set statement_timeout = '30s'")
    rows = report(plant, block, random.Random(1).sample(numbers, 20_000))
    assert len(rows) == 20_000 and sum(row.has_conflict for row in rows) == 100
    assert states(plant, block) == ("USED", 20_000, 0, 0, 0)
    assert value(plant, "select count(*) from machserial.audit_events where event_type = 'BLOCK_REPORTED'") == 2
    assert (
        value(
            plant,
            "select count(*) from machserial.serials as s join machserial.block_usages as u "
            "on u.serial_id = s.id and u.sequence_number = s.sequence_number",
        )
        == 19_900
    )


# The end of a block


def test_what_was_not_used_is_returned(plant):
    block = allocate(plant, 5, part_id="P")
    rows = report(plant, block, ["F0002"])
    row = call(plant, "return_block", block_id=block.block_id)[0]
    assert plant.execute("select * from machserial.blocks").fetchone() == tuple(row)
    assert states(plant, block) == ("RETURNED", 1, 0, 4, 0)
    with refused(plant, "55000") as refusal:
        call(plant, "return_block", block_id=block.block_id)
    assert "RETURNED" in refusal.message
    assert report(plant, block, ["F0002"]) == rows
    with refused(plant, "55000") as refusal:
        report(plant, block, ["F0002", "F0003"])
    assert "F0003" in refusal.detail
    # A gap that stays one.
    assert generated(plant, format="F") == ["F0006"]


@pytest.mark.own_database
def test_maintenance_closes_what_has_expired(plant):
    short, lasting = allocate(plant, 3, part_id="P", expires_at="2999-01-01"), allocate(plant, 3, part_id="P")
    plant.execute(
        "update machserial.number_blocks set expires_at = clock_timestamp() + interval '100 ms' where id = %s",
        (short.block_id,),
    )
    plant.commit()
    time.sleep(0.2)
    # Until it is closed, it may be reported.
    assert states(plant, short) == ("OPEN", 0, 3, 0, 0)
    rows = report(plant, short, ["F0001"])
    for expected in (1, 0):
        assert value(plant, "select machserial._expire_blocks()") == expected
    assert states(plant, short) == ("EXPIRED", 1, 0, 0, 2) and states(plant, lasting)[0] == "OPEN"
    assert report(plant, short, ["F0001"]) == rows
    with refused(plant, "55000"):
        report(plant, short, ["F0002"])
    with refused(plant, "55000"):
        call(plant, "return_block", block_id=short.block_id)
    assert events(plant)[-1][0] == "BLOCK_EXPIRED"


def test_maintenance_does_not_wait_for_a_report(plant, connect):
    block = allocate(plant, 3, part_id="P", expires_at="2999-01-01")
    plant.execute("update machserial.number_blocks set expires_at = clock_timestamp() + interval '1 ms'")
    plant.commit()
    reporting = connect()
    report(reporting, block, ["F0001"])
    plant.execute("set lock_timeout = '1s'")
    assert value(plant, "select machserial._expire_blocks()") == 0
    reporting.commit()
    assert value(plant, "select machserial._expire_blocks()") == 1


def test_a_counter_whose_period_is_over_retires_and_its_blocks_live_on(plant):
    plant.execute("set time zone 'UTC'")
    make_format(plant, "G", "{YYYY}{MM}{DD}-{SEQ:3}", reset="DAILY")
    block = allocate(plant, 5, "G", part_id="P")
    numbers = numbers_of(plant, block)
    plant.execute(
        "update machserial.counters set period = 'past', period_starts = period_starts - 30 "
        "where period_starts = now()::date"
    )
    call(plant, "maintain")
    assert value(plant, "select last_value from machserial.counters where retired_at is not null") == 5
    assert numbers_of(plant, block) == numbers and len(report(plant, block, numbers)) == 5
    assert states(plant, block) == ("USED", 5, 0, 0, 0)


# Rules of the tables


def test_a_block_stays_what_it_is(plant):
    block = allocate(plant, 5, part_id="P")
    for change in ["skipped_values = '{1}'", "holder = 'X'", "first_value = 0", "quantity = 4", "part_id = 'Q'",
                   "issued_at = '2020-01-01'", "status = 'USED'"]:  # fmt: skip
        with violated(plant, "55000"):
            plant.execute(f"update machserial.number_blocks set {change}")
    plant.execute("update machserial.number_blocks set expires_at = now() + interval '1 day', closed_by = 'X'")
    plant.execute("update machserial.number_blocks set status = 'RETURNED'")
    assert value(plant, "select closed_at = now() and closed_by = session_user from machserial.number_blocks")
    for change in ["status = 'OPEN'", "status = 'EXPIRED'", "expires_at = null", "closing_reason = 'X'"]:
        with violated(plant, "55000"):
            plant.execute(f"update machserial.number_blocks set {change}")
    for table in ("number_blocks", "block_usages"):
        for removal in (f"delete from machserial.{table}", f"truncate machserial.{table} cascade"):
            with violated(plant, "55000"):
                plant.execute(removal)
    assert states(plant, block) == ("RETURNED", 0, 0, 5, 0)


def test_blocks_that_overlap_or_would_be_given_again_cannot_be_written(plant):
    generated(plant, quantity=3, format="F")
    allocate(plant, 5)
    generated(plant, quantity=3, format="F")
    counter = value(plant, "select id from machserial.counters")
    insert = (
        "insert into machserial.number_blocks (counter_id, holder, first_value, last_value, quantity, issued_at, "
        "increment) values (%s, %s, %s, %s, %s, now(), 1)"
    )
    for first, last, quantity, sqlstate in [
        (8, 9, 2, "23P01"), (1, 4, 4, "23P01"), (11, 12, 2, "55000"), (9, 10, 3, "23514"), (10, 9, 0, "23514"),
    ]:  # fmt: skip
        with violated(plant, sqlstate):
            plant.execute(insert, (counter, "X", first, last, quantity))
    with violated(plant, "23514"):
        plant.execute(insert, (counter, " ", 9, 10, 2))
    plant.execute(insert, (counter, "X", 9, 10, 2))
    assert [event[0] for event in events(plant)] == 2 * ["BLOCK_ALLOCATED"]


def test_usages_obey_their_block_whoever_writes_them(plant):
    block = allocate(plant, 3, part_id="P")
    (serial,) = register(plant, ["HAND-1"])
    row = "insert into machserial.block_usages values (%s, %s, %s, %s)"
    for number in (0, 4):
        with violated(plant, "22023"):
            plant.execute(row, (block.block_id, number, serial.serial_id, None))
    # That serial is not number 1 of the block.
    with violated(plant, "22023"):
        plant.execute(row, (block.block_id, 1, serial.serial_id, None))
    with violated(plant, "23514"):
        plant.execute(row, (block.block_id, 1, None, None))
    report(plant, block, ["F0001"])
    for change in ("sequence_number = 2", "block_id = 9", "serial_id = null"):
        with violated(plant, "55000"):
            plant.execute(f"update machserial.block_usages set {change}")
    call(plant, "return_block", block_id=block.block_id)
    made = value(
        plant,
        "insert into machserial.serials (serial_number, part_id, sequence_number) values ('F0002', 'P', 2) "
        "returning id",
    )
    with violated(plant, "55000"):
        plant.execute(row, (block.block_id, 2, made, None))


# Many at once


@pytest.fixture
def crowd(plant, connect):
    """crowd(count, work): work(session, number) in so many autocommitting sessions that begin at the same moment."""

    def run(count: int, work: object) -> list:
        plant.commit()
        sessions = [connect(autocommit=True) for _ in range(count)]
        barrier = Barrier(count)

        def client(number: int) -> object:
            sessions[number].execute(LIMITS)
            barrier.wait(60)
            return work(sessions[number], number)

        return at_once(count, client)

    return run


@ALLOCATIONS
def test_blocks_and_generating_never_get_the_same_numbers(plant, crowd, allocation):
    make_format(plant, "G", "G{SEQ:6}", allocation=allocation)
    register(plant, [f"G{n:06}" for n in (3, 50, *range(700, 800))])

    def work(session: psycopg.Connection, client: int) -> None:
        dice = random.Random(client)
        for _ in range(8):
            with session.transaction(force_rollback=dice.random() < 0.3):
                for quantity in dice.choices([1, 2, 7, 120], k=2):
                    if dice.random() < 0.5:
                        allocate(session, dice.choice([1, 5, 100]), "G", f"LINE-{client}", part_id="P")
                    else:
                        generated(session, quantity=quantity, format="G")

    crowd(8, work)
    issued = set(column(plant, "select sequence_number from machserial.serials where sequence_number is not null"))
    covered = set()
    for first, last in plant.execute("select first_value, last_value from machserial.number_blocks order by 1"):
        run = set(range(first, last + 1))
        assert not run & covered and not run & issued
        covered |= run
    assert len(covered) > 300 and len(issued) > 300
    if allocation == "GAPLESS":
        taken = {3, 50, *range(700, 800)}
        everything = issued | covered
        assert everything | taken == set(range(1, max(everything) + 1))
    # Each number of a block can be used.
    for (block_id,) in plant.execute("select id from machserial.number_blocks").fetchall():
        numbers = [row[0] for row in call(plant, "block_serials", block_id=block_id)]
        rows = call(plant, "report_block", block_id=block_id, used=numbers)
        assert len(rows) == len(numbers) and not any(row.has_conflict for row in rows)


@ALLOCATIONS
def test_many_allocate_until_nothing_is_left(plant, crowd, allocation):
    make_format(plant, "G", "G{SEQ:3}", allocation=allocation)

    def work(session: psycopg.Connection, client: int) -> int:
        got = 0
        while True:
            try:
                if client % 2:
                    got += allocate(session, 37, "G").quantity
                else:
                    got += len(generated(session, quantity=9, format="G"))
            except psycopg.errors.SequenceGeneratorLimitExceeded:
                return got

    assert 999 - 9 < sum(crowd(6, work)) <= 999


def test_copies_of_a_request_that_run_at_once_get_one_block(plant, crowd):
    found = crowd(6, lambda session, _: allocate(session, 5, request_id="r").block_id)
    assert len(set(found)) == 1 and value(plant, "select count(*) from machserial.blocks") == 1


def test_those_who_report_the_same_numbers_at_once_get_the_same_serials(plant, crowd):
    block = allocate(plant, 300, part_id="P")
    numbers = numbers_of(plant, block)

    def work(session: psycopg.Connection, client: int) -> dict:
        used = random.Random(client).sample(numbers, 300)
        return {row.serial_number: row.serial_id for row in report(session, block, used)}

    answers = crowd(6, work)
    assert all(answer == answers[0] for answer in answers) and len(set(answers[0].values())) == 300
    assert states(plant, block) == ("USED", 300, 0, 0, 0)


def test_a_block_waits_for_no_transaction_and_none_for_it(plant, connect):
    generating, allocating = connect(), connect()
    for session in (generating, allocating):
        session.execute("set lock_timeout = '1s'")
    assert generated(generating, format="F") == ["F0001"]
    assert allocate(allocating, 5).first_value == 2
    assert generated(generating, format="F") == ["F0007"] and not advisory_locks(plant)
    # What is rolled back stays a gap.
    allocating.rollback()
    assert allocate(allocating, 5).first_value == 8


def test_a_block_looks_again_if_others_have_drawn_beyond_what_it_has_seen(plant, connect):
    generated(plant, format="F")
    held = guard(plant, "machserial.counter")
    plant.execute("select pg_advisory_lock(%s, %s)", held)
    plant.commit()
    allocating = connect(autocommit=True)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(allocate, allocating, 10, part_id="P")
        while not column(plant, "select pid from pg_locks where locktype = 'advisory' and not granted"):
            assert not waiting.done()
            time.sleep(0.01)
        generated(plant, quantity=400, format="F")
        register(plant, ["F0404"])
        plant.commit()
        plant.execute("select pg_advisory_unlock(%s, %s)", held)
        block = waiting.result(60)
    assert (block.first_value, block.last_value) == (402, 412)
    assert "F0404" not in numbers_of(plant, block)


@pytest.mark.parametrize(
    ("lock", "statement"),
    [
        ("pg_advisory_lock", "select machserial.generate('P', format => 'G')"),
        ("pg_advisory_lock", "select machserial.generate('P', 150, format => 'G')"),
        ("pg_advisory_lock", "select machserial.generate('P', 999, format => 'G')"),
        ("pg_advisory_lock_shared", "select machserial.allocate_block('G', 5, 'LINE-1')"),
        ("pg_advisory_lock_shared", "select machserial.reset_counter('G', 500, reason => 'moved')"),
    ],
)
def test_a_cancelled_call_leaves_no_lock_behind(connection, connect, lock, statement):
    make_part(connection)
    make_format(connection, "G", "G{SEQ:4}")
    guarded = guard(connection)
    connection.execute(f"select {lock}(%s, %s)", guarded)
    connection.commit()
    session = connect()
    session.execute("set statement_timeout = '100ms'")
    # Within a transaction that goes on.
    with pytest.raises(psycopg.errors.QueryCanceled), session.transaction():
        session.execute(statement)
    connection.execute("select pg_advisory_unlock_all()")
    assert not advisory_locks(connection)
    session.execute("set statement_timeout = '60s'")
    session.execute(statement)
    assert not advisory_locks(connection)


def test_calls_that_cannot_write_leave_no_lock_behind(plant, connect):
    session = connect()
    for statement in ("select machserial.generate('P', format => 'F')", "select machserial.allocate_block('F', 1, 'X')",
                      "select machserial.reset_counter('F', 50, reason => 'moved')"):  # fmt: skip
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), session.transaction():
            session.execute("set local transaction_read_only = on")
            session.execute(statement)
        assert not advisory_locks(plant)


def test_cancellations_at_any_moment_leave_no_lock_behind(plant, connect, crowd):
    until = time.monotonic() + 1.5

    def work(session: psycopg.Connection, client: int) -> int:
        cancelled = 0
        dice = random.Random(client)
        while time.monotonic() < until:
            try:
                if client == 0:
                    time.sleep(dice.random() / 200)
                    session.execute(
                        "select pg_cancel_backend(pid) from pg_stat_activity "
                        "where datname = current_database() and query ~ 'LINE' and pid <> pg_backend_pid()"
                    )
                elif client % 2:
                    session.execute("select machserial.generate('P', format => 'F') /* LINE */")
                else:
                    session.execute("select machserial.allocate_block('F', 2, 'LINE')")
            except psycopg.errors.QueryCanceled:
                cancelled += 1
            except psycopg.errors.SequenceGeneratorLimitExceeded:
                break
        return cancelled

    make_revision(plant, "F", "F{SEQ:8}")
    cancelled = sum(crowd(5, work)[1:])
    assert cancelled > 10 and not advisory_locks(plant)
    assert value(
        plant,
        "select count(*) from machserial.serials as s join machserial.number_blocks as b "
        "on s.sequence_number between b.first_value and b.last_value",
    ) == 0  # fmt: skip


def test_a_character_that_nobody_sees_is_named(plant):
    block = allocate(plant, 4, part_id="P")
    with refused(plant, "22023") as why:
        report(plant, block, ["F0001", "F00\u200b02"])
    assert "U+200B" in why.detail
