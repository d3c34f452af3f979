"""machserial cache: warm, sync, flush, stats"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from machserial import cache_store, cache_upkeep, output
from machserial.errors import Exit, ExpectedError
from machserial.options import Group, Settings, confirm, pass_settings, yes_option

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger(__name__)

# A command may wait longer for Redis than an application.
TIMEOUT = 5.0


@click.group("cache", cls=Group)
def cache_group() -> None:
    """The cache of taken numbers in Redis, which may refuse early and never allows.

    \b
    REDIS_URL: where it is, such as redis://:password@host:6379/0 or unix:///path.
    REDIS_ENABLED=false: it is not used.
    SERIAL_UNIQUENESS_CACHE_TTL: seconds after which it forgets. Default: the setting uniqueness_cache_ttl.
    """


def url_option(command: Callable) -> Callable:
    return click.option("--url", metavar="URL", help="Where Redis is. Default: REDIS_URL.")(command)


@cache_group.command()
@click.option("--part", "part_id", help="Only the numbers of this part.")
@click.option("--site", "site_id", help="Only the numbers of this site.")
@url_option
@pass_settings
def warm(settings: Settings, part_id: str | None, site_id: str | None, url: str | None) -> None:
    """Write all taken numbers into the cache. Interrupted, it goes on where it stopped."""
    ttl = cache_store.ttl_of(None)
    with opened(url) as client, ExitStack() as bars, settings.connect() as connection:
        done = cache_upkeep.warm(
            connection,
            client,
            part_id=part_id,
            site_id=site_id,
            ttl=ttl,
            started=lambda total: bars.enter_context(output.progress("warming", total)),
        )
    output.print_record(asdict(done), as_json=settings.json)


@cache_group.command()
@click.option("--follow", is_flag=True, help="Go on until interrupted.")
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 3600),
    default=1.0,
    show_default=True,
    help="Seconds to wait in between, with --follow.",
)
@url_option
@pass_settings
def sync(settings: Settings, follow: bool, interval: float, url: str | None) -> None:
    """Follow the audit events: what was taken since, and what was released.

    A transaction that is open for long delays this and is not passed over: see waits for.
    """
    ttl = cache_store.ttl_of(None)
    with opened(url) as client:
        if follow:
            follow_on(settings, client, ttl, interval)
        with settings.connect() as connection:
            done = cache_upkeep.sync(connection, client, ttl=ttl)
    output.print_record(asdict(done), as_json=settings.json)


def follow_on(settings: Settings, client: Redis, ttl: int | None, interval: float) -> None:
    """Syncs for ever. What goes away and may come back is waited for."""
    said = None
    while True:
        try:
            with settings.connect() as connection:
                while True:
                    done = cache_upkeep.sync(connection, client, ttl=ttl)
                    log.debug("%s events, %s taken, %s released", done.events, done.taken, done.released)
                    if said:
                        log.warning("following again")
                        said = None
                    time.sleep(interval)
        except ExpectedError as error:
            if error.exit_code not in (Exit.CONNECTION, Exit.REFUSED):
                raise
            if error.message != said:
                log.warning("%s", error.as_line())
                said = error.message
        time.sleep(interval)


@cache_group.command()
@yes_option
@url_option
@pass_settings
def flush(settings: Settings, yes: bool, url: str | None) -> None:
    """Empty the cache of this database. Whatever else is in Redis stays."""
    with opened(url) as client:
        confirm("Empty the cache of taken numbers?", yes)
        with settings.connect() as connection:
            removed = cache_upkeep.flush(connection, client)
    output.print_record({"removed_keys": removed}, as_json=settings.json)


@cache_group.command()
@url_option
@pass_settings
def stats(settings: Settings, url: str | None) -> None:
    """Show how full the cache is, how often it knows the answer, and what a look-up takes here and in PostgreSQL.

    Times are measured now, with numbers that are taken; memory and evictions are those of all of this Redis.
    """
    with opened(url) as client, settings.connect() as connection:
        measured = cache_upkeep.measure(connection, client)
    output.print_record(measured, as_json=settings.json)


@contextmanager
def opened(url: str | None) -> Iterator[Redis]:
    """A client for commands. Raises ExpectedError if nothing says where Redis is."""
    if not cache_store.is_enabled():
        raise ExpectedError(
            "the cache is switched off",
            detail="REDIS_ENABLED says so",
            remedy="set REDIS_ENABLED=true",
            code=Exit.USAGE,
        )
    place = cache_store.url_of(url)
    if place is None:
        raise ExpectedError(
            "nothing says where Redis is",
            remedy=f"give --url, or set REDIS_URL={cache_store.URL_EXAMPLE}",
            code=Exit.USAGE,
        )
    client = cache_store.open_redis(place, TIMEOUT)
    try:
        yield client
    finally:
        client.close()
