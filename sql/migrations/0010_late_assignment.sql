create table machserial.late_assignment_placeholders (
    id bigint not null generated always as identity primary key,
    part_id text collate "C" not null references machserial.parts (id),
    site_id text collate "C" not null default 'DEFAULT' references machserial.sites (id),
    work_order_id text collate "C",
    lot_number text collate "C",
    operation_code text collate "C",
    context jsonb,
    status text collate "C" not null default 'PENDING',
    serial_id bigint references machserial.serials (id),
    assigned_at timestamptz,
    assigned_by text collate "C",
    assigned_operation_code text collate "C",
    notes text,
    failure_reason text,
    failed_at timestamptz,
    failed_by text collate "C",
    created_at timestamptz not null default now(),
    created_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    constraint late_assignment_placeholders_serial_id_key unique (serial_id),
    constraint late_assignment_placeholders_work_order_is_short check (length(work_order_id) <= 255),
    constraint late_assignment_placeholders_context_is_an_object check (jsonb_typeof(context) = 'object'),
    constraint late_assignment_placeholders_status_is_known
    check (status in ('PENDING', 'SERIALIZED', 'FAILED')),
    constraint late_assignment_placeholders_serialized_means_a_serial
    check (
        num_nonnulls(serial_id, assigned_at, assigned_by) = case status when 'SERIALIZED' then 3 else 0 end
    ),
    constraint late_assignment_placeholders_operation_means_a_serial
    check (assigned_operation_code is null or serial_id is not null),
    constraint late_assignment_placeholders_failed_means_a_reason
    check (
        num_nonnulls(failure_reason, failed_at, failed_by) = case status when 'FAILED' then 3 else 0 end
    )
);

-- Those that wait are few and asked for all day; the others pile up.
create index late_assignment_placeholders_pending
on machserial.late_assignment_placeholders (part_id, created_at, id) where status = 'PENDING';
create index late_assignment_placeholders_part_id on machserial.late_assignment_placeholders (part_id);
create index late_assignment_placeholders_work_order_id
on machserial.late_assignment_placeholders (work_order_id) where work_order_id is not null;

comment on table machserial.late_assignment_placeholders is
'Units that were started without a serial number and get it later: one row each.';
comment on column machserial.late_assignment_placeholders.id is 'Key.';
comment on column machserial.late_assignment_placeholders.part_id is 'What part it will be.';
comment on column machserial.late_assignment_placeholders.site_id is 'Where it is made.';
comment on column machserial.late_assignment_placeholders.work_order_id is
'Work order that it is made for; its serial is told.';
comment on column machserial.late_assignment_placeholders.lot_number is
'Lot that it belongs to; its serial is told.';
comment on column machserial.late_assignment_placeholders.operation_code is
'Operation at which it is to get its serial.';
comment on column machserial.late_assignment_placeholders.context is
'What else is known of it, for {CTX:...} in the number; its serial is told.';
comment on column machserial.late_assignment_placeholders.status is
'PENDING, until it is SERIALIZED or FAILED for good.';
comment on column machserial.late_assignment_placeholders.serial_id is 'The serial that it got.';
comment on column machserial.late_assignment_placeholders.assigned_at is
'When it got its serial: start of the transaction.';
comment on column machserial.late_assignment_placeholders.assigned_by is
'Who gave it its serial: machserial.actor, else the session''s user.';
comment on column machserial.late_assignment_placeholders.assigned_operation_code is
'Operation at which it got its serial; null: not said.';
comment on column machserial.late_assignment_placeholders.notes is
'Remarks; they may be changed at any time.';
comment on column machserial.late_assignment_placeholders.failure_reason is
'Why it will never get a serial: given with the change, else machserial.reason.';
comment on column machserial.late_assignment_placeholders.failed_at is
'When it failed: start of the transaction.';
comment on column machserial.late_assignment_placeholders.failed_by is
'Who said that it failed: machserial.actor, else the session''s user.';
comment on column machserial.late_assignment_placeholders.created_at is
'When it was created: start of the transaction.';
comment on column machserial.late_assignment_placeholders.created_by is
'Who created it: machserial.actor, else the session''s user.';

create trigger placeholders_keep_texts_short
before insert or update on machserial.late_assignment_placeholders
for each row when (
    octet_length(new.context::text) > 8192 or length(new.notes) > 2000 or length(new.failure_reason) > 2000
)
execute function machserial._refuse_long_text();

create trigger placeholders_are_completed
before insert on machserial.late_assignment_placeholders
for each row when (new.status <> 'PENDING' or new.serial_id is not null)
execute function machserial._finish_placeholder();

create trigger placeholders_are_finished
before update on machserial.late_assignment_placeholders
for each row when (old.status = 'PENDING' and (new.status <> 'PENDING' or new.serial_id is not null))
execute function machserial._finish_placeholder();

create trigger placeholders_keep_what_is_settled
before update on machserial.late_assignment_placeholders
for each row when (
    old.id <> new.id or old.part_id <> new.part_id or old.site_id <> new.site_id
    or old.work_order_id is distinct from new.work_order_id
    or old.created_at <> new.created_at or old.created_by <> new.created_by
    or old.status <> 'PENDING' and to_jsonb(old) - 'notes' <> to_jsonb(new) - 'notes'
)
execute function machserial._refuse_placeholder_change();

create trigger placeholders_are_kept
before delete or truncate on machserial.late_assignment_placeholders
for each statement execute function machserial._refuse_removal(
    'placeholders', 'End one that is not needed with machserial.fail_placeholder(placeholder_id, reason).'
);

create trigger new_placeholders_are_audited
after insert on machserial.late_assignment_placeholders
referencing new table as new_placeholders
for each statement execute function machserial._audit_new_placeholders();

create trigger changed_placeholders_are_audited
after update on machserial.late_assignment_placeholders
referencing old table as old_placeholders new table as new_placeholders
for each statement execute function machserial._audit_changed_placeholders();

alter table machserial.late_assignment_placeholders enable row level security;
create policy open_to_the_privileged on machserial.late_assignment_placeholders using (true);
create policy own_sites_only on machserial.late_assignment_placeholders as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
)
with check (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or (
        site_id = any((select machserial._own_sites())::text[])
        and (serial_id is null or machserial._sees_serial(serial_id))
    )
);

-- An edge shows both of its ends, so who sees but one of them does not see it.
