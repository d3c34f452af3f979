-- Formats: how numbers are written and counted, and which parts use which.

-- Two periods of one counter whose date tokens read the same would issue the same numbers twice. Eleven years
-- hold every way in which calendar and ISO years can meet.
create function machserial._require_distinct_periods(pattern text, reset text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    template constant text := (
        select string_agg(k.template, '-' order by t.ordinal)
        from machserial._tokenize(pattern) as t
        inner join machserial._tokens() as k on k.name = t.token
        where t.kind = 'DATE'
    );
    twin record;
begin
    if reset = 'NEVER' then
        return;
    end if;
    select min(d.day) as first_day, max(d.day) as other_day, to_char(min(d.day), template) as text into twin
    from (
        select day, machserial._period(reset, day) as period
        from generate_series('2020-01-01'::timestamp, '2030-12-31'::timestamp, '1 day') as day
    ) as d
    group by coalesce(to_char(d.day, template), '')
    having count(distinct d.period) > 1
    order by min(d.day)
    limit 1;
    if found then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('reset %s would issue numbers of pattern %L twice', reset, pattern),
            detail = format(
                'Its date tokens read %s both on %s and on %s.',
                coalesce(quote_literal(twin.text), 'nothing'),
                twin.first_day::date, twin.other_day::date
            ),
            hint = format('Put %s into the pattern, or reset less often.', case reset
                when 'DAILY' then '{YYYY}{MM}{DD} or {YY}{DDD}' when 'WEEKLY' then '{IYYY}{WW}'
                when 'MONTHLY' then '{YYYY}{MM}' else '{YYYY}'
            end);
    end if;
end
$$;

create function machserial._refuse_format_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if (to_jsonb(new) - '{is_active,description}'::text[]) = (
        to_jsonb(old) - '{is_active,description}'::text[]
    ) then
        return new;
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('format %s version %s cannot be changed', old.name, old.version),
        detail = 'Numbers have been or may have been issued by it as it is.',
        hint = format('Make a new version: machserial.revise_format(%L, pattern => ...).', old.name);
end
$$;

-- Only the format of a pattern may go, and only when its renderer has: _drop_unused_formats() drops that
-- first, which only the owner can.
create function machserial._refuse_loss_of_format() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if old.is_ad_hoc and to_regproc('machserial._render_' || old.id) is null then
        return old;
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = 'formats are kept',
        detail = format('DELETE on machserial.serial_formats: %s version %s.', old.name, old.version),
        hint = 'Take a format out of use with machserial.deactivate_format(name).';
end
$$;

-- A pattern that generate() does not know becomes a format, with a function and a sequence: objects, which
-- take room and locks from everybody.
create function machserial._require_ad_hoc_room(pattern text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    most constant integer := machserial._setting('ad_hoc_formats_limit')::integer;
    made record;
    fault text;
begin
    select count(*) as formats, count(*) filter (where f.created_at = now()) as new_ones into made
    from machserial.serial_formats as f
    where f.is_ad_hoc;
    fault := case
        when machserial._setting('ad_hoc_formats') = 'REFUSE' then 'The setting ad_hoc_formats is REFUSE.'
        when made.new_ones >= 100
            then format('This transaction has made %s formats of patterns; 100 is the most.', made.new_ones)
        when made.formats >= most
            then format('There are %s such formats; the setting ad_hoc_formats_limit is %s.', made.formats, most)
    end;
    if fault is not null then
        raise exception using
            errcode = 'program_limit_exceeded',
            message = format('pattern %L is new, and becomes no format', machserial._shown(pattern)),
            detail = fault,
            hint = 'Make one format for all with create_format(): counter_per => ... gives each part or site a '
                || 'counter of its own, and {CTX:key} takes what differs from the context.';
    end if;
end
$$;

-- Whatever writes a format, it is examined on its way in: a faulty one never becomes a row.
create function machserial._examine_format() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial.parse_pattern(new.pattern);
    if tg_op = 'INSERT' and new.is_ad_hoc and new.revises is null then
        perform machserial._require_ad_hoc_room(new.pattern);
    end if;
    new.sequence_maximum := machserial._sequence_maximum(new.pattern);
    new.random_space := machserial._random_space(new.pattern);
    if new.sequence_start not between 0 and coalesce(new.sequence_maximum, new.sequence_start) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('sequence_start cannot be %s', new.sequence_start),
            detail = format('The pattern holds 0 to %s.', coalesce(new.sequence_maximum::text, 'any number')),
            hint = 'Begin with a number that {SEQ:n} can hold.';
    elsif new.sequence_increment not between 1 and 1000000000000000000 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('sequence_increment cannot be %s', new.sequence_increment),
            detail = 'Counters only go up, by at most 10^18.',
            hint = 'Give 1 or more.';
    elsif new.sequence_maximum is not null then
        perform machserial._require_distinct_periods(new.pattern, new.reset);
    end if;
    return new;
end
$$;

-- A format's renderer and first counters are made with it, by the owner: a role that adds a format may not
-- create functions. The pattern is compiled here and nowhere else.
create function machserial._equip_format() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._create_renderer(new.id, machserial._compile_pattern(new.pattern, new.letter_case));
    perform machserial._make_first_counters(array[new.id], null);
    return null;
end
$$;

-- The new row, or null if the name is in use.
create function machserial._insert_format(
    name text, version integer, pattern text, description text, sequence_start bigint,
    sequence_increment bigint, reset text, counter_per text, allocation text, letter_case text,
    is_ad_hoc boolean, revises bigint, continues bigint
)
returns machserial.serial_format
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    made_id bigint;
    broken_constraint text;
begin
    insert into machserial.serial_formats as f (
        name, version, pattern, description, sequence_start, sequence_increment, reset, counter_per,
        allocation, letter_case, is_ad_hoc, revises, continues
    )
    values (
        _insert_format.name, _insert_format.version, _insert_format.pattern, _insert_format.description,
        machserial._require_number('sequence_start', _insert_format.sequence_start),
        machserial._require_number('sequence_increment', _insert_format.sequence_increment),
        machserial._require_one_of('reset', reset, '{NEVER,DAILY,WEEKLY,MONTHLY,YEARLY}'),
        machserial._require_one_of('counter_per', counter_per, '{FORMAT,PART,SITE,SITE_PART}'),
        machserial._require_one_of('allocation', allocation, '{SEQUENCE,GAPLESS}'),
        machserial._require_one_of('letter_case', letter_case, '{EXACT,UPPER}'),
        _insert_format.is_ad_hoc, _insert_format.revises, _insert_format.continues
    )
    on conflict on constraint serial_formats_name_version_key do nothing
    returning f.id into made_id;
    return machserial._format(made_id);
exception when unique_violation then
    get stacked diagnostics broken_constraint = constraint_name;
    if broken_constraint not in ('serial_formats_one_active_version', 'serial_formats_one_ad_hoc_format') then
        raise;
    end if;
    -- Another session made the same format at the same time.
    return null;
end
$$;

create function machserial.create_format(
    name text, pattern text, description text default null, sequence_start bigint default 1,
    sequence_increment bigint default 1, reset text default 'NEVER', counter_per text default 'FORMAT',
    allocation text default 'SEQUENCE', letter_case text default 'EXACT'
)
returns machserial.serial_format
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    made machserial.serial_format;
    next_version integer;
begin
    perform machserial._require_name('name', name);
    if starts_with(name, 'ad hoc: ') then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%L is a name of generate(pattern => ...)', machserial._shown(name)),
            detail = 'Names that begin with "ad hoc: " are those of formats that it makes.',
            hint = 'Give another name.';
    end if;
    -- The name of a deactivated format may be used again: its versions go on counting.
    select coalesce(max(f.version), 0) + 1 into next_version
    from machserial.serial_formats as f where f.name = create_format.name
    having not coalesce(bool_or(f.is_active), false);
    made := machserial._insert_format(
        name, coalesce(next_version, 1), pattern, description, sequence_start, sequence_increment, reset,
        counter_per, allocation, letter_case, false, null, null
    );
    if made.id is null then
        raise exception using
            errcode = 'unique_violation',
            message = format('format %s exists', name),
            detail = format('Its pattern is %L.',
                (
                    select f.pattern from machserial.serial_formats as f
                    where f.name = create_format.name and f.is_active
                )),
            hint = 'Choose another name, or make a new version: machserial.revise_format(name, pattern => ...).';
    end if;
    return made;
end
$$;

comment on function machserial.create_format(text, text, text, bigint, bigint, text, text, text, text) is
'Makes a format. reset: NEVER, DAILY, WEEKLY, MONTHLY, YEARLY, at midnight of the site. counter_per: FORMAT,
PART, SITE, SITE_PART. allocation: SEQUENCE (never waits; a rolled-back number is a gap) or GAPLESS (no gap,
allocators of one counter wait for each other). letter_case: EXACT, or UPPER (a to z
become A to Z).
Errors: 22023 a faulty argument or pattern, or a reset whose periods the date tokens cannot tell apart;
23505 the name is in use.';

-- The active version of a named format; 55000 if there is none any more, 23503 if there never was one.
create function machserial._active_format(name text) returns machserial.serial_format
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    active_id constant bigint := (
        select f.id from machserial.serial_formats as f where f.name = _active_format.name and f.is_active
    );
begin
    if active_id is not null then
        return machserial._format(active_id);
    elsif exists (select from machserial.serial_formats as f where f.name = _active_format.name) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('format %s is deactivated', name),
            detail = 'None of its versions is active.',
            hint = 'Use another format, or bring this one back with machserial.revise_format(name).';
    end if;
    perform machserial._raise_unknown('format', name, 'machserial.create_format');
end
$$;

-- Sessions that revise, deactivate or assign a format do so one after another. Each locks the newest version
-- until its transaction ends: FOR NO KEY UPDATE to change it, FOR SHARE to refer to it. Sessions that issue
-- numbers refer to the key and do not wait. Formats come before
-- assignments.
create function machserial._hold_format(name text, is_changing boolean) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    held integer;
begin
    loop
        if is_changing then
            select f.version into held from machserial.serial_formats as f where f.name = _hold_format.name
            order by f.version desc limit 1 for no key update;
        else
            select f.version into held from machserial.serial_formats as f where f.name = _hold_format.name
            order by f.version desc limit 1 for share;
        end if;
        -- The session that was waited for may have made a newer one.
        exit when not exists (
            select from machserial.serial_formats as f where f.name = _hold_format.name and f.version > held
        );
    end loop;
end
$$;

create function machserial.revise_format(
    name text, pattern text default null, description text default null, sequence_start bigint default null,
    sequence_increment bigint default null, reset text default null, counter_per text default null,
    allocation text default null, letter_case text default null
)
returns machserial.serial_format
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    latest record;
    made machserial.serial_format;
begin
    perform machserial._hold_format(name, true);
    select f.* into latest
    from machserial.serial_formats as f where f.name = revise_format.name
    order by f.version desc
    limit 1;
    if latest.id is null then
        perform machserial._raise_unknown('format', name, 'machserial.create_format');
    elsif latest.is_ad_hoc and pattern is not null and pattern <> latest.pattern then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('format %s is made of an ad-hoc pattern', name),
            detail = 'generate(pattern => ...) finds it by its pattern.',
            hint = 'Give the other pattern to generate(), or make a format: machserial.create_format(...).';
    end if;
    update machserial.serial_formats as f set is_active = false
    where f.name = revise_format.name and f.is_active;
    made := machserial._insert_format(
        name, latest.version + 1, coalesce(pattern, latest.pattern),
        coalesce(description, latest.description),
        coalesce(sequence_start, latest.sequence_start),
        coalesce(sequence_increment, latest.sequence_increment),
        coalesce(reset, latest.reset), coalesce(counter_per, latest.counter_per),
        coalesce(allocation, latest.allocation), coalesce(letter_case, latest.letter_case), latest.is_ad_hoc,
        latest.id, case when sequence_start is null then latest.id end
    );
    if made.id is null then
        -- create_format() has brought the name back at this moment: it is that version which is revised.
        return machserial.revise_format(
            name, pattern, description, sequence_start, sequence_increment, reset, counter_per, allocation,
            letter_case
        );
    end if;
    update machserial.format_assignments as a set format_id = made.id where a.format_id = latest.id;
    return made;
end
$$;

comment on function machserial.revise_format(text, text, text, bigint, bigint, text, text, text, text) is
'Makes a new version of a format and its assignments follow; what is left out stays as it was. Serials keep
the version that issued them. Counting goes on where the old version stands, unless sequence_start is given.
Errors: 22023 as create_format; 23503 unknown format.';

create function machserial.deactivate_format(name text) returns machserial.serial_format
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    active machserial.serial_format;
begin
    perform machserial._hold_format(name, true);
    active := machserial._active_format(name);
    update machserial.serial_formats as f set is_active = false where f.id = active.id;
    active.is_active := false;
    return active;
end
$$;

comment on function machserial.deactivate_format(text) is
'Takes a format out of use: it issues no more numbers. Errors: 23503 unknown format; 55000 deactivated
already.';

-- Assigns to a part or to a type, whichever is given; again, with another end or priority, changes it.
create function machserial._assign(
    part_id text, part_type text, format text, priority integer, effective_from timestamptz,
    effective_until timestamptz
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    active machserial.serial_format;
    assignment_id bigint;
begin
    perform machserial._hold_format(_assign.format, false);
    active := machserial._active_format(_assign.format);
    perform machserial._require_time('effective_from', _assign.effective_from);
    perform machserial._require_time('effective_until', _assign.effective_until);
    if _assign.effective_until <= coalesce(_assign.effective_from, now()) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'effective_until must be later than effective_from',
            detail = pg_catalog.format('From %s until %s.', _assign.effective_from, _assign.effective_until),
            hint = 'Leave effective_until out for an assignment without end.';
    end if;
    insert into machserial.format_assignments as a (
        part_id, part_type, format_id, priority, effective_from, effective_until
    )
    values (
        _assign.part_id, _assign.part_type, active.id, coalesce(_assign.priority, 0),
        coalesce(_assign.effective_from, now()), _assign.effective_until
    )
    on conflict (coalesce(part_id, ''), coalesce(part_type, ''), format_id, effective_from) do update
    set priority = excluded.priority, effective_until = excluded.effective_until
    returning a.id into assignment_id;
    return assignment_id;
end
$$;

create function machserial.assign_format(
    part_id text, format text, priority integer default 0, effective_from timestamptz default now(),
    effective_until timestamptz default null
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_known_part(part_id);
    return machserial._assign(part_id, null, format, priority, effective_from, effective_until);
end
$$;

comment on function machserial.assign_format(text, text, integer, timestamptz, timestamptz) is
'A part uses this format from effective_from until effective_until (exclusive; null: for good); of several,
the one of the highest priority. Returns the assignment''s id.
Errors: 22023 an empty period; 23503 unknown part or format; 55000 a deactivated format.';

create function machserial.assign_format_to_type(
    part_type text, format text, priority integer default 0, effective_from timestamptz default now(),
    effective_until timestamptz default null
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_name('part_type', part_type);
    return machserial._assign(null, part_type, format, priority, effective_from, effective_until);
end
$$;

comment on function machserial.assign_format_to_type(text, text, integer, timestamptz, timestamptz) is
'Every part of the type uses this format, unless it has one of its own. Returns the assignment''s id.
Errors: 22023 no part_type, an empty period; 23503 unknown format; 55000 a deactivated format.';

create function machserial.unassign_format(part_id text, format text) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    removed integer;
begin
    delete from machserial.format_assignments as a
    using machserial.serial_formats as f
    where a.format_id = f.id and a.part_id = unassign_format.part_id and f.name = unassign_format.format;
    get diagnostics removed = row_count;
    if removed = 0 then
        raise exception using
            errcode = 'no_data_found',
            message = format(
                'format %s is not assigned to part %s', coalesce(machserial._shown(format), 'null'),
                coalesce(machserial._shown(part_id), 'null')
            ),
            detail = 'There is no such assignment.',
            hint = 'See select * from machserial.format_assignments.';
    end if;
    return removed;
end
$$;

comment on function machserial.unassign_format(text, text) is
'A part no longer uses this format. Returns how many assignments that were. Errors: P0002 it did not use it.';
