create table machserial.serial_conflicts (
    id bigint not null generated always as identity primary key,
    serial_number text collate "C" not null,
    part_id text collate "C" not null references machserial.parts (id),
    site_id text collate "C" not null references machserial.sites (id),
    scopes text[] not null,
    source text collate "C" not null,
    serial_id bigint references machserial.serials (id),
    conflicting_serial_ids bigint[] not null,
    conflicting_scopes text[] not null,
    status text collate "C" not null default 'PENDING',
    detected_at timestamptz not null default now(),
    detected_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    resolution text collate "C",
    kept_serial_id bigint references machserial.serials (id),
    retired_serial_ids bigint[],
    resolved_at timestamptz,
    resolved_by text collate "C",
    reason text,
    constraint serial_conflicts_scopes_are_known check (
        scopes <@ '{ENTERPRISE,SITE,PART_TYPE}' and conflicting_scopes <@ '{ENTERPRISE,SITE,PART_TYPE}'
        and cardinality(scopes) > 0 and array_ndims(scopes) = 1
        and coalesce(array_ndims(conflicting_scopes), 1) = 1
    ),
    constraint serial_conflicts_source_is_known
    check (source in ('SYSTEM_GENERATED', 'VENDOR', 'MANUAL', 'LATE_ASSIGNMENT', 'IMPORT')),
    constraint serial_conflicts_status_is_known check (status in ('PENDING', 'RESOLVED')),
    constraint serial_conflicts_resolution_is_known
    check (resolution in ('KEEP', 'RETIRE', 'MARK_INVALID')),
    constraint serial_conflicts_resolution_is_complete
    check (
        case status
            when 'RESOLVED'
                then num_nonnulls(resolution, retired_serial_ids, resolved_at, resolved_by, reason) = 5
            else num_nonnulls(
                resolution, kept_serial_id, retired_serial_ids, resolved_at, resolved_by, reason
            ) = 0
        end
    )
);

create index serial_conflicts_serial_number on machserial.serial_conflicts (serial_number);
create index serial_conflicts_part_id_detected_at on machserial.serial_conflicts (part_id, detected_at);
create index serial_conflicts_pending on machserial.serial_conflicts (detected_at) where status = 'PENDING';
create index serial_conflicts_serial_id on machserial.serial_conflicts (serial_id)
where serial_id is not null;

comment on table machserial.serial_conflicts is
'Every duplicate that somebody tried to bring in, and how it was resolved. resolve_conflict() carries a
resolution out; an update of this table alone only puts it on record.';
comment on column machserial.serial_conflicts.id is 'Key.';
comment on column machserial.serial_conflicts.serial_number is 'The number that was taken already.';
comment on column machserial.serial_conflicts.part_id is 'Part for which it was brought in.';
comment on column machserial.serial_conflicts.site_id is 'Site at which it was brought in.';
comment on column machserial.serial_conflicts.scopes is 'Scopes in which it was to be unique.';
comment on column machserial.serial_conflicts.source is 'Where it came from, as in serials.source.';
comment on column machserial.serial_conflicts.serial_id is
'The duplicate itself, where it is a serial in status CONFLICT; null: it was not put into the registry.';
comment on column machserial.serial_conflicts.conflicting_serial_ids is
'The serials that held the number then.';
comment on column machserial.serial_conflicts.conflicting_scopes is 'The scopes in which they held it.';
comment on column machserial.serial_conflicts.status is 'PENDING or RESOLVED.';
comment on column machserial.serial_conflicts.detected_at is 'When it was brought in.';
comment on column machserial.serial_conflicts.detected_by is
'Who brought it in: machserial.actor, else the session''s user.';
comment on column machserial.serial_conflicts.resolution is 'KEEP, RETIRE or MARK_INVALID.';
comment on column machserial.serial_conflicts.kept_serial_id is 'The serial that has the number now, if one.';
comment on column machserial.serial_conflicts.retired_serial_ids is
'The serials that had to give the number up.';
comment on column machserial.serial_conflicts.resolved_at is 'When it was resolved.';
comment on column machserial.serial_conflicts.resolved_by is
'Who resolved it: machserial.actor, else the session''s user.';
comment on column machserial.serial_conflicts.reason is
'Why it was resolved like this: given with the change, else machserial.reason.';

create trigger conflicts_keep_texts_short
before insert or update on machserial.serial_conflicts
for each row when (length(new.reason) > 2000)
execute function machserial._refuse_long_text();

create trigger conflicts_arrive_resolved_with_a_reason
before insert on machserial.serial_conflicts
for each row when (new.status = 'RESOLVED')
execute function machserial._complete_resolution();

create trigger conflicts_are_resolved_with_a_reason
before update on machserial.serial_conflicts
for each row when (old.status = 'PENDING' and new.status = 'RESOLVED')
execute function machserial._complete_resolution();

create trigger conflicts_keep_what_was_found_and_decided
before update on machserial.serial_conflicts
for each row execute function machserial._refuse_conflict_change();

create trigger conflicts_are_kept
before delete or truncate on machserial.serial_conflicts
for each statement execute function machserial._refuse_removal(
    'conflicts', 'Resolve a conflict with machserial.resolve_conflict(...).'
);

create trigger new_conflicts_are_about_a_number
after insert on machserial.serial_conflicts
referencing new table as new_conflicts
for each statement execute function machserial._examine_new_conflicts();

create trigger new_conflicts_are_audited
after insert on machserial.serial_conflicts
referencing new table as new_conflicts
for each statement execute function machserial._audit_new_conflicts();

create trigger resolved_conflicts_are_audited
after update on machserial.serial_conflicts
referencing old table as old_conflicts new table as new_conflicts
for each statement execute function machserial._audit_resolved_conflicts();

-- By row, so that a serial without a conflict, which is nearly every one, costs nothing here. For those that
-- arrive in conflict the trigger serials_are_admitted does the same.
create trigger serials_get_into_conflict
after update of status on machserial.serials
for each row when (old.status <> 'CONFLICT' and new.status = 'CONFLICT')
execute function machserial._record_conflict_of_serial();

create trigger serials_leave_their_conflict
after update of status on machserial.serials
for each row when (old.status = 'CONFLICT' and new.status <> 'CONFLICT')
execute function machserial._resolve_conflict_of_serial();

alter table machserial.serial_conflicts enable row level security;
create policy open_to_the_privileged on machserial.serial_conflicts using (true);
create policy own_sites_only on machserial.serial_conflicts as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
)
with check (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or (
        site_id = any((select machserial._own_sites())::text[])
        and (serial_id is null or machserial._sees_serial(serial_id))
        and (kept_serial_id is null or machserial._sees_serial(kept_serial_id))
    )
);
