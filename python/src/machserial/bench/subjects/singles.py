"""Single calls of many clients, against the bare rows."""

from __future__ import annotations

from collections.abc import Iterator

from machserial.bench import targets
from machserial.bench.context import Bench, clients_text
from machserial.bench.registry import PART, Registry
from machserial.bench.results import Case, Comparison

NAME = "singles"
TITLE = "single calls, each a transaction"
GENERATE = f"select serial_number from machserial.generate('{PART}')"
CHECKED = "with foreign keys and checks"


def run(bench: Bench) -> Iterator[Case]:
    with bench.registry() as registry:
        with registry.session() as session:
            registry.add_tables(session, "checked", with_rules=True)
        for clients in bench.sizes.clients:
            yield single(bench, registry, clients)


def single(bench: Bench, registry: Registry, clients: int) -> Case:
    registry.empty("bare", "checked")
    scripts = {
        "generate()": GENERATE,
        "bare rows": registry.bare_single(),
        CHECKED: registry.bare_single("checked"),
    }
    return Case(
        NAME,
        clients_text(clients),
        "1/s",
        bench.rates(registry, scripts, clients),
        [
            Comparison("generate()", "bare rows", targets.SINGLE_CALL_RATE),
            Comparison(CHECKED, "bare rows"),
        ],
    )
