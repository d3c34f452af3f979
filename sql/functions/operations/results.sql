-- What a check of health() says: how a value is judged against its thresholds.

create type machserial.health_result as (
    name text,
    status text,
    value numeric,
    warning numeric,
    critical numeric,
    message text,
    remedy text
);

comment on type machserial.health_result is 'A row of health().';

-- The check with its status: value against the thresholds. Without a value it is UNKNOWN, unless the owner
-- has switched it off, by setting both thresholds to null.
create function machserial._checked(name text, value numeric, message text, remedy text)
returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    threshold record;
    direction integer;
begin
    select t.warning, t.critical, t.lower_is_worse into threshold
    from machserial.health_thresholds as t where t.name = _checked.name;
    if not found then
        return (
            name, 'UNKNOWN', value, null, null, message || '; it has no thresholds',
            format('insert a row %L into machserial.health_thresholds', name)
        )::machserial.health_result;
    end if;
    direction := case when threshold.lower_is_worse then -1 else 1 end;
    return (
        name,
        case
            when threshold.warning is null and threshold.critical is null then 'OK'
            when value is null then 'UNKNOWN'
            when direction * value >= direction * threshold.critical then 'CRITICAL'
            when direction * value >= direction * threshold.warning then 'WARNING'
            else 'OK'
        end,
        value, threshold.warning, threshold.critical, message, remedy
    )::machserial.health_result;
end
$$;

-- There is nothing that could be wrong: the message says why.
create function machserial._nothing_wrong(name text, message text, remedy text default null)
returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    result machserial.health_result := machserial._checked(name, null, message, remedy);
begin
    result.status := 'OK';
    return result;
end
$$;

-- What cannot be told by the value alone is critical.
create function machserial._made_critical(result machserial.health_result)
returns machserial.health_result
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    result.status := 'CRITICAL';
    return result;
end
$$;

-- What is seen is fine, but not everything is seen: then it is not known whether all is.
create function machserial._seen_in_part(
    result machserial.health_result, hidden bigint, what text,
    remedy text default format('grant pg_monitor to %I;', current_user)
)
returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if hidden > 0 and result.status in ('OK', 'UNKNOWN')
        and not (result.warning is null and result.critical is null)
    then
        result.status := 'UNKNOWN';
        result.value := null;
        result.message := format('%I may not see %s %s', current_user, hidden, what);
        result.remedy := remedy;
    end if;
    return result;
end
$$;
