"""Pages of a long audit trail: the newest one, one far down, and what somebody looks for."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from machserial.bench.context import Bench
from machserial.bench.measure import interleaved, timer
from machserial.bench.results import Case, Comparison, figures

NAME = "audit_pages"
TITLE = "pages of a long audit trail"
NEWEST = "newest page"
PAGE = "select count(*) from machserial.audit_trail({})"
# At a share of all events, newest first.
PLACES = {"in the middle": 0.5, "far end": 0.999}
FILTERS = {
    "of a part": "part_id => 'P7'",
    "of a part, in the middle": "part_id => 'P7', after => {middle}",
    "of a serial": "serial_id => {middle_serial}",
    "of a rare type": "event_type => 'SERIAL_RETIRED'",
    "by a person, one in a hundred": "performed_by => 'inspector'",
    "of a day in the middle": "since => now() - interval '46 days', until => now() - interval '45 days'",
}
SPAN = "select min(id), max(id) from machserial.audit_events where event_source = 'bench' and serial_id is not null"


def run(bench: Bench) -> Iterator[Case]:
    total = bench.sizes.audit_events
    with bench.registry() as registry, registry.session() as session:
        registry.fill_events(session, "machserial", total)
        registry.settle(session)
        queries = pages(session, total)
        for query in queries.values():
            session.execute(query).fetchall()
        raw = interleaved(
            {name: timer(session, query) for name, query in queries.items()}, bench.rounds * 3, lambda: None
        )
    yield Case(
        NAME,
        f"50 of {total:,} events",
        "ms",
        figures(raw, 1000),
        [Comparison(name, NEWEST if name != NEWEST else "") for name in queries],
    )


def pages(session: psycopg.Connection, total: int) -> dict[str, str]:
    first, last = session.execute(SPAN).fetchone()
    ids = {name: last - int((last - first) * share) for name, share in PLACES.items()}
    given = {"middle": ids["in the middle"], "middle_serial": total // 2}
    return {
        NEWEST: PAGE.format(""),
        **{name: PAGE.format(f"after => {event_id}") for name, event_id in ids.items()},
        **{name: PAGE.format(arguments.format(**given)) for name, arguments in FILTERS.items()},
    }
