"""What was found: raw figures of every repetition, their medians, ratios of medians, and targets."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from machserial.bench.sizes import Sizes
from machserial.bench.targets import Target


@dataclass(frozen=True)
class Comparison:
    """Two variants of a case, or one against nothing: base is then empty, and the target about the figure itself."""

    measured: str
    base: str = ""
    target: Target | None = None


@dataclass
class Case:
    """Variants that took turns.

    raw: the figures of each variant, a repetition each; unit: of them (s, ms, µs, 1/s, MB).
    drawn: the panel of the plot that it is a point of, at x; per: serials that a figure is about.
    """

    subject: str
    name: str
    unit: str
    raw: dict[str, list[float]]
    comparisons: list[Comparison]
    remark: str = ""
    per: int = 1
    drawn: str = ""
    x: int = 0

    def median(self, variant: str) -> float:
        return statistics.median(self.raw[variant])


@dataclass
class Skipped:
    """A subject, or a part of one, that was left out, and why."""

    subject: str
    reason: str


@dataclass
class Run:
    """Everything that one run has found."""

    sizes: Sizes
    machine: dict[str, object]
    cases: list[Case] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # that each subject took

    def missed(self) -> list[dict[str, object]]:
        return [row for row in self.rows() if row["met"] is False]

    def rows(self) -> list[dict[str, object]]:
        """One a comparison, as the table shows it."""
        return [_row(case, comparison, self.sizes) for case in self.cases for comparison in case.comparisons]

    def as_dict(self) -> dict[str, object]:
        """For JSON: raw figures too."""
        return {
            "form": self.sizes.name,
            "sizes": asdict(self.sizes),
            "machine": self.machine,
            "results": self.rows(),
            "raw": [
                {
                    "subject": case.subject,
                    "case": case.name,
                    "unit": case.unit,
                    "figures": case.raw,
                    "medians": {name: case.median(name) for name in case.raw},
                    "per": case.per,
                    "drawn": case.drawn,
                    "x": case.x,
                }
                for case in self.cases
            ],
            "skipped": [asdict(one) for one in self.skipped],
            "seconds": self.seconds,
        }


def _row(case: Case, comparison: Comparison, sizes: Sizes) -> dict[str, object]:
    measured = case.median(comparison.measured)
    base = case.median(comparison.base) if comparison.base else None
    ratio = measured / base if base else None
    target = comparison.target
    judged = measured if base is None else ratio
    return {
        "subject": case.subject,
        "case": case.name,
        "measured": comparison.measured,
        "median": measured,
        "against": comparison.base or None,
        "base_median": base,
        "unit": case.unit,
        "ratio": ratio,
        "target": str(target) if target else None,
        # None: no target, or one that a run of these sizes cannot tell about.
        "met": target.is_met(judged) if target and target.counts(sizes) and judged is not None else None,
        "remark": case.remark,
    }


def figures(raw: Mapping[str, list[float]], factor: float) -> dict[str, list[float]]:
    """The same in another unit."""
    return {name: [one * factor for one in some] for name, some in raw.items()}
