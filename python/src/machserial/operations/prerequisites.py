"""What a backup needs of the server that it is restored into: found in the archive, and looked for on the server.

A dump holds no roles, tablespaces or files of extensions: it names them, and fails at the first that is not there.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from machserial import programs

# Entries of the archive that name a role, an extension or a tablespace; none of them holds the body of a function.
NAMING = re.compile(
    r"\d+; \d+ \d+ (ACL|DEFAULT ACL|POLICY|USER MAPPING|EXTENSION|TABLE|MATERIALIZED VIEW|INDEX|CONSTRAINT) "
)
# Left out without grants. Comments on extensions are their owner's to make, and come with the extensions anyway.
GRANTING = re.compile(r"\d+; \d+ \d+ (ACL|DEFAULT ACL|TABLE DATA machserial site_grants) ")
COMMENT_ON_EXTENSION = re.compile(r"\d+; \d+ \d+ COMMENT - EXTENSION ")
IDENTIFIER = r'"(?:[^"]|"")+"|[\w$]+'
GRANTEE = re.compile(
    rf"^(?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) .* (?:TO|FROM) ({IDENTIFIER})(?: WITH GRANT OPTION)?;$", re.M
)
GRANTOR = re.compile(rf"^(?:SET SESSION AUTHORIZATION|ALTER DEFAULT PRIVILEGES FOR ROLE) ({IDENTIFIER})", re.M)
POLICY = re.compile(rf"^CREATE POLICY .*? TO ((?:{IDENTIFIER})(?:, (?:{IDENTIFIER}))*)(?: USING| WITH CHECK|;)", re.M)
EXTENSION = re.compile(rf"^CREATE EXTENSION IF NOT EXISTS ({IDENTIFIER}) WITH ", re.M)
TABLESPACE = re.compile(rf"^SET default_tablespace = ({IDENTIFIER});$", re.M)
NO_ROLES = {"PUBLIC", "CURRENT_USER", "SESSION_USER", "CURRENT_ROLE"}

# These roles and whoever has their rights by membership, with the statements that make them as they are here.
ROLES = """
    with recursive concerned as (
        select r.oid from pg_roles as r where r.rolname = any(%(names)s)
        union
        select m.member from concerned as c inner join pg_auth_members as m on m.roleid = c.oid
    )

    select
        r.rolname::text as name,
        format('create role %%I %%s;', r.rolname, concat_ws(' ',
            case when r.rolcanlogin then 'login' else 'nologin' end,
            case when r.rolcreaterole then 'createrole' end, case when r.rolcreatedb then 'createdb' end,
            case when r.rolbypassrls then 'bypassrls' end, case when r.rolsuper then 'superuser' end
        )) as statement,
        array(
            select g.rolname::text
            from pg_auth_members as m
            inner join pg_roles as g on g.oid = m.roleid
            where m.member = r.oid and m.roleid in (select c.oid from concerned as c)
            order by g.rolname
        ) as groups
    from pg_roles as r
    where r.oid in (select c.oid from concerned as c) and r.rolname !~ '^pg_'
    order by r.rolname
"""

# Extensions that whoever restores could not create.
EXTENSIONS = """
    select n.name, a.name is not null as is_offered
    from unnest(%(names)s::text[]) as n (name)
    left join pg_available_extensions as a on a.name = n.name
    left join pg_available_extension_versions as v on v.name = a.name and v.version = a.default_version
    where
        not exists (select from pg_extension as e where e.extname = n.name and %(in_target)s)
        and (
            a.name is null or v.superuser and not v.trusted
            and not (select r.rolsuper from pg_roles as r where r.rolname = coalesce(%(role)s, current_user))
        )
    order by n.name
"""


@dataclass(frozen=True)
class Needs:
    """What an archive names and does not hold.

    grants: whether who may do what is restored; code: the version of extension machserial; None: any, or plain SQL.
    """

    grants: bool
    roles: frozenset[str]
    extensions: frozenset[str]
    tablespaces: frozenset[str]
    code: str | None


def of(pg_restore: Path, archive: Path, grants: bool = True, code: str | None = None) -> Needs:
    """What the archive needs; without what only grants need, if these are left out. code: its manifest's."""
    script = _script_of(
        pg_restore, archive, [line for line in contents(pg_restore, archive, grants) if NAMING.match(line)]
    )
    roles = {*GRANTEE.findall(script), *GRANTOR.findall(script)}
    roles.update(name for names in POLICY.findall(script) for name in re.findall(IDENTIFIER, names))
    if grants:
        roles.update(_limited_roles(pg_restore, archive))
    return Needs(
        grants,
        frozenset(_unquoted(roles - NO_ROLES)),
        frozenset(_unquoted(EXTENSION.findall(script))),
        frozenset(_unquoted(TABLESPACE.findall(script))),
        code if "machserial" in EXTENSION.findall(script) else None,
    )


def contents(pg_restore: Path, archive: Path, grants: bool) -> list[str]:
    """What is restored of the archive: lines of its table of contents."""
    lines = programs.run(pg_restore, "--list", archive).splitlines()
    return [
        line for line in lines
        if line and not line.startswith(";") and not COMMENT_ON_EXTENSION.match(line)
        and (grants or not GRANTING.match(line))
    ]  # fmt: skip


@contextmanager
def chosen(lines: Iterable[str]) -> Iterator[str]:
    """The option of pg_restore that takes these lines of the table of contents only."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".list") as file:
        file.write("\n".join([*lines, ""]))
        file.flush()
        yield f"--use-list={file.name}"


def _script_of(pg_restore: Path, archive: Path, lines: Iterable[str]) -> str:
    with chosen(lines) as option:
        return programs.run(pg_restore, option, "--no-owner", "--file=-", archive)


def _limited_roles(pg_restore: Path, archive: Path) -> set[str]:
    """The first column of machserial.site_grants."""
    rows = programs.run(
        pg_restore, "--data-only", "--schema=machserial", "--table=site_grants", "--file=-", archive
    )
    found = re.search(r"^COPY machserial\.site_grants \(role, .*?;\n(.*?)^\\\.$", rows, re.M | re.S)
    return {line.partition("\t")[0] for line in found[1].splitlines()} if found else set()


def _unquoted(names: Iterable[str]) -> set[str]:
    return {name[1:-1].replace('""', '"') if name.startswith('"') else name for name in names}


def roles_of(session: psycopg.Connection, names: Iterable[str]) -> list[dict]:
    """These roles and their members here: name, statement, and the groups among them that each is in."""
    return session.execute(ROLES, {"names": list(names)}).fetchall()


def missing(
    session: psycopg.Connection, needs: Needs, known_roles: list[dict], role: str | None, in_target: bool
) -> list[tuple[str, str]]:
    """What the server lacks, and what makes it. known_roles: of roles_of(), when the backup was made.

    role: in whose name it is restored; in_target: whether the session is in the database to be restored into.
    """
    here = {row["rolname"] for row in session.execute("select rolname from pg_roles").fetchall()}
    spaces = {row["spcname"] for row in session.execute("select spcname from pg_tablespace").fetchall()}
    known = {one["name"]: one for one in known_roles if needs.grants or one["name"] in needs.roles}
    found = _missing_roles(needs.roles - here, here, known)
    for row in session.execute(
        EXTENSIONS, {"names": sorted(needs.extensions), "role": role, "in_target": in_target}
    ).fetchall():
        name = row["name"]
        if row["is_offered"]:
            # Where it is there already, it is not created again.
            found.append((f"extension {name}", f"create extension {quoted(name)}; as a superuser in the new database;"))
        else:
            found.append((f"extension {name}", f"install the files of extension {name} on the server;"))
    offered = session.execute(
        "select version from pg_available_extension_versions where name = 'machserial'"
    ).fetchall()
    if needs.code and offered and needs.code not in [row["version"] for row in offered]:
        found.append(
            (f"extension machserial in version {needs.code}", f"install the files of machserial {needs.code}, too;")
        )
    found += [
        (f"tablespace {name}", f"create tablespace {quoted(name)} location '...';")
        for name in sorted(needs.tablespaces - spaces)
    ]
    return found


def _missing_roles(lacking: set[str], here: set[str], known: dict[str, dict]) -> list[tuple[str, str]]:
    """With those that had their rights, and the memberships: or nobody would have any."""
    if not lacking:
        return []
    absent = lacking | known.keys() - here
    made = [
        (f"role {name}", known[name]["statement"] if name in known else f"create role {quoted(name)} nologin;")
        for name in sorted(absent)
    ]
    granted = [
        (f"membership of {name} in {group}", f"grant {quoted(group)} to {quoted(name)};")
        for name, one in known.items()
        for group in one["groups"]
        if group in known and (name in absent or group in absent)
    ]
    return made + granted


def quoted(name: str) -> str:
    """As PostgreSQL's format('%I') writes it, but for names that are keywords."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'
