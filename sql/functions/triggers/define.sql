-- Triggers: what happens to which part at which event, and how often it has.

create type machserial.serial_assignment_trigger as (
    id bigint,
    part_id text,
    trigger_type text,
    assignment_type text,
    format text,
    operation_code text,
    conditions jsonb,
    batch_size integer,
    enabled boolean,
    disabled_at timestamptz,
    disabled_by text,
    created_at timestamptz,
    created_by text,
    updated_at timestamptz,
    updated_by text,
    execution_count bigint,
    last_executed_at timestamptz
);

comment on type machserial.serial_assignment_trigger is 'A row of machserial.serial_assignment_triggers.';

create function machserial._require_assignment_type(assignment_type text) returns text
language sql immutable parallel safe
return machserial._require_one_of(
    'assignment_type', assignment_type, '{SYSTEM_GENERATED,VENDOR,LATE_ASSIGNMENT}'
);

create function machserial._require_batch_size(batch_size integer) returns integer
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if batch_size between 1 and 1000000 then
        return batch_size;
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('batch_size cannot be %s', coalesce(batch_size::text, 'null')),
        detail = 'It is 1 to 1,000,000.',
        hint = 'It is how many a trigger makes for each unit of an event; leave it out for one.';
end
$$;

-- An object, or a JSONPath as a JSON string, which must not ask for variables: there are none. Nor may it
-- keep who fires waiting: each .** within another goes through everything once more for everything.
create function machserial._require_conditions(conditions jsonb) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    path text;
    complaint text;
begin
    if jsonb_typeof(conditions) = 'object' then
        return;
    elsif jsonb_typeof(conditions) = 'string' then
        path := conditions #>> '{}';
        -- In its strings a backslash is written twice.
        if length(path) > 1000 or strpos(path, 'like_regex') > 0
            and machserial._refers_back(replace(path, repeat(chr(92), 2), chr(92)))
            or cardinality(string_to_array(path, '**')) > 2
        then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format(
                    'the condition %s might never be answered', machserial._shown(conditions::text)
                ),
                detail = 'It has more than 1000 characters, more than one .** or a back reference.',
                hint = 'Say where in the context it is to look, as in "$.quantity > 5".';
        end if;
        perform jsonb_path_query_first('{}', path::jsonpath, '{}', true);
        return;
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = 'conditions are neither an object nor a JSONPath',
        detail = format('They are %s.', coalesce(machserial._shown(conditions::text), 'null')),
        hint = 'Give an object that the context must contain, such as {"line": "2"}, or a JSONPath predicate '
            'as a JSON string, such as "$.quantity > 5".';
exception when syntax_error or undefined_object or invalid_text_representation then
    get stacked diagnostics complaint = message_text;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('the condition %s is not a JSONPath', machserial._shown(conditions::text)),
        detail = complaint,
        hint = 'Give a predicate as a JSON string, such as "$.quantity > 5" or "$.line like_regex \"^A\"".';
end
$$;

create function machserial._raise_unchangeable_trigger(trigger_id bigint, changes jsonb) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('trigger %s cannot be changed in this way', trigger_id),
        detail = format('The change says %s.', machserial._shown(changes::text)),
        hint = 'Its id stays, last_executed_at tells when it fired, and execution_count is 0 or more.';
end
$$;

-- Whatever writes a trigger, it is examined on its way in; and who changed what when.
create function machserial._examine_trigger() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    actor constant text := machserial._actor();
begin
    new.trigger_type := machserial._require_trigger_type(new.trigger_type);
    new.assignment_type := machserial._require_assignment_type(new.assignment_type);
    perform machserial._require_batch_size(new.batch_size);
    perform machserial._require_conditions(new.conditions);
    perform machserial._require_known_part(new.part_id);
    new.operation_code := nullif(new.operation_code, '');
    if (tg_op = 'INSERT' or new.format is distinct from old.format)
        and not exists (select from machserial.serial_formats as f where f.name = new.format)
        and new.format is not null
    then
        perform machserial._raise_unknown('format', new.format, 'machserial.create_format');
    end if;
    if tg_op = 'UPDATE' then
        if new.id <> old.id then
            perform machserial._raise_unchangeable_trigger(old.id, jsonb_build_object('id', new.id));
        end if;
        new.updated_at := now();
        new.updated_by := actor;
    end if;
    if new.enabled then
        new.disabled_at := null;
        new.disabled_by := null;
    elsif tg_op = 'INSERT' or old.enabled then
        new.disabled_at := now();
        new.disabled_by := actor;
    else
        new.disabled_at := old.disabled_at;
        new.disabled_by := old.disabled_by;
    end if;
    return new;
end
$$;

-- The trigger as functions return it; P0002 if there is none.
create function machserial._trigger(trigger_id bigint) returns machserial.serial_assignment_trigger
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    known machserial.serial_assignment_trigger;
begin
    select
        t.id, t.part_id, t.trigger_type, t.assignment_type, t.format, t.operation_code, t.conditions,
        t.batch_size, t.enabled, t.disabled_at, t.disabled_by, t.created_at, t.created_by, t.updated_at,
        t.updated_by, t.execution_count, t.last_executed_at
    into known
    from machserial.serial_assignment_triggers as t
    where t.id = _trigger.trigger_id;
    if known.id is null then
        perform machserial._raise_absent(
            'trigger', trigger_id, 'serial_assignment_triggers',
            'See select id, part_id, trigger_type from machserial.serial_assignment_triggers.'
        );
    end if;
    return known;
end
$$;

create function machserial.create_trigger(
    part_id text, trigger_type text, assignment_type text, format text default null,
    operation_code text default null, conditions jsonb default '{}', batch_size integer default 1
)
returns machserial.serial_assignment_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    created_id bigint;
begin
    if create_trigger.format is not null then
        perform machserial._active_format(create_trigger.format);
    end if;
    insert into machserial.trigger_definitions as d (
        part_id, trigger_type, assignment_type, format, operation_code, conditions, batch_size
    )
    values (
        create_trigger.part_id, create_trigger.trigger_type, create_trigger.assignment_type,
        create_trigger.format, create_trigger.operation_code, coalesce(create_trigger.conditions, '{}'),
        create_trigger.batch_size
    )
    returning d.id into created_id;
    return machserial._trigger(created_id);
end
$$;

comment on function machserial.create_trigger(text, text, text, text, text, jsonb, integer) is
'From now on an event numbers this part: a call of fire(), or an insert into a table that attach() has been
called for. trigger_type: MATERIAL_RECEIPT, WORK_ORDER_CREATE, OPERATION_COMPLETE, QUALITY_CHECKPOINT or
BATCH_COMPLETION. assignment_type: SYSTEM_GENERATED makes serials, by the named format or else the part''s;
VENDOR puts the numbers on record that the context brings (vendor_name, serial_number or serial_numbers);
LATE_ASSIGNMENT makes placeholders. operation_code: it fires only at this operation. conditions: an object
that the context must contain, or a JSONPath as a JSON string: a predicate ("$.quantity > 5") or a filter
("$.quantity ? (@ > 5)") of at most 1000 characters, with one .** at most. batch_size: how
many it makes for each unit, 1 to 1,000,000. Returns the trigger.
Errors: 22023 a bad argument; 23503 unknown part or format; 55000 a deactivated format.';

create function machserial.update_trigger(
    trigger_id bigint, trigger_type text default null, assignment_type text default null,
    format text default null, operation_code text default null, conditions jsonb default null,
    batch_size integer default null
)
returns machserial.serial_assignment_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known constant machserial.serial_assignment_trigger := machserial._trigger(update_trigger.trigger_id);
begin
    if update_trigger.format <> '' then
        perform machserial._active_format(update_trigger.format);
    end if;
    update machserial.trigger_definitions as d
    set
        trigger_type = coalesce(update_trigger.trigger_type, d.trigger_type),
        assignment_type = coalesce(update_trigger.assignment_type, d.assignment_type),
        format = nullif(coalesce(update_trigger.format, d.format), ''),
        operation_code = coalesce(update_trigger.operation_code, d.operation_code),
        conditions = coalesce(update_trigger.conditions, d.conditions),
        batch_size = coalesce(update_trigger.batch_size, d.batch_size)
    where d.id = known.id;
    return machserial._trigger(known.id);
end
$$;

comment on function machserial.update_trigger(bigint, text, text, text, text, jsonb, integer) is
'Changes a trigger. The arguments are those of create_trigger(); what is left out stays. format => '''' goes
back to the part''s format, operation_code => '''' to every operation. Returns the trigger.
Errors: 22023 a bad argument; 23503 unknown format; 55000 a deactivated format; P0002 no such trigger.';

create function machserial._set_enabled(trigger_id bigint, enabled boolean)
returns machserial.serial_assignment_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known constant machserial.serial_assignment_trigger := machserial._trigger(_set_enabled.trigger_id);
begin
    update machserial.trigger_definitions as d set enabled = _set_enabled.enabled
    where d.id = known.id and d.enabled <> _set_enabled.enabled;
    return machserial._trigger(known.id);
end
$$;

create function machserial.enable_trigger(trigger_id bigint) returns machserial.serial_assignment_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return machserial._set_enabled(trigger_id, true);
end
$$;

comment on function machserial.enable_trigger(bigint) is
'The trigger fires again. One that is enabled stays so. Returns the trigger. Errors: P0002 no such trigger.';

create function machserial.disable_trigger(trigger_id bigint) returns machserial.serial_assignment_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return machserial._set_enabled(trigger_id, false);
end
$$;

comment on function machserial.disable_trigger(bigint) is
'The trigger does not fire until it is enabled. One that is disabled stays so. Returns the trigger.
Errors: P0002 no such trigger.';

create function machserial.delete_trigger(trigger_id bigint) returns machserial.serial_assignment_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    known constant machserial.serial_assignment_trigger := machserial._trigger(trigger_id);
begin
    delete from machserial.trigger_definitions as d where d.id = known.id;
    return known;
end
$$;

comment on function machserial.delete_trigger(bigint) is
'Deletes a trigger and the count of its executions; what it has made stays. Returns what it was.
Errors: P0002 no such trigger.';

-- "inout": the argument and a result column are both called part_id.
create function machserial.trigger_statistics(
    out trigger_id bigint, inout part_id text default null, out trigger_type text, out assignment_type text,
    out enabled boolean, out execution_count bigint, out units bigint, out last_executed_at timestamptz
)
returns setof record
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
#variable_conflict use_column
declare
    wanted_part constant text := trigger_statistics.part_id;
begin
    if wanted_part is not null then
        perform machserial._require_known_part(wanted_part);
    end if;
    return query
    select
        t.id, t.part_id, t.trigger_type, t.assignment_type, t.enabled, t.execution_count,
        (
            select coalesce(sum(e.units), 0)::bigint
            from machserial.trigger_executions as e where e.trigger_id = t.id
            having t.execution_count is not null
        ),
        t.last_executed_at
    from machserial.serial_assignment_triggers as t
    where wanted_part is null or t.part_id = wanted_part
    order by t.id;
end
$$;

comment on function machserial.trigger_statistics(text) is
'How often the triggers of a part have fired; null: those of all parts. execution_count: events since the last
reset. units: serials, receipts and placeholders made since the trigger was created. Both are null for a role
that is
limited to sites: the events of all sites are counted together.
Errors: 23503 unknown part.';

-- An update of the view. Only what it changes is written: somebody else may have changed the rest meanwhile.
create function machserial._update_trigger_row() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    changes constant jsonb := (
        select coalesce(jsonb_object_agg(n.key, n.value), '{}')
        from jsonb_each(to_jsonb(new)) as n
        where n.value is distinct from to_jsonb(old) -> n.key
    );
begin
    if
        changes ?| '{id,last_executed_at,created_at,created_by}' or new.execution_count < 0
        -- Null is what a role that is limited to sites sees.
        or new.execution_count is null and old.execution_count is not null
        or old.execution_count is null and new.execution_count is not null
    then
        perform machserial._raise_unchangeable_trigger(old.id, changes);
    end if;
    update machserial.trigger_definitions as d
    set
        (
            part_id, trigger_type, assignment_type, format, operation_code, conditions, batch_size, enabled
        ) = (
            select
                r.part_id, r.trigger_type, r.assignment_type, r.format, r.operation_code, r.conditions,
                r.batch_size, r.enabled
            from jsonb_populate_record(d, changes) as r
        ),
        count_offset = d.count_offset + coalesce(new.execution_count - old.execution_count, 0)
    where d.id = old.id;
    if not found then
        return null;
    end if;
    select t.* into new from machserial.serial_assignment_triggers as t where t.id = old.id;
    return new;
end
$$;
