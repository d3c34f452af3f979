"""machserial slow"""

from __future__ import annotations

import re

import click
import psycopg
from psycopg import sql

from machserial import output
from machserial.errors import ExpectedError
from machserial.functions import Row
from machserial.options import Command, Settings, pass_settings

EXTENSION = "pg_stat_statements"

# Statements of this database that name the schema, or, with a search_path, one of its tables, views or functions.
SLOWEST = """
    with names as (
        select string_agg(n.name, '|') as any_of
        from (
            select c.relname::text as name from pg_class as c
            where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
            union
            select p.proname::text from pg_proc as p
            where p.pronamespace = 'machserial'::regnamespace and p.proname !~ '^_' and length(p.proname) > 4
        ) as n
    )
    select
        s.queryid, s.calls, round(s.mean_exec_time::numeric, 3) as mean_ms,
        round(s.total_exec_time::numeric, 3) as total_ms,
        round(s.max_exec_time::numeric, 3) as max_ms, s.rows, s.query
    from {schema}.pg_stat_statements as s
    cross join names as n
    where
        s.dbid = (select oid from pg_database where datname = current_database())
        and (
            s.query collate "C" ~* '[[:<:]]machserial[[:>:]]'
            or s.query collate "C" ~* ('[[:<:]](' || n.any_of || ')[[:>:]]')
        )
        and (%(queryid)s::bigint is null or s.queryid = %(queryid)s::bigint)
        and s.query collate "C" !~* 'pg_stat_statements'
    order by s.total_exec_time desc
    limit %(limit)s
"""

IN_A_TABLE = ("queryid", "calls", "mean_ms", "total_ms", "rows", "query")
EXPLAINABLE = re.compile(r"\s*(--[^\n]*\n\s*)*(select|with|insert|update|delete|values|merge)\b", re.IGNORECASE)


@click.command(cls=Command)
@click.argument("queryid", required=False, type=int)
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many statements.")
@click.option("--explain", is_flag=True, help="Show the plan of QUERYID, or of the first one, without running it.")
@pass_settings
def slow(settings: Settings, queryid: int | None, limit: int, explain: bool) -> None:
    """List the statements that took the most time, from pg_stat_statements."""
    with settings.connect() as connection:
        rows = slowest(connection, queryid, 1 if explain else limit)
        if explain:
            plan = plan_of(connection, rows)
            output.print_json({**rows[0], "plan": plan}) if settings.json else print_plan(rows[0], plan)
            return
    output.print_rows(rows, as_json=settings.json, columns=IN_A_TABLE)


def slowest(connection: psycopg.Connection, queryid: int | None, limit: int) -> list[Row]:
    """Raises ExpectedError where pg_stat_statements is not there or not loaded."""
    place = connection.execute(
        "select n.nspname as schema from pg_extension as e "
        "join pg_namespace as n on n.oid = e.extnamespace where e.extname = %s",
        [EXTENSION],
    ).fetchone()
    if not place:
        raise not_enabled("the extension is not in this database")
    query = sql.SQL(SLOWEST).format(schema=sql.Identifier(place["schema"]))
    try:
        return connection.execute(query, {"queryid": queryid, "limit": limit}).fetchall()
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        raise not_enabled("the server has not loaded it") from error


def not_enabled(detail: str) -> ExpectedError:
    return ExpectedError(
        f"{EXTENSION} does not count the statements of this database",
        detail=detail,
        remedy=f"in postgresql.conf add {EXTENSION} to shared_preload_libraries, restart the server, and in this "
        f"database: create extension {EXTENSION}",
    )


def plan_of(connection: psycopg.Connection, rows: list[Row]) -> list[str]:
    """The plan of the first, for whatever its parameters may be. The statement is planned, never run."""
    if not rows:
        raise ExpectedError("there is no such statement", remedy="see machserial slow for those that are on record")
    query = rows[0]["query"]
    if not EXPLAINABLE.match(query):
        raise ExpectedError(
            "there is no plan for a statement of this kind", detail=query, remedy="name the queryid of another"
        )
    connection.execute("set local search_path = machserial, public")
    connection.execute("set local plan_cache_mode = force_generic_plan")
    connection.execute("set transaction read only")
    # exec_params() takes a single statement, whatever the text may hold.
    prepared = connection.pgconn.exec_params(f"prepare machserial_slow as {query}".encode(), None)
    if prepared.status != psycopg.pq.ExecStatus.COMMAND_OK:
        raise ExpectedError(
            "the statement cannot be planned without its parameters",
            detail=prepared.error_message.decode(errors="replace").splitlines()[0],
            remedy="explain it in psql, with values in place of $1, $2, …",
        )
    count = max((int(number) for number in re.findall(r"\$(\d+)", query)), default=0)
    nulls = f"({', '.join(['null'] * count)})" if count else ""
    plan = connection.execute(f"explain execute machserial_slow{nulls}").fetchall()
    connection.execute("deallocate machserial_slow")
    return [row["QUERY PLAN"] for row in plan]


def print_plan(row: Row, plan: list[str]) -> None:
    output.print_text(" ".join(row["query"].split()))
    output.print_lines(plan)
