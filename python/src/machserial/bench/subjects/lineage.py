"""Where a serial comes from and what became of it, against a recursive query written by hand.

Three shapes share the edges: nets (every serial has two parents and two children), chains (one serial after the other),
and trees (two children each, ten levels).
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from machserial.bench import targets
from machserial.bench.context import Bench
from machserial.bench.measure import interleaved, timed
from machserial.bench.registry import PART, PART_TYPE, Registry, rules_off
from machserial.bench.results import Case, Comparison, figures
from machserial.errors import ExpectedError

NAME = "lineage"
TITLE = "ancestors and descendants"
LEVELS = 51
WIDTH = 20
OURS, BY_HAND = "lineage()", "recursive query"
# Serials of a group, its edges, and the share of all edges that groups of its shape get.
NET = (LEVELS * WIDTH, 2 * (LEVELS - 1) * WIDTH, 0.5)
CHAIN = (LEVELS, LEVELS - 1, 0.25)
TREE = (2**11 - 1, 2**11 - 2, 0.25)

SERIALS = f"""
insert into machserial.serials (id, serial_number, part_id, part_type, source, scopes)
overriding system value
select n, 'L-' || n, '{PART}', '{PART_TYPE}', 'MANUAL', '{{SITE,PART_TYPE}}'
from generate_series(%(first)s::bigint, %(last)s::bigint) as n
"""
EDGES = """
insert into machserial.serial_propagations (
    propagation_type, parent_serial_id, child_serial_id, operation_code, routing_sequence
)
select 'SPLIT', %(first)s + g * %(serials)s + e.parent, %(first)s + g * %(serials)s + e.child, 'OP10', 10
from generate_series(0, %(groups)s - 1) as g, ({shape}) as e (parent, child)
"""
# Positions in a group: level after level.
SHAPES = {
    "net": f"""
        select l * {WIDTH} + w, (l + 1) * {WIDTH} + (w + step) % {WIDTH}
        from generate_series(0, {LEVELS - 2}) as l, generate_series(0, {WIDTH - 1}) as w, generate_series(0, 1) as step
    """,
    "chain": f"select l, l + 1 from generate_series(0, {LEVELS - 2}) as l",
    "tree": f"select n, 2 * n + step from generate_series(0, {2**10 - 2}) as n, generate_series(1, 2) as step",
}
SIZES = {"net": NET, "chain": CHAIN, "tree": TREE}

RECURSIVE = """
with recursive above (id, depth) as (
    select parent_serial_id, 1 from machserial.serial_propagations where child_serial_id = %(id)s
    union
    select e.parent_serial_id, a.depth + 1
    from above as a
    inner join machserial.serial_propagations as e on e.child_serial_id = a.id
    where a.depth < %(depth)s
),
below (id, depth) as (
    select child_serial_id, 1
    from machserial.serial_propagations where parent_serial_id = %(id)s and child_serial_id is not null
    union
    select e.child_serial_id, b.depth + 1
    from below as b
    inner join machserial.serial_propagations as e on e.parent_serial_id = b.id
    where b.depth < %(depth)s and e.child_serial_id is not null
)
select 'ANCESTOR' as direction, id, min(depth) as depth from above group by id
union all
select 'DESCENDANT', id, min(depth) from below group by id
"""
LINEAGE = "select direction, serial_id, depth from machserial.lineage(%(id)s, %(depth)s)"
REPEATS = 5


def run(bench: Bench) -> Iterator[Case]:
    with bench.registry() as registry:
        with registry.session() as session:
            starts = fill(session, bench.sizes.edges)
            registry.settle(session)
        for shape, start, depth in cases(starts):
            yield case(bench, registry, shape, start, depth)


def fill(session: psycopg.Connection, edges: int) -> dict[str, int]:
    """The edges of all shapes; of each shape the id of a group's first serial."""
    starts = {}
    first = session.execute("select coalesce(max(id), 0) + 1 from machserial.serials").fetchone()[0]
    for shape, (serials, edges_each, share) in SIZES.items():
        groups = max(1, int(edges * share) // edges_each)
        given = {"first": first, "last": first + groups * serials - 1, "serials": serials, "groups": groups}
        with rules_off(session):
            session.execute(SERIALS, given)
            session.execute(EDGES.format(shape=SHAPES[shape].replace("%", "%%")), given)
        starts[shape] = first + groups // 2 * serials
        first += groups * serials
    return starts


def cases(starts: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    """From the first of a group down, and from the middle of a net both ways."""
    for shape, start in starts.items():
        yield shape, start, 10
        if shape != "tree":
            yield shape, start, 50
    yield "net, from its middle", starts["net"] + LEVELS // 2 * WIDTH, 50


def case(bench: Bench, registry: Registry, shape: str, start: int, depth: int) -> Case:
    given = {"id": start, "depth": depth}
    with registry.session() as session:
        found = require_same(session, given)
        for _ in range(6):
            for query in (LINEAGE, RECURSIVE):
                session.execute(query, given, prepare=True).fetchall()
        raw = interleaved(
            {
                OURS: lambda: timed(session, LINEAGE, given, REPEATS),
                BY_HAND: lambda: timed(session, RECURSIVE, given, REPEATS),
            },
            bench.rounds * 3,
            lambda: None,
        )
    return Case(
        NAME,
        f"{shape}, depth {depth}: {found:,} serials of {bench.sizes.edges:,} edges",
        "ms",
        figures(raw, 1000),
        [Comparison(OURS, BY_HAND, targets.LINEAGE_TIME)],
        remark="lineage() also gives numbers, parts, operations and paths",
    )


def require_same(session: psycopg.Connection, given: dict[str, int]) -> int:
    """Both find the same; how many serials."""
    ours = {row for row in session.execute(LINEAGE, given).fetchall() if row[0] != "SELF"}
    by_hand = set(session.execute(RECURSIVE, given).fetchall())
    if ours != by_hand:
        raise ExpectedError(
            f"lineage() and the recursive query disagree about serial {given['id']}",
            detail=f"{len(ours)} and {len(by_hand)} serials",
            remedy="report it",
        )
    return len(ours)
