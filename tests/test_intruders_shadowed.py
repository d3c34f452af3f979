"""Names and settings of the caller's: whatever his search_path finds first, whatever his session says about how text is
read and numbers are printed, a call does the same and runs nothing of his with another's rights."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import psycopg
import pytest
from conftest import install
from intruders import SHADOWED_VIEWS, TRAPS, day, lay_traps, night, sprung
from psycopg import errors, sql
from support import call, column, generated, make_format, make_part, value

# Long, and nothing in it depends on how machserial was installed.
ONE_MODE = True

# How a session reads and writes text, where it is not PostgreSQL's own default.
OTHER_TEXT = {
    "standard_conforming_strings": "off",
    "escape_string_warning": "on",
    "backslash_quote": "on",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "datestyle": "SQL, DMY",
    "intervalstyle": "postgres_verbose",
    "timezone": "Pacific/Apia",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "xmloption": "document",
    "default_text_search_config": "simple",
    "client_encoding": "LATIN1",
    "client_min_messages": "error",
    "application_name": "x'; drop table machserial.serials; --\\ $$ %s %L" + "y" * 300,
    "machserial.debug": "on",
    "machserial.kept_grants": '[{"function": "version", "role": "public", "grantable": true}]',
}
# How it plans and what it permits.
OTHER_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_hashagg": "off",
    "enable_material": "off",
    "from_collapse_limit": "1",
    "join_collapse_limit": "1",
    "geqo_threshold": "2",
    "work_mem": "64kB",
    "constraint_exclusion": "on",
    "enable_partition_pruning": "off",
    "synchronize_seqscans": "off",
    "row_security": "off",
    "check_function_bodies": "off",
    "plpgsql.check_asserts": "off",
    "plpgsql.extra_errors": "all",
    "plpgsql.extra_warnings": "all",
    "plpgsql.variable_conflict": "use_variable",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "lock_timeout": "30s",
}


@pytest.fixture(scope="module")
def usual(server, mode) -> Iterator[SimpleNamespace]:
    """A database, and what a day in it tells in a session of the usual kind."""
    server.execute("create database shadowed")
    with psycopg.connect(server.dsn("shadowed"), autocommit=True) as connection:
        with connection.transaction():
            install(connection, mode)
        yield SimpleNamespace(connection=connection, told=day(connection, "DAYA"), dsn=server.dsn("shadowed"))
    server.execute("drop database shadowed")


@pytest.fixture
def session(usual: SimpleNamespace) -> Iterator[psycopg.Connection]:
    with psycopg.connect(usual.dsn, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(("settings", "name"), [(OTHER_TEXT, "DAYB"), (OTHER_PLANS, "DAYC")], ids=["text", "plans"])
def test_settings_of_the_session_change_no_result(
    usual: SimpleNamespace, session: psycopg.Connection, settings: dict[str, str], name: str
) -> None:
    """He wants another meaning of a literal in a function's body, a number printed otherwise into a hash or a key."""
    for setting, chosen in settings.items():
        session.execute("select pg_catalog.set_config(%s, %s, false)", (setting, chosen))
    # A table's name is printed with the quotes that he asks for; it means the same.
    told = day(session, name)
    assert [entry[0] for entry in told] == [entry[0] for entry in usual.told]
    differing = [(a, b) for a, b in zip(usual.told, told, strict=True) if a != b and a[0] not in ("attach", "detach")]
    assert differing == []
    # Sealed and verified in a session that reads otherwise, and as well in one that does not.
    if "default_transaction_isolation" in settings:
        session.execute("reset default_transaction_isolation")
    assert night(session) == []
    assert night(usual.connection) == []


def test_temporary_objects_are_found_by_nobody_else(usual: SimpleNamespace, session: psycopg.Connection) -> None:
    """He wants a function that runs as the owner to read or write his temporary table, or one of a catalog's name."""
    tables = column(
        session,
        "select c.relname from pg_class as c where c.relnamespace = 'machserial'::regnamespace and c.relkind in "
        "('r', 'p', 'v') "
        "and not c.relispartition",
    )
    for name in tables:
        session.execute(
            sql.SQL("create temporary table {} as select * from machserial.{} with no data").format(
                sql.Identifier(name), sql.Identifier(name)
            )
        )
    session.execute("create temporary sequence sprung")
    session.execute(
        "create function pg_temp.spring(how pg_catalog.text) returns pg_catalog.bool language plpgsql as $$ begin "
        "perform pg_catalog.nextval('pg_temp.sprung'); return true; end $$"
    )
    for name in SHADOWED_VIEWS:
        session.execute(
            f"create temporary view {name} as select c.*, pg_temp.spring('x') as trap from pg_catalog.{name} as c"
        )
    for name in ("text", "jsonb", "regclass"):
        session.execute(f"create domain pg_temp.{name} as pg_catalog.{name} check (pg_temp.spring('type'))")
    for name in ("new_serials", "old_serials", "new_rows", "old_rows", "registered", "assignments"):
        session.execute(f"create temporary table {name} as select * from machserial.serials with no data")
    session.execute("set search_path = pg_temp, machserial, pg_catalog, public")
    assert day(session, "DAYD") == usual.told
    assert night(session) == []
    used = [name for name in tables if session.execute(f"select from pg_temp.{name} limit 1").fetchone() is not None]
    assert used == []
    assert value(session, "select is_called from pg_temp.sprung") is False
    # Negative control: they are what his own statements find.
    session.execute("insert into sites (id) values ('X')")
    assert value(session, "select id from pg_temp.sites") == "X"
    session.execute("select c.oid, trap from pg_class as c limit 1")
    assert value(session, "select is_called from pg_temp.sprung") is True


def test_better_matches_in_the_callers_path_are_not_called(usual: SimpleNamespace, session: psycopg.Connection) -> None:
    """He wants that the caller's own path leads machserial's functions to operators, casts and overloads of his."""
    session.execute(f"create schema {TRAPS}")
    lay_traps(session)
    session.execute(f"set search_path = {TRAPS}, pg_temp, pg_catalog, machserial, public")
    assert day(session, "DAYE") == usual.told
    assert night(session) == []
    assert sprung(session) == 0
    # Negative control: his own statements do call them, and so would a function without a search_path.
    session.execute("select lower('A') operator(pg_catalog.||) 'b'")
    own = sprung(session)
    session.execute("alter function machserial.find_serial(pg_catalog.text) reset search_path")
    call(session, "find_serial", serial_number="X")
    session.execute("alter function machserial.find_serial(pg_catalog.text) set search_path = pg_catalog, pg_temp")
    assert sprung(session) > own
    session.execute(f"set client_min_messages = error; drop schema {TRAPS} cascade")


def test_a_format_made_under_other_settings_writes_the_same(session: psycopg.Connection) -> None:
    """He wants a renderer whose literals mean something else in another session."""
    make_part(session)
    pattern = "A'\\'{PREFIX:\\\\x41 $$ %s}{CTX:it's}{SEQ:3}"
    context = {"it's": "\\'; select 1 --"}
    for making, using in (("on", "off"), ("off", "on")):
        session.execute("select set_config('standard_conforming_strings', %s, false)", (making,))
        make_format(session, f"made {making}", pattern)
        session.execute("select set_config('standard_conforming_strings', %s, false)", (using,))
        expected = "A'\\'\\\\x41 $$ %s\\'; select 1 --001"
        found = generated(session, format=f"made {making}", context=context, site_id=None)
        assert found == [expected if making == "on" else expected.replace("001", "002")]


def test_a_session_that_gives_up_in_between_leaves_nothing(session: psycopg.Connection) -> None:
    """He wants half a change, by a timeout that strikes within a function."""
    make_part(session, "TIMED")
    make_format(session, "timed", "T{SEQ:6}", allocation="GAPLESS")
    before = value(session, "select count(*) from machserial.audit_events")
    for timeout in ("1ms", "5ms", "20ms"):
        session.execute(f"set statement_timeout = '{timeout}'")
        with pytest.raises(errors.QueryCanceled):
            call(session, "generate", part_id="TIMED", quantity=100000, format="timed")
    session.execute("reset statement_timeout")
    assert generated(session, "TIMED", format="timed") == ["T000001"]
    assert value(session, "select count(*) from machserial.audit_events") == before + 1


def test_an_ordinary_session_cannot_switch_the_rules_off(usual: SimpleNamespace, server) -> None:
    """He wants triggers and foreign keys off for his session."""
    server.execute("create role intruder login")
    with psycopg.connect(usual.dsn, user="intruder", autocommit=True) as session:
        # PL/pgSQL must be there, or its settings are anybody's until it comes, and then void.
        session.execute("do 'begin end'")
        for statement in (
            "set session_replication_role = replica",
            "set plpgsql.variable_conflict = 'use_variable'",
            "set zero_damaged_pages = on",
            "set role postgres",
            "set session authorization postgres",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                session.execute(statement)
    server.execute("drop role intruder")
