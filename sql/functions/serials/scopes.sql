-- Where a number must not repeat: what a part says goes for its serials, and ENTERPRISE goes for everybody.
--
-- A unique index holds the claims of one scope. Between ENTERPRISE and the other scopes there is none: there
-- the functions look before they write. A look does not see what others have not committed; integrity() finds
-- what two of them have brought in at the same time.

-- Of these numbers those that are claimed where no unique index compares them, as keys of an object: by
-- serials without ENTERPRISE where they are to have it, by serials with it where not. scopes: null means
-- those of the part, as the calling statement sees it.
-- SECURITY DEFINER: a number is taken at whatever site it is.
create function machserial._claimed_elsewhere(serial_numbers text[], part_id text, scopes text[] default null)
returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    if 'ENTERPRISE' = any(coalesce(
        scopes, (select p.default_scopes from machserial.parts as p where p.id = _claimed_elsewhere.part_id)
    )) then
        return coalesce((
            select jsonb_object_agg(n.number, true)
            from unnest(serial_numbers) as n (number)
            where (
                select s.id from machserial.serials as s
                where s.serial_number = n.number and s.holds_claim and not 'ENTERPRISE' = any(s.scopes)
                limit 1
            ) is not null
        ), '{}');
    end if;
    return coalesce((
        select jsonb_object_agg(n.number, true)
        from unnest(serial_numbers) as n (number)
        where (
            select s.id from machserial.serials as s
            where s.serial_number = n.number and s.holds_claim and 'ENTERPRISE' = any(s.scopes)
            limit 1
        ) is not null
    ), '{}');
end
$$;

-- The same of one number.
create function machserial._is_claimed_elsewhere(serial_number text, scopes text[]) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    if 'ENTERPRISE' = any(scopes) then
        return exists (
            select from machserial.serials as s
            where
                s.serial_number = _is_claimed_elsewhere.serial_number and s.holds_claim
                and not 'ENTERPRISE' = any(s.scopes)
        );
    end if;
    return exists (
        select from machserial.serials as s
        where
            s.serial_number = _is_claimed_elsewhere.serial_number and s.holds_claim
            and 'ENTERPRISE' = any(s.scopes)
    );
end
$$;

create function machserial._scopes_beyond(scopes text[], others text[]) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(select s.scope from unnest(scopes) as s (scope) where s.scope <> all(others));
end
$$;

-- The scopes of a serial whose part had these and gets those: what it has beyond its part it keeps. Inlined.
create function machserial._rescoped(scopes text[], was text[], becomes text[]) returns text[]
language sql immutable parallel safe
return case
    when scopes <@ was then becomes
    else machserial._known_scopes(becomes || machserial._scopes_beyond(scopes, was))
end;

-- Raises which numbers would be claimed twice if the serials of these parts got their parts' other scopes.
create function machserial._refuse_shared_numbers(part_ids text[], were text[], become text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    shared record;
begin
    with changed as materialized (
        select c.part_id, c.was::text[] as was, c.becomes::text[] as becomes
        from unnest(part_ids, were, become) as c (part_id, was, becomes)
    ),

    duplicates as (
        select s.serial_number, s.id, o.id as other_id, m.scopes
        from changed as c
        cross join lateral (
            select r.* from machserial.serials as r where r.part_id = c.part_id and r.holds_claim offset 0
        ) as s
        -- One look by the number for each serial.
        cross join lateral (
            select r.* from machserial.serials as r
            where r.serial_number = s.serial_number and r.id <> s.id and r.holds_claim
            offset 0
        ) as o
        left join changed as oc on oc.part_id = o.part_id
        cross join lateral (
            select array(
                select unnest(machserial._shared_scopes(
                    machserial._rescoped(s.scopes, c.was, c.becomes), s.site_id, s.part_type,
                    case
                        when oc.part_id is null then o.scopes
                        else machserial._rescoped(o.scopes, oc.was, oc.becomes)
                    end,
                    o.site_id, o.part_type
                ))
                except
                select unnest(machserial._shared_scopes(
                    s.scopes, s.site_id, s.part_type, o.scopes, o.site_id, o.part_type
                ))
            ) as scopes
        ) as m
        where m.scopes <> '{}'
    ),

    numbers as (
        select d.serial_number, min(d.scopes[1]) as scope, array_agg(distinct i.id) as ids
        from duplicates as d
        cross join lateral (values (d.id), (d.other_id)) as i (id)
        group by d.serial_number
    )

    select
        count(*) as quantity, min(n.serial_number) as example, min(n.scope) as scope,
        (array_agg(
            format('%s (serials %s)', n.serial_number, array_to_string(n.ids, ', ')) order by n.serial_number
        ))[:10] as named
    into shared
    from numbers as n;
    if shared.quantity > 0 then
        raise exception using
            errcode = 'unique_violation',
            message = format(
                'the scopes of part %s cannot change: %s would be claimed twice',
                array_to_string(part_ids[:3], ', '), case
                    when shared.quantity = 1 then format('serial number %s', shared.example)
                    else format('%s and %s more serial numbers', shared.example, shared.quantity - 1)
                end
            ),
            detail = concat(
                array_to_string(shared.named, '; '), case when shared.quantity > 10 then '; ...' end, '.'
            ),
            hint = 'Of each pair one has to give its number up: update machserial.serials set status = ''CONFLICT'', '
                'status_reason = ... where id = ..., then resolve_conflict(...).',
            constraint = format('serials_%s_key', lower(shared.scope collate "C")),
            table = 'serials', schema = 'machserial';
    end if;
end
$$;

-- A part's serials get its other scopes in the same statement, whatever their status: one that comes back to
-- life claims in them. The lock waits for all who are writing serials, and lets nobody begin before this
-- transaction has ended: so a statement that inserts reads the scopes either before all of this or after it.
create function machserial._give_scopes() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    changed record;
begin
    select
        array_agg(n.id) as part_ids, array_agg(o.default_scopes::text) as were,
        array_agg(n.default_scopes::text) as become
    into changed
    from new_rows as n
    -- A full join is never a loop in a loop.
    full join old_rows as o on o.id = n.id
    where not (o.default_scopes <@ n.default_scopes and o.default_scopes @> n.default_scopes);
    if changed.part_ids is null then
        return null;
    end if;
    perform machserial._require_all_sites('to change the scopes of a part');
    perform machserial._require_read_committed(
        'the scopes of a part change',
        'A snapshot that is kept does not show the serials that others have just registered.'
    );
    lock table machserial.serials in share row exclusive mode;
    perform machserial._refuse_shared_numbers(changed.part_ids, changed.were, changed.become);
    update machserial.serials as s
    set scopes = machserial._rescoped(s.scopes, c.was, c.becomes)
    from (
        select u.part_id, u.was::text[] as was, u.becomes::text[] as becomes
        from unnest(changed.part_ids, changed.were, changed.become) as u (part_id, was, becomes)
        offset 0
    ) as c
    where s.part_id = c.part_id and s.scopes <> machserial._rescoped(s.scopes, c.was, c.becomes);
    return null;
end
$$;

-- The scopes in which two serials with the same number exclude each other. A serial that has its number in
-- the whole enterprise excludes all others.
create function machserial._shared_scopes(
    scopes text[], site_id text, part_type text,
    other_scopes text[], other_site_id text, other_part_type text
)
returns text[]
language sql immutable parallel safe
return array_remove(array[
    case when 'ENTERPRISE' = any(scopes) or 'ENTERPRISE' = any(other_scopes) then 'ENTERPRISE' end,
    case
        when 'SITE' = any(scopes) and 'SITE' = any(other_scopes) and site_id = other_site_id then 'SITE'
    end,
    case
        when 'PART_TYPE' = any(scopes) and 'PART_TYPE' = any(other_scopes) and part_type = other_part_type
            then 'PART_TYPE'
    end
], null);
