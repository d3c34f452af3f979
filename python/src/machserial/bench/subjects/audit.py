"""What the audit trail costs many writers: serials with their events, against the same without.

The trigger that writes the events also holds the rules of new serials: the figure is that of both.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from machserial.bench import targets
from machserial.bench.context import Bench
from machserial.bench.measure import interleaved
from machserial.bench.registry import PART, Registry
from machserial.bench.results import Case, Comparison, Skipped
from machserial.errors import ExpectedError

NAME = "audit"
TITLE = "the audit trail's cost to many writers"
OURS, WITHOUT = "generate()", "without the events"
BARE, BARE_WITHOUT = "bare rows", "bare rows without the events"
# The trigger is named by its function: that is what it is for.
AUDITORS = """
select quote_ident(t.tgname)
from pg_trigger as t
inner join pg_proc as p on p.oid = t.tgfoid
where t.tgrelid = 'machserial.serials'::regclass and p.proname = '_admit_new_serials'
"""


def run(bench: Bench) -> Iterator[Case | Skipped]:
    with bench.registry() as registry:
        with registry.session() as session:
            auditors = [name for (name,) in session.execute(AUDITORS).fetchall()]
            if not auditors:
                yield Skipped(NAME, "serials are audited by something else than a trigger that can be disabled")
                return
            require_no_event(session, auditors)
        for quantity in bench.sizes.writer_batches:
            yield case(bench, registry, auditors, quantity)


def switch(session: psycopg.Connection, auditors: list[str], word: str) -> None:
    for name in auditors:
        session.execute(f"alter table machserial.serials {word} trigger {name}")


def require_no_event(session: psycopg.Connection, auditors: list[str]) -> None:
    """Without the trigger a serial is stored and nothing is told of it."""
    counts = "select (select count(*) from machserial.serials), (select count(*) from machserial.audit_events)"
    before = session.execute(counts).fetchone()
    switch(session, auditors, "disable")
    session.execute("select machserial.generate(%s)", [PART])
    switch(session, auditors, "enable")
    session.execute("select machserial.generate(%s)", [PART])
    after = session.execute(counts).fetchone()
    if (after[0] - before[0], after[1] - before[1]) != (2, 1):
        raise ExpectedError(
            "the trail cannot be measured: its trigger writes something else than the events of serials",
            remedy="make machserial.bench.subjects.audit follow what was changed",
        )


def case(bench: Bench, registry: Registry, auditors: list[str], quantity: int) -> Case:
    registry.empty("bare")
    clients = bench.sizes.writers
    generate = f"select count(*) from machserial.generate('{PART}', {quantity})"
    rows = str(quantity)
    count = "select count(*) from made"
    scripts = {
        OURS: generate,
        WITHOUT: generate,
        BARE: registry.bare_rows(rows=rows) + count,
        BARE_WITHOUT: registry.bare_rows(rows=rows, event=False) + count,
    }

    def rate(name: str) -> float:
        with registry.session() as session:
            switch(session, auditors, "disable" if name == WITHOUT else "enable")
            try:
                return bench.pgbench.rate(registry.dsn, scripts[name], clients, bench.seconds)
            finally:
                switch(session, auditors, "enable")

    variants = {name: (lambda name=name: rate(name)) for name in scripts}
    return Case(
        NAME,
        f"{clients} writers, {quantity} a transaction",
        "1/s",
        interleaved(variants, bench.rounds, registry.checkpoint),
        [Comparison(OURS, WITHOUT, targets.AUDITED_RATE), Comparison(BARE, BARE_WITHOUT)],
        remark="transactions a second",
    )
