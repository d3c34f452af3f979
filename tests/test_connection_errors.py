"""Which of the usual troubles keeps the command from its database: each on a real server that has it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from command import CONNECTION, NOT_DEPLOYED, Command, in_a_process, machserial, query, refusal
from conftest import BUILD, install
from machserial import connection
from machserial.errors import ExpectedError
from machserial.masking import masked
from psycopg.conninfo import make_conninfo
from servers import Server, choose_bin, server_account
from test_cli import PASSWORD, closed_port

NO_OPENSSL = "needs openssl to make a certificate: install the package openssl"


class Guarded(Server):
    """A server on a TCP port, whose pg_hba.conf the tests write. Its superuser comes in by the socket."""

    def admit(self, *lines: str) -> None:
        """From now on TCP connections are let in by these lines."""
        rules = ["local all postgres trust", *lines]
        (self.folder / "data" / "pg_hba.conf").write_text("\n".join(rules) + "\n")
        self.execute("select pg_reload_conf()")
        # The next connection is checked by the new rules: the postmaster has read them when its log is quiet.
        self.execute("select pg_sleep(0.2)")

    def tcp(self, **options: str) -> str:
        return make_conninfo(self.dsn("plant"), **{"host": "127.0.0.1", "user": "plant", **options})


@pytest.fixture(scope="module")
def guarded(request):
    server = Guarded(choose_bin(request.config.getoption("--pg-bin")), listen_addresses="127.0.0.1")
    server.port = closed_port()
    server.start()
    server.install_extension(BUILD)
    server.execute(f"create role plant login password '{PASSWORD}'")
    server.execute("create database plant owner plant")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def certificate(guarded):
    """The server's certificate, for 127.0.0.1, signed by itself."""
    if not shutil.which("openssl"):
        pytest.skip(NO_OPENSSL)
    data = guarded.folder / "data"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=elsewhere",
         "-addext", "subjectAltName=DNS:elsewhere", "-keyout", data / "server.key", "-out", data / "server.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    if account := server_account():
        for name in ("server.key", "server.crt"):
            os.chown(data / name, account.pw_uid, account.pw_gid)
    (data / "server.key").chmod(0o600)
    return data / "server.crt"


@contextmanager
def encryption(server: Guarded):
    if server.execute("show ssl_library") == [("",)]:
        pytest.skip("this server was built without TLS")
    server.execute("alter system set ssl = on")
    server.execute("select pg_reload_conf()")
    server.execute("select pg_sleep(0.2)")
    assert server.execute("show ssl") == [("on",)]
    try:
        yield
    finally:
        server.execute("alter system reset ssl")
        server.execute("select pg_reload_conf()")


def told(dsn: str, *expected: str, **environment: str) -> str:
    line = refusal(CONNECTION, "--dsn", dsn, "deploy", **environment)
    for text in (*expected, "remedy:"):
        assert text in line
    assert "Tr0ub4dor" not in line
    return line


class TestWho:
    def test_a_wrong_password(self, guarded):
        guarded.admit("host all all 127.0.0.1/32 scram-sha-256")
        told(guarded.tcp(password="wrong"), 'does not accept user "plant"', "password")

    @pytest.mark.parametrize("word", ["accept", "password", "user"])
    def test_a_password_that_is_a_word_of_the_message(self, guarded, word):
        guarded.admit("host all all 127.0.0.1/32 scram-sha-256")
        line = told(guarded.tcp(password=word), 'does not accept user "plant"', "password")
        assert "***" not in line

    def test_no_password(self, guarded, tmp_path):
        guarded.admit("host all all 127.0.0.1/32 scram-sha-256")
        told(guarded.tcp(), "asks for a password", "PGPASSWORD", HOME=str(tmp_path), PGPASSFILE=str(tmp_path / "none"))

    def test_the_right_password(self, guarded):
        guarded.admit("host all all 127.0.0.1/32 scram-sha-256")
        assert Command(guarded.tcp(password=PASSWORD)).answer("version")["server"]

    def test_no_such_role_and_no_such_database(self, guarded):
        guarded.admit("host all all 127.0.0.1/32 trust")
        told(guarded.tcp(user="nobody_here"), 'no role "nobody_here"', "createuser")
        told(guarded.tcp(dbname="none_here"), 'no database "none_here"', "createdb")

    def test_no_rule_lets_it_in(self, guarded):
        guarded.admit("host all someone_else 127.0.0.1/32 trust")
        told(guarded.tcp(sslmode="disable"), "pg_hba.conf")

    def test_it_may_not_connect(self, guarded):
        guarded.admit("host all all 127.0.0.1/32 trust")
        guarded.execute("create role guest login")
        guarded.execute("revoke connect on database plant from public")
        told(guarded.tcp(user="guest"), 'may not connect to database "plant"', "grant connect")
        guarded.execute("grant connect on database plant to public")

    def test_no_connection_is_free(self, guarded):
        guarded.admit("host all all 127.0.0.1/32 trust")
        guarded.execute("alter database plant connection limit 1")
        with psycopg.connect(guarded.tcp()):
            told(guarded.tcp(), "no free connection", "PgBouncer")
        guarded.execute("alter database plant connection limit -1")


class TestEncryption:
    def test_the_server_has_none(self, guarded):
        guarded.admit("host all all 127.0.0.1/32 trust")
        for sslmode in ("require", "verify-ca"):
            told(guarded.tcp(sslmode=sslmode, sslrootcert="/dev/null"), "offers no encryption", "ssl")

    def test_the_server_demands_it(self, guarded, certificate):
        guarded.admit("hostssl all all 127.0.0.1/32 trust")
        with encryption(guarded):
            told(guarded.tcp(sslmode="disable"), "without encryption", "sslmode=require")
            assert Command(guarded.tcp(sslmode="require")).answer("version")["server"]

    def test_the_authority_is_unknown(self, guarded, certificate, tmp_path):
        guarded.admit("host all all 127.0.0.1/32 trust")
        with encryption(guarded):
            told(guarded.tcp(sslmode="verify-ca", sslrootcert=str(tmp_path / "none")), "certificates", "sslrootcert")
            other = tmp_path / "other.crt"
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-keyout",
                 tmp_path / "other.key", "-out", other],
                check=True, capture_output=True,
            )  # fmt: skip
            told(guarded.tcp(sslmode="verify-ca", sslrootcert=str(other)), "certificates", "sslrootcert")

    def test_the_certificate_is_of_another_host(self, guarded, certificate, tmp_path):
        guarded.admit("host all all 127.0.0.1/32 trust")
        known = tmp_path / "server.crt"
        known.write_bytes(Path(certificate).read_bytes())
        with encryption(guarded):
            told(guarded.tcp(sslmode="verify-full", sslrootcert=str(known)), "certificates", "host's name")
            assert Command(guarded.tcp(sslmode="verify-ca", sslrootcert=str(known))).answer("version")["server"]

    def test_something_else_listens_there(self):
        """Who answers anything but S or N to the question for encryption is no PostgreSQL."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            def talk() -> None:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(100)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            thread = threading.Thread(target=talk)
            thread.start()
            told(f"host=127.0.0.1 port={listener.getsockname()[1]} sslmode=require dbname=x user=x", "remedy")
            thread.join()


class TestServer:
    def test_it_hangs(self, request):
        """The kernel takes the connection, the server does not: nobody waits for ever."""
        with Server(choose_bin(request.config.getoption("--pg-bin"))) as server:
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                told(server.dsn("postgres"), "in time", "DATABASE_TIMEOUT", DATABASE_TIMEOUT="2000")
            finally:
                os.kill(server.process.pid, signal.SIGCONT)

    def test_it_is_stopped(self, request):
        with Server(choose_bin(request.config.getoption("--pg-bin"))) as server:
            dsn = server.dsn("postgres")
            server.process.send_signal(signal.SIGINT)
            server.process.wait(20)
            told(dsn, "start the server")

    def test_it_is_starting_up(self, request):
        """A server that recovers takes connections long before it answers them."""
        server = Server(choose_bin(request.config.getoption("--pg-bin")), hot_standby="off")
        server._await_readiness = lambda: None
        server.start()
        try:
            Server._await_readiness(server)
            server.process.send_signal(signal.SIGINT)
            server.process.wait(20)
            # A standby that has nobody to follow is starting up for ever.
            signalling = server.folder / "data" / "standby.signal"
            signalling.touch()
            if account := server_account():
                os.chown(signalling, account.pw_uid, account.pw_gid)
            server._launch(next(server.folder.rglob("tree/**/postgres")).parent, server_account())
            deadline = 200
            while deadline and "starting up" not in (line := refusal(CONNECTION, "--dsn", server.dsn("x"), "deploy")):
                deadline -= 1
            assert "try again" in line
        finally:
            server.process.send_signal(signal.SIGQUIT)
            server.stop()

    def test_the_connection_is_lost(self, dsn):
        """An administrator ends the session in the middle of a command."""
        query(dsn, (BUILD / "machserial.sql").read_text())
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("select machserial.migrate()")
            other.execute(
                "create function machserial.hang() returns trigger language plpgsql as "
                "$$ begin perform pg_terminate_backend(pg_backend_pid()); return null; end $$"
            )
            other.execute(
                "create trigger hang before insert on machserial.parts "
                "for each statement execute function machserial.hang()"
            )
        result = machserial("--dsn", dsn, "demo")
        assert result.exit_code == CONNECTION
        assert "lost" in result.stderr


class TestSchema:
    def test_machserial_is_absent(self, dsn):
        line = refusal(NOT_DEPLOYED, "--dsn", dsn, "pause", "--status")
        assert "not deployed" in line or "machserial deploy" in line

    def test_the_schema_is_older_than_the_code(self, dsn):
        with psycopg.connect(dsn) as connection:
            install(connection, "plain")
            connection.execute("drop table machserial.counter_fences, machserial.pauses cascade")
            connection.execute("delete from machserial.schema_migrations where version >= 15")
        line = refusal(NOT_DEPLOYED, "--dsn", dsn, "pause", "--status")
        assert "older" in line
        assert "machserial deploy" in line

    def test_the_schema_is_newer_than_the_code(self, dsn):
        with psycopg.connect(dsn) as connection:
            install(connection, "plain")
            connection.execute("insert into machserial.schema_migrations values (99, 'x', 'x', '9')")
        assert "newer" in refusal(NOT_DEPLOYED, "--dsn", dsn, "migrate", "up")


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --")])
def test_completion(shell, word):
    result = in_a_process("completion", shell)
    assert result.returncode == 0, result.stderr
    assert word in result.stdout
    assert "_MACHSERIAL_COMPLETE" in result.stdout


def test_completion_completes():
    """What bash is told when somebody types: machserial mi<tab>, and machserial migrate ve<tab>."""
    for words, expected in (("machserial mi", "migrate"), ("machserial migrate ve", "verify")):
        result = in_a_process(
            _MACHSERIAL_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1)
        )
        assert result.stdout.split(",")[-1].strip() == expected, result.stderr


def test_the_password_is_not_shown(guarded):
    """--verbose says how it connects, not with what."""
    guarded.admit("host all all 127.0.0.1/32 scram-sha-256")
    result = in_a_process("--verbose", "--dsn", make_conninfo(guarded.tcp(), password=PASSWORD), "version")
    assert result.returncode == 0
    assert "Tr0ub4dor" not in result.stdout + result.stderr


def test_the_password_of_a_key_is_masked_and_on_no_command_line(dsn, monkeypatch, request):
    for name in ("PGSERVICE", "PGSERVICEFILE", "PGSSLPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    secret = "Key-Secret-77"
    place, environment = connection.for_programs(make_conninfo(dsn, sslpassword=secret))
    assert secret not in place and secret not in masked(f"it was {secret}.")
    file = Path(environment["PGSERVICEFILE"])
    assert secret in file.read_text() and file.stat().st_mode & 0o777 == 0o600
    # What is said there is enough for PostgreSQL's own programs.
    psql = subprocess.run(
        [choose_bin(request.config.getoption("--pg-bin")) / "psql", "-XAtc", "select 7", place],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert psql.stdout == "7\n"
    # Negative control: without one there is no file.
    assert "PGSERVICEFILE" not in connection.for_programs(dsn)[1]
    with pytest.raises(ExpectedError):
        connection.for_programs(f"service=x sslpassword={secret}")
