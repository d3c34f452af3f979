"""machserial support-bundle"""

from __future__ import annotations

from pathlib import Path

import click

from machserial import output
from machserial.errors import ExpectedError
from machserial.operations import support_bundle as bundle
from machserial.options import Command, Settings, confirm, pass_settings, yes_option


@click.command("support-bundle", cls=Command)
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@yes_option
@pass_settings
def support_bundle(settings: Settings, file: Path, yes: bool) -> None:
    """Write a diagnostic archive for support to FILE (tar.gz).

    Versions, migrations, drift of the catalog, health, integrity, settings, how full the counters are, sizes. No serial
    number, no password, no name that people have given to anything. Works without a connection too.
    """
    if not file.absolute().parent.is_dir():
        raise ExpectedError(f"there is no folder {file.absolute().parent}", remedy="make it, or name another file")
    if file.exists():
        confirm(f"{file} exists. Replace it?", yes)
    missing = bundle.write(settings, file)
    if settings.json:
        output.print_json({"file": str(file), "missing": missing})
    else:
        output.print_text(f"{file} is written" + (f"; not in it: {', '.join(missing)}" if missing else ""))
