"""machserial.health(): each check sees its fault, made for real on a server of these tests' own, and its mending."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from conftest import BUILD, ROOT, install
from machserial.functions import call as call_as_the_command
from psycopg.pq import ExecStatus, PGconn
from servers import Server, Standby, choose_bin, share_and_library
from support import call, column, generated, make_format, make_part, mostly_slow, refused, value

# As a plant runs it, as far as the checks look at it: what these say on the command line could not be changed later.
LEFT_TO_THE_SERVER = ("fsync", "full_page_writes", "synchronous_commit")
NODE = 1 << 48


class SafeServer(Server):
    """Keeps what is committed, checks its pages, archives, and can be given every fault that the checks look for."""

    initdb_options = ("--data-checksums",)

    def __init__(self, binaries: Path) -> None:
        super().__init__(
            binaries,
            max_connections="20",
            max_prepared_transactions="5",
            archive_mode="on",
            # The least: so that ids grow old while one waits for it.
            autovacuum_freeze_max_age="100000",
            shared_buffers="1MB",
        )
        for name in LEFT_TO_THE_SERVER:
            del self.settings[name]
        self.measures_statements = (share_and_library(binaries)[1] / "pg_stat_statements.so").exists()
        if self.measures_statements:
            self.settings["shared_preload_libraries"] = "pg_stat_statements"


@pytest.fixture(scope="module")
def safe_server(request: pytest.FixtureRequest) -> Iterator[SafeServer]:
    with SafeServer(choose_bin(request.config.getoption("--pg-bin"))) as server:
        server.install_extension(BUILD)
        server.execute("alter system set archive_command = 'true'")
        server.execute("select pg_reload_conf()")
        server.execute("create database deployed")
        with psycopg.connect(server.dsn("deployed")) as connection:
            install(connection, "extension")
        yield server


@pytest.fixture
def new_session(safe_server: SafeServer) -> Iterator[Callable[..., psycopg.Connection]]:
    """new_session(**options): a session in a fresh database that has machserial; dropped afterwards."""
    safe_server.execute("create database fresh template deployed")
    sessions: list[psycopg.Connection] = []

    def connect(*, autocommit: bool = True, dbname: str = "fresh", **options: str) -> psycopg.Connection:
        sessions.append(psycopg.connect(safe_server.dsn(dbname, **options), autocommit=autocommit))
        return sessions[-1]

    yield connect
    for session in sessions:
        session.close()
    safe_server.execute("drop database fresh with (force)")
    for (name,) in safe_server.execute(
        "select rolname from pg_roles where rolname <> %s and rolname !~ '^pg_'", (safe_server.user,)
    ):
        safe_server.execute(f"drop role {name}")


@pytest.fixture
def database(new_session: Callable[..., psycopg.Connection]) -> psycopg.Connection:
    return new_session()


def check(database: psycopg.Connection, name: str):
    return call(database, "health_check", name=name)[0]


def health(database: psycopg.Connection) -> dict[str, str]:
    """The status of each check."""
    return {row.name: row.status for row in call(database, "health")}


def becomes(database: psycopg.Connection, name: str, status: str):
    """The check, as soon as it has that status: statistics and sessions take their time."""
    deadline = time.monotonic() + 60
    while (found := check(database, name)).status != status:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def threshold(database: psycopg.Connection, name: str, warning: float | None, critical: float | None = None) -> None:
    """What an owner does who wants to be told earlier or later."""
    database.execute(
        "update machserial.health_thresholds set warning = %s, critical = %s where name = %s", (warning, critical, name)
    )


def do_without_statements(database: psycopg.Connection) -> None:
    """What an owner does who has no use for pg_stat_statements: without it that check is UNKNOWN."""
    assert "no pg_stat_statements" in check(database, "slow_statements").message
    threshold(database, "slow_statements", None)


@contextmanager
def server_setting(database: psycopg.Connection, name: str, setting: str) -> Iterator[None]:
    database.execute(f"alter system set {name} = '{setting}'")
    database.execute("select pg_reload_conf()")
    yield
    database.execute(f"alter system reset {name}")
    database.execute("select pg_reload_conf()")


def write_log(database: psycopg.Connection, megabytes: int) -> None:
    """Write-ahead log: rows that do not compress."""
    database.execute(
        "create table if not exists public.filling (content text);"
        "alter table public.filling alter column content set storage plain"
    )
    rows = megabytes * 500
    database.execute(f"insert into public.filling select repeat(md5(n::text), 60) from generate_series(1, {rows}) as n")


# The whole


@pytest.mark.parametrize("mode", ["extension", "plain"])
def test_a_fresh_database_raises_nothing(safe_server, mode):
    safe_server.execute("create database another")
    try:
        with psycopg.connect(safe_server.dsn("another")) as connection:
            install(connection, mode)
            connection.commit()
            assert {name for name, status in health(connection).items() if status != "OK"} == {"slow_statements"}
            do_without_statements(connection)
            assert set(health(connection).values()) == {"OK"}
            make_part(connection)
            make_format(connection, "F", "F{YYYY}-{SEQ:6}", reset="YEARLY")
            call(connection, "assign_format", part_id="P", format="F")
            generated(connection, quantity=100)
            connection.commit()
            call(connection, "maintain")
            connection.commit()
            assert set(health(connection).values()) == {"OK"}
    finally:
        safe_server.execute("drop database another with (force)")


@pytest.mark.parametrize("mode", ["extension", "plain"])
def test_nor_does_it_for_an_ordinary_owner_who_is_told_what_he_cannot_see(safe_server, mode):
    safe_server.execute("create role plant login")
    safe_server.execute("create database another owner plant")
    try:
        with psycopg.connect(safe_server.dsn("another", user="plant")) as connection:
            install(connection, mode)
            do_without_statements(connection)
            connection.commit()
            assert set(health(connection).values()) == {"OK"}
            connection.commit()
            with psycopg.connect(safe_server.dsn("postgres")):
                found = {row.name: row for row in call(connection, "health") if row.status != "OK"}
            assert set(found) == {"idle_in_transaction", "longest_transaction"}
            assert {row.status for row in found.values()} == {"UNKNOWN"}
            assert found["longest_transaction"].remedy == "grant pg_monitor to plant;"
            safe_server.execute("grant pg_monitor to plant")
            with psycopg.connect(safe_server.dsn("postgres")):
                assert set(health(connection).values()) == {"OK"}
    finally:
        safe_server.execute("drop database another with (force)")
        safe_server.execute("drop role plant")


def test_every_check_has_thresholds_and_a_test(database):
    checks = column(database, "select name from machserial._health_checks()")
    assert checks == column(database, "select name from machserial.health_thresholds order by name")
    assert checks == [row.name for row in call(database, "health")]
    assert [name for name in checks if f"test_{name}" not in globals()] == []


def test_what_a_role_may_not_read_is_unknown(database, new_session):
    database.execute(
        "create role monitor login; grant usage on schema machserial to monitor;"
        "grant execute on all functions in schema machserial to monitor"
    )
    monitor = new_session(user="monitor")
    assert set(health(monitor).values()) == {"UNKNOWN"}
    row = check(monitor, "connections")
    assert "permission denied" in row.message and "monitor" in row.remedy
    database.execute("grant select on machserial.health_thresholds to monitor")
    found = health(monitor)
    assert found["connections"] == "OK"
    hidden = {
        "audit_verification", "counter_days_left", "counter_used", "id_sequences",
        "foreign_rules", "idle_in_transaction", "longest_transaction", "missing_indexes", "missing_rules",
        "missing_sequences", "paused", "pending_migrations", "schema_version", "slow_statements", "time_zones",
    }  # fmt: skip
    assert {name for name, status in found.items() if status == "UNKNOWN"} == hidden
    database.execute("grant pg_monitor to monitor; grant select on all tables in schema machserial to monitor")
    database.execute("grant usage, select on all sequences in schema machserial to monitor")
    do_without_statements(database)
    assert set(health(monitor).values()) == {"OK"}


def test_what_a_role_that_is_limited_to_sites_cannot_see_is_unknown(database, new_session):
    """It sees the counters of its own sites only, and the others may be exhausted."""
    database.execute("create role clerk login; select machserial.create_roles()")
    database.execute("grant machserial_viewer, pg_monitor, pg_read_all_data to clerk")
    do_without_statements(database)
    clerk = new_session(user="clerk")
    assert set(health(clerk).values()) == {"OK"}
    database.execute("select machserial.grant_site('clerk', 'DEFAULT')")
    assert {name for name, status in health(clerk).items() if status == "UNKNOWN"} == {
        "audit_seal_lag", "audit_verification", "counter_days_left", "counter_used", "missing_sequences", "time_zones"
    }  # fmt: skip


def test_a_check_that_is_switched_off_is_ok(database):
    assert check(database, "slow_statements").status == "UNKNOWN"
    threshold(database, "slow_statements", None)
    row = check(database, "slow_statements")
    assert row.status == "OK" and "not measured" in row.message
    database.execute("insert into machserial.pauses (reason) values ('stocktaking')")
    assert check(database, "paused").status == "WARNING"
    threshold(database, "paused", None)
    assert check(database, "paused").status == "OK"


def test_a_check_that_fails_is_unknown_and_the_others_are_not(database):
    do_without_statements(database)
    database.execute("drop table machserial.audit_verifications cascade")
    found = health(database)
    assert found.pop("audit_verification") == "UNKNOWN"
    assert found.pop("missing_rules") == "CRITICAL"
    assert set(found.values()) == {"OK"}
    row = check(database, "audit_verification")
    assert "audit_verifications" in row.message
    assert row.remedy == "See what fails: select machserial._check_audit_verification();"


def test_a_check_that_waits_for_a_lock_is_unknown(database, new_session):
    other = new_session(autocommit=False)
    other.execute("lock table machserial.audit_verifications in access exclusive mode")
    found = health(database)
    assert found["audit_verification"] == "UNKNOWN"
    assert "lock timeout" in check(database, "audit_verification").message
    other.rollback()
    assert check(database, "audit_verification").status == "OK"


def test_a_name_that_is_no_check(database):
    with refused(database, "22023") as refusal:
        call(database, "health_check", name="nonsense")
    assert "nonsense" in refusal.message
    assert "connections" in refusal.detail


def test_thresholds_are_the_owners_and_their_changes_are_events(database):
    assert check(database, "audit_partitions").status == "OK"
    threshold(database, "audit_partitions", 12, 1)
    assert check(database, "audit_partitions").status == "WARNING"
    threshold(database, "audit_partitions", 12, 3)
    assert check(database, "audit_partitions")[1:5] == ("CRITICAL", 3, 12, 3)
    threshold(database, "audit_partitions", None)
    assert check(database, "audit_partitions").status == "OK"
    with pytest.raises(psycopg.errors.CheckViolation):
        threshold(database, "audit_partitions", 1, 2)
    told = column(
        database, "select details from machserial.audit_events where event_type = 'SETTING_CHANGED' order by id"
    )
    assert [(one["name"], one["new"].get("warning")) for one in told] == [
        ("audit_partitions", 12), ("audit_partitions", 12), ("audit_partitions", None)
    ]  # fmt: skip
    with refused(database, "55000"):
        database.execute("truncate machserial.health_thresholds")
    database.execute("delete from machserial.health_thresholds where name = 'audit_partitions'")
    row = check(database, "audit_partitions")
    assert (row.status, row.value) == ("UNKNOWN", 3)
    assert "thresholds" in row.message


def test_code_without_tables(safe_server):
    safe_server.execute("create database another")
    try:
        with psycopg.connect(safe_server.dsn("another"), autocommit=True) as connection:
            connection.execute("create extension machserial")
            assert check(connection, "pending_migrations").status == "CRITICAL"
            assert call(connection, "ready")[0].status == "CRITICAL"
            assert set(health(connection).values()) == {"CRITICAL", "UNKNOWN"}
            connection.execute("select machserial.migrate()")
            assert check(connection, "pending_migrations").status == "OK"
            assert call(connection, "ready")[0].status == "OK"
    finally:
        safe_server.execute("drop database another with (force)")


# The audit trail


def test_audit_partitions(database):
    later = column(
        database,
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'machserial.audit_events'::regclass "
        "and inhrelid::regclass::text > 'machserial.audit_events_' || to_char(now(), 'YYYY_MM') order by 1",
    )
    assert len(later) == 3
    for partition, status in zip(reversed(later), ("OK", "WARNING", "CRITICAL"), strict=True):
        database.execute(f"drop table {partition}")
        assert check(database, "audit_partitions").status == status
    database.execute(check(database, "audit_partitions").remedy)
    assert check(database, "audit_partitions").status == "OK"


def test_audit_seal_lag(database, new_session):
    threshold(database, "audit_seal_lag", 1, 1000)
    holding = new_session(autocommit=False)
    holding.execute("select pg_current_xact_id()")
    make_part(database)
    row = becomes(database, "audit_seal_lag", "WARNING")
    assert str(holding.info.backend_pid) in row.message
    holding.rollback()
    call(database, "seal_audit")
    assert check(database, "audit_seal_lag").status == "OK"


def test_audit_verification(database):
    make_part(database)
    call(database, "seal_audit")
    call(database, "verify_audit")
    assert check(database, "audit_verification").status == "OK"
    database.execute("set session_replication_role = replica")
    for days, status in ((8, "WARNING"), (31, "CRITICAL")):
        database.execute(
            "update machserial.audit_verifications set verified_at = now() - make_interval(days => %s)", (days,)
        )
        row = check(database, "audit_verification")
        assert (row.status, row.value) == (status, days)
    call(database, "verify_audit")
    assert check(database, "audit_verification").status == "OK"
    database.execute("update machserial.audit_events set reason = 'forged'")
    assert call(database, "verify_audit", full=True)
    assert check(database, "audit_verification").status == "CRITICAL"
    database.execute("update machserial.audit_events set reason = null")
    assert not call(database, "verify_audit", full=True)
    assert check(database, "audit_verification").status == "OK"


# Sessions and transactions


def test_connections(database, new_session):
    usable = value(
        database,
        "select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int",
    )
    others = [new_session() for _ in range(int(usable * 0.8))]
    assert becomes(database, "connections", "WARNING").value >= 80
    others += [new_session() for _ in range(usable - len(others) - 1)]
    assert becomes(database, "connections", "CRITICAL").value == 100
    for other in others:
        other.close()
    becomes(database, "connections", "OK")


def test_connections_of_a_database_with_a_limit_of_its_own(database):
    database.execute("alter database fresh connection limit 1")
    assert check(database, "connections").status == "CRITICAL"
    database.execute("alter database fresh connection limit -1")
    assert check(database, "connections").status == "OK"


def test_idle_in_transaction(database, new_session):
    idle = new_session(autocommit=False)
    idle.execute("select 1")
    assert check(database, "idle_in_transaction").status == "OK"
    threshold(database, "idle_in_transaction", 0.1, 1000)
    row = becomes(database, "idle_in_transaction", "WARNING")
    assert f"pg_terminate_backend({idle.info.backend_pid})" in row.remedy
    idle.rollback()
    becomes(database, "idle_in_transaction", "OK")


@pytest.mark.parametrize(
    ("planted", "status", "named"),
    [
        ("create policy hidden on machserial.audit_events as restrictive using (id <> 7)", "CRITICAL",
         "policy hidden on machserial.audit_events"),
        ("create policy hidden on machserial.{partition} as restrictive using (id <> 7)", "CRITICAL",
         "policy hidden on machserial.{partition}"),
        ("create rule swallowed as on insert to machserial.audit_events do instead nothing", "CRITICAL",
         "rule swallowed on machserial.audit_events"),
        ("create rule swallowed as on update to machserial.system_generated_serials do instead nothing", "CRITICAL",
         "rule swallowed on machserial.system_generated_serials"),
        ("create trigger planted before insert on machserial.audit_events for each row "
         "execute function public.of_others()", "WARNING", "trigger planted on machserial.audit_events"),
        ("create or replace trigger audit_archives_are_append_only before update or delete or truncate "
         "on machserial.audit_archives for each statement execute function public.of_others()", "WARNING",
         "trigger audit_archives_are_append_only on machserial.audit_archives calls "),
    ],
)
def test_foreign_rules(database, planted, status, named):
    assert check(database, "foreign_rules").status == "OK"
    database.execute("create function public.of_others() returns trigger language plpgsql as 'begin return null; end'")
    (partition,) = database.execute(
        "select c.relname from pg_class as c where c.relname ~ '^audit_events_20' and c.relkind = 'r' limit 1"
    ).fetchone()
    if "replace trigger" in planted:
        planted = planted.replace("or replace ", "")
        database.execute("drop trigger audit_archives_are_append_only on machserial.audit_archives")
    database.execute(planted.format(partition=partition))
    row = check(database, "foreign_rules")
    assert (row.status, row.value) == (status, 1)
    assert named.format(partition=partition) in row.message and "drop " in row.remedy
    # On a table of somebody else's it is nobody's business.
    database.execute(row.remedy.partition("if it is not yours: ")[2])
    database.execute("create table public.orders (id int)")
    database.execute(
        "create trigger own after insert on public.orders for each row execute function public.of_others()"
    )
    assert check(database, "foreign_rules").status == "OK"


def test_foreign_locks(database, new_session):
    """Who holds what for how long: test_foreign_locks.py."""
    database.execute("update machserial.settings set value = '1' where name = 'lock_wait'")
    session = new_session(application_name="planted")
    session.execute("select pg_advisory_lock(hashtext('machserial.seal'), 0)")
    row = becomes(database, "foreign_locks", "WARNING")
    assert "(planted)" in row.message and row.remedy == f"select pg_terminate_backend({session.info.backend_pid});"
    session.execute("select pg_advisory_unlock_all()")
    becomes(database, "foreign_locks", "OK")


def test_longest_transaction(database, new_session):
    threshold(database, "longest_transaction", 0.1, 0.3)
    busy = new_session(autocommit=False)
    busy.execute("select 1")
    row = becomes(database, "longest_transaction", "CRITICAL")
    assert str(busy.info.backend_pid) in row.message
    # The idle session of nobody's transaction is none.
    busy.commit()
    becomes(database, "longest_transaction", "OK")


def test_prepared_transactions(database, new_session):
    threshold(database, "prepared_transactions", 0.1, 1000)
    preparing = new_session(autocommit=False)
    preparing.execute("select machserial.register_part('P', 'T')")
    preparing.execute("prepare transaction 'forgotten'")
    row = becomes(database, "prepared_transactions", "WARNING")
    assert "rollback prepared 'forgotten'" in row.remedy
    database.execute("rollback prepared 'forgotten'")
    assert check(database, "prepared_transactions").status == "OK"


def test_xid_age(database, safe_server):
    before = check(database, "xid_age")
    assert before.status == "OK"
    threshold(database, "xid_age", float(before.value) + 1)
    # Each round takes a transaction id of its own.
    database.execute(
        "do $$ begin for i in 1 .. 1500 loop "
        "begin perform pg_current_xact_id(); insert into machserial.sites (id) values (i); raise sqlstate 'MS000'; "
        "exception when sqlstate 'MS000' then null; end; end loop; end $$"
    )
    assert check(database, "xid_age").status == "WARNING"
    safe_server.execute("alter database template0 allow_connections true")
    for (name,) in safe_server.execute("select datname from pg_database"):
        safe_server.execute("vacuum (freeze)", dbname=name)
    safe_server.execute("alter database template0 allow_connections false")
    assert check(database, "xid_age").status == "OK"


# Replication and archiving


@pytest.fixture
def standby(safe_server, new_session):
    """A standby of the server; its database is there when it starts."""
    with Standby(safe_server) as standby:
        # It can be read before it has begun to follow.
        while not safe_server.execute("select 1 from pg_stat_replication where state = 'streaming'"):
            assert standby.process.poll() is None, standby.log.read_text()
            time.sleep(0.05)
        yield standby
    # The primary notices the end of the connection a little later.
    while safe_server.execute("select 1 from pg_stat_replication"):
        time.sleep(0.05)


def await_replay(primary: psycopg.Connection, standby: psycopg.Connection) -> None:
    """Until the standby has replayed what the primary has written so far."""
    position = value(primary, "select pg_current_wal_lsn()::text")
    while not value(standby, "select pg_last_wal_replay_lsn() >= %s::pg_lsn", position):
        time.sleep(0.05)


def test_replication_lag(database, standby):
    threshold(database, "replication_lag", 1 << 20, 64 << 20)
    assert becomes(database, "replication_lag", "OK").message.startswith("slowest is standby")
    with psycopg.connect(standby.dsn("fresh"), autocommit=True) as there:
        becomes(there, "replication_lag", "OK")
        assert call(there, "ready")[0].status == "WARNING"
        # What is seen on the primary only is not called fine here.
        assert {name for name, status in health(there).items() if status == "UNKNOWN"} == {
            "prepared_transactions", "read_only", "slow_statements"
        }  # fmt: skip
        assert [(row.name, row.severity) for row in call(there, "integrity")] == [("standby", "UNKNOWN")]
        assert [(row.name, row.severity) for row in call(there, "verify_lineage")] == [("standby", "UNKNOWN")]
        # So that the thresholds have come over when it stops.
        await_replay(database, there)
        there.execute("select pg_wal_replay_pause()")
        write_log(database, 2)
        assert becomes(database, "replication_lag", "WARNING").value >= 1 << 20
        assert becomes(there, "replication_lag", "WARNING").remedy == "select pg_wal_replay_resume();"
        there.execute("select pg_wal_replay_resume()")
        becomes(database, "replication_lag", "OK")
        becomes(there, "replication_lag", "OK")


def test_lock_table(database):
    row = check(database, "lock_table")
    assert row.status == "OK" and "(0 for counters); the server has room for 1600" in row.message
    threshold(database, "lock_table", row.value + 1)
    make_part(database)
    make_format(database, "F", "F{SITE}{PART}{SEQ:3}", counter_per="SITE_PART")
    for number in range(20):
        call(database, "register_site", site_id=f"S{number}")
        generated(database, format="F", site_id=f"S{number}")
    row = check(database, "lock_table")
    assert row.status == "WARNING" and "(20 for counters)" in row.message
    assert "max_locks_per_transaction = 128;" in row.remedy
    database.execute("drop sequence machserial.counter_1, machserial.counter_2, machserial.counter_3,"
                     "machserial.counter_4, machserial.counter_5")  # fmt: skip
    assert check(database, "lock_table").status == "OK"


@pytest.fixture
def receiver(safe_server):
    """A receiver of the log; receiver(written, replayed) tells the server how far it has come, 0 for not at all."""
    (position,) = safe_server.execute("select pg_current_wal_lsn()")[0]
    connection = PGconn.connect(safe_server.dsn("postgres", replication="true", application_name="quiet").encode())
    assert connection.exec_(f"START_REPLICATION PHYSICAL {position}".encode()).status == ExecStatus.COPY_BOTH

    def tell(written: int, replayed: int) -> None:
        connection.put_copy_data(struct.pack(">cQQQqb", b"r", written, written, replayed, 0, 0))
        connection.flush()

    yield tell
    connection.finish()
    while safe_server.execute("select 1 from pg_stat_replication"):
        time.sleep(0.05)


def test_a_standby_that_tells_nothing_is_not_taken_for_none(database, receiver):
    first = becomes(database, "replication_lag", "UNKNOWN")
    assert "quiet local has not told yet" in first.message
    assert first.value is None
    assert first.remedy
    position = int(value(database, "select pg_current_wal_lsn() - '0/0'::pg_lsn"))
    receiver(position, position)
    assert becomes(database, "replication_lag", "OK").message == "slowest is standby quiet local, which is streaming"
    # What only stores the log tells what it has written, and counts by that.
    threshold(database, "replication_lag", 1 << 20, 64 << 20)
    receiver(position, 0)
    write_log(database, 2)
    assert becomes(database, "replication_lag", "WARNING").message.startswith("slowest is standby quiet local")


def test_replication_slots(database):
    database.execute("select pg_create_physical_replication_slot('dead', true)")
    row = check(database, "replication_slots")
    assert (row.status, row.value) == ("WARNING", 1)
    assert row.remedy.endswith("select pg_drop_replication_slot('dead');")
    with server_setting(database, "max_slot_wal_keep_size", "1MB"):
        for _ in range(4):
            write_log(database, 1)
            database.execute("select pg_switch_wal()")
        database.execute("checkpoint")
        becomes(database, "replication_slots", "CRITICAL")
    database.execute("select pg_drop_replication_slot('dead')")
    assert check(database, "replication_slots").status == "OK"


def test_replication_slot_wal(database):
    threshold(database, "replication_slot_wal", 1 << 20)
    # A slot keeps everything from the last checkpoint on.
    database.execute("checkpoint")
    database.execute("select pg_create_physical_replication_slot('dead', true)")
    assert check(database, "replication_slot_wal").status == "OK"
    write_log(database, 2)
    row = check(database, "replication_slot_wal")
    assert row.status == "WARNING"
    assert "dead" in row.message and row.value >= 1 << 20
    database.execute("select pg_drop_replication_slot('dead')")
    assert check(database, "replication_slot_wal").status == "OK"


def test_archiver(database):
    assert check(database, "archiver").status == "OK"
    database.execute("alter system set archive_command = 'false'")
    database.execute("select pg_reload_conf()")
    write_log(database, 1)
    database.execute("select pg_switch_wal()")
    row = becomes(database, "archiver", "WARNING")
    assert row.value >= 1 and "archiving fails" in row.message
    database.execute("alter system set archive_command = 'true'")
    database.execute("select pg_reload_conf()")
    write_log(database, 1)
    database.execute("select pg_switch_wal()")
    becomes(database, "archiver", "OK")


# Settings and statistics


@pytest.mark.parametrize("name", ["fsync", "full_page_writes"])
def test_unsafe_settings(database, name):
    with server_setting(database, name, "off"):
        row = becomes(database, "unsafe_settings", "CRITICAL")
        assert name in row.message and name in row.remedy
    becomes(database, "unsafe_settings", "OK")


def test_synchronous_commit(database):
    with server_setting(database, "synchronous_commit", "off"):
        assert "alter system" in becomes(database, "synchronous_commit", "WARNING").remedy
    becomes(database, "synchronous_commit", "OK")
    for place in ("database fresh", "role postgres", "role postgres in database fresh", "role all"):
        database.execute(f"alter {place} set synchronous_commit = off")
        assert check(database, "synchronous_commit").status == "WARNING", place
        database.execute(f"alter {place} reset synchronous_commit")
        assert check(database, "synchronous_commit").status == "OK"
    # Another database's own is its own affair.
    database.execute("alter database deployed set synchronous_commit = off")
    assert check(database, "synchronous_commit").status == "OK"
    database.execute("alter database deployed reset synchronous_commit")


@pytest.fixture
def writing_again(safe_server):
    """Whatever a test has said of the whole server is taken back, by who goes past it."""
    yield
    options = "-c default_transaction_read_only=off"
    with psycopg.connect(safe_server.dsn("postgres", options=options), autocommit=True) as session:
        session.execute("alter role all reset default_transaction_read_only")


def test_read_only(database, new_session, writing_again):
    assert check(database, "read_only").status == "OK"

    def found(role: str = "postgres") -> tuple:
        with new_session(user=role) as session:
            return check(session, "read_only"), call(session, "ready")[0]

    here, everywhere = "alter database fresh", "alter role all"
    for statement, place, reset in (
        (f"{here} set default_transaction_read_only = yes", "database fresh", here),
        (f"{everywhere} set default_transaction_read_only = on", "all databases", everywhere),
    ):
        database.execute(statement)
        row, ready = found()
        assert (row.status, row.value) == ("CRITICAL", 1) and place in row.message
        assert ready.status == "WARNING" and "read-only" in ready.message
        assert row.remedy.startswith(f"{reset} reset") and ready.remedy == row.remedy
        database.execute(row.remedy.partition(";")[0])
        row, ready = found()
        assert (row.status, ready.status) == ("OK", "OK")
    # A role that is meant to read is nobody's fault, but it gets no numbers.
    database.execute("create role reader login superuser; alter role reader set default_transaction_read_only = on")
    row, ready = found("reader")
    assert (row.status, ready.status) == ("OK", "WARNING") and "alter role reader" in ready.remedy


def test_a_server_that_is_read_only(database, new_session):
    with new_session() as session:
        session.execute("set default_transaction_read_only = off")
        with server_setting(session, "default_transaction_read_only", "on"):
            row = becomes(database, "read_only", "CRITICAL")
            assert "the server" in row.message
            assert row.remedy.startswith("alter system set default_transaction_read_only = off")
    becomes(database, "read_only", "OK")


def test_missing_sequences(database):
    make_part(database)
    make_format(database, "F", "F{SEQ:6}")
    generated(database, quantity=3, format="F")
    assert check(database, "missing_sequences").status == "OK"
    database.execute("drop sequence machserial.counter_1")
    found = check(database, "missing_sequences")
    assert (found.status, found.value) == ("CRITICAL", 1) and "machserial.counter_1 of format F" in found.message
    assert health(database)["counter_used"] == "OK"
    database.execute(value(database, found.remedy.removesuffix(";")))
    assert check(database, "missing_sequences").status == "OK"


def test_server_version(database):
    assert check(database, "server_version").status == "OK"
    expected = {140013: 1, 140014: 0, 150008: 1, 150009: 0, 160001: 4, 170000: 1, 180000: 0, 190000: 1, 150020: 0}
    found = {number: call(database, "_version_result", server_version_num=number)[0] for number in expected}
    assert {number: row.value for number, row in found.items()} == expected
    assert {row.status for row in found.values() if row.value} == {"WARNING"}
    assert "15.9" in found[150008].message and "CVE-2024-10976" in found[150008].message
    assert "15.19" in found[150009].message and "CVE" not in found[150020].message
    # README has the same releases.
    known = database.execute("select * from machserial._supported_releases()").fetchall()
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| ([0-9, ]+) \| ([0-9., ]+) \|", readme, re.MULTILINE)
    assert ", ".join(versions for _, versions in rows) == ", ".join(f"{row[0]}.{row[1]}" for row in known)
    patched = re.search(r"From ([0-9., and]+) on \(CVE-2026-6470\)", readme)[1].replace(" and ", ", ")
    assert patched == ", ".join(f"{row[0]}.{row[2]}" for row in known)


def test_time_zones(database):
    """tests/test_time_zones.py has more of it."""
    assert check(database, "time_zones").status == "OK"
    database.execute("insert into machserial.sites (id, time_zone) values ('A', 'US/Eastern')")
    assert check(database, "time_zones").status == "WARNING"
    database.execute("update machserial.sites set time_zone = 'America/New_York'")
    assert check(database, "time_zones").status == "OK"


def test_memory(database):
    # The multiplier was 1 before PostgreSQL 15.
    with server_setting(database, "hash_mem_multiplier", "2"), server_setting(database, "work_mem", "150MB"):
        assert becomes(database, "memory", "WARNING").value >= 100
    becomes(database, "memory", "OK")
    with server_setting(database, "work_mem", "1GB"):
        becomes(database, "memory", "CRITICAL")
    becomes(database, "memory", "OK")


def test_cache_hit_ratio(database, new_session):
    database.execute("select pg_stat_reset()")
    assert "too few" in check(database, "cache_hit_ratio").message
    with new_session() as reader:
        write_log(reader, 8)
        # Into a cache of 1 MB, again and again.
        for _ in range(110):
            reader.execute("select count(*) from public.filling")
    row = becomes(database, "cache_hit_ratio", "CRITICAL")
    assert row.value < 75
    database.execute("select pg_stat_reset()")
    becomes(database, "cache_hit_ratio", "OK")


def test_checksum_failures(database, new_session, safe_server):
    assert check(database, "checksum_failures").status == "OK"
    write_log(database, 4)
    database.execute("checkpoint")
    # The table is larger than the cache, which a scan leaves filled with its end.
    path = safe_server.folder / "data" / value(database, "select pg_relation_filepath('public.filling')")
    with path.open("r+b") as file:
        file.seek(4000)
        file.write(b"damage")
    with new_session() as reader, pytest.raises(psycopg.errors.DataCorrupted):
        reader.execute("select count(*) from public.filling")
    row = becomes(database, "checksum_failures", "CRITICAL")
    assert "fresh" in row.message
    database.execute("select pg_stat_reset()")
    becomes(database, "checksum_failures", "OK")


def test_checksums_that_are_off_are_not_called_fine(request):
    with Server(choose_bin(request.config.getoption("--pg-bin"))) as server:
        if server.execute("show data_checksums") == [("on",)]:
            pytest.skip("this initdb makes checksums unless it is told not to")
        with psycopg.connect(server.dsn("postgres")) as connection:
            install(connection, "plain")
            row = check(connection, "checksum_failures")
    assert row.status == "UNKNOWN" and "checksums are off" in row.message and "pg_checksums" in row.remedy


def test_slow_statements(database, safe_server):
    row = check(database, "slow_statements")
    assert (row.status, row.value) == ("UNKNOWN", None) and "no pg_stat_statements" in row.message and row.remedy
    if not safe_server.measures_statements:
        pytest.skip("this server has no pg_stat_statements (Debian: apt-get install postgresql-contrib)")
    database.execute("create extension pg_stat_statements schema public")
    database.execute("select pg_stat_statements_reset()")
    assert check(database, "slow_statements").status == "OK"
    threshold(database, "slow_statements", 5, 10000)
    for _ in range(10):
        database.execute("select pg_sleep(0.01)")
    row = check(database, "slow_statements")
    assert row.status == "WARNING"
    assert "pg_sleep" in row.message
    database.execute("select public.pg_stat_statements_reset()")
    assert check(database, "slow_statements").status == "OK"


DUTIES = (
    "select * from machserial.maintain()", "select machserial.seal_audit()", "select * from verify_audit(full => true)",
    "select * from machserial.integrity()", "select * from health()", "SELECT machserial.ready ()",
    "select * from machserial.audit_months()", "select * from machserial._faults_of_lineage()",
    "copy (select * from machserial.audit_events) to stdout", "select machserial.migrate()",
)  # fmt: skip
# As the command calls them.
CALLED = (
    ("verify_audit", {"full": True}), ("integrity", {"only": "claims"}), ("seal_audit", {}), ("maintain", {}),
    ("verify_lineage", {}), ("audit_anchor", {}), ("_index_problems", {}),
)  # fmt: skip


def test_our_own_duties_are_no_slow_statements(database, safe_server):
    """They may take minutes and nobody waits for them; also with what they call counted."""
    if not safe_server.measures_statements:
        pytest.skip("this server has no pg_stat_statements (Debian: apt-get install postgresql-contrib)")
    database.execute("create extension pg_stat_statements schema public")
    threshold(database, "slow_statements", 0.001)
    database.execute("set search_path = machserial, public")
    database.execute("set pg_stat_statements.track = 'all'")
    database.execute("select pg_stat_statements_reset()")
    for duty in DUTIES * 10:
        if duty.startswith("copy"):
            with database.cursor().copy(duty) as copy:
                list(copy)
        else:
            database.execute(duty)
    for name, arguments in CALLED * 10:
        call_as_the_command(database, name, **arguments)
    row = check(database, "slow_statements")
    assert (row.status, row.message) == ("OK", "no statement has run ten times")
    for _ in range(10):
        database.execute("select count(*) from serials")
    assert "from serials" in check(database, "slow_statements").message


# Versions, indexes, privileges, pauses


def test_pending_migrations(database):
    # As after the code was updated and before the data is.
    database.execute("create table kept as select * from machserial.schema_migrations where name = 'settings'")
    database.execute("delete from machserial.schema_migrations where name = 'settings'")
    row = check(database, "pending_migrations")
    assert (row.status, row.value) == ("CRITICAL", 1)
    assert "1 settings" in row.message
    assert call(database, "ready")[0].status == "CRITICAL"
    database.execute("insert into machserial.schema_migrations select * from kept")
    assert check(database, "pending_migrations").status == "OK"


def test_schema_version(database):
    database.execute(
        "insert into machserial.schema_migrations (version, name, sha256, code_version) values (999, 'x', 'x', '99')"
    )
    row = check(database, "schema_version")
    assert (row.status, row.value) == ("CRITICAL", 1)
    assert "999" in row.message
    assert call(database, "ready")[0].status == "CRITICAL"
    database.execute("delete from machserial.schema_migrations where version = 999")
    assert check(database, "schema_version").status == "OK"
    kept = value(database, "select sha256 from machserial.schema_migrations where version = 1")
    database.execute("update machserial.schema_migrations set sha256 = 'x' where version = 1")
    assert check(database, "schema_version").status == "CRITICAL"
    database.execute("update machserial.schema_migrations set sha256 = %s where version = 1", (kept,))
    assert check(database, "schema_version").status == "OK"
    assert call(database, "ready")[0].status == "OK"


def test_invalid_indexes(database):
    for part_id in "AB":
        make_part(database, part_id, "T")
    with pytest.raises(psycopg.errors.UniqueViolation):
        database.execute("create unique index concurrently mine on machserial.parts (part_type)")
    row = check(database, "invalid_indexes")
    assert (row.status, row.value) == ("WARNING", 1)
    assert "machserial.mine" in row.remedy
    database.execute("drop index machserial.mine")
    assert check(database, "invalid_indexes").status == "OK"


def test_index_collations(database):
    for name, kind, status in (("by_name", "", "WARNING"), ("one_name", "unique", "CRITICAL")):
        database.execute(f'create {kind} index "{name}" on machserial.sites (lower(id), id collate "ucs_basic")')
        row = check(database, "index_collations")
        assert (row.status, row.value) == (status, 1)
        assert name in row.message and name in row.remedy
        database.execute(f"drop index machserial.{name}")
        database.execute(f"create index {name} on machserial.sites (lower(id), id, created_at)")
        assert check(database, "index_collations").status == "OK"


def test_missing_indexes(database):
    for name, status in (("serials_part_id_created_at", "WARNING"), ("serials_site_key", "CRITICAL")):
        database.execute(f"drop index machserial.{name}")
        row = check(database, "missing_indexes")
        assert (row.status, row.value) == (status, 1)
        assert name in row.message
        database.execute(row.remedy)
        assert check(database, "missing_indexes").status == "OK"


def test_the_remedy_makes_every_missing_index_again(database):
    indexes = (
        "select c.relname::text, pg_get_indexdef(c.oid) from pg_index as i join pg_class as c on c.oid = i.indexrelid "
        "where c.relnamespace = 'machserial'::regnamespace and not c.relispartition"
    )
    there = dict(database.execute(indexes).fetchall())
    constraints = dict(
        database.execute(
            "select conname::text, conrelid::regclass::text from pg_constraint "
            "where connamespace = 'machserial'::regnamespace and contype in ('p', 'u', 'x')"
        ).fetchall()
    )
    with database.transaction(force_rollback=True):
        for name in there:
            if name in constraints:
                database.execute(f"alter table {constraints[name]} drop constraint {name} cascade")
            else:
                database.execute(f"drop index machserial.{name}")
        row = check(database, "missing_indexes")
        assert (row.status, row.value) == ("CRITICAL", len(there))
        database.execute(row.remedy)
        assert dict(database.execute(indexes).fetchall()) == there


RULES = {
    "trigger": "drop trigger serials_are_admitted on machserial.serials",
    "disabled trigger": "alter table machserial.serials disable trigger serials_are_admitted",
    "policy": "drop policy own_sites_only on machserial.serials",
    "row-level security": "alter table machserial.serials disable row level security",
    "check": "alter table machserial.parts drop constraint parts_part_type_is_given",
    "foreign key": "alter table machserial.vendor_serials drop constraint vendor_serials_internal_serial_id_fkey",
    "not null": "alter table machserial.serials alter column part_id drop not null",
    "default": "alter table machserial.serials alter column status drop default",
    "view": "drop view machserial.blocks",
}


@pytest.mark.parametrize("kind", RULES)
def test_missing_rules(database, kind):
    assert check(database, "missing_rules").status == "OK"
    database.execute(RULES[kind])
    row = check(database, "missing_rules")
    assert (row.status, row.value) == ("CRITICAL", 1)
    database.execute(row.remedy)
    assert check(database, "missing_rules").status == "OK"


MENDINGS = [
    (
        "grant execute on function machserial.reset_counter(text, bigint, text, text, text) to public",
        "revoke execute on function machserial.reset_counter(text, bigint, text, text, text) from public",
    ),
    (
        "create function machserial.planted() returns integer language sql return 1",
        "drop function machserial.planted()",
    ),
    ("grant insert on machserial.serials to public", "revoke insert on machserial.serials from public"),
    ("grant create on schema machserial to public", "revoke create on schema machserial from public"),
    ("alter table machserial.sites owner to stranger", "alter table machserial.sites owner to postgres"),
    (
        "alter function machserial.version() owner to stranger",
        "alter function machserial.version() owner to postgres",
    ),
    ("alter schema machserial owner to stranger", "alter schema machserial owner to postgres"),
]


@pytest.mark.parametrize(("fault", "mending"), mostly_slow(MENDINGS, MENDINGS[::3]))
def test_privileges(database, fault, mending):
    database.execute("create role stranger")
    assert check(database, "privileges").status == "OK"
    database.execute(fault)
    row = check(database, "privileges")
    assert (row.status, row.value) == ("CRITICAL", 1)
    assert "everybody" in row.message or "stranger" in row.message
    database.execute(mending)
    assert check(database, "privileges").status == "OK"
    database.execute("drop owned by stranger")


def test_paused(database):
    assert check(database, "paused").status == "OK"
    database.execute(
        "insert into machserial.pauses (reason, paused_at, paused_by) values ('stocktaking', now(), 'Ada')"
    )
    row = check(database, "paused")
    assert (row.status, row.value) == ("WARNING", 1)
    assert "stocktaking" in row.message and "Ada" in row.message
    ready = call(database, "ready")[0]
    assert (ready.status, ready.message) == ("WARNING", row.message)
    database.execute("update machserial.pauses set resumed_at = now(), resumed_by = 'Ada'")
    assert check(database, "paused").status == "OK"
    assert call(database, "ready")[0].status == "OK"


# What runs out


def numbered(database: psycopg.Connection, pattern: str, quantity: int, **arguments: object) -> None:
    """Part P with that many numbers of format F."""
    make_part(database)
    make_format(database, "F", pattern, **arguments)
    call(database, "assign_format", part_id="P", format="F")
    generated(database, quantity=quantity)


def made_days_ago(database: psycopg.Connection, days: float) -> None:
    """As if the counters and serials had been made over these days."""
    database.execute("set session_replication_role = replica")
    database.execute("update machserial.counters set created_at = now() - make_interval(secs => %s)", (days * 86400,))
    database.execute("update machserial.serials set created_at = now() - make_interval(secs => %s)", (days * 86400,))
    database.execute("reset session_replication_role")


def test_counter_used(database):
    numbered(database, "F{SEQ:3}", 700)
    assert check(database, "counter_used").status == "OK"
    generated(database, quantity=150)
    row = check(database, "counter_used")
    assert (row.status, round(row.value)) == ("WARNING", 85)
    assert "counter F" in row.message and "149 numbers left" in row.message
    generated(database, quantity=140)
    assert check(database, "counter_used").status == "CRITICAL"
    call(database, "revise_format", name="F", pattern="F{SEQ:6}")
    assert check(database, "counter_used").status == "OK"


def test_counter_used_of_gapless_counters_per_part(database):
    numbered(database, "{PART}{SEQ:2}", 96, allocation="GAPLESS", counter_per="PART")
    row = check(database, "counter_used")
    assert row.status == "CRITICAL"
    assert "counter F P" in row.message


def test_counter_days_left(database):
    numbered(database, "F{SEQ:4}", 100)
    # 100 numbers in 10 days, 9,899 left.
    made_days_ago(database, 10)
    row = check(database, "counter_days_left")
    assert (row.status, round(row.value)) == ("OK", 990)
    assert "about 10" in row.message
    # From now on faster than on the average: 3,000 of the newest serials in half a year, all of them today.
    made_days_ago(database, 180)
    database.execute("update machserial.health_thresholds set warning = 1000 where name = 'counter_days_left'")
    generated(database, quantity=3000)
    row = check(database, "counter_days_left")
    assert row.status == "WARNING"
    assert 300 < row.value < 420
    call(database, "revise_format", name="F", pattern="F{SEQ:9}")
    assert check(database, "counter_days_left").status == "OK"


def test_counter_days_left_counts_the_newest_serials(database):
    """A counter that was idle for long and is busy now runs out sooner than its average says."""
    numbered(database, "F{SEQ:5}", 1)
    made_days_ago(database, 1000)
    generated(database, quantity=20000)
    # By its average it would last for ten years; 10,000 and more a day are of today.
    row = check(database, "counter_days_left")
    assert row.status == "WARNING"
    assert 7 <= row.value <= 8


def test_counters_that_are_reset_in_time_do_not_count(database):
    """Nine in ten numbers of a year are used up, and at this rate the rest is enough to its end."""
    numbered(database, "{YYYY}{SEQ:3}", 900, reset="YEARLY")
    days_of_the_year = value(database, "select extract(doy from now() at time zone 'UTC')::integer")
    if days_of_the_year < 330:
        # Most of the year's numbers are gone early: then it does count.
        assert check(database, "counter_used").status == "WARNING"
        assert check(database, "counter_days_left").status == "CRITICAL"
    made_days_ago(database, 100000)
    assert check(database, "counter_used").status == "OK"
    assert check(database, "counter_days_left").status == "OK"


def test_sequence_behind(database):
    """Of every table that numbers its rows; what another node of a merged database has given is no matter."""
    assert check(database, "sequence_behind").status == "OK"
    make_part(database)
    numbered(database, "A{SEQ:4}", 5)
    database.execute("select setval('machserial.serials_id_seq', 2)")
    database.execute("select setval('machserial.serial_formats_id_seq', 1, false)")
    row = check(database, "sequence_behind")
    assert (row.status, row.value) == ("CRITICAL", 2)
    assert "serial_formats, serials" in row.message
    for statement in row.remedy.split("; "):
        database.execute(statement)
    assert check(database, "sequence_behind").status == "OK"
    database.execute(
        "insert into machserial.serials (id, serial_number, part_id) overriding system value "
        "values ((5::bigint << 48) + 7, 'OF NODE 5', (select min(id) from machserial.parts))"
    )
    assert check(database, "sequence_behind").status == "OK"
    call(database, "set_node", node=5)
    assert check(database, "sequence_behind").status == "OK"
    database.execute("select setval('machserial.serials_id_seq', 5::bigint << 48, false)")
    assert check(database, "sequence_behind").status == "CRITICAL"


def test_id_sequences(database):
    for share, status in ((0.4, "OK"), (0.6, "WARNING"), (0.9, "CRITICAL")):
        database.execute("select setval('machserial.serials_id_seq', %s)", (int(share * NODE),))
        row = check(database, "id_sequences")
        assert (row.status, round(row.value)) == (status, share * 100)
    assert "serials_id_seq" in row.message and "days left" in row.message
    call(database, "set_node", node=1)
    assert check(database, "id_sequences").status == "OK"
