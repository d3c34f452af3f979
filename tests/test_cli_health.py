"""machserial health: formats, exit codes, limits of time, and what stops answering."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from command import USAGE, machserial, query
from conftest import BUILD, install
from prometheus_client.parser import text_string_to_metric_families
from psycopg.pq import PGconn, Ping
from servers import Server, choose_bin, server_account

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
SAFE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
COLUMNS = ["name", "status", "value", "warning", "critical", "message", "remedy"]
PAUSED = "set machserial.actor = 'Ada'; select machserial.pause('stocktaking | all lines')"
RESUMED = "select machserial.resume()"
# What an owner does who has neither data checksums nor pg_stat_statements: without them these two are UNKNOWN.
DO_WITHOUT = """
    update machserial.health_thresholds set warning = null, critical = null
    where name in ('checksum_failures', 'slow_statements')
"""


@pytest.fixture(scope="module")
def safe_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that loses nothing: that of the other tests would be found unsafe."""
    with Server(choose_bin(request.config.getoption("--pg-bin")), **SAFE) as server:
        server.install_extension(BUILD)
        server.execute("create database deployed")
        with psycopg.connect(server.dsn("deployed")) as connection:
            install(connection, "extension")
            connection.execute(DO_WITHOUT)
            connection.commit()
            connection.execute("select machserial.seal_audit()")
        yield server


@pytest.fixture
def fresh(safe_server: Server) -> Iterator[str]:
    """A dsn at which machserial is deployed."""
    safe_server.execute("create database fresh template deployed")
    yield safe_server.dsn("fresh")
    safe_server.execute("drop database fresh with (force)")
    for (name,) in safe_server.execute("select rolname from pg_roles where rolname !~ '^(pg_|postgres$)'"):
        safe_server.execute(f"drop role {name}")


def examined(code: int, dsn: str, *arguments: str, **extra: str) -> dict[str, dict]:
    """The rows by name; the command must end with that code."""
    result = machserial("health", "--dsn", dsn, "--json", *arguments, **extra)
    assert result.exit_code == code, result.output
    rows = json.loads(result.stdout)
    assert all(list(row) == COLUMNS for row in rows)
    return {row["name"]: row for row in rows}


def printed(code: int, dsn: str, *arguments: str, **extra: str) -> str:
    result = machserial("health", "--dsn", dsn, *arguments, **extra)
    assert result.exit_code == code, result.output
    assert result.stderr == ""
    return result.stdout


class TestExitCodes:
    def test_all_is_well(self, fresh):
        rows = examined(OK, fresh)
        assert {row["status"] for row in rows.values()} == {"OK"}
        checks = {name for (name,) in query(fresh, "select name from machserial.health_thresholds")}
        assert set(rows) == checks | {"connection", "command_version"}

    def test_a_warning_and_its_end(self, fresh):
        query(fresh, PAUSED)
        rows = examined(WARNING, fresh)
        assert {name for name, row in rows.items() if row["status"] != "OK"} == {"paused"}
        # The most urgent comes first.
        assert next(iter(rows)) == "paused"
        assert rows["paused"]["remedy"] == "machserial resume"
        query(fresh, RESUMED)
        examined(OK, fresh)

    def test_critical_is_worse_than_a_warning(self, fresh):
        query(fresh, PAUSED)
        query(fresh, "drop index machserial.serials_site_key")
        rows = examined(CRITICAL, fresh)
        assert list(rows)[:2] == ["missing_indexes", "paused"]
        query(fresh, rows["missing_indexes"]["remedy"])
        examined(WARNING, fresh)

    def test_what_may_not_be_seen_is_unknown(self, fresh, safe_server):
        query(
            fresh,
            "create role monitor login; grant usage on schema machserial to monitor;"
            "grant execute on all functions in schema machserial to monitor;"
            "grant select on machserial.health_thresholds to monitor",
        )
        dsn = safe_server.dsn("fresh", user="monitor")
        rows = examined(UNKNOWN, dsn)
        assert {row["status"] for row in rows.values()} == {"OK", "UNKNOWN"}
        assert "permission denied" in rows["counter_used"]["message"]
        query(fresh, PAUSED)
        query(fresh, "grant select on machserial.pauses to monitor")
        # What is seen counts more than what is not.
        examined(WARNING, dsn)
        query(fresh, "drop owned by monitor")

    def test_a_role_that_may_ask_nothing(self, fresh, safe_server):
        query(fresh, "create role nobody_here login")
        for arguments in ((), ("--ready",)):
            (row,) = examined(UNKNOWN, safe_server.dsn("fresh", user="nobody_here"), *arguments).values()
            assert "permission denied" in row["message"]

    def test_not_deployed(self, safe_server):
        for arguments in ((), ("--ready",)):
            (row,) = examined(CRITICAL, safe_server.dsn("postgres"), *arguments).values()
            assert "not deployed" in row["message"]
            assert row["remedy"] == "machserial deploy"

    def test_code_without_tables(self, safe_server):
        safe_server.execute("create database bare")
        safe_server.execute("create extension machserial", dbname="bare")
        rows = examined(CRITICAL, safe_server.dsn("bare"))
        assert rows["pending_migrations"]["status"] == "CRITICAL"
        safe_server.execute("drop database bare")

    def test_another_version_of_the_command(self, fresh):
        query(fresh, "alter extension machserial drop function machserial.version()")
        query(fresh, "create or replace function machserial.version() returns text language sql return '99.0.0'")
        assert examined(WARNING, fresh)["command_version"]["status"] == "WARNING"

    def test_they_are_documented(self):
        text = machserial("health", "--help").stdout
        for code, name in enumerate(("OK", "WARNING", "CRITICAL", "UNKNOWN")):
            assert re.search(rf"^ +{code}  {name}", text, re.MULTILINE)


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [("--live", "--check", "paused"), ("--json", "--format", "nagios"), ("--format", "xml"), ("--check",)],
    )
    def test_what_contradicts_itself(self, arguments):
        result = machserial("health", *arguments)
        assert (result.exit_code, result.stdout) == (USAGE, "")

    def test_single_checks(self, fresh):
        assert list(examined(OK, fresh, "--check", "paused", "--check", "connections")) == ["connections", "paused"]

    def test_no_such_check(self, fresh):
        result = machserial("health", "--dsn", fresh, "--check", "nonsense")
        assert (result.exit_code, result.stdout) == (USAGE, "")
        assert "nonsense" in result.stderr and "seal_lag" in result.stderr


class TestFormats:
    def test_table(self, fresh):
        text = printed(OK, fresh)
        for heading in ("name", "status", "value", "warning", "critical", "message", "remedy"):
            assert heading in text
        assert "every audit event is sealed" in text
        # No remedy where nothing is to be mended.
        assert "seal_audit" not in text
        query(fresh, PAUSED)
        assert "machserial resume" in printed(WARNING, fresh)

    def test_json(self, fresh):
        one = examined(OK, fresh)
        other = {row["name"]: row for row in json.loads(printed(OK, fresh, "--format", "json"))}
        assert one.keys() == other.keys()
        assert one["connections"]["warning"] == 80

    def test_nagios(self, fresh):
        first, *others = printed(OK, fresh, "--format", "nagios").splitlines()
        said, _, figures = first.partition(" | ")
        assert re.fullmatch(r"MACHSERIAL OK - \d+ checks", said)
        assert re.search(r"\bconnections=[\d.]+%;80;95\b", figures)
        assert re.search(r"\baudit_seal_lag=\d+s;86400;604800\b", figures)
        assert re.search(r"\bpending_migrations=0;;1\b", figures)
        assert all(re.fullmatch(r"\w+=-?[\d.]+[%a-zA-Z]*(;[\d.]*){0,2}", one) for one in figures.split(" "))
        assert len(others) == int(re.search(r"(\d+) checks", said)[1])
        assert all(line.startswith("OK ") for line in others)

    def test_nagios_with_a_fault(self, fresh):
        query(fresh, PAUSED)
        first, *others = printed(WARNING, fresh, "--format", "nagios").splitlines()
        assert first.startswith("MACHSERIAL WARNING - paused: paused by Ada")
        # A bar ends the text for Nagios.
        assert first.count("|") == 1 and not any("|" in line for line in others)
        assert others[0].startswith("WARNING paused: ") and others[0].endswith("; remedy: machserial resume")

    def test_nagios_without_a_connection(self, safe_server):
        (first, *_) = printed(CRITICAL, safe_server.dsn("nowhere"), "--format", "nagios").splitlines()
        assert first.startswith('MACHSERIAL CRITICAL - connection: there is no database "nowhere"')

    def test_prometheus(self, fresh):
        query(fresh, PAUSED)
        rows = examined(WARNING, fresh)
        families = {
            family.name: family
            for family in text_string_to_metric_families(printed(WARNING, fresh, "--format", "prometheus"))
        }
        status = {one.labels["check"]: one.value for one in families["machserial_health_status"].samples}
        codes = {"OK": OK, "WARNING": WARNING, "CRITICAL": CRITICAL, "UNKNOWN": UNKNOWN}
        assert status == {name: codes[row["status"]] for name, row in rows.items()}
        figures = {one.labels["check"]: one.value for one in families["machserial_health_critical"].samples}
        assert figures == {name: row["critical"] for name, row in rows.items() if row["critical"] is not None}
        assert families["machserial_health_worst"].samples[0].value == WARNING
        assert abs(families["machserial_health_time_seconds"].samples[0].value - time.time()) < 600
        assert all(family.documentation and family.type == "gauge" for family in families.values())

    @pytest.mark.parametrize("style", ["table", "json", "nagios", "prometheus"])
    def test_into_a_file(self, fresh, tmp_path, style):
        path = tmp_path / "machserial.prom"
        path.write_text("old")
        before = path.stat().st_ino
        assert printed(OK, fresh, "--format", style, "--output", str(path)) == ""
        text = path.read_text()
        assert "connections" in text and "\n" in text
        # Another file in its place, readable for node_exporter, and nothing left behind.
        assert path.stat().st_ino != before
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert list(tmp_path.iterdir()) == [path]

    def test_into_a_folder_that_is_not_there(self, fresh, tmp_path):
        result = machserial("health", "--dsn", fresh, "--output", str(tmp_path / "nowhere" / "file"))
        assert result.exit_code == UNKNOWN
        assert "cannot be written" in result.stderr and len(result.stderr.splitlines()) == 1


class TestLiveAndReady:
    def test_live_needs_no_login(self, safe_server):
        (row,) = examined(OK, safe_server.dsn("nowhere", user="nobody_here"), "--live").values()
        assert (row["name"], row["status"]) == ("live", "OK")

    def test_ready(self, fresh):
        (row,) = examined(OK, fresh, "--ready").values()
        assert (row["name"], row["status"], row["remedy"]) == ("ready", "OK", None)

    def test_ready_is_one_query(self, safe_server, fresh):
        safe_server.execute("alter database fresh set log_statement = 'all'")
        before = len(safe_server.log.read_text())
        examined(OK, fresh, "--ready")
        asked = re.findall(r"(?:statement|execute [^:]+): (.*)", safe_server.log.read_text()[before:])
        assert asked == ["select * from machserial.ready()"]

    def test_ready_says_when_it_is_paused(self, fresh):
        query(fresh, PAUSED)
        (row,) = examined(WARNING, fresh, "--ready").values()
        assert "paused by Ada" in row["message"]
        query(fresh, RESUMED)
        examined(OK, fresh, "--ready")

    def test_ready_says_when_migrations_are_pending(self, fresh):
        query(fresh, "delete from machserial.schema_migrations where version = 14")
        (row,) = examined(CRITICAL, fresh, "--ready").values()
        assert "pending" in row["message"]

    def test_formats(self, fresh):
        assert printed(OK, fresh, "--ready", "--format", "nagios").startswith("MACHSERIAL OK - 1 checks")
        assert 'machserial_health_status{check="live"} 0.0' in printed(OK, fresh, "--live", "--format", "prometheus")

    @pytest.mark.parametrize("arguments", [(), ("--live",), ("--ready",)])
    @pytest.mark.parametrize("dsn", ["host=/nowhere", "postgresql://host:port:port/", "host=does-not-exist.invalid"])
    def test_no_connection_is_critical(self, dsn, arguments):
        (row,) = examined(CRITICAL, dsn, *arguments).values()
        assert row["status"] == "CRITICAL" and row["remedy"]


# Servers that stop


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that is there and does nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class TestLimits:
    @pytest.mark.parametrize("arguments", [(), ("--live",), ("--ready",)])
    def test_a_server_that_is_gone(self, request, arguments):
        server = Server(choose_bin(request.config.getoption("--pg-bin")), **SAFE)
        server.start()
        dsn = server.dsn("postgres")
        examined(OK, dsn, "--live")
        server.stop()
        (row,) = examined(CRITICAL, dsn, *arguments).values()
        assert "socket" in row["message"] or "no server answers" in row["message"]

    @pytest.mark.parametrize("arguments", [(), ("--live",), ("--ready",)])
    def test_a_server_that_hangs(self, safe_server, fresh, arguments):
        with stopped(safe_server.process.pid):
            (row,) = examined(CRITICAL, fresh, *arguments).values()
        assert "in time" in row["message"] or "no server answers" in row["message"]
        examined(OK, fresh, *arguments)

    @pytest.mark.parametrize("arguments", [(), ("--ready",)])
    def test_a_server_that_hangs_in_the_middle(self, safe_server, fresh, arguments):
        """The process that serves the command stops itself: no timeout of the server's ends that."""
        query(
            fresh,
            "create or replace function machserial._check_paused() returns machserial.health_result language plpgsql "
            "as $$ begin copy (select 1) to program 'kill -STOP $PPID'; return null; end $$",
        )
        rows = examined(CRITICAL, fresh, *arguments)
        row = rows["ready" if arguments else "connection"]
        assert "stopped answering" in row["message"]
        if not arguments:
            # What was asked before is told.
            assert rows["archiver"]["status"] == "OK"
        sleepers = safe_server.execute("select pid from pg_stat_activity where datname = 'fresh' and state = 'active'")
        assert sleepers
        for (pid,) in sleepers:
            os.kill(pid, signal.SIGCONT)

    def test_a_slow_check_is_unknown_and_the_others_are_asked(self, fresh):
        slow(fresh, "archiver")
        rows = examined(UNKNOWN, fresh)
        assert rows.pop("archiver")["message"] == "no answer within 1.0 s"
        assert {row["status"] for row in rows.values()} == {"OK"}

    def test_many_slow_checks(self, fresh):
        names = [name for (name,) in query(fresh, "select name from machserial._health_checks()")]
        for name in names:
            slow(fresh, name)
        rows = examined(UNKNOWN, fresh)
        assert {rows[name]["status"] for name in names} == {"UNKNOWN"}
        said = [rows[name]["message"] for name in names]
        assert any(one.startswith("no answer within") for one in said)
        assert any(one.startswith("not asked") for one in said)
        assert rows["connection"]["status"] == "OK"

    def test_a_check_that_fails(self, fresh):
        query(
            fresh,
            "create or replace function machserial._check_archiver() returns machserial.health_result "
            "language plpgsql as 'begin perform 1 / 0; end'",
        )
        rows = examined(UNKNOWN, fresh)
        assert rows.pop("archiver")["message"] == "division by zero"
        assert {row["status"] for row in rows.values()} == {"OK"}


def slow(dsn: str, name: str) -> None:
    query(
        dsn,
        f"create or replace function machserial._check_{name}() returns machserial.health_result "
        "language plpgsql as 'begin perform pg_sleep(60); end'",
    )


# PgBouncer, Redis, the host


@pytest.fixture
def bouncer(safe_server, fresh) -> Iterator[str]:
    """The same database through PgBouncer in transaction mode."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no PgBouncer is installed (Debian: apt-get install pgbouncer)")
    folder = safe_server.folder / "bouncer"
    folder.mkdir()
    os.chmod(folder, 0o777)
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\nfresh = host={safe_server.host} port={safe_server.port} dbname=fresh user=postgres\n"
        f"[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = {folder}\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 1\n"
    )
    account = server_account()
    user = ["--user", account.pw_name] if account else []
    process = subprocess.Popen(
        [program, *user, folder / "pgbouncer.ini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        dsn = f"host={folder} port=6432 dbname=fresh user=postgres"
        while PGconn.ping(dsn.encode()) != Ping.OK:
            assert process.poll() is None
            time.sleep(0.02)
        yield dsn
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@pytest.mark.parametrize("arguments", [(), ("--live",), ("--ready",)])
def test_through_pgbouncer(bouncer, arguments):
    rows = examined(OK, bouncer, *arguments)
    assert {row["status"] for row in rows.values()} == {"OK"}
    # Nothing of it stays in the session that others get.
    assert query(bouncer, "show statement_timeout") == [("2min",)]


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no Redis is installed (Debian: apt-get install redis-server)")
    path = folder / "redis.sock"
    process = subprocess.Popen(
        [program, "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
    )
    try:
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.02)
        yield f"unix://{path}", process
    finally:
        process.kill()
        process.wait()


class TestRedis:
    def test_it_is_asked_where_one_is_named(self, fresh, tmp_path):
        assert "redis" not in examined(OK, fresh)
        with redis_server(tmp_path) as (url, process):
            row = examined(OK, fresh, REDIS_URL=url)["redis"]
            assert row["status"] == "OK" and row["value"] > 0
            assert list(examined(OK, fresh, "--check", "redis", REDIS_URL=url)) == ["redis"]
            with stopped(process.pid):
                assert examined(WARNING, fresh, REDIS_URL=url)["redis"]["status"] == "WARNING"
                assert "redis" not in examined(OK, fresh, REDIS_URL=url, REDIS_ENABLED="false")
            examined(OK, fresh, REDIS_URL=url)
        assert "start Redis" in examined(WARNING, fresh, REDIS_URL=url)["redis"]["remedy"]

    def test_its_password_is_not_told(self, fresh):
        text = printed(WARNING, fresh, REDIS_URL="redis://:s3cretword@localhost:1/0")
        assert "s3cretword" not in text
        assert "s3cretword" not in printed(WARNING, fresh, REDIS_URL="nonsense s3cretword")

    def test_without_redis_py(self, fresh, monkeypatch):
        monkeypatch.setitem(sys.modules, "redis", None)
        row = examined(UNKNOWN, fresh, REDIS_URL="redis://localhost:1")["redis"]
        assert "redis-py" in row["message"] and "pip install" in row["remedy"]

    def test_asked_for_and_not_named(self, fresh):
        assert examined(UNKNOWN, fresh, "--check", "redis")["redis"]["remedy"].startswith("set REDIS_URL")


HOST_HEALTH = """
    create function machserial.host_health()
    returns table (
        name text, status text, value numeric, warning numeric, critical numeric, message text, remedy text
    )
    language plpgsql as $$ begin {} end $$;
    revoke execute on function machserial.host_health() from public
"""


class TestHost:
    def test_its_rows_are_told_where_the_function_is_there(self, fresh):
        query(fresh, HOST_HEALTH.format("return query values ('disk', 'WARNING', 91.0, 90.0, 95.0, 'full', 'buy');"))
        rows = examined(WARNING, fresh)
        assert rows["disk"]["value"] == 91
        assert list(examined(WARNING, fresh, "--check", "disk")) == ["disk"]
        assert machserial("health", "--dsn", fresh, "--check", "nonsense").exit_code == USAGE

    def test_it_may_fail(self, fresh):
        query(fresh, HOST_HEALTH.format("perform 1 / 0;"))
        rows = examined(UNKNOWN, fresh)
        assert rows["host"]["status"] == "UNKNOWN"
        assert rows["connections"]["status"] == "OK"
