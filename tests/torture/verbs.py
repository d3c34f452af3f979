"""What writers do: every verb that changes something, and what must be true if its transaction is committed.

A writer changes only what it has made itself, so that it knows how each thing has to be found later. What it shares
with all others are the counters, the unique indexes, and the audit trail.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg
from support import call

from torture.plant import AD_HOC, PARTS, SITES, WORK_ORDER_TRIGGER

# Of each kind of thing a writer remembers so many to go on working with.
REMEMBERED = 60
# Numbers that all writers want, and one gets.
SHARED_NUMBERS = 2_000
# Whether a serial is a vendor's.
OWN, VENDOR = "own", "vendor"


class Things:
    """What a writer knows of its own things: kind → key → value."""

    def __init__(self) -> None:
        self.kinds: dict[str, dict] = defaultdict(dict)

    def learn(self, facts: list[list]) -> None:
        for kind, key, value in facts:
            things = self.kinds[kind]
            things.pop(key, None)
            things[key] = value
            if len(things) > REMEMBERED:
                del things[next(iter(things))]


@dataclass
class Work:
    """One transaction: with what it works, and what it has been told."""

    session: psycopg.Connection
    dice: random.Random
    token: str
    things: Things
    facts: list[list] = field(default_factory=list)
    requests: list[list] = field(default_factory=list)
    made: int = 0

    def call(self, function: str, **arguments: object) -> list:
        return call(self.session, function, **arguments)

    def learn(self, kind: str, key: object, *value: object) -> None:
        self.facts.append([kind, key, list(value)])

    def of(self, kind: str) -> dict:
        """All things of a kind as they are in this transaction."""
        now = dict(self.things.kinds[kind])
        now.update((key, value) for of_kind, key, value in self.facts if of_kind == kind)
        return now

    def some(self, kind: str, least: int, most: int, *status: str, origin: str | None = None) -> list:
        """Keys of things of that kind and status (serials: of that origin); none if there are not enough."""
        keys = [
            key for key, value in self.of(kind).items() if value[0] in status and origin in (None, value[-1])
        ]
        if len(keys) < least:
            return []
        return self.dice.sample(keys, self.dice.randint(least, min(most, len(keys))))

    def number(self) -> str:
        """One that nobody else uses."""
        self.made += 1
        return f"N-{self.token}-{self.made}"

    def request_id(self) -> str:
        self.made += 1
        return f"request {self.token}-{self.made}"

    def new_serial(
        self, serial_id: int, number: str, part: str, site: str = "DEFAULT", status: str = "ACTIVE", origin: str = OWN
    ) -> None:
        self.learn("serial", serial_id, status, number, part, site, False, origin)

    def change_serial(self, serial_id: int, status: str, released: bool = False) -> None:
        _, number, part, site, _, origin = self.of("serial")[serial_id]
        self.learn("serial", serial_id, status, number, part, site, released, origin)


def ask_for_serials(work: Work, arguments: dict, is_new: bool = True) -> None:
    """generate(); not is_new: it was answered before, so nothing comes of it but the same answer."""
    rows = work.call("generate", **arguments)
    site = arguments.get("site_id") or "DEFAULT"
    if "request_id" in arguments:
        work.requests.append(["generate", arguments])
        work.learn("request", arguments["request_id"], *(row.serial_id for row in rows))
    for row in rows if is_new else []:
        work.new_serial(row.serial_id, row.serial_number, arguments["part_id"], site)


def ask_for_block(work: Work, arguments: dict, is_new: bool = True) -> None:
    block = work.call("allocate_block", **arguments)[0]
    work.requests.append(["allocate_block", arguments])
    work.learn("request", arguments["request_id"], block.block_id)
    if is_new:
        work.learn("block", block.block_id, block.status, block.first_value, block.last_value, block.quantity, [])


REPEATABLE = {"generate": ask_for_serials, "allocate_block": ask_for_block}


def generate(work: Work) -> None:
    how = work.dice.choice(
        [
            {},
            {"format": "SEQUENCE"},
            {"format": "GAPLESS"},
            {"format": "DAILY", "site_id": work.dice.choice(SITES)},
            {"format": "RANDOM"},
            {"format": "JUMPING"},
            {"format": "BLOCKS"},
            {"pattern": AD_HOC},
        ]
    )
    if work.dice.random() < 0.5:
        how["request_id"] = work.request_id()
    quantity = work.dice.choice([1, 1, 1, 2, 7, 40])
    ask_for_serials(work, {"part_id": work.dice.choice(list(PARTS)), "quantity": quantity, **how})


def generate_gapless(work: Work) -> None:
    ask_for_serials(work, {"part_id": "PUMP", "quantity": work.dice.choice([1, 1, 3]), "format": "GAPLESS"})


def register(work: Work) -> None:
    part, site = work.dice.choice(list(PARTS)), work.dice.choice(SITES)
    numbers = [work.number() for _ in range(work.dice.choice([1, 1, 5]))]
    for row in work.call("register_serials", serial_numbers=numbers, part_id=part, site_id=site):
        work.new_serial(row.serial_id, row.serial_number, part, site)


def register_what_all_want(work: Work) -> None:
    """23505 for everybody but one."""
    number = f"SHARED-{work.dice.randrange(SHARED_NUMBERS)}"
    row = work.call("register_serial", serial_number=number, part_id="VALVE")[0]
    work.new_serial(row.serial_id, number, "VALVE")


def look_before_registering(work: Work) -> None:
    """Registers what is free according to an answer that is 50 ms old, as one out of a cache would be."""
    number = f"FREE-{int(time.time() / 0.3)}"
    if not work.call("check_uniqueness", serial_number=number, part_id="CHIP")[0].has_conflict:
        time.sleep(0.05)
        row = work.call("register_serial", serial_number=number, part_id="CHIP")[0]
        work.new_serial(row.serial_id, number, "CHIP")


def insert_directly(work: Work) -> None:
    """As an application that knows the table and no function."""
    number = work.number()
    row = work.session.execute(
        "insert into machserial.serials (serial_number, part_id) values (%s, 'LABEL') returning id", (number,)
    ).fetchone()
    work.new_serial(row[0], number, "LABEL")


def bring_in_a_duplicate(work: Work) -> None:
    for serial_id in work.some("serial", 1, 1, "ACTIVE", origin=OWN):
        _, number, part, site, *_ = work.of("serial")[serial_id]
        row = work.call("register_serial", serial_number=number, part_id=part, site_id=site, on_conflict="RECORD")[0]
        work.learn("conflict", row.conflict_id, "PENDING", number, serial_id)


def resolve(work: Work) -> None:
    for conflict_id in work.some("conflict", 1, 1, "PENDING"):
        _, number, serial_id = work.of("conflict")[conflict_id]
        serial = work.of("serial").get(serial_id)
        if serial is None or serial[0] != "ACTIVE":
            return
        resolution = work.dice.choice(["KEEP", "RETIRE", "MARK_INVALID"])
        named = "keep_serial_id" if resolution == "KEEP" else "retired_serial_id"
        given = {"serial_number": number, "part_id": serial[2], "resolution": resolution, named: serial_id}
        for row in work.call("resolve_conflict", reason="decided", **given):
            work.learn("conflict", row.conflict_id, "RESOLVED", number, serial_id)
        if resolution != "KEEP":
            work.change_serial(serial_id, "RETIRED" if resolution == "RETIRE" else "INVALID", released=True)
            again = work.call("register_serial", serial_number=number, part_id=serial[2], site_id=serial[3])[0]
            work.new_serial(again.serial_id, number, serial[2], serial[3])


def retire(work: Work) -> None:
    for serial_id in work.some("serial", 1, 2, "ACTIVE"):
        status, function = work.dice.choice([("RETIRED", "retire_serial"), ("INVALID", "invalidate_serial")])
        work.call(function, serial_id=serial_id, reason="worn out")
        work.change_serial(serial_id, status)


def receive(work: Work) -> None:
    numbers = [work.number() for _ in range(work.dice.choice([1, 4]))]
    if len(numbers) == 1:
        row = work.call("receive_vendor_serial", serial_number=numbers[0], vendor_name="ACME", part_id="CHIP")[0]
        received = [(row.id, numbers[0])]
    else:
        rows = work.call("receive_vendor_serials", vendor_name="ACME", part_id="CHIP", serial_numbers=numbers)
        received = [(row.vendor_serial_id, row.serial_number) for row in rows]
    for vendor_serial_id, number in received:
        work.new_serial(vendor_serial_id, number, "CHIP", status="PENDING", origin=VENDOR)


def inspect(work: Work) -> None:
    """Accepts or rejects what came in; what was rejected is sent again."""
    for serial_id in work.some("serial", 1, 3, "PENDING", origin=VENDOR):
        _, number, part, *_ = work.of("serial")[serial_id]
        if work.dice.random() < 0.6:
            work.call("accept_vendor_serial", vendor_serial_id=serial_id)
            work.change_serial(serial_id, "ACTIVE")
            continue
        work.call("reject_vendor_serial", vendor_serial_id=serial_id, reason="scratched")
        work.change_serial(serial_id, "REJECTED")
        row = work.call("receive_vendor_serial", serial_number=number, vendor_name="ACME", part_id=part)[0]
        work.new_serial(row.id, number, part, status="PENDING", origin=VENDOR)


def start_units(work: Work) -> None:
    for row in work.call("create_placeholders", part_id="PUMP", quantity=work.dice.randint(1, 5), work_order_id="W"):
        work.learn("placeholder", row.id, "PENDING", None)


def finish_units(work: Work) -> None:
    units = sorted(work.some("placeholder", 1, 4, "PENDING"))
    if not units:
        return
    if work.dice.random() < 0.2:
        for unit in units:
            work.call("fail_placeholder", placeholder_id=unit, reason="scrapped")
            work.learn("placeholder", unit, "FAILED", None)
        return
    numbers = [work.number() for _ in units] if work.dice.random() < 0.5 else None
    for row in work.call("assign_placeholders", placeholder_ids=units, serial_numbers=numbers):
        work.new_serial(row.serial_id, row.serial_number, row.part_id, row.site_id)
        work.learn("placeholder", row.id, "SERIALIZED", row.serial_id)


def hand_down(work: Work) -> None:
    serials = work.some("serial", 3, 5, "ACTIVE", "PENDING")
    if not serials:
        return
    one, *others = serials
    place = {"operation_code": "OP-10", "routing_sequence": 1}
    verb = work.dice.choice(["pass_through", "split", "merge", "transform"])
    if verb == "pass_through":
        rows = work.call(verb, serial_id=one, **place)
    elif verb == "split":
        rows = work.call(verb, source_serial_id=one, target_serial_ids=others, **place)
    elif verb == "merge":
        rows = work.call(verb, source_serial_ids=others, target_serial_id=one, **place)
    else:
        rows = work.call(verb, source_serial_id=one, target_serial_id=others[0], **place)
    for row in rows:
        work.learn("edge", row.id, row.propagation_type, row.parent_serial_id, row.child_serial_id)


def fire(work: Work) -> None:
    event = work.dice.choice(["WORK_ORDER_CREATE", "MATERIAL_RECEIPT", "OPERATION_COMPLETE"])
    context = {"vendor_name": "ACME", "serial_number": work.number()} if event == "MATERIAL_RECEIPT" else {}
    quantity = 1 if context else work.dice.randint(1, 3)
    rows = work.call("fire", trigger_type=event, part_id="PUMP", context=context, quantity=quantity)
    for row in rows:
        if row.placeholder_id is not None:
            work.learn("placeholder", row.placeholder_id, "PENDING", None)
        elif context:
            work.new_serial(row.serial_id, row.serial_number, "PUMP", status="PENDING", origin=VENDOR)
        else:
            work.new_serial(row.serial_id, row.serial_number, "PUMP")
    work.made += 1
    work.learn("fired", f"{work.token}-{work.made}", rows[0].trigger_id, quantity)


def order(work: Work) -> None:
    """An application's insert, which fires by the table's own trigger."""
    quantity = work.dice.randint(1, 4)
    made = work.session.execute(
        "insert into shop.orders (part, quantity) values ('PUMP', %s) returning id", (quantity,)
    ).fetchone()[0]
    serials = work.session.execute(
        "select s.id, s.serial_number from shop.orders as o cross join unnest(o.numbers) as n (serial_number) "
        "inner join machserial.serials as s on s.serial_number = n.serial_number and s.part_id = o.part "
        "where o.id = %s",
        (made,),
    ).fetchall()
    for serial_id, number in serials:
        work.new_serial(serial_id, number, "PUMP")
    work.learn("order", made, sorted(number for _, number in serials))
    work.made += 1
    work.learn("fired", f"{work.token}-{work.made}", WORK_ORDER_TRIGGER, quantity)


def take_block(work: Work) -> None:
    given = {"format": "BLOCKS", "quantity": work.dice.randint(1, 20), "holder": "LINE 1", "part_id": "VALVE"}
    ask_for_block(work, {**given, "request_id": work.request_id()})


def use_block(work: Work) -> None:
    for block_id in work.some("block", 1, 1, "OPEN"):
        _, *run, used_before = work.of("block")[block_id]
        numbers = [row[0] for row in work.call("block_serials", block_id=block_id)]
        used = sorted(work.dice.sample(numbers, work.dice.randint(1, len(numbers))))
        for row in work.call("report_block", block_id=block_id, used=used):
            if row.serial_number not in used_before:
                work.new_serial(row.serial_id, row.serial_number, "VALVE")
        all_used = sorted({*used_before, *used})
        status = "USED" if len(all_used) == len(numbers) else "OPEN"
        if status == "OPEN" and work.dice.random() < 0.5:
            work.call("return_block", block_id=block_id)
            status = "RETURNED"
        if (status, all_used) != ("OPEN", used_before):
            work.learn("block", block_id, status, *run, all_used)


def jump(work: Work) -> None:
    """reset_counter(), which others may have overtaken."""
    now = work.session.execute("select next_value from machserial.counter_status('JUMPING')").fetchone()[0]
    target = now + work.dice.randint(50, 500)
    work.call("reset_counter", format="JUMPING", next_value=target, reason="new labels")
    work.learn("floor", target, "JUMPING")


def ask_again(work: Work) -> None:
    """A request that was answered, once more."""
    repeated = work.things.kinds["asked"]
    if repeated:
        function, arguments = work.dice.choice(list(repeated.values()))
        REPEATABLE[function](work, arguments, is_new=False)


# verb: how often, and the SQLSTATEs with which it may be refused.
VERBS: dict[Callable[[Work], None], tuple[int, tuple[str, ...]]] = {
    generate: (10, ()),
    generate_gapless: (3, ()),
    register: (4, ()),
    register_what_all_want: (2, ("23505",)),
    # For a control: with the indexes it is register_what_all_want() again.
    look_before_registering: (0, ("23505",)),
    insert_directly: (2, ()),
    bring_in_a_duplicate: (2, ()),
    resolve: (3, ()),
    retire: (3, ()),
    receive: (3, ()),
    inspect: (4, ()),
    start_units: (2, ()),
    finish_units: (3, ()),
    # A target from which a source itself comes.
    hand_down: (4, ("22023",)),
    fire: (3, ()),
    order: (2, ()),
    take_block: (2, ()),
    use_block: (3, ()),
    jump: (1, ("22023",)),
    ask_again: (2, ()),
}
BY_NAME = {verb.__name__: verb for verb in VERBS}
