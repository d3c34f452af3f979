"""Objects that an intruder has planted before machserial comes, or before it makes the object itself: nothing of his is
adopted, nothing of his runs with another's rights.

The intruder may make schemas in the database, and objects in the schema public. Where a test says so he has been given
more by mistake: CREATE on the schema machserial.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import psycopg
import pytest
from conftest import BUILD, MODES
from intruders import INTRUDER, KEEPER, TRAPS, day, fortress, garrison, lay_traps, night, sprung
from psycopg import errors, sql
from servers import Server
from snapshot import catalog, differences
from support import call, column, generated, make_format, make_part, value

EVIL_PATH = f"{TRAPS}, public, pg_catalog, machserial"


@pytest.fixture
def place(server: Server) -> Iterator[SimpleNamespace]:
    with fortress(server, "planted") as found:
        yield found


def plant_everywhere(place: SimpleNamespace) -> None:
    """Traps in a schema of the intruder's and in public, and every session's search_path leads into them first."""
    place.intruder.execute(f"create schema {TRAPS}")
    lay_traps(place.intruder)
    # What public can be made to hold in any database: only what fits better than what PostgreSQL has.
    place.intruder.execute(
        f"create function public.format(text, text) returns text language plpgsql as $$ begin "
        f"perform {TRAPS}.spring('public.format'); return pg_catalog.format($1, $2); end $$"
    )
    place.server.execute(f"alter database {place.database} set search_path = {EVIL_PATH}")
    place.keeper.execute(f"set search_path = {EVIL_PATH}")


def unplanted(server: Server) -> dict[str, list[str]]:
    """The catalog of a database in which nobody has planted anything."""
    server.execute(f"create database unplanted owner {KEEPER}")
    with psycopg.connect(server.dsn("unplanted", user=KEEPER), autocommit=True) as clean:
        garrison(SimpleNamespace(keeper=clean), "plain")
        found = catalog(clean)
    server.execute("drop database unplanted")
    return found


def test_what_lies_in_the_search_path_is_never_run(place: SimpleNamespace, server: Server) -> None:
    """He wants to run as the owner: by a name that the bundle, a migration, a view or a function looks up."""
    plant_everywhere(place)
    garrison(place, "plain")
    day(place.keeper)
    assert night(place.keeper) == []
    with place.keeper.transaction():
        place.keeper.execute((BUILD / "machserial.sql").read_text())
    place.keeper.execute("select machserial.migrate()")
    assert sprung(place.superuser) == 0
    # Negative control: the traps do work, and one function without its search_path would step on them.
    place.keeper.execute("alter function machserial.find_serial(pg_catalog.text) reset search_path")
    call(place.keeper, "find_serial", serial_number="X")
    assert sprung(place.superuser) > 0


def test_what_lies_in_the_search_path_changes_nothing(place: SimpleNamespace, server: Server) -> None:
    """He wants that what is made is another: another type behind a column, another operator in an index, or to run
    while the extension's script does."""
    plant_everywhere(place)
    garrison(place, "extension")
    assert sprung(place.superuser) == 0
    place.keeper.execute("set search_path = public")
    assert differences(unplanted(server), catalog(place.keeper)) == []


PLANTED_BEFOREHAND = {
    "a schema": "select 1",
    "a function": "create function machserial.version() returns text language sql as $$ select 'mine' $$",
    "an overload": "create function machserial.generate(text, integer) returns text language sql as $$ select 'x' $$",
    "a table": "create table machserial.sites (id text)",
    "a table of a later month": "create table machserial.audit_events_2031_01 (id bigint)",
    "a view": "create view machserial.attachments as select 1 as one",
    "a sequence": "create sequence machserial.counter_1",
    "a type": "create type machserial.site as (id text, name text)",
    "a domain": "create domain machserial.serial as text",
    "a renderer": "create function machserial._render_1(bigint[], bigint[], timestamp, text, text, jsonb) "
    "returns text[] language sql as $$ select array['x'] $$",
}


@pytest.mark.parametrize("mode", MODES)
def test_a_schema_of_his_is_not_moved_into(place: SimpleNamespace, mode: str) -> None:
    """He wants to own the schema, or an object in it, when the data come."""
    for statement in PLANTED_BEFOREHAND.values():
        place.intruder.execute("create schema machserial")
        place.intruder.execute(statement)
        for victim in (place.keeper, place.superuser):
            with pytest.raises(psycopg.Error) as raised:
                garrison(SimpleNamespace(keeper=victim), mode)
            assert raised.value.sqlstate in ("42501", "42723", "42710", "42P07"), raised.value
        place.intruder.execute("drop schema machserial cascade")
    assert column(place.superuser, "select 1 from pg_extension where extname = 'machserial'") == []
    # Negative control: nothing else has stopped it.
    garrison(place, mode)


def test_only_the_owner_may_plant_in_the_schema(place: SimpleNamespace) -> None:
    """He wants to put something into the schema between its installation and migrate(), or at any later time."""
    place.keeper.execute("create extension machserial")
    for statement in PLANTED_BEFOREHAND.values():
        if statement != "select 1":
            with pytest.raises(errors.InsufficientPrivilege):
                place.intruder.execute(statement)
    with pytest.raises(errors.InsufficientPrivilege):
        place.intruder.execute("select machserial.migrate()")
    place.keeper.execute("select machserial.migrate()")


# Default privileges.


def test_default_privileges_open_nothing_to_everybody(place: SimpleNamespace) -> None:
    """He wants that what the owner makes is everybody's: by what the owner's role or schema grants by default."""
    place.keeper.execute("alter default privileges grant all on tables to public")
    place.keeper.execute("alter default privileges grant all on sequences to public")
    place.keeper.execute("alter default privileges grant all on functions to public")
    place.keeper.execute("alter default privileges grant all on schemas to public")
    garrison(place, "plain")
    day(place.keeper)
    everybodys = """
        select format('%s on %s', a.privilege_type, o.name)
        from (
            select p.oid::regprocedure::text as name, coalesce(p.proacl, acldefault('f', p.proowner)) as acl
            from pg_proc as p where p.pronamespace = 'machserial'::regnamespace
            union all
            select c.oid::regclass::text, c.relacl from pg_class as c
            where c.relnamespace = 'machserial'::regnamespace and c.relkind <> 'c'
            union all
            select 'schema', n.nspacl from pg_namespace as n where n.nspname = 'machserial'
        ) as o
        cross join lateral aclexplode(o.acl) as a
        where a.grantee = 0
    """
    # But for what policies call in everybody's name.
    listed = """
        select format('EXECUTE on %s', l.object) from machserial._listed_privileges() as l where l.role = 'public'
    """
    assert sorted(column(place.superuser, everybodys)) == sorted(column(place.keeper, listed))


# Somebody has granted him CREATE on the schema machserial.


@pytest.fixture(scope="module")
def opened_once(server: Server) -> Iterator[SimpleNamespace]:
    with fortress(server, "opened") as place:
        garrison(place, "extension")
        place.intruder.execute(f"create schema {TRAPS}")
        lay_traps(place.intruder)
        place.keeper.execute(f"grant usage, create on schema machserial to {INTRUDER}")
        # So that he can tell which columns the trail has.
        place.keeper.execute(f"grant select on machserial.audit_events to {INTRUDER}")
        yield place


@pytest.fixture
def opened(opened_once: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """machserial is installed, and the intruder may make objects in its schema; they go with the test."""
    yield opened_once
    planted = """
        select format('drop %s %s cascade', case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table'
        end,
            c.oid::regclass)
        from pg_class as c
        where c.relnamespace = 'machserial'::regnamespace and c.relowner = 'intruder'::regrole and c.relkind in ('r',
        'v', 'S')
        union all
        select format('drop function %s', p.oid::regprocedure) from pg_proc as p
        where p.pronamespace = 'machserial'::regnamespace and p.proowner = 'intruder'::regrole
    """
    for statement in column(opened_once.superuser, planted):
        opened_once.superuser.execute(statement)


def test_what_he_planted_before_an_update_stops_the_update(place: SimpleNamespace) -> None:
    """He wants that create or replace takes over his function, and leaves it his to change."""
    garrison(place, "plain")
    before = catalog(place.superuser)
    place.keeper.execute(f"grant usage, create on schema machserial to {INTRUDER}")
    place.intruder.execute("create function machserial.next_one() returns text language sql as $$ select 'mine' $$")
    for victim in (place.keeper, place.superuser):
        with pytest.raises(errors.InsufficientPrivilege) as raised, victim.transaction():
            victim.execute((BUILD / "machserial.sql").read_text())
        assert "next_one() is owned by intruder" in raised.value.diag.message_detail
    place.intruder.execute("drop function machserial.next_one()")
    place.keeper.execute(f"revoke all on schema machserial from {INTRUDER}")
    with place.keeper.transaction():
        place.keeper.execute((BUILD / "machserial.sql").read_text())
    assert differences(before, catalog(place.superuser)) == []


def test_a_renderer_that_he_has_planted_is_not_called(opened: SimpleNamespace) -> None:
    """He wants that the next format writes its numbers with his function, which runs as the owner."""
    make_part(opened.keeper)
    first = make_format(opened.keeper, "first", "A{SEQ:4}").id
    next_id = first + 1
    opened.intruder.execute(
        sql.SQL(
            "create function machserial.{}(bigint[], bigint[], timestamp, text, text, jsonb) returns text[] "
            "language plpgsql as $$ begin perform evil.spring('renderer'); return array['X']; end $$"
        ).format(sql.Identifier(f"_render_{next_id}"))
    )
    with pytest.raises(errors.DuplicateFunction):
        make_format(opened.keeper, "second", "B{SEQ:4}")
    # Nor one that fits the present renderer's name, and its arguments in another way.
    opened.intruder.execute(
        f"create function machserial._render_{first}(bigint[], bigint[], timestamptz, text, text, jsonb) returns "
        f"text[] "
        "language plpgsql as $$ begin perform evil.spring('renderer'); return array['X']; end $$"
    )
    assert generated(opened.keeper, format="first") == ["A0001"]
    assert sprung(opened.superuser) == 0


def test_a_counter_that_he_has_planted_is_not_drawn_from(opened: SimpleNamespace) -> None:
    """He wants that the next format counts in his sequence, which he can set back."""
    make_format(opened.keeper, "before it", "A{SEQ:4}")
    next_id = value(opened.keeper, "select max(id) + 1 from machserial.counters")
    opened.intruder.execute(f"create sequence machserial.counter_{next_id}")
    with pytest.raises(errors.DuplicateTable):
        make_format(opened.keeper, "behind it", "B{SEQ:4}")


def test_a_month_that_he_has_planted_is_no_month_of_the_trail(opened: SimpleNamespace) -> None:
    """He wants that events go into a table of his, or that his table becomes a month of the trail."""
    attached = "select to_char(p.month, 'YYYY-MM') from machserial._audit_partitions() as p order by 1"
    opened.intruder.execute("create table machserial.audit_events_2031_01 (like machserial.audit_events)")
    before = column(opened.superuser, attached)
    with pytest.raises(psycopg.Error) as raised:
        call(opened.superuser, "restore_archived", month="2031-01-01")
    assert raised.value.sqlstate == "42501", raised.value
    assert column(opened.superuser, attached) == before
    # Nor is it a month that is there already: whoever looks ahead is told.
    with pytest.raises(errors.InsufficientPrivilege, match="not a month of the audit trail"):
        opened.keeper.execute("select machserial._make_audit_partition('2031-01-01')")


def test_an_archived_month_that_he_has_planted_is_not_read(opened: SimpleNamespace) -> None:
    """He wants that whoever verifies the trail reads a view of his, which runs a function of his as the owner."""
    opened.intruder.execute(
        "create view machserial.audit_events_2026_01_archived as "
        "select 1::bigint as transaction_id, 1::bigint as id, evil.spring('view')::text as event_type, "
        "null::text as event_source, null::bigint as serial_id, null::text as serial_number, null::text as part_id, "
        "null::text as site_id, null::text as performed_by, null::text as db_user, now() as performed_at, "
        "null::text as reason, null::jsonb as details"
    )
    opened.intruder.execute("grant select on machserial.audit_events_2026_01_archived to public")
    for who in (opened.keeper, opened.superuser):
        call(who, "verify_audit", full=True)
        call(who, "audit_months")
        assert value(who, "select machserial.drop_archived('2026-01-01')") is False
    assert sprung(opened.superuser) == 0


def test_a_check_that_he_has_planted_is_not_run_by_health(opened: SimpleNamespace) -> None:
    """He wants that whoever asks how the database is runs a function of his."""
    opened.intruder.execute(
        "create function machserial._check_mine() returns machserial.health_result language plpgsql as $$ begin "
        "perform evil.spring('check'); return null; end $$"
    )
    for who in (opened.keeper, opened.superuser):
        found = {row.name: row for row in call(who, "health")}
        assert "mine" not in found
        # It is told, by its name and its maker.
        assert found["privileges"].status == "CRITICAL"
        assert "_check_mine" in found["privileges"].message
    assert sprung(opened.superuser) == 0


def test_a_numbering_scheme_that_he_has_planted_is_not_asked(opened: SimpleNamespace) -> None:
    """He wants that a vendor's receipt runs a function of his as the owner, in the place of machserial_plpython's."""
    opened.intruder.execute(
        "create function machserial.stdnum_are_valid(kind text, numbers text[]) returns boolean[] language plpgsql "
        "as $$ begin perform evil.spring('stdnum'); return null; end $$"
    )
    opened.intruder.execute("grant execute on function machserial.stdnum_are_valid(text, text[]) to public")
    with pytest.raises(psycopg.Error) as raised:
        call(opened.keeper, "set_vendor_rule", vendor_name="V", stdnum_kind="ean")
    assert raised.value.sqlstate == "0A000"
    assert sprung(opened.superuser) == 0
