"""What the tests of the audit trail share: a second opinion on its hashes, and servers that come to grief."""

from __future__ import annotations

import datetime
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.rows import namedtuple_row
from servers import Server, ServerError, server_account
from support import value

EVENT_COLUMNS = [
    "id",
    "event_type",
    "event_source",
    "serial_id",
    "serial_number",
    "part_id",
    "site_id",
    "performed_by",
    "db_user",
    "performed_at",
    "reason",
    "details",
    "transaction_id",
]
SEAL_COLUMNS = [
    "id",
    "incarnation",
    "begins_after_id",
    "system_identifier",
    "timeline",
    "month",
    "event_count",
    "first_event_id",
    "last_event_id",
    "up_to_transaction_id",
    "up_to_event_id",
    "horizon",
    "next_transaction_id",
    "oldest_transaction_at",
    "last_given_id",
    "not_before",
    "merkle_root",
    "previous_hash",
    "sealed_at",
    "sealed_by",
    "seal_hash",
]
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


# The canonical forms and the trees, told again without the database


def canonical_value(given: object) -> bytes:
    if isinstance(given, datetime.datetime):
        return str((given - EPOCH) // datetime.timedelta(microseconds=1)).encode()
    if isinstance(given, (bytes, bytearray, memoryview)):
        return bytes(given).hex().encode()
    return str(given).encode()


def canonical(heading: str, names: list[str], row: tuple) -> bytes:
    lines = [f"{heading}\n".encode()]
    for name, given in zip(names, row, strict=True):
        if given is not None:
            written = canonical_value(given)
            lines.append(f"{name}={len(written)}:".encode() + written + b"\n")
    return b"".join(lines)


def leaf_hash(event: tuple) -> bytes:
    """Of a row of audit_events whose details are text."""
    return hashlib.sha256(b"\0" + canonical("machserial.event.1", EVENT_COLUMNS, event)).digest()


def seal_hash(seal: tuple) -> bytes:
    return hashlib.sha256(canonical("machserial.seal.1", SEAL_COLUMNS[:-1], seal[:-1])).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def split(size: int) -> int:
    """The largest power of two below size."""
    return 1 << (size - 1).bit_length() - 1


def merkle_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word by word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    middle = split(len(leaves))
    return node_hash(merkle_root(leaves[:middle]), merkle_root(leaves[middle:]))


def merkle_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1."""
    if len(leaves) <= 1:
        return []
    middle = split(len(leaves))
    if index < middle:
        return [*merkle_path(index, leaves[:middle]), merkle_root(leaves[middle:])]
    return [*merkle_path(index - middle, leaves[middle:]), merkle_root(leaves[:middle])]


def select_events(condition: str = "true") -> str:
    names = ", ".join("details::text" if name == "details" else name for name in EVENT_COLUMNS)
    return f"select {names} from machserial.audit_events where {condition} order by transaction_id, id"


def recompute(connection: psycopg.Connection) -> None:
    """Every leaf, root, hash and link, and that no event is in two seals."""
    leaves = {event[0]: leaf_hash(event) for event in connection.execute(select_events())}
    recorded = {
        seal_id: (ids, bytes(hashes))
        for seal_id, ids, hashes in connection.execute(
            "select seal_id, event_ids, leaf_hashes from machserial.audit_leaves"
        )
    }
    previous, sealed = None, []
    seals = connection.execute(f"select {', '.join(SEAL_COLUMNS)} from machserial.audit_seals order by id").fetchall()
    assert [seal[0] for seal in seals] == list(range(1, len(seals) + 1))
    for seal in seals:
        named = dict(zip(SEAL_COLUMNS, seal, strict=True))
        ids, hashes = recorded.get(named["id"], ([], b""))
        assert named["event_count"] == len(ids) <= 8192
        assert hashes == b"".join(leaves[event_id] for event_id in ids)
        assert named["merkle_root"] == merkle_root([leaves[event_id] for event_id in ids])
        assert named["seal_hash"] == seal_hash(seal)
        assert named["previous_hash"] == previous
        previous = named["seal_hash"]
        sealed += ids
    assert len(sealed) == len(set(sealed))


# Writing, sealing, verifying


def record(connection: psycopg.Connection, count: int = 1, **columns: object) -> list[int]:
    """Writes so many events; their ids."""
    names = "".join(f", {name}" for name in columns)
    values = "".join(f", %({name})s" for name in columns)
    rows = connection.execute(
        f"insert into machserial.audit_events (event_type, event_source, serial_number{names}) "
        f"overriding system value select 'TESTED', 'test', 'S-' || i{values} "
        f"from generate_series(1, {count}) as i returning id",
        columns or None,
    )
    return [row[0] for row in rows]


def begin_empty(connection: psycopg.Connection) -> None:
    """Takes away what installing has written, before anything is sealed: tests count from nothing."""
    connection.execute("set session_replication_role = replica")
    connection.execute("delete from machserial.audit_events")
    connection.execute("reset session_replication_role")


def seal(connection: psycopg.Connection) -> int:
    return value(connection, "select machserial.seal_audit()")


def problems(connection: psycopg.Connection, full: bool = True, anchor: str | None = None) -> list:
    cursor = connection.cursor(row_factory=namedtuple_row)
    return cursor.execute("select * from machserial.verify_audit(%s, %s)", (full, anchor)).fetchall()


def assert_intact(connection: psycopg.Connection) -> None:
    for full in (True, False):
        found = problems(connection, full=full)
        assert not found, found


def unsealed(connection: psycopg.Connection) -> int:
    """How many events are in no seal."""
    return value(
        connection,
        "select (select count(*) from machserial.audit_events) - "
        "(select coalesce(sum(event_count), 0)::bigint from machserial.audit_seals)",
    )


def month_of(at: datetime.date, distance: int = 0) -> datetime.date:
    """First day of the month so many months later."""
    months = at.year * 12 + at.month - 1 + distance
    return datetime.date(months // 12, months % 12 + 1, 1)


def make_month(connection: psycopg.Connection, month: datetime.date) -> str:
    """The partition of the month."""
    connection.execute("select machserial._make_audit_partition(%s)", (month,))
    return f"machserial.audit_events_{month:%Y_%m}"


# Servers of our own


def install(server: Server, dbname: str, build: Path) -> psycopg.Connection:
    """A new database with machserial; an autocommitting connection to it."""
    if not server.execute("select 1 from pg_database where datname = 'installed'"):
        server.install_extension(build)
        server.execute("create database installed")
        with psycopg.connect(server.dsn("installed"), autocommit=True) as connection:
            connection.execute("create extension machserial")
            connection.execute("select machserial.migrate()")
            begin_empty(connection)
    server.execute(f"create database {dbname} template installed")
    return psycopg.connect(server.dsn(dbname), autocommit=True)


def move(source: Server, dbname: str, target: Server, new_name: str) -> psycopg.Connection:
    """Dumps a database and restores it on that server; a connection to the copy."""
    script = source.run("pg_dump", dbname).replace("SET transaction_timeout = 0;\n", "")
    target.execute(f"drop database if exists {new_name} with (force)")
    target.execute(f"create database {new_name}")
    target.run("psql", "--quiet", "--set", "ON_ERROR_STOP=1", new_name, stdin=script)
    return psycopg.connect(target.dsn(new_name), autocommit=True)


def burn_transaction_ids(server: Server, count: int) -> None:
    server.execute(
        "do $$ begin create temp table burnt (i integer); "
        f"for i in 1..{count} loop begin insert into burnt values (i); exception when others then raise; end; "
        "end loop; "
        "end $$"
    )


def relaunch(server: Server) -> None:
    """Starts the server again, which has ended."""
    binaries = Path(server.process.args[0]).parent
    for _ in range(100):
        try:
            server._launch(binaries, server_account())
            return
        except ServerError:
            # Its orphans still hold the shared memory.
            time.sleep(0.1)
    raise AssertionError(f"does not start again: {server.log.read_text()}")


def crash(server: Server) -> None:
    """kill -9 and a restart."""
    server.process.kill()
    server.process.wait(20)
    relaunch(server)


def restart(server: Server) -> None:
    """A clean shutdown and a start."""
    server.process.send_signal(signal.SIGINT)
    server.process.wait(20)
    relaunch(server)


class Standby(Server):
    """A copy of another server, made by pg_basebackup."""

    def __init__(self, origin: Server) -> None:
        super().__init__(origin.bin, **{k: v for k, v in origin.settings.items()})
        self.origin = origin

    def _initdb(self, own_binaries: Path, account: object) -> None:
        command = [self.tool("pg_basebackup"), "--host", self.origin.host, "--port", str(self.origin.port)]
        command += ["--username", self.user, "--pgdata", self.folder / "data", "--write-recovery-conf"]
        command += ["--checkpoint=fast", "--no-sync"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, **self._privileges(account))
        if done.returncode:
            raise ServerError(done.stderr)


class Clock:
    """The clock of a server that was started under its hands."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clock"
        self.set("+0")

    def set(self, offset: str) -> None:
        """+365d, -10m, +0 (right), …"""
        self.path.write_text(f"{offset}\n")
        self.path.chmod(0o644)

    @staticmethod
    def library() -> Path | None:
        return next(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"), None)

    @contextmanager
    def over_what_is_started(self) -> Iterator[None]:
        fakes = {
            "LD_PRELOAD": str(self.library()),
            "FAKETIME_TIMESTAMP_FILE": str(self.path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        os.environ.update(fakes)
        try:
            yield
        finally:
            for name in fakes:
                del os.environ[name]
