"""One failover under writers of every kind, and one restore of a backup that is older than what has left."""

from __future__ import annotations

import pytest
from torture.failover import enter_again, highest_of, issued_again
from torture.ledger import Attempt
from torture.run import Run


@pytest.mark.slow
def test_it_holds(torture):
    run = torture.holds("failover", cycles=1)
    assert run.counts["acknowledged"] > 50


def attempt(*serials: tuple, blocks: tuple = ()) -> Attempt:
    facts = [["serial", key, ["ACTIVE", number, "PUMP", "DEFAULT", False, "own"]] for key, number in serials]
    facts += [["block", key, ["OPEN", first, last, last - first + 1, []]] for key, first, last in blocks]
    return Attempt("1-1", ["generate"], facts, outcome="acknowledged")


def test_the_highest_numbers_of_the_ledgers():
    """Of each counter one, blocks included; what no counter gives is none."""
    left = [
        attempt((1, "S000000009"), (2, "S000000010"), (3, "N-1-1-1"), (4, "EAST-20261126-0000007")),
        attempt((5, "DEFAULT-20261126-0000003"), (6, "EAST-20261127-0000001"), (7, "RABCDEFGHIJKL")),
        attempt((8, "B000000004"), blocks=((1, 2, 30),)),
    ]
    assert highest_of(left) == {
        ("SEQUENCE", ""): "S000000010",
        ("DAILY", "EAST"): "EAST-20261127-0000001",
        ("DAILY", "DEFAULT"): "DEFAULT-20261126-0000003",
        ("BLOCKS", ""): "B000000030",
    }


def test_what_is_issued_again_is_found():
    run = Run("failover", 1, 10)
    issued_again(run, [attempt((1, "S000000009"))], [attempt((1, "S000000010"))], 0)
    assert run.findings == []
    issued_again(run, [attempt((1, "S000000009"))], [attempt((2, "S000000009"))], 0)
    assert "issued again, 1: ('S000000009'" in run.findings[0].text
    run.folder.rmdir()


@pytest.mark.own_database
def test_numbers_that_no_counter_gives_are_entered_again(connection):
    connection.execute("create schema shop create table done (token text primary key)")
    connection.execute("select machserial.register_part('PUMP', 'MACHINE')")
    facts = enter_again(connection, [attempt((1, "BY HAND"), (2, "S000000009"))])
    assert [value[1] for _, _, value in facts] == ["BY HAND"]
    assert connection.execute("select serial_number from machserial.serials").fetchall() == [("BY HAND",)]
