"""machserial integrity"""

from __future__ import annotations

import click

from machserial import output
from machserial.errors import ExpectedError
from machserial.functions import Row, call
from machserial.options import Command, Settings, pass_settings

IN_A_TABLE = ("severity", "object", "message", "remedy")


@click.command(cls=Command)
@click.option("--only", metavar="PART", help="One part: claims, history, ... (a wrong name lists all parts).")
@pass_settings
def integrity(settings: Settings, only: str | None) -> None:
    """Check the data for inconsistencies, and triggers, indexes and constraints for presence.

    Serials against claims, events, vendor receipts, blocks and counters; lineage for cycles; references, triggers,
    indexes and constraints. Each finding comes with its remedy; UNKNOWN is what could not be examined. Reads every
    table, and keeps nobody waiting. Exit code 1 if anything is found, and on a standby, which cannot know what its
    primary has written since.
    """
    with settings.connect() as connection:
        findings = call(connection, "integrity", only=only)
    report(settings, findings)


def report(settings: Settings, findings: list[Row]) -> None:
    """Prints the findings. Raises ExpectedError if there are any."""
    if findings or settings.json:
        output.print_rows(findings, as_json=settings.json, columns=IN_A_TABLE)
    else:
        output.print_text("sound: nothing was found")
    if findings:
        raise ExpectedError(
            f"{len(findings):,} finding{'s' if len(findings) > 1 else ''}", remedy="each of them says what mends it"
        )
