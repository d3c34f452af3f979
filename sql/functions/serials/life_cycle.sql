-- The life of a serial: which step may follow which, with a reason, and taking it out of use.

-- The statuses that may follow a status. REJECTED and INVALID are the end; a retired serial may still turn
-- out to be invalid.
create function machserial._next_statuses(status text) returns text[]
language sql immutable parallel safe
return case status
    when 'PENDING' then '{ACTIVE,CONFLICT,REJECTED,RETIRED,INVALID}'::text[]
    when 'ACTIVE' then '{CONFLICT,RETIRED,INVALID}'
    when 'CONFLICT' then '{PENDING,ACTIVE,REJECTED,RETIRED,INVALID}'
    when 'RETIRED' then '{INVALID}'
    else '{}'
end;

-- Steps that an inspector will ask about.
create function machserial._needs_reason(status text) returns boolean
language sql immutable parallel safe
return status in ('CONFLICT', 'REJECTED', 'RETIRED', 'INVALID');

create function machserial._refuse_illegal_step() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if new.status <> old.status and new.status <> all(machserial._next_statuses(old.status)) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format(
                'serial %s is %s and cannot become %s', old.serial_number, old.status,
                machserial._shown(new.status)
            ),
            detail = case machserial._next_statuses(old.status)
                when '{}' then format('%s is the end of its life.', old.status)
                else format(
                    'After %s comes %s.', old.status,
                    array_to_string(machserial._next_statuses(old.status), ' or ')
                )
            end,
            hint = 'A number that has come to its end stays on record; register or generate another.';
    elsif old.claim_released and not new.claim_released
        or new.claim_released and new.status not in ('RETIRED', 'INVALID')
    then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('the claim of serial %s cannot be %s', old.serial_number,
                case when new.claim_released then 'released' else 'taken back' end),
            detail = format(
                'It is %s; only a RETIRED or INVALID serial gives its number up, and for good.', new.status
            ),
            hint = 'Settle whose number it is with resolve_conflict(...).';
    end if;
    -- The reason of an earlier step is none for this one.
    if new.status_reason is not distinct from old.status_reason then
        new.status_reason := null;
    end if;
    -- A step out of CONFLICT decides which serial keeps the number.
    if machserial._needs_reason(new.status) or new.claim_released or old.status = 'CONFLICT' then
        new.status_reason := machserial._require_reason(
            new.status_reason, format('make serial %s %s', old.serial_number, new.status)
        );
    else
        new.status_reason := coalesce(
            new.status_reason, nullif(current_setting('machserial.reason', true), '')
        );
    end if;
    new.status_changed_at := now();
    new.status_changed_by := machserial._actor();
    return new;
end
$$;

-- A number that has been kept from others in a scope is not let go there by the way, but together with those
-- of its whole part: the trigger of parts does that, which acts as the owner.
create function machserial._refuse_narrower_scopes() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if new.scopes @> old.scopes or pg_trigger_depth() > 1 and current_user = (
        select pg_get_userbyid(c.relowner) from pg_class as c where c.oid = tg_relid
    ) then
        if not machserial._are_scopes(new.scopes) then
            perform machserial._refuse_serial(
                new.serial_number, new.source, new.status, new.claim_released, new.scopes
            );
        end if;
        return new;
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('serial %s cannot claim its number in fewer scopes', old.serial_number),
        detail = format('It has %s, the change says %s.', old.scopes, machserial._shown(new.scopes::text)),
        hint = 'Scopes may be added. Give up a number by resolve_conflict(...).';
end
$$;

create function machserial._refuse_reason_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('why serial %s is %s is on record', old.serial_number, old.status),
        detail = case
            when old.status_changed_at is null then 'It has been so since it was put on record.'
            else format('Since %s, by %s: %s', old.status_changed_at, old.status_changed_by, old.status_reason)
        end,
        hint = 'A reason comes with its step and stays with it.';
end
$$;

-- The serial as functions return it; P0002 if there is none.
create function machserial._serial(serial_id bigint) returns machserial.serial
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    known machserial.serial;
begin
    select
        s.id, s.serial_number, s.part_id, s.part_type, s.site_id, s.source, s.status, s.scopes, s.format_id,
        s.sequence_number, s.work_order_id, s.lot_number, s.operation_code, s.context, s.created_at,
        s.created_by
    into known
    from machserial.serials as s
    where s.id = _serial.serial_id;
    if known.id is null then
        perform machserial._raise_absent(
            'serial', serial_id, 'serials', 'Look the number up: machserial.find_serial(serial_number).'
        );
    end if;
    return known;
end
$$;

create function machserial._end_serial(serial_id bigint, status text, reason text) returns machserial.serial
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    known constant machserial.serial := machserial._serial(_end_serial.serial_id);
    reason_before constant text := coalesce(current_setting('machserial.reason', true), '');
begin
    perform set_config('machserial.reason', machserial._require_reason(
        _end_serial.reason, format(
            '%s serial %s', case _end_serial.status when 'RETIRED' then 'retire' else 'invalidate' end,
            known.serial_number
        )
    ), true);
    update machserial.serials as s set status = _end_serial.status
    where s.id = known.id and s.status <> _end_serial.status;
    if not found then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('serial %s is %s already', known.serial_number, _end_serial.status),
            detail = (
                select format(
                    'Since %s, by %s: %s', s.status_changed_at, s.status_changed_by, s.status_reason
                )
                from machserial.serials as s where s.id = known.id
            ),
            hint = 'There is nothing left to do.';
    end if;
    perform set_config('machserial.reason', reason_before, true);
    return machserial._serial(known.id);
end
$$;

create function machserial.retire_serial(serial_id bigint, reason text) returns machserial.serial
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return machserial._end_serial(serial_id, 'RETIRED', reason);
end
$$;

comment on function machserial.retire_serial(bigint, text) is
'Takes a serial out of use: the part is scrapped, worn out or used up. Its number is never used again.
reason: why; null means machserial.reason. Returns the serial.
Errors: 54000 a text that is too long; 22023 no reason; 55000 the serial is not PENDING, ACTIVE or CONFLICT;
P0002 no such serial.';

create function machserial.invalidate_serial(serial_id bigint, reason text) returns machserial.serial
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    return machserial._end_serial(serial_id, 'INVALID', reason);
end
$$;

comment on function machserial.invalidate_serial(bigint, text) is
'Declares that a serial should never have been: a misprint, a forgery. Its number is never used again.
reason: why; null means machserial.reason. Returns the serial.
Errors: 54000 a text that is too long; 22023 no reason; 55000 the serial is INVALID or REJECTED already;
P0002 no such serial.';
