-- Whether what is on record agrees with itself, and whether everything that sees to it is in place. Rules
-- stand on the tables: so what is found here was done with triggers off, by a superuser, or by a broken disk.

create type machserial.integrity_finding as (
    name text,
    severity text,
    object text,
    message text,
    remedy text
);

comment on type machserial.integrity_finding is 'A row of machserial.integrity().';

-- How to do what a trigger refuses, for the table's owner.
create function machserial._with_triggers_off(relation text, statement text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return format(
        'alter table machserial.%1$I disable trigger user; %2$s; '
        'alter table machserial.%1$I enable trigger user%3$s;',
        relation, statement,
        -- Those that are disabled now stay so.
        (
            select string_agg(format(', disable trigger %I', t.tgname), '' order by t.tgname)
            from pg_trigger as t
            where
                t.tgrelid = to_regclass(format('machserial.%I', relation)) and not t.tgisinternal
                and t.tgenabled = 'D'
        )
    );
end
$$;

-- Claims, recomputed from the rows alone: what an index or a generated column says is what is in doubt.
create function machserial._faults_of_claims() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_indexscan = off
set enable_indexonlyscan = off
set enable_bitmapscan = off
set enable_nestloop = off
set jit = off
as $$
begin
    return query
    select
        'generated_column', 'CRITICAL', format('serial %s', s.id),
        format(
            'holds_claim of serial %s is %s, which does not follow from its status %s', s.serial_number,
            s.holds_claim, s.status
        ),
        format('update machserial.serials set status = status where id = %s;', s.id)
    from machserial.serials as s
    where s.holds_claim <> (s.status not in ('REJECTED', 'CONFLICT') and not s.claim_released);

    return query
    with claims as (
        select
            s.id, s.serial_number, u.scope,
            case u.scope when 'SITE' then s.site_id when 'PART_TYPE' then s.part_type else '' end as reach
        from machserial.serials as s
        cross join lateral unnest(s.scopes) as u (scope)
        where s.status not in ('REJECTED', 'CONFLICT') and not s.claim_released
    ),

    -- A serial may name a scope twice.
    claimed_twice as (
        select c.serial_number, c.scope, c.reach
        from claims as c
        group by c.serial_number, c.scope, c.reach
        having min(c.id) < max(c.id)
    ),

    duplicates as (
        select d.serial_number, d.scope, d.reach, array_agg(distinct c.id order by c.id) as ids
        from claimed_twice as d
        inner join claims as c
            on c.serial_number = d.serial_number and c.scope = d.scope and c.reach = d.reach
        group by d.serial_number, d.scope, d.reach
    )

    select
        'duplicate_claim', 'CRITICAL', format('serial number %s', d.serial_number),
        format(
            'serials %s all claim the number %s in scope %s%s', array_to_string(d.ids, ', '), d.serial_number,
            d.scope, ' of ' || nullif(d.reach, '')
        ),
        format(
            'update machserial.serials set status = ''CONFLICT'', status_reason = ''found by integrity()'' '
            'where id in (%s); then for each of them: select machserial.resolve_conflict('
            'serial_number => %L, part_id => ..., resolution => ''KEEP'', keep_serial_id => %s, reason => ...); '
            'then: reindex index concurrently machserial.serials_%s_key;',
            array_to_string(d.ids[2:], ', '), d.serial_number, d.ids[1], lower(d.scope collate "C")
        )
    from duplicates as d
    order by d.serial_number, d.scope;

    -- No index compares ENTERPRISE with the other scopes.
    return query
    select
        'claim_across_scopes', 'CRITICAL', format('serial number %s', s.serial_number),
        format(
            'serials %s claim the number %s, %s of them in the whole enterprise',
            array_to_string(array_agg(s.id order by s.id), ', '), s.serial_number,
            array_to_string(array_agg(s.id order by s.id) filter (where 'ENTERPRISE' = any(s.scopes)), ', ')
        ),
        format(
            'update machserial.serials set status = ''CONFLICT'', status_reason = ''found by integrity()'' '
            'where id in (%s); then for each of them: select machserial.resolve_conflict('
            'serial_number => %L, part_id => ..., resolution => ''KEEP'', keep_serial_id => %s, reason => ...);',
            array_to_string((array_agg(s.id order by s.id))[2:], ', '), s.serial_number, min(s.id)
        )
    from machserial.serials as s
    where s.status not in ('REJECTED', 'CONFLICT') and not s.claim_released
    group by s.serial_number
    having count(*) > 1 and bool_or('ENTERPRISE' = any(s.scopes)) and not bool_and('ENTERPRISE' = any(s.scopes))
    order by s.serial_number;
end
$$;

-- Serials that claim their number in fewer scopes than their part says: registered so, or behind the back of
-- the trigger of parts. Others may get the number where the part's must not repeat. ENTERPRISE is everywhere.
create function machserial._faults_of_scopes() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
begin
    return query
    select
        'scopes_not_covered', 'WARNING', format('serial %s', s.id),
        format(
            'serial %s claims its number in %s, its part %s says %s', s.serial_number,
            array_to_string(s.scopes, ', '), s.part_id, array_to_string(p.default_scopes, ', ')
        ),
        format(
            'update machserial.serials set scopes = %L where id = %s;',
            machserial._known_scopes(p.default_scopes || array(select unnest(s.scopes))), s.id
        )
    from machserial.serials as s
    inner join machserial.parts as p on p.id = s.part_id
    where
        not s.scopes @> p.default_scopes and not 'ENTERPRISE' = any(s.scopes)
        and s.status <> 'REJECTED' and not s.claim_released
    order by s.id;
end
$$;

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
        account_for_serial.reason, format('serial %s: to be accounted for', serial_id)
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
            hint = 'See select * from machserial.integrity();';
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

create function machserial._faults_of_vendors() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'vendor_serial', 'CRITICAL', format('vendor serial %s', v.id),
        format(
            'vendor serial %s is number %s of part %s at site %s and %s; the serial says number %s of part '
            '%s at site %s and %s', v.id, v.serial_number, v.part_id, v.site_id, v.status, s.serial_number,
            s.part_id, s.site_id, s.status
        ),
        machserial._with_triggers_off('vendor_serials', format(
            'update machserial.vendor_serials as v set serial_number = s.serial_number, part_id = s.part_id, '
            'site_id = s.site_id, status = s.status from machserial.serials as s '
            'where s.id = v.id and v.id = %s', v.id
        ))
    from machserial.vendor_serials as v
    inner join machserial.serials as s on s.id = v.id
    where
        (v.serial_number, v.part_id, v.site_id, v.status)
        <> (s.serial_number, s.part_id, s.site_id, s.status)
    order by v.id;
end
$$;

create function machserial._faults_of_conflicts() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'conflict', 'CRITICAL', format('serial %s', s.id),
        format('serial %s is in CONFLICT, and no conflict of it is pending', s.serial_number),
        format(
            'insert into machserial.serial_conflicts (serial_number, part_id, site_id, scopes, source, '
            'serial_id, conflicting_serial_ids, conflicting_scopes) select s.serial_number, s.part_id, '
            's.site_id, s.scopes, s.source, s.id, %L, %L from machserial.serials as s where s.id = %s;',
            '{}', '{}', s.id
        )
    from machserial.serials as s
    where
        s.status = 'CONFLICT' and not exists (
            select from machserial.serial_conflicts as c where c.serial_id = s.id and c.status = 'PENDING'
        )
    order by s.id;

    return query
    select
        'conflict', 'CRITICAL', format('conflict %s', c.id),
        format('conflict %s is pending, and its serial %s is %s', c.id, s.serial_number, s.status),
        format(
            'update machserial.serial_conflicts set status = ''RESOLVED'', resolution = ''KEEP'', '
            'kept_serial_id = %s, retired_serial_ids = ''{}'', reason = ''found by integrity()'' '
            'where id = %s;', s.id, c.id
        )
    from machserial.serial_conflicts as c
    inner join machserial.serials as s on s.id = c.serial_id
    where c.status = 'PENDING' and s.status <> 'CONFLICT'
    order by c.id;
end
$$;

create function machserial._faults_of_blocks() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
begin
    return query
    select
        'block_overlap', 'CRITICAL', format('block %s', o.id),
        format(
            'block %s (%s to %s, of %s) overlaps another block of its counter', o.id, o.first_value,
            o.last_value, o.holder
        ),
        'Take away the one of the two whose numbers nobody has used; if it is this one: '
        || machserial._with_triggers_off(
            'number_blocks', format('delete from machserial.number_blocks where id = %s', o.id)
        )
    from (
        select
            b.*, max(b.last_value) over (
                partition by b.counter_id order by b.first_value, b.id
                rows between unbounded preceding and 1 preceding
            ) as reached
        from machserial.number_blocks as b
        where b.status in ('OPEN', 'USED')
    ) as o
    where o.reached >= o.first_value
    order by o.id;

    return query
    select
        'block_usage', 'CRITICAL', format('block %s', u.block_id),
        format('block %s has number %s on record as used, which %s', u.block_id, u.sequence_number, case
            when s.sequence_number is distinct from u.sequence_number and u.serial_id is not null
                then format('is not that of serial %s', u.serial_id)
            else 'is none of its numbers'
        end),
        machserial._with_triggers_off('block_usages', format(
            'delete from machserial.block_usages where block_id = %s and sequence_number = %s', u.block_id,
            u.sequence_number
        ))
    from machserial.block_usages as u
    inner join machserial.number_blocks as b on b.id = u.block_id
    left join machserial.serials as s on s.id = u.serial_id
    where
        u.sequence_number not between b.first_value and b.last_value
        or (u.sequence_number - b.first_value) % b.increment <> 0
        or u.sequence_number = any(b.skipped_values)
        or s.sequence_number is distinct from u.sequence_number and u.serial_id is not null
    order by u.block_id, u.sequence_number;

    return query
    select
        'block_count', 'CRITICAL', format('block %s', n.id),
        format('block %s is %s, and %s of its %s numbers are used', n.id, n.status, n.used, n.quantity),
        machserial._with_triggers_off('number_blocks', format(
            case when n.status = 'USED' then
                'update machserial.number_blocks set status = ''OPEN'', closed_at = null, closed_by = null, '
                'closing_reason = null where id = %s'
            else
                'update machserial.number_blocks set status = ''USED'', closed_at = now(), '
                'closed_by = current_user where id = %s'
            end, n.id
        ))
    from (
        select b.id, b.status, b.quantity, count(u.block_id) as used
        from machserial.number_blocks as b
        left join machserial.block_usages as u on u.block_id = b.id
        group by b.id, b.status, b.quantity
    ) as n
    where n.used > n.quantity or (n.status = 'USED') <> (n.used = n.quantity)
    order by n.id;
end
$$;

-- The highest number that each counter has given as far as serials and blocks tell. counter_id is null where
-- there is no such counter. A serial's counter is that of its format, key and period; where the time zone of
-- its site was changed later, its period is not known any more.
create function machserial._numbers_reached()
returns table (
    counter_id bigint, format_id bigint, key_part text, key_site text, local_time timestamp, highest bigint
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
#variable_conflict use_column
begin
    return query
    with zones as materialized (select z.* from machserial._zones_of_sites() as z),

    zone_changes as (
        select e.site_id, max(e.performed_at) as changed_at
        from machserial.audit_events as e
        where e.event_type = 'SITE_UPDATED' and e.details ? 'time_zone'
        group by e.site_id
    ),

    issued as (
        select
            s.format_id,
            case when f.counter_per in ('PART', 'SITE_PART') then s.part_id else '' end as key_part,
            case when f.counter_per in ('SITE', 'SITE_PART') then s.site_id else '' end as key_site,
            case f.reset
                when 'NEVER' then '' else machserial._period(f.reset, s.created_at at time zone t.time_zone)
            end as period,
            max(s.sequence_number) as highest,
            max(s.created_at at time zone t.time_zone) as local_time
        from machserial.serials as s
        inner join machserial.serial_formats as f on f.id = s.format_id
        inner join zones as t on t.site_id = s.site_id
        left join machserial.block_usages as u on u.serial_id = s.id
        left join zone_changes as z on z.site_id = s.site_id
        where
            s.sequence_number is not null and u.serial_id is null
            and (
                f.reset = 'NEVER'
                or t.is_known and (z.changed_at is null or s.created_at > z.changed_at)
            )
        group by 1, 2, 3, 4
    )

    select c.id, i.format_id, i.key_part, i.key_site, i.local_time, i.highest
    from issued as i
    left join machserial.counters as c
        on
            c.format_id = i.format_id and c.part_id = i.key_part and c.site_id = i.key_site
            and c.period = i.period
    union all
    select b.counter_id, null, null, null, null, max(b.last_value)
    from machserial.number_blocks as b
    group by b.counter_id;
end
$$;

create function machserial._faults_of_counters() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with reached as materialized (select r.* from machserial._numbers_reached() as r),

    highest as (
        select r.counter_id, max(r.highest) as highest from reached as r group by r.counter_id
    ),

    counted as materialized (
        select
            c.id, c.first_value, f.name, f.version, f.allocation, f.sequence_increment, f.sequence_maximum,
            h.highest, q.seqrelid, q.seqincrement, q.seqmax, q.seqcycle,
            f.allocation = 'SEQUENCE' and c.retired_at is null as has_sequence
        from machserial.counters as c
        inner join machserial.serial_formats as f on f.id = c.format_id
        left join highest as h on h.counter_id = c.id
        left join pg_sequence as q on q.seqrelid = to_regclass(machserial._sequence_of(c.id))
    )

    select
        'counter_missing', 'CRITICAL', format('format %s', f.name),
        format(
            'serials of format %s%s have numbers up to %s, and there is no counter that has given them',
            f.name, ' for ' || nullif(concat_ws(', ', nullif(r.key_site, ''), nullif(r.key_part, '')), ''),
            r.highest
        ),
        case f.allocation
            when 'GAPLESS' then format(
                'select machserial._make_counter(%1$s, %2$L, %3$L, %4$L); update machserial.counters '
                'set last_value = %5$s '
                'where format_id = %1$s and part_id = %2$L and site_id = %3$L and period = %6$L;',
                f.id, r.key_part, r.key_site, r.local_time, r.highest,
                machserial._period(f.reset, r.local_time)
            )
            else format(
                'select setval(machserial._sequence_of('
                'machserial._make_counter(%s, %L, %L, %L))::regclass, %s);',
                f.id, r.key_part, r.key_site, r.local_time, r.highest
            )
        end
    from reached as r
    inner join machserial.serial_formats as f on f.id = r.format_id
    where
        r.counter_id is null
        -- A period that is over is not counted again.
        and (f.reset = 'NEVER' or r.local_time > now() at time zone 'UTC' - '8 days'::interval)
    union all
    select
        'counter_sequence_missing', 'CRITICAL', format('counter %s', c.id),
        format('the sequence machserial.counter_%s of format %s is not there', c.id, c.name),
        format(
            -- Numbering plans name the sequence that was lost.
            'select machserial._create_sequence(%s, %s), machserial._outdate_plans();', c.id,
            coalesce(c.highest + c.sequence_increment, c.first_value)
        )
    from counted as c
    where c.has_sequence and c.seqrelid is null
    union all
    select
        'counter_sequence_altered', 'CRITICAL', format('counter %s', c.id),
        format('the sequence machserial.counter_%s does not count as format %s says', c.id, c.name),
        format(
            'alter sequence machserial.counter_%s increment by %s maxvalue %s no cycle;', c.id,
            c.sequence_increment, c.sequence_maximum
        )
    from counted as c
    where
        c.has_sequence and c.seqrelid is not null
        and (
            c.seqincrement <> c.sequence_increment or c.seqmax <> c.sequence_maximum or c.seqcycle
        )
    union all
    select
        'counter_behind', 'CRITICAL', format('counter %s', b.id),
        format(
            'the counter of format %s (version %s) stands at %s, and %s has been given', b.name, b.version,
            coalesce(b.last_value::text, 'its beginning'), b.highest
        ),
        case
            when b.has_sequence then format('select setval(''machserial.counter_%s'', %s);', b.id, b.highest)
            else format('update machserial.counters set last_value = %s where id = %s;', b.highest, b.id)
        end
    from (
        -- In this order: the last value of a counter without its sequence cannot be asked for.
        select
            c.*, case
                when not c.has_sequence or c.seqrelid is not null then machserial._last_value(c.id)
                else c.highest
            end as last_value
        from counted as c
    ) as b
    where b.highest > coalesce(b.last_value, b.highest - 1);
end
$$;

-- For each table that numbers its rows: its sequence, the id that comes next, and the highest that is there
-- already although it is still to be given; null if none is. Rows come in with ids of their own by COPY or by
-- replication, and the sequence stays behind. Of a merged database only this node's ids matter.
-- SECURITY DEFINER: health() asks for those who may not read sequences.
create function machserial._id_sequences()
returns table (relation text, sequence text, next_id bigint, highest_id bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
-- No index of the catalog leads to identity columns, and what is done all the same would be compiled.
set jit = off
as $$
declare
    of_a_node constant bigint := (1::bigint << 48) - 1;
    ids record;
begin
    for ids in
        select r.relname, c.attname, s.relname as sequence_name
        from pg_attribute as c
        inner join pg_class as r on r.oid = c.attrelid and r.relnamespace = 'machserial'::regnamespace
        inner join pg_class as s on s.oid = pg_get_serial_sequence(r.oid::regclass::text, c.attname)::regclass
        where c.attidentity <> '' and not r.relispartition
        order by r.relname
    loop
        relation := ids.relname;
        sequence := format('machserial.%I', ids.sequence_name);
        -- In one statement, the sequence after the snapshot: ids that are given meanwhile are no fault.
        if ids.relname = 'audit_events' then
            -- Its key begins with the time; seals know of the months that are only in an archive.
            select n.id, (
                select max(t.id)
                from (
                    (
                        select e.id from machserial.audit_events as e
                        order by e.performed_at desc, e.id desc
                        limit 100
                    )
                    union all
                    select s.last_event_id from machserial.audit_seals as s
                ) as t
                where t.id between n.id and n.id | of_a_node
            )
            into next_id, highest_id
            from (
                select s.last_value + s.is_called::integer as id from machserial.audit_events_id_seq as s offset 0
            ) as n;
        else
            execute format(
                'select n.id, (select max(t.%1$I) from machserial.%2$I as t where t.%1$I between n.id and n.id | $1) '
                'from (select s.last_value + s.is_called::integer as id from machserial.%3$I as s offset 0) as n',
                ids.attname, ids.relname, ids.sequence_name
            )
            into next_id, highest_id using of_a_node;
        end if;
        return next;
    end loop;
end
$$;

create function machserial._faults_of_sequences() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'sequence_behind', 'CRITICAL', format('table %s', b.relation),
        format(
            'the next id of machserial.%s would be %s, and there are ids up to %s', b.relation, b.next_id,
            b.highest_id
        ),
        format('select setval(%L, %s);', b.sequence, b.highest_id)
    from machserial._id_sequences() as b
    where b.highest_id is not null
    order by b.relation;
end
$$;

-- Numbers issued out of a block though nobody reported them. Blocks of a counter do not overlap: so of those
-- that begin before a number, the last one has it or none has.
create function machserial._faults_of_numbers_in_blocks() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
begin
    return query
    with zones as materialized (select z.* from machserial._zones_of_sites() as z),

    points as (
        select c.id as counter_id, s.sequence_number as value, s.id as serial_id, null::bigint as block_begins
        from machserial.serials as s
        inner join machserial.serial_formats as f on f.id = s.format_id
        inner join zones as t on t.site_id = s.site_id and (f.reset = 'NEVER' or t.is_known)
        inner join machserial.counters as c
            on
                c.format_id = s.format_id
                and c.part_id = case when f.counter_per in ('PART', 'SITE_PART') then s.part_id else '' end
                and c.site_id = case when f.counter_per in ('SITE', 'SITE_PART') then s.site_id else '' end
                and c.period = case f.reset
                    when 'NEVER' then ''
                    else machserial._period(f.reset, s.created_at at time zone t.time_zone)
                end
        left join machserial.block_usages as u on u.serial_id = s.id
        where
            s.sequence_number is not null and u.serial_id is null
            and c.id in (select b.counter_id from machserial.number_blocks as b)
        union all
        select b.counter_id, b.first_value, null, b.first_value from machserial.number_blocks as b
    ),

    behind as (
        select
            p.counter_id, p.value, p.serial_id,
            max(p.block_begins) over (
                partition by p.counter_id order by p.value, p.serial_id nulls first
                rows between unbounded preceding and current row
            ) as block_begins
        from points as p
    )

    select
        'number_in_block', 'CRITICAL', format('serial %s', s.id),
        format(
            'serial %s has number %s of block %s, which nobody has reported as used', s.serial_number,
            s.sequence_number, b.id
        ),
        format(
            'insert into machserial.block_usages (block_id, sequence_number, serial_id) values (%s, %s, %s);',
            b.id, s.sequence_number, s.id
        )
    from behind as n
    inner join machserial.number_blocks as b
        on b.counter_id = n.counter_id and b.first_value = n.block_begins and n.value <= b.last_value
    inner join machserial.serials as s on s.id = n.serial_id
    where not n.value = any(b.skipped_values)
    order by s.id;
end
$$;

-- Whatever comes of a serial ranks above it: where all do, there is no circle.
create function machserial._faults_of_lineage(part_id text default null)
returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    problem record;
begin
    for problem in
        select
            l.serial_id, s.serial_number, l.problem, p.id as parent_id,
            array_agg(e.id order by e.id) as propagation_ids
        from (
            select distinct q.serial_id, q.problem
            from machserial._lineage_problems(_faults_of_lineage.part_id) as q
        ) as l
        inner join machserial.serials as s on s.id = l.serial_id
        inner join machserial.serial_propagations as e on e.child_serial_id = s.id
        inner join machserial.serials as p on p.id = e.parent_serial_id
        where coalesce(p.lineage_rank, p.id) >= coalesce(s.lineage_rank, s.id)
        group by l.serial_id, s.serial_number, l.problem, p.id
        order by l.serial_id, p.id
        limit 101
    loop
        return query
        select f.* from machserial._lineage_finding(
            problem.serial_id, problem.parent_id, problem.serial_number, problem.problem,
            problem.propagation_ids
        ) as f;
    end loop;
end
$$;

create function machserial._lineage_finding(
    serial_id bigint, parent_id bigint, serial_number text, problem text, propagation_ids bigint[]
)
returns machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    is_cycle constant boolean := exists (
        with recursive came_of_it as (
            select _lineage_finding.serial_id as id
            union
            select e.child_serial_id
            from came_of_it as a
            inner join machserial.serial_propagations as e on e.parent_serial_id = a.id
            where e.child_serial_id is not null
        )

        select from came_of_it as a where a.id = _lineage_finding.parent_id
    );
begin
    if is_cycle then
        return (
            'lineage_cycle', 'CRITICAL', format('serial %s', serial_id),
            format('serial %s comes of serial %s, which comes of it', serial_number, parent_id),
            'Of the circle one propagation is wrong; if it is this one: '
            || machserial._with_triggers_off('serial_propagations', format(
                'delete from machserial.serial_propagations where id in (%s)',
                array_to_string(propagation_ids, ', ')
            ))
        )::machserial.integrity_finding;
    end if;
    return (
        'lineage_rank', 'CRITICAL', format('serial %s', serial_id),
        format('serial %s %s', serial_number, problem),
        'alter table machserial.serials disable trigger serials_keep_their_lineage_rank; '
        || format('select machserial._lift_children(array[%s], array[%s]); ', parent_id, serial_id)
        || 'alter table machserial.serials enable trigger serials_keep_their_lineage_rank;'
    )::machserial.integrity_finding;
end
$$;

-- Rows whose foreign key leads nowhere: checked by the data, as whoever switches triggers off leaves no trace
-- in the catalog.
create function machserial._faults_of_references() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
declare
    reference record;
    orphans bigint;
    example text;
begin
    for reference in
        select
            k.conname, r.relation, k.conrelid::regclass as child, k.confrelid::regclass as parent,
            string_agg(format('p.%I = c.%I', pa.attname, ca.attname), ' and ' order by n.position) as same,
            string_agg(format('c.%I is not null', ca.attname), ' and ' order by n.position) as is_set,
            (array_agg(format('p.%I', pa.attname) order by n.position))[1] as parent_column
        from machserial._own_relations() as r
        inner join pg_constraint as k on k.conrelid = r.oid and k.contype = 'f'
        -- A standby has no rows of an unlogged table, and cannot read it.
        inner join pg_class as t on t.oid = r.oid and (t.relpersistence = 'p' or not pg_is_in_recovery())
        cross join lateral unnest(k.conkey, k.confkey)
            with ordinality as n (child_number, parent_number, position)
        inner join pg_attribute as ca on ca.attrelid = k.conrelid and ca.attnum = n.child_number
        inner join pg_attribute as pa on pa.attrelid = k.confrelid and pa.attnum = n.parent_number
        group by k.oid, k.conname, r.relation, k.conrelid, k.confrelid
        order by r.relation, k.conname
    loop
        execute format(
            'select count(*), min(left(c::text, 200)) from %s as c left join %s as p on %s '
            'where %s is null and %s',
            reference.child, reference.parent, reference.same, reference.parent_column, reference.is_set
        )
        into orphans, example;
        if orphans > 0 then
            return query
            select
                'orphan', 'CRITICAL', format('table %s', reference.relation),
                format(
                    '%s rows of %s refer to rows of %s that are not there (%s), such as %s', orphans,
                    reference.child, reference.parent, reference.conname, example
                ),
                format('Bring the rows of %s back from a backup, or correct those that refer to them.',
                    reference.parent);
        end if;
    end loop;

    return query
    select
        'orphan', 'CRITICAL', 'table serials',
        format(
            '%s serials refer to generation requests that are not there, such as serial %s', count(*),
            min(s.id)
        ),
        'Bring the rows of machserial.requests back from a backup; without them a repeated '
        'request issues new numbers.'
    from machserial.serials as s
    left join machserial.requests as r on r.id = s.generation_request_id
    where
        s.generation_request_id is not null and r.id is null
        -- What is older is forgotten.
        and s.created_at > (select machserial._kept_since('request_retention_days'))
    having count(*) > 0
    union all
    select
        'orphan', 'CRITICAL', 'table vendor_serials',
        format(
            '%s vendor serials have no serial, such as vendor serial %s', count(*), min(v.id)
        ),
        'Bring the rows of machserial.serials back from a backup.'
    from machserial.vendor_serials as v
    left join machserial.serials as s on s.id = v.id
    where s.id is null
    having count(*) > 0;
end
$$;

-- Serials that the trigger serials_are_admitted would have refused: put in while it was off.
create function machserial._faults_of_serials() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- Planned once a session, perhaps while there was nothing.
set enable_nestloop = off
set jit = off
as $$
begin
    return query
    select
        f.name, 'CRITICAL', format('serial %s', f.id), f.message,
        case f.name
            when 'orphan' then 'Bring the part, site or format back from a backup.'
            else 'Correct the row, as the owner and with the triggers of machserial.serials off.'
        end
    from (
        select
            s.id,
            case when p.id is null or t.id is null or f.id is null and s.format_id is not null
                then 'orphan' else 'serial' end as name,
            case
                when p.id is null then format('serial %s is of part %s of type %s, and there is no such part',
                    s.serial_number, s.part_id, s.part_type)
                when t.id is null
                    then format('serial %s is of site %s, and there is no such site', s.serial_number, s.site_id)
                when f.id is null and s.format_id is not null then format(
                    'serial %s is of format %s, and there is no such format', s.serial_number, s.format_id)
                else format('serial %L has source %s, status %s, claim_released %s and scopes %s',
                    left(s.serial_number, 255), s.source, s.status, s.claim_released, s.scopes)
            end as message
        from machserial.serials as s
        left join machserial.parts as p on p.id = s.part_id and p.part_type = s.part_type
        left join machserial.sites as t on t.id = s.site_id
        left join machserial.serial_formats as f on f.id = s.format_id
        where
            p.id is null or t.id is null or f.id is null and s.format_id is not null
            or s.source <> all('{SYSTEM_GENERATED,MANUAL,VENDOR,LATE_ASSIGNMENT,IMPORT}'::text[])
            or s.status <> all('{ACTIVE,PENDING,CONFLICT,REJECTED,RETIRED,INVALID}'::text[])
            or s.claim_released and s.status not in ('RETIRED', 'INVALID')
            or not machserial._are_scopes(s.scopes)
    ) as f
    order by f.id;
end
$$;

-- Numbers that no serial could have today: they came in while the trigger was off, or the setting another.
create function machserial._faults_of_numbers() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    characters constant text := machserial._serial_characters();
begin
    return query
    select
        'serial_number', 'WARNING', n.object,
        format('%s has the number %L: %s', n.object, machserial._shown(n.serial_number),
            machserial._number_fault(n.serial_number, characters)),
        case
            when getdatabaseencoding() = 'UTF8' and machserial._is_serial_number(n.serial_number, 'UNICODE')
                then 'If such numbers are on your parts: '
                    'update machserial.settings set value = ''UNICODE'' where name = ''serial_characters'';'
            else 'Register what stands on the part, and take this out of use with '
                'machserial.invalidate_serial(serial_id, reason).'
        end
    from (
        select s.serial_number, format('serial %s', s.id) as object
        from machserial.serials as s
        where machserial._is_serial_number(s.serial_number, characters) is not true
        union all
        select c.serial_number, format('conflict %s', c.id)
        from machserial.serial_conflicts as c
        where machserial._is_serial_number(c.serial_number, characters) is not true
    ) as n
    order by n.object;
end
$$;

-- Types and functions that a policy, view, default, index or constraint of ours names and its owner may not
-- use. PostgreSQL 14.24, 15.19, 16.15, 17.11, 18.5 and later refuse such expressions.
create function machserial._unusable_by_owner()
returns table (kind text, name text, privilege text, owner name)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with expressions as (
        select 'pg_policy'::regclass as class, p.oid, p.polrelid as relation from pg_policy as p
        union all
        select 'pg_rewrite'::regclass, r.oid, r.ev_class from pg_rewrite as r
        union all
        select 'pg_attrdef'::regclass, d.oid, d.adrelid from pg_attrdef as d
        union all
        select 'pg_class'::regclass, i.indexrelid, i.indrelid from pg_index as i
        union all
        select 'pg_constraint'::regclass, k.oid, k.conrelid from pg_constraint as k
    ),

    named as (
        select distinct c.relowner, d.refclassid, d.refobjid
        from expressions as e
        inner join pg_class as c on c.oid = e.relation and c.relnamespace = 'machserial'::regnamespace
        inner join pg_depend as d on d.classid = e.class and d.objid = e.oid
        where d.refclassid in ('pg_type'::regclass, 'pg_proc'::regclass)
    )

    select 'type', n.refobjid::regtype::text, 'usage', pg_get_userbyid(n.relowner)
    from named as n
    where n.refclassid = 'pg_type'::regclass and not has_type_privilege(n.relowner, n.refobjid, 'usage')
    union all
    select 'function', n.refobjid::regprocedure::text, 'execute', pg_get_userbyid(n.relowner)
    from named as n
    where n.refclassid = 'pg_proc'::regclass and not has_function_privilege(n.relowner, n.refobjid, 'execute');
end
$$;

-- Rules that are missing or out of force: what sees to it that the data stay sound. Indexes are told apart.
create function machserial._faults_of_rules() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        case m.kind when 'row security' then 'row_security_off' else 'missing_' || replace(m.kind, ' ', '_') end,
        'CRITICAL',
        case m.kind
            when 'row security' then format('table %s', m.relation)
            when 'policy' then format('policy %s on %s', m.name, m.relation)
            when 'not null' then format('column %s.%s', m.relation, m.name)
            when 'default' then format('column %s.%s', m.relation, m.name)
            else format('%s %s', m.kind, m.name)
        end,
        case m.kind
            when 'row security' then format(
                'row-level security of machserial.%s is off: limits to sites do not hold there', m.relation
            )
            when 'policy' then format(
                'policy %s of machserial.%s is not there, or not as it was made', m.name, m.relation
            )
            when 'table' then format('table machserial.%s is not there', m.name)
            when 'view' then format('view machserial.%s is not there', m.name)
            when 'not null' then format('column %s of machserial.%s may be null', m.name, m.relation)
            when 'default' then format('column %s of machserial.%s has no default', m.name, m.relation)
            else format('%s %s of machserial.%s is not there', m.kind, m.name, m.relation)
        end,
        case m.kind
            when 'table' then 'Its rows are lost: restore them from a backup.'
            when 'column' then 'Its values are lost: restore them from a backup.'
            when 'view' then 'select machserial.migrate();'
            else m.statement || ';'
        end
    from machserial._missing_objects() as m
    where m.kind <> 'index'
    union all
    select
        'disabled_trigger', 'CRITICAL', d.shown, format('%s of machserial.%s is %s', d.shown, d.relation, d.state),
        format('alter table machserial.%I enable trigger %I;', d.relation, d.name)
    from machserial._disabled_triggers() as d
    order by 1, 3, 4;
end
$$;

-- What else sees to it: indexes, constraints, and who may do what.
create function machserial._faults_of_schema() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        i.problem || '_index', 'CRITICAL', format('index %s', i.name),
        format('index %s of machserial.%s is %s', i.name, i.relation, i.problem), i.remedy || ';'
    from machserial._index_problems() as i
    order by i.name;

    return query
    select
        'migrations_not_recorded', 'CRITICAL', 'table schema_migrations',
        format('tables are here whose migrations are not on record: %s', machserial._first_of(u.tables)),
        machserial._remedy_for_pending()
    from machserial._unrecorded_tables() as u (tables)
    where u.tables <> '{}'::text[];

    return query
    select
        'unlimited_role', 'CRITICAL', format('role %s', g.role),
        format('role %s was granted sites and is not limited to them', g.role),
        format('grant usage on type machserial.limited_to_sites to %s;', g.role)
    from machserial._unlimited_roles() as g
    union all
    select
        'limits_of_nobody', 'WARNING', format('role %s', g.role),
        format('sites were granted to the role with the id %s, which is not there any more', g.role::oid),
        format('delete from machserial.site_grants where role = %s;', g.role::oid)
    from (select distinct s.role from machserial.site_grants as s) as g
    where not exists (select from pg_roles as r where r.oid = g.role)
    union all
    select
        'limits_of_everybody', 'CRITICAL', 'type limited_to_sites',
        'everybody may use the type, and is limited to sites by that',
        'revoke all on type machserial.limited_to_sites from public;'
    from pg_type as t
    cross join lateral aclexplode(coalesce(t.typacl, acldefault('T', t.typowner))) as a
    where t.oid = 'machserial.limited_to_sites'::regtype and a.grantee = 0
    union all
    select
        'owner_without_privilege', 'CRITICAL', format('%s %s', u.kind, u.name),
        format('policies and views name %s %s, and their owner %I lacks %s on it', u.kind, u.name, u.owner, u.privilege),
        format('grant %s on %s %s to %I;', u.privilege, u.kind, u.name, u.owner)
    from machserial._unusable_by_owner() as u
    where machserial._owner_of_tables() is null
    union all
    -- One cause, and one remedy.
    select
        'two_owners', 'CRITICAL', 'schema machserial', 'the code does not belong to ' || quote_ident(o.name)
        || ', as the tables do: a superuser has restored them',
        format('select machserial.change_owner(%L);', o.name)
    from machserial._owner_of_tables() as o (name)
    where o.name is not null
    union all
    select
        'constraint_not_valid', 'CRITICAL', format('constraint %s', k.conname),
        format(
            'constraint %s of machserial.%s has never been checked against all rows', k.conname, o.relation
        ),
        format('alter table machserial.%I validate constraint %I;', o.relation, k.conname)
    from machserial._own_relations() as o
    inner join pg_constraint as k on k.conrelid = o.oid
    where not k.convalidated
    order by 1, 3, 4;
end
$$;

-- Formats, what refers to them, and the tables of applications.
create function machserial._faults_of_formats() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'missing_renderer', 'CRITICAL', format('format %s', f.name),
        format(
            'the function that writes the numbers of format %s (version %s) is not there', f.name, f.version
        ),
        format(
            'select machserial._create_renderer(f.id, machserial._compile_pattern(f.pattern, f.letter_case)) '
            'from machserial.serial_formats as f where f.id = %s;', f.id
        )
    from machserial.serial_formats as f
    where not exists (
        select from pg_proc as p
        where p.pronamespace = 'machserial'::regnamespace and p.proname = '_render_' || f.id
    )
    order by f.id;

    return query
    select
        'inactive_format', 'WARNING', coalesce('part ' || a.part_id, 'part type ' || a.part_type),
        format(
            '%s is assigned format %s (version %s), which is not active', coalesce('part ' || a.part_id,
                'part type ' || a.part_type), f.name, f.version
        ),
        format('delete from machserial.format_assignments where id = %s;', a.id)
    from machserial.format_assignments as a
    inner join machserial.serial_formats as f on f.id = a.format_id
    where not f.is_active and coalesce(a.effective_until > now(), true)
    order by a.id;

    return query
    select
        'inactive_format', 'WARNING', format('trigger %s', d.id),
        format('trigger %s of part %s numbers by format %s, which is not active', d.id, d.part_id, d.format),
        format('select machserial.update_trigger(trigger_id => %s, format => ...);', d.id)
    from machserial.trigger_definitions as d
    where
        d.enabled and d.format is not null and not exists (
            select from machserial.serial_formats as f where f.name = d.format and f.is_active
        )
    order by d.id;
end
$$;

create function machserial._faults_of_placeholders() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'placeholder', 'CRITICAL', format('placeholder %s', p.id),
        format(
            'placeholder %s is of part %s, and its serial %s of part %s', p.id, p.part_id, s.serial_number,
            s.part_id
        ),
        machserial._with_triggers_off('late_assignment_placeholders', format(
            'update machserial.late_assignment_placeholders set status = ''PENDING'', serial_id = null, '
            'assigned_at = null, assigned_by = null, assigned_operation_code = null where id = %s', p.id
        ))
    from machserial.late_assignment_placeholders as p
    inner join machserial.serials as s on s.id = p.serial_id
    where p.part_id <> s.part_id
    order by p.id;
end
$$;

-- A trigger that attach() has made and that was dropped or switched off without detach().
create function machserial._faults_of_attachments() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'attachment_disabled', 'WARNING', format('table %s', a.relation),
        format('inserts into %s are no events: its trigger %s is disabled', a.relation, a.trigger_name),
        format('alter table %s enable trigger %I;', a.relation, a.trigger_name)
    from machserial.attachments as a
    where not a.enabled
    order by a.relation::text;

    return query
    select
        'attachment_missing', 'WARNING', format('table %s', to_regclass(e.relation)),
        format(
            'inserts into %s are no events (%s): its trigger was dropped without detach()',
            to_regclass(e.relation), e.trigger_type
        ),
        format(
            'select machserial.attach(%L, %L, part_column => %L%s%s%s);', e.relation, e.trigger_type,
            e.details ->> 'part_column',
            ', quantity_column => ' || quote_literal(e.details ->> 'quantity_column'),
            ', context_columns => ' || quote_literal(nullif(array(
                select jsonb_array_elements_text(e.details -> 'context_columns')
            )::text, '{}')),
            ', serial_column => ' || quote_literal(e.details ->> 'serial_column')
        )
    from (
        select distinct on (v.details ->> 'relation', v.details ->> 'trigger_type')
            v.event_type, v.details, v.details ->> 'relation' as relation,
            v.details ->> 'trigger_type' as trigger_type
        from machserial.audit_events as v
        where v.event_type in ('TRIGGER_ATTACHED', 'TRIGGER_DETACHED')
        order by v.details ->> 'relation', v.details ->> 'trigger_type', v.performed_at desc, v.id desc
    ) as e
    where
        e.event_type = 'TRIGGER_ATTACHED' and to_regclass(e.relation) is not null
        and not exists (
            select from machserial.attachments as a
            where a.relation = to_regclass(e.relation) and a.trigger_type = e.trigger_type
        )
    order by e.relation, e.trigger_type;
end
$$;

-- Who does not see every row cannot say that all is well.
create function machserial._require_sight_of_all() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    hidden text;
begin
    select string_agg(r.relation, ', ' order by r.relation) into hidden
    from machserial._own_relations() as r
    where not r.is_partition and row_security_active(r.oid);
    if hidden is not null then
        raise exception using
            errcode = 'insufficient_privilege',
            message = 'integrity can only be judged by who sees all rows',
            detail = format('Row-level security holds for %s in %s.', current_user, hidden),
            hint = 'Run it as the owner of machserial.';
    end if;
end
$$;

-- Sites whose time zone is gone: their counters that are reset cannot be examined either.
create function machserial._faults_of_sites() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'unknown_time_zone', 'CRITICAL', format('site %s', s.id),
        format(
            'the server does not know %L, the time zone of site %s: numbers that write or count by a date are not '
            'given there, and their counters were not examined', s.time_zone, s.id
        ),
        format('select machserial.register_site(%L, time_zone => ...);', s.id)
    from machserial._zones_of_sites() as z
    inner join machserial.sites as s on s.id = z.site_id
    where not z.is_known
    order by s.id;
end
$$;

-- What a standby cannot know.
create function machserial._find_standby() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'standby', 'UNKNOWN', 'server',
        format(
            'this is a standby, which has replayed transactions up to %s: what its primary has written since was '
            'not examined', coalesce(pg_last_xact_replay_timestamp()::text, 'an unknown moment')
        ),
        'Run it on the primary.'
    where pg_is_in_recovery();
end
$$;

-- The parts of integrity(): _faults_of_<part>() has the findings of each.
create function machserial._integrity_parts() returns table (name text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select substr(p.proname, length('_faults_of_') + 1)
    from pg_proc as p
    where
        p.pronamespace = 'machserial'::regnamespace and p.proname like '@_faults@_of@_%' escape '@'
        and p.prorettype = 'machserial.integrity_finding'::regtype
        -- What somebody else put there would run with the owner's rights.
        and p.proowner = (
            select o.proowner from pg_proc as o where o.oid = 'machserial.integrity(text)'::regprocedure
        )
    order by 1;
end
$$;

-- The findings of a part. One that fails keeps no other from being examined, and is a finding itself.
create function machserial._examined(part text) returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query execute format('select f.* from machserial.%I() as f', '_faults_of_' || part);
exception when others then
    return query
    select
        'not_examined', 'UNKNOWN', format('part %s', part), format('not examined: %s', sqlerrm),
        format('See what fails: select * from machserial.%I();', '_faults_of_' || part);
end
$$;

-- The part that is wanted, of null all; 22023 if there is no such part.
create function machserial._wanted_parts(part text) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    parts constant text[] := array(select p.name from machserial._integrity_parts() as p order by p.name);
begin
    if part is null then
        return parts;
    elsif part = any(parts) then
        return array[part];
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('integrity() has no part %L', machserial._shown(part)),
        detail = format('It has %s parts.', cardinality(parts)),
        hint = format('Give one of %s; or none, for all of them.', array_to_string(parts, ', '));
end
$$;

create function machserial.verify_lineage(part_id text default null)
returns table (name text, severity text, object text, message text, remedy text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform machserial._require_administrator('machserial.verify_lineage()');
    perform machserial._require_sight_of_all();
    if verify_lineage.part_id is not null then
        perform machserial._require_known_part(verify_lineage.part_id);
    end if;
    return query
    select f.* from machserial._faults_of_lineage(verify_lineage.part_id) as f
    union all
    select f.* from machserial._find_standby() as f;
end
$$;

comment on function machserial.verify_lineage(text) is
'The part of integrity() that examines lineage: cycles, and ranks out of order. part_id: only what comes from
or became a serial of this part.
Errors: 23503 unknown part; 42501 neither the owner nor an administrator.';

-- "only" in quotes: PostgreSQL reserves the word.
create function machserial.integrity("only" text default null)
returns table (name text, severity text, object text, message text, remedy text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    most constant integer := 100;
    parts constant text[] := machserial._wanted_parts(integrity."only");
begin
    perform machserial._require_administrator('machserial.integrity()');
    perform machserial._require_sight_of_all();
    return query
    with found as materialized (
        select f.* from unnest(parts) as p (name) cross join lateral machserial._examined(p.name) as f
        union all
        select f.* from machserial._find_standby() as f
    ),

    numbered as (
        select
            f.*, row_number() over (partition by f.name) as number,
            count(*) over (partition by f.name) as total
        from found as f
    )

    select
        n.name, n.severity,
        case when n.number <= most then n.object else 'others' end,
        case when n.number <= most then n.message else format('%s more of these', n.total - most) end,
        case when n.number <= most then n.remedy else 'Mend those above, and look again.' end
    from numbered as n
    where n.number <= most + 1
    order by n.severity, n.name, n.number;
end
$$;

comment on function machserial.integrity(text) is
'Whether what is on record agrees with itself and everything that sees to it is in place: one row per fault,
none if all is sound. severity: CRITICAL, WARNING where nothing is wrong yet, or UNKNOWN for what could not be
examined. Of one kind of fault (name) at most a hundred are told, and how many more there are. remedy: what
mends it, for the owner; ... is for you to fill in. Reads every table once, and keeps nobody waiting. The one
argument, "only", names a part, where there is no time for all of it: integrity(''claims''). A wrong one is
answered by the list of them.
Errors: 22023 no such part; 42501 row-level security hides rows from you.';
