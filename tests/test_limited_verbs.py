"""Every function that somebody may call, by a role that is limited to a site: at its own site it works, at another it
is refused or tells nothing. The functions come from the list of privileges: a new one without an entry here fails.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from roles_support import FOREIGN, OWN, ROLES, Plant, limited_plant, text_of
from servers import Server
from support import call, column, value

# Of no site: they work as for anybody.
OF_NO_SITE = {
    "assign_format": ["'P', 'SHARED'", "'P', 'PER SITE'", "'P', 'DAILY'"],
    "assign_format_to_type": "'T', 'SHARED'",
    "attach": "'mine.orders', 'WORK_ORDER_CREATE', part_column => 'part'",
    "audit_statistics": "",
    "check_digit": "'luhn', '123'",
    "conflict_history": "",
    "counter_status": "",
    "create_format": [
        "'NEW', 'N{{SEQ:4}}'",
        "'NEW', '{{SITE}}{{YYYY}}{{MM}}{{DD}}{{SEQ:4}}', reset => 'DAILY', counter_per => 'SITE'",
    ],
    "create_trigger": "'P', 'MATERIAL_RECEIPT', 'SYSTEM_GENERATED'",
    "deactivate_format": "'SPARE'",
    "delete_trigger": "{trigger}",
    "delete_vendor_rule": "'ACME'",
    "detach": "'mine.attached', 'WORK_ORDER_CREATE'",
    "disable_trigger": "{trigger}",
    "enable_trigger": "{trigger}",
    "format_for": "'P'",
    "has_valid_check_digit": "'luhn', '1230'",
    "health": "",
    "health_check": "'paused'",
    "parse_pattern": "'A{{SEQ:4}}'",
    "pending_conflicts": "",
    "pending_migrations": "",
    "pending_placeholders": "",
    "placeholder_statistics": "'P'",
    "propagation_history": "'P'",
    "propagation_statistics": "'P'",
    "ready": "",
    "register_part": "'P', 'T', name => 'Pump'",
    "revise_format": "'SPARE', 'S{{SEQ:5}}'",
    "set_vendor_rule": "'ACME', min_length => 3",
    "trigger_statistics": "",
    "unassign_format": "'P', 'SHARED'",
    "uniqueness_statistics": "",
    "update_trigger": "{trigger}, batch_size => 2",
    "validate_pattern": "'A{{SEQ:4}}'",
    "validate_serial": "'A0001', 'A{{SEQ:4}}'",
    "verify_inclusion": "'\\x00', 0, 1, '{{}}', '\\x00'",
    "version": "",
}

# Of a site, or of what is there: {serial}, {vendor} and the like are ids of the site, {number} a number of it.
OF_A_SITE = {
    "accept_vendor_serial": ["{vendor}"],
    "accept_vendor_serials": ["'{{{vendor}}}'"],
    "allocate_block": ["'PER SITE', 3, 'line', 'P', '{site}'"],
    "assign_placeholder": ["{placeholder}", "{placeholder}, 'BY-HAND'"],
    "assign_placeholders": ["placeholder_ids => '{{{placeholder}}}'"],
    "audit_trail": ["serial_id => {serial}"],
    "block_serials": ["{block}"],
    "check_uniqueness": ["'{number}', 'P', site_id => '{site}'"],
    "claims_of": ["'{{{number}}}', 'P', '{site}'"],
    "create_placeholders": ["'P', 2, site_id => '{site}'"],
    "explain_triggers": ["'WORK_ORDER_CREATE', 'P', '{{\"site_id\": \"{site}\"}}'"],
    "fail_placeholder": ["{placeholder}, 'scrapped'"],
    "find_serial": ["'{number}'"],
    "fire": [
        "'WORK_ORDER_CREATE', 'P', '{{\"site_id\": \"{site}\"}}', 2",
        "'OPERATION_COMPLETE', 'P', '{{\"site_id\": \"{site}\"}}', 2",
        "'MATERIAL_RECEIPT', 'P', "
        "'{{\"site_id\": \"{site}\", \"vendor_name\": \"ACME\", \"serial_number\": \"FIRED\"}}'",
    ],
    "generate": [
        "'P', site_id => '{site}'",
        "'P', 3, site_id => '{site}', request_id => 'once'",
        "'P', 2, format => 'SHARED', site_id => '{site}'",
        "'P', 2, pattern => 'AD-HOC-{{SEQ:4}}', site_id => '{site}'",
        "'P', 2, format => 'NO GAPS', site_id => '{site}'",
    ],
    "invalidate_serial": ["{serial}, 'forged'"],
    "lineage": ["{serial}"],
    "merge": ["'{{{serial}}}', {other}, 'OP', 1"],
    "pass_through": ["{serial}, 'OP', 1"],
    "preview": ["'{{SITE}}-{{SEQ:3}}', site_id => '{site}'"],
    "receive_vendor_serial": ["'FRESH', 'ACME', 'P', site_id => '{site}'"],
    "receive_vendor_serials": ["'ACME', 'P', '{{FRESH,FRESHER,FRESH}}', site_id => '{site}'"],
    "register_serial": ["'FRESH', 'P', '{site}'", "'FRESH', 'P', '{site}', '{{ENTERPRISE}}'"],
    "register_serials": [
        "'{{FRESH,FRESHER}}', 'P', '{site}'",
        "'{{FRESH,{number}}}', 'P', '{site}', on_conflict => 'RECORD'",
    ],
    "register_site": ["'{site}', 'New name'", "'{site}', time_zone => 'Asia/Tokyo'"],
    "reject_vendor_serial": ["{vendor}, 'blowhole'"],
    "report_block": ["{block}, (select array_agg(s) from machserial.block_serials({block}) as s)"],
    "resolve_conflict": ["'{number}', 'P', 'KEEP', {taken}, reason => 'typed twice'"],
    "retire_serial": ["{serial}, 'worn out'"],
    "return_block": ["{block}"],
    "split": ["{serial}, '{{{other}}}', 'OP', 1"],
    "transform": ["{serial}, 'OP', 1, target_serial_id => {other}", "{serial}, 'OP', 1"],
    "uniqueness_report": ["'{number}', 'P'"],
    "validate_vendor_serial": ["{vendor}"],
    "waive_vendor_rule": ["{faulty}, 'seen by the master'"],
}

# Of all sites together: refused with 42501 for whoever is limited.
OF_ALL_SITES = {
    "account_for_serial": "{serial}, 'r'",
    "adopt_schema": "",
    "audit_anchor": "",
    "audit_months": "",
    "fence": "'SHARED', reason => 'r'",
    "grant_site": "'own_viewer', '{site}'",
    "inclusion_proof": "1",
    "integrity": "",
    "lift_site_limits": "'own_viewer'",
    "limited_roles": "",
    "maintain": "",
    "migrate": "",
    "pause": "'r'",
    "preview_fence": "'SHARED'",
    "reset_counter": "'SHARED', 900, reason => 'r'",
    "restore_archived": "'2020-01-01'",
    "resume": "'r'",
    "revoke_site": "'own_viewer', 'AAA'",
    "seal_audit": "",
    "set_node": "1",
    "unfenced_counters": "",
    "verify_archived": "'2020-01-01'",
    "verify_audit": "",
    "verify_lineage": "",
    "write_test": "",
}

# The owner's alone, or told to everybody by what stands in the code.
ELSEWHERE = {"change_owner", "create_roles", "drop_archived", "migration_script", "record_archive"}


def things_of(connection: psycopg.Connection, site: str) -> dict[str, object]:
    """Something of every kind at a site, by what the templates call it."""
    serials = [
        call(connection, "register_serial", serial_number=f"{site}-THING-{n}", part_id="P", site_id=site)[0].serial_id
        for n in range(3)
    ]
    call(connection, "register_serial", serial_number=f"{site}-THING-2", part_id="P", site_id=site,
         on_conflict="RECORD")  # fmt: skip
    received = [
        call(connection, "receive_vendor_serial", serial_number=number, vendor_name=vendor, part_id="P", site_id=site)
        for number, vendor in ((f"{site}-GOOD", "OTHER"), (f"{site[0]}", "ACME"))
    ]
    return {
        "site": site,
        "number": f"{site}-THING-2",
        "serial": serials[0],
        "other": serials[1],
        "taken": serials[2],
        "vendor": received[0][0].id,
        "faulty": received[1][0].id,
        "placeholder": call(connection, "create_placeholders", part_id="P", site_id=site)[0].id,
        "block": call(connection, "allocate_block", format="PER SITE", quantity=4, holder=f"{site} line", part_id="P",
                      site_id=site)[0].block_id,
        "trigger": value(connection, "select min(id) from machserial.trigger_definitions"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def plant(server: Server) -> Iterator[Plant]:
    with limited_plant(server, ordinary=True) as made:
        owner = made.owner
        call(owner, "create_format", name="SPARE", pattern="S{SEQ:4}")
        call(owner, "create_format", name="DAILY", pattern="{YYYY}{MM}{DD}{SITE}{SEQ:4}", reset="DAILY",
             counter_per="SITE_PART")  # fmt: skip
        call(owner, "create_format", name="NO GAPS", pattern="{SITE}/{SEQ:4}", allocation="GAPLESS", counter_per="SITE")
        call(owner, "assign_format", part_id="P", format="SHARED", priority=-1)
        call(owner, "set_vendor_rule", vendor_name="ACME", min_length=2)
        for event, kind in (
            ("WORK_ORDER_CREATE", "SYSTEM_GENERATED"),
            ("OPERATION_COMPLETE", "LATE_ASSIGNMENT"),
            ("MATERIAL_RECEIPT", "VENDOR"),
        ):
            call(owner, "create_trigger", part_id="P", trigger_type=event, assignment_type=kind)
        owner.execute("create schema mine")
        owner.execute("grant create, usage on schema mine to own_supervisor")
        connection = made.as_login("own_supervisor")
        connection.execute("create table mine.orders (id integer primary key, part text)")
        connection.execute("create table mine.attached (id integer primary key, part text)")
        connection.execute("select machserial.attach('mine.attached', 'WORK_ORDER_CREATE', part_column => 'part')")
        made.limited = {role: made.as_login(f"own_{role}") for role in ROLES}
        made.things = {site: things_of(owner, site) for site in (OWN, FOREIGN)}
        yield made


def lowest_roles(connection: psycopg.Connection) -> dict[str, str]:
    """Each public function that somebody may call, and the lowest role that may."""
    return dict(
        connection.execute(
            "select n.name, l.from_role from machserial._privileges() as l "
            "cross join regexp_split_to_table(btrim(l.objects, e' \\n'), '\\s+') as n (name) "
            "where l.kind = 'function' and l.from_role <> 'superuser' and n.name !~ '^_'"
        ).fetchall()
    )


def answer(plant: Plant, name: str, arguments: str) -> tuple[str | None, str]:
    """SQLSTATE and text of what a limited role is answered; nothing of it stays."""
    role = lowest_roles(plant.owner)[name]
    connection = plant.limited[role]
    try:
        with connection.transaction(force_rollback=True):
            return None, str(connection.execute(f"select * from machserial.{name}({arguments})").fetchall())
    except psycopg.Error as error:
        return error.sqlstate, text_of(error)


def cases(entries: dict) -> list[tuple[str, str]]:
    return [
        (name, template)
        for name, templates in entries.items()
        for template in ([templates] if isinstance(templates, str) else templates)
    ]


PUBLIC = """
    select distinct proname::text from pg_proc where pronamespace = 'machserial'::regnamespace and proname !~ '^_'
"""


def test_every_function_has_an_entry(plant):
    entries = [*OF_NO_SITE, *OF_A_SITE, *OF_ALL_SITES, *ELSEWHERE]
    assert sorted(entries) == sorted(name for (name,) in plant.owner.execute(PUBLIC).fetchall())


@pytest.mark.parametrize(("name", "template"), cases(OF_NO_SITE))
def test_what_is_of_no_site_works(plant, name, template):
    sqlstate, said = answer(plant, name, template.format(**plant.things[OWN]))
    assert sqlstate is None, said
    assert FOREIGN not in said


@pytest.mark.parametrize(("name", "template"), cases(OF_A_SITE))
def test_at_its_own_site_a_verb_works_and_elsewhere_not(plant, name, template):
    sqlstate, said = answer(plant, name, template.format(**plant.things[OWN]))
    assert sqlstate is None, said
    arguments = template.format(**plant.things[FOREIGN])
    is_writing = value(plant.owner, "select bool_or(provolatile = 'v') from pg_proc where proname = %s "
                       "and pronamespace = 'machserial'::regnamespace", name)  # fmt: skip
    sqlstate, said = answer(plant, name, arguments)
    assert sqlstate in ("22023", "23503", "42501", "P0002") or (sqlstate is None and not is_writing), said
    numbers = column(plant.owner, "select distinct serial_number from machserial.serials where site_id = %s", FOREIGN)
    assert [one for one in numbers if one in said and one not in arguments] == []
    # For whoever is not limited the same works there.
    with plant.owner.transaction(force_rollback=True):
        plant.owner.execute(f"select * from machserial.{name}({arguments})")


@pytest.mark.parametrize(("name", "template"), cases(OF_ALL_SITES))
def test_what_is_of_all_sites_is_refused(plant, name, template):
    sqlstate, said = answer(plant, name, template.format(**plant.things[OWN]))
    assert sqlstate == "42501" and "not limited to sites" in said, said


# What the policies of the tables themselves say: a row and what it refers to, in one statement.

TOGETHER = "with made as (insert into machserial.serials (serial_number, part_id, site_id, source, status) " \
    "values ('TOGETHER', 'P', '{site}', '{source}', 'PENDING') returning id) "


@pytest.mark.parametrize("statement", [
    "insert into machserial.vendor_serials (serial_number, vendor_name, part_id, site_id) "
    "values ('FRESH', 'ACME', 'P', '{site}')",
    TOGETHER.replace("{source}", "VENDOR")
    + "insert into machserial.vendor_serials (id, vendor_name) select id, 'ACME' from made",
    TOGETHER.replace("{source}", "MANUAL")
    + "insert into machserial.serial_propagations (propagation_type, parent_serial_id, child_serial_id, "
    "operation_code, routing_sequence) select 'TRANSFORM', {serial}, id, 'OP', 1 from made",
    "insert into machserial.serial_propagations (propagation_type, parent_serial_id, operation_code, routing_sequence) "
    "values ('PASS_THROUGH', {serial}, 'OP', 1)",
    "insert into machserial.late_assignment_placeholders (part_id, site_id) values ('P', '{site}')",
    "update machserial.late_assignment_placeholders set serial_id = {serial} where id = {placeholder}",
    "update machserial.vendor_serials set status = 'ACTIVE', internal_serial_id = {serial} where id = {vendor}",
    "insert into machserial.serial_conflicts (serial_number, part_id, site_id, scopes, source, serial_id, "
    "conflicting_serial_ids, conflicting_scopes) "
    "select serial_number, 'P', '{site}', '{{SITE}}', 'MANUAL', id, '{{}}', '{{}}' from machserial.serials "
    "where id = {serial}",
    "update machserial.serials set status = 'CONFLICT', status_reason = 'seen' where id = {serial}",
])  # fmt: skip
def test_a_statement_writes_at_its_own_site_and_not_elsewhere(plant, statement):
    connection = plant.as_login("own_operator")
    with connection.transaction(force_rollback=True):
        assert connection.execute(statement.format(**plant.things[OWN])).rowcount == 1
    try:
        with connection.transaction(force_rollback=True):
            assert connection.execute(statement.format(**plant.things[FOREIGN])).rowcount == 0
    except psycopg.Error as refused:
        assert refused.sqlstate in ("22023", "23503", "42501"), str(refused)
    # Of a row at its own site it may not make one that refers to another's.
    if "{serial}" in statement:
        mixed = {**plant.things[OWN], "serial": plant.things[FOREIGN]["serial"]}
        try:
            with connection.transaction(force_rollback=True):
                assert connection.execute(statement.format(**mixed)).rowcount == 0
        except psycopg.Error as refused:
            assert refused.sqlstate in ("22023", "23503", "42501"), str(refused)
