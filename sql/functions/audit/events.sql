-- The audit trail: events are written by triggers, in the writer's transaction, and never changed.

-- That a vendor serial becomes ACTIVE or REJECTED is told here, whichever of the two rows was written; every
-- other step is told by the event of its serial.
create function machserial._told_of_vendor_serial(status text) returns boolean
language sql immutable parallel safe
return status in ('ACTIVE', 'REJECTED');

-- The name of the user who acts. The tables' defaults repeat the expression, as they must not depend on a
-- function.
create function machserial._actor() returns text
language sql stable parallel safe
return coalesce(nullif(current_setting('machserial.actor', true), ''), session_user);

-- What an update has changed, as details of its event: {"status": {"old": "ACTIVE", "new": "RETIRED"}}; null
-- if nothing.
create function machserial._changes(was jsonb, becomes jsonb) returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select jsonb_object_agg(n.key, jsonb_build_object('old', was -> n.key, 'new', n.value))
        from jsonb_each(becomes) as n
        where n.value is distinct from was -> n.key
    );
end
$$;

-- reason: why; null means machserial.reason.
create function machserial._audit(
    event_type text, part_id text, site_id text, details jsonb, reason text default null
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (event_type, event_source, part_id, site_id, details, reason)
    values (
        _audit.event_type, current_setting('application_name'), _audit.part_id, _audit.site_id, _audit.details,
        coalesce(_audit.reason, nullif(current_setting('machserial.reason', true), ''))
    );
end
$$;

-- Not in the details: what the event itself says (when, by whom, why), what follows from the rest, the rank,
-- which is no fact about the serial, and a step that is told of its vendor serial.
create function machserial._audit_changed_serials() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    left_out constant text[] :=
        '{holds_claim,lineage_rank,status_reason,status_changed_at,status_changed_by}'::text[];
begin
    perform machserial._require_audit_partition();
    -- Materialized, or the changes would be found out anew wherever they are mentioned.
    with changed as materialized (
        select
            n.id, n.serial_number, n.part_id, n.site_id, n.status_reason,
            machserial._changes(to_jsonb(o), to_jsonb(n) - left_out - case
                when n.source = 'VENDOR' and machserial._told_of_vendor_serial(n.status)
                    and exists (select from machserial.vendor_serials as v where v.id = n.id offset 0)
                    then 'status' else ''
            end) as changes
        from new_serials as n
        full join old_serials as o on o.id = n.id
        -- Of the many that a propagation lifts only the rank changes.
        where
            n.lineage_rank is not distinct from o.lineage_rank
            or (n.status, n.claim_released, n.scopes, n.work_order_id, n.lot_number, n.operation_code, n.context)
            is distinct from (
                o.status, o.claim_released, o.scopes, o.work_order_id, o.lot_number, o.operation_code, o.context
            )
    )
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, reason, details
    )
    select
        case c.changes -> 'status' ->> 'new'
            when 'RETIRED' then 'SERIAL_RETIRED'
            when 'INVALID' then 'SERIAL_INVALIDATED'
            else 'SERIAL_UPDATED'
        end,
        current_setting('application_name'), c.id, c.serial_number, c.part_id, c.site_id,
        coalesce(
            case when c.changes ?| '{status,claim_released}'::text[] then c.status_reason end,
            nullif(current_setting('machserial.reason', true), '')
        ),
        c.changes
    from changed as c
    where c.changes is not null;
    return null;
end
$$;
