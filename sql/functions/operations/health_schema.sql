-- Checks of health(): versions, indexes, privileges, pauses.

-- The names with "and more" in place of all beyond the fifth.
create function machserial._first_of(names text[]) returns text
language sql immutable parallel safe
return concat_ws(
    ', ', nullif(array_to_string(names[1:5], ', '), ''),
    case when cardinality(names) > 5 then format('and %s more', cardinality(names) - 5) end
);

create function machserial._check_pending_migrations() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    pending constant text[] := array(
        select format('%s %s', m.version, m.name) from machserial.pending_migrations() as m order by m.version
    );
    message constant text := case cardinality(pending)
        when 0 then 'no migration is pending'
        else format('pending: %s', machserial._first_of(pending))
    end;
    remedy constant text := 'select machserial.migrate();';
begin
    -- The thresholds come with a migration.
    if to_regclass('machserial.health_thresholds') is null then
        return ('pending_migrations', 'CRITICAL', cardinality(pending), null, 1, message, remedy)
            ::machserial.health_result;
    end if;
    return machserial._checked('pending_migrations', cardinality(pending), message, remedy);
end
$$;

-- How many migrations ran here that the code does not know, or that were others.
create function machserial._strange_migrations() returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select count(*)
        from machserial._applied_migrations() as a
        left join machserial._migrations() as m on m.version = a.version
        where m.sha256 is distinct from a.sha256
    );
end
$$;

create function machserial._check_schema_version() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    strange constant bigint := machserial._strange_migrations();
    applied constant integer := (select max(a.version) from machserial._applied_migrations() as a);
    known constant integer := (select max(m.version) from machserial._migrations() as m);
begin
    return machserial._checked(
        'schema_version', strange,
        format('code %s knows migrations up to %s, the schema is at %s%s', machserial.version(), known, applied,
            case when strange > 0 then format(', of which %s are not those of the code', strange) end),
        'Deploy the version that the schema is of, or a newer one.'
    );
end
$$;

create function machserial._check_paused() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    relation constant regclass := to_regclass('machserial.pauses');
    pauses bigint;
    first_pause text;
begin
    if relation is null then
        return machserial._nothing_wrong('paused', 'machserial is not paused');
    end if;
    execute format(
        $query$
            select
                count(*),
                (array_agg(format('paused by %%s since %%s: %%s', p.paused_by, p.paused_at, p.reason)
                    order by p.paused_at))[1]
            from %s as p
            where p.resumed_at is null
        $query$,
        relation
    )
    into pauses, first_pause;
    return machserial._checked(
        'paused', pauses, coalesce(first_pause, 'machserial is not paused'), 'machserial resume'
    );
end
$$;

create function machserial._check_invalid_indexes() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    invalid constant text[] := array(
        select i.indexrelid::regclass::text
        from pg_index as i
        inner join pg_class as c on c.oid = i.indexrelid
        where
            c.relnamespace = 'machserial'::regnamespace and not (i.indisvalid and i.indisready)
            -- One that is being made is not finished yet.
            and i.indexrelid not in (
                select p.index_relid from pg_stat_progress_create_index as p where p.index_relid is not null
            )
        order by 1
    );
begin
    return machserial._checked(
        'invalid_indexes', cardinality(invalid),
        case cardinality(invalid)
            when 0 then 'every index is valid'
            else format('not valid: %s', machserial._first_of(invalid))
        end,
        format('reindex index concurrently %s; or drop it.', coalesce(invalid[1], '...'))
    );
end
$$;

-- Indexes of machserial's tables that do not compare texts by their bytes. Where an index follows a language,
-- a new version of the operating system may sort otherwise, and what is in the index is no longer found.
create function machserial._check_index_collations() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found record;
    result machserial.health_result;
begin
    select array_agg(distinct x.relname::text) as names, coalesce(bool_or(i.indisunique), false) as is_unique
    into found
    from pg_index as i
    inner join pg_class as x on x.oid = i.indexrelid
    inner join pg_class as t on t.oid = i.indrelid
    cross join lateral unnest(i.indcollation) as k (collation_id)
    where
        t.relnamespace = 'machserial'::regnamespace
        and k.collation_id not in (0, '"C"'::regcollation, '"POSIX"'::regcollation);
    result := machserial._checked(
        'index_collations', coalesce(cardinality(found.names), 0),
        case
            when found.names is null then 'every index compares texts by their bytes'
            else format('by another collation than "C": %s', machserial._first_of(found.names))
        end,
        format(
            'Make it anew by collate "C": select pg_get_indexdef(%L::regclass); or drop it.',
            'machserial.' || quote_ident(coalesce(found.names[1], '...'))
        )
    );
    if found.is_unique then
        return machserial._made_critical(result);
    end if;
    return result;
end
$$;

-- The sources of what made the tables here.
create function machserial._applied_sources() returns table (source text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    -- Comments may hold anything, a semicolon for one.
    select regexp_replace(m.source, '--.*$', '', 'gn')
    from machserial._migrations() as m
    where m.version in (select a.version from machserial._applied_migrations() as a)
    union all
    select p.prosrc from pg_proc as p
    where p.oid = 'machserial._create_migration_record()'::regprocedure;
end
$$;

-- The indexes that the migrations which ran here have made, read from their sources, and how each is made
-- again.
create function machserial._expected_indexes() returns table (name text, is_unique boolean, definition text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with sources as materialized (
        select a.source from machserial._applied_sources() as a
    ),
    dropped as materialized (
        select d.words[1] as name
        from sources as a
        cross join lateral regexp_matches(
            a.source, 'drop (?:index machserial[.]|constraint )([a-z0-9_]+)', 'g'
        ) as d (words)
    ),
    statements as materialized (
        select s.words
        from sources as a
        cross join lateral regexp_matches(
            a.source, '((?:create|alter) table|create(?: unique)? index) ([a-z0-9_.]+)([^;]*);', 'g'
        ) as s (words)
    ),
    made as (
        select
            s.words[2] as index_name, s.words[1] like '%unique%' as is_unique,
            format('%s %s%s;', s.words[1], s.words[2], s.words[3]) as definition
        from statements as s
        where s.words[1] like '%index'
        union all
        select
            k.words[1], true,
            format('alter table %s add constraint %s %s;', s.words[2], k.words[1], k.words[2])
        from statements as s
        cross join lateral regexp_matches(
            s.words[3],
            -- Up to two brackets deep, as in exclude using gist (int8range(first_value, last_value) with &&).
            'constraint ([a-z0-9_]+)[[:space:]]+((?:primary key|unique|exclude)[^(]*'
            || '[(](?:[^()]|[(](?:[^()]|[(][^()]*[)])*[)])*[)](?: where [(](?:[^()]|[(][^()]*[)])*[)])?)',
            'g'
        ) as k (words)
        where s.words[1] like '%table'
        union all
        select
            format('%s_pkey', substr(s.words[2], 12)), true,
            format('alter table %1$s add constraint %2$s_pkey primary key (%3$s);', s.words[2],
                substr(s.words[2], 12), k.words[1])
        from statements as s
        cross join lateral regexp_matches(s.words[3], '([a-z0-9_]+) [a-zC" ]*primary key(?![ ]*[(])') as k (words)
        where s.words[1] = 'create table'
    )
    select m.index_name, m.is_unique, m.definition
    from made as m
    where m.index_name not in (select d.name from dropped as d);
end
$$;

create function machserial._check_missing_indexes() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    missing record;
    result machserial.health_result;
begin
    select
        array_agg(e.name order by e.name) as names, coalesce(bool_or(e.is_unique), false) as is_unique,
        string_agg(regexp_replace(e.definition, '[[:space:]]+', ' ', 'g'), ' ' order by e.name) as definitions
    into missing
    from machserial._expected_indexes() as e
    where to_regclass('machserial.' || e.name) is null;
    result := machserial._checked(
        'missing_indexes', coalesce(cardinality(missing.names), 0),
        case
            when missing.names is null then 'every index of the migrations is there'
            else format('missing: %s', machserial._first_of(missing.names))
        end,
        coalesce(missing.definitions, 'Make them again as the migrations did.')
    );
    if missing.is_unique then
        return machserial._made_critical(result);
    end if;
    return result;
end
$$;

-- What belongs to somebody else than machserial's owner, who is the one of migrate(). The schema may be the
-- database owner's.
create function machserial._foreign_objects() returns table (description text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select format('%s belongs to %s', o.name, pg_get_userbyid(o.owner))
    from (
        select p.oid::regprocedure::text as name, p.proowner as owner
        from pg_proc as p where p.pronamespace = 'machserial'::regnamespace
        union all
        select c.oid::regclass::text, c.relowner
        from pg_class as c
        where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S', 'c')
        union all
        select 'schema machserial', n.nspowner from pg_namespace as n
        where
            n.nspname = 'machserial'
            and n.nspowner <> (select d.datdba from pg_database as d where d.datname = current_database())
    ) as o
    where
        o.owner <> (select p.proowner from pg_proc as p where p.oid = 'machserial.migrate()'::regprocedure);
end
$$;

-- What everybody may call, write to or add to.
create function machserial._public_objects() returns table (description text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select format('everybody has %s on %s', lower(a.privilege_type collate "C"), o.name)
    from (
        select p.oid::regprocedure::text as name, coalesce(p.proacl, acldefault('f', p.proowner)) as acl
        from pg_proc as p
        where
            p.pronamespace = 'machserial'::regnamespace and p.oid not in (
                select l.oid from machserial._listed_privileges() as l
                where l.role = 'public' and l.kind = 'function'
            )
        union all
        select c.oid::regclass::text, c.relacl
        from pg_class as c where c.relnamespace = 'machserial'::regnamespace
        union all
        select 'schema machserial', n.nspacl from pg_namespace as n where n.nspname = 'machserial'
    ) as o
    cross join lateral aclexplode(o.acl) as a
    where a.grantee = 0 and a.privilege_type not in ('SELECT', 'REFERENCES', 'USAGE');
end
$$;

-- What the roles of create_roles() may not do and should, or the other way round. SECURITY DEFINER: only who
-- could mend it is shown it.
create function machserial._unlisted_privileges() returns table (description text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query select format('not as listed: %s', c.statement) from machserial._privilege_changes() as c;
end
$$;

create function machserial._check_privileges() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    drift constant text[] := array(
        select f.description from machserial._foreign_objects() as f
        union all
        select p.description from machserial._public_objects() as p
        union all
        select u.description from machserial._unlisted_privileges() as u
        order by 1
    );
begin
    return machserial._checked(
        'privileges', cardinality(drift),
        case cardinality(drift)
            when 0 then 'everything belongs to the owner, and nothing is everybody''s'
            else array_to_string(drift[1:5], '; ')
                || case when cardinality(drift) > 5 then format('; and %s more', cardinality(drift) - 5) else '' end
        end,
        'revoke all on ... from public; or: alter ... owner to the owner of machserial; or, for rights of the roles: '
        || 'select machserial.migrate(). Find out who did it.'
    );
end
$$;
