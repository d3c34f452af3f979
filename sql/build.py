"""Builds machserial from its manifest, and machserial_plpython: install script, update scripts, plain bundle.

    python3 sql/build.py [--source DIR] [--output DIR]    build
    python3 sql/build.py release                          freeze the present version

Needs only Python's standard library. See docs/development.md for what each product is for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
KINDS = ("code", "migration", "view", "privileges")
MIGRATION_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
MIGRATION_MARK = re.compile(r"^-- migration (\d+) (\w+) sha256 ([0-9a-f]{64})$", re.MULTILINE)
FUNCTION = re.compile(r"^create (function|procedure) ", re.MULTILINE)
COMPOSITE = re.compile(r"^create type (machserial\.\w+) as \(\n(.*?)\n\);$", re.MULTILINE | re.DOTALL)
PYTHON_FILE = re.compile(r"^@(\w+\.py)@$", re.MULTILINE)
HEADER = re.compile(r"^create function machserial\.(\w+)(\(.*?)\nlanguage ", re.MULTILINE | re.DOTALL)
ATTRIBUTE = re.compile(r"^ {4}(\w+) (.+?),?$", re.MULTILINE)

EXTENSION_ONLY = '\\echo Use "CREATE EXTENSION {}" to load this file. \\quit\n'
PLPYTHON = "machserial_plpython"
PLPYTHON_SOURCE = HERE.parent / "plpython"


class BuildError(Exception):
    """The sources contradict each other or what has been released."""


@dataclass(frozen=True)
class Migration:
    """One file of sql/migrations: its number, its name and its bytes."""

    version: int
    name: str
    source: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()


@dataclass(frozen=True)
class Sources:
    """Everything that a manifest names, in its order."""

    name: str
    version: str
    guard: str
    extension_guard: str
    bundle_guard: str
    drop_changed: str
    grant_again: str
    code: list[str]
    migrations: list[Migration]
    views: list[tuple[str, str]]
    privileges: list[str]

    @property
    def all_code(self) -> list[str]:
        """With what the build writes of itself."""
        return [*self.code, generated_code(self)] if self.migrations else self.code


def read_version(source: Path) -> str:
    found = re.search(r"^default_version = '([^']+)'$", (source / "machserial.control").read_text(), re.M)
    if not found:
        raise BuildError("machserial.control states no default_version")
    return found.group(1)


def read_manifest(source: Path) -> list[tuple[str, Path]]:
    entries = []
    for line in (source / "manifest").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        kind, name = line.split()
        if kind not in KINDS:
            raise BuildError(f"manifest: {kind} is none of {', '.join(KINDS)}")
        entries.append((kind, source / name))
    return entries


def check_nothing_forgotten(source: Path, entries: list[tuple[str, Path]]) -> None:
    """A file that the manifest does not name would be silently absent from the product."""
    named = {path for _, path in entries}
    folders = (source / "functions", source / "migrations", source / "views")
    forgotten = sorted(str(path) for folder in folders for path in folder.rglob("*.sql") if path not in named)
    if forgotten:
        raise BuildError(f"not in the manifest: {', '.join(forgotten)}")


def read_migration(path: Path) -> Migration:
    found = MIGRATION_NAME.fullmatch(path.name)
    if not found:
        raise BuildError(f"{path.name}: a migration is called 0001_name.sql")
    return Migration(int(found.group(1)), found.group(2), path.read_text())


def read_sources(source: Path) -> Sources:
    entries = read_manifest(source)
    check_nothing_forgotten(source, entries)
    migrations = [read_migration(path) for kind, path in entries if kind == "migration"]
    if [m.version for m in migrations] != list(range(1, len(migrations) + 1)):
        raise BuildError("migrations must be numbered 1, 2, 3, … in the manifest's order")
    return Sources(
        name="machserial",
        version=read_version(source),
        guard=(source / "guard.sql").read_text(),
        extension_guard=(source / "guard_extension.sql").read_text(),
        bundle_guard=(source / "guard_bundle.sql").read_text(),
        drop_changed=(source / "drop_changed.sql").read_text(),
        grant_again=(source / "grant_again.sql").read_text(),
        code=[path.read_text() for kind, path in entries if kind == "code"],
        migrations=migrations,
        views=[(path.stem, path.read_text()) for kind, path in entries if kind == "view"],
        privileges=[path.read_text() for kind, path in entries if kind == "privileges"],
    )


def with_python(path: Path) -> str:
    """The SQL of a file, with the Python that it asks for by lines @name.py@."""
    return PYTHON_FILE.sub(lambda found: (path.parent / found[1]).read_text().rstrip("\n"), path.read_text())


def read_plpython(folder: Path, core: Sources) -> Sources:
    """The second extension: it has no migrations, and the version of the first."""
    entries = read_manifest(folder)
    check_nothing_forgotten(folder, entries)
    version_function = "machserial._plpython_version()"
    code = [with_python(path).replace("@VERSION@", core.version) for kind, path in entries if kind == "code"]
    names = ",".join(sorted(signatures("\n".join(code))))

    def named(text: str) -> str:
        return text.replace("@FUNCTIONS@", f"{{{names}}}")

    return Sources(
        name=PLPYTHON,
        version=core.version,
        guard=named((folder / "guard.sql").read_text()),
        extension_guard="",
        bundle_guard=(folder / "guard_bundle.sql").read_text(),
        drop_changed=core.drop_changed.replace("machserial.version()", version_function),
        grant_again=core.grant_again,
        code=code,
        migrations=[],
        views=[],
        privileges=[named(path.read_text()) for kind, path in entries if kind == "privileges"],
    )


def read_released(source: Path, name: str, migrations: list[Migration]) -> dict[str, str]:
    """The install scripts of the released versions, after making sure that none of their migrations has changed."""
    present = {migration.version: migration for migration in migrations}
    released = {}
    for script in sorted((source / "released").glob(f"{name}--*.sql")):
        released[script.stem.removeprefix(f"{name}--")] = script.read_text()
        for version, name, sha256 in MIGRATION_MARK.findall(script.read_text()):
            now = present.get(int(version))
            if now is None or now.name != name or now.sha256 != sha256:
                raise BuildError(
                    f"migration {int(version):04}_{name} was released with {script.stem} and is frozen: "
                    "put it back as it was and write a new migration"
                )
    return released


def quoted(text: str) -> str:
    """text as a dollar-quoted SQL literal whose tag does not occur in it."""
    tag = "source"
    while f"${tag}$" in text:
        tag += "_"
    return f"${tag}${text}${tag}$"


def composite_for_update(found: re.Match[str]) -> str:
    """A type that may exist already: made if absent, else given the attributes that it lacks."""
    name, body = found.groups()
    attributes = ATTRIBUTE.findall(body)
    lines = [f"do {'$type$'}", "begin", f"    if to_regtype('{name}') is null then"]
    lines += [f"        create type {name} as (", *[f"        {line}" for line in body.splitlines()], "        );"]
    lines += ["    end if;"]
    for attribute, kind in attributes:
        lines += [
            "    if not exists (",
            "        select from pg_catalog.pg_attribute",
            f"        where attrelid = '{name}'::regclass and attname = '{attribute}' and not attisdropped",
            "    ) then",
            f"        alter type {name} add attribute {attribute} {kind};",
            "    end if;",
        ]
    return "\n".join([*lines, "end", "$type$;"])


def for_update(code: str) -> str:
    """The same code for a database that may hold an older version of it.

    Only an update may replace: a fresh install that did would adopt functions which somebody planted.
    """
    return COMPOSITE.sub(composite_for_update, FUNCTION.sub(r"create or replace \1 ", code))


def table_function(name: str, columns: str, rows: list[str], comment: str) -> str:
    body = "values\n" + ",\n".join(rows) if rows else "select " + ", ".join(["null"] * (columns.count(",") + 1))
    body += "" if rows else "\nwhere false"
    return (
        f"create function machserial.{name}() returns table ({columns})\n"
        "language plpgsql immutable\n"
        "set search_path = pg_catalog, pg_temp\n"
        f"as {quoted(f'begin{chr(10)}return query {body};{chr(10)}end')};\n\n"
        f"comment on function machserial.{name}() is '{comment}';\n"
    )


def generated_code(sources: Sources) -> str:
    """The version, the migrations, the views and the table privileges, as data inside the code."""
    migrations = [
        f"-- migration {m.version} {m.name} sha256 {m.sha256}\n"
        f"({m.version}, '{m.name}'::text, '{m.sha256}'::text, {quoted(m.source)}::text)"
        for m in sources.migrations
    ]
    views = [f"({i}, '{name}'::text, {quoted(text)}::text)" for i, (name, text) in enumerate(sources.views, 1)]
    return "\n".join(
        [
            "create function machserial.version() returns text\n"
            "language sql immutable parallel safe\n"
            f"return '{sources.version}';\n\n"
            "comment on function machserial.version() is 'Version of the machserial code in this database.';\n",
            table_function(
                "_migrations",
                "version integer, name text, sha256 text, source text",
                migrations,
                "Every migration that this version of the code carries.",
            ),
            table_function(
                "_views",
                "ordinal integer, name text, source text",
                views,
                "Every view, as migrate() re-creates it.",
            ),
        ]
    )


def install_script(sources: Sources) -> str:
    banner = EXTENSION_ONLY.format(sources.name)
    return "\n".join([banner, sources.guard, sources.extension_guard, *sources.all_code, *sources.privileges])


def signatures(code: str) -> dict[str, set[str]]:
    """What each function takes and returns: its headers, as they stand in an install script."""
    found: dict[str, set[str]] = {}
    for name, header in HEADER.findall(code):
        found.setdefault(name, set()).add(" ".join(header.split()))
    return found


def changed_functions(old_script: str, new_script: str) -> list[str]:
    """Functions of an old install script that are gone or no longer take or return the same."""
    new = signatures(new_script)
    return sorted(name for name, headers in signatures(old_script).items() if headers != new.get(name))


def replacing_code(sources: Sources, old_scripts: dict[str, str]) -> list[str]:
    """What turns the code of any of these released versions into the present one."""
    new_script = install_script(sources)
    changed = {old: changed_functions(script, new_script) for old, script in old_scripts.items()}
    code = [for_update(text) for text in sources.all_code]
    drop = sources.drop_changed.replace("@CHANGED@", json.dumps(changed))
    privileges = [for_update(text) for text in sources.privileges]
    return [sources.guard, drop, *code, *privileges, sources.grant_again]


def update_script(sources: Sources, old: str, old_script: str) -> str:
    return "\n".join([EXTENSION_ONLY.format(sources.name), *replacing_code(sources, {old: old_script})])


def plain_bundle(sources: Sources, old_scripts: dict[str, str]) -> str:
    return "\n".join([sources.bundle_guard, *replacing_code(sources, old_scripts)])


def write_products(sources: Sources, released: dict[str, str], output: Path) -> None:
    for old, old_script in released.items():
        if old == sources.version:
            raise BuildError(f"{old} is released: raise default_version in machserial.control")
        (output / f"{sources.name}--{old}.sql").write_text(old_script)
        update = update_script(sources, old, old_script)
        (output / f"{sources.name}--{old}--{sources.version}.sql").write_text(update)
    (output / f"{sources.name}--{sources.version}.sql").write_text(install_script(sources))
    (output / f"{sources.name}.sql").write_text(plain_bundle(sources, released))


def build(source: Path, output: Path) -> None:
    sources = read_sources(source)
    plpython = read_plpython(PLPYTHON_SOURCE, sources)
    released = read_released(source, sources.name, sources.migrations)
    output.mkdir(parents=True, exist_ok=True)
    for stale in output.glob("machserial*"):
        stale.unlink()
    shutil.copy(source / "machserial.control", output)
    control = (PLPYTHON_SOURCE / f"{PLPYTHON}.control").read_text()
    (output / f"{PLPYTHON}.control").write_text(control.replace("@VERSION@", sources.version))
    write_products(sources, released, output)
    write_products(plpython, read_released(source, PLPYTHON, []), output)
    check_plain(output)
    updates = ", ".join(released) or "none"
    print(f"machserial {sources.version}: {len(sources.migrations)} migrations, updates from {updates}")


def check_plain(output: Path) -> None:
    """Databases of every encoding take ASCII; what else is in a script, some of them cannot even read."""
    for product in sorted(output.glob("machserial*")):
        for number, line in enumerate(product.read_text().splitlines(), start=1):
            if not line.isascii():
                raise BuildError(f"{product.name}, line {number} is not ASCII: {line.strip()}")


def ship_with_python(output: Path, version: str) -> None:
    data = HERE.parent / "python" / "src" / "machserial" / "data"
    data.mkdir(parents=True, exist_ok=True)
    shutil.copy(output / "machserial.sql", data)
    (data / "VERSION").write_text(version + "\n")


def release(source: Path) -> None:
    sources = read_sources(source)
    read_released(source, sources.name, sources.migrations)
    folder = source / "released"
    if (folder / f"machserial--{sources.version}.sql").exists():
        raise BuildError(f"{sources.version} is released already")
    folder.mkdir(exist_ok=True)
    for each in (sources, read_plpython(PLPYTHON_SOURCE, sources)):
        (folder / f"{each.name}--{each.version}.sql").write_text(install_script(each))
    print(f"machserial {sources.version} is released: its migrations are frozen. Raise default_version next.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("build", "release"), default="build")
    parser.add_argument("--source", type=Path, default=HERE, help="folder of the SQL sources")
    parser.add_argument("--output", type=Path, default=HERE.parent / "build", help="folder of the products")
    options = parser.parse_args()
    try:
        if options.action == "release":
            release(options.source)
        else:
            build(options.source, options.output)
            if options.source == HERE:
                ship_with_python(options.output, read_version(options.source))
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
