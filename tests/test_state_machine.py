"""All verbs in random order agree with a model of the contract; make torture goes on for longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from servers import Server
from state_machine import SABOTAGE, Cloned, Database, Rolled, play
from support import mostly_slow

# The same examples each time.
SEED = 7
# Of the contract; a machine that no longer came to one of them would show nothing about it.
MAIN_VERBS = {
    "generate", "register_serials", "insert", "update", "retire_serial", "resolve_conflict", "receive_vendor_serials",
    "accept_vendor_serial", "create_placeholders", "assign_placeholders", "split", "transform", "fire",
    "allocate_block", "report_block", "reset_counter", "revise_format",
}  # fmt: skip


@pytest.fixture
def made(server: Server) -> Iterator[Callable[..., Database]]:
    databases = []

    def make(kind: type[Database], sabotage: str | None = None) -> Database:
        databases.append(kind(server, sabotage))
        return databases[-1]

    yield make
    for database in databases:
        database.close()


def test_database_and_model_agree(made):
    database = made(Rolled)
    found = play(database, SEED, examples=35)
    assert found is None, found
    carried_out = {verb for verb, code in database.tally if code is None}
    assert carried_out >= MAIN_VERBS, f"not tried: {MAIN_VERBS - carried_out}"
    assert {code for _, code in database.tally} >= {"22023", "23503", "23505", "55000", "P0002", "2200H"}


def test_they_agree_over_commits_rollbacks_and_seals(made):
    database = made(Cloned)
    found = play(database, SEED, examples=10)
    assert found is None, found
    # maintain() seals as well.
    assert database.tally["seal_audit", None] + database.tally["maintain", None] > 0


@pytest.mark.parametrize("what", mostly_slow(SABOTAGE, list(SABOTAGE)[::3]))
def test_they_would_have_disagreed(made, what):
    assert play(made(Rolled, SABOTAGE[what]), SEED, examples=40, shrinks=False), f"not noticed: {what}"
