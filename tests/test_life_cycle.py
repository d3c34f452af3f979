"""The life of a serial: which step may follow which, what needs a reason, and what stays for good."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from support import HOSTILE, call, column, make_part, refused, register, value, violated

STEPS = {
    "PENDING": {"ACTIVE", "CONFLICT", "REJECTED", "RETIRED", "INVALID"},
    "ACTIVE": {"CONFLICT", "RETIRED", "INVALID"},
    "CONFLICT": {"PENDING", "ACTIVE", "REJECTED", "RETIRED", "INVALID"},
    "REJECTED": set(),
    "RETIRED": {"INVALID"},
    "INVALID": set(),
}
WITH_REASON = {"CONFLICT", "REJECTED", "RETIRED", "INVALID"}
VERBS = {"retire_serial": "RETIRED", "invalidate_serial": "INVALID"}


@pytest.fixture
def plant(connection):
    make_part(connection)
    return connection


def make(connection, number: str, status: str = "ACTIVE", **more: object) -> int:
    columns = {"serial_number": number, "part_id": "P", "status": status, **more}
    names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
    query = f"insert into machserial.serials ({names}) values ({marks}) returning id"
    return value(connection, query, *columns.values())


def step(connection, serial_id: int, assignment: str) -> None:
    connection.execute(f"update machserial.serials set {assignment} where id = {serial_id}")


def state(connection, serial_id: int) -> tuple:
    query = "select status, status_reason, status_changed_by from machserial.serials where id = %s"
    return connection.execute(query, (serial_id,)).fetchone()


def events(connection, serial_id: int) -> list[tuple]:
    return connection.execute(
        "select event_type, reason, details from machserial.audit_events "
        "where serial_id = %s and event_type !~ '^(CONFLICT|SERIAL_REGISTERED)' order by id",
        (serial_id,),
    ).fetchall()


# Steps


@pytest.mark.parametrize("old", STEPS)
def test_a_serial_takes_the_steps_of_its_life_and_no_others(plant, old):
    for new in STEPS:
        serial_id = make(plant, f"{old} to {new}", old)
        if new == old:
            step(plant, serial_id, f"status = '{new}'")
            for what in ("status_reason = 'another'", "status_changed_at = now()", "status_changed_by = 'forger'"):
                with refused(plant, "55000"):
                    step(plant, serial_id, f"status = '{new}', {what}")
        elif new in STEPS[old]:
            step(plant, serial_id, f"status = '{new}', status_reason = 'a reason'")
            assert state(plant, serial_id)[0] == new
        else:
            with refused(plant, "55000") as refusal:
                step(plant, serial_id, f"status = '{new}', status_reason = 'a reason'")
            assert f"{old} to {new}" in refusal.message
            assert all(one in refusal.detail for one in STEPS[old] or ["the end of its life"])
            assert state(plant, serial_id)[0] == old


@pytest.mark.parametrize("old", STEPS)
def test_a_step_that_an_inspector_will_ask_about_needs_a_reason(plant, old):
    for new in STEPS[old]:
        serial_id = make(plant, f"{old} to {new}", old, status_reason="an earlier reason")
        # Whoever ends a conflict has decided something.
        if new in WITH_REASON or old == "CONFLICT":
            for missing in ("", ", status_reason = null", ", status_reason = '  '"):
                with refused(plant, "22023") as refusal:
                    step(plant, serial_id, f"status = '{new}'{missing}")
                assert f"{old} to {new}" in refusal.message and "machserial.reason" in refusal.hint
            plant.execute("set local machserial.reason = 'of the session'")
            step(plant, serial_id, f"status = '{new}'")
            assert state(plant, serial_id)[1] == "of the session"
            plant.execute("set local machserial.reason = ''")
        else:
            step(plant, serial_id, f"status = '{new}'")
            assert state(plant, serial_id)[:2] == (new, None)


def test_a_step_says_when_and_by_whom(plant):
    serial_id = make(plant, "N")
    assert value(plant, "select num_nonnulls(status_changed_at, status_changed_by) from machserial.serials") == 0
    plant.execute("set local machserial.actor = 'Ada'")
    step(plant, serial_id, "status = 'RETIRED', status_reason = 'worn', status_changed_by = 'nobody'")
    assert state(plant, serial_id) == ("RETIRED", "worn", "Ada")
    assert value(plant, "select status_changed_at = now() from machserial.serials")
    assert events(plant, serial_id) == [
        ("SERIAL_RETIRED", "worn", {"status": {"old": "ACTIVE", "new": "RETIRED"}}),
    ]


def test_one_illegal_step_among_many_refuses_them_all(plant):
    ids = [make(plant, f"N{number}", "REJECTED" if number == 7 else "PENDING") for number in range(10)]
    with refused(plant, "55000") as refusal:
        plant.execute("update machserial.serials set status = 'ACTIVE'")
    assert "N7" in refusal.message
    assert {state(plant, serial_id)[0] for serial_id in ids} == {"PENDING", "REJECTED"}


def test_a_claim_is_released_only_by_what_is_out_of_use_with_a_reason_and_for_good(plant):
    for status in STEPS:
        serial_id = make(plant, f"N {status}", status)
        if status not in ("RETIRED", "INVALID"):
            with refused(plant, "55000") as refusal:
                step(plant, serial_id, "claim_released = true, status_reason = 'r'")
            assert status in refusal.detail and "resolve_conflict" in refusal.hint
            continue
        with refused(plant, "22023"):
            step(plant, serial_id, "claim_released = true")
        step(plant, serial_id, "claim_released = true, status_reason = 'r'")
        assert events(plant, serial_id) == [
            ("SERIAL_UPDATED", "r", {"claim_released": {"old": False, "new": True}}),
        ]
        with refused(plant, "55000"):
            step(plant, serial_id, "claim_released = false, status_reason = 'back'")


# The verbs


@pytest.mark.parametrize(("verb", "status"), VERBS.items())
def test_the_verbs_end_a_serial_s_life(plant, verb, status):
    plant.execute("set local machserial.actor = 'Ada'")
    for old, nexts in STEPS.items():
        serial_id = make(plant, f"N {old}", old)
        if status in nexts:
            (ended,) = call(plant, verb, serial_id=serial_id, reason=" scrapped ")
            assert (ended.id, ended.serial_number, ended.status) == (serial_id, f"N {old}", status)
            assert state(plant, serial_id) == (status, "scrapped", "Ada")
            ((event, reason, details),) = events(plant, serial_id)
            assert (event, reason) == (f"SERIAL_{'RETIRED' if status == 'RETIRED' else 'INVALIDATED'}", "scrapped")
            assert details == {"status": {"old": old, "new": status}}
            # Its number stays taken.
            with refused(plant, "23505"):
                register(plant, [f"N {old}"])
        else:
            with refused(plant, "55000") as refusal:
                call(plant, verb, serial_id=serial_id, reason="again")
            assert f"N {old}" in refusal.message and old in refusal.message


def test_a_serial_that_is_ended_twice_says_when_by_whom_and_why(plant):
    serial_id = make(plant, "N")
    plant.execute("set local machserial.actor = 'Ada'")
    call(plant, "retire_serial", serial_id=serial_id, reason="worn out")
    with refused(plant, "55000") as refusal:
        call(plant, "retire_serial", serial_id=serial_id, reason="again")
    assert "Ada" in refusal.detail and "worn out" in refusal.detail


@pytest.mark.parametrize("verb", VERBS)
def test_the_verbs_need_a_serial_and_a_reason(plant, verb):
    serial_id = make(plant, "N")
    for missing in (None, "", "  "):
        with refused(plant, "22023") as refusal:
            call(plant, verb, serial_id=serial_id, reason=missing)
        assert "N" in refusal.message
    for unknown in (4711, None):
        with refused(plant, "P0002"):
            call(plant, verb, serial_id=unknown, reason="r")
    assert state(plant, serial_id)[0] == "ACTIVE"
    plant.execute("set local machserial.reason = 'of the session'")
    call(plant, verb, serial_id=serial_id, reason=None)
    assert state(plant, serial_id)[1] == "of the session"


def test_a_verb_leaves_the_session_s_reason_as_it_was(plant):
    for before in ("", "of the session"):
        plant.execute("select set_config('machserial.reason', %s, false)", (before,))
        call(plant, "retire_serial", serial_id=make(plant, f"N-{before}"), reason="its own")
        assert value(plant, "select current_setting('machserial.reason')") == before
        with refused(plant, "P0002"):
            call(plant, "retire_serial", serial_id=4711, reason="its own")
        assert value(plant, "select current_setting('machserial.reason')") == before


def test_a_reason_is_only_text(plant):
    for number, hostile in enumerate(HOSTILE):
        serial_id = make(plant, f"N{number}")
        call(plant, "retire_serial", serial_id=serial_id, reason=hostile)
        assert state(plant, serial_id)[1] == hostile
        with refused(plant, "55000") as refusal:
            call(plant, "retire_serial", serial_id=serial_id, reason="again")
        assert hostile in refusal.detail


# Two sessions


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_serial_is_ended_once_by_whoever_comes_first(plant, connect, ending):
    serial_id = make(plant, "N")
    plant.commit()
    first, second = connect(), connect()
    call(first, "retire_serial", serial_id=serial_id, reason="first")
    with ThreadPoolExecutor(1) as background:
        waiting = background.submit(call, second, "retire_serial", serial_id=serial_id, reason="second")
        getattr(first, ending)()
        if ending == "commit":
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="RETIRED already"):
                waiting.result(60)
        else:
            waiting.result(60)
    second.commit()
    assert state(plant, serial_id)[1] == ("first" if ending == "commit" else "second")


# Kept


def test_serials_are_never_removed(plant):
    make(plant, "N")
    for statement in (
        "delete from machserial.serials",
        "delete from machserial.serials where false",
        "truncate machserial.serials cascade",
        "delete from machserial.system_generated_serials",
    ):
        with refused(plant, "55000") as refusal:
            plant.execute(statement)
        assert "retire_serial" in refusal.hint
    assert value(plant, "select count(*) from machserial.serials") == 1


def test_what_is_imported_may_be_in_any_state(plant):
    with plant.cursor().copy("copy machserial.serials (serial_number, part_id, status) from stdin") as rows:
        for status in STEPS:
            rows.write_row((f"N {status}", "P", status))
    assert sorted(column(plant, "select status from machserial.serials")) == sorted(STEPS)
    with violated(plant, "23514"):
        make(plant, "N", "LOST")


# Events


def test_every_change_is_an_event_with_old_and_new_values_whatever_its_size(plant):
    many = [f"N{number:05}" for number in range(10_000)]
    register(plant, many)
    single = make(plant, "N")
    step(plant, single, "lot_number = 'L1'")
    step(plant, single, "lot_number = 'L1'")
    assert events(plant, single) == [("SERIAL_UPDATED", None, {"lot_number": {"old": None, "new": "L1"}})]
    # Planned for the one row before: a loop within a loop would not come to an end.
    plant.execute("set local statement_timeout = '60s'")
    plant.execute("set local machserial.reason = 'recall'")
    plant.execute("update machserial.serials set status = 'RETIRED' where lot_number is null")
    assert plant.execute(
        "select event_type, reason, details, count(distinct serial_id) from machserial.audit_events "
        "where event_type = 'SERIAL_RETIRED' group by 1, 2, 3"
    ).fetchall() == [("SERIAL_RETIRED", "recall", {"status": {"old": "ACTIVE", "new": "RETIRED"}}, 10_000)]


def test_only_what_has_ended_gives_its_number_up(plant):
    for status in STEPS:
        if status in ("RETIRED", "INVALID"):
            make(plant, status, status, claim_released=True)
        else:
            with violated(plant, "23514"):
                make(plant, status, status, claim_released=True)


def test_a_claim_is_not_let_go_by_the_way(plant):
    serial_id = make(plant, "N", "RETIRED")
    with refused(plant, "55000"):
        step(plant, serial_id, "scopes = '{SITE}'")
    step(plant, serial_id, "scopes = '{ENTERPRISE,SITE,PART_TYPE}'")
