"""What the audit trail costs and what it does, side by side on one server: ratios and rates, medians of rounds in turn.

    .venv/bin/python tests/measure_audit.py [--events 1000000] [--rounds 7] [--clients 16] [--seconds 3]

The bare rows are the same serial row and the same event row, into tables with the same indexes, in one statement that
calls nothing of machserial.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).parent))
from servers import Server, choose_bin

ROOT = Path(__file__).resolve().parent.parent

# A server as a plant runs it: what is committed is on the disk.
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "statement_timeout": "0",
}

PREPARE = """
create schema bare;
create table bare.serials (like machserial.serials including all);
create table bare.audited (like machserial.serials including all);
create trigger new_serials_are_audited after insert on bare.audited
referencing new table as new_serials for each statement execute function machserial._audit_new_serials();
create sequence bare.numbers;
"""
NEW_SERIAL = """
    insert into bare.{table} (serial_number, part_id, part_type, site_id, source, scopes)
    select 'M' || nextval('bare.numbers'), 'P', 'T', 'DEFAULT', 'SYSTEM_GENERATED', '{{SITE,PART_TYPE}}'
    from generate_series(1, {rows})
"""
BARE = """
with made as ({new_serial} returning id, serial_number, part_id, site_id)
insert into machserial.audit_events (event_type, event_source, serial_id, serial_number, part_id, site_id)
select 'SERIAL_GENERATED', 'bare', id, serial_number, part_id, site_id from made
"""


def statements(rows: int) -> dict[str, str]:
    bare = BARE.format(new_serial=NEW_SERIAL.format(table="serials", rows=rows))
    return {"bare": bare, "audited": NEW_SERIAL.format(table="audited", rows=rows)}


def transactions_per_second(server: Server, statement: str, clients: int, seconds: int) -> float:
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(" ".join(statement.split()) + ";\n")
        script.flush()
        Path(script.name).chmod(0o644)
        printed = server.run(
            "pgbench", "--no-vacuum", "--protocol=prepared", f"--client={clients}", "--jobs=2", f"--time={seconds}",
            f"--file={script.name}", "measure",
        )  # fmt: skip
    return float(re.search(r"tps = ([\d.]+)", printed)[1])


def measure_writers(server: Server, clients: int, seconds: int, rounds: int) -> None:
    for rows in (1, 100):
        rates: dict[str, list[float]] = {"bare": [], "audited": []}
        for _ in range(rounds):
            for name, statement in statements(rows).items():
                rates[name].append(transactions_per_second(server, statement, clients, seconds))
        bare, audited = (statistics.median(rates[name]) for name in ("bare", "audited"))
        print(f"{clients} writers, {rows} a transaction: bare {bare:.0f}/s, audited {audited:.0f}/s, "
              f"audited takes {bare / audited:.3f} × the time")  # fmt: skip


def seconds_for(connection: psycopg.Connection, query: str) -> float:
    started = time.monotonic()
    found = connection.execute(query).fetchall()
    passed = time.monotonic() - started
    assert "verify_audit" not in query or not found, found[:3]
    return passed


def measure_proofs(connection: psycopg.Connection, events: int, rounds: int) -> None:
    connection.execute("select machserial.seal_audit()")
    for _ in range(max(events // 100_000, 1)):
        connection.execute(statements(min(events, 100_000))["audited"])
    waiting = connection.execute(
        "select count(*) from machserial.audit_events where transaction_id >= "
        "(select horizon from machserial.audit_seals order by id desc limit 1)"
    ).fetchone()[0]
    print(f"sealing: {waiting / seconds_for(connection, 'select machserial.seal_audit()'):,.0f} events/s")
    total = connection.execute("select count(*) from machserial.audit_events").fetchone()[0]
    times = [seconds_for(connection, "select * from machserial.verify_audit(true)") for _ in range(min(rounds, 3))]
    print(f"verifying all of {total:,} events: {total / statistics.median(times):,.0f} events/s")


def measure_pages(connection: psycopg.Connection, rounds: int) -> None:
    connection.execute("analyze machserial.audit_events")
    ids = connection.execute("select min(id), max(id) from machserial.audit_events").fetchone()
    for place in (1.0, 0.5, 0.01):
        after = int(ids[0] + (ids[1] - ids[0]) * place)
        for filters in ("", "part_id => 'P', "):
            query = f"select count(*) from machserial.audit_trail({filters}after => {after})"
            times = [seconds_for(connection, query) for _ in range(rounds * 3)]
            share = f"{1 - place:.0%} of the way down"
            print(f"a page {share}, {filters or 'no filter '}: {statistics.median(times) * 1000:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=3)
    wanted = parser.parse_args()
    with Server(choose_bin(), **SETTINGS) as server:
        server.execute("create database measure")
        with psycopg.connect(server.dsn("measure"), autocommit=True) as connection:
            with connection.transaction():
                connection.execute((ROOT / "build" / "machserial.sql").read_text())
                connection.execute("select machserial.migrate()")
            connection.execute(PREPARE)
            measure_writers(server, wanted.clients, wanted.seconds, wanted.rounds)
            measure_proofs(connection, wanted.events, wanted.rounds)
            measure_pages(connection, wanted.rounds)


if __name__ == "__main__":
    main()
