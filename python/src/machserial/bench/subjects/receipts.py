"""Vendors' numbers received in bulk, against the bare rows and against a call each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import psycopg

from machserial.bench.context import Bench
from machserial.bench.measure import interleaved, timed
from machserial.bench.registry import LIKE, PART, PART_TYPE
from machserial.bench.results import Case, Comparison, figures
from machserial.errors import ExpectedError

NAME = "receipts"
TITLE = "vendors' numbers in bulk"
BULK, EACH, BARE = "receive_vendor_serials()", "a call each", "bare rows"
# Three rows a number: the serial, what is known of its receipt, and an event.
BARE_ROWS = f"""
with made as (
    insert into bare.serials (serial_number, part_id, part_type, site_id, source, status, scopes)
    select n, '{PART}', '{PART_TYPE}', 'DEFAULT', 'VENDOR', 'PENDING', '{{SITE,PART_TYPE}}'
    from unnest(%s::text[]) as n
    returning id, serial_number, part_id, site_id
),
received as (
    insert into bare.vendor_serials (
        id, serial_number, part_id, site_id, status, vendor_name, received_date, validated_at
    )
    select id, serial_number, part_id, site_id, 'PENDING', 'ACME', now(), now() from made
    returning id, serial_number, part_id, site_id, vendor_name, received_date, validation_errors
),
told as (
    insert into bare.audit_events (event_type, event_source, serial_id, serial_number, part_id, site_id, details)
    select
        'VENDOR_RECEIVED', current_setting('application_name'), id, serial_number, part_id, site_id,
        jsonb_build_object(
            'vendor_name', vendor_name, 'received_date', received_date, 'validation_errors', validation_errors
        )
    from received
)
select count(*) from made
"""
STATEMENTS = {
    BULK: f"select count(*) from machserial.receive_vendor_serials('ACME', '{PART}', %s::text[])",
    BARE: BARE_ROWS,
    EACH: f"select count(machserial.receive_vendor_serial(n, 'ACME', '{PART}')) from unnest(%s::text[]) as n",
}


def run(bench: Bench) -> Iterator[Case]:
    quantity = bench.sizes.receipts
    with bench.registry() as registry:
        with registry.session() as session:
            session.execute(f"create table bare.vendor_serials (like machserial.vendor_serials {LIKE})")
            require_same_events(session)
        with bench.sessions(registry, len(STATEMENTS)) as sessions:
            variants = {
                name: receipt(session, statement, name, quantity)
                for session, (name, statement) in zip(sessions, STATEMENTS.items(), strict=True)
            }
            raw = interleaved(variants, bench.rounds, registry.checkpoint)
    yield Case(
        NAME,
        f"{quantity:,} numbers",
        "ms",
        figures(raw, 1000),
        [Comparison(BULK, BARE), Comparison(BULK, EACH)],
    )


def require_same_events(session: psycopg.Connection) -> None:
    """The bare rows are only what they are said to be while a receipt writes as many events."""
    events = "select count(*) from {}.audit_events where serial_number = 'V'"
    counts = []
    for schema, name in (("machserial", BULK), ("bare", BARE)):
        session.execute(STATEMENTS[name], [["V"]])
        counts.append(session.execute(events.format(schema)).fetchone()[0])
    if counts[0] != counts[1]:
        raise ExpectedError(
            f"the bare rows have {counts[1]} events for a receipt, machserial {counts[0]}",
            remedy="make machserial.bench.subjects.receipts store the same",
        )


def receipt(session: psycopg.Connection, statement: str, name: str, quantity: int) -> Callable[[], float]:
    """Each time other numbers. The first few are not timed: the session makes its plans."""
    numbers = (f"{name[0]}{n:09}" for n in itertools.count())
    for _ in range(6):
        session.execute(statement, [list(itertools.islice(numbers, 5))], prepare=True)
    return lambda: timed(session, statement, [list(itertools.islice(numbers, quantity))])
