"""machserial pause, machserial resume"""

from __future__ import annotations

import click

from machserial import output
from machserial.functions import call
from machserial.operations import locking, pausing
from machserial.options import Command, Settings, pass_settings


@click.command(cls=Command)
@click.option("--reason", help="Reason, which every refusal shows.")
@click.option(
    "--until-fenced", is_flag=True, help="After a recovery or a promotion: not to be resumed before 'machserial fence'."
)
@click.option("--status", is_flag=True, help="Only show whether it is paused, by whom, since when and why.")
@click.option("--history", is_flag=True, help="Only list the pauses so far.")
@pass_settings
def pause(settings: Settings, reason: str | None, until_fenced: bool, status: bool, history: bool) -> None:
    """Refuse new numbers until 'machserial resume', with a reason; reads go on.

    Holds for everybody who issues or registers numbers: by function, INSERT or COPY. It waits for transactions that
    are issuing numbers half a second at a time, and tries again a few times.
    """
    if history:
        with settings.connect() as connection:
            pauses = pausing.history(connection)
        output.print_rows(pauses, as_json=settings.json)
        return
    if not status:
        if not reason:
            raise click.UsageError("Missing option '--reason'.")
        locking.patiently(
            settings.connect,
            lambda connection: call(connection, "pause", reason=reason, until_fenced=until_fenced or None),
        )
    show_status(settings)


@click.command(cls=Command)
@click.option("--reason", help="Why; it goes on record.")
@pass_settings
def resume(settings: Settings, reason: str | None) -> None:
    """End a pause: numbers are issued again.

    After a restore it is refused until every counter is fenced: 'machserial fence' does that, and resumes.
    """
    locking.patiently(settings.connect, lambda connection: call(connection, "resume", reason=reason))
    show_status(settings, "resumed: numbers are issued again")


def show_status(settings: Settings, if_not_paused: str = "not paused") -> None:
    with settings.connect() as connection:
        now = pausing.status(connection)
    if settings.json:
        output.print_json(now)
    elif now["paused"]:
        since = output.text_of(now["paused_at"])
        output.print_text(f"paused by {now['paused_by']} since {since}: {now['reason']}")
    else:
        output.print_text(if_not_paused)
