"""What two sessions may do to the same rows: scenes with their verbs, whose pairs tests/interleavings.py plays."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg
from psycopg import ClientCursor
from psycopg.rows import dict_row


@dataclass(frozen=True)
class Verb:
    """One statement about the rows of its scene, which %(name)s stands for.

    errors: the codes that a direct statement may end with. Functions name theirs in their comments.
    """

    name: str
    statement: str
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """Rows that are made anew for each case, by a query that gives one row of names, and what is done to them.

    waits: which verbs may wait for which others; nobody else waits for anybody. "*": whatever it meets.
    before: statements that the query finds done; %(n)s is the number of the case.
    """

    name: str
    before: str
    names: str
    verbs: tuple[Verb, ...]
    waits: dict[str, str]
    # If given: only pairs with one of these.
    focus: frozenset[str] = frozenset()
    # Tables whose writers stop, where statements are stopped.
    gates: tuple[str, ...] = ()

    def prepare(self, connection: psycopg.Connection, number: int) -> dict:
        """Makes the rows of one case; what their names stand for."""
        with ClientCursor(connection, row_factory=dict_row) as cursor:
            cursor.execute(self.before, {"n": number})
            found = cursor.execute(self.names, {"n": number}).fetchone()
            return {"n": number, **found}

    def may_wait(self, waiting: Verb, holding: Verb) -> bool:
        known = self.waits.get(waiting.name, "").split(" | ")
        return "*" in known or holding.name in known

    def pairs(self) -> list[tuple[Verb, Verb]]:
        """Every verb with every verb, itself included, in both orders."""
        return [
            (first, second)
            for first in self.verbs
            for second in self.verbs
            if not self.focus or {first.name, second.name} & self.focus
        ]


def statement_of(connection: psycopg.Connection, verb: Verb, names: dict) -> str:
    return ClientCursor(connection).mogrify(verb.statement, names)


def documented(connection: psycopg.Connection, verb: Verb) -> set[str]:
    """The SQLSTATEs that a verb may end with: those in the comments of its functions, and its own."""
    codes = set(verb.errors)
    for name in re.findall(r"machserial\.(\w+)\(", verb.statement):
        comment = connection.execute(
            "select obj_description(p.oid, 'pg_proc') from pg_proc as p"
            " where p.pronamespace = 'machserial'::regnamespace and p.proname = %s",
            (name,),
        ).fetchone()
        errors = (comment[0] if comment else "").partition("Errors:")[2]
        codes |= set(re.findall(r"\b(?=[0-9A-Z]{5}\b)[0-9A-Z]*[0-9][0-9A-Z]*\b", errors))
    return codes


def counting(allocation: str) -> Scene:
    """A counter, and all who take values from it, move it or change what it belongs to."""
    # Only a GAPLESS counter is locked, by whoever takes from it.
    takers = "allocate_block | fence | generate | generate a batch | generate by request | reset_counter"
    own = f" | {takers}" if allocation == "GAPLESS" else ""
    return Scene(
        name=f"{allocation.lower()} counter",
        before=f"""
            select machserial.register_part('P%(n)s', 'T');
            select machserial.create_format('F%(n)s', 'F%(n)s-{{SEQ:5}}', allocation => '{allocation}');
            select machserial.assign_format('P%(n)s', 'F%(n)s');
            select machserial.generate('P%(n)s', 3);
            select machserial.register_serial('F%(n)s-00005', 'P%(n)s')""",
        names="select 'P%(n)s' as part, 'F%(n)s' as format, 'F%(n)s-00004' as next_number, 'R%(n)s' as request",
        verbs=(
            Verb("generate", "select * from machserial.generate(%(part)s)"),
            Verb(
                "generate a batch",
                "select * from machserial.generate(%(part)s, 120, format => %(format)s)",
            ),
            Verb(
                "generate by request",
                "select * from machserial.generate(%(part)s, 2, request_id => %(request)s)",
            ),
            Verb(
                "allocate_block",
                "select * from machserial.allocate_block(%(format)s, 10, 'line')",
            ),
            Verb(
                "reset_counter",
                "select machserial.reset_counter(%(format)s, 500, reason => 'moved')",
            ),
            Verb(
                "fence",
                "select * from machserial.fence(%(format)s, '700', reason => 'restored')",
            ),
            Verb("revise_format", "select machserial.revise_format(%(format)s)"),
            Verb("deactivate_format", "select machserial.deactivate_format(%(format)s)"),
            Verb(
                "assign_format",
                "select machserial.assign_format(%(part)s, %(format)s, 5)",
            ),
            Verb(
                "unassign_format",
                "select machserial.unassign_format(%(part)s, %(format)s)",
            ),
            Verb(
                "register the next",
                "select * from machserial.register_serial(%(next_number)s, %(part)s)",
            ),
            Verb(
                "register_part",
                "select machserial.register_part(%(part)s, 'T', 'Bracket')",
            ),
        ),
        waits={
            # The number itself is undecided until its transaction has ended.
            "register the next": "generate | generate a batch | generate by request | register the next",
            "generate": f"register the next{own}",
            "generate a batch": f"register the next{own}",
            "generate by request": f"generate by request | register the next{own}",
            "allocate_block": own.strip(" |"),
            "reset_counter": own.strip(" |"),
            "fence": own.strip(" |"),
            # Versions of a format come one after another, and an assignment refers to one that stays.
            "revise_format": "assign_format | deactivate_format | revise_format | unassign_format",
            "deactivate_format": "assign_format | deactivate_format | revise_format",
            "assign_format": "deactivate_format | revise_format",
            "unassign_format": "revise_format | unassign_format",
            "register_part": "register_part",
        },
    )


FIRST_USE = Scene(
    name="first use",
    before="""
        select machserial.register_part('P%(n)s', 'T');
        select machserial.create_format('F%(n)s', '{PART}F%(n)s-{SEQ:5}', counter_per => 'PART');
        select machserial.create_format('D%(n)s', 'D%(n)s-{YYYY}{MM}{DD}-{SEQ:3}', reset => 'DAILY');
        -- As if a day began for which nobody has made a counter.
        create temporary table if not exists made (id bigint);
        with gone as (
            delete from machserial.counters as c using machserial.serial_formats as f
            where f.id = c.format_id and f.name = 'D%(n)s' returning c.id
        )
        insert into made select id from gone;
        do $$ declare i bigint; begin
            for i in delete from made returning id loop execute 'drop sequence machserial.counter_' || i; end loop;
        end $$""",
    names="""
        select 'P%(n)s' as part, 'F%(n)s' as format, 'D%(n)s' as daily, 'A%(n)s-{SEQ:4}' as pattern""",
    verbs=(
        Verb(
            "generate",
            "select * from machserial.generate(%(part)s, format => %(format)s)",
        ),
        Verb(
            "generate today",
            "select * from machserial.generate(%(part)s, format => %(daily)s)",
        ),
        Verb(
            "generate by pattern",
            "select * from machserial.generate(%(part)s, pattern => %(pattern)s)",
        ),
        Verb(
            "allocate_block",
            "select * from machserial.allocate_block(%(format)s, 9, 'x', part_id => %(part)s)",
        ),
        Verb(
            "allocate_block today",
            "select * from machserial.allocate_block(%(daily)s, 9, 'x')",
        ),
        Verb(
            "reset_counter",
            "select machserial.reset_counter(%(format)s, 50, %(part)s, reason => 'moved')",
        ),
        Verb("assign_format", "select machserial.assign_format(%(part)s, %(format)s)"),
        Verb("create_format", "select machserial.create_format(%(pattern)s, %(pattern)s)"),
        Verb("revise_format", "select machserial.revise_format(%(format)s)"),
        Verb("maintain", "select * from machserial.maintain()"),
    ),
    waits={
        "generate": "allocate_block | assign_format | generate | reset_counter",
        "allocate_block": "allocate_block | assign_format | generate | reset_counter",
        "reset_counter": "allocate_block | assign_format | generate | reset_counter",
        "assign_format": "allocate_block | assign_format | generate | reset_counter | revise_format",
        "revise_format": "assign_format | revise_format",
        "generate today": "allocate_block today | generate today | maintain",
        "allocate_block today": "allocate_block today | generate today | maintain",
        "maintain": "allocate_block today | generate today | maintain",
        "generate by pattern": "create_format | generate by pattern",
        "create_format": "create_format | generate by pattern",
    },
)


def numbers(scope: str, focus: frozenset[str] = frozenset()) -> Scene:
    """The same number, brought in by whoever can bring one in."""
    others = "assign | fire | insert | receive | receive many | record | register_serial"
    return Scene(
        name=f"one number, {scope}",
        before=f"""
            select machserial.register_part('P%(n)s', 'T%(n)s', scopes => '{{{scope}}}');
            select machserial.create_format('F%(n)s', 'N%(n)s-{{SEQ:4}}', sequence_start => 7);
            select machserial.assign_format('P%(n)s', 'F%(n)s');
            select machserial.create_placeholders('P%(n)s');
            select machserial.create_trigger('P%(n)s', 'MATERIAL_RECEIPT', 'VENDOR')""",
        names="""
            select 'P%(n)s' as part, 'N%(n)s-0007' as number, p.id as placeholder
            from machserial.late_assignment_placeholders as p where p.part_id = 'P%(n)s'""",
        verbs=(
            Verb(
                "register_serial",
                "select * from machserial.register_serial(%(number)s, %(part)s)",
            ),
            Verb(
                "record",
                "select * from machserial.register_serials(array['x' || %(number)s, %(number)s], %(part)s,"
                " on_conflict => 'RECORD')",
            ),
            Verb(
                "insert",
                "insert into machserial.serials (serial_number, part_id) values (%(number)s, %(part)s)",
                ("23505",),
            ),
            Verb(
                "receive",
                "select * from machserial.receive_vendor_serial(%(number)s, 'ACME', %(part)s)",
            ),
            Verb(
                "receive many",
                "select * from machserial.receive_vendor_serials("
                "'ACME', %(part)s, array['y' || %(number)s, %(number)s])",
            ),
            Verb(
                "assign",
                "select machserial.assign_placeholder(%(placeholder)s, %(number)s)",
            ),
            Verb("generate", "select * from machserial.generate(%(part)s)"),
            Verb("generate a batch", "select * from machserial.generate(%(part)s, 110)"),
            Verb(
                "fire",
                "select * from machserial.fire('MATERIAL_RECEIPT', %(part)s,"
                " jsonb_build_object('vendor_name', 'ACME', 'serial_number', %(number)s))",
            ),
        ),
        waits={
            # Whether the number is taken is decided when the first transaction ends. A sequence gives it once only.
            "generate": others,
            "generate a batch": others,
        }
        | {
            name: f"{others} | generate | generate a batch"
            for name in (
                "register_serial",
                "record",
                "insert",
                "receive",
                "receive many",
                "assign",
                "fire",
            )
        },
        focus=focus,
    )


# Those who need the serial as it is, or change it.
CHANGES_OF_A_SERIAL = " | ".join(
    ("dispute", "give", "invalidate", "keep", "make it our own", "pass_through", "retire", "split", "update", "widen")
)

LIFE = Scene(
    name="one serial's life",
    before="""
        select machserial.register_part('P%(n)s', 'T%(n)s');
        select machserial.register_serial('S%(n)s', 'P%(n)s');
        set local machserial.reason = 'found twice';
        insert into machserial.serials (serial_number, part_id, status) values ('S%(n)s', 'P%(n)s', 'CONFLICT');
        select machserial.register_serial('C%(n)s', 'P%(n)s');
        select machserial.receive_vendor_serial('V%(n)s', 'ACME', 'P%(n)s');
        select machserial.create_placeholders('P%(n)s')""",
    names="""
        select
            'P%(n)s' as part, 'S%(n)s' as number, min(s.id) filter (where s.serial_number = 'S%(n)s') as serial,
            max(s.id) filter (where s.serial_number = 'S%(n)s') as rival,
            max(s.id) filter (where s.serial_number = 'C%(n)s') as other,
            max(s.id) filter (where s.serial_number = 'V%(n)s') as vendor,
            (select p.id from machserial.late_assignment_placeholders as p where p.part_id = 'P%(n)s') as placeholder
        from machserial.serials as s where s.part_id = 'P%(n)s'""",
    verbs=(
        Verb("retire", "select machserial.retire_serial(%(serial)s, 'worn out')"),
        Verb("invalidate", "select machserial.invalidate_serial(%(serial)s, 'misprint')"),
        Verb(
            "update",
            "update machserial.serials set status = 'RETIRED', status_reason = 'r', lot_number = 'L'"
            " where id = %(serial)s",
            ("55000",),
        ),
        Verb(
            "widen",
            "update machserial.serials set scopes = '{ENTERPRISE,SITE,PART_TYPE}' where id = %(serial)s",
        ),
        Verb(
            "dispute",
            "update machserial.serials set status = 'CONFLICT', status_reason = 'seen twice' where id = %(serial)s",
            ("55000",),
        ),
        Verb(
            "keep",
            "select * from machserial.resolve_conflict(%(number)s, %(part)s, 'KEEP', %(serial)s, reason => 'ours')",
        ),
        Verb(
            "give",
            "select * from machserial.resolve_conflict("
            "%(number)s, %(part)s, 'RETIRE', %(rival)s, %(serial)s, 'theirs')",
        ),
        Verb(
            "leave the conflict",
            "update machserial.serials set status = 'REJECTED', status_reason = 'no' where id = %(rival)s",
            ("55000",),
        ),
        Verb("pass_through", "select machserial.pass_through(%(serial)s, 'OP1', 1)"),
        Verb("split", "select machserial.split(%(serial)s, array[%(other)s], 'OP2', 2)"),
        Verb(
            "give to a placeholder",
            "update machserial.late_assignment_placeholders set serial_id = %(serial)s where id = %(placeholder)s",
            ("55000",),
        ),
        Verb(
            "make it our own",
            "select machserial.accept_vendor_serial(%(vendor)s, %(serial)s)",
        ),
    ),
    waits={
        "retire": CHANGES_OF_A_SERIAL,
        "invalidate": CHANGES_OF_A_SERIAL,
        "update": CHANGES_OF_A_SERIAL,
        "widen": CHANGES_OF_A_SERIAL,
        "dispute": CHANGES_OF_A_SERIAL,
        "keep": f"leave the conflict | {CHANGES_OF_A_SERIAL}",
        "give": f"leave the conflict | {CHANGES_OF_A_SERIAL}",
        "pass_through": "dispute | give | invalidate | keep | retire | update | widen",
        "split": "dispute | give | invalidate | keep | retire | update | widen",
        "make it our own": "dispute | give | invalidate | keep | make it our own | retire | update | widen",
        "leave the conflict": "give | keep | leave the conflict",
        "give to a placeholder": "give to a placeholder",
    },
)

# Those who take the same receipt a step further.
STEPS_OF_A_RECEIPT = "accept | accept many | reject | retire | update the receipt | update the serial"

VENDOR = Scene(
    name="vendor serials",
    before="""
        select machserial.register_part('P%(n)s', 'T%(n)s');
        select machserial.set_vendor_rule('V%(n)s', regex => '^Z');
        select machserial.receive_vendor_serials('V%(n)s', 'P%(n)s', array['A%(n)s', 'ZB%(n)s', 'ZC%(n)s'])""",
    names="""
        select
            'P%(n)s' as part, 'V%(n)s' as vendor, 'ZB%(n)s' as number,
            min(id) filter (where serial_number = 'A%(n)s') as broken,
            min(id) filter (where serial_number = 'ZB%(n)s') as first,
            min(id) filter (where serial_number = 'ZC%(n)s') as second
        from machserial.serials where part_id = 'P%(n)s'""",
    verbs=(
        Verb("accept", "select machserial.accept_vendor_serial(%(first)s)"),
        Verb("reject", "select machserial.reject_vendor_serial(%(first)s, 'scratched')"),
        Verb(
            "accept many",
            "select * from machserial.accept_vendor_serials(array[%(second)s, %(first)s])",
        ),
        Verb("accept the broken", "select machserial.accept_vendor_serial(%(broken)s)"),
        Verb(
            "reject the broken",
            "select machserial.reject_vendor_serial(%(broken)s, 'not agreed')",
        ),
        Verb(
            "waive",
            "select machserial.waive_vendor_rule(%(broken)s, 'good all the same')",
        ),
        Verb("retire", "select machserial.retire_serial(%(first)s, 'lost')"),
        Verb(
            "update the receipt",
            "update machserial.vendor_serials set status = 'REJECTED', rejection_reason = 'no' where id = %(first)s",
            ("55000",),
        ),
        Verb(
            "update the serial",
            "update machserial.serials set status = 'ACTIVE' where id = %(first)s",
            ("55000",),
        ),
        Verb(
            "receive it again",
            "select machserial.receive_vendor_serial(%(number)s, %(vendor)s, %(part)s)",
        ),
        Verb(
            "set_vendor_rule",
            "select machserial.set_vendor_rule(%(vendor)s, regex => '^A')",
        ),
        Verb("delete_vendor_rule", "select machserial.delete_vendor_rule(%(vendor)s)"),
    ),
    waits={
        "accept": STEPS_OF_A_RECEIPT,
        "reject": STEPS_OF_A_RECEIPT,
        "accept many": STEPS_OF_A_RECEIPT,
        "retire": STEPS_OF_A_RECEIPT,
        "update the receipt": STEPS_OF_A_RECEIPT,
        "update the serial": STEPS_OF_A_RECEIPT,
        "receive it again": STEPS_OF_A_RECEIPT,
        "accept the broken": "reject the broken | waive",
        "reject the broken": "reject the broken | waive",
        "waive": "reject the broken | waive",
        "set_vendor_rule": "delete_vendor_rule | set_vendor_rule",
        "delete_vendor_rule": "delete_vendor_rule | set_vendor_rule",
    },
)

# Those who need the first placeholder.
WHO_HAS_THE_FIRST = " | ".join(
    ("assign", "assign both", "assign the order", "assign the same number", "fail", "give a serial", "note")
)

PLACEHOLDERS = Scene(
    name="placeholders",
    before="""
        select machserial.register_part('P%(n)s', 'T%(n)s');
        select machserial.create_format('F%(n)s', 'F%(n)s-{SEQ:4}', allocation => 'GAPLESS');
        select machserial.assign_format('P%(n)s', 'F%(n)s');
        select machserial.create_placeholders('P%(n)s', 2, 'WO%(n)s');
        select machserial.register_serial('S%(n)s', 'P%(n)s')""",
    names="""
        select
            'P%(n)s' as part, 'WO%(n)s' as work_order, 'N%(n)s' as number, min(p.id) as first, max(p.id) as second,
            (select s.id from machserial.serials as s where s.part_id = 'P%(n)s') as serial
        from machserial.late_assignment_placeholders as p where p.part_id = 'P%(n)s'""",
    verbs=(
        Verb("assign", "select machserial.assign_placeholder(%(first)s)"),
        Verb(
            "assign a number",
            "select machserial.assign_placeholder(%(second)s, %(number)s)",
        ),
        Verb(
            "assign the same number",
            "select machserial.assign_placeholder(%(first)s, %(number)s)",
        ),
        Verb(
            "assign both",
            "select * from machserial.assign_placeholders(placeholder_ids => array[%(second)s, %(first)s])",
        ),
        Verb(
            "assign the order",
            "select * from machserial.assign_placeholders(%(work_order)s)",
        ),
        Verb("fail", "select machserial.fail_placeholder(%(first)s, 'scrapped')"),
        Verb(
            "give a serial",
            "update machserial.late_assignment_placeholders set serial_id = %(serial)s where id = %(first)s",
            ("55000", "23505"),
        ),
        Verb(
            "give it to the second",
            "update machserial.late_assignment_placeholders set serial_id = %(serial)s where id = %(second)s",
            ("55000", "23505"),
        ),
        Verb(
            "note",
            "update machserial.late_assignment_placeholders set notes = 'seen' where id = %(first)s",
        ),
        Verb("generate", "select * from machserial.generate(%(part)s)"),
        Verb(
            "retire the serial",
            "select machserial.retire_serial(%(serial)s, 'worn out')",
        ),
    ),
    waits={
        "assign": f"{WHO_HAS_THE_FIRST} | generate",
        "assign the same number": f"{WHO_HAS_THE_FIRST} | assign a number",
        "assign both": f"{WHO_HAS_THE_FIRST} | assign a number | generate | give it to the second",
        "assign the order": f"{WHO_HAS_THE_FIRST} | assign a number | generate | give it to the second",
        "fail": WHO_HAS_THE_FIRST,
        "give a serial": f"{WHO_HAS_THE_FIRST} | give it to the second",
        "note": WHO_HAS_THE_FIRST,
        "generate": "assign | assign both | assign the order | generate",
        "assign a number": "assign the same number | assign a number | assign both | assign the order"
        " | give it to the second",
        "give it to the second": "assign a number | assign both | assign the order | give a serial"
        " | give it to the second",
        "retire the serial": "retire the serial",
    },
)

LINEAGE = Scene(
    name="lineage",
    before="""
        select machserial.register_part('P%(n)s', 'T%(n)s');
        select machserial.register_serials(
            array['A%(n)s', 'B%(n)s', 'C%(n)s', 'D%(n)s'], 'P%(n)s'
        )""",
    names="""
        select
            min(id) filter (where serial_number = 'A%(n)s') as a, min(id) filter (where serial_number = 'B%(n)s') as b,
            min(id) filter (where serial_number = 'C%(n)s') as c, min(id) filter (where serial_number = 'D%(n)s') as d
        from machserial.serials where part_id = 'P%(n)s'""",
    verbs=(
        Verb(
            "a to b and c",
            "select machserial.split(%(a)s, array[%(b)s, %(c)s], 'OP1', 1)",
        ),
        Verb(
            "b and c to a",
            "select machserial.merge(array[%(b)s, %(c)s], %(a)s, 'OP2', 2)",
        ),
        Verb("c to a", "select machserial.transform(%(c)s, 'OP3', 3, %(a)s)"),
        Verb("b to c", "select machserial.transform(%(b)s, 'OP4', 4, %(c)s)"),
        Verb("d to b", "select machserial.split(%(d)s, array[%(b)s], 'OP5', 5)"),
        Verb("a goes on", "select machserial.pass_through(%(a)s, 'OP6', 6)"),
        Verb(
            "a to d",
            "insert into machserial.serial_propagations"
            " (propagation_type, parent_serial_id, child_serial_id, operation_code, routing_sequence)"
            " values ('SPLIT', %(a)s, %(d)s, 'OP7', 7)",
            ("22023", "55000", "0A000"),
        ),
        Verb("retire a", "select machserial.retire_serial(%(a)s, 'used up')"),
        Verb("invalidate b", "select machserial.invalidate_serial(%(b)s, 'misprint')"),
    ),
    waits={
        "b and c to a": "a goes on | a to b and c | a to d | b and c to a | c to a | d to b | invalidate b | retire a",
        "c to a": "a goes on | a to b and c | a to d | b and c to a | c to a | retire a",
        "d to b": "a to b and c | b and c to a | b to c | d to b | invalidate b",
        "retire a": "a goes on | a to b and c | a to d | b and c to a | c to a | retire a",
        "invalidate b": "a to b and c | b and c to a | b to c | d to b | invalidate b",
        "a to b and c": "b and c to a | c to a | d to b | invalidate b | retire a",
        "a goes on": "b and c to a | c to a | retire a",
        "a to d": "b and c to a | c to a | retire a",
        "b to c": "d to b | invalidate b",
    },
)

# Those who report out of the block, change or close it.
WHO_HAS_THE_BLOCK = "maintain | postpone | report half | report the rest | report the whole | return"

BLOCKS = Scene(
    name="blocks",
    before="""
        select machserial.register_part('P%(n)s', 'T%(n)s');
        select machserial.create_format('F%(n)s', 'B%(n)s-{SEQ:4}');
        select machserial.assign_format('P%(n)s', 'F%(n)s');
        select machserial.allocate_block('F%(n)s', 4, 'line %(n)s', expires_at => clock_timestamp() + '1 ms')""",
    names="""
        select
            'P%(n)s' as part, 'F%(n)s' as format, b.block_id as block, 'B%(n)s-0001' as number,
            array(select s from machserial.block_serials(b.block_id) as s order by s limit 2) as half,
            array(select s from machserial.block_serials(b.block_id) as s order by s desc limit 3) as rest,
            array(select s from machserial.block_serials(b.block_id) as s order by s) as whole
        from machserial.blocks as b where b.holder = 'line %(n)s'""",
    verbs=(
        Verb("report half", "select * from machserial.report_block(%(block)s, %(half)s)"),
        Verb(
            "report the rest",
            "select * from machserial.report_block(%(block)s, %(rest)s)",
        ),
        Verb(
            "report the whole",
            "select * from machserial.report_block(%(block)s, %(whole)s)",
        ),
        Verb("return", "select machserial.return_block(%(block)s)"),
        Verb("maintain", "select * from machserial.maintain()"),
        Verb(
            "postpone",
            "update machserial.number_blocks set expires_at = now() + '1 day' where id = %(block)s",
            ("55000",),
        ),
        Verb(
            "allocate another",
            "select machserial.allocate_block(%(format)s, 4, 'line')",
        ),
        Verb(
            "allocate by request",
            "select machserial.allocate_block(%(format)s, 4, 'l', request_id => %(format)s)",
        ),
        Verb("generate", "select * from machserial.generate(%(part)s)"),
        Verb(
            "register its number",
            "select * from machserial.register_serial(%(number)s, %(part)s)",
        ),
        Verb("read", "select * from machserial.block_serials(%(block)s)"),
    ),
    waits={
        "report half": f"register its number | {WHO_HAS_THE_BLOCK}",
        "report the rest": WHO_HAS_THE_BLOCK,
        "report the whole": f"register its number | {WHO_HAS_THE_BLOCK}",
        "return": WHO_HAS_THE_BLOCK,
        "postpone": WHO_HAS_THE_BLOCK,
        "register its number": "register its number | report half | report the whole",
        "maintain": "maintain",
        "allocate by request": "allocate by request",
    },
)

TRIGGERS = Scene(
    name="triggers",
    before="""
        select machserial.register_part('P%(n)s', 'T%(n)s');
        select machserial.create_format('F%(n)s', 'F%(n)s-{SEQ:4}');
        select machserial.assign_format('P%(n)s', 'F%(n)s');
        select machserial.create_trigger('P%(n)s', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED');
        select machserial.fire('WORK_ORDER_CREATE', 'P%(n)s');
        select machserial.fire('WORK_ORDER_CREATE', 'P%(n)s');
        create table public.orders_%(n)s (
            id bigint generated always as identity primary key, part text, serials text
        );
        create table public.lots_%(n)s (id bigint generated always as identity primary key, part text);
        select machserial.attach('public.orders_%(n)s', 'WORK_ORDER_CREATE', 'part', serial_column => 'serials')""",
    names="""
        select 'P%(n)s' as part, 'public.orders_%(n)s' as orders, 'public.lots_%(n)s' as lots, d.id as trigger
        from machserial.trigger_definitions as d where d.part_id = 'P%(n)s'""",
    verbs=(
        Verb("fire", "select * from machserial.fire('WORK_ORDER_CREATE', %(part)s)"),
        Verb(
            "insert an order",
            "insert into public.orders_%(n)s (part) values (%(part)s), (%(part)s)",
        ),
        Verb("insert a lot", "insert into public.lots_%(n)s (part) values (%(part)s)"),
        Verb("disable", "select machserial.disable_trigger(%(trigger)s)"),
        Verb("enable", "select machserial.enable_trigger(%(trigger)s)"),
        Verb("update", "select machserial.update_trigger(%(trigger)s, batch_size => 2)"),
        Verb("delete", "select machserial.delete_trigger(%(trigger)s)"),
        Verb("attach", "select machserial.attach(%(lots)s, 'WORK_ORDER_CREATE', 'part')"),
        Verb("detach", "select machserial.detach(%(orders)s, 'WORK_ORDER_CREATE')"),
        Verb("maintain", "select * from machserial.maintain()"),
        Verb(
            "create another",
            "select machserial.create_trigger(%(part)s, 'WORK_ORDER_CREATE', 'LATE_ASSIGNMENT')",
        ),
    ),
    waits={
        "delete": "delete | disable | fire | insert an order | maintain | update",
        "insert an order": "delete | detach",
        "detach": "attach | detach | insert an order",
        "insert a lot": "attach",
        "attach": "attach | insert a lot",
        "disable": "delete | disable | update",
        "update": "delete | disable | update",
        "enable": "delete",
        "fire": "delete",
        "maintain": "maintain",
    },
)

CHANGES_OF_PARTS = (
    "delete the part",
    "rename the part",
    "change its type",
    "register_part",
)
CHANGES_OF_SITES = ("delete the site", "rename the site")
CHILDREN_OF_PARTS = (
    "assign_format",
    "create_trigger",
    "set_vendor_rule",
)
CHILDREN_OF_SITES = (
    "record a conflict",
    "allocate_block",
    "generate",
    "generate a batch",
    "insert",
    "placeholders",
    "receive",
    "register",
)

PARENTS = Scene(
    name="parents",
    before="""
        select machserial.register_part('P%(n)s', 'T%(n)s');
        select machserial.register_site('S%(n)s');
        select machserial.create_format('F%(n)s', 'F%(n)s-{SEQ:4}');
        select machserial.register_part('Q%(n)s', 'T%(n)s');
        select machserial.create_placeholders('Q%(n)s');
        select machserial.register_serial('X%(n)s', 'Q%(n)s')""",
    names="""
        select 'P%(n)s' as part, 'S%(n)s' as site, 'F%(n)s' as format, 'N%(n)s' as number, 'X%(n)s' as taken""",
    verbs=(
        Verb(
            "delete the part",
            "delete from machserial.parts where id = %(part)s",
            ("23503", "0A000"),
        ),
        Verb(
            "delete the site",
            "delete from machserial.sites where id = %(site)s",
            ("23503", "0A000"),
        ),
        Verb(
            "rename the part",
            "update machserial.parts set id = id || 'x' where id = %(part)s",
            ("23503", "0A000"),
        ),
        Verb(
            "rename the site",
            "update machserial.sites set id = id || 'x' where id = %(site)s",
            ("23503", "0A000"),
        ),
        Verb(
            "change its type",
            "update machserial.parts set part_type = 'U' where id = %(part)s",
            ("23503", "0A000"),
        ),
        Verb(
            "register_part",
            "select machserial.register_part(%(part)s, 'U')",
            ("23503", "0A000"),
        ),
        Verb(
            "register_site",
            "select machserial.register_site(%(site)s, 'Main', 'Asia/Tokyo')",
        ),
        Verb(
            "generate",
            "select * from machserial.generate(%(part)s, 1, format => %(format)s, site_id => %(site)s)",
        ),
        Verb(
            "generate a batch",
            "select * from machserial.generate(%(part)s, 110, format => %(format)s, site_id => %(site)s)",
        ),
        Verb(
            "register",
            "select * from machserial.register_serial(%(number)s, %(part)s, %(site)s)",
        ),
        Verb(
            "insert",
            "insert into machserial.serials (serial_number, part_id, site_id) values ('i' || %(number)s, %(part)s,"
            " %(site)s)",
            ("23503",),
        ),
        Verb(
            "receive",
            "select machserial.receive_vendor_serial('v' || %(number)s, 'A', %(part)s, site_id => %(site)s)",
        ),
        Verb(
            "placeholders",
            "select machserial.create_placeholders(%(part)s, site_id => %(site)s)",
        ),
        Verb("assign_format", "select machserial.assign_format(%(part)s, %(format)s)"),
        Verb(
            "create_trigger",
            "select machserial.create_trigger(%(part)s, 'BATCH_COMPLETION', 'LATE_ASSIGNMENT')",
        ),
        Verb(
            "set_vendor_rule",
            "select machserial.set_vendor_rule('V%(n)s', %(part)s, regex => 'x')",
        ),
        Verb(
            "allocate_block",
            "select machserial.allocate_block(%(format)s, 2, 'x', part_id => %(part)s, site_id => %(site)s)",
        ),
        Verb(
            "record a conflict",
            "select * from machserial.register_serial(%(taken)s, %(part)s, 'DEFAULT', '{PART_TYPE}',"
            " on_conflict => 'RECORD')",
        ),
    ),
    waits={
        # Whoever takes a parent away or gives it another key waits for those who refer to it, and they for him.
        **dict.fromkeys(
            CHANGES_OF_PARTS,
            " | ".join((*CHANGES_OF_PARTS, *CHILDREN_OF_SITES, *CHILDREN_OF_PARTS)),
        ),
        **dict.fromkeys(
            CHANGES_OF_SITES,
            " | ".join((*CHANGES_OF_SITES, *CHILDREN_OF_SITES, "register_site")),
        ),
        **dict.fromkeys(CHILDREN_OF_PARTS, " | ".join(CHANGES_OF_PARTS)),
        **dict.fromkeys(CHILDREN_OF_SITES, " | ".join((*CHANGES_OF_PARTS, *CHANGES_OF_SITES))),
        "register_site": " | ".join((*CHANGES_OF_SITES, "register_site")),
    },
    focus=frozenset((*CHANGES_OF_PARTS, *CHANGES_OF_SITES, "register_site")),
)

WRITERS = (
    "allocate_block | create_format | fire | generate | generate gapless | register | register_site | retire | split"
)

# What concerns the whole database, and some of those who write meanwhile.
WHOLE = Scene(
    name="the whole database",
    before="""
        select machserial.register_part('P%(n)s', 'T%(n)s');
        select machserial.create_format('F%(n)s', 'F%(n)s-{SEQ:4}');
        select machserial.create_format('G%(n)s', 'G%(n)s-{SEQ:4}', allocation => 'GAPLESS');
        select machserial.assign_format('P%(n)s', 'F%(n)s');
        select machserial.register_serials(array['A%(n)s', 'B%(n)s'], 'P%(n)s');
        select machserial.create_trigger('P%(n)s', 'BATCH_COMPLETION', 'LATE_ASSIGNMENT')""",
    names="""
        select
            'P%(n)s' as part, 'G%(n)s' as gapless, 'F%(n)s' as format, 'S%(n)s' as site, 'N%(n)s' as number,
            min(id) as first, max(id) as second
        from machserial.serials where part_id = 'P%(n)s'""",
    verbs=(
        Verb("pause", "select machserial.pause('stocktaking')"),
        Verb("maintain", "select * from machserial.maintain()"),
        Verb("seal_audit", "select machserial.seal_audit()"),
        # Plans that a session has made for few rows are right for few.
        Verb("verify_audit", "discard plans; select * from machserial.verify_audit()"),
        Verb("set_node", "select machserial.set_node(%(n)s)"),
        Verb("migrate", "select machserial.migrate()"),
        Verb(
            "set the depth",
            "update machserial.settings set value = '60' where name = 'propagation_depth_limit'",
        ),
        Verb("generate", "select * from machserial.generate(%(part)s)"),
        Verb(
            "generate gapless",
            "select * from machserial.generate(%(part)s, 110, format => %(gapless)s)",
        ),
        Verb("register", "select * from machserial.register_serial(%(number)s, %(part)s)"),
        Verb("retire", "select machserial.retire_serial(%(first)s, 'worn out')"),
        Verb("split", "select machserial.split(%(first)s, array[%(second)s], 'OP', 1)"),
        Verb("fire", "select * from machserial.fire('BATCH_COMPLETION', %(part)s)"),
        Verb("allocate_block", "select machserial.allocate_block(%(format)s, 2, 'line')"),
        Verb(
            "create_format",
            "select machserial.create_format('H%(n)s', 'H%(n)s-{SEQ:4}')",
        ),
        Verb("register_site", "select machserial.register_site(%(site)s)"),
    ),
    waits={
        # These two take the tables from those who write. pause() gives up after half a second.
        "pause": "maintain | pause | set_node | " + WRITERS,
        "set_node": "maintain | pause | set the depth | " + WRITERS,
        **dict.fromkeys(WRITERS.split(" | "), "pause | set_node"),
        "maintain": "maintain | pause | set_node",
        # Views are made anew.
        "migrate": "allocate_block",
        "allocate_block": "migrate | pause | set_node",
        "set the depth": "set the depth | set_node",
    },
    focus=frozenset(
        {
            "pause",
            "maintain",
            "seal_audit",
            "verify_audit",
            "set_node",
            "migrate",
            "set the depth",
        }
    ),
)

PAUSED = Scene(
    name="a pause and its end",
    before="""
        select machserial.register_part('P%(n)s', 'T%(n)s');
        select machserial.create_format('F%(n)s', 'F%(n)s-{SEQ:4}');
        select machserial.create_format('D%(n)s', 'D%(n)s-{YYYY}{MM}{DD}{SEQ:4}', reset => 'DAILY');
        select machserial.assign_format('P%(n)s', 'F%(n)s');
        select machserial.register_serial('A%(n)s', 'P%(n)s');
        select machserial.pause('stocktaking')""",
    names="""
        select 'P%(n)s' as part, 'F%(n)s' as format, 'D%(n)s' as daily, 'N%(n)s' as number, s.id as serial
        from machserial.serials as s where s.serial_number = 'A%(n)s'""",
    verbs=(
        Verb("resume", "select machserial.resume('done')"),
        Verb("pause", "select machserial.pause('again')"),
        Verb("pause until fenced", "select machserial.pause('restored', true)"),
        Verb("fence", "select * from machserial.fence(%(format)s, '700', reason => 'restored')"),
        Verb("generate", "select * from machserial.generate(%(part)s)"),
        Verb("generate today", "select * from machserial.generate(%(part)s, format => %(daily)s)"),
        Verb("register", "select * from machserial.register_serial(%(number)s, %(part)s)"),
        Verb("allocate_block", "select machserial.allocate_block(%(format)s, 2, 'line')"),
        Verb("retire", "select machserial.retire_serial(%(serial)s, 'worn out')"),
        Verb("maintain", "select * from machserial.maintain()"),
    ),
    waits={
        # Both take the tables from those who write, and give up after half a second.
        **dict.fromkeys(("resume", "pause", "pause until fenced"), "*"),
        **dict.fromkeys(
            ("fence", "generate", "generate today", "register", "allocate_block", "retire", "maintain"),
            "resume | pause | pause until fenced",
        ),
    },
    focus=frozenset({"resume", "pause", "pause until fenced"}),
)

SCENES = (
    counting("SEQUENCE"),
    counting("GAPLESS"),
    FIRST_USE,
    numbers("ENTERPRISE"),
    numbers("SITE", frozenset({"insert"})),
    numbers("PART_TYPE", frozenset({"insert"})),
    LIFE,
    VENDOR,
    PLACEHOLDERS,
    LINEAGE,
    BLOCKS,
    TRIGGERS,
    PARENTS,
    PAUSED,
    WHOLE,
)


def in_both_orders(name: str, before: str, names: str, gates: tuple[str, ...], *statements: tuple[str, str]) -> Scene:
    """Verbs by twos that need the same rows, named in opposite orders."""
    verbs = [
        Verb(f"{number} {order}", statement)
        for number, pair in enumerate(statements)
        for order, statement in zip(("forwards", "backwards"), pair, strict=True)
    ]
    return Scene(name, before, names, tuple(verbs), {verb.name: "*" for verb in verbs}, gates=gates)


MIXED = (
    in_both_orders(
        "numbers in both orders",
        "select machserial.register_part('P%(n)s', 'T%(n)s')",
        "select 'P%(n)s' as part, array['A%(n)s', 'B%(n)s'] as numbers, array['B%(n)s', 'A%(n)s'] as reversed",
        ("serials", "vendor_serials", "serial_conflicts"),
        (
            "select * from machserial.register_serials(%(numbers)s, %(part)s, on_conflict => 'RECORD')",
            "select * from machserial.register_serials(%(reversed)s, %(part)s)",
        ),
        (
            "select * from machserial.receive_vendor_serials('V', %(part)s, %(numbers)s)",
            "select * from machserial.register_serials(%(reversed)s, %(part)s)",
        ),
    ),
    in_both_orders(
        "vendor serials in both orders",
        """
        select machserial.register_part('P%(n)s', 'T%(n)s');
        select machserial.receive_vendor_serials('V', 'P%(n)s', array['A%(n)s', 'B%(n)s'])""",
        "select min(id) as first, max(id) as second from machserial.serials where part_id = 'P%(n)s'",
        ("serials", "vendor_serials"),
        (
            "select * from machserial.accept_vendor_serials(array[%(first)s, %(second)s])",
            "select * from machserial.accept_vendor_serials(array[%(second)s, %(first)s])",
        ),
    ),
    in_both_orders(
        "placeholders in both orders",
        """
        select machserial.register_part('P%(n)s', 'T%(n)s');
        select machserial.create_format('F%(n)s', 'F%(n)s-{SEQ:4}', allocation => 'GAPLESS');
        select machserial.assign_format('P%(n)s', 'F%(n)s');
        select machserial.create_placeholders('P%(n)s', 2, 'WO%(n)s')""",
        """
        select min(id) as first, max(id) as second, 'WO%(n)s' as work_order
        from machserial.late_assignment_placeholders where part_id = 'P%(n)s'""",
        ("late_assignment_placeholders", "serials", "counters"),
        (
            "select * from machserial.assign_placeholders(%(work_order)s)",
            "select * from machserial.assign_placeholders(placeholder_ids => array[%(second)s, %(first)s])",
        ),
    ),
    in_both_orders(
        "lineage in both orders",
        """
        select machserial.register_part('P%(n)s', 'T%(n)s');
        select machserial.register_serials(array['A%(n)s', 'B%(n)s', 'C%(n)s', 'D%(n)s'], 'P%(n)s')""",
        """
        select min(id) as a, min(id) + 1 as b, min(id) + 2 as c, min(id) + 3 as d
        from machserial.serials where part_id = 'P%(n)s'""",
        ("serial_propagations", "serials"),
        (
            "select * from machserial.split(%(d)s, array[%(a)s, %(b)s], 'OP1', 1)",
            "select * from machserial.merge(array[%(c)s, %(d)s], %(a)s, 'OP2', 2)",
        ),
        (
            "select * from machserial.merge(array[%(a)s, %(b)s], %(c)s, 'OP3', 3)",
            "select * from machserial.split(%(c)s, array[%(b)s, %(a)s], 'OP4', 4)",
        ),
    ),
    # Parts come in one order and the counters of their formats in the other.
    in_both_orders(
        "gapless formats in both orders",
        """
        select machserial.register_part(p || '%(n)s', 'T%(n)s') from unnest('{P,Q,R,S}'::text[]) as p;
        select machserial.create_format('F%(n)s', 'F%(n)s-{SEQ:4}', allocation => 'GAPLESS');
        select machserial.create_format('G%(n)s', 'G%(n)s-{SEQ:4}', allocation => 'GAPLESS', counter_per => 'PART');
        select machserial.assign_format(p, 'F%(n)s') from unnest('{P%(n)s,S%(n)s}'::text[]) as p;
        select machserial.create_trigger('P%(n)s', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED');
        select machserial.create_trigger('Q%(n)s', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED', format => 'H%(n)s')
        from machserial.create_format('H%(n)s', 'H%(n)s-{SEQ:4}', allocation => 'GAPLESS');
        select machserial.create_trigger('R%(n)s', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED', format => 'H%(n)s');
        select machserial.create_trigger('S%(n)s', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED');
        select machserial.create_trigger('P%(n)s', 'BATCH_COMPLETION', 'SYSTEM_GENERATED', format => 'F%(n)s');
        select machserial.create_trigger('P%(n)s', 'BATCH_COMPLETION', 'SYSTEM_GENERATED', format => 'H%(n)s');
        select machserial.create_trigger('Q%(n)s', 'BATCH_COMPLETION', 'SYSTEM_GENERATED', format => 'H%(n)s');
        select machserial.create_trigger('Q%(n)s', 'BATCH_COMPLETION', 'SYSTEM_GENERATED', format => 'F%(n)s');
        create table public.orders_%(n)s (
            id bigint generated always as identity primary key, part text, serials text
        );
        select machserial.attach('public.orders_%(n)s', 'WORK_ORDER_CREATE', 'part', serial_column => 'serials')""",
        "select 'P%(n)s' as p, 'Q%(n)s' as q, 'R%(n)s' as r, 'S%(n)s' as s",
        ("counters", "serials"),
        (
            "insert into public.orders_%(n)s (part) values (%(p)s), (%(q)s)",
            "insert into public.orders_%(n)s (part) values (%(r)s), (%(s)s)",
        ),
        (
            "select * from machserial.fire('BATCH_COMPLETION', %(p)s)",
            "select * from machserial.fire('BATCH_COMPLETION', %(q)s)",
        ),
    ),
)
