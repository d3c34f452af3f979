"""The machserial command."""

from __future__ import annotations

import click

from machserial.commands.audit import audit_group
from machserial.commands.backup import backup, restore
from machserial.commands.bench import bench
from machserial.commands.blocks import blocks_group
from machserial.commands.cache import cache_group
from machserial.commands.completion import completion
from machserial.commands.conflicts import conflicts_group
from machserial.commands.connections import connections
from machserial.commands.demo import demo
from machserial.commands.deploy import deploy
from machserial.commands.fence import fence
from machserial.commands.format import format_group
from machserial.commands.generate import generate
from machserial.commands.health import health
from machserial.commands.indexes import indexes
from machserial.commands.integrity import integrity
from machserial.commands.lineage import lineage_group
from machserial.commands.maintain import maintain
from machserial.commands.migrate import migrate_group
from machserial.commands.pause import pause, resume
from machserial.commands.placeholders import placeholders_group
from machserial.commands.privileges import privileges
from machserial.commands.roles import roles_group
from machserial.commands.serial import serial_group
from machserial.commands.settings import settings_group
from machserial.commands.slow import slow
from machserial.commands.support_bundle import support_bundle
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
    backup,
    bench,
    blocks_group,
    completion,
    cache_group,
    conflicts_group,
    connections,
    demo,
    deploy,
    fence,
    format_group,
    generate,
    indexes,
    integrity,
    health,
    lineage_group,
    maintain,
    migrate_group,
    pause,
    placeholders_group,
    restore,
    resume,
    roles_group,
    support_bundle,
    privileges,
    serial_group,
    settings_group,
    slow,
    triggers_group,
    vendor_group,
    version,
):
    main.add_command(command)
