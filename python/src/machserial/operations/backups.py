"""Backups: made, proved to be readable, restored, and proved to be writable."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql

from machserial import __version__, connection, programs
from machserial.errors import Exit, ExpectedError, NotDeployed
from machserial.files import new_files
from machserial.operations import prerequisites
from machserial.options import Settings

log = logging.getLogger(__name__)

# Within these settings, schemas and extensions are done.
FIRST_LINES = 1000
CREATE_EXTENSION = b"CREATE EXTENSION IF NOT EXISTS machserial WITH SCHEMA machserial"
MAINTENANCE_DATABASE = "postgres"

ABOUT = """
    select
        current_database() as database,
        current_setting('server_version') as server,
        current_setting('server_version_num')::integer / 10000 as server_major,
        machserial.version() as code,
        (select max(version) from machserial.schema_migrations) as schema,
        machserial.audit_anchor() as audit_anchor,
        exists (select from machserial.pauses where resumed_at is null) as paused
"""
COUNTERS = "select format, format_version, counter_key, period, last_value from machserial.counter_status()"

# Settings of the database and of roles in it: no dump has them. Their values may be secrets.
SETTINGS = """
    select distinct split_part(c, '=', 1) || coalesce(' of ' || r.rolname, '') as name
    from pg_db_role_setting as s
    cross join lateral unnest(s.setconfig) as c
    left join pg_roles as r on r.oid = s.setrole
    where s.setdatabase = (select d.oid from pg_database as d where d.datname = current_database())
    order by name
"""

# Whatever somebody has made in this database, without what belongs to extensions.
CONTENTS = """
    with members as (
        select classid, objid from pg_depend where refclassid = 'pg_extension'::regclass and deptype = 'e'
    ),

    schemas as (
        select n.oid, n.nspname from pg_namespace as n
        where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
            and ('pg_namespace'::regclass, n.oid) not in (select classid, objid from members)
    )

    select 'schema ' || s.nspname as object from schemas as s where s.nspname <> 'public'
    union all
    select 'relation ' || c.oid::regclass from pg_class as c inner join schemas as s on s.oid = c.relnamespace
    where ('pg_class'::regclass, c.oid) not in (select classid, objid from members)
    union all
    select 'function ' || p.oid::regprocedure from pg_proc as p inner join schemas as s on s.oid = p.pronamespace
    where ('pg_proc'::regclass, p.oid) not in (select classid, objid from members)
    limit 3
"""


@dataclass(frozen=True)
class Backup:
    """What a backup file holds; written beside it as JSON.

    counters: how far each had counted, at least, when the backup began. audit_anchor: the newest seal. roles: those
    that it names, and their members. settings: names of what was set for the database.
    """

    file: str
    size: int
    sha256: str
    database: str
    created_at: str
    command: str
    server: str
    server_major: int
    code: str
    schema: int
    pg_dump: int
    paused: bool
    audit_anchor: str | None
    counters: list[dict]
    roles: list[dict]
    settings: list[str]


def manifest_of(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def partial_of(file: Path) -> Path:
    return file.with_name(file.name + ".partial")


def make(settings: Settings, file: Path, folder: Path | None) -> Backup:
    """Dumps the whole database into file, in one snapshot with what the manifest says of it."""
    partial = partial_of(file)
    _require_folder(file)
    for path in (file, manifest_of(file)):
        new_files.require_ordinary(path)
    with settings.connect() as session:
        session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        about = session.execute(ABOUT).fetchone()
        counters = session.execute(COUNTERS).fetchall()
        # It only waits for pg_dump.
        session.execute("set local idle_in_transaction_session_timeout = 0")
        snapshot = session.execute("select pg_export_snapshot() as name").fetchone()["name"]
        pg_dump = programs.find("pg_dump", about["server_major"], folder)
        pg_restore = programs.find("pg_restore", programs.major_version(pg_dump), folder)
        place, environment = connection.for_programs(settings.dsn)
        # pg_dump would open a file by its name, whatever stands there by then.
        dump = new_files.create(partial)
        try:
            with dump:
                programs.run(
                    pg_dump, "--format=custom", f"--snapshot={snapshot}", "--no-password", f"--dbname={place}",
                    environment=environment, into=dump,
                )  # fmt: skip
            _require_readable(pg_restore, partial)
            roles = prerequisites.roles_of(session, prerequisites.of(pg_restore, partial).roles)
            names = [row["name"] for row in session.execute(SETTINGS).fetchall()]
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    backup = Backup(
        file=file.name, size=partial.stat().st_size, sha256=_sha256(partial),
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"), command=__version__,
        pg_dump=programs.major_version(pg_dump), counters=counters, roles=roles, settings=names, **about,
    )  # fmt: skip
    _publish(partial, file, backup)
    return backup


def _require_folder(file: Path) -> None:
    if not file.absolute().parent.is_dir():
        raise ExpectedError(f"there is no folder {file.absolute().parent}", remedy="make it, or name another file")


def _require_readable(pg_restore: Path, archive: Path) -> None:
    """The table of contents tells what is in it; only reading all of it tells that all of it is there."""
    contents = programs.run(pg_restore, "--list", archive)
    if " TABLE DATA machserial serials " not in contents:
        raise ExpectedError(
            f"{archive.name} holds no serials",
            detail="its contents have no data of machserial.serials",
            remedy="make it again as a role that may read everything, or take another backup",
        )
    programs.run(pg_restore, f"--file={os.devnull}", archive)


def _publish(partial: Path, file: Path, backup: Backup) -> None:
    """The names appear when everything is on the disk; an older backup stays until then."""
    manifest = partial_of(manifest_of(file))
    with new_files.create(manifest) as written:
        written.write((json.dumps(asdict(backup), indent=2, ensure_ascii=False) + "\n").encode())
    for path in (partial, manifest):
        with path.open("rb") as written:
            os.fsync(written.fileno())
    partial.replace(file)
    manifest.replace(manifest_of(file))


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Restored:
    """What restore() did. unfenced: the counters that must be fenced before numbers are issued again."""

    database: str
    file: str
    created_at: str | None
    serials: int
    paused: bool
    write_test: str
    unfenced: list[dict]


def restore(
    settings: Settings, file: Path, folder: Path | None, role: str | None, create: bool, grants: bool = True
) -> Restored:
    """Restores into an empty database, which it leaves paused; if it fails, the database stays empty.

    grants: whether to restore the privileges of roles, and their limits to sites.
    """
    manifest = _read_manifest(file) or {}
    place = {"dbname": MAINTENANCE_DATABASE} if create else {}
    with settings.connect(**place) as session:
        if not create:
            _require_empty(session)
        major = session.info.server_version // 10000
    if manifest.get("server_major", 0) > major:
        raise ExpectedError(
            f"the backup is of a server of version {manifest['server_major']}, this one is {major}",
            remedy="restore it into a server of the same version or a newer one",
        )
    pg_restore = programs.find("pg_restore", manifest.get("pg_dump", major), folder)
    psql = programs.find("psql", 0, folder)
    _require_readable(pg_restore, file)
    needs = prerequisites.of(pg_restore, file, grants, code=manifest.get("code"))
    with settings.connect(**place) as session:
        _require_prerequisites(session, needs, manifest, role, create)
    if manifest.get("settings"):
        log.warning("no backup has settings of the database; there were: %s", ", ".join(manifest["settings"]))
    created = _create_database(settings, role) if create else None
    try:
        _pour(settings, pg_restore, psql, file, role, grants, manifest.get("code"))
    except BaseException:
        if created:
            with suppress(ExpectedError), settings.connect(dbname=MAINTENANCE_DATABASE) as session:
                _at_once(session, sql.SQL("drop database {}").format(sql.Identifier(created)))
        raise
    return _examined(settings, file, manifest, role)


def _require_prerequisites(
    session: psycopg.Connection, needs: prerequisites.Needs, manifest: dict, role: str | None, create: bool
) -> None:
    """Raises ExpectedError with all that the server lacks, and the statements that make it."""
    missing = prerequisites.missing(session, needs, manifest.get("roles", []), role, in_target=not create)
    if missing:
        statements = " ".join(statement for _, statement in missing)
        without_grants = " Or leave out who may do what: --no-acl" if needs.grants and needs.roles else ""
        raise ExpectedError(
            f"the server lacks {len(missing)} things that the backup needs; nothing was restored",
            detail=", ".join(what for what, _ in missing),
            remedy=statements + without_grants,
        )


def _read_manifest(file: Path) -> dict | None:
    """What was written beside the backup; None if nothing is there. Raises if it is of another file."""
    if not file.is_file():
        raise ExpectedError(f"there is no file {file}", remedy="name the file that machserial backup wrote")
    path = manifest_of(file)
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        expected = manifest["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ExpectedError(f"{path} cannot be read", detail=str(error), remedy="mend it, or remove it") from error
    if _sha256(file) != expected:
        raise ExpectedError(
            f"{file} is not what was backed up",
            detail=f"its sha256 is not the one in {path.name}",
            remedy="take another copy of the backup; this one is damaged or was changed",
        )
    return manifest


def _at_once(session: psycopg.Connection, statement: sql.Composable) -> None:
    """Outside of a transaction, as statements about databases have to be."""
    session.rollback()
    session.autocommit = True
    session.execute(statement)
    session.autocommit = False


def _create_database(settings: Settings, role: str | None) -> str:
    """Makes the database that the connection string names; its name."""
    place, _ = connection.for_programs(settings.dsn)
    name = psycopg.conninfo.conninfo_to_dict(place).get("dbname") or os.environ.get("PGDATABASE")
    if not name:
        raise ExpectedError("no name of the new database was given", remedy="give it in --dsn or DATABASE_URL")
    statement = sql.SQL("create database {}").format(sql.Identifier(name))
    if role:
        statement += sql.SQL(" owner {}").format(sql.Identifier(role))
    with settings.connect(dbname=MAINTENANCE_DATABASE) as session:
        try:
            _at_once(session, statement)
        except psycopg.errors.DuplicateDatabase as error:
            raise ExpectedError(
                f"there is a database {name} already", remedy="leave out --create if it is empty, or name another"
            ) from error
    return name


def _require_empty(session: psycopg.Connection) -> None:
    found = session.execute(CONTENTS).fetchall()
    if found:
        raise ExpectedError(
            f"database {session.info.dbname} is not empty: nothing is restored into it",
            detail=f"it holds {', '.join(row['object'] for row in found)}",
            remedy="restore into a new one: machserial restore --create",
        )


def _pour(
    settings: Settings, pg_restore: Path, psql: Path, file: Path, role: str | None, grants: bool, code: str | None
) -> None:
    """One transaction: the whole backup, and the pause. So nobody ever finds it restored and not paused.

    code: the version of the extension that the backup was made with; None: that is not known.
    """
    place, environment = connection.for_programs(settings.dsn)
    reason = sql.Literal(f"restored from {file.name}").as_string(None)
    last = f"select machserial.pause({reason}, until_fenced => true);\n"
    if not grants:
        # Functions of a dump without grants are open to everybody.
        last += "select machserial._close_functions(), machserial._close_to_everybody();\n"
    owner = ["--no-owner", *([f"--role={role}"] if role else [])]
    with (
        tempfile.TemporaryFile() as read_errors,
        tempfile.TemporaryFile() as write_errors,
        prerequisites.chosen(prerequisites.contents(pg_restore, file, grants)) as chosen,
    ):
        reader = subprocess.Popen(
            [pg_restore, *owner, chosen, "--file=-", file],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=read_errors,
        )  # fmt: skip
        writer = subprocess.Popen(
            [psql, "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", "--no-password",
             f"--output={os.devnull}", f"--dbname={place}", "--file=-"],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=write_errors,
        )  # fmt: skip
        try:
            try:
                _copy(reader.stdout, writer.stdin, code)
                if reader.wait():
                    raise programs.failed(pg_restore, _text(read_errors))
                # In the encoding that the dump has set, which not every file name can be written in.
                writer.stdin.write(last.encode("ascii", "backslashreplace"))
                writer.stdin.close()
            except BrokenPipeError:
                # psql has stopped at an error.
                pass
            if writer.wait():
                raise programs.failed(psql, _text(write_errors))
        finally:
            # At the end of its input psql would commit: it must not see one that came too early.
            for process in (writer, reader):
                if process.poll() is None:
                    process.kill()
                    process.wait()
            reader.stdout.close()
            with suppress(BrokenPipeError):
                writer.stdin.close()


def _copy(source: IO[bytes], target: IO[bytes], code: str | None) -> None:
    """All of it but a setting that a newer pg_restore writes and an older server does not know.

    A dump does not say which version of an extension it had; the tables are those of that one.
    """
    version = f" VERSION '{code}'".encode() if code else b""
    for _ in range(FIRST_LINES):
        line = source.readline()
        if line == CREATE_EXTENSION + b";\n":
            line = CREATE_EXTENSION + version + b";\n"
        if line != b"SET transaction_timeout = 0;\n":
            target.write(line)
    shutil.copyfileobj(source, target, 1 << 20)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _examined(settings: Settings, file: Path, manifest: dict, role: str | None) -> Restored:
    with settings.connect() as session:
        if role:
            session.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        if pending := session.execute("select name from machserial.pending_migrations()").fetchall():
            raise NotDeployed("the restored schema is older than the machserial code", f"{len(pending)} are pending")
        try:
            session.execute("select machserial.write_test()")
        except psycopg.Error as error:
            raise ExpectedError(
                "the database is restored and paused, but it cannot be written to",
                detail=f"{error.diag.message_primary}: {error.diag.message_detail}",
                remedy=error.diag.message_hint or "machserial migrate verify",
                code=Exit.REFUSED,
                sqlstate=error.sqlstate,
            ) from error
        return Restored(
            database=session.info.dbname,
            file=str(file),
            created_at=manifest.get("created_at"),
            serials=session.execute("select count(*) as n from machserial.serials").fetchone()["n"],
            paused=True,
            write_test="passed",
            unfenced=session.execute("select * from machserial.unfenced_counters()").fetchall(),
        )
