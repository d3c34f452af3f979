"""The SQL of the original system's troubleshooting guide runs here as printed there, and gives the meant answer.

Only its placeholders 'trigger-id' and 'serial-id' are filled in, as the reader of the guide does.
"""

from __future__ import annotations

import psycopg
import pytest
from psycopg.rows import namedtuple_row
from support import call, column, generated, make_format, make_part, refused, register, value


@pytest.fixture
def factory(connection):
    """PART-001, which machserial numbers SERIAL-001, SERIAL-002, …, and PART-002, at sites DEFAULT and SITE-001."""
    connection.execute("set search_path = machserial, public")
    connection.execute("set machserial.actor = 'Ada'")
    call(connection, "register_site", site_id="SITE-001")
    for part_id, part_type in [("PART-001", "PUMP"), ("PART-002", "VALVE")]:
        make_part(connection, part_id, part_type)
    make_format(connection, "pumps", "SERIAL-{SEQ:3}")
    call(connection, "assign_format", part_id="PART-001", format="pumps")
    return connection


def rows(connection: psycopg.Connection, statement: str) -> list:
    return connection.cursor(row_factory=namedtuple_row).execute(statement).fetchall()


def plan(connection: psycopg.Connection, statement: str) -> str:
    return "\n".join(column(connection, statement))


# Duplicate serial numbers


def test_duplicates_among_vendor_serials_are_found(factory):
    def receive(number: str, part_id: str = "PART-001", **arguments: object) -> int:
        received = call(
            factory, "receive_vendor_serial",
            serial_number=number, vendor_name="Foundry", part_id=part_id, **arguments,
        )  # fmt: skip
        return received[0].id

    sent_twice = receive("DUPLICATE-SERIAL-001")
    call(factory, "reject_vendor_serial", vendor_serial_id=sent_twice, reason="blowhole")
    again, elsewhere = receive("DUPLICATE-SERIAL-001"), receive("DUPLICATE-SERIAL-001", "PART-002", site_id="SITE-001")
    receive("ONCE")
    assert rows(
        factory,
        """\
SELECT serial_number, COUNT(*)
FROM vendor_serials
GROUP BY serial_number
HAVING COUNT(*) > 1;
""",
    ) == [("DUPLICATE-SERIAL-001", 3)]
    found = rows(
        factory,
        """\
SELECT id, serial_number, part_id, status, created_at
FROM vendor_serials
WHERE serial_number = 'DUPLICATE-SERIAL-001'
ORDER BY created_at;
""",
    )
    assert sorted((row.id, row.part_id, row.status) for row in found) == [
        (sent_twice, "PART-001", "REJECTED"),
        (again, "PART-001", "PENDING"),
        (elsewhere, "PART-002", "PENDING"),
    ]


def test_the_conflict_of_the_guide_is_resolved_with_the_id_to_keep(factory):
    kept = call(
        factory, "receive_vendor_serial", serial_number="DUPLICATE-SERIAL-001", vendor_name="V", part_id="PART-001"
    )[0].id
    register(factory, ["DUPLICATE-SERIAL-001"], "PART-001", on_conflict="RECORD")
    (resolved,) = call(
        factory, "resolve_conflict", serial_number="DUPLICATE-SERIAL-001", part_id="PART-001", resolution="KEEP",
        keep_serial_id=kept, reason="the label was printed twice",
    )  # fmt: skip
    assert (resolved.status, resolved.kept_serial_id) == ("RESOLVED", kept)


# Serials are not generated


def test_the_triggers_of_a_part_are_found_and_their_statistics_reset(factory):
    trigger, other = (
        call(
            factory, "create_trigger", part_id="PART-001", trigger_type=event, assignment_type="SYSTEM_GENERATED"
        )[0].id
        for event in ("WORK_ORDER_CREATE", "QUALITY_CHECKPOINT")
    )
    call(factory, "disable_trigger", trigger_id=other)
    for _event in range(3):
        call(factory, "fire", trigger_type="WORK_ORDER_CREATE", part_id="PART-001")
    verify = """\
SELECT * FROM serial_assignment_triggers
WHERE part_id = 'PART-001' AND enabled = true;
"""
    (found,) = rows(factory, verify)
    assert (found.id, found.trigger_type, found.execution_count) == (trigger, "WORK_ORDER_CREATE", 3)
    reset = factory.execute(
        "UPDATE serial_assignment_triggers SET execution_count = 0 WHERE id = 'trigger-id';".replace(
            "trigger-id", str(trigger)
        )
    )
    assert reset.rowcount == 1 and rows(factory, verify)[0].execution_count == 0
    call(factory, "fire", trigger_type="WORK_ORDER_CREATE", part_id="PART-001")
    assert rows(factory, verify)[0].execution_count == 1


def test_a_part_is_found(factory):
    (part,) = rows(factory, "SELECT * FROM parts WHERE id = 'PART-001';")
    assert (part.id, part.part_type) == ("PART-001", "PUMP")


def test_the_sequence_is_verified_and_cannot_be_set_back_over_issued_numbers(factory):
    register(factory, ["BY HAND"], "PART-001")
    generated(factory, "PART-001", 12)
    verify = """\
SELECT * FROM system_generated_serials
WHERE part_id = 'PART-001'
ORDER BY created_at DESC LIMIT 10;
"""
    found = rows(factory, verify)
    assert len(found) == 10 and {row.part_id for row in found} == {"PART-001"}
    assert all(row.serial_number == f"SERIAL-{row.sequence_number:03}" for row in found)
    with refused(factory, "55000") as refusal:
        factory.execute(
            """\
UPDATE system_generated_serials
SET sequence_number = 1000
WHERE part_id = 'PART-001';
"""
        )
    assert "machserial.reset_counter(" in refusal.hint
    call(factory, "reset_counter", format="pumps", next_value=500, reason="moved")
    assert generated(factory, "PART-001") == ["SERIAL-500"]


# The audit trail


def test_the_audit_trail_of_a_part_is_read_by_index(factory):
    make_format(factory, "many", "M{SEQ:6}")
    generated(factory, "PART-002", 30_000, format="many")
    generated(factory, "PART-001", 60)
    factory.execute("analyze audit_events")
    query = """\
SELECT * FROM audit_events
WHERE part_id = 'PART-001' AND performed_at > now() - interval '30 days'
LIMIT 50;
"""
    explained = plan(factory, f"EXPLAIN ANALYZE\n{query}")
    # The partitions of the coming months are empty: reading them takes no index.
    partition = value(factory, "select distinct tableoid::regclass::text from audit_events")
    assert f"{partition}_part_id_performed_at" in explained and f"Seq Scan on {partition}" not in explained
    assert [row.part_id for row in rows(factory, query)] == ["PART-001"] * 50


def test_no_event_lacks_its_type_or_its_actor(factory):
    generated(factory, "PART-001", 3)
    assert value(factory, "select count(*) from audit_events") >= 3
    assert rows(
        factory,
        """\
SELECT COUNT(*) FROM audit_events
WHERE event_type IS NULL OR performed_by IS NULL;
""",
    ) == [(0,)]


@pytest.mark.own_database
def test_the_events_of_a_serial_are_continuous(factory):
    ((serial_id, *_others),) = call(factory, "generate", part_id="PART-001")
    factory.commit()
    call(factory, "retire_serial", serial_id=serial_id, reason="worn out")
    events = rows(
        factory,
        """\
SELECT id, event_type, performed_at
FROM audit_events
WHERE serial_id = 'serial-id'
ORDER BY performed_at;
""".replace("serial-id", str(serial_id)),
    )
    assert [event.event_type for event in events] == ["SERIAL_GENERATED", "SERIAL_RETIRED"]
    assert events[0].id < events[1].id and events[0].performed_at < events[1].performed_at


# Uniqueness


def test_a_claim_on_a_site_is_checked_by_index(factory):
    make_format(factory, "many", "M{SEQ:6}")
    generated(factory, "PART-002", 50_000, format="many", site_id="SITE-001")
    generated(factory, "PART-001", site_id="SITE-001")
    factory.execute("analyze serials")
    query = """\
SELECT COUNT(*) FROM serial_uniqueness_checks
WHERE serial_number = 'SERIAL-001'
AND scope = 'SITE'
AND site_id = 'SITE-001';
"""
    explained = plan(factory, f"EXPLAIN ANALYZE\n{query}")
    assert "serials_site_key" in explained and "Seq Scan" not in explained
    assert rows(factory, query) == [(1,)]
    register(factory, ["SERIAL-001"], "PART-001", site_id="SITE-001", on_conflict="RECORD")
    assert rows(factory, query) == [(2,)]


# Orphans


def test_there_are_no_orphans_and_nothing_to_clean(factory):
    parents = [
        call(factory, "receive_vendor_serial", serial_number=number, vendor_name="V", part_id="PART-002")[0].id
        for number in ("V-1", "V-2")
    ]
    children = [row.serial_id for row in call(factory, "generate", part_id="PART-001", quantity=3)]
    for parent in parents:
        call(factory, "accept_vendor_serial", vendor_serial_id=parent)
    call(
        factory, "merge",
        source_serial_ids=parents, target_serial_id=children[0], operation_code="OP-1", routing_sequence=1,
    )  # fmt: skip
    find = """\
SELECT sp.* FROM serial_propagations sp
LEFT JOIN vendor_serials vs ON sp.parent_serial_id = vs.id
WHERE sp.parent_serial_id IS NOT NULL AND vs.id IS NULL;
"""
    assert rows(factory, find) == []
    # What the guide would have taken for orphans: a generated parent of a serial that came by hand.
    (by_hand,) = register(factory, ["BY HAND"], "PART-001")
    call(
        factory, "split",
        source_serial_id=children[1], target_serial_ids=[by_hand.serial_id], operation_code="OP-2", routing_sequence=2,
    )  # fmt: skip
    assert [row.parent_serial_id for row in rows(factory, find)] == [children[1]]
    before = rows(factory, "select * from serial_propagations order by id")
    with refused(factory, "55000"):
        factory.execute(
            """\
DELETE FROM serial_propagations
WHERE parent_serial_id NOT IN (SELECT id FROM vendor_serials)
AND child_serial_id NOT IN (SELECT id FROM system_generated_serials);
"""
        )
    assert rows(factory, "select * from serial_propagations order by id") == before and len(before) == 3
