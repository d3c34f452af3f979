"""machserial generate"""

from __future__ import annotations

import click

from machserial import output
from machserial.functions import call
from machserial.options import Command, Settings, context_option, pass_settings


@click.command(cls=Command)
@click.argument("part_id", metavar="PART")
@click.option("--quantity", "-n", type=int, default=1, show_default=True, help="How many, up to 1,000,000.")
@click.option("--format", metavar="NAME", help="Format. Default: the one assigned to the part or its type.")
@click.option("--pattern", help="A pattern instead of a format, such as 'SN-{YYYY}-{SEQ:6}'.")
@click.option("--site", "site_id", help="Site that makes the parts. Default: DEFAULT.")
@context_option
@click.option("--request-id", help="Your id of this request. The same id returns the same serials.")
@pass_settings
def generate(settings: Settings, **arguments: object) -> None:
    """Generate serial numbers for PART."""
    with settings.connect() as connection:
        serials = call(connection, "generate", **arguments)
    output.print_rows(serials, as_json=settings.json)
