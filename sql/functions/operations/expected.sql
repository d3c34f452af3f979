-- What migrations and views have made, read from their own sources: so that what is missing can be told, and
-- made again as it was.

-- The statements of the migrations that have run, and of the views, in their order, without comments.
create function machserial._statements() returns table (place bigint, statement text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        row_number() over (order by m.is_view, m.number, s.number),
        btrim(s.text, ' ;' || chr(10))
    from (
        select v.version as number, v.source, false as is_view
        from machserial._migrations() as v
        where v.version in (select a.version from machserial._applied_migrations() as a)
        union all
        select w.ordinal, w.source, true from machserial._views() as w
    ) as m
    cross join lateral regexp_split_to_table(
        regexp_replace(m.source, '--[^' || chr(10) || ']*', '', 'g'), ';[[:space:]]*' || chr(10)
    ) with ordinality as s (text, number);
end
$$;

-- What each statement makes or takes away.
create function machserial._statement_effects()
returns table (place bigint, kind text, relation text, name text, is_made boolean, statement text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with statements as materialized (select s.* from machserial._statements() as s),

    tables as materialized (
        select
            s.place, s.statement,
            substring(s.statement from '^create table machserial[.]([a-z0-9_]+)') as relation
        from statements as s
        where s.statement ~ '^create table machserial[.]'
    )

    select s.place, 'index', m.found[3], m.found[2], true, s.statement
    from statements as s
    cross join lateral regexp_match(
        s.statement, '^create (unique )?index ([a-z0-9_]+)[[:space:]]+on machserial[.]([a-z0-9_]+)'
    ) as m (found)
    where m.found is not null
    union all
    select s.place, 'trigger', m.found[4], m.found[3], true, s.statement
    from statements as s
    cross join lateral regexp_match(
        s.statement,
        '^create (or replace )?(constraint )?trigger ([a-z0-9_]+)[^(]*[[:space:]]on machserial[.]([a-z0-9_]+)'
    ) as m (found)
    where m.found is not null
    union all
    select t.place, 'constraint', t.relation, m.found[1], true, t.statement
    from tables as t
    cross join lateral regexp_matches(t.statement, '[[:space:]]constraint ([a-z0-9_]+)', 'g') as m (found)
    union all
    select t.place, 'constraint', t.relation, t.relation || '_pkey', true, t.statement
    from tables as t
    where t.statement ~ '[[:space:]]primary key' and t.statement !~ 'constraint [a-z0-9_]+ primary key'
    union all
    select t.place, 'constraint', t.relation, concat(t.relation, '_', m.found[1], '_fkey'), true, t.statement
    from tables as t
    cross join lateral regexp_matches(
        t.statement, '^ {4}([a-z0-9_]+) [^(]*[[:space:]]references[[:space:]]', 'gn'
    ) as m (found)
    where m.found[1] <> 'constraint'
    union all
    select s.place, 'constraint', m.found[1], m.found[2], true, s.statement
    from statements as s
    cross join lateral regexp_match(
        s.statement, '^alter table machserial[.]([a-z0-9_]+)[[:space:]]+add constraint ([a-z0-9_]+)'
    ) as m (found)
    where m.found is not null
    union all
    select s.place, 'constraint', m.found[1], m.found[2], false, s.statement
    from statements as s
    cross join lateral regexp_match(
        s.statement, '^alter table machserial[.]([a-z0-9_]+)[[:space:]]+drop constraint ([a-z0-9_]+)'
    ) as m (found)
    where m.found is not null
    union all
    select s.place, 'policy', m.found[2], m.found[1], true, s.statement
    from statements as s
    cross join lateral regexp_match(
        s.statement, '^create policy ([a-z0-9_]+)[[:space:]]+on machserial[.]([a-z0-9_]+)'
    ) as m (found)
    where m.found is not null
    union all
    select s.place, 'policy', m.found[2], m.found[1], false, s.statement
    from statements as s
    cross join lateral regexp_match(
        s.statement, '^drop policy ([a-z0-9_]+)[[:space:]]+on machserial[.]([a-z0-9_]+)'
    ) as m (found)
    where m.found is not null
    union all
    select s.place, 'row security', m.found[1], m.found[1], m.found[2] = 'enable', s.statement
    from statements as s
    cross join lateral regexp_match(
        s.statement, '^alter table machserial[.]([a-z0-9_]+)[[:space:]]+(enable|disable) row level security'
    ) as m (found)
    where m.found is not null
    union all
    select s.place, 'trigger', m.found[2], m.found[1], false, s.statement
    from statements as s
    cross join lateral regexp_match(
        s.statement, '^drop trigger ([a-z0-9_]+)[[:space:]]+on machserial[.]([a-z0-9_]+)'
    ) as m (found)
    where m.found is not null
    union all
    select s.place, 'index', null, m.found[1], false, s.statement
    from statements as s
    cross join lateral regexp_match(s.statement, '^drop index machserial[.]([a-z0-9_]+)') as m (found)
    where m.found is not null;
end
$$;

-- What should be there. kind: index, trigger, constraint, policy or row security; statement: what made it.
create function machserial._expected_objects()
returns table (kind text, relation text, name text, statement text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select e.kind, e.relation, e.name, e.statement
    from (
        -- Names of indexes are unique in the schema; those of the others in their table.
        select distinct on (f.kind, case f.kind when 'index' then null else f.relation end, f.name) f.*
        from machserial._statement_effects() as f
        order by
            f.kind, case f.kind when 'index' then null else f.relation end, f.name, f.place desc
    ) as e
    where e.is_made;
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

-- Indexes that should be there and are not, or are there and hold no good. remedy: what mends it, to be run
-- outside of a transaction; of an index of the partitioned trail, a statement for each partition comes first.
create function machserial._index_problems()
returns table (relation text, name text, problem text, remedy text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    with expected as materialized (
        select e.* from machserial._expected_objects() as e where e.kind = 'index'
    ),

    missing as (
        select e.* from expected as e
        where to_regclass(format('machserial.%I', e.name)) is null
    )

    select
        m.relation, m.name, 'missing',
        case
            when c.relkind = 'p' then m.statement
            else overlay(
                m.statement placing ' index concurrently ' from strpos(m.statement, ' index ') for 7
            )
        end
    from missing as m
    inner join pg_class as c on c.oid = to_regclass(format('machserial.%I', m.relation))
    union all
    select
        r.relation, x.relname::text, 'invalid',
        case
            -- What a REINDEX CONCURRENTLY that failed has left.
            when x.relname ~ '_cc(new|old)[0-9]*$'
                then format('drop index concurrently machserial.%I', x.relname)
            -- PostgreSQL cannot do it concurrently for these.
            when i.indisexclusion then format('reindex index machserial.%I', x.relname)
            else format('reindex index concurrently machserial.%I', x.relname)
        end
    from machserial._own_relations() as r
    inner join pg_index as i on i.indrelid = r.oid
    inner join pg_class as x on x.oid = i.indexrelid
    where
        not (i.indisvalid and i.indisready and i.indislive)
        -- The index of a partitioned table is made valid by those of its partitions.
        and x.relkind = 'i';
end
$$;
