-- Pausing: reads go on, new numbers are refused.
--
-- While nothing is paused it costs nothing: the triggers that refuse are disabled. They refuse an insert,
-- though, and generate() has drawn its values by then. So a pause also takes has_runway from every counter:
-- generate() looks at that anyway, and asks for more only where it is missing.

create function machserial._raise_paused_already() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    earlier record;
begin
    select p.* into earlier from machserial.pauses as p where p.resumed_at is null;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = 'machserial is paused already',
        detail = format('Paused by %s at %s: %s', earlier.paused_by, earlier.paused_at, earlier.reason),
        hint = 'Call machserial.resume() first, if another reason is to be given.';
end
$$;

-- Locks tables in one order, counters first: a session that draws has a counter and needs the table next.
create function machserial.pause(reason text default null, until_fenced boolean default false) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
declare
    given_reason constant text := machserial._require_reason(pause.reason, 'pause');
    begun_id bigint;
    earlier record;
begin
    perform machserial._require_administrator('machserial.pause()');
    select p.* into earlier from machserial.pauses as p where p.resumed_at is null;
    if pause.until_fenced then
        -- A backup of a paused database: what holds now is that it was restored.
        update machserial.pauses as p
        set resumed_at = now(), resumed_by = machserial._actor(), resume_reason = given_reason
        where p.id = earlier.id and p.resumed_at is null;
    elsif earlier.id is not null then
        perform machserial._raise_paused_already();
    end if;
    insert into machserial.pauses as p (reason, until_fenced)
    values (given_reason, coalesce(pause.until_fenced, false))
    on conflict ((resumed_at is null)) where resumed_at is null do nothing
    returning p.id into begun_id;
    if begun_id is null then
        perform machserial._raise_paused_already();
    end if;
    update machserial.counters as c set has_runway = false where c.has_runway;
    perform machserial._outdate_plans();
    update machserial.pause_switch as s set switched_at = now();
    alter table machserial.serials enable trigger new_serials_are_refused_while_paused;
    alter table machserial.number_blocks enable trigger new_blocks_are_refused_while_paused;
    perform machserial._audit('PAUSED', null, null, jsonb_strip_nulls(jsonb_build_object(
        'pause_id', begun_id, 'until_fenced', nullif(pause.until_fenced, false)
    )), given_reason);
    return begun_id;
end
$$;

comment on function machserial.pause(text, boolean) is
'From now on new numbers are refused (55000, with this reason): by generate(), register_serial(), vendors''
receipts, blocks, placeholders, triggers, and direct INSERT and COPY alike. Reads go on, and a request_id that
has been answered is answered again. Waits at most half a second for those who are issuing numbers. reason:
why; null means machserial.reason. until_fenced: the database has been restored or promoted and may be behind
what has left the building: resume() is refused until fence() has been called for every counter; it takes the
place of an earlier pause. Returns the id of the row in machserial.pauses.
Errors: 54000 a text that is too long; 22023 no reason; 42501 neither the owner nor an administrator; 55000
paused already; 55P03 others are issuing numbers in transactions that have not ended: call it again.';

-- Enables these triggers while paused, else disables them. ALTER TABLE ... ENABLE TRIGGER ALL enables them as
-- well: they then refuse nothing, and cost a little.
create function machserial._put_pause_triggers_right() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    is_paused constant boolean := machserial._is_paused();
    wrong record;
begin
    for wrong in
        select t.tgname as name, t.tgrelid::regclass as relation
        from pg_trigger as t
        where
            t.tgfoid = 'machserial._refuse_while_paused()'::regprocedure
            and (t.tgenabled <> 'D') <> is_paused
        -- In the order of pause().
        order by t.tgrelid = 'machserial.serials'::regclass desc
    loop
        execute format(
            'alter table %s %s trigger %I', wrong.relation, case when is_paused then 'enable' else 'disable' end,
            wrong.name
        );
    end loop;
end
$$;

create function machserial.resume(reason text default null) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
declare
    pause_id constant bigint := (select p.id from machserial.pauses as p where p.resumed_at is null);
    given_reason constant text := coalesce(
        nullif(btrim(resume.reason), ''), nullif(btrim(current_setting('machserial.reason', true)), '')
    );
begin
    perform machserial._require_administrator('machserial.resume()');
    perform machserial._require_fenced();
    update machserial.pauses as p
    set resumed_at = now(), resumed_by = machserial._actor(), resume_reason = given_reason
    where p.id = pause_id and p.resumed_at is null;
    -- Nor if somebody else has ended it at this moment.
    if not found then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'machserial is not paused',
            detail = 'No row of machserial.pauses is without resumed_at.',
            hint = 'Nothing needs to be done.';
    end if;
    alter table machserial.serials disable trigger new_serials_are_refused_while_paused;
    alter table machserial.number_blocks disable trigger new_blocks_are_refused_while_paused;
    -- The others get theirs back when they are used, or by maintain().
    update machserial.counters as c set has_runway = true
    from machserial.serial_formats as f
    where f.id = c.format_id and (f.reset = 'NEVER' or f.allocation = 'GAPLESS') and not c.has_runway;
    perform machserial._audit('RESUMED', null, null, jsonb_build_object('pause_id', pause_id), given_reason);
    return pause_id;
end
$$;

comment on function machserial.resume(text) is
'Ends a pause. reason: why; null means machserial.reason, or none. Returns the id of the pause.
Errors: 54000 a text that is too long; 42501 neither the owner nor an administrator; 55000 not paused, or
the database was restored and unfenced_counters() is not empty; 55P03 others hold the tables: call it again.';
