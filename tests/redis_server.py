"""Starting a real Redis and a real PgBouncer for tests: private, on sockets in a temporary folder, gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import redis
from psycopg.conninfo import make_conninfo
from servers import Server, die_with_parent, server_account, usual_folder


def program(name: str, package: str) -> str:
    """Its path; the test is skipped where it is not installed."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if not found:
        pytest.skip(f"no {name} is installed (Debian: apt-get install {package})")
    return found


class RedisServer:
    """One Redis. It may be stopped, started anew (it is empty then), paused and resumed."""

    def __init__(self) -> None:
        self.program = program("redis-server", "redis-server")
        self.folder = Path(tempfile.mkdtemp(prefix="machserial-redis-"))
        self.url = f"unix://{self.folder}/redis.sock"
        # The tests' own way in, which waits.
        self.client = redis.Redis.from_url(self.url, socket_timeout=30)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self, *options: str) -> None:
        command = [self.program, "--port", "0", "--unixsocket", f"{self.folder}/redis.sock", "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no", *options]
        with (self.folder / "redis.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.client.ping()
                return
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline, (self.folder / "redis.log").read_text()
                time.sleep(0.01)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        self.client.close()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class PgBouncer:
    """A PgBouncer in transaction mode before a server."""

    def __init__(self, server: Server) -> None:
        path = program("pgbouncer", "pgbouncer")
        account = server_account()
        self.folder = Path(tempfile.mkdtemp(prefix="machserial-pgbouncer-", dir=usual_folder()))
        self.server = server
        configuration = self.folder / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = host={server.host} port={server.port} user={server.user}\n"
            f"[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = {self.folder}\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 100\n"
        )
        privileges = {}
        if account:
            for one in (self.folder, configuration):
                os.chown(one, account.pw_uid, account.pw_gid)
            privileges = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self.log = self.folder / "pgbouncer.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [path, configuration], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                preexec_fn=die_with_parent, **privileges,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while not (self.folder / ".s.PGSQL.6432").exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def dsn(self, dbname: str) -> str:
        return make_conninfo(host=str(self.folder), port=6432, user=self.server.user, dbname=dbname)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)
