"""Many clients at once: pgbench."""

from __future__ import annotations

import re
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path

from machserial import connection, programs
from machserial.bench.place import cores

FEW = 10
PROGRESS = re.compile(r"^progress: ([\d.]+) s, ([\d.]+) tps", re.MULTILINE)


class Pgbench:
    """pgbench at one place."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def rate(
        self, dsn: str, script: str, clients: int, seconds: int, is_warm: bool = True, is_prepared: bool = True
    ) -> float:
        """Transactions a second, of so many seconds, or for 0 of a few transactions.

        is_warm: without the first second, in which each session plans and compiles what it then keeps. is_prepared:
        statements are planned once a session, and not each time.
        """
        said = self._run(dsn, script, clients, seconds, "prepared" if is_prepared else "simple")
        whole = float(re.search(r"^tps = ([\d.]+)", said, re.MULTILINE)[1])
        return _later_rate(said) or whole if is_warm else whole

    def _run(self, dsn: str, script: str, clients: int, seconds: int, protocol: str) -> str:
        place, environment = connection.for_programs(dsn)
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(one_line_each(script))
            file.flush()
            command = [
                *(self.program, "--no-vacuum", f"--protocol={protocol}", "--progress=1"),
                *(f"--client={clients}", f"--jobs={min(clients, cores())}", f"--file={file.name}"),
                *(f"--time={seconds}" if seconds else f"--transactions={FEW}", place),
            ]
            result = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
            )
        # It ends well although clients were aborted.
        if result.returncode or "aborted" in result.stderr:
            raise programs.failed(self.program, result.stderr)
        return result.stderr + result.stdout


def one_line_each(script: str) -> str:
    """The statements, one per line, as pgbench wants its scripts."""
    statements = (" ".join(one.split()) for one in script.split(";"))
    return "".join(f"{one};\n" for one in statements if one)


def _later_rate(said: str) -> float | None:
    """The mean rate after the first second; None if there is none."""
    reports = [(float(at), float(rate)) for at, rate in PROGRESS.findall(said)]
    if len(reports) < 2:
        return None
    spans = [(end - begin, rate) for (begin, _), (end, rate) in pairwise(reports)]
    return sum(length * rate for length, rate in spans) / sum(length for length, _ in spans)
