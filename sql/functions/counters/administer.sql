-- Looking after counters: how full they are, moving them on, retiring those whose period is over.

-- "inout": the argument and the result column are both called format.
create function machserial.counter_status(
    inout format text default null, out counter_key text, out period text, out last_value bigint,
    out capacity bigint, out used_percent numeric, out format_version integer, out allocation text,
    out next_value bigint, out highest_value bigint, out remaining bigint, out problem text
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if counter_status.format is not null
        and not exists (select from machserial.serial_formats as f where f.name = counter_status.format)
    then
        perform machserial._raise_unknown('format', counter_status.format, 'machserial.create_format');
    end if;
    return query
    with counted as (
        select
            f.name, f.version, f.allocation, f.sequence_increment, f.sequence_maximum, f.sequence_start,
            c.id, c.site_id, c.part_id, c.period, c.first_value, c.period_starts, l.is_lost,
            case when not l.is_lost then machserial._last_value(c.id) end as last_value
        from machserial.counters as c
        inner join machserial.serial_formats as f on f.id = c.format_id
        cross join lateral (select machserial._lacks_sequence(c.id) as is_lost offset 0) as l
        where counter_status.format is null or f.name = counter_status.format
    ),
    measured as (
        select
            n.*,
            case
                when not n.is_lost then coalesce(n.last_value + n.sequence_increment, n.first_value)
            end as next_value,
            (n.sequence_maximum - n.sequence_start) / n.sequence_increment + 1 as capacity
        from counted as n
        -- Counters that were only made ahead are nobody's concern yet.
        where
            n.last_value is not null or n.is_lost or n.period_starts is null
            or n.period_starts <= now() at time zone 'UTC'
    )
    select
        m.name, concat_ws('/', nullif(m.site_id, ''), nullif(m.part_id, '')), m.period,
        -- Moved on before its first number, it may stand below what it can give.
        case when m.last_value >= m.sequence_start then m.last_value end,
        m.capacity,
        round(
            100.0 * (m.next_value::numeric - m.sequence_start) / m.sequence_increment / m.capacity, 2
        ),
        m.version, m.allocation, m.next_value, m.sequence_maximum,
        case
            when m.next_value <= m.sequence_maximum
                then (m.sequence_maximum - m.next_value) / m.sequence_increment + 1
            when not m.is_lost then 0
        end,
        case
            when m.is_lost then pg_catalog.format(
                'the sequence %s is not there: it gives no numbers, integrity() names the remedy',
                machserial._sequence_of(m.id)
            )
        end
    from measured as m
    order by m.name, m.version, m.site_id, m.part_id, m.period;
end
$$;

comment on function machserial.counter_status(text) is
'How far the counters of a format, or of all, have counted. counter_key: site and part for which it counts;
capacity: how many numbers the pattern holds; last_value: last sequence number given, null if none; problem:
why it cannot be told how far it has counted, else null.
Errors: 23503 unknown format.';

-- The counter of the present period, made if it is not there yet.
create function machserial._present_counter(
    format machserial.serial_format, part_id text, site_id text, at timestamp
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    counter_id constant bigint := machserial._make_counter(
        format.id,
        machserial._key_part(format.counter_per, part_id),
        machserial._key_site(format.counter_per, site_id),
        at
    );
begin
    perform machserial._revive_counter(counter_id);
    return counter_id;
end
$$;

-- Moves a counter on, unless it would be moved back: what it gives next bounds all that it has given, in any
-- version that it continues and in blocks, also where its steps are long.
create function machserial._set_counter(
    counter_id bigint, allocation text, next_value bigint, increment bigint
)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    is_ahead boolean;
begin
    if allocation = 'GAPLESS' then
        update machserial.counters as c set last_value = next_value - increment
        where c.id = counter_id and coalesce(c.last_value + increment, c.first_value) <= next_value;
        return found;
    end if;
    begin
        perform machserial._hold_sequence(counter_id);
        is_ahead := pg_sequence_last_value(machserial._sequence_of(counter_id)::regclass)
            <= next_value - increment;
        if is_ahead then
            perform setval(machserial._sequence_of(counter_id)::regclass, next_value - increment);
        end if;
        raise sqlstate 'MS000';
    exception when sqlstate 'MS000' then null;
    end;
    return is_ahead;
end
$$;

-- Now, at a site; 23503 if there is no such site, 55000 if the server does not know its time zone.
create function machserial._local_time(site_id text) returns timestamp
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    zone constant text := (select s.time_zone from machserial.sites as s where s.id = _local_time.site_id);
begin
    if zone is null then
        perform machserial._raise_unknown_site(site_id);
    end if;
    return machserial._time_at_site(site_id, zone, now());
end
$$;

create function machserial.reset_counter(
    format text, next_value bigint, part_id text default null, site_id text default null,
    reason text default null
)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    active constant machserial.serial_format := machserial._active_format(reset_counter.format);
    site constant text := coalesce(reset_counter.site_id, 'DEFAULT');
    highest constant bigint := (
        select f.sequence_maximum from machserial.serial_formats as f where f.id = active.id
    );
    local_time constant timestamp := machserial._local_time(site);
    given_reason constant text := machserial._require_reason(
        reset_counter.reason, pg_catalog.format('move the counter of format %s', active.name)
    );
    counter_id bigint;
    last_value bigint;
    next_before bigint;
    is_moved boolean := false;
begin
    perform machserial._require_administrator('machserial.reset_counter()');
    if active.counter_per in ('PART', 'SITE_PART') or reset_counter.part_id is not null then
        perform machserial._require_known_part(reset_counter.part_id);
    end if;
    if highest is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = pg_catalog.format('format %s has no counter', active.name),
            detail = pg_catalog.format('Its pattern %L has no {SEQ:n}.', active.pattern),
            hint = 'Only formats with a sequence number count.';
    end if;
    counter_id := machserial._present_counter(active, reset_counter.part_id, site, local_time);
    last_value := machserial._last_value(counter_id);
    if reset_counter.next_value between active.sequence_start and highest then
        is_moved := machserial._set_counter(
            counter_id, active.allocation, reset_counter.next_value, active.sequence_increment
        );
    end if;
    if not is_moved then
        last_value := machserial._last_value(counter_id);
        next_before := (
            select coalesce(last_value + active.sequence_increment, c.first_value)
            from machserial.counters as c where c.id = counter_id
        );
        raise exception using
            errcode = 'invalid_parameter_value',
            message = pg_catalog.format('the counter of format %s cannot go to %s', active.name,
                coalesce(reset_counter.next_value::text, 'null')),
            detail = pg_catalog.format('The next sequence number is %s, the highest is %s.',
                next_before, highest),
            hint = case
                when next_before <= highest then pg_catalog.format(
                    'Give %s to %s: going back would issue numbers twice.', next_before, highest
                )
                else 'There are no numbers left: make room with machserial.revise_format(name, pattern => ...).'
            end;
    end if;
    perform machserial._audit(
        'COUNTER_RESET', reset_counter.part_id, reset_counter.site_id,
        jsonb_build_object(
            'format', active.name, 'last_value', last_value, 'next_value', reset_counter.next_value
        ),
        given_reason
    );
    return reset_counter.next_value;
end
$$;

comment on function machserial.reset_counter(text, bigint, text, text, text) is
'Moves a format''s counter of the present period on, so that it gives next_value next; part_id and site_id
choose the counter where the format counts per part or site. A sequence keeps the move even if the
transaction is rolled back. reason: why; null means machserial.reason.
Errors: 54000 a text that is too long; 22023 no reason, or next_value is less than what would come next, or
more than the pattern holds; 23503 unknown format, part or site; 55000 a deactivated format.';

-- The formats of patterns that no serial has and nothing refers to, among the given ones, or of all. Reads
-- the registry once, and only if there is such a format.
create function machserial._unused_formats(among bigint[]) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    unreferenced constant bigint[] := array(
        select f.id
        from machserial.serial_formats as f
        where
            f.is_ad_hoc and f.revises is null and (among is null or f.id = any(among))
            and not exists (select from machserial.serial_formats as n where f.id in (n.revises, n.continues))
            and not exists (select from machserial.format_assignments as a where a.format_id = f.id)
            and not exists (select from machserial.numbering_plans as p where p.format_id = f.id)
            and not exists (select from machserial.trigger_definitions as d where d.format = f.name)
            and not exists (
                select
                from machserial.counters as c
                where
                    c.format_id = f.id and (
                        exists (select from machserial.number_blocks as b where b.counter_id = c.id)
                        or exists (select from machserial.counter_fences as e where e.counter_id = c.id)
                    )
            )
    );
begin
    if unreferenced = '{}' then
        return unreferenced;
    end if;
    return array(
        select u.id from unnest(unreferenced) as u (id)
        except
        select s.format_id from machserial.serials as s where s.format_id = any(unreferenced)
        order by 1
    );
end
$$;

-- Drops the formats of patterns that no serial has, with renderer, counters and sequences; as many as a call
-- may drop. One that somebody is using is left for the next time. remaining: what is left for another call.
create function machserial._drop_unused_formats(out done integer, out remaining integer)
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
    due constant bigint[] := machserial._unused_formats(null);
    unused bigint[];
    unused_id bigint;
begin
    done := 0;
    remaining := cardinality(due);
    -- An older snapshot would not see the serials that the second look is for.
    if due = '{}' or machserial._is_being_dumped()
        or current_setting('transaction_isolation') <> 'read committed'
    then
        return;
    end if;
    -- From here on nobody begins to use one of them. The second look finds those that were used meanwhile.
    unused := array(
        select f.id from machserial.serial_formats as f
        where f.id = any(due)
        order by f.id
        limit machserial._objects_per_call()
        for update skip locked
    );
    foreach unused_id in array machserial._unused_formats(unused) loop
        begin
            perform machserial._drop_format(unused_id);
            done := done + 1;
        exception when lock_not_available then null;
        end;
    end loop;
    remaining := remaining - done;
end
$$;

create function machserial._drop_format(format_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    counter_id bigint;
begin
    for counter_id in
        delete from machserial.counters as c where c.format_id = _drop_format.format_id returning c.id
    loop
        execute format('drop sequence if exists %s', machserial._sequence_of(counter_id));
    end loop;
    execute format(
        'drop function machserial.%I(bigint[], bigint[], timestamp, text, text, jsonb)', '_render_' || format_id
    );
    delete from machserial.serial_formats as f where f.id = format_id;
end
$$;

-- Whether pg_dump is at work: it holds every table to the end. By then it has listed the sequences, and would
-- fail for one that is gone.
create function machserial._is_being_dumped() returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select
        from pg_locks as l
        inner join pg_class as r on r.oid = l.relation
        where
            l.locktype = 'relation' and l.mode = 'AccessShareLock' and l.granted
            and l.database = (select d.oid from pg_database as d where d.datname = current_database())
            and l.pid <> pg_backend_pid()
            and r.relnamespace = 'machserial'::regnamespace and r.relkind = 'r' and not r.relispartition
        group by l.pid
        having count(distinct r.oid) = (
            select count(*) from pg_class as t
            where
                t.relnamespace = 'machserial'::regnamespace and t.relkind = 'r' and not t.relispartition
        )
    );
end
$$;

-- Counters that nobody needs any more: their period ended a day ago or earlier, or their version was replaced
-- then. Their sequences go, their last values stay; as many as a call may drop. A sequence that somebody is
-- using is left for the next time. remaining: what is left for another call.
create function machserial._retire_counters(out done integer, out remaining integer)
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
    most constant integer := machserial._objects_per_call();
    due bigint[];
    due_id bigint;
    retired bigint[] := '{}'::bigint[];
    reached bigint[] := '{}'::bigint[];
    last_value bigint;
begin
    due := array(
        select c.id
        from machserial.counters as c
        inner join machserial.serial_formats as f on f.id = c.format_id
        where
            f.allocation = 'SEQUENCE' and c.retired_at is null
            and (
                c.period_starts + machserial._period_length(f.reset)
                < now() at time zone 'UTC' - '1 day'::interval
                or exists (
                    select from machserial.serial_formats as n
                    where n.revises = f.id and n.created_at < now() - '1 day'::interval
                )
            )
            and to_regclass(machserial._sequence_of(c.id)) is not null
        order by c.id
    );
    if not machserial._is_being_dumped() then
        for due_id in
            select d.id
            from unnest(due) with ordinality as d (id, ordinal)
            where to_regclass(machserial._sequence_of(d.id)) not in (
                select l.relation from pg_locks as l
                where l.relation is not null and l.pid is distinct from pg_backend_pid()
            )
            order by d.ordinal
            limit most
        loop
            begin
                -- From here on nobody draws. LOCK TABLE takes no sequence, but a change locks one, also this one
                -- that changes nothing.
                execute format('alter sequence %s no cycle', machserial._sequence_of(due_id));
                last_value := machserial._last_value(due_id);
                execute format('drop sequence %s', machserial._sequence_of(due_id));
                retired := retired || due_id;
                reached := reached || last_value;
            exception when lock_not_available then null;
            end;
        end loop;
    end if;
    if retired <> '{}' then
        update machserial.counters as c set last_value = r.last_value, retired_at = now()
        from unnest(retired, reached) as r (id, last_value)
        where c.id = r.id;
    end if;
    done := cardinality(retired);
    remaining := cardinality(due) - done;
end
$$;
