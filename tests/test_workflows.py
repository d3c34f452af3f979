"""Workflows seen from outside: what each call and each direct statement gives, refuses and leaves on record.

Nothing here knows how a function works inside. PLANT is a small factory in which every kind of row exists in every
state; REFUSALS lists what must be refused there, and how; AUDITED what must leave an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from time import sleep

import psycopg
import pytest
from support import (
    HOSTILE_NUMBERS,
    allow_unicode,
    at_once,
    call,
    column,
    generated,
    make_format,
    make_part,
    mostly_slow,
    refused,
    register,
    value,
)

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()

# Helpers that stand for ids: s('number') a serial, p('work order') a placeholder, t('trigger type') a trigger,
# b('holder') a block.
PLANT = """
create function s(number text) returns bigint language sql
as $$ select min(id) from machserial.serials where serial_number = number $$;
create function p(work_order text) returns bigint language sql
as $$ select min(id) from machserial.late_assignment_placeholders where work_order_id = work_order $$;
create function t(kind text) returns bigint language sql
as $$ select min(id) from machserial.serial_assignment_triggers where trigger_type = kind $$;
create function b(whose text) returns bigint language sql
as $$ select min(block_id) from machserial.blocks where holder = whose $$;

set local search_path = machserial, public;
set local machserial.actor = 'plant';
select register_site('HAM', 'Hamburg', time_zone => 'Europe/Berlin');
select register_part('VALVE', 'VALVE', 'Ball valve');
select register_part('BODY', 'CASTING', 'Valve body');
select register_part('BARE', 'BARE', 'A part without a format');
select create_format('valves', 'BV-{SEQ:6}');
select create_format('seals', 'S{SEQ:4}', allocation => 'GAPLESS');
select create_format('tiny', 'T{SEQ:1}');
select create_format('random', 'R{RANDOM:hex:8}');
select create_format('by part', '{PART}{SEQ:4}', counter_per => 'PART');
select create_format('by order', '{WO}-{SEQ:4}');
select create_format('old', 'O{SEQ:4}');
select deactivate_format('old');
select assign_format('VALVE', 'valves');
select generate('VALVE', 2);
select register_serials('{A1,A2,A3,B1,B2,B3,RET,INV,CON,REJ,OWN,DUP}', 'VALVE');
update serials set status_reason = 'worn out', status = 'RETIRED' where serial_number = 'RET';
update serials set status_reason = 'misprint', status = 'INVALID' where serial_number = 'INV';
update serials set status_reason = 'twice', status = 'CONFLICT' where serial_number in ('CON', 'REJ');
update serials set status_reason = 'wrong', status = 'REJECTED' where serial_number = 'REJ';

select set_vendor_rule('Foundry', regex => '^F-[0-9]{4}$', max_length => 6);
select receive_vendor_serials('Foundry', 'BODY', '{F-0001,F-0002,F-0003,F-0004,FAULTY,WAIVED}');
select accept_vendor_serial(s('F-0002'));
select accept_vendor_serial(s('F-0004'), internal_serial_id => s('OWN'));
select reject_vendor_serial(s('F-0003'), reason => 'blowhole');
select waive_vendor_rule(s('WAIVED'), reason => 'the drawing allows it');

select create_placeholders('VALVE', 2, work_order_id => 'WO-OPEN', lot_number => 'L-1');
select create_placeholders('VALVE', 1, work_order_id => 'WO-DONE');
select assign_placeholder(p('WO-DONE'), serial_number => 'LATE-1');
select create_placeholders('VALVE', 1, work_order_id => 'WO-FAILED');
select fail_placeholder(p('WO-FAILED'), reason => 'scrapped');
select create_placeholders('BARE', 1, work_order_id => 'WO-BARE');

select split(s('A1'), array[s('A2')], 'OP-10', 10);
select transform(s('A2'), 'OP-20', 20, target_serial_id => s('A3'));

select create_trigger('VALVE', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED', operation_code => 'OP-10');
select create_trigger('VALVE', 'QUALITY_CHECKPOINT', 'SYSTEM_GENERATED', conditions => '"$.score > 5"');
select create_trigger('BODY', 'MATERIAL_RECEIPT', 'VENDOR');
select create_trigger('BARE', 'BATCH_COMPLETION', 'SYSTEM_GENERATED');
select create_trigger('BODY', 'OPERATION_COMPLETE', 'LATE_ASSIGNMENT', operation_code => 'OP-001');
select disable_trigger(t('OPERATION_COMPLETE'));
create table public.work_orders (
    number text primary key, part_id text, quantity integer, operation_code text, lot text,
    serials text[], first_serial text, at date
);
create view public.open_work_orders as select * from work_orders;

select allocate_block('valves', 5, holder => 'Line 7', part_id => 'VALVE');
select allocate_block('seals', 3, holder => 'Contractor', part_id => 'VALVE');
select report_block(b('Contractor'), used => array['S0001']);
select return_block(b('Contractor'));
select allocate_block('valves', 2, holder => 'Offline', part_id => 'VALVE', request_id => 'REQUEST-1');

select register_serial('DUP', 'VALVE', on_conflict => 'RECORD');
"""

# Capability: (SQLSTATE, what is refused in the plant, words that MESSAGE or DETAIL must contain).
REFUSALS = {
    "vendor": [
        ("22023", "select receive_vendor_serial(serial_number => '', vendor_name => 'V', part_id => 'BODY')", []),
        ("22023", "select receive_vendor_serial(serial_number => ' \t ', vendor_name => 'V', part_id => 'BODY')", []),
        ("22023", "select receive_vendor_serial(serial_number => null, vendor_name => 'V', part_id => 'BODY')", []),
        ("22023", "select receive_vendor_serial(repeat('9', 256), 'V', 'BODY')", ["255"]),
        ("22023", "select receive_vendor_serial('N', vendor_name => null, part_id => 'BODY')", ["vendor"]),
        ("22023", "select receive_vendor_serial('N', vendor_name => ' ', part_id => 'BODY')", ["vendor"]),
        ("23503", "select receive_vendor_serial('N', 'V', part_id => 'NO-PART')", ["NO-PART"]),
        ("23503", "select receive_vendor_serial('N', 'V', 'BODY', site_id => 'NO-SITE')", ["NO-SITE"]),
        ("23505", "select receive_vendor_serial('F-0001', 'Foundry', 'BODY')", ["F-0001"]),
        ("23505", "select receive_vendor_serial(' F-0002 ', 'Another', 'BODY')", ["F-0002"]),
        ("23505", "select receive_vendor_serial('RET', 'Foundry', 'VALVE')", ["RET"]),
        ("22023", "select receive_vendor_serials('V', 'BODY', null)", []),
        ("22023", "select receive_vendor_serials(null, 'BODY', '{N}')", ["vendor"]),
        ("23503", "select receive_vendor_serials('V', 'NO-PART', '{N}')", ["NO-PART"]),
        ("23503", "select receive_vendor_serials('V', 'BODY', '{N}', site_id => 'NO-SITE')", ["NO-SITE"]),
        ("P0002", "select accept_vendor_serial(4711)", ["4711"]),
        ("P0002", "select accept_vendor_serial(null)", ["null"]),
        ("P0002", "select accept_vendor_serial(s('A1'))", []),
        ("55000", "select accept_vendor_serial(s('F-0002'))", ["F-0002", "ACTIVE"]),
        ("55000", "select accept_vendor_serial(s('F-0003'))", ["F-0003", "REJECTED"]),
        ("55000", "select accept_vendor_serial(s('FAULTY'))", ["FAULTY", "F-[0-9]"]),
        ("23503", "select accept_vendor_serial(s('F-0001'), internal_serial_id => 4711)", ["4711"]),
        ("55000", "select accept_vendor_serial(s('F-0001'), internal_serial_id => s('RET'))", ["RET", "RETIRED"]),
        ("55000", "select accept_vendor_serial(s('F-0001'), internal_serial_id => s('F-0001'))", ["F-0001"]),
        ("23505", "select accept_vendor_serial(s('F-0001'), internal_serial_id => s('OWN'))", ["F-0004"]),
        ("22023", "select reject_vendor_serial(s('F-0001'), reason => null)", ["F-0001"]),
        ("22023", "select reject_vendor_serial(s('F-0001'), reason => '  ')", ["F-0001"]),
        ("55000", "select reject_vendor_serial(s('F-0002'), reason => 'late')", ["F-0002", "ACTIVE"]),
        ("55000", "select reject_vendor_serial(s('F-0003'), reason => 'again')", ["F-0003", "REJECTED"]),
        ("P0002", "select reject_vendor_serial(4711, reason => 'x')", ["4711"]),
        ("P0002", "select * from validate_vendor_serial(4711)", ["4711"]),
        ("P0002", "select waive_vendor_rule(4711, reason => 'x')", ["4711"]),
        ("22023", "select waive_vendor_rule(s('FAULTY'), reason => '')", ["FAULTY"]),
        ("55000", "select waive_vendor_rule(s('F-0001'), reason => 'why not')", ["F-0001"]),
        ("55000", "select waive_vendor_rule(s('WAIVED'), reason => 'again')", ["WAIVED"]),
        ("22023", "select set_vendor_rule('V')", []),
        ("22023", "select set_vendor_rule(null, max_length => 3)", ["vendor"]),
        ("22023", "select set_vendor_rule('V', regex => '(')", ["("]),
        ("22023", "select set_vendor_rule('V', pattern => '{SEQ}')", []),
        ("22023", "select set_vendor_rule('V', min_length => 9, max_length => 3)", ["9", "3"]),
        ("22023", "select set_vendor_rule('V', min_length => -1)", ["-1"]),
        ("22023", "select set_vendor_rule('V', check_algorithm => 'lun')", ["lun"]),
        ("23503", "select set_vendor_rule('V', part_id => 'NO-PART', max_length => 3)", ["NO-PART"]),
        ("55000", "update vendor_serials set status = 'ACTIVE' where serial_number = 'FAULTY'", ["FAULTY"]),
        ("55000", "update serials set status = 'ACTIVE' where serial_number = 'FAULTY'", ["FAULTY"]),
        ("55000", "update serials set status = 'ACTIVE' where serial_number = 'F-0003'", ["F-0003"]),
        ("55000", "update vendor_serials set status = 'ACTIVE' where serial_number = 'F-0003'", ["F-0003"]),
        ("55000", "update vendor_serials set status = 'PENDING' where serial_number = 'F-0002'", ["F-0002"]),
        ("22023", "update vendor_serials set status = 'REJECTED' where serial_number = 'F-0001'", ["F-0001"]),
        ("55000", "update vendor_serials set serial_number = 'X' where serial_number = 'F-0001'", ["F-0001"]),
        ("55000", "update vendor_serials set validation_errors = '{}' where serial_number = 'FAULTY'", ["FAULTY"]),
        ("55000", "delete from vendor_serials where serial_number = 'F-0001'", []),
        ("55000", "truncate vendor_serials", []),
        (
            "23505",
            "insert into vendor_serials (serial_number, vendor_name, part_id) values ('F-0001', 'V', 'BODY')",
            ["F-0001"],
        ),
        (
            "23503",
            "insert into vendor_serials (serial_number, vendor_name, part_id) values ('N', 'V', 'NO-PART')",
            ["NO-PART"],
        ),
        (
            "55000",
            "insert into vendor_serials (serial_number, vendor_name, part_id, status) "
            "values ('FAULTY-2', 'Foundry', 'BODY', 'ACTIVE')",
            ["FAULTY-2"],
        ),
        (
            "22023",
            "insert into vendor_serials (serial_number, vendor_name, part_id, status) "
            "values ('F-0009', 'Foundry', 'BODY', 'REJECTED')",
            ["F-0009"],
        ),
    ],
    "late_assignment": [
        ("22023", "select create_placeholders('VALVE', quantity => 0)", ["0"]),
        ("22023", "select create_placeholders('VALVE', quantity => -1)", ["-1"]),
        ("22023", "select create_placeholders('VALVE', quantity => null)", ["null"]),
        ("22023", "select create_placeholders('VALVE', quantity => 1000001)", ["1000001"]),
        ("23503", "select create_placeholders('NO-PART')", ["NO-PART"]),
        ("P0002", "select assign_placeholder(4711)", ["4711"]),
        ("P0002", "select assign_placeholder(null)", ["null"]),
        ("55000", "select assign_placeholder(p('WO-DONE'))", ["SERIALIZED", "LATE-1"]),
        ("55000", "select assign_placeholder(p('WO-DONE'), serial_number => 'LATE-2')", ["SERIALIZED", "LATE-1"]),
        ("55000", "select assign_placeholder(p('WO-FAILED'))", ["FAILED", "scrapped"]),
        ("23505", "select assign_placeholder(p('WO-OPEN'), serial_number => 'A1')", ["A1"]),
        ("22023", "select assign_placeholder(p('WO-OPEN'), serial_number => '')", []),
        ("23503", "select assign_placeholder(p('WO-BARE'))", ["BARE"]),
        ("22023", "select assign_placeholders()", []),
        ("22023", "select assign_placeholders(work_order_id => 'WO-OPEN', placeholder_ids => '{1}')", []),
        ("22023", "select assign_placeholders(placeholder_ids => array[p('WO-OPEN'), p('WO-OPEN')])", []),
        ("22023", "select assign_placeholders(work_order_id => 'WO-OPEN', serial_numbers => '{X}')", ["1", "2"]),
        ("23505", "select assign_placeholders(work_order_id => 'WO-OPEN', serial_numbers => '{X,X}')", ["X"]),
        ("P0002", "select assign_placeholders(work_order_id => 'WO-NONE')", ["WO-NONE"]),
        ("P0002", "select assign_placeholders(placeholder_ids => array[p('WO-OPEN'), 4711])", ["4711"]),
        ("55000", "select assign_placeholders(placeholder_ids => array[p('WO-OPEN'), p('WO-FAILED')])", ["FAILED"]),
        ("22023", "select fail_placeholder(p('WO-OPEN'), reason => null)", []),
        ("22023", "select fail_placeholder(p('WO-OPEN'), reason => '')", []),
        ("55000", "select fail_placeholder(p('WO-DONE'), reason => 'lost')", ["SERIALIZED"]),
        ("55000", "select fail_placeholder(p('WO-FAILED'), reason => 'again')", ["FAILED"]),
        ("P0002", "select fail_placeholder(4711, reason => 'x')", ["4711"]),
        ("23503", "select pending_placeholders('NO-PART')", ["NO-PART"]),
        ("23503", "select placeholder_statistics('NO-PART')", ["NO-PART"]),
        (
            "55000",
            "update late_assignment_placeholders set serial_id = s('A1') where work_order_id = 'WO-DONE'",
            ["SERIALIZED"],
        ),
        (
            "55000",
            "update late_assignment_placeholders set status = 'PENDING', serial_id = null "
            "where work_order_id = 'WO-DONE'",
            [],
        ),
        (
            "23505",
            "update late_assignment_placeholders set serial_id = s('LATE-1') where id = p('WO-OPEN')",
            [],
        ),
        ("55000", "update late_assignment_placeholders set serial_id = s('RET') where id = p('WO-OPEN')", ["RET"]),
        ("22023", "update late_assignment_placeholders set serial_id = s('F-0002') where id = p('WO-OPEN')", ["BODY"]),
        ("23503", "update late_assignment_placeholders set serial_id = 4711 where id = p('WO-OPEN')", ["4711"]),
        ("22023", "update late_assignment_placeholders set status = 'SERIALIZED' where id = p('WO-OPEN')", []),
        ("22023", "update late_assignment_placeholders set status = 'FAILED' where id = p('WO-OPEN')", []),
        ("55000", "update late_assignment_placeholders set status = 'PENDING' where id = p('WO-FAILED')", ["FAILED"]),
        ("55000", "update late_assignment_placeholders set part_id = 'BARE' where id = p('WO-OPEN')", []),
        ("55000", "delete from late_assignment_placeholders where id = p('WO-OPEN')", []),
        ("55000", "truncate late_assignment_placeholders", []),
        ("22023", "insert into late_assignment_placeholders (part_id, status) values ('VALVE', 'SERIALIZED')", []),
    ],
    "propagation": [
        ("P0002", "select pass_through(4711, 'OP-1', 1)", ["4711"]),
        ("22023", "select pass_through(null, 'OP-1', 1)", ["null"]),
        ("55000", "select pass_through(s('RET'), 'OP-1', 1)", ["RET", "RETIRED"]),
        ("55000", "select pass_through(s('INV'), 'OP-1', 1)", ["INV", "INVALID"]),
        ("22023", "select pass_through(s('B1'), null, 1)", ["operation_code"]),
        ("22023", "select pass_through(s('B1'), ' ', 1)", ["operation_code"]),
        ("22023", "select pass_through(s('B1'), 'OP-1', null)", ["routing_sequence"]),
        ("22023", "select pass_through(s('B1'), 'OP-1', -1)", ["-1"]),
        ("22023", "select pass_through(s('B1'), 'OP-1', 1, quantity => 0)", ["quantity", "0"]),
        ("22023", "select split(s('B1'), '{}', 'OP-1', 1)", []),
        ("22023", "select split(s('B1'), null, 'OP-1', 1)", []),
        ("22023", "select split(s('B1'), array[s('B2'), null], 'OP-1', 1)", ["null"]),
        ("22023", "select split(s('B1'), array[s('B2'), s('B2')], 'OP-1', 1)", ["more than once"]),
        ("22023", "select split(s('B1'), array[s('B1')], 'OP-1', 1)", ["more than once"]),
        ("22023", "select split(s('A3'), array[s('A1')], 'OP-1', 1)", ["A3", "A1"]),
        ("P0002", "select split(4711, array[s('B1')], 'OP-1', 1)", ["4711"]),
        ("P0002", "select split(s('B1'), array[s('B2'), 4711], 'OP-1', 1)", ["4711"]),
        ("55000", "select split(s('RET'), array[s('B1')], 'OP-1', 1)", ["RET", "RETIRED"]),
        ("55000", "select split(s('B1'), array[s('RET')], 'OP-1', 1)", ["RET", "RETIRED"]),
        ("22023", "select merge('{}', s('B1'), 'OP-1', 1)", []),
        ("22023", "select merge(array[s('B1'), s('B1')], s('B2'), 'OP-1', 1)", ["more than once"]),
        ("22023", "select merge(array[s('B1'), s('A3')], s('A1'), 'OP-1', 1)", ["A3", "A1"]),
        ("22023", "select merge(array[s('B1'), s('B2')], s('B1'), 'OP-1', 1)", ["more than once"]),
        ("55000", "select merge(array[s('B1'), s('INV')], s('B2'), 'OP-1', 1)", ["INV", "INVALID"]),
        ("P0002", "select merge(array[s('B1'), 4711], s('B2'), 'OP-1', 1)", ["4711"]),
        ("P0002", "select merge(array[s('B1')], 4711, 'OP-1', 1)", ["4711"]),
        ("22023", "select transform(s('A3'), 'OP-1', 1, target_serial_id => s('A1'))", ["A3", "A1"]),
        ("22023", "select transform(s('B1'), 'OP-1', 1, target_serial_id => s('B1'))", ["more than once"]),
        ("55000", "select transform(s('RET'), 'OP-1', 1)", ["RET"]),
        ("P0002", "select * from lineage(4711)", ["4711"]),
        ("22023", "select * from lineage(s('A1'), max_depth => -1)", ["-1"]),
        ("22023", "select * from lineage(s('A1'), max_depth => null)", ["max_depth"]),
        ("23503", "select * from propagation_history('NO-PART')", ["NO-PART"]),
        ("23503", "select * from propagation_statistics('NO-PART')", ["NO-PART"]),
        ("22023", "insert into serial_propagations ({edge}) values (s('A3'), s('A1'), {rest})", ["A3", "A1"]),
        ("22023", "insert into serial_propagations ({edge}) values (s('B1'), s('B1'), {rest})", ["B1"]),
        (
            "22023",
            "insert into serial_propagations ({edge}) values (s('B1'), s('B2'), {rest}), (s('B2'), s('B1'), {rest})",
            ["B1", "B2"],
        ),
        (
            "22023",
            "insert into serial_propagations ({edge}) values (s('B1'), s('A1'), {rest}), (s('A3'), s('B1'), {rest})",
            ["B1"],
        ),
        ("55000", "insert into serial_propagations ({edge}) values (s('RET'), s('B1'), {rest})", ["RET"]),
        ("55000", "insert into serial_propagations ({edge}) values (s('B1'), s('INV'), {rest})", ["INV"]),
        ("55000", "update serial_propagations set child_serial_id = s('A1') where child_serial_id = s('A3')", []),
        ("55000", "delete from serial_propagations", []),
        ("55000", "truncate serial_propagations", []),
    ],
    "triggers": [
        ("22023", "select create_trigger('VALVE', 'WORKORDER', 'SYSTEM_GENERATED')", ["WORKORDER"]),
        ("22023", "select create_trigger('VALVE', null, 'SYSTEM_GENERATED')", ["trigger_type"]),
        ("22023", "select create_trigger('VALVE', 'WORK_ORDER_CREATE', 'SYSTEM')", ["SYSTEM"]),
        ("23503", "select create_trigger('NO-PART', 'WORK_ORDER_CREATE', 'VENDOR')", ["NO-PART"]),
        ("23503", "select create_trigger('VALVE', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED', format => 'X')", ["X"]),
        ("55000", "select create_trigger('VALVE', 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED', format => 'old')", ["old"]),
        ("22023", "select create_trigger('VALVE', 'WORK_ORDER_CREATE', 'VENDOR', conditions => '[1]')", []),
        (
            "22023",
            "select create_trigger('BODY', 'BATCH_COMPLETION', 'VENDOR', conditions => to_jsonb('$.a >'::text))",
            [],
        ),
        ("22023", "select create_trigger('VALVE', 'WORK_ORDER_CREATE', 'VENDOR', batch_size => 0)", ["0"]),
        ("P0002", "select update_trigger(4711, batch_size => 2)", ["4711"]),
        ("P0002", "select enable_trigger(4711)", ["4711"]),
        ("P0002", "select disable_trigger(null)", ["null"]),
        ("P0002", "select delete_trigger(4711)", ["4711"]),
        ("22023", "select update_trigger(t('WORK_ORDER_CREATE'), batch_size => -1)", ["-1"]),
        ("22023", "select update_trigger(t('WORK_ORDER_CREATE'), trigger_type => 'X')", ["X"]),
        ("23503", "select trigger_statistics('NO-PART')", ["NO-PART"]),
        ("22023", "select fire('WORKORDER', 'VALVE')", ["WORKORDER"]),
        ("23503", "select fire('WORK_ORDER_CREATE', 'NO-PART')", ["NO-PART"]),
        ("22023", "select fire('WORK_ORDER_CREATE', 'VALVE', '[]')", ["array"]),
        (
            "22023",
            "select fire('WORK_ORDER_CREATE', 'VALVE', jsonb_build_object('operation_code', 'OP-10'), quantity => 0)",
            ["0"],
        ),
        ("23503", "select fire('BATCH_COMPLETION', 'BARE')", ["BARE"]),
        (
            "22023",
            "select fire('MATERIAL_RECEIPT', 'BODY', jsonb_build_object('vendor_name', 'Foundry'))",
            ["serial_number"],
        ),
        (
            "22023",
            "select fire('MATERIAL_RECEIPT', 'BODY', jsonb_build_object('serial_number', 'F-9999'))",
            ["vendor_name"],
        ),
        (
            "23505",
            "select fire('MATERIAL_RECEIPT', 'BODY', jsonb_build_object('vendor_name', 'V', 'serial_number', 'RET'))",
            ["RET"],
        ),
        ("22023", "select explain_triggers('WORKORDER', 'VALVE', '{}')", ["WORKORDER"]),
        ("23503", "select explain_triggers('WORK_ORDER_CREATE', 'NO-PART', '{}')", ["NO-PART"]),
        ("22023", "select attach(null, 'WORK_ORDER_CREATE', 'part_id')", ["relation"]),
        ("22023", "select attach('work_orders', 'WORKORDER', 'part_id')", ["WORKORDER"]),
        ("22023", "select attach('work_orders', 'WORK_ORDER_CREATE', part_column => 'part')", ["part", "work_orders"]),
        ("22023", "select attach('work_orders', 'WORK_ORDER_CREATE', part_column => null)", ["part_column"]),
        (
            "22023",
            "select attach('work_orders', 'WORK_ORDER_CREATE', 'part_id', quantity_column => 'lot')",
            ["lot", "text"],
        ),
        (
            "22023",
            "select attach('work_orders', 'WORK_ORDER_CREATE', 'part_id', serial_column => 'at')",
            ["at", "date"],
        ),
        (
            "22023",
            "select attach('work_orders', 'WORK_ORDER_CREATE', 'part_id', serial_column => 'part_id')",
            ["part_id"],
        ),
        (
            "22023",
            "select attach('work_orders', 'WORK_ORDER_CREATE', 'part_id', context_columns => '{lot,nix}')",
            ["nix"],
        ),
        ("0A000", "select attach('open_work_orders', 'WORK_ORDER_CREATE', 'part_id')", ["open_work_orders"]),
        (
            "55000",
            "select attach('work_orders', 'WORK_ORDER_CREATE', 'part_id');"
            "select attach('work_orders', 'WORK_ORDER_CREATE', 'part_id')",
            ["work_orders", "WORK_ORDER_CREATE"],
        ),
        ("P0002", "select detach('work_orders', 'WORK_ORDER_CREATE')", ["work_orders"]),
        (
            "23503",
            "select attach('work_orders', 'BATCH_COMPLETION', 'part_id');"
            "insert into work_orders (number, part_id) values ('NO-1', 'VALVE'), ('NO-2', 'BARE')",
            ["BARE", "NO-2"],
        ),
        (
            "22023",
            "select attach('work_orders', 'BATCH_COMPLETION', 'part_id', quantity_column => 'quantity');"
            "insert into work_orders (number, part_id, quantity) values ('WO-7', 'VALVE', 1), ('WO-8', 'BARE', -1)",
            ["WO-8", "-1"],
        ),
        ("22023", "update serial_assignment_triggers set trigger_type = 'X' where id = t('WORK_ORDER_CREATE')", ["X"]),
        ("22023", "update serial_assignment_triggers set batch_size = 0 where id = t('WORK_ORDER_CREATE')", ["0"]),
        ("22023", "update serial_assignment_triggers set execution_count = -1", ["-1"]),
    ],
    "blocks": [
        ("23503", "select allocate_block('no format', 5, holder => 'L')", ["no format"]),
        ("55000", "select allocate_block('old', 5, holder => 'L')", ["old"]),
        ("22023", "select allocate_block('valves', 0, holder => 'L', part_id => 'VALVE')", ["0"]),
        ("22023", "select allocate_block('valves', null, holder => 'L', part_id => 'VALVE')", ["null"]),
        ("22023", "select allocate_block('valves', -5, holder => 'L', part_id => 'VALVE')", ["-5"]),
        ("22023", "select allocate_block('valves', 5, holder => null, part_id => 'VALVE')", ["holder"]),
        ("22023", "select allocate_block('valves', 5, holder => ' ', part_id => 'VALVE')", ["holder"]),
        ("2200H", "select allocate_block('tiny', 10, holder => 'L', part_id => 'VALVE')", ["tiny"]),
        ("22023", "select allocate_block('random', 5, holder => 'L', part_id => 'VALVE')", ["random"]),
        ("22023", "select allocate_block('by part', 5, holder => 'L')", ["by part"]),
        ("22023", "select allocate_block('by order', 5, holder => 'L', part_id => 'VALVE')", ["by order"]),
        ("23503", "select allocate_block('valves', 5, holder => 'L', part_id => 'NO-PART')", ["NO-PART"]),
        ("23503", "select allocate_block('valves', 5, 'L', part_id => 'VALVE', site_id => 'NO-SITE')", ["NO-SITE"]),
        (
            "22023",
            "select allocate_block('valves', 5, 'L', part_id => 'VALVE', expires_at => now() - interval '1 minute')",
            ["expires_at"],
        ),
        (
            "22023",
            "select allocate_block('valves', 3, 'Offline', part_id => 'VALVE', request_id => 'REQUEST-1')",
            ["REQUEST-1"],
        ),
        ("P0002", "select block_serials(4711)", ["4711"]),
        ("P0002", "select report_block(4711, used => '{}')", ["4711"]),
        ("P0002", "select return_block(4711)", ["4711"]),
        ("P0002", "select return_block(null)", ["null"]),
        ("22023", "select report_block(b('Line 7'), used => null)", ["used"]),
        ("22023", "select report_block(b('Line 7'), used => '{BV-000003,null}')", ["null"]),
        ("22023", "select report_block(b('Line 7'), used => '{BV-999999}')", ["BV-999999"]),
        ("22023", "select report_block(b('Line 7'), used => '{BV-000001}')", ["BV-000001"]),
        ("55000", "select report_block(b('Contractor'), used => '{S0002}')", ["S0002"]),
    ],
    "conflicts": [
        ("22023", "select resolve_conflict('DUP', 'VALVE', 'SWAP', reason => 'x')", ["SWAP"]),
        ("22023", "select resolve_conflict('DUP', 'VALVE', null, reason => 'x')", ["resolution"]),
        ("22023", "select resolve_conflict('DUP', 'VALVE', 'KEEP', keep_serial_id => s('DUP'), reason => null)", []),
        ("22023", "select resolve_conflict('DUP', 'VALVE', 'KEEP', keep_serial_id => s('DUP'), reason => ' ')", []),
        ("22023", "select resolve_conflict('DUP', 'VALVE', 'KEEP', reason => 'x')", ["keep_serial_id"]),
        ("22023", "select resolve_conflict('DUP', 'VALVE', 'KEEP', keep_serial_id => s('A1'), reason => 'x')", ["A1"]),
        ("22023", "select resolve_conflict('DUP', 'VALVE', 'RETIRE', retired_serial_id => s('A1'), reason => 'x')", []),
        ("P0002", "select resolve_conflict('A1', 'VALVE', 'KEEP', keep_serial_id => s('A1'), reason => 'x')", ["A1"]),
        ("P0002", "select resolve_conflict('NIX', 'VALVE', 'KEEP', keep_serial_id => 1, reason => 'x')", ["NIX"]),
        ("23503", "select resolve_conflict('DUP', 'NO-PART', 'KEEP', keep_serial_id => 1, reason => 'x')", ["NO-PART"]),
        ("23503", "select uniqueness_report('DUP', 'NO-PART')", ["NO-PART"]),
        ("23503", "select pending_conflicts('NO-PART')", ["NO-PART"]),
        ("23503", "select conflict_history('NO-PART')", ["NO-PART"]),
        ("23503", "select uniqueness_statistics('NO-PART')", ["NO-PART"]),
        ("23503", "select * from check_uniqueness('DUP', 'NO-PART')", ["NO-PART"]),
        ("23503", "select * from check_uniqueness('DUP', 'VALVE', site_id => 'NO-SITE')", ["NO-SITE"]),
        ("22023", "select * from check_uniqueness('DUP', 'VALVE', scopes => '{WORLD}')", ["WORLD"]),
        ("22023", "select * from check_uniqueness(null, 'VALVE')", ["serial_number"]),
        ("22023", "select * from check_uniqueness('', 'VALVE')", ["serial_number"]),
        ("22023", "update serial_conflicts set status = 'RESOLVED' where serial_number = 'DUP'", ["DUP"]),
        ("55000", "update serial_conflicts set serial_number = 'X' where serial_number = 'DUP'", ["DUP"]),
        ("55000", "delete from serial_conflicts", []),
        ("55000", "truncate serial_conflicts cascade", []),
    ],
    "life cycle": [
        ("22023", "select retire_serial(s('A1'), reason => null)", ["A1"]),
        ("22023", "select retire_serial(s('A1'), reason => ' ')", ["A1"]),
        ("22023", "select invalidate_serial(s('A1'), reason => '')", ["A1"]),
        ("55000", "select retire_serial(s('RET'), reason => 'again')", ["RET", "worn out"]),
        ("55000", "select retire_serial(s('INV'), reason => 'again')", ["INV"]),
        ("55000", "select retire_serial(s('REJ'), reason => 'again')", ["REJ"]),
        ("55000", "select invalidate_serial(s('INV'), reason => 'again')", ["INV", "misprint"]),
        ("P0002", "select retire_serial(4711, reason => 'x')", ["4711"]),
        ("P0002", "select invalidate_serial(null, reason => 'x')", ["null"]),
        ("55000", "update serials set status = 'ACTIVE' where serial_number = 'RET'", ["RET", "ACTIVE"]),
        ("55000", "update serials set status = 'PENDING' where serial_number = 'A1'", ["A1", "PENDING"]),
        (
            "55000",
            "update serials set status = 'REJECTED', status_reason = 'x' where serial_number = 'A1'",
            ["A1", "REJECTED"],
        ),
        ("22023", "update serials set status = 'RETIRED' where serial_number = 'A1'", ["A1", "RETIRED"]),
        ("55000", "update serials set status = 'retired' where serial_number = 'A1'", ["retired"]),
        (
            "55000",
            "update serials set claim_released = true, status_reason = 'x' where serial_number = 'A1'",
            ["A1"],
        ),
        ("55000", "update serials set serial_number = 'X' where serial_number = 'A1'", ["A1"]),
        ("55000", "update serials set part_id = 'BODY', part_type = 'CASTING' where serial_number = 'A1'", ["A1"]),
        ("55000", "delete from serials where serial_number = 'A1'", []),
        ("55000", "truncate serials cascade", []),
        ("55000", "update system_generated_serials set sequence_number = 1000 where part_id = 'VALVE'", ["BV-000001"]),
        ("42501", "update audit_events set reason = 'x'", []),
        ("42501", "delete from audit_events", []),
        ("42501", "truncate audit_events", []),
    ],
}

# A column list and what stands in the columns after parent and child, for direct inserts of edges.
EDGE = {
    "edge": "parent_serial_id, child_serial_id, propagation_type, operation_code, routing_sequence",
    "rest": "'SPLIT', 'OP-1', 1",
}


def expand(statement: str) -> str:
    """The statement with {edge} and {rest} filled in; other braces stay."""
    for name, text in EDGE.items():
        statement = statement.replace(f"{{{name}}}", text)
    return statement


def build(connection: psycopg.Connection) -> None:
    connection.execute(PLANT)


pytestmark = pytest.mark.prepared(setup=build)


# A plan that was made for one row would be noticed by twenty thousand, at the latest.
MANY = pytest.mark.parametrize("many", mostly_slow([2_000, 20_000], [2_000]))


@pytest.fixture
def plant(connection):
    connection.execute("set search_path = machserial, public")
    return connection


def broken_refusals(connection: psycopg.Connection, capability: str) -> list[str]:
    """What of the capability's refusals does not come as it must, each on a line."""
    broken = []
    for sqlstate, statement, words in REFUSALS[capability]:
        try:
            with refused(connection, sqlstate) as refusal:
                connection.execute(expand(statement))
        except AssertionError as error:
            broken.append(f"{statement}\n    wanted {sqlstate}: {error}")
            continue
        except pytest.fail.Exception:
            broken.append(f"{statement}\n    wanted {sqlstate}: was not refused")
            continue
        said = f"{refusal.message} {refusal.detail}"
        missing = [word for word in words if word not in said]
        if missing:
            broken.append(f"{statement}\n    does not say {missing}: {said}")
    return broken


@pytest.mark.parametrize("capability", REFUSALS)
def test_what_is_refused_and_how(plant, capability):
    broken = broken_refusals(plant, capability)
    assert not broken, "\n".join(["", *broken])


# What every step leaves on record: (statement, event type, what its details must mention). A function and the direct
# statement that does the same come in pairs.
AUDITED = {
    "vendor": [
        ("select receive_vendor_serial('F-0009', 'Foundry', 'BODY')", "VENDOR_RECEIVED", ["Foundry"]),
        (
            "insert into vendor_serials (serial_number, vendor_name, part_id) values ('F-0010', 'Foundry', 'BODY')",
            "VENDOR_RECEIVED",
            ["Foundry"],
        ),
        ("select accept_vendor_serial(s('F-0001'))", "VENDOR_ACCEPTED", ["PENDING", "ACTIVE"]),
        (
            "update vendor_serials set status = 'ACTIVE' where serial_number = 'F-0001'",
            "VENDOR_ACCEPTED",
            ["PENDING", "ACTIVE"],
        ),
        ("select reject_vendor_serial(s('F-0001'), reason => 'why')", "VENDOR_REJECTED", ["PENDING", "REJECTED"]),
        (
            "update vendor_serials set status = 'REJECTED', rejection_reason = 'why' where serial_number = 'F-0001'",
            "VENDOR_REJECTED",
            ["PENDING", "REJECTED"],
        ),
        ("select receive_vendor_serials('V', 'BODY', '{F-0001}')", "CONFLICT_DETECTED", []),
    ],
    "serials": [
        ("select generate('VALVE')", "SERIAL_GENERATED", []),
        ("select register_serial('NEW', 'VALVE')", "SERIAL_REGISTERED", []),
        ("insert into serials (serial_number, part_id) values ('NEW', 'VALVE')", "SERIAL_REGISTERED", []),
        ("select retire_serial(s('A1'), reason => 'why')", "SERIAL_RETIRED", ["ACTIVE", "RETIRED"]),
        (
            "update serials set status = 'RETIRED', status_reason = 'why' where serial_number = 'A1'",
            "SERIAL_RETIRED",
            ["ACTIVE", "RETIRED"],
        ),
        ("update serials set lot_number = 'L-9' where serial_number = 'A1'", "SERIAL_UPDATED", ["null", "L-9"]),
        ("select register_serial('A1', 'VALVE', on_conflict => 'RECORD')", "CONFLICT_DETECTED", []),
        (
            "select resolve_conflict('DUP', 'VALVE', 'KEEP', keep_serial_id => s('DUP'), reason => 'why')",
            "CONFLICT_RESOLVED",
            ["KEEP"],
        ),
        (
            "select resolve_conflict('DUP', 'VALVE', 'RETIRE', retired_serial_id => s('DUP'), reason => 'why')",
            "SERIAL_RETIRED",
            ["claim_released"],
        ),
    ],
    "late_assignment": [
        ("select create_placeholders('VALVE', 1, work_order_id => 'WO-9')", "PLACEHOLDER_CREATED", []),
        ("insert into late_assignment_placeholders (part_id) values ('VALVE')", "PLACEHOLDER_CREATED", []),
        ("select assign_placeholder(p('WO-OPEN'))", "PLACEHOLDER_SERIALIZED", ["PENDING", "SERIALIZED"]),
        (
            "update late_assignment_placeholders set serial_id = s('A1') where id = p('WO-OPEN')",
            "PLACEHOLDER_SERIALIZED",
            ["PENDING", "SERIALIZED"],
        ),
        ("select fail_placeholder(p('WO-OPEN'), reason => 'why')", "PLACEHOLDER_FAILED", ["PENDING", "FAILED"]),
        (
            "update late_assignment_placeholders set status = 'FAILED', failure_reason = 'why' where id = p('WO-OPEN')",
            "PLACEHOLDER_FAILED",
            ["PENDING", "FAILED"],
        ),
    ],
    "propagation": [
        ("select pass_through(s('B1'), 'OP-7', 7)", "PROPAGATED", ["OP-7"]),
        ("select split(s('B1'), array[s('B2'), s('B3')], 'OP-7', 7)", "SPLIT", ["OP-7"]),
        ("select merge(array[s('B1'), s('B2')], s('B3'), 'OP-7', 7)", "MERGED", ["OP-7"]),
        ("select transform(s('B1'), 'OP-7', 7, target_serial_id => s('B2'))", "TRANSFORMED", ["OP-7"]),
        ("insert into serial_propagations ({edge}) values (s('B1'), s('B2'), {rest})", "SPLIT", ["OP-1"]),
    ],
    "triggers": [
        ("select create_trigger('BARE', 'MATERIAL_RECEIPT', 'VENDOR')", "TRIGGER_CREATED", []),
        ("select update_trigger(t('WORK_ORDER_CREATE'), batch_size => 3)", "TRIGGER_UPDATED", ["1", "3"]),
        (
            "update serial_assignment_triggers set batch_size = 3 where id = t('WORK_ORDER_CREATE')",
            "TRIGGER_UPDATED",
            ["1", "3"],
        ),
        ("select disable_trigger(t('WORK_ORDER_CREATE'))", "TRIGGER_DISABLED", []),
        (
            "update serial_assignment_triggers set enabled = false where id = t('WORK_ORDER_CREATE')",
            "TRIGGER_DISABLED",
            [],
        ),
        ("select enable_trigger(t('OPERATION_COMPLETE'))", "TRIGGER_ENABLED", []),
        (
            "update serial_assignment_triggers set enabled = true where id = t('OPERATION_COMPLETE')",
            "TRIGGER_ENABLED",
            [],
        ),
        ("select delete_trigger(t('WORK_ORDER_CREATE'))", "TRIGGER_DELETED", []),
        ("delete from serial_assignment_triggers where id = t('WORK_ORDER_CREATE')", "TRIGGER_DELETED", []),
    ],
    "blocks": [
        ("select allocate_block('valves', 5, holder => 'L9', part_id => 'VALVE')", "BLOCK_ALLOCATED", ["L9"]),
        ("select report_block(b('Line 7'), used => '{BV-000003}')", "BLOCK_REPORTED", []),
        ("select return_block(b('Line 7'))", "BLOCK_RETURNED", []),
    ],
}


@pytest.mark.parametrize("capability", AUDITED)
def test_every_step_is_an_event(plant, capability):
    broken = []
    for statement, event_type, words in AUDITED[capability]:
        with plant.transaction(force_rollback=True):
            plant.execute("set local machserial.actor = 'ada'")
            last = value(plant, "select max(id) from audit_events")
            plant.execute(expand(statement))
            events = plant.execute(
                "select performed_by, db_user = session_user, reason, details::text "
                "from audit_events where id > %s and event_type = %s",
                (last, event_type),
            ).fetchall()
        reason = "why" if "'why'" in statement else None
        if not events:
            broken.append(f"{statement}\n    no {event_type}")
        for performed_by, own_user, why, details in events:
            if (performed_by, own_user, why) != ("ada", True, reason):
                broken.append(f"{statement}\n    {event_type}: {performed_by}, {own_user}, {why}")
            if missing := [word for word in words if word not in (details or "")]:
                broken.append(f"{statement}\n    {event_type} lacks {missing}: {details}")
    assert not broken, "\n".join(["", *broken])


# Vendor


def test_a_vendor_serial_is_stored_as_received_and_claimed_at_once(plant):
    allow_unicode(plant)
    (received,) = call(
        plant,
        "receive_vendor_serial",
        serial_number="  f 1-ä ",
        vendor_name='O\'Neill "&" Söhne',
        part_id="BODY",
        received_date="2026-02-03 04:05+00",
        site_id="HAM",
    )
    assert (received.serial_number, received.status, received.site_id) == ("f 1-ä", "PENDING", "HAM")
    (serial,) = call(plant, "find_serial", serial_number="f 1-ä")
    assert (serial.id, serial.status, serial.source) == (received.id, "PENDING", "VENDOR")
    with refused(plant, "23505"):
        register(plant, ["f 1-ä"], "BODY", site_id="HAM")


def test_a_vendor_is_the_same_with_a_space_round_its_name(plant):
    (received,) = call(plant, "receive_vendor_serial", serial_number="N", vendor_name=" Foundry ", part_id="BODY")
    assert received.vendor_name == "Foundry" and received.validation_errors


def test_an_accepted_vendor_serial_is_active_and_may_have_a_number_of_our_own(plant):
    (accepted,) = call(
        plant,
        "accept_vendor_serial",
        vendor_serial_id=value(plant, "select s('F-0001')"),
        internal_serial_id=value(plant, "select s('A1')"),
    )
    assert (accepted.status, accepted.internal_serial_id) == ("ACTIVE", value(plant, "select s('A1')"))
    assert value(plant, "select status from serials where serial_number = 'F-0001'") == "ACTIVE"


def test_a_broken_rule_keeps_the_receipt_until_it_is_waived(plant):
    (faulty,) = plant.execute("select id, status, validation_errors from vendor_serials where id = s('FAULTY')")
    assert faulty[1] == "PENDING" and any("F-[0-9]" in error for error in faulty[2])
    (checked,) = call(plant, "validate_vendor_serial", vendor_serial_id=faulty[0])
    assert (checked.is_valid, checked.format_valid, checked.is_unique) == (False, False, True) and checked.errors
    assert value(plant, "select (accept_vendor_serial(s('WAIVED'))).status") == "ACTIVE"
    (good,) = call(plant, "validate_vendor_serial", vendor_serial_id=value(plant, "select s('F-0001')"))
    assert good[:3] == (True, True, True) and not good.errors


VENDOR_RULES = [
    # rule, a number that keeps it, one that does not
    ({"pattern": "V{YYYY}-{SEQ:3}{CHECK:luhn}"}, "V2026-0014", "V2026-0015"),
    ({"regex": "^[A-Z]{3}$"}, "ABC", "ABCD"),
    ({"min_length": 4}, "1234", "123"),
    ({"max_length": 4}, "4321", "12345"),
    ({"check_algorithm": "mod10"}, "4006381333931", "4006381333932"),
]


def test_each_kind_of_vendor_rule(plant):
    for rule, good, bad in VENDOR_RULES:
        call(plant, "set_vendor_rule", vendor_name="V", part_id="BODY", **rule)
        rows = call(plant, "receive_vendor_serials", vendor_name="V", part_id="BODY", serial_numbers=[good, bad])
        seen = [(row.serial_number, row.status, bool(row.errors)) for row in rows]
        assert seen == [(good, "PENDING", False), (bad, "PENDING", True)], rule


def test_a_rejected_number_may_come_again_and_be_accepted(plant):
    (again,) = call(plant, "receive_vendor_serial", serial_number="F-0003", vendor_name="Foundry", part_id="BODY")
    assert again.id != value(plant, "select s('F-0003')")
    assert call(plant, "accept_vendor_serial", vendor_serial_id=again.id)[0].status == "ACTIVE"
    assert column(plant, "select status from vendor_serials where serial_number = 'F-0003' order by id") == [
        "REJECTED",
        "ACTIVE",
    ]


def test_of_a_delivery_what_is_good_goes_in_and_the_rest_comes_back(plant):
    allow_unicode(plant)
    sent = ["N-1", " N-1 ", "F-0001", "", None, "é 🔩 ' \" \\", "RET", "x" * 256, "N-2"]
    rows = call(plant, "receive_vendor_serials", vendor_name="V", part_id="VALVE", serial_numbers=sent)
    assert len(rows) == len(sent)
    good = [row.serial_number for row in rows if row.status == "PENDING"]
    assert good == ["N-1", "é 🔩 ' \" \\", "N-2"]
    for row in rows:
        assert (row.vendor_serial_id is None) == bool(row.errors), row


@pytest.mark.own_database
def test_a_received_number_is_stepped_over_by_the_generator(plant):
    numbers = ["BV-000011", "BV-000012"]
    assert generated(plant, "VALVE") == ["BV-000010"]
    call(plant, "receive_vendor_serials", vendor_name="V", part_id="VALVE", serial_numbers=numbers)
    assert generated(plant, "VALVE", 2) == ["BV-000013", "BV-000014"]


def test_a_vendor_serial_that_is_retired_says_so(plant):
    plant.execute("select retire_serial(s('F-0002'), reason => 'scrapped')")
    assert value(plant, "select status from vendor_serials where serial_number = 'F-0002'") == "RETIRED"


# Late assignment


def test_placeholders_are_made_one_a_unit_and_get_generated_serials(plant):
    made = call(
        plant,
        "create_placeholders",
        part_id="VALVE",
        quantity=3,
        work_order_id="WO-5",
        lot_number="L-5",
        operation_code="OP-90",
    )
    assert [(row.status, row.work_order_id, row.lot_number) for row in made] == [("PENDING", "WO-5", "L-5")] * 3
    (done,) = call(plant, "assign_placeholder", placeholder_id=made[0].id, operation_code="OP-95", notes="by hand")
    assert (done.status, done.notes) == ("SERIALIZED", "by hand")
    assert plant.execute(
        "select status, work_order_id, lot_number from serials where id = %s", (done.serial_id,)
    ).fetchone() == ("ACTIVE", "WO-5", "L-5")
    rest = call(plant, "assign_placeholders", work_order_id="WO-5")
    assert sorted(row.id for row in rest) == sorted(row.id for row in made[1:])
    assert len({row.serial_id for row in [done, *rest]}) == 3


def test_a_given_number_is_registered_for_its_placeholder(plant):
    allow_unicode(plant)
    done = value(plant, "select (assign_placeholder(p('WO-OPEN'), serial_number => 'it''s “1”')).serial_id")
    assert plant.execute("select serial_number, source, lot_number from serials where id = %s", (done,)).fetchone() == (
        "it's “1”",
        "LATE_ASSIGNMENT",
        "L-1",
    )


def test_many_placeholders_get_their_numbers_in_order(plant):
    ids = [row.id for row in call(plant, "create_placeholders", part_id="VALVE", quantity=2000)]
    numbers = [f"N{number}" for number in range(2000)]
    rows = call(plant, "assign_placeholders", placeholder_ids=ids[::-1], serial_numbers=numbers)
    assert [row.id for row in rows] == ids[::-1]
    assert (
        column(
            plant,
            "select s.serial_number from late_assignment_placeholders as h join serials as s on s.id = h.serial_id "
            "where h.id = any(%s) order by h.id desc",
            ids,
        )
        == numbers
    )


def test_statistics_of_placeholders(plant):
    (seen,) = call(plant, "placeholder_statistics", part_id="VALVE")
    assert (seen.total, seen.pending, seen.serialized, seen.failed) == (4, 2, 1, 1)
    assert seen.success_rate == 50 and seen.average_seconds >= 0
    (none,) = call(plant, "placeholder_statistics", part_id="BODY")
    assert (none.total, none.success_rate, none.average_seconds) == (0, None, None)
    assert [row.work_order_id for row in call(plant, "pending_placeholders", part_id="VALVE")] == ["WO-OPEN"] * 2
    assert len(call(plant, "pending_placeholders")) == 3


# Propagation


def edges(connection, part_id: str = "VALVE") -> list[tuple]:
    return connection.execute(
        "select parent.serial_number, child.serial_number, e.propagation_type from serial_propagations as e "
        "join serials as parent on parent.id = e.parent_serial_id "
        "join serials as child on child.id = e.child_serial_id "
        "where parent.part_id = %s order by e.id",
        (part_id,),
    ).fetchall()


def insert_edges(connection, pairs: Iterable[tuple[int, int]]) -> None:
    """One direct insert of many edges (parent, child)."""
    edges = "insert into serial_propagations ({edge}) select u.*, {rest} from unnest(%s::bigint[], %s::bigint[]) as u"
    connection.execute(expand(edges), [*map(list, zip(*pairs, strict=True))])


def walk(connection, number: str, **arguments: object) -> set[tuple]:
    rows = call(connection, "lineage", serial_id=value(connection, "select s(%s)", number), **arguments)
    return {(row.direction, row.depth, row.serial_number) for row in rows}


def test_lineage_goes_both_ways_with_its_path(plant):
    assert walk(plant, "A2") == {("ANCESTOR", 1, "A1"), ("SELF", 0, "A2"), ("DESCENDANT", 1, "A3")}
    ids = [value(plant, "select s(%s)", number) for number in ("A1", "A2", "A3")]
    rows = {row.serial_number: row for row in call(plant, "lineage", serial_id=ids[0])}
    assert (rows["A3"].depth, rows["A3"].path) == (2, ids)
    assert (rows["A3"].propagation_type, rows["A3"].operation_code, rows["A3"].part_id) == (
        "TRANSFORM",
        "OP-20",
        "VALVE",
    )
    assert walk(plant, "B1") == {("SELF", 0, "B1")}


def test_each_serial_comes_once_at_its_least_depth(plant):
    plant.execute("select split(s('B1'), array[s('B2'), s('B3')], 'OP-1', 1)")
    plant.execute("select split(s('B2'), array[s('B3')], 'OP-1', 1)")
    plant.execute("select pass_through(s('B3'), 'OP-2', 2)")
    assert walk(plant, "B1") == {("SELF", 0, "B1"), ("DESCENDANT", 1, "B2"), ("DESCENDANT", 1, "B3")}
    assert walk(plant, "B3") == {("SELF", 0, "B3"), ("ANCESTOR", 1, "B1"), ("ANCESTOR", 1, "B2")}


def test_a_merge_and_a_pass_through_are_on_record(plant):
    plant.execute("select merge(array[s('B1'), s('B2')], s('B3'), 'OP-1', 1)")
    plant.execute("select pass_through(s('B3'), 'OP-2', 2, work_center_id => 'WC', quantity => 3, notes => 'n')")
    assert edges(plant)[2:4] == [("B1", "B3", "MERGE"), ("B2", "B3", "MERGE")]
    history = call(plant, "propagation_history", part_id="VALVE")
    assert len(history) == 5
    (total,) = call(plant, "propagation_statistics", part_id="VALVE")
    assert (total.total, total.split, total.merge, total.transform, total.pass_through) == (5, 1, 2, 1, 1)


def test_lineage_stops_at_max_depth_and_says_so(plant):
    numbers = [f"C{number:03}" for number in range(60)]
    ids = [row.serial_id for row in register(plant, numbers, "VALVE")]
    insert_edges(plant, pairwise(ids))
    said = []
    plant.add_notice_handler(lambda notice: said.append(notice.message_primary))
    assert max(depth for _, depth, _ in walk(plant, "C000")) == 50
    assert any("50" in message for message in said), said
    said.clear()
    assert max(depth for _, depth, _ in walk(plant, "C000", max_depth=59)) == 59
    assert not said
    assert len(walk(plant, "C000", max_depth=0)) == 1


def test_a_graph_with_an_exponential_number_of_paths(plant):
    """25 layers of four serials, each made of all four above: 4^24 paths."""
    ids = [row.serial_id for row in register(plant, [f"D{number:03}" for number in range(100)], "VALVE")]
    pairs = [
        (ids[layer * 4 + upper], ids[layer * 4 + 4 + lower])
        for layer in range(24)
        for upper in range(4)
        for lower in range(4)
    ]
    insert_edges(plant, pairs)
    seen = walk(plant, "D000")
    assert len(seen) == 1 + 96 and max(depth for _, depth, _ in seen) == 24
    with refused(plant, "22023"):
        plant.execute(expand("insert into serial_propagations ({edge}) values (s('D099'), s('D000'), {rest})"))


# Triggers


def fire(connection, trigger_type: str, part_id: str = "VALVE", context: dict | None = None, **more: object) -> list:
    return call(connection, "fire", trigger_type=trigger_type, part_id=part_id, context=context or {}, **more)


def executions(connection, trigger_type: str = "WORK_ORDER_CREATE") -> int:
    return value(connection, "select execution_count from serial_assignment_triggers where id = t(%s)", trigger_type)


def why(connection, trigger_type: str, part_id: str, context: dict) -> dict[str, tuple]:
    """(fires, reason) of each trigger by its type."""
    rows = call(connection, "explain_triggers", trigger_type=trigger_type, part_id=part_id, context=context)
    types = dict(connection.execute("select id, trigger_type from serial_assignment_triggers").fetchall())
    return {types.get(row.trigger_id): (row.fires, row.reason) for row in rows}


def test_an_event_gives_its_part_serials(plant):
    rows = fire(plant, "WORK_ORDER_CREATE", context={"operation_code": "OP-10", "work_order_id": "WO-1"}, quantity=2)
    assert [(row.assignment_type, row.placeholder_id) for row in rows] == [("SYSTEM_GENERATED", None)] * 2
    assert column(plant, "select work_order_id from serials where id = any(%s)", [row.serial_id for row in rows]) == [
        "WO-1",
        "WO-1",
    ]
    assert fire(plant, "WORK_ORDER_CREATE", context={"operation_code": "OP-11"}) == []
    assert fire(plant, "BATCH_COMPLETION") == []
    assert executions(plant) == 1


def test_conditions_are_containment_or_a_jsonpath(plant):
    assert len(fire(plant, "QUALITY_CHECKPOINT", context={"score": 6})) == 1
    assert fire(plant, "QUALITY_CHECKPOINT", context={"score": 5}) == []
    assert fire(plant, "QUALITY_CHECKPOINT", context={"score": "high"}) == []
    plant.execute("select update_trigger(t('QUALITY_CHECKPOINT'), conditions => to_jsonb('$.score ? (@ > 5)'::text))")
    assert [len(fire(plant, "QUALITY_CHECKPOINT", context={"score": score})) for score in (5, 6)] == [0, 1]
    conditions = {"line": 2, "shift": {"name": "late"}}
    call(
        plant,
        "create_trigger",
        part_id="VALVE",
        trigger_type="MATERIAL_RECEIPT",
        assignment_type="SYSTEM_GENERATED",
        conditions=conditions,
        batch_size=3,
    )
    inside = {"line": 2, "shift": {"name": "late", "foreman": "Ada"}, "more": 1}
    assert len(fire(plant, "MATERIAL_RECEIPT", context=inside, quantity=2)) == 6
    assert fire(plant, "MATERIAL_RECEIPT", context={"line": 2}) == []


def test_a_vendor_trigger_receives_and_a_late_one_makes_placeholders(plant):
    context = {"vendor_name": "Foundry", "serial_number": " F-0042 "}
    (received,) = fire(plant, "MATERIAL_RECEIPT", "BODY", context)
    assert (received.assignment_type, received.serial_number) == ("VENDOR", "F-0042")
    assert value(plant, "select status from vendor_serials where id = %s", received.serial_id) == "PENDING"
    assert fire(plant, "OPERATION_COMPLETE", "BODY", {"operation_code": "OP-001"}) == []
    plant.execute("select enable_trigger(t('OPERATION_COMPLETE'))")
    rows = fire(plant, "OPERATION_COMPLETE", "BODY", {"operation_code": "OP-001", "work_order_id": "WO-X"}, quantity=2)
    assert [(row.serial_id, row.serial_number) for row in rows] == [(None, None)] * 2
    assert (
        column(
            plant,
            "select work_order_id from late_assignment_placeholders where id = any(%s)",
            [row.placeholder_id for row in rows],
        )
        == ["WO-X"] * 2
    )


def test_every_trigger_of_the_part_has_a_reason(plant):
    seen = why(plant, "OPERATION_COMPLETE", "BODY", {"operation_code": "OP-002"})
    assert len(seen) == 2
    fires, reason = seen["OPERATION_COMPLETE"]
    assert not fires and "disabled since" in reason and "OP-002" in reason and "OP-001" in reason
    assert seen["MATERIAL_RECEIPT"][0] is False and "MATERIAL_RECEIPT" in seen["MATERIAL_RECEIPT"][1]
    fires, reason = why(plant, "BATCH_COMPLETION", "BARE", {})["BATCH_COMPLETION"]
    assert not fires and "no format is assigned to BARE" in reason
    fires, reason = why(plant, "QUALITY_CHECKPOINT", "VALVE", {"score": 1})["QUALITY_CHECKPOINT"]
    assert not fires and "$.score > 5" in reason and "1" in reason
    fires, reason = why(plant, "QUALITY_CHECKPOINT", "VALVE", {"score": 9})["QUALITY_CHECKPOINT"]
    assert fires and reason
    make_part(plant, "ALONE")
    (row,) = call(plant, "explain_triggers", trigger_type="WORK_ORDER_CREATE", part_id="ALONE", context={})
    assert not row.fires and "ALONE" in row.reason


def test_a_context_that_differs_from_the_condition_is_shown_beside_it(plant):
    call(
        plant,
        "create_trigger",
        part_id="BODY",
        trigger_type="QUALITY_CHECKPOINT",
        assignment_type="LATE_ASSIGNMENT",
        conditions={"op": "OP-001"},
    )
    _, reason = why(plant, "QUALITY_CHECKPOINT", "BODY", {"op": "OP-002"})["QUALITY_CHECKPOINT"]
    assert "context has op" in reason and "OP-002" in reason and "condition wants" in reason and "OP-001" in reason


ATTACH = (
    "select attach('work_orders', 'WORK_ORDER_CREATE', part_column => 'part_id', quantity_column => 'quantity', "
    "context_columns => '{number,operation_code,lot}', serial_column => 'serials')"
)


@pytest.fixture
def attached(plant):
    plant.execute(ATTACH)
    plant.execute("create table more_orders (like work_orders)")
    return plant


def insert_orders(connection, first: int, count: int, part_id: str = "VALVE", quantity: int = 2) -> None:
    connection.execute(
        "insert into work_orders (number, part_id, quantity, operation_code, lot) "
        "select 'WO-' || n, %s, %s, 'OP-10', 'LOT-' || n from generate_series(%s::int, %s) as n",
        (part_id, quantity, first, first + count - 1),
    )


def test_an_insert_of_the_application_numbers_its_rows(attached):
    insert_orders(attached, 1, 3)
    orders = attached.execute("select number, serials from work_orders order by number").fetchall()
    assert all(len(serials) == 2 for _, serials in orders)
    assert len({serial for _, serials in orders for serial in serials}) == 6
    stored = attached.execute(
        "select context ->> 'number', array_agg(serial_number order by id) from serials "
        "where context ? 'number' group by 1 order by 1"
    ).fetchall()
    assert [(number, set(serials)) for number, serials in stored] == [
        (number, set(serials)) for number, serials in orders
    ]
    assert executions(attached) == 3


def test_work_order_and_serials_vanish_together(attached):
    before = value(attached, "select count(*) from serials")
    with attached.transaction(force_rollback=True):
        insert_orders(attached, 1, 3)
    assert value(attached, "select count(*) from serials") == before
    assert executions(attached) == 0


@MANY
def test_copy_of_many_rows_after_a_single_one(attached, many):
    insert_orders(attached, 1, 1)
    with attached.cursor().copy("copy work_orders (number, part_id, quantity, operation_code) from stdin") as copy:
        for number in range(2, many + 1):
            copy.write_row((f"WO-{number}", "VALVE", 2, "OP-10"))
    assert value(attached, "select count(distinct s) from work_orders, unnest(serials) as s") == 2 * many
    assert value(attached, "select count(*) from work_orders where cardinality(serials) = 2") == many
    assert value(attached, "select count(*) from serials where context ->> 'number' = 'WO-999'") == 2


def test_the_attachment_follows_its_table(attached):
    (listed,) = attached.execute("select * from attachments").fetchall()
    assert "work_orders" in map(str, listed)
    attached.execute("drop view open_work_orders")
    attached.execute('alter table work_orders rename to "Fertigungs Aufträge"')
    attached.execute('alter table "Fertigungs Aufträge" set schema machserial')
    attached.execute(
        'insert into "Fertigungs Aufträge" (number, part_id, quantity, operation_code) '
        "values ('it''s', 'VALVE', 1, 'OP-10')"
    )
    assert len(value(attached, 'select serials from "Fertigungs Aufträge"')) == 1
    assert any("Fertigungs Aufträge" in str(cell) for cell in attached.execute("select * from attachments").fetchone())
    attached.execute('drop table "Fertigungs Aufträge"')
    assert attached.execute("select * from attachments").fetchall() == []


def test_a_column_that_an_attachment_needs_and_that_is_gone_is_named(attached):
    attached.execute("alter table work_orders rename column quantity to pieces")
    with refused(attached, "55000") as refusal:
        attached.execute("insert into work_orders (number, part_id) values ('WO-1', 'VALVE')")
    assert "quantity" in refusal.message and "attach" in refusal.hint


def test_detached_tables_are_left_alone(attached):
    attached.execute("select detach('work_orders', 'WORK_ORDER_CREATE')")
    insert_orders(attached, 1, 1)
    assert value(attached, "select serials from work_orders") is None
    attached.execute(ATTACH)
    insert_orders(attached, 2, 1)
    assert len(value(attached, "select serials from work_orders where number = 'WO-2'")) == 2


def test_rows_of_many_parts_and_of_none_in_one_insert(attached):
    attached.execute(
        "insert into work_orders (number, part_id, quantity, operation_code) values "
        "('1', 'VALVE', 2, 'OP-10'), ('2', 'VALVE', 1, 'OP-99'), ('3', 'BODY', 1, 'OP-10'), ('4', 'VALVE', 0, 'OP-10')"
    )
    numbered = dict(attached.execute("select number, coalesce(cardinality(serials), 0) from work_orders").fetchall())
    assert numbered == {"1": 2, "2": 0, "3": 0, "4": 0}
    attached.execute("insert into work_orders select * from more_orders")
    attached.execute("insert into work_orders (number, part_id) values ('1', 'VALVE') on conflict do nothing")
    assert len(value(attached, "select serials from work_orders where number = '1'")) == 2


def test_a_single_serial_column(plant):
    plant.execute("select attach('work_orders', 'WORK_ORDER_CREATE', 'part_id', serial_column => 'first_serial')")
    plant.execute("insert into work_orders (number, part_id, operation_code) values ('1', 'VALVE', 'OP-10')")
    (found,) = call(plant, "find_serial", serial_number=value(plant, "select first_serial from work_orders"))
    assert found.part_id == "VALVE"


def test_a_table_in_the_search_path_of_the_guide_can_be_attached(plant):
    plant.execute("create table orders_here (number text primary key, part_id text, operation_code text)")
    plant.execute("select attach('orders_here', 'WORK_ORDER_CREATE', part_column => 'part_id')")
    plant.execute("insert into orders_here values ('1', 'VALVE', 'OP-10')")
    with refused(plant, "0A000"):
        plant.execute("select attach('machserial.parts', 'WORK_ORDER_CREATE', part_column => 'id')")


# Blocks


def block(connection, holder: str) -> dict:
    """The block's row of the view."""
    cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
    return cursor.execute("select * from blocks where holder = %s", (holder,)).fetchone()


def counts(connection, holder: str) -> dict[str, int]:
    row = block(connection, holder)
    seen = {state: row[state] for state in ("used", "open", "returned", "expired")}
    assert sum(seen.values()) == row["last_value"] - row["first_value"] + 1, row
    return {state: count for state, count in seen.items() if count}


def test_a_block_is_numbers_that_nobody_else_gets(plant):
    given = call(plant, "allocate_block", format="valves", quantity=3, holder="L", part_id="VALVE")[0]
    assert given.last_value - given.first_value == 2
    numbers = [row[0] for row in call(plant, "block_serials", block_id=given.block_id)]
    assert numbers == [f"BV-{sequence:06}" for sequence in range(given.first_value, given.last_value + 1)]
    assert not set(numbers) & set(generated(plant, "VALVE", 50))
    assert counts(plant, "L") == {"open": 3}


def test_what_is_reported_is_registered_once_however_often_it_is_sent(plant):
    for _ in range(3):
        plant.execute("select report_block(b('Line 7'), used => '{BV-000003,BV-000004}')")
    plant.execute("select report_block(b('Line 7'), used => '{BV-000004,BV-000005,BV-000005}')")
    plant.execute("select report_block(b('Line 7'), used => '{}')")
    assert counts(plant, "Line 7") == {"used": 3, "open": 2}
    assert (
        column(plant, "select part_id from serials where serial_number in ('BV-000003', 'BV-000004', 'BV-000005')")
        == ["VALVE"] * 3
    )
    plant.execute("select return_block(b('Line 7'))")
    assert counts(plant, "Line 7") == {"used": 3, "returned": 2}
    plant.execute("select report_block(b('Line 7'), used => '{BV-000003}')")
    assert not {"BV-000006", "BV-000007"} & set(generated(plant, "VALVE", 20))


@pytest.mark.own_database
def test_a_block_that_expires_is_ended_by_maintain(plant):
    plant.execute("select allocate_block('valves', 4, 'Late', 'VALVE', expires_at => now() + interval '20 ms')")
    plant.execute("select report_block(b('Late'), used => array(select block_serials(b('Late')) limit 1))")
    plant.commit()
    sleep(0.03)
    plant.execute("select maintain()")
    assert counts(plant, "Late") == {"used": 1, "expired": 3}
    assert block(plant, "Late")["status"] == "EXPIRED"
    assert "BLOCK_EXPIRED" in column(plant, "select event_type from audit_events")


def test_the_same_request_gives_the_same_block(plant):
    given = {"format": "valves", "quantity": 2, "holder": "L", "part_id": "VALVE", "request_id": "REQUEST-2"}
    for expires_at in ("2100-01-01", "2100-01-02"):
        (allocated,) = call(plant, "allocate_block", **given, expires_at=expires_at)
        assert allocated.block_id == value(plant, "select b('L')")
    assert value(plant, "select count(*) from blocks where holder = 'L'") == 1


def test_a_gapless_block_that_is_rolled_back_leaves_no_gap(plant):
    with plant.transaction(force_rollback=True):
        plant.execute("select allocate_block('seals', 10, holder => 'L', part_id => 'VALVE')")
    assert generated(plant, "VALVE", 1, format="seals") == ["S0004"]


@pytest.mark.parametrize("name", ["valves", "seals"])
def test_a_number_taken_before_is_no_trouble_in_a_block(plant, name):
    numbers = [f"BV-{number:06}" for number in range(10, 15)] + [f"S{number:04}" for number in range(4, 7)]
    register(plant, numbers, "VALVE")
    call(plant, "allocate_block", format=name, quantity=4, holder="L", part_id="VALVE")
    mine = [row[0] for row in call(plant, "block_serials", block_id=block(plant, "L")["block_id"])]
    call(plant, "report_block", block_id=block(plant, "L")["block_id"], used=mine)
    assert not set(mine) & set(numbers)
    counts(plant, "L")


# Conflicts


def pending(connection, part_id: str = "VALVE") -> list[str]:
    return [row.serial_number for row in call(connection, "pending_conflicts", part_id=part_id)]


def test_uniqueness_can_be_asked_before_it_is_decided(plant):
    plant.execute("select register_serial('ab-10', 'BODY')")
    (taken,) = call(plant, "check_uniqueness", serial_number="DUP", part_id="VALVE")
    assert (taken.has_conflict, taken.conflicting_serial_ids) == (True, [value(plant, "select s('DUP')")])
    assert set(taken.conflicting_scopes) == {"SITE", "PART_TYPE"} and taken.conflict_type
    for near in ("AB-10", "ab10", " ab 10", "AB-IO", "ab-l0"):
        (free,) = call(plant, "check_uniqueness", serial_number=near, part_id="BODY")
        assert (free.has_conflict, free.near_matches) == (False, ["ab-10"]), near
    (free,) = call(plant, "check_uniqueness", serial_number="entirely new", part_id="BODY")
    assert not free.has_conflict and not free.near_matches and not free.conflicting_serial_ids
    (rejected,) = call(plant, "check_uniqueness", serial_number="REJ", part_id="VALVE")
    assert not rejected.has_conflict


def test_keep_settles_whose_number_it_is(plant):
    """The serial in status CONFLICT wins against the one that holds the number."""
    plant.execute("update serials set status = 'CONFLICT', status_reason = 'twice' where id = s('B1')")
    holder = value(plant, "select serial_id from register_serial('B1', 'VALVE')")
    kept = value(plant, "select s('B1')")
    plant.execute("select register_serial('B1', 'VALVE', on_conflict => 'RECORD')")
    plant.execute("select resolve_conflict('B1', 'VALVE', 'KEEP', keep_serial_id => %s, reason => 'seen')", (kept,))
    states = dict(plant.execute("select id, status from serials where serial_number = 'B1'").fetchall())
    assert states == {kept: "ACTIVE", holder: "RETIRED"}
    assert "B1" not in pending(plant)


def test_the_number_of_a_retired_serial_can_be_defended(plant):
    plant.execute("select register_serial('RET', 'VALVE', on_conflict => 'RECORD')")
    plant.execute("select resolve_conflict('RET', 'VALVE', 'KEEP', keep_serial_id => s('RET'), reason => 'forgery')")
    (left,) = plant.execute("select status, holds_claim, status_reason from serials where id = s('RET')")
    assert left == ("RETIRED", True, "worn out") and "RET" not in pending(plant)


def test_retire_gives_the_number_up(plant):
    loser = value(plant, "select s('DUP')")
    plant.execute("select resolve_conflict('DUP', 'VALVE', 'RETIRE', retired_serial_id => s('DUP'), reason => 'copy')")
    (left,) = plant.execute("select status, holds_claim, status_reason from serials where id = %s", (loser,))
    assert left == ("RETIRED", False, "copy")
    assert call(plant, "register_serial", serial_number="DUP", part_id="VALVE")[0].serial_id
    assert "DUP" not in pending(plant)


def test_mark_invalid_gives_the_number_up(plant):
    settle = "select resolve_conflict('DUP', 'VALVE', 'MARK_INVALID', retired_serial_id => s('DUP'), reason => 'x')"
    plant.execute(settle)
    assert value(plant, "select status from serials where id = s('DUP')") == "INVALID"
    assert call(plant, "register_serial", serial_number="DUP", part_id="VALVE")[0].serial_id


def test_conflicts_are_listed_reported_and_counted(plant):
    assert "DUP" in pending(plant) and pending(plant, "BODY") == []
    assert call(plant, "uniqueness_report", serial_number="DUP", part_id="VALVE")
    before = call(plant, "uniqueness_statistics", part_id="VALVE")
    plant.execute("set local machserial.actor = 'ada'")
    plant.execute(
        "select resolve_conflict('DUP', 'VALVE', 'KEEP', keep_serial_id => s('DUP'), reason => 'mine; ''ours'' “é”')"
    )
    (settled,) = (row for row in call(plant, "conflict_history", part_id="VALVE") if row.serial_number == "DUP")
    assert {"KEEP", "ada", "mine; 'ours' “é”"} <= set(map(str, settled))
    assert call(plant, "uniqueness_statistics", part_id="VALVE") != before
    assert call(plant, "uniqueness_statistics")


# The guide's SQL, as it is printed, but for ids

GUIDE = """
SELECT serial_number, COUNT(*) FROM vendor_serials GROUP BY serial_number HAVING COUNT(*) > 1;
SELECT id, serial_number, part_id, status, created_at
FROM vendor_serials
WHERE serial_number = 'DUPLICATE-SERIAL-001'
ORDER BY created_at;
SELECT * FROM serial_assignment_triggers
WHERE part_id = 'VALVE' AND enabled = true;
SELECT * FROM parts WHERE id = 'VALVE';
UPDATE serial_assignment_triggers SET execution_count = 0 WHERE id = '1';
SELECT * FROM system_generated_serials
WHERE part_id = 'VALVE'
ORDER BY created_at DESC LIMIT 10;
EXPLAIN ANALYZE
SELECT * FROM audit_events
WHERE part_id = 'VALVE' AND performed_at > now() - interval '30 days'
LIMIT 50;
SELECT sp.* FROM serial_propagations sp
LEFT JOIN vendor_serials vs ON sp.parent_serial_id = vs.id
WHERE sp.parent_serial_id IS NOT NULL AND vs.id IS NULL;
SELECT COUNT(*) FROM audit_events
WHERE event_type IS NULL OR performed_by IS NULL;
SELECT id, event_type, performed_at
FROM audit_events
WHERE serial_id = '1'
ORDER BY performed_at;
EXPLAIN ANALYZE
SELECT COUNT(*) FROM serial_uniqueness_checks
WHERE serial_number = 'SERIAL-001'
AND scope = 'SITE'
AND site_id = 'SITE-001';
"""


def test_the_sql_of_the_original_guide_runs_as_printed(plant):
    for statement in GUIDE.split(";")[:-1]:
        with plant.transaction():
            plant.execute(statement)
    claims = "select scope from serial_uniqueness_checks where serial_number = %s order by 1"
    assert column(plant, claims, "A1") == ["PART_TYPE", "SITE"] and column(plant, claims, "REJ") == []


def test_the_guides_reset_of_the_count(plant):
    fire(plant, "WORK_ORDER_CREATE", context={"operation_code": "OP-10"}, quantity=4)
    assert executions(plant) == 1
    plant.execute("update serial_assignment_triggers set execution_count = 0 where id = t('WORK_ORDER_CREATE')")
    assert executions(plant) == 0
    fire(plant, "WORK_ORDER_CREATE", context={"operation_code": "OP-10"})
    assert executions(plant) == 1


def test_the_guides_cleaning_of_orphans_removes_no_lineage(plant):
    before = edges(plant)
    with refused(plant, "55000"):
        plant.execute(
            "DELETE FROM serial_propagations WHERE parent_serial_id NOT IN (SELECT id FROM vendor_serials) "
            "AND child_serial_id NOT IN (SELECT id FROM system_generated_serials)"
        )
    assert edges(plant) == before


# Arguments that are hostile


def test_hostile_text_is_only_text(plant):
    allow_unicode(plant)
    for text in HOSTILE_NUMBERS:
        make_part(plant, text, text)
        make_format(plant, text, "{SEQ:4}", counter_per="FORMAT")
        call(plant, "assign_format", part_id=text, format=text)
        (received,) = call(plant, "receive_vendor_serial", serial_number=text, vendor_name=text, part_id=text)
        assert (received.serial_number, received.vendor_name) == (text, text)
        call(plant, "set_vendor_rule", vendor_name=text, part_id=text, max_length=250)
        call(plant, "accept_vendor_serial", vendor_serial_id=received.id)
        (made,) = call(plant, "create_placeholders", part_id=text, work_order_id=text, lot_number=text)
        call(plant, "assign_placeholder", placeholder_id=made.id, operation_code=text, notes=text)
        (target,) = call(plant, "register_serial", serial_number=text + "2", part_id=text)
        call(
            plant,
            "split",
            source_serial_id=received.id,
            target_serial_ids=[target.serial_id],
            operation_code=text,
            routing_sequence=1,
            notes=text,
        )
        call(
            plant,
            "create_trigger",
            part_id=text,
            trigger_type="WORK_ORDER_CREATE",
            assignment_type="SYSTEM_GENERATED",
            operation_code=text,
            conditions={text: text},
        )
        context = {text: text, "operation_code": text, "work_order_id": text}
        assert len(fire(plant, "WORK_ORDER_CREATE", text, context)) == 1
        call(plant, "explain_triggers", trigger_type="WORK_ORDER_CREATE", part_id=text, context={text: "x" + text})
        call(plant, "register_serial", serial_number=text, part_id=text, on_conflict="RECORD")
        call(
            plant,
            "resolve_conflict",
            serial_number=text,
            part_id=text,
            resolution="KEEP",
            keep_serial_id=received.id,
            reason=text,
        )
        given = call(plant, "allocate_block", format=text, quantity=2, holder=text, part_id=text)[0]
        call(
            plant,
            "report_block",
            block_id=given.block_id,
            used=[call(plant, "block_serials", block_id=given.block_id)[0][0]],
        )
        call(plant, "check_uniqueness", serial_number=text.upper(), part_id=text)
        call(plant, "retire_serial", serial_id=target.serial_id, reason=text)


# A whole life


def test_a_whole_life_is_on_record(plant):
    plant.execute("set local machserial.actor = 'ada'")
    (body,) = call(plant, "receive_vendor_serial", serial_number="F-7777", vendor_name="Foundry", part_id="BODY")
    call(plant, "accept_vendor_serial", vendor_serial_id=body.id)
    plant.execute("select assign_placeholders(work_order_id => 'WO-OPEN')")
    first, second = column(
        plant, "select serial_id from late_assignment_placeholders where work_order_id = 'WO-OPEN' order by id"
    )
    call(
        plant,
        "split",
        source_serial_id=body.id,
        target_serial_ids=[first, second],
        operation_code="OP-1",
        routing_sequence=10,
    )
    final = call(plant, "register_serial", serial_number="ASSEMBLY", part_id="VALVE")[0].serial_id
    call(
        plant,
        "merge",
        source_serial_ids=[first, second],
        target_serial_id=final,
        operation_code="OP-2",
        routing_sequence=20,
    )
    call(plant, "register_serial", serial_number="ASSEMBLY", part_id="VALVE", on_conflict="RECORD")
    call(
        plant,
        "resolve_conflict",
        serial_number="ASSEMBLY",
        part_id="VALVE",
        resolution="KEEP",
        keep_serial_id=final,
        reason="the other is a label printed twice",
    )
    call(plant, "retire_serial", serial_id=final, reason="worn out")
    assert len(call(plant, "lineage", serial_id=final)) == 4
    with refused(plant, "55000"):
        call(plant, "pass_through", serial_id=final, operation_code="OP-3", routing_sequence=30)
    trail = plant.execute(
        "select event_type, performed_by, reason from audit_events where serial_id in (%s, %s) order by id",
        (body.id, final),
    ).fetchall()
    types = [event_type for event_type, _, _ in trail]
    for event_type in ("VENDOR_RECEIVED", "VENDOR_ACCEPTED", "SPLIT", "SERIAL_REGISTERED", "MERGED", "SERIAL_RETIRED"):
        assert event_type in types, types
    assert {performed_by for _, performed_by, _ in trail} == {"ada"}
    assert trail[-1][2] == "worn out"


# Two sessions


@pytest.fixture
def sessions(plant, connect):
    """sessions(count): so many connections to the plant, with the guide's search_path, that wait 5 s at most."""

    def open_sessions(count: int) -> list[psycopg.Connection]:
        plant.commit()
        return [connect(options="-c search_path=machserial,public -c lock_timeout=5s") for _ in range(count)]

    return open_sessions


def await_blocked_or_done(observer: psycopg.Connection, session: psycopg.Connection, work: Future) -> None:
    while not work.done() and not value(observer, "select cardinality(pg_blocking_pids(%s))", session.info.backend_pid):
        observer.rollback()
        sleep(0.005)


def contest(sessions, statement: str, other: str | None = None, commits: bool = True) -> psycopg.Error | None:
    """The first session does the statement; the second does it (or the other) meanwhile; the first commits, or both
    are rolled back; the error of the second, if any."""
    first, second, observer = sessions(3)
    first.execute(expand(statement))
    with ThreadPoolExecutor(1) as threads:
        work = threads.submit(second.execute, expand(other or statement))
        await_blocked_or_done(observer, second, work)
        first.commit() if commits else first.rollback()
        error = work.exception()
    second.rollback() if error or not commits else second.commit()
    for session in (first, second, observer):
        session.close()
    return error


# Statement that only one session can do: SQLSTATE that the other gets, or None if it is the same to do it twice.
CONTESTED = {
    "select accept_vendor_serial(s('C-1'))": "55000",
    "select reject_vendor_serial(s('C-2'), reason => 'x')": "55000",
    "select waive_vendor_rule(s('FAULTY'), reason => 'x')": "55000",
    "select receive_vendor_serial('C-9', 'V', 'BODY')": "23505",
    "select assign_placeholder(p('WO-1'))": "55000",
    "select assign_placeholder(p('WO-2'), serial_number => 'X')": "55000",
    "select assign_placeholders(work_order_id => 'WO-3')": "55000",
    "select fail_placeholder(p('WO-4'), reason => 'x')": "55000",
    "update late_assignment_placeholders set serial_id = s('B2') where id = p('WO-5')": None,
    "select retire_serial(s('B1'), reason => 'x')": "55000",
    "select report_block(b('Line 7'), used => '{BV-000003,BV-000004}')": None,
    "select return_block(b('Offline'))": "55000",
    "select resolve_conflict('DUP', 'VALVE', 'KEEP', keep_serial_id => s('DUP'), reason => 'x')": "55000",
}


def test_what_two_sessions_do_at_once_happens_once(plant, sessions):
    plant.execute("select receive_vendor_serials('V', 'BODY', '{C-1,C-2}')")
    plant.execute("select create_placeholders('VALVE', 2, work_order_id => 'WO-' || n) from generate_series(1, 5) as n")
    for statement, sqlstate in CONTESTED.items():
        assert contest(sessions, statement, commits=False) is None, statement
        error = contest(sessions, statement)
        if sqlstate is None:
            assert error is None, f"{statement}: {error}"
        else:
            assert isinstance(error, psycopg.Error) and error.sqlstate == sqlstate, f"{statement}: {error}"
            assert error.diag.message_detail and error.diag.message_hint, f"{statement}: {error}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("select split(s('B1'), array[s('B2')], 'O', 1)", "select split(s('B2'), array[s('B1')], 'O', 1)"),
        (
            "insert into serial_propagations ({edge}) values (s('B1'), s('B2'), {rest}), (s('B3'), s('A1'), {rest})",
            "insert into serial_propagations ({edge}) values (s('B2'), s('B3'), {rest}), (s('A3'), s('B1'), {rest})",
        ),
        (
            "select split(s('A3'), array[s('B1')], 'O', 1)",
            "insert into serial_propagations ({edge}) values (s('B1'), s('A1'), {rest})",
        ),
    ],
    ids=["of two", "of four, in halves of two edges", "through what was there"],
)
def test_two_halves_of_a_cycle_at_once(plant, sessions, one, other):
    error = contest(sessions, one, other)
    assert isinstance(error, psycopg.Error) and error.sqlstate == "22023", error
    assert (
        value(
            plant,
            expand("""
        with recursive reached (start, id) as (
            select parent_serial_id, child_serial_id from serial_propagations
            union select r.start, e.child_serial_id
            from reached as r join serial_propagations as e on e.parent_serial_id = r.id
        )
        select count(*) from reached where start = id"""),
        )
        == 0
    )


def test_unrelated_propagations_do_not_wait(sessions):
    first, second = sessions(2)
    first.execute("select split(s('B1'), array[s('B2')], 'OP-1', 1)")
    second.execute("set lock_timeout = '500ms'")
    second.execute("select merge(array[s('B3')], s('A1'), 'OP-1', 1)")
    second.execute(expand("insert into serial_propagations ({edge}) values (s('A2'), s('OWN'), {rest})"))
    second.commit()


def test_a_lot_is_used_up_by_many_sessions_at_once(sessions):
    """Two work orders that take from one lot need not wait for each other's transactions."""
    first, second = sessions(2)
    first.execute("select split(s('B1'), array[s('B2')], 'OP-1', 1)")
    second.execute("set lock_timeout = '500ms'")
    second.execute("select split(s('B1'), array[s('B3')], 'OP-1', 1)")


def test_events_of_one_part_do_not_wait_and_are_counted(plant, sessions):
    crowd = sessions(8)
    event = "select fire('WORK_ORDER_CREATE', 'VALVE', jsonb_build_object('operation_code', 'OP-10'), quantity => 2)"
    for session in crowd:
        session.execute("set lock_timeout = '500ms'")
        session.execute(event)
    crowd[0].rollback()
    at_once(8, lambda number: [crowd[number].execute(event) for _ in range(20)])
    for session in crowd:
        session.commit()
    assert executions(plant) == 7 + 8 * 20


@pytest.mark.parametrize("name", ["valves", "seals"])
def test_blocks_and_generators_under_load_never_overlap(plant, sessions, name):
    crowd = sessions(8)

    def work(number: int) -> list[str]:
        session, mine = crowd[number], []
        for turn in range(12):
            lost = (number + turn) % 5 == 0
            with session.transaction(force_rollback=lost):
                if number % 2:
                    numbers = generated(session, "VALVE", 7, format=name)
                else:
                    (mine_too,) = call(session, "allocate_block", format=name, quantity=9, holder="L", part_id="VALVE")
                    numbers = [row[0] for row in call(session, "block_serials", block_id=mine_too.block_id)]
                    if turn % 2:
                        call(session, "report_block", block_id=mine_too.block_id, used=numbers[:4])
            mine += [] if lost else numbers
        return mine

    for session in crowd:
        session.autocommit = True
        session.execute("set lock_timeout = '60s'")
    numbers = [one for mine in at_once(8, work) for one in mine]
    assert len(numbers) == len(set(numbers))
    if name == "seals":
        assert sorted(int(number[1:]) for number in numbers) == list(range(4, 4 + len(numbers)))


# Many


@MANY
def test_a_delivery_of_many_after_one_of_one(plant, many):
    sent = [f"V{number:06}" for number in range(many)]
    for numbers in (["V"], sent):
        rows = call(plant, "receive_vendor_serials", vendor_name="V", part_id="BODY", serial_numbers=numbers)
    assert [row.serial_number for row in rows] == sent
    assert value(plant, "select count(*) from vendor_serials where vendor_name = 'V'") == many + 1


def test_a_split_into_five_thousand_and_back(plant):
    ids = [row.serial_id for row in register(plant, [f"N{number}" for number in range(5000)], "VALVE")]
    plant.execute("select split(s('B1'), array[s('B2')], 'OP-1', 1)")
    plant.execute("select split(s('B1'), %s, 'OP-1', 2)", (ids,))
    plant.execute("select merge(%s, s('B3'), 'OP-2', 3)", (ids,))
    assert len(call(plant, "lineage", serial_id=value(plant, "select s('B3')"))) == 5002
    with refused(plant, "22023"):
        plant.execute("select merge(array[s('B3')], s('B1'), 'OP-3', 4)")


@MANY
def test_many_edges_in_one_insert(plant, many):
    ids = [row.serial_id for row in register(plant, [f"N{number}" for number in range(many + 1)], "VALVE")]
    insert_edges(plant, ((ids[(number - 1) // 10], ids[number]) for number in range(1, len(ids))))
    assert len(call(plant, "lineage", serial_id=ids[0])) == many + 1
    assert len(call(plant, "lineage", serial_id=ids[-1])) == len(str(many)) + 1


# A copy of the database


@pytest.mark.own_database
def test_a_restored_plant_has_every_rule_and_goes_on(attached, new_database, server, tmp_path):
    insert_orders(attached, 1, 2)
    attached.commit()
    dsn = new_database("restored")
    server.dump_and_restore(attached.info.dbname, "restored", tmp_path / "dump", "custom")
    with psycopg.connect(dsn, options="-c search_path=machserial,public") as restored:
        insert_orders(restored, 3, 2)
        assert value(restored, "select count(distinct s) from work_orders, unnest(serials) as s") == 8
        assert executions(restored) == 4
        restored.execute("select report_block(b('Line 7'), used => '{BV-000003}')")
        restored.execute("select create_placeholders('VALVE', 2)")
        restored.execute("select receive_vendor_serial('F-8888', 'Foundry', 'BODY')")
        restored.execute("select split(s('A3'), array[s('B1')], 'OP-1', 1)")
        restored.execute("select allocate_block('seals', 2, holder => 'New', part_id => 'VALVE')")
        assert walk(restored, "A1") >= {("DESCENDANT", 3, "B1")}
        restored.rollback()
        restored.execute("select detach('work_orders', 'WORK_ORDER_CREATE')")
        for capability in REFUSALS:
            assert broken_refusals(restored, capability) == []


# Somebody else than the owner


def test_an_ordinary_role_with_the_grants_of_the_readme(plant, connect):
    plant.execute("create role application login")
    (grants,) = re.findall(r"```sql\n(select machserial.create_roles.*?)```", README, re.DOTALL)
    plant.execute(grants)
    plant.execute("grant all on work_orders to application")
    plant.execute(ATTACH)
    plant.commit()
    session = connect(user="application", options="-c search_path=machserial,public")
    for statement in (
        "select receive_vendor_serial('F-0100', 'Foundry', 'BODY')",
        "select receive_vendor_serials('Foundry', 'BODY', '{F-0101,F-0101}')",
        "select accept_vendor_serial(s('F-0100'))",
        "select reject_vendor_serial(s('F-0101'), reason => 'x')",
        "select create_placeholders('VALVE', 3, work_order_id => 'WO-R')",
        "select assign_placeholder(p('WO-R'))",
        "select fail_placeholder(p('WO-R') + 1, reason => 'x')",
        "select assign_placeholders(work_order_id => 'WO-R')",
        "select split(s('B1'), array[s('B2')], 'OP-1', 1)",
        "select pass_through(s('B1'), 'OP-1', 1)",
        "select lineage(s('B1'))",
        "select fire('WORK_ORDER_CREATE', 'VALVE', jsonb_build_object('operation_code', 'OP-10'))",
        "insert into work_orders (number, part_id, quantity, operation_code) values ('1', 'VALVE', 2, 'OP-10')",
        "select explain_triggers('WORK_ORDER_CREATE', 'VALVE')",
        "select register_serial('A1', 'VALVE', on_conflict => 'RECORD')",
        "select allocate_block('seals', 2, holder => 'R', part_id => 'VALVE')",
        "select report_block(b('R'), used => array(select block_serials(b('R')) limit 1))",
        "select return_block(b('R'))",
        "select retire_serial(s('B3'), reason => 'x')",
    ):
        try:
            session.execute(statement)
        except psycopg.Error as error:
            raise AssertionError(f"{statement}: {error}") from error
    session.commit()
    assert value(plant, "select db_user from audit_events order by id desc limit 1") == "application"
    for forbidden in (
        "delete from audit_events",
        "update trigger_definitions set batch_size = 2",
        "select resolve_conflict('DUP', 'VALVE', 'KEEP', keep_serial_id => s('DUP'), reason => 'x')",
        "select migrate()",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), session.transaction():
            session.execute(forbidden)
