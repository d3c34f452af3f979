-- Findings of integrity(): serials that are not what their events say.

-- From this moment on all events are here: those of earlier months may be in an archive only.
create function machserial._events_are_here_since() returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    away constant int8multirange := machserial._seals_that_are_away(null, null);
begin
    return coalesce(
        (
            select (max(s.month) + '1 month'::interval) at time zone 'UTC'
            from machserial.audit_seals as s
            where away @> s.id
        ),
        '-infinity'
    );
end
$$;

-- What the events of each serial say of its status, beside what its row says. Steps are counted, not ordered:
-- of all statuses only the present one was reached once more than it was left, whatever the order of ids.
-- VENDOR_RECEIVED is the beginning of a serial that has no other.
create function machserial._statuses_told()
returns table (
    serial_id bigint, serial_number text, status text, claim_released boolean, created_at timestamptz,
    beginnings bigint, balance bigint, claim_balance bigint, reached text[], departed text[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set jit = off
as $$
#variable_conflict use_column
begin
    return query
    with told as (
        select
            e.serial_id, e.event_type in ('SERIAL_GENERATED', 'SERIAL_REGISTERED') as is_beginning,
            e.event_type = 'VENDOR_RECEIVED' as is_receipt, e.details
        from machserial.audit_events as e
        where
            e.serial_id is not null
            and (
                e.event_type in ('SERIAL_GENERATED', 'SERIAL_REGISTERED', 'VENDOR_RECEIVED')
                or e.event_type in (
                    'SERIAL_UPDATED', 'SERIAL_RETIRED', 'SERIAL_INVALIDATED', 'VENDOR_ACCEPTED',
                    'VENDOR_REJECTED', 'VENDOR_UPDATED'
                )
                and e.details ?| '{status,claim_released}'::text[]
            )
    ),

    steps as (
        select
            s.id, s.serial_number, s.status, s.claim_released, s.created_at, t.is_beginning, t.is_receipt,
            case
                when t.is_beginning or t.is_receipt then coalesce(
                    t.details ->> 'status', case s.source when 'VENDOR' then 'PENDING' else 'ACTIVE' end
                )
                else t.details -> 'status' ->> 'new'
            end as reached,
            case when not t.is_beginning then t.details -> 'status' ->> 'old' end as departed,
            case
                when t.is_beginning then coalesce(t.details ->> 'claim_released', 'false')
                else t.details -> 'claim_released' ->> 'new'
            end = 'true' as releases,
            not t.is_beginning and t.details -> 'claim_released' ->> 'old' = 'true' as takes_back
        from machserial.serials as s
        left join told as t on t.serial_id = s.id
    ),

    counted as (
        select
            p.id, p.serial_number, p.status, p.claim_released, p.created_at,
            count(*) filter (where p.is_beginning) as beginnings,
            count(*) filter (where p.is_receipt) as receipts,
            array_agg(p.reached) filter (where p.reached is not null and not p.is_receipt) as reached,
            array_agg(p.reached) filter (where p.is_receipt) as received,
            array_agg(p.departed) filter (where p.departed is not null) as departed,
            count(*) filter (where p.reached = p.status and not p.is_receipt)
            - count(*) filter (where p.departed = p.status) as balance,
            count(*) filter (where p.reached = p.status and p.is_receipt) as received_balance,
            count(*) filter (where p.releases) - count(*) filter (where p.takes_back) as claim_balance
        from steps as p
        group by p.id, p.serial_number, p.status, p.claim_released, p.created_at
    )

    select
        c.id, c.serial_number, c.status, c.claim_released, c.created_at, b.beginnings, b.balance,
        c.claim_balance, b.reached, c.departed
    from counted as c
    cross join lateral (
        select
            case when c.beginnings = 0 then c.receipts else c.beginnings end as beginnings,
            c.balance + case when c.beginnings = 0 then c.received_balance else 0 end as balance,
            c.reached || case when c.beginnings = 0 then c.received end as reached
    ) as b
    where b.beginnings <> 1 or b.balance <> 1 or c.claim_balance <> c.claim_released::integer;
end
$$;

-- Where those steps lead: the status that was reached once more than it was left; null if they go round. With
-- the arguments exchanged, where they come from.
create function machserial._end_of_steps(reached text[], departed text[]) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select r.status
        from (select unnest(reached) as status except all select unnest(departed)) as r
        limit 1
    );
end
$$;

-- Serials against their audit trail.
create function machserial._faults_of_history() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    here_since constant timestamptz := machserial._events_are_here_since();
    account constant text := 'select machserial.account_for_serial(serial_id => %s, reason => ...);';
begin
    return query
    select f.name, 'CRITICAL', format('serial %s', f.serial_id), f.message, format(account, f.serial_id)
    from (
        select
            t.serial_id,
            case
                when t.beginnings = 0 and t.created_at >= here_since then 'missing_event' else 'status'
            end as name,
            case
                when t.beginnings = 0 and t.created_at >= here_since then format(
                    'no event says that serial %s was generated or registered at %s', t.serial_number,
                    t.created_at
                )
                when t.balance <> 1 then format(
                    'serial %s is %s, its events say %s', t.serial_number, t.status,
                    coalesce(machserial._end_of_steps(t.reached, t.departed), 'something else')
                )
                else format(
                    'claim_released of serial %s is %s, its events say otherwise', t.serial_number,
                    t.claim_released
                )
            end as message
        from machserial._statuses_told() as t
        where
            case
                when t.beginnings > 0 or t.created_at >= here_since then true
                -- Where its beginning is in an archive, steps that go round may have begun anywhere.
                else t.balance <> 1 and (
                    t.balance < 0 or machserial._end_of_steps(t.reached, t.departed) is not null
                )
            end
            -- Several beginnings are two events about one row: a copy that was brought in twice.
            and not (t.beginnings > 1 and t.balance >= 1)
    ) as f
    order by f.serial_id;
end
$$;

-- What never changes of a serial, as its events say it and as its row does; and serials of which only events
-- are left. An import may say when and by whom a serial was made: that is compared where it was generated.
create function machserial._faults_of_identity() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
declare
    with_triggers_off constant text := 'Find out who could write behind the triggers; bring the row back from a '
        'backup, as the owner and with the triggers of machserial.serials off.';
begin
    return query
    select 'deleted_serial', 'CRITICAL', format('serial %s', e.serial_id),
        format('serial %s (%s of part %s) was put on record at %s, and is not there', e.serial_id,
            min(e.serial_number), min(e.part_id), min(e.performed_at)),
        with_triggers_off
    from machserial.audit_events as e
    left join machserial.serials as s on s.id = e.serial_id
    where
        e.event_type in ('SERIAL_GENERATED', 'SERIAL_REGISTERED', 'VENDOR_RECEIVED')
        and e.serial_id is not null and s.id is null
    group by e.serial_id
    order by e.serial_id;

    return query
    select 'identity', 'CRITICAL', format('serial %s', d.id),
        format('serial %s is number %s of part %s at site %s, made at %s by %s; event %s says number %s of part %s '
            'at site %s, at %s by %s', d.id, d.serial_number, d.part_id, d.site_id, d.created_at, d.created_by,
            d.event_id, d.told_number, d.told_part, d.told_site, d.performed_at, d.performed_by),
        with_triggers_off
    from (
        select distinct on (s.id)
            s.id, s.serial_number, s.part_id, s.site_id, s.created_at, s.created_by, e.id as event_id,
            e.serial_number as told_number, e.part_id as told_part, e.site_id as told_site, e.performed_at,
            e.performed_by
        from machserial.serials as s
        inner join machserial.audit_events as e on e.serial_id = s.id
        where
            e.event_type in ('SERIAL_GENERATED', 'SERIAL_REGISTERED', 'VENDOR_RECEIVED')
            and (
                (e.serial_number, e.part_id, e.site_id) is distinct from (s.serial_number, s.part_id, s.site_id)
                or e.event_type = 'SERIAL_GENERATED' and s.format_id is not null
                and (e.performed_at, e.performed_by) is distinct from (s.created_at, s.created_by)
            )
        order by s.id, e.id
    ) as d
    order by d.id;

    -- Scopes as a serial began with them are in no event; each change of them is. As with statuses, those that
    -- were reached once more than they were left are the present ones.
    return query
    select 'scopes', 'CRITICAL', format('serial %s', c.id),
        format('serial %s claims its number in %s, its events say %s', c.serial_number,
            array_to_string(c.scopes, ', '),
            coalesce(machserial._end_of_steps(c.reached, c.departed), array_to_string(c.reached, ' or '))),
        with_triggers_off
    from (
        select
            s.id, s.serial_number, s.scopes, array_agg(e.details -> 'scopes' ->> 'new') as reached,
            array_agg(e.details -> 'scopes' ->> 'old') as departed
        from machserial.audit_events as e
        inner join machserial.serials as s on s.id = e.serial_id
        where e.event_type in ('SERIAL_UPDATED', 'SERIAL_RETIRED', 'SERIAL_INVALIDATED') and e.details ? 'scopes'
        group by s.id, s.serial_number, s.scopes
    ) as c
    where
        case
            when machserial._end_of_steps(c.reached, c.departed) is null
                then to_jsonb(c.scopes)::text <> all(c.reached)
            else to_jsonb(c.scopes)::text <> machserial._end_of_steps(c.reached, c.departed)
        end
    order by c.id;
end
$$;

create function machserial.account_for_serial(serial_id bigint, reason text) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    given_reason constant text := machserial._require_reason(
        account_for_serial.reason, format('account for serial %s', serial_id)
    );
    serial constant machserial.serial := machserial._serial(account_for_serial.serial_id);
    told record;
    is_new boolean;
    event_id bigint;
begin
    perform machserial._require_administrator('machserial.account_for_serial()');
    select t.* into told from machserial._statuses_told() as t where t.serial_id = serial.id;
    if told.serial_id is null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('serial %s needs no account', serial.serial_number),
            detail = 'Its events say what its row says.',
            hint = 'See integrity().';
    end if;
    is_new := told.beginnings = 0 and told.created_at >= machserial._events_are_here_since();
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, reason, details
    )
    values (
        case when is_new then 'SERIAL_REGISTERED' else 'SERIAL_UPDATED' end,
        current_setting('application_name'), serial.id, serial.serial_number, serial.part_id, serial.site_id,
        given_reason,
        jsonb_build_object('accounted_for', true) || case
            when is_new then jsonb_build_object(
                'status', coalesce(machserial._end_of_steps(told.departed, told.reached), serial.status),
                'claim_released', told.claim_released
            )
            else jsonb_strip_nulls(jsonb_build_object(
                'status', case when told.balance <> 1 then jsonb_build_object(
                    'old', machserial._end_of_steps(told.reached, told.departed), 'new', serial.status
                ) end,
                'claim_released', case when told.claim_balance <> told.claim_released::integer then
                    jsonb_build_object('old', not told.claim_released, 'new', told.claim_released)
                end
            ))
        end
    )
    returning id into event_id;
    return event_id;
end
$$;

comment on function machserial.account_for_serial(bigint, text) is
'Writes the event that integrity() misses for a serial: that it is there, or that its status is another than
its events say, because it was changed behind the back of the triggers. The row stays as it is; details say
accounted_for. For the owner and administrators. Returns the event''s id.
Errors: 54000 a text that is too long; 22023 no reason; P0002 no such serial; 55000 its events say what its
row says; 42501 not the owner.';
