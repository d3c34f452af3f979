"""machserial indexes"""

from __future__ import annotations

import re

import click
import psycopg
from psycopg import sql

from machserial import output
from machserial.errors import ExpectedError
from machserial.functions import Row, call
from machserial.options import Command, Duration, Settings, pass_settings

# Bloat is estimated: the size against that of as many entries of average width, nine tenths full. Of a
# few pages, and without statistics of the columns, it says nothing.
PRESENT = """
    select
        r.relation as table, x.relname::text as index, pg_relation_size(x.oid) as bytes,
        coalesce(u.idx_scan, 0) as scans, i.indisunique as is_unique,
        case
            when e.bytes > 0 and x.relpages > 16
                then greatest(0, round((100 * (1 - e.bytes / (x.relpages * 8192.0)))::numeric))::integer
        end as bloat_percent,
        x.reltuples > 1000 and coalesce(u.idx_scan, 0) = 0 and not i.indisunique and not i.indisexclusion as is_unused
    from machserial._own_relations() as r
    inner join pg_index as i on i.indrelid = r.oid
    inner join pg_class as x on x.oid = i.indexrelid and x.relkind = 'i'
    inner join pg_am as m on m.oid = x.relam
    left join pg_stat_user_indexes as u on u.indexrelid = x.oid
    left join lateral (
        select case
            when count(*) = count(s.avg_width) and m.amname = 'btree'
                then x.reltuples * (12 + ceil((sum(s.avg_width) + 4) / 8.0) * 8) / 0.9
        end as bytes
        from pg_attribute as a
        left join pg_attribute as t
            on t.attrelid = i.indrelid and t.attnum = i.indkey[a.attnum - 1] and t.attnum > 0
        left join pg_stats as s
            on s.schemaname = 'machserial'
            and (s.tablename, s.attname) = (
                case when t.attname is null then x.relname else r.relation end, coalesce(t.attname, a.attname)
            )
        where a.attrelid = x.oid
    ) as e on true
    order by bytes desc, 2
"""

PARTITIONS = """
    select relation::text as relation from machserial._audit_partitions()
    where %(table)s::text = 'audit_events' order by relation::text
"""


@click.command(cls=Command)
@click.option("--repair", is_flag=True, help="Recreate missing and rebuild invalid indexes without blocking.")
@click.option(
    "--lock-timeout", type=Duration(), default="5s", show_default=True, metavar="DURATION",
    help="With --repair: how long to wait for a lock: 90s, 10m (minutes).",
)  # fmt: skip
@pass_settings
def indexes(settings: Settings, repair: bool, lock_timeout: str) -> None:
    """Show machserial's indexes: missing, invalid, unused, and how big and bloated they are.

    --repair recreates missing and rebuilds invalid indexes without blocking. It can be repeated, and needs a
    connection to PostgreSQL itself, not to PgBouncer. Exit code 1 if an index is missing or invalid, and stays so.
    """
    with settings.connect() as connection:
        done = repair_all(connection, lock_timeout) if repair else []
        problems = call(connection, "_index_problems")
        rows = [described(row, problems) for row in connection.execute(PRESENT).fetchall()]
    missing = [blank(problem) for problem in problems if problem["problem"] == "missing"]
    if settings.json:
        output.print_json({"repaired": done, "indexes": [*missing, *rows]})
    else:
        output.print_lines(done)
        output.print_rows([*missing, *rows], as_json=False)
    if problems:
        raise ExpectedError(
            f"{len(problems)} index{'es are' if len(problems) > 1 else ' is'} missing or invalid",
            detail=", ".join(problem["name"] for problem in problems),
            remedy="machserial indexes --repair",
        )


def described(row: Row, problems: list[Row]) -> Row:
    """An index that is there, for people."""
    invalid = any(problem["name"] == row["index"] for problem in problems)
    state = "invalid" if invalid else "unused" if row["is_unused"] else "ok"
    names = ("table", "index", "bytes", "scans", "bloat_percent")
    return {"state": state, **{name: row[name] for name in names}}


def blank(problem: Row) -> Row:
    """An index that is not there."""
    place = {"table": problem["relation"], "index": problem["name"]}
    return {"state": "missing", **place, "bytes": None, "scans": None, "bloat_percent": None}


def repair_all(connection: psycopg.Connection, lock_timeout: str) -> list[str]:
    """Carries out what mends each problem, outside of transactions; the statements. Raises ExpectedError."""
    connection.autocommit = True
    require_direct(connection)
    # Outside of transactions nothing can be set for less than the session: it is this command's own, and ends with it.
    connection.execute(
        "select set_config('lock_timeout', extract(epoch from %s::interval)::integer || 's', false)", [lock_timeout]
    )
    done = []
    for problem in call(connection, "_index_problems"):
        for statement in statements(connection, problem):
            try:
                connection.execute(sql.SQL(statement))
            except psycopg.errors.LockNotAvailable as error:
                raise ExpectedError(
                    f"index {problem['name']} could not be made: a lock was not to be had in time",
                    detail="; ".join(done) and "done so far: " + "; ".join(done),
                    remedy="run it again when the transactions in its way have ended (machserial connections), or with "
                    "a longer --lock-timeout",
                ) from error
            done.append(statement)
    return done


def require_direct(connection: psycopg.Connection) -> None:
    """A pooler tells another process id than the server's, and would give each statement another session."""
    pid = connection.execute("select pg_backend_pid() as pid").fetchone()["pid"]
    if pid != connection.info.backend_pid:
        raise ExpectedError(
            "indexes cannot be repaired through a pooler",
            detail="they are made outside of transactions, which PgBouncer spreads over sessions",
            remedy="connect to PostgreSQL itself",
        )


def statements(connection: psycopg.Connection, problem: Row) -> list[str]:
    """What mends it. For the partitioned trail first every partition, concurrently; then they are only joined."""
    remedy = problem["remedy"]
    made = re.match(r"create (unique )?index (\w+)\s+on machserial\.(\w+)", remedy)
    if not made:
        return [remedy]
    steps = []
    for row in connection.execute(PARTITIONS, {"table": made[3]}).fetchall():
        partition = row["relation"].rpartition(".")[2]
        name = made[2].replace("audit_events", partition, 1)
        head = f"create {made[1] or ''}index concurrently if not exists {name} on machserial.{partition}"
        steps.append(head + remedy[made.end() :])
    return [*steps, remedy]
