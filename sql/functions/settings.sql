-- What the owner may choose for the whole database.

-- The settings that machserial knows: what holds where the row is missing, and what they may be: a whole
-- number from lowest to highest, or one of the choices.
create function machserial._known_settings()
returns table (name text, standard text, lowest bigint, highest bigint, choices text[])
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query values
        ('ad_hoc_formats', 'ALLOW', null::bigint, null::bigint, '{ALLOW,REFUSE}'::text[]),
        ('ad_hoc_formats_limit', '1000', 0, 1000000, null),
        ('audit_retention_days', '2555', 1::bigint, 36500::bigint, null::text[]),
        ('batch_size', '100', 1, 100000, null),
        ('lock_wait', '5', 1, 3600, null),
        -- Not below the default of lineage(): that call must stay possible.
        ('propagation_depth_limit', '50', 1, 1000000, null),
        ('request_retention_days', '90', 1, 36500, null),
        ('serial_characters', 'ASCII', null, null, '{ASCII,UNICODE}'),
        ('uniqueness_cache_ttl', '3600', 1, 2592000, null),
        ('verification_retention_days', '365', 1, 36500, null);
end
$$;

-- Since when something is kept, as this setting says, in days.
create function machserial._kept_since(setting text) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return now() - machserial._setting(setting)::integer * '1 day'::interval;
end
$$;

-- SECURITY DEFINER: settings hold for all, also for who may not read their table.
create function machserial._setting(name text) returns text
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(
        (select s.value from machserial.settings as s where s.name = _setting.name),
        (select k.standard from machserial._known_settings() as k where k.name = _setting.name)
    );
end
$$;

create function machserial._examine_setting() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    known record;
    names constant text[] := array(select k.name from machserial._known_settings() as k order by k.name);
begin
    select k.* into known from machserial._known_settings() as k where k.name = new.name;
    if new.name is null then
        -- The table's not null refuses it.
        return new;
    elsif known.name is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('there is no setting %L', machserial._shown(new.name)),
            detail = format('Settings are %s.', array_to_string(names, ', ')),
            hint = format('Did you mean %s?', machserial._nearest(new.name, names));
    elsif known.choices is not null then
        new.value := machserial._require_one_of(new.name, new.value, known.choices);
    elsif new.value !~ '^[0-9]{1,18}$' or new.value::numeric not between known.lowest and known.highest then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s cannot be %L', new.name, machserial._shown(new.value)),
            detail = format('It is a whole number from %s to %s.', known.lowest, known.highest),
            hint = format('%s The standard is %s.', new.description, known.standard);
    end if;
    if new.name = 'serial_characters' and new.value = 'UNICODE' and getdatabaseencoding() <> 'UTF8' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'serial_characters cannot be UNICODE here',
            detail = format('The encoding of this database is %s.', getdatabaseencoding()),
            hint = 'Use a database whose encoding is UTF8, or stay with ASCII.';
    end if;
    return new;
end
$$;
