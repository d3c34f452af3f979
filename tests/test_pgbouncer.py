"""The command works through PgBouncer in transaction mode, where each transaction may meet another session."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from audit_history import History
from command import OK, REFUSED, Command
from servers import die_with_parent, server_account
from test_leftovers import left_behind

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
ignore_startup_parameters = extra_float_digits
logfile = {folder}/pgbouncer.log
pidfile = {folder}/pgbouncer.pid
"""


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def pooled(server, deployed_dsn) -> Iterator[Command]:
    """The command at a database that it reaches through PgBouncer only."""
    if PGBOUNCER is None:
        pytest.skip("there is no pgbouncer (Debian: apt-get install pgbouncer)")
    account, port = server_account(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="machserial-", dir="/tmp"))
    (folder / "pgbouncer.ini").write_text(
        CONFIGURATION.format(host=server.host, port=server.port, user=server.user, own_port=port, folder=folder)
    )
    privileges = {}
    if account:
        for path in (folder, folder / "pgbouncer.ini"):
            os.chown(path, account.pw_uid, account.pw_gid)
        privileges = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    process = subprocess.Popen(
        [PGBOUNCER, "-q", folder / "pgbouncer.ini"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, cwd=folder, preexec_fn=die_with_parent, **privileges,
    )  # fmt: skip
    name = psycopg.conninfo.conninfo_to_dict(deployed_dsn)["dbname"]
    dsn = psycopg.conninfo.make_conninfo(host="127.0.0.1", port=port, user=server.user, dbname=name)
    try:
        await_readiness(process, dsn, folder)
        yield Command(dsn)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        shutil.rmtree(folder)


def await_readiness(process: subprocess.Popen, dsn: str, folder: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            psycopg.connect(dsn).close()
            return
        except psycopg.OperationalError:
            log = folder / "pgbouncer.log"
            assert process.poll() is None and time.monotonic() < deadline, log.read_text() if log.exists() else ""
            time.sleep(0.05)


def settings_of_the_pool(pooled) -> dict[int, set[str]]:
    """Of each of its sessions what is set there, but for what PgBouncer sets anew for each client."""
    found = {}
    with psycopg.connect(pooled.dsn) as one, psycopg.connect(pooled.dsn) as other:
        for connection in (one, other):
            connection.execute("do $$ begin end $$")
            pid = connection.execute("select pg_backend_pid()").fetchone()[0]
            found[pid] = {text for _, text in left_behind(connection) if not text.startswith("application_name ")}
    assert len(found) == 2
    return found


def changed(before: dict[int, set], after: dict[int, set]) -> dict[int, set]:
    assert before.keys() == after.keys()
    return {pid: before[pid] ^ after[pid] for pid in before if before[pid] != after[pid]}


def test_a_day_of_work(pooled, tmp_path, deployed_dsn):
    """The transactions of one command line may be carried out by different sessions of the server.

    Of none of them is anything left in a session, which is somebody else's next.
    """
    History(deployed_dsn)
    before = settings_of_the_pool(pooled)
    pooled.query("select machserial.register_part('P', 'T'), machserial.register_part('Q', 'T')")
    for arguments in (
        ("deploy",),
        ("version",),
        ("format", "create", "F", "F{SEQ:6}{CHECK:luhn}"),
        ("format", "assign", "P", "F"),
        ("generate", "P", "--quantity", "20"),
        ("generate", "P", "--quantity", "2", "--request-id", "r"),
        ("vendor", "receive", "V-1", "V-2", "--vendor", "Foundry", "--part", "Q"),
        ("vendor", "accept", "--all", "--vendor", "Foundry"),
        ("blocks", "allocate", "F", "10", "--holder", "LINE", "--part", "P"),
        ("blocks", "list"),
        ("placeholders", "create", "P"),
        ("serial", "find", "V-1"),
        ("lineage", "show", "V-1"),
        ("lineage", "verify"),
        ("conflicts", "list"),
        ("audit", "list"),
        ("audit", "seal"),
        ("audit", "verify", "--full"),
        ("audit", "archive", "--older-than", "30d", "--to", str(tmp_path), "--drop", "--yes"),
        ("audit", "restore", str(tmp_path), "--month", "2025-10"),
        ("audit", "export", "--printable"),
        # The old events are of serials that never were.
        ("integrity", "--only", "claims"),
        ("connections",),
        ("connections", "--terminate-idle", "1d", "--yes"),
        ("indexes",),
        ("privileges", "--drift"),
        ("settings", "set", "batch_size", "7"),
        ("settings", "list"),
    ):
        result = pooled.run(*arguments)
        assert result.exit_code == OK, f"{arguments}: {result.output}"
        assert changed(before, settings_of_the_pool(pooled)) == {}, arguments
    assert pooled.query("select count(*) from machserial.serials where part_id = 'P'") == [(22,)]


def test_an_actor_and_a_reason_of_one_command_do_not_stay_with_the_session(pooled):
    pooled.query("select machserial.register_part('P', 'T'), machserial.create_format('F', 'F{SEQ:6}')")
    block = pooled.answer("blocks", "allocate", "F", "10", "--holder", "LINE", "--part", "P")
    pooled.answer("blocks", "return", str(block["block_id"]), "--reason", "the line is closed")
    for _ in range(4):
        assert pooled.query("select coalesce(current_setting('machserial.reason', true), '')") == [("",)]


def test_a_setting_that_is_left_in_the_pool_is_noticed(pooled):
    before = settings_of_the_pool(pooled)
    with psycopg.connect(pooled.dsn, autocommit=True) as connection:
        connection.execute("set lock_timeout = '1s'")
    assert set(*changed(before, settings_of_the_pool(pooled)).values()) == {
        "lock_timeout 0 default", "lock_timeout 1000 session"
    }  # fmt: skip


def test_what_needs_a_session_says_so(pooled):
    pooled.query("drop index machserial.serials_look_alike")
    line = pooled.refusal(REFUSED, "indexes", "--repair")
    assert "pooler" in line and "connect to PostgreSQL itself" in line
