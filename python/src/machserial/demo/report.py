"""What came of the work orders, by SQL."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from machserial import output
from machserial.demo.scenario import Run

FORMATS = """
    select
        f.name as format,
        f.pattern,
        count(*) as serials,
        count(distinct s.part_id) as parts,
        (array_agg(s.serial_number order by s.id))[1] as first,
        (array_agg(s.serial_number order by s.id desc))[1] as last
    from machserial.serials as s
    inner join machserial.serial_formats as f on f.id = s.format_id
    where s.work_order_id = any(%(orders)s)
    group by f.id, f.name, f.pattern
    order by serials desc
"""

UNIQUENESS = """
    select
        count(*) as serials,
        count(distinct s.serial_number) as distinct_serial_numbers,
        count(*) filter (where f.allocation = 'GAPLESS') as gapless_serials,
        count(distinct s.sequence_number) filter (where f.allocation = 'GAPLESS') as distinct_gapless_numbers
    from machserial.serials as s
    inner join machserial.serial_formats as f on f.id = s.format_id
    where s.work_order_id = any(%(orders)s)
"""

# The middle one of the gapless serials: any would do, but it is the same one each time.
EXAMPLE = """
    select s.serial_number
    from machserial.serials as s
    inner join machserial.serial_formats as f on f.id = s.format_id
    where s.work_order_id = any(%(orders)s) and f.allocation = 'GAPLESS'
    order by s.id
    offset %(middle)s limit 1
"""

RECORD = """
    select
        s.id, s.serial_number, s.part_id, p.name as part, s.site_id, site.name as site, s.status, s.source,
        f.name as format, s.sequence_number, s.work_order_id, s.lot_number, s.operation_code, s.context,
        s.created_at, s.created_by
    from machserial.find_serial(%s) as s
    inner join machserial.parts as p on p.id = s.part_id
    inner join machserial.sites as site on site.id = s.site_id
    left join machserial.serial_formats as f on f.id = s.format_id
    limit 1
"""

EVENTS = """
    select e.performed_at, e.event_type, e.event_source, e.performed_by, e.db_user
    from machserial.audit_events as e
    where e.serial_id = %s
    order by e.id
"""


@dataclass(frozen=True)
class Report:
    """The result of the run: one row per format, speed, the proof of uniqueness, and one serial with its events."""

    formats: list[dict]
    speed: dict
    uniqueness: dict
    example: dict
    events: list[dict]


def report(connection: psycopg.Connection, orders: list[dict[str, str]], run: Run) -> Report:
    """Asks the database what came of the orders."""
    names = {"orders": [order["work_order_id"] for order in orders]}
    uniqueness = connection.execute(UNIQUENESS, names).fetchone()
    middle = uniqueness["gapless_serials"] // 2
    number = connection.execute(EXAMPLE, {**names, "middle": middle}).fetchone()["serial_number"]
    example = connection.execute(RECORD, [number]).fetchone()
    return Report(
        formats=connection.execute(FORMATS, names).fetchall(),
        speed={
            "work_orders": run.work_orders,
            "serials": run.serials,
            "elapsed_seconds": round(run.elapsed, 3),
            "serials_per_second": round(run.serials / run.elapsed),
            "work_orders_per_second": round(run.work_orders / run.elapsed),
        },
        uniqueness=uniqueness,
        example=example,
        events=connection.execute(EVENTS, [example["id"]]).fetchall(),
    )


def print_report(result: Report) -> None:
    """The report as tables."""
    output.print_rows([_short(row) for row in result.formats], as_json=False, title="What was generated")
    output.print_record(result.speed, as_json=False, title="How fast (one transaction a work order)")
    output.print_record(result.uniqueness, as_json=False, title="Every number once, by SQL")
    output.print_record(result.example, as_json=False, title="One serial's record: machserial.find_serial(…)")
    output.print_rows(result.events, as_json=False, title="Its audit events: machserial.audit_events")


def _short(row: dict) -> dict:
    """A row that fits on a terminal of 80 columns: pattern and numbers below each other."""
    return {
        "format": row["format"],
        "serials": row["serials"],
        "pattern, first and last number": f"{row['pattern']}\n  {row['first']}\n  {row['last']}",
    }
