"""Looking a number up before it is used: who holds it, what comes near it, and how many there are."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

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

CLAIMING = {"PENDING", "ACTIVE", "RETIRED", "INVALID"}


def build_plant(connection):
    """Parts P and P2 of type T, Q of type U, and the sites DEFAULT and BER."""
    call(connection, "register_site", site_id="BER")
    for part_id, part_type in [("P", "T"), ("P2", "T"), ("Q", "U")]:
        make_part(connection, part_id, part_type)


pytestmark = pytest.mark.prepared(setup=build_plant)


@pytest.fixture
def plant(connection):
    return connection


def make(connection, number: str = "N", part_id: str = "P", status: str = "ACTIVE", **more: object) -> int:
    columns = {"serial_number": number, "part_id": part_id, "status": status, **more}
    names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
    query = f"insert into machserial.serials ({names}) values ({marks}) returning id"
    return value(connection, query, *columns.values())


def check(connection, number: str = "N", part_id: str = "P", **arguments: object) -> object:
    (answer,) = call(connection, "check_uniqueness", serial_number=number, part_id=part_id, **arguments)
    assert answer.has_conflict == bool(answer.conflicting_serial_ids) == bool(answer.conflicting_scopes)
    return answer


def near(connection, number: str) -> list[str]:
    return check(connection, number).near_matches


def fill_plant(connection):
    """50,000 serials of part P at site BER and as many of Q at DEFAULT, analyzed."""
    build_plant(connection)
    for part_id, site_id in [("P", "BER"), ("Q", None)]:
        generated(connection, part_id, 50_000, pattern="SN-{SEQ:6}{CHECK:mod37_36}", site_id=site_id)
    connection.execute("analyze machserial.serials")


BIG = pytest.mark.prepared(setup=fill_plant)


# check_uniqueness


def test_a_number_that_nobody_has_is_free(plant):
    assert check(plant) == (False, [], [], "NONE", [])


def test_a_number_that_is_taken_says_by_whom_and_in_which_scope(plant):
    holder = make(plant, scopes=["SITE", "PART_TYPE"])
    assert check(plant, part_id="P2") == (True, [holder], ["PART_TYPE", "SITE"], "DUPLICATE", [])
    assert check(plant, part_id="P2", site_id="BER")[:3] == (True, [holder], ["PART_TYPE"])
    assert check(plant, part_id="Q")[:3] == (True, [holder], ["SITE"])
    assert check(plant, part_id="Q", site_id="BER")[:4] == (False, [], [], "NONE")
    assert check(plant, part_id="P", scopes=["enterprise"])[:4] == (True, [holder], ["ENTERPRISE"], "DUPLICATE")
    assert check(plant, part_id="Q", site_id="BER", scopes=["enterprise"])[:2] == (True, [holder])
    everywhere = make(plant, "N", "Q", site_id="BER", scopes=["ENTERPRISE"])
    assert check(plant, scopes=["ENTERPRISE", "PART_TYPE"])[:3] == (
        True, [holder, everywhere], ["ENTERPRISE", "PART_TYPE"],
    )  # fmt: skip


def test_the_answer_is_what_registering_would_give(plant):
    for status in ("PENDING", "ACTIVE", "RETIRED", "INVALID", "REJECTED", "CONFLICT"):
        holder = make(plant, status, status=status)
        answer = check(plant, status, "P2")
        assert answer.conflicting_serial_ids == ([holder] if status in CLAIMING else [])
        assert register(plant, [status], "P2", on_conflict="RECORD")[0].has_conflict == answer.has_conflict
    make(plant, "gone", status="RETIRED", claim_released=True)
    assert not check(plant, "gone").has_conflict and not register(plant, ["gone"])[0].has_conflict


def test_the_part_says_the_scopes_unless_told_otherwise(plant):
    make_part(plant, "E", "V", scopes=["ENTERPRISE"])
    make(plant, "N", "E", site_id="BER")
    assert check(plant, part_id="E").conflicting_scopes == ["ENTERPRISE"]
    assert check(plant, part_id="E", scopes=["SITE"]).conflicting_scopes == ["ENTERPRISE"]
    make(plant, "S", "P", site_id="BER", scopes=["SITE"])
    assert check(plant, "S", part_id="P").conflict_type == "NONE"
    assert check(plant, "S", part_id="P", scopes=["SITE", "PART_TYPE", "ENTERPRISE"]).conflicting_scopes == [
        "ENTERPRISE"
    ]


def test_the_answer_is_advice_and_the_index_decides(plant, connect):
    plant.commit()
    first, second = connect(), connect()
    assert check(first).conflict_type == check(second).conflict_type == "NONE"
    register(first, ["N"])
    assert check(second).conflict_type == "NONE"
    with ThreadPoolExecutor(1) as background:
        waiting = background.submit(register, second, ["N"], on_conflict="RECORD")
        first.commit()
        assert waiting.result(60)[0].has_conflict


def test_bad_questions_are_refused(plant):
    for number in (None, "", "  "):
        with refused(plant, "22023") as refusal:
            check(plant, number)
        assert "serial" in refusal.message
    for scopes in (["PLANET"], [], [None], [["SITE"], ["ENTERPRISE"]]):
        with refused(plant, "22023"):
            check(plant, scopes=scopes)
    for arguments in ({"part_id": "NOBODY"}, {"part_id": None}, {"site_id": "NOWHERE"}):
        with refused(plant, "23503"):
            check(plant, **arguments)


# Near matches


def test_numbers_that_a_person_takes_for_one_another_are_near(plant):
    numbers = ["SN-0125-8B", "sn0125-8b", "SN 0125 8B", "5N-OIZS-B8", "SNOLZSBB"]
    make(plant, numbers[0])
    allow_unicode(plant)
    for number in numbers[1:]:
        assert check(plant, number, "Q")[3:] == ("NEAR_MATCH", [numbers[0]])
        assert check(plant, f" {number} ", "P")[3:] == ("NEAR_MATCH", [numbers[0]])
    for other in ("SN-0125-8", "SN-0125-8B0", "SN-0124-8B", "SN_0125_8B", "SИ-0125-8B", "8B-0125-SN"):
        assert check(plant, other)[3:] == ("NONE", [])


def test_near_matches_are_of_any_part_site_and_state_each_number_once(plant):
    make(plant, "n-1", "Q", site_id="BER", scopes=["SITE"])
    make(plant, "n-1", "Q", scopes=["SITE"])
    make(plant, "NI", "P", status="REJECTED")
    holder = make(plant, "N1", "P")
    assert check(plant, "N1") == (True, [holder], ["PART_TYPE", "SITE"], "DUPLICATE", ["NI", "n-1"])
    assert check(plant, "Nl") == (False, [], [], "NEAR_MATCH", ["N1", "NI", "n-1"])


def test_at_most_twenty_near_matches_are_told(plant):
    register(plant, [f"{'-' * count}N" for count in range(1, 60)])
    assert near(plant, "N") == [f"{'-' * count}N" for count in range(59, 39, -1)]


def test_near_matches_of_any_text_are_found(plant):
    allow_unicode(plant)
    register(plant, HOSTILE_NUMBERS)
    for number in HOSTILE_NUMBERS:
        assert check(plant, number).conflict_type == "DUPLICATE"
        assert number in near(plant, f"- {number}")


@BIG
def test_both_questions_are_answered_by_indexes(plant):
    numbers = column(plant, "select serial_number from machserial.serials where part_id = 'P' order by id limit 20")
    readings = "select seq_scan from pg_stat_xact_user_tables where relname = 'serials'"
    before = value(plant, readings)
    # More often than a session plans anew for each call.
    for number in numbers:
        assert check(plant, number).conflicting_scopes == ["PART_TYPE"]
        assert check(plant, number, site_id="BER").conflicting_scopes == ["PART_TYPE", "SITE"]
        assert near(plant, number.lower()) == [number]
    assert value(plant, readings) == before


# The view of claims


def test_claims_are_the_scopes_of_those_who_hold_a_number_and_of_those_who_want_it(plant):
    holder = make(plant, scopes=["SITE", "ENTERPRISE"])
    (duplicate,) = register(plant, ["N"], "Q", scopes=["SITE"], on_conflict="RECORD")
    newcomer = make(plant, "N", "P2", "CONFLICT", scopes=["ENTERPRISE"], site_id="BER")
    for status in ("REJECTED", "PENDING"):
        make(plant, status, status=status, scopes=["PART_TYPE"])
    claims = plant.execute(
        "select serial_number, scope, site_id, part_type, part_id, serial_id, conflict_id is not null, status, "
        "claimed_at = now(), claimed_by = session_user "
        "from machserial.serial_uniqueness_checks order by serial_number, conflict_id nulls first, scope"
    ).fetchall()
    assert {claim[8:] for claim in claims} == {(True, True)}
    assert [claim[:5] for claim in claims] == [
        ("N", "ENTERPRISE", "DEFAULT", "T", "P"),
        ("N", "SITE", "DEFAULT", "T", "P"),
        ("N", "SITE", "DEFAULT", "U", "Q"),
        ("N", "ENTERPRISE", "BER", "T", "P2"),
        ("PENDING", "PART_TYPE", "DEFAULT", "T", "P"),
    ]
    assert [claim[5:8] for claim in claims[:4]] == [
        (holder, False, "ACTIVE"),
        (holder, False, "ACTIVE"),
        (None, True, "CONFLICT"),
        (newcomer, True, "CONFLICT"),
    ]
    call(
        plant, "resolve_conflict", serial_number="N", part_id="Q", resolution="KEEP", keep_serial_id=holder, reason="r"
    )
    assert duplicate.conflict_id and value(
        plant, "select count(*) from machserial.serial_uniqueness_checks where serial_number = 'N'"
    ) == 2


@BIG
def test_claims_are_found_by_indexes(plant):
    number = value(plant, "select serial_number from machserial.serials where part_id = 'P' limit 1")
    for condition in (
        "scope = 'SITE' and site_id = 'BER'",
        "scope = 'PART_TYPE' and part_type = 'T'",
        "scope = 'ENTERPRISE'",
        "true",
    ):
        query = f"from machserial.serial_uniqueness_checks where serial_number = '{number}' and {condition}"
        plan = value(plant, f"explain (format json) select count(*) {query}")
        assert "Index" in json.dumps(plan) and "Seq Scan" not in json.dumps(plan)
        assert value(plant, f"select count(*) {query}") == {"scope = 'ENTERPRISE'": 0, "true": 2}.get(condition, 1)


def test_claims_cannot_be_written(plant):
    make(plant)
    for statement in ("delete from", "update", "insert into"):
        rest = {"update": "set scope = 'SITE'", "insert into": "(scope) values ('SITE')"}.get(statement, "")
        with violated(plant, "55000"):
            plant.execute(f"{statement} machserial.serial_uniqueness_checks {rest}")


# The report


def test_the_report_tells_everybody_who_has_had_or_wanted_a_number(plant):
    plant.execute("set local machserial.actor = 'Ada'")
    gone = make(plant, status="RETIRED", claim_released=True, status_reason="worn", created_at="2020-01-01")
    holder = make(plant, scopes=["SITE"], created_at="2020-01-02")
    everywhere = make(plant, "N", "Q", site_id="BER", created_at="2020-01-03", scopes=["ENTERPRISE"])
    at_other_site = make(plant, "N", "Q", site_id="BER", created_at="2020-01-04", scopes=["SITE"])
    newcomer = make(plant, "N", "P2", "CONFLICT", created_at="2020-01-05")
    (duplicate,) = register(plant, ["N"], "P2", on_conflict="RECORD", source="IMPORT")
    rows = call(plant, "uniqueness_report", serial_number="N", part_id="P2")
    assert [(row.serial_id, row.part_id, row.status, row.holds_claim) for row in rows] == [
        (gone, "P", "RETIRED", False),
        (holder, "P", "ACTIVE", True),
        (everywhere, "Q", "ACTIVE", True),
        (at_other_site, "Q", "ACTIVE", True),
        (newcomer, "P2", "CONFLICT", False),
        (None, "P2", "CONFLICT", False),
    ]
    assert {row.serial_number for row in rows} == {"N"} and {row.entered_by for row in rows} == {"Ada"}
    assert (rows[0].reason, rows[0].part_type, rows[0].site_id, rows[0].since.year) == ("worn", "T", "DEFAULT", 2020)
    assert (rows[1].scopes, rows[5].scopes, rows[5].source) == (["SITE"], ["SITE", "PART_TYPE"], "IMPORT")
    of_newcomer = value(plant, "select id from machserial.serial_conflicts where serial_id = %s", newcomer)
    assert [row.conflict_ids for row in rows] == [
        [], [of_newcomer, duplicate.conflict_id], [of_newcomer, duplicate.conflict_id], [], [of_newcomer],
        [duplicate.conflict_id],
    ]  # fmt: skip
    plant.execute("set local machserial.reason = 'theirs'")
    call(plant, "resolve_conflict", serial_number="N", part_id="P2", resolution="KEEP", keep_serial_id=newcomer)
    rows = call(plant, "uniqueness_report", serial_number="N", part_id="P2")
    assert [(row.status, row.holds_claim, row.reason) for row in rows[1:]] == [
        ("RETIRED", False, "theirs"),
        ("RETIRED", False, "theirs"),
        ("ACTIVE", True, None),
        ("ACTIVE", True, "theirs"),
        ("RESOLVED", False, "theirs"),
    ]
    assert rows[4].conflict_ids == rows[1].conflict_ids == [of_newcomer, duplicate.conflict_id]


def test_the_report_is_empty_for_a_number_that_nobody_wanted_and_refuses_bad_questions(plant):
    make(plant, "N", "Q", scopes=["PART_TYPE"])
    for number in ("NOT THERE", "N"):
        assert call(plant, "uniqueness_report", serial_number=number, part_id="P") == []
    for number in (None, ""):
        with refused(plant, "22023"):
            call(plant, "uniqueness_report", serial_number=number, part_id="P")
    for part_id in (None, "NOBODY"):
        with refused(plant, "23503"):
            call(plant, "uniqueness_report", serial_number="N", part_id=part_id)


# Statistics


def test_statistics_count_serials_claims_and_conflicts(plant):
    assert set(call(plant, "uniqueness_statistics")[0]) == {0}
    for status in (*CLAIMING, "REJECTED", "CONFLICT"):
        make(plant, status, status=status, scopes=["SITE"])
    make(plant, "gone", status="RETIRED", claim_released=True)
    make(plant, "all", scopes=["ENTERPRISE", "SITE", "PART_TYPE"])
    make(plant, "all", "Q", site_id="BER", scopes=["PART_TYPE"])
    register(plant, ["all", "all"], "P2", on_conflict="RECORD")
    call(plant, "resolve_conflict", serial_number="all", part_id="P2", resolution="RETIRE", reason="r")
    (of_part,) = call(plant, "uniqueness_statistics", part_id="P")
    assert of_part._asdict() == {
        "total_serials": 8, "claiming": 4, "released": 2, "rejected": 1, "in_conflict": 1, "enterprise_claims": 0,
        "site_claims": 4, "part_type_claims": 0, "pending_conflicts": 1, "resolved_conflicts": 0,
    }  # fmt: skip
    (of_all,) = call(plant, "uniqueness_statistics")
    assert (of_all.total_serials, of_all.claiming, of_all.part_type_claims) == (9, 5, 1)
    assert (of_all.pending_conflicts, of_all.resolved_conflicts) == (1, 2)
    assert of_all.total_serials == of_all.claiming + of_all.released + of_all.rejected + of_all.in_conflict
    assert call(plant, "uniqueness_statistics", part_id="P2")[0].resolved_conflicts == 2
    with refused(plant, "23503"):
        call(plant, "uniqueness_statistics", part_id="NOBODY")
