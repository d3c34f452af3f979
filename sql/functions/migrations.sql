-- Bringing the data up to the code: each migration runs once, in order, in the caller's transaction. The
-- migrations and views themselves arrive here as data, in _migrations() and _views(), which the build writes.

-- Tried, never waited for: a queue of sessions behind a migration would hold up what it locks.
create function machserial._lock_migrations() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    lock_class constant integer := hashtext('machserial.migrate');
    holder record;
begin
    if pg_try_advisory_xact_lock(lock_class, 0) then
        return;
    end if;
    select a.pid, a.usename, a.application_name, a.xact_start into holder
    from pg_locks as l
    left join pg_stat_activity as a on a.pid = l.pid
    where l.locktype = 'advisory' and l.classid = (lock_class::bigint & 4294967295)::oid
        and l.objid = 0 and l.objsubid = 2 and l.granted
        and l.database = (select d.oid from pg_database as d where d.datname = current_database());
    raise exception using
        errcode = 'lock_not_available',
        message = 'another session is running machserial.migrate()',
        detail = format(
            'Held by process %s, user %s, application %L, since %s.',
            coalesce(holder.pid::text, 'unknown'), coalesce(holder.usename, 'unknown'),
            coalesce(holder.application_name, ''), coalesce(holder.xact_start::text, 'unknown')
        ),
        hint = 'Try again when it has ended.';
end
$$;

create function machserial._require_known_schema() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    strange record;
begin
    select a.version, m.version is null as is_newer into strange
    from machserial._applied_migrations() as a
    left join machserial._migrations() as m on m.version = a.version
    where m.sha256 is distinct from a.sha256
    order by a.version
    limit 1;
    if strange.is_newer then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'the schema is newer than the machserial code in this database',
            detail = format('Migration %s has been run, code %s does not know it.',
                strange.version, machserial.version()),
            hint = 'Deploy the newer code again.';
    elsif strange.version is not null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('migration %s is not the one that was run here', strange.version),
            detail = 'Its recorded sha256 differs from that of the code.',
            hint = 'Deploy a released version: released migrations never change.';
    end if;
end
$$;

create function machserial._create_migration_record() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if to_regclass('machserial.schema_migrations') is null then
        execute machserial._migration_record();
    end if;
end
$$;

-- What comes before the statements of a migration. planned: the versions that they bring, where they were
-- written down earlier; null: whatever is pending.
create function machserial._begin_migration(planned integer[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    pending constant integer[] := array(select p.version from machserial.pending_migrations() as p);
begin
    perform machserial._require_owner();
    perform machserial._lock_migrations();
    perform machserial._require_known_schema();
    if planned <> pending then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'this is not the plan for the present state of the database',
            detail = format('It brings the migrations %s, pending are %s.', planned, pending),
            hint = 'Make a new one: machserial migrate plan --sql.';
    end if;
    perform machserial._require_records();
    perform machserial._require_tables();
    perform machserial._create_migration_record();
end
$$;

-- What comes after them. have_run: whether there were any.
create function machserial._finish_migration(have_run boolean) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if have_run then
        perform machserial._close_functions();
        perform machserial._close_to_everybody();
    end if;
    perform machserial._mend_schema();
    perform machserial._apply_privileges();
    perform machserial._tell_two_owners();
end
$$;

create function machserial.migration_script() returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return concat(
        (
            select string_agg(
                concat(
                    format(e'-- migration %s %s\n', m.version, m.name), m.source,
                    format(
                        e'\ninsert into machserial.schema_migrations (version, name, sha256, code_version)\n'
                        'values (%s, %L, %L, %L);\n',
                        m.version, m.name, m.sha256, machserial.version()
                    )
                ),
                e'\n' order by m.version
            )
            from machserial._migrations() as m
            where m.version in (select p.version from machserial.pending_migrations() as p)
        ),
        (
            select string_agg(format(e'\n-- view %s\n%s', v.name, v.source), '' order by v.ordinal)
            from machserial._views() as v
        )
    );
end
$$;

comment on function machserial.migration_script() is
'The statements that machserial.migrate() would execute now: the pending migrations, their records, the
views.';

create function machserial.migrate() returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    pending constant bigint := (select count(*) from machserial.pending_migrations());
begin
    perform machserial._require_administrator('machserial.migrate()');
    perform machserial._begin_migration(null);
    execute machserial.migration_script();
    perform machserial._finish_migration(pending > 0);
    return pending;
end
$$;

comment on function machserial.migrate() is
'Runs the pending migrations in order, in the caller''s transaction, and re-creates the views; makes again
what was dropped of triggers, policies, constraints, defaults and indexes, with a WARNING that names it; brings
the rights of the roles of create_roles() up to date, if they are used here. Returns how many ran.
Errors: 55P03 another session migrates now; 55000 the schema is newer than the code, is a copy without rows,
lacks tables, or rows break a rule that was missing; 42501 neither the owner nor an administrator.';

-- Counters and renderers of rows that a copy of the schema does not have.
create function machserial._drop_leftovers() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    leftover record;
begin
    for leftover in
        select format('sequence %s', c.oid::regclass) as name
        from pg_class as c
        where
            c.relnamespace = 'machserial'::regnamespace and c.relkind = 'S' and c.relname ~ '^counter_[0-9]+$'
        union all
        select format('function %s', p.oid::regprocedure)
        from pg_proc as p
        where p.pronamespace = 'machserial'::regnamespace and p.proname ~ '^_render_[0-9]+$'
    loop
        execute format('drop %s', leftover.name);
    end loop;
end
$$;

create function machserial.adopt_schema() returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    filled text[];
    first_row record;
    adopted integer;
begin
    perform machserial._require_administrator('machserial.adopt_schema()');
    perform machserial._lock_migrations();
    filled := machserial._tables_with_rows();
    if cardinality(filled) > 0 or to_regclass('machserial.serials') is null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'there is no copy of the schema without rows here',
            detail = case
                when cardinality(filled) > 0 then format('Rows are in %s.', machserial._first_of(filled))
                else 'There are no tables of machserial.'
            end,
            hint = 'Call machserial.migrate(): it does what is to be done, or says so.';
    end if;
    perform machserial._create_migration_record();
    insert into machserial.schema_migrations (version, name, sha256, code_version)
    select m.version, m.name, m.sha256, machserial.version() from machserial._migrations() as m;
    get diagnostics adopted = row_count;
    perform machserial._require_tables();
    perform machserial._drop_leftovers();
    perform machserial._make_missing();
    for first_row in select f.statement from machserial._first_rows() as f order by f.place loop
        execute first_row.statement;
    end loop;
    execute machserial.migration_script();
    perform machserial._finish_migration(true);
    return adopted;
end
$$;

comment on function machserial.adopt_schema() is
'Makes a copy of the schema without any row (pg_dump --schema-only, structure.sql) one to work with: records
the migrations as run, and puts in what they put in, such as the site DEFAULT and the settings. Returns how many
migrations it recorded.
Errors: 55000 there are rows, or no tables, or some of the tables of this version are missing; 55P03 another
session migrates now; 42501 neither the owner nor an administrator.';
