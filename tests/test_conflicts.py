"""Conflicts: duplicates are kept on record, and somebody decides whose number it is."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from support import HOSTILE_NUMBERS, allow_unicode, at_once, call, column, make_part, refused, register, value, violated


@pytest.fixture
def plant(connection):
    """Parts P and P2 of type T, Q of type U, and the sites DEFAULT and BER."""
    call(connection, "register_site", site_id="BER")
    for part_id, part_type in [("P", "T"), ("P2", "T"), ("Q", "U")]:
        make_part(connection, part_id, part_type)
    return connection


def make(connection, part_id: str = "P", status: str = "ACTIVE", number: str = "N", **more: object) -> int:
    """A serial as an application may write it, without any function."""
    columns = {"serial_number": number, "part_id": part_id, "status": status, **more}
    names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
    query = f"insert into machserial.serials ({names}) values ({marks}) returning id"
    return value(connection, query, *columns.values())


def record(connection, number: str = "N", part_id: str = "P2", **arguments: object) -> int:
    """A duplicate that does not get into the registry."""
    (row,) = register(connection, [number], part_id, on_conflict="RECORD", **arguments)
    return row.conflict_id


def resolve(connection, resolution: str, number: str = "N", part_id: str = "P2", **arguments: object) -> list:
    given = {"reason": "seen on the shop floor", **arguments}
    return call(connection, "resolve_conflict", serial_number=number, part_id=part_id, resolution=resolution, **given)


def statuses(connection, *serial_ids: int) -> list[str]:
    query = "select status from machserial.serials where id = any(%s) order by array_position(%s, id)"
    return column(connection, query, list(serial_ids), list(serial_ids))


def released(connection, serial_id: int) -> bool:
    return value(connection, "select claim_released from machserial.serials where id = %s", serial_id)


def conflicts(connection, columns: str = "status, resolution, kept_serial_id, retired_serial_ids") -> list[tuple]:
    return connection.execute(f"select {columns} from machserial.serial_conflicts order by id").fetchall()


def events(connection, event_type: str) -> list[tuple]:
    return connection.execute(
        "select serial_id, serial_number, part_id, site_id, performed_by, reason, details "
        "from machserial.audit_events where event_type = %s order by id",
        (event_type,),
    ).fetchall()


# On record


def test_a_duplicate_is_put_on_record_with_who_held_the_number_and_an_event(plant):
    plant.execute("set local machserial.actor = 'Ada'")
    holder = make(plant)
    conflict_id = record(plant, source="IMPORT", scopes=["PART_TYPE"], site_id="BER")
    (found,) = call(plant, "pending_conflicts")
    assert (found.id, found.serial_number, found.part_id, found.site_id) == (conflict_id, "N", "P2", "BER")
    assert (found.scopes, found.source, found.serial_id, found.status) == (["PART_TYPE"], "IMPORT", None, "PENDING")
    assert (found.conflicting_serial_ids, found.conflicting_scopes) == ([holder], ["PART_TYPE"])
    assert (found.detected_by, found.resolution, found.reason) == ("Ada", None, None)
    ((serial_id, *told, details),) = events(plant, "CONFLICT_DETECTED")
    assert (serial_id, told) == (None, ["N", "P2", "BER", "Ada", None])
    assert details["conflict_id"] == conflict_id and details["conflicting_serial_ids"] == [holder]


def test_a_serial_in_conflict_has_its_conflict_on_record_however_it_got_there(plant):
    holder = make(plant)
    inserted = make(plant, "P2", "CONFLICT")
    elsewhere = make(plant, "P", site_id="BER", number="N2")
    plant.execute("update machserial.serials set status = 'CONFLICT', status_reason = 'r' where id = %s", (elsewhere,))
    query = "select serial_id, serial_number, part_id, site_id, source, conflicting_serial_ids from {} order by id"
    assert plant.execute(query.format("machserial.serial_conflicts")).fetchall() == [
        (inserted, "N", "P2", "DEFAULT", "MANUAL", [holder]),
        (elsewhere, "N2", "P", "BER", "MANUAL", []),
    ]
    assert [event[0] for event in events(plant, "CONFLICT_DETECTED")] == [inserted, elsewhere]


def test_a_duplicate_outlives_the_insert_that_was_refused(plant, connect):
    make(plant)
    plant.commit()
    other = connect()
    record(other)
    with violated(other, "23505"):
        make(other, "P2")
    other.commit()
    assert [found.serial_number for found in call(plant, "pending_conflicts", part_id="P2")] == ["N"]


def test_thousands_of_duplicates_are_recorded_at_once_after_one(plant):
    numbers = [f"N{number:05}" for number in range(10_000)]
    ids = {row.serial_number: row.serial_id for row in register(plant, numbers)}
    record(plant, numbers[0])
    # Planned for the one row before: a loop within a loop would not come to an end.
    plant.execute("set local statement_timeout = '60s'")
    rows = register(plant, ["FREE", *numbers, "FREE"], "P2", on_conflict="RECORD")
    assert sorted(row.serial_number for row in rows) == ["FREE", "FREE", *numbers]
    assert [row.serial_number for row in rows if not row.has_conflict] == ["FREE"]
    found = {row[0]: row[1:] for row in conflicts(plant, "id, serial_number, conflicting_serial_ids")}
    for row in rows:
        if row.has_conflict and row.serial_number != "FREE":
            assert found[row.conflict_id] == (row.serial_number, [ids[row.serial_number]])
    assert len(events(plant, "CONFLICT_DETECTED")) == len(found) == 10_002
    plant.execute("update machserial.serial_conflicts set status = 'RESOLVED', resolution = 'KEEP', reason = 'copies'")
    assert len(events(plant, "CONFLICT_RESOLVED")) == 10_002


def test_numbers_and_reasons_are_only_text(plant):
    allow_unicode(plant)
    for hostile in HOSTILE_NUMBERS:
        holder = make(plant, number=hostile)
        record(plant, hostile)
        with refused(plant, "22023"):
            resolve(plant, hostile, hostile)
        (row,) = resolve(plant, "KEEP", hostile, keep_serial_id=holder, reason=hostile)
        assert (row.serial_number, row.status, row.reason) == (hostile, "RESOLVED", hostile)
        with refused(plant, "55000") as refusal:
            resolve(plant, "KEEP", hostile, keep_serial_id=holder)
        assert hostile in refusal.message and hostile in refusal.detail


# KEEP


def test_keep_confirms_the_holder_of_a_duplicate_that_has_no_row(plant):
    holder = make(plant)
    first, second = record(plant), record(plant)
    plant.execute("set local machserial.actor = 'Ada'")
    rows = resolve(plant, "KEEP", keep_serial_id=holder)
    assert [row.conflict_id for row in rows] == [first, second]
    for row in rows:
        assert (row.serial_number, row.part_id, row.status, row.resolution) == ("N", "P2", "RESOLVED", "KEEP")
        assert (row.kept_serial_id, row.retired_serial_ids) == (holder, [])
        assert (row.resolved_by, row.reason) == ("Ada", "seen on the shop floor")
    assert statuses(plant, holder) == ["ACTIVE"] and call(plant, "pending_conflicts") == []
    assert [found.id for found in call(plant, "conflict_history", part_id="P2")] == [second, first]


def test_keep_of_the_newcomer_retires_the_holder_and_hands_its_number_over(plant):
    holder, newcomer, third = make(plant), make(plant, "P2", "CONFLICT"), make(plant, "P2", "CONFLICT")
    rows = resolve(plant, "KEEP", keep_serial_id=newcomer, retired_serial_id=holder)
    assert statuses(plant, holder, newcomer, third) == ["RETIRED", "ACTIVE", "REJECTED"]
    assert released(plant, holder)
    assert {(row.kept_serial_id, tuple(row.retired_serial_ids)) for row in rows} == {(newcomer, (holder, third))}
    assert [event[0] for event in events(plant, "SERIAL_RETIRED")] == [holder]
    with refused(plant, "23505") as refusal:
        register(plant, ["N"])
    assert f"serial {newcomer}" in refusal.detail


def test_keep_sends_back_what_was_not_in_use_yet(plant):
    pending, newcomer = make(plant, "P", "PENDING"), make(plant, "P2", "CONFLICT")
    resolve(plant, "KEEP", keep_serial_id=newcomer)
    assert statuses(plant, pending, newcomer) == ["REJECTED", "ACTIVE"]


def test_keep_takes_the_number_of_one_that_is_out_of_use(plant):
    for status in ("RETIRED", "INVALID"):
        gone, newcomer = make(plant, "P", status, number=status), make(plant, "P2", "CONFLICT", number=status)
        resolve(plant, "KEEP", status, keep_serial_id=newcomer)
        assert statuses(plant, gone, newcomer) == [status, "ACTIVE"] and released(plant, gone)


def test_keep_spares_those_that_do_not_share_a_scope(plant):
    holder = make(plant, scopes=["SITE"])
    others = [make(plant, "Q", site_id="BER", scopes=["SITE"]), make(plant, "Q", scopes=["PART_TYPE"])]
    newcomer = make(plant, "P2", "CONFLICT", scopes=["SITE"])
    resolve(plant, "KEEP", keep_serial_id=newcomer)
    assert statuses(plant, holder, newcomer, *others) == ["RETIRED", "ACTIVE", "ACTIVE", "ACTIVE"]


def test_keep_works_in_every_scope(plant):
    for scope, part_id, site_id in [("ENTERPRISE", "Q", "BER"), ("SITE", "Q", "DEFAULT"), ("PART_TYPE", "P2", "BER")]:
        holder = make(plant, number=scope, scopes=[scope])
        newcomer = make(plant, part_id, "CONFLICT", scope, scopes=[scope], site_id=site_id)
        resolve(plant, "KEEP", scope, part_id, keep_serial_id=newcomer)
        assert statuses(plant, holder, newcomer) == ["RETIRED", "ACTIVE"]


def test_keep_settles_the_conflicts_of_rivals_of_other_parts_too(plant):
    holder = make(plant, scopes=["SITE"])
    mine, theirs = (make(plant, part_id, "CONFLICT", scopes=["SITE"]) for part_id in ("P2", "Q"))
    resolve(plant, "KEEP", part_id="P2", keep_serial_id=holder)
    assert statuses(plant, holder, mine, theirs) == ["ACTIVE", "REJECTED", "REJECTED"]
    assert conflicts(plant) == [
        ("RESOLVED", "KEEP", holder, [mine, theirs]),
        ("RESOLVED", "RETIRE", None, [theirs]),
    ]


def test_a_vendor_serial_that_is_kept_goes_on_waiting_for_its_acceptance(plant):
    call(plant, "set_vendor_rule", vendor_name="V", regex="^X")
    received = call(plant, "receive_vendor_serial", serial_number="N", vendor_name="V", part_id="P2")[0]
    plant.execute("update machserial.serials set status = 'CONFLICT', status_reason = 'r'")
    holder = make(plant)
    resolve(plant, "KEEP", keep_serial_id=received.id)
    assert statuses(plant, holder, received.id) == ["RETIRED", "PENDING"]
    assert column(plant, "select status from machserial.vendor_serials") == ["PENDING"]


def test_a_vendor_serial_that_is_not_kept_is_rejected_with_the_reason(plant):
    received = call(plant, "receive_vendor_serial", serial_number="N", vendor_name="V", part_id="P2")[0]
    holder = make(plant, "P", "CONFLICT")
    resolve(plant, "KEEP", part_id="P", keep_serial_id=holder, reason="ours")
    assert statuses(plant, holder, received.id) == ["ACTIVE", "REJECTED"]
    assert plant.execute("select status, rejection_reason from machserial.vendor_serials").fetchall() == [
        ("REJECTED", "ours")
    ]


# RETIRE and MARK_INVALID


@pytest.mark.parametrize(("resolution", "status"), [("RETIRE", "RETIRED"), ("mark_invalid", "INVALID")])
def test_the_loser_frees_its_number_for_the_newcomer(plant, resolution, status):
    for number in ("named", "understood"):
        holder = make(plant, number=number)
        record(plant, number)
        (row,) = resolve(plant, resolution, number, **({"retired_serial_id": holder} if number == "named" else {}))
        assert (row.resolution, row.kept_serial_id, row.retired_serial_ids) == (resolution.upper(), None, [holder])
        assert statuses(plant, holder) == [status] and released(plant, holder)
        assert not register(plant, [number], "P2")[0].has_conflict
    reasons = "select status_reason from machserial.serials order by id"
    assert column(plant, reasons) == ["seen on the shop floor", None] * 2


@pytest.mark.parametrize(("resolution", "status"), [("RETIRE", "RETIRED"), ("MARK_INVALID", "INVALID")])
def test_the_loser_makes_way_for_the_newcomer_s_row(plant, resolution, status):
    for arguments in ({"retired_serial_id"}, {"keep_serial_id"}, {"retired_serial_id", "keep_serial_id"}, set()):
        number = f"N{arguments}"
        holder, newcomer = make(plant, number=number), make(plant, "P2", "CONFLICT", number)
        ids = {"retired_serial_id": holder, "keep_serial_id": newcomer}
        (row,) = resolve(plant, resolution, number, **{name: ids[name] for name in arguments})
        assert (row.kept_serial_id, row.retired_serial_ids) == (newcomer, [holder])
        assert statuses(plant, holder, newcomer) == [status, "ACTIVE"] and released(plant, holder)


@pytest.mark.parametrize(("resolution", "status"), [("RETIRE", "RETIRED"), ("MARK_INVALID", "INVALID")])
def test_the_newcomer_may_be_the_loser(plant, resolution, status):
    holder, newcomer = make(plant), make(plant, "P2", "CONFLICT")
    (row,) = resolve(plant, resolution, retired_serial_id=newcomer)
    assert (row.kept_serial_id, row.retired_serial_ids) == (holder, [newcomer])
    assert statuses(plant, holder, newcomer) == ["ACTIVE", status] and released(plant, newcomer)


def test_what_is_out_of_use_already_only_gives_its_number_up(plant):
    for status, resolution, after in [
        ("RETIRED", "RETIRE", "RETIRED"),
        ("RETIRED", "MARK_INVALID", "INVALID"),
        ("INVALID", "RETIRE", "INVALID"),
        ("INVALID", "MARK_INVALID", "INVALID"),
    ]:
        number = f"{status} {resolution}"
        holder = make(plant, status=status, number=number)
        record(plant, number)
        resolve(plant, resolution, number)
        assert statuses(plant, holder) == [after] and released(plant, holder)
        assert not register(plant, [number], "P2")[0].has_conflict


def test_a_conflict_whose_holder_has_gone_can_be_closed(plant):
    make(plant)
    record(plant)
    record(plant, part_id="P")
    resolve(plant, "RETIRE", part_id="P")
    (row,) = resolve(plant, "RETIRE")
    assert (row.status, row.kept_serial_id, row.retired_serial_ids) == ("RESOLVED", None, [])


# What cannot be resolved


def test_a_resolution_needs_its_arguments(plant):
    holder, newcomer = make(plant), make(plant, "P2", "CONFLICT")
    for missing in (None, "", "  "):
        with refused(plant, "22023") as refusal:
            resolve(plant, "KEEP", keep_serial_id=holder, reason=missing)
        assert "N" in refusal.message and "reason" in refusal.message
    for wrong in (None, "", "DROP"):
        with refused(plant, "22023") as refusal:
            resolve(plant, wrong, keep_serial_id=holder)
        assert "resolution" in refusal.message
    for arguments in ({}, {"retired_serial_id": holder}, {"keep_serial_id": holder, "retired_serial_id": holder}):
        with refused(plant, "22023") as refusal:
            resolve(plant, "KEEP", **arguments)
        assert "keep_serial_id" in refusal.message
        assert f"serial {holder}:" in refusal.detail and f"serial {newcomer}:" in refusal.detail
    with refused(plant, "22023"):
        resolve(plant, "RETIRE", keep_serial_id=holder, retired_serial_id=holder)
    for number in (None, "", " "):
        with refused(plant, "22023"):
            resolve(plant, "KEEP", number, keep_serial_id=holder)
    for part_id in (None, "NOBODY"):
        with refused(plant, "23503"):
            resolve(plant, "KEEP", part_id=part_id, keep_serial_id=holder)
    assert conflicts(plant, "status") == [("PENDING",)]
    plant.execute("set local machserial.reason = 'of the session'")
    assert resolve(plant, "KEEP", keep_serial_id=holder, reason=None)[0].reason == "of the session"
    assert value(plant, "select current_setting('machserial.reason')") == "of the session"


@pytest.mark.parametrize("argument", ["keep_serial_id", "retired_serial_id"])
def test_only_a_serial_that_the_conflict_is_about_can_be_named(plant, argument):
    holder = make(plant)
    record(plant)
    strangers = [make(plant, number="OTHER"), make(plant, "Q", site_id="BER"), 4711]
    for stranger in strangers:
        with refused(plant, "22023") as refusal:
            resolve(plant, "RETIRE", **{argument: stranger})
        assert f"{argument} {stranger}" in refusal.message and f"serial {holder}:" in refusal.detail
    with refused(plant, "22023"):
        resolve(plant, "KEEP", keep_serial_id=holder, retired_serial_id=strangers[0])
    assert statuses(plant, holder) == ["ACTIVE"]


def test_which_of_several_holders_is_to_give_way_must_be_said(plant):
    at_site, of_type = make(plant, scopes=["SITE"]), make(plant, site_id="BER", scopes=["PART_TYPE"])
    record(plant)
    with refused(plant, "22023") as refusal:
        resolve(plant, "RETIRE")
    assert f"serial {at_site}:" in refusal.detail and f"serial {of_type}:" in refusal.detail
    resolve(plant, "RETIRE", retired_serial_id=of_type)
    assert statuses(plant, at_site, of_type) == ["ACTIVE", "RETIRED"]


def test_a_resolution_leaves_nobody_undecided(plant):
    holder, first, second = make(plant), make(plant, "P2", "CONFLICT"), make(plant, "P2", "CONFLICT")
    for loser in (holder, first):
        with refused(plant, "22023") as refusal:
            resolve(plant, "RETIRE", retired_serial_id=loser)
        assert f"serial {second}:" in refusal.message and "keep_serial_id" in refusal.hint
    resolve(plant, "RETIRE", keep_serial_id=second)
    assert statuses(plant, holder, first, second) == ["RETIRED", "RETIRED", "ACTIVE"]


def test_a_newcomer_that_another_still_keeps_out_is_not_brought_in(plant):
    at_site, of_type = make(plant, scopes=["SITE"]), make(plant, site_id="BER", scopes=["PART_TYPE"])
    newcomer = make(plant, "P2", "CONFLICT")
    with refused(plant, "23505") as refusal:
        resolve(plant, "RETIRE", keep_serial_id=newcomer, retired_serial_id=at_site)
    assert f"serial {of_type}" in refusal.detail and refusal.diag.table_name == "serials"
    assert statuses(plant, at_site, of_type, newcomer) == ["ACTIVE", "ACTIVE", "CONFLICT"]
    assert conflicts(plant, "status") == [("PENDING",)]
    resolve(plant, "RETIRE", keep_serial_id=newcomer)
    assert statuses(plant, at_site, of_type, newcomer) == ["RETIRED", "RETIRED", "ACTIVE"]


@pytest.mark.parametrize("status", ["RETIRED", "INVALID"])
def test_what_is_out_of_use_keeps_its_number_unless_it_has_given_it_up(plant, status):
    holder = make(plant, status=status)
    record(plant)
    resolve(plant, "KEEP", keep_serial_id=holder)
    assert statuses(plant, holder) == [status] and not released(plant, holder)
    record(plant)
    resolve(plant, "MARK_INVALID")
    assert released(plant, holder)
    make(plant)
    record(plant)
    with refused(plant, "55000") as refusal:
        resolve(plant, "KEEP", keep_serial_id=holder)
    assert str(holder) in refusal.message


def test_what_has_no_claim_cannot_give_it_up(plant):
    holder, newcomer = make(plant), make(plant, "P2", "CONFLICT")
    record(plant)
    plant.execute("update machserial.serials set status = 'REJECTED', status_reason = 'r' where id = %s", (newcomer,))
    with refused(plant, "55000") as refusal:
        resolve(plant, "RETIRE", retired_serial_id=newcomer)
    assert "REJECTED" in refusal.detail and f"serial {holder}:" in refusal.hint


def test_what_is_not_pending_says_why(plant):
    holder = make(plant)
    with refused(plant, "P0002") as refusal:
        resolve(plant, "KEEP", keep_serial_id=holder)
    assert "N" in refusal.message and "pending_conflicts" in refusal.hint
    plant.execute("set local machserial.actor = 'Ada'")
    record(plant)
    resolve(plant, "KEEP", keep_serial_id=holder)
    with refused(plant, "55000") as refusal:
        resolve(plant, "RETIRE", retired_serial_id=holder)
    for told in ("Ada", "KEEP", "seen on the shop floor"):
        assert told in refusal.detail
    with refused(plant, "P0002"):
        resolve(plant, "KEEP", part_id="Q", keep_serial_id=holder)
    record(plant)
    resolve(plant, "RETIRE", retired_serial_id=holder)
    assert conflicts(plant, "resolution") == [("KEEP",), ("RETIRE",)]


# Two sessions


def test_of_two_that_resolve_at_once_one_wins(plant, connect):
    holder, newcomer = make(plant), make(plant, "P2", "CONFLICT")
    plant.commit()
    both = threading.Barrier(2)

    def decide(client: int) -> str:
        session = connect()
        both.wait()
        try:
            resolve(session, "KEEP", keep_serial_id=(holder, newcomer)[client], reason=str(client))
        except psycopg.Error as error:
            return error.sqlstate
        session.commit()
        return "won"

    answers = at_once(2, decide)
    assert sorted(answers) == ["55000", "won"]
    winner = answers.index("won")
    assert statuses(plant, holder, newcomer) == [["ACTIVE", "REJECTED"], ["RETIRED", "ACTIVE"]][winner]
    assert conflicts(plant, "kept_serial_id, reason") == [((holder, newcomer)[winner], str(winner))]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_the_second_waits_for_the_first_also_where_no_serial_is_left(plant, connect, ending):
    make(plant)
    record(plant)
    record(plant, part_id="P")
    resolve(plant, "RETIRE", part_id="P")
    plant.commit()
    first, second = connect(), connect()
    resolve(first, "RETIRE")
    with ThreadPoolExecutor(1) as background:
        waiting = background.submit(resolve, second, "RETIRE", reason="second")
        getattr(first, ending)()
        if ending == "commit":
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="resolved already"):
                waiting.result(60)
        else:
            assert waiting.result(60)[0].reason == "second"


def test_a_number_that_is_freed_goes_to_the_first_who_registers_it(plant, connect):
    holder, newcomer = make(plant), make(plant, "P2", "CONFLICT")
    plant.commit()
    first, second = connect(), connect()
    resolve(first, "KEEP", keep_serial_id=newcomer)
    with ThreadPoolExecutor(1) as background:
        waiting = background.submit(register, second, ["N"], "P", on_conflict="RECORD")
        first.commit()
        assert waiting.result(60)[0].has_conflict
    second.commit()
    assert statuses(plant, holder, newcomer) == ["RETIRED", "ACTIVE"]


# The table's own rules


def test_a_resolution_that_is_written_directly_needs_its_reason(plant):
    holder = make(plant)
    for _duplicate in range(2):
        record(plant)
    update = "update machserial.serial_conflicts set status = 'RESOLVED'{} where id = (select min(id) from {})"
    for assignment in ("", ", reason = 'r'", ", resolution = 'KEEP'", ", resolution = 'KEEP', reason = ' '"):
        with refused(plant, "22023") as refusal:
            plant.execute(update.format(assignment, "machserial.serial_conflicts"))
        assert "N" in refusal.message
    for assignment in (
        "status = 'RESOLVED', resolution = 'DROP', reason = 'r'",
        "status = 'GONE'",
        "resolution = 'KEEP'",
        "reason = 'r'",
        "resolved_at = now()",
        "kept_serial_id = conflicting_serial_ids[1]",
    ):
        with violated(plant, "23514"):
            plant.execute(f"update machserial.serial_conflicts set {assignment}")
    plant.execute("set local machserial.actor = 'Ada'")
    plant.execute("set local machserial.reason = 'of the session'")
    plant.execute(
        "update machserial.serial_conflicts set status = 'RESOLVED', resolution = 'KEEP', kept_serial_id = %s, "
        "resolved_by = 'nobody', resolved_at = '2001-01-01'",
        (holder,),
    )
    assert conflicts(plant, "kept_serial_id, retired_serial_ids, resolved_by, reason, resolved_at = now()") == [
        (holder, [], "Ada", "of the session", True)
    ] * 2  # fmt: skip
    resolved = events(plant, "CONFLICT_RESOLVED")
    assert [event[:6] for event in resolved] == [(holder, "N", "P2", "DEFAULT", "Ada", "of the session")] * 2
    assert {event[6]["resolution"] for event in resolved} == {"KEEP"}


def test_what_was_found_and_what_was_decided_stays(plant):
    holder = make(plant)
    record(plant)
    found = (
        "serial_number = 'M'", "part_id = 'P'", "site_id = 'BER'", "scopes = '{SITE}'", "source = 'VENDOR'",
        "serial_id = conflicting_serial_ids[1]", "conflicting_serial_ids = '{}'", "conflicting_scopes = '{}'",
        "detected_at = '2001-01-01'", "detected_by = 'nobody'",
    )  # fmt: skip
    for assignment in found:
        with refused(plant, "55000") as refusal:
            plant.execute(f"update machserial.serial_conflicts set {assignment}")
        assert "N" in refusal.message and assignment.split()[0] in refusal.detail
    resolve(plant, "KEEP", keep_serial_id=holder)
    decided = (
        "status = 'PENDING'", "resolution = 'RETIRE'", "kept_serial_id = null", "retired_serial_ids = '{4711}'",
        "resolved_at = '2001-01-01'", "resolved_by = 'nobody'", "reason = 'another'",
    )  # fmt: skip
    before = conflicts(plant, "*")
    for assignment in (*found, *decided):
        with refused(plant, "55000"):
            plant.execute(f"update machserial.serial_conflicts set {assignment}")
    plant.execute("update machserial.serial_conflicts set status = status, reason = reason")
    for statement in ("delete from machserial.serial_conflicts", "truncate machserial.serial_conflicts cascade"):
        with refused(plant, "55000") as refusal:
            plant.execute(statement)
        assert "resolve_conflict" in refusal.hint
    assert conflicts(plant, "*") == before and len(events(plant, "CONFLICT_RESOLVED")) == 1


def test_what_was_resolved_elsewhere_can_be_imported(plant):
    insert = (
        "insert into machserial.serial_conflicts (serial_number, part_id, site_id, scopes, source, "
        "conflicting_serial_ids, conflicting_scopes, status, resolution, reason, resolved_at, resolved_by) "
        "values ('N', 'P', 'BER', '{SITE}', 'IMPORT', '{}', '{}', 'RESOLVED', %s, %s, %s, %s)"
    )
    for incomplete in [(None, "r"), ("KEEP", None)]:
        with refused(plant, "22023"):
            plant.execute(insert, (*incomplete, None, None))
    plant.execute(insert, ("RETIRE", "r", "2001-01-01", "Grace"))
    plant.execute(insert, ("RETIRE", "r", None, None))
    assert conflicts(plant, "extract(year from resolved_at) = 2001, resolved_by = 'Grace'") == [
        (True, True), (False, False),
    ]  # fmt: skip


def test_a_serial_that_leaves_its_conflict_directly_has_resolved_it(plant):
    resolutions = {
        "ACTIVE": "KEEP", "PENDING": "KEEP", "REJECTED": "RETIRE", "RETIRED": "RETIRE", "INVALID": "MARK_INVALID",
    }  # fmt: skip
    for status, resolution in resolutions.items():
        serial_id = make(plant, status="CONFLICT", number=status)
        leave = "update machserial.serials set status = %s, status_reason = %s where id = %s"
        with refused(plant, "22023"):
            plant.execute(leave, (status, None, serial_id))
        plant.execute(leave, (status, "seen", serial_id))
        found = call(plant, "conflict_history")[0]
        assert (found.serial_id, found.status, found.resolution) == (serial_id, "RESOLVED", resolution)
        kept, retired = (serial_id, []) if resolution == "KEEP" else (None, [serial_id])
        assert (found.kept_serial_id, found.retired_serial_ids, found.reason) == (kept, retired, "seen")
        with refused(plant, "55000"):
            resolve(plant, "RETIRE", status, "P")


# What is on record


def test_pending_conflicts_come_oldest_first_and_the_history_newest_first(plant):
    holders = {number: make(plant, number=number) for number in ("A", "B", "C")}
    ids = []
    for day, (number, part_id) in enumerate([("A", "P2"), ("B", "P"), ("C", "P2")]):
        ids.append(
            value(
                plant,
                "insert into machserial.serial_conflicts (serial_number, part_id, site_id, scopes, source, "
                "conflicting_serial_ids, conflicting_scopes, detected_at) "
                "values (%s, %s, 'DEFAULT', '{SITE}', 'MANUAL', %s, '{SITE}', '2020-01-05'::date - %s) returning id",
                number, part_id, [holders[number]], day,
            )
        )  # fmt: skip
    a, b, c = ids
    assert [row.id for row in call(plant, "pending_conflicts")] == [c, b, a]
    assert [row.id for row in call(plant, "pending_conflicts", part_id="P2")] == [c, a]
    resolve(plant, "KEEP", "C", keep_serial_id=holders["C"])
    assert [row.id for row in call(plant, "pending_conflicts")] == [b, a]
    assert [row.id for row in call(plant, "conflict_history")] == [a, b, c]
    assert [(row.id, row.status, row.resolution) for row in call(plant, "conflict_history", part_id="P2")] == [
        (a, "PENDING", None), (c, "RESOLVED", "KEEP"),
    ]  # fmt: skip
    columns = column(
        plant, "select column_name from information_schema.columns where table_name = 'serial_conflicts' "
        "order by ordinal_position",
    )  # fmt: skip
    assert list(call(plant, "conflict_history")[0]._fields) == columns
    for function in ("pending_conflicts", "conflict_history"):
        assert call(plant, function, part_id="Q") == []
        with refused(plant, "23503"):
            call(plant, function, part_id="NOBODY")


def test_a_direct_update_keeps_a_serial_of_that_number(plant):
    make(plant)
    other = make(plant, number="OTHER")
    record(plant)
    update = "update machserial.serial_conflicts set status = 'RESOLVED', resolution = 'KEEP', reason = 'r'"
    with refused(plant, "22023") as refusal:
        plant.execute(f"{update}, kept_serial_id = %s", (other,))
    assert "OTHER" in refusal.detail
    plant.execute(update)
    assert value(plant, "select kept_serial_id = conflicting_serial_ids[1] from machserial.serial_conflicts")
