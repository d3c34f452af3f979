"""The verbs: every public function that writes, and plain statements that the rules of the tables answer; and look-ups.

Each has a call, which stands alone: what it needs is made by `before`, or is in the database that furnish() leaves
behind. In both, %(n)s is a number of the call's own, and %(rows)s how many rows it is about where a verb takes many.
tests/test_verbs.py compares this list with the catalog.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import ClientCursor
from psycopg.rows import dict_row


@dataclass(frozen=True)
class Verb:
    """One thing that a caller can do.

    before: statements that make what the call needs. The row that one gives is known to those after it and to the
    call, by its names. reads_all: why a call costs the more the more is on record. is_planned_anew: each time, for the
    very tables and arguments.
    """

    name: str
    call: str
    before: tuple[str, ...] = ()
    reads_all: str = ""
    is_planned_anew: bool = False

    def prepare(self, connection: psycopg.Connection, n: int, rows: int) -> str:
        """Makes what one call needs; the call as it is sent."""
        known = {"n": n, "rows": rows}
        with ClientCursor(connection, row_factory=dict_row) as cursor:
            for statement in self.before:
                cursor.execute(statement, known)
                known |= cursor.fetchone() if cursor.description else {}
            return cursor.mogrify(self.call, known)


# What all calls have in common: parts (of Z there is nothing), formats of every kind, triggers, and a table of an
# application.
FURNITURE = """
select machserial.register_part('P', 'T');
select machserial.register_part('N', 'T');
select machserial.register_part('B', 'T');
select machserial.register_part('Z', 'Z');
select machserial.create_format('F', 'F{SEQ:9}');
select machserial.create_format('G', 'G{SEQ:9}', allocation => 'GAPLESS');
select machserial.create_format('D', 'D{YYYY}{MM}{DD}-{SEQ:7}', reset => 'DAILY');
select machserial.create_format('R', 'R{RANDOM:12}');
select machserial.create_format('B', 'B{SEQ:9}');
select machserial.create_format('W', 'W{WO}-{SEQ:7}');
select machserial.assign_format('P', 'F');
select machserial.set_vendor_rule('Ltd', regex => '^V');
select machserial.create_trigger('P', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED');
select machserial.create_trigger('P', 'MATERIAL_RECEIPT', 'VENDOR');
select machserial.create_trigger('P', 'OPERATION_COMPLETE', 'LATE_ASSIGNMENT');
select machserial.create_trigger('P', 'BATCH_COMPLETION', 'SYSTEM_GENERATED', format => 'G');
select machserial.create_trigger('P', 'BATCH_COMPLETION', 'SYSTEM_GENERATED', format => 'W');
create table public.orders (
    id bigint generated always as identity primary key, part text, quantity integer, serials text[]
);
select machserial.attach(
    'public.orders', 'WORK_ORDER_CREATE', 'part', quantity_column => 'quantity', serial_column => 'serials'
);
"""


def furnish(connection: psycopg.Connection) -> None:
    connection.execute(FURNITURE)


def numbers(letter: str) -> str:
    """Numbers of the call's own."""
    return f"array(select '{letter}%(n)s-' || i from generate_series(1, %(rows)s) as i)"


def registered(name: str, letter: str) -> str:
    return f"select array_agg(r.serial_id) as {name} from machserial.register_serials({numbers(letter)}, 'P') as r"


OLDER = registered("older", "H")
YOUNGER = registered("younger", "K")
RECEIVED = (
    "select array_agg(r.vendor_serial_id) as ids"
    f" from machserial.receive_vendor_serials('Ltd', 'P', {numbers('V')}) as r",
)
BROKEN = ("select id from machserial.receive_vendor_serial('broken %(n)s', 'Ltd', 'P')",)
PLACEHOLDERS = (
    "select array_agg(p.id) as ids from machserial.create_placeholders('P', %(rows)s, work_order_id => 'WO%(n)s') as p",
)
BLOCK = (
    "select block_id as block from machserial.allocate_block('B', %(rows)s, 'line', 'B')",
    "select array(select machserial.block_serials(%(block)s)) as used",
)
REPORTED = (*BLOCK, "select count(*) from machserial.report_block(%(block)s, %(used)s)")
TAKEN = (
    "select array_agg(r.serial_number) as taken, min(r.serial_id) as holder"
    f" from machserial.register_serials({numbers('Q')}, 'P') as r",
)
RECORDED = (
    *TAKEN,
    "select * from machserial.register_serial((%(taken)s::text[])[1], 'P', on_conflict => 'RECORD')",
)
DISPUTED = (
    *TAKEN,
    "insert into machserial.serials (serial_number, part_id, status)"
    " select unnest(%(taken)s::text[]), 'P', 'CONFLICT' returning id as rival",
)
MERGED = (
    OLDER,
    YOUNGER,
    "select count(*) from machserial.merge(%(older)s, (%(younger)s)[1], 'OP', 1)",
)
FORMAT = ("select name as format from machserial.create_format('F%(n)s', 'F%(n)s-{SEQ:5}')",)
ASSIGNED = (*FORMAT, "select count(*) from machserial.assign_format('N', %(format)s)")
TRIGGER = ("select id from machserial.create_trigger('N', 'QUALITY_CHECKPOINT', 'LATE_ASSIGNMENT')",)
REQUESTED = ("select count(*) from machserial.generate('P', %(rows)s, request_id => 'R%(n)s')",)
TABLE = ("create table public.t%(n)s (id bigint primary key, part text)",)
ATTACHED = (*TABLE, "select machserial.attach('public.t%(n)s', 'QUALITY_CHECKPOINT', 'part')")
ROLE = ("create role verbs%(n)s",)
LIMITED = (*ROLE, "select machserial.grant_site('verbs%(n)s', 'DEFAULT')")
LIMITS = "it has every session plan anew"
WORK_ORDER = '\'{"work_order_id": "WO%(n)s"}\''

VERBS = (
    # Parts, sites and formats
    Verb(
        "register_site",
        "select machserial.register_site('S%(n)s', 'name', 'Europe/Oslo')",
        reads_all="it makes the counters of all formats that count by site or by period",
    ),
    Verb("register_part", "select machserial.register_part('P%(n)s', 'T')"),
    Verb(
        "register_part again",
        "select machserial.register_part('P%(n)s', 'U', scopes => '{ENTERPRISE}')",
        ("select id from machserial.register_part('P%(n)s', 'T')",),
    ),
    Verb("create_format", "select machserial.create_format('F%(n)s', 'F%(n)s-{SEQ:5}')"),
    Verb("revise_format", "select machserial.revise_format(%(format)s, 'G%(n)s-{SEQ:5}')", FORMAT),
    Verb("deactivate_format", "select machserial.deactivate_format(%(format)s)", FORMAT),
    Verb("assign_format", "select machserial.assign_format('N', %(format)s)", FORMAT),
    Verb("assign_format_to_type", "select machserial.assign_format_to_type('U%(n)s', %(format)s)", FORMAT),
    Verb("unassign_format", "select machserial.unassign_format('N', %(format)s)", ASSIGNED),
    Verb("preview", "select machserial.preview('A{SEQ:3}', 3)"),
    # Numbers
    Verb("generate", "select * from machserial.generate('P')"),
    Verb("generate some", "select * from machserial.generate('P', %(rows)s)"),
    Verb("generate on trust", "select * from machserial.generate('P', 100 + %(rows)s)"),
    Verb("generate by request", "select * from machserial.generate('P', %(rows)s, request_id => 'R%(n)s')"),
    Verb(
        "generate by request again",
        "select * from machserial.generate('P', %(rows)s, request_id => 'R%(n)s')",
        REQUESTED,
    ),
    Verb("generate gapless", "select * from machserial.generate('P', %(rows)s, format => 'G')"),
    Verb("generate daily", "select * from machserial.generate('P', %(rows)s, format => 'D')"),
    Verb("generate random", "select * from machserial.generate('P', %(rows)s, format => 'R')"),
    Verb("generate by pattern", "select * from machserial.generate('P', %(rows)s, pattern => 'A{SEQ:9}')"),
    Verb(
        "generate in a context",
        f"select * from machserial.generate('P', %(rows)s, format => 'W', context => {WORK_ORDER})",
    ),
    Verb("reset_counter", "select machserial.reset_counter(%(format)s, 500, reason => 'moved')", FORMAT),
    Verb("fence", "select * from machserial.fence(%(format)s, '700', reason => 'restored')", FORMAT),
    # Blocks
    Verb("allocate_block", "select machserial.allocate_block('B', %(rows)s, 'line', 'B')"),
    Verb(
        "allocate_block by request",
        "select machserial.allocate_block('B', %(rows)s, 'line', 'B', request_id => 'B%(n)s')",
    ),
    Verb("report_block", "select * from machserial.report_block(%(block)s, %(used)s)", BLOCK),
    Verb("report_block again", "select * from machserial.report_block(%(block)s, %(used)s)", REPORTED),
    Verb("return_block", "select machserial.return_block(%(block)s)", BLOCK),
    # The registry
    Verb("register_serial", "select * from machserial.register_serial('H%(n)s', 'P')"),
    Verb("register_serials", f"select * from machserial.register_serials({numbers('H')}, 'P')"),
    Verb(
        "register_serials again",
        "select * from machserial.register_serials(%(taken)s, 'P', on_conflict => 'RECORD')",
        TAKEN,
    ),
    Verb(
        "insert serials",
        f"insert into machserial.serials (serial_number, part_id) select unnest({numbers('H')}), 'P'",
    ),
    Verb(
        "insert serials of two parts",
        "insert into machserial.serials (serial_number, part_id)"
        " select n, case when n ~ '[02468]$' then 'P' else 'N' end"
        f" from unnest({numbers('H')}) as n",
    ),
    Verb(
        "insert serials in conflict",
        "insert into machserial.serials (serial_number, part_id, status)"
        " select unnest(%(taken)s::text[]), 'P', 'CONFLICT'",
        TAKEN,
    ),
    Verb(
        "update serials",
        "update machserial.serials set lot_number = 'L%(n)s' where id = any(%(older)s)",
        (OLDER,),
    ),
    Verb(
        "end serials",
        "update machserial.serials set status = 'RETIRED', status_reason = 'why' where id = any(%(older)s)",
        (OLDER,),
    ),
    Verb("retire_serial", "select machserial.retire_serial((%(older)s)[1], 'why')", (OLDER,)),
    Verb("invalidate_serial", "select machserial.invalidate_serial((%(older)s)[1], 'why')", (OLDER,)),
    Verb(
        "resolve_conflict",
        "select * from machserial.resolve_conflict((%(taken)s::text[])[1], 'P', 'KEEP', %(holder)s, reason => 'why')",
        RECORDED,
    ),
    Verb(
        "leave a conflict",
        "update machserial.serials set status = 'REJECTED', status_reason = 'why'"
        " where serial_number = any(%(taken)s) and not holds_claim",
        DISPUTED,
    ),
    # Vendors
    Verb("set_vendor_rule", "select machserial.set_vendor_rule('V%(n)s', regex => '^A')"),
    Verb(
        "delete_vendor_rule",
        "select machserial.delete_vendor_rule('V%(n)s')",
        ("select id from machserial.set_vendor_rule('V%(n)s', regex => '^A')",),
    ),
    Verb("receive_vendor_serial", "select machserial.receive_vendor_serial('V%(n)s', 'Ltd', 'P')"),
    Verb("receive_vendor_serials", f"select * from machserial.receive_vendor_serials('Ltd', 'P', {numbers('V')})"),
    Verb(
        "receive_vendor_serials again",
        "select * from machserial.receive_vendor_serials('Ltd', 'P', %(taken)s)",
        TAKEN,
    ),
    Verb("accept_vendor_serial", "select machserial.accept_vendor_serial((%(ids)s)[1])", RECEIVED),
    Verb("accept_vendor_serials", "select * from machserial.accept_vendor_serials(%(ids)s)", RECEIVED),
    Verb(
        "accept by the serials",
        "update machserial.serials set status = 'ACTIVE' where id = any(%(ids)s)",
        RECEIVED,
    ),
    Verb("reject_vendor_serial", "select machserial.reject_vendor_serial((%(ids)s)[1], 'why')", RECEIVED),
    Verb("waive_vendor_rule", "select machserial.waive_vendor_rule(%(id)s, 'why')", BROKEN),
    # Placeholders
    Verb("create_placeholders", "select * from machserial.create_placeholders('P', %(rows)s)"),
    Verb("assign_placeholder", "select machserial.assign_placeholder((%(ids)s)[1])", PLACEHOLDERS),
    Verb("assign_placeholders", "select * from machserial.assign_placeholders('WO%(n)s')", PLACEHOLDERS),
    Verb(
        "assign_placeholders by numbers",
        f"select * from machserial.assign_placeholders(placeholder_ids => %(ids)s, serial_numbers => {numbers('L')})",
        PLACEHOLDERS,
    ),
    Verb("fail_placeholder", "select machserial.fail_placeholder((%(ids)s)[1], 'why')", PLACEHOLDERS),
    Verb(
        "give serials to placeholders",
        "update machserial.late_assignment_placeholders as p set serial_id = s.id"
        " from unnest(%(ids)s, %(older)s) as s (placeholder_id, id) where p.id = s.placeholder_id",
        (*PLACEHOLDERS, OLDER),
    ),
    # Lineage
    Verb("pass_through", "select machserial.pass_through((%(older)s)[1], 'OP', 1)", (OLDER,)),
    Verb("split", "select * from machserial.split((%(older)s)[1], %(younger)s, 'OP', 1)", (OLDER, YOUNGER)),
    Verb("merge", "select * from machserial.merge(%(older)s, (%(younger)s)[1], 'OP', 1)", (OLDER, YOUNGER)),
    Verb(
        "merge into an older one",
        "select * from machserial.merge(%(younger)s, (%(older)s)[1], 'OP', 1)",
        (OLDER, YOUNGER),
    ),
    Verb(
        "transform",
        "select machserial.transform((%(older)s)[1], 'OP', 1, (%(younger)s)[1])",
        (OLDER, YOUNGER),
    ),
    Verb(
        "note propagations",
        "update machserial.serial_propagations set notes = 'n' where parent_serial_id = any(%(older)s)",
        MERGED,
    ),
    # Triggers
    Verb("create_trigger", "select machserial.create_trigger('N', 'QUALITY_CHECKPOINT', 'LATE_ASSIGNMENT')"),
    Verb("update_trigger", "select machserial.update_trigger(%(id)s, batch_size => 2)", TRIGGER),
    Verb("disable_trigger", "select machserial.disable_trigger(%(id)s)", TRIGGER),
    Verb("enable_trigger", "select machserial.enable_trigger(%(id)s)", TRIGGER),
    Verb("delete_trigger", "select machserial.delete_trigger(%(id)s)", TRIGGER),
    Verb("fire", "select * from machserial.fire('WORK_ORDER_CREATE', 'P', quantity => %(rows)s)"),
    Verb("fire two triggers", f"select * from machserial.fire('BATCH_COMPLETION', 'P', {WORK_ORDER}, %(rows)s)"),
    Verb(
        "fire a receipt",
        "select * from machserial.fire('MATERIAL_RECEIPT', 'P',"
        f" jsonb_build_object('vendor_name', 'Ltd', 'serial_numbers', {numbers('V')}))",
    ),
    Verb("fire placeholders", "select * from machserial.fire('OPERATION_COMPLETE', 'P', quantity => %(rows)s)"),
    Verb(
        "insert orders",
        "insert into public.orders (part, quantity) select 'P', 2 from generate_series(1, %(rows)s)",
    ),
    # Operations
    Verb("write_test", "select machserial.write_test()", reads_all="it seals and verifies what has piled up"),
    Verb("maintain", "select * from machserial.maintain()", reads_all="it does what has piled up"),
    Verb("seal_audit", "select machserial.seal_audit()", reads_all="it seals what has piled up"),
    Verb("verify_audit", "select * from machserial.verify_audit()", reads_all="it reads the trail"),
    Verb("audit_months", "select * from machserial.audit_months()", reads_all="it reads the trail"),
    Verb(
        "account_for_serial",
        "select machserial.account_for_serial(%(id)s, 'why')",
        (
            "alter table machserial.serials disable trigger serials_are_admitted",
            "insert into machserial.serials (serial_number, part_id) values ('H%(n)s', 'P') returning id",
            "alter table machserial.serials enable trigger serials_are_admitted",
        ),
        reads_all="it keeps all writers out, and asks the trail",
    ),
    Verb("attach", "select machserial.attach('public.t%(n)s', 'QUALITY_CHECKPOINT', 'part')", TABLE),
    Verb("detach", "select machserial.detach('public.t%(n)s', 'QUALITY_CHECKPOINT')", ATTACHED),
    Verb("pause", "select machserial.pause('why')", reads_all="it stops everybody"),
    Verb("resume", "select machserial.resume()", ("select machserial.pause('why')",), reads_all="it stops everybody"),
    Verb("set_node", "select machserial.set_node(%(n)s)", reads_all="it seals the trail"),
    Verb("migrate", "select machserial.migrate()", reads_all="it waits for all"),
    Verb("create_roles", "select * from machserial.create_roles()", reads_all="it reads the catalog"),
    Verb("grant_site", "select machserial.grant_site('verbs%(n)s', 'DEFAULT')", ROLE, reads_all=LIMITS),
    Verb("revoke_site", "select machserial.revoke_site('verbs%(n)s', 'DEFAULT')", LIMITED, reads_all=LIMITS),
    Verb("lift_site_limits", "select machserial.lift_site_limits('verbs%(n)s')", LIMITED, reads_all=LIMITS),
)

# What is asked of one thing, or of a few.
LOOK_UPS = (
    Verb("find_serial", "select * from machserial.find_serial('Q%(n)s-1')", TAKEN),
    Verb("check_uniqueness", "select * from machserial.check_uniqueness('Q%(n)s-1', 'P')", TAKEN),
    Verb("claims_of", "select * from machserial.claims_of(%(taken)s, 'P')", TAKEN),
    Verb("uniqueness_report", "select * from machserial.uniqueness_report('Q%(n)s-1', 'P')", RECORDED),
    Verb("validate_vendor_serial", "select * from machserial.validate_vendor_serial((%(ids)s)[1])", RECEIVED),
    Verb("block_serials", "select * from machserial.block_serials(%(block)s)", REPORTED),
    Verb("lineage", "select * from machserial.lineage((%(younger)s)[1])", MERGED),
    Verb("lineage of a part", "select * from machserial.lineage((%(older)s)[1])", MERGED),
    Verb("explain_triggers", "select * from machserial.explain_triggers('WORK_ORDER_CREATE', 'P', '{}')"),
    Verb("format_for", "select machserial.format_for('P')"),
    *(
        Verb(name, f"select * from machserial.{call}", before, is_planned_anew=True)
        for name, call, before in (
            ("audit_trail", "audit_trail()", ()),
            ("audit_trail of a serial", "audit_trail(serial_id => %(holder)s)", TAKEN),
            ("audit_trail of a part", "audit_trail(part_id => 'B', page_size => 5)", ()),
            ("pending_conflicts", "pending_conflicts('Z')", ()),
            ("conflict_history", "conflict_history('Z')", ()),
            ("pending_placeholders", "pending_placeholders('Z')", ()),
            ("propagation_history", "propagation_history('Z')", ()),
            ("uniqueness_statistics", "uniqueness_statistics('Z')", ()),
            ("placeholder_statistics", "placeholder_statistics('Z')", ()),
            ("propagation_statistics", "propagation_statistics('Z')", ()),
            ("trigger_statistics", "trigger_statistics('Z')", ()),
        )
    ),
)

# Public functions that write and have no call here, because they need a whole database as it was at another time.
ELSEWHERE = {
    "adopt_schema": "tests/test_install.py",
    "change_owner": "tests/test_ordinary_owner.py",
    "drop_archived": "tests/test_audit_archive.py",
    "record_archive": "tests/test_audit_archive.py",
    "restore_archived": "tests/test_audit_archive.py",
    "verify_archived": "tests/test_audit_archive.py",
}
