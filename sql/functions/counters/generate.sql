-- The main job: a part gets its serial numbers.

-- The context, an empty one for null.
create function machserial._require_context(context jsonb) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(coalesce(context, '{}')) = 'object' then
        -- These have columns of their own, with an index or more.
        perform machserial._require_short(k.key, context ->> k.key)
        from unnest('{work_order_id,lot_number,operation_code}'::text[]) as k (key);
        if octet_length(context::text) > 8192 then
            perform machserial._raise_too_long('the context', context::text, 8192, 'bytes');
        end if;
        return coalesce(context, '{}');
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = 'context is not a JSON object',
        detail = format('It is %s.', jsonb_typeof(context)),
        hint = 'Give an object such as {"work_order_id": "WO-1", "operation_code": "OP-10"}.';
end
$$;

-- The format of an ad-hoc pattern: made on its first use, found again afterwards.
create function machserial._ad_hoc_format(pattern text) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    known_id bigint;
    inactive_name text;
    made machserial.serial_format;
begin
    -- The second look is for a format that another session made between the first look and the insert.
    for look in 1..2 loop
        -- One that _drop_unused_formats() is about to drop is waited for, and made again.
        select f.id into known_id
        from machserial.serial_formats as f
        where f.pattern = _ad_hoc_format.pattern and f.is_ad_hoc and f.is_active
        for key share;
        if known_id is not null then
            return known_id;
        end if;
        select f.name into inactive_name
        from machserial.serial_formats as f
        where f.pattern = _ad_hoc_format.pattern and f.is_ad_hoc and not f.is_active
        limit 1;
        if inactive_name is not null then
            -- Says that it is deactivated.
            return (machserial._active_format(inactive_name)).id;
        end if;
        made := machserial._insert_format(
            'ad hoc: ' || pattern, 1, pattern, 'Made by generate(pattern => ...)', 1, 1, 'NEVER', 'FORMAT',
            'SEQUENCE', 'EXACT', true, null, null
        );
        if made.id is not null then
            return made.id;
        end if;
    end loop;
    raise exception using
        errcode = 'serialization_failure',
        message = format('the format of pattern %L was made by a concurrent transaction', pattern),
        detail = 'This transaction''s snapshot is older than the format.',
        hint = 'Run the transaction again.';
end
$$;

-- Keeps _drop_unused_formats() from a format that is about to be used.
create function machserial._hold_ad_hoc_format(format_id bigint, format_name text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from machserial.serial_formats as f where f.id = _hold_ad_hoc_format.format_id for key share;
    if not found then
        perform machserial._raise_unknown('format', format_name, 'machserial.create_format');
    end if;
end
$$;

-- What a part without an assignment, an unknown part and an unknown site are told.
create function machserial._raise_unresolved(part_id text, site_id text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_text('part_id', part_id);
    perform machserial._require_known_part(part_id);
    perform machserial._require_known_site(site_id);
    raise exception using
        errcode = 'foreign_key_violation',
        message = format('no format is assigned to part %s', part_id),
        detail = 'Neither the part nor its part_type has a format that is active and in effect now.',
        hint = format(
            'Assign one: machserial.assign_format(%L, format); generate() takes a format or a pattern as well.',
            part_id
        );
end
$$;

-- Everything that a call says and implies, looked up in one query.
create function machserial._resolve(
    part_id text, quantity integer, format text, pattern text, site_id text, context jsonb
)
returns machserial._issue
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    wanted_format bigint;
    site constant text := coalesce(_resolve.site_id, 'DEFAULT');
    known record;
begin
    if jsonb_typeof(_resolve.context) <> 'object' or pg_column_size(_resolve.context) > 255 then
        perform machserial._require_context(_resolve.context);
    end if;
    if _resolve.format is not null then
        wanted_format := (machserial._active_format(_resolve.format)).id;
    elsif _resolve.pattern is not null then
        wanted_format := machserial._ad_hoc_format(_resolve.pattern);
    end if;
    select
        p.part_type, p.default_scopes, s.id as site_id, f.id as format_id, f.name as format_name,
        f.is_ad_hoc, f.reset,
        f.counter_per, f.allocation, f.sequence_increment, f.sequence_maximum, f.random_space,
        k.part_id as key_part, k.site_id as key_site, l.issued_at,
        c.id as counter_id, c.has_runway, c.retired_at
    into known
    from machserial.parts as p
    inner join machserial.sites as s on s.id = site
    cross join lateral (
        select machserial._time_at_site(s.id, s.time_zone, now()) as issued_at offset 0
    ) as l
    inner join machserial.serial_formats as f
        on f.id = coalesce(wanted_format, machserial._format_id_for(p.id, p.part_type, now()))
    cross join lateral (
        select
            machserial._key_part(f.counter_per, p.id) as part_id,
            machserial._key_site(f.counter_per, s.id) as site_id
    ) as k
    left join machserial.counters as c
        on c.format_id = f.id and c.part_id = k.part_id and c.site_id = k.site_id
        and c.period = case f.reset
            when 'NEVER' then '' else machserial._period(f.reset, l.issued_at)
        end
    where p.id = _resolve.part_id;
    if known.is_ad_hoc then
        perform machserial._hold_ad_hoc_format(known.format_id, known.format_name);
    end if;
    if known.format_id is null then
        perform machserial._raise_unresolved(_resolve.part_id, site);
    elsif known.sequence_maximum is null then
        known.counter_id := null;
    elsif known.counter_id is null then
        known.counter_id := machserial._make_counter(
            known.format_id, known.key_part, known.key_site, known.issued_at
        );
    elsif not known.has_runway then
        perform machserial._require_no_pause();
        perform machserial._extend_runway(known.counter_id);
    end if;
    if known.retired_at is not null then
        perform machserial._revive_counter(known.counter_id);
    end if;
    return (
        _resolve.part_id, known.part_type, known.default_scopes, known.site_id, known.issued_at,
        known.format_id, known.format_name, known.allocation, known.sequence_increment,
        known.sequence_maximum, known.random_space, known.counter_id, coalesce(_resolve.context, '{}'),
        _resolve.quantity, null
    )::machserial._issue;
end
$$;

-- Random values whose numbers are free, found by counting through the whole space from a random place on.
-- Only this can tell that a random space is full.
create function machserial._search_random(issue machserial._issue, wanted integer) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    window_length constant bigint := least(issue.random_space, 1000000);
    windows constant bigint := (issue.random_space + window_length - 1) / window_length;
    first_window constant bigint := machserial._random_number(windows);
    free_values bigint[] := '{}'::bigint[];
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

-- Numbers of a pattern without {SEQ}: all that are wanted, each of them free as far as this transaction can
-- see.
create function machserial._draw_unsequenced(issue machserial._issue, wanted integer) returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    tries integer := wanted;
    random_values bigint[];
    candidates text[];
    numbers text[] := '{}'::text[];
begin
    for attempt in 1..100 loop
        -- To count through the space costs less than to try as often. Where nothing varies it has one number.
        if tries::bigint * 2 >= issue.random_space or attempt > 5 and issue.random_space is not null then
            random_values := machserial._search_random(issue, wanted);
            return machserial._render(issue, random_values, random_values);
        end if;
        random_values := machserial._draw_random(issue, tries);
        candidates := numbers || machserial._render(issue, random_values, random_values);
        numbers := machserial._pick(candidates, (machserial._free_positions(issue, candidates))[:wanted]);
        if cardinality(numbers) = wanted then
            return numbers;
        end if;
        -- The fuller the space, the more tries find a free number.
        tries := wanted + least(250 * 4 ^ attempt, 64000)::integer;
    end loop;
    perform machserial._raise_exhausted(
        issue.format_name, wanted, 'A hundred attempts found no free number.'
    );
end
$$;

-- The call's own row, or the earlier one of the same request_id. A copy that runs at the same time waits
-- here. A request is its site's own: of another site's nothing is said.
create function machserial._claim_request(
    verb text, site_id text, request_id text, arguments jsonb, out id bigint, out is_repeated boolean
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    site constant text := coalesce(_claim_request.site_id, 'DEFAULT');
    earlier record;
begin
    if length(_claim_request.request_id) > 255 then
        perform machserial._require_short('request_id', _claim_request.request_id);
    end if;
    perform machserial._require_known_site(site);
    insert into machserial.requests as r (site_id, verb, request_id, arguments)
    values (site, _claim_request.verb, _claim_request.request_id, _claim_request.arguments)
    on conflict on constraint requests_request_id_key do nothing
    returning r.id into id;
    is_repeated := id is null;
    if not is_repeated then
        return;
    end if;
    select r.* into earlier from machserial.requests as r
    where r.site_id = site and r.verb = _claim_request.verb and r.request_id = _claim_request.request_id;
    if earlier.id is null then
        raise exception using
            errcode = 'serialization_failure',
            message = format(
                'request %s was carried out by a concurrent transaction', _claim_request.request_id
            ),
            detail = 'This transaction''s snapshot is older than the request.',
            hint = 'Run the transaction again.';
    elsif earlier.arguments <> _claim_request.arguments then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('request %s has been used for something else', _claim_request.request_id),
            detail = format(
                'It asked for %s, now it asks for %s.', machserial._shown(earlier.arguments::text),
                machserial._shown(_claim_request.arguments::text)
            ),
            hint = 'Use a new request_id for a new request.';
    end if;
    id := earlier.id;
end
$$;

-- What a call has given that is repeated.
create function machserial._serials_of_request(generation_request_id bigint)
returns table (serial_id bigint, serial_number text, sequence_number bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    return query
    select s.id, s.serial_number, s.sequence_number
    from machserial.serials as s
    where s.generation_request_id = _serials_of_request.generation_request_id
    order by s.id;
end
$$;

-- Any number of serials, with all that can come up.
create function machserial._generate(
    part_id text, quantity integer, format text, pattern text, site_id text, context jsonb, request_id text
)
returns table (serial_id bigint, serial_number text, sequence_number bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    plan record;
    request_number bigint;
    is_repeated boolean;
    issue machserial._issue;
    remarks jsonb;
    wanted integer := _generate.quantity;
    attempt integer := 0;
    numbers text[];
    sequence_values bigint[];
    -- From about a hundred on, one insert that fails costs less than asking for every row. Numbers without a
    -- sequence have been looked at, and one that waited for another session's must not keep what it has while
    -- it draws again.
    is_trusting boolean;
    issued record;
    inserted integer;
    broken_constraint text;
begin
    if _generate.quantity between 1 and 1000000 is not true then
        perform machserial._require_quantity(_generate.quantity);
    end if;
    select
        n.part_type, n.scopes, n.site_id, n.time_zone, n.format_id, n.format_name, n.allocation,
        n.sequence_increment, n.sequence_maximum, n.random_space, n.counter_id
    into plan
    from machserial.numbering_plans as n
    where
        n.part_id = _generate.part_id and n.site_id = coalesce(_generate.site_id, 'DEFAULT')
        and n.format = coalesce(_generate.format, '')
        and n.pattern = case when _generate.format is null then coalesce(_generate.pattern, '') else '' end
        -- A condition on the key, as sequential scans are off.
        and n.configuration = (
            select sum(c.changes) from machserial.configuration_changes as c where c.id > 0
        )
        and n.valid_from <= now() and n.valid_until > now();
    if _generate.request_id is not null then
        select c.id, c.is_repeated into request_number, is_repeated
        from machserial._claim_request(
            'generate', _generate.site_id, _generate.request_id, jsonb_build_object(
                'part_id', _generate.part_id, 'quantity', _generate.quantity, 'format', _generate.format,
                'pattern', _generate.pattern, 'context', coalesce(_generate.context, '{}')
            )
        ) as c;
        if is_repeated then
            return query select s.* from machserial._serials_of_request(request_number) as s;
            return;
        end if;
    end if;
    if plan.format_id is not null then
        issue := (
            _generate.part_id, plan.part_type, plan.scopes, plan.site_id,
            machserial._time_at_site(plan.site_id, plan.time_zone, now()),
            plan.format_id, plan.format_name, plan.allocation, plan.sequence_increment,
            plan.sequence_maximum, plan.random_space, plan.counter_id,
            machserial._require_context(_generate.context), _generate.quantity, null
        )::machserial._issue;
    else
        issue := machserial._resolve(
            _generate.part_id, _generate.quantity, _generate.format, _generate.pattern, _generate.site_id,
            _generate.context
        );
        perform machserial._keep_plan(
            _generate.part_id, issue.site_id, coalesce(_generate.format, ''),
            case when _generate.format is null then coalesce(_generate.pattern, '') else '' end,
            issue.counter_id
        );
    end if;
    remarks := nullif(issue.context - '{work_order_id,lot_number,operation_code}'::text[], '{}');
    is_trusting := _generate.quantity >= 100 or issue.sequence_maximum is null;

    while wanted > 0 loop
        if issue.sequence_maximum is null then
            numbers := machserial._draw_unsequenced(issue, wanted);
        else
            select d.numbers, d.sequence_values into numbers, sequence_values
            from machserial._draw_sequenced(issue, wanted, attempt) as d;
            issue.drawn_from := coalesce(issue.drawn_from, sequence_values[1]);
        end if;
        -- Reads as '' once it has been set, and as null before.
        if current_setting('machserial.debug', true) in ('on', 'true', 'yes', '1') then
            perform machserial._tell_choice(
                issue,
                case
                    when _generate.format is not null then 'asked for by name'
                    when _generate.pattern is not null then 'of the pattern given'
                    else 'assigned to the part or its type'
                end,
                attempt, numbers, sequence_values
            );
        end if;
        -- Every insert goes through its numbers in one and the same order, so that two which meet cannot
        -- deadlock. It asks the part for its scopes: a change of them waits for this statement, or this
        -- statement for the change.
        if is_trusting then
            begin
                with recorded as (
                    insert into machserial.serials (
                        serial_number, sequence_number, part_id, part_type, site_id, source, scopes,
                        format_id, work_order_id, lot_number, operation_code, context, generation_request_id
                    )
                    select
                        n.number, n.sequence_value, issue.part_id, issue.part_type, issue.site_id,
                        'SYSTEM_GENERATED',
                        (select p.default_scopes from machserial.parts as p where p.id = issue.part_id),
                        issue.format_id, issue.context ->> 'work_order_id', issue.context ->> 'lot_number',
                        issue.context ->> 'operation_code', remarks, request_number
                    from unnest(numbers, sequence_values) as n (number, sequence_value)
                    where not (select machserial._claimed_elsewhere(numbers, issue.part_id)) ? n.number
                    order by n.number collate "C"
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
                get stacked diagnostics broken_constraint = constraint_name;
                if broken_constraint = 'serials_pkey' then
                    perform machserial._raise_unclaimed(numbers[1], numbers);
                elsif not machserial._is_claim(broken_constraint) then
                    raise;
                end if;
                -- Random numbers are drawn again, all of them; a sequence is asked for those that are
                -- missing.
                is_trusting := issue.sequence_maximum is null;
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
                (select p.default_scopes from machserial.parts as p where p.id = issue.part_id),
                issue.format_id, issue.context ->> 'work_order_id', issue.context ->> 'lot_number',
                issue.context ->> 'operation_code', remarks, request_number
            from unnest(numbers, sequence_values) as n (number, sequence_value)
            where not (select machserial._claimed_elsewhere(numbers, issue.part_id)) ? n.number
            order by n.number collate "C"
            on conflict do nothing
            returning id, serial_number, sequence_number;
            get diagnostics inserted = row_count;
            if inserted < cardinality(numbers) then
                perform machserial._require_claimed(
                    numbers, numbers, issue.scopes, issue.site_id, issue.part_type
                );
            end if;
            wanted := wanted - inserted;
        end if;
        attempt := attempt + 1;
    end loop;
end
$$;

-- SECURITY DEFINER: a caller that draws a number also records it. Only the owner may call the parts of this.
create function machserial.generate(
    part_id text, quantity integer default 1, format text default null, pattern text default null,
    site_id text default null, context jsonb default '{}', request_id text default null
)
returns table (serial_id bigint, serial_number text, sequence_number bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
-- Where there is no index, a scan costs so much by that setting that PostgreSQL would compile the query.
set jit = off
as $$
#variable_conflict use_column
begin
    -- The commonest call of all, one number by the part's numbering plan, is one statement and nothing else:
    -- each further expression here costs 2 us a transaction.
    if generate.quantity = 1 then
        return query
        insert into machserial.serials (
            serial_number, sequence_number, part_id, part_type, site_id, source, scopes, format_id,
            work_order_id, lot_number, operation_code, context
        )
        select
            r.number, r.value, r.part_id, r.part_type, r.site_id, 'SYSTEM_GENERATED', r.scopes, r.format_id,
            r.context ->> 'work_order_id', r.context ->> 'lot_number', r.context ->> 'operation_code',
            nullif(r.context - '{work_order_id,lot_number,operation_code}'::text[], '{}')
        from (
            select
                d.*, case
                    when d.check_signs is not null then machserial._checked_number(
                        d.head, lpad(d.value::text, d.width, '0'), d.tail, d.check_middle, d.check_start,
                        d.check_moves, d.check_steps, d.check_signs
                    )
                    when d.width is not null then d.head || lpad(d.value::text, d.width, '0') || d.tail
                    else machserial._render_one(
                        d.format_id, d.format_name, d.value, d.random_space, d.time_zone, d.site_id, d.part_id,
                        generate.context
                    )
                end as number
            from (
                select
                    n.part_id, n.part_type, n.site_id, n.scopes, n.format_id, n.format_name, n.random_space,
                    n.time_zone, n.head, n.width, n.tail, n.check_middle, n.check_start, n.check_moves,
                    n.check_steps, n.check_signs,
                    nullif(generate.context, '{}') as context,
                    -- Two conditions, not one with AND: where the first is null, AND looks at the second as
                    -- well, and a lock that is taken there stays.
                    case
                        when
                            generate.request_id is null and jsonb_typeof(generate.context) = 'object'
                            -- What is longer may be too long for an index: _require_context() looks.
                            and pg_column_size(generate.context) <= 255
                            and current_setting('machserial.debug', true) in ('on', 'true', 'yes', '1')
                            is not true
                            and not machserial._may_be_limited()
                            and pg_sequence_last_value(n.sequence) < n.trusted_until
                            then case
                                when pg_try_advisory_lock_shared(
                                    hashtext('machserial.block'), hashint8(n.counter_id)
                                )
                                    then (array[
                                        case
                                            when pg_sequence_last_value(n.sequence) < n.trusted_until
                                                then nextval(n.sequence)
                                        end,
                                        pg_advisory_unlock_shared(
                                            hashtext('machserial.block'), hashint8(n.counter_id)
                                        )::integer
                                    ])[1]
                            end
                    end as value
                from machserial.numbering_plans as n
                where
                    n.part_id = generate.part_id
                    and n.site_id = coalesce(generate.site_id, 'DEFAULT')
                    and n.format = coalesce(generate.format, '')
                    and n.pattern
                    = case when generate.format is null then coalesce(generate.pattern, '') else '' end
                    and n.configuration = (
                        -- A condition on the key, as sequential scans are off.
                        select sum(c.changes) from machserial.configuration_changes as c where c.id > 0
                    )
                    and n.valid_from <= now() and n.valid_until > now()
                -- OFFSET 0: nextval() is evaluated once per row.
                offset 0
            ) as d
            where d.value is not null
            offset 0
        ) as r
        -- As _is_claimed_elsewhere() does.
        where not exists (
            select from machserial.serials as s
            where
                s.serial_number = r.number and s.holds_claim
                and 'ENTERPRISE' = any(s.scopes) <> ('ENTERPRISE' = any(r.scopes))
        )
        on conflict do nothing
        returning id, serial_number, sequence_number;
        if found then
            return;
        end if;
    end if;
    if machserial._may_be_limited() then
        perform machserial._require_visible_site(coalesce(generate.site_id, 'DEFAULT'));
    end if;
    return query
    select g.serial_id, g.serial_number, g.sequence_number
    from machserial._generate(
        generate.part_id, generate.quantity, generate.format, generate.pattern, generate.site_id,
        generate.context, generate.request_id
    ) as g;
end
$$;

comment on function machserial.generate(text, integer, text, text, text, jsonb, text) is
'Issues serial numbers for a part and puts them on record; they exist if and only if the transaction commits.
quantity: 1 to 1,000,000. format: a format by name; else pattern: an ad-hoc pattern, which becomes a format
of its own; else the part''s format (format_for). site_id: null means DEFAULT. context: an object that may
hold work_order_id, lot_number, operation_code (at most 255 characters) and what {CTX:...} names. request_id
(at most 255 characters): the same call with the
same request_id gives the same serials and consumes nothing. Numbers that are taken are stepped over, random
ones drawn again. While machserial.debug is on, a notice tells what is chosen: format, counter, token values.
Errors: 22023 a bad argument, a context that lacks what the pattern needs or makes no serial number of it, a
request_id used for something else; 23503 unknown part, site or format, a site that the role is not granted, no
format assigned; 54000 a context that is too long, a
new pattern beyond the limits of ad-hoc formats; 55000 a deactivated format; 2200H no numbers left.';
