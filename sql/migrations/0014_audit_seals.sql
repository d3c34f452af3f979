create table machserial.audit_seals (
    id bigint not null primary key,
    incarnation integer not null,
    begins_after_id bigint not null,
    system_identifier bigint not null,
    timeline integer not null,
    month date,
    event_count integer not null,
    first_event_id bigint,
    last_event_id bigint,
    up_to_transaction_id bigint,
    up_to_event_id bigint,
    horizon bigint,
    next_transaction_id bigint,
    oldest_transaction_at timestamptz,
    last_given_id bigint,
    not_before timestamptz,
    merkle_root bytea not null,
    previous_hash bytea,
    sealed_at timestamptz not null,
    sealed_by text collate "C" not null,
    seal_hash bytea not null,
    constraint audit_seals_are_counted_from_one check (id >= 1),
    constraint audit_seals_begin_with_the_first check ((id = 1) = (previous_hash is null)),
    constraint audit_seals_hold_events_or_open check ((month is null) = (event_count = 0))
);

create index audit_seals_month on machserial.audit_seals (month, incarnation, id);
create index audit_seals_next_transaction_id
on machserial.audit_seals (incarnation, next_transaction_id, id);
create index audit_seals_last_event_id on machserial.audit_seals (last_event_id);

comment on table machserial.audit_seals is
'Stretches of the audit trail that can no longer be changed unnoticed, each with the hash of the one before. A
seal without events opens an incarnation: the trail in one cluster.';
comment on column machserial.audit_seals.id is 'Place in the chain: 1, 2, 3, ... without a gap.';
comment on column machserial.audit_seals.incarnation is
'1, 2, 3, ...: a new one begins when the database has come to another cluster.';
comment on column machserial.audit_seals.begins_after_id is
'Events of the incarnation have ids above this one.';
comment on column machserial.audit_seals.system_identifier is 'The cluster''s, from pg_control_system().';
comment on column machserial.audit_seals.timeline is 'The cluster''s timeline.';
comment on column machserial.audit_seals.month is
'First day of the month (UTC) whose events it holds; null: it opens an incarnation.';
comment on column machserial.audit_seals.event_count is 'How many events it holds.';
comment on column machserial.audit_seals.first_event_id is 'Their least id.';
comment on column machserial.audit_seals.last_event_id is 'Their greatest id.';
comment on column machserial.audit_seals.up_to_transaction_id is
'Transaction of the last event in the order (transaction_id, id): it holds all of the month and the
incarnation behind the seal before and up to this one.';
comment on column machserial.audit_seals.up_to_event_id is 'Id of the last event in that order.';
comment on column machserial.audit_seals.horizon is
'Every transaction below it had ended, and all that they wrote is in this seal or in another one. Null: no
transaction could write to the incarnation any more.';
comment on column machserial.audit_seals.next_transaction_id is
'No transaction from here on had begun to write.';
comment on column machserial.audit_seals.oldest_transaction_at is
'None that begins to write after this seal can have begun earlier.';
comment on column machserial.audit_seals.last_given_id is
'Events of transactions that begin to write after this seal have higher ids.';
comment on column machserial.audit_seals.not_before is
'Before this moment none of its events can have happened, as far as earlier seals tell.';
comment on column machserial.audit_seals.merkle_root is
'Root of the tree of RFC 6962 over the canonical forms of its events, in the order (transaction_id, id).';
comment on column machserial.audit_seals.previous_hash is 'seal_hash of the seal before.';
comment on column machserial.audit_seals.sealed_at is 'When it was made.';
comment on column machserial.audit_seals.sealed_by is
'Who had it made: machserial.actor, else the session''s user.';
comment on column machserial.audit_seals.seal_hash is 'SHA-256 of the canonical form of all columns before.';

create table machserial.audit_leaves (
    seal_id bigint not null primary key references machserial.audit_seals (id),
    event_ids bigint[] not null,
    leaf_hashes bytea not null
);

comment on table machserial.audit_leaves is
'What each seal consists of, so that what was changed can be named. The seal''s merkle_root proves it. With a
month that is dropped after it was archived its leaves go, and come back with its events.';
comment on column machserial.audit_leaves.seal_id is 'The seal.';
comment on column machserial.audit_leaves.event_ids is
'Ids of its events, in the order (transaction_id, id).';
comment on column machserial.audit_leaves.leaf_hashes is 'Their leaf hashes, 32 bytes each, in that order.';

create table machserial.audit_verifications (
    id bigint not null generated always as identity primary key,
    verified_at timestamptz not null default clock_timestamp(),
    verified_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    is_full boolean not null,
    seals bigint not null,
    events bigint not null,
    problems bigint not null,
    newest_seal_id bigint not null,
    newest_seal_hash bytea not null,
    rolling_seal_id bigint not null
);

comment on table machserial.audit_verifications is
'Each run of verify_audit(): how far it got, and what the newest seal was.';
comment on column machserial.audit_verifications.id is 'Key.';
comment on column machserial.audit_verifications.verified_at is 'When it ended.';
comment on column machserial.audit_verifications.verified_by is
'Who ran it: machserial.actor, else the session''s user.';
comment on column machserial.audit_verifications.is_full is 'Whether all seals were verified.';
comment on column machserial.audit_verifications.seals is 'How many seals were verified.';
comment on column machserial.audit_verifications.events is 'How many events they hold.';
comment on column machserial.audit_verifications.problems is 'How many problems were found.';
comment on column machserial.audit_verifications.newest_seal_id is 'The newest seal then.';
comment on column machserial.audit_verifications.newest_seal_hash is 'Its seal_hash.';
comment on column machserial.audit_verifications.rolling_seal_id is
'Where the rolling share of the old seals ended: the next run goes on behind it.';

create trigger audit_seals_are_append_only
before update or delete or truncate on machserial.audit_seals
for each statement execute function machserial._refuse_audit_change();

create trigger audit_leaves_are_append_only
before update or truncate on machserial.audit_leaves
for each statement execute function machserial._refuse_audit_change();

create trigger audit_leaves_are_kept
after delete on machserial.audit_leaves
referencing old table as old_leaves
for each statement execute function machserial._refuse_loss_of_leaves();

create trigger audit_verifications_are_append_only
before update or truncate on machserial.audit_verifications
for each statement execute function machserial._refuse_audit_change();

create trigger audit_verifications_are_kept
after delete on machserial.audit_verifications
referencing old table as lost
for each statement execute function machserial._refuse_loss_of_verification();

-- Of every event, whatever its id.
select machserial._open_incarnation(-9223372036854775808);

alter table machserial.audit_seals enable row level security;
create policy open_to_the_privileged on machserial.audit_seals using (true);
create policy own_sites_only on machserial.audit_seals as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
);

alter table machserial.audit_leaves enable row level security;
create policy open_to_the_privileged on machserial.audit_leaves using (true);
create policy own_sites_only on machserial.audit_leaves as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
);

alter table machserial.audit_verifications enable row level security;
create policy open_to_the_privileged on machserial.audit_verifications using (true);
create policy own_sites_only on machserial.audit_verifications as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
);
