"""Paused: reads go on, new numbers are refused with the reason, whichever way they come."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest
from command import PRIVILEGE, REFUSED, USAGE, Command, machserial
from psycopg import errors
from support import call, generated, make_format, make_part, preview, refused, register, value

REASON = "audit of line 3"


def build_plant(connection):
    """Part P with a format for every way to count, a block, an unassigned placeholder."""
    make_part(connection)
    make_format(connection, "F", "F{SEQ:6}")
    make_format(connection, "GAPLESS", "G{SEQ:6}", allocation="GAPLESS")
    make_format(connection, "DAILY", "{YYYY}{DDD}{SEQ:6}", reset="DAILY")
    make_format(connection, "RANDOM", "{RANDOM:12}")
    call(connection, "assign_format", part_id="P", format="F")
    call(connection, "create_placeholders", part_id="P", quantity=2, work_order_id="WO")
    call(connection, "allocate_block", format="F", quantity=5, holder="LINE", part_id="P", request_id="block")
    call(
        connection, "create_trigger", part_id="P", trigger_type="WORK_ORDER_CREATE", assignment_type="SYSTEM_GENERATED"
    )
    for name in ("F", "GAPLESS", "DAILY"):
        generated(connection, quantity=2, format=name, request_id=name)


pytestmark = [pytest.mark.own_database, pytest.mark.prepared(setup=build_plant)]


@pytest.fixture
def plant(connection):
    return connection


@pytest.fixture
def paused(plant):
    call(plant, "pause", reason=REASON)
    plant.commit()
    return plant


def placeholder(connection) -> int:
    return value(connection, "select min(id) from machserial.late_assignment_placeholders where serial_id is null")


def copy_in(connection) -> None:
    with connection.cursor().copy("copy machserial.serials (serial_number, part_id) from stdin") as target:
        target.write_row(("C1", "P"))


ISSUING = {
    "generate": lambda c: generated(c, quantity=3),
    "generate gapless": lambda c: generated(c, format="GAPLESS"),
    "generate daily": lambda c: generated(c, format="DAILY"),
    "generate random": lambda c: generated(c, format="RANDOM"),
    "generate by a pattern that is new": lambda c: generated(c, pattern="NEW{SEQ:3}"),
    "generate many": lambda c: generated(c, quantity=500),
    "generate with a new request": lambda c: generated(c, request_id="another"),
    "register": lambda c: register(c, ["R1"]),
    "register, conflicts recorded": lambda c: register(c, ["F000006"], on_conflict="RECORD"),
    "receive": lambda c: call(c, "receive_vendor_serial", serial_number="V1", vendor_name="V", part_id="P"),
    "receive many": lambda c: call(
        c, "receive_vendor_serials", vendor_name="V", part_id="P", serial_numbers=["V1", "V2"]
    ),
    "allocate a block": lambda c: call(c, "allocate_block", format="F", quantity=5, holder="LINE", part_id="P"),
    "report a block": lambda c: call(c, "report_block", block_id=1, used=["F000001"]),
    "assign a placeholder": lambda c: call(c, "assign_placeholder", placeholder_id=placeholder(c)),
    "assign a placeholder by hand": lambda c: call(
        c, "assign_placeholder", placeholder_id=placeholder(c), serial_number="H1"
    ),
    "assign placeholders": lambda c: call(c, "assign_placeholders", work_order_id="WO"),
    "fire": lambda c: call(c, "fire", trigger_type="WORK_ORDER_CREATE", part_id="P", quantity=2),
    "insert": lambda c: c.execute("insert into machserial.serials (serial_number, part_id) values ('I1', 'P')"),
    "insert nothing": lambda c: c.execute(
        "insert into machserial.serials (serial_number, part_id) select 'x', 'P' where false"
    ),
    "copy": copy_in,
}


def counters(connection) -> list[tuple]:
    return connection.execute("select format, period, last_value from machserial.counter_status()").fetchall()


@pytest.mark.parametrize("way", ISSUING)
def test_new_numbers_are_refused(paused, way):
    before = counters(paused)
    with refused(paused, "55000") as why:
        ISSUING[way](paused)
    assert "paused" in why.message
    assert REASON in why.detail
    assert "postgres" in why.detail
    assert "resume" in why.hint
    paused.rollback()
    # Not a single value is consumed.
    assert counters(paused) == before


@pytest.mark.parametrize("way", ISSUING)
def test_after_it_everything_works(paused, way):
    call(paused, "resume", reason="done")
    ISSUING[way](paused)


def test_reads_and_administration_go_on(paused):
    assert call(paused, "find_serial", serial_number="F000006")
    assert preview(paused, "X{SEQ:3}")
    assert call(paused, "counter_status")
    assert call(paused, "maintain")
    make_part(paused, "Q")
    make_format(paused, "MADE MEANWHILE", "M{SEQ:5}")
    call(paused, "assign_format", part_id="Q", format="MADE MEANWHILE")
    call(paused, "create_placeholders", part_id="P")
    serial_id = value(paused, "select min(id) from machserial.serials")
    call(paused, "retire_serial", serial_id=serial_id, reason="scrapped")
    paused.commit()
    for name in ("MADE MEANWHILE", "F", "DAILY"):
        before = counters(paused)
        with refused(paused, "55000"):
            generated(paused, format=name)
        paused.rollback()
        assert counters(paused) == before
    call(paused, "resume")
    assert generated(paused, "Q") == ["M00001"]


@pytest.mark.parametrize("name", ["F", "GAPLESS", "DAILY"])
def test_a_request_that_was_answered_is_answered_again(plant, name):
    first = generated(plant, quantity=2, format=name, request_id=name)
    call(plant, "pause", reason=REASON)
    assert generated(plant, quantity=2, format=name, request_id=name) == first
    block = call(plant, "allocate_block", format="F", quantity=5, holder="LINE", part_id="P", request_id="block")
    assert block[0].block_id == 1


def test_numbers_go_on_where_they_stood(paused):
    for _ in range(3):
        with refused(paused, "55000"):
            generated(paused)
    call(paused, "resume")
    assert generated(paused, format="F") == ["F000008"]
    assert generated(paused, format="GAPLESS") == ["G000003"]
    # What a pause took from the counters is back.
    assert value(
        paused,
        "select count(*) from machserial.counters as c join machserial.serial_formats as f on f.id = c.format_id "
        "where not c.has_runway and f.reset = 'NEVER'",
    ) == 0  # fmt: skip


def test_it_is_on_record(paused):
    call(paused, "resume", reason="found nothing")
    events = paused.execute(
        "select event_type, reason from machserial.audit_events where event_type in ('PAUSED', 'RESUMED') order by id"
    ).fetchall()
    assert events == [("PAUSED", REASON), ("RESUMED", "found nothing")]
    row = paused.execute("select reason, paused_by, resumed_by, resume_reason from machserial.pauses").fetchone()
    assert row == (REASON, "postgres", "postgres", "found nothing")


def test_the_actor_is_named(plant):
    plant.execute("set local machserial.actor = 'Ada'")
    call(plant, "pause", reason=REASON)
    with refused(plant, "55000") as why:
        generated(plant)
    assert "Ada" in why.detail


def test_while_it_is_not_paused_nothing_is_asked(plant):
    """No trigger is enabled that would run, and generate() does not look into the pauses."""
    enabled = "select tgenabled::text from pg_trigger where tgname like 'new_%%_are_refused_while_paused'"
    assert {row[0] for row in plant.execute(enabled)} == {"D"}
    plant.execute("alter table machserial.pauses rename to elsewhere")
    assert len(generated(plant, quantity=2)) == 2
    assert len(generated(plant, quantity=2, format="GAPLESS")) == 2
    plant.rollback()


@pytest.mark.parametrize(
    ("function", "arguments", "code"), [("pause", {"reason": " "}, "22023"), ("resume", {}, "55000")]
)
def test_refusals(plant, function, arguments, code):
    with refused(plant, code):
        call(plant, function, **arguments)


def test_twice(paused):
    with refused(paused, "55000") as why:
        call(paused, "pause", reason="another")
    assert REASON in why.detail


def test_only_the_owner(plant, server, connect):
    server.execute("create role machserial_test_application login")
    plant.execute("grant usage on schema machserial to machserial_test_application")
    plant.execute("grant execute on all functions in schema machserial to machserial_test_application")
    plant.execute("grant select on all tables in schema machserial to machserial_test_application")
    plant.execute("grant insert on machserial.serials to machserial_test_application")
    plant.commit()
    application = connect(user="machserial_test_application")
    with refused(application, "42501"):
        call(application, "pause", reason=REASON)
    application.rollback()
    call(plant, "pause", reason=REASON)
    plant.commit()
    with refused(application, "55000") as why:
        generated(application)
    assert REASON in why.detail
    application.rollback()
    with refused(application, "42501"):
        call(application, "resume")
    # It may read the pause, not lift it.
    with pytest.raises(errors.InsufficientPrivilege):
        application.execute("update machserial.pauses set resumed_at = now(), resumed_by = 'me'")


def test_who_is_issuing_is_waited_for_half_a_second_only(plant, connect):
    other = connect()
    generated(other)
    started = time.monotonic()
    with pytest.raises(errors.LockNotAvailable):
        call(plant, "pause", reason=REASON)
    assert time.monotonic() - started < 10
    plant.rollback()
    other.commit()
    call(plant, "pause", reason=REASON)


def test_an_older_snapshot_does_not_slip_through(plant, connect):
    other = connect()
    other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    other.execute("select from machserial.parts")
    call(plant, "pause", reason=REASON)
    plant.commit()
    with pytest.raises(errors.SerializationFailure):
        generated(other)


class TestCommand:
    def test_pause_status_resume(self, plant, deployed_dsn):
        command = Command(deployed_dsn)
        assert command.answer("pause", "--status") == {"paused": False}
        assert command.answer("pause", "--reason", REASON)["reason"] == REASON
        assert REASON in command.run("pause", "--status").stdout
        line = command.refusal(REFUSED, "generate", "P")
        assert REASON in line
        assert "remedy:" in line
        assert command.answer("resume", "--reason", "done") == {"paused": False}
        assert command.run("resume").exit_code == REFUSED
        [pause] = command.answer("pause", "--history")
        assert pause["resume_reason"] == "done"
        assert len(command.answer("generate", "P")) == 1
        command.answer("pause", "--reason", REASON)
        assert command.run("resume").stdout == "resumed: numbers are issued again\n"

    def test_it_tries_again_while_others_issue(self, plant, connect, deployed_dsn):
        other = connect()
        generated(other)
        timer = threading.Timer(1.0, other.commit)
        timer.start()
        assert Command(deployed_dsn).answer("pause", "--reason", REASON)["paused"]
        timer.join()

    def test_without_a_reason(self):
        assert machserial("pause").exit_code == USAGE

    def test_who_may_not(self, plant, server, deployed_dsn):
        server.execute("create role machserial_test_nobody login")
        dsn = psycopg.conninfo.make_conninfo(deployed_dsn, user="machserial_test_nobody")
        Command(dsn).refusal(PRIVILEGE, "pause", "--reason", REASON)


def test_a_dump_of_a_paused_database_is_restored_paused(paused, new_database, server, tmp_path):
    dsn = new_database("restored")
    server.dump_and_restore(paused.info.dbname, "restored", tmp_path / "dump", "custom")
    with psycopg.connect(dsn) as restored:
        with refused(restored, "55000") as why:
            generated(restored)
        assert REASON in why.detail
        call(restored, "resume")
        assert generated(restored, format="F") == ["F000008"]
