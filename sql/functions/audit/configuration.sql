-- Events of configuration: what was set, by whom, and what it was before. One trigger serves all tables that
-- people configure; what a row's change is called, and which details it has, stands here.

-- What an event says of a trigger. When and by whom is said by the event itself.
create function machserial._trigger_details(definition jsonb) returns jsonb
language sql immutable parallel safe
return jsonb_build_object('trigger_id', definition -> 'id') || definition - '{
    id,part_id,count_offset,disabled_at,disabled_by,created_at,created_by,updated_at,updated_by
}'::text[];

create type machserial._configuration_event as (
    event_type text,
    part_id text,
    site_id text,
    details jsonb
);

comment on type machserial._configuration_event is 'What the change of a row of configuration is called.';

create function machserial._audit_configuration() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    key constant text := coalesce(tg_argv[0], 'id');
    was constant jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    becomes constant jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
begin
    perform machserial._require_audit_partition();
    -- A row with another key is another thing.
    insert into machserial.audit_events (event_type, event_source, part_id, site_id, details)
    select e.event_type, current_setting('application_name'), e.part_id, e.site_id, e.details
    from (
        select was, becomes where was -> key = becomes -> key or was is null or becomes is null
        union all
        select was, null where was -> key <> becomes -> key
        union all
        select null, becomes where was -> key <> becomes -> key
    ) as c (was, becomes)
    cross join lateral machserial._configuration_events(tg_table_name, c.was, c.becomes) as e
    where c.was is distinct from c.becomes;
    return null;
end
$$;

-- was: the row before, null if it is new; becomes: the row afterwards, null if it is deleted.
create function machserial._configuration_events(table_name text, was jsonb, becomes jsonb)
returns setof machserial._configuration_event
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    case table_name
        when 'sites' then return query select e.* from machserial._events_of_place('SITE', was, becomes) as e;
        when 'parts' then return query select e.* from machserial._events_of_place('PART', was, becomes) as e;
        when 'serial_formats' then return query select e.* from machserial._events_of_format(was, becomes) as e;
        when 'format_assignments' then
            return query select e.* from machserial._events_of_assignment(was, becomes) as e;
        when 'vendor_rules' then
            return query select e.* from machserial._events_of_vendor_rule(was, becomes) as e;
        when 'trigger_definitions' then
            return query select e.* from machserial._events_of_trigger(was, becomes) as e;
        when 'site_grants' then
            return query
            select
                case when becomes is null then 'SITE_REVOKED' else 'SITE_GRANTED' end, null::text,
                coalesce(becomes, was) ->> 'site_id',
                jsonb_build_object('role', coalesce(becomes, was) -> 'role');
        else
            return query
            select
                'SETTING_CHANGED', null::text, null::text,
                jsonb_strip_nulls(jsonb_build_object(
                    'name', coalesce(becomes, was) -> 'name', 'old', was, 'new', becomes
                ));
    end case;
end
$$;

create function machserial._events_of_place(kind text, was jsonb, becomes jsonb)
returns setof machserial._configuration_event
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    id constant text := coalesce(becomes, was) ->> 'id';
begin
    return query
    select
        kind || case when was is null then '_REGISTERED' when becomes is null then '_DELETED' else '_UPDATED' end,
        case kind when 'PART' then id end, case kind when 'SITE' then id end,
        case
            when was is null or becomes is null then jsonb_strip_nulls(coalesce(becomes, was) - 'id')
            else machserial._changes(was, becomes)
        end;
end
$$;

-- A format begins with all that it is; of its settings those that it would not have anyway.
create function machserial._events_of_format(was jsonb, becomes jsonb)
returns setof machserial._configuration_event
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    format constant jsonb := coalesce(becomes, was);
    named constant jsonb := jsonb_build_object(
        'format', format -> 'name', 'version', format -> 'version', 'format_id', format -> 'id'
    );
    changes jsonb;
begin
    if becomes is null then
        return query
        select 'FORMAT_DELETED', null::text, null::text, named || jsonb_build_object('pattern', was -> 'pattern');
    elsif was is null then
        return query
        select
            case when becomes ->> 'revises' is null then 'FORMAT_CREATED' else 'FORMAT_REVISED' end, null::text,
            null::text, named || coalesce(jsonb_object_agg(f.key, f.value), '{}')
        from jsonb_each(becomes - '{
            id,name,version,sequence_maximum,random_space,created_at,created_by
        }'::text[]) as f
        where f.value <> 'null' and f.value is distinct from jsonb_build_object(
            'sequence_start', 1, 'sequence_increment', 1, 'reset', 'NEVER', 'counter_per', 'FORMAT',
            'allocation', 'SEQUENCE', 'letter_case', 'EXACT', 'is_active', true, 'is_ad_hoc', false
        ) -> f.key;
    else
        changes := machserial._changes(was, becomes);
        return query
        select
            case when becomes -> 'is_active' = 'true' then 'FORMAT_ACTIVATED' else 'FORMAT_DEACTIVATED' end,
            null::text, null::text, named || jsonb_build_object('is_active', changes -> 'is_active')
        where changes ? 'is_active'
        union all
        select 'FORMAT_UPDATED', null, null, named || (changes - 'is_active')
        where changes - 'is_active' <> '{}';
    end if;
end
$$;

create function machserial._events_of_assignment(was jsonb, becomes jsonb)
returns setof machserial._configuration_event
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    assignment constant jsonb := coalesce(becomes, was);
    named constant jsonb := jsonb_build_object('assignment_id', assignment -> 'id', 'format', (
        select f.name from machserial.serial_formats as f where f.id = (assignment -> 'format_id')::bigint
    ));
begin
    return query
    select
        case
            when was is null then 'FORMAT_ASSIGNED'
            when becomes is null then 'FORMAT_UNASSIGNED'
            else 'FORMAT_ASSIGNMENT_UPDATED'
        end,
        assignment ->> 'part_id', null::text,
        case
            when was is null or becomes is null
                then jsonb_strip_nulls(named || (assignment - '{id,part_id}'::text[]))
            else machserial._changes(was, becomes) || named
        end;
end
$$;

-- Without what follows from the rest.
create function machserial._events_of_vendor_rule(was jsonb, becomes jsonb)
returns setof machserial._configuration_event
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        case when becomes is null then 'VENDOR_RULE_DELETED' else 'VENDOR_RULE_SET' end,
        coalesce(becomes, was) ->> 'part_id', null::text,
        jsonb_build_object(
            'vendor_name', coalesce(becomes, was) -> 'vendor_name',
            'old', jsonb_strip_nulls(was - 'compiled_pattern'),
            'new', jsonb_strip_nulls(becomes - 'compiled_pattern')
        )
    where was - 'compiled_pattern' is distinct from becomes - 'compiled_pattern';
end
$$;

-- Left out of an update: what the event itself says, and the count, which has an event of its own.
create function machserial._events_of_trigger(was jsonb, becomes jsonb)
returns setof machserial._configuration_event
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    trigger constant jsonb := coalesce(becomes, was);
    changes constant jsonb := coalesce(machserial._changes(
        was, becomes - '{count_offset,disabled_at,disabled_by,updated_at,updated_by}'::text[]
    ), '{}');
begin
    if was is null or becomes is null then
        return query
        select
            case when was is null then 'TRIGGER_CREATED' else 'TRIGGER_DELETED' end, trigger ->> 'part_id',
            null::text, jsonb_strip_nulls(machserial._trigger_details(trigger));
        return;
    end if;
    return query
    select e.event_type, trigger ->> 'part_id', null::text, jsonb_build_object('trigger_id', trigger -> 'id') || e.changes
    from (
        select
            case when becomes -> 'enabled' = 'true' then 'TRIGGER_ENABLED' else 'TRIGGER_DISABLED' end,
            jsonb_build_object('enabled', changes -> 'enabled')
        where changes ? 'enabled'
        union all
        select 'TRIGGER_UPDATED', changes - 'enabled'
        where changes - 'enabled' <> '{}'
        union all
        select
            'TRIGGER_RESET',
            jsonb_build_object('execution_count', jsonb_build_object(
                'old', (was -> 'count_offset')::bigint + coalesce(sum(x.executions), 0),
                'new', (becomes -> 'count_offset')::bigint + coalesce(sum(x.executions), 0)
            ))
        from machserial.trigger_executions as x
        where x.trigger_id = (becomes -> 'id')::bigint
        having was -> 'count_offset' <> becomes -> 'count_offset'
    ) as e (event_type, changes);
end
$$;
