"""create_roles(), and that each of the four can do its work with what it was given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import MODES, install
from psycopg import errors
from roles_support import ROLES, make_logins, ordinary_database
from servers import Server
from support import call, column, refused, value

VIEWING = (
    "find_serial('F000001')", "check_digit('luhn', '1')", "has_valid_check_digit('luhn', '18')",
    "check_uniqueness('F1', 'P')", "claims_of('{F1}', 'P')", "uniqueness_report('F1', 'P')", "pending_conflicts()",
    "conflict_history()", "uniqueness_statistics()", "counter_status()", "audit_trail()", "audit_statistics()",
    "audit_anchor()", "format_for('P')", "parse_pattern('A{SEQ:3}')", "validate_pattern('A{SEQ:3}{CHECK:luhn}')",
    "validate_serial('A001', 'A{SEQ:3}')", "preview('A{SEQ:3}{CHECK:mod97_10}{RANDOM:4}')",
    "preview('{SITE}{YYYY}{MM}{DD}{SEQ:3:safe}{CHECK:mod11_2}')", "lineage(1)", "propagation_history('P')",
    "propagation_statistics('P')", "pending_placeholders()", "placeholder_statistics('P')",
    "explain_triggers('WORK_ORDER_CREATE', 'P', '{}')", "trigger_statistics()", "health()", "ready()", "version()",
    "pending_migrations()", "verify_audit()", "health_check('counter_used')", "inclusion_proof(1)",
    "verify_inclusion(sha256('a'), 0, 1, '{}', sha256('a'))", "blocks", "attachments", "serial_assignment_triggers",
    "serial_uniqueness_checks", "system_generated_serials",
)  # fmt: skip

OPERATING = """
    select machserial.generate('P', 2)
    select machserial.generate('P', 200, request_id => 'r')
    select machserial.generate('P', 200, request_id => 'r')
    select machserial.generate('P', 2, pattern => 'ADHOC{SEQ:4}{RANDOM:4}')
    select machserial.generate('P', 2, pattern => 'R{RANDOM:8}')
    select machserial.generate('P', 2, format => 'G')
    select machserial.generate('P', 2, format => 'D')
    select machserial.register_serial('H1', 'P')
    select machserial.register_serial('H1', 'P', on_conflict => 'RECORD')
    select machserial.register_serials('{H2,H3,H4,H5,H6,H7,H8}', 'P')
    select machserial.receive_vendor_serial('V1', 'Ltd', 'P')
    select machserial.receive_vendor_serials('Ltd', 'P', '{V2,V3,V4,H1}')
    select machserial.accept_vendor_serial(id) from machserial.vendor_serials where serial_number = 'V1'
    select machserial.reject_vendor_serial(id, 'why') from machserial.vendor_serials where serial_number = 'V2'
    select machserial.validate_vendor_serial(id) from machserial.vendor_serials where serial_number = 'V3'
    select machserial.accept_vendor_serials(array[id]) from machserial.vendor_serials where serial_number = 'V3'
    select machserial.create_placeholders('P', 4, work_order_id => 'WO')
    select machserial.assign_placeholder(min(id)) from machserial.late_assignment_placeholders where status = ..
        'PENDING'
    select machserial.fail_placeholder(min(id), 'why') from machserial.late_assignment_placeholders where ..
        status = 'PENDING'
    select machserial.assign_placeholders(work_order_id => 'WO')
    select machserial.pass_through(id, 'OP', 1) from machserial.serials where serial_number = 'H1'
    select machserial.split(a.id, array[b.id], 'OP', 1) from machserial.serials a, machserial.serials b where ..
        a.serial_number = 'H1' and b.serial_number = 'H2'
    select machserial.merge(array[a.id], b.id, 'OP', 1) from machserial.serials a, machserial.serials b where ..
        a.serial_number = 'H2' and b.serial_number = 'H3'
    select machserial.transform(id, 'OP', 1) from machserial.serials where serial_number = 'H3'
    select machserial.fire('WORK_ORDER_CREATE', 'P', '{}')
    select machserial.allocate_block('F', 5, 'line', 'P', request_id => 'b')
    select machserial.allocate_block('G', 5, 'line', 'P')
    select machserial.report_block(b.block_id, array(select n from machserial.block_serials(b.block_id) as n ..
        limit 2)) from machserial.blocks as b where b.format = 'F'
    select machserial.return_block(block_id) from machserial.blocks where status = 'OPEN'
    select machserial.retire_serial(id, 'why') from machserial.serials where serial_number = 'H7'
    select machserial.invalidate_serial(id, 'why') from machserial.serials where serial_number = 'H8'
    select machserial.maintain()
    insert into machserial.serials (serial_number, part_id) values ('DIRECT', 'P')
    update machserial.serials set lot_number = 'L' where serial_number = 'DIRECT'
    update machserial.serials set status = 'CONFLICT', status_reason = 'seen twice' where serial_number = 'DIRECT'
    insert into machserial.late_assignment_placeholders (part_id) values ('P')
    insert into machserial.serial_propagations (propagation_type, parent_serial_id, operation_code, ..
        routing_sequence) select 'PASS_THROUGH', id, 'OP', 2 from machserial.serials where serial_number = 'H1'
    update machserial.serial_propagations set notes = 'n'
    insert into application (part) values ('P')
""".strip().replace(" ..\n       ", "").splitlines()

SUPERVISING = """
    select machserial.register_site('S', 'name', 'Europe/Oslo')
    select machserial.register_site('S', 'another')
    select machserial.register_part('Q', 'T')
    select machserial.register_part('Q', 'U', scopes => '{ENTERPRISE}')
    select machserial.create_format('N', 'N{SEQ:6}', counter_per => 'PART')
    select machserial.revise_format('N', 'NN{SEQ:6}')
    select machserial.assign_format('Q', 'N')
    select machserial.assign_format_to_type('U', 'N')
    select machserial.unassign_format('Q', 'N')
    select machserial.deactivate_format('N')
    select machserial.create_trigger('Q', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED', format => 'F')
    select machserial.update_trigger(max(id), batch_size => 2) from machserial.serial_assignment_triggers
    select machserial.disable_trigger(max(id)) from machserial.serial_assignment_triggers
    select machserial.enable_trigger(max(id)) from machserial.serial_assignment_triggers
    update machserial.serial_assignment_triggers set execution_count = 0 where part_id = 'Q'
    select machserial.delete_trigger(max(id)) from machserial.serial_assignment_triggers
    select machserial.set_vendor_rule('Ltd', pattern => 'V{SEQ:3}')
    select machserial.receive_vendor_serial('BROKEN', 'Ltd', 'P')
    select machserial.waive_vendor_rule(id, 'why') from machserial.vendor_serials where serial_number = 'BROKEN'
    select machserial.delete_vendor_rule('Ltd')
    select machserial.resolve_conflict('H1', 'P', 'KEEP', reason => 'why', keep_serial_id => s.id) from ..
        machserial.serials as s where s.serial_number = 'H1'
    select machserial.resolve_conflict('DIRECT', 'P', 'MARK_INVALID', reason => 'why', retired_serial_id => ..
        s.id) from machserial.serials as s where s.serial_number = 'DIRECT'
    select machserial.seal_audit()
    select machserial.attach('orders', 'WORK_ORDER_CREATE', 'part')
    select machserial.detach('orders', 'WORK_ORDER_CREATE')
    update machserial.parts set name = 'n' where id = 'Q'
    delete from machserial.parts where id = 'Q'
""".strip().replace(" ..\n       ", "").splitlines()

ADMINISTERING = """
    select machserial.pause('why')
    select machserial.resume()
    select machserial.write_test()
    select machserial.reset_counter('F', 5000, reason => 'why')
    select machserial.fence('F', '6000', reason => 'why')
    select machserial.integrity()
    select machserial.audit_months()
    select machserial.restore_archived('2020-01-01')
    select machserial.migrate()
    select machserial.grant_site('all_viewer', 'DEFAULT')
    select machserial.limited_roles()
    select machserial.revoke_site('all_viewer', 'DEFAULT')
    select machserial.lift_site_limits('all_viewer')
    update machserial.settings set value = '200' where name = 'batch_size'
    update machserial.health_thresholds set warning = 70 where name = 'counter_used'
    select machserial.set_node(3)
""".strip().replace(" ..\n       ", "").splitlines()
# Of each role the first work that the one below may not do.
WORK = {"operator": OPERATING, "supervisor": SUPERVISING, "admin": ADMINISTERING}


def prepare(owner: psycopg.Connection) -> None:
    call(owner, "register_part", part_id="P", part_type="T")
    call(owner, "create_format", name="F", pattern="F{SEQ:6}")
    call(owner, "create_format", name="G", pattern="G{SEQ:6}", allocation="GAPLESS")
    call(owner, "create_format", name="D", pattern="D{YYYY}{MM}{DD}{SEQ:4}", reset="DAILY")
    call(owner, "assign_format", part_id="P", format="F")
    call(owner, "create_trigger", part_id="P", trigger_type="WORK_ORDER_CREATE", assignment_type="SYSTEM_GENERATED")
    call(owner, "generate", part_id="P", quantity=2)
    call(owner, "seal_audit")
    owner.execute("create table public.application (part text)")
    call(owner, "attach", relation="public.application", trigger_type="WORK_ORDER_CREATE", part_column="part")
    call(owner, "create_roles")
    owner.execute("grant insert on public.application to machserial_operator, machserial_supervisor, machserial_admin")
    make_logins(owner, limited=False)
    owner.execute("create schema orders; grant create, usage on schema orders to all_supervisor")


@pytest.fixture(params=["superuser", "ordinary"])
def works(
    request: pytest.FixtureRequest,
    new_database: Callable[..., str],
    template: Callable[..., str],
    server: Server,
) -> Iterator[Callable[[str], psycopg.Connection]]:
    """works(login): connections to a database whose owner is a superuser, or none."""
    if request.param == "ordinary":
        dsn, owner = ordinary_database(new_database, server), "plant"
    else:
        dsn, owner = new_database("plant", template("extension")), server.user
    opened: list[psycopg.Connection] = []

    def connect(login: str) -> psycopg.Connection:
        opened.append(psycopg.connect(dsn, user=login, autocommit=True))
        return opened[-1]

    prepare(connect(owner))
    yield connect
    for one in opened:
        one.close()


def carried_out(connection: psycopg.Connection, statements: tuple | list) -> list[str]:
    """What of it the role may not do."""
    denied = []
    for statement in statements:
        try:
            connection.execute(statement.strip())
        except errors.InsufficientPrivilege as error:
            denied.append(f"{statement.strip()}: {error}")
    return denied


def test_each_role_can_do_its_work(works):
    viewing = [f"select * from machserial.{what}" for what in VIEWING]
    for role in ROLES:
        assert carried_out(works(f"all_{role}"), viewing) == [], role
    supervisor = works("all_supervisor")
    supervisor.execute("create table orders.orders (part text)")
    supervisor.execute("alter role all_supervisor set search_path = orders, public")
    for role, work in WORK.items():
        assert carried_out(works(f"all_{role}"), work) == [], role
    # What comes first for a role may be done by those after it.
    assert carried_out(works("all_admin"), [work for work in OPERATING if "generate" in work]) == []


FORBIDDEN = {
    "viewer": (
        "select machserial.generate('P')", "select machserial.register_serial('N', 'P')",
        "select machserial.maintain()",
        "select machserial.receive_vendor_serial('N', 'Ltd', 'P')", "select machserial.retire_serial(1, 'why')",
        "select machserial.allocate_block('F', 1, 'line')", "select machserial.create_placeholders('P')",
        "select machserial.fire('WORK_ORDER_CREATE', 'P')", "select machserial.pass_through(1, 'OP', 1)",
        "insert into machserial.serials (serial_number, part_id) values ('N', 'P')",
        "update machserial.serials set lot_number = 'L'", "insert into application (part) values ('P')",
    ),
    "operator": (
        "select machserial.create_format('N', 'N{SEQ:3}')", "select machserial.revise_format('F', 'FF{SEQ:6}')",
        "select machserial.deactivate_format('F')", "select machserial.assign_format('P', 'G')",
        "select machserial.register_part('N', 'T')", "select machserial.register_site('N')",
        "select machserial.create_trigger('P', 'WORK_ORDER_CREATE', 'VENDOR')", "select machserial.disable_trigger(1)",
        "select machserial.set_vendor_rule('Ltd', min_length => 2)", "select machserial.seal_audit()",
        "select machserial.attach('application', 'MATERIAL_RECEIPT', 'part')",
        "update machserial.serials set claim_released = true", "update machserial.serial_formats set is_active = false",
        "update machserial.serial_conflicts set status = 'RESOLVED'", "update machserial.sites set time_zone = 'UTC'",
        "delete from machserial.trigger_definitions", "delete from machserial.serials",
        "select nextval('machserial.serials_id_seq')", "select machserial._audit('FORGED', null, null, null)",
        "select machserial._set_counter(1, 'SEQUENCE', 100, 1)",
        "select * from machserial._render_1('{1}', null, now()::timestamp, '', '', '{}')",
    ),
    "supervisor": (
        "select machserial.migrate()", "select machserial.pause('why')", "select machserial.integrity()",
        "select machserial.reset_counter('F', 99, reason => 'why')", "select machserial.fence('F', reason => 'why')",
        "select machserial.set_node(2)", "select machserial.write_test()", "select machserial.audit_months()",
        "select machserial.grant_site('all_viewer', 'DEFAULT')", "select machserial.limited_roles()",
        "update machserial.settings set value = '1'", "update machserial.health_thresholds set warning = 0",
    ),
    "admin": (
        "select machserial.create_roles()", "select machserial.drop_archived('2020-01-01')",
        "delete from machserial.serials", "truncate machserial.audit_events",
        "insert into machserial.audit_events (event_type, event_source) values ('FORGED', '')",
        "update machserial.audit_events set reason = 'another'", "delete from machserial.audit_seals",
        "update machserial.counters set last_value = 1", "drop table machserial.serials",
        "create table machserial.mine (id int)", "alter table machserial.serials disable trigger all",
        "insert into machserial.site_grants (role, site_id) values ('all_viewer', 'DEFAULT')",
        "select machserial._close_functions()", "select machserial._audit('FORGED', null, null, null)",
    ),
}  # fmt: skip


def test_no_role_can_do_the_work_of_the_next(works):
    for role, statements in FORBIDDEN.items():
        assert len(carried_out(works(f"all_{role}"), statements)) == len(statements), role


def test_the_trail_tells_who_it_was(works):
    admin = works("all_admin")
    admin.execute("set machserial.actor = 'somebody'")
    admin.execute("select machserial.reset_counter('F', 900, reason => 'r')")
    event = works("all_viewer").execute(
        "select performed_by, db_user from machserial.audit_events where event_type = 'COUNTER_RESET'"
    ).fetchone()
    assert event == ("somebody", "all_admin")


def test_what_an_administrator_makes_belongs_to_the_owner(works):
    admin = works("all_admin")
    admin.execute("select machserial.restore_archived('2020-01-01')")
    assert column(
        admin,
        "select distinct relowner = (select proowner from pg_proc where oid = 'machserial.migrate()'::regprocedure) "
        "from pg_class where relnamespace = 'machserial'::regnamespace"
    ) == [True]  # fmt: skip


# create_roles()


def test_roles_are_made_once(connection):
    assert [(row.role, row.is_new) for row in call(connection, "create_roles")] == [
        (f"machserial_{role}", True) for role in ROLES
    ]
    connection.execute("create role kim login in role machserial_operator")
    assert not any(row.is_new for row in call(connection, "create_roles"))
    assert not value(connection, "select bool_or(rolcanlogin) from pg_roles where rolname ~ '^machserial_'")
    assert value(connection, "select pg_has_role('kim', 'machserial_operator', 'usage')")


def test_an_owner_without_createrole_is_told(new_database, server):
    server.execute("create role plant login")
    dsn = new_database("plant", owner="plant")
    with psycopg.connect(dsn, user="plant") as owner:
        install(owner, "plain")
        owner.commit()
        with refused(owner, "42501") as refusal:
            call(owner, "create_roles")
        assert "CREATEROLE" in refusal.detail and "createrole" in refusal.hint
        owner.commit()
        # With roles that somebody else has made, as it says, it can go on.
        statements = re.findall(r"create role \w+ nologin", refusal.hint)
        assert len(statements) == len(ROLES)
        for statement in statements:
            server.execute(statement)
        assert not any(row.is_new for row in call(owner, "create_roles"))
        assert value(owner, "select has_function_privilege('machserial_operator', 'machserial.generate(text, integer, "
                            "text, text, text, jsonb, text)', 'execute')")  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_an_ordinary_owner_needs_createrole_only(new_database, server, mode):
    dsn = ordinary_database(new_database, server, mode)
    with psycopg.connect(dsn, user="plant") as owner:
        assert all(row.is_new for row in call(owner, "create_roles"))
        owner.execute("create role kim login")
        owner.execute("grant machserial_viewer to kim")
        call(owner, "register_site", site_id="A")
        call(owner, "grant_site", role="kim", site_id="A")
        assert call(owner, "migrate")
        # Whoever makes a role has a part in it, and is not limited or an administrator by that.
        assert value(owner, "select count(*) from machserial.sites") == 2
        assert value(owner, "select count(*) from machserial._privilege_changes()") == 0


@pytest.mark.parametrize("attribute", ["login", "superuser", "bypassrls"])
def test_a_role_that_somebody_planted_is_not_used(connection, attribute):
    connection.execute(f"create role machserial_viewer {attribute}")
    with refused(connection, "55000") as refusal:
        call(connection, "create_roles")
    assert "machserial_viewer" in refusal.message


def test_nobody_but_the_owner_makes_roles(connection):
    connection.execute("create role helper createrole")
    connection.execute("grant usage on schema machserial to helper")
    connection.execute("grant execute on all functions in schema machserial to helper")
    connection.execute("set role helper")
    with refused(connection, "42501"):
        call(connection, "create_roles")


def test_two_databases_of_a_cluster_use_the_same_roles(new_database, server):
    first, second = new_database("first"), new_database("second")
    for dsn in (first, second):
        with psycopg.connect(dsn) as connection:
            install(connection, "extension")
    server.execute("create role kim login")
    with psycopg.connect(first) as connection:
        call(connection, "create_roles")
        connection.execute("grant machserial_viewer to kim")
    # Nothing is granted where nobody has asked for it, neither now nor by the next migrate().
    with psycopg.connect(second) as connection:
        call(connection, "migrate")
    with psycopg.connect(second, user="kim") as kim, pytest.raises(errors.InsufficientPrivilege):
        kim.execute("select * from machserial.serials")
    with psycopg.connect(second) as connection:
        assert not any(row.is_new for row in call(connection, "create_roles"))
    with psycopg.connect(second, user="kim") as kim:
        assert kim.execute("select * from machserial.serials").fetchall() == []


def test_migrate_makes_no_roles(connection):
    call(connection, "migrate")
    assert value(connection, "select count(*) from pg_roles where rolname ~ '^machserial_'") == 0


# Limits


@pytest.fixture
def limits(connection: psycopg.Connection) -> psycopg.Connection:
    call(connection, "create_roles")
    for site in "AB":
        call(connection, "register_site", site_id=site)
    connection.execute("create role kim login in role machserial_operator")
    return connection


def test_sites_are_granted_and_revoked(limits):
    def sites() -> list[tuple]:
        return [tuple(row) for row in call(limits, "limited_roles")]

    assert sites() == []
    assert tuple(call(limits, "grant_site", role="kim", site_id="B")[0]) == ("kim", ["B"])
    call(limits, "grant_site", role="kim", site_id="A")
    call(limits, "grant_site", role="kim", site_id="A")
    assert sites() == [("kim", ["A", "B"])]
    call(limits, "revoke_site", role="kim", site_id="B")
    # The last one gone leaves none, not all.
    assert tuple(call(limits, "revoke_site", role="kim", site_id="A")[0]) == ("kim", [])
    assert sites() == [("kim", [])]
    limits.execute("set role kim")
    assert value(limits, "select count(*) from machserial.sites") == 0
    limits.execute("reset role")
    assert value(limits, "select machserial.lift_site_limits('kim')")
    assert not value(limits, "select machserial.lift_site_limits('kim')")
    assert sites() == []
    limits.execute("set role kim")
    assert value(limits, "select count(*) from machserial.sites") == 3
    limits.execute("reset role")
    told = limits.execute(
        "select event_type, site_id, details ->> 'role' from machserial.audit_events where event_type ~ '^SITE_[GRL]' "
        "and event_type <> 'SITE_REGISTERED' order by id"
    ).fetchall()
    assert told == [
        ("SITE_GRANTED", "B", "kim"), ("SITE_GRANTED", "A", "kim"), ("SITE_REVOKED", "B", "kim"),
        ("SITE_REVOKED", "A", "kim"), ("SITE_LIMITS_LIFTED", None, "kim"),
    ]  # fmt: skip


def test_a_direct_insert_limits_as_well(limits):
    limits.execute("insert into machserial.site_grants (role, site_id) values ('kim', 'A')")
    assert [tuple(row) for row in call(limits, "limited_roles")] == [("kim", ["A"])]
    for query in ("update machserial.site_grants set site_id = 'B'", "truncate machserial.site_grants"):
        with pytest.raises(errors.ObjectNotInPrerequisiteState), limits.transaction():
            limits.execute(query)
    # A site that goes takes its grants along, and leaves the role limited.
    limits.execute("delete from machserial.sites where id = 'A'")
    assert [tuple(row) for row in call(limits, "limited_roles")] == [("kim", [])]


def test_faults_of_granting_are_told(limits):
    for function in ("grant_site", "revoke_site"):
        with refused(limits, "42704"):
            call(limits, function, role="nobody", site_id="A")
    with refused(limits, "23503"):
        call(limits, "grant_site", role="kim", site_id="C")
    with refused(limits, "P0002"):
        call(limits, "revoke_site", role="kim", site_id="A")
    limits.execute("create role free bypassrls")
    for free in ("postgres", "free"):
        with refused(limits, "22023"):
            call(limits, "grant_site", role=free, site_id="A")
    limits.execute("set role kim")
    with pytest.raises(errors.InsufficientPrivilege):
        call(limits, "grant_site", role="kim", site_id="A")


def test_execute_alone_makes_no_administrator(limits):
    """As in: grant execute on all functions in schema machserial to application."""
    limits.execute("create role application")
    limits.execute("grant usage on schema machserial to application")
    limits.execute("grant execute on all functions in schema machserial to application")
    limits.execute("set role application")
    for function in ("migrate()", "pause('x')", "integrity()", "grant_site('kim', 'A')", "set_node(1)", "write_test()"):
        with refused(limits, "42501"):
            limits.execute(f"select * from machserial.{function}")


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("drop policy own_sites_only on machserial.serials", "missing_policy"),
        ("alter policy own_sites_only on machserial.serials to machserial_viewer", "missing_policy"),
        ("alter table machserial.serials disable row level security", "row_security_off"),
        ("revoke usage on type machserial.limited_to_sites from kim", "unlimited_role"),
        ("grant usage on type machserial.limited_to_sites to public", "limits_of_everybody"),
    ],
)
def test_limits_that_do_not_hold_are_found(limits, fault, name):
    call(limits, "grant_site", role="kim", site_id="A")
    assert call(limits, "integrity") == []
    limits.execute(fault)
    (finding,) = call(limits, "integrity")
    assert (finding.name, finding.severity) == (name, "CRITICAL")
    limits.execute(finding.remedy)
    assert call(limits, "integrity") == []


def test_a_partition_that_is_open_is_found(limits):
    partition = value(limits, "select min(relname) from pg_class where relname ~ '^audit_events_20' and relkind = 'r'")
    limits.execute(f"alter table machserial.{partition} disable row level security")
    (finding,) = call(limits, "integrity")
    assert finding.name == "row_security_off" and partition in finding.message


def test_grants_to_a_role_that_is_gone_are_found(limits):
    limits.execute("create role gone")
    call(limits, "grant_site", role="gone", site_id="A")
    with pytest.raises(errors.DependentObjectsStillExist), limits.transaction():
        limits.execute("drop role gone")
    limits.execute("drop owned by gone")
    limits.execute("drop role gone")
    (finding,) = call(limits, "integrity")
    assert (finding.name, finding.severity) == ("limits_of_nobody", "WARNING")
    limits.execute(finding.remedy)
    assert call(limits, "integrity") == []


@pytest.mark.both_modes
@pytest.mark.own_database
def test_limits_and_rights_come_back_from_a_dump(limits, new_database, server, tmp_path: Path):
    call(limits, "register_part", part_id="P", part_type="T")
    for site in "AB":
        call(limits, "register_serial", serial_number=f"{site}1", part_id="P", site_id=site)
    call(limits, "grant_site", role="kim", site_id="A")
    limits.commit()
    copy = new_database("restored")
    server.dump_and_restore(server.dsn(limits.info.dbname), copy, tmp_path / "dump", "custom")
    with psycopg.connect(copy, user="kim") as kim:
        assert column(kim, "select serial_number from machserial.serials") == ["A1"]
        assert call(kim, "register_serial", serial_number="A2", part_id="P", site_id="A")
        with refused(kim, "23503"):
            call(kim, "register_serial", serial_number="B2", part_id="P", site_id="B")
    with psycopg.connect(copy) as owner:
        assert [tuple(row) for row in call(owner, "limited_roles")] == [("kim", ["A"])]
        assert value(owner, "select count(*) from machserial._privilege_changes()") == 0
        assert call(owner, "integrity") == []
