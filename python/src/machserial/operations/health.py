"""How database, host and Redis are: asked within limits of time, and told in four formats."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.pq import Ping

from machserial import __version__, connection
from machserial.cache import redis_url
from machserial.errors import ABSENT_STATES, ExpectedError, NotDeployed, from_database
from machserial.output import text_of

Row = dict[str, Any]

OK, WARNING, CRITICAL, UNKNOWN = "OK", "WARNING", "CRITICAL", "UNKNOWN"
STATUSES = (OK, WARNING, CRITICAL, UNKNOWN)  # their places are the exit codes
# The worst first: a fault that is seen counts more than one that may be.
BY_URGENCY = (CRITICAL, WARNING, UNKNOWN, OK)

CONNECT_SECONDS = 2  # the least that libpq knows
CHECK_SECONDS = 1.0
ALL_SECONDS = 4.5
READY_SECONDS = 3.0
REDIS_SECONDS = 0.05


def row(
    name: str,
    status: str,
    message: str,
    remedy: str | None = None,
    value: float | None = None,
    warning: float | None = None,
    critical: float | None = None,
) -> Row:
    """The columns of machserial.health()."""
    return {
        "name": name,
        "status": status,
        "value": value,
        "warning": warning,
        "critical": critical,
        "message": message,
        "remedy": remedy,
    }


def worst(rows: Sequence[Row]) -> str:
    """The status of all together."""
    return min((one["status"] for one in rows), key=BY_URGENCY.index, default=UNKNOWN)


def from_error(name: str, error: ExpectedError, status: str = CRITICAL) -> Row:
    message = f"{error.message} ({error.detail})" if error.detail else error.message
    return row(name, status, message, error.remedy)


# Live and ready


def live(dsn: str | None) -> Row:
    """Whether a server answers, without SQL."""
    try:
        answer = connection.ping(dsn, CONNECT_SECONDS)
    except ExpectedError as error:
        return from_error("live", error)
    return {
        Ping.OK: row("live", OK, "the server takes connections"),
        Ping.REJECT: row("live", CRITICAL, "the server is starting up or shutting down", "try again in a moment"),
        Ping.NO_RESPONSE: row(
            "live", CRITICAL, "no server answers there", "start the server, or correct host, port and firewall"
        ),
        Ping.NO_ATTEMPT: row("live", CRITICAL, "the connection string cannot be used", "correct --dsn or DATABASE_URL"),
    }[answer]


def ready(dsn: str | None) -> Row:
    """Whether applications can work: one query."""
    try:
        with connection.connect(dsn, CONNECT_SECONDS) as database:
            # A transaction would be two statements more.
            database.autocommit = True
            with _cut_off_after(database, READY_SECONDS):
                return database.execute("select * from machserial.ready()").fetchone()
    except ExpectedError as error:
        return from_error("ready", error, _status_of(error))
    except psycopg.Error as error:
        return row("ready", CRITICAL, str(error), "look into the server's log")


def _status_of(error: ExpectedError) -> str:
    """What a role may not ask is not known; everything else that keeps it from asking is a fault."""
    return UNKNOWN if error.sqlstate == "42501" else CRITICAL


# Everything


class Examination:
    """All checks, or those named, each with a limit of time and all of them with one."""

    def __init__(self, dsn: str | None, names: Sequence[str] = ()) -> None:
        self.dsn = dsn
        self.names = names
        self.ends = time.monotonic() + ALL_SECONDS
        self.rows: list[Row] = []
        self.units: dict[str, str] = {}
        self.known: list[str] = []

    def run(self) -> list[Row]:
        """The rows, the most urgent first. Raises UnknownCheck."""
        try:
            with (
                connection.connect(self.dsn, CONNECT_SECONDS) as database,
                _cut_off_after(database, self.ends - time.monotonic()),
            ):
                self._ask(database)
        except ExpectedError as error:
            self.rows.append(from_error("connection", error, _status_of(error)))
        except psycopg.Error as error:
            self.rows.append(row("connection", CRITICAL, str(error), "look into the server's log"))
        else:
            self._add(row("connection", OK, "the database answers"))
        self._ask_redis()
        return sorted(self.rows, key=lambda one: (BY_URGENCY.index(one["status"]), one["name"]))

    def _wants(self, name: str) -> bool:
        return not self.names or name in self.names

    def _add(self, found: Row) -> None:
        if self._wants(found["name"]):
            self.rows.append(found)

    def _ask(self, database: psycopg.Connection) -> None:
        self._limit(database, CHECK_SECONDS)
        try:
            names = [one["name"] for one in database.execute("select name from machserial._health_checks()")]
        except psycopg.Error as error:
            if error.sqlstate not in ABSENT_STATES:
                raise
            raise _without_checks(database, error) from error
        host = _has_host_health(database)
        self.known = [*names, "command_version", "connection", "redis"]
        self._refuse_unknown(host)
        self._read_units(database)
        for name in names:
            if self._wants(name):
                self.rows.append(self._ask_one(database, name))
        if self._wants("command_version"):
            self.rows.append(_command_version(database))
        if host:
            self._ask_host(database)

    def _refuse_unknown(self, host: bool) -> None:
        """The names of the host's checks are known only from its answer."""
        strange = sorted(set(self.names) - set(self.known))
        if strange and not host:
            raise UnknownCheck(strange[0], self.known)

    def _limit(self, database: psycopg.Connection, seconds: float) -> None:
        # Of the transaction only: PgBouncer gives the session to others.
        database.execute(f"set local statement_timeout = {max(1, int(seconds * 1000))}")

    def _read_units(self, database: psycopg.Connection) -> None:
        with suppress(psycopg.errors.DatabaseError), database.transaction():
            found = database.execute("select name, unit from machserial.health_thresholds")
            self.units = {one["name"]: one["unit"] for one in found}

    def _ask_one(self, database: psycopg.Connection, name: str) -> Row:
        return self._limited(database, name, "select * from machserial.health_check(%s)", name)[0]

    def _limited(self, database: psycopg.Connection, name: str, query: str, *parameters: str) -> list[Row]:
        """The rows of a query that may be slow or fail: then it is one row, and the next one is asked."""
        left = self.ends - time.monotonic() - 0.1
        if left <= 0:
            return [row(name, UNKNOWN, f"not asked: {ALL_SECONDS} seconds are over", f"ask alone: --check {name}")]
        try:
            with database.transaction():
                self._limit(database, min(CHECK_SECONDS, left))
                return database.execute(query, parameters).fetchall()
        except psycopg.errors.QueryCanceled:
            return [row(name, UNKNOWN, f"no answer within {min(CHECK_SECONDS, left):.1f} s", f"ask in psql: {query}")]
        except psycopg.Error as error:
            if database.broken:
                raise
            expected = from_database(error) or ExpectedError(str(error))
            return [from_error(name, expected, UNKNOWN)]

    def _ask_host(self, database: psycopg.Connection) -> None:
        for found in self._limited(database, "host", "select * from machserial.host_health()"):
            self.known.append(found["name"])
            self._add(found)
        self._refuse_unknown(host=False)

    def _ask_redis(self) -> None:
        if url := redis_url():
            if self._wants("redis"):
                self.rows.append(redis_row(url))
        elif "redis" in self.names:
            self.rows.append(row("redis", UNKNOWN, "no Redis is named", "set REDIS_URL, and REDIS_ENABLED to true"))


class UnknownCheck(Exception):
    """There is no check of that name. known: those that there are."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(name)
        self.name = name
        self.known = sorted(known)


def _without_checks(database: psycopg.Connection, error: psycopg.Error) -> ExpectedError:
    """Why there are no checks to ask for."""
    database.rollback()
    found = database.execute("select to_regprocedure('machserial.version()') is not null as deployed").fetchone()
    if not found["deployed"]:
        return NotDeployed(f'machserial is not deployed in database "{database.info.dbname}"')
    return NotDeployed(
        "machserial in the database is older than this command: it has no health checks", error.diag.message_primary
    )


def _has_host_health(database: psycopg.Connection) -> bool:
    found = database.execute("select to_regprocedure('machserial.host_health()') is not null as there").fetchone()
    return found["there"]


def _command_version(database: psycopg.Connection) -> Row:
    try:
        with database.transaction():
            code = database.execute("select machserial.version() as code").fetchone()["code"]
    except psycopg.errors.InsufficientPrivilege as error:
        return from_error("command_version", from_database(error), UNKNOWN)
    if code == __version__:
        return row("command_version", OK, f"command and code in the database are {code}")
    return row(
        "command_version",
        WARNING,
        f"this command is {__version__}, the code in the database is {code}",
        "machserial deploy, or install the version of this command that the database has",
    )


@contextmanager
def _cut_off_after(database: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Ends the connection if the server, stopped or unreachable, keeps silent: no timeout of its own would come.

    What waits for an answer then fails as by a lost connection.
    """
    # A second handle on the same socket: the first stays the driver's to close.
    handle = socket.socket(fileno=os.dup(database.fileno()))
    cut = threading.Event()

    def cut_off() -> None:
        cut.set()
        with suppress(OSError):
            handle.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, seconds), cut_off)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if cut.is_set():
            raise ExpectedError(
                "the database stopped answering",
                detail=f"no answer within {seconds:.1f} s",
                remedy="look at the server: is it stopped, out of memory, or its disk stuck?",
            ) from error
        raise
    finally:
        timer.cancel()
        timer.join()
        handle.close()


# Redis


def redis_row(url: str) -> Row:
    """Whether the Redis at url answers, within 50 ms. Nothing depends on it: without it, PostgreSQL is asked."""
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        return row("redis", UNKNOWN, "this command has no redis-py to ask with", "pip install 'machserial[redis]'")
    answers: list[Row] = []

    def ask() -> None:
        began = time.monotonic()
        try:
            client = redis.Redis.from_url(
                url,
                socket_timeout=REDIS_SECONDS,
                socket_connect_timeout=REDIS_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
            with client:
                client.ping()
        except (redis.RedisError, ValueError, OSError) as error:
            # Its text may hold the URL, and with that a password.
            answers.append(
                row(
                    "redis",
                    WARNING,
                    f"Redis does not answer: {type(error).__name__}; PostgreSQL is asked instead",
                    "start Redis or correct REDIS_URL; or REDIS_ENABLED=false",
                )
            )
        else:
            spent = round((time.monotonic() - began) * 1000, 1)
            answers.append(row("redis", OK, f"Redis answers in {spent} ms", value=spent))

    # In a thread: looking up a host name knows no limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(4 * REDIS_SECONDS)
    late = row("redis", WARNING, "Redis does not answer in time; PostgreSQL is asked instead", "look at Redis")
    return answers[0] if answers else late


# Formats

PERFDATA_UNITS = {"seconds": "s", "percent": "%", "bytes": "B", "milliseconds": "ms"}


def number(value: object) -> str:
    """A value of a check, without an exponent and without needless zeros."""
    if value is None:
        return ""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def as_table(rows: Sequence[Row], units: dict[str, str]) -> list[Row]:
    """What a terminal has room for; the remedy only where there is something to mend."""
    return [
        {
            "name": one["name"],
            "status": one["status"],
            "value": f"{number(one['value'])} {units.get(one['name'], '')}".strip() if one["value"] is not None else "",
            "warning": number(one["warning"]),
            "critical": number(one["critical"]),
            "message": one["message"],
            "remedy": None if one["status"] == OK else one["remedy"],
        }
        for one in rows
    ]


def as_nagios(rows: Sequence[Row], units: dict[str, str]) -> list[str]:
    """A line with what is wrong and the figures, then one line per check."""
    wrong = [one for one in rows if one["status"] != OK]
    summary = "; ".join(f"{one['name']}: {one['message']}" for one in wrong) or f"{len(rows)} checks"
    figures = " ".join(_perfdata(one, units.get(one["name"])) for one in rows if one["value"] is not None)
    head = f"MACHSERIAL {worst(rows)} - {_plain(summary)}"
    return [f"{head} | {figures}" if figures else head, *map(_nagios_line, rows)]


def _nagios_line(one: Row) -> str:
    line = f"{one['status']} {one['name']}: {one['message']}"
    return _plain(f"{line}; remedy: {one['remedy']}" if one["status"] != OK and one["remedy"] else line)


def _plain(text: str) -> str:
    """Without what has a meaning in the protocol."""
    return " ".join(text_of(text).replace("|", "/").split())


def _perfdata(one: Row, unit: str | None) -> str:
    figures = ";".join(number(one[name]) for name in ("warning", "critical"))
    return f"{one['name']}={number(one['value'])}{PERFDATA_UNITS.get(unit, '')};{figures}".rstrip(";")


def as_prometheus(rows: Sequence[Row]) -> str:
    """The text format of node_exporter's textfile collector."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, meaning: str, labels: Sequence[str] = ("check",)) -> Gauge:
        return Gauge(f"machserial_health_{name}", meaning, labels, registry=registry)

    gauge("worst", "The status of all checks together", ()).set(STATUSES.index(worst(rows)))
    gauge("time_seconds", "When this was asked", ()).set(math.floor(time.time()))
    status = gauge("status", "0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN")
    figures = {
        "value": gauge("value", "What the check measured, in its unit"),
        "warning": gauge("warning", "The value from which on it is WARNING"),
        "critical": gauge("critical", "The value from which on it is CRITICAL"),
    }
    for one in rows:
        status.labels(one["name"]).set(STATUSES.index(one["status"]))
        for name, figure in figures.items():
            if one[name] is not None:
                figure.labels(one["name"]).set(float(one[name]))
    return generate_latest(registry).decode()
