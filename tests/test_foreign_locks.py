"""Advisory locks that somebody holds who may do nothing but connect: he is named, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from command import Command
from support import call, generated, make_format, make_part, value

ONE_MODE = True
Connect = Callable[..., psycopg.Connection]
SEALING = "hashtext('machserial.seal'), 0"
DRAWING = "hashtext('machserial.block'), hashint8((select id from machserial.counters))"
MOVING = "hashtext('machserial.counter'), hashint8((select id from machserial.counters))"


@pytest.fixture
def plant(connection: psycopg.Connection) -> psycopg.Connection:
    """A plant with one counter; no call waits for longer than a second."""
    make_format(connection, "F", "F-{SEQ:6}")
    make_part(connection)
    call(connection, "assign_format", part_id="P", format="F")
    generated(connection)
    connection.execute("update machserial.settings set value = '1' where name = 'lock_wait'")
    connection.commit()
    connection.autocommit = True
    return connection


@pytest.fixture
def intruder(plant: psycopg.Connection, connect: Connect) -> Iterator[psycopg.Connection]:
    """A session of a role that may connect, and nothing else."""
    plant.execute("create role mallory login")
    session = connect(user="mallory", application_name="planted", autocommit=True)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("select * from machserial.counters")
    yield session


def hold(plant: psycopg.Connection, session: psycopg.Connection, keys: str, function: str = "pg_advisory_lock") -> None:
    first, second = plant.execute(f"select {keys}").fetchone()
    session.execute(f"select {function}(%s, %s)", (first, second))


def rest(plant: psycopg.Connection, seconds: float = 1.1) -> None:
    plant.execute("select pg_sleep(%s)", (seconds,))


def named(plant: psycopg.Connection) -> tuple[object, object]:
    return call(plant, "health_check", name="foreign_locks")[0], call(plant, "ready")[0]


@pytest.mark.parametrize(("keys", "status"), [(SEALING, "WARNING"), (DRAWING, "CRITICAL")])
def test_a_session_that_holds_a_lock_is_named_with_what_ends_it(plant, intruder, deployed_dsn, keys, status):
    check, ready = named(plant)
    assert (check.status, check.value, ready.status) == ("OK", 0, "OK")
    pid = intruder.info.backend_pid
    hold(plant, intruder, keys)
    rest(plant)
    check, ready = named(plant)
    assert (check.status, check.value, ready.status) == (status, 1, "WARNING")
    for result in (check, ready):
        assert f"process {pid} of mallory (planted)" in result.message
        assert result.remedy == f"select pg_terminate_backend({pid});"
    shown = Command(deployed_dsn)
    (row,) = shown.answer("connections")["locks"]
    assert f"process {pid} of mallory" in row["holder"] and row["ending"] == ready.remedy
    assert f"pg_terminate_backend({pid})" in shown.run("connections").stdout
    # What is said ends it.
    plant.execute(ready.remedy)
    rest(plant, 0.1)
    assert [result.status for result in named(plant)] == ["OK", "OK"]
    assert shown.answer("connections")["locks"] == []


def test_who_may_not_see_what_others_do_is_told_as_well(plant, intruder, connect):
    """Neither the viewer nor an ordinary owner may see since when a session is idle."""
    call(plant, "create_roles")
    plant.execute("create role onlooker login in role machserial_viewer")
    onlooker = connect(user="onlooker", autocommit=True)
    assert [result.status for result in named(onlooker)] == ["OK", "OK"]
    intruder.execute("begin")
    hold(plant, intruder, SEALING)
    check, ready = named(onlooker)
    assert (check.status, ready.status) == ("WARNING", "WARNING")
    assert str(intruder.info.backend_pid) in ready.message
    intruder.execute("commit")
    assert named(onlooker)[1].status == "WARNING"
    intruder.execute("select pg_advisory_unlock_all()")
    assert named(onlooker)[1].status == "OK"


def test_who_seals_or_keeps_a_plan_is_not_named(plant, connect):
    """Negative control: what a call of machserial holds, for as long as it may."""
    for statement in ("select machserial.seal_audit()", "select machserial.generate('P', format => 'F')"):
        with connect() as session:
            session.execute(statement)
            held = value(
                plant,
                "select count(*) from pg_locks where locktype = 'advisory' and pid = %s",
                session.info.backend_pid,
            )
            assert held > 0
            assert [result.status for result in named(plant)] == ["OK", "OK"]
    plant.execute("update machserial.settings set value = '2' where name = 'lock_wait'")
    with connect() as sealer:
        sealer.execute("select machserial.seal_audit()")
        assert named(plant)[0].status == "OK"
        # Sealed long ago, and forgotten.
        rest(plant, 2.1)
        assert named(plant)[0].status == "WARNING"


@pytest.mark.parametrize(
    ("keys", "function"),
    [(DRAWING, "pg_advisory_lock"), (DRAWING, "pg_advisory_lock_shared"), (MOVING, "pg_advisory_lock")],
)
def test_waiting_ends_and_names_who_is_waited_for(plant, intruder, keys, function):
    hold(plant, intruder, keys, function)
    if (keys, function) == (DRAWING, "pg_advisory_lock"):
        statement = "select machserial.generate('P', 3)"
    else:
        statement = "select machserial.allocate_block('F', 5, 'line')"
    with pytest.raises(psycopg.errors.LockNotAvailable) as refusal:
        plant.execute(statement)
    said = refusal.value.diag
    pid = intruder.info.backend_pid
    assert "waited 1 s" in said.message_primary
    assert f"process {pid} of mallory (planted)" in said.message_detail
    assert f"select pg_terminate_backend({pid});" in said.message_hint
    assert value(plant, "show lock_timeout") == "0"
    intruder.execute("select pg_advisory_unlock_all()")
    plant.execute(statement)
    assert value(plant, "show lock_timeout") == "0"


def test_a_single_number_waits_no_longer_and_a_shorter_timeout_of_the_caller_holds(plant, intruder):
    hold(plant, intruder, DRAWING)
    plant.execute("update machserial.settings set value = '3600' where name = 'lock_wait'")
    plant.execute("set lock_timeout = '200ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable) as refusal:
        generated(plant)
    assert "waited 0.2 s" in refusal.value.diag.message_primary and "mallory" in refusal.value.diag.message_detail
    assert value(plant, "show lock_timeout") == "200ms"


def test_whoever_waits_for_a_gapless_row_waits_for_it(plant, connect):
    """Negative control: lock_wait is for advisory locks only."""
    make_format(plant, "G", "G-{SEQ:6}", allocation="GAPLESS")
    with connect() as first:
        generated(first, format="G")
        plant.execute("set lock_timeout = '1500ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable) as refusal:
            generated(plant, format="G")
    assert "waited" not in refusal.value.diag.message_primary
