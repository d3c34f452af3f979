"""What machserial promises, said once more in Python and in memory: the model of tests/state_machine.py.

It follows the contract, not the SQL: who claims which number where, how far counters have come, what a serial may
become, what came of what. A verb gets the database's answer, says what it must be, and learns from it only what
nobody can foresee: ids and random numbers.

What a transaction takes back is in State, which is copied for each savepoint. What it does not take back, how far a
PostgreSQL sequence has come, is in Reach objects, which all copies share.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from stdnum import luhn

BAD_ARGUMENT, UNKNOWN, TAKEN, ABSENT, WRONG_STATE, EXHAUSTED = "22023", "23503", "23505", "P0002", "55000", "2200H"
BROKEN_CHECK = "23514"

SCOPES = ("ENTERPRISE", "SITE", "PART_TYPE")
SOURCES = ("MANUAL", "IMPORT", "SYSTEM_GENERATED", "VENDOR", "LATE_ASSIGNMENT")
NEXT_STATUSES = {
    "PENDING": ("ACTIVE", "CONFLICT", "REJECTED", "RETIRED", "INVALID"),
    "ACTIVE": ("CONFLICT", "RETIRED", "INVALID"),
    "CONFLICT": ("PENDING", "ACTIVE", "REJECTED", "RETIRED", "INVALID"),
    "RETIRED": ("INVALID",),
    "REJECTED": (),
    "INVALID": (),
}
ALPHABETS = {
    "numeric": "0123456789",
    "hex": "0123456789ABCDEF",
    "alpha": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "base36": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "safe": "23456789ABCDEFGHJKLMNPQRSTUVWXYZ",
}
DATES = {"YYYY": "%Y", "MM": "%m", "DD": "%d"}
TOKEN = re.compile(
    r"SEQ:(?P<size>\d+)(:(?P<alphabet>hex|alpha|base36|safe))?|RANDOM:(?P<kind>numeric|hex|alpha|safe):(?P<length>\d+)"
    r"|CHECK:luhn|YYYY|MM|DD|SITE|PART|WO|CTX:(?P<key>\w+)"
)
PERIODS = {"NEVER": "", "DAILY": "%Y-%m-%d", "YEARLY": "%Y"}
NEEDED_DATES = {"NEVER": set(), "DAILY": {"YYYY", "MM", "DD"}, "YEARLY": {"YYYY"}}


class Refused(Exception):
    """The database had to refuse, and did so with a right code: nothing of the verb has happened."""


@dataclass
class Answer:
    """What the database said: rows, or the SQLSTATE of its refusal."""

    rows: list
    code: str | None = None


@dataclass
class Reach:
    """How far a counter of a SEQUENCE format has come. No rollback takes it back."""

    value: int


@dataclass(frozen=True)
class Token:
    name: str
    text: str = ""
    size: int = 0
    alphabet: str = ""


def parse(pattern: str) -> list[Token] | None:
    """The tokens of a pattern; None if it is faulty. Of the language it knows what the state machine uses."""
    tokens = []
    for piece in re.findall(r"\{[^{}]*\}|[^{}]+|.", pattern):
        if piece[0] not in "{}":
            tokens.append(Token("LITERAL", piece))
            continue
        found = TOKEN.fullmatch(piece[1:-1])
        if not found:
            return None
        name = found[0].split(":")[0]
        kind = found["alphabet"] or found["kind"] or "numeric"
        tokens.append(Token(name, found["key"] or "", int(found["size"] or found["length"] or 0), ALPHABETS[kind]))
    return tokens if pattern.strip() and sum(t.name == "SEQ" for t in tokens) < 2 else None


@dataclass(frozen=True)
class Format:
    id: int
    name: str
    version: int
    pattern: str
    start: int = 1
    step: int = 1
    reset: str = "NEVER"
    counter_per: str = "FORMAT"
    allocation: str = "SEQUENCE"
    letter_case: str = "EXACT"
    is_active: bool = True
    is_ad_hoc: bool = False
    continues: int | None = None

    @property
    def tokens(self) -> list[Token]:
        return parse(self.pattern)

    @property
    def names(self) -> set[str]:
        return {token.name for token in self.tokens}

    @property
    def highest(self) -> int | None:
        """The highest sequence number that fits; None without {SEQ:n}."""
        return next((len(t.alphabet) ** t.size - 1 for t in self.tokens if t.name == "SEQ"), None)

    @property
    def needs(self) -> set[str]:
        """What the context has to tell."""
        return {"work_order_id" if t.name == "WO" else t.text for t in self.tokens if t.name in ("WO", "CTX")}

    def numbers(self, value: int | None, at: datetime, site: str, part: str | None, context: dict) -> list[str]:
        """Every number that can be written from this sequence value: several where there are random characters."""
        written = [""]
        for token in self.tokens:
            if token.name == "SEQ":
                texts = [encode(value, token)]
            elif token.name == "RANDOM":
                texts = ["".join(text) for text in itertools.product(token.alphabet, repeat=token.size)]
            elif token.name == "CHECK":
                written = [text + luhn.calc_check_digit(re.sub(r"\D", "", text)) for text in written]
                continue
            else:
                texts = [self.constant(token, at, site, part, context)]
            written = [left + text for left in written for text in texts]
        return written

    def constant(self, token: Token, at: datetime, site: str, part: str | None, context: dict) -> str:
        known = {"LITERAL": token.text, "SITE": site, "PART": part, "WO": context.get("work_order_id")}
        known["CTX"] = context.get(token.text)
        text = str(known[token.name]) if token.name in known else at.strftime(DATES[token.name])
        return text.upper() if self.letter_case == "UPPER" else text


def encode(value: int, token: Token) -> str:
    digits = ""
    for _ in range(token.size):
        value, digit = divmod(value, len(token.alphabet))
        digits = token.alphabet[digit] + digits
    return digits


@dataclass(frozen=True)
class Assignment:
    id: int
    part: str | None
    part_type: str | None
    format: int
    priority: int
    since: datetime


@dataclass(frozen=True)
class Part:
    part_type: str
    scopes: frozenset


@dataclass(frozen=True)
class Counting:
    """A counter. first: what it began with. last: of a GAPLESS one; a SEQUENCE one has its reach."""

    first: int
    last: int | None = None
    reach: Reach | None = None


@dataclass(frozen=True)
class Serial:
    id: int
    number: str
    part: str
    part_type: str
    site: str
    source: str
    scopes: frozenset
    status: str = "ACTIVE"
    released: bool = False
    format: int | None = None
    sequence: int | None = None
    work_order: str | None = None
    operation: str | None = None
    lot: str | None = None
    reason: str | None = None

    @property
    def holds(self) -> bool:
        return self.status not in ("REJECTED", "CONFLICT") and not self.released


@dataclass(frozen=True)
class Conflict:
    number: str
    part: str
    site: str
    scopes: frozenset
    source: str
    serial: int | None
    with_serials: tuple
    in_scopes: frozenset
    status: str = "PENDING"
    resolution: str | None = None
    kept: int | None = None
    losers: tuple = ()


@dataclass(frozen=True)
class Receipt:
    vendor: str
    is_broken: bool
    is_waived: bool = False
    internal: int | None = None
    was_accepted: bool = False


@dataclass(frozen=True)
class Rule:
    min_length: int | None
    max_length: int | None
    regex: str | None

    def allows(self, number: str) -> bool:
        return (
            len(number) >= (self.min_length or 0)
            and len(number) <= (self.max_length or 255)
            and (self.regex is None or re.search(self.regex, number) is not None)
        )


@dataclass(frozen=True)
class Placeholder:
    id: int
    part: str
    site: str
    context: dict
    status: str = "PENDING"
    serial: int | None = None


@dataclass(frozen=True)
class Trigger:
    id: int
    part: str
    event: str
    makes: str
    format: str | None
    operation: str | None
    conditions: dict
    batch: int
    enabled: bool = True
    executions: int = 0
    units: int = 0

    def answers(self, context: dict) -> bool:
        if not self.enabled or (self.operation and context.get("operation_code") != self.operation):
            return False
        return all(context.get(key) == wanted for key, wanted in self.conditions.items())


@dataclass(frozen=True)
class Block:
    id: int
    format: int
    first: int
    last: int
    skipped: frozenset
    quantity: int
    part: str | None
    site: str
    at: datetime
    expires: datetime | None
    status: str = "OPEN"


@dataclass
class State:
    """All that a transaction takes back. Its values never change: a copy copies the dictionaries only."""

    sites: dict = field(default_factory=lambda: {"DEFAULT": "UTC"})
    parts: dict = field(default_factory=dict)
    formats: dict = field(default_factory=dict)
    assignments: dict = field(default_factory=dict)
    counters: dict = field(default_factory=dict)
    requests: dict = field(default_factory=dict)
    serials: dict = field(default_factory=dict)
    # In the order in which they were put on record.
    conflicts: dict = field(default_factory=dict)
    receipts: dict = field(default_factory=dict)
    rules: dict = field(default_factory=dict)
    placeholders: dict = field(default_factory=dict)
    # (type, parent, child): each as often as it was put on record.
    edges: Counter = field(default_factory=Counter)
    triggers: dict = field(default_factory=dict)
    attached: dict = field(default_factory=dict)
    blocks: dict = field(default_factory=dict)
    # (block, sequence number): serial, or the key of a conflict in a tuple.
    usages: dict = field(default_factory=dict)
    settings: dict = field(default_factory=lambda: {"propagation_depth_limit": "50", "batch_size": "100"})
    flags: dict = field(default_factory=lambda: {"paused": False, "sealed": 0})
    events: Counter = field(default_factory=Counter)

    def copy(self) -> State:
        return State(**{f.name: getattr(self, f.name).copy() for f in fields(self)})


class Model:
    def __init__(self) -> None:
        self.state = State()
        self.answer = Answer([])
        # The database's now(): the start of the transaction.
        self.now: datetime | None = None

    # Judging

    def judge(self, faults: set, may_fail_with: set = frozenset()) -> None:
        """Any of the faults is a right answer, none of them is success. What is not sure is in may_fail_with."""
        code = self.answer.code
        if faults:
            assert code in faults | may_fail_with, f"{code or self.answer.rows} instead of {sorted(faults)}"
            raise Refused
        if code in may_fail_with:
            raise Refused

    def decide(self, faults: set = frozenset()) -> None:
        """The last judgement: without a fault it must have succeeded."""
        self.judge(faults)
        assert self.answer.code is None, f"refused with {self.answer.code}, and there is no reason to"

    def event(self, event_type: str, times: int = 1) -> None:
        if times:
            self.state.events[event_type] += times

    # Places, claims

    def local(self, site: str) -> datetime:
        return self.now.astimezone(ZoneInfo(self.state.sites[site]))

    def place_faults(self, part: str, site: str) -> set:
        known = part in self.state.parts and site in self.state.sites
        return set() if known else {UNKNOWN}

    @staticmethod
    def keys(number: str, scopes: frozenset, site: str, part_type: str) -> dict:
        """Scope by claim: what two that bear the same number must not have in common."""
        reach = {"ENTERPRISE": "", "SITE": site, "PART_TYPE": part_type}
        return {(scope, reach[scope], number): scope for scope in scopes}

    def keys_of(self, serial: Serial) -> dict:
        return self.keys(serial.number, serial.scopes, serial.site, serial.part_type)

    def claims(self) -> dict:
        """Who holds what."""
        return {key: s.id for s in self.state.serials.values() if s.holds for key in self.keys_of(s)}

    def is_free(self, serial: Serial, claims: dict | None = None) -> bool:
        claims = self.claims() if claims is None else claims
        return not serial.holds or all(claims.get(key, serial.id) == serial.id for key in self.keys_of(serial))

    def shared(self, serial: Serial, scopes: frozenset, site: str, part_type: str) -> set:
        """The scopes in which its number is taken for others. ENTERPRISE is everywhere, which no index knows."""
        wanted = self.keys(serial.number, scopes, site, part_type)
        return {"ENTERPRISE"} & (scopes | serial.scopes) | {wanted[key] for key in wanted.keys() & self.keys_of(serial)}

    def holders(self) -> dict[str, list[Serial]]:
        found: dict[str, list[Serial]] = {}
        for serial in self.state.serials.values():
            if serial.holds:
                found.setdefault(serial.number, []).append(serial)
        return found

    def claimants(
        self, number: str, scopes: frozenset, site: str, part_type: str, holders: dict | None = None
    ) -> tuple[tuple, frozenset]:
        holders = self.holders() if holders is None else holders
        found = {s.id: self.shared(s, scopes, site, part_type) for s in holders.get(number, [])}
        found = {key: scopes for key, scopes in found.items() if scopes}
        return tuple(sorted(found)), frozenset().union(*found.values())

    def add(self, serial: Serial, is_received: bool = False) -> None:
        assert self.is_free(serial), f"{serial} claims what another has"
        assert serial.id not in self.state.serials, f"id {serial.id} is given twice"
        self.state.serials[serial.id] = serial
        registered = "SERIAL_GENERATED" if serial.source == "SYSTEM_GENERATED" else "SERIAL_REGISTERED"
        self.event("VENDOR_RECEIVED" if is_received else registered)

    def record_conflict(
        self, number: str, part: str, site: str, scopes: frozenset, source: str, serial: int | None = None
    ) -> int:
        with_serials, in_scopes = self.claimants(number, scopes, site, self.state.parts[part].part_type)
        key = len(self.state.conflicts)
        self.state.conflicts[key] = Conflict(number, part, site, scopes, source, serial, with_serials, in_scopes)
        self.event("CONFLICT_DETECTED")
        return key

    # Catalog

    def register_site(self, site_id: str, time_zone: str) -> None:
        try:
            ZoneInfo(time_zone)
        except (KeyError, ValueError):
            self.decide({BAD_ARGUMENT})
        self.decide()
        if site_id not in self.state.sites:
            self.event("SITE_REGISTERED")
        elif self.state.sites[site_id] != time_zone:
            self.event("SITE_UPDATED")
        self.state.sites[site_id] = time_zone

    def register_part(self, part_id: str, part_type: str, scopes: list | None) -> None:
        faults = set()
        if scopes is not None and not (scopes and set(scopes) <= set(SCOPES)):
            faults.add(BAD_ARGUMENT)
        known = self.state.parts.get(part_id)
        if known and known.part_type != part_type and any(s.part == part_id for s in self.state.serials.values()):
            faults.add(WRONG_STATE)
        wanted = frozenset(SCOPES[1:]) if known is None else known.scopes
        if scopes is not None:
            wanted = frozenset(scopes)
        given = self.rescoped(part_id, known.scopes, wanted) if known and not faults else {}
        if self.puts_in_the_way(given):
            faults.add(TAKEN)
        self.decide(faults)
        self.state.serials |= given
        self.event("SERIAL_UPDATED", len(given))
        if known is None:
            self.event("PART_REGISTERED")
        else:
            self.event("PART_UPDATED", (known.part_type != part_type) + (known.scopes != wanted))
        self.state.parts[part_id] = Part(part_type, wanted)

    def rescoped(self, part: str, was: frozenset, becomes: frozenset) -> dict[int, Serial]:
        """The part's serials that change with its scopes; what they have beyond their part they keep."""
        after = {
            s.id: replace(s, scopes=becomes | s.scopes - was) for s in self.state.serials.values() if s.part == part
        }
        return {key: s for key, s in after.items() if was != becomes and s.scopes != self.state.serials[key].scopes}

    def puts_in_the_way(self, given: dict[int, Serial]) -> bool:
        """Whether serials with other scopes meet where they did not before."""
        after = self.state.serials | given
        return any(
            self.shared(after[other.id], s.scopes, s.site, s.part_type)
            - self.shared(other, self.state.serials[s.id].scopes, s.site, s.part_type)
            for s in given.values() if s.holds
            for other in self.with_number(s.number) if other.id != s.id and other.holds
        )

    # Formats and counters

    def active(self, name: str) -> Format | None:
        return next((f for f in self.state.formats.values() if f.name == name and f.is_active), None)

    def latest(self, name: str) -> Format | None:
        versions = [f for f in self.state.formats.values() if f.name == name]
        return max(versions, key=lambda f: f.version, default=None)

    def named_faults(self, name: str) -> set:
        if self.active(name):
            return set()
        return {WRONG_STATE} if self.latest(name) else {UNKNOWN}

    @staticmethod
    def format_faults(wanted: Format) -> set:
        tokens = parse(wanted.pattern)
        if tokens is None or wanted.step < 1 or wanted.start < 0:
            return {BAD_ARGUMENT}
        if wanted.highest is not None and (
            wanted.start > wanted.highest or not NEEDED_DATES[wanted.reset] <= wanted.names
        ):
            return {BAD_ARGUMENT}
        return set()

    def create_format(self, **options: object) -> None:
        wanted = Format(id=0, version=1, **options)
        faults = self.format_faults(wanted)
        if self.active(wanted.name):
            faults.add(TAKEN)
        self.decide(faults)
        known = self.latest(wanted.name)
        version = known.version + 1 if known else 1
        self.add_format(replace(wanted, id=self.answer.rows[0].id, version=version), "FORMAT_CREATED")

    def add_format(self, made: Format, event: str) -> None:
        self.state.formats[made.id] = made
        self.event(event)

    def revise_format(self, name: str, **changes: object) -> None:
        latest = self.latest(name)
        if latest is None:
            self.decide({UNKNOWN})
        changes = {key: value for key, value in changes.items() if value is not None}
        continues = None if "start" in changes else latest.id
        wanted = replace(latest, version=latest.version + 1, is_active=True, continues=continues, **changes)
        faults = self.format_faults(wanted)
        if latest.is_ad_hoc and wanted.pattern != latest.pattern:
            faults.add(WRONG_STATE)
        self.decide(faults)
        old = self.active(name)
        if old:
            self.state.formats[old.id] = replace(old, is_active=False)
            self.event("FORMAT_DEACTIVATED")
        made = replace(wanted, id=self.answer.rows[0].id)
        self.add_format(made, "FORMAT_REVISED")
        for one in [a for a in self.state.assignments.values() if a.format == latest.id]:
            self.state.assignments[one.id] = replace(one, format=made.id)
            self.event("FORMAT_ASSIGNMENT_UPDATED")

    def deactivate_format(self, name: str) -> None:
        self.decide(self.named_faults(name))
        active = self.active(name)
        self.state.formats[active.id] = replace(active, is_active=False)
        self.event("FORMAT_DEACTIVATED")

    def assign_format(self, part: str | None, part_type: str | None, name: str, priority: int, since: datetime) -> None:
        faults = self.named_faults(name)
        if part is not None and part not in self.state.parts:
            faults.add(UNKNOWN)
        self.decide(faults)
        active = self.active(name)
        made = Assignment(self.answer.rows[0][0], part, part_type, active.id, priority, since)
        known = self.state.assignments.get(made.id)
        like = replace(made, id=0, priority=0)
        same = [a for a in self.state.assignments.values() if replace(a, id=0, priority=0) == like]
        assert same == ([known] if known else []), "an assignment is changed only when it is given again"
        if known is None:
            self.event("FORMAT_ASSIGNED")
        elif known != made:
            self.event("FORMAT_ASSIGNMENT_UPDATED")
        self.state.assignments[made.id] = made

    def unassign_format(self, part: str, name: str) -> None:
        gone = [
            a.id for a in self.state.assignments.values()
            if a.part == part and self.state.formats[a.format].name == name
        ]
        self.decide(set() if gone else {ABSENT})
        for one in gone:
            del self.state.assignments[one]
        self.event("FORMAT_UNASSIGNED", len(gone))

    def format_for(self, part: str) -> Format | None:
        """A part's own before its type's, higher priority first, then the later one."""
        known = self.state.parts.get(part)
        effective = [
            a for a in self.state.assignments.values()
            if a.since <= self.now and self.state.formats[a.format].is_active
        ]
        for fitting in (
            [a for a in effective if a.part == part],
            [a for a in effective if known and a.part_type == known.part_type],
        ):
            if fitting:
                best = max(fitting, key=lambda a: (a.priority, a.since, a.id))
                return self.state.formats[best.format]
        return None

    def counter_key(self, made: Format, part: str | None, site: str, at: datetime) -> tuple:
        return (
            made.id,
            part if made.counter_per in ("PART", "SITE_PART") else "",
            site if made.counter_per in ("SITE", "SITE_PART") else "",
            at.strftime(PERIODS[made.reset]),
        )

    def reached(self, key: tuple) -> int:
        """One step below what the counter gives next."""
        counter = self.state.counters[key]
        if counter.reach:
            return counter.reach.value
        return counter.last if counter.last is not None else counter.first - self.state.formats[key[0]].step

    def move(self, key: tuple, value: int) -> None:
        counter = self.state.counters[key]
        if counter.reach:
            counter.reach.value = value
        else:
            self.state.counters[key] = replace(counter, last=value)

    def first_value(self, made: Format, key: tuple) -> int:
        """Behind the version that it continues, if that has given a number here and there are more."""
        ancestor = made.continues
        while ancestor is not None:
            there = (ancestor, *key[1:])
            counter = self.state.counters.get(there)
            if counter and self.reached(there) >= counter.first:
                following = self.reached(there) + made.step
                return following if following <= made.highest else made.start
            ancestor = self.state.formats[ancestor].continues
        return made.start

    def counter(self, made: Format, part: str | None, site: str, at: datetime) -> tuple:
        """The key of the counter, made if need be. Those that are made ahead would begin as here."""
        key = self.counter_key(made, part, site, at)
        if key not in self.state.counters:
            first = self.first_value(made, key)
            reach = Reach(first - made.step) if made.allocation == "SEQUENCE" else None
            self.state.counters[key] = Counting(first, reach=reach)
        return key

    def reset_counter(self, name: str, next_value: int, part: str | None, site: str, reason: str | None) -> None:
        faults = self.named_faults(name)
        if site not in self.state.sites:
            faults.add(UNKNOWN)
        if part is not None and part not in self.state.parts:
            faults.add(UNKNOWN)
        if reason is None:
            faults.add(BAD_ARGUMENT)
        self.judge(faults)
        active = self.active(name)
        if active.counter_per in ("PART", "SITE_PART") and part not in self.state.parts:
            faults.add(UNKNOWN)
        if active.highest is None or not active.start <= next_value <= active.highest:
            faults.add(BAD_ARGUMENT)
        self.judge(faults)
        key = self.counter(active, part, site, self.local(site))
        self.decide({BAD_ARGUMENT} if next_value < self.reached(key) + active.step else set())
        self.move(key, next_value - active.step)
        self.event("COUNTER_RESET")

    # Generating

    def free_values(
        self, made: Format, part: str | None, site: str, scopes: frozenset, part_type: str, context: dict
    ) -> Iterator[tuple[int | None, str]]:
        """What the format can give, in the order in which it counts; random numbers in any order."""
        holders = self.holders()
        at = self.local(site)
        if made.highest is None:
            values = [None]
        else:
            key = self.counter(made, part, site, at)
            values = range(self.reached(key) + made.step, made.highest + 1, made.step)
        for value in values:
            for number in made.numbers(value, at, site, part, context):
                if not self.claimants(number, scopes, site, part_type, holders)[0]:
                    yield value, number

    def issue(self, made: Format, part: str, site: str, contexts: list[dict], rows: list[tuple] | None) -> list[int]:
        """Numbers for units with these contexts. rows: (id, number, sequence number, context); None: it was refused,
        and what would have come next in the same call is judged as if it had gone well. Returns the ids."""
        known = self.state.parts[part]
        faults = {WRONG_STATE} if self.state.flags["paused"] else set()
        if any(not context.get(key) for key in made.needs for context in contexts):
            self.judge(faults | {BAD_ARGUMENT}, {EXHAUSTED})
        is_alike = len({tuple(str(context.get(key)) for key in sorted(made.needs)) for context in contexts}) == 1
        free = list(itertools.islice(
            self.free_values(made, part, site, known.scopes, known.part_type, contexts[0]),
            None if made.highest is None else len(contexts),
        ))
        if len(free) < len(contexts) and (is_alike or made.highest is None):
            faults.add(EXHAUSTED)
        # Of several contexts some may find their numbers taken, and need more of the counter.
        self.judge(faults, set() if is_alike else {EXHAUSTED})
        if rows is None:
            rows = [(-id(free) - i, n, v, c) for i, ((v, n), c) in enumerate(zip(free, contexts, strict=False))]
        self.check_issue(made, part, site, len(contexts), rows, free if is_alike else None)
        for serial_id, number, value, context in rows:
            self.add(Serial(
                serial_id, number, part, known.part_type, site, "SYSTEM_GENERATED", known.scopes, format=made.id,
                sequence=value, work_order=text(context.get("work_order_id")),
                operation=text(context.get("operation_code")),
            ))
        if made.highest is not None:
            self.move(self.counter(made, part, site, self.local(site)), max(row[2] for row in rows))
        return [row[0] for row in rows]

    def check_issue(
        self, made: Format, part: str, site: str, quantity: int, rows: list[tuple], expected: list | None
    ) -> None:
        assert len(rows) == quantity, f"{len(rows)} numbers instead of {quantity}"
        given = sorted((row[2] or 0, row[1]) for row in rows)
        if expected is not None and made.highest is not None:
            assert given == sorted(expected), f"{given} instead of {expected}"
        for _, number, value, context in rows:
            possible = made.numbers(value, self.local(site), site, part, context)
            assert number in possible, f"{number} is not of {made.pattern}"
            if value is not None:
                assert value > self.reached(self.counter(made, part, site, self.local(site))), "it counts backwards"

    def resolve_format(self, part: str, name: str | None, pattern: str | None, site: str) -> Format:
        """The named one, else the ad-hoc pattern, else the part's."""
        faults = self.place_faults(part, site)
        paused = {WRONG_STATE} if self.state.flags["paused"] else set()
        if name is not None:
            faults |= self.named_faults(name)
            self.judge(faults and faults | paused)
            return self.active(name)
        if pattern is None:
            assigned = self.format_for(part)
            faults = faults if assigned else {UNKNOWN}
            self.judge(faults and faults | paused)
            return assigned
        if parse(pattern) is None:
            self.judge(faults | {BAD_ARGUMENT} | paused)
        known = [f for f in self.state.formats.values() if f.is_ad_hoc and f.pattern == pattern]
        active = next((f for f in known if f.is_active), None)
        faults |= {WRONG_STATE} if known and not active else set()
        self.judge(faults and faults | paused)
        if active:
            return active
        made = Format(self.new_format_id(pattern), f"ad hoc: {pattern}", 1, pattern, is_ad_hoc=True)
        self.add_format(made, "FORMAT_CREATED")
        return made

    def new_format_id(self, pattern: str) -> int:
        """Told by the state machine with the rows; unknown where the call was refused."""
        return self.answer.rows[0].format_id if self.answer.code is None else -1

    def generate(
        self, part: str, quantity: int, name: str | None, pattern: str | None, site: str, context: dict,
        request: str | None,
    ) -> None:
        self.judge({BAD_ARGUMENT} if not 1 <= quantity <= 1_000_000 else set())
        question = (part, quantity, name, pattern, sorted(context.items()))
        key = (site, "generate", request)
        if key in self.state.requests:
            asked, given = self.state.requests[key]
            self.decide(set() if asked == question else {BAD_ARGUMENT})
            got = sorted(row.serial_id for row in self.answer.rows)
            assert got == given, f"the repeated request gives {got} instead of {given}"
            return
        made = self.resolve_format(part, name, pattern, site)
        rows = [(r.serial_id, r.serial_number, r.sequence_number, context) for r in self.answer.rows]
        given = self.issue(made, part, site, [context] * quantity, rows if self.answer.code is None else None)
        self.decide()
        if request is not None:
            self.state.requests[key] = (question, sorted(given))

    # Registering

    def register(
        self, numbers: list, part: str, site: str, scopes: list | None, source: str, on_conflict: str
    ) -> None:
        faults = self.place_faults(part, site)
        numbers = [trimmed(number) for number in numbers]
        if any(is_bad_number(number) for number in numbers) or source not in SOURCES or source == "SYSTEM_GENERATED":
            faults.add(BAD_ARGUMENT)
        if on_conflict not in ("RAISE", "RECORD"):
            faults.add(BAD_ARGUMENT)
        if scopes is not None and not (scopes and set(scopes) <= set(SCOPES)):
            faults.add(BAD_ARGUMENT)
        if self.state.flags["paused"]:
            faults.add(WRONG_STATE)
        self.judge(faults)
        known = self.state.parts[part]
        wanted = frozenset(scopes) if scopes else known.scopes
        fresh, duplicates = self.divide(numbers, wanted, site, known.part_type)
        self.decide({TAKEN} if duplicates and on_conflict == "RAISE" else set())
        ids = {row.serial_number: row.serial_id for row in self.answer.rows if not row.has_conflict}
        assert sorted(ids) == sorted(fresh), f"registered {sorted(ids)} instead of {sorted(fresh)}"
        told = sorted(row.serial_number for row in self.answer.rows if row.has_conflict)
        assert told == sorted(duplicates), f"conflicts {told} instead of {sorted(duplicates)}"
        for number, serial_id in ids.items():
            self.add(Serial(serial_id, number, part, known.part_type, site, source, wanted))
        for number in sorted(duplicates):
            self.record_conflict(number, part, site, wanted, source)

    def divide(self, numbers: list[str], scopes: frozenset, site: str, part_type: str) -> tuple[list, list]:
        """Those that are free, each once, and the others."""
        holders, fresh, duplicates = self.holders(), [], []
        for number in numbers:
            is_taken = number in fresh or self.claimants(number, scopes, site, part_type, holders)[0]
            (duplicates if is_taken else fresh).append(number)
        return fresh, duplicates

    def insert_serial(
        self, number: str, part: str, site: str, scopes: list | None, status: str, source: str, released: bool
    ) -> None:
        faults = self.place_faults(part, site)
        if is_bad_number(number) or (scopes is not None and not (scopes and set(scopes) <= set(SCOPES))):
            faults.add(BROKEN_CHECK)
        if released and status not in ("RETIRED", "INVALID"):
            faults.add(BROKEN_CHECK)
        if self.state.flags["paused"]:
            faults.add(WRONG_STATE)
        if part not in self.state.parts or BROKEN_CHECK in faults:
            self.judge(faults, {TAKEN})
        known = self.state.parts[part]
        wanted = frozenset(scopes) if scopes else known.scopes
        serial = Serial(0, number, part, known.part_type, site, source, wanted, status, released)
        self.decide(faults if self.is_free(serial) else faults | {TAKEN})
        serial = replace(serial, id=self.answer.rows[0].id)
        self.add(serial)
        if status == "CONFLICT":
            self.record_conflict(number, part, site, wanted, source, serial.id)

    def check_uniqueness(self, number: str, part: str, scopes: list | None, site: str) -> None:
        number = trimmed(number)
        self.decide(self.place_faults(part, site) | ({BAD_ARGUMENT} if is_bad_number(number) else set()))
        known = self.state.parts[part]
        holders, shared = self.claimants(
            number, frozenset(scopes) if scopes else known.scopes, site, known.part_type
        )
        told = self.answer.rows[0]
        assert told.has_conflict == bool(holders)
        assert (tuple(told.conflicting_serial_ids), frozenset(told.conflicting_scopes)) == (holders, shared)

    # The life of a serial

    def update_serial(self, serial_id: int, status: str, reason: str | None) -> None:
        """A direct update of status and status_reason."""
        serial = self.state.serials[serial_id]
        if status == serial.status:
            self.decide({WRONG_STATE} if reason != serial.reason else set())
            return
        self.step(serial, status, reason if reason != serial.reason else None)
        self.decide()

    def step(self, serial: Serial, status: str, reason: str | None, released: bool = False) -> None:
        """A serial becomes something else; with it go its receipt and its conflict."""
        receipt = self.state.receipts.get(serial.id)
        faults = set()
        if status != serial.status and status not in NEXT_STATUSES[serial.status]:
            faults.add(WRONG_STATE)
        needs_reason = status in ("CONFLICT", "REJECTED", "RETIRED", "INVALID") or serial.status == "CONFLICT"
        if needs_reason and reason is None:
            faults.add(BAD_ARGUMENT)
        if receipt and status == "ACTIVE" and receipt.is_broken and not receipt.is_waived:
            faults.add(WRONG_STATE)
        becomes = replace(serial, status=status, reason=reason, released=released or serial.released)
        if not self.is_free(becomes):
            faults.add(TAKEN)
        self.judge(faults)
        self.state.serials[serial.id] = becomes
        if status == serial.status:
            self.event("SERIAL_UPDATED")
        else:
            events = {"RETIRED": "SERIAL_RETIRED", "INVALID": "SERIAL_INVALIDATED"}
            if receipt and status in ("ACTIVE", "REJECTED"):
                accepted = "VENDOR_UPDATED" if receipt.was_accepted else "VENDOR_ACCEPTED"
                self.event("VENDOR_REJECTED" if status == "REJECTED" else accepted)
                was_accepted = receipt.was_accepted or status == "ACTIVE"
                self.state.receipts[serial.id] = replace(receipt, was_accepted=was_accepted)
            else:
                self.event(events.get(status, "SERIAL_UPDATED"))
            self.follow_conflict(serial, becomes)

    def follow_conflict(self, was: Serial, becomes: Serial) -> None:
        if becomes.status == "CONFLICT":
            self.record_conflict(was.number, was.part, was.site, was.scopes, was.source, was.id)
        if was.status != "CONFLICT":
            return
        is_kept = becomes.status in ("PENDING", "ACTIVE")
        resolution = "KEEP" if is_kept else "MARK_INVALID" if becomes.status == "INVALID" else "RETIRE"
        for key, conflict in list(self.state.conflicts.items()):
            if conflict.serial == was.id and conflict.status == "PENDING":
                self.settle(key, resolution, was.id if is_kept else None, () if is_kept else (was.id,))

    def settle(self, key: int, resolution: str, kept: int | None, losers: tuple) -> None:
        self.state.conflicts[key] = replace(
            self.state.conflicts[key], status="RESOLVED", resolution=resolution, kept=kept, losers=losers
        )
        self.event("CONFLICT_RESOLVED")

    def end(self, serial_id: int, status: str, reason: str | None) -> None:
        """retire_serial(), invalidate_serial()."""
        if serial_id not in self.state.serials:
            self.decide({ABSENT})
        serial = self.state.serials[serial_id]
        faults = {WRONG_STATE} if serial.status == status else set()
        self.judge(faults | ({BAD_ARGUMENT} if reason is None else set()))
        self.step(serial, status, reason)
        self.decide()

    def widen(self, serial_id: int, scopes: list) -> None:
        """A direct update of the scopes."""
        serial = self.state.serials[serial_id]
        becomes = replace(serial, scopes=frozenset(scopes))
        faults = set() if serial.scopes <= becomes.scopes else {WRONG_STATE}
        if not self.is_free(becomes):
            faults.add(TAKEN)
        self.decide(faults)
        self.state.serials[serial_id] = becomes
        self.event("SERIAL_UPDATED", serial.scopes != becomes.scopes)

    def note_lot(self, serial_id: int, lot: str | None) -> None:
        serial = self.state.serials[serial_id]
        self.decide()
        self.state.serials[serial_id] = replace(serial, lot=lot)
        self.event("SERIAL_UPDATED", serial.lot != lot)

    # Conflicts

    def with_number(self, number: str) -> list[Serial]:
        return [s for s in self.state.serials.values() if s.number == number]

    def parties(self, number: str, conflicts: list[Conflict]) -> set[int]:
        """Who was found then, and who wants the number in the same scopes now."""
        found = set()
        for conflict in conflicts:
            part_type = self.state.parts[conflict.part].part_type
            for serial in self.with_number(number):
                if serial.id in (conflict.serial, *conflict.with_serials) or self.shared(
                    serial, conflict.scopes, conflict.site, part_type
                ):
                    found.add(serial.id)
        return found

    def rivals(self, serial_id: int) -> set[int]:
        kept = self.state.serials[serial_id]
        return {
            s.id for s in self.with_number(kept.number)
            if s.id != kept.id and (s.holds or s.status == "CONFLICT")
            and self.shared(s, kept.scopes, kept.site, kept.part_type)
        }

    def resolve_conflict(
        self, number: str, part: str, resolution: str, keep: int | None, retire: int | None, reason: str | None
    ) -> None:
        faults = {BAD_ARGUMENT} if reason is None else set()
        self.judge(faults | (set() if part in self.state.parts else {UNKNOWN}))
        about = {k: c for k, c in self.state.conflicts.items() if (c.number, c.part) == (number, part)}
        pending = {k: c for k, c in about.items() if c.status == "PENDING"}
        if not pending:
            self.decide({WRONG_STATE} if about else {ABSENT})
        kept, losers = self.decision(number, list(pending.values()), resolution, keep, retire)
        for key in pending:
            self.settle(key, resolution, kept, tuple(sorted(losers)))
        for loser in sorted(losers):
            self.give_up(self.state.serials[loser], resolution, reason)
        if kept is not None and self.state.serials[kept].status == "CONFLICT":
            receipt = self.state.receipts.get(kept)
            waits = receipt is not None and not receipt.was_accepted
            self.step(self.state.serials[kept], "PENDING" if waits else "ACTIVE", reason)
        self.decide()

    def give_up(self, loser: Serial, resolution: str, reason: str) -> None:
        was_waiting = loser.status in ("PENDING", "CONFLICT")
        if resolution == "MARK_INVALID" or loser.status == "INVALID":
            status = "INVALID"
        else:
            status = "REJECTED" if resolution == "KEEP" and was_waiting else "RETIRED"
        self.step(loser, status, reason, released=resolution != "KEEP" or not was_waiting)

    def decision(
        self, number: str, pending: list[Conflict], resolution: str, keep: int | None, retire: int | None
    ) -> tuple[int | None, set[int]]:
        parties = self.parties(number, pending)
        claiming = {i for i in parties if self.state.serials[i].holds or self.state.serials[i].status == "CONFLICT"}
        self.judge({BAD_ARGUMENT} if {keep, retire} - {None} - parties else set())
        if (resolution == "KEEP" and keep is None) or (keep is not None and keep == retire):
            self.judge({BAD_ARGUMENT})
        self.judge({WRONG_STATE} if keep is not None and keep not in claiming else set())
        if resolution == "KEEP":
            losers = self.rivals(keep)
            self.judge({BAD_ARGUMENT} if retire is not None and retire not in losers else set())
        elif retire is not None:
            self.judge({WRONG_STATE} if retire not in claiming else set())
            losers = {retire}
        elif keep is not None:
            losers = self.rivals(keep)
        else:
            losers = {i for i in parties if self.state.serials[i].holds}
            self.judge({BAD_ARGUMENT} if len(losers) > 1 else set())
        ended = ("REJECTED", "RETIRED", "INVALID")
        left = {i for i in parties - losers if self.state.serials[i].status not in ended}
        kept = keep if keep is not None else min(left) if len(left) == 1 else None
        undecided = {c.serial for c in pending} & left - {kept}
        self.judge({BAD_ARGUMENT} if undecided else set())
        return kept, losers

    # Vendors

    def rule(self, vendor: str, part: str) -> Rule | None:
        return self.state.rules.get((vendor, part)) or self.state.rules.get((vendor, None))

    def set_vendor_rule(self, vendor: str, part: str | None, rule: Rule) -> None:
        faults = set() if part is None or part in self.state.parts else {UNKNOWN}
        if rule == Rule(None, None, None) or (rule.min_length or 0) > (rule.max_length or 255):
            faults.add(BAD_ARGUMENT)
        self.decide(faults)
        self.event("VENDOR_RULE_SET", self.state.rules.get((vendor, part)) != rule)
        self.state.rules[vendor, part] = rule

    def delete_vendor_rule(self, vendor: str, part: str | None) -> None:
        self.decide(set() if (vendor, part) in self.state.rules else {ABSENT})
        del self.state.rules[vendor, part]
        self.event("VENDOR_RULE_DELETED")

    def receive(self, vendor: str, part: str, site: str, numbers: list, one_by_one: bool) -> None:
        """receive_vendor_serial() with one number, or receive_vendor_serials()."""
        faults = self.place_faults(part, site)
        if self.state.flags["paused"]:
            faults.add(WRONG_STATE)
        numbers = [trimmed(number) for number in numbers]
        if one_by_one and is_bad_number(numbers[0]):
            faults.add(BAD_ARGUMENT)
        self.judge(faults)
        known = self.state.parts[part]
        good = [number for number in numbers if not is_bad_number(number)]
        fresh, duplicates = self.divide(good, known.scopes, site, known.part_type)
        self.decide({TAKEN} if one_by_one and duplicates else set())
        ids = {row.serial_number: row.id for row in self.answer.rows if row.id is not None}
        assert sorted(ids) == sorted(fresh), f"received {sorted(ids)} instead of {sorted(fresh)}"
        for number, serial_id in ids.items():
            self.add_receipt(serial_id, number, part, site, vendor, {})
        for number in duplicates:
            self.record_conflict(number, part, site, known.scopes, "VENDOR")

    def add_receipt(self, serial_id: int, number: str, part: str, site: str, vendor: str, context: dict) -> None:
        known = self.state.parts[part]
        rule = self.rule(vendor, part)
        self.add(Serial(
            serial_id, number, part, known.part_type, site, "VENDOR", known.scopes, "PENDING",
            work_order=text(context.get("work_order_id")), operation=text(context.get("operation_code")),
        ), is_received=True)
        self.state.receipts[serial_id] = Receipt(vendor, rule is not None and not rule.allows(number))

    def accept(self, serial_id: int, internal: int | None) -> None:
        if serial_id not in self.state.receipts:
            self.decide({ABSENT})
        serial, receipt = self.state.serials[serial_id], self.state.receipts[serial_id]
        faults = {WRONG_STATE} if serial.status != "PENDING" else set()
        if internal is not None:
            own = self.state.serials.get(internal)
            if own is None:
                faults.add(UNKNOWN)
            elif internal == serial_id or own.status in ("RETIRED", "INVALID", "REJECTED"):
                faults.add(WRONG_STATE)
            if any(r.internal == internal for i, r in self.state.receipts.items() if i != serial_id):
                faults.add(TAKEN)
        self.judge(faults | ({WRONG_STATE} if receipt.is_broken and not receipt.is_waived else set()))
        if internal is not None:
            self.event("VENDOR_UPDATED", receipt.was_accepted and receipt.internal != internal)
            self.state.receipts[serial_id] = replace(receipt, internal=internal)
        self.step(serial, "ACTIVE", None)
        self.decide()

    def reject(self, serial_id: int, reason: str | None) -> None:
        if serial_id not in self.state.receipts:
            self.decide({ABSENT})
        serial = self.state.serials[serial_id]
        self.judge(
            ({WRONG_STATE} if serial.status != "PENDING" else set()) | ({BAD_ARGUMENT} if reason is None else set())
        )
        self.step(serial, "REJECTED", reason)
        self.decide()

    def waive(self, serial_id: int, reason: str | None) -> None:
        if serial_id not in self.state.receipts:
            self.decide({ABSENT})
        receipt = self.state.receipts[serial_id]
        faults = {BAD_ARGUMENT} if reason is None and not receipt.is_waived else set()
        if self.state.serials[serial_id].status != "PENDING" or not receipt.is_broken or receipt.is_waived:
            faults.add(WRONG_STATE)
        self.decide(faults)
        self.state.receipts[serial_id] = replace(receipt, is_waived=True)
        self.event("VENDOR_WAIVED")

    # Placeholders

    def create_placeholders(self, part: str, quantity: int, site: str, context: dict) -> None:
        faults = self.place_faults(part, site)
        self.decide(faults | (set() if 1 <= quantity <= 1_000_000 else {BAD_ARGUMENT}))
        self.add_placeholders([row.id for row in self.answer.rows], part, site, quantity, context)

    def add_placeholders(self, ids: list[int], part: str, site: str, quantity: int, context: dict) -> None:
        assert len(ids) == quantity, f"{len(ids)} placeholders instead of {quantity}"
        for one in ids:
            self.state.placeholders[one] = Placeholder(one, part, site, context)
        self.event("PLACEHOLDER_CREATED", quantity)

    def assign_placeholders(self, ids: list[int], numbers: list | None, operation: str | None) -> None:
        if not set(ids) <= self.state.placeholders.keys():
            self.decide({ABSENT})
        units = [self.state.placeholders[one] for one in ids]
        faults = {BAD_ARGUMENT} if len(set(ids)) < len(ids) else set()
        numbers = None if numbers is None else [trimmed(number) for number in numbers]
        if any(unit.status != "PENDING" for unit in units):
            faults.add(WRONG_STATE)
        if numbers is not None and (len(numbers) != len(ids) or any(map(is_bad_number, numbers))):
            faults.add(BAD_ARGUMENT)
        self.judge(faults)
        given = {row.id: row for row in self.answer.rows}
        assert self.answer.code or list(given) == ids, f"answered for {list(given)} instead of {ids}"
        if numbers is None:
            self.generate_for(units, operation, given)
        else:
            self.register_for(units, numbers, operation, given)
        self.decide()
        for unit in units:
            self.serialize(unit, given[unit.id].serial_id)

    def serialize(self, unit: Placeholder, serial_id: int) -> None:
        self.state.placeholders[unit.id] = replace(unit, status="SERIALIZED", serial=serial_id)
        self.event("PLACEHOLDER_SERIALIZED")

    @staticmethod
    def unit_context(unit: Placeholder, operation: str | None) -> dict:
        return unit.context | ({"operation_code": operation} if operation else {})

    def generate_for(self, units: list[Placeholder], operation: str | None, given: dict) -> None:
        made = {unit.id: self.format_for(unit.part) for unit in units}
        if not all(made.values()):
            # Those of other parts come first, or later.
            self.judge({UNKNOWN} | ({WRONG_STATE} if self.state.flags["paused"] else set()), {EXHAUSTED, BAD_ARGUMENT})
        units = sorted(units, key=lambda u: (made[u.id].id, u.part, u.site))
        for (part, site), group in itertools.groupby(units, key=lambda u: (u.part, u.site)):
            alike = list(group)
            contexts = [self.unit_context(unit, operation) for unit in alike]
            rows = None
            if given:
                rows = [
                    (g.serial_id, g.serial_number, g.sequence_number, c)
                    for g, c in zip([given[unit.id] for unit in alike], contexts, strict=True)
                ]
            self.issue(made[alike[0].id], part, site, contexts, rows)

    def register_for(self, units: list[Placeholder], numbers: list, operation: str | None, given: dict) -> None:
        faults = {WRONG_STATE} if self.state.flags["paused"] else set()
        serials = []
        for position, (unit, number) in enumerate(zip(units, numbers, strict=True)):
            known, context = self.state.parts[unit.part], self.unit_context(unit, operation)
            serials.append(Serial(
                given[unit.id].serial_id if given else -1 - position, number, unit.part, known.part_type, unit.site,
                "LATE_ASSIGNMENT", known.scopes, work_order=text(context.get("work_order_id")),
                operation=text(context.get("operation_code")),
            ))
        claims, holders = self.claims(), self.holders()
        for serial in serials:
            if self.claimants(serial.number, serial.scopes, serial.site, serial.part_type, holders)[0]:
                faults.add(TAKEN)
            # In one call only the indexes see the others.
            if any(claims.setdefault(key, serial.id) != serial.id for key in self.keys_of(serial)):
                faults.add(TAKEN)
        self.judge(faults)
        for serial in serials:
            self.add(serial)

    def give_serial(self, placeholder_id: int, serial_id: int) -> None:
        """A direct update of serial_id: a serial that is on record already."""
        unit, serial = self.state.placeholders[placeholder_id], self.state.serials.get(serial_id)
        if unit.status != "PENDING":
            self.decide({WRONG_STATE} if unit.serial != serial_id else set())
            return
        if serial is None:
            self.decide({UNKNOWN})
        faults = {BAD_ARGUMENT} if serial.part != unit.part else set()
        if any(p.serial == serial_id for p in self.state.placeholders.values()):
            faults.add(TAKEN)
        if serial.status not in ("PENDING", "ACTIVE"):
            faults.add(WRONG_STATE)
        self.decide(faults)
        self.serialize(unit, serial_id)

    def fail_placeholder(self, placeholder_id: int, reason: str | None) -> None:
        faults = {BAD_ARGUMENT} if reason is None else set()
        unit = self.state.placeholders.get(placeholder_id)
        if unit is None:
            self.decide(faults | {ABSENT})
        self.decide(faults | ({WRONG_STATE} if unit.status != "PENDING" else set()))
        self.state.placeholders[placeholder_id] = replace(unit, status="FAILED")
        self.event("PLACEHOLDER_FAILED")

    # Lineage

    def propagate(self, kind: str, sources: list[int], targets: list[int] | None, routing: int) -> None:
        given = sources + (targets or [])
        faults = {BAD_ARGUMENT} if routing < 0 or not sources or targets == [] else set()
        self.judge(faults | ({BAD_ARGUMENT} if len(set(given)) < len(given) else set()))
        self.judge(set() if set(given) <= self.state.serials.keys() else {ABSENT})
        if any(self.state.serials[one].status not in ("PENDING", "ACTIVE") for one in given):
            faults.add(WRONG_STATE)
        if any(source in self.reachable(target) for source in sources for target in targets or []):
            faults.add(BAD_ARGUMENT)
        self.decide(faults)
        self.state.edges.update((kind, source, target) for source in sources for target in targets or [None])
        events = {"PASS_THROUGH": "PROPAGATED", "SPLIT": "SPLIT", "MERGE": "MERGED", "TRANSFORM": "TRANSFORMED"}
        self.event(events[kind], len(given))

    def neighbours(self, upward: bool) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {}
        for _, parent, child in self.state.edges:
            if child is not None:
                start, end = (child, parent) if upward else (parent, child)
                found.setdefault(start, set()).add(end)
        return found

    def reachable(self, serial_id: int, upward: bool = False, depth: int = 10**6) -> dict[int, int]:
        """Every serial that comes of this one, with its least depth; this one is at 0."""
        neighbours = self.neighbours(upward)
        found, level = {serial_id: 0}, {serial_id}
        for distance in range(1, depth + 1):
            level = {n for one in level for n in neighbours.get(one, ())} - found.keys()
            if not level:
                break
            found.update(dict.fromkeys(level, distance))
        return found

    def lineage(self, serial_id: int, depth: int | None) -> None:
        if serial_id not in self.state.serials:
            self.decide({ABSENT})
        depth = int(self.state.settings["propagation_depth_limit"]) if depth is None else depth
        self.decide({BAD_ARGUMENT} if depth < 0 else set())
        expected = {("SELF", 0, serial_id)}
        for direction in ("ANCESTOR", "DESCENDANT"):
            reached = self.reachable(serial_id, direction == "ANCESTOR", depth)
            expected |= {(direction, away, one) for one, away in reached.items() if away}
        told = [(row.direction, row.depth, row.serial_id) for row in self.answer.rows]
        assert sorted(told) == sorted(expected), f"lineage {told} instead of {expected}"

    # Triggers

    def create_trigger(
        self, part: str, event: str, makes: str, name: str | None, operation: str | None, conditions: dict, batch: int
    ) -> None:
        faults = self.named_faults(name) if name is not None else set()
        if part not in self.state.parts:
            faults.add(UNKNOWN)
        self.decide(faults | (set() if batch >= 1 else {BAD_ARGUMENT}))
        one = self.answer.rows[0].id
        self.state.triggers[one] = Trigger(one, part, event, makes, name, operation, conditions, batch)
        self.event("TRIGGER_CREATED")

    def change_trigger(self, trigger_id: int, event: str, **changes: object) -> None:
        """enable, disable, and update of the batch size."""
        if trigger_id not in self.state.triggers:
            self.decide({ABSENT})
        self.decide({BAD_ARGUMENT} if changes.get("batch", 1) < 1 else set())
        known = self.state.triggers[trigger_id]
        self.state.triggers[trigger_id] = replace(known, **changes)
        self.event(event, known != self.state.triggers[trigger_id])

    def delete_trigger(self, trigger_id: int) -> None:
        self.decide(set() if trigger_id in self.state.triggers else {ABSENT})
        del self.state.triggers[trigger_id]
        self.event("TRIGGER_DELETED")

    def fire(self, event: str, part: str, context: dict, quantity: int) -> None:
        faults = set() if part in self.state.parts else {UNKNOWN}
        self.judge(faults | (set() if quantity >= 1 else {BAD_ARGUMENT}))
        for trigger in self.triggers_of(part, event):
            if trigger.answers(context):
                rows = [row for row in self.answer.rows if row.trigger_id == trigger.id]
                units = self.make(trigger, context.get("site_id"), [(context, quantity)], rows)
                self.count(trigger, 1, units)
        self.decide()
        made = sum(self.state.triggers[t].units - before for t, before in self.units_before.items())
        assert len(self.answer.rows) == made, f"{len(self.answer.rows)} rows instead of {made}"

    def triggers_of(self, part: str, event: str) -> list[Trigger]:
        found = [t for t in self.state.triggers.values() if (t.part, t.event) == (part, event)]
        self.units_before = {t.id: t.units for t in found}
        return sorted(found, key=lambda t: t.id)

    def count(self, trigger: Trigger, executions: int, units: int) -> None:
        self.state.triggers[trigger.id] = replace(
            trigger, executions=trigger.executions + executions, units=trigger.units + units
        )

    def make(self, trigger: Trigger, site: str | None, events: list[tuple[dict, int]], rows: list) -> int:
        """What a trigger makes of events at one site; returns how many units. rows: what the database made."""
        site = site or "DEFAULT"
        if trigger.makes == "VENDOR":
            return self.make_receipts(trigger, site, events, rows)
        self.judge(self.place_faults(trigger.part, site), {UNKNOWN} if trigger.makes != "LATE_ASSIGNMENT" else set())
        contexts = [context for context, quantity in events for _ in range(quantity * trigger.batch)]
        if trigger.makes == "LATE_ASSIGNMENT":
            ids = [row.placeholder_id for row in rows] or [-1 - i for i in range(len(contexts))]
            assert self.answer.code or len(ids) == len(contexts), f"{len(ids)} placeholders of {len(contexts)}"
            for one, context in zip(sorted(ids), contexts, strict=False):
                self.add_placeholders([one], trigger.part, site, 1, context)
            return len(contexts)
        made = self.resolve_format(trigger.part, trigger.format, None, site)
        issued = [(r.serial_id, r.serial_number, r.sequence_number, self.context_of(r, events)) for r in rows]
        self.issue(made, trigger.part, site, contexts, issued if self.answer.code is None else None)
        return len(contexts)

    @staticmethod
    def context_of(row: object, events: list[tuple[dict, int]]) -> dict:
        """Of several events, rows of a table, the serial's work order tells which it came of."""
        return next((c for c, _ in events if text(c.get("work_order_id")) == row.work_order_id), events[0][0])

    def make_receipts(self, trigger: Trigger, site: str, events: list, rows: list) -> int:
        (context, _), = events
        faults = self.place_faults(trigger.part, site)
        if not context.get("vendor_name") or not context.get("serial_number"):
            faults.add(BAD_ARGUMENT)
        if self.state.flags["paused"]:
            faults.add(WRONG_STATE)
        self.judge(faults)
        known, number = self.state.parts[trigger.part], context["serial_number"]
        self.judge({TAKEN} if self.divide([number], known.scopes, site, known.part_type)[1] else set())
        serial_id = rows[0].serial_id if rows else -1
        self.add_receipt(serial_id, number, trigger.part, site, context["vendor_name"], context)
        return 1

    def attach(self, event: str) -> None:
        self.decide({WRONG_STATE} if event in self.state.attached else set())
        self.state.attached[event] = True
        self.event("TRIGGER_ATTACHED")

    def detach(self, event: str) -> None:
        self.decide(set() if event in self.state.attached else {ABSENT})
        del self.state.attached[event]
        self.event("TRIGGER_DETACHED")

    def insert_orders(self, orders: list) -> None:
        """Rows of an attached table: (id, part, quantity, site). The answer has what machserial made of them."""
        made = 0
        for event in sorted(self.state.attached):
            for part in sorted({order.part for order in orders}):
                made += self.order_part(event, part, [order for order in orders if order.part == part])
        self.decide()
        assert len(self.answer.rows) == made, f"{len(self.answer.rows)} units instead of {made}"

    def order_part(self, event: str, part: str, orders: list) -> int:
        triggers = [t for t in self.triggers_of(part, event) if t.enabled]
        if triggers and any(order.quantity < 0 for order in orders):
            self.judge({BAD_ARGUMENT})
        made = 0
        for trigger in triggers:
            contexts = [(self.order_context(event, order), order.quantity) for order in orders if order.quantity]
            matching = [(c, q) for c, q in contexts if trigger.answers(c)]
            units = 0
            for site in sorted({c.get("site_id") for c, _ in matching}, key=lambda s: (s is None, s)):
                here = [(c, q) for c, q in matching if c.get("site_id") == site]
                rows = [
                    row for row in self.answer.rows
                    if (row.part_id, row.site_id) == (part, site or "DEFAULT")
                    and (row.placeholder_id is not None) == (trigger.makes == "LATE_ASSIGNMENT")
                ]
                units += self.make(trigger, site, here, rows)
            if matching:
                self.count(trigger, len(matching), units)
            made += units
        return made

    @staticmethod
    def order_context(event: str, order: object) -> dict:
        context = {"id": order.id} | ({"site_id": order.plant} if order.plant else {})
        return context | ({"work_order_id": order.id} if event == "WORK_ORDER_CREATE" else {})

    # Blocks

    def only_part_of(self, name: str) -> str | None:
        parts = {
            a.part for a in self.state.assignments.values()
            if a.part and a.since <= self.now and self.state.formats[a.format].name == name
        }
        return min(parts) if len(parts) == 1 else None

    def allocate_block(
        self, name: str, quantity: int, holder: str, part: str | None, site: str, request: str | None,
        expires: datetime | None,
    ) -> None:
        self.judge({BAD_ARGUMENT} if not 1 <= quantity <= 1_000_000 else set())
        question = (name, quantity, holder, part)
        key = (site, "allocate_block", request)
        if key in self.state.requests:
            asked, given = self.state.requests[key]
            self.decide(set() if asked == question else {BAD_ARGUMENT})
            assert self.answer.rows[0].block_id == given, "the repeated request gives another block"
            return
        faults = {WRONG_STATE} if self.state.flags["paused"] else set()
        faults |= self.named_faults(name) | (set() if site in self.state.sites else {UNKNOWN})
        self.judge(faults | ({BAD_ARGUMENT} if expires and expires <= self.now else set()))
        made = self.active(name)
        part = part or self.only_part_of(name)
        if part is not None and part not in self.state.parts:
            faults.add(UNKNOWN)
        if not self.is_predictable(made, part):
            faults.add(BAD_ARGUMENT)
        self.judge(faults)
        block = self.take_run(made, quantity, part, site, expires)
        self.decide()
        row = self.answer.rows[0]
        block = replace(block, id=row.block_id)
        told = (row.first_value, row.last_value, frozenset(row.skipped_values), row.status)
        assert told == (block.first, block.last, block.skipped, "OPEN"), f"{told} instead of {block}"
        self.state.blocks[block.id] = block
        self.event("BLOCK_ALLOCATED")
        if request is not None:
            self.state.requests[key] = (question, block.id)

    @staticmethod
    def is_predictable(made: Format, part: str | None) -> bool:
        needs_part = "PART" in made.names or made.counter_per in ("PART", "SITE_PART")
        is_plain = made.highest is not None and not made.needs and "RANDOM" not in made.names
        return is_plain and (part is not None or not needs_part)

    def take_run(self, made: Format, quantity: int, part: str | None, site: str, expires: datetime | None) -> Block:
        """The next free numbers; what is taken between them is skipped."""
        known = self.state.parts.get(part)
        scopes = known.scopes if known else frozenset(SCOPES[:2])
        free = list(itertools.islice(
            self.free_values(made, part, site, scopes, known.part_type if known else "", {}), quantity
        ))
        self.judge({EXHAUSTED} if len(free) < quantity else set())
        values = [value for value, _ in free]
        run = range(values[0], values[-1] + 1, made.step)
        self.move(self.counter(made, part, site, self.local(site)), values[-1])
        return Block(
            0, made.id, values[0], values[-1], frozenset(run) - set(values), quantity, part, site, self.local(site),
            expires,
        )

    def block_numbers(self, block: Block) -> dict[str, int]:
        made = self.state.formats[block.format]
        values = [v for v in range(block.first, block.last + 1, made.step) if v not in block.skipped]
        return {made.numbers(v, block.at, block.site, block.part, {})[0]: v for v in values}

    def report_block(self, block_id: int, used: list[str], part: str | None) -> None:
        if block_id not in self.state.blocks:
            self.decide({ABSENT})
        block = self.state.blocks[block_id]
        values = self.block_numbers(block)
        numbers = list(dict.fromkeys(used))
        self.judge(set() if set(numbers) <= values.keys() else {BAD_ARGUMENT})
        fresh = [n for n in numbers if (block_id, values[n]) not in self.state.usages]
        reopened = [n for n in numbers if n not in fresh and self.is_settled(block_id, values[n])]
        faults = {WRONG_STATE} if fresh and block.status != "OPEN" else set()
        if fresh or reopened:
            wanted = block.part or part or self.only_part_of(self.state.formats[block.format].name)
            if wanted is None or (part is not None and part != wanted):
                faults.add(BAD_ARGUMENT)
            elif wanted not in self.state.parts:
                faults.add(UNKNOWN)
            if self.state.flags["paused"]:
                faults.add(WRONG_STATE)
            self.judge(faults)
            self.use_numbers(block, wanted, {n: values[n] for n in sorted(fresh + reopened)}, fresh)
        self.decide(faults)
        for row in self.answer.rows:
            usage = self.state.usages[block_id, values[row.serial_number]]
            expected = usage if isinstance(usage, int) else None
            assert (row.serial_id, row.has_conflict) == (expected, expected is None), f"{row} is not {usage}"
        assert [row.serial_number for row in self.answer.rows] == numbers

    def is_settled(self, block_id: int, value: int) -> bool:
        usage = self.state.usages[block_id, value]
        return isinstance(usage, tuple) and self.state.conflicts[usage[0]].status != "PENDING"

    def use_numbers(self, block: Block, part: str, values: dict[str, int], fresh: list[str]) -> None:
        self.judge(set())
        known, ids = self.state.parts[part], {row.serial_number: row.serial_id for row in self.answer.rows}
        free, _ = self.divide(list(values), known.scopes, block.site, known.part_type)
        for number in free:
            self.add(Serial(
                ids.get(number, -1), number, part, known.part_type, block.site, "SYSTEM_GENERATED", known.scopes,
                format=block.format, sequence=values[number],
            ))
            self.state.usages[block.id, values[number]] = ids.get(number, -1)
        for number in sorted(fresh, key=values.get):
            if number not in free:
                key = self.record_conflict(number, part, block.site, known.scopes, "SYSTEM_GENERATED")
                self.state.usages[block.id, values[number]] = (key,)
        self.event("BLOCK_REPORTED", bool(fresh) + bool(set(free) - set(fresh)))
        used = sum(1 for one, _ in self.state.usages if one == block.id)
        if used == block.quantity and block.status == "OPEN":
            self.close_block(block, "USED")

    def close_block(self, block: Block, status: str) -> None:
        self.state.blocks[block.id] = replace(block, status=status)
        self.event(f"BLOCK_{status}")

    def return_block(self, block_id: int) -> None:
        block = self.state.blocks.get(block_id)
        if block is None:
            self.decide({ABSENT})
        self.decide({WRONG_STATE} if block.status != "OPEN" else set())
        self.close_block(block, "RETURNED")

    def block_serials(self, block_id: int) -> None:
        if block_id not in self.state.blocks:
            self.decide({ABSENT})
        self.decide()
        told, expected = [row[0] for row in self.answer.rows], list(self.block_numbers(self.state.blocks[block_id]))
        assert told == expected, f"{told} instead of {expected}"

    # Operations

    def pause(self, reason: str | None) -> None:
        faults = {BAD_ARGUMENT} if reason is None else set()
        self.decide(faults | ({WRONG_STATE} if self.state.flags["paused"] else set()))
        self.state.flags["paused"] = True
        self.event("PAUSED")

    def resume(self) -> None:
        self.decide(set() if self.state.flags["paused"] else {WRONG_STATE})
        self.state.flags["paused"] = False
        self.event("RESUMED")

    def change_setting(self, name: str, value: str) -> None:
        highest = {"propagation_depth_limit": 1_000_000, "batch_size": 100_000}[name]
        is_good = re.fullmatch("[0-9]{1,18}", value) and 1 <= int(value) <= highest
        self.decide(set() if is_good else {BAD_ARGUMENT})
        self.event("SETTING_CHANGED", self.state.settings[name] != value)
        self.state.settings[name] = value

    def seal(self, sealed: int, committed_events: int) -> None:
        """Everything of transactions that have ended is sealed, once."""
        self.decide()
        expected = committed_events - self.state.flags["sealed"]
        assert sealed == expected, f"{sealed} events sealed instead of {expected}"
        self.state.flags["sealed"] = committed_events

    def maintain(self, sealed: int, committed_events: int) -> None:
        self.seal(sealed, committed_events)
        for block in list(self.state.blocks.values()):
            if block.status == "OPEN" and block.expires and block.expires <= self.now:
                self.close_block(block, "EXPIRED")


def text(value: object) -> str | None:
    return None if value is None else str(value)


def trimmed(number: str | None) -> str | None:
    """As functions take a number from people."""
    return number and number.strip(" \t\n\r")


def is_bad_number(number: str | None) -> bool:
    return not number or len(number) > 255 or not re.fullmatch("[!-~]+( [!-~]+)*", number)
