"""machserial format: preview, create, list, assign"""

from __future__ import annotations

import logging

import click
from psycopg.types.json import Jsonb

from machserial import output
from machserial.options import Group, Settings, context_option, one_of, pass_settings

log = logging.getLogger(__name__)

COLUMNS = (
    "name, version, pattern, description, sequence_start, sequence_increment, reset, counter_per, allocation, "
    "letter_case, is_active"
)

# What a terminal has room for; --json gives all.
IN_A_TABLE = ("name", "version", "pattern", "reset", "counter_per", "allocation", "is_active")

PREVIEW = """
    select preview as serial_number
    from machserial.preview(
        pattern => %(pattern)s,
        quantity => %(quantity)s::integer,
        at => coalesce(%(at)s::timestamptz, now()),
        site_id => %(site)s,
        part_id => %(part)s,
        context => %(context)s,
        start => %(start)s::bigint
    ) as preview
"""

CREATE = f"""
    select {COLUMNS}
    from machserial.create_format(
        name => %(name)s,
        pattern => %(pattern)s,
        description => %(description)s,
        sequence_start => %(start)s::bigint,
        sequence_increment => %(increment)s::bigint,
        reset => %(reset)s,
        counter_per => %(counter_per)s,
        allocation => %(allocation)s,
        letter_case => %(letter_case)s
    )
"""

LIST = f"""
    select {COLUMNS} from machserial.serial_formats
    where %(all)s or is_active
    order by name, version
"""

ASSIGN = """
    select machserial.assign_format(
        part_id => %(part)s,
        format => %(format)s,
        priority => %(priority)s::integer,
        effective_from => coalesce(%(since)s::timestamptz, now()),
        effective_until => %(until)s::timestamptz
    )
"""


@click.group("format", cls=Group)
def format_group() -> None:
    """How serial numbers are written and counted."""


@format_group.command()
@click.argument("pattern")
@click.option("--quantity", "-n", type=int, default=5, show_default=True, help="How many.")
@click.option("--at", metavar="TIME", help="Time for the date tokens, such as '2026-12-31 23:59+01'.")
@click.option("--site", help="Site, for {SITE} and its time zone.")
@click.option("--part", help="Part, for {PART}.")
@context_option
@click.option("--start", type=int, default=1, show_default=True, help="First sequence number.")
@pass_settings
def preview(settings: Settings, **arguments: object) -> None:
    """Show what numbers of PATTERN look like. Consumes none."""
    arguments["context"] = Jsonb(arguments["context"])
    with settings.connect() as connection:
        numbers = connection.execute(PREVIEW, arguments).fetchall()
        checked = connection.execute(
            "select warnings from machserial.validate_pattern(%(pattern)s)", arguments
        ).fetchone()
    for warning in checked["warnings"] or ():
        log.warning("%s", warning)
    output.print_rows(numbers, as_json=settings.json)


@format_group.command()
@click.argument("name")
@click.argument("pattern")
@click.option("--description", help="What the format is for.")
@click.option("--start", type=int, default=1, show_default=True, help="First sequence number.")
@click.option("--increment", type=int, default=1, show_default=True, help="Distance of two sequence numbers.")
@click.option(
    "--reset",
    type=one_of("NEVER", "DAILY", "WEEKLY", "MONTHLY", "YEARLY"),
    default="NEVER",
    show_default=True,
    help="When counting starts again, at midnight of the site.",
)
@click.option(
    "--counter-per",
    type=one_of("FORMAT", "PART", "SITE", "SITE_PART"),
    default="FORMAT",
    show_default=True,
    help="What has a counter of its own.",
)
@click.option(
    "--allocation",
    type=one_of("SEQUENCE", "GAPLESS"),
    default="SEQUENCE",
    show_default=True,
    help="SEQUENCE never waits; GAPLESS leaves no number out.",
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
        created = connection.execute(CREATE, arguments).fetchone()
    output.print_record(created, as_json=settings.json)


@format_group.command("list")
@click.option("--all", is_flag=True, help="Also versions that issue no numbers any more.")
@pass_settings
def list_formats(settings: Settings, **arguments: object) -> None:
    """List the formats."""
    with settings.connect() as connection:
        formats = connection.execute(LIST, arguments).fetchall()
    output.print_rows(formats, as_json=settings.json, columns=IN_A_TABLE)


@format_group.command()
@click.argument("part")
@click.argument("format")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher wins.")
@click.option("--since", metavar="TIME", help="From when on. Default: now.")
@click.option("--until", metavar="TIME", help="Until when, exclusive. Default: for good.")
@pass_settings
def assign(settings: Settings, **arguments: object) -> None:
    """Let PART use FORMAT."""
    with settings.connect() as connection:
        connection.execute(ASSIGN, arguments)
    assigned = {name: arguments[name] for name in ("part", "format", "priority", "since", "until")}
    output.print_record(assigned, as_json=settings.json)
