-- Checks of health(): what runs out, and when.

-- How each counter stands that still counts: its remaining numbers, what it gives a day, and in how many days
-- it is reset (null: never). The rate is the higher of its average since it was made and its share in the
-- newest serials; less than a day counts as a day, so that a first batch is not taken for a habit.
create function machserial._counter_outlook() returns table (
    counter text, format text, used_percent numeric, remaining numeric, per_day numeric, days_left numeric,
    reset_in numeric
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    with newest as (
        select s.format_id, s.part_id, s.site_id, s.created_at
        from machserial.serials as s order by s.id desc limit 10000
    ),
    recent as (
        select
            k.format_id, k.part_id, k.site_id,
            count(*) / greatest(
                extract(epoch from now() - (select min(o.created_at) from newest as o)) / 86400, 1
            ) as per_day
        from (
            select
                f.id as format_id,
                machserial._key_part(f.counter_per, n.part_id) as part_id,
                machserial._key_site(f.counter_per, n.site_id) as site_id
            from newest as n
            inner join machserial.serial_formats as f on f.id = n.format_id
        ) as k
        group by k.format_id, k.part_id, k.site_id
    ),
    counters as (
        select
            c.*, f.name, f.sequence_start, f.sequence_increment, f.sequence_maximum,
            machserial._last_value(c.id) as reached,
            greatest(extract(epoch from now() - c.created_at) / 86400, 1) as age,
            extract(epoch from
                c.period_starts + machserial._period_length(f.reset) - now() at time zone 'UTC'
            ) / 86400 as reset_in
        from machserial.counters as c
        inner join machserial.serial_formats as f on f.id = c.format_id
        where
            f.is_active and f.sequence_maximum is not null and c.retired_at is null
            and not machserial._lacks_sequence(c.id)
    ),
    measured as (
        select
            c.name, concat_ws('/', nullif(c.site_id, ''), nullif(c.part_id, ''), nullif(c.period, '')) as key,
            c.reset_in,
            floor((c.sequence_maximum - c.sequence_start)::numeric / c.sequence_increment) + 1 as capacity,
            floor((c.sequence_maximum - c.reached)::numeric / c.sequence_increment) as remaining,
            greatest(
                ((c.reached - c.first_value)::numeric / c.sequence_increment + 1) / c.age, c.recently
            ) as per_day
        -- A full join is never a loop in a loop. Without the offset the condition below would make another join
        -- of it.
        from (
            select k.*, r.per_day as recently
            from counters as k
            full join recent as r
                on r.format_id = k.format_id and r.part_id = k.part_id and r.site_id = k.site_id
            offset 0
        ) as c
        -- Made ahead, or over.
        where c.reached is not null and coalesce(c.reset_in > 0, true)
    )
    select
        concat_ws(' ', m.name, nullif(m.key, '')), m.name, round(100 - 100 * m.remaining / m.capacity, 2),
        m.remaining, round(m.per_day, 1), round(m.remaining / m.per_day, 1), round(m.reset_in, 1)
    from measured as m
    -- A reset comes to the rescue of the others.
    where m.reset_in is null or m.remaining < m.per_day * m.reset_in;
end
$$;

create function machserial._counter_message(
    counter text, used_percent numeric, remaining numeric, per_day numeric, days_left numeric
)
returns text
language sql immutable parallel safe
return case
    when counter is null then 'no counter will be exhausted'
    else format(
        'counter %s: %s percent used, %s numbers left, about %s a day, %s days left',
        counter, used_percent, remaining, per_day, days_left
    )
end;

create function machserial._check_counter_used() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    fullest record;
begin
    perform machserial._require_all_sites('the check counter_used');
    select o.* into fullest from machserial._counter_outlook() as o order by o.used_percent desc limit 1;
    return machserial._checked(
        'counter_used', coalesce(fullest.used_percent, 0),
        machserial._counter_message(
            fullest.counter, fullest.used_percent, fullest.remaining, fullest.per_day, fullest.days_left
        ),
        format('More digits: select machserial.revise_format(%L, pattern => ...);', coalesce(fullest.format, '...'))
    );
end
$$;

create function machserial._check_counter_days_left() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    first_to_end record;
begin
    perform machserial._require_all_sites('the check counter_days_left');
    select o.* into first_to_end from machserial._counter_outlook() as o order by o.days_left limit 1;
    if first_to_end.counter is null then
        return machserial._nothing_wrong('counter_days_left', 'no counter will be exhausted');
    end if;
    return machserial._checked(
        'counter_days_left', first_to_end.days_left,
        machserial._counter_message(
            first_to_end.counter, first_to_end.used_percent, first_to_end.remaining, first_to_end.per_day,
            first_to_end.days_left
        ),
        format('More digits: select machserial.revise_format(%L, pattern => ...);', first_to_end.format)
    );
end
$$;

create function machserial._check_missing_sequences() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    missing text[];
begin
    perform machserial._require_all_sites('the check missing_sequences');
    missing := array(
        select format('%s of format %s', machserial._sequence_of(c.id), f.name)
        from machserial.counters as c
        inner join machserial.serial_formats as f on f.id = c.format_id
        where c.retired_at is null and machserial._lacks_sequence(c.id)
        order by c.id
    );
    return machserial._checked(
        'missing_sequences', cardinality(missing),
        case cardinality(missing)
            when 0 then 'every counter has its sequence'
            else format('sequences that are not there: %s', machserial._first_of(missing))
        end,
        'select remedy from machserial.integrity() where name = ''counter_sequence_missing'';'
    );
end
$$;

create function machserial._check_id_sequences() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- What set_node() gives to each node.
    ids_of_a_node constant numeric := 1::bigint << 48;
    in_use_for constant numeric := greatest(
        (select extract(epoch from now() - min(m.applied_at)) / 86400 from machserial.schema_migrations as m), 1
    );
    hidden bigint;
    fullest record;
begin
    select
        count(*) filter (where not has_sequence_privilege(s.oid, 'usage, select')) into hidden
    from pg_class as s
    inner join pg_depend as d
        on d.classid = 'pg_class'::regclass and d.objid = s.oid and d.deptype = 'i'
    where s.relnamespace = 'machserial'::regnamespace and s.relkind = 'S';
    select s.relname, i.used into fullest
    from pg_class as s
    inner join pg_depend as d
        on d.classid = 'pg_class'::regclass and d.objid = s.oid and d.deptype = 'i'
    cross join lateral (
        select mod(pg_sequence_last_value(s.oid)::numeric, ids_of_a_node) as used
        where has_sequence_privilege(s.oid, 'usage, select')
    ) as i
    where s.relnamespace = 'machserial'::regnamespace and s.relkind = 'S' and i.used is not null
    order by i.used desc
    limit 1;
    return machserial._seen_in_part(
        machserial._checked(
            'id_sequences', round(100 * coalesce(fullest.used, 0) / ids_of_a_node, 2),
            case
                when fullest.used > 0 then format(
                    '%s has given %s ids, %s days left at the average since machserial was deployed',
                    fullest.relname, fullest.used,
                    round((ids_of_a_node - fullest.used) / (fullest.used / in_use_for))
                )
                else 'no id was given yet'
            end,
            'select machserial.set_node(...); with the number of a node that no other database has.'
        ),
        hidden, 'sequences', 'Ask as the owner of machserial, or as a member of pg_read_all_data.'
    );
end
$$;

create function machserial._check_sequence_behind() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    behind record;
begin
    select
        count(*) as number, string_agg(b.relation, ', ' order by b.relation) as relations,
        string_agg(format('select setval(%L, %s);', b.sequence, b.highest_id), ' ' order by b.relation) as remedy
    into behind
    from machserial._id_sequences() as b
    where b.highest_id is not null;
    return machserial._checked(
        'sequence_behind', behind.number,
        case
            when behind.number = 0 then 'every sequence of ids is ahead of its table'
            else format('rows have ids that are still to be given: %s', behind.relations)
        end,
        behind.remedy
    );
end
$$;
