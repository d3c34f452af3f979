-- Attachments: tables of applications whose inserts are events.

create type machserial.attachment as (
    relation regclass,
    trigger_name text,
    trigger_type text,
    part_column text,
    quantity_column text,
    context_columns text[],
    serial_column text,
    enabled boolean
);

comment on type machserial.attachment is 'A row of machserial.attachments.';

-- What attach() was told: the only argument of the table's own trigger, which is dumped, renamed and dropped
-- together with the table.
create function machserial._attachment_settings(trigger_arguments bytea) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Arguments end with a zero byte each, which no text can hold.
    return convert_from(
        substring(trigger_arguments for length(trigger_arguments) - 1), getdatabaseencoding()
    )::jsonb;
exception when data_exception then
    -- Somebody has made a trigger of this function by hand.
    return null;
end
$$;

create function machserial._columns_of(relation regclass) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select a.attname
        from pg_attribute as a
        where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
        order by a.attnum
    );
end
$$;

-- The columns of the primary key, in its order; empty without one.
create function machserial._key_of(relation regclass) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select a.attname
        from pg_index as i
        cross join lateral unnest(i.indkey) with ordinality as k (attnum, position)
        inner join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indrelid = relation and i.indisprimary
        order by k.position
    );
end
$$;

-- A column's type; for a domain, what it is made of.
create function machserial._type_of(relation regclass, column_name text) returns regtype
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    column_type regtype := (
        select a.atttypid
        from pg_attribute as a
        where a.attrelid = relation and a.attname = column_name and not a.attisdropped
    );
    base_type oid;
begin
    loop
        select t.typbasetype into base_type from pg_type as t where t.oid = column_type;
        exit when coalesce(base_type, 0) = 0;
        column_type := base_type;
    end loop;
    return column_type;
end
$$;

-- Which column gives which key of the context. An element of context_columns is a column, or else key=column.
-- What it says goes before the columns that are taken by their names, and before the primary key.
create function machserial._context_columns(relation regclass, settings jsonb)
returns table (key text, column_name text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known constant text[] := machserial._columns_of(relation);
    primary_key constant text[] := machserial._key_of(relation);
begin
    return query
    select distinct on (c.key) c.key, c.column_name
    from (
        select 1 as preference, e.element as key, e.element as column_name
        from jsonb_array_elements_text(settings -> 'context_columns') as e (element)
        where e.element = any(known) or e.element !~ '='
        union all
        select 1, split_part(e.element, '=', 1), substr(e.element, strpos(e.element, '=') + 1)
        from jsonb_array_elements_text(settings -> 'context_columns') as e (element)
        where e.element <> all(known) and e.element ~ '='
        union all
        select 2, k.name, k.name
        from unnest(known) as k (name)
        where k.name = any(primary_key || '{work_order_id,lot_number,operation_code}'::text[])
        union all
        select 3, 'work_order_id', primary_key[1]
        where settings ->> 'trigger_type' = 'WORK_ORDER_CREATE' and cardinality(primary_key) = 1
    ) as c
    order by c.key, c.preference;
end
$$;

-- Every column that the settings name is there: 22023 when they are given, 55000 when it has gone since.
create function machserial._require_columns(relation regclass, settings jsonb, is_attached boolean)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    known constant text[] := machserial._columns_of(relation);
    missing record;
begin
    select c.argument, c.name into missing
    from (
        select s.key as argument, s.value as name
        from jsonb_each_text(settings) as s
        where s.key in ('part_column', 'quantity_column', 'serial_column')
        union all
        select 'context_columns', k.column_name from machserial._context_columns(relation, settings) as k
    ) as c
    where c.name <> all(known)
    limit 1;
    if missing.name is null then
        return;
    elsif is_attached then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('%s has no column %I any more', relation, missing.name),
            detail = format(
                'Its attachment for %s reads it as %s; it has %s.', settings ->> 'trigger_type',
                missing.argument, array_to_string(known, ', ')
            ),
            hint = format(
                'Attach it anew: machserial.detach(%L, %L), then machserial.attach(..., %s => ...).',
                relation, settings ->> 'trigger_type', missing.argument
            );
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('%s has no column %I', relation, machserial._shown(missing.name)),
        detail = format('%s names it; there are %s.', missing.argument, array_to_string(known, ', ')),
        hint = format('Did you mean %s?', machserial._nearest(missing.name, known));
end
$$;

create function machserial._require_type(
    relation regclass, settings jsonb, argument text, fitting_types regtype[]
)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_type constant regtype := machserial._type_of(relation, settings ->> argument);
begin
    if found_type <> all(fitting_types) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('column %I of %s cannot be the %s', settings ->> argument, relation, argument),
            detail = format('It is of type %s.', found_type),
            hint = format('It may be of type %s.', array_to_string(fitting_types, ', '));
    end if;
end
$$;

-- How a column takes the numbers of its row, and how it looks without any; null: not at all.
create function machserial._serial_column_code(column_type regtype, out written text, out is_empty text)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if column_type in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype) then
        written := 'array_to_string(m.numbers, '', '')';
        is_empty := 'coalesce(n.%I::text, '''') = ''''';
    elsif column_type in ('text[]'::regtype, 'varchar[]'::regtype) then
        written := 'm.numbers';
        is_empty := 'coalesce(cardinality(n.%I), 0) = 0';
    elsif column_type = 'jsonb'::regtype then
        written := 'm.numbers';
        is_empty := 'coalesce(n.%I, ''null'') in (''null'', ''[]'')';
    end if;
end
$$;

create function machserial._require_units(quantity numeric, label text) returns integer
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if quantity between 0 and 1000000 and quantity = trunc(quantity) then
        return quantity;
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('quantity cannot be %s', coalesce(quantity::text, 'null')),
        detail = format('%s: it is a whole number from 0 to 1,000,000.', label),
        hint = 'Correct the quantity, and insert again; 0 makes nothing.';
end
$$;

-- The queries that an attached table's trigger runs. making: lets the triggers of the rows' parts answer the
-- event $1. Gives what serial_column gets, an array of objects with the columns of the primary key and this
-- one, and of all rows what to call them in an error. writing: puts that, its $1, into serial_column; null
-- without one.
create function machserial._attached_queries(
    relation regclass, settings jsonb, out making text, out writing text
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    serial_column constant text := settings ->> 'serial_column';
    serial_code record;
    arriving text;
    context text;
    label text;
    key text := 'null';
    columns text;
    same_row text;
    given text := 'to_jsonb(count(*))';
begin
    arriving := format('from new_rows as n where n.%I is not null', settings ->> 'part_column');
    if serial_column is not null then
        select c.written, c.is_empty into serial_code
        from machserial._serial_column_code(machserial._type_of(relation, serial_column)) as c;
        arriving := arriving || format(' and ' || serial_code.is_empty, serial_column);
        select
            'jsonb_build_object(' || string_agg(format('%L, n.%I', k.name, k.name), ', ') || ')',
            string_agg(format('t.%I = r.%I', k.name, k.name), ' and ')
        into key, same_row
        from unnest(machserial._key_of(relation)) as k (name);
        select string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ') into columns
        from pg_attribute as a
        where a.attrelid = relation and a.attname = any(machserial._key_of(relation) || serial_column);
        given := format(
            'jsonb_agg((w.keys -> m.ordinal - 1) || jsonb_build_object(%L, %s))', serial_column,
            serial_code.written
        );
    end if;
    select string_agg(format(
        'case when n.%I is distinct from null then jsonb_build_object(%L, n.%1$I) else ''{}'' end',
        c.column_name, c.key
    ), ' || ')
    into context
    from machserial._context_columns(relation, settings) as c;
    select
        'concat_ws('', '', ' || string_agg(format('%L || n.%I::text', k.name || ' = ', k.name), ', ') || ')'
    into label
    from unnest(machserial._key_of(relation)) as k (name);
    -- The counters are held for all parts before the first of them is numbered.
    making := format(
        'with arriving as materialized ('
        '    select row_number() over ()::integer as ordinal, n.%I::text collate "C" as part_id, %s as quantity,'
        '        %s as context, concat(''Row '', %s, '' of '', %L) as label, %s as key %s'
        '), '
        'counted as materialized ('
        '    select a.*, machserial._require_units(a.quantity, a.label) as units from arriving as a'
        '    where exists ('
        '        select from machserial.trigger_definitions as d'
        '        where d.part_id = a.part_id and d.trigger_type = $1 and d.enabled'
        '    )'
        '), '
        'held as materialized ('
        '    select machserial._hold_gapless($1, array_agg(c.part_id), array_agg(c.context))'
        '    from counted as c where c.units > 0'
        '), '
        'parts as ('
        '    select c.part_id, array_agg('
        '        (c.ordinal, c.units, c.context, c.label)::machserial._event order by c.ordinal'
        '    ) as events from counted as c cross join held'
        '    where c.units > 0 group by c.part_id order by c.part_id'
        ') '
        'select %s, (select array_agg(c.label order by c.ordinal) from counted as c where c.units > 0)'
        'from ('
        '    select f.ordinal, array_agg(f.serial_number order by f.position) as numbers'
        '    from parts as p'
        '    cross join lateral machserial._fire_each($1, p.part_id, p.events) with ordinality'
        '        as f (ordinal, trigger_id, assignment_type, serial_id, serial_number, placeholder_id, position)'
        '    where f.assignment_type = ''SYSTEM_GENERATED'' group by f.ordinal'
        ') as m '
        'cross join (select jsonb_agg(a.key order by a.ordinal) as keys from arriving as a) as w',
        settings ->> 'part_column', coalesce('n.' || quote_ident(settings ->> 'quantity_column'), '1'),
        coalesce(context, '''{}''::jsonb'), coalesce(label, 'left((n.*)::text, 200)'), relation, key, arriving,
        given
    );
    if serial_column is null then
        return;
    end if;
    writing := format(
        'update %s as t set %I = r.%2$I from jsonb_to_recordset($1) as r (%s) where %s', relation,
        serial_column, columns, same_row
    );
end
$$;

-- An insert into an attached table.
create function machserial._fire_attached() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set jit = off
as $$
declare
    settings constant jsonb := tg_argv[0]::jsonb;
    queries record;
    numbers jsonb;
    labels text[];
    detail text;
    hint text;
    broken_constraint text;
begin
    perform machserial._require_columns(tg_relid, settings, true);
    select q.making, q.writing into queries from machserial._attached_queries(tg_relid, settings) as q;
    execute queries.making into numbers, labels using settings ->> 'trigger_type';
    if queries.writing is not null and numbers is not null then
        begin
            execute queries.writing using numbers;
        exception when others then
            get stacked diagnostics
                detail = pg_exception_detail, hint = pg_exception_hint, broken_constraint = constraint_name;
            perform machserial._raise_about(labels, sqlstate, sqlerrm, detail, coalesce(nullif(hint, ''), format(
                'The numbers are written to %I: it must hold them, and you must be allowed to update it.',
                settings ->> 'serial_column'
            )), broken_constraint);
        end;
    end if;
    return null;
end
$$;

-- The attachment as functions return it; null if there is none.
create function machserial._attachment(relation regclass, trigger_type text) returns machserial.attachment
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    known machserial.attachment;
begin
    select
        a.relation, a.trigger_name, a.trigger_type, a.part_column, a.quantity_column, a.context_columns,
        a.serial_column, a.enabled
    into known
    from machserial.attachments as a
    where a.relation = _attachment.relation and a.trigger_type = _attachment.trigger_type;
    return known;
end
$$;

create function machserial._require_attachable(relation regclass) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    kind text;
begin
    if relation is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'relation is missing',
            detail = 'relation is null.',
            hint = 'Give the table whose inserts are events.';
    end if;
    select case
        when machserial._is_own_table(c.oid) then 'part of machserial itself'
        when c.relkind not in ('r', 'p') then 'no ordinary or partitioned table'
    end
    into kind
    from pg_class as c where c.oid = relation;
    if kind is not null then
        raise exception using
            errcode = 'feature_not_supported',
            message = format('%s cannot be attached', relation),
            detail = format('It is %s.', kind),
            hint = 'Attach the table that the rows come to, or call machserial.fire(...).';
    end if;
end
$$;

-- The columns exist, and their types fit.
create function machserial._require_settings(relation regclass, settings jsonb) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_text('part_column', settings ->> 'part_column');
    perform machserial._require_text('an element of context_columns', c.name)
    from jsonb_array_elements_text(settings -> 'context_columns') as c (name);
    perform machserial._require_columns(relation, settings, false);
    perform machserial._require_type(
        relation, settings, 'part_column', '{text,varchar,bpchar,uuid,smallint,integer,bigint,numeric}'
    );
    perform machserial._require_type(
        relation, settings, 'quantity_column', '{smallint,integer,bigint,numeric}'
    );
    perform machserial._require_type(
        relation, settings, 'serial_column', '{text,varchar,bpchar,text[],varchar[],jsonb}'
    );
    if settings ->> 'serial_column' in (settings ->> 'part_column', settings ->> 'quantity_column')
        or settings ->> 'serial_column' = any(machserial._key_of(relation))
    then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('column %I of %s cannot be the serial_column', settings ->> 'serial_column', relation),
            detail = 'It says what the row is about: its part, its quantity or its key.',
            hint = 'Give a column that is empty until the numbers come.';
    elsif settings ? 'serial_column' and machserial._key_of(relation) = '{}' then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('%s has no primary key: serial_column cannot be written', relation),
            detail = format('%I is written by an update of the new rows.', settings ->> 'serial_column'),
            hint = 'Add a primary key, or leave serial_column out.';
    end if;
end
$$;

-- SECURITY DEFINER: a caller who may attach cannot word the event. The catalog says what is written.
create function machserial._audit_attachment(relation regclass, trigger_type text, is_attached boolean)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    attached constant machserial.attachment := machserial._attachment(relation, trigger_type);
begin
    if attached.relation is not null then
        perform machserial._audit(
            case when is_attached then 'TRIGGER_ATTACHED' else 'TRIGGER_DETACHED' end, null, null,
            jsonb_strip_nulls(to_jsonb(attached))
        );
    end if;
end
$$;

create function machserial.attach(
    relation regclass, trigger_type text, part_column text, quantity_column text default null,
    context_columns text[] default null, serial_column text default null
)
returns machserial.attachment
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    event constant text := machserial._require_trigger_type(trigger_type);
    settings constant jsonb := jsonb_strip_nulls(jsonb_build_object(
        'trigger_type', event, 'part_column', part_column, 'quantity_column', quantity_column,
        'context_columns', to_jsonb(context_columns), 'serial_column', serial_column
    ));
    attached machserial.attachment;
begin
    perform machserial._require_attachable(relation);
    perform machserial._require_settings(relation, settings);
    -- The lock that the trigger needs anyway. A session that attaches the same table comes before or after.
    execute format('lock table %s in share row exclusive mode', relation);
    attached := machserial._attachment(relation, event);
    if attached.relation is not null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('%s is attached for %s already', relation, event),
            detail = format('Its trigger is %I.', attached.trigger_name),
            hint = format('To attach it in another way, first machserial.detach(%L, %L).', relation, event);
    end if;
    execute format(
        'create trigger %I after insert on %s referencing new table as new_rows '
        'for each statement execute function machserial._fire_attached(%L)',
        'machserial_' || lower(event collate "C"), relation, settings
    );
    attached := machserial._attachment(relation, event);
    perform machserial._audit_attachment(relation, event, true);
    return attached;
end
$$;

comment on function machserial.attach(regclass, text, text, text, text[], text) is
'From now on an insert into an application''s table is an event: it fires the triggers of the rows'' parts, in
one go and in the application''s transaction. Rows of parts that have no trigger of this type pass.
relation: an ordinary or partitioned table (then: what is inserted through it). trigger_type: as in
create_trigger(). part_column: the part''s id. quantity_column: how many units a row is, 0 for none; null:
one. context_columns: what goes into the context, each a column, or key=column to give it another key
(site_id=plant: numbers of that site). The primary key and columns called work_order_id, lot_number and
operation_code are in it anyway, what is null is not; for WORK_ORDER_CREATE a primary key of one column is
the work_order_id, unless there is another. Executions are counted by rows.
serial_column: the column that gets the generated numbers, by an update of the new rows, which whoever
inserts must be allowed to do: text, varchar and char get them joined by a comma and a space, text[] and
varchar[] an array, jsonb an array. A row that comes with a value there is numbered already: it keeps it and
is no event.
An error names the row, and nothing of the insert is kept. The user who inserts needs the rights to do by
functions what the triggers do. Returns the attachment.
Errors: 22023 a bad argument, a column that does not exist or fit; 0A000 no table; 42501 not your table;
55000 attached already, no primary key for serial_column.';

create function machserial.detach(relation regclass, trigger_type text) returns machserial.attachment
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    event constant text := machserial._require_trigger_type(trigger_type);
    attached machserial.attachment := machserial._attachment(relation, event);
begin
    if attached.relation is not null then
        -- Dropping the trigger takes this lock anyway. A session that waited for it looks again.
        execute format('lock table %s in access exclusive mode', relation);
        attached := machserial._attachment(relation, event);
    end if;
    if attached.relation is null then
        raise exception using
            errcode = 'no_data_found',
            message = format('%s is not attached for %s', coalesce(relation::text, 'null'), event),
            detail = 'machserial.attachments has no such row.',
            hint = 'See select relation, trigger_type from machserial.attachments.';
    end if;
    perform machserial._audit_attachment(relation, event, false);
    execute format('drop trigger %I on %s', attached.trigger_name, relation);
    return attached;
end
$$;

comment on function machserial.detach(regclass, text) is
'An insert into the table is no longer an event of this type; what it has made stays. Returns the attachment
as it was. Errors: 22023 no such trigger_type; 42501 not your table; P0002 not attached.';
