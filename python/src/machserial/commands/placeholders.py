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
    """Units that get their serial number later."""


@placeholders_group.command("list")
@click.option("--status", type=one_of("PENDING", "SERIALIZED", "FAILED"), help="With this status. Default: PENDING.")
@click.option("--all", is_flag=True, help="With any status.")
@click.option("--part", help="Only of this part.")
@click.option("--work-order", help="Only of this work order.")
@page_options
@pass_settings
def list_placeholders(settings: Settings, **arguments: object) -> None:
    """List the placeholders that wait for their serial."""
    if arguments["all"] and arguments["status"]:
        raise click.UsageError("--all and --status exclude each other")
    show_page(settings, LIST, arguments, IN_A_TABLE)


@placeholders_group.command()
@click.argument("part_id", metavar="PART")
@click.option("--quantity", "-n", type=int, default=1, show_default=True, help="How many units, up to 1,000,000.")
@click.option("--work-order", "work_order_id", help="Work order that they are made for.")
@click.option("--lot", "lot_number", help="Lot that they belong to.")
@click.option("--operation", "operation_code", help="Operation at which they are to get their serials.")
@click.option("--site", "site_id", help="Site that makes them. Default: DEFAULT.")
@context_option
@pass_settings
def create(settings: Settings, **arguments: object) -> None:
    """Put units of PART on record, a placeholder each."""
    arguments["context"] = arguments["context"] or None
    with settings.connect() as connection:
        created = call(connection, "create_placeholders", **arguments)
    output.print_rows(created, as_json=settings.json, columns=IN_A_TABLE)


@placeholders_group.command()
@click.argument("ids", metavar="[ID]...", nargs=-1, type=ID)
@click.option("--work-order", "work_order_id", help="All of this work order that are PENDING, instead of ids.")
@click.option(
    "--serial",
    "serials",
    metavar="SERIAL",
    multiple=True,
    help="Number that stands on the unit. Repeat it for each, in their order. Default: numbers are generated.",
)
@click.option("--operation", "operation_code", help="Operation at which it happens.")
@click.option("--notes", help="Remark.")
@pass_settings
def assign(
    settings: Settings, ids: tuple[int, ...], work_order_id: str | None, serials: tuple[str, ...], **arguments: object
) -> None:
    """Give placeholders their serials, all or none."""
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
    """Declare that units will never get a serial, all or none."""
    with settings.connect() as connection:
        failed = [call_one(connection, "fail_placeholder", placeholder_id=one, reason=reason) for one in ids]
    output.print_rows(failed, as_json=settings.json, columns=IN_A_TABLE)


@placeholders_group.command()
@click.argument("part")
@pass_settings
def stats(settings: Settings, part: str) -> None:
    """What became of the placeholders of PART. The success rate is in percent."""
    with settings.connect() as connection:
        statistics = call_one(connection, "placeholder_statistics", part_id=part)
    output.print_record(statistics, as_json=settings.json)
