"""The list of verbs is whole, and what it says can be called."""

from __future__ import annotations

import re

import psycopg
import pytest
from support import column
from verbs import ELSEWHERE, LOOK_UPS, VERBS, Verb, furnish

ONE_MODE = True

PUBLIC_WRITERS = """
select p.proname from pg_proc as p
where
    p.pronamespace = 'machserial'::regnamespace and p.proname !~ '^_' and p.provolatile = 'v'
    and p.prorettype <> 'trigger'::regtype
"""


def functions_called(verb: Verb) -> set[str]:
    return set(re.findall(r"machserial\.(\w+)\(", verb.call))


def test_every_public_function_that_writes_is_a_verb(connection: psycopg.Connection) -> None:
    called = set().union(*map(functions_called, VERBS))
    assert set(column(connection, PUBLIC_WRITERS)) - called == set(ELSEWHERE)


def test_a_verb_has_one_name() -> None:
    names = [verb.name for verb in (*VERBS, *LOOK_UPS)]
    assert sorted(set(names)) == sorted(names)


def test_every_call_succeeds(connection: psycopg.Connection) -> None:
    furnish(connection)
    for number, verb in enumerate((*VERBS, *LOOK_UPS)):
        with connection.transaction(force_rollback=True):
            try:
                connection.execute(verb.prepare(connection, number, 3))
            except psycopg.Error as error:
                pytest.fail(f"{verb.name}: {error}")
