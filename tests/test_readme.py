"""The README's SQL does what stands beside it."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```sql\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
TRANSCRIPT, IN_A_TRANSACTION, ROLES, LIMITS = BLOCKS


def run_transcript(connection: psycopg.Connection) -> None:
    """Runs the ten lines; where a comment says what comes, that must come."""
    for line in TRANSCRIPT.splitlines():
        statement, _, expected = line.partition("  --")
        cursor = connection.execute(statement)
        if expected:
            shown = [{True: "t", False: "f"}.get(value, value) for (value,) in cursor]
            assert ", ".join(shown) == expected.strip()


def test_the_ten_lines(connection: psycopg.Connection) -> None:
    run_transcript(connection)
    assert len(TRANSCRIPT.splitlines()) == 10


@pytest.mark.own_database
def test_numbers_come_with_their_work_order(connection: psycopg.Connection) -> None:
    run_transcript(connection)
    connection.execute("create table work_orders (id text, part_id text, quantity integer)")
    connection.commit()
    connection.autocommit = True
    connection.execute(IN_A_TRANSACTION)
    found = connection.execute("select count(*) from machserial.serials where work_order_id = 'WO-1'").fetchone()
    assert found == (100,)


def test_an_operator_may_do_enough_and_not_too_much(connection: psycopg.Connection) -> None:
    run_transcript(connection)
    connection.execute("create role application")
    connection.execute(ROLES)
    connection.execute("set role application")
    for allowed in (
        "select * from generate('PART-001', quantity => 200, request_id => 'r')",
        "select * from register_serials(array['X-1', 'X-1'], 'PART-001', on_conflict => 'RECORD')",
        "select * from find_serial('X-1')",
        "select accept_vendor_serial((receive_vendor_serial('V-1', 'Foundry', 'PART-001')).id)",
        "select assign_placeholders(placeholder_ids => array(select id from create_placeholders('PART-001', 3)))",
        "select pass_through(id, 'OP-10', 10) from find_serial('V-1')",
        "select allocate_block('ball valves', 3, holder => 'LINE-1', part_id => 'PART-001')",
        "select report_block(block_id, used => array(select block_serials(block_id) limit 1)) from blocks",
        "select return_block(block_id) from blocks",
        "select register_serial('V-1', 'PART-001', on_conflict => 'RECORD')",
        "update serials set status = 'RETIRED', status_reason = 'worn out' where serial_number = 'BV-0000018'",
    ):
        connection.execute(allowed)
    for forbidden in (
        "select create_trigger('PART-001', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED')",
        "select set_vendor_rule('Foundry', min_length => 3)",
        "select create_format('mine', 'M{SEQ:3}')",
        "select resolve_conflict('V-1', 'PART-001', 'RETIRE', reason => 'misread')",
        "delete from serials",
        "select migrate()",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute(forbidden)


def test_a_limited_role_sees_its_site_only(connection: psycopg.Connection) -> None:
    run_transcript(connection)
    connection.execute("create role application")
    connection.execute(ROLES + LIMITS)
    connection.execute("select register_site('ELSEWHERE')")
    connection.execute("set role application")
    assert connection.execute("select id from sites").fetchall() == [("DEFAULT",)]
    with pytest.raises(psycopg.errors.ForeignKeyViolation), connection.transaction():
        connection.execute("select generate('PART-001', site_id => 'ELSEWHERE')")
