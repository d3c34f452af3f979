"""machserial generate"""

from __future__ import annotations

import click
from psycopg.types.json import Jsonb

from machserial import output
from machserial.options import Command, Settings, context_option, pass_settings

GENERATE = """
    select serial_id, serial_number, sequence_number
    from machserial.generate(
        part_id => %(part)s,
        quantity => %(quantity)s::integer,
        format => %(format)s,
        pattern => %(pattern)s,
        site_id => %(site)s,
        context => %(context)s,
        request_id => %(request_id)s
    )
"""


@click.command(cls=Command)
@click.argument("part")
@click.option("--quantity", "-n", type=int, default=1, show_default=True, help="How many, up to 1,000,000.")
@click.option("--format", metavar="NAME", help="Format. Default: the one assigned to the part or its type.")
@click.option("--pattern", help="A pattern instead of a format, such as 'SN-{YYYY}-{SEQ:6}'.")
@click.option("--site", help="Site that makes the parts. Default: DEFAULT.")
@context_option
@click.option("--request-id", help="Your id of this request: asked again, the same serials come back.")
@pass_settings
def generate(settings: Settings, **arguments: object) -> None:
    """Generate serial numbers for PART."""
    arguments["context"] = Jsonb(arguments["context"])
    with settings.connect() as connection:
        serials = connection.execute(GENERATE, arguments).fetchall()
    output.print_rows(serials, as_json=settings.json)
