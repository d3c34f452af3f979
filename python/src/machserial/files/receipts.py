"""Serial numbers in CSV files: what came in, and what was refused of it."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable
from pathlib import Path

from machserial.errors import Exit, ExpectedError
from machserial.files import new_files, spreadsheets
from machserial.functions import Row

NUMBER = "serial_number"
# What a spreadsheet may write between the columns.
DELIMITERS = ",;\t"
# What write_refused() adds, so that its file can be corrected and read again.
REMARKS = ("line", "errors")

STDIN = Path("-")


def read_numbers(path: Path, other_columns: Iterable[str] = ()) -> list[Row]:
    """A row a number, with its line. Cells that are empty are left out.

    Either with a header, which has serial_number and may have other_columns; or without, one number a line.
    Raises ExpectedError.
    """
    text = _read(path)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        cells = [(rows.line_num, [cell.strip() for cell in row]) for row in rows]
    except csv.Error as error:
        raise _unusable(path, f"line {rows.line_num}: {error}", "quote cells that hold quotes or delimiters") from error
    cells = [(line, row) for line, row in cells if any(row)]
    header = [NUMBER]
    if cells and NUMBER in map(str.lower, cells[0][1]):
        header = _known_header(path, [cell.lower() for cell in cells.pop(0)[1]], [NUMBER, *other_columns])
    if not cells:
        raise _unusable(path, "it holds no serial numbers", "write one per line")
    return [_row(path, header, line, row) for line, row in cells]


def as_lines(numbers: Iterable[str]) -> list[Row]:
    """Numbers that were given otherwise, as read_numbers() returns them."""
    return [{NUMBER: number, "line": line} for line, number in enumerate(numbers, start=1)]


def write_refused(path: Path, refused: Iterable[Row], columns: Iterable[str]) -> None:
    """Writes a file that read_numbers() reads again once it is corrected. errors: a list of texts in each row."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*columns, *REMARKS], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(spreadsheets.guarded({**row, "errors": "; ".join(row["errors"])}) for row in refused)
    with new_files.replacing(path, remedy="name another file; nothing was received") as file:
        file.write(text.getvalue().encode())


def _read(path: Path) -> str:
    try:
        content = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise _unusable(path, error.strerror, "name another file") from error
    except UnicodeDecodeError as error:
        raise _unusable(path, f"byte {error.start + 1} is not UTF-8", "save it as CSV in UTF-8") from error
    if "\0" in text:
        raise _unusable(path, "it holds null characters, so it is not text in UTF-8", "save it as CSV in UTF-8")
    return text


def _delimiter(text: str) -> str:
    """The one in the header. Without a header there is one column, and no number has a comma in it."""
    header = next((line for line in text.splitlines() if line.strip()), "").lower()
    if NUMBER not in header:
        return ","
    return max(DELIMITERS, key=header.count)


def _known_header(path: Path, header: list[str], known: list[str]) -> list[str]:
    for name in header:
        if name not in (*known, *REMARKS) or header.count(name) > 1:
            found = "comes twice" if header.count(name) > 1 else "is unknown"
            raise _unusable(path, f'its column "{name}" {found}', f"columns are {', '.join(known)}")
    return header


def _row(path: Path, header: list[str], line: int, cells: list[str]) -> Row:
    if len(cells) != len(header):
        raise _unusable(
            path,
            f"line {line} has {len(cells)} columns instead of {len(header)}",
            f"give each line as many as the header, which needs {NUMBER}; without a header one",
        )
    row = {
        name: spreadsheets.plain(name, cell)
        for name, cell in zip(header, cells, strict=True)
        if cell and name not in REMARKS
    }
    return {NUMBER: "", **row, "line": line}


def _unusable(path: Path, detail: str, remedy: str) -> ExpectedError:
    name = "standard input" if path == STDIN else path
    return ExpectedError(f"{name} cannot be used", detail=detail, remedy=remedy, code=Exit.USAGE)
