-- What a pause refuses. operations/pauses.sql begins and ends one.

create function machserial._require_no_pause() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    pause record;
begin
    select p.* into pause from machserial.pauses as p where p.resumed_at is null;
    if pause.id is not null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'machserial is paused: no new numbers',
            detail = format('Paused by %s at %s: %s', pause.paused_by, pause.paused_at, pause.reason),
            hint = case
                when pause.until_fenced
                    then 'The owner moves the counters on with machserial fence, or calls '
                        || 'fence(format, highest) for each and then resume().'
                else 'When the reason is gone, the owner calls resume(), or machserial resume.'
            end;
    end if;
end
$$;

create function machserial._refuse_while_paused() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
-- The tables that it asks have no more than a row or two.
set enable_seqscan = on
as $$
begin
    perform machserial._require_no_pause();
    if current_setting('transaction_isolation') <> 'read committed' then
        -- The snapshot may be older than a pause. pause() changes this row: to lock it in an older snapshot is
        -- a serialization failure.
        perform from machserial.pause_switch as s for share;
    end if;
    return null;
exception when serialization_failure then
    raise exception using
        errcode = 'serialization_failure',
        message = 'machserial was paused by a concurrent transaction',
        detail = 'This transaction''s snapshot is older than the pause.',
        hint = 'Run the transaction again.';
end
$$;

-- Whether new numbers are refused, for what is made in the meantime.
create function machserial._is_paused() returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return to_regclass('machserial.pauses') is not null
        and exists (select from machserial.pauses as p where p.resumed_at is null);
end
$$;
