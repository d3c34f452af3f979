-- What became of what: serials go on, split, merge and turn into others; where one comes from and goes to.
--
-- Nothing may become part of itself. Each serial has a rank (lineage_rank, else its id), and whatever comes
-- of it ranks above it. Most serials come of older ones, and nothing is to be done; where one comes of a
-- younger one, that one is lowered if there is room above what it comes of itself, so that a long lineage
-- that is recorded backwards costs no more than one that is not; else it and what has come of it are lifted
-- until the order holds again. If it never does, there is a cycle.
--
-- Between sessions: a transaction that adds a propagation locks its serials FOR SHARE until it ends. One that
-- lifts or lowers a serial locks it FOR NO KEY UPDATE, and what a lowered one comes of FOR SHARE. So no
-- serial is lifted while another session is making something of it, and a session that waited sees what has
-- been made. No other session waits.

create type machserial.serial_propagation as (
    id bigint,
    propagation_type text,
    parent_serial_id bigint,
    child_serial_id bigint,
    operation_code text,
    routing_sequence integer,
    work_center_id text,
    quantity numeric,
    notes text,
    created_at timestamptz,
    created_by text
);

comment on type machserial.serial_propagation is 'A row of machserial.serial_propagations.';

-- The table

create function machserial._refuse_propagation_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    changes constant jsonb := machserial._changes(to_jsonb(old), to_jsonb(new) - 'notes');
begin
    if changes is null then
        return new;
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('propagation %s is on record: nothing but its notes can be changed', old.id),
        detail = format('The change is %s.', machserial._shown(changes::text)),
        hint = 'Put on record what happened next, and say in notes what was wrong.';
end
$$;

create function machserial._refuse_rank_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Depth 1 is this trigger itself.
    if pg_trigger_depth() > 1 then
        return new;
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('the lineage_rank of serial %s follows from its lineage', old.serial_number),
        detail = format(
            'It is %s and would become %s.',
            coalesce(old.lineage_rank::text, 'null'), coalesce(new.lineage_rank::text, 'null')
        ),
        hint = 'Leave lineage_rank alone: adding a propagation sets it.';
end
$$;

-- Serials that take part

-- Locks serials FOR SHARE, and those to be lifted FOR NO KEY UPDATE: in one order, that of their ids, so
-- that two who do this cannot deadlock.
create function machserial._lock_serials(serial_ids bigint[], to_be_lifted bigint[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    run record;
begin
    for run in
        select array_agg(n.id) as ids, n.is_lifted
        from (
            select
                i.id, i.is_lifted,
                row_number() over (order by i.id)
                - row_number() over (partition by i.is_lifted order by i.id) as run_number
            from (
                select u.id, bool_or(u.is_lifted) as is_lifted
                from (
                    select s.id, false as is_lifted from unnest(serial_ids) as s (id)
                    union all
                    select l.id, true from unnest(to_be_lifted) as l (id)
                ) as u
                group by u.id
            ) as i
        ) as n
        group by n.is_lifted, n.run_number
        order by min(n.id)
    loop
        if run.is_lifted then
            perform count(*) from (
                select from machserial.serials as s where s.id = any(run.ids) order by s.id
                for no key update of s
            ) as locked;
        else
            perform count(*) from (
                select from machserial.serials as s where s.id = any(run.ids) order by s.id for share of s
            ) as locked;
        end if;
    end loop;
end
$$;

create function machserial._require_propagable(serial_ids bigint[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    unfit record;
begin
    select
        s.serial_number, s.status, count(*) over () as total,
        case
            when s.status_changed_at is null then 'Since it was put on record.'
            else format('Since %s, by %s: %s', s.status_changed_at, s.status_changed_by, s.status_reason)
        end as description
    into unfit
    from machserial.serials as s
    where s.id = any(serial_ids) and s.status in ('CONFLICT', 'REJECTED', 'RETIRED', 'INVALID')
    order by s.id
    limit 1;
    if found then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format(
                'serial %s is %s and cannot be propagated', unfit.serial_number, unfit.status
            ),
            detail = unfit.description || case
                when unfit.total > 1
                    then format(' (%s of %s serials cannot.)', unfit.total, cardinality(serial_ids))
                else ''
            end,
            hint = 'Check the part at hand: only a PENDING or ACTIVE serial goes on or becomes another.';
    end if;
end
$$;

-- Cycles

-- A cycle, from a serial back to itself. Told from the propagation that closes it, the last one added.
create function machserial._raise_cycle(serial_ids bigint[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    closing constant integer := (
        select s.ordinal
        from unnest(serial_ids) with ordinality as s (id, ordinal)
        cross join lateral (
            select r.id from machserial.serial_propagations as r
            where r.parent_serial_id = s.id and r.child_serial_id = serial_ids[s.ordinal + 1]
            offset 0
        ) as e
        order by e.id desc
        limit 1
    );
    own_sites constant text[] := machserial._caller_sites();
    numbers text[] := array(
        select case when coalesce(s.site_id = any(own_sites), true) then s.serial_number else '(not shown)' end
        from unnest(serial_ids[closing:] || serial_ids[2:closing]) with ordinality as i (id, ordinal)
        cross join lateral (select r.* from machserial.serials as r where r.id = i.id offset 0) as s
        order by i.ordinal
    );
    source constant text := numbers[1];
    target constant text := numbers[2];
begin
    if cardinality(numbers) > 20 then
        numbers := numbers[:10] || '...'::text || numbers[cardinality(numbers) - 8:];
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('%s cannot become %s: it would become part of itself', source, target),
        detail = format('The cycle is %s.', array_to_string(numbers, ' -> ')),
        hint = 'Check which is the source (it was there before) and which the target (it came of it).';
end
$$;

-- How far from the next one a serial is put that must move: room for others between the two.
create function machserial._rank_gap() returns bigint
language sql immutable parallel safe
return 1048576;

-- A way back through the lineage, one step longer; refused if it has been there before.
create function machserial._step_back(path bigint[], parent_id bigint) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if parent_id = any(path) then
        perform machserial._raise_cycle(parent_id || path[:array_position(path, parent_id)]);
    end if;
    return parent_id || path;
end
$$;

-- Walks back from a serial that was just lifted, always to the parent that forced it up, and refuses if that
-- leads in a circle. In a cycle everybody has been forced up by another; without one the walk comes to a
-- serial that was high enough by itself.
create function machserial._refuse_cycle_behind(serial_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    path bigint[] := array[serial_id];
    rank bigint;
    parent record;
begin
    select s.lineage_rank into rank from machserial.serials as s where s.id = serial_id;
    loop
        select e.parent_serial_id as id, p.rank, p.is_moved into parent
        from machserial.serial_propagations as e
        cross join lateral (
            select coalesce(r.lineage_rank, r.id) as rank, r.lineage_rank is not null as is_moved
            from machserial.serials as r where r.id = e.parent_serial_id
            offset 0
        ) as p
        where e.child_serial_id = path[1]
        order by p.rank desc
        limit 1;
        exit when parent.id is null or not parent.is_moved or parent.rank < rank - machserial._rank_gap();
        path := machserial._step_back(path, parent.id);
        rank := parent.rank;
    end loop;
end
$$;

-- Under REPEATABLE READ what others have made of the serial meanwhile cannot be seen, and a cycle might
-- close.
create function machserial._require_sight_of_others(serial_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    isolation constant text := current_setting('transaction_isolation');
begin
    if isolation in ('repeatable read', 'serializable') then
        raise exception using
            errcode = 'feature_not_supported',
            message = format(
                'serial %s cannot come of a younger serial in a %s transaction',
                (select s.serial_number from machserial.serials as s where s.id = serial_id), isolation
            ),
            detail = 'Whether that closes a cycle with what other sessions add cannot be seen from here.',
            hint = 'Do it in a transaction of its own: begin isolation level read committed;';
    end if;
end
$$;

-- The children that do not rank above their parents.
create function machserial._below_parent(parent_ids bigint[], child_ids bigint[]) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    return array(
        select distinct e.child_id
        from unnest(parent_ids, child_ids) as e (parent_id, child_id)
        where
            (select coalesce(p.lineage_rank, p.id) from machserial.serials as p where p.id = e.parent_id)
            >= (select coalesce(c.lineage_rank, c.id) from machserial.serials as c where c.id = e.child_id)
    );
end
$$;

-- Of these serials, those that do not rank above all that they come of.
create function machserial._too_low(serial_ids bigint[]) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    return array(
        select i.id
        from (select distinct u.id from unnest(serial_ids) as u (id)) as i
        where
            (select coalesce(c.lineage_rank, c.id) from machserial.serials as c where c.id = i.id)
            <= (
                select max((
                    select coalesce(p.lineage_rank, p.id)
                    from machserial.serials as p where p.id = e.parent_serial_id
                ))
                from machserial.serial_propagations as e
                where e.child_serial_id = i.id
            )
    );
end
$$;

-- Of serials that are too low, those that can be lifted for good: nothing that they come of is too low.
create function machserial._liftable(serial_ids bigint[]) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    return array(
        select i.id
        from unnest(serial_ids) as i (id)
        where cardinality(machserial._too_low(array(
            select e.parent_serial_id from machserial.serial_propagations as e where e.child_serial_id = i.id
        ))) = 0
    );
end
$$;

-- Goes back from a serial that is too low to one that can be lifted for good, along those that are too low as
-- well, and refuses if that leads in a circle.
create function machserial._first_liftable(serial_id bigint) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    path bigint[] := array[serial_id];
    parent_id bigint;
begin
    loop
        parent_id := (machserial._too_low(array(
            select e.parent_serial_id from machserial.serial_propagations as e
            where e.child_serial_id = path[1]
        )))[1];
        exit when parent_id is null;
        path := machserial._step_back(path, parent_id);
    end loop;
    return path[1];
end
$$;

-- The highest rank that a serial of which something came can have.
create function machserial._rank_below_children(serial_id bigint) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    return (
        select min((
            select coalesce(c.lineage_rank, c.id) from machserial.serials as c where c.id = e.child_serial_id
        )) - 1
        from machserial.serial_propagations as e
        where e.parent_serial_id = serial_id and e.child_serial_id is not null
    );
end
$$;

-- The highest rank of what a serial comes of; null if it comes of nothing.
create function machserial._rank_of_parents(serial_id bigint) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    return (
        select max((
            select coalesce(p.lineage_rank, p.id) from machserial.serials as p where p.id = e.parent_serial_id
        ))
        from machserial.serial_propagations as e
        where e.child_serial_id = serial_id
    );
end
$$;

-- Lowers the parents that rank too high for their children, where there is room above what they come of.
-- Waits for nobody: returns null if that is done, else the serials to be locked before it is tried again.
create function machserial._lower_parents(parent_ids bigint[], child_ids bigint[]) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    too_high constant bigint[] := array(
        select t.id
        from (
            select distinct e.parent_id as id
            from unnest(parent_ids, child_ids) as e (parent_id, child_id)
            where
                (select coalesce(p.lineage_rank, p.id) from machserial.serials as p where p.id = e.parent_id)
                >= (select coalesce(c.lineage_rank, c.id) from machserial.serials as c where c.id = e.child_id)
                -- To lift a child of which nothing has come costs as little, and keeps nobody from the parent.
                and exists (
                    select from machserial.serial_propagations as a
                    where a.parent_serial_id = e.child_id and a.child_serial_id is not null
                    offset 0
                )
            -- The ranks around a serial are looked up for those that are left, and once each.
            offset 0
        ) as t
        where coalesce(machserial._rank_of_parents(t.id) < machserial._rank_below_children(t.id), true)
    );
    sources bigint[];
    locked integer;
begin
    if too_high = '{}' then
        return null;
    end if;
    perform machserial._require_sight_of_others(too_high[1]);
    select count(*) into locked
    from (
        select from machserial.serials as s where s.id = any(too_high) for no key update of s skip locked
    ) as l;
    if locked < cardinality(too_high) then
        return too_high;
    end if;
    -- From here on they come of nothing more, and nobody lifts what they come of.
    sources := array(
        select distinct e.parent_serial_id
        from machserial.serial_propagations as e where e.child_serial_id = any(too_high)
    );
    if sources <> '{}' then
        select count(*) into locked
        from (
            select from machserial.serials as s where s.id = any(sources) for share of s skip locked
        ) as l;
        if locked < cardinality(sources) then
            return too_high || sources;
        end if;
    end if;
    update machserial.serials as p set lineage_rank = r.rank
    from (
        select
            t.id,
            machserial._rank_below_children(t.id)
            - case when machserial._rank_of_parents(t.id) is null then machserial._rank_gap() else 0 end as rank
        from unnest(too_high) as t (id)
        where coalesce(machserial._rank_of_parents(t.id) < machserial._rank_below_children(t.id), true)
        offset 0
    ) as r
    where p.id = r.id;
    return null;
end
$$;

-- Lifts the children that do not rank above their parents, what has come of them, and so on: each when what
-- it comes of has been lifted, so that mostly once is enough. Waits for nobody: returns null if the order
-- holds, else the serials to be locked before it is tried again.
create function machserial._lift_children(parent_ids bigint[], child_ids bigint[]) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    waiting bigint[] := machserial._below_parent(parent_ids, child_ids);
    next_ones bigint[] := machserial._liftable(waiting);
    came_of_them bigint[];
    -- Serial to the highest rank of what it comes of.
    ranks_behind jsonb;
    lifted record;
    wanted bigint[] := '{}'::bigint[];
    locked integer;
    rounds integer := 0;
begin
    while waiting <> '{}' loop
        perform machserial._require_sight_of_others(waiting[1]);
        if next_ones = '{}' then
            next_ones := array[machserial._first_liftable(waiting[1])];
        end if;
        wanted := wanted || next_ones;
        select count(*) into locked
        from (
            select from machserial.serials as s where s.id = any(next_ones)
            for no key update of s skip locked
        ) as l;
        if locked < cardinality(next_ones) then
            return wanted;
        end if;
        select jsonb_object_agg(i.id, (
            select max((
                select coalesce(p.lineage_rank, p.id)
                from machserial.serials as p where p.id = e.parent_serial_id
            ))
            from machserial.serial_propagations as e
            where e.child_serial_id = i.id
        ))
        into ranks_behind
        from unnest(next_ones) as i (id);
        update machserial.serials as c set lineage_rank
            = (ranks_behind ->> c.id::text)::bigint + machserial._rank_gap()
        where
            c.id = any(next_ones)
            and coalesce(c.lineage_rank, c.id) <= (ranks_behind ->> c.id::text)::bigint;
        rounds := rounds + 1;
        -- Now and then: each look is as long as the rounds were many.
        if rounds & (rounds - 1) = 0 then
            perform machserial._refuse_cycle_behind(next_ones[1]);
        end if;
        select
            array_agg(e.parent_serial_id) filter (where e.child_serial_id is not null) as parent_ids,
            array_agg(e.child_serial_id) filter (where e.child_serial_id is not null) as child_ids
        into lifted
        from machserial.serial_propagations as e
        where e.parent_serial_id = any(next_ones);
        came_of_them := machserial._below_parent(lifted.parent_ids, lifted.child_ids);
        waiting := waiting || came_of_them;
        next_ones := machserial._liftable(came_of_them);
        if next_ones = '{}' then
            waiting := machserial._too_low(waiting);
            next_ones := machserial._liftable(waiting);
        end if;
    end loop;
    return null;
end
$$;

-- SECURITY DEFINER: locks and lifts serials that the caller may not write, of sites that he may not see.
create function machserial._refuse_impossible_lineage() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    serial_ids constant bigint[] := array(
        select n.parent_serial_id from new_propagations as n
        union
        select n.child_serial_id from new_propagations as n where n.child_serial_id is not null
    );
    edges record;
    to_be_lifted bigint[] := '{}'::bigint[];
begin
    select
        array_agg(n.parent_serial_id) as parent_ids, array_agg(n.child_serial_id) as child_ids,
        min(n.parent_serial_id) filter (where n.parent_serial_id = n.child_serial_id) as its_own_parent
    into edges
    from new_propagations as n
    where n.child_serial_id is not null;
    if edges.its_own_parent is not null then
        perform machserial._raise_cycle(array[edges.its_own_parent, edges.its_own_parent]);
    elsif edges.child_ids is null then
        perform machserial._lock_serials(serial_ids, to_be_lifted);
        perform machserial._require_propagable(serial_ids);
        return null;
    end if;
    loop
        begin
            perform machserial._lock_serials(serial_ids, to_be_lifted);
            perform machserial._require_propagable(serial_ids);
            -- Twice: there may be room above what has just been lowered.
            to_be_lifted := coalesce(
                machserial._lower_parents(edges.parent_ids, edges.child_ids),
                machserial._lower_parents(edges.parent_ids, edges.child_ids),
                machserial._lift_children(edges.parent_ids, edges.child_ids)
            );
            exit when to_be_lifted is null;
            -- Another session holds one of them, and may wait for one of ours: let go of all, and wait for
            -- them in the order in which everybody does.
            raise sqlstate 'MS001' using message = 'let go of the locks';
        exception when sqlstate 'MS001' then
            null;
        end;
    end loop;
    return null;
end
$$;

-- The audit trail

-- One event for each serial that took part at one operation, with the serials at the other end.
create function machserial._audit_new_propagations() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, details
    )
    select
        case t.propagation_type
            when 'PASS_THROUGH' then 'PROPAGATED'
            when 'SPLIT' then 'SPLIT'
            when 'MERGE' then 'MERGED'
            when 'TRANSFORM' then 'TRANSFORMED'
        end,
        current_setting('application_name'), s.id, s.serial_number, s.part_id, s.site_id,
        jsonb_strip_nulls(jsonb_build_object(
            'operation_code', t.operation_code, 'routing_sequence', t.routing_sequence,
            'work_center_id', t.work_center_id,
            'source_serial_ids', t.source_ids, 'target_serial_ids', t.target_ids
        ))
    from (
        select
            n.propagation_type, n.operation_code, n.routing_sequence, n.work_center_id, e.serial_id,
            array_agg(e.source_id order by n.id) filter (where e.source_id is not null) as source_ids,
            array_agg(e.target_id order by n.id) filter (where e.target_id is not null) as target_ids
        from new_propagations as n
        cross join lateral (
            values (n.parent_serial_id, null::bigint, n.child_serial_id),
            (n.child_serial_id, n.parent_serial_id, null)
        ) as e (serial_id, source_id, target_id)
        where e.serial_id is not null
        group by n.propagation_type, n.operation_code, n.routing_sequence, n.work_center_id, e.serial_id
    ) as t
    cross join lateral (select r.* from machserial.serials as r where r.id = t.serial_id offset 0) as s
    order by s.id;
    return null;
end
$$;

create function machserial._audit_changed_propagations() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, details
    )
    select
        'PROPAGATION_UPDATED', current_setting('application_name'), s.id, s.serial_number, s.part_id,
        s.site_id, c.changes || jsonb_build_object('propagation_id', n.id)
    from new_propagations as n
    full join old_propagations as o on o.id = n.id
    cross join lateral (select machserial._changes(to_jsonb(o), to_jsonb(n)) as changes) as c
    cross join lateral (
        select r.* from machserial.serials as r where r.id = n.parent_serial_id offset 0
    ) as s
    where c.changes is not null;
    return null;
end
$$;

-- Adding propagations

create function machserial._require_different_serials(source_ids bigint[], target_ids bigint[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    given constant bigint[] := array(
        select i.id from unnest(source_ids) as i (id) union all select i.id from unnest(target_ids) as i (id)
    );
    fault text;
    unknown bigint[];
begin
    fault := case
        when coalesce(cardinality(source_ids), 0) = 0 then 'no source serial is given'
        when cardinality(target_ids) = 0 then 'no target serial is given'
        when array_position(given, null) is not null then 'one of the serials is null'
        else (
            select format('serial %s is given more than once', min(r.id))
            from (select i.id from unnest(given) as i (id) group by i.id having count(*) > 1) as r
            having count(*) > 0
        )
    end;
    if fault is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = fault,
            detail = format(
                'Source: %s; target: %s.', coalesce(left(source_ids::text, 200), 'null'),
                coalesce(left(target_ids::text, 200), 'null')
            ),
            hint = 'Give each serial once, by its id: machserial.find_serial(serial_number).';
    end if;
    unknown := array(
        select i.id from unnest(given) as i (id)
        where not exists (select from machserial.serials as s where s.id = i.id offset 0)
        order by i.id
    );
    if cardinality(unknown) > 0 then
        raise exception using
            errcode = 'no_data_found',
            message = format('there is no serial with id %s', array_to_string(unknown[:20], ', ')),
            detail = format(
                'Unknown are %s of the %s that were given.', cardinality(unknown), cardinality(given)
            ),
            hint = 'Look the number up: machserial.find_serial(serial_number).';
    end if;
end
$$;

create function machserial._require_operation(
    operation_code text, routing_sequence integer, quantity numeric
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_name('operation_code', operation_code);
    if routing_sequence >= 0 and quantity > 0 and quantity < 'infinity' then
        return;
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('operation %s lacks a routing_sequence or a quantity', operation_code),
        detail = format(
            'routing_sequence is %s, quantity is %s.',
            coalesce(routing_sequence::text, 'null'), coalesce(quantity::text, 'null')
        ),
        hint = 'routing_sequence is 0 or more, quantity more than 0.';
end
$$;
