"""docs/cutover.md: its commands, run as printed, between servers of different major versions where there are two."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from command import Command, environment
from conftest import BUILD, ROOT, install
from servers import Server, choose_bin, embedded_bin
from support import call, column, generated, make_format, value
from test_dump_restore import FORMATS, generate, generate_all, populate, refuse

PAGE = (ROOT / "docs" / "cutover.md").read_text()
ROLES = "create role plant login createrole; create role line login"


def running(binaries: Path) -> Server:
    # What arrives is told at once, and a table's first copy is tried again at once.
    server = Server(
        binaries, wal_level="logical", wal_receiver_status_interval="1s", wal_retrieve_retry_interval="50ms"
    )
    server.start()
    server.install_extension(BUILD)
    for statement in ROLES.split("; "):
        server.execute(statement)
    server.execute("create database plant owner plant")
    return server


@pytest.fixture(scope="module")
def old_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = running(choose_bin(request.config.getoption("--pg-bin")))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def new_server(old_server: Server) -> Iterator[Server]:
    """The embedded server, which is of the newest major version."""
    server = running(embedded_bin() or old_server.bin)
    yield server
    server.stop()


class Page:
    """The commands of the page, block by block."""

    def __init__(self, old: Server, new: Server) -> None:
        self.blocks = iter(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S))
        # The programs of the old server: they read it, and know what the new one understands.
        programs = [str(old.tool("pg_dump").parent), str(Path(sys.executable).parent)]
        self.environment = environment(
            PATH=os.pathsep.join([*programs, os.environ["PATH"]]),
            OLD=old.dsn("plant", user="plant"), NEW=new.dsn("plant", user="plant"),
            NEW_ADMIN=new.dsn("plant"), REPLICATION=old.dsn("plant"),
        )  # fmt: skip

    def run(self) -> str:
        """The next block; what it prints."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", next(self.blocks)], env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def run_until(self, answer: str) -> None:
        """The next block, again until it ends with this."""
        block = next(self.blocks)
        deadline = time.monotonic() + 60
        while True:
            done = subprocess.run(["bash", "-c", block], env=self.environment, capture_output=True, text=True)
            if done.stdout.split()[-1:] == [answer]:
                return
            assert time.monotonic() < deadline, done.stdout + done.stderr
            time.sleep(0.1)
            block = block[block.index("psql ") :]


def begin(old: psycopg.Connection, new_server: Server) -> None:
    """A plant at work, with roles, of which one is limited, and with a table of its own."""
    install(old, "extension")
    populate(old)
    call(old, "create_roles")
    old.execute("grant machserial_operator to line")
    for name in ("viewer", "operator", "supervisor", "admin"):
        new_server.execute(f"create role machserial_{name}")
    new_server.execute("grant machserial_operator to line")
    call(old, "grant_site", role="line", site_id="NORTH")
    old.execute("create table public.orders (id text primary key, part text)")
    call(old, "attach", relation="public.orders", trigger_type="WORK_ORDER_CREATE", part_column="part")
    old.commit()
    call(old, "seal_audit")
    old.commit()


def go_on(old: psycopg.Connection) -> None:
    """Meanwhile: numbers, a new format with new counters, a change, an event of the plant's own table."""
    generate_all(old)
    make_format(old, "LATE", "L-{SITE}-{SEQ:5}", counter_per="SITE_PART")
    generated(old, "PART", 3, format="LATE")
    generated(old, "PART", 3, format="LATE", site_id="NORTH")
    first = value(old, "select min(id) from machserial.serials")
    call(old, "retire_serial", serial_id=first, reason="scrapped")
    old.execute("insert into public.orders values ('WO-1', 'PART')")
    old.commit()


def assert_numbers_go_on(old: psycopg.Connection, new: psycopg.Connection) -> None:
    """Where they stood: none comes twice, and gapless ones have no gap."""
    rows = "select id, serial_number, part_id, site_id, status, sequence_number from machserial.serials order by id"
    before = old.execute(rows).fetchall()
    assert new.execute(rows).fetchall() == before
    for name in [*FORMATS, "LATE"]:
        generate(new, name, 4)
    assert value(new, "select count(distinct serial_number) from machserial.serials") == len(before) + 4 * (
        len(FORMATS) + 1
    )
    for name in ("gapless", "sequence", "LATE"):
        counted = (
            "select array_agg(s.sequence_number order by s.id) from machserial.serials as s "
            "join machserial.serial_formats as f on f.id = s.format_id "
            f"where f.name = '{name}' and s.site_id = 'DEFAULT'"
        )
        last, now = value(old, counted), value(new, counted)
        assert now == [*last, *range(last[-1] + 1, last[-1] + 5)], name
    new.execute("insert into public.orders values ('WO-2', 'PART')")
    new.commit()


def assert_limited(new_server: Server) -> None:
    with psycopg.connect(new_server.dsn("plant", user="line")) as line:
        assert column(line, "select distinct site_id from machserial.serials") == ["NORTH"]


def test_the_page(old_server, new_server):
    page = Page(old_server, new_server)
    with psycopg.connect(old_server.dsn("plant", user="plant")) as old:
        begin(old, new_server)
        page.run()
        generate_all(old)
        old.commit()
        page.run()
        page.run_until("0")
        go_on(old)
        page.run_until("t")
        page.run()
        assert "made again" in page.run()
        assert "problems" not in page.run()
        with psycopg.connect(new_server.dsn("plant", user="plant")) as new:
            assert_numbers_go_on(old, new)
            assert call(new, "integrity") == []
            call(new, "seal_audit")
            assert column(new, "select problem from machserial.verify_audit(full => true)") == []
            new.commit()
            refuse(new)
    assert_limited(new_server)
    # The old one stays as it is.
    assert Command(old_server.dsn("plant", user="plant")).answer("pause", "--status")["paused"]
    with pytest.raises(StopIteration):
        page.run()


def test_the_apply_worker_meets_nothing_that_the_new_server_lacks(connection):
    """No published column holds what another server may not have by that name, but roles, which are brought along."""
    named = column(
        connection,
        "select c.relname || '.' || a.attname from pg_class as c join pg_attribute as a on a.attrelid = c.oid "
        "where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p') and c.relpersistence = 'p' "
        "and a.attnum > 0 and a.atttypid::regtype::text ~ '^reg'",
    )
    assert named == ["site_grants.role"]
    without_key = (
        "select c.relname::text from pg_class as c where c.relnamespace = 'machserial'::regnamespace "
        "and c.relkind in ('r', 'p') "
        "and not exists (select from pg_index as i where i.indrelid = c.oid and i.indisprimary)"
    )
    assert column(connection, without_key) == []
