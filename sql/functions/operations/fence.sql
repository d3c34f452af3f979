-- Fencing: after a restore the counters know less than the world does. Each is moved past the highest number
-- that has left the building; what lies between becomes an accounted gap.

-- Counters that may give a number now and of which nobody has said yet what has left the building.
create function machserial.unfenced_counters()
returns table (format text, counter_key text, period text, last_value bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform machserial._require_administrator('machserial.unfenced_counters()');
    return query
    select
        f.name, concat_ws('/', nullif(k.site_id, ''), nullif(k.part_id, '')), k.period,
        machserial._last_value(c.id)
    from machserial.pauses as p
    cross join machserial.serial_formats as f
    cross join lateral machserial._counting_keys(f.id) as k
    left join machserial.counters as c
        on c.format_id = f.id and c.part_id = k.part_id and c.site_id = k.site_id and c.period = k.period
    where
        p.resumed_at is null and p.until_fenced and f.is_active
        and not exists (
            select from machserial.counter_fences as d where d.pause_id = p.id and d.counter_id = c.id
        )
    order by f.name, k.site_id, k.part_id, k.period;
end
$$;

comment on function machserial.unfenced_counters() is
'After a restore: the counters for which fence() has not been called yet, also those whose present period
began after the backup. resume() is refused while there are any.';

create function machserial._require_fenced() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    missing record;
begin
    select
        count(*) as counters,
        string_agg(distinct quote_literal(u.format), ', ' order by quote_literal(u.format)) as formats
    into missing
    from machserial.unfenced_counters() as u;
    if missing.counters > 0 then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('%s counters are not fenced', missing.counters),
            detail = format(
                'Of these formats nobody has said which numbers left the building after the backup: %s.',
                missing.formats
            ),
            hint = 'Call machserial.fence(format, highest) for each, without highest where none did; '
                'or machserial fence.';
    end if;
end
$$;

-- What a format counts in the present periods: for each key that any of its versions has counted for. The
-- counter itself may be missing, where the period has begun after the backup.
create function machserial._counting_keys(format_id bigint)
returns table (part_id text, site_id text, period text, at timestamp)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select distinct on (k.part_id, k.site_id, p.period) k.part_id, k.site_id, p.period, p.at
    from machserial.serial_formats as f
    cross join lateral (
        select distinct c.part_id, c.site_id
        from machserial.counters as c
        inner join machserial.serial_formats as v on v.id = c.format_id and v.name = f.name
        where
            (c.part_id <> '') = (f.counter_per in ('PART', 'SITE_PART'))
            and (c.site_id <> '') = (f.counter_per in ('SITE', 'SITE_PART'))
    ) as k
    inner join machserial.sites as s on k.site_id in ('', s.id)
    cross join lateral (
        select machserial._period(f.reset, t.at) as period, t.at
        from (
            values (case f.reset
                when 'NEVER' then now() at time zone 'UTC' else machserial._time_at(s.time_zone, now())
            end)
        ) as t (at)
    ) as p
    where f.id = _counting_keys.format_id and f.sequence_maximum is not null and p.at is not null
    order by k.part_id, k.site_id, p.period, p.at;
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
create function machserial._nearest_date(dates jsonb) returns date
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
        machserial._nearest_date(way - '{SEQ,PART,SITE}'::text[]), p.id, s.id
    from unnest(machserial._divisions(
        case known.letter_case when 'UPPER' then upper(serial_number collate "C") else serial_number end, known.pattern,
        known.letter_case, machserial._date_tokens() || '{SEQ,PART,SITE}'::text[]
    )) as way
    left join machserial.parts as p
        on case known.letter_case when 'UPPER' then upper(p.id collate "C") else p.id end = way ->> 'PART'
    left join machserial.sites as s
        on case known.letter_case when 'UPPER' then upper(s.id collate "C") else s.id end = way ->> 'SITE'
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
    number constant text := machserial._trimmed(_read_highest.highest);
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
            number, candidate.id, _read_highest.part_id, _read_highest.site_id
        ) as r;
        if ways > 1 then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = pg_catalog.format(
                    'serial number %L can be read in %s ways', machserial._shown(number), ways
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
    if number !~ '^[0-9]{1,18}$' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = pg_catalog.format(
                '%L is no serial number of format %s', machserial._shown(number),
                _read_highest.format
            ),
            detail = coalesce(
                (
                    select machserial._shown(v.errors[1])
                    from machserial.serial_formats as f
                    cross join lateral machserial.validate_serial(number, f.pattern) as v
                    where f.name = _read_highest.format
                    order by f.is_active desc, f.version desc
                    limit 1
                ),
                'It is of a part or a site that is not registered here.'
            ),
            hint = 'Give it as it stands on the part, or the sequence number alone.';
    end if;
    named.sequence_number := number::bigint;
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

-- A counter that a call of fence() is about, and what becomes of it. counter_id: null for one that is yet to
-- be made. at: a local time within its period.
create type machserial._fence_step as (
    counter_id bigint,
    part text,
    site text,
    period text,
    at timestamp,
    next_before bigint,
    next_after bigint
);

-- What a counter that gives next_before next gives when it is past this value, as far as its pattern holds;
-- it never goes back.
create function machserial._fenced_value(
    format machserial.serial_format, next_before bigint, highest bigint, margin bigint
)
returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    maximum constant bigint := (
        select f.sequence_maximum from machserial.serial_formats as f where f.id = format.id
    );
    increment constant bigint := format.sequence_increment;
    bound constant numeric := coalesce(highest, next_before - increment) + margin::numeric * increment;
    -- Along the values that the counter gives; at the end of the pattern none is left.
    steps constant numeric := greatest(0, least(
        floor((bound - next_before) / increment) + 1, floor((maximum::numeric - next_before) / increment) + 1
    ));
begin
    return (next_before + steps * increment)::bigint;
end
$$;

-- The counters that give numbers now, of part and site where they are given.
create function machserial._present_counters(format machserial.serial_format, part_id text, site_id text)
returns setof machserial._fence_step
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select c.id, k.part_id, k.site_id, k.period, k.at, null::bigint, null::bigint
    from machserial._counting_keys(format.id) as k
    left join machserial.counters as c
        on c.format_id = format.id and c.part_id = k.part_id and c.site_id = k.site_id and c.period = k.period
    where
        (k.part_id = '' or k.part_id = coalesce(_present_counters.part_id, k.part_id))
        and (k.site_id = '' or k.site_id = coalesce(_present_counters.site_id, k.site_id))
    order by k.site_id, k.part_id, k.period;
end
$$;

-- The counter of a number that was named. Where the number does not tell its day, a counter that is common to
-- all sites may be in two periods at once.
create function machserial._named_counters(
    format machserial.serial_format, part_id text, site_id text, at timestamp
)
returns setof machserial._fence_step
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select distinct on (n.period)
        c.id, n.part, n.site, n.period, n.local_time, null::bigint, null::bigint
    from machserial.sites as s
    cross join lateral (
        select
            machserial._key_part(format.counter_per, _named_counters.part_id) as part,
            machserial._key_site(format.counter_per, s.id) as site,
            t.local_time, machserial._period(format.reset, t.local_time) as period
        from coalesce(
            _named_counters.at,
            case format.reset
                when 'NEVER' then now() at time zone 'UTC' else machserial._time_at(s.time_zone, now())
            end
        ) as t (local_time)
    ) as n
    left join machserial.counters as c
        on
            c.format_id = format.id and c.part_id = n.part and c.site_id = n.site
            and c.period = n.period
    where s.id = coalesce(_named_counters.site_id, s.id) and n.local_time is not null
    order by n.period, s.id;
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
    if named.site is not null then
        perform machserial._require_known_site(named.site);
        if format.reset <> 'NEVER' and named.day is null then
            perform machserial._local_time(named.site);
        end if;
    elsif format.counter_per in ('SITE', 'SITE_PART') then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = pg_catalog.format('format %s counts for each site', format.name),
            detail = pg_catalog.format('site_id is null, and the number does not tell its site. Sites: %s.',
                machserial._first_of(machserial._sites_that_count(format.name))),
            hint = 'Give site_id.';
    end if;
end
$$;

-- The sites that a format has numbered for; all where there is none yet.
create function machserial._sites_that_count(format_name text) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    counting constant text[] := array(
        select distinct c.site_id
        from machserial.counters as c
        inner join machserial.serial_formats as f on f.id = c.format_id
        where f.name = format_name and c.site_id <> ''
        order by c.site_id
    );
begin
    if counting <> '{}' then
        return counting;
    end if;
    return array(select s.id from machserial.sites as s order by s.id);
end
$$;

-- What a call of fence() names. Raises what fence() refuses.
create function machserial._understand_fence(
    format machserial.serial_format, highest text, part_id text, site_id text, margin bigint
)
returns machserial._named_number
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    named machserial._named_number;
begin
    if highest is not null then
        named := machserial._read_highest(
            format.name, btrim(highest), _understand_fence.part_id, _understand_fence.site_id
        );
    end if;
    named.version_id := coalesce(named.version_id, format.id);
    named.part := coalesce(_understand_fence.part_id, named.part);
    named.site := coalesce(_understand_fence.site_id, named.site);
    perform machserial._require_fence_arguments(format, named, highest, margin);
    return named;
end
$$;

-- What fence() does to each counter. is_named: a highest number was given.
create function machserial._fence_steps(
    format machserial.serial_format, named machserial._named_number, is_named boolean, margin bigint
)
returns setof machserial._fence_step
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    step machserial._fence_step;
begin
    for step in
        select c.*
        from machserial._present_counters(format, named.part, named.site) as c
        where not is_named
        union all
        select c.*
        from machserial._named_counters(
            format, named.part, named.site, case when format.reset <> 'NEVER' then named.day end
        ) as c
        where is_named
    loop
        step.next_before := case
            when step.counter_id is null
                then machserial._first_value(format.id, step.part, step.site, step.period)
            else coalesce(
                machserial._last_value(step.counter_id) + format.sequence_increment,
                (select c.first_value from machserial.counters as c where c.id = step.counter_id)
            )
        end;
        step.next_after := machserial._fenced_value(format, step.next_before, named.sequence_number, margin);
        return next step;
    end loop;
end
$$;

create function machserial._fence_outcome(next_before bigint, next_after bigint, is_named boolean)
returns text
language sql immutable parallel safe
return case
    when next_after > next_before then 'MOVED' when is_named then 'ALREADY_PAST' else 'CONFIRMED'
end;

create function machserial.preview_fence(
    format text, highest text default null, part_id text default null, site_id text default null,
    margin bigint default 0
)
returns table (
    format_name text, counter_key text, period text, highest_number bigint, next_before bigint,
    next_after bigint, burned bigint, outcome text
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    is_named constant boolean := preview_fence.highest is not null;
    active machserial.serial_format;
    named machserial._named_number;
begin
    perform machserial._require_administrator('machserial.preview_fence()');
    active := machserial._active_format(preview_fence.format);
    named := machserial._understand_fence(
        active, preview_fence.highest, preview_fence.part_id, preview_fence.site_id, preview_fence.margin
    );
    if not machserial._is_continued(named.version_id, active.id) then
        return query
        select
            active.name, null::text, null::text, named.sequence_number, null::bigint, null::bigint,
            0::bigint, 'VERSION_ENDED';
        return;
    end if;
    return query
    select
        active.name, concat_ws('/', nullif(s.site, ''), nullif(s.part, '')), s.period, named.sequence_number,
        s.next_before, s.next_after, (s.next_after - s.next_before) / active.sequence_increment,
        machserial._fence_outcome(s.next_before, s.next_after, is_named)
    from machserial._fence_steps(active, named, is_named, preview_fence.margin) as s;
end
$$;

comment on function machserial.preview_fence(text, text, text, text, bigint) is
'What fence() would do now with these arguments: the same rows. Changes nothing.
Errors: 22023 a number that the format cannot have written or that can be read in several ways, a missing
part_id or site_id; 23503 unknown format, part or site; 42501 neither the owner nor an administrator; 55000 a
deactivated format.';

-- Moves the counter, which is made if need be. Returns the step as it was taken: others may have drawn since.
create function machserial._take_fence_step(
    format machserial.serial_format, inout step machserial._fence_step
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    step.counter_id := machserial._make_counter(
        format.id, step.part, step.site, step.at, with_sequence => false
    );
    if step.next_after > step.next_before then
        perform machserial._revive_counter(step.counter_id);
        perform machserial._set_counter(
            step.counter_id, format.allocation, step.next_after, format.sequence_increment
        );
    end if;
    step.next_after := (
        select coalesce(machserial._last_value(c.id) + format.sequence_increment, c.first_value)
        from machserial.counters as c where c.id = step.counter_id
    );
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
    is_named constant boolean := fence.highest is not null;
    active machserial.serial_format;
    named machserial._named_number;
    pause_id constant bigint := (select p.id from machserial.pauses as p where p.resumed_at is null);
    given_reason constant text := machserial._require_reason(
        fence.reason, pg_catalog.format('fence format %s', fence.format)
    );
    step machserial._fence_step;
begin
    perform machserial._require_administrator('machserial.fence()');
    active := machserial._active_format(fence.format);
    named := machserial._understand_fence(
        active, fence.highest, fence.part_id, fence.site_id, fence.margin
    );
    format_name := active.name;
    highest_number := named.sequence_number;
    if not machserial._is_continued(named.version_id, active.id) then
        burned := 0;
        outcome := 'VERSION_ENDED';
        return next;
        return;
    end if;
    for step in
        select s.* from machserial._fence_steps(active, named, is_named, fence.margin) as s
    loop
        step := machserial._take_fence_step(active, step);
        insert into machserial.counter_fences (counter_id, pause_id, highest, next_before, next_after)
        values (step.counter_id, pause_id, highest_number, step.next_before, step.next_after);
        counter_key := concat_ws('/', nullif(step.site, ''), nullif(step.part, ''));
        period := step.period;
        next_before := step.next_before;
        next_after := step.next_after;
        burned := (step.next_after - step.next_before) / active.sequence_increment;
        outcome := machserial._fence_outcome(step.next_before, step.next_after, is_named);
        perform machserial._audit(
            'COUNTER_FENCED', nullif(step.part, ''), nullif(step.site, ''),
            jsonb_build_object(
                'format', active.name, 'period', step.period, 'highest', highest_number,
                'margin', fence.margin, 'next_before', next_before, 'next_after', next_after, 'burned', burned
            ),
            given_reason
        );
        return next;
    end loop;
end
$$;

comment on function machserial.fence(text, text, text, text, text, bigint) is
'Moves a format''s counter past the highest number that is known to have left the building, never back; the
numbers between become a gap that the event COUNTER_FENCED accounts for. highest: a serial number as it stands
on a part, or a sequence number; null: nothing left beyond what the database knows, said of all counters that
count now. part_id, site_id: for which counter, where the number itself does not tell; the period is read from
the number, else it is the present one, or each of them while sites are in different ones. preview_fence()
shows what it would do. reason: why; null means machserial.reason. margin: so many numbers
more.
outcome: MOVED, ALREADY_PAST, CONFIRMED, or VERSION_ENDED for a number of a version that counts no more. A
sequence keeps the move even if the transaction is rolled back.
Errors: 54000 a text that is too long; 22023 no reason, a number that the format cannot have written or that
can be read in several ways, a missing part_id or site_id; 23503 unknown format, part or site; 42501 neither
the owner nor an administrator; 55000 a deactivated format.';
