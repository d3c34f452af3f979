"""Puts machserial into a database, or brings what is there up to this package's version."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import errors as pg

from machserial import DATA, __version__
from machserial.errors import ExpectedError, NotDeployed
from machserial.operations.locking import LOCK_TIMEOUT

EXTENSION = "extension"
PLAIN = "plain SQL"
CREATE_SCHEMA = "create schema if not exists machserial;"

# Why a server that has the extension's files may still not create it: the role may not, the provider forbids it,
# or the files are not complete.
EXTENSION_FAILURES = (pg.InsufficientPrivilege, pg.FeatureNotSupported, pg.UndefinedFile)


@dataclass(frozen=True)
class Deployment:
    """What deploy() did.

    method: EXTENSION or PLAIN; reason: why that one; version_before: of the code that was there, None if none was;
    version: of the code now; migrations: how many ran.
    """

    method: str
    reason: str
    version_before: str | None
    version: str
    migrations: int


@dataclass(frozen=True)
class _State:
    extension: str | None  # version of the extension in this database
    offered: bool  # whether the server has the extension's files in this package's version
    offered_versions: list[str]
    code: str | None  # version of the code in this database, however it came


def deploy(connection: psycopg.Connection, plain: bool = False) -> Deployment:
    """Installs or updates the code and migrates, in the connection's transaction, which the caller commits.

    plain: take the plain bundle even where the extension could be created.
    Raises NotDeployed if the database has newer code than this package, ExpectedError if another session deploys.
    """
    # What exists already and is skipped interests nobody.
    connection.execute("set local client_min_messages = warning")
    connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
    _lock(connection)
    state = _read_state(connection)
    _refuse_older_package(state)
    if plain:
        method, reason = _install_plain(connection, "--plain was given")
    elif state.extension:
        method, reason = _update_extension(connection, state)
    elif state.code:
        method, reason = _install_plain(connection, "machserial is in this database as plain SQL already")
    elif not state.offered:
        method, reason = _install_plain(connection, _why_not_offered(state))
    else:
        method, reason = _create_extension(connection)
    return Deployment(method, reason, state.code, __version__, _migrate(connection))


def bundle() -> str:
    """The plain SQL of this package's version."""
    path = DATA / "machserial.sql"
    if not path.is_file():
        raise ExpectedError(
            "this package was built without its SQL", remedy="build the SQL first: python3 sql/build.py"
        )
    return path.read_text()


def bundle_for_an_empty_schema() -> str:
    """The same from where it makes the schema on: without asking whether the extension is in the database."""
    _, begin, rest = bundle().partition(CREATE_SCHEMA)
    return begin + rest


def _lock(connection: psycopg.Connection) -> None:
    """Two deployments at once would trip over each other's functions; tried, not waited for."""
    row = connection.execute("select pg_try_advisory_xact_lock(hashtext('machserial deploy'), 0) as ours").fetchone()
    if not row["ours"]:
        raise ExpectedError(
            "another session is deploying machserial in this database",
            remedy="run it again when that has ended",
        )


def _read_state(connection: psycopg.Connection) -> _State:
    row = connection.execute(
        """
        select
            (select extversion from pg_extension where extname = 'machserial') as extension,
            array(
                select version from pg_available_extension_versions where name = 'machserial' order by version
            ) as offered,
            to_regprocedure('machserial.version()') is not null as has_code
        """
    ).fetchone()
    code = connection.execute("select machserial.version()").fetchone()["version"] if row["has_code"] else None
    return _State(row["extension"], __version__ in row["offered"], row["offered"], code)


def _refuse_older_package(state: _State) -> None:
    if state.code and _ordered(state.code) > _ordered(__version__):
        raise NotDeployed(
            f"the database has machserial {state.code}, this command is {__version__}",
            "an older version does not know the newer schema",
            f"install version {state.code} of this command",
        )


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _why_not_offered(state: _State) -> str:
    if not state.offered_versions:
        return "the server does not have the extension's files"
    return f"the server has the extension's files of {', '.join(state.offered_versions)}, not of {__version__}"


def migration_plan(connection: psycopg.Connection) -> str:
    """The script that brings the schema up to the code in the database: all that migrate_up() sends, to the byte.

    It is one transaction, and refuses a database in which something else is pending by the time it is run.
    """
    row = connection.execute(
        """
        select
            machserial.migration_script() as script,
            array(select version from machserial.pending_migrations()) as versions,
            machserial.version() as code
        """
    ).fetchone()
    versions = "{" + ",".join(map(str, row["versions"])) + "}"
    return (
        f"-- machserial {row['code']}: {len(row['versions'])} migrations, and the views.\n"
        "begin;\n"
        f"set local lock_timeout = '{LOCK_TIMEOUT}';\n"
        "set local client_min_messages = warning;\n"
        "set local search_path = pg_catalog, pg_temp;\n"
        f"select machserial._begin_migration('{versions}');\n\n"
        f"{row['script'].rstrip()}\n\n"
        f"select machserial._finish_migration({'true' if row['versions'] else 'false'});\n"
        "commit;\n"
    )


def migrate_up(connection: psycopg.Connection) -> list[int]:
    """Executes migration_plan(), which commits; the versions that ran."""
    require_known_schema(connection)
    versions = [row["version"] for row in connection.execute("select version from machserial.pending_migrations()")]
    script = migration_plan(connection)
    connection.rollback()
    connection.autocommit = True
    connection.execute(script)
    connection.autocommit = False
    return versions


def require_known_schema(connection: psycopg.Connection) -> None:
    """Raises NotDeployed where the schema is newer than the code, or of another history."""
    try:
        connection.execute("select machserial._require_known_schema()")
    except pg.ObjectNotInPrerequisiteState as error:
        found = error.diag
        raise NotDeployed(found.message_primary, found.message_detail, found.message_hint) from error


def _migrate(connection: psycopg.Connection) -> int:
    """Runs the pending migrations; how many they were."""
    try:
        return connection.execute("select machserial.migrate() as ran").fetchone()["ran"]
    except pg.ObjectNotInPrerequisiteState as error:
        found = error.diag
        raise NotDeployed(found.message_primary, found.message_detail, found.message_hint) from error


def _install_plain(connection: psycopg.Connection, reason: str) -> tuple[str, str]:
    connection.execute(bundle())
    return PLAIN, reason


def _create_extension(connection: psycopg.Connection) -> tuple[str, str]:
    try:
        with connection.transaction():
            connection.execute(f"create extension machserial version '{__version__}'")
    except EXTENSION_FAILURES as error:
        refusal = error.diag.message_primary
        return _install_plain(connection, f"the server has the extension's files, but: {refusal}")
    return EXTENSION, "the server has the extension's files"


def _update_extension(connection: psycopg.Connection, state: _State) -> tuple[str, str]:
    if state.extension == __version__:
        return EXTENSION, "the extension is of this version already"
    if not state.offered:
        raise NotDeployed(
            f"the database has the extension in version {state.extension}, this command is {__version__}",
            _why_not_offered(state),
            f"install the extension's files of {__version__} on the server (make install), then deploy again",
        )
    connection.execute(f"alter extension machserial update to '{__version__}'")
    return EXTENSION, f"the extension was updated from {state.extension}"
