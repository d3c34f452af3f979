"""Installing, updating and migrating: every way leads to the same catalog, and none adopts what is not ours."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import BUILD, MODES, ROOT, install, start_server
from psycopg import errors
from servers import Server
from snapshot import catalog, differences

pytestmark = pytest.mark.both_modes

SOURCE = ROOT / "sql"
VERSION = re.search(r"^default_version = '(.+)'", (SOURCE / "machserial.control").read_text(), re.M).group(1)
NEXT_VERSION = "99.0.0"

CHANGED_FUNCTION = """
create function machserial.pending_migrations()
returns table (version integer, name text, source text, sha256 text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query select m.version, m.name, m.source, m.sha256 from machserial._migrations() as m
    where m.version not in (select a.version from machserial._applied_migrations() as a);
end
$$;
"""

NEW_MIGRATION = """
create table machserial.made_by_an_update (id bigint primary key, note text);
alter table machserial.parts add column weight numeric;
"""
NEW_FUNCTION = """
create function machserial.made_by_an_update() returns text
language sql immutable parallel safe
return 'new';

comment on function machserial.made_by_an_update() is 'Comes with the update.';
"""


def build(source: Path, output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "sql" / "build.py", *arguments, "--source", source, "--output", output]
    return subprocess.run(command, capture_output=True, text=True)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path.name} no longer contains {old!r}"
    path.write_text(text.replace(old, new, 1))


def add_migration(source: Path, text: str) -> None:
    last = sorted((source / "migrations").glob("*.sql"))[-1].name
    name = f"migrations/{int(last[:4]) + 1:04}_of_a_test.sql"
    (source / name).write_text(text)
    change(source / "manifest", last, f"{last}\nmigration   {name}")


def change_result(path: Path) -> None:
    """Gives pending_migrations() one more result column, which create or replace alone cannot do."""
    text = path.read_text()
    start = text.index("create function machserial.pending_migrations()")
    stop = text.index("comment on function machserial.pending_migrations()")
    path.write_text(text[:start] + CHANGED_FUNCTION.lstrip() + "\n" + text[stop:])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the SQL sources in which the present version is released."""
    source = tmp_path_factory.mktemp("sources") / "sql"
    shutil.copytree(SOURCE, source)
    released = source / "released" / f"machserial--{VERSION}.sql"
    if not released.exists():
        assert build(source, source.parent / "unused", "release").returncode == 0
    return source


@pytest.fixture(scope="module")
def next_build(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The products of a next version, which changes a bit of everything that an update may change."""
    folder = tmp_path_factory.mktemp("next")
    source = folder / "sql"
    shutil.copytree(sources, source)
    change(source / "machserial.control", f"'{VERSION}'", f"'{NEXT_VERSION}'")
    add_migration(source, NEW_MIGRATION)
    functions = source / "functions" / "catalog.sql"
    functions.write_text(functions.read_text() + NEW_FUNCTION)
    change(functions, "begin\n", "begin\n    -- Changed by the update.\n")
    change_result(source / "functions" / "installation.sql")
    change(source / "functions" / "types.sql", "created_at timestamptz\n", "created_at timestamptz,\n    note text\n")
    result = build(source, folder / "build")
    assert result.returncode == 0, result.stderr
    return folder / "build"


@pytest.fixture(scope="module")
def update_server(request: pytest.FixtureRequest, next_build: Path) -> Iterator[Server]:
    """A server that offers the next version; the others must go on getting the present one."""
    running = start_server(request.config)
    running.install_extension(next_build)
    yield running
    running.stop()


@pytest.fixture
def database(update_server: Server) -> Iterator[Callable[[str], psycopg.Connection]]:
    """database(name): a new empty database of the update server, and an autocommit connection to it."""
    opened: dict[str, psycopg.Connection] = {}

    def create(name: str) -> psycopg.Connection:
        update_server.execute(f"create database {name}")
        opened[name] = psycopg.connect(update_server.dsn(name), autocommit=True)
        return opened[name]

    yield create
    for name, connection in opened.items():
        connection.close()
        update_server.execute(f"drop database {name}")


@pytest.fixture
def fresh(database: Callable[[str], psycopg.Connection]) -> dict[str, list[str]]:
    """The catalog of a fresh installation of the next version."""
    connection = database("fresh")
    install(connection, "extension")
    return catalog(connection)


def same(connection: psycopg.Connection, expected: dict[str, list[str]]) -> bool:
    found = differences(expected, catalog(connection))
    assert not found, "\n".join(found)
    return True


# Every way to an installation ends in the same place.


def test_both_modes_make_the_same_catalog(new_database: Callable[..., str]) -> None:
    catalogs = []
    for mode in MODES:
        with psycopg.connect(new_database(f"mode_{mode}")) as connection:
            install(connection, mode)
            catalogs.append(catalog(connection))
    assert differences(*catalogs) == []


@pytest.mark.own_database
def test_the_comparison_is_not_blind(connection: psycopg.Connection) -> None:
    """Otherwise every test that compares catalogs would prove nothing."""
    before = catalog(connection)
    assert all(before[kind] for kind in ("relations", "columns", "constraints", "indexes", "triggers", "functions"))
    for statement in (
        "alter table machserial.parts add column weight numeric",
        "create index on machserial.parts (name)",
        "comment on column machserial.parts.name is 'another'",
        "alter table machserial.serials disable trigger serials_are_admitted",
        "grant select on machserial.parts to public",
        "grant execute on function machserial.version() to public",
        "alter function machserial.migrate() set search_path = public",
        "alter table machserial.parts drop constraint parts_id_is_given",
    ):
        connection.execute(statement)
        assert differences(before, catalog(connection)), statement
        connection.rollback()


def test_the_comparison_outlasts_a_months_end(connection: psycopg.Connection) -> None:
    """What is compared may have been made in another month, as a template is at the beginning of a run."""
    before = catalog(connection)
    months = [month for (month,) in connection.execute("select month from machserial._audit_partitions() order by 1")]
    connection.execute(f"drop table machserial.audit_events_{months[0]:%Y_%m}")
    assert differences(before, catalog(connection))
    connection.execute(
        "select machserial._make_audit_partition((%s::date + interval '1 month')::date)", (months[-1],)
    )
    assert differences(before, catalog(connection)) == []


def test_an_updated_extension_is_a_fresh_one(database: Callable, fresh: dict) -> None:
    connection = database("updated")
    connection.execute(f"create extension machserial version '{VERSION}'")
    connection.execute("select machserial.migrate()")
    connection.execute("select machserial.register_part('PART', 'TYPE')")
    connection.execute("alter extension machserial update")
    assert connection.execute("select machserial.version(), machserial.migrate()").fetchone() == (NEXT_VERSION, 1)
    assert same(connection, fresh)
    assert connection.execute("select id, weight from machserial.parts").fetchall() == [("PART", None)]


def test_an_updated_plain_installation_is_a_fresh_one(database: Callable, fresh: dict, next_build: Path) -> None:
    connection = database("replaced")
    with connection.transaction():
        install(connection, "plain", BUILD)
    with connection.transaction():
        connection.execute((next_build / "machserial.sql").read_text())
    assert connection.execute("select machserial.version(), machserial.migrate()").fetchone() == (NEXT_VERSION, 1)
    assert same(connection, fresh)


@pytest.mark.parametrize("mode", MODES)
def test_a_function_whose_result_changes_keeps_its_grants(
    database: Callable, update_server: Server, next_build: Path, mode: str
) -> None:
    connection = database("granted")
    if mode == "extension":
        connection.execute(f"create extension machserial version '{VERSION}'")
    else:
        with connection.transaction():
            connection.execute((BUILD / "machserial.sql").read_text())
    connection.execute("select machserial.migrate()")
    connection.execute("create role reader")
    connection.execute("create role lender")
    connection.execute("grant execute on function machserial.pending_migrations() to reader")
    connection.execute("grant execute on function machserial.pending_migrations() to lender with grant option")
    with connection.transaction():
        if mode == "extension":
            connection.execute("alter extension machserial update")
        else:
            connection.execute((next_build / "machserial.sql").read_text())
    granted = connection.execute(
        "select a.grantee::regrole::text, a.is_grantable from pg_proc as p, aclexplode(p.proacl) as a "
        "where p.oid = 'machserial.pending_migrations()'::regprocedure and a.grantee <> p.proowner order by 1"
    ).fetchall()
    assert granted == [("lender", True), ("reader", False)]
    assert connection.execute("select count(sha256) from machserial.pending_migrations()").fetchone() == (1,)
    connection.execute("drop owned by reader, lender")
    connection.execute("drop role reader, lender")


def test_the_bundle_can_be_run_again(database: Callable, fresh: dict, next_build: Path) -> None:
    connection = database("twice")
    for expected in (len(list((SOURCE / "migrations").glob("*.sql"))) + 1, 0):
        with connection.transaction():
            connection.execute((next_build / "machserial.sql").read_text())
        assert connection.execute("select machserial.migrate()").fetchone() == (expected,)
        assert same(connection, fresh)


@pytest.mark.parametrize("mode", MODES)
def test_a_restored_installation_is_a_fresh_one(
    database: Callable, fresh: dict, update_server: Server, next_build: Path, mode: str, tmp_path: Path
) -> None:
    original = database("dumped")
    with original.transaction():
        install(original, mode, next_build)
    connection = database("restored")
    update_server.dump_and_restore("dumped", "restored", tmp_path / "dump", "custom")
    assert same(connection, fresh)


# The build refuses to rewrite history.


def test_the_products_are_not_changed_by_building_again(sources: Path, tmp_path: Path) -> None:
    build(SOURCE, tmp_path / "one")
    build(SOURCE, tmp_path / "two")
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"machserial.control", "machserial.sql", f"machserial--{VERSION}.sql"} <= names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("fault", ["changed", "renamed", "removed"])
def test_a_released_migration_is_frozen(sources: Path, tmp_path: Path, fault: str) -> None:
    source = tmp_path / "sql"
    shutil.copytree(sources, source)
    change(source / "machserial.control", f"'{VERSION}'", f"'{NEXT_VERSION}'")
    migration = sorted((source / "migrations").glob("*.sql"))[-1]
    if fault == "changed":
        migration.write_text(migration.read_text() + "-- an afterthought\n")
    elif fault == "renamed":
        renamed = migration.rename(migration.with_name(migration.name[:4] + "_renamed.sql"))
        change(source / "manifest", migration.name, renamed.name)
    else:
        migration.unlink()
        change(source / "manifest", f"migration   migrations/{migration.name}\n", "")
    result = build(source, tmp_path / "build")
    assert result.returncode != 0
    assert migration.stem.lstrip("0") in result.stderr


def test_a_file_outside_the_manifest_stops_the_build(sources: Path, tmp_path: Path) -> None:
    source = tmp_path / "sql"
    shutil.copytree(sources, source)
    (source / "functions" / "forgotten.sql").write_text("select 1;\n")
    result = build(source, tmp_path / "build")
    assert result.returncode != 0
    assert "forgotten.sql" in result.stderr


# migrate()


def test_migrate_runs_each_migration_once_and_records_it(connection: psycopg.Connection) -> None:
    assert connection.execute("select machserial.migrate()").fetchone() == (0,)
    assert connection.execute("select count(*) from machserial.pending_migrations()").fetchone() == (0,)
    files = sorted((SOURCE / "migrations").glob("*.sql"))
    expected = [(int(f.name[:4]), f.stem[5:], hashlib.sha256(f.read_bytes()).hexdigest()) for f in files]
    query = "select version, name, sha256 from machserial.schema_migrations order by version"
    assert connection.execute(query).fetchall() == expected


def test_migrate_runs_in_the_callers_transaction(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        install(connection, "plain")
        connection.rollback()
        assert connection.execute("select to_regnamespace('machserial')").fetchone() == (None,)


@pytest.mark.parametrize("before", ["empty", "migrated"])
def test_a_failing_migration_leaves_nothing_behind(sources: Path, tmp_path: Path, dsn: str, before: str) -> None:
    source = tmp_path / "sql"
    shutil.copytree(sources, source)
    change(source / "machserial.control", f"'{VERSION}'", f"'{NEXT_VERSION}'")
    add_migration(source, "create table machserial.half_done (id integer);\nselect 1 / 0;\n")
    assert build(source, tmp_path / "build").returncode == 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        if before == "migrated":
            with connection.transaction():
                install(connection, "plain")
        with connection.transaction():
            connection.execute((tmp_path / "build" / "machserial.sql").read_text())
        untouched = catalog(connection)
        with pytest.raises(errors.DivisionByZero):
            connection.execute("select machserial.migrate()")
        assert same(connection, untouched)
        pending = connection.execute("select array_agg(name) from machserial.pending_migrations()").fetchone()[0]
        assert pending[-1] == "of_a_test"
        assert len(pending) == (1 if before == "migrated" else len(list((SOURCE / "migrations").glob("*.sql"))) + 1)


def test_migrate_never_waits_and_names_the_holder(connection: psycopg.Connection, connect: Callable) -> None:
    connection.execute("select machserial.migrate()")
    other = connect()
    started = time.monotonic()
    with pytest.raises(errors.LockNotAvailable) as raised:
        other.execute("select machserial.migrate()")
    assert time.monotonic() - started < 5
    assert str(connection.info.backend_pid) in raised.value.diag.message_detail
    assert raised.value.diag.message_hint
    other.rollback()
    connection.commit()
    assert other.execute("select machserial.migrate()").fetchone() == (0,)


def test_migrate_refuses_a_schema_that_is_newer_than_the_code(connection: psycopg.Connection) -> None:
    connection.execute(
        "insert into machserial.schema_migrations (version, name, sha256, code_version) values (9999, 'x', 'x', '99')"
    )
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="newer"):
        connection.execute("select machserial.migrate()")


def test_migrate_refuses_another_history(connection: psycopg.Connection) -> None:
    connection.execute("update machserial.schema_migrations set sha256 = 'x' where version = 1")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="migration 1 "):
        connection.execute("select machserial.migrate()")


# Members of the extension, and what is not.


@pytest.mark.parametrize("mode", ["extension"])
def test_the_extension_cannot_be_dropped_under_its_data(connection: psycopg.Connection) -> None:
    with pytest.raises(errors.DependentObjectsStillExist):
        connection.execute("drop extension machserial")


@pytest.mark.parametrize("mode", ["extension"])
def test_no_data_is_a_member_of_the_extension(connection: psycopg.Connection) -> None:
    members = connection.execute(
        """
        select c.oid::regclass::text from pg_depend as d
        inner join pg_class as c on d.classid = 'pg_class'::regclass and c.oid = d.objid
        where d.deptype = 'e' and d.refobjid = (select oid from pg_extension where extname = 'machserial')
            and c.relkind <> 'c'
        """
    ).fetchall()
    assert members == []


def test_the_bundle_refuses_a_database_with_the_extension(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        install(connection, "extension")
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="extension"):
            connection.execute((BUILD / "machserial.sql").read_text())


# Nothing planted is adopted.


@pytest.fixture
def stranger(dsn: str) -> Iterator[psycopg.Connection]:
    """A session of somebody who may create schemas in the database and nothing more."""
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("create role stranger login")
        owner.execute(f"grant create on database {owner.info.dbname} to stranger")
    with psycopg.connect(dsn, user="stranger", autocommit=True) as connection:
        yield connection


PLANTED = {
    "function": "create function machserial.version() returns text language sql as $$ select 'mine' $$",
    "type": "create type machserial.site as (id text, name text, time_zone text, created_at timestamptz)",
    "table": "create table machserial.sites (id text)",
    "nothing but the schema": "select 1",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("planted", PLANTED)
def test_nothing_that_a_stranger_planted_is_adopted(
    dsn: str, stranger: psycopg.Connection, mode: str, planted: str
) -> None:
    stranger.execute("create schema machserial")
    stranger.execute(PLANTED[planted])
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.Error) as raised:
        install(connection, mode)
    assert raised.value.sqlstate in ("42723", "42710", "42P07", "42501")


# Rights.

FUNCTIONS_FOR_EVERYBODY = """
    select p.oid::regprocedure::text from pg_proc as p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
    where p.pronamespace = 'machserial'::regnamespace and a.grantee = 0
        -- Those that policies ask for whoever it may be; tests/test_privileges.py knows them by name.
        and p.oid not in (select l.oid from machserial._listed_privileges() as l where l.role = 'public')
"""
LOOSE_FUNCTIONS = """
    select p.oid::regprocedure::text from pg_proc as p inner join pg_language as l on l.oid = p.prolang
    where p.pronamespace = 'machserial'::regnamespace and (l.lanname = 'plpgsql' or p.prosecdef or p.prosqlbody is null)
        and not coalesce('search_path=pg_catalog, pg_temp' = any(p.proconfig), false)
"""


def make_formats(connection: psycopg.Connection) -> None:
    """Functions that exist only once there are formats."""
    connection.execute("select machserial.register_part('PART', 'TYPE')")
    connection.execute("select machserial.create_format('plain', 'A-{SEQ:6}{CHECK:luhn}')")
    connection.execute(
        "select machserial.create_format('daily', '{YYYY}{MM}{DD}-{SEQ:4}', reset => 'DAILY', allocation => 'GAPLESS')"
    )
    connection.execute("select * from machserial.generate('PART', 2, 'plain')")
    connection.execute("select * from machserial.generate('PART', 2, pattern => '{RANDOM:hex:8}')")


@pytest.mark.parametrize("query", [FUNCTIONS_FOR_EVERYBODY, LOOSE_FUNCTIONS], ids=["public", "search_path"])
def test_functions_are_closed(connection: psycopg.Connection, query: str) -> None:
    make_formats(connection)
    assert [row[0] for row in connection.execute(query).fetchall()] == []


def test_no_table_is_open_to_everybody(connection: psycopg.Connection) -> None:
    make_formats(connection)
    open_to_all = connection.execute(
        """
        select c.oid::regclass::text, a.privilege_type
        from pg_class as c, aclexplode(c.relacl) as a
        where c.relnamespace = 'machserial'::regnamespace and a.grantee = 0
        """
    ).fetchall()
    assert open_to_all == []


@pytest.mark.parametrize("mode", MODES)
def test_the_owner_of_a_database_needs_no_superuser(
    new_database: Callable[..., str], server: Server, mode: str
) -> None:
    server.execute("create role plant login")
    with psycopg.connect(new_database("plant", owner="plant"), user="plant") as connection:
        install(connection, mode)
        make_formats(connection)
        connection.commit()
        assert connection.execute("select count(*) from machserial.serials").fetchone() == (4,)
        owners = connection.execute(
            "select distinct proowner::regrole::text from pg_proc where pronamespace = 'machserial'::regnamespace"
        ).fetchall()
        assert owners == [("plant",)]


def test_only_the_owner_migrates(new_database: Callable[..., str], server: Server) -> None:
    server.execute("create role plant login")
    server.execute("create role colleague login")
    dsn = new_database("plant", owner="plant")
    with psycopg.connect(dsn, user="plant") as connection:
        install(connection, "plain")
        connection.execute("grant usage on schema machserial to colleague")
        connection.execute("grant execute on all functions in schema machserial to colleague")
    with psycopg.connect(dsn, user="colleague") as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("select machserial.migrate()")


UNDOCUMENTED = """
    select format('column %s.%s', c.oid::regclass, a.attname)
    from pg_class as c inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
        and col_description(c.oid, a.attnum) is null
    union all
    select format('relation %s', oid::regclass) from pg_class
    where relnamespace = 'machserial'::regnamespace and relkind in ('r', 'p', 'v') and not relispartition
        and obj_description(oid, 'pg_class') is null
    union all
    select format('function %s', oid::regprocedure) from pg_proc
    where pronamespace = 'machserial'::regnamespace and not starts_with(proname, '_')
        and obj_description(oid, 'pg_proc') is null
"""


def test_everything_that_users_meet_is_documented_in_the_catalog(connection: psycopg.Connection) -> None:
    assert connection.execute(UNDOCUMENTED).fetchall() == []


def test_no_column_has_a_type_that_goes_with_the_code(connection):
    """DROP EXTENSION ... CASCADE takes types, and the columns that have one."""
    columns = (
        "select c.relname, a.attname from pg_class as c "
        "inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 "
        "inner join pg_type as t on t.oid = a.atttypid where c.relnamespace = 'machserial'::regnamespace "
        "and c.relkind in ('r', 'p') and t.typnamespace = 'machserial'::regnamespace"
    )
    assert connection.execute(columns).fetchall() == []
    connection.execute("create table machserial.planted (row machserial.part)")
    assert connection.execute(columns).fetchall() == [("planted", "row")]
