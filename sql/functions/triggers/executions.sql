-- How often a trigger has fired.

create function machserial._require_trigger_type(trigger_type text) returns text
language sql immutable parallel safe
return machserial._require_one_of(
    'trigger_type', trigger_type,
    '{MATERIAL_RECEIPT,WORK_ORDER_CREATE,OPERATION_COMPLETE,QUALITY_CHECKPOINT,BATCH_COMPLETION}'
);

-- One row per firing: adding to a count in the trigger's own row would make events wait for each other.
-- SECURITY DEFINER: only what fires can count, and no more than one statement can have fired for.
create function machserial._count_executions(trigger_id bigint, executions bigint, units bigint) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if _count_executions.executions between 1 and 100000000 is not true
        or _count_executions.units between 0 and 100000000 is not true
    then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'no statement fires so often',
            detail = format(
                'executions is %s, units is %s.', coalesce(executions::text, 'null'), coalesce(units::text, 'null')
            ),
            hint = 'Let fire() count.';
    end if;
    insert into machserial.trigger_executions (trigger_id, executions, units)
    values (_count_executions.trigger_id, _count_executions.executions, _count_executions.units);
end
$$;

-- Makes one row of the many rows of a trigger, of those that are committed. A session that fires meanwhile
-- adds a row of its own; one that folds meanwhile has locked its rows. Returns by how many there are fewer.
create function machserial._fold_executions() returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    folded integer;
begin
    with many as (
        select e.id
        from machserial.trigger_executions as e
        where e.trigger_id in (
            select f.trigger_id from machserial.trigger_executions as f
            group by f.trigger_id
            having count(*) > 1
        )
        for update skip locked
    ),

    taken as (
        delete from machserial.trigger_executions as e using many as m where e.id = m.id
        returning e.trigger_id, e.executions, e.units, e.executed_at
    ),

    kept as (
        insert into machserial.trigger_executions (trigger_id, executions, units, executed_at)
        select
            t.trigger_id, least(sum(t.executions), 9223372036854775807), least(sum(t.units), 9223372036854775807),
            max(t.executed_at)
        from taken as t
        group by t.trigger_id
        order by t.trigger_id
        returning trigger_id
    )

    select (select count(*) from taken) - (select count(*) from kept) into folded;
    return folded;
end
$$;
