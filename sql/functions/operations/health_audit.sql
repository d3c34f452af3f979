-- Checks of health(): the audit trail.

-- What keeps events from being sealed: the open transaction with the lowest id.
create function machserial._oldest_writer() returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select w.description
        from (
            select
                age(a.backend_xid) as age,
                format('process %s of %s, in a transaction since %s', a.pid, a.usename, a.xact_start) as description
            from pg_stat_activity as a
            where a.backend_xid is not null and a.pid <> pg_backend_pid()
            union all
            select age(p.transaction), format('prepared transaction %L of %s, since %s', p.gid, p.owner, p.prepared)
            from pg_prepared_xacts as p
        ) as w
        order by w.age desc
        limit 1
    );
end
$$;

-- Since when events wait to be sealed, and how many they are. SECURITY DEFINER, as no other
-- role may read partitions.
create function machserial._waiting_events(out events bigint, out oldest timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    everything constant bigint := 9223372036854775807;
    present constant integer := (machserial._newest_seal()).incarnation;
    stretch machserial._event_range;
    in_month bigint;
    oldest_in_month timestamptz;
begin
    perform machserial._require_all_sites('the check audit_seal_lag');
    events := 0;
    for stretch in
        select p.relation, i.after_id, everything, u.transaction_id, u.event_id, everything, everything
        from machserial._audit_partitions() as p
        inner join machserial._incarnations() as i on i.incarnation = present
        cross join lateral machserial._sealed_up_to(i.incarnation, p.month, everything) as u
    loop
        execute format(
            'select count(*) as events, min(e.performed_at) as oldest from %s as e where %s',
            stretch.relation, machserial._in_event_range(stretch)
        )
        into in_month, oldest_in_month;
        events := events + in_month;
        oldest := least(oldest, oldest_in_month);
    end loop;
end
$$;

-- Seconds since the oldest event that is not sealed.
create function machserial._check_audit_seal_lag() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    waiting record;
    writer constant text := machserial._oldest_writer();
begin
    select w.events, w.oldest into waiting from machserial._waiting_events() as w;
    return machserial._checked(
        'audit_seal_lag', round(coalesce(extract(epoch from now() - waiting.oldest), 0)),
        case
            when waiting.events = 0 then 'every audit event is sealed'
            else format(
                '%s audit events are not sealed, the oldest of %s%s', waiting.events, waiting.oldest,
                '; the oldest open transaction: ' || writer
            )
        end,
        case
            when writer is null then 'select machserial.seal_audit();'
            else 'End the open transaction, then: select machserial.seal_audit();'
        end
    );
end
$$;

-- Days since everything that is sealed was last verified; a run that found something is no verification.
create function machserial._check_audit_verification() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    last_run record;
    verified_at timestamptz;
    first_seal timestamptz;
begin
    perform machserial._require_all_sites('the check audit_verification');
    select v.verified_at, v.problems into last_run from machserial.audit_verifications as v order by v.id desc limit 1;
    select v.verified_at into verified_at
    from machserial.audit_verifications as v where v.problems = 0
    order by v.id desc
    limit 1;
    select min(s.sealed_at) into first_seal from machserial.audit_seals as s where s.month is not null;
    if last_run.problems > 0 then
        return machserial._made_critical(machserial._checked(
            'audit_verification', null,
            format('verify_audit() found %s problems at %s', last_run.problems, last_run.verified_at),
            'select * from machserial.verify_audit(full => true);'
        ));
    end if;
    return machserial._checked(
        'audit_verification',
        coalesce(round(extract(epoch from now() - coalesce(verified_at, first_seal)) / 86400, 1), 0),
        case
            when verified_at is not null then format('the audit trail was verified at %s', verified_at)
            when first_seal is not null then 'the audit trail has never been verified'
            else 'there is nothing to verify yet'
        end,
        'select * from machserial.verify_audit();'
    );
end
$$;

-- How many months after this one have a partition.
create function machserial._check_audit_partitions() returns machserial.health_result
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    ahead constant bigint := (
        select count(*) from machserial._audit_partitions() as p
        where p.month > date_trunc('month', now() at time zone 'UTC')
    );
begin
    return machserial._checked(
        'audit_partitions', ahead,
        format('the audit trail has partitions for %s months to come', ahead), 'select machserial.maintain();'
    );
end
$$;
