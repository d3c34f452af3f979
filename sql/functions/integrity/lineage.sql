-- Findings of integrity(): lineage.

-- Whatever comes of a serial ranks above it: where all do, there is no circle.
create function machserial._faults_of_lineage(part_id text default null)
returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    problem record;
begin
    for problem in
        select
            l.serial_id, s.serial_number, l.problem, p.id as parent_id,
            array_agg(e.id order by e.id) as propagation_ids
        from (
            select distinct q.serial_id, q.problem
            from machserial._lineage_problems(_faults_of_lineage.part_id) as q
        ) as l
        inner join machserial.serials as s on s.id = l.serial_id
        inner join machserial.serial_propagations as e on e.child_serial_id = s.id
        inner join machserial.serials as p on p.id = e.parent_serial_id
        where coalesce(p.lineage_rank, p.id) >= coalesce(s.lineage_rank, s.id)
        group by l.serial_id, s.serial_number, l.problem, p.id
        order by l.serial_id, p.id
        limit 101
    loop
        return query
        select f.* from machserial._lineage_finding(
            problem.serial_id, problem.parent_id, problem.serial_number, problem.problem,
            problem.propagation_ids
        ) as f;
    end loop;
end
$$;

create function machserial._lineage_finding(
    serial_id bigint, parent_id bigint, serial_number text, problem text, propagation_ids bigint[]
)
returns machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    is_cycle constant boolean := exists (
        with recursive came_of_it as (
            select _lineage_finding.serial_id as id
            union
            select e.child_serial_id
            from came_of_it as a
            inner join machserial.serial_propagations as e on e.parent_serial_id = a.id
            where e.child_serial_id is not null
        )

        select from came_of_it as a where a.id = _lineage_finding.parent_id
    );
begin
    if is_cycle then
        return (
            'lineage_cycle', 'CRITICAL', format('serial %s', serial_id),
            format('serial %s comes of serial %s, which comes of it', serial_number, parent_id),
            'Of the circle one propagation is wrong; if it is this one: '
            || machserial._with_triggers_off('serial_propagations', format(
                'delete from machserial.serial_propagations where id in (%s)',
                array_to_string(propagation_ids, ', ')
            ))
        )::machserial.integrity_finding;
    end if;
    return (
        'lineage_rank', 'CRITICAL', format('serial %s', serial_id),
        format('serial %s %s', serial_number, problem),
        'alter table machserial.serials disable trigger serials_keep_their_lineage_rank; '
        || format('select machserial._lift_children(array[%s], array[%s]); ', parent_id, serial_id)
        || 'alter table machserial.serials enable trigger serials_keep_their_lineage_rank;'
    )::machserial.integrity_finding;
end
$$;

create function machserial.verify_lineage(part_id text default null)
returns table (name text, severity text, object text, message text, remedy text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform machserial._require_administrator('machserial.verify_lineage()');
    perform machserial._require_sight_of_all();
    if verify_lineage.part_id is not null then
        perform machserial._require_known_part(verify_lineage.part_id);
    end if;
    return query
    select f.* from machserial._faults_of_lineage(verify_lineage.part_id) as f
    union all
    select f.* from machserial._find_standby() as f;
end
$$;

comment on function machserial.verify_lineage(text) is
'The part of integrity() that examines lineage: cycles, and ranks out of order. part_id: only what comes from
or became a serial of this part.
Errors: 23503 unknown part; 42501 neither the owner nor an administrator.';
