"""The reckoning: what the ledgers say against what the database says, while no writer is at work."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator

import psycopg
from psycopg.rows import namedtuple_row
from support import call

from torture.crew import Crew
from torture.ledger import Attempt
from torture.run import Run
from torture.verbs import VENDOR

# Of many of a kind a finding names so many.
NAMED = 5
REPEATED_REQUESTS = 20


class Reckoning:
    """What must be, out of the ledgers, and what is."""

    def __init__(self, session: psycopg.Connection, attempts: list[Attempt]) -> None:
        self.session = session
        self.attempts = attempts
        self.done = {token for (token,) in session.execute("select token from shop.done")}
        self.committed = [a for a in self.attempts if a.may_be_there and (a.is_acknowledged or a.token in self.done)]
        self.things: dict[str, dict] = defaultdict(dict)
        for attempt in self.committed:
            for kind, key, value in attempt.facts:
                self.things[kind][key] = tuple(value)

    def rows(self, query: str, *parameters: object) -> list:
        return self.session.cursor(row_factory=namedtuple_row).execute(query, parameters or None).fetchall()


Check = Callable[[Reckoning], Iterator[str]]


def named(things: object) -> str:
    """How many, and some of them."""
    listed = sorted(map(str, things))
    return f"{len(listed)}: " + ", ".join(listed[:NAMED]) + (", …" if len(listed) > NAMED else "")


def lost_transactions(reckoning: Reckoning) -> Iterator[str]:
    lost = {a.token for a in reckoning.attempts if a.is_acknowledged} - reckoning.done
    if lost:
        yield f"acknowledged transactions are lost, {named(lost)}"
    asked = {a.token for a in reckoning.attempts if a.may_be_there}
    if reckoning.done - asked:
        yield f"transactions are there of which nobody asked for COMMIT, {named(reckoning.done - asked)}"
    settled = {a.token for a in reckoning.attempts if a.committed is False}
    if settled & reckoning.done:
        yield f"transactions are there that were not there before, {named(settled & reckoning.done)}"


def compare(what: str, expected: dict, found: dict) -> Iterator[str]:
    if expected.keys() - found.keys():
        yield f"{what} are lost, {named((key, expected[key]) for key in expected.keys() - found.keys())}"
    unknown = found.keys() - expected.keys()
    if unknown:
        yield f"{what} are there of which no ledger knows, {named((key, found[key]) for key in unknown)}"
    differing = {key for key in expected.keys() & found.keys() if expected[key] != found[key]}
    if differing:
        yield f"{what} are not as was told, {named((key, expected[key], found[key]) for key in differing)}"


def things_as_told(reckoning: Reckoning) -> Iterator[str]:
    """Every serial, receipt, placeholder, edge, conflict, block and order, neither more nor fewer."""
    told = reckoning.things
    found = {
        row.id: (row.status, row.serial_number, row.part_id, row.site_id, row.claim_released)
        for row in reckoning.rows(
            "select id, status, serial_number, part_id, site_id, claim_released from machserial.serials"
        )
    }
    yield from compare("serials", {key: value[:5] for key, value in told["serial"].items()}, found)
    vendors = {row.id: (row.status,) for row in reckoning.rows("select id, status from machserial.vendor_serials")}
    expected = {key: value[:1] for key, value in told["serial"].items() if value[5] == VENDOR}
    yield from compare("vendor serials", expected, vendors)
    yield from compare("placeholders", told["placeholder"], {
        row.id: (row.status, row.serial_id)
        for row in reckoning.rows("select id, status, serial_id from machserial.late_assignment_placeholders")
    })  # fmt: skip
    yield from compare("propagations", told["edge"], {
        row.id: (row.propagation_type, row.parent_serial_id, row.child_serial_id)
        for row in reckoning.rows(
            "select id, propagation_type, parent_serial_id, child_serial_id from machserial.serial_propagations"
        )
    })  # fmt: skip
    conflicts = {row.id: (row.status,) for row in reckoning.rows("select id, status from machserial.serial_conflicts")}
    yield from compare("conflicts", {key: value[:1] for key, value in told["conflict"].items()}, conflicts)
    yield from compare("orders", told["order"], {
        row.id: (sorted(row.numbers),) for row in reckoning.rows("select id, numbers from shop.orders")
    })  # fmt: skip


def blocks(reckoning: Reckoning) -> Iterator[str]:
    told = {key: (*value[:4], len(value[4])) for key, value in reckoning.things["block"].items()}
    rows = reckoning.rows("select * from machserial.blocks order by first_value")
    found = {row.block_id: (row.status, row.first_value, row.last_value, row.quantity, row.used) for row in rows}
    yield from compare("blocks", told, found)
    wrong = [row.block_id for row in rows if row.used + row.open + row.returned + row.expired != row.quantity]
    if wrong:
        yield f"blocks whose numbers are not accounted for, {named(wrong)}"
    overlapping = [two.block_id for one, two in itertools.pairwise(rows) if one.last_value >= two.first_value]
    if overlapping:
        yield f"blocks that overlap, {named(overlapping)}"
    intruders = reckoning.rows(
        "select s.id from machserial.number_blocks as b inner join machserial.counters as c on c.id = b.counter_id "
        "inner join machserial.serials as s on s.format_id = c.format_id "
        "and s.sequence_number between b.first_value and b.last_value "
        "left join machserial.block_usages as u on u.serial_id = s.id where u.serial_id is null"
    )
    if intruders:
        yield f"numbers of a block were given to others, {named(row.id for row in intruders)}"


def nothing_twice(reckoning: Reckoning) -> Iterator[str]:
    """Of the ledgers by themselves, and of every row in every scope: no index is asked."""
    owners = defaultdict(set)
    for serial_id, (status, number, part, site, released, _) in reckoning.things["serial"].items():
        if status != "REJECTED" and not released:
            owners[number, part, site].add(serial_id)
    twice = [(number, *sorted(ids)) for (number, _, _), ids in owners.items() if len(ids) > 1]
    if twice:
        yield f"numbers were acknowledged twice, {named(twice)}"
    claims = defaultdict(list)
    reckoning.session.execute("set local enable_indexscan = off; set local enable_indexonlyscan = off")
    for row in reckoning.rows(
        "select id, serial_number, part_type, site_id, scopes from machserial.serials "
        "where status not in ('REJECTED', 'CONFLICT') and not claim_released"
    ):
        for scope in row.scopes:
            reach = {"ENTERPRISE": "", "SITE": row.site_id, "PART_TYPE": row.part_type}[scope]
            claims[scope, reach, row.serial_number].append(row.id)
    twice = [(*key, *ids) for key, ids in claims.items() if len(ids) > 1]
    if twice:
        yield f"numbers are on record twice, {named(twice)}"


def gapless(reckoning: Reckoning) -> Iterator[str]:
    numbers = [row.sequence_number for row in reckoning.rows(
        "select s.sequence_number from machserial.serials as s inner join machserial.serial_formats as f "
        "on f.id = s.format_id where f.name = 'GAPLESS' order by 1"
    )]  # fmt: skip
    if numbers != list(range(1, len(numbers) + 1)):
        missing = set(range(1, max(numbers) + 1)) - set(numbers)
        yield f"GAPLESS has gaps: {len(numbers)} numbers up to {max(numbers)}, missing {named(missing)}"
    (counted,) = reckoning.rows("select last_value from machserial.counter_status('GAPLESS')")
    if (counted.last_value or 0) != len(numbers):
        yield f"GAPLESS has issued {len(numbers)} numbers, and its counter says {counted.last_value}"


def counters_past_what_was_issued(reckoning: Reckoning) -> Iterator[str]:
    for row in reckoning.rows(
        """
        select f.name, c.id, c.period, machserial._last_value(c.id) as last_value, max(n.value) as highest
        from machserial.counters as c
        inner join machserial.serial_formats as f on f.id = c.format_id
        cross join lateral (
            select s.sequence_number from machserial.serials as s
            where
                s.format_id = f.id and (c.site_id = '' or s.site_id = c.site_id)
                and (c.period = '' or s.serial_number like '%%-' || replace(c.period, '-', '') || '-%%')
            union all
            select b.last_value from machserial.number_blocks as b where b.counter_id = c.id
        ) as n (value)
        group by f.id, c.id
        having coalesce(machserial._last_value(c.id), 0) < max(n.value)
        """.replace("%%", "%")
    ):
        yield f"counter {row.id} of {row.name} stands at {row.last_value}, and {row.highest} was issued"
    floors = reckoning.things["floor"]
    if floors:
        (counted,) = reckoning.rows("select next_value from machserial.counter_status('JUMPING')")
        if counted.next_value < max(floors):
            yield f"JUMPING was told to go on at {max(floors)}, and gives {counted.next_value} next"


def executions(reckoning: Reckoning) -> Iterator[str]:
    told = defaultdict(lambda: [0, 0])
    for trigger_id, units in reckoning.things["fired"].values():
        told[trigger_id][0] += 1
        told[trigger_id][1] += units
    found = reckoning.rows(
        "select trigger_id, sum(executions)::integer as times, sum(units)::integer as units "
        "from machserial.trigger_executions group by 1"
    )
    yield from compare(
        "executions of triggers",
        {key: tuple(value) for key, value in told.items()},
        {row.trigger_id: (row.times, row.units) for row in found},
    )


def audit(reckoning: Reckoning) -> Iterator[str]:
    """Each serial has come about once in the trail, each committed transaction is in it, and no other."""
    events = reckoning.rows(
        "select s.id, count(e.id) as events from machserial.serials as s left join machserial.audit_events as e "
        "on e.serial_id = s.id and e.event_type in ('SERIAL_GENERATED', 'SERIAL_REGISTERED', 'VENDOR_RECEIVED') "
        "group by s.id having count(e.id) <> 1"
    )
    if events:
        yield f"serials without one event of how they came about, {named((row.id, row.events) for row in events)}"
    strange = reckoning.rows(
        "select e.id from machserial.audit_events as e where e.serial_id is not null "
        "and not exists (select from machserial.serials as s where s.id = e.serial_id)"
    )
    if strange:
        yield f"events of serials that are not there, {named(row.id for row in strange)}"
    actors = {row.performed_by for row in reckoning.rows("select distinct performed_by from machserial.audit_events")}
    # Of a transaction that has only asked again there is nothing.
    changing = {a.token for a in reckoning.committed if any(kind != "request" for kind, *_ in a.facts)}
    if changing - actors:
        yield f"committed transactions that are not in the audit trail, {named(changing - actors)}"
    known = {a.token for a in reckoning.committed} | {reckoning.session.info.user}
    if actors - known:
        yield f"events of transactions that are not there, {named(actors - known)}"


def requests_answered_alike(reckoning: Reckoning) -> Iterator[str]:
    """All answers that were acknowledged, and what is answered now."""
    answers = defaultdict(set)
    asked = {}
    unsure = {}
    for attempt in reckoning.committed:
        for kind, key, value in attempt.facts:
            if kind == "request":
                answers[key].add(tuple(value))
        for function, given in attempt.requests:
            asked[given["request_id"]] = (function, given)
            if not attempt.is_acknowledged:
                unsure[given["request_id"]] = True
    differing = [key for key, given in answers.items() if len(given) > 1]
    if differing:
        yield f"requests that were answered differently, {named((key, *answers[key]) for key in differing)}"
    # The newest, and first of all those whose COMMIT was never answered.
    chosen = [*reversed(unsure), *reversed(asked)][:REPEATED_REQUESTS]
    before = reckoning.rows("select count(*) from machserial.serials")
    for request_id in chosen:
        function, given = asked[request_id]
        again = tuple(row[0] for row in call(reckoning.session, function, **given))
        if again not in answers[request_id]:
            yield f"{request_id} was answered with {named(answers[request_id])}, and now with {again}"
    if before != reckoning.rows("select count(*) from machserial.serials"):
        yield "a repeated request has made new serials"


def own_checks(reckoning: Reckoning) -> Iterator[str]:
    """What machserial says about itself."""
    for function in ("verify_audit()", "verify_audit(true)", "integrity()"):
        found = reckoning.rows(f"select * from machserial.{function}")
        if found:
            yield f"{function} finds {named(found)}"


CHECKS: tuple[Check, ...] = (
    lost_transactions,
    things_as_told,
    blocks,
    nothing_twice,
    gapless,
    counters_past_what_was_issued,
    executions,
    audit,
    requests_answered_alike,
    own_checks,
)


def faults(dsn: str, attempts: list[Attempt], checks: tuple[Check, ...] = CHECKS) -> Iterator[str]:
    """What is wrong in a database that nobody writes to."""
    with psycopg.connect(dsn) as session:
        session.execute("select machserial.seal_audit()")
        session.commit()
        reckoning = Reckoning(session, attempts)
        for check in checks:
            yield from check(reckoning)


def reckon(run: Run, crew: Crew, dsn: str, **replay: object) -> None:
    """Has the writers stand still, compares, and tells run what is wrong."""
    with crew.standing_still():
        attempts = list(crew.attempts())
        for fault in faults(dsn, attempts):
            run.finding(fault, **replay)
        run.counts["operations"] = len(attempts)
        run.counts["acknowledged"] = sum(a.is_acknowledged for a in attempts)
        run.counts["ambiguous"] = sum(a.outcome == "ambiguous" for a in attempts)
    for fault in crew.faults():
        run.finding(f"somebody was told what must not be: {fault}", **replay)
