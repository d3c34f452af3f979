-- What the owner may choose for the whole database.

create function machserial._audit_settings_that_come_and_go() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (event_type, event_source, details)
    select
        'SETTING_CHANGED', current_setting('application_name'),
        jsonb_build_object('name', s.name, case tg_op when 'INSERT' then 'new' else 'old' end, to_jsonb(s))
    from settings as s;
    return null;
end
$$;

create function machserial._audit_changed_settings() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (event_type, event_source, details)
    select
        'SETTING_CHANGED', current_setting('application_name'),
        jsonb_strip_nulls(jsonb_build_object(
            'name', coalesce(n.name, o.name), 'old', to_jsonb(o), 'new', to_jsonb(n)
        ))
    from new_settings as n
    -- Another name is another setting.
    full join old_settings as o on o.name = n.name
    where to_jsonb(n) is distinct from to_jsonb(o);
    return null;
end
$$;
