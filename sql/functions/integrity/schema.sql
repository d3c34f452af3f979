-- Findings of integrity(): tables, triggers, policies and rights.

-- Types and functions that a policy, view, default, index or constraint of ours names and its owner may not
-- use. PostgreSQL 14.24, 15.19, 16.15, 17.11, 18.5 and later refuse such expressions.
create function machserial._unusable_by_owner()
returns table (kind text, name text, privilege text, owner name)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with expressions as (
        select 'pg_policy'::regclass as class, p.oid, p.polrelid as relation from pg_policy as p
        union all
        select 'pg_rewrite'::regclass, r.oid, r.ev_class from pg_rewrite as r
        union all
        select 'pg_attrdef'::regclass, d.oid, d.adrelid from pg_attrdef as d
        union all
        select 'pg_class'::regclass, i.indexrelid, i.indrelid from pg_index as i
        union all
        select 'pg_constraint'::regclass, k.oid, k.conrelid from pg_constraint as k
    ),

    named as (
        select distinct c.relowner, d.refclassid, d.refobjid
        from expressions as e
        inner join pg_class as c on c.oid = e.relation and c.relnamespace = 'machserial'::regnamespace
        inner join pg_depend as d on d.classid = e.class and d.objid = e.oid
        where d.refclassid in ('pg_type'::regclass, 'pg_proc'::regclass)
    )

    select 'type', n.refobjid::regtype::text, 'usage', pg_get_userbyid(n.relowner)
    from named as n
    where n.refclassid = 'pg_type'::regclass and not has_type_privilege(n.relowner, n.refobjid, 'usage')
    union all
    select 'function', n.refobjid::regprocedure::text, 'execute', pg_get_userbyid(n.relowner)
    from named as n
    where n.refclassid = 'pg_proc'::regclass and not has_function_privilege(n.relowner, n.refobjid, 'execute');
end
$$;

-- Rules that are missing or out of force: what sees to it that the data stay sound. Indexes are told apart.
create function machserial._faults_of_rules() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        case m.kind when 'row security' then 'row_security_off' else 'missing_' || replace(m.kind, ' ', '_') end,
        'CRITICAL',
        case m.kind
            when 'row security' then format('table %s', m.relation)
            when 'policy' then format('policy %s on %s', m.name, m.relation)
            when 'not null' then format('column %s.%s', m.relation, m.name)
            when 'default' then format('column %s.%s', m.relation, m.name)
            else format('%s %s', m.kind, m.name)
        end,
        case m.kind
            when 'row security' then format(
                'row-level security of machserial.%s is off: limits to sites do not hold there', m.relation
            )
            when 'policy' then format(
                'policy %s of machserial.%s is not there, or not as it was made', m.name, m.relation
            )
            when 'table' then format('table machserial.%s is not there', m.name)
            when 'view' then format('view machserial.%s is not there', m.name)
            when 'not null' then format('column %s of machserial.%s may be null', m.name, m.relation)
            when 'default' then format('column %s of machserial.%s has no default', m.name, m.relation)
            else format('%s %s of machserial.%s is not there', m.kind, m.name, m.relation)
        end,
        case m.kind
            when 'table' then 'Its rows are lost: restore them from a backup.'
            when 'column' then 'Its values are lost: restore them from a backup.'
            when 'view' then 'select machserial.migrate();'
            else m.statement || ';'
        end
    from machserial._missing_objects() as m
    where m.kind <> 'index'
    union all
    select
        'disabled_trigger', 'CRITICAL', d.shown, format('%s of machserial.%s is %s', d.shown, d.relation, d.state),
        format('alter table machserial.%I enable trigger %I;', d.relation, d.name)
    from machserial._disabled_triggers() as d
    order by 1, 3, 4;
end
$$;

-- What else sees to it: indexes, constraints, and who may do what.
create function machserial._faults_of_schema() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        i.problem || '_index', 'CRITICAL', format('index %s', i.name),
        format('index %s of machserial.%s is %s', i.name, i.relation, i.problem), i.remedy || ';'
    from machserial._index_problems() as i
    order by i.name;

    return query
    select
        'migrations_not_recorded', 'CRITICAL', 'table schema_migrations',
        format('tables are here whose migrations are not on record: %s', machserial._first_of(u.tables)),
        machserial._remedy_for_pending()
    from machserial._unrecorded_tables() as u (tables)
    where u.tables <> '{}'::text[];

    return query
    select
        'unlimited_role', 'CRITICAL', format('role %s', g.role),
        format('role %s was granted sites and is not limited to them', g.role),
        format('grant usage on type machserial.limited_to_sites to %s;', g.role)
    from machserial._unlimited_roles() as g
    union all
    select
        'limits_of_nobody', 'WARNING', format('role %s', g.role),
        format('sites were granted to the role with the id %s, which is not there any more', g.role::oid),
        format('delete from machserial.site_grants where role = %s;', g.role::oid)
    from (select distinct s.role from machserial.site_grants as s) as g
    where not exists (select from pg_roles as r where r.oid = g.role)
    union all
    select
        'limits_of_everybody', 'CRITICAL', 'type limited_to_sites',
        'everybody may use the type, and is limited to sites by that',
        'revoke all on type machserial.limited_to_sites from public;'
    from pg_type as t
    cross join lateral aclexplode(coalesce(t.typacl, acldefault('T', t.typowner))) as a
    where t.oid = 'machserial.limited_to_sites'::regtype and a.grantee = 0
    union all
    select
        'owner_without_privilege', 'CRITICAL', format('%s %s', u.kind, u.name),
        format('policies and views name %s %s, and their owner %I lacks %s on it', u.kind, u.name, u.owner, u.privilege),
        format('grant %s on %s %s to %I;', u.privilege, u.kind, u.name, u.owner)
    from machserial._unusable_by_owner() as u
    where machserial._owner_of_tables() is null
    union all
    -- One cause, and one remedy.
    select
        'two_owners', 'CRITICAL', 'schema machserial', 'the code does not belong to ' || quote_ident(o.name)
        || ', as the tables do: a superuser has restored them',
        format('select machserial.change_owner(%L);', o.name)
    from machserial._owner_of_tables() as o (name)
    where o.name is not null
    union all
    select
        'constraint_not_valid', 'CRITICAL', format('constraint %s', k.conname),
        format(
            'constraint %s of machserial.%s has never been checked against all rows', k.conname, o.relation
        ),
        format('alter table machserial.%I validate constraint %I;', o.relation, k.conname)
    from machserial._own_relations() as o
    inner join pg_constraint as k on k.conrelid = o.oid
    where not k.convalidated
    order by 1, 3, 4;
end
$$;

-- Sites whose time zone is gone: their counters that are reset cannot be examined either.
create function machserial._faults_of_sites() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'unknown_time_zone', 'CRITICAL', format('site %s', s.id),
        format(
            'the server does not know %L, the time zone of site %s: numbers that write or count by a date are not '
            'given there, and their counters were not examined', s.time_zone, s.id
        ),
        format('select machserial.register_site(%L, time_zone => ...);', s.id)
    from machserial._zones_of_sites() as z
    inner join machserial.sites as s on s.id = z.site_id
    where not z.is_known
    order by s.id;
end
$$;
