"""machserial triggers: list, explain, enable, disable, attachments"""

from __future__ import annotations

import click

from machserial import output
from machserial.functions import call, call_one
from machserial.options import ID, Group, Settings, context_option, one_of, pass_settings

TRIGGER_TYPES = (
    "MATERIAL_RECEIPT",
    "WORK_ORDER_CREATE",
    "OPERATION_COMPLETE",
    "QUALITY_CHECKPOINT",
    "BATCH_COMPLETION",
)

# What a terminal has room for; --json gives all.
IN_A_TABLE = ("id", "part_id", "trigger_type", "assignment_type", "conditions", "enabled", "execution_count")

LIST = """
    select * from machserial.serial_assignment_triggers
    where %(part)s::text is null or part_id = %(part)s
    order by id
"""


@click.group("triggers", cls=Group)
def triggers_group() -> None:
    """Manage which events issue serials for which parts."""


@triggers_group.command("list")
@click.option("--part", help="Only of this part.")
@pass_settings
def list_triggers(settings: Settings, part: str | None) -> None:
    """List the triggers."""
    with settings.connect() as connection:
        triggers = connection.execute(LIST, {"part": part}).fetchall()
    output.print_rows(triggers, as_json=settings.json, columns=IN_A_TABLE)


@triggers_group.command()
@click.argument("trigger_type", metavar="TYPE", type=one_of(*TRIGGER_TYPES))
@click.argument("part_id", metavar="PART")
@context_option
@pass_settings
def explain(settings: Settings, **arguments: object) -> None:
    """Show which triggers of PART fire at an event of TYPE, and why the others do not.

    TYPE: MATERIAL_RECEIPT, WORK_ORDER_CREATE, OPERATION_COMPLETE, QUALITY_CHECKPOINT or BATCH_COMPLETION.
    Nothing is generated.
    """
    with settings.connect() as connection:
        explanations = call(connection, "explain_triggers", **arguments)
    output.print_rows(explanations, as_json=settings.json)


@triggers_group.command()
@click.argument("trigger_id", metavar="ID", type=ID)
@pass_settings
def enable(settings: Settings, trigger_id: int) -> None:
    """Let a trigger fire again."""
    change(settings, "enable_trigger", trigger_id)


@triggers_group.command()
@click.argument("trigger_id", metavar="ID", type=ID)
@pass_settings
def disable(settings: Settings, trigger_id: int) -> None:
    """Stop a trigger from firing until it is enabled again."""
    change(settings, "disable_trigger", trigger_id)


def change(settings: Settings, function: str, trigger_id: int) -> None:
    """Calls function for the trigger, and shows what it is now."""
    with settings.connect() as connection:
        changed = call_one(connection, function, trigger_id=trigger_id)
    output.print_record(changed, as_json=settings.json)


@triggers_group.command()
@pass_settings
def attachments(settings: Settings) -> None:
    """List application tables whose inserts fire triggers."""
    with settings.connect() as connection:
        rows = connection.execute("select * from machserial.attachments order by relation, trigger_type").fetchall()
    output.print_rows(rows, as_json=settings.json)
