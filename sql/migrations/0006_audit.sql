create table machserial.audit_events (
    -- Before the id: defaults are computed in this order, so whoever gets an id has a transaction id already.
    transaction_id bigint not null default pg_current_xact_id()::text::bigint,
    id bigint not null generated always as identity,
    event_type text collate "C" not null,
    event_source text collate "C" not null,
    serial_id bigint,
    serial_number text collate "C",
    part_id text collate "C",
    site_id text collate "C",
    performed_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    db_user text collate "C" not null default session_user,
    performed_at timestamptz not null default now(),
    reason text default nullif(current_setting('machserial.reason', true), ''),
    details jsonb,
    -- Newest first, page by page. There are no check constraints: PostgreSQL would prepare each of them anew
    -- for every statement, and the partitions bound performed_at.
    constraint audit_events_pkey primary key (performed_at, id)
) partition by range (performed_at);

create index audit_events_serial_id on machserial.audit_events (serial_id, performed_at, id);
create index audit_events_part_id_performed_at on machserial.audit_events (part_id, performed_at, id);
-- Events of the few kinds that are rare, so that they are found among those that come with every serial.
create index audit_events_rare on machserial.audit_events (event_type, performed_at, id)
where event_type not in (
    'SERIAL_GENERATED', 'SERIAL_REGISTERED', 'VENDOR_RECEIVED', 'VENDOR_ACCEPTED', 'PLACEHOLDER_CREATED',
    'PLACEHOLDER_SERIALIZED', 'PROPAGATED', 'SPLIT', 'MERGED', 'TRANSFORMED'
);
-- Both numbers go up with the place in the table: next to nothing to write, and enough to find a seal's
-- events. seal_audit() leads it up to the end of the table: with autosummarize every insert that fills a
-- range asks autovacuum, and where that is busy the server logs the whole statement.
create index audit_events_transaction_id on machserial.audit_events using brin (transaction_id, id)
with (pages_per_range = 16);

comment on table machserial.audit_events is
'The audit trail: who did what, when and why. Rows are only added.';
comment on column machserial.audit_events.id is 'Key.';
comment on column machserial.audit_events.event_type is
'What happened: SERIAL_GENERATED, SERIAL_REGISTERED, ...';
comment on column machserial.audit_events.event_source is
'Through which program it came: the session''s application_name.';
comment on column machserial.audit_events.serial_id is 'The serial that it happened to.';
comment on column machserial.audit_events.serial_number is 'Its number.';
comment on column machserial.audit_events.part_id is 'Its part.';
comment on column machserial.audit_events.site_id is 'Its site.';
comment on column machserial.audit_events.performed_by is
'Who did it: machserial.actor, else the session''s user.';
comment on column machserial.audit_events.db_user is 'The session''s database user, whatever the actor says.';
comment on column machserial.audit_events.performed_at is 'When: start of the transaction.';
comment on column machserial.audit_events.reason is 'Why: machserial.reason.';
comment on column machserial.audit_events.details is 'What else belongs to the event.';
comment on column machserial.audit_events.transaction_id is
'The transaction that wrote it: pg_current_xact_id(). Seals go by it.';

create trigger audit_events_are_append_only
before update or delete or truncate on machserial.audit_events
for each statement execute function machserial._refuse_audit_change();

select machserial._make_audit_partitions(now(), 3);

alter table machserial.audit_events enable row level security;
create policy open_to_the_privileged on machserial.audit_events using (true);
create policy own_sites_only on machserial.audit_events as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
    or (site_id is null and event_type ~ '^(FORMAT|PART|TRIGGER|VENDOR_RULE)_|^(PAUSED|RESUMED)$')
);
