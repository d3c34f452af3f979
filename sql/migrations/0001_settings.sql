create table machserial.settings (
    name text collate "C" not null primary key,
    value text collate "C" not null,
    description text not null
);

comment on table machserial.settings is 'What the owner may choose for all who use this database.';
comment on column machserial.settings.name is 'Name of the setting.';
comment on column machserial.settings.value is 'What it is set to.';
comment on column machserial.settings.description is 'What it says, and in which unit.';

insert into machserial.settings (name, value, description) values
(
    'ad_hoc_formats', 'ALLOW',
    'Whether generate() makes a format of a pattern that it does not know: ALLOW or REFUSE.'
),
('ad_hoc_formats_limit', '1000', 'How many formats there may be that generate() has made of patterns.'),
(
    'audit_retention_days', '2555',
    'How long audit events stay in the database before machserial audit archive takes them, in days.'
),
('batch_size', '100', 'How many serial numbers machserial vendor receive sends in one call.'),
(
    'lock_wait', '5',
    'How long a call waits for an advisory lock that another session holds, in seconds; then it ends with '
    || '55P03.'
),
('propagation_depth_limit', '50', 'How many steps machserial.lineage() goes unless it is told.'),
(
    'serial_characters', 'ASCII',
    'Of what serial numbers are made: ASCII (what can be seen of it), or UNICODE (all that can be seen, in '
    || 'normal form NFC; only in databases whose encoding is UTF8).'
),
(
    'request_retention_days', '90',
    'How long machserial.maintain() remembers calls with a request_id, in days; then the same call is new.'
),
(
    'uniqueness_cache_ttl', '3600',
    'How long a cache may remember that a number is taken, in seconds; SERIAL_UNIQUENESS_CACHE_TTL wins.'
),
(
    'verification_retention_days', '365',
    'How long machserial.maintain() keeps the records of verify_audit(), in days; the newest stays.'
);

create trigger settings_are_examined
before insert or update on machserial.settings
for each row execute function machserial._examine_setting();

create trigger settings_are_audited
after insert or update or delete on machserial.settings
for each row execute function machserial._audit_configuration('name');

create trigger changed_settings_outdate_plans
after update on machserial.settings
referencing new table as changed
for each statement execute function machserial._outdate_plans_by_change();

create trigger deleted_settings_outdate_plans
after delete on machserial.settings
referencing old table as changed
for each statement execute function machserial._outdate_plans_by_change();

create trigger settings_are_not_truncated
before truncate on machserial.settings
for each statement execute function machserial._refuse_removal(
    'settings', 'Delete them: that is audited.'
);
