"""machserial fence"""

from __future__ import annotations

from pathlib import Path

import click

from machserial import output
from machserial.errors import Exit
from machserial.operations import fencing, locking
from machserial.operations.fencing import Known
from machserial.options import Command, Settings, confirm, pass_settings, yes_option


@click.command(cls=Command)
@click.option("--format", "formats", multiple=True, help="A format; give one --highest for each.")
@click.option("--highest", "highest", multiple=True, metavar="SERIAL", help="The highest number that has left.")
@click.option("--part", "part_id", help="The part, for a format that counts for each part; with one --format only.")
@click.option("--site", "site_id", help="The site, for a format that counts for each site; with one --format only.")
@click.option(
    "--csv", "file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read them from this file, with the columns format, highest, part_id, site_id.",
)  # fmt: skip
@click.option("--nothing-left", multiple=True, metavar="FORMAT", help="A format without new numbers since the backup.")
@click.option("--all-known", is_flag=True, help="No other format has numbers outside that the database does not know.")
@click.option("--margin", type=click.IntRange(0, 1_000_000_000), default=0, help="Skip this many further numbers.")
@click.option("--reason", default="fenced after a restore", show_default=True, help="Why; it goes on record.")
@click.option("--no-resume", is_flag=True, help="Stay paused.")
@yes_option
@pass_settings
@click.pass_context
def fence(context: click.Context, settings: Settings, /, **options) -> None:
    """Move counters past the highest numbers known to have left the building, and resume after a restore.

    A number is given as it stands on the part, or as its sequence number. What a counter passes over is burned: an
    accounted gap. No counter ever goes back. Shows what each counter would give next before and after, and asks.
    A restored database resumes when something was said of every counter.
    """
    known = _known(options)
    if not known and not options["all_known"]:
        raise click.UsageError("say what left the building: --format and --highest, --csv, --nothing-left, --all-known")
    if not options["yes"]:
        with settings.connect() as connection:
            planned = fencing.preview(connection, known, options["all_known"], options["margin"])
        output.message_rows(planned)
    confirm("Counters never go back: what they pass over is never issued. Go on?", options["yes"])
    done = locking.patiently(
        settings.connect,
        lambda connection: fencing.fence(
            connection, known, options["all_known"], options["reason"], options["margin"]
        ),
    )  # fmt: skip
    is_resumed = not options["no_resume"] and locking.patiently(
        settings.connect, lambda connection: fencing.resume(connection, options["reason"])
    )
    output.print_rows(done, as_json=settings.json)
    _tell(context, done, is_resumed)


def _known(options: dict) -> list[Known]:
    formats, highest = options["formats"], options["highest"]
    if len(formats) != len(highest):
        raise click.UsageError("give each --format its --highest")
    if (options["part_id"] or options["site_id"]) and len(formats) != 1:
        raise click.UsageError("--part and --site go with one --format; for more of them give --csv")
    known = [
        Known(name, number, options["part_id"], options["site_id"])
        for name, number in zip(formats, highest, strict=True)
    ]
    if options["file"]:
        known += fencing.read_csv(options["file"])
    return known + [Known(name, None) for name in options["nothing_left"]]


def _tell(context: click.Context, done: list, is_resumed: bool) -> None:
    missing = sorted({row["format"] for row in done if row["outcome"] == fencing.NOT_CONFIRMED})
    if missing:
        output.message(
            f"still paused: nothing was said of {', '.join(missing)}. "
            "Give --format and --highest, --nothing-left, or --all-known"
        )
        context.exit(Exit.REFUSED)
    if is_resumed:
        output.message("every counter is fenced: numbers are issued again")
