"""Placeholders: units that are made first and numbered later, each once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.types.json import Jsonb
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
    refused,
    register,
    value,
    violated,
)

FINISHED = {"SERIALIZED": "serial_id = {serial}", "FAILED": "status = 'FAILED', failure_reason = 'scrapped'"}


@pytest.fixture
def plant(connection):
    """Parts P (numbered P0001, P0002, …), Q (Q0001, …) and R (no format), sites DEFAULT and BER."""
    call(connection, "register_site", site_id="BER")
    for part_id in ("P", "Q"):
        make_part(connection, part_id, f"type of {part_id}")
        make_format(connection, f"format of {part_id}", f"{part_id}{{SEQ:4}}")
        call(connection, "assign_format", part_id=part_id, format=f"format of {part_id}")
    make_part(connection, "R", "type of R")
    return connection


def create(connection, part_id: str = "P", quantity: int = 1, **arguments: object) -> list[int]:
    rows = call(connection, "create_placeholders", part_id=part_id, quantity=quantity, **arguments)
    return [row.id for row in rows]


def assign(connection, placeholder_id: int | None, **arguments: object) -> object:
    return call(connection, "assign_placeholder", placeholder_id=placeholder_id, **arguments)[0]


def assign_many(connection, **arguments: object) -> list[tuple[int, str]]:
    """Ids and serial numbers, in the order of the answer."""
    return [(row.id, row.serial_number) for row in call(connection, "assign_placeholders", **arguments)]


def states(connection) -> list[str]:
    return column(connection, "select status from machserial.late_assignment_placeholders order by id")


def update(connection, assignment: str, placeholder_id: int) -> None:
    connection.execute(f"update machserial.late_assignment_placeholders set {assignment} where id = {placeholder_id}")


def events(connection, event_type: str | None = None) -> list:
    return connection.execute(
        "select event_type, serial_number, part_id, site_id, performed_by, reason, details "
        "from machserial.audit_events where event_type like coalesce(%s, 'PLACEHOLDER_%%') order by id",
        (event_type,),
    ).fetchall()


# Creating


def test_each_unit_gets_a_placeholder(plant):
    plant.execute("set local machserial.actor = 'Ada'")
    rows = call(
        plant, "create_placeholders", part_id="P", quantity=3, work_order_id="WO-1", lot_number="L-1",
        operation_code="OP-9", site_id="BER", context={"line": "2"},
    )  # fmt: skip
    assert [row.id for row in rows] == sorted({row.id for row in rows})
    for row in rows:
        assert (row.part_id, row.site_id, row.status, row.serial_id) == ("P", "BER", "PENDING", None)
        assert (row.work_order_id, row.lot_number, row.operation_code) == ("WO-1", "L-1", "OP-9")
        assert (row.context, row.created_by, row.serial_number) == ({"line": "2"}, "Ada", None)
    (alone,) = call(plant, "create_placeholders", part_id="R")
    assert (alone.site_id, alone.work_order_id, alone.context) == ("DEFAULT", None, None)
    assert value(plant, "select count(*) from machserial.serials") == 0
    created = events(plant)
    assert [event[:6] for event in created[:3]] == [("PLACEHOLDER_CREATED", None, "P", "BER", "Ada", None)] * 3
    assert [event[6]["placeholder_id"] for event in created] == [*(row.id for row in rows), alone.id]
    assert created[0][6]["work_order_id"] == "WO-1" and "work_order_id" not in created[3][6]


@pytest.mark.parametrize(
    ("sqlstate", "arguments"),
    [
        ("22023", {"quantity": 0}),
        ("22023", {"quantity": 1_000_001}),
        ("22023", {"quantity": None}),
        ("22023", {"context": Jsonb(["line"])}),
        ("23503", {"part_id": "NOBODY"}),
        ("23503", {"part_id": None}),
        ("23503", {"site_id": "NOWHERE"}),
    ],
)
def test_a_bad_order_creates_nothing(plant, sqlstate, arguments):
    with refused(plant, sqlstate):
        call(plant, "create_placeholders", **{"part_id": "P", **arguments})
    assert states(plant) == []


# Assigning one


def test_a_placeholder_gets_the_next_number_of_its_part(plant):
    plant.execute("set local machserial.actor = 'Ada'")
    known = {"work_order_id": "WO-1", "lot_number": "L-1", "operation_code": "OP-1", "site_id": "BER"}
    first, second = create(plant, quantity=2, **known)
    got = assign(plant, second, operation_code="OP-9", notes="by hand")
    assert (got.id, got.status, got.serial_number, got.assigned_by) == (second, "SERIALIZED", "P0001", "Ada")
    assert (got.operation_code, got.assigned_operation_code, got.notes) == ("OP-1", "OP-9", "by hand")
    assert got.assigned_at is not None
    (serial,) = call(plant, "find_serial", serial_number="P0001")
    assert (serial.id, serial.part_id, serial.site_id, serial.source) == (got.serial_id, "P", "BER", "SYSTEM_GENERATED")
    assert (serial.work_order_id, serial.lot_number, serial.operation_code) == ("WO-1", "L-1", "OP-9")
    update(plant, "notes = 'blue'", first)
    got = assign(plant, first)
    assert (got.assigned_operation_code, got.notes) == (None, "blue")
    assert call(plant, "find_serial", serial_number="P0002")[0].operation_code == "OP-1"
    assert states(plant) == ["SERIALIZED"] * 2


def test_a_placeholder_gets_the_number_that_stands_on_the_part(plant):
    allow_unicode(plant)
    planned = {"work_order_id": "WO-1", "lot_number": "L-1", "operation_code": "OP-1", "site_id": "BER"}
    ids = create(plant, "R", len(HOSTILE_NUMBERS), **planned)
    for placeholder_id, number in zip(ids, HOSTILE_NUMBERS, strict=True):
        got = assign(plant, placeholder_id, serial_number=number, notes=number)
        assert (got.serial_number, got.status, got.notes) == (number, "SERIALIZED", number)
        (serial,) = call(plant, "find_serial", serial_number=number)
        assert (serial.id, serial.source, serial.status) == (got.serial_id, "LATE_ASSIGNMENT", "ACTIVE")
        assert (serial.part_id, serial.site_id, serial.work_order_id) == ("R", "BER", "WO-1")
        assert (serial.lot_number, serial.operation_code) == ("L-1", "OP-1")


def test_what_is_known_of_the_unit_goes_into_its_number_and_on_its_record(plant):
    make_format(plant, "line", "{WO}-{CTX:line}-{SEQ:2}")
    call(plant, "assign_format", part_id="R", format="line")
    context = {"line": "7", "shift": 2}
    first, second = create(plant, "R", 2, work_order_id="WO-1", context=context)
    assert assign(plant, first).serial_number == "WO-1-7-01"
    assign(plant, second, serial_number="HAND")
    assert column(plant, "select context from machserial.serials order by id") == [context] * 2
    (bare,) = create(plant, "R")
    with refused(plant, "22023"):
        assign(plant, bare)


def test_a_number_that_is_taken_is_refused_and_one_on_record_can_be_linked(plant):
    held = register(plant, ["N"])[0].serial_id
    (placeholder_id,) = create(plant)
    with refused(plant, "23505") as refusal:
        assign(plant, placeholder_id, serial_number="N")
    assert "N" in refusal.message and str(held) in refusal.detail and "serial_id" in refusal.hint
    assert states(plant) == ["PENDING"]
    update(plant, f"serial_id = {held}", placeholder_id)
    assert states(plant) == ["SERIALIZED"]


def test_a_placeholder_that_cannot_get_a_serial_is_told_why(plant):
    (placeholder_id,) = create(plant)
    for number in ("", " ", "N\tN", "x" * 256):
        with refused(plant, "22023"):
            assign(plant, placeholder_id, serial_number=number)
    for unknown in (4711, None):
        with refused(plant, "P0002"):
            assign(plant, unknown)
    with refused(plant, "23503"):
        assign(plant, *create(plant, "R"))
    assign(plant, placeholder_id)
    for arguments in ({}, {"serial_number": "N"}):
        with refused(plant, "55000") as refusal:
            assign(plant, placeholder_id, **arguments)
        assert str(placeholder_id) in refusal.message and "SERIALIZED" in refusal.message
    assert generated(plant) == ["P0002"]


# Assigning many


def test_a_work_order_gets_its_serials_in_one_go(plant):
    ids = create(plant, quantity=3000, work_order_id="WO-1")
    others = create(plant, quantity=2, work_order_id="WO-2")
    assign(plant, ids[7], notes="before")
    call(plant, "fail_placeholder", placeholder_id=ids[8], reason="scrapped")
    got = assign_many(plant, work_order_id="WO-1", operation_code="OP-9", notes="all")
    assert got == [(left, f"P{n:04}") for n, left in enumerate((i for i in ids if i not in ids[7:9]), start=2)]
    assert column(plant, "select distinct operation_code from machserial.serials") == [None, "OP-9"]
    assert states(plant)[-2:] == ["PENDING"] * 2
    assert {event[6]["placeholder_id"] for event in events(plant, "PLACEHOLDER_SERIALIZED")} == {*ids} - {ids[8]}
    with refused(plant, "55000"):
        assign_many(plant, work_order_id="WO-1")
    with refused(plant, "P0002"):
        assign_many(plant, work_order_id="WO-3")
    assert assign_many(plant, work_order_id="WO-2", serial_numbers=["B", "A"]) == list(zip(others, "BA", strict=True))


@pytest.mark.parametrize("many", mostly_slow([500, 4000], [500]))
def test_many_are_assigned_in_one_go_whatever_the_session_did_before(plant, many):
    one, other, *rest = create(plant, quantity=many)
    assign(plant, one)
    assign(plant, other, serial_number="HAND")
    assert assign_many(plant, placeholder_ids=rest) == [(left, f"P{n:04}") for n, left in enumerate(rest, start=2)]
    ids = create(plant, quantity=many)
    numbers = [f"H{placeholder_id}" for placeholder_id in ids]
    assert assign_many(plant, placeholder_ids=ids, serial_numbers=numbers) == list(zip(ids, numbers, strict=True))
    assert {*states(plant)} == {"SERIALIZED"}


def test_units_of_any_part_site_and_work_order_are_assigned_together(plant):
    groups = [
        create(plant, part_id, 2, site_id=site_id, work_order_id=f"WO-{part_id}", lot_number=site_id)
        for part_id in "PQ"
        for site_id in ("BER", "DEFAULT")
    ]
    ids = [pair[turn] for turn in (1, 0) for pair in reversed(groups)]
    got = assign_many(plant, placeholder_ids=ids)
    assert [placeholder_id for placeholder_id, _ in got] == ids
    fitting = plant.execute(
        "select count(*) from machserial.late_assignment_placeholders as p "
        "inner join machserial.serials as s on s.id = p.serial_id and (s.part_id, s.site_id, s.work_order_id, "
        "s.lot_number) = (p.part_id, p.site_id, p.work_order_id, p.lot_number) where p.status = 'SERIALIZED'"
    ).fetchone()
    assert fitting == (8,)
    assert sorted(number for _, number in got) == [f"{part}{n:04}" for part in "PQ" for n in (1, 2, 3, 4)]


def test_given_numbers_go_to_the_placeholders_in_their_order(plant):
    first, second, third = create(plant, "R", 3)
    given = {third: "C", first: "A", second: "B"}
    assert assign_many(plant, placeholder_ids=list(given), serial_numbers=list(given.values())) == list(given.items())
    # One number twice is no duplicate where its scopes do not meet.
    (here,), (there,) = create(plant, "R"), create(plant, "P", site_id="BER")
    assert len(assign_many(plant, placeholder_ids=[here, there], serial_numbers=["N", "N"])) == 2


def test_all_are_assigned_or_none(plant):
    register(plant, ["N"], "R")
    one, other, done, failed = create(plant, "R", 4)
    assign(plant, done, serial_number="DONE")
    call(plant, "fail_placeholder", placeholder_id=failed, reason="scrapped")
    before = value(plant, "select count(*) from machserial.audit_events")
    for sqlstate, ids, numbers in [
        ("P0002", [one, 4711, 4712], None),
        ("P0002", [one, None], None),
        ("22023", [one, other, one], None),
        ("22023", [one, other], ["A"]),
        ("22023", [one], ["A", "B"]),
        ("22023", [one, other], ["A", None]),
        ("23505", [one, other], ["A", "A"]),
        ("23505", [one, other], ["A", "N"]),
        ("23503", [one, other], None),
    ]:
        with refused(plant, sqlstate):
            assign_many(plant, placeholder_ids=ids, serial_numbers=numbers)
    with refused(plant, "P0002") as unknown:
        assign_many(plant, placeholder_ids=[one, 4711, 4712])
    assert "4711" in unknown.message and "4711, 4712" in unknown.detail
    with refused(plant, "55000") as finished:
        assign_many(plant, placeholder_ids=[failed, one, done], serial_numbers=["A", "B", "C"])
    assert "serial DONE" in finished.detail and f"2 of the 3 given: {done}, {failed}" in finished.detail
    for arguments in ({}, {"work_order_id": "WO", "placeholder_ids": [one]}):
        with refused(plant, "22023"):
            assign_many(plant, **arguments)
    assert assign_many(plant, placeholder_ids=[]) == []
    assert states(plant) == ["PENDING", "PENDING", "SERIALIZED", "FAILED"]
    assert value(plant, "select count(*) from machserial.audit_events") == before


# Failing


def test_a_unit_that_is_scrapped_never_gets_a_serial(plant):
    plant.execute("set local machserial.actor = 'Ada'")
    (first, second) = create(plant, quantity=2, work_order_id="WO-1")
    got = call(plant, "fail_placeholder", placeholder_id=first, reason=" scrapped ")[0]
    assert (got.id, got.status, got.failure_reason, got.failed_by) == (first, "FAILED", "scrapped", "Ada")
    assert got.failed_at is not None and got.serial_id is None
    assert events(plant)[-1][:6] == ("PLACEHOLDER_FAILED", None, "P", "DEFAULT", "Ada", "scrapped")
    assert events(plant)[-1][6]["placeholder_id"] == first
    for reason in (None, "", " "):
        with refused(plant, "22023"):
            call(plant, "fail_placeholder", placeholder_id=second, reason=reason)
    with refused(plant, "P0002"):
        call(plant, "fail_placeholder", placeholder_id=4711, reason="lost")
    with refused(plant, "55000"):
        call(plant, "fail_placeholder", placeholder_id=first, reason="again")
    with refused(plant, "55000"):
        assign(plant, first)
    assign(plant, second)
    with refused(plant, "55000"):
        call(plant, "fail_placeholder", placeholder_id=second, reason="late")


def test_the_reason_may_be_the_session_s(plant):
    first, second = create(plant, quantity=2)
    plant.execute("set local machserial.reason = 'flood'")
    call(plant, "fail_placeholder", placeholder_id=first, reason=None)
    update(plant, "status = 'FAILED'", second)
    reasons = column(plant, "select failure_reason from machserial.late_assignment_placeholders")
    assert reasons == ["flood"] * 2
    assert [event[5] for event in events(plant, "PLACEHOLDER_FAILED")] == ["flood"] * 2


# Asking


def test_those_that_wait_are_listed_oldest_first(plant):
    late = create(plant, "P", 2) + create(plant, "Q")
    oldest = value(
        plant,
        "insert into machserial.late_assignment_placeholders (part_id, created_at) "
        "values ('Q', now() - interval '1 day') returning id",
    )
    assign(plant, late[0])
    assert [row.id for row in call(plant, "pending_placeholders")] == [oldest, *late[1:]]
    assert [row.id for row in call(plant, "pending_placeholders", part_id="Q")] == [oldest, late[2]]
    assert call(plant, "pending_placeholders", part_id="R") == []
    with refused(plant, "23503"):
        call(plant, "pending_placeholders", part_id="NOBODY")


def test_statistics_count_what_became_of_a_part_s_placeholders(plant):
    assert call(plant, "placeholder_statistics", part_id="P") == [(0, 0, 0, 0, None, None)]
    ids = create(plant, quantity=3)
    create(plant, "Q", 5)
    assert call(plant, "placeholder_statistics", part_id="P") == [(3, 3, 0, 0, None, None)]
    call(plant, "fail_placeholder", placeholder_id=ids[0], reason="scrapped")
    assert call(plant, "placeholder_statistics", part_id="P")[0].success_rate == 0
    for age in (60, 120):
        placeholder_id = value(
            plant,
            "insert into machserial.late_assignment_placeholders (part_id, created_at) "
            "values ('P', now() - make_interval(secs => %s)) returning id",
            age,
        )
        assign(plant, placeholder_id)
    (row,) = call(plant, "placeholder_statistics", part_id="P")
    assert (row.total, row.pending, row.serialized, row.failed) == (5, 2, 2, 1)
    assert (float(row.success_rate), float(row.average_seconds)) == (66.67, 90)
    for unknown in ("NOBODY", None):
        with refused(plant, "23503"):
            call(plant, "placeholder_statistics", part_id=unknown)


# The table's own rules


def test_a_direct_update_needs_no_more_than_the_serial(plant):
    (placeholder_id,) = create(plant, site_id="BER")
    serial_id = register(plant, ["N"])[0].serial_id
    plant.execute("set local machserial.actor = 'Ada'; set local machserial.reason = 'rework'")
    update(plant, f"serial_id = {serial_id}, assigned_operation_code = 'OP-9'", placeholder_id)
    assert plant.execute(
        "select status, assigned_by, assigned_at = now(), assigned_operation_code "
        "from machserial.late_assignment_placeholders"
    ).fetchall() == [("SERIALIZED", "Ada", True, "OP-9")]
    ((*event, details),) = events(plant, "PLACEHOLDER_SERIALIZED")
    assert event == ["PLACEHOLDER_SERIALIZED", "N", "P", "BER", "Ada", "rework"]
    assert details == {
        "placeholder_id": placeholder_id,
        "status": {"old": "PENDING", "new": "SERIALIZED"},
        "serial_id": {"old": None, "new": serial_id},
        "assigned_operation_code": {"old": None, "new": "OP-9"},
    }


def test_a_placeholder_takes_only_a_serial_of_its_part_that_is_in_use(plant):
    (placeholder_id, other) = create(plant, quantity=2)
    foreign = register(plant, ["F"], "Q")[0].serial_id
    with refused(plant, "22023") as refusal:
        update(plant, f"serial_id = {foreign}", placeholder_id)
    assert "F" in refusal.message and "Q" in refusal.detail
    of_status = "insert into machserial.serials (serial_number, part_id, status) values (%s, 'P', %s) returning id"
    for status in ("CONFLICT", "REJECTED", "RETIRED", "INVALID"):
        with refused(plant, "55000") as refusal:
            update(plant, f"serial_id = {value(plant, of_status, status, status)}", placeholder_id)
        assert status in refusal.message
    with refused(plant, "23503"):
        update(plant, "serial_id = 4711", placeholder_id)
    waiting = value(plant, of_status, "N", "PENDING")
    update(plant, f"serial_id = {waiting}", placeholder_id)
    with violated(plant, "23505"):
        update(plant, f"serial_id = {waiting}", other)


def test_a_direct_change_that_contradicts_itself_is_refused(plant):
    (placeholder_id,) = create(plant)
    serial_id = register(plant, ["N"])[0].serial_id
    for assignment in ("status = 'SERIALIZED'", "status = 'FAILED'", "status = 'FAILED', failure_reason = ' '"):
        with refused(plant, "22023"):
            update(plant, assignment, placeholder_id)
    for assignment in (
        "status = 'LOST'",
        f"status = 'LOST', serial_id = {serial_id}",
        f"status = 'FAILED', failure_reason = 'x', serial_id = {serial_id}",
        f"failure_reason = 'x', serial_id = {serial_id}",
        "failure_reason = 'x'",
        "assigned_at = now()",
        "assigned_by = 'x'",
        "assigned_operation_code = 'x'",
        "context = '[]'",
    ):
        with violated(plant, "23514"):
            update(plant, assignment, placeholder_id)
    assert states(plant) == ["PENDING"]


def test_which_unit_a_placeholder_stands_for_cannot_be_changed(plant):
    (placeholder_id,) = create(plant, work_order_id="WO-1")
    for assignment in (
        "part_id = 'Q'",
        "site_id = 'BER'",
        "work_order_id = 'WO-2'",
        "work_order_id = null",
        "created_at = created_at - interval '1 day'",
        "created_by = 'somebody'",
    ):
        with refused(plant, "55000"):
            update(plant, assignment, placeholder_id)
    free = """lot_number = 'L-1', operation_code = 'OP-1', context = '{"line": "1"}'"""
    update(plant, f"{free}, part_id = 'P'", placeholder_id)
    ((*_, details),) = events(plant, "PLACEHOLDER_UPDATED")
    assert details["lot_number"] == {"old": None, "new": "L-1"} and "part_id" not in details


@pytest.mark.parametrize("status", FINISHED)
def test_a_finished_placeholder_keeps_what_it_has(plant, status):
    (placeholder_id,) = create(plant)
    serials = [row.serial_id for row in register(plant, ["A", "B"])]
    update(plant, FINISHED[status].format(serial=serials[0]), placeholder_id)
    for assignment in (
        f"serial_id = {serials[1]}",
        "serial_id = null",
        "serial_id = null, status = 'PENDING', assigned_at = null, assigned_by = null",
        "status = 'PENDING', failure_reason = null, failed_at = null, failed_by = null",
        "status = 'FAILED', failure_reason = 'other'",
        f"status = 'SERIALIZED', serial_id = {serials[1]}",
        "assigned_at = now() - interval '1 day'",
        "lot_number = 'L-2'",
        "failed_by = 'somebody'",
    ):
        if status == "FAILED" and assignment == "serial_id = null":
            continue
        with refused(plant, "55000") as refusal:
            update(plant, assignment, placeholder_id)
        assert status in refusal.message
    update(plant, "notes = 'seen', status = status, serial_id = serial_id", placeholder_id)
    ((*_, details),) = events(plant, "PLACEHOLDER_UPDATED")
    assert details == {"placeholder_id": placeholder_id, "notes": {"old": None, "new": "seen"}}
    # What becomes of the serial later is another story.
    if status == "SERIALIZED":
        call(plant, "retire_serial", serial_id=serials[0], reason="worn out")
        update(plant, "notes = 'worn out', serial_id = serial_id", placeholder_id)


def test_placeholders_are_kept(plant):
    create(plant)
    for statement in ("delete from", "truncate"):
        with refused(plant, "55000"):
            plant.execute(f"{statement} machserial.late_assignment_placeholders")
    assert states(plant) == ["PENDING"]


def test_rows_that_are_inserted_directly_obey_the_rules(plant):
    serial_id = register(plant, ["N"])[0].serial_id

    def insert(**columns: object) -> None:
        names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
        plant.execute(
            f"insert into machserial.late_assignment_placeholders ({names}) values ({marks})", [*columns.values()]
        )

    for sqlstate, columns in [
        ("22023", {"status": "SERIALIZED"}),
        ("22023", {"status": "FAILED"}),
        ("22023", {"part_id": "Q", "serial_id": serial_id}),
        ("23503", {"part_id": "NOBODY"}),
        ("23503", {"site_id": "NOWHERE"}),
        ("23503", {"serial_id": 4711}),
        ("23514", {"status": "LOST"}),
        ("23514", {"assigned_by": "Ada"}),
    ]:
        with violated(plant, sqlstate):
            insert(**{"part_id": "P", **columns})
    insert(part_id="P")
    insert(part_id="P", serial_id=serial_id, assigned_by="the old system", created_by="the old system")
    insert(part_id="P", status="FAILED", failure_reason="scrapped")
    assert states(plant) == ["PENDING", "SERIALIZED", "FAILED"]
    assert column(plant, "select assigned_by from machserial.late_assignment_placeholders where serial_id > 0") == [
        "the old system"
    ]
    assert [(event[1], event[5], event[6].get("status")) for event in events(plant, "PLACEHOLDER_CREATED")] == [
        (None, None, None), ("N", None, "SERIALIZED"), (None, "scrapped", "FAILED"),
    ]  # fmt: skip


# Several sessions


@pytest.fixture
def background():
    with ThreadPoolExecutor() as threads:
        yield threads


def outcome(work: Callable[[], object]) -> str:
    """The SQLSTATE that the work ends with."""
    try:
        work()
    except psycopg.Error as error:
        return error.sqlstate
    return "00000"


def await_waiting(observer: psycopg.Connection, session: psycopg.Connection) -> None:
    """Returns when the session waits for a lock."""
    for _ in range(3000):
        if value(
            observer,
            "select count(*) from pg_stat_activity where pid = %s and wait_event_type = 'Lock'",
            session.info.backend_pid,
        ):
            return
        time.sleep(0.01)
    raise AssertionError("never waited for a lock")


def test_of_several_sessions_one_gets_a_placeholder_and_the_others_consume_nothing(plant, connect):
    ids = create(plant, quantity=20)
    own = {worker: [row.serial_id for row in register(plant, [f"{worker}-{i}" for i in ids])] for worker in (2, 3)}
    plant.commit()

    def attempt(worker: int) -> list[str]:
        session = connect(autocommit=True)
        if worker in own:
            pairs = zip(ids, own[worker], strict=True)
            return [outcome(lambda: update(session, f"serial_id = {mine}", i)) for i, mine in pairs]  # noqa: B023
        return [outcome(lambda: assign(session, i)) for i in ids]  # noqa: B023

    answers = at_once(4, attempt)
    assert [sorted(each) for each in zip(*answers, strict=True)] == [["00000", "55000", "55000", "55000"]] * 20
    assert {*states(plant)} == {"SERIALIZED"}
    assert generated(plant) == [f"P{(answers[0] + answers[1]).count('00000') + 1:04}"]


TAKES = {
    "assign_placeholder": lambda session, target, _: assign(session, target),
    "assign_placeholders by id": lambda session, target, _: assign_many(session, placeholder_ids=[target]),
    "assign_placeholders by work order": lambda session, *_: assign_many(session, work_order_id="WO-1"),
    "fail_placeholder": lambda session, target, _: call(
        session, "fail_placeholder", placeholder_id=target, reason="scrapped"
    ),
    "update": lambda session, target, serial_id: update(session, f"serial_id = {serial_id}", target),
}


@pytest.mark.parametrize(("end", "answer"), [("commit", "55000"), ("rollback", "00000")])
@pytest.mark.parametrize("take", TAKES)
def test_whoever_waits_for_a_placeholder_sees_what_has_become_of_it(plant, connect, background, take, end, answer):
    (target,) = create(plant, work_order_id="WO-1")
    (spare,) = register(plant, ["SPARE"])
    plant.commit()
    holder, session = connect(), connect()
    assign(holder, target)
    waiting = background.submit(outcome, lambda: TAKES[take](session, target, spare.serial_id))
    await_waiting(plant, session)
    getattr(holder, end)()
    assert waiting.result(60) == answer
    if end == "commit":
        # The loser has consumed nothing.
        assert generated(plant) == ["P0002"]


def test_sessions_that_need_the_same_gapless_counters_do_not_deadlock(plant, connect, background):
    """Parts A and C count with one counter, B with another: taken part by part, the locks would cross."""
    for name in ("one", "other"):
        make_format(plant, name, f"{name}-{{SEQ:4}}", allocation="GAPLESS")
    for part_id, name in {"A": "one", "B": "other", "C": "one"}.items():
        make_part(plant, part_id, f"type of {part_id}")
        call(plant, "assign_format", part_id=part_id, format=name)
    orders = [[*create(plant, "A"), *create(plant, "B")], [*create(plant, "C"), *create(plant, "B")]]
    assert generated(plant, "A") == ["one-0001"]
    plant.commit()
    holder, *sessions = connect(), connect(autocommit=True), connect(autocommit=True)
    generated(holder, "A")
    waiting = []
    for session, ids in zip(sessions, orders, strict=True):
        waiting.append(background.submit(assign_many, session, placeholder_ids=ids))
        await_waiting(plant, session)
    holder.rollback()
    numbers = [number for done in waiting for _, number in done.result(60)]
    assert sorted(numbers) == ["one-0002", "one-0003", "other-0001", "other-0002"]
