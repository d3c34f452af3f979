-- The audit trail's months: a partition each, made before it is needed.

create function machserial._refuse_audit_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'insufficient_privilege',
        message = 'audit events are never changed',
        detail = format('%s on machserial.%I.', tg_op, tg_table_name),
        hint = 'Whatever happens is a new event.';
end
$$;

create function machserial._audit_partition(month timestamp) returns text
language sql stable parallel safe
return 'audit_events_' || to_char(month, 'YYYY_MM');

-- Events are written now(): the month of now() must have its partition.
create function machserial._has_audit_partition() returns boolean
language sql stable parallel safe
return to_regclass('machserial.' || machserial._audit_partition(now() at time zone 'UTC')) is not null;

-- The end of the last month that has a partition, without a gap from now() on; now() if this month has none.
create function machserial._audited_until() returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    month timestamp := date_trunc('month', now() at time zone 'UTC');
begin
    if to_regclass('machserial.' || machserial._audit_partition(month)) is null then
        return now();
    end if;
    while to_regclass('machserial.' || machserial._audit_partition(month)) is not null loop
        month := month + '1 month'::interval;
    end loop;
    return month at time zone 'UTC';
end
$$;

-- A table by name, if its owner is the owner of the trail. Another role that may create tables in the schema
-- could have made one with that name.
create function machserial._own_audit_table(name text) returns regclass
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select c.oid
        from pg_class as c
        inner join pg_class as t on c.relowner = t.relowner and t.oid = to_regclass('machserial.audit_events')
        where c.oid = to_regclass('machserial.' || name) and c.relkind = 'r'
    );
end
$$;

create function machserial._raise_stranger(name text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'insufficient_privilege',
        message = format('machserial.%I is not a month of the audit trail', name),
        detail = format(
            'It belongs to %I.',
            (
                select pg_get_userbyid(c.relowner)
                from pg_class as c where c.oid = to_regclass(format('machserial.%I', name))
            )
        ),
        hint = 'Find out who made it, drop it, and take from him the right to make objects in the schema machserial.';
end
$$;

-- The first moment of a month, as every session reads it.
create function machserial._month_begins(month date) returns text
language sql stable parallel safe
return to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00';

-- The months that have a partition; null for one whose name is not that of a month.
create function machserial._audit_partitions() returns table (month date, relation regclass)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        to_date(substring(c.relname from '^audit_events_(20[2-9][0-9]_(?:0[1-9]|1[0-2]))$'), 'YYYY_MM'),
        c.oid::regclass
    from pg_inherits as i
    inner join pg_class as c on c.oid = i.inhrelid
    -- A partition that is being detached concurrently is no longer read through its table.
    where i.inhparent = to_regclass('machserial.audit_events') and not i.inhdetachpending
    order by c.relname;
end
$$;

-- A clock that has gone wild must not make partitions without end.
create function machserial._require_sane_clock(month date) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if month < '2020-01-01'::date or month >= '2100-01-01'::date then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('there can be no audit events of %s', to_char(month, 'FMMonth YYYY')),
            detail = format('The clock of the server says %s; events are of 2020 to 2099.', now()),
            hint = 'Set the clock of the server right.';
    end if;
end
$$;

-- A month as an argument names it: by its first day.
create function machserial._require_month(month date) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if month is null or month not between '2020-01-01'::date and '2099-12-01'::date
        or extract(day from month) <> 1
    then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('month cannot be %s', coalesce(month::text, 'null')),
            detail = 'It is the first day of a month of 2020 to 2099.',
            hint = 'See audit_months().';
    end if;
end
$$;

-- The tablespace of a table; empty where that is the database's own, or its owner may make nothing there any
-- more.
create function machserial._tablespace_of(relation regclass) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(
        (
            select t.spcname
            from pg_class as c
            inner join pg_tablespace as t on t.oid = c.reltablespace
            where c.oid = relation and has_tablespace_privilege(c.relowner, t.oid, 'create')
        ),
        ''
    );
end
$$;

-- Where a new month is kept: with the trail, or with its newest month if the trail does not say.
create function machserial._tablespace_of_trail() returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(
        nullif(machserial._tablespace_of('machserial.audit_events'), ''),
        (
            select machserial._tablespace_of(p.relation)
            from machserial._audit_partitions() as p
            where p.month is not null
            order by p.month desc
            limit 1
        ),
        ''
    );
end
$$;

-- A month's partition is made beside the table and attached, which keeps out neither readers nor writers.
create function machserial._make_audit_partition(month date) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
-- Not those of the session that happens to need the month first.
set default_tablespace = ''
set default_table_access_method = 'heap'
as $$
declare
    partition constant text := machserial._audit_partition(month);
begin
    perform machserial._require_sane_clock(month);
    perform set_config('default_tablespace', machserial._tablespace_of_trail(), true);
    perform machserial._wait_for_lock(
        'machserial.audit_partition', to_char(month, 'YYYYMM')::integer, false
    );
    if machserial._own_audit_table(partition) is not null then
        return false;
    elsif to_regclass('machserial.' || partition) is not null then
        perform machserial._raise_stranger(partition);
    end if;
    execute format(
        'create table machserial.%I (like machserial.audit_events including defaults including constraints)',
        partition
    );
    -- Default privileges may say otherwise.
    execute format('revoke all on table machserial.%I from public', partition);
    execute format(
        'alter table machserial.audit_events attach partition machserial.%I for values from (%L) to (%L)',
        partition, machserial._month_begins(month),
        machserial._month_begins((month + '1 month'::interval)::date)
    );
    -- Nor do its policies: nobody but the owner reads a partition by itself.
    execute format('alter table machserial.%I enable row level security', partition);
    -- Statement triggers of the parent do not see what is done to the partition itself.
    execute format(
        'create trigger audit_events_are_append_only before update or delete or truncate on machserial.%I '
        'for each statement execute function machserial._refuse_audit_change()',
        partition
    );
    return true;
end
$$;

-- The partitions of the month of "at" and of so many months after it. Returns how many were made.
create function machserial._make_audit_partitions(at timestamptz, months_ahead integer) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    first_month constant timestamp := date_trunc('month', at at time zone 'UTC');
    made integer := 0;
begin
    for ahead in 0..months_ahead loop
        made := made + machserial._make_audit_partition(
            (first_month + ahead * '1 month'::interval)::date
        )::integer;
    end loop;
    return made;
end
$$;

-- What every function that writes events calls first: the actor and the reason can be kept, and the month's
-- partition is there. The month's partition is there but for a database that
-- nobody has looked after for months, or whose clock is wrong.
create function machserial._require_audit_partition() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_short_actor();
    if not machserial._has_audit_partition() then
        perform machserial._make_audit_partitions(now(), 0);
    end if;
end
$$;
