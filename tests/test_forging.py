"""Forging: an operator writes what only machserial's own functions may say, or what the verbs would refuse."""

from __future__ import annotations

import itertools

import psycopg
import pytest
from psycopg import sql
from support import call, generated, make_format, make_part, refused, register, value, violated

ONE_MODE = True
HIGHEST = 9223372036854775807


def build_plant(connection: psycopg.Connection) -> None:
    """Part P with numbers, a block and a trigger."""
    make_part(connection, "P")
    make_format(connection, "F", "F{SEQ:5}")
    call(connection, "assign_format", part_id="P", format="F")
    call(connection, "create_trigger", part_id="P", trigger_type="WORK_ORDER_CREATE",
         assignment_type="SYSTEM_GENERATED")  # fmt: skip
    generated(connection, quantity=3)
    call(connection, "allocate_block", format="F", quantity=5, holder="LINE", part_id="P")


pytestmark = pytest.mark.prepared(setup=build_plant)


@pytest.fixture
def plant(connection):
    connection.execute("select machserial.create_roles()")
    connection.execute("create role mallory in role machserial_operator")
    return connection


@pytest.fixture
def mallory(plant):
    """An operator."""
    plant.execute("set local role mallory")
    return plant


def assert_sound(connection: psycopg.Connection) -> None:
    connection.execute("reset role")
    call(connection, "maintain")
    assert connection.execute("select * from machserial.integrity()").fetchall() == []


class TestWhatTheKernelIsGiven:
    @pytest.mark.parametrize(("executions", "units"), [
        (HIGHEST, 1), (1, HIGHEST), (-1, 1), (1, -1), (0, 1), (None, 1), (1, None),
    ])  # fmt: skip
    def test_executions_are_what_a_statement_can_have(self, mallory, executions, units):
        with refused(mallory, "22023"):
            mallory.execute("select machserial._count_executions(1, %s, %s)", (executions, units))
        assert_sound(mallory)

    def test_what_has_come_in_stops_no_maintenance(self, plant):
        for _ in range(2):
            plant.execute("insert into machserial.trigger_executions (trigger_id, executions, units) "
                          "select id, %s, %s from machserial.trigger_definitions", (HIGHEST, HIGHEST))  # fmt: skip
        assert_sound(plant)
        assert value(plant, "select executions from machserial.trigger_executions") == HIGHEST

    def test_no_argument_of_an_owners_function_breaks_anything(self, plant):
        """Every function that acts as the owner and that an operator may call, with the worst of each type."""
        worst = {
            "bigint": [None, -1, 0, HIGHEST], "integer": [None, -1, 2147483647], "text": [None, "", "P", "DEFAULT"],
            "jsonb": [None, "[1]", "{}"], "text[]": [None, [], [None], ["P"]], "bigint[]": [None, [None], [HIGHEST]],
            "name": ["mallory"], "jsonb[]": [None, ["[1]"], ["{}", "{}"]], "integer[]": [None, [2147483647], [1, -1]],
        }  # fmt: skip
        functions = plant.execute(
            "select p.oid::regproc::text, array(select format_type(t, null) from unnest(p.proargtypes) as t) "
            "from pg_proc as p where p.pronamespace = 'machserial'::regnamespace and p.prosecdef "
            "and p.proname like '\\_%' and has_function_privilege('mallory', p.oid, 'execute') "
            "and p.prorettype <> 'trigger'::regtype order by 1"
        ).fetchall()
        assert len(functions) > 10
        plant.execute("set local role mallory")
        plant.execute("set local statement_timeout = '5s'")
        for name, types in functions:
            if not all(one in worst for one in types):
                assert types[0] == "machserial._issue", (name, types)
                continue
            for arguments in itertools.islice(itertools.product(*(worst[one] for one in types)), 200):
                casts = sql.SQL(", ").join(sql.SQL("%s::" + one) for one in types)
                try:
                    with plant.transaction():
                        plant.execute(sql.SQL("select {}({})").format(sql.SQL(name), casts), arguments)
                except psycopg.Error as refusal:
                    assert refusal.sqlstate not in ("57014", "XX000", "42501"), (name, arguments, str(refusal))
        assert_sound(plant)


class TestWhatSaysThatANumberWasIssued:
    @pytest.mark.parametrize("column", ["format_id", "sequence_number", "generation_request_id"])
    def test_only_the_owners_functions_write_it(self, mallory, column):
        with violated(mallory, "42501"):
            mallory.execute(f"insert into machserial.serials (serial_number, part_id, {column}) values ('X', 'P', 1)")
        with violated(mallory, "42501"):
            mallory.execute(f"update machserial.serials set {column} = 4")
        assert_sound(mallory)

    def test_nor_calls_another_number_generated(self, mallory):
        insert = "insert into machserial.serials (serial_number, part_id, source) values ('X', 'P', %s)"
        with violated(mallory, "42501"):
            mallory.execute(insert, ("SYSTEM_GENERATED",))
        with refused(mallory, "22023"):
            register(mallory, ["X"], "P", source="SYSTEM_GENERATED")
        mallory.execute(insert, ("MANUAL",))
        register(mallory, ["Y"], "P", source="IMPORT")
        assert_sound(mallory)

    def test_what_works_by_the_functions_still_works(self, mallory):
        numbers = [row[0] for row in mallory.execute("select machserial.block_serials(1)")]
        rows = call(mallory, "report_block", block_id=1, used=numbers[:2])
        assert [row.has_conflict for row in rows] == [False, False]
        assert generated(mallory) [0].startswith("F0")
        assert value(mallory, "select count(*) from machserial.serials where source <> 'SYSTEM_GENERATED'") == 0
        assert_sound(mallory)

    def test_a_usage_is_written_by_a_report(self, mallory):
        with violated(mallory, "42501"):
            mallory.execute(
                "insert into machserial.block_usages (block_id, sequence_number, serial_id) values (1, 4, 1)"
            )
        assert_sound(mallory)


class TestConflictsAndContexts:
    CONFLICT = (
        "insert into machserial.serial_conflicts (serial_number, part_id, site_id, scopes, source, serial_id, "
        "conflicting_serial_ids, conflicting_scopes) values (%s, 'P', 'DEFAULT', %s, %s, %s, %s, %s)"
    )

    @pytest.mark.parametrize(("values", "sqlstate"), [
        (("F00001", ["SITE"], "MANUAL", None, [HIGHEST], ["SITE"]), "23503"),
        (("F00001", ["SITE"], "MANUAL", None, [2], ["SITE"]), "23503"),
        (("F00001", ["SITE"], "MANUAL", 2, [1], ["SITE"]), "23503"),
        (("", ["SITE"], "MANUAL", None, [], []), "23514"),
        (("F00001", [None], "MANUAL", None, [1], ["SITE"]), "23514"),
        (("F00001", [], "MANUAL", None, [1], ["SITE"]), "23514"),
        (("F00001", ["PLANET"], "MANUAL", None, [1], ["SITE"]), "23514"),
        (("F00001", ["SITE"], "MANUAL", None, [1], [None]), "23514"),
        (("F00001", ["SITE"], "FOUND", None, [1], ["SITE"]), "23514"),
    ])  # fmt: skip
    def test_a_conflict_names_what_there_is(self, mallory, values, sqlstate):
        with violated(mallory, sqlstate):
            mallory.execute(self.CONFLICT, values)
        mallory.execute(self.CONFLICT, ("F00001", ["SITE"], "MANUAL", None, [1], ["SITE"]))
        assert_sound(mallory)

    @pytest.mark.parametrize("statement", [
        "insert into machserial.serials (serial_number, part_id, context) values ('X', 'P', '{}')",
        "update machserial.serials set context = '{}' where id = 1",
        "insert into machserial.late_assignment_placeholders (part_id, context) values ('P', '{}')",
    ])  # fmt: skip
    def test_a_context_is_an_object(self, mallory, statement):
        for context in ("[1]", "1", '"x"', "null"):
            with violated(mallory, "23514"):
                mallory.execute(statement.replace("{}", context))
        mallory.execute(statement)
        assert_sound(mallory)


def test_a_pattern_takes_no_name_of_a_format(plant):
    """Who may only use formats kept the name of one that is to be made."""
    plant.execute("set local role mallory")
    assert generated(plant, pattern="ball valves{SEQ:2}") == ["ball valves01"]
    plant.execute("reset role")
    make_format(plant, "ball valves{SEQ:2}", "B{SEQ:2}")
    assert generated(plant, format="ball valves{SEQ:2}") == ["B01"]
    with refused(plant, "22023"):
        make_format(plant, "ad hoc: ball valves", "C{SEQ:2}")
    with violated(plant, "23514"):
        plant.execute("insert into machserial.serial_formats (name, pattern) values ('ad hoc: x', 'X{SEQ:3}')")
