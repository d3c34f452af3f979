"""The writers of a torture, as the process sees them that started them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from servers import die_with_parent

from torture.ledger import Attempt, Reader
from torture.run import Run

TESTS = Path(__file__).resolve().parent.parent
KEEPER = 1000
# How long whatever has to happen may take, on a machine that has much else to do.
PATIENCE = 300


class CrewError(Exception):
    """The writers do not do what they should."""


def die_with_crew() -> None:
    die_with_parent(signal.SIGKILL)


class Crew:
    """So many writers, and a keeper; in a with statement, at whose end they are gone. options: those of Writer.

    first: the number of the first of them; two crews that write to the same database, one after the other, need others.
    """

    def __init__(
        self,
        run: Run,
        dsn: str,
        writers: int,
        keeper: bool = True,
        name: str = "crew",
        first: int = 1,
        **options: object,
    ) -> None:
        self.run = run
        self.folder = run.folder / name
        self.folder.mkdir()
        self.options = options
        writing = range(first, first + writers)
        self.numbers = [*writing, KEEPER] if keeper else [*writing]
        self.readers = {number: Reader(self.folder / f"{number}.ledger") for number in writing}
        self.processes: dict[int, subprocess.Popen] = {}
        (self.folder / "gate").touch()
        (self.folder / "keeper.faults").touch()
        self.point_at(dsn)

    def point_at(self, dsn: str) -> None:
        """Where the database is from now on."""
        new = self.folder / "dsn.new"
        new.write_text(dsn)
        new.replace(self.folder / "dsn")

    def __enter__(self) -> Crew:
        for number in self.numbers:
            self.start(number)
        return self

    def __exit__(self, *_: object) -> None:
        (self.folder / "stop").touch()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def start(self, number: int) -> None:
        options = {"is_keeper": True} if number == KEEPER else self.options
        command = [sys.executable, "-m", "torture.writer", self.folder, number, self.run.seed, json.dumps(options)]
        with (self.folder / f"{number}.err").open("ab") as errors:
            self.processes[number] = subprocess.Popen(
                [str(part) for part in command],
                cwd=TESTS,
                env={**os.environ, "PYTHONPATH": str(TESTS)},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                preexec_fn=die_with_crew,
            )

    def kill_one(self, number: int) -> None:
        """kill -9 of a writer, which is started again and finds its ledger."""
        self.processes[number].kill()
        self.processes[number].wait(10)
        self.start(number)

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Inside, no writer is in a transaction."""
        closed = self.folder / "closed"
        closed.touch()
        try:
            with (self.folder / "gate").open("rb") as gate:
                fcntl.flock(gate, fcntl.LOCK_EX)
                self.read_on()
                yield
        finally:
            closed.unlink()

    def read_on(self) -> None:
        for reader in self.readers.values():
            reader.read_on()

    @property
    def acknowledged(self) -> int:
        self.read_on()
        return sum(attempt.is_acknowledged for attempt in self.attempts())

    def attempts(self) -> Iterator[Attempt]:
        """All attempts of all writers, those of one in their order."""
        for reader in self.readers.values():
            yield from reader.attempts.values()

    def await_more(self, acknowledged: int, seconds: float = PATIENCE) -> None:
        """Returns when so many more transactions have been acknowledged."""
        target = self.acknowledged + acknowledged
        deadline = time.monotonic() + seconds
        while self.acknowledged < target:
            self.require_alive()
            if time.monotonic() > deadline:
                raise CrewError(f"{acknowledged} transactions took more than {seconds} s: {self.folder}")
            time.sleep(0.02)

    def require_alive(self) -> None:
        for number, process in self.processes.items():
            if process.poll() is not None:
                raise CrewError(f"writer {number} has ended: {(self.folder / f'{number}.err').read_text()}")

    def faults(self) -> list[str]:
        """What writers and the keeper were told that they should not have been."""
        found = [fault for reader in self.readers.values() for fault in reader.faults]
        return found + (self.folder / "keeper.faults").read_text().splitlines()
