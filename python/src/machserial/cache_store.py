"""What a cache of taken numbers looks like in Redis, and where that is.

    machserial:DATABASE:epoch              the present epoch
    machserial:DATABASE:statistics         what the applications have counted
    machserial:DATABASE:EPOCH:position     up to where the audit events have been followed
    machserial:DATABASE:EPOCH:warm:WHICH   up to where the cache has been warmed
    machserial:DATABASE:EPOCH:FACT         a number is taken in a scope; the value proves who said so

DATABASE, EPOCH and FACT are digests: no serial number is in Redis. Everything that is believed is signed with the
epoch's secret, which is in PostgreSQL: what somebody else writes into Redis, or an earlier epoch has, is no fact.
"""

from __future__ import annotations

import os
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from machserial import masking
from machserial.errors import Exit, ExpectedError

if TYPE_CHECKING:
    from redis import Redis

DEFAULT_TTL = 3600  # seconds
URL_EXAMPLE = "redis://host:6379/0"
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")

# In the place of a fact that no longer is one. It keeps out whoever has read the fact before and writes it now; nobody
# is that late.
RELEASED = b"-"
RELEASED_FOR = 60  # seconds

POSITION_LIFETIME = 30 * 86400
KEY_LENGTH = 22  # 132 bits
PROOF_LENGTH = 16  # 96 bits
# After the last event of a transaction.
LAST_EVENT = 2**63 - 1

READ_EPOCH = "select * from machserial.cache_epoch()"
Claim = tuple[str, str, str]  # scope, site or part type (or nothing), serial number
Fact = tuple[str, bytes]  # key and value that say of a claim that it holds


def _digest(text: str | bytes, length: int, secret: bytes = b"", purpose: bytes = b"") -> str:
    """length: of the result, which is text."""
    # What PostgreSQL will refuse anyway must not fail here.
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    digest = blake2b(content, key=secret[:64], person=purpose, digest_size=(length * 3 + 3) // 4).digest()
    return urlsafe_b64encode(digest)[:length].decode()


@dataclass(frozen=True)
class Position:
    """All audit events up to this one, in the order (transaction_id, event_id), have been followed."""

    transaction_id: int
    event_id: int = LAST_EVENT
    written_at: float = 0


@dataclass(frozen=True)
class Epoch:
    """What machserial.cache_epoch() says, and the keys and values that follow from it."""

    database_name: str
    epoch_name: str
    secret: bytes
    ttl: str | None
    horizon: int
    next_transaction_id: int

    @property
    def identity(self) -> tuple:
        return (self.database_name, self.epoch_name, self.secret)

    @cached_property
    def database_prefix(self) -> str:
        return f"machserial:{_digest(self.database_name, 10)}:"

    @cached_property
    def tag(self) -> str:
        return _digest(self.epoch_name, 8, self.secret, b"epoch")

    @cached_property
    def prefix(self) -> str:
        return f"{self.database_prefix}{self.tag}:"

    @cached_property
    def _signing_secret(self) -> bytes:
        return _digest(f"{self.database_name} {self.epoch_name}", 43, self.secret, b"signing").encode()

    @property
    def pointer_key(self) -> str:
        return f"{self.database_prefix}epoch"

    @property
    def statistics_key(self) -> str:
        return f"{self.database_prefix}statistics"

    @property
    def position_key(self) -> str:
        return f"{self.prefix}position"

    def fact(self, claim: Claim) -> Fact:
        # None of the three holds a null character: PostgreSQL has none in its texts. Of the one digest, who sees the
        # key cannot tell the value.
        digest = _digest("\0".join(claim), KEY_LENGTH + PROOF_LENGTH, self._signing_secret, b"fact")
        return self.prefix + digest[:KEY_LENGTH], digest[KEY_LENGTH:].encode()

    def signature(self, key: str, content: str) -> bytes:
        """That somebody who knows the secret has written this content to this key."""
        return _digest(f"{key}\0{content}", PROOF_LENGTH, self._signing_secret, b"signature").encode()

    def signed(self, key: str, content: str) -> bytes:
        return content.encode() + b" " + self.signature(key, content)

    def content(self, key: str, value: object) -> str | None:
        """What signed() was given; None if somebody else has made the value."""
        if not isinstance(value, bytes):
            return None
        content, _, signature = value.rpartition(b" ")
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return None
        return text if signature == self.signature(key, text) else None

    def seconds_to_live(self) -> int | None:
        """The setting uniqueness_cache_ttl; None if it is none that can be used."""
        text = self.ttl or ""
        return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def remember(client: Redis, *, taken: Iterable[Fact], released: Iterable[str], ttl: int) -> None:
    """Writes what holds now over whatever is there. taken: only for who follows the events; others use add()."""
    pipeline = client.pipeline(transaction=False)
    gone = list(released)
    if gone:
        # Also a Redis that is full, and writes nothing, forgets.
        pipeline.unlink(*gone)
    for key in gone:
        pipeline.set(key, RELEASED, ex=RELEASED_FOR)
    for key, proof in taken:
        pipeline.set(key, proof, ex=ttl)
    pipeline.execute()


def add(client: Redis, taken: Iterable[Fact], ttl: int, *, renew: bool = False) -> None:
    """Writes facts where nothing is. renew: those that are there live as long again."""
    pipeline = client.pipeline(transaction=False)
    for key, proof in taken:
        pipeline.set(key, proof, nx=True, ex=ttl)
        if renew:
            pipeline.expire(key, ttl)
    pipeline.execute()


def read_position(client: Redis, epoch: Epoch) -> Position | None:
    """None: there is none, or none that can be believed."""
    text = read_signed(client, epoch, epoch.position_key)
    if text is None:
        return None
    transaction_id, event_id, written_at = text.split()
    return Position(int(transaction_id), int(event_id), float(written_at))


def write_position(client: Redis, epoch: Epoch, position: Position) -> None:
    content = f"{position.transaction_id} {position.event_id} {time.time():.3f}"
    client.set(epoch.position_key, epoch.signed(epoch.position_key, content), ex=POSITION_LIFETIME)


def read_signed(client: Redis, epoch: Epoch, key: str) -> str | None:
    from redis.exceptions import ResponseError

    try:
        return epoch.content(key, client.get(key))
    except ResponseError as error:
        if str(error).startswith("WRONGTYPE"):
            return None
        raise


# Where it is


def url_of(given: str | None) -> str | None:
    """given, else REDIS_URL; None if there is none, or REDIS_ENABLED says no."""
    return (given or os.environ.get("REDIS_URL") or None) if is_enabled() else None


def is_enabled() -> bool:
    """REDIS_ENABLED, which says yes unless it says no."""
    said = os.environ.get("REDIS_ENABLED", "").strip().lower()
    if said not in (*YES, *NO, ""):
        raise ExpectedError(
            "REDIS_ENABLED is malformed",
            detail=f"it is {said!r}",
            remedy="REDIS_ENABLED=true or REDIS_ENABLED=false",
            code=Exit.USAGE,
        )
    return said not in NO


def ttl_of(given: int | None) -> int | None:
    """given, else SERIAL_UNIQUENESS_CACHE_TTL, in seconds; None: the database says."""
    said = os.environ.get("SERIAL_UNIQUENESS_CACHE_TTL", "").strip() if given is None else str(given)
    if said and not (said.isascii() and said.isdigit() and int(said) > 0):
        raise ExpectedError(
            "SERIAL_UNIQUENESS_CACHE_TTL is malformed" if given is None else "ttl is malformed",
            detail=f"it is {said!r}",
            remedy="give seconds, 1 or more, such as SERIAL_UNIQUENESS_CACHE_TTL=3600",
            code=Exit.USAGE,
        )
    return int(said) if said else None


def open_redis(url: str, timeout: float) -> Redis:
    """A client that connects when it is first used, tries everything once and waits timeout seconds at most."""
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise ExpectedError(
            "the cache needs the Python package redis", remedy="pip install 'machserial[cache]'", code=Exit.USAGE
        ) from error
    try:
        masking.remember(unquote(urlsplit(url).password or ""))
        return Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )
    except ValueError as error:
        # The reason would quote the URL.
        raise ExpectedError(
            "REDIS_URL is malformed", remedy=f"write {URL_EXAMPLE}, rediss://… or unix:///path", code=Exit.USAGE
        ) from error


class RedisFull(ExpectedError):
    """Redis has no memory left, and may evict nothing."""


@contextmanager
def redis_troubles(what: str) -> Iterator[None]:
    """What Redis says or does not say becomes an ExpectedError. For commands; applications never see any.

    what: is asked of it, or given to it.
    """
    from redis import exceptions

    try:
        yield
    except exceptions.OutOfMemoryError as error:
        raise RedisFull(
            f"Redis is full: it did not take {what}",
            remedy="raise its maxmemory, give the cache a Redis of its own, or warm less: --part, --site",
        ) from error
    except exceptions.AuthenticationError as error:
        raise _no_redis("Redis does not accept user and password", error, "correct them in REDIS_URL") from error
    except exceptions.TimeoutError as error:
        raise _no_redis(f"Redis did not answer in time ({what})", error, "see what keeps it busy") from error
    except exceptions.ConnectionError as error:
        raise _no_redis("Redis cannot be reached", error, "start it, or correct REDIS_URL") from error
    except exceptions.ResponseError as error:
        raise ExpectedError(
            f"Redis refused {what}", detail=str(error), remedy="give its user the right, or mend its settings"
        ) from error


def _no_redis(message: str, error: Exception, remedy: str) -> ExpectedError:
    return ExpectedError(message, detail=str(error), remedy=remedy, code=Exit.CONNECTION)


def in_chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def claims_on(serial_number: str, scopes: Iterable[str], site_id: str, part_type: str) -> list[Claim]:
    """What has to be asked, or said, of a number."""
    places = {"SITE": site_id, "PART_TYPE": part_type}
    return [(scope, places.get(scope, ""), serial_number) for scope in scopes]


Advance = Callable[[int], None]
