"""The machserial command."""

from __future__ import annotations

import click

from machserial.commands.audit import audit_group
from machserial.commands.blocks import blocks_group
from machserial.commands.cache import cache_group
from machserial.commands.conflicts import conflicts_group
from machserial.commands.demo import demo
from machserial.commands.deploy import deploy
from machserial.commands.format import format_group
from machserial.commands.generate import generate
from machserial.commands.lineage import lineage_group
from machserial.commands.placeholders import placeholders_group
from machserial.commands.serial import serial_group
from machserial.commands.triggers import triggers_group
from machserial.commands.vendor import vendor_group
from machserial.commands.version import version
from machserial.errors import EXIT_CODES
from machserial.options import RootGroup

EPILOG = "\n".join(
    [
        "\b",
        "The database: --dsn, else DATABASE_URL, else libpq's PG* variables and service files.",
        "DATABASE_TIMEOUT: milliseconds to wait for a connection (rounded up to seconds).",
        "LOG_LEVEL: DEBUG, INFO, NOTICE (remarks of the database; the default), WARNING, ERROR.",
        "",
        "\b",
        "Exit codes:",
        *(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items()),
    ]
)


@click.group(cls=RootGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Serial numbers for manufactured parts inside PostgreSQL."""


for command in (
    audit_group,
    blocks_group,
    cache_group,
    conflicts_group,
    demo,
    deploy,
    format_group,
    generate,
    lineage_group,
    placeholders_group,
    serial_group,
    triggers_group,
    vendor_group,
    version,
):
    main.add_command(command)
