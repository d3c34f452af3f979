"""machserial triggers, as scripts and people see it."""

from __future__ import annotations

import pytest
from command import REFUSED, Command, usage

CREATE = """
    select id from machserial.create_trigger(%s, 'WORK_ORDER_CREATE', 'SYSTEM_GENERATED', conditions => '{"line": 2}')
"""


@pytest.fixture
def factory(deployed_dsn: str) -> Command:
    """Two parts, of which one has a format."""
    command = Command(deployed_dsn)
    command.query("select machserial.register_part('SEAL', 'SEAL'), machserial.register_part('RING', 'RING')")
    command.answer("format", "create", "SEALS", "S-{SEQ:3}")
    command.answer("format", "assign", "SEAL", "SEALS")
    return command


@pytest.fixture
def trigger(factory: Command) -> str:
    """The id of a trigger for line 2 of the part with a format."""
    return str(factory.query(CREATE, "SEAL")[0][0])


def explained(factory: Command, *context: str) -> dict:
    options = [word for pair in context for word in ("--context", pair)]
    (row,) = factory.answer("triggers", "explain", "work_order_create", "SEAL", *options)
    return row


def test_list(factory, trigger):
    factory.query(CREATE, "RING")
    assert [row["part_id"] for row in factory.answer("triggers", "list")] == ["SEAL", "RING"]
    (listed,) = factory.answer("triggers", "list", "--part", "SEAL")
    assert (str(listed["id"]), listed["conditions"], listed["execution_count"]) == (trigger, {"line": 2}, 0)
    assert "WORK_ORDER_CREATE" in factory.run("triggers", "list").stdout


def test_explain_knows_a_number_from_a_text(factory, trigger):
    fires = explained(factory, "line:=2", "shift=early")
    assert (str(fires["trigger_id"]), fires["fires"]) == (trigger, True)
    assert explained(factory, "line=2")["fires"] is False
    assert "line" in explained(factory)["reason"]


def test_explain_a_part_without_triggers(factory):
    assert explained(factory)["trigger_id"] is None


def test_disable_and_enable(factory, trigger):
    disabled = factory.answer("triggers", "disable", trigger)
    assert (disabled["enabled"], bool(disabled["disabled_at"])) == (False, True)
    assert "disabled since" in explained(factory, "line:=2")["reason"]
    assert factory.answer("triggers", "enable", trigger)["enabled"] is True
    assert explained(factory, "line:=2")["fires"] is True


def test_attachments(factory, trigger):
    assert factory.answer("triggers", "attachments") == []
    factory.query("create table public.work_orders (id text primary key, part_id text, line integer)")
    factory.query("select machserial.attach('work_orders', 'WORK_ORDER_CREATE', 'part_id')")
    (attached,) = factory.answer("triggers", "attachments")
    assert (attached["relation"], attached["trigger_type"]) == ("work_orders", "WORK_ORDER_CREATE")


def test_refusals(factory):
    for arguments in (
        ("enable", "999999"),
        ("disable", "999999"),
        ("explain", "WORK_ORDER_CREATE", "NO-SUCH-PART"),
    ):
        assert "remedy:" in factory.refusal(REFUSED, "triggers", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("enable",),
        ("enable", "x"),
        ("explain", "LUNCH", "SEAL"),
        ("explain", "BATCH_COMPLETION", "SEAL", "--context", "x"),
    ],
)
def test_wrong_usage(arguments):
    usage("triggers", *arguments)
