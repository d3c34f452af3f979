"""machserial conflicts: list, resolve"""

from __future__ import annotations

import click

from machserial import output
from machserial.functions import call
from machserial.options import ID, Group, Settings, pass_settings, reason_option

# What a terminal has room for; --json gives all.
IN_A_TABLE = ("id", "serial_number", "part_id", "source", "serial_id", "conflicting_serial_ids", "status", "resolution")


@click.group("conflicts", cls=Group)
def conflicts_group() -> None:
    """List and resolve duplicate serial numbers."""


@conflicts_group.command("list")
@click.option("--part", "part_id", help="Only of this part.")
@click.option("--all", "show_all", is_flag=True, help="Also resolved ones.")
@pass_settings
def list_conflicts(settings: Settings, part_id: str | None, show_all: bool) -> None:
    """List pending conflicts."""
    function = "conflict_history" if show_all else "pending_conflicts"
    with settings.connect() as connection:
        conflicts = call(connection, function, part_id=part_id)
    output.print_rows(conflicts, as_json=settings.json, columns=IN_A_TABLE)


@conflicts_group.command()
@click.argument("serial_number", metavar="SERIAL")
@click.argument("part_id", metavar="PART")
@click.option("--keep", type=ID, help="This serial keeps the number; the others lose it.")
@click.option("--retire", type=ID, help="This serial is retired and loses the number.")
@click.option("--invalid", type=ID, help="This serial is declared invalid and loses the number.")
@reason_option
@pass_settings
def resolve(
    settings: Settings,
    serial_number: str,
    part_id: str,
    keep: int | None,
    retire: int | None,
    invalid: int | None,
    reason: str,
) -> None:
    """Resolve a duplicate: choose which serial of PART keeps SERIAL."""
    if sum(one is not None for one in (keep, retire, invalid)) != 1:
        raise click.UsageError("give one of --keep, --retire and --invalid")
    with settings.connect() as connection:
        resolved = call(
            connection,
            "resolve_conflict",
            serial_number=serial_number,
            part_id=part_id,
            resolution="KEEP" if keep else "RETIRE" if retire else "MARK_INVALID",
            keep_serial_id=keep,
            retired_serial_id=retire or invalid,
            reason=reason,
        )
    output.print_rows(resolved, as_json=settings.json)
