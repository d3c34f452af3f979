"""machserial blocks: list, allocate, serials, report, return"""

from __future__ import annotations

from pathlib import Path

import click

from machserial import output
from machserial.errors import ExpectedError
from machserial.files import receipts
from machserial.functions import call, call_one
from machserial.options import ID, Group, Settings, one_of, page_options, pass_settings, show_page

# What a terminal has room for; --json gives all.
IN_A_TABLE = ("block_id", "format", "holder", "quantity", "used", "open", "returned", "expired", "status")

LIST = """
    select * from machserial.blocks
    where
        (%(holder)s::text is null or holder = %(holder)s)
        and (%(status)s::text is null or status = %(status)s)
        and block_id > coalesce(%(after)s::bigint, 0)
    order by block_id
    limit %(limit)s::integer + 1
"""


@click.group("blocks", cls=Group)
def blocks_group() -> None:
    """Reserve number ranges for lines and suppliers that work offline."""


@blocks_group.command("list")
@click.option("--holder", help="Only of this holder.")
@click.option("--status", type=one_of("OPEN", "USED", "RETURNED", "EXPIRED"), help="Only with this status.")
@page_options
@pass_settings
def list_blocks(settings: Settings, **arguments: object) -> None:
    """List blocks and the state of their numbers."""
    show_page(settings, LIST, arguments, IN_A_TABLE, key="block_id")


@blocks_group.command()
@click.argument("format")
@click.argument("quantity", type=int)
@click.option("--holder", required=True, help="Holder of the block: a line, a plant, a contract manufacturer.")
@click.option("--part", "part_id", help="Part to number, if the format counts or writes by part.")
@click.option("--site", "site_id", help="Site of the parts. Default: DEFAULT.")
@click.option("--request-id", help="Your id of this request. The same id returns the same block.")
@click.option("--expires", "expires_at", metavar="TIME", help="When unused numbers expire. Default: never.")
@pass_settings
def allocate(settings: Settings, **arguments: object) -> None:
    """Reserve QUANTITY numbers of FORMAT for a holder."""
    with settings.connect() as connection:
        block = call_one(connection, "allocate_block", **arguments)
    output.print_record(block, as_json=settings.json)


@blocks_group.command()
@click.argument("block_id", metavar="ID", type=ID)
@pass_settings
def serials(settings: Settings, block_id: int) -> None:
    """Print the serial numbers of a block, one per line."""
    with settings.connect() as connection:
        numbers = [row["block_serials"] for row in call(connection, "block_serials", block_id=block_id)]
    if settings.json:
        output.print_json([{receipts.NUMBER: number} for number in numbers])
    else:
        output.print_lines(numbers)


@blocks_group.command()
@click.argument("block_id", metavar="ID", type=ID)
@click.argument("used", metavar="[SERIAL]...", nargs=-1)
@click.option(
    "--csv", "file", metavar="FILE", type=click.Path(path_type=Path), help="Read them from this file; - is stdin."
)
@click.option("--part", "part_id", help="Part that carries them, if the block was allocated without one.")
@pass_settings
def report(settings: Settings, block_id: int, used: tuple[str, ...], file: Path | None, part_id: str | None) -> None:
    """Report the used numbers of a block, which registers them. Can be repeated.

    FILE has one serial number per line, and may begin with a header line: serial_number.
    Exit code 1 also if other parts have some of the numbers: these become conflicts, and the rest is registered.
    """
    if bool(used) == bool(file):
        raise click.UsageError("give either serial numbers or --csv")
    numbers = [row[receipts.NUMBER] for row in receipts.read_numbers(file)] if file else list(used)
    with settings.connect() as connection:
        reported = call(connection, "report_block", block_id=block_id, used=numbers, part_id=part_id)
    output.print_rows(reported, as_json=settings.json)
    conflicts = sum(row["has_conflict"] for row in reported)
    if conflicts:
        raise ExpectedError(
            f"{conflicts:,} of {len(reported):,} serial numbers are taken by others",
            detail="the others are registered",
            remedy="see machserial conflicts list",
        )


@blocks_group.command("return")
@click.argument("block_id", metavar="ID", type=ID)
@click.option("--reason", help="Why; it goes on record.")
@pass_settings
def return_block(settings: Settings, block_id: int, reason: str | None) -> None:
    """Return the unused numbers of a block. They are never issued again, and stay accounted for."""
    with settings.connect() as connection:
        if reason:
            connection.execute("select set_config('machserial.reason', %s, true)", [reason])
        returned = call_one(connection, "return_block", block_id=block_id)
    output.print_record(returned, as_json=settings.json)
