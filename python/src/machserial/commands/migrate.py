"""machserial migrate: status, plan, up, verify, history"""

from __future__ import annotations

from dataclasses import asdict

import click

from machserial import output
from machserial.errors import Exit
from machserial.operations import deployment, drift, locking
from machserial.options import Group, Settings, pass_settings

IN_A_TABLE = ("severity", "kind", "object", "problem", "detail", "remedy")


@click.group("migrate", cls=Group)
def migrate_group() -> None:
    """Apply schema migrations; check for drift."""


@migrate_group.command()
@pass_settings
def status(settings: Settings) -> None:
    """Show every migration and whether it has run here."""
    with settings.connect() as connection:
        rows = drift.migrations(connection)
    output.print_rows(rows, as_json=settings.json)


@migrate_group.command()
@click.option("--sql", "as_sql", is_flag=True, help="Print the script that 'migrate up' executes, to the byte.")
@pass_settings
def plan(settings: Settings, as_sql: bool) -> None:
    """Show what 'migrate up' would do; changes nothing.

    The script of --sql is one transaction. It may be read by others first and run with psql.
    """
    with settings.connect() as connection:
        deployment.require_known_schema(connection)
        pending = [row for row in drift.migrations(connection) if row["state"] == "pending"]
        script = deployment.migration_plan(connection)
    if settings.json:
        output.print_json({"pending": [{"version": m["version"], "name": m["name"]} for m in pending], "sql": script})
    elif as_sql:
        output.print_lines([script.removesuffix("\n")])
    elif pending:
        output.print_rows([{"version": m["version"], "name": m["name"]} for m in pending], as_json=False)
    else:
        output.message("no migration is pending; 'migrate up' would re-create the views")


@migrate_group.command()
@pass_settings
def up(settings: Settings) -> None:
    """Run the pending migrations, in one transaction.

    It waits half a second at most for a lock, and tries again a few times. Whatever happens in the middle,
    the database is left as it was or as it should be.
    """
    ran = locking.patiently(settings.connect, deployment.migrate_up)
    if settings.json:
        output.print_json({"migrations": ran})
    else:
        output.print_text(f"migrations run: {', '.join(map(str, ran)) or 'none, no migration was pending'}")


@migrate_group.command()
@click.option("--sql", "as_sql", is_flag=True, help="Print only the statements that mend what was found.")
@click.pass_context
@pass_settings
def verify(settings: Settings, context: click.Context, as_sql: bool) -> None:
    """Compare the catalog with what the migrations and the code make; exit status 1 if something drifted.

    Makes it all anew in a transaction that is rolled back, which takes a few seconds and locks nothing. A NOTE is
    something that an owner may add.
    """
    with settings.connect() as connection:
        found = drift.findings(connection)
    if as_sql:
        output.print_lines(one.remedy for one in found if one.severity == drift.DRIFT)
    else:
        rows = [asdict(one) for one in found]
        output.print_rows(rows if settings.json else [_shortened(row) for row in rows], as_json=settings.json)
    if any(one.severity == drift.DRIFT for one in found):
        context.exit(Exit.REFUSED)


def _shortened(row: dict) -> dict:
    """A function's whole text is nothing for a table."""
    if len(row["remedy"]) > 200:
        return row | {"remedy": "machserial migrate verify --sql"}
    return row


@migrate_group.command()
@pass_settings
def history(settings: Settings) -> None:
    """Show which migrations have run here, when, by whom and by which version of the code."""
    with settings.connect() as connection:
        rows = connection.execute(
            "select version, name, code_version, applied_at, applied_by, sha256 "
            "from machserial.schema_migrations order by applied_at, version"
        ).fetchall()
    output.print_rows(rows, as_json=settings.json, columns=list(rows[0])[:-1] if rows else None)
