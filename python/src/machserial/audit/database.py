"""Verifies the audit trail of a database without asking the database whether it is intact.

Seals and events are copied out and computed by the code that verifies archives; definitions are compared with those
that this package ships. What the database says of itself is worth no more than whoever could replace its functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import psycopg
from psycopg import sql

from machserial import audit_verifier
from machserial.audit.archiving import COPY_EVENTS, EVENT_COLUMNS, SEAL_COLUMNS, filled, in_bulk, moments_of
from machserial.audit_verifier import CsvRow, MerkleTree, Problem, integer, leaf_hash, text
from machserial.errors import ExpectedError
from machserial.operations import drift

TABLES = ("audit_events", "audit_seals", "audit_leaves", "audit_archives")

SEALS = """
    copy (select {columns} from machserial.audit_seals as t order by t.id)
    to stdout (format csv, header, force_quote *, encoding 'UTF8')
"""

# Seals of archives on record, of whose events none is here.
AWAY = """
    select distinct s.id
    from machserial.audit_archives as a
    inner join machserial.audit_seals as s on s.month = a.month and s.id between a.first_seal_id and a.last_seal_id
    where not exists (
        select from machserial.audit_events as e
        where
            e.id between s.first_event_id and s.last_event_id
            and e.performed_at >= s.month::timestamp at time zone 'UTC'
            and e.performed_at < (s.month + interval '1 month') at time zone 'UTC'
    )
"""

# Months are left out of the comparison of definitions, as they come and go.
ON_MONTHS = """
    select format('policy %I on %s', p.polname, c.oid::regclass) as planted
    from pg_policy as p inner join pg_class as c on c.oid = p.polrelid
    where c.relnamespace = 'machserial'::regnamespace and c.relname ~ '^audit_events_'
    union all
    select format('rule %I on %s', r.rulename, c.oid::regclass)
    from pg_rewrite as r inner join pg_class as c on c.oid = r.ev_class
    where c.relnamespace = 'machserial'::regnamespace and c.relname ~ '^audit_events_'
    union all
    select format('trigger %I on %s', t.tgname, c.oid::regclass)
    from pg_trigger as t inner join pg_class as c on c.oid = t.tgrelid
    where
        c.relnamespace = 'machserial'::regnamespace and c.relname ~ '^audit_events_' and not t.tgisinternal
        and (t.tgname <> 'audit_events_are_append_only' or t.tgfoid <> to_regproc('machserial._refuse_audit_change'))
"""


class Month(audit_verifier.Archive):
    """The events of a month in the database, as an archive that was never written."""

    def __init__(self, connection: psycopg.Connection, month: str, chain: list[CsvRow], away: set[int]) -> None:
        own = [seal for seal in chain if seal["month"] == f"{month}-01".encode()]
        first, last = integer(own[0]["id"]), integer(own[-1]["id"])
        self._connection, self._away = connection, away
        self._seals = [seal for seal in chain if first <= integer(seal["id"]) <= last]
        held = [seal for seal in own if self.holds(seal)]
        tree = MerkleTree()
        for seal in held:
            tree.add(leaf_hash(bytes.fromhex(text(seal["merkle_root"]))))
        events = sum(integer(seal["event_count"]) for seal in held)
        self.manifest: dict[str, Any] = {
            "month": month,
            "first_seal_id": first,
            "last_seal_id": last,
            "event_count": events,
            "merkle_root": tree.root().hex(),
            "files": [{"content": "events", "rows": events}, {"content": "seals", "rows": len(self._seals)}],
        }
        self.first_day = f"{month}-01".encode()

    def holds(self, seal: CsvRow) -> bool:
        return integer(seal["id"]) not in self._away

    def seals(self) -> Iterator[CsvRow]:
        return iter(self._seals)

    def events(self) -> Iterator[CsvRow]:
        month = date.fromisoformat(f"{self.manifest['month']}-01")
        seals = {name: self.manifest[name] for name in ("first_seal_id", "last_seal_id")}
        query = filled(COPY_EVENTS, EVENT_COLUMNS, month=str(month), **seals, **moments_of(month))
        with in_bulk(self._connection):
            yield from copied(self._connection, query, ("seal_id", *EVENT_COLUMNS))


def copied(connection: psycopg.Connection, query: sql.Composable, columns: tuple[str, ...]) -> Iterator[CsvRow]:
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        yield from audit_verifier.rows(lines(copy), columns)


def lines(copy: psycopg.Copy) -> Iterator[bytes]:
    """What the server sends, by lines: a row may hold several. Only a line feed ends one."""
    for row in copy:
        *whole, rest = bytes(row).split(b"\n")
        yield from (line + b"\n" for line in whole)
        if rest:
            yield rest


def verify(connection: psycopg.Connection, anchor: str | None) -> tuple[list[Problem], list[str]]:
    """Problems; and what to tell the reader: in which role the rows were seen, and what was not."""
    verification = audit_verifier.Verification(anchor, is_whole=False)
    found: dict[Problem, None] = {}
    notes: list[str] = []
    with connection.transaction():
        notes.append(f"copied out as {role_of(connection)}, from whom no policy hides a row")
        connection.execute("set local row_security = off")
        try:
            with connection.transaction():
                found |= dict.fromkeys(contents(connection, verification, notes))
        except psycopg.errors.InsufficientPrivilege as error:
            notes.clear()
            detail = f"{role_of(connection)} does not see every row: {error.diag.message_primary}."
            found[Problem(None, "ROWS_HIDDEN", None, detail)] = None
    found |= dict.fromkeys(definitions(connection, notes))
    return list(found), notes


def role_of(connection: psycopg.Connection) -> str:
    return connection.execute("select current_user::text as name").fetchone()["name"]


def contents(
    connection: psycopg.Connection, verification: audit_verifier.Verification, notes: list[str]
) -> Iterator[Problem]:
    try:
        chain = list(copied(connection, filled(SEALS, SEAL_COLUMNS), SEAL_COLUMNS))
        yield from verification.chain_problems(chain)
        away = {row["id"] for row in connection.execute(AWAY)}
        months = sorted({text(seal["month"])[:7] for seal in chain if seal["month"]})
        for month in months:
            found = verification.content_problems(Month(connection, month, chain, away))
            # There is no manifest: what it would say is said seal by seal.
            yield from (problem for problem in found if problem.problem != "MANIFEST_DIFFERS")
    except audit_verifier.Damaged as damage:
        yield Problem(None, "SEAL_CHANGED", None, f"What was copied out cannot be read: {damage}")
        return
    yield from verification.anchor_problems()
    gone = sorted({text(seal["month"])[:7] for seal in chain if integer(seal["id"]) in away})
    if gone:
        notes.append(f"not seen, as they are in archives only (audit verify --archive): events of {', '.join(gone)}")


def definitions(connection: psycopg.Connection, notes: list[str]) -> Iterator[Problem]:
    """What is not as this package makes it: functions, triggers, policies, rules, tables."""
    for row in connection.execute(ON_MONTHS).fetchall():
        yield Problem(None, "DEFINITION_CHANGED", None, f"{row['planted']}: it is not machserial's.")
    try:
        drifted = drift.findings(connection)
    except (ExpectedError, psycopg.Error) as error:
        notes.append(f"not seen: whether functions, triggers and policies are those of this release ({error})".rstrip())
        return
    for one in drifted:
        if one.severity == drift.DRIFT and one.kind in ("function", "trigger", "policy", "rule", "view", "table"):
            yield Problem(None, "DEFINITION_CHANGED", None, f"{one.kind} {one.object}: {one.problem}")
