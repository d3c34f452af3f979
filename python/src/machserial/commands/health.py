"""machserial health"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from machserial import output
from machserial.files import new_files
from machserial.masking import masked
from machserial.operations import health as checks
from machserial.options import Command, Settings, one_of, pass_settings

EPILOG = """\b
Exit status, other than that of all other commands:
    0  OK
    1  WARNING
    2  CRITICAL; also: no connection, or machserial is not deployed
    3  UNKNOWN: nothing worse was found, but not everything could be seen
A wrong command line ends with 2 as well, and prints nothing on stdout.

\b
Limits: 2 s for the connection, 1 s for a check, 5 s for all. REDIS_URL: a Redis to ask as well, within 50 ms;
REDIS_ENABLED=false: not."""


@click.command(cls=Command, epilog=EPILOG)
@click.option("--live", "kind", flag_value="live", help="Only whether the server answers, without SQL.")
@click.option("--ready", "kind", flag_value="ready", help="Only whether applications can work now: one query.")
@click.option("--check", "names", metavar="NAME", multiple=True, help="Only this check. May be repeated.")
@click.option(
    "--format",
    "style",
    type=one_of("table", "json", "nagios", "prometheus"),
    help="Output format. Default: table; --json means json.",
)
@click.option(
    "--output",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file, atomically, instead of printing.",
)
@pass_settings
@click.pass_context
def health(
    context: click.Context,
    settings: Settings,
    kind: str | None,
    names: tuple[str, ...],
    style: str | None,
    path: Path | None,
) -> None:
    """Run health checks; show value, thresholds and remedy. What cannot be measured is UNKNOWN.

    The thresholds are in the table machserial.health_thresholds. docs/health.md explains every check.
    """
    if kind and names:
        raise click.UsageError(f"--check and --{kind} exclude each other")
    if settings.json and style not in (None, "json"):
        raise click.UsageError(f"--json and --format {style} exclude each other")
    rows, units = _examine(settings, kind, names)
    show(rows, units, "json" if settings.json else style or "table", path)
    context.exit(checks.STATUSES.index(checks.worst(rows)))


def _examine(settings: Settings, kind: str | None, names: Sequence[str]) -> tuple[list[checks.Row], dict[str, str]]:
    if kind:
        return [{"live": checks.live, "ready": checks.ready}[kind](settings.dsn)], {}
    examination = checks.Examination(settings.dsn, names)
    try:
        return examination.run(), examination.units
    except checks.UnknownCheck as unknown:
        raise click.UsageError(f"there is no check {unknown.name!r}; there are: {', '.join(unknown.known)}") from None


def show(rows: list[checks.Row], units: dict[str, str], style: str, path: Path | None) -> None:
    """Prints the rows in that style, or writes them into a file."""
    rows = [
        {**one, "message": masked(one["message"] or ""), "remedy": one["remedy"] and masked(one["remedy"])}
        for one in rows
    ]
    if path is None and style == "table":
        output.print_rows(checks.as_table(rows, units), as_json=False)
    elif path is None and style == "json":
        output.print_rows(rows, as_json=True)
    elif path is None:
        output.print_lines(_lines(rows, units, style))
    else:
        replace_file(path, "\n".join(_lines(rows, units, style)) + "\n")


def _lines(rows: list[checks.Row], units: dict[str, str], style: str) -> list[str]:
    if style == "json":
        return [output.json_text(rows)]
    if style == "nagios":
        return checks.as_nagios(rows, units)
    if style == "prometheus":
        return checks.as_prometheus(rows).rstrip("\n").split("\n")
    return output.plain_table(checks.as_table(rows, units))


def replace_file(path: Path, text: str) -> None:
    """Writes the file as a whole, for others to read, such as node_exporter: they see the old text or the new one.

    Two runs at the same time write to files of their own.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    unknown = checks.STATUSES.index(checks.UNKNOWN)
    with new_files.replacing(path, mode=0o644, partial=draft, code=unknown) as file:
        file.write(text.encode())
