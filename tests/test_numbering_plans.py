"""Numbering plans: what generate() keeps from call to call holds as long as what it follows from, and no longer."""

from __future__ import annotations

import psycopg
import pytest
from support import (
    at_once,
    call,
    generated,
    make_format,
    make_part,
    refused,
    value,
    violated,
)

PLAN = """
    select n.part_type, n.scopes, n.format_name, n.head, n.width, n.tail, n.allocation
    from machserial.numbering_plans as n
    where n.configuration = (select sum(changes) from machserial.configuration_changes)
"""


def build_plant(connection):
    make_part(connection)
    make_format(connection, "A", "A-{SEQ:6}-Z")
    make_format(connection, "B", "B{SEQ:6}{CHECK:luhn}")
    call(connection, "assign_format", part_id="P", format="A")
    assert generated(connection) == ["A-000001-Z"]


pytestmark = [pytest.mark.own_database, pytest.mark.prepared(setup=build_plant)]


@pytest.fixture
def plant(connection):
    return connection


def plans(connection) -> list[tuple]:
    return connection.execute(PLAN).fetchall()


def test_a_plan_is_kept_and_used(plant):
    assert plans(plant) == [
        ("TYPE", ["SITE", "PART_TYPE"], "A", "A-", 6, "-Z", "SEQUENCE")
    ]
    # It alone says how the number is written, so that the call has used it.
    plant.execute("update machserial.numbering_plans set head = 'KEPT-'")
    assert generated(plant) == ["KEPT-000002-Z"]
    assert generated(plant, quantity=2) == ["A-000003-Z", "A-000004-Z"]


def test_who_deletes_a_plan_loses_nothing(plant):
    plant.execute("delete from machserial.numbering_plans")
    assert generated(plant) == ["A-000002-Z"]
    assert len(plans(plant)) == 1


CHANGES = {
    "another format": ("select machserial.assign_format('P', 'B', priority => 1)", "B"),
    "a format of the type, which comes second": (
        "select machserial.assign_format_to_type('TYPE', 'B', priority => 9)", "A-",
    ),
    "none, then the type's": (
        "select machserial.unassign_format('P', 'A'), machserial.assign_format_to_type('TYPE', 'B')", "B",
    ),
    "a revision": ("select machserial.revise_format('A', pattern => 'R{SEQ:6}')", "R"),
    "an end": ("update machserial.format_assignments set effective_until = now()", None),
    "deactivated": ("select machserial.deactivate_format('A')", None),
    "no assignment": ("delete from machserial.format_assignments", None),
    "paused": ("select machserial.pause('stock taking')", None),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_configuration_holds_at_once(plant, change):
    statement, prefix = CHANGES[change]
    plant.execute(statement)
    for quantity in (1, 3):
        if prefix is None:
            with refused(plant, "55000" if change == "paused" else "23503"):
                generated(plant, quantity=quantity)
        else:
            assert all(
                number.startswith(prefix)
                for number in generated(plant, quantity=quantity)
            )
    plant.rollback()
    assert generated(plant)[0].startswith("A-")


def test_what_a_part_is_holds_at_once(plant):
    call(plant, "register_part", part_id="P", part_type="TYPE", scopes=["ENTERPRISE"])
    number = generated(plant)[0]
    assert call(plant, "find_serial", serial_number=number)[0].scopes == ["ENTERPRISE"]


def test_the_same_registered_again_is_no_change(plant):
    before = value(plant, "select sum(changes) from machserial.configuration_changes")
    call(plant, "register_part", part_id="P", part_type="TYPE")
    make_part(plant, "ANOTHER")
    call(plant, "register_site", site_id="DEFAULT", time_zone="UTC")
    assert (
        value(plant, "select sum(changes) from machserial.configuration_changes")
        == before
    )


def test_the_clock_of_the_site_holds_at_once(plant):
    make_format(plant, "D", "{YYYY}{MM}{DD}-{SEQ:4}", reset="DAILY")
    generated(plant, format="D")
    zones = ("Pacific/Kiritimati", "Pacific/Pago_Pago")
    for zone in zones:
        call(plant, "register_site", site_id="DEFAULT", time_zone=zone)
        today = value(plant, "select to_char(now() at time zone %s, 'YYYYMMDD')", zone)
        assert [
            number[:8]
            for number in generated(plant, format="D") + generated(plant, format="D")
        ] == [today] * 2


def test_a_plan_is_for_its_day(plant):
    make_format(plant, "D", "{YYYY}{MM}{DD}-{SEQ:4}")
    assert generated(plant, format="D")[0].endswith("-0001")
    # As if it had been made yesterday.
    plant.execute(
        "update machserial.numbering_plans set head = 'YESTERDAY-', valid_from = valid_from - interval '1 day', "
        "valid_until = valid_until - interval '1 day' where format = 'D'"
    )
    assert generated(plant, format="D")[0] == value(
        plant, "select to_char(now(), 'YYYYMMDD-0002')"
    )


def test_a_plan_ends_where_another_assignment_begins(plant):
    plant.execute(
        "select machserial.assign_format('P', 'B', priority => 5, effective_from => now() + interval '1 day', "
        "effective_until => now() + interval '2 days')"
    )
    generated(plant)
    begins, until = plant.execute(
        "select min(effective_from) filter (where effective_from > now()), max(valid_until) "
        "from machserial.format_assignments, machserial.numbering_plans"
    ).fetchone()
    assert until == begins


def test_a_plan_made_meanwhile_does_not_outlive_the_change(plant, connect):
    """It was made of what was so before, and is committed after the change."""
    plant.execute("delete from machserial.numbering_plans")
    plant.commit()
    making, changing = connect(), connect()
    assert generated(making) == ["A-000002-Z"]
    changing.execute("set lock_timeout = '2s'")
    call(changing, "assign_format", part_id="P", format="B", priority=1)
    changing.commit()
    making.commit()
    assert generated(plant)[0].startswith("B")


def test_a_plan_made_of_a_change_goes_with_it(plant):
    call(plant, "assign_format", part_id="P", format="B", priority=1)
    assert generated(plant)[0].startswith("B")
    plant.rollback()
    assert generated(plant) == ["A-000002-Z"]


def test_changes_do_not_wait_for_one_another(plant, connect):
    first, second, third = connect(), connect(), connect()
    for session, number in ((first, 1), (second, 2), (third, 3)):
        session.execute("set lock_timeout = '2s'")
        make_part(session, f"P{number}")
        call(session, "assign_format", part_id=f"P{number}", format="A")
    before = value(plant, "select sum(changes) from machserial.configuration_changes")
    plant.rollback()
    for session in (second, first, third):
        session.commit()
    assert (
        value(plant, "select sum(changes) from machserial.configuration_changes")
        >= before + 3
    )
    plant.commit()
    call(plant, "maintain")
    plant.commit()
    assert value(plant, "select count(*) from machserial.configuration_changes") == 1
    assert (
        value(plant, "select sum(changes) from machserial.configuration_changes")
        >= before + 3
    )


def test_nobody_waits_for_who_makes_a_plan(plant, connect):
    plant.execute("delete from machserial.numbering_plans")
    plant.commit()
    making, other = connect(), connect()
    other.execute("set lock_timeout = '2s'")
    numbers = (
        generated(making) + generated(other) + generated(making) + generated(other)
    )
    assert sorted(numbers) == [f"A-00000{n}-Z" for n in "2345"]


def test_maintain_drops_what_no_longer_holds(plant):
    generated(plant, format="B")
    call(plant, "revise_format", name="A")
    generated(plant)
    plant.commit()
    assert value(plant, "select count(*) from machserial.numbering_plans") == 2
    call(plant, "maintain")
    assert (
        value(plant, "select count(*) from machserial.numbering_plans")
        == len(plans(plant))
        == 1
    )


def test_a_number_that_is_taken_is_stepped_over(plant):
    call(
        plant,
        "register_serials",
        serial_numbers=["A-000002-Z", "A-000003-Z"],
        part_id="P",
    )
    assert generated(plant) == ["A-000004-Z"]
    assert generated(plant) == ["A-000005-Z"]


def test_sessions_that_meet_at_a_taken_number_step_over_it(plant, connect):
    call(
        plant,
        "register_serials",
        serial_numbers=[f"A-{n:06}-Z" for n in range(2, 200, 2)],
        part_id="P",
    )
    plant.commit()
    sessions = [connect(autocommit=True) for _ in range(4)]
    drawn = at_once(4, lambda i: [generated(sessions[i])[0] for _ in range(20)])
    numbers = {number for some in drawn for number in some}
    assert (
        len(numbers) == 80 and not {f"A-{n:06}-Z" for n in range(2, 200, 2)} & numbers
    )


def test_the_end_of_a_counter_is_its_end(plant):
    make_format(plant, "S", "S{SEQ:4}")
    plant.execute(
        "select machserial.reset_counter('S', 9998, reason => 'near the end')"
    )
    assert [generated(plant, format="S") for _ in range(2)] == [["S9998"], ["S9999"]]
    for _ in range(2):
        with refused(plant, "2200H"):
            generated(plant, format="S")


@pytest.mark.parametrize("may_draw", [False, True], ids=["definer", "own"])
def test_who_may_not_use_the_sequence_draws_all_the_same(plant, may_draw):
    plant.execute("create role worker")
    plant.execute("grant usage on schema machserial to worker")
    plant.execute("grant execute on all functions in schema machserial to worker")
    plant.execute("grant select on all tables in schema machserial to worker")
    plant.execute("grant insert on machserial.serials to worker")
    if may_draw:
        plant.execute("grant usage on all sequences in schema machserial to worker")
    plant.execute("set role worker")
    assert generated(plant) + generated(plant) == ["A-000002-Z", "A-000003-Z"]
    with violated(plant, "42501"):
        plant.execute("delete from machserial.numbering_plans")
    with violated(plant, "42501"):
        plant.execute(
            "insert into machserial.configuration_changes (changes) values (1)"
        )


def test_who_cannot_write_draws_nothing_and_holds_nothing(plant):
    plant.execute("set transaction read only")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        generated(plant)
    plant.rollback()
    assert (
        value(
            plant,
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        )
        == 0
    )
    assert generated(plant) == ["A-000002-Z"]


CONTEXTS = {
    "{WO}-{SEQ:3}": "WO-9-001",
    "{CTX:line}{SEQ:3:hex}": "L4001",
    "{LOT}{SEQ:3}{CHECK:mod10}": "LOT-70010",
    "{PREFIX:x}{SEQ:3:base36}{SITE}": "x001DEFAULT",
}


@pytest.mark.parametrize("pattern", CONTEXTS)
def test_other_patterns_are_written_by_their_renderers(plant, pattern):
    make_format(plant, "X", pattern)
    context = {
        "work_order_id": "WO-9",
        "lot_number": "LOT-7",
        "line": "L4",
        "shift": "night",
    }
    # The first makes the plan, the second goes by it.
    numbers = [generated(plant, format="X", context=context)[0] for _ in range(2)]
    assert numbers[0] == CONTEXTS[pattern] != numbers[1]
    for number in numbers:
        serial = call(plant, "find_serial", serial_number=number)[0]
        assert (serial.work_order_id, serial.lot_number, serial.context) == (
            "WO-9", "LOT-7", {"line": "L4", "shift": "night"},
        )  # fmt: skip
        assert value(
            plant,
            "select (machserial.validate_serial(%s, %s)).is_valid",
            number,
            pattern,
        )


GOOD = {"serial_number": "N-1", "part_id": "P", "part_type": "TYPE", "site_id": "DEFAULT", "source": "MANUAL",
        "status": "ACTIVE", "scopes": ["SITE"], "claim_released": False, "format_id": None}  # fmt: skip
FAULTS = {
    "serials_part_fkey": [{"part_id": "NONE"}, {"part_type": "OTHER"}],
    "serials_site_id_fkey": [{"site_id": "NOWHERE"}],
    "serials_format_id_fkey": [{"format_id": 4711}],
    "serials_serial_number_is_one": [
        {"serial_number": ""},
        {"serial_number": "N "},
        {"serial_number": "\u00c9"},
        {"serial_number": "x" * 256},
    ],
    "serials_source_is_known": [{"source": "FOUND"}, {"source": ""}],
    "serials_status_is_known": [{"status": "GONE"}],
    "serials_release_their_claim_when_they_end": [{"claim_released": True}],
    "serials_scopes_are_known": [
        {"scopes": ["WORLD"]},
        {"scopes": []},
        {"scopes": ["SITE", "x"]},
    ],
}


class TestAdmission:
    """Rules of new serials hold for every statement, with a plan that vouches and without."""

    def insert(self, connection, rows: list[dict]) -> None:
        names = list(GOOD)
        statement = (
            f"insert into machserial.serials ({', '.join(names)}) values "
            + ", ".join(f"({', '.join(['%s'] * len(names))})" for _ in rows)
        )
        connection.execute(statement, [row[name] for row in rows for name in names])

    @pytest.mark.parametrize("has_plan", [True, False], ids=["plan", "no plan"])
    @pytest.mark.parametrize("constraint", FAULTS)
    def test_what_is_unsound_is_refused(self, plant, constraint, has_plan):
        if not has_plan:
            plant.execute("delete from machserial.numbering_plans")
        for fault in FAULTS[constraint]:
            bad = GOOD | fault
            sound = GOOD | {"serial_number": "N-2"}
            for rows in ([bad], [sound, bad], [bad, sound]):
                with refused(
                    plant, "23503" if constraint.endswith("fkey") else "23514"
                ) as refusal:
                    self.insert(plant, rows)
                assert (refusal.diag.constraint_name, refusal.diag.table_name) == (
                    constraint,
                    "serials",
                )
        self.insert(plant, [GOOD])

    def test_a_kept_snapshot_vouches_for_nothing(self, plant, connect):
        """The part is taken away by another; this transaction still sees it."""
        make_part(plant, "Q", "OTHER")
        plant.commit()
        old = connect()
        old.execute("set transaction isolation level repeatable read")
        assert value(old, "select count(*) from machserial.parts where id = 'Q'") == 1
        plant.execute("delete from machserial.parts where id = 'Q'")
        plant.commit()
        with violated(old, "40001"):
            self.insert(old, [GOOD | {"part_id": "Q", "part_type": "OTHER"}])

    @pytest.mark.parametrize(
        "statement",
        [
            "delete from machserial.parts where id = 'P'",
            "update machserial.parts set part_type = 'OTHER' where id = 'P'",
            "update machserial.parts set id = 'Q' where id = 'P'",
            "delete from machserial.sites where id = 'DEFAULT'",
            "update machserial.sites set id = 'HERE' where id = 'DEFAULT'",
        ],
    )
    def test_what_serials_refer_to_stays(self, plant, statement):
        call(plant, "unassign_format", part_id="P", format="A")
        with refused(plant, "23503") as refusal:
            plant.execute(statement)
        assert "A-000001-Z" in refusal.detail

    def test_who_takes_a_part_away_waits_for_who_writes_serials(self, plant, connect):
        make_part(plant, "Q")
        plant.commit()
        writing = connect()
        self.insert(writing, [GOOD | {"part_id": "Q"}])
        plant.execute("set lock_timeout = '200ms'")
        with violated(plant, "55P03"):
            plant.execute("delete from machserial.parts where id = 'Q'")
        writing.commit()
        with refused(plant, "23503"):
            plant.execute("delete from machserial.parts where id = 'Q'")

    def test_a_kept_snapshot_takes_nothing_away(self, connection):
        make_part(connection, "Q")
        connection.commit()
        connection.execute("set transaction isolation level repeatable read")
        with refused(connection, "0A000"):
            connection.execute("delete from machserial.parts where id = 'Q'")
        connection.rollback()
        connection.execute("delete from machserial.parts where id = 'Q'")

    def test_what_is_added_to_scopes_is_known(self, plant):
        with violated(plant, "23514"):
            plant.execute("update machserial.serials set scopes = scopes || '{WORLD}'")
        plant.execute("update machserial.serials set scopes = scopes || '{ENTERPRISE}'")

    def test_an_insert_of_nothing_is_nothing(self, plant):
        before = value(plant, "select count(*) from machserial.audit_events")
        plant.execute(
            "insert into machserial.serials (serial_number, part_id) select 'N', 'P' where false"
        )
        assert value(plant, "select count(*) from machserial.audit_events") == before

    def test_each_has_one_event_with_a_plan_or_without(self, plant):
        make_part(plant, "Q")
        rows = [
            GOOD | {"serial_number": f"M-{n}", "part_id": part}
            for n, part in enumerate("PQPQ")
        ]
        self.insert(plant, rows)
        self.insert(plant, [GOOD])
        # A second plan of the same part and format.
        generated(plant, format="A")
        generated(plant)
        assert plant.execute(
            "select count(*), count(distinct serial_id) from machserial.audit_events where serial_id is not null"
        ).fetchone() == (8, 8)


ALGORITHMS = (
    *("luhn", "luhn36", "mod10", "gs1_pair", "mod11", "verhoeff", "damm", "mod11_2", "mod37_2", "mod97_10"),
    *("mod661_26", "mod1271_36", "mod11_10", "mod27_26", "mod37_36"),
)
# What stands left of the digits, between them and the check digit, and right of it.
AROUND = [("C{CHECK:luhn}-A1-{SEQ:9}", "", "{YY}"), ("{SEQ:4}", "-7B", "-{SITE}{PART}")]


def test_a_plan_writes_the_check_digits_that_the_renderer_writes(plant):
    written = 0
    for ordinal, name in enumerate(ALGORITHMS):
        for place, (left, between, right) in enumerate(AROUND):
            pattern = f"{chr(65 + ordinal)}{place}X{left}{between}{{CHECK:{name}}}{right}"
            make_format(plant, f"{name} {place}", pattern, sequence_start=947)
            generated(plant, format=f"{name} {place}")
            expected = call(plant, "preview", pattern=pattern, quantity=1, part_id="P", start=948)[0][0]
            assert generated(plant, format=f"{name} {place}") == [expected], name
            written += value(
                plant,
                "select count(*) from machserial.numbering_plans "
                "where format = %s and check_signs is not null and width is not null",
                f"{name} {place}",
            )
    # Those that know letters only do not vary with the digits.
    assert written == len(AROUND) * (len(ALGORITHMS) - 2)


def test_a_plan_leaves_to_the_renderer_what_varies_twice(plant):
    make_format(plant, "TWICE", "T{SEQ:6}{CHECK:luhn}-{CHECK:mod10}")
    assert generated(plant, format="TWICE") + generated(plant, format="TWICE") == [
        row[0] for row in call(plant, "preview", pattern="T{SEQ:6}{CHECK:luhn}-{CHECK:mod10}", quantity=2)
    ]
    assert value(plant, "select width from machserial.numbering_plans where format = 'TWICE'") is None
