"""Many sessions at once: no number twice, no gap where none may be, and nobody waits who need not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest
from support import at_once, call, column, generated, make_format, make_part, mostly_slow, register, value

LIMITS = "set statement_timeout = '60s'; set lock_timeout = '60s'"
NO_WAITING = "set lock_timeout = '1s'"


@pytest.fixture
def plant(connection):
    """A database with parts P and Q and the sites DEFAULT, EAST and WEST, at which it is never the same day."""
    make_part(connection, "P")
    make_part(connection, "Q")
    call(connection, "register_site", site_id="EAST", time_zone="Pacific/Kiritimati")
    call(connection, "register_site", site_id="WEST", time_zone="Etc/GMT+12")
    connection.commit()
    return connection


@pytest.fixture
def crowd(plant, connect) -> Callable:
    """crowd(count, work): work(session, client) in so many autocommitting sessions that begin at the same moment."""

    def run(count: int, work: Callable[[psycopg.Connection, int], object]) -> list:
        plant.commit()
        sessions = [connect(autocommit=True) for _ in range(count)]
        barrier = Barrier(count)

        def client(number: int) -> object:
            sessions[number].execute(LIMITS)
            barrier.wait(60)
            return work(sessions[number], number)

        return at_once(count, client)

    return run


def until_refused(session: psycopg.Connection, **arguments: object) -> list[str]:
    """Generates until there is nothing left; any other error than 2200H is one."""
    numbers = []
    while True:
        try:
            numbers += generated(session, **arguments)
        except psycopg.errors.SequenceGeneratorLimitExceeded:
            return numbers


def await_waiting(observer: psycopg.Connection, session: psycopg.Connection, work: Future) -> None:
    """Returns when the session waits for a lock. Fails if it comes to its end instead."""
    for _ in range(3000):
        assert not work.done(), f"should have waited: {work}"
        if value(
            observer,
            "select count(*) from pg_stat_activity where pid = %s and wait_event_type = 'Lock'",
            session.info.backend_pid,
        ):
            return
        time.sleep(0.01)
    raise AssertionError("never waited for a lock")


@pytest.fixture
def background():
    with ThreadPoolExecutor() as threads:
        yield threads


# No number twice


@pytest.mark.parametrize("allocation", ["SEQUENCE", "GAPLESS"])
def test_24_clients_with_rollbacks_get_no_number_twice(plant, crowd, allocation):
    make_format(plant, "F", "F{SEQ:6}{CHECK:luhn}", allocation=allocation)

    def work(session: psycopg.Connection, client: int) -> list[str]:
        dice = random.Random(client)
        committed = []
        for _ in range(5):
            is_lost = dice.random() < 0.4
            with session.transaction(force_rollback=is_lost):
                numbers = [
                    number
                    for quantity in dice.choices([1, 2, 7, 120], [6, 3, 3, 1], k=2)
                    for number in generated(session, quantity=quantity, format="F")
                ]
            committed += [] if is_lost else numbers
        return committed

    numbers = [number for committed in crowd(24, work) for number in committed]
    assert len(set(numbers)) == len(numbers)
    assert sorted(numbers) == sorted(column(plant, "select serial_number from machserial.serials"))
    if allocation == "GAPLESS":
        issued = column(plant, "select sequence_number from machserial.serials order by 1")
        assert issued == list(range(1, len(numbers) + 1))


def test_a_random_space_is_filled_by_many_at_once(plant, crowd):
    given = {"pattern": "R{RANDOM:numeric:3}", "quantity": 25}
    numbers = [number for found in crowd(10, lambda session, _: until_refused(session, **given)) for number in found]
    assert sorted(numbers) == [f"R{number:03}" for number in range(1000)]


@pytest.mark.parametrize("allocation", mostly_slow(["SEQUENCE", "GAPLESS"], ["GAPLESS"]))
def test_16_clients_exhaust_a_counter_to_its_last_number(plant, crowd, allocation):
    make_format(plant, "F", "F{SEQ:3}", allocation=allocation)
    found = crowd(16, lambda session, _: until_refused(session, quantity=3, format="F"))
    assert sorted(number for numbers in found for number in numbers) == [f"F{number:03}" for number in range(1, 1000)]


@pytest.mark.parametrize("allocation", ["SEQUENCE", "GAPLESS"])
def test_those_who_are_refused_at_once_consume_nothing(plant, crowd, allocation):
    make_format(plant, "F", "F{SEQ:3}", allocation=allocation)
    register(plant, [f"F{number:03}" for number in range(500, 999, 2)])
    found = crowd(12, lambda session, _: until_refused(session, quantity=10, format="F"))
    issued = sum(len(numbers) for numbers in found)
    assert issued == 740
    assert len(generated(plant, quantity=9, format="F")) == 9


# A sequence never waits

FORMATS = {
    "FORMAT": {"pattern": "{SEQ:6}"},
    "PART": {"pattern": "{PART}-{SEQ:6}", "counter_per": "PART"},
    "SITE": {"pattern": "{SITE}-{SEQ:6}", "counter_per": "SITE"},
    "SITE_PART": {"pattern": "{SITE}-{PART}-{SEQ:6}", "counter_per": "SITE_PART"},
    "DAILY": {"pattern": "{YYYY}{MM}{DD}-{SEQ:6}", "reset": "DAILY"},
    "WEEKLY, SITE": {"pattern": "{SITE}{IYYY}{WW}-{SEQ:6}", "reset": "WEEKLY", "counter_per": "SITE"},
    "YEARLY, PART": {"pattern": "{PART}{YYYY}-{SEQ:6}", "reset": "YEARLY", "counter_per": "PART"},
    "ALMOST FULL": {"pattern": "X{SEQ:3}"},
    "RANDOM": {"pattern": "{RANDOM:20}"},
}


@pytest.mark.parametrize("site_id", [None, "EAST", "WEST"])
def test_a_sequence_never_waits_for_an_open_transaction(plant, connect, site_id):
    for name, arguments in FORMATS.items():
        make_format(plant, name, **arguments)
        call(plant, "assign_format", part_id="P", format=name)
        if "PART" in arguments.get("counter_per", ""):
            # Their first use is waited for.
            call(plant, "reset_counter", format=name, next_value=2, part_id="P", site_id=site_id, reason="used")
    plant.commit()
    first, second = connect(), connect(autocommit=True)
    second.execute(NO_WAITING)
    for name in FORMATS:
        for quantity in (1, 150):
            held = generated(first, quantity=quantity, format=name, site_id=site_id)
            given = generated(second, quantity=quantity, format=name, site_id=site_id)
            assert len({*held, *given}) == 2 * quantity, name
    first.commit()
    assert value(plant, "select count(*) from machserial.serials") == 2 * 151 * len(FORMATS)


def test_a_site_that_is_new_does_not_make_anybody_wait(plant, connect):
    make_format(plant, "F", "{SITE}-{SEQ:6}", counter_per="SITE")
    call(plant, "register_site", site_id="NEW")
    plant.commit()
    first, second = connect(), connect(autocommit=True)
    second.execute(NO_WAITING)
    assert generated(first, format="F", site_id="NEW") == ["NEW-000001"]
    assert generated(second, format="F", site_id="NEW") == ["NEW-000002"]


def test_a_sequence_that_steps_over_taken_numbers_waits_for_nobody_either(plant, connect):
    make_format(plant, "F", "F{SEQ:6}")
    register(plant, [f"F{number:06}" for number in (2, 3, *range(5, 400))])
    plant.commit()
    first, second = connect(), connect(autocommit=True)
    second.execute(NO_WAITING)
    for quantity in (2, 150):
        held = generated(first, quantity=quantity, format="F")
        assert len({*held, *generated(second, quantity=quantity, format="F")}) == 2 * quantity


def test_an_ad_hoc_pattern_waits_for_nobody_once_it_is_known(plant, connect):
    generated(plant, pattern="A{SEQ:6}")
    plant.commit()
    first, second = connect(), connect(autocommit=True)
    second.execute(NO_WAITING)
    assert generated(first, pattern="A{SEQ:6}") == ["A000002"]
    assert generated(second, pattern="A{SEQ:6}") == ["A000003"]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("maintain", {}),
        ("create_format", {"name": "G", "pattern": "{YYYY}{MM}{DD}{SEQ:4}", "reset": "DAILY"}),
        ("revise_format", {"name": "F", "pattern": "G{SEQ:7}"}),
        ("deactivate_format", {"name": "F"}),
        ("assign_format", {"part_id": "P", "format": "F"}),
        ("reset_counter", {"format": "F", "next_value": 500, "reason": "moved"}),
        ("register_site", {"site_id": "EAST", "time_zone": "Asia/Tokyo"}),
        ("register_part", {"part_id": "P", "part_type": "TYPE", "name": "Bracket"}),
    ],
)
def test_a_sequence_does_not_wait_for_those_who_administer(plant, connect, function, arguments):
    make_format(plant, "F", "F{SEQ:6}")
    plant.commit()
    administrator, session = connect(), connect(autocommit=True)
    call(administrator, function, **arguments)
    session.execute(NO_WAITING)
    for quantity in (1, 150):
        assert len(generated(session, quantity=quantity, format="F", site_id="EAST")) == quantity


def test_only_the_move_to_another_node_keeps_the_others_waiting(plant, connect):
    """The audit trail goes on in another range of ids: from one moment on, for everybody."""
    make_format(plant, "F", "F{SEQ:6}")
    plant.commit()
    administrator, session = connect(), connect(autocommit=True)
    call(administrator, "set_node", node=3)
    session.execute(NO_WAITING)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        generated(session, format="F")
    administrator.commit()
    (issued,) = generated(session, format="F")
    assert value(session, "select id >> 48 from machserial.serials where serial_number = %s", issued) == 3


def test_a_gapless_counter_waits_for_the_open_transaction_and_takes_up_what_it_leaves(plant, connect, background):
    make_format(plant, "F", "F{SEQ:4}", allocation="GAPLESS")
    plant.commit()
    for ending, expected in [("rollback", ["F0001"]), ("commit", ["F0003"])]:
        first, second = connect(), connect(autocommit=True)
        generated(first, format="F")
        waiting = background.submit(generated, second, format="F")
        await_waiting(plant, second, waiting)
        getattr(first, ending)()
        assert waiting.result(60) == expected
        plant.commit()


# Meeting at first use


@pytest.mark.parametrize(
    ("known", "arguments"),
    [
        (None, {"pattern": "A{SEQ:4}"}),
        ({"pattern": "{SITE}-{PART}-{SEQ:4}", "counter_per": "SITE_PART"}, {"format": "F", "site_id": "EAST"}),
        ({"pattern": "{PART}{YYYY}{MM}{DD}{SEQ:4}", "counter_per": "PART", "reset": "DAILY"}, {"format": "F"}),
        ({"pattern": "{PART}-{SEQ:4}", "counter_per": "PART", "allocation": "GAPLESS"}, {"format": "F"}),
    ],
)
def test_many_meet_at_the_first_use(plant, crowd, known, arguments):
    if known:
        make_format(plant, "F", **known)
    crowd(16, lambda session, _: generated(session, **arguments))
    issued = column(plant, "select sequence_number from machserial.serials order by 1")
    assert issued == list(range(1, 17))
    assert value(plant, "select count(*) from machserial.serial_formats") == 1


def test_many_meet_at_the_first_use_by_several_parts(plant, crowd):
    make_format(plant, "F", "{PART}-{SEQ:4}", counter_per="PART")
    for number in range(4):
        make_part(plant, f"PART{number}")

    def work(session: psycopg.Connection, client: int) -> list[str]:
        # In different orders.
        parts = random.Random(client).sample(range(4), 4)
        return [number for part in parts for number in generated(session, f"PART{part}", 3, format="F")]

    numbers = [number for found in crowd(12, work) for number in found]
    assert sorted(numbers) == [f"PART{part}-{number:04}" for part in range(4) for number in range(1, 37)]


# Requests


def test_copies_of_a_request_that_run_at_once_give_the_same_serials(plant, crowd):
    for quantity in (1, 150):
        arguments = {"part_id": "P", "quantity": quantity, "pattern": "{SEQ:6}", "request_id": f"r{quantity}"}
        answers = crowd(8, lambda session, _, given=arguments: call(session, "generate", **given))
        assert len(answers[0]) == quantity and all(answer == answers[0] for answer in answers)
    assert value(plant, "select count(*) from machserial.serials") == 151


def test_a_copy_waits_for_the_request_and_carries_it_out_if_that_was_lost(plant, connect, background):
    make_format(plant, "F", "F{SEQ:4}")
    plant.commit()
    for ending in ("rollback", "commit"):
        first, second = connect(), connect(autocommit=True)
        arguments = {"part_id": "P", "quantity": 2, "format": "F", "request_id": ending}
        held = call(first, "generate", **arguments)
        waiting = background.submit(call, second, "generate", **arguments)
        await_waiting(plant, second, waiting)
        getattr(first, ending)()
        given = waiting.result(60)
        assert len(given) == 2 and (given == held) == (ending == "commit")
        plant.commit()
    assert value(plant, "select count(*) from machserial.serials") == 4


# Numbers that others register


def test_two_who_register_the_same_number_do_not_both_get_it(plant, connect, background):
    for ending in ("rollback", "commit"):
        first, second = connect(), connect(autocommit=True)
        register(first, [ending])
        waiting = background.submit(register, second, [ending], on_conflict="RECORD")
        await_waiting(plant, second, waiting)
        getattr(first, ending)()
        assert waiting.result(60)[0].has_conflict == (ending == "commit")
        plant.commit()


def test_generating_goes_on_while_others_register_the_same_numbers(plant, crowd):
    make_format(plant, "F", "F{SEQ:4}")

    def work(session: psycopg.Connection, client: int) -> list[str]:
        dice = random.Random(client)
        numbers = []
        for _ in range(15):
            if client % 2:
                numbers += generated(session, quantity=dice.choice([1, 5, 20]), format="F")
                continue
            wanted = [f"F{number:04}" for number in dice.sample(range(1, 800), dice.choice([1, 8]))]
            try:
                if dice.random() < 0.5:
                    register(session, wanted)
                    numbers += wanted
                else:
                    rows = register(session, wanted, on_conflict="RECORD")
                    numbers += [row.serial_number for row in rows if not row.has_conflict]
            except psycopg.errors.UniqueViolation:
                pass
        return numbers

    numbers = [number for found in crowd(10, work) for number in found]
    assert len(set(numbers)) == len(numbers)
    assert sorted(numbers) == sorted(column(plant, "select serial_number from machserial.serials"))


def test_batches_in_whatever_order_never_deadlock_with_generating(plant, connect, background):
    make_format(plant, "F", "F{SEQ:4}")
    plant.commit()
    holder, generating, registering = connect(), connect(autocommit=True), connect(autocommit=True)
    register(holder, ["F0003"])
    first = background.submit(generated, generating, quantity=5, format="F")
    await_waiting(plant, generating, first)
    second = background.submit(register, registering, ["F0005", "F0004", "F0002"], on_conflict="RECORD")
    await_waiting(plant, registering, second)
    holder.rollback()
    assert first.result(60) == [f"F{number:04}" for number in range(1, 6)]
    assert all(row.has_conflict for row in second.result(60))


def test_batches_that_overlap_in_opposite_orders_never_deadlock(plant, crowd):
    numbers = [f"N{number:04}" for number in range(400)]

    def work(session: psycopg.Connection, client: int) -> int:
        rows = register(session, random.Random(client).sample(numbers, 400), on_conflict="RECORD")
        return sum(not row.has_conflict for row in rows)

    assert sum(crowd(6, work)) == 400
    assert value(plant, "select count(*) from machserial.serial_conflicts") == 5 * 400


# Isolation


def test_an_older_snapshot_is_told_to_begin_again_and_nothing_is_issued_twice(plant, connect):
    make_format(plant, "F", "F{SEQ:4}", allocation="GAPLESS")
    plant.commit()
    old = connect()
    old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    assert value(old, "select count(*) from machserial.serials") == 0
    assert generated(plant, format="F") == ["F0001"]
    plant.commit()
    with pytest.raises(psycopg.errors.SerializationFailure):
        generated(old, format="F")
    old.rollback()
    assert generated(old, format="F") == ["F0002"]


def test_a_cancelled_call_leaves_no_lock_behind(connection: psycopg.Connection, connect: Callable) -> None:
    """Near its end a counter is guarded by a lock of the session: a time-out must not leave it held."""
    connection.execute("select machserial.register_part('P', 'T')")
    connection.execute("select machserial.create_format('short', 'S{SEQ:2}')")
    connection.commit()
    guard = connection.execute(
        "select hashtext('machserial.counter'), hashint8(max(id)) from machserial.counters"
    ).fetchone()
    connection.execute("select pg_advisory_lock(%s, %s)", guard)
    connection.commit()
    waiter = connect(autocommit=True)
    waiter.execute("set statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        waiter.execute("select machserial.generate('P', 1, format => 'short')")
    connection.execute("select pg_advisory_unlock(%s, %s)", guard)
    connection.commit()
    held = connection.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone()
    assert held == (0,)
    number = waiter.execute("select serial_number from machserial.generate('P', 1, format => 'short')").fetchone()
    assert number == ("S01",)
