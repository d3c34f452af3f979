"""machserial lineage, as scripts and people see it."""

from __future__ import annotations

import json

import pytest
from command import OK, REFUSED, Command, in_a_process, usage


@pytest.fixture
def workshop(deployed_dsn: str) -> Command:
    """Bar becomes two blanks; blank 1 and seal become a valve, which goes into a plant. There are two seals S-1."""
    command = Command(deployed_dsn)
    for part, numbers in (
        ("BAR", ["B-1"]),
        ("BLANK", ["K-1", "K-2"]),
        ("SEAL", ["S-1"]),
        ("VALVE", ["V-1"]),
        ("PLANT", ["P-1"]),
        ("OTHER", ["S-1"]),
    ):
        command.query("select machserial.register_part(%s, %s)", part, part)
        command.query("select machserial.register_serials(%s, %s, scopes => '{PART_TYPE}')", numbers, part)
    ids = dict(command.query("select serial_number, id from machserial.serials where part_id <> 'OTHER'"))
    command.query("select machserial.split(%s, %s, 'OP-SAW', 10)", ids["B-1"], [ids["K-1"], ids["K-2"]])
    command.query("select machserial.merge(%s, %s, 'OP-FIT', 20)", [ids["K-1"], ids["S-1"]], ids["V-1"])
    command.query("select machserial.pass_through(%s, 'OP-TEST', 30)", ids["V-1"])
    command.query("select machserial.merge(%s, %s, 'OP-SET', 40)", [ids["V-1"]], ids["P-1"])
    return command


def shape(text: str) -> list[tuple[int, str]]:
    """How deep each line of a tree stands, and its first word."""
    lines = [line.replace("│", " ").replace("├──", "   ").replace("└──", "   ") for line in text.splitlines()]
    return [((len(line) - len(line.lstrip())) // 4, line.split()[0]) for line in lines]


def test_a_tree_with_both_directions(workshop):
    result = workshop.run("lineage", "show", "V-1")
    assert result.exit_code == OK, result.stderr
    assert shape(result.stdout) == [
        (0, "V-1"),
        (1, "comes"),
        (2, "K-1"),
        (3, "B-1"),
        (2, "S-1"),
        (1, "became"),
        (2, "P-1"),
    ]
    line = next(line for line in result.stdout.splitlines() if "B-1" in line)
    assert "BAR" in line and "SPLIT" in line and "OP-SAW" in line


def test_a_direction_that_is_empty_is_left_out(workshop):
    result = workshop.run("lineage", "show", "K-2")
    assert shape(result.stdout) == [(0, "K-2"), (1, "comes"), (2, "B-1")]


def test_rows(workshop):
    rows = workshop.answer("lineage", "show", "V-1")
    found = {(row["direction"], row["depth"], row["serial_number"]) for row in rows}
    assert {("SELF", 0, "V-1"), ("ANCESTOR", 2, "B-1"), ("DESCENDANT", 1, "P-1")} <= found
    assert all(row["path"] for row in rows)


def test_what_is_cut_off_is_said_once_on_stderr(workshop):
    result = workshop.run("--json", "lineage", "show", "V-1", "--depth", "1")
    assert {row["depth"] for row in json.loads(result.stdout)} == {0, 1}
    assert result.stderr.startswith("notice: ") and len(result.stderr.splitlines()) == 1
    assert workshop.run("lineage", "show", "V-1").stderr == ""
    quiet = in_a_process("--dsn", workshop.dsn, "lineage", "show", "V-1", "--depth", "1", LOG_LEVEL="WARNING")
    assert (quiet.returncode, quiet.stderr) == (OK, "")


def test_a_number_of_several_serials(workshop):
    line = workshop.refusal(REFUSED, "lineage", "show", "S-1")
    assert "SEAL" in line and "OTHER" in line and "--id" in line
    by_part = workshop.run("lineage", "show", "S-1", "--part", "SEAL")
    ((number,),) = workshop.query("select id from machserial.serials where part_id = 'SEAL'")
    by_id = workshop.run("lineage", "show", "--id", str(number))
    assert by_part.stdout == by_id.stdout
    assert "V-1" in by_id.stdout


def test_plain_letters_where_the_terminal_knows_no_others(workshop):
    result = in_a_process("--dsn", workshop.dsn, "lineage", "show", "V-1", PYTHONIOENCODING="ascii")
    assert result.returncode == OK, result.stderr
    assert result.stdout.isascii() and "+-- comes from" in result.stdout


def test_refusals(workshop):
    for arguments in (("X-9",), ("V-1", "--part", "SEAL"), ("--id", "999999"), ("V-1", "--depth", "-1")):
        assert "remedy:" in workshop.refusal(REFUSED, "lineage", "show", *arguments)


def test_wrong_usage():
    for arguments in ((), ("V-1", "--id", "1"), ("--id", "V-1"), ("V-1", "--depth", "deep")):
        usage("lineage", "show", *arguments)
