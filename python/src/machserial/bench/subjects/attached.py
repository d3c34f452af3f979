"""Triggers on an application's own table: an insert that numbers what it inserts, against doing that by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import psycopg

from machserial.bench.context import Bench
from machserial.bench.measure import interleaved
from machserial.bench.registry import PART, Registry
from machserial.bench.results import Case, Comparison, figures

NAME = "attached"
TITLE = "triggers on a table of work orders"
ATTACHED, BY_HAND, BARE = "attached table", "insert, then generate()", "insert, then bare rows"
PREPARE = f"""
create schema shop;
create table shop.orders (
    id bigint not null generated always as identity primary key, part_id text not null, quantity integer not null
);
create table shop.plain_orders (like shop.orders including all);
select machserial.create_trigger('{PART}', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED');
select machserial.attach('shop.orders', 'WORK_ORDER_CREATE', 'part_id', 'quantity');
"""
INSERT = "insert into shop.{} (part_id, quantity) select '" + PART + "', 1 from generate_series(1, %s::integer)"
GENERATE = f"select count(*) from machserial.generate('{PART}', %s::integer)"


def run(bench: Bench) -> Iterator[Case]:
    with bench.registry() as registry:
        with registry.session() as session:
            session.execute(PREPARE)
        for rows in bench.sizes.attached_rows:
            yield case(bench, registry, rows)


def case(bench: Bench, registry: Registry, rows: int) -> Case:
    statements = {
        ATTACHED: [INSERT.format("orders")],
        BY_HAND: [INSERT.format("plain_orders"), GENERATE],
        BARE: [INSERT.format("plain_orders"), registry.bare_batch()],
    }
    with bench.sessions(registry, len(statements)) as sessions:
        variants = {
            name: transactions(session, some, rows, bench.repeats(rows))
            for session, (name, some) in zip(sessions, statements.items(), strict=True)
        }
        for session, some in zip(sessions, statements.values(), strict=True):
            transactions(session, some, 1, 6)()
        raw = interleaved(variants, bench.rounds, registry.checkpoint)
    return Case(
        NAME,
        f"{rows:,} row{'s' if rows > 1 else ''} in one insert",
        "ms",
        figures(raw, 1000),
        [Comparison(ATTACHED, BY_HAND), Comparison(ATTACHED, BARE)],
    )


def transactions(session: psycopg.Connection, statements: list[str], rows: int, repeats: int) -> Callable[[], float]:
    """Seconds of a transaction of all the statements, on average."""

    def measure() -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            with session.transaction():
                for statement in statements:
                    session.execute(statement, [rows], prepare=True)
        return (time.perf_counter() - started) / repeats

    return measure
