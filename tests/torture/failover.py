"""The primary dies and its standby takes over; and a restore from a backup that is older than what has left.

Two servers with synchronous replication under writers of every kind: the primary is killed, the standby promoted, the
writers are pointed at it, and the ledgers are held against it. Then a new standby is made, and so on, roles swapped.

In between a backup is restored that is older than what the ledgers know: the restored database has to refuse, until it
has been fenced with the highest numbers of the ledgers, and then must not issue one of them again.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import signal
import time
from pathlib import Path

import psycopg
from command import Command
from servers import Server, Standby, ToolMissing, choose_bin
from support import call

from torture import Part, Run
from torture.crash import BEFORE_A_CONTROL, BEFORE_A_KILL, CONTROL_WRITERS, FOR_CONTROLS, plant
from torture.crew import PATIENCE, Crew
from torture.ledger import Attempt
from torture.plant import AD_HOC, FORMATS
from torture.reckoning import CHECKS, faults, gapless, named, reckon
from torture.run import ReadyServer

# What a new standby needs while it is being copied.
REPLICATION = {"wal_keep_size": "512MB", "wal_sender_timeout": "10s", "wal_retrieve_retry_interval": "100ms"}
# How the numbers of each format look; each counter's are of one length, so that the highest is the last in order.
PRINTED = {
    "SEQUENCE": r"S\d{9}",
    "GAPLESS": r"G\d{9}",
    "DAILY": r"(?P<site>DEFAULT|EAST)-\d{8}-\d{7}",
    "JUMPING": r"J\d{13}",
    "BLOCKS": r"B\d{9}",
}
WRITERS = 4
# Writers of a restored database have other numbers than those before.
AFTER_THE_RESTORE = 100


class ReadyStandby(ReadyServer, Standby):
    """A standby that offers machserial, and can be killed as well."""


def needs() -> str | None:
    try:
        Server(choose_bin(os.environ.get("MACHSERIAL_TEST_BIN") or None)).tool("pg_basebackup")
    except ToolMissing as missing:
        return f"{missing}: install PostgreSQL's client programs of the server's version"
    return None


def await_that(server: Server, condition: str, what: str) -> None:
    ends = time.monotonic() + PATIENCE
    while not server.execute(f"select {condition}")[0][0]:
        if time.monotonic() > ends:
            raise TimeoutError(f"{what}: not within {PATIENCE} s; {server.log.read_text()[-2000:]}")
        time.sleep(0.05)


def standby_of(primary: ReadyServer, is_synchronous: bool = True) -> ReadyStandby:
    """A new standby that has everything, and without which the primary acknowledges nothing any more."""
    standby = ReadyStandby(primary)
    standby.start()
    streaming = "exists (select from pg_stat_replication where state = 'streaming')"
    await_that(primary, streaming, "the standby follows")
    if is_synchronous:
        primary.execute("alter system set synchronous_standby_names = '*'")
        primary.execute("select pg_reload_conf()")
        await_that(
            primary, "exists (select from pg_stat_replication where sync_state = 'sync')", "the standby is synchronous"
        )
        # What was committed before has to be there, too.
        [(position,)] = primary.execute("select pg_current_wal_flush_lsn()::text")
        await_that(
            primary,
            f"exists (select from pg_stat_replication where sync_state = 'sync' and flush_lsn >= '{position}')",
            "the standby has everything",
        )
    return standby


def promote(standby: ReadyStandby) -> None:
    # It has no standby of its own yet.
    standby.execute("alter system reset synchronous_standby_names")
    standby.execute("select pg_reload_conf()")
    [(promoted,)] = standby.execute(f"select pg_promote(true, {PATIENCE})")
    if not promoted:
        raise TimeoutError(f"the standby was not promoted: {standby.log.read_text()[-2000:]}")


def break_the_link(standby: ReadyStandby) -> None:
    """kill -9 of the standby's receiver: the standby recovers, and while it does the primary acknowledges nothing."""
    receivers = [pid for pid, title in standby.children().items() if title.startswith("walreceiver")]
    for pid in receivers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Pair:
    """A primary and its standby, which change roles; in a with statement."""

    def __init__(self, primary: ReadyServer, is_synchronous: bool = True) -> None:
        self.primary = primary
        self.standby = standby_of(primary, is_synchronous)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self.standby.stop()
        self.primary.stop()

    @property
    def dsn(self) -> str:
        return self.primary.dsn("postgres")

    def fail_over(self) -> None:
        """kill -9 of the primary; the standby is the primary then, without a standby."""
        self.primary.kill()
        promote(self.standby)
        self.primary.stop()
        self.primary = self.standby

    def complete(self) -> None:
        self.standby = standby_of(self.primary)


def torture(run: Run) -> None:
    with plant(run, **REPLICATION) as (first, dsn), Pair(first) as pair, Crew(run, dsn, WRITERS) as crew:
        for cycle in run.cycles():
            dice = run.dice(cycle)
            if cycle % 4 == 0:
                crew.await_more(BEFORE_A_KILL)
                left = back_up_and_go_on(run, pair.dsn, crew)
                with crew.standing_still():
                    restore_an_older_backup(run, left, cycle)
            crew.await_more(BEFORE_A_KILL + dice.randrange(50))
            what = "kill -9 of the primary"
            if dice.random() < 0.3:
                what = "kill -9 of the standby's receiver, and of the primary"
                break_the_link(pair.standby)
                time.sleep(dice.random() / 5)
                pair.standby._await_readiness()
            pair.fail_over()
            crew.point_at(pair.dsn)
            reckon(run, crew, pair.dsn, cycle=cycle, what=what)
            require_incarnation(run, pair.primary, cycle)
            pair.complete()
        crew.await_more(BEFORE_A_KILL)
        reckon(run, crew, pair.dsn, what="after the last cycle")


def require_incarnation(run: Run, primary: Server, cycle: int) -> None:
    """The first seal after a promotion opens a new incarnation of the audit trail."""
    [(found,)] = primary.execute("select max(timeline) from machserial.audit_seals where month is null")
    if found != cycle + 2:
        run.finding(f"the audit trail is on timeline {found} instead of {cycle + 2}", cycle=cycle)


# An older backup


def back_up_and_go_on(run: Run, dsn: str, crew: Crew) -> list[Attempt]:
    """Backs up, and what has left the building by the time when the backup is old: all that was acknowledged."""
    Command(dsn).answer("backup", str(run.folder / "older.dump"), "--yes")
    crew.await_more(BEFORE_A_KILL)
    crew.read_on()
    return [attempt for attempt in crew.attempts() if attempt.is_acknowledged]


def restore_an_older_backup(run: Run, left: list[Attempt], cycle: int) -> None:
    """Restores the backup elsewhere, and goes on there."""
    with run.server() as other:
        restored = Command(other.dsn("restored"))
        restored.answer("restore", str(run.folder / "older.dump"), "--create")
        require_refusal(run, restored)
        registered = fence(restored, left, run.folder / "highest.csv")
        goes_on(run, restored.dsn, left, registered, cycle)


def require_refusal(run: Run, restored: Command) -> None:
    """A restored database issues nothing, in no way."""
    for format_name in FORMATS:
        refused(run, restored, "generate", part_id="PUMP", format=format_name)
    refused(run, restored, "generate", part_id="PUMP", pattern=AD_HOC)
    refused(run, restored, "generate", part_id="PUMP", pattern="NEW-{SEQ:5}")
    refused(run, restored, "register_serial", serial_number="BY HAND", part_id="PUMP")
    refused(run, restored, "receive_vendor_serial", serial_number="V", vendor_name="ACME", part_id="CHIP")
    refused(run, restored, "allocate_block", format="BLOCKS", quantity=5, holder="LINE 2", part_id="VALVE")
    refused(run, restored, "fire", trigger_type="WORK_ORDER_CREATE", part_id="PUMP")
    refused(run, restored, "resume")


def refused(run: Run, restored: Command, function: str, **arguments: object) -> None:
    with psycopg.connect(restored.dsn) as session:
        try:
            found = call(session, function, **arguments)
        except psycopg.errors.ObjectNotInPrerequisiteState:
            return
        finally:
            session.rollback()
    run.finding(f"a restored database that nobody has fenced answers {function}({arguments}) with {found}")


def serials_of(attempts: list[Attempt]) -> dict[int, list]:
    """Each serial as it was known last."""
    return {key: value for a in attempts for kind, key, value in a.facts if kind == "serial"}


def highest_of(attempts: list[Attempt]) -> dict[tuple[str, str], str]:
    """For each counter (format and site) the highest number in the ledgers, blocks included."""
    numbers = [value[1] for value in serials_of(attempts).values()]
    numbers += [f"B{value[2]:09}" for a in attempts for kind, _, value in a.facts if kind == "block"]
    highest: dict[tuple[str, str], str] = {}
    for number in numbers:
        for format_name, shape in PRINTED.items():
            found = re.fullmatch(shape, number)
            if found:
                counter = (format_name, found.groupdict().get("site", ""))
                highest[counter] = max(highest.get(counter, ""), number)
    return highest


def fence(restored: Command, left: list[Attempt], table: Path) -> list[list]:
    """As docs/recovery.md says. Numbers that no counter gives are entered again; the facts of these."""
    highest = highest_of(left)
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["format", "highest", "part_id", "site_id"])
        rows.writerows([format_name, number, "", site] for (format_name, site), number in highest.items())
    restored.answer("fence", "--csv", str(table), "--all-known", "--reason", "what the ledgers say", "--yes")
    with psycopg.connect(restored.dsn) as session:
        return enter_again(session, left)


def enter_again(session: psycopg.Connection, left: list[Attempt]) -> list[list]:
    """Registers the numbers that the database does not know and no counter has been fenced for."""
    known = {row[0] for row in session.execute("select id from machserial.serials")}
    facts = []
    session.execute("select set_config('machserial.actor', 'entered again', true)")
    for serial_id, (status, number, part, site, released, _) in serials_of(left).items():
        from_a_counter = any(re.fullmatch(shape, number) for shape in PRINTED.values())
        if serial_id in known or from_a_counter or released or status == "REJECTED":
            continue
        given = {"serial_number": number, "part_id": part, "site_id": site}
        row = call(session, "register_serial", **given, on_conflict="RECORD")[0]
        if row.serial_id is not None:
            facts.append(["serial", row.serial_id, ["ACTIVE", number, part, site, False, "own"]])
        else:
            facts.append(["conflict", row.conflict_id, ["PENDING", number, None]])
    session.execute("insert into shop.done values ('entered again')")
    session.commit()
    return facts


def goes_on(run: Run, dsn: str, left: list[Attempt], registered: list[list], cycle: int | str) -> None:
    """Writers at the restored database, who must not be given what has left."""
    name = f"restored-{cycle}"
    with Crew(run, dsn, CONTROL_WRITERS, keeper=False, name=name, first=AFTER_THE_RESTORE) as crew:
        crew.await_more(BEFORE_A_KILL)
        with crew.standing_still():
            after = list(crew.attempts())
            issued_again(run, left, after, cycle)
            with psycopg.connect(dsn) as session:
                done = {token for (token,) in session.execute("select token from shop.done")}
            before = [attempt for attempt in left if attempt.token in done]
            entered = Attempt("entered again", ["register_serial"], registered, outcome="acknowledged")
            # The gap that fencing leaves, also in a gapless format, is on record.
            checks = tuple(check for check in CHECKS if check is not gapless)
            for fault in faults(dsn, [*before, entered, *after], checks):
                run.finding(f"after the restore: {fault}", cycle=cycle)
    for fault in crew.faults():
        run.finding(f"after the restore somebody was told what must not be: {fault}", cycle=cycle)


def issued_again(run: Run, left: list[Attempt], after: list[Attempt], cycle: int | str) -> None:
    """Numbers that left the building before the restore and again after it."""
    acknowledged = [attempt for attempt in after if attempt.is_acknowledged]
    before = {
        (number, part, site)
        for status, number, part, site, released, _ in serials_of(left).values()
        if status != "REJECTED" and not released
    }
    again = {(number, part, site) for _, number, part, site, *_ in serials_of(acknowledged).values()} & before
    if again:
        run.finding(f"numbers that had left before the restore were issued again, {named(again)}", cycle=cycle)


# The controls


def without_waiting_for_the_standby(run: Run) -> None:
    """Asynchronous replication, and the standby has not heard from the primary for a while."""
    with (
        plant(run, **REPLICATION, **FOR_CONTROLS) as (first, dsn),
        Pair(first, is_synchronous=False) as pair,
        Crew(run, dsn, CONTROL_WRITERS, keeper=False) as crew,
    ):
        crew.await_more(BEFORE_A_CONTROL)
        pair.standby.execute("alter system set primary_conninfo = 'host=/nowhere'")
        pair.standby.execute("select pg_reload_conf()")
        await_that(pair.standby, "not exists (select from pg_stat_wal_receiver)", "the standby is cut off")
        crew.await_more(BEFORE_A_CONTROL)
        pair.fail_over()
        crew.point_at(pair.dsn)
        reckon(run, crew, pair.dsn)


def without_fencing(run: Run) -> None:
    """Restored by pg_restore alone, and the applications connect."""
    with plant(run, **FOR_CONTROLS) as (server, dsn):
        with Crew(run, dsn, CONTROL_WRITERS, keeper=False) as crew:
            crew.await_more(BEFORE_A_CONTROL)
            server.run("pg_dump", "--format", "custom", "--file", run.folder / "x.dump", "postgres")
            crew.await_more(BEFORE_A_CONTROL * 2)
            crew.read_on()
            left = [attempt for attempt in crew.attempts() if attempt.is_acknowledged]
        server.execute("create database restored")
        server.run("pg_restore", "--dbname", "restored", run.folder / "x.dump")
        restored = server.dsn("restored")
        with Crew(run, restored, CONTROL_WRITERS, keeper=False, name="restored", first=AFTER_THE_RESTORE) as crew:
            crew.await_more(BEFORE_A_CONTROL * 2)
            crew.read_on()
            issued_again(run, left, list(crew.attempts()), "control")


PART = Part(
    title="failover and restore: nothing acknowledged is lost, and what has left is not issued again",
    torture=torture,
    controls={
        "replication is asynchronous": without_waiting_for_the_standby,
        "a restored database is not fenced": without_fencing,
    },
    needs=needs,
)
