"""machserial conflicts, as scripts and people see it."""

from __future__ import annotations

import pytest
from command import OK, REFUSED, Command, usage


@pytest.fixture
def registry(deployed_dsn: str) -> Command:
    """X-1 and X-2 of part A are taken, and were brought in again."""
    command = Command(deployed_dsn)
    command.query("select machserial.register_part('A', 'A'), machserial.register_part('B', 'B')")
    for _ in range(2):
        command.query("select machserial.register_serials('{X-1,X-2}', 'A', on_conflict => 'RECORD')")
    return command


def holder(registry: Command, number: str) -> str:
    """The id of the serial that has the number."""
    return str(registry.query("select id from machserial.serials where serial_number = %s", number)[0][0])


def numbers(registry: Command, *options: str) -> list[str]:
    return sorted(row["serial_number"] for row in registry.answer("conflicts", "list", *options))


def test_list_shows_what_nobody_has_resolved_unless_asked_otherwise(registry):
    assert numbers(registry) == numbers(registry, "--part", "A") == ["X-1", "X-2"]
    assert numbers(registry, "--part", "B") == []
    registry.answer("conflicts", "resolve", "X-1", "A", "--keep", holder(registry, "X-1"), "--reason", "misread")
    assert numbers(registry) == ["X-2"]
    assert numbers(registry, "--all") == ["X-1", "X-2"]
    result = registry.run("conflicts", "list", "--all")
    assert result.exit_code == OK and "KEEP" in result.stdout


@pytest.mark.parametrize(
    ("option", "resolution", "status"),
    [("--keep", "KEEP", "ACTIVE"), ("--retire", "RETIRE", "RETIRED"), ("--invalid", "MARK_INVALID", "INVALID")],
)
def test_resolve(registry, option, resolution, status):
    number = holder(registry, "X-1")
    (resolved,) = registry.answer("conflicts", "resolve", "X-1", "A", option, number, "--reason", "misread")
    assert (resolved["resolution"], resolved["reason"]) == (resolution, "misread")
    assert registry.query("select status from machserial.serials where id = %s", number) == [(status,)]
    again = ("conflicts", "resolve", "X-1", "A", option, number, "--reason", "misread")
    assert "remedy:" in registry.refusal(REFUSED, *again)


def test_refusals(registry):
    refused = ("conflicts", "resolve", "X-9", "A", "--keep", "1", "--reason", "x")
    assert "remedy:" in registry.refusal(REFUSED, *refused)
    assert "remedy:" in registry.refusal(REFUSED, "conflicts", "list", "--part", "NO-SUCH-PART")


def test_wrong_usage():
    for options in ((), ("--keep", "1", "--retire", "2"), ("--keep", "X-1")):
        usage("conflicts", "resolve", "X-1", "A", *options, "--reason", "x")
    usage("conflicts", "resolve", "X-1", "A", "--keep", "1")
