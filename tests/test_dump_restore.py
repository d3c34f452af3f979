"""A dump holds everything; what is restored from it obeys the same rules, and numbers go on where they stood."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from conftest import install
from psycopg import errors
from servers import Server
from snapshot import catalog, differences, rows
from support import mostly_slow

pytestmark = [pytest.mark.both_modes, pytest.mark.own_database]

# Name of a format: how it is made. One for every way in which a database remembers how far it has counted.
FORMATS = {
    "sequence": {"pattern": "S-{SEQ:6}{CHECK:luhn}"},
    "gapless": {"pattern": "G-{SEQ:6}", "allocation": "GAPLESS"},
    "random": {"pattern": "R-{RANDOM:hex:10}"},
    "daily": {"pattern": "D-{YYYY}{MM}{DD}-{SEQ:5}", "reset": "DAILY"},
    "per_site": {"pattern": "{SITE}-{SEQ:5}", "counter_per": "SITE"},
    "quoted": {"pattern": "it's $$ {PREFIX:\\%}{SEQ:5}"},
}
DUMPS = ("plain", "custom", "directory")


def generate(connection: psycopg.Connection, format_name: str, quantity: int, **arguments: str) -> list[tuple]:
    named = "".join(f", {name} => %({name})s" for name in arguments)
    return connection.execute(
        f"select * from machserial.generate('PART', %(quantity)s, format => %(format)s{named})",
        {"quantity": quantity, "format": format_name, **arguments},
    ).fetchall()


def generate_all(connection: psycopg.Connection) -> None:
    for name in FORMATS:
        generate(connection, name, 7)
    generate(connection, "per_site", 3, site_id="NORTH")
    generate(connection, "sequence", 2, request_id="request-1")


def populate(connection: psycopg.Connection) -> None:
    connection.execute("select machserial.register_site('NORTH', 'North plant', 'Europe/Oslo')")
    connection.execute("select machserial.register_part('PART', 'TYPE', 'A part')")
    for name, arguments in FORMATS.items():
        named = "".join(f", {argument} => %({argument})s" for argument in arguments)
        connection.execute(f"select machserial.create_format(%(name)s{named})", {"name": name, **arguments})
    connection.execute("select machserial.assign_format('PART', 'sequence')")
    connection.execute("select machserial.register_serial('BY-HAND', 'PART')")
    # An index that the owner made is data too.
    connection.execute("create index made_by_the_owner on machserial.serials (lot_number)")
    generate_all(connection)
    connection.commit()


@pytest.fixture
def restore(
    connection: psycopg.Connection, new_database: Callable[..., str], server: Server, tmp_path: Path
) -> Iterator[Callable[[str], psycopg.Connection]]:
    """restore(kind): a populated database dumped and restored; connections to the original and to the copy."""
    opened = []

    def dump_and_restore(kind: str) -> psycopg.Connection:
        populate(connection)
        dsn = new_database("restored")
        server.dump_and_restore(connection.info.dbname, "restored", tmp_path / "dump", kind)
        opened.append(psycopg.connect(dsn))
        return opened[-1]

    yield dump_and_restore
    for one in opened:
        one.close()


@pytest.mark.parametrize("kind", mostly_slow(DUMPS, ["custom"]))
def test_a_restored_database_is_the_same_and_is_written_on(
    connection: psycopg.Connection, restore: Callable[[str], psycopg.Connection], kind: str
) -> None:
    restored = restore(kind)
    assert differences(catalog(connection), catalog(restored)) == []
    assert differences(rows(connection), rows(restored)) == []
    assert restored.execute("select machserial.migrate()").fetchone() == (0,)
    write_on(restored)
    refuse(restored)


def write_on(connection: psycopg.Connection) -> None:
    """Numbers go on: none twice, gapless ones without a gap, a repeated request with what it got before."""
    before = connection.execute("select count(*) from machserial.serials").fetchone()[0]
    first = connection.execute(
        "select s.id, s.serial_number, s.sequence_number from machserial.serials as s "
        "inner join machserial.requests as r on r.id = s.generation_request_id "
        "where r.request_id = 'request-1' order by s.id"
    ).fetchall()
    generate_all(connection)
    connection.commit()
    # request-1 was answered from the record.
    assert sorted(generate(connection, "sequence", 2, request_id="request-1")) == first
    made = 7 * len(FORMATS) + 3
    count, numbers = connection.execute(
        "select count(*), count(distinct serial_number) from machserial.serials"
    ).fetchone()
    assert count == numbers == before + made
    gapless = connection.execute(
        "select array_agg(s.sequence_number order by s.sequence_number) from machserial.serials as s "
        "inner join machserial.serial_formats as f on f.id = s.format_id where f.name = 'gapless'"
    ).fetchone()[0]
    assert gapless == list(range(1, 15))
    events = connection.execute(
        "select count(*) from machserial.audit_events where serial_id is not null"
    ).fetchone()[0]
    assert events >= count
    connection.commit()


def refuse(connection: psycopg.Connection) -> None:
    """Triggers and constraints are back, and in force."""
    for statement, error in (
        ("update machserial.audit_events set reason = 'x'", errors.InsufficientPrivilege),
        ("delete from machserial.audit_events", errors.InsufficientPrivilege),
        ("truncate machserial.audit_events", errors.InsufficientPrivilege),
        ("update machserial.serial_formats set pattern = 'X{SEQ:3}'", errors.ObjectNotInPrerequisiteState),
        ("delete from machserial.serial_formats", errors.ObjectNotInPrerequisiteState),
        ("select machserial.register_serial('BY-HAND', 'PART')", errors.UniqueViolation),
        (
            "insert into machserial.serials (serial_number, part_id, part_type) values ('BY-HAND', 'PART', 'TYPE')",
            errors.UniqueViolation,
        ),
        (
            "insert into machserial.serials (serial_number, part_id, part_type) values ('X', 'NONE', 'TYPE')",
            errors.ForeignKeyViolation,
        ),
        ("insert into machserial.sites (id, time_zone) values ('X', 'Nowhere')", psycopg.Error),
    ):
        with pytest.raises(error):
            connection.execute(statement)
        connection.rollback()
    # A partition is not a way around the rule of its table.
    for (partition,) in connection.execute(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'machserial.audit_events'::regclass"
    ).fetchall():
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(f"delete from {partition}")
        connection.rollback()


def test_the_dump_of_an_unused_installation_can_be_restored(
    connection: psycopg.Connection, new_database: Callable[..., str], server: Server, tmp_path: Path
) -> None:
    dsn = new_database("restored")
    server.dump_and_restore(connection.info.dbname, "restored", tmp_path / "dump", "plain")
    with psycopg.connect(dsn) as restored:
        assert differences(catalog(connection), catalog(restored)) == []
        populate(restored)
        refuse(restored)


@pytest.fixture
def plants_database(new_database: Callable[..., str], server: Server) -> Callable[[str], str]:
    """plants_database(mode): the name of a populated database that belongs to an ordinary role, plant."""

    def populated(mode: str) -> str:
        server.execute("create role plant login")
        with psycopg.connect(new_database("plant", owner="plant"), user="plant") as connection:
            install(connection, mode)
            populate(connection)
        return "plant"

    return populated


@pytest.mark.parametrize("mode", ["extension"])
def test_an_ordinary_owners_database_is_restored_in_that_name(
    plants_database: Callable, new_database: Callable[..., str], server: Server, tmp_path: Path, mode: str
) -> None:
    source = plants_database(mode)
    dsn = new_database("restored", owner="plant")
    server.dump_and_restore(source, "restored", tmp_path / "dump", "custom", role="plant")
    with psycopg.connect(dsn, user="plant") as restored:
        write_on(restored)
        refuse(restored)
        assert restored.execute("select machserial.migrate()").fetchone() == (0,)


# Of an extension test_ordinary_owner.py tells: it is the superuser's then.
@pytest.mark.parametrize("mode", ["plain"])
def test_a_superuser_restores_an_ordinary_owners_database(
    plants_database: Callable, new_database: Callable[..., str], server: Server, tmp_path: Path, mode: str
) -> None:
    source = plants_database(mode)
    dsn = new_database("restored")
    server.dump_and_restore(source, "restored", tmp_path / "dump", "plain")
    with psycopg.connect(dsn) as restored:
        write_on(restored)
        refuse(restored)
