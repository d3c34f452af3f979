-- Where a serial comes from, and where it went.
--
-- Most lineages are lines, or branch without ever meeting again, and one recursive query has them in the time
-- of a query written by hand. What it cannot do is leave out what it reached at a lesser depth; where serials
-- are reached over and over, level by level is the way.

create type machserial._lineage_step as (
    serial_id bigint,
    propagation_type text,
    operation_code text,
    path bigint[]
);

comment on type machserial._lineage_step is 'A serial that lineage() has come to, and how.';

-- Says that there is more than was asked for; false, so that it can be asked in place of a row.
create function machserial._tell_cut(serial_id bigint, max_depth integer, upward boolean) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise notice using
        message = format(
            'lineage of serial %s is cut at depth %s: there are more %ss',
            (select s.serial_number from machserial.serials as s where s.id = _tell_cut.serial_id),
            max_depth, case when upward then 'ancestor' else 'descendant' end
        ),
        hint = format(
            'To see more: machserial.lineage(serial_id => %s, max_depth => %s)', serial_id,
            greatest(max_depth, 1)::bigint * 10
        );
    return false;
end
$$;

-- The serials that a serial comes of (upward) or that came of it, each on the level where it is reached
-- first, by the step with the lowest id. One query walks all levels, and one more than asked for, to see
-- whether there is more. Nothing, if serials are reached over and over: a dense net is for _walk_lineage().
create function machserial._lineage_one_way(
    start_id bigint, max_depth integer, upward boolean,
    out direction text, out depth integer, out serial_id bigint, out serial_number text, out part_id text,
    out propagation_type text, out operation_code text, out path bigint[]
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    -- What is lateral below with offset 0 can only be a nested loop, so that it also keeps the order.
    return query
    with recursive level as (
        select
            0 as depth, start_id as id, null::text collate "C" as propagation_type,
            null::text collate "C" as operation_code, array[start_id] as path
        union all
        select n.depth + 1, n.id, n.propagation_type, n.operation_code, n.path || array[n.id]
        from (
            select distinct on (e.serial_id)
                l.depth, e.serial_id as id, e.propagation_type, e.operation_code, l.path
            from level as l
            cross join lateral (
                select e.id, e.parent_serial_id as serial_id, e.propagation_type, e.operation_code
                from machserial.serial_propagations as e
                where upward and e.child_serial_id = l.id
                union all
                select e.id, e.child_serial_id, e.propagation_type, e.operation_code
                from machserial.serial_propagations as e
                where not upward and e.parent_serial_id = l.id and e.child_serial_id is not null
            ) as e
            where l.depth <= _lineage_one_way.max_depth
            order by e.serial_id, e.id
        ) as n
    )

    select
        case when upward then 'ANCESTOR' else 'DESCENDANT' end, l.depth, s.id, s.serial_number, s.part_id,
        l.propagation_type, l.operation_code, l.path
    from level as l
    cross join lateral (
        select n.id, n.serial_number, n.part_id
        from machserial.serials as n
        where n.id = l.id
        offset 0
    ) as s
    where
        l.depth > 0
        and (
            select count(*) <= 2 * count(distinct f.id)
            from (select i.id from level as i limit 2000) as f
        )
        and case
            when
                (select count(*) > count(distinct i.id) from level as i)
                and (l.id, l.depth) not in (select i.id, min(i.depth) from level as i group by i.id)
                then false
            when l.depth > _lineage_one_way.max_depth
                then (select machserial._tell_cut(start_id, _lineage_one_way.max_depth, upward))
            else true
        end;
end
$$;

-- The same level by level, each serial once: for nets in which there are many ways to a serial.
create function machserial._walk_lineage(
    start_id bigint, max_depth integer, upward boolean,
    out direction text, out depth integer, out serial_id bigint, out serial_number text, out part_id text,
    out propagation_type text, out operation_code text, out path bigint[]
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    level machserial._lineage_step[] := array[
        row(start_id, null, null, array[start_id])::machserial._lineage_step
    ];
    reached bigint[] := array[start_id];
    pending machserial._lineage_step[];
begin
    direction := case when upward then 'ANCESTOR' else 'DESCENDANT' end;
    for depth in 1..max_depth loop
        select array_agg(n.step), reached || array_agg(n.id) into level, reached
        from (
            select distinct on (e.serial_id)
                e.serial_id as id,
                row(
                    e.serial_id, e.propagation_type, e.operation_code, l.path || e.serial_id
                )::machserial._lineage_step as step
            from unnest(level) as l
            cross join lateral (
                select e.id, e.parent_serial_id as serial_id, e.propagation_type, e.operation_code
                from machserial.serial_propagations as e
                where upward and e.child_serial_id = l.serial_id
                union all
                select e.id, e.child_serial_id, e.propagation_type, e.operation_code
                from machserial.serial_propagations as e
                where not upward and e.parent_serial_id = l.serial_id and e.child_serial_id is not null
            ) as e
            where e.serial_id not in (select r.id from unnest(reached) as r (id))
            order by e.serial_id, e.id
        ) as n;
        pending := pending || level;
        -- Not level by level: most levels are small.
        if level is null or depth = max_depth or cardinality(pending) > 1000 then
            return query
            select
                direction, cardinality(p.path) - 1, s.id, s.serial_number, s.part_id, p.propagation_type,
                p.operation_code, p.path
            from unnest(pending) as p
            cross join lateral (select r.* from machserial.serials as r where r.id = p.serial_id offset 0) as s
            order by cardinality(p.path), s.id;
            pending := null;
        end if;
        if level is null then
            return;
        end if;
    end loop;
    if exists (
        select from unnest(level) as l
        cross join lateral (
            select e.id, e.parent_serial_id as serial_id, e.propagation_type, e.operation_code
            from machserial.serial_propagations as e
            where upward and e.child_serial_id = l.serial_id
            union all
            select e.id, e.child_serial_id, e.propagation_type, e.operation_code
            from machserial.serial_propagations as e
            where not upward and e.parent_serial_id = l.serial_id and e.child_serial_id is not null
        ) as e
        where e.serial_id not in (select r.id from unnest(reached) as r (id))
    ) then
        perform machserial._tell_cut(start_id, max_depth, upward);
    end if;
end
$$;

create function machserial.lineage(
    out direction text, out depth integer, inout serial_id bigint,
    in max_depth integer default machserial._setting('propagation_depth_limit')::integer,
    out serial_number text, out part_id text, out propagation_type text, out operation_code text,
    out path bigint[]
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- One plan, which reads by index, even if it is made while the tables are small, and however long a level is.
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    start constant machserial.serial := machserial._serial(lineage.serial_id);
    upward boolean;
begin
    if lineage.max_depth is null or lineage.max_depth < 0 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('no lineage of serial %s without a depth', start.serial_number),
            detail = format('max_depth is %s.', coalesce(lineage.max_depth::text, 'null')),
            hint = 'Give 0 for the serial alone, 1 for its parents and children, and so on.';
    end if;
    foreach upward in array array[true, false] loop
        return query select w.* from machserial._lineage_one_way(start.id, lineage.max_depth, upward) as w;
        if
            not found and lineage.max_depth > 0 and (
                upward and exists (
                    select from machserial.serial_propagations as e where e.child_serial_id = start.id
                )
                or not upward and exists (
                    select from machserial.serial_propagations as e where e.parent_serial_id = start.id
                )
            )
        then
            return query select w.* from machserial._walk_lineage(start.id, lineage.max_depth, upward) as w;
        end if;
        if upward then
            return query
            select
                'SELF', 0, start.id, start.serial_number, start.part_id, null::text, null::text,
                array[start.id];
        end if;
    end loop;
end
$$;

comment on function machserial.lineage(bigint, integer) is
'Where a serial comes from and what it became: ANCESTOR, SELF and DESCENDANT rows, each serial once a
direction, at its least depth; nearest first. propagation_type, operation_code: of the step by which it
was reached. path: the ids from the serial to this one, both included. max_depth: so many steps either
way, 0 for the serial alone; if left out, the setting propagation_depth_limit (50). A NOTICE says if there is
more.
Errors: 22023 max_depth is null or negative; P0002 no such serial.';
