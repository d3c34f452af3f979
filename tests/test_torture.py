"""The frame of make torture: what it says, how it ends, and that a control that is not noticed is a finding."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result
from torture import Part, Run, parts
from torture.__main__ import main
from torture.run import derived_seed

ONE_MODE = True


def sound(run: Run) -> None:
    for _ in run.cycles():
        run.count(operations=2, acknowledged=1)


def faulty(run: Run) -> None:
    run.finding("a number twice", statement="select 1")
    (run.folder / "ledger").write_text("x")


def breaks_off(run: Run) -> None:
    raise OSError("no disk")


@pytest.fixture
def torment(monkeypatch, tmp_path):
    """torment(parts, *arguments): python -m torture with these parts."""

    def run(known: dict[str, Part], *arguments: str) -> Result:
        monkeypatch.setattr("torture.__main__.parts", lambda: known)
        monkeypatch.setattr("torture.__main__.EVIDENCE", tmp_path)
        return CliRunner().invoke(main, ["--minutes", "0.1", "--cycles", "3", *arguments])

    return run


def test_nothing_is_found(torment):
    result = torment({"a": Part("A.", sound, {"it is broken": faulty})}, "--seed", "5")
    assert result.exit_code == 0, result.output
    assert "SEED=5" in result.output
    assert "a: noticed that it is broken: a number twice" in result.output
    assert "1 of 1" in result.output
    assert [cell for cell in ("3", "6") if cell not in result.output] == []


def test_a_finding(torment, tmp_path):
    result = torment({"a": Part("A.", faulty), "b": Part("B.", sound)}, "--seed", "5")
    assert result.exit_code == 1
    assert "a: a number twice" in result.output
    assert "statement: select 1" in result.output
    assert "make torture SEED=5 ONLY=a,b" in result.output
    assert (tmp_path / f"a-{derived_seed(5, 'a')}" / "ledger").read_text() == "x"


def test_a_control_that_is_not_noticed(torment):
    result = torment({"a": Part("A.", sound, {"it is broken": lambda run: None})})
    assert result.exit_code == 1
    assert "the control 'it is broken' was not noticed" in result.output


@pytest.mark.parametrize("part", [Part("A.", breaks_off), Part("A.", sound, {"it is broken": breaks_off})])
def test_what_breaks_off_is_a_finding(torment, part):
    result = torment({"a": part})
    assert result.exit_code == 1
    assert "broke off" in result.output
    assert "no disk" in result.output


def test_a_part_that_cannot_be_run_here(torment):
    result = torment({"a": Part("A.", breaks_off, needs=lambda: "install it")})
    assert result.exit_code == 0
    assert "a: skipped: install it" in result.output


def test_only_some_parts(torment):
    known = {"a": Part("A.", breaks_off), "b": Part("B.", sound)}
    assert torment(known, "--only", "b").exit_code == 0
    assert torment(known, "--only", "b, a").exit_code == 1
    result = torment(known, "--only", "c")
    assert result.exit_code == 2
    assert "no part c; there are a, b" in result.output


def test_controls_alone(torment):
    result = torment({"a": Part("A.", breaks_off, {"it is broken": faulty})}, "--controls-only")
    assert result.exit_code == 0, result.output


def test_chance_is_the_same_for_the_same_seed():
    one, two, three = (Run("a", seed, 1) for seed in (7, 7, 8))
    try:
        assert one.dice(3).random() == two.dice(3).random()
        assert len({run.dice(cycle).random() for run in (one, three) for cycle in (1, 2)}) == 4
    finally:
        for run in (one, two, three):
            run.folder.rmdir()


def test_every_part_says_what_it_is_and_has_a_control():
    for name, part in parts().items():
        assert part.title, name
        assert part.controls, name
