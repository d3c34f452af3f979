"""Reading the audit trail: page by page, by key, never by offset."""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Iterator

import psycopg
import pytest
from audit_support import begin_empty, make_month, month_of, record
from support import at_once, call, column, refused, value

NEWEST_FIRST = "select id from machserial.audit_events where {} order by performed_at desc, id desc"


def lay_events(connection):
    """600 events over three months, many at the very same moment, of few kinds, parts, serials and people."""
    begin_empty(connection)
    now = value(connection, "select now()")
    for distance in (-2, -1):
        month = make_month(connection, month_of(now, distance))[-7:].replace("_", "-")
        connection.execute(
            "insert into machserial.audit_events (event_type, event_source, serial_id, part_id, performed_by, "
            "performed_at) select (array['SERIAL_GENERATED', 'BLOCK_ISSUED', 'PROPAGATED'])[1 + i %% 3], 'test', "
            "i %% 7, 'P' || i %% 5, 'person ' || i %% 4, %s::timestamptz + (i / 30) * interval '1 hour' "
            "from generate_series(1, 200) as i order by random()",
            (f"{month}-28 12:00:00+00",),
        )
    connection.execute(
        "insert into machserial.audit_events (event_type, event_source, serial_id, part_id, performed_by) "
        "select (array['SERIAL_GENERATED', 'BLOCK_ISSUED', 'PROPAGATED'])[1 + i % 3], 'test', i % 7, 'P' || i % 5, "
        "'person ' || i % 4 from generate_series(1, 200) as i"
    )


pytestmark = pytest.mark.prepared(setup=lay_events)


@pytest.fixture
def events(connection):
    return connection


def pages(connection: psycopg.Connection, page_size: int, **filters: object) -> Iterator[list]:
    after = None
    while True:
        page = call(connection, "audit_trail", page_size=page_size, after=after, **filters)
        if not page:
            return
        yield page
        after = page[-1].id


def read(connection: psycopg.Connection, page_size: int, **filters: object) -> list[int]:
    return [event.id for page in pages(connection, page_size, **filters) for event in page]


FILTERS = {
    "nothing": ({}, "true"),
    "serial": ({"serial_id": 3}, "serial_id = 3"),
    "part": ({"part_id": "P2"}, "part_id = 'P2'"),
    "frequent type": ({"event_type": "SERIAL_GENERATED"}, "event_type = 'SERIAL_GENERATED'"),
    "rare type": ({"event_type": "BLOCK_ISSUED"}, "event_type = 'BLOCK_ISSUED'"),
    "type in small letters": ({"event_type": "propagated"}, "event_type = 'PROPAGATED'"),
    "person": ({"performed_by": "person 1"}, "performed_by = 'person 1'"),
    "all": (
        {"serial_id": 2, "part_id": "P2", "event_type": "PROPAGATED", "performed_by": "person 2"},
        "serial_id = 2 and part_id = 'P2' and event_type = 'PROPAGATED' and performed_by = 'person 2'",
    ),
    "nobody": ({"performed_by": "nobody"}, "false"),
    "no serial": ({"serial_id": -1}, "false"),
}


@pytest.mark.parametrize("page_size", [1, 7, 50, 10_000])
@pytest.mark.parametrize("name", FILTERS)
def test_pages_hold_each_event_once_in_order(events, name, page_size):
    filters, condition = FILTERS[name]
    if page_size == 1 and name == "nothing":
        filters, condition = {"part_id": "P1"}, "part_id = 'P1'"
    assert read(events, page_size, **filters) == column(events, NEWEST_FIRST.format(condition))


def test_every_page_is_full_but_the_last(events):
    sizes = [len(page) for page in pages(events, 70)]
    assert sizes == [70] * 8 + [40]


@pytest.mark.parametrize("page_size", [3, 10_000])
def test_from_since_on_and_before_until(events, page_size):
    moments = column(events, "select distinct performed_at from machserial.audit_events order by 1")
    since, until = moments[3], moments[-2]
    condition = f"performed_at >= '{since}' and performed_at < '{until}'"
    assert read(events, page_size, since=since, until=until) == column(events, NEWEST_FIRST.format(condition))
    assert read(events, page_size, since=until, until=since) == []
    assert read(events, page_size, since=since, until=since) == []
    only = column(events, NEWEST_FIRST.format(f"performed_at = '{since}'"))
    tick = datetime.timedelta(microseconds=1)
    assert read(events, page_size, since=since, until=since + tick) == only


def test_a_page_may_begin_behind_any_event(events):
    """Also one that the filter leaves out."""
    everything = column(events, NEWEST_FIRST.format("true"))
    of_part = column(events, NEWEST_FIRST.format("part_id = 'P3'"))
    for position in range(0, len(everything), 23):
        behind = set(everything[position + 1 :])
        page = call(events, "audit_trail", part_id="P3", after=everything[position], page_size=10)
        assert [event.id for event in page] == [event for event in of_part if event in behind][:10]


def test_events_that_arrive_meanwhile_neither_repeat_nor_push_out_others(events, connect):
    before = column(events, NEWEST_FIRST.format("true"))
    other = connect(autocommit=True)
    seen = []
    for page in pages(events, 40):
        seen += [event.id for event in page]
        record(other, 25)
        events.rollback()
    assert seen == before


def test_many_readers_while_many_write(events, connect):
    before = column(events, NEWEST_FIRST.format("true"))
    sessions = [connect(autocommit=True) for _ in range(6)]

    def work(client: int) -> list[int]:
        if client % 2:
            return [event_id for _ in range(20) for event_id in record(sessions[client], 5)]
        return read(sessions[client], 30)

    for seen in at_once(6, work)[::2]:
        assert len(seen) == len(set(seen))
        assert [event_id for event_id in seen if event_id <= max(before)] == before


@pytest.mark.prepared(setup=None)
def test_ties_are_broken_by_the_id(connection):
    begin_empty(connection)
    record(connection, 100)
    record(connection, 1, id=1 << 40)
    ids = read(connection, 9)
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == 101


def test_a_row_is_the_event(events):
    (page,) = itertools.islice(pages(events, 600), 1)
    rows = events.execute(
        "select id, event_type, event_source, serial_id, serial_number, part_id, site_id, performed_by, db_user, "
        "performed_at, reason, details, transaction_id from machserial.audit_events order by performed_at desc, id desc"
    ).fetchall()
    assert [tuple(event) for event in page] == rows


@pytest.mark.parametrize("page_size", [0, -1, 10_001, None])
def test_a_page_size_that_is_none(events, page_size):
    with refused(events, "22023"):
        call(events, "audit_trail", page_size=page_size)


@pytest.mark.parametrize("after", [-1, 0, 1 << 50])
def test_behind_no_event(events, after):
    with refused(events, "P0002"):
        call(events, "audit_trail", after=after)


def test_it_reads_in_a_transaction_that_only_reads(events):
    events.execute("set transaction read only")
    assert len(read(events, 100)) == 600


@pytest.mark.parametrize(
    "setting", ["timezone = 'Asia/Kolkata'", "datestyle = 'SQL, DMY'", "datestyle = 'German'", "enable_sort = off"]
)
def test_settings_change_no_page(events, setting):
    last = value(events, "select max(id) from machserial.audit_events") - 40
    query = "select id from machserial.audit_trail(part_id => 'P1', after => %s, page_size => 100)"
    before = column(events, query, last)
    assert len(before) == 100
    events.execute(f"set {setting}")
    assert column(events, query, last) == before


def test_statistics_count_each_type(events):
    rows = {row.event_type: row for row in call(events, "audit_statistics")}
    for event_type, count, first, last, people in events.execute(
        "select event_type, count(*), min(performed_at), max(performed_at), count(distinct performed_by) "
        "from machserial.audit_events group by 1"
    ):
        row = rows.pop(event_type)
        assert tuple(row)[1:] == (count, first, last, people)
    assert rows == {}
    now = value(events, "select max(performed_at) from machserial.audit_events")
    assert sum(row.events for row in call(events, "audit_statistics", since=now)) == 200
    assert call(events, "audit_statistics", since=now + datetime.timedelta(days=1)) == []


# How it is read


def lay_many(connection):
    """40,000 events of two months."""
    begin_empty(connection)
    now = value(connection, "select now()")
    make_month(connection, month_of(now, -1))
    for distance in (-1, 1):
        connection.execute(
            "insert into machserial.audit_events "
            "(event_type, event_source, serial_id, part_id, performed_by, performed_at) "
            "select case when i %% 500 = 0 then 'BLOCK_ISSUED' else 'SERIAL_GENERATED' end, 'test', i %% 2000, "
            "'P' || i %% 50, 'person ' || i %% 4, %s::timestamptz + i * interval '1 second' "
            "from generate_series(1, 20000) as i",
            (f"{month_of(now, distance)} 00:00:00+00",),
        )
    connection.commit()
    connection.autocommit = True
    connection.execute("vacuum analyze machserial.audit_events")


DEEP = pytest.mark.prepared(setup=lay_many)


def plans(connection: psycopg.Connection, **arguments: object) -> list[dict]:
    """What auto_explain tells of the queries that one call of audit_trail runs."""
    try:
        connection.execute("load 'auto_explain'")
    except psycopg.errors.UndefinedFile:
        pytest.skip("this server has no auto_explain")
    for setting in (
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_nested_statements = on",
        "auto_explain.log_format = json",
        "auto_explain.log_analyze = on",
        "auto_explain.log_timing = off",
        "client_min_messages = log",
    ):
        connection.execute(f"set {setting}")
    told: list[str] = []
    connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
    call(connection, "audit_trail", **arguments)
    found = [json.loads(message[message.index("{") :]) for message in told if "plan:" in message]
    return [plan for plan in found if "audit_events" in plan["Query Text"]]


def nodes(plan: dict) -> Iterator[dict]:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


@DEEP
@pytest.mark.parametrize("filters", [{}, {"part_id": "P7"}, {"serial_id": 7}, {"event_type": "BLOCK_ISSUED"}])
@pytest.mark.parametrize("depth", [0.1, 0.4, 0.6, 0.95])
def test_a_page_at_any_depth_is_read_by_an_index(connection, filters, depth):
    matching = column(
        connection,
        NEWEST_FIRST.format(" and ".join(["true", *(f"{name} = '{given}'" for name, given in filters.items())])),
    )
    after = matching[int(len(matching) * depth)]
    seen = plans(connection, after=after, page_size=20, **filters)
    assert len(seen) == 2
    for query in seen:
        for node in nodes(query["Plan"]):
            read_rows = node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0)
            if node["Node Type"] == "Seq Scan":
                # Of a month without events.
                assert read_rows == 0, query
            elif "Sort" in node["Node Type"]:
                # Of the few that are left of one serial or part, never of all.
                assert filters and read_rows <= 400, query
            else:
                # Where events stand is known by range of pages.
                assert read_rows + node.get("Rows Removed by Index Recheck", 0) < 4000, query


@DEEP
def test_a_page_reads_no_month_that_it_does_not_need(connection):
    after = column(connection, NEWEST_FIRST.format("true"))[30_000]
    last = plans(connection, after=after, page_size=20)[-1]
    read_from = {node["Relation Name"] for node in nodes(last["Plan"]) if "Relation Name" in node}
    now = value(connection, "select now()")
    assert f"audit_events_{month_of(now, -1):%Y_%m}" in read_from
    for distance in (0, 1, 2):
        assert f"audit_events_{month_of(now, distance):%Y_%m}" not in read_from
