"""machserial serial, as scripts and people see it."""

from __future__ import annotations

import pytest
from command import REFUSED, Command, usage


@pytest.fixture
def registry(deployed_dsn: str) -> Command:
    """X-1 is a serial of two parts, X-2 of one."""
    command = Command(deployed_dsn)
    for part, numbers in (("A", ["X-1", "X-2"]), ("B", ["X-1"])):
        command.query("select machserial.register_part(%s, %s)", part, part)
        command.query("select machserial.register_serials(%s, %s, scopes => '{PART_TYPE}')", numbers, part)
    return command


def test_find(registry):
    assert {row["part_id"] for row in registry.answer("serial", "find", "X-1")} == {"A", "B"}
    assert "X-2" in registry.run("serial", "find", "X-2").stdout
    nothing = registry.run("serial", "find", "x-2")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "nothing found\n")


@pytest.mark.parametrize(("command", "status"), [("retire", "RETIRED"), ("invalidate", "INVALID")])
def test_its_end(registry, command, status):
    (found,) = registry.answer("serial", "find", "X-2")
    ended = registry.answer("serial", command, str(found["id"]), "--reason", "worn out")
    assert ended["status"] == status
    assert registry.query("select status_reason from machserial.serials where id = %s", found["id"]) == [("worn out",)]
    assert "remedy:" in registry.refusal(REFUSED, "serial", command, str(found["id"]), "--reason", "again")


def test_refusals(registry):
    assert "remedy:" in registry.refusal(REFUSED, "serial", "retire", "999999", "--reason", "x")


def test_wrong_usage():
    for arguments in (("retire", "1"), ("retire", "X-2", "--reason", "x"), ("find",)):
        usage("serial", *arguments)
