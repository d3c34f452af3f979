"""An audit trail with old months, for the tests of archives and of the command."""

from __future__ import annotations

import psycopg
from psycopg.rows import dict_row

OCTOBER, NOVEMBER = "2025-10", "2025-11"

# Values that a careless file would not bring back.
HOSTILE = [
    None,
    "",
    '"',
    '""',
    "'",
    ",",
    ",,",
    "\\N",
    "\\.",
    "\n",
    'a\n"b\r\nc',
    "\t",
    " ",
    "NULL",
    "\x01\x7f",
    "\u2028",
    "漢字 🔩",
    "a\\",
]
DETAILS = [None, "{}", '{"a": 1.10, "b": [null, "\\n", "\\u0001", "é 漢"]}', "null", '""', '"\\"\\\\"', "1e3"]

INSERT = """
    insert into machserial.audit_events
        (event_type, event_source, serial_id, serial_number, part_id, site_id, performed_by, performed_at,
        reason, details, transaction_id)
    values
        ('SERIAL_GENERATED', 'mes', %(serial_id)s, %(number)s, 'PUMP', %(site)s, %(who)s, %(at)s, %(reason)s,
        %(details)s, %(transaction)s)
"""


class History:
    """October and November 2025 in a fresh database, sealed in several rounds. All else is of the present."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        with self.connect() as connection:
            for month in (OCTOBER, NOVEMBER):
                connection.execute(f"select machserial._make_audit_partitions('{month}-15', 0)")
            # From before any seal, so that nobody can call their events backdated.
            self.transactions = list(range(3, 30))
            self.is_sealed = False
            self.add(connection, "2025-10-01 00:00:00+00", "2025-10-31 23:59:59.999999+00")
            hostile = ["2025-11-03 10:00:00.123456+00"] * len(HOSTILE)
            self.add(connection, "2025-11-01 00:00:00+00", *hostile, "2025-11-30 23:59:59.999999+00")
            self.seal(connection)
            self.add(connection, "2025-11-15 08:00:00+01", "2025-10-20 12:00:00+00")
            self.seal(connection)

    def connect(self) -> psycopg.Connection:
        """Each statement commits; rows are dictionaries, as the command's are."""
        return psycopg.connect(self.dsn, autocommit=True, row_factory=dict_row)

    def add(self, connection: psycopg.Connection, *moments: str) -> None:
        """Events of these moments, in two transactions.

        What is older than a seal may come after it only where the database has come to another cluster. So it has.
        """
        if self.is_sealed:
            self.seal(connection)
            connection.execute("select machserial._open_incarnation(machserial._last_audit_id())")
            self.is_sealed = False
        transactions = self.transactions[:2]
        del self.transactions[:2]
        for number, at in enumerate(moments):
            values = {
                "serial_id": number or None,
                "number": f"SN-{number}",
                "site": HOSTILE[number % len(HOSTILE)],
                "who": HOSTILE[(number + 1) % len(HOSTILE)] or "ada",
                "at": at,
                "reason": HOSTILE[(number + 2) % len(HOSTILE)],
                "details": DETAILS[number % len(DETAILS)],
                # Not in the order of their ids.
                "transaction": transactions[(number + 1) % 2],
            }
            connection.execute(INSERT, values)

    def seal(self, connection: psycopg.Connection) -> None:
        connection.execute("select machserial.seal_audit()")
        self.is_sealed = True

    def query(self, statement: str, *parameters: object) -> list[dict]:
        with self.connect() as connection:
            return connection.execute(statement, parameters or None).fetchall()

    def value(self, statement: str, *parameters: object) -> object:
        return next(iter(self.query(statement, *parameters)[0].values()))

    def events(self, table: str = "audit_events", where: str = "performed_at < '2026-01-01'") -> dict[int, str]:
        """Every old event by its id, as text with all of its columns."""
        rows = self.query(f"select id, e::text as event from machserial.{table} as e where {where}")
        return {row["id"]: row["event"] for row in rows}

    def problems(self) -> list[dict]:
        return self.query("select * from machserial.verify_audit(true)")

    def tables(self) -> list[str]:
        """Of old months: their partitions, and tables that were detached."""
        rows = self.query(
            """
            select
                c.relname || case when i.inhdetachpending then ' (pending)' when i.inhrelid is null then ' (detached)'
                    else '' end as name
            from pg_class as c
            left join pg_inherits as i on i.inhrelid = c.oid
            where c.relnamespace = 'machserial'::regnamespace and c.relname ~ '^audit_events_2025_..(_archived)?$'
            order by 1
            """
        )
        return [row["name"] for row in rows]
