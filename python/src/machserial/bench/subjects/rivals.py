"""Numbering within transactions that go on afterwards, as real ones do, against the ways people do it without.

Each way stores the same two rows in tables with the same indexes as the bare ones, and gets the index that its question
wants: only how the number is found is different.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg

from machserial.bench import targets
from machserial.bench.context import Bench, clients_text
from machserial.bench.measure import interleaved
from machserial.bench.registry import PART, SERIAL_COLUMNS, Registry
from machserial.bench.results import Case, Comparison

NAME = "rivals"
TITLE = "transactions that go on for 5 ms, beside other ways of numbering"
GOES_ON = "select pg_sleep(0.005)"
OURS, GAPLESS, BARE = "generate()", "generate(), GAPLESS", "bare rows"
LOCKED, HIGHEST, COUNT, LOOP = "locked counter row", "max() + 1 with retry", "count(*)", "Python loop"
# What a way asks for the next number, where somebody else may give the same answer.
QUESTIONS = {"highest": "coalesce(max(s.sequence_number), 0) + 1", "counting": "count(*) + 1"}

NEXT_SERIAL = """
create function {schema}.next_serial() returns text
language plpgsql
as $$
declare
    next_number bigint;
    issued text;
begin
    loop
        select {question} into next_number from {schema}.serials as s where s.part_id = '{part}';
        begin
            {rows} select serial_number into issued from made;
            return issued;
        exception when unique_violation then
            null;
        end;
    end loop;
end
$$
"""
COUNTER = """
create table locked.counters (name text primary key, n bigint not null);
insert into locked.counters values ('{part}', {last});
"""


def run(bench: Bench) -> Iterator[Case]:
    with bench.registry() as registry:
        with registry.session() as session:
            prepare(registry, session, bench.sizes.rival_serials)
        for clients in bench.sizes.rival_clients:
            yield beside_others(bench, registry, clients)
        yield beside_a_loop(bench, registry)


def prepare(registry: Registry, session: psycopg.Connection, count: int) -> None:
    """Everybody begins with so many serials, and tables as autovacuum leaves them."""
    for schema in ("locked", "highest", "counting", "looping"):
        registry.add_tables(session, schema)
        session.execute(f"create index on {schema}.serials (part_id, sequence_number)")
        registry.fill_serials(session, schema, count, is_own=True)
    registry.fill_serials(session, "machserial", count)
    registry.fill_serials(session, "bare", count)
    session.execute("select machserial.create_format('GAPLESS', 'G-{SEQ:9}', allocation => 'GAPLESS')")
    session.execute(COUNTER.format(part=PART, last=count))
    for schema, question in QUESTIONS.items():
        rows = registry.bare_rows(schema, number="next_number")
        session.execute(NEXT_SERIAL.format(schema=schema, question=question, part=PART, rows=rows))
    registry.settle(session)


def beside_others(bench: Bench, registry: Registry, clients: int) -> Case:
    statements = {
        OURS: f"select serial_number from machserial.generate('{PART}')",
        BARE: registry.bare_single(),
        GAPLESS: f"select serial_number from machserial.generate('{PART}', format => 'GAPLESS')",
        LOCKED: locked_counter(registry),
        HIGHEST: "select highest.next_serial()",
        COUNT: "select counting.next_serial()",
    }
    scripts = {name: f"begin; {one}; {GOES_ON}; end" for name, one in statements.items()}
    is_target = clients == 32
    return Case(
        NAME,
        f"{clients_text(clients)}, 5 ms transactions, {bench.sizes.rival_serials:,} serials",
        "1/s",
        # Whole runs: the slowest ways do not finish a transaction every second.
        bench.rates(registry, scripts, clients, rounds=bench.big_rounds, is_warm=False),
        [
            Comparison(OURS, BARE),
            Comparison(OURS, LOCKED, targets.LOCKED_COUNTER if is_target else None),
            Comparison(OURS, HIGHEST),
            Comparison(OURS, COUNT, targets.COUNT_ROWS if is_target else None),
            Comparison(GAPLESS, LOCKED),
        ],
    )


def locked_counter(registry: Registry) -> str:
    """The counter's row is locked until the transaction ends."""
    take = f"with taken as (update locked.counters set n = n + 1 where name = '{PART}' returning n), made as"
    return registry.bare_single("locked", number="(select n from taken)").replace("with made as", take, 1)


def beside_a_loop(bench: Bench, registry: Registry) -> Case:
    count = bench.sizes.loop

    def batch() -> float:
        with registry.session() as session:
            started = time.perf_counter()
            session.execute("select * from machserial.generate(%s, %s::integer)", [PART, count]).fetchall()
            return count / (time.perf_counter() - started)

    variants = {OURS: batch, LOOP: lambda: loop_rate(registry, count)}
    return Case(
        NAME,
        f"an order of {count:,}, one client, {bench.sizes.rival_serials:,} serials",
        "1/s",
        interleaved(variants, bench.big_rounds, registry.checkpoint),
        [Comparison(OURS, LOOP)],
        remark="serials a second",
    )


def loop_rate(registry: Registry, count: int) -> float:
    """What an application does whose mapper knows objects: look for the highest, insert, commit; the next one."""
    insert = f"insert into looping.serials ({SERIAL_COLUMNS}) values ({registry.values('%(n)s::bigint')}) returning id"
    event = (
        "insert into looping.audit_events (event_type, event_source, serial_id, serial_number, part_id, site_id) "
        "values ('SERIAL_GENERATED', 'loop', %s, %s, %s, 'DEFAULT')"
    )
    with psycopg.connect(registry.dsn) as session:
        started = time.perf_counter()
        for _ in range(count):
            (n,) = session.execute(
                "select coalesce(max(sequence_number), 0) + 1 from looping.serials where part_id = %s", [PART]
            ).fetchone()
            (serial_id,) = session.execute(insert, {"n": n}).fetchone()
            session.execute(event, [serial_id, str(n), PART])
            session.commit()
        return count / (time.perf_counter() - started)
