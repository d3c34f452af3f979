"""Whether it grows slower as it grows: the batch and the single call in an empty registry, and in ever larger ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from machserial.bench import targets
from machserial.bench.context import Bench
from machserial.bench.measure import interleaved, timed
from machserial.bench.registry import PART, Registry
from machserial.bench.results import Case, Comparison, Skipped, figures

NAME = "growth"
TITLE = "an empty registry, and larger ones"
GENERATE = f"select count(*) from machserial.generate('{PART}', %s::integer)"
SINGLE = f"select serial_number from machserial.generate('{PART}')"
EMPTY, FILLED = "empty", "filled"
BARE_EMPTY, BARE_FILLED = "bare rows, empty", "bare rows, filled"


def run(bench: Bench) -> Iterator[Case | Skipped]:
    if not bench.place.has_room:
        yield Skipped(NAME, "it needs two registries at the same time, which a private server has room for")
        return
    with bench.registry("bench_empty") as empty, bench.registry("bench_full") as full:
        filled = 0
        for count in bench.sizes.registry:
            bench.tell(f"  filling up to {count:,} serials …")
            fill(full, filled + 1, count)
            filled = count
            yield batch(bench, empty, full, count)
            yield single(bench, empty, full, count)


def fill(full: Registry, first: int, last: int) -> None:
    with full.session() as session:
        for schema in ("machserial", "bare"):
            full.fill_serials(session, schema, last, first)
            full.fill_events(session, schema, last, first)
        full.settle(session)


def batch(bench: Bench, empty: Registry, full: Registry, count: int) -> Case:
    quantity = bench.sizes.growth_batch
    bare = full.bare_batch()
    variants = {
        EMPTY: fresh_batch(empty, GENERATE, quantity),
        FILLED: fresh_batch(full, GENERATE, quantity),
        BARE_EMPTY: fresh_batch(empty, bare, quantity),
        BARE_FILLED: fresh_batch(full, bare, quantity),
    }

    def before() -> None:
        empty.empty("bare")
        empty.checkpoint()

    return Case(
        NAME,
        f"batch of {quantity:,} on {count:,} serials",
        "ms",
        figures(interleaved(variants, bench.rounds, before), 1000),
        comparisons(bench, count, targets.GROWTH_TIME),
        per=quantity,
        drawn="registry",
        x=count,
    )


def fresh_batch(registry: Registry, statement: str, quantity: int) -> Callable[[], float]:
    """In a session that has made its plans since the registry was emptied."""

    def measure() -> float:
        with registry.session() as session:
            session.execute(statement, [min(quantity, 100)], prepare=True)
            return timed(session, statement, [quantity])

    return measure


def single(bench: Bench, empty: Registry, full: Registry, count: int) -> Case:

    def rate(registry: Registry, script: str) -> Callable[[], float]:
        return lambda: bench.pgbench.rate(registry.dsn, script, 1, bench.seconds)

    variants = {
        EMPTY: rate(empty, SINGLE),
        FILLED: rate(full, SINGLE),
        BARE_EMPTY: rate(empty, empty.bare_single()),
        BARE_FILLED: rate(full, full.bare_single()),
    }
    empty.empty("bare")
    return Case(
        NAME,
        f"single call, 1 client, on {count:,} serials",
        "1/s",
        interleaved(variants, bench.big_rounds, empty.checkpoint),
        comparisons(bench, count, targets.GROWTH_RATE),
        drawn="single",
        x=count,
    )


def comparisons(bench: Bench, count: int, target: targets.Target) -> list[Comparison]:
    return [
        Comparison(FILLED, EMPTY, target if count == bench.sizes.registry[-1] else None),
        Comparison(BARE_FILLED, BARE_EMPTY),
    ]
