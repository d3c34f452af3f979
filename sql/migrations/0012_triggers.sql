create table machserial.trigger_definitions (
    id bigint not null generated always as identity primary key,
    part_id text collate "C" not null references machserial.parts (id),
    trigger_type text collate "C" not null,
    assignment_type text collate "C" not null,
    format text collate "C",
    operation_code text collate "C",
    conditions jsonb not null default '{}',
    batch_size integer not null default 1,
    enabled boolean not null default true,
    disabled_at timestamptz,
    disabled_by text collate "C",
    count_offset bigint not null default 0,
    created_at timestamptz not null default now(),
    created_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    updated_at timestamptz,
    updated_by text collate "C",
    constraint trigger_definitions_trigger_type_is_known
    check (trigger_type in (
        'MATERIAL_RECEIPT', 'WORK_ORDER_CREATE', 'OPERATION_COMPLETE', 'QUALITY_CHECKPOINT',
        'BATCH_COMPLETION'
    )),
    constraint trigger_definitions_assignment_type_is_known
    check (assignment_type in ('SYSTEM_GENERATED', 'VENDOR', 'LATE_ASSIGNMENT')),
    constraint trigger_definitions_operation_code_is_given check (operation_code <> ''),
    constraint trigger_definitions_conditions_are_an_object_or_a_path
    check (jsonb_typeof(conditions) in ('object', 'string')),
    constraint trigger_definitions_batch_size_is_positive check (batch_size between 1 and 1000000)
);

create index trigger_definitions_part_id on machserial.trigger_definitions (part_id, trigger_type);

comment on table machserial.trigger_definitions is
'What happens to a part at an event of the shop floor. Read and written as serial_assignment_triggers.';
comment on column machserial.trigger_definitions.id is 'Key.';
comment on column machserial.trigger_definitions.part_id is 'The part that it numbers.';
comment on column machserial.trigger_definitions.trigger_type is
'The event: MATERIAL_RECEIPT, WORK_ORDER_CREATE, OPERATION_COMPLETE, QUALITY_CHECKPOINT or BATCH_COMPLETION.';
comment on column machserial.trigger_definitions.assignment_type is
'What it makes: serials (SYSTEM_GENERATED), receipts (VENDOR) or placeholders (LATE_ASSIGNMENT).';
comment on column machserial.trigger_definitions.format is
'Name of the format that it numbers by; null: the part''s.';
comment on column machserial.trigger_definitions.operation_code is
'It fires only at this operation; null: at each.';
comment on column machserial.trigger_definitions.conditions is
'An object that the event''s context must contain, or a string: a JSONPath predicate that must hold for it.';
comment on column machserial.trigger_definitions.batch_size is 'How many it makes for each unit of an event.';
comment on column machserial.trigger_definitions.enabled is 'Whether it fires.';
comment on column machserial.trigger_definitions.disabled_at is 'Since when it does not; null: it does.';
comment on column machserial.trigger_definitions.disabled_by is
'Who disabled it: machserial.actor, else the session''s user.';
comment on column machserial.trigger_definitions.count_offset is
'What execution_count adds to the executions on record: a reset takes them off here.';
comment on column machserial.trigger_definitions.created_at is 'When it was created.';
comment on column machserial.trigger_definitions.created_by is
'Who created it: machserial.actor, else the session''s user.';
comment on column machserial.trigger_definitions.updated_at is 'When it was changed last; null: never.';
comment on column machserial.trigger_definitions.updated_by is
'Who changed it last: machserial.actor, else the session''s user.';

create trigger new_triggers_are_examined
before insert on machserial.trigger_definitions
for each row execute function machserial._examine_trigger();

create trigger changed_triggers_are_examined
before update on machserial.trigger_definitions
for each row execute function machserial._examine_trigger();

create trigger trigger_definitions_are_audited
after insert or update or delete on machserial.trigger_definitions
for each row execute function machserial._audit_configuration();

create trigger triggers_are_not_truncated
before truncate on machserial.trigger_definitions
for each statement execute function machserial._refuse_removal(
    'triggers', 'Delete one with machserial.delete_trigger(trigger_id), or delete its row.'
);

-- A row for each firing, and not a counter in the trigger's own row: so that nobody waits for anybody.
create table machserial.trigger_executions (
    id bigint not null generated always as identity primary key,
    trigger_id bigint not null references machserial.trigger_definitions (id) on delete cascade,
    executions bigint not null,
    units bigint not null,
    executed_at timestamptz not null default now()
);

create index trigger_executions_trigger_id on machserial.trigger_executions (trigger_id);

comment on table machserial.trigger_executions is
'How often triggers have fired: a row for each firing, until maintain() makes one of many.';
comment on column machserial.trigger_executions.id is 'Key.';
comment on column machserial.trigger_executions.trigger_id is 'The trigger.';
comment on column machserial.trigger_executions.executions is 'Events that it fired for.';
comment on column machserial.trigger_executions.units is 'Serials, receipts or placeholders that it made.';
comment on column machserial.trigger_executions.executed_at is
'When it fired, the last time of those in this row: start of the transaction.';

alter table machserial.trigger_executions enable row level security;
create policy open_to_the_privileged on machserial.trigger_executions using (true);
create policy own_sites_only on machserial.trigger_executions as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
);
