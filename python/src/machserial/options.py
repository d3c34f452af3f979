"""What every command has: --dsn, --json, --verbose, before or after the command's name; and its errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import click
import psycopg

from machserial import connection, output
from machserial.errors import Exit, ExpectedError, unexpected


@dataclass
class Settings:
    """The common options of one run."""

    dsn: str | None = None
    json: bool = False
    verbose: bool = False

    def connect(self) -> AbstractContextManager[psycopg.Connection]:
        """A connection whose block is one transaction."""
        return connection.connect(self.dsn)


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
        return error


def context_option(command: Callable) -> Callable:
    """--context key=value, as often as wanted; the command gets a dict."""
    return click.option(
        "--context",
        "context",
        metavar="KEY=VALUE",
        multiple=True,
        callback=_key_values,
        help="For {CTX:key}, {WO}, {LOT}: such as work_order_id=WO-1, lot_number=L-7, operation_code=OP10. "
        "May be repeated.",
    )(command)


def _key_values(context: click.Context, parameter: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    values = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not key or not separator:
            raise click.BadParameter(f"{pair!r} is not of the form key=value")
        values[key] = value
    return values
