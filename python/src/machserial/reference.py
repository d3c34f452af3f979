"""The references in docs/: of the command from itself, of the SQL from the comments in the catalog.

    python -m machserial.reference [FOLDER]    writes cli.md and sql.md there; default: docs
"""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import psycopg
from psycopg.rows import dict_row

from machserial.cli import main
from machserial.errors import EXIT_CODES
from machserial.operations import deployment

GENERATED = "<!-- Written by make docs; a test fails when it is stale. -->"
COMMON = {"--dsn", "--json", "--verbose", "--help"}

FUNCTIONS = """
    select
        p.proname::text as name, pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result,
        obj_description(p.oid, 'pg_proc') as comment
    from pg_proc as p
    where
        p.pronamespace = 'machserial'::regnamespace and p.proname !~ '^_' and p.prorettype <> 'trigger'::regtype
    order by p.proname collate "C", pg_get_function_arguments(p.oid) collate "C"
"""

RELATIONS = """
    select
        c.oid, c.relname::text as name, c.relkind in ('v', 'm') as is_view, c.relkind = 'c' as is_type,
        case when c.relkind = 'c' then obj_description(c.reltype, 'pg_type') else obj_description(c.oid, 'pg_class') end
            as comment
    from pg_class as c
    where
        c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'c')
        and not c.relispartition and c.relname !~ '^_'
    order by c.relname collate "C"
"""

COLUMNS = """
    select
        a.attname::text as name, format_type(a.atttypid, a.atttypmod) as type, a.attnotnull as is_required,
        col_description(a.attrelid, a.attnum) as comment
    from pg_attribute as a
    where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
    order by a.attnum
"""


# The command


def commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The command and all below it, each with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from commands(command.commands[name], (*path, name))


def as_markdown(text: str | None) -> list[str]:
    """A help text: what click would not fold stays as it is."""
    lines = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text or "")):
        if paragraph.startswith("\b"):
            lines += ["```text", *paragraph.splitlines()[1:], "```", ""]
        elif paragraph.strip():
            lines += [paragraph.strip(), ""]
    return lines


def described(path: tuple[str, ...], command: click.Command) -> list[str]:
    # A command keeps the help option that its first context gives it: -h too.
    context = click.Context(command, info_name=" ".join(path), terminal_width=200, **main.context_settings)
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    lines = [f"{'#' * min(len(path), 3)} {' '.join(path)}", "", "```text", usage, "```", "", *as_markdown(command.help)]
    records = [
        parameter.get_help_record(context)
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and not COMMON & set(parameter.opts)
    ]
    if any(records):
        rows = [f"| `{names}` | {cell(text)} |" for names, text in filter(None, records)]
        lines += ["| Option | |", "|---|---|", *rows, ""]
    return lines


def cell(text: str | None) -> str:
    """Text in a cell of a table."""
    return " ".join((text or "").split()).replace("|", r"\|")


def cli_reference() -> str:
    """docs/cli.md"""
    lines = [
        GENERATED,
        "",
        "Every command takes `--dsn DSN` (where the database is: URL or libpq string; without it `DATABASE_URL`, else "
        "`PG*` variables), `--json`, `--verbose` and `--help`, before or after its name.",
        "",
    ]
    for path, command in commands(main, ("machserial",)):
        lines += described(path, command)
        if path == ("machserial",):
            lines += exit_codes()
    return "\n".join(lines).rstrip() + "\n"


def exit_codes() -> list[str]:
    rows = [f"| {int(code)} | {cell(meaning)} |" for code, meaning in EXIT_CODES.items()]
    return ["| Exit code | |", "|---|---|", *rows, ""]


# The SQL


# Folders and files of sql/functions, and what they are called on the page; the others are operations.
CAPABILITIES = {
    "catalog": "Sites and parts",
    "patterns": "Patterns",
    "check_digits": "Check digits",
    "formats": "Formats",
    "counters": "Generating, counting and blocks",
    "serials": "Serials, uniqueness and conflicts",
    "vendor": "Vendors",
    "late_assignment": "Late assignment",
    "propagation": "Lineage",
    "triggers": "Triggers",
    "audit": "Audit trail",
    "roles": "Roles and sites",
    "operations": "Operations",
}


def capabilities() -> dict[str, str]:
    """The capability of each function, by the file that it stands in."""
    folder = Path(__file__).resolve().parents[3] / "sql" / "functions"
    homes = {}
    for path in folder.rglob("*.sql"):
        capability = path.relative_to(folder).with_suffix("").parts[0]
        for name in re.findall(r"^create function machserial\.(\w+)", path.read_text(), re.MULTILINE):
            homes[name] = capability if capability in CAPABILITIES else "operations"
    # The build writes it.
    return homes | {"version": "operations"}


def sql_reference(connection: psycopg.Connection) -> str:
    """docs/sql.md, of the machserial in a database."""
    cursor = connection.cursor(row_factory=dict_row)
    functions = cursor.execute(FUNCTIONS).fetchall()
    relations = cursor.execute(RELATIONS).fetchall()
    lines = [
        GENERATED,
        "",
        "# SQL reference",
        "",
        "All of it is in schema `machserial`. Arguments are given by name: `part_id => 'PART-001'`.",
        "",
    ]
    homes = capabilities()
    for capability, title in CAPABILITIES.items():
        lines += [f"## {title}", ""]
        for function in functions:
            if homes[function["name"]] == capability:
                lines += function_lines(function)
    kinds = (("Tables", False, False), ("Views", True, False), ("Types", False, True))
    for title, is_view, is_type in kinds:
        lines += [f"## {title}", ""]
        for relation in relations:
            if (relation["is_view"], relation["is_type"]) == (is_view, is_type):
                lines += relation_lines(relation, cursor.execute(COLUMNS, [relation["oid"]]).fetchall())
    return "\n".join(lines).rstrip() + "\n"


def function_lines(function: dict) -> list[str]:
    arguments = function["arguments"]
    signature = f"{function['name']}({arguments})"
    if len(signature) > 100:
        signature = f"{function['name']}(\n    " + re.sub(r", (?=\w+ \w|[A-Z]+ )", ",\n    ", arguments) + "\n)"
    returned = f"{signature} → {function['result']}"
    return [f"### {function['name']}", "", "```text", returned, "```", "", comment(function), ""]


def relation_lines(relation: dict, columns: list[dict]) -> list[str]:
    lines = [f"### {relation['name']}", "", comment(relation), ""]
    if relation["is_type"]:
        lines += [", ".join(f"`{column['name']}` {column['type']}" for column in columns), ""]
        return lines
    lines += ["| Column | Type | |", "|---|---|---|"]
    for column in columns:
        kind = column["type"] + (" not null" if column["is_required"] and not relation["is_view"] else "")
        lines.append(f"| `{column['name']}` | {kind} | {cell(column['comment'])} |")
    return [*lines, ""]


def comment(of: dict) -> str:
    """In one line, but for the errors, which have a paragraph of their own."""
    text = " ".join((of["comment"] or "").split())
    return text.replace(" Errors: ", "\n\nErrors: ")


def write(folder: Path) -> None:
    """Writes both, the second from a private server that is made for it and stopped again."""
    # The server comes with the demo's own dependencies.
    from machserial.demo.private_server import PrivateServer

    (folder / "cli.md").write_text(cli_reference(), encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="machserial-", dir="/tmp") as place:
        # The server's own user has to reach it.
        Path(place).chmod(0o755)
        with (
            PrivateServer(Path(place) / "server").opened() as server,
            server.running(),
            psycopg.connect(server.conninfo("postgres"), row_factory=dict_row) as connection,
        ):
            deployment.deploy(connection, plain=True)
            connection.commit()
            # As everybody sees it: deploying has set a search_path for its transaction.
            (folder / "sql.md").write_text(sql_reference(connection), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
