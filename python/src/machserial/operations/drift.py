"""Drift: what in the schema machserial is not as the migrations and the code make it.

What they make is found out by making it: within a transaction that is rolled back the schema is put aside under
another name, machserial is installed anew beside it, and both are looked at with the same queries. Nobody else sees
anything of it, and nothing of the live schema is locked. It takes an owner who may create a schema.

What machserial makes as it runs is left out (the sequences of counters, the partitions of the audit trail, the
renderers of formats), and so is what an owner is meant to add: grants to roles, and settings of tables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from machserial import __version__
from machserial.errors import ExpectedError, NotDeployed
from machserial.operations import deployment

DRIFT = "DRIFT"
NOTE = "NOTE"  # something more, which changes nothing of what machserial does

MADE_BY_RUNNING = r"^(counter_[0-9]+|audit_events_[0-9]{4}_[0-9]{2}(_archived)?)$"
RENDERER = r"^_render_[0-9]+$"
PAUSE_TRIGGERS = ("new_serials_are_refused_while_paused", "new_blocks_are_refused_while_paused")

# One query a kind: object, its properties, and the statements that make and remove it. %(running)s: names to leave out.
PUBLIC = "exists (select from aclexplode({acl}) as a where a.grantee = 0)"
# What another extension (machserial_plpython) has put into the schema is that one's concern.
ANOTHERS = """exists (
    select from pg_depend as o inner join pg_extension as e on e.oid = o.refobjid
    where
        o.refclassid = 'pg_extension'::regclass and o.deptype = 'e' and e.extname <> 'machserial'
        and o.classid = '{catalog}'::regclass and o.objid = {oid}
)"""
QUERIES = {
    "schema": f"""
        select
            n.nspname::text as object,
            jsonb_build_object(
                'owner', n.nspowner::regrole, 'open to everybody', {PUBLIC.format(acl="n.nspacl")}
            ) as properties,
            null as make,
            null as remove
        from pg_namespace as n where n.nspname = 'machserial'
    """,
    "table": f"""
        select
            c.oid::regclass::text as object,
            jsonb_build_object(
                'kind', c.relkind, 'persistence', c.relpersistence, 'owner', c.relowner::regrole,
                'row level security', c.relrowsecurity, 'forced row level security', c.relforcerowsecurity,
                'partition key', pg_get_partkeydef(c.oid), 'open to everybody', {PUBLIC.format(acl="c.relacl")}
            ) as properties,
            '-- its rows are lost: restore them from a backup' as make,
            format('drop table %%s;', c.oid::regclass) as remove
        from pg_class as c
        where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p') and c.relname !~ %(running)s
            and not {ANOTHERS.format(catalog="pg_class", oid="c.oid")}
    """,
    "column": f"""
        select
            format('%%s.%%I', c.oid::regclass, a.attname) as object,
            jsonb_build_object(
                'type', format_type(a.atttypid, a.atttypmod), 'not null', a.attnotnull, 'identity', a.attidentity,
                'generated', a.attgenerated, 'default', pg_get_expr(d.adbin, d.adrelid),
                'collation', (select o.collname from pg_collation as o where o.oid = a.attcollation)
            ) as properties,
            '-- its values are lost: restore them from a backup' as make,
            format('alter table %%s drop column %%I;', c.oid::regclass, a.attname) as remove
        from pg_class as c
        inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p') and c.relname !~ %(running)s
            and not {ANOTHERS.format(catalog="pg_class", oid="c.oid")}
    """,
    "constraint": f"""
        select
            format('%%I on %%s', c.conname, c.conrelid::regclass) as object,
            jsonb_build_object(
                'definition', pg_get_constraintdef(c.oid), 'valid', c.convalidated, 'deferrable', c.condeferrable
            ) as properties,
            format('alter table %%s add constraint %%I %%s;', c.conrelid::regclass, c.conname,
                pg_get_constraintdef(c.oid)) as make,
            format('alter table %%s drop constraint %%I;', c.conrelid::regclass, c.conname) as remove
        from pg_constraint as c
        inner join pg_class as r on r.oid = c.conrelid
        where c.connamespace = 'machserial'::regnamespace and c.contype not in ('n', 't') and r.relname !~ %(running)s
            and not {ANOTHERS.format(catalog="pg_class", oid="r.oid")}
    """,
    "index": f"""
        select
            i.indexrelid::regclass::text as object,
            jsonb_build_object('definition', pg_get_indexdef(i.indexrelid), 'valid', i.indisvalid) as properties,
            pg_get_indexdef(i.indexrelid) || ';' as make,
            format('drop index %%s;', i.indexrelid::regclass) as remove
        from pg_index as i
        inner join pg_class as c on c.oid = i.indexrelid
        inner join pg_class as r on r.oid = i.indrelid
        where
            c.relnamespace = 'machserial'::regnamespace and r.relname !~ %(running)s
            and not {ANOTHERS.format(catalog="pg_class", oid="r.oid")}
            and not exists (select from pg_constraint as k where k.conindid = i.indexrelid and k.conrelid = i.indrelid)
    """,
    "trigger": """
        select
            format('%%I on %%s', t.tgname, t.tgrelid::regclass) as object,
            jsonb_build_object('definition', pg_get_triggerdef(t.oid), 'enabled', t.tgenabled <> 'D') as properties,
            pg_get_triggerdef(t.oid) || ';' as make,
            format('drop trigger %%I on %%s;', t.tgname, t.tgrelid::regclass) as remove
        from pg_trigger as t
        inner join pg_class as c on c.oid = t.tgrelid
        where not t.tgisinternal and c.relnamespace = 'machserial'::regnamespace and c.relname !~ %(running)s
    """,
    "rule": """
        select
            format('%%I on %%s', r.rulename, r.ev_class::regclass) as object,
            jsonb_build_object('definition', pg_get_ruledef(r.oid)) as properties,
            pg_get_ruledef(r.oid) as make,
            format('drop rule %%I on %%s;', r.rulename, r.ev_class::regclass) as remove
        from pg_rewrite as r
        inner join pg_class as c on c.oid = r.ev_class
        where c.relnamespace = 'machserial'::regnamespace and c.relkind <> 'v'
    """,
    "policy": """
        select
            format('%%I on %%s', p.polname, p.polrelid::regclass) as object,
            jsonb_build_object(
                'command', p.polcmd, 'permissive', p.polpermissive, 'roles', p.polroles::regrole[]::text[],
                'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid)
            ) as properties,
            concat_ws(E'\\n',
                format('create policy %%I on %%s as %%s', p.polname, p.polrelid::regclass,
                    case when p.polpermissive then 'permissive' else 'restrictive' end),
                'using (' || pg_get_expr(p.polqual, p.polrelid) || ')',
                'with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')'
            ) || ';' as make,
            format('drop policy %%I on %%s;', p.polname, p.polrelid::regclass) as remove
        from pg_policy as p
        inner join pg_class as c on c.oid = p.polrelid
        where c.relnamespace = 'machserial'::regnamespace and c.relname !~ %(running)s
    """,
    "view": f"""
        select
            c.oid::regclass::text as object,
            jsonb_build_object(
                'definition', pg_get_viewdef(c.oid), 'owner', c.relowner::regrole, 'options', c.reloptions,
                'open to everybody', {PUBLIC.format(acl="c.relacl")}
            ) as properties,
            'select machserial.migrate();' as make,
            format('drop view %%s;', c.oid::regclass) as remove
        from pg_class as c where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('v', 'm')
    """,
    "function": f"""
        select
            p.oid::regprocedure::text as object,
            jsonb_build_object(
                'definition', pg_get_functiondef(p.oid), 'owner', p.proowner::regrole,
                'open to everybody', {PUBLIC.format(acl="coalesce(p.proacl, acldefault('f', p.proowner))")}
            ) as properties,
            rtrim(pg_get_functiondef(p.oid), E'\\n') || format(
                E';\\nrevoke execute on function %%s from public;', p.oid::regprocedure
            ) as make,
            format('drop function %%s;', p.oid::regprocedure) as remove
        from pg_proc as p
        where
            p.pronamespace = 'machserial'::regnamespace and p.prokind in ('f', 'p') and p.proname !~ %(renderer)s
            and not {ANOTHERS.format(catalog="pg_proc", oid="p.oid")}
    """,
    "type": """
        select
            t.oid::regtype::text as object,
            jsonb_build_object('attributes', array(
                select format('%%I %%s', a.attname, format_type(a.atttypid, a.atttypmod))
                from pg_attribute as a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
                order by a.attnum
            ), 'owner', t.typowner::regrole) as properties,
            '-- install the code again: machserial deploy' as make,
            format('drop type %%s;', t.oid::regtype) as remove
        from pg_type as t
        inner join pg_class as c on c.oid = t.typrelid and c.relkind = 'c'
        where t.typnamespace = 'machserial'::regnamespace
    """,
}
# What an owner may have more of without any change of what machserial does.
HARMLESS = ("table", "index", "view", "type")

MIGRATIONS = """
    select
        coalesce(m.version, a.version) as version,
        coalesce(m.name, a.name) as name,
        case
            when a.version is null then 'pending'
            when m.version is null then 'unknown to the code'
            when m.sha256 <> a.sha256 then 'not the one that ran here'
            else 'applied'
        end as state,
        a.applied_at, a.applied_by, a.code_version
    from machserial._migrations() as m
    full join {applied} as a on a.version = m.version
    order by 1
"""
NONE_APPLIED = """(
    select null::integer as version, null::text as name, null::text as sha256, null::timestamptz as applied_at,
        null::text as applied_by, null::text as code_version
    where false
)"""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    severity: DRIFT or NOTE; problem: missing, extra, changed; detail: what differs; remedy: SQL, or a comment.
    """

    severity: str
    kind: str
    object: str
    problem: str
    detail: str
    remedy: str


def migrations(connection: psycopg.Connection) -> list[dict]:
    """Every migration that code or schema knows, and its state."""
    row = connection.execute("select to_regclass('machserial.schema_migrations') is not null as is_there").fetchone()
    applied = "machserial.schema_migrations" if row["is_there"] else NONE_APPLIED
    return connection.execute(MIGRATIONS.format(applied=applied)).fetchall()


def findings(connection: psycopg.Connection) -> list[Finding]:
    """All drift, the worst first. Leaves nothing behind."""
    found = [*_migrations_that_differ(connection)]
    _require_same_version(connection)
    if owners := _two_owners(connection):
        return [owners, *found]
    if unrecorded := _not_on_record(connection):
        return [unrecorded]
    with connection.transaction(force_rollback=True):
        _become_owner(connection)
        connection.execute("set local client_min_messages = warning")
        connection.execute("set local search_path = pg_catalog, pg_temp")
        live = _catalog(connection)
        is_paused = "machserial.pauses" in live["table"] and _is_paused(connection)
        _install_anew(connection)
        expected = _catalog(connection)
    for trigger in expected["trigger"].values():
        if trigger["object"].split(" on ")[0] in PAUSE_TRIGGERS:
            trigger["properties"]["enabled"] = is_paused
    for kind in QUERIES:
        found += _compared(kind, live[kind], expected[kind])
    return sorted(found, key=lambda one: one.severity != DRIFT)


def _migrations_that_differ(connection: psycopg.Connection) -> Iterator[Finding]:
    for row in migrations(connection):
        if row["state"] == "pending":
            remedy, problem = "-- machserial migrate up", "missing"
        elif row["state"] == "applied":
            continue
        else:
            remedy, problem = "-- deploy the release that has this migration: machserial deploy", "changed"
        yield Finding(DRIFT, "migration", f"{row['version']:04} {row['name']}", problem, row["state"], remedy)


def _require_same_version(connection: psycopg.Connection) -> None:
    code = connection.execute("select machserial.version() as code").fetchone()["code"]
    if code != __version__:
        raise NotDeployed(
            f"the database has machserial {code}, this command is {__version__}",
            "it can only compare with its own version",
            f"machserial deploy, or install version {code} of this command",
        )


def _two_owners(connection: psycopg.Connection) -> Finding | None:
    """One finding for all that belongs to the wrong one of two: everything would differ."""
    owner = connection.execute("select machserial._owner_of_tables() as name").fetchone()["name"]
    if owner is None:
        return None
    return Finding(
        DRIFT, "schema", "machserial", "changed",
        f"the code does not belong to {owner}, as the tables do: a superuser has restored them",
        f"select machserial.change_owner({sql.Literal(owner).as_string()});  -- as a superuser",
    )  # fmt: skip


def _not_on_record(connection: psycopg.Connection) -> Finding | None:
    """One finding for a copy of the schema without its rows: every migration would be one."""
    remedy = connection.execute("select machserial._remedy_for_pending() as remedy").fetchone()["remedy"]
    if "adopt_schema" not in remedy:
        return None
    detail = "tables are here, and no migration is on record: a copy of the schema without its rows"
    return Finding(DRIFT, "schema", "machserial", "changed", detail, remedy)


def _become_owner(connection: psycopg.Connection) -> None:
    """So that what is made anew belongs to whom the live schema belongs."""
    owner = connection.execute(
        "select pg_get_userbyid(proowner) as name from pg_proc where oid = 'machserial.migrate()'::regprocedure"
    ).fetchone()["name"]
    try:
        connection.execute(sql.SQL("set local role {}").format(sql.Identifier(owner)))
    except psycopg.errors.InsufficientPrivilege as error:
        raise ExpectedError(
            "only the owner of machserial can verify its catalog",
            detail=f"the owner is {owner}",
            remedy=f"connect as {owner}",
            code=5,
        ) from error


def _is_paused(connection: psycopg.Connection) -> bool:
    return connection.execute(
        "select exists (select from machserial.pauses where resumed_at is null) as it_is"
    ).fetchone()["it_is"]


def _install_anew(connection: psycopg.Connection) -> None:
    aside = sql.Identifier(f"machserial_aside_{os.getpid()}")
    connection.execute(sql.SQL("alter schema machserial rename to {}").format(aside))
    connection.execute(deployment.bundle_for_an_empty_schema())
    connection.execute("select machserial.migrate()")


def _catalog(connection: psycopg.Connection) -> dict[str, dict[str, dict]]:
    connection.execute("set local search_path = pg_catalog, pg_temp")
    names = {"running": MADE_BY_RUNNING, "renderer": RENDERER}
    return {
        kind: {row["object"]: row for row in connection.execute(query, names).fetchall()}
        for kind, query in QUERIES.items()
    }


def _compared(kind: str, live: dict[str, dict], expected: dict[str, dict]) -> Iterator[Finding]:
    for name in sorted(expected.keys() - live.keys()):
        wanted = expected[name]
        off = [] if wanted["properties"].get("enabled", True) else [_switched(name, False)]
        yield Finding(DRIFT, kind, name, "missing", "", "\n".join([wanted["make"], *off]))
    for name in sorted(live.keys() - expected.keys()):
        severity = NOTE if kind in HARMLESS else DRIFT
        yield Finding(severity, kind, name, "extra", "", live[name]["remove"])
    for name in sorted(live.keys() & expected.keys()):
        now, wanted = live[name]["properties"], expected[name]["properties"]
        different = [key for key in wanted if wanted[key] != now[key]]
        if different:
            detail = "; ".join(_told(key, now[key], wanted[key]) for key in different)
            yield Finding(DRIFT, kind, name, "changed", detail, _mended(kind, live[name], expected[name], different))


def _told(key: str, now: object, wanted: object) -> str:
    if key == "definition" and len(str(now)) + len(str(wanted)) > 300:
        return "definition"
    return f"{key}: is {now}, should be {wanted}"


def _switched(trigger: str, enabled: bool) -> str:
    name, _, table = trigger.rpartition(" on ")
    return f"alter table {table} {'enable' if enabled else 'disable'} trigger {name};"


def _mended(kind: str, now: dict, wanted: dict, different: list[str]) -> str:
    """The statements that make what differs as it should be."""
    name = wanted["object"]
    lines = []
    if "open to everybody" in different:
        what = {"function": f"function {name}", "schema": "schema machserial"}.get(kind, f"table {name}")
        lines.append(f"revoke all on {what} from public;")
    if "owner" in different:
        lines.append(f"alter {kind} {name} owner to {wanted['properties']['owner']};")
    rest = set(different) - {"open to everybody", "owner"}
    if kind == "trigger" and rest == {"enabled"}:
        lines.append(_switched(name, wanted["properties"]["enabled"]))
    elif kind == "index" and rest == {"valid"}:
        lines.append(f"reindex index concurrently {name};")
    elif kind == "constraint" and rest == {"valid"}:
        constraint, _, table = name.rpartition(" on ")
        lines.append(f"alter table {table} validate constraint {constraint};")
    elif kind == "column" and rest:
        lines += _mended_column(name, wanted["properties"], rest)
    elif kind == "table" and rest == {"row level security"}:
        wanted_state = "enable" if wanted["properties"]["row level security"] else "disable"
        lines.append(f"alter table {name} {wanted_state} row level security;")
    elif kind == "table" and rest:
        lines.append(f"-- make it as it was: {', '.join(sorted(rest))}")
    elif kind in ("function", "view", "type") and rest:
        lines.append(wanted["make"])
    elif rest:
        lines += [now["remove"], wanted["make"]]
    return "\n".join(lines)


def _mended_column(name: str, wanted: dict, different: set[str]) -> Iterator[str]:
    table, _, column = name.rpartition(".")
    begin = f"alter table {table} alter column {column}"
    for key in sorted(different):
        if key == "type":
            yield f"{begin} type {wanted['type']};"
        elif key == "not null":
            yield f"{begin} {'set' if wanted['not null'] else 'drop'} not null;"
        elif key == "default":
            yield f"{begin} {'drop default' if wanted['default'] is None else 'set default ' + wanted['default']};"
        else:
            yield f"-- make column {name} as it was: {key} {wanted[key]}"
