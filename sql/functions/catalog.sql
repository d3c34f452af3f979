-- Sites and parts: what gets numbered, and where.

-- What somebody gave, as a message can hold it: a text may be as long as a gigabyte.
create function machserial._shown(given text) returns text
language sql immutable parallel safe
return case when length(given) > 255 then left(given, 255) || '...' else given end;

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

create function machserial._require_text(argument text, value text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(btrim(value), '') = '' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s is missing', argument),
            detail = format('%s is %s.', argument, coalesce(quote_literal(machserial._shown(value)), 'null')),
            hint = format('Give %s as a text that is not empty.', argument);
    end if;
end
$$;

-- For what is looked up by an index, which has no room for a text of any length. Null passes.
create function machserial._require_short(argument text, value text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if length(value) > 255 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s is too long', argument),
            detail = format('It has %s characters: %L.', length(value), machserial._shown(value)),
            hint = format('Give a %s of at most 255 characters.', argument);
    end if;
end
$$;

-- Raises 54000 about a text of which only so much is kept.
create function machserial._raise_too_long(what text, value text, longest integer, unit text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'program_limit_exceeded',
        message = format('%s is too long', what),
        detail = format(
            'It has %s %s, %s is the most: %L.',
            case unit when 'bytes' then octet_length(value) else length(value) end, unit, longest,
            machserial._shown(value)
        ),
        hint = 'Keep long texts elsewhere, and give what refers to them.';
end
$$;

create function machserial._raise_no_object(context text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'check_violation',
        message = 'the context is no JSON object',
        detail = format('It is %s.', machserial._shown(context)),
        hint = 'Give an object such as {"lot_number": "L-7"}.',
        constraint = 'serials_context_is_an_object', table = 'serials', schema = 'machserial';
end
$$;

-- The trigger of serials; its condition has found a context that is no object.
create function machserial._refuse_context() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._raise_no_object(new.context::text);
    return null;
end
$$;

-- The trigger of tables that keep a context, a reason or notes; its condition has found one that is too long.
create function machserial._refuse_long_text() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    kept constant jsonb := to_jsonb(new);
    fault record;
begin
    select k.key, k.value into fault
    from jsonb_each_text(kept) as k
    where
        k.key = 'context' and octet_length(k.value) > 8192
        or (k.key = 'notes' or k.key like '%reason') and length(k.value) > 2000
    order by k.key
    limit 1;
    if fault.key = 'context' then
        perform machserial._raise_too_long('the context', fault.value, 8192, 'bytes');
    elsif fault.key is not null then
        perform machserial._raise_too_long(fault.key, fault.value, 2000, 'characters');
    end if;
    return new;
end
$$;

-- The session's actor and reason, which become part of what is written.
create function machserial._require_short_actor() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    actor constant text := current_setting('machserial.actor', true);
    reason constant text := current_setting('machserial.reason', true);
begin
    if length(actor) > 255 then
        perform machserial._raise_too_long('machserial.actor', actor, 255, 'characters');
    elsif length(reason) > 2000 then
        perform machserial._raise_too_long('machserial.reason', reason, 2000, 'characters');
    end if;
end
$$;

-- A time that programs can read: not infinity, and no year before 1 or beyond 9999. Tables say the same.
create function machserial._require_time(argument text, value timestamptz) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if value <= '0001-01-02 00:00:00+00' or value >= '9999-12-31 00:00:00+00' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s cannot be %s', argument, value),
            detail = 'It is later than the first day of the year 1, and earlier than the last of the year 9999.',
            hint = format('Give a day that has been or will be, or leave %s out.', argument);
    end if;
end
$$;

-- A name by which something is known.
create function machserial._require_name(argument text, value text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_short(argument, value);
    perform machserial._require_text(argument, value);
end
$$;

create function machserial._raise_unknown(kind text, id text, remedy text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'foreign_key_violation',
        message = format('%s %s is unknown', kind, coalesce(quote_literal(machserial._shown(id)), 'null')),
        detail = format('No %s has this id.', kind),
        hint = format('Make it known with %s(...).', remedy);
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

create function machserial._raise_absent(kind text, id bigint, relation text, hint text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'no_data_found',
        message = format('there is no %s with id %s', kind, coalesce(id::text, 'null')),
        detail = format('machserial.%I has no such row.', relation),
        hint = hint;
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
