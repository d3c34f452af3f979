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
from contextlib import ExitStack, contextmanager
from importlib import util
from pathlib import Path

import psycopg

from machserial.bench.context import Bench
from machserial.bench.registry import FILLED, OTHER_PARTS, PART, Registry
from machserial.bench.results import Case, Comparison, Skipped
from machserial.errors import ExpectedError

NAME = "uniqueness"
TITLE = "is a number taken: by index, and by Redis"
CLAIMS, CHECK = "PostgreSQL: claims_of(), prepared", "PostgreSQL: check_uniqueness()"
INDEX = "PostgreSQL: one unique index, prepared"
CACHE, CONFIRMED, BROKEN = "cache", "cache, confirmed", "cache without its Redis"
THREADS = 8
IN_A_ROW = 20
Question = tuple[str, str]  # a number, and the part for which it is asked about
Way = Callable[[Question], object]

LOOK_UP = """
    select s.id from machserial.serials as s
    where s.serial_number = %s and s.site_id = 'DEFAULT' and s.holds_claim and 'SITE' = any(s.scopes)
"""


def run(bench: Bench) -> Iterator[Case | Skipped]:
    if reason := lacking():
        yield Skipped(NAME, reason)
        return
    with bench.registry() as registry, redis_running() as url:
        with registry.session() as session:
            registry.fill_serials(session, "machserial", bench.sizes.cached_serials)
            registry.settle(session)
        yield from measure(bench, registry, url)


def lacking() -> str | None:
    """What is not there, if anything."""
    if util.find_spec("redis") is None:
        return "the package redis is not installed: pip install 'machserial[redis]'"
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


def measure(bench: Bench, registry: Registry, url: str) -> Iterator[Case]:
    """A cache that knows all of the serials, and every way to ask, in turn."""
    from machserial.cache import UniquenessCache

    dice = random.Random(1)
    count = bench.sizes.cached_serials
    free_numbers = itertools.count()

    def taken() -> Question:
        number = dice.randrange(1, count + 1)
        return f"{FILLED}{number:09}", f"P{number % OTHER_PARTS + 1}"

    def free() -> Question:
        return f"FREE-{next(free_numbers)}", PART

    with ExitStack() as stack:
        sessions = [
            stack.enter_context(psycopg.connect(registry.dsn, autocommit=True, prepare_threshold=1))
            for _ in range(THREADS)
        ]
        caches = [UniquenessCache(session, url) for session in sessions]
        caches[0].warm()
        ways = look_ups(sessions[0], caches[0], UniquenessCache(sessions[0], "unix:///nonexistent/redis.sock"))
        for way in ways.values():
            for _ in range(3):
                way(taken())
        yield case("a number that is taken", turns(bench, ways, taken))
        yield case("a number that is free", turns(bench, ways, free))
        yield threads(bench, sessions, caches, taken)


def look_ups(session: psycopg.Connection, cache, broken) -> dict[str, Way]:
    check = "select has_conflict from machserial.check_uniqueness(%s, %s)"
    return {
        CLAIMS: lambda one: asked(session, one),
        INDEX: lambda one: session.execute(LOOK_UP, one[:1], prepare=True).fetchone(),
        CHECK: lambda one: session.execute(check, one, prepare=True).fetchone(),
        CACHE: lambda one: cache.is_taken(*one, confirm=False),
        CONFIRMED: lambda one: cache.is_taken(*one),
        BROKEN: lambda one: broken.is_taken(*one, confirm=False),
    }


def asked(session: psycopg.Connection, one: Question) -> object:
    """What an application does that needs no cache."""
    return session.execute("select serial_ids from machserial.claims_of(array[%s], %s)", one, prepare=True).fetchone()


def turns(bench: Bench, ways: Mapping[str, Way], question: Callable[[], Question]) -> dict[str, list[float]]:
    """Microseconds of each look-up: every way in turn, with the same numbers, some at a time.

    What has just been used answers sooner than what slept meanwhile.
    """
    raw: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(max(2, bench.sizes.look_ups // IN_A_ROW)):
        questions = [question() for _ in range(IN_A_ROW)]
        for name, way in ways.items():
            for one in questions:
                started = time.perf_counter()
                way(one)
                raw[name].append((time.perf_counter() - started) * 1e6)
    return raw


def case(name: str, raw: dict[str, list[float]]) -> Case:
    return Case(NAME, name, "µs", raw, [Comparison(way, CLAIMS) for way in raw if way != CLAIMS])


def threads(bench: Bench, sessions: list[psycopg.Connection], caches: list, question: Callable[[], Question]) -> Case:
    """Answers a second that so many threads of one process get, each with a connection of its own."""
    each = max(2, bench.sizes.look_ups // 2)
    ways = {
        CLAIMS: lambda place, one: asked(sessions[place], one),
        CACHE: lambda place, one: caches[place].is_taken(*one, confirm=False),
    }

    def ask(way: Callable[[int, Question], object], place: int) -> None:
        for _ in range(each):
            way(place, question())

    raw: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(bench.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda place, way=way: ask(way, place), range(THREADS)))
            raw[name].append(THREADS * each / (time.perf_counter() - started))
    return Case(NAME, f"taken numbers, {THREADS} threads", "1/s", raw, [Comparison(CACHE, CLAIMS)])
