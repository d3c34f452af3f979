"""A writer: a process that does one transaction after another, keeps a ledger, and outlives its server.

python -m torture.writer FOLDER NUMBER SEED [OPTIONS as JSON]

FOLDER/dsn       where the database is now; read anew for each connection
FOLDER/stop      exists: end
FOLDER/gate      whoever has it shared is in a transaction, whoever has it alone finds no writer in one
FOLDER/closed    exists: somebody wants the gate alone
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from torture.ledger import Ledger
from torture.run import derived_seed
from torture.verbs import BY_NAME, REPEATABLE, VERBS, Things, Work

# Of a transaction with several verbs: two of them may want the same two things the other way round.
DEADLOCK = "40P01"
# Of a transaction whose snapshot is older than what others have committed.
TOO_OLD = ("40001", "0A000")
SHUTDOWN = ("57P01", "57P02", "57P03")


def is_lost(session: psycopg.Connection, error: psycopg.Error) -> bool:
    return session.closed or error.sqlstate in SHUTDOWN


class Client:
    """A process that connects again and again, and stands still while the gate is closed."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self.lock = lock
        self.session: psycopg.Connection | None = None

    def goes_on(self) -> bool:
        return not (self.folder / "stop").exists()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        while (self.folder / "closed").exists() and self.goes_on():
            time.sleep(0.01)
        with (self.folder / "gate").open("rb") as gate:
            fcntl.flock(gate, fcntl.LOCK_SH)
            yield

    def connected(self) -> bool:
        """Connects, if it is not; whether it is now."""
        if self.session is not None and not self.session.closed:
            return True
        try:
            self.session = psycopg.connect((self.folder / "dsn").read_text(), application_name=f"writer {self.lock}")
            # Whatever an earlier connection of this writer was doing has come to its end when this returns.
            self.session.execute("select pg_advisory_lock(%s)", (self.lock,))
            self.session.commit()
        except psycopg.Error:
            self.forget()
        return self.session is not None

    def forget(self) -> None:
        if self.session is not None:
            with contextlib.suppress(psycopg.Error):
                self.session.close()
        self.session = None


class Writer(Client):
    """options: verbs (only these), is_eager (acknowledges before it commits), settings (of its sessions)."""

    def __init__(self, folder: Path, number: int, seed: int, **options: object) -> None:
        super().__init__(folder, number)
        self.seed = seed
        self.verbs = [BY_NAME[name] for name in options.get("verbs", [])] or list(VERBS)
        self.weights = [VERBS[verb][0] if self.verbs == list(VERBS) else 1 for verb in self.verbs]
        self.is_eager = options.get("is_eager", False)
        self.ledger = Ledger(folder / f"{number}.ledger")
        self.things = Things()
        self._remember()

    def _remember(self) -> None:
        """What an earlier process of this writer knew."""
        self.unsure = None
        self.next = 1 + len(self.ledger.attempts)
        for attempt in self.ledger.attempts.values():
            if attempt.is_acknowledged or attempt.committed:
                self.learn(attempt.facts, attempt.requests)
            elif not attempt.outcome:
                self.ledger.note(attempt.token, "lost" if attempt.facts is None else "ambiguous")
            if attempt.outcome == "ambiguous" and attempt.committed is None:
                self.unsure = attempt

    def learn(self, facts: list[list], requests: list[list]) -> None:
        self.things.learn(facts)
        self.things.learn([["asked", given["request_id"], [function, given]] for function, given in requests])

    def run(self, most: float = float("inf")) -> None:
        """Until it is told to stop, or for so many transactions."""
        last = self.next + most
        while self.goes_on() and self.next < last:
            with self.turn():
                if not self.connected():
                    time.sleep(0.1)
                    continue
                if self.unsure is None:
                    dice = random.Random(derived_seed(self.seed, self.lock, self.next))
                    verbs = dice.choices(self.verbs, self.weights, k=dice.choice([1, 1, 2, 3]))
                    self.attempt([verb.__name__ for verb in verbs], dice, self.some_work(verbs))
                else:
                    self.settle()
        self.forget()

    def some_work(self, verbs: list) -> object:
        def work(doing: Work) -> None:
            for verb in verbs:
                if doing.dice.random() < 0.15:
                    self.in_vain(verb, doing)
                verb(doing)

        return work

    @staticmethod
    def in_vain(verb: object, doing: Work) -> None:
        """Does it and takes it back."""
        facts, requests = len(doing.facts), len(doing.requests)
        with doing.session.transaction(force_rollback=True):
            verb(doing)
        del doing.facts[facts:], doing.requests[requests:]

    def settle(self) -> None:
        """Asks what became of a COMMIT that was never answered, and repeats its requests."""
        try:
            found = self.session.execute("select from shop.done where token = %s", (self.unsure.token,)).rowcount
            self.session.rollback()
        except psycopg.Error:
            self.forget()
            return
        unsure, self.unsure = self.unsure, None
        self.ledger.note(unsure.token, "settled", committed=bool(found))
        if found:
            self.learn(unsure.facts, unsure.requests)
        asked = {given["request_id"]: (function, given) for function, given in unsure.requests}
        # One that had been answered before is not new either.
        answered = set(self.things.kinds["asked"])

        def repeat(doing: Work) -> None:
            for request_id, (function, given) in asked.items():
                REPEATABLE[function](doing, given, is_new=request_id not in answered)

        if asked:
            self.attempt(["repeat"], random.Random(self.next), repeat)

    def attempt(self, verbs: list[str], dice: random.Random, work: object) -> None:
        """One transaction, from the note of its intent to the note of its outcome."""
        token = f"{self.lock}-{self.next}"
        self.next += 1
        is_old = dice.random() < 0.1 and verbs != ["repeat"]
        self.ledger.note(token, "intent", verbs=verbs)
        doing = Work(self.session, dice, token, self.things)
        asked = False
        try:
            if is_old:
                self.session.execute("set transaction isolation level repeatable read")
            self.session.execute("select set_config('machserial.actor', %s, true)", (token,))
            work(doing)
            if dice.random() < 0.1 and verbs != ["repeat"]:
                self.session.rollback()
                self.ledger.note(token, "rolled back")
                return
            self.session.execute("insert into shop.done values (%s)", (token,))
            self.ledger.note(token, "commit", facts=doing.facts, requests=doing.requests)
            if self.is_eager:
                self.ledger.note(token, "acknowledged")
                time.sleep(dice.random() / 5)
            asked = True
            self.session.commit()
        except psycopg.Error as error:
            self.failed(token, verbs, is_old, asked, error)
        else:
            if not self.is_eager:
                self.ledger.note(token, "acknowledged")
            self.learn(doing.facts, doing.requests)

    def failed(self, token: str, verbs: list[str], is_old: bool, asked: bool, error: psycopg.Error) -> None:
        if is_lost(self.session, error):
            self.forget()
            if self.is_eager and asked:
                return
            self.ledger.note(token, "ambiguous" if asked else "lost")
            if asked:
                self.unsure = self.ledger.attempts[token]
            return
        try:
            self.session.rollback()
        except psycopg.OperationalError:
            # The server has gone since it refused: nothing of this is there either.
            self.forget()
        expected = {code for name in verbs if name in BY_NAME for code in VERBS[BY_NAME[name]][1]}
        expected |= {DEADLOCK} if len(verbs) > 1 else set()
        expected |= set(TOO_OLD) if is_old else set()
        fault = {} if error.sqlstate in expected else {"fault": f"{'+'.join(verbs)}: {error.sqlstate} {error}"}
        self.ledger.note(token, "refused", sqlstate=error.sqlstate, **fault)


class Keeper(Client):
    """Looks after the database while the others write to it."""

    ROUND = ("seal_audit", "maintain", "verify_audit", "counter_status", "integrity")

    def run(self) -> None:
        faults = (self.folder / "keeper.faults").open("a")
        while self.goes_on():
            for function in self.ROUND:
                with self.turn():
                    if not self.connected():
                        time.sleep(0.05)
                        continue
                    try:
                        found = self.session.execute(f"select * from machserial.{function}()").fetchall()
                        self.session.commit()
                    except psycopg.Error as error:
                        if not is_lost(self.session, error):
                            print(f"{function}: {error.sqlstate} {error}", file=faults, flush=True)
                        self.forget()
                    else:
                        if function in ("verify_audit", "integrity") and found:
                            print(f"{function}: {found[:3]}", file=faults, flush=True)
                time.sleep(0.1)


def main(folder: str, number: str, seed: str, options: str = "{}") -> None:
    given = json.loads(options)
    if given.pop("is_keeper", False):
        Keeper(Path(folder), int(number)).run()
    else:
        Writer(Path(folder), int(number), int(seed), **given).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
