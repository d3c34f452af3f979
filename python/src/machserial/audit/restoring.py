"""Archived months of the audit trail come back to the database."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from machserial import audit_verifier
from machserial.audit import archive_files
from machserial.audit.archiving import (
    DETACHED,
    EVENT_COLUMNS,
    PENDING,
    Job,
    detach,
    exclusively,
    in_bulk,
    rename,
    state_of,
)
from machserial.errors import Exit, ExpectedError
from machserial.functions import Row, call_one

COPY_BACK = "copy machserial.audit_events ({columns}) from stdin (format csv, encoding 'UTF8')"

SEAL_HASH = "select encode(seal_hash, 'hex') as seal_hash from machserial.audit_seals where id = %s"

EVENTS_PRESENT = """
    select count(*) as present
    from (
        select unnest(l.event_ids) as event_id
        from machserial.audit_seals as s
        inner join machserial.audit_leaves as l on l.seal_id = s.id
        where s.month = %(month)s and s.id between %(first_seal_id)s and %(last_seal_id)s
    ) as o
    inner join machserial.audit_events as e on e.id = o.event_id
    where
        e.performed_at >= %(first_moment)s::timestamptz
        and e.performed_at < %(end_moment)s::timestamptz
"""


def manifests(places: list[Path], month: str | None = None) -> list[Path]:
    """Manifests as they are given, or those of folders; with month (YYYY-MM) only those of it."""
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += audit_verifier.manifests_in(place)
        elif place.exists():
            found.append(place)
        else:
            raise ExpectedError(f"{place} is not there", remedy="name a manifest or its folder", code=Exit.USAGE)
    if month:
        prefix = f"audit_{month.replace('-', '_')}"
        found = [path for path in found if re.fullmatch(rf"{prefix}(_\d+)?\.json", path.name)]
    if not found:
        detail = f"of {month}" if month else None
        raise ExpectedError("there is no manifest", detail=detail, remedy="name another folder", code=Exit.USAGE)
    return found


def restore(connection: psycopg.Connection, paths: list[Path]) -> Row:
    """Brings the events of archives back, all of one month. The connection is in autocommit.

    Returns the month, how many of its events are there, and how many had to be copied.
    """
    archive_files.require_none(audit_verifier.Verification(is_whole=False).problems(paths), ", ".join(map(str, paths)))
    found = {path: audit_verifier.read_manifest(path) for path in paths}
    months = {manifest["month"] for manifest in found.values()}
    if len(months) > 1:
        raise ExpectedError(
            "the archives are of several months",
            detail=", ".join(sorted(months)),
            remedy="restore one month at a time: say which with --month",
            code=Exit.USAGE,
        )
    job = Job(connection, paths[0].parent, date.fromisoformat(f"{months.pop()}-01"))
    # A detachment that was broken off is first brought to its end.
    if state_of(connection, job.partition)["state"] in (PENDING, DETACHED):
        detach(job)
        rename(job)
    with exclusively(connection):
        relation = call_one(connection, "restore_archived", month=job.month)["restore_archived"]
        copied = sum(_copy_back(job, path, manifest) for path, manifest in found.items())
        events = call_one(connection, "verify_archived", month=job.month)["verify_archived"]
    return {"month": job.label, "relation": relation, "events": events, "copied": copied}


def _copy_back(job: Job, path: Path, manifest: dict[str, Any]) -> int:
    """Copies the events of an archive into the table, if they are not there; how many."""
    archive = audit_verifier.Archive(manifest, path.parent)
    _require_own(job, path, archive)
    seals = {"month": job.month, "first_seal_id": manifest["first_seal_id"], "last_seal_id": manifest["last_seal_id"]}
    with in_bulk(job.connection):
        found = job.connection.execute(EVENTS_PRESENT, {**seals, **job.moments}).fetchone()
    if found["present"] == manifest["event_count"]:
        return 0
    if found["present"]:
        raise ExpectedError(
            f"some of the events of {path} are in the database and some are not",
            detail=f"{found['present']} of {manifest['event_count']} are",
            remedy="see machserial audit verify --full",
        )
    columns = sql.SQL(", ").join(map(sql.Identifier, EVENT_COLUMNS))
    with job.connection.cursor() as cursor:
        with cursor.copy(sql.SQL(COPY_BACK).format(columns=columns)) as copy:
            for event in archive.events():
                copy.write(_csv_line(event))
        return cursor.rowcount


def _require_own(job: Job, path: Path, archive: audit_verifier.Archive) -> None:
    """The archive's chain is this database's if its last seal is: each seal holds the hash of the one before."""
    *_, last = archive.seals()
    seal_id, seal_hash = int(last["id"]), last["seal_hash"].decode()
    here = job.connection.execute(SEAL_HASH, [seal_id]).fetchone()
    if here != {"seal_hash": seal_hash}:
        raise ExpectedError(
            f"{path} is not an archive of this database",
            detail=f"its seal {seal_id} is not that of this database",
            remedy="connect to the database that it was written from, or to a copy of it",
        )


def _csv_line(event: audit_verifier.CsvRow) -> bytes:
    cells = (event[name] for name in EVENT_COLUMNS)
    return b",".join(b"" if cell is None else b'"' + cell.replace(b'"', b'""') + b'"' for cell in cells) + b"\n"
