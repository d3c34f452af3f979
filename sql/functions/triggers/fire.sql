-- Events: which triggers answer them, what these make, and why one does not.

-- What happened to one lot of units. label: what to call it in an error; null: there is only this one.
create type machserial._event as (
    ordinal integer,
    quantity integer,
    context jsonb,
    label text
);

-- A JSONPath holds where it yields anything but false or null: a predicate that is true, a filter that finds.
create function machserial._meets(conditions jsonb, context jsonb) returns boolean
language sql immutable parallel safe
return case jsonb_typeof(conditions)
    when 'object' then context @> conditions
    else coalesce(
        jsonb_path_query_first(context, (conditions #>> '{}')::jsonpath, '{}', true)
        not in ('false'::jsonb, 'null'::jsonb),
        false
    )
end;

-- What a context must tell for a vendor's numbers to be received, and does not; null: nothing.
create function machserial._lacks_for_receipt(context jsonb) returns text
language sql immutable parallel safe
return case
    when coalesce(btrim(context ->> 'vendor_name'), '') = '' then 'vendor_name'
    when jsonb_typeof(context -> 'serial_numbers') = 'array' then null
    when context ? 'serial_numbers' then 'serial_numbers as an array'
    when jsonb_typeof(context -> 'serial_number') in ('string', 'number') then null
    when context ->> 'serial_number' is null then 'serial_number'
    else 'serial_number as a text'
end;

create function machserial._received_date(context jsonb) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not context ? 'received_date' then
        return null;
    end if;
    perform machserial._require_time('received_date', (context ->> 'received_date')::timestamptz);
    return (context ->> 'received_date')::timestamptz;
exception when invalid_datetime_format or datetime_field_overflow then
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('received_date cannot be %L', machserial._shown(context ->> 'received_date')),
        detail = format('The context is %s.', machserial._shown(context::text)),
        hint = 'Write it as in 2026-11-24 or 2026-11-24T10:00:00Z.';
end
$$;

create function machserial._numbers_to_receive(context jsonb) returns text[]
language sql immutable parallel safe
return case jsonb_typeof(context -> 'serial_numbers')
    when 'array' then array(select jsonb_array_elements_text(context -> 'serial_numbers'))
    else array[context ->> 'serial_number']
end;

-- Part and site of some events; 23503 names the first of them if there is no such site.
create function machserial._place_of(
    events machserial._event[], part_id text, inout site_id text, out part_type text, out scopes text[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    detail text;
    hint text;
    broken_constraint text;
begin
    select p.site_id, p.part_type, p.scopes into site_id, part_type, scopes
    from machserial._place(part_id, _place_of.site_id) as p;
exception when foreign_key_violation then
    get stacked diagnostics
        detail = pg_exception_detail, hint = pg_exception_hint, broken_constraint = constraint_name;
    perform machserial._raise_about(
        array(select e.label from unnest(events) as e order by e.ordinal), sqlstate, sqlerrm, detail, hint,
        broken_constraint
    );
end
$$;

create function machserial._make_placeholders(part_id text, site_id text, events machserial._event[])
returns table (ordinal integer, placeholder_id bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    place record;
    ordinals constant integer[] := array(
        select e.ordinal
        from unnest(_make_placeholders.events) as e
        cross join lateral generate_series(1, e.quantity)
        order by e.ordinal
    );
    ids bigint[];
begin
    select p.* into place
    from machserial._place_of(
        _make_placeholders.events, _make_placeholders.part_id, _make_placeholders.site_id
    ) as p;
    with created as (
        insert into machserial.late_assignment_placeholders (
            part_id, site_id, work_order_id, lot_number, operation_code, context
        )
        select
            _make_placeholders.part_id, place.site_id, e.context ->> 'work_order_id',
            e.context ->> 'lot_number', e.context ->> 'operation_code',
            nullif(e.context - '{work_order_id,lot_number,operation_code}'::text[], '{}')
        from unnest(ordinals) as o (ordinal)
        inner join unnest(_make_placeholders.events) as e on e.ordinal = o.ordinal
        order by e.ordinal
        returning id
    )
    select array_agg(c.id order by c.id) into ids from created as c;
    -- Ids ascend in the order in which the rows were inserted.
    return query select u.ordinal, u.id from unnest(ordinals, ids) as u (ordinal, id);
end
$$;

-- The numbers that events bring from a vendor, one row each, with what else the event says; occurrence counts
-- the numbers that are the same.
create function machserial._numbers_received(events machserial._event[])
returns table (ordinal integer, label text, context jsonb, number text, occurrence bigint)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select
        e.ordinal, e.label, e.context, n.number,
        row_number() over (partition by n.number order by e.ordinal)
    -- Once per event, therefore the offset: to take thousands of numbers out for each of them takes long.
    from (
        select
            u.ordinal, u.label, u.context - '{serial_number,serial_numbers}'::text[] as context,
            machserial._numbers_to_receive(u.context) as numbers
        from unnest(_numbers_received.events) as u
        offset 0
    ) as e
    cross join lateral (
        select machserial._trimmed(g.number) as number from unnest(e.numbers) as g (number)
    ) as n;
end
$$;

-- Raises why a number was not received.
create function machserial._raise_not_received(
    part_id text, site_id text, number text, is_repeated boolean, label text
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    detail text;
    hint text;
    broken_constraint text;
begin
    if is_repeated then
        perform machserial._raise_given_twice(number, 'One event, or several of one statement, bring it.');
    end if;
    perform machserial._raise_not_registered(
        machserial._serial_number(number), array[number], part_id, site_id
    );
exception when others then
    get stacked diagnostics
        detail = pg_exception_detail, hint = pg_exception_hint, broken_constraint = constraint_name;
    perform machserial._raise_about(array[label], sqlstate, sqlerrm, detail, hint, broken_constraint);
end
$$;

-- Puts a vendor's numbers on record, all of them or none, with the contexts that they came in.
create function machserial._make_receipts(part_id text, site_id text, events machserial._event[])
returns table (ordinal integer, serial_id bigint, serial_number text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    -- What is said in columns of its own.
    told constant text[] := '{work_order_id,lot_number,operation_code,vendor_name,received_date}'::text[];
    characters constant text := machserial._serial_characters();
    lacking record;
    place record;
    received record;
begin
    select e.label, e.context, machserial._lacks_for_receipt(e.context) as key into lacking
    from unnest(_make_receipts.events) as e
    where machserial._lacks_for_receipt(e.context) is not null
    order by e.ordinal
    limit 1;
    if lacking.key is not null then
        perform machserial._raise_about(
            array[lacking.label], '22023',
            format('the context lacks %s', lacking.key),
            format('A VENDOR trigger of part %s needs it; the context is %s.', part_id, lacking.context),
            'Give vendor_name, and serial_number or an array serial_numbers.'
        );
    end if;
    select p.* into place
    from machserial._place_of(_make_receipts.events, _make_receipts.part_id, _make_receipts.site_id) as p;
    with given as materialized (
        select n.* from machserial._numbers_received(_make_receipts.events) as n
    ),

    registered as (
        insert into machserial.serials (
            serial_number, part_id, part_type, site_id, source, status, scopes, work_order_id, lot_number,
            operation_code, context
        )
        select
            g.number, p.id, p.part_type, place.site_id, 'VENDOR', 'PENDING', p.default_scopes,
            g.context ->> 'work_order_id', g.context ->> 'lot_number', g.context ->> 'operation_code',
            nullif(g.context - told, '{}')
        from given as g
        inner join machserial.parts as p on p.id = _make_receipts.part_id
        where
            g.occurrence = 1 and machserial._is_serial_number(g.number, characters)
            and not (
                select machserial._claimed_elsewhere(
                    array(select o.number from given as o where o.number <> ''), _make_receipts.part_id
                )
            ) ? g.number
        -- The same order in every insert, so that two which meet cannot deadlock.
        order by g.number collate "C"
        on conflict do nothing
        returning id, serial_number
    ),

    -- In the same statement: so one event tells of the serial and of its receipt.
    received as (
        insert into machserial.vendor_serials (id, vendor_name, received_date)
        select
            b.id, b.context ->> 'vendor_name', coalesce(machserial._received_date(b.context), now())
        -- A full join is never a loop in a loop, whatever the planner expects of the numbers. Without the
        -- offset the condition below would make another join of it.
        from (
            select r.id, g.context
            from given as g
            full join (select id, serial_number, 1::bigint as occurrence from registered) as r
                on r.serial_number = g.number and r.occurrence = g.occurrence
            offset 0
        ) as b
        where b.id is not null
        order by b.id
        returning id, serial_number
    )

    select
        array_agg(r.id) filter (where r.id is not null) as ids,
        array_agg(g.number) filter (where r.id is not null) as numbers,
        array_agg(g.ordinal) filter (where r.id is not null) as ordinals,
        count(*) filter (where r.id is null) as refused,
        (array_agg(g.number order by g.ordinal) filter (where r.id is null))[1] as refused_number,
        (array_agg(g.label order by g.ordinal) filter (where r.id is null))[1] as refused_label
    into received
    from given as g
    full join (select id, serial_number, 1::bigint as occurrence from received) as r
        on r.serial_number = g.number and r.occurrence = g.occurrence;
    if received.refused > 0 then
        perform machserial._raise_not_received(
            _make_receipts.part_id, place.site_id, received.refused_number,
            received.refused_number = any(received.numbers), received.refused_label
        );
    end if;
    return query
    select r.* from unnest(received.ordinals, received.ids, received.numbers) as r;
end
$$;

create function machserial._require_possible_quantity(
    trigger_id bigint, batch_size integer, events machserial._event[]
)
returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    quantity constant bigint := (select sum(e.quantity::bigint) * batch_size from unnest(events) as e);
begin
    if quantity > 1000000 then
        perform machserial._raise_about(
            array(select e.label from unnest(events) as e order by e.ordinal), '22023',
            format('trigger %s would make %s units at once', trigger_id, quantity),
            format('It makes %s for each unit of an event; 1,000,000 at once are possible.', batch_size),
            'Split the event into several.'
        );
    end if;
end
$$;

-- What a trigger makes of events at one site.
create function machserial._make(
    assignment_type text, part_id text, format text, site_id text, events machserial._event[]
)
returns table (ordinal integer, serial_id bigint, serial_number text, placeholder_id bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    listed record;
begin
    if _make.assignment_type = 'LATE_ASSIGNMENT' then
        return query select p.ordinal, null::bigint, null::text, p.placeholder_id
        from machserial._make_placeholders(_make.part_id, _make.site_id, _make.events) as p;
    elsif _make.assignment_type = 'VENDOR' then
        return query select r.ordinal, r.serial_id, r.serial_number, null::bigint
        from machserial._make_receipts(_make.part_id, _make.site_id, _make.events) as r;
    else
        select
            array_agg(e.ordinal order by e.ordinal) as ordinals,
            array_agg(e.quantity order by e.ordinal) as quantities,
            array_agg(e.context order by e.ordinal) as contexts,
            array_agg(e.label order by e.ordinal) as labels
        into listed
        from unnest(_make.events) as e;
        return query select listed.ordinals[g.ordinal], g.serial_id, g.serial_number, null::bigint
        from machserial._generate_each(
            _make.part_id, _make.site_id, _make.format, listed.quantities, listed.contexts, listed.labels
        ) as g;
    end if;
end
$$;

-- A GAPLESS counter stays locked until its transaction ends. Where events need several of them they are
-- all locked beforehand, in the order of format, part and site, as by whoever assigns placeholders: so two
-- that need the same ones cannot deadlock. part_ids, contexts: one element per event. SECURITY DEFINER: only
-- the owner can lock counters. Those of sites that the caller may not see are left alone.
create function machserial._hold_gapless(trigger_type text, part_ids text[], contexts jsonb[]) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
declare
    own_sites constant text[] := machserial._caller_sites();
    key record;
    counter_id bigint;
begin
    -- Of one trigger alone they are locked in that order anyway: it goes by sites.
    if (
        select count(*) from machserial.trigger_definitions as d
        where d.part_id = any(part_ids) and d.trigger_type = _hold_gapless.trigger_type and d.enabled
    ) < 2 or not exists (
        select from machserial.serial_formats as f where f.allocation = 'GAPLESS' and f.is_active
    ) then
        return;
    end if;
    for key in
        select distinct
            f.id as format_id,
            machserial._key_part(f.counter_per, u.part_id) as part_id,
            machserial._key_site(f.counter_per, s.id) as site_id,
            machserial._time_at_site(s.id, s.time_zone, now()) as local_time
        from (
            select distinct e.part_id, coalesce(e.context ->> 'site_id', 'DEFAULT') as site_id, d.format
            from unnest(part_ids, contexts) as e (part_id, context)
            cross join lateral (
                select t.* from machserial.trigger_definitions as t
                where t.part_id = e.part_id and t.trigger_type = _hold_gapless.trigger_type and t.enabled
                offset 0
            ) as d
            where
                d.assignment_type = 'SYSTEM_GENERATED'
                and coalesce(e.context ->> 'operation_code' = d.operation_code, d.operation_code is null)
                and machserial._meets(d.conditions, e.context)
        ) as u
        cross join lateral (select t.* from machserial.sites as t where t.id = u.site_id offset 0) as s
        cross join lateral (
            select t.* from machserial.serial_formats as t
            where t.id = case
                when u.format is null then (
                    select machserial._format_id_for(p.id, p.part_type, now())
                    from machserial.parts as p where p.id = u.part_id
                )
                else (select k.id from machserial.serial_formats as k where k.name = u.format and k.is_active)
            end
            offset 0
        ) as f
        where
            f.is_active and f.allocation = 'GAPLESS' and f.sequence_maximum is not null
            and (own_sites is null or s.id = any(own_sites))
        order by format_id, part_id, site_id
    loop
        counter_id := machserial._make_counter(key.format_id, key.part_id, key.site_id, key.local_time);
        perform c.id from machserial.counters as c where c.id = counter_id for update;
    end loop;
end
$$;

-- The triggers that answer an event, in the order of their ids. A session that deletes one of
-- them waits until this transaction has ended, and one that is being deleted does not fire. SECURITY DEFINER:
-- locks what the caller may not write.
create function machserial._hold_triggers(trigger_type text, part_id text) returns setof bigint
language plpgsql security definer rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select d.id
    from machserial.trigger_definitions as d
    where d.part_id = _hold_triggers.part_id and d.trigger_type = _hold_triggers.trigger_type and d.enabled
    order by d.id
    for key share;
end
$$;

-- Everything that the triggers of a part make of some events of one type. Set-wise: a trigger does with one
-- statement what it has to do at one site.
create function machserial._fire_each(trigger_type text, part_id text, events machserial._event[])
returns table (
    ordinal integer, trigger_id bigint, assignment_type text, serial_id bigint, serial_number text,
    placeholder_id bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
-- The planner takes the arrays to be far longer than they are, and would compile every query.
set jit = off
as $$
#variable_conflict use_column
declare
    definition record;
    matching machserial._event[];
    units integer;
begin
    perform machserial._hold_gapless(
        _fire_each.trigger_type, array_fill(_fire_each.part_id, array[cardinality(_fire_each.events)]),
        array(select e.context from unnest(_fire_each.events) as e)
    );
    for definition in
        select d.id, d.assignment_type, d.format, d.operation_code, d.conditions, d.batch_size
        from machserial._hold_triggers(_fire_each.trigger_type, _fire_each.part_id) as h (id)
        inner join machserial.trigger_definitions as d on d.id = h.id
        order by d.id
    loop
        matching := array(
            select e
            from unnest(_fire_each.events) as e
            where
                coalesce(
                    e.context ->> 'operation_code' = definition.operation_code,
                    definition.operation_code is null
                )
                and machserial._meets(definition.conditions, e.context)
        );
        continue when matching = '{}';
        perform machserial._require_possible_quantity(definition.id, definition.batch_size, matching);
        return query
        select
            m.ordinal, definition.id, definition.assignment_type, m.serial_id, m.serial_number,
            m.placeholder_id
        from (
            select
                (e.context ->> 'site_id') collate "C" as site_id,
                array_agg(
                    (e.ordinal, e.quantity * definition.batch_size, e.context, e.label)::machserial._event
                ) as events
            from unnest(matching) as e
            group by site_id
            -- The same order everywhere, so that two which meet at gapless counters cannot deadlock.
            order by site_id
        ) as s
        cross join lateral machserial._make(
            definition.assignment_type, _fire_each.part_id, definition.format, s.site_id, s.events
        ) as m;
        get diagnostics units = row_count;
        perform machserial._count_executions(definition.id, cardinality(matching), units);
    end loop;
end
$$;

create function machserial.fire(
    trigger_type text, part_id text, context jsonb default '{}', quantity integer default 1
)
returns table (
    trigger_id bigint, assignment_type text, serial_id bigint, serial_number text, placeholder_id bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    wanted_type constant text := machserial._require_trigger_type(fire.trigger_type);
    event constant machserial._event := (1, fire.quantity, machserial._require_context(fire.context), null);
begin
    perform machserial._require_quantity(fire.quantity);
    perform machserial._require_known_part(fire.part_id);
    return query
    select f.trigger_id, f.assignment_type, f.serial_id, f.serial_number, f.placeholder_id
    from machserial._fire_each(wanted_type, fire.part_id, array[event]) as f
    order by f.trigger_id, f.serial_id, f.placeholder_id;
end
$$;

comment on function machserial.fire(text, text, jsonb, integer) is
'Tells that something has happened to a part: each of its enabled triggers of this type that the context
agrees with makes quantity x batch_size serials or placeholders, or puts the numbers on record that the
context brings (vendor_name, serial_number or an array serial_numbers, received_date). trigger_type: as in
create_trigger(). context: an object that may hold work_order_id, lot_number, operation_code, site_id, what
{CTX:...} names and what conditions ask for. quantity: 1 to 1,000,000. Returns what was made, in the order of
the triggers; no rows: no trigger fired, and explain_triggers() with the same arguments tells why.
Errors: 54000 a context that is too long;
22023 a bad argument, a context that lacks what the trigger needs; 23503 unknown part or site, no
format assigned; 23505 a vendor''s number is taken; 55000 a deactivated format; 2200H no numbers left.';

-- A condition's own words for what the context has instead, key by key.
create function machserial._unmet(conditions jsonb, context jsonb) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if machserial._meets(conditions, context) then
        return '{}'::text[];
    elsif jsonb_typeof(conditions) = 'string' then
        return array[format(
            'the condition %s does not hold for the context %s', conditions #>> '{}', context
        )];
    end if;
    return array(
        select case
            -- The text "2" and the number 2 only differ as JSON.
            when context ->> c.key = conditions ->> c.key then format(
                'context has %s = %s, condition wants %s', c.key, context -> c.key, c.value
            )
            when context ? c.key then format(
                'context has %s = %s, condition wants %s', c.key, context ->> c.key, conditions ->> c.key
            )
            else format('context lacks %s, condition wants %s', c.key, conditions ->> c.key)
        end
        from jsonb_each(conditions) as c
        where not context @> jsonb_build_object(c.key, c.value)
        order by c.key
    );
end
$$;

-- What keeps a trigger that is to fire from making anything.
create function machserial._unprepared(
    assignment_type text, part_id text, format text, context jsonb
)
returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    site constant text := context ->> 'site_id';
    format_id bigint;
    reasons text[] := '{}'::text[];
begin
    if not exists (select from machserial.sites as s where s.id = coalesce(site, 'DEFAULT')) then
        reasons := reasons || pg_catalog.format('site %s is unknown', site);
    end if;
    if assignment_type = 'VENDOR' then
        return reasons || ('context lacks ' || machserial._lacks_for_receipt(context));
    elsif assignment_type = 'LATE_ASSIGNMENT' then
        return reasons;
    end if;
    if format is not null then
        select f.id into format_id
        from machserial.serial_formats as f where f.name = _unprepared.format and f.is_active;
    else
        select machserial._format_id_for(p.id, p.part_type, now()) into format_id
        from machserial.parts as p where p.id = _unprepared.part_id;
    end if;
    if format_id is null then
        return reasons || case
            when format is null then pg_catalog.format('no format is assigned to %s', part_id)
            else pg_catalog.format('format %s is deactivated', format)
        end;
    end if;
    return reasons || array(
        select pg_catalog.format('context lacks %s, the format needs it', k.key)
        from unnest(machserial._context_keys(format_id)) as k (key)
        where coalesce(context ->> k.key, '') = ''
        order by k.key
    );
end
$$;

-- What keeps a trigger from firing at an event of its type: its operation and its conditions.
create function machserial._disagreements(operation_code text, conditions jsonb, context jsonb) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    present constant text := context ->> 'operation_code';
begin
    return machserial._unmet(conditions, context) || case
        when operation_code is null or operation_code = present then '{}'::text[]
        when present is null
            then array[format('context lacks operation_code, the trigger wants %s', operation_code)]
        else array[
            format('context has operation_code = %s, the trigger wants %s', present, operation_code)
        ]
    end;
end
$$;

create function machserial.explain_triggers(trigger_type text, part_id text, context jsonb default '{}')
returns table (trigger_id bigint, fires boolean, reason text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    event constant text := machserial._require_trigger_type(explain_triggers.trigger_type);
    known_context constant jsonb := machserial._require_context(explain_triggers.context);
begin
    perform machserial._require_known_part(explain_triggers.part_id);
    return query
    select d.id, o.obstacles = '{}', coalesce(nullif(array_to_string(o.obstacles, '; '), ''), 'fires')
    from machserial.trigger_definitions as d
    cross join lateral (
        select array_remove(
            case
                when d.enabled then '{}'::text[]
                else array[format('disabled since %s by %s', d.disabled_at, d.disabled_by)]
            end
            || case
                when d.trigger_type <> event
                    then array[format('it waits for %s, the event is %s', d.trigger_type, event)]
                else
                    machserial._disagreements(d.operation_code, d.conditions, known_context)
                    || machserial._unprepared(d.assignment_type, d.part_id, d.format, known_context)
            end,
            null
        ) as obstacles
    ) as o
    where d.part_id = explain_triggers.part_id
    order by d.id;
    if not found then
        return query
        select null::bigint, false, format('no trigger is configured for %s', explain_triggers.part_id);
    end if;
end
$$;

comment on function machserial.explain_triggers(text, text, jsonb) is
'Why fire() with the same arguments makes what it makes: a row for each trigger of the part, whatever its type
and state, with whether it fires and if not, everything that keeps it from that. A part without triggers: one
row that says so.
Errors: 54000 a context that is too long;
22023 a bad argument; 23503 unknown part.';
