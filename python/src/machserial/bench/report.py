"""How a run is shown: a table in the terminal, and one in Markdown between the marks of a page."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.table import Table

from machserial.bench.results import Run
from machserial.errors import ExpectedError
from machserial.files import new_files

BEGIN = "<!-- Made by machserial bench --write: what stands up to the end mark is replaced. -->"
END = "<!-- end -->"
MET = {True: "met", False: "MISSED", None: ""}


def table(run: Run) -> Table:
    """For the terminal."""
    shown = Table(box=box.ROUNDED)
    for heading, numeric in HEADINGS:
        shown.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    before = None
    for row in run.rows():
        if before not in (None, row["subject"]):
            shown.add_section()
        before = row["subject"]
        style = {True: "green", False: "bold red"}.get(row["met"])
        shown.add_row(*cells(row), style=style)
    return shown


HEADINGS = (
    ("subject", False),
    ("case", False),
    ("measured", False),
    ("median", True),
    ("against", False),
    ("median", True),
    ("ratio", True),
    ("target", True),
    ("", False),
)


def cells(row: dict[str, object]) -> list[str]:
    """A row as texts, a heading each."""
    ratio = f"{row['ratio']:.3g}" if row["ratio"] is not None else ""
    # 1 / 1.10 needs three digits, 23,000 none.
    if row["ratio"] is not None and row["ratio"] >= 1000:
        ratio = f"{row['ratio']:,.0f}"
    target = row["target"] or ""
    met = MET[row["met"]]
    if target and not met:
        met = "(smaller sizes)"
    return [
        *(row["subject"], row["case"], row["measured"], quantity(row["median"], row["unit"])),
        *(row["against"] or "", quantity(row["base_median"], row["unit"]), ratio, target, met),
    ]


def quantity(figure: float | None, unit: str) -> str:
    """A figure with three digits and its unit."""
    if figure is None:
        return ""
    digits = f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"
    return f"{digits}/s" if unit == "1/s" else f"{digits} {unit}"


def machine_lines(run: Run) -> list[str]:
    """What it ran on, for people."""
    found = run.machine
    settings = ", ".join(f"{name} {setting}" for name, setting in found["settings"].items())
    return [
        f"machserial {found['machserial']} on PostgreSQL {found['postgresql']}; {found['cores']} cores "
        f"({found['processor']}), {found['memory_gb']} GB of memory, {found['system']}; load before: "
        f"{found['load_before']}.",
        f"Form: {run.sizes.name}; {found['rounds']} rounds, pgbench for {found['seconds_of_a_run']} s a time; "
        f"{found['minutes']} minutes in all.",
        f"Settings: {settings}.",
    ]


def notes(run: Run) -> list[str]:
    """What the figures mean where that is not plain, and what was left out."""
    remarks = dict.fromkeys(f"{case.subject}: {case.remark}." for case in run.cases if case.remark)
    return [*remarks, *(f"Left out of {one.subject}: {one.reason}." for one in run.skipped)]


def markdown(run: Run) -> str:
    """The table and what it ran on, for a page."""
    rows = [
        _line([heading for heading, _ in HEADINGS]),
        _line(["--:" if numeric else "---" for _, numeric in HEADINGS]),
        *(_line(cells(row)) for row in run.rows()),
    ]
    paragraphs = [*machine_lines(run), "\n".join(rows), "\n".join(f"- {note}" for note in notes(run))]
    return "\n\n".join(paragraphs).rstrip() + "\n"


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def require_marks(page: Path) -> None:
    """Raises ExpectedError if the page has no place for the table."""
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ExpectedError(f"{page} cannot be read", detail=error.strerror, remedy="name another page") from error
    if text.count(BEGIN) != 1 or END not in text.partition(BEGIN)[2]:
        raise ExpectedError(
            f"{page} has no place for the table",
            detail="the two marks are not there",
            remedy=f"put the lines {BEGIN} and {END} where it is to go",
        )


def write_into(page: Path, run: Run) -> None:
    """Replaces what stands between the marks."""
    require_marks(page)
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    with new_files.replacing(page, mode=page.stat().st_mode & 0o777) as file:
        file.write(f"{before}{BEGIN}\n\n{markdown(run)}\n{END}{after}".encode())
