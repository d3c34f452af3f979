create table machserial.counters (
    id bigint not null generated always as identity primary key,
    format_id bigint not null references machserial.serial_formats (id),
    part_id text collate "C" not null default '',
    site_id text collate "C" not null default '',
    period text collate "C" not null default '',
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

create table machserial.requests (
    id bigint not null generated always as identity primary key,
    site_id text collate "C" not null references machserial.sites (id),
    verb text collate "C" not null,
    request_id text collate "C" not null,
    arguments jsonb not null,
    created_at timestamptz not null default now(),
    created_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    constraint requests_request_id_key unique (site_id, verb, request_id)
);

create index requests_created_at on machserial.requests (created_at);

comment on table machserial.requests is
'Calls that can be repeated: at a site the same verb with the same request_id gives the same result.';
comment on column machserial.requests.id is
'Key; generation_request_id of serials and blocks refers to it, until maintain() forgets the request.';
comment on column machserial.requests.site_id is 'The site that it was for.';
comment on column machserial.requests.verb is 'The function that was called.';
comment on column machserial.requests.request_id is 'The caller''s own id of the request.';
comment on column machserial.requests.arguments is
'What was asked for; another question is refused.';
comment on column machserial.requests.created_at is 'When it was asked first.';
comment on column machserial.requests.created_by is
'Who asked: machserial.actor, else the session''s user.';

-- How often the configuration has changed: the sum over the rows.
create table machserial.configuration_changes (
    id bigint not null generated always as identity primary key,
    changes bigint not null
);

insert into machserial.configuration_changes (changes) values (0);

comment on table machserial.configuration_changes is
'How often parts, sites, formats and assignments have changed: the sum over the rows. Numbering plans go by
it.';
comment on column machserial.configuration_changes.id is 'Key.';
comment on column machserial.configuration_changes.changes is 'How many of the changes this row counts.';

-- Nothing is lost with it: no log of it is written, and no copy by logical replication has it.
create unlogged table machserial.numbering_plans (
    part_id text collate "C" not null,
    site_id text collate "C" not null references machserial.sites (id) on update cascade on delete cascade,
    format text collate "C" not null,
    pattern text collate "C" not null,
    part_type text collate "C" not null,
    scopes text[] not null,
    time_zone text collate "C" not null,
    format_id bigint not null references machserial.serial_formats (id),
    format_name text collate "C" not null,
    allocation text collate "C" not null,
    sequence_increment bigint not null,
    sequence_maximum bigint,
    random_space bigint,
    counter_id bigint,
    sequence regclass,
    trusted_until bigint,
    head text collate "C",
    width integer,
    tail text collate "C",
    -- In columns, as a type of the extension would take its column along when it is dropped.
    check_middle text collate "C",
    check_start integer,
    check_moves smallint[],
    check_steps bytea,
    check_signs text[],
    valid_from timestamptz not null,
    valid_until timestamptz not null,
    configuration numeric not null,
    constraint numbering_plans_pkey primary key (part_id, site_id, format, pattern),
    -- The serials that a plan vouches for may refer to what it refers to.
    constraint numbering_plans_part_fkey foreign key (part_id, part_type)
    references machserial.parts (id, part_type) on update cascade on delete cascade
    -- There is no other index: the planner, who does not know how many plans there will be, could prefer it.
);

comment on table machserial.numbering_plans is
'What generate() has to know of a part, a site and a format, kept from call to call. All of it follows from
other tables: deleting a row costs only time.';
comment on column machserial.numbering_plans.part_id is 'The part.';
comment on column machserial.numbering_plans.site_id is 'The site.';
comment on column machserial.numbering_plans.format is 'The format that was asked for by name; else empty.';
comment on column machserial.numbering_plans.pattern is 'The pattern that was asked for; else empty.';
comment on column machserial.numbering_plans.part_type is 'The part''s type.';
comment on column machserial.numbering_plans.scopes is 'Where the part''s numbers must not repeat.';
comment on column machserial.numbering_plans.time_zone is 'The site''s time zone.';
comment on column machserial.numbering_plans.format_id is 'The format that issues the numbers.';
comment on column machserial.numbering_plans.format_name is 'Its name.';
comment on column machserial.numbering_plans.allocation is 'SEQUENCE or GAPLESS.';
comment on column machserial.numbering_plans.sequence_increment is 'Distance of two sequence numbers.';
comment on column machserial.numbering_plans.sequence_maximum is
'Highest sequence number; null without {SEQ}.';
comment on column machserial.numbering_plans.random_space is
'How many random values there are, where they can be counted through; else null.';
comment on column machserial.numbering_plans.counter_id is 'The counter; null without {SEQ}.';
comment on column machserial.numbering_plans.sequence is
'The counter''s sequence; null if it counts in its row.';
comment on column machserial.numbering_plans.trusted_until is
'Below this the counter is not near its end, so that a value may be drawn without looking.';
comment on column machserial.numbering_plans.head is
'What stands before the sequence number, if nothing varies but it and a check digit; else null.';
comment on column machserial.numbering_plans.width is
'Digits of the sequence number, if nothing varies but it and a check digit.';
comment on column machserial.numbering_plans.tail is
'What stands after the sequence number, or after the check digit if that varies.';
comment on column machserial.numbering_plans.check_middle is
'What stands between the sequence number and a check digit that varies; null if none varies.';
comment on column machserial.numbering_plans.check_start is
'Where the computation of the check digit begins.';
comment on column machserial.numbering_plans.check_moves is
'Of algorithms that sum: by how much each digit of each place moves the sum.';
comment on column machserial.numbering_plans.check_steps is
'Of automata: the next state for each state and digit, one table for all places or one for each.';
comment on column machserial.numbering_plans.check_signs is 'The check characters for each result.';
comment on column machserial.numbering_plans.valid_from is
'Since when this format is assigned; of what goes by dates since the day began at the site.';
comment on column machserial.numbering_plans.valid_until is
'Until when, exclusive; not longer than the day at the site, and than there are partitions for the events.';
comment on column machserial.numbering_plans.configuration is
'How often the configuration had changed when the plan was made: with one change more it no longer holds.';

create trigger new_sites_have_counters
after insert on machserial.sites
referencing new table as registered
for each statement execute function machserial._make_counters_of_sites();

create trigger changed_parts_outdate_plans
after update on machserial.parts
referencing old table as old_rows new table as new_rows
for each statement execute function machserial._outdate_plans_by_part();

create trigger changed_sites_outdate_plans
after update on machserial.sites
referencing old table as old_rows new table as new_rows
for each statement execute function machserial._outdate_plans_by_site();

create trigger new_formats_outdate_plans
after insert on machserial.serial_formats
referencing new table as changed
for each statement execute function machserial._outdate_plans_by_change();

create trigger changed_formats_outdate_plans
after update on machserial.serial_formats
referencing new table as changed
for each statement execute function machserial._outdate_plans_by_change();

create trigger new_assignments_outdate_plans
after insert on machserial.format_assignments
referencing new table as changed
for each statement execute function machserial._outdate_plans_by_change();

create trigger changed_assignments_outdate_plans
after update on machserial.format_assignments
referencing new table as changed
for each statement execute function machserial._outdate_plans_by_change();

create trigger deleted_assignments_outdate_plans
after delete on machserial.format_assignments
referencing old table as changed
for each statement execute function machserial._outdate_plans_by_change();

-- Not of last_value, which GAPLESS counters change with every number.
create trigger changed_counters_outdate_plans
after delete or update of format_id, part_id, site_id, period, retired_at on machserial.counters
for each statement execute function machserial._outdate_plans_by_counter();

alter table machserial.counters enable row level security;
create policy open_to_the_privileged on machserial.counters using (true);
create policy own_sites_only on machserial.counters as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or (site_id = '' or site_id = any((select machserial._own_sites())::text[]))
);

alter table machserial.numbering_plans enable row level security;
create policy open_to_the_privileged on machserial.numbering_plans using (true);
create policy own_sites_only on machserial.numbering_plans as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
);

alter table machserial.requests enable row level security;
create policy open_to_the_privileged on machserial.requests using (true);
create policy own_sites_only on machserial.requests as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
);
