"""machserial backup, machserial restore"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from machserial import output
from machserial.errors import ExpectedError
from machserial.operations import backups
from machserial.options import Command, Settings, confirm, pass_settings, yes_option


def bin_option(command: Callable) -> Callable:
    return click.option(
        "--bin",
        "folder",
        metavar="FOLDER",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Where pg_dump, pg_restore and psql are. Default: PATH, then Debian's folders.",
    )(command)


@click.command(cls=Command)
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@bin_option
@yes_option
@pass_settings
def backup(settings: Settings, file: Path, folder: Path | None, yes: bool) -> None:
    """Back up the whole database into FILE, and prove that it can be read back.

    Everything is of one moment. Beside it FILE.json says what is in it: versions, how far each counter had counted,
    the audit anchor, the sha256. FILE appears when it is complete; until then it is FILE.partial.
    """
    if file.exists():
        confirm(f"{file} exists. Replace it?", yes)
    made = backups.make(settings, file, folder)
    if settings.json:
        output.print_json(asdict(made))
        return
    output.print_text(
        f"{file}: {made.size} bytes, sha256 {made.sha256}, {len(made.counters)} counters; read back whole"
    )


@click.command(cls=Command)
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@bin_option
@click.option("--create", is_flag=True, help="Create the database that --dsn names.")
@click.option("--role", help="Owner of the restored objects (for superusers).")
@click.option("--no-acl", is_flag=True, help="Leave out privileges and the limits of roles to sites.")
@pass_settings
def restore(
    settings: Settings, file: Path, folder: Path | None, create: bool, role: str | None, no_acl: bool
) -> None:
    """Restore FILE into an empty database, and prove that it can be written to.

    If the server lacks roles, extensions or tablespaces that FILE names, it says so before it begins, with the
    statements that make them. All of it is one transaction: if anything fails, the database stays empty. It ends
    paused, and issues no number until 'machserial fence' has moved the counters past what left the building after the
    backup.
    """
    if not file.exists():
        raise ExpectedError(f"there is no file {file}", remedy="name the file that machserial backup wrote")
    done = backups.restore(settings, file, folder, role, create, grants=not no_acl)
    if settings.json:
        output.print_json(asdict(done))
        return
    output.print_text(
        f"{done.serials} serials are restored into {done.database}; it can be written to, and is paused. "
        "Before numbers are issued again, tell which have left the building since the backup: machserial fence"
    )
    if done.unfenced:
        output.print_rows(done.unfenced, as_json=False, title="Counters to fence")
