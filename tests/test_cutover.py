"""docs/cutover.md: its commands, run as printed, between two servers of different major versions where there are two."""

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

ONE_MODE = True

PAGE = (ROOT / "docs" / "cutover.md").read_text()
ROLES = "create role plant login createrole; create role line login"


def running(binaries: Path) -> Server:
    server = Server(binaries, wal_level="logical")
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


def test_the_page(old_server, new_server):
    page = Page(old_server, new_server)
    connection = psycopg.connect(old_server.dsn("plant", user="plant"))
    install(connection, "extension")
    populate(connection)
    call(connection, "create_roles")
    new_server.execute("create role machserial_viewer; create role machserial_operator; "
                       "create role machserial_supervisor; create role machserial_admin")  # fmt: skip
    call(connection, "grant_site", role="line", site_id="NORTH")
    connection.execute("create table public.orders (id text primary key, part text)")
    call(connection, "attach", relation="public.orders", trigger_type="WORK_ORDER_CREATE", part_column="part")
    connection.commit()
    call(connection, "seal_audit")
    connection.commit()

    page.run()
    generate_all(connection)
    connection.commit()
    page.run()
    page.run_until("0")
    # Meanwhile the old server goes on: numbers, new counters, new formats, changes.
    generate_all(connection)
    make_format(connection, "LATE", "L{SEQ:5}", counter_per="SITE_PART")
    generated(connection, "PART", 3, format="LATE")
    generated(connection, "PART", 3, format="LATE", site_id="NORTH")
    first = value(connection, "select min(id) from machserial.serials")
    call(connection, "retire_serial", serial_id=first, reason="scrapped")
    connection.execute("insert into public.orders values ('WO-1', 'PART')")
    connection.commit()
    page.run_until("t")
    page.run()
    assert "made again" in page.run()
    said = page.run()
    assert "problems" not in said

    moved = psycopg.connect(new_server.dsn("plant", user="plant"))
    rows = "select id, serial_number, part_id, site_id, status, sequence_number from machserial.serials order by id"
    before = connection.execute(rows).fetchall()
    assert moved.execute(rows).fetchall() == before
    # Numbers go on where they stood, and none comes twice.
    numbers = set(column(connection, "select serial_number from machserial.serials"))
    for name in [*FORMATS, "LATE"]:
        ids_and_numbers = generate(moved, name, 4)
        numbers |= {number for _, number, _ in ids_and_numbers}
        last = [row[5] for row in before if row[5] and row[1][0] == ids_and_numbers[0][1][0] and row[3] == "DEFAULT"]
        if name in ("gapless", "sequence", "LATE"):
            assert ids_and_numbers[0][2] == max(last) + 1, name
    assert len(numbers) == len(before) + 4 * (len(FORMATS) + 1)
    gapless = column(
        moved, "select s.sequence_number from machserial.serials as s join machserial.serial_formats as f "
        "on f.id = s.format_id where f.name = 'gapless' order by 1",
    )  # fmt: skip
    assert gapless == list(range(1, len(gapless) + 1))
    moved.execute("insert into public.orders values ('WO-2', 'PART')")
    moved.commit()
    assert column(moved, "select site_ids from machserial.limited_roles()") == [["NORTH"]]
    with psycopg.connect(new_server.dsn("plant", user="line")) as line:
        line.execute("set role line")
    assert call(moved, "integrity") == []
    call(moved, "seal_audit")
    assert column(moved, "select problem from machserial.verify_audit(full => true)") == []
    moved.commit()
    refuse(moved)
    # The old one stays as it is.
    assert Command(old_server.dsn("plant", user="plant")).answer("pause", "--status")["paused"]
    connection.close()
    moved.close()
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
    assert column(
        connection,
        "select c.relname::text from pg_class as c where c.relnamespace = 'machserial'::regnamespace "
        "and c.relkind in ('r', 'p') and not exists (select from pg_index as i where i.indrelid = c.oid and i.indisprimary)",
    ) == []  # fmt: skip
