"""Redis remembers which serial numbers are taken. PostgreSQL alone says that one is free.

Each fact is an answer of machserial.claims_of(), kept for some time. docs/cache.md says when that pays: seldom.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg.rows import tuple_row

from machserial import masking
from machserial.errors import Exit, ExpectedError

TIMEOUT = 0.05  # seconds to wait for Redis
REST = 5.0  # for which a Redis that failed is not asked
LIFETIME = 10.0  # for which it is believed that the database is the same as before
CHUNK = 2000
BLANKS = " \t\n\r"  # what the verbs trim as well

# Another server has another start, be it a copy of the files; a registry that was restored is another file.
IDENTITY = """
    select machserial._own_sites() is null as is_unlimited,
        (select s.value::integer from machserial.settings as s where s.name = 'uniqueness_cache_ttl') as ttl,
        (machserial._cluster()).system_identifier, d.oid, pg_relation_filenode('machserial.serials'),
        extract(epoch from pg_postmaster_start_time())
    from pg_database as d where d.datname = current_database()
"""
# What a transaction that has written sees may be undone.
CLAIM = """
    select count(*) > 0, pg_current_xact_id_if_assigned() is null
    from machserial.claims_of(array[%s::text], %s, %s, %s::text[])
"""
CLAIMS = """
    select max(s.id), s.part_id, s.site_id, array(
        select c.serial_number from machserial.claims_of(array_agg(s.serial_number), s.part_id, s.site_id) as c
    )
    from (select * from machserial.serials where id > %s::bigint and holds_claim order by id limit %s) as s
    group by s.part_id, s.site_id
"""


class UniquenessCache:
    """connection: where PostgreSQL is asked, as the role whose answers are wanted. url: of Redis; None: REDIS_URL."""

    def __init__(self, connection: psycopg.Connection, url: str | None = None, timeout: float = TIMEOUT) -> None:
        self.redis = open_redis(place, timeout) if (place := redis_url(url)) else None
        self._connection, self._known_until, self._rests_until = connection, 0.0, 0.0

    def is_taken(
        self, serial_number: str, part_id: str, site_id: str | None = None, scopes: list[str] | None = None,
        confirm: bool = True,
    ) -> bool:  # fmt: skip
        """What claims_of() says. confirm: PostgreSQL is asked also where Redis knows the number as taken."""
        question = (serial_number.strip(BLANKS), part_id, site_id, scopes)
        uses_redis = self.redis is not None and time.monotonic() >= self._rests_until and self.identify()[0]
        key = self.key(*question) if uses_redis else ""
        is_known = bool(key and self._try(lambda: self.redis.get(key)))
        if is_known and not confirm:
            return True
        ((is_taken, is_final),) = self._ask(CLAIM, question)
        if key and is_taken and is_final and not is_known:
            self._try(lambda: self.remember([key]))
        elif is_known and not is_taken:
            self._try(lambda: self.redis.unlink(key))
        return is_taken

    def warm(self) -> int:
        """Writes all that is taken; how many numbers. Errors of Redis are the caller's, here and below."""
        last, count = 0, 0
        while rows := self._ask(CLAIMS, (last, CHUNK)):
            for newest, part_id, site_id, numbers in rows:
                self.remember(self.key(number, part_id, site_id, None) for number in numbers)
                last, count = max(last, newest), count + len(numbers)
        return count

    def flush(self) -> int:
        """Removes the keys of this database, as it is now, and no others; how many."""
        found = self.own_keys()
        return sum(self.redis.unlink(*some) for some in iter(lambda: list(islice(found, CHUNK)), []))

    def own_keys(self) -> Iterator[bytes]:
        return self.redis.scan_iter(match=f"{self.identify()[1]}:*", count=CHUNK)

    def key(self, number: str, part_id: str, site_id: str | None, scopes: list[str] | None) -> str:
        """Of the fact that claims_of() calls this number taken when it is asked like this."""
        where = "*" if scopes is None else ",".join(sorted({scope.upper() for scope in scopes}))
        question = "\0".join((number, part_id, site_id or "DEFAULT", where)).encode("utf-8", "surrogatepass")
        return f"{self.identify()[1]}:{blake2b(question, digest_size=12).hexdigest()}"

    def identify(self) -> tuple[bool, str, int]:
        """Whether the role sees all sites, how the keys of this database begin, and how many seconds they live."""
        if time.monotonic() >= self._known_until:
            ((is_unlimited, ttl, *place),) = self._ask(IDENTITY, ())
            seconds = os.environ.get("SERIAL_UNIQUENESS_CACHE_TTL") or str(ttl or 3600)
            if not (seconds.isascii() and seconds.isdigit() and int(seconds)):
                raise usage(f"{seconds!r} is not a time to live", "SERIAL_UNIQUENESS_CACHE_TTL=3600, in seconds")
            prefix = ".".join(map(str, ("machserial", *place)))
            self._known_until, self._identity = time.monotonic() + LIFETIME, (is_unlimited, prefix, int(seconds))
        return self._identity

    def remember(self, keys: Iterable[str]) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        for key in keys:
            pipeline.set(key, 1, ex=self._identity[2])
        pipeline.execute()

    def _ask(self, query: str, parameters: tuple) -> list[tuple]:
        return self._connection.cursor(row_factory=tuple_row).execute(query, parameters).fetchall()

    def _try(self, work: Any) -> Any:
        """What Redis answers; None if it does not, and then it is left alone for a while."""
        try:
            return work()
        except Exception:
            self._rests_until = time.monotonic() + REST
            return None


def redis_url(given: str | None = None) -> str | None:
    """given, else REDIS_URL; None if there is none, or REDIS_ENABLED says no."""
    is_off = os.environ.get("REDIS_ENABLED", "").strip().lower() in ("false", "no", "off", "0")
    return None if is_off else given or os.environ.get("REDIS_URL") or None


def open_redis(url: str, timeout: float) -> Any:
    """A client that connects when it is first used, tries once, and waits timeout seconds at most each time."""
    try:
        import redis

        masking.remember(unquote(urlsplit(url).password or ""))
        never = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        return redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=never)
    except ImportError as error:
        raise usage("this needs the Python package redis", "pip install 'machserial[redis]'") from error
    except ValueError as error:
        # The reason would quote the URL.
        raise usage("REDIS_URL is malformed", "redis://host:6379/0, rediss://… or unix:///path") from error


def usage(message: str, remedy: str) -> ExpectedError:
    return ExpectedError(message, remedy=remedy, code=Exit.USAGE)
