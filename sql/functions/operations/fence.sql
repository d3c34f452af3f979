-- Fencing: after a restore the counters know less than the world does. Each is moved past the highest number
-- that has left the building; what lies between becomes an accounted gap.

-- Whether a counter's period is the present one, at its site or at any.
create function machserial._is_counting(period text, site_id text, reset text) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return reset = 'NEVER' or exists (
        select from machserial.sites as s
        where
            _is_counting.site_id in ('', s.id)
            and machserial._period(_is_counting.reset, now() at time zone s.time_zone) = _is_counting.period
    );
end
$$;

-- The value of a sequence number as it is written; null for one beyond bigint.
create function machserial._sequence_value(digits text, alphabet text) returns bigint
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    total numeric := 0;
begin
    for place in 1..length(digits) loop
        total := total * length(alphabet) + strpos(alphabet, substr(digits, place, 1)) - 1;
    end loop;
    return case when total <= 9223372036854775807 then total end;
end
$$;

-- A day that these date tokens name, the nearest one to today where they leave the century open; null if
-- there is none.
create function machserial._day_named(dates jsonb) returns date
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    template constant text := (
        select string_agg(case d.key when 'WW' then 'IW' else d.key end, '-' order by d.key)
        from jsonb_each_text(dates) as d
    );
    shown constant text := (select string_agg(d.value, '-' order by d.key) from jsonb_each_text(dates) as d);
begin
    return (
        select day::date
        from generate_series('1970-01-01'::timestamp, '2099-12-31'::timestamp, '1 day') as day
        where to_char(day, template) = shown
        order by abs(day::date - current_date), day
        limit 1
    );
end
$$;

-- What a number that stands on a part tells of its counter, by one version of a format. Several rows: it can
-- be read in several ways.
create function machserial._read_serial(serial_number text, format_id bigint, part_id text, site_id text)
returns table (sequence_number bigint, day date, part text, site text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    known record;
begin
    select f.pattern, f.letter_case, f.sequence_maximum, t.alphabet into known
    from machserial.serial_formats as f
    cross join lateral machserial._tokenize(f.pattern) as t
    where f.id = _read_serial.format_id and t.token = 'SEQ';
    return query
    select distinct
        machserial._sequence_value(way ->> 'SEQ', known.alphabet),
        machserial._day_named(way - '{SEQ,PART,SITE}'::text[]), p.id, s.id
    from unnest(machserial._divisions(
        case known.letter_case when 'UPPER' then upper(serial_number) else serial_number end, known.pattern,
        known.letter_case, machserial._date_tokens() || '{SEQ,PART,SITE}'::text[]
    )) as way
    left join machserial.parts as p
        on case known.letter_case when 'UPPER' then upper(p.id) else p.id end = way ->> 'PART'
    left join machserial.sites as s
        on case known.letter_case when 'UPPER' then upper(s.id) else s.id end = way ->> 'SITE'
    where
        machserial._date_errors(way - '{SEQ,PART,SITE}'::text[]) = '{}'
        and machserial._sequence_value(way ->> 'SEQ', known.alphabet) <= known.sequence_maximum
        and (not way ? 'PART' or p.id = coalesce(_read_serial.part_id, p.id))
        and (not way ? 'SITE' or s.id = coalesce(_read_serial.site_id, s.id));
end
$$;

-- The number that a call of fence() names. version_id: the version that wrote it, null for a bare sequence
-- number.
create type machserial._named_number as (
    version_id bigint,
    sequence_number bigint,
    day date,
    part text,
    site text
);

-- The highest number that was named: a serial number as it stands on a part, of any version of the format, or
-- a bare sequence number.
create function machserial._read_highest(format text, highest text, part_id text, site_id text)
returns machserial._named_number
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    candidate record;
    ways integer;
    named machserial._named_number;
begin
    for candidate in
        select f.id from machserial.serial_formats as f
        where f.name = _read_highest.format and f.sequence_maximum is not null
        order by f.is_active desc, f.version desc
    loop
        select count(*), min(r.sequence_number), min(r.day), min(r.part), min(r.site)
        into ways, named.sequence_number, named.day, named.part, named.site
        from machserial._read_serial(
            _read_highest.highest, candidate.id, _read_highest.part_id, _read_highest.site_id
        ) as r;
        if ways > 1 then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = pg_catalog.format(
                    'serial number %L can be read in %s ways', machserial._shown(_read_highest.highest), ways
                ),
                detail = pg_catalog.format(
                    'Format %s does not tell where its sequence number stands, or of which part and site it is.',
                    _read_highest.format
                ),
                hint = 'Give part_id and site_id, or the sequence number alone.';
        elsif ways = 1 then
            named.version_id := candidate.id;
            return named;
        end if;
    end loop;
    if _read_highest.highest !~ '^[0-9]{1,18}$' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = pg_catalog.format(
                '%L is no serial number of format %s', machserial._shown(_read_highest.highest),
                _read_highest.format
            ),
            detail = coalesce(
                (
                    select machserial._shown(v.errors[1])
                    from machserial.serial_formats as f
                    cross join lateral machserial.validate_serial(_read_highest.highest, f.pattern) as v
                    where f.name = _read_highest.format
                    order by f.is_active desc, f.version desc
                    limit 1
                ),
                'It is of a part or a site that is not registered here.'
            ),
            hint = 'Give it as it stands on the part, or the sequence number alone.';
    end if;
    named.sequence_number := _read_highest.highest::bigint;
    return named;
end
$$;

-- Whether the numbers of a version are counted on by the active one.
create function machserial._is_continued(version_id bigint, active_id bigint) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        with recursive line as (
            select active_id as id
            union
            select f.continues
            from machserial.serial_formats as f
            inner join line as l on l.id = f.id
            where f.continues is not null
        )

        select from line as l where l.id = version_id
    );
end
$$;

create type machserial._fenced as (
    counter_id bigint,
    next_before bigint,
    next_after bigint
);

-- Moves one counter past this value, as far as its pattern holds; it never goes back.
create function machserial._fence_counter(
    counter_id bigint, format machserial.serial_format, highest bigint, margin bigint
)
returns machserial._fenced
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    maximum constant bigint := (
        select f.sequence_maximum from machserial.serial_formats as f where f.id = format.id
    );
    increment constant bigint := format.sequence_increment;
    next_before constant bigint := (
        select coalesce(machserial._last_value(c.id) + increment, c.first_value)
        from machserial.counters as c where c.id = _fence_counter.counter_id
    );
    bound constant numeric := coalesce(highest, next_before - increment) + margin::numeric * increment;
    -- Along the values that the counter gives; at the end of the pattern none is left.
    steps constant numeric := greatest(0, least(
        floor((bound - next_before) / increment) + 1, floor((maximum::numeric - next_before) / increment) + 1
    ));
begin
    if steps > 0 then
        perform machserial._set_counter(
            counter_id, format.allocation, (next_before + steps * increment)::bigint, increment
        );
    end if;
    return (
        counter_id, next_before,
        (
            select coalesce(machserial._last_value(c.id) + increment, c.first_value)
            from machserial.counters as c where c.id = _fence_counter.counter_id
        )
    )::machserial._fenced;
end
$$;

-- Which counters a call of fence() is about.
create function machserial._counters_to_fence(
    format machserial.serial_format, part_id text, site_id text, at timestamp, is_named boolean
)
returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if is_named then
        return array[machserial._present_counter(
            format, part_id, coalesce(site_id, 'DEFAULT'),
            coalesce(at, machserial._local_time(coalesce(site_id, 'DEFAULT')))
        )];
    end if;
    return array(
        select c.id from machserial.counters as c
        where
            c.format_id = format.id and machserial._is_counting(c.period, c.site_id, format.reset)
            and (c.part_id = '' or c.part_id = coalesce(_counters_to_fence.part_id, c.part_id))
            and (c.site_id = '' or c.site_id = coalesce(_counters_to_fence.site_id, c.site_id))
        order by c.id
    );
end
$$;

create function machserial._require_fence_arguments(
    format machserial.serial_format, named machserial._named_number, highest text, margin bigint
)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    maximum constant bigint := (
        select f.sequence_maximum from machserial.serial_formats as f where f.id = format.id
    );
begin
    if margin is null or margin not between 0 and 1000000000 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = pg_catalog.format('margin cannot be %s', coalesce(margin::text, 'null')),
            detail = 'It is 0 to 1,000,000,000 numbers.',
            hint = 'Give as many numbers as may have left the building unnoticed.';
    elsif highest is null then
        return;
    elsif maximum is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = pg_catalog.format('format %s has no counter', format.name),
            detail = pg_catalog.format('Its pattern %L has no {SEQ:n}.', format.pattern),
            hint = 'Nothing of it can be fenced: register the numbers that are in use.';
    elsif named.sequence_number > maximum then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = pg_catalog.format('format %s has no number %s', format.name, named.sequence_number),
            detail = pg_catalog.format('The highest that its pattern holds is %s.', maximum),
            hint = 'Give the serial number as it stands on the part.';
    elsif format.counter_per in ('PART', 'SITE_PART') then
        if named.part is null then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = pg_catalog.format('format %s counts for each part', format.name),
                detail = 'part_id is null, and the number does not tell its part.',
                hint = 'Give part_id.';
        end if;
        perform machserial._require_known_part(named.part);
    end if;
end
$$;

create function machserial.fence(
    format text, highest text default null, part_id text default null, site_id text default null,
    reason text default null, margin bigint default 0
)
returns table (
    format_name text, counter_key text, period text, highest_number bigint, next_before bigint,
    next_after bigint, burned bigint, outcome text
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    active machserial.serial_format;
    pause_id constant bigint := (select p.id from machserial.pauses as p where p.resumed_at is null);
    given_reason constant text := machserial._require_reason(
        fence.reason, pg_catalog.format('format %s: to be fenced', fence.format)
    );
    named machserial._named_number;
    at timestamp;
    fenced machserial._fenced;
    counted record;
begin
    perform machserial._require_administrator('machserial.fence()');
    active := machserial._active_format(fence.format);
    if fence.highest is not null then
        named := machserial._read_highest(fence.format, btrim(fence.highest), fence.part_id, fence.site_id);
    end if;
    named.part := coalesce(fence.part_id, named.part);
    named.site := coalesce(fence.site_id, named.site);
    perform machserial._require_fence_arguments(active, named, fence.highest, fence.margin);
    if not machserial._is_continued(coalesce(named.version_id, active.id), active.id) then
        return query
        select
            fence.format, null::text, null::text, named.sequence_number, null::bigint, null::bigint, 0::bigint,
            'VERSION_ENDED';
        return;
    end if;
    at := case when active.reset <> 'NEVER' then named.day end;
    for fenced in
        select (m.fenced).*
        from (
            select machserial._fence_counter(k.id, active, named.sequence_number, fence.margin) as fenced
            from unnest(machserial._counters_to_fence(
                active, named.part, named.site, at, fence.highest is not null
            )) as k (id)
        ) as m
    loop
        insert into machserial.counter_fences (counter_id, pause_id, highest, next_before, next_after)
        values (
            fenced.counter_id, pause_id, named.sequence_number, fenced.next_before, fenced.next_after
        );
        select c.part_id, c.site_id, c.period into counted
        from machserial.counters as c where c.id = fenced.counter_id;
        format_name := active.name;
        counter_key := concat_ws('/', nullif(counted.site_id, ''), nullif(counted.part_id, ''));
        period := counted.period;
        highest_number := named.sequence_number;
        next_before := fenced.next_before;
        next_after := fenced.next_after;
        burned := (fenced.next_after - fenced.next_before) / active.sequence_increment;
        outcome := case
            when burned > 0 then 'MOVED' when fence.highest is null then 'CONFIRMED' else 'ALREADY_PAST'
        end;
        perform machserial._audit_fence(given_reason, nullif(counted.part_id, ''), nullif(counted.site_id, ''),
            jsonb_build_object(
                'format', active.name, 'period', counted.period, 'highest', named.sequence_number,
                'margin', fence.margin, 'next_before', next_before, 'next_after', next_after, 'burned', burned
            ));
        return next;
    end loop;
end
$$;

create function machserial._audit_fence(reason text, part_id text, site_id text, details jsonb) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    reason_before constant text := coalesce(current_setting('machserial.reason', true), '');
begin
    perform set_config('machserial.reason', reason, true);
    perform machserial._audit('COUNTER_FENCED', part_id, site_id, details);
    perform set_config('machserial.reason', reason_before, true);
end
$$;

comment on function machserial.fence(text, text, text, text, text, bigint) is
'Moves a format''s counter past the highest number that is known to have left the building, never back; the
numbers between become a gap that the event COUNTER_FENCED accounts for. highest: a serial number as it stands
on a part, or a sequence number; null: nothing left beyond what the database knows, said of all counters that
count now. part_id, site_id: for which counter, where the number itself does not tell; the period is read from
the number, else it is the present one. reason: why; null means machserial.reason. margin: so many numbers
more.
outcome: MOVED, ALREADY_PAST, CONFIRMED, or VERSION_ENDED for a number of a version that counts no more. A
sequence keeps the move even if the transaction is rolled back.
Errors: 22023 no reason, a number that the format cannot have written or that can be read in several ways, a
missing part_id; 23503 unknown format, part or site; 42501 neither the owner nor an administrator; 55000 a
deactivated format.';
