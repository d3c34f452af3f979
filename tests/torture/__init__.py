"""The torture: what machserial promises, held against kills, races and malice for as long as there is time.

make torture runs every part in turn, each for its share of TORTURE_MINUTES. tests/test_torture_<part>.py runs the same
code for a few seconds in make test.

A part is a module of this package that has a PART:

    PART = Part(
        title="kill -9: nothing acknowledged is lost, nothing is issued twice",
        torture=torture,
        controls={"a claim index is dropped": without_claim_index},
        needs=reason_to_skip,                     # optional
    )

torture(run) goes on as long as run says, in cycles, and tells what it found. It never raises for a finding:

    def torture(run: Run) -> None:
        with run.server() as server:              # a real server of its own, machserial is installable
            for cycle in run.cycles():            # until time is up (at least once), or so many as a test allows
                dice = run.dice(cycle)            # random.Random, the same for the same SEED and cycle
                ...
                run.count(operations=1, acknowledged=1)       # also: ambiguous
                if wrong:
                    run.finding("serial 7 is lost", cycle=cycle, statement="...")    # what it takes to see it again

Each control is the same thing with something broken on purpose, a function of a Run of its own. It must lead to a
finding: one that leads to none is itself a finding of the part, because then the part notices nothing. It returns as
soon as there is one (run.is_over() is true then), and run.cycles() ends by itself when CONTROL_SECONDS are up.

In make test, with the fixture torture (tests/torture/short.py), each a few seconds:

    def test_it_holds(torture):
        torture.holds("crash", cycles=3)

    @pytest.mark.parametrize("what", PART.controls)
    def test_it_would_have_noticed(torture, what):
        torture.notices("crash", what)

needs() gives the sentence that says what must be installed for this part here, or None.

run.seed is the part's own, made of SEED and its name; take all chance from run.dice(...) and give run.seed to
hypothesis (@seed). What depends on the timing of processes cannot be the same twice: then a finding has to bring along
what happened (run.folder is kept after a finding; put ledgers and logs there).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field

from torture.run import Run

__all__ = ["Part", "Run", "parts"]


@dataclass(frozen=True)
class Part:
    """One kind of torture; see above."""

    title: str
    torture: Callable[[Run], None]
    controls: dict[str, Callable[[Run], None]] = field(default_factory=dict)
    needs: Callable[[], str | None] = lambda: None


def parts() -> dict[str, Part]:
    """All parts by the names of their modules, in alphabetical order."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name == "__main__":
            continue
        part = getattr(importlib.import_module(f"{__name__}.{module.name}"), "PART", None)
        if part is not None:
            found[module.name] = part
    return found
