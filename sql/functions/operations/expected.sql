-- What migrations and views have made, read from their own sources: so that what is missing can be told, and
-- made again as it was.

-- The statements of the migrations that have run, and of the views, in their order, without comments.
-- of_all: of those that have not run as well.
create function machserial._statements(of_all boolean default false)
returns table (place bigint, statement text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        row_number() over (order by m.is_view, m.number, s.number),
        s.trimmed
    from (
        select v.version as number, v.source, false as is_view
        from machserial._migrations() as v
        where of_all or v.version in (select a.version from machserial._applied_migrations() as a)
        union all
        select 0, machserial._migration_record(), false
        where to_regclass('machserial.schema_migrations') is not null
        union all
        select w.ordinal, w.source, true from machserial._views() as w
    ) as m
    cross join lateral (
        select btrim(t.text, ' ;' || chr(10)) as trimmed, t.number
        from regexp_split_to_table(
            regexp_replace(m.source, '--[^' || chr(10) || ']*', '', 'g'), ';[[:space:]]*' || chr(10)
        ) with ordinality as t (text, number)
    ) as s
    where s.trimmed not like 'comment on %';
end
$$;

-- What CREATE TABLE lists in its brackets, and what ALTER TABLE adds: columns and constraints, as they are
-- written.
create function machserial._table_items(statement text) returns setof text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select regexp_replace(btrim(i.item, ' ' || chr(10)), '^add (column )?', '')
    from regexp_split_to_table(
        coalesce(
            substring(
                statement from '^create [a-z ]*table [^(]*[(]' || chr(10) || '(.*)' || chr(10) || '[)]'
            ),
            substring(statement from '^alter table [^ ]+[[:space:]]+(add .*)$')
        ),
        -- An item begins a line, four blanks in.
        ',[[:space:]]*' || chr(10) || ' {4}(?=[a-z])'
    ) as i (item);
end
$$;

-- What a column as it is written brings along: itself, what it must be, its default, its constraints.
create function machserial._column_effects(relation text, item text)
returns table (kind text, name text, statement text)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    column_name constant text := split_part(item, ' ', 1);
    words constant text := translate(item, chr(10), ' ');
    -- They stand last, in this order.
    place_of_default constant integer := strpos(words, ' default ');
    place_of_reference constant integer := strpos(words, ' references ');
    default_value constant text := substr(
        case when place_of_reference > 0 then left(item, place_of_reference) else item end, place_of_default
    );
    alter_column constant text := format('alter table machserial.%I alter column %I', relation, column_name);
    add_constraint constant text := format('alter table machserial.%I add constraint %s', relation, relation);
begin
    return query values ('column', column_name, null);
    if words like '% not null%' or words like '% primary key%' then
        return query values ('not null', column_name, alter_column || ' set not null');
    end if;
    if place_of_default > 0 then
        return query values (
            'default', column_name, format('%s set %s', alter_column, btrim(default_value))
        );
    end if;
    if words like '% primary key%' then
        return query values (
            'constraint', relation || '_pkey', format('%s_pkey primary key (%I)', add_constraint, column_name)
        );
    end if;
    if place_of_reference > 0 then
        return query values (
            'constraint', format('%s_%s_fkey', relation, column_name),
            format(
                '%s_%s_fkey foreign key (%I) %s', add_constraint, column_name, column_name,
                btrim(substr(item, place_of_reference))
            )
        );
    end if;
end
$$;

-- What each statement makes or takes away.
create function machserial._statement_effects()
returns table (place bigint, kind text, relation text, name text, is_made boolean, statement text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set jit = off
as $$
begin
    return query
    with statements as materialized (select s.* from machserial._statements() as s),

    tables as materialized (
        select
            s.place, s.statement, s.statement like 'create %' as is_new,
            substring(
                s.statement from '^(?:create [a-z ]*table|alter table) machserial[.]([a-z0-9_]+)'
            ) as relation
        from statements as s
        where s.statement ~ '^(create [a-z ]*table |alter table [^ ]+[[:space:]]+add )'
    ),

    items as materialized (
        select t.place, t.relation, i.item
        from tables as t
        cross join lateral machserial._table_items(t.statement) as i (item)
    ),

    -- Where in a statement the names stand.
    forms (kind, is_made, begins, pattern, relation_at, name_at) as (
        values
        ('index', true, 'create %', '^create (?:unique )?index <name> on machserial[.]<name>', 2, 1),
        ('index', false, 'drop index %', '^drop index machserial[.]<name>', 0, 1),
        (
            'trigger', true, 'create %',
            '^create (?:or replace )?(?:constraint )?trigger <name>[^(]* on machserial[.]<name>', 2, 1
        ),
        ('trigger', false, 'drop trigger %', '^drop trigger <name> on machserial[.]<name>', 2, 1),
        (
            'constraint', false, 'alter table %', '^alter table machserial[.]<name> drop constraint <name>', 1, 2
        ),
        ('policy', true, 'create policy %', '^create policy <name> on machserial[.]<name>', 2, 1),
        ('policy', false, 'drop policy %', '^drop policy <name> on machserial[.]<name>', 2, 1),
        (
            'row security', true, 'alter table %',
            '^alter table machserial[.]<name> enable row level security', 1, 1
        ),
        (
            'row security', false, 'alter table %',
            '^alter table machserial[.]<name> disable row level security', 1, 1
        )
    )

    select t.place, 'table', t.relation, t.relation, true, t.statement from tables as t where t.is_new
    union all
    select i.place, c.kind, i.relation, c.name, true, c.statement
    from items as i
    cross join lateral machserial._column_effects(i.relation, i.item) as c
    where i.item !~ '^constraint '
    union all
    select
        i.place, 'constraint', i.relation, substring(i.item from '^constraint ([a-z0-9_]+)'), true,
        format('alter table machserial.%I add %s', i.relation, i.item)
    from items as i
    where i.item ~ '^constraint '
    union all
    select s.place, f.kind, m.found[f.relation_at], m.found[f.name_at], f.is_made, s.statement
    from forms as f
    inner join statements as s on s.statement like f.begins
    cross join lateral regexp_match(
        s.statement, replace(replace(f.pattern, '<name>', '([a-z0-9_]+)'), ' ', '[[:space:]]+')
    ) as m (found)
    where m.found is not null;
end
$$;

-- What should be there. kind: table, column, not null, default, constraint, index, trigger, policy or row
-- security; statement: what makes it.
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

-- What should be there and is not. kind: as in _expected_objects(), or view; statement: what makes it again;
-- null where rows or values are lost with it.
create function machserial._missing_objects()
returns table (kind text, relation text, name text, statement text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- Planned without knowing how little there is of it.
set enable_nestloop = off
set jit = off
as $$
#variable_conflict use_column
begin
    return query
    with expected as materialized (
        select e.*, to_regclass(format('machserial.%I', e.relation)) as oid
        from machserial._expected_objects() as e
    ),

    columns as materialized (
        select e.relation, e.name, a.attnotnull, a.atthasdef, a.attnum is not null as is_there
        from expected as e
        left join pg_attribute as a on a.attrelid = e.oid and a.attname = e.name and not a.attisdropped
        where e.kind = 'column' and e.oid is not null
    )

    select e.kind, e.relation, e.name, null from expected as e where e.kind = 'table' and e.oid is null
    union all
    select 'column', c.relation, c.name, null from columns as c where not c.is_there
    union all
    select e.kind, e.relation, e.name, e.statement
    from expected as e
    inner join columns as c on c.relation = e.relation and c.name = e.name
    where
        c.is_there
        and (e.kind = 'not null' and not c.attnotnull or e.kind = 'default' and not c.atthasdef)
    union all
    select e.kind, e.relation, e.name, e.statement
    from expected as e
    where
        e.kind = 'constraint' and e.oid is not null
        and not exists (select from pg_constraint as k where k.conrelid = e.oid and k.conname = e.name)
    union all
    select e.kind, e.relation, e.name, e.statement
    from expected as e
    where e.kind = 'index' and e.oid is not null and to_regclass(format('machserial.%I', e.name)) is null
    union all
    select 'view', v.name, v.name, v.source
    from machserial._views() as v
    where
        v.source like '%create or replace view machserial.%'
        and to_regclass(format('machserial.%I', v.name)) is null
        and exists (select from machserial._applied_migrations() as a)
    union all
    select e.kind, e.relation, e.name, e.statement
    from expected as e
    where
        e.kind = 'trigger' and e.oid is not null
        and not exists (select from pg_trigger as t where t.tgrelid = e.oid and t.tgname = e.name)
    union all
    select
        'trigger', r.relation, e.name,
        replace(e.statement, ' on machserial.audit_events', format(' on %s', r.oid::regclass))
    from expected as e
    inner join machserial._own_relations() as r on r.is_partition
    where
        e.kind = 'trigger' and e.relation = 'audit_events'
        and not exists (select from pg_trigger as t where t.tgrelid = r.oid and t.tgname = e.name)
    union all
    select
        e.kind, e.relation, e.name,
        format('drop policy if exists %I on machserial.%I; %s', e.name, e.relation, e.statement)
    from expected as e
    where
        e.kind = 'policy' and e.oid is not null and not exists (
            select from pg_policy as p
            where
                p.polrelid = e.oid and p.polname = e.name
                and p.polpermissive = (e.statement !~ '[[:space:]]as restrictive[[:space:]]')
                and p.polcmd = case when e.statement ~ '[[:space:]]for insert[[:space:]]' then 'a' else '*' end
                and p.polroles = '{0}'::oid[]
        )
    union all
    select
        'row security', r.relation, r.relation,
        format('alter table machserial.%I enable row level security', r.relation)
    from machserial._own_relations() as r
    inner join pg_class as c on c.oid = r.oid
    where
        not c.relrowsecurity
        and (r.is_partition or r.relation in (select e.relation from expected as e where e.kind = 'row security'));
end
$$;

-- Triggers that are there and do not fire. Those that refuse new numbers wait for a pause. shown: the name
-- for people; name: the one to enable it by.
create function machserial._disabled_triggers()
returns table (relation text, name text, shown text, state text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        r.relation, t.tgname::text,
        case when t.tgisinternal then format('the check of %s', k.conname) else format('trigger %s', t.tgname) end,
        case t.tgenabled when 'R' then 'enabled for replicas only' else 'disabled' end
    from machserial._own_relations() as r
    inner join pg_trigger as t on t.tgrelid = r.oid
    left join pg_constraint as k on k.oid = t.tgconstraint
    where
        t.tgenabled in ('D', 'R')
        and (
            t.tgfoid <> to_regproc('machserial._refuse_while_paused')
            or machserial._is_paused()
        );
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
    select
        m.relation, m.name, 'missing',
        case
            when c.relkind = 'p' then m.statement
            else overlay(
                m.statement placing ' index concurrently ' from strpos(m.statement, ' index ') for 7
            )
        end
    from machserial._missing_objects() as m
    inner join pg_class as c on c.oid = to_regclass(format('machserial.%I', m.relation))
    where m.kind = 'index'
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

-- Rows of ours, by table.
create function machserial._tables_with_rows() returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    own record;
    has_rows boolean;
    found text[] := '{}'::text[];
begin
    for own in select r.* from machserial._own_relations() as r where not r.is_partition order by r.relation loop
        execute format('select exists (select from machserial.%I)', own.relation) into has_rows;
        if has_rows then
            found := found || own.relation;
        end if;
    end loop;
    return found;
end
$$;

-- The statements by which migrations put in the first rows, and into which table, where that can be told.
create function machserial._first_rows() returns table (place bigint, relation text, statement text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select s.place, substring(s.statement from '^insert into machserial[.]([a-z0-9_]+)'), s.statement
    from machserial._statements(true) as s
    where s.statement ~ '^(insert into|select) machserial[.]';
end
$$;

-- Tables that are there, and whose migrations are not on record: a copy of the schema alone has no records.
create function machserial._unrecorded_tables() returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select m.found[1]
        from machserial.pending_migrations() as p
        cross join lateral regexp_matches(p.source, '^create [a-z ]*table machserial[.]([a-z0-9_]+)', 'gn') as m (found)
        where to_regclass('machserial.' || m.found[1]) is not null
        order by p.version, 1
    );
end
$$;

-- What to do about pending migrations.
create function machserial._remedy_for_pending() returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return format('select machserial.%I();', case
        when cardinality(machserial._unrecorded_tables()) > 0
            and not exists (select from machserial._applied_migrations() as a)
            then 'adopt_schema'
        else 'migrate'
    end);
end
$$;

-- What made the tables must be on record, or it would be run over them.
create function machserial._require_records() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    there constant text[] := machserial._unrecorded_tables();
    pending text[];
    filled text[];
begin
    if cardinality(there) = 0 then
        return;
    end if;
    pending := array(select format('%s %s', p.version, p.name) from machserial.pending_migrations() as p);
    filled := machserial._tables_with_rows();
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = case
            when filled = '{}'::text[] then 'this is a copy of the schema of machserial without any row'
            else 'tables of machserial are here, and the migrations that made them are not on record'
        end,
        detail = format(
            'Missing are the rows of machserial.schema_migrations for %s%s. There already: table %s.',
            machserial._first_of(pending),
            ', and what migrations put into ' || nullif(array_to_string(array(
                select distinct case s.relation when 'sites' then 'sites (DEFAULT)' else s.relation end as name
                from machserial._first_rows() as s
                where s.relation <> all(filled)
                order by name
            ), ', '), ''),
            machserial._first_of(there)
        ),
        hint = case
            when filled = '{}'::text[] then 'To use the copy by itself, call adopt_schema(); '
                'to have the rows as well, restore a whole dump, with data, into an empty database.'
            else 'Restore the rows of machserial.schema_migrations from a backup, or a whole dump into an empty '
                'database. If it is a copy of the schema, make it anew, and call adopt_schema() before '
                'anything is written to it.'
        end;
end
$$;

-- What no statement brings back must be there.
create function machserial._require_tables() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    lost constant text[] := array(
        select concat_ws(' ', m.kind, m.name, case m.kind when 'column' then format('of %s', m.relation) end)
        from machserial._missing_objects() as m
        where m.statement is null
    );
begin
    if cardinality(lost) > 0 then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'tables or columns of machserial are missing, and their rows with them',
            detail = machserial._first_of(lost) || '.',
            hint = 'Restore them from a backup; docs/recovery.md says how.';
    end if;
end
$$;

-- Makes again what should be there, after drop extension ... cascade, say. Returns what that was.
-- kinds: only of these; null: of all.
create function machserial._make_missing(kinds text[] default null) returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    missing record;
    made text[] := '{}'::text[];
    impossible text[] := '{}'::text[];
begin
    for missing in
        select m.statement, format('%s %s on %s', m.kind, m.name, m.relation) as name
        from machserial._missing_objects() as m
        where m.statement is not null and (kinds is null or m.kind = any(kinds))
        order by
            array_position(
                '{view,not null,default,constraint,index,trigger,policy,row security}'::text[], m.kind
            ),
            -- Keys before what refers to them.
            m.statement ~ '[[:space:]]foreign key[[:space:]]', m.relation, m.name
    loop
        begin
            execute missing.statement;
            made := made || missing.name;
        exception when integrity_constraint_violation or insufficient_privilege then
            impossible := impossible || format('%s: %s', missing.name, sqlerrm);
        end;
    end loop;
    if cardinality(impossible) > 0 then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format(
                'machserial lacks %s of its rules, and %s of them cannot be made again',
                cardinality(made) + cardinality(impossible), cardinality(impossible)
            ),
            detail = machserial._first_of(impossible) || '.',
            hint = 'Rows broke the rule while it was missing: integrity() names them. '
                'Correct them, then call migrate() again.';
    end if;
    return made;
end
$$;

-- The functions of formats, which went with the code.
create function machserial._make_missing_renderers() returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    missing record;
    made text[] := '{}'::text[];
begin
    for missing in
        select f.id, f.pattern, f.letter_case
        from machserial.serial_formats as f
        where not exists (
            select from pg_proc as p
            where p.pronamespace = 'machserial'::regnamespace and p.proname = '_render_' || f.id
        )
        order by f.id
    loop
        perform machserial._create_renderer(
            missing.id, machserial._compile_pattern(missing.pattern, missing.letter_case)
        );
        made := made || format('function _render_%s', missing.id);
    end loop;
    return made;
end
$$;

-- The marks of limited roles, which went with the type.
create function machserial._limit_again() returns text[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    missing record;
    made text[] := '{}'::text[];
begin
    for missing in select u.role from machserial._unlimited_roles() as u loop
        execute format('grant usage on type machserial.limited_to_sites to %s', missing.role);
        made := made || format('limits of role %s', missing.role);
    end loop;
    if cardinality(made) > 0 then
        perform machserial._forget_plans();
    end if;
    return made;
end
$$;

-- That rules were missing is put on record, and said.
create function machserial._tell_made_again(made text[], hint text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if cardinality(made) = 0 then
        return;
    end if;
    perform machserial._audit('SCHEMA_MENDED', null, null, jsonb_build_object('made_again', made));
    raise warning using
        message = format('%s rules of machserial were missing and have been made again', cardinality(made)),
        detail = machserial._first_of(made) || '.',
        hint = hint;
end
$$;

-- Whatever is missing is made again.
create function machserial._mend_schema() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    made constant text[] := machserial._make_missing() || machserial._make_missing_renderers()
        || machserial._limit_again();
    unattached constant text[] := array(
        select f.remedy from machserial._faults_of_attachments() as f where f.name = 'attachment_missing'
    );
begin
    perform machserial._put_pause_triggers_right();
    perform machserial._tell_made_again(
        made, 'What was written meanwhile may have broken them: see integrity().'
    );
    if cardinality(unattached) > 0 then
        raise warning using
            message = 'tables that were attached have lost their triggers: inserts there are no events',
            detail = machserial._first_of(unattached),
            hint = 'Attach them again, as their owner.';
    end if;
end
$$;

-- A trigger that attach() has made and that was dropped or switched off without detach().
create function machserial._faults_of_attachments() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'attachment_disabled', 'WARNING', format('table %s', a.relation),
        format('inserts into %s are no events: its trigger %s is disabled', a.relation, a.trigger_name),
        format('alter table %s enable trigger %I;', a.relation, a.trigger_name)
    from machserial.attachments as a
    where not a.enabled
    order by a.relation::text;

    return query
    select
        'attachment_missing', 'WARNING', format('table %s', to_regclass(e.relation)),
        format(
            'inserts into %s are no events (%s): its trigger was dropped without detach()',
            to_regclass(e.relation), e.trigger_type
        ),
        format(
            'select machserial.attach(%L, %L, part_column => %L%s%s%s);', e.relation, e.trigger_type,
            e.details ->> 'part_column',
            ', quantity_column => ' || quote_literal(e.details ->> 'quantity_column'),
            ', context_columns => ' || quote_literal(nullif(array(
                select jsonb_array_elements_text(e.details -> 'context_columns')
            )::text, '{}')),
            ', serial_column => ' || quote_literal(e.details ->> 'serial_column')
        )
    from (
        select distinct on (v.details ->> 'relation', v.details ->> 'trigger_type')
            v.event_type, v.details, v.details ->> 'relation' as relation,
            v.details ->> 'trigger_type' as trigger_type
        from machserial.audit_events as v
        where v.event_type in ('TRIGGER_ATTACHED', 'TRIGGER_DETACHED')
        order by v.details ->> 'relation', v.details ->> 'trigger_type', v.performed_at desc, v.id desc
    ) as e
    where
        e.event_type = 'TRIGGER_ATTACHED' and to_regclass(e.relation) is not null
        and not exists (
            select from machserial.attachments as a
            where a.relation = to_regclass(e.relation) and a.trigger_type = e.trigger_type
        )
    order by e.relation, e.trigger_type;
end
$$;
