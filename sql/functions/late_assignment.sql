-- Units whose serial is assigned later than they are made: each is a placeholder until it has one.

create type machserial.late_assignment_placeholder as (
    id bigint,
    part_id text,
    site_id text,
    work_order_id text,
    lot_number text,
    operation_code text,
    context jsonb,
    status text,
    serial_id bigint,
    serial_number text,
    assigned_at timestamptz,
    assigned_by text,
    assigned_operation_code text,
    notes text,
    failure_reason text,
    failed_at timestamptz,
    failed_by text,
    created_at timestamptz,
    created_by text
);

comment on type machserial.late_assignment_placeholder is
'A row of machserial.late_assignment_placeholders, with the number of its serial.';

-- Which serial a placeholder may get: one of its own part, and one that is in use or will be.
create function machserial._require_fitting_serial(placeholder_id bigint, part_id text, serial_id bigint)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    serial record;
begin
    select
        s.serial_number, s.part_id, s.status,
        (select p.id from machserial.late_assignment_placeholders as p where p.serial_id = s.id)
            as placeholder_id
    into serial
    from machserial.serials as s
    where s.id = _require_fitting_serial.serial_id;
    if serial_id is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('placeholder %s cannot be SERIALIZED without a serial', placeholder_id),
            detail = 'Its serial_id is null.',
            hint = 'Call machserial.assign_placeholder(placeholder_id), or set serial_id.';
    elsif serial.part_id is null then
        perform machserial._raise_unknown('serial', serial_id::text, 'machserial.register_serial');
    elsif serial.part_id <> part_id then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('serial %s does not fit placeholder %s', serial.serial_number, placeholder_id),
            detail = format('The serial is of part %s, the placeholder of part %s.', serial.part_id, part_id),
            hint = 'Give the placeholder a serial of its own part.';
    elsif serial.placeholder_id <> placeholder_id then
        -- A friendlier error; the unique constraint is the guarantee.
        raise exception using
            errcode = 'unique_violation',
            message = format('serial %s is assigned already', serial.serial_number),
            detail = format('Placeholder %s has it.', serial.placeholder_id),
            hint = 'Give the placeholder another: machserial.assign_placeholder(placeholder_id).',
            constraint = 'late_assignment_placeholders_serial_id_key', table = 'late_assignment_placeholders',
            schema = 'machserial';
    elsif serial.status not in ('PENDING', 'ACTIVE') then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format(
                'serial %s is %s and cannot be assigned', serial.serial_number, serial.status
            ),
            detail = format('Placeholder %s needs a serial that is PENDING or ACTIVE.', placeholder_id),
            hint = 'Give it another: machserial.assign_placeholder(placeholder_id).';
    end if;
end
$$;

-- A direct insert or update may give just the serial, or just the reason of the failure.
create function machserial._finish_placeholder() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    actor constant text := machserial._actor();
begin
    if new.status = 'FAILED' then
        new.failure_reason := machserial._require_reason(
            new.failure_reason, format('fail placeholder %s', new.id)
        );
        new.failed_at := coalesce(new.failed_at, now());
        new.failed_by := coalesce(new.failed_by, actor);
    elsif new.status in ('PENDING', 'SERIALIZED') then
        perform machserial._require_fitting_serial(new.id, new.part_id, new.serial_id);
        new.status := 'SERIALIZED';
        new.assigned_at := coalesce(new.assigned_at, now());
        new.assigned_by := coalesce(new.assigned_by, actor);
    end if;
    return new;
end
$$;

create function machserial._refuse_placeholder_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('placeholder %s is %s: %s', old.id, old.status, case old.status
            when 'PENDING' then 'which unit it stands for cannot be changed'
            else 'nothing but its notes can be changed'
        end),
        detail = format(
            'The change is %s.',
            machserial._shown((machserial._changes(to_jsonb(old), to_jsonb(new)) - 'notes')::text)
        ),
        hint = case old.status
            when 'PENDING'
                then 'End it with machserial.fail_placeholder(placeholder_id, reason), and create another.'
            else 'A unit that needs another serial needs another placeholder: '
                'machserial.create_placeholders(part_id).'
        end;
end
$$;

create function machserial._audit_new_placeholders() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
-- A session keeps the plan of its first statement: one that was made for thousands would be compiled for
-- every single row.
set jit = off
as $$
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, reason, details
    )
    select
        'PLACEHOLDER_CREATED', current_setting('application_name'), n.serial_id,
        (select s.serial_number from machserial.serials as s where s.id = n.serial_id), n.part_id, n.site_id,
        coalesce(n.failure_reason, nullif(current_setting('machserial.reason', true), '')),
        jsonb_strip_nulls(jsonb_build_object(
            'placeholder_id', n.id, 'status', nullif(n.status, 'PENDING'), 'work_order_id', n.work_order_id,
            'lot_number', n.lot_number, 'operation_code', n.operation_code, 'context', n.context
        ))
    from new_placeholders as n
    order by n.id;
    return null;
end
$$;

-- Not in the details: what the event itself says (when, by whom, why).
create function machserial._audit_changed_placeholders() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    left_out constant text[] := '{assigned_at,assigned_by,failure_reason,failed_at,failed_by}'::text[];
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, reason, details
    )
    select
        case when n.status = o.status then 'PLACEHOLDER_UPDATED' else 'PLACEHOLDER_' || n.status end,
        current_setting('application_name'), n.serial_id,
        (select s.serial_number from machserial.serials as s where s.id = n.serial_id), n.part_id, n.site_id,
        coalesce(
            case when n.status <> o.status then n.failure_reason end,
            nullif(current_setting('machserial.reason', true), '')
        ),
        c.changes || jsonb_build_object('placeholder_id', n.id)
    from new_placeholders as n
    full join old_placeholders as o on o.id = n.id
    cross join lateral (
        select machserial._changes(to_jsonb(o), to_jsonb(n) - left_out) as changes
        -- OFFSET 0: evaluated once per row.
        offset 0
    ) as c
    where c.changes is not null
    order by n.id;
    return null;
end
$$;

-- Placeholders as functions return them, in the order of the ids.
create function machserial._placeholders(placeholder_ids bigint[])
returns setof machserial.late_assignment_placeholder
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    return query
    select
        p.id, p.part_id, p.site_id, p.work_order_id, p.lot_number, p.operation_code, p.context, p.status,
        p.serial_id, (select s.serial_number from machserial.serials as s where s.id = p.serial_id),
        p.assigned_at, p.assigned_by, p.assigned_operation_code, p.notes,
        p.failure_reason, p.failed_at, p.failed_by, p.created_at, p.created_by
    from unnest(placeholder_ids) with ordinality as i (id, ordinal)
    cross join lateral (
        select r.* from machserial.late_assignment_placeholders as r where r.id = i.id offset 0
    ) as p
    order by i.ordinal;
end
$$;

create function machserial.create_placeholders(
    part_id text, quantity integer default 1, work_order_id text default null, lot_number text default null,
    operation_code text default null, site_id text default null, context jsonb default null
)
returns setof machserial.late_assignment_placeholder
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    site constant text := coalesce(create_placeholders.site_id, 'DEFAULT');
    ids bigint[];
begin
    perform machserial._require_quantity(create_placeholders.quantity);
    perform machserial._require_known_part(create_placeholders.part_id);
    perform machserial._require_known_site(site);
    perform machserial._require_context(create_placeholders.context);
    perform machserial._require_short('work_order_id', create_placeholders.work_order_id);
    perform machserial._require_short('lot_number', create_placeholders.lot_number);
    perform machserial._require_short('operation_code', create_placeholders.operation_code);
    with created as (
        insert into machserial.late_assignment_placeholders (
            part_id, site_id, work_order_id, lot_number, operation_code, context
        )
        select
            create_placeholders.part_id, site, create_placeholders.work_order_id,
            create_placeholders.lot_number, create_placeholders.operation_code, create_placeholders.context
        from generate_series(1, create_placeholders.quantity)
        returning id
    )
    select array_agg(c.id order by c.id) into ids from created as c;
    return query select p.* from machserial._placeholders(ids) as p;
end
$$;

comment on function machserial.create_placeholders(text, integer, text, text, text, text, jsonb) is
'Puts units on record that get their serial later, one placeholder a unit. quantity: 1 to 1,000,000. What
the serials will be told: work_order_id, lot_number, operation_code (where they are to be given) and context
(an object with what {CTX:...} in the part''s format names). site_id: null means DEFAULT. Returns the
placeholders.
Errors: 22023 a bad argument; 23503 unknown part or site.';

-- What became of the first of those that are not PENDING any more, and how many they are.
create function machserial._raise_finished(placeholder_ids bigint[], quantity integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    finished constant machserial.late_assignment_placeholder := machserial._placeholders(placeholder_ids[:1]);
begin
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('placeholder %s is %s', finished.id, finished.status),
        detail = case finished.status
            when 'FAILED'
                then format(
                    'Since %s, by %s: %s', finished.failed_at, finished.failed_by, finished.failure_reason
                )
            else format(
                'It got serial %s at %s by %s.', finished.serial_number, finished.assigned_at,
                finished.assigned_by
            )
        end || case
            when quantity > 1 then format(
                ' Not PENDING are %s of the %s given: %s.', cardinality(placeholder_ids), quantity,
                array_to_string(placeholder_ids[:20], ', ')
            )
            else ''
        end,
        hint = 'Those that wait for a serial: machserial.pending_placeholders(part_id).';
end
$$;

-- Locks placeholders before they are assigned or fail, so that the loser of a race has consumed nothing.
create function machserial._lock_pending(placeholder_ids bigint[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    seen record;
begin
    -- The same order in every call, so that two which meet cannot deadlock.
    perform from machserial.late_assignment_placeholders as p
    where p.id = any(_lock_pending.placeholder_ids)
    order by p.id
    for update;
    select
        array_agg(i.id order by i.id) filter (where p.id is null) as unknown,
        array_agg(i.id order by i.id) filter (where i.times > 1) as repeated,
        array_agg(p.id order by p.id) filter (where p.status <> 'PENDING') as finished
    into seen
    from (
        select u.id, count(*) as times from unnest(_lock_pending.placeholder_ids) as u (id) group by u.id
    ) as i
    left join lateral (
        select r.id, r.status from machserial.late_assignment_placeholders as r where r.id = i.id offset 0
    ) as p on true;
    if seen.unknown is not null then
        raise exception using
            errcode = 'no_data_found',
            message = format('there is no placeholder with id %s', coalesce(seen.unknown[1]::text, 'null')),
            detail = format(
                'Unknown are %s of the %s that were given: %s.', cardinality(seen.unknown),
                cardinality(placeholder_ids), array_to_string(seen.unknown[:20], ', ', 'null')
            ),
            hint = 'Those that wait for a serial: machserial.pending_placeholders(part_id).';
    elsif seen.repeated is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('placeholder %s is given more than once', seen.repeated[1]),
            detail = format('More than once: %s.', array_to_string(seen.repeated[:20], ', ')),
            hint = 'A placeholder gets one serial; name each once.';
    elsif seen.finished is not null then
        perform machserial._raise_finished(seen.finished, cardinality(placeholder_ids));
    end if;
end
$$;

-- The placeholders of a work order that wait for their serial, locked.
create function machserial._lock_work_order(work_order_id text) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    ids constant bigint[] := array(
        select p.id
        from machserial.late_assignment_placeholders as p
        where
            p.work_order_id = _lock_work_order.work_order_id
            -- PENDING, said so that the index of all that are is not read instead.
            and p.status not in ('SERIALIZED', 'FAILED')
        order by p.id
        for update
    );
begin
    if cardinality(ids) > 0 then
        return ids;
    elsif exists (
        select from machserial.late_assignment_placeholders as p
        where p.work_order_id = _lock_work_order.work_order_id
    ) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('work order %s has no placeholder that is PENDING', work_order_id),
            detail = 'All of them are SERIALIZED or FAILED.',
            hint = 'For more units: machserial.create_placeholders(part_id, quantity, work_order_id).';
    end if;
    raise exception using
        errcode = 'no_data_found',
        message = format('work order %s has no placeholders', work_order_id),
        detail = 'machserial.late_assignment_placeholders has no row with this work_order_id.',
        hint = 'Create them: machserial.create_placeholders(part_id, quantity, work_order_id).';
end
$$;

-- Placeholders in the order of the ids, with the numbers that they are to get and the context for their
-- serials.
create function machserial._units_of(placeholder_ids bigint[], serial_numbers text[], operation_code text)
returns table (
    ordinal bigint, placeholder_id bigint, serial_number text, part_id text, part_type text, scopes text[],
    site_id text, context jsonb
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    return query
    select
        i.ordinal, p.id, i.serial_number, p.part_id, a.part_type, a.default_scopes, p.site_id,
        coalesce(p.context, '{}') || jsonb_strip_nulls(jsonb_build_object(
            'work_order_id', p.work_order_id, 'lot_number', p.lot_number,
            'operation_code', coalesce(_units_of.operation_code, p.operation_code)
        ))
    from unnest(_units_of.placeholder_ids, _units_of.serial_numbers)
        with ordinality as i (id, serial_number, ordinal)
    cross join lateral (
        select r.* from machserial.late_assignment_placeholders as r where r.id = i.id offset 0
    ) as p
    cross join lateral (select r.* from machserial.parts as r where r.id = p.part_id offset 0) as a;
end
$$;

-- A serial for each placeholder by its part's format, ascending in the order of the ids.
create function machserial._generate_for(placeholder_ids bigint[], operation_code text)
returns table (placeholder_id bigint, serial_id bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    alike record;
begin
    for alike in
        select
            u.part_id, u.site_id, array_agg(u.placeholder_id order by u.ordinal) as ids,
            array_agg(u.context order by u.ordinal) as contexts
        from machserial._units_of(
            _generate_for.placeholder_ids, null, _generate_for.operation_code
        ) as u
        group by u.part_id, u.part_type, u.site_id
        -- By format first: gapless counters are then locked in one and the same order.
        order by machserial._format_id_for(u.part_id, u.part_type, now()), u.part_id collate "C",
            u.site_id collate "C"
    loop
        return query
        select alike.ids[g.ordinal], g.serial_id
        from machserial._generate_each(
            alike.part_id, alike.site_id, null, array_fill(1, array[cardinality(alike.ids)]), alike.contexts
        ) as g;
    end loop;
end
$$;

create function machserial._raise_number_taken(
    serial_number text, placeholder_id bigint, proposed text[]
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    claim text;
begin
    select c.description into claim
    from machserial.late_assignment_placeholders as p
    inner join machserial.parts as a on a.id = p.part_id
    cross join lateral machserial._claims_for_number(
        _raise_number_taken.serial_number, a.default_scopes, p.site_id, a.part_type
    ) as c
    where p.id = _raise_number_taken.placeholder_id;
    if claim is null then
        perform machserial._raise_unclaimed(serial_number, proposed);
    end if;
    perform machserial._raise_taken(
        serial_number, format('%s; placeholder %s was to get it', claim, placeholder_id),
        'Check the part. A serial that is on record already is assigned by update '
        'machserial.late_assignment_placeholders set serial_id = ... where id = ...'
    );
end
$$;

-- The given numbers as serials of the placeholders: the first for the first, and so on.
create function machserial._register_for(
    placeholder_ids bigint[], serial_numbers text[], operation_code text
)
returns table (placeholder_id bigint, serial_id bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    numbers constant text[] := machserial._serial_numbers(_register_for.serial_numbers);
    answered record;
    refused record;
begin
    with units as (
        select
            u.*,
            row_number() over (
                partition by u.serial_number, u.part_id, u.site_id order by u.ordinal
            ) = 1 as is_first
        from machserial._units_of(
            _register_for.placeholder_ids, numbers, _register_for.operation_code
        ) as u
    ),

    registered as (
        insert into machserial.serials (
            serial_number, part_id, part_type, site_id, source, scopes, work_order_id, lot_number,
            operation_code, context
        )
        select
            u.serial_number, u.part_id, u.part_type, u.site_id, 'LATE_ASSIGNMENT', u.scopes,
            u.context ->> 'work_order_id', u.context ->> 'lot_number', u.context ->> 'operation_code',
            nullif(u.context - '{work_order_id,lot_number,operation_code}'::text[], '{}')
        from units as u
        where
            u.is_first
            -- The placeholders may be of several parts.
            and not case
                when 'ENTERPRISE' = any(u.scopes)
                    then (select machserial._claimed_elsewhere(numbers, null, '{ENTERPRISE}'))
                else (select machserial._claimed_elsewhere(numbers, null, '{SITE}'))
            end ? u.serial_number
        -- The same order in every insert, so that two which meet cannot deadlock.
        order by u.serial_number collate "C"
        on conflict do nothing
        returning id, serial_number, part_id, site_id
    )

    select array_agg(r.id order by u.ordinal) as serial_ids into answered
    from units as u
    left join registered as r
        on u.is_first
        and r.serial_number = u.serial_number and r.part_id = u.part_id and r.site_id = u.site_id;
    select n.* into refused
    from (
        select
            a.placeholder_id, a.serial_id, a.serial_number,
            min(a.placeholder_id) filter (where a.serial_id is not null) over (partition by a.serial_number)
                as given_to
        from unnest(_register_for.placeholder_ids, answered.serial_ids, numbers)
            as a (placeholder_id, serial_id, serial_number)
    ) as n
    where n.serial_id is null
    limit 1;
    if refused.given_to is not null then
        perform machserial._raise_given_twice(refused.serial_number, format(
            'It is for placeholder %s and for placeholder %s.', refused.given_to, refused.placeholder_id
        ));
    elsif refused.placeholder_id is not null then
        perform machserial._raise_number_taken(refused.serial_number, refused.placeholder_id, numbers);
    end if;
    return query
    select a.placeholder_id, a.serial_id
    from unnest(_register_for.placeholder_ids, answered.serial_ids) as a (placeholder_id, serial_id);
end
$$;

create function machserial._serials_for(placeholder_ids bigint[], serial_numbers text[], operation_code text)
returns table (placeholder_id bigint, serial_id bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if serial_numbers is null then
        return query select g.* from machserial._generate_for(placeholder_ids, operation_code) as g;
    elsif cardinality(serial_numbers) = cardinality(placeholder_ids) then
        return query
        select r.* from machserial._register_for(placeholder_ids, serial_numbers, operation_code) as r;
    else
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format(
                '%s serial numbers for %s placeholders', cardinality(serial_numbers),
                cardinality(placeholder_ids)
            ),
            detail = 'Each placeholder gets one, in the order in which they are given.',
            hint = 'Give as many serial_numbers as placeholders, or none: then they are generated.';
    end if;
end
$$;

-- The placeholders are locked and PENDING.
create function machserial._assign_serials(
    placeholder_ids bigint[], serial_numbers text[], operation_code text, notes text
)
returns setof machserial.late_assignment_placeholder
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    -- Placeholder to serial.
    made jsonb;
begin
    -- First the serials, in a statement of their own: the policies of a role that is limited to sites look for them.
    select jsonb_object_agg(s.placeholder_id, s.serial_id) into made
    from machserial._serials_for(
        _assign_serials.placeholder_ids, _assign_serials.serial_numbers, _assign_serials.operation_code
    ) as s;
    update machserial.late_assignment_placeholders as p
    set
        serial_id = (made ->> p.id::text)::bigint, assigned_operation_code = _assign_serials.operation_code,
        notes = coalesce(_assign_serials.notes, p.notes)
    where p.id = any(_assign_serials.placeholder_ids);
    return query select p.* from machserial._placeholders(_assign_serials.placeholder_ids) as p;
end
$$;

create function machserial.assign_placeholder(
    placeholder_id bigint, serial_number text default null, operation_code text default null,
    notes text default null
)
returns machserial.late_assignment_placeholder
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    assigned machserial.late_assignment_placeholder;
begin
    perform machserial._lock_pending(array[placeholder_id]);
    select a.* into assigned
    from machserial._assign_serials(
        array[placeholder_id], case when serial_number is not null then array[serial_number] end,
        operation_code, notes
    ) as a;
    return assigned;
end
$$;

comment on function machserial.assign_placeholder(bigint, text, text, text) is
'Gives a placeholder its serial. serial_number: what stands on the part, registered as LATE_ASSIGNMENT; null
generates one by the part''s format. The serial gets the placeholder''s work order, lot and context.
operation_code: where it happens (null: as planned on the placeholder). notes: null leaves them. Returns the
placeholder. A serial that is on record already is assigned by updating serial_id.
Errors: 54000 a text that is too long; 22023 a bad argument, a context that lacks what the format needs;
23503 no format assigned; 23505 the number is taken; 2200H no numbers left; 55000 the placeholder is not
PENDING; P0002 there is none.';

create function machserial.assign_placeholders(
    work_order_id text default null, placeholder_ids bigint[] default null,
    serial_numbers text[] default null, operation_code text default null, notes text default null
)
returns setof machserial.late_assignment_placeholder
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    ids bigint[] := assign_placeholders.placeholder_ids;
begin
    if num_nonnulls(assign_placeholders.work_order_id, ids) <> 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'which placeholders is not clear',
            detail = case
                when ids is null then 'Neither work_order_id nor placeholder_ids is given.'
                else 'Both work_order_id and placeholder_ids are given.'
            end,
            hint = 'Give one of them.';
    elsif ids is null then
        ids := machserial._lock_work_order(assign_placeholders.work_order_id);
    else
        perform machserial._lock_pending(ids);
    end if;
    return query
    select a.*
    from machserial._assign_serials(
        ids, assign_placeholders.serial_numbers, assign_placeholders.operation_code, assign_placeholders.notes
    ) as a;
end
$$;

comment on function machserial.assign_placeholders(text, bigint[], text[], text, text) is
'Gives many placeholders their serials, all or none; see assign_placeholder(). Either work_order_id: all of
its that are PENDING, or placeholder_ids: those, of whatever part, site and work order. serial_numbers: as
many, in the order of placeholder_ids (of a work order: in the order of the ids); null generates them,
ascending in that order. Returns the placeholders in that order.
Errors: 54000 a text that is too long; 22023 a bad argument, another count of numbers, an id given twice;
23503 no format assigned; 23505 a number is taken; 2200H no numbers left; 55000 one is not PENDING, none of
the work order is; P0002 no such placeholder, none of the work order.';

create function machserial.fail_placeholder(placeholder_id bigint, reason text)
returns machserial.late_assignment_placeholder
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    given constant text := machserial._require_reason(
        reason, format('fail placeholder %s', placeholder_id)
    );
    failed machserial.late_assignment_placeholder;
begin
    perform machserial._lock_pending(array[placeholder_id]);
    update machserial.late_assignment_placeholders as p set status = 'FAILED', failure_reason = given
    where p.id = placeholder_id;
    select p.* into failed from machserial._placeholders(array[placeholder_id]) as p;
    return failed;
end
$$;

comment on function machserial.fail_placeholder(bigint, text) is
'Declares that a unit will never get a serial: it was scrapped, or is not needed. That is for good.
reason: why; null means machserial.reason. Returns the placeholder.
Errors: 54000 a text that is too long; 22023 no reason; 55000 the placeholder is not PENDING; P0002 no such
placeholder.';

create function machserial.pending_placeholders(part_id text default null)
returns setof machserial.late_assignment_placeholder
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
    wanted constant text := pending_placeholders.part_id;
begin
    if wanted is not null then
        perform machserial._require_known_part(wanted);
    end if;
    return query
    select p.*
    from machserial._placeholders(array(
        select w.id
        from machserial.late_assignment_placeholders as w
        where w.status = 'PENDING' and (wanted is null or w.part_id = wanted)
        order by w.created_at, w.id
    )) as p;
end
$$;

comment on function machserial.pending_placeholders(text) is
'The placeholders that wait for their serial, oldest first. part_id: null means of every part.
Errors: 23503 unknown part.';

create function machserial.placeholder_statistics(
    part_id text, out total bigint, out pending bigint, out serialized bigint, out failed bigint,
    out success_rate numeric, out average_seconds numeric
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
begin
    perform machserial._require_known_part(placeholder_statistics.part_id);
    select
        count(*), count(*) filter (where p.status = 'PENDING'),
        count(*) filter (where p.status = 'SERIALIZED'), count(*) filter (where p.status = 'FAILED'),
        round(100 * avg((p.status = 'SERIALIZED')::integer) filter (where p.status <> 'PENDING'), 2),
        round(avg(extract(epoch from p.assigned_at - p.created_at)), 3)
    into total, pending, serialized, failed, success_rate, average_seconds
    from machserial.late_assignment_placeholders as p
    where p.part_id = placeholder_statistics.part_id;
end
$$;

comment on function machserial.placeholder_statistics(text) is
'What became of a part''s placeholders. total, pending, serialized, failed: how many. success_rate: how many
percent (0 to 100) of those that are finished got a serial; null if none is finished. average_seconds: from
the transaction that created a placeholder to the one that gave it its serial, to the millisecond; null if
none has one.
Errors: 23503 unknown part.';
