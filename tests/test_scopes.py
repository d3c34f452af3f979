"""Scopes: what a part says goes for all its serials at once, and ENTERPRISE goes for everybody."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import call, column, generated, make_format, make_part, refused, register, value, violated

SCOPES = ("ENTERPRISE", "SITE", "PART_TYPE")
SUBSETS = [list(some) for n in (1, 2, 3) for some in itertools.combinations(SCOPES, n)]


def build_plant(connection: psycopg.Connection) -> None:
    """P and P2 of type T, Q of type U; a format of its own for P at each site."""
    call(connection, "register_site", site_id="BER")
    for part_id, part_type in (("P", "T"), ("P2", "T"), ("Q", "U")):
        make_part(connection, part_id, part_type)
    make_format(connection, "plain", "A{SEQ:5}", counter_per="SITE_PART")
    make_format(connection, "gapless", "G{SEQ:5}", counter_per="SITE_PART", allocation="GAPLESS")
    make_format(connection, "random", "{RANDOM:numeric:1}")
    for part_id in ("P", "P2", "Q"):
        call(connection, "assign_format", part_id=part_id, format="plain")


pytestmark = pytest.mark.prepared(setup=build_plant)


@pytest.fixture
def plant(connection):
    return connection


def scopes_of(connection, part_id: str) -> dict[str, set]:
    rows = connection.execute("select id, scopes from machserial.serials where part_id = %s", (part_id,)).fetchall()
    return {serial_id: set(scopes) for serial_id, scopes in rows}


def set_scopes(connection, part_id: str, scopes: list[str], by_function: bool = True) -> None:
    if by_function:
        part_type = value(connection, "select part_type from machserial.parts where id = %s", part_id)
        call(connection, "register_part", part_id=part_id, part_type=part_type, scopes=scopes)
    else:
        connection.execute("update machserial.parts set default_scopes = %s where id = %s", (scopes, part_id))


# A part's scopes are its serials'


@pytest.mark.parametrize("by_function", [True, False])
def test_a_part_gives_its_scopes_to_its_serials_whatever_their_status(plant, by_function):
    generated(plant, "P", 5)
    generated(plant, "P", 2, format="gapless", site_id="BER")
    register(plant, ["BY-HAND", "OLD", "GONE"], "P")
    call(plant, "receive_vendor_serials", vendor_name="V", part_id="P", serial_numbers=["V-1", "V-2"])
    call(plant, "reject_vendor_serial", reason="blowhole",
         vendor_serial_id=value(plant, "select max(id) from machserial.vendor_serials"))  # fmt: skip
    plant.execute(
        "update machserial.serials set status = 'RETIRED', claim_released = true, status_reason = 'worn' "
        "where serial_number = 'GONE'"
    )
    plant.execute(
        "update machserial.serials set status = 'CONFLICT', status_reason = 'seen' where serial_number = 'OLD'"
    )
    generated(plant, "Q", 2)
    before = value(plant, "select max(id) from machserial.audit_events")
    set_scopes(plant, "P", ["ENTERPRISE"], by_function)
    assert set(map(frozenset, scopes_of(plant, "P").values())) == {frozenset({"ENTERPRISE"})}
    assert set(map(frozenset, scopes_of(plant, "Q").values())) == {frozenset({"SITE", "PART_TYPE"})}
    told = plant.execute(
        "select event_type, count(*), count(distinct serial_id), min(details ->> 'scopes') "
        "from machserial.audit_events where id > %s group by event_type order by event_type",
        (before,),
    ).fetchall()
    assert [row[:3] for row in told] == [("PART_UPDATED", 1, 0), ("SERIAL_UPDATED", 12, 12)]
    assert "ENTERPRISE" in told[1][3] and "PART_TYPE" in told[1][3]
    set_scopes(plant, "P", ["PART_TYPE", "SITE"], by_function)
    assert set(map(frozenset, scopes_of(plant, "P").values())) == {frozenset({"SITE", "PART_TYPE"})}
    assert plant.execute("select * from machserial.integrity()").fetchall() == []


def test_a_tightened_scope_holds_for_what_is_on_record(plant):
    """A00003 is never beside A00003: not by generate(), not by hand."""
    set_scopes(plant, "P", ["SITE"])
    set_scopes(plant, "P2", ["SITE"])
    assert generated(plant, "P", 3) == ["A00001", "A00002", "A00003"]
    for part_id in ("P", "P2"):
        set_scopes(plant, part_id, ["PART_TYPE"])
    assert generated(plant, "P2", 2, site_id="BER") == ["A00004", "A00005"]
    with refused(plant, "23505"):
        register(plant, ["A00003"], "P2", site_id="BER")
    assert plant.execute("select * from machserial.integrity()").fetchall() == []


@pytest.mark.parametrize(("scopes", "collides"), [
    (["PART_TYPE"], True), (["ENTERPRISE"], True), (["SITE", "PART_TYPE"], True), (["SITE"], False),
])  # fmt: skip
def test_duplicates_are_named_and_nothing_changes(plant, scopes, collides):
    set_scopes(plant, "P", ["SITE"])
    generated(plant, "P", 3)
    generated(plant, "P", 2, site_id="BER")
    before = scopes_of(plant, "P")
    if not collides:
        set_scopes(plant, "P", scopes)
        return
    for by_function in (True, False):
        with refused(plant, "23505") as refusal:
            set_scopes(plant, "P", scopes, by_function)
        assert "A00001" in refusal.message and "1 more" in refusal.message
        assert "A00001 (serials" in refusal.detail and "A00002" in refusal.detail and "A00003" not in refusal.detail
        assert refusal.diag.constraint_name == f"serials_{scopes[-1].lower()}_key"
        assert scopes_of(plant, "P") == before
        assert column(plant, "select default_scopes from machserial.parts where id = 'P'") == [["SITE"]]


def test_the_whole_enterprise_is_refused_for_a_number_that_others_have(plant):
    """No index compares ENTERPRISE with the scopes of Q: the change looks, alone, and misses nobody."""
    register(plant, ["SHARED", "OWN"], "P")
    register(plant, ["SHARED"], "Q", site_id="BER")
    with refused(plant, "23505") as refusal:
        set_scopes(plant, "P", ["ENTERPRISE"])
    assert "SHARED" in refusal.message and "OWN" not in refusal.detail
    # What was shared before is no reason to refuse another change, as the one that mends it.
    plant.execute("insert into machserial.serials (serial_number, part_id, site_id, scopes) "
                  "values ('PLANTED', 'Q', 'BER', '{ENTERPRISE,SITE,PART_TYPE}')")  # fmt: skip
    plant.execute("insert into machserial.serials (serial_number, part_id) values ('PLANTED', 'P')")
    set_scopes(plant, "P", ["SITE"])
    set_scopes(plant, "P", ["PART_TYPE", "SITE"])


def test_many_duplicates_are_counted(plant):
    set_scopes(plant, "P", ["SITE"])
    generated(plant, "P", 30)
    generated(plant, "P", 30, site_id="BER")
    with refused(plant, "23505") as refusal:
        set_scopes(plant, "P", ["PART_TYPE"])
    assert "29 more" in refusal.message and refusal.detail.count("(serials") == 10 and "..." in refusal.detail


def test_several_parts_in_one_statement(plant):
    generated(plant, "P", 2)
    register(plant, ["R1", "R2"], "Q")
    plant.execute(
        "update machserial.parts set default_scopes = case id when 'P' then '{ENTERPRISE,SITE}'::text[] "
        "else '{PART_TYPE}' end where id in ('P', 'Q')"
    )
    assert set(map(frozenset, scopes_of(plant, "P").values())) == {frozenset({"ENTERPRISE", "SITE"})}
    assert set(map(frozenset, scopes_of(plant, "Q").values())) == {frozenset({"PART_TYPE"})}
    # Two that both become claims on the whole enterprise.
    register(plant, ["TWICE"], "P2", site_id="BER")
    register(plant, ["TWICE"], "Q")
    with refused(plant, "23505"):
        plant.execute("update machserial.parts set default_scopes = '{ENTERPRISE}' where id in ('P2', 'Q')")


@pytest.mark.parametrize(("own", "was", "becomes", "after"), [
    (["ENTERPRISE"], ["SITE", "PART_TYPE"], ["SITE"], {"ENTERPRISE", "SITE"}),
    (["SITE"], ["SITE", "PART_TYPE"], ["PART_TYPE"], {"PART_TYPE"}),
    (["SITE"], ["PART_TYPE"], ["SITE", "PART_TYPE"], {"SITE", "PART_TYPE"}),
    (list(SCOPES), ["SITE"], ["PART_TYPE"], {"ENTERPRISE", "PART_TYPE"}),
    (["PART_TYPE", "SITE"], ["SITE", "PART_TYPE"], ["ENTERPRISE"], {"ENTERPRISE"}),
])  # fmt: skip
def test_a_serial_keeps_what_it_has_beyond_its_part_and_covers_it(plant, own, was, becomes, after):
    set_scopes(plant, "P", was)
    register(plant, ["OWN"], "P", scopes=own)
    set_scopes(plant, "P", becomes)
    assert list(scopes_of(plant, "P").values()) == [after]


def test_a_serial_alone_still_gives_up_no_scope(plant):
    (serial,) = register(plant, ["N"], "P", scopes=list(SCOPES))
    with violated(plant, "55000"):
        plant.execute("update machserial.serials set scopes = '{SITE,PART_TYPE}'")
    # Nor from a trigger of somebody else's.
    plant.execute("select machserial.create_roles()")
    plant.execute("create role clerk in role machserial_operator")
    plant.execute("create table public.bait (id integer); grant insert on public.bait to clerk")
    plant.execute(
        "create function public.narrow() returns trigger language plpgsql as $$ begin "
        "update machserial.serials set scopes = '{SITE,PART_TYPE}'; return null; end $$"
    )
    plant.execute("create trigger narrow after insert on public.bait for each row execute function public.narrow()")
    with violated(plant, "55000"):
        plant.execute("set local role clerk")
        plant.execute("insert into public.bait values (1)")
    assert scopes_of(plant, "P") == {serial.serial_id: set(SCOPES)}


def test_what_changes_nothing_waits_for_nobody(plant):
    generated(plant, "P", 2)
    locks = "select count(*) from pg_locks where relation = 'machserial.serials'::regclass and mode ~ 'ShareRow'"
    call(plant, "register_part", part_id="P", part_type="T", name="Pump", scopes=["PART_TYPE", "SITE"])
    plant.execute("update machserial.parts set name = 'Pump 2', default_scopes = '{PART_TYPE,SITE,SITE}'")
    assert value(plant, locks) == 0
    before = value(plant, "select count(*) from machserial.audit_events where event_type = 'SERIAL_UPDATED'")
    assert before == 0
    set_scopes(plant, "P", ["SITE"])
    assert value(plant, locks) == 1


@pytest.mark.own_database
def test_only_whom_all_sites_are_shown_may_and_only_now(plant):
    plant.execute("select machserial.create_roles()")
    plant.execute("create role local login in role machserial_supervisor")
    generated(plant, "P", 2)
    call(plant, "grant_site", role="local", site_id="BER")
    plant.commit()
    plant.execute("set role local")
    call(plant, "register_part", part_id="NEW", part_type="T", scopes=["ENTERPRISE"])
    with refused(plant, "42501"):
        set_scopes(plant, "P", ["SITE"])
    plant.rollback()
    for level in ("repeatable read", "serializable"):
        plant.execute(f"set transaction isolation level {level}")
        with refused(plant, "0A000"):
            set_scopes(plant, "P", ["SITE"])
        call(plant, "register_part", part_id="P", part_type="T", scopes=["SITE", "PART_TYPE"])
        plant.rollback()


# ENTERPRISE and the others


ENTERPRISE_FIRST = (["ENTERPRISE"], None)
OTHERS_FIRST = (None, ["ENTERPRISE"])


@pytest.mark.parametrize(("taken_in", "wanted_in"), [ENTERPRISE_FIRST, OTHERS_FIRST])
def test_every_verb_looks_beyond_its_own_scopes(plant, taken_in, wanted_in):
    register(plant, ["TAKEN", "A00002"], "Q", site_id="BER", scopes=taken_in)
    if wanted_in:
        set_scopes(plant, "P", wanted_in)
    found = call(plant, "check_uniqueness", serial_number="TAKEN", part_id="P")[0]
    assert (found.has_conflict, found.conflicting_scopes, len(found.conflicting_serial_ids)) == (
        True, ["ENTERPRISE"], 1,
    )  # fmt: skip
    assert call(plant, "claims_of", serial_numbers=["TAKEN", "FREE"], part_id="P")[0].claimed_scopes == ["ENTERPRISE"]
    with refused(plant, "23505") as refusal:
        register(plant, ["TAKEN"], "P")
    assert "part Q at site BER" in refusal.detail
    rows = register(plant, ["FREE", "TAKEN"], "P", on_conflict="RECORD")
    assert [(row.serial_number, row.has_conflict) for row in rows] == [("FREE", False), ("TAKEN", True)]
    recorded = plant.execute(
        "select conflicting_serial_ids, conflicting_scopes from machserial.serial_conflicts"
    ).fetchone()
    assert recorded == (found.conflicting_serial_ids, ["ENTERPRISE"])
    with refused(plant, "23505"):
        call(plant, "receive_vendor_serial", serial_number="TAKEN", vendor_name="V", part_id="P")
    rows = call(plant, "receive_vendor_serials", vendor_name="V", part_id="P", serial_numbers=["F1", "TAKEN"])
    assert [row.status for row in rows] == ["PENDING", "REFUSED"]
    placeholders = [row.id for row in call(plant, "create_placeholders", part_id="P", quantity=2)]
    with refused(plant, "23505") as refusal:
        call(plant, "assign_placeholder", placeholder_id=placeholders[0], serial_number="TAKEN")
    assert "part Q at site BER" in refusal.detail
    call(plant, "create_trigger", part_id="P", trigger_type="MATERIAL_RECEIPT", assignment_type="VENDOR")
    with refused(plant, "23505"):
        call(plant, "fire", trigger_type="MATERIAL_RECEIPT", part_id="P",
             context={"vendor_name": "V", "serial_numbers": ["F2", "TAKEN"]})  # fmt: skip
    # Nobody has looked when the block was allocated.
    block = call(plant, "allocate_block", format="plain", quantity=4, holder="LINE", part_id="P")[0]
    numbers = column(plant, "select machserial.block_serials(%s)", block.block_id)
    assert "A00002" not in numbers and len(numbers) == 4
    register(plant, numbers[:1], "Q", site_id="BER", scopes=taken_in)
    rows = call(plant, "report_block", block_id=block.block_id, used=numbers[:2])
    assert [row.has_conflict for row in rows] == [True, False]
    assert plant.execute("select * from machserial.integrity()").fetchall() == []


@pytest.mark.parametrize(("taken_in", "wanted_in"), [ENTERPRISE_FIRST, OTHERS_FIRST])
@pytest.mark.parametrize("is_known", [True, False])
def test_generate_steps_over_numbers_beyond_its_own_scopes(plant, taken_in, wanted_in, is_known):
    """Whether the part was numbered before, so that there is a plan, or not; one and many; by every way."""
    if wanted_in:
        set_scopes(plant, "P", wanted_in)
    if is_known:
        generated(plant, "P")
        generated(plant, "P", format="gapless")
    start = 2 if is_known else 1
    taken = [f"A{n:05}" for n in (start, start + 3, start + 7, start + 300)]
    taken += [f"G{n:05}" for n in (start, start + 2)] + [str(n) for n in range(8)]
    register(plant, taken, "Q", site_id="BER", scopes=taken_in)
    expected = (f"A{n:05}" for n in itertools.count(start) if f"A{n:05}" not in taken)
    for quantity in (1, 1, 1, 5, 400):
        assert generated(plant, "P", quantity) == list(itertools.islice(expected, quantity))
    call(plant, "create_trigger", part_id="P", trigger_type="WORK_ORDER_CREATE",
         assignment_type="SYSTEM_GENERATED")  # fmt: skip
    following = next(expected)
    register(plant, [following], "Q", site_id="BER", scopes=taken_in)
    rows = call(plant, "fire", trigger_type="WORK_ORDER_CREATE", part_id="P", quantity=2)
    assert [row.serial_number for row in rows] == list(itertools.islice(expected, 2))
    assert generated(plant, "P", 2, format="gapless") == [f"G{start + 1:05}", f"G{start + 3:05}"]
    assert sorted(generated(plant, "P", 2, format="random")) == ["8", "9"]
    with refused(plant, "2200H"):
        generated(plant, "P", format="random")
    assert plant.execute("select * from machserial.integrity()").fetchall() == []


@pytest.mark.parametrize("statement", [
    "insert into machserial.serials (serial_number, part_id, site_id, scopes) values "
    "('A00003', 'Q', 'BER', '{ENTERPRISE}')",
    "update machserial.serials set scopes = '{ENTERPRISE,SITE,PART_TYPE}' where part_id = 'Q'",
    "update machserial.serials set status = 'ACTIVE', status_reason = 'ours' where part_id = 'P2'",
])  # fmt: skip
def test_generate_sees_the_first_claim_on_the_whole_enterprise_however_it_comes(plant, statement):
    register(plant, ["A00003"], "Q", site_id="BER", scopes=["SITE", "PART_TYPE"])
    plant.execute(
        "insert into machserial.serials (serial_number, part_id, site_id, scopes, status) values "
        "('A00003', 'P2', 'BER', '{ENTERPRISE}', 'CONFLICT')"
    )
    assert generated(plant, "P", 2) == ["A00001", "A00002"]
    plant.execute(statement)
    assert generated(plant, "P") == ["A00004"]


# Against brute force


@dataclass(frozen=True)
class Serial:
    number: str
    part: str
    site: str
    scopes: frozenset
    claims: bool = True


PART_TYPES = {"P": "T", "P2": "T", "Q": "U"}
SITES = ("DEFAULT", "BER")
some_scopes = st.sampled_from(SUBSETS)
number = st.sampled_from(["A00001", "A00002", "A00003", "X"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("register"), number, st.sampled_from(sorted(PART_TYPES)), st.sampled_from(SITES),
                  st.one_of(st.none(), some_scopes)),
        st.tuples(st.just("generate"), st.sampled_from([1, 2]), st.sampled_from(sorted(PART_TYPES)),
                  st.sampled_from(SITES), st.none()),
        st.tuples(st.just("rescope"), st.booleans(), st.sampled_from(sorted(PART_TYPES)), st.none(), some_scopes),
        st.tuples(st.just("release"), number, st.sampled_from(sorted(PART_TYPES)), st.none(), st.none()),
    ),
    min_size=3, max_size=14,
)  # fmt: skip


def meet(one: Serial, other: Serial) -> set:
    """The scopes in which two with the same number are in each other's way, by the words of the contract."""
    if one.number != other.number or not (one.claims and other.claims):
        return set()
    shared = {"ENTERPRISE"} & (one.scopes | other.scopes)
    if one.site == other.site:
        shared |= {"SITE"} & one.scopes & other.scopes
    if PART_TYPES[one.part] == PART_TYPES[other.part]:
        shared |= {"PART_TYPE"} & one.scopes & other.scopes
    return shared


class Model:
    def __init__(self) -> None:
        self.parts = {part: frozenset({"SITE", "PART_TYPE"}) for part in PART_TYPES}
        self.serials: dict[int, Serial] = {}
        self.counters: dict[tuple, int] = {}

    def is_taken(self, wanted: Serial) -> bool:
        return any(meet(wanted, serial) for serial in self.serials.values())

    def next_numbers(self, quantity: int, part: str, site: str) -> list[str]:
        found = []
        while len(found) < quantity:
            at = self.counters[part, site] = self.counters.get((part, site), 0) + 1
            if not self.is_taken(Serial(f"A{at:05}", part, site, self.parts[part])):
                found.append(f"A{at:05}")
        return found

    def rescoped(self, part: str, becomes: frozenset) -> dict[int, Serial] | None:
        """Everything afterwards; None if two get into each other's way where they were not before."""
        was = self.parts[part]
        if becomes == was:
            return self.serials
        after = {
            key: replace(one, scopes=one.scopes - was | becomes) if one.part == part else one
            for key, one in self.serials.items()
        }
        for one, other in itertools.combinations(after, 2):
            if not meet(after[one], after[other]) <= meet(self.serials[one], self.serials[other]):
                return None
        return after


@contextlib.contextmanager
def undone(connection):
    with connection.transaction(force_rollback=True):
        yield


def step(connection, model: Model, action: str, what, part: str, site: str | None, scopes: list | None) -> None:
    if action == "register":
        wanted = Serial(what, part, site, frozenset(scopes) if scopes else model.parts[part])
        taken = model.is_taken(wanted)
        answer = call(connection, "check_uniqueness", serial_number=what, part_id=part, site_id=site, scopes=scopes)[0]
        assert answer.has_conflict == taken
        holders = {key for key, one in model.serials.items() if meet(wanted, one)}
        assert set(answer.conflicting_serial_ids) == holders
        if taken:
            with refused(connection, "23505"):
                register(connection, [what], part, site_id=site, scopes=scopes)
        else:
            (row,) = register(connection, [what], part, site_id=site, scopes=scopes)
            model.serials[row.serial_id] = wanted
    elif action == "generate":
        rows = call(connection, "generate", part_id=part, quantity=what, site_id=site)
        assert [row.serial_number for row in rows] == model.next_numbers(what, part, site)
        for row in rows:
            model.serials[row.serial_id] = Serial(row.serial_number, part, site, model.parts[part])
    elif action == "rescope":
        after = model.rescoped(part, frozenset(scopes))
        if after is None:
            with refused(connection, "23505"):
                set_scopes(connection, part, scopes, by_function=what)
        else:
            set_scopes(connection, part, scopes, by_function=what)
            model.serials, model.parts[part] = after, frozenset(scopes)
    else:
        for key, one in model.serials.items():
            if one.number == what and one.part == part and one.claims:
                connection.execute(
                    "update machserial.serials set status = 'RETIRED', claim_released = true, status_reason = 'r' "
                    "where id = %s", (key,),
                )  # fmt: skip
                model.serials[key] = replace(one, claims=False)
                break


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=steps)
def test_scopes_are_what_brute_force_says(plant, plan):
    with undone(plant):
        # Sequences do not go back: each run counts in a counter of its own.
        plant.execute("delete from machserial.format_assignments")
        made = f"F{time.monotonic_ns()}"
        make_format(plant, made, "A{SEQ:5}", counter_per="SITE_PART")
        for part in PART_TYPES:
            call(plant, "assign_format", part_id=part, format=made)
        model = Model()
        for one in plan:
            step(plant, model, *one)
        stored = plant.execute(
            "select id, serial_number, part_id, site_id, scopes, holds_claim from machserial.serials"
        )
        assert {row[0]: Serial(*row[1:4], frozenset(row[4]), row[5]) for row in stored} == model.serials
        # And what integrity() has to say: nothing but scopes that were asked for.
        narrow = {
            key
            for key, one in model.serials.items()
            if one.claims and not one.scopes >= model.parts[one.part] and "ENTERPRISE" not in one.scopes
        }
        findings = [
            finding
            for part in ("claims", "scopes")
            for finding in plant.execute("select name, object from machserial.integrity(%s)", (part,))
        ]
        assert sorted(findings) == sorted(("scopes_not_covered", f"serial {key}") for key in narrow)


# At the same time


def waiting(connection) -> int:
    return value(connection, "select count(*) from pg_locks where not granted and locktype <> 'transactionid'")


def until(condition) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


def make_things(connection) -> dict[str, str]:
    block = call(connection, "allocate_block", format="plain", quantity=5, holder="LINE", part_id="P")[0].block_id
    placeholders = call(connection, "create_placeholders", part_id="P", quantity=2)
    call(connection, "create_trigger", part_id="P", trigger_type="MATERIAL_RECEIPT", assignment_type="VENDOR")
    call(connection, "create_trigger", part_id="P", trigger_type="WORK_ORDER_CREATE",
         assignment_type="SYSTEM_GENERATED")  # fmt: skip
    return {"{block}": str(block), "{placeholder}": str(placeholders[0].id), "{other}": str(placeholders[1].id)}


INSERTS = [
    "select * from machserial.generate('P')",
    "select * from machserial.generate('P', 3)",
    "select * from machserial.generate('P', 200)",
    "select * from machserial.generate('P', 2, format => 'gapless')",
    "select * from machserial.generate('P', 2, pattern => 'AD-HOC-{SEQ:4}')",
    "select * from machserial.register_serial('H1', 'P')",
    "select * from machserial.register_serials('{H2,H3}', 'P', on_conflict => 'RECORD')",
    "select * from machserial.receive_vendor_serial('V1', 'V', 'P')",
    "select * from machserial.receive_vendor_serials('V', 'P', '{V2,V3}')",
    "select * from machserial.report_block({block}, array(select machserial.block_serials({block}) limit 2))",
    "select * from machserial.assign_placeholder({placeholder}, 'L1')",
    "select * from machserial.assign_placeholder({other})",
    "select * from machserial.fire('MATERIAL_RECEIPT', 'P', '{\"vendor_name\": \"V\", \"serial_number\": \"V4\"}')",
    "select * from machserial.fire('WORK_ORDER_CREATE', 'P', quantity => 3)",
    "insert into machserial.serials (serial_number, part_id) values ('SQL', 'P')",
]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_who_inserts_beside_a_change_of_scopes_has_those_before_or_after(plant, connect, ends):
    """The change holds the table: whoever comes waits, and then goes by what holds then."""
    things = make_things(plant)
    # Plans that hold until the change.
    for _ in range(2):
        generated(plant, "P")
        generated(plant, "P", 2, format="gapless")
    plant.commit()
    changing = connect()
    set_scopes(changing, "P", ["ENTERPRISE"])

    def insert(query: str) -> None:
        for name, given_id in things.items():
            query = query.replace(name, given_id)
        with connect(autocommit=True) as working:
            working.execute(query)

    with ThreadPoolExecutor(len(INSERTS)) as threads:
        running = [threads.submit(insert, query) for query in INSERTS]
        until(lambda: waiting(plant) >= 8)
        time.sleep(0.2)
        getattr(changing, ends)()
        for one in running:
            one.result()
    plant.rollback()
    expected = {"ENTERPRISE"} if ends == "commit" else {"SITE", "PART_TYPE"}
    assert set(map(frozenset, scopes_of(plant, "P").values())) == {frozenset(expected)}
    assert value(plant, "select count(*) from machserial.serials") >= 220
    assert plant.execute("select * from machserial.integrity()").fetchall() == []


@pytest.mark.parametrize("query", INSERTS[:3] + INSERTS[5:9])
def test_a_change_of_scopes_waits_for_who_has_inserted(plant, connect, query):
    generated(plant, "P")
    plant.commit()
    inserting, changing = connect(), connect()
    inserting.execute(query)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(set_scopes, changing, "P", ["ENTERPRISE"])
        until(lambda: waiting(plant) == 1)
        inserting.commit()
        running.result()
    changing.commit()
    plant.rollback()
    assert set(map(frozenset, scopes_of(plant, "P").values())) == {frozenset({"ENTERPRISE"})}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_snapshot_from_before_the_change_inserts_nothing(plant, connect, level):
    generated(plant, "P")
    plant.commit()
    for query in INSERTS[:3] + INSERTS[5:8] + INSERTS[-1:]:
        old = connect()
        old.execute(f"set transaction isolation level {level}")
        old.execute("select count(*) from machserial.parts")
        for scopes in (["ENTERPRISE"], ["SITE"]):
            set_scopes(plant, "P", scopes)
            plant.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            old.execute(query)
        old.rollback()
        # Run again, as it says.
        old.execute(f"set transaction isolation level {level}")
        old.execute(query)
        old.rollback()
    assert set(map(frozenset, scopes_of(plant, "P").values())) == {frozenset({"SITE"})}


def test_two_changes_at_a_time_come_one_after_the_other(plant, connect):
    generated(plant, "P", 3)
    register(plant, ["R1"], "Q")
    plant.commit()
    first, second = connect(), connect()
    set_scopes(first, "P", ["SITE"])
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(set_scopes, second, "Q", ["PART_TYPE"])
        until(lambda: waiting(plant) == 1)
        first.commit()
        running.result()
    second.commit()
    plant.rollback()
    assert set(map(frozenset, scopes_of(plant, "P").values())) == {frozenset({"SITE"})}
    assert set(map(frozenset, scopes_of(plant, "Q").values())) == {frozenset({"PART_TYPE"})}


def test_scopes_that_change_all_the_time_beside_all_who_number(plant, connect):
    """No serial is left with other scopes than its part's, and no number is claimed twice."""
    plant.commit()
    stop = threading.Event()
    done: list[int] = []

    def number(worker: int) -> None:
        with connect(autocommit=True) as working:
            count = 0
            while not stop.is_set():
                part, site = ("P", "P2", "Q")[count % 3], SITES[count % 2]
                # A number that is taken under the scopes of a moment ago may be free by the time of the answer: 40001.
                with contextlib.suppress(psycopg.errors.UniqueViolation, psycopg.errors.SerializationFailure):
                    if count % 4 == 3:
                        register(working, [f"H{count}", f"W{worker}-{count}"], part, site_id=site,
                                 on_conflict="RECORD")  # fmt: skip
                    else:
                        generated(working, part, (1, 4, 150)[count % 3], site_id=site)
                count += 1
            done.append(count)

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(number, worker) for worker in range(3)]
        with connect(autocommit=True) as changing:
            for turn in range(12):
                part = ("P", "P2", "Q")[turn % 3]
                with contextlib.suppress(psycopg.errors.UniqueViolation):
                    set_scopes(changing, part, SUBSETS[turn % len(SUBSETS)], by_function=turn % 2 == 0)
                time.sleep(0.05)
        stop.set()
        for one in running:
            one.result()
    assert min(done) > 3
    narrow = "select count(*) from machserial.serials as s join machserial.parts as p on p.id = s.part_id " \
        "where not (s.scopes <@ p.default_scopes and s.scopes @> p.default_scopes)"
    assert value(plant, narrow) == 0
    found = plant.execute("select * from machserial.integrity() where name <> 'claim_across_scopes'").fetchall()
    assert found == []
