"""machserial migrate and deploy: what is planned is what runs, nothing is waited for, nothing is left half done."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest
from command import COMMAND, NOT_DEPLOYED, OK, PRIVILEGE, REFUSED, Command, environment, machserial
from conftest import BUILD, install, start_server
from machserial.operations import deployment
from psycopg.conninfo import make_conninfo
from servers import die_with_parent, server_account
from snapshot import catalog, differences
from support import mostly_slow
from test_install import SOURCE, add_migration, build

SLOW = "create table machserial.slow (id integer);\nselect pg_sleep(20);\ncreate table machserial.slower ();\n"
QUICK = "create table machserial.quick (id integer);\nalter table machserial.serials add column made_quickly integer;\n"


def product(folder: Path, migration: str) -> Path:
    """The bundle of a version that has one migration more."""
    shutil.copytree(SOURCE, folder / "sql")
    add_migration(folder / "sql", migration)
    result = build(folder / "sql", folder / "build")
    assert result.returncode == 0, result.stderr
    return folder / "build" / "machserial.sql"


@pytest.fixture(scope="module")
def slow_bundle(tmp_path_factory):
    return product(tmp_path_factory.mktemp("slow"), SLOW)


@pytest.fixture(scope="module")
def quick_bundle(tmp_path_factory):
    return product(tmp_path_factory.mktemp("quick"), QUICK)


@pytest.fixture
def migrated(databases, template):
    """A database with the present version, as plain SQL."""
    with databases.lent("migrated", template("plain")) as dsn:
        yield Command(dsn)


def newer_code(command: Command, bundle: Path) -> Command:
    """The same with the code of a version whose migration is pending."""
    command.query(bundle.read_text())
    return command


def snapshot(command: Command) -> dict:
    with psycopg.connect(command.dsn) as connection:
        return catalog(connection)


def wait_for(command: Command, query: str) -> object:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if rows := command.query(query):
            return rows[0][0]
        time.sleep(0.02)
    raise AssertionError(f"never true: {query}")


ASLEEP = (
    "select pid from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep' "
    "and pid <> pg_backend_pid()"
)


class TestPlan:
    def test_nothing_is_pending(self, migrated):
        assert {row["state"] for row in migrated.answer("migrate", "status")} == {"applied"}
        assert migrated.answer("migrate", "plan")["pending"] == []
        assert migrated.answer("migrate", "up") == {"migrations": []}

    def test_what_is_planned_is_what_up_executes_to_the_byte(self, migrated, quick_bundle, monkeypatch):
        newer_code(migrated, quick_bundle)
        before = snapshot(migrated)
        planned = migrated.run("migrate", "plan", "--sql").stdout
        assert QUICK in planned
        assert snapshot(migrated) == before
        executed = []
        execute = psycopg.Connection.execute
        monkeypatch.setattr(
            psycopg.Connection, "execute",
            lambda self, query, *more, **named: (executed.append(query), execute(self, query, *more, **named))[1],
        )  # fmt: skip
        version = migrated.answer("migrate", "up")["migrations"][0]
        monkeypatch.undo()
        assert executed[-1] == planned
        assert migrated.query("select to_regclass('machserial.quick') is not null") == [(True,)]
        assert migrated.answer("migrate", "status")[-1]["version"] == version

    def test_psql_can_run_the_plan(self, migrated, quick_bundle, server, tmp_path):
        newer_code(migrated, quick_bundle)
        script = tmp_path / "plan.sql"
        script.write_text(migrated.run("migrate", "plan", "--sql").stdout)
        database = psycopg.conninfo.conninfo_to_dict(migrated.dsn)["dbname"]
        server.run("psql", "--set", "ON_ERROR_STOP=1", "--file", script, database)
        assert {row["state"] for row in migrated.answer("migrate", "status")} == {"applied"}
        with pytest.raises(RuntimeError, match="not the plan for the present state"):
            server.run("psql", "--set", "ON_ERROR_STOP=1", "--file", script, database)

    def test_migrate_by_sql_makes_the_same(self, migrated, quick_bundle, new_database):
        newer_code(migrated, quick_bundle)
        migrated.answer("migrate", "up")
        other = Command(new_database("by_sql"))
        with psycopg.connect(other.dsn) as connection:
            connection.execute(quick_bundle.read_text())
            connection.execute("select machserial.migrate()")
        assert differences(snapshot(migrated), snapshot(other)) == []

    def test_history(self, migrated, quick_bundle):
        newer_code(migrated, quick_bundle)
        migrated.answer("migrate", "up")
        history = migrated.answer("migrate", "history")
        assert [row["version"] for row in history] == list(range(1, len(history) + 1))
        assert history[-1]["name"] == "of_a_test"
        assert history[-1]["applied_by"] == "postgres"

    @pytest.mark.parametrize("action", ["plan", "up"])
    def test_a_newer_schema_is_refused(self, migrated, action):
        migrated.query(
            "insert into machserial.schema_migrations (version, name, sha256, code_version) values (99, 'x', 'x', '9')"
        )
        assert "newer" in migrated.refusal(NOT_DEPLOYED, "migrate", action)
        assert "unknown to the code" in {row["state"] for row in migrated.answer("migrate", "status")}

    @pytest.mark.parametrize("action", ["status", "plan", "up", "verify", "history"])
    def test_without_machserial(self, dsn, action):
        assert "not deployed" in Command(dsn).refusal(NOT_DEPLOYED, "migrate", action)


class TestLocks:
    def test_it_gives_up_and_says_who_is_in_the_way(self, migrated, quick_bundle, monkeypatch):
        newer_code(migrated, quick_bundle)
        before = snapshot(migrated)
        monkeypatch.setattr("machserial.operations.locking.patiently.__defaults__", (2,))
        with psycopg.connect(migrated.dsn, application_name="a long report") as other:
            other.execute("select from machserial.serials limit 1")
            line = migrated.refusal(REFUSED, "migrate", "up")
            # Nobody is left waiting behind it.
            with psycopg.connect(migrated.dsn) as third:
                third.execute("set statement_timeout = '300ms'")
                third.execute("select from machserial.serials limit 1")
        assert "2 attempts" in line
        assert "a long report" in line
        assert snapshot(migrated) == before

    def test_it_goes_on_when_the_lock_is_free(self, migrated, quick_bundle):
        newer_code(migrated, quick_bundle)
        other = psycopg.connect(migrated.dsn)
        other.execute("select from machserial.serials limit 1")
        timer = threading.Timer(1.0, other.close)
        timer.start()
        assert len(migrated.answer("migrate", "up")["migrations"]) == 1
        timer.join()

    def test_every_try_has_the_limit(self, migrated, quick_bundle):
        newer_code(migrated, quick_bundle)
        script = migrated.run("migrate", "plan", "--sql").stdout
        assert script.index("set local lock_timeout = '500ms'") < script.index("_begin_migration")

    def test_deploy_waits_no_longer(self, dsn, monkeypatch):
        command = Command(dsn)
        command.answer("deploy", "--plain")
        monkeypatch.setattr("machserial.operations.locking.patiently.__defaults__", (1,))
        with psycopg.connect(dsn) as other:
            other.execute("lock table machserial.system_generated_serials in access exclusive mode")
            assert "1 attempts" in command.refusal(REFUSED, "deploy")
        assert command.answer("deploy")["migrations"] == 0


def run_in_the_background(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, *arguments], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


class TestKilled:
    def test_the_client(self, migrated, slow_bundle):
        newer_code(migrated, slow_bundle)
        before = snapshot(migrated)
        process = run_in_the_background("--dsn", migrated.dsn, "migrate", "up")
        backend = wait_for(migrated, ASLEEP)
        process.kill()
        process.wait()
        # The server learns of it when it answers; an administrator who does not wait ends the session.
        migrated.query("select pg_terminate_backend(%s, 10000)", backend)
        assert snapshot(migrated) == before
        assert migrated.answer("migrate", "plan")["pending"][0]["name"] == "of_a_test"

    def test_the_server_process(self, request, slow_bundle):
        """kill -9 of a backend makes the server recover from its log."""
        server = start_server(request.config)
        try:
            server.execute("create database machserial")
            command = Command(server.dsn("machserial"))
            with psycopg.connect(command.dsn) as connection:
                install(connection, "plain")
            newer_code(command, slow_bundle)
            before = snapshot(command)
            process = run_in_the_background("--dsn", command.dsn, "migrate", "up")
            os.kill(wait_for(command, ASLEEP), signal.SIGKILL)
            assert process.wait(60) != OK
            server._await_readiness()
            assert snapshot(command) == before
        finally:
            server.stop()

    def test_deploy_in_the_middle(self, dsn, slow_bundle):
        script = (
            "import sys, pathlib; from machserial import cli; from machserial.operations import deployment; "
            "deployment.bundle = pathlib.Path(sys.argv.pop(1)).read_text; cli.main()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(slow_bundle), "--dsn", dsn, "deploy", "--plain"],
            env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        command = Command(dsn)
        backend = wait_for(command, ASLEEP)
        process.kill()
        process.wait()
        command.query("select pg_terminate_backend(%s, 10000)", backend)
        assert command.query("select to_regnamespace('machserial')") == [(None,)]

    @pytest.mark.parametrize("delay", mostly_slow([0.3, 0.5, 0.7, 0.9, 1.2, 1.6], [0.5, 1.2]))
    def test_deploy_at_any_moment(self, dsn, delay):
        process = run_in_the_background("--dsn", dsn, "deploy", "--plain")
        time.sleep(delay)
        process.kill()
        process.wait()
        command = Command(dsn)
        wait_for(
            command,
            "select 1 where not exists (select from pg_stat_activity where datname = current_database() "
            "and pid <> pg_backend_pid() and application_name = 'machserial')",
        )
        if command.query("select to_regnamespace('machserial') is not null") == [(True,)]:
            assert command.answer("deploy")["migrations"] == 0
        else:
            assert command.answer("deploy")["migrations"] > 0
        assert command.answer("migrate", "verify") == []


# What is done to the catalog; the finding's kind, object and problem.
FAULTS = [
    ("drop table machserial.block_usages cascade", ("table", "machserial.block_usages", "missing")),
    ("drop table machserial.pauses cascade", ("table", "machserial.pauses", "missing")),
    ("alter table machserial.settings drop column description", ("column", "settings.description", "missing")),
    ("alter table machserial.settings add column colour text", ("column", "settings.colour", "extra")),
    ("alter table machserial.serials alter column status drop default", ("column", "serials.status", "changed")),
    ("alter table machserial.serials alter column part_id drop not null", ("column", "serials.part_id", "changed")),
    (
        "alter table machserial.parts drop constraint parts_part_type_is_given",
        ("constraint", "parts_part_type_is_given", "missing"),
    ),
    ("alter table machserial.serials add check (id <> 7)", ("constraint", "serials_id_check", "extra")),
    ("drop index machserial.serials_site_key", ("index", "serials_site_key", "missing")),
    (
        "update pg_index set indisvalid = false where indexrelid = 'machserial.serials_site_key'::regclass",
        ("index", "serials_site_key", "changed"),
    ),
    ("drop trigger serials_are_kept on machserial.serials", ("trigger", "serials_are_kept", "missing")),
    ("alter table machserial.serials disable trigger serials_are_kept", ("trigger", "serials_are_kept", "changed")),
    (
        "alter table machserial.serials enable trigger new_serials_are_refused_while_paused",
        ("trigger", "new_serials_are_refused_while_paused", "changed"),
    ),
    ("drop view machserial.blocks", ("view", "machserial.blocks", "missing")),
    (
        "alter function machserial.generate(text,integer,text,text,text,jsonb,text) security invoker",
        ("function", "machserial.generate(text", "changed"),
    ),
    (
        "alter function machserial.generate(text,integer,text,text,text,jsonb,text) reset search_path",
        ("function", "machserial.generate(text", "changed"),
    ),
    (
        "grant execute on function machserial.set_node(integer) to public",
        ("function", "machserial.set_node", "changed"),
    ),
    ("grant select on machserial.serials to public", ("table", "machserial.serials", "changed")),
    ("create function machserial.more() returns integer language sql return 1", ("function", "more()", "extra")),
    ("grant create on schema machserial to public", ("schema", "machserial", "changed")),
    ("alter table machserial.serials disable row level security", ("table", "machserial.serials", "changed")),
    (
        "update machserial.schema_migrations set sha256 = 'x' where version = 3",
        ("migration", "0003 counters", "changed"),
    ),
    ("delete from machserial.schema_migrations where version = 15", ("migration", "0015 pauses", "missing")),
]
# Mended by the printed statements alone; the others have lost data, or are history.
NOT_MENDED_BY_SQL = ("drop table", "drop column", "schema_migrations", "disable row level security")


@pytest.mark.both_modes
class TestVerify:
    def test_a_deployed_database_has_no_drift(self, deployed_dsn):
        command = Command(deployed_dsn)
        with psycopg.connect(deployed_dsn) as connection:
            before = catalog(connection)
        assert command.answer("migrate", "verify") == []
        with psycopg.connect(deployed_dsn) as connection:
            assert differences(before, catalog(connection)) == []

    def test_what_running_makes_is_no_drift(self, deployed_dsn):
        command = Command(deployed_dsn)
        command.query("select machserial.register_part('P', 'T')")
        command.query("select machserial.create_format('D', '{YYYY}{DDD}{SEQ:3}', reset => 'DAILY')")
        command.query("select machserial.generate('P', 3, 'D')")
        command.query("select machserial.maintain()")
        command.query("select machserial.set_node(3)")
        command.query("create table orders (part_id text, quantity integer)")
        command.query("select machserial.attach('orders', 'WORK_ORDER_CREATE', 'part_id', 'quantity')")
        command.query("create role machserial_test_reader")
        command.query("grant execute on all functions in schema machserial to machserial_test_reader")
        command.query("grant select on all tables in schema machserial to machserial_test_reader")
        assert command.answer("migrate", "verify") == []

    def test_a_paused_database_has_no_drift(self, deployed_dsn):
        command = Command(deployed_dsn)
        command.query("select machserial.pause('maintenance')")
        assert command.answer("migrate", "verify") == []
        command.query("alter table machserial.serials disable trigger new_serials_are_refused_while_paused")
        result = command.run("--json", "migrate", "verify")
        assert (result.exit_code, "should be True" in result.stdout) == (REFUSED, True)

    def test_another_extension_in_the_schema_is_no_drift(self, deployed_dsn, server):
        """As machserial_plpython is one."""
        (server.extensions / "machserial_beside.control").write_text(
            "default_version = '1'\nschema = 'machserial'\nsuperuser = false\n"
        )
        (server.extensions / "machserial_beside--1.sql").write_text(
            "create function machserial.beside() returns integer language sql return 1;\n"
            "create table machserial.beside_it (id integer primary key check (id > 0));\n"
        )
        command = Command(deployed_dsn)
        command.query("create extension machserial_beside")
        assert command.answer("migrate", "verify") == []

    def test_an_ordinary_owner(self, new_database, server):
        server.execute("create role plant login")
        dsn = make_conninfo(new_database("plant", owner="plant"), user="plant")
        with psycopg.connect(dsn) as connection:
            install(connection, "extension")
        assert Command(dsn).answer("migrate", "verify") == []
        # A superuser looks with the owner's eyes.
        assert Command(server.dsn("plant")).answer("migrate", "verify") == []
        server.execute("create role stranger login")
        assert "stranger" not in Command(make_conninfo(dsn, user="stranger")).refusal(PRIVILEGE, "migrate", "verify")

    def test_an_index_of_the_owner_is_a_note(self, deployed_dsn):
        command = Command(deployed_dsn)
        command.query("create index by_the_owner on machserial.serials (created_by)")
        [note] = command.answer("migrate", "verify")
        assert (note["severity"], note["problem"]) == ("NOTE", "extra")

    @pytest.mark.parametrize(
        ("fault", "expected"), mostly_slow(FAULTS, FAULTS[::5]), ids=[fault[:60] for fault, _ in FAULTS]
    )
    def test_drift_is_named_and_mended(self, migrated, fault, expected):
        migrated.query(fault)
        result = migrated.run("--json", "migrate", "verify")
        assert result.exit_code == REFUSED, result.stderr
        kind, name, problem = expected
        assert [
            one
            for one in json.loads(result.stdout)
            if one["kind"] == kind and name in one["object"] and one["problem"] == problem and one["remedy"]
        ], result.stdout
        if any(word in fault for word in NOT_MENDED_BY_SQL):
            return
        with psycopg.connect(migrated.dsn, autocommit=True) as connection:
            connection.execute(migrated.run("migrate", "verify", "--sql").stdout)
        assert migrated.answer("migrate", "verify") == []

    def test_people_see_a_table(self, migrated):
        migrated.query("alter function machserial.generate(text,integer,text,text,text,jsonb,text) security invoker")
        result = migrated.run("migrate", "verify")
        assert result.exit_code == REFUSED
        assert "machserial migrate verify --sql" in result.stdout

    def test_the_bundle_is_cut_behind_its_guard(self):
        cut = deployment.bundle_for_an_empty_schema()
        assert cut.startswith("create schema if not exists machserial;")
        assert not re.search(r"pg_extension where extname = 'machserial'", cut)
        assert len(cut) > len((BUILD / "machserial.sql").read_text()) - 2000

    def test_code_of_another_version(self, migrated):
        migrated.query("create or replace function machserial.version() returns text language sql return '99.0.0'")
        assert "99.0.0" in migrated.refusal(NOT_DEPLOYED, "migrate", "verify")


@pytest.fixture
def bouncer(server, migrated, tmp_path_factory):
    """The command at the same database through PgBouncer, which gives each transaction another session."""
    if not (program := shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")):
        pytest.skip("needs PgBouncer: install the package pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="machserial-", dir=server.folder))
    account = server_account()
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\nlisten_addr =\n"
        f"unix_socket_dir = {folder}\nlisten_port = 6432\nauth_type = trust\nauth_file = {folder}/users\n"
        "pool_mode = transaction\ndefault_pool_size = 3\n"
    )
    for path in (folder, *folder.iterdir()):
        if account:
            os.chown(path, account.pw_uid, account.pw_gid)
    who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    process = subprocess.Popen(
        [program, "-q", folder / "ini"], stderr=subprocess.DEVNULL, preexec_fn=die_with_parent, **who
    )
    dsn = make_conninfo(migrated.dsn, host=str(folder), port=6432)
    deadline = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(dsn).close()
            break
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    yield Command(dsn)
    process.terminate()
    process.wait()


def test_through_pgbouncer(migrated, bouncer, quick_bundle):
    newer_code(migrated, quick_bundle)
    assert bouncer.run("migrate", "plan", "--sql").stdout == migrated.run("migrate", "plan", "--sql").stdout
    assert len(bouncer.answer("migrate", "up")["migrations"]) == 1
    # The session that the next transaction gets has kept nothing of it.
    assert bouncer.query("show lock_timeout") == [("0",)]
    assert bouncer.answer("pause", "--reason", "x")["paused"]
    assert bouncer.answer("resume") == {"paused": False}
    assert bouncer.query("show lock_timeout") == [("0",)]
    bouncer.query("drop table machserial.quick; alter table machserial.serials drop column made_quickly")
    assert bouncer.run("migrate", "verify").exit_code == REFUSED  # the migration of the test is not this package's


def test_the_groups_commands_are_listed():
    assert "verify" in machserial("migrate", "--help").stdout
