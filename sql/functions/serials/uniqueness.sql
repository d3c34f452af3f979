-- Whether a number is free, what comes near it, and what is known of its claims.

-- What a number looks like when case, spaces, hyphens and look-alikes (0 and O, 1, I and L, 2 and Z, 5 and S,
-- 8 and B) are no difference. The index serials_look_alike has the same expression, in the collation "C".
create function machserial._look(serial_number text) returns text
language sql immutable parallel safe
return translate(upper(serial_number collate "C"), 'OILZSB -', '011258');

-- SECURITY DEFINER: under a policy PostgreSQL would not use the index, whose function it cannot trust.
create function machserial._near_matches(serial_number text) returns text[]
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    own_sites constant text[] := machserial._caller_sites();
begin
    return array(
        select distinct s.serial_number collate "C"
        from machserial.serials as s
        where
            machserial._look(s.serial_number) collate "C" = machserial._look(_near_matches.serial_number)
            and s.serial_number <> _near_matches.serial_number
            and (own_sites is null or s.site_id = any(own_sites))
        order by 1
        limit 20
    );
end
$$;

create function machserial.check_uniqueness(
    serial_number text, part_id text, scopes text[] default null, site_id text default null,
    out has_conflict boolean, out conflicting_serial_ids bigint[], out conflicting_scopes text[],
    out conflict_type text, out near_matches text[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    number constant text := machserial._serial_number(serial_number);
    place record;
begin
    select p.* into place
    from machserial._place(check_uniqueness.part_id, check_uniqueness.site_id) as p;
    select coalesce(c.serial_ids, '{}'), coalesce(c.claimed_scopes, '{}')
    into conflicting_serial_ids, conflicting_scopes
    from machserial._claims_for_number(
        number, machserial._known_scopes(coalesce(scopes, place.scopes)), place.site_id,
        place.part_type
    ) as c;
    near_matches := machserial._near_matches(number);
    has_conflict := conflicting_serial_ids <> '{}';
    conflict_type := case
        when has_conflict then 'DUPLICATE' when near_matches <> '{}' then 'NEAR_MATCH' else 'NONE'
    end;
end
$$;

comment on function machserial.check_uniqueness(text, text, text[], text) is
'Whether a number, trimmed, is free for a part. It is advice: only the unique indexes decide, when the number
is registered. scopes: where it must not repeat (null: the part''s default). site_id: null means DEFAULT.
conflicting_serial_ids, conflicting_scopes: who holds it (null: a serial at a site that you may not see), and
where; conflict_type: DUPLICATE, NEAR_MATCH
(free, but easily taken for another) or NONE. near_matches: up to 20 numbers on record, of any part, that
differ only by case, spaces, hyphens or look-alikes (0 O, 1 I L, 2 Z, 5 S, 8 B).
Errors: 22023 what cannot be a serial number, unknown scope; 23503 unknown part or site.';

-- "inout": the arguments and the result columns have one name.
create function machserial.uniqueness_report(
    inout serial_number text, inout part_id text, out serial_id bigint, out conflict_ids bigint[],
    out scopes text[], out holds_claim boolean, out status text, out part_type text, out site_id text,
    out source text, out since timestamptz, out entered_by text, out reason text
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    number constant text := machserial._trimmed(uniqueness_report.serial_number);
    place record;
begin
    perform machserial._require_text('serial_number', number);
    perform machserial._require_known_part(uniqueness_report.part_id);
    select p.part_type, p.default_scopes as scopes into place
    from machserial.parts as p where p.id = uniqueness_report.part_id;
    return query
    with conflicts as materialized (
        select
            c.*, (select p.part_type from machserial.parts as p where p.id = c.part_id) as part_type
        from machserial.serial_conflicts as c
        where c.serial_number = number
    ),
    candidates as (
        select
            s.id, array(
                select c.id from conflicts as c
                where
                    s.id in (c.serial_id, c.kept_serial_id)
                    or s.id = any(c.conflicting_serial_ids) or s.id = any(c.retired_serial_ids)
                order by c.id
            ) as conflict_ids,
            s.scopes, s.holds_claim, s.status, s.part_id, s.part_type, s.site_id, s.source, s.created_at,
            s.created_by, s.status_reason
        from machserial.serials as s
        where s.id = any(array(
            select f.id from machserial.find_serial(number) as f
        ))
        union all
        select
            null, array[c.id], c.scopes, false,
            case c.status when 'PENDING' then 'CONFLICT' else c.status end, c.part_id, c.part_type,
            c.site_id, c.source, c.detected_at, c.detected_by, c.reason
        from conflicts as c
        where c.serial_id is null
    )
    select
        number, c.part_id, c.id, c.conflict_ids, c.scopes, c.holds_claim, c.status,
        c.part_type, c.site_id, c.source, c.created_at, c.created_by, c.status_reason
    from candidates as c
    -- The site is open: a claim on a site concerns the part at that site.
    where
        c.part_id = uniqueness_report.part_id
        or machserial._shared_scopes(
            c.scopes, c.site_id, c.part_type, place.scopes, c.site_id, place.part_type
        ) <> '{}'
    order by c.created_at, c.id nulls last, c.conflict_ids;
end
$$;

comment on function machserial.uniqueness_report(text, text) is
'Everybody who has, had or wanted a number, as far as it concerns a part: the part''s own serials, and those
of others that share one of its scopes. Oldest first. One row a serial, and one without serial_id for each
duplicate that was not put into the registry (CONFLICT while it is undecided, then RESOLVED). scopes: where it
claims the number, if holds_claim, or would; conflict_ids: the conflicts that it has to do with; since,
entered_by: when it was put on record and by whom; reason: why it has its status.
Errors: 22023 no number; 23503 unknown part.';

create function machserial.uniqueness_statistics(
    part_id text default null, out total_serials bigint, out claiming bigint, out released bigint,
    out rejected bigint, out in_conflict bigint, out enterprise_claims bigint, out site_claims bigint,
    out part_type_claims bigint, out pending_conflicts bigint, out resolved_conflicts bigint
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
begin
    if part_id is not null then
        perform machserial._require_known_part(part_id);
    end if;
    select
        count(*), count(*) filter (where s.holds_claim), count(*) filter (where s.claim_released),
        count(*) filter (where s.status = 'REJECTED'), count(*) filter (where s.status = 'CONFLICT'),
        count(*) filter (where s.holds_claim and 'ENTERPRISE' = any(s.scopes)),
        count(*) filter (where s.holds_claim and 'SITE' = any(s.scopes)),
        count(*) filter (where s.holds_claim and 'PART_TYPE' = any(s.scopes))
    into
        total_serials, claiming, released, rejected, in_conflict, enterprise_claims, site_claims,
        part_type_claims
    from machserial.serials as s
    where uniqueness_statistics.part_id is null or s.part_id = uniqueness_statistics.part_id;
    select count(*) filter (where c.status = 'PENDING'), count(*) filter (where c.status = 'RESOLVED')
    into pending_conflicts, resolved_conflicts
    from machserial.serial_conflicts as c
    where uniqueness_statistics.part_id is null or c.part_id = uniqueness_statistics.part_id;
end
$$;

comment on function machserial.uniqueness_statistics(text) is
'How many serials a part has, or with null all parts, and what becomes of their numbers: total_serials is
claiming (they keep their numbers from others), released (a conflict was resolved against them), rejected and
in_conflict together. enterprise_claims, site_claims, part_type_claims: claims by scope; a serial may have
several. pending_conflicts, resolved_conflicts: duplicates that somebody tried to bring in.
Errors: 23503 unknown part.';
