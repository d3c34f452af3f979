"""machserial audit: list, export, verify, seal, anchor, stats, archive, restore"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import click
import psycopg

from machserial import audit_verifier, output
from machserial.audit import archiving, database, exporting, restoring
from machserial.audit.exporting import Filters
from machserial.commands.serial import the_serial
from machserial.errors import ExpectedError
from machserial.functions import Row, call, call_one
from machserial.options import ID, Duration, Group, Settings, confirm, one_of, pass_settings, yes_option

# What a terminal has room for; --json gives all.
IN_A_TABLE = ("id", "performed_at", "event_type", "serial_number", "part_id", "performed_by", "reason")

# machserial.audit_trail() gives 10,000 at once, and one more than asked for tells whether there are more.
LARGEST_PAGE = 9999

# Of an archive's problems; one that was tampered with as a whole may have one an event.
LISTED = 1000

EXPORTS = {"csv": exporting.csv, "json": exporting.json_lines}

class Month(click.ParamType):
    """2025-11"""

    name = "month"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> str:
        if not audit_verifier.MONTH.fullmatch(value):
            self.fail(f"{value!r} is not a month such as 2025-11", parameter, context)
        return value


def filter_options(command: Callable) -> Callable:
    """Which events; see filters_for()."""
    for option in reversed(
        (
            click.option("--serial", "serial_id", type=ID, help="Only of the serial with this id."),
            click.option("--number", metavar="SERIAL", help="Only of the serial with this number."),
            click.option("--part", "part_id", help="Only of this part."),
            click.option("--type", "event_type", help="Only of this type, such as SERIAL_RETIRED."),
            click.option("--by", "performed_by", help="Only by this person or role."),
            click.option("--since", metavar="TIME", help="Start time, inclusive."),
            click.option("--until", metavar="TIME", help="End time, exclusive."),
        )
    ):
        command = option(command)
    return command


def filters_for(connection: psycopg.Connection, number: str | None, **given: object) -> Filters:
    """What filter_options() were given. A number is looked up, for which the part may be needed."""
    if number:
        given["serial_id"] = the_serial(connection, number, given["part_id"], option="--serial")["id"]
    return Filters(**given)


def refuse_both(serial_id: int | None, number: str | None) -> None:
    if serial_id and number:
        raise click.UsageError("give either --serial or --number")


@click.group("audit", cls=Group)
def audit_group() -> None:
    """Show, verify, export and archive the audit trail."""


@audit_group.command("list")
@filter_options
@click.option("--after", type=ID, help="Continue after the event with this id, with older events.")
@click.option("--limit", type=click.IntRange(1, LARGEST_PAGE), default=100, show_default=True, help="How many at most.")
@pass_settings
def list_events(settings: Settings, number: str | None, after: int | None, limit: int, **given: object) -> None:
    """List events, newest first."""
    refuse_both(given["serial_id"], number)
    with settings.connect() as connection:
        filters = filters_for(connection, number, **given)
        rows = call(connection, "audit_trail", **filters.given(), after=after, page_size=limit + 1)
    page = rows[:limit]
    output.print_rows(page, as_json=settings.json, columns=IN_A_TABLE)
    if len(rows) > limit:
        output.message(f"there are more: --after {page[-1]['id']}")


@audit_group.command()
@filter_options
@click.option("--format", "kind", type=one_of(*EXPORTS), help="CSV, or one JSON object per line. Default: CSV.")
@click.option("--printable", is_flag=True, help="Pages of plain text for an inspector, with count and anchor.")
@click.option("--to", "file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Default: stdout.")
@pass_settings
def export(
    settings: Settings, number: str | None, kind: str | None, printable: bool, file: Path | None, **given: object
) -> None:
    """Export events, oldest first. FILE is written completely or not at all."""
    refuse_both(given["serial_id"], number)
    if printable and kind:
        raise click.UsageError("give either --format or --printable")
    kind = kind or ("json" if settings.json else "csv")
    with settings.connect() as connection:
        filters = filters_for(connection, number, **given)
        # What looked the number up is over: the export begins a transaction of its own.
        connection.commit()
        blocks = (exporting.printable if printable else EXPORTS[kind])(connection, filters)
        if file:
            exporting.write_file(file, blocks)
        else:
            output.print_blocks(blocks)


@audit_group.command()
@click.option("--full", is_flag=True, help="All events. Default: new ones and a sample of older ones.")
@click.option("--anchor", metavar="ID:HASH", help="An anchor printed earlier and kept elsewhere.")
@click.option(
    "--archive",
    metavar="MANIFEST|DIR",
    type=click.Path(path_type=Path, exists=True),
    help="Verify this archive, or all archives of this folder, without a database.",
)
@pass_settings
def verify(settings: Settings, full: bool, anchor: str | None, archive: Path | None) -> None:
    """Verify the events against their seals. Exit code 1 if anything was changed."""
    if archive and full:
        raise click.UsageError("--full is for the database; an archive is always verified as a whole")
    if archive:
        problems, seen = verify_archives(archive, anchor)
    else:
        problems, seen = verify_database(settings, full, anchor)
    if problems or settings.json:
        output.print_rows(problems, as_json=settings.json)
    if problems:
        raise ExpectedError(
            f"{len(problems)} problems were found" if len(problems) > 1 else "a problem was found",
            detail=f"only the first {LISTED:,} are shown" if archive and len(problems) == LISTED else seen,
            remedy="keep everything as it is, and find out who could write there",
        )
    output.message(f"intact: {seen}")


def verify_database(settings: Settings, full: bool, anchor: str | None) -> tuple[list[Row], str]:
    """Problems, and what was looked at. With full they are computed here as well."""
    with settings.connect() as connection:
        problems = call(connection, "verify_audit", full=full, anchor=anchor)
        newest = call_one(connection, "audit_anchor")["audit_anchor"]
        if not full:
            return problems, f"the events sealed since the last run, and a share of the others, up to seal {newest}"
        connection.commit()
        own, notes = database.verify(connection, anchor)
    told = {(problem["seal_id"], problem["problem"]) for problem in problems}
    problems += [one._asdict() for one in own if (one.seal_id, one.problem) not in told]
    return problems, "; ".join([f"all events, up to seal {newest}", *notes])


def verify_archives(place: Path, anchor: str | None) -> tuple[list[Row], str]:
    """The same for files."""
    try:
        verification = audit_verifier.Verification(anchor)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    manifests = restoring.manifests([place])
    problems = [problem._asdict() for problem in itertools.islice(verification.problems(manifests), LISTED)]
    seen = f"archives: {verification.archives:,}, events: {verification.events:,}, seals: {verification.seals()}"
    return problems, seen


@audit_group.command()
@pass_settings
def seal(settings: Settings) -> None:
    """Seal the events of all finished transactions. Later changes to them are detected."""
    with settings.connect() as connection:
        sealed = call_one(connection, "seal_audit")["seal_audit"]
        newest = call_one(connection, "audit_anchor")["audit_anchor"]
    output.print_record({"events_sealed": sealed, "anchor": newest}, as_json=settings.json)


@audit_group.command()
@pass_settings
def anchor(settings: Settings) -> None:
    """Print the newest seal as ID:HASH. Keep it out of reach of those who can change the database."""
    with settings.connect() as connection:
        newest = call_one(connection, "audit_anchor")["audit_anchor"]
    if settings.json:
        output.print_json({"anchor": newest})
    else:
        output.print_lines([newest])


@audit_group.command()
@click.option("--since", metavar="TIME", help="Start time, inclusive.")
@pass_settings
def stats(settings: Settings, since: str | None) -> None:
    """Count the events of each type."""
    with settings.connect() as connection:
        rows = call(connection, "audit_statistics", since=since)
    output.print_rows(rows, as_json=settings.json)


@audit_group.command()
@click.option(
    "--older-than",
    metavar="DURATION",
    type=Duration(whole_days=True),
    help="Months that ended at least this long ago: 365d, 12w, 6mo, 2y. Default: the setting audit_retention_days.",
)
@click.option(
    "--to",
    "folder",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the files.",
)
@click.option("--drop", is_flag=True, help="Drop the events from the database after the files are verified.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@yes_option
@pass_settings
def archive(settings: Settings, older_than: str | None, folder: Path, drop: bool, dry_run: bool, yes: bool) -> None:
    """Archive whole months of events to files.

    \b
    A month becomes a manifest and the files that it names: events and seals in CSV, and events in Parquet where
    pyarrow is installed. They are read again and compared with the database before its partition is detached;
    the detached table stays until --drop. An archive whose files are gone is made again while its events are here.
    Whatever interrupts it: run it again, and it goes on where it was. A month that cannot be done does not keep the
    others waiting: then the exit code is 1.
    """
    with settings.connect() as connection:
        connection.autocommit = True
        age = older_than or archiving.retention(connection)
        jobs, waiting = archiving.due(connection, folder, age, drop)
        for month in waiting:
            output.message(f"{month['month']} must wait: {month['reason']}")
        failed: list[Row] = []
        if dry_run:
            rows = [archiving.planned_for(job) for job in jobs]
        else:
            if drop and jobs:
                confirm(question_of_drop(jobs), yes)
            rows, failed = archiving.archive_months(jobs)
    output.print_rows(rows, as_json=settings.json)
    for month in failed:
        output.message(f"{month['month']} stays as it is: {month['reason']}")
    if failed:
        raise ExpectedError(
            f"{len(failed)} of {len(jobs)} months could not be done: {', '.join(month['month'] for month in failed)}",
            remedy="see why above; the others are done",
        )


def question_of_drop(jobs: list[archiving.Job]) -> str:
    months = ", ".join(job.label for job in jobs)
    events = sum(job.events for job in jobs)
    return f"Drop the {events:,} events of {months} from the database, once they are in files?"


@audit_group.command()
@click.argument(
    "places", metavar="MANIFEST...|DIR", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True)
)
@click.option("--month", type=Month(), help="Only this month, such as 2025-11.")
@pass_settings
def restore(settings: Settings, places: tuple[Path, ...], month: str | None) -> None:
    """Restore the events of an archived month.

    They stay there until the next run of audit archive.
    """
    with settings.connect() as connection:
        connection.autocommit = True
        restored = restoring.restore(connection, restoring.manifests(list(places), month))
    if not restored["copied"]:
        output.message("its events were in the database already; nothing was copied")
    output.print_record(restored, as_json=settings.json)
