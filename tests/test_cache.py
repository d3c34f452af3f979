"""The cache of taken numbers: Redis may say that one is taken, for a time; PostgreSQL alone that one is free."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from audit_support import install as install_on
from audit_support import relaunch
from command import CONNECTION, OK, PRIVILEGE, REFUSED, USAGE, answer, in_a_process, machserial, refusal
from conftest import BUILD
from machserial import cache as module
from machserial.cache import UniquenessCache
from psycopg.rows import dict_row
from servers import Server, choose_bin
from support import call, make_part, register

pytestmark = pytest.mark.own_database
NOWHERE = "unix:///nonexistent/redis.sock"


@pytest.fixture
def plant(connection: psycopg.Connection) -> psycopg.Connection:
    """Part P of type T with the scopes SITE and PART_TYPE, R of another type; sites DEFAULT and BER."""
    call(connection, "register_site", site_id="BER")
    make_part(connection, "P", "T")
    make_part(connection, "R", "U")
    connection.commit()
    connection.autocommit = True
    return connection


@pytest.fixture
def cache(plant, redis_server) -> UniquenessCache:
    # A machine that is busy with something else is not what these tests are about.
    return UniquenessCache(plant, redis_server.url, timeout=20)


def keys(redis_server) -> list[bytes]:
    return sorted(redis_server.client.keys("machserial*"))


def release(session: psycopg.Connection, number: str) -> None:
    """A claim is given up by a vendor's serial that is rejected."""
    (serial,) = call(session, "find_serial", serial_number=number)
    call(session, "reject_vendor_serial", vendor_serial_id=serial.id, reason="broken")


def receive(session: psycopg.Connection, number: str) -> None:
    call(session, "receive_vendor_serial", serial_number=number, vendor_name="ACME", part_id="P")


# What is answered


def test_what_is_taken_is_remembered_and_what_is_free_is_not(plant, cache, redis_server):
    register(plant, ["A"])
    assert cache.is_taken("A", "P") and not cache.is_taken("B", "P")
    assert len(keys(redis_server)) == 1
    assert 0 < redis_server.client.ttl(keys(redis_server)[0]) <= 3600
    register(plant, ["B"])
    assert cache.is_taken("B", "P", confirm=False)


def test_each_question_has_its_own_answer(plant, cache):
    """Part, site and scopes: what is remembered of one is not said of another. Twice, so that Redis knows."""
    register(plant, ["A"])
    asked = [
        (part_id, site_id, scopes)
        for part_id in ("P", "R")
        for site_id in (None, "DEFAULT", "BER")
        for scopes in (None, ["SITE"], ["part_type"], ["PART_TYPE", "SITE"])
    ]
    expected = [
        call(plant, "check_uniqueness", serial_number="A", part_id=p, site_id=s, scopes=w)[0].has_conflict
        for p, s, w in asked
    ]
    assert {True, False} == set(expected)
    for _ in range(2):
        assert [cache.is_taken("A", *question, confirm=False) for question in asked] == expected


def test_redis_alone_answers_if_the_caller_says_so(plant, cache):
    """A number that has been released meanwhile is called taken by Redis, and free by PostgreSQL, which mends it."""
    receive(plant, "A")
    assert cache.is_taken("A", "P")
    release(plant, "A")
    assert cache.is_taken("A", "P", confirm=False)
    assert not cache.is_taken("A", "P")
    assert not cache.is_taken("A", "P", confirm=False)


def test_numbers_are_trimmed(plant, cache, redis_server):
    register(plant, ["A"])
    assert cache.is_taken(" A\t\r\n", "P")
    assert cache.is_taken("A", "P", confirm=False)
    assert len(keys(redis_server)) == 1


def test_what_is_asked_wrongly_is_said_by_postgresql(plant, cache):
    register(plant, ["A"])
    cache.is_taken("A", "P")
    for error, arguments in (
        (psycopg.errors.ForeignKeyViolation, {"part_id": "NONE"}),
        (psycopg.errors.ForeignKeyViolation, {"part_id": "P", "site_id": "NONE"}),
        (psycopg.errors.InvalidParameterValue, {"part_id": "P", "scopes": ["PLANET"]}),
        (psycopg.errors.InvalidParameterValue, {"part_id": "P", "scopes": []}),
    ):
        with pytest.raises(error):
            cache.is_taken("A", **arguments)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        cache.is_taken(" ", "P")


def test_what_a_transaction_sees_of_itself_is_not_remembered(plant, cache, redis_server):
    plant.autocommit = False
    register(plant, ["A"])
    assert cache.is_taken("A", "P")
    assert keys(redis_server) == []
    plant.rollback()
    assert not cache.is_taken("A", "P", confirm=False)
    register(plant, ["A"])
    plant.commit()
    assert cache.is_taken("A", "P")
    assert len(keys(redis_server)) == 1


def test_a_connection_may_give_rows_of_any_kind(plant, redis_server):
    register(plant, ["A"])
    plant.row_factory = dict_row
    assert UniquenessCache(plant, redis_server.url, timeout=20).is_taken("A", "P")


def test_no_number_is_in_redis(plant, cache, redis_server):
    register(plant, ["SECRET-NUMBER"])
    cache.is_taken("SECRET-NUMBER", "P")
    (key,) = keys(redis_server)
    assert b"SECRET" not in key + redis_server.client.get(key)


def test_claims_of_is_check_uniqueness_for_many(plant):
    register(plant, ["A", "B"])
    register(plant, ["B"], "R", site_id="BER")
    rows = call(plant, "claims_of", serial_numbers=["A", "B", "C", "A"], part_id="R", site_id="BER")
    assert sorted(rows) == [("B", rows[0].serial_ids, ["PART_TYPE", "SITE"])]
    rows = call(plant, "claims_of", serial_numbers=["A", "B", "C", "A"], part_id="P", scopes=["part_type"])
    assert sorted((row.serial_number, row.claimed_scopes) for row in rows) == [
        ("A", ["PART_TYPE"]), ("A", ["PART_TYPE"]), ("B", ["PART_TYPE"]),
    ]  # fmt: skip
    assert call(plant, "claims_of", serial_numbers=[], part_id="P") == []
    for bad in ([None], [""], ["A", " "], None):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            plant.execute("select * from machserial.claims_of(%s::text[], 'P')", (bad,))


# Without Redis, and for whom it is not


@pytest.mark.parametrize("fault", ["not there", "stopped", "full", "stands still", "something else"])
def test_whatever_redis_does_postgresql_answers(plant, redis_server, fault):
    register(plant, ["A"])
    cache = UniquenessCache(plant, NOWHERE if fault == "not there" else redis_server.url, timeout=0.2)
    if fault == "stopped":
        redis_server.stop()
    elif fault == "full":
        redis_server.client.config_set("maxmemory", 1)
    elif fault == "stands still":
        redis_server.pause()
    elif fault == "something else":
        redis_server.client.rpush(cache.key("A", "P", None, None), "x")
    for _ in range(2):
        assert cache.is_taken("A", "P", confirm=False) and not cache.is_taken("B", "P", confirm=False)
    if fault == "stands still":
        redis_server.resume()


def test_a_redis_that_failed_is_left_alone_for_a_while(plant, redis_server, monkeypatch):
    register(plant, ["A"])
    cache = UniquenessCache(plant, redis_server.url)
    redis_server.stop()
    assert cache.is_taken("A", "P")
    redis_server.start()
    assert cache.is_taken("A", "P")
    assert keys(redis_server) == []
    monkeypatch.setattr(cache, "_rests_until", time.monotonic())
    assert cache.is_taken("A", "P")
    assert len(keys(redis_server)) == 1


def test_a_limited_role_asks_postgresql(plant, cache, redis_server, connect):
    """What Redis knows concerns all sites. It is neither told to such a role nor by it."""
    register(plant, ["A"], site_id="BER", scopes=["SITE"])
    register(plant, ["D"])
    assert cache.is_taken("A", "P", "BER", ["SITE"])
    before = keys(redis_server)
    call(plant, "create_roles")
    plant.execute("create role kim login in role machserial_operator")
    call(plant, "grant_site", role="kim", site_id="DEFAULT")
    with connect(user="kim", autocommit=True) as kim:
        limited = UniquenessCache(kim, redis_server.url, timeout=20)
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            limited.is_taken("A", "P", "BER", ["SITE"], confirm=False)
        assert limited.is_taken("D", "P", confirm=False)
    assert keys(redis_server) == before


@pytest.mark.parametrize("role", ["viewer", "operator", "supervisor", "admin"])
def test_every_other_role_may_use_it(plant, redis_server, connect, role):
    register(plant, ["A"])
    call(plant, "create_roles")
    plant.execute(f"create role kim login in role machserial_{role}")
    with connect(user="kim", autocommit=True) as kim:
        cache = UniquenessCache(kim, redis_server.url, timeout=20)
        assert cache.is_taken("A", "P") and cache.is_taken("A", "P", confirm=False)
        assert (cache.flush(), cache.warm()) == (1, 1)


# Whose keys they are


def test_another_database_has_its_own_keys(plant, cache, redis_server, new_database, server):
    register(plant, ["A"])
    cache.is_taken("A", "P")
    other = new_database("another")
    with psycopg.connect(other, autocommit=True) as there:
        there.execute("create extension machserial")
        call(there, "migrate")
        make_part(there, "P", "T")
        elsewhere = UniquenessCache(there, redis_server.url, timeout=20)
        assert not elsewhere.is_taken("A", "P", confirm=False)
        register(there, ["A", "B"])
        assert elsewhere.warm() == 2
    redis_server.client.set("other", "1")
    assert cache.flush() == 1
    assert len(keys(redis_server)) == 2 and redis_server.client.get("other") == b"1"


class ColdCopy(Server):
    """A server on a copy of the files of another one, which has ended."""

    def __init__(self, origin: Server) -> None:
        super().__init__(origin.bin, **origin.settings)
        self.origin = origin

    def _initdb(self, own_binaries: Path, account: object) -> None:
        subprocess.run(["cp", "-a", f"{self.origin.folder}/data/.", f"{self.folder}/data/"], check=True)


def test_a_cold_copy_with_the_same_redis(request, redis_server):
    """The same cluster and the same database by name and number, and from now on other serial numbers."""
    with Server(choose_bin(request.config.getoption("--pg-bin"))) as origin:
        with install_on(origin, "plant", BUILD) as here:
            make_part(here, "P", "T")
        origin.process.send_signal(signal.SIGINT)
        origin.process.wait(20)
        copy = ColdCopy(origin)
        with copy:
            relaunch(origin)
            with psycopg.connect(origin.dsn("plant"), autocommit=True) as here:
                register(here, ["A"])
                assert UniquenessCache(here, redis_server.url, timeout=20).is_taken("A", "P")
            with psycopg.connect(copy.dsn("plant"), autocommit=True) as there:
                cache = UniquenessCache(there, redis_server.url, timeout=20)
                assert not cache.is_taken("A", "P", confirm=False)
                assert cache.flush() == 0
        assert len(keys(redis_server)) == 1


def test_another_registry_has_other_keys(plant, cache, monkeypatch):
    """A dump that was restored has another file."""
    before = cache.identify()[1]
    plant.execute("vacuum full machserial.serials")
    assert cache.identify()[1] == before
    monkeypatch.setattr(cache, "_known_until", 0.0)
    assert cache.identify()[1] != before


# Warming


def test_warming_writes_what_is_taken_and_nothing_else(plant, cache, redis_server, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 10)
    numbers = [f"N{n}" for n in range(35)]
    register(plant, numbers)
    register(plant, ["R"], "R", site_id="BER")
    # Not taken by what the part asks for; and no longer taken.
    register(plant, ["OTHER"], scopes=["ENTERPRISE"])
    receive(plant, "GONE")
    release(plant, "GONE")
    taken = [*numbers, *(["OTHER"] if cache.is_taken("OTHER", "P") else [])]
    cache.flush()
    assert cache.warm() == len(taken) + 1 == len(keys(redis_server))
    register(plant, ["NEW"])
    assert all(cache.is_taken(number, "P", confirm=False) for number in taken)
    assert cache.is_taken("R", "R", "BER", confirm=False)
    assert not cache.is_taken("GONE", "P", confirm=False)


# The command


def command(dsn: str, redis_server, *arguments: str, **variables: str):
    return answer("--dsn", dsn, "cache", *arguments, **{"REDIS_URL": redis_server.url, **variables})


def test_warm_sync_stats_flush(plant, deployed_dsn, redis_server):
    def run(*arguments: str, **variables: str) -> dict:
        return command(deployed_dsn, redis_server, *arguments, **variables)

    register(plant, ["A", "B"])
    assert run("warm") == {"numbers": 2}
    found = run("stats")
    assert (found["keys"], found["ttl"]) == (2, 3600)
    assert found["used_memory"] > 0 and found["maxmemory_policy"] == "noeviction" and "hit_ratio" in found
    release_by_force(plant, "B")
    assert run("sync", SERIAL_UNIQUENESS_CACHE_TTL="60") == {"removed_keys": 2, "numbers": 1}
    assert 0 < redis_server.client.ttl(keys(redis_server)[0]) <= 60
    redis_server.client.set("other", "1")
    result = machserial("--dsn", deployed_dsn, "cache", "flush", stdin=b"n\n", REDIS_URL=redis_server.url)
    assert result.exit_code == REFUSED and len(keys(redis_server)) == 1
    assert run("flush", "--yes") == {"removed_keys": 1}
    assert redis_server.client.keys() == [b"other"]


def release_by_force(session: psycopg.Connection, number: str) -> None:
    session.execute("set session_replication_role = replica")
    session.execute("delete from machserial.serials where serial_number = %s", (number,))
    session.execute("reset session_replication_role")


def test_the_time_to_live_is_a_setting(plant, deployed_dsn, redis_server):
    plant.execute("update machserial.settings set value = '77' where name = 'uniqueness_cache_ttl'")
    assert command(deployed_dsn, redis_server, "stats")["ttl"] == 77
    for wrong in ("soon", "0", "-1"):
        line = refusal(
            USAGE,
            "--dsn",
            deployed_dsn,
            "cache",
            "stats",
            REDIS_URL=redis_server.url,
            SERIAL_UNIQUENESS_CACHE_TTL=wrong,
        )
        assert f"'{wrong}' is not a time to live" in line


def test_where_redis_is_has_to_be_said(deployed_dsn, redis_server):
    for name in ("warm", "sync", "stats", "flush"):
        assert "nothing says where Redis is" in refusal(USAGE, "--dsn", deployed_dsn, "cache", name)
        off = {"REDIS_URL": redis_server.url, "REDIS_ENABLED": "false"}
        assert "nothing says where Redis is" in refusal(USAGE, "--dsn", deployed_dsn, "cache", name, **off)
    for url in ("http://localhost", "redis://host:port", "redis"):
        assert "REDIS_URL is malformed" in refusal(USAGE, "--dsn", deployed_dsn, "cache", "stats", "--url", url)


def test_what_is_wrong_with_redis_is_said(plant, deployed_dsn, redis_server, monkeypatch):
    register(plant, ["A"])
    redis_server.stop()
    run = ("--dsn", deployed_dsn, "cache", "warm", "--url")
    assert "cannot be reached" in refusal(CONNECTION, *run, redis_server.url)
    redis_server.start("--requirepass", "correct horse")
    path = redis_server.url.removeprefix("unix://")
    for url in (redis_server.url, f"unix://:tr0ub4dor@{path}"):
        line = refusal(CONNECTION, *run, url)
        assert "Redis" in line and "tr0ub4dor" not in line
    assert machserial(*run, f"unix://:correct%20horse@{path}").exit_code == OK
    redis_server.stop()
    redis_server.start()
    redis_server.client.config_set("maxmemory", 1)
    assert "maxmemory" in refusal(REFUSED, *run, redis_server.url)
    redis_server.client.config_set("maxmemory", 0)
    monkeypatch.setattr("machserial.commands.cache.TIMEOUT", 0.2)
    redis_server.pause()
    assert "cannot be reached" in refusal(CONNECTION, *run, redis_server.url)
    redis_server.resume()


def test_a_limited_role_keeps_no_cache(plant, deployed_dsn, redis_server):
    call(plant, "create_roles")
    plant.execute("create role kim login in role machserial_admin")
    call(plant, "grant_site", role="kim", site_id="DEFAULT")
    dsn = psycopg.conninfo.make_conninfo(deployed_dsn, user="kim")
    for name in (["warm"], ["sync"], ["stats"], ["flush", "--yes"]):
        assert "limited to sites" in refusal(PRIVILEGE, "--dsn", dsn, "cache", *name, REDIS_URL=redis_server.url)


def test_without_the_package_it_says_what_to_install(deployed_dsn, redis_server, monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    line = refusal(USAGE, "--dsn", deployed_dsn, "cache", "stats", REDIS_URL=redis_server.url)
    assert "pip install 'machserial[redis]'" in line


def test_the_command_works_without_the_package():
    """Whatever does not need Redis does not import it."""
    code = "import sys; sys.modules['redis'] = None; import machserial.cli, machserial.cache"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_through_pgbouncer(plant, bouncer_dsn, redis_server):
    register(plant, [f"N{n}" for n in range(10)])
    for arguments in (["warm"], ["sync"], ["stats"], ["flush", "--yes"]):
        result = in_a_process("--dsn", bouncer_dsn, "cache", *arguments, REDIS_URL=redis_server.url)
        assert result.returncode == OK, result.stderr
    with psycopg.connect(bouncer_dsn, autocommit=True, prepare_threshold=None) as pooled:
        cache = UniquenessCache(pooled, redis_server.url, timeout=20)
        for _ in range(12):
            assert cache.is_taken("N1", "P") and not cache.is_taken("FREE", "P")


def test_it_stays_thin():
    assert len(Path(module.__file__).read_text().splitlines()) <= 150
