"""Reading and writing another site's data from a role that is limited to its own: by everything that it may read, by
every
function that it may call, by what errors, notices, plans and statistics tell.

The intruder is an insider: he has heard ids and one number of the foreign site, KNOWN-B. Every other text there has the
word Secret in it; none of it may come out. What cannot be hidden is in docs/security.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import psycopg
import pytest
from intruders import FOREIGN, OWN, ROLES, SECRET, fortress, garrison, man, settle
from psycopg import errors, sql
from support import call, column, generated, value

# Long, and nothing in it depends on how machserial was installed.
ONE_MODE = True


@pytest.fixture(scope="module")
def place(server, mode) -> Iterator[SimpleNamespace]:
    with fortress(server, "sites") as found:
        garrison(found, mode)
        man(found)
        found.heard = settle(found.keeper)
        found.everybody = {
            name: found.connect(name, options="-c statement_timeout=2s -c lock_timeout=200ms")
            for role in ROLES
            for name in (role, f"limited_{role}")
        }
        yield found


@pytest.fixture
def operator(place: SimpleNamespace) -> psycopg.Connection:
    return place.everybody["limited_operator"]


def told(connection: psycopg.Connection, query: object, parameters: object = None) -> str:
    """All that a statement lets its caller know: rows, notices, every field of an error. It is undone."""
    heard: list[str] = []

    def hear(diagnostics: psycopg.errors.Diagnostic) -> None:
        heard.append(
            " ".join(
                str(getattr(diagnostics, field))
                for field in ("sqlstate", "message_primary", "message_detail", "message_hint", "context", "table_name",
                              "column_name", "constraint_name", "internal_query")
            )
        )  # fmt: skip

    connection.add_notice_handler(hear)
    try:
        with connection.transaction(force_rollback=True):
            cursor = connection.execute(query, parameters)
            heard.append(str(cursor.fetchall()) if cursor.description else "")
    except psycopg.Error as error:
        hear(error.diag)
    finally:
        connection.remove_notice_handler(hear)
    return "\n".join(heard)


def relations(place: SimpleNamespace) -> list[str]:
    return column(
        place.superuser,
        "select c.oid::regclass::text from pg_class as c "
        "where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p', 'v', 'S') order by 1",
    )


# What an argument is given, by its name: what was heard of the foreign site, and what makes a call go through.
def arguments_about(heard: SimpleNamespace) -> dict[str, object]:
    return {
        **dict.fromkeys(("serial_id", "source_serial_id", "target_serial_id", "internal_serial_id"), heard.serial),
        **dict.fromkeys(("keep_serial_id", "retired_serial_id"), heard.generated),
        **{key: [heard.serial, heard.generated] for key in ("serial_ids", "source_serial_ids", "target_serial_ids")},
        "vendor_serial_id": heard.vendor_serial, "vendor_serial_ids": [heard.vendor_serial],
        "placeholder_id": heard.placeholder, "placeholder_ids": [heard.placeholder], "block_id": heard.block,
        "event_id": heard.event, "after": heard.event, "counter_id": heard.counters[0], "conflict_id": heard.conflict,
        "serial_number": heard.number, "serial_numbers": [heard.number], "numbers": [heard.number],
        "used": [heard.number],
        "site_id": FOREIGN, "part_id": "P", "part_type": "T", "format": "site", "format_id": 3, "name": "own",
        "request_id": heard.request, "quantity": 1, "pattern": "{SITE}{SEQ:9}", "scopes": ["ENTERPRISE", "SITE",
        "PART_TYPE"],
        "operation_code": "OP", "routing_sequence": 1, "trigger_type": "WORK_ORDER_CREATE", "trigger_id": 1,
        "assignment_type": "SYSTEM_GENERATED", "holder": "x", "page_size": 100, "max_depth": 9, "full": True,
        "reason": "x",
        "resolution": "KEEP", "on_conflict": "RECORD", "source": "MANUAL", "role": "limited_operator",
        "month": "2026-11-01",
        "relation": "machserial.serials", "algorithm": "luhn", "context": "{}", "period": "", "at": "now",
        "acting": "keeper",
    }  # fmt: skip


FUNCTIONS = """
    select
        p.proname, array(select format_type(t.oid, null) from unnest(p.proargtypes) with ordinality as t (oid, n)
        order by t.n),
        array(
            select a.name from unnest(p.proargnames) with ordinality as a (name, n)
            where p.proargmodes is null or p.proargmodes[a.n] in ('i', 'b', 'v') order by a.n
        )
    from pg_proc as p
    where
        p.pronamespace = 'machserial'::regnamespace and p.prorettype <> 'trigger'::regtype
        and has_function_privilege(%s, p.oid, 'execute')
        -- What is private and runs with the caller's own rights gets no further than his statements.
        and (p.prosecdef or not starts_with(p.proname, '_'))
    order by p.oid
"""


def calls(place: SimpleNamespace, role: str) -> Iterator[tuple[str, sql.Composed, list]]:
    """Every function that the role may call, public or not, with what was heard; with the site and without it."""
    known = arguments_about(place.heard)
    for name, types, names in place.superuser.execute(FUNCTIONS, (role,)).fetchall():
        spellings = [set(), {"site_id"}] if "site_id" in names else [set()]
        for left_out in spellings:
            given, pieces = [], []
            for position, kind in enumerate(types):
                argument = names[position] if position < len(names) else ""
                fits = argument in known and argument not in left_out
                fits = fits and isinstance(known[argument], list) == kind.endswith("[]")
                pieces.append(f"%s::{kind}" if fits else f"null::{kind}")
                given += [known[argument]] if fits else []
            query = sql.SQL("select x::text from machserial.{}({}) as x").format(
                sql.Identifier(name), sql.SQL(", ").join(map(sql.SQL, pieces))
            )
            yield name, query, given


# They ask the server, and no row of a site.
ABOUT_THE_SERVER = {"health", "health_check", "ready", "write_test", "migration_script", "pending_migrations"}


def foreign_rows(place: SimpleNamespace) -> list[tuple]:
    """Everything that there is of the foreign site, to see that nobody has touched it."""
    query = """
        select t.relname, md5(string_agg(t.line, e'\n' order by t.line)) from (
            select 'serials' as relname, s::text as line from machserial.serials as s where s.site_id = %(site)s
            union all select 'vendor', v::text from machserial.vendor_serials as v where v.site_id = %(site)s
            union all select 'placeholders', p::text from machserial.late_assignment_placeholders as p where
            p.site_id = %(site)s
            union all select 'conflicts', c::text from machserial.serial_conflicts as c where c.site_id = %(site)s
            union all select 'blocks', b::text from machserial.number_blocks as b where b.site_id = %(site)s
            union all select 'usages', u::text from machserial.block_usages as u
            inner join machserial.number_blocks as b on b.id = u.block_id where b.site_id = %(site)s
            union all select 'edges', e::text from machserial.serial_propagations as e
            inner join machserial.serials as s on s.id in (e.parent_serial_id, e.child_serial_id) and s.site_id =
            %(site)s
            union all select 'events', e::text from machserial.audit_events as e where e.site_id = %(site)s
            union all select 'site', s::text from machserial.sites as s where s.id = %(site)s
            union all select 'requests', r::text from machserial.requests as r where r.site_id =
            %(site)s
            union all select 'counters', c::text || coalesce(machserial._last_value(c.id)::text, '')
            from machserial.counters as c where c.site_id = %(site)s
        ) as t group by t.relname order by t.relname
    """
    return place.superuser.execute(query, {"site": FOREIGN}).fetchall()


def leaks(place: SimpleNamespace, name: str) -> list[str]:
    """Through which relations and functions a role learns what it must not."""
    connection = place.everybody[name]
    found = []
    for relation in relations(place):
        if SECRET in told(connection, f"select t::text from {relation} as t"):
            found.append(relation)
    for function, query, given in calls(place, name):
        if function not in ABOUT_THE_SERVER and SECRET in told(connection, query, given):
            found.append(function)
    return found


def test_nothing_of_the_foreign_site_is_told(place: SimpleNamespace) -> None:
    """He wants to read it: by every table and view, and by every function that he may call. An administrator who is
    limited may call all that the others may."""
    before = foreign_rows(place)
    assert leaks(place, "limited_admin") == []
    # Sequences know no rollback: neither were the foreign counters moved.
    assert foreign_rows(place) == before


def test_whoever_is_not_limited_is_told(place: SimpleNamespace) -> None:
    """Negative control: the same questions, asked by somebody who may."""
    found = set(leaks(place, "viewer"))
    assert {"machserial.serials", "machserial.audit_events", "machserial.blocks", "find_serial", "audit_trail"} <= found
    assert {"pending_placeholders", "pending_conflicts", "uniqueness_report"} <= found


def test_his_own_site_works(place: SimpleNamespace, operator: psycopg.Connection) -> None:
    """A wall without a door would pass the tests above."""
    with operator.transaction(force_rollback=True):
        made = call(operator, "generate", part_id="P", site_id=OWN, quantity=3, context={"work_order_id": "W"})
        assert len(made) == 3
        call(operator, "retire_serial", serial_id=made[0].serial_id, reason="x")
        block = call(operator, "allocate_block", format="site", quantity=2, holder="x", part_id="P", site_id=OWN)[0]
        numbers = [row[0] for row in call(operator, "block_serials", block_id=block.block_id)]
        assert len(call(operator, "report_block", block_id=block.block_id, used=numbers)) == 2
        waiting = call(operator, "create_placeholders", part_id="P", site_id=OWN)[0]
        assert call(operator, "assign_placeholder", placeholder_id=waiting.id)[0].status == "SERIALIZED"
        assert column(operator, "select distinct site_id from machserial.serials") == [OWN]


# Direct SQL.

WRITES = {
    "a serial": "insert into machserial.serials (serial_number, part_id, site_id) values ('X', 'P', 'SITE-B')",
    "a status": "update machserial.serials set status = 'RETIRED', status_reason = 'x' where id = {serial}",
    "a remark": "update machserial.serials set context = '{{}}' where serial_number = 'KNOWN-B'",
    "every serial": "update machserial.serials set status = 'INVALID', status_reason = 'x' where site_id = 'SITE-B'",
    "a receipt": "insert into machserial.vendor_serials (serial_number, vendor_name, part_id, site_id) "
    "values ('X', 'V', 'P', 'SITE-B')",
    "a receipt of a serial": "insert into machserial.vendor_serials (id, serial_number, vendor_name, part_id, site_id) "
    "values ({serial}, 'KNOWN-B', 'V', 'P', 'SITE-A')",
    "an acceptance": "update machserial.vendor_serials set status = 'ACTIVE' where id = {vendor_serial}",
    "a placeholder": "insert into machserial.late_assignment_placeholders (part_id, site_id) values ('P', 'SITE-B')",
    "what a placeholder got": "update machserial.late_assignment_placeholders set status = 'SERIALIZED', serial_id = "
    "{serial} "
    "where site_id = 'SITE-A' and status = 'PENDING'",
    "a foreign placeholder": "update machserial.late_assignment_placeholders set notes = 'x' where id = {placeholder}",
    "an edge to it": "insert into machserial.serial_propagations (propagation_type, parent_serial_id, child_serial_id, "
    "operation_code, routing_sequence) select 'TRANSFORM', min(id), {serial}, 'OP', 1 from machserial.serials",
    "an edge from it": "insert into machserial.serial_propagations (propagation_type, parent_serial_id, "
    "child_serial_id, "
    "operation_code, routing_sequence) select 'TRANSFORM', {serial}, max(id), 'OP', 1 from machserial.serials",
    "a note on an edge": "update machserial.serial_propagations set notes = 'x' where id = {edge}",
    "a conflict": "insert into machserial.serial_conflicts (serial_number, part_id, site_id, scopes, source) "
    "values ('KNOWN-B', 'P', 'SITE-B', '{{SITE}}', 'MANUAL')",
    "a conflict about a serial": "insert into machserial.serial_conflicts (serial_number, part_id, site_id, scopes, "
    "source, "
    "serial_id) values ('KNOWN-B', 'P', 'SITE-A', '{{SITE}}', 'MANUAL', {serial})",
    "a usage": "insert into machserial.block_usages (block_id, sequence_number) values ({block}, 7)",
    "a block": "update machserial.number_blocks set status = 'RETURNED' where id = {block}",
    "the site": "update machserial.sites set name = 'mine' where id = 'SITE-B'",
    "an end of the site": "delete from machserial.sites where id = 'SITE-B'",
}  # fmt: skip


@pytest.mark.parametrize("role", ["limited_operator", "limited_supervisor"])
def test_nothing_of_the_foreign_site_is_written(place: SimpleNamespace, role: str) -> None:
    """He wants to write to it, by SQL, under its own name or by what refers to it."""
    connection = place.everybody[role]
    before = foreign_rows(place)
    for what, statement in WRITES.items():
        try:
            with connection.transaction(force_rollback=True):
                changed = connection.execute(statement.format(**vars(place.heard))).rowcount
            assert changed == 0, what
        except psycopg.Error as error:
            assert error.sqlstate in ("42501", "23503", "55000", "22023"), f"{what}: {error}"
            assert SECRET not in told(connection, statement.format(**vars(place.heard))), what
    assert foreign_rows(place) == before


def test_what_is_not_there_and_what_is_not_his_look_the_same(
    place: SimpleNamespace, operator: psycopg.Connection
) -> None:
    """He wants to learn by the error whether an id, a site or a request exists."""
    missing = 10**12
    for function, argument, heard in (
        ("retire_serial", "serial_id", place.heard.serial),
        ("accept_vendor_serial", "vendor_serial_id", place.heard.vendor_serial),
        ("assign_placeholder", "placeholder_id", place.heard.placeholder),
        ("return_block", "block_id", place.heard.block),
        ("pass_through", "serial_id", place.heard.serial),
    ):
        more = {"retire_serial": {"reason": "x"}, "pass_through": {"operation_code": "OP", "routing_sequence": 1}}
        answers = []
        for number in (heard, missing):
            with pytest.raises(psycopg.Error) as raised, operator.transaction():
                call(operator, function, **{argument: number}, **more.get(function, {}))
            answers.append((raised.value.sqlstate, str(raised.value).replace(str(number), "N").split("CONTEXT")[0]))
        assert answers[0] == answers[1], function
    sites = [
        told(operator, "select machserial.generate('P', site_id => %s)", (site,)).replace(site, "N")
        for site in (FOREIGN, "SITE-Z")
    ]
    assert sites[0] == sites[1]


def test_a_number_that_is_taken_elsewhere(place: SimpleNamespace, operator: psycopg.Connection) -> None:
    """He wants to learn whose it is. That it is taken is all that a unique index can be made to tell."""
    call(place.keeper, "register_part", part_id="W", part_type="WIDE", scopes=["ENTERPRISE", "PART_TYPE"])
    taken = call(place.keeper, "register_serial", serial_number="WIDE-1", part_id="W", site_id=FOREIGN)[0].serial_id
    about = {"serial_number": "WIDE-1", "part_id": "W", "site_id": OWN}
    heard = [
        told(
            operator,
            "select machserial.register_serial(serial_number => 'WIDE-1', part_id => 'W', site_id => 'SITE-A')",
        ),
        told(
            operator,
            "insert into machserial.serials (serial_number, part_id, site_id) values ('WIDE-1', 'W', 'SITE-A')",
        ),
        told(operator, "select machserial.receive_vendor_serial('WIDE-1', 'V', 'W', site_id => 'SITE-A')"),
    ]
    for answer in heard:
        assert answer.startswith("23505"), answer
    with operator.transaction(force_rollback=True):
        heard.append(str(call(operator, "check_uniqueness", **about)))
        heard.append(str(call(operator, "claims_of", serial_numbers=["WIDE-1"], part_id="W", site_id=OWN)))
        heard.append(str(call(operator, "register_serial", on_conflict="RECORD", **about)))
        heard.append(str(call(operator, "pending_conflicts")))
        heard.append(str(call(operator, "check_uniqueness", **{**about, "serial_number": "WIDE-I"})))
    for answer in heard:
        assert FOREIGN not in answer and f"serial {taken} " not in answer and f"[{taken}]" not in answer, answer
        assert "WIDE-1" not in heard[-1].replace("WIDE-I", "")


def test_another_ones_request(place: SimpleNamespace, operator: psycopg.Connection) -> None:
    """He wants the serials of another's request by asking it again, or what it asked for."""
    for site in (OWN, FOREIGN):
        answer = told(
            operator,
            "select machserial.generate('P', 3, 'shared', site_id => %s, request_id => %s)",
            (site, place.heard.request),
        )
        assert SECRET not in answer and "KNOWN" not in answer
        assert answer.startswith(("22023", "23503")), answer


# Roles and sessions.


def test_no_other_role_gets_him_out(place: SimpleNamespace, operator: psycopg.Connection) -> None:
    """He wants out of his limits by acting as the group that he has his rights from, or as himself again."""
    foreign = "select count(*) from machserial.serials where site_id = 'SITE-B'"
    seen = "select count(*) from machserial.system_generated_serials where site_id = 'SITE-B'"
    trail = "select count(*) from machserial.audit_trail(page_size => 500) where site_id = 'SITE-B'"
    for statement in ("set role machserial_operator", "set role none", "reset role"):
        operator.execute(statement)
        for query in (foreign, seen, trail):
            # Twice: the second time from a cached plan.
            assert [value(operator, query), value(operator, query)] == [0, 0], (statement, query)
        with pytest.raises(errors.ForeignKeyViolation):
            generated(operator, "P", site_id=FOREIGN)
    for statement in (
        "set role keeper", "set role machserial_admin", "set role supervisor", "set session authorization operator",
        "alter role limited_operator bypassrls", "alter role limited_operator noinherit", "reset session "
        "authorization; set role postgres",
        "grant machserial_admin to limited_operator", "alter table machserial.serials disable row level security",
        "alter policy own_sites_only on machserial.serials using (true)", "drop policy own_sites_only on "
        "machserial.serials",
        "delete from machserial.site_grants", "select machserial.lift_site_limits('limited_operator')",
        "select machserial.grant_site('limited_operator', 'SITE-B')",
        "insert into machserial.site_grants (role, site_id) values ('limited_operator'::regrole, 'SITE-B')",
    ):  # fmt: skip
        with pytest.raises(psycopg.Error) as raised:
            operator.execute(statement)
        assert raised.value.sqlstate in ("42501", "23503"), (statement, raised.value)
        operator.execute("reset role")
    # PostgreSQL only warns: nobody takes away what he may not grant.
    operator.execute("revoke usage on type machserial.limited_to_sites from limited_operator")
    assert value(operator, foreign) == 0
    # Negative control: the mark is what holds him.
    with place.keeper.transaction():
        call(place.keeper, "lift_site_limits", role="limited_operator")
    assert value(operator, foreign) > 0
    call(place.keeper, "grant_site", role="limited_operator", site_id=OWN)
    assert value(operator, foreign) == 0


def test_an_administrator_who_is_limited_does_nothing_to_all(place: SimpleNamespace) -> None:
    """He wants to do for all sites what he may do for none but his: pause, move a counter, archive, migrate."""
    limited = place.everybody["limited_admin"]
    for function, arguments in {
        "pause": {"reason": "x"},
        "resume": {},
        "fence": {"format": "site", "highest": "SSITE-B-00900", "site_id": FOREIGN, "reason": "x"},
        "reset_counter": {"format": "site", "next_value": 900, "site_id": FOREIGN, "reason": "x"},
        "migrate": {},
        "set_node": {"node": 3},
        "drop_archived": {"month": "2026-01-01"},
        "restore_archived": {"month": "2026-01-01"},
        "grant_site": {"role": "limited_admin", "site_id": FOREIGN},
        "lift_site_limits": {"role": "limited_admin"},
        "seal_audit": {},
        "audit_anchor": {},
        "inclusion_proof": {"event_id": place.heard.event},
    }.items():
        with pytest.raises(psycopg.Error) as raised, limited.transaction():
            call(limited, function, **arguments)
        assert raised.value.sqlstate == "42501", (function, raised.value)


# Statistics, plans, copies, and functions of his own.


def test_statistics_and_partitions_tell_nothing(place: SimpleNamespace, operator: psycopg.Connection) -> None:
    """He wants the most common values of a column, or to read a month, an index or a file in the place of the table."""
    place.superuser.execute("analyze machserial.serials, machserial.audit_events, machserial.vendor_serials")
    query = (
        "select count(*) from pg_stats where schemaname = 'machserial' "
        "and tablename in ('serials', 'audit_events', 'vendor_serials')"
    )
    assert value(operator, query) == 0
    # Negative control.
    assert value(place.keeper, query) > 0
    month = value(
        place.superuser, "select min(relname) from pg_class where relname ~ '^audit_events_20' and relkind = 'r'"
    )
    for statement in (
        f"select * from machserial.{month}",
        f"copy machserial.{month} to stdout",
        "select * from pg_catalog.pg_statistic",
        "select pg_read_file('PG_VERSION')",
        "select * from pg_get_multixact_members('1')",
        "copy machserial.serials to '/tmp/serials'",
        "lock table machserial.serials in access exclusive mode",
        "create table public.copied (like machserial.serials including all)",
    ):
        answer = told(operator, statement)
        assert SECRET not in answer, statement
    with operator.cursor().copy("copy (select s::text from machserial.serials as s) to stdout") as copied:
        assert SECRET.encode() not in b"".join(bytes(block) for block in copied)


def test_a_function_of_his_sees_his_rows_only(place: SimpleNamespace) -> None:
    """He wants to have his function run before the policy decides, because it is cheap."""
    intruder = place.intruder
    place.superuser.execute("grant machserial_operator to intruder")
    call(place.keeper, "grant_site", role="intruder", site_id=OWN)
    intruder.execute("create schema his")
    intruder.execute(
        "create function his.look(text) returns boolean language plpgsql cost 0.0000000001 as $$ begin "
        "raise notice 'seen %', $1; return false; end $$"
    )
    for relation in ("serials", "system_generated_serials", "serial_uniqueness_checks"):
        answer = told(intruder, f"select * from machserial.{relation} where his.look(serial_number)")
        assert OWN in answer or "KNOWN-A" in answer, relation
        assert FOREIGN not in answer and SECRET not in answer, relation
    answer = told(intruder, "select * from machserial.blocks where his.look(holder)")
    assert SECRET not in answer and "Open line" in answer
    # Nor does a table of his own, attached, number for the foreign site; nor a trigger of his on a foreign table.
    with pytest.raises(errors.InsufficientPrivilege):
        intruder.execute(
            "create trigger his after insert on machserial.serials for each row execute function "
            "machserial._fire_attached()"
        )
