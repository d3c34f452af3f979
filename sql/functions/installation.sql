-- What is installed: the owner of all objects, and the migrations that have run.

create function machserial._applied_migrations() returns table (version integer, sha256 text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Before the first migrate() the record does not exist yet.
    if to_regclass('machserial.schema_migrations') is not null then
        return query select m.version, m.sha256 from machserial.schema_migrations as m;
    end if;
end
$$;

create function machserial.pending_migrations() returns table (version integer, name text, source text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select m.version, m.name, m.source
    from machserial._migrations() as m
    where m.version not in (select a.version from machserial._applied_migrations() as a)
    order by m.version;
end
$$;

comment on function machserial.pending_migrations() is
'The migrations that migrate() would run now, in order, with their source.';

create function machserial._owner() returns name
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select pg_get_userbyid(p.proowner) from pg_proc as p where p.oid = 'machserial.migrate'::regproc
    );
end
$$;

-- Two owners of one schema would let the one plant triggers that run with the other's rights.
create function machserial._require_owner(what text default 'migrate()') returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    owner constant name := machserial._owner();
begin
    if owner <> current_user then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('%s is for the owner of machserial', what),
            detail = format('The owner is %I, the current user is %I.', owner, current_user),
            hint = format('Run it as the owner: set role %I;', owner);
    end if;
end
$$;

-- For who has the owner's rights: superusers and members as well.
create function machserial._require_owners_rights(what text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not pg_has_role(current_user, machserial._owner(), 'usage') then
        perform machserial._require_owner(what);
    end if;
end
$$;

-- The first thing that migrate() makes; no migration can, since it records them.
create function machserial._migration_record() returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return $record$
create table machserial.schema_migrations (
    version integer not null primary key,
    name text collate "C" not null,
    sha256 text collate "C" not null,
    code_version text collate "C" not null,
    applied_at timestamptz not null default clock_timestamp(),
    applied_by text collate "C" not null default session_user
);
comment on table machserial.schema_migrations is 'Which migration ran here, when and by whom.';
comment on column machserial.schema_migrations.version is 'Number of the migration.';
comment on column machserial.schema_migrations.name is 'Its name.';
comment on column machserial.schema_migrations.sha256 is 'SHA-256 of its source as it ran.';
comment on column machserial.schema_migrations.code_version is 'Version of the code that ran it.';
comment on column machserial.schema_migrations.applied_at is 'When it ran.';
comment on column machserial.schema_migrations.applied_by is 'The session''s user who ran it.';
$record$;
end
$$;

-- With search_path = machserial, public an application creates its own tables in the schema of machserial.
create function machserial._is_own_table(relation regclass) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select from pg_class as c
        where
            c.oid = relation and c.relnamespace = 'machserial'::regnamespace
            and (c.relispartition or c.relname = 'schema_migrations' or exists (
                select from machserial._migrations() as m
                where strpos(m.source, format('table machserial.%I (', c.relname)) > 0
            ))
    );
end
$$;

-- The tables of machserial that are there, and the partitions of its audit trail.
create function machserial._own_relations() returns table (oid oid, relation text, is_partition boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select c.oid, c.relname::text, c.relispartition
    from pg_class as c
    where
        c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p')
        and machserial._is_own_table(c.oid::regclass);
end
$$;
