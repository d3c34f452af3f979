"""machserial connections"""

from __future__ import annotations

import click
import psycopg

from machserial import output
from machserial.errors import ExpectedError
from machserial.functions import Row
from machserial.options import Command, Duration, Settings, confirm, pass_settings, yes_option

# Sessions whose state is hidden belong to others, and whoever looks has not pg_read_all_stats.
BY_STATE = """
    select
        a.datname as database, a.application_name as application, a.usename as user,
        coalesce(a.state, 'hidden') as state, count(*)::integer as connections,
        min(coalesce(a.state_change, a.backend_start)) as oldest
    from pg_stat_activity as a
    where a.backend_type = 'client backend'
    group by 1, 2, 3, 4
    order by a.datname <> current_database(), connections desc, 1, 2, 3, 4
"""

LIMITS = """
    select
        current_setting('max_connections')::integer as max_connections,
        current_setting('superuser_reserved_connections')::integer
        + coalesce(current_setting('reserved_connections', true)::integer, 0) as reserved,
        (select count(*)::integer from pg_stat_activity where backend_type = 'client backend') as used
"""

# Where machserial is, and to whom may look.
CAN_SEE_LOCKS = """
    select coalesce(has_function_privilege(p.oid, 'execute'), false)
    from (select to_regprocedure('machserial._foreign_locks()')) as p (oid)
"""
LOCKS = "select distinct f.holder, f.purpose, f.since, f.ending from machserial._foreign_locks() as f"

IDLE = """
    select
        a.pid, a.usename as user, a.application_name as application, a.client_addr::text as client, a.state_change,
        s.rolsuper or pg_has_role(a.usesysid, 'member')
        or pg_has_role('pg_signal_backend', 'member') and not r.rolsuper as may_terminate
    from pg_stat_activity as a
    inner join pg_roles as s on s.rolname = current_user
    left join pg_roles as r on r.oid = a.usesysid
    where
        a.backend_type = 'client backend' and a.datname = current_database() and a.pid <> pg_backend_pid()
        and a.state = 'idle' and a.state_change < clock_timestamp() - %(idle)s::interval
    order by a.state_change
"""

# Asked again for each of them: a session that has begun to work in the meantime stays.
TERMINATE = """
    select a.pid, pg_terminate_backend(a.pid) as terminated
    from pg_stat_activity as a
    where
        a.pid = any(%(pids)s) and a.datname = current_database() and a.state = 'idle'
        and a.state_change < clock_timestamp() - %(idle)s::interval
"""


@click.command(cls=Command)
@click.option(
    "--terminate-idle",
    "idle",
    type=Duration(),
    metavar="DURATION",
    help="End sessions of this database idle for longer: 90s, 10m (minutes), 2h, 7d.",
)
@yes_option
@pass_settings
def connections(settings: Settings, idle: str | None, yes: bool) -> None:
    """Show sessions, free connections and sessions that hold locks of machserial.

    --terminate-idle ends sessions of this database that have been idle, outside of a transaction, for longer than
    DURATION, never its own. It asks first. Exit code 1 if some may not be ended by you.
    """
    with settings.connect() as connection:
        if idle:
            terminate_idle(settings, connection, idle, yes)
        else:
            show(settings, connection)


def show(settings: Settings, connection: psycopg.Connection) -> None:
    limits = connection.execute(LIMITS).fetchone()
    rows = connection.execute(BY_STATE).fetchall()
    limits["free"] = limits["max_connections"] - limits["reserved"] - limits["used"]
    locks = foreign_locks(connection)
    if settings.json:
        output.print_json({**limits, "connections": rows, "locks": locks})
        return
    output.print_rows(rows, as_json=False)
    output.print_text(
        "{used} connections are used and {free} free, of max_connections = {max_connections} less {reserved} "
        "reserved".format(**limits)
    )
    for lock in locks:
        output.print_text("{holder} holds the advisory lock for {purpose}; what ends it: {ending}".format(**lock))
    if any(row["state"] == "hidden" for row in rows):
        output.message("what sessions of others do is hidden from you: grant pg_monitor to your role")


def foreign_locks(connection: psycopg.Connection) -> list[Row]:
    """Who keeps an advisory lock of machserial longer than a call may."""
    if not next(iter(connection.execute(CAN_SEE_LOCKS).fetchone().values())):
        return []
    return connection.execute(LOCKS).fetchall()


def terminate_idle(settings: Settings, connection: psycopg.Connection, idle: str, yes: bool) -> None:
    found = connection.execute(IDLE, {"idle": idle}).fetchall()
    mine = [row for row in found if row["may_terminate"]]
    if mine and not yes:
        output.message_rows(mine)
        confirm(f"End these {len(mine)} sessions?" if len(mine) > 1 else "End this session?", yes)
    # What a transaction sees of other sessions is what it saw first.
    connection.commit()
    ended = connection.execute(TERMINATE, {"pids": [row["pid"] for row in mine], "idle": idle}).fetchall()
    output.print_rows(outcome(found, ended), as_json=settings.json)
    others = len(found) - len(mine)
    if others:
        raise ExpectedError(
            f"{others} idle session{'s' if others > 1 else ''} may not be ended by you",
            detail="of " + ", ".join(sorted({row["user"] for row in found if not row["may_terminate"]})),
            remedy="grant pg_signal_backend to your role, or run this as a superuser or as a member of those roles",
        )


def outcome(found: list[Row], ended: list[Row]) -> list[Row]:
    """Each of the sessions, and what became of it."""
    terminated = {row["pid"]: row["terminated"] for row in ended}
    words = {True: "ended", False: "was gone", None: "works again"}

    def word(row: Row) -> str:
        return words[terminated.get(row["pid"])] if row["may_terminate"] else "may not be ended by you"

    return [
        {**{name: row[name] for name in ("pid", "user", "application", "client", "state_change")}, "outcome": word(row)}
        for row in found
    ]
