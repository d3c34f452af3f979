"""machserial_plpython: the server's host, its log, Redis and the world's numbering schemes, by real PL/Python."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from command import Command
from conftest import BUILD, MODES, ROOT, install
from psycopg import sql
from servers import Server, choose_bin, server_account
from snapshot import catalog, differences, rows
from support import HOSTILE, call, column, make_part, refused, value

FUNCTIONS = ROOT / "plpython" / "functions"
DEBIANS_LIBRARIES = Path("/usr/lib/python3/dist-packages")
CATALOGS = Path("/usr/share/locale")
SERVERS_PYTHON = Path("/usr/bin/python3")
SECRET = "geheim-4711"
IMEI, NO_IMEI = "490154203237518", "490154203237519"

SIGNATURE = "machserial.redis_health(text)"
PUBLIC_FUNCTIONS = {
    "host_health()": "select * from machserial.host_health()",
    "recent_errors(integer)": "select * from machserial.recent_errors()",
    "redis_health(text)": "select * from machserial.redis_health('redis://localhost:1')",
    "set_python_path(text)": "select machserial.set_python_path(null)",
    "stdnum_are_valid(text,text[])": "select machserial.stdnum_are_valid('luhn', '{18}')",
    "stdnum_is_valid(text,text)": "select machserial.stdnum_is_valid('luhn', '18')",
}


def needs_plpython(server: Server) -> None:
    if not server.execute("select 1 from pg_available_extensions where name = 'plpython3u'"):
        package = f"postgresql-plpython3-{server.major}"
        pytest.skip(f"the server in {server.bin} has no plpython3u (Debian: apt-get install {package})")


def needs_library(name: str) -> None:
    if not (DEBIANS_LIBRARIES / name).exists():
        pytest.skip(f"the server's Python has no {name} (Debian: apt-get install python3-{name})")


def needs_root(purpose: str) -> None:
    if os.geteuid() != 0:
        pytest.skip(f"only root can {purpose}")


def add_plpython(connection: psycopg.Connection, mode: str = "extension") -> None:
    """The second extension, as a superuser installs it."""
    if mode == "extension":
        connection.execute("create extension machserial_plpython cascade")
    else:
        connection.execute((BUILD / "machserial_plpython.sql").read_text())


pytestmark = pytest.mark.own_database


@pytest.fixture
def plant(connection: psycopg.Connection, server: Server, mode: str) -> psycopg.Connection:
    """A database with both extensions and part P."""
    needs_plpython(server)
    add_plpython(connection, mode)
    make_part(connection)
    connection.commit()
    return connection


def python(connection: psycopg.Connection, code: str) -> None:
    """Runs code in the Python of this session's server process."""
    connection.execute(f"do language plpython3u $python$\n{code}\n$python$")


def forget_libraries(connection: psycopg.Connection) -> None:
    """As if the operating system had installed none."""
    python(
        connection,
        "import sys\n"
        "sys.path[:] = [path for path in sys.path if not path.endswith('-packages')]\n"
        "for name in list(sys.modules):\n"
        "    if name.split('.')[0] in ('stdnum', 'redis'):\n"
        "        del sys.modules[name]",
    )


def checks(connection: psycopg.Connection, function: str, **arguments: object) -> dict[str, object]:
    return {row.name: row for row in call(connection, function, **arguments)}


def is_consistent(row: object) -> bool:
    """The status follows from value and thresholds."""
    if row.value is None:
        return row.status in ("UNKNOWN", "CRITICAL")
    upwards = row.critical is None or row.critical >= row.warning
    reached = [
        name
        for name, limit in (("CRITICAL", row.critical), ("WARNING", row.warning))
        if limit is not None and (row.value >= limit if upwards else row.value <= limit)
    ]
    return row.status == (reached or ["OK"])[0]


# Installing


def test_both_modes_install_the_same(server: Server, new_database: Callable[..., str]) -> None:
    needs_plpython(server)
    catalogs = []
    for mode in MODES:
        with psycopg.connect(new_database(f"mode_{mode}")) as connection:
            install(connection, mode)
            add_plpython(connection, mode)
            catalogs.append(catalog(connection))
    assert differences(*catalogs) == []
    assert any("stdnum_is_valid" in line for line in catalogs[0]["functions"])


def test_it_can_be_installed_again_and_taken_out(plant, mode):
    before = catalog(plant)
    if mode == "plain":
        add_plpython(plant, mode)
    else:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            add_plpython(plant, "plain")
        plant.rollback()
        plant.execute("drop extension machserial_plpython")
        assert column(plant, "select proname from pg_proc where proname ~ 'stdnum_(is|are)_valid'") == []
        add_plpython(plant, mode)
    assert differences(before, catalog(plant)) == []


def test_it_needs_machserial(server, dsn):
    needs_plpython(server)
    with psycopg.connect(dsn) as connection:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="machserial is not installed"):
            add_plpython(connection, "plain")
        connection.rollback()
        with pytest.raises(psycopg.errors.UndefinedObject, match="machserial"):
            connection.execute("create extension machserial_plpython")


def test_an_updated_one_is_a_fresh_one(server, tmp_path, request):
    """Over a release whose function took something else, and keeps its grants."""
    needs_plpython(server)
    source = tmp_path / "sql"
    shutil.copytree(ROOT / "sql", source)
    builder = (sys.executable, ROOT / "sql" / "build.py")
    subprocess.run([*builder, "release", "--source", source], check=True, capture_output=True)
    (old,) = (source / "released").glob("machserial_plpython--*.sql")
    version = old.stem.removeprefix("machserial_plpython--")
    script = old.read_text().replace("machserial.redis_health(url text)", "machserial.redis_health(address text)")
    old.write_text(script.replace("_redis_health(url) as h", "_redis_health(address) as h"))
    control = source / "machserial.control"
    control.write_text(control.read_text().replace(f"'{version}'", "'99.0.0'"))
    subprocess.run([*builder, "--source", source, "--output", tmp_path / "build"], check=True, capture_output=True)
    with Server(choose_bin(request.config.getoption("--pg-bin"))) as other:
        other.install_extension(tmp_path / "build")
        catalogs = []
        for name, wanted in (("fresh", "99.0.0"), ("updated", version)):
            other.execute(f"create database {name}")
            with psycopg.connect(other.dsn(name), autocommit=True) as connection:
                connection.execute("create extension machserial")
                connection.execute("create extension plpython3u")
                connection.execute(f"create extension machserial_plpython version '{wanted}'")
                if name == "updated":
                    connection.execute("create role watcher")
                    connection.execute("grant execute on function machserial.redis_health(text) to watcher")
                    connection.execute("alter extension machserial_plpython update")
                    assert value(connection, "select has_function_privilege('watcher', %s, 'execute')", SIGNATURE)
                    connection.execute("revoke execute on function machserial.redis_health(text) from watcher")
                assert value(connection, "select machserial._plpython_version()") == "99.0.0"
                catalogs.append(catalog(connection))
        assert differences(*catalogs) == []


# Privileges


def test_nobody_may_call_it_who_was_not_granted_it(plant, server):
    plant.execute("create role worker")
    for signature, query in PUBLIC_FUNCTIONS.items():
        for is_granted in (False, True):
            if is_granted:
                plant.execute("grant usage on schema machserial to worker")
                plant.execute(f"grant execute on function machserial.{signature} to worker")
            plant.execute("set role worker")
            if is_granted and not signature.startswith("set_python_path"):
                plant.execute(query).fetchall()
            else:
                with pytest.raises(psycopg.errors.InsufficientPrivilege), plant.transaction():
                    plant.execute(query)
            plant.execute("reset role")
    python_functions = plant.execute(
        "select p.oid::regprocedure::text, p.proconfig, p.prosecdef, l.lanname = 'plpython3u', "
        "has_function_privilege('worker', p.oid, 'execute') "
        "from pg_proc as p join pg_language as l on l.oid = p.prolang "
        "where p.pronamespace = 'machserial'::regnamespace and p.proname = any(%s)",
        (["_host_health", "_redis_health", "_recent_errors", "_stdnum_are_valid", "_examined_python_path"],),
    ).fetchall()
    assert len(python_functions) == 5
    for name, settings, as_owner, is_python, may in python_functions:
        assert is_python and not as_owner and settings == ["search_path=pg_catalog, pg_temp"], name
        assert not may, name


def test_what_a_caller_makes_for_himself_changes_nothing(plant):
    needs_library("stdnum")
    plant.execute("create role worker")
    plant.execute("grant usage on schema machserial to worker")
    for signature in PUBLIC_FUNCTIONS:
        plant.execute(f"grant execute on function machserial.{signature} to worker")
    plant.execute("set role worker")
    plant.execute("create temp table python_paths (path text)")
    plant.execute("insert into python_paths values ('/tmp')")
    plant.execute("create temp table pg_tablespace (oid oid, spcname name)")
    plant.execute("create function pg_temp.current_setting(text) returns text language sql return 'planted'")
    plant.execute("set search_path = pg_temp, pg_catalog")
    plant.execute("set machserial.python_paths = '/tmp'")
    plant.execute("set machserial.python_path = '/tmp'")
    assert value(plant, "select machserial.stdnum_is_valid('imei', %s)", IMEI)
    assert "disk_data" in checks(plant, "host_health")
    plant.execute("reset role")
    assert value(plant, "select machserial._python_paths()") == []


@pytest.fixture
def owners(server: Server, new_database: Callable[..., str]) -> Iterator[tuple]:
    """A database whose machserial belongs to the ordinary role plant: a superuser's connection, and plant's."""
    needs_plpython(server)
    server.execute("create role plant login")
    dsn = new_database("plant", owner="plant")
    with psycopg.connect(dsn, user="plant", autocommit=True) as plant:
        install(plant, "extension")
        with psycopg.connect(dsn, autocommit=True) as superuser:
            add_plpython(superuser)
            yield superuser, plant


def test_an_ordinary_owner_uses_kinds_and_updates_on(owners):
    needs_library("stdnum")
    _, plant = owners
    make_part(plant)
    call(plant, "set_vendor_rule", vendor_name="V", stdnum_kind="imei")
    received = call(plant, "receive_vendor_serials", vendor_name="V", part_id="P", serial_numbers=[IMEI, NO_IMEI])
    assert [row.errors for row in received] == [[], [f"'{NO_IMEI}' is no valid imei"]]
    # What every update of machserial begins and ends with.
    with plant.transaction():
        plant.execute((ROOT / "sql" / "guard.sql").read_text())
        privileges = (ROOT / "sql" / "privileges.sql").read_text()
        plant.execute(privileges.replace("create function", "create or replace function"))
    for query in ("select machserial.recent_errors()", "select machserial.redis_health('redis://localhost')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            plant.execute(query)


def test_the_owner_of_the_schema_gains_nothing_by_exchanging_the_table(owners):
    superuser, plant = owners
    call(superuser, "set_python_path", path=str(DEBIANS_LIBRARIES))
    plant.execute("drop table machserial.python_paths")
    plant.execute(
        "create function machserial.spy() returns text language plpgsql as "
        "$$ begin raise exception 'running as %', current_user; end $$"
    )
    for trap in ("view machserial.python_paths as select machserial.spy() as path", "table machserial.python_paths ()"):
        plant.execute(f"create {trap}")
        forget_libraries(superuser)
        for query in (
            "select machserial.stdnum_is_valid('imei', '1')",
            "select machserial.set_python_path('/usr/lib')",
            "select machserial.redis_health('redis://localhost:1')",
        ):
            with refused(superuser, "42501") as refusal:
                superuser.execute(query)
            assert "python_paths" in refusal.message and "plant" in refusal.detail
        plant.execute(f"drop {trap.split()[0]} machserial.python_paths")


def test_a_table_that_others_may_write_to_is_not_read(plant):
    needs_library("stdnum")
    ask = "select machserial.stdnum_is_valid('luhn', '18')"
    call(plant, "set_python_path", path=str(DEBIANS_LIBRARIES))
    plant.execute("create role worker")
    plant.execute("grant select on machserial.python_paths to worker")
    forget_libraries(plant)
    assert value(plant, ask)
    for privilege in ("insert", "update (path)"):
        plant.execute(f"grant {privilege} on machserial.python_paths to worker")
        forget_libraries(plant)
        with refused(plant, "42501") as refusal:
            plant.execute(ask)
        assert "others may write to it" in refusal.detail
        plant.execute(f"revoke {privilege} on machserial.python_paths from worker")


def test_planted_functions_and_foreign_schemas_are_refused(server, new_database):
    needs_plpython(server)
    server.execute("create role plant login")
    dsn = new_database("plant", owner="plant")
    with psycopg.connect(dsn, user="plant", autocommit=True) as plant, psycopg.connect(dsn) as superuser:
        install(plant, "plain")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="does not belong to a superuser"):
            add_plpython(superuser, "plain")
        superuser.rollback()
        superuser.execute("alter schema machserial owner to current_user")
        superuser.execute(
            "create function machserial.stdnum_is_valid(kind text, number text) returns boolean "
            "language sql return true"
        )
        superuser.execute("alter function machserial.stdnum_is_valid owner to plant")
        superuser.commit()
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as refusal:
            add_plpython(superuser, "plain")
        assert "stdnum_is_valid(text,text) is owned by plant" in refusal.value.diag.message_detail


# The host


def test_the_host_is_told_as_health_tells(plant, server):
    health = plant.execute("select * from machserial.health()").description
    host = plant.execute("select * from machserial.host_health()").description
    assert [(c.name, c.type_code) for c in host] == [(c.name, c.type_code) for c in health]
    told = checks(plant, "host_health")
    assert list(told) == ["disk_data", "disk_wal", "host_memory", "swap", "load", "open_files", "file_limit"]
    assert all(is_consistent(row) and row.message and row.remedy for row in told.values())
    data = (server.folder / "data").resolve()
    facts = os.statvfs(data)
    used = facts.f_blocks - facts.f_bfree
    assert told["disk_data"].value == pytest.approx(Decimal(100 * used / (used + facts.f_bavail)), abs=2)
    assert str(data) in told["disk_data"].message and "bytes) free" in told["disk_data"].message
    assert "pg_wal" in told["disk_wal"].message and "pg_replication_slots" in told["disk_wal"].remedy
    known = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/meminfo").read_text()))
    available = Decimal(100 * int(known["MemAvailable"]) / int(known["MemTotal"]))
    assert told["host_memory"].value == pytest.approx(available, abs=10)
    per_processor = Decimal(os.getloadavg()[1] / len(os.sched_getaffinity(server.process.pid)))
    assert told["load"].value == pytest.approx(per_processor, abs=1)
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    assert told["file_limit"].value == int(re.search(r"Max open files +(\d+)", limits)[1])


@pytest.fixture
def small_disk(server: Server, tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB and 200 inodes that the server may write to."""
    needs_root("mount a small file system")
    folder = server.folder / "small disk"
    folder.mkdir()
    options = f"size=16m,nr_inodes=200,uid={server_account().pw_uid},mode=700"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)
    folder.rmdir()


@pytest.fixture
def tablespace(plant: psycopg.Connection, server: Server) -> Iterator[Callable[[Path], str]]:
    """tablespace(folder): makes one there; the name of its check."""
    made = []

    def make(folder: Path) -> str:
        server.execute(f"create tablespace \"Odd name\" location '{folder}'")
        made.append(folder)
        return "disk_tablespace_Odd name"

    yield make
    for _ in made:
        server.execute('drop tablespace "Odd name"')


def test_a_full_tablespace_turns_and_turns_back(plant, tablespace, small_disk):
    name = tablespace(small_disk)
    filling = small_disk / "filling"
    for content, status in ((0, "OK"), (14, "WARNING"), (15.5, "CRITICAL"), (0, "OK")):
        filling.write_bytes(b"x" * int(content * 2**20))
        told = checks(plant, "host_health")[name]
        assert (told.status, is_consistent(told)) == (status, True), told
        assert str(small_disk) in told.message and str(small_disk) in told.remedy
    assert told.value < 5


def test_a_tablespace_without_inodes_is_full(plant, tablespace, small_disk):
    name = tablespace(small_disk)
    for number in range(190):
        (small_disk / f"file {number}").touch()
    told = checks(plant, "host_health")[name]
    assert told.status == "CRITICAL" and "inodes" in told.message


def test_what_cannot_be_read_is_unknown_and_the_rest_is_told(plant, tablespace, server):
    folder = server.folder / "space"
    folder.mkdir(exist_ok=True)
    if server_account():
        os.chown(folder, server_account().pw_uid, server_account().pw_gid)
    name = tablespace(folder)
    moved = folder.rename(server.folder / "elsewhere")
    try:
        told = checks(plant, "host_health")
        assert (told[name].status, told[name].value) == ("UNKNOWN", None)
        assert "No such file" in told[name].message and told[name].remedy
        assert told["disk_data"].value is not None
    finally:
        moved.rename(folder)


def host_functions(files: dict[str, str]) -> dict:
    """host.py as it stands in the function, where these files have these contents."""
    from io import StringIO

    def fake_open(path: str) -> StringIO:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return StringIO(files[path])

    known = runpy.run_path(str(FUNCTIONS / "checks.py"))
    known["open"] = fake_open
    exec((FUNCTIONS / "host.py").read_text(), known)
    return known


@pytest.mark.parametrize(
    ("available", "swap_free", "opened", "expected"),
    [
        (500, 100, 10, ["OK", "OK", "OK"]),
        (100, 50, 800, ["WARNING", "WARNING", "WARNING"]),
        (50, 20, 900, ["CRITICAL", "CRITICAL", "CRITICAL"]),
        (500, 100, 0, ["OK", "OK", "OK"]),
    ],
)
def test_memory_swap_and_open_files_against_their_thresholds(available, swap_free, opened, expected):
    files = {
        "/proc/meminfo": (
            f"MemTotal: 1000 kB\nMemAvailable: {available} kB\nSwapTotal: 100 kB\nSwapFree: {swap_free} kB\n"
        ),
        "/proc/sys/fs/file-nr": f"{opened}\t0\t1000\n",
    }
    known = host_functions(files)
    told = [
        known["examined"](name, known[function], *limits, None)
        for name, function, limits in (
            ("host_memory", "memory", (10, 5)),
            ("swap", "swap", (50, 80)),
            ("open_files", "open_files", (80, 90)),
        )
    ]
    assert [row["status"] for row in told] == expected


def test_a_machine_without_proc_is_unknown():
    known = host_functions({})
    told = known["examined"]("host_memory", known["memory"], 10, 5, None)
    assert (told["status"], told["value"]) == ("UNKNOWN", None)
    assert "/proc/meminfo" in told["message"] and told["remedy"]


# The log


class LogServer(Server):
    """A server for the tests of its log: with a database 'logged' that has both extensions."""

    def __init__(self, binaries: Path, *, discarding: bool = False, **settings: str) -> None:
        super().__init__(binaries, **settings)
        self.discarding = discarding

    def _launch(self, *arguments: object) -> None:
        if self.discarding:
            self.log = Path(os.devnull)
        super()._launch(*arguments)

    def prepare(self) -> LogServer:
        self.install_extension(BUILD)
        self.execute("create database logged")
        with self.connect() as connection:
            install(connection, "extension")
            add_plpython(connection)
        return self

    def connect(self, **options: str) -> psycopg.Connection:
        return psycopg.connect(self.dsn("logged", **options), autocommit=True)

    def errors(self, n: int = 20) -> list:
        with self.connect() as connection:
            return call(connection, "recent_errors", n=n)

    def provoke(self, statement: str, **options: str) -> None:
        with self.connect(**options) as connection, pytest.raises(psycopg.Error):
            connection.execute(statement)

    def set_prefix(self, prefix: str) -> None:
        """Changes log_line_prefix; the command line would go before what is set otherwise, so it is not there."""
        with self.connect() as connection:
            literal = sql.Literal(prefix).as_string(connection)
            connection.execute(f"alter system set log_line_prefix = {literal}")
            connection.execute("select pg_reload_conf()")
        deadline = time.monotonic() + 30
        while self.execute("select setting from pg_settings where name = 'log_line_prefix'") != [(prefix,)]:
            assert time.monotonic() < deadline, "the setting did not change"
            time.sleep(0.05)

    def log_text(self) -> str:
        return "".join(path.read_text() for path in sorted((self.folder / "data" / "log").iterdir()))


@pytest.fixture(scope="module")
def log_server(request: pytest.FixtureRequest, server: Server) -> Iterator[LogServer]:
    needs_plpython(server)
    form = request.param
    if form == "jsonlog" and server.major < 15:
        pytest.skip("PostgreSQL 14 has no jsonlog")
    settings = {
        "logging_collector": "on",
        "log_destination": form,
        "log_filename": "pg-%Y-%m-%d_%H%M%S.log",
        "log_timezone": "Asia/Kolkata",
        # More than a process may have open.
        "max_files_per_process": str(resource.getrlimit(resource.RLIMIT_NOFILE)[0] + 1),
    }
    with LogServer(choose_bin(request.config.getoption("--pg-bin")), **settings) as running:
        running.form = form
        running.prepare()
        running.set_prefix(PREFIX)
        yield running


# As docs/plpython.md says: the SQLSTATE before all that a client chooses.
PREFIX = "%m [%p] %e %q%u@%d/%a "

every_format = pytest.mark.parametrize("log_server", ["stderr", "csvlog", "jsonlog"], indirect=True)
stderr_format = pytest.mark.parametrize("log_server", ["stderr"], indirect=True)

RAISE = """do $$ begin
    raise exception using message = 'first line' || chr(10) || '2026-01-01 00:00:00.000 UTC [1] ERROR:  planted',
        detail = 'the detail, with "quotes"', hint = 'the hint', errcode = 'P1234';
end $$"""


@every_format
def test_the_errors_are_told_newest_first_with_all_that_is_known(log_server):
    before = datetime.now(timezone.utc)
    log_server.provoke("select 1 / 0", application_name="press")
    log_server.provoke(RAISE)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(log_server.dsn("no such database"))
    fatal, raised, division = log_server.errors(3)
    assert (fatal.severity, fatal.message) == ("FATAL", 'database "no such database" does not exist')
    assert raised.severity == "ERROR"
    assert raised.message == "first line\n2026-01-01 00:00:00.000 UTC [1] ERROR:  planted"
    assert (raised.detail, raised.hint) == ('the detail, with "quotes"', "the hint")
    assert "PL/pgSQL function inline_code_block" in raised.context
    assert (division.message, division.statement) == ("division by zero", "select 1 / 0")
    assert (division.user_name, division.database_name) == ("postgres", "logged")
    assert division.application_name == "press"
    assert division.process_id > 1
    for error in (fatal, raised, division):
        assert before - timedelta(seconds=1) <= error.logged_at <= datetime.now(timezone.utc) + timedelta(seconds=1)
    assert [error.sqlstate for error in (fatal, raised, division)] == ["3D000", "P1234", "22012"]
    assert [row.message for row in log_server.errors(1)] == [fatal.message]


PASSWORDS = [
    f"alter role postgres password '{SECRET}' nonsense",
    f"alter role postgres password {SECRET}",
    f'alter role postgres password "{SECRET}"',
    f"alter role postgres with encrypted password E'x\\'{SECRET}' valid until 'nonsense'",
    f"create role someone login PASSWORD $x${SECRET}$x$ nonsense",
    f"select '{SECRET}' as password, 1 / 0",
    f"select 1 / 0 from (values ('{SECRET}')) as t (user_pwd)",
    f"select 'postgresql://bob:{SECRET}@host/db'::integer",
    f"select 'host=h user=bob password={SECRET}'::integer",
    f"""select '{{"password": "{SECRET}"}}'::integer""",
    f"select 'SCRAM-SHA-256$4096:{SECRET}'::integer",
    f"do $$ begin raise exception 'the password {SECRET} is bad' using detail = 'pwd={SECRET}'; end $$",
    f"do $$ begin execute 'alter role postgres password ''{SECRET}'' x'; end $$",
]


@every_format
def test_no_password_is_ever_told(log_server):
    for statement in PASSWORDS:
        log_server.provoke(statement)
    assert log_server.log_text().count(SECRET) >= len(PASSWORDS)
    told = log_server.errors(len(PASSWORDS))
    assert [row.severity for row in told] == ["ERROR"] * len(PASSWORDS)
    assert SECRET not in repr(told) and "4711" not in repr(told)
    assert all("***" in repr(row) for row in told)
    # What is left is worth reading.
    assert told[-1].statement == "alter role postgres password ***"


@every_format
def test_a_login_that_failed_is_told_with_its_name(log_server):
    rules = log_server.folder / "data" / "pg_hba.conf"
    log_server.execute(f"set password_encryption = 'scram-sha-256'; create role bob login password '{SECRET}'")
    before = rules.read_text()
    try:
        rules.write_text("local all bob scram-sha-256\n" + before)
        log_server.execute("select pg_reload_conf()")
        deadline = time.monotonic() + 30
        # He gets in until the server has read the rule.
        while not any("authentication" in row.message for row in log_server.errors(1)):
            assert time.monotonic() < deadline, "bob gets in"
            with contextlib.suppress(psycopg.OperationalError):
                log_server.connect(user="bob", password=f"wrong-{SECRET}").close()
    finally:
        rules.write_text(before)
        log_server.execute("select pg_reload_conf()")
        log_server.execute("drop role bob")
    (error,) = log_server.errors(1)
    assert (error.severity, error.message) == ("FATAL", 'password authentication failed for user "bob"')
    assert "pg_hba.conf" in error.detail
    assert SECRET not in repr(error)


class GermanServer(LogServer):
    """One whose messages are German, by the catalogs of the installed server."""

    def _initdb(self, own_binaries: Path, *arguments: object) -> None:
        # The server looks for them where they are, relative to its binary, in /usr.
        (self.folder / "tree" / "share" / "locale").symlink_to(CATALOGS)
        super()._initdb(own_binaries, *arguments)


def test_a_log_in_another_language_is_understood(server, request, monkeypatch):
    needs_plpython(server)
    binaries = choose_bin(request.config.getoption("--pg-bin"))
    german_catalog = CATALOGS / "de" / "LC_MESSAGES" / f"postgres-{server.major}.mo"
    if not german_catalog.exists() or not server.bin.is_relative_to("/usr/lib"):
        pytest.skip(f"there is no German catalog of this server's messages in {CATALOGS}")
    monkeypatch.setenv("LANGUAGE", "de")
    for form in ("stderr", "csvlog"):
        settings = {"log_destination": form, "logging_collector": "on", "lc_messages": "C.utf8"}
        with GermanServer(binaries, **settings) as german:
            german.prepare().provoke(RAISE)
            german.provoke(f"alter role postgres password {SECRET}")
            german.provoke("select 1 / 0")
            if "FEHLER:" not in german.log_text().replace(",FEHLER,", "FEHLER:"):
                pytest.skip("this system's C library translates nothing in the locale C.utf8")
            division, syntax, raised = german.errors(3)
            assert [row.severity for row in (division, syntax, raised)] == ["ERROR"] * 3
            assert (division.message, division.statement) == ("Division durch Null", "select 1 / 0")
            assert (raised.detail, raised.hint) == ('the detail, with "quotes"', "the hint")
            assert "Syntaxfehler" in syntax.message and SECRET not in repr(syntax)


@every_format
def test_hostile_texts_come_out_as_they_went_in(log_server):
    given = [text for text in HOSTILE if "\\" not in text]
    with log_server.connect() as connection:
        for text in given:
            with pytest.raises(psycopg.Error):
                connection.execute(
                    sql.SQL("do {}").format(
                        sql.Literal(
                            sql.SQL("begin raise exception using message = {}; end")
                            .format(sql.Literal(text))
                            .as_string(connection)
                        )
                    )
                )
    assert [row.message for row in log_server.errors(len(given))] == given[::-1]


@every_format
def test_a_log_that_has_moved_on_is_read_on(log_server):
    log_server.provoke("select 'before the rotation'::integer")
    ask = f"select pg_current_logfile('{log_server.form}')"
    (before,) = log_server.execute(ask)[0]
    deadline = time.monotonic() + 30
    while log_server.execute(ask)[0][0] == before:
        assert time.monotonic() < deadline, "the log was not rotated"
        log_server.execute("select pg_rotate_logfile()")
        time.sleep(0.2)
    log_server.provoke("select 'after the rotation'::integer")
    messages = [row.message for row in log_server.errors(2)]
    assert ["after the rotation" in messages[0], "before the rotation" in messages[1]] == [True, True]


@every_format
def test_it_is_read_from_its_end_and_not_without_bounds(log_server):
    log_server.provoke("select 'far away'::integer")
    noise = "do $$ begin for i in 1..{count} loop raise log '%', repeat('\"x,\n', 50000); end loop; end $$"
    with log_server.connect() as connection:
        connection.execute(noise.format(count=5))
    log_server.provoke("select 'near'::integer")
    messages = [row.message for row in log_server.errors(2)]
    assert ["near" in messages[0], "far away" in messages[1]] == [True, True]
    with log_server.connect() as connection:
        connection.execute(noise.format(count=90))
    assert not any("far away" in row.message or "near" in row.message for row in log_server.errors(1000))
    log_server.provoke("select 'at the end'::integer")
    assert "at the end" in log_server.errors(1)[0].message


@every_format
def test_a_limit_of_files_below_what_the_server_wants_is_a_warning(log_server):
    with log_server.connect() as connection:
        told = checks(connection, "host_health")["file_limit"]
    assert (told.status, is_consistent(told)) == ("WARNING", True)
    assert "max_files_per_process" in told.remedy


@stderr_format
def test_any_prefix_is_understood_also_one_that_was_changed(log_server):
    login = {"user_name": "postgres", "database_name": "logged"}
    prefixes = {
        "%t [%p] %q%u@%d ": login,
        "%n %e %a|%u|%d|%p ": {**login, "sqlstate": "22P02", "application_name": "press"},
        "%m %-12u %12p %d: ": login,
        "%% (%m) [%p] <%r> %c %l %v %x %s %b %i {$^.*} ": {},
        "": {"logged_at": None, "process_id": None},
        "%m [%p] %q%u@%d/%a ": {**login, "application_name": "press"},
        PREFIX: {**login, "application_name": "press", "sqlstate": "22P02"},
    }
    before = datetime.now(timezone.utc) - timedelta(seconds=2)
    for number, (prefix, expected) in enumerate(prefixes.items()):
        log_server.set_prefix(prefix)
        log_server.provoke(f"select 'error {number}'::integer", application_name="press")
        newest, *older = log_server.errors(number + 1)
        assert newest.message == f'invalid input syntax for type integer: "error {number}" at character 8', prefix
        assert newest.statement == f"select 'error {number}'::integer", prefix
        for name, told in expected.items():
            assert getattr(newest, name) == told, (prefix, name)
        assert newest.logged_at is None or before < newest.logged_at < datetime.now(timezone.utc) + timedelta(seconds=2)
        assert bool(newest.process_id) == ("process_id" not in expected)
        # What an earlier prefix stands before is told as far as it can be.
        assert [one.statement for one in older] == [f"select 'error {n}'::integer" for n in reversed(range(number))]


LYING_NAMES = (
    "press LOG:  all is well", "press ERROR:  planted", "press 00000 LOG:  ", "press PANIC:  the disk is gone",
    "press DETAIL:  hidden", "press STATEMENT:  hidden", "LOG:  ", "press LOG:  x ERROR:  y STATEMENT:  z",
)  # fmt: skip


@every_format
@pytest.mark.parametrize("name", LYING_NAMES)
def test_a_name_neither_hides_an_error_nor_is_one(log_server, name):
    """application_name is the client's; it says what it likes, and stands before the level."""
    with log_server.connect(application_name="honest") as connection:
        connection.execute("set log_min_duration_statement = 0")
        connection.execute("select 'before'")
        connection.execute("select set_config('application_name', %s, false)", (name,))
        for statement in ("select 1 / 0", "select 'second'::integer"):
            with pytest.raises(psycopg.Error):
                connection.execute(statement)
        # Each of these is a line of the log, and no error.
        for _ in range(3):
            connection.execute("select 'no error'")
    second, first = log_server.errors(2)
    assert (first.severity, first.sqlstate, first.message) == ("ERROR", "22012", "division by zero")
    assert (second.severity, second.sqlstate) == ("ERROR", "22P02")
    assert second.message.startswith('invalid input syntax for type integer: "second"')
    assert [first.statement, second.statement] == ["select 1 / 0", "select 'second'::integer"]
    assert second.application_name == name.strip() if log_server.form == "stderr" else name


@stderr_format
def test_a_message_may_hold_what_looks_like_a_level(log_server):
    message = "remote: FATAL:  no such database  DETAIL:  none"
    log_server.provoke(f"do $$ begin raise exception '{message}' using detail = 'ERROR:  inner'; end $$")
    (error,) = log_server.errors(1)
    assert (error.severity, error.message, error.detail) == ("ERROR", message, "ERROR:  inner")


def log_functions(**names: object) -> dict:
    """log_entries.py as it stands in the function."""
    return runpy.run_path(str(FUNCTIONS / "log_entries.py"), {"re": re, **names})


class Paused(Exception):
    """What a cancellation is to the functions."""


SETTINGS = {"server_version_num": "150000", "localedir": "", "log_line_prefix": PREFIX}
CSV = (
    '2026-01-01 00:00:0{n}.000 UTC,"u","d",1,,,,,,,,ERROR,22012,{message},{parameters},,,,,,,,"press",'
    '"client backend",,0\n'
)


def csv_log(*entries: tuple[str, str]) -> str:
    quoted = [[text.replace('"', '""') for text in entry] for entry in entries]
    return "".join(CSV.format(n=n, message=f'"{m}"', parameters=f'"{p}"') for n, (m, p) in enumerate(quoted))


def test_a_parameter_that_is_a_log_of_its_own_is_none():
    """However much of the log it is, and wherever reading begins: 18 MB of it are read once, not a hundred times."""
    parsed = log_functions()["parsed"]
    planted = csv_log(*[("planted", "")] * 3000).replace('"', "")
    text = csv_log(("first", ""), ("huge", planted), ("last", ""))
    passes = []
    for cut in (0, text.index("planted,"), text.index("planted,", len(text) // 2), text.index("last") - 60):
        part = text[cut:].partition("\n")[2] if cut else text
        found = parsed("csvlog", part, cut == 0, SETTINGS, lambda: passes.append(1))
        assert [one["message"] for one in found] in (["first", "huge", "last"], ["last"])
        assert len(passes) <= part.count("\n") / 1000 + 2
        passes.clear()


@pytest.mark.parametrize("form", ["stderr", "csvlog", "jsonlog"])
def test_reading_lets_a_cancellation_through(form):
    def pause() -> None:
        counted.append(1)
        if len(counted) == 3:
            raise Paused

    counted: list[int] = []
    for line in ("x", "\tx", "2026-01-01 00:00:00 UTC [1] 22012 u@d/a ERROR:  x", '"', "{"):
        counted.clear()
        with pytest.raises(Paused):
            log_functions()["parsed"](form, f"{line}\n" * 100_000, True, SETTINGS, pause)


@stderr_format
def test_a_cancellation_comes_through(log_server):
    noise = "do $$ begin for i in 1..40 loop raise log '%', repeat('x' || chr(10), 100000); end loop; end $$"
    with log_server.connect() as connection:
        connection.execute(noise)
        connection.execute("set statement_timeout = '1ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select * from machserial.recent_errors(1000)")
        connection.execute("set statement_timeout = 0")
        assert value(connection, "select 1") == 1


def test_a_number_that_cannot_be_is_refused(plant):
    for n in (0, -1, 1001, None):
        with refused(plant, "22023"):
            call(plant, "recent_errors", n=n)


def test_the_file_that_standard_error_goes_to_is_read(plant, server):
    """As Debian's pg_ctlcluster starts a server."""
    with pytest.raises(psycopg.Error), plant.transaction():
        plant.execute("select 'to standard error'::integer")
    assert "to standard error" in call(plant, "recent_errors", n=1)[0].message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"log_destination": "syslog"}, "log_destination is syslog"),
        ({"discarding": True}, os.devnull),
        ({"log_destination": "syslog", "logging_collector": "on"}, "log_destination is syslog"),
    ],
)
def test_a_log_that_goes_elsewhere_is_told_so(server, request, settings, said):
    needs_plpython(server)
    with (
        LogServer(choose_bin(request.config.getoption("--pg-bin")), **settings) as other,
        other.prepare().connect() as connection,
        refused(connection, "0A000") as refusal,
    ):
        call(connection, "recent_errors")
    assert said in refusal.detail and "journalctl" in refusal.hint


# Redis


class Redis:
    """A redis-server of our own."""

    def __init__(self, folder: Path, *options: str) -> None:
        with contextlib.closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.options = (*options, "--unixsocket", str(folder / "redis.sock"), "--unixsocketperm", "777")
        self.folder = folder
        self.password = options[options.index("--requirepass") + 1] if "--requirepass" in options else None
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            [*command, "--dir", self.folder, *self.options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while "PONG" not in self.run("ping", check=False):
            assert time.monotonic() < deadline and self.process.poll() is None, "redis-server did not start"
            time.sleep(0.05)

    def run(self, *arguments: str, check: bool = True) -> str:
        login = ["-a", self.password, "--no-auth-warning"] if self.password else []
        command = ["redis-cli", "-p", str(self.port), *login, *arguments]
        return subprocess.run(command, check=check, capture_output=True, text=True).stdout

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def url(self, user: str = "", query: str = "") -> str:
        return f"redis://{user}localhost:{self.port}/0{query}"


@pytest.fixture
def start_redis(plant: psycopg.Connection, server: Server) -> Iterator[Callable[..., Redis]]:
    needs_library("redis")
    if not shutil.which("redis-server"):
        pytest.skip("there is no redis-server (Debian: apt-get install redis-server)")
    started = []

    def start(*options: str) -> Redis:
        started.append(Redis(server.folder, *options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


CHECKS = ["redis_ping", "redis_memory", "redis_evictions", "redis_latency"]


def test_a_redis_that_answers(plant, start_redis):
    redis = start_redis()
    for url in (redis.url(), f"unix://{redis.folder}/redis.sock"):
        told = checks(plant, "redis_health", url=url)
        assert list(told) == CHECKS
        for row in told.values():
            assert row.value is not None and is_consistent(row) and row.remedy, row
        assert told["redis_evictions"].status == "OK"
        assert "no maxmemory" in told["redis_memory"].message
    health = plant.execute("select * from machserial.health()").description
    shown = plant.execute("select * from machserial.redis_health(%s)", (redis.url(),)).description
    assert [(c.name, c.type_code) for c in shown] == [(c.name, c.type_code) for c in health]


def is_down(told: dict, said: str) -> bool:
    assert told["redis_ping"].status == "CRITICAL" and said in told["redis_ping"].message, told["redis_ping"]
    return all(told[name].status == "UNKNOWN" and told[name].remedy for name in CHECKS[1:])


def test_a_redis_that_is_stopped_or_stands_still_turns_and_turns_back(plant, start_redis):
    redis = start_redis()
    redis.process.send_signal(signal.SIGSTOP)
    # What the address says of waiting does not count: the statement would be cancelled.
    plant.execute("set statement_timeout = '20s'")
    assert is_down(checks(plant, "redis_health", url=redis.url(query="?socket_timeout=60")), "Timeout")
    redis.process.send_signal(signal.SIGCONT)
    assert checks(plant, "redis_health", url=redis.url())["redis_ping"].value is not None
    redis.stop()
    assert is_down(checks(plant, "redis_health", url=redis.url()), "refused")
    redis.start()
    assert checks(plant, "redis_health", url=redis.url())["redis_ping"].value is not None


def test_a_redis_with_a_password_never_shows_it(plant, start_redis):
    redis = start_redis("--requirepass", SECRET)
    assert checks(plant, "redis_health", url=redis.url(f":{SECRET}@"))["redis_ping"].value is not None
    for user in ("", ":wrong-geheim@", "nobody:wrong-geheim@"):
        told = checks(plant, "redis_health", url=redis.url(user))
        assert is_down(told, "")
        assert "geheim" not in repr(told)


def test_a_full_redis_turns_and_turns_back(plant, start_redis):
    redis = start_redis("--maxmemory", "20mb", "--maxmemory-policy", "allkeys-lru")
    told = checks(plant, "redis_health", url=redis.url())
    assert [told[name].status for name in ("redis_memory", "redis_evictions")] == ["OK", "OK"]
    redis.run("eval", "for i = 1, 40000 do redis.call('set', 'k' .. i, string.rep('x', 1000)) end", "0")
    told = checks(plant, "redis_health", url=redis.url())
    assert [told[name].status for name in ("redis_memory", "redis_evictions")] == ["CRITICAL", "WARNING"]
    assert "allkeys-lru" in told["redis_memory"].message and "20.0 MiB" in told["redis_memory"].message
    redis.run("flushall")
    redis.run("memory", "purge")
    redis.run("config", "resetstat")
    told = checks(plant, "redis_health", url=redis.url())
    assert [told[name].status for name in ("redis_memory", "redis_evictions")] == ["OK", "OK"]


def test_a_faulty_address_is_refused_without_its_password(plant):
    needs_library("redis")
    for url in (
        None,
        "",
        "localhost:6379",
        f"http://:{SECRET}@localhost",
        f"redis://:{SECRET}@localhost:port",
        f"redis://:{SECRET}/x@localhost:6379",
        f"redis://:a@{SECRET}/x@localhost:6379",
        f"redis://:{SECRET}@localhost:6379/0?max_connections={SECRET}",
    ):
        with refused(plant, "22023") as refusal:
            call(plant, "redis_health", url=url)
        assert SECRET not in f"{refusal.message} {refusal.detail} {refusal.hint} {refusal.diag.context}", url


def test_without_the_library_redis_is_unknown(plant):
    forget_libraries(plant)
    told = checks(plant, "redis_health", url=f"redis://:{SECRET}@localhost:1")
    assert list(told) == CHECKS
    for row in told.values():
        assert row.status == "UNKNOWN" and "apt-get install python3-redis" in row.remedy
    assert SECRET not in repr(told)


# Numbering schemes

VALID = {
    "imei": (IMEI, "49-015420-323751-8", NO_IMEI),
    "ean": ("4006381333931", "73513537", "4006381333932"),
    "isbn": ("978-3-16-148410-0", "316148410X", "978-3-16-148410-1"),
    "iso6346": ("CSQU3054383", "csqu3054383", "CSQU3054384"),
    "luhn": ("79927398713", "18", "79927398710"),
    "us.ein": ("91-1144442", "911144442", "07-1144442"),
    "iso7064.mod_97_10": ("79444", "99991234567890121414 90".replace(" ", ""), "79445"),
    "ISSN": ("0024-9319", "2434561X", "0024-9318"),
}


def test_a_number_is_valid_by_its_scheme(plant):
    needs_library("stdnum")
    for kind, (good, also_good, bad) in VALID.items():
        for number, verdict in ((good, True), (also_good, True), (bad, False)):
            assert value(plant, "select machserial.stdnum_is_valid(%s, %s)", kind, number) is verdict, (kind, number)
        given = [bad, None, good, "", also_good, *HOSTILE]
        verdicts = value(plant, "select machserial.stdnum_are_valid(%s, %s)", kind, given)
        assert verdicts == [False, None, True, False, True, *[False] * len(HOSTILE)], kind


def test_no_numbers_are_no_answers(plant):
    needs_library("stdnum")
    assert value(plant, "select machserial.stdnum_are_valid('imei', '{}')") == []
    assert value(plant, "select machserial.stdnum_is_valid('imei', null)") is None


def test_only_a_scheme_of_the_library_is_ever_loaded(plant):
    needs_library("stdnum")
    for kind in (
        *("os", "../../x", "stdnum; import os", "this", "..this", "stdnum.imei", "imei.this", "iso7064.this", "util"),
        *("exceptions", "numdb", "iso7064", "__init__", "_version", "ïmei", "", None, "us/ein", "us..ein", "imei\nx"),
        *HOSTILE,
    ):
        with refused(plant, "22023") as refusal:
            call(plant, "stdnum_is_valid", kind=kind, number="1")
        assert not refusal.message.startswith("plpy") and "Traceback" not in refusal.diag.context
    # Nothing else in this process needs this one.
    python(plant, "import sys\nassert 'this' not in sys.modules")


def test_an_unknown_kind_is_answered_with_the_nearest(plant):
    needs_library("stdnum")
    for kind, near in (("imej", "imei"), ("us.eim", "us.ein"), ("isbn13", "isbn"), ("ein", "us.ein")):
        with refused(plant, "22023") as refusal:
            call(plant, "stdnum_is_valid", kind=kind, number="1")
        assert kind in refusal.message and near in re.findall(r"[\w.]+", refusal.hint)


def test_without_the_library_there_is_a_remedy(plant):
    forget_libraries(plant)
    for _ in range(2):
        with refused(plant, "0A000") as refusal:
            call(plant, "stdnum_is_valid", kind="imei", number=IMEI)
        assert "apt-get install python3-stdnum" in refusal.hint and "set_python_path" in refusal.hint


def test_what_is_installed_later_is_found_by_the_same_session(plant):
    needs_library("stdnum")
    forget_libraries(plant)
    with refused(plant, "0A000"):
        call(plant, "stdnum_is_valid", kind="imei", number=IMEI)
    python(plant, f"import sys\nsys.path.append('{DEBIANS_LIBRARIES}')")
    assert value(plant, "select machserial.stdnum_is_valid('imei', %s)", IMEI)


# Where libraries are found


@pytest.fixture
def venv(server: Server, tmp_path: Path) -> Iterator[Path]:
    """A virtual environment of the server's Python, with a stdnum that knows a kind more: machserial_test."""
    import stdnum

    needs_plpython(server)
    folder = server.folder / "a venv"
    subprocess.run([SERVERS_PYTHON, "-m", "venv", "--without-pip", folder], check=True, capture_output=True)
    (libraries,) = folder.glob("lib/python3*/site-packages")
    shutil.copytree(Path(stdnum.__file__).parent, libraries / "stdnum")
    (libraries / "stdnum" / "machserial_test.py").write_text("def is_valid(number):\n    return number == 'YES'\n")
    yield folder
    shutil.rmtree(folder)


def test_a_virtual_environment_is_used_before_the_operating_systems_libraries(plant, venv, connect):
    assert value(plant, "select machserial.set_python_path(%s)", str(venv)) == str(venv)
    assert plant.execute("select path, set_by from machserial.python_paths").fetchall() == [(str(venv), "postgres")]
    answers = "select machserial.stdnum_are_valid('machserial_test', '{YES,NO}')"
    assert value(plant, answers) == [True, False]
    plant.commit()
    other = connect()
    assert value(other, answers) == [True, False]
    assert value(plant, "select machserial.set_python_path(null)") is None
    plant.commit()
    assert column(plant, "select path from machserial.python_paths") == []
    # Who has loaded it keeps it, a new session does not find it.
    assert value(other, answers) == [True, False]
    with pytest.raises(psycopg.Error) as raised:
        connect().execute(answers)
    assert raised.value.sqlstate in ("22023", "0A000")


def test_a_folder_that_others_can_reach_is_refused(plant, server, venv):
    shelf = server.folder / "shelf"
    inner = shelf / "libraries"
    inner.mkdir(parents=True)
    link = server.folder / "link"
    link.symlink_to(inner)

    def fault(path: object) -> str:
        with refused(plant, "22023") as refusal:
            call(plant, "set_python_path", path=str(path))
        return refusal.detail

    try:
        # In no other way is there anything against it; a link is followed.
        assert value(plant, "select machserial.set_python_path(%s)", str(link)) == str(inner)
        assert "absolute" in fault("shelf") and "no such folder" in fault(server.folder / "none")
        assert "no such folder" in fault(server.log)
        inner.chmod(0o777)
        assert f"Everybody may write to {inner}" in fault(inner)
        inner.chmod(0o1777)
        assert f"Everybody may write to {inner}" in fault(link)
        inner.chmod(0o755)
        shelf.chmod(0o777)
        assert f"Everybody may write to {shelf}." in fault(inner)
        shelf.chmod(0o1777)
        assert value(plant, "select machserial.set_python_path(%s)", str(inner)) == str(inner)
        for one in (inner, shelf):
            one.chmod(0o775)
            assert f"The group with number {one.stat().st_gid} may write to {one}." in fault(inner)
            one.chmod(0o755)
        # What is in it is loaded as well, and what a link in it leads to.
        module = inner / "stdnum" / "imei.py"
        module.parent.mkdir()
        module.touch(0o644)
        for one in (module, module.parent):
            for mode, reason in ((0o775, "The group with number"), (0o777, "Everybody may write to")):
                one.chmod(mode)
                assert fault(inner).startswith(reason) and fault(inner).endswith(f" {one}.")
            one.chmod(0o755)
        (inner / "elsewhere").symlink_to(shelf / "other")
        (shelf / "other").mkdir()
        (shelf / "other").chmod(0o777)
        assert fault(inner) == f"Everybody may write to {shelf / 'other'}."
        (shelf / "other").rmdir()
        assert value(plant, "select machserial.set_python_path(%s)", str(inner)) == str(inner)
        (libraries,) = venv.glob("lib/python3*")
        libraries.rename(libraries.with_name("python3.1"))
        assert "another Python" in fault(venv)
        if os.geteuid() == 0:
            shelf.chmod(0o755)
            os.chown(inner, 12345, 12345)
            assert "12345" in fault(inner)
            os.chown(inner, 0, 0)
            os.chown(shelf, 12345, 12345)
            assert f"{shelf} belongs to the user with number 12345" in fault(inner)
        # What was refused has changed nothing.
        assert column(plant, "select path from machserial.python_paths") == [str(inner)]
    finally:
        link.unlink()
        shutil.rmtree(shelf)


def test_a_folder_that_has_changed_since_is_not_looked_into(plant, server, venv):
    (libraries,) = venv.glob("lib/python3*/site-packages")
    call(plant, "set_python_path", path=str(venv))
    plant.commit()
    forget_libraries(plant)
    libraries.chmod(0o777)
    with refused(plant, "0A000") as refusal:
        call(plant, "stdnum_is_valid", kind="machserial_test", number="YES")
    assert f"Everybody may write to {libraries}" in refusal.hint
    assert f"Everybody may write to {libraries}" in checks(plant, "redis_health", url="redis://h")["redis_ping"].remedy
    libraries.chmod(0o755)
    assert value(plant, "select machserial.stdnum_is_valid('machserial_test', 'YES')")


def test_a_library_that_is_broken_is_told_so(plant, server, venv):
    (libraries,) = venv.glob("lib/python3*/site-packages")
    (libraries / "stdnum" / "__init__.py").write_text("raise RuntimeError('made for another planet')\n")
    call(plant, "set_python_path", path=str(venv))
    with refused(plant, "0A000") as refusal:
        call(plant, "stdnum_is_valid", kind="imei", number=IMEI)
    assert "made for another planet" in refusal.hint


def test_only_a_superuser_says_where(plant):
    call(plant, "set_python_path", path="/usr/lib")
    plant.execute("create role worker")
    plant.execute("grant all on schema machserial to worker")
    plant.execute("grant execute on function machserial.set_python_path(text) to worker")
    plant.execute("set role worker")
    with refused(plant, "42501") as refusal:
        call(plant, "set_python_path", path="/usr/share")
    assert "worker" in refusal.detail
    for statement in (
        "select * from machserial.python_paths",
        "update machserial.python_paths set path = '/tmp'",
        "insert into machserial.python_paths (path) values ('/tmp')",
        "select machserial._python_paths()",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), plant.transaction():
            plant.execute(statement)


# Vendors' numbers


def receive(connection: psycopg.Connection, *numbers: str) -> list:
    return call(connection, "receive_vendor_serials", vendor_name="V", part_id="P", serial_numbers=list(numbers))


def test_a_vendors_numbers_are_held_against_their_scheme(plant):
    needs_library("stdnum")
    rule = call(plant, "set_vendor_rule", vendor_name="V", stdnum_kind=" IMEI ", max_length=15)[0]
    assert (rule.stdnum_kind, rule.max_length) == ("imei", 15)
    plant.execute("set track_functions = 'all'")
    numbers = [f"{number:015}" for number in range(1000)]
    errors = [row.errors for row in receive(plant, *numbers, IMEI, "49-015420-323751-8")]
    good = value(plant, "select machserial.stdnum_are_valid('imei', %s)", numbers)
    assert errors[:1000] == [[] if is_good else [f"'{n}' is no valid imei"] for n, is_good in zip(numbers, good)]  # noqa: B905
    assert sum(good) == 100
    assert errors[1000:] == [[], ["'49-015420-323751-8' has 18 characters, agreed are at most 15"]]
    # One call for all of them, and the one above.
    calls = "select calls from pg_stat_xact_user_functions where funcname = 'stdnum_are_valid'"
    assert value(plant, calls) == 2
    single = call(plant, "receive_vendor_serial", serial_number=NO_IMEI, vendor_name="V", part_id="P")[0]
    assert (single.status, single.validation_errors) == ("PENDING", [f"'{NO_IMEI}' is no valid imei"])
    told = column(
        plant,
        "select details -> 'new' ->> 'stdnum_kind' from machserial.audit_events where event_type = 'VENDOR_RULE_SET'",
    )
    assert told == ["imei"]


def test_a_faulty_kind_is_refused_also_as_a_row(plant):
    needs_library("stdnum")
    for kind in ("imej", "os"):
        with refused(plant, "22023"):
            call(plant, "set_vendor_rule", vendor_name="V", stdnum_kind=kind)
        with refused(plant, "22023"):
            plant.execute("insert into machserial.vendor_rules (vendor_name, stdnum_kind) values ('V', %s)", (kind,))
    call(plant, "set_vendor_rule", vendor_name="V", stdnum_kind="isbn")
    with refused(plant, "22023"):
        plant.execute("update machserial.vendor_rules set stdnum_kind = 'imej'")


def take_away(connection: psycopg.Connection, mode: str) -> None:
    if mode == "extension":
        connection.execute("drop extension machserial_plpython")
    else:
        for name in ("stdnum_is_valid", "stdnum_are_valid", "_stdnum_are_valid"):
            connection.execute(f"drop function machserial.{name}")


def test_where_the_extension_has_vanished_no_receipt_is_lost(plant, mode):
    needs_library("stdnum")
    call(plant, "set_vendor_rule", vendor_name="V", stdnum_kind="imei")
    take_away(plant, mode)
    (row,) = receive(plant, IMEI)
    assert row.status == "PENDING"
    assert row.errors == [f"'{IMEI}' cannot be examined as imei: stdnum_kind needs machserial_plpython"]
    with refused(plant, "55000"):
        call(plant, "accept_vendor_serial", vendor_serial_id=row.vendor_serial_id)
    # The rule can be changed, but not made anew.
    plant.execute("update machserial.vendor_rules set min_length = 3")
    with refused(plant, "0A000") as refusal:
        call(plant, "set_vendor_rule", vendor_name="V", stdnum_kind="imei")
    assert "create extension machserial_plpython" in refusal.hint
    add_plpython(plant, mode)
    validity = call(plant, "validate_vendor_serial", vendor_serial_id=row.vendor_serial_id)[0]
    assert validity.format_valid and "which nobody has waived" in validity.warnings[0]
    assert [row.errors for row in receive(plant, "49-015420-323751-8")] == [[]]


BROKEN = {
    "it ends the program": "raise SystemExit(3)",
    "it ends the program in another way": "import sys\nsys.exit('bye')",
    "it lacks another": "import no_such_library",
    "it breaks": "1 / 0",
    "it is no Python": "def",
    "it speaks of connections": "raise ConnectionError('server closed the connection unexpectedly')",
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("at", ["import", "number"])
def test_a_broken_library_costs_no_receipt_and_no_connection(plant, server, fault, at):
    folder = server.folder / "broken"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "stdnum").mkdir(parents=True)
    lines = "".join(f"    {line}\n" for line in BROKEN[fault].splitlines())
    (folder / "stdnum" / "__init__.py").write_text(BROKEN[fault] if at == "import" else "")
    (folder / "stdnum" / "imei.py").write_text(f"def is_valid(number):\n{lines}")
    hand_over(folder)
    if at == "number" and fault == "it is no Python":
        pytest.skip("such a module is broken when it is imported")
    plant.execute("alter table machserial.vendor_rules disable trigger user")
    plant.execute("insert into machserial.vendor_rules (vendor_name, stdnum_kind) values ('V', 'imei')")
    plant.execute("alter table machserial.vendor_rules enable trigger user")
    call(plant, "set_python_path", path=str(folder))
    forget_libraries(plant)
    (row,) = receive(plant, IMEI)
    assert row.status == "PENDING" and row.errors[0].startswith(f"'{IMEI}' ")
    single = call(plant, "receive_vendor_serial", serial_number=NO_IMEI, vendor_name="V", part_id="P")[0]
    assert single.status == "PENDING" and len(single.validation_errors) == 1
    if at == "import":
        assert "cannot be examined as imei" in row.errors[0]
        with refused(plant, "0A000"):
            plant.execute("select machserial.stdnum_is_valid('imei', '1')")
    else:
        assert value(plant, "select machserial.stdnum_is_valid('imei', '1')") is False


def hand_over(folder: Path) -> None:
    """Gives it to the server's user, and to nobody else."""
    for one in (folder, *folder.rglob("*")):
        one.chmod(0o755 if one.is_dir() else 0o644)
        if server_account():
            os.chown(one, server_account().pw_uid, server_account().pw_gid)


def test_without_the_program_of_python_no_receipt_is_lost(server, new_database):
    """The library of PL/Python is gone: PostgreSQL says 58P01, which drivers take for trouble with the connection."""
    needs_plpython(server)
    needs_library("stdnum")
    dsn = new_database("crippled")
    with psycopg.connect(dsn, autocommit=True) as plant:
        install(plant, "extension")
        add_plpython(plant)
        make_part(plant)
        call(plant, "set_vendor_rule", vendor_name="V", stdnum_kind="imei")
        plant.execute("update pg_proc set probin = '$libdir/nonexistent' where proname = 'plpython3_call_handler'")
    with psycopg.connect(dsn, autocommit=True) as plant:
        (row,) = receive(plant, IMEI)
        assert row.status == "PENDING" and "the server's Python failed: could not access file" in row.errors[0]
        for signature, query in PUBLIC_FUNCTIONS.items():
            if "set_python_path" in signature:
                continue
            with refused(plant, "0A000") as refusal:
                plant.execute(query)
            assert "58P01" in refusal.detail and "install" in refusal.hint
    command = Command(dsn)
    assert command.run("vendor", "receive", "1", "--vendor", "V", "--part", "P").exit_code == 0
    line = command.refusal(1, "vendor", "rule", "set", "W", "--stdnum-kind", "imei")
    assert "the server's Python failed" in line and "connection" not in line


@pytest.mark.parametrize("fault", ["no library", "no privilege", "another error"])
def test_whatever_keeps_the_scheme_from_being_asked_no_receipt_is_lost(plant, fault):
    needs_library("stdnum")
    call(plant, "set_vendor_rule", vendor_name="V", stdnum_kind="imei")
    if fault == "no library":
        forget_libraries(plant)
        expected = "the server's Python has no library stdnum"
    elif fault == "no privilege":
        plant.execute("create role keeper")
        plant.execute("grant usage on schema machserial to keeper")
        plant.execute("alter function machserial._stdnum_verdicts owner to keeper")
        expected = "permission denied"
    else:
        python(plant, "import importlib, stdnum\nstdnum.__file__ = None")
        expected = "the server's Python failed: TypeError"
    (row,) = receive(plant, IMEI)
    assert row.status == "PENDING" and f"cannot be examined as imei: {expected}" in row.errors[0]
    single = call(plant, "receive_vendor_serial", serial_number="1", vendor_name="V", part_id="P")[0]
    assert expected in single.validation_errors[0]


def test_machserial_alone_says_what_is_missing_and_does_the_rest(connection):
    make_part(connection)
    with refused(connection, "0A000") as refusal:
        call(connection, "set_vendor_rule", vendor_name="V", stdnum_kind="imei")
    assert "create extension machserial_plpython" in refusal.hint
    with refused(connection, "0A000"):
        connection.execute("insert into machserial.vendor_rules (vendor_name, stdnum_kind) values ('V', 'imei')")
    call(connection, "set_vendor_rule", vendor_name="V", min_length=3)
    assert [len(row.errors) for row in receive(connection, "123", "1")] == [0, 1]
    with refused(connection, "22023") as refusal:
        call(connection, "set_vendor_rule", vendor_name="V")
    assert "stdnum_kind" in refusal.detail


def test_the_command_sets_and_lists_a_kind(plant, deployed_dsn):
    needs_library("stdnum")
    command = Command(deployed_dsn)
    made = command.answer("vendor", "rule", "set", "V", "--stdnum-kind", "imei")
    assert made["stdnum_kind"] == "imei"
    assert [rule["stdnum_kind"] for rule in command.answer("vendor", "rule", "list")] == ["imei"]
    assert "imej" in command.refusal(1, "vendor", "rule", "set", "V", "--stdnum-kind", "imej")


# Dump and restore


@pytest.mark.parametrize("kind", ["plain", "custom"])
def test_a_restored_database_has_both(plant, server, new_database, tmp_path, kind):
    needs_library("stdnum")
    call(plant, "set_vendor_rule", vendor_name="V", stdnum_kind="imei")
    call(plant, "set_python_path", path=str(DEBIANS_LIBRARIES))
    receive(plant, IMEI, NO_IMEI)
    plant.execute("create role watcher")
    plant.execute("grant execute on function machserial.host_health() to watcher")
    plant.commit()
    dsn = new_database("restored")
    server.dump_and_restore(plant.info.dbname, "restored", tmp_path / "dump", kind)
    with psycopg.connect(dsn) as restored:
        assert differences(catalog(plant), catalog(restored)) == []
        assert differences(rows(plant), rows(restored)) == []
        assert column(restored, "select path from machserial.python_paths") == [str(DEBIANS_LIBRARIES)]
        assert [row.errors for row in receive(restored, "356868000041418", "1")] == [[], ["'1' is no valid imei"]]
        assert restored.execute("select machserial.migrate()").fetchone() == (0,)
        assert call(restored, "host_health")
    plant.execute("drop owned by watcher")
    plant.commit()


# The document

DOCUMENT = (ROOT / "docs" / "plpython.md").read_text()


def test_the_documents_statements_run(server, dsn, venv):
    needs_plpython(server)
    needs_library("stdnum")
    with psycopg.connect(dsn, autocommit=True) as connection:
        install(connection, "extension")
        connection.execute("create role machserial_admin")
        connection.execute("create role machserial_operator")
        connection.execute("set search_path = machserial, public")
        blocks = re.findall(r"```sql\n(.*?)```", DOCUMENT, re.DOTALL)
        for block in blocks:
            connection.execute(block.replace("/opt/machserial-python", str(venv)))
        assert len(blocks) == 4
        assert column(connection, "select stdnum_kind from machserial.vendor_rules") == ["imei"]


def test_the_documents_thresholds_are_those_of_the_checks(plant):
    told = {**checks(plant, "host_health"), **checks(plant, "redis_health", url="redis://localhost:1")}
    written = re.findall(r"^\| (`[a-z_].*?) \|.*\| ([^|]*) \| ?([^|]*) ?\|$", DOCUMENT, re.MULTILINE)
    limits = {name.strip("`"): limits for names, *limits in written for name in names.split(", ")}
    assert set(told) <= set(limits) | {"file_limit"} and len(told) == 11
    for name, row in told.items():
        for text, limit in zip(limits[name], (row.warning, row.critical), strict=True):
            found = re.match(r"\d+", text)
            assert (int(found[0]) if found else None) == limit or name == "file_limit", (name, text, limit)
