-- What every serial goes through that is put on record, by whatever statement: it must be sound, refer to
-- what there is, and has its event.
--
-- These rules are a trigger and not constraints because of what constraints cost. PostgreSQL reads each CHECK
-- anew from its catalog for every statement, and a foreign key asks for every row, and locks the row of the
-- site and of the part, which all writers share. docs/performance.md has the figures. Here each statement is
-- looked at as a whole, and the other side, that a part or a site is not taken away under its serials, is a
-- trigger of those tables.

create function machserial._raise_no_part(part_id text, part_type text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    known constant text := (
        select p.part_type from machserial.parts as p where p.id = _raise_no_part.part_id
    );
begin
    raise exception using
        errcode = 'foreign_key_violation',
        message = case when known is null then format('part %L is unknown', left(part_id, 255))
            else format('part %L is not of part_type %L', left(part_id, 255), left(part_type, 255)) end,
        detail = case when known is null then 'No part has this id.'
            else format('It is of part_type %L.', known) end,
        hint = case when known is null then 'Make it known with machserial.register_part(...).'
            else 'Leave part_type out: it is taken from the part.' end,
        constraint = 'serials_part_fkey', table = 'serials', schema = 'machserial';
end
$$;

create function machserial._raise_no_site(site_id text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'foreign_key_violation',
        message = format('site %L is unknown', left(site_id, 255)),
        detail = 'No site has this id.',
        hint = 'Make it known with machserial.register_site(...).',
        constraint = 'serials_site_id_fkey', table = 'serials', schema = 'machserial';
end
$$;

create function machserial._raise_no_format(format_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'foreign_key_violation',
        message = format('format %s is unknown', format_id),
        detail = 'machserial.serial_formats has no such row.',
        hint = 'Leave format_id out for a number that no format has issued.',
        constraint = 'serials_format_id_fkey', table = 'serials', schema = 'machserial';
end
$$;

-- Raises 23503 unless all that a serial refers to is there. Within a kept snapshot, which may be older than
-- what has been taken away since, the rows themselves are asked: that raises 40001 if they are gone.
create function machserial._require_locked_references(
    part_id text, part_type text, site_id text, format_id bigint
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- FOR SHARE: the part's scopes matter as well.
    perform from machserial.parts as p
    where p.id = _require_locked_references.part_id and p.part_type = _require_locked_references.part_type
    for share;
    if not found then
        perform machserial._raise_no_part(part_id, part_type);
    end if;
    perform from machserial.sites as s where s.id = _require_locked_references.site_id for key share;
    if not found then
        perform machserial._raise_no_site(site_id);
    end if;
    if format_id is not null and not exists (
        select from machserial.serial_formats as f where f.id = _require_locked_references.format_id
    ) then
        perform machserial._raise_no_format(format_id);
    end if;
end
$$;

-- Raises what is wrong with the texts of a new serial, if one of them is.
create function machserial._require_texts_of_serial(context jsonb, created_by text, status_reason text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(context) <> 'object' then
        perform machserial._raise_no_object(context::text);
    elsif octet_length(context::text) > 8192 then
        perform machserial._raise_too_long('the context', context::text, 8192, 'bytes');
    elsif length(created_by) > 255 then
        perform machserial._raise_too_long('created_by', created_by, 255, 'characters');
    elsif length(status_reason) > 2000 then
        perform machserial._raise_too_long('status_reason', status_reason, 2000, 'characters');
    end if;
end
$$;

-- Details of the event of a new serial that is not as nearly all are; raises what is wrong with it. What goes
-- without saying is not said: serials are ACTIVE, those from vendors PENDING.
create function machserial._unusual_details(
    serial_number text, source text, status text, claim_released boolean, scopes text[], context jsonb,
    created_by text, status_reason text
)
returns jsonb
-- It only raises or tells; a volatile function would keep the planner from reading new serials directly.
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not machserial._is_serial_number(serial_number, machserial._serial_characters())
        or source <> all('{SYSTEM_GENERATED,MANUAL,VENDOR,LATE_ASSIGNMENT,IMPORT}'::text[])
        or status <> all('{ACTIVE,PENDING,CONFLICT,REJECTED,RETIRED,INVALID}'::text[])
        or claim_released and status not in ('RETIRED', 'INVALID')
        or not machserial._are_scopes(scopes)
    then
        perform machserial._refuse_serial(serial_number, source, status, claim_released, scopes);
    end if;
    perform machserial._require_texts_of_serial(context, created_by, status_reason);
    return nullif(jsonb_strip_nulls(jsonb_build_object(
        'status', nullif(status, case source when 'VENDOR' then 'PENDING' else 'ACTIVE' end),
        'claim_released', nullif(claim_released, false)
    )), '{}');
end
$$;

-- The same, asked only where a serial is not as nearly all are. An SQL function, so that it becomes part of
-- the statement that uses it, whose time goes by how long its expressions are.
create function machserial._admission_details(
    serial_number text, source text, status text, claim_released boolean, scopes text[], context jsonb,
    created_by text, status_reason text
)
returns jsonb
language sql stable
return case
    when
        octet_length(serial_number) > 255 or serial_number collate "C" !~ '^[!-~]+( [!-~]+)*$'
        or status <> case source when 'VENDOR' then 'PENDING' else 'ACTIVE' end
        or source <> all('{SYSTEM_GENERATED,MANUAL,VENDOR,LATE_ASSIGNMENT,IMPORT}'::text[])
        or claim_released or not machserial._are_scopes(scopes)
        or octet_length(concat(created_by, status_reason, context)) > 255 or jsonb_typeof(context) <> 'object'
        then machserial._unusual_details(
            serial_number, source, status, claim_released, scopes, context, created_by, status_reason
        )
end;

create function machserial._admit_new_serials() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    given record;
    missing record;
begin
    -- The commonest insert of all, serials whose parts have numbering plans, is one statement and nothing
    -- else: a further expression costs 2 us in each transaction. The plans vouch for all that there is to ask:
    -- their foreign keys are those that the serials would have, and while they are valid there is a partition.
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, details
    )
    select
        case n.source when 'SYSTEM_GENERATED' then 'SERIAL_GENERATED' else 'SERIAL_REGISTERED' end,
        current_setting('application_name'), n.id, n.serial_number, n.part_id, n.site_id,
        machserial._admission_details(
            n.serial_number, n.source, n.status, n.claim_released, n.scopes, n.context, n.created_by,
            n.status_reason
        )
    from new_serials as n
    where
        -- Where a setting may be too long for an event, it is examined below.
        current_setting('transaction_isolation') = 'read committed'
        and octet_length(current_setting('machserial.reason', true)) > 2000 is not true
        and not exists (
            select from new_serials as o
            where
                o.status = 'CONFLICT' or o.source = 'VENDOR' or not exists (
                    select from machserial.numbering_plans as p
                    where
                        p.part_id = o.part_id and p.site_id = o.site_id and p.part_type = o.part_type
                        and (o.format_id is null or p.format_id = o.format_id) and p.valid_until > now()
                    offset 0
                )
        );
    if found then
        -- Nothing, without an expression.
        return new;
    end if;
    perform machserial._require_audit_partition();
    -- A serial that was received from a vendor has the event VENDOR_RECEIVED. Materialized: it is examined too.
    with admitted as materialized (
        select
            n.id, n.serial_number, n.part_id, n.site_id, n.source,
            machserial._admission_details(
                n.serial_number, n.source, n.status, n.claim_released, n.scopes, n.context, n.created_by,
                n.status_reason
            ) as details
        from new_serials as n
    )

    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, details
    )
    select
        case a.source when 'SYSTEM_GENERATED' then 'SERIAL_GENERATED' else 'SERIAL_REGISTERED' end,
        current_setting('application_name'), a.id, a.serial_number, a.part_id, a.site_id, a.details
    from admitted as a
    where
        a.source <> 'VENDOR'
        or not exists (select from machserial.vendor_serials as v where v.id = a.id offset 0);
    select
        n.part_id, n.part_type, n.site_id, n.format_id, n.status,
        exists (
            select from new_serials as o
            where
                o.part_id <> n.part_id or o.part_type <> n.part_type or o.site_id <> n.site_id
                or o.format_id is distinct from n.format_id or o.status <> n.status
        ) as is_mixed
    into given
    from new_serials as n
    limit 1;
    for missing in
        select r.part_id, r.part_type, r.site_id, r.format_id
        from (
            select given.part_id, given.part_type, given.site_id, given.format_id
            where not given.is_mixed
            union
            select n.part_id, n.part_type, n.site_id, n.format_id from new_serials as n where given.is_mixed
        ) as r
        where
            current_setting('transaction_isolation') <> 'read committed'
            or not exists (
                select from machserial.parts as p
                where p.id = r.part_id and p.part_type = r.part_type
                offset 0
            )
            or not exists (select from machserial.sites as s where s.id = r.site_id offset 0)
            or r.format_id is not null and not exists (
                select from machserial.serial_formats as f where f.id = r.format_id offset 0
            )
    loop
        perform machserial._require_locked_references(
            missing.part_id, missing.part_type, missing.site_id, missing.format_id
        );
    end loop;
    if given.is_mixed or given.status = 'CONFLICT' then
        insert into machserial.serial_conflicts (
            serial_number, part_id, site_id, scopes, source, serial_id, conflicting_serial_ids,
            conflicting_scopes
        )
        select
            n.serial_number, n.part_id, n.site_id, n.scopes, n.source, n.id,
            coalesce(c.serial_ids, '{}'), coalesce(c.claimed_scopes, '{}')
        from new_serials as n
        cross join lateral machserial._claims_for_number(n.serial_number, n.scopes, n.site_id, n.part_type) as c
        where n.status = 'CONFLICT';
    end if;
    return null;
end
$$;

-- A part or a site is not taken away under its serials. The lock waits for all who are writing serials, and
-- lets nobody begin before this transaction has ended: so each of the two sees what the other has done.
create function machserial._refuse_orphaned_serials() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
-- But for a site, which no index leads to: then all serials are read.
set enable_seqscan = off
set jit = off
as $$
declare
    kind constant text := case tg_table_name when 'sites' then 'site' else 'part' end;
    example record;
begin
    perform machserial._require_read_committed(
        format('a %s is deleted or renamed', kind),
        'A snapshot that is kept does not show the serials of others that refer to it.'
    );
    lock table machserial.serials in share mode;
    if kind = 'site' then
        select s.serial_number, s.id into example from machserial.serials as s
        where s.site_id = old.id limit 1;
    else
        select s.serial_number, s.id into example from machserial.serials as s
        where s.part_id = old.id and s.part_type = to_jsonb(old) ->> 'part_type' limit 1;
    end if;
    if example.id is not null then
        raise exception using
            errcode = 'foreign_key_violation',
            message = format('%s %s has serials', kind, old.id),
            detail = format('One of them is %s, with id %s.', example.serial_number, example.id),
            hint = format('What serials refer to stays as it is: register another %s.', kind),
            constraint = case kind when 'site' then 'serials_site_id_fkey' else 'serials_part_fkey' end,
            table = 'serials', schema = 'machserial';
    end if;
    return null;
end
$$;
