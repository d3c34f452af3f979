"""machserial lineage: show, verify"""

from __future__ import annotations

import click
from rich.text import Text
from rich.tree import Tree

from machserial import output
from machserial.commands.integrity import report
from machserial.commands.serial import the_serial
from machserial.functions import Row, call
from machserial.masking import visible
from machserial.options import ID, Group, Settings, pass_settings

DIRECTIONS = {"ANCESTOR": "comes from", "DESCENDANT": "became"}


@click.group("lineage", cls=Group)
def lineage_group() -> None:
    """Trace what a serial was made from and what it went into."""


@lineage_group.command()
@click.argument("serial_number", metavar="[SERIAL]", required=False)
@click.option("--part", help="The SERIAL of this part.")
@click.option("--id", "serial_id", type=ID, help="The serial with this id.")
@click.option("--depth", "max_depth", type=int, metavar="N", help="Maximum number of steps. Default: 50.")
@pass_settings
def show(
    settings: Settings, serial_number: str | None, part: str | None, serial_id: int | None, max_depth: int | None
) -> None:
    """Show the ancestors and descendants of SERIAL as a tree."""
    if bool(serial_number) == bool(serial_id):
        raise click.UsageError("give either a serial number or --id")
    with settings.connect() as connection:
        if serial_number:
            serial_id = the_serial(connection, serial_number, part)["id"]
        rows = call(connection, "lineage", serial_id=serial_id, max_depth=max_depth)
    if settings.json:
        output.print_rows(rows, as_json=True)
    else:
        output.print_tree(tree(rows))


@lineage_group.command()
@click.option("--part-id", "--part", "part_id", help="Only ancestors and descendants of serials of this part.")
@pass_settings
def verify(settings: Settings, part_id: str | None) -> None:
    """Check lineage for cycles and wrong order.

    Lineage is never rebuilt, as there is nothing that it could be rebuilt from: each finding comes with its remedy.
    Exit code 1 if anything is found, and on a standby, which cannot know what its primary has written since.
    """
    with settings.connect() as connection:
        findings = call(connection, "verify_lineage", part_id=part_id)
    report(settings, findings)


def tree(rows: list[Row]) -> Tree:
    """The serial itself, and from it the ways to its ancestors and to its descendants."""
    itself = next(row for row in rows if row["direction"] == "SELF")
    root = Tree(label(itself))
    for direction, title in DIRECTIONS.items():
        related = [row for row in rows if row["direction"] == direction]
        if related:
            grow(root.add(title), itself["serial_id"], related)
    return root


def grow(branch: Tree, serial_id: int, related: list[Row]) -> None:
    """Hangs each of the related on the one before it on its path from the serial."""
    branches = {serial_id: branch}
    for row in sorted(related, key=lambda row: (row["depth"], row["serial_number"])):
        branches[row["serial_id"]] = branches[row["path"][-2]].add(label(row))


def label(row: Row) -> Text:
    """Number and part; then how it is connected with the serial that it hangs on."""
    edge = " ".join(filter(None, (row["propagation_type"], row["operation_code"])))
    text = "  ".join(filter(None, (row["serial_number"], row["part_id"], edge)))
    # A line break would make a line that is none of the tree.
    return Text(visible(text).replace("\n", "\\n"))
