-- What was recorded of a part's lineage, and how much.

create function machserial.propagation_history(
    part_id text, since timestamptz default null, until timestamptz default null,
    page_size integer default 50, after bigint default null
)
returns setof machserial.serial_propagation
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
begin
    perform machserial._require_known_part(propagation_history.part_id);
    if page_size is null or page_size < 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('page_size cannot be %s', coalesce(page_size::text, 'null')),
            detail = format('page_size is %s.', coalesce(page_size::text, 'null')),
            hint = 'Give 1 or more.';
    end if;
    -- From the serials of the part to their propagations: it costs what the part has, however much others have.
    return query
    select distinct on (p.id)
        p.id, p.propagation_type, p.parent_serial_id, p.child_serial_id, p.operation_code,
        p.routing_sequence, p.work_center_id, p.quantity, p.notes, p.created_at, p.created_by
    from machserial.serials as s
    cross join lateral (
        (select e.* from machserial.serial_propagations as e where e.parent_serial_id = s.id offset 0)
        union all
        (select e.* from machserial.serial_propagations as e where e.child_serial_id = s.id offset 0)
    ) as p
    where
        s.part_id = propagation_history.part_id
        and p.created_at >= coalesce(since, '-infinity') and p.created_at < coalesce(until, 'infinity')
        and (after is null or p.id < after)
    order by p.id desc
    limit page_size;
end
$$;

comment on function machserial.propagation_history(text, timestamptz, timestamptz, integer, bigint) is
'The propagations of serials of a part, as source or as target, newest first. since (inclusive), until
(exclusive): when they were put on record. page_size: at most so many. after: the id that the page before
ended with; null for the first page.
Errors: 22023 page_size is null or below 1; 23503 unknown part.';

create function machserial.propagation_statistics(
    part_id text,
    out total bigint, out pass_through bigint, out split bigint, out merge bigint, out transform bigint,
    out serials bigint, out last_propagated_at timestamptz
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
begin
    perform machserial._require_known_part(part_id);
    select
        count(distinct e.id), count(distinct e.id) filter (where e.propagation_type = 'PASS_THROUGH'),
        count(distinct e.id) filter (where e.propagation_type = 'SPLIT'),
        count(distinct e.id) filter (where e.propagation_type = 'MERGE'),
        count(distinct e.id) filter (where e.propagation_type = 'TRANSFORM'),
        count(distinct e.serial_id), max(e.created_at)
    into total, pass_through, split, merge, transform, serials, last_propagated_at
    from (
        select p.id, p.propagation_type, p.created_at, s.id as serial_id
        from machserial.serial_propagations as p
        inner join machserial.serials as s on s.id = p.parent_serial_id
        where s.part_id = propagation_statistics.part_id
        union all
        select p.id, p.propagation_type, p.created_at, s.id
        from machserial.serial_propagations as p
        inner join machserial.serials as s on s.id = p.child_serial_id
        where s.part_id = propagation_statistics.part_id
    ) as e;
end
$$;

comment on function machserial.propagation_statistics(text) is
'How many propagations serials of a part took part in, as source or as target: in all and by type; how
many of its serials took part, and when the last was put on record (null: none).
Errors: 23503 unknown part.';

create function machserial._lineage_problems(part_id text default null)
returns table (serial_id bigint, problem text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        c.id,
        format(
            'ranks %s, not above %s, the rank of serial %s (id %s) that it comes of',
            coalesce(c.lineage_rank, c.id), coalesce(p.lineage_rank, p.id), p.serial_number, p.id
        )
    from machserial.serial_propagations as e
    inner join machserial.serials as p on p.id = e.parent_serial_id
    inner join machserial.serials as c on c.id = e.child_serial_id
    where
        coalesce(p.lineage_rank, p.id) >= coalesce(c.lineage_rank, c.id)
        and (
            _lineage_problems.part_id is null or _lineage_problems.part_id in (c.part_id, p.part_id)
        );
end
$$;
