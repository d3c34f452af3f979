-- The registry: numbers that are entered rather than generated, and looking numbers up.

create function machserial._refuse_identity_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    was jsonb;
    becomes jsonb;
begin
    select jsonb_object_agg(o.key, o.value), jsonb_object_agg(o.key, to_jsonb(new) -> o.key) into was, becomes
    from jsonb_each(to_jsonb(old)) as o
    where
        o.key in (
            'id', 'serial_number', 'part_id', 'part_type', 'site_id', 'source', 'format_id',
            'sequence_number',
            'created_at', 'created_by'
        )
        and o.value <> to_jsonb(new) -> o.key;
    if was is null then
        return new;
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('serial %s is on record: what it is cannot be changed', old.serial_number),
        detail = format(
            'It has %s, the change says %s.', machserial._shown(was::text), machserial._shown(becomes::text)
        ),
        hint = case
            when was ? 'sequence_number'
                then 'Issued numbers stay. To move a counter on: '
                    'machserial.reset_counter(format, next_value, reason => ...).'
            else 'Register the right number, and take this one out of use.'
        end;
end
$$;

-- A direct insert may leave out what the part says: its type, and where its numbers must not repeat.
create function machserial._complete_serial() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    select coalesce(new.part_type, p.part_type), coalesce(new.scopes, p.default_scopes)
    into new.part_type, new.scopes
    from machserial.parts as p
    where p.id = new.part_id;
    if not found then
        perform machserial._raise_unknown('part', new.part_id, 'machserial.register_part');
    end if;
    return new;
end
$$;

create function machserial._raise_taken(serial_number text, claims text, hint text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'unique_violation',
        message = format('serial number %s is taken', serial_number),
        detail = format('It is claimed in %s.', claims),
        hint = hint,
        table = 'serials', schema = 'machserial';
end
$$;

-- A number that one call gives twice is claimed by none but the call itself.
create function machserial._raise_given_twice(serial_number text, detail text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'unique_violation',
        message = format('serial number %s is given twice', serial_number),
        detail = detail,
        hint = 'Give each number once.',
        table = 'serials', schema = 'machserial';
end
$$;

create function machserial._require_registrable(
    serial_numbers text[], source text, on_conflict text
)
returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if serial_numbers is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'serial_numbers is missing',
            detail = 'serial_numbers is null.',
            hint = 'Give an array of the numbers.';
    end if;
    perform machserial._require_one_of(
        'source', source, '{MANUAL,IMPORT,VENDOR,LATE_ASSIGNMENT}'
    );
    perform machserial._require_one_of('on_conflict', on_conflict, '{RAISE,RECORD}');
end
$$;

create function machserial.register_serials(
    serial_numbers text[], part_id text, site_id text default null, scopes text[] default null,
    source text default 'MANUAL', on_conflict text default 'RAISE'
)
returns table (serial_number text, serial_id bigint, has_conflict boolean, conflict_id bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    numbers constant text[] := machserial._serial_numbers(register_serials.serial_numbers);
    place record;
    own_scopes constant text[] := case
        when register_serials.scopes is not null then machserial._known_scopes(register_serials.scopes)
    end;
    wanted_scopes text[];
    registered record;
    duplicates text[];
    first_place integer;
begin
    perform machserial._require_registrable(
        register_serials.serial_numbers, register_serials.source, register_serials.on_conflict
    );
    select p.* into place
    from machserial._place(register_serials.part_id, register_serials.site_id) as p;
    wanted_scopes := coalesce(own_scopes, place.scopes);
    with recorded as (
        insert into machserial.serials (serial_number, part_id, part_type, site_id, source, scopes)
        select
            n.number, p.id, p.part_type, place.site_id, upper(register_serials.source collate "C"),
            -- The part's scopes now: a change of them waits for this statement, or this statement for it.
            coalesce(own_scopes, p.default_scopes)
        from unnest(numbers) as n (number)
        inner join machserial.parts as p on p.id = register_serials.part_id
        where not (
            select machserial._claimed_elsewhere(numbers, register_serials.part_id, own_scopes)
        ) ? n.number
        -- The same order in every insert, so that two which meet cannot deadlock.
        order by n.number collate "C"
        on conflict do nothing
        returning id, serial_number
    )
    select array_agg(r.id) as ids, array_agg(r.serial_number) as numbers into registered from recorded as r;
    return query select n.number, n.id, false, null::bigint
    from unnest(registered.numbers, registered.ids) as n (number, id);
    -- A number given twice in one call is registered once and conflicts with itself.
    duplicates := array(
        select n.number collate "C"
        from unnest(numbers) as n (number)
        except all
        select n.number from unnest(registered.numbers) as n (number)
        order by 1
    );
    if duplicates = '{}' then
        return;
    end if;
    perform machserial._require_claimed(
        duplicates, numbers, wanted_scopes, place.site_id, place.part_type
    );
    if upper(register_serials.on_conflict collate "C") = 'RAISE' then
        if duplicates[1] = any(registered.numbers) then
            first_place := array_position(numbers, duplicates[1]);
            perform machserial._raise_given_twice(duplicates[1], format(
                'It is number %s and number %s of those given.', first_place,
                array_position(numbers, duplicates[1], first_place + 1)
            ));
        end if;
        perform machserial._raise_taken(
            duplicates[1],
            (
                select c.description
                from machserial._claims_for_number(duplicates[1], wanted_scopes, place.site_id, place.part_type) as c
            ),
            'Check the part; on_conflict => ''RECORD'' puts the duplicate on record.'
        );
    end if;
    return query select r.serial_number, null::bigint, true, r.conflict_id
    from machserial._record_conflicts(
        duplicates, register_serials.part_id, place.site_id, place.part_type, wanted_scopes,
        upper(register_serials.source collate "C")
    ) as r;
end
$$;

comment on function machserial.register_serials(text[], text, text, text[], text, text) is
'Puts numbers on record that somebody else has chosen; they are trimmed. scopes: where they must not repeat
(null: the part''s default). source: MANUAL, IMPORT, VENDOR or LATE_ASSIGNMENT. on_conflict: RAISE, or
RECORD, which writes each duplicate to serial_conflicts and registers the others.
Errors: 22023 a bad argument; 23503 unknown part or site; 23505 a number is taken.';

create function machserial.register_serial(
    serial_number text, part_id text, site_id text default null, scopes text[] default null,
    source text default 'MANUAL', on_conflict text default 'RAISE',
    out serial_id bigint, out has_conflict boolean, out conflict_id bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    select r.serial_id, r.has_conflict, r.conflict_id into serial_id, has_conflict, conflict_id
    from machserial.register_serials(
        array[serial_number], part_id, site_id, scopes, source, on_conflict
    ) as r;
end
$$;

comment on function machserial.register_serial(text, text, text, text[], text, text) is
'Puts one number on record; see register_serials().
Errors: 22023 a bad argument; 23503 unknown part or site; 23505 the number is taken.';

create function machserial.find_serial(serial_number text) returns setof machserial.serial
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    number constant text := machserial._trimmed(find_serial.serial_number);
begin
    return query
    select
        s.id, s.serial_number, s.part_id, s.part_type, s.site_id, s.source, s.status, s.scopes, s.format_id,
        s.sequence_number, s.work_order_id, s.lot_number, s.operation_code, s.context, s.created_at,
        s.created_by
    from machserial.serials as s
    where s.serial_number = number
    order by s.id;
end
$$;

comment on function machserial.find_serial(text) is
'Every serial with this number, which is trimmed, of whatever part, site and status.';
