-- The verbs of lineage: pass through, split, merge, transform.

-- Each source with each target; target_ids null: the sources themselves go on.
create function machserial._propagate(
    propagation_type text, source_ids bigint[], target_ids bigint[], operation_code text,
    routing_sequence integer, work_center_id text, quantity numeric, notes text
)
returns setof machserial.serial_propagation
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    perform machserial._require_operation(
        _propagate.operation_code, _propagate.routing_sequence, _propagate.quantity
    );
    perform machserial._require_different_serials(source_ids, target_ids);
    return query
    insert into machserial.serial_propagations as p (
        propagation_type, parent_serial_id, child_serial_id, operation_code, routing_sequence,
        work_center_id, quantity, notes
    )
    select
        _propagate.propagation_type, s.id, t.id, _propagate.operation_code, _propagate.routing_sequence,
        _propagate.work_center_id, _propagate.quantity, _propagate.notes
    from unnest(source_ids) with ordinality as s (id, ordinal)
    left join unnest(target_ids) with ordinality as t (id, ordinal) on true
    order by s.ordinal, t.ordinal
    returning
        p.id, p.propagation_type, p.parent_serial_id, p.child_serial_id, p.operation_code,
        p.routing_sequence, p.work_center_id, p.quantity, p.notes, p.created_at, p.created_by;
end
$$;

create function machserial.pass_through(
    serial_id bigint, operation_code text, routing_sequence integer, work_center_id text default null,
    quantity numeric default 1, notes text default null
)
returns machserial.serial_propagation
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return machserial._propagate(
        'PASS_THROUGH', array[serial_id], null, operation_code, routing_sequence, work_center_id, quantity,
        notes
    );
end
$$;

comment on function machserial.pass_through(bigint, text, integer, text, numeric, text) is
'Puts on record that a serial has gone through an operation and is the same as before. operation_code,
routing_sequence (0 or more), work_center_id: where. quantity: how much of it, more than 0, in the unit of
the part. Returns the row of serial_propagations.
Errors: 54000 a text that is too long; 22023 a bad argument; 55000 the serial is CONFLICT, REJECTED, RETIRED
or INVALID; P0002 no such serial.';

create function machserial.split(
    source_serial_id bigint, target_serial_ids bigint[], operation_code text, routing_sequence integer,
    work_center_id text default null, quantity numeric default 1, notes text default null
)
returns setof machserial.serial_propagation
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select p.*
    from machserial._propagate(
        'SPLIT', array[source_serial_id], coalesce(target_serial_ids, '{}'), operation_code,
        routing_sequence, work_center_id, quantity, notes
    ) as p;
end
$$;

comment on function machserial.split(bigint, bigint[], text, integer, text, numeric, text) is
'Puts on record that one serial has become several: a bar cut up, a panel separated. One target is
allowed: the others may follow in another call. quantity: how much of the source went into each target;
the other arguments as in pass_through(). Returns a row for each target, in their order.
Errors: 54000 a text that is too long; 22023 a bad argument, a serial given twice, a target that the source
itself comes from; 0A000 a target older than the source, under REPEATABLE READ or SERIALIZABLE; 55000 a
serial is CONFLICT, REJECTED, RETIRED or INVALID; P0002 no such serial.';

create function machserial.merge(
    source_serial_ids bigint[], target_serial_id bigint, operation_code text, routing_sequence integer,
    work_center_id text default null, quantity numeric default 1, notes text default null
)
returns setof machserial.serial_propagation
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select p.*
    from machserial._propagate(
        'MERGE', source_serial_ids, array[target_serial_id], operation_code, routing_sequence,
        work_center_id, quantity, notes
    ) as p;
end
$$;

comment on function machserial.merge(bigint[], bigint, text, integer, text, numeric, text) is
'Puts on record that several serials have become one: an assembly, a batch. One source is allowed: the
others may follow in another call. quantity: how much of each source went into the target; the other
arguments as in pass_through(). Returns a row for each source, in their order.
Errors: 54000 a text that is too long; 22023 a bad argument, a serial given twice, a target that a source
itself comes from; 0A000 a target older than a source, under REPEATABLE READ or SERIALIZABLE; 55000 a serial
is CONFLICT, REJECTED, RETIRED or INVALID; P0002 no such serial.';

create function machserial.transform(
    source_serial_id bigint, operation_code text, routing_sequence integer,
    target_serial_id bigint default null, work_center_id text default null, quantity numeric default 1,
    notes text default null
)
returns machserial.serial_propagation
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return machserial._propagate(
        'TRANSFORM', array[source_serial_id],
        case when target_serial_id is not null then array[target_serial_id] end,
        operation_code, routing_sequence, work_center_id, quantity, notes
    );
end
$$;

comment on function machserial.transform(bigint, text, integer, bigint, text, numeric, text) is
'Puts on record that a serial has become something else: a casting machined, a unit converted.
target_serial_id: the number that it bears now; null: it keeps its own. The other arguments as in
pass_through(). Returns the row of serial_propagations.
Errors: 54000 a text that is too long; 22023 a bad argument, a target that the source itself comes from;
0A000 a target older than the source, under REPEATABLE READ or SERIALIZABLE; 55000 a serial is CONFLICT,
REJECTED, RETIRED or INVALID; P0002 no such serial.';
