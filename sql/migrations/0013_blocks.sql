create table machserial.number_blocks (
    id bigint not null generated always as identity primary key,
    counter_id bigint not null references machserial.counters (id),
    part_id text collate "C" references machserial.parts (id),
    site_id text collate "C" not null default 'DEFAULT' references machserial.sites (id),
    holder text collate "C" not null,
    first_value bigint not null,
    last_value bigint not null,
    increment bigint not null,
    quantity integer not null,
    skipped_values bigint[] not null default '{}',
    issued_at timestamp not null,
    status text collate "C" not null default 'OPEN',
    expires_at timestamptz,
    generation_request_id bigint,
    allocated_at timestamptz not null default now(),
    allocated_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    closed_at timestamptz,
    closed_by text collate "C",
    closing_reason text,
    constraint number_blocks_generation_request_id_key unique (generation_request_id),
    constraint number_blocks_holder_is_given check (btrim(holder) <> '' and length(holder) <= 255),
    constraint number_blocks_quantity_is_in_range check (quantity between 1 and 1000000),
    constraint number_blocks_run_has_the_quantity
    check (last_value - first_value = (quantity - 1::bigint + cardinality(skipped_values)) * increment),
    constraint number_blocks_status_is_known check (status in ('OPEN', 'USED', 'RETURNED', 'EXPIRED')),
    constraint number_blocks_expire_after_allocation check (expires_at > allocated_at),
    -- What programs can read: not infinity, and no year beyond 9999.
    constraint number_blocks_expire_some_day check (expires_at < '9999-12-31 00:00:00+00'),
    constraint number_blocks_closing_is_complete
    check (num_nonnulls(closed_at, closed_by) = case status when 'OPEN' then 0 else 2 end),
    -- Every counter has a stretch of its own on the line of all numbers.
    constraint number_blocks_do_not_overlap exclude using gist (
        numrange(
            counter_id * 10::numeric ^ 19 + first_value, counter_id * 10::numeric ^ 19 + last_value, '[]'
        ) with &&
    )
);

create index number_blocks_expiring on machserial.number_blocks (expires_at)
where status = 'OPEN' and expires_at is not null;

comment on table machserial.number_blocks is
'Runs of numbers that holders use while offline. The view blocks shows what has become of them.';
comment on column machserial.number_blocks.id is 'Key.';
comment on column machserial.number_blocks.counter_id is 'The counter that the run was taken from.';
comment on column machserial.number_blocks.part_id is
'The part that is numbered; null: each report says which.';
comment on column machserial.number_blocks.site_id is 'The site for which it was allocated.';
comment on column machserial.number_blocks.holder is 'The line, plant or manufacturer that numbers.';
comment on column machserial.number_blocks.first_value is 'First sequence number of the run.';
comment on column machserial.number_blocks.last_value is 'Last sequence number of the run.';
comment on column machserial.number_blocks.increment is 'Distance of two sequence numbers: the format''s.';
comment on column machserial.number_blocks.quantity is 'How many numbers it has.';
comment on column machserial.number_blocks.skipped_values is
'Sequence numbers within the run that were taken already: they are not the block''s.';
comment on column machserial.number_blocks.issued_at is
'Local time of the site at the allocation, which the date tokens show.';
comment on column machserial.number_blocks.status is 'OPEN, USED (all of it), RETURNED or EXPIRED.';
comment on column machserial.number_blocks.expires_at is
'When maintain() closes it; null: never. May be changed while it is open.';
comment on column machserial.number_blocks.generation_request_id is 'The repeatable request that it came of.';
comment on column machserial.number_blocks.allocated_at is 'When it was allocated: start of the transaction.';
comment on column machserial.number_blocks.allocated_by is
'Who allocated it: machserial.actor, else the session''s user.';
comment on column machserial.number_blocks.closed_at is 'When it was used up, returned or expired.';
comment on column machserial.number_blocks.closed_by is
'Who closed it: machserial.actor, else the session''s user.';
comment on column machserial.number_blocks.closing_reason is 'Why it was closed: machserial.reason.';

create table machserial.block_usages (
    block_id bigint not null references machserial.number_blocks (id),
    sequence_number bigint not null,
    serial_id bigint references machserial.serials (id),
    conflict_id bigint references machserial.serial_conflicts (id),
    constraint block_usages_pkey primary key (block_id, sequence_number),
    constraint block_usages_serial_id_key unique (serial_id),
    constraint block_usages_are_serials_or_conflicts check (num_nonnulls(serial_id, conflict_id) = 1)
);

comment on table machserial.block_usages is 'Numbers of blocks that have been reported as used.';
comment on column machserial.block_usages.block_id is 'The block.';
comment on column machserial.block_usages.sequence_number is 'The sequence number within its run.';
comment on column machserial.block_usages.serial_id is 'The serial that the number became.';
comment on column machserial.block_usages.conflict_id is
'The conflict that was recorded instead, because somebody else had registered the number.';

create trigger blocks_keep_texts_short
before insert or update on machserial.number_blocks
for each row when (length(new.closing_reason) > 2000)
execute function machserial._refuse_long_text();

create trigger blocks_are_examined
before insert on machserial.number_blocks
for each row execute function machserial._examine_block();

create trigger blocks_stay_as_they_are
before update on machserial.number_blocks
for each row execute function machserial._refuse_block_change();

create trigger blocks_are_kept
before delete or truncate on machserial.number_blocks
for each statement execute function machserial._refuse_removal(
    'blocks and what they were used for',
    'Give back what is left of a block with machserial.return_block(block_id).'
);

create trigger new_blocks_are_audited
after insert on machserial.number_blocks
referencing new table as new_blocks
for each statement execute function machserial._audit_new_blocks();

create trigger changed_blocks_are_audited
after update on machserial.number_blocks
referencing old table as old_blocks new table as new_blocks
for each statement execute function machserial._audit_changed_blocks();

-- By name before the trigger that examines usages, so that a block is reported before it is used up.
create trigger usages_are_audited
after insert on machserial.block_usages
referencing new table as new_usages
for each statement execute function machserial._audit_usages();

create trigger usages_are_examined
after insert on machserial.block_usages
referencing new table as new_usages
for each statement execute function machserial._examine_usages();

create trigger settled_usages_are_audited
after update on machserial.block_usages
referencing new table as new_usages
for each statement execute function machserial._audit_usages();

create trigger usages_stay_as_they_are
before update on machserial.block_usages
for each row execute function machserial._refuse_usage_change();

create trigger usages_are_kept
before delete or truncate on machserial.block_usages
for each statement execute function machserial._refuse_removal(
    'blocks and what they were used for',
    'Give back what is left of a block with machserial.return_block(block_id).'
);

alter table machserial.number_blocks enable row level security;
create policy open_to_the_privileged on machserial.number_blocks using (true);
create policy own_sites_only on machserial.number_blocks as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
);

alter table machserial.block_usages enable row level security;
create policy open_to_the_privileged on machserial.block_usages using (true);
create policy own_sites_only on machserial.block_usages as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or exists (
        select from machserial.number_blocks as b
        where b.id = block_usages.block_id
    )
)
with check (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or (
        machserial._sees_block(block_id)
        and (serial_id is null or machserial._sees_serial(serial_id))
    )
);
