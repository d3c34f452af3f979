"""Why no connection was made: what libpq says by itself, and what the server refuses with.

The server's words are in its own language (lc_messages), so they are shown and never judged by. The SQLSTATE tells the
cause. Messages of libpq follow the locale of the process, which stays the C locale as nothing here calls setlocale().
"""

from __future__ import annotations

import os
import re
import select
import time
from dataclasses import dataclass

import psycopg
from psycopg import conninfo
from psycopg.pq import PGconn, PollingStatus

Cause = tuple[str, str]  # message and remedy; {database} and {user} are to be filled in

# What libpq says. The first that matches counts.
BY_LIBPQ: tuple[tuple[str, Cause], ...] = (
    (
        r"timeout expired|timed out",
        (
            "the database did not answer in time",
            "check host, port and firewall; DATABASE_TIMEOUT (milliseconds) raises the limit",
        ),
    ),
    (
        r"failed: Connection refused",
        (
            "the database refused the connection: nothing listens there",
            "start the server, or correct host and port",
        ),
    ),
    (
        r'socket ".*" failed: No such file or directory',
        (
            "no server listens on this socket",
            "start the server, or say where it is: --dsn, DATABASE_URL or PGHOST",
        ),
    ),
    (
        r"could not translate host name|Name or service not known|failure in name resolution|"
        r"nodename nor servname|No address associated|failed to resolve host",
        ("the host name is unknown", "correct the host in --dsn, DATABASE_URL or PGHOST"),
    ),
    (
        r"failed: (No route to host|Network is unreachable)",
        ("the host cannot be reached", "check network and firewall"),
    ),
    (
        r"server does not support SSL",
        (
            "the server offers no encryption, and the connection demands it",
            "switch ssl on in the server; on a network that you trust, sslmode=prefer does without",
        ),
    ),
    (
        r"certificate verify failed|root certificate file|certificate for .* does not match|"
        r"self[- ]signed certificate|unable to get local issuer",
        (
            "certificate verification failed",
            "check the certificates: sslrootcert, of the authority; sslcert and sslkey, your own; and the host's name",
        ),
    ),
    (
        r"definition of service|service file",
        (
            "the connection service is not defined",
            "correct PGSERVICE, or add the service to ~/.pg_service.conf",
        ),
    ),
)
NO_PASSWORD = (
    "the server asks for a password and none was given",
    "set PGPASSWORD, or write it into the file ~/.pgpass",
)
NO_ENCRYPTION = (
    "no encrypted connection could be made",
    "check sslmode and the certificates, and whether what listens there is PostgreSQL",
)

# What the server says, by its SQLSTATE.
STARTING = ("the server is starting up or shutting down", "try again in a moment")
NOT_ACCEPTED = (
    'the server does not accept user "{user}": wrong password, or no such role',
    "correct user and password, or the file ~/.pgpass",
)
BY_SQLSTATE: dict[str, Cause] = {
    "28P01": NOT_ACCEPTED,
    "28000": NOT_ACCEPTED,
    "3D000": ('there is no database "{database}"', "create it: createdb {database}, or correct the name"),
    "42501": (
        'user "{user}" may not connect to database "{database}"',
        "grant connect on database {database} to {user}",
    ),
    "53300": (
        "the server has no free connection",
        "wait, end idle sessions, raise max_connections, or put PgBouncer before it",
    ),
    "55000": (
        'database "{database}" takes no connections',
        "alter database {database} allow_connections true, or name another one",
    ),
    "57P01": STARTING,
    "57P02": STARTING,
    "57P03": STARTING,
}
# One SQLSTATE stands for several refusals; the routine of the server that reports it tells which.
BY_ROUTINE: dict[str, Cause] = {
    "InitializeSessionUserId": (
        'there is no role "{user}", or it may not log in',
        "create it: createuser {user}, or correct the user",
    ),
    "ClientAuthentication": (
        "the server's pg_hba.conf does not let this user in from here",
        "add a line for it to pg_hba.conf and reload the server",
    ),
}
UNENCRYPTED = (
    "the server's pg_hba.conf does not let this user in from here without encryption",
    "connect with sslmode=require; or add a line for it to pg_hba.conf and reload the server",
)


@dataclass(frozen=True)
class Refusal:
    """What a server reported instead of taking the connection. routine: None where it does not say."""

    sqlstate: str
    routine: str | None


def cause_of(error: psycopg.Error, parameters: dict, sslmode: str) -> Cause | None:
    """Why connecting with these parameters failed; None if that is not known, and the error must speak for itself."""
    reason = str(error)
    for text, cause in BY_LIBPQ:
        if re.search(text, reason):
            return cause
    if error.pgconn is not None and error.pgconn.needs_password:
        return NO_PASSWORD
    refusal = ask_again(parameters)
    if refusal is None:
        return NO_ENCRYPTION if re.search(r"SSL|certificate", reason) else None
    if refusal.sqlstate == "28000" and refusal.routine in BY_ROUTINE:
        by_hba = refusal.routine == "ClientAuthentication"
        return UNENCRYPTED if by_hba and sslmode in ("disable", "allow") else BY_ROUTINE[refusal.routine]
    return BY_SQLSTATE.get(refusal.sqlstate)


def ask_again(parameters: dict) -> Refusal | None:
    """What the server refuses a connection with. None: nothing that this libpq tells.

    libpq keeps no SQLSTATE of a connection that failed. It writes down what it receives, though, if it is told to.
    """
    reading, writing = os.pipe()
    attempt = PGconn.connect_start(conninfo.make_conninfo(**parameters).encode())
    try:
        attempt.trace(writing)
        _connect(attempt, time.monotonic() + float(parameters.get("connect_timeout") or 10))
        attempt.untrace()
    except psycopg.Error:
        pass
    finally:
        os.close(writing)
        attempt.finish()
    with os.fdopen(reading, encoding="utf-8", errors="replace") as trace:
        return _refusal(trace.read())


def _connect(attempt: PGconn, deadline: float) -> None:
    """As far as it gets until then."""
    waits_for = {PollingStatus.READING: (1, 0), PollingStatus.WRITING: (0, 1)}
    while (status := attempt.connect_poll()) in waits_for and (left := deadline - time.monotonic()) > 0:
        to_read, to_write = ([attempt.socket] * wanted for wanted in waits_for[status])
        select.select(to_read, to_write, [], left)


def _refusal(trace: str) -> Refusal | None:
    """The last ErrorResponse: of several hosts, the one that was tried last."""
    found = None
    for line in trace.splitlines():
        if "ErrorResponse" in line and (sqlstate := re.search(r' C "(\w{5})"', line)):
            routine = re.search(r' R "(\w+)"', line)
            found = Refusal(sqlstate[1], routine and routine[1])
    return found
