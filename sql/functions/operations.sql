-- Looking after a database that machserial lives in.

create function machserial.set_node(node integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    first_id constant bigint := node::bigint << 48;
    identity_sequence record;
begin
    if node is null or node not between 0 and 32767 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('node cannot be %s', coalesce(node::text, 'null')),
            detail = 'It is 0 to 32767.',
            hint = 'Give each database that will be merged a number of its own.';
    end if;
    perform machserial._require_owner();
    for identity_sequence in
        select s.oid::regclass as name, pg_sequence_last_value(s.oid) as last_id
        from pg_class as s
        inner join pg_depend as d
            on d.classid = 'pg_class'::regclass and d.objid = s.oid and d.refclassid = 'pg_class'::regclass
            and d.deptype = 'i'
        inner join pg_class as r on r.oid = d.refobjid
        where s.relkind = 'S' and r.relnamespace = 'machserial'::regnamespace
        order by s.oid
    loop
        -- Ids of this node's range that are in use already stay in use.
        if coalesce(identity_sequence.last_id, 0) >> 48 <> node or identity_sequence.last_id is null then
            perform setval(identity_sequence.name, first_id + 1, false);
        end if;
    end loop;
end
$$;

comment on function machserial.set_node(integer) is
'Moves the ids that this database gives from now on to the range of node (node << 48), so that databases of
several sites can be merged without collisions. node: 0 to 32767. Errors: 22023 another number · 42501 not
the owner.';

create function machserial.maintain() returns table (task text, done integer)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    task := 'audit partitions made';
    done := machserial._make_audit_partitions(now(), 3);
    return next;
    task := 'counters made ahead';
    done := machserial._prepare_all_counters();
    return next;
    task := 'counters retired';
    done := machserial._retire_counters();
    return next;
end
$$;

comment on function machserial.maintain() is
'What must be done from time to time, safe at any time and from any scheduler: audit partitions for the
coming three months, counters for the coming periods, an end to those of periods that are over. Returns what
was done.';
