"""The connection: where it leads, how it is made, and what its errors mean.

Where: --dsn, else DATABASE_URL, else libpq's own PG* variables and service files, else libpq's defaults.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import conninfo, sql
from psycopg.abc import Buffer
from psycopg.rows import dict_row
from psycopg.types import datetime
from psycopg.types.json import set_json_dumps

from machserial import errors, masking, programs, refusals
from machserial.errors import Exit, ExpectedError, NotDeployed
from machserial.output import NOTICE

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 10  # seconds
URL_EXAMPLE = "postgresql://user:password@host:5432/database"
NOTICE_LEVELS = {"WARNING": logging.WARNING, "NOTICE": NOTICE}
# As the languages of PostgreSQL quote a name.
QUOTED = re.compile('["„»«“]([^"„»«“”]*)["»«“”]')
LIBPQ_PLACES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")

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
        raise _no_connection(source, parameters, error) from error
    connection.add_notice_handler(_notice_handler())
    for name, loader in (("date", _Date), ("timestamp", _Timestamp), ("timestamptz", _Timestamptz)):
        connection.adapters.register_loader(name, loader)
    # An SQL_ASCII database takes every text, but does not know what \\u2013 stands for.
    set_json_dumps(functools.partial(json.dumps, ensure_ascii=False), connection)
    return connection


class _Unreadable:
    """A time that Python does not know (infinity, a year beyond 9999 or before 1) comes as the server writes it.

    No function and no table takes one; a superuser can have put it there, and a list of many rows shows it.
    """

    def load(self, data: Buffer) -> object:
        try:
            return super().load(data)
        except psycopg.DataError:
            return bytes(data).decode()


class _Date(_Unreadable, datetime.DateLoader):
    pass


class _Timestamp(_Unreadable, datetime.TimestampLoader):
    pass


class _Timestamptz(_Unreadable, datetime.TimestamptzLoader):
    pass


def _parameters(source: Source) -> dict:
    """Connection parameters by name. Raises ExpectedError if the source is malformed."""
    try:
        parameters = conninfo.conninfo_to_dict(source.dsn)
    except psycopg.Error as error:
        raise _malformed(source, str(error)) from error
    for name in ("password", "sslpassword"):
        masking.remember(parameters.get(name))
    # libpq would look for the host first, and complain of that.
    if not re.fullmatch(r"[\d,]*", str(parameters.get("port", ""))):
        raise _malformed(source, "the port is not a number")
    parameters.setdefault("fallback_application_name", "machserial")
    # Of an SQL_ASCII database the driver would give bytes in place of text.
    parameters["client_encoding"] = "UTF8"
    timeout = _timeout()
    if timeout:
        parameters["connect_timeout"] = timeout
    elif "PGCONNECT_TIMEOUT" not in os.environ:
        parameters.setdefault("connect_timeout", DEFAULT_TIMEOUT)
    return parameters


def for_programs(dsn: str | None, **changes: str) -> tuple[str, dict[str, str]]:
    """For PostgreSQL's own programs: where to connect to, and the environment that holds the password.

    The password is in the environment alone: command lines are there for everybody to read. Dumps keep the encoding
    of the database. changes: of the place.
    """
    parameters = _parameters(find_source(dsn)) | changes
    del parameters["client_encoding"]
    environment = programs.environment()
    if password := parameters.pop("password", None):
        environment["PGPASSWORD"] = str(password)
    if password := parameters.pop("sslpassword", None):
        parameters["service"], environment["PGSERVICEFILE"] = _service_with(str(password), parameters)
    return conninfo.make_conninfo(**parameters), environment


def _service_with(sslpassword: str, parameters: dict) -> tuple[str, str]:
    """A service and its file, the only other place where libpq looks for it; the file goes when the command ends."""
    if parameters.get("service") or "PGSERVICE" in os.environ:
        raise ExpectedError(
            "sslpassword cannot be given beside a service",
            detail="programs of PostgreSQL would have it on their command line",
            remedy="write sslpassword=... into the service in the service file, and leave it out here",
        )
    descriptor, path = tempfile.mkstemp(prefix="machserial-")
    atexit.register(lambda: Path(path).unlink(missing_ok=True))
    with open(descriptor, "w") as file:
        file.write(f"[machserial]\nsslpassword={sslpassword}\n")
    return "machserial", path


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
    return re.sub(QUOTED, lambda found: found[0] if found[1] in options else '"…"', reason)


def _no_connection(source: Source, parameters: dict, error: psycopg.Error) -> ExpectedError:
    reason = str(error)
    if MALFORMED.search(reason) and "connection to server" not in reason:
        return _malformed(source, reason)
    place = _place(parameters)
    if cause := refusals.cause_of(error, parameters, place["sslmode"]):
        message, remedy = (text.format(database=place["dbname"], user=place["user"]) for text in cause)
    else:
        message = f"the database cannot be reached: {_without_values(_last_line(reason))}"
        remedy = "see what the server or libpq says there; check host, user and database"
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
    """host, port, dbname, user and sslmode as libpq will understand them, without anything secret."""
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
        "sslmode": place.get("sslmode") or "prefer",
    }
    # A password with an unescaped @ or / spills over into what follows it in a URL.
    return {name: value.rpartition("@")[2] for name, value in shown.items()}


def _last_line(reason: str) -> str:
    return reason.strip().splitlines()[-1].strip() if reason.strip() else "no reason given"


def _explained(connection: psycopg.Connection, error: psycopg.Error) -> Exception:
    """error as an ExpectedError where the cause is known, else itself."""
    if error.sqlstate in errors.ABSENT_STATES and not errors.is_an_unknown_object(error):
        return _absence(connection, error) or error
    expected = errors.from_database(error)
    if expected and error.sqlstate == errors.READ_ONLY_STATE and not error.diag.message_hint:
        expected.remedy = _remedy_for_read_only(connection)
    if error.sqlstate == errors.PRIVILEGE_STATE and not error.diag.message_hint:
        return _two_owners(connection) or expected
    return expected or error


def _two_owners(connection: psycopg.Connection) -> ExpectedError | None:
    """The cause where a superuser has restored an extension: the owner of the tables may not call its functions."""
    connection.rollback()
    row = connection.execute(
        """
        select pg_get_userbyid(p.proowner) as of_code, pg_get_userbyid(c.relowner) as of_tables
        from pg_namespace as n
        inner join pg_proc as p on p.pronamespace = n.oid and p.proname = 'migrate'
        inner join pg_class as c on c.relnamespace = n.oid and c.relname = 'schema_migrations'
        where n.nspname = 'machserial' and p.proowner <> c.relowner
        """
    ).fetchone()
    if row is None:
        return None
    return ExpectedError(
        "a superuser has restored machserial: its owner can call nothing",
        detail=f"the code belongs to {row['of_code']}, the tables to {row['of_tables']}",
        remedy=f"as a superuser: select machserial.change_owner({sql.Literal(row['of_tables']).as_string()});",
        code=Exit.PRIVILEGE,
        sqlstate=errors.PRIVILEGE_STATE,
    )


def _remedy_for_read_only(connection: psycopg.Connection) -> str:
    """For a server that only reads: a standby, or one on which transactions are read-only unless they say otherwise."""
    connection.rollback()
    is_standby = connection.execute("select pg_is_in_recovery() as is_standby").fetchone()["is_standby"]
    if is_standby:
        return "this is a standby: connect to the primary, add target_session_attrs=read-write to the connection"
    return (
        "default_transaction_read_only is on: switch it off for the server, the database or the role; "
        "or for this run: PGOPTIONS='-c default_transaction_read_only=off'"
    )


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
