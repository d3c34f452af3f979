"""What a caller could make grow without end, and where it ends: texts, ad-hoc formats, records of requests and runs."""

from __future__ import annotations

import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from support import call, column, generated, make_format, make_part, refused, register, value, violated

ONE_MODE = True
# In bytes, as text: {"k": "…"} has nine more.
LONGEST = {"k": "x" * (8192 - 9)}
TOO_LONG = {"k": "x" * (8192 - 8)}


@pytest.fixture
def operator(connection):
    """The least who could do it: a session of an operator."""
    call(connection, "create_roles")
    make_format(connection, "F", "F-{SEQ:8}")
    make_part(connection)
    call(connection, "assign_format", part_id="P", format="F")
    for assignment in ("SYSTEM_GENERATED", "LATE_ASSIGNMENT", "VENDOR"):
        call(
            connection, "create_trigger", part_id="P", trigger_type="WORK_ORDER_CREATE", assignment_type=assignment,
            conditions={"for": assignment},
        )  # fmt: skip
    generated(connection)
    connection.execute("set role machserial_operator")
    return connection


def ways_of_a_context(connection):
    """Each way by which an operator's context comes to be kept, as a function of the context."""
    columns = "insert into machserial.{} (serial_number, part_id, source, context) values (%s, 'P', 'MANUAL', %s)"
    number = iter(f"N-{n}" for n in range(1000))
    (placeholder,) = call(connection, "create_placeholders", part_id="P", quantity=1)
    (made,) = register(connection, ["HERE"])
    return {
        "generate": lambda context: call(connection, "generate", part_id="P", context=context),
        "many": lambda context: call(connection, "generate", part_id="P", quantity=200, context=context),
        "fire": lambda context: call(
            connection, "fire", trigger_type="WORK_ORDER_CREATE", part_id="P",
            context=context | {"for": "SYSTEM_GENERATED"},
        ),
        "fire late": lambda context: call(
            connection, "fire", trigger_type="WORK_ORDER_CREATE", part_id="P",
            context=context | {"for": "LATE_ASSIGNMENT"},
        ),
        "fire vendor": lambda context: call(
            connection, "fire", trigger_type="WORK_ORDER_CREATE", part_id="P",
            context=context | {"for": "VENDOR", "vendor_name": "V", "serial_number": next(number)},
        ),
        "insert": lambda context: connection.execute(columns.format("serials"), (next(number), Jsonb(context))),
        "update": lambda context: connection.execute(
            "update machserial.serials set context = %s where id = %s", (Jsonb(context), made.serial_id)
        ),
        "insert placeholder": lambda context: connection.execute(
            "insert into machserial.late_assignment_placeholders (part_id, context) values ('P', %s)", (Jsonb(context),)
        ),
        "update placeholder": lambda context: connection.execute(
            "update machserial.late_assignment_placeholders set context = %s where id = %s",
            (Jsonb(context), placeholder.id),
        ),
        # A value that a table keeps compressed takes less room than it has.
        "from a table": lambda context: connection.execute(
            "create temporary table kept (context jsonb) on commit drop; truncate kept; "
            "insert into kept select " + sql.Literal(Jsonb(context)).as_string(connection) + "; "
            "insert into machserial.serials (serial_number, part_id, context) select 'KEPT-1', 'P', context from kept; "
            "drop table kept"
        ),
        "generate from a table": lambda context: connection.execute(
            "create temporary table kept (context jsonb) on commit drop; truncate kept; "
            "insert into kept select " + sql.Literal(Jsonb(context)).as_string(connection) + "; "
            "select g.* from kept, machserial.generate('P', context => kept.context) as g; "
            "drop table kept"
        ),
    }  # fmt: skip


def test_a_context_has_at_most_8_kb_by_every_way_in(operator):
    ways = ways_of_a_context(operator)
    for way, keep in ways.items():
        with refused(operator, "54000") as refusal:
            keep(TOO_LONG)
        assert "the context" in refusal.message and "8192" in refusal.detail, way
    for way, keep in ways.items():
        if not way.startswith("fire"):
            keep(LONGEST)
    # Negative control: what has been kept is as long as it may be.
    assert value(operator, "select max(octet_length(context::text)) from machserial.serials") == 8192


@pytest.mark.parametrize(("name", "longest"), [("actor", 255), ("reason", 2000)])
def test_who_acts_and_why_is_said_in_so_many_characters(operator, name, longest):
    numbers = iter(f"A-{n}" for n in range(1000))
    ways = {
        "generate": lambda: generated(operator),
        "many": lambda: generated(operator, quantity=200),
        "register": lambda: register(operator, [next(numbers)]),
        "insert": lambda: operator.execute(
            "insert into machserial.serials (serial_number, part_id) values (%s, 'P')", (next(numbers),)
        ),
        "receive": lambda: call(
            operator, "receive_vendor_serial", serial_number=next(numbers), vendor_name="V", part_id="P"
        ),
        "placeholders": lambda: call(operator, "create_placeholders", part_id="P", quantity=1),
        "block": lambda: call(operator, "allocate_block", format="F", quantity=1, holder="line"),
        "retire": lambda: operator.execute(
            "update machserial.serials set status = 'RETIRED' where id = (select max(id) from machserial.serials)"
        ),
        "pass": lambda: call(
            operator, "pass_through", operation_code="OP", routing_sequence=1,
            serial_id=value(operator, "select min(id) from machserial.serials"),
        ),
    }  # fmt: skip
    operator.execute("select set_config('machserial.reason', 'why', true)")
    for way, write in ways.items():
        # Characters, not bytes.
        operator.execute("select set_config(%s, %s, true)", (f"machserial.{name}", "ä" * (longest + 1)))
        with refused(operator, "54000") as refusal:
            write()
        assert str(longest) in refusal.detail, way
        operator.execute("select set_config(%s, %s, true)", (f"machserial.{name}", "ä" * longest))
        write()


def test_a_reason_that_is_given_is_no_longer(operator):
    first, second = (row.serial_id for row in register(operator, ["R-1", "R-2"]))
    (placeholder,) = call(operator, "create_placeholders", part_id="P", quantity=1)
    (received,) = call(operator, "receive_vendor_serial", serial_number="R-3", vendor_name="V", part_id="P")
    for write in (
        lambda reason: call(operator, "retire_serial", serial_id=first, reason=reason),
        lambda reason: call(operator, "invalidate_serial", serial_id=second, reason=reason),
        lambda reason: call(operator, "fail_placeholder", placeholder_id=placeholder.id, reason=reason),
        lambda reason: call(operator, "reject_vendor_serial", vendor_serial_id=received.id, reason=reason),
        lambda notes: call(
            operator, "pass_through", serial_id=first, operation_code="OP", routing_sequence=1, notes=notes
        ),
        lambda reason: operator.execute(
            "update machserial.serials set status = 'RETIRED', status_reason = %s where serial_number = 'R-2'",
            (reason,),
        ),
    ):  # fmt: skip
        with refused(operator, "54000"):
            write("x" * 2001)
    call(operator, "retire_serial", serial_id=first, reason="x" * 2000)
    call(operator, "fail_placeholder", placeholder_id=placeholder.id, reason="x" * 2000)


def test_units_without_a_context_are_refused_and_not_looked_for_for_ever(operator):
    operator.execute("set local statement_timeout = '20s'")
    both = '{"{}","{}"}'
    for quantities, contexts in (("{1,1}", '{"{}"}'), ("{1}", "{}"), ("{1,null}", both), ("{3,-2}", both)):
        with refused(operator, "22023") as refusal:
            operator.execute(
                "select machserial._generate_each('P', null, null, %s::integer[], %s::jsonb[])", (quantities, contexts)
            )
        assert "contexts" in refusal.message
    query = "select count(*) from machserial._generate_each('P', null, null, '{1,2}', array['{}', '{}']::jsonb[])"
    assert value(operator, query) == 3


def test_a_transaction_makes_a_hundred_formats_of_patterns(operator):
    made = (
        "select count(*) from generate_series(1, %s) as i, "
        "machserial.generate('P', pattern => 'X' || i || '-{SEQ:4}')"
    )
    with refused(operator, "54000") as refusal:
        operator.execute(made, (7500,))
    assert "counter_per" in refusal.hint and "{CTX:key}" in refusal.hint and "100" in refusal.detail
    assert value(operator, "select count(*) from machserial.serial_formats where is_ad_hoc") == 0
    # Negative control: a hundred are made, and known ones go on.
    assert value(operator, made, 100) == 100
    assert value(operator, made, 100) == 100
    with refused(operator, "54000"):
        generated(operator, pattern="ONE-MORE-{SEQ:4}")


def test_how_many_formats_of_patterns_there_may_be_is_a_setting(operator):
    generated(operator, pattern="KNOWN-{SEQ:4}")
    for name, setting, said in (("ad_hoc_formats_limit", "1", "limit is 1"), ("ad_hoc_formats", "REFUSE", "REFUSE")):
        operator.execute("reset role")
        operator.execute("update machserial.settings set value = %s where name = %s", (setting, name))
        operator.execute("set role machserial_operator")
        with refused(operator, "54000") as refusal:
            generated(operator, pattern="NEW-{SEQ:4}")
        assert said in refusal.detail and "counter_per" in refusal.hint
        generated(operator, pattern="KNOWN-{SEQ:4}")


def dropped_by_maintenance(connection):
    (row,) = [row for row in call(connection, "maintain") if row.task == "unused formats of patterns dropped"]
    return row.done, row.remaining


def lose_serials(connection, pattern):
    """What a restore without the serials, or a superuser, leaves: the format of a pattern, and no serial of it."""
    connection.execute("set session_replication_role = replica")
    connection.execute(
        "delete from machserial.serials as s using machserial.serial_formats as f "
        "where s.format_id = f.id and f.pattern = %s",
        [pattern],
    )
    connection.execute("reset session_replication_role")


OBJECTS_OF_FORMATS = """
    select
        (select array_agg(f.pattern order by f.id) from machserial.serial_formats as f),
        (select count(*) from pg_proc where pronamespace = 'machserial'::regnamespace and proname ~ '^_render_[0-9]'),
        (select count(*) from pg_class where relnamespace = 'machserial'::regnamespace and relname ~ '^counter_[0-9]'),
        (select count(*) from machserial.counters)
"""


def test_formats_of_patterns_that_no_serial_has_are_dropped(connection):
    make_part(connection)
    make_format(connection, "F", "F-{SEQ:8}")
    for pattern in ("USED-{SEQ:4}", "RESERVED-{SEQ:4}", "REVISED-{SEQ:4}"):
        generated(connection, pattern=pattern)
    call(connection, "allocate_block", format="ad hoc: RESERVED-{SEQ:4}", quantity=1, holder="LINE", part_id="P")
    call(connection, "revise_format", name="ad hoc: REVISED-{SEQ:4}", letter_case="UPPER")
    before = connection.execute(OBJECTS_OF_FORMATS).fetchone()
    for pattern in ("GONE-{SEQ:4}", "GONE-{RANDOM:8}"):
        generated(connection, pattern=pattern)
        lose_serials(connection, pattern)
    for pattern in ("RESERVED-{SEQ:4}", "REVISED-{SEQ:4}"):
        lose_serials(connection, pattern)
    connection.execute("delete from machserial.numbering_plans")
    assert dropped_by_maintenance(connection) == (2, 0)
    assert connection.execute(OBJECTS_OF_FORMATS).fetchone() == before
    deleted = "select details ->> 'pattern' from machserial.audit_events where event_type = 'FORMAT_DELETED' order by 1"
    assert column(connection, deleted) == ["GONE-{RANDOM:8}", "GONE-{SEQ:4}"]
    # The pattern is a new one from then on.
    assert generated(connection, pattern="GONE-{SEQ:4}") == ["GONE-0001"]
    assert dropped_by_maintenance(connection) == (0, 0)


def test_no_other_format_is_deleted(connection):
    make_part(connection)
    make_format(connection, "F", "F-{SEQ:8}")
    generated(connection, pattern="USED-{SEQ:4}")
    for statement in (
        "delete from machserial.serial_formats where name = 'F'",
        "delete from machserial.serial_formats where is_ad_hoc",
        "truncate machserial.serial_formats cascade",
    ):
        with refused(connection, "55000") as refusal:
            connection.execute(statement)
        assert "are kept" in refusal.message
    call(connection, "create_roles")
    connection.execute("set role machserial_admin")
    with violated(connection, "42501"):
        connection.execute("delete from machserial.serial_formats where is_ad_hoc")


def test_a_format_that_comes_into_use_stays(connect):
    """The one who uses it and the one who drops it: whoever comes second sees what the first has done."""
    plant, other = connect(), connect()
    plant.autocommit = other.autocommit = True
    make_part(plant)
    generated(plant, pattern="P-{RANDOM:8}")
    lose_serials(plant, "P-{RANDOM:8}")
    plant.execute("delete from machserial.numbering_plans")
    with other.transaction():
        generated(other, pattern="P-{RANDOM:8}")
        assert dropped_by_maintenance(plant) == (0, 1)
    assert dropped_by_maintenance(plant) == (0, 0)
    lose_serials(plant, "P-{RANDOM:8}")
    plant.execute("delete from machserial.numbering_plans")
    old = value(plant, "select id from machserial.serial_formats")
    with plant.transaction():
        assert dropped_by_maintenance(plant) == (1, 0)
        with violated(other, "55P03"), other.transaction():
            other.execute("set local lock_timeout = '200ms'")
            generated(other, pattern="P-{RANDOM:8}")
    assert len(generated(other, pattern="P-{RANDOM:8}")) == 1
    assert value(plant, "select id from machserial.serial_formats") > old
    assert call(plant, "integrity", only="formats") == []


def test_a_format_of_a_pattern_that_is_used_by_its_name_stays(connect):
    plant, other = connect(), connect()
    plant.autocommit = other.autocommit = True
    make_part(plant)
    generated(plant, pattern="P-{RANDOM:8}")
    lose_serials(plant, "P-{RANDOM:8}")
    plant.execute("delete from machserial.numbering_plans")
    with other.transaction():
        generated(other, format="ad hoc: P-{RANDOM:8}")
        assert dropped_by_maintenance(plant) == (0, 1)
    lose_serials(plant, "P-{RANDOM:8}")
    plant.execute("delete from machserial.numbering_plans")
    # One snapshot: what is committed after it began cannot be seen, so nothing is dropped.
    with plant.transaction():
        plant.execute("set transaction isolation level repeatable read")
        value(plant, "select 1")
        generated(other, format="ad hoc: P-{RANDOM:8}")
        other.execute("delete from machserial.numbering_plans")
        assert dropped_by_maintenance(plant) == (0, 1)
    assert dropped_by_maintenance(plant) == (0, 0)
    # Negative control: without a serial it goes, and who asks for its name waits for that.
    lose_serials(plant, "P-{RANDOM:8}")
    with plant.transaction():
        assert dropped_by_maintenance(plant) == (1, 0)
        with violated(other, "55P03"), other.transaction():
            other.execute("set local lock_timeout = '200ms'")
            generated(other, format="ad hoc: P-{RANDOM:8}")
    with refused(other, "23503"):
        generated(other, format="ad hoc: P-{RANDOM:8}")
    assert call(plant, "integrity", only="formats") == []


def test_records_of_verifications_are_dropped_when_they_are_old(connection):
    columns = "verified_at, is_full, seals, events, problems, newest_seal_id, newest_seal_hash, rolling_seal_id"
    for days, problems in ((400, 0), (390, 1), (380, 0), (370, 1), (10, 1)):
        connection.execute(
            f"insert into machserial.audit_verifications ({columns}) "
            "values (now() - %s * interval '1 day', false, 0, 0, %s, 0, '', 0)",
            (days, problems),
        )
    done = {row.task: row.done for row in call(connection, "maintain")}
    # The newest that found no problem stays, however old, and all that is younger than the setting says.
    assert done["records of verifications dropped"] == 2
    assert value(connection, "select count(*) from machserial.audit_verifications") == 3
    with refused(connection, "42501"):
        connection.execute("delete from machserial.audit_verifications")
    with refused(connection, "42501"):
        connection.execute("update machserial.audit_verifications set problems = 0")


@pytest.mark.parametrize("when", ["infinity", "-infinity", "10000-01-01", "0044-03-15 BC"])
def test_a_time_that_programs_cannot_read_is_refused_where_it_comes_in(operator, when):
    register(operator, ["T-1"])
    refusals = {
        "22023": [
            "select machserial.receive_vendor_serial('T-2', 'V', 'P', {})",
            "select machserial.receive_vendor_serials('V', 'P', '{{T-3}}', {})",
            "select machserial.allocate_block('F', 1, 'line', expires_at => {})",
            "select * from machserial.preview('{{{{YYYY}}}}{{{{SEQ:3}}}}', at => {})",
            "select machserial.fire('WORK_ORDER_CREATE', 'P', jsonb_build_object('for', 'VENDOR', 'vendor_name', 'V', "
            "'serial_number', 'T-4', 'received_date', ({})::text))",
        ],
        "23514": [
            "insert into machserial.vendor_serials (serial_number, part_id, vendor_name, received_date) "
            "values ('T-5', 'P', 'V', {})",
            "insert into machserial.vendor_serials (serial_number, part_id, vendor_name, validated_at) "
            "values ('T-6', 'P', 'V', {})",
            "update machserial.number_blocks set expires_at = {}",
        ],
    }
    call(operator, "allocate_block", format="F", quantity=1, holder="line")
    for sqlstate, statements in refusals.items():
        for statement in statements:
            with (violated if sqlstate == "23514" else refused)(operator, sqlstate):
                operator.execute(statement.format(f"'{when}'::timestamptz"))
            # Negative control: a day that comes or has been.
            operator.execute("savepoint control")
            operator.execute(statement.format("now() + interval '1 hour'"))
            operator.execute("rollback to savepoint control")


@pytest.mark.parametrize("when", ["infinity", "-infinity", "10000-01-01", "0044-03-15 BC"])
def test_a_time_between_which_something_is_looked_for_may_be_any(operator, when):
    """A filter of infinity finds all, or nothing, and an assignment that never was is none."""
    register(operator, ["T-1"])
    since = when in ("-infinity", "0044-03-15 BC")
    for query, finds in (
        ("select count(*) > 0 from machserial.audit_trail(since => {})", since),
        ("select count(*) > 0 from machserial.audit_trail(until => {})", not since),
        ("select count(*) > 0 from machserial.audit_statistics({})", since),
        ("select count(*) > 0 from machserial.propagation_history('P', since => {0}, until => {0})", False),
        ("select (machserial.format_for('P', {})).id is not null", not since),
    ):
        assert value(operator, query.format(f"'{when}'::timestamptz")) is finds, query


def test_every_argument_that_is_a_time_is_tried(connection):
    """In one of the two tests above, in test_numbering_plans.py or, a month, in test_audit_archive.py."""
    functions = column(
        connection,
        """
        select p.proname::text from pg_proc as p
        where
            p.pronamespace = 'machserial'::regnamespace and p.proname !~ '^_'
            and p.proargtypes::oid[] && '{timestamptz,timestamp,date,interval}'::regtype[]::oid[]
        order by 1
        """,
    )
    assert functions == [
        "allocate_block", "assign_format", "assign_format_to_type", "audit_statistics", "audit_trail", "drop_archived",
        "format_for", "preview", "propagation_history", "receive_vendor_serial", "receive_vendor_serials",
        "record_archive", "restore_archived", "verify_archived",
    ]  # fmt: skip


@pytest.mark.parametrize("when", ["infinity", "-infinity", "10000-01-01", "0044-03-15 BC"])
def test_a_month_and_an_assignment_have_a_time_that_programs_can_read(connection, when):
    make_part(connection, "P2", "T2")
    make_format(connection, "F2", "F2-{SEQ:4}")
    for statement in (
        "select machserial.drop_archived('{}')", "select machserial.restore_archived('{}')",
        "select machserial.record_archive('{}', 1, 1, 1, '', '', '')",
        "select * from machserial.verify_archived('{}')",
        "select machserial.assign_format('P2', 'F2', effective_from => '{}')",
        "select machserial.assign_format('P2', 'F2', effective_until => '{}')",
        "select machserial.assign_format_to_type('T2', 'F2', effective_until => '{}')",
    ):  # fmt: skip
        with refused(connection, "22023"):
            connection.execute(statement.format(when))
