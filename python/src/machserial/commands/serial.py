"""machserial serial: find, retire, invalidate"""

from __future__ import annotations

import click
import psycopg

from machserial import output
from machserial.errors import ExpectedError
from machserial.functions import Row, call, call_one
from machserial.options import ID, Group, Settings, pass_settings, reason_option

# What a terminal has room for; --json gives all.
IN_A_TABLE = ("id", "serial_number", "part_id", "site_id", "source", "status", "work_order_id", "created_at")


@click.group("serial", cls=Group)
def serial_group() -> None:
    """Find and retire single serial numbers."""


@serial_group.command()
@click.argument("serial_number", metavar="SERIAL")
@pass_settings
def find(settings: Settings, serial_number: str) -> None:
    """Find all serials with this number, of any part, site and status."""
    with settings.connect() as connection:
        serials = call(connection, "find_serial", serial_number=serial_number)
    output.print_rows(serials, as_json=settings.json, columns=IN_A_TABLE)


@serial_group.command()
@click.argument("serial_id", metavar="ID", type=ID)
@reason_option
@pass_settings
def retire(settings: Settings, serial_id: int, reason: str) -> None:
    """Take a serial out of use, as the part is scrapped, worn out or used up."""
    end(settings, "retire_serial", serial_id, reason)


@serial_group.command()
@click.argument("serial_id", metavar="ID", type=ID)
@reason_option
@pass_settings
def invalidate(settings: Settings, serial_id: int, reason: str) -> None:
    """Mark a serial as one that should not exist, such as a misprint or a forgery."""
    end(settings, "invalidate_serial", serial_id, reason)


def end(settings: Settings, function: str, serial_id: int, reason: str) -> None:
    """Calls function for the serial, and shows what it is now."""
    with settings.connect() as connection:
        ended = call_one(connection, function, serial_id=serial_id, reason=reason)
    output.print_record(ended, as_json=settings.json)


def the_serial(
    connection: psycopg.Connection, serial_number: str, part_id: str | None, option: str = "--id"
) -> Row:
    """The one serial with this number. Raises ExpectedError if there is none, or more than one: option says which."""
    serials = [
        serial
        for serial in call(connection, "find_serial", serial_number=serial_number)
        if part_id in (None, serial["part_id"])
    ]
    if not serials:
        raise ExpectedError(
            f"there is no serial {serial_number}",
            detail=f"of part {part_id}" if part_id else None,
            remedy="check the number, its spaces and its capitals",
        )
    if len(serials) > 1:
        found = ", ".join(f"id {one['id']}: part {one['part_id']}, {one['status']}" for one in serials)
        raise ExpectedError(
            f"{len(serials)} serials have the number {serial_number}",
            detail=found.replace(", id", "; id"),
            remedy=f"say which with {option}",
        )
    return serials[0]
