"""Sessions that take turns, one step at a time: what happens does not depend on how fast anybody is.

A step is one statement. It has come to rest when it has ended, or when the server says whom it waits for. Only then
does the next step begin, so that the same order of steps always gives the same interleaving.

Statements can be stopped within, too: close_gates() puts triggers on the tables of machserial at which a session rests
until it is told to go on: before a statement writes, for each row that it writes, and when it has written, before and
after the triggers of machserial itself.
"""

from __future__ import annotations

import random
import select
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import psycopg
from psycopg import pq
from scenes import Scene, Verb, documented, statement_of
from soundness import faults, findings

# Nobody waits so long; what does is a fault of the harness or a lock that nobody gives back.
PATIENCE = 60.0
# A deadlock is found out after this; statements that wait for longer wait for somebody who is resting.
SETTINGS = "set deadlock_timeout = '10ms'; set client_min_messages = 'error'; set application_name = 'interleaving'"
GATE_CLASS = 7301
GATED = (
    "audit_events",
    "block_usages",
    "counters",
    "format_assignments",
    "requests",
    "late_assignment_placeholders",
    "number_blocks",
    "parts",
    "pauses",
    "serial_conflicts",
    "serial_formats",
    "serial_propagations",
    "serials",
    "sites",
    "trigger_definitions",
    "trigger_executions",
    "vendor_serials",
)
# Triggers of one kind fire by name: those of machserial come between "+" and "~".
GATES = """
create schema interleaving;
create function interleaving.gate() returns trigger language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = 0
as $$
declare
    own constant text := nullif(current_setting('interleaving.gate', true), '');
    key integer;
begin
    if own is not null then
        -- Two keys in turn: the one behind the session is closed again before it comes to the next.
        key := 2 * own::integer + nextval(('interleaving.gates_' || own)::regclass) % 2;
        perform pg_advisory_lock({gate_class}, key);
        perform pg_advisory_unlock({gate_class}, key);
    end if;
    return case when tg_level = 'ROW' then case tg_op when 'DELETE' then old else new end end;
end
$$;
"""


class Stuck(AssertionError):
    """The steps cannot be taken in this order, or somebody waits who should not."""


@dataclass
class Outcome:
    """How a step ended: with rows, or with an error. waited_for: the sessions that it has waited for."""

    rows: list[tuple] = field(default_factory=list)
    sqlstate: str | None = None
    message: str = ""
    waited_for: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        ending = f"{self.sqlstate} {self.message}" if self.sqlstate else f"{len(self.rows)} rows"
        return ending + (f", after waiting for {', '.join(sorted(self.waited_for))}" if self.waited_for else "")


class Session:
    """A connection that is told a statement and does not wait for its end."""

    def __init__(self, name: str, dsn: str, number: int) -> None:
        self.name, self.number = name, number
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.pid = self.connection.info.backend_pid
        self.connection.execute(SETTINGS)
        self.outcome: Outcome | None = None
        self.is_busy = False
        # Whom it waited for when everybody had come to rest.
        self.blockers: set[str] = set()
        # Which of its two keys its next gate has.
        self.gate = 0

    def send(self, statement: str) -> None:
        if self.is_busy:
            raise Stuck(f"{self.name} is not done with its last step")
        self.outcome, self.is_busy = Outcome(), True
        self.connection.pgconn.send_query(statement.encode())

    def listen(self, seconds: float) -> None:
        """Takes in what the server says within so many seconds."""
        pgconn = self.connection.pgconn
        if select.select([pgconn.socket], [], [], seconds)[0]:
            pgconn.consume_input()
        while self.is_busy and not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                self.is_busy = False
            else:
                self._take(result)

    def _take(self, result: pq.abc.PGresult) -> None:
        if result.status == pq.ExecStatus.TUPLES_OK:
            self.outcome.rows = [
                tuple(
                    value if (value := result.get_value(row, column)) is None else value.decode()
                    for column in range(result.nfields)
                )
                for row in range(result.ntuples)
            ]
        elif result.status == pq.ExecStatus.FATAL_ERROR:
            self.outcome.sqlstate = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"08006").decode()
            self.outcome.message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"lost").decode()


class Stage:
    """Where sessions take turns, and the observer who sees whom each waits for. Use it in a with statement."""

    def __init__(self, dsn: str, names: Iterable[str] = "ab") -> None:
        self.observer = psycopg.connect(dsn, autocommit=True)
        self.observer.execute(SETTINGS)
        self.sessions = {name: Session(name, dsn, number) for number, name in enumerate(names)}
        self.names = {session.pid: name for name, session in self.sessions.items()}
        self.names[self.observer.info.backend_pid] = "gate"
        # The keys of the gates that are closed.
        self.closed: set[int] = set()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for session in self.sessions.values():
            if session.is_busy:
                session.connection.cancel()
            session.connection.close()
        self.observer.close()

    def waits_for(self, name: str) -> set[str]:
        """The sessions that this one waits for now; "gate": it rests at a gate; "?": somebody who is not on stage."""
        row = self.observer.execute("select pg_blocking_pids(%s)", (self.sessions[name].pid,)).fetchone()
        return {self.names.get(pid, "?") for pid in row[0]}

    def step(self, name: str, statement: str) -> Outcome | None:
        """Begins a step and returns when everybody has come to rest: its outcome, None if it waits."""
        self.sessions[name].send(statement)
        self.settle()
        return self.result(name)

    def result(self, name: str) -> Outcome | None:
        session = self.sessions[name]
        return None if session.is_busy else session.outcome

    def settle(self) -> None:
        """Returns when each session has ended its step or waits for another that rests."""
        deadline = time.monotonic() + PATIENCE
        for session in self.sessions.values():
            while session.is_busy:
                # Most steps wait for nobody, and are over by then.
                session.listen(0.004)
                session.blockers = self.waits_for(session.name) if session.is_busy else set()
                if session.blockers:
                    session.outcome.waited_for |= session.blockers - {"gate"}
                    if self._rest(session.blockers):
                        break
                    self._listen_to(session.blockers)
                elif time.monotonic() > deadline:
                    raise Stuck(f"{session.name} neither ends nor waits for anybody")

    def _rest(self, names: set[str]) -> bool:
        """Whether none of these is on its way: each is at a gate, without a step, or waits itself."""
        return all(
            name not in self.sessions or not self.sessions[name].is_busy or self.waits_for(name) for name in names
        )

    def _listen_to(self, names: set[str]) -> None:
        for name in names & self.sessions.keys():
            self.sessions[name].listen(0.001)

    def finish(self, name: str, seconds: float = PATIENCE) -> Outcome:
        """The outcome of a step that nobody on stage has to do anything for any more."""
        session, deadline = self.sessions[name], time.monotonic() + seconds
        while session.is_busy:
            session.listen(0.01)
            session.outcome.waited_for |= (self.waits_for(name) - {"gate"}) if session.is_busy else set()
            if time.monotonic() > deadline:
                raise Stuck(f"{name} waits for {self.waits_for(name) or 'nobody'} and does not end")
        return session.outcome

    # Gates

    def close_gates(self, *names: str) -> None:
        """From now on these sessions stop at every gate. build_gates() has made them."""
        for name in names:
            session = self.sessions[name]
            session.gate = 0
            self.observer.execute(f"alter sequence interleaving.gates_{session.number} restart")
            for key in (2 * session.number, 2 * session.number + 1):
                self._close(key)
            session.connection.execute(f"set interleaving.gate = '{session.number}'")

    def _close(self, key: int) -> None:
        if key not in self.closed:
            self.observer.execute("select pg_advisory_lock(%s, %s)", (GATE_CLASS, key))
            self.closed.add(key)

    def open_gates(self) -> None:
        """Nobody stops any more; who rests at a gate goes on."""
        self.observer.execute("select pg_advisory_unlock_all()")
        self.closed.clear()
        self.settle()
        for session in self.sessions.values():
            if not session.is_busy:
                session.connection.execute("set interleaving.gate = ''")

    def is_at_gate(self, name: str) -> bool:
        return self.sessions[name].is_busy and "gate" in self.sessions[name].blockers

    def go_on(self, name: str) -> Outcome | None:
        """Lets a session go on to its next gate, or to where it waits or ends: the outcome of its step if it ends."""
        session = self.sessions[name]
        if not self.is_at_gate(name):
            raise Stuck(f"{name} is not at a gate")
        here = 2 * session.number + session.gate
        session.gate = 1 - session.gate
        # The next gate first.
        self._close(2 * session.number + session.gate)
        self.observer.execute("select pg_advisory_unlock(%s, %s)", (GATE_CLASS, here))
        self.closed.discard(here)
        self.settle()
        return self.result(name)


def build_gates(connection: psycopg.Connection, tables: Iterable[str] = GATED, sessions: int = 4) -> None:
    """Puts gates on tables of machserial."""
    connection.execute(GATES.format(gate_class=GATE_CLASS))
    for number in range(sessions):
        connection.execute(f"create sequence interleaving.gates_{number} minvalue 0 start 0")
    for table in tables:
        for name, event in [
            ("+before", "before insert or update or delete"),
            ("+after", "after insert or update or delete"),
            ("~after", "after insert or update or delete"),
        ]:
            connection.execute(
                f'create trigger "{name}" {event} on machserial.{table} '
                "for each statement execute function interleaving.gate()"
            )
        if table != "audit_events":
            connection.execute(
                f'create trigger "~row" before insert or update or delete on machserial.{table} '
                "for each row execute function interleaving.gate()"
            )


def remove_gates(connection: psycopg.Connection) -> None:
    connection.execute("drop schema interleaving cascade")


# Pairs of verbs

READ_COMMITTED, REPEATABLE_READ, SERIALIZABLE = (
    "read committed",
    "repeatable read",
    "serializable",
)
# A snapshot is taken by the first query, not by begin.
BEGIN = "begin isolation level {}; select count(*) from machserial.parts where id is null; "
COMMIT, ROLLBACK = "commit", "rollback"


@dataclass(frozen=True)
class Case:
    """Two verbs in transactions of their own, one of which is open while the other is carried out."""

    first: Verb
    second: Verb
    ending: str = COMMIT
    isolation: str = READ_COMMITTED
    # Whether the second transaction ends first, if it does not wait.
    is_inside: bool = False

    def __str__(self) -> str:
        order = ", which ends first" if self.is_inside else ""
        return f"{self.first.name} ({self.ending}) | {self.second.name}{order} [{self.isolation}]"


class Playhouse:
    """A database in which the cases of one scene are played, one after another."""

    def __init__(self, dsn: str, scene: Scene, sessions: str = "ab") -> None:
        self.scene = scene
        self.stage = Stage(dsn, sessions)
        self.owner = psycopg.connect(dsn, autocommit=True)
        self.owner.execute("set jit = off; set client_min_messages = 'error'")
        self.codes = {verb: documented(self.owner, verb) for verb in scene.verbs}
        self.number = 0
        # What a case has left behind is told once.
        self.known: set[str] = set()

    def __enter__(self) -> Playhouse:
        return self

    def __exit__(self, *_: object) -> None:
        self.stage.__exit__()
        self.owner.close()

    def new_names(self) -> dict:
        self.number += 1
        with self.owner.transaction():
            return self.scene.prepare(self.owner, self.number)

    def play(self, case: Case) -> list[str]:
        """Plays a case, with whatever the second has to wait for; what was not as it should be."""
        names = self.new_names()
        stage, problems = self.stage, []
        for name in "ab":
            stage.step(name, BEGIN.format(case.isolation))
        first = stage.step("a", statement_of(self.owner, case.first, names)) or stage.finish("a")
        if first.waited_for:
            problems.append(f"{case.first.name} waited although it was alone")
        second = stage.step("b", statement_of(self.owner, case.second, names))
        if second is None and not self.scene.may_wait(case.second, case.first):
            problems.append(f"{case.second.name} waits for {case.first.name}")
        ends = [self.end("b")] if second and case.is_inside else []
        ends.append(self.end("a", case.ending))
        if second is None or not case.is_inside:
            # Those who wait for a limited time only may have given up by now.
            second = second or stage.finish("b")
            ends.append(self.end("b"))
        problems += self.judge(case.first, first, READ_COMMITTED) + self.judge(case.second, second, case.isolation)
        problems += [
            f"a transaction does not end: {outcome}"
            for outcome in ends
            if outcome.sqlstate and (outcome.sqlstate, case.isolation) != ("40001", SERIALIZABLE)
        ]
        self.tidy()
        return [f"case {self.number}, {case}: {problem}" for problem in problems]

    def end(self, name: str, ending: str = COMMIT) -> Outcome:
        """Commits what a session has done, or takes it back; what failed is taken back in any case."""
        return self.stage.step(name, ending) or self.stage.finish(name)

    def judge(self, verb: Verb, outcome: Outcome, isolation: str) -> list[str]:
        """An error that nobody has been told of."""
        allowed = self.codes[verb] | {None} | ({"40001"} if isolation != READ_COMMITTED else set())
        # pause() says whom it refuses.
        is_paused = outcome.sqlstate == "55000" and "paused" in outcome.message
        return [] if outcome.sqlstate in allowed or is_paused else [f"{verb.name}: {outcome}"]

    def tidy(self) -> None:
        """Whoever has paused the database is over it."""
        self.owner.execute(
            "select machserial.fence(format, reason => 'the next case') from"
            " (select distinct format from machserial.unfenced_counters()) as u"
        )
        self.owner.execute(
            "select machserial.resume('the next case') where exists (select from machserial.pauses"
            " where resumed_at is null)"
        )

    def examine(self) -> list[str]:
        """What is wrong with the database now and was not before."""
        self.owner.execute("discard plans")
        found = [fault for fault in faults(self.owner) + findings(self.owner) if fault not in self.known]
        self.known.update(found)
        return found

    # Stops within verbs

    def walk(
        self,
        verbs: dict[str, Verb],
        choose: Choice,
        isolation: str = READ_COMMITTED,
        endings: str = COMMIT,
    ) -> Walk:
        """Sessions carry out their verbs and stop at every gate; choose says each time who goes on."""
        names, stage = self.new_names(), self.stage
        scripts = {name: [statement_of(self.owner, verb, names), endings] for name, verb in verbs.items()}
        for name in verbs:
            stage.step(name, BEGIN.format(isolation))
        stage.close_gates(*verbs)
        walk = Walk()
        outcomes: dict[str, Outcome] = {}
        while True:
            for name in verbs:
                if len(scripts[name]) == 1 and name not in outcomes and not stage.sessions[name].is_busy:
                    outcomes[name] = stage.sessions[name].outcome
            movable = [name for name in verbs if self.can_move(name, scripts[name])]
            if not movable:
                busy = [name for name in verbs if stage.sessions[name].is_busy]
                if not busy:
                    break
                # Either a deadlock, which the server is about to end, or somebody waits for a limited time.
                self.await_any(busy)
                continue
            name = choose(movable, walk.order)
            walk.order += name
            if stage.sessions[name].is_busy:
                stage.go_on(name)
            else:
                stage.step(name, scripts[name].pop(0))
        stage.open_gates()
        for name, verb in verbs.items():
            walk.problems += self.judge(verb, outcomes[name], isolation)
            walk.outcomes[name] = outcomes[name]
        self.tidy()
        told = " + ".join(f"{name}: {verb.name}" for name, verb in verbs.items())
        walk.problems = [
            f"walk {self.number}, {told} [{isolation}, {endings}], order {walk.order}: {problem}"
            for problem in walk.problems
        ]
        return walk

    def can_move(self, name: str, script: list[str]) -> bool:
        return self.stage.is_at_gate(name) if self.stage.sessions[name].is_busy else bool(script)

    def await_any(self, names: list[str]) -> None:
        deadline = time.monotonic() + PATIENCE
        while all(self.stage.sessions[name].is_busy and not self.stage.is_at_gate(name) for name in names):
            for name in names:
                self.stage.sessions[name].listen(0.005)
            if time.monotonic() > deadline:
                waits = {name: self.stage.waits_for(name) for name in names}
                raise Stuck(f"nobody can go on: {waits}")
        self.stage.settle()


@dataclass
class Walk:
    """order: who moved, a letter a move; with it, in_order() makes the same walk again."""

    order: str = ""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


# Of those who can move and the moves so far: who moves next.
Choice = Callable[[list[str], str], str]


def stop_at(stops: int, first: str = "a") -> Choice:
    """The first one makes so many moves, then the others go as far as they can, then it goes on."""

    def choose(movable: list[str], order: str) -> str:
        others = [name for name in movable if name != first]
        if first in movable and (order.count(first) < stops or not others):
            return first
        return others[0] if others else movable[0]

    return choose


def by_chance(dice: random.Random) -> Choice:
    """Whoever; the same one a few times in a row as often as not."""

    def choose(movable: list[str], order: str) -> str:
        if order and order[-1] in movable and dice.random() < 0.6:
            return order[-1]
        return dice.choice(movable)

    return choose


def in_order(given: str) -> Choice:
    """As it was before."""

    def choose(movable: list[str], order: str) -> str:
        wanted = given[len(order)] if len(order) < len(given) else movable[0]
        return wanted if wanted in movable else movable[0]

    return choose
