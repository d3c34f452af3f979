"""Looking after the cache of taken numbers: filling it, following what happens, emptying it, measuring it.

The order of the audit events (transaction_id, id) is final below the horizon of a snapshot. So what has been followed
is one position in that order, and a transaction that is open for long holds it back but is never passed over. The
position is kept in Redis, beside the facts that it is about: a Redis that was emptied has none, one that was set back
to an older state has an older one. Without a position nobody knows which facts still hold: then an epoch begins.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import psycopg

from machserial import cache_store as store
from machserial.cache import CLAIMS_OF, Statistics
from machserial.cache_store import Advance, Epoch, Position
from machserial.errors import ExpectedError

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)
Connection = psycopg.Connection[dict[str, Any]]

SERIALS_AT_ONCE = 2000
KEYS_AT_ONCE = 1000
SAMPLE = 200
# Redis pays if it answers in less than this part of PostgreSQL's time.
WORTH_IT = 0.8

# Whoever moves the position is alone with it, until his transaction ends.
ALONE = "hashtext('machserial cache'), 0"
BEGIN_EPOCH = "select machserial.begin_cache_epoch(%s)"
SERIALS = """
    select s.id, s.serial_number, s.site_id, s.part_id, s.part_type, s.scopes, s.holds_claim
    from machserial.serials as s
    where s.id > %(after)s::bigint
    order by s.id
    limit %(limit)s::integer
"""
# The events stand together, and the BRIN index finds them whatever the statistics say.
PLANNER = ("enable_seqscan", "enable_indexscan", "jit")
EVENTS = """
    select e.transaction_id, e.id, e.serial_id
    from machserial.audit_events as e
    where
        e.transaction_id between %(transaction_id)s::bigint and %(horizon)s::bigint - 1
        and (e.transaction_id, e.id) > (%(transaction_id)s::bigint, %(event_id)s::bigint)
        and e.serial_id is not null
    order by e.transaction_id, e.id
"""
NEWEST_CLAIMS = """
    select s.serial_number, s.part_id, s.part_type, s.site_id, s.scopes
    from machserial.serials as s where s.holds_claim order by s.id desc limit %s
"""


@dataclass
class Warmed:
    """What warm() did. claims: facts written; resumed_after: id of the serial it went on from, None: the first."""

    serials: int = 0
    claims: int = 0
    resumed_after: int | None = None


@dataclass
class Synced:
    """What sync() did.

    waits_for: whose open transaction keeps its own events back, and later ones; epoch_begun: the facts were forgotten,
    because it is not known what happened since they were written.
    """

    events: int = 0
    taken: int = 0
    released: int = 0
    epoch_begun: bool = False
    transaction_id: int = 0
    waits_for: str | None = None


def warm(
    connection: Connection,
    client: Redis,
    *,
    part_id: str | None = None,
    site_id: str | None = None,
    ttl: int | None = None,
    started: Callable[[int], Advance] = lambda _: lambda _: None,
) -> Warmed:
    """Writes all claims, or those of a part or site, in the order of the serials' ids. It can be interrupted.

    started: called with how many serials are to be read; gives the function to call with how many more were.
    """
    _require_known(connection, "part", part_id)
    _require_known(connection, "site", site_id)
    connection.execute(f"select pg_advisory_xact_lock({ALONE})")
    epoch, _, _ = _present(connection, client, "cache warm")
    connection.commit()
    seconds = ttl or epoch.seconds_to_live() or store.DEFAULT_TTL
    mark = f"{epoch.prefix}warm:{epoch.signature('warm', f'{part_id!r} {site_id!r}').decode()}"
    with store.redis_troubles("the place where warming stopped"):
        stopped_at = store.read_signed(client, epoch, mark)
    done = Warmed(resumed_after=int(stopped_at) if stopped_at else None)
    after = done.resumed_after or 0
    advance = started(_count(connection, after))
    while serials := connection.execute(SERIALS, {"after": after, "limit": SERIALS_AT_ONCE}).fetchall():
        wanted = [
            serial
            for serial in serials
            if serial["holds_claim"] and part_id in (None, serial["part_id"]) and site_id in (None, serial["site_id"])
        ]
        facts = [epoch.fact(claim) for serial in wanted for claim in _claims(serial)]
        after = serials[-1]["id"]
        with store.redis_troubles("the claims"):
            for chunk in store.in_chunks(facts, KEYS_AT_ONCE):
                store.add(client, chunk, seconds, renew=True)
            client.set(mark, epoch.signed(mark, str(after)), ex=seconds)
        connection.commit()
        done.serials += len(wanted)
        done.claims += len(facts)
        advance(len(serials))
        if _read_epoch(connection).identity != epoch.identity:
            raise ExpectedError("the cache was emptied while it was being warmed", remedy="run it again")
    with store.redis_troubles("the end of warming"):
        client.delete(mark)
    return done


def sync(connection: Connection, client: Redis, *, ttl: int | None = None) -> Synced:
    """Follows the events up to the horizon, in one transaction: whose serials are taken now, and whose no more."""
    if not connection.execute(f"select pg_try_advisory_xact_lock({ALONE}) as ours").fetchone()["ours"]:
        raise ExpectedError(
            "another session follows the events at this moment", remedy="leave it to that, or run it again later"
        )
    epoch, position, is_new = _present(connection, client, "cache sync: not known what was followed")
    done = Synced(epoch_begun=is_new, transaction_id=epoch.horizon)
    is_full = None
    for events in _events(connection, position, epoch.horizon):
        try:
            _follow(connection, client, epoch, events, ttl, done)
        except store.RedisFull as error:
            # What was released is forgotten all the same. The position stays.
            is_full = error
        if not is_full:
            _move(client, epoch, Position(events[-1]["transaction_id"], events[-1]["id"]))
    if is_full:
        raise is_full
    _move(client, epoch, Position(epoch.horizon - 1))
    done.waits_for = connection.execute("select machserial._oldest_writer() as who").fetchone()["who"]
    connection.commit()
    return done


def flush(connection: Connection, client: Redis) -> int:
    """Begins an epoch, and removes what this database has in Redis; how many keys. Other keys stay."""
    connection.execute(f"select pg_advisory_xact_lock({ALONE})")
    before = _read_epoch(connection)
    trouble = None
    try:
        epoch = _begin(connection, client, before, "cache flush")
    except ExpectedError as error:
        trouble = error
        epoch = _since(before, _read_epoch(connection))
    # First of all: from here on nobody believes what is in Redis.
    connection.commit()
    if trouble and not isinstance(trouble, store.RedisFull):
        raise ExpectedError(
            f"the cache is emptied, but its keys are still there: {trouble.message}",
            detail=f"{trouble.detail or 'no more is known'}; nobody believes them any more, and they expire",
            remedy=trouble.remedy,
            code=trouble.exit_code,
        ) from trouble
    removed = 0
    with store.redis_troubles("the removal of keys"):
        for keys in _keys(client, epoch.database_prefix):
            old = [key for key in keys if not key.startswith(epoch.prefix) and key != epoch.pointer_key]
            removed += client.unlink(*old) if old else 0
    if trouble:
        # There is room now.
        _publish(client, epoch)
    return removed


def _present(connection: Connection, client: Redis, reason: str) -> tuple[Epoch, Position, bool]:
    """Epoch, position, and whether both are new: because there was no position, or time went back."""
    epoch = _read_epoch(connection)
    with store.redis_troubles("the position of the events"):
        position = store.read_position(client, epoch) if epoch.secret else None
    # A position that has not come yet: this server was set back by a copy of its files.
    if position is not None and position.transaction_id < epoch.next_transaction_id:
        return epoch, position, False
    epoch = _begin(connection, client, epoch, reason)
    return epoch, Position(epoch.horizon - 1), True


def _begin(connection: Connection, client: Redis, before: Epoch, reason: str) -> Epoch:
    """Begins an epoch, in the connection's transaction. The position is that from before: facts come later."""
    connection.execute(BEGIN_EPOCH, (reason,))
    epoch = _since(before, _read_epoch(connection))
    _publish(client, epoch)
    return epoch


def _since(before: Epoch, epoch: Epoch) -> Epoch:
    return replace(epoch, horizon=before.horizon)


def _publish(client: Redis, epoch: Epoch) -> None:
    _move(client, epoch, Position(epoch.horizon - 1))
    with store.redis_troubles("the epoch"):
        client.set(epoch.pointer_key, epoch.tag, ex=store.POSITION_LIFETIME)


def _read_epoch(connection: Connection) -> Epoch:
    return Epoch(**connection.execute(store.READ_EPOCH).fetchone())


def _move(client: Redis, epoch: Epoch, position: Position) -> None:
    with store.redis_troubles("the position"):
        store.write_position(client, epoch, position)


def _events(connection: Connection, position: Position, horizon: int):
    """The events that concern serials, from behind the position to the horizon, some at a time."""
    _set_planner(connection, "off")
    with connection.cursor(name="machserial_cache_events") as cursor:
        cursor.execute(
            EVENTS,
            {"transaction_id": position.transaction_id, "event_id": position.event_id, "horizon": horizon},
        )
        _set_planner(connection, "default")
        while events := cursor.fetchmany(SERIALS_AT_ONCE):
            yield events


def _set_planner(connection: Connection, setting: str) -> None:
    """Until the transaction ends."""
    connection.execute("; ".join(f"set local {name} to {setting}" for name in PLANNER))


def _follow(
    connection: Connection, client: Redis, epoch: Epoch, events: list[dict], ttl: int | None, done: Synced
) -> None:
    """Brings the cache to what holds now of the serials that the events are about, whatever the events say."""
    serial_ids = list({event["serial_id"] for event in events})
    claims = connection.execute("select * from machserial._claims_around(%s::bigint[])", (serial_ids,)).fetchall()
    facts = [(epoch.fact((one["scope"], one["place"], one["serial_number"])), one["is_taken"]) for one in claims]
    taken = [fact for fact, is_taken in facts if is_taken]
    released = [key for (key, _), is_taken in facts if not is_taken]
    done.events += len(events)
    done.taken += len(taken)
    done.released += len(released)
    seconds = ttl or epoch.seconds_to_live() or store.DEFAULT_TTL
    with store.redis_troubles("what happened"):
        store.remember(client, taken=taken, released=released, ttl=seconds)


def _claims(serial: dict) -> list[store.Claim]:
    return store.claims_on(serial["serial_number"], serial["scopes"], serial["site_id"], serial["part_type"])


def _count(connection: Connection, after: int) -> int:
    query = "select count(*) as serials from machserial.serials as s where s.id > %s::bigint"
    return connection.execute(query, (after,)).fetchone()["serials"]


def _require_known(connection: Connection, kind: str, name: str | None) -> None:
    if name is None or connection.execute(f"select from machserial.{kind}s where id = %s", (name,)).rowcount:
        return
    raise ExpectedError(f"there is no {kind} {name}", remedy=f"give the id of a {kind} that is registered")


def _keys(client: Redis, prefix: str):
    """The keys that begin with prefix, some at a time."""
    cursor = 0
    while True:
        cursor, keys = client.scan(cursor, match=f"{prefix}*", count=KEYS_AT_ONCE)
        if keys:
            yield [key.decode() for key in keys]
        if cursor == 0:
            return


# Measuring


def measure(connection: Connection, client: Redis) -> dict[str, Any]:
    """How the cache is, and what it saves: see machserial cache stats."""
    epoch = _read_epoch(connection)
    with store.redis_troubles("its state"):
        server = client.info()
        position = store.read_position(client, epoch)
        keys = sum(len(some) for some in _keys(client, epoch.prefix))
        counted = _counted(client, epoch)
        bytes_a_key = _bytes_a_key(client, epoch)
    answered = counted.hits + counted.misses
    return {
        "redis_version": server.get("redis_version"),
        "keys": keys,
        "bytes_a_key": bytes_a_key,
        "memory_used": server.get("used_memory"),
        "memory_limit": server.get("maxmemory") or None,
        "eviction_policy": server.get("maxmemory_policy"),
        "evicted_keys": server.get("evicted_keys"),
        "look_ups": counted.look_ups,
        "hits": counted.hits,
        "misses": counted.misses,
        "skipped": counted.skipped,
        "hit_ratio": round(counted.hits / answered, 3) if answered else None,
        "refuted": counted.refuted,
        "lies": counted.lies,
        "failures": counted.failures,
        "followed_at": datetime.fromtimestamp(position.written_at, timezone.utc) if position else None,
        "transactions_behind": epoch.next_transaction_id - 1 - position.transaction_id if position else None,
        **_times(connection, client, epoch),
    }


def _counted(client: Redis, epoch: Epoch) -> Statistics:
    """What the applications have counted, as far as it can be read: anybody may have written it."""
    from redis.exceptions import ResponseError

    try:
        found = {name.decode(errors="replace"): number for name, number in client.hgetall(epoch.statistics_key).items()}
    except ResponseError:
        return Statistics()
    counted = Statistics()
    for one in fields(Statistics):
        try:
            number = float(found.get(one.name, 0))
            setattr(counted, one.name, number if one.name.endswith("seconds") else int(number))
        except (ValueError, OverflowError):
            continue
    return counted


def _bytes_a_key(client: Redis, epoch: Epoch) -> int | None:
    some = next(_keys(client, epoch.prefix), [])[:SAMPLE]
    sizes = [size for size in (client.memory_usage(key) for key in some) if size]
    return round(statistics.mean(sizes)) if sizes else None


def _times(connection: Connection, client: Redis, epoch: Epoch) -> dict[str, Any]:
    """What a look-up of a taken number takes here, in either, in turn: medians in microseconds."""
    serials = connection.execute(NEWEST_CLAIMS, (SAMPLE,)).fetchall()
    in_redis, in_database = [], []
    for serial in serials:
        keys = [epoch.pointer_key, *(epoch.fact(claim)[0] for claim in _claims(serial))]
        question = {
            "serial_numbers": [serial["serial_number"]],
            "part_id": serial["part_id"],
            "site_id": serial["site_id"],
            "scopes": serial["scopes"],
        }
        with store.redis_troubles("a look-up"):
            in_redis.append(_microseconds(lambda keys=keys: client.mget(keys)))
        in_database.append(_microseconds(lambda question=question: connection.execute(CLAIMS_OF, question).fetchall()))
    if not serials:
        return {
            "redis_microseconds": None,
            "database_microseconds": None,
            "saved_microseconds": None,
            "verdict": "no number is taken yet: there is nothing to look up",
        }
    redis_time, database_time = round(statistics.median(in_redis)), round(statistics.median(in_database))
    if redis_time > WORTH_IT * database_time:
        verdict = "PostgreSQL's own look-up is as fast: the cache saves nothing here"
    else:
        verdict = f"a hit takes {redis_time / database_time:.0%} of the time of PostgreSQL's own look-up"
    return {
        "redis_microseconds": redis_time,
        "database_microseconds": database_time,
        "saved_microseconds": database_time - redis_time,
        "verdict": verdict,
    }


def _microseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e6
