"""Random numbers while their space fills up, against an empty space."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import psycopg

from machserial.bench.context import Bench
from machserial.bench.measure import interleaved
from machserial.bench.registry import PART, PART_TYPE, Registry, rules_off
from machserial.bench.results import Case, Comparison, figures

NAME = "random_patterns"
TITLE = "random numbers in an almost full space"
FILLED = (0, 50, 90, 99)  # percent
FILL = """
insert into machserial.serials (serial_number, part_id, part_type, source, scopes, format_id)
select %(prefix)s || lpad(n::text, %(digits)s, '0'), %(part)s, %(type)s, 'SYSTEM_GENERATED', '{SITE,PART_TYPE}', null
from generate_series(0, %(space)s - 1) as n
-- Scattered: a multiplication by a number that has no factor in common with powers of ten.
where n * 7919::bigint %% 100 < %(percent)s
"""


def run(bench: Bench) -> Iterator[Case]:
    space = bench.sizes.random_space
    digits = len(str(space)) - 1
    with bench.registry() as registry:
        with registry.session() as session:
            for percent in FILLED:
                prepare(session, percent, space, digits)
            registry.settle(session)
        for quantity in sorted({1, max(1, space // 10_000)}):
            yield case(bench, registry, quantity)


def prepare(session: psycopg.Connection, percent: int, space: int, digits: int) -> None:
    prefix = f"R{percent:02}-"
    session.execute(
        "select machserial.create_format(%s, %s)", [name_of(percent), f"{prefix}{{RANDOM:numeric:{digits}}}"]
    )
    given = {"prefix": prefix, "digits": digits, "space": space, "percent": percent}
    with rules_off(session):
        session.execute(FILL, given | {"part": PART, "type": PART_TYPE})


def case(bench: Bench, registry: Registry, quantity: int) -> Case:
    with registry.session() as session:
        variants = {name_of(percent): undone(session, name_of(percent), quantity) for percent in FILLED}
        for variant in variants.values():
            variant()
        raw = interleaved(variants, bench.rounds, registry.checkpoint)
    empty = name_of(FILLED[0])
    return Case(
        NAME,
        f"{quantity:,} of a space of {bench.sizes.random_space:,}",
        "ms",
        figures(raw, 1000),
        [Comparison(name_of(percent), empty) for percent in FILLED[1:]],
        remark="each taken back, so that the space stays as full",
    )


def undone(session: psycopg.Connection, name: str, quantity: int, repeats: int = 10) -> Callable[[], float]:
    statement = f"select count(*) from machserial.generate('{PART}', %s::integer, %s)"

    def measure() -> float:
        passed = 0.0
        for _ in range(repeats):
            with session.transaction(force_rollback=True):
                started = time.perf_counter()
                session.execute(statement, [quantity, name], prepare=True)
                passed += time.perf_counter() - started
        return passed / repeats

    return measure


def name_of(percent: int) -> str:
    return f"{percent} % full"
