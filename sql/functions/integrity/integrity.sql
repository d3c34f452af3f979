-- Whether what is on record agrees with itself, and whether everything that sees to it is in place. Rules
-- stand on the tables: so what is found here was done with triggers off, by a superuser, or by a broken disk.

-- The parts of integrity(): _faults_of_<part>() has the findings of each.
create function machserial._integrity_parts() returns table (name text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select substr(p.proname, length('_faults_of_') + 1)
    from pg_proc as p
    where
        p.pronamespace = 'machserial'::regnamespace and p.proname like '@_faults@_of@_%' escape '@'
        and p.prorettype = 'machserial.integrity_finding'::regtype
        -- What somebody else put there would run with the owner's rights.
        and p.proowner = (
            select o.proowner from pg_proc as o where o.oid = 'machserial.integrity(text)'::regprocedure
        )
    order by 1;
end
$$;

-- The findings of a part. One that fails keeps no other from being examined, and is a finding itself.
create function machserial._examined(part text) returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query execute format('select f.* from machserial.%I() as f', '_faults_of_' || part);
exception when others then
    return query
    select
        'not_examined', 'UNKNOWN', format('part %s', part), format('not examined: %s', sqlerrm),
        format('See what fails: select * from machserial.%I();', '_faults_of_' || part);
end
$$;

-- The part that is wanted, of null all; 22023 if there is no such part.
create function machserial._wanted_parts(part text) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    parts constant text[] := array(select p.name from machserial._integrity_parts() as p order by p.name);
begin
    if part is null then
        return parts;
    elsif part = any(parts) then
        return array[part];
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('integrity() has no part %L', machserial._shown(part)),
        detail = format('It has %s parts.', cardinality(parts)),
        hint = format('Give one of %s; or none, for all of them.', array_to_string(parts, ', '));
end
$$;

-- "only" in quotes: PostgreSQL reserves the word.
create function machserial.integrity("only" text default null)
returns table (name text, severity text, object text, message text, remedy text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    most constant integer := 100;
    parts constant text[] := machserial._wanted_parts(integrity."only");
begin
    perform machserial._require_administrator('machserial.integrity()');
    perform machserial._require_sight_of_all();
    return query
    with found as materialized (
        select f.* from unnest(parts) as p (name) cross join lateral machserial._examined(p.name) as f
        union all
        select f.* from machserial._find_standby() as f
    ),

    numbered as (
        select
            f.*, row_number() over (partition by f.name) as number,
            count(*) over (partition by f.name) as total
        from found as f
    )

    select
        n.name, n.severity,
        case when n.number <= most then n.object else 'others' end,
        case when n.number <= most then n.message else format('%s more of these', n.total - most) end,
        case when n.number <= most then n.remedy else 'Mend those above, and look again.' end
    from numbered as n
    where n.number <= most + 1
    order by n.severity, n.name, n.number;
end
$$;

comment on function machserial.integrity(text) is
'Whether what is on record agrees with itself and everything that sees to it is in place: one row per fault,
none if all is sound. severity: CRITICAL, WARNING where nothing is wrong yet, or UNKNOWN for what could not be
examined. Of one kind of fault (name) at most a hundred are told, and how many more there are. remedy: what
mends it, for the owner; ... is for you to fill in. Reads every table once, and keeps nobody waiting. The one
argument, "only", names a part, where there is no time for all of it: integrity(''claims''). A wrong one is
answered by the list of them.
Errors: 22023 no such part; 42501 row-level security hides rows from you.';
