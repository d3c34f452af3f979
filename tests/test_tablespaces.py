"""What machserial makes while it runs is kept where its own tables are, whatever the session prefers for its tables."""

from __future__ import annotations

import os

import psycopg
import pytest
from conftest import install
from servers import server_account
from support import call, column, generated, make_format, make_part, value

pytestmark = pytest.mark.own_database

FAR_MONTH = "2091-05-01"
PLACE = (
    "select coalesce((select spcname from pg_tablespace where oid = reltablespace), '') "
    "from pg_class where oid = %s::regclass"
)
INDEXES = "select indexrelid::regclass::text from pg_index where indrelid = %s::regclass"


@pytest.fixture
def tablespaces(server):
    """slow, fast, and that of the session."""
    names = ("slow", "fast", "of_the_session")
    for name in names:
        folder = server.folder / name
        folder.mkdir()
        if account := server_account():
            os.chown(folder, account.pw_uid, account.pw_gid)
        server.execute(f"create tablespace {name} location '{folder}'")
    yield
    for name in names:
        server.execute(f"drop tablespace {name}")
        (server.folder / name).rmdir()


@pytest.fixture
def plant(tablespaces, connection):
    """A session that prefers its own tablespace and access method."""
    connection.execute("create access method of_the_session type table handler heap_tableam_handler")
    connection.execute("set default_tablespace = of_the_session")
    connection.execute("set default_table_access_method = of_the_session")
    make_part(connection)
    yield connection
    connection.rollback()


def place(connection, relation: str) -> str:
    return value(connection, PLACE, relation)


def new_month(connection) -> set[str]:
    """Where a new month and its indexes are."""
    assert value(connection, "select machserial._make_audit_partition(%s)", FAR_MONTH)
    partition = "machserial.audit_events_2091_05"
    indexes = column(connection, INDEXES, partition)
    assert len(indexes) >= 4
    return {place(connection, relation) for relation in (partition, *indexes)}


def newest_month(connection) -> str:
    return value(connection, "select max(relation::text) from machserial._audit_partitions()")


def work(plant) -> None:
    """Makes of everything something that machserial makes while it runs."""
    for name, arguments in (("NEVER", {}), ("DAILY", {"reset": "DAILY"}), ("PARTS", {"counter_per": "PART"})):
        make_format(plant, name, "{YYYY}{MM}{DD}-{SEQ:4}", **arguments)
        generated(plant, format=name)
    generated(plant, pattern="X{SEQ:7}")
    call(plant, "allocate_block", format="NEVER", quantity=10, holder="line 7")
    call(plant, "maintain")
    assert new_month(plant) == {""}


def test_nothing_follows_the_session(plant):
    work(plant)
    assert column(
        plant,
        "select c.relname from pg_class as c left join pg_tablespace as t on t.oid = c.reltablespace "
        "left join pg_am as a on a.oid = c.relam "
        "where c.relnamespace = 'machserial'::regnamespace and 'of_the_session' in (t.spcname, a.amname)",
    ) == []  # fmt: skip
    # The session keeps its own preferences, and they do count for its own tables.
    plant.execute("create table public.own (a integer)")
    assert place(plant, "public.own") == "of_the_session"


def test_a_new_month_is_kept_with_the_trail(plant):
    plant.execute("alter table machserial.audit_events set tablespace slow")
    plant.execute(f"alter table {newest_month(plant)} set tablespace fast")
    assert new_month(plant) == {"slow"}


def test_or_with_its_newest_month(plant):
    plant.execute(f"alter table {newest_month(plant)} set tablespace slow")
    assert new_month(plant) == {"slow"}


def test_an_index_that_has_a_place_of_its_own(plant):
    plant.execute("alter table machserial.audit_events set tablespace slow")
    plant.execute("alter index machserial.audit_events_serial_id set tablespace fast")
    assert new_month(plant) == {"slow", "fast"}


def test_an_owner_who_may_make_nothing_there(tablespaces, new_database, server):
    """Neither where the session would nor where the trail was: no number is refused for that."""
    server.execute("create role machserial_test_owner login")
    owner = {"user": "machserial_test_owner"}
    dsn = new_database("machserial_test_tablespaces", owner="machserial_test_owner")
    with psycopg.connect(dsn, **owner) as plant:
        install(plant, "plain")
        make_part(plant)
    with psycopg.connect(dsn, autocommit=True) as superuser:
        superuser.execute("alter table machserial.audit_events set tablespace slow")
    with psycopg.connect(dsn, **owner) as plant:
        plant.execute("set default_tablespace = of_the_session")
        work(plant)
    server.execute("grant create on tablespace slow to machserial_test_owner")
    with psycopg.connect(dsn, **owner) as plant:
        plant.execute("drop table machserial.audit_events_2091_05")
        assert new_month(plant) == {"slow"}
    server.execute("revoke create on tablespace slow from machserial_test_owner")
