"""One run: the chosen subjects, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import ModuleType

from machserial.bench import machine
from machserial.bench.context import Bench
from machserial.bench.pgbench import Pgbench
from machserial.bench.place import Place
from machserial.bench.results import Run, Skipped
from machserial.bench.sizes import Sizes
from machserial.bench.subjects import (
    allocations,
    attached,
    audit,
    audit_pages,
    batches,
    by_hand,
    check_digits,
    growth,
    lineage,
    random_patterns,
    receipts,
    rivals,
    seals,
    singles,
    uniqueness,
)
from machserial.errors import ExpectedError

SUBJECTS: tuple[ModuleType, ...] = (
    *(batches, singles, by_hand, rivals, allocations, check_digits, random_patterns, attached, receipts, uniqueness),
    *(lineage, audit, seals, audit_pages, growth),
)
NAMES = tuple(subject.NAME for subject in SUBJECTS)


def run(
    place: Place,
    sizes: Sizes,
    only: Sequence[str] = (),
    rounds: int | None = None,
    seconds: int | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Run:
    """Measures at the place, which is up."""
    pgbench = Pgbench(place.pgbench())
    bench = Bench(place, sizes, pgbench, rounds or sizes.rounds, sizes.seconds if seconds is None else seconds, tell)
    done = Run(sizes, machine.facts(place.maintenance_dsn()))
    done.machine |= {"rounds": bench.rounds, "seconds_of_a_run": bench.seconds}
    if unsafe := machine.unsafe(done.machine):
        tell(f"warning: this server does not commit safely: {', '.join(unsafe)}")
    started = time.monotonic()
    for subject in SUBJECTS:
        if not only or subject.NAME in only:
            tell(f"{subject.NAME}: {subject.TITLE} …")
            begun = time.monotonic()
            _add(done, subject, bench)
            done.seconds[subject.NAME] = round(time.monotonic() - begun, 1)
    done.machine["minutes"] = round((time.monotonic() - started) / 60, 1)
    return done


def _add(done: Run, subject: ModuleType, bench: Bench) -> None:
    for found in subject.run(bench):
        if isinstance(found, Skipped):
            bench.tell(f"  left out: {found.reason}")
            done.skipped.append(found)
        else:
            done.cases.append(found)


def subjects() -> list[dict[str, str]]:
    """For people who choose."""
    return [{"subject": subject.NAME, "measures": subject.TITLE} for subject in SUBJECTS]


def require_subjects(names: Sequence[str]) -> None:
    for name in names:
        if name not in NAMES:
            raise ExpectedError(f"there is no subject {name}", remedy=f"choose from {', '.join(NAMES)}")
