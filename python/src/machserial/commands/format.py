"""machserial format: preview, create, list, assign"""

from __future__ import annotations

import logging

import click

from machserial import output
from machserial.functions import call, call_one
from machserial.options import Group, Settings, context_option, one_of, pass_settings

log = logging.getLogger(__name__)

COLUMNS = (
    "name", "version", "pattern", "description", "sequence_start", "sequence_increment", "reset", "counter_per",
    "allocation", "letter_case", "is_active",
)  # fmt: skip

# What a terminal has room for; --json gives all.
IN_A_TABLE = ("name", "version", "pattern", "reset", "counter_per", "allocation", "is_active")

LIST = f"""
    select {', '.join(COLUMNS)} from machserial.serial_formats
    where %(all)s or is_active
    order by name, version
"""

@click.group("format", cls=Group)
def format_group() -> None:
    """Define how serial numbers are written and counted."""


@format_group.command()
@click.argument("pattern")
@click.option("--quantity", "-n", type=int, default=5, show_default=True, help="How many.")
@click.option("--at", metavar="TIME", help="Time for the date tokens, such as '2026-12-31 23:59+01'.")
@click.option("--site", "site_id", help="Site, for {SITE} and its time zone.")
@click.option("--part", "part_id", help="Part, for {PART}.")
@context_option
@click.option("--start", type=int, default=1, show_default=True, help="First sequence number.")
@pass_settings
def preview(settings: Settings, **arguments: object) -> None:
    """Show examples of numbers of PATTERN. Consumes none."""
    with settings.connect() as connection:
        numbers = [row["preview"] for row in call(connection, "preview", **arguments)]
        checked = call_one(connection, "validate_pattern", pattern=arguments["pattern"])
    for warning in checked["warnings"] or ():
        log.warning("%s", warning)
    output.print_rows([{"serial_number": number} for number in numbers], as_json=settings.json)


@format_group.command()
@click.argument("name")
@click.argument("pattern")
@click.option("--description", help="What the format is for.")
@click.option("--start", "sequence_start", type=int, default=1, show_default=True, help="First sequence number.")
@click.option("--increment", "sequence_increment", type=int, default=1, show_default=True, help="Step between numbers.")
@click.option(
    "--reset",
    type=one_of("NEVER", "DAILY", "WEEKLY", "MONTHLY", "YEARLY"),
    default="NEVER",
    show_default=True,
    help="When counting starts again, at midnight at the site.",
)
@click.option(
    "--counter-per",
    type=one_of("FORMAT", "PART", "SITE", "SITE_PART"),
    default="FORMAT",
    show_default=True,
    help="One counter per format, part, site, or part and site.",
)
@click.option(
    "--allocation",
    type=one_of("SEQUENCE", "GAPLESS"),
    default="SEQUENCE",
    show_default=True,
    help="SEQUENCE never waits. GAPLESS leaves no gaps.",
)
@click.option(
    "--letter-case",
    type=one_of("EXACT", "UPPER"),
    default="EXACT",
    show_default=True,
    help="UPPER: the whole number in capitals.",
)
@pass_settings
def create(settings: Settings, **arguments: object) -> None:
    """Create the format NAME with PATTERN."""
    with settings.connect() as connection:
        created = call_one(connection, "create_format", **arguments)
    output.print_record({name: created[name] for name in COLUMNS}, as_json=settings.json)


@format_group.command("list")
@click.option("--all", is_flag=True, help="Also inactive versions.")
@pass_settings
def list_formats(settings: Settings, **arguments: object) -> None:
    """List the formats."""
    with settings.connect() as connection:
        formats = connection.execute(LIST, arguments).fetchall()
    output.print_rows(formats, as_json=settings.json, columns=IN_A_TABLE)


@format_group.command()
@click.argument("part_id", metavar="PART")
@click.argument("format")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher wins.")
@click.option("--since", "effective_from", metavar="TIME", help="Start of validity. Default: now.")
@click.option("--until", "effective_until", metavar="TIME", help="End of validity, exclusive. Default: none.")
@pass_settings
def assign(settings: Settings, **arguments: object) -> None:
    """Assign FORMAT to PART."""
    with settings.connect() as connection:
        call(connection, "assign_format", **arguments)
    assigned = {
        "part": arguments["part_id"], "format": arguments["format"], "priority": arguments["priority"],
        "since": arguments["effective_from"], "until": arguments["effective_until"],
    }  # fmt: skip
    output.print_record(assigned, as_json=settings.json)
