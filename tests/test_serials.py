"""The registry: every number once in its scopes, on record for good."""

from __future__ import annotations

import pytest
from support import (
    HOSTILE_NUMBERS,
    allow_unicode,
    call,
    column,
    generated,
    make_part,
    refused,
    register,
    value,
    violated,
)

SCOPES = ("ENTERPRISE", "SITE", "PART_TYPE")

# Where a second serial with the number N collides with a first one of part P (type T) at site DEFAULT that claims
# one scope: the same scope claimed by …
ELSEWHERE = {
    "the same part at the same site": ("P", None),
    "another part of the type at the same site": ("P2", None),
    "a part of another type at the same site": ("Q", None),
    "the same part at another site": ("P", "BER"),
    "a part of another type at another site": ("Q", "BER"),
}
COLLIDES = {
    "ENTERPRISE": {*ELSEWHERE},
    "SITE": {
        "the same part at the same site",
        "another part of the type at the same site",
        "a part of another type at the same site",
    },
    "PART_TYPE": {
        "the same part at the same site",
        "another part of the type at the same site",
        "the same part at another site",
    },
}


@pytest.fixture
def plant(connection):
    """A database with parts P and P2 of type T, Q of type U, and the sites DEFAULT and BER."""
    call(connection, "register_site", site_id="BER")
    make_part(connection, "P", "T")
    make_part(connection, "P2", "T")
    make_part(connection, "Q", "U")
    return connection


def insert(
    connection, number: str, part_id: str = "P", site_id: str | None = None, scopes: object = None, **more
) -> int:
    """A serial as an application may write it, without any function."""
    columns = {
        "serial_number": number,
        "part_id": part_id,
        "part_type": "U" if part_id == "Q" else "T",
        "site_id": site_id or "DEFAULT",
        "scopes": scopes or ["SITE", "PART_TYPE"],
        **more,
    }
    names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
    return value(
        connection, f"insert into machserial.serials ({names}) values ({marks}) returning id", *columns.values()
    )


def register_one(connection, number: str, part_id: str = "P", **arguments: object) -> object:
    return call(connection, "register_serial", serial_number=number, part_id=part_id, **arguments)[0]


# Scopes


@pytest.mark.parametrize("scope", SCOPES)
def test_a_number_is_unique_within_its_scope_and_free_outside(plant, scope):
    register_one(plant, "N", scopes=[scope])
    for where, (part_id, site_id) in ELSEWHERE.items():
        for scopes in ([scope], list(SCOPES)):
            with plant.transaction(force_rollback=True):
                if where in COLLIDES[scope]:
                    with refused(plant, "23505") as refusal:
                        register_one(plant, "N", part_id, site_id=site_id, scopes=scopes)
                    assert "N" in refusal.message and scope in refusal.detail
                    with violated(plant, "23505"):
                        insert(plant, "N", part_id, site_id, scopes)
                elif scopes == [scope]:
                    assert not register_one(plant, "N", part_id, site_id=site_id, scopes=scopes).has_conflict
                    with violated(plant, "23505"):
                        insert(plant, "N", part_id, site_id, scopes)


def test_different_scopes_do_not_meet_unless_one_of_them_is_the_whole_enterprise(plant):
    for scope in ("SITE", "PART_TYPE"):
        register_one(plant, "N", scopes=[scope])
    with refused(plant, "23505") as refusal:
        register_one(plant, "N", "Q", site_id="BER", scopes=["ENTERPRISE"])
    assert "scope SITE by serial" in refusal.detail and "scope PART_TYPE by serial" in refusal.detail
    register_one(plant, "E", "Q", site_id="BER", scopes=["ENTERPRISE"])
    for scope in ("SITE", "PART_TYPE"):
        with refused(plant, "23505") as refusal:
            register_one(plant, "E", scopes=[scope])
        assert "scope ENTERPRISE by serial" in refusal.detail
    # A plain INSERT knows the indexes only: integrity() finds what it brings in.
    insert(plant, "E", scopes=["SITE"])
    assert len(call(plant, "find_serial", serial_number="E")) == 2


def test_a_serial_may_claim_several_scopes(plant):
    register_one(plant, "N", scopes=["SITE", "PART_TYPE"])
    for part_id, site_id, scope in [("Q", None, "SITE"), ("P2", "BER", "PART_TYPE")]:
        with refused(plant, "23505"):
            register_one(plant, "N", part_id, site_id=site_id, scopes=["SITE", "PART_TYPE"])
        with violated(plant, "23505"):
            insert(plant, "N", part_id, site_id, [scope])
    register_one(plant, "N", "Q", site_id="BER", scopes=["SITE", "PART_TYPE"])


def test_a_serial_claims_the_scopes_of_its_part_unless_told_otherwise(plant):
    make_part(plant, "E", "T", scopes=["ENTERPRISE"])
    register_one(plant, "1", "E")
    register_one(plant, "2", "P")
    register_one(plant, "3", "P", scopes=["enterprise", "ENTERPRISE"])
    stored = plant.execute("select serial_number, scopes from machserial.serials").fetchall()
    assert {number: sorted(scopes) for number, scopes in stored} == {
        "1": ["ENTERPRISE"],
        "2": ["PART_TYPE", "SITE"],
        "3": ["ENTERPRISE"],
    }


def test_numbers_that_differ_in_any_way_are_different_numbers(plant):
    allow_unicode(plant)
    numbers = ["a1", "A1", "A 1", "A-1", "A1 B", "Ａ1", "é", "0", "O", "00", *HOSTILE_NUMBERS]
    assert not any(row.has_conflict for row in register(plant, numbers))
    for number in numbers:
        assert [row.serial_number for row in call(plant, "find_serial", serial_number=number)] == [number]


STATES = {"PENDING": True, "ACTIVE": True, "RETIRED": True, "INVALID": True, "REJECTED": False, "CONFLICT": False}


def test_a_serial_out_of_use_keeps_its_number_and_a_rejected_one_does_not(plant):
    for status, keeps in STATES.items():
        number = f"N-{status}"
        insert(plant, number, status=status)
        if keeps:
            with refused(plant, "23505"):
                register_one(plant, number)
        else:
            assert not register_one(plant, number).has_conflict


def test_a_number_cannot_be_claimed_again_once_another_has_it(plant):
    first = register_one(plant, "N").serial_id
    plant.execute("update machserial.serials set status = 'CONFLICT', status_reason = 'twice' where id = %s", (first,))
    register_one(plant, "N")
    for status in ("ACTIVE", "PENDING"):
        with violated(plant, "23505"):
            plant.execute(
                "update machserial.serials set status = %s, status_reason = 'mine' where id = %s", (status, first)
            )
    plant.execute("update machserial.serials set status = 'REJECTED', status_reason = 'copy' where id = %s", (first,))
    with refused(plant, "55000"):
        plant.execute("update machserial.serials set status = 'ACTIVE' where id = %s", (first,))


def test_a_claim_that_was_released_is_free(plant):
    plant.execute("set local machserial.reason = 'the other part has it'")
    retired = register_one(plant, "N").serial_id
    plant.execute("update machserial.serials set status = 'RETIRED', claim_released = true where id = %s", (retired,))
    register_one(plant, "N")
    with refused(plant, "55000"):
        plant.execute("update machserial.serials set claim_released = false where id = %s", (retired,))


# Registering


def test_a_registered_serial_is_on_record(plant):
    plant.execute("set local machserial.actor = 'Ada'")
    answer = register_one(plant, "N-1", site_id="BER", source="import")
    assert (answer.has_conflict, answer.conflict_id) == (False, None)
    (found,) = call(plant, "find_serial", serial_number="N-1")
    assert (found.id, found.part_id, found.part_type, found.site_id) == (answer.serial_id, "P", "T", "BER")
    assert (found.source, found.status, found.sequence_number, found.created_by) == ("IMPORT", "ACTIVE", None, "Ada")
    assert column(plant, "select event_type from machserial.audit_events where serial_id = %s", found.id) == [
        "SERIAL_REGISTERED"
    ]
    assert register_one(plant, "N-2").serial_id != answer.serial_id
    assert value(plant, "select source from machserial.serials where serial_number = 'N-2'") == "MANUAL"


def test_a_duplicate_is_refused_and_names_who_holds_the_number(plant):
    holder = register_one(plant, "N").serial_id
    with refused(plant, "23505") as refusal:
        register_one(plant, "N")
    assert "N" in refusal.message and str(holder) in refusal.detail and "RECORD" in refusal.hint
    assert value(plant, "select count(*) from machserial.serial_conflicts") == 0


def test_a_duplicate_can_be_put_on_record_instead(plant):
    holder = register_one(plant, "N", scopes=["SITE", "PART_TYPE"]).serial_id
    answer = register_one(plant, "N", "P2", on_conflict="RECORD", source="VENDOR", scopes=["SITE", "PART_TYPE"])
    assert (answer.serial_id, answer.has_conflict) == (None, True)
    assert plant.execute(
        "select id, serial_number, part_id, site_id, source, status, conflicting_serial_ids "
        "from machserial.serial_conflicts"
    ).fetchall() == [(answer.conflict_id, "N", "P2", "DEFAULT", "VENDOR", "PENDING", [holder])]
    assert set(value(plant, "select conflicting_scopes from machserial.serial_conflicts")) == {"SITE", "PART_TYPE"}
    events = column(plant, "select event_type from machserial.audit_events where serial_number = 'N' order by id")
    assert events == ["SERIAL_REGISTERED", "CONFLICT_DETECTED"]
    assert not register_one(plant, "FREE", on_conflict="RECORD").has_conflict
    assert value(plant, "select count(*) from machserial.serials") == 2


def test_many_are_registered_in_one_call(plant):
    numbers = [f"N{number:05}" for number in range(3000)]
    rows = register(plant, numbers)
    assert sorted(row.serial_number for row in rows) == numbers
    assert len({row.serial_id for row in rows}) == 3000 and not any(row.has_conflict for row in rows)
    assert value(plant, "select count(*) from machserial.audit_events where event_type = 'SERIAL_REGISTERED'") == 3000
    for row in rows[:5]:
        assert call(plant, "find_serial", serial_number=row.serial_number)[0].id == row.serial_id


def test_one_duplicate_among_many_refuses_them_all(plant):
    register_one(plant, "B")
    for numbers in (["A", "B", "C"], ["C", "D", "C"]):
        with refused(plant, "23505"):
            register(plant, numbers)
    assert column(plant, "select serial_number from machserial.serials") == ["B"]


def test_duplicates_among_many_are_put_on_record_and_the_others_registered(plant):
    register_one(plant, "B")
    rows = register(plant, ["A", "B", "C", "A", "A"], on_conflict="RECORD")
    assert sorted((row.serial_number, row.has_conflict) for row in rows) == [
        ("A", False), ("A", True), ("A", True), ("B", True), ("C", False),
    ]  # fmt: skip
    for row in rows:
        assert (row.serial_id is None, row.conflict_id is None) == (row.has_conflict, not row.has_conflict)
    assert sorted(column(plant, "select serial_number from machserial.serials")) == ["A", "B", "C"]
    assert sorted(column(plant, "select serial_number from machserial.serial_conflicts")) == ["A", "A", "B"]


def test_nothing_to_register_is_nothing(plant):
    assert register(plant, []) == []


def test_bad_arguments_are_refused(plant):
    for arguments, sqlstate in [
        ({"serial_number": None}, "22023"),
        ({"serial_number": ""}, "22023"),
        ({"serial_number": " "}, "22023"),
        ({"serial_number": "N\tN"}, "22023"),
        ({"serial_number": "N  N"}, "22023"),
        ({"serial_number": "x" * 256}, "22023"),
        ({"scopes": []}, "22023"),
        ({"scopes": ["PLANET"]}, "22023"),
        ({"scopes": [None]}, "22023"),
        ({"source": "DREAM"}, "22023"),
        ({"source": None}, "22023"),
        ({"on_conflict": "IGNORE"}, "22023"),
        ({"on_conflict": None}, "22023"),
        ({"part_id": "NOBODY"}, "23503"),
        ({"part_id": None}, "23503"),
        ({"site_id": "NOWHERE"}, "23503"),
    ]:
        with refused(plant, sqlstate):
            call(plant, "register_serial", **{"serial_number": "N", "part_id": "P", **arguments})
    with refused(plant, "22023") as refusal:
        register(plant, ["A", "B", "C\tC"])
    assert "3" in refusal.detail
    register_one(plant, "x" * 255)
    assert value(plant, "select count(*) from machserial.serials") == 1


def test_rows_that_are_inserted_directly_obey_the_table_s_rules(plant):
    for wrong, sqlstate in [
        ({"number": ""}, "23514"),
        ({"number": " N"}, "23514"),
        ({"number": "x" * 256}, "23514"),
        ({"number": None}, "23502"),
        ({"site_id": "NOWHERE"}, "23503"),
        ({"part_type": "U"}, "23503"),
        ({"part_id": "NOBODY"}, "23503"),
        ({"source": "DREAM"}, "23514"),
        ({"status": "LOST"}, "23514"),
        ({"scopes": ["PLANET"]}, "23514"),
        ({"scopes": [["SITE"], ["PART_TYPE"]]}, "23514"),
        ({"format_id": 4711}, "23503"),
    ]:
        with violated(plant, sqlstate):
            insert(plant, **{"number": "N", **wrong})
    with violated(plant, "428C9"):
        insert(plant, "N", holds_claim=False)
    insert(plant, "N")
    with violated(plant, "23514"):
        plant.execute("update machserial.serials set scopes = '{{SITE},{PART_TYPE},{ENTERPRISE}}'")
    told = "select event_type from machserial.audit_events where event_type !~ '^(SITE|PART)_'"
    assert column(plant, told) == ["SERIAL_REGISTERED"]


def test_a_row_that_is_inserted_directly_may_leave_out_what_its_part_says(plant):
    make_part(plant, "E", "U", scopes=["ENTERPRISE"])
    plant.execute("insert into machserial.serials (serial_number, part_id) values ('N', 'E')")
    (found,) = call(plant, "find_serial", serial_number="N")
    assert (found.part_type, found.site_id, found.scopes) == ("U", "DEFAULT", ["ENTERPRISE"])
    assert (found.source, found.status) == ("MANUAL", "ACTIVE")


# What is on record stays


def test_what_a_serial_is_cannot_be_changed(plant):
    generated(plant, pattern="A{SEQ:3}")
    plant.execute("insert into machserial.serial_formats (name, pattern) values ('F', 'F{SEQ:3}')")
    for assignment in [
        "serial_number = 'B'",
        "part_id = 'P2'",
        "part_id = 'Q', part_type = 'U'",
        "site_id = 'BER'",
        "source = 'MANUAL'",
        "format_id = (select max(id) from machserial.serial_formats)",
        "format_id = null",
        "sequence_number = 7",
        "sequence_number = null",
        "created_at = created_at - interval '1 day'",
        "created_by = 'somebody'",
    ]:
        for relation in ("serials", "system_generated_serials"):
            if "source" in assignment and relation != "serials":
                continue
            with refused(plant, "55000") as refusal:
                plant.execute(f"update machserial.{relation} set {assignment}")
            assert ("reset_counter" in refusal.hint) == ("sequence_number" in assignment)
    assert value(plant, "select serial_number from machserial.serials") == "A001"


def test_what_happens_to_a_serial_can_be_written_down(plant):
    generated(plant, pattern="A{SEQ:3}")
    plant.execute("set local machserial.reason = 'worn out'")
    plant.execute("update machserial.system_generated_serials set status = 'RETIRED', lot_number = 'L1'")
    # Saying again what it is changes nothing.
    plant.execute("update machserial.serials set serial_number = serial_number, part_id = 'P', work_order_id = 'W'")
    (found,) = call(plant, "find_serial", serial_number="A001")
    assert (found.status, found.lot_number, found.work_order_id) == ("RETIRED", "L1", "W")


# Finding


def test_a_serial_is_found_whatever_it_claims_and_whatever_its_state(plant):
    expected = []
    for scope in SCOPES:
        expected.append(insert(plant, "N", scopes=[scope]))
    for status in ("REJECTED", "CONFLICT"):
        expected.append(insert(plant, "N", status=status))
    expected.append(insert(plant, "N", status="RETIRED", claim_released=True))
    expected.append(insert(plant, "N", "Q", "BER", status="INVALID"))
    insert(plant, "n")
    assert [row.id for row in call(plant, "find_serial", serial_number="N")] == expected
    assert call(plant, "find_serial", serial_number="NOT THERE") == []
    assert call(plant, "find_serial", serial_number=None) == []


def test_a_number_is_found_by_index_in_plain_sql_too(plant, connect):
    """Whoever looks, a limited role as well; and the events of a serial by its id, as README shows."""
    generated(plant, pattern="M{SEQ:6}", quantity=20_000)
    plant.execute("analyze machserial.serials")
    call(plant, "create_roles")
    plant.execute("create role looks in role machserial_viewer")
    call(plant, "grant_site", role="looks", site_id="BER")
    by_number = "select * from machserial.serials where serial_number = 'M012345'"
    by_function = (
        "select event_type from machserial.audit_trail(serial_id => (select id from machserial.find_serial('M000001')))"
    )
    for role in (None, "looks"):
        if role:
            plant.execute(f"set local role {role}")
        plan = "\n".join(column(plant, f"explain {by_number}"))
        assert "serials_serial_number" in plan and "Seq Scan on serials" not in plan
    plant.execute("reset role")
    readings = "select sum(seq_tup_read) from pg_stat_xact_user_tables where relname = 'serials'"
    before = value(plant, readings)
    assert column(plant, by_function) == ["SERIAL_GENERATED"]
    assert value(plant, readings) == before


# The audit trail is append-only


def test_audit_events_are_never_changed(plant):
    register_one(plant, "N")
    partition = value(plant, "select tableoid::regclass::text from machserial.audit_events")
    assert partition != "machserial.audit_events"
    everything = "select array_agg(e order by e.id) from machserial.audit_events as e"
    before = value(plant, everything)
    for relation in ("machserial.audit_events", partition):
        for statement in (
            f"update {relation} set reason = 'other'",
            f"update {relation} set reason = 'other' where false",
            f"delete from {relation}",
            f"truncate {relation}",
        ):
            with refused(plant, "42501"):
                plant.execute(statement)
    assert value(plant, everything) == before


def test_partitions_that_are_made_later_are_append_only_too(plant):
    call(plant, "maintain")
    partitions = column(
        plant, "select inhrelid::regclass::text from pg_inherits where inhparent = 'machserial.audit_events'::regclass"
    )
    assert len(partitions) >= 4
    for partition in partitions:
        with refused(plant, "42501"):
            plant.execute(f"truncate {partition}")


def test_events_find_a_partition_even_if_nobody_made_it(plant):
    for partition in column(
        plant, "select inhrelid::regclass::text from pg_inherits where inhparent = 'machserial.audit_events'::regclass"
    ):
        plant.execute(f"drop table {partition}")
    register_one(plant, "N")
    assert value(plant, "select count(*) from machserial.audit_events") == 1
