-- Limits by site: granting and revoking the sites of a role.

create type machserial.role_limit as (
    role text,
    site_ids text[]
);

comment on type machserial.role_limit is 'A role that is limited to sites, and to which.';

create function machserial._refuse_grant_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = 'a granted site is not changed into another',
        detail = format('%s on machserial.%I.', tg_op, tg_table_name),
        hint = 'Call machserial.grant_site(role, site_id) and machserial.revoke_site(role, site_id).';
end
$$;

-- Plans that were made for a role while it was not limited, or while it was, hold no longer. A grant that
-- changes nothing tells every session so, and locks nothing.
create function machserial._forget_plans() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    relation record;
begin
    for relation in
        select c.oid::regclass as name, pg_get_userbyid(c.relowner) as owner
        from pg_class as c
        where
            c.relnamespace = 'machserial'::regnamespace
            and (c.relrowsecurity or c.relkind = 'v')
        order by c.oid
    loop
        execute format('grant select on %s to %I', relation.name, relation.owner);
    end loop;
end
$$;

-- A role that is granted a site is limited from then on.
create function machserial._mark_limited() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    limited record;
    is_marked boolean := false;
begin
    for limited in
        select distinct r.rolname, r.rolsuper or r.rolbypassrls or pg_has_role(r.oid, current_user, 'usage') as is_free
        from site_grants_now as g
        inner join pg_roles as r on r.oid = g.role
        where r.oid not in (
            select a.grantee from pg_type as t
            cross join lateral aclexplode(t.typacl) as a
            where t.oid = 'machserial.limited_to_sites'::regtype and a.grantee <> t.typowner
        )
    loop
        if limited.is_free then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('role %I cannot be limited to sites', limited.rolname),
                detail = 'It is a superuser, goes past row-level security, or may act as the owner of machserial.',
                hint = 'Limit a role without these rights, and let people log in with that.';
        end if;
        execute format('grant usage on type machserial.limited_to_sites to %I', limited.rolname);
        is_marked := true;
    end loop;
    if is_marked then
        perform machserial._forget_plans();
    end if;
    return null;
end
$$;

-- Roles that were granted sites and lack the mark: it went with the type, or was taken away.
create function machserial._unlimited_roles() returns table (role regrole)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select distinct g.role
    from machserial.site_grants as g
    inner join pg_roles as r on r.oid = g.role
    where g.role not in (
        select a.grantee from pg_type as t
        cross join lateral aclexplode(t.typacl) as a
        where t.oid = 'machserial.limited_to_sites'::regtype
    );
end
$$;

create function machserial.grant_site(role text, site_id text) returns machserial.role_limit
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known regrole;
begin
    perform machserial._require_administrator('machserial.grant_site()');
    known := machserial._known_role(grant_site.role);
    perform machserial._require_known_site(grant_site.site_id);
    insert into machserial.site_grants (role, site_id) values (known, grant_site.site_id)
    on conflict on constraint site_grants_pkey do nothing;
    return (grant_site.role, machserial._granted_sites(known))::machserial.role_limit;
end
$$;

comment on function machserial.grant_site(text, text) is
'Limits a role, a login or a group, to this site and those that it was granted before: neither it nor its
members read or write rows of others, by functions, views or SQL. What it may do there, its other rights say:
grant it machserial_operator, or another one of the four. Returns its sites.
Errors: 22023 a superuser, a role with BYPASSRLS or one that may act as the owner of machserial; 23503 unknown
site; 42501 neither the owner nor an administrator; 42704 unknown role.';

create function machserial._granted_sites(role regrole) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select g.site_id from machserial.site_grants as g where g.role = _granted_sites.role order by g.site_id
    );
end
$$;

create function machserial.revoke_site(role text, site_id text) returns machserial.role_limit
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known regrole;
begin
    perform machserial._require_administrator('machserial.revoke_site()');
    known := machserial._known_role(revoke_site.role);
    delete from machserial.site_grants as g where g.role = known and g.site_id = revoke_site.site_id;
    if not found then
        raise exception using
            errcode = 'no_data_found',
            message = format('role %s was not granted site %s', role, coalesce(quote_literal(site_id), 'null')),
            detail = format('Granted: %s.', machserial._granted_sites(known)),
            hint = 'See select * from machserial.limited_roles().';
    end if;
    return (revoke_site.role, machserial._granted_sites(known))::machserial.role_limit;
end
$$;

comment on function machserial.revoke_site(text, text) is
'Takes a site from a limited role. Without any site it sees none: lift_site_limits(role) ends its limits.
Returns the sites that it has left.
Errors: 42501 neither the owner nor an administrator; 42704 unknown role; P0002 it was not granted this
site.';

create function machserial.lift_site_limits(role text) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known regrole;
    is_limited boolean;
begin
    perform machserial._require_administrator('machserial.lift_site_limits()');
    known := machserial._known_role(lift_site_limits.role);
    is_limited := exists (select from machserial.limited_roles() as l where l.role = lift_site_limits.role);
    delete from machserial.site_grants as g where g.role = known;
    if is_limited then
        execute format('revoke usage on type machserial.limited_to_sites from %I', lift_site_limits.role);
        perform machserial._audit('SITE_LIMITS_LIFTED', null, null, jsonb_build_object('role', known));
        perform machserial._forget_plans();
    end if;
    return is_limited;
end
$$;

comment on function machserial.lift_site_limits(text) is
'From now on a role sees all sites, unless a role that it is a member of is limited. Returns whether it was
limited.
Errors: 42501 neither the owner nor an administrator; 42704 unknown role.';

create function machserial.limited_roles() returns setof machserial.role_limit
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_administrator('machserial.limited_roles()');
    return query
    select r.rolname::text, machserial._granted_sites(r.oid::regrole)
    from pg_type as t
    cross join lateral aclexplode(t.typacl) as a
    inner join pg_roles as r on r.oid = a.grantee
    where t.oid = 'machserial.limited_to_sites'::regtype and a.grantee <> t.typowner
    order by r.rolname;
end
$$;

comment on function machserial.limited_roles() is
'Roles that are limited to sites, with their sites. Members of these roles are limited with them.
Errors: 42501 neither the owner nor an administrator.';
