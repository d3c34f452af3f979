"""A cache of taken serial numbers for Python applications: it may refuse early, it never allows.

    with UniquenessCache("postgresql://…/plant") as cache:
        if cache.is_taken("SN-0001", "PUMP"):
            …

What Redis holds are committed claims, each for a limited time and signed. That a number is free is never cached:
PostgreSQL is asked, and its unique indexes decide when the number is registered. Whatever Redis says or does, or fails
to do, costs an application a few waits of 50 ms at most, and never an exception.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from machserial import cache_store as store
from machserial.cache_store import Claim, Epoch
from machserial.connection import connection_string
from machserial.errors import ExpectedError

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)
T = TypeVar("T")

TIMEOUT = 0.05  # seconds to wait for Redis
EPOCH_LIFETIME = 1.0  # seconds after which PostgreSQL is asked again what the epoch is
PLACE_LIFETIME = 60.0  # and what type and scopes a part has
MOST_PLACES = 10_000
# What is older when it could be written is not written: it may have been released, and that forgotten again.
FRESH = 1.0
REPORT_EVERY = 10.0
STATISTICS_LIFETIME = 30 * 86400
KEYS_AT_ONCE = 2000
POOL_SIZE = 8
SCOPES = ("ENTERPRISE", "SITE", "PART_TYPE")

# Nothing of a transaction that has written is cached: what it sees may be undone.
CLAIMS_OF = """
    select
        c.serial_number, c.claimed_scopes,
        pg_current_xact_id_if_assigned() is null and not pg_is_in_recovery() as is_committed
    from machserial.claims_of(%(serial_numbers)s::text[], %(part_id)s, %(site_id)s, %(scopes)s::text[]) as c
"""
PLACE = """
    select p.part_type, p.default_scopes, s.id as site_id
    from machserial.parts as p, machserial.sites as s
    where p.id = %(part_id)s and s.id = coalesce(%(site_id)s, 'DEFAULT')
"""
REGISTER = """
    select serial_id, has_conflict, conflict_id
    from machserial.register_serial(
        %(serial_number)s, %(part_id)s, site_id => %(site_id)s, scopes => %(scopes)s::text[], source => %(source)s
    )
"""


@dataclass(frozen=True)
class Answer:
    """Whether a number is taken; in a condition it is just that.

    source: who says so, "cache" or "database"; scopes: in which of the scopes that were asked for. The cache may know
    fewer of them than there are.
    """

    serial_number: str
    is_taken: bool
    source: str
    scopes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.is_taken


class SerialTaken(psycopg.errors.UniqueViolation):
    """A number was refused before PostgreSQL was asked to register it. answer: the reason."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"serial number {answer.serial_number} is taken ({', '.join(answer.scopes)})")
        self.answer = answer


@dataclass
class Statistics:
    """What a cache has done since it was made.

    look_ups: numbers asked about; hits: refused by the cache alone; misses: asked of PostgreSQL though Redis
    answered; skipped: asked of PostgreSQL because Redis was not asked (off, open circuit, within a transaction of
    the application); refuted: hits that PostgreSQL did not confirm; lies: values in Redis that nobody has signed;
    stored: facts written; failures: of Redis; redis_seconds, database_seconds: spent waiting for each.
    """

    look_ups: int = 0
    hits: int = 0
    misses: int = 0
    skipped: int = 0
    refuted: int = 0
    lies: int = 0
    stored: int = 0
    failures: int = 0
    redis_seconds: float = 0
    database_seconds: float = 0


class CircuitBreaker:
    """Open after several failures in a row; then one call at a time is let through, now and then, to try.

    The packages for it hold a lock during the call, so that threads would wait for one another.
    """

    def __init__(self, kind: str, failures: int, retry_after: float) -> None:
        self.kind = kind
        self._limit, self._retry_after = failures, retry_after
        self._failures, self._retry_at = 0, 0.0
        self._lock = threading.Lock()

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        with self._lock:
            if self._failures < self._limit:
                return "closed"
            return "open" if time.monotonic() < self._retry_at else "half-open"

    def may_try(self) -> bool:
        with self._lock:
            if self._failures < self._limit:
                return True
            now = time.monotonic()
            if now < self._retry_at:
                return False
            # The others wait for what this one finds.
            self._retry_at = now + self._retry_after
            return True

    def succeeded(self) -> bool:
        """Whether that closes it."""
        with self._lock:
            was_open = self._failures >= self._limit
            self._failures = 0
            return was_open

    def failed(self) -> bool:
        """Whether that opens it."""
        with self._lock:
            self._failures += 1
            self._retry_at = time.monotonic() + self._retry_after
            return self._failures == self._limit


class _Database:
    """Where PostgreSQL is asked: in a connection or out of a pool of the application's, else out of an own pool."""

    def __init__(self, given: Any) -> None:
        self._lock = threading.RLock()
        self._connection = given if isinstance(given, psycopg.Connection) else None
        self._is_own = given is None or isinstance(given, str)
        self._pool = _open_pool(given) if self._is_own else None if self._connection else given

    def is_within_transaction(self) -> bool:
        """Of the application: what it sees may be undone, and it may have undone what others still see."""
        return self._connection is not None and self._connection.info.transaction_status in (
            TransactionStatus.INTRANS,
            TransactionStatus.INERROR,
        )

    def ask(self, query: str, parameters: dict | None = None) -> list[dict]:
        """In the transaction that there is, else in one of its own, which is committed."""
        try:
            return self._ask(query, parameters)
        except psycopg.OperationalError:
            if not self._is_own or query is REGISTER:
                raise
            # The server was restarted, or another took over: what the pool holds is of no use.
            self._pool.check()
            return self._ask(query, parameters)

    def _ask(self, query: str, parameters: dict | None) -> list[dict]:
        with self._session() as connection, connection.cursor(row_factory=dict_row) as cursor:
            # Statements prepared on the server would not survive PgBouncer's transaction mode.
            return cursor.execute(query, parameters, prepare=False).fetchall()

    @contextmanager
    def _session(self) -> Iterator[psycopg.Connection]:
        if self._pool is not None:
            with self._pool.connection() as connection:
                yield connection
            return
        with self._lock:
            if self._connection.autocommit or self.is_within_transaction():
                yield self._connection
            else:
                with self._connection.transaction():
                    yield self._connection

    def close(self) -> None:
        if self._is_own:
            self._pool.close()


def _open_pool(dsn: str | None) -> Any:
    try:
        from psycopg_pool import ConnectionPool
    except ImportError as error:
        raise ExpectedError(
            "the cache needs the Python package psycopg-pool to make connections",
            remedy="pip install 'machserial[cache]', or give it a connection",
        ) from error
    return ConnectionPool(
        connection_string(dsn),
        kwargs={"autocommit": True},
        min_size=1,
        max_size=POOL_SIZE,
        timeout=10,
        name="machserial-cache",
        open=True,
    )


@dataclass
class _Remembered:
    """What PostgreSQL has said, and when."""

    epoch: Epoch | None = None
    epoch_read_at: float = 0
    places: dict[tuple, tuple[float, dict]] = field(default_factory=dict)


@dataclass
class _Found:
    """What Redis says of some numbers under an epoch. taken: number to scopes; lies: keys with foreign values."""

    epoch: Epoch
    taken: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lies: list[str] = field(default_factory=list)
    pointer: bytes | None = None


class UniquenessCache:
    """See the module. It may be used by many threads at once.

    database: a connection string (None: DATABASE_URL, else PG* variables), a pool (anything whose connection() gives
    a psycopg connection for a block), or a psycopg connection. While the application has a transaction open on that
    connection, PostgreSQL is asked in it, and the cache is left out.
    url: where Redis is; None: REDIS_URL. Without one, and with REDIS_ENABLED=false, PostgreSQL answers everything.
    ttl: seconds after which a fact is forgotten; None: SERIAL_UNIQUENESS_CACHE_TTL, else the setting
    uniqueness_cache_ttl. timeout: seconds to wait for Redis. failures, retry_after: after how many failures in a row
    Redis is left alone, and for how many seconds.

    What is configured wrongly raises ExpectedError here; later only PostgreSQL's own errors (psycopg.Error) occur.
    """

    def __init__(
        self,
        database: Any = None,
        url: str | None = None,
        *,
        ttl: int | None = None,
        timeout: float = TIMEOUT,
        failures: int = 5,
        retry_after: float = 5.0,
    ) -> None:
        self._ttl = store.ttl_of(ttl)
        place = store.url_of(url)
        self._redis: Redis | None = store.open_redis(place, timeout) if place else None
        self._database = _Database(database)
        self._reading = CircuitBreaker("read", failures, retry_after)
        # A Redis that is full can still be read.
        self._writing = CircuitBreaker("written to", 1, retry_after)
        self._remembered = _Remembered()
        self._lock = threading.Lock()
        self._statistics = Statistics()
        self._reported = Statistics()
        self._reported_at = time.monotonic()

    def __enter__(self) -> UniquenessCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends its own connections; those that it was given stay."""
        if self._redis is not None:
            self._report(at_once=True)
            self._redis.close()
        self._database.close()

    @property
    def statistics(self) -> Statistics:
        """A copy."""
        with self._lock:
            return Statistics(**asdict(self._statistics))

    @property
    def circuit(self) -> str:
        """Whether Redis is asked: closed (yes), open (no), half-open (the next look-up tries); or off."""
        return self._reading.state if self._redis is not None else "off"

    def is_taken(
        self,
        serial_number: str,
        part_id: str,
        site_id: str | None = None,
        scopes: Iterable[str] | None = None,
        *,
        confirm: bool = False,
    ) -> Answer:
        """Whether a number is taken for a part. scopes: where it must not repeat; None: the part's default.

        confirm: PostgreSQL is asked even if the cache says that it is taken. Without, a number whose claim was
        released may be called taken until machserial cache sync has seen that, and for the ttl at most. A number
        that is taken is never called free.
        """
        return self.check_many([serial_number], part_id, site_id, scopes, confirm=confirm)[0]

    def check_many(
        self,
        serial_numbers: Iterable[str],
        part_id: str,
        site_id: str | None = None,
        scopes: Iterable[str] | None = None,
        *,
        confirm: bool = False,
    ) -> list[Answer]:
        """is_taken() of each, with one question to Redis and one to PostgreSQL."""
        numbers = _texts(serial_numbers)
        if not numbers:
            return []
        asked = {"part_id": part_id, "site_id": site_id, "scopes": None if scopes is None else list(scopes)}
        found = self._look(numbers, asked)
        hits = found.taken if found else {}
        open_questions = list(dict.fromkeys(number for number in numbers if confirm or number not in hits))
        taken = self._ask(open_questions, asked, found) if open_questions else {}
        self._count_look_ups(numbers, found, {} if confirm else hits)
        self._report()
        return [
            Answer(number, True, "cache", hits[number])
            if number in hits and not confirm
            else Answer(number, number in taken, "database", taken.get(number, ()))
            for number in numbers
        ]

    def register_serial(
        self,
        serial_number: str,
        part_id: str,
        site_id: str | None = None,
        scopes: Iterable[str] | None = None,
        *,
        source: str = "MANUAL",
        confirm: bool = True,
    ) -> dict[str, Any]:
        """machserial.register_serial(), refused early where the cache knows that the number is taken.

        confirm: it is refused only if PostgreSQL says so too, which costs a look-up instead of an attempt to write.
        Returns serial_id, has_conflict, conflict_id. Raises SerialTaken, a psycopg.errors.UniqueViolation, and
        whatever register_serial() raises. Unless it is within a transaction of the application, it is committed.
        """
        (number,) = _texts([serial_number])
        asked = {"part_id": part_id, "site_id": site_id, "scopes": None if scopes is None else list(scopes)}
        found = self._look([number], asked)
        if found and number in found.taken:
            answer = Answer(number, True, "cache", found.taken[number])
            if confirm:
                taken = self._ask([number], asked, found)
                answer = Answer(number, number in taken, "database", taken.get(number, ()))
            self._count_look_ups([number], found, {} if confirm else found.taken)
            if answer.is_taken:
                raise SerialTaken(answer)
        # Not cached: of a connection that other threads use too, nobody here knows what is committed.
        (registered,) = self._asked_database(REGISTER, {"serial_number": number, "source": source, **asked})
        return registered

    def invalidate(
        self, serial_number: str, part_id: str, site_id: str | None = None, scopes: Iterable[str] | None = None
    ) -> bool:
        """Forgets that a number is taken, in all scopes or those given, for who has just released a claim (and
        committed that) and does not want to wait for machserial cache sync. Whether Redis did it."""
        (number,) = _texts([serial_number])
        asked = {"part_id": part_id, "site_id": site_id, "scopes": None}
        if self.circuit in ("off", "open") or not (place := self._place(asked)) or not (epoch := self._epoch()):
            return False
        wanted = [scope.upper() for scope in scopes] if scopes is not None else SCOPES
        keys = [epoch.fact(claim)[0] for claim in _claims(number, wanted, place)]
        done = self._ask_redis(
            self._writing, lambda client: store.remember(client, taken=(), ttl=1, released=keys) or True
        )
        return bool(done)

    # Redis

    def _may_ask_redis(self) -> bool:
        return self._redis is not None and not self._database.is_within_transaction() and self._reading.may_try()

    def _ask_redis(self, breaker: CircuitBreaker, work: Callable[[Redis], T]) -> T | None:
        """What work returns; None if it fails."""
        started = time.monotonic()
        try:
            answer = work(self._redis)
        except Exception as error:
            # Whatever it is: an application that has PostgreSQL's answer has no use for it.
            if breaker.failed():
                log.warning("Redis is not %s for a while: %s", breaker.kind, error)
            self._count(failures=1, redis_seconds=time.monotonic() - started)
            return None
        if breaker.succeeded():
            log.info("Redis is %s again", breaker.kind)
        self._count(redis_seconds=time.monotonic() - started)
        return answer

    def _look(self, numbers: list[str], asked: dict) -> _Found | None:
        """What Redis says; None if it was not asked, or does not answer."""
        if not self._may_ask_redis() or not self._place(asked):
            return None
        epoch = self._epoch()
        found = self._look_under(epoch, numbers, asked) if epoch else None
        if found is None or found.pointer == epoch.tag.encode():
            return found
        # Another epoch may have begun: PostgreSQL knows.
        present = self._epoch(anew=True)
        if present is None:
            return None
        if present.identity != epoch.identity:
            epoch = present
            found = self._look_under(epoch, numbers, asked)
        if found is not None and found.pointer != epoch.tag.encode() and self._writing.may_try():
            self._ask_redis(
                self._writing, lambda client: client.set(epoch.pointer_key, epoch.tag, ex=self._seconds_to_live(epoch))
            )
        return found

    def _look_under(self, epoch: Epoch, numbers: list[str], asked: dict) -> _Found | None:
        place = self._place(asked)
        scopes = self._scopes(asked)
        if place is None or not set(scopes) <= set(SCOPES):
            # PostgreSQL says what is wrong.
            return None
        claims = [claim for number in dict.fromkeys(numbers) for claim in _claims(number, scopes, place)]
        facts = [epoch.fact(claim) for claim in claims]
        keys = [epoch.pointer_key, *(key for key, _ in facts)]
        values = self._ask_redis(self._reading, lambda client: _values(client, keys))
        if values is None:
            return None
        found = _Found(epoch, pointer=values[0])
        for claim, (key, proof), value in zip(claims, facts, values[1:], strict=True):
            if value == proof:
                found.taken[claim[2]] = (*found.taken.get(claim[2], ()), claim[0])
            elif value not in (None, store.RELEASED):
                found.lies.append(key)
        self._count(lies=len(found.lies))
        return found

    def _add(
        self, found: _Found, numbers: list[str], taken: dict[str, tuple[str, ...]], asked: dict, since: float
    ) -> None:
        """Writes what PostgreSQL has said, at a time not before since: the claims that the numbers have."""
        epoch, place = found.epoch, self._place(asked)
        known = {(number, scope) for number, scopes in found.taken.items() for scope in scopes}
        facts = [
            epoch.fact(claim)
            for number in numbers
            for claim in _claims(number, taken.get(number, ()), place or {})
            if (number, claim[0]) not in known
        ]
        if not facts or time.monotonic() - since > FRESH or not self._writing.may_try():
            return

        def write(client: Redis) -> bool:
            lies = set(found.lies).intersection(key for key, _ in facts)
            if lies:
                client.unlink(*lies)
            for chunk in store.in_chunks(facts, KEYS_AT_ONCE):
                store.add(client, chunk, self._seconds_to_live(epoch))
            return True

        if self._ask_redis(self._writing, write):
            self._count(stored=len(facts))

    def _seconds_to_live(self, epoch: Epoch) -> int:
        return self._ttl or epoch.seconds_to_live() or store.DEFAULT_TTL

    # PostgreSQL

    def _asked_database(self, query: str, parameters: dict | None = None) -> list[dict]:
        started = time.monotonic()
        try:
            return self._database.ask(query, parameters)
        finally:
            self._count(database_seconds=time.monotonic() - started)

    def _ask(self, numbers: list[str], asked: dict, found: _Found | None) -> dict[str, tuple[str, ...]]:
        """PostgreSQL's answer, number to scopes, which is remembered. found: what Redis says, None: nothing."""
        started = time.monotonic()
        rows = self._asked_database(CLAIMS_OF, {"serial_numbers": numbers, **asked})
        taken = {row["serial_number"]: tuple(row["claimed_scopes"]) for row in rows}
        if found is None:
            return taken
        committed = [row["serial_number"] for row in rows if row["is_committed"]]
        self._add(found, committed, taken, asked, started)
        for number in numbers:
            stale = set(found.taken.get(number, ())) - set(taken.get(number, ()))
            if stale:
                self._count(refuted=1)
                self.invalidate(number, asked["part_id"], asked["site_id"], stale)
        return taken

    def _epoch(self, anew: bool = False) -> Epoch | None:
        """None if the database has none: then nothing may be cached."""
        remembered = self._remembered
        if anew or remembered.epoch is None or time.monotonic() - remembered.epoch_read_at > EPOCH_LIFETIME:
            # The time before: in between it may have ended.
            read_at = time.monotonic()
            (row,) = self._asked_database(store.READ_EPOCH)
            epoch = Epoch(**row)
            is_same = remembered.epoch is not None and remembered.epoch.identity == epoch.identity
            places = remembered.places if is_same else {}
            remembered = self._remembered = _Remembered(epoch, read_at, places)
        return remembered.epoch if remembered.epoch.secret else None

    def _place(self, asked: dict) -> dict | None:
        """part_type, default_scopes and site_id; None if part or site is unknown, which PostgreSQL will say."""
        which = (asked["part_id"], asked["site_id"])
        places = self._remembered.places
        known = places.get(which)
        if known and time.monotonic() - known[0] <= PLACE_LIFETIME:
            return known[1]
        read_at = time.monotonic()
        rows = self._asked_database(PLACE, {"part_id": asked["part_id"], "site_id": asked["site_id"]})
        if not rows:
            return None
        if len(places) >= MOST_PLACES:
            places.clear()
        places[which] = (read_at, rows[0])
        return rows[0]

    def _scopes(self, asked: dict) -> tuple[str, ...]:
        if asked["scopes"] is not None:
            return tuple(dict.fromkeys(scope.upper() for scope in asked["scopes"]))
        place = self._place(asked)
        return tuple(place["default_scopes"]) if place else ()

    # Counting

    def _count(self, **more: float) -> None:
        with self._lock:
            for name, number in more.items():
                setattr(self._statistics, name, getattr(self._statistics, name) + number)

    def _count_look_ups(self, numbers: list[str], found: _Found | None, hits: dict) -> None:
        hit = sum(number in hits for number in numbers)
        others = len(numbers) - hit
        self._count(
            look_ups=len(numbers), hits=hit, misses=others if found else 0, skipped=0 if found else others
        )

    def _report(self, at_once: bool = False) -> None:
        """Adds what was counted here to what all applications have counted, now and then."""
        now = time.monotonic()
        epoch = self._remembered.epoch
        with self._lock:
            if epoch is None or not (at_once or now - self._reported_at > REPORT_EVERY):
                return
            self._reported_at = now
            counted = Statistics(**asdict(self._statistics))
            more = {
                one.name: getattr(counted, one.name) - getattr(self._reported, one.name) for one in fields(Statistics)
            }
        if not self._reading.may_try() or not self._writing.may_try():
            return

        def write(client: Redis) -> bool:
            pipeline = client.pipeline(transaction=False)
            for name, number in more.items():
                if number:
                    pipeline.hincrbyfloat(epoch.statistics_key, name, number)
            pipeline.expire(epoch.statistics_key, STATISTICS_LIFETIME)
            pipeline.execute()
            return True

        if self._ask_redis(self._writing, write):
            with self._lock:
                self._reported = counted


def _texts(serial_numbers: Iterable[str]) -> list[str]:
    numbers = list(serial_numbers)
    if isinstance(serial_numbers, str) or not all(isinstance(number, str) for number in numbers):
        raise TypeError("serial numbers are given as texts, and several of them as a list")
    return numbers


def _claims(serial_number: str, scopes: Iterable[str], place: dict) -> list[Claim]:
    return store.claims_on(serial_number, scopes, place.get("site_id", ""), place.get("part_type", ""))


def _values(client: Redis, keys: list[str]) -> list[bytes | None]:
    values: list[bytes | None] = []
    for chunk in store.in_chunks(keys, KEYS_AT_ONCE):
        values += client.mget(chunk)
    return values
