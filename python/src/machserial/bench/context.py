"""What every subject is given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psycopg

from machserial.bench.measure import interleaved
from machserial.bench.pgbench import Pgbench
from machserial.bench.place import Place
from machserial.bench.registry import Registry
from machserial.bench.sizes import Sizes


@dataclass
class Bench:
    """Where, how much, and with what. tell: called with what is being done."""

    place: Place
    sizes: Sizes
    pgbench: Pgbench
    rounds: int
    seconds: int  # 0: a few transactions
    tell: Callable[[str], None] = field(default=lambda text: None)

    @property
    def big_rounds(self) -> int:
        """Of what takes longest."""
        return min(self.rounds, self.sizes.big_rounds)

    def repeats(self, quantity: int) -> int:
        """How often in a round, each time a transaction: small ones many times."""
        return max(1, min(self.sizes.repeats, 10_000 // quantity))

    @contextmanager
    def registry(self, name: str = "bench") -> Iterator[Registry]:
        """An empty machserial with the bare tables, gone after the block."""
        with self.place.fresh(name) as dsn:
            yield Registry(dsn)

    @contextmanager
    def sessions(self, registry: Registry, count: int) -> Iterator[list[psycopg.Connection]]:
        with ExitStack() as stack:
            yield [stack.enter_context(registry.session()) for _ in range(count)]

    def rates(
        self,
        registry: Registry,
        scripts: Mapping[str, str],
        clients: int,
        *,
        rounds: int | None = None,
        is_warm: bool = True,
        unprepared: Collection[str] = (),
    ) -> dict[str, list[float]]:
        """Transactions a second of scripts that take turns. unprepared: whose statements are planned each time."""

        def rate(name: str) -> float:
            is_prepared = name not in unprepared
            return self.pgbench.rate(registry.dsn, scripts[name], clients, self.seconds, is_warm, is_prepared)

        variants = {name: (lambda name=name: rate(name)) for name in scripts}
        return interleaved(variants, rounds or self.rounds, registry.checkpoint)


def clients_text(clients: int) -> str:
    return f"{clients} client{'s' if clients > 1 else ''}"
