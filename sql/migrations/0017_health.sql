create table machserial.health_thresholds (
    name text collate "C" not null primary key,
    warning numeric,
    critical numeric,
    lower_is_worse boolean not null default false,
    unit text not null,
    description text not null,
    constraint health_thresholds_are_in_order check (
        case when lower_is_worse then critical <= warning else critical >= warning end
    )
);

comment on table machserial.health_thresholds is
'From where on a check of machserial.health() warns. The owner may change it: that is audited. Both null: the
check is switched off, and OK whatever it finds or cannot measure.';
comment on column machserial.health_thresholds.name is 'Name of the check.';
comment on column machserial.health_thresholds.warning is
'A value that has come this far is WARNING; null: never.';
comment on column machserial.health_thresholds.critical is
'A value that has come this far is CRITICAL; null: never.';
comment on column machserial.health_thresholds.lower_is_worse is
'Whether it gets worse as the value falls, as with what is left of something.';
comment on column machserial.health_thresholds.unit is 'Unit of value, warning and critical.';
comment on column machserial.health_thresholds.description is 'What the value is.';

insert into machserial.health_thresholds (name, warning, critical, lower_is_worse, unit, description) values
(
    'archiver', 1, 3600, false, 'seconds',
    'Since when the write-ahead log is not archived any more, while archiving fails; 0 while it works '
    || 'or is off.'
),
(
    'audit_partitions', 1, 0, true, 'months',
    'Months to come for which the audit trail has partitions.'
),
(
    'audit_seal_lag', 86400, 604800, false, 'seconds',
    'Age of the oldest audit event that is not sealed.'
),
(
    'audit_verification', 7, 30, false, 'days',
    'Since when the audit trail has not been verified; a run that found problems is CRITICAL.'
),
(
    'cache_hit_ratio', 90, 75, true, 'percent',
    'How much of what this database read was found in shared_buffers; judged from 100,000 reads on.'
),
(
    'checksum_failures', null, 1, false, 'pages',
    'Damaged pages that data checksums have found, in all databases of the server.'
),
(
    'connections', 80, 95, false, 'percent',
    'Client connections, of max_connections less what is reserved, or of this database''s connection '
    || 'limit if that is nearer.'
),
(
    'counter_days_left', 30, 7, true, 'days',
    'Until the first counter is exhausted. Its rate is the higher of two: its average since it was '
    || 'made, and its share in the newest 10,000 serials; a time of less than a day counts as a day. '
    || 'Counters that are reset before they are exhausted do not count.'
),
(
    'counter_used', 80, 95, false, 'percent',
    'Used share of the fullest counter, of those that are not reset before they are exhausted.'
),
(
    'foreign_locks', 1, null, false, 'sessions',
    'Sessions that hold an advisory lock of machserial longer than a call and the setting lock_wait say; one '
    || 'that stops numbering is CRITICAL.'
),
(
    'foreign_rules', 1, null, false, 'rules',
    'Policies, rules and triggers on machserial''s tables and views that are not its own; a policy or a '
    || 'rule, which may hide rows or swallow writes, is CRITICAL.'
),
(
    'id_sequences', 50, 80, false, 'percent',
    'Used share of the ids of this database''s node, of the table that has used most.'
),
(
    'idle_in_transaction', 300, 3600, false, 'seconds',
    'How long the session has been idle that has been idle longest inside a transaction.'
),
(
    'index_collations', 1, null, false, 'indexes',
    'Indexes of machserial whose order is that of a language and not of bytes: another locale of the '
    || 'operating system spoils them. A unique one is CRITICAL.'
),
(
    'invalid_indexes', 1, null, false, 'indexes',
    'Indexes of machserial that were never finished: they are written to and never read, or do not keep '
    || 'numbers unique.'
),
(
    'lock_table', 60, 90, false, 'percent',
    'Locks that a backup takes, one for each table, partition, view and sequence of this database, of those '
    || 'that the server has room for: max_locks_per_transaction * (max_connections + '
    || 'max_prepared_transactions).'
),
(
    'longest_transaction', 3600, 21600, false, 'seconds',
    'Age of the oldest transaction of a client.'
),
(
    'memory', 100, 200, false, 'percent',
    'Memory that the settings allow at most (shared_buffers, work_mem for every connection, '
    || 'maintenance), of effective_cache_size, which says what there is.'
),
(
    'missing_indexes', 1, null, false, 'indexes',
    'Indexes of the migrations that ran here and that are not there; a missing unique one is CRITICAL.'
),
(
    'missing_rules', null, 1, false, 'rules',
    'Triggers, policies, constraints, defaults and views of the migrations that are not there, or are '
    || 'disabled.'
),
(
    'missing_sequences', null, 1, false, 'sequences',
    'Sequences of counters that somebody has dropped: such a counter gives no numbers.'
),
(
    'paused', 1, null, false, 'pauses',
    'Pauses that nobody has ended: machserial gives no new numbers meanwhile.'
),
(
    'pending_migrations', null, 1, false, 'migrations',
    'Migrations of the installed code that have not run.'
),
(
    'prepared_transactions', 300, 3600, false, 'seconds',
    'Age of the oldest prepared transaction of the server.'
),
(
    'privileges', null, 1, false, 'objects',
    'Objects of machserial that do not belong to its owner, or that everybody may call or write to.'
),
(
    'read_only', null, 1, false, 'places',
    'Places (the server, all databases, this one) where transactions only read by default.'
),
(
    'replication_lag', 104857600, 1073741824, false, 'bytes',
    'Write-ahead log that the slowest standby has not replayed; on a standby: that it has received and '
    || 'not replayed.'
),
(
    'replication_slot_wal', 1073741824, 10737418240, false, 'bytes',
    'Write-ahead log that the server keeps for the replication slot that is furthest behind.'
),
(
    'replication_slots', 1, null, false, 'slots',
    'Replication slots that nobody reads; one whose log is lost is CRITICAL.'
),
(
    'schema_version', null, 1, false, 'migrations',
    'Migrations that ran here and that the installed code does not know, or knows otherwise.'
),
(
    'sequence_behind', null, 1, false, 'sequences',
    'Sequences of ids that would give ids which their tables have: after a cutover or a COPY with ids.'
),
(
    'server_version', 1, null, false, 'releases',
    'How many minor releases the server is older than the first one that machserial supports; 1 for another '
    || 'major version than it supports.'
),
(
    'slow_statements', 1000, 5000, false, 'milliseconds',
    'Mean time of this database''s slowest statement, of those that ran ten times or more; by '
    || 'pg_stat_statements.'
),
(
    'synchronous_commit', 1, null, false, 'settings',
    'Places where synchronous_commit is off: a crash loses numbers that have been given out, which are '
    || 'then given again.'
),
(
    'time_zones', 1, null, false, 'sites',
    'Sites whose time zone has an old name only; one that the server does not know is CRITICAL.'
),
(
    'unsafe_settings', null, 1, false, 'settings',
    'Of fsync and full_page_writes, how many are off: a crash destroys the database.'
),
(
    'xid_age', 110, 150, false, 'percent',
    'Age of the oldest transaction or multixact id of the server, of autovacuum_freeze_max_age.'
);

create trigger health_thresholds_are_audited
after insert or update or delete on machserial.health_thresholds
for each row execute function machserial._audit_configuration('name');

create trigger thresholds_are_not_truncated
before truncate on machserial.health_thresholds
for each statement execute function machserial._refuse_removal(
    'health_thresholds', 'Set them to null: then nothing is raised.'
);
