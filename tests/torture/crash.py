"""kill -9 of the server, of its backends and of its helpers, under writers of every kind.

After each recovery the ledgers of the writers are held against the database (tests/torture/reckoning.py).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import psycopg
from servers import ServerError

from torture import Part, Run
from torture.crew import Crew
from torture.plant import build
from torture.reckoning import reckon
from torture.run import ReadyServer

# As in production where it matters, and small where that makes more happen in a second.
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
    "autovacuum_naptime": "1s",
    "autovacuum_vacuum_threshold": "20",
    "shared_buffers": "8MB",
    "checkpoint_timeout": "30s",
    "max_wal_size": "8MB",
    "min_wal_size": "2MB",
    "bgwriter_delay": "10ms",
    "wal_writer_delay": "10ms",
    "restart_after_crash": "on",
    "deadlock_timeout": "100ms",
    "statement_timeout": "600s",
}
WRITERS = 6
# Every cycle begins with so many acknowledged transactions at least.
BEFORE_A_KILL = 25


# Segments of WAL of 1 MB, which are switched, recycled and checkpointed all the time.
INITDB_OPTIONS = ("--wal-segsize=1",)


@contextlib.contextmanager
def plant(run: Run, **settings: str) -> Iterator[tuple[ReadyServer, str]]:
    """A running server with the plant, and its connection string."""
    server = run.server(**{**SETTINGS, **settings})
    server.initdb_options = INITDB_OPTIONS
    with server:
        dsn = server.dsn("postgres")
        with psycopg.connect(dsn) as session:
            build(session)
        yield server, dsn


# Each way to end a server says what it did, and returns when it runs again or has to be started.


def kill_everything(server: ReadyServer, dice: random.Random) -> str:
    server.kill(with_children=True)
    return "kill -9 of the postmaster and all of its processes"


def kill_postmaster(server: ReadyServer, dice: random.Random) -> str:
    server.kill(with_children=False)
    return "kill -9 of the postmaster"


def kill_a_writers_backend(server: ReadyServer, dice: random.Random) -> str:
    return kill_one_of(server, dice, lambda title: title.startswith("postgres postgres"))


def kill_a_helper(server: ReadyServer, dice: random.Random) -> str:
    return kill_one_of(server, dice, lambda title: not title.startswith("postgres postgres"))


def kill_one_of(server: ReadyServer, dice: random.Random, wanted: object) -> str:
    """kill -9 of one process: the postmaster notices, ends all others, and recovers."""
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as witness:
        own = witness.info.backend_pid
        choice = sorted((pid, title) for pid, title in server.children().items() if pid != own and wanted(title))
        pid, title = dice.choice(choice)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        await_end_of(witness)
    return f"kill -9 of {title}"


def await_end_of(witness: psycopg.Connection) -> None:
    """Returns when the server has thrown this session out."""
    for _ in range(2000):
        try:
            witness.execute("select 1")
        except psycopg.Error:
            return
        time.sleep(0.01)
    raise AssertionError("the server did not notice that one of its processes was killed")


def stop_immediately(server: ReadyServer, dice: random.Random) -> str:
    server.process.send_signal(signal.SIGQUIT)
    server.process.wait(30)
    return "immediate shutdown"


def stop_fast(server: ReadyServer, dice: random.Random) -> str:
    server.process.send_signal(signal.SIGINT)
    server.process.wait(60)
    return "fast shutdown"


# How, and how often.
WAYS = {
    kill_everything: 6,
    kill_postmaster: 3,
    kill_a_writers_backend: 4,
    kill_a_helper: 3,
    stop_immediately: 2,
    stop_fast: 1,
}


def strike(server: ReadyServer, dice: random.Random, way: object = None) -> str:
    """Ends the server in one way or another, sometimes again while it recovers; it runs again when this returns."""
    way = way or dice.choices(list(WAYS), WAYS.values())[0]
    done = way(server, dice)
    if server.process.poll() is None:
        server._await_readiness()
        return done
    if dice.random() < 0.3:
        # As soon as it has begun to recover, or when it has just come up.
        delay = dice.random() * 0.4
        timer = threading.Timer(delay, server.kill_now)
        timer.start()
        with contextlib.suppress(ServerError):
            server.relaunch()
        timer.join()
        server.kill()
        done += f", and again after {delay:.2f} s of recovery"
    server.relaunch()
    return done


def torture(run: Run) -> None:
    with plant(run) as (server, dsn):
        with Crew(run, dsn, WRITERS) as crew:
            for cycle in run.cycles():
                dice = run.dice(cycle)
                crew.await_more(BEFORE_A_KILL + dice.randrange(50))
                if dice.random() < 0.2:
                    crew.kill_one(dice.randint(1, WRITERS))
                done = strike(server, dice)
                reckon(run, crew, dsn, cycle=cycle, what=done)
            # What can be done at the end can be done as well as at the beginning.
            crew.await_more(BEFORE_A_KILL)
            reckon(run, crew, dsn, what="after the last cycle")
        look_into_log(run, server)


def look_into_log(run: Run, server: ReadyServer) -> None:
    log = server.whole_log()
    bad = [line for line in log.splitlines() if "PANIC:" in line or "TRAP:" in line]
    for line in bad[:3]:
        run.finding(f"the server says: {line}")
    if run.findings:
        (run.folder / "server.log").write_text(log)


# The controls: each breaks what one promise rests on. What the operating system has, it keeps when a process is
# killed, so they need not wait for the disk.

FOR_CONTROLS = {"fsync": "off"}
CONTROL_WRITERS = 3
BEFORE_A_CONTROL = 12


def without_synchronous_commit(run: Run) -> None:
    """The newest acknowledged transactions are in memory only, for 10 s."""
    lazy = {**FOR_CONTROLS, "synchronous_commit": "off", "wal_writer_delay": "10s", "wal_writer_flush_after": "0"}
    # Who writes a page out writes its WAL out first.
    lazy |= {"shared_buffers": "128MB", "bgwriter_lru_maxpages": "0", "autovacuum": "off"}
    with plant(run, **lazy) as (server, dsn):
        crash_once(run, server, dsn)


def before_commit(run: Run) -> None:
    """An application prints the label as soon as generate() has answered."""
    with plant(run, **FOR_CONTROLS) as (server, dsn):
        crash_once(run, server, dsn, is_eager=True)


def crash_once(run: Run, server: ReadyServer, dsn: str, **options: object) -> None:
    with Crew(run, dsn, CONTROL_WRITERS, keeper=False, **options) as crew:
        for cycle in run.cycles():
            crew.await_more(BEFORE_A_CONTROL)
            server.kill()
            server.relaunch()
            reckon(run, crew, dsn, cycle=cycle)


def without_claim_index(run: Run) -> None:
    """Nothing refuses a duplicate, but applications look first, and are told that the number is free."""
    with plant(run, **FOR_CONTROLS) as (_, dsn):
        with psycopg.connect(dsn) as session:
            session.execute(f"drop index {', '.join(claim_indexes(session))}")
        with Crew(run, dsn, CONTROL_WRITERS, keeper=False, verbs=["look_before_registering"]) as crew:
            for cycle in run.cycles():
                crew.await_more(BEFORE_A_CONTROL)
                reckon(run, crew, dsn, cycle=cycle)


def claim_indexes(session: psycopg.Connection) -> list[str]:
    """The unique indexes that decide whose a number is."""
    return [
        name
        for (name,) in session.execute(
            "select i.indexrelid::regclass::text from pg_index as i "
            "where i.indrelid = 'machserial.serials'::regclass and i.indisunique and i.indpred is not null"
        )
    ]


PART = Part(
    title="kill -9: nothing acknowledged is lost, nothing is issued twice, no gap, no event without its change",
    torture=torture,
    controls={
        "synchronous_commit is off": without_synchronous_commit,
        "numbers are used before they are committed": before_commit,
        "no claim index decides, and a look at the registry says free": without_claim_index,
    },
)
