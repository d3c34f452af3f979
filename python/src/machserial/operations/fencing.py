"""Fencing: counters are moved past what has left the building, one after another, and every one is accounted for."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from machserial.errors import ExpectedError
from machserial.files import spreadsheets
from machserial.functions import Row, call
from machserial.operations import pausing

COLUMNS = ("format", "highest", "part_id", "site_id")
# Of a row of preview_fence(). The first three say which counter it is.
PREVIEWED = ("format_name", "counter_key", "period", "next_before", "next_after", "burned", "outcome")
NOT_CONFIRMED = "NOT CONFIRMED"


@dataclass(frozen=True)
class Known:
    """The highest number of a format that has left the building; highest None: none beyond what the database knows."""

    format: str
    highest: str | None
    part_id: str | None = None
    site_id: str | None = None


def read_csv(file: Path) -> list[Known]:
    """A row for each counter, under a header with format, highest, and if needed part_id and site_id."""
    with file.open(newline="", encoding="utf-8-sig") as source:
        rows = csv.DictReader(source)
        header = set(rows.fieldnames or ())
        if not {"format", "highest"} <= header or not header <= set(COLUMNS):
            raise ExpectedError(
                f"{file} has not the columns that are needed",
                detail=f"it has {', '.join(rows.fieldnames or ()) or 'none'}",
                remedy="begin it with a line format,highest or format,highest,part_id,site_id",
            )
        known = []
        for row in rows:
            if None in row or not row["format"]:
                raise ExpectedError(
                    f"line {rows.line_num} of {file} is not a row of the table",
                    remedy="give each line as many fields as the header, and a format",
                )
            cells = {name: spreadsheets.plain(name, (row.get(name) or "").strip()) for name in COLUMNS}
            known.append(Known(**{name: cell or None for name, cell in cells.items()}))
        return known


def fence(
    connection: psycopg.Connection, known: Iterable[Known], all_known: bool, reason: str, margin: int
) -> list[Row]:
    """What was done to each counter; those of which nothing was said come last, as NOT_CONFIRMED."""
    done = []
    for one in known:
        done += _fenced(connection, one, reason, margin)
    unfenced = call(connection, "unfenced_counters")
    if all_known:
        for name in dict.fromkeys(row["format"] for row in unfenced):
            done += _fenced(connection, Known(name, None), reason, margin)
        unfenced = call(connection, "unfenced_counters")
    return done + [_not_confirmed(row) for row in unfenced]


def preview(connection: psycopg.Connection, known: Iterable[Known], all_known: bool, margin: int) -> list[Row]:
    """What fence() would do to each counter: what comes next before and after, and how many numbers are burned."""
    known = list(known)
    if all_known:
        unfenced = dict.fromkeys(row["format"] for row in call(connection, "unfenced_counters"))
        known += [Known(name, None) for name in unfenced]
    planned: dict[tuple, Row] = {}
    for one in known:
        for row in call(
            connection, "preview_fence",
            format=one.format, highest=one.highest, part_id=one.part_id, site_id=one.site_id, margin=margin,
        ):  # fmt: skip
            row = {name: row[name] for name in PREVIEWED}
            planned.setdefault(tuple(row.values())[:3], row)
    return list(planned.values())


def resume(connection: psycopg.Connection, reason: str) -> bool:
    """Ends the pause that a restore began, if every counter is fenced; whether it did."""
    pause = pausing.status(connection)
    if not pause["paused"] or not pause["until_fenced"] or call(connection, "unfenced_counters"):
        return False
    call(connection, "resume", reason=reason)
    return True


def _fenced(connection: psycopg.Connection, known: Known, reason: str, margin: int) -> list[Row]:
    rows = call(
        connection, "fence", format=known.format, highest=known.highest, part_id=known.part_id, site_id=known.site_id,
        reason=reason, margin=margin,
    )  # fmt: skip
    return [{"format": row.pop("format_name"), **row} for row in rows]


def _not_confirmed(row: Row) -> Row:
    nothing = dict.fromkeys(("highest_number", "next_before", "next_after", "burned"))
    return {**{name: row[name] for name in ("format", "counter_key", "period")}, **nothing, "outcome": NOT_CONFIRMED}
