create table machserial.audit_archives (
    id bigint not null generated always as identity primary key,
    month date not null,
    first_seal_id bigint not null,
    last_seal_id bigint not null references machserial.audit_seals (id),
    event_count bigint not null,
    merkle_root bytea not null,
    manifest_sha256 text collate "C" not null,
    location text not null,
    archived_at timestamptz not null default now(),
    archived_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    constraint audit_archives_begin_before_they_end check (first_seal_id <= last_seal_id),
    constraint audit_archives_manifest_sha256_is_a_hash check (manifest_sha256 ~ '^[0-9a-f]{64}$')
);

create index audit_archives_month on machserial.audit_archives (month);

comment on table machserial.audit_archives is
'Months of the audit trail that are kept in files as well; their partitions may be gone.';
comment on column machserial.audit_archives.id is 'Key.';
comment on column machserial.audit_archives.month is 'First day of the month (UTC).';
comment on column machserial.audit_archives.first_seal_id is 'First of the month''s seals that it holds.';
comment on column machserial.audit_archives.last_seal_id is 'Last of the month''s seals that it holds.';
comment on column machserial.audit_archives.event_count is 'How many events it holds.';
comment on column machserial.audit_archives.merkle_root is
'Root of the tree of RFC 6962 over all of them, in the order of the seals and within them.';
comment on column machserial.audit_archives.manifest_sha256 is
'SHA-256 of the manifest, which names the files with theirs.';
comment on column machserial.audit_archives.location is 'Where the manifest was written.';
comment on column machserial.audit_archives.archived_at is
'When it was put on record: start of the transaction.';
comment on column machserial.audit_archives.archived_by is
'Who archived it: machserial.actor, else the session''s user.';

create trigger audit_archives_are_append_only
before update or delete or truncate on machserial.audit_archives
for each statement execute function machserial._refuse_audit_change();

alter table machserial.audit_archives enable row level security;
create policy open_to_the_privileged on machserial.audit_archives using (true);
create policy own_sites_only on machserial.audit_archives as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
);

-- Firings count together what all sites do.
