create table machserial.counters (
    id bigint not null generated always as identity primary key,
    format_id bigint not null references machserial.serial_formats (id),
    part_id text not null default '',
    site_id text not null default '',
    period text not null default '',
    period_starts date,
    first_value bigint not null,
    last_value bigint,
    has_runway boolean not null default false,
    retired_at timestamptz,
    created_at timestamptz not null default now(),
    constraint counters_key unique (format_id, part_id, site_id, period)
);

comment on table machserial.counters is
'One row a counter: format x key x period. SEQUENCE counters count in the sequence machserial.counter_<id>.';
comment on column machserial.counters.id is 'Key, and the number in the name of the counter''s sequence.';
comment on column machserial.counters.format_id is 'The format that counts.';
comment on column machserial.counters.part_id is
'The part that it counts for; empty unless counter_per says PART.';
comment on column machserial.counters.site_id is
'The site that it counts for; empty unless counter_per says SITE.';
comment on column machserial.counters.period is
'The period that it counts: 2026-11-23, 2026-W48, 2026-11, 2026; empty if it is never reset.';
comment on column machserial.counters.period_starts is 'First day of the period.';
comment on column machserial.counters.first_value is 'The sequence number that it starts with.';
comment on column machserial.counters.last_value is
'Last sequence number issued: of a GAPLESS counter, and of a retired one.';
comment on column machserial.counters.has_runway is
'Whether the counters of the coming periods are made, or none are needed.';
comment on column machserial.counters.retired_at is
'When its sequence was dropped because its period is over.';
comment on column machserial.counters.created_at is 'When it was made.';

create table machserial.generation_requests (
    id bigint not null generated always as identity primary key,
    request_id text not null,
    arguments jsonb not null,
    created_at timestamptz not null default now(),
    created_by text not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    constraint generation_requests_request_id_key unique (request_id)
);

comment on table machserial.generation_requests is
'Calls of generate() that can be repeated: the same request_id gives the same serials.';
comment on column machserial.generation_requests.id is 'Key; serials.generation_request_id refers to it.';
comment on column machserial.generation_requests.request_id is 'The caller''s own id of the request.';
comment on column machserial.generation_requests.arguments is
'What was asked for; another question is refused.';
comment on column machserial.generation_requests.created_at is 'When it was asked first.';
comment on column machserial.generation_requests.created_by is
'Who asked: machserial.actor, else the session''s user.';
