"""python -m torture: runs the parts, each for its share of the time, and says what was found. See make torture."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
import traceback
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from torture import Part, Run, parts
from torture.run import CONTROL_SECONDS, derived_seed

CONSOLE = Console(highlight=False, soft_wrap=True)
# The report has so many columns, also where there is no terminal.
CONSOLE.width = max(CONSOLE.width, 110)
# What is kept of a part that found something.
EVIDENCE = Path(__file__).resolve().parent.parent.parent / "build" / "torture"


def tell(text: str) -> None:
    CONSOLE.print(text, markup=False)


class Report:
    """The table at the end, and whether anything was found."""

    def __init__(self) -> None:
        self.table = Table()
        self.table.add_column("part", no_wrap=True)
        for name in ("cycles", "operations", "acknowledged", "ambiguous", "controls", "findings", "s"):
            self.table.add_column(name, justify="right", no_wrap=True)
        self.findings = 0

    def add(self, run: Run, noticed: str) -> None:
        counts = [f"{run.counts[name]:,}" for name in ("cycles", "operations", "acknowledged", "ambiguous")]
        seconds = f"{time.monotonic() - run.began:,.0f}"
        self.table.add_row(run.name, *counts, noticed, str(len(run.findings)), seconds)
        self.findings += len(run.findings)

    def skip(self, name: str, why: str) -> None:
        self.table.add_row(name, *[""] * 5, "skipped", "")
        tell(f"{name}: skipped: {why}")


def attempt(run: Run, work: object) -> None:
    """Runs it; that it breaks off is a finding, too."""
    try:
        work(run)
    except Exception:
        run.finding(f"it broke off:\n{traceback.format_exc()}")


def notices(name: str, part: Part, run: Run) -> str:
    """Runs the part's controls; those that were not noticed become findings of run. How many were: '3 of 3'."""
    noticed = 0
    in_order = run.dice("controls").sample(list(part.controls), len(part.controls))
    for what in in_order:
        if noticed and run.left < run.seconds / 2:
            tell(f"{name}: no time for the control '{what}'")
            continue
        control = part.controls[what]
        broken = Run(f"{name} control", derived_seed(run.seed, what), CONTROL_SECONDS, is_control=True)
        try:
            control(broken)
        except Exception:
            run.finding(f"the control '{what}' broke off:\n{traceback.format_exc()}")
            continue
        finally:
            shutil.rmtree(broken.folder, ignore_errors=True)
        if broken.findings:
            noticed += 1
            tell(f"{name}: noticed that {what}: {broken.findings[0].text.splitlines()[0]}")
        else:
            run.finding(f"the control '{what}' was not noticed", control_seed=broken.seed)
    return f"{noticed} of {len(part.controls)}"


def keep_evidence(run: Run) -> None:
    if run.findings and any(run.folder.iterdir()):
        kept = EVIDENCE / f"{run.name}-{run.seed}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(run.folder, kept, ignore_dangling_symlinks=True)
        tell(f"{run.name}: what happened is kept in {kept}")
    shutil.rmtree(run.folder, ignore_errors=True)


def chosen(only: str) -> dict[str, Part]:
    known = parts()
    wanted = [name.strip() for name in only.split(",") if name.strip()] or list(known)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise click.UsageError(f"no part {', '.join(unknown)}; there are {', '.join(known)}")
    return {name: known[name] for name in wanted}


@click.command()
@click.option("--minutes", type=click.FloatRange(0), envvar="TORTURE_MINUTES", default=5, show_default=True)
@click.option("--seed", type=int, envvar="SEED", help="That of an earlier run; default: another one each time.")
@click.option("--only", envvar="ONLY", default="", metavar="PART,…", help="Only these parts.")
@click.option("--cycles", type=click.IntRange(1), envvar="CYCLES", help="No more cycles a part than these.")
@click.option("--controls/--no-controls", "with_controls", default=True, help="Whether the controls are run first.")
@click.option("--controls-only", is_flag=True, help="Only the controls: that everything broken is noticed.")
def main(
    minutes: float, seed: int | None, only: str, cycles: int | None, with_controls: bool, controls_only: bool
) -> None:
    """Tortures machserial. Ends with 1 if anything was found, and with what it takes to see it again."""
    # Servers and writers stop when a with statement is left: also when this is terminated.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seed = seed if seed is not None else random.SystemRandom().randrange(1_000_000)
    waiting = chosen(only)
    ends = time.monotonic() + minutes * 60
    tell(f"SEED={seed} TORTURE_MINUTES={minutes:g} ONLY={','.join(waiting)}")
    report = Report()
    for done, (name, part) in enumerate(waiting.items()):
        why = part.needs()
        if why:
            report.skip(name, why)
            continue
        # What one part leaves of its share goes to those that follow.
        share = max(0.0, ends - time.monotonic()) / (len(waiting) - done)
        tell(f"{name}: {part.title} ({share:.0f} s)")
        run = Run(name, derived_seed(seed, name), share, most_cycles=cycles, tell=tell)
        noticed = notices(name, part, run) if with_controls or controls_only else ""
        if not controls_only:
            attempt(run, part.torture)
        report.add(run, noticed)
        keep_evidence(run)
    CONSOLE.print(report.table)
    if report.findings:
        tell(f"Findings: {report.findings}. Again: make torture SEED={seed} ONLY={','.join(waiting)}")
        raise SystemExit(1)
    tell("Nothing was found.")


if __name__ == "__main__":
    os.environ.pop("PGSERVICE", None)
    main()
