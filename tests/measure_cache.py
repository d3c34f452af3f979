"""What the cache of taken numbers saves, on one machine: medians of look-ups in turn, and rates of several threads.

    .venv/bin/python tests/measure_cache.py [--serials 200000] [--rounds 2000] [--threads 8]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).parent))
from machserial import cache_upkeep
from machserial.cache import UniquenessCache
from psycopg.rows import dict_row
from redis_server import RedisServer
from servers import Server, choose_bin

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
    "shared_buffers": "512MB",
    "statement_timeout": "0",
}


def number_of(n: int) -> str:
    return f"SN-{n:08}"


def prepare(server: Server, redis_server: RedisServer, serials: int) -> None:
    server.install_extension(ROOT / "build")
    with psycopg.connect(server.dsn("postgres"), row_factory=dict_row) as session:
        session.execute("create extension machserial")
        session.execute("select machserial.migrate()")
        session.execute("select machserial.register_part('P', 'T')")
        for start in range(0, serials, 50_000):
            numbers = [number_of(n) for n in range(start, min(start + 50_000, serials))]
            session.execute("select count(*) from machserial.register_serials(%s, 'P')", (numbers,))
            session.commit()
        started = time.perf_counter()
        done = cache_upkeep.warm(session, redis_server.client)
        seconds = time.perf_counter() - started
        used = redis_server.client.info()["used_memory"] / done.claims
        print(f"warming: {done.serials / seconds:,.0f} serials a second; {used:.0f} bytes of Redis a claim")
    server.execute("vacuum analyze")


def times(ways: dict[str, Callable[[str], object]], number: Callable[[], str], rounds: int) -> dict[str, float]:
    """The median of each way, in microseconds; one after the other with the same numbers."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        one = number()
        for name, way in ways.items():
            started = time.perf_counter()
            way(one)
            taken[name].append((time.perf_counter() - started) * 1e6)
    return {name: statistics.median(some) for name, some in taken.items()}


def rate(way: Callable[[str], object], number: Callable[[], str], threads: int, rounds: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: [way(number()) for _ in range(rounds)], range(threads)))
    return threads * rounds / (time.perf_counter() - started)


def refused(work: Callable[[], object]) -> None:
    try:
        work()
    except psycopg.errors.UniqueViolation:
        return
    raise AssertionError("a duplicate was registered")


def show(title: str, measured: dict[str, float]) -> None:
    print(f"\n{title}")
    (_, base), *_ = measured.items()
    for name, microseconds in measured.items():
        print(f"  {name:42} {microseconds:8.0f} µs  {microseconds / base:6.2f}")


def measure(server: Server, redis_server: RedisServer, serials: int, rounds: int, threads: int) -> None:
    dice = random.Random(1)
    dsn = server.dsn("postgres")

    def taken() -> str:
        return number_of(dice.randrange(serials))

    def free() -> str:
        return f"FREE-{dice.randrange(10**9)}"

    with (
        UniquenessCache(dsn, redis_server.url) as cache,
        UniquenessCache(dsn, f"unix://{redis_server.folder}/none") as broken,
        psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as session,
    ):
        check = "select has_conflict from machserial.check_uniqueness(%s, 'P')"
        claims = "select * from machserial.claims_of(array[%s], 'P')"
        ways = {
            "PostgreSQL: claims_of()": lambda one: session.execute(claims, (one,)).fetchall(),
            "PostgreSQL: check_uniqueness()": lambda one: session.execute(check, (one,)).fetchone(),
            "cache": lambda one: cache.is_taken(one, "P"),
            "cache, confirm": lambda one: cache.is_taken(one, "P", confirm=True),
            "cache without a Redis": lambda one: broken.is_taken(one, "P"),
        }
        for way in ways.values():
            way(taken())
        show("a number that is taken", times(ways, taken, rounds))
        show("a number that is free", times(ways, free, rounds))
        registering = {
            "PostgreSQL: register_serial()": lambda one: refused(
                lambda: session.execute("select machserial.register_serial(%s, 'P')", (one,))
            ),
            "cache, confirm": lambda one: refused(lambda: cache.register_serial(one, "P")),
            "cache": lambda one: refused(lambda: cache.register_serial(one, "P", confirm=False)),
        }
        show("registering a number that is taken", times(registering, taken, rounds))
        thousand = [number_of(n) for n in range(1000)]
        many = {
            "PostgreSQL: claims_of()": lambda _: session.execute(
                "select * from machserial.claims_of(%s, 'P')", (thousand,)
            ).fetchall(),
            "cache": lambda _: cache.check_many(thousand, "P"),
        }
        show("1,000 numbers that are taken, at once", times(many, taken, max(rounds // 50, 5)))
        with UniquenessCache(dsn, None) as off:
            print(f"\n{threads} threads, numbers that are taken, look-ups a second")
            for name, one in (("PostgreSQL", off), ("cache", cache)):
                per_second = rate(lambda n, one=one: one.is_taken(n, "P"), taken, threads, rounds // 2)
                print(f"  {name:42} {per_second:8,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--serials", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    redis_server = RedisServer()
    try:
        with Server(choose_bin(None), **SETTINGS) as server:
            prepare(server, redis_server, options.serials)
            measure(server, redis_server, options.serials, options.rounds, options.threads)
    finally:
        redis_server.remove()


if __name__ == "__main__":
    main()
