-- How the database is: what to look at, from when on, and what to do about it. A check is a function
-- _check_<name>() that returns a health_result; its thresholds are a row of health_thresholds.

create function machserial._health_checks() returns table (name text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select substr(p.proname, 8)::text
    from pg_proc as p
    where
        p.pronamespace = 'machserial'::regnamespace and p.proname like '@_check@_%' escape '@'
        and p.prorettype = 'machserial.health_result'::regtype and p.pronargs = 0
        -- What somebody else put there is no check: it would run with the rights of whoever asks.
        and p.proowner = (
            select o.proowner from pg_proc as o where o.oid = 'machserial.health_check(text)'::regprocedure
        )
    order by 1;
end
$$;

-- What became of a check that failed.
create function machserial._failed_check(name text, sqlstate_of_it text, error text)
returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        name, 'UNKNOWN', null, null, null, error,
        case sqlstate_of_it
            when '42501' then format(
                'Ask as the owner of machserial, or let it grant %I what the message names.', current_user
            )
            when '53200' then 'See the check lock_table.'
            when '55P03' then 'See who holds the lock: select * from pg_locks where granted;'
            else format('See what fails: select machserial.%I();', '_check_' || name)
        end
    )::machserial.health_result;
end
$$;

-- "inout": the argument and the result column are both called name.
create function machserial.health_check(
    inout name text, out status text, out value numeric, out warning numeric, out critical numeric,
    out message text, out remedy text
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- A check that waits for a lock tells more by saying so.
set lock_timeout = '800ms'
as $$
begin
    if not exists (select from machserial._health_checks() as c where c.name = health_check.name) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('there is no check %L', machserial._shown(name)),
            detail = 'Checks: ' || (select string_agg(c.name, ', ') from machserial._health_checks() as c) || '.',
            hint = 'Name one of these.';
    end if;
    begin
        execute format(
            'select c.name, c.status, c.value, c.warning, c.critical, c.message, c.remedy from machserial.%I() as c',
            '_check_' || name
        )
        into name, status, value, warning, critical, message, remedy;
    exception when others then
        select f.name, f.status, f.value, f.warning, f.critical, f.message, f.remedy
        into name, status, value, warning, critical, message, remedy
        from machserial._failed_check(name, sqlstate, sqlerrm) as f;
    end;
end
$$;

comment on function machserial.health_check(text) is
'One check of machserial.health(), by its name. A check that fails or waits for a lock is UNKNOWN, with the
error as its message.
Errors: 22023 no such check.';

create function machserial.health()
returns table (
    name text, status text, value numeric, warning numeric, critical numeric, message text, remedy text
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select r.name, r.status, r.value, r.warning, r.critical, r.message, r.remedy
    from machserial._health_checks() as c
    cross join lateral machserial.health_check(c.name) as r
    order by c.name;
end
$$;

comment on function machserial.health() is
'How the database is, one row per check. status: OK, WARNING, CRITICAL, or UNKNOWN where it cannot be
measured here or by this role, or the check failed. value against the thresholds warning and critical, in the unit and meaning that
machserial.health_thresholds states; message: what was found; remedy: what mends it. Never fails because
a check does.';

create function machserial.ready() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
set lock_timeout = '800ms'
as $$
declare
    pending constant bigint := (select count(*) from machserial.pending_migrations());
    result machserial.health_result;
begin
    if pending > 0 then
        result.status := 'CRITICAL';
        result.message := format('migrations pending: %s', pending);
        result.remedy := machserial._remedy_for_pending();
    elsif machserial._strange_migrations() > 0 then
        result.status := 'CRITICAL';
        result.message := 'the schema is not that of the installed code';
        result.remedy := 'Deploy the version that the schema is of, or a newer one.';
    elsif pg_is_in_recovery() then
        result.status := 'WARNING';
        result.message := 'this is a standby: it can be read, and gives no numbers';
        result.remedy := 'Connect to the primary: target_session_attrs=read-write.';
    elsif current_setting('transaction_read_only') = 'on' then
        result.status := 'WARNING';
        result.message := 'transactions of this session are read-only: it can read, and gets no numbers';
        result.remedy := machserial._remedy_for_read_only();
    else
        result := machserial._check_paused();
        if result.status = 'OK' then
            select format('%s holds the advisory lock for %s', f.holder, f.purpose), f.ending
            into result.message, result.remedy
            from machserial._foreign_locks() as f
            where not f.is_hidden and f.purpose in ('numbering', 'sealing')
            limit 1;
            if found then
                result.status := 'WARNING';
            else
                result.message := 'reads and gives numbers';
            end if;
        end if;
    end if;
    return (
        'ready', result.status, null, null, null, result.message,
        case when result.status <> 'OK' then result.remedy end
    )::machserial.health_result;
end
$$;

comment on function machserial.ready() is
'Whether applications can work now, as a row like those of machserial.health(). OK: yes; WARNING: they can
read only, as this is a standby, or transactions are read-only, or machserial is paused, or a session that the
message names keeps an advisory lock of machserial; CRITICAL: the schema is not that of the code.
Errors: 42501 the role may not see that.';
