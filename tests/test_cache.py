"""The cache of taken numbers: it may refuse early, it never allows, and PostgreSQL answers whatever Redis does."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from conftest import BUILD, start_server
from machserial import cache_store, cache_upkeep
from machserial.cache import CircuitBreaker, SerialTaken, UniquenessCache
from machserial.cache_store import Epoch, Position
from machserial.errors import ExpectedError
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool
from servers import server_account
from support import HOSTILE, at_once, call, make_part, register, value

SITES = ("DEFAULT", "BER")


# A machine that is busy with something else is not what these tests are about.
PATIENCE = 20


def patient(database: object, url: str, **options: object) -> UniquenessCache:
    """A cache that waits longer for Redis than applications want to."""
    return UniquenessCache(database, url, **{"timeout": PATIENCE, **options})


@pytest.fixture
def plant(connection: psycopg.Connection) -> psycopg.Connection:
    """Parts P and Q of type T, R of type U; sites DEFAULT and BER. Every statement is committed."""
    call(connection, "register_site", site_id="BER")
    make_part(connection, "P", "T")
    make_part(connection, "Q", "T")
    make_part(connection, "R", "U")
    connection.commit()
    connection.autocommit = True
    return connection


@pytest.fixture
def open_cache(plant: psycopg.Connection, redis_server, deployed_dsn: str) -> Iterator[Callable[..., UniquenessCache]]:
    """open_cache(database, **options): caches at the test's database and Redis, closed afterwards."""
    opened = []

    def create(database: object = deployed_dsn, **options: object) -> UniquenessCache:
        opened.append(patient(database, redis_server.url, **options))
        return opened[-1]

    yield create
    for one in opened:
        one.close()


@pytest.fixture
def cache(open_cache: Callable[..., UniquenessCache]) -> UniquenessCache:
    return open_cache(retry_after=0.2)


@pytest.fixture
def keeper(connect: Callable[..., psycopg.Connection], redis_server) -> psycopg.Connection:
    """A connection as commands have it, for cache_upkeep."""
    session = connect()
    session.row_factory = dict_row
    return session


def sync(keeper: psycopg.Connection, redis_server) -> cache_upkeep.Synced:
    return cache_upkeep.sync(keeper, redis_server.client)


def epoch_of(session: psycopg.Connection) -> Epoch:
    with session.cursor(row_factory=dict_row) as cursor:
        return Epoch(**cursor.execute(cache_store.READ_EPOCH).fetchone())


def facts(redis_server) -> list[str]:
    """The keys of facts, of all epochs."""
    return sorted(key.decode() for key in redis_server.client.keys("machserial:*:*:*") if len(key.split(b":")[3]) == 22)


def facts_of(epoch: Epoch, number: str) -> list[cache_store.Fact]:
    """That it is taken for P, by the scopes SITE and PART_TYPE."""
    return [epoch.fact(claim) for claim in cache_store.claims_on(number, ["SITE", "PART_TYPE"], "DEFAULT", "T")]


def keys_of(epoch: Epoch, number: str) -> list[str]:
    return [key for key, _ in facts_of(epoch, number)]


def said(cache: UniquenessCache, number: str, part_id: str = "P", **options: object) -> tuple[bool, str]:
    answer = cache.is_taken(number, part_id, **options)
    return answer.is_taken, answer.source


def release(session: psycopg.Connection, number: str) -> None:
    """A claim is released by what a vendor's serial is: received, and rejected."""
    (vendor_serial_id,) = session.execute(
        "select id from machserial.vendor_serials where id in (select id from machserial.find_serial(%s))", (number,)
    ).fetchone()
    call(session, "reject_vendor_serial", vendor_serial_id=vendor_serial_id, reason="broken")


def receive(session: psycopg.Connection, number: str, part_id: str = "P") -> None:
    call(session, "receive_vendor_serial", serial_number=number, vendor_name="ACME", part_id=part_id)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# What is answered, and by whom


def test_a_taken_number_is_known_from_the_second_time_on(plant, cache):
    register(plant, ["A"])
    assert said(cache, "A") == (True, "database")
    assert said(cache, "A") == (True, "cache")
    assert cache.is_taken("A", "P").scopes == ("SITE", "PART_TYPE")
    # For another part as far as it shares a scope, and not at another site if it shares none.
    assert said(cache, "A", "R") == (True, "cache")
    assert said(cache, "A", "R", site_id="BER") == (False, "database")
    counted = cache.statistics
    assert (counted.look_ups, counted.hits, counted.misses, counted.stored) == (5, 3, 2, 2)
    assert (counted.failures, counted.lies, counted.refuted, counted.skipped) == (0, 0, 0, 0)


def test_an_answer_is_a_condition(plant, cache):
    register(plant, ["A"])
    assert cache.is_taken("A", "P")
    assert not cache.is_taken("B", "P")


def test_free_is_asked_of_postgresql_every_time_and_leaves_nothing_behind(plant, cache, redis_server):
    for _ in range(3):
        assert said(cache, "A") == (False, "database")
    assert facts(redis_server) == []
    register(plant, ["A"])
    assert said(cache, "A") == (True, "database")


def test_many_are_one_question(plant, cache):
    register(plant, [f"N{n}" for n in range(0, 5000, 2)])
    numbers = [f"N{n}" for n in range(5000)] + ["N0", "N1"]
    expected = [number in {f"N{n}" for n in range(0, 5000, 2)} for number in numbers]
    assert [bool(answer) for answer in cache.check_many(numbers, "P")] == expected
    answers = cache.check_many(numbers, "P")
    assert [bool(answer) for answer in answers] == expected
    assert [answer.serial_number for answer in answers] == numbers
    assert {answer.source for answer in answers if answer} == {"cache"}
    assert cache.check_many([], "P") == []


def test_scopes_mean_what_they_mean_to_check_uniqueness(plant, cache, keeper, redis_server):
    """All numbers, parts, sites and scopes, cold, asked again, and followed: the answer is PostgreSQL's."""
    scopes = [list(some) for n in (1, 2, 3) for some in itertools.combinations(("ENTERPRISE", "SITE", "PART_TYPE"), n)]
    for number, (part_id, site_id, wanted) in enumerate(itertools.product("PR", SITES, scopes)):
        register(plant, [f"N{number}"], part_id, site_id=site_id, scopes=wanted)
    for number in range(0, 28, 3):
        serial_id = value(plant, "select id from machserial.find_serial(%s)", f"N{number}")
        call(plant, "retire_serial", serial_id=serial_id, reason="worn out")
    receive(plant, "N28")
    release(plant, "N28")
    questions = list(itertools.product([f"N{n}" for n in range(30)], "PQR", SITES, [None, *scopes]))
    expected = [
        call(plant, "check_uniqueness", serial_number=n, part_id=p, site_id=s, scopes=w)[0].has_conflict
        for n, p, s, w in questions
    ]
    assert {True, False} == set(expected)
    for _ in range(2):
        assert [bool(cache.is_taken(*question)) for question in questions] == expected
    sync(keeper, redis_server)
    cache_upkeep.warm(keeper, redis_server.client)
    before = cache.statistics.hits
    assert [bool(cache.is_taken(*question)) for question in questions] == expected
    # Whatever is taken was known.
    assert cache.statistics.hits - before == sum(expected)


def test_no_text_is_taken_for_another(plant, cache):
    numbers = sorted({text.strip() for text in HOSTILE} | {"A:B", "A", ":B", "a"})
    register(plant, numbers)
    for _ in range(2):
        assert all(cache.check_many(numbers, "P"))
        assert not any(cache.check_many([number + "x" for number in numbers], "P"))


def test_serial_numbers_are_not_in_redis(plant, cache, redis_server):
    register(plant, ["SECRET-NUMBER"])
    cache.is_taken("SECRET-NUMBER", "P")
    held = {key: redis_server.client.get(key) for key in facts(redis_server)}
    assert len(held) == 2
    assert not any("SECRET" in f"{key}{content}" for key, content in held.items())


def test_what_is_asked_wrongly_is_said_by_postgresql(plant, cache):
    register(plant, ["A"])
    cache.is_taken("A", "P")
    for error, arguments in (
        (psycopg.errors.ForeignKeyViolation, {"part_id": "NONE"}),
        (psycopg.errors.ForeignKeyViolation, {"part_id": "P", "site_id": "NONE"}),
        (psycopg.errors.InvalidParameterValue, {"part_id": "P", "scopes": ["PLANET"]}),
        (psycopg.errors.InvalidParameterValue, {"part_id": "P", "scopes": []}),
    ):
        with pytest.raises(error):
            cache.is_taken("A", **arguments)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        cache.is_taken(" ", "P")
    for wrong in (None, 5, ["A", None]):
        with pytest.raises(TypeError):
            cache.check_many(wrong if isinstance(wrong, list) else [wrong], "P")
    with pytest.raises(TypeError):
        cache.check_many("ABC", "P")


@pytest.mark.own_database
def test_claims_of_is_check_uniqueness_for_many(plant):
    register(plant, ["A", "B"])
    register(plant, ["B"], "R", site_id="BER")
    rows = call(plant, "claims_of", serial_numbers=["A", "B", "C", "A"], part_id="R", site_id="BER")
    assert sorted(rows) == [("B", rows[0].serial_ids, ["PART_TYPE", "SITE"])]
    rows = call(plant, "claims_of", serial_numbers=["A", "B", "C", "A"], part_id="Q", scopes=["part_type"])
    assert sorted((row.serial_number, row.claimed_scopes) for row in rows) == [
        ("A", ["PART_TYPE"]), ("A", ["PART_TYPE"]), ("B", ["PART_TYPE"]),
    ]  # fmt: skip
    assert call(plant, "claims_of", serial_numbers=[], part_id="P") == []
    for bad in ([None], [""], ["A", " "], None):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            plant.execute("select * from machserial.claims_of(%s::text[], 'P')", (bad,))


# Committed facts only


def test_an_uncommitted_number_is_never_cached(plant, cache, connect, redis_server):
    session = connect()
    own = patient(session, redis_server.url)
    register(session, ["A"])
    assert said(cache, "A") == (False, "database")
    # The session that has it sees it, and says so to nobody else.
    assert said(own, "A") == (True, "database")
    assert facts(redis_server) == []
    session.rollback()
    assert said(cache, "A") == (False, "database")
    assert said(own, "A") == (False, "database")
    register(session, ["A"])
    session.commit()
    assert said(own, "A") == (True, "database")
    assert said(cache, "A") == (True, "cache")


@pytest.mark.own_database
def test_what_a_transaction_of_the_application_sees_is_not_cached_even_if_nobody_knows_of_it(plant, redis_server):
    """A pool whose connections have written and not ended: PostgreSQL tells that they have."""

    class Lent:
        def __init__(self, session):
            self.session = session

        def connection(self):
            return contextlib.nullcontext(self.session)

    plant.autocommit = False
    register(plant, ["A"])
    with patient(Lent(plant), redis_server.url) as own:
        assert said(own, "A") == (True, "database")
        assert facts(redis_server) == []
        plant.commit()
        assert said(own, "A") == (True, "database")
        assert facts(redis_server)


def test_within_a_transaction_the_cache_is_left_out(plant, cache, connect, redis_server):
    """What the transaction has released is free for it, whatever others may still know."""
    receive(plant, "A")
    session = connect()
    own = patient(session, redis_server.url)
    assert [said(own, "A") for _ in range(2)] == [(True, "database"), (True, "cache")]
    release(session, "A")
    assert said(own, "A") == (False, "database")
    assert own.statistics.skipped == 1
    assert said(cache, "A") == (True, "cache")
    session.rollback()
    assert said(own, "A") == (True, "cache")


def test_an_idle_connection_is_left_idle(plant, connect, redis_server):
    for autocommit in (False, True):
        session = connect(autocommit=autocommit)
        with patient(session, redis_server.url) as own:
            own.is_taken("A", "P")
            assert session.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert not session.closed


def test_a_pool_of_the_application_serves(plant, deployed_dsn, redis_server):
    register(plant, ["A"])
    with ConnectionPool(deployed_dsn, min_size=1, max_size=2, open=True) as pool:
        with patient(pool, redis_server.url) as own:
            assert [said(own, "A") for _ in range(2)] == [(True, "database"), (True, "cache")]
        with pool.connection() as session:
            assert value(session, "select 1") == 1


def test_connections_that_were_lost_are_made_anew(plant, cache, server):
    assert said(cache, "A") == (False, "database")
    server.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'machserial' and pid <> %s",
        (plant.info.backend_pid,),
    )
    assert said(cache, "A") == (False, "database")


# Released claims


def test_a_released_claim_is_forgotten_by_sync(plant, cache, keeper, redis_server):
    sync(keeper, redis_server)
    receive(plant, "A")
    receive(plant, "B")
    assert all(cache.check_many(["A", "B"], "P"))
    release(plant, "A")
    # Until then the cache may refuse what is free. Whoever has to know asks for confirmation.
    assert said(cache, "A") == (True, "cache")
    done = sync(keeper, redis_server)
    assert (done.released, done.epoch_begun) == (2, False)
    assert said(cache, "A") == (False, "database")
    assert said(cache, "B") == (True, "cache")


def test_confirmation_refutes_what_was_released_and_mends_it(plant, cache):
    receive(plant, "A")
    cache.is_taken("A", "P")
    release(plant, "A")
    assert said(cache, "A") == (True, "cache")
    assert said(cache, "A", confirm=True) == (False, "database")
    assert cache.statistics.refuted == 1
    assert said(cache, "A") == (False, "database")


def test_a_conflict_that_is_resolved_frees_the_number_and_keeps_what_others_have(plant, cache, keeper, redis_server):
    sync(keeper, redis_server)
    register(plant, ["A", "B"], scopes=["SITE"])
    register(plant, ["A"], "R", scopes=["PART_TYPE"])
    sync(keeper, redis_server)
    register(plant, ["A", "B"], "P", on_conflict="RECORD")
    for number in "AB":
        holder = value(plant, "select min(id) from machserial.find_serial(%s)", number)
        call(
            plant, "resolve_conflict", serial_number=number, part_id="P", resolution="RETIRE",
            retired_serial_id=holder, reason="misread",
        )  # fmt: skip
    sync(keeper, redis_server)
    assert said(cache, "B", scopes=["SITE"]) == (False, "database")
    assert said(cache, "A", scopes=["SITE"]) == (False, "database")
    # R has it still, in another scope.
    assert said(cache, "A", "R", scopes=["PART_TYPE"]) == (True, "cache")


def test_a_released_number_that_is_taken_again_is_taken(plant, cache, keeper, redis_server):
    receive(plant, "A")
    sync(keeper, redis_server)
    release(plant, "A")
    sync(keeper, redis_server)
    receive(plant, "A")
    # What was said of the release keeps nobody from saying that it is taken.
    assert said(cache, "A") == (True, "database")
    sync(keeper, redis_server)
    assert said(cache, "A") == (True, "cache")


def test_who_is_late_does_not_bring_a_released_claim_back(plant, cache, keeper, redis_server):
    receive(plant, "A")
    epoch = epoch_of(plant)
    sync(keeper, redis_server)
    epoch = epoch_of(plant)
    release(plant, "A")
    sync(keeper, redis_server)
    # Somebody who was told before the release that it is taken, and writes that only now.
    cache_store.add(redis_server.client, facts_of(epoch, "A"), 100)
    assert said(cache, "A") == (False, "database")


def test_invalidate_forgets_at_once(plant, cache):
    receive(plant, "A")
    assert [said(cache, "A") for _ in range(2)][1] == (True, "cache")
    release(plant, "A")
    assert cache.invalidate("A", "P") is True
    assert said(cache, "A") == (False, "database")
    assert cache.invalidate("A", "NONE") is False


# Registering


def test_registering_is_refused_early(plant, cache):
    register(plant, ["A"])
    cache.is_taken("A", "P")
    before = value(plant, "select pg_sequence_last_value(pg_get_serial_sequence('machserial.serials', 'id'))")
    for confirm, source in ((True, "database"), (False, "cache")):
        with pytest.raises(psycopg.errors.UniqueViolation) as refusal:
            cache.register_serial("A", "P", confirm=confirm)
        assert isinstance(refusal.value, SerialTaken)
        assert (refusal.value.sqlstate, refusal.value.answer.source) == ("23505", source)
    # Nothing was tried.
    assert value(plant, "select pg_sequence_last_value(pg_get_serial_sequence('machserial.serials', 'id'))") == before


def test_registering_is_decided_by_postgresql(plant, cache):
    registered = cache.register_serial("A", "P", source="IMPORT")
    assert value(plant, "select source from machserial.serials where id = %s", registered["serial_id"]) == "IMPORT"
    with pytest.raises(psycopg.errors.UniqueViolation) as refusal:
        cache.register_serial("A", "P")
    assert not isinstance(refusal.value, SerialTaken)
    # A claim that was released and is still cached does not keep anybody from registering.
    receive(plant, "B")
    cache.is_taken("B", "P")
    release(plant, "B")
    assert said(cache, "B") == (True, "cache")
    assert cache.register_serial("B", "P")["serial_id"]


# Whatever Redis does


def answers_are_right(cache: UniquenessCache) -> bool:
    """A, B and C are taken, X, Y and Z are free."""
    numbers = list("ABCXYZ")
    assert [bool(answer) for answer in cache.check_many(numbers, "P")] == [True] * 3 + [False] * 3
    assert [bool(cache.is_taken(number, "P")) for number in numbers] == [True] * 3 + [False] * 3
    return True


@pytest.fixture
def known(plant, cache) -> UniquenessCache:
    """A cache that knows of A, B and C."""
    register(plant, ["A", "B", "C"])
    assert answers_are_right(cache)
    assert said(cache, "A") == (True, "cache")
    return cache


def goes_back_to_the_cache(cache: UniquenessCache) -> None:
    eventually(lambda: all(said(cache, number) == (True, "cache") for number in "ABC") and cache.circuit == "closed")
    assert answers_are_right(cache)


@pytest.fixture
def impatient(known, open_cache) -> UniquenessCache:
    """The same as applications have it: it waits for 50 ms."""
    return open_cache(timeout=0.05, retry_after=0.2)


def test_redis_stops_answering_and_answers_again(impatient, redis_server):
    known = impatient
    redis_server.pause()
    try:
        while known.circuit == "closed":
            assert answers_are_right(known)
        failures = known.statistics.failures
        assert failures >= 5
        assert known.circuit in ("open", "half-open")
        assert answers_are_right(known)
    finally:
        redis_server.resume()
    goes_back_to_the_cache(known)


def test_redis_is_slow(impatient, redis_server):
    known = impatient
    redis_server.client.client_pause(60_000, all=True)
    while known.circuit == "closed":
        assert answers_are_right(known)
    redis_server.stop()
    redis_server.start()
    goes_back_to_the_cache(known)


def test_an_open_circuit_leaves_redis_alone(plant, open_cache, redis_server):
    cache = open_cache(retry_after=1000, failures=2)
    register(plant, ["A"])
    redis_server.stop()
    for _ in range(20):
        assert said(cache, "A") == (True, "database")
    assert (cache.statistics.failures, cache.statistics.skipped, cache.circuit) == (2, 20, "open")


def test_redis_is_stopped_and_comes_back_empty(known, redis_server):
    redis_server.stop()
    assert answers_are_right(known)
    redis_server.start()
    assert facts(redis_server) == []
    goes_back_to_the_cache(known)


def test_redis_is_flushed_by_somebody_else(known, redis_server):
    redis_server.client.flushall()
    goes_back_to_the_cache(known)


def test_redis_was_never_there(plant, deployed_dsn, tmp_path):
    register(plant, ["A", "B", "C"])
    for url in (f"unix://{tmp_path}/none.sock", "redis://127.0.0.1:1/0"):
        with UniquenessCache(deployed_dsn, url) as cache:
            assert answers_are_right(cache)
            assert cache.statistics.failures > 0


def test_redis_is_something_else(plant, deployed_dsn, server):
    """PostgreSQL, for example, whose answer is none that Redis could give."""
    register(plant, ["A", "B", "C"])
    with UniquenessCache(deployed_dsn, f"unix://{server.host}/.s.PGSQL.5432") as cache:
        assert answers_are_right(cache)
        assert cache.statistics.failures > 0


def test_redis_asks_for_a_password(known, redis_server):
    redis_server.stop()
    redis_server.start("--requirepass", "secret")
    assert answers_are_right(known)


def test_redis_is_full(known, plant, redis_server):
    register(plant, ["D"])
    redis_server.client.config_set("maxmemory-policy", "noeviction")
    redis_server.client.config_set("maxmemory", 1)
    for _ in range(3):
        assert answers_are_right(known)
        assert said(known, "D") == (True, "database")
    # What it has is read all the same.
    assert said(known, "A") == (True, "cache")
    assert known.circuit == "closed"
    redis_server.client.config_set("maxmemory", 0)
    eventually(lambda: said(known, "D") == (True, "cache"))


def test_redis_evicts(known, plant, redis_server):
    numbers = [f"N{n}" for n in range(3000)]
    register(plant, numbers)
    redis_server.client.config_set("maxmemory-policy", "allkeys-random")
    redis_server.client.config_set("maxmemory", redis_server.client.info()["used_memory"] + 300_000)
    for _ in range(3):
        assert all(known.check_many(numbers, "P"))
        assert answers_are_right(known)
    assert redis_server.client.info()["evicted_keys"] > 0


def test_lies_are_not_believed(known, plant, redis_server):
    """All that could be said of X, in all the words that could be used, does not make it taken."""
    client, epoch = redis_server.client, epoch_of(plant)
    right, other = keys_of(epoch, "X"), keys_of(epoch, "A")
    for lie in (b"1", b"", b"taken", b"\xff\x00", client.get(other[0]), client.get(other[1]), b"x" * 100_000):
        for key in right:
            client.set(key, lie)
        before = known.statistics.lies
        assert answers_are_right(known)
        assert known.statistics.lies > before
    for key in (*right, *other):
        client.delete(key)
        client.rpush(key, "a", "list")
    assert answers_are_right(known)
    # The facts of another epoch, or database, are no better.
    for change in ({"secret": b"x" * 32}, {"epoch_name": "1/2/3"}, {"database_name": "9/9"}):
        strange = replace(epoch, **change)
        for key, (_, proof) in zip(right, facts_of(strange, "X"), strict=True):
            client.delete(key)
            client.set(key, proof)
        assert answers_are_right(known)


def test_lies_that_all_is_free_are_not_believed(known, plant, redis_server):
    for key in facts(redis_server):
        redis_server.client.set(key, b"-")
    assert answers_are_right(known)
    for key in facts(redis_server):
        redis_server.client.set(key, b"free")
    assert answers_are_right(known)
    # Those are mended.
    assert answers_are_right(known) and said(known, "A") == (True, "cache")


@pytest.mark.parametrize("seed", range(3))
def test_a_redis_full_of_rubbish(known, keeper, redis_server, seed):
    """Every key of the cache is something else, the epoch and the position included."""
    client, dice = redis_server.client, random.Random(seed)
    sync(keeper, redis_server)
    for key in client.keys("*"):
        if dice.random() < 0.3:
            client.set(key, dice.randbytes(dice.randrange(40)))
        elif dice.random() < 0.5:
            client.delete(key)
            client.hset(key, "a", "b")
        else:
            client.set(key, b"x")
    assert answers_are_right(known)
    sync(keeper, redis_server)
    assert answers_are_right(known)
    cache_upkeep.warm(keeper, client)
    goes_back_to_the_cache(known)


def test_a_lying_epoch_costs_a_question_and_no_more(known, plant, redis_server):
    epoch = epoch_of(plant)
    for lie in (b"other", b"\xff\xff", b""):
        redis_server.client.set(epoch.pointer_key, lie)
        assert answers_are_right(known)
        assert redis_server.client.get(epoch.pointer_key) == epoch.tag.encode()


def test_a_position_that_nobody_signed_is_none(plant, keeper, redis_server):
    client = redis_server.client
    assert sync(keeper, redis_server).epoch_begun
    register(plant, ["A"])
    epoch = epoch_of(plant)
    client.set(epoch.position_key, b"999999999999 1 1.0 " + b"x" * 16)
    assert sync(keeper, redis_server).epoch_begun
    client.delete(epoch_of(plant).position_key)
    client.rpush(epoch_of(plant).position_key, "a list")
    assert sync(keeper, redis_server).epoch_begun
    assert not sync(keeper, redis_server).epoch_begun


# Epochs


def test_flush_empties_what_all_applications_know_at_once(plant, cache, open_cache, keeper, redis_server):
    other = open_cache()
    receive(plant, "A")
    for one in (cache, other):
        assert [said(one, "A") for _ in range(2)][1] == (True, "cache")
    release(plant, "A")
    assert said(other, "A") == (True, "cache")
    removed = {key: redis_server.client.dump(key) for key in facts(redis_server)}
    assert cache_upkeep.flush(keeper, redis_server.client) == 2
    # Even if the keys were there still, or came back.
    for key, content in removed.items():
        redis_server.client.restore(key, 100_000, content)
    assert said(other, "A") == (False, "database")
    assert said(cache, "A") == (False, "database")
    receive(plant, "A")
    assert [said(other, "A") for _ in range(2)] == [(True, "database"), (True, "cache")]


def test_flush_leaves_the_keys_of_others(plant, cache, keeper, redis_server, new_database, server):
    client = redis_server.client
    others = {b"session:1": b"s", b"machserial": b"m", b"machserial:other:key": b"k", b"cache": b"c"}
    client.mset(others)
    register(plant, ["A"])
    cache.is_taken("A", "P")
    epoch = epoch_of(plant)
    # Another database of the same plant, in the same Redis.
    neighbour = replace(epoch, database_name="1/2")
    cache_store.add(client, facts_of(neighbour, "A"), 100)
    kept = {*others, *(key.encode() for key in keys_of(neighbour, "A"))}
    cache_upkeep.flush(keeper, client)
    present = epoch_of(plant)
    own = {present.pointer_key.encode(), present.position_key.encode()}
    assert set(client.keys("*")) == kept | own
    assert client.mget(others) == list(others.values())


def test_flush_works_in_a_full_redis(known, plant, keeper, redis_server):
    client = redis_server.client
    # Full even when the cache is empty: then it cannot be told where to go on from.
    client.config_set("maxmemory", 1)
    assert len(facts(redis_server)) == 6
    with pytest.raises(cache_store.RedisFull):
        cache_upkeep.flush(keeper, client)
    assert facts(redis_server) == []
    assert value(plant, "select count(*) from machserial.cache_epochs") == 2
    assert answers_are_right(known)


def test_flush_makes_room_in_a_full_redis(plant, keeper, redis_server):
    client = redis_server.client
    numbers = [f"N{n}" for n in range(5000)]
    register(plant, numbers)
    cache_upkeep.warm(keeper, client)
    client.config_set("maxmemory", client.info()["used_memory"] - 200_000)
    assert cache_upkeep.flush(keeper, client) >= 10_000
    assert not sync(keeper, redis_server).epoch_begun


def test_flush_counts_though_redis_is_away(known, plant, keeper, redis_server):
    redis_server.pause()
    before = epoch_of(plant).identity
    impatient = cache_store.open_redis(redis_server.url, 0.2)
    with pytest.raises(ExpectedError) as refusal:
        cache_upkeep.flush(keeper, impatient)
    assert "nobody believes them" in refusal.value.as_line()
    assert epoch_of(plant).identity != before
    redis_server.resume()
    eventually(lambda: said(known, "A") == (True, "cache"))


def test_a_restored_database_believes_nothing_of_the_original(
    plant, known, server, new_database, redis_server, tmp_path
):
    dsn = new_database("restored")
    server.dump_and_restore(plant.info.dbname, "restored", tmp_path / "dump", "custom")
    register(plant, ["LATER"])
    assert [said(known, "LATER") for _ in range(2)][1] == (True, "cache")
    with patient(dsn, redis_server.url) as copy:
        assert said(copy, "LATER") == (False, "database")
        assert said(copy, "A") == (True, "database")
        assert said(copy, "A") == (True, "cache")
        # And the original nothing of the copy.
        copy.register_serial("COPY", "P")
        assert [said(copy, "COPY") for _ in range(2)][1] == (True, "cache")
        assert said(known, "COPY") == (False, "database")


def test_a_database_that_is_copied_file_by_file_believes_nothing_of_the_original(
    plant, deployed_dsn, server, redis_server
):
    register(plant, ["A"])
    with patient(deployed_dsn, redis_server.url) as cache:
        assert [said(cache, "A") for _ in range(2)][1] == (True, "cache")
    name = plant.info.dbname
    plant.close()
    server.execute(f'create database copied template "{name}"')
    try:
        with patient(server.dsn("copied"), redis_server.url) as copy:
            assert said(copy, "A") == (True, "database")
    finally:
        server.execute("drop database copied with (force)")


def test_a_database_that_is_restored_over_itself_forgets(plant, open_cache, server, redis_server, tmp_path):
    """The dump is from before LATER was taken; cluster, database and newest epoch are the same afterwards."""
    cache = open_cache()
    server.run("pg_dump", "--format=custom", "--file", tmp_path / "dump", plant.info.dbname)
    register(plant, ["LATER"])
    assert [said(cache, "LATER") for _ in range(2)][1] == (True, "cache")
    plant.execute("drop schema machserial cascade")
    script = server.run("pg_restore", "--file", "-", tmp_path / "dump").replace("SET transaction_timeout = 0;\n", "")
    server.run("psql", "--quiet", "--set", "ON_ERROR_STOP=1", plant.info.dbname, stdin=script)
    assert said(open_cache(), "LATER") == (False, "database")
    # Within a second who was there all along knows it too.
    eventually(lambda: said(cache, "LATER") == (False, "database"))


def test_a_promoted_server_believes_nothing_of_before(request, redis_server):
    server = start_server(request.config)
    with contextlib.closing(SimpleNamespace(close=server.stop)):
        server.install_extension(BUILD)
        with psycopg.connect(server.dsn("postgres")) as session:
            session.execute("create extension machserial")
            session.execute("select machserial.migrate()")
            make_part(session, "P", "T")
            register(session, ["A"])
        with patient(server.dsn("postgres"), redis_server.url) as cache:
            assert [said(cache, "A") for _ in range(2)][1] == (True, "cache")
            before = server.execute("select epoch_name from machserial.cache_epoch()")
            server.process.send_signal(signal.SIGINT)
            server.process.wait(20)
            (server.folder / "data" / "standby.signal").touch()
            server._launch(Path(server.process.args[0]).parent, server_account())
            server.execute("select pg_promote()")
            assert server.execute("select epoch_name from machserial.cache_epoch()") != before
            # Within a second the cache knows it too.
            eventually(lambda: said(cache, "A") == (True, "database"))
            assert said(cache, "A") == (True, "cache")


def test_a_server_that_was_set_back_forgets_with_the_next_sync(plant, keeper, redis_server):
    """Its files were put back as they were: nothing tells but that the position has not come yet."""
    sync(keeper, redis_server)
    epoch = epoch_of(plant)
    cache_store.write_position(redis_server.client, epoch, Position(epoch.next_transaction_id + 1000))
    assert sync(keeper, redis_server).epoch_begun
    assert not sync(keeper, redis_server).epoch_begun


def test_a_redis_that_lost_its_position_begins_an_epoch(plant, cache, keeper, redis_server):
    """What was released since is not known: all that is there dies."""
    receive(plant, "A")
    sync(keeper, redis_server)
    assert [said(cache, "A") for _ in range(2)][1] == (True, "cache")
    release(plant, "A")
    redis_server.client.delete(epoch_of(plant).position_key)
    assert sync(keeper, redis_server).epoch_begun
    assert said(cache, "A") == (False, "database")


def test_a_redis_that_was_set_back_is_followed_from_there(plant, cache, keeper, redis_server):
    """As after a restart from an old snapshot: the position is as old as the facts."""
    client = redis_server.client
    receive(plant, "A")
    sync(keeper, redis_server)
    assert [said(cache, "A") for _ in range(2)][1] == (True, "cache")
    snapshot = {key: client.dump(key) for key in client.keys("*")}
    release(plant, "A")
    sync(keeper, redis_server)
    assert said(cache, "A") == (False, "database")
    for key, content in snapshot.items():
        client.restore(key, 100_000, content, replace=True)
    assert said(cache, "A") == (True, "cache")
    assert not sync(keeper, redis_server).epoch_begun
    assert said(cache, "A") == (False, "database")


def test_without_an_epoch_nothing_is_cached(plant, cache, redis_server):
    register(plant, ["A"])
    plant.execute("alter table machserial.cache_epochs disable trigger user")
    plant.execute("delete from machserial.cache_epochs")
    assert [said(cache, "A") for _ in range(3)] == [(True, "database")] * 3
    assert facts(redis_server) == []


@pytest.mark.own_database
def test_epochs_are_kept_and_say_who_began_them(plant):
    plant.execute("set machserial.actor = 'Ada'")
    assert value(plant, "select machserial.begin_cache_epoch('a test')") == 2
    assert plant.execute("select epoch, begun_by, reason from machserial.cache_epochs where epoch = 2").fetchone() == (
        2, "Ada", "a test",
    )  # fmt: skip
    secrets = value(plant, "select count(distinct secret) from machserial.cache_epochs where octet_length(secret) = 32")
    assert secrets == 2
    for change in ("update machserial.cache_epochs set reason = 'x'", "delete from machserial.cache_epochs",
                   "truncate machserial.cache_epochs"):  # fmt: skip
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            plant.execute(change)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        plant.execute("select machserial.begin_cache_epoch('')")


def test_epochs_that_are_begun_at_once_are_one_or_two(plant, connect):
    sessions = [connect() for _ in range(4)]

    def begin(number: int) -> int:
        epoch = value(sessions[number], "select machserial.begin_cache_epoch('at once')")
        sessions[number].commit()
        return epoch

    begun = at_once(4, begin)
    assert all(epoch > 1 for epoch in begun)
    assert value(plant, "select count(*) = max(epoch) from machserial.cache_epochs")


# Time to live


def test_every_key_expires(plant, cache, keeper, redis_server):
    register(plant, ["A"])
    sync(keeper, redis_server)
    receive(plant, "B")
    release(plant, "B")
    cache_upkeep.warm(keeper, redis_server.client)
    cache.is_taken("A", "P")
    cache.close()
    lives = {key.decode(): redis_server.client.ttl(key) for key in redis_server.client.keys("*")}
    assert len(lives) >= 5
    assert all(seconds > 0 for seconds in lives.values()), lives
    assert all(lives[key] <= 3600 for key in facts(redis_server))


def test_a_fact_that_expires_is_asked_again(known, redis_server):
    for key in facts(redis_server):
        redis_server.client.pexpire(key, 1)
    eventually(lambda: not facts(redis_server))
    assert said(known, "A") == (True, "database")
    assert said(known, "A") == (True, "cache")


def test_how_long_is_said_by_the_caller_the_environment_the_setting(plant, open_cache, redis_server, monkeypatch):
    register(plant, ["A", "B", "C", "D", "E"])

    def lives(number: str, **options: int) -> int:
        open_cache(**options).is_taken(number, "P")
        return redis_server.client.ttl(keys_of(epoch_of(plant), number)[0])

    assert 3500 < lives("A") <= 3600
    plant.execute("update machserial.settings set value = '900' where name = 'uniqueness_cache_ttl'")
    assert 800 < lives("B") <= 900
    monkeypatch.setenv("SERIAL_UNIQUENESS_CACHE_TTL", "300")
    assert 200 < lives("C") <= 300
    assert 50 < lives("D", ttl=60) <= 60
    monkeypatch.delenv("SERIAL_UNIQUENESS_CACHE_TTL")
    # Without the setting the cache has its own.
    plant.execute("delete from machserial.settings where name = 'uniqueness_cache_ttl'")
    assert 3500 < lives("E") <= 3600
    for wrong in (0, -1):
        with pytest.raises(ExpectedError):
            open_cache(ttl=wrong)
    monkeypatch.setenv("SERIAL_UNIQUENESS_CACHE_TTL", "an hour")
    with pytest.raises(ExpectedError, match="SERIAL_UNIQUENESS_CACHE_TTL"):
        open_cache()


def test_it_can_be_switched_off(plant, deployed_dsn, redis_server, monkeypatch):
    register(plant, ["A"])
    monkeypatch.delenv("REDIS_URL", raising=False)
    with UniquenessCache(deployed_dsn) as cache:
        assert [said(cache, "A") for _ in range(2)] == [(True, "database")] * 2
        assert (cache.circuit, cache.statistics.skipped) == ("off", 2)
        assert cache.invalidate("A", "P") is False
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    for off in ("false", "0", "no", "OFF"):
        monkeypatch.setenv("REDIS_ENABLED", off)
        with UniquenessCache(deployed_dsn) as cache:
            assert [said(cache, "A") for _ in range(2)] == [(True, "database")] * 2
            assert cache.circuit == "off"
    assert redis_server.client.keys("*") == []
    monkeypatch.setenv("REDIS_ENABLED", "true")
    with UniquenessCache(deployed_dsn, timeout=PATIENCE) as cache:
        assert [said(cache, "A") for _ in range(2)][1] == (True, "cache")
    monkeypatch.setenv("REDIS_ENABLED", "maybe")
    with pytest.raises(ExpectedError, match="REDIS_ENABLED"):
        UniquenessCache(deployed_dsn)


# Following the events


def test_sync_follows_what_was_committed(plant, cache, keeper, redis_server):
    register(plant, ["OLD"])
    assert sync(keeper, redis_server).epoch_begun
    register(plant, ["A", "B"])
    call(plant, "create_format", name="F", pattern="F{SEQ:3}")
    call(plant, "generate", part_id="P", quantity=3, format="F")
    done = sync(keeper, redis_server)
    assert (done.events, done.taken, done.released, done.epoch_begun, done.waits_for) == (5, 10, 0, False, None)
    assert [said(cache, number) for number in ("A", "B", "F001", "F003")] == [(True, "cache")] * 4
    # What came before was not followed, and is asked.
    assert said(cache, "OLD") == (True, "database")
    assert sync(keeper, redis_server).events == 0


def test_sync_does_not_see_what_is_rolled_back(plant, cache, keeper, connect, redis_server):
    sync(keeper, redis_server)
    session = connect()
    register(session, ["A"])
    session.rollback()
    register(plant, ["B"])
    assert sync(keeper, redis_server).events == 1
    assert said(cache, "A") == (False, "database")


def test_a_long_transaction_delays_events_and_loses_none(plant, cache, keeper, connect, redis_server):
    sync(keeper, redis_server)
    receive(plant, "FREED")
    sync(keeper, redis_server)
    long_one, longer_one = connect(), connect()
    register(long_one, ["LATE"])
    register(longer_one, ["LATER"])
    release(long_one, "FREED")
    register(plant, ["EARLY"])
    done = sync(keeper, redis_server)
    assert (done.events, done.waits_for is not None) == (0, True)
    assert f"process {long_one.info.backend_pid}" in done.waits_for
    assert said(cache, "LATE") == (False, "database")
    assert said(cache, "FREED") == (True, "cache")
    long_one.commit()
    # The other one is younger than LATE, and older than EARLY.
    done = sync(keeper, redis_server)
    assert done.events >= 2 and str(longer_one.info.backend_pid) in done.waits_for
    assert said(cache, "LATE") == (True, "cache")
    assert said(cache, "FREED") == (False, "database")
    assert not redis_server.client.exists(*keys_of(epoch_of(plant), "EARLY"))
    longer_one.commit()
    done = sync(keeper, redis_server)
    assert (done.events, done.waits_for) == (2, None)
    assert [said(cache, number) for number in ("LATER", "EARLY")] == [(True, "cache")] * 2


def test_events_are_followed_some_at_a_time(plant, cache, keeper, redis_server):
    sync(keeper, redis_server)
    numbers = [f"N{n}" for n in range(cache_upkeep.SERIALS_AT_ONCE + 500)]
    register(plant, numbers)
    register(plant, ["LAST"])
    assert sync(keeper, redis_server).events == len(numbers) + 1
    assert all(answer.source == "cache" for answer in cache.check_many([*numbers, "LAST"], "P"))


def test_a_full_redis_forgets_what_was_released_and_is_followed_again(plant, cache, keeper, redis_server, monkeypatch):
    monkeypatch.setattr(cache_upkeep, "SERIALS_AT_ONCE", 2)
    sync(keeper, redis_server)
    for number in "ABCD":
        receive(plant, number)
    sync(keeper, redis_server)
    register(plant, ["NEW"])
    for number in "ABCD":
        release(plant, number)
    redis_server.client.config_set("maxmemory", 1)
    with pytest.raises(cache_store.RedisFull):
        sync(keeper, redis_server)
    keeper.rollback()
    assert [said(cache, number) for number in "ABCD"] == [(False, "database")] * 4
    redis_server.client.config_set("maxmemory", 0)
    assert sync(keeper, redis_server).events >= 5
    assert said(cache, "NEW") == (True, "cache")


def test_two_do_not_follow_at_once(plant, keeper, connect, redis_server):
    session = connect()
    session.execute(f"select pg_advisory_xact_lock({cache_upkeep.ALONE})")
    with pytest.raises(ExpectedError, match="another session"):
        sync(keeper, redis_server)
    session.rollback()
    assert sync(keeper, redis_server).epoch_begun


# Warming


def test_warming_writes_all_claims(plant, cache, keeper, redis_server):
    register(plant, [f"N{n}" for n in range(100)])
    receive(plant, "GONE")
    release(plant, "GONE")
    done = cache_upkeep.warm(keeper, redis_server.client)
    assert (done.serials, done.claims, done.resumed_after) == (100, 200, None)
    assert len(facts(redis_server)) == 200
    assert all(a.source == "cache" for a in cache.check_many([f"N{n}" for n in range(100)], "P"))
    # From then on the events are followed: nothing that happened since is missed.
    register(plant, ["AFTER"])
    assert not sync(keeper, redis_server).epoch_begun
    assert said(cache, "AFTER") == (True, "cache")


def test_warming_a_part_or_a_site(plant, cache, keeper, redis_server):
    register(plant, ["P1"], "P")
    register(plant, ["R1"], "R")
    register(plant, ["R2"], "R", site_id="BER")
    assert cache_upkeep.warm(keeper, redis_server.client, part_id="R").serials == 2
    assert cache_upkeep.warm(keeper, redis_server.client, site_id="BER").serials == 1
    assert cache_upkeep.warm(keeper, redis_server.client, part_id="P", site_id="BER").serials == 0
    assert said(cache, "R2", "R", site_id="BER") == (True, "cache")
    assert said(cache, "P1") == (True, "database")
    with pytest.raises(ExpectedError, match="there is no part NONE"):
        cache_upkeep.warm(keeper, redis_server.client, part_id="NONE")


def test_warming_goes_on_where_it_was_interrupted(plant, keeper, redis_server, monkeypatch):
    monkeypatch.setattr(cache_upkeep, "SERIALS_AT_ONCE", 10)
    ids = [row.serial_id for row in register(plant, [f"N{n}" for n in range(35)])]

    def stop_soon(total: int):
        seen = itertools.count(1)

        def advance(_: int) -> None:
            if next(seen) == 2:
                raise KeyboardInterrupt

        return advance

    with pytest.raises(KeyboardInterrupt):
        cache_upkeep.warm(keeper, redis_server.client, started=stop_soon)
    keeper.rollback()
    assert len(facts(redis_server)) == 40
    # Another selection is another undertaking.
    assert cache_upkeep.warm(keeper, redis_server.client, part_id="P").resumed_after is None
    done = cache_upkeep.warm(keeper, redis_server.client)
    assert (done.serials, done.resumed_after) == (15, ids[19])
    assert len(facts(redis_server)) == 70
    assert cache_upkeep.warm(keeper, redis_server.client).resumed_after is None


def test_warming_lets_facts_live_on(plant, keeper, redis_server):
    register(plant, ["A"])
    cache_upkeep.warm(keeper, redis_server.client, ttl=100)
    cache_upkeep.warm(keeper, redis_server.client, ttl=1000)
    assert all(900 < redis_server.client.ttl(key) <= 1000 for key in facts(redis_server))


def test_warming_a_full_redis_says_so(plant, keeper, redis_server):
    register(plant, ["A"])
    cache_upkeep.warm(keeper, redis_server.client)
    redis_server.client.config_set("maxmemory", 1)
    with pytest.raises(cache_store.RedisFull, match="did not take"):
        cache_upkeep.warm(keeper, redis_server.client)


def test_warming_notices_that_the_cache_is_emptied(plant, keeper, connect, redis_server):
    register(plant, ["A"])
    other = connect()
    other.row_factory = dict_row
    with pytest.raises(ExpectedError, match="emptied while"):
        cache_upkeep.warm(
            keeper, redis_server.client, started=lambda _: lambda _: cache_upkeep.flush(other, redis_server.client)
        )


# All at once


def test_never_free_while_it_is_taken(plant, connect, keeper, open_cache, redis_server):
    """Eight threads ask while others register, sync, warm and flush: what is committed is never called free."""
    cache = open_cache()
    committed: list[str] = []
    is_over = threading.Event()
    faults: list[str] = []

    def register_numbers(number: int) -> None:
        with connect(autocommit=True) as session:
            for n in range(60):
                register(session, [f"{number}-{n}-{m}" for m in range(3)])
                committed.extend(f"{number}-{n}-{m}" for m in range(3))

    def ask(number: int) -> int:
        dice, asked = random.Random(number), 0
        while not is_over.is_set():
            if not committed:
                continue
            numbers = [dice.choice(committed) for _ in range(dice.choice((1, 1, 20)))]
            faults.extend(answer.serial_number for answer in cache.check_many(numbers, "P") if not answer)
            asked += len(numbers)
        return asked

    def look_after() -> None:
        while not is_over.is_set():
            for _ in range(5):
                sync(keeper, redis_server)
            cache_upkeep.flush(keeper, redis_server.client)
            with contextlib.suppress(ExpectedError):
                cache_upkeep.warm(keeper, redis_server.client)

    with ThreadPoolExecutor(16) as threads:
        askers = [threads.submit(ask, number) for number in range(8)]
        keeping = threads.submit(look_after)
        writers = [threads.submit(register_numbers, number) for number in range(4)]
        try:
            for writer in writers:
                writer.result()
        finally:
            is_over.set()
        keeping.result()
        assert all(asker.result() > 0 for asker in askers)
    assert not faults
    assert len(committed) == 4 * 60 * 3
    counted = cache.statistics
    assert counted.hits > 0 and counted.failures == 0 and counted.lies == 0
    sync(keeper, redis_server)
    assert all(cache.check_many(committed, "P"))


def test_through_pgbouncer_in_transaction_mode(plant, bouncer_dsn, redis_server):
    with (
        patient(bouncer_dsn, redis_server.url) as cache,
        psycopg.connect(bouncer_dsn, row_factory=dict_row, prepare_threshold=None) as keeper,
    ):
        cache_upkeep.warm(keeper, redis_server.client)
        # More than the five after which psycopg would prepare a statement.
        for n in range(12):
            assert said(cache, f"N{n}") == (False, "database")
            assert cache.register_serial(f"N{n}", "P")["serial_id"]
        assert sync(keeper, redis_server).events == 12
        assert at_once(8, lambda n: said(cache, f"N{n}")) == [(True, "cache")] * 8
        receive(plant, "A")
        release(plant, "A")
        assert sync(keeper, redis_server).released == 2
        assert cache_upkeep.flush(keeper, redis_server.client) >= 24
        assert at_once(8, lambda n: said(cache, f"N{n}")) == [(True, "database")] * 8


# The circuit breaker


def test_a_circuit_breaker_opens_tries_and_closes():
    breaker = CircuitBreaker("read", failures=2, retry_after=0.05)
    assert breaker.may_try() and breaker.state == "closed"
    assert breaker.failed() is False
    assert breaker.succeeded() is False
    # Only failures in a row count.
    assert breaker.failed() is False
    assert breaker.failed() is True
    assert breaker.state == "open" and not breaker.may_try()
    eventually(lambda: breaker.state == "half-open")
    # One tries, the others do not.
    assert [breaker.may_try() for _ in range(3)] == [True, False, False]
    breaker.failed()
    assert not breaker.may_try()
    eventually(breaker.may_try)
    assert breaker.succeeded() is True
    assert breaker.state == "closed" and breaker.may_try()
