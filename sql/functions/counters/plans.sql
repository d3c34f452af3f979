-- Numbering plans: what generate() has to know of a part, a site and a format, looked up once and kept.
--
-- A plan holds while nothing of the configuration has changed. It carries the number of changes that there
-- had been when it was made, and that number is read together with it, in one snapshot. So no
-- session waits: one that changes the configuration does not touch the plans, and one that makes a plan locks
-- nothing.

-- One more change of the configuration. The number is the sum over the rows, so that two who change something
-- at the same time need not wait for one another: each takes a row that is free, or adds one.
create function machserial._outdate_plans() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_isolation') = 'read committed' then
        update machserial.configuration_changes as c set changes = c.changes + 1
        where c.id = (
            select f.id from machserial.configuration_changes as f
            order by f.id
            limit 1
            for update skip locked
        );
        if found then
            return;
        end if;
    end if;
    insert into machserial.configuration_changes (changes) values (1);
end
$$;

create function machserial._outdate_plans_by_change() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from changed) then
        perform machserial._outdate_plans();
    end if;
    return null;
end
$$;

create function machserial._outdate_plans_by_counter() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._outdate_plans();
    return null;
end
$$;

-- Registering what is known already, as an import does every night, changes nothing.
create function machserial._outdate_plans_by_part() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
begin
    if exists (
        select p.id, p.part_type, p.default_scopes from new_rows as p
        except all
        select p.id, p.part_type, p.default_scopes from old_rows as p
    ) then
        perform machserial._outdate_plans();
    end if;
    return null;
end
$$;

create function machserial._outdate_plans_by_site() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
begin
    if exists (
        select s.id, s.time_zone from new_rows as s except all select s.id, s.time_zone from old_rows as s
    ) then
        perform machserial._outdate_plans();
    end if;
    return null;
end
$$;

-- One number of a format, by its renderer.
create function machserial._rendered(
    format_id bigint, sequence_value bigint, issued_at timestamp, site_id text, part_id text
)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    number text;
begin
    execute format('select (machserial.%I($1, $2, $3, $4, $5, $6))[1]', '_render_' || format_id) into number
    using array[sequence_value], array[0::bigint], issued_at, site_id, part_id, '{}'::jsonb;
    return number;
end
$$;

-- How a number is written from its digits, if all the rest of the pattern is the same for every number of a
-- day, but for one check digit right of them. Nulls if it is not.
create function machserial._plain_parts(
    format_id bigint, pattern text, issued_at timestamp, site_id text, part_id text,
    out head text, out width integer, out tail text, out digit_check machserial._digit_check
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    lowest text;
    highest text;
    place integer;
    checked record;
begin
    select min(t.size) filter (where t.token = 'SEQ' and t.alphabet = '0123456789') into width
    from machserial._tokenize(pattern) as t
    having not bool_or(t.kind in ('RANDOM', 'CONTEXT'));
    if width is null then
        return;
    end if;
    lowest := machserial._rendered(format_id, 0, issued_at, site_id, part_id);
    -- The call itself says what is wrong with it.
    if not machserial._is_serial_number(lowest, machserial._serial_characters()) then
        width := null;
        return;
    end if;
    -- The first difference between the lowest and the highest number is where the digits begin.
    highest := machserial._rendered(
        format_id, (10 ^ width::numeric)::bigint - 1, issued_at, site_id, part_id
    );
    select min(i) into place from generate_series(1, length(lowest)) as i
    where substr(lowest, i, 1) <> substr(highest, i, 1);
    head := left(lowest, place - 1);
    tail := substr(lowest, place + width);
    -- The last check digit right of them, and how much stands right of that.
    select t.argument, t.size, w.size as behind into checked
    from machserial._tokenize(pattern) as t
    cross join lateral (
        select coalesce(sum(coalesce(
            r.size, length(case r.token when 'SITE' then site_id else part_id end)
        )), 0)::integer as size
        from machserial._tokenize(pattern) as r
        where r.ordinal > t.ordinal
    ) as w
    where t.token = 'CHECK' and machserial._check_filter(t.argument, '0') <> ''
    order by t.ordinal desc
    limit 1;
    if found then
        digit_check := machserial._digit_check(
            checked.argument, head, width, left(tail, -checked.size - checked.behind)
        );
        tail := right(tail, checked.behind);
    end if;
    if highest <> (case
        when digit_check is null then head || repeat('9', width) || tail
        else machserial._checked_number(
            head, repeat('9', width), tail, digit_check.middle, digit_check.start, digit_check.moves,
            digit_check.steps, digit_check.signs
        )
    end) then
        -- More of it varies: the renderer has to write each number.
        width := null;
        digit_check := null;
    end if;
end
$$;

-- Keeps the plan of a call that has been resolved. If another session is making it, skip.
-- 256 locks stand for all plans, so that a transaction that keeps thousands does not fill the lock table.
create function machserial._keep_plan(
    part_id text, site_id text, format text, pattern text, counter_id bigint
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if current_setting('transaction_isolation') <> 'read committed'
        -- A counter that must be asked about each time.
        or exists (
            select from machserial.counters as c where c.id = _keep_plan.counter_id and not c.has_runway
        )
        -- What an index can hold.
        or octet_length(concat(part_id, site_id, format, pattern)) > 2000
        or not pg_try_advisory_xact_lock(
            hashtext('machserial.plan'), hashtext(concat_ws('/', part_id, site_id, format, pattern)) & 255
        )
    then
        return;
    end if;
    -- One statement, and so one snapshot of the configuration and of the number of its changes.
    insert into machserial.numbering_plans as n (
        part_id, site_id, format, pattern, part_type, scopes, time_zone, format_id, format_name, allocation,
        sequence_increment, sequence_maximum, random_space, counter_id, sequence, trusted_until, head, width,
        tail, check_middle, check_start, check_moves, check_steps, check_signs, valid_from, valid_until,
        configuration
    )
    select
        p.id, s.id, _keep_plan.format, _keep_plan.pattern, p.part_type, p.default_scopes, s.time_zone, f.id,
        f.name, f.allocation, f.sequence_increment, f.sequence_maximum, f.random_space, c.id,
        case when f.allocation = 'SEQUENCE' and c.id is not null then machserial._sequence(c.id) end,
        -- Not near the end: a thousand more cover what others may take meanwhile.
        greatest(f.sequence_maximum - 1002 * f.sequence_increment::numeric, 0)::bigint, w.head, w.width,
        w.tail, (w.digit_check).middle, (w.digit_check).start, (w.digit_check).moves, (w.digit_check).steps,
        (w.digit_check).signs,
        greatest(a.since, d.begins, '-infinity'), least(a.until, d.ends, machserial._audited_until()),
        (select sum(v.changes) from machserial.configuration_changes as v)
    from machserial.parts as p
    inner join machserial.sites as s on s.id = _keep_plan.site_id
    inner join machserial.serial_formats as f on f.id = case
        when _keep_plan.format <> ''
            then (
                select k.id from machserial.serial_formats as k
                where k.name = _keep_plan.format and k.is_active
            )
        when _keep_plan.pattern <> '' then (
            select k.id from machserial.serial_formats as k
            where k.pattern = _keep_plan.pattern and k.is_ad_hoc and k.is_active
        )
        else machserial._format_id_for(p.id, p.part_type, now())
    end
    cross join lateral (select now() at time zone s.time_zone as local_time) as l
    left join lateral (
        -- What goes by dates is for one day at the site.
        select
            date_trunc('day', l.local_time) at time zone s.time_zone as begins,
            (date_trunc('day', l.local_time) + interval '1 day') at time zone s.time_zone as ends
        where f.reset <> 'NEVER' or exists (
            select from machserial._tokenize(f.pattern) as t
            where t.kind = 'DATE'
        )
    ) as d on true
    cross join lateral machserial._plain_parts(f.id, f.pattern, l.local_time, s.id, p.id) as w
    cross join lateral (
        select
            max(b.at) filter (where b.at <= now()) as since, min(b.at) filter (where b.at > now()) as until
        from machserial.format_assignments as g
        cross join lateral (values (g.effective_from), (g.effective_until)) as b (at)
        where g.part_id = p.id or g.part_type = p.part_type
    ) as a
    left join machserial.counters as c
        on c.format_id = f.id and c.has_runway and c.retired_at is null
        and c.part_id = machserial._key_part(f.counter_per, p.id)
        and c.site_id = machserial._key_site(f.counter_per, s.id)
        and c.period = machserial._period(f.reset, l.local_time)
    where p.id = _keep_plan.part_id and (c.id is not null or f.sequence_maximum is null)
    -- A session that is about to delete the part or the site, or to change its type, is not waited for.
    for key share of p, s skip locked
    on conflict on constraint numbering_plans_pkey do update
    set
        part_type = excluded.part_type, scopes = excluded.scopes, time_zone = excluded.time_zone,
        format_id = excluded.format_id, format_name = excluded.format_name, allocation = excluded.allocation,
        sequence_increment = excluded.sequence_increment, sequence_maximum = excluded.sequence_maximum,
        random_space = excluded.random_space, counter_id = excluded.counter_id,
        sequence = excluded.sequence,
        trusted_until = excluded.trusted_until, head = excluded.head, width = excluded.width,
        tail = excluded.tail, check_middle = excluded.check_middle, check_start = excluded.check_start,
        check_moves = excluded.check_moves, check_steps = excluded.check_steps,
        check_signs = excluded.check_signs, valid_from = excluded.valid_from,
        valid_until = excluded.valid_until, configuration = excluded.configuration;
end
$$;

-- What no call will use again. Returns how many plans.
create function machserial._drop_outdated_plans() returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    dropped integer;
begin
    delete from machserial.numbering_plans as n
    using (
        select o.part_id, o.site_id, o.format, o.pattern
        from machserial.numbering_plans as o
        where
            o.configuration <> (select sum(c.changes) from machserial.configuration_changes as c)
            or o.valid_until <= now()
        for update skip locked
    ) as outdated
    where
        n.part_id = outdated.part_id and n.site_id = outdated.site_id and n.format = outdated.format
        and n.pattern = outdated.pattern;
    get diagnostics dropped = row_count;
    -- The sum stays, in every snapshot.
    if (select count(*) from machserial.configuration_changes) > 1 then
        with taken as (
            delete from machserial.configuration_changes as c
            where c.id in (select f.id from machserial.configuration_changes as f for update skip locked)
            returning c.changes
        )
        insert into machserial.configuration_changes (changes)
        select sum(t.changes) from taken as t having count(*) > 0;
    end if;
    return dropped;
end
$$;
