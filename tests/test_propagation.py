"""What became of what: passing on, splitting, merging; no cycle, whoever adds its edges; lineage both ways."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from itertools import pairwise
from threading import Barrier

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import HOSTILE, at_once, call, column, make_part, refused, register, value, violated

LIMITS = "set statement_timeout = '60s'"
NO_WAITING = "set lock_timeout = '1s'"
AT = {"operation_code": "OP-10", "routing_sequence": 10}
UNFIT = ("RETIRED", "INVALID", "REJECTED", "CONFLICT")


@pytest.fixture
def plant(connection):
    make_part(connection, "P")
    make_part(connection, "Q")
    return connection


@pytest.fixture
def background():
    with ThreadPoolExecutor() as threads:
        yield threads


def serials(connection: psycopg.Connection, count: int, part_id: str = "P") -> list[int]:
    """New serials; their ids, oldest first."""
    first = value(connection, "select count(*) from machserial.serials")
    rows = register(connection, [f"N{first + number:07}" for number in range(count)], part_id)
    return sorted(row.serial_id for row in rows)


def insert(connection: psycopg.Connection, *edges: tuple[int, int]) -> None:
    """Edges parent -> child as an application may write them, in one statement."""
    connection.execute(
        "insert into machserial.serial_propagations "
        "(propagation_type, parent_serial_id, child_serial_id, operation_code, routing_sequence) "
        "select 'MERGE', e.parent, e.child, 'OP', 0 from unnest(%s::bigint[], %s::bigint[]) as e (parent, child)",
        ([parent for parent, _ in edges], [child for _, child in edges]),
    )


def edges_of(connection: psycopg.Connection) -> set[tuple[int, int]]:
    return set(
        connection.execute(
            "select parent_serial_id, child_serial_id from machserial.serial_propagations "
            "where child_serial_id is not null"
        )
    )


def is_acyclic(edges: set[tuple[int, int]]) -> bool:
    """By taking away, as long as there is one, a serial that comes of nothing."""
    left = set(edges)
    while left:
        children = {child for _, child in left}
        kept = {(parent, child) for parent, child in left if parent in children}
        if kept == left:
            return False
        left = kept
    return True


def number_of(connection: psycopg.Connection, serial_id: int) -> str:
    return value(connection, "select serial_number from machserial.serials where id = %s", serial_id)


def events_of(connection: psycopg.Connection, serial_id: int) -> list[tuple[str, dict]]:
    return connection.execute(
        "select event_type, details from machserial.audit_events "
        "where serial_id = %s and event_type not like 'SERIAL%%' order by id",
        (serial_id,),
    ).fetchall()


# The four verbs


def test_a_serial_passes_through_and_stays_itself(plant):
    (one,) = serials(plant, 1)
    plant.execute("set local machserial.actor = 'Ada'")
    (row,) = call(
        plant, "pass_through", serial_id=one, work_center_id="WC-1", quantity=Decimal("2.5"), notes="ok", **AT
    )
    assert (row.propagation_type, row.parent_serial_id, row.child_serial_id) == ("PASS_THROUGH", one, None)
    assert (row.operation_code, row.routing_sequence, row.work_center_id) == ("OP-10", 10, "WC-1")
    assert (row.quantity, row.notes, row.created_by) == (Decimal("2.5"), "ok", "Ada")
    call(plant, "pass_through", serial_id=one, **AT)
    assert value(plant, "select count(*) from machserial.serial_propagations") == 2
    assert events_of(plant, one) == [
        ("PROPAGATED", {"operation_code": "OP-10", "routing_sequence": 10, "work_center_id": "WC-1"}),
        ("PROPAGATED", {"operation_code": "OP-10", "routing_sequence": 10}),
    ]
    assert (
        value(plant, "select max(performed_by) from machserial.audit_events where event_type = 'PROPAGATED'") == "Ada"
    )


def test_one_becomes_several_and_several_become_one(plant):
    bar, *pieces = serials(plant, 4)
    rows = call(plant, "split", source_serial_id=bar, target_serial_ids=pieces[::-1], **AT)
    assert [(row.propagation_type, row.parent_serial_id, row.child_serial_id) for row in rows] == [
        ("SPLIT", bar, piece) for piece in pieces[::-1]
    ]
    (product,) = serials(plant, 1)
    rows = call(plant, "merge", source_serial_ids=pieces, target_serial_id=product, **AT)
    assert [(row.propagation_type, row.parent_serial_id, row.child_serial_id) for row in rows] == [
        ("MERGE", piece, product) for piece in pieces
    ]
    at = {"operation_code": "OP-10", "routing_sequence": 10}
    assert events_of(plant, bar) == [("SPLIT", at | {"target_serial_ids": pieces[::-1]})]
    assert events_of(plant, pieces[0]) == [
        ("SPLIT", at | {"source_serial_ids": [bar]}),
        ("MERGED", at | {"target_serial_ids": [product]}),
    ]
    assert events_of(plant, product) == [("MERGED", at | {"source_serial_ids": pieces})]


def test_a_serial_becomes_something_else_with_a_number_of_its_own_or_without(plant):
    casting, valve = serials(plant, 2)
    (row,) = call(plant, "transform", source_serial_id=casting, **AT)
    assert (row.propagation_type, row.parent_serial_id, row.child_serial_id) == ("TRANSFORM", casting, None)
    (row,) = call(plant, "transform", source_serial_id=casting, target_serial_id=valve, **AT)
    assert (row.propagation_type, row.parent_serial_id, row.child_serial_id) == ("TRANSFORM", casting, valve)
    assert [event for event, _ in events_of(plant, casting)] == ["TRANSFORMED", "TRANSFORMED"]
    assert [details["source_serial_ids"] for _, details in events_of(plant, valve)] == [[casting]]


def test_one_target_or_one_source_is_enough(plant):
    first, second, third = serials(plant, 3)
    assert len(call(plant, "split", source_serial_id=first, target_serial_ids=[second], **AT)) == 1
    assert len(call(plant, "merge", source_serial_ids=[second], target_serial_id=third, **AT)) == 1


def test_thousands_are_split_and_merged_in_one_call(plant):
    source, *many, target = serials(plant, 5002)
    assert len(call(plant, "split", source_serial_id=source, target_serial_ids=many, **AT)) == 5000
    # The target is older than those that it is made of: it, and what has become of it, are put in order.
    (newer,) = serials(plant, 1)
    insert(plant, (target, newer))
    more = serials(plant, 5000)
    assert len(call(plant, "merge", source_serial_ids=more, target_serial_id=target, **AT)) == 5000
    assert call(plant, "_lineage_problems") == []
    assert value(plant, "select count(*) from machserial.audit_events where event_type = 'SPLIT'") == 5001
    with refused(plant, "22023"):
        call(plant, "merge", source_serial_ids=[*many[:2000], newer], target_serial_id=more[0], **AT)


def test_copy_obeys_the_same_rules(plant):
    ids = serials(plant, 3)
    columns = "propagation_type, parent_serial_id, child_serial_id, operation_code, routing_sequence"

    def copy(*edges: tuple[int, int]) -> None:
        with plant.cursor().copy(f"copy machserial.serial_propagations ({columns}) from stdin") as stream:
            for parent, child in edges:
                stream.write_row(("MERGE", parent, child, "OP", 0))

    copy((ids[0], ids[1]), (ids[1], ids[2]))
    with violated(plant, "22023"):
        copy((ids[2], ids[0]))
    assert len(edges_of(plant)) == 2


def test_hostile_texts_are_texts(plant):
    (one,) = serials(plant, 1)
    for text in HOSTILE:
        arguments = {"operation_code": text, "work_center_id": text, "notes": text}
        (row,) = call(plant, "pass_through", serial_id=one, routing_sequence=0, **arguments)
        assert (row.operation_code, row.work_center_id, row.notes) == (text, text, text)


# Refusals


def test_bad_arguments_are_refused(plant):
    one, two, three = serials(plant, 3)
    bad = [
        ("pass_through", {"serial_id": one} | AT | fault)
        for fault in (
            {"operation_code": None},
            {"operation_code": " "},
            {"routing_sequence": None},
            {"routing_sequence": -1},
            {"quantity": 0},
            {"quantity": None},
            {"serial_id": None},
        )
    ]
    bad += [
        ("split", {"source_serial_id": source, "target_serial_ids": targets} | AT)
        for source, targets in (
            (one, []),
            (one, None),
            (one, [two, None]),
            (one, [two, two]),
            (one, [two, one]),
            (None, [two]),
        )
    ]
    bad += [
        ("merge", {"source_serial_ids": sources, "target_serial_id": target} | AT)
        for sources, target in (
            ([], one),
            (None, one),
            ([two, None], one),
            ([two, two], one),
            ([two, one], one),
            ([two], None),
        )
    ]
    bad += [("transform", {"source_serial_id": one, "target_serial_id": one} | AT)]
    for function, arguments in bad:
        with refused(plant, "22023"):
            call(plant, function, **arguments)
    assert call(plant, "lineage", serial_id=three)[0].direction == "SELF"
    for depth in (None, -1):
        with refused(plant, "22023"):
            call(plant, "lineage", serial_id=three, max_depth=depth)
    for page_size in (None, 0):
        with refused(plant, "22023"):
            call(plant, "propagation_history", part_id="P", page_size=page_size)
    assert edges_of(plant) == set()


def test_unknown_serials_and_parts_are_named(plant):
    (one,) = serials(plant, 1)
    with refused(plant, "P0002") as refusal:
        call(plant, "split", source_serial_id=one, target_serial_ids=[900001, 900002], **AT)
    assert "900001, 900002" in refusal.message
    for function, arguments in (
        ("pass_through", {"serial_id": 900001} | AT),
        ("merge", {"source_serial_ids": [900001], "target_serial_id": one} | AT),
        ("transform", {"source_serial_id": one, "target_serial_id": 900001} | AT),
        ("lineage", {"serial_id": 900001}),
        ("lineage", {"serial_id": None}),
    ):
        with refused(plant, "P0002"):
            call(plant, function, **arguments)
    for function in ("propagation_history", "propagation_statistics"):
        for part_id in ("X", None):
            with refused(plant, "23503"):
                call(plant, function, part_id=part_id)
    with violated(plant, "23503"):
        insert(plant, (one, 900001))


@pytest.mark.parametrize("status", UNFIT)
def test_a_serial_out_of_use_goes_nowhere(plant, status):
    one, unfit, other = serials(plant, 3)
    plant.execute("set local machserial.actor = 'Ada'")
    if status == "REJECTED":
        unfit = value(
            plant,
            "insert into machserial.serials (serial_number, part_id, status) values ('R', 'P', %s) returning id",
            status,
        )
    else:
        plant.execute(
            "update machserial.serials set status = %s, status_reason = 'dropped' where id = %s", (status, unfit)
        )
    for function, arguments in (
        ("pass_through", {"serial_id": unfit}),
        ("split", {"source_serial_id": unfit, "target_serial_ids": [one, other]}),
        ("split", {"source_serial_id": one, "target_serial_ids": [other, unfit]}),
        ("merge", {"source_serial_ids": [one, unfit], "target_serial_id": other}),
        ("merge", {"source_serial_ids": [one], "target_serial_id": unfit}),
        ("transform", {"source_serial_id": unfit}),
        ("transform", {"source_serial_id": one, "target_serial_id": unfit}),
    ):
        with refused(plant, "55000") as refusal:
            call(plant, function, **arguments, **AT)
        assert number_of(plant, unfit) in refusal.message and status in refusal.message
        assert status == "REJECTED" or ("dropped" in refusal.detail and "Ada" in refusal.detail)
    with refused(plant, "55000"):
        insert(plant, (one, other), (other, unfit))
    assert value(plant, "select count(*) from machserial.serial_propagations") == 0


def test_a_serial_that_awaits_inspection_may_go_on(plant):
    plant.execute("insert into machserial.serials (serial_number, part_id, status) values ('N', 'P', 'PENDING')")
    call(plant, "pass_through", serial_id=call(plant, "find_serial", serial_number="N")[0].id, **AT)


# The table


def test_the_table_refuses_what_makes_no_sense(plant):
    one, two = serials(plant, 2)
    row = {"propagation_type": "MERGE", "parent_serial_id": one, "child_serial_id": two} | AT
    for fault, sqlstate in (
        ({"propagation_type": "MELT"}, "23514"),
        ({"propagation_type": "PASS_THROUGH"}, "23514"),
        ({"child_serial_id": None}, "23514"),
        ({"propagation_type": "SPLIT", "child_serial_id": None}, "23514"),
        ({"operation_code": ""}, "23514"),
        ({"routing_sequence": -1}, "23514"),
        ({"quantity": 0}, "23514"),
        ({"quantity": "NaN"}, "23514"),
        ({"parent_serial_id": None}, "23502"),
        ({"operation_code": None}, "23502"),
        ({"parent_serial_id": 900001}, "23503"),
        ({"child_serial_id": one}, "22023"),
    ):
        columns = row | fault
        with violated(plant, sqlstate):
            plant.execute(
                f"insert into machserial.serial_propagations ({', '.join(columns)}) "
                f"values ({', '.join(['%s'] * len(columns))})",
                [*columns.values()],
            )
    assert edges_of(plant) == set()


def test_what_is_on_record_stays(plant):
    one, two, three = serials(plant, 3)
    insert(plant, (one, two))
    for change in (
        f"parent_serial_id = {three}",
        f"child_serial_id = {three}",
        "propagation_type = 'SPLIT'",
        "operation_code = 'X'",
        "quantity = 7",
        "created_by = 'Eve', notes = 'x'",
    ):
        with refused(plant, "55000"):
            plant.execute(f"update machserial.serial_propagations set {change}")
    for removal in ("delete from machserial.serial_propagations", "truncate machserial.serial_propagations cascade"):
        with refused(plant, "55000") as refusal:
            plant.execute(removal)
        assert "kept" in refusal.hint
    plant.execute("update machserial.serial_propagations set notes = 'seen'")
    assert column(plant, "select notes from machserial.serial_propagations") == ["seen"]
    event, details = events_of(plant, one)[-1]
    assert (event, details["notes"]) == ("PROPAGATION_UPDATED", {"old": None, "new": "seen"})
    with refused(plant, "55000"):
        plant.execute("update machserial.serials set lineage_rank = 1 where id = %s", (two,))


def test_the_query_for_propagations_without_a_source_runs_and_finds_none(plant):
    insert(plant, tuple(serials(plant, 2)))
    plant.execute("create view machserial.vendor_serials_of_all as select id from machserial.serials")
    assert not plant.execute(
        "select sp.* from machserial.serial_propagations sp "
        "left join machserial.vendor_serials_of_all vs on sp.parent_serial_id = vs.id "
        "where sp.parent_serial_id is not null and vs.id is null"
    ).fetchall()


# Cycles


def test_nothing_becomes_part_of_itself(plant):
    a, b, c, d = serials(plant, 4)
    insert(plant, (b, a), (c, b), (a, d))
    names = {one: number_of(plant, one) for one in (a, b, c, d)}
    with refused(plant, "22023") as refusal:
        call(plant, "merge", source_serial_ids=[d], target_serial_id=c, **AT)
    for one in (a, b, c, d):
        assert names[one] in refusal.detail
    with refused(plant, "22023") as refusal:
        insert(plant, (a, a))
    assert f"{names[a]} -> {names[a]}" in refusal.detail
    with refused(plant, "22023"):
        call(plant, "split", source_serial_id=a, target_serial_ids=[b], **AT)
    with refused(plant, "22023"):
        call(plant, "transform", source_serial_id=a, target_serial_id=c, **AT)
    assert len(edges_of(plant)) == 3


@pytest.mark.parametrize("length", [2, 3, 60])
def test_a_statement_that_holds_a_whole_cycle_is_refused(plant, length):
    ids = serials(plant, length + 3)
    circle = ids[1 : length + 1]
    random.Random(length).shuffle(circle)
    edges = [*zip(circle, circle[1:] + circle[:1], strict=True), (ids[0], circle[0]), (circle[0], ids[-1])]
    with refused(plant, "22023") as refusal:
        insert(plant, *edges)
    assert refusal.detail.count("->") == min(length, 19)
    insert(plant, *edges[1:])
    assert call(plant, "_lineage_problems") == []


def test_a_long_line_against_the_order_of_the_ids_is_no_cycle(plant):
    ids = serials(plant, 300)
    events = value(plant, "select count(*) from machserial.audit_events")
    for parent, child in zip(ids[271:], ids[270:], strict=False):
        insert(plant, (parent, child))
    insert(plant, *zip(ids[1:271], ids[:270], strict=True))
    assert call(plant, "_lineage_problems") == []
    assert {row.depth for row in call(plant, "lineage", serial_id=ids[0], max_depth=299)} == set(range(300))
    with refused(plant, "22023"):
        insert(plant, (ids[0], ids[-1]))
    # That a serial was put in its place is no event: one for each end of each edge is all there is.
    ends = 2 * 29 + 271
    assert value(plant, "select count(*) from machserial.audit_events") == events + ends


def test_a_lineage_that_is_recorded_backwards_moves_each_serial_once(plant):
    def changes_of(record) -> int:
        # Counted within the transaction.
        query = "select n_tup_upd from pg_stat_xact_user_tables where relid = 'machserial.serials'::regclass"
        before = value(plant, query)
        record()
        return value(plant, query) - before

    ids, others, line = serials(plant, 40), serials(plant, 80), serials(plant, 32)

    def backwards() -> None:
        for parent, child in zip(ids[1:], ids, strict=False):
            insert(plant, (parent, child))

    def where_each_comes_of_something() -> None:
        for parent, child, own in zip(others[1:39], others, others[40:], strict=False):
            insert(plant, (own, parent), (others[39], parent), (parent, child))

    def where_there_is_no_room() -> None:
        insert(plant, (line[31], line[30]))
        insert(plant, (line[30], line[0]))

    assert changes_of(backwards) == 39
    assert changes_of(where_each_comes_of_something) < 4 * 38
    # Negative control: between what it comes of and what came of it there is no rank, and all of that is lifted.
    insert(plant, *pairwise(line[:30]))
    assert changes_of(where_there_is_no_room) >= 30
    assert call(plant, "_lineage_problems") == []
    with refused(plant, "22023"):
        insert(plant, (ids[0], ids[-1]))


def test_exactly_the_cycles_are_refused(plant):
    """Random graphs in random statements, against a check that looks at all edges."""
    chance = random.Random(20)
    refusals = 0
    for _ in range(60):
        known: set[tuple[int, int]] = set()
        ids = serials(plant, chance.randint(2, 8))
        chance.shuffle(ids)
        before = edges_of(plant)
        for _ in range(chance.randint(2, 7)):
            batch = [tuple(chance.sample(ids, 2)) for _ in range(chance.choice([1, 1, 1, 2, 3, 5]))]
            if is_acyclic(known | {*batch}):
                insert(plant, *batch)
                known |= {*batch}
                continue
            with refused(plant, "22023") as refusal:
                insert(plant, *batch)
            refusals += 1
            cycle = refusal.detail.removeprefix("The cycle is ").removesuffix(".").split(" -> ")
            numbers = {number_of(plant, one): one for one in ids}
            steps = {(numbers[one], numbers[next]) for one, next in pairwise(cycle)}
            assert steps <= known | {*batch} and cycle[0] == cycle[-1]
        assert edges_of(plant) - before == known
    assert refusals > 30
    assert call(plant, "_lineage_problems") == []


def test_a_broken_order_is_found(plant):
    one, two = serials(plant, 2)
    insert(plant, (two, one))
    plant.execute("set local session_replication_role = replica")
    plant.execute("update machserial.serials set lineage_rank = null")
    plant.execute("set local session_replication_role = origin")
    for part_id in (None, "P"):
        (row,) = call(plant, "_lineage_problems", part_id=part_id)
        assert row.serial_id == one
    assert call(plant, "_lineage_problems", part_id="Q") == []


# Many sessions


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


def outcome(session: psycopg.Connection, *edges: tuple[int, int]) -> str:
    try:
        insert(session, *edges)
    except psycopg.Error as error:
        return error.sqlstate
    return "added"


@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("forward_first", [True, False])
def test_the_second_half_of_a_cycle_waits_for_the_first(plant, connect, background, ends, forward_first):
    edge = tuple(serials(plant, 2))[:: 1 if forward_first else -1]
    plant.commit()
    first, second, observer = connect(), connect(autocommit=True), connect(autocommit=True)
    insert(first, edge)
    work = background.submit(outcome, second, edge[::-1])
    await_waiting(observer, second, work)
    getattr(first, ends)()
    assert work.result(60) == ("22023" if ends == "commit" else "added")
    assert call(observer, "_lineage_problems") == []


def test_halves_of_a_cycle_added_at_the_same_moment(plant, connect):
    """x -> y and u -> v are there; y -> u and v -> x come at once, both from a younger serial to an older one."""
    rounds = 25
    quads = [serials(plant, 4) for _ in range(rounds)]
    for x, u, y, v in quads:
        insert(plant, (x, y), (u, v))
    plant.commit()
    sessions = [connect(autocommit=True) for _ in range(2)]
    barrier = Barrier(2)

    def client(number: int) -> list[str]:
        sessions[number].execute(LIMITS)
        outcomes = []
        for x, u, y, v in quads:
            barrier.wait(60)
            outcomes.append(outcome(sessions[number], (y, u) if number else (v, x)))
        return outcomes

    for pair in zip(*at_once(2, client), strict=True):
        assert sorted(pair) == ["22023", "added"]
    assert call(sessions[0], "_lineage_problems") == []


def test_halves_of_a_cycle_that_want_each_others_serials(plant, connect, background):
    """As above, and made to meet: both hold what they need first when they come to what the other holds."""
    x, u, y, v = serials(plant, 4)
    insert(plant, (x, y), (u, v))
    plant.commit()
    holder, observer = connect(), connect(autocommit=True)
    one, other = connect(autocommit=True), connect(autocommit=True)
    holder.execute("select from machserial.serials where id = any(%s) for update", ([y, v],))
    works = [background.submit(outcome, one, (y, u)), background.submit(outcome, other, (v, x))]
    for session, work in zip((one, other), works, strict=True):
        await_waiting(observer, session, work)
    holder.rollback()
    assert sorted(work.result(60) for work in works) == ["22023", "added"]


def test_a_crowd_on_few_serials_never_makes_a_cycle_nor_a_deadlock(plant, connect):
    ids = serials(plant, 9)
    plant.commit()
    sessions = [connect(autocommit=True) for _ in range(6)]
    barrier = Barrier(6)

    def client(number: int) -> set[str]:
        chance = random.Random(number)
        sessions[number].execute(LIMITS)
        barrier.wait(60)
        return {
            outcome(sessions[number], *(tuple(chance.sample(ids, 2)) for _ in range(chance.choice([1, 1, 2]))))
            for _ in range(40)
        }

    assert set.union(*at_once(6, client)) == {"added", "22023"}
    edges = edges_of(sessions[0])
    assert is_acyclic(edges) and len(edges) >= 8
    assert call(sessions[0], "_lineage_problems") == []


def test_unrelated_propagations_do_not_wait_for_each_other(plant, connect):
    """Nor do those that have a source in common, whether or not their serials must be put in order first."""
    old, older, source, young, another, last = serials(plant, 6)
    plant.commit()
    first, second = connect(), connect()
    second.execute(NO_WAITING)
    insert(first, (source, old), (young, last))
    insert(second, (source, older))
    call(second, "pass_through", serial_id=source, **AT)
    insert(second, (source, another))
    insert(first, (source, last))
    first.commit()
    second.commit()
    assert call(plant, "_lineage_problems") == []


def test_a_serial_is_not_retired_while_it_is_propagated(plant, connect, background):
    one, two = serials(plant, 2)
    plant.commit()
    first, second, observer = connect(), connect(), connect(autocommit=True)
    for one_first in (lambda: insert(first, (one, two)), lambda: call(first, "pass_through", serial_id=one, **AT)):
        one_first()
        work = background.submit(call, second, "retire_serial", serial_id=one, reason="scrap")
        await_waiting(observer, second, work)
        first.commit()
        work.result(60)
        second.rollback()
    call(first, "retire_serial", serial_id=one, reason="scrap")
    work = background.submit(outcome, second, (one, two))
    await_waiting(observer, second, work)
    first.commit()
    assert work.result(60) == "55000"


@pytest.mark.parametrize("isolation", ["REPEATABLE_READ", "SERIALIZABLE"])
def test_a_snapshot_never_takes_an_order_on_trust(plant, connect, isolation):
    one, two, three = serials(plant, 3)
    plant.commit()
    session, other = connect(), connect(autocommit=True)
    session.isolation_level = psycopg.IsolationLevel[isolation]
    insert(session, (one, two))
    with refused(session, "0A000") as refusal:
        insert(session, (three, two))
    assert "read committed" in refusal.hint
    session.commit()
    # Its order has changed since the snapshot was taken.
    assert value(session, "select count(*) from machserial.serials") == 3
    insert(other, (three, one))
    assert outcome(session, (one, three)) == "40001"
    session.rollback()
    assert outcome(session, (two, three)) == "0A000"
    session.rollback()
    assert outcome(other, (two, three)) == "22023"


# Lineage


def as_rows(rows: list) -> list[tuple]:
    return [(row.direction, row.depth, row.serial_id, row.path) for row in rows]


def test_lineage_goes_both_ways(plant):
    lot, bar, seal = serials(plant, 3)
    (valve, pump) = serials(plant, 2, "Q")
    insert(plant, (lot, bar))
    call(
        plant,
        "merge",
        source_serial_ids=[bar, seal],
        target_serial_id=valve,
        operation_code="OP-20",
        routing_sequence=20,
    )
    call(plant, "transform", source_serial_id=valve, target_serial_id=pump, operation_code="OP-30", routing_sequence=30)
    call(plant, "pass_through", serial_id=valve, **AT)
    rows = call(plant, "lineage", serial_id=valve)
    assert as_rows(rows) == [
        ("ANCESTOR", 1, bar, [valve, bar]),
        ("ANCESTOR", 1, seal, [valve, seal]),
        ("ANCESTOR", 2, lot, [valve, bar, lot]),
        ("SELF", 0, valve, [valve]),
        ("DESCENDANT", 1, pump, [valve, pump]),
    ]
    assert [(row.part_id, row.propagation_type, row.operation_code) for row in rows] == [
        ("P", "MERGE", "OP-20"),
        ("P", "MERGE", "OP-20"),
        ("P", "MERGE", "OP"),
        ("Q", None, None),
        ("Q", "TRANSFORM", "OP-30"),
    ]
    assert {row.serial_number for row in rows} == {number_of(plant, one) for one in (lot, bar, seal, valve, pump)}
    assert as_rows(call(plant, "lineage", serial_id=valve, max_depth=0)) == [("SELF", 0, valve, [valve])]


def test_each_serial_comes_once_by_the_shortest_way(plant):
    a, b, c, d, e = serials(plant, 5)
    insert(plant, (a, b), (b, c), (c, d), (a, d), (a, c), (d, e), (a, b))
    assert as_rows(call(plant, "lineage", serial_id=a))[1:] == [
        ("DESCENDANT", 1, b, [a, b]),
        ("DESCENDANT", 1, c, [a, c]),
        ("DESCENDANT", 1, d, [a, d]),
        ("DESCENDANT", 2, e, [a, d, e]),
    ]


def notices_of(connection: psycopg.Connection, **arguments: object) -> list[tuple[str, str]]:
    notices: list[tuple[str, str]] = []

    def note(diag: psycopg.errors.Diagnostic) -> None:
        notices.append((diag.message_primary, diag.message_hint))

    connection.add_notice_handler(note)
    call(connection, "lineage", **arguments)
    connection.remove_notice_handler(note)
    return notices


def test_lineage_says_where_it_was_cut(plant):
    ids = serials(plant, 9)
    insert(plant, *pairwise(ids))
    (up, hint), (down, _) = notices_of(plant, serial_id=ids[4], max_depth=2)
    assert number_of(plant, ids[4]) in up and "depth 2" in up and "max_depth" in hint
    assert "ancestors" in up and "descendants" in down
    ((down, _),) = notices_of(plant, serial_id=ids[2], max_depth=2)
    assert "descendants" in down
    assert notices_of(plant, serial_id=ids[4], max_depth=4) == []
    # What lies beyond the last level has been reached before.
    x, y, z = serials(plant, 3)
    insert(plant, (x, y), (x, z), (y, z))
    assert notices_of(plant, serial_id=x, max_depth=1) == []
    assert len(notices_of(plant, serial_id=x, max_depth=0)) == 1


def test_many_ways_are_not_walked_one_by_one(plant):
    layers = [serials(plant, 30) for _ in range(20)]
    for step in (1, 2):
        insert(
            plant,
            *(
                (one, other)
                for upper, lower in zip(layers, layers[step:], strict=False)
                for one in upper
                for other in lower
            ),
        )
    plant.execute("set local statement_timeout = '20s'")
    rows = call(plant, "lineage", serial_id=layers[0][0])
    assert len(rows) == len({row.serial_id for row in rows}) == 1 + 19 * 30
    assert max(row.depth for row in rows) == 10


@st.composite
def graphs(draw) -> tuple[int, list[tuple[int, int]], int, int]:
    """How many serials, edges among their numbers (some twice), where to start, how far to go."""
    count = draw(st.integers(1, 12))
    if count == 1:
        return count, [], 0, draw(st.integers(0, 3))
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda pair: pair[0] != pair[1])
    edges = draw(st.lists(pairs, max_size=30))
    # A line, on which the others are laid: else hardly any would be deep.
    line = list(pairwise(range(draw(st.integers(0, count)))))
    edges = draw(st.permutations(line + [(min(pair), max(pair)) for pair in edges]))
    return count, edges, draw(st.integers(0, count - 1)), draw(st.sampled_from([0, 1, 2, 3, 5, 50]))


def expected_lineage(
    edges: list[tuple[int, int]], start: int, max_depth: int, upward: bool
) -> tuple[list[tuple], bool]:
    """Depth, serial, type, operation and path, by the letter of what lineage() promises; whether there is more."""
    rows, level, reached = [], {start: [start]}, {start}
    for depth in range(max_depth + 1):
        found: dict[int, tuple] = {}
        for number, edge in enumerate(edges):
            near, far = edge[::-1] if upward else edge
            if near in level and far not in reached and far not in found:
                found[far] = ("MERGE", f"OP-{number}", [*level[near], far])
        if depth == max_depth:
            return rows, bool(found)
        rows += [(depth + 1, far, *found[far]) for far in sorted(found)]
        level = {far: step[-1] for far, step in found.items()}
        reached |= set(level)
    raise AssertionError


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=graphs())
def test_lineage_is_that_of_the_model(plant, graph):
    count, edges, start, max_depth = graph
    ids = serials(plant, count)
    plant.execute(
        "insert into machserial.serial_propagations "
        "(propagation_type, parent_serial_id, child_serial_id, operation_code, routing_sequence) "
        "select 'MERGE', e.parent, e.child, 'OP-' || e.ordinal - 1, 0 "
        "from unnest(%s::bigint[], %s::bigint[]) with ordinality as e (parent, child, ordinal) order by e.ordinal",
        ([ids[parent] for parent, _ in edges], [ids[child] for _, child in edges]),
    )
    up, more_up = expected_lineage(edges, start, max_depth, True)
    down, more_down = expected_lineage(edges, start, max_depth, False)
    expected = [
        ("ANCESTOR", depth, ids[one], kind, code, [ids[step] for step in path]) for depth, one, kind, code, path in up
    ]
    expected.append(("SELF", 0, ids[start], None, None, [ids[start]]))
    expected += [
        ("DESCENDANT", depth, ids[one], kind, code, [ids[step] for step in path])
        for depth, one, kind, code, path in down
    ]
    rows = call(plant, "lineage", serial_id=ids[start], max_depth=max_depth)
    assert [
        (row.direction, row.depth, row.serial_id, row.propagation_type, row.operation_code, row.path) for row in rows
    ] == expected
    assert len(notices_of(plant, serial_id=ids[start], max_depth=max_depth)) == more_up + more_down


# Reports


def test_history_is_paged_by_key(plant):
    one, two, three = serials(plant, 3)
    (other,) = serials(plant, 1, "Q")
    insert(plant, (one, two), (two, three), (three, other))
    call(plant, "pass_through", serial_id=other, **AT)
    ids = column(plant, "select id from machserial.serial_propagations order by id desc")
    assert [row.id for row in call(plant, "propagation_history", part_id="P")] == ids[1:]
    assert [row.id for row in call(plant, "propagation_history", part_id="Q")] == ids[:2]
    first = call(plant, "propagation_history", part_id="P", page_size=2)
    assert [row.id for row in first] == ids[1:3]
    rest = call(plant, "propagation_history", part_id="P", page_size=2, after=first[-1].id)
    assert [row.id for row in rest] == ids[3:]
    assert (rest[0].parent_serial_id, rest[0].child_serial_id) == (one, two)
    now = value(plant, "select now()")
    assert call(plant, "propagation_history", part_id="P", until=now) == []
    assert len(call(plant, "propagation_history", part_id="P", since=now)) == 3


def test_statistics_count_each_propagation_once(plant):
    assert call(plant, "propagation_statistics", part_id="P") == [(0, 0, 0, 0, 0, 0, None)]
    one, two, three, idle = serials(plant, 4)
    (other,) = serials(plant, 1, "Q")
    call(plant, "split", source_serial_id=one, target_serial_ids=[two, three], **AT)
    call(plant, "merge", source_serial_ids=[two, three], target_serial_id=other, **AT)
    call(plant, "transform", source_serial_id=other, **AT)
    call(plant, "pass_through", serial_id=one, **AT)
    now = value(plant, "select now()")
    assert call(plant, "propagation_statistics", part_id="P") == [(5, 1, 2, 2, 0, 3, now)]
    assert call(plant, "propagation_statistics", part_id="Q") == [(3, 0, 0, 2, 1, 1, now)]
    assert idle
