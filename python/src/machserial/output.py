"""The one printer: results to stdout as a table or as JSON, messages to stderr."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from machserial.errors import Exit, takes_any_text
from machserial.masking import masked, visible

# Rich measures every cell before it prints the first row: beyond this many rows that takes too long.
LARGEST_RICH_TABLE = 2000
UNLIMITED_WIDTH = 100_000

# What the database remarks on, between INFO and WARNING. Shown unless LOG_LEVEL says otherwise.
NOTICE = 25
logging.addLevelName(NOTICE, "NOTICE")

Row = Mapping[str, Any]


def escape_what_cannot_be_printed() -> None:
    """A terminal or pipe that is ASCII or Latin-1 gets \\u2013 for a dash that is in the data, and no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class ResultConsole(Console):
    """stdout. A reader that goes away early (head) ends the command as it ends any other."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(Exit.READER_GONE)


def result_console() -> Console:
    """For results. Into a file or a pipe nothing is folded, so that no number is torn apart."""
    width = None if sys.stdout.isatty() else UNLIMITED_WIDTH
    return ResultConsole(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def message_console() -> Console:
    """For progress and messages."""
    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def message(text: str) -> None:
    """Tells people something that is not a result."""
    message_console().print(visible(masked(text)))


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal. Gives the function to call with how many more are done."""
    console = message_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.advance(task, done)


def text_of(value: Any) -> str:
    """A value of the database as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, (list, tuple)):
        return ", ".join(text_of(item) for item in value)
    if isinstance(value, dict):
        return visible(json.dumps(value, ensure_ascii=False))
    return visible(str(value))


def _as_json(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return str(value)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print_lines([json_text(value)])


def json_text(value: Any) -> str:
    """A JSON document, of values of the database."""
    return json.dumps(value, ensure_ascii=not takes_any_text(sys.stdout), indent=2, default=_as_json)


def print_rows(
    rows: Sequence[Row], *, as_json: bool, title: str | None = None, columns: Sequence[str] | None = None
) -> None:
    """A list of rows with the same columns: a table, or a JSON array of objects.

    columns: those that a terminal has room for, of the rows that JSON gives whole.
    """
    if as_json:
        print_json([dict(row) for row in rows])
        return
    if columns:
        rows = [{name: row[name] for name in columns} for row in rows]
    if not rows:
        message("nothing found")
    elif len(rows) > LARGEST_RICH_TABLE:
        print_lines(plain_table(rows))
    else:
        _print_rich_table(rows, title)


def message_rows(rows: Sequence[Row]) -> None:
    """Rows on stderr, which are not a result: what somebody is asked about."""
    for line in plain_table(rows) if rows else ():
        message(line)


def print_record(record: Row, *, as_json: bool, title: str | None = None) -> None:
    """One thing: one line per field, or a JSON object."""
    if as_json:
        print_json(dict(record))
        return
    table = Table(box=box.ROUNDED, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in record.items():
        table.add_row(_heading(name), Text(text_of(value)))
    _print_titled(table, title)


def print_tree(tree: Tree) -> None:
    """What hangs on what."""
    result_console().print(tree)


def print_lines(lines: Iterable[str]) -> None:
    """Bare lines, for files and pipes."""
    try:
        for line in lines:
            print(visible(line))
        sys.stdout.flush()
    except BrokenPipeError:
        ResultConsole(file=sys.stdout).on_broken_pipe()


def print_blocks(blocks: Iterable[bytes]) -> None:
    """Text in UTF-8, for files and pipes, as it comes. A terminal would obey it, and gets it as lines."""
    if sys.stdout.isatty():
        print_lines(block.decode().removesuffix("\n") for block in blocks)
        return
    try:
        sys.stdout.buffer.writelines(blocks)
        sys.stdout.flush()
    except BrokenPipeError:
        ResultConsole(file=sys.stdout).on_broken_pipe()


def print_text(text: str) -> None:
    """A paragraph for people, among the results. It is never folded, so that it can be copied."""
    result_console().print(Text(visible(text)), soft_wrap=True)


def _heading(name: str) -> str:
    return name.replace("_", " ")


def _print_rich_table(rows: Sequence[Row], title: str | None) -> None:
    table = Table(box=box.ROUNDED)
    for name in rows[0]:
        numeric = all(isinstance(row[name], (int, float)) and not isinstance(row[name], bool) for row in rows)
        table.add_column(_heading(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(text_of(value)) for value in row.values()))
    _print_titled(table, title)


def _print_titled(table: Table, title: str | None) -> None:
    console = result_console()
    if title:
        # rich would fold it into the width of the table.
        console.print(Text(visible(title), style="bold"))
    console.print(table)


def plain_table(rows: Sequence[Row]) -> list[str]:
    """A table as lines of text: for files, and for more rows than rich can take."""
    lines = [
        [_heading(name) for name in rows[0]],
        *([text_of(value).replace("\n", "\\n") for value in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def log_level(verbose: bool) -> int:
    """The level of messages on stderr: --verbose, else LOG_LEVEL, else NOTICE."""
    if verbose:
        return logging.DEBUG
    level = logging.getLevelName(os.environ.get("LOG_LEVEL", "NOTICE").upper())
    return level if isinstance(level, int) else NOTICE


class _MessageHandler(logging.Handler):
    """A line a record, which says its level."""

    def emit(self, record: logging.LogRecord) -> None:
        message(f"{record.levelname.lower()}: {record.getMessage()}")


def configure_logging(verbose: bool) -> None:
    """Sends the package's messages to stderr."""
    logger = logging.getLogger("machserial")
    logger.handlers = [_MessageHandler()]
    logger.propagate = False
    logger.setLevel(log_level(verbose))
