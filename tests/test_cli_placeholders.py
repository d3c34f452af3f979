"""machserial placeholders, as scripts and people see it."""

from __future__ import annotations

import pytest
from command import OK, REFUSED, Command, usage


@pytest.fixture
def factory(deployed_dsn: str) -> Command:
    """A part with a format."""
    command = Command(deployed_dsn)
    command.query("select machserial.register_part('VALVE', 'VALVE'), machserial.register_site('HAM')")
    command.answer("format", "create", "VALVES", "V{CTX:line}-{SEQ:3}")
    command.answer("format", "assign", "VALVE", "VALVES")
    return command


def create(factory: Command, *options: str) -> list[str]:
    """Their ids."""
    rows = factory.answer("placeholders", "create", "VALVE", "--context", "line=A", *options)
    return [str(row["id"]) for row in rows]


def test_create_with_all_that_is_known(factory):
    (created,) = factory.answer(
        *("placeholders", "create", "VALVE", "--work-order", "WO-1", "--lot", "L-7", "--operation", "OP-90"),
        *("--site", "HAM", "--context", "line:=2", "--context", "shift=early"),
    )
    known = {name: created[name] for name in ("work_order_id", "lot_number", "operation_code", "site_id", "context")}
    assert known == {
        "work_order_id": "WO-1",
        "lot_number": "L-7",
        "operation_code": "OP-90",
        "site_id": "HAM",
        "context": {"line": 2, "shift": "early"},
    }
    assert created["status"] == "PENDING"


def test_numbers_are_generated_or_given(factory):
    first, second, third = create(factory, "-n", "3")
    (generated,) = factory.answer("placeholders", "assign", first, "--operation", "OP-90", "--notes", "late")
    assert (generated["serial_number"], generated["status"]) == ("VA-001", "SERIALIZED")
    assert (generated["assigned_operation_code"], generated["notes"]) == ("OP-90", "late")
    given = factory.answer("placeholders", "assign", third, second, "--serial", "X-3", "--serial", "X-2")
    assert [(str(row["id"]), row["serial_number"]) for row in given] == [(third, "X-3"), (second, "X-2")]


def test_a_whole_work_order(factory):
    create(factory, "-n", "3", "--work-order", "WO-1")
    create(factory, "--work-order", "WO-2")
    assigned = factory.answer("placeholders", "assign", "--work-order", "WO-1")
    assert [row["serial_number"] for row in assigned] == ["VA-001", "VA-002", "VA-003"]


def test_assign_all_or_none(factory):
    first, second = create(factory, "-n", "2")
    factory.refusal(REFUSED, "placeholders", "assign", first, second, "--serial", "X-1")
    factory.refusal(REFUSED, "placeholders", "assign", first, "999999")
    assert factory.query("select count(*) from machserial.serials") == [(0,)]


def test_fail_all_or_none(factory):
    first, second = create(factory, "-n", "2")
    factory.refusal(REFUSED, "placeholders", "fail", first, "999999", "--reason", "scrapped")
    failed = factory.answer("placeholders", "fail", first, second, "--reason", "scrapped")
    assert [(row["status"], row["failure_reason"]) for row in failed] == [("FAILED", "scrapped")] * 2
    assert "remedy:" in factory.refusal(REFUSED, "placeholders", "assign", first)


def test_list_shows_who_waits_unless_asked_otherwise(factory):
    first, second, third = create(factory, "-n", "3", "--work-order", "WO-1")
    factory.answer("placeholders", "assign", first)
    factory.answer("placeholders", "fail", second, "--reason", "scrapped")

    def listed(*options: str) -> list[tuple]:
        rows = factory.answer("placeholders", "list", *options)
        return [(str(row["id"]), row["status"], row["serial_number"]) for row in rows]

    assert listed() == [(third, "PENDING", None)]
    assert listed("--status", "serialized") == [(first, "SERIALIZED", "VA-001")]
    assert len(listed("--all")) == len(listed("--all", "--part", "VALVE", "--work-order", "WO-1")) == 3
    assert listed("--work-order", "WO-2") == listed("--part", "OTHER") == []
    assert listed("--all", "--after", first, "--limit", "1") == [(second, "FAILED", None)]
    assert f"--after {first}" in factory.run("placeholders", "list", "--all", "--limit", "1").stderr


def test_statistics(factory):
    first, second, _ = create(factory, "-n", "3")
    factory.answer("placeholders", "assign", first)
    factory.answer("placeholders", "fail", second, "--reason", "scrapped")
    statistics = factory.answer("placeholders", "stats", "VALVE")
    counts = [statistics[name] for name in ("total", "pending", "serialized", "failed", "success_rate")]
    assert counts == [3, 1, 1, 1, 50.0]
    result = factory.run("placeholders", "stats", "VALVE")
    assert result.exit_code == OK and "success rate" in result.stdout


def test_refusals(factory):
    for arguments in (
        ("create", "NO-SUCH-PART"),
        ("create", "VALVE", "--quantity", "0"),
        ("create", "VALVE", "--quantity", "99999999999"),
        ("create", "VALVE", "--site", "NO-SUCH-SITE"),
        ("assign", "--work-order", "NO-SUCH-ORDER"),
        ("stats", "NO-SUCH-PART"),
    ):
        assert "remedy:" in factory.refusal(REFUSED, "placeholders", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",),
        ("create", "VALVE", "--context", "line:={"),
        ("assign",),
        ("assign", "1", "--work-order", "WO-1"),
        ("fail", "1"),
        ("list", "--all", "--status", "PENDING"),
        ("list", "--limit", "0"),
    ],
)
def test_wrong_usage(arguments):
    usage("placeholders", *arguments)
