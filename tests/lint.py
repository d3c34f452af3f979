"""What make lint runs. Ends with 1 if one finds anything.

ruff, floors (of the files in sql/manifest), sqlfluff, folding (of letters, in SQL), settings (of the planner, that
triggers inherit), pgspot, and plpgsql_check on a real server.

python tests/lint.py [name …] runs only those named. The server is chosen as for the tests (see tests/conftest.py).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import planner_settings
import psycopg
from pglast import ast, parse_sql
from servers import Server, choose_bin

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PROGRAMS = Path(sys.executable).parent

# Findings of pgspot that are known and right, each with its reason. One that no longer occurs is a fault too.
ACCEPTED_BY_PGSPOT = {
    # The guard that follows refuses a schema that somebody else made.
    "bundle: PS010: Unsafe schema creation: machserial",
}

# The same for plpgsql_check: the function and the start of its finding.
OWN_TEXT = "security 00000: text type variable is not sanitized"
NO_RETURN = "warning extra 2F005: control reached end of function without RETURN"
ACCEPTED_BY_PLPGSQL_CHECK = {
    # Statements of machserial's own, made of names of its list and of the catalog, each quoted.
    f"machserial._apply_privileges(): {OWN_TEXT}",
    # What it executes is built by _attached_queries(), with every name quoted.
    f"machserial._fire_attached(): {OWN_TEXT}",
    # What it executes is made of names out of the catalog, each of them quoted.
    f"machserial._faults_of_references(): {OWN_TEXT}",
    # What these execute are statements of the migrations, or name what the catalog names, quoted.
    f"machserial._drop_leftovers(): {OWN_TEXT}",
    f"machserial._make_missing(text[]): {OWN_TEXT}",
    f"machserial.change_owner(text): {OWN_TEXT}",
    f"machserial.adopt_schema(): {OWN_TEXT}",
    # It is called by position, or with the name in quotes.
    'machserial.integrity(text): warning 00000: name of parameter "only" is reserved keyword',
    # One result of several, which is what the finding says.
    "machserial._plain_parts(bigint,text,timestamp without time zone,text,text): "
    'warning extra 00000: composite OUT variable "digit_check" is not single argument',
    # Both end in a loop or a call that only returns by RETURN or by an error.
    f"machserial._active_format(text): {NO_RETURN}",
    f"machserial._draw_unsequenced(machserial._issue,integer): {NO_RETURN}",
}

# One pattern for every kind of code that a format can compile to, so that its renderer is checked as well.
PATTERNS = (
    "PROD-{YYYY}{MM}{DD}-{SEQ:6}{CHECK:luhn}",
    "{IYYY}W{WW}-{SEQ:4:safe}",
    "{YY}{DDD}{SEQ:4:hex}{CHECK:mod37_36}",
    "{SITE}/{PART}/{WO}/{LOT}/{CTX:line}/{SEQ:3:alpha}",
    "{PREFIX:O'Neill $$ \\ %}{SEQ:5:base36}{CHECK:mod97_10}",
    "{SEQ:9}{CHECK:mod11}",
    "{SEQ:9}{CHECK:verhoeff}",
    "{SEQ:9}{CHECK:damm}",
    "{SEQ:12}{CHECK:mod10}",
    "{RANDOM:12}",
    "{RANDOM:hex:8}-{SEQ:3}",
    "{RANDOM:numeric:6}{CHECK:luhn}",
    "{UUID}",
)


class Skipped(Exception):
    """A check cannot be run here; the message says why and how it could."""


def run(*command: object) -> list[str]:
    """The findings of a program that prints them: what it printed, if it failed."""
    result = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True)
    return [(result.stdout + result.stderr).strip()] if result.returncode else []


def ruff() -> list[str]:
    config = ["--config", ROOT / "python" / "pyproject.toml", "--cache-dir", ROOT / ".cache" / "ruff"]
    command = [PROGRAMS / "ruff", "check", "--quiet", "--output-format=concise", *config]
    with tempfile.TemporaryDirectory() as folder:
        plpython_functions(Path(folder))
        return run(*command, "python", "tests", "sql") + run(*command, folder)


def plpython_functions(folder: Path) -> None:
    """Each PL/Python function with all that the build has put into it, as PostgreSQL makes a function of it."""
    script = (BUILD / "machserial_plpython.sql").read_text()
    header = r"function machserial\.(\w+)\(([^)]*)\)(?:(?!;\n).)*?"
    for name, arguments, body in re.findall(header + r"\$python\$\n(.*?)\$python\$", script, re.DOTALL):
        names = ["plpy", *(argument.split()[0] for argument in arguments.split(",") if argument)]
        text = f"def {name}({', '.join(names)}):\n{textwrap.indent(body, ' ')}"
        (folder / f"{name}.py").write_text(text)


def sqlfluff() -> list[str]:
    # Released install scripts are products, and frozen.
    files = [
        path.relative_to(ROOT)
        for folder in ("sql", "plpython")
        for path in sorted((ROOT / folder).rglob("*.sql"))
        if "released" not in path.parts
    ]
    return run(PROGRAMS / "sqlfluff", "lint", "--processes=0", "--nocolor", "--disable-progress-bar", *files)


# What reads a text as the database's language has it: an upper or lower case, letters that count as the same.
FOLDING = re.compile(r"\b(?:upper|lower|initcap)\(|~\*|\bilike\b")


def folding_at_risk(script: str) -> Iterator[int]:
    """Where an SQL script folds letters by the database's locale: in a Turkish one lower('INSERT') is not 'insert'.

    It must say collate "C", within the call or before the operator.
    """
    for found in FOLDING.finditer(script):
        if found.group().endswith("("):
            depth, end = 1, found.end()
            while depth and end < len(script):
                depth += {"(": 1, ")": -1}.get(script[end], 0)
                end += 1
            is_told = 'collate "C"' in script[found.end() : end]
        else:
            is_told = re.search(r'collate "C"\s+(not\s+|!)?$', script[: found.start()])
        if not is_told:
            yield script.count("\n", 0, found.start()) + 1


def folding() -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: folds letters without collate \"C\""
        for folder in ("sql", "plpython")
        for path in sorted((ROOT / folder).rglob("*.sql"))
        if "released" not in path.parts
        for line in folding_at_risk(re.sub(r"--.*", "", path.read_text()))
    ]


def settings() -> list[str]:
    functions = "\n".join(path.read_text() for path in sorted((ROOT / "sql" / "functions").rglob("*.sql")))
    return sorted(set(planner_settings.inherited(functions, migrations())))


def for_pgspot(script: str) -> str:
    """The script in words that pgspot understands.

    - It stops at standard-SQL function bodies (return …). These bind their names when the function is created,
      which happens under a secured search_path: that of CREATE EXTENSION, or the bundle's own. So the equivalent
      body as a string is one that runs under such a search_path.
    - Its parser knows no composite types, and stops where a variable's field is assigned: record serves as well.
    - It knows no PL/Python: what such a function runs is as opaque as if it were written in C.
    """
    script = re.sub(r"^\\echo.*$", "", script, flags=re.MULTILINE)
    script = script.replace("\nlanguage plpython3u", "\nlanguage c")
    types = "|".join(re.findall(r"create type machserial\.(\w+) as \(", script)) or "none"
    script = re.sub(rf"^( +\w+(?: constant)?) machserial\.(?:{types})(;| :=)", r"\1 record\2", script, flags=re.M)
    pieces, end = [], 0
    for statement in parse_sql(script):
        node = statement.stmt
        if not isinstance(node, ast.CreateFunctionStmt) or node.sql_body is None:
            continue
        stop = statement.stmt_location + statement.stmt_len
        text = re.sub(r"^--.*$", "", script[statement.stmt_location : stop], flags=re.MULTILINE)
        head, body = re.split(r"\s(?=return\b|begin atomic\b)", text, maxsplit=1)
        body = re.sub(r"^return\b", "select", body)
        body = re.sub(r"^begin atomic\b(.*)\bend$", r"\1", body, flags=re.DOTALL)
        replacement = f"{head} set search_path = pg_catalog, pg_temp as $pgspot${body}$pgspot$"
        pieces += [script[end : statement.stmt_location], replacement]
        end = stop
    return "".join([*pieces, script[end:]])


def migrations() -> str:
    """The migrations as one script, under the search_path under which migrate() runs them."""
    files = sorted((ROOT / "sql" / "migrations").glob("*.sql"))
    return "set search_path = pg_catalog, pg_temp;\n" + "\n".join(path.read_text() for path in files)


def pgspot_findings(name: str, script: str) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(for_pgspot(script))
        file.flush()
        output = "".join(run(PROGRAMS / "pgspot", file.name)).splitlines()
    found = [re.sub(r" at line \d+$", "", line) for line in output if re.match(r"PS\d+:", line)]
    # Without a finding it only fails if it could not read the script: then everything it says is of interest.
    yield from (f"{name}: {finding}" for finding in found or output)


def pgspot() -> list[str]:
    control = (BUILD / "machserial.control").read_text()
    version = re.search(r"^default_version = '(.+)'", control, re.MULTILINE).group(1)
    scripts = {
        "install": (BUILD / f"machserial--{version}.sql").read_text(),
        "bundle": (BUILD / "machserial.sql").read_text(),
        "migrations": migrations(),
        "plpython install": (BUILD / f"machserial_plpython--{version}.sql").read_text(),
        # Its guard stops it where somebody else has made one of its functions: as good as a schema of its own.
        "plpython bundle": "create schema machserial;\n" + (BUILD / "machserial_plpython.sql").read_text(),
    }
    findings = {finding for name, script in scripts.items() for finding in pgspot_findings(name, script)}
    gone = ACCEPTED_BY_PGSPOT - findings
    return sorted(findings - ACCEPTED_BY_PGSPOT) + [f"accepted, but no longer found: {one}" for one in sorted(gone)]


def deploy(connection: psycopg.Connection) -> None:
    connection.execute("create extension machserial")
    connection.execute("select machserial.migrate()")
    connection.execute("select machserial.register_part('PART', 'TYPE')")
    for number, pattern in enumerate(PATTERNS):
        connection.execute("select machserial.create_format(%s, %s)", (f"format {number}", pattern))
    connection.execute("create table work_orders (number text primary key, part_id text)")
    connection.execute("select machserial.attach('work_orders', 'WORK_ORDER_CREATE', part_column => 'part_id')")


# All renderers have one signature, whatever their pattern needs of it: what one leaves unused is no fault.
CHECK_FUNCTIONS = """
select p.oid::regprocedure::text, coalesce(c.lineno, 0), c.level || ' ' || c.sqlstate, c.message, c.detail, c.hint
from pg_proc as p
inner join pg_language as l on l.oid = p.prolang
left join pg_trigger as t on t.tgfoid = p.oid and not t.tgisinternal
cross join lateral plpgsql_check_function_tb(
    p.oid, coalesce(t.tgrelid, 0), fatal_errors => false, security_warnings => true, extra_warnings => true,
    oldtable => t.tgoldtable, newtable => t.tgnewtable
) as c
where
    p.pronamespace = 'machserial'::regnamespace and l.lanname = 'plpgsql'
    and not (p.proname ~ '^_render_[0-9]+$' and c.message ~ '^(unused parameter|never read variable)')
order by 1, 2
"""

UNATTACHED_TRIGGERS = """
select p.oid::regprocedure::text
from pg_proc as p
where
    p.pronamespace = 'machserial'::regnamespace and p.prorettype = 'trigger'::regtype
    and not exists (select from pg_trigger as t where t.tgfoid = p.oid)
"""


def plpgsql_check_findings(connection: psycopg.Connection) -> Iterator[str]:
    # A trigger function can only be checked together with a table that it is attached to.
    for (name,) in connection.execute(UNATTACHED_TRIGGERS).fetchall():
        yield f"{name}: is attached to no table"
    unused = set(ACCEPTED_BY_PLPGSQL_CHECK)
    for name, line, kind, *words in connection.execute(CHECK_FUNCTIONS).fetchall():
        finding = f"{kind}: {' '.join(word for word in words if word)}"
        accepted = {one for one in ACCEPTED_BY_PLPGSQL_CHECK if f"{name}: {finding}".startswith(one)}
        unused -= accepted
        if not accepted:
            yield f"{name}: line {line}: {finding}"
    yield from (f"accepted, but no longer found: {one}" for one in sorted(unused))


def plpgsql_check() -> list[str]:
    with Server(choose_bin(os.environ.get("MACHSERIAL_TEST_BIN"))) as server:
        offered = server.execute("select 1 from pg_available_extensions where name = 'plpgsql_check'")
        if not offered:
            raise Skipped(
                f"the server in {server.bin} has no plpgsql_check "
                f"(Debian: apt-get install postgresql-{server.major}-plpgsql-check)"
            )
        server.install_extension(BUILD)
        with psycopg.connect(server.dsn("postgres")) as connection:
            deploy(connection)
            connection.execute("create extension plpgsql_check")
            if server.execute("select 1 from pg_available_extensions where name = 'plpython3u'"):
                connection.execute("create extension machserial_plpython cascade")
                connection.execute("select machserial.set_python_path(null)")
            return list(plpgsql_check_findings(connection))


# What may follow an insert that leaves out whatever collides: each of these asks who has what was left out.
ASKS_WHO = ("_require_claimed(", "_raise_number_taken(", "_raise_not_received(", "_generate(")
# Its caller asks: it returns what was left out.
ASKED_ELSEWHERE = ("machserial._register_received",)


def conflicts() -> list[str]:
    """ON CONFLICT DO NOTHING names the conflict that it means: else it swallows the primary key's, and ids that are
    behind their table burn numbers without a word. Only serials have several claims; there it is followed by a look.
    """
    findings = []
    for path in sorted((ROOT / "sql").rglob("*.sql")):
        if "released" in path.parts:
            continue
        for function in re.split(r"^(?=create )", path.read_text(), flags=re.MULTILINE):
            for insert in re.finditer(r"insert into (\S+)(?:(?!insert into).)*?on conflict do nothing", function, re.S):
                asks = any(one in function[insert.end() :] for one in ASKS_WHO)
                name = function.split("(")[0].removeprefix("create function ")
                if insert.group(1) != "machserial.serials" or not (asks or name in ASKED_ELSEWHERE):
                    findings.append(f"{path.relative_to(ROOT)}: {name}: on conflict do nothing, whatever collides")
    return findings


def floors() -> list[str]:
    """A file names functions of its own and of files that the manifest has before it, in code and in texts: so a reader
    can begin with the first file, and understand each by those before it.
    """
    manifest = (ROOT / "sql" / "manifest").read_text()
    files = re.findall(r"^code +(\S+)", manifest, re.MULTILINE)
    sources = {name: re.sub(r"--.*", "", (ROOT / "sql" / name).read_text()) for name in files}
    rank = {name: number for number, name in enumerate(sources)}
    home: dict[str, str] = {}
    for name, source in sources.items():
        for function in re.findall(r"^create function machserial\.(\w+)", source, re.MULTILINE):
            home.setdefault(function, name)
    return [
        f"sql/{name}: {function}() stands above, in {home[function]}"
        for name, source in sources.items()
        for function in sorted(set(re.findall(r"machserial\.(\w+)\(", source)))
        if function in home and rank[home[function]] > rank[name]
    ]


CHECKS: dict[str, Callable[[], list[str]]] = {
    "ruff": ruff,
    "conflicts": conflicts,
    "floors": floors,
    "sqlfluff": sqlfluff,
    "folding": folding,
    "settings": settings,
    "pgspot": pgspot,
    "plpgsql_check": plpgsql_check,
}


def main(names: list[str]) -> int:
    failed = False
    for name in names or CHECKS:
        try:
            findings = CHECKS[name]()
        except Skipped as reason:
            print(f"lint: {name} skipped: {reason}")
            continue
        print(f"lint: {name} {'FAILED' if findings else 'ok'}", *findings, sep="\n    ", flush=True)
        failed = failed or bool(findings)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
