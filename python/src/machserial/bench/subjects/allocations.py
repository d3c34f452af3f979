"""The two modes of allocation, against the bare rows."""

from __future__ import annotations

from collections.abc import Iterator

from machserial.bench.context import Bench, clients_text
from machserial.bench.measure import interleaved, timer
from machserial.bench.registry import PART, Registry
from machserial.bench.results import Case, Comparison, figures

NAME = "allocations"
TITLE = "SEQUENCE and GAPLESS"
MODES = ("SEQUENCE", "GAPLESS")
BARE = "bare rows"


def run(bench: Bench) -> Iterator[Case]:
    with bench.registry() as registry:
        with registry.session() as session:
            for mode in MODES:
                session.execute(
                    "select machserial.create_format(%s, %s, allocation => %s)", [mode, mode[0] + "-{SEQ:9}", mode]
                )
        yield batch(bench, registry)
        yield single(bench, registry, bench.sizes.clients[len(bench.sizes.clients) // 2])


def batch(bench: Bench, registry: Registry) -> Case:
    quantity = bench.sizes.check_quantity // 10
    generate = "select count(*) from machserial.generate('{}', %s::integer, '{}')"
    statements = {mode: generate.format(PART, mode) for mode in MODES} | {BARE: registry.bare_batch()}
    with bench.sessions(registry, len(statements)) as sessions:
        variants = {}
        for session, (name, statement) in zip(sessions, statements.items(), strict=True):
            session.execute(statement, [min(quantity, 100)], prepare=True)
            variants[name] = timer(session, statement, [quantity])
        raw = interleaved(variants, bench.rounds, registry.checkpoint)
    return Case(NAME, f"batch of {quantity:,}", "ms", figures(raw, 1000), comparisons())


def single(bench: Bench, registry: Registry, clients: int) -> Case:
    registry.empty("bare")
    generate = "select serial_number from machserial.generate('{}', 1, '{}')"
    scripts = {mode: generate.format(PART, mode) for mode in MODES} | {BARE: registry.bare_single()}
    return Case(NAME, clients_text(clients), "1/s", bench.rates(registry, scripts, clients), comparisons())


def comparisons() -> list[Comparison]:
    return [*(Comparison(mode, BARE) for mode in MODES), Comparison("GAPLESS", "SEQUENCE")]
