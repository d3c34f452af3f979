-- Claims on numbers: what is taken, in which scopes, and by which serial.

-- The serials that hold each of the given numbers in the given scopes; no row for a free number. Explains
-- what a unique index has decided, and never replaces it. Of a serial at a site that the caller may not
-- see it tells only that the number is taken: its id is null.
create function machserial._claims_for_numbers(
    serial_numbers text[], scopes text[], site_id text, part_type text
)
returns table (ordinal bigint, serial_ids bigint[], claimed_scopes text[], description text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    own_sites constant text[] := machserial._caller_sites();
begin
    if _claims_for_numbers.site_id <> all(own_sites) then
        perform machserial._raise_unknown_site(_claims_for_numbers.site_id);
    end if;
    return query
    select
        n.ordinal, array_agg(distinct c.id order by c.id), array_agg(distinct c.scope order by c.scope),
        string_agg(
            case
                when c.id is null then format('scope %s by a serial at a site that you may not see', c.scope)
                else format('scope %s by serial %s of part %s at site %s', c.held, c.id, c.part_id, c.site_id)
            end,
            ', ' order by c.scope, c.id
        )
    from unnest(_claims_for_numbers.serial_numbers) with ordinality as n (number, ordinal)
    cross join lateral (
        select
            h.scope, h.held, case when coalesce(h.site_id = any(own_sites), true) then h.id end as id,
            h.part_id, h.site_id
        from (
            select 'ENTERPRISE'::text as scope, 'ENTERPRISE'::text as held, s.id, s.part_id, s.site_id
            from machserial.serials as s
            where s.serial_number = n.number and s.holds_claim and 'ENTERPRISE' = any(s.scopes)
            union all
            -- The whole enterprise includes the scopes of others.
            select 'ENTERPRISE', array_to_string(s.scopes, ', '), s.id, s.part_id, s.site_id
            from machserial.serials as s
            where
                s.serial_number = n.number and s.holds_claim and not 'ENTERPRISE' = any(s.scopes)
                and 'ENTERPRISE' = any(_claims_for_numbers.scopes)
            union all
            select 'SITE', 'SITE', s.id, s.part_id, s.site_id
            from machserial.serials as s
            where
                s.serial_number = n.number and s.site_id = _claims_for_numbers.site_id
                and s.holds_claim and 'SITE' = any(s.scopes)
            union all
            select 'PART_TYPE', 'PART_TYPE', s.id, s.part_id, s.site_id
            from machserial.serials as s
            where
                s.serial_number = n.number and s.part_type = _claims_for_numbers.part_type
                and s.holds_claim and 'PART_TYPE' = any(s.scopes)
            offset 0
        ) as h
    ) as c
    where c.scope = any(_claims_for_numbers.scopes) or c.scope = 'ENTERPRISE'
    group by n.ordinal;
end
$$;

-- The same for one number; nulls if nobody holds it.
create function machserial._claims_for_number(
    serial_number text, scopes text[], site_id text, part_type text,
    out serial_ids bigint[], out claimed_scopes text[], out description text
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    select c.serial_ids, c.claimed_scopes, c.description into serial_ids, claimed_scopes, description
    from machserial._claims_for_numbers(array[serial_number], scopes, site_id, part_type) as c;
end
$$;

-- Whether a unique index of serials is one that decides whether a number is free.
create function machserial._is_claim(constraint_name text) returns boolean
language sql immutable parallel safe
return constraint_name ~ '^serials_[a-z_]+_key$';

-- What kept a number out that nobody claims: its id, where the sequence of ids is behind the table; or a
-- claim that was given up in the same moment. proposed: all numbers of the insert.
-- SECURITY DEFINER: it looks at the sequence.
create function machserial._raise_unclaimed(serial_number text, proposed text[]) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    last_id constant bigint := currval('machserial.serials_id_seq');
    highest_id bigint;
begin
    -- Of the ids that this session drew for them, or of those that come next.
    select max(s.id) into highest_id
    from machserial.serials as s
    where
        s.id > last_id - cardinality(proposed) and s.id <= last_id | ((1::bigint << 48) - 1)
        and (
            s.id > (select q.last_value from machserial.serials_id_seq as q)
            or s.id <= last_id and not s.serial_number = any(proposed)
        );
    if highest_id is not null then
        raise exception using
            errcode = 'unique_violation',
            message = 'ids of machserial.serials are taken: their sequence is behind the table',
            detail = format(
                'Serial number %s was to get an id that a row has; the highest is %s. Rows have come in with '
                'ids of their own, or the sequence has not come along.', serial_number, highest_id
            ),
            hint = format(
                'As the owner: select setval(''machserial.serials_id_seq'', %s); integrity() names '
                'every sequence that is behind.', highest_id
            ),
            constraint = 'serials_pkey', table = 'serials', schema = 'machserial';
    end if;
    raise exception using
        errcode = 'serialization_failure',
        message = format(
            'serial number %s was taken when it was to be registered, and is not any more', serial_number
        ),
        detail = 'A concurrent transaction has given it up.',
        hint = 'Run the transaction again.';
end
$$;

-- "on conflict do nothing" cannot name several indexes, and leaves out what collides with any. This follows
-- it: what was left out must be claimed by somebody. proposed: all numbers of the insert.
create function machserial._require_claimed(
    left_out text[], proposed text[], scopes text[], site_id text, part_type text
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    unclaimed text;
begin
    select n.number into unclaimed
    from unnest(left_out) with ordinality as n (number, ordinal)
    full join machserial._claims_for_numbers(left_out, scopes, site_id, part_type) as c on c.ordinal = n.ordinal
    where c.ordinal is null
    limit 1;
    if found then
        perform machserial._raise_unclaimed(unclaimed, proposed);
    end if;
end
$$;

-- Raises what is wrong with a serial, as a CHECK constraint would.
create function machserial._refuse_serial(
    serial_number text, source text, status text, claim_released boolean, scopes text[]
)
returns jsonb
-- As it only raises; a volatile function would keep the planner from reading new serials directly.
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    characters constant text := machserial._serial_characters();
    fault record;
begin
    select f.* into fault
    from (values
        (
            not machserial._is_serial_number(serial_number, characters), 'serials_serial_number_is_one',
            pg_catalog.format('%L cannot be a serial number', machserial._shown(serial_number)),
            machserial._as_sentence(machserial._number_fault(serial_number, characters)),
            machserial._number_hint(serial_number, characters)
        ),
        (
            source <> all('{SYSTEM_GENERATED,VENDOR,MANUAL,LATE_ASSIGNMENT,IMPORT}'::text[]),
            'serials_source_is_known', pg_catalog.format('source %L is unknown', left(source, 60)),
            'It is SYSTEM_GENERATED, VENDOR, MANUAL, LATE_ASSIGNMENT or IMPORT.',
            'Say where the number comes from.'
        ),
        (
            status <> all('{PENDING,ACTIVE,CONFLICT,REJECTED,RETIRED,INVALID}'::text[]),
            'serials_status_is_known', pg_catalog.format('status %L is unknown', left(status, 60)),
            'It is PENDING, ACTIVE, CONFLICT, REJECTED, RETIRED or INVALID.', 'Leave it out for ACTIVE.'
        ),
        (
            claim_released and status not in ('RETIRED', 'INVALID'),
            'serials_release_their_claim_when_they_end', 'only a serial at its end gives up its number',
            pg_catalog.format('It is %s, and claim_released is true.', status), 'Leave claim_released out.'
        ),
        (
            not machserial._are_scopes(scopes), 'serials_scopes_are_known',
            'scopes must name one or more of ENTERPRISE, SITE, PART_TYPE',
            pg_catalog.format('Given: %s.', left(scopes::text, 200)),
            'Leave scopes out for the part''s default.'
        )
    ) as f (is_fault, name, message, detail, hint)
    where f.is_fault
    limit 1;
    raise exception using
        errcode = 'check_violation', message = fault.message,
        detail = concat(pg_catalog.format('Serial number %L. ', machserial._shown(serial_number)), fault.detail),
        hint = fault.hint, constraint = fault.name, table = 'serials', schema = 'machserial';
end
$$;

-- Puts numbers on record that their unique indexes have refused: one conflict for each, in the order given.
create function machserial._record_conflicts(
    serial_numbers text[], part_id text, site_id text, part_type text, scopes text[], source text
)
returns table (serial_number text, conflict_id bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    insert into machserial.serial_conflicts as r (
        serial_number, part_id, site_id, scopes, source, conflicting_serial_ids, conflicting_scopes
    )
    select
        n.number, _record_conflicts.part_id, _record_conflicts.site_id, _record_conflicts.scopes,
        _record_conflicts.source, coalesce(c.serial_ids, '{}'), coalesce(c.claimed_scopes, '{}')
    from unnest(_record_conflicts.serial_numbers) with ordinality as n (number, ordinal)
    -- Every claim is on a given number: full only because that is never carried out as a nested loop, as many
    -- numbers as the plan may not expect.
    full join machserial._claims_for_numbers(
        _record_conflicts.serial_numbers, _record_conflicts.scopes, _record_conflicts.site_id,
        _record_conflicts.part_type
    ) as c on c.ordinal = n.ordinal
    order by n.ordinal
    returning r.serial_number, r.id;
end
$$;
