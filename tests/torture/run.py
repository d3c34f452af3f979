"""What a part is given: how long it may go on, where chance comes from, servers, and whom to tell what it found."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from servers import Server, ServerError, choose_bin, server_account, usual_folder

BUILD = Path(__file__).resolve().parent.parent.parent / "build"
CONTROL_SECONDS = 60
# After so many findings a run has told enough.
MOST_FINDINGS = 20


@dataclass
class Finding:
    """Something that must not be, and what it takes to see it again."""

    text: str
    replay: dict[str, object]

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"    {name}: {value}" for name, value in self.replay.items())])


@dataclass
class Run:
    """One run of a part, or of one of its controls."""

    name: str
    seed: int
    seconds: float
    # No more cycles than these, however much time is left.
    most_cycles: int | None = None
    is_control: bool = False
    bin: Path | None = None
    tell: Callable[[str], None] = lambda text: None
    counts: Counter = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        # The server's user has to find it, who is another one when root runs this.
        self.folder = Path(tempfile.mkdtemp(prefix=f"machserial-{self.name.replace(' ', '-')}-", dir=usual_folder()))

    @property
    def left(self) -> float:
        """How many seconds are left."""
        return self.began + self.seconds - time.monotonic()

    def is_over(self) -> bool:
        enough = 1 if self.is_control else MOST_FINDINGS
        return self.left <= 0 or len(self.findings) >= enough

    def cycles(self) -> Iterator[int]:
        """0, 1, 2, … until the run is over; at least one."""
        while True:
            cycle = self.counts["cycles"]
            yield cycle
            self.counts["cycles"] += 1
            if self.is_over() or self.counts["cycles"] == self.most_cycles:
                return

    def dice(self, *names: object) -> random.Random:
        """Chance that is the same again for the same seed and names."""
        return random.Random(derived_seed(self.seed, *names))

    def count(self, **more: int) -> None:
        """Adds to operations, acknowledged, ambiguous."""
        self.counts.update(more)

    def finding(self, text: str, **replay: object) -> None:
        """Something is wrong; replay: whatever helps to see it again."""
        found = Finding(text, {"seed": self.seed, **replay})
        self.findings.append(found)
        if not self.is_control:
            self.tell(f"{self.name}: {found}")

    def server(self, **settings: str) -> Server:
        """A server that is not started yet (use it in a with statement); machserial's extensions can be created."""
        return ReadyServer(self.bin or choose_bin(os.environ.get("MACHSERIAL_TEST_BIN") or None), **settings)


class ReadyServer(Server):
    """A server that offers machserial as it was built, and can be killed and started again."""

    def start(self) -> None:
        self.log_before = ""
        super().start()
        self.install_extension(BUILD)

    def whole_log(self) -> str:
        """Of all its launches."""
        return self.log_before + self.log.read_text(errors="replace")

    def children(self) -> dict[int, str]:
        """Its processes and what they are: walwriter, checkpointer, postgres (a backend, by its database), …"""
        with contextlib.suppress(psutil.NoSuchProcess):
            return {child.pid: title(child) for child in psutil.Process(self.process.pid).children()}
        return {}

    def kill(self, with_children: bool = True) -> None:
        """kill -9 of the postmaster; then of its children, or until they have noticed by themselves."""
        orphans = []
        with contextlib.suppress(psutil.NoSuchProcess):
            orphans = psutil.Process(self.process.pid).children()
        self.process.kill()
        self.process.wait(20)
        for orphan in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                if with_children:
                    orphan.kill()
        psutil.wait_procs(orphans, timeout=20)

    def kill_now(self) -> None:
        """kill -9 of the postmaster, if there is one at the moment."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)

    def relaunch(self) -> None:
        """Starts it again after its end, on the same data."""
        binaries = Path(self.process.args[0]).parent
        self.log_before = self.whole_log()
        ends = time.monotonic() + 20
        while True:
            try:
                self._launch(binaries, server_account())
                return
            except ServerError:
                # Orphans may still hold the shared memory.
                if time.monotonic() > ends:
                    raise
                time.sleep(0.1)


def title(process: psutil.Process) -> str:
    """What a process of PostgreSQL calls itself, without the word postgres."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()).removeprefix("postgres: ").strip()
    return ""


def derived_seed(seed: int, *names: object) -> int:
    """Another seed for each list of names, the same on every machine and in every process."""
    return zlib.crc32("/".join(map(str, (seed, *names))).encode())
