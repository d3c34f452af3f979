"""What a check digit costs: a batch with each algorithm, against the same batch without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg

from machserial.bench import targets
from machserial.bench.context import Bench
from machserial.bench.measure import interleaved, timed
from machserial.bench.registry import PART
from machserial.bench.results import Case, Comparison, figures

NAME = "check_digits"
TITLE = "each check algorithm, against none"
OF_DIGITS = (
    *("luhn", "luhn36", "mod10", "gs1_pair", "mod11", "verhoeff", "damm", "mod11_2", "mod37_2", "mod97_10"),
    *("mod1271_36", "mod11_10", "mod37_36"),
)
# They know letters only: the sequence is of letters, and so it is in the numbers that they are compared with.
OF_LETTERS = ("mod661_26", "mod27_26")
NONE, NONE_OF_LETTERS = "none", "none (letters)"


def run(bench: Bench) -> Iterator[Case]:
    quantity = bench.sizes.check_quantity
    names = (NONE, *OF_DIGITS, NONE_OF_LETTERS, *OF_LETTERS)
    with bench.registry() as registry, registry.session() as session:
        for ordinal, name in enumerate(names):
            session.execute("select machserial.create_format(%s, %s)", [name, pattern(ordinal, name)])
        variants = {name: batch(session, name, quantity) for name in names}

        def before() -> None:
            # So many rows would make the last variant's indexes larger than the first one's.
            registry.empty()
            registry.checkpoint()

        raw = interleaved(variants, bench.rounds, before)
    yield Case(NAME, f"batch of {quantity:,}", "ms", figures(raw, 1000), comparisons())


def pattern(ordinal: int, name: str) -> str:
    """Of the same length but for the check digit itself."""
    sequence = "{SEQ:9:alpha}" if name in (NONE_OF_LETTERS, *OF_LETTERS) else "{SEQ:9}"
    check = "" if name in (NONE, NONE_OF_LETTERS) else f"{{CHECK:{name}}}"
    return f"{chr(ord('A') + ordinal)}-{sequence}{check}"


def batch(session: psycopg.Connection, name: str, quantity: int) -> Callable[[], float]:
    statement = f"select count(*) from machserial.generate('{PART}', %s::integer, '{name}')"

    def measure() -> float:
        # After the tables were emptied, everything is planned anew.
        session.execute(statement, [min(quantity, 100)], prepare=True)
        return timed(session, statement, [quantity])

    return measure


def comparisons() -> list[Comparison]:
    return [
        *(Comparison(name, NONE, targets.CHECK_DIGIT) for name in OF_DIGITS),
        *(Comparison(name, NONE_OF_LETTERS, targets.CHECK_DIGIT) for name in OF_LETTERS),
    ]
