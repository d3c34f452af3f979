"""Who is limited to a site sees and writes nothing of another: by functions, views, SQL, and what errors say."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors, sql
from roles_support import FOREIGN, OWN, ROLES, Plant, everything, limited_plant, relations, text_of
from servers import Server
from support import call, column, value

ONE_MODE = True

SITE_TABLES = (
    "sites", "serials", "serial_conflicts", "vendor_serials", "late_assignment_placeholders", "serial_propagations",
    "audit_events", "counters", "number_blocks", "block_usages", "requests",
)  # fmt: skip
# Of the whole database: who is limited to sites sees no row of them.
WHOLE_TABLES = ("audit_seals", "audit_leaves", "trigger_executions")


@pytest.fixture(scope="module", params=["superuser", "ordinary"])
def plant(request: pytest.FixtureRequest, server: Server) -> Iterator[Plant]:
    with limited_plant(server, ordinary=request.param == "ordinary") as made:
        yield made


def foreign_secrets(plant: Plant) -> list[str]:
    """What there is at the other site."""
    numbers = "select distinct serial_number from machserial.serials where site_id = 'ZZZ'"
    return [FOREIGN, *column(plant.owner, numbers)]


def heard(connection: psycopg.Connection, query: str) -> str:
    """What a statement answers, or says when it is refused."""
    try:
        cursor = connection.execute(query)
        return str(cursor.fetchall()) if cursor.description else ""
    except psycopg.Error as error:
        return text_of(error)


def leaks(plant: Plant, connection: psycopg.Connection, query: str) -> list[str]:
    """Secrets that the answer has and the question has not."""
    answer = heard(connection, query)
    # An error repeats the question.
    return [secret for secret in foreign_secrets(plant) if secret in answer and secret not in query]


# Reading


def test_no_relation_shows_another_site(plant):
    for role in ROLES:
        connection = plant.as_login(f"own_{role}")
        for relation in relations(plant.owner):
            try:
                seen = everything(connection, relation)
            except errors.InsufficientPrivilege:
                continue
            assert FOREIGN not in seen, f"{role} reads {relation}"
    # And that there is something to see.
    for table in SITE_TABLES:
        assert value(plant.owner, f"select count(*) from machserial.{table} as t where t::text ~ 'ZZZ' or %s",
                     table in ("serial_propagations", "block_usages")) > 0, table  # fmt: skip
        assert value(plant.as_login("own_viewer"), f"select count(*) from machserial.{table}") > 0, table


def test_partitions_show_nothing_by_themselves(plant):
    partitions = [name for name in relations(plant.owner) if name.startswith("audit_events_")]
    assert partitions
    for login in ("own_operator", "all_operator"):
        connection = plant.as_login(login)
        for partition in partitions:
            assert value(connection, f"select count(*) from machserial.{partition}") == 0


def test_what_is_of_the_whole_database_shows_no_row(plant):
    connection = plant.as_login("own_operator")
    for table in WHOLE_TABLES:
        assert value(connection, f"select count(*) from machserial.{table}") == 0, table


def test_whoever_is_not_limited_sees_all(plant):
    connection = plant.as_login("all_viewer")
    for table in set(SITE_TABLES) | {"audit_seals", "audit_leaves"}:
        rows = f"select count(*) from machserial.{table}"
        assert value(connection, rows) == value(plant.owner, rows), table
    for view in ("blocks", "serial_uniqueness_checks", "system_generated_serials"):
        assert FOREIGN in everything(connection, view), view


READING = """
    find_serial('ZZZ-000001')
    find_serial('ZZZ-EVERYWHERE')
    check_uniqueness('ZZZ-HAND-1', 'P', site_id => 'AAA')
    check_uniqueness('ZZZ-HAND-1', 'P', site_id => 'ZZZ')
    check_uniqueness('ZZZ-EVERYWHERE', 'E', site_id => 'AAA')
    check_uniqueness('ZZZ EVERYWHERE', 'E', site_id => 'AAA')
    check_uniqueness('ZZZ-HAND1', 'P', site_id => 'AAA')
    claims_of('{ZZZ-HAND-1,ZZZ-EVERYWHERE}', 'P', 'AAA', '{ENTERPRISE,SITE,PART_TYPE}')
    claims_of('{ZZZ-HAND-1}', 'P', 'ZZZ')
    _claims_for_numbers('{ZZZ-HAND-1,ZZZ-EVERYWHERE}', '{ENTERPRISE,SITE,PART_TYPE}', 'AAA', 'T')
    _claims_for_numbers('{ZZZ-HAND-1}', '{SITE}', 'ZZZ', 'T')
    _near_matches('ZZZHAND1')
    uniqueness_report('ZZZ-HAND-1', 'P')
    uniqueness_report('ZZZ-EVERYWHERE', 'E')
    pending_conflicts()
    conflict_history()
    counter_status()
    audit_trail(page_size => 10000)
    pending_placeholders()
    propagation_history('P')
    explain_triggers('WORK_ORDER_CREATE', 'P', '{}')
    trigger_statistics()
    audit_statistics()
    health()
""".strip().splitlines()


@pytest.mark.parametrize("call", READING)
def test_no_function_shows_another_site(call: str, plant):
    for role in ("viewer", "supervisor"):
        assert leaks(plant, plant.as_login(f"own_{role}"), f"select * from machserial.{call.strip()}") == []


def test_ids_of_another_site_lead_nowhere(plant):
    connection = plant.as_login("own_supervisor")
    for function, table, arguments in (
        ("lineage", "serials", ""),
        ("block_serials", "number_blocks", ""),
        ("validate_vendor_serial", "vendor_serials", ""),
        ("retire_serial", "serials", ", 'r'"),
        ("accept_vendor_serial", "vendor_serials", ""),
        ("reject_vendor_serial", "vendor_serials", ", 'r'"),
        ("waive_vendor_rule", "vendor_serials", ", 'r'"),
        ("return_block", "number_blocks", ""),
        ("report_block", "number_blocks", ", '{ZZZ-000005}'"),
        ("assign_placeholder", "late_assignment_placeholders", ""),
        ("fail_placeholder", "late_assignment_placeholders", ", 'r'"),
        ("pass_through", "serials", ", 'OP', 1"),
        ("split", "serials", ", array[1::bigint], 'OP', 1"),
        ("transform", "serials", ", 'OP', 1"),
    ):
        for key in column(plant.owner, f"select id from machserial.{table} where site_id = 'ZZZ' order by id"):
            before = value(plant.owner, f"select string_agg(t::text, '' order by id) from machserial.{table} as t")
            query = f"select * from machserial.{function}({key}{arguments})"
            with pytest.raises(psycopg.Error) as refused:
                connection.execute(query)
            assert refused.value.sqlstate in ("P0002", "42501"), f"{query}: {refused.value}"
            said = text_of(refused.value)
            assert [s for s in foreign_secrets(plant) if s in said and s not in query] == []
            after = value(plant.owner, f"select string_agg(t::text, '' order by id) from machserial.{table} as t")
            assert after == before


def test_lineage_ends_at_the_border(plant):
    own, foreign = (
        value(plant.owner, "select min(id) from machserial.serials where serial_number = %s", number)
        for number in ("AAA-HAND-1", "ZZZ-HAND-2")
    )
    call(plant.owner, "transform", source_serial_id=own, target_serial_id=foreign, operation_code="ZZZ-MOVE",
         routing_sequence=2)  # fmt: skip
    connection = plant.as_login("own_viewer")
    rows = call(connection, "lineage", serial_id=own)
    assert foreign not in [row.serial_id for row in rows] and FOREIGN not in str(rows)
    assert foreign in [row.serial_id for row in call(plant.as_login("all_viewer"), "lineage", serial_id=own)]


def test_a_cycle_through_another_site_is_refused_without_its_numbers(plant):
    first, last = (
        call(plant.owner, "register_serial", serial_number=number, part_id="P", site_id=OWN)[0].serial_id
        for number in ("CYCLE-1", "CYCLE-2")
    )
    between = call(plant.owner, "register_serial", serial_number="ZZZ-BETWEEN", part_id="P", site_id=FOREIGN)[0]
    for source, target in ((first, between.serial_id), (between.serial_id, last)):
        call(plant.owner, "transform", source_serial_id=source, target_serial_id=target, operation_code="OP",
             routing_sequence=1)  # fmt: skip
    said = heard(
        plant.as_login("own_operator"), f"select machserial.transform({last}, 'OP', 1, target_serial_id => {first})"
    )
    assert "part of itself" in said and "CYCLE-1" in said and FOREIGN not in said


def test_statistics_count_ones_own(plant):
    connection = plant.as_login("own_viewer")
    total = value(plant.owner, "select count(*) from machserial.serials")
    own, issued = plant.owner.execute(
        "select count(*), count(*) filter (where source = 'SYSTEM_GENERATED') from machserial.serials "
        "where site_id = 'AAA'"
    ).fetchone()
    assert 0 < own < total
    assert call(connection, "uniqueness_statistics")[0].total_serials == own
    assert call(connection, "uniqueness_statistics")[0].pending_conflicts == value(
        plant.owner, "select count(*) from machserial.serial_conflicts where site_id = 'AAA'"
    )
    assert call(plant.as_login("all_viewer"), "uniqueness_statistics")[0].total_serials == total
    assert call(connection, "placeholder_statistics", part_id="P")[0].total == 1
    assert [row.counter_key for row in call(connection, "counter_status", format="PER SITE")] == [OWN]
    events = {row.event_type: row.events for row in call(connection, "audit_statistics")}
    assert events["SERIAL_GENERATED"] == issued and events["SITE_REGISTERED"] == 1
    statistics = connection.execute("select * from machserial.propagation_statistics('P')").fetchall()
    assert statistics
    assert FOREIGN not in str(statistics)


def test_what_concerns_all_sites_is_not_for_one(plant):
    connection = plant.as_login("own_admin")
    for function in (
        "verify_audit()", "seal_audit()", "maintain()", "audit_anchor()", "inclusion_proof(1)",
        "migrate()", "pause('x')", "resume()", "integrity()", "fence('SHARED', reason => 'r')", "set_node(1)",
        "write_test()", "audit_months()", "reset_counter('SHARED', 9, reason => 'r')",
        "grant_site('own_admin', 'ZZZ')", "lift_site_limits('own_admin')", "limited_roles()",
        "revoke_site('own_viewer', 'AAA')", "account_for_serial(1, 'r')", "unfenced_counters()",
    ):  # fmt: skip
        with pytest.raises(errors.InsufficientPrivilege) as refused:
            connection.execute(f"select * from machserial.{function}")
        assert "not limited to sites" in str(refused.value), function


# Writing


def test_numbers_for_another_site_are_refused_and_none_is_consumed(plant):
    before = value(plant.owner, "select string_agg(c::text, ' ') from machserial.counter_status() as c")
    rows = "select (select count(*) from machserial.serials) + (select count(*) from machserial.requests) "
    count = value(plant.owner, rows)
    connection = plant.as_login("own_operator")
    for query in (
        "machserial.generate('P', 2, site_id => 'ZZZ')",
        "machserial.generate('P', 2)",  # DEFAULT is another site as well
        "machserial.generate('P', 2, site_id => 'ZZZ', request_id => 'new')",
        "machserial.generate('P', 3, site_id => 'ZZZ', request_id => 'ZZZ-REQUEST')",
        "machserial.generate('P', 2, format => 'SHARED', site_id => 'ZZZ')",
        "machserial.generate('P', 2, pattern => 'ADHOC-{SEQ:4}', site_id => 'ZZZ')",
        "machserial.register_serial('NEW', 'P', 'ZZZ')",
        "machserial.register_serials('{NEW,NEWER}', 'P', 'ZZZ', on_conflict => 'RECORD')",
        "machserial.receive_vendor_serial('NEW', 'Ltd', 'P', site_id => 'ZZZ')",
        "machserial.allocate_block('PER SITE', 3, 'line', 'P', 'ZZZ')",
        "machserial.allocate_block('PER SITE', 5, 'ZZZ line', 'P', 'ZZZ', request_id => 'ZZZ-BLOCK')",
    ):
        with pytest.raises(psycopg.Error) as refused:
            connection.execute(f"select * from {query}")
        assert refused.value.sqlstate in ("23503", "42501"), f"{query}: {refused.value}"
    assert value(plant.owner, "select string_agg(c::text, ' ') from machserial.counter_status() as c") == before
    assert value(plant.owner, rows) == count


def test_a_request_of_another_site_is_not_answered(plant):
    """At its own site the same request_id is a new request, as if there were no other."""
    connection = plant.as_login("own_operator")
    with connection.transaction(force_rollback=True):
        given = column(
            connection,
            "select serial_number from machserial.generate('P', 3, site_id => 'AAA', request_id => 'ZZZ-REQUEST')",
        )
    assert len(given) == 3 and not any(number.startswith("ZZZ") for number in given)


def issue(connection: psycopg.Connection, site: str, counter: str) -> str:
    """What generate() hands to its kernel, as somebody could make it up."""
    return value(
        connection,
        "select ('P', 'T', '{ENTERPRISE,SITE,PART_TYPE}'::text[], %s::text, now()::timestamp, f.id, f.name, "
        "f.allocation, 1::bigint, f.sequence_maximum, f.random_space, c.id, '{}'::jsonb, 1, null::bigint)"
        "::machserial._issue::text "
        "from machserial.serial_formats as f join machserial.counters as c on c.format_id = f.id "
        "where f.name = 'PER SITE' and c.site_id = %s",
        site,
        counter,
    )


def test_the_kernel_serves_no_other_site(plant):
    """A caller makes up the arguments of what generate() calls."""
    connection = plant.as_login("own_operator")
    counter = value(plant.owner, "select id from machserial.counters where site_id = 'ZZZ'")
    before = value(plant.owner, "select string_agg(c::text, ' ') from machserial.counter_status() as c")
    forged = [issue(plant.owner, site, FOREIGN) for site in (OWN, FOREIGN)]
    queries = [
        sql.SQL("select machserial._last_value({})").format(counter),
        sql.SQL("select machserial._draw_one({}, 1000)").format(counter),
        sql.SQL("select machserial._draw_on_trust({}, 1000, 2)").format(counter),
        sql.SQL("select machserial._keep_plan('P', 'ZZZ', '', '', 1)"),
        *(sql.SQL("select machserial._draw_sequenced({}, 1, 0)").format(one) for one in forged),
        *(sql.SQL("select machserial._draw_sequenced({}, 1, 1)").format(one) for one in forged),
        *(sql.SQL("select machserial._take_run({})").format(one) for one in forged),
        sql.SQL("select machserial._make_counter(1, '', 'ZZZ', '2020-01-01')"),
        sql.SQL("select machserial._claims_for_numbers('{{ZZZ-HAND-1}}', '{{SITE}}', 'ZZZ', 'T')"),
    ]
    for query in queries:
        with pytest.raises(psycopg.Error) as refused:
            connection.execute(query)
        assert refused.value.sqlstate in ("23503", "42501"), f"{query}: {refused.value}"
    assert value(plant.owner, "select string_agg(c::text, ' ') from machserial.counter_status() as c") == before
    # The same is served at one's own.
    assert value(connection, "select serial_number from machserial.generate('P', 1, site_id => %s)", OWN)


def test_a_number_that_another_site_has_is_taken_and_no_more_is_said(plant):
    connection = plant.as_login("own_operator")
    for query in (
        "select * from machserial.register_serial('ZZZ-EVERYWHERE', 'E', 'AAA')",
        "select * from machserial.receive_vendor_serial('ZZZ-EVERYWHERE', 'Ltd', 'E', site_id => 'AAA')",
        "insert into machserial.serials (serial_number, part_id, site_id) values ('ZZZ-EVERYWHERE', 'E', 'AAA')",
        # Type by type P's numbers must not repeat either.
        "insert into machserial.serials (serial_number, part_id, site_id) values ('ZZZ-HAND-1', 'P', 'AAA')",
    ):
        with pytest.raises(errors.UniqueViolation) as refused:
            connection.execute(query)
        said = text_of(refused.value).replace("ZZZ-EVERYWHERE", "").replace("ZZZ-HAND-1", "")
        assert FOREIGN not in said
    holder = value(plant.owner, "select id from machserial.serials where serial_number = 'ZZZ-EVERYWHERE'")
    found = call(connection, "check_uniqueness", serial_number="ZZZ-EVERYWHERE", part_id="E", site_id=OWN)[0]
    assert (found.has_conflict, found.conflicting_serial_ids) == (True, [None])
    assert found.conflicting_scopes == ["ENTERPRISE"]
    recorded = call(
        connection, "register_serial", serial_number="ZZZ-EVERYWHERE", part_id="E", site_id=OWN, on_conflict="RECORD"
    )[0]
    kept = value(connection, "select conflicting_serial_ids from machserial.serial_conflicts where id = %s",
                 recorded.conflict_id)  # fmt: skip
    assert holder not in kept
    unlimited = plant.as_login("all_operator")
    found = call(unlimited, "check_uniqueness", serial_number="ZZZ-EVERYWHERE", part_id="E", site_id=OWN)[0]
    assert found.conflicting_serial_ids == [holder]
    # Of one's own sites it is said.
    with pytest.raises(errors.UniqueViolation) as refused:
        connection.execute("select * from machserial.register_serial('AAA-EVERYWHERE', 'E', 'AAA')")
    assert "at site AAA" in refused.value.diag.message_detail


def test_direct_statements_write_nothing_elsewhere(plant):
    connection = plant.as_login("own_supervisor")
    foreign = {
        table: value(plant.owner, f"select min(id) from machserial.{table} where site_id = 'ZZZ'")
        for table in ("serials", "number_blocks", "vendor_serials", "late_assignment_placeholders")
    }
    own = value(plant.owner, "select min(id) from machserial.serials where site_id = 'AAA'")
    for query in (
        "insert into machserial.serials (serial_number, part_id, site_id) values ('N', 'P', 'ZZZ')",
        "insert into machserial.serials (serial_number, part_id) values ('N', 'P')",
        "insert into machserial.late_assignment_placeholders (part_id, site_id) values ('P', 'ZZZ')",
        f"insert into machserial.late_assignment_placeholders (part_id, site_id, serial_id) "
        f"values ('P', 'AAA', {foreign['serials']})",
        "insert into machserial.serial_conflicts (serial_number, part_id, site_id, scopes, source, "
        "conflicting_serial_ids, conflicting_scopes) values ('N', 'P', 'ZZZ', '{SITE}', 'MANUAL', '{}', '{}')",
        f"insert into machserial.serial_propagations (propagation_type, parent_serial_id, operation_code, "
        f"routing_sequence) values ('PASS_THROUGH', {foreign['serials']}, 'OP', 1)",
        f"insert into machserial.serial_propagations (propagation_type, parent_serial_id, child_serial_id, "
        f"operation_code, routing_sequence) values ('SPLIT', {own}, {foreign['serials']}, 'OP', 1)",
        # A serial that is not there at all is refused alike: nobody learns which ids there are.
        f"insert into machserial.serial_propagations (propagation_type, parent_serial_id, child_serial_id, "
        f"operation_code, routing_sequence) values ('SPLIT', {own}, 999999999, 'OP', 1)",
        "insert into machserial.requests (site_id, verb, request_id, arguments) values ('ZZZ', 'generate', 'N', '{}')",
        "insert into machserial.requests (site_id, verb, request_id, arguments) values ('AAA', 'generate', 'N', '{}')",
        f"insert into machserial.block_usages (block_id, sequence_number, serial_id) "
        f"values ({foreign['number_blocks']}, 3, {own})",
        "insert into machserial.sites (id) values ('NEW')",
    ):
        with pytest.raises(psycopg.Error) as refused:
            connection.execute(query)
        # A placeholder's trigger knows no such serial, and says so before the policy does.
        wanted = ("23503", "42501") if "placeholders" in query else ("42501",)
        assert refused.value.sqlstate in wanted, f"{query}: {refused.value}"
    for table, change in (
        ("serials", "status = 'RETIRED', status_reason = 'r'"),
        ("serials", "lot_number = 'STOLEN'"),
        ("number_blocks", "status = 'RETURNED'"),
        ("vendor_serials", "status = 'ACTIVE'"),
        ("late_assignment_placeholders", "status = 'FAILED', failure_reason = 'r'"),
        ("sites", "name = 'mine'"),
    ):
        key = "id" if table == "sites" else "site_id"
        assert connection.execute(f"update machserial.{table} set {change} where {key} = 'ZZZ'").rowcount == 0
    assert connection.execute("delete from machserial.sites where id = 'ZZZ'").rowcount == 0
    assert value(plant.owner, "select count(*) from machserial.serials where lot_number = 'STOLEN'") == 0


def test_no_function_of_the_caller_sees_rows_before_the_limits(plant):
    """A condition that tells on the side is not asked about rows that are not to be seen."""
    connection = plant.as_login("own_operator")
    connection.execute(
        "create function pg_temp.tell(seen text) returns boolean language plpgsql cost 0.0000001 "
        "as $$ begin raise notice '%', seen; return true; end $$"
    )
    told: list[str] = []
    connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
    for relation, name in (
        ("serials", "serial_number"), ("system_generated_serials", "serial_number"), ("blocks", "holder"),
        ("serial_uniqueness_checks", "serial_number"), ("audit_events", "site_id"),
        ("requests", "request_id"),
    ):  # fmt: skip
        connection.execute(f"select from machserial.{relation} where pg_temp.tell({name})")
    # But for what its own site has on record: that it wanted a number of the other one.
    assert told and {text for text in told if FOREIGN in (text or "")} <= {"ZZZ-EVERYWHERE"}


def test_copy_and_merge_keep_to_the_limits(plant, server):
    connection = plant.as_login("own_operator")
    with connection.cursor().copy("copy machserial.serials to stdout") as rows:
        assert FOREIGN not in b"".join(bytes(row) for row in rows).decode()
    with pytest.raises(psycopg.Error), connection.cursor().copy(
        "copy machserial.serials (serial_number, part_id, site_id) from stdin"
    ) as target:
        target.write_row(("N", "P", FOREIGN))
    with pytest.raises(errors.InsufficientPrivilege):
        connection.execute("truncate machserial.serials")
    if server.major >= 15:
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(
                "merge into machserial.serials as s using (values ('N')) as v (n) on s.serial_number = v.n "
                "when not matched then insert (serial_number, part_id, site_id) values (v.n, 'P', 'ZZZ')"
            )


# Roles


HOLDERS = "select conflicting_serial_ids from machserial.check_uniqueness('ZZZ-EVERYWHERE', 'E', site_id => 'AAA')"


def sites_seen(connection: psycopg.Connection) -> list[str]:
    return column(connection, "select distinct site_id from machserial.serials order by 1")


def test_set_role_leads_out_of_no_limits(plant):
    connection = plant.as_login("own_operator")
    for statement in ("set role machserial_operator", "reset role", "set role none", "set role own_operator"):
        connection.execute(statement)
        assert sites_seen(connection) == [OWN], statement
        assert FOREIGN not in everything(connection, "system_generated_serials"), statement
        assert heard(connection, "select * from machserial.find_serial('ZZZ-000001')") == "[]"
        assert value(connection, HOLDERS) == [None], statement
        refused = heard(connection, "select * from machserial.generate('P', site_id => 'ZZZ')")
        assert "unknown" in refused and "None of the sites of this role" in refused, statement
        # There is no difference to a site that does not exist.
        nowhere = heard(connection, "select * from machserial.generate('P', site_id => 'NOWHERE')")
        assert nowhere.replace("NOWHERE", FOREIGN) == refused, statement
    connection.execute("select set_config('role', 'machserial_operator', false)")
    assert sites_seen(connection) == [OWN]
    for statement in ("set role all_operator", "set session authorization all_operator", "set row_security = off"):
        with pytest.raises(psycopg.Error):
            connection.execute(statement)
            sites_seen(connection)
    connection.execute("reset row_security")


def test_a_role_that_is_taken_on_is_limited(plant):
    """As gateways do: an unlimited login that takes on a limited role for each request."""
    plant.owner.execute("create role gateway login noinherit")
    plant.owner.execute("grant own_operator, all_operator to gateway")
    connection = plant.as_login("gateway")
    for role, seen in (("own_operator", [OWN]), ("all_operator", [OWN, FOREIGN]), ("own_operator", [OWN])):
        connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        # Every form of statement that keeps a plan.
        for _ in range(7):
            assert sites_seen(connection) == seen
            view = everything(connection, "system_generated_serials")
            assert (FOREIGN in view) == (FOREIGN in seen)
            found = heard(connection, "select * from machserial.find_serial('ZZZ-000001')")
            assert (found != "[]") == (FOREIGN in seen)
            assert (value(connection, HOLDERS) != [None]) == (FOREIGN in seen)


def test_a_plan_that_was_made_before_is_not_used_after(plant):
    connection = plant.as_login("all_operator")
    connection.execute("prepare seen as select distinct site_id from machserial.serials order by 1")
    connection.execute("prepare viewed as select distinct site_id from machserial.system_generated_serials order by 1")
    for _ in range(7):
        assert connection.execute("execute seen").fetchall() == [(OWN,), (FOREIGN,)]
        assert connection.execute("execute viewed").fetchall() == [(OWN,), (FOREIGN,)]
        assert heard(connection, "select * from machserial.find_serial('ZZZ-000001')") != "[]"
    call(plant.owner, "grant_site", role="all_operator", site_id=OWN)
    assert connection.execute("execute seen").fetchall() == [(OWN,)]
    assert connection.execute("execute viewed").fetchall() == [(OWN,)]
    assert heard(connection, "select * from machserial.find_serial('ZZZ-000001')") == "[]"
    call(plant.owner, "grant_site", role="all_operator", site_id=FOREIGN)
    assert connection.execute("execute seen").fetchall() == [(OWN,), (FOREIGN,)]
    call(plant.owner, "revoke_site", role="all_operator", site_id=FOREIGN)
    call(plant.owner, "revoke_site", role="all_operator", site_id=OWN)
    assert connection.execute("execute seen").fetchall() == []
    call(plant.owner, "lift_site_limits", role="all_operator")
    assert connection.execute("execute seen").fetchall() == [(OWN,), (FOREIGN,)]
    assert connection.execute("execute viewed").fetchall() == [(OWN,), (FOREIGN,)]


def test_a_login_without_inheritance_is_limited_as_well(plant):
    plant.owner.execute("create role single login noinherit")
    plant.owner.execute("grant machserial_operator to single")
    call(plant.owner, "grant_site", role="single", site_id=OWN)
    connection = plant.as_login("single")
    with pytest.raises(errors.InsufficientPrivilege):
        sites_seen(connection)
    connection.execute("set role machserial_operator")
    assert sites_seen(connection) == [OWN]


def test_a_group_limits_its_members(plant):
    plant.owner.execute("create role team")
    plant.owner.execute("create role member login in role machserial_operator, team")
    call(plant.owner, "grant_site", role="team", site_id=OWN)
    connection = plant.as_login("member")
    assert sites_seen(connection) == [OWN]
    # What it is granted itself comes on top.
    call(plant.owner, "grant_site", role="member", site_id=FOREIGN)
    assert sites_seen(connection) == [OWN, FOREIGN]


def test_functions_and_views_of_others_lead_out_of_no_limits(plant):
    """Somebody's function that runs with its owner's rights, and a view of his: the login's limits hold."""
    plant.owner.execute("create schema tools; grant create, usage on schema tools to all_operator, own_operator")
    plant.owner.execute("grant usage on schema tools to public")
    unlimited = plant.as_login("all_operator")
    unlimited.execute(
        "create function tools.numbers() returns setof text language sql security definer "
        "as 'select serial_number from machserial.serials order by 1'"
    )
    unlimited.execute("create view tools.numbers as select serial_number from machserial.serials")
    unlimited.execute("grant select on tools.numbers to own_operator")
    connection = plant.as_login("own_operator")
    assert FOREIGN not in str(connection.execute("select tools.numbers()").fetchall())
    assert FOREIGN not in str(connection.execute("select * from tools.numbers").fetchall())
    # And who is limited gets nothing out of the calls of those who are not.
    connection.execute(
        "create function tools.trap() returns setof text language sql security definer "
        "as 'select serial_number from machserial.serials order by 1'"
    )
    assert FOREIGN not in str(unlimited.execute("select tools.trap()").fetchall())


def test_what_others_see_is_not_told(plant):
    connection = plant.as_login("own_operator")
    call(plant.owner, "grant_site", role="all_viewer", site_id=FOREIGN)
    assert FOREIGN not in str(value(connection, "select machserial._site_limits('all_viewer')"))
    assert value(connection, "select machserial._own_sites()") == [OWN]
    # Readable only because somebody granted all tables: the policy shows no row.
    assert everything(connection, "site_grants") == ""
    assert FOREIGN not in str(value(connection, "select machserial._sites_of_role('all_viewer', 'usage')"))
    with pytest.raises(errors.InsufficientPrivilege):
        connection.execute("select * from machserial.limited_roles()")


def test_actor_and_settings_are_no_way_out(plant):
    connection = plant.as_login("own_operator")
    connection.execute("set machserial.actor = 'all_operator'")
    connection.execute("create temp table site_grants (role regrole, site_id text)")
    connection.execute("insert into pg_temp.site_grants values ('own_operator', 'ZZZ')")
    connection.execute("set search_path = pg_temp, machserial, public")
    assert sites_seen(connection) == [OWN]
    with pytest.raises(errors.InsufficientPrivilege):
        connection.execute("insert into machserial.site_grants (role, site_id) values ('own_operator', 'ZZZ')")
    made = call(connection, "register_serial", serial_number="MINE", part_id="P", site_id=OWN)[0]
    event = plant.owner.execute(
        "select performed_by, db_user from machserial.audit_events where serial_id = %s", (made.serial_id,)
    ).fetchone()
    assert event == ("all_operator", "own_operator")


# What it costs the others


def test_who_is_not_limited_has_the_plans_of_a_database_without_policies(plant):
    for query in (
        "select * from machserial.serials where id = 1",
        "select * from machserial.serials where serial_number = 'X' and holds_claim and 'SITE' = any(scopes)",
        "select * from machserial.serial_propagations where parent_serial_id = 1",
        "select * from machserial.audit_events where serial_id = 1",
        "update machserial.serials set lot_number = 'X' where id = 1",
        "select id from machserial.serials "
        "where translate(upper(serial_number collate \"C\"), 'OILZSB -', '011258') = 'X'",
    ):
        plans = [
            plant.as_login(login).execute(f"explain (costs off) {query}").fetchall()
            for login in ("all_operator",)
        ]
        plans.append(plant.owner.execute(f"explain (costs off) {query}").fetchall())
        assert plans[0] == plans[1], query
    limited = plant.as_login("own_operator").execute("explain (costs off) select * from machserial.serials").fetchall()
    assert "site_id" in str(limited)
