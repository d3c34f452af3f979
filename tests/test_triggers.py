"""Triggers: what is configured, what an event makes of it, why nothing came of it, and how often it did."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.types.json import Jsonb
from support import HOSTILE, at_once, call, column, make_format, make_part, refused, register, value, violated

NO_WAITING = "set lock_timeout = '2s'"


@pytest.fixture
def plant(connection):
    """Part P with the format F, part BARE without any, and the site HAM."""
    call(connection, "register_site", site_id="HAM")
    make_part(connection, "P")
    make_part(connection, "BARE")
    make_format(connection, "F", "F{SEQ:6}")
    call(connection, "assign_format", part_id="P", format="F")
    return connection


def trigger(
    connection,
    assignment_type: str = "SYSTEM_GENERATED",
    part_id: str = "P",
    trigger_type: str = "WORK_ORDER_CREATE",
    **more,
):
    given = {"part_id": part_id, "trigger_type": trigger_type, "assignment_type": assignment_type, **more}
    return call(connection, "create_trigger", **given)[0]


def fire(connection, trigger_type: str = "WORK_ORDER_CREATE", part_id: str = "P", **more) -> list:
    return call(connection, "fire", trigger_type=trigger_type, part_id=part_id, **more)


def explain(connection, context: dict, trigger_type: str = "WORK_ORDER_CREATE", part_id: str = "P") -> dict:
    rows = call(connection, "explain_triggers", trigger_type=trigger_type, part_id=part_id, context=context)
    assert all(row.fires == (row.reason == "fires") for row in rows)
    return {row.trigger_id: row.reason for row in rows}


def count(connection, trigger_id: int) -> int:
    return value(
        connection, "select execution_count from machserial.serial_assignment_triggers where id = %s", trigger_id
    )


def events(connection, trigger_id: int) -> list[tuple[str, dict]]:
    """What the audit trail says of a trigger: event types with their details but for the id."""
    found = connection.execute(
        "select event_type, details from machserial.audit_events where details ->> 'trigger_id' = %s order by id",
        (str(trigger_id),),
    ).fetchall()
    return [(kind, {key: told for key, told in details.items() if key != "trigger_id"}) for kind, details in found]


# Configuring


def test_a_trigger_is_created_changed_and_deleted(plant):
    made = trigger(plant, trigger_type="work_order_create")
    assert made.trigger_type == "WORK_ORDER_CREATE" and made.conditions == {} and made.batch_size == 1
    assert made.enabled and made.execution_count == 0 and made.last_executed_at is None and made.created_by
    changed = call(
        plant,
        "update_trigger",
        trigger_id=made.id,
        trigger_type="OPERATION_COMPLETE",
        format="F",
        operation_code="OP-1",
        conditions={"line": "2"},
        batch_size=3,
    )[0]
    assert (changed.trigger_type, changed.assignment_type) == ("OPERATION_COMPLETE", "SYSTEM_GENERATED")
    assert (changed.format, changed.operation_code, changed.conditions, changed.batch_size) == (
        "F",
        "OP-1",
        {"line": "2"},
        3,
    )
    cleared = call(plant, "update_trigger", trigger_id=made.id, format="", operation_code="")[0]
    assert cleared.format is None and cleared.operation_code is None and cleared.batch_size == 3
    off = call(plant, "disable_trigger", trigger_id=made.id)[0]
    assert not off.enabled and off.disabled_at and off.disabled_by == plant.info.user
    assert call(plant, "disable_trigger", trigger_id=made.id)[0] == off
    on = call(plant, "enable_trigger", trigger_id=made.id)[0]
    assert on.enabled and on.disabled_at is None and on.disabled_by is None
    assert call(plant, "delete_trigger", trigger_id=made.id)[0].id == made.id
    assert column(plant, "select id from machserial.serial_assignment_triggers") == []
    assert [kind for kind, _ in events(plant, made.id)] == [
        "TRIGGER_CREATED",
        "TRIGGER_UPDATED",
        "TRIGGER_UPDATED",
        "TRIGGER_DISABLED",
        "TRIGGER_ENABLED",
        "TRIGGER_DELETED",
    ]
    assert events(plant, made.id)[2][1] == {
        "format": {"old": "F", "new": None},
        "operation_code": {"old": "OP-1", "new": None},
    }


@pytest.mark.parametrize(
    ("given", "sqlstate"),
    [
        ({"part_id": "NONE"}, "23503"),
        ({"part_id": None}, "23503"),
        ({"trigger_type": "WORK_ORDER_CLOSE"}, "22023"),
        ({"trigger_type": None}, "22023"),
        ({"assignment_type": "MANUAL"}, "22023"),
        ({"format": "NONE"}, "23503"),
        ({"format": "OLD"}, "55000"),
        ({"conditions": Jsonb([1])}, "22023"),
        ({"conditions": Jsonb("$.quantity > > 5")}, "22023"),
        ({"conditions": Jsonb("quantity")}, "22023"),
        ({"batch_size": 0}, "22023"),
        ({"batch_size": None}, "22023"),
        ({"batch_size": 1000001}, "22023"),
    ],
    ids=str,
)
def test_a_trigger_that_makes_no_sense_is_refused(plant, given, sqlstate):
    make_format(plant, "OLD", "{SEQ:4}")
    call(plant, "deactivate_format", name="OLD")
    with refused(plant, sqlstate):
        trigger(plant, **given)
    if "part_id" not in given and None not in given.values():
        made = trigger(plant)
        with refused(plant, sqlstate):
            call(plant, "update_trigger", trigger_id=made.id, **given)


def test_there_is_no_such_trigger(plant):
    for function in ("update_trigger", "enable_trigger", "disable_trigger", "delete_trigger"):
        for trigger_id in (0, None):
            with refused(plant, "P0002"):
                call(plant, function, trigger_id=trigger_id)


def test_plain_sql_obeys_the_same_rules_and_is_audited(plant):
    view = "machserial.serial_assignment_triggers"
    plant.execute("set local machserial.actor = 'anna'")
    made = value(
        plant,
        f"insert into {view} (part_id, trigger_type, assignment_type) "
        "values ('P', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED') returning id",
    )
    assert len(fire(plant)) == 1
    for name, bad, sqlstate in (
        ("trigger_type", "'NEVER'", "22023"),
        ("assignment_type", "'NOTHING'", "22023"),
        ("batch_size", "0", "22023"),
        ("conditions", "'[]'", "22023"),
        ("conditions", """'"$.a b"'""", "22023"),
        ("format", "'NONE'", "23503"),
        ("part_id", "'NONE'", "23503"),
        ("execution_count", "-1", "22023"),
        ("execution_count", "null", "22023"),
        ("last_executed_at", "now() - interval '1 day'", "22023"),
        ("id", "7", "22023"),
    ):
        with refused(plant, sqlstate):
            plant.execute(f"update {view} set {name} = {bad} where id = {made}")
        if name not in ("execution_count", "last_executed_at", "id"):
            with refused(plant, sqlstate):
                plant.execute(f"update machserial.trigger_definitions set {name} = {bad} where id = {made}")
    row = plant.execute(
        f"update {view} set enabled = false, batch_size = 4, execution_count = 0 where id = {made} "
        "returning enabled, batch_size, execution_count, disabled_by, updated_by"
    ).fetchone()
    assert row == (False, 4, 0, "anna", "anna")
    plant.execute(f"delete from {view} where id = {made}")
    assert value(plant, "select count(*) from machserial.trigger_executions") == 0
    told = events(plant, made)
    assert told[0][0] == "TRIGGER_CREATED" and told[-1][0] == "TRIGGER_DELETED"
    assert sorted(told[1:-1], key=str) == [
        ("TRIGGER_DISABLED", {"enabled": {"old": True, "new": False}}),
        ("TRIGGER_RESET", {"execution_count": {"old": 1, "new": 0}}),
        ("TRIGGER_UPDATED", {"batch_size": {"old": 1, "new": 4}}),
    ]
    assert set(column(plant, "select performed_by from machserial.audit_events where event_type ~ '^TRIGGER_'")) == {
        "anna"
    }


def test_two_updates_of_the_view_at_once_keep_what_the_other_changed(plant, connect):
    made = trigger(plant)
    plant.commit()
    other = connect()
    view = "machserial.serial_assignment_triggers"
    plant.execute(f"update {view} set batch_size = 2 where id = {made.id}")
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(other.execute, f"update {view} set operation_code = 'OP' where id = {made.id}")
        while not value(connect(), "select exists (select from pg_locks where not granted)"):
            pass
        plant.commit()
        waiting.result(30)
    other.commit()
    assert plant.execute(f"select batch_size, operation_code from {view}").fetchone() == (2, "OP")


def test_the_sql_of_the_original_guide_runs_as_printed(plant):
    make_part(plant, "PART-001")
    made = trigger(plant, "LATE_ASSIGNMENT", "PART-001")
    fire(plant, part_id="PART-001")
    plant.execute("set search_path = machserial, public")
    printed = "SELECT * FROM serial_assignment_triggers\nWHERE part_id = 'PART-001' AND enabled = true;"
    assert len(plant.execute(printed).fetchall()) == 1
    plant.execute(f"UPDATE serial_assignment_triggers SET execution_count = 0 WHERE id = '{made.id}';")
    assert count(plant, made.id) == 0
    fire(plant, part_id="PART-001")
    assert count(plant, made.id) == 1


# Firing


def test_an_event_makes_quantity_times_batch_size_of_every_trigger_in_order(plant):
    first = trigger(plant, batch_size=2)
    placeholders = trigger(plant, "LATE_ASSIGNMENT")
    make_format(plant, "G", "{CTX:line}-{SEQ:3}")
    named = trigger(plant, format="G")
    trigger(plant, trigger_type="BATCH_COMPLETION")
    trigger(plant, part_id="BARE")
    context = {"work_order_id": "WO", "lot_number": "L", "operation_code": "OP", "line": "A", "site_id": "HAM"}
    made = fire(plant, context=context, quantity=3)
    assert [row.trigger_id for row in made] == [first.id] * 6 + [placeholders.id] * 3 + [named.id] * 3
    assert [row.serial_number for row in made if row.trigger_id == first.id] == [f"F{n:06}" for n in range(1, 7)]
    assert [row.serial_number for row in made if row.trigger_id == named.id] == ["A-001", "A-002", "A-003"]
    assert all((row.serial_id is None) == (row.assignment_type == "LATE_ASSIGNMENT") for row in made)
    assert all((row.placeholder_id is None) == (row.assignment_type != "LATE_ASSIGNMENT") for row in made)
    for relation in ("serials", "late_assignment_placeholders"):
        assert plant.execute(
            f"select distinct site_id, work_order_id, lot_number, operation_code, context from machserial.{relation}"
        ).fetchall() == [("HAM", "WO", "L", "OP", {"line": "A", "site_id": "HAM"})]
    assert {row.trigger_id: (row.execution_count, row.units) for row in call(plant, "trigger_statistics")} == {
        first.id: (1, 6),
        placeholders.id: (1, 3),
        named.id: (1, 3),
        named.id + 1: (0, 0),
        named.id + 2: (0, 0),
    }
    statistics = call(plant, "trigger_statistics", part_id="BARE")
    assert [(row.trigger_id, row.part_id, row.last_executed_at) for row in statistics] == [(named.id + 2, "BARE", None)]
    with refused(plant, "23503"):
        call(plant, "trigger_statistics", part_id="NONE")


@pytest.mark.parametrize(
    ("given", "sqlstate"),
    [
        ({"part_id": "NONE"}, "23503"),
        ({"part_id": None}, "23503"),
        ({"trigger_type": "NEVER"}, "22023"),
        ({"context": Jsonb([])}, "22023"),
        ({"quantity": 0}, "22023"),
        ({"quantity": None}, "22023"),
        ({"quantity": 1000001}, "22023"),
        ({"context": {"site_id": "NOWHERE"}}, "23503"),
        ({"part_id": "BARE"}, "23503"),
        ({"trigger_type": "MATERIAL_RECEIPT", "quantity": 500001}, "22023"),
        ({"trigger_type": "BATCH_COMPLETION"}, "55000"),
        ({"trigger_type": "QUALITY_CHECKPOINT"}, "22023"),
        ({"trigger_type": "QUALITY_CHECKPOINT", "quantity": 12, "context": {"line": 1}}, "2200H"),
    ],
    ids=str,
)
def test_an_event_that_cannot_be_answered_makes_nothing(plant, given, sqlstate):
    make_format(plant, "OLD", "{SEQ:4}")
    make_format(plant, "LINE", "{CTX:line}{SEQ:1}")
    trigger(plant)
    trigger(plant, batch_size=2, trigger_type="MATERIAL_RECEIPT")
    trigger(plant, part_id="BARE")
    trigger(plant, format="OLD", trigger_type="BATCH_COMPLETION")
    trigger(plant, format="LINE", trigger_type="QUALITY_CHECKPOINT")
    call(plant, "deactivate_format", name="OLD")
    with refused(plant, sqlstate):
        fire(plant, **given)
    assert value(plant, "select count(*) from machserial.trigger_executions") == 0
    assert value(plant, "select count(*) from machserial.serials") == 0


def test_without_a_matching_trigger_nothing_is_made(plant):
    assert fire(plant) == []
    made = trigger(plant)
    trigger(plant, trigger_type="BATCH_COMPLETION")
    call(plant, "disable_trigger", trigger_id=made.id)
    assert fire(plant, context=None) == []
    assert count(plant, made.id) == 0


PATH = Jsonb('$.quantity > 5 && $.line == "A"')


# What a trigger asks for, the context of an event, whether it fires.
AGREEMENTS = [
    ({}, {}, True),
    ({"conditions": {"op": "OP-001"}}, {"op": "OP-001", "more": 1}, True),
    ({"conditions": {"op": "OP-001"}}, {"op": "OP-002"}, False),
    ({"conditions": {"op": "OP-001"}}, {}, False),
    ({"conditions": {"a": {"b": [1]}}}, {"a": {"b": [2, 1], "c": 3}}, True),
    ({"conditions": {"a": {"b": [1]}}}, {"a": {"b": [2]}}, False),
    ({"conditions": {"tags": "x"}}, {"tags": ["x"]}, False),
    ({"conditions": PATH}, {"quantity": 6, "line": "A"}, True),
    ({"conditions": PATH}, {"quantity": 5, "line": "A"}, False),
    ({"conditions": PATH}, {"quantity": "many", "line": "A"}, False),
    ({"conditions": PATH}, {}, False),
    ({"conditions": Jsonb("strict $.a.b == 1")}, {"a": 1}, False),
    ({"conditions": Jsonb("$.line")}, {"line": "A"}, True),
    ({"conditions": Jsonb("$.line")}, {"line": None}, False),
    ({"conditions": Jsonb("$.score ? (@ > 5)")}, {"score": 9}, True),
    ({"conditions": Jsonb("$.score ? (@ > 5)")}, {"score": 4}, False),
    ({"conditions": Jsonb("$.score ? (@ > 5)")}, {}, False),
    ({"operation_code": "OP-1"}, {"operation_code": "OP-1"}, True),
    ({"operation_code": "OP-1"}, {"operation_code": "OP-2"}, False),
    ({"operation_code": "OP-1"}, {}, False),
    ({"operation_code": "10"}, {"operation_code": 10}, True),
]


def test_conditions_decide_and_the_explanation_agrees(plant):
    for given, context, fires in AGREEMENTS:
        made = trigger(plant, **given)
        assert bool(fire(plant, context=context)) == fires, (given, context)
        assert (explain(plant, context)[made.id] == "fires") == fires, (given, context)
        assert count(plant, made.id) == fires
        call(plant, "delete_trigger", trigger_id=made.id)


def test_hostile_text_in_context_and_conditions(plant):
    for text in HOSTILE:
        made = trigger(plant, conditions={text: text}, operation_code=text)
        assert len(fire(plant, context={text: text, "operation_code": text, "work_order_id": text})) == 1
        assert text in explain(plant, {text: "other", "operation_code": text})[made.id]
        call(plant, "delete_trigger", trigger_id=made.id)
    assert column(plant, "select work_order_id from machserial.serials order by id") == HOSTILE


# Vendors


def test_a_vendors_numbers_are_received_with_what_is_known_of_them(plant):
    made = trigger(plant, "VENDOR", trigger_type="MATERIAL_RECEIPT")
    context = {"vendor_name": "ACME", "lot_number": "L", "truck": 7, "site_id": "HAM", "received_date": "2026-01-02"}
    rows = fire(plant, "MATERIAL_RECEIPT", context={**context, "serial_numbers": ["V1", " V2 "]}, quantity=9)
    assert [(row.trigger_id, row.serial_number) for row in rows] == [(made.id, "V1"), (made.id, "V2")]
    rows = fire(plant, "MATERIAL_RECEIPT", context={**context, "serial_number": "V3"})
    assert [row.serial_number for row in rows] == ["V3"]
    stored = plant.execute(
        "select v.serial_number, v.vendor_name, v.status, v.received_date::date::text, s.site_id, s.lot_number, "
        "s.context from machserial.vendor_serials as v inner join machserial.serials as s on s.id = v.id "
        "order by v.id"
    ).fetchall()
    assert stored == [
        (number, "ACME", "PENDING", "2026-01-02", "HAM", "L", {"truck": 7, "site_id": "HAM"})
        for number in ("V1", "V2", "V3")
    ]
    assert fire(plant, "MATERIAL_RECEIPT", context={"vendor_name": "ACME", "serial_numbers": []}) == []
    statistics = call(plant, "trigger_statistics")[0]
    assert (statistics.execution_count, statistics.units) == (3, 3)


def test_an_event_that_brings_many_numbers_is_not_copied_for_each(plant):
    numbers = [f"V{n}" for n in range(100, 400)]
    event = Jsonb({"vendor_name": "ACME", "serial_numbers": numbers})
    rows = plant.execute(
        "select n.context, n.number from machserial._numbers_received(array[(1, 1, %s, null)::machserial._event]) as n",
        (event,),
    ).fetchall()
    assert sorted(rows, key=str) == [({"vendor_name": "ACME"}, number) for number in numbers]


@pytest.mark.parametrize(
    ("context", "sqlstate", "told"),
    [
        ({}, "22023", "vendor_name"),
        ({"vendor_name": " ", "serial_number": "N"}, "22023", "vendor_name"),
        ({"vendor_name": "ACME"}, "22023", "serial_number"),
        ({"vendor_name": "ACME", "serial_numbers": "N"}, "22023", "serial_numbers"),
        ({"vendor_name": "ACME", "serial_numbers": ["N", None]}, "22023", "null"),
        ({"vendor_name": "ACME", "serial_numbers": ["N", "  "]}, "22023", "empty"),
        ({"vendor_name": "ACME", "serial_numbers": ["N", "x" * 256]}, "22023", "xxx"),
        ({"vendor_name": "ACME", "serial_numbers": ["N", "TAKEN"]}, "23505", "TAKEN"),
        ({"vendor_name": "ACME", "serial_numbers": ["N", "N "]}, "23505", "N"),
        ({"vendor_name": "ACME", "serial_number": "N", "site_id": "NOWHERE"}, "23503", "NOWHERE"),
    ],
    ids=str,
)
def test_all_of_a_vendors_numbers_or_none(plant, context, sqlstate, told):
    register(plant, ["TAKEN"])
    made = trigger(plant, "VENDOR", trigger_type="MATERIAL_RECEIPT")
    with refused(plant, sqlstate) as refusal:
        fire(plant, "MATERIAL_RECEIPT", context=context)
    assert told in refusal.message and not refusal.detail.startswith(":")
    assert value(plant, "select count(*) from machserial.vendor_serials") == 0
    if "vendor_name" not in context:
        assert explain(plant, context, "MATERIAL_RECEIPT")[made.id] == "context lacks vendor_name"


# Why nothing came of it


def test_every_trigger_of_the_part_is_explained(plant):
    make_format(plant, "OLD", "{SEQ:4}")
    make_format(plant, "LINE", "{CTX:line}-{WO}-{SEQ:4}")
    wanted = {
        "fires": trigger(plant).id,
        "it waits for OPERATION_COMPLETE, the event is WORK_ORDER_CREATE": trigger(
            plant, trigger_type="OPERATION_COMPLETE"
        ).id,
        "context has operation_code = OP-002, the trigger wants OP-001": trigger(plant, operation_code="OP-001").id,
        "context has op = OP-002, condition wants OP-001": trigger(plant, conditions={"op": "OP-001"}).id,
        "context has op = OP-002, condition wants OP-001; context lacks shift, condition wants 3": trigger(
            plant, conditions={"shift": 3, "op": "OP-001", "lot": "L"}
        ).id,
        'context has level = "2", condition wants 2': trigger(plant, conditions={"level": 2}).id,
        'the condition $.lot == "M" does not hold for the context '
        '{"op": "OP-002", "lot": "L", "level": "2", "operation_code": "OP-002"}': trigger(
            plant, conditions=Jsonb('$.lot == "M"')
        ).id,
        "format OLD is deactivated": trigger(plant, format="OLD").id,
        "context lacks line, the format needs it; context lacks work_order_id, the format needs it": trigger(
            plant, format="LINE"
        ).id,
        "context lacks vendor_name": trigger(plant, "VENDOR").id,
    }
    call(plant, "deactivate_format", name="OLD")
    context = {"op": "OP-002", "lot": "L", "level": "2", "operation_code": "OP-002"}
    assert explain(plant, context) == {trigger_id: reason for reason, trigger_id in wanted.items()}
    off = wanted["fires"]
    plant.execute("set local machserial.actor = 'ben'")
    call(plant, "disable_trigger", trigger_id=off)
    since = value(plant, "select disabled_at::text from machserial.serial_assignment_triggers where id = %s", off)
    assert explain(plant, context)[off] == f"disabled since {since} by ben"


def test_what_an_explanation_says_of_the_part_and_the_site(plant):
    assert explain(plant, {}) == {None: "no trigger is configured for P"}
    bare = trigger(plant, part_id="BARE").id
    late = trigger(plant, "LATE_ASSIGNMENT", part_id="BARE").id
    assert explain(plant, {}, part_id="BARE") == {bare: "no format is assigned to BARE", late: "fires"}
    assert explain(plant, {"site_id": "X"}, part_id="BARE")[late] == "site X is unknown"
    for given, sqlstate in (
        ({"part_id": "NONE"}, "23503"),
        ({"trigger_type": "NEVER"}, "22023"),
        ({"context": Jsonb("text")}, "22023"),
    ):
        with refused(plant, sqlstate):
            call(plant, "explain_triggers", **{"trigger_type": "BATCH_COMPLETION", "part_id": "P", **given})


# Many at once


def test_events_of_one_part_do_not_wait_for_each_other_and_all_are_counted(plant, connect):
    made = trigger(plant)
    plant.commit()
    sessions = [connect() for _ in range(8)]

    def fire_and_stay_open(client: int) -> None:
        sessions[client].execute(NO_WAITING)
        for _ in range(5):
            fire(sessions[client])

    at_once(8, fire_and_stay_open)
    assert count(plant, made.id) == 0
    for session in sessions[:7]:
        session.commit()
    sessions[7].rollback()
    assert count(plant, made.id) == 35


def test_folding_loses_nothing_and_keeps_nobody_waiting(plant, connect):
    made, other = trigger(plant), trigger(plant, trigger_type="BATCH_COMPLETION")
    for _ in range(4):
        fire(plant)
    plant.commit()
    before = call(plant, "trigger_statistics")
    snapshot = connect()
    snapshot.execute("set transaction isolation level repeatable read")
    assert count(snapshot, made.id) == 4
    firing, folding, second = connect(), connect(), connect()
    for session in (firing, folding, second):
        session.execute(NO_WAITING)
    fire(firing)
    assert value(folding, "select machserial._fold_executions()") == 3
    fire(firing)
    assert value(second, "select machserial._fold_executions()") == 0
    second.execute(f"update machserial.serial_assignment_triggers set enabled = false where id = {other.id}")
    assert count(plant, made.id) == 4
    plant.commit()
    folding.commit()
    assert call(plant, "trigger_statistics") == before
    firing.commit()
    second.commit()
    assert count(plant, made.id) == 6 and count(snapshot, made.id) == 4
    assert value(plant, "select machserial._fold_executions()") == 2
    assert column(plant, "select executions::integer from machserial.trigger_executions") == [6]
    assert [kind for kind, _ in events(plant, made.id)] == ["TRIGGER_CREATED"]


def test_the_count_is_right_while_some_fire_others_fold_and_one_resets(plant, connect: Callable):
    made = trigger(plant)
    plant.commit()
    sessions = [connect(autocommit=True) for _ in range(4)]

    def work(client: int) -> None:
        for turn in range(25):
            if client < 2:
                fire(sessions[client])
            elif client == 2:
                sessions[client].execute("select machserial._fold_executions()")
            elif turn == 10:
                view = "machserial.serial_assignment_triggers"
                sessions[client].execute(f"update {view} set execution_count = 0 where id = {made.id}")

    at_once(4, work)
    reset = [details["execution_count"] for kind, details in events(plant, made.id) if kind == "TRIGGER_RESET"]
    forgotten = reset[0]["old"] if reset else 0
    assert count(plant, made.id) == 50 - forgotten
    assert call(plant, "trigger_statistics")[0].units == 50


def test_a_deleted_trigger_takes_its_executions_along(plant):
    made, kept = trigger(plant), trigger(plant)
    fire(plant)
    call(plant, "delete_trigger", trigger_id=made.id)
    assert column(plant, "select trigger_id from machserial.trigger_executions") == [kept.id]
    with violated(plant, "23503"):
        plant.execute("delete from machserial.parts where id = 'P'")


def test_the_original_json_of_conditions_is_kept(plant):
    given = {"a": [1, {"b": None}], "ü": "ß"}
    assert trigger(plant, conditions=given).conditions == given
    assert json.loads(value(plant, "select conditions::text from machserial.serial_assignment_triggers")) == given


def test_a_session_that_may_only_read_cannot_configure(plant, connect):
    trigger(plant)
    plant.execute("create role reader login")
    plant.execute("grant usage on schema machserial to reader")
    plant.execute("grant execute on all functions in schema machserial to reader")
    plant.execute("grant select on all tables in schema machserial to reader")
    plant.commit()
    reader = connect(user="reader")
    assert len(call(reader, "trigger_statistics")) == 1
    for statement in (
        "select machserial.create_trigger('P', 'BATCH_COMPLETION', 'VENDOR')",
        "select machserial.disable_trigger(1)",
        "update machserial.serial_assignment_triggers set execution_count = 0",
        "delete from machserial.serial_assignment_triggers",
    ):
        with violated(reader, "42501"):
            reader.execute(statement)


def test_a_context_of_each_unit_is_its_own(plant):
    """Numbers for many units in one draw: each with its context, taken numbers stepped over, no two alike."""
    make_format(plant, "WO", "{WO}-{SEQ:4}")
    make_format(plant, "FIXED", "{WO}{LOT}")
    register(plant, ["A-0001", "F000002"])
    each = "select ordinal, serial_number from machserial._generate_each('P', null, %s, %s, %s::jsonb[])"

    def generate_each(format_name: str, quantities: list, *contexts: dict) -> list:
        given = [json.dumps(context) for context in contexts]
        return sorted(plant.execute(each, (format_name, quantities, given)).fetchall())

    assert generate_each("F", [2, 0, 1], {}, {}, {"x": 1}) == [(1, "F000001"), (1, "F000004"), (3, "F000003")]
    assert generate_each("WO", [1, 2, 1], {"work_order_id": "A"}, {"work_order_id": "B"}, {"work_order_id": "A"}) == [
        (1, "A-0005"),
        (2, "B-0002"),
        (2, "B-0003"),
        (3, "A-0004"),
    ]
    assert generate_each("FIXED", [1], {"work_order_id": "X", "lot_number": "YZ"}) == [(1, "XYZ")]
    with pytest.raises(psycopg.errors.SequenceGeneratorLimitExceeded):
        apart = [{"work_order_id": "a", "lot_number": "bc"}, {"work_order_id": "ab", "lot_number": "c"}]
        generate_each("FIXED", [1, 1], *apart)


def test_a_condition_that_can_never_be_evaluated_is_refused_at_once(plant):
    for condition, complaint in (("$x > 5", "variable"), ("", "jsonpath")):
        with refused(plant, "22023") as refusal:
            trigger(plant, conditions=Jsonb(condition))
        assert complaint in refusal.detail


def test_what_a_vendors_event_brings_is_a_number_and_a_date(plant):
    trigger(plant, "VENDOR")
    for brought in ({"serial_number": ["V-1"]}, {"serial_number": "V-1", "received_date": "yesterdayish"}):
        with refused(plant, "22023"):
            fire(plant, context={"vendor_name": "Foundry", **brought})
    (made,) = fire(plant, context={"vendor_name": "Foundry", **brought, "received_date": "2026-01-02"})
    received = value(plant, "select received_date::date::text from machserial.vendor_serials")
    assert (made.serial_number, received) == ("V-1", "2026-01-02")
