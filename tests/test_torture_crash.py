"""kill -9 under writers of every kind, for one cycle; and that the reckoning afterwards would have noticed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import psycopg
import pytest
from support import value
from torture.crash import claim_indexes
from torture.crew import TESTS
from torture.ledger import Ledger, Reader
from torture.plant import furnish
from torture.reckoning import (
    CHECKS,
    Reckoning,
    audit,
    blocks,
    counters_past_what_was_issued,
    executions,
    faults,
    gapless,
    lost_transactions,
    nothing_twice,
    own_checks,
    requests_answered_alike,
    things_as_told,
)
from torture.verbs import VERBS
from torture.writer import Writer

# Long, and nothing in it depends on how machserial was installed.
ONE_MODE = True

SEED = 3
TRANSACTIONS = 70


def test_it_holds(torture):
    run = torture.holds("crash", cycles=1)
    assert run.counts["acknowledged"] > 50


@pytest.fixture
def folder(connection, deployed_dsn, tmp_path) -> Path:
    """What writers need, and a furnished database."""
    furnish(connection)
    (tmp_path / "gate").touch()
    (tmp_path / "dsn").write_text(deployed_dsn)
    return tmp_path


def written(folder: Path, number: int = 1) -> list:
    reader = Reader(folder / f"{number}.ledger")
    reader.read_on()
    assert reader.faults == []
    return list(reader.attempts.values())


# Behind the back of the triggers, as only a fault can be: who notices, what it says, and the fault.
FAULTS = [
    (
        lost_transactions,
        "acknowledged transactions are lost",
        "delete from shop.done where token in (select min(token) from shop.done)",
    ),
    (lost_transactions, "of which nobody asked for COMMIT", "insert into shop.done values ('nobody')"),
    (
        things_as_told,
        "serials are lost",
        "delete from machserial.serials where id in (select max(id) from machserial.serials)",
    ),
    (
        things_as_told,
        "serials are there of which no ledger knows",
        "insert into machserial.serials (serial_number, part_id, part_type, scopes) "
        "values ('STRANGE', 'PUMP', 'MACHINE', '{SITE}')",
    ),
    (
        things_as_told,
        "serials are not as was told",
        "update machserial.serials set status = 'RETIRED' where id in "
        "(select max(id) from machserial.serials where status = 'ACTIVE')",
    ),
    (things_as_told, "vendor serials are lost", "delete from machserial.vendor_serials"),
    (
        things_as_told,
        "placeholders are not as was told",
        "update machserial.late_assignment_placeholders set status = 'PENDING', serial_id = null, assigned_at = null, "
        "assigned_by = null, assigned_operation_code = null where status = 'SERIALIZED'",
    ),
    (things_as_told, "propagations are lost", "delete from machserial.serial_propagations"),
    (things_as_told, "conflicts are lost", "delete from machserial.serial_conflicts"),
    (things_as_told, "orders are not as was told", "update shop.orders set numbers = numbers[2:]"),
    (blocks, "blocks are lost", "delete from machserial.number_blocks"),
    (blocks, "blocks are not as was told", "delete from machserial.block_usages"),
    (
        blocks,
        "blocks that overlap",
        "alter table machserial.number_blocks drop constraint number_blocks_do_not_overlap; "
        "update machserial.number_blocks as b set first_value = o.first_value, "
        "last_value = o.first_value + b.last_value - b.first_value from machserial.number_blocks as o "
        "where o.id = (select min(id) from machserial.number_blocks) and b.id > o.id",
    ),
    (
        blocks,
        "numbers of a block were given to others",
        "insert into machserial.serials (serial_number, part_id, part_type, scopes, format_id, sequence_number) "
        "select 'B' || b.first_value, 'CHIP', 'ELECTRONICS', '{SITE}', c.format_id, b.first_value "
        "from machserial.number_blocks as b inner join machserial.counters as c on c.id = b.counter_id "
        "order by b.id desc limit 1",
    ),
    (
        nothing_twice,
        "numbers are on record twice",
        "drop index {claim_indexes}; insert into machserial.serials (serial_number, part_id, part_type, scopes) "
        "select serial_number, part_id, part_type, scopes from machserial.serials where holds_claim",
    ),
    (
        gapless,
        "GAPLESS has gaps",
        "delete from machserial.serials where sequence_number = 2 and format_id in "
        "(select id from machserial.serial_formats where name = 'GAPLESS')",
    ),
    (
        gapless,
        "and its counter says",
        "update machserial.counters set last_value = last_value + 1 where last_value is not null",
    ),
    (
        counters_past_what_was_issued,
        "1000000 was issued",
        "update machserial.serials set sequence_number = 1000000 where id in (select max(s.id) from "
        "machserial.serials as s inner join machserial.serial_formats as f on f.id = s.format_id "
        "where f.name = 'SEQUENCE')",
    ),
    (executions, "executions of triggers are", "delete from machserial.trigger_executions"),
    (
        audit,
        "serials without one event of how they came about",
        "delete from machserial.audit_events where event_type = 'SERIAL_REGISTERED'",
    ),
    (
        audit,
        "events of serials that are not there",
        "update machserial.audit_events set serial_id = -1 where serial_id is not null",
    ),
    (
        audit,
        "committed transactions that are not in the audit trail",
        "update machserial.audit_events set performed_by = 'postgres'",
    ),
    (
        audit,
        "events of transactions that are not there",
        "update machserial.audit_events set performed_by = 'nobody'",
    ),
    (
        requests_answered_alike,
        "and now with",
        "update machserial.serials set generation_request_id = null",
    ),
    (own_checks, "verify_audit(true) finds", "update machserial.audit_events set reason = 'none'"),
    (own_checks, "integrity() finds", "drop index {claim_indexes}"),
]


def test_the_reckoning_notices(connection, folder, deployed_dsn):
    """A writer's work is sound; and with each fault that is planted into it, it is not."""
    Writer(folder, 1, SEED).run(TRANSACTIONS)
    attempts = written(folder)
    done = {verb for a in attempts if a.is_acknowledged for verb in a.verbs}
    assert done >= {verb.__name__ for verb, (weight, _) in VERBS.items() if weight > 1}
    assert list(faults(deployed_dsn, attempts)) == []
    assert {check for check, _, _ in FAULTS} == set(CHECKS)
    missed = {}
    for check, expected, fault in FAULTS:
        found = found_with(connection, attempts, check, fault)
        if not any(expected in text for text in found):
            missed[expected] = found
    assert missed == {}


def found_with(connection: psycopg.Connection, attempts: list, check: object, fault: str) -> list[str]:
    """What a check finds when there is a fault, which is undone again."""
    with connection.transaction(force_rollback=True):
        connection.execute("set local session_replication_role = replica")
        connection.execute(fault.replace("{claim_indexes}", ", ".join(claim_indexes(connection))))
        connection.execute("set local session_replication_role = origin")
        return list(check(Reckoning(connection, attempts)))


def test_numbers_that_only_the_ledgers_have_twice(connection, folder, deployed_dsn):
    Writer(folder, 1, SEED).run(5)
    attempts = written(folder)
    forged = deepcopy(next(a for a in attempts if a.is_acknowledged and any(k == "serial" for k, *_ in a.facts)))
    forged.token = "forged"
    forged.facts = [[kind, -1, what] for kind, _, what in forged.facts if kind == "serial"]
    assert any("acknowledged twice" in fault for fault in faults(deployed_dsn, [*attempts, forged]))


def test_what_the_server_counts_backwards_is_noticed(connection, folder, deployed_dsn):
    """A sequence that stands where it has been before."""
    Writer(folder, 1, SEED, verbs=["generate"]).run(12)
    counter = value(
        connection,
        "select c.id from machserial.counters as c inner join machserial.serial_formats as f on f.id = c.format_id "
        "where f.name = 'SEQUENCE'",
    )
    connection.execute(f"select setval('machserial.counter_{counter}', 1)")
    connection.commit()
    found = list(faults(deployed_dsn, written(folder)))
    assert any(f"counter {counter} of SEQUENCE stands at 1" in fault for fault in found), found


def test_a_writer_that_is_killed_knows_what_it_did(folder, connection, deployed_dsn):
    """Half a line at the end of its ledger is cut off, and what was under way is asked for."""
    command = [sys.executable, "-m", "torture.writer", str(folder), "1", str(SEED), json.dumps({"verbs": ["generate"]})]
    process = subprocess.Popen(command, cwd=TESTS, env={"PYTHONPATH": str(TESTS), "PATH": "/usr/bin:/bin"})
    ledger = folder / "1.ledger"
    while not ledger.exists() or ledger.read_bytes().count(b"\n") < 12:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait(10) == -signal.SIGKILL
    with ledger.open("ab") as file:
        file.write(b'{"token": "1-')
    again = Writer(folder, 1, SEED, verbs=["generate"])
    # It may have something to settle, and then a request to repeat.
    again.run(5)
    assert ledger.read_bytes().endswith(b"\n")
    attempts = written(folder)
    assert len({a.token for a in attempts}) == len(attempts)
    assert all(a.outcome for a in attempts)
    assert list(faults(deployed_dsn, attempts)) == []


def test_an_unanswered_commit_is_settled_and_its_request_repeated(folder, connection, deployed_dsn):
    """Of two transactions with a request the answer never came; one is there, the other is not."""
    Writer(folder, 1, SEED, verbs=["take_block"]).run(6)
    last = next(a for a in reversed(written(folder)) if a.is_acknowledged and a.requests)
    ledger = Ledger(folder / "1.ledger")
    ledger.note(last.token, "ambiguous")
    Writer(folder, 1, SEED, verbs=["take_block"]).run(1)
    attempts = written(folder)
    assert [(a.committed) for a in attempts if a.token == last.token] == [True]
    assert attempts[-1].verbs == ["repeat"]
    assert [fact for fact in attempts[-1].facts if fact[0] == "block"] == []

    never = attempts[-1].token.replace("-", "-9")
    ledger = Ledger(folder / "1.ledger")
    given = {**last.requests[0][1], "request_id": "never answered"}
    ledger.note(never, "intent", verbs=["take_block"])
    ledger.note(never, "commit", facts=last.facts, requests=[["allocate_block", given]])
    ledger.note(never, "ambiguous")
    Writer(folder, 1, SEED, verbs=["take_block"]).run(1)
    attempts = written(folder)
    assert [a.committed for a in attempts if a.token == never] == [False]
    assert [fact for fact in attempts[-1].facts if fact[0] == "block"] != []
    assert list(faults(deployed_dsn, attempts)) == []
