-- What becomes of a received number: accepted, rejected, or let through against a rule.

-- A waiver is written by giving its reason; when and who follow.
create function machserial._stamp_vendor_waiver() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if old.status <> 'PENDING' or old.validation_errors = '{}' then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('there is nothing to waive for vendor serial %s', old.serial_number),
            detail = case old.status
                when 'PENDING' then 'It broke no rule on receipt.' else format('It is %s.', old.status)
            end,
            hint = 'Only a PENDING serial with validation_errors needs a waiver.';
    end if;
    new.waived_reason := machserial._require_reason(
        new.waived_reason, format('waive the rule for vendor serial %s', old.serial_number)
    );
    new.waived_at := now();
    new.waived_by := machserial._actor();
    return new;
end
$$;

-- When and by whom a step was taken, whether it came by a function, a direct update or the serial itself.
create function machserial._stamp_vendor_step() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    actor constant text := machserial._actor();
begin
    if new.status = 'ACTIVE' then
        if new.waived_at is null then
            perform machserial._require_in_order(old.id, old.serial_number, old.validation_errors);
        end if;
        new.accepted_at := coalesce(old.accepted_at, now());
        new.accepted_by := coalesce(old.accepted_by, actor);
    elsif new.status = 'REJECTED' then
        -- If the step came from the serial, its reason is there.
        new.rejection_reason := machserial._require_reason(
            coalesce(new.rejection_reason, (
                select s.status_reason from machserial.serials as s
                where s.id = old.id and s.status = 'REJECTED'
            )),
            format('reject vendor serial %s', old.serial_number)
        );
        new.rejected_at := now();
        new.rejected_by := actor;
    end if;
    return new;
end
$$;

create function machserial._examine_internal_serial() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    internal record;
begin
    -- Locked, so that it is not retired in the same moment.
    select s.id, s.serial_number, s.status into internal
    from machserial.serials as s where s.id = new.internal_serial_id
    for share;
    if internal.id is null then
        perform machserial._raise_unknown(
            'serial', new.internal_serial_id::text, 'machserial.register_serial'
        );
    elsif internal.id = new.id or internal.status in ('RETIRED', 'INVALID', 'REJECTED') then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format(
                'serial %s cannot be our own number of vendor serial %s',
                internal.serial_number, new.serial_number
            ),
            detail = case internal.id
                when new.id then 'It is the vendor serial itself.' else format('It is %s.', internal.status)
            end,
            hint = 'Give the id of a serial in use: generate or register one.';
    end if;
    return new;
end
$$;

-- The status has one home, serials.status, and its life cycle rules there; these two keep the copy equal in
-- both directions. They end because a statement that finds nothing that differs changes no row.
create function machserial._copy_status_to_vendor_serials() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    ids constant bigint[] := array(
        select n.id
        from new_serials as n
        where
            n.source = 'VENDOR'
            and n.status <> (select v.status from machserial.vendor_serials as v where v.id = n.id)
    );
begin
    if ids <> '{}' then
        update machserial.vendor_serials as v
        set status = (select s.status from machserial.serials as s where s.id = v.id)
        where v.id = any(ids);
    end if;
    return null;
end
$$;

create function machserial._copy_status_from_vendor_serials() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    ids constant bigint[] := array(
        select n.id
        from new_vendor_serials as n
        where n.status <> (select s.status from machserial.serials as s where s.id = n.id)
    );
begin
    if ids <> '{}' then
        update machserial.serials as s
        set (status, status_reason) = (
            select
                v.status, case v.status when 'REJECTED' then v.rejection_reason else s.status_reason end
            from machserial.vendor_serials as v
            where v.id = s.id
        )
        where s.id = any(ids);
    end if;
    return null;
end
$$;

create function machserial._audit_changed_vendor_serials() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    -- What the event itself says: when, by whom, why.
    left_out constant text[] := '{
        accepted_at,accepted_by,rejected_at,rejected_by,rejection_reason,waived_at,waived_by,waived_reason
    }'::text[];
begin
    perform machserial._require_audit_partition();
    -- Materialized, or the changes would be found out anew wherever they are mentioned.
    with changed as materialized (
        select
            n.id, n.serial_number, n.part_id, n.site_id, n.vendor_name, n.status, n.rejection_reason,
            n.waived_reason,
            case
                when o.accepted_at is distinct from n.accepted_at then 'VENDOR_ACCEPTED'
                when o.rejected_at is distinct from n.rejected_at then 'VENDOR_REJECTED'
                when o.waived_at is distinct from n.waived_at then 'VENDOR_WAIVED'
                else 'VENDOR_UPDATED'
            end as event_type,
            machserial._changes(to_jsonb(o), to_jsonb(n) - left_out - case
                when machserial._told_of_vendor_serial(n.status) then '' else 'status'
            end) as changes
        from new_vendor_serials as n
        full join old_vendor_serials as o on o.id = n.id
    )
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, reason, details
    )
    select
        c.event_type, current_setting('application_name'), c.id, c.serial_number, c.part_id, c.site_id,
        coalesce(
            case c.event_type
                when 'VENDOR_REJECTED' then c.rejection_reason when 'VENDOR_WAIVED' then c.waived_reason
            end,
            -- If the step came from the serial, its reason is there.
            case when c.changes ? 'status' then (
                select s.status_reason from machserial.serials as s where s.id = c.id and s.status = c.status
            ) end,
            nullif(current_setting('machserial.reason', true), '')
        ),
        coalesce(c.changes, '{}') || jsonb_build_object('vendor_name', c.vendor_name)
    from changed as c
    where c.event_type <> 'VENDOR_UPDATED' or c.changes <> '{}';
    return null;
end
$$;

-- Locks vendor serials that are to take a step, and refuses it unless they are all there and PENDING.
-- The serials come first, as in every change that begins with them, and in one order, so that two calls
-- cannot deadlock.
create function machserial._lock_pending_vendor_serials(vendor_serial_ids bigint[], next_step text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    missing_id bigint;
    done record;
begin
    perform s.id from machserial.serials as s where s.id = any(vendor_serial_ids) order by s.id
    for no key update;
    select i.id into missing_id
    from unnest(vendor_serial_ids) as i (id)
    where not exists (select from machserial.vendor_serials as v where v.id = i.id offset 0)
    limit 1;
    if found then
        perform machserial._raise_no_vendor_serial(missing_id);
    end if;
    select v.* into done
    from machserial.vendor_serials as v
    where v.id = any(vendor_serial_ids) and v.status <> 'PENDING'
    order by v.id
    limit 1;
    if found then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('vendor serial %s cannot be %s', done.serial_number, next_step),
            detail = concat(
                'It is ', done.status, ', accepted by ' || done.accepted_by,
                ', rejected by ' || done.rejected_by || ': ' || done.rejection_reason, '.'
            ),
            hint = case done.status
                when 'REJECTED' then 'If the vendor sends it again, receive it again.'
                when 'ACTIVE' then 'It is accepted; machserial.retire_serial(...) takes it out of use.'
                else 'Only a PENDING serial is accepted or rejected.'
            end;
    end if;
end
$$;

create function machserial.accept_vendor_serial(
    vendor_serial_id bigint, internal_serial_id bigint default null
)
returns machserial.vendor_serial
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    broken_constraint text;
begin
    perform machserial._lock_pending_vendor_serials(array[vendor_serial_id], 'accepted');
    update machserial.vendor_serials as v
    set
        status = 'ACTIVE',
        internal_serial_id = coalesce(accept_vendor_serial.internal_serial_id, v.internal_serial_id)
    where v.id = accept_vendor_serial.vendor_serial_id;
    return machserial._vendor_serial(vendor_serial_id);
exception when unique_violation then
    get stacked diagnostics broken_constraint = constraint_name;
    if broken_constraint <> 'vendor_serials_internal_serial_id_key' then
        raise;
    end if;
    raise exception using
        errcode = 'unique_violation',
        message = format(
            'serial %s is our own number of another vendor serial', accept_vendor_serial.internal_serial_id
        ),
        detail = coalesce((
            select format('Of vendor serial %s: %s of %s.', v.id, v.serial_number, v.vendor_name)
            from machserial.vendor_serials as v
            where v.internal_serial_id = accept_vendor_serial.internal_serial_id
        ), 'Of one that you may not see.'),
        hint = 'Generate or register a serial of its own for this part.';
end
$$;

comment on function machserial.accept_vendor_serial(bigint, bigint) is
'Accepts a PENDING vendor serial: it becomes ACTIVE. internal_serial_id: the serial that is our own number of
the vendor''s part, if it has one. Returns the vendor serial.
Errors: P0002 no such vendor serial; 55000 it is not PENDING, it breaks its vendor''s rule and nobody has
waived that, or the internal serial is RETIRED, INVALID, REJECTED or the vendor serial itself; 23503 unknown
internal serial; 23505 the internal serial belongs to another vendor serial.';

create function machserial.accept_vendor_serials(vendor_serial_ids bigint[])
returns setof machserial.vendor_serial
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    if vendor_serial_ids is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'vendor_serial_ids is missing',
            detail = 'vendor_serial_ids is null.',
            hint = 'Give an array of the ids.';
    end if;
    perform machserial._lock_pending_vendor_serials(vendor_serial_ids, 'accepted');
    update machserial.vendor_serials as v set status = 'ACTIVE' where v.id = any(vendor_serial_ids);
    return query select v.* from machserial._vendor_serials(vendor_serial_ids) as v;
end
$$;

comment on function machserial.accept_vendor_serials(bigint[]) is
'Accepts many PENDING vendor serials, all or none. Returns them by id.
Errors: P0002 one does not exist; 55000 one is not PENDING, or breaks its vendor''s rule without a waiver;
22023 no array.';

create function machserial.reject_vendor_serial(vendor_serial_id bigint, reason text)
returns machserial.vendor_serial
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    perform machserial._lock_pending_vendor_serials(array[vendor_serial_id], 'rejected');
    update machserial.vendor_serials as v
    set status = 'REJECTED', rejection_reason = reason
    where v.id = vendor_serial_id;
    return machserial._vendor_serial(vendor_serial_id);
end
$$;

comment on function machserial.reject_vendor_serial(bigint, text) is
'Sends a PENDING vendor serial back: it becomes REJECTED and its number is free. The vendor may send it again,
as a new vendor serial. reason: why; null means machserial.reason. Returns the vendor serial.
Errors: 54000 a text that is too long; P0002 no such vendor serial; 22023 no reason; 55000 it is not
PENDING.';

create function machserial.waive_vendor_rule(vendor_serial_id bigint, reason text)
returns machserial.vendor_serial
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    known machserial.vendor_serial;
    is_waived boolean;
begin
    update machserial.vendor_serials as v
    set waived_reason = machserial._require_reason(
        reason, format('waive the rule for vendor serial %s', v.serial_number)
    )
    where v.id = vendor_serial_id and v.waived_at is null;
    is_waived := found;
    known := machserial._vendor_serial(vendor_serial_id);
    if not is_waived then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('the rule is waived for vendor serial %s already', known.serial_number),
            detail = format('At %s by %s: %s', known.waived_at, known.waived_by, known.waived_reason),
            hint = 'There is nothing left to do.';
    end if;
    return known;
end
$$;

comment on function machserial.waive_vendor_rule(bigint, text) is
'Lets a PENDING vendor serial be accepted although it breaks its vendor''s rule. reason: why; null means
machserial.reason. Returns the vendor serial.
Errors: 54000 a text that is too long; P0002 no such vendor serial; 22023 no reason; 55000 it is not
PENDING, broke no rule, or the rule is waived already.';
