"""Whether a number is taken: asked of PostgreSQL's indexes, and of the cache in Redis."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import util
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from machserial.bench.context import Bench
from machserial.bench.registry import FILLED, PART, Registry
from machserial.bench.results import Case, Comparison, Skipped
from machserial.errors import ExpectedError

NAME = "uniqueness"
TITLE = "is a number taken: by index, and by Redis"
INDEX, CHECK = "PostgreSQL: claims_of()", "PostgreSQL: check_uniqueness()"
CACHE, CONFIRMED, BROKEN = "cache", "cache, confirmed", "cache without its Redis"
REGISTER = "PostgreSQL: register_serial()"
THREADS = 8
AT_ONCE = 1_000


def run(bench: Bench) -> Iterator[Case | Skipped]:
    if reason := lacking():
        yield Skipped(NAME, reason)
        return
    with bench.registry() as registry, redis_running() as url:
        fill(registry, bench.sizes.cached_serials, url)
        yield from measure(bench, registry, url)


def lacking() -> str | None:
    """What is not there, if anything."""
    if util.find_spec("redis") is None or util.find_spec("psycopg_pool") is None:
        return "the cache's packages are not installed: pip install 'machserial[cache]'"
    if not redis_server():
        return "redis-server is not installed (Debian: apt-get install redis-server)"
    return None


def redis_server() -> str | None:
    return shutil.which("redis-server") or shutil.which("redis-server", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def redis_running() -> Iterator[str]:
    """A Redis of its own on a socket; its URL."""
    import redis

    folder = Path(tempfile.mkdtemp(prefix="machserial-redis-"))
    command = [redis_server(), "--port", "0", "--unixsocket", f"{folder}/redis.sock", "--dir", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--save", "", "--appendonly", "no", "--daemonize", "no"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"unix://{folder}/redis.sock"
        await_answer(redis.Redis.from_url(url), process, folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def await_answer(client, process: subprocess.Popen[bytes], log: Path) -> None:
    import redis

    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
            client.close()
            return
        except redis.ConnectionError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ExpectedError(
                    "redis-server does not start",
                    detail=log.read_text().strip().rpartition("\n")[2],
                    remedy="leave the subject out, or mend it",
                ) from None
            time.sleep(0.02)


def fill(registry: Registry, count: int, url: str) -> None:
    """Serials, and a cache that knows all of them."""
    import redis

    from machserial import cache_upkeep

    with registry.session() as session:
        registry.fill_serials(session, "machserial", count)
        registry.settle(session)
    with psycopg.connect(registry.dsn, row_factory=dict_row) as session:
        cache_upkeep.warm(session, redis.Redis.from_url(url))


def measure(bench: Bench, registry: Registry, url: str) -> Iterator[Case]:
    from machserial.cache import UniquenessCache

    dice = random.Random(1)
    count = bench.sizes.cached_serials
    free_numbers = itertools.count()

    def taken() -> str:
        return f"{FILLED}{dice.randrange(1, count + 1):09}"

    def free() -> str:
        return f"FREE-{next(free_numbers)}"

    with (
        UniquenessCache(registry.dsn, url) as cache,
        UniquenessCache(registry.dsn, "unix:///nonexistent/redis.sock") as broken,
        psycopg.connect(registry.dsn, autocommit=True, prepare_threshold=None) as session,
    ):
        ways = look_ups(session, cache, broken)
        for way in ways.values():
            way(taken())
        yield case("a number that is taken", turns(bench, ways, taken), INDEX)
        yield case("a number that is free", turns(bench, ways, free), INDEX)
        yield case("registering a number that is taken", turns(bench, registrations(session, cache), taken), REGISTER)
        thousand = [f"{FILLED}{n:09}" for n in range(1, min(count, AT_ONCE) + 1)]
        yield case(
            f"{len(thousand):,} taken numbers at once",
            turns(bench, many(session, cache, thousand), taken, one_in=50),
            INDEX,
        )
        with UniquenessCache(registry.dsn, None) as off:
            yield threads(bench, {INDEX: off, CACHE: cache}, taken)


def look_ups(session: psycopg.Connection, cache, broken) -> dict[str, Callable[[str], object]]:
    check = f"select has_conflict from machserial.check_uniqueness(%s, '{PART}')"
    claims = f"select * from machserial.claims_of(array[%s], '{PART}')"
    return {
        INDEX: lambda one: session.execute(claims, [one]).fetchall(),
        CHECK: lambda one: session.execute(check, [one]).fetchone(),
        CACHE: lambda one: cache.is_taken(one, PART),
        CONFIRMED: lambda one: cache.is_taken(one, PART, confirm=True),
        BROKEN: lambda one: broken.is_taken(one, PART),
    }


def registrations(session: psycopg.Connection, cache) -> dict[str, Callable[[str], object]]:
    statement = f"select machserial.register_serial(%s, '{PART}')"
    return {
        REGISTER: lambda one: refused(lambda: session.execute(statement, [one])),
        CONFIRMED: lambda one: refused(lambda: cache.register_serial(one, PART)),
        CACHE: lambda one: refused(lambda: cache.register_serial(one, PART, confirm=False)),
    }


def many(session: psycopg.Connection, cache, numbers: list[str]) -> dict[str, Callable[[str], object]]:
    claims = f"select * from machserial.claims_of(%s, '{PART}')"
    return {
        INDEX: lambda _: session.execute(claims, [numbers]).fetchall(),
        CACHE: lambda _: cache.check_many(numbers, PART),
    }


def refused(work: Callable[[], object]) -> None:
    try:
        work()
    except psycopg.errors.UniqueViolation:
        return
    raise ExpectedError("a duplicate was registered", remedy="report it")


def turns(
    bench: Bench, ways: Mapping[str, Callable[[str], object]], number: Callable[[], str], one_in: int = 1
) -> dict[str, list[float]]:
    """Microseconds of each look-up: every way in turn, with the same numbers."""
    raw: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(max(2, bench.sizes.look_ups // one_in)):
        one = number()
        for name, way in ways.items():
            started = time.perf_counter()
            way(one)
            raw[name].append((time.perf_counter() - started) * 1e6)
    return raw


def case(name: str, raw: dict[str, list[float]], base: str) -> Case:
    return Case(NAME, name, "µs", raw, [Comparison(way, base) for way in raw if way != base])


def threads(bench: Bench, caches: Mapping[str, object], number: Callable[[], str]) -> Case:
    """Answers a second that so many threads get."""
    each = max(2, bench.sizes.look_ups // 2)
    raw: dict[str, list[float]] = {name: [] for name in caches}
    for _ in range(bench.rounds):
        for name, cache in caches.items():
            started = time.perf_counter()
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda _, cache=cache: ask(cache, number, each), range(THREADS)))
            raw[name].append(THREADS * each / (time.perf_counter() - started))
    return Case(NAME, f"taken numbers, {THREADS} threads", "1/s", raw, [Comparison(CACHE, INDEX)])


def ask(cache, number: Callable[[], str], times: int) -> None:
    for _ in range(times):
        cache.is_taken(number(), PART)
