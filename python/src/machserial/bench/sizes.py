"""How much a run measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The sizes of one form of the benchmark.

    disk_gb: room that the private server needs; rounds: repetitions of each variant; big_rounds: of what takes longest;
    seconds: of one run of pgbench, 0: a few transactions; batches: serials of one call; repeats: of small ones in a
    round; rival_serials: those already there when others look for the next number; loop: serials that a Python loop
    inserts; random_space: numbers that the random pattern has; edges: of the lineage; writers, writer_batches: clients
    that write the trail, and serials of a transaction; seal_events: events sealed in a round; registry: sizes at which
    growth is looked at; audit_events: of the trail that is paged through; cached_serials, look_ups: of the uniqueness
    check.
    """

    name: str
    disk_gb: int
    rounds: int
    big_rounds: int
    seconds: int
    batches: tuple[int, ...]
    repeats: int
    clients: tuple[int, ...]
    rival_clients: tuple[int, ...]
    rival_serials: int
    loop: int
    check_quantity: int
    random_space: int
    attached_rows: tuple[int, ...]
    receipts: int
    edges: int
    writers: int
    writer_batches: tuple[int, ...]
    seal_events: int
    registry: tuple[int, ...]
    growth_batch: int
    audit_events: int
    cached_serials: int
    look_ups: int


FULL = Sizes(
    name="full",
    disk_gb=30,
    rounds=5,
    big_rounds=3,
    seconds=5,
    batches=(1, 100, 10_000, 100_000, 1_000_000),
    repeats=300,
    clients=(1, 8, 32),
    rival_clients=(1, 8, 32),
    rival_serials=1_000_000,
    loop=1_000,
    check_quantity=100_000,
    random_space=1_000_000,
    attached_rows=(1, 10_000),
    receipts=10_000,
    edges=1_000_000,
    writers=16,
    writer_batches=(1, 100),
    seal_events=500_000,
    registry=(100_000, 1_000_000, 10_000_000),
    growth_batch=100_000,
    audit_events=10_000_000,
    cached_serials=200_000,
    look_ups=2_000,
)

QUICK = Sizes(
    name="quick",
    disk_gb=5,
    rounds=3,
    big_rounds=2,
    seconds=2,
    batches=(1, 100, 10_000, 100_000),
    repeats=200,
    clients=(1, 8, 32),
    rival_clients=(32,),
    rival_serials=100_000,
    loop=300,
    check_quantity=10_000,
    random_space=10_000,
    attached_rows=(1, 10_000),
    receipts=10_000,
    edges=100_000,
    writers=16,
    writer_batches=(1, 100),
    seal_events=50_000,
    registry=(10_000, 300_000),
    growth_batch=10_000,
    audit_events=300_000,
    cached_serials=20_000,
    look_ups=300,
)

SMOKE = Sizes(
    name="smoke",
    disk_gb=1,
    rounds=2,
    big_rounds=2,
    seconds=0,
    batches=(1, 100),
    repeats=3,
    clients=(2,),
    rival_clients=(2,),
    rival_serials=200,
    loop=5,
    check_quantity=100,
    random_space=100,
    attached_rows=(1, 20),
    receipts=20,
    edges=4_000,
    writers=2,
    writer_batches=(1,),
    seal_events=200,
    registry=(200,),
    growth_batch=100,
    audit_events=2_000,
    cached_serials=100,
    look_ups=10,
)
