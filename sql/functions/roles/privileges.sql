-- Roles with the rights of privileges.sql, and the owner of it all.

-- Rights

-- Whether create_roles() has been called in this database: roles belong to the whole cluster.
create function machserial._has_roles() returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select from pg_namespace as n
        cross join lateral aclexplode(n.nspacl) as a
        inner join pg_roles as r on r.oid = a.grantee
        where n.nspname = 'machserial' and r.rolname = 'machserial_viewer'
    );
end
$$;

-- What sql/privileges.sql says of objects that are here, by its rule and its lists, with their names as
-- statements have them. role: public or one of the four; column_name: null unless the privilege is on one.
create function machserial._listed_privileges()
returns table (role text, privilege text, kind text, object text, oid oid, column_name text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    -- Materialized: a list of names is split once, and not for each object; both are joined by name.
    with listed as materialized (
        select p.from_role, p.privilege, p.kind, o.name
        from machserial._privileges() as p
        cross join lateral regexp_split_to_table(btrim(p.objects, E' \n'), '[[:space:]]+') as o (name)
    ),

    -- by_rule: what the first role may do with it, unless a list says otherwise.
    objects as materialized (
        select
            'function' as kind, regexp_replace(p.proname, '(_[0-9]+)+$', '_*') as name, p.oid::regprocedure::text as object, p.oid,
            null::text as column_name,
            case when p.proname::text like '\_%' and not p.prosecdef then 'execute' end as by_rule
        from pg_proc as p where p.pronamespace = 'machserial'::regnamespace
        union all
        select
            case c.relkind when 'v' then 'view' else 'table' end,
            regexp_replace(c.relname, '(_[0-9]+)+$', '_*'), c.oid::regclass::text, c.oid, null, 'select'
        from pg_class as c
        where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p', 'v')
        union all
        select 'column', format('%s.%s', c.relname, a.attname), c.oid::regclass::text, c.oid, a.attname::text, null
        from pg_class as c
        inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p', 'v')
        union all
        select 'schema', n.nspname::text, n.nspname::text, n.oid, null, null
        from pg_namespace as n where n.nspname = 'machserial'
    ),

    given as (
        select l.from_role, l.privilege, o.*
        from objects as o
        inner join listed as l on l.kind = o.kind and l.name = o.name
        union all
        select 'viewer', o.by_rule, o.*
        from objects as o
        where
            o.by_rule is not null and not exists (
                select from listed as l
                where l.kind = o.kind and l.name = o.name and l.privilege = o.by_rule
            )
    )

    select
        case g.from_role when 'public' then 'public' else 'machserial_' || r.role end, g.privilege, g.kind, g.object,
        g.oid, g.column_name
    from given as g
    inner join unnest('{viewer,operator,supervisor,admin}'::text[]) with ordinality as r (role, rank)
        on g.from_role = 'public' and r.rank = 1
        or r.rank >= array_position('{viewer,operator,supervisor,admin}'::text[], g.from_role);
end
$$;

-- What the four roles have, and everybody has of functions, on the owner's objects.
create function machserial._given_privileges()
returns table (role text, privilege text, kind text, object text, oid oid, column_name text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select
        coalesce(r.rolname::text, 'public'), lower(a.privilege_type collate "C"), o.kind, o.object, o.oid, o.column_name
    from (
        select
            'function' as kind, p.oid::regprocedure::text as object, p.oid, null::text as column_name,
            coalesce(p.proacl, acldefault('f', p.proowner)) as acl, p.proowner as owner
        from pg_proc as p
        where
            p.pronamespace = 'machserial'::regnamespace and p.proname::text <> all(array(
                select regexp_split_to_table(s.objects, '[[:space:]]+')
                from machserial._privileges() as s where s.from_role = 'superuser' and s.kind = 'function'
            ))
        union all
        select
            case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end,
            c.oid::regclass::text, c.oid, null, c.relacl, c.relowner
        from pg_class as c
        where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
        union all
        select 'column', c.oid::regclass::text, c.oid, t.attname::text, t.attacl, c.relowner
        from pg_class as c
        inner join pg_attribute as t on t.attrelid = c.oid and t.attacl is not null and not t.attisdropped
        where c.relnamespace = 'machserial'::regnamespace
        union all
        select 'schema', n.nspname::text, n.oid, null, n.nspacl, n.nspowner
        from pg_namespace as n where n.nspname = 'machserial'
    ) as o
    cross join lateral aclexplode(o.acl) as a
    left join pg_roles as r on r.oid = a.grantee
    where
        (
            r.rolname in (
                'machserial_viewer', 'machserial_operator', 'machserial_supervisor', 'machserial_admin'
            )
            -- Whatever default privileges have given everybody as well.
            or a.grantee = 0
        )
        and a.grantee <> o.owner;
end
$$;

-- The statements that make what is given what the list says. Objects of others (a superuser's
-- machserial_plpython) are left alone by those who may not grant on them.
create function machserial._privilege_changes() returns table (statement text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    has_roles constant boolean := machserial._has_roles();
begin
    return query
    with wanted as (
        select l.* from machserial._listed_privileges() as l
        where l.role = 'public' or has_roles and l.role in (select r.rolname::text from pg_roles as r)
    ),

    given as (
        select g.* from machserial._given_privileges() as g
        where g.role = 'public' or has_roles
    ),

    changes as (
        (
            select 'grant' as verb, w.* from wanted as w
            except
            select 'grant', g.* from given as g
        )
        union all
        (
            -- What everybody may, health() tells of; privileges.sql takes it away.
            select 'revoke', g.* from given as g where g.role <> 'public'
            except
            select 'revoke', w.* from wanted as w
        )
    ),

    owned as (
        select
            c.*,
            case c.kind
                when 'function' then (select p.proowner from pg_proc as p where p.oid = c.oid)
                when 'schema' then (select n.nspowner from pg_namespace as n where n.oid = c.oid)
                else (select r.relowner from pg_class as r where r.oid = c.oid)
            end as owner
        from changes as c
    )

    select
        format(
            '%s %s%s on %s %s %s %s', o.verb, o.privilege,
            case when o.column_name is null then '' else format(' (%I)', o.column_name) end,
            case when o.kind in ('column', 'view') then 'table' else o.kind end, o.object,
            case o.verb when 'grant' then 'to' else 'from' end,
            case o.role when 'public' then o.role else quote_ident(o.role) end
        )
    from owned as o
    where pg_has_role(o.owner, 'usage')
    order by o.verb desc, o.kind, o.object, o.column_name, o.role;
end
$$;

-- Revokes what the owner's default privileges have granted on what migrations made.
create function machserial._close_to_everybody() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    relation record;
begin
    revoke all on schema machserial from public;
    for relation in
        select distinct c.oid::regclass as name, c.relkind = 'S' as is_sequence
        from pg_class as c
        cross join lateral aclexplode(c.relacl) as a
        where
            c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
            and a.grantee = 0 and pg_has_role(c.relowner, 'usage')
    loop
        if relation.is_sequence then
            execute format('revoke all on sequence %s from public', relation.name);
        else
            execute format('revoke all on table %s from public', relation.name);
        end if;
    end loop;
end
$$;

-- Makes what is given what the list says. Returns how many privileges that changed.
create function machserial._apply_privileges() returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    change record;
    changed integer := 0;
begin
    for change in select c.statement from machserial._privilege_changes() as c loop
        execute change.statement;
        changed := changed + 1;
    end loop;
    return changed;
end
$$;

-- Whether the current user may grant this role to others: from PostgreSQL 16 on CREATEROLE is not enough.
create function machserial._may_grant(role text) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select r.rolsuper or r.rolcreaterole and current_setting('server_version_num')::integer < 160000
        from pg_roles as r where r.rolname = current_user
    ) or pg_has_role(current_user, role, 'member with admin option');
end
$$;

-- Roles belong to the whole cluster: the owner of another database may have made them.
create function machserial._tell_who_may_grant(roles text[]) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    out_of_reach constant text[] := array(
        select quote_ident(r.role) from unnest(roles) as r (role) where not machserial._may_grant(r.role)
    );
    others constant text[] := array(
        select distinct m.member::regrole::text
        from pg_auth_members as m
        inner join pg_roles as r on r.oid = m.roleid
        where m.admin_option and r.rolname = any(roles)
        order by 1
    );
begin
    if cardinality(out_of_reach) > 0 then
        raise warning using
            message = format('%I may not grant %s to others', current_user, array_to_string(out_of_reach, ', ')),
            detail = format(
                'These roles belong to the whole cluster; who may grant them: superusers%s%s.',
                case
                    when current_setting('server_version_num')::integer < 160000 then ', roles with CREATEROLE'
                end,
                ', ' || nullif(array_to_string(others, ', '), '')
            ),
            hint = format(
                'One of these says: grant %s to %I with admin option; or grants a role to each login that needs it.',
                array_to_string(out_of_reach, ', '), current_user
            );
    end if;
end
$$;

-- What makes the roles that are missing, for somebody who may.
create function machserial._statements_for_roles(names text[]) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return string_agg(format('create role %I nologin', n.name), '; ')
    from unnest(names) as n (name)
    where n.name not in (select r.rolname::text from pg_roles as r);
end
$$;

create function machserial.create_roles() returns table (role text, is_new boolean)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    names constant text[] :=
        '{machserial_viewer,machserial_operator,machserial_supervisor,machserial_admin}'::text[];
    known record;
begin
    perform machserial._require_owners_rights('machserial.create_roles()');
    foreach role in array names loop
        select r.rolcanlogin or r.rolsuper or r.rolbypassrls as is_strange into known
        from pg_roles as r where r.rolname = create_roles.role;
        is_new := not found;
        if known.is_strange then
            raise exception using
                errcode = 'object_not_in_prerequisite_state',
                message = format('role %I is not a group', role),
                detail = 'It may log in, or is a superuser, or goes past row-level security.',
                hint = format('See whose it is. To use it: alter role %I nologin nosuperuser nobypassrls;', role);
        elsif is_new then
            begin
                execute format('create role %I nologin', role);
                execute format('comment on role %I is %L', role, 'See machserial.create_roles().');
            exception
                -- In another database of the cluster, at the same time.
                when duplicate_object or unique_violation then is_new := false;
                when insufficient_privilege then
                    raise exception using
                        errcode = 'insufficient_privilege',
                        message = format('role %I cannot be made', role),
                        detail = format('%I lacks CREATEROLE: roles belong to the whole cluster.', current_user),
                        hint = format(
                            'A superuser runs: alter role %I createrole; or: %s; then call '
                            'machserial.create_roles() again.', current_user, machserial._statements_for_roles(names)
                        );
            end;
        end if;
        return next;
    end loop;
    grant usage on schema machserial to machserial_viewer;
    perform machserial._apply_privileges();
    perform machserial._tell_who_may_grant(names);
end
$$;

comment on function machserial.create_roles() is
'Makes the roles machserial_viewer (reads), machserial_operator (also runs the workflows),
machserial_supervisor (also configures formats, triggers and rules, and resolves conflicts) and
machserial_admin (also migrates and resets), where they are missing, and gives them their rights in
this database, which migrate() then keeps up to date. A login gets them by being granted one of the roles. Whatever else these four are granted on
machserial''s own objects is taken away: grant more to roles of your own. is_new: whether the role was made
now. A WARNING says who may grant the roles to others, if you may not.
Errors: 42501 not the owner, or a role is missing and you lack CREATEROLE; 55000 a role of this name may log
in,
is a superuser, or goes past row-level security.';

-- Ownership

-- Whose the tables are, where that is not the owner of the code: PostgreSQL gives an extension to the role
-- that restores it. Else null.
create function machserial._owner_of_tables() returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select pg_get_userbyid(c.relowner)
        from pg_class as c
        where
            c.oid = to_regclass('machserial.schema_migrations')
            and c.relowner <> (
                select p.proowner from pg_proc as p where p.oid = 'machserial.migrate'::regproc
            )
    );
end
$$;

create function machserial._tell_two_owners() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    owner_of_tables constant name := machserial._owner_of_tables();
begin
    if owner_of_tables is not null then
        raise warning using
            message = format('the code of machserial does not belong to %I, as the tables do', owner_of_tables),
            detail = 'A superuser has restored them: PostgreSQL gives an extension to the role that restores it.',
            hint = format('As a superuser: select machserial.change_owner(%L);', owner_of_tables);
    end if;
end
$$;

create function machserial.change_owner(new_owner text) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    given_to constant regrole := machserial._known_role(new_owner);
    old_owner constant name := machserial._owner();
    foreign_object record;
    changed integer := 0;
begin
    for foreign_object in
        select format('alter %s %s owner to %I', o.kind, o.name, new_owner) as statement
        from (
            select 1 as place, 'schema' as kind, n.nspname::text as name, n.nspowner as owner, n.oid
            from pg_namespace as n where n.nspname = 'machserial'
            union all
            select
                2, case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end,
                c.oid::regclass::text, c.relowner, c.oid
            from pg_class as c
            where
                c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
                -- Sequences of ids go with their table.
                and not exists (
                    select from pg_depend as d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i'
                        and d.refclassid = 'pg_class'::regclass and c.relkind = 'S'
                )
            union all
            select 3, 'type', t.oid::regtype::text, t.typowner, t.oid
            from pg_type as t
            inner join pg_class as c on c.oid = t.typrelid and c.relkind = 'c'
            where t.typnamespace = 'machserial'::regnamespace
            union all
            select 4, 'routine', p.oid::regprocedure::text, p.proowner, p.oid
            from pg_proc as p where p.pronamespace = 'machserial'::regnamespace
        ) as o
        where
            o.owner <> given_to
            -- What is machserial_plpython's stays a superuser's.
            and not exists (
                select from pg_depend as d
                inner join pg_extension as e on e.oid = d.refobjid
                where d.objid = o.oid and d.deptype = 'e' and d.refclassid = 'pg_extension'::regclass
                    and e.extname <> 'machserial'
            )
        order by o.place, o.name
    loop
        execute foreign_object.statement;
        changed := changed + 1;
    end loop;
    if changed > 0 then
        perform machserial._audit(
            'OWNER_CHANGED', null, null, jsonb_build_object('old', old_owner, 'new', new_owner)
        );
    end if;
    return changed;
end
$$;

comment on function machserial.change_owner(text) is
'Gives everything in the schema machserial to another owner: after a superuser has restored an ordinary
owner''s database, whose extension is the superuser''s then, or when another role takes over. A superuser calls it, or
an owner who may SET ROLE to the new one. Returns how many objects it changed.
Errors: 42704 unknown role; 42501 you may not give them away.';

create function machserial._known_role(role text) returns regrole
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    known constant oid := (select r.oid from pg_roles as r where r.rolname::text = _known_role.role);
begin
    if known is null then
        raise exception using
            errcode = 'undefined_object',
            message = format('role %s is unknown', coalesce(quote_literal(left(role, 255)), 'null')),
            detail = 'The cluster has no role of this name.',
            hint = 'Make it with create role, or write it as it is in pg_roles.';
    end if;
    return known::regrole;
end
$$;
