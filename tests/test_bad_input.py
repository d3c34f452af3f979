"""Bad input: every function and every table answers it with a result or a documented error, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from bad_input import PLANTED, Call, Range, application, calls_of, make_scene
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from support import call, column, make_part, mostly_slow, refused

# Functions that the scene gives nothing to do: what they say to that.
IDLE = {
    "adopt_schema": "55000",
    "account_for_serial": "55000",
    # It takes a role that is there, and would give the scene away.
    "change_owner": "42704",
    # Of a format that has issued nothing.
    "preview_fence": "22023",
    "record_archive": "55000",
    "resume": "55000",
    "waive_vendor_rule": None,
}


@pytest.fixture
def scene(connection: psycopg.Connection) -> psycopg.Connection:
    make_scene(connection)
    return connection


@pytest.fixture
def range_of(scene, connect) -> Callable[..., Range]:
    """range_of(**options): a Range on the scene; options: who asks."""
    return lambda **options: Range(connect(autocommit=True, **options), connect(autocommit=True))


def test_every_accepted_call_is_answered(range_of):
    """Otherwise the bad values of the next test would be refused for the good ones beside them."""
    tried = range_of()
    refusals = {}
    for function in tried.functions:
        answer = tried.ask_all([tried.call(function, tried.accepted_arguments(function))])[0]
        if answer.sqlstate != IDLE.get(function.name):
            refusals[function.name] = f"{answer.sqlstate} {answer.message}"
    assert not refusals
    assert len(tried.functions) > 80


# In slices, so that they are tried side by side.
SLICES = 4


def slice_of(things: list, number: int) -> list:
    return things[number::SLICES]


@pytest.mark.parametrize("number", mostly_slow(range(SLICES), [0]))
def test_every_function_answers_bad_values_as_documented(range_of, number):
    tried = range_of()
    for function in slice_of(tried.functions, number):
        tried.ask_all(tried.calls(function))
    assert not tried.faults, tried.report()


@pytest.mark.parametrize("number", mostly_slow(range(SLICES), [0]))
def test_every_table_answers_bad_values_by_its_rules(range_of, number):
    tried = range_of()
    for table, columns in slice_of(tried.tables(), number):
        tried.ask_all(tried.writes(table, columns))
    assert not tried.faults, tried.report()


# What hypothesis thinks of


def test_an_application_meets_documented_errors_only(range_of):
    tried = range_of(user=application(range_of()))

    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        tried.faults.clear()
        tried.ask_all([data.draw(calls_of(tried))])
        assert not tried.faults, tried.report()

    run()
    assert tried.accepted > tried.asked / 20


# That faults are noticed


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_noticed(scene, range_of, fault):
    scene.execute(PLANTED[fault])
    scene.commit()
    tried = range_of()
    planted = next(function for function in tried.functions if function.name == "planted")
    if fault == "without end":
        tried.asker.execute("set statement_timeout = '200ms'")
        tried.ask_all([tried.call(planted, {"part_id": "'P'"})])
    else:
        tried.ask_all(tried.calls(planted))
    assert any(fault in found for found in tried.faults), tried.faults


def test_a_lost_server_is_no_answer(server, range_of):
    """A crash is not taken for an error: the connection is gone."""
    tried = range_of()
    end = Call("select pg_terminate_backend(pg_backend_pid())", "the end", frozenset({"57P01"}))
    with pytest.raises(psycopg.OperationalError):
        tried.ask_all([end])


# What somebody would try first

ENDLESS_REGEXES = [
    "^(a*)(a*)(a*)(a*)(a*)\\1\\2\\3\\4\\5c$",
    "(.)\\\\\\1",
    "(((a{0,255}){0,255}){0,255})",
    "a" * 1001,
    "(",
]


@pytest.mark.parametrize("regex", ENDLESS_REGEXES, ids=range(len(ENDLESS_REGEXES)))
def test_a_regex_that_could_take_for_ever_is_refused(connection, regex):
    with refused(connection, "22023"):
        call(connection, "set_vendor_rule", vendor_name="ACME", regex=regex)
    with refused(connection, "22023"):
        connection.execute("insert into machserial.vendor_rules (vendor_name, regex) values ('ACME', %s)", (regex,))


@pytest.mark.parametrize("regex", ["^A\\\\1$", "^[0-9]{3}\\d+\\.$", "^(?:A|B)+(?=x)"])
def test_a_regex_without_back_reference_is_a_rule(connection, regex):
    assert call(connection, "set_vendor_rule", vendor_name="ACME", regex=regex)[0].regex == regex


@pytest.mark.parametrize(
    "path",
    ["$.** ? (@.**.a == 1)", '$.a like_regex "(a*)(a*)\\\\1\\\\2c"', "$.a" * 400, "$.a ? (@.datetime(", "$[$x]"],
    ids=range(5),
)
def test_a_condition_that_could_take_for_ever_is_refused(connection, path):
    make_part(connection)
    given = {"part_id": "P", "trigger_type": "OPERATION_COMPLETE", "assignment_type": "LATE_ASSIGNMENT"}
    with refused(connection, "22023"):
        call(connection, "create_trigger", **given, conditions=Jsonb(path))


@pytest.mark.parametrize(
    "path", ["$.a / 0 == 1", "strict $.a.b.c == 1", "$.** ? (@ > 1) == 2", "$.a[*].datetime() > 1"]
)
def test_a_condition_that_raises_does_not_hold(connection, path):
    make_part(connection)
    given = {"part_id": "P", "trigger_type": "OPERATION_COMPLETE", "assignment_type": "LATE_ASSIGNMENT"}
    call(connection, "create_trigger", **given, conditions=Jsonb(path))
    context = Jsonb({"a": [1, "x", None]})
    assert call(connection, "fire", trigger_type="OPERATION_COMPLETE", part_id="P", context=context) == []


def test_a_number_that_can_be_divided_in_countless_ways_is_answered(connection):
    digits = "".join(str(number * number) for number in range(1, 90))[:255]
    for pattern in (
        "{PART}" * 40 + "{CHECK:luhn}",
        "{PART}{YYYY}{WO}{DD}{LOT}{MM}{SITE}{YY}{PART}{CHECK:luhn}",
        "{PART}{CHECK:luhn}{CHECK:damm}" * 10,
    ):
        answer = call(connection, "validate_serial", serial_number=digits, pattern=pattern)[0]
        assert not answer.is_valid and answer.errors


def test_open_tokens_are_divided_as_before(connection):
    for number, pattern, is_valid in (
        ("AB-CD-2024-7", "{PART}-{LOT}-{YYYY}-{SEQ:1}", True),
        ("AB-CD-2024-7", "{PART}{LOT}{WO}-{YYYY}-{SEQ:1}", True),
        ("A-2024-7", "{PART}{LOT}-{YYYY}-{SEQ:1}", False),
        ("2024-2025-1", "{PART}-{YYYY}-{SEQ:1}", True),
        ("12344", "{PART}{LOT}{CHECK:luhn}", True),
        ("12345", "{PART}{LOT}{CHECK:luhn}", False),
    ):
        assert call(connection, "validate_serial", serial_number=number, pattern=pattern)[0].is_valid == is_valid


@pytest.mark.parametrize(
    "pattern", ["{DD}" * 10_000, "{SEQ:999999999}", "{SEQ:4}" * 10_000, "{CTX:" + "漢字" * 495 + "}"]
)
def test_a_pattern_beyond_measure_is_refused(connection, pattern):
    make_part(connection)
    with refused(connection, "22023") as seen:
        call(connection, "generate", part_id="P", pattern=pattern)
    assert "osition" in seen.detail
    assert not call(connection, "validate_pattern", pattern=pattern)[0].is_valid


def test_ten_megabytes_are_refused_in_a_few_words(connection):
    make_part(connection)
    long = "\U0001f529" * 2_600_000
    for function, arguments in (
        ("register_part", {"part_id": long, "part_type": "T"}),
        ("register_serial", {"serial_number": long, "part_id": "P"}),
        ("generate", {"part_id": "P", "pattern": "A{SEQ:4}", "request_id": long}),
        ("generate", {"part_id": "P", "pattern": "A{SEQ:4}", "context": {"work_order_id": long}}),
        ("receive_vendor_serial", {"serial_number": "V", "vendor_name": long, "part_id": "P"}),
    ):
        with refused(connection, "22023") as seen:
            call(connection, function, **arguments)
        assert len(seen.message) + len(seen.detail) + len(seen.hint) < 1000
    assert column(connection, "select count(*) from machserial.serials") == [0]
    # Also once the part is numbered by a plan that has been made.
    for _ in range(2):
        call(connection, "generate", part_id="P", pattern="A{SEQ:4}")
        with refused(connection, "22023"):
            call(connection, "generate", part_id="P", pattern="A{SEQ:4}", context={"work_order_id": long})


@pytest.mark.parametrize("key", ["lot_number", "work_order_id", "note"])
def test_a_context_may_be_deep_and_its_values_no_texts(connection, key):
    make_part(connection)
    deep = "[" * 1000 + "]" * 1000
    for thing in (deep, "1", "true", "null", '{"a": [1.5e300, null]}'):
        connection.execute(
            "select machserial.generate('P', pattern => 'A{SEQ:4}', context => %s::jsonb)", (f'{{"{key}": {thing}}}',)
        ) if thing is not deep or key == "note" else None
    assert column(connection, "select count(*) from machserial.serials") == [5 if key == "note" else 4]
    assert call(connection, "integrity") == []


@pytest.mark.own_database
def test_nothing_is_consumed_when_numbers_run_out(scene):
    before = call(scene, "counter_status", format="TINY")
    with refused(scene, "2200H"):
        call(scene, "generate", part_id="P", format="TINY", quantity=5)
    assert call(scene, "counter_status", format="TINY") == before
    assert len(call(scene, "generate", part_id="P", format="TINY", quantity=1)) == 1


@pytest.mark.parametrize("encoding", mostly_slow(["LATIN1", "EUC_JP"], ["LATIN1"]))
def test_databases_of_other_encodings_answer_alike(server, new_database, encoding):
    """Texts that the encoding lacks are refused by PostgreSQL; all others are answered as everywhere."""
    server.execute(f"create database bare template template0 encoding '{encoding}' locale 'C'")
    try:
        with psycopg.connect(server.dsn("bare")) as owner:
            owner.execute("create extension machserial")
            owner.execute("select machserial.migrate()")
            make_scene(owner)
            dsn = server.dsn("bare", client_encoding="UTF8")
            tried = Range(*(psycopg.connect(dsn, autocommit=True) for _ in range(2)))
            chosen = {"register_part", "create_format", "validate_pattern", "register_serial", "preview", "fire"}
            for function in tried.functions:
                if function.name in chosen:
                    tried.ask_all(tried.calls(function))
            assert not tried.faults, tried.report()
            assert tried.accepted > 50
            tried.asker.close()
            tried.witness.close()
    finally:
        server.execute("drop database bare with (force)")
