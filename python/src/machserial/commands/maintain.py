"""machserial maintain"""

from __future__ import annotations

import click

from machserial import output
from machserial.functions import Row, call
from machserial.options import Command, Settings, pass_settings


@click.command(cls=Command)
@pass_settings
def maintain(settings: Settings) -> None:
    """Do what must be done from time to time: machserial.maintain(), again until nothing remains.

    Seals audit events, makes partitions and counters ahead, retires counters of past periods, closes blocks that have
    expired. Each call is a transaction of its own, and small enough for every server. Once an hour is a good rhythm.
    """
    done = maintained(settings)
    output.print_rows(done, as_json=settings.json)
    if left := sum(row["remaining"] for row in done):
        output.message(f"{left:,} counters are in use, or a backup is running: what remains is done next time")


def maintained(settings: Settings) -> list[Row]:
    """What all calls together have done, one row per task; remaining: what not even another call would do now."""
    total: dict[str, Row] = {}
    while True:
        with settings.connect() as connection:
            rows = call(connection, "maintain")
        for row in rows:
            before = total.get(row["task"], {"done": 0})["done"]
            total[row["task"]] = {**row, "done": before + row["done"]}
        if not any(row["remaining"] and row["done"] for row in rows):
            return list(total.values())
