"""The demo's input, and the main job on it: every work order gets its serial numbers."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg.types.json import Jsonb

from machserial import DATA
from machserial.errors import ExpectedError

CREATE_FORMAT = """
    select machserial.create_format(
        name => %(name)s,
        pattern => %(pattern)s,
        description => %(description)s,
        sequence_start => %(sequence_start)s::bigint,
        sequence_increment => %(sequence_increment)s::bigint,
        reset => %(reset)s,
        counter_per => %(counter_per)s,
        allocation => %(allocation)s,
        letter_case => %(letter_case)s
    )
    where not exists (select from machserial.serial_formats where name = %(name)s and is_active)
"""

REGISTER_PART = """
    select machserial.register_part(part_id => %(part_id)s, part_type => %(part_type)s, name => %(name)s)
"""

ASSIGN_FORMAT = """
    select machserial.assign_format(part_id => %(part_id)s, format => %(format)s)
    where (machserial.format_for(%(part_id)s)).name is distinct from %(format)s
"""

GENERATE = """
    select count(*) as serials
    from machserial.generate(
        part_id => %(part_id)s,
        quantity => %(quantity)s::integer,
        site_id => %(site_id)s,
        context => %(context)s,
        request_id => %(work_order_id)s
    )
"""


@dataclass(frozen=True)
class Input:
    """The CSV files that the package ships, a dictionary a line."""

    sites: list[dict[str, str]]
    formats: list[dict[str, str]]
    parts: list[dict[str, str]]
    work_orders: list[dict[str, str]]


@dataclass(frozen=True)
class Run:
    """What working through the orders took. elapsed: seconds."""

    work_orders: int
    serials: int
    elapsed: float


def read_input() -> Input:
    """Reads the shipped files."""
    return Input(*(_read(name) for name in ("sites", "formats", "parts", "work_orders")))


def _read(name: str) -> list[dict[str, str]]:
    with (DATA / "demo" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def refuse_foreign_database(connection: psycopg.Connection, given: Input) -> None:
    """The demo's parts do not belong among somebody's real ones."""
    row = connection.execute(
        "select count(*) as strangers from machserial.parts where id <> all(%s)",
        [[part["part_id"] for part in given.parts]],
    ).fetchone()
    if row["strangers"]:
        raise ExpectedError(
            "the database holds parts that are not the demo's",
            detail=f"{row['strangers']} of them",
            remedy="give the demo an empty database",
        )


def prepare(connection: psycopg.Connection, given: Input) -> None:
    """Registers sites, formats and parts. What is there already stays as it is."""
    cursor = connection.cursor()
    cursor.executemany("select machserial.register_site(%(site_id)s, %(name)s, %(time_zone)s)", given.sites)
    cursor.executemany(CREATE_FORMAT, given.formats)
    cursor.executemany(REGISTER_PART, given.parts)
    cursor.executemany(ASSIGN_FORMAT, given.parts)


def work_through(connection: psycopg.Connection, orders: list[dict[str, str]], report: Callable[[int], None]) -> Run:
    """Generates the serials of every order, each in a transaction of its own.

    The order's id is the request id: an order that was worked through before gets the same serials again.
    report is called with the number of serials after each order.
    """
    serials = 0
    begin = time.perf_counter()
    for order in orders:
        row = connection.execute(GENERATE, {**order, "context": _context(order)}).fetchone()
        connection.commit()
        serials += row["serials"]
        report(row["serials"])
    return Run(len(orders), serials, time.perf_counter() - begin)


def _context(order: dict[str, str]) -> Jsonb:
    return Jsonb({name: order[name] for name in ("work_order_id", "lot_number", "operation_code", "due_date")})
