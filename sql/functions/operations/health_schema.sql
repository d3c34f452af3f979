-- Checks of health(): versions, indexes, privileges, pauses.

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
    remedy constant text := machserial._remedy_for_pending();
begin
    -- The thresholds come with a migration, and are not in a copy of the schema without rows.
    if to_regclass('machserial.health_thresholds') is null or cardinality(machserial._unrecorded_tables()) > 0 then
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

create function machserial._check_time_zones() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    gone text[];
    old text[];
    result machserial.health_result;
begin
    perform machserial._require_all_sites('the check time_zones');
    select
        coalesce(array_agg(format('%s (%s)', s.id, s.time_zone) order by s.id) filter (where not z.is_known), '{}'),
        coalesce(array_agg(format('%s (%s)', s.id, s.time_zone) order by s.id) filter (where z.is_known), '{}')
    into gone, old
    from machserial._zones_of_sites() as z
    inner join machserial.sites as s on s.id = z.site_id
    where not z.is_known or exists (
        select from machserial._old_time_zones() as o
        where lower(o.name collate "C") = lower(s.time_zone collate "C")
    );
    result := machserial._checked(
        'time_zones', cardinality(gone) + cardinality(old),
        case
            when gone <> '{}' then format(
                'the server does not know the time zone of: %s', machserial._first_of(gone)
            )
            when old <> '{}' then format(
                'old names, which a newer operating system may leave out: %s', machserial._first_of(old)
            )
            else 'the server knows the time zone of every site'
        end,
        'select machserial.register_site(..., time_zone => ...); or install tzdata-legacy on the server.'
    );
    if gone <> '{}' then
        return machserial._made_critical(result);
    end if;
    return result;
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

create function machserial._check_missing_indexes() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    missing record;
    result machserial.health_result;
begin
    select
        array_agg(m.name order by m.name) as names,
        coalesce(bool_or(m.statement ~ '^create unique |[[:space:]](primary key|unique|exclude)[[:space:]]'), false)
            as is_unique,
        string_agg(regexp_replace(m.statement, '[[:space:]]+', ' ', 'g') || ';', ' ' order by m.name) as definitions
    into missing
    from machserial._missing_objects() as m
    where
        m.kind = 'index'
        -- Constraints that are indexes.
        or m.kind = 'constraint' and m.statement ~ '[[:space:]](primary key|unique|exclude)[[:space:]]';
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

create function machserial._check_missing_rules() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    missing record;
begin
    select count(*) as rules, array_agg(f.message) as messages, min(f.remedy) as remedy into missing
    from machserial._faults_of_rules() as f;
    return machserial._checked(
        'missing_rules', missing.rules,
        coalesce(machserial._first_of(missing.messages), 'every trigger, policy and constraint is in force'),
        case missing.rules
            when 1 then missing.remedy
            else 'select machserial.migrate(); then select * from machserial.integrity();'
        end
    );
end
$$;

-- Policies, rules and triggers on our tables and views that no migration made: they may hide rows, swallow
-- writes, or write themselves. A trigger of ours that calls another function is none of ours any more.
create function machserial._foreign_rules() returns table (kind text, description text, remedy text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
begin
    return query
    with own as materialized (
        select r.oid, case when r.is_partition then 'audit_events' else r.relation end as model
        from machserial._own_relations() as r
        union all
        select c.oid, c.relname::text from pg_class as c
        where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('v', 'm')
    ),

    expected as materialized (
        select
            e.kind, e.relation, e.name,
            substring(e.statement from 'execute function machserial[.]([a-z0-9_]+)[(]') as function_name,
            e.statement ~ '[[:space:]]when[[:space:]]*[(]' as is_conditional
        from machserial._expected_objects() as e where e.kind in ('trigger', 'policy')
    )

    select
        'trigger', format('trigger %I on %s calls %s', t.tgname, t.tgrelid::regclass, t.tgfoid::regproc),
        format('drop trigger %I on %s;', t.tgname, t.tgrelid::regclass)
    from own as o
    inner join pg_trigger as t on t.tgrelid = o.oid and not t.tgisinternal and t.tgparentid = 0
    inner join pg_proc as p on p.oid = t.tgfoid
    left join expected as e on e.kind = 'trigger' and e.relation = o.model and e.name = t.tgname
    where
        e.name is null or p.pronamespace <> 'machserial'::regnamespace or p.proname <> e.function_name
        or t.tgqual is not null and not e.is_conditional
    union all
    select
        'policy', format('policy %I on %s', p.polname, p.polrelid::regclass),
        format('drop policy %I on %s;', p.polname, p.polrelid::regclass)
    from own as o
    inner join pg_policy as p on p.polrelid = o.oid
    left join expected as e on e.kind = 'policy' and e.relation = o.model and e.name = p.polname
    where e.name is null
    union all
    select
        'rule', format('rule %I on %s', r.rulename, r.ev_class::regclass),
        format('drop rule %I on %s;', r.rulename, r.ev_class::regclass)
    from own as o
    inner join pg_rewrite as r on r.ev_class = o.oid and r.rulename <> '_RETURN'
    order by 1, 2;
end
$$;

create function machserial._check_foreign_rules() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    planted record;
    result machserial.health_result;
begin
    select
        count(*) as rules, array_agg(f.description) as descriptions, string_agg(f.remedy, ' ') as remedy,
        coalesce(bool_or(f.kind <> 'trigger'), false) as may_hide
    into planted
    from machserial._foreign_rules() as f;
    result := machserial._checked(
        'foreign_rules', planted.rules,
        coalesce(
            machserial._first_of(planted.descriptions), 'no policy, rule or trigger of others is on our tables'
        ),
        'Find out who made it and why; then, if it is not yours: ' || coalesce(planted.remedy, 'drop it.')
    );
    if planted.may_hide and result.status = 'WARNING' then
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
declare
    owner_of_tables constant name := machserial._owner_of_tables();
begin
    if owner_of_tables is not null then
        return query
        select format(
            'the code belongs to %I, the tables to %I: a superuser has restored them', pg_get_userbyid(p.proowner),
            owner_of_tables
        )
        from pg_proc as p where p.oid = 'machserial.migrate()'::regprocedure;
        return;
    end if;
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
            p.pronamespace = 'machserial'::regnamespace and p.proname::text <> all(array(
                select regexp_split_to_table(s.objects, '[[:space:]]+')
                from machserial._privileges() as s where s.from_role = 'public' and s.kind = 'function'
            ))
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
        coalesce(
            'As a superuser: select machserial.change_owner(' || quote_literal(machserial._owner_of_tables()) || ');',
            'revoke all on ... from public; or: alter ... owner to the owner of machserial; or, for rights of the '
            'roles: select machserial.migrate(). Find out who did it.'
        )
    );
end
$$;
