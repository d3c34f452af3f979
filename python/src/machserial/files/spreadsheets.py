"""CSV that a spreadsheet opens: a text that it would take for a formula begins with ' there, which reading takes off.

Serial numbers and ids stay as they are: a number of HIBC begins with +, and programs compare them.
"""

from __future__ import annotations

from machserial.functions import Row

# With which a formula begins, in one spreadsheet or another.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def guarded(row: Row) -> Row:
    """row as it is written. A text of which ' is part already gets one more, so that reading gives the same again."""
    return {name: "'" + value if _is_guarded(name, value) else value for name, value in row.items()}


def plain(column: str, cell: str) -> str:
    """What a cell of that column said before it was guarded."""
    return cell[1:] if cell.startswith("'") and _is_guarded(column, cell) else cell


def _is_guarded(column: str, value: object) -> bool:
    if column in ("id", "highest") or column.endswith(("_id", "_number")):
        return False
    return isinstance(value, str) and value.lstrip("'").startswith(FORMULA)
