"""Attached tables: an insert of work orders makes their serials, with it and as one with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from servers import Server
from support import HOSTILE, at_once, call, column, make_format, make_part, refused, register, value, violated

ORDERS = "create table public.work_orders (id text primary key, part text, quantity integer, line text, serials text)"


@pytest.fixture
def plant(connection):
    """Part P with the format F and a trigger for work orders, and an unattached table of these."""
    make_part(connection, "P")
    make_format(connection, "F", "F{SEQ:6}")
    call(connection, "assign_format", part_id="P", format="F")
    trigger(connection)
    connection.execute(ORDERS)
    return connection


def trigger(
    connection,
    part_id: str = "P",
    trigger_type: str = "WORK_ORDER_CREATE",
    assignment_type: str = "SYSTEM_GENERATED",
    **more,
) -> int:
    given = {"part_id": part_id, "trigger_type": trigger_type, "assignment_type": assignment_type, **more}
    return call(connection, "create_trigger", **given)[0].id


def attach(connection, relation: str = "public.work_orders", **more) -> object:
    """attach() for a table like ORDERS; None for an argument leaves it out."""
    given = {"trigger_type": "WORK_ORDER_CREATE", "part_column": "part", "quantity_column": "quantity", **more}
    return call(connection, "attach", relation=relation, **{k: v for k, v in given.items() if v is not None})[0]


def order(connection, *rows: tuple, columns: str = "id, part, quantity", relation: str = "public.work_orders") -> None:
    """One insert of these rows."""
    marks = ", ".join("(" + ", ".join(["%s"] * len(row)) + ")" for row in rows)
    connection.execute(f"insert into {relation} ({columns}) values {marks}", [one for row in rows for one in row])


def serials(connection, columns: str = "serial_number, work_order_id") -> list[tuple]:
    return connection.execute(f"select {columns} from machserial.serials order by id").fetchall()


def count(connection) -> int:
    return value(connection, "select sum(execution_count)::integer from machserial.serial_assignment_triggers")


# What comes of an insert


def test_each_row_gets_serials_that_say_where_they_came_from(plant):
    make_part(plant, "IDLE")
    attach(plant, context_columns=["line"])
    order(
        plant,
        ("WO-1", "P", 2, "A"),
        ("WO-2", "P", 1, None),
        ("WO-3", "P", 0, "A"),
        ("WO-4", "UNKNOWN", 1, "A"),
        ("WO-5", "IDLE", None, "A"),
        ("WO-6", None, 1, "A"),
        columns="id, part, quantity, line",
    )
    assert serials(plant, "serial_number, work_order_id, context") == [
        ("F000001", "WO-1", {"id": "WO-1", "line": "A"}),
        ("F000002", "WO-1", {"id": "WO-1", "line": "A"}),
        ("F000003", "WO-2", {"id": "WO-2"}),
    ]
    assert count(plant) == 2
    plant.execute("insert into public.work_orders select * from public.work_orders where false")
    plant.execute("insert into public.work_orders (id, part, quantity) values ('WO-1', 'P', 5) on conflict do nothing")
    assert len(serials(plant)) == 3 and count(plant) == 2


@pytest.mark.own_database
def test_the_work_order_and_its_serials_vanish_together(plant):
    attach(plant)
    plant.commit()
    order(plant, ("WO-1", "P", 1))
    plant.rollback()
    assert serials(plant) == [] and count(plant) == 0
    order(plant, ("WO-1", "P", 1))
    plant.commit()
    plant.rollback()
    assert [work_order for _, work_order in serials(plant)] == ["WO-1"]


@pytest.mark.parametrize("by", ["insert", "copy"])
@pytest.mark.parametrize("pattern", ["N{SEQ:6}", "{WO}-{SEQ:6}", "{WO}:{RANDOM:hex:4}", "{WO}"])
def test_ten_thousand_work_orders_in_one_statement(plant, by, pattern):
    quantity = 10000 if pattern == "N{SEQ:6}" else 1000
    make_format(plant, "BIG", pattern)
    make_part(plant, "BIG")
    made = trigger(plant, "BIG", format="BIG", conditions={"line": "A"})
    attach(plant, context_columns=["line"], serial_column="serials")
    if by == "insert":
        plant.execute(
            "insert into public.work_orders (id, part, quantity, line) "
            "select 'WO-' || i, case when i %% 10 = 0 then 'P' else 'BIG' end, 1, case when i %% 2 = 0 then 'A' end "
            "from generate_series(1, %s) as i",
            (quantity,),
        )
    else:
        with plant.cursor().copy("copy public.work_orders (id, part, quantity, line) from stdin") as copy:
            for i in range(1, quantity + 1):
                copy.write_row((f"WO-{i}", "P" if i % 10 == 0 else "BIG", 1, "A" if i % 2 == 0 else None))
    wrong = value(
        plant,
        "select count(*) from public.work_orders as w full join machserial.serials as s on s.work_order_id = w.id "
        "where (w.serials, w.part, w.line) is distinct from (s.serial_number, s.part_id, s.context ->> 'line') "
        "and (w.part = 'P' or w.line = 'A')",
    )
    assert wrong == 0
    assert len(serials(plant)) == quantity // 2
    executions = dict(plant.execute("select id, execution_count from machserial.serial_assignment_triggers").fetchall())
    assert executions.pop(made) == quantity * 4 // 10 and list(executions.values()) == [quantity // 10]
    rows = "select count(*) from machserial.trigger_executions"
    assert value(plant, rows) == 2


def test_every_kind_of_trigger_answers_an_insert(plant):
    trigger(plant, assignment_type="LATE_ASSIGNMENT", batch_size=2)
    trigger(plant, trigger_type="MATERIAL_RECEIPT", assignment_type="VENDOR")
    call(plant, "register_site", site_id="HAM")
    attach(plant, context_columns=["lot_number=line"])
    order(plant, ("WO-1", "P", 1, "L1"), ("WO-2", "P", 2, "L2"), columns="id, part, quantity, line")
    placeholders = "select work_order_id, lot_number, count(*) from machserial.late_assignment_placeholders"
    assert plant.execute(f"{placeholders} group by 1, 2 order by 1").fetchall() == [
        ("WO-1", "L1", 2),
        ("WO-2", "L2", 4),
    ]
    assert len(serials(plant)) == 3
    plant.execute(
        "create table public.receipts (no int primary key, part text, plant text, vendor text, numbers jsonb)"
    )
    attach(
        plant,
        "public.receipts",
        trigger_type="MATERIAL_RECEIPT",
        quantity_column=None,
        context_columns=["vendor_name=vendor", "serial_numbers=numbers", "site_id=plant"],
    )
    plant.execute(
        "insert into public.receipts select i, 'P', case when i %% 2 = 0 then 'HAM' end, 'ACME', "
        "jsonb_build_array('V' || i, 'W' || i) from generate_series(1, %s) as i",
        (1000,),
    )
    assert plant.execute(
        "select s.site_id, v.vendor_name, count(*), count(distinct s.context ->> 'no') "
        "from machserial.vendor_serials as v inner join machserial.serials as s on s.id = v.id group by 1, 2 order by 1"
    ).fetchall() == [("DEFAULT", "ACME", 1000, 500), ("HAM", "ACME", 1000, 500)]


def test_what_goes_into_the_context(plant):
    plant.execute(
        "create table public.steps (plant text, no integer, part text, work_order_id integer, lot_number text, "
        "operation_code text, details jsonb, more text, primary key (plant, no))"
    )
    made = trigger(plant, trigger_type="OPERATION_COMPLETE", operation_code="OP-1")
    attach(
        plant,
        "public.steps",
        trigger_type="OPERATION_COMPLETE",
        quantity_column=None,
        context_columns=["details", "lot_number=more"],
    )
    plant.execute(
        "insert into public.steps values ('X', 7, 'P', 12, 'ignored', 'OP-1', '{\"a\": null}', 'L'), "
        "('X', 8, 'P', 12, 'ignored', 'OP-2', null, 'L')"
    )
    assert serials(plant, "work_order_id, lot_number, operation_code, context") == [
        ("12", "L", "OP-1", {"plant": "X", "no": 7, "details": {"a": None}})
    ]
    assert call(plant, "trigger_statistics")[-1].trigger_id == made and count(plant) == 1


def test_two_events_of_one_table(plant):
    trigger(plant, trigger_type="BATCH_COMPLETION")
    attach(plant)
    attach(plant, trigger_type="BATCH_COMPLETION", context_columns=["line"])
    order(plant, ("WO-1", "P", 1, "A"), columns="id, part, quantity, line")
    assert serials(plant, "work_order_id, context") == [(None, {"id": "WO-1", "line": "A"}), ("WO-1", {"id": "WO-1"})]
    call(plant, "detach", relation="public.work_orders", trigger_type="BATCH_COMPLETION")
    order(plant, ("WO-2", "P", 1))
    assert len(serials(plant)) == 3


# Tables and columns of all kinds


@pytest.mark.parametrize(
    ("column_type", "none", "three", "given"),
    [
        ("text", None, "F000001, F000002, F000003", "X"),
        ("varchar(100)", "", "F000001, F000002, F000003", "X"),
        ("char(40)", "  ", f"{'F000001, F000002, F000003':40}", f"{'X':40}"),
        ("text[]", None, ["F000001", "F000002", "F000003"], ["X"]),
        ("varchar(20)[]", "{}", ["F000001", "F000002", "F000003"], ["X"]),
        ("jsonb", "[]", ["F000001", "F000002", "F000003"], ["X"]),
        ("public.numbers", None, ["F000001", "F000002", "F000003"], ["X"]),
    ],
)
def test_numbers_are_written_back(plant, column_type, none, three, given):
    plant.execute("create domain public.numbers as text[]")
    plant.execute(
        f'create table public.o (no integer, "a b" date, part text, quantity int, "No.s" {column_type}, '
        'primary key ("a b", no))'
    )
    attach(plant, "public.o", serial_column="No.s")
    plant.execute(
        f"insert into public.o values (1, '2026-01-01', 'P', 3, %s), (2, '2026-01-01', 'P', 2, %s::{column_type}), "
        "(1, '2026-01-02', 'P', 0, null), (3, '2026-01-02', 'P', 1, null)",
        (none, '["X"]' if column_type == "jsonb" else given),
    )
    written = 'select "No.s" from public.o order by "a b", no'
    assert column(plant, written)[:2] == [three, given]
    assert value(plant, 'select "No.s" is null from public.o where no = 1 and "a b" = \'2026-01-02\'')
    assert len(serials(plant)) == 4 and count(plant) == 2


def test_numbers_that_do_not_fit_into_their_column_fail_the_insert(plant):
    plant.execute("create table public.o (id text primary key, part text, quantity int, serials varchar(10))")
    attach(plant, "public.o", serial_column="serials")
    order(plant, ("WO-1", "P", 1), relation="public.o")
    with refused(plant, "22001") as refusal:
        order(plant, ("WO-2", "P", 2), relation="public.o")
    assert refusal.detail.startswith("Row id = WO-2 of public.o: ") and "serials" in refusal.hint
    assert len(serials(plant)) == 1


@pytest.mark.parametrize("name", ['public."Work Orders"', "orders", '"Plant".work_orders', '"it\'s %I".":;"'])
def test_any_names_and_types(plant, name):
    schema = name.partition(".")[0] if "." in name else "public"
    if schema != "public":
        plant.execute(f"create schema {schema}")
    plant.execute("create domain public.positive as numeric(10, 2) check (value >= 0)")
    plant.execute("create domain public.article as char(8)")
    plant.execute(
        f'create table {name} ("Id" int generated always as identity primary key, "Part No" public.article, '
        '"n" public.positive, "Doubled" numeric generated always as ("n" * 2) stored, "x=y" text, "ü""\'" text)'
    )
    attach(plant, name, part_column="Part No", quantity_column="Doubled", context_columns=["x=y", "z=x=y", "ü\"'"])
    plant.execute(f'insert into {name} ("Part No", "n", "x=y", "ü""\'") values (\'P\', 1, \'a\', \'b\')')
    assert serials(plant, "work_order_id, context") == [("1", {"Id": 1, "x=y": "a", "z": "a", "ü\"'": "b"})] * 2
    listed = plant.execute(
        "select relation::regclass = %s::regclass, part_column, context_columns from machserial.attachments", (name,)
    ).fetchall()
    assert listed == [(True, "Part No", ["x=y", "z=x=y", "ü\"'"])]
    call(plant, "detach", relation=name, trigger_type="WORK_ORDER_CREATE")
    assert column(plant, "select relation from machserial.attachments") == []


def test_hostile_column_names_and_values(plant):
    names = [name for name in HOSTILE if len(name.encode()) < 64]
    quoted = [psycopg.sql.Identifier(name).as_string(plant) for name in names]
    columns = ", ".join(f"{name} text" for name in quoted)
    plant.execute(f"create table public.o (id int primary key, part text, {columns})")
    attached = attach(plant, "public.o", quantity_column=None, context_columns=names)
    assert attached.context_columns == names
    marks = ", ".join(["%s"] * len(names))
    plant.execute(f"insert into public.o values (1, 'P', {marks})", names)
    assert value(plant, "select context from machserial.serials") == {"id": 1, **{name: name for name in names}}


@pytest.mark.parametrize("part_type", ["integer", "numeric", "bigint", "uuid", "varchar(40)"])
def test_part_columns_of_any_type(plant, part_type):
    part = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11" if part_type == "uuid" else "4711"
    make_part(plant, part)
    trigger(plant, part, format="F")
    plant.execute(f"create table public.o (id int primary key, part {part_type}, quantity smallint)")
    attach(plant, "public.o")
    plant.execute(f"insert into public.o values (1, '{part}', 2)")
    assert serials(plant, "part_id, work_order_id") == [(part, "1")] * 2


def test_a_partitioned_table_and_one_without_a_key(plant):
    plant.execute(
        "create table public.o (part text, no int, serials text, primary key (part, no)) partition by list (part)"
    )
    plant.execute("create table public.o_p partition of public.o for values in ('P')")
    plant.execute("create table public.o_rest partition of public.o default")
    attach(plant, "public.o", quantity_column=None, serial_column="serials")
    plant.execute("insert into public.o (part, no) values ('P', 1), ('X', 1), ('P', 2)")
    assert column(plant, "select serials from public.o order by part, no") == ["F000001", "F000002", None]
    plant.execute("create table public.bare (part text, n int)")
    attach(plant, "public.bare", quantity_column="n")
    plant.execute("insert into public.bare values ('P', 1), ('P', 1)")
    assert serials(plant, "work_order_id, context")[2:] == [(None, None)] * 2
    with refused(plant, "22023") as refusal:
        plant.execute("insert into public.bare values ('P', 1), ('P', -1)")
    assert refusal.detail.startswith("Row (P,-1) of public.bare: ")


# Errors name the row


@pytest.mark.parametrize(
    ("quantity", "part", "sqlstate", "row"),
    [
        (None, "P", "22023", "Row id = WO-2 of public.work_orders: "),
        (-1, "P", "22023", "Row id = WO-2 of public.work_orders: "),
        (1000001, "P", "22023", "Row id = WO-2 of public.work_orders: "),
        (1, "LINE", "22023", "Row id = WO-2 of public.work_orders: "),
        (12, "TIGHT", "2200H", "Row id = WO-2 of public.work_orders: "),
        (1, "BARE", "23503", "Row id = WO-2 of public.work_orders: "),
        (1, "OFF", "55000", "Row id = WO-2 of public.work_orders: "),
        (1, "VENDOR", "22023", "Row id = WO-2 of public.work_orders: "),
        (999999, "P", "22023", "Row id = WO-1 of public.work_orders and 2 more: "),
    ],
)
def test_an_error_names_the_row(plant, quantity, part, sqlstate, row):
    make_format(plant, "L", "{CTX:line}-{SEQ:4}")
    make_format(plant, "TIGHT", "{SEQ:1}")
    make_format(plant, "OFF", "{SEQ:5}")
    for name, more in {
        "LINE": {"format": "L"},
        "TIGHT": {"format": "TIGHT"},
        "BARE": {},
        "OFF": {"format": "OFF"},
        "VENDOR": {"assignment_type": "VENDOR"},
    }.items():
        make_part(plant, name)
        trigger(plant, name, **more)
    call(plant, "deactivate_format", name="OFF")
    attach(plant, context_columns=["line"])
    with refused(plant, sqlstate) as refusal:
        order(plant, ("WO-1", "P", 1), ("WO-2", part, quantity), ("WO-3", "P", 1))
    assert refusal.detail.startswith(row)
    assert serials(plant) == [] and value(plant, "select count(*) from public.work_orders") == 0


def test_the_first_bad_row_of_many_is_named(plant):
    make_format(plant, "L", "{CTX:line}-{SEQ:6}")
    make_part(plant, "LINE")
    trigger(plant, "LINE", format="L")
    attach(plant, context_columns=["line"])
    bad = (
        "insert into public.work_orders (id, part, quantity, line) select 'WO-' || i, 'LINE', 1, "
        "case when i <> 777 then 'A' end from generate_series(1, 1000) as i"
    )
    with refused(plant, "22023") as refusal:
        plant.execute(bad)
    assert refusal.detail.startswith("Row id = WO-777 of public.work_orders: ") and "line" in refusal.message
    register(plant, ["V-501"])
    plant.execute(
        "create table public.receipts (a int, b int, part text, vendor_name text, sn text, primary key (a, b))"
    )
    trigger(plant, trigger_type="MATERIAL_RECEIPT", assignment_type="VENDOR")
    attach(
        plant,
        "public.receipts",
        trigger_type="MATERIAL_RECEIPT",
        quantity_column=None,
        context_columns=["vendor_name", "serial_number=sn"],
    )
    with refused(plant, "23505") as refusal:
        plant.execute(
            "insert into public.receipts select i, 0, 'P', 'ACME', 'V-' || i from generate_series(1, 1000) as i"
        )
    assert refusal.detail.startswith("Row a = 501, b = 0 of public.receipts: ") and "V-501" in refusal.message


def test_a_column_that_was_renamed_is_named_with_the_remedy(plant):
    attach(plant, context_columns=["line"])
    plant.execute("alter table public.work_orders rename line to production_line")
    with refused(plant, "55000") as refusal:
        order(plant, ("WO-1", "P", 1))
    assert "line" in refusal.message and "context_columns" in refusal.detail and "machserial.detach" in refusal.hint
    call(plant, "detach", relation="public.work_orders", trigger_type="WORK_ORDER_CREATE")
    attach(plant, context_columns=["production_line"])
    order(plant, ("WO-1", "P", 1))
    assert len(serials(plant)) == 1


# Attaching and detaching


@pytest.mark.parametrize(
    ("given", "sqlstate", "told"),
    [
        ({"part_column": "prt"}, "22023", "part"),
        ({"quantity_column": "quantty"}, "22023", "quantity"),
        ({"serial_column": "serial"}, "22023", "serials"),
        ({"context_columns": ["line", "lot=lin"]}, "22023", "line"),
        ({"part_column": ""}, "22023", "part_column"),
        ({"trigger_type": "CREATED"}, "22023", "WORK_ORDER_CREATE"),
        ({"relation": "public.odd", "part_column": "flag", "quantity_column": None}, "22023", "text"),
        ({"relation": "public.odd", "part_column": "list", "quantity_column": None}, "22023", "text"),
        ({"relation": "public.odd", "quantity_column": "part"}, "22023", "integer"),
        ({"relation": "public.odd", "quantity_column": None, "serial_column": "flag"}, "22023", "jsonb"),
        ({"relation": "public.odd", "quantity_column": None, "serial_column": "list"}, "55000", "primary key"),
        ({"relation": "public.odd", "quantity_column": None, "serial_column": "part"}, "22023", "is empty"),
        ({"relation": "public.seen"}, "0A000", "table"),
        ({"relation": "machserial.serials"}, "0A000", "table"),
    ],
    ids=str,
)
def test_what_cannot_be_attached(plant, given, sqlstate, told):
    plant.execute("create table public.odd (part text, flag boolean, list text[])")
    plant.execute("create view public.seen as select * from public.work_orders")
    with refused(plant, sqlstate) as refusal:
        attach(plant, **given)
    assert told in refusal.hint or told in refusal.message
    assert column(plant, "select relation from machserial.attachments") == []


def test_attaching_twice_and_detaching_what_is_not_attached(plant):
    with refused(plant, "P0002"):
        call(plant, "detach", relation="public.work_orders", trigger_type="WORK_ORDER_CREATE")
    with refused(plant, "22023"):
        call(plant, "detach", relation="public.work_orders", trigger_type="NEVER")
    with refused(plant, "22023"):
        call(plant, "attach", relation=None, trigger_type="WORK_ORDER_CREATE", part_column="part")
    plant.execute("set local machserial.actor = 'anna'")
    attached = attach(plant, serial_column="serials", context_columns=["line"])
    with refused(plant, "55000") as refusal:
        attach(plant)
    assert "machserial.detach('public.work_orders', 'WORK_ORDER_CREATE')" in refusal.hint
    assert call(plant, "detach", relation="public.work_orders", trigger_type="work_order_create") == [attached]
    assert plant.execute(
        "select event_type, performed_by, details from machserial.audit_events where event_type ~ 'TACHED' order by id"
    ).fetchall() == [
        (
            kind,
            "anna",
            {
                "relation": "public.work_orders",
                "trigger_name": "machserial_work_order_create",
                "trigger_type": "WORK_ORDER_CREATE",
                "part_column": "part",
                "quantity_column": "quantity",
                "context_columns": ["line"],
                "serial_column": "serials",
                "enabled": True,
            },
        )
        for kind in ("TRIGGER_ATTACHED", "TRIGGER_DETACHED")
    ]


def test_the_attachment_goes_with_its_table(plant):
    attach(plant)
    plant.execute("create schema archive")
    plant.execute("alter table public.work_orders rename to jobs")
    plant.execute("alter table public.jobs set schema archive")
    plant.execute("alter trigger machserial_work_order_create on archive.jobs rename to ours")
    order(plant, ("WO-1", "P", 1), relation="archive.jobs")
    assert len(serials(plant)) == 1
    listed = "select relation::text, trigger_name, enabled from machserial.attachments"
    assert plant.execute(listed).fetchall() == [("archive.jobs", "ours", True)]
    plant.execute("alter table archive.jobs disable trigger ours")
    order(plant, ("WO-2", "P", 1), relation="archive.jobs")
    assert len(serials(plant)) == 1
    assert plant.execute(listed).fetchall() == [("archive.jobs", "ours", False)]
    plant.execute(
        "create trigger by_hand after insert on archive.jobs for each statement execute function "
        "machserial._fire_attached('no json')"
    )
    assert len(plant.execute(listed).fetchall()) == 2
    plant.execute("drop table archive.jobs")
    assert plant.execute(listed).fetchall() == []


@pytest.mark.parametrize("kind", ["plain", "custom"])
@pytest.mark.own_database
def test_attachments_survive_dump_and_restore(
    plant, new_database: Callable[..., str], server: Server, tmp_path: Path, kind: str
):
    attach(plant, context_columns=["line", "ü=line"], serial_column="serials")
    order(plant, ("WO-1", "P", 2))
    plant.commit()
    dsn = new_database("restored")
    server.dump_and_restore(plant.info.dbname, "restored", tmp_path / "dump", kind)
    everything = (
        "select relation::text, trigger_name, part_column, quantity_column, context_columns, serial_column, enabled "
        "from machserial.attachments"
    )
    with psycopg.connect(dsn) as restored:
        assert restored.execute(everything).fetchall() == plant.execute(everything).fetchall() != []
        # Nothing fired while the rows came back.
        assert serials(restored) == serials(plant) and count(restored) == 1
        order(restored, ("WO-2", "P", 1))
        assert column(restored, "select serials from public.work_orders order by id") == ["F000001, F000002", "F000003"]
        assert count(restored) == 2
        call(restored, "detach", relation="public.work_orders", trigger_type="WORK_ORDER_CREATE")


# Who may, and who waits


def test_an_application_needs_no_more_than_the_usual_grants(plant, connect):
    attach(plant)
    plant.execute("create role application login")
    plant.execute("grant usage on schema machserial to application")
    plant.execute("grant execute on all functions in schema machserial to application")
    plant.execute("grant select on all tables in schema machserial to application")
    plant.execute(
        "grant insert on machserial.serials, machserial.serial_conflicts, machserial.requests to application"
    )
    plant.execute("grant insert on public.work_orders to application")
    plant.commit()
    application = connect(user="application")
    order(application, ("WO-1", "P", 2))
    application.commit()
    assert len(serials(plant)) == 2 and count(plant) == 1
    assert value(plant, "select created_by from machserial.serials limit 1") == "application"
    with violated(application, "42501"):
        application.execute("select machserial.attach('public.work_orders', 'BATCH_COMPLETION', 'part')")
    with violated(application, "42501"):
        application.execute("select machserial.detach('public.work_orders', 'WORK_ORDER_CREATE')")
    plant.rollback()
    call(plant, "detach", relation="public.work_orders", trigger_type="WORK_ORDER_CREATE")
    attach(plant, serial_column="serials")
    plant.commit()
    with refused(application, "42501") as refusal:
        order(application, ("WO-2", "P", 1))
    assert refusal.detail.startswith("Row id = WO-2 of public.work_orders: ") and "serials" in refusal.hint
    plant.execute("grant select (id), update (serials) on public.work_orders to application")
    plant.commit()
    # A number that was rolled back is a gap.
    order(application, ("WO-2", "P", 1))
    application.commit()
    assert value(plant, "select serials from public.work_orders where id = 'WO-2'") == "F000004"
    plant.execute("create schema own authorization application")
    plant.commit()
    application.execute("create table own.jobs (id text primary key, part text, serials text[])")
    attach(application, "own.jobs", quantity_column=None, serial_column="serials")
    order(application, ("J-1", "P"), columns="id, part", relation="own.jobs")
    assert column(application, "select serials from own.jobs") == [["F000005"]]


def test_work_orders_of_one_part_do_not_wait_for_each_other(plant, connect):
    attach(plant, serial_column="serials")
    plant.commit()
    sessions = [connect() for _ in range(8)]

    def insert_and_stay_open(client: int) -> None:
        sessions[client].execute("set lock_timeout = '2s'")
        for i in range(3):
            order(sessions[client], (f"WO-{client}-{i}", "P", 2), (f"WO-{client}-{i}b", "P", 1))

    at_once(8, insert_and_stay_open)
    for session in sessions:
        session.commit()
    assert count(plant) == 48
    numbers = column(plant, "select serial_number from machserial.serials")
    assert len(numbers) == len(set(numbers)) == 72
