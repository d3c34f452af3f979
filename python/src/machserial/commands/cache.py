"""machserial cache: warm, sync, flush, stats"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from machserial import output
from machserial.cache import UniquenessCache, usage
from machserial.errors import Exit, ExpectedError
from machserial.options import Group, Settings, confirm, pass_settings, yes_option

# A command may wait longer for Redis than an application.
TIMEOUT = 5.0
TOLD = ("keyspace_hits", "keyspace_misses", "used_memory", "maxmemory", "maxmemory_policy", "evicted_keys")


@click.group("cache", cls=Group)
def cache_group() -> None:
    """Manage the Redis cache of taken numbers, which can only refuse early.

    \b
    REDIS_URL: where it is, such as redis://:password@host:6379/0 or unix:///path.
    REDIS_ENABLED=false: it is not used.
    SERIAL_UNIQUENESS_CACHE_TTL: seconds after which it forgets. Default: the setting uniqueness_cache_ttl.
    """


def url_option(command: Callable) -> Callable:
    return click.option("--url", metavar="URL", help="Address of Redis. Default: REDIS_URL.")(command)


@cache_group.command()
@url_option
@pass_settings
def warm(settings: Settings, url: str | None) -> None:
    """Write all taken numbers into the cache."""
    with opened(settings, url) as cache:
        numbers = cache.warm()
    output.print_record({"numbers": numbers}, as_json=settings.json)


@cache_group.command()
@url_option
@pass_settings
def sync(settings: Settings, url: str | None) -> None:
    """Empty the cache and fill it again."""
    with opened(settings, url) as cache:
        removed, numbers = cache.flush(), cache.warm()
    output.print_record({"removed_keys": removed, "numbers": numbers}, as_json=settings.json)


@cache_group.command()
@yes_option
@url_option
@pass_settings
def flush(settings: Settings, yes: bool, url: str | None) -> None:
    """Empty the cache of this database. Other keys in Redis stay."""
    with opened(settings, url) as cache:
        confirm("Empty the cache of taken numbers?", yes)
        removed = cache.flush()
    output.print_record({"removed_keys": removed}, as_json=settings.json)


@cache_group.command()
@url_option
@pass_settings
def stats(settings: Settings, url: str | None) -> None:
    """Show the number and lifetime of this database's keys, and figures of Redis as a whole."""
    with opened(settings, url) as cache:
        said = cache.redis.info()
        found = {"keys": sum(1 for _ in cache.own_keys()), "ttl": cache.identify()[2]}
    asked = said["keyspace_hits"] + said["keyspace_misses"]
    found["hit_ratio"] = round(said["keyspace_hits"] / asked, 3) if asked else None
    output.print_record({**found, **{name: said.get(name) for name in TOLD}}, as_json=settings.json)


@contextmanager
def opened(settings: Settings, url: str | None) -> Iterator[UniquenessCache]:
    """The cache of a role that sees all. Raises ExpectedError for whatever Redis does not do."""
    with settings.connect() as connection:
        cache = UniquenessCache(connection, url, TIMEOUT)
        if cache.redis is None:
            raise usage("nothing says where Redis is", "REDIS_URL=redis://host:6379/0, and REDIS_ENABLED not false")
        if not cache.identify()[0]:
            raise ExpectedError(
                "a role that is limited to sites keeps no cache",
                detail="what is in it concerns all sites",
                remedy="connect as another role",
                code=Exit.PRIVILEGE,
            )
        import redis

        try:
            yield cache
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise ExpectedError(
                "Redis cannot be reached", detail=str(error), remedy="start it, or correct REDIS_URL",
                code=Exit.CONNECTION,
            ) from error  # fmt: skip
        except redis.RedisError as error:
            raise ExpectedError(
                "Redis refused it", detail=str(error), remedy="make room, or give its user the right"
            ) from error
