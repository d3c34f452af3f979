"""integrity(): silent about what is sound, however it came about, and exact about every fault. Each fault is injected
as it could only come about behind the back of all rules; where the remedy is a statement, it is carried out.
"""

from __future__ import annotations

import re

import pytest
from support import call, column, generated, make_format, make_part, refused, register, value

FINDINGS = "select name, severity, object, message, remedy from machserial.integrity()"

# What triggers and constraints cannot prevent: a superuser.
TRIGGERS_OFF = "set local session_replication_role = replica; {}; set local session_replication_role = origin"
CATALOG = "set local allow_system_table_mods = on; {}; set local allow_system_table_mods = off"


def build_plant(connection):
    """Something of everything, and all of it by the rules."""
    call(connection, "register_site", site_id="BER", name="Berlin", time_zone="Europe/Berlin")
    make_part(connection, "P", "PUMP")
    make_part(connection, "Q", "VALVE")
    make_format(connection, "plain", "A{SEQ:6}")
    make_format(connection, "gapless", "G{SEQ:6}", allocation="GAPLESS", counter_per="SITE")
    make_format(connection, "daily", "{YYYY}{MM}{DD}-{SITE}-{SEQ:4}", reset="DAILY", counter_per="SITE_PART")
    make_format(connection, "random", "R{RANDOM:8}")
    call(connection, "assign_format", part_id="P", format="plain")
    call(connection, "assign_format", part_id="Q", format="daily")
    generated(connection, "P", 50, request_id="r")
    generated(connection, "P", 5, format="gapless", site_id="BER")
    generated(connection, "Q", 5, site_id="BER")
    generated(connection, "Q", 5, format="random")
    call(connection, "revise_format", name="plain", pattern="A{SEQ:6}-{CHECK:luhn}")
    serials = [row.serial_id for row in call(connection, "generate", part_id="P", quantity=10)]
    call(connection, "retire_serial", serial_id=serials[0], reason="worn out")
    call(connection, "invalidate_serial", serial_id=serials[0], reason="never was")
    connection.execute(
        "insert into machserial.serials (serial_number, part_id, status, status_reason) "
        "values ('OLD', 'P', 'RETIRED', 'imported')"
    )
    vendor = [
        call(connection, "receive_vendor_serial", serial_number=number, vendor_name="V", part_id="Q")[0].id
        for number in ("V-1", "V-2", "V-3")
    ]
    call(connection, "accept_vendor_serial", vendor_serial_id=vendor[0])
    call(connection, "reject_vendor_serial", vendor_serial_id=vendor[1], reason="blowhole")
    register(connection, ["V-1"], "Q", on_conflict="RECORD")
    duplicates = register(connection, ["D-1", "D-2"], "P")
    connection.execute(
        "update machserial.serials set status = 'CONFLICT', status_reason = 'seen' where serial_number = 'D-1'"
    )
    connection.execute(
        "update machserial.serials set status = 'CONFLICT', status_reason = 'seen' where serial_number = 'D-2'"
    )
    connection.execute(
        "update machserial.serials set status = 'ACTIVE', status_reason = 'misread' where id = %s",
        (duplicates[0].serial_id,),
    )
    block = call(connection, "allocate_block", format="plain", quantity=10, holder="LINE", part_id="P")[0].block_id
    used = column(connection, "select machserial.block_serials(%s) limit 4", block)
    call(connection, "report_block", block_id=block, used=used)
    full = call(connection, "allocate_block", format="plain", quantity=2, holder="LINE", part_id="P")[0].block_id
    used = column(connection, "select machserial.block_serials(%s)", full)
    call(connection, "report_block", block_id=full, used=used)
    generated(connection, "P", 3)
    call(connection, "split", source_serial_id=serials[1], target_serial_ids=serials[2:4], operation_code="OP-1",
         routing_sequence=1)  # fmt: skip
    call(connection, "merge", source_serial_ids=[serials[5]], target_serial_id=serials[4], operation_code="OP-2",
         routing_sequence=2)  # fmt: skip
    placeholders = [row.id for row in call(connection, "create_placeholders", part_id="P", quantity=2)]
    call(connection, "assign_placeholder", placeholder_id=placeholders[0])
    call(connection, "create_trigger", part_id="P", trigger_type="WORK_ORDER_CREATE",
         assignment_type="SYSTEM_GENERATED")  # fmt: skip
    connection.execute("create table public.orders (id text primary key, part text, lots text)")
    connection.execute(
        "select machserial.attach('public.orders', 'WORK_ORDER_CREATE', part_column => 'part', "
        "context_columns => '{lot_number=lots}')"
    )
    connection.execute("insert into public.orders values ('WO-1', 'P', 'L-1')")


pytestmark = pytest.mark.prepared(setup=build_plant)


@pytest.fixture
def plant(connection):
    return connection


def findings(connection) -> list[tuple]:
    return connection.execute(FINDINGS).fetchall()


def test_what_came_about_by_the_rules_is_sound(plant):
    assert findings(plant) == []
    call(plant, "maintain")
    call(plant, "set_node", node=3)
    generated(plant, "P", 3)
    call(plant, "set_node", node=2)
    serial = call(plant, "generate", part_id="P")[0].serial_id
    call(plant, "retire_serial", serial_id=serial, reason="worn out")
    call(plant, "register_site", site_id="BER", time_zone="Asia/Tokyo")
    assert findings(plant) == []


@pytest.mark.parametrize(
    ("forged", "name"),
    [
        ("update machserial.serials set serial_number = 'FORGED' where id = {id}", "identity"),
        ("update machserial.serials set part_id = 'Q', part_type = 'VALVE' where id = {id}", "identity"),
        ("update machserial.serials set site_id = 'BER' where id = {id}", "identity"),
        ("update machserial.serials set created_by = 'eve' where id = {id}", "identity"),
        ("update machserial.serials set created_at = created_at - interval '1 second' where id = {id}", "identity"),
        ("update machserial.serials set scopes = '{{SITE}}' where id = {id}", "scopes"),
        ("delete from machserial.serials where id = {id}", "deleted_serial"),
    ],
)
def test_a_serial_that_is_not_what_its_events_say(plant, forged, name):
    serial = call(plant, "generate", part_id="P")[0].serial_id
    # A change by the rules is no fault.
    plant.execute("update machserial.serials set scopes = '{SITE,PART_TYPE,ENTERPRISE}' where id = %s", (serial,))
    own = "select name, object from machserial.integrity('identity')"
    assert plant.execute(own).fetchall() == []
    plant.execute(TRIGGERS_OFF.format(forged.format(id=serial)))
    assert plant.execute(own).fetchall() == [(name, f"serial {serial}")]


def test_what_should_be_there_is_what_is_there(plant):
    """What is read from the migrations is neither more nor less than what they make."""
    own = "machserial._own_relations() as r on not r.is_partition and r.oid"
    columns = f"select r.relation || ' ' || a.attname from pg_attribute as a join {own} = a.attrelid where a.attnum > 0"
    catalog = {
        "table": "select r.relation || ' ' || r.relation from machserial._own_relations() as r where not is_partition",
        "column": columns,
        "not null": f"{columns} and a.attnotnull",
        "default": f"{columns} and a.atthasdef and a.attgenerated = ''",
        "index": f"select x.relname::text from pg_index as i join pg_class as x on x.oid = i.indexrelid "
        f"join {own} = i.indrelid "
        "where not exists (select from pg_constraint as k where k.conindid = x.oid and k.contype in ('p', 'u', 'x'))",
        "trigger": "select c.relname || ' ' || t.tgname from pg_trigger as t join pg_class as c on c.oid = t.tgrelid "
        "where c.relnamespace = 'machserial'::regnamespace and not t.tgisinternal and not c.relispartition",
        "constraint": f"select r.relation || ' ' || k.conname from pg_constraint as k join {own} = k.conrelid "
        "where k.contype <> 'n'",
        "policy": f"select r.relation || ' ' || p.polname from pg_policy as p join {own} = p.polrelid",
        "row security": "select c.relname || ' ' || c.relname from pg_class as c "
        f"join {own} = c.oid where c.relrowsecurity",
    }
    assert column(plant, "select distinct kind from machserial._expected_objects() order by 1") == sorted(catalog)
    for kind, query in catalog.items():
        expected = column(
            plant,
            "select case when kind = 'index' then name else relation || ' ' || name end "
            "from machserial._expected_objects() where kind = %s",
            kind,
        )
        assert sorted(expected) == sorted(column(plant, query)) and len(expected) > 15, kind


def one_serial(condition: str) -> str:
    return f"(select min(id) from machserial.serials where {condition})"


ACTIVE = one_serial("status = 'ACTIVE' and source = 'SYSTEM_GENERATED'")
ACCEPTED, REJECTED, PENDING = (
    one_serial(f"source = 'VENDOR' and status = '{status}'") for status in ("ACTIVE", "REJECTED", "PENDING")
)
LAST = "(select max(id) from machserial.serials where format_id = 1)"
COUNTER = "(select min(id) from machserial.counters where format_id = 1)"
GAPLESS = "(select c.id from machserial.counters as c where c.format_id = 2 and c.site_id = 'BER')"
OPEN = "(select min(id) from machserial.number_blocks where status = 'OPEN')"
FULL = "(select min(id) from machserial.number_blocks where status = 'USED')"
# What the counter gave after the last block.
BEYOND = (
    "select id from machserial.serials where format_id = 5 "
    "and sequence_number > (select max(last_value) from machserial.number_blocks)"
)
WITHOUT_INDEX = (
    "update pg_index set indisready = false, indisvalid = false where indexrelid = 'machserial.{}'::regclass",
    "update pg_index set indisready = true, indisvalid = true where indexrelid = 'machserial.{}'::regclass",
)


def around(wrapper: str, *statements: str) -> list[str]:
    return [wrapper.format(statement) for statement in statements]


def duplicate(index: str, statement: str) -> list[str]:
    """A row that the unique index does not know of."""
    off, on = (CATALOG.format(one.format(index)) for one in WITHOUT_INDEX)
    return [off, statement, on]


# name of the finding, the object it is about, how it comes about
FAULTS = {
    "claim kept that was released": (
        "generated_column", "serial",
        around(CATALOG, "update pg_attribute set attgenerated = '' where attrelid = 'machserial.serials'::regclass "
               "and attname = 'holds_claim'")
        + around(TRIGGERS_OFF, f"update machserial.serials set holds_claim = false where id = {ACTIVE}")
        + around(CATALOG, "update pg_attribute set attgenerated = 's' where attrelid = 'machserial.serials'::regclass "
                 "and attname = 'holds_claim'"),
    ),
    "number twice": (
        "duplicate_claim", "serial number OLD",
        duplicate("serials_part_type_key",
                  "insert into machserial.serials (serial_number, part_id, site_id) values ('OLD', 'P', 'BER')"),
    ),
    "status changed": (
        "status", "serial",
        around(TRIGGERS_OFF, f"update machserial.serials set status = 'RETIRED' where id = {ACTIVE}"),
    ),
    "status changed back": (
        "status", "serial",
        around(TRIGGERS_OFF, "update machserial.serials set status = 'ACTIVE' where status = 'INVALID'"),
    ),
    "import changed": (
        "status", "serial",
        around(TRIGGERS_OFF, "update machserial.serials set status = 'ACTIVE' where serial_number = 'OLD'"),
    ),
    "claim released": (
        "status", "serial",
        around(TRIGGERS_OFF, "update machserial.serials set claim_released = true where serial_number = 'OLD'"),
    ),
    "event gone": (
        "missing_event", "serial",
        around(TRIGGERS_OFF, f"delete from machserial.audit_events where serial_id = {ACTIVE}"),
    ),
    "receipt's event gone": (
        "missing_event", "serial",
        around(TRIGGERS_OFF, f"delete from machserial.audit_events where serial_id = {ACCEPTED}"),
    ),
    "acceptance taken back": (
        "status", "serial",
        around(TRIGGERS_OFF, f"update machserial.vendor_serials set status = 'PENDING' where id = {ACCEPTED}; "
               f"update machserial.serials set status = 'PENDING' where id = {ACCEPTED}"),
    ),
    "rejection taken back": (
        "status", "serial",
        around(TRIGGERS_OFF, f"update machserial.vendor_serials set status = 'ACTIVE' where id = {REJECTED}; "
               f"update machserial.serials set status = 'ACTIVE' where id = {REJECTED}"),
    ),
    "acceptance slipped in": (
        "status", "serial",
        around(TRIGGERS_OFF, f"update machserial.vendor_serials set status = 'ACTIVE' where id = {PENDING}; "
               f"update machserial.serials set status = 'ACTIVE' where id = {PENDING}"),
    ),
    "receipt without a serial": (
        "orphan", "table vendor_serials",
        around(TRIGGERS_OFF, "insert into machserial.vendor_serials (id, serial_number, part_id, site_id, vendor_name, "
               "status, validated_at) values (999999, 'ASTRAY', 'Q', 'DEFAULT', 'V', 'PENDING', now())"),
    ),
    "serial slipped in": (
        "missing_event", "serial",
        around(TRIGGERS_OFF, "insert into machserial.serials (serial_number, part_id, part_type, scopes) "
               "values ('SLIPPED', 'P', 'PUMP', '{SITE,PART_TYPE}')"),
    ),
    "vendor status": (
        "vendor_serial", "vendor serial",
        around(TRIGGERS_OFF, "update machserial.vendor_serials set status = 'ACTIVE' where serial_number = 'V-3'"),
    ),
    "vendor number": (
        "vendor_serial", "vendor serial",
        around(TRIGGERS_OFF, "update machserial.vendor_serials set serial_number = 'V-33' where serial_number = 'V-3'"),
    ),
    "conflict forgotten": (
        "conflict", "serial",
        around(TRIGGERS_OFF, "delete from machserial.serial_conflicts where serial_id = "
               + one_serial("serial_number = 'D-2'")),
    ),
    "conflict left behind": (
        "conflict", "conflict",
        around(TRIGGERS_OFF, "update machserial.serial_conflicts set status = 'PENDING', resolution = null, "
               "kept_serial_id = null, retired_serial_ids = null, resolved_at = null, resolved_by = null, "
               "reason = null where status = 'RESOLVED'"),
    ),
    "blocks overlap": (
        "block_overlap", "block",
        duplicate("number_blocks_do_not_overlap", TRIGGERS_OFF.format(
            "insert into machserial.number_blocks (counter_id, part_id, holder, first_value, last_value, increment, "
            "quantity, issued_at) select counter_id, part_id, 'OTHER', last_value, last_value, 1, 1, issued_at "
            f"from machserial.number_blocks where id = {OPEN}")),
    ),
    "used beyond the block": (
        "block_usage", "block",
        around(TRIGGERS_OFF, "insert into machserial.block_usages (block_id, sequence_number, conflict_id) "
               f"values ({OPEN}, 999999, (select min(id) from machserial.serial_conflicts))"),
    ),
    "used with another number": (
        "block_usage", "block",
        around(TRIGGERS_OFF, "insert into machserial.block_usages (block_id, sequence_number, serial_id) "
               f"select b.id, b.last_value, {ACTIVE} from machserial.number_blocks as b where b.id = {OPEN}"),
    ),
    "block full but open": (
        "block_count", "block",
        around(TRIGGERS_OFF, "update machserial.number_blocks set status = 'OPEN', closed_at = null, closed_by = null "
               f"where id = {FULL}"),
    ),
    "block used but not full": (
        "block_count", "block",
        around(TRIGGERS_OFF, "update machserial.number_blocks set status = 'USED', closed_at = now(), closed_by = 'x' "
               f"where id = {OPEN}"),
    ),
    "number out of a block": (
        "number_in_block", "serial",
        around(TRIGGERS_OFF, "delete from machserial.block_usages where serial_id is not null and block_id = "
               f"{OPEN} and sequence_number = (select max(sequence_number) from machserial.block_usages "
               f"where block_id = {OPEN})"),
    ),
    "counter behind": (
        "counter_behind", "counter", [f"select setval('machserial.counter_' || {COUNTER}, 10)"],
    ),
    "counter behind a block": (
        "counter_behind", "counter",
        ["select setval('machserial.counter_' || counter_id, max(last_value) - 1) from machserial.number_blocks "
         "group by counter_id",
         TRIGGERS_OFF.format(f"delete from machserial.audit_events where serial_id in ({BEYOND}); "
                             f"delete from machserial.late_assignment_placeholders; "
                             f"delete from machserial.serials where id in ({BEYOND})")],
    ),
    "gapless counter behind": (
        "counter_behind", "counter", [f"update machserial.counters set last_value = 2 where id = {GAPLESS}"],
    ),
    "gapless counter gone": (
        "counter_missing", "format gapless", [f"delete from machserial.counters where id = {GAPLESS}"],
    ),
    "counter gone": (
        "counter_missing", "format plain",
        ["do $$ declare c bigint := " + COUNTER + "; begin delete from machserial.counters where id = c; "
         "execute 'drop sequence machserial.counter_' || c; end $$"],
    ),
    "sequence gone": (
        "counter_sequence_missing", "counter",
        ["do $$ begin execute 'drop sequence machserial.counter_' || " + COUNTER + "; end $$"],
    ),
    "sequence altered": (
        "counter_sequence_altered", "counter",
        ["do $$ begin execute 'alter sequence machserial.counter_' || " + COUNTER + " || ' increment by 2'; end $$"],
    ),
    "number of the whole enterprise": (
        "claim_across_scopes", "serial number OLD",
        ["insert into machserial.serials (serial_number, part_id, site_id, scopes, source) "
         "values ('OLD', 'Q', 'BER', '{ENTERPRISE,SITE,PART_TYPE}', 'IMPORT')"],
    ),
    "fewer scopes than the part": (
        "scopes_not_covered", "serial",
        ["select machserial.register_serial('NARROW', 'P', scopes => '{SITE}')"],
    ),
    "scopes that did not reach a serial": (
        "scopes_not_covered", "serial",
        around(TRIGGERS_OFF, "update machserial.serials set scopes = '{PART_TYPE}' where serial_number = 'OLD'"),
    ),
    "ids behind": (
        "sequence_behind", "table serials", ["select setval('machserial.serials_id_seq', 3)"],
    ),
    "ids of the trail behind": (
        "sequence_behind", "table audit_events", ["select setval('machserial.audit_events_id_seq', 3)"],
    ),
    "rank lost": (
        "lineage_rank", "serial",
        around(TRIGGERS_OFF, "update machserial.serials set lineage_rank = null where lineage_rank is not null"),
    ),
    "circle": (
        "lineage_cycle", "serial",
        around(TRIGGERS_OFF, "insert into machserial.serial_propagations (propagation_type, parent_serial_id, "
               "child_serial_id, operation_code, routing_sequence) select 'MERGE', child_serial_id, parent_serial_id, "
               "'OP-9', 9 from machserial.serial_propagations where propagation_type = 'SPLIT' order by id limit 1"),
    ),
    "placeholder of another part": (
        "placeholder", "placeholder",
        around(TRIGGERS_OFF, "update machserial.late_assignment_placeholders set part_id = 'Q' "
               "where status = 'SERIALIZED'"),
    ),
    "orphan": (
        "orphan", "table format_assignments",
        around(TRIGGERS_OFF, "insert into machserial.format_assignments (part_id, format_id) values ('NONE', 3)"),
    ),
    "serial of no part": (
        "orphan", "serial",
        around(TRIGGERS_OFF, "insert into machserial.serials (serial_number, part_id, part_type, scopes, source, "
               "created_at) select 'ASTRAY', 'NONE', 'T', '{SITE,PART_TYPE}', 'IMPORT', '2000-01-01'; "
               "insert into machserial.audit_events (event_type, event_source, serial_id, serial_number, part_id, "
               "site_id) "
               "select 'SERIAL_REGISTERED', 'x', id, serial_number, part_id, site_id from machserial.serials "
               "where serial_number = 'ASTRAY'"),
    ),
    "serial of no known status": (
        "serial", "serial",
        around(TRIGGERS_OFF, "update machserial.serials set source = 'FOUND' where id = "
               "(select min(id) from machserial.serials where status = 'ACTIVE')"),
    ),
    "request gone": (
        "orphan", "table serials",
        around(TRIGGERS_OFF, "delete from machserial.requests where request_id = 'r'"),
    ),
    "index gone": ("missing_index", "index serials_look_alike", ["drop index machserial.serials_look_alike"]),
    "trail's index gone": (
        "missing_index", "index audit_events_serial_id", ["drop index machserial.audit_events_serial_id"],
    ),
    "index invalid": (
        "invalid_index", "index serials_look_alike",
        around(CATALOG, "update pg_index set indisvalid = false where indexrelid = "
               "'machserial.serials_look_alike'::regclass"),
    ),
    "trigger gone": (
        "missing_trigger", "trigger serials_are_kept", ["drop trigger serials_are_kept on machserial.serials"],
    ),
    "view's trigger gone": (
        "missing_trigger", "trigger triggers_are_updated",
        ["drop trigger triggers_are_updated on machserial.serial_assignment_triggers"],
    ),
    "partition's trigger gone": (
        "missing_trigger", "trigger audit_events_are_append_only",
        ["do $$ declare p regclass := (select min(relation::text) from machserial._audit_partitions()); begin "
         "execute format('drop trigger audit_events_are_append_only on %s', p); end $$"],
    ),
    "trigger disabled": (
        "disabled_trigger", "trigger serials_are_admitted",
        ["alter table machserial.serials disable trigger serials_are_admitted"],
    ),
    "a pause that nobody keeps": (
        "disabled_trigger",
        "trigger new_serials_are_refused_while_paused",
        [
            "select machserial.pause('stock taking')",
            "alter table machserial.serials disable trigger new_serials_are_refused_while_paused",
        ],
    ),
    "trigger for replicas": (
        "disabled_trigger", "trigger serials_are_kept",
        ["alter table machserial.serials enable replica trigger serials_are_kept"],
    ),
    "foreign key gone": (
        "missing_constraint", "constraint vendor_serials_internal_serial_id_fkey",
        ["alter table machserial.vendor_serials drop constraint vendor_serials_internal_serial_id_fkey"],
    ),
    "check gone": (
        "missing_constraint", "constraint parts_default_scopes_are_known",
        ["alter table machserial.parts drop constraint parts_default_scopes_are_known"],
    ),
    "default gone": (
        "missing_default", "column serials.status", ["alter table machserial.serials alter column status drop default"],
    ),
    "null allowed": (
        "missing_not_null", "column serials.part_id",
        ["alter table machserial.serials alter column part_id drop not null"],
    ),
    "check of a foreign key off": (
        "disabled_trigger", "the check of vendor_serials_internal_serial_id_fkey",
        ["do $$ begin execute (select format('alter table machserial.vendor_serials disable trigger %I', t.tgname) "
         "from pg_trigger as t join pg_constraint as k on k.oid = t.tgconstraint "
         "where k.conname = 'vendor_serials_internal_serial_id_fkey' and t.tgrelid = k.conrelid "
         "and t.tgfoid::regproc::text ~ 'check_ins'); end $$"],
    ),
    "constraint not valid": (
        "constraint_not_valid", "constraint vendor_serials_internal_serial_id_fkey",
        ["alter table machserial.vendor_serials drop constraint vendor_serials_internal_serial_id_fkey",
         "alter table machserial.vendor_serials add constraint vendor_serials_internal_serial_id_fkey "
         "foreign key (internal_serial_id) "
         "references machserial.serials (id) not valid"],
    ),
    "view gone": ("missing_view", "view system_generated_serials", ["drop view machserial.system_generated_serials"]),
    "renderer gone": (
        "missing_renderer", "format plain",
        ["drop function machserial._render_1(bigint[], bigint[], timestamp, text, text, jsonb)"],
    ),
    "assigned format inactive": (
        "inactive_format", "part Q", ["select machserial.deactivate_format('daily')"],
    ),
    "trigger's format inactive": (
        "inactive_format", "trigger",
        ["select machserial.create_trigger('Q', 'BATCH_COMPLETION', 'SYSTEM_GENERATED', format => 'random')",
         "select machserial.deactivate_format('random')"],
    ),
    "attachment disabled": (
        "attachment_disabled", "table public.orders",
        ["alter table public.orders disable trigger machserial_work_order_create"],
    ),
    "attachment dropped": (
        "attachment_missing", "table public.orders",
        ["drop trigger machserial_work_order_create on public.orders"],
    ),
}  # fmt: skip

# Where somebody has to decide, or where the remedy is several steps: what is done in its place.
BY_HAND = {
    "number twice": [
        "update machserial.serials set status = 'CONFLICT', status_reason = 'found by integrity()' "
        "where serial_number = 'OLD' and site_id = 'BER'",
        "select machserial.resolve_conflict(serial_number => 'OLD', part_id => 'P', resolution => 'KEEP', "
        "keep_serial_id => " + one_serial("serial_number = 'OLD'") + ", reason => 'first come')",
        "reindex index machserial.serials_part_type_key",
    ],
    "number of the whole enterprise": [
        "update machserial.serials set status = 'CONFLICT', status_reason = 'found by integrity()' "
        "where serial_number = 'OLD' and site_id = 'BER'",
        "select machserial.resolve_conflict(serial_number => 'OLD', part_id => 'Q', resolution => 'KEEP', "
        "keep_serial_id => " + one_serial("serial_number = 'OLD'") + ", reason => 'first come')",
    ],
    "orphan": ["delete from machserial.format_assignments where part_id = 'NONE'"],
    "receipt without a serial": None,
    "request gone": None,
    "serial of no part": ["select machserial.register_part('NONE', 'T')"],
    "serial of no known status": [
        "set session_replication_role = replica",
        "update machserial.serials set source = 'SYSTEM_GENERATED' where source = 'FOUND'",
        "set session_replication_role = origin",
    ],
    "trigger's format inactive": ["select machserial.update_trigger(max(id), format => 'plain') "
                                  "from machserial.trigger_definitions"],
}  # fmt: skip


# No transaction may hold what builds an index concurrently, and none undoes what is done to a sequence.
OUTSIDE_TRANSACTIONS = (
    "index gone",
    "trail's index gone",
    "index invalid",
    "counter behind",
    "counter behind a block",
)


@pytest.mark.parametrize(
    "fault",
    [pytest.param(one, marks=pytest.mark.own_database) if one in OUTSIDE_TRANSACTIONS else one for one in FAULTS],
)
def test_a_fault_is_found_by_its_name_alone_and_mended_by_its_remedy(plant, fault):
    """There are none before: see above."""
    name, object_, statements = FAULTS[fault]
    for statement in statements:
        plant.execute(statement)
    found = findings(plant)
    assert [(row[0], row[2].startswith(object_)) for row in found] == [(name, True)], found
    _, severity, _, message, remedy = found[0]
    assert severity == ("WARNING" if name.startswith(("inactive", "attachment", "scopes")) else "CRITICAL")
    assert message and remedy
    remedy = remedy.rpartition("if it is this one: ")[2].replace("reason => ...", "reason => 'found'")
    steps = BY_HAND.get(fault, [remedy])
    if steps is None:
        return
    if fault in OUTSIDE_TRANSACTIONS:
        plant.commit()
        plant.autocommit = True
    for step in steps:
        assert "..." not in step
        for single in step.split("; "):
            plant.execute(single)
    assert findings(plant) == []


def test_what_cannot_be_examined_is_said_and_the_rest_is_examined(plant):
    plant.execute("alter table machserial.block_usages rename to hidden")
    plant.execute(TRIGGERS_OFF.format(f"update machserial.serials set status = 'RETIRED' where id = {ACTIVE}"))
    found = {(row[0], row[1]) for row in findings(plant)}
    assert {("not_examined", "UNKNOWN"), ("status", "CRITICAL")} <= found
    unknown = [row for row in findings(plant) if row[0] == "not_examined"]
    assert {row[2] for row in unknown} >= {"part blocks", "part counters"}
    assert all("block_usages" in row[3] and row[4] for row in unknown)


def test_every_part_of_it_is_examined(plant):
    """All that return findings, and nothing that somebody else has put there."""
    parts = column(plant, "select name from machserial._integrity_parts()")
    assert len(parts) >= 16 and {"claims", "sites"} <= set(parts)
    plant.execute("create role machserial_test_intruder")
    plant.execute(
        "create function machserial._faults_of_nothing() returns setof machserial.integrity_finding language sql as "
        "$$ select null::machserial.integrity_finding $$"
    )
    assert len(column(plant, "select name from machserial._integrity_parts()")) == len(parts) + 1
    plant.execute("grant create on schema machserial to machserial_test_intruder")
    plant.execute("alter function machserial._faults_of_nothing() owner to machserial_test_intruder")
    assert column(plant, "select name from machserial._integrity_parts()") == parts


def test_an_account_is_an_event_that_says_why(plant):
    serial_id = value(plant, f"select {ACTIVE}")
    plant.execute(TRIGGERS_OFF.format(f"update machserial.serials set status = 'RETIRED' where id = {serial_id}"))
    with refused(plant, "22023"):
        call(plant, "account_for_serial", serial_id=serial_id, reason=" ")
    event_id = call(plant, "account_for_serial", serial_id=serial_id, reason="the disk of June")[0][0]
    told = plant.execute(
        "select event_type, serial_id, reason, details from machserial.audit_events where id = %s", (event_id,)
    ).fetchone()
    details = {"accounted_for": True, "status": {"old": "ACTIVE", "new": "RETIRED"}}
    assert told == ("SERIAL_UPDATED", serial_id, "the disk of June", details)
    with refused(plant, "55000"):
        call(plant, "account_for_serial", serial_id=serial_id, reason="again")
    with refused(plant, "P0002"):
        call(plant, "account_for_serial", serial_id=10**9, reason="who")


def test_who_is_not_the_owner_does_not_account(plant):
    plant.execute("create role clerk")
    plant.execute("grant usage on schema machserial to clerk")
    plant.execute("grant select on all tables in schema machserial to clerk")
    plant.execute("grant execute on all functions in schema machserial to clerk")
    plant.execute("set role clerk")
    with refused(plant, "42501"):
        call(plant, "account_for_serial", serial_id=value(plant, f"select {ACTIVE}"), reason="mine")


def test_who_does_not_see_all_rows_gets_no_verdict(plant):
    plant.execute("create role viewer")
    plant.execute("grant usage on schema machserial to viewer")
    plant.execute("grant select on all tables in schema machserial to viewer")
    plant.execute("grant execute on all functions in schema machserial to viewer")
    plant.execute("set role viewer")
    with refused(plant, "42501") as refusal:
        findings(plant)
    assert "viewer" in refusal.detail


@pytest.mark.own_database
def test_events_that_are_in_an_archive_only_are_not_missed(plant):
    """The month before is archived and its partition dropped: serials of that month lack nothing."""
    plant.execute("select machserial._make_audit_partitions(now() - interval '40 days', 0)")
    plant.execute(
        TRIGGERS_OFF.format(
            "update machserial.audit_events set performed_at = performed_at - interval '40 days'; "
            "update machserial.serials set created_at = created_at - interval '40 days'"
        )
    )
    plant.commit()
    call(plant, "seal_audit")
    plant.commit()
    month = value(plant, "select date_trunc('month', now() at time zone 'UTC' - interval '40 days')::date")
    archived = plant.execute(
        "insert into machserial.audit_archives (month, first_seal_id, last_seal_id, event_count, merkle_root, "
        "manifest_sha256, location) select %s, min(id), max(id), sum(event_count), "
        "machserial._archive_root(%s, min(id), max(id)), repeat('0', 64), '/tape' from machserial.audit_seals "
        "where month = %s returning id, manifest_sha256",
        (month, month, month),
    ).fetchone()
    plant.execute(
        "select machserial._audit('AUDIT_ARCHIVED', null, null, jsonb_build_object("
        "'archive_id', %s::text, 'manifest_sha256', %s::text))",
        (str(archived[0]), archived[1]),
    )
    partition = value(plant, "select relation::text from machserial._audit_partitions() where month = %s", month)
    plant.execute(f"drop table {partition}")
    plant.commit()
    assert findings(plant) == []
    generated(plant, "P", 2)
    plant.commit()
    plant.execute(TRIGGERS_OFF.format(
        "delete from machserial.audit_events where serial_id = (select max(id) from machserial.serials)"
    ))  # fmt: skip
    assert [row[0] for row in findings(plant)] == ["missing_event"]


OF_SEVERAL_PARTS = ("number twice", "status changed", "vendor status", "blocks overlap", "gapless counter behind",
                    "orphan", "trigger disabled", "attachment disabled")  # fmt: skip


def test_a_part_finds_its_own_faults_and_all_parts_together_find_all(plant):
    for name in OF_SEVERAL_PARTS:
        for statement in FAULTS[name][2]:
            plant.execute(statement)
    whole = findings(plant)
    with refused(plant, "22023") as seen:
        call(plant, "integrity", only="everything")
    parts = column(plant, "select name from machserial._integrity_parts()")
    assert ", ".join(parts) in seen.hint
    found = {part: plant.execute(f"{FINDINGS[:-1]}'{part}')").fetchall() for part in parts}
    assert {row[0] for row in whole} == {FAULTS[name][0] for name in OF_SEVERAL_PARTS}
    assert sorted(row for rows in found.values() for row in rows) == sorted(whole)
    assert len(list(filter(None, found.values()))) == len(OF_SEVERAL_PARTS)


@pytest.mark.own_database
@pytest.mark.prepared(setup=None)
def test_many_faults_of_a_kind_are_summed_up(connection):
    make_part(connection, "P")
    make_format(connection, "F", "F{SEQ:6}")
    call(connection, "assign_format", part_id="P", format="F")
    generated(connection, "P", 10_000)
    call(connection, "receive_vendor_serials", vendor_name="V", part_id="P",
         serial_numbers=[f"V{n}" for n in range(1000)])  # fmt: skip
    connection.execute("analyze machserial.serials")
    assert findings(connection) == []
    connection.execute(
        TRIGGERS_OFF.format("update machserial.serials set status = 'INVALID' where id % 2 = 0 and source <> 'VENDOR'")
    )
    found = findings(connection)
    assert len(found) == 101 and {row[0] for row in found} == {"status"}
    assert re.search(r"^4900 more", found[-1][3])
