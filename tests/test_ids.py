"""Ids that are behind their table, as after a cutover or a COPY with ids: nothing is taken for a duplicate number that
is none, no number burns, and the error says what mends it.
"""

from __future__ import annotations

import threading

import psycopg
import pytest
from support import call, column, generated, make_format, make_part, refused, register, value

pytestmark = pytest.mark.own_database

BEHIND = "select setval('machserial.serials_id_seq', 2)"

# By verb: what it counts on, one call.
CALLS = {
    "generate() by a plan": "select * from machserial.generate('P')",
    "a batch": "select * from machserial.generate('P', 5)",
    "a large batch": "select * from machserial.generate('P', 500)",
    "with a request": "select * from machserial.generate('P', 3, request_id => 'r')",
    "without gaps": "select * from machserial.generate('P', 40, format => 'gapless')",
    "one without gaps": "select * from machserial.generate('P', format => 'gapless')",
    "many without gaps": "select * from machserial.generate('P', 400, format => 'gapless')",
    "random": "select * from machserial.generate('P', 3, format => 'random')",
    "by hand": "select * from machserial.register_serial('BY-HAND', 'P')",
    "by hand, on record": "select * from machserial.register_serial('BY-HAND', 'P', on_conflict => 'RECORD')",
    "several by hand": "select * from machserial.register_serials('{H1,H2,H3}', 'P')",
    "several by hand, on record":
        "select * from machserial.register_serials('{H1,H2,H1}', 'P', on_conflict => 'RECORD')",
    "a receipt": "select * from machserial.receive_vendor_serial('V-9', 'ACME', 'P')",
    "a receipt by SQL": "insert into machserial.vendor_serials (serial_number, vendor_name, part_id) "
                        "values ('V-9', 'ACME', 'P')",
    "receipts": "select * from machserial.receive_vendor_serials('ACME', 'P', '{V-8,V-9}')",
    "a block":
        "select * from machserial.report_block({block}, array(select machserial.block_serials({block}) limit 3))",
    "a placeholder": "select * from machserial.assign_placeholder({placeholder})",
    "a placeholder by hand": "select * from machserial.assign_placeholder({placeholder}, 'BY-HAND')",
    "placeholders": "select * from machserial.assign_placeholders('WO-1')",
    "an event": "select * from machserial.fire('WORK_ORDER_CREATE', 'P', quantity => 3)",
    "an event at a vendor's": "select * from machserial.fire('MATERIAL_RECEIPT', 'P', "
                              "'{\"vendor_name\": \"ACME\", \"serial_numbers\": [\"V-8\", \"V-9\"]}')",
    "plain SQL": "insert into machserial.serials (serial_number, part_id) values ('BY-HAND', 'P')",
}  # fmt: skip


def build_plant(connection: psycopg.Connection) -> None:
    make_part(connection, "P")
    make_format(connection, "plain", "A{SEQ:6}")
    make_format(connection, "gapless", "G{SEQ:6}", allocation="GAPLESS")
    make_format(connection, "random", "R{RANDOM:10}")
    call(connection, "assign_format", part_id="P", format="plain")
    call(connection, "create_trigger", part_id="P", trigger_type="WORK_ORDER_CREATE",
         assignment_type="SYSTEM_GENERATED")  # fmt: skip
    call(connection, "create_trigger", part_id="P", trigger_type="MATERIAL_RECEIPT", assignment_type="VENDOR")
    # So many that no call gets past them.
    register(connection, [f"THERE-{n}" for n in range(3000)], "P")
    generated(connection, "P", 3)
    generated(connection, "P", 3, format="gapless")


# Sequences are never rolled back.
pytestmark = [pytest.mark.own_database, pytest.mark.prepared(setup=build_plant)]


@pytest.fixture
def plant(connection):
    return connection


def things(plant) -> dict:
    block = call(plant, "allocate_block", format="plain", quantity=5, holder="LINE", part_id="P")[0].block_id
    placeholders = call(plant, "create_placeholders", part_id="P", quantity=3, work_order_id="WO-1")
    return {"block": str(block), "placeholder": str(placeholders[0].id)}


# Everything that a call could have left behind, but for the place of sequences.
LEFT = """
select
    (select count(*) from machserial.serials), (select count(*) from machserial.serial_conflicts),
    (select count(*) from machserial.vendor_serials), (select count(*) from machserial.audit_events),
    (select sum(last_value) from machserial.counters where last_value is not null),
    (select count(*) from machserial.block_usages), (select count(*) from machserial.requests),
    (select count(*) from machserial.late_assignment_placeholders where status = 'PENDING')
"""


def test_every_verb_is_refused_and_says_what_mends_it(plant):
    ids = things(plant)
    plant.commit()
    before = plant.execute(LEFT).fetchone()
    for verb, template in CALLS.items():
        query = template.replace("{block}", ids["block"]).replace("{placeholder}", ids["placeholder"])
        plant.execute(BEHIND)
        with pytest.raises(psycopg.errors.UniqueViolation) as raised, plant.transaction():
            plant.execute(query)
        diag = raised.value.diag
        assert diag.constraint_name == "serials_pkey", verb
        if verb != "plain SQL":
            assert "sequence is behind" in diag.message_primary and "taken by" not in diag.message_primary, verb
            remedy = diag.message_hint.partition("select ")[2].partition(";")[0]
            assert remedy.startswith("setval('machserial.serials_id_seq'"), verb
        assert plant.execute(LEFT).fetchone() == before, verb
        # And its own words mend it.
        with plant.transaction(force_rollback=True):
            plant.execute(f"select {remedy}")
            plant.execute(query)


def test_nothing_burns_where_no_number_may(plant):
    plant.execute(BEHIND)
    with pytest.raises(psycopg.errors.UniqueViolation), plant.transaction():
        generated(plant, "P", 1, format="gapless")
    plant.execute("select setval('machserial.serials_id_seq', (select max(id) from machserial.serials))")
    assert generated(plant, "P", 2, format="gapless") == ["G000004", "G000005"]


# The last id of those that are in the way: when the call ends, the sequence is not behind any more.
LAST_ONES = {
    "one by hand": ("select * from machserial.register_serial('BY-HAND', 'P')", 1),
    "several by hand": ("select * from machserial.register_serials('{H1,H2,H3}', 'P')", 2),
    "on record": ("select * from machserial.register_serials('{H1,H2,H3}', 'P', on_conflict => 'RECORD')", 2),
    "receipts": ("select * from machserial.receive_vendor_serials('ACME', 'P', '{V-7,V-8,V-9}')", 2),
    "one without gaps": ("select * from machserial.generate('P', format => 'gapless')", 1),
    "without gaps": ("select * from machserial.generate('P', 5, format => 'gapless')", 2),
    "a batch": ("select * from machserial.generate('P', 200)", 2),
    "a small batch": ("select * from machserial.generate('P', 20)", 2),
    "placeholders": ("select * from machserial.assign_placeholders('WO-1')", 2),
    "placeholders by hand": (
        "select * from machserial.assign_placeholders('WO-1', serial_numbers => '{H1,H2,H3}')", 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("verb", LAST_ONES)
def test_it_is_noticed_of_the_last_ids_as_well(plant, verb):
    query, rows = LAST_ONES[verb]
    things(plant)
    plant.execute(
        "insert into machserial.serials (id, serial_number, part_id) overriding system value "
        "select q.last_value + n, 'COPIED-' || n, 'P' from machserial.serials_id_seq as q, generate_series(1, %s) as n",
        (rows,),
    )
    plant.commit()
    before = plant.execute(LEFT).fetchone()
    with pytest.raises(psycopg.errors.UniqueViolation) as raised, plant.transaction():
        plant.execute(query)
    assert raised.value.diag.constraint_name == "serials_pkey"
    assert plant.execute(LEFT).fetchone() == before
    plant.execute("select setval('machserial.serials_id_seq', (select max(id) from machserial.serials))")
    plant.execute(query)


def test_formats_and_what_else_has_ids_say_it_as_well(plant):
    plant.execute("select setval('machserial.serial_formats_id_seq', 1, false)")
    for query in (
        "select machserial.create_format('fresh', 'F{SEQ:4}')",
        "select machserial.generate('P', pattern => 'AD-HOC-{SEQ:4}')",
        "select machserial.revise_format('plain', 'B{SEQ:6}')",
    ):
        with pytest.raises(psycopg.errors.UniqueViolation) as raised, plant.transaction():
            plant.execute(query)
        assert raised.value.diag.constraint_name == "serial_formats_pkey", query
        plant.execute("select setval('machserial.serial_formats_id_seq', 1, false)")
    with refused(plant, "23505") as refusal:
        plant.execute("select machserial.create_format('plain', 'F{SEQ:4}')")
    assert "exists" in refusal.message


def test_ids_of_another_node_are_in_nobodys_way(plant):
    plant.execute(
        "insert into machserial.serials (id, serial_number, part_id) overriding system value "
        "values ((7::bigint << 48) + 1, 'MERGED', 'P')"
    )
    register(plant, ["BY-HAND"], "P")
    generated(plant, "P", 2, format="gapless")
    call(plant, "set_node", node=7)
    assert register(plant, ["N7"], "P")[0].serial_id == (7 << 48) + 2


def test_every_sequence_of_ids_that_is_behind_is_named_and_mended(plant):
    """Tables with rows, each alone and all at once, as after a replication that copied no sequence."""
    tables = column(
        plant,
        "select r.relname::text from pg_attribute as c join pg_class as r on r.oid = c.attrelid "
        "where r.relnamespace = 'machserial'::regnamespace and c.attidentity <> '' and not r.relispartition",
    )
    things(plant)
    register(plant, ["THERE-1"], "P", on_conflict="RECORD")
    filled = [table for table in tables if value(plant, f"select count(*) from machserial.{table}")]
    assert len(filled) >= 9
    plant.commit()
    assert value(plant, "select count(*) from machserial.integrity() where name = 'sequence_behind'") == 0
    for table in tables:
        plant.execute(f"select setval('machserial.{table}_id_seq', 1, false)")
    findings = plant.execute(
        "select object, severity, message, remedy from machserial.integrity() where name = 'sequence_behind'"
    ).fetchall()
    assert sorted(row[0] for row in findings) == sorted(f"table {table}" for table in filled)
    assert {row[1] for row in findings} == {"CRITICAL"}
    for row in findings:
        plant.execute(row[3])
    assert value(plant, "select count(*) from machserial.integrity() where name = 'sequence_behind'") == 0
    register(plant, ["BY-HAND"], "P")
    assert value(plant, "select count(*) - count(distinct id) from machserial.audit_events") == 0


def test_a_copy_that_commits_meanwhile_is_not_taken_for_a_claim(plant, connect):
    """The id is in the way of an uncommitted row: the call waits, and then says what it was."""
    copying, working = connect(), connect()
    copying.execute(
        "insert into machserial.serials (id, serial_number, part_id) overriding system value "
        "select q.last_value + n, 'COPIED-' || n, 'P' from machserial.serials_id_seq as q, generate_series(1, 3) as n"
    )
    seen: list = []

    def work() -> None:
        try:
            working.execute("select * from machserial.register_serial('BY-HAND', 'P', on_conflict => 'RECORD')")
        except psycopg.Error as error:
            seen.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not value(plant, "select count(*) from pg_locks where not granted"):
        plant.rollback()
    copying.commit()
    thread.join()
    assert [error.diag.constraint_name for error in seen] == ["serials_pkey"]
    working.rollback()
    assert value(plant, "select count(*) from machserial.serial_conflicts") == 0


def test_a_claim_that_was_given_up_in_the_same_moment_is_run_again(plant):
    """What no test can time: the insert was refused, and when it is asked who has the number, nobody has."""
    plant.execute("select nextval('machserial.serials_id_seq')")
    with refused(plant, "40001"):
        plant.execute(
            "select machserial._require_claimed('{NOBODYS}', '{NOBODYS}', '{SITE}', 'DEFAULT', 'TYPE')"
        )
    plant.execute("select machserial._require_claimed('{THERE-1}', '{THERE-1}', '{SITE}', 'DEFAULT', 'TYPE')")
