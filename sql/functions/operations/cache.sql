-- Which numbers are taken: what applications prepare and ask, and what a cache in Redis remembers.

create function machserial.claims_of(
    serial_numbers text[], part_id text, site_id text default null, scopes text[] default null
)
returns table (serial_number text, serial_ids bigint[], claimed_scopes text[])
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- The plan is always the same three look-ups by index, and making it takes longer than they do.
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    numbers constant text[] := array(
        select machserial._trimmed(n.number)
        from unnest(coalesce(claims_of.serial_numbers, array[null::text])) with ordinality as n (number, ordinal)
        order by n.ordinal
    );
    place record;
begin
    perform machserial._require_text('a serial number', n.number)
    from unnest(numbers) as n (number)
    where coalesce(n.number, '') = '';
    select p.* into place from machserial._place(claims_of.part_id, claims_of.site_id) as p;
    return query
    select numbers[c.ordinal], c.serial_ids, c.claimed_scopes
    from machserial._claims_for_numbers(
        numbers, machserial._known_scopes(coalesce(claims_of.scopes, place.scopes)),
        place.site_id, place.part_type
    ) as c;
end
$$;

comment on function machserial.claims_of(text[], text, text, text[]) is
'Which of many numbers are taken for a part, by whom and in which scopes; no row for one that is free.
Numbers are trimmed. It is advice, as check_uniqueness(), of which it is the form for many. site_id: null means DEFAULT; scopes: null
means the part''s default.
Errors: 22023 no number, unknown scope; 23503 unknown part or site.';
