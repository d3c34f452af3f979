"""Sessions that live for the whole run, on tables that grow under them: what the last calls cost beside the first.

A cycle is every verb of tests/verbs.py once in each session, in any order, for a few rows or for many, while a loader
adds serials by the thousand and a keeper calls maintain(). What people enter (formats, parts, triggers) is called less
often. Afterwards the first tenth of the cycles and the last are compared: latencies, the pages that each verb touches,
the plans that it runs, what a serial takes on disk, dead rows.

How long a call takes depends on what else the machine does: in a run of minutes a verb that has become four times as
slow is a finding, in the short form it is only told.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import statistics
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psycopg
from plans import GROWING, OLD_EXAMINATION, Session, outgrown, shape, whole_readings
from servers import Server
from soundness import findings
from verbs import LOOK_UPS, VERBS, Verb, furnish

from torture import Part, Run

SESSIONS = 3
STEADY = [verb for verb in (*VERBS, *LOOK_UPS) if not verb.reads_all]
ENTRIES = re.compile(r"machserial\.(register_part|\w+_format|\w+_trigger|\w+_vendor_rule|attach|detach)\(")
HOW_OFTEN_ENTRIES = 0.05
FEW, MANY = 3, 60
# Of the short form: it has no time for all verbs.
SO_MANY_IN_SHORT, ALWAYS = 15, "report_block"
LOADED_AT_ONCE = 2_000
# From so many seconds on latencies are judged: so many times as long, and by so many milliseconds.
JUDGED_FROM, TIMES_SLOWER, MILLISECONDS_SLOWER = 120, 4, 20
# What a serial takes on disk, with all that belongs to it, may become so many times as much.
TIMES_LARGER = 1.5
# Writers may meet: that is what these are for.
MEETINGS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable)


@dataclass
class Worker:
    """A session and what its calls took: verb → (cycle, milliseconds)."""

    session: Session
    took: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))

    def cycle(self, run: Run, cycle: int, verbs: list[Verb], dice: random.Random) -> None:
        for verb in dice.sample(verbs, len(verbs)):
            if run.is_over() and cycle:
                return
            if cycle and ENTRIES.search(verb.call) and dice.random() > HOW_OFTEN_ENTRIES:
                continue
            self.call(run, verb, cycle, MANY if dice.random() < 0.1 else FEW)

    def call(self, run: Run, verb: Verb, cycle: int, rows: int) -> None:
        run.count(operations=1)
        try:
            statement = self.session.prepare(verb, rows)
            began = time.perf_counter()
            self.session.connection.execute(statement)
            self.session.connection.commit()
        except MEETINGS:
            self.session.connection.rollback()
            run.count(ambiguous=1)
            return
        run.count(acknowledged=1)
        if rows == FEW:
            self.took[verb.name].append((cycle, 1000 * (time.perf_counter() - began)))


@dataclass
class State:
    """What is looked at after the first tenth and at the end. bytes: of all tables with their indexes."""

    pages: dict[str, int]
    plans: dict[str, str]
    serials: int
    bytes: int

    @property
    def of_each(self) -> float:
        return float(self.bytes) / self.serials


def is_long(run: Run) -> bool:
    """Long enough to judge figures: others use the machine as well."""
    return run.most_cycles is None and run.seconds >= JUDGED_FROM


def chosen(run: Run) -> list[Verb]:
    if run.most_cycles is None:
        return STEADY
    some = run.dice("verbs").sample(STEADY, SO_MANY_IN_SHORT)
    return [verb for verb in STEADY if verb in some or verb.name == ALWAYS]


def look(run: Run, session: Session, verbs: list[Verb]) -> State:
    """Also finds what reads a table that grows as a whole."""
    pages, plans = {}, {}
    for verb in verbs:
        # What it costs to plan anew is none of it.
        session.call(verb, FEW)
        pages[verb.name] = session.pages(verb, FEW)
        seen = session.watched(verb, FEW)
        plans |= {f"{verb.name}: {where}": shape(plan) for where, plan in seen}
        for reading in [] if verb.is_planned_anew else sorted(whole_readings(seen)):
            run.finding(f"{verb.name} reads a table that grows as a whole: {reading}")
    [(serials, size)] = session.connection.execute(
        "select (select count(*) from machserial.serials), sum(pg_total_relation_size(c.oid))"
        " from pg_class as c where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'm')"
    ).fetchall()
    session.connection.commit()
    return State(pages, plans, serials, size)


def load(dsn: str) -> None:
    """What a plant does meanwhile, and its keeper."""
    with psycopg.connect(dsn, autocommit=True) as connection, contextlib.suppress(*MEETINGS):
        connection.execute("select count(*) from machserial.generate('P', %s)", (LOADED_AT_ONCE,))
        connection.execute("select * from machserial.maintain()")


def tenths(worker: Worker, name: str, cycles: int) -> tuple[list[float], list[float]]:
    """What a verb took in the first tenth of the cycles, and in the last."""
    tenth = max(1, cycles // 10)
    first = [took for cycle, took in worker.took[name] if cycle < tenth]
    last = [took for cycle, took in worker.took[name] if cycle >= cycles - tenth]
    return first, last


def compare_latencies(run: Run, workers: list[Worker], verbs: list[Verb]) -> None:
    ratios = []
    for verb in verbs:
        of_each = [tenths(worker, verb.name, run.counts["cycles"]) for worker in workers]
        first, last = (list(itertools.chain(*parts)) for parts in zip(*of_each, strict=True))
        if first and last:
            was, became = statistics.median(first), statistics.median(last)
            ratios.append((became / was, verb.name, was, became))
    ratios.sort(reverse=True)
    for ratio, name, was, became in ratios[:8]:
        run.tell(f"{run.name}: {ratio:5.2f} times as long as at first: {name}, {was:.1f} ms and now {became:.1f} ms")
    if ratios:
        others = ", ".join(f"{name} {ratio:.2f}" for ratio, name, *_ in ratios[8:])
        run.tell(f"{run.name}: the other verbs in the same terms: {others}")
        run.tell(
            f"{run.name}: half of the verbs take {statistics.median(r[0] for r in ratios):.2f} times as long, or less"
        )
    for ratio, name, was, became in ratios:
        if is_long(run) and ratio > TIMES_SLOWER and became - was > MILLISECONDS_SLOWER:
            run.finding(f"{name} has become slower: {was:.1f} ms at first, {became:.1f} ms now")


def compare(run: Run, before: State, after: State) -> None:
    for text in outgrown(before.pages, after.pages):
        run.finding(f"a verb touches more pages than at first: {text}")
    changed = [where for where, plan in after.plans.items() if before.plans.get(where, plan) != plan]
    run.tell(f"{run.name}: {len(changed)} of {len(after.plans)} plans are others than at first")
    for where in changed[:8]:
        run.tell(f"{run.name}: {where}: was {before.plans[where]}; is {after.plans[where]}")
    for name, state in (("first", before), ("last", after)):
        run.tell(f"{run.name}: {name}: {state.serials:,} serials, {state.of_each:,.0f} bytes for each of them")
    if is_long(run) and after.of_each > TIMES_LARGER * before.of_each:
        run.finding(f"a serial takes more: {before.of_each:,.0f} bytes at first, {after.of_each:,.0f} bytes now")


def look_for_dead_rows(run: Run, connection: psycopg.Connection) -> None:
    """Vacuum has come last less than a minute ago, or more rows are alive than dead."""
    [(dead,)] = connection.execute(
        "select sum(n_dead_tup) from pg_stat_user_tables where schemaname = 'machserial'"
    ).fetchall()
    run.tell(f"{run.name}: {dead:,} dead rows in all tables together")
    for name, live, dead in connection.execute(
        "select relname, n_live_tup, n_dead_tup from pg_stat_user_tables"
        " where schemaname = 'machserial' and n_dead_tup > 1000 order by n_dead_tup desc limit 5"
    ).fetchall():
        run.tell(f"{run.name}: {name}: {live:,} rows, {dead:,} dead ones")
        if name in GROWING and dead > live + 10_000:
            run.finding(f"{name} has {live:,} rows and {dead:,} dead ones")


def torture(run: Run, sabotage: str = "") -> None:
    with run.server(autovacuum="on", autovacuum_naptime="10s", shared_buffers="256MB") as server:
        with psycopg.connect(server.dsn("postgres")) as owner:
            owner.execute("create extension machserial")
            owner.execute("select machserial.migrate()")
            furnish(owner)
            owner.execute(sabotage or "select 1")
        live_long(run, server)
        with psycopg.connect(server.dsn("postgres")) as owner:
            look_for_dead_rows(run, owner)
            for problem in findings(owner):
                run.finding(problem)


def live_long(run: Run, server: Server) -> None:
    dsn = server.dsn("postgres")
    with contextlib.ExitStack() as stack:
        verbs = chosen(run)
        workers = [Worker(Session(stack.enter_context(psycopg.connect(dsn)))) for _ in range(SESSIONS)]
        threads = stack.enter_context(ThreadPoolExecutor(SESSIONS + 1))
        before = None
        for cycle in run.cycles():
            jobs = [threads.submit(w.cycle, run, cycle, verbs, run.dice(cycle, n)) for n, w in enumerate(workers)]
            jobs.append(threads.submit(load, dsn))
            for job in jobs:
                job.result()
            if before is None and (run.left < 0.9 * run.seconds or run.most_cycles):
                before = look(run, workers[0].session, verbs)
        after = look(run, workers[0].session, verbs)
        compare(run, before or after, after)
        compare_latencies(run, workers, verbs)


def with_a_reading_of_everything(run: Run) -> None:
    run.most_cycles = 1
    torture(run, OLD_EXAMINATION)


PART = Part(
    title="long: a session of weeks calls for what a new one pays",
    torture=torture,
    controls={"report_block() reads the registry": with_a_reading_of_everything},
)
