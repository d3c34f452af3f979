-- The main job: a part gets its serial numbers.

create function machserial._require_quantity(quantity integer) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if quantity is null or quantity not between 1 and 1000000 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('quantity cannot be %s', coalesce(quantity::text, 'null')),
            detail = 'It is 1 to 1,000,000.',
            hint = 'Split a larger order into several calls.';
    end if;
end
$$;

-- The format of an ad-hoc pattern: made on its first use, found again afterwards.
create function machserial._ad_hoc_format(pattern text) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    format_id bigint;
begin
    select f.id into format_id
    from machserial.serial_formats as f
    where f.name = _ad_hoc_format.pattern and f.is_ad_hoc and f.is_active;
    if format_id is not null then
        return format_id;
    end if;
    perform machserial.parse_pattern(pattern);
    format_id := (machserial._insert_format(
        pattern, 1, pattern, 'Made by generate(pattern => …)', 1, 1, 'NEVER', 'FORMAT', 'SEQUENCE', 'EXACT', true, null
    )).id;
    -- Somebody else made it a moment ago, or it was deactivated: _active_format says which.
    return coalesce(format_id, (machserial._active_format(pattern)).id);
end
$$;

create function machserial._format_of_call(part_id text, format text, pattern text) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    format_id bigint;
begin
    if format is not null then
        return (machserial._active_format(format)).id;
    elsif pattern is not null then
        return machserial._ad_hoc_format(pattern);
    end if;
    format_id := (machserial.format_for(part_id)).id;
    if format_id is null then
        raise exception using
            errcode = 'foreign_key_violation',
            message = format('no format is assigned to part %s', part_id),
            detail = 'Neither the part nor its part_type has a format that is active and in effect now.',
            hint = format('Assign one: machserial.assign_format(%L, format); or give format or pattern.', part_id);
    end if;
    return format_id;
end
$$;

-- Everything that a call says and implies, looked up once.
create function machserial._resolve(part_id text, format text, pattern text, site_id text, context jsonb)
returns machserial._issue
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    issue machserial._issue;
    known record;
    wanted_format bigint;
begin
    perform machserial._require_text('part_id', _resolve.part_id);
    if jsonb_typeof(_resolve.context) <> 'object' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'context is not a JSON object',
            detail = pg_catalog.format('It is %s.', jsonb_typeof(_resolve.context)),
            hint = 'Give an object such as {"work_order_id": "WO-1", "lot_number": "L-7"}.';
    end if;
    wanted_format := machserial._format_of_call(_resolve.part_id, _resolve.format, _resolve.pattern);
    select
        p.part_type, p.default_scopes, s.id as site_id, s.time_zone,
        f.id as format_id, f.name as format_name, f.reset, f.counter_per, f.allocation, f.sequence_increment,
        f.sequence_maximum, f.random_space
    into known
    from machserial.parts as p
    left join machserial.sites as s on s.id = coalesce(_resolve.site_id, 'DEFAULT')
    left join machserial.serial_formats as f on f.id = wanted_format
    where p.id = _resolve.part_id;
    if known.part_type is null then
        perform machserial._raise_unknown('part', _resolve.part_id, 'machserial.register_part');
    elsif known.site_id is null then
        perform machserial._raise_unknown('site', _resolve.site_id, 'machserial.register_site');
    end if;
    issue.part_id := _resolve.part_id;
    issue.part_type := known.part_type;
    issue.scopes := known.default_scopes;
    issue.site_id := known.site_id;
    issue.issued_at := now() at time zone known.time_zone;
    issue.format_id := known.format_id;
    issue.format_name := known.format_name;
    issue.allocation := known.allocation;
    issue.sequence_increment := known.sequence_increment;
    issue.sequence_maximum := known.sequence_maximum;
    issue.random_space := known.random_space;
    issue.context := coalesce(_resolve.context, '{}');
    if known.sequence_maximum is not null then
        issue.counter_id := machserial._counter_for(
            known.format_id, known.reset, known.counter_per, _resolve.part_id, known.site_id, issue.issued_at
        );
    end if;
    return issue;
end
$$;

-- Random values whose numbers are free, found by counting through the whole space from a random place on. Only this
-- can tell that a random space is full.
create function machserial._search_random(issue machserial._issue, wanted integer) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    window_length constant bigint := least(issue.random_space, 1000000);
    windows constant bigint := (issue.random_space + window_length - 1) / window_length;
    first_window constant bigint := machserial._random_number(windows);
    free_values bigint[] := '{}';
    candidates bigint[];
    positions integer[];
begin
    for i in 0..windows - 1 loop
        candidates := array(
            select c from generate_series(
                (first_window + i) % windows * window_length,
                least(((first_window + i) % windows + 1) * window_length, issue.random_space) - 1
            ) as c
        );
        positions := machserial._free_positions(issue, machserial._render(issue, candidates, candidates));
        free_values := free_values || array(
            select candidates[p] from unnest(positions) as p order by gen_random_uuid() limit wanted
        );
        exit when cardinality(free_values) >= wanted;
    end loop;
    if cardinality(free_values) < wanted then
        perform machserial._raise_exhausted(issue.format_name, wanted, pg_catalog.format(
            'Free: %s of %s.', cardinality(free_values), issue.random_space
        ));
    end if;
    return free_values[:wanted];
end
$$;

-- Numbers of a pattern without {SEQ}, as many of the wanted ones as this attempt has found free.
create function machserial._draw_unsequenced(issue machserial._issue, wanted integer, attempt integer)
returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    random_values bigint[];
    numbers text[];
    positions integer[];
begin
    if attempt > 100 then
        perform machserial._raise_exhausted(issue.format_name, wanted, 'A hundred attempts found no free number.');
    end if;
    -- A pattern in which nothing varies is a random space of one number.
    if issue.random_space is not null and (attempt > 3 or wanted::bigint * 2 >= issue.random_space) then
        random_values := machserial._search_random(issue, wanted);
    else
        -- The fuller the space, the more candidates find a free number at once.
        random_values := machserial._draw_random(issue, case attempt when 0 then wanted else wanted + 1000 end);
    end if;
    numbers := machserial._render(issue, random_values, random_values);
    positions := (machserial._free_positions(issue, numbers))[:wanted];
    return array(select numbers[p.position] from unnest(positions) with ordinality as p (position, ordinal)
        order by p.ordinal);
end
$$;

-- The call's own row, or the earlier one of the same request_id. A copy that runs at the same time waits here.
create function machserial._claim_request(
    request_id text, arguments jsonb, out id bigint, out is_repeated boolean
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    earlier record;
begin
    insert into machserial.generation_requests as r (request_id, arguments)
    values (_claim_request.request_id, _claim_request.arguments)
    on conflict on constraint generation_requests_request_id_key do nothing
    returning r.id into id;
    is_repeated := id is null;
    if not is_repeated then
        return;
    end if;
    select r.* into earlier from machserial.generation_requests as r
    where r.request_id = _claim_request.request_id;
    if earlier.id is null then
        raise exception using
            errcode = 'serialization_failure',
            message = format('request %s was carried out by a concurrent transaction', _claim_request.request_id),
            detail = 'This transaction''s snapshot is older than the request.',
            hint = 'Run the transaction again.';
    elsif earlier.arguments <> _claim_request.arguments then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('request %s has been used for something else', _claim_request.request_id),
            detail = format('It asked for %s, now it asks for %s.', earlier.arguments, _claim_request.arguments),
            hint = 'Use a new request_id for a new request.';
    end if;
    id := earlier.id;
end
$$;

-- What a sequence pattern gives next: numbers and their sequence values. The first attempt trusts that they are free,
-- a later one looks.
create function machserial._draw_sequenced(
    issue machserial._issue, wanted integer, attempt integer, out numbers text[], out sequence_values bigint[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    positions integer[];
begin
    if attempt = 0 then
        sequence_values := machserial._draw(issue, wanted);
    end if;
    if sequence_values is not null then
        numbers := machserial._render(
            issue, sequence_values, case when issue.random_space > 1 then machserial._draw_random(issue, wanted) end
        );
        return;
    end if;
    sequence_values := machserial._draw_free(issue, wanted);
    numbers := machserial._render(
        issue, sequence_values, machserial._draw_random(issue, cardinality(sequence_values))
    );
    positions := (machserial._free_positions(issue, numbers))[:wanted];
    select array_agg(numbers[p.position] order by p.ordinal), array_agg(sequence_values[p.position] order by p.ordinal)
    into numbers, sequence_values
    from unnest(positions) with ordinality as p (position, ordinal);
end
$$;

create function machserial.generate(
    part_id text, quantity integer default 1, format text default null, pattern text default null,
    site_id text default null, context jsonb default '{}', request_id text default null
)
returns table (serial_id bigint, serial_number text, sequence_number bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    request_number bigint;
    is_repeated boolean;
    issue machserial._issue;
    remarks jsonb;
    wanted integer := generate.quantity;
    attempt integer := 0;
    numbers text[];
    sequence_values bigint[];
    -- From about here on one insert that fails costs less than asking for every row.
    is_trusting boolean := generate.quantity >= 100;
    issued record;
    inserted integer;
begin
    perform machserial._require_quantity(generate.quantity);
    if generate.request_id is not null then
        select c.id, c.is_repeated into request_number, is_repeated
        from machserial._claim_request(generate.request_id, jsonb_build_object(
            'part_id', generate.part_id, 'quantity', generate.quantity, 'format', generate.format,
            'pattern', generate.pattern, 'site_id', coalesce(generate.site_id, 'DEFAULT'),
            'context', coalesce(generate.context, '{}')
        )) as c;
        if is_repeated then
            return query
            select s.id, s.serial_number, s.sequence_number
            from machserial.serials as s where s.generation_request_id = request_number
            order by s.id;
            return;
        end if;
    end if;
    issue := machserial._resolve(
        generate.part_id, generate.format, generate.pattern, generate.site_id, generate.context
    );
    remarks := nullif(issue.context - '{work_order_id,lot_number,operation_code}'::text[], '{}');

    while wanted > 0 loop
        if issue.sequence_maximum is null then
            numbers := machserial._draw_unsequenced(issue, wanted, attempt);
        else
            select d.numbers, d.sequence_values into numbers, sequence_values
            from machserial._draw_sequenced(issue, wanted, attempt) as d;
        end if;
        if is_trusting then
            begin
                with recorded as (
                    insert into machserial.serials (
                        serial_number, sequence_number, part_id, part_type, site_id, source, scopes, format_id,
                        work_order_id, lot_number, operation_code, context, generation_request_id
                    )
                    select
                        n.number, n.sequence_value, issue.part_id, issue.part_type, issue.site_id,
                        'SYSTEM_GENERATED', issue.scopes, issue.format_id, issue.context ->> 'work_order_id',
                        issue.context ->> 'lot_number', issue.context ->> 'operation_code', remarks, request_number
                    from unnest(numbers, sequence_values) as n (number, sequence_value)
                    returning id, serial_number, sequence_number
                )
                select
                    array_agg(r.id) as ids, array_agg(r.serial_number) as numbers,
                    array_agg(r.sequence_number) as sequence_values, count(*)::integer as quantity
                into issued
                from recorded as r;
                return query select i.* from unnest(issued.ids, issued.numbers, issued.sequence_values) as i;
                wanted := wanted - issued.quantity;
            exception when unique_violation then
                is_trusting := false;
            end;
        end if;
        if not is_trusting then
            return query
            insert into machserial.serials (
                serial_number, sequence_number, part_id, part_type, site_id, source, scopes, format_id,
                work_order_id, lot_number, operation_code, context, generation_request_id
            )
            select
                n.number, n.sequence_value, issue.part_id, issue.part_type, issue.site_id, 'SYSTEM_GENERATED',
                issue.scopes, issue.format_id, issue.context ->> 'work_order_id', issue.context ->> 'lot_number',
                issue.context ->> 'operation_code', remarks, request_number
            from unnest(numbers, sequence_values) as n (number, sequence_value)
            on conflict do nothing
            returning id, serial_number, sequence_number;
            get diagnostics inserted = row_count;
            wanted := wanted - inserted;
        end if;
        attempt := attempt + 1;
    end loop;
end
$$;

comment on function machserial.generate(text, integer, text, text, text, jsonb, text) is
'Issues serial numbers for a part and puts them on record; they exist if and only if the transaction commits.
quantity: 1 to 1,000,000. format: a format by name; else pattern: an ad-hoc pattern, which becomes a format of its own;
else the part''s format (format_for). site_id: null means DEFAULT. context: an object that may hold work_order_id,
lot_number, operation_code and what {CTX:…} names. request_id: the same call with the same request_id gives the same
serials and consumes nothing. Numbers that are taken are stepped over, random ones drawn again.
Errors: 22023 a bad argument, a context that lacks what the pattern needs, a request_id used for something else ·
23503 unknown part, site or format, no format assigned · 55000 a deactivated format · 2200H no numbers left.';
