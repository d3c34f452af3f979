"""What a part is given: how long it may go on, where chance comes from, servers, and whom to tell what it found."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from servers import Server, choose_bin, reachable_by_all

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
        base = None if reachable_by_all(Path(tempfile.gettempdir()) / "x") else "/tmp"
        self.folder = Path(tempfile.mkdtemp(prefix=f"machserial-{self.name.replace(' ', '-')}-", dir=base))

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
    """A server that offers machserial as it was built."""

    def start(self) -> None:
        super().start()
        self.install_extension(BUILD)


def derived_seed(seed: int, *names: object) -> int:
    """Another seed for each list of names, the same on every machine and in every process."""
    return zlib.crc32("/".join(map(str, (seed, *names))).encode())
