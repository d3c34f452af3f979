"""What is to be reached: the one place that says so."""

from __future__ import annotations

from dataclasses import dataclass

from machserial.bench.sizes import FULL, Sizes


@dataclass(frozen=True)
class Target:
    """A bound of a ratio, or of a figure that is compared with nothing.

    about: fields of the sizes that must be as in the full form, or the run cannot tell.
    """

    at_most: float | None = None
    at_least: float | None = None
    about: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"≤ {self.at_most:.3g}" if self.at_most is not None else f"≥ {self.at_least:.3g}"

    def is_met(self, figure: float) -> bool:
        """Whether the figure, as measured and not as rounded, keeps the bound."""
        return figure <= self.at_most if self.at_most is not None else figure >= self.at_least

    def counts(self, sizes: Sizes) -> bool:
        """Whether a run of these sizes can tell."""
        return all(getattr(sizes, name) == getattr(FULL, name) for name in self.about)


# Ratios of times: at most. Ratios of rates: at least.
BATCH_TIME = Target(at_most=1.10)  # of the bare rows', for 100,000 serials
SMALL_BATCH_TIME = Target(at_most=1.2, about=("clients",))  # for 100
BATCH_MEMORY = Target(at_most=500)  # MB of the backend, for 1,000,000 serials
SINGLE_CALL_RATE = Target(at_least=0.85, about=("clients",))  # of the bare rows', at each number of clients
SINGLE_CALL_TIME = Target(at_most=1.25, about=("clients",))  # of the processor, beside the function written by hand
RATE_BY_HAND = Target(at_least=0.8, about=("clients",))  # of its rate, at each number of clients
LOCKED_COUNTER = Target(at_least=10, about=("clients",))  # times its rate, 32 clients in transactions of 5 ms
COUNT_ROWS = Target(at_least=100, about=("rival_serials",))  # times its rate, among 1,000,000 serials
CHECK_DIGIT = Target(at_most=1.05, about=("check_quantity",))
AUDITED_RATE = Target(at_least=1 / 1.10, about=("writers",))  # of the rate without: at most 10 % more time
GROWTH_TIME = Target(at_most=1.2, about=("registry",))  # from empty to 10,000,000
GROWTH_RATE = Target(at_least=1 / 1.2, about=("registry",))
LINEAGE_TIME = Target(at_most=1.3, about=("edges",))  # of a hand-written recursive query's
