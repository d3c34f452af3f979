"""Plans outlive the tables that they were made for: none of them may read a table that has grown as a whole."""

from __future__ import annotations

import os
from collections.abc import Callable

import psycopg
import pytest
from planner_settings import inherited
from plans import OLD_EXAMINATION, Session, add_entries, add_units, empty, outgrown
from verbs import LOOK_UPS, VERBS, furnish

ONE_MODE = True

ROWS_GROWN = int(os.environ.get("MACHSERIAL_TEST_ROWS", "1000000"))
# After five calls PostgreSQL may keep a plan that knows no arguments.
UNTIL_KEPT = 6
FEW, SOME, MANY = 2, 3, 300
# Whatever a verb does for a row, with all indexes and events.
MOST_PAGES_A_CALL, MOST_PAGES_A_ROW = 400, 200

STEADY = [verb for verb in (*VERBS, *LOOK_UPS) if not verb.reads_all]


@pytest.fixture
def session(connect: Callable[..., psycopg.Connection]) -> Callable[[], Session]:
    return lambda: Session(connect())


def whole_readings(session: Session, rows: int) -> set[str]:
    """Of plans that are kept."""
    found = set()
    for verb in (one for one in STEADY if not one.is_planned_anew):
        session.call(verb, rows, UNTIL_KEPT)
        found |= session.whole_readings(verb, rows)
    return found


def pages(session: Session) -> dict[str, int]:
    return {verb.name: session.pages(verb, SOME) for verb in STEADY}


def test_no_plan_outgrows_its_tables(connection: psycopg.Connection, session: Callable[[], Session]) -> None:
    furnish(connection)
    connection.commit()

    # Made while there are a few rows, and that is known: a whole reading seems to cost least.
    first = session()
    for verb in STEADY:
        first.call(verb, FEW)
    connection.execute("analyze")
    connection.commit()
    small = session()
    assert whole_readings(small, FEW) == set()
    assert set().union(*(small.loops_in_loops(verb, MANY) for verb in STEADY)) == set()
    # Nor where a hash join, which saves many a plan from that, is not what the planner prefers.
    unhashed = session()
    unhashed.connection.execute("set enable_hashjoin = off")
    assert set().union(*(unhashed.loops_in_loops(verb, MANY) for verb in STEADY)) == set()

    # Made while there is nothing, and nothing is known.
    empty(connection)
    old = session()
    assert whole_readings(old, SOME) == set()
    before = pages(old)

    add_units(connection, ROWS_GROWN)
    assert outgrown(before, pages(old)) == []
    add_entries(connection, ROWS_GROWN)
    connection.execute("analyze")
    connection.commit()
    assert outgrown(before, pages(old)) == []

    # Made for many rows of large tables.
    new = session()
    most = {verb.name: new.pages(verb, MANY, times=1) for verb in STEADY}
    assert {name for name, pages in most.items() if pages > MOST_PAGES_A_CALL + MANY * MOST_PAGES_A_ROW} == set()
    assert outgrown(before, pages(new)) == []

    # All of this would have noticed what report_block() was.
    connection.execute(OLD_EXAMINATION)
    connection.commit()
    [report] = [verb for verb in VERBS if verb.name == "report_block"]
    assert any("examine_usages()" in one for one in old.whole_readings(report, SOME))
    assert outgrown(before, {report.name: old.pages(report, SOME)}) != []


INHERITING = """
create function machserial.report() returns void
language plpgsql
{own}
as $$
begin
    perform machserial._use();
end
$$;

create function machserial._use() returns void language plpgsql as $$
begin
    insert into machserial.usages (id) values (1);
end
$$;

create function machserial._examine() returns trigger
language plpgsql
{of_trigger}
as $$
begin
    perform from new_usages as n inner join machserial.serials as s on s.id = n.id;
end
$$;
"""
FIRING = """
create trigger usages_are_examined
after insert or update on machserial.usages
referencing new table as new_usages
for each statement execute function machserial._examine()
"""


@pytest.mark.parametrize(
    ("own", "of_trigger", "is_found"),
    [
        ("set enable_nestloop = off", "", True),
        ("set enable_nestloop = off", "set enable_seqscan = off", True),
        ("set enable_nestloop = off", "set enable_nestloop = on", False),
        ("set jit = off", "", False),
    ],
)
def test_a_setting_that_a_trigger_inherits_is_found(own: str, of_trigger: str, is_found: bool) -> None:
    assert bool(list(inherited(INHERITING.format(own=own, of_trigger=of_trigger), FIRING))) == is_found
