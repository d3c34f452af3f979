"""The connection: where it leads, and which of the usual troubles keeps it from being made.

Where: --dsn, else DATABASE_URL, else libpq's own PG* variables and service files, else libpq's defaults.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import conninfo
from psycopg.rows import dict_row

from machserial import errors, masking
from machserial.errors import Exit, ExpectedError, NotDeployed
from machserial.output import NOTICE

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 10  # seconds
URL_EXAMPLE = "postgresql://user:password@host:5432/database"
NOTICE_LEVELS = {"WARNING": logging.WARNING, "NOTICE": NOTICE}
LIBPQ_PLACES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")

# What libpq and the server say, and what it means: (text, message, remedy). The first that matches counts.
# {database}, {user} and {place} are filled in.
TROUBLES = (
    (
        r"timeout expired|timed out",
        "the database did not answer in time",
        "check host, port and firewall; DATABASE_TIMEOUT (milliseconds) raises the limit",
    ),
    (
        r"Connection refused",
        "the database refused the connection: nothing listens there",
        "start the server, or correct host and port",
    ),
    (
        r"No such file or directory",
        "no server listens on this socket",
        "start the server, or say where it is: --dsn, DATABASE_URL or PGHOST",
    ),
    (
        r"could not translate host name|Name or service not known|failure in name resolution|"
        r"nodename nor servname|No address associated|failed to resolve host",
        "the host name is unknown",
        "correct the host in --dsn, DATABASE_URL or PGHOST",
    ),
    (r"No route to host|Network is unreachable", "the host cannot be reached", "check network and firewall"),
    (
        r'database ".*" does not exist',
        'there is no database "{database}"',
        "create it: createdb {database}, or correct the name",
    ),
    (
        r'role ".*" does not exist',
        'there is no role "{user}"',
        "create it: createuser {user}, or correct the user",
    ),
    (
        r"no password supplied",
        "the server asks for a password and none was given",
        "set PGPASSWORD, or write it into the file ~/.pgpass",
    ),
    (
        r"authentication failed|Ident authentication",
        'the server does not accept user "{user}": wrong password, or no such role',
        "correct user and password, or the file ~/.pgpass",
    ),
    (
        r"server does not support SSL",
        "the server offers no encryption, and the connection demands it",
        "switch ssl on in the server; on a network that you trust, sslmode=prefer does without",
    ),
    (
        r"certificate verify failed|root certificate file|certificate for .* does not match|"
        r"self[- ]signed certificate|unable to get local issuer|certificate authentication",
        "the certificates do not prove who is who",
        "name the authority in sslrootcert and your own certificate in sslcert and sslkey, or correct the host's name",
    ),
    (
        r"(no pg_hba\.conf entry|pg_hba\.conf rejects).*(no encryption|SSL off)",
        "the server's pg_hba.conf does not let this user in from here without encryption",
        "connect with sslmode=require; or add a line for it to pg_hba.conf and reload the server",
    ),
    (
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        "the server's pg_hba.conf does not let this user in from here",
        "add a line for it to pg_hba.conf and reload the server",
    ),
    (
        r"permission denied for database|does not have CONNECT privilege",
        'user "{user}" may not connect to database "{database}"',
        "grant connect on database {database} to {user}",
    ),
    (
        r"too many (clients|connections)|remaining connection slots|no more connections",
        "the server has no free connection",
        "wait, end idle sessions, raise max_connections, or put PgBouncer before it",
    ),
    (
        r"is starting up|is shutting down|recovery mode|system is not (yet )?accepting",
        "the server is starting up or shutting down",
        "try again in a moment",
    ),
    (
        r"definition of service|service file",
        "the connection service is not defined",
        "correct PGSERVICE, or add the service to ~/.pg_service.conf",
    ),
    (
        r"SSL|certificate",
        "no encrypted connection could be made",
        "check sslmode and the certificates, and whether what listens there is PostgreSQL",
    ),
)

MALFORMED = re.compile(
    r"invalid (integer value|port number|connection option|URI|percent-encoded|sslmode|\w+ value)|"
    r"missing|unterminated|could not match|end of string reached|unexpected character|forbidden value",
)


@dataclass(frozen=True)
class Source:
    """Where the connection string came from, for error messages, and the string."""

    name: str
    dsn: str

    @property
    def is_given(self) -> bool:
        return self.name != "libpq's defaults"


def find_source(dsn: str | None) -> Source:
    """Where to connect to. dsn: what --dsn gave, None if nothing."""
    if dsn:
        return Source("--dsn", dsn)
    if os.environ.get("DATABASE_URL"):
        return Source("DATABASE_URL", os.environ["DATABASE_URL"])
    if any(os.environ.get(name) for name in LIBPQ_PLACES):
        return Source("the PG* variables", "")
    return Source("libpq's defaults", "")


@contextmanager
def connect(dsn: str | None, at_most: int | None = None, **changes: str) -> Iterator[psycopg.Connection]:
    """A connection whose block is one transaction: committed at its end, rolled back on any error.

    Rows are dictionaries. at_most: seconds to wait for the connection, whatever else was said. changes: of the place,
    such as another dbname. Raises ExpectedError with the exit codes of errors.Exit.
    """
    connection = _open(find_source(dsn), at_most, changes)
    try:
        try:
            yield connection
            connection.commit()
        except psycopg.Error as error:
            raise _explained(connection, error) from error
    finally:
        connection.close()


def ping(dsn: str | None, at_most: int) -> psycopg.pq.Ping:
    """Whether a server answers there, without logging in. at_most: seconds to wait for it."""
    parameters = {**_parameters(find_source(dsn)), "connect_timeout": at_most}
    return psycopg.pq.PGconn.ping(conninfo.make_conninfo(**parameters).encode())


def _open(source: Source, at_most: int | None, changes: dict[str, str]) -> psycopg.Connection:
    parameters = _parameters(source) | changes
    if at_most is not None:
        parameters["connect_timeout"] = at_most
    log.debug("connecting by %s", source.name)
    try:
        connection = psycopg.connect(
            **parameters,
            row_factory=dict_row,
            # Statements prepared on the server would not survive PgBouncer's transaction mode.
            prepare_threshold=None,
        )
    except psycopg.Error as error:
        raise _no_connection(source, parameters, str(error)) from error
    connection.add_notice_handler(_notice_handler())
    return connection


def _parameters(source: Source) -> dict:
    """Connection parameters by name. Raises ExpectedError if the source is malformed."""
    try:
        parameters = conninfo.conninfo_to_dict(source.dsn)
    except psycopg.Error as error:
        raise _malformed(source, str(error)) from error
    masking.remember(parameters.get("password"))
    # libpq would look for the host first, and complain of that.
    if not re.fullmatch(r"[\d,]*", str(parameters.get("port", ""))):
        raise _malformed(source, "the port is not a number")
    parameters.setdefault("fallback_application_name", "machserial")
    timeout = _timeout()
    if timeout:
        parameters["connect_timeout"] = timeout
    elif "PGCONNECT_TIMEOUT" not in os.environ:
        parameters.setdefault("connect_timeout", DEFAULT_TIMEOUT)
    return parameters


def for_programs(dsn: str | None, **changes: str) -> tuple[str, dict[str, str]]:
    """For PostgreSQL's own programs: where to connect to, and the environment that holds the password.

    The password is in the environment alone: command lines are there for everybody to read. changes: of the place.
    """
    parameters = _parameters(find_source(dsn)) | changes
    environment = dict(os.environ)
    if password := parameters.pop("password", None):
        environment["PGPASSWORD"] = str(password)
    return conninfo.make_conninfo(**parameters), environment


def _timeout() -> int | None:
    """DATABASE_TIMEOUT (milliseconds) in the whole seconds that libpq knows; None if it is not set."""
    value = os.environ.get("DATABASE_TIMEOUT")
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or int(value) == 0:
        raise ExpectedError(
            "DATABASE_TIMEOUT is malformed",
            detail=f"it is {value!r}",
            remedy="give milliseconds, such as DATABASE_TIMEOUT=5000",
            code=Exit.CONNECTION,
        )
    return math.ceil(int(value) / 1000)


def _notice_handler() -> Callable[[psycopg.errors.Diagnostic], None]:
    """Logs what the server remarks on, each remark once."""
    said = set()

    def log_notice(found: psycopg.errors.Diagnostic) -> None:
        text = errors.one_line(found.message_primary, found.message_detail, found.message_hint)
        if text not in said:
            said.add(text)
            log.log(NOTICE_LEVELS.get(found.severity_nonlocalized, logging.DEBUG), "%s", text)

    return log_notice


def _malformed(source: Source, reason: str) -> ExpectedError:
    return ExpectedError(
        f"{source.name} is malformed",
        detail=_without_values(reason),
        remedy=f"write {URL_EXAMPLE}, with %XX for special characters in the password",
        code=Exit.CONNECTION,
    )


def _without_values(reason: str) -> str:
    """libpq's reason without what it quotes: of a malformed string any part may be the password."""
    options = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    return re.sub(r'"([^"]*)"', lambda found: found[0] if found[1] in options else '"…"', reason)


def _no_connection(source: Source, parameters: dict, reason: str) -> ExpectedError:
    if MALFORMED.search(reason) and "connection to server" not in reason:
        return _malformed(source, reason)
    place = _place(parameters)
    names = {"database": place["dbname"], "user": place["user"]}
    message, remedy = "the database cannot be reached", "check the connection"
    for text, trouble, cure in TROUBLES:
        if re.search(text, reason, re.IGNORECASE):
            message, remedy = trouble.format(**names), cure.format(**names)
            break
    else:
        message = f"{message}: {_without_values(_last_line(reason))}"
    if not source.is_given:
        message = f"nothing says where the database is, and at PostgreSQL's default place {message}"
        remedy = f"give --dsn, or set DATABASE_URL={URL_EXAMPLE}, or PGHOST, PGDATABASE and PGUSER"
    return ExpectedError(
        message,
        detail=f"{place['host']}, port {place['port']}, database {place['dbname']}, user {place['user']}, "
        f"from {source.name}",
        remedy=remedy,
        code=Exit.CONNECTION,
    )


def _place(parameters: dict) -> dict[str, str]:
    """host, port, dbname and user as libpq will understand them, without anything secret."""
    defaults = {
        option.keyword.decode(): option.val.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.val is not None
    }
    place = {**defaults, **{name: str(value) for name, value in parameters.items()}}
    user = place.get("user") or "?"
    shown = {
        "host": place.get("host") or place.get("hostaddr") or "local socket",
        "port": place.get("port") or "5432",
        "dbname": place.get("dbname") or user,
        "user": user,
    }
    # A password with an unescaped @ or / spills over into what follows it in a URL.
    return {name: value.rpartition("@")[2] for name, value in shown.items()}


def _last_line(reason: str) -> str:
    return reason.strip().splitlines()[-1].strip() if reason.strip() else "no reason given"


def _explained(connection: psycopg.Connection, error: psycopg.Error) -> Exception:
    """error as an ExpectedError where the cause is known, else itself."""
    if error.sqlstate in errors.ABSENT_STATES:
        return _absence(connection, error) or error
    return errors.from_database(error) or error


def _absence(connection: psycopg.Connection, error: psycopg.Error) -> NotDeployed | None:
    """Why an object was missing: machserial is absent, older or newer than its schema or than this command.

    None: none of these, so it is a fault.
    """
    connection.rollback()
    row = connection.execute(
        """
        select
            to_regprocedure('machserial.version()') is not null as has_code,
            to_regclass('machserial.schema_migrations') is not null as has_tables,
            current_database() as database
        """
    ).fetchone()
    if row["has_code"] and not row["has_tables"]:
        return NotDeployed("machserial's code is there, its tables are not", "migrate() has not run")
    if row["has_code"] and (pending := _pending_migrations(connection)):
        return NotDeployed("the schema is older than the machserial code", f"migrations pending: {pending}")
    if error.diag.context:
        # One of machserial's own functions missed it.
        return None
    if not row["has_code"]:
        return NotDeployed(f'machserial is not deployed in database "{row["database"]}"')
    return NotDeployed(
        "machserial in the database is of another version than this command",
        error.diag.message_primary,
        "machserial deploy, or install the version of this command that the database has",
    )


def _pending_migrations(connection: psycopg.Connection) -> int:
    """How many; 0 also where the role may not know."""
    try:
        row = connection.execute("select count(*) as pending from machserial.pending_migrations()").fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return 0
    return row["pending"]


def connection_string(dsn: str | None) -> str:
    """What connect() goes by, for who makes connections of his own. Raises ExpectedError."""
    return conninfo.make_conninfo(**_parameters(find_source(dsn)))
