-- Which sites a caller may see.
--
-- A role is limited if it, or a role whose privileges it has, may use the type limited_to_sites: that is
-- asked of PostgreSQL's own caches, without a query, and a dump carries it. What a limited role may see are
-- the rows of site_grants. Policies and views ask _is_unlimited() while they are planned, so that the plans
-- of all others are what they would be without any policy.

-- The privilege to use it is the mark of a limited role. Nothing else uses it. The owner keeps the privilege:
-- policies and views name the type, and PostgreSQL refuses them where their owner may not use it.
create type machserial.limited_to_sites as (
    role text
);

comment on type machserial.limited_to_sites is
'A role that may use this type is limited to the sites that grant_site() gave. grant_site() grants the use,
lift_site_limits() revokes it.';

-- The sites of one role; null if it is not limited. how: USAGE for what it has now, MEMBER for what it may
-- become by SET ROLE as well.
create function machserial._sites_of_role(role name, how text) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    known record;
begin
    select
        r.oid,
        -- Roles that may act as the owner, and those that no policy limits.
        r.rolsuper or r.rolbypassrls or pg_has_role(r.oid, p.proowner, 'usage')
        or not has_type_privilege(r.oid, 'machserial.limited_to_sites'::regtype, 'usage') as is_unlimited
    into known
    from pg_roles as r
    cross join pg_proc as p
    where r.rolname = _sites_of_role.role and p.oid = 'machserial.migrate'::regproc;
    if known.is_unlimited then
        return null;
    end if;
    return array(
        select distinct g.site_id from machserial.site_grants as g
        where pg_has_role(known.oid, g.role::oid, how)
        order by g.site_id
    );
end
$$;

-- What may be seen by who acts: the limits of the role in force and of the login hold both, so that neither
-- SET ROLE nor RESET ROLE gets out of them. Null: no limits. Of a role that the session has no part in, such
-- as the owner of a function that runs with its owner's rights, nobody is told the sites.
create function machserial._site_limits(acting name) returns text[]
language plpgsql stable security definer parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    of_login constant text[] := machserial._sites_of_role(session_user, 'member');
    of_acting text[];
begin
    if acting = session_user then
        return machserial._sites_of_role(session_user, 'usage');
    end if;
    of_acting := machserial._sites_of_role(acting, 'usage');
    if of_acting is not null and acting <> current_setting('role')
        and not pg_has_role(session_user, acting, 'member')
    then
        return '{}'::text[];
    elsif of_acting is null or of_login is null then
        return coalesce(of_acting, of_login);
    end if;
    return array(select s from unnest(of_acting) as s where s = any(of_login));
end
$$;

-- Says IMMUTABLE, which it is not: so it is asked when a statement is planned, and what a policy adds for
-- those who are not limited is gone from the plan. PostgreSQL plans anew when another role acts; when a role
-- becomes limited or no longer is, _mark_limited() sees to it. mark: limited_to_sites, handed over because
-- the caller may not be able to look names up in this schema.
create function machserial._is_unlimited(mark regtype) returns boolean
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if has_type_privilege(current_user, mark, 'usage') or has_type_privilege(session_user, mark, 'usage') then
        return machserial._site_limits(current_user) is null;
    end if;
    return true;
end
$$;

-- The sites that the acting role may see; asked once a statement.
create function machserial._own_sites() returns text[]
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return machserial._site_limits(current_user);
end
$$;

-- Whether the caller sees a serial, or a block. For the policies of tables that refer to them: a subquery in
-- a policy has the snapshot of the command and misses what a trigger or a WITH query of the same command has
-- written; a VOLATILE function looks anew.
create function machserial._sees_serial(serial_id bigint) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (select from machserial.serials as s where s.id = _sees_serial.serial_id);
end
$$;

create function machserial._sees_block(block_id bigint) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (select from machserial.number_blocks as b where b.id = _sees_block.block_id);
end
$$;

-- Whether it is worth asking _caller_sites(). For functions that run with the owner's rights, in which
-- current_user is the owner: the owner may use the type as well, and is never limited. Inlined.
create function machserial._may_be_limited() returns boolean
language sql stable parallel safe
return current_setting('is_superuser') = 'off' and (
    session_user <> current_user
    and has_type_privilege(session_user, 'machserial.limited_to_sites'::regtype, 'usage')
    or current_setting('role') not in ('none', current_user)
    and has_type_privilege(current_setting('role')::name, 'machserial.limited_to_sites'::regtype, 'usage')
);

-- The sites that the session's caller may see, for functions that run with the owner's rights; null: all.
create function machserial._caller_sites() returns text[]
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if machserial._may_be_limited() then
        return machserial._site_limits(coalesce(nullif(current_setting('role'), 'none')::name, session_user));
    end if;
    return null;
end
$$;

-- For what concerns the data of all sites at once.
create function machserial._require_all_sites(what text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    own constant text[] := machserial._caller_sites();
begin
    if own is not null then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('%s is for roles that are not limited to sites', what),
            detail = format('The role is limited to: %s.', coalesce(nullif(array_to_string(own, ', '), ''), 'none')),
            hint = 'It concerns the data of all sites: ask somebody who sees them.';
    end if;
end
$$;

-- For functions that run with the owner's rights: the owner calls them, a superuser, or an administrator.
create function machserial._require_administrator(what text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    caller constant name := coalesce(nullif(current_setting('role'), 'none')::name, session_user);
    owner constant name := machserial._owner();
begin
    perform machserial._require_all_sites(what);
    if pg_has_role(caller, owner, 'usage') or exists (
        select from pg_roles as r
        where
            r.rolname = 'machserial_admin' and pg_has_role(caller, r.oid, 'usage')
            and has_function_privilege(r.oid, 'machserial.migrate'::regproc, 'execute')
    ) then
        return;
    end if;
    raise exception using
        errcode = 'insufficient_privilege',
        message = format('%s is for the owner of machserial and its administrators', what),
        detail = format('The owner is %I, the current user is %I.', owner, caller),
        hint = format(
            'Run it as the owner: set role %I; or as a member of machserial_admin, which create_roles() '
            'makes.', owner
        );
end
$$;
