"""The torture inside make test: the same code for a few cycles, with one seed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from torture import Part, Run, parts
from torture.run import CONTROL_SECONDS

SEED = 7


@dataclass
class Short:
    """What the fixture torture gives: torture.holds("crash", cycles=3), torture.notices("crash", "…")."""

    bin: Path

    def part(self, name: str) -> Part:
        part = parts()[name]
        if why := part.needs():
            pytest.skip(why)
        return part

    def holds(self, name: str, cycles: int, seconds: float = 120) -> Run:
        """Runs a part for so many cycles, fewer if the time is up; fails if it finds anything. The run, to look at."""
        part = self.part(name)
        run = Run(name, SEED, seconds, most_cycles=cycles, bin=self.bin)
        try:
            part.torture(run)
        finally:
            shutil.rmtree(run.folder, ignore_errors=True)
        assert not run.findings, "\n".join(map(str, run.findings))
        return run

    def notices(self, name: str, what: str, saying: str = "") -> Run:
        """Runs a control; fails if nothing is found, or nothing that says so."""
        part = self.part(name)
        run = Run(name, SEED, CONTROL_SECONDS, is_control=True, bin=self.bin)
        try:
            part.controls[what](run)
        finally:
            shutil.rmtree(run.folder, ignore_errors=True)
        assert any(saying in found.text for found in run.findings), f"not noticed: {what}; found: {run.findings}"
        return run
