"""Every change of a governed table is an event of the writer's own transaction, whatever it was written by."""

from __future__ import annotations

import json
from contextlib import suppress

import psycopg
import pytest
from support import call, column, generated, make_format, make_part, mostly_slow, refused, register, value

# Long, and nothing in it depends on how machserial was installed.
ONE_MODE = True

# Tables whose changes are no events, each with the reason.
INTERNAL = {
    "schema_migrations",  # written by migrate() only: which code the data is for
    "audit_events",  # the events themselves; tests/test_serials.py: never changed
    "audit_seals",  # made of the events by seal_audit(), and never changed
    "audit_leaves",
    "audit_verifications",
    "audit_archives",  # AUDIT_ARCHIVED tells of each, or verify_audit() does
    "configuration_changes",  # how many changes there were: each has its event
    "numbering_plans",  # what follows from the configuration, kept from call to call
    "counters",  # made ahead and moved on by the numbers that are issued, which have events; a reset has its own
    "requests",  # what a repeated call is answered from; its serials have events
    "python_paths",  # of the server, not of the data: where a superuser lets machserial_plpython find libraries
    "pauses",  # written by pause() and resume() only: PAUSED and RESUMED tell of each
    "pause_switch",  # changed by pause() only, which PAUSED tells of
    "counter_fences",  # written by fence() only: COUNTER_FENCED tells of each
    "trigger_executions",  # a count, which maintain() folds; what a firing makes has events
}

# Columns that may change without an event, each with the reason.
UNSAID = {
    ("serials", "lineage_rank"),  # no fact about the serial: an order that lineage needs
    ("trigger_definitions", "updated_at"),  # said by the event of what was updated
    ("trigger_definitions", "updated_by"),
}

OPERATIONS = {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}


@pytest.fixture
def plant(connection):
    """Part P numbered by format F, part Q, sites DEFAULT and BER. The trail begins after that: see trail()."""
    call(connection, "register_site", site_id="BER", name="Berlin")
    make_part(connection, "P", "T")
    make_part(connection, "Q", "U")
    make_format(connection, "F", "F{SEQ:6}")
    call(connection, "assign_format", part_id="P", format="F")
    connection.execute("select set_config('test.start', max(id)::text, false) from machserial.audit_events")
    return connection


def trail(connection, event_types: str = "", columns: str = "event_type, part_id, site_id, details") -> list[tuple]:
    """The events since the fixture, or the last call of forget(), whose type matches."""
    return connection.execute(
        f"select {columns} from machserial.audit_events "
        "where id > current_setting('test.start')::bigint and event_type ~ %s order by id",
        (event_types,),
    ).fetchall()


def forget(connection) -> None:
    connection.execute("select set_config('test.start', max(id)::text, false) from machserial.audit_events")


def copy(connection, table: str, columns: str, *rows: tuple) -> None:
    with connection.cursor().copy(f"copy machserial.{table} ({columns}) from stdin") as target:
        for row in rows:
            target.write_row(row)


def said(connection, event_types: str = "") -> list[tuple]:
    """The trail without what differs from run to run: ids of rows, and when they were made."""
    vague = {"created_at", "assignment_id", "format_id", "effective_from", "revises", "continues"}
    return [
        (*told, {key: text for key, text in details.items() if key not in vague})
        for *told, details in trail(connection, event_types)
    ]


# All tables


def governed(connection) -> list[str]:
    return column(
        connection,
        "select relname::text from pg_class where relnamespace = 'machserial'::regnamespace "
        "and relkind in ('r', 'p') and not relispartition and relname <> all(%s) order by relname",
        sorted(INTERNAL),
    )


def test_every_table_is_audited_or_has_a_reason_not_to_be(connection):
    tables = governed(connection)
    assert {"sites", "parts", "serial_formats", "format_assignments", "vendor_rules", "serials"} <= set(tables)
    gaps = []
    for table in tables:
        triggers = connection.execute(
            "select t.tgtype, p.proname, t.tgoldtable, t.tgnewtable, p.prosecdef from pg_trigger as t "
            "join pg_proc as p on p.oid = t.tgfoid "
            "where t.tgrelid = %s::regclass and not t.tgisinternal and t.tgenabled = 'O' and t.tgattr = '' "
            "and t.tgqual is null",
            (f"machserial.{table}",),
        ).fetchall()
        for operation, bit in OPERATIONS.items():
            refuses = any(kind & bit and kind & 3 == 2 and name.startswith("_refuse_") for kind, name, *_ in triggers)
            audits = any(
                kind & bit and not kind & 2 and name.startswith(("_audit_", "_admit_")) and as_owner
                # Of each row, or of all rows of the statement.
                and (kind & 1 or old or new)
                for kind, name, old, new, as_owner in triggers
            )
            if not (refuses or (audits and operation != "TRUNCATE")):
                gaps.append(f"{operation} {table}")
    assert not gaps


def populate(plant) -> None:
    """A row in every governed table, that may still be changed where there are any such."""
    call(plant, "set_vendor_rule", vendor_name="ACME", regex="^A", part_id="P")
    call(plant, "receive_vendor_serial", serial_number="B1", vendor_name="ACME", part_id="P")
    parent, child = (row.serial_id for row in register(plant, ["N1", "N2"]))
    register(plant, ["N1"], on_conflict="RECORD")
    call(plant, "create_placeholders", part_id="P", work_order_id="WO-1", context={"line": "1"})
    call(plant, "pass_through", serial_id=parent, operation_code="OP-1", routing_sequence=1)
    call(plant, "split", source_serial_id=parent, target_serial_ids=[child], operation_code="OP-2", routing_sequence=2)
    for part_id in "PQ":
        call(
            plant, "create_trigger", part_id=part_id, trigger_type="WORK_ORDER_CREATE",
            assignment_type="SYSTEM_GENERATED", operation_code="OP-1",
        )  # fmt: skip
    plant.execute("update machserial.trigger_definitions set enabled = false where part_id = 'Q'")
    block = call(plant, "allocate_block", format="F", quantity=3, holder="LINE-1", part_id="P")[0]
    call(plant, "report_block", block_id=block.block_id, used=["F000001"])
    make_part(plant, "BARE", "T")
    plant.execute("create role guest")
    call(plant, "grant_site", role="guest", site_id="BER")


# What else a column of a type may hold.
ANOTHER = {
    "text": ("coalesce({column}, '') || 'X'", "'DAILY'", "'SITE'", "'UPPER'", "'RETIRED'", "'REJECTED'", "'FAILED'",
             "'RESOLVED'", "'RETURNED'", "'Q'", "'BER'", "'MATERIAL_RECEIPT'", "'VENDOR'", "'Europe/Berlin'", "'mod11'",
             "null"),
    "bigint": ("coalesce({column}, 0) + 1", "1", "2", "null", "default"),
    "integer": ("coalesce({column}, 0) + 1", "null"),
    "numeric": ("{column} + 1",),
    "boolean": ("not {column}",),
    "timestamp with time zone": ("coalesce({column}, now()) + interval '1 day'", "null"),
    "timestamp without time zone": ("{column} + interval '1 day'",),
    "jsonb": ("""'{{"other": 1}}'""", "null"),
    "text[]": ("{column} || '{{ENTERPRISE}}'::text[]", "'{{}}'"),
    "bigint[]": ("coalesce({column}, '{{}}') || 1::bigint", "'{{}}'"),
}  # fmt: skip


def tells(event: dict, name: str, old: object, new: object) -> bool:
    """Whether an event says that a column changed: with both values, or as what the event is about."""
    details = event["details"]
    if name in details and isinstance(details[name], dict) and set(details[name]) == {"old", "new"}:
        return details[name] == {"old": old, "new": new}
    if "old" in details and "new" in details:
        return tuple((details[when] or {}).get(name) for when in ("old", "new")) in ((old, new), (None, new))
    return new is not None and new in (*event.values(), *details.values())


def test_no_column_changes_without_an_event(plant):
    """Direct updates of every column of every row: each is refused, or an event tells it."""
    populate(plant)
    # One to which nothing refers can be renamed.
    call(plant, "register_site", site_id="FREE")
    plant.execute("set machserial.reason = 'why'")
    forget(plant)
    silent, changed = [], set()
    for table in governed(plant):
        columns = plant.execute(
            "select attname::text, format_type(atttypid, null) from pg_attribute "
            "where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
            (f"machserial.{table}",),
        ).fetchall()
        before = plant.execute(f"select ctid::text, to_jsonb({table}) from machserial.{table}").fetchall()
        assert before, f"{table} is empty"
        for name, kind in columns:
            for expression in ANOTHER.get(kind, ()):
                assignment = f"{name} = {expression.format(column=name)}"
                update = f"update machserial.{table} set {assignment} where ctid = %s returning to_jsonb({table})"
                for key, old in before:
                    with suppress(psycopg.Error), plant.transaction(force_rollback=True):
                        [(new,)] = plant.execute(update, (key,)).fetchall() or [(old,)]
                        if not {(table, field) for field in new if old[field] != new[field]} - UNSAID:
                            continue
                        changed.add((table, name))
                        told = trail(plant, columns="to_jsonb(audit_events)")
                        # What an update of the view calls a reset.
                        field = {"count_offset": "execution_count"}.get(name, name)
                        if not any(tells(event, field, old[name], new[name]) for (event,) in told):
                            silent.append(f"{table}: {assignment}: {told}")
    assert not silent, "\n".join(["", *silent])
    # The test is not blind: this much can be changed.
    assert changed >= {
        ("sites", "id"), ("sites", "time_zone"), ("parts", "default_scopes"), ("parts", "part_type"),
        ("serial_formats", "is_active"), ("serial_formats", "description"), ("format_assignments", "priority"),
        ("format_assignments", "id"), ("format_assignments", "part_id"), ("vendor_rules", "id"),
        ("vendor_rules", "regex"), ("vendor_rules", "created_by"), ("serials", "status"), ("serials", "scopes"),
        ("vendor_serials", "received_date"), ("late_assignment_placeholders", "notes"),
        ("serial_propagations", "notes"), ("trigger_definitions", "part_id"), ("trigger_definitions", "created_by"),
        ("trigger_definitions", "enabled"), ("number_blocks", "expires_at"), ("number_blocks", "status"),
    }  # fmt: skip


@pytest.mark.parametrize("table", ["sites", "parts", "format_assignments", "vendor_rules", "trigger_definitions"])
def test_what_may_be_deleted_is_not_truncated(plant, table):
    populate(plant)
    with refused(plant, "55000") as refusal:
        plant.execute(f"truncate machserial.{table} cascade")
    assert "delete" in refusal.hint.lower()
    assert value(plant, f"select count(*) from machserial.{table}") > 0


def test_who_did_it_is_told_beside_the_database_user_and_the_reason(plant, connect):
    plant.execute("create role application login")
    plant.execute("grant usage on schema machserial to application")
    plant.execute(
        "grant select, insert, update, delete on machserial.sites, machserial.parts, machserial.format_assignments, "
        "machserial.vendor_rules, machserial.serial_formats to application"
    )
    plant.execute("grant execute on all functions in schema machserial to application")
    forget(plant)
    plant.commit()
    session = connect(user="application", application_name="mes")
    session.execute("set machserial.actor = 'Ada'")
    session.execute("set machserial.reason = 'line 7 moves'")
    for statement in (
        "insert into machserial.sites (id) values ('HAM')",
        "update machserial.sites set name = 'Hamburg' where id = 'HAM'",
        "delete from machserial.sites where id = 'HAM'",
        "insert into machserial.parts (id, part_type) values ('N', 'T')",
        "update machserial.parts set name = 'Nut' where id = 'N'",
        "select machserial.create_format('G', 'G{SEQ:3}')",
        "update machserial.serial_formats set description = 'ours' where name = 'G'",
        "select machserial.revise_format('G', 'GG{SEQ:3}')",
        "select machserial.deactivate_format('G')",
        "select machserial.assign_format('N', 'F')",
        "update machserial.format_assignments set priority = 7 where part_id = 'N'",
        "select machserial.set_vendor_rule('ACME', 'N', regex => '^A')",
        "update machserial.vendor_rules set regex = '^B'",
        "delete from machserial.parts where id = 'N'",
    ):
        session.execute(statement)
    # Not there for others before it is committed.
    assert trail(plant) == []
    session.commit()
    assert [kind for kind, *_ in trail(plant, columns="event_type")] == [
        "SITE_REGISTERED", "SITE_UPDATED", "SITE_DELETED", "PART_REGISTERED", "PART_UPDATED", "FORMAT_CREATED",
        "FORMAT_UPDATED", "FORMAT_DEACTIVATED", "FORMAT_REVISED", "FORMAT_DEACTIVATED", "FORMAT_ASSIGNED",
        "FORMAT_ASSIGNMENT_UPDATED", "VENDOR_RULE_SET", "VENDOR_RULE_SET", "PART_DELETED", "FORMAT_UNASSIGNED",
        "VENDOR_RULE_DELETED",
    ]  # fmt: skip
    assert set(trail(plant, columns="performed_by, db_user, reason, event_source")) == {
        ("Ada", "application", "line 7 moves", "mes")
    }


def test_what_is_rolled_back_or_fails_leaves_no_event(plant):
    statements = (
        "insert into machserial.sites (id) values ('HAM'), ('MUC')",
        "insert into machserial.parts (id, part_type) select 'N' || n, 'T' from generate_series(1, 100) as n",
        "select machserial.register_part('P', 'T', name => 'Pump')",
        "select machserial.create_format('G', 'G{SEQ:3}')",
        "select machserial.revise_format('F', 'FF{SEQ:6}')",
        "select * from machserial.generate('P', pattern => 'X{SEQ:4}')",
        "select machserial.assign_format_to_type('T', 'F')",
        "select machserial.set_vendor_rule('ACME', regex => '^A')",
        "select machserial.reset_counter('F', 50, reason => 'moved')",
        "delete from machserial.format_assignments",
    )
    for statement in statements:
        with plant.transaction(force_rollback=True):
            plant.execute(statement)
            assert trail(plant), statement
    assert trail(plant) == []
    for statement, sqlstate in (
        ("insert into machserial.sites (id) values ('HAM'), ('BER')", "23505"),
        ("insert into machserial.parts (id, part_type) values ('N', 'T'), ('', 'T')", "23514"),
        ("delete from machserial.sites", "23503"),
        ("update machserial.format_assignments set format_id = 4711", "23503"),
    ):
        make_serial = register(plant, [f"N {statement}"], site_id="BER")
        assert make_serial and trail(plant, "SERIAL")
        with pytest.raises(psycopg.Error) as raised, plant.transaction():
            plant.execute(statement)
        assert raised.value.sqlstate == sqlstate
    assert trail(plant, "SITE|PART|FORMAT") == []


# Sites and parts


def test_sites_are_audited_by_function_and_sql_and_copy(plant):
    call(plant, "register_site", site_id="HAM", time_zone="Europe/Berlin")
    call(plant, "register_site", site_id="HAM", time_zone="Europe/Berlin")
    call(plant, "register_site", site_id="HAM", name="Hamburg", time_zone="UTC")
    plant.execute("insert into machserial.sites (id, name) values ('MUC', 'Munich')")
    copy(plant, "sites", "id, time_zone", ("A", "UTC"), ("B", "Asia/Tokyo"))
    plant.execute("update machserial.sites set name = id || '!' where id in ('A', 'B')")
    plant.execute("update machserial.sites set name = name")
    for site in ("A", "MUC"):
        plant.execute("delete from machserial.sites where id = %s", [site])
    assert said(plant) == [
        ("SITE_REGISTERED", None, "HAM", {"time_zone": "Europe/Berlin"}),
        (
            "SITE_UPDATED", None, "HAM",
            {"name": {"old": None, "new": "Hamburg"}, "time_zone": {"old": "Europe/Berlin", "new": "UTC"}},
        ),
        ("SITE_REGISTERED", None, "MUC", {"name": "Munich", "time_zone": "UTC"}),
        ("SITE_REGISTERED", None, "A", {"time_zone": "UTC"}),
        ("SITE_REGISTERED", None, "B", {"time_zone": "Asia/Tokyo"}),
        ("SITE_UPDATED", None, "A", {"name": {"old": None, "new": "A!"}}),
        ("SITE_UPDATED", None, "B", {"name": {"old": None, "new": "B!"}}),
        ("SITE_DELETED", None, "A", {"name": "A!", "time_zone": "UTC"}),
        ("SITE_DELETED", None, "MUC", {"name": "Munich", "time_zone": "UTC"}),
    ]  # fmt: skip
    created = value(plant, "select to_jsonb(created_at) from machserial.sites where id = 'HAM'")
    assert trail(plant)[0][3]["created_at"] == created


def test_parts_are_audited_by_function_and_sql_and_copy(plant):
    make_part(plant, "N", "T", name="Nut")
    make_part(plant, "N", "T")
    make_part(plant, "N", "V", scopes=["ENTERPRISE"])
    plant.execute("insert into machserial.parts (id, part_type) values ('O', 'T') on conflict do nothing")
    plant.execute("insert into machserial.parts (id, part_type) values ('O', 'T') on conflict do nothing")
    copy(plant, "parts", "id, part_type, name", ("A", "T", "Axle"), ("B", "T", "Bolt"))
    plant.execute("update machserial.parts set name = upper(name) where id in ('A', 'B')")
    for part in ("A", "O"):
        plant.execute("delete from machserial.parts where id = %s", [part])
    own = ["SITE", "PART_TYPE"]
    assert said(plant) == [
        ("PART_REGISTERED", "N", None, {"part_type": "T", "name": "Nut", "default_scopes": own}),
        ("PART_UPDATED", "N", None, {"part_type": {"old": "T", "new": "V"}}),
        ("PART_UPDATED", "N", None, {"default_scopes": {"old": own, "new": ["ENTERPRISE"]}}),
        ("PART_REGISTERED", "O", None, {"part_type": "T", "default_scopes": own}),
        ("PART_REGISTERED", "A", None, {"part_type": "T", "name": "Axle", "default_scopes": own}),
        ("PART_REGISTERED", "B", None, {"part_type": "T", "name": "Bolt", "default_scopes": own}),
        ("PART_UPDATED", "A", None, {"name": {"old": "Axle", "new": "AXLE"}}),
        ("PART_UPDATED", "B", None, {"name": {"old": "Bolt", "new": "BOLT"}}),
        ("PART_DELETED", "A", None, {"part_type": "T", "name": "AXLE", "default_scopes": own}),
        ("PART_DELETED", "O", None, {"part_type": "T", "default_scopes": own}),
    ]


def test_another_id_is_another_site_or_part(plant):
    plant.execute("update machserial.sites set id = 'TXL', name = 'Tegel' where id = 'BER'")
    plant.execute("update machserial.parts set id = 'Q2' where id = 'Q'")
    own = ["SITE", "PART_TYPE"]
    assert said(plant) == [
        ("SITE_DELETED", None, "BER", {"name": "Berlin", "time_zone": "UTC"}),
        ("SITE_REGISTERED", None, "TXL", {"name": "Tegel", "time_zone": "UTC"}),
        ("PART_DELETED", "Q", None, {"part_type": "U", "default_scopes": own}),
        ("PART_REGISTERED", "Q2", None, {"part_type": "U", "default_scopes": own}),
    ]


def test_generating_changes_neither_sites_nor_parts(plant):
    generated(plant, quantity=3)
    assert {kind for (kind,) in trail(plant, columns="event_type")} == {"SERIAL_GENERATED"}


@pytest.mark.parametrize("many", mostly_slow([1_000, 10_000], [1_000]))
def test_many_at_once_are_as_many_events(plant, many):
    """Also where the session's first statements were of one row, for which they were planned."""
    make_part(plant, "N0", "T")
    plant.execute("update machserial.parts set name = 'One' where id = 'N0'")
    call(plant, "assign_format", part_id="N0", format="F")
    call(plant, "assign_format", part_id="N0", format="F", priority=1)
    call(plant, "set_vendor_rule", vendor_name="ACME", part_id="N0", regex="^A")
    call(plant, "set_vendor_rule", vendor_name="ACME", part_id="N0", regex="^B")
    plant.execute("delete from machserial.parts where id = 'N0'")
    forget(plant)
    plant.execute("set local statement_timeout = '120s'")
    for statement in (
        "insert into machserial.parts (id, part_type, name) "
        f"select 'N' || n, 'T', 'Nut ' || n from generate_series(1, {many}) as n",
        "insert into machserial.format_assignments (part_id, format_id) select p.id, f.id from machserial.parts as p "
        "join machserial.serial_formats as f on f.name = 'F' where p.id ~ '^N'",
        "insert into machserial.vendor_rules (vendor_name, part_id, regex) "
        "select 'ACME', p.id, '^A' from machserial.parts as p where p.id ~ '^N'",
        "update machserial.parts set name = name || '!', part_type = 'V' where id ~ '^N'",
        "update machserial.format_assignments set priority = 5 where part_id ~ '^N'",
        "update machserial.vendor_rules set max_length = 9",
        "delete from machserial.parts where id ~ '^N'",
    ):
        plant.execute(statement)
    kinds = "event_type, count(*), count(distinct part_id)"
    counted = plant.execute(
        f"select {kinds} from machserial.audit_events where id > current_setting('test.start')::bigint group by 1"
    ).fetchall()
    assert sorted(counted) == [
        ("FORMAT_ASSIGNED", many, many), ("FORMAT_ASSIGNMENT_UPDATED", many, many),
        ("FORMAT_UNASSIGNED", many, many), ("PART_DELETED", many, many), ("PART_REGISTERED", many, many),
        ("PART_UPDATED", many, many), ("VENDOR_RULE_DELETED", many, many), ("VENDOR_RULE_SET", 2 * many, many),
    ]  # fmt: skip
    wrong = (
        "select count(*) from machserial.audit_events where event_type = 'PART_UPDATED' "
        "and id > current_setting('test.start')::bigint and details <> jsonb_build_object("
        "'part_type', jsonb_build_object('old', 'T', 'new', 'V'), 'name', jsonb_build_object("
        "'old', 'Nut ' || substr(part_id, 2), 'new', 'Nut ' || substr(part_id, 2) || '!'))"
    )
    assert value(plant, wrong) == 0


# Formats and their assignments


def test_formats_are_audited_with_what_they_are(plant):
    made = make_format(
        plant, "G", "{YYYY}{SEQ:4}", description="ours", sequence_start=10, sequence_increment=5, reset="YEARLY",
        counter_per="SITE", allocation="GAPLESS", letter_case="UPPER",
    )  # fmt: skip
    details = {
        "format": "G", "version": 1, "format_id": made.id, "pattern": "{YYYY}{SEQ:4}", "description": "ours",
        "sequence_start": 10, "sequence_increment": 5, "reset": "YEARLY", "counter_per": "SITE",
        "allocation": "GAPLESS", "letter_case": "UPPER",
    }  # fmt: skip
    assert trail(plant) == [("FORMAT_CREATED", None, None, details)]
    forget(plant)
    plain = make_format(plant, "H", "H{SEQ:4}")
    assert trail(plant) == [
        ("FORMAT_CREATED", None, None, {"format": "H", "version": 1, "format_id": plain.id, "pattern": "H{SEQ:4}"})
    ]
    forget(plant)
    plant.execute("insert into machserial.serial_formats (name, pattern, is_active) values ('I', 'I{SEQ:4}', false)")
    copy(plant, "serial_formats", "name, pattern", ("J", "J{SEQ:4}"), ("K", "K{SEQ:4}"))
    assert said(plant) == [
        ("FORMAT_CREATED", None, None, {"format": "I", "version": 1, "pattern": "I{SEQ:4}", "is_active": False}),
        ("FORMAT_CREATED", None, None, {"format": "J", "version": 1, "pattern": "J{SEQ:4}"}),
        ("FORMAT_CREATED", None, None, {"format": "K", "version": 1, "pattern": "K{SEQ:4}"}),
    ]


def test_a_revision_is_told_from_a_new_format(plant):
    first = value(plant, "select id from machserial.serial_formats where name = 'F'")
    second = call(plant, "revise_format", name="F", pattern="FF{SEQ:6}")[0]
    third = call(plant, "revise_format", name="F", sequence_start=100)[0]
    off = {"is_active": {"old": True, "new": False}}
    assert trail(plant, "^FORMAT_(CREATED|REVISED|DEACTIVATED)") == [
        ("FORMAT_DEACTIVATED", None, None, {"format": "F", "version": 1, "format_id": first, **off}),
        (
            "FORMAT_REVISED", None, None,
            {"format": "F", "version": 2, "format_id": second.id, "pattern": "FF{SEQ:6}", "revises": first,
             "continues": first},
        ),
        ("FORMAT_DEACTIVATED", None, None, {"format": "F", "version": 2, "format_id": second.id, **off}),
        (
            "FORMAT_REVISED", None, None,
            {"format": "F", "version": 3, "format_id": third.id, "pattern": "FF{SEQ:6}", "sequence_start": 100,
             "revises": second.id},
        ),
    ]  # fmt: skip
    forget(plant)
    call(plant, "deactivate_format", name="F")
    fresh = make_format(plant, "F", "X{SEQ:3}")
    assert trail(plant) == [
        ("FORMAT_DEACTIVATED", None, None, {"format": "F", "version": 3, "format_id": third.id, **off}),
        (
            "FORMAT_CREATED", None, None,
            {"format": "F", "version": 4, "format_id": fresh.id, "pattern": "X{SEQ:3}"},
        ),
    ]  # fmt: skip


def test_a_format_that_is_switched_or_described_directly_is_audited(plant):
    plant.execute("update machserial.serial_formats set is_active = false, description = 'old' where name = 'F'")
    plant.execute("update machserial.serial_formats set is_active = false, description = 'old' where name = 'F'")
    plant.execute("update machserial.serial_formats set is_active = true where name = 'F'")
    make_format(plant, "G", "G{SEQ:4}", description="G's own")
    plant.execute("update machserial.serial_formats set description = 'all' where is_active")
    assert [(kind, details["format"], details["version"]) for kind, *_, details in trail(plant)] == [
        ("FORMAT_DEACTIVATED", "F", 1), ("FORMAT_UPDATED", "F", 1), ("FORMAT_ACTIVATED", "F", 1),
        ("FORMAT_CREATED", "G", 1), ("FORMAT_UPDATED", "F", 1), ("FORMAT_UPDATED", "G", 1),
    ]  # fmt: skip
    settings = ("is_active", "description")
    assert [{key: text for key, text in row[3].items() if key in settings} for row in trail(plant)] == [
        {"is_active": {"old": True, "new": False}},
        {"description": {"old": None, "new": "old"}},
        {"is_active": {"old": False, "new": True}},
        {"description": "G's own"},
        {"description": {"old": "old", "new": "all"}},
        {"description": {"old": "G's own", "new": "all"}},
    ]


def test_an_ad_hoc_pattern_makes_a_format_on_first_use_only(plant):
    for _ in range(2):
        generated(plant, pattern="A{SEQ:4}")
    told = trail(plant, "FORMAT")
    assert [kind for kind, *_ in told] == ["FORMAT_CREATED"]
    details = told[0][3]
    assert (details["format"], details["pattern"], details["is_ad_hoc"]) == ("ad hoc: A{SEQ:4}", "A{SEQ:4}", True)
    assert [kind for (kind,) in trail(plant, columns="event_type")] == [
        "FORMAT_CREATED", "SERIAL_GENERATED", "SERIAL_GENERATED",
    ]  # fmt: skip


def test_assignments_are_audited_by_function(plant):
    made = make_format(plant, "G", "G{SEQ:4}")
    forget(plant)
    arguments = {"format": "G", "priority": 3, "effective_from": "2026-01-01Z", "effective_until": "2027-01-01Z"}
    to_part = value(plant, "select machserial.assign_format('Q', 'G', 3, '2026-01-01Z', '2027-01-01Z')")
    call(plant, "assign_format", part_id="Q", **arguments)
    call(plant, "assign_format", part_id="Q", **{**arguments, "priority": 4, "effective_until": None})
    to_type = call(plant, "assign_format_to_type", part_type="U", format="G")[0][0]
    call(plant, "unassign_format", part_id="Q", format="G")
    row = {"assignment_id": to_part, "format": "G", "format_id": made.id}
    until = value(plant, "select to_jsonb('2027-01-01Z'::timestamptz)")
    (kind, part_id, site_id, details), updated, typed, ended = trail(plant)
    assert (kind, part_id, site_id) == ("FORMAT_ASSIGNED", "Q", None)
    assert details.items() >= {**row, "priority": 3, "effective_until": until}.items()
    assert details["effective_from"] == value(plant, "select to_jsonb('2026-01-01Z'::timestamptz)")
    assert updated == (
        "FORMAT_ASSIGNMENT_UPDATED", "Q", None,
        {
            "assignment_id": to_part, "format": "G", "priority": {"old": 3, "new": 4},
            "effective_until": {"old": until, "new": None},
        },
    )  # fmt: skip
    assert typed[:3] == ("FORMAT_ASSIGNED", None, None)
    assert typed[3].items() >= {"assignment_id": to_type, "format": "G", "part_type": "U", "priority": 0}.items()
    assert ended[:3] == ("FORMAT_UNASSIGNED", "Q", None)
    assert ended[3].items() >= {**row, "priority": 4}.items() and "effective_until" not in ended[3]


def test_assignments_are_audited_by_sql_and_copy_and_cascade(plant):
    f = value(plant, "select id from machserial.serial_formats where name = 'F'")
    call(plant, "assign_format_to_type", part_type="T", format="F")
    plant.execute(
        "insert into machserial.format_assignments (part_id, format_id, effective_from) values ('Q', %s, '2026-01-01')",
        (f,),
    )
    copy(plant, "format_assignments", "part_type, format_id", ("U", f), ("V", f))
    plant.execute("update machserial.format_assignments set part_id = 'P', priority = 9 where part_id = 'Q'")
    plant.execute("update machserial.format_assignments set priority = priority")
    plant.execute("update machserial.format_assignments set id = default where part_type = 'V'")
    for part_type in ("U", "V"):
        plant.execute("delete from machserial.format_assignments where part_type = %s", [part_type])
    plant.execute("delete from machserial.parts where id = 'P'")
    change = {"format": "F", "part_id": {"old": "Q", "new": "P"}, "priority": {"old": 0, "new": 9}}
    assert said(plant) == [
        ("FORMAT_ASSIGNED", None, None, {"format": "F", "part_type": "T", "priority": 0}),
        ("FORMAT_ASSIGNED", "Q", None, {"format": "F", "priority": 0}),
        ("FORMAT_ASSIGNED", None, None, {"format": "F", "part_type": "U", "priority": 0}),
        ("FORMAT_ASSIGNED", None, None, {"format": "F", "part_type": "V", "priority": 0}),
        ("FORMAT_ASSIGNMENT_UPDATED", "P", None, change),
        ("FORMAT_UNASSIGNED", None, None, {"format": "F", "part_type": "V", "priority": 0}),
        ("FORMAT_ASSIGNED", None, None, {"format": "F", "part_type": "V", "priority": 0}),
        ("FORMAT_UNASSIGNED", None, None, {"format": "F", "part_type": "U", "priority": 0}),
        ("FORMAT_UNASSIGNED", None, None, {"format": "F", "part_type": "V", "priority": 0}),
        ("PART_DELETED", "P", None, {"part_type": "T", "default_scopes": ["SITE", "PART_TYPE"]}),
        ("FORMAT_UNASSIGNED", "P", None, {"format": "F", "priority": 0}),
        ("FORMAT_UNASSIGNED", "P", None, {"format": "F", "priority": 9}),
    ]


def test_assignments_that_follow_a_revision_are_audited(plant):
    old = value(plant, "select id from machserial.serial_formats where name = 'F'")
    new = call(plant, "revise_format", name="F")[0].id
    ((kind, part_id, _, details),) = trail(plant, "ASSIGN")
    assert (kind, part_id, details["format"]) == ("FORMAT_ASSIGNMENT_UPDATED", "P", "F")
    assert details["format_id"] == {"old": old, "new": new}


# Vendor rules, triggers, and what is imported


def test_vendor_rules_are_audited_by_sql_and_copy_and_cascade(plant):
    copy(plant, "vendor_rules", "vendor_name, part_id, regex", ("ACME", "Q", "^A"), ("ACME", "P", "^B"))
    plant.execute("update machserial.vendor_rules set max_length = 9, pattern = 'A{SEQ:3}'")
    plant.execute("update machserial.vendor_rules set max_length = 9")
    plant.execute("update machserial.vendor_rules set id = default where part_id = 'P'")
    plant.execute("delete from machserial.vendor_rules where part_id = 'P'")
    plant.execute("delete from machserial.parts where id = 'Q'")
    told = [
        (kind, part_id, *((details[when] or {}).get("max_length") for when in ("old", "new")))
        for kind, part_id, _, details in trail(plant, "^VENDOR_RULE")
    ]
    assert told == [
        ("VENDOR_RULE_SET", "Q", None, None), ("VENDOR_RULE_SET", "P", None, None),
        ("VENDOR_RULE_SET", "Q", None, 9), ("VENDOR_RULE_SET", "P", None, 9),
        ("VENDOR_RULE_DELETED", "P", 9, None), ("VENDOR_RULE_SET", "P", None, 9),
        ("VENDOR_RULE_DELETED", "P", 9, None), ("VENDOR_RULE_DELETED", "Q", 9, None),
    ]  # fmt: skip
    for *_, details in trail(plant, "^VENDOR_RULE"):
        assert details["vendor_name"] == "ACME" and "compiled_pattern" not in json.dumps(details)
    assert [details["old"] for *_, details in trail(plant, "^VENDOR_RULE")][:2] == [None, None]


def test_triggers_are_audited_by_sql_and_copy(plant):
    copy(
        plant, "trigger_definitions", "part_id, trigger_type, assignment_type, enabled",
        ("P", "WORK_ORDER_CREATE", "SYSTEM_GENERATED", "t"), ("Q", "BATCH_COMPLETION", "LATE_ASSIGNMENT", "f"),
    )  # fmt: skip
    assert [row[:2] for row in trail(plant)] == [("TRIGGER_CREATED", "P"), ("TRIGGER_CREATED", "Q")]
    forget(plant)
    table, mine = "machserial.trigger_definitions", value(
        plant, "select id from machserial.trigger_definitions where part_id = 'P'"
    )  # fmt: skip
    plant.execute(f"update {table} set part_id = 'Q', created_by = 'nobody' where part_id = 'P'")
    plant.execute(f"update {table} set disabled_by = 'nobody', disabled_at = '2001-01-01' where not enabled")
    assert trail(plant) == [
        (
            "TRIGGER_UPDATED", "Q", None,
            {
                "trigger_id": mine, "part_id": {"old": "P", "new": "Q"},
                "created_by": {"old": plant.info.user, "new": "nobody"},
            },
        )
    ]  # fmt: skip
    # Who switched it off is not for others to say.
    assert column(plant, f"select disabled_by from {table} where not enabled") == [plant.info.user]
    with refused(plant, "22023"):
        plant.execute(f"update {table} set id = default where id = {mine}")
    forget(plant)
    plant.execute(f"delete from {table}")
    assert [kind for kind, *_ in trail(plant)] == ["TRIGGER_DELETED", "TRIGGER_DELETED"]


def test_what_an_import_brings_along_is_in_its_event(plant):
    copy(
        plant, "serial_conflicts",
        "serial_number, part_id, site_id, scopes, source, conflicting_serial_ids, conflicting_scopes, status, "
        "resolution, reason, resolved_at, resolved_by",
        ("N", "P", "BER", ["SITE"], "IMPORT", [], [], "RESOLVED", "RETIRE", "scrapped", "2001-01-01Z", "Grace"),
    )  # fmt: skip
    copy(
        plant, "vendor_serials", "serial_number, part_id, vendor_name, status, rejection_reason, rejected_by",
        ("V1", "P", "ACME", "REJECTED", "bent", "Grace"), ("V2", "P", "ACME", "PENDING", None, None),
    )  # fmt: skip
    told = {
        (kind, reason): details
        for kind, reason, details in trail(plant, "^(CONFLICT|VENDOR)", "event_type, reason, details")
    }
    conflict = told["CONFLICT_DETECTED", "scrapped"]
    assert (conflict["status"], conflict["resolution"], conflict["resolved_by"]) == ("RESOLVED", "RETIRE", "Grace")
    rejected, pending = told["VENDOR_RECEIVED", "bent"], told["VENDOR_RECEIVED", None]
    assert (rejected["status"], rejected["rejected_by"]) == ("REJECTED", "Grace") and rejected["rejected_at"]
    assert set(pending) == {"vendor_name", "received_date", "validation_errors"}


def test_what_an_attached_table_makes_is_audited_as_its_copy_is_written(plant):
    call(
        plant, "create_trigger", part_id="P", trigger_type="WORK_ORDER_CREATE", assignment_type="SYSTEM_GENERATED"
    )  # fmt: skip
    plant.execute("create table public.orders (id text primary key, part text, quantity integer)")
    call(
        plant, "attach", relation="public.orders", trigger_type="WORK_ORDER_CREATE", part_column="part",
        quantity_column="quantity",
    )  # fmt: skip
    forget(plant)
    plant.execute("set local machserial.actor = 'Ada'")
    plant.execute("set local machserial.reason = 'order 66'")
    with plant.cursor().copy("copy public.orders from stdin") as rows:
        for number in range(100):
            rows.write_row((f"WO-{number}", "P", 3))
    with plant.transaction(force_rollback=True):
        plant.execute("insert into public.orders values ('LATE', 'P', 5)")
        assert len(trail(plant)) == 305
    told = trail(plant, columns="event_type, part_id, performed_by, reason, db_user = session_user, serial_number")
    assert {row[:5] for row in told} == {("SERIAL_GENERATED", "P", "Ada", "order 66", True)}
    assert sorted(row[5] for row in told) == [f"F{number:06}" for number in range(1, 301)]


def test_the_other_tables_are_audited_as_they_are_copied_into(plant):
    made = call(plant, "generate", part_id="P", quantity=4)
    ids = [row.serial_id for row in made]
    counter = value(plant, "select min(id) from machserial.counters")
    forget(plant)
    copy(plant, "serials", "serial_number, part_id, source", ("S1", "P", "IMPORT"), ("S2", "Q", "IMPORT"))
    copy(plant, "late_assignment_placeholders", "part_id, work_order_id", ("P", "WO-1"), ("Q", "WO-1"))
    copy(
        plant, "serial_propagations", "propagation_type, parent_serial_id, child_serial_id, operation_code, "
        "routing_sequence", ("PASS_THROUGH", ids[0], None, "OP-1", 1), ("PASS_THROUGH", ids[1], None, "OP-1", 1),
    )  # fmt: skip
    copy(
        plant, "number_blocks", "counter_id, part_id, holder, first_value, last_value, increment, quantity, issued_at",
        (counter, "P", "L1", 1, 2, 1, 2, "2026-01-01"), (counter, "P", "L2", 3, 4, 1, 2, "2026-01-01"),
    )  # fmt: skip
    block = value(plant, "select min(id) from machserial.number_blocks")
    copy(plant, "block_usages", "block_id, sequence_number, serial_id", (block, 1, ids[0]), (block, 2, ids[1]))
    copy(
        plant, "serial_conflicts",
        "serial_number, part_id, site_id, scopes, source, conflicting_serial_ids, conflicting_scopes",
        ("S1", "P", "BER", ["SITE"], "IMPORT", [], []), ("S2", "Q", "BER", ["SITE"], "IMPORT", [], []),
    )  # fmt: skip
    told = trail(plant, columns="event_type, part_id, coalesce(serial_number, details ->> 'holder')")
    numbers = [row.serial_number for row in made]
    assert told == [
        ("SERIAL_REGISTERED", "P", "S1"), ("SERIAL_REGISTERED", "Q", "S2"),
        ("PLACEHOLDER_CREATED", "P", None), ("PLACEHOLDER_CREATED", "Q", None),
        ("PROPAGATED", "P", numbers[0]), ("PROPAGATED", "P", numbers[1]),
        ("BLOCK_ALLOCATED", "P", "L1"), ("BLOCK_ALLOCATED", "P", "L2"),
        ("BLOCK_REPORTED", "P", "L1"), ("BLOCK_USED", "P", "L1"),
        ("CONFLICT_DETECTED", "P", "S1"), ("CONFLICT_DETECTED", "Q", "S2"),
    ]  # fmt: skip


# Reasons


def ended(plant, what: str) -> tuple[str, str]:
    """Makes something that can come to such an end; the call for that, and the update, both without a reason."""
    if what in ("retire", "invalidate"):
        (row,) = register(plant, ["N"])
        status = {"retire": "RETIRED", "invalidate": "INVALID"}[what]
        return (
            f"machserial.{what}_serial({row.serial_id}, {{reason}})",
            f"machserial.serials set status = '{status}', status_reason = {{reason}} where id = {row.serial_id}",
        )
    if what in ("reject", "waive"):
        call(plant, "set_vendor_rule", vendor_name="ACME", regex="^A")
        key = call(plant, "receive_vendor_serial", serial_number="B", vendor_name="ACME", part_id="P")[0].id
        return {
            "reject": (
                f"machserial.reject_vendor_serial({key}, {{reason}})",
                f"machserial.vendor_serials set status = 'REJECTED', rejection_reason = {{reason}} where id = {key}",
            ),
            "waive": (
                f"machserial.waive_vendor_rule({key}, {{reason}})",
                f"machserial.vendor_serials set waived_at = now(), waived_by = 'me', waived_reason = {{reason}} "
                f"where id = {key}",
            ),
        }[what]
    if what == "resolve":
        register(plant, ["N"])
        register(plant, ["N"], on_conflict="RECORD")
        return (
            "machserial.resolve_conflict('N', 'P', 'RETIRE', reason => {reason})",
            "machserial.serial_conflicts set status = 'RESOLVED', resolution = 'RETIRE', reason = {reason}",
        )
    (key,) = (row.id for row in call(plant, "create_placeholders", part_id="P"))
    return (
        f"machserial.fail_placeholder({key}, {{reason}})",
        f"machserial.late_assignment_placeholders set status = 'FAILED', failure_reason = {{reason}} where id = {key}",
    )


EVENTS = {
    "retire": "SERIAL_RETIRED", "invalidate": "SERIAL_INVALIDATED", "reject": "VENDOR_REJECTED",
    "waive": "VENDOR_WAIVED", "resolve": "CONFLICT_RESOLVED", "fail": "PLACEHOLDER_FAILED",
}  # fmt: skip


@pytest.mark.parametrize("what", EVENTS)
def test_what_an_inspector_will_ask_about_needs_a_reason_by_function_and_by_sql(plant, what):
    function, update = ended(plant, what)
    forget(plant)
    for statement in (f"select {function}", f"update {update}"):
        for missing in ("null", "''", "'  '"):
            with refused(plant, "22023") as refusal:
                plant.execute(statement.format(reason=missing))
            assert "reason" in refusal.message and "machserial.reason" in refusal.hint
    assert trail(plant) == []
    for statement in (f"select {function}", f"update {update}"):
        for given in ("'of its own'", "null"):
            with plant.transaction(force_rollback=True):
                plant.execute("set local machserial.reason = 'of the session'")
                plant.execute(statement.format(reason=given))
                assert trail(plant, EVENTS[what], "reason") == [
                    ("of the session" if given == "null" else "of its own",)
                ]
                assert value(plant, "select current_setting('machserial.reason')") == "of the session"


@pytest.mark.parametrize("allocation", ["SEQUENCE", "GAPLESS"])
def test_a_counter_is_reset_for_a_reason(plant, allocation):
    make_format(plant, "G", "G{SEQ:4}", allocation=allocation)
    generated(plant, quantity=2, format="G")
    forget(plant)
    for missing in ({}, {"reason": None}, {"reason": ""}, {"reason": "  "}):
        with refused(plant, "22023") as refusal:
            call(plant, "reset_counter", format="G", next_value=100, **missing)
        assert "G" in refusal.message and "reason" in refusal.message and "machserial.reason" in refusal.hint
    assert trail(plant) == []
    assert generated(plant, format="G") == ["G0003"]
    forget(plant)
    plant.execute("set machserial.actor = 'Ada'")
    call(plant, "reset_counter", format="G", next_value=100, reason=" printer skipped ")
    assert not value(plant, "select current_setting('machserial.reason', true)")
    plant.execute("set machserial.reason = 'of the session'")
    call(plant, "reset_counter", format="G", next_value=200)
    call(plant, "reset_counter", format="G", next_value=300, reason="its own")
    assert value(plant, "select current_setting('machserial.reason')") == "of the session"
    assert trail(plant, columns="event_type, performed_by, reason, details") == [
        ("COUNTER_RESET", "Ada", reason, {"format": "G", "last_value": last, "next_value": following})
        for reason, last, following in [
            ("printer skipped", 3, 100), ("of the session", 99, 200), ("its own", 199, 300),
        ]
    ]  # fmt: skip
    assert generated(plant, format="G") == ["G0300"]
