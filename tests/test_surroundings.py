"""The command where things are not as usual: encodings of the database and of the terminal, languages, answers."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest
from command import (
    COMMAND,
    CONNECTION,
    INTERRUPTED,
    OK,
    PRIVILEGE,
    REFUSED,
    Command,
    environment,
    in_a_process,
    machserial,
    refusal,
    usage,
)
from machserial import errors, output, programs, refusals
from machserial.cache import UniquenessCache
from servers import choose_bin
from support import call, mostly_slow
from test_cli import PASSWORD, closed_port
from test_connection_errors import Guarded

ONE_MODE = True
DASH = "Wellen \N{EN DASH} gro\N{LATIN SMALL LETTER SHARP S}"


# Databases in other encodings


def make_plant(command: Command, name: str) -> None:
    """A part of that name, with three serials; the work order has the name as well."""
    command.answer("deploy")
    with psycopg.connect(command.dsn, client_encoding="UTF8") as connection:
        call(connection, "register_part", part_id="P", part_type="T", name=name)
        call(connection, "create_format", name="F", pattern="F{SEQ:6}")
        call(connection, "assign_format", part_id="P", format="F")
    command.answer("generate", "P", "--quantity", "3", "--context", f"work_order_id={name}")


@pytest.fixture
def encoded(server):
    """encoded(encoding): a command at an empty database in that encoding."""
    names = []

    def create(encoding: str) -> Command:
        names.append(f"in_{encoding.lower()}_{len(names)}")
        locale = "template template0 lc_collate 'C' lc_ctype 'C'"
        server.execute(f"create database {names[-1]} {locale} encoding '{encoding}'")
        return Command(server.dsn(names[-1]))

    yield create
    for name in names:
        server.execute(f"drop database {name} with (force)")


ENCODINGS = [("SQL_ASCII", DASH), ("LATIN1", "Wellen groß")]


@pytest.mark.parametrize(("encoding", "name"), mostly_slow(ENCODINGS, ENCODINGS[:1]))
def test_text_is_text_in_every_encoding(server, encoded, encoding, name, tmp_path):
    programs = ("--bin", str(server.tool("pg_dump").parent))
    plant = encoded(encoding)
    make_plant(plant, name)
    (found,) = plant.answer("serial", "find", "F000002")
    assert (found["serial_number"], found["work_order_id"]) == ("F000002", name)
    assert name in plant.run("serial", "find", "F000002").stdout
    for command in (
        ("integrity",), ("health", "--check", "paused"), ("audit", "seal"), ("audit", "verify", "--full"),
        ("audit", "export"), ("lineage", "show", "F000002"), ("support-bundle", str(tmp_path / "x")),
    ):  # fmt: skip
        assert plant.run(*command).exit_code == OK, command
    assert name in plant.run("audit", "export").stdout
    with psycopg.connect(plant.dsn) as connection:
        cache = UniquenessCache(connection)
        assert cache.is_taken("F000002", "P") and str(cache.key("F000002", "P", None, None)).startswith("machserial.")
    backup = tmp_path / "Sicherung \N{EN DASH} groß"
    assert plant.answer("backup", str(backup), *programs)["counters"][0]["format"] == "F"
    copy = encoded(encoding)
    assert copy.answer("restore", str(backup), *programs)["serials"] == 3
    assert copy.answer("serial", "find", "F000002") == [found]
    assert "Sicherung" in copy.answer("pause", "--status")["reason"]


def test_bytes_that_are_no_text_are_refused(encoded):
    """SQL_ASCII takes everything; what is not UTF-8 cannot be shown, and that is said."""
    plant = encoded("SQL_ASCII")
    make_plant(plant, "Wellen")
    with psycopg.connect(plant.dsn, client_encoding="SQL_ASCII") as connection:
        connection.execute("update machserial.serials set work_order_id = convert_from('\\xdf', 'SQL_ASCII')")
    line = plant.refusal(REFUSED, "serial", "find", "F000002")
    assert "UTF-8" in line and "remedy:" in line
    assert plant.answer("generate", "P")[0]["serial_number"] == "F000004"


def test_a_character_that_the_database_has_not(encoded):
    plant = encoded("LATIN1")
    make_plant(plant, "Wellen")
    line = plant.refusal(REFUSED, "generate", "P", "--context", f"work_order_id={DASH}")
    assert "encoding of the database" in line


# Terminals in other encodings


@pytest.fixture
def dashed(deployed_dsn: str) -> Command:
    command = Command(deployed_dsn)
    make_plant(command, DASH)
    return command


def in_ascii(*arguments: str, **extra: str) -> subprocess.CompletedProcess:
    """What the command prints into a pipe that takes ASCII, as bytes."""
    said = environment(PYTHONIOENCODING="ascii", LANG="C") | extra
    return subprocess.run(
        [*COMMAND, *arguments], env=said, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )


@pytest.mark.parametrize("encoding", mostly_slow(["ascii", "latin-1", "ascii:strict"], ["ascii"]))
@pytest.mark.parametrize(
    "arguments",
    [
        ("serial", "find", "F000002"),
        ("--json", "serial", "find", "F000002"),
        ("lineage", "show", "F000002"),
        ("audit", "list"),
        ("health", "--check", "paused", "--format", "nagios"),
    ],
)
def test_what_cannot_be_printed_is_escaped(dashed, encoding, arguments):
    result = in_ascii("--dsn", dashed.dsn, *arguments, PYTHONIOENCODING=encoding)
    assert result.returncode == OK, result.stderr
    said = result.stdout.decode(encoding.partition(":")[0])
    if "--json" in arguments:
        assert json.loads(said)[0]["work_order_id"] == DASH
    elif "find" in arguments:
        assert "\\u2013" in said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_help_is_printed_anywhere(encoding):
    result = in_ascii("--help", PYTHONIOENCODING=encoding)
    assert (result.returncode, result.stderr) == (OK, b"")


def test_errors_are_escaped_as_well(dashed):
    for arguments in ((), ("--json",)):
        result = in_ascii(*arguments, "--dsn", dashed.dsn, "generate", DASH)
        assert result.returncode == REFUSED
        assert "\\u2013" in result.stderr.decode("ascii")
    assert DASH in json.loads(result.stderr)["error"]["message"]


def test_a_terminal_that_prints_everything_gets_everything(dashed):
    result = in_a_process("--dsn", dashed.dsn, "--json", "serial", "find", "F000002", PYTHONIOENCODING="utf-8")
    assert DASH in result.stdout


# Languages


class German(Guarded):
    """Speaks German, if the machine has what it takes."""

    def _initdb(self, own_binaries: Path, account) -> None:
        super()._initdb(own_binaries, account)
        catalogs = Path("/usr/share/locale")
        beside = self.folder / "tree" / "share" / "locale"
        if catalogs.exists() and not beside.exists():
            beside.parent.mkdir(exist_ok=True)
            beside.symlink_to(catalogs)


@pytest.fixture(scope="module")
def german(request):
    if not shutil.which("localedef"):
        pytest.skip("needs localedef to make the locale de_DE.UTF-8")
    with tempfile.TemporaryDirectory(prefix="machserial-locales-", dir="/tmp") as folder:
        yield from german_server(request, Path(folder))


def german_server(request, locales: Path):
    command = ["localedef", "-i", "de_DE", "-f", "UTF-8", locales / "de_DE.UTF-8"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if not (locales / "de_DE.UTF-8").exists():
        pytest.skip(f"the locale de_DE.UTF-8 cannot be made: {made.stderr}")
    locales.chmod(0o755)  # the server runs as another user
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCPATH", str(locales))
        server = German(
            choose_bin(request.config.getoption("--pg-bin")), listen_addresses="127.0.0.1", lc_messages="de_DE.UTF-8"
        )
        server.port = closed_port()
        server.start()
        try:
            with pytest.raises(psycopg.Error) as raised:
                server.execute("select 1 / 0")
            if "division by zero" in str(raised.value):
                pytest.skip("this server was built without its translations, or has none")
            server.execute(f"create role plant login password '{PASSWORD}'")
            server.execute("create database plant owner plant")
            yield server
        finally:
            server.stop()


class TestGerman:
    @pytest.mark.parametrize(
        ("rule", "changes", "expected"),
        [
            ("trust", {"dbname": "none_here"}, ('no database "none_here"', "createdb")),
            ("trust", {"user": "nobody_here"}, ('no role "nobody_here"', "createuser")),
            ("scram-sha-256", {"password": "wrong"}, ('does not accept user "plant"', "password")),
            ("scram-sha-256", {}, ("asks for a password", "PGPASSWORD")),
            ("reject", {"sslmode": "prefer"}, ("pg_hba.conf",)),
            ("reject", {"sslmode": "disable"}, ("without encryption", "sslmode=require")),
        ],
    )
    def test_the_cause_is_known(self, german, rule, changes, expected, tmp_path):
        german.admit(f"host all all 127.0.0.1/32 {rule}")
        line = refusal(
            CONNECTION, "--dsn", german.tcp(**changes), "deploy",
            HOME=str(tmp_path), PGPASSFILE=str(tmp_path / "none"), LC_ALL="de_DE.UTF-8",
        )  # fmt: skip
        for text in (*expected, "remedy:"):
            assert text in line
        assert PASSWORD not in line

    def test_no_right_to_connect_and_no_room(self, german):
        german.admit("host all all 127.0.0.1/32 trust")
        german.execute("create role guest login")
        german.execute("revoke connect on database plant from public")
        assert "may not connect" in refusal(CONNECTION, "--dsn", german.tcp(user="guest"), "deploy")
        german.execute("alter database plant connection limit 0")
        assert "no free connection" in refusal(CONNECTION, "--dsn", german.tcp(), "deploy")
        german.execute("alter database plant allow_connections false")
        assert "takes no connections" in refusal(CONNECTION, "--dsn", german.tcp(), "deploy")
        german.execute("alter database plant allow_connections true")
        german.execute("alter database plant connection limit -1")

    def test_nothing_listens(self, german):
        line = refusal(CONNECTION, "--dsn", german.tcp(port=str(closed_port())), "deploy", LC_ALL="de_DE.UTF-8")
        assert "nothing listens there" in line

    def test_refusals_are_told_from_faults(self, german, tmp_path):
        german.admit("host all all 127.0.0.1/32 trust")
        plant = Command(german.tcp())
        plant.answer("deploy", "--plain")
        assert "remedy:" in plant.refusal(REFUSED, "generate", "NONE")
        stranger = Command(german.dsn("plant", user="postgres", options="-c role=pg_monitor"))
        assert stranger.run("settings", "list").exit_code == PRIVILEGE
        assert plant.run("health", "--ready").exit_code == OK
        plant.query("alter database plant set default_transaction_read_only = on")
        assert "default_transaction_read_only" in plant.refusal(REFUSED, "pause", "--reason", "x")
        german.execute("alter database plant reset default_transaction_read_only")
        # The programs of PostgreSQL speak German as well.
        german.execute("create table public.others (a text)", dbname="plant")
        result = plant.run("backup", str(tmp_path / "x"))
        assert result.exit_code == REFUSED
        assert "others" in result.stderr and "remedy:" in result.stderr

    def test_a_lost_connection(self, german):
        german.admit("host all all 127.0.0.1/32 trust")
        with pytest.raises(psycopg.Error) as raised, psycopg.connect(german.tcp()) as session:
            german.execute("select pg_terminate_backend(%s)", (session.info.backend_pid,))
            session.execute("select 1")
        assert errors.from_database(raised.value).exit_code == CONNECTION


def test_a_refusal_is_read_from_what_libpq_writes_down():
    trace = (
        'F\t37\tStartupMessage\t 3 0 "user" "x" "database" "y"\n'
        'B\t89\tErrorResponse\t S "FATAL" V "FATAL" C "28000" M "»x« C "3D000"" F "auth.c" L "3" R "auth_failed"\n'
    )
    assert refusals._refusal(trace) == refusals.Refusal("28000", "auth_failed")
    assert refusals._refusal('F\t1\tX\nB\t89\tErrorResponse\t S "F" C "08P01" M "no such user"\n').routine is None
    assert refusals._refusal("") is None


@pytest.mark.parametrize(
    ("program", "said", "expected"),
    [
        ("psql", "psql:<stdin>:3: HINWEIS:  x\npsql:<stdin>:9: FEHLER:  y\nDETAIL:  z\n", "FEHLER:  y; DETAIL:  z"),
        ("pg_dump", "pg_dump: warning: x\npg_dump: error: query failed: FEHLER:  kaputt\n", "FEHLER:  kaputt"),
        ("pg_restore", "Segmentation fault\n", "Segmentation fault"),
    ],
)
def test_the_last_words_of_a_program(program, said, expected):
    found = programs.failed(Path(program), said).detail
    assert found.endswith(expected)
    assert "HINWEIS" not in found and "warning" not in found


# Answers


class TestConfirm:
    """What backup, fence, cache flush, support-bundle, audit archive and connections ask, they ask by one function."""

    def test_no_does_nothing_and_is_no_interruption(self, deployed_dsn, tmp_path):
        (tmp_path / "x").write_text("old")
        for answer in (b"n\n", b"\n", b"nonsense\n"):
            result = machserial("--dsn", deployed_dsn, "support-bundle", str(tmp_path / "x"), stdin=answer)
            assert (result.exit_code, result.stdout) == (REFUSED, "")
            assert "Replace it? [y/N]" in result.stderr and "nothing was done" in result.stderr
        assert (tmp_path / "x").read_text() == "old"

    def test_nobody_is_there(self, deployed_dsn, tmp_path):
        (tmp_path / "x").write_text("old")
        result = in_ascii("--dsn", deployed_dsn, "support-bundle", str(tmp_path / "x"))
        assert result.returncode == REFUSED
        assert b"nothing was done" in result.stderr and b"give --yes" in result.stderr

    def test_interrupting_the_question(self, deployed_dsn, tmp_path):
        (tmp_path / "x").write_text("old")
        with subprocess.Popen(
            [*COMMAND, "--dsn", deployed_dsn, "support-bundle", str(tmp_path / "x")],
            env=environment(), stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            asked = b""
            while not asked.endswith(b"[y/N]: "):
                asked += process.stderr.read(1)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == INTERRUPTED

    def test_no_command_asks_otherwise(self):
        source = Path(output.__file__).parent
        assert [path for path in source.rglob("*.py") if re.search(r"click\.(confirm|prompt)", path.read_text())] == []


# Durations


def test_a_minute_is_a_minute_everywhere():
    assert "m means minutes" in usage("audit", "archive", "--to", "/nowhere", "--older-than", "6m")
    for help_text in (machserial("connections", "--help"), machserial("indexes", "--help")):
        assert "10m (minutes)" in " ".join(help_text.stdout.split())
