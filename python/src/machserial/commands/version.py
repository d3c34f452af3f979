"""machserial version"""

from __future__ import annotations

import click
import psycopg

from machserial import __version__, output
from machserial.errors import Exit, ExpectedError
from machserial.options import Command, Settings, pass_settings

SERVER = """
    select
        current_setting('server_version') as server,
        current_database() as database,
        case
            when exists (select from pg_extension where extname = 'machserial') then 'extension'
            when to_regprocedure('machserial.version()') is not null then 'plain SQL'
        end as installed_as,
        to_regclass('machserial.schema_migrations') is not null as has_tables
"""

CODE = """
    select
        machserial.version() as code,
        (select count(*)::integer from machserial.pending_migrations()) as pending_migrations
"""

SCHEMA = "select max(version) as schema from machserial.schema_migrations"


@click.command(cls=Command)
@pass_settings
def version(settings: Settings) -> None:
    """Versions of this command, of machserial in the database, and of the server.

    Answers without a connection too: then it says why there is none.
    """
    answer = {"command": __version__}
    try:
        with settings.connect() as connection:
            answer |= in_database(connection)
    except ExpectedError as error:
        if error.exit_code != Exit.CONNECTION:
            raise
        answer["connection"] = f"none: {error.message}"
    output.print_record(answer, as_json=settings.json)


def in_database(connection: psycopg.Connection) -> dict:
    """Versions of server, code and schema, and how many migrations are pending."""
    found = connection.execute(SERVER).fetchone()
    has_tables = found.pop("has_tables")
    unknown = {"code": None, "schema": None, "pending_migrations": None}
    if found["installed_as"] is None:
        return found | unknown
    code = connection.execute(CODE).fetchone()
    schema = connection.execute(SCHEMA).fetchone() if has_tables else {}
    return found | unknown | code | schema
