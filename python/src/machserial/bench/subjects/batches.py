"""Many serials in one call, against the bare rows."""

from __future__ import annotations

from collections.abc import Iterator

from machserial.bench import targets
from machserial.bench.context import Bench
from machserial.bench.measure import interleaved, memory_watched, timed, timer
from machserial.bench.place import is_local
from machserial.bench.registry import PART, Registry
from machserial.bench.results import Case, Comparison, Skipped, figures

NAME = "batches"
TITLE = "a batch in one call"
GENERATE = f"select count(*) from machserial.generate('{PART}', %s::integer)"
CHECKED = "with foreign keys and checks"
MEMORY_QUANTITY = 1_000_000
TARGETS = {100: targets.SMALL_BATCH_TIME, 100_000: targets.BATCH_TIME}


def run(bench: Bench) -> Iterator[Case | Skipped]:
    with bench.registry() as registry:
        with registry.session() as session:
            registry.add_tables(session, "checked", with_rules=True)
        for quantity in bench.sizes.batches:
            yield batch(bench, registry, quantity)
        yield memory(registry, min(MEMORY_QUANTITY, bench.sizes.batches[-1]))


def batch(bench: Bench, registry: Registry, quantity: int) -> Case:
    """One quantity. Small ones many times in a round, each call a transaction."""
    registry.empty("bare", "checked")
    rounds = bench.big_rounds if quantity >= 1_000_000 else bench.rounds
    statements = {
        "generate()": GENERATE,
        "bare rows": registry.bare_batch(),
        CHECKED: registry.bare_batch("checked"),
    }
    with bench.sessions(registry, len(statements)) as sessions:
        variants = {}
        for session, (name, statement) in zip(sessions, statements.items(), strict=True):
            warm_up(session, statement, quantity)
            variants[name] = timer(session, statement, [quantity], bench.repeats(quantity))
        raw = interleaved(variants, rounds, registry.checkpoint)
    return Case(
        NAME,
        f"{quantity:,} in one call",
        "ms",
        figures(raw, 1000),
        [
            Comparison("generate()", "bare rows", TARGETS.get(quantity)),
            Comparison(CHECKED, "bare rows"),
        ],
        per=quantity,
        drawn="batch",
        x=quantity,
    )


def warm_up(session, statement: str, quantity: int) -> None:
    """The session has its plans, as one has that has been at work for a while."""
    for _ in range(6):
        session.execute(statement, [min(quantity, 100)], prepare=True)


def memory(registry: Registry, quantity: int) -> Case | Skipped:
    with registry.session() as session:
        if not is_local(session):
            return Skipped(NAME, "the memory of a backend on another machine cannot be looked at")
        with memory_watched(session.info.backend_pid) as found:
            timed(session, GENERATE, [quantity])
    return Case(
        NAME,
        f"memory of {quantity:,} in one call",
        "MB",
        {"the backend's own": [found["private"]], "with shared buffers touched": [found["peak"]]},
        [
            Comparison("the backend's own", "", targets.BATCH_MEMORY if quantity == MEMORY_QUANTITY else None),
            Comparison("with shared buffers touched"),
        ],
        remark="peaks; the second is VmHWM",
    )
