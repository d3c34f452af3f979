"""Every pair of verbs that touch the same rows, in turns that are the same each time: no harm, no deadlock, no needless
waiting. The long form, with all orders, isolation levels and endings, is tests/torture/interleavings.py."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import psycopg
import pytest
from controls import CONTROLS
from interleavings import (
    READ_COMMITTED,
    REPEATABLE_READ,
    ROLLBACK,
    SERIALIZABLE,
    Case,
    Playhouse,
    Stage,
    Stuck,
    build_gates,
    by_chance,
    in_order,
    stop_at,
)
from scenes import MIXED, PARENTS, SCENES, Scene, Verb
from support import mostly_slow

ONE_MODE = True
CHILDREN = ("parts", "sites", "serials")


@pytest.fixture
def house(connection: psycopg.Connection, deployed_dsn: str) -> Iterator[Callable[..., Playhouse]]:
    """house(scene, gates=None): where the scene is played; gates: tables on which statements stop."""
    opened = []

    def build(scene: Scene, gates: tuple[str, ...] = ()) -> Playhouse:
        if gates:
            build_gates(connection, gates)
            connection.commit()
        opened.append(Playhouse(deployed_dsn, scene))
        return opened[-1]

    yield build
    for one in opened:
        one.__exit__()


def each_with_its_neighbour(scene: Scene) -> list[tuple[Verb, Verb]]:
    """Each verb with itself, and with the next: first in one pair and second in another."""
    return [
        (first, second)
        for number, first in enumerate(scene.verbs)
        for second in (first, scene.verbs[(number + 1) % len(scene.verbs)])
        if (first, second) in scene.pairs()
    ]


def half_of(scene: Scene) -> list[tuple[Verb, Verb]]:
    """Each pair once, this one first or that one, and each verb with itself."""
    place = {verb: number for number, verb in enumerate(scene.verbs)}
    return [
        (first, second)
        for first, second in scene.pairs()
        if first == second or (place[first] < place[second]) == ((place[first] + place[second]) % 2 == 0)
    ]


@pytest.mark.parametrize("choose", mostly_slow([each_with_its_neighbour, half_of], [each_with_its_neighbour]))
@pytest.mark.parametrize("scene", mostly_slow(SCENES, SCENES[::3]), ids=lambda scene: scene.name)
def test_no_pair_of_verbs_does_harm(house, scene, choose):
    played = house(scene)
    problems = [problem for pair in choose(scene) for problem in played.play(Case(*pair))]
    problems += [
        problem
        for first, second in scene.pairs()
        if first == second
        for problem in played.play(Case(first, second, ROLLBACK))
    ]
    assert problems + played.examine() == []


# Parents and children, stopped wherever they can be


def walks(played: Playhouse, first: Verb, second: Verb, isolation: str) -> list[str]:
    """The first stops at each of its gates in turn, and the second goes as far as it can meanwhile."""
    problems, stops, walk = [], 0, None
    while walk is None or walk.order.count("a") > stops:
        stops += 1
        walk = played.walk({"a": first, "b": second}, stop_at(stops), isolation)
        problems += walk.problems
    return problems


@pytest.mark.parametrize(
    "isolation", mostly_slow([READ_COMMITTED, REPEATABLE_READ, SERIALIZABLE], [REPEATABLE_READ])
)
@pytest.mark.parametrize("change", ["delete the part", "delete the site", "change its type"])
def test_a_parent_does_not_vanish_under_its_child(house, change, isolation):
    played = house(PARENTS, CHILDREN)
    verbs = {verb.name: verb for verb in PARENTS.verbs}
    children = ["insert", "generate"] if isolation == READ_COMMITTED else ["insert"]
    problems = []
    for child in children:
        problems += walks(played, verbs[child], verbs[change], isolation)
        problems += walks(played, verbs[change], verbs[child], isolation)
    assert problems + played.examine() == []


# Locks in one order


@pytest.mark.parametrize("scene", mostly_slow(MIXED, MIXED[1::2]), ids=lambda scene: scene.name)
def test_the_same_rows_in_opposite_orders_never_deadlock(house, scene):
    """Each row that is written is a stop."""
    played = house(scene, scene.gates)
    problems = []
    for first, second in zip(scene.verbs[::2], scene.verbs[1::2], strict=True):
        problems += walks(played, first, second, READ_COMMITTED)
    assert problems + played.examine() == []


# Anything at any stop


@pytest.mark.parametrize("scene", random.Random(7).sample(SCENES[:-1], 4), ids=lambda scene: scene.name)
def test_walks_through_all_stops(house, scene):
    played = house(scene, tuple(table for table in ("serials", "counters", "audit_events", *scene.gates)))
    dice = random.Random(scene.name)
    problems = []
    for _ in range(5):
        verbs = {"a": dice.choice(scene.verbs), "b": dice.choice(scene.verbs)}
        problems += played.walk(verbs, by_chance(dice)).problems
    assert problems + played.examine() == []


# The harness itself


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_it_would_have_noticed(house, connection, control):
    """Something is broken on purpose, and a case that is clean otherwise tells of it."""
    played = house(control.scene, control.gates)
    assert control.play(played) + played.examine() == []
    connection.execute(control.sabotage)
    connection.commit()
    found = control.play(played) + played.examine()
    assert any(control.finding in problem for problem in found), found


@pytest.fixture
def stage(connection: psycopg.Connection, deployed_dsn: str) -> Iterator[Stage]:
    connection.execute("select machserial.register_part('P', 'T')")
    build_gates(connection, ("serials",))
    connection.commit()
    with Stage(deployed_dsn) as opened:
        yield opened


def test_a_step_that_waits_is_told_from_one_that_ends(stage):
    assert stage.step("a", "begin; select machserial.register_serial('X', 'P')") is not None
    assert stage.step("b", "select machserial.register_serial('X', 'P')") is None
    assert stage.waits_for("b") == {"a"}
    with pytest.raises(Stuck):
        stage.step("b", "select 1")
    stage.step("a", "commit")
    outcome = stage.finish("b")
    assert (outcome.sqlstate, outcome.waited_for) == ("23505", {"a"})


def test_a_deadlock_is_seen(stage):
    for name, number in (("a", "X"), ("b", "Y")):
        stage.step(name, f"begin; select machserial.register_serial('{number}', 'P')")
    for name, number in (("a", "Y"), ("b", "X")):
        stage.step(name, f"select machserial.register_serial('{number}', 'P')")
    assert sorted([stage.finish("a").sqlstate or "", stage.finish("b").sqlstate or ""]) == ["", "40P01"]


def test_a_statement_stops_at_each_gate(stage):
    stage.close_gates("a")
    assert stage.step("a", "select machserial.register_serials(array['X', 'Y'], 'P')") is None
    stops = 1
    while stage.go_on("a") is None:
        assert stage.is_at_gate("a")
        stops += 1
    # Before the statement, for each row, after it on both sides of the triggers of machserial.
    assert (stops, stage.result("a").sqlstate) == (5, None)


def test_a_walk_can_be_taken_again(house):
    played = house(PARENTS, CHILDREN)
    verbs = {verb.name: verb for verb in PARENTS.verbs}
    pair = {"a": verbs["insert"], "b": verbs["delete the part"]}
    first = played.walk(pair, by_chance(random.Random(3)))
    again = played.walk(pair, in_order(first.order))
    assert again.order == first.order
    assert [again.outcomes[name].sqlstate for name in "ab"] == [first.outcomes[name].sqlstate for name in "ab"]
