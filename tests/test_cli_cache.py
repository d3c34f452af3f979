"""machserial cache: what the command says and does, on a real Redis and a real PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest
from command import (
    COMMAND,
    CONNECTION,
    INTERRUPTED,
    OK,
    REFUSED,
    USAGE,
    answer,
    environment,
    heed_interrupts,
    in_a_process,
    machserial,
    refusal,
)
from machserial.cache import UniquenessCache
from support import call, make_part, register


@pytest.fixture
def plant(connection):
    make_part(connection, "P", "T")
    call(connection, "register_site", site_id="BER")
    connection.commit()
    connection.autocommit = True
    return connection


# Long, and nothing in it depends on how machserial was installed.
ONE_MODE = True


@dataclass(frozen=True)
class Command:
    """machserial cache at one database, with these variables in its environment."""

    dsn: str
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, stdin: bytes | None = None):
        return machserial("--dsn", self.dsn, "cache", *arguments, stdin=stdin, **self.variables)

    def answer(self, *arguments: str) -> dict:
        return answer("--dsn", self.dsn, "cache", *arguments, **self.variables)

    def refusal(self, code: int, *arguments: str, **variables: str) -> str:
        return refusal(code, "--dsn", self.dsn, "cache", *arguments, **self.variables, **variables)


@pytest.fixture
def command(plant, deployed_dsn, redis_server) -> Command:
    return Command(deployed_dsn, {"REDIS_URL": redis_server.url})


def taken_from(url: str, dsn: str, number: str) -> str:
    with UniquenessCache(dsn, url, timeout=20) as cache:
        answer = cache.is_taken(number, "P")
        assert answer
        return answer.source


def test_warm_sync_flush(plant, command, deployed_dsn, redis_server):
    register(plant, ["A", "B"])
    assert command.answer("warm") == {"serials": 2, "claims": 4, "resumed_after": None}
    assert taken_from(redis_server.url, deployed_dsn, "A") == "cache"
    register(plant, ["C"])
    done = command.answer("sync")
    assert (done["events"], done["taken"], done["released"], done["epoch_begun"]) == (1, 2, 0, False)
    assert taken_from(redis_server.url, deployed_dsn, "C") == "cache"
    redis_server.client.set("other", "1")
    assert command.answer("flush", "--yes")["removed_keys"] >= 6
    assert taken_from(redis_server.url, deployed_dsn, "C") == "database"
    assert redis_server.client.get("other") == b"1"


def test_warm_takes_a_part_and_a_site(plant, command):
    register(plant, ["A"])
    register(plant, ["B"], site_id="BER")
    assert command.answer("warm", "--site", "BER")["serials"] == 1
    assert command.answer("warm", "--part", "P")["serials"] == 2
    assert "there is no site NONE" in command.refusal(REFUSED, "warm", "--site", "NONE")
    assert "resumed after" in command.run("warm").stdout


def test_flush_asks(plant, command, deployed_dsn, redis_server):
    register(plant, ["A"])
    command.answer("warm")
    result = command.run("flush", stdin=b"n\n")
    assert (result.exit_code, result.stdout) == (REFUSED, "")
    assert "nothing was done" in result.stderr
    assert taken_from(redis_server.url, deployed_dsn, "A") == "cache"
    assert command.run("flush", stdin=b"y\n").exit_code == OK
    assert taken_from(redis_server.url, deployed_dsn, "A") == "database"


def test_sync_says_whom_it_waits_for(plant, command, connect):
    command.answer("sync")
    session = connect()
    register(session, ["A"])
    done = command.answer("sync")
    assert done["events"] == 0 and f"process {session.info.backend_pid}" in done["waits_for"]


def test_following_goes_on_and_survives_redis(plant, deployed_dsn, redis_server):
    """A process of its own: it sees what is committed, waits for a Redis that is away, and ends when interrupted."""
    process = subprocess.Popen(
        [*COMMAND, "--dsn", deployed_dsn, "cache", "sync", "--follow", "--interval", "0.05"],
        env=environment(REDIS_URL=redis_server.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=heed_interrupts,
    )  # fmt: skip
    try:
        for round_number in range(2):
            await_followed(plant, redis_server, process, f"N{round_number}")
            if round_number == 0:
                redis_server.stop()
                assert "Redis cannot be reached" in process.stderr.readline()
                redis_server.start()
                assert "following again" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == INTERRUPTED
    finally:
        process.kill()
        process.communicate()


def await_followed(plant, redis_server, process, prefix: str) -> None:
    """Registers numbers until a fact comes up in Redis, which nobody but the process writes."""
    deadline = time.monotonic() + 30
    count = 0
    while not any(len(key.rpartition(b":")[2]) == 22 for key in redis_server.client.keys("machserial:*:*:*")):
        assert time.monotonic() < deadline and process.poll() is None
        register(plant, [f"{prefix}-{count}"])
        count += 1
        time.sleep(0.05)


def test_stats(plant, command, deployed_dsn, redis_server):
    empty = command.answer("stats")
    assert (empty["keys"], empty["hit_ratio"], empty["redis_microseconds"]) == (0, None, None)
    assert "nothing to look up" in empty["verdict"]
    numbers = [f"N{n}" for n in range(30)]
    register(plant, numbers)
    command.answer("warm")
    with UniquenessCache(deployed_dsn, redis_server.url, timeout=20) as cache:
        for number in [*numbers, *(f"FREE{n}" for n in range(10))]:
            cache.is_taken(number, "P")
    stats = command.answer("stats")
    assert (stats["look_ups"], stats["hits"], stats["misses"], stats["hit_ratio"]) == (40, 30, 10, 0.75)
    assert (stats["refuted"], stats["lies"], stats["failures"]) == (0, 0, 0)
    # 60 facts and the position.
    assert stats["keys"] == 61 and 50 < stats["bytes_a_key"] < 500
    assert stats["memory_used"] > 0 and stats["memory_limit"] is None
    assert stats["eviction_policy"] == "noeviction" and stats["evicted_keys"] == 0
    assert stats["redis_microseconds"] > 0 and stats["database_microseconds"] > 0
    assert stats["saved_microseconds"] == stats["database_microseconds"] - stats["redis_microseconds"]
    as_fast = stats["redis_microseconds"] > 0.8 * stats["database_microseconds"]
    assert ("as fast" in stats["verdict"]) == as_fast
    assert "hit ratio" in command.run("stats").stdout
    # Two applications are added up; what somebody else wrote there is passed over.
    with UniquenessCache(deployed_dsn, redis_server.url, timeout=20) as cache:
        cache.is_taken("N1", "P")
    (key,) = redis_server.client.keys("*:statistics")
    redis_server.client.hset(key, mapping={"misses": "many", "lies": "inf", "\xff": "1"})
    stats = command.answer("stats")
    assert (stats["hits"], stats["misses"], stats["lies"]) == (31, 0, 0)


def test_stats_say_when_postgresql_is_as_fast(plant, command, monkeypatch):
    """Both verdicts, by what counts as worth it."""
    register(plant, ["A"])
    monkeypatch.setattr("machserial.cache_upkeep.WORTH_IT", 0)
    assert command.answer("stats")["verdict"] == (
        "PostgreSQL's own look-up is as fast: the cache saves nothing here"
    )
    monkeypatch.setattr("machserial.cache_upkeep.WORTH_IT", 1000)
    assert "of the time of PostgreSQL's own look-up" in command.answer("stats")["verdict"]


def test_where_redis_is_has_to_be_said(plant, deployed_dsn, redis_server):
    command = Command(deployed_dsn)
    for name in ("warm", "sync", "stats", "flush"):
        assert "nothing says where Redis is" in command.refusal(USAGE, name)
    assert command.run("sync", "--url", redis_server.url).exit_code == OK
    for url in ("http://localhost", "redis://host:port", "redis"):
        line = command.refusal(USAGE, "sync", "--url", url)
        assert "REDIS_URL is malformed" in line
    command = Command(deployed_dsn, {"REDIS_URL": redis_server.url})
    assert "switched off" in command.refusal(USAGE, "sync", REDIS_ENABLED="false")
    assert "REDIS_ENABLED is malformed" in command.refusal(USAGE, "sync", REDIS_ENABLED="perhaps")
    line = command.refusal(USAGE, "sync", SERIAL_UNIQUENESS_CACHE_TTL="long")
    assert "SERIAL_UNIQUENESS_CACHE_TTL is malformed" in line


def test_what_is_wrong_with_redis_is_said(plant, deployed_dsn, redis_server, monkeypatch):
    command = Command(deployed_dsn)
    redis_server.stop()
    assert "cannot be reached" in command.refusal(CONNECTION, "sync", "--url", redis_server.url)
    line = command.refusal(CONNECTION, "flush", "--yes", "--url", redis_server.url)
    assert "emptied, but its keys are still there" in line
    redis_server.start("--requirepass", "correct horse")
    path = redis_server.url.removeprefix("unix://")
    for url in (redis_server.url, f"unix://:tr0ub4dor@{path}"):
        line = command.refusal(CONNECTION, "sync", "--url", url)
        assert "does not accept user and password" in line and "tr0ub4dor" not in line
    assert command.run("sync", "--url", f"unix://:correct%20horse@{path}").exit_code == OK
    redis_server.stop()
    redis_server.start()
    redis_server.client.config_set("maxmemory", 1)
    assert "Redis is full" in command.refusal(REFUSED, "sync", "--url", redis_server.url)
    redis_server.client.config_set("maxmemory", 0)
    monkeypatch.setattr("machserial.commands.cache.TIMEOUT", 0.2)
    redis_server.pause()
    assert "did not answer in time" in command.refusal(CONNECTION, "sync", "--url", redis_server.url)
    redis_server.resume()


def test_without_the_package_it_says_what_to_install(plant, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    assert "pip install 'machserial[cache]'" in command.refusal(USAGE, "sync")


def test_the_command_works_without_the_package(deployed_dsn):
    """Whatever does not need Redis does not import it."""
    code = "import sys; sys.modules['redis'] = sys.modules['psycopg_pool'] = None; import machserial.cli"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


def test_through_pgbouncer(plant, bouncer_dsn, redis_server):
    register(plant, [f"N{n}" for n in range(10)])
    for arguments in (["warm"], ["sync"], ["stats"], ["flush", "--yes"]):
        result = in_a_process("--dsn", bouncer_dsn, "cache", *arguments, REDIS_URL=redis_server.url)
        assert result.returncode == OK, result.stderr
