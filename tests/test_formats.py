"""Formats: how numbers are written and counted, their versions, and which parts use which."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from support import call, column, generated, make_format, make_part, refused, value, violated

NOW = datetime.now(timezone.utc)
HOUR = timedelta(hours=1)


def format_of(connection, part_id: str = "P", **arguments: object) -> str | None:
    rows = call(connection, "format_for", part_id=part_id, **arguments)
    return rows[0].name if rows else None


def test_a_format_says_what_it_is(connection):
    made = make_format(connection, "F", "A{SEQ:3}")
    assert (made.name, made.version, made.pattern, made.description) == ("F", 1, "A{SEQ:3}", None)
    assert (made.sequence_start, made.sequence_increment) == (1, 1)
    assert (made.reset, made.counter_per, made.allocation, made.letter_case) == ("NEVER", "FORMAT", "SEQUENCE", "EXACT")
    assert made.is_active
    stored = connection.execute("select id, name, pattern from machserial.serial_formats").fetchall()
    assert stored == [(made.id, "F", "A{SEQ:3}")]


def test_who_made_a_format_is_on_record(connection):
    assert make_format(connection, "F", "A{SEQ:3}").created_by == value(connection, "select session_user")
    connection.execute("set local machserial.actor = 'Ada'")
    assert make_format(connection, "G", "A{SEQ:3}").created_by == "Ada"


def test_choices_may_be_written_in_any_letter_case(connection):
    made = make_format(
        connection, "F", "{YYYY}{SEQ:3}", reset="Yearly", counter_per="site", allocation="gapless", letter_case="upper"
    )
    assert (made.reset, made.counter_per, made.allocation, made.letter_case) == ("YEARLY", "SITE", "GAPLESS", "UPPER")


def test_every_bad_argument_is_refused(connection):
    for arguments in [
        {"name": None},
        {"name": ""},
        {"name": "  "},
        {"pattern": None},
        {"pattern": ""},
        {"pattern": "{SEQ:0}"},
        {"sequence_start": -1},
        {"sequence_start": 1000},
        {"sequence_start": None},
        {"sequence_increment": 0},
        {"sequence_increment": -5},
        {"sequence_increment": None},
        {"reset": "HOURLY"},
        {"reset": ""},
        {"reset": None},
        {"counter_per": "PLANT"},
        {"counter_per": None},
        {"allocation": "RANDOM"},
        {"allocation": None},
        {"letter_case": "lower"},
        {"letter_case": None},
    ]:
        with refused(connection, "22023"):
            call(connection, "create_format", **{"name": "F", "pattern": "A{SEQ:3}", **arguments})
    assert value(connection, "select count(*) from machserial.serial_formats") == 0


def test_a_name_is_used_once(connection):
    make_format(connection, "F", "A{SEQ:3}")
    with refused(connection, "23505"):
        make_format(connection, "F", "B{SEQ:3}")
    assert column(connection, "select pattern from machserial.serial_formats") == ["A{SEQ:3}"]


def test_a_format_that_is_inserted_directly_is_held_to_the_same_rules(connection):
    make_part(connection)
    insert = "insert into machserial.serial_formats (name, pattern, reset, counter_per) values (%s, %s, %s, %s)"
    for pattern, reset, counter_per in [
        ("{SQE:3}", "NEVER", "FORMAT"),
        ("{SEQ:3}", "DAILY", "FORMAT"),
    ]:
        with violated(connection, "22023"):
            connection.execute(insert, ("F", pattern, reset, counter_per))
    with violated(connection, "23514"):
        connection.execute(insert, ("F", "{SEQ:3}", "NEVER", "PLANET"))
    connection.execute(insert, ("F", "A{SEQ:3}", "NEVER", "FORMAT"))
    assert generated(connection, format="F") == ["A001"]


SOUND_RESETS = [
    ("DAILY", "{YYYY}{MM}{DD}"),
    ("DAILY", "{YY}{DDD}"),
    ("DAILY", "{DDD}{YYYY}"),
    ("WEEKLY", "{IYYY}{WW}"),
    ("WEEKLY", "{YYYY}{MM}{DD}"),
    ("MONTHLY", "{YYYY}{MM}"),
    ("MONTHLY", "{YY}{DDD}"),
    ("YEARLY", "{YY}"),
    ("YEARLY", "{YYYY}{WW}"),
    ("NEVER", ""),
]
FAULTY_RESETS = [
    ("DAILY", ""),
    ("DAILY", "{YYYY}{MM}"),
    ("DAILY", "{MM}{DD}"),
    ("DAILY", "{DDD}"),
    ("DAILY", "{IYYY}{WW}"),
    ("WEEKLY", ""),
    ("WEEKLY", "{WW}"),
    ("WEEKLY", "{YYYY}{WW}"),
    ("WEEKLY", "{YY}{WW}"),
    ("WEEKLY", "{YYYY}{MM}"),
    ("MONTHLY", "{MM}"),
    ("MONTHLY", "{YYYY}"),
    ("MONTHLY", "{IYYY}{WW}"),
    ("YEARLY", ""),
    ("YEARLY", "{MM}{DD}"),
    ("YEARLY", "{IYYY}"),
]


def test_a_reset_must_be_told_apart_by_the_date_tokens(connection):
    for reset, tokens in SOUND_RESETS:
        assert make_format(connection, f"{reset} {tokens}", f"{tokens}-{{SEQ:3}}", reset=reset).reset == reset
    for reset, tokens in FAULTY_RESETS:
        with refused(connection, "22023"):
            make_format(connection, f"{reset} {tokens}", f"{tokens}-{{SEQ:3}}", reset=reset)


def test_a_revision_must_be_told_apart_too(connection):
    make_format(connection, "F", "{YYYY}{MM}{DD}{SEQ:3}", reset="DAILY")
    with refused(connection, "22023"):
        call(connection, "revise_format", name="F", pattern="{YYYY}{MM}{SEQ:3}")
    assert column(connection, "select version from machserial.serial_formats where is_active") == [1]


# A format never changes


def test_a_format_is_frozen(connection):
    make_part(connection)
    make_format(connection, "F", "A{SEQ:3}")
    generated(connection, format="F")
    for assignment in [
        "pattern = 'B{SEQ:3}'",
        "name = 'G'",
        "sequence_start = 5",
        "sequence_increment = 2",
        "reset = 'YEARLY'",
        "counter_per = 'PART'",
        "allocation = 'GAPLESS'",
        "letter_case = 'UPPER'",
        "version = 7",
        "sequence_maximum = 5",
        "created_by = 'somebody'",
    ]:
        with refused(connection, "55000") as refusal:
            connection.execute(f"update machserial.serial_formats set {assignment}")
        assert "revise_format" in refusal.hint
    with refused(connection, "55000"):
        connection.execute("delete from machserial.serial_formats")
    with refused(connection, "55000"):
        connection.execute("truncate machserial.serial_formats cascade")
    assert generated(connection, format="F") == ["A002"]


def test_a_description_may_be_written_at_any_time(connection):
    make_format(connection, "F", "A{SEQ:3}")
    connection.execute("update machserial.serial_formats set description = 'For brackets'")
    assert column(connection, "select description from machserial.serial_formats") == ["For brackets"]


def test_a_revision_is_a_new_version_that_goes_on_counting(connection):
    make_part(connection)
    make_format(connection, "F", "A{SEQ:3}", description="Old", sequence_increment=2)
    assert generated(connection, quantity=2, format="F") == ["A001", "A003"]
    revised = call(connection, "revise_format", name="F", pattern="B{SEQ:4}")[0]
    assert (revised.version, revised.pattern, revised.description) == (2, "B{SEQ:4}", "Old")
    assert revised.sequence_increment == 2 and revised.is_active
    assert generated(connection, quantity=2, format="F") == ["B0005", "B0007"]
    # What was issued keeps the version that issued it.
    assert connection.execute(
        "select s.serial_number, f.version, f.is_active from machserial.serials as s "
        "join machserial.serial_formats as f on f.id = s.format_id order by s.id"
    ).fetchall() == [("A001", 1, False), ("A003", 1, False), ("B0005", 2, True), ("B0007", 2, True)]


def test_a_revision_goes_on_counting_for_every_part_whatever_the_allocation(connection):
    for allocation in ("SEQUENCE", "GAPLESS"):
        make_format(
            connection, allocation, f"{allocation}-{{PART}}-{{SEQ:3}}", counter_per="PART", allocation=allocation
        )
        for part_id, quantity in [("P", 3), ("Q", 5)]:
            make_part(connection, part_id)
            generated(connection, part_id, quantity, format=allocation)
        # Some versions count nothing, and are looked through.
        for _ in range(3):
            call(connection, "revise_format", name=allocation)
        assert generated(connection, "P", format=allocation) == [f"{allocation}-P-004"]
        assert generated(connection, "Q", format=allocation) == [f"{allocation}-Q-006"]


def test_a_revision_begins_where_it_is_told_to(connection):
    make_part(connection)
    make_format(connection, "F", "A{SEQ:3}")
    generated(connection, quantity=10, format="F")
    call(connection, "revise_format", name="F", sequence_start=500)
    assert generated(connection, format="F") == ["A500"]


def test_a_revision_goes_on_where_a_counter_was_moved_to(connection):
    make_part(connection)
    for allocation in ("SEQUENCE", "GAPLESS"):
        make_format(connection, allocation, f"{allocation[0]}{{SEQ:3}}", allocation=allocation)
        generated(connection, quantity=10, format=allocation)
        call(connection, "reset_counter", format=allocation, next_value=100, reason="moved")
        call(connection, "revise_format", name=allocation, pattern=f"{allocation[0]}{{SEQ:4}}")
        assert generated(connection, format=allocation) == [f"{allocation[0]}0100"]


def test_a_revision_needs_a_format(connection):
    with refused(connection, "23503"):
        call(connection, "revise_format", name="F", pattern="A{SEQ:3}")


def test_a_deactivated_format_issues_nothing(connection):
    make_part(connection)
    make_format(connection, "F", "A{SEQ:3}")
    generated(connection, format="F")
    assert not call(connection, "deactivate_format", name="F")[0].is_active
    with refused(connection, "55000"):
        generated(connection, format="F")
    with refused(connection, "55000"):
        call(connection, "deactivate_format", name="F")
    with refused(connection, "55000"):
        call(connection, "assign_format", part_id="P", format="F")
    with refused(connection, "23503"):
        call(connection, "deactivate_format", name="NEVER MADE")
    # Revising it brings it back.
    call(connection, "revise_format", name="F")
    assert generated(connection, format="F") == ["A002"]


# Which part uses which format


def test_the_part_s_own_format_comes_before_that_of_its_type(connection):
    make_part(connection)
    for name in ("OWN", "TYPE"):
        make_format(connection, name, name + "{SEQ:3}")
    assert format_of(connection) is None
    call(connection, "assign_format_to_type", part_type="TYPE", format="TYPE", priority=100)
    assert format_of(connection) == "TYPE"
    call(connection, "assign_format", part_id="P", format="OWN", priority=-100)
    assert format_of(connection) == "OWN"
    make_part(connection, "Q")
    assert format_of(connection, "Q") == "TYPE"
    make_part(connection, "R", part_type="OTHER")
    assert format_of(connection, "R") is None
    assert generated(connection) == ["OWN001"] and generated(connection, "Q") == ["TYPE001"]
    with refused(connection, "23503"):
        generated(connection, "R")


def test_the_higher_priority_wins(connection):
    make_part(connection)
    for name, priority in [("LOW", -1), ("HIGH", 10), ("MIDDLE", 5)]:
        make_format(connection, name, name + "{SEQ:3}")
        call(connection, "assign_format", part_id="P", format=name, priority=priority)
    assert format_of(connection) == "HIGH"
    call(connection, "unassign_format", part_id="P", format="HIGH")
    assert format_of(connection) == "MIDDLE"
    call(connection, "deactivate_format", name="MIDDLE")
    assert format_of(connection) == "LOW"


def test_an_assignment_holds_for_its_period_only(connection):
    make_part(connection)
    for name in ("ALWAYS", "SOON", "PAST"):
        make_format(connection, name, name + "{SEQ:3}")
    call(connection, "assign_format", part_id="P", format="ALWAYS", effective_from=NOW - 100 * HOUR)
    call(connection, "assign_format", part_id="P", format="SOON", priority=1, effective_from=NOW + 10 * HOUR)
    call(
        connection, "assign_format", part_id="P", format="PAST", priority=2,
        effective_from=NOW - 20 * HOUR, effective_until=NOW - 10 * HOUR,
    )  # fmt: skip
    for hours, name in [
        (-101, None),
        (-100, "ALWAYS"),
        (-21, "ALWAYS"),
        (-20, "PAST"),
        (-11, "PAST"),
        (-10, "ALWAYS"),
        (0, "ALWAYS"),
        (9, "ALWAYS"),
        (10, "SOON"),
    ]:
        assert format_of(connection, at=NOW + hours * HOUR) == name, hours
    assert generated(connection) == ["ALWAYS001"]


def test_an_assignment_may_be_made_again_with_another_priority_or_end(connection):
    make_part(connection)
    make_format(connection, "F", "F{SEQ:3}")
    make_format(connection, "G", "G{SEQ:3}")
    call(connection, "assign_format", part_id="P", format="F", priority=1, effective_from=NOW - HOUR)
    call(connection, "assign_format", part_id="P", format="G", priority=2, effective_from=NOW - HOUR)
    call(connection, "assign_format", part_id="P", format="F", priority=3, effective_from=NOW - HOUR)
    assert format_of(connection) == "F"
    assert value(connection, "select count(*) from machserial.format_assignments") == 2


def test_assignments_follow_a_revision(connection):
    make_part(connection)
    make_part(connection, "Q")
    make_format(connection, "F", "A{SEQ:3}")
    call(connection, "assign_format", part_id="P", format="F")
    call(connection, "assign_format_to_type", part_type="TYPE", format="F")
    generated(connection)
    call(connection, "revise_format", name="F", pattern="B{SEQ:3}")
    assert generated(connection) == ["B002"] and generated(connection, "Q") == ["B003"]


def test_assigning_what_does_not_exist_is_refused(connection):
    make_part(connection)
    make_format(connection, "F", "A{SEQ:3}")
    with refused(connection, "23503"):
        call(connection, "assign_format", part_id="NOBODY", format="F")
    with refused(connection, "23503"):
        call(connection, "assign_format", part_id="P", format="NOTHING")
    with refused(connection, "23503"):
        call(connection, "assign_format_to_type", part_type="TYPE", format="NOTHING")
    with refused(connection, "22023"):
        call(connection, "assign_format_to_type", part_type="", format="F")
    with refused(connection, "23503"):
        call(connection, "format_for", part_id="NOBODY")
    for until in (NOW, NOW - HOUR):
        with refused(connection, "22023"):
            call(connection, "assign_format", part_id="P", format="F", effective_from=NOW, effective_until=until)
    for arguments in [{"part_id": "P", "format": "F"}, {"part_id": "NOBODY", "format": "F"}]:
        with refused(connection, "P0002"):
            call(connection, "unassign_format", **arguments)
    assert value(connection, "select count(*) from machserial.format_assignments") == 0
