create table machserial.serial_conflicts (
    id bigint not null generated always as identity primary key,
    serial_number text not null,
    part_id text not null references machserial.parts (id),
    site_id text not null references machserial.sites (id),
    scopes text[] not null,
    source text not null,
    conflicting_serial_ids bigint[] not null,
    conflicting_scopes text[] not null,
    status text not null default 'PENDING',
    detected_at timestamptz not null default now(),
    detected_by text not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    constraint serial_conflicts_status_is_known check (status in ('PENDING', 'RESOLVED'))
);

create index serial_conflicts_serial_number on machserial.serial_conflicts (serial_number);

comment on table machserial.serial_conflicts is 'Every duplicate that somebody tried to bring in.';
comment on column machserial.serial_conflicts.id is 'Key.';
comment on column machserial.serial_conflicts.serial_number is 'The number that was taken already.';
comment on column machserial.serial_conflicts.part_id is 'Part for which it was brought in.';
comment on column machserial.serial_conflicts.site_id is 'Site at which it was brought in.';
comment on column machserial.serial_conflicts.scopes is 'Scopes in which it was to be unique.';
comment on column machserial.serial_conflicts.source is 'Where it came from, as in serials.source.';
comment on column machserial.serial_conflicts.conflicting_serial_ids is 'The serials that hold the number.';
comment on column machserial.serial_conflicts.conflicting_scopes is 'The scopes in which they hold it.';
comment on column machserial.serial_conflicts.status is 'PENDING or RESOLVED.';
comment on column machserial.serial_conflicts.detected_at is 'When it was brought in.';
comment on column machserial.serial_conflicts.detected_by is
'Who brought it in: machserial.actor, else the session''s user.';
