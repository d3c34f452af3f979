-- Checks of health(): sessions, transactions, settings and logs of the server.

-- Seconds since then, in whole and tenths.
create function machserial._seconds_since(then_at timestamptz) returns numeric
language sql volatile parallel safe
return round(extract(epoch from clock_timestamp() - then_at)::numeric, 1);

-- Sessions of clients, but this one. What sessions of other roles do is hidden from most roles.
create function machserial._client_sessions()
returns table (
    pid integer, usename name, application_name text, state text, xact_start timestamptz,
    state_change timestamptz, hidden boolean
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        a.pid, a.usename, a.application_name, a.state, a.xact_start, a.state_change, a.backend_type is null
    from pg_stat_activity as a
    where
        a.pid <> pg_backend_pid()
        and (a.backend_type = 'client backend'
            -- Hidden: whatever has both a database and a user may be a client.
            or a.backend_type is null and a.datid is not null and a.usesysid is not null);
end
$$;

-- The releases that README names. supported_from: before it a prepared plan outlives SET ROLE
-- (CVE-2024-10976), so that a role which is limited to sites could read rows of others. patched_from: the
-- first with the fix of CVE-2026-6470.
create function machserial._supported_releases()
returns table (major integer, supported_from integer, patched_from integer)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query values (14, 14, 24), (15, 9, 19), (16, 5, 15), (17, 1, 11), (18, 0, 5);
end
$$;

-- What to say of a server of this version, a number as in server_version_num.
create function machserial._version_result(server_version_num integer) returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    major_here constant integer := server_version_num / 10000;
    minor_here constant integer := mod(server_version_num, 10000);
    version constant text := format('PostgreSQL %s.%s', major_here, minor_here);
    release record;
begin
    select r.* into release from machserial._supported_releases() as r where r.major = major_here;
    return machserial._checked(
        'server_version',
        case when release.major is null then 1 else greatest(release.supported_from - minor_here, 0) end,
        case
            when release.major is null then version || ' is not supported: use 14 to 18'
            when minor_here < release.supported_from then format(
                '%s is older than %s.%s: a role that is limited to sites may read rows of others '
                '(CVE-2024-10976)', version, major_here, release.supported_from
            )
            when minor_here < release.patched_from then format(
                '%s is supported; %s.%s has the fix of CVE-2026-6470 as well', version, major_here,
                release.patched_from
            )
            else version || ' is supported'
        end,
        'Install the newest minor release of PostgreSQL and restart the server. Nothing has to be dumped for that.'
    );
end
$$;

create function machserial._check_server_version() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return machserial._version_result(current_setting('server_version_num')::integer);
end
$$;

create function machserial._check_connections() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    usable constant integer := current_setting('max_connections')::integer
        - current_setting('superuser_reserved_connections')::integer
        -- PostgreSQL 16 and later.
        - coalesce(current_setting('reserved_connections', true), '0')::integer;
    used constant bigint := 1 + (select count(*) from machserial._client_sessions());
    here record;
    percent numeric := round(100.0 * used / usable, 1);
    found_here text;
begin
    select
        d.datconnlimit as allowed,
        (select count(*) from pg_stat_activity as a where a.datid = d.oid and a.usesysid is not null) as used
    into here
    from pg_database as d where d.datname = current_database();
    if here.allowed > 0 then
        percent := greatest(percent, round(100.0 * here.used / here.allowed, 1));
        found_here := format('; %s of the %s that this database allows', here.used, here.allowed);
    end if;
    return machserial._checked(
        'connections', percent,
        format('%s of %s connections are in use%s', used, usable, found_here),
        'End idle sessions, put PgBouncer before the server, or raise max_connections.'
    );
end
$$;

create function machserial._check_idle_in_transaction() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    hidden constant bigint := (select count(*) from machserial._client_sessions() as s where s.hidden);
    idlest record;
begin
    select s.* into idlest
    from machserial._client_sessions() as s
    where s.state like 'idle in transaction%'
    order by s.state_change
    limit 1;
    return machserial._seen_in_part(
        machserial._checked(
            'idle_in_transaction', coalesce(machserial._seconds_since(idlest.state_change), 0),
            case
                when idlest.pid is null then 'no session is idle in a transaction'
                else format(
                    'process %s of %s (%s) has been idle in a transaction since %s',
                    idlest.pid, idlest.usename, idlest.application_name, idlest.state_change
                )
            end,
            format(
                'select pg_terminate_backend(%s); and: alter database %I set idle_in_transaction_session_timeout = ''5min'';',
                coalesce(idlest.pid::text, '<pid>'), current_database()
            )
        ),
        hidden, 'sessions of other roles'
    );
end
$$;

create function machserial._check_longest_transaction() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    hidden constant bigint := (select count(*) from machserial._client_sessions() as s where s.hidden);
    longest record;
begin
    select s.* into longest
    from machserial._client_sessions() as s
    where s.xact_start is not null
    order by s.xact_start
    limit 1;
    return machserial._seen_in_part(
        machserial._checked(
            'longest_transaction', coalesce(machserial._seconds_since(longest.xact_start), 0),
            case
                when longest.pid is null then 'no other transaction is open'
                else format(
                    'process %s of %s (%s) is in a transaction since %s',
                    longest.pid, longest.usename, longest.application_name, longest.xact_start
                )
            end,
            format('select pg_terminate_backend(%s);', coalesce(longest.pid::text, '<pid>'))
        ),
        hidden, 'sessions of other roles'
    );
end
$$;

create function machserial._check_prepared_transactions() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    oldest record;
begin
    if pg_is_in_recovery() and current_setting('max_prepared_transactions') <> '0' then
        return machserial._checked(
            'prepared_transactions', null, 'a standby does not show which transactions are prepared',
            'Ask the primary.'
        );
    end if;
    select p.gid, p.owner, p.database, p.prepared into oldest
    from pg_prepared_xacts as p order by p.prepared limit 1;
    return machserial._checked(
        'prepared_transactions', coalesce(machserial._seconds_since(oldest.prepared), 0),
        case
            when oldest.gid is null then 'no transaction is prepared'
            else format(
                'transaction %L of %s in database %s is prepared since %s',
                oldest.gid, oldest.owner, oldest.database, oldest.prepared
            )
        end,
        format(
            'In database %I: commit prepared %2$L; or: rollback prepared %2$L;',
            coalesce(oldest.database, current_database()), coalesce(oldest.gid, '...')
        )
    );
end
$$;

create function machserial._check_xid_age() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- The highest settings would come too near to the end of the ids to be told in percents of them.
    most constant numeric := 1200000000;
    freeze_xids constant numeric := least(current_setting('autovacuum_freeze_max_age')::numeric, most);
    freeze_multixacts constant numeric := least(
        current_setting('autovacuum_multixact_freeze_max_age')::numeric, most
    );
    oldest record;
begin
    select
        d.datname, age(d.datfrozenxid) as xids, mxid_age(d.datminmxid) as multixacts,
        greatest(
            100 * age(d.datfrozenxid) / freeze_xids, 100 * mxid_age(d.datminmxid) / freeze_multixacts
        ) as percent
    into oldest
    from pg_database as d order by 4 desc limit 1;
    return machserial._checked(
        'xid_age', round(oldest.percent, 1),
        format('oldest is database %s: %s transactions and %s multixacts old',
            oldest.datname, oldest.xids, oldest.multixacts),
        format('In database %I: vacuum (freeze);, after ending what holds it back: old transactions, prepared '
            || 'transactions, replication slots.', oldest.datname)
    );
end
$$;

create function machserial._check_lock_table() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    each constant integer := current_setting('max_locks_per_transaction')::integer;
    size constant integer := machserial._lock_table_size();
    -- pg_dump locks each of them until it has ended; from PostgreSQL 18 on no sequences, but what restores them
    -- in one transaction does.
    here record;
begin
    select
        count(*) as locks,
        count(*) filter (where r.relkind = 'S') as sequences,
        count(*) filter (
            where r.relnamespace = 'machserial'::regnamespace and r.relname ~ '^counter_[0-9]+$'
        ) as counters
    into here
    from pg_class as r
    inner join pg_namespace as n on n.oid = r.relnamespace
    where
        r.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
        and n.nspname !~ '^pg_' and n.nspname <> 'information_schema';
    return machserial._checked(
        'lock_table', round(100.0 * here.locks / size, 1),
        format(
            'a backup takes %s locks, %s of them for sequences (%s for counters); the server has room for %s',
            here.locks, here.sequences, here.counters, size
        ),
        format(
            'machserial maintain; if that is not enough: alter system set max_locks_per_transaction = %s; and '
            'restart the server.',
            -- For twice as many.
            greatest(2 * each, ceil(2.0 * here.locks / (size / each)))
        )
    );
end
$$;

-- How far the write-ahead log has come on this server.
create function machserial._wal_position() returns pg_lsn
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if pg_is_in_recovery() then
        return pg_last_wal_replay_lsn();
    end if;
    return pg_current_wal_lsn();
end
$$;

create function machserial._check_replication_lag() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when pg_is_in_recovery() then machserial._lag_of_this_standby() else machserial._lag_of_standbys()
    end;
end
$$;

create function machserial._lag_of_this_standby() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    behind constant numeric := pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn());
begin
    if behind is null then
        return machserial._checked(
            'replication_lag', null, 'this standby has received nothing from its primary since it was started',
            'Look at primary_conninfo and at this server''s log. A standby that only reads archived log stays unknown.'
        );
    end if;
    return machserial._checked(
        'replication_lag', greatest(behind, 0),
        format('this standby has replayed transactions up to %s', pg_last_xact_replay_timestamp()),
        case
            when pg_is_wal_replay_paused() then 'select pg_wal_replay_resume();'
            else 'Look for long queries on this standby, and at its disk.'
        end
    );
end
$$;

-- A standby tells its position only some time after it has connected, and what merely stores the log never
-- tells what it has replayed. Base backups do not follow the log at all.
create function machserial._lag_of_standbys() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    result machserial.health_result;
    hidden bigint;
    silent text;
    slowest record;
begin
    select
        count(*) filter (where r.state is null),
        min(machserial._standby_name(r.application_name, r.client_addr)) filter (
            where r.state <> 'backup' and coalesce(r.replay_lsn, r.write_lsn) is null
        )
    into hidden, silent
    from pg_stat_replication as r;
    select
        machserial._standby_name(r.application_name, r.client_addr) as name, r.state,
        pg_wal_lsn_diff(machserial._wal_position(), coalesce(r.replay_lsn, r.write_lsn)) as behind
    into slowest
    from pg_stat_replication as r
    where coalesce(r.replay_lsn, r.write_lsn) is not null
    order by coalesce(r.replay_lsn, r.write_lsn)
    limit 1;
    result := machserial._checked(
        'replication_lag', coalesce(greatest(slowest.behind, 0), 0),
        case
            when slowest.behind is null then 'no standby is connected'
            else format('slowest is standby %s, which is %s', slowest.name, slowest.state)
        end,
        'Look at the standby''s log, disk and network, and for long queries on it.'
    );
    if result.status = 'OK' and silent is not null then
        result := machserial._checked(
            'replication_lag', null, format('standby %s has not told yet how far it has come', silent),
            'Ask again in ten seconds. If the answer stays the same, look at the standby''s log and at the network.'
        );
    end if;
    return machserial._seen_in_part(result, hidden, 'standbys');
end
$$;

create function machserial._standby_name(application_name text, client_addr inet) returns text
language sql stable parallel safe
return format('%s %s', application_name, coalesce(host(client_addr), 'local'));

create function machserial._check_replication_slots() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
    result machserial.health_result;
begin
    select
        count(*) filter (where not s.active) as unread,
        count(*) filter (where s.wal_status = 'lost') as lost,
        string_agg(format('%s (%s)', s.slot_name, coalesce(s.wal_status, 'nothing kept')), ', ' order by s.slot_name)
            filter (where not s.active or s.wal_status = 'lost') as names,
        min(s.slot_name) filter (where not s.active or s.wal_status = 'lost') as one
    into found
    from pg_replication_slots as s;
    result := machserial._checked(
        'replication_slots', greatest(found.unread, found.lost),
        case
            when found.names is null then 'every replication slot is read, or there is none'
            else format('replication slots that nobody reads: %s', found.names)
        end,
        format('Start its reader again, or: select pg_drop_replication_slot(%L);', coalesce(found.one, '...'))
    );
    if found.lost > 0 then
        return machserial._made_critical(result);
    end if;
    return result;
end
$$;

create function machserial._check_replication_slot_wal() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    furthest record;
begin
    select
        s.slot_name, s.active,
        greatest(pg_wal_lsn_diff(machserial._wal_position(), s.restart_lsn), 0) as kept
    into furthest
    from pg_replication_slots as s
    where s.restart_lsn is not null
    order by s.restart_lsn
    limit 1;
    return machserial._checked(
        'replication_slot_wal', coalesce(furthest.kept, 0),
        case
            when furthest.slot_name is null then 'no replication slot keeps write-ahead log'
            else format('slot %s, which is %s, keeps %s',
                furthest.slot_name, case when furthest.active then 'read' else 'not read' end,
                pg_size_pretty(furthest.kept))
        end,
        format('Get its reader going, or: select pg_drop_replication_slot(%L); max_slot_wal_keep_size limits it.',
            coalesce(furthest.slot_name, '...'))
    );
end
$$;

create function machserial._check_archiver() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    archiver record;
    fails boolean;
begin
    if current_setting('archive_mode') = 'off' then
        return machserial._nothing_wrong('archiver', 'archive_mode is off: there is nothing to fail');
    elsif pg_is_in_recovery() and current_setting('archive_mode') <> 'always' then
        return machserial._nothing_wrong(
            'archiver', 'a standby archives only where archive_mode is always: there is nothing to fail'
        );
    end if;
    select a.* into archiver from pg_stat_archiver as a;
    fails := archiver.last_failed_time > coalesce(archiver.last_archived_time, '-infinity');
    return machserial._checked(
        'archiver',
        case
            when fails then greatest(
                machserial._seconds_since(coalesce(archiver.last_archived_time, archiver.stats_reset)), 1
            )
            else 0
        end,
        case
            when fails then format('archiving fails, last of %s at %s; last success: %s',
                archiver.last_failed_wal, archiver.last_failed_time,
                coalesce(archiver.last_archived_time::text, 'none'))
            else format('last archived: %s', coalesce(archiver.last_archived_time::text, 'nothing yet'))
        end,
        'The server''s log has the error of archive_command; mend that before the disk is full.'
    );
end
$$;

create function machserial._check_unsafe_settings() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    unsafe constant text[] := array(
        select s.name from pg_settings as s
        where s.name in ('fsync', 'full_page_writes') and s.setting = 'off'
        order by s.name
    );
begin
    return machserial._checked(
        'unsafe_settings', cardinality(unsafe),
        case cardinality(unsafe)
            when 0 then 'fsync and full_page_writes are on'
            else format('off: %s', array_to_string(unsafe, ', '))
        end,
        format('alter system set %s = on; select pg_reload_conf();', coalesce(unsafe[1], 'fsync'))
    );
end
$$;

create function machserial._check_synchronous_commit() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    places text[] := array(
        select format('role %s, database %s',
            coalesce(pg_get_userbyid(nullif(s.setrole, 0)), 'all'), coalesce(d.datname, 'all'))
        from pg_db_role_setting as s
        left join pg_database as d on d.oid = s.setdatabase
        where
            (s.setdatabase = 0 or d.datname = current_database())
            and exists (
                select from unnest(s.setconfig) as c
                where lower(c collate "C") in ('synchronous_commit=off', 'synchronous_commit=false', 'synchronous_commit=no',
                    'synchronous_commit=0')
            )
        order by 1
    );
begin
    -- This session's own may come from any of these, or from the server.
    if places = '{}' and current_setting('synchronous_commit') = 'off' then
        places := '{the server}';
    end if;
    return machserial._checked(
        'synchronous_commit', cardinality(places),
        case cardinality(places)
            when 0 then 'synchronous_commit is not off'
            else format('synchronous_commit is off for: %s', array_to_string(places, '; '))
        end,
        case
            when places = '{the server}' then 'alter system set synchronous_commit = on; select pg_reload_conf();'
            else 'alter role ... (or database ...) reset synchronous_commit;'
        end
    );
end
$$;

-- Where it is said that transactions only read, of all roles: single roles may be meant to.
create function machserial._read_only_places() returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    places constant text[] := array(
        select coalesce('database ' || quote_ident(d.datname), 'all databases')
        from pg_db_role_setting as s
        left join pg_database as d on d.oid = s.setdatabase
        cross join lateral unnest(s.setconfig) as c (setting)
        where
            s.setrole = 0 and (s.setdatabase = 0 or d.datname = current_database())
            and case
                when c.setting like 'default@_transaction@_read@_only=%' escape '@'
                    then split_part(c.setting, '=', 2)::boolean
            end
        order by 1
    );
begin
    if places = '{}' and exists (
        select from pg_settings as s
        where
            s.name = 'default_transaction_read_only' and s.setting = 'on'
            and s.source in ('configuration file', 'command line', 'environment variable', 'override')
    ) then
        return array['the server'];
    end if;
    return places;
end
$$;

create function machserial._remedy_for_read_only() returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    places constant text[] := machserial._read_only_places();
begin
    return case
        when places = '{the server}'
            then 'alter system set default_transaction_read_only = off; select pg_reload_conf();'
        when 'all databases' = any(places) then 'alter role all reset default_transaction_read_only;'
        when places <> '{}' then format(
            'alter database %I reset default_transaction_read_only;', current_database()
        )
        else format('If %1$I is to write: alter role %1$I reset default_transaction_read_only;', current_user)
    end || ' Is the disk full? Some providers set it then.';
end
$$;

create function machserial._check_read_only() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    places constant text[] := machserial._read_only_places();
begin
    if pg_is_in_recovery() then
        return machserial._checked(
            'read_only', null,
            'this is a standby: whether its primary can be written to is not seen from here', 'Ask the primary.'
        );
    end if;
    return machserial._checked(
        'read_only', cardinality(places),
        case cardinality(places)
            when 0 then 'transactions may write'
            else format('transactions only read: default_transaction_read_only is on for %s',
                array_to_string(places, ', '))
        end,
        machserial._remedy_for_read_only()
    );
end
$$;

create function machserial._check_memory() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- In the units that pg_settings states, which current_setting() prints for people.
    shared constant numeric := pg_size_bytes(current_setting('shared_buffers'));
    connections constant integer := current_setting('max_connections')::integer;
    a_connection constant numeric := pg_size_bytes(current_setting('work_mem'))
        * current_setting('hash_mem_multiplier')::numeric;
    maintenance constant numeric := current_setting('autovacuum_max_workers')::integer * case
        when current_setting('autovacuum_work_mem') = '-1' then pg_size_bytes(current_setting('maintenance_work_mem'))
        else pg_size_bytes(current_setting('autovacuum_work_mem'))
    end;
    available constant numeric := pg_size_bytes(current_setting('effective_cache_size'));
    allowed constant numeric := shared + connections * a_connection + maintenance;
begin
    return machserial._checked(
        'memory', round(100 * allowed / available, 1),
        format(
            'shared_buffers %s + %s connections with %s each + %s for vacuum = %s, effective_cache_size %s',
            pg_size_pretty(shared), connections, pg_size_pretty(a_connection), pg_size_pretty(maintenance),
            pg_size_pretty(allowed), pg_size_pretty(available)
        ),
        'Lower work_mem or max_connections (PgBouncer), or raise effective_cache_size to what the machine has.'
    );
end
$$;

create function machserial._check_cache_hit_ratio() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    enough constant bigint := 100000;
    reads record;
begin
    select d.blks_hit as hit, d.blks_hit + d.blks_read as total into reads
    from pg_stat_database as d where d.datname = current_database();
    if reads.total < enough then
        return machserial._nothing_wrong(
            'cache_hit_ratio', format('%s pages were read, too few to judge by', reads.total)
        );
    end if;
    return machserial._checked(
        'cache_hit_ratio', round(100.0 * reads.hit / reads.total, 2),
        format('%s of %s pages were found in shared_buffers', reads.hit, reads.total),
        'Raise shared_buffers, and look for statements that read whole tables. After that: select pg_stat_reset();'
    );
end
$$;

create function machserial._check_checksum_failures() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    damage record;
begin
    if current_setting('data_checksums') <> 'on' then
        return machserial._checked(
            'checksum_failures', null, 'not measured: data checksums are off, damaged pages are not noticed',
            'With the server stopped: pg_checksums --enable. To do without: set both thresholds to null.'
        );
    end if;
    select
        sum(d.checksum_failures) as pages,
        string_agg(format('%s (%s, last at %s)', coalesce(d.datname, 'shared tables'), d.checksum_failures,
            d.checksum_last_failure), ', ') filter (where d.checksum_failures > 0) as places
    into damage
    from pg_stat_database as d;
    return machserial._checked(
        'checksum_failures', damage.pages, coalesce('damaged pages: ' || damage.places, 'no damaged page was found'),
        'Find the damage with pg_amcheck, restore it from a backup, replace the disk. After that, in the database: '
        || 'select pg_stat_reset();'
    );
end
$$;

create function machserial._check_slow_statements() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    place constant name := (
        select n.nspname from pg_extension as e inner join pg_namespace as n on n.oid = e.extnamespace
        where e.extname = 'pg_stat_statements'
    );
    mean numeric;
    calls bigint;
    query text;
begin
    if place is null then
        return machserial._checked(
            'slow_statements', null, 'not measured: this database has no pg_stat_statements',
            'shared_preload_libraries = ''pg_stat_statements'', restart, create extension pg_stat_statements; '
            'To do without: set both thresholds to null.'
        );
    end if;
    execute format(
        $query$
            select round(s.mean_exec_time::numeric, 1) as mean, s.calls, s.query
            from %I.pg_stat_statements as s
            where
                s.dbid = (select d.oid from pg_database as d where d.datname = current_database()) and s.calls >= 10
                -- Upkeep takes its time: the server's, and that of machserial, which the command runs as well.
                and s.query collate "C" !~* '^[[:space:]]*(vacuum|analyze|reindex|create|alter|copy|cluster|refresh)'
                -- The command writes names in quotes.
                and s.query collate "C" !~ $duties$(?ix)[[:<:]](
                    machserial[.]"?_[a-z_]+ | audit_anchor | audit_months | drop_archived | fence | health
                    | health_check | integrity | maintain | migrate | ready | record_archive | restore_archived
                    | seal_audit | verify_archived | verify_audit | verify_lineage
                )"?[[:space:]]*[(]$duties$
                -- What they call in turn, where that is counted as well.
                and coalesce(to_jsonb(s) ->> 'toplevel', 'true') = 'true'
            order by s.mean_exec_time desc
            limit 1
        $query$,
        place
    )
    into mean, calls, query;
    return machserial._checked(
        'slow_statements', coalesce(mean, 0),
        case
            when mean is null then 'no statement has run ten times'
            else format('slowest, of %s calls: %s', calls,
                left(regexp_replace(query, '[[:space:]]+', ' ', 'g'), 100))
        end,
        format('explain (analyze, buffers) it. After mending: select %I.pg_stat_statements_reset();', place)
    );
end
$$;

create function machserial._check_foreign_locks() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    held record;
    result machserial.health_result;
begin
    select
        count(distinct f.holder) filter (where not f.is_hidden) as sessions,
        count(distinct f.holder) filter (where f.is_hidden) as hidden,
        bool_or(f.purpose = 'numbering') filter (where not f.is_hidden) as stops_numbering,
        string_agg(
            distinct format('%s holds the advisory lock for %s', f.holder, f.purpose), '; '
        ) filter (where not f.is_hidden) as found,
        string_agg(distinct f.ending, ' ') filter (where not f.is_hidden) as remedy
    into held
    from machserial._foreign_locks() as f;
    result := machserial._checked(
        'foreign_locks', held.sessions,
        coalesce(held.found, 'nobody keeps an advisory lock of machserial'), held.remedy
    );
    if held.stops_numbering and result.status = 'WARNING' then
        result := machserial._made_critical(result);
    end if;
    return machserial._seen_in_part(
        result, held.hidden, 'sessions of other roles that hold advisory locks of machserial'
    );
end
$$;
