"""Months of the audit trail go to files.

A month is archived in steps. Whatever ends a run between or within them, each event is in its table or in files that
were verified, and the next run finishes: a manifest is written last and only beside complete files, the database
compares before it puts an archive on record, and only what is on record is detached.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import itertools
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg import sql

from machserial import __version__, audit_verifier, errors
from machserial.audit import archive_files
from machserial.errors import ExpectedError, one_line
from machserial.files import new_files
from machserial.functions import Row, call, call_one

log = logging.getLogger(__name__)

MANIFEST_VERSION = 1
PARTIAL = ".partial"
LOCK = "machserial archive"

# Seven years, where the setting is gone.
DEFAULT_RETENTION_DAYS = 2555

# Nobody waits behind a lock of ours for longer. Then others get their turn, and it is tried again.
LOCK_TIMEOUT = 0.5  # seconds
ATTEMPTS = 30
PAUSE = (0.1, 1.0)  # seconds, by chance, so that it does not keep time with whoever is in its way
IN_THE_WAY = (pg.LockNotAvailable, pg.DeadlockDetected)
# Another archiver was faster: the state is looked at again.
OVERTAKEN = (pg.UndefinedTable, pg.ObjectNotInPrerequisiteState)

# What record and manifest say alike.
HELD = ("first_seal_id", "last_seal_id", "event_count")

# Where the events of a month are.
ATTACHED, PENDING, DETACHED, RENAMED, ABSENT = "attached", "pending", "detached", "renamed", "absent"

EVENT_COLUMNS = (
    *("id", "event_type", "event_source", "serial_id", "serial_number", "part_id", "site_id", "performed_by"),
    *("db_user", "performed_at", "reason", "details", "transaction_id"),
)
SEAL_COLUMNS = (
    *("id", "incarnation", "begins_after_id", "system_identifier", "timeline", "month", "event_count"),
    *("first_event_id", "last_event_id", "up_to_transaction_id", "up_to_event_id", "horizon", "next_transaction_id"),
    *("oldest_transaction_at", "last_given_id", "not_before", "merkle_root", "previous_hash", "sealed_at", "sealed_by"),
    "seal_hash",
)
# What the session's settings would print otherwise each time.
IN_A_FILE = {
    **dict.fromkeys(
        ("performed_at", "oldest_transaction_at", "not_before", "sealed_at"),
        """to_char({} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""",
    ),
    **dict.fromkeys(("merkle_root", "previous_hash", "seal_hash"), "encode({}, 'hex')"),
    "month": "to_char({}, 'YYYY-MM-DD')",
}

# All values are quoted, so that null and an empty text stay two things.
COPY_EVENTS = """
    copy (
        select o.seal_id, {columns}
        from (
            select l.seal_id, unnest(l.event_ids) as event_id, generate_subscripts(l.event_ids, 1) as place
            from machserial.audit_seals as s
            inner join machserial.audit_leaves as l on l.seal_id = s.id
            where s.month = {month} and s.id between {first_seal_id} and {last_seal_id}
        ) as o
        inner join {relation} as t on t.id = o.event_id
        where t.performed_at >= {first_moment} and t.performed_at < {end_moment}
        order by o.seal_id, o.place
    ) to stdout (format csv, header, force_quote *, encoding 'UTF8')
"""

COPY_SEALS = """
    copy (
        select {columns} from machserial.audit_seals as t
        where t.id <= {last_seal_id} and t.id > least({first_seal_id} - 1, coalesce(
            (select max(a.last_seal_id) from machserial.audit_archives as a where a.first_seal_id < {first_seal_id}), 0
        ))
        order by t.id
    ) to stdout (format csv, header, force_quote *, encoding 'UTF8')
"""

OLD_MONTHS = """
    select month, events, unsealed_events, is_archived, is_over
    from machserial.audit_months()
    where seals > 0 and (month + interval '1 month') at time zone 'UTC' <= now() - %s::interval
    order by month
"""

# What is sealed of a month and in no archive yet.
UNARCHIVED = """
    select min(s.id) as first_seal_id, max(s.id) as last_seal_id
    from machserial.audit_seals as s
    where
        s.month = %(month)s
        and s.id > coalesce((select max(last_seal_id) from machserial.audit_archives where month = %(month)s), 0)
"""

# The newest first: one that was lost may have been made again.
ON_RECORD = """
    select id, location, manifest_sha256, first_seal_id, last_seal_id, event_count, merkle_root
    from machserial.audit_archives where month = %s order by first_seal_id, id desc
"""

# What the seals say of an archive, in the words of its record.
SEALED = """
    select
        min(s.id) as first_seal_id, max(s.id) as last_seal_id, sum(s.event_count)::bigint as event_count,
        machserial._archive_root(%(month)s, %(first_seal_id)s, %(last_seal_id)s) as merkle_root
    from machserial.audit_seals as s
    where s.month = %(month)s and s.id between %(first_seal_id)s and %(last_seal_id)s
"""

STATE = """
    select
        case
            when i.inhdetachpending then 'pending'
            when i.inhrelid is not null then 'attached'
            when n.here is not null then 'detached'
            when n.archived is not null then 'renamed'
            else 'absent'
        end as state,
        n.here is not null and n.archived is not null as both
    from (
        select
            to_regclass('machserial.' || %(name)s) as here,
            to_regclass('machserial.' || %(name)s || '_archived') as archived
    ) as n
    left join pg_inherits as i on i.inhrelid = n.here and i.inhparent = to_regclass('machserial.audit_events')
"""

HOLDER = """
    select a.pid, a.usename, a.application_name, a.client_addr, a.xact_start
    from pg_locks as l
    inner join pg_stat_activity as a on a.pid = l.pid
    where
        l.locktype = 'advisory' and l.granted and l.objsubid = 2
        and l.classid = hashtext(%s)::oid and l.objid = 0
        and l.database = (select oid from pg_database where datname = current_database())
"""


@dataclass
class Job:
    """One month on its way. What the steps find out stands here for the next."""

    connection: psycopg.Connection
    folder: Path
    month: date
    events: int = 0
    is_archived: bool = False
    drop: bool = False
    state: str = ABSENT
    lost: list[Row] = field(default_factory=list)  # archives on record whose files are gone
    source: str = "audit_events"  # where the events of the archive are read
    first_seal_id: int | None = None
    last_seal_id: int | None = None
    suffix: str = ""  # _2, _3, … for further archives of the month
    files: list[dict[str, Any]] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.month:%Y-%m}"

    @property
    def partition(self) -> str:
        return f"audit_events_{self.month:%Y_%m}"

    @property
    def moments(self) -> dict[str, str]:
        return moments_of(self.month)

    @property
    def manifest_path(self) -> Path:
        return self.folder / f"audit_{self.month:%Y_%m}{self.suffix}.json"

    def file_name(self, content: str, extension: str) -> str:
        return f"audit_{content}_{self.month:%Y_%m}{self.suffix}.{extension}"

    def partial(self, name: str) -> Path:
        return self.folder / (name + PARTIAL)


# Which months


def retention(connection: psycopg.Connection) -> str:
    """How long events stay in the database, as an interval."""
    row = connection.execute("select value from machserial.settings where name = 'audit_retention_days'").fetchone()
    return f"{row['value'] if row else DEFAULT_RETENTION_DAYS} days"


def due(connection: psycopg.Connection, folder: Path, older_than: str, drop: bool) -> tuple[list[Job], list[Row]]:
    """The months that ended older_than (an interval) ago and have steps before them; and those that must wait: why."""
    jobs, waiting = [], []
    for month in connection.execute(OLD_MONTHS, [older_than]).fetchall():
        job = Job(connection, folder, month["month"], month["events"], month["is_archived"], drop)
        job.state = state_of(connection, job.partition)["state"]
        job.lost = lost_archives(job) if job.state != ABSENT else []
        obstacle = _obstacle(month, job)
        if obstacle:
            waiting.append({"month": job.label, "reason": obstacle})
        elif planned(job):
            jobs.append(job)
    return jobs, waiting


def _obstacle(month: Row, job: Job) -> str | None:
    """Why a month must stay as it is."""
    if month["unsealed_events"]:
        # It may be archived, and have got more events since.
        return f"{month['unsealed_events']} of its events are not sealed; see machserial audit seal"
    if job.is_archived:
        return None
    if not month["is_over"]:
        return "a transaction that began before its end is still open"
    if job.state != ATTACHED:
        return "its partition is not attached and no archive of it is on record"
    return None


def planned(job: Job) -> list[str]:
    """What a run will do to the month, in words."""
    plan = [] if job.is_archived and not job.lost else ["export", "record"]
    if job.state in (ATTACHED, PENDING):
        plan.append("detach")
    if job.state in (ATTACHED, PENDING, DETACHED):
        plan.append("rename")
    if job.drop and job.state != ABSENT:
        plan.append("drop")
    return plan


def state_of(connection: psycopg.Connection, partition: str) -> Row:
    """state: one of ATTACHED to ABSENT; both: a table that was detached earlier is there as well."""
    return connection.execute(STATE, {"name": partition}).fetchone()


# Steps


def export_events(job: Job) -> None:
    _forget_partials(job)
    job.files.append(_export(job, "events", EVENT_COLUMNS, COPY_EVENTS))


def export_seals(job: Job) -> None:
    """The chain from where the archives before ended to the month's last seal, those of other months included."""
    job.files.append(_export(job, "seals", SEAL_COLUMNS, COPY_SEALS))


def export_parquet(job: Job) -> None:
    """The same events for those who analyse them, where pyarrow is installed."""
    if importlib.util.find_spec("pyarrow"):
        from machserial.audit import parquet

        name = job.file_name("events", "parquet")
        with new_files.create(job.partial(name)) as file:
            hashing = archive_files.Hashing(file)
            rows = parquet.write(job.partial(job.files[0]["name"]), hashing)
            archive_files.to_disk(file)
        job.files.append(hashing.described(name, "events in parquet", rows))


def check_files(job: Job) -> None:
    """What has reached the disk is read again, by the verifier that an inspector runs."""
    job.manifest = _manifest(job)
    archive = audit_verifier.Archive(job.manifest, job.folder, PARTIAL)
    archive_files.require_none(audit_verifier.Verification().archive_problems(archive), f"the export of {job.label}")
    for file in job.files:
        if file["content"] == "events in parquet":
            from machserial.audit import parquet

            if parquet.count(job.partial(file["name"])) != job.manifest["event_count"]:
                raise archive_files.unsound(f"the export of {job.label}", f"{file['name']} does not hold all events")


def write_manifest(job: Job) -> None:
    with new_files.create(job.partial(job.manifest_path.name)) as file:
        file.write((json.dumps(job.manifest, ensure_ascii=False, indent=2) + "\n").encode())
        archive_files.to_disk(file)


def publish_files(job: Job) -> None:
    for file in job.files:
        os.replace(job.partial(file["name"]), job.folder / file["name"])
    archive_files.sync_folder(job.folder)


def publish_manifest(job: Job) -> None:
    """From here on the archive exists: the files that it names are complete and in place."""
    os.replace(job.partial(job.manifest_path.name), job.manifest_path)
    archive_files.sync_folder(job.folder)


def record(job: Job) -> None:
    call_one(
        job.connection,
        "record_archive",
        month=job.month,
        first_seal_id=job.manifest["first_seal_id"],
        last_seal_id=job.manifest["last_seal_id"],
        event_count=job.manifest["event_count"],
        merkle_root=bytes.fromhex(job.manifest["merkle_root"]),
        manifest_sha256=audit_verifier.sha256_of(job.manifest_path)[0],
        location=str(job.manifest_path.resolve()),
    )


def detach(job: Job) -> None:
    """Takes the partition out of the trail. Readers and writers go on meanwhile."""

    def work() -> None:
        found = state_of(job.connection, job.partition)
        if found["both"]:
            raise ExpectedError(
                f"{job.partition} cannot be detached",
                detail=f"machserial.{job.partition}_archived, detached earlier, is still there",
                remedy="drop that first: machserial audit archive --drop",
            )
        if found["state"] in (ATTACHED, PENDING):
            how = "concurrently" if found["state"] == ATTACHED else "finalize"
            statement = sql.SQL("alter table machserial.audit_events detach partition {} {}").format(
                sql.Identifier("machserial", job.partition), sql.SQL(how)
            )
            with _cancelled_after(job.connection, LOCK_TIMEOUT):
                job.connection.execute(statement)

    _patiently(work, job.partition, (*OVERTAKEN, pg.QueryCanceled))


def rename(job: Job) -> None:
    """Its own name is free again for events that come back."""

    def work() -> None:
        if state_of(job.connection, job.partition)["state"] == DETACHED:
            statement = sql.SQL("alter table {} rename to {}").format(
                sql.Identifier("machserial", job.partition), sql.Identifier(f"{job.partition}_archived")
            )
            with job.connection.transaction():
                _limit_waiting(job.connection)
                job.connection.execute(statement)

    _patiently(work, job.partition, OVERTAKEN)


def drop(job: Job) -> None:
    """Only what is in files that were read again just now, all of them, and say what was sealed."""
    for copies in archives_on_record(job):
        _require_kept(job, copies)

    def work() -> None:
        with exclusively(job.connection):
            _limit_waiting(job.connection)
            call(job.connection, "drop_archived", month=job.month)

    _patiently(work, f"{job.partition}_archived")


Step = Callable[[Job], None]

# In their order. Those of the export are one transaction, which holds the lock.
EXPORT_STEPS: dict[str, Step] = {
    "export events": export_events,
    "export seals": export_seals,
    "export parquet": export_parquet,
    "check files": check_files,
    "write manifest": write_manifest,
    "publish files": publish_files,
    "publish manifest": publish_manifest,
}
STEPS: dict[str, Step] = {**EXPORT_STEPS, "record": record, "detach": detach, "rename": rename, "drop": drop}


def archive_months(jobs: list[Job]) -> tuple[list[Row], list[Row]]:
    """What was done to each month; and to which it could not be done, and why: they do not keep the others waiting.

    Raises ExpectedError for what would meet every month: another session at the same work, or in the way.
    """
    done, failed = [], []
    for job in jobs:
        try:
            done.append(archive_month(job))
        except InTheWay:
            raise
        except (ExpectedError, psycopg.Error) as error:
            expected = errors.from_database(error) if isinstance(error, psycopg.Error) else error
            if expected is None or job.connection.closed:
                raise
            failed.append({"month": job.label, "reason": one_line(expected.message, expected.detail, expected.remedy)})
    return done, failed


def archive_month(job: Job) -> Row:
    """Does what is planned for a month. The connection is in autocommit. Returns what was done."""
    done = planned(job)
    if "export" in done:
        export_and_record(job)
    if job.drop and state_of(job.connection, job.partition)["both"]:
        # The table of an earlier archive has the name that this one needs.
        _run("drop", job)
    for step in ("detach", "rename", "drop"):
        if step in done:
            _run(step, job)
    return {
        "month": job.label,
        "events": job.events,
        "done": done,
        "manifest": str(job.manifest_path) if job.manifest else None,
    }


def planned_for(job: Job) -> Row:
    """What archive_month() would do."""
    return {"month": job.label, "events": job.events, "to_do": planned(job)}


def export_and_record(job: Job) -> None:
    """Seals never change, so what belongs to the archive is settled by the ids of its seals: no snapshot is kept."""
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        with exclusively(job.connection):
            if not job.is_archived:
                _decide_content(job)
                _write_and_record(job)
            for archive in job.lost:
                _decide_again(job, archive)
                _write_and_record(job)
    except OSError as error:
        raise ExpectedError(
            f"the archive cannot be written to {job.folder}",
            detail=error.strerror or str(error),
            remedy="make room or name another folder; nothing was taken out of the database",
        ) from error


def _write_and_record(job: Job) -> None:
    job.files = []
    if not _reuse(job):
        for step in EXPORT_STEPS:
            _run(step, job)
    _run("record", job)


def _run(step: str, job: Job) -> None:
    log.info("%s: %s", job.label, step)
    STEPS[step](job)


def _decide_content(job: Job) -> None:
    """Which seals the archive holds, and under which number."""
    seals = job.connection.execute(UNARCHIVED, {"month": job.month}).fetchone()
    job.first_seal_id, job.last_seal_id = seals["first_seal_id"], seals["last_seal_id"]
    if job.first_seal_id is None:
        raise ExpectedError(f"{job.label} was archived by another session just now", remedy="run it again")
    job.source = "audit_events"
    # Files of archives that are on record are never overwritten, whatever became of their manifests.
    _number(job, len(archives_on_record(job)) + 1)


def _decide_again(job: Job, archive: Row) -> None:
    """The same for an archive that was lost, and whose events are still here."""
    job.first_seal_id, job.last_seal_id = archive["first_seal_id"], archive["last_seal_id"]
    found = state_of(job.connection, job.partition)
    if found["both"] or found["state"] == RENAMED:
        job.source = f"{job.partition}_archived"
    else:
        job.source = job.partition
    log.warning("%s: the archive %s is gone, and is made again", job.label, archive["location"])
    firsts = [copies[0]["first_seal_id"] for copies in archives_on_record(job)]
    _number(job, firsts.index(archive["first_seal_id"]) + 1)


def _number(job: Job, first: int) -> None:
    """The first number from there on that no other archive in the folder has."""
    for number in itertools.count(first):
        job.suffix = f"_{number}" if number > 1 else ""
        if not job.manifest_path.exists() or _seals_of(job.manifest_path) == (job.first_seal_id, job.last_seal_id):
            return


def _seals_of(manifest: Path) -> tuple[int, int] | None:
    try:
        found = audit_verifier.read_manifest(manifest)
    except audit_verifier.Damaged:
        return None
    return found["first_seal_id"], found["last_seal_id"]


def _reuse(job: Job) -> bool:
    """A run that was killed may have left a whole archive of the same seals."""
    if not job.manifest_path.exists() or not _is_whole(job.manifest_path):
        return False
    archive_files.require_none(audit_verifier.Verification().problems([job.manifest_path]), str(job.manifest_path))
    job.manifest = audit_verifier.read_manifest(job.manifest_path)
    log.info("%s: %s is there already", job.label, job.manifest_path)
    return True


# What is on record, and what became of its files


def archives_on_record(job: Job) -> list[list[Row]]:
    """Of each archive of the month its copies, the newest first: there are several where one was lost."""
    rows = job.connection.execute(ON_RECORD, [job.month]).fetchall()
    return [list(copies) for _, copies in itertools.groupby(rows, key=lambda row: row["first_seal_id"])]


def lost_archives(job: Job) -> list[Row]:
    """Those of which no copy has its files any more."""
    return [copies[0] for copies in archives_on_record(job) if not any(_found(copy, job.folder) for copy in copies)]


def _found(archive: Row, folder: Path) -> Path | None:
    """The manifest of an archive on record, if its files are there: where it was written, or in the folder."""
    recorded = Path(archive["location"])
    return next((path for path in (recorded, folder / recorded.name) if _is_whole(path)), None)


def _is_whole(manifest: Path) -> bool:
    """Whether a manifest and all files that it names are there. What is in them is another question."""
    try:
        files = audit_verifier.read_manifest(manifest)["files"]
    except audit_verifier.Damaged:
        # A file that is there and cannot be read is not lost, but to be looked at.
        return os.path.isfile(manifest)
    return all(os.path.isfile(manifest.parent / file["name"]) for file in files)


def _require_kept(job: Job, copies: list[Row]) -> None:
    """That files of an archive are there, are sound, and hold what the record and the seals of the database say."""
    found = [(copy, path) for copy in copies if (path := _found(copy, job.folder))]
    if not found:
        raise ExpectedError(f"the files of {copies[0]['location']} are gone", remedy="run it again with --to")
    # The one on record at that place, if it was made again there.
    archive, path = next(
        ((copy, path) for copy, path in found if audit_verifier.sha256_of(path)[0] == copy["manifest_sha256"]), found[0]
    )
    archive_files.require_sound(path, archive["manifest_sha256"])
    manifest = audit_verifier.read_manifest(path)
    said = {**{name: manifest[name] for name in HELD}, "merkle_root": bytes.fromhex(manifest["merkle_root"])}
    if said != {name: archive[name] for name in (*HELD, "merkle_root")}:
        raise archive_files.unsound(str(path), "it holds other events than the record says")
    sealed = job.connection.execute(SEALED, {"month": job.month, **archive}).fetchone()
    if said != sealed:
        raise archive_files.unsound(str(path), "it holds other events than the seals in the database say")


# Files


def moments_of(month: date) -> dict[str, str]:
    """First moment of the month, and of the next."""
    end = date(month.year + month.month // 12, month.month % 12 + 1, 1)
    return {"first_moment": f"{month} 00:00:00+00", "end_moment": f"{end} 00:00:00+00"}


def filled(query: str, columns: tuple[str, ...], relation: str = "audit_events", **values: object) -> sql.Composable:
    """A query that copies columns of t as they are written to a file; relation: where events are."""
    literals = {name: sql.Literal(value) for name, value in values.items()}
    names = {"columns": _columns(columns), "relation": sql.Identifier("machserial", relation)}
    return sql.SQL(query).format(**names, **literals)


def _columns(names: tuple[str, ...]) -> sql.Composable:
    return sql.SQL(", ").join(
        sql.SQL(IN_A_FILE.get(name, "{}") + " as {}").format(sql.Identifier("t", name), sql.Identifier(name))
        for name in names
    )


def _export(job: Job, content: str, columns: tuple[str, ...], query: str) -> dict[str, Any]:
    """Writes what query gives to a file that is not published yet, and describes it."""
    values = {"month": str(job.month), "first_seal_id": job.first_seal_id, "last_seal_id": job.last_seal_id}
    copying = filled(query, columns, job.source, **values, **job.moments)
    name = job.file_name(content, "csv.gz")
    with new_files.create(job.partial(name)) as file, job.connection.cursor() as cursor, in_bulk(job.connection):
        hashing = archive_files.Hashing(file)
        # Without a name and a time in it, the same events give the same file.
        with gzip.GzipFile("", "wb", fileobj=hashing, mtime=0) as zipped, cursor.copy(copying) as copy:
            for block in copy:
                zipped.write(block)
        archive_files.to_disk(file)
        return hashing.described(name, content, cursor.rowcount)


def _root(job: Job) -> str:
    """The merkle_root of an archive, as the database has it."""
    row = call_one(
        job.connection,
        "_archive_root",
        month=job.month,
        first_seal_id=job.first_seal_id,
        last_seal_id=job.last_seal_id,
    )
    return row["_archive_root"].hex()


def _manifest(job: Job) -> dict[str, Any]:
    return {
        "version": MANIFEST_VERSION,
        "month": job.label,
        "first_seal_id": job.first_seal_id,
        "last_seal_id": job.last_seal_id,
        "event_count": job.files[0]["rows"],
        "merkle_root": _root(job),
        "files": job.files,
        "machserial_version": __version__,
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _forget_partials(job: Job) -> None:
    """What a run that was killed has left of this month."""
    for path in job.folder.glob(f"audit_*{job.month:%Y_%m}*{PARTIAL}"):
        path.unlink()


# Locks


@contextmanager
def exclusively(connection: psycopg.Connection) -> Iterator[None]:
    """A transaction in which this session is the only one that archives or restores. It may take its time."""
    with connection.transaction():
        row = connection.execute("select pg_try_advisory_xact_lock(hashtext(%s), 0) as ours", [LOCK]).fetchone()
        if not row["ours"]:
            raise _held(connection)
        connection.execute("set local statement_timeout = 0")
        connection.execute("set local idle_in_transaction_session_timeout = 0")
        yield


@contextmanager
def in_bulk(connection: psycopg.Connection) -> Iterator[None]:
    """Within a transaction: for queries that join all events of a month. No index has their ids alone, and how many
    are in an array the planner can only guess: a loop within a loop would never end."""
    connection.execute("set local enable_nestloop = off")
    yield
    connection.execute("set local enable_nestloop to default")


class InTheWay(ExpectedError):
    """Somebody else's session is: nothing is wrong, and a later run goes on."""


def _held(connection: psycopg.Connection) -> ExpectedError:
    holder = connection.execute(HOLDER, [LOCK]).fetchone()
    detail = None
    if holder:
        place = f" from {holder['client_addr']}" if holder["client_addr"] else ""
        since = f", since {holder['xact_start']:%Y-%m-%d %H:%M:%S%z}" if holder["xact_start"] else ""
        who = f"{holder['usename']}, {holder['application_name'] or 'unnamed'}{place}"
        detail = f"it is process {holder['pid']} of the server ({who}{since})"
    return InTheWay(
        "another session archives or restores in this database",
        detail=detail,
        remedy="run it again when that has ended",
    )


def _limit_waiting(connection: psycopg.Connection) -> None:
    """Until the transaction ends: through a pooler another client has the session next."""
    connection.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(f"{LOCK_TIMEOUT * 1000:.0f}ms")))


@contextmanager
def _cancelled_after(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """The same for what no transaction may hold: a setting would stay, so the statement is cancelled from here.

    It has nothing to do but to wait for others.
    """

    def cancel() -> None:
        with contextlib.suppress(psycopg.Error):
            connection.cancel()

    timer = threading.Timer(seconds, cancel)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _patiently(work: Callable[[], None], table: str, also: tuple[type[psycopg.Error], ...] = ()) -> None:
    """Runs work, which locks table, again and again until it gets its locks. also: for what else it is repeated."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(*PAUSE))
        try:
            work()
            return
        except (*IN_THE_WAY, *also) as error:
            last = error
            log.info("%s: %s", table, error.diag.message_primary)
    raise InTheWay(
        f"machserial.{table} is in use",
        detail=last.diag.message_primary,
        remedy="run it again when long transactions have ended: it goes on where it stopped",
        sqlstate=last.sqlstate,
    )
