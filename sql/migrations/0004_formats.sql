create table machserial.serial_formats (
    id bigint not null generated always as identity primary key,
    name text collate "C" not null,
    version integer not null default 1,
    pattern text collate "C" not null,
    description text,
    sequence_start bigint not null default 1,
    sequence_increment bigint not null default 1,
    reset text collate "C" not null default 'NEVER',
    counter_per text collate "C" not null default 'FORMAT',
    allocation text collate "C" not null default 'SEQUENCE',
    letter_case text collate "C" not null default 'EXACT',
    is_active boolean not null default true,
    is_ad_hoc boolean not null default false,
    revises bigint references machserial.serial_formats (id),
    continues bigint references machserial.serial_formats (id),
    -- What the pattern compiles to; the renderer is the function machserial._render_<id>.
    sequence_maximum bigint,
    random_space bigint,
    created_at timestamptz not null default now(),
    created_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    constraint serial_formats_name_is_given check (name <> ''),
    -- So that no pattern takes the name of a format to be.
    constraint serial_formats_ad_hoc_names_live_apart check (is_ad_hoc = starts_with(name, 'ad hoc: ')),
    constraint serial_formats_name_version_key unique (name, version),
    constraint serial_formats_start_fits
    check (sequence_start >= 0 and sequence_start <= coalesce(sequence_maximum, sequence_start)),
    constraint serial_formats_increment_is_positive check (sequence_increment > 0),
    constraint serial_formats_reset_is_known
    check (reset in ('NEVER', 'DAILY', 'WEEKLY', 'MONTHLY', 'YEARLY')),
    constraint serial_formats_counter_per_is_known
    check (counter_per in ('FORMAT', 'PART', 'SITE', 'SITE_PART')),
    constraint serial_formats_allocation_is_known check (allocation in ('SEQUENCE', 'GAPLESS')),
    constraint serial_formats_letter_case_is_known check (letter_case in ('EXACT', 'UPPER'))
);

create unique index serial_formats_one_active_version on machserial.serial_formats (name) where is_active;

create unique index serial_formats_one_ad_hoc_format on machserial.serial_formats (pattern)
where is_ad_hoc and is_active;

comment on table machserial.serial_formats is
'How numbers are written and counted. A format never changes: a revision is a new version.';
comment on column machserial.serial_formats.id is 'Key.';
comment on column machserial.serial_formats.name is 'Name; of one name at most one version is active.';
comment on column machserial.serial_formats.version is '1, 2, 3, ... within the name.';
comment on column machserial.serial_formats.pattern is 'Pattern in the token language of parse_pattern().';
comment on column machserial.serial_formats.description is 'What the format is for.';
comment on column machserial.serial_formats.sequence_start is 'First sequence number of a counter.';
comment on column machserial.serial_formats.sequence_increment is 'Distance of two sequence numbers.';
comment on column machserial.serial_formats.reset is
'When counting starts again: NEVER, DAILY, WEEKLY, MONTHLY, YEARLY, at midnight of the site.';
comment on column machserial.serial_formats.counter_per is
'What has a counter of its own: FORMAT, PART, SITE, SITE_PART.';
comment on column machserial.serial_formats.allocation is
'SEQUENCE (never waits, a rolled-back number is a gap) or GAPLESS (no gap, allocators wait for each other).';
comment on column machserial.serial_formats.letter_case is
'EXACT, or UPPER: a to z become A to Z in the whole number.';
comment on column machserial.serial_formats.is_active is 'Whether the format still issues numbers.';
comment on column machserial.serial_formats.is_ad_hoc is
'Made by generate(pattern => ...) rather than by create_format().';
comment on column machserial.serial_formats.revises is
'The version that this one replaces; null: made by create_format().';
comment on column machserial.serial_formats.continues is 'The version whose counters this one takes up.';
comment on column machserial.serial_formats.sequence_maximum is
'Highest sequence number that the pattern can hold; null without {SEQ}.';
comment on column machserial.serial_formats.random_space is
'How many random values the pattern has, where they can be counted through; else null.';
comment on column machserial.serial_formats.created_at is 'When this version was made.';
comment on column machserial.serial_formats.created_by is
'Who made it: machserial.actor, else the session''s user.';

create trigger serial_formats_are_examined
before insert on machserial.serial_formats
for each row execute function machserial._examine_format();

create trigger serial_formats_are_equipped
after insert on machserial.serial_formats
for each row execute function machserial._equip_format();

create trigger serial_formats_are_frozen
before update on machserial.serial_formats
for each row execute function machserial._refuse_format_change();

create trigger serial_formats_are_kept
before delete on machserial.serial_formats
for each row execute function machserial._refuse_loss_of_format();

create trigger serial_formats_are_not_truncated
before truncate on machserial.serial_formats
for each statement execute function machserial._refuse_removal(
    'formats', 'Take a format out of use with machserial.deactivate_format(name).'
);

create trigger serial_formats_are_audited
after insert or update or delete on machserial.serial_formats
for each row execute function machserial._audit_configuration();

create table machserial.format_assignments (
    id bigint not null generated always as identity primary key,
    part_id text collate "C" references machserial.parts (id) on delete cascade,
    part_type text collate "C",
    format_id bigint not null references machserial.serial_formats (id),
    priority integer not null default 0,
    effective_from timestamptz not null default now(),
    effective_until timestamptz,
    created_at timestamptz not null default now(),
    constraint format_assignments_to_a_part_or_a_type check (num_nonnulls(part_id, part_type) = 1),
    -- What programs can read: not infinity, and no year beyond 9999.
    constraint format_assignments_begin_some_day
    check (effective_from > '0001-01-02 00:00:00+00' and effective_from < '9999-12-31 00:00:00+00'),
    constraint format_assignments_end_some_day check (effective_until < '9999-12-31 00:00:00+00'),
    constraint format_assignments_period_is_not_empty check (effective_until > effective_from)
);

create unique index format_assignments_key on machserial.format_assignments (
    coalesce(part_id, ''), coalesce(part_type, ''), format_id, effective_from
);
create index format_assignments_part_id on machserial.format_assignments (part_id) where part_id is not null;
create index format_assignments_part_type on machserial.format_assignments (part_type)
where part_type is not null;
create index format_assignments_format_id on machserial.format_assignments (format_id);

comment on table machserial.format_assignments is 'Which format a part, or every part of a type, uses when.';
comment on column machserial.format_assignments.id is 'Key.';
comment on column machserial.format_assignments.part_id is 'The part; null for an assignment to a type.';
comment on column machserial.format_assignments.part_type is 'The type; null for an assignment to a part.';
comment on column machserial.format_assignments.format_id is 'The format''s active version.';
comment on column machserial.format_assignments.priority is 'Higher wins.';
comment on column machserial.format_assignments.effective_from is 'From when on.';
comment on column machserial.format_assignments.effective_until is 'Until when, exclusive; null: for good.';
comment on column machserial.format_assignments.created_at is 'When it was assigned.';

create trigger format_assignments_are_audited
after insert or update or delete on machserial.format_assignments
for each row execute function machserial._audit_configuration();

create trigger assignments_are_not_truncated
before truncate on machserial.format_assignments
for each statement execute function machserial._refuse_removal(
    'assignments of formats', 'End one with machserial.unassign_format(part_id, format), or delete its row.'
);
