"""Getting more rights than one has: by functions that run with the owner's, by another's name in the records, by
triggers
and tables of one's own, by statements that are not one's to give.

docs/security.md says what is promised; tests/test_roles.py compares every right with the list in privileges.sql.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import psycopg
import pytest
from intruders import ROLES, fortress, garrison, man
from support import call, column, generated, make_format, make_part, value

# Long, and nothing in it depends on how machserial was installed.
ONE_MODE = True


@pytest.fixture(scope="module")
def place(server, mode) -> Iterator[SimpleNamespace]:
    with fortress(server, "rights") as found:
        garrison(found, mode)
        man(found)
        found.who = {role: found.connect(role, options="-c statement_timeout=5s") for role in ROLES}
        make_part(found.keeper)
        make_format(found.keeper, "plain", "A{SEQ:6}", counter_per="SITE")
        make_format(found.keeper, "gapless", "G{SEQ:6}", allocation="GAPLESS")
        call(found.keeper, "assign_format", part_id="P", format="plain")
        found.serial = call(found.keeper, "generate", part_id="P")[0].serial_id
        yield found


@pytest.fixture
def operator(place: SimpleNamespace) -> psycopg.Connection:
    return place.who["operator"]


def refuse(
    connection: psycopg.Connection, statements: list[str] | tuple[str, ...], sqlstates: tuple = ("42501",)
) -> None:
    for statement in statements:
        with pytest.raises(psycopg.Error) as raised, connection.transaction():
            connection.execute(statement)
        assert raised.value.sqlstate in sqlstates, (statement, raised.value)


# What runs with the owner's rights.

DEFINERS = """
    select p.oid::regprocedure::text from pg_proc as p
    where p.pronamespace = 'machserial'::regnamespace and p.prosecdef
"""


def test_what_runs_as_the_owner_says_where_it_looks(place: SimpleNamespace) -> None:
    """He wants a function that runs as the owner and looks a name up in his search_path."""
    loose = DEFINERS + " and not coalesce('search_path=pg_catalog, pg_temp' = any(p.proconfig), false)"
    assert column(place.superuser, loose) == []
    # Negative control.
    with place.keeper.transaction(force_rollback=True):
        place.keeper.execute("alter function machserial.generate reset search_path")
        assert len(column(place.keeper, loose)) == 1


def test_nobody_hands_it_what_he_made_up(place: SimpleNamespace) -> None:
    """He wants to hand a function that runs as the owner a row, a table, or a type of his own making."""
    handed = (
        DEFINERS
        + """
        and exists (
            select from unnest(p.proargtypes) as a (oid) inner join pg_type as t on t.oid = a.oid
            where
                t.typtype in ('p', 'd') or t.typnamespace not in ('pg_catalog'::regnamespace,
                'machserial'::regnamespace)
                or t.typname ~ '^_?_' and t.typnamespace = 'machserial'::regnamespace and not t.typname in ('_text',
                '_int4', '_jsonb')
        )
        and exists (select from aclexplode(p.proacl) as a where a.grantee <> p.proowner)
        -- They compute with it or read what the caller may: no number is drawn, no row written.
        and p.proname <> '_render'
    """
    )
    assert column(place.superuser, handed) == []


def test_a_trigger_function_is_nobodys(place: SimpleNamespace, operator: psycopg.Connection) -> None:
    """He wants to write audit events: by a trigger on a table of his own, with a transition table of the right name."""
    executable = """
        select p.oid::regprocedure::text from pg_proc as p
        where
            p.pronamespace = 'machserial'::regnamespace and p.prorettype = 'trigger'::regtype
            and exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a where a.grantee
            <> p.proowner)
            and (p.prosecdef or not has_function_privilege('machserial_supervisor', p.oid, 'execute'))
    """
    assert column(place.superuser, executable) == []
    operator.execute("create temporary table forged as select * from machserial.serials with no data")
    before = value(place.superuser, "select count(*) from machserial.audit_events")
    refuse(
        operator,
        (
            "create trigger forge after insert on forged referencing new table as new_serials for each statement "
            "execute function machserial._admit_new_serials()",
            "create trigger forge after insert on forged referencing new table as new_formats for each statement "
            "execute function machserial._audit_configuration()",
            "create trigger forge after insert on forged for each row execute function machserial._equip_format()",
        ),
    )
    # Negative control: whoever may do so, forges.
    with place.superuser.transaction(force_rollback=True):
        place.superuser.execute("grant execute on function machserial._admit_new_serials() to operator")
        place.superuser.execute("set local role operator")
        place.superuser.execute("create temporary table forged as select * from machserial.serials with no data")
        place.superuser.execute(
            "create trigger forge after insert on forged referencing new table as new_serials for each statement "
            "execute function machserial._admit_new_serials()"
        )
        place.superuser.execute(
            "insert into forged "
            "(id, serial_number, part_id, part_type, site_id, source, status, claim_released, scopes) "
            "select 7, 'FORGED', id, part_type, 'DEFAULT', 'MANUAL', 'ACTIVE', false, '{SITE}' "
            "from machserial.parts limit 1"
        )
        place.superuser.execute("reset role")
        assert value(place.superuser, "select count(*) from machserial.audit_events") == before + 1
    assert value(place.superuser, "select count(*) from machserial.audit_events") == before


FORGED_ISSUE = (
    "row('P', 'T', '{SITE}', 'DEFAULT', null, 2, 'x', 'GAPLESS', 1, 99999, null, 1, '{}', 1, 1)::machserial._issue"
)
KERNEL = (
    # Moves any counter, or draws a number of a gapless one and leaves it unrecorded.
    f"select machserial._draw_sequenced({FORGED_ISSUE}, 500, 0)",
    f"select machserial._draw_gapless({FORGED_ISSUE}, 1)",
    f"select machserial._take_run({FORGED_ISSUE})",
    # Sets one back, into numbers that have been given out.
    f"select machserial._give_back({FORGED_ISSUE})",
    "select machserial._set_counter(1, 'SEQUENCE', 1, 1)",
    "select setval('machserial.counter_1', 1)",
    "select nextval('machserial.counter_1')",
    "select currval('machserial.counter_1')",
    "select nextval('machserial.serials_id_seq')",
    "select setval('machserial.serials_id_seq', 1)",
    # Makes counters without end.
    "select machserial._make_counter(1, 'x', 'y', '2199-01-01')",
    "select machserial._create_sequence(1, 1)",
    "select machserial._revive_counter(1)",
    # Writes events.
    "select machserial._audit('SERIAL_RETIRED', 'P', 'DEFAULT', '{}')",
    "select machserial._audit('PAUSED', null, null, '{}', 'x')",
    "insert into machserial.audit_events (event_type, event_source) values ('SERIAL_RETIRED', 'x')",
    "select machserial._make_audit_partition('2050-01-01')",
    # Runs as the owner what it is told.
    "select machserial._create_renderer(1, null)",
    "select machserial._render_1(null, null, null, null, null, null)",
    "select machserial._apply_privileges()",
    # Claims a request, or a block, that the real one will then find answered.
    "insert into machserial.requests (site_id, verb, request_id, arguments) "
    "values ('DEFAULT', 'generate', 'tomorrow''s', '{}')",
    "insert into machserial.number_blocks (counter_id, holder, first_value, last_value, quantity) values (1, 'x', 1, "
    "9, 9)",
    "insert into machserial.counters (format_id, first_value) values (1, 1)",
    "update machserial.counters set last_value = 1",
    "delete from machserial.counters",
)


# Whatever the kernel writes.
STATE = """
    select array[
        (select array_agg((c, machserial._last_value(c.id))::text order by c.id) from machserial.counters as c)::text,
        (select count(*) from machserial.audit_events)::text,
        (select array_agg(p::text order by p) from machserial.numbering_plans as p)::text,
        (select array_agg(r::text order by r) from machserial.requests as r)::text,
        (select array_agg(b::text order by b) from machserial.number_blocks as b)::text,
        (select last_value from machserial.serials_id_seq)::text,
        (select array_agg((p.oid, p.prosrc, p.proacl)::text order by p.oid) from pg_proc as p
            where p.pronamespace = 'machserial'::regnamespace)::text,
        (select array_agg((c.oid, c.relacl)::text order by c.oid) from pg_class as c
            where c.relnamespace = 'machserial'::regnamespace)::text
    ]
"""


@pytest.mark.parametrize("role", ROLES)
def test_what_generate_is_made_of_gives_nothing_to_others(place: SimpleNamespace, role: str) -> None:
    """He wants to draw without recording, to set a counter back, to write an event, to claim what is another's."""
    before = value(place.superuser, STATE)
    refused = []
    for statement in KERNEL:
        try:
            place.who[role].execute(statement)
        except psycopg.Error as error:
            assert error.sqlstate in ("42501", "22023", "23503", "42P01"), (statement, error)
            refused.append(statement)
    assert value(place.superuser, STATE) == before
    # What is not refused does nothing by itself.
    assert {"select machserial._apply_privileges()"} >= set(KERNEL) - set(refused)


def test_an_attachments_event_says_what_is_attached(place: SimpleNamespace) -> None:
    """He wants to word an event himself, by the function through which attach() writes its own."""
    supervisor = place.who["supervisor"]
    events = "select count(*) from machserial.audit_events where event_type ~ 'TACHED'"
    before = value(place.superuser, events)
    supervisor.execute("create temporary table orders (id text primary key, part text)")
    supervisor.execute("select machserial._audit_attachment('pg_temp.orders', 'WORK_ORDER_CREATE', true)")
    supervisor.execute("select machserial._audit_attachment('machserial.serials', 'WORK_ORDER_CREATE', false)")
    assert value(place.superuser, events) == before
    call(place.keeper, "maintain")
    assert call(place.keeper, "integrity") == []


# One's own tables, another's, and machserial's.


@pytest.mark.parametrize("role", ROLES)
def test_nobody_changes_the_rules(place: SimpleNamespace, role: str) -> None:
    """He wants a rule away, an object of his among machserial's, or rights that he may give on."""
    refuse(
        place.who[role],
        (
            "alter table machserial.serials disable trigger all",
            "alter table machserial.serials disable trigger serials_are_admitted",
            "create trigger his after insert on machserial.serials for each row execute function "
            "pg_catalog.suppress_redundant_updates_trigger()",
            "create rule his as on insert to machserial.serials do instead nothing",
            "create table machserial.his (id integer)",
            "create function machserial.generate(text, integer) returns text language sql as $$ select 'x' $$",
            "create view machserial.his as select 1 as one",
            "select * from machserial.site_grants",
            "create temporary table heir () inherits (machserial.serials)",
            "alter table machserial.serials drop constraint serials_pkey",
            "drop index machserial.serials_enterprise_key",
            "drop function machserial.generate",
            "alter function machserial.generate owner to current_user",
            "truncate machserial.serials cascade",
            "delete from machserial.serials",
            "update machserial.serials set serial_number = 'x'",
            "update machserial.serials set created_by = 'x'",
            "update machserial.serials set lineage_rank = 1",
            "delete from machserial.audit_events",
            "update machserial.audit_events set performed_by = 'x'",
            "truncate machserial.audit_events",
            "delete from machserial.audit_seals",
            "insert into machserial.audit_seals (id) values (99)",
            "insert into machserial.schema_migrations (version, name, sha256, code_version) values (99, 'x', 'x', 'x')",
            "set session_replication_role = replica",
            "set role keeper",
            "comment on table machserial.serials is 'mine'",
            "security label on table machserial.serials is 'x'",
            "alter schema machserial rename to his",
            "create publication his for table machserial.serials",
        ),
        ("42501", "22023"),
    )  # fmt: skip


def test_rights_that_run_code_are_nobodys(place: SimpleNamespace) -> None:
    """He wants TRIGGER, REFERENCES or MAINTAIN on a table, or a right with the option to give it on."""
    grants = """
        select format('%s: %s on %s', a.grantee::regrole, a.privilege_type, c.oid::regclass)
        from pg_class as c cross join lateral aclexplode(c.relacl) as a
        where
            c.relnamespace = 'machserial'::regnamespace and a.grantee <> c.relowner
            and (a.privilege_type not in ('SELECT', 'INSERT', 'UPDATE', 'DELETE') or a.is_grantable or a.grantee = 0)
        union all
        select format('%s: %s on %s', a.grantee::regrole, a.privilege_type, p.oid::regprocedure)
        from pg_proc as p cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
        where
            p.pronamespace = 'machserial'::regnamespace and a.grantee <> p.proowner
            and (a.is_grantable or a.grantee = 0 and p.prosecdef and p.proname <> '_site_limits')
        union all
        select format('%s: %s on the schema', a.grantee::regrole, a.privilege_type)
        from pg_namespace as n cross join lateral aclexplode(n.nspacl) as a
        where n.nspname = 'machserial' and a.grantee <> n.nspowner and a.privilege_type <> 'USAGE'
    """
    assert column(place.superuser, grants) == []
    with place.superuser.transaction(force_rollback=True):
        place.superuser.execute("grant trigger on machserial.serials to operator")
        assert len(column(place.superuser, grants)) == 1


def test_a_table_of_ones_own_runs_nothing_as_another(place: SimpleNamespace) -> None:
    """He wants that what he attaches to his table, or what stands on it, runs as the owner of machserial: column types,
    checks, defaults, rules and triggers of his."""
    place.superuser.execute("grant machserial_supervisor to intruder")
    intruder = place.intruder
    refuse(intruder, ("create table public.refers (id bigint references machserial.serials (id))",))
    intruder.execute("create schema his; create table his.seen (who name)")
    intruder.execute(
        "create function his.note() returns boolean language plpgsql as $$ begin insert into his.seen values "
        "(current_user); "
        "return true; end $$"
    )
    intruder.execute("grant usage on schema his to public; grant insert on his.seen to public")
    intruder.execute("create domain his.part as text check (his.note())")
    intruder.execute(
        "create table his.orders (id text primary key default his.note()::text, part his.part, numbers text check "
        "(his.note()))"
    )
    intruder.execute(
        "create function his.twist() returns trigger language plpgsql as $$ begin perform his.note(); return new; "
        "end $$"
    )
    intruder.execute(
        "create trigger twist before insert or update on his.orders for each row execute function his.twist()"
    )
    call(intruder, "create_trigger", part_id="P", trigger_type="WORK_ORDER_CREATE", assignment_type="SYSTEM_GENERATED")
    call(
        intruder, "attach", relation="his.orders", trigger_type="WORK_ORDER_CREATE", part_column="part",
        serial_column="numbers",
    )  # fmt: skip
    intruder.execute("insert into his.orders (id, part) values ('W1', 'P')")
    assert value(intruder, "select numbers from his.orders").startswith("A")
    # Whoever looks after the database reads no row of his table, and calls no function of his.
    for who in (place.keeper, place.superuser):
        for function in ("maintain", "integrity", "health"):
            call(who, function)
        who.execute("select * from machserial.attachments")
    call(intruder, "detach", relation="his.orders", trigger_type="WORK_ORDER_CREATE")
    assert column(place.superuser, "select distinct who::text from his.seen") == ["intruder"]


# Who it was.


def test_the_trail_knows_the_login_whatever_it_calls_itself(place: SimpleNamespace) -> None:
    """He wants the trail to name somebody else: by the actor, by acting as a group, by an application's name."""
    operator = place.who["operator"]
    operator.execute(
        "select set_config('machserial.actor', 'the boss', false), set_config('application_name', 'psql', false)"
    )
    made = [generated(operator)[0]]
    operator.execute("set role machserial_operator")
    made += generated(operator)
    operator.execute("reset role")
    operator.execute("select set_config('machserial.actor', '', false)")
    made += generated(operator)
    seen = place.superuser.execute(
        "select performed_by, db_user from machserial.audit_events where serial_number = any(%s) order by id", (made,)
    ).fetchall()
    assert seen == [("the boss", "operator"), ("the boss", "operator"), ("operator", "operator")]
    # A login that may become another by SET ROLE stays what it logged in as; only a superuser changes that.
    refuse(operator, ("set session authorization supervisor", "set role supervisor"))
    with place.superuser.transaction(force_rollback=True):
        place.superuser.execute("set local session authorization operator")
        taken = generated(place.superuser)
        assert column(
            place.superuser, "select db_user from machserial.audit_events where serial_number = %s", taken[0]
        ) == ["operator"]


FORGED = {
    "serials": "insert into machserial.serials ({column}, serial_number, part_id) {override} values ({value}, 'F', "
    "'P')",
    "late_assignment_placeholders": "insert into machserial.late_assignment_placeholders ({column}, part_id) "
    "{override} values ({value}, 'P')",
    "serial_propagations": "insert into machserial.serial_propagations ({column}, propagation_type, "
    "parent_serial_id, operation_code, "
    "routing_sequence) {override} values ({value}, 'PASS_THROUGH', 1, 'OP', 1)",
    "serial_conflicts": "insert into machserial.serial_conflicts ({column}, serial_number, part_id, scopes, source) "
    "{override} "
    "values ({value}, 'F', 'P', '{{SITE}}', 'MANUAL')",
    "vendor_serials": "insert into machserial.vendor_serials ({column}, serial_number, vendor_name, part_id) "
    "{override} values ({value}, 'F', 'V', 'P')",
    "serial_formats": "insert into machserial.serial_formats ({column}, name, pattern) {override} values ({value}, "
    "'F', 'F{{SEQ:3}}')",
    "trigger_definitions": "insert into machserial.trigger_definitions ({column}, part_id, trigger_type, "
    "assignment_type) {override} "
    "values ({value}, 'P', 'MATERIAL_RECEIPT', 'LATE_ASSIGNMENT')",
}  # fmt: skip


def test_by_whom_and_when_is_not_the_writers_to_say(place: SimpleNamespace) -> None:
    """He wants a row that says that somebody else made it, or another day; or an id that another will collide with."""
    for table, statement in FORGED.items():
        writer = place.who["supervisor" if table in ("serial_formats", "trigger_definitions") else "operator"]
        forgeries = {"created_by": "'the boss'", "created_at": "'2019-01-01'", "id": "1000000"}
        if table == "serial_conflicts":
            forgeries = {"detected_by": "'the boss'", "detected_at": "'2019-01-01'", "id": "1000000"}
        if table == "vendor_serials":
            # Its id is that of its serial, which must be there.
            forgeries = {"created_by": "'the boss'", "received_by": "'the boss'", "accepted_by": "'the boss'"}
        for column_name, forged in forgeries.items():
            text = statement.format(
                column=column_name, value=forged,
                override="overriding system value" if column_name == "id" and table != "vendor_serials" else "",
            )  # fmt: skip
            refuse(writer, [text])
    # Negative control: the same without the forgery is his to do.
    with place.who["operator"].transaction(force_rollback=True):
        place.who["operator"].execute(
            "insert into machserial.serials (lot_number, serial_number, part_id) values ('L', 'F', 'P')"
        )


@pytest.mark.parametrize(
    ("role", "beyond"),
    [
        ("viewer", "generate('P') register_serial('X','P') retire_serial(1,'x') create_placeholders('P') "
        "fire('MATERIAL_RECEIPT','P') "
         "pass_through(1,'OP',1) receive_vendor_serial('X','V','P') allocate_block('plain',1,'x') maintain()"),
        ("operator", "create_format('x','X{SEQ:3}') revise_format('plain') deactivate_format('plain') "
        "assign_format('P','plain') "
         "register_part('X','T') register_site('X') create_trigger('P','MATERIAL_RECEIPT','VENDOR') "
         "set_vendor_rule('V') "
         "resolve_conflict('X','P','KEEP',reason=>'x') waive_vendor_rule(1,'x') seal_audit() "
         "attach('pg_class','MATERIAL_RECEIPT','x')"),
        ("supervisor", "migrate() pause('x') resume() fence('plain') reset_counter('plain',5,reason=>'x') "
        "set_node(3) grant_site('operator','DEFAULT') "
         "lift_site_limits('operator') integrity() write_test() "
         "create_roles()"),
        ("admin", "create_roles() drop_archived('2026-01-01')"),
    ],
)  # fmt: skip
def test_everyone_stays_within_his_role(place: SimpleNamespace, role: str, beyond: str) -> None:
    """He wants to do what is for the next role up."""
    refuse(
        place.who[role],
        [f"select machserial.{piece.strip()})" for piece in beyond.split(") ") if piece.strip(") ")][:-1],
    )
    refuse(place.who[role], [f"select machserial.{beyond.split(') ')[-1]}"])
