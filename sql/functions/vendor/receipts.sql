-- Numbers that come in with goods.

-- A receipt that names no serial brings its own: the number is claimed with it. The receipt comes first, so
-- that one event, VENDOR_RECEIVED, tells of both. Its id is drawn here.
create function machserial._new_serial_id(serial_number text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    drawn constant bigint := nextval('machserial.serials_id_seq');
begin
    if exists (select from machserial.serials as s where s.id = drawn) then
        perform machserial._raise_unclaimed(serial_number, array[serial_number]);
    end if;
    return drawn;
end
$$;

-- Makes the serials of these receipts. Returns the receipts whose number is taken. An id that was not drawn
-- makes none. SECURITY DEFINER, as no other role may choose the id of a serial. It takes only ids of its
-- caller: the receipts are on record, at sites that the caller may see.
create function machserial._register_received(ids bigint[]) returns bigint[]
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    last_id constant bigint := pg_sequence_last_value('machserial.serials_id_seq'::regclass);
    drawn bigint[];
    made bigint[];
begin
    drawn := array(
        select i.id from unnest(_register_received.ids) as i (id)
        where
            -- Of this node.
            i.id between greatest((last_id >> 48) << 48, 1) and last_id
            and not exists (select from machserial.serials as s where s.id = i.id)
    );
    with recorded as (
        insert into machserial.serials (
            id, serial_number, part_id, part_type, site_id, source, status, status_reason, scopes
        )
        overriding system value
        select
            v.id, v.serial_number, v.part_id, p.part_type, v.site_id, 'VENDOR', v.status, v.rejection_reason,
            p.default_scopes
        from unnest(drawn) as i (id)
        cross join lateral (
            select r.* from machserial.vendor_serials as r where r.id = i.id offset 0
        ) as v
        inner join machserial.parts as p on p.id = v.part_id
        where not machserial._is_claimed_elsewhere(v.serial_number, p.default_scopes)
        -- The same order in every insert, so that two which meet cannot deadlock.
        order by v.serial_number collate "C"
        on conflict do nothing
        returning id
    )
    select array_agg(r.id) into made from recorded as r;
    return array(select unnest(drawn) except all select unnest(made));
end
$$;

-- The gate: a broken rule keeps a serial from becoming ACTIVE until somebody answers for it.
create function machserial._require_in_order(
    vendor_serial_id bigint, serial_number text, validation_errors text[]
)
returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if validation_errors <> '{}' then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('serial %s breaks the rule of its vendor', serial_number),
            detail = format('On receipt: %s.', array_to_string(validation_errors, '; ')),
            hint = format(
                'Reject it, or answer for it: waive_vendor_rule(%s, reason).', vendor_serial_id
            );
    end if;
end
$$;

-- A receipt that leaves anything out: its serial, what the serial says, what the vendor's rule says to it.
-- A serial of its own is made when the statement's receipts are all on record.
create function machserial._complete_vendor_serial() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    actor constant text := machserial._actor();
begin
    new.vendor_name := machserial._trimmed(new.vendor_name);
    perform machserial._require_name('vendor_name', new.vendor_name);
    if new.id is null then
        new.serial_number := machserial._trimmed(new.serial_number);
        new.site_id := (machserial._place(new.part_id, new.site_id)).site_id;
        new.status := coalesce(new.status, 'PENDING');
        new.id := machserial._new_serial_id(new.serial_number);
    else
        select
            coalesce(new.serial_number, s.serial_number), coalesce(new.part_id, s.part_id),
            coalesce(new.site_id, s.site_id), coalesce(new.status, s.status)
        into new.serial_number, new.part_id, new.site_id, new.status
        from machserial.serials as s where s.id = new.id;
        if not found then
            perform machserial._raise_unknown('serial', new.id::text, 'machserial.register_serial');
        end if;
    end if;
    if new.validated_at is null then
        new.validated_at := now();
        new.validation_errors := coalesce(
            (
                select e.errors from machserial._vendor_rule_errors(
                    array[new.serial_number], machserial._vendor_rule_id(new.vendor_name, new.part_id)
                ) as e
            ),
            '{}'
        );
    end if;
    -- Imported with its history.
    if new.status = 'REJECTED' then
        new.rejection_reason := machserial._require_reason(
            new.rejection_reason, format('reject vendor serial %s', new.serial_number)
        );
        new.rejected_at := coalesce(new.rejected_at, now());
        new.rejected_by := coalesce(new.rejected_by, actor);
    elsif new.status = 'ACTIVE' then
        new.accepted_at := coalesce(new.accepted_at, now());
        new.accepted_by := coalesce(new.accepted_by, actor);
    end if;
    return new;
end
$$;

-- Raises why a number could not be registered that a vendor has sent. proposed: all of the statement.
create function machserial._raise_not_registered(
    serial_number text, proposed text[], part_id text, site_id text
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    place record;
begin
    select p.* into place
    from machserial._place(_raise_not_registered.part_id, _raise_not_registered.site_id) as p;
    perform machserial._require_claimed(
        array[serial_number], proposed, place.scopes, place.site_id, place.part_type
    );
    perform machserial._raise_taken(
        serial_number,
        (
            select c.description
            from machserial._claims_for_number(serial_number, place.scopes, place.site_id, place.part_type) as c
        ),
        'Check the part; machserial.receive_vendor_serials(...) puts the duplicate on record.'
    );
end
$$;

-- Whatever a receipt brought along, it says what the serial says, and does not get past the gate.
create function machserial._examine_new_vendor_serials() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    lonely bigint[];
    taken bigint[];
    wrong record;
begin
    lonely := array(
        select v.id from new_vendor_serials as v
        where not exists (select from machserial.serials as s where s.id = v.id offset 0)
    );
    if lonely <> '{}' then
        taken := machserial._register_received(lonely);
        perform machserial._raise_not_registered(
            v.serial_number, array(select n.serial_number from new_vendor_serials as n), v.part_id, v.site_id
        )
        from new_vendor_serials as v
        where v.id = any(taken);
        perform machserial._raise_unknown('serial', v.id::text, 'machserial.register_serial')
        from new_vendor_serials as v
        where not exists (select from machserial.serials as s where s.id = v.id offset 0);
    end if;
    select
        s.id, row(s.source, s.serial_number, s.part_id, s.site_id, s.status) as is_this,
        row('VENDOR', v.serial_number, v.part_id, v.site_id, v.status) as says_this
    into wrong
    from new_vendor_serials as v
    cross join lateral (select r.* from machserial.serials as r where r.id = v.id offset 0) as s
    where
        (s.source, s.serial_number, s.part_id, s.site_id, s.status)
        <> ('VENDOR', v.serial_number, v.part_id, v.site_id, v.status);
    if wrong.id is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('serial %s is not what the vendor serial says', wrong.id),
            detail = format('It is %s; the vendor serial says %s.', wrong.is_this, wrong.says_this),
            hint = 'Leave out id for a new serial, or all but id for one of source VENDOR.';
    end if;
    perform machserial._require_in_order(v.id, v.serial_number, v.validation_errors)
    from new_vendor_serials as v
    where v.status = 'ACTIVE' and v.waived_at is null;
    return null;
end
$$;

-- What was received stays, and so does who answered for it.
create function machserial._refuse_receipt_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    changed constant text := (
        select string_agg(o.key, ', ' order by o.key)
        from jsonb_each(to_jsonb(old)) as o
        where
            o.value <> to_jsonb(new) -> o.key
            and o.key not in ('status', 'received_date', 'internal_serial_id')
            -- Written by the step or the waiver itself.
            and not (o.key ~ '^accepted_' and new.status = 'ACTIVE' and old.status <> 'ACTIVE')
            and not (o.key ~ '^reject' and new.status = 'REJECTED' and old.status <> 'REJECTED')
            and not (o.key ~ '^waived_' and old.waived_at is null and new.waived_at is not null)
    );
begin
    if changed is null then
        return new;
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format(
            'vendor serial %s is on record: what was received cannot be changed', old.serial_number
        ),
        detail = format('The change is of %s.', changed),
        hint = 'Reject it and receive it again as it is; to accept, reject and waive there are functions.';
end
$$;

create function machserial._audit_new_vendor_serials() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, reason, details
    )
    select
        'VENDOR_RECEIVED', current_setting('application_name'), n.id, n.serial_number, n.part_id, n.site_id,
        coalesce(n.rejection_reason, nullif(current_setting('machserial.reason', true), '')),
        jsonb_build_object(
            'vendor_name', n.vendor_name, 'received_date', n.received_date,
            'validation_errors', n.validation_errors
        )
        -- Imported with what has become of it.
        || jsonb_strip_nulls(jsonb_build_object(
            'status', nullif(n.status, 'PENDING'), 'internal_serial_id', n.internal_serial_id,
            'waived_at', n.waived_at, 'waived_by', n.waived_by, 'waived_reason', n.waived_reason,
            'accepted_at', n.accepted_at, 'accepted_by', n.accepted_by, 'rejected_at', n.rejected_at,
            'rejected_by', n.rejected_by
        ))
    from new_vendor_serials as n;
    return null;
end
$$;

create function machserial.receive_vendor_serial(
    serial_number text, vendor_name text, part_id text, received_date timestamptz default now(),
    site_id text default null
)
returns machserial.vendor_serial
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    number constant text := machserial._serial_number(receive_vendor_serial.serial_number);
    received_id bigint;
begin
    perform machserial._require_time('received_date', receive_vendor_serial.received_date);
    insert into machserial.vendor_serials as v (serial_number, vendor_name, part_id, received_date, site_id)
    values (
        number, receive_vendor_serial.vendor_name, receive_vendor_serial.part_id,
        coalesce(receive_vendor_serial.received_date, now()), receive_vendor_serial.site_id
    )
    returning v.id into received_id;
    return machserial._vendor_serial(received_id);
end
$$;

comment on function machserial.receive_vendor_serial(text, text, text, timestamptz, text) is
'Puts a vendor''s number on record: PENDING, claimed at once in the part''s default scopes, trimmed and else
as it is. What breaks the vendor''s rule is in validation_errors and does not lose the receipt. Returns the
vendor serial.
Errors: 22023 a missing or faulty argument; 23503 unknown part or site; 23505 the number is taken.';

-- Why a number was not received.
create function machserial._receipt_fault(
    serial_number text, characters text, is_repeated boolean, claims text
)
returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(
        machserial._number_fault(serial_number, characters),
        case
            when is_repeated then 'it is given more than once'
            else format('it is taken: %s', coalesce(claims, 'by a concurrent transaction'))
        end
    );
end
$$;

create function machserial.receive_vendor_serials(
    vendor_name text, part_id text, serial_numbers text[], received_date timestamptz default now(),
    site_id text default null
)
returns table (serial_number text, vendor_serial_id bigint, status text, errors text[])
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    characters constant text := machserial._serial_characters();
    place record;
    numbers text[];
    registered record;
    -- One element a number: the serial that it has become, whether it came before, the number if it is taken.
    ids bigint[];
    is_repeated boolean[];
    taken text[];
    broken jsonb;
begin
    perform machserial._require_time('received_date', receive_vendor_serials.received_date);
    perform machserial._require_name('vendor_name', machserial._trimmed(receive_vendor_serials.vendor_name));
    -- The numbers themselves are answered one by one.
    perform machserial._require_registrable(
        case when receive_vendor_serials.serial_numbers is not null then '{}'::text[] end, 'VENDOR', 'RECORD'
    );
    select p.* into place from machserial._place(
        receive_vendor_serials.part_id, receive_vendor_serials.site_id
    ) as p;
    numbers := array(
        select machserial._trimmed(n.number)
        from unnest(receive_vendor_serials.serial_numbers) with ordinality as n (number, ordinal)
        order by n.ordinal
    );
    select jsonb_object_agg(e.serial_number, e.errors) into broken
    from machserial._vendor_rule_errors(
        array(select distinct n.number from unnest(numbers) as n (number) where n.number <> ''),
        machserial._vendor_rule_id(receive_vendor_serials.vendor_name, receive_vendor_serials.part_id)
    ) as e;
    -- One statement: so one event tells of the serial and of its receipt.
    with recorded as (
        insert into machserial.serials (serial_number, part_id, part_type, site_id, source, status, scopes)
        select n.number, p.id, p.part_type, place.site_id, 'VENDOR', 'PENDING', p.default_scopes
        from unnest(numbers) as n (number)
        inner join machserial.parts as p on p.id = receive_vendor_serials.part_id
        where machserial._is_serial_number(n.number, characters) and not (
            select machserial._claimed_elsewhere(array_remove(numbers, null), receive_vendor_serials.part_id)
        ) ? n.number
        -- The same order in every insert, so that two which meet cannot deadlock.
        order by n.number collate "C"
        on conflict do nothing
        returning id, serial_number
    ),

    received as (
        insert into machserial.vendor_serials (
            id, serial_number, part_id, site_id, status, vendor_name, received_date, validated_at,
            validation_errors
        )
        select
            r.id, r.serial_number, receive_vendor_serials.part_id, place.site_id, 'PENDING',
            receive_vendor_serials.vendor_name, coalesce(receive_vendor_serials.received_date, now()), now(),
            array(select jsonb_array_elements_text(broken -> r.serial_number))
        from recorded as r
        returning id, serial_number
    )

    select array_agg(r.id) as ids, array_agg(r.serial_number) as numbers into registered from received as r;
    select array_agg(r.id order by g.ordinal), array_agg(g.occurrence > 1 order by g.ordinal)
    into ids, is_repeated
    from (
        select n.number, n.ordinal, row_number() over (partition by n.number order by n.ordinal) as occurrence
        from unnest(numbers) with ordinality as n (number, ordinal)
    ) as g
    -- Every registered number was given: full only because that is never carried out as a nested loop, for
    -- which the plan may expect few enough numbers.
    full join (
        select n.number, n.id, 1 as occurrence
        from unnest(registered.numbers, registered.ids) as n (number, id)
    ) as r on r.number = g.number and r.occurrence = g.occurrence;
    taken := array(
        select case when n.id is null and machserial._is_serial_number(n.number, characters) then n.number end
        from unnest(numbers, ids) with ordinality as n (number, id, ordinal)
        order by n.ordinal
    );
    perform machserial._require_claimed(
        array_remove(taken, null), numbers, place.scopes, place.site_id, place.part_type
    );
    perform machserial._record_conflicts(
        array_remove(taken, null), receive_vendor_serials.part_id, place.site_id, place.part_type,
        place.scopes, 'VENDOR'
    );
    return query
    select
        n.number, n.id, case when n.id is null then 'REFUSED' else 'PENDING' end,
        case
            when n.id is null then array[
                machserial._receipt_fault(n.number, characters, n.is_repeated, c.description)
            ]
            else array(select jsonb_array_elements_text(broken -> n.number))
        end
    from unnest(numbers, ids, is_repeated) with ordinality as n (number, id, is_repeated, ordinal)
    full join machserial._claims_for_numbers(taken, place.scopes, place.site_id, place.part_type) as c
        on c.ordinal = n.ordinal
    order by n.ordinal;
end
$$;

comment on function machserial.receive_vendor_serials(text, text, text[], timestamptz, text) is
'Puts many numbers of a vendor on record in one call. One row a number, in the order given: those that are
good are PENDING, with what they break of the vendor''s rule in errors; the others are REFUSED, without
vendor_serial_id, with the reason in errors. Numbers that are taken, or given again in the call, are also put
on record in serial_conflicts. serial_number: as stored, trimmed.
Errors: 22023 a missing argument; 23503 unknown part or site.';
