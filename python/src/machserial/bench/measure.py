"""Taking turns, timing, and the memory of a backend."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

SAMPLE_EVERY = 0.005  # seconds


def interleaved(
    variants: Mapping[str, Callable[[], float]], rounds: int, before: Callable[[], None]
) -> dict[str, list[float]]:
    """A B A B …: whatever else happens on the machine meets all of them. before: what comes untimed before each."""
    raw: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            before()
            raw[name].append(measure())
    return raw


def timed(session: psycopg.Connection, query: str, parameters: object = None, repeats: int = 1) -> float:
    """Seconds of one execution, each its own transaction, on average of the repeats."""
    started = time.perf_counter()
    for _ in range(repeats):
        session.execute(query, parameters, prepare=True).fetchall()
    return (time.perf_counter() - started) / repeats


def timer(session: psycopg.Connection, query: str, parameters: object = None, repeats: int = 1) -> Callable[[], float]:
    """timed(), to be called when it is its turn."""
    return lambda: timed(session, query, parameters, repeats)


def cpu_timer(session: psycopg.Connection, query: str, repeats: int) -> Callable[[], float]:
    """Seconds of the processor that the session's process takes for one execution, on average of the repeats."""
    spent = Path(f"/proc/{session.info.backend_pid}/schedstat")

    def measure() -> float:
        before = int(spent.read_text().split()[0])
        for _ in range(repeats):
            session.execute(query, prepare=True).fetchall()
        return (int(spent.read_text().split()[0]) - before) / repeats / 1e9

    return measure


@contextmanager
def memory_watched(pid: int) -> Iterator[dict[str, float]]:
    """Watches a backend of this machine during the block. Afterwards, in MB: private, the peak of what is its own;
    peak, VmHWM, in which the pages of shared_buffers that it has touched count too.
    """
    found = {"private": 0.0, "peak": 0.0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            found["private"] = max(found["private"], _private(_status(pid)))
            ended.wait(SAMPLE_EVERY)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        found["peak"] = _status(pid)["VmHWM"]


def _private(status: dict[str, float]) -> float:
    return status["VmRSS"] - status.get("RssShmem", 0)


def _status(pid: int) -> dict[str, float]:
    """The sizes in /proc/<pid>/status, in MB."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if len(words) == 3 and words[2] == "kB"}
