"""Backup and restore on real servers: readable, of one moment, writable, paused, and never half done."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from command import COMMAND, CONNECTION, NOT_DEPLOYED, OK, REFUSED, Command, environment, machserial
from conftest import BUILD, MODES, ROOT, install, start_server
from psycopg.conninfo import make_conninfo
from servers import server_account
from snapshot import catalog, differences
from support import call, generated, make_format, make_part, mostly_slow, refused, register
from test_install import FUNCTIONS_FOR_EVERYBODY

PASSWORD = "Tr0ub4dor&3"


def fill(connection) -> None:
    make_part(connection)
    make_format(connection, "F", "F{SEQ:6}")
    make_format(connection, "GAPLESS", "G{SEQ:6}", allocation="GAPLESS")
    make_format(connection, "DAILY", "{YYYY}{DDD}{SEQ:6}", reset="DAILY")
    call(connection, "assign_format", part_id="P", format="F")
    for name in ("F", "GAPLESS", "DAILY"):
        generated(connection, quantity=5, format=name)
    register(connection, ["BY-HAND"])
    connection.execute("create table public.orders (id integer primary key)")
    connection.execute("insert into public.orders values (1)")
    connection.commit()
    call(connection, "seal_audit")
    connection.commit()


@pytest.fixture
def plant(connection, deployed_dsn):
    """The command at a populated database."""
    fill(connection)
    return Command(deployed_dsn)


@pytest.fixture(scope="module")
def second_server(request):
    """Where the backup goes when the first server has burned down."""
    running = start_server(request.config)
    running.install_extension(BUILD)
    yield running
    running.stop()


@pytest.fixture
def target(second_server):
    """target(name): the command at a database of the second server that is not there yet."""
    names = []

    def at(name: str, **options: str) -> Command:
        names.append(name)
        return Command(second_server.dsn(name, **options))

    yield at
    for name in names:
        second_server.execute(f'drop database if exists "{name}" with (force)')


@pytest.fixture
def backup(plant, tmp_path):
    file = tmp_path / "plant.dump"
    plant.answer("backup", str(file))
    return file


class TestBackup:
    def test_what_is_written(self, plant, tmp_path):
        file = tmp_path / "plant.dump"
        made = plant.answer("backup", str(file))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["plant.dump", "plant.dump.json"]
        assert json.loads((tmp_path / "plant.dump.json").read_text()) == made
        assert made["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert made["size"] == file.stat().st_size
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert {(row["format"], row["last_value"]) for row in made["counters"] if row["last_value"]} == {
            ("F", 5), ("GAPLESS", 5), ("DAILY", 5)
        }  # fmt: skip
        assert made["audit_anchor"] == plant.query("select machserial.audit_anchor()")[0][0]
        assert made["schema"] == plant.query("select max(version) from machserial.schema_migrations")[0][0]
        assert made["code"] == made["command"]

    def test_for_people(self, plant, tmp_path):
        result = plant.run("backup", str(tmp_path / "x"))
        assert result.exit_code == OK, result.stderr
        assert "read back whole" in result.stdout

    def test_an_older_backup_is_replaced_only_when_that_is_wanted(self, plant, backup):
        old = backup.read_bytes()
        result = plant.run("backup", str(backup), stdin=b"n\n")
        assert result.exit_code == REFUSED
        assert backup.read_bytes() == old
        plant.query("select machserial.register_part('ANOTHER', 'T')")
        plant.answer("backup", str(backup), "--yes")
        assert backup.read_bytes() != old

    def test_no_password_on_the_command_line(self, plant, tmp_path):
        """The programs that are run write down how they were called."""
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in ("pg_dump", "pg_restore"):
            real = shutil.which(name) or next(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
            (folder / name).write_text(
                f'#!/bin/sh\nps -o args= -p $$ >> {folder}/calls\necho "$*" >> {folder}/calls\n'
                f'echo "$PGPASSWORD" >> {folder}/passwords\nexec {real} "$@"\n'
            )
            (folder / name).chmod(0o755)
        dsn = make_conninfo(plant.dsn, password=PASSWORD)
        result = machserial("--verbose", "--dsn", dsn, "backup", str(tmp_path / "x"), "--bin", str(folder))
        assert result.exit_code == OK, result.stderr
        assert PASSWORD in (folder / "passwords").read_text()
        assert "Tr0ub4dor" not in (folder / "calls").read_text() + result.output
        assert "Tr0ub4dor" not in (tmp_path / "x.json").read_text()

    def test_a_link_that_is_planted_while_it_works_leads_nowhere(self, plant, tmp_path):
        """Who can write to the folder puts a link in the place of FILE.partial as pg_dump begins."""
        folder, file, victim = tmp_path / "bin", tmp_path / "x", tmp_path / "victim"
        folder.mkdir()
        victim.write_text("precious")
        for name in ("pg_dump", "pg_restore"):
            real = shutil.which(name) or next(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
            plants = f"test {name} = pg_restore -o \"$1\" = --version || ln -sf {victim} {file}.partial\n"
            (folder / name).write_text(f'#!/bin/sh\n{plants}exec {real} "$@"\n')
            (folder / name).chmod(0o755)
        plant.refusal(REFUSED, "backup", str(file), "--bin", str(folder))
        assert victim.read_text() == "precious" and not file.exists()

    def test_a_program_that_is_too_old(self, plant, tmp_path):
        (tmp_path / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
        (tmp_path / "pg_dump").chmod(0o755)
        line = plant.refusal(REFUSED, "backup", str(tmp_path / "x"), "--bin", str(tmp_path))
        assert "of version 9" in line
        assert "--bin" in line

    def test_no_program(self, plant, tmp_path):
        assert "--bin" in plant.refusal(REFUSED, "backup", str(tmp_path / "x"), "--bin", str(tmp_path))

    def test_what_fails_leaves_nothing(self, plant, backup, tmp_path):
        old = backup.read_bytes()
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "pg_dump"
        program.write_text(
            "#!/bin/sh\ncase $1 in --version) echo 'pg_dump (PostgreSQL) 99.1';; "
            "*) echo 'pg_dump: error: disk full' >&2; exit 1;; esac\n"
        )
        program.chmod(0o755)
        (tmp_path / "bin" / "pg_restore").write_text(program.read_text())
        (tmp_path / "bin" / "pg_restore").chmod(0o755)
        line = plant.refusal(REFUSED, "backup", str(backup), "--yes", "--bin", str(tmp_path / "bin"))
        assert "disk full" in line
        assert backup.read_bytes() == old
        assert not list(tmp_path.glob("*.partial"))

    @pytest.mark.slow
    def test_a_killed_backup_leaves_the_older_one(self, plant, backup, tmp_path):
        old = backup.read_bytes()
        (tmp_path / "bin").mkdir()
        for name in ("pg_dump", "pg_restore"):
            program = tmp_path / "bin" / name
            program.write_text(
                "#!/bin/sh\ncase $1 in --version) echo 'pg_dump (PostgreSQL) 99.1';; "
                f"*) touch {tmp_path}/started; exec sleep 30;; esac\n"
            )
            program.chmod(0o755)
        process = subprocess.Popen(
            [*COMMAND, "--dsn", plant.dsn, "backup", str(backup), "--yes", "--bin", str(tmp_path / "bin")],
            env=environment(), start_new_session=True,
        )  # fmt: skip
        while not (tmp_path / "started").exists() and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, 9)
        process.wait()
        assert backup.read_bytes() == old
        assert plant.answer("backup", str(backup), "--yes")["size"] > 0
        assert not list(tmp_path.glob("*.partial"))

    def test_a_database_without_machserial(self, dsn, tmp_path):
        Command(dsn).refusal(NOT_DEPLOYED, "backup", str(tmp_path / "x"))
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_not_there(self, plant, tmp_path):
        assert "folder" in plant.refusal(REFUSED, "backup", str(tmp_path / "none" / "x"))


class TestRestore:
    def test_into_another_server(self, plant, backup, target, connection):
        restored = target("restored")
        done = restored.answer("restore", str(backup), "--create")
        assert (done["database"], done["serials"], done["paused"]) == ("restored", 16, True)
        assert done["write_test"] == "passed"
        assert {row["format"] for row in done["unfenced"]} == {"F", "GAPLESS", "DAILY"}
        # Everything is there, the write test has left nothing, and only the pause is new.
        same = "select id, serial_number, part_id, status from machserial.serials order by id"
        assert restored.query(same) == plant.query(same)
        assert restored.query("select id from public.orders") == [(1,)]
        assert restored.query(
            "select event_type, reason from machserial.audit_events where id > "
            f"{plant.query('select max(id) from machserial.audit_events')[0][0]}"
        ) == [("PAUSED", "restored from plant.dump")]
        assert restored.query("select * from machserial.verify_audit(full => true)") == []
        assert restored.answer("migrate", "verify") == []
        with psycopg.connect(restored.dsn) as other:
            different = differences(catalog(connection), catalog(other))
        assert different
        assert all("_are_refused_while_paused" in line for line in different), different

    def test_it_is_paused_until_it_is_fenced(self, backup, target):
        restored = target("restored")
        restored.answer("restore", str(backup), "--create")
        with psycopg.connect(restored.dsn) as connection:
            with refused(connection, "55000") as why:
                generated(connection)
            assert "restored from plant.dump" in why.detail
            assert "fence" in why.hint
        assert "machserial fence" in restored.refusal(REFUSED, "resume")
        restored.answer("fence", "--format", "F", "--highest", "F000100", "--all-known", "--yes")
        with psycopg.connect(restored.dsn) as connection:
            assert generated(connection) == ["F000101"]
            assert generated(connection, format="GAPLESS") == ["G000006"]

    @pytest.mark.both_modes
    def test_an_ordinary_owner(self, server, new_database, second_server, target, tmp_path, mode):
        programs = ("--bin", str(server.tool("pg_dump").parent))
        for place in (server, second_server):
            place.execute("drop role if exists plant")
            place.execute("create role plant login createdb")
        dsn = make_conninfo(new_database("plant", owner="plant"), user="plant")
        with psycopg.connect(dsn) as connection:
            install(connection, mode)
            fill(connection)
        file = str(tmp_path / "plant.dump")
        Command(dsn).answer("backup", file, *programs)
        own = target("own", user="plant")
        assert own.answer("restore", file, "--create", *programs)["serials"] == 16
        own.answer("fence", "--all-known", "--yes")
        with psycopg.connect(own.dsn) as connection:
            assert generated(connection) == ["F000006"]
        # A superuser restores in the owner's name.
        given = target("given")
        assert given.answer("restore", file, "--create", "--role", "plant", *programs)["serials"] == 16
        owners = "select distinct relowner::regrole::text from pg_class where relnamespace = 'machserial'::regnamespace"
        assert given.query(owners) == [("plant",)]
        assert target("given", user="plant").answer("fence", "--all-known", "--yes")
        for name in ("own", "given"):
            second_server.execute(f"drop database {name} with (force)")
        second_server.execute("drop role plant")

    def test_a_paused_database(self, plant, tmp_path, target):
        plant.answer("pause", "--reason", "an audit")
        file = str(tmp_path / "paused.dump")
        assert plant.answer("backup", file)["paused"]
        restored = target("restored")
        restored.answer("restore", file, "--create")
        assert restored.answer("pause", "--status")["reason"] == "restored from paused.dump"
        restored.answer("fence", "--all-known", "--yes")
        assert restored.answer("pause", "--status") == {"paused": False}

    @pytest.mark.parametrize(
        "content",
        mostly_slow(
            ["create table x (id integer)", "create schema x",
             "create function f() returns integer language sql return 1"],
            ["create schema x"],
        ),
    )
    def test_a_database_that_is_not_empty(self, backup, target, second_server, content):
        second_server.execute("create database occupied")
        occupied = target("occupied")
        occupied.query(content)
        line = occupied.refusal(REFUSED, "restore", str(backup))
        assert "not empty" in line
        assert "--create" in line
        assert occupied.query("select to_regnamespace('machserial')") == [(None,)]

    def test_a_database_that_exists_is_not_created(self, backup, target, second_server):
        second_server.execute("create database there")
        there = target("there")
        assert "already" in there.refusal(REFUSED, "restore", str(backup), "--create")
        assert there.answer("restore", str(backup))["serials"] == 16

    def test_a_damaged_file(self, backup, target, second_server):
        backup.write_bytes(backup.read_bytes()[:-2000])
        assert "sha256" in target("restored").refusal(REFUSED, "restore", str(backup), "--create")
        backup.with_name("plant.dump.json").unlink()
        # Without the manifest it is pg_restore that finds out, before anything is written.
        target("restored").refusal(REFUSED, "restore", str(backup), "--create")
        assert second_server.execute("select from pg_database where datname = 'restored'") == []

    def test_what_fails_in_the_middle_leaves_an_empty_database(self, backup, target, second_server):
        """The dump makes a trigger of this name late, when the rows are there: an event trigger forbids it."""
        second_server.execute("create database half")
        half = target("half")
        second_server.execute(
            "create schema guard; create function guard.no() returns event_trigger language plpgsql as "
            "$$ begin raise exception 'no triggers today'; end $$; "
            "create event trigger no on ddl_command_end when tag in ('CREATE TRIGGER') execute function guard.no()",
            dbname="half",
        )
        # The guard itself makes the database not empty; for this test it hides in a schema of the system's.
        second_server.execute("set allow_system_table_mods = on; alter schema guard rename to pg_guard", dbname="half")
        line = half.refusal(REFUSED, "restore", str(backup))
        assert "no triggers today" in line
        assert half.query("select to_regnamespace('machserial')") == [(None,)]

    def test_a_file_that_is_no_backup(self, tmp_path, target):
        (tmp_path / "x").write_text("select 1;")
        assert "pg_restore" in target("restored").refusal(REFUSED, "restore", str(tmp_path / "x"), "--create")

    def test_a_file_that_is_not_there(self, tmp_path, target):
        assert "no file" in target("restored").refusal(REFUSED, "restore", str(tmp_path / "none"), "--create")

    def test_a_backup_of_something_else(self, dsn, server, tmp_path, target):
        database = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        server.run("pg_dump", "--format=custom", "--file", tmp_path / "x", database)
        assert "no serials" in target("restored").refusal(REFUSED, "restore", str(tmp_path / "x"), "--create")

    def test_a_database_that_is_not_there(self, backup, target):
        assert "createdb" in target("restored").refusal(CONNECTION, "restore", str(backup))

    @pytest.mark.slow
    def test_a_killed_restore_leaves_an_empty_database(self, backup, target, second_server, tmp_path):
        """pg_restore stops in the middle; the command and all its children are killed."""
        real = shutil.which("pg_restore") or next(Path("/usr/lib/postgresql").glob("*/bin/pg_restore"))
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "pg_restore").write_text(
            f'#!/bin/sh\ncase "$*" in *--file=-*) {real} "$@" | head -c 400000; touch {folder}/started; sleep 30;; '
            f'*) exec {real} "$@";; esac\n'
        )
        (folder / "pg_restore").chmod(0o755)
        (folder / "psql").symlink_to(shutil.which("psql") or next(Path("/usr/lib/postgresql").glob("*/bin/psql")))
        second_server.execute("create database killed")
        killed = target("killed")
        process = subprocess.Popen(
            [*COMMAND, "--dsn", killed.dsn, "restore", str(backup), "--bin", str(folder)],
            env=environment(), start_new_session=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not (folder / "started").exists() and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, 9)
        process.wait()
        second_server.execute("select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = 'killed'")
        assert killed.query("select to_regnamespace('machserial')") == [(None,)]
        assert killed.answer("restore", str(backup))["serials"] == 16


ROLES_OF_A_PLANT = """
    create role machserial_test_line login; create role "Night Shift" nologin;
    select machserial.create_roles();
    grant machserial_operator to machserial_test_line; grant machserial_test_line to "Night Shift";
    select machserial.grant_site('machserial_test_line', 'DEFAULT');
    create table public.lines (id integer); grant select on public.lines to "Night Shift" with grant option;
    create policy own on public.lines to machserial_test_line using (true);
"""
DROP_ROLES = """
    drop role if exists machserial_test_line, "Night Shift", machserial_viewer, machserial_operator,
        machserial_supervisor, machserial_admin
"""


@pytest.fixture
def plant_with_roles(plant, connection, second_server):
    second_server.execute(DROP_ROLES)
    connection.execute(ROLES_OF_A_PLANT)
    connection.commit()
    yield plant
    second_server.execute("drop database if exists restored with (force)")
    second_server.execute(DROP_ROLES)


class TestPrerequisites:
    def test_all_that_is_missing_is_listed_before_anything_is_done(
        self, plant_with_roles, connection, second_server, target, tmp_path
    ):
        file = str(tmp_path / "plant.dump")
        made = plant_with_roles.answer("backup", file)
        assert {"name": "Night Shift", "statement": 'create role "Night Shift" nologin;',
                "groups": ["machserial_test_line"]} in made["roles"]  # fmt: skip
        restored = target("restored")
        found = json.loads(restored.run("--json", "restore", file, "--create").stderr)["error"]
        for name in ("machserial_test_line", "Night Shift", "machserial_viewer", "machserial_admin"):
            assert f"role {name}" in found["detail"]
        assert second_server.execute("select count(*) from pg_database where datname = 'restored'") == [(0,)]
        # The same for a database that is there; it stays empty.
        second_server.execute("create database restored")
        assert "Night Shift" in restored.refusal(REFUSED, "restore", file)
        assert restored.query("select to_regnamespace('machserial')") == [(None,)]
        # What it says to do is enough.
        statements, _, alternative = found["remedy"].partition(" Or ")
        assert "--no-acl" in alternative
        for statement in statements.split("; "):
            second_server.execute(statement)
        restored.answer("restore", file)
        assert restored.query("select role::text, site_ids from machserial.limited_roles()") == [
            ("machserial_test_line", ["DEFAULT"])
        ]
        assert restored.query("""select pg_has_role('"Night Shift"'::regrole, 'machserial_operator', 'member')""") == [
            (True,)
        ]
        with psycopg.connect(restored.dsn) as other:
            different = differences(catalog(connection), catalog(other))
        assert all("_are_refused_while_paused" in line for line in different), different

    @pytest.mark.parametrize("mode", mostly_slow(MODES, ["extension"]))
    def test_without_grants(self, plant_with_roles, connection, second_server, target, tmp_path, mode):
        """Nobody but the owner may do anything, whichever way functions got there; and nobody is limited."""
        file = str(tmp_path / "plant.dump")
        plant_with_roles.answer("backup", file)
        restored = target("restored")
        # A policy names a role as well.
        line = restored.refusal(REFUSED, "restore", file, "--create", "--no-acl")
        assert "machserial_test_line" in line and "Night" not in line and "viewer" not in line
        connection.execute("drop policy own on public.lines")
        connection.commit()
        plant_with_roles.answer("backup", file, "--yes")
        assert restored.answer("restore", file, "--create", "--no-acl")["write_test"] == "passed"
        assert restored.query(FUNCTIONS_FOR_EVERYBODY) == []
        assert restored.query("select count(*) from machserial.site_grants") == [(0,)]
        granted = "select count(*) from pg_class as c, aclexplode(c.relacl) as a where a.grantee <> c.relowner"
        assert restored.query(f"{granted} and relnamespace <> 'pg_catalog'::regnamespace "
                              "and relnamespace <> 'information_schema'::regnamespace") == [(0,)]  # fmt: skip
        assert restored.answer("migrate", "verify") == []
        assert restored.query("select count(*) from machserial.create_roles()") == [(4,)]

    def test_extensions_and_tablespaces(self, plant, connection, server, target, tmp_path):
        (server.extensions / "machserial_beside.control").write_text("default_version = '1'\nsuperuser = false\n")
        (server.extensions / "machserial_beside--1.sql").write_text("create function beside() returns int return 1;")
        folder = server.folder / "space"
        folder.mkdir()
        if account := server_account():
            os.chown(folder, account.pw_uid, account.pw_gid)
        connection.commit()
        connection.autocommit = True
        connection.execute("create extension machserial_beside")
        connection.execute(f"create tablespace \"Fast disk\" location '{folder}'")
        try:
            connection.execute('create table public.fast (id integer) tablespace "Fast disk"')
            plant.answer("backup", str(tmp_path / "plant.dump"))
            line = target("restored").refusal(REFUSED, "restore", str(tmp_path / "plant.dump"), "--create")
            assert "extension machserial_beside" in line
            assert "create tablespace \"Fast disk\" location '...';" in line
            assert "--no-acl" not in line
        finally:
            connection.execute("drop table public.fast")
            connection.execute('drop tablespace "Fast disk"')

    def test_an_extension_that_only_a_superuser_creates(self, server, new_database, second_server, target, tmp_path):
        """Here it is made beforehand."""
        for place in (server, second_server):
            place.execute("drop role if exists plant")
            place.execute("create role plant login createdb")
        dsn = make_conninfo(new_database("plant", owner="plant"), user="plant")
        server.execute("create extension pageinspect", dbname="plant")
        with psycopg.connect(dsn) as connection:
            install(connection, "plain")
            fill(connection)
        file = str(tmp_path / "plant.dump")
        Command(dsn).answer("backup", file)
        own = target("own", user="plant")
        assert "create extension pageinspect" in own.refusal(REFUSED, "restore", file, "--create")
        second_server.execute("create database own owner plant")
        second_server.execute("create extension pageinspect", dbname="own")
        assert own.answer("restore", file)["serials"] == 16
        second_server.execute("drop database own with (force)")
        second_server.execute("drop role plant")

    def test_the_version_of_the_extension_is_that_of_the_backup(self, plant, second_server, target, tmp_path):
        """A server that offers newer code makes the older one, to which the tables belong; deploy updates it."""
        file = str(tmp_path / "plant.dump")
        code = plant.answer("backup", file)["code"]
        control = second_server.extensions / "machserial.control"
        before = control.read_text()
        script = second_server.extensions / f"machserial--{code}.sql"
        try:
            script.rename(script.with_name("machserial--99.0.0.sql"))
            control.write_text(before.replace(f"'{code}'", "'99.0.0'"))
            line = target("restored").refusal(REFUSED, "restore", file, "--create")
            assert f"extension machserial in version {code}" in line
            shutil.copy(script.with_name("machserial--99.0.0.sql"), script)
            restored = target("restored")
            restored.answer("restore", file, "--create")
            assert restored.query("select extversion from pg_extension where extname = 'machserial'") == [(code,)]
        finally:
            second_server.install_extension(BUILD)

    def test_settings_of_the_database_are_told(self, plant, target, tmp_path):
        name = psycopg.conninfo.conninfo_to_dict(plant.dsn)["dbname"]
        plant.query(f'alter database "{name}" set machserial.actor = \'secret\'')
        file = tmp_path / "plant.dump"
        assert plant.answer("backup", str(file))["settings"] == ["machserial.actor"]
        assert "secret" not in (tmp_path / "plant.dump.json").read_text()
        result = target("restored").run("restore", str(file), "--create")
        assert result.exit_code == OK and "machserial.actor" in result.stderr


def test_the_emergency_of_the_guide(server, new_database, tmp_path):
    """Its commands, as printed: the old database stays, and the new one takes its name."""
    factory = Command(new_database("factory"))
    with psycopg.connect(factory.dsn) as connection:
        install(connection, "plain")
        make_part(connection)
        make_format(connection, "pumps", "SERIAL-{SEQ:3}")
        generated(connection, quantity=5, format="pumps")
    factory.answer("backup", str(tmp_path / "monday.dump"))
    with psycopg.connect(factory.dsn) as connection:
        generated(connection, quantity=5, format="pumps")
    guide = (ROOT / "docs" / "troubleshooting.md").read_text()
    section = guide[guide.index("### Emergency Database Recovery") : guide.index("### Disable Service Temporarily")]
    scripts = re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)
    assert len(scripts) == 3
    path = os.pathsep.join([str(Path(sys.executable).parent), str(server.tool("psql").parent), os.environ["PATH"]])
    for script in scripts:
        # How the server of the tests is, is another matter.
        steps = script.replace("/backup/", f"{tmp_path}/").replace("machserial health\n", "")
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", steps], capture_output=True, text=True,
            env=environment(PATH=path, PGHOST=server.host, PGPORT=str(server.port), PGUSER=server.user),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    with psycopg.connect(factory.dsn) as connection:
        assert generated(connection, format="pumps") == ["SERIAL-741"]
    with psycopg.connect(server.dsn("factory_before")) as connection, refused(connection, "55000") as why:
        generated(connection, format="pumps")
    assert "Monday" in why.detail
    server.execute("drop database factory_before")


class TestWriteTest:
    def test_it_leaves_nothing(self, plant, connection):
        count = "select (select count(*) from machserial.serials), (select count(*) from machserial.audit_events)"
        before = plant.query(count)
        call(connection, "write_test")
        connection.commit()
        assert plant.query(count) == before
        assert plant.query("select last_value from machserial.counter_status('F')") == [(5,)]

    def test_it_finds_what_cannot_be_written(self, plant, connection):
        connection.execute("alter table machserial.serials add check (serial_number not like 'G%') not valid")
        with pytest.raises(psycopg.errors.CheckViolation):
            call(connection, "write_test")

    def test_it_finds_events_that_are_not_written(self, plant, connection):
        connection.execute("alter table machserial.serials disable trigger serials_are_admitted")
        with refused(connection, "22000"):
            call(connection, "write_test")
