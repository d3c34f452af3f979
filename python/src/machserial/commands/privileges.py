"""machserial privileges"""

from __future__ import annotations

from itertools import groupby

import click

from machserial import output
from machserial.errors import ExpectedError
from machserial.functions import Row
from machserial.options import Command, Settings, pass_settings

# Every privilege on every object of machserial, from the catalog. Grantee 0 is PUBLIC. Indexes and the row types of
# tables have none of their own; types may be used by everyone, as PostgreSQL has it.
GRANTED = """
    with owner as (
        select proowner as id from pg_proc where oid = 'machserial.migrate()'::regprocedure
    ),

    objects as (
        select
            'schema' as kind, nspname::text as object, nspowner as owner,
            coalesce(nspacl, acldefault('n', nspowner)) as acl
        from pg_namespace where nspname = 'machserial'
        union all
        select
            'function', regexp_replace(p.oid::regprocedure::text, '^machserial[.]', ''), p.proowner,
            coalesce(p.proacl, acldefault('f', p.proowner))
        from pg_proc as p where p.pronamespace = 'machserial'::regnamespace
        union all
        select
            case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end, c.relname::text, c.relowner,
            coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))
        from pg_class as c
        where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S')
        union all
        select 'column', format('%s.%s', c.relname, a.attname), c.relowner, a.attacl
        from pg_class as c
        inner join pg_attribute as a on a.attrelid = c.oid
        where c.relnamespace = 'machserial'::regnamespace and a.attacl is not null
    )

    select
        coalesce(r.rolname::text, 'PUBLIC') as role, o.kind, o.object, o.owner <> w.id as is_foreign,
        pg_get_userbyid(o.owner)::text as owner,
        array_agg(distinct x.privilege_type order by x.privilege_type) as privileges
    from objects as o
    cross join owner as w
    cross join lateral aclexplode(o.acl) as x
    left join pg_roles as r on r.oid = x.grantee
    where
        (x.grantee <> o.owner or o.owner <> w.id)
        -- What policies ask for whoever it may be is everybody's, as shipped.
        and not (x.grantee = 0 and o.owner = w.id and o.kind = 'function' and exists (
            select from machserial._listed_privileges() as l
            where l.role = 'public' and l.kind = 'function' and l.object = 'machserial.' || o.object
        ))
    group by 1, 2, 3, 4, 5
    order by 1, 2, 3
"""

# What the roles of create_roles() should have and lack, or the other way round, as statements that mend it.
UNLISTED = "select description from machserial._unlisted_privileges()"

REVOKE = {"schema": "schema", "function": "function", "table": "table", "view": "table", "sequence": "sequence"}


@click.command(cls=Command)
@click.option(
    "--drift", is_flag=True,
    help="Only deviations: grants to PUBLIC, objects of other owners, changed rights of the four roles.",
)  # fmt: skip
@pass_settings
def privileges(settings: Settings, drift: bool) -> None:
    """List privileges by role; --drift shows deviations.

    Nobody but the owner may do anything until it is granted, so only what was granted is listed. --json lists every
    object by itself. With --drift, exit code 1 if there is any.
    """
    with settings.connect() as connection:
        granted = connection.execute(GRANTED).fetchall()
        unlisted = connection.execute(UNLISTED).fetchall() if drift else []
    if drift:
        report_drift(settings, drifting(granted) + [unlisted_right(row) for row in unlisted])
    elif settings.json:
        output.print_json([{name: row[name] for name in ("role", "kind", "object", "privileges")} for row in granted])
    else:
        output.print_rows(matrix(granted), as_json=False)


def matrix(granted: list[Row]) -> list[Row]:
    """A row for each role and what it may do alike."""

    def alike(row: Row) -> tuple:
        return row["role"], row["kind"], row["privileges"]

    return [
        {"role": role, "may": ", ".join(may), "on": kind, "objects": ", ".join(row["object"] for row in rows)}
        for (role, kind, may), rows in groupby(sorted(granted, key=alike), key=alike)
    ]


def drifting(granted: list[Row]) -> list[Row]:
    """What nobody ships, with what undoes it."""
    found = []
    for row in granted:
        kind, what = row["kind"], "machserial" if row["kind"] == "schema" else f"machserial.{row['object']}"
        if row["is_foreign"]:
            remedy = f"alter {kind} {what} owner to …; or drop what does not belong there"
            problem = f"is owned by {row['owner']}, not by the owner of machserial"
            found.append({**row, "problem": problem, "remedy": remedy})
        elif row["role"] == "PUBLIC":
            remedy = revocation(row, what)
            found.append({**row, "problem": f"everyone may {', '.join(row['privileges'])}", "remedy": remedy})
    return [{name: row[name] for name in ("kind", "object", "problem", "remedy")} for row in found]


def unlisted_right(row: Row) -> Row:
    remedy = row["description"].removeprefix("not as listed: ")
    what = remedy.split(" on ", 1)[1].rsplit(" to " if remedy.startswith("grant") else " from ", 1)[0]
    problem = f"a role {'lacks a' if remedy.startswith('grant') else 'has another'} right than it was shipped with"
    return {"kind": "right", "object": what, "problem": problem, "remedy": remedy}


def revocation(row: Row, what: str) -> str:
    if row["kind"] == "column":
        table, _, column = row["object"].partition(".")
        may = ", ".join(f"{privilege} ({column})" for privilege in row["privileges"])
        return f"revoke {may} on machserial.{table} from public"
    return f"revoke all on {REVOKE[row['kind']]} {what} from public"


def report_drift(settings: Settings, found: list[Row]) -> None:
    if found or settings.json:
        output.print_rows(found, as_json=settings.json)
    else:
        output.print_text(
            "as shipped: nothing is granted to PUBLIC, all objects are the owner's, and the roles have their rights"
        )
    if found:
        raise ExpectedError(f"{len(found)} privileges are not as shipped", remedy="each of them says what undoes it")
