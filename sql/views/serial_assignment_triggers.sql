create or replace view machserial.serial_assignment_triggers as
select
    d.id,
    d.part_id,
    d.trigger_type,
    d.assignment_type,
    d.format,
    d.operation_code,
    d.conditions,
    d.batch_size,
    d.enabled,
    d.disabled_at,
    d.disabled_by,
    d.created_at,
    d.created_by,
    d.updated_at,
    d.updated_by,
    case
        when machserial._is_unlimited('machserial.limited_to_sites'::regtype)
            then d.count_offset + (
                select coalesce(sum(e.executions), 0)::bigint
                from machserial.trigger_executions as e
                where e.trigger_id = d.id
            )
    end as execution_count,
    case
        when machserial._is_unlimited('machserial.limited_to_sites'::regtype)
            then (
                select max(e.executed_at)
                from machserial.trigger_executions as e
                where e.trigger_id = d.id
            )
    end as last_executed_at
from machserial.trigger_definitions as d;

comment on view machserial.serial_assignment_triggers is
'What happens to which part at which event, and how often it has. It is written like a table: execution_count
may be set, which resets it; when and by whom is filled in.';

comment on column machserial.serial_assignment_triggers.execution_count is
'Events that it has fired for since it was created or the count was reset; null for a role that is limited to
sites: the events of all sites are counted together.';
comment on column machserial.serial_assignment_triggers.last_executed_at is
'When it fired last; null: never, or you are limited to sites.';

create or replace trigger triggers_are_updated
instead of update on machserial.serial_assignment_triggers
for each row execute function machserial._update_trigger_row();
