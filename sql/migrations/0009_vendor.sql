create table machserial.vendor_serials (
    -- That of a serial, which the trigger new_vendor_serials_are_examined sees to: a receipt that names no
    -- serial comes before the one that is made of it, and serials are never deleted.
    id bigint not null primary key,
    serial_number text collate "C" not null,
    part_id text collate "C" not null,
    site_id text collate "C" not null,
    vendor_name text collate "C" not null,
    received_date timestamptz not null default now(),
    received_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    status text collate "C" not null,
    internal_serial_id bigint references machserial.serials (id),
    validation_errors text[] not null default '{}',
    validated_at timestamptz not null,
    waived_at timestamptz,
    waived_by text collate "C",
    waived_reason text,
    accepted_at timestamptz,
    accepted_by text collate "C",
    rejected_at timestamptz,
    rejected_by text collate "C",
    rejection_reason text,
    created_at timestamptz not null default now(),
    created_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    -- What programs can read: not infinity, and no year before 1 or beyond 9999.
    constraint vendor_serials_are_received_some_day
    check (received_date > '0001-01-02 00:00:00+00' and received_date < '9999-12-31 00:00:00+00'),
    constraint vendor_serials_are_validated_some_day
    check (validated_at > '0001-01-02 00:00:00+00' and validated_at < '9999-12-31 00:00:00+00'),
    constraint vendor_serials_vendor_name_is_given check (btrim(vendor_name) <> ''),
    constraint vendor_serials_waiver_is_complete
    check (num_nonnulls(waived_at, waived_by, waived_reason) in (0, 3)),
    constraint vendor_serials_acceptance_is_complete check (num_nonnulls(accepted_at, accepted_by) in (0, 2)),
    constraint vendor_serials_rejection_is_complete
    check (num_nonnulls(rejected_at, rejected_by, rejection_reason) in (0, 3))
);

create index vendor_serials_serial_number on machserial.vendor_serials (serial_number);
create index vendor_serials_part_id_created_at on machserial.vendor_serials (part_id, created_at);
create index vendor_serials_vendor_name on machserial.vendor_serials (vendor_name);
create unique index vendor_serials_internal_serial_id_key on machserial.vendor_serials (internal_serial_id)
where internal_serial_id is not null;

comment on table machserial.vendor_serials is
'Serials that came from vendors: what the registry does not say about them. An insert without id makes the
serial too.';
comment on column machserial.vendor_serials.id is 'Key: the serial''s own, in serials.';
comment on column machserial.vendor_serials.serial_number is 'The vendor''s number: copy of the serial''s.';
comment on column machserial.vendor_serials.part_id is 'What part it is: copy of the serial''s.';
comment on column machserial.vendor_serials.site_id is 'Where it was received: copy of the serial''s.';
comment on column machserial.vendor_serials.vendor_name is 'Who sent it.';
comment on column machserial.vendor_serials.received_date is 'When it came in.';
comment on column machserial.vendor_serials.received_by is
'Who received it: machserial.actor, else the session''s user.';
comment on column machserial.vendor_serials.status is
'Always that of the serial: a change here is one there, and the other way round.';
comment on column machserial.vendor_serials.internal_serial_id is
'The serial that is our own number of the part.';
comment on column machserial.vendor_serials.validation_errors is
'How it broke its vendor''s rule on receipt; such a serial becomes ACTIVE only with a waiver.';
comment on column machserial.vendor_serials.validated_at is
'When it was held against that rule. Left out on insert, it is now; given, as an import brings it along,
validation_errors is taken as it is.';
comment on column machserial.vendor_serials.waived_at is 'When that was waived.';
comment on column machserial.vendor_serials.waived_by is
'Who waived it: machserial.actor, else the session''s user.';
comment on column machserial.vendor_serials.waived_reason is 'Why it was waived. Writing it waives.';
comment on column machserial.vendor_serials.accepted_at is 'When it became ACTIVE.';
comment on column machserial.vendor_serials.accepted_by is
'Who accepted it: machserial.actor, else the session''s user.';
comment on column machserial.vendor_serials.rejected_at is 'When it was rejected.';
comment on column machserial.vendor_serials.rejected_by is
'Who rejected it: machserial.actor, else the session''s user.';
comment on column machserial.vendor_serials.rejection_reason is 'Why it was rejected.';
comment on column machserial.vendor_serials.created_at is
'When it was put on record: start of the transaction.';
comment on column machserial.vendor_serials.created_by is
'Who put it on record: machserial.actor, else the session''s user.';

create table machserial.vendor_rules (
    id bigint not null generated always as identity primary key,
    vendor_name text collate "C" not null,
    part_id text collate "C" references machserial.parts (id) on delete cascade,
    pattern text collate "C",
    regex text collate "C",
    min_length integer,
    max_length integer,
    check_algorithm text collate "C",
    stdnum_kind text collate "C",
    compiled_pattern jsonb,
    created_at timestamptz not null default now(),
    created_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user)
);

create unique index vendor_rules_key on machserial.vendor_rules (vendor_name, coalesce(part_id, ''));
create index vendor_rules_part_id on machserial.vendor_rules (part_id) where part_id is not null;

comment on table machserial.vendor_rules is
'What the numbers of a vendor look like: for one part, or for all parts that have no rule of their own.';
comment on column machserial.vendor_rules.id is 'Key.';
comment on column machserial.vendor_rules.vendor_name is 'Whose numbers.';
comment on column machserial.vendor_rules.part_id is 'For which part; null: the general rule.';
comment on column machserial.vendor_rules.pattern is 'Pattern that they follow, as in parse_pattern().';
comment on column machserial.vendor_rules.regex is
'Regular expression that they match, as for the operator ~.';
comment on column machserial.vendor_rules.min_length is 'Characters that they have at least.';
comment on column machserial.vendor_rules.max_length is 'Characters that they have at most.';
comment on column machserial.vendor_rules.check_algorithm is
'Algorithm of the check characters that they end with, as in check_digit().';
comment on column machserial.vendor_rules.stdnum_kind is
'Numbering scheme of the world that they follow, as in stdnum_is_valid() of machserial_plpython.';
comment on column machserial.vendor_rules.compiled_pattern is 'What the pattern compiles to.';
comment on column machserial.vendor_rules.created_at is 'When the rule was made.';
comment on column machserial.vendor_rules.created_by is
'Who made it: machserial.actor, else the session''s user.';

create trigger vendor_rules_are_examined
before insert or update on machserial.vendor_rules
for each row execute function machserial._examine_vendor_rule();

create trigger vendor_rules_are_audited
after insert or update or delete on machserial.vendor_rules
for each row execute function machserial._audit_configuration();

create trigger vendor_rules_are_not_truncated
before truncate on machserial.vendor_rules
for each statement execute function machserial._refuse_removal(
    'vendor rules', 'Drop a rule with machserial.delete_vendor_rule(vendor_name, part_id).'
);

create trigger vendor_serials_keep_texts_short
before insert or update on machserial.vendor_serials
for each row when (length(new.waived_reason) > 2000 or length(new.rejection_reason) > 2000)
execute function machserial._refuse_long_text();

create trigger vendor_serials_are_completed
before insert on machserial.vendor_serials
for each row when (
    num_nulls(new.id, new.serial_number, new.part_id, new.site_id, new.status, new.validated_at) > 0
)
execute function machserial._complete_vendor_serial();

create trigger new_vendor_serials_are_examined
after insert on machserial.vendor_serials
referencing new table as new_vendor_serials
for each statement execute function machserial._examine_new_vendor_serials();

-- By name before the trigger that refuses changes, which looks at what these two have stamped.
create trigger vendor_serials_are_stamped_by_their_step
before update of status on machserial.vendor_serials
for each row when (old.status <> new.status)
execute function machserial._stamp_vendor_step();

create trigger vendor_serials_are_stamped_by_their_waiver
before update of waived_at, waived_by, waived_reason on machserial.vendor_serials
for each row when (
    old.waived_at is null and num_nonnulls(new.waived_at, new.waived_by, new.waived_reason) > 0
)
execute function machserial._stamp_vendor_waiver();

create trigger vendor_serials_keep_what_was_received
before update of
id, serial_number, part_id, site_id, vendor_name, received_by, validation_errors, validated_at, waived_at,
waived_by, waived_reason, accepted_at, accepted_by, rejected_at, rejected_by, rejection_reason, created_at,
created_by
on machserial.vendor_serials
for each row execute function machserial._refuse_receipt_change();

create trigger vendor_serials_have_a_usable_internal_serial
before insert or update of internal_serial_id on machserial.vendor_serials
for each row when (new.internal_serial_id is not null)
execute function machserial._examine_internal_serial();

create trigger vendor_serials_are_kept
before delete or truncate on machserial.vendor_serials
for each statement execute function machserial._refuse_removal(
    'vendor serials', 'Send one back with machserial.reject_vendor_serial(vendor_serial_id, reason).'
);

create trigger new_vendor_serials_are_audited
after insert on machserial.vendor_serials
referencing new table as new_vendor_serials
for each statement execute function machserial._audit_new_vendor_serials();

create trigger changed_vendor_serials_are_audited
after update on machserial.vendor_serials
referencing old table as old_vendor_serials new table as new_vendor_serials
for each statement execute function machserial._audit_changed_vendor_serials();

create trigger serials_follow_vendor_serials
after update on machserial.vendor_serials
referencing new table as new_vendor_serials
for each statement execute function machserial._copy_status_from_vendor_serials();

create trigger vendor_serials_follow_serials
after update on machserial.serials
referencing new table as new_serials
for each statement execute function machserial._copy_status_to_vendor_serials();

alter table machserial.vendor_serials enable row level security;
create policy open_to_the_privileged on machserial.vendor_serials using (true);
create policy own_sites_only on machserial.vendor_serials as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
)
with check (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or (
        -- And so is its serial: new_vendor_serials_are_examined compares the two.
        site_id = any((select machserial._own_sites())::text[])
        and (internal_serial_id is null or machserial._sees_serial(internal_serial_id))
    )
);
