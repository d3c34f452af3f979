create table machserial.serials (
    id bigint not null generated always as identity primary key,
    serial_number text collate "C" not null,
    part_id text collate "C" not null,
    part_type text collate "C" not null,
    site_id text collate "C" not null default 'DEFAULT',
    source text collate "C" not null default 'MANUAL',
    status text collate "C" not null default 'ACTIVE',
    scopes text[] not null,
    claim_released boolean not null default false,
    holds_claim boolean not null
    generated always as (status not in ('REJECTED', 'CONFLICT') and not claim_released) stored,
    format_id bigint,
    sequence_number bigint,
    work_order_id text collate "C",
    lot_number text collate "C",
    operation_code text collate "C",
    context jsonb,
    generation_request_id bigint,
    status_reason text,
    status_changed_at timestamptz,
    status_changed_by text collate "C",
    lineage_rank bigint,
    created_at timestamptz not null default now(),
    created_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user)
    -- What a row must be, and that it refers to what there is, is the trigger serials_are_admitted.
);

-- The three scopes. Nothing else decides whether a number is free.
create unique index serials_enterprise_key on machserial.serials (serial_number)
where holds_claim and 'ENTERPRISE' = any(scopes);
create unique index serials_site_key on machserial.serials (serial_number, site_id)
where holds_claim and 'SITE' = any(scopes);
create unique index serials_part_type_key on machserial.serials (serial_number, part_type)
where holds_claim and 'PART_TYPE' = any(scopes);

-- For looking a number up, of any part, site, scope and status.
create index serials_serial_number on machserial.serials (serial_number);
create index serials_part_id_created_at on machserial.serials (part_id, created_at);
create index serials_work_order_id on machserial.serials (work_order_id) where work_order_id is not null;
create index serials_generation_request_id on machserial.serials (generation_request_id)
where generation_request_id is not null;

-- Numbers that a person or a scanner takes for one another. The expression is that of machserial._look(...),
-- which is inlined; written out, the index needs nothing of the extension.
create index serials_look_alike on machserial.serials (
    translate(upper(serial_number collate "C"), 'OILZSB -', '011258')
);

comment on table machserial.serials is
'The registry: every serial number, whatever its source, is one row here.';
comment on column machserial.serials.id is 'Key.';
comment on column machserial.serials.serial_number is 'The number as it stands on the part.';
comment on column machserial.serials.part_id is 'What part it is.';
comment on column machserial.serials.part_type is
'The part''s type, within which the scope PART_TYPE holds; if left out, taken from the part.';
comment on column machserial.serials.site_id is 'Where it was numbered, within which the scope SITE holds.';
comment on column machserial.serials.source is 'SYSTEM_GENERATED, VENDOR, MANUAL, LATE_ASSIGNMENT or IMPORT.';
comment on column machserial.serials.status is 'PENDING, ACTIVE, CONFLICT, REJECTED, RETIRED or INVALID.';
comment on column machserial.serials.scopes is
'Where the number must not repeat: ENTERPRISE, SITE, PART_TYPE.';
comment on column machserial.serials.claim_released is
'A conflict was resolved against it: the number is another''s.';
comment on column machserial.serials.holds_claim is 'Whether it keeps others from using its number.';
comment on column machserial.serials.format_id is 'The format that issued it.';
comment on column machserial.serials.sequence_number is 'The sequence number that it was written from.';
comment on column machserial.serials.work_order_id is 'Work order that it was made for.';
comment on column machserial.serials.lot_number is 'Lot that it belongs to.';
comment on column machserial.serials.operation_code is 'Operation at which it was numbered.';
comment on column machserial.serials.context is 'What else the caller said about it.';
comment on column machserial.serials.generation_request_id is 'The repeatable request that it came of.';
comment on column machserial.serials.status_reason is
'Why it has its present status: given with the change, else machserial.reason.';
comment on column machserial.serials.status_changed_at is 'When its status changed last; null: never.';
comment on column machserial.serials.status_changed_by is
'Who changed its status last: machserial.actor, else the session''s user.';
comment on column machserial.serials.lineage_rank is
'Above the rank of every serial that it comes from; null: its id is.';
comment on column machserial.serials.created_at is 'When it was put on record: start of the transaction.';
comment on column machserial.serials.created_by is
'Who put it on record: machserial.actor, else the session''s user.';

create trigger serials_keep_texts_short
before update of context, status_reason on machserial.serials
for each row when (octet_length(new.context::text) > 8192 or length(new.status_reason) > 2000)
execute function machserial._refuse_long_text();

create trigger serials_keep_an_object_as_context
before update of context on machserial.serials
for each row when (jsonb_typeof(new.context) <> 'object')
execute function machserial._refuse_context();

create trigger serials_are_completed
before insert on machserial.serials
for each row when (new.part_type is null or new.scopes is null)
execute function machserial._complete_serial();

create trigger serials_keep_their_identity
before update of
id, serial_number, part_id, part_type, site_id, source, format_id, sequence_number, created_at, created_by
on machserial.serials
for each row execute function machserial._refuse_identity_change();

create trigger serials_follow_their_life_cycle
before update of status, claim_released on machserial.serials
for each row when (old.status <> new.status or old.claim_released <> new.claim_released)
execute function machserial._refuse_illegal_step();

create trigger serials_keep_their_scopes
before update of scopes on machserial.serials
for each row when (new.scopes <> old.scopes)
execute function machserial._refuse_narrower_scopes();

create trigger changed_scopes_reach_serials
after update on machserial.parts
referencing old table as old_rows new table as new_rows
for each statement execute function machserial._give_scopes();

create trigger serials_keep_the_reason_of_their_step
before update of status_reason, status_changed_at, status_changed_by on machserial.serials
for each row when (
    old.status = new.status and old.claim_released = new.claim_released
    and (
        old.status_reason is distinct from new.status_reason
        or old.status_changed_at is distinct from new.status_changed_at
        or old.status_changed_by is distinct from new.status_changed_by
    )
)
execute function machserial._refuse_reason_change();

create trigger serials_are_kept
before delete or truncate on machserial.serials
for each statement execute function machserial._refuse_removal(
    'serials', 'Take a serial out of use with machserial.retire_serial(serial_id, reason).'
);

create trigger serials_are_admitted
after insert on machserial.serials
referencing new table as new_serials
for each statement execute function machserial._admit_new_serials();

create trigger parts_of_serials_are_kept
after delete on machserial.parts
for each row execute function machserial._refuse_orphaned_serials();

create trigger parts_of_serials_keep_their_key
after update of id, part_type on machserial.parts
for each row when (old.id <> new.id or old.part_type <> new.part_type)
execute function machserial._refuse_orphaned_serials();

create trigger sites_of_serials_are_kept
after delete on machserial.sites
for each row execute function machserial._refuse_orphaned_serials();

create trigger sites_of_serials_keep_their_key
after update of id on machserial.sites
for each row when (old.id <> new.id)
execute function machserial._refuse_orphaned_serials();

create trigger changed_serials_are_audited
after update on machserial.serials
referencing old table as old_serials new table as new_serials
for each statement execute function machserial._audit_changed_serials();

alter table machserial.serials enable row level security;
create policy open_to_the_privileged on machserial.serials using (true);
create policy own_sites_only on machserial.serials as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
);

-- Only functions that act as the owner say that a number was issued.
create policy only_issued_numbers_are_generated on machserial.serials as restrictive for insert
with check (source <> 'SYSTEM_GENERATED');
