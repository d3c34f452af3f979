"""Two and three sessions in turns, at every stop within their statements: the long form of tests/test_interleavings.py.

Each cycle plays one scene in a database of its own: every pair of its verbs in both orders, then walks by chance
through all stops, with pairs and triples. A finding names its case or the order of its moves, which makes the same walk
again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from controls import CONTROLS, Control
from interleavings import (
    COMMIT,
    READ_COMMITTED,
    REPEATABLE_READ,
    ROLLBACK,
    SERIALIZABLE,
    Case,
    Playhouse,
    build_gates,
    by_chance,
)
from scenes import MIXED, SCENES, Scene
from servers import Server

from torture import Part, Run

TEMPLATE = "template_of_stages"
# How many steps or walks are taken before everything is looked at: what is found is of one of them.
BEFORE_A_LOOK = 12


def make_template(server: Server) -> None:
    server.execute(f"create database {TEMPLATE}")
    with psycopg.connect(server.dsn(TEMPLATE)) as connection:
        connection.execute("create extension machserial")
        connection.execute("select machserial.migrate()")


@contextmanager
def stage_of(server: Server, scene: Scene, name: str, sessions: str = "ab") -> Iterator[Playhouse]:
    """A new database in which the scene is played."""
    server.execute(f"create database {name} template {TEMPLATE}")
    try:
        with Playhouse(server.dsn(name), scene, sessions) as house:
            yield house
    finally:
        server.execute(f"drop database {name} with (force)")


def pairs(run: Run, house: Playhouse, dice: random.Random) -> Iterator[list[str]]:
    """All pairs of the scene's verbs, in any order, each in some isolation level and with some end."""
    shuffled = house.scene.pairs()
    dice.shuffle(shuffled)
    for first, second in shuffled:
        case = Case(
            first,
            second,
            dice.choices([COMMIT, ROLLBACK], [2, 1])[0],
            dice.choice([READ_COMMITTED, READ_COMMITTED, REPEATABLE_READ, SERIALIZABLE]),
            dice.random() < 0.3,
        )
        run.count(operations=2)
        yield house.play(case)


def walks(run: Run, house: Playhouse, dice: random.Random) -> Iterator[list[str]]:
    """Twos and threes that stop wherever they can, as often as the scene has verbs."""
    for _ in house.scene.verbs:
        sessions = dice.choice(["ab", "ab", "abc"])
        verbs = {name: dice.choice(house.scene.verbs) for name in sessions}
        isolation = dice.choice([READ_COMMITTED, READ_COMMITTED, REPEATABLE_READ, SERIALIZABLE])
        run.count(operations=len(sessions))
        yield house.walk(verbs, by_chance(dice), isolation, dice.choices([COMMIT, ROLLBACK], [4, 1])[0]).problems


def play(run: Run, house: Playhouse, cycle: int, kind: Callable) -> None:
    for number, problems in enumerate(kind(run, house, run.dice(cycle, kind.__name__)), start=1):
        for problem in problems:
            run.finding(problem, cycle=cycle, scene=house.scene.name)
        if number % BEFORE_A_LOOK == 0 or run.is_over():
            look(run, house, cycle, number)
        if run.is_over():
            return
    look(run, house, cycle, number)


def look(run: Run, house: Playhouse, cycle: int, number: int) -> None:
    for fault in house.examine():
        run.finding(fault, cycle=cycle, scene=house.scene.name, after=f"step {number}")


def torture(run: Run) -> None:
    with run.server(shared_buffers="64MB") as server:
        make_template(server)
        scenes = (*SCENES, *MIXED)
        first = run.dice().randrange(len(scenes))
        for cycle in run.cycles():
            scene = scenes[(first + cycle) % len(scenes)]
            with stage_of(server, scene, f"stage_{cycle}", "abc") as house:
                play(run, house, cycle, pairs)
                if not run.is_over():
                    build_gates(house.owner)
                    play(run, house, cycle, walks)


def without(control: Control) -> Callable[[Run], None]:
    """The case of a control with something broken on purpose."""

    def torture_without(run: Run) -> None:
        with run.server() as server:
            make_template(server)
            with stage_of(server, control.scene, "stage") as house:
                if control.gates:
                    build_gates(house.owner, control.gates)
                house.owner.execute(control.sabotage)
                for problem in control.play(house) + house.examine():
                    run.finding(problem, control=control.name)

    return torture_without


PART = Part(
    title="interleavings: no order of steps does harm, deadlocks, or makes anybody wait who need not",
    torture=torture,
    controls={control.name: without(control) for control in CONTROLS},
)
