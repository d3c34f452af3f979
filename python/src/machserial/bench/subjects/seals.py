"""Sealing the audit trail, and verifying all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg

from machserial.bench.context import Bench
from machserial.bench.registry import PART
from machserial.bench.results import Case, Comparison
from machserial.errors import ExpectedError

NAME = "seals"
TITLE = "sealing and verifying"
GENERATE = f"select count(*) from machserial.generate('{PART}', %s::integer)"
LARGEST = 100_000


def run(bench: Bench) -> Iterator[Case]:
    raw: dict[str, list[float]] = {"sealing": [], "verifying everything": []}
    with bench.registry() as registry, registry.session() as session:
        session.execute("select machserial.seal_audit()")
        for _ in range(bench.big_rounds):
            add_events(session, bench.sizes.seal_events)
            registry.checkpoint()
            raw["sealing"].append(sealing(session))
            raw["verifying everything"].append(verifying(session))
        total = session.execute("select count(*) from machserial.audit_events").fetchone()[0]
    yield Case(
        NAME,
        f"{bench.sizes.seal_events:,} new events a round, {total:,} in the end",
        "1/s",
        raw,
        [Comparison(name) for name in raw],
        remark="events a second",
    )


def add_events(session: psycopg.Connection, count: int) -> None:
    for begin in range(0, count, LARGEST):
        session.execute(GENERATE, [min(LARGEST, count - begin)])


def sealing(session: psycopg.Connection) -> float:
    started = time.perf_counter()
    (sealed,) = session.execute("select machserial.seal_audit()").fetchone()
    passed = time.perf_counter() - started
    if not sealed:
        raise ExpectedError(
            "nothing could be sealed",
            detail="a transaction somewhere in the cluster has been open since before",
            remedy="end it, and run the subject again",
        )
    return sealed / passed


def verifying(session: psycopg.Connection) -> float:
    (events,) = session.execute("select count(*) from machserial.audit_events").fetchone()
    started = time.perf_counter()
    found = session.execute("select * from machserial.verify_audit(true)").fetchall()
    passed = time.perf_counter() - started
    if found:
        raise ExpectedError("the trail is not intact", detail=str(found[0]), remedy="report it")
    return events / passed
