"""The machserial command."""

from __future__ import annotations

import click

from machserial.commands.demo import demo
from machserial.commands.deploy import deploy
from machserial.commands.format import format_group
from machserial.commands.generate import generate
from machserial.commands.version import version
from machserial.errors import EXIT_CODES
from machserial.options import RootGroup

EPILOG = "\n".join(
    [
        "\b",
        "The database: --dsn, else DATABASE_URL, else libpq's PG* variables and service files.",
        "DATABASE_TIMEOUT: milliseconds to wait for a connection (rounded up to seconds).",
        "LOG_LEVEL: DEBUG, INFO, WARNING, ERROR.",
        "",
        "\b",
        "Exit codes:",
        *(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items()),
    ]
)


@click.group(cls=RootGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Serial numbers for manufactured parts inside PostgreSQL."""


for command in (deploy, demo, format_group, generate, version):
    main.add_command(command)
