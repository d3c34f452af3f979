"""What every command has: --dsn, --json, --verbose, before or after the command's name; and its errors."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import click
import psycopg

from machserial import connection, output
from machserial.errors import Exit, ExpectedError, unexpected
from machserial.masking import masked, visible


@dataclass
class Settings:
    """The common options of one run."""

    dsn: str | None = None
    json: bool = False
    verbose: bool = False

    def connect(self, **changes: str) -> AbstractContextManager[psycopg.Connection]:
        """A connection whose block is one transaction. changes: of the place, such as another dbname."""
        return connection.connect(self.dsn, **changes)


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    """Keeps a common option for the command, wherever on the line it stood."""
    settings = context.ensure_object(Settings)
    if value:
        setattr(settings, parameter.name, value)
    output.configure_logging(settings.verbose)


def _common_options() -> list[click.Option]:
    option = functools.partial(click.Option, expose_value=False, callback=_remember)
    return [
        option(
            ["--dsn"],
            metavar="DSN",
            help="Where the database is: URL or libpq string. Default: DATABASE_URL, else PG* variables.",
        ),
        option(["--json"], is_flag=True, help="Print the result as JSON."),
        option(["--verbose"], is_flag=True, help="Say on stderr what is done. LOG_LEVEL does the same."),
    ]


class Command(click.Command):
    """A command with the common options."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_common_options())


class Group(click.Group):
    """A group with the common options, whose commands have them too."""

    command_class = Command
    group_class = type

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(_common_options())


class RootGroup(Group):
    """The whole command: no error leaves it but as one line and an exit code."""

    group_class = Group

    def main(self, *args, **kwargs) -> object:
        output.escape_what_cannot_be_printed()
        return super().main(*args, **kwargs)

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except (click.exceptions.Exit, click.ClickException) as error:
            raise self._prepared(context, error) from error.__cause__
        except (KeyboardInterrupt, click.Abort):
            interrupted = ExpectedError(
                "interrupted", remedy="what was not committed is undone: run it again", code=Exit.INTERRUPTED
            )
            raise self._prepared(context, interrupted) from None
        except Exception as error:
            raise self._prepared(context, unexpected(error)) from error

    @staticmethod
    def _prepared(context: click.Context, error: Exception) -> Exception:
        """click shows the error when the context, and with it --json, is gone."""
        if isinstance(error, ExpectedError):
            error.shown_as_json = context.ensure_object(Settings).json
        elif isinstance(error, click.ClickException):
            # click repeats what was on the command line.
            error.message = visible(masked(error.message))
        return error


def one_of(*values: str) -> click.Choice:
    """A choice that does not care for capitals."""
    return click.Choice(values, case_sensitive=False)


class _Id(click.ParamType):
    """An id in the database: a positive bigint."""

    name = "id"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> int:
        if re.fullmatch(r"[0-9]{1,19}", value) and 0 < int(value) < 2**63:
            return int(value)
        return self.fail(f"{value!r} is not an id", parameter, context)


ID = _Id()


class Duration(click.ParamType):
    """90s, 10m, 2h, 7d, 12w, 6mo, 2y: an interval of PostgreSQL. m is minutes in every option, and mo is months.

    whole_days: less than a day makes no sense there.
    """

    name = "duration"
    units: ClassVar = {
        "s": ("seconds", 1),
        "m": ("minutes", 60),
        "h": ("hours", 3600),
        "d": ("days", 86400),
        "w": ("weeks", 7 * 86400),
        "mo": ("months", 30 * 86400),
        "y": ("years", 365 * 86400),
    }
    longest = 100 * 365 * 86400

    def __init__(self, *, whole_days: bool = False) -> None:
        self.whole_days = whole_days

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> str:
        examples = "365d, 12w, 6mo, 2y" if self.whole_days else "90s, 10m (minutes), 2h, 7d"
        refusal = f"{value!r} is not a duration such as {examples}"
        found = re.fullmatch(r"([0-9]{1,11})(s|mo|m|h|d|w|y)", value)
        if not found:
            self.fail(refusal, parameter, context)
        unit, seconds = self.units[found[2]]
        if self.whole_days and seconds < self.units["d"][1]:
            self.fail(f"{refusal}: {found[2]} means {unit}, and this takes days or more", parameter, context)
        if int(found[1]) * seconds > self.longest:
            self.fail(f"{refusal}: it is longer than 100 years", parameter, context)
        return f"{found[1]} {unit}"


def yes_option(command: Callable) -> Callable:
    """--yes, for scripts; see confirm()."""
    return click.option("--yes", is_flag=True, help="Do it without asking.")(command)


def confirm(question: str, yes: bool) -> None:
    """Goes on if yes, or if somebody answers so. Raises ExpectedError otherwise; Ctrl-C interrupts as always."""
    if yes:
        return
    print(f"{visible(question)} [y/N]: ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline() if sys.stdin else ""
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    if not answer:
        raise ExpectedError("nothing was done", detail="there is nobody to ask", remedy="give --yes")
    if answer.strip().lower() not in ("y", "yes"):
        raise ExpectedError("nothing was done", detail="the answer was not yes", remedy="--yes does it without asking")


def reason_option(command: Callable) -> Callable:
    """--reason, without which machserial refuses what the command does."""
    return click.option("--reason", required=True, help="Why; it goes on record.")(command)


def page_options(command: Callable) -> Callable:
    """--limit and --after: a long list page by page, see show_page()."""
    command = click.option("--after", type=ID, help="Only what comes after this id.")(command)
    return click.option(
        "--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="How many at most."
    )(command)


def show_page(
    settings: Settings, query: str, arguments: dict[str, object], columns: Sequence[str], key: str = "id"
) -> None:
    """A page of what query finds, in the order of key. The query asks for one row more than arguments["limit"]."""
    limit = arguments["limit"]
    with settings.connect() as connection:
        rows = connection.execute(query, arguments).fetchall()
    page = rows[:limit]
    output.print_rows(page, as_json=settings.json, columns=columns)
    if len(rows) > limit:
        output.message(f"there are more: --after {page[-1][key]}")


def context_option(command: Callable) -> Callable:
    """--context key=value, as often as wanted; the command gets a dict."""
    return click.option(
        "--context",
        "context",
        metavar="KEY=VALUE",
        multiple=True,
        callback=_key_values,
        help="For {CTX:key}, {WO}, {LOT} and conditions: such as work_order_id=WO-1, lot_number=L-7, "
        "operation_code=OP10. KEY:=JSON for numbers, booleans and lists: line:=2. May be repeated.",
    )(command)


def _key_values(context: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, object]:
    values = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        is_json = key.endswith(":")
        key = key.removesuffix(":")
        if not key or not separator:
            raise click.BadParameter(f"{pair!r} is not of the form key=value")
        values[key] = _parsed(pair, value) if is_json else value
    return values


def _parsed(pair: str, value: str) -> object:
    try:
        return json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"what follows := in {pair!r} is not JSON: {error}") from error
