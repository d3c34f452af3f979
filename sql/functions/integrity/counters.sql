-- Findings of integrity(): counters, blocks and the sequences of ids.

create function machserial._faults_of_blocks() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
begin
    return query
    select
        'block_overlap', 'CRITICAL', format('block %s', o.id),
        format(
            'block %s (%s to %s, of %s) overlaps another block of its counter', o.id, o.first_value,
            o.last_value, o.holder
        ),
        'Take away the one of the two whose numbers nobody has used; if it is this one: '
        || machserial._with_triggers_off(
            'number_blocks', format('delete from machserial.number_blocks where id = %s', o.id)
        )
    from (
        select
            b.*, max(b.last_value) over (
                partition by b.counter_id order by b.first_value, b.id
                rows between unbounded preceding and 1 preceding
            ) as reached
        from machserial.number_blocks as b
        where b.status in ('OPEN', 'USED')
    ) as o
    where o.reached >= o.first_value
    order by o.id;

    return query
    select
        'block_usage', 'CRITICAL', format('block %s', u.block_id),
        format('block %s has number %s on record as used, which %s', u.block_id, u.sequence_number, case
            when s.sequence_number is distinct from u.sequence_number and u.serial_id is not null
                then format('is not that of serial %s', u.serial_id)
            else 'is none of its numbers'
        end),
        machserial._with_triggers_off('block_usages', format(
            'delete from machserial.block_usages where block_id = %s and sequence_number = %s', u.block_id,
            u.sequence_number
        ))
    from machserial.block_usages as u
    inner join machserial.number_blocks as b on b.id = u.block_id
    left join machserial.serials as s on s.id = u.serial_id
    where
        u.sequence_number not between b.first_value and b.last_value
        or (u.sequence_number - b.first_value) % b.increment <> 0
        or u.sequence_number = any(b.skipped_values)
        or s.sequence_number is distinct from u.sequence_number and u.serial_id is not null
    order by u.block_id, u.sequence_number;

    return query
    select
        'block_count', 'CRITICAL', format('block %s', n.id),
        format('block %s is %s, and %s of its %s numbers are used', n.id, n.status, n.used, n.quantity),
        machserial._with_triggers_off('number_blocks', format(
            case when n.status = 'USED' then
                'update machserial.number_blocks set status = ''OPEN'', closed_at = null, closed_by = null, '
                'closing_reason = null where id = %s'
            else
                'update machserial.number_blocks set status = ''USED'', closed_at = now(), '
                'closed_by = current_user where id = %s'
            end, n.id
        ))
    from (
        select b.id, b.status, b.quantity, count(u.block_id) as used
        from machserial.number_blocks as b
        left join machserial.block_usages as u on u.block_id = b.id
        group by b.id, b.status, b.quantity
    ) as n
    where n.used > n.quantity or (n.status = 'USED') <> (n.used = n.quantity)
    order by n.id;
end
$$;

-- The highest number that each counter has given as far as serials and blocks tell. counter_id is null where
-- there is no such counter. A serial's counter is that of its format, key and period; where the time zone of
-- its site was changed later, its period is not known any more.
create function machserial._numbers_reached()
returns table (
    counter_id bigint, format_id bigint, key_part text, key_site text, local_time timestamp, highest bigint
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
#variable_conflict use_column
begin
    return query
    with zones as materialized (select z.* from machserial._zones_of_sites() as z),

    zone_changes as (
        select e.site_id, max(e.performed_at) as changed_at
        from machserial.audit_events as e
        where e.event_type = 'SITE_UPDATED' and e.details ? 'time_zone'
        group by e.site_id
    ),

    issued as (
        select
            s.format_id,
            machserial._key_part(f.counter_per, s.part_id) as key_part,
            machserial._key_site(f.counter_per, s.site_id) as key_site,
            case f.reset
                when 'NEVER' then '' else machserial._period(f.reset, s.created_at at time zone t.time_zone)
            end as period,
            max(s.sequence_number) as highest,
            max(s.created_at at time zone t.time_zone) as local_time
        from machserial.serials as s
        inner join machserial.serial_formats as f on f.id = s.format_id
        inner join zones as t on t.site_id = s.site_id
        left join machserial.block_usages as u on u.serial_id = s.id
        left join zone_changes as z on z.site_id = s.site_id
        where
            s.sequence_number is not null and u.serial_id is null
            and (
                f.reset = 'NEVER'
                or t.is_known and (z.changed_at is null or s.created_at > z.changed_at)
            )
        group by 1, 2, 3, 4
    )

    select c.id, i.format_id, i.key_part, i.key_site, i.local_time, i.highest
    from issued as i
    left join machserial.counters as c
        on
            c.format_id = i.format_id and c.part_id = i.key_part and c.site_id = i.key_site
            and c.period = i.period
    union all
    select b.counter_id, null, null, null, null, max(b.last_value)
    from machserial.number_blocks as b
    group by b.counter_id;
end
$$;

create function machserial._faults_of_counters() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with reached as materialized (select r.* from machserial._numbers_reached() as r),

    highest as (
        select r.counter_id, max(r.highest) as highest from reached as r group by r.counter_id
    ),

    counted as materialized (
        select
            c.id, c.first_value, f.name, f.version, f.allocation, f.sequence_increment, f.sequence_maximum,
            h.highest, q.seqrelid, q.seqincrement, q.seqmax, q.seqcycle,
            f.allocation = 'SEQUENCE' and c.retired_at is null as has_sequence
        from machserial.counters as c
        inner join machserial.serial_formats as f on f.id = c.format_id
        left join highest as h on h.counter_id = c.id
        left join pg_sequence as q on q.seqrelid = to_regclass(machserial._sequence_of(c.id))
    )

    select
        'counter_missing', 'CRITICAL', format('format %s', f.name),
        format(
            'serials of format %s%s have numbers up to %s, and there is no counter that has given them',
            f.name, ' for ' || nullif(concat_ws(', ', nullif(r.key_site, ''), nullif(r.key_part, '')), ''),
            r.highest
        ),
        case f.allocation
            when 'GAPLESS' then format(
                'select machserial._make_counter(%1$s, %2$L, %3$L, %4$L); update machserial.counters '
                'set last_value = %5$s '
                'where format_id = %1$s and part_id = %2$L and site_id = %3$L and period = %6$L;',
                f.id, r.key_part, r.key_site, r.local_time, r.highest,
                machserial._period(f.reset, r.local_time)
            )
            else format(
                'select setval(machserial._sequence_of('
                'machserial._make_counter(%s, %L, %L, %L))::regclass, %s);',
                f.id, r.key_part, r.key_site, r.local_time, r.highest
            )
        end
    from reached as r
    inner join machserial.serial_formats as f on f.id = r.format_id
    where
        r.counter_id is null
        -- A period that is over is not counted again.
        and (f.reset = 'NEVER' or r.local_time > now() at time zone 'UTC' - '8 days'::interval)
    union all
    select
        'counter_sequence_missing', 'CRITICAL', format('counter %s', c.id),
        format('the sequence machserial.counter_%s of format %s is not there', c.id, c.name),
        format(
            -- Numbering plans name the sequence that was lost.
            'select machserial._create_sequence(%s, %s), machserial._outdate_plans();', c.id,
            coalesce(c.highest + c.sequence_increment, c.first_value)
        )
    from counted as c
    where c.has_sequence and c.seqrelid is null
    union all
    select
        'counter_sequence_altered', 'CRITICAL', format('counter %s', c.id),
        format('the sequence machserial.counter_%s does not count as format %s says', c.id, c.name),
        format(
            'alter sequence machserial.counter_%s increment by %s maxvalue %s no cycle;', c.id,
            c.sequence_increment, c.sequence_maximum
        )
    from counted as c
    where
        c.has_sequence and c.seqrelid is not null
        and (
            c.seqincrement <> c.sequence_increment or c.seqmax <> c.sequence_maximum or c.seqcycle
        )
    union all
    select
        'counter_behind', 'CRITICAL', format('counter %s', b.id),
        format(
            'the counter of format %s (version %s) stands at %s, and %s has been given', b.name, b.version,
            coalesce(b.last_value::text, 'its beginning'), b.highest
        ),
        case
            when b.has_sequence then format('select setval(''machserial.counter_%s'', %s);', b.id, b.highest)
            else format('update machserial.counters set last_value = %s where id = %s;', b.highest, b.id)
        end
    from (
        -- In this order: the last value of a counter without its sequence cannot be asked for.
        select
            c.*, case
                when not c.has_sequence or c.seqrelid is not null then machserial._last_value(c.id)
                else c.highest
            end as last_value
        from counted as c
    ) as b
    where b.highest > coalesce(b.last_value, b.highest - 1);
end
$$;

-- For each table that numbers its rows: its sequence, the id that comes next, and the highest that is there
-- already although it is still to be given; null if none is. Rows come in with ids of their own by COPY or by
-- replication, and the sequence stays behind. Of a merged database only this node's ids matter.
-- SECURITY DEFINER: health() asks for those who may not read sequences.
create function machserial._id_sequences()
returns table (relation text, sequence text, next_id bigint, highest_id bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
-- No index of the catalog leads to identity columns, and what is done all the same would be compiled.
set jit = off
as $$
declare
    of_a_node constant bigint := (1::bigint << 48) - 1;
    ids record;
begin
    for ids in
        select r.relname, c.attname, s.relname as sequence_name
        from pg_attribute as c
        inner join pg_class as r on r.oid = c.attrelid and r.relnamespace = 'machserial'::regnamespace
        inner join pg_class as s on s.oid = pg_get_serial_sequence(r.oid::regclass::text, c.attname)::regclass
        where c.attidentity <> '' and not r.relispartition
        order by r.relname
    loop
        relation := ids.relname;
        sequence := format('machserial.%I', ids.sequence_name);
        -- In one statement, the sequence after the snapshot: ids that are given meanwhile are no fault.
        if ids.relname = 'audit_events' then
            -- Its key begins with the time; seals know of the months that are only in an archive.
            select n.id, (
                select max(t.id)
                from (
                    (
                        select e.id from machserial.audit_events as e
                        order by e.performed_at desc, e.id desc
                        limit 100
                    )
                    union all
                    select s.last_event_id from machserial.audit_seals as s
                ) as t
                where t.id between n.id and n.id | of_a_node
            )
            into next_id, highest_id
            from (
                select s.last_value + s.is_called::integer as id from machserial.audit_events_id_seq as s offset 0
            ) as n;
        else
            execute format(
                'select n.id, (select max(t.%1$I) from machserial.%2$I as t where t.%1$I between n.id and n.id | $1) '
                'from (select s.last_value + s.is_called::integer as id from machserial.%3$I as s offset 0) as n',
                ids.attname, ids.relname, ids.sequence_name
            )
            into next_id, highest_id using of_a_node;
        end if;
        return next;
    end loop;
end
$$;

create function machserial._faults_of_sequences() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'sequence_behind', 'CRITICAL', format('table %s', b.relation),
        format(
            'the next id of machserial.%s would be %s, and there are ids up to %s', b.relation, b.next_id,
            b.highest_id
        ),
        format('select setval(%L, %s);', b.sequence, b.highest_id)
    from machserial._id_sequences() as b
    where b.highest_id is not null
    order by b.relation;
end
$$;

-- Numbers issued out of a block though nobody reported them. Blocks of a counter do not overlap: so of those
-- that begin before a number, the last one has it or none has.
create function machserial._faults_of_numbers_in_blocks() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
begin
    return query
    with zones as materialized (select z.* from machserial._zones_of_sites() as z),

    points as (
        select c.id as counter_id, s.sequence_number as value, s.id as serial_id, null::bigint as block_begins
        from machserial.serials as s
        inner join machserial.serial_formats as f on f.id = s.format_id
        inner join zones as t on t.site_id = s.site_id and (f.reset = 'NEVER' or t.is_known)
        inner join machserial.counters as c
            on
                c.format_id = s.format_id
                and c.part_id = machserial._key_part(f.counter_per, s.part_id)
                and c.site_id = machserial._key_site(f.counter_per, s.site_id)
                and c.period = case f.reset
                    when 'NEVER' then ''
                    else machserial._period(f.reset, s.created_at at time zone t.time_zone)
                end
        left join machserial.block_usages as u on u.serial_id = s.id
        where
            s.sequence_number is not null and u.serial_id is null
            and c.id in (select b.counter_id from machserial.number_blocks as b)
        union all
        select b.counter_id, b.first_value, null, b.first_value from machserial.number_blocks as b
    ),

    behind as (
        select
            p.counter_id, p.value, p.serial_id,
            max(p.block_begins) over (
                partition by p.counter_id order by p.value, p.serial_id nulls first
                rows between unbounded preceding and current row
            ) as block_begins
        from points as p
    )

    select
        'number_in_block', 'CRITICAL', format('serial %s', s.id),
        format(
            'serial %s has number %s of block %s, which nobody has reported as used', s.serial_number,
            s.sequence_number, b.id
        ),
        format(
            'insert into machserial.block_usages (block_id, sequence_number, serial_id) values (%s, %s, %s);',
            b.id, s.sequence_number, s.id
        )
    from behind as n
    inner join machserial.number_blocks as b
        on b.counter_id = n.counter_id and b.first_value = n.block_begins and n.value <= b.last_value
    inner join machserial.serials as s on s.id = n.serial_id
    where not n.value = any(b.skipped_values)
    order by s.id;
end
$$;

-- Formats, what refers to them, and the tables of applications.
create function machserial._faults_of_formats() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'missing_renderer', 'CRITICAL', format('format %s', f.name),
        format(
            'the function that writes the numbers of format %s (version %s) is not there', f.name, f.version
        ),
        format(
            'select machserial._create_renderer(f.id, machserial._compile_pattern(f.pattern, f.letter_case)) '
            'from machserial.serial_formats as f where f.id = %s;', f.id
        )
    from machserial.serial_formats as f
    where not exists (
        select from pg_proc as p
        where p.pronamespace = 'machserial'::regnamespace and p.proname = '_render_' || f.id
    )
    order by f.id;

    return query
    select
        'inactive_format', 'WARNING', coalesce('part ' || a.part_id, 'part type ' || a.part_type),
        format(
            '%s is assigned format %s (version %s), which is not active', coalesce('part ' || a.part_id,
                'part type ' || a.part_type), f.name, f.version
        ),
        format('delete from machserial.format_assignments where id = %s;', a.id)
    from machserial.format_assignments as a
    inner join machserial.serial_formats as f on f.id = a.format_id
    where not f.is_active and coalesce(a.effective_until > now(), true)
    order by a.id;

    return query
    select
        'inactive_format', 'WARNING', format('trigger %s', d.id),
        format('trigger %s of part %s numbers by format %s, which is not active', d.id, d.part_id, d.format),
        format('select machserial.update_trigger(trigger_id => %s, format => ...);', d.id)
    from machserial.trigger_definitions as d
    where
        d.enabled and d.format is not null and not exists (
            select from machserial.serial_formats as f where f.name = d.format and f.is_active
        )
    order by d.id;
end
$$;
