"""machserial blocks, as scripts and people see it."""

from __future__ import annotations

import json

import pytest
from command import OK, REFUSED, Command, usage


@pytest.fixture
def plant(deployed_dsn: str) -> Command:
    """A part with a format."""
    command = Command(deployed_dsn)
    command.query("select machserial.register_part('VALVE', 'VALVE')")
    command.answer("format", "create", "VALVES", "V-{SEQ:3}")
    command.answer("format", "assign", "VALVE", "VALVES")
    return command


def allocate(plant: Command, quantity: int = 4, *options: str) -> dict:
    arguments = ("VALVES", str(quantity), "--part", "VALVE", *options)
    return plant.answer("blocks", "allocate", *arguments, "--holder", "Contract Co")


def test_allocate(plant):
    first, second = allocate(plant), allocate(plant, 10)
    assert (first["first_value"], first["last_value"], second["first_value"]) == (1, 4, 5)
    again = [allocate(plant, 2, "--request-id", "R-1") for _ in range(2)]
    assert again[0] == again[1]
    assert allocate(plant, 2, "--expires", "2099-01-01")["expires_at"].startswith("2099-01-01")
    assert plant.answer("generate", "VALVE")[0]["serial_number"] == "V-019"


def test_serials_are_bare_lines(plant):
    block = str(allocate(plant)["block_id"])
    result = plant.run("blocks", "serials", block)
    assert (result.exit_code, result.stdout) == (OK, "V-001\nV-002\nV-003\nV-004\n")
    assert plant.answer("blocks", "serials", block)[0] == {"serial_number": "V-001"}


@pytest.mark.parametrize("content", ["V-001\nV-003\n", "serial_number\nV-001\nV-003\n"])
def test_report_as_often_as_wanted(plant, tmp_path, content):
    block = str(allocate(plant)["block_id"])
    (tmp_path / "used.csv").write_text(content)
    reported = plant.answer("blocks", "report", block, "--csv", str(tmp_path / "used.csv"))
    assert [row["serial_number"] for row in reported] == ["V-001", "V-003"]
    assert plant.answer("blocks", "report", block, "V-003", "V-001")
    (listed,) = plant.answer("blocks", "list")
    assert (listed["used"], listed["open"]) == (2, 2)


def test_the_lines_of_serials_are_what_report_reads(plant):
    block = str(allocate(plant)["block_id"])
    numbers = plant.run("blocks", "serials", block).stdout.encode()
    assert plant.run("blocks", "report", block, "--csv", "-", stdin=numbers).exit_code == OK
    assert plant.answer("blocks", "list")[0]["open"] == 0


def test_a_number_that_somebody_else_has_taken(plant):
    block = str(allocate(plant)["block_id"])
    plant.query("select machserial.register_serial('V-002', 'VALVE')")
    result = plant.run("--json", "blocks", "report", block, "V-001", "V-002")
    assert result.exit_code == REFUSED
    assert [row["has_conflict"] for row in json.loads(result.stdout)] == [False, True]
    assert json.loads(result.stderr)["error"]["message"] == "1 of 2 serial numbers are taken by others"
    assert [row["serial_number"] for row in plant.answer("conflicts", "list")] == ["V-002"]


def test_return(plant):
    block = str(allocate(plant)["block_id"])
    plant.answer("blocks", "report", block, "V-001")
    returned = plant.answer("blocks", "return", block, "--reason", "order cancelled")
    assert (str(returned["block_id"]), returned["status"]) == (block, "RETURNED")
    assert returned["closing_reason"] == "order cancelled"
    (listed,) = plant.answer("blocks", "list", "--status", "returned")
    assert (listed["used"], listed["returned"], listed["open"]) == (1, 3, 0)


def test_list(plant):
    first, second = allocate(plant)["block_id"], allocate(plant)["block_id"]
    assert [row["block_id"] for row in plant.answer("blocks", "list", "--holder", "Contract Co")] == [first, second]
    assert (
        plant.answer("blocks", "list", "--holder", "Other") == plant.answer("blocks", "list", "--status", "used") == []
    )
    result = plant.run("blocks", "list", "--limit", "1")
    assert "Contract Co" in result.stdout and f"there are more: --after {first}" in result.stderr
    assert [row["block_id"] for row in plant.answer("blocks", "list", "--after", str(first))] == [second]


def test_refusals(plant):
    for arguments in (
        ("allocate", "NO-SUCH-FORMAT", "4", "--holder", "x"),
        ("allocate", "VALVES", "0", "--holder", "x"),
        ("allocate", "VALVES", "1000", "--holder", "x"),
        ("report", "999999", "V-001"),
        ("serials", "999999"),
        ("return", "999999"),
    ):
        assert "remedy:" in plant.refusal(REFUSED, "blocks", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("allocate", "VALVES", "4"),
        ("allocate", "VALVES", "many", "--holder", "x"),
        ("report", "1"),
        ("report", "1", "V-001", "--csv", "-"),
        ("return",),
    ],
)
def test_wrong_usage(arguments):
    usage("blocks", *arguments)
