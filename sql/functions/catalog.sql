-- Sites and parts: what gets numbered, and where.

-- Whether the scopes of a serial may be these. Inlined.
create function machserial._are_scopes(scopes text[]) returns boolean
language sql immutable parallel safe
return scopes <@ '{ENTERPRISE,SITE,PART_TYPE}'::text[] and array_ndims(scopes) is not distinct from 1;

create function machserial._known_scopes(scopes text[]) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    known constant text[] := '{ENTERPRISE,SITE,PART_TYPE}'::text[];
    wanted constant text[] := array(select upper(s collate "C") from unnest(scopes) as s);
begin
    if wanted <@ known and cardinality(wanted) > 0 and array_ndims(scopes) = 1 then
        return array(select k from unnest(known) as k where k = any(wanted));
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = 'scopes must name one or more of ENTERPRISE, SITE, PART_TYPE',
        detail = format('Given: %s.', coalesce(machserial._shown(scopes::text), 'null')),
        hint = 'Leave scopes out for the part''s default, {SITE,PART_TYPE}.';
end
$$;

-- A role that is limited to sites is not told whether there are others.
create function machserial._raise_unknown_site(site_id text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if machserial._caller_sites() is not null then
        raise exception using
            errcode = 'foreign_key_violation',
            message = format('site %s is unknown', coalesce(quote_literal(machserial._shown(site_id)), 'null')),
            detail = 'None of the sites of this role has this id.',
            hint = format(
                'Name one of them: select id from machserial.sites; or have it granted: '
                'grant_site(..., %L).', machserial._shown(site_id)
            );
    end if;
    perform machserial._raise_unknown('site', site_id, 'machserial.register_site');
end
$$;

create function machserial._require_known_part(part_id text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from machserial.parts as p where p.id = _require_known_part.part_id) then
        perform machserial._raise_unknown('part', part_id, 'machserial.register_part');
    end if;
end
$$;

create function machserial._require_known_site(site_id text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from machserial.sites as s where s.id = _require_known_site.site_id) then
        perform machserial._raise_unknown_site(site_id);
    end if;
end
$$;

-- What part and site imply for a serial; 23503 if there is no such part or site.
create function machserial._place(
    part_id text, inout site_id text, out part_type text, out scopes text[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_known_part(part_id);
    site_id := coalesce(site_id, 'DEFAULT');
    perform machserial._require_known_site(site_id);
    select p.part_type, p.default_scopes into part_type, scopes
    from machserial.parts as p where p.id = _place.part_id;
end
$$;

-- For tables whose rows stay on record. Its trigger says what is kept, and what to do instead.
create function machserial._refuse_removal() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('%s are kept', tg_argv[0]),
        detail = format('%s on machserial.%I.', tg_op, tg_table_name),
        hint = tg_argv[1];
end
$$;

create function machserial._require_time_zone(site_id text, time_zone text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_short('time_zone', time_zone);
    if not exists (
        select from pg_timezone_names as z
        where lower(z.name collate "C") = lower(_require_time_zone.time_zone collate "C")
    ) then
        perform machserial._raise_unknown_time_zone(site_id, time_zone);
    end if;
end
$$;

create function machserial.register_site(
    site_id text, name text default null, time_zone text default null
)
returns machserial.site
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    registered machserial.site;
begin
    perform machserial._require_name('site_id', site_id);
    if time_zone is not null then
        perform machserial._require_time_zone(site_id, time_zone);
    end if;
    insert into machserial.sites as s (id, name, time_zone)
    values (register_site.site_id, register_site.name, coalesce(register_site.time_zone, 'UTC'))
    on conflict on constraint sites_pkey do update
    set
        name = coalesce(register_site.name, s.name),
        time_zone = coalesce(register_site.time_zone, s.time_zone)
    returning s.id, s.name, s.time_zone, s.created_at into registered;
    return registered;
end
$$;

comment on function machserial.register_site(text, text, text) is
'Registers a site, or changes the one with this id; what is left out stays. time_zone: IANA name (a new site:
UTC); date tokens and resets follow it. site_id: at most 255 characters.
Errors: 22023 no site_id or one that is too long, unknown time zone.';

create function machserial.register_part(
    part_id text, part_type text, name text default null, scopes text[] default null
)
returns machserial.part
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    given_scopes constant text[] := case when scopes is not null then machserial._known_scopes(scopes) end;
    registered machserial.part;
begin
    perform machserial._require_name('part_id', part_id);
    perform machserial._require_name('part_type', part_type);
    insert into machserial.parts as p (id, part_type, name, default_scopes)
    values (
        register_part.part_id, register_part.part_type, register_part.name,
        coalesce(given_scopes, '{SITE,PART_TYPE}')
    )
    on conflict on constraint parts_pkey do nothing;
    -- The type is part of a key: touched only if it changes, or everybody who numbers this part would wait.
    update machserial.parts as p set part_type = register_part.part_type
    where p.id = register_part.part_id and p.part_type <> register_part.part_type;
    -- Nor is anything else written that stays: a kept snapshot takes any write for a change.
    update machserial.parts as p
    set
        name = coalesce(register_part.name, p.name),
        default_scopes = coalesce(given_scopes, p.default_scopes)
    where
        p.id = register_part.part_id
        and (
            p.name is distinct from coalesce(register_part.name, p.name)
            or p.default_scopes <> coalesce(given_scopes, p.default_scopes)
        );
    select p.id, p.part_type, p.name, p.default_scopes, p.created_at into registered
    from machserial.parts as p
    where p.id = register_part.part_id;
    return registered;
exception when foreign_key_violation then
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('part %s has serials: its part_type cannot change', part_id),
        detail = format(
            'The new part_type is %L; its serials hold their numbers under the present one.', part_type
        ),
        hint = 'Register a new part id for the new type.';
end
$$;

comment on function machserial.register_part(text, text, text, text[]) is
'Registers a part, or changes the one with this id; what is left out stays. scopes: where its numbers must not
repeat, of ENTERPRISE, SITE, PART_TYPE (a new part: {SITE,PART_TYPE}). Other scopes go to the part''s serials in
the same statement. That waits for all transactions that write serials, and they wait for it.
part_id and part_type: at most 255 characters.
Errors: 22023 a missing, unknown or too long argument; 55000 another part_type for a part that has serials; with
other scopes 23505 for numbers that would be claimed twice (the detail names them), 42501 for a role that is limited
to sites, 0A000 in REPEATABLE READ or SERIALIZABLE.';

-- 23503, as for a site that does not exist.
create function machserial._require_visible_site(site_id text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if site_id <> '' and site_id <> all(machserial._caller_sites()) then
        perform machserial._raise_unknown_site(site_id);
    end if;
end
$$;
