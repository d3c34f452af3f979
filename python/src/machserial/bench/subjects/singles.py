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
OURS, BARE = "generate()", "bare rows"
CHECKED = "with foreign keys and checks"
# As applications send it that do not prepare their statements.
OURS_PLANNED, BARE_PLANNED = "generate(), planned each time", "bare rows, planned each time"
# What the least that a function can be costs: the serial row alone, no event, no rule.
FUNCTION = "a function that inserts the serial row"
CREATE_FUNCTION = """
create function bare.number() returns table (serial_number text) language plpgsql as $$
#variable_conflict use_column
begin
    return query {statement};
end
$$
"""


def run(bench: Bench) -> Iterator[Case]:
    with bench.registry() as registry:
        with registry.session() as session:
            registry.add_tables(session, "checked", with_rules=True)
            session.execute(CREATE_FUNCTION.format(statement=registry.bare_single(event=False)))
        for clients in bench.sizes.clients:
            yield single(bench, registry, clients)


def single(bench: Bench, registry: Registry, clients: int) -> Case:
    registry.empty("bare", "checked")
    scripts = {
        OURS: GENERATE,
        BARE: registry.bare_single(),
        FUNCTION: "select serial_number from bare.number()",
        CHECKED: registry.bare_single("checked"),
        OURS_PLANNED: GENERATE,
        BARE_PLANNED: registry.bare_single(),
    }
    return Case(
        NAME,
        clients_text(clients),
        "1/s",
        bench.rates(registry, scripts, clients, unprepared={OURS_PLANNED, BARE_PLANNED}),
        [
            Comparison(OURS, BARE, targets.SINGLE_CALL_RATE),
            Comparison(OURS_PLANNED, BARE_PLANNED, targets.SINGLE_CALL_RATE),
            Comparison(FUNCTION, BARE),
            Comparison(CHECKED, BARE),
        ],
    )
