create table machserial.pauses (
    id bigint not null generated always as identity primary key,
    reason text not null,
    until_fenced boolean not null default false,
    paused_at timestamptz not null default now(),
    paused_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    resumed_at timestamptz,
    resumed_by text collate "C",
    resume_reason text,
    constraint pauses_have_a_reason check (btrim(reason) <> ''),
    constraint pauses_resumption_is_complete check (num_nonnulls(resumed_at, resumed_by) in (0, 2))
);

create unique index pauses_one_at_a_time on machserial.pauses ((resumed_at is null)) where resumed_at is null;

comment on table machserial.pauses is
'When no new numbers were issued, and why: pause() and resume() write it. A row without resumed_at: now.';
comment on column machserial.pauses.id is 'Key.';
comment on column machserial.pauses.reason is 'Why; every refusal shows it.';
comment on column machserial.pauses.until_fenced is
'The database was restored: resume() is refused until fence() has been called for every counter.';
comment on column machserial.pauses.paused_at is 'When it began: start of the transaction.';
comment on column machserial.pauses.paused_by is 'Who paused: machserial.actor, else the session''s user.';
comment on column machserial.pauses.resumed_at is 'When it ended; null: it lasts.';
comment on column machserial.pauses.resumed_by is 'Who resumed: machserial.actor, else the session''s user.';
comment on column machserial.pauses.resume_reason is 'Why it was resumed, if that was said.';

-- One row, which pause() changes.
create table machserial.pause_switch (
    id boolean not null primary key default true,
    switched_at timestamptz not null default now(),
    constraint pause_switch_is_one check (id)
);

insert into machserial.pause_switch default values;

comment on table machserial.pause_switch is
'One row, which pause() changes: a transaction whose snapshot is older than a pause fails when it locks the
row.';
comment on column machserial.pause_switch.id is 'Key: there is one row.';
comment on column machserial.pause_switch.switched_at is
'When the last pause began: start of its transaction.';

create table machserial.counter_fences (
    id bigint not null generated always as identity primary key,
    counter_id bigint not null references machserial.counters (id),
    pause_id bigint references machserial.pauses (id),
    highest bigint,
    next_before bigint not null,
    next_after bigint not null,
    fenced_at timestamptz not null default now(),
    fenced_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user)
);

create index counter_fences_pause_id on machserial.counter_fences (pause_id, counter_id);

comment on table machserial.counter_fences is
'Which counters were moved past the highest number known to have left the building: fence() writes it.';
comment on column machserial.counter_fences.id is 'Key.';
comment on column machserial.counter_fences.counter_id is 'The counter.';
comment on column machserial.counter_fences.pause_id is
'The pause in which it was done; null: outside of one.';
comment on column machserial.counter_fences.highest is
'The highest sequence number that was named; null: none beyond what the database knows.';
comment on column machserial.counter_fences.next_before is 'What the counter would have given next.';
comment on column machserial.counter_fences.next_after is 'What it gives next.';
comment on column machserial.counter_fences.fenced_at is 'When: start of the transaction.';
comment on column machserial.counter_fences.fenced_by is 'Who: machserial.actor, else the session''s user.';

-- Disabled, they cost nothing. pause() enables them, and a dump carries whether they are.
create trigger new_serials_are_refused_while_paused
before insert on machserial.serials
for each statement execute function machserial._refuse_while_paused();

create trigger new_blocks_are_refused_while_paused
before insert on machserial.number_blocks
for each statement execute function machserial._refuse_while_paused();

alter table machserial.serials disable trigger new_serials_are_refused_while_paused;
alter table machserial.number_blocks disable trigger new_blocks_are_refused_while_paused;

alter table machserial.counter_fences enable row level security;
create policy open_to_the_privileged on machserial.counter_fences using (true);
create policy own_sites_only on machserial.counter_fences as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or exists (
        select from machserial.counters as c
        where c.id = counter_fences.counter_id
    )
);

-- Seals, leaves and archives are of the whole trail.
