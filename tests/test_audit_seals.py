"""Sealing beside writers, across settings, servers, crashes and clocks: all is sealed once, and no alarm is false."""

from __future__ import annotations

import datetime
import hashlib
import os
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from audit_support import (
    Clock,
    Standby,
    assert_intact,
    begin_empty,
    burn_transaction_ids,
    crash,
    leaf_hash,
    make_month,
    merkle_path,
    merkle_root,
    month_of,
    move,
    problems,
    recompute,
    record,
    restart,
    seal,
    select_events,
    unsealed,
)
from audit_support import install as install_on
from conftest import BUILD, install
from servers import Server, ToolMissing, choose_bin
from support import at_once, call, column, mostly_slow, refused, value

pytestmark = [pytest.mark.own_database, pytest.mark.prepared(setup=begin_empty)]

SEALED_IDS = "select unnest(l.event_ids) from machserial.audit_leaves as l order by l.seal_id"


@pytest.fixture
def writer(connection):
    connection.autocommit = True
    return connection


@contextmanager
def running(request: pytest.FixtureRequest, **settings: str) -> Iterator[Server]:
    with Server(choose_bin(request.config.getoption("--pg-bin")), **settings) as server:
        server.install_extension(BUILD)
        yield server


@pytest.fixture(scope="module")
def own_server(request):
    """With room for prepared transactions."""
    with running(request, max_prepared_transactions="20") as server:
        yield server


@pytest.fixture
def own(own_server):
    """A database on own_server; own.connect() opens sessions to it."""
    name = f"own_{time.monotonic_ns()}"
    with ExitStack() as opened:
        at_work = opened.enter_context(install_on(own_server, name, BUILD))

        def connect() -> psycopg.Connection:
            return opened.enter_context(psycopg.connect(own_server.dsn(name), autocommit=True))

        yield SimpleNamespace(connection=at_work, connect=connect, server=own_server, name=name)
    own_server.execute(f"drop database {name} with (force)")


# What a seal is


@pytest.mark.prepared(setup=None)
def test_what_installing_has_written_is_sealed_like_all_else(connection):
    connection.commit()
    connection.autocommit = True
    count = value(connection, "select count(*) from machserial.audit_events")
    assert_intact(connection)
    assert seal(connection) == count
    assert_intact(connection)
    recompute(connection)


def test_all_that_has_ended_is_sealed_once(writer):
    assert seal(writer) == 0
    assert_intact(writer)
    ids = record(writer, 5)
    assert seal(writer) == 5
    assert seal(writer) == 0
    ids += record(writer)
    assert seal(writer) == 1
    assert column(writer, SEALED_IDS) == ids
    assert_intact(writer)
    recompute(writer)


def test_hashes_are_those_of_another_implementation(writer):
    value_of = {
        "serial_id": -(1 << 63),
        "part_id": "é ß 漢字 🔩",
        "site_id": "",
        "reason": "line\nid=1:7\n",
        "details": '{"n": 1.50, "e": 1e400, "s": "\\u00e9\\n\\"", "a": [null, true, {}], "b": 1, "aa": 2}',
        "performed_by": "'; drop table x; --",
    }
    record(writer, 3, **value_of)
    record(writer, 2)
    month = month_of(value(writer, "select now()"), -1)
    make_month(writer, month)
    for moment in ("01 00:00:00", "27 23:59:59.999999", "15 12:00:00.000001", "15 12:00:00.1"):
        record(writer, 1, performed_at=f"{month:%Y-%m}-{moment}+00")
    assert seal(writer) == 9
    recompute(writer)
    assert_intact(writer)


def test_a_seal_holds_8192_events_at_most_and_one_month(writer):
    month = month_of(value(writer, "select now()"), -1)
    make_month(writer, month)
    record(writer, 8192, performed_at=f"{month} 00:00:00+00")
    record(writer, 8193)
    assert seal(writer) == 16385
    assert column(writer, "select event_count from machserial.audit_seals order by id") == [0, 8192, 8192, 1]
    assert_intact(writer)


def test_a_first_round_of_many_seals(writer):
    """Nobody knows of the time before the first seal: whatever it says there may be true."""
    month = month_of(value(writer, "select now()"), -1)
    for distance in (0, -1):
        make_month(writer, month_of(month, distance))
        for day in (3, 2):
            record(writer, 8200, performed_at=f"{month_of(month, distance):%Y-%m}-0{day} 00:00:00+00")
    assert seal(writer) == 4 * 8200
    assert_intact(writer)


def test_events_without_partition_are_not_missed_when_it_comes(writer):
    """A month that is made later is sealed like any other."""
    record(writer)
    assert seal(writer) == 1
    month = month_of(value(writer, "select now()"), 5)
    make_month(writer, month)
    record(writer, 2, performed_at=f"{month} 00:00:00+00")
    record(writer, 1)
    assert seal(writer) == 3
    assert_intact(writer)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_sealing_needs_to_see_the_newest_seal(connection, level):
    connection.execute(f"set transaction isolation level {level}")
    with refused(connection, "0A000"):
        seal(connection)


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_a_transaction_that_reads_only_verifies(writer, level):
    record(writer, 3)
    seal(writer)
    count = value(writer, "select count(*) from machserial.audit_verifications")
    with writer.transaction():
        writer.execute(f"set transaction isolation level {level}, read only")
        assert problems(writer) == []
        assert problems(writer, full=False) == []
        assert problems(writer, anchor=value(writer, "select machserial.audit_anchor()")) == []
    assert value(writer, "select count(*) from machserial.audit_verifications") == count


def test_an_old_snapshot_verifies_what_it_sees(writer, connect):
    record(writer, 3)
    seal(writer)
    old = connect()
    old.execute("set transaction isolation level repeatable read")
    assert problems(old) == []
    record(writer, 3)
    seal(writer)
    assert problems(old) == []
    old.rollback()
    assert_intact(writer)


def test_a_rolled_back_seal_leaves_nothing(writer):
    record(writer, 3)
    with writer.transaction(force_rollback=True):
        assert seal(writer) == 3
    assert_intact(writer)
    with writer.transaction():
        with writer.transaction(force_rollback=True):
            assert seal(writer) == 3
        assert seal(writer) == 3
    assert seal(writer) == 0
    assert_intact(writer)
    recompute(writer)


def test_sealing_in_the_transaction_that_writes(writer):
    with writer.transaction():
        record(writer, 3)
        assert seal(writer) == 0
        record(writer, 1)
        assert seal(writer) == 0
    assert seal(writer) == 4
    assert_intact(writer)


def test_sealing_twice_in_a_transaction_beside_an_older_one(writer, connect):
    """It is no reason to take the database for a copy."""
    record(writer, 3)
    older = connect()
    older.execute("select pg_current_xact_id()")
    with writer.transaction():
        assert seal(writer) == 3
        assert problems(writer) == []
        assert seal(writer) == 0
        assert problems(writer) == []
    assert value(writer, "select max(incarnation) from machserial.audit_seals") == 1
    record(older)
    older.commit()
    assert seal(writer) == 1
    assert_intact(writer)


def test_a_session_role_and_an_actor_are_on_the_seal(writer):
    writer.execute("set machserial.actor = 'the night shift'")
    record(writer)
    seal(writer)
    sealed_by = column(writer, "select sealed_by from machserial.audit_seals order by id")
    assert sealed_by == [value(writer, "select session_user::text"), "the night shift"]
    recompute(writer)


# Who is still writing


def test_open_transactions_delay_their_events_and_what_came_after(writer, connect):
    first = record(writer, 2)
    late = connect()
    low = record(late, 1)
    after = record(writer, 3)
    assert seal(writer) == 2
    assert_intact(writer)
    late.execute("savepoint a")
    lost = record(late, 2)
    late.execute("rollback to a")
    low += record(late, 1)
    assert seal(writer) == 0
    late.commit()
    assert_intact(writer)
    assert seal(writer) == 5
    assert column(writer, SEALED_IDS) == [*first, *low, *after]
    assert not set(lost) & set(column(writer, SEALED_IDS))
    assert_intact(writer)
    recompute(writer)


def test_a_transaction_that_wakes_up_late_with_an_old_time(writer, connect):
    """It began before many seals, and writes after them: no alarm, for it was seen to be open."""
    sleeper = connect()
    sleeper.execute("select now()")
    for _ in range(3):
        record(writer, 2)
        seal(writer)
    record(sleeper, 2)
    sleeper.commit()
    assert_intact(writer)
    assert seal(writer) == 2
    assert_intact(writer)


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_low_ids_that_come_after_high_ones(writer, connect, ending):
    """Ids drawn early, and an id of a transaction held for long, written at last."""
    slow = connect()
    slow.execute("select pg_current_xact_id()")
    drawn = value(slow, "select nextval(pg_get_serial_sequence('machserial.audit_events', 'id'))")
    for _ in range(3):
        record(writer, 2)
        seal(writer)
    record(slow, 1, id=drawn)
    getattr(slow, ending)()
    assert_intact(writer)
    seal(writer)
    assert unsealed(writer) == 0
    assert_intact(writer)


def test_subtransactions_belong_to_their_transaction(writer, connect):
    nested = connect()
    with nested.transaction():
        record(nested, 1)
        for lost in (False, True, False):
            with nested.transaction(force_rollback=lost):
                record(nested, 2)
                with nested.transaction(force_rollback=not lost):
                    record(nested, 3)
                record(writer, 1)
                seal(writer)
        nested.execute(
            "do $$ begin for i in 1..5 loop begin "
            "insert into machserial.audit_events (event_type, event_source) values ('X', 'x'); "
            "if i = 3 then raise exception 'lost'; end if; "
            "exception when raise_exception then null; end; end loop; end $$"
        )
    assert_intact(writer)
    seal(writer)
    assert unsealed(writer) == 0
    assert_intact(writer)
    recompute(writer)


def test_another_databases_transactions_only_delay(server, writer):
    with psycopg.connect(server.dsn("postgres")) as other:
        other.execute("select pg_current_xact_id()")
        record(writer, 2)
        assert seal(writer) == 0
        assert_intact(writer)
        other.rollback()
    assert seal(writer) == 2
    assert_intact(writer)


def test_prepared_transactions_delay_until_they_are_decided(own):
    writer = own.connection
    record(writer, 2)
    for name in ("kept", "lost"):
        one = own.connect()
        one.execute("begin")
        record(one, 2)
        one.execute("savepoint a")
        record(one, 1)
        one.execute(f"prepare transaction '{name}'")
    record(writer, 3)
    assert seal(writer) == 2
    for _ in range(3):
        record(writer, 1)
        assert seal(writer) == 0
        assert_intact(writer)
    restart(own.server)
    with psycopg.connect(own.server.dsn(own.name), autocommit=True) as writer:
        assert seal(writer) == 0
        assert_intact(writer)
        writer.execute("commit prepared 'kept'")
        assert_intact(writer)
        assert seal(writer) == 3
        assert_intact(writer)
        writer.execute("rollback prepared 'lost'")
        assert seal(writer) == 6
        assert unsealed(writer) == 0
        assert_intact(writer)
        recompute(writer)


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_seal_that_is_prepared_itself(own, ending):
    writer, sealer = own.connection, own.connect()
    record(writer, 3)
    sealer.execute("begin")
    assert seal(sealer) == 3
    sealer.execute("prepare transaction 'seal'")
    assert seal(writer) == 0
    record(writer, 2)
    assert_intact(writer)
    writer.execute(f"{ending} prepared 'seal'")
    assert_intact(writer)
    assert seal(writer) == (2 if ending == "commit" else 5)
    assert_intact(writer)
    recompute(writer)


def test_only_one_seals_and_the_others_do_not_wait(writer, connect):
    record(writer, 2)
    busy = connect()
    assert seal(busy) == 2
    told: list[str] = []
    writer.add_notice_handler(lambda notice: told.append(notice.message_primary))
    writer.execute("set lock_timeout = '1s'")
    assert seal(writer) == 0
    assert told
    assert_intact(writer)
    busy.commit()
    assert seal(writer) == 0
    assert_intact(writer)


def seal_some(connection: psycopg.Connection) -> None:
    assert seal(connection) == 2


def change_node(connection: psycopg.Connection) -> None:
    call(connection, "set_node", node=3)
    record(connection, 2)


def make_months(connection: psycopg.Connection) -> None:
    make_month(connection, month_of(value(connection, "select now()"), 7))
    record(connection, 2, performed_at=f"{month_of(value(connection, 'select now()'), 7)} 00:00:00+00")
    seal(connection)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "meanwhile, locked",
    [
        (record, "audit_verifications"),
        (seal_some, "audit_verifications"),
        (make_months, "audit_verifications"),
        (change_node, "audit_leaves"),
    ],
)
def test_what_happens_during_a_verification(writer, connect, meanwhile, locked, full):
    """It has seen which seal is the newest, and waits for a table that somebody has locked."""
    record(writer, 3)
    seal(writer)
    if meanwhile is not change_node:
        record(writer, 2)
    verifier, blocker, other = connect(autocommit=True), connect(), connect(autocommit=True)
    blocker.execute(f"lock table machserial.{locked}")
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(problems, verifier, full=full)
        waits = "select count(*) from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
        while not value(other, waits, verifier.info.backend_pid):
            assert not run.done()
            time.sleep(0.01)
        try:
            other.execute("set statement_timeout = '10s'")
            meanwhile(other)
        finally:
            blocker.rollback()
        assert not run.result(), run.result()
    assert_intact(writer)


# Around the turn of a month


def test_the_old_month_goes_on_after_the_new_has_begun(writer, connect):
    """A transaction that began before midnight writes after it, when the new month already has seals."""
    month = month_of(value(writer, "select now()"))
    make_month(writer, month_of(month, -1))
    before, after = f"{month} 00:00:00+00", f"{month} 00:00:00.000001+00"
    end_of_old = value(writer, "select %s::timestamptz - interval '1 microsecond'", before)
    slow = connect()
    record(slow, 1, performed_at=end_of_old)
    record(writer, 2, performed_at=end_of_old)
    record(writer, 2, performed_at=before)
    record(writer, 2, performed_at=after)
    assert seal(writer) == 0
    record(slow, 1, performed_at=end_of_old)
    slow.commit()
    assert seal(writer) == 8
    months = column(writer, "select month from machserial.audit_seals where month is not null order by id")
    assert months == [month_of(month, -1), month]
    assert_intact(writer)
    recompute(writer)


def test_months_are_those_of_utc_in_every_time_zone(writer):
    now = value(writer, "select now()")
    for number, (zone, style) in enumerate(
        [
            ("Asia/Kolkata", "SQL, DMY"),
            ("Asia/Shanghai", "Postgres, MDY"),
            ("America/St_Johns", "German"),
            ("Pacific/Kiritimati", "ISO, MDY"),
            ("<+14>-14", "SQL, MDY"),
            ("Etc/GMT+12", "Postgres"),
        ]
    ):
        writer.execute(f"set timezone = '{zone}'; set datestyle = '{style}'")
        writer.execute(
            "select machserial._make_audit_partitions(%s, 1)", (f"{month_of(now, 10 + 2 * number)} 06:00:00+00",)
        )
    writer.execute("set timezone = 'UTC'; set datestyle = 'ISO'")
    bounds = writer.execute(
        "select c.relname, pg_get_expr(c.relpartbound, c.oid) from pg_class as c inner join pg_inherits as i "
        "on i.inhrelid = c.oid where i.inhparent = 'machserial.audit_events'::regclass order by 1"
    ).fetchall()
    assert len(bounds) == 16
    for name, bound in bounds:
        year, month = int(name[13:17]), int(name[18:20])
        following = f"{year + month // 12}-{month % 12 + 1:02}-01 00:00:00+00"
        assert bound == f"FOR VALUES FROM ('{year}-{month:02}-01 00:00:00+00') TO ('{following}')"


# Whatever a session has set

SETTINGS = """
timezone = 'Asia/Kolkata'
timezone = '<+14>-14'
timezone = 'America/St_Johns'
datestyle = 'SQL, DMY'
datestyle = 'Postgres, MDY'
datestyle = 'German'
intervalstyle = 'iso_8601'
intervalstyle = 'sql_standard'
client_encoding = 'LATIN1'
client_encoding = 'SQL_ASCII'
client_encoding = 'EUC_JP'
client_encoding = 'GB18030'
bytea_output = 'escape'
extra_float_digits = -15
standard_conforming_strings = off
escape_string_warning = on
backslash_quote = off
lc_messages = 'C'
lc_monetary = 'C.UTF-8'
lc_numeric = 'C.UTF-8'
lc_time = 'C.UTF-8'
transform_null_equals = on
array_nulls = off
quote_all_identifiers = on
xmlbinary = 'hex'
row_security = off
session_replication_role = 'replica'
default_transaction_isolation = 'read committed'
plpgsql.variable_conflict = 'use_column'
plpgsql.variable_conflict = 'use_variable'
plpgsql.extra_errors = 'all'
plan_cache_mode = 'force_generic_plan'
plan_cache_mode = 'force_custom_plan'
constraint_exclusion = on
enable_partition_pruning = off
enable_bitmapscan = off
enable_hashjoin = off
enable_mergejoin = off
enable_sort = off
enable_hashagg = off
enable_indexonlyscan = off
work_mem = '64kB'
jit_above_cost = 0
max_parallel_workers_per_gather = 8
parallel_setup_cost = 0
track_activities = off
check_function_bodies = off
search_path = ''
search_path = planted, pg_catalog
search_path = planted, machserial, pg_catalog
synchronous_commit = 'on'
machserial.actor = 'é''s "actor"'
machserial.reason = ''
""".strip().splitlines()

# Everything that the canonical form is made of, in a schema that comes first.
PLANTED = """
create schema planted;
create function planted.sha256(bytea) returns bytea language sql immutable return '\\x00'::bytea;
create function planted.convert_to(text, name) returns bytea language sql immutable return '\\x01'::bytea;
create function planted.octet_length(bytea) returns integer language sql immutable return 7;
create function planted.decode(text, text) returns bytea language sql immutable return '\\x02'::bytea;
create function planted.encode(bytea, text) returns text language sql immutable return 'planted';
create function planted.now() returns timestamptz language sql return '2021-01-01'::timestamptz;
create function planted.clock_timestamp() returns timestamptz language sql return '2021-01-01'::timestamptz;
create function planted.to_char(date, text) returns text language sql return 'planted';
create function planted.current_setting(text) returns text language sql return 'planted';
create function planted.pg_current_xact_id() returns xid8 language sql return '1'::xid8;
create function planted.cat(text, text) returns text language sql immutable return 'planted';
create function planted.cat(bytea, bytea) returns bytea language sql immutable return '\\x03'::bytea;
create function planted.times(numeric, integer) returns numeric language sql immutable return 7;
create function planted.never(bytea, bytea) returns boolean language sql immutable return false;
create function planted.never(bigint, bigint) returns boolean language sql immutable return false;
create operator planted.|| (leftarg = text, rightarg = text, function = planted.cat);
create operator planted.|| (leftarg = bytea, rightarg = bytea, function = planted.cat);
create operator planted.* (leftarg = numeric, rightarg = integer, function = planted.times);
create operator planted.<> (leftarg = bytea, rightarg = bytea, function = planted.never);
create operator planted.<> (leftarg = bigint, rightarg = bigint, function = planted.never);
create operator planted.> (leftarg = bigint, rightarg = bigint, function = planted.never);
create table planted.audit_events (id bigint);
create table planted.audit_seals (id bigint);
create temp table audit_events (id bigint);
create temp table audit_seals (id bigint);
create temp table audit_leaves (id bigint);
create type pg_temp._seal as (id bigint);
"""


def set_setting(connection: psycopg.Connection, setting: str) -> None:
    if setting.startswith("plpgsql."):
        connection.execute("load 'plpgsql'")
    if setting.startswith("search_path = planted"):
        connection.execute(PLANTED)
    try:
        connection.execute(f"set {setting}")
    except psycopg.errors.InvalidParameterValue:
        pytest.skip(f"this server knows no {setting}")


@pytest.fixture
def of_all_kinds(writer):
    """Sealed events in which everything occurs that a setting could print in another way."""
    month = month_of(value(writer, "select now()"), -1)
    make_month(writer, month)
    record(writer, 2, performed_at=f"{month} 12:30:00.123456+05:30")
    record(
        writer,
        2,
        part_id="é ß 漢字 🔩 \\ '",
        reason="\\x41",
        details='{"at": "2026-01-02", "n": 1.10, "e": 1e-20, "s": "\\u00e9\\\\", "null": null}',
    )
    assert seal(writer) == 4
    assert_intact(writer)
    return writer


# What changes most of how things are printed, read, planned and found.
TELLING = [
    "timezone = '<+14>-14'",
    "datestyle = 'Postgres, MDY'",
    "client_encoding = 'LATIN1'",
    "bytea_output = 'escape'",
    "extra_float_digits = -15",
    "standard_conforming_strings = off",
    "session_replication_role = 'replica'",
    "plpgsql.variable_conflict = 'use_column'",
    "plan_cache_mode = 'force_generic_plan'",
    "search_path = planted, machserial, pg_catalog",
]


@pytest.mark.parametrize("setting", mostly_slow(SETTINGS, TELLING))
def test_no_setting_reaches_a_hash(of_all_kinds, connect, setting):
    leaves = "select array_agg(machserial._event_leaf({}) order by id) from machserial.audit_events as e".format(
        "e.id, e.event_type, e.event_source, e.serial_id, e.serial_number, e.part_id, e.site_id, e.performed_by, "
        "e.db_user, e.performed_at, e.reason, e.details, e.transaction_id"
    )
    before = value(of_all_kinds, leaves)
    seals = value(of_all_kinds, "select array_agg(seal_hash order by id) from machserial.audit_seals")
    session = connect(autocommit=True)
    set_setting(session, setting)
    assert session.execute("select * from machserial.verify_audit(true)").fetchall() == []
    assert session.execute("select * from machserial.verify_audit(false)").fetchall() == []
    if "bytea_output" not in setting:
        assert session.execute(leaves, binary=True).fetchone()[0] == before
    hashes = "select array_agg(machserial._seal_hash(s) order by s.id) from machserial._seals(1, 99) as s"
    assert session.execute(hashes, binary=True).fetchone()[0] == seals
    # And what is written and sealed under it is right in all other sessions.
    session.execute("insert into machserial.audit_events (event_type, event_source, reason) values ('X', 'x', 'y')")
    assert session.execute("select machserial.seal_audit()").fetchone() == (1,)
    assert session.execute("select * from machserial.verify_audit(true)").fetchall() == []
    assert_intact(of_all_kinds)
    recompute(of_all_kinds)


def test_no_setting_of_the_database_reaches_a_hash(of_all_kinds, connect):
    name = of_all_kinds.info.dbname
    of_all_kinds.execute(PLANTED)
    for setting in (
        "timezone = 'Asia/Kolkata'",
        "datestyle = 'SQL, DMY'",
        "bytea_output = 'escape'",
        "search_path = planted, machserial",
        "standard_conforming_strings = off",
    ):
        of_all_kinds.execute(f"alter database {name} set {setting}")
    session = connect(autocommit=True)
    assert value(session, "show timezone") == "Asia/Kolkata"
    session.execute("insert into machserial.audit_events (event_type, event_source) values ('X', 'x')")
    assert session.execute("select machserial.seal_audit()").fetchone() == (1,)
    assert session.execute("select * from machserial.verify_audit(true)").fetchall() == []
    recompute(of_all_kinds)


@pytest.mark.parametrize("kind", ["text", "integer not null default 7", "jsonb", "text collate \"C\" default 'x'"])
def test_a_column_that_comes_later_changes_no_old_hash(of_all_kinds, kind):
    anchor = value(of_all_kinds, "select machserial.audit_anchor()")
    for table in ("audit_events", "audit_seals", "audit_leaves"):
        of_all_kinds.execute(f"alter table machserial.{table} add column later {kind}")
    assert_intact(of_all_kinds)
    assert problems(of_all_kinds, anchor=anchor) == []
    record(of_all_kinds, 2)
    assert seal(of_all_kinds) == 2
    make_month(of_all_kinds, month_of(value(of_all_kinds, "select now()"), 7))
    assert_intact(of_all_kinds)
    recompute(of_all_kinds)


def test_rewritten_tables_and_moved_rows_are_still_the_same(of_all_kinds):
    record(of_all_kinds, 100)
    seal(of_all_kinds)
    for table in column(of_all_kinds, "select relation::text from machserial._audit_partitions()"):
        of_all_kinds.execute(f"vacuum full {table}")
        of_all_kinds.execute(f"cluster {table} using {table.split('.')[1]}_pkey")
        of_all_kinds.execute(f"reindex table {table}")
        of_all_kinds.execute(f"analyze {table}")
    assert_intact(of_all_kinds)
    record(of_all_kinds, 100)
    seal(of_all_kinds)
    assert_intact(of_all_kinds)


@pytest.mark.both_modes
def test_an_ordinary_owner_seals_and_verifies(server, new_database, mode):
    server.execute("create role plant login")
    dsn = new_database("plant", owner="plant")
    with psycopg.connect(dsn, user="plant") as connection:
        install(connection, mode)
    with psycopg.connect(dsn, user="plant", autocommit=True) as plant, psycopg.connect(dsn) as other:
        seal(plant)
        record(plant, 3)
        # A session that an ordinary role may not look into.
        other.execute("select now()")
        assert seal(plant) == 3
        record(other, 1)
        other.commit()
        assert seal(plant) == 1
        assert_intact(plant)
        recompute(plant)
        for table in ("audit_events", "audit_seals", "audit_leaves"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                plant.execute(f"delete from machserial.{table}")


# Another set of characters


@pytest.mark.parametrize("encoding", mostly_slow(["LATIN1", "WIN1252"], ["LATIN1"]))
def test_a_database_in_another_encoding_moves_to_utf8(own_server, encoding):
    own_server.execute("drop database if exists encoded")
    own_server.execute(f"create database encoded encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'")
    with psycopg.connect(own_server.dsn("encoded"), autocommit=True) as connection:
        connection.execute("create extension machserial")
        connection.execute("select machserial.migrate()")
        begin_empty(connection)
        record(connection, 2, reason="é ß", details='{"é": "ß\\u00e9"}')
        assert seal(connection) == 2
        assert_intact(connection)
        recompute(connection)
    script = own_server.run("pg_dump", "--encoding=UTF8", "encoded").replace("SET transaction_timeout = 0;\n", "")
    own_server.execute("drop database if exists in_utf8 with (force)")
    own_server.execute("create database in_utf8")
    own_server.run("psql", "--quiet", "--set", "ON_ERROR_STOP=1", "in_utf8", stdin=script)
    with psycopg.connect(own_server.dsn("in_utf8"), autocommit=True) as copy:
        assert_intact(copy)
        record(copy, 2)
        assert seal(copy) == 2
        assert_intact(copy)
        recompute(copy)


def test_bytes_that_are_no_characters_do_not_stop_the_sealing(own_server):
    """A database without encoding takes whatever comes."""
    own_server.execute("drop database if exists raw")
    own_server.execute("create database raw encoding 'SQL_ASCII' template template0 lc_collate 'C' lc_ctype 'C'")
    with psycopg.connect(own_server.dsn("raw", client_encoding="SQL_ASCII"), autocommit=True) as connection:
        connection.execute("create extension machserial")
        try:
            connection.execute("select machserial.migrate()")
        except psycopg.Error as refusal:
            # Also an answer.
            assert refusal.sqlstate == "0A000"
            return
        begin_empty(connection)
        connection.execute(
            b"insert into machserial.audit_events (event_type, event_source, reason) values ('X', 'x', E'caf\\351')"
        )
        assert connection.execute("select machserial.seal_audit()").fetchone() == (1,)
        assert connection.execute("select * from machserial.verify_audit(true)").fetchall() == []


# Another cluster


@pytest.fixture(scope="module")
def young_server(request):
    """Its transaction ids are low."""
    with running(request) as server:
        yield server


@pytest.fixture(scope="module")
def old_server(request):
    """Its transaction ids are high."""
    with running(request) as server:
        burn_transaction_ids(server, 60_000)
        yield server


@pytest.fixture(scope="module")
def origin(request):
    with running(request) as server:
        burn_transaction_ids(server, 20_000)
        yield server


@pytest.fixture
def source(origin):
    name = f"source_{time.monotonic_ns()}"
    with install_on(origin, name, BUILD) as connection:
        record(connection, 3)
        seal(connection)
        record(connection, 2)
        seal(connection)
        yield connection
    origin.execute(f"drop database {name} with (force)")


def check(connection: psycopg.Connection) -> None:
    assert_intact(connection)
    recompute(connection)


COPIES = list(product(("young_server", "old_server", "origin"), (0, 2), (False, True), (0, 3)))


# Those that are kept have every value once at least.
@pytest.mark.parametrize(("target", "not_sealed", "verify_first", "write_first"), mostly_slow(COPIES, COPIES[::11]))
def test_a_copy_goes_on(request, source, origin, target, not_sealed, verify_first, write_first):
    """Whether events were sealed when it was dumped, and whether it is written or verified before its first seal."""
    if not_sealed:
        record(source, not_sealed)
    anchor = value(source, "select machserial.audit_anchor()")
    with move(origin, source.info.dbname, request.getfixturevalue(target), "copy") as copy:
        if verify_first:
            check(copy)
        if write_first:
            record(copy, write_first)
        if verify_first:
            check(copy)
        assert seal(copy) == not_sealed + write_first
        check(copy)
        assert unsealed(copy) == 0
        for count in (1, 4):
            record(copy, count)
            assert problems(copy) == []
            assert seal(copy) == count
            check(copy)
        assert problems(copy, anchor=anchor) == []


@pytest.mark.slow
def test_a_copy_of_a_copy_goes_on(source, origin, young_server, old_server):
    record(source, 2)
    connection = source
    # There, on, and home again.
    journey = [(origin, young_server), (young_server, old_server), (old_server, origin), (origin, young_server)]
    expected = 7
    with ExitStack() as opened:
        for number, (here, there) in enumerate(journey):
            connection = opened.enter_context(move(here, connection.info.dbname, there, f"stop_{number}"))
            check(connection)
            record(connection, 3)
            seal(connection)
            check(connection)
            # Left behind for the next one, not sealed.
            record(connection, 2)
            expected += 5
        assert value(connection, "select count(*) from machserial.audit_events") == expected
        assert seal(connection) == 2
        check(connection)


def test_a_copy_of_what_was_never_sealed(origin, young_server):
    with install_on(origin, f"unsealed_{time.monotonic_ns()}", BUILD) as connection:
        record(connection, 3)
        with move(origin, connection.info.dbname, young_server, "copy_unsealed") as copy:
            check(copy)
            record(copy, 2)
            check(copy)
            assert seal(copy) == 5
            check(copy)


def test_a_low_id_that_came_late_and_was_not_sealed_when_dumped(source, origin, young_server):
    """Its id lies below sealed ones: it is of the cluster that was before."""
    dsn = origin.dsn(source.info.dbname)
    with psycopg.connect(dsn) as quick, psycopg.connect(dsn) as slow:
        quick.execute("select pg_current_xact_id()")
        (low,) = record(slow)
        record(quick, 2)
        quick.commit()
        assert seal(source) == 2
    assert low < value(source, "select max(last_event_id) from machserial.audit_seals")
    record(source, 2)
    with move(origin, source.info.dbname, young_server, "copy_late") as copy:
        check(copy)
        record(copy, 2)
        check(copy)
        assert seal(copy) == 5
        check(copy)


def test_a_busy_copy_is_sealed_when_nobody_writes(source, origin, young_server):
    with (
        move(origin, source.info.dbname, young_server, "copy_busy") as copy,
        psycopg.connect(young_server.dsn("copy_busy")) as other,
    ):
        record(other, 2)
        assert seal(copy) == 0
        check(copy)
        record(copy, 1)
        assert seal(copy) == 0
        other.commit()
        assert seal(copy) == 3
        check(copy)


def test_both_go_on_and_have_nothing_to_do_with_each_other(source, origin, young_server):
    with move(origin, source.info.dbname, young_server, "copy_twin") as copy:
        for _ in range(3):
            for one in (source, copy):
                record(one, 2)
                assert seal(one) == 2
                check(one)
        anchor = value(copy, "select machserial.audit_anchor()")
        assert [p.problem for p in problems(source, anchor=anchor)] == ["ANCHOR_MISMATCH"]


NODES = list(product(([5], [5, 0], [5, 0, 5], [0, 9, 3]), (None, 0, 3, 7)))


@pytest.mark.parametrize(("nodes", "node_there"), mostly_slow(NODES, NODES[::11]))
def test_a_copy_of_a_database_that_has_been_several_nodes(source, origin, young_server, nodes, node_there):
    """Ids have gone up and down before, and go down again in the copy."""
    for node in nodes:
        call(source, "set_node", node=node)
        record(source, 2)
        seal(source)
    record(source, 1)
    with move(origin, source.info.dbname, young_server, "copy_nodes") as copy:
        check(copy)
        if node_there is not None:
            call(copy, "set_node", node=node_there)
        record(copy, 2)
        check(copy)
        seal(copy)
        assert unsealed(copy) == 0
        check(copy)
        for node in (2, 0):
            call(copy, "set_node", node=node)
            record(copy, 2)
            assert seal(copy) == 2
            check(copy)


def test_nodes_up_and_down_between_seals(writer):
    for node in (4, 0, 32767, 1, 0, 4):
        record(writer, 1)
        call(writer, "set_node", node=node)
        record(writer, 2)
        check(writer)
        seal(writer)
        assert unsealed(writer) == 0
        check(writer)


def test_a_promoted_standby_goes_on(origin, source):
    try:
        standby = Standby(origin)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    record(source, 2)
    name = source.info.dbname
    with standby:
        standby.install_extension(BUILD)
        with psycopg.connect(standby.dsn(name), autocommit=True) as copy:
            # It only reads.
            assert problems(copy) == []
            assert value(copy, "select machserial.audit_anchor()")
            copy.execute("select pg_promote()")
            record(copy, 3)
            check(copy)
            sealed = seal(copy)
            # At once, whenever its first checkpoint comes.
            assert value(copy, "select max(timeline) from machserial.audit_seals") == 2
            check(copy)
            copy.execute("checkpoint")
            check(copy)
            record(copy, 1)
            sealed += seal(copy)
            assert sealed == 6
            check(copy)
            record(copy, 1)
            assert seal(copy) == 1
            check(copy)
    # The origin has gone its own way.
    assert seal(source) == 2
    check(source)


# Crashes and clocks


@pytest.mark.parametrize("how", [restart, crash])
def test_a_server_that_ended(request, how):
    """With a transaction and a seal under way; twice."""
    with running(request) as server:
        connection = install_on(server, "plant", BUILD)
        for expected in (8, 16):
            others = [psycopg.connect(server.dsn("plant")) for _ in range(2)]
            record(connection, 3)
            seal(connection)
            record(connection, 2)
            record(others[0], 2)
            assert seal(others[1]) == 2
            connection.execute("set synchronous_commit = on")
            record(connection, 1)
            how(server)
            for one in (connection, *others):
                one.close()
            connection = psycopg.connect(server.dsn("plant"), autocommit=True)
            check(connection)
            record(connection, 2)
            seal(connection)
            check(connection)
            assert unsealed(connection) == 0
            assert value(connection, "select count(*) from machserial.audit_events") == expected
        assert value(connection, "select max(incarnation) from machserial.audit_seals") == 1
        connection.close()


@pytest.fixture(scope="module")
def clock_and_server(request):
    """A server, and the clock that it looks at."""
    if Clock.library() is None:
        pytest.skip("faketime is not installed")
    # Where the server's user can read it.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, ExitStack() as opened:
        Path(folder).chmod(0o755)
        clock = Clock(Path(folder))
        with clock.over_what_is_started():
            server = opened.enter_context(running(request, statement_timeout="0"))
        yield clock, server


@pytest.fixture
def clocked(clock_and_server):
    """A database on a server whose clock the test sets."""
    clock, server = clock_and_server
    with ExitStack() as opened:
        at_work = opened.enter_context(install_on(server, "plant", BUILD))

        def connect() -> psycopg.Connection:
            return opened.enter_context(psycopg.connect(server.dsn("plant")))

        def set_clock(offset: str) -> None:
            clock.set(offset)
            now = value(at_work, "select clock_timestamp()")
            unit = {"d": "days", "m": "minutes", "0": "days"}[offset[-1]]
            amount = int(offset.rstrip("dm"))
            true = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(**{unit: amount})
            assert abs(now - true) < datetime.timedelta(seconds=60)
            call(at_work, "_make_audit_partitions", at=now, months_ahead=0)

        yield SimpleNamespace(connection=at_work, connect=connect, set=set_clock)
    clock.set("+0")
    server.execute("drop database plant with (force)")


def test_a_clock_that_is_a_year_off_and_set_right(clocked):
    for offset in ("+0", "-365d", "+0", "+365d", "+0", "-10m", "+10m", "+0"):
        clocked.set(offset)
        for _ in range(2):
            record(clocked.connection, 2)
            assert problems(clocked.connection) == []
            assert seal(clocked.connection) == 2
            assert_intact(clocked.connection)
    recompute(clocked.connection)


@pytest.mark.parametrize("offset", ["-365d", "-30m"])
def test_a_clock_set_back_beside_a_transaction_that_takes_long(clocked, offset):
    """It begins when the clock is wrong, and outlives a seal."""
    record(clocked.connection, 2)
    seal(clocked.connection)
    clocked.set(offset)
    record(clocked.connection, 1)
    slow = clocked.connect()
    record(slow, 1)
    assert seal(clocked.connection) == 1
    assert_intact(clocked.connection)
    slow.commit()
    record(clocked.connection, 2)
    assert seal(clocked.connection) == 3
    assert_intact(clocked.connection)
    clocked.set("+0")
    record(clocked.connection, 2)
    assert seal(clocked.connection) == 2
    assert_intact(clocked.connection)


def test_a_clock_set_back_beside_a_transaction_from_before(clocked):
    slow = clocked.connect()
    record(clocked.connection, 1)
    record(slow, 1)
    assert seal(clocked.connection) == 1
    clocked.set("-365d")
    record(clocked.connection, 1)
    assert seal(clocked.connection) == 0
    record(slow, 1)
    slow.commit()
    assert_intact(clocked.connection)
    assert seal(clocked.connection) == 3
    assert_intact(clocked.connection)
    clocked.set("+0")
    record(clocked.connection, 1)
    assert_intact(clocked.connection)
    assert seal(clocked.connection) == 1
    assert_intact(clocked.connection)
    recompute(clocked.connection)


def test_a_transaction_that_began_in_the_month_before(clocked):
    """And writes when the new month has been sealed: its events are of the old one."""
    now = value(clocked.connection, "select now()")
    days = (month_of(now, 1) - now.date()).days
    call(clocked.connection, "_make_audit_partitions", at=now, months_ahead=2)
    slow, sleeper = clocked.connect(), clocked.connect()
    clocked.set(f"+{days - 1}d")
    record(slow, 1)
    sleeper.execute("select now()")
    clocked.set(f"+{days}d")
    for _ in range(2):
        record(clocked.connection, 2)
        seal(clocked.connection)
        assert_intact(clocked.connection)
    record(slow, 2)
    record(sleeper, 2)
    slow.commit()
    sleeper.commit()
    assert_intact(clocked.connection)
    seal(clocked.connection)
    assert unsealed(clocked.connection) == 0
    assert_intact(clocked.connection)
    months = column(
        clocked.connection,
        "select month from machserial.audit_seals where month is not null group by month order by month",
    )
    assert months == [month_of(now), month_of(now, 1)]
    recompute(clocked.connection)


# Proofs

VECTORS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
]


def test_vectors_of_certificate_transparency(connection):
    leaves = [hashlib.sha256(b"\0" + leaf).digest() for leaf in LEAVES]
    for size in range(9):
        root = value(connection, "select machserial._merkle_root(%s)", b"".join(leaves[:size]))
        expected = bytes.fromhex(VECTORS[size - 1]) if size else hashlib.sha256(b"").digest()
        assert root == expected == merkle_root(leaves[:size])


HOLDS = "select machserial.verify_inclusion(%s, %s, %s, %s, %s)"


def some_leaves(count: int) -> list[bytes]:
    return [hashlib.sha256(b"\0" + str(number).encode()).digest() for number in range(count)]


def test_every_position_in_every_tree_of_up_to_70_leaves(connection):
    leaves = some_leaves(70)
    for size in range(1, 71):
        tree = leaves[:size]
        root = value(connection, "select machserial._merkle_root(%s)", b"".join(tree))
        assert root == merkle_root(tree)
        rows = connection.execute(
            "select i, machserial._merkle_path(%(leaves)s, i), machserial.verify_inclusion("
            "substr(%(leaves)s, i * 32 + 1, 32), i, %(size)s, machserial._merkle_path(%(leaves)s, i), %(root)s) "
            "from generate_series(0, %(size)s - 1) as i",
            {"leaves": b"".join(tree), "size": size, "root": root},
        ).fetchall()
        assert len(rows) == size
        for index, path, holds in rows:
            assert holds is True
            assert path == merkle_path(index, tree)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 33])
def test_a_proof_proves_nothing_else(connection, size):
    leaves = some_leaves(size + 1)
    tree, other = leaves[:size], leaves[size]
    root = merkle_root(tree)
    for index in range(size):
        path = merkle_path(index, tree)
        false = [
            (other, index, size, path, root),
            (tree[index], index, size, path, other),
            (tree[index], index, size, [*path, other], root),
            (tree[index], -1, size, path, root),
            (tree[index], size, size, path, root),
            (tree[index], index, 0, path, root),
            (tree[index], index, -1, path, root),
            (tree[index], index, size, path, b""),
            (b"", index, size, path, root),
            (tree[index], index, size, None if path else [other], root),
            (tree[index], index, None, path, root),
            (tree[index], None, size, path, root),
            (None, index, size, path, root),
            (tree[index], index, size, path, None),
        ]
        if path:
            false += [
                (tree[index], index, size, path[:-1], root),
                (tree[index], index, size, path[1:], root),
                (tree[index], index, size, [other, *path[1:]], root),
                (tree[index], index, size, [None, *path[1:]], root),
                (tree[index], index ^ 1, size, path, root),
            ]
        if len(path) > 1:
            false.append((tree[index], index, size, path[::-1], root))
        for arguments in false:
            assert value(connection, HOLDS, *arguments) in (False, None), arguments
        assert value(connection, HOLDS, tree[index], index, size, path, root) is True


def test_a_leaf_is_no_node(connection):
    """Two hashes side by side are no leaf whose hash is their parent's: leaves and nodes begin differently."""
    tree = some_leaves(4)
    inner = merkle_root(tree[:2])
    root = merkle_root(tree)
    assert hashlib.sha256(b"\0" + tree[0] + tree[1]).digest() != inner
    assert value(connection, HOLDS, inner, 0, 4, [merkle_root(tree[2:])], root) is False


def test_proofs_of_events_in_a_full_seal(writer):
    ids = record(writer, 8192)
    assert seal(writer) == 8192
    events = {event[0]: event for event in writer.execute(select_events())}
    tree = [leaf_hash(events[event_id]) for event_id in ids]
    for index in (0, 1, 2, 4095, 4096, 5000, 8190, 8191):
        (proof,) = call(writer, "inclusion_proof", event_id=ids[index])
        assert (proof.seal_id, proof.leaf_index, proof.tree_size) == (2, index, 8192)
        assert proof.leaf_hash == tree[index]
        assert proof.path == merkle_path(index, tree)
        assert len(proof.path) == 13
        assert proof.merkle_root == merkle_root(tree)
        assert value(writer, HOLDS, *tuple(proof)[3:4], index, 8192, proof.path, proof.merkle_root) is True
    seals = dict(writer.execute("select id, seal_hash from machserial.audit_seals"))
    assert proof.seal_hash == seals[2]


def test_proofs_of_all_events_whatever_their_order(writer, connect):
    slow = connect()
    record(slow, 2)
    record(writer, 3)
    record(slow, 2)
    seal(writer)
    slow.commit()
    record(writer, 4)
    seal(writer)
    call(writer, "set_node", node=3)
    record(writer, 2)
    seal(writer)
    for event in writer.execute(select_events()).fetchall():
        (proof,) = call(writer, "inclusion_proof", event_id=event[0])
        assert proof.leaf_hash == leaf_hash(event)
        arguments = (proof.leaf_hash, proof.leaf_index, proof.tree_size, proof.path, proof.merkle_root)
        assert value(writer, HOLDS, *arguments) is True


def test_what_is_not_sealed_has_no_proof(writer):
    (event_id,) = record(writer)
    with refused(writer, "55000"):
        call(writer, "inclusion_proof", event_id=event_id)
    for unknown in (event_id + 1, 0, -1):
        with refused(writer, "P0002"):
            call(writer, "inclusion_proof", event_id=unknown)
    seal(writer)
    assert call(writer, "inclusion_proof", event_id=event_id)


# Everything at once


def storm(own: SimpleNamespace, events: int, writers: int = 8, sealers: int = 2, verifiers: int = 1) -> dict:
    """So many events by so many writers who do all that writers do, sealed and verified all the while."""
    writing = SimpleNamespace(left=events, done=0)
    batch_limit = max(50, events // 1000)
    prepared: list[str] = []
    sealed: list[int] = []
    alarms: list = []

    def insert(session: psycopg.Connection, count: int) -> None:
        record(session, count, reason=f"storm {count}")

    def write(number: int) -> int:
        dice, session, written = random.Random(number), own.connect(), 0
        session.execute("set statement_timeout = '300s'")
        while writing.left > 0:
            count = dice.randint(1, batch_limit)
            writing.left -= count
            fate = dice.random()
            if fate < 0.5:
                insert(session, count)
            elif fate < 0.6:
                with session.transaction(force_rollback=True):
                    insert(session, count)
                count = 0
            elif fate < 0.75:
                with session.transaction():
                    insert(session, count)
                    with session.transaction(force_rollback=True):
                        insert(session, dice.randint(1, 20))
                    with session.transaction():
                        insert(session, 1)
                count += 1
            elif fate < 0.85:
                # Low ids and a low transaction id that are committed late.
                with session.transaction():
                    insert(session, 1)
                    time.sleep(dice.random() / 5)
                    insert(session, count)
                count += 1
            elif fate < 0.9:
                # Began early, writes late.
                with session.transaction():
                    session.execute("select now()")
                    time.sleep(dice.random() / 5)
                    insert(session, count)
            elif fate < 0.95:
                name = f"storm_{number}_{written}_{dice.random()}"
                session.execute("begin")
                insert(session, count)
                session.execute(f"prepare transaction '{name}'")
                prepared.append(name)
                while len(prepared) > 5 or (writing.left <= 0 and prepared):
                    try:
                        name = prepared.pop(0)
                    except IndexError:
                        break
                    session.execute(f"commit prepared '{name}'")
            else:
                with pytest.raises(psycopg.errors.DivisionByZero), session.transaction():
                    insert(session, count)
                    session.execute("select 1 / 0")
                count = 0
            written += count
        return written

    def seal_on(number: int) -> float:
        session, took = own.connect(), 0.0
        session.execute("set statement_timeout = '300s'")
        while not writing.done:
            begin = time.monotonic()
            sealed.append(seal(session))
            took += time.monotonic() - begin
            time.sleep(0.05)
        return took

    def verify_on(number: int) -> int:
        session, runs = own.connect(), 0
        session.execute("set statement_timeout = '300s'")
        while not writing.done and not alarms:
            alarms.extend(problems(session, full=runs % 4 == 0))
            runs += 1
        return runs

    with ThreadPoolExecutor(writers + sealers + verifiers) as threads:
        begin = time.monotonic()
        at_seals = [threads.submit(seal_on, number) for number in range(sealers)]
        at_checks = [threads.submit(verify_on, number) for number in range(verifiers)]
        at_work = [threads.submit(write, number) for number in range(writers)]
        try:
            written = sum(work.result() for work in at_work)
        finally:
            seconds = time.monotonic() - begin
            writing.done = True
        sealing = sum(work.result() for work in at_seals)
        runs = sum(work.result() for work in at_checks)
    for name in prepared:
        own.connection.execute(f"commit prepared '{name}'")
    assert alarms == []
    own.connection.execute("set statement_timeout = '900s'")
    begin = time.monotonic()
    sealed.append(seal(own.connection))
    last = time.monotonic() - begin
    begin = time.monotonic()
    assert problems(own.connection) == []
    full = time.monotonic() - begin
    assert value(own.connection, "select count(*) from machserial.audit_events") == written == sum(sealed)
    assert unsealed(own.connection) == 0
    return {
        "events": written,
        "written a second": round(written / seconds),
        "runs of verify_audit meanwhile": runs,
        "seconds of sealing": round(sealing + last, 1),
        "sealed a second": round(written / (sealing + last)),
        "seals": value(own.connection, "select count(*) from machserial.audit_seals"),
        "seconds of a full verification": round(full, 1),
    }


def test_writers_sealers_and_a_verifier_at_once(own):
    events = int(os.environ.get("MACHSERIAL_STRESS_EVENTS", "10000"))
    told = storm(own, events)
    print(told)
    assert told["events"] > events / 2
    if events <= 100_000:
        recompute(own.connection)
    # And it is no blind eye that saw nothing.
    own.connection.execute("set session_replication_role = replica")
    victim = value(own.connection, "select min(id) from machserial.audit_events where id > %s", events // 2)
    own.connection.execute(f"update machserial.audit_events set reason = 'forged' where id = {victim}")
    assert [(p.problem, p.event_id) for p in problems(own.connection)] == [("EVENT_CHANGED", victim)]


def test_serials_made_by_many_are_sealed_beside_them(own):
    """The way in which events come about: by triggers, in the transactions of those who work."""
    call(own.connection, "register_part", part_id="P", part_type="T")
    call(own.connection, "create_format", name="F", pattern="F{SEQ:7}")
    sessions = [own.connect() for _ in range(6)]

    def work(number: int) -> int:
        session = sessions[number]
        if number == 5:
            return sum(seal(session) for _ in range(20))
        if number == 4:
            return sum(len(problems(session)) for _ in range(5)) * 1_000_000
        for quantity in (1, 7, 300, 2):
            with session.transaction(force_rollback=quantity == 2):
                call(session, "generate", part_id="P", quantity=quantity, format="F")
        return 0

    sealed = sum(at_once(6, work)) + seal(own.connection)
    assert sealed == value(own.connection, "select count(*) from machserial.audit_events")
    assert_intact(own.connection)
    recompute(own.connection)


def test_many_sealers_make_one_chain(own):
    sessions = [own.connect() for _ in range(8)]

    def work(number: int) -> int:
        return sum(record(sessions[number], 3) != [] and seal(sessions[number]) for _ in range(15))

    sealed = sum(at_once(8, work)) + seal(own.connection)
    assert sealed == 8 * 15 * 3
    assert_intact(own.connection)
    recompute(own.connection)


def test_nobody_but_sealing_summarizes(writer):
    """Else autovacuum is asked for each range, and the server logs the statements that it is too busy to serve."""
    indexes = dict(
        writer.execute(
            "select c.relname, c.reloptions from pg_class as c inner join pg_am as a on a.oid = c.relam "
            "where a.amname = 'brin' and c.relkind = 'i'"
        ).fetchall()
    )
    assert len(indexes) >= 4 and all(options == ["pages_per_range=16"] for options in indexes.values())
    record(writer, 3000)
    (partition,) = column(
        writer,
        "select i.indexrelid::regclass from pg_index as i inner join machserial._audit_partitions() as p "
        "on p.relation = i.indrelid and p.month = date_trunc('month', now() at time zone 'UTC') "
        "where i.indexrelid::regclass::text like '%transaction_id%'",
    )
    seal(writer)
    assert value(writer, "select brin_summarize_new_values(%s::regclass)", partition) == 0
