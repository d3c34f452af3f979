"""Many counters on servers with PostgreSQL's own settings, whose lock table has room for about 10,000 objects."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from command import OK, REFUSED, Command
from conftest import BUILD, install
from servers import Server, choose_bin
from support import call, column, generated, make_format, make_part, value

ONE_MODE = True
PARTS = 3000
PATTERN = "{PART}-{YYYY}{MM}{DD}-{SEQ:4}"
SEQUENCES = "select count(*) from pg_class where relkind = 'S' and relname ~ '^counter_[0-9]+$'"
COUNT_FOR_ALL = "select count(g.serial_number) from machserial.parts as p cross join machserial.generate(p.id) as g"


@contextmanager
def running(config: pytest.Config, **settings: str) -> Iterator[Server]:
    with Server(choose_bin(config.getoption("--pg-bin")), **settings) as server:
        server.install_extension(BUILD)
        server.execute("create database deployed")
        with psycopg.connect(server.dsn("deployed")) as connection:
            install(connection, "extension")
        yield server


@pytest.fixture(scope="module")
def usual_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.config, max_connections="100") as server:
        yield server


@pytest.fixture
def connect(usual_server: Server) -> Iterator[Callable[[], psycopg.Connection]]:
    """connect(): a session that commits each statement, in a database of the test's own."""
    usual_server.execute("create database plant template deployed")
    with ExitStack() as sessions:
        yield lambda: sessions.enter_context(psycopg.connect(usual_server.dsn("plant"), autocommit=True))
    usual_server.execute("drop database plant with (force)")


@pytest.fixture
def plant(connect) -> psycopg.Connection:
    return connect()


@pytest.fixture
def command(usual_server: Server, plant: psycopg.Connection) -> Command:
    return Command(usual_server.dsn("plant"))


def make_parts(plant: psycopg.Connection, count: int) -> None:
    plant.execute(
        "insert into machserial.parts (id, part_type) select 'P' || n, 'T' from generate_series(1, %s) as n", (count,)
    )


def let_pass(plant: psycopg.Connection, days: int) -> None:
    """As if what has been counted had been counted so many days earlier."""
    plant.execute("update machserial.counters set period = 'at ' || id where period <> ''")
    plant.execute(
        "update machserial.counters set period_starts = period_starts - %(days)s, "
        "period = to_char(period_starts - %(days)s, 'YYYY-MM-DD') where period <> ''",
        {"days": days},
    )


def remaining(plant: psycopg.Connection) -> int:
    return sum(row.remaining for row in call(plant, "maintain"))


def test_what_the_server_has_room_for(plant):
    """The other tests mean something: twelve locks a part in one transaction are too many."""
    for each in (2, 12):
        locks = f"select count(pg_advisory_xact_lock(n)) from generate_series(1, {each * PARTS}) as n"
        if each == 2:
            plant.execute(locks)
            continue
        with pytest.raises(psycopg.errors.OutOfMemory):
            plant.execute(locks)


def test_thousands_of_parts_that_count_each_day(plant, command):
    make_parts(plant, PARTS)
    make_format(plant, "F", PATTERN, counter_per="PART", reset="DAILY")
    plant.execute("select machserial.assign_format(p.id, 'F') from machserial.parts as p")
    assert value(plant, SEQUENCES) == 0
    # Each has counted to 2 three weeks ago, and nothing has been maintained since.
    plant.execute(
        """
        insert into machserial.counters (format_id, part_id, period, period_starts, first_value, has_runway)
        select f.id, p.id, to_char(d.day, 'YYYY-MM-DD'), d.day, 1, true
        from machserial.parts as p, machserial.serial_formats as f, (select now()::date - 21 as day) as d
        """
    )
    plant.execute(
        """
        do $$ begin
            for n in 1..3000 loop
                execute format('create sequence machserial.counter_%s minvalue 0 maxvalue 9999 start 0', n);
                perform setval(format('machserial.counter_%s', n)::regclass, 2);
            end loop;
        end $$
        """
    )
    call(plant, "register_site", site_id="NEW")
    assert value(plant, SEQUENCES) == PARTS
    # Each call gets somewhere, and the command to the end.
    most = value(plant, "select machserial._objects_per_call()")
    assert remaining(plant) == value(plant, SEQUENCES) == PARTS - most
    done = {row["task"]: row for row in command.answer("maintain")}
    assert done["counters retired"]["done"] == PARTS - most
    assert {row["remaining"] for row in done.values()} == {0}
    assert value(plant, SEQUENCES) == 0
    # What they have given is not forgotten.
    assert column(plant, "select last_value from machserial.counters") == PARTS * [2]
    assert generated(plant, "P7")[0].endswith("-0001")
    assert call(plant, "integrity") == []


def test_a_site_where_thousands_of_parts_could_be_counted(plant):
    make_parts(plant, 2700)
    make_format(plant, "F", "{SITE}" + PATTERN, counter_per="SITE_PART", reset="DAILY")
    plant.execute("select machserial.assign_format(p.id, 'F') from machserial.parts as p")
    for number in range(3):
        call(plant, "register_site", site_id=f"SITE{number}")
    assert value(plant, "select count(*) from machserial.counters") == 0
    assert generated(plant, "P1", site_id="SITE2")[0].endswith("-0001")
    assert value(plant, SEQUENCES) == 1


def test_a_key_holds_three_sequences(plant):
    make_parts(plant, 3)
    make_format(plant, "F", PATTERN, counter_per="PART", reset="DAILY")
    plant.execute("select machserial.assign_format(p.id, 'F') from machserial.parts as p")
    held = []
    for _ in range(5):
        for _ in range(2):
            plant.execute(COUNT_FOR_ALL)
        assert remaining(plant) == 0
        held.append(value(plant, SEQUENCES) / 3)
        let_pass(plant, 1)
    assert held == [2, 3, 3, 3, 3]
    # A pause of some days, a weekend: today and tomorrow are there for what was counted lately, not for ever.
    for days, expected in ((3, 2), (8, 0)):
        let_pass(plant, days)
        assert remaining(plant) == 0
        assert value(plant, SEQUENCES) / 3 == expected


def test_a_version_that_was_replaced_keeps_no_sequences(plant):
    make_part(plant)
    make_format(plant, "F", "F{PART}-{SEQ:4}", counter_per="PART")
    generated(plant, quantity=7, format="F")
    call(plant, "revise_format", name="F", pattern="G{PART}-{SEQ:4}")
    generated(plant, format="F")
    call(plant, "maintain")
    # Transactions may still run that began with the old one.
    assert value(plant, SEQUENCES) == 2
    plant.execute("set session_replication_role = replica")
    plant.execute("update machserial.serial_formats set created_at = created_at - interval '25 hours'")
    plant.execute("set session_replication_role = origin")
    call(plant, "maintain")
    assert value(plant, SEQUENCES) == 1
    # A part that comes to be counted only now begins where the old version would.
    assert generated(plant, format="F") == ["GP-0009"]
    assert call(plant, "integrity") == []


def test_a_sequence_that_is_used_is_left_for_the_next_time(plant, connect):
    make_parts(plant, 2)
    make_format(plant, "F", PATTERN, counter_per="PART", reset="DAILY")
    plant.execute("select machserial.assign_format(p.id, 'F') from machserial.parts as p")
    other = connect()
    other.execute("begin")
    let_pass(other, 0)
    generated(other, "P1")
    other.execute("commit")
    generated(plant, "P2")
    let_pass(plant, 21)
    other.execute("begin")
    counter = value(other, "select min(id) from machserial.counters")
    assert value(other, f"select nextval('machserial.counter_{counter}')") == 2
    assert remaining(plant) == 1
    assert column(plant, "select retired_at is null from machserial.counters order by id") == [True, False]
    other.execute("commit")
    assert remaining(plant) == 0
    assert column(plant, "select last_value from machserial.counters order by id") == [2, 1]


def locked(plant: psycopg.Connection) -> int:
    """How many objects of this database another session holds."""
    return value(
        plant,
        "select coalesce(max(l.objects), 0) from (select count(distinct relation) as objects from pg_locks "
        "where pid <> pg_backend_pid() and relation >= 16384 group by pid) as l",
    )


def await_fullest(count: Callable[[], int], still: float = 0.5) -> None:
    """Until the count is more than nothing, and has not changed for so many seconds."""
    last, since = 0, time.monotonic()
    while not last or time.monotonic() - since < still:
        if (now := count()) != last:
            last, since = now, time.monotonic()
        assert time.monotonic() - since < 60, "nothing is locked"
        time.sleep(0.01)


def test_a_backup_that_runs_is_not_robbed_of_its_sequences(plant, command, usual_server):
    make_part(plant)
    make_format(plant, "F", PATTERN, counter_per="PART", reset="DAILY")
    generated(plant, format="F")
    let_pass(plant, 21)
    [told] = call(plant, "health_check", name="lock_table")
    expected = int(re.search(r"takes ([0-9]+) locks", told.message)[1])
    # It blocks when the pipe is full, holding what it holds to its end.
    with subprocess.Popen(
        [usual_server.tool("pg_dump"), "--dbname", usual_server.dsn("plant")], stdout=subprocess.PIPE
    ) as pg_dump:
        await_fullest(lambda: locked(plant))
        assert pg_dump.poll() is None
        assert value(plant, "select machserial._is_being_dumped()")
        result = command.run("maintain")
        assert result.exit_code == OK
        assert "a backup is running" in result.stderr
        assert value(plant, SEQUENCES) == 1
        # What the formula says is what is locked; from PostgreSQL 18 on no views and no sequences.
        if plant.info.server_version >= 180000:
            expected = value(plant, "select count(*) from pg_class where relkind in ('r', 'p') and oid >= 16384")
        assert locked(plant) == expected
        pg_dump.stdout.read()
    assert pg_dump.returncode == 0
    assert command.run("maintain").stderr == ""
    assert value(plant, SEQUENCES) == 0


def test_the_last_value_of_a_counter_that_is_retired_meanwhile(plant, connect):
    make_part(plant)
    make_format(plant, "F", PATTERN, counter_per="PART", reset="DAILY")
    generated(plant, quantity=5, format="F")
    let_pass(plant, 21)
    plant.execute("select pg_advisory_lock(1)")
    with ThreadPoolExecutor() as threads:
        slow = connect()
        reading = threads.submit(
            column, slow,
            "select machserial._last_value(c.id) from machserial.counters as c "
            "cross join lateral (select pg_advisory_xact_lock(1), c.id offset 0) as l",
        )  # fmt: skip
        while not value(plant, "select count(*) from pg_locks where locktype = 'advisory' and not granted"):
            time.sleep(0.01)
        assert remaining(plant) == 0
        plant.execute("select pg_advisory_unlock(1)")
        assert reading.result(60) == [5]


@pytest.fixture(scope="module")
def tiny_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.config, max_connections="20", max_locks_per_transaction="20") as server:
        yield server


@pytest.fixture
def tiny(tiny_server: Server) -> Iterator[Command]:
    """The command at a database of a server whose lock table is a sixteenth of the usual one."""
    tiny_server.execute("create database tiny template deployed")
    yield Command(tiny_server.dsn("tiny"))
    tiny_server.execute("drop database tiny with (force)")


def test_a_site_gets_as_many_counters_as_a_call_may_make(tiny):
    """The others are made where they are used."""
    with psycopg.connect(tiny.dsn, autocommit=True) as plant:
        make_part(plant)
        most = value(plant, "select machserial._objects_per_call()")
        for number in range(most + 1):
            make_format(plant, f"F{number}", "{SITE}-{SEQ:4}", counter_per="SITE")
        assert value(plant, SEQUENCES) == most + 1
        call(plant, "register_site", site_id="NEW")
        # Registering it again, as an import does each night, makes no more.
        call(plant, "register_site", site_id="NEW")
        assert value(plant, SEQUENCES) == 2 * most + 1
        assert [generated(plant, format=f"F{number}", site_id="NEW")[0] for number in (0, most)] == [
            "NEW-0001", "NEW-0002"
        ]  # fmt: skip


def test_counters_for_tomorrow_are_made_in_steps(tiny):
    with psycopg.connect(tiny.dsn, autocommit=True) as plant:
        most = value(plant, "select machserial._objects_per_call()")
        make_parts(plant, most + 5)
        make_format(plant, "F", PATTERN, counter_per="PART", reset="DAILY")
        plant.execute("select machserial.assign_format(p.id, 'F') from machserial.parts as p")
        for _ in range(2):
            plant.execute(COUNT_FOR_ALL)
        let_pass(plant, 3)
        # Today's and tomorrow's; those of three days ago go.
        made = 2 * (most + 5)
        [(first, left)] = [(row.done, row.remaining) for row in call(plant, "maintain") if row.task.endswith("ahead")]
        assert (first, left) == (most, made - most)
        done = {row["task"]: row for row in tiny.answer("maintain")}
        assert done["counters made ahead"] == {"task": "counters made ahead", "done": left, "remaining": 0}
        assert value(plant, SEQUENCES) == made


def test_more_counters_than_locks_can_be_looked_at(tiny):
    """Who looks at a counter does not keep it. Else health() could not even say that there are too many."""
    count = 2000
    with psycopg.connect(tiny.dsn, autocommit=True) as plant:
        make_parts(plant, count)
        make_format(plant, "F", "{PART}-{SEQ:4}", counter_per="PART")
        plant.execute(
            "insert into machserial.counters (format_id, part_id, first_value, has_runway) "
            "select f.id, p.id, 1, true from machserial.parts as p, machserial.serial_formats as f"
        )
        for first in range(1, count, 250):
            plant.execute(
                f"do $$ begin for n in {first}..{first + 249} loop "
                "perform machserial._create_sequence(n, 1); end loop; end $$"
            )
        generated(plant, "P7", quantity=3, format="F")
        with pytest.raises(psycopg.errors.OutOfMemory):
            plant.execute(
                "select count(pg_sequence_last_value(machserial._sequence(c.id))) from machserial.counters as c"
            )
        assert column(plant, "select last_value from machserial.counter_status() where last_value > 0") == [3]
        found = {row.name: row for row in call(plant, "health")}
        assert found["counter_used"].status == "OK" and found["lock_table"].status == "CRITICAL"
        assert call(plant, "integrity") == []
        call(plant, "pause", reason="restored", until_fenced=True)
        assert value(plant, "select count(*) from machserial.unfenced_counters()") == count


def test_a_backup_that_does_not_fit_says_what_to_raise(tiny, tmp_path: Path):
    [before] = tiny.answer("health", "--check", "lock_table")
    for n in range(0, 5000, 100):
        tiny.query(
            f"do $$ begin for i in {n}..{n + 99} loop execute 'create table public.s' || i || ' ()'; end loop; end $$"
        )
    result = tiny.run("--json", "health", "--check", "lock_table")
    [after] = json.loads(result.stdout)
    assert after["status"] == "CRITICAL" and "max_locks_per_transaction = " in after["remedy"]
    assert after["value"] == pytest.approx(before["value"] + 100 * 5000 / 400, abs=1)
    line = tiny.refusal(REFUSED, "backup", str(tmp_path / "x"))
    assert "raise max_locks_per_transaction" in line and "lock_table" in line
    assert list(tmp_path.iterdir()) == []
