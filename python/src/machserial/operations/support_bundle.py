"""The support bundle: what somebody who helps has to know, and nothing that says what is made here.

Names that people have given (parts, sites, formats, vendors, roles, hosts, databases), serial numbers, patterns and
texts stay out. What is taken from the database is taken as numbers, as words of machserial's own, or by lists of what
is harmless; free text is never taken.
"""

from __future__ import annotations

import io
import json
import platform
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

import psycopg

from machserial import __version__
from machserial.errors import ExpectedError
from machserial.files import new_files
from machserial.operations import deployment, drift
from machserial.options import Settings

SECTION_TIMEOUT = "20s"
LIBRARIES = ("psycopg", "click", "rich", "redis")

READ_ME = """\
machserial support bundle

versions.json    machserial, Python, libraries, the server
migrations.json  which migrations have run
drift.json       what of the catalog is not as the migrations make it; what is not machserial's has no name here
health.json      machserial.health(): status, value and thresholds of each check
integrity.json   machserial.integrity(): how many findings of each kind
settings.json    machserial.settings
counters.json    formats by number: kinds of tokens, counters, how full
tables.json      sizes and rows of machserial's tables
activity.json    how many sessions in which state
server.json      settings of the server that are not its defaults; texts only where they are known to be harmless
traces.json      trace files of this command on this machine: names, times, sizes
missing.json     sections that could not be made, and the error's code

It holds no serial number, no name of a part, site, format, vendor, role, host or database, and no password.
"""

DATABASE = """
    select
        current_setting('server_version') as server,
        machserial.version() as code,
        exists (select from pg_extension where extname = 'machserial') as is_extension,
        (select max(version) from machserial.schema_migrations) as schema,
        pg_is_in_recovery() as in_recovery,
        date_trunc('second', now() - pg_postmaster_start_time())::text as up_for,
        pg_encoding_to_char(encoding) as encoding,
        exists (select from machserial.pauses where resumed_at is null) as paused
    from pg_database where datname = current_database()
"""
HEALTH = "select name, status, value, warning, critical from machserial.health()"
INTEGRITY = "select name, severity, count(*) as findings from machserial.integrity() group by 1, 2 order by 1, 2"
SETTINGS = r"""
    select name, case when value ~ '^([0-9.]+|true|false|on|off|ASCII|UNICODE)$' then value else '(a text)' end as value
    from machserial.settings order by name
"""
COUNTERS = """
    select
        f.id as format, f.version, f.is_active, f.is_ad_hoc, f.reset, f.counter_per, f.allocation, f.letter_case,
        array(select t.token from machserial._tokenize(f.pattern) as t order by t.ordinal) as tokens,
        count(c.format) as counters, max(c.used_percent) as highest_used_percent, min(c.remaining) as least_remaining
    from machserial.serial_formats as f
    left join machserial.counter_status() as c on c.format = f.name and c.format_version = f.version
    group by f.id order by f.id
"""
TABLES = """
    select
        c.relname as table, c.reltuples::bigint as estimated_rows, pg_table_size(c.oid) as bytes,
        pg_indexes_size(c.oid) as index_bytes, s.n_live_tup as live, s.n_dead_tup as dead, s.last_autovacuum,
        s.last_autoanalyze
    from pg_class as c
    left join pg_stat_all_tables as s on s.relid = c.oid
    where c.relnamespace = to_regnamespace('machserial') and c.relkind in ('r', 'p')
    order by c.relname
"""
ACTIVITY = """
    select
        backend_type, state, wait_event_type, count(*) as sessions,
        max(extract(epoch from now() - xact_start))::integer as longest_transaction_seconds
    from pg_stat_activity group by 1, 2, 3 order by 1, 2, 3
"""
# Texts that say nothing of whose server it is.
HARMLESS_TEXTS = (
    "DateStyle", "IntervalStyle", "TimeZone", "default_text_search_config", "lc_collate", "lc_ctype", "lc_messages",
    "lc_monetary", "lc_numeric", "lc_time", "log_timezone", "server_encoding", "shared_preload_libraries",
)  # fmt: skip
SERVER = """
    select
        name, unit, source, pending_restart,
        case
            when vartype <> 'string' or name = any(%(harmless)s) then setting
            when setting = '' then ''
            else '(a text)'
        end as setting
    from pg_settings
    where setting is distinct from boot_val and source <> 'client' and name !~ '[.]'
    order by name
"""


def write(settings: Settings, file: Path) -> list[str]:
    """Writes the bundle; names of the sections that could not be made."""
    sections, missing = _sections(settings)
    sections["missing"] = missing
    with new_files.replacing(file) as target, tarfile.open(fileobj=target, mode="w:gz") as archive:
        _add(archive, "README.txt", READ_ME)
        for name, content in sections.items():
            _add(archive, f"{name}.json", json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")
    return [row["section"] for row in missing]


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(f"machserial-support/{name}")
    entry.size = len(content)
    entry.mtime = int(datetime.now(timezone.utc).timestamp())
    archive.addfile(entry, io.BytesIO(content))


def _sections(settings: Settings) -> tuple[dict[str, object], list[dict]]:
    made: dict[str, object] = {"versions": _versions(), "traces": _traces()}
    missing: list[dict] = []
    try:
        with settings.connect() as connection:
            for name, read in IN_THE_DATABASE.items():
                try:
                    with connection.transaction():
                        connection.execute(f"set local statement_timeout = '{SECTION_TIMEOUT}'")
                        found = read(connection)
                    made[name] = {**made[name], **found} if name in made else found
                except (psycopg.Error, ExpectedError) as error:
                    # Its text may name what it was about.
                    missing.append({"section": name, "sqlstate": error.sqlstate})
                    if isinstance(error, psycopg.OperationalError) and connection.broken:
                        raise
    except ExpectedError as error:
        missing.append({"section": "all that the database knows", "exit_code": error.exit_code})
    return made, missing


def _versions() -> dict:
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = version_of(name)
        except PackageNotFoundError:
            libraries[name] = None
    return {
        "command": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": libraries,
        "made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _traces() -> list[dict]:
    found = sorted(Path(tempfile.gettempdir()).glob("machserial-trace-*.txt"), key=_modified, reverse=True)
    return [
        {
            "name": path.name,
            "modified": datetime.fromtimestamp(_modified(path), timezone.utc).isoformat(timespec="seconds"),
            "bytes": path.lstat().st_size,
        }
        for path in found[:20]
    ]


def _modified(path: Path) -> float:
    return path.lstat().st_mtime


def _rows(query: str, **parameters: object) -> Callable[[psycopg.Connection], object]:
    return lambda connection: connection.execute(query, parameters or None).fetchall()


def _migrations(connection: psycopg.Connection) -> list[dict]:
    return [
        {name: row[name] for name in ("version", "state", "applied_at", "code_version")}
        for row in drift.migrations(connection)
    ]


def _drift(connection: psycopg.Connection) -> list[dict]:
    return [
        {
            "severity": one.severity,
            "kind": one.kind,
            "problem": one.problem,
            # What machserial has made is named by machserial, what somebody else has, is not.
            "object": None if one.problem == "extra" or one.kind == "migration" else one.object,
        }
        for one in drift.findings(connection)
    ]


def _tables(connection: psycopg.Connection) -> list[dict]:
    ours = set(re.findall(r"create table machserial\.(\w+)", deployment.bundle()))
    return [
        row
        for row in connection.execute(TABLES).fetchall()
        if row["table"] in ours or re.fullmatch(r"audit_events_\d{4}_\d{2}(_archived)?", row["table"])
    ]


def _database(connection: psycopg.Connection) -> dict:
    return {"database": connection.execute(DATABASE).fetchone()}


IN_THE_DATABASE: dict[str, Callable[[psycopg.Connection], object]] = {
    "versions": _database,
    "migrations": _migrations,
    "drift": _drift,
    "health": _rows(HEALTH),
    "integrity": _rows(INTEGRITY),
    "settings": _rows(SETTINGS),
    "counters": _rows(COUNTERS),
    "tables": _tables,
    "activity": _rows(ACTIVITY),
    "server": _rows(SERVER, harmless=list(HARMLESS_TEXTS)),
}


def names() -> Iterator[str]:
    """The files of a bundle in which nothing is missing."""
    yield from ("README.txt", "traces.json", "missing.json")
    yield from (f"{name}.json" for name in IN_THE_DATABASE)
