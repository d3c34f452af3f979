"""machserial placeholders: list, create, assign, fail, stats"""

from __future__ import annotations

import click

from machserial import output
from machserial.functions import call, call_one
from machserial.options import (
    ID,
    Group,
    Settings,
    context_option,
    one_of,
    page_options,
    pass_settings,
    reason_option,
    show_page,
)

# What a terminal has room for; --json gives all.
IN_A_TABLE = ("id", "part_id", "work_order_id", "operation_code", "status", "serial_number", "created_at")

LIST = """
    select p.*, s.serial_number
    from machserial.late_assignment_placeholders as p
    left join machserial.serials as s on s.id = p.serial_id
    where
        (%(all)s or p.status = coalesce(%(status)s, 'PENDING'))
        and (%(part)s::text is null or p.part_id = %(part)s)
        and (%(work_order)s::text is null or p.work_order_id = %(work_order)s)
        and p.id > coalesce(%(after)s::bigint, 0)
    order by p.id
    limit %(limit)s::integer + 1
"""


@click.group("placeholders", cls=Group)
def placeholders_group() -> None:
    """Manage units that are serialized later."""


@placeholders_group.command("list")
@click.option("--status", type=one_of("PENDING", "SERIALIZED", "FAILED"), help="With this status. Default: PENDING.")
@click.option("--all", is_flag=True, help="With any status.")
@click.option("--part", help="Only of this part.")
@click.option("--work-order", help="Only of this work order.")
@page_options
@pass_settings
def list_placeholders(settings: Settings, **arguments: object) -> None:
    """List placeholders that have no serial yet."""
    if arguments["all"] and arguments["status"]:
        raise click.UsageError("--all and --status exclude each other")
    show_page(settings, LIST, arguments, IN_A_TABLE)


@placeholders_group.command()
@click.argument("part_id", metavar="PART")
@click.option("--quantity", "-n", type=int, default=1, show_default=True, help="How many units, up to 1,000,000.")
@click.option("--work-order", "work_order_id", help="Work order of the units.")
@click.option("--lot", "lot_number", help="Lot of the units.")
@click.option("--operation", "operation_code", help="Operation at which they get their serials.")
@click.option("--site", "site_id", help="Site that makes them. Default: DEFAULT.")
@context_option
@pass_settings
def create(settings: Settings, **arguments: object) -> None:
    """Create one placeholder for each unit of PART."""
    arguments["context"] = arguments["context"] or None
    with settings.connect() as connection:
        created = call(connection, "create_placeholders", **arguments)
    output.print_rows(created, as_json=settings.json, columns=IN_A_TABLE)


@placeholders_group.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=ID)
@click.option("--work-order", "work_order_id", help="All PENDING ones of this work order, instead of ids.")
@click.option(
    "--serial",
    "serials",
    metavar="SERIAL",
    multiple=True,
    help="Number on the unit; one for each placeholder, in the same order. Default: generated.",
)
@click.option("--operation", "operation_code", help="Operation at which they are assigned.")
@click.option("--notes", help="Remark.")
@pass_settings
def assign(
    settings: Settings, ids: tuple[int, ...], work_order_id: str | None, serials: tuple[str, ...], **arguments: object
) -> None:
    """Assign serials to placeholders, all or none."""
    if bool(ids) == bool(work_order_id):
        raise click.UsageError("give either ids or --work-order")
    with settings.connect() as connection:
        assigned = call(
            connection,
            "assign_placeholders",
            placeholder_ids=list(ids) or None,
            work_order_id=work_order_id,
            serial_numbers=list(serials) or None,
            **arguments,
        )
    output.print_rows(assigned, as_json=settings.json, columns=IN_A_TABLE)


@placeholders_group.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=ID)
@reason_option
@pass_settings
def fail(settings: Settings, ids: tuple[int, ...], reason: str) -> None:
    """Mark placeholders whose units will never get a serial, all or none."""
    with settings.connect() as connection:
        failed = [call_one(connection, "fail_placeholder", placeholder_id=one, reason=reason) for one in ids]
    output.print_rows(failed, as_json=settings.json, columns=IN_A_TABLE)


@placeholders_group.command()
@click.argument("part")
@pass_settings
def stats(settings: Settings, part: str) -> None:
    """Count the placeholders of PART by outcome. The success rate is in percent."""
    with settings.connect() as connection:
        statistics = call_one(connection, "placeholder_statistics", part_id=part)
    output.print_record(statistics, as_json=settings.json)
