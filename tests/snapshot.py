"""What is in the schema machserial, as values that can be compared: the one measure of "the same" for all tests."""

from __future__ import annotations

import re

import psycopg

MONTH = re.compile(r"\baudit_events_(\d{4})_(\d\d)")
BOUND = re.compile(r"'(\d{4})-(\d\d)-01 00:00:00\+00'")
# One query a kind of object: what identifies it, then everything about it that a user could notice. Privileges are
# written out, because null and the written-out default mean the same. Column numbers count live columns only.
QUERIES = {
    "schema": """
        select n.nspname, n.nspowner::regrole, obj_description(n.oid, 'pg_namespace'),
            array(select a::text from unnest(coalesce(n.nspacl, acldefault('n', n.nspowner))) as a order by 1)
        from pg_namespace as n where n.nspname = 'machserial'
    """,
    "relations": """
        select c.relname, c.relkind, c.relpersistence, c.relowner::regrole, c.relrowsecurity, c.relforcerowsecurity,
            c.relreplident, c.reloptions, c.relispartition, pg_get_expr(c.relpartbound, c.oid),
            pg_get_partkeydef(c.oid), obj_description(c.oid, 'pg_class'),
            case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end,
            array(
                select a::text from unnest(coalesce(c.relacl, acldefault(
                    case c.relkind when 'S' then 's'::"char" else 'r'::"char" end, c.relowner
                ))) as a order by 1
            )
        from pg_class as c
        where c.relnamespace = 'machserial'::regnamespace and c.relkind not in ('i', 'I')
    """,
    "columns": """
        select c.relname, row_number() over (partition by c.oid order by a.attnum), a.attname,
            format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, a.attislocal,
            a.attstorage, a.attacl, col_description(c.oid, a.attnum),
            -- From 15.20 on the server notes here at which place of its log a column was made.
            array(select o from unnest(a.attoptions) as o where o not like 'pg_attver=%' order by 1),
            (select o.collname from pg_collation as o where o.oid = a.attcollation),
            pg_get_expr(d.adbin, d.adrelid)
        from pg_class as c
        inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where c.relnamespace = 'machserial'::regnamespace and c.relkind not in ('i', 'I', 'S')
    """,
    "constraints": """
        select c.conrelid::regclass, c.contypid::regtype, c.conname, c.contype, c.convalidated, c.condeferrable,
            c.condeferred, c.conislocal, pg_get_constraintdef(c.oid), obj_description(c.oid, 'pg_constraint')
        from pg_constraint as c where c.connamespace = 'machserial'::regnamespace
    """,
    "indexes": """
        select i.indrelid::regclass, i.indexrelid::regclass, pg_get_indexdef(i.indexrelid), i.indisunique,
            i.indisprimary, i.indisvalid, i.indisclustered, obj_description(i.indexrelid, 'pg_class')
        from pg_index as i inner join pg_class as c on c.oid = i.indexrelid
        where c.relnamespace = 'machserial'::regnamespace
    """,
    "triggers": """
        select t.tgrelid::regclass, t.tgname, pg_get_triggerdef(t.oid), t.tgenabled, t.tgparentid <> 0,
            obj_description(t.oid, 'pg_trigger')
        from pg_trigger as t inner join pg_class as c on c.oid = t.tgrelid
        where not t.tgisinternal
            and (c.relnamespace = 'machserial'::regnamespace
                or t.tgfoid in (select oid from pg_proc where pronamespace = 'machserial'::regnamespace))
    """,
    "rules": """
        select r.ev_class::regclass, r.rulename, pg_get_ruledef(r.oid)
        from pg_rewrite as r inner join pg_class as c on c.oid = r.ev_class
        where c.relnamespace = 'machserial'::regnamespace
    """,
    "policies": """
        select p.polrelid::regclass, p.polname, p.polcmd, p.polpermissive, p.polroles::regrole[],
            pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
        from pg_policy as p inner join pg_class as c on c.oid = p.polrelid
        where c.relnamespace = 'machserial'::regnamespace
    """,
    "functions": """
        select p.oid::regprocedure, pg_get_functiondef(p.oid), p.proowner::regrole, p.proconfig, p.prosecdef,
            p.provolatile, p.proparallel, p.proisstrict, obj_description(p.oid, 'pg_proc'),
            array(select a::text from unnest(coalesce(p.proacl, acldefault('f', p.proowner))) as a order by 1)
        from pg_proc as p where p.pronamespace = 'machserial'::regnamespace and p.prokind in ('f', 'p')
    """,
    "aggregates and operators": """
        select p.oid::regprocedure::text, p.prokind::text, p.proowner::regrole
        from pg_proc as p where p.pronamespace = 'machserial'::regnamespace and p.prokind not in ('f', 'p')
        union all
        select o.oid::regoperator::text, o.oprcode::text, o.oprowner::regrole
        from pg_operator as o where o.oprnamespace = 'machserial'::regnamespace
    """,
    "types": """
        select t.oid::regtype, t.typtype, t.typowner::regrole, t.typnotnull, t.typdefault,
            format_type(t.typbasetype, t.typtypmod), obj_description(t.oid, 'pg_type'),
            array(select e.enumlabel from pg_enum as e where e.enumtypid = t.oid order by e.enumsortorder),
            array(select a::text from unnest(coalesce(t.typacl, acldefault('T', t.typowner))) as a order by 1)
        from pg_type as t
        where t.typnamespace = 'machserial'::regnamespace and t.typelem = 0
    """,
    "sequences": """
        select s.seqrelid::regclass, format_type(s.seqtypid, null), s.seqstart, s.seqincrement, s.seqmin, s.seqmax,
            s.seqcache, s.seqcycle, d.refobjid::regclass, d.refobjsubid
        from pg_sequence as s
        inner join pg_class as c on c.oid = s.seqrelid
        left join pg_depend as d on d.classid = 'pg_class'::regclass and d.objid = c.oid
            and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
        where c.relnamespace = 'machserial'::regnamespace
    """,
    "statistics": """
        select s.stxname, pg_get_statisticsobjdef(s.oid) from pg_statistic_ext as s
        where s.stxnamespace = 'machserial'::regnamespace
    """,
    "default privileges": """
        select d.defaclobjtype, d.defaclrole::regrole, d.defaclacl from pg_default_acl as d
        where d.defaclnamespace = 'machserial'::regnamespace
    """,
}


def catalog(connection: psycopg.Connection) -> dict[str, list[str]]:
    """Everything in the schema machserial but whether it belongs to the extension: for each kind, sorted rows."""
    connection.execute("set search_path = pg_catalog, pg_temp")
    found = {}
    for kind, query in QUERIES.items():
        found[kind] = [row for (row,) in connection.execute(f"select row_to_json(r)::text from ({query}) as r")]
    connection.execute("reset search_path")
    first = min(MONTH.findall(" ".join(found["relations"])), default=None)
    return {kind: sorted(count_months(row, first) for row in rows) for kind, rows in found.items()}


def count_months(row: str, first: tuple[str, str] | None) -> str:
    """The months of the audit trail count from its first: a month's end may lie between two snapshots."""

    def ordinal(month: re.Match) -> str:
        return f"month {12 * (int(month[1]) - int(first[0])) + int(month[2]) - int(first[1])}"

    return BOUND.sub(ordinal, MONTH.sub(ordinal, row)) if first else row


def rows(connection: psycopg.Connection) -> dict[str, list[str]]:
    """Every row of every table, and where every sequence stands."""
    tables = connection.execute(
        "select oid::regclass::text from pg_class "
        "where relnamespace = 'machserial'::regnamespace and relkind = 'r' order by 1"
    ).fetchall()
    found = {}
    for (table,) in tables:
        found[table] = sorted(r[0] for r in connection.execute(f"select t::text from {table} as t").fetchall())
    found["sequences"] = [
        str(row)
        for row in connection.execute(
            "select sequencename, last_value from pg_sequences where schemaname = 'machserial' order by 1"
        ).fetchall()
    ]
    return found


def differences(one: dict[str, list[str]], other: dict[str, list[str]]) -> list[str]:
    """What only one of two snapshots has, as lines that tell; empty if they are the same."""
    lines = []
    for kind in sorted(one.keys() | other.keys()):
        first, second = one.get(kind, []), other.get(kind, [])
        lines += [f"- {kind}: {row}" for row in first if row not in second]
        lines += [f"+ {kind}: {row}" for row in second if row not in first]
        if not lines and first != second:
            lines.append(f"{kind}: rows that occur more than once differ in number")
    return lines
