-- Advisory locks: everybody who may connect can take any of them, also ours. That cannot be prevented; so no
-- call waits for one longer than the setting lock_wait says, and the session that holds it is named.

-- Locks that the server has room for, at least.
create function machserial._lock_table_size() returns integer
language sql stable parallel safe
return current_setting('max_locks_per_transaction')::integer * (
    current_setting('max_connections')::integer + current_setting('max_prepared_transactions')::integer
);

-- The advisory locks of machserial, and how long a call keeps one: for a MOMENT, while a STATEMENT of a role
-- that may call the function runs, or until the end of its TRANSACTION.
create function machserial._advisory_locks()
returns table (lock_class integer, purpose text, is_kept_for text, may_keep_it regprocedure)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query values
        (hashtext('machserial.block'), 'numbering', 'MOMENT', null::regprocedure),
        (hashtext('machserial.counter'), 'numbering', 'MOMENT', null),
        (hashtext('machserial.seal'), 'sealing', 'STATEMENT', 'machserial.seal_audit'::regproc::regprocedure),
        (hashtext('machserial.migrate'), 'migrating', 'STATEMENT', 'machserial.migrate'::regproc::regprocedure),
        (hashtext('machserial.audit_partition'), 'making partitions', 'TRANSACTION', null),
        (hashtext('machserial.plan'), 'planning', 'TRANSACTION', null),
        (hashtext('machserial.runway'), 'making counters', 'TRANSACTION', null);
end
$$;

-- The other sessions that hold advisory locks of machserial in this database. since: when the session can
-- have taken it at the earliest; null where that is hidden.
create function machserial._lock_holders()
returns table (
    lock_class integer, lock_object bigint, is_exclusive boolean, purpose text, is_kept_for text,
    may_keep_it regprocedure, session text, role_id oid, is_prepared boolean, in_transaction boolean,
    is_active boolean, since timestamptz, holder text, ending text
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        k.lock_class, l.objid::bigint, l.mode = 'ExclusiveLock', k.purpose, k.is_kept_for, k.may_keep_it,
        coalesce(l.pid::text, p.gid), coalesce(a.usesysid, r.oid), p.gid is not null,
        -- A session that is in no transaction has no local transaction id.
        l.virtualtransaction not like '%/0', a.state = 'active',
        case
            when p.gid is not null then p.prepared
            when a.state = 'active' then a.query_start
            else coalesce(a.xact_start, a.backend_start)
        end,
        case
            when p.gid is not null
                then format('prepared transaction %L of %s', p.gid, coalesce(p.owner, 'unknown'))
            else format(
                'process %s of %s (%s)', l.pid, coalesce(a.usename, 'unknown'), coalesce(a.application_name, '')
            )
        end,
        case
            when p.gid is not null then format('rollback prepared %L;', p.gid)
            else format('select pg_terminate_backend(%s);', l.pid)
        end
    from machserial._advisory_locks() as k
    inner join pg_locks as l
        on l.classid = (k.lock_class::bigint & 4294967295)::oid and l.locktype = 'advisory'
        and l.objsubid = 2 and l.granted
    left join pg_stat_activity as a on a.pid = l.pid
    left join pg_prepared_xacts as p on l.pid is null and l.virtualtransaction = '-1/' || p.transaction
    left join pg_roles as r on r.rolname = p.owner
    where
        l.database = (select d.oid from pg_database as d where d.datname = current_database())
        and l.pid is distinct from pg_backend_pid();
end
$$;

-- Of those, the sessions that no call of machserial explains: they keep a lock longer than a call may, and
-- longer than the setting lock_wait says. is_hidden: it cannot be told.
create function machserial._suspected_locks()
returns table (lock text, purpose text, holder text, since timestamptz, ending text, is_hidden boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    lock_wait constant interval := machserial._setting('lock_wait')::integer * '1 second'::interval;
begin
    return query
    select
        concat_ws('/', h.lock_class, h.lock_object, h.session), h.purpose, h.holder, h.since, h.ending,
        d.is_foreign is null
    from machserial._lock_holders() as h
    cross join lateral (
        select
            clock_timestamp() - h.since > lock_wait as is_long,
            -- A role that is gone may use nothing.
            coalesce(has_schema_privilege(h.role_id, 'machserial', 'usage'), false) as may_use_it
    ) as u
    cross join lateral (
        select case
            when not h.in_transaction and not h.is_prepared then coalesce(u.is_long, true)
            when h.is_kept_for = 'TRANSACTION' then coalesce(u.is_long and not u.may_use_it, false)
            when h.since is null and not u.may_use_it then true
            when h.is_kept_for = 'STATEMENT' and h.is_active
                then u.is_long and not has_function_privilege(h.role_id, h.may_keep_it, 'execute')
            else u.is_long
        end as is_foreign
    ) as d
    where d.is_foreign is not false;
end
$$;

-- What a call holds for a moment is not there at both looks.
create function machserial._foreign_locks()
returns table (lock text, purpose text, holder text, since timestamptz, ending text, is_hidden boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    suspected constant text[] := array(select s.lock from machserial._suspected_locks() as s);
begin
    if suspected <> '{}' then
        perform pg_sleep(0.05);
        return query
        select s.lock, s.purpose, s.holder, s.since, s.ending, s.is_hidden
        from machserial._suspected_locks() as s
        where s.lock = any(suspected)
        order by s.is_hidden, s.purpose <> 'numbering', s.holder;
    end if;
end
$$;

-- Takes an advisory lock until the transaction, or the block around it, ends. If another session holds it,
-- waits as long as the setting lock_wait or the caller's lock_timeout says, whichever is less.
create function machserial._wait_for_lock(lock_name text, lock_object integer, is_shared boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted_class constant integer := hashtext(lock_name);
    callers_timeout constant text := current_setting('lock_timeout');
    longest interval;
    is_taken boolean;
    holder record;
begin
    is_taken := case
        when is_shared then pg_try_advisory_xact_lock_shared(wanted_class, lock_object)
        else pg_try_advisory_xact_lock(wanted_class, lock_object)
    end;
    if is_taken then
        return;
    end if;
    longest := least(
        machserial._setting('lock_wait')::integer * '1 second'::interval, nullif(callers_timeout::interval, '0')
    );
    begin
        perform set_config('lock_timeout', ceil(extract(epoch from longest) * 1000)::text, true);
        if is_shared then
            perform pg_advisory_xact_lock_shared(wanted_class, lock_object);
        else
            perform pg_advisory_xact_lock(wanted_class, lock_object);
        end if;
        perform set_config('lock_timeout', callers_timeout, true);
        return;
    exception when lock_not_available then
        -- Raised below, where lock_timeout is the caller's again.
        null;
    end;
    select h.holder, h.purpose, h.ending into holder
    from machserial._lock_holders() as h
    where h.lock_class = wanted_class and h.lock_object = (_wait_for_lock.lock_object::bigint & 4294967295)
    order by h.is_exclusive desc, h.session
    limit 1;
    raise exception using
        errcode = 'lock_not_available',
        message = format('waited %s s for the advisory lock %s', extract(epoch from longest)::real, lock_name),
        detail = format('Held by %s.', coalesce(holder.holder, 'a session that has ended')),
        hint = concat(
            'Repeat the transaction.',
            format(' If that session does not end by itself: %s', holder.ending)
        );
end
$$;
