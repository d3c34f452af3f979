"""Every verb of the contract in random order, against the model of tests/model.py: both must agree, after each step.

A step asks the database first. Then the model says what the answer must be: which rows, or which SQLSTATE where the
call had to be refused. Now and then, and at the end, all that is on record is compared, and integrity() and
verify_audit() have to find nothing.

Two ways of running: in one transaction that is rolled back, which is quick, and with real commits, rollbacks and seals,
each example in a fresh clone of a template. Savepoints come in both.

    found = play(Rolled(server), seed=1, examples=20)         # None, or what went wrong and the calls that led there
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import hypothesis
import psycopg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from model import SCOPES, SOURCES, Answer, Counting, Format, Model, Reach, Refused, Rule, State, trimmed
from psycopg.rows import namedtuple_row, tuple_row
from psycopg.types.json import Jsonb
from servers import Server

ORDERS = """
create table public.orders (
    id bigint generated always as identity primary key, part text, quantity integer, plant text, serials text[]
)
"""

# What a demanding reader would break, and what has to be noticed then by what the verbs answer and leave behind.
SABOTAGE = {
    "an index of claims is dropped": "drop index machserial.serials_part_type_key",
    "a retired number is free again": """
        create function public.free_it() returns trigger language plpgsql as $$
        begin
            new.claim_released := new.status = 'RETIRED' or new.claim_released;
            return new;
        end
        $$;
        create trigger z_free_it before update of status on machserial.serials
        for each row execute function public.free_it()
    """,
    "cycles are let through":
        "alter table machserial.serial_propagations disable trigger lineage_stays_free_of_cycles",
    "changes leave no event": "alter table machserial.serials disable trigger changed_serials_are_audited",
    "a gapless counter leaves gaps": """
        create or replace function machserial._draw_gapless(issue machserial._issue, quantity integer) returns bigint[]
        language plpgsql as $$
        begin
            update machserial.counters as c set last_value = c.last_value + 1 where c.id = issue.counter_id;
            return null;
        end
        $$
    """,
    "a vendor's rule stops nobody": """
        create or replace function machserial._require_in_order(
            vendor_serial_id bigint, serial_number text, validation_errors text[]
        )
        returns void language plpgsql as $$ begin end $$
    """,
}  # fmt: skip


# The database's side


class Database:
    """A database with machserial, and one connection to it."""

    # Whether an example may commit.
    keeps = False

    def __init__(self, server: Server, sabotage: str | None = None) -> None:
        self.server = server
        self.name = f"machine_{next(NUMBERS)}"
        self.is_sabotaged = sabotage is not None
        self.connection: psycopg.Connection | None = None
        self.statements: list[str] = []
        # How often which verb was answered how: (verb, SQLSTATE or None).
        self.tally: Counter = Counter()
        server.execute(f"create database {self.name}")
        with psycopg.connect(server.dsn(self.name)) as connection:
            connection.execute("create extension machserial")
            connection.execute("select machserial.migrate()")
            connection.execute(ORDERS)
            # Slow, because PostgreSQL reads all time zones for it: so not in each example.
            connection.execute("select machserial.register_site(s) from unnest(%s::text[]) as s", (list(SITES[1:]),))
            connection.execute(sabotage or "")

    def open(self, name: str) -> None:
        self.connection = psycopg.connect(self.server.dsn(name), autocommit=True, row_factory=namedtuple_row)
        # A long transaction leaves rows behind that its own plans must not be made for.
        self.connection.execute("set jit = off")

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.server.execute(f"drop database if exists {self.name} (force)")

    def begin(self) -> None:
        self.statements.clear()
        self.run("begin")

    def run(self, statement: str) -> None:
        self.statements.append(statement)
        self.connection.execute(statement)

    def rows(self, query: str, *parameters: object) -> list:
        return self.connection.execute(query, parameters or None).fetchall()

    def counted(self, query: str) -> Counter:
        with self.connection.cursor(row_factory=tuple_row) as cursor:
            return Counter(cursor.execute(query).fetchall())

    def ask(self, statement: str, arguments: dict | tuple = ()) -> Answer:
        """Runs a statement that may be refused; the transaction goes on."""
        adapted = {k: Jsonb(v) if isinstance(v, dict) else v for k, v in arguments.items()} if arguments else None
        cursor = psycopg.ClientCursor(self.connection)
        self.statements.append(cursor.mogrify(statement, adapted) if adapted else statement)
        self.connection.execute("savepoint step")
        try:
            result = self.connection.execute(statement, adapted)
            answer = Answer(result.fetchall() if result.description else [])
        except psycopg.Error as error:
            self.connection.execute("rollback to savepoint step")
            self.statements[-1] += f"  -- {error.sqlstate} {str(error).splitlines()[0]}"
            answer = Answer([], error.sqlstate)
        self.connection.execute("release savepoint step")
        self.tally[VERB.search(statement)[0], answer.code] += 1
        return answer

    def call(self, function: str, arguments: dict) -> Answer:
        given = ", ".join(f"{name} => %({name})s" for name in arguments)
        return self.ask(f"select * from machserial.{function}({given})", arguments)


class Rolled(Database):
    """Each example in a transaction that is rolled back."""

    def begin(self) -> None:
        if self.connection is None:
            self.open(self.name)
        super().begin()

    def end(self) -> None:
        self.connection.execute("rollback")


class Cloned(Database):
    """Each example in a database of its own, with commits."""

    keeps = True

    def begin(self) -> None:
        clone, how = f"{self.name}_clone", " strategy file_copy" if self.server.major >= 15 else ""
        self.server.execute(f"create database {clone} template {self.name}{how}")
        self.open(clone)
        super().begin()

    def end(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.server.execute(f"drop database if exists {self.name}_clone (force)")


NUMBERS = itertools.count()
# What a statement does: the function or the table that it names first, and how.
VERB = re.compile(r"^(update|insert|delete|truncate)|(?<=machserial\.)\w+")

# What is drawn

# Small, so that everything meets everything else.
SITES = ("DEFAULT", "S1", "S2")
ZONES = ("UTC", "Pacific/Kiritimati", "Mars/Olympus")
PARTS = ("A", "B", "C", "D")
TYPES = ("T", "U")
FORMATS = ("F1", "F2", "F3")
PATTERNS = (
    "{SEQ:1}", "{SEQ:1:alpha}", "{SEQ:2:safe}", "N{SEQ:2}", "n{SEQ:1:hex}", "{SEQ:5}", "{SITE}{SEQ:1}", "{PART}{SEQ:1}",
    "{SEQ:2}{CHECK:luhn}", "{WO}-{SEQ:1}", "{CTX:line}{SEQ:1}", "{RANDOM:numeric:1}", "N0{RANDOM:hex:1}", "K",
    "{SEQ:1:base36}",
    "{YYYY}{MM}{DD}-{SEQ:1}", "{YYYY}{SEQ:2}",
)  # fmt: skip
FAULTY = ("", "{SEQ}", "{NO}", "{SEQ:1}{SEQ:1}")
NUMBERS_BY_HAND = (
    "1", "2", "3", "5", "8", "A", "B", "N01", "N02", "N03", "N05", "N1", "00001", "00002", "00003", "K", "A1", "22",
    "23",
    "S11", "W1-1", "21", "X 1", "n1", "N0A", "018", "026",
)  # fmt: skip
VENDORS = ("ACME", "Bolt & Co")
EVENTS = ("WORK_ORDER_CREATE", "MATERIAL_RECEIPT")
MAKES = ("SYSTEM_GENERATED", "SYSTEM_GENERATED", "LATE_ASSIGNMENT", "VENDOR")

some = st.integers(0, 9_999)
site = st.sampled_from((*SITES * 6, "NOWHERE"))
part = st.sampled_from((*PARTS[:3] * 6, "D", "UNKNOWN"))
name = st.sampled_from((*FORMATS[:2] * 6, *FORMATS[2:] * 3, "NONE"))
pattern = st.sampled_from((*PATTERNS * 3, *FAULTY))
number = st.sampled_from(NUMBERS_BY_HAND)
quantity = st.sampled_from((*(1, 1, 2, 3, 7) * 3, 0))
# None: the part's.
some_scopes = [list(wanted) for size in (1, 2, 3) for wanted in itertools.combinations(SCOPES, size)]
good_scopes = st.sampled_from((*(None,) * 10, *some_scopes))
scopes = st.sampled_from((*(None,) * 10, *some_scopes, [], ["WORLD"]))
reason = st.sampled_from((*("why", "because", "again") * 4, None))
request = st.sampled_from((*(None,) * 6, "r1", "r2", "r3"))
context = st.fixed_dictionaries(
    {}, optional={"work_order_id": st.sampled_from(("W1", "W2")), "line": st.sampled_from(("1", "2"))}
)
status = st.sampled_from(("PENDING", "ACTIVE", "CONFLICT", "REJECTED", "RETIRED", "INVALID"))
options = {
    "start": st.sampled_from((1, 1, 1, 0, 3, 9)),
    "step": st.sampled_from((1, 1, 1, 2, 2, 5, 0)),
    "reset": st.sampled_from(("NEVER", "NEVER", "NEVER", "DAILY", "YEARLY")),
    "counter_per": st.sampled_from(("FORMAT", "FORMAT", "PART", "SITE", "SITE_PART")),
    "allocation": st.sampled_from(("SEQUENCE", "SEQUENCE", "GAPLESS")),
    "letter_case": st.sampled_from(("EXACT", "EXACT", "UPPER")),
}
# What integrity() warns of, and may be: so it was asked for, or put in by a direct statement.
TOLERATED = ("inactive_format", "scopes_not_covered", "claim_across_scopes")
options_of_a_revision = {key: values for key, values in options.items() if key != "reset"}
ABSENT_ID = 999_999_999
# The names that the contract has for them.
ARGUMENTS = {"start": "sequence_start", "step": "sequence_increment"}


def chosen(things: object, where: int) -> object:
    """One of those that there are; seldom one that there is not."""
    known = sorted(things)
    return known[where % len(known)] if known and where % 23 != 22 else ABSENT_ID


def action(times: int = 1, needs: str | None = None, **arguments: st.SearchStrategy) -> Callable:
    """A step that the machine may take: so many times as often as others, where there is what it needs.

    hypothesis chooses among rules in its own way, which leaves out many of them for a whole example. With so many
    verbs that need each other it would seldom get far.
    """

    def mark(function: Callable) -> Callable:
        drawn = st.fixed_dictionaries(arguments)
        ACTIONS.append(SimpleNamespace(run=function, times=times, needs=needs, arguments=drawn))
        return function

    return mark


ACTIONS: list[SimpleNamespace] = []


class Machine(RuleBasedStateMachine):
    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.is_torn = False
        self.paused_for = 0
        self.database.begin()
        self.model = Model()
        self.state.sites.update(dict.fromkeys(SITES, "UTC"))
        self.state.events["SITE_REGISTERED"] = len(SITES) - 1
        # What the last commit and each savepoint keep.
        self.saved: list = []
        self.committed = self.model.state.copy()
        self.take_time()

    def take_time(self) -> None:
        self.model.now = self.database.rows("select now()")[0][0]

    @property
    def state(self) -> object:
        return self.model.state

    def teardown(self) -> None:
        try:
            if not self.is_torn:
                self.compare()
                # These look for what was broken; here the verbs have to show it.
                if not self.database.is_sabotaged:
                    self.look_for_problems()
        finally:
            self.database.end()

    # Steps

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        possible = [one for one in ACTIONS if one.needs is None or self.has(one.needs)]
        one = data.draw(st.sampled_from([one for one in possible for _ in range(one.times)]))
        one.run(self, **data.draw(one.arguments))

    def has(self, what: str) -> bool:
        if what == "keeps":
            return self.database.keeps
        return bool(self.saved if what == "saved" else getattr(self.state, what))

    @contextmanager
    def telling(self) -> Iterator[None]:
        """A disagreement comes with the calls that led there."""
        # Also for who is interrupted: then one of the two is a step ahead.
        self.is_torn = True
        try:
            yield
            self.is_torn = False
        except (AssertionError, psycopg.Error, LookupError, TypeError) as error:
            calls = ";\n".join(self.database.statements)
            raise AssertionError(f"{type(error).__name__}: {error}\n\nAfter:\n{calls}") from error

    def judge(self, answer: Answer, verdict: Callable[[], None], takes_back: bool | None = None) -> None:
        """The model's verdict. takes_back: whether a refusal must leave counters where they were; None: it has none."""
        before = self.state.copy()
        self.model.answer = answer
        with self.telling():
            try:
                verdict()
            except Refused:
                self.model.state = before
                if takes_back is not None:
                    self.look_at_counters(takes_back and answer.code == "2200H")

    def verb(self, verdict: Callable, function: str, takes_back: bool | None = None, **arguments: object) -> None:
        with self.telling():
            answer = self.database.call(function, arguments)
        self.judge(answer, verdict, takes_back)

    def counters(self) -> dict:
        """What each counter gives next, by format, version, key and period."""
        return {
            (row.format, row.format_version, row.counter_key, row.period): row.next_value
            for row in self.database.rows("select * from machserial.counter_status()")
        }

    def keyed(self, told: tuple) -> tuple[tuple, Format]:
        """The model's key of a counter that counter_status() tells of, and its format."""
        name, version, counter_key, period = told
        made = next(f for f in self.state.formats.values() if (f.name, f.version) == (name, version))
        site, _, part = counter_key.rpartition("/") if "PART" in made.counter_per else (counter_key, "", "")
        return (made.id, part, site, period), made

    def look_at_counters(self, must_stand: bool) -> None:
        """After a refusal: a sequence may have gone on, a gap; nothing else may have changed."""
        for told, found in self.counters().items():
            key, made = self.keyed(told)
            known = self.state.counters.get(key)
            # The model makes none ahead.
            first = self.model.first_value(made, key)
            expected = self.model.reached(key) + made.step if known else first
            if found is None or found == expected:
                continue
            is_sequence = known.reach if known else made.allocation == "SEQUENCE"
            assert is_sequence and not must_stand and found > expected, f"{key} gives {found} instead of {expected}"
            if known:
                known.reach.value = found - made.step
            else:
                self.state.counters[key] = Counting(first, reach=Reach(found - made.step))

    def enriched(self, answer: Answer, query: str = "select *, id as serial_id from machserial.serials") -> Answer:
        """The rows with what the registry says of their serials."""
        ids = [row.serial_id for row in answer.rows]
        known = {row.id: row for row in self.database.rows(f"{query} where id = any(%s::bigint[])", ids)}
        answer.rows = [
            SimpleNamespace(**((known[r.serial_id]._asdict() if r.serial_id in known else {}) | r._asdict()))
            for r in answer.rows
        ]
        return answer

    # Beginning

    @initialize(
        scopes=st.lists(st.sampled_from(some_scopes), min_size=3, max_size=3),
        patterns=st.lists(st.sampled_from(PATTERNS), min_size=2, max_size=2, unique=True),
        options=st.fixed_dictionaries({}, optional=options_of_a_revision),
        numbers=st.lists(number, min_size=6, max_size=6, unique=True),
        allocation=st.sampled_from(("GAPLESS", "SEQUENCE")),
        made=st.sampled_from(MAKES),
    )  # fmt: skip
    def begin(
        self, scopes: list, patterns: list, options: dict, numbers: list, allocation: str, made: str
    ) -> None:
        """Something of everything, so that verbs meet what they are about."""
        for part_id, part_type, wanted in zip(PARTS, ("T", "T", "U"), scopes, strict=False):
            self.add_part(part_id, part_type, wanted)
        self.new_format("F1", patterns[0], options | {"allocation": allocation})
        self.new_format("F2", patterns[1], {})
        self.assign("A", "F1", 0, False)
        self.assign_to_type("T", "F2", 0)
        self.change_vendor_rule("ACME", None, None, 1, None, "set")
        self.register_serials(numbers[:4], "A", "DEFAULT", None, "MANUAL", "RECORD")
        self.register_serials(numbers[2:], "B", "DEFAULT", None, "MANUAL", "RECORD")
        self.receive_many("ACME", "C", "S1", numbers[:3])
        self.generate_by_assignment("A", 2, "S1", {"work_order_id": "W1", "line": "1"})
        self.create_placeholders("A", 2, "DEFAULT", {"work_order_id": "W1", "line": "1"}, None)
        self.split_or_merge(0, [1, 2], "split")
        self.create_trigger("A", "WORK_ORDER_CREATE", made, None, None, 1, {})
        self.attach("WORK_ORDER_CREATE", "attach")
        self.allocate_block("F2", 3, "C", "S1", None, None)

    # Catalog and formats

    def add_part(self, part_id: str, part_type: str, wanted: list | None) -> None:
        self.verb(
            lambda: self.model.register_part(part_id, part_type, wanted), "register_part",
            part_id=part_id, part_type=part_type, scopes=wanted,
        )  # fmt: skip

    @action(name=st.sampled_from(("propagation_depth_limit", "batch_size")), value=st.sampled_from(("1", "2", "50",
            "0", "x")),
          site_id=st.sampled_from(SITES[1:]), zone=st.sampled_from(ZONES), what=st.sampled_from(("set", "set", "site")))
    def change_setting_or_site(self, name: str, value: str, site_id: str, zone: str, what: str) -> None:
        if what == "set":
            with self.telling():
                answer = self.database.ask(
                    "update machserial.settings set value = %(value)s where name = %(name)s",
                    {"name": name, "value": value},
                )
            self.judge(answer, lambda: self.model.change_setting(name, value))
            return
        self.verb(
            lambda: self.model.register_site(site_id, zone), "register_site", site_id=site_id, time_zone=zone
        )

    @action(part_id=st.sampled_from(PARTS), part_type=st.sampled_from(TYPES), wanted=scopes)
    def register_part(self, part_id: str, part_type: str, wanted: list | None) -> None:
        self.add_part(part_id, part_type, wanted)

    def new_format(self, name: str, pattern: str, options: dict) -> None:
        given = {ARGUMENTS.get(key, key): value for key, value in options.items()}
        self.verb(
            lambda: self.model.create_format(name=name, pattern=pattern, **options), "create_format",
            name=name, pattern=pattern, **given,
        )  # fmt: skip

    @action(name=st.sampled_from(FORMATS), pattern=pattern, options=st.fixed_dictionaries({}, optional=options))
    def create_format(self, name: str, pattern: str, options: dict) -> None:
        self.new_format(name, pattern, options)

    @action(
        times=2, name=name, changes=st.fixed_dictionaries({}, optional={"pattern": pattern, **options_of_a_revision})
    )
    def revise_format(self, name: str, changes: dict) -> None:
        given = {ARGUMENTS.get(key, key): value for key, value in changes.items()}
        self.verb(lambda: self.model.revise_format(name, **changes), "revise_format", name=name, **given)

    @action(name=name, part_id=part, what=st.sampled_from(("deactivate", "unassign")))
    def end_format(self, name: str, part_id: str, what: str) -> None:
        if what == "deactivate":
            self.verb(lambda: self.model.deactivate_format(name), "deactivate_format", name=name)
        else:
            self.verb(
                lambda: self.model.unassign_format(part_id, name), "unassign_format", part_id=part_id, format=name
            )

    def assign(self, part_id: str, name: str, priority: int, is_later: bool) -> None:
        since = self.model.now + timedelta(days=1) if is_later else self.model.now
        later = {"effective_from": since} if is_later else {}
        self.verb(
            lambda: self.model.assign_format(part_id, None, name, priority, since), "assign_format",
            part_id=part_id, format=name, priority=priority, **later,
        )  # fmt: skip

    @action(times=2, part_id=part, part_type=st.sampled_from(TYPES), name=name, priority=st.integers(0, 2),
          how=st.sampled_from(("now", "now", "later", "type")))  # fmt: skip
    def assign_format(self, part_id: str, part_type: str, name: str, priority: int, how: str) -> None:
        if how == "type":
            self.assign_to_type(part_type, name, priority)
        else:
            self.assign(part_id, name, priority, how == "later")

    def assign_to_type(self, part_type: str, name: str, priority: int) -> None:
        self.verb(
            lambda: self.model.assign_format(None, part_type, name, priority, self.model.now), "assign_format_to_type",
            part_type=part_type, format=name, priority=priority,
        )  # fmt: skip

    @action(times=4, name=name, next_value=st.sampled_from((0, 1, 2, 5, 9, 20, 98, 99_990)), part_id=part,
            site_id=site, reason=reason)
    def reset_counter(self, name: str, next_value: int, part_id: str, site_id: str, reason: str | None) -> None:
        self.verb(
            lambda: self.model.reset_counter(name, next_value, part_id, site_id, reason), "reset_counter", False,
            format=name, next_value=next_value, part_id=part_id, site_id=site_id, reason=reason,
        )  # fmt: skip

    # Generating

    def generated(self, part_id: str, quantity: int, name: str | None, pattern: str | None, site_id: str,
                  context: dict, request: str | None) -> None:
        with self.telling():
            answer = self.database.call("generate", {
                "part_id": part_id, "quantity": quantity, "format": name, "pattern": pattern, "site_id": site_id,
                "context": context, "request_id": request,
            })
            self.enriched(answer)
        self.judge(
            answer,
            lambda: self.model.generate(part_id, quantity, name, pattern, site_id, context, request),
            takes_back=True,
        )

    @action(times=4, part_id=part, quantity=quantity, site_id=site, context=context)
    def generate_by_assignment(self, part_id: str, quantity: int, site_id: str, context: dict) -> None:
        self.generated(part_id, quantity, None, None, site_id, context, None)

    @action(times=2, part_id=part, quantity=quantity, site_id=site, context=context, request=request)
    def generate(self, part_id: str, quantity: int, site_id: str, context: dict, request: str | None) -> None:
        self.generated(part_id, quantity, None, None, site_id, context, request)

    @action(times=3, part_id=part, quantity=quantity, name=name, site_id=site, context=context, request=request)
    def generate_by_name(
        self, part_id: str, quantity: int, name: str, site_id: str, context: dict, request: str | None
    ) -> None:
        self.generated(part_id, quantity, name, None, site_id, context, request)

    @action(times=2, part_id=part, quantity=quantity, pattern=pattern, site_id=site, context=context)
    def generate_by_pattern(self, part_id: str, quantity: int, pattern: str, site_id: str, context: dict) -> None:
        self.generated(part_id, quantity, None, pattern, site_id, context, None)

    @action(needs="requests", where=some)
    def generate_again(self, where: int) -> None:
        """The client has lost the answer."""
        asked = sorted(key for key in self.state.requests if key[1] == "generate")
        if asked:
            one = asked[where % len(asked)]
            part_id, quantity, name, pattern, context = self.state.requests[one][0]
            site_id, _, request = one
            self.generated(part_id, quantity, name, pattern, site_id, dict(context), request)

    # Registering

    @action(times=5, numbers=st.lists(number, min_size=1, max_size=4), part_id=part, site_id=site, wanted=scopes,
          source=st.sampled_from(SOURCES), on_conflict=st.sampled_from(("RAISE", "RECORD", "RECORD")))
    def register_serials(
        self, numbers: list, part_id: str, site_id: str, wanted: list | None, source: str, on_conflict: str
    ) -> None:
        self.verb(
            lambda: self.model.register(numbers, part_id, site_id, wanted, source, on_conflict), "register_serials",
            serial_numbers=numbers, part_id=part_id, site_id=site_id, scopes=wanted, source=source,
            on_conflict=on_conflict,
        )  # fmt: skip

    @action(number=st.one_of(number, st.sampled_from(("", " 1\n", "1\u200b1", "1  1", None))), part_id=part,
          site_id=site, wanted=scopes, on_conflict=st.sampled_from(("RAISE", "RECORD", "IGNORE")))
    def register_serial(
        self, number: str | None, part_id: str, site_id: str, wanted: list | None, on_conflict: str
    ) -> None:
        with self.telling():
            answer = self.database.call("register_serial", {
                "serial_number": number, "part_id": part_id, "site_id": site_id, "scopes": wanted,
                "on_conflict": on_conflict,
            })
        answer.rows = [SimpleNamespace(serial_number=trimmed(number), **row._asdict()) for row in answer.rows]
        self.judge(answer, lambda: self.model.register([number], part_id, site_id, wanted, "MANUAL", on_conflict))

    @action(times=2, part_id=st.sampled_from(PARTS), ahead=st.integers(0, 2), site_id=st.sampled_from(SITES),
            context=context)
    def register_what_comes_next(self, part_id: str, ahead: int, site_id: str, context: dict) -> None:
        """Somebody enters by hand what the counter has not given yet."""
        made, known = self.model.format_for(part_id), self.state.parts.get(part_id)
        if known is None or made is None or made.needs - context.keys():
            return
        free = self.model.free_values(made, part_id, site_id, known.scopes, known.part_type, context)
        coming = [number for _, number in itertools.islice(free, ahead, ahead + 1)]
        if coming:
            self.verb(
                lambda: self.model.register(coming, part_id, site_id, None, "IMPORT", "RAISE"), "register_serials",
                serial_numbers=coming, part_id=part_id, site_id=site_id, source="IMPORT",
            )  # fmt: skip

    @action(times=3, number=st.one_of(number, st.sampled_from(("", "1 ", "\u00c9"))), part_id=part, site_id=site,
          wanted=scopes, status=status, source=st.sampled_from(SOURCES),
          released=st.sampled_from((False, False, False, True)))
    def insert_serial(
        self, number: str, part_id: str, site_id: str, wanted: list | None, status: str, source: str, released: bool
    ) -> None:
        with self.telling():
            answer = self.database.ask(
                "insert into machserial.serials (serial_number, part_id, site_id, scopes, status, source,"
                " claim_released) values (%(number)s, %(part_id)s, %(site_id)s, %(wanted)s::text[], %(status)s,"
                " %(source)s, %(released)s) returning id",
                {"number": number, "part_id": part_id, "site_id": site_id, "wanted": wanted, "status": status,
                 "source": source, "released": released},
            )  # fmt: skip
        self.judge(
            answer, lambda: self.model.insert_serial(number, part_id, site_id, wanted, status, source, released)
        )

    @action(number=st.one_of(number, st.sampled_from((" 1", "1\t1"))), part_id=part, wanted=good_scopes, site_id=site)
    def check_uniqueness(self, number: str, part_id: str, wanted: list | None, site_id: str) -> None:
        self.verb(
            lambda: self.model.check_uniqueness(number, part_id, wanted, site_id), "check_uniqueness",
            serial_number=number, part_id=part_id, scopes=wanted, site_id=site_id,
        )  # fmt: skip

    # The life of serials

    def update(self, verdict: Callable, column: str, serial_id: int, **values: object) -> None:
        """A direct update of a serial."""
        with self.telling():
            answer = self.database.ask(
                f"update machserial.serials set {column} where id = %(serial_id)s", {"serial_id": serial_id, **values}
            )
        self.judge(answer, verdict)

    @action(times=3, needs="serials", where=some, status=status, reason=reason)
    def update_status(self, where: int, status: str, reason: str | None) -> None:
        serial_id = sorted(self.state.serials)[where % len(self.state.serials)]
        self.update(
            lambda: self.model.update_serial(serial_id, status, reason),
            "status = %(status)s, status_reason = %(reason)s", serial_id, status=status, reason=reason,
        )  # fmt: skip

    @action(needs="serials", where=some, wanted=st.sampled_from(some_scopes), lot=st.sampled_from((None, "L1", "L2")))
    def update_scopes_or_lot(self, where: int, wanted: list, lot: str | None) -> None:
        serial_id = sorted(self.state.serials)[where % len(self.state.serials)]
        if lot:
            self.update(lambda: self.model.note_lot(serial_id, lot), "lot_number = %(lot)s", serial_id, lot=lot)
        else:
            self.update(
                lambda: self.model.widen(serial_id, wanted), "scopes = %(scopes)s", serial_id, scopes=wanted
            )

    @action(needs="serials", where=some, change=st.sampled_from(
        ("serial_number = 'Z'", "part_id = 'Z'", "site_id = 'Z'", "sequence_number = -1", "created_by = 'Z'",
         "claim_released = not claim_released", "lineage_rank = 1")))  # fmt: skip
    def change_what_stands(self, where: int, change: str) -> None:
        """What a serial is stays as it is; only a conflict's end releases its claim."""
        serial_id = sorted(self.state.serials)[where % len(self.state.serials)]
        serial = self.state.serials[serial_id]
        if change == "sequence_number = -1" and serial.sequence is None:
            return
        if change.startswith("claim_released") and not serial.released and serial.status in ("RETIRED", "INVALID"):
            return
        self.update(lambda: self.model.decide({"55000", "22023"}), change, serial_id)

    @action(table=st.sampled_from((
        "serials", "serial_conflicts", "vendor_serials", "serial_propagations", "audit_events", "serial_formats",
        "late_assignment_placeholders", "number_blocks", "block_usages",
    )), how=st.sampled_from(("delete from", "truncate")))  # fmt: skip
    def remove(self, table: str, how: str) -> None:
        """What is on record stays on record."""
        with self.telling():
            answer = self.database.ask(f"{how} machserial.{table}")
        # TRUNCATE is refused for the references to a table before its own trigger can say anything.
        refusals = {"42501"} if table == "audit_events" else {"55000"} | ({"0A000"} if how == "truncate" else set())
        self.judge(answer, lambda: self.model.decide(refusals))

    @action(times=2, needs="serials", where=some, status=st.sampled_from(("RETIRED", "RETIRED", "INVALID")),
            reason=reason)
    def end_serial(self, where: int, status: str, reason: str | None) -> None:
        serial_id = chosen(self.state.serials, where)
        function = "retire_serial" if status == "RETIRED" else "invalidate_serial"
        self.verb(
            lambda: self.model.end(serial_id, status, reason), function, serial_id=serial_id, reason=reason
        )

    @action(times=5, needs="conflicts", where=some, resolution=st.sampled_from(("KEEP", "RETIRE", "MARK_INVALID")),
            keep=some, retire=some, reason=reason,
          names=st.sampled_from(("keep", "keep", "retire", "both", "none")), part_id=part)
    def resolve_conflict(
        self, where: int, resolution: str, keep: int, retire: int, reason: str | None, names: str, part_id: str
    ) -> None:
        about = sorted({(c.number, c.part) for c in self.state.conflicts.values() if c.status == "PENDING"} or {
            (c.number, c.part) for c in self.state.conflicts.values()
        })
        number, part_id = about[where % len(about)] if about and where % 23 != 22 else ("1", part_id)
        same = {s.id for s in self.model.with_number(number)}
        kept = chosen(same, keep) if names in ("keep", "both") else None
        retired = chosen(same, retire) if names in ("retire", "both") else None
        self.verb(
            lambda: self.model.resolve_conflict(number, part_id, resolution, kept, retired, reason), "resolve_conflict",
            serial_number=number, part_id=part_id, resolution=resolution, keep_serial_id=kept,
            retired_serial_id=retired, reason=reason,
        )  # fmt: skip

    # Vendors

    @action(times=2, vendor=st.sampled_from(VENDORS), part_id=st.one_of(st.none(), part),
            shortest=st.sampled_from((None, 1, 2)),
          longest=st.sampled_from((None, 1, 3)), regex=st.sampled_from((None, "^[0-9]+$")),
          what=st.sampled_from(("set", "set", "set", "delete")))  # fmt: skip
    def change_vendor_rule(
        self, vendor: str, part_id: str | None, shortest: int | None, longest: int | None, regex: str | None, what: str
    ) -> None:
        if what == "delete":
            self.verb(
                lambda: self.model.delete_vendor_rule(vendor, part_id), "delete_vendor_rule",
                vendor_name=vendor, part_id=part_id,
            )  # fmt: skip
        else:
            self.verb(
                lambda: self.model.set_vendor_rule(vendor, part_id, Rule(shortest, longest, regex)), "set_vendor_rule",
                vendor_name=vendor, part_id=part_id, min_length=shortest, max_length=longest, regex=regex,
            )  # fmt: skip

    @action(times=2, vendor=st.sampled_from(VENDORS), part_id=part, site_id=site,
          number=st.one_of(number, number.map(" {}\n".format), st.just(" ")))
    def receive_one(self, vendor: str, part_id: str, site_id: str, number: str) -> None:
        self.verb(
            lambda: self.model.receive(vendor, part_id, site_id, [number], True), "receive_vendor_serial",
            serial_number=number, vendor_name=vendor, part_id=part_id, site_id=site_id,
        )  # fmt: skip

    @action(times=3, vendor=st.sampled_from(VENDORS), part_id=part, site_id=site,
          numbers=st.lists(st.one_of(number, number, st.sampled_from(("", " 9 ", "9\t9", None))), max_size=4))
    def receive_many(self, vendor: str, part_id: str, site_id: str, numbers: list) -> None:
        with self.telling():
            answer = self.database.ask(
                "select serial_number, vendor_serial_id as id, status from machserial.receive_vendor_serials("
                "vendor_name => %(vendor)s, part_id => %(part_id)s, serial_numbers => %(numbers)s::text[],"
                " site_id => %(site_id)s)",
                {"vendor": vendor, "part_id": part_id, "numbers": numbers, "site_id": site_id},
            )
        self.judge(answer, lambda: self.model.receive(vendor, part_id, site_id, numbers, False))

    @action(times=6, needs="receipts", where=some, internal=st.one_of(st.none(), st.none(), some), reason=reason,
          what=st.sampled_from(("accept", "accept", "reject", "waive")))  # fmt: skip
    def decide_on_receipt(self, where: int, internal: int | None, reason: str | None, what: str) -> None:
        broken = {i for i, r in self.state.receipts.items() if r.is_broken}
        one = chosen(broken if broken and what == "waive" else self.state.receipts, where)
        own = None if internal is None else chosen(self.state.serials, internal)
        if what == "accept":
            self.verb(
                lambda: self.model.accept(one, own), "accept_vendor_serial",
                vendor_serial_id=one, internal_serial_id=own,
            )  # fmt: skip
        elif what == "reject":
            self.verb(
                lambda: self.model.reject(one, reason), "reject_vendor_serial", vendor_serial_id=one, reason=reason
            )
        else:
            self.verb(lambda: self.model.waive(one, reason), "waive_vendor_rule", vendor_serial_id=one, reason=reason)

    # Placeholders

    @action(times=2, part_id=part, quantity=quantity, site_id=site, context=context, operation=st.sampled_from((None,
            "OP1")))
    def create_placeholders(
        self, part_id: str, quantity: int, site_id: str, context: dict, operation: str | None
    ) -> None:
        told = context | ({"operation_code": operation} if operation else {})
        self.verb(
            lambda: self.model.create_placeholders(part_id, quantity, site_id, told), "create_placeholders",
            part_id=part_id, quantity=quantity, work_order_id=context.get("work_order_id"), operation_code=operation,
            site_id=site_id, context={k: v for k, v in context.items() if k == "line"},
        )  # fmt: skip

    def pending(self) -> set[int]:
        waiting = {p.id for p in self.state.placeholders.values() if p.status == "PENDING"}
        return waiting or set(self.state.placeholders)

    @action(times=2, needs="placeholders", where=some, number=st.one_of(st.none(), number, st.just("")),
            operation=st.sampled_from((None, "OP2")))
    def assign_placeholder(self, where: int, number: str | None, operation: str | None) -> None:
        one = chosen(self.pending(), where)
        with self.telling():
            answer = self.enriched(self.database.call("assign_placeholder", {
                "placeholder_id": one, "serial_number": number, "operation_code": operation,
            }))
        numbers = None if number is None else [number]
        self.judge(answer, lambda: self.model.assign_placeholders([one], numbers, operation), takes_back=True)

    @action(times=2, needs="placeholders", wheres=st.lists(some, min_size=1, max_size=4), numbers=st.one_of(st.none(),
            st.lists(number, max_size=4)))
    def assign_placeholders(self, wheres: list, numbers: list | None) -> None:
        ids = [chosen(self.pending(), where) for where in wheres]
        numbers = (numbers + numbers)[:len(ids)] if numbers else numbers
        with self.telling():
            answer = self.enriched(self.database.ask(
                "select * from machserial.assign_placeholders("
                "placeholder_ids => %(ids)s, serial_numbers => %(numbers)s)",
                {"ids": ids, "numbers": numbers},
            ))
        self.judge(answer, lambda: self.model.assign_placeholders(ids, numbers, None), takes_back=False)

    @action(work_order=st.sampled_from(("W1", "W2", "W3")))
    def assign_work_order(self, work_order: str) -> None:
        with self.telling():
            answer = self.enriched(self.database.call("assign_placeholders", {"work_order_id": work_order}))
        its = [p for p in self.state.placeholders.values() if p.context.get("work_order_id") == work_order]
        waiting = sorted(p.id for p in its if p.status == "PENDING")
        if waiting:
            self.judge(answer, lambda: self.model.assign_placeholders(waiting, None, None), takes_back=False)
        else:
            self.judge(answer, lambda: self.model.decide({"55000"} if its else {"P0002"}))

    @action(needs="placeholders", where=some, serial=some)
    def give_serial(self, where: int, serial: int) -> None:
        one = sorted(self.pending())[where % len(self.pending())]
        mine = {s.id for s in self.state.serials.values() if s.part == self.state.placeholders[one].part}
        serial_id = chosen(mine if serial % 5 != 4 else self.state.serials, serial)
        with self.telling():
            answer = self.database.ask(
                "update machserial.late_assignment_placeholders set serial_id = %(serial_id)s where id = %(one)s",
                {"serial_id": serial_id, "one": one},
            )
        self.judge(answer, lambda: self.model.give_serial(one, serial_id))

    @action(needs="placeholders", where=some, reason=reason)
    def fail_placeholder(self, where: int, reason: str | None) -> None:
        one = chosen(self.state.placeholders, where)
        self.verb(
            lambda: self.model.fail_placeholder(one, reason), "fail_placeholder", placeholder_id=one, reason=reason
        )

    # Lineage

    def usable(self) -> set[int]:
        fit = {s.id for s in self.state.serials.values() if s.status in ("PENDING", "ACTIVE")}
        return fit or set(self.state.serials)

    def one_of_all(self, where: int) -> int:
        return chosen(self.usable() if where % 7 != 6 else self.state.serials, where)

    @action(times=3, needs="serials", where=some, result=some, routing=st.sampled_from((0, 1, 2, 3, -1)),
            how=st.sampled_from(("pass", "turn", "become")))
    def go_on(self, where: int, result: int, routing: int, how: str) -> None:
        one, other = self.one_of_all(where), self.one_of_all(result) if how == "become" else None
        if how == "pass":
            self.verb(
                lambda: self.model.propagate("PASS_THROUGH", [one], None, routing), "pass_through",
                serial_id=one, operation_code="OP1", routing_sequence=routing,
            )  # fmt: skip
        else:
            self.verb(
                lambda: self.model.propagate("TRANSFORM", [one], [other] if other else None, routing), "transform",
                source_serial_id=one, operation_code="OP4", routing_sequence=routing, target_serial_id=other,
            )  # fmt: skip

    @action(times=5, needs="serials", where=some, wheres=st.lists(some, max_size=3), how=st.sampled_from(("split",
            "merge")))
    def split_or_merge(self, where: int, wheres: list, how: str) -> None:
        one, others = self.one_of_all(where), [self.one_of_all(other) for other in wheres]
        ends = "%(one)s, %(others)s::bigint[]" if how == "split" else "%(others)s::bigint[], %(one)s"
        with self.telling():
            answer = self.database.ask(
                f"select * from machserial.{how}({ends}, 'OP2', 1)", {"one": one, "others": others}
            )
        sources, targets = ([one], others) if how == "split" else (others, [one])
        self.judge(answer, lambda: self.model.propagate(how.upper(), sources, targets, 1))

    @action(times=3, needs="edges", where=some, how_far=some)
    def close_a_cycle(self, where: int, how_far: int) -> None:
        """What has come of a serial is to become the serial itself."""
        parents = sorted({parent for _, parent, child in self.state.edges if child is not None})
        if parents:
            source = parents[where % len(parents)]
            later = sorted(self.model.reachable(source))
            one = later[how_far % len(later)]
            self.verb(
                lambda: self.model.propagate("TRANSFORM", [one], [source], 9), "transform",
                source_serial_id=one, operation_code="OP9", routing_sequence=9, target_serial_id=source,
            )  # fmt: skip

    @action(times=2, needs="edges", where=some, depth=st.sampled_from((None, None, 0, 1, 2, -1)))
    def lineage(self, where: int, depth: int | None) -> None:
        related = {one for edge in self.state.edges for one in edge[1:] if one is not None}
        one = chosen(related or self.state.serials, where)
        how_far = {} if depth is None else {"max_depth": depth}
        self.verb(lambda: self.model.lineage(one, depth), "lineage", serial_id=one, **how_far)

    # Triggers

    @action(times=2, part_id=part, event=st.sampled_from(EVENTS), makes=st.sampled_from(MAKES),
            name=st.one_of(st.none(), name),
          operation=st.sampled_from((None, None, "OP1")), batch=st.sampled_from((1, 1, 2, 0)),
          conditions=st.sampled_from(({}, {}, {"line": "1"})))  # fmt: skip
    def create_trigger(
        self, part_id: str, event: str, makes: str, name: str | None, operation: str | None, batch: int,
        conditions: dict,
    ) -> None:
        self.verb(
            lambda: self.model.create_trigger(part_id, event, makes, name, operation, conditions, batch),
            "create_trigger", part_id=part_id, trigger_type=event, assignment_type=makes, format=name,
            operation_code=operation, conditions=conditions, batch_size=batch,
        )  # fmt: skip

    @action(needs="triggers", where=some, what=st.sampled_from(("enable", "disable", "update", "delete")),
            batch=st.integers(0, 2))
    def change_trigger(self, where: int, what: str, batch: int) -> None:
        one = chosen(self.state.triggers, where)
        if what == "delete":
            self.verb(lambda: self.model.delete_trigger(one), "delete_trigger", trigger_id=one)
        elif what == "update":
            self.verb(
                lambda: self.model.change_trigger(one, "TRIGGER_UPDATED", batch=batch), "update_trigger",
                trigger_id=one, batch_size=batch,
            )  # fmt: skip
        else:
            enabled = what == "enable"
            self.verb(
                lambda: self.model.change_trigger(one, f"TRIGGER_{what.upper()}D", enabled=enabled), f"{what}_trigger",
                trigger_id=one,
            )  # fmt: skip

    @action(times=4, needs="triggers", where=some, event=st.sampled_from(EVENTS), quantity=quantity, context=context,
            site_id=site, number=number,
          operation=st.sampled_from((None, "OP1")), vendor=st.sampled_from((None, *VENDORS)), part_id=part)
    def fire(
        self, where: int, event: str, quantity: int, context: dict, site_id: str, number: str, operation: str | None,
        vendor: str | None, part_id: str,
    ) -> None:
        armed = sorted({(t.part, t.event) for t in self.state.triggers.values() if t.enabled})
        part_id, event = armed[where % len(armed)] if armed and where % 11 != 10 else (part_id, event)
        told = context | {"site_id": site_id} | ({"operation_code": operation} if operation else {})
        told |= {"vendor_name": vendor, "serial_number": number} if vendor else {}
        with self.telling():
            answer = self.enriched(self.database.call("fire", {
                "trigger_type": event, "part_id": part_id, "context": told, "quantity": quantity,
            }))
        self.judge(answer, lambda: self.model.fire(event, part_id, told, quantity), takes_back=False)

    @action(event=st.sampled_from(EVENTS), what=st.sampled_from(("attach", "attach", "detach")))
    def attach(self, event: str, what: str) -> None:
        if what == "detach":
            self.verb(lambda: self.model.detach(event), "detach", relation="public.orders", trigger_type=event)
        else:
            self.verb(
                lambda: self.model.attach(event), "attach", relation="public.orders", trigger_type=event,
                part_column="part", quantity_column="quantity", context_columns=["site_id=plant"],
                serial_column="serials",
            )  # fmt: skip

    @action(times=2, needs="attached", wanted=st.lists(
        st.tuples(part, st.sampled_from((1, 2, 0, -1, 1)), st.sampled_from((None, "DEFAULT", "S1", "NOWHERE"))),
        min_size=1, max_size=2,
    ))
    def insert_orders(self, wanted: list) -> None:
        """An application inserts into its own table."""
        marks = [self.database.rows(f"select coalesce(max(id), 0) from machserial.{table}")[0][0]
                 for table in ("serials", "late_assignment_placeholders")]
        rows = ", ".join(f"(%(part{i})s, %(quantity{i})s, %(plant{i})s)" for i in range(len(wanted)))
        given = {f"{key}{i}": value for i, row in enumerate(wanted)
                 for key, value in zip(("part", "quantity", "plant"), row, strict=True)}
        with self.telling():
            answer = self.database.ask(
                f"insert into public.orders (part, quantity, plant) values {rows} returning id", given
            )
        ids = [row.id for row in answer.rows] or [-1 - i for i in range(len(wanted))]
        orders = [SimpleNamespace(id=i, part=p, quantity=q, plant=s) for i, (p, q, s) in zip(ids, wanted, strict=True)]
        answer.rows = self.database.rows(
            "select id as serial_id, serial_number, sequence_number, part_id, site_id, work_order_id,"
            " null::bigint as placeholder_id from machserial.serials where id > %s union all"
            " select null, null, null, part_id, site_id, work_order_id, id"
            " from machserial.late_assignment_placeholders where id > %s order by serial_id, placeholder_id", *marks
        )
        self.judge(answer, lambda: self.model.insert_orders(orders), takes_back=False)

    # Blocks

    @action(times=2, name=name, quantity=quantity, part_id=st.one_of(st.none(), part), site_id=site, request=request,
          soon=st.sampled_from((None, None, timedelta(microseconds=1), timedelta(days=1), timedelta(0))))  # fmt: skip
    def allocate_block(
        self, name: str, quantity: int, part_id: str | None, site_id: str, request: str | None, soon: timedelta | None
    ) -> None:
        expires = self.model.now + soon if soon is not None else None
        self.verb(
            lambda: self.model.allocate_block(name, quantity, "LINE", part_id, site_id, request, expires),
            "allocate_block", True, format=name, quantity=quantity, holder="LINE", part_id=part_id, site_id=site_id,
            request_id=request, expires_at=expires,
        )  # fmt: skip

    @action(times=3, needs="blocks", where=some, used=st.lists(some, min_size=1, max_size=4),
            part_id=st.one_of(st.none(), part),
          strange=st.sampled_from((None, None, None, None, "Q")))  # fmt: skip
    def report_block(self, where: int, used: list, part_id: str | None, strange: str | None) -> None:
        open_ones = {b.id for b in self.state.blocks.values() if b.status == "OPEN"} or self.state.blocks
        one = chosen(open_ones if where % 5 != 4 else self.state.blocks, where)
        own = list(self.model.block_numbers(self.state.blocks[one])) if one in self.state.blocks else ["1"]
        numbers = [own[index % len(own)] for index in used] + ([strange] if strange else [])
        self.verb(
            lambda: self.model.report_block(one, numbers, part_id), "report_block",
            block_id=one, used=numbers, part_id=part_id,
        )  # fmt: skip

    @action(needs="blocks", where=some, what=st.sampled_from(("block_serials", "return_block")))
    def look_at_or_return_block(self, where: int, what: str) -> None:
        one = chosen(self.state.blocks, where)
        self.verb(lambda: getattr(self.model, what)(one), what, block_id=one)

    # Operations

    @action(times=3, what=st.sampled_from(("pause", "resume", "maintain", "seal_audit")), reason=reason)
    def operate(self, what: str, reason: str | None) -> None:
        if what == "pause":
            self.verb(lambda: self.model.pause(reason), "pause", reason=reason)
        elif what == "resume":
            self.resume()
        else:
            with self.telling():
                answer = self.database.call(what, {})
                sealed = answer.rows[0].done if what == "maintain" else answer.rows[0].seal_audit
            verdict = self.model.maintain if what == "maintain" else self.model.seal
            self.judge(answer, lambda: verdict(sealed, self.committed.events.total()))

    def resume(self) -> None:
        self.verb(self.model.resume, "resume")

    @invariant()
    def end_a_long_pause(self) -> None:
        """Most of the time numbers are issued."""
        self.paused_for = self.paused_for + 1 if self.state.flags["paused"] else 0
        if self.paused_for > 4:
            self.resume()

    # Transactions

    @action()
    def savepoint(self) -> None:
        self.database.run(f"savepoint s{len(self.saved)}")
        self.saved.append(self.state.copy())

    @action(needs="saved", where=some)
    def roll_back_to(self, where: int) -> None:
        depth = where % len(self.saved)
        self.database.run(f"rollback to savepoint s{depth}")
        del self.saved[depth + 1:]
        self.take_back_to(self.saved[depth])

    @action(times=3, needs="keeps", is_kept=st.sampled_from((True, True, True, False)))
    def end_transaction(self, is_kept: bool) -> None:
        with self.telling():
            self.database.run("commit" if is_kept else "rollback")
            self.database.run("begin")
        if is_kept:
            self.committed = self.state.copy()
        else:
            self.take_back_to(self.committed)
        self.saved.clear()
        self.take_time()

    def take_back_to(self, state: State) -> None:
        """What was drawn from a sequence is not given back; the counter may be older than its first use."""
        undone = self.state.counters
        self.model.state = state.copy()
        with self.telling():
            rows = self.database.rows("select format_id, part_id, site_id, period from machserial.counters")
        for key in undone.keys() & {tuple(row) for row in rows}:
            if undone[key].reach:
                self.state.counters.setdefault(key, undone[key])

    # Comparing

    @action()
    def compare(self) -> None:
        with self.telling():
            for what, (expected, found) in self.contents().items():
                missing, surplus = list((expected - found).elements()), list((found - expected).elements())
                assert expected == found, f"{what}: the model has {missing}, the database {surplus}"

    def look_for_problems(self) -> None:
        with self.telling():
            for problems in ("integrity()", "verify_audit()", "verify_audit(true)"):
                rows = self.database.rows(f"select * from machserial.{problems}")
                found = [row for row in rows if row[0] not in TOLERATED]
                assert not found, f"{problems} finds {found}"

    def contents(self) -> dict[str, tuple[Counter, Counter]]:
        """All that is on record: as the model has it, and as the database has it."""
        state, read = self.state, self.database.counted
        usages = {key: usage if isinstance(usage, int) else None for key, usage in state.usages.items()}
        used = Counter(block for block, _ in usages)
        return {
            "serials": (
                Counter(
                    (s.id, s.number, s.part, s.part_type, s.site, s.source, in_order(s.scopes), s.status, s.released,
                     s.holds, s.format, s.sequence, s.work_order, s.operation, s.lot)
                    for s in state.serials.values()
                ),
                read("select id, serial_number, part_id, part_type, site_id, source,"
                     " (select string_agg(s, ' ' order by s) from unnest(scopes) as s), status, claim_released,"
                     " holds_claim, format_id, sequence_number,"
                     " work_order_id, operation_code, lot_number from machserial.serials"),
            ),
            "conflicts": (
                Counter(
                    (c.number, c.part, c.site, in_order(c.scopes), c.source, c.serial, joined(c.with_serials),
                     in_order(c.in_scopes), c.status, c.resolution, c.kept, joined(c.losers))
                    for c in state.conflicts.values()
                ),
                read("select serial_number, part_id, site_id, (select string_agg(s, ' ' order by s) from unnest(scopes)"
                     " as s), source, serial_id, array_to_string(conflicting_serial_ids, ' '),"
                     " array_to_string(array(select unnest(conflicting_scopes) order by 1), ' '), status, resolution,"
                     " kept_serial_id, coalesce(array_to_string(retired_serial_ids, ' '), '')"
                     " from machserial.serial_conflicts"),
            ),
            "receipts": (
                Counter(
                    (i, r.vendor, state.serials[i].status, r.is_broken, r.is_waived, r.internal, r.was_accepted)
                    for i, r in state.receipts.items()
                ),
                read("select id, vendor_name, status, validation_errors <> '{}', waived_at is not null,"
                     " internal_serial_id, accepted_at is not null from machserial.vendor_serials"),
            ),
            "placeholders": (
                Counter(
                    (p.id, p.part, p.site, str_or_none(p.context.get("work_order_id")), p.context.get("operation_code"),
                     p.status, p.serial)
                    for p in state.placeholders.values()
                ),
                read("select id, part_id, site_id, work_order_id, operation_code, status, serial_id"
                     " from machserial.late_assignment_placeholders"),
            ),
            "propagations": (
                state.edges,
                read("select propagation_type, parent_serial_id, child_serial_id from machserial.serial_propagations"),
            ),
            "triggers": (
                Counter(
                    (t.id, t.part, t.event, t.makes, t.format, t.batch, t.enabled, t.executions, t.units)
                    for t in state.triggers.values()
                ),
                read("select t.id, t.part_id, t.trigger_type, t.assignment_type, t.format, t.batch_size, t.enabled,"
                     " s.execution_count, s.units from machserial.serial_assignment_triggers as t"
                     " inner join machserial.trigger_statistics() as s on s.trigger_id = t.id"),
            ),
            "blocks": (
                Counter(
                    (b.id, b.first, b.last, joined(sorted(b.skipped)), b.status, b.part, b.site, b.quantity, used[b.id],
                     *(b.quantity - used[b.id] if b.status == s else 0 for s in ("OPEN", "RETURNED", "EXPIRED")))
                    for b in state.blocks.values()
                ),
                read("select block_id, first_value, last_value, array_to_string(skipped_values, ' '), status, part_id,"
                     " site_id, quantity, used, open, returned, expired from machserial.blocks"),
            ),
            "usages": (
                Counter((*key, usage) for key, usage in usages.items()),
                read("select block_id, sequence_number, serial_id from machserial.block_usages"),
            ),
            "formats": (
                Counter(
                    (f.id, f.name, f.version, f.pattern, f.is_active, f.is_ad_hoc) for f in state.formats.values()
                ),
                read("select id, name, version, pattern, is_active, is_ad_hoc from machserial.serial_formats"),
            ),
            "assignments": (
                Counter((a.id, a.part, a.part_type, a.format, a.priority) for a in state.assignments.values()),
                read("select id, part_id, part_type, format_id, priority from machserial.format_assignments"),
            ),
            "counters": self.compared_counters(),
            "events": (state.events, Counter(dict(self.database.rows(
                "select event_type, count(*) from machserial.audit_events group by event_type"
            )))),
        }  # fmt: skip

    def compared_counters(self) -> tuple[Counter, Counter]:
        """What they give next. The model makes none ahead, but knows where they begin."""
        told = self.counters()
        expected = Counter()
        for one in told:
            key, made = self.keyed(one)
            known = key in self.state.counters
            following = self.model.reached(key) + made.step if known else self.model.first_value(made, key)
            expected[one, following] += 1
        return expected, Counter(told.items())


def in_order(scopes: frozenset) -> str:
    return " ".join(sorted(scopes))


def joined(ids: tuple) -> str:
    return " ".join(map(str, ids))


def str_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def play(database: Database, seed: int, examples: int, steps: int = 50, shrinks: bool = True) -> str | None:
    """Runs the machine; None if database and model agreed, else where they did not and the calls that led there."""
    machine = hypothesis.seed(seed)(type("Machine", (Machine,), {"database": database}))
    phases = [Phase.generate, Phase.shrink] if shrinks else [Phase.generate]
    how = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None, phases=phases,
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    try:
        run_state_machine_as_test(machine, settings=how)
    except AssertionError as error:
        return str(error)
    except FlakyFailure as error:
        # Random numbers are the database's own: what they led to need not come again.
        return str(error.exceptions[0])
    return None

