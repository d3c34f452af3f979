-- Duplicates that somebody tried to bring in, and how they are resolved.

create type machserial.serial_conflict as (
    id bigint,
    serial_number text,
    part_id text,
    site_id text,
    scopes text[],
    source text,
    serial_id bigint,
    conflicting_serial_ids bigint[],
    conflicting_scopes text[],
    status text,
    detected_at timestamptz,
    detected_by text,
    resolution text,
    kept_serial_id bigint,
    retired_serial_ids bigint[],
    resolved_at timestamptz,
    resolved_by text,
    reason text
);

comment on type machserial.serial_conflict is 'A row of machserial.serial_conflicts.';

-- A direct insert may bring a number that no serial could have, or name serials that do not bear it.
create function machserial._examine_new_conflicts() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    characters constant text := machserial._serial_characters();
    strange record;
begin
    select n.serial_number into strange
    from new_conflicts as n
    where not machserial._is_serial_number(n.serial_number, characters)
    limit 1;
    if found then
        raise exception using
            errcode = 'check_violation',
            message = format('%L cannot be a serial number', machserial._shown(strange.serial_number)),
            detail = machserial._as_sentence(machserial._number_fault(strange.serial_number, characters)),
            hint = machserial._number_hint(strange.serial_number, characters),
            constraint = 'serial_conflicts_serial_number_is_one', table = 'serial_conflicts',
            schema = 'machserial';
    end if;
    -- One look by the id for each.
    select n.serial_number, i.id into strange
    from new_conflicts as n
    cross join lateral unnest(n.conflicting_serial_ids || n.serial_id) as i (id)
    where i.id is not null and (
        select s.id from machserial.serials as s
        where s.id = i.id and s.serial_number = n.serial_number
    ) is null
    limit 1;
    if found then
        raise exception using
            errcode = 'foreign_key_violation',
            message = format(
                'serial %s does not bear the number %L', strange.id, machserial._shown(strange.serial_number)
            ),
            detail = 'A conflict names the serials that bear its number.',
            hint = 'Let machserial.register_serial(..., on_conflict => ''RECORD'') record it.',
            constraint = 'serial_conflicts_serials_bear_the_number', table = 'serial_conflicts',
            schema = 'machserial';
    end if;
    return null;
end
$$;

-- A serial that is put into status CONFLICT is a duplicate that somebody has seen.
create function machserial._record_conflict_of_serial() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into machserial.serial_conflicts (
        serial_number, part_id, site_id, scopes, source, serial_id, conflicting_serial_ids, conflicting_scopes
    )
    select
        new.serial_number, new.part_id, new.site_id, new.scopes, new.source, new.id,
        coalesce(c.serial_ids, '{}'), coalesce(c.claimed_scopes, '{}')
    from machserial._claims_for_number(new.serial_number, new.scopes, new.site_id, new.part_type) as c;
    return null;
end
$$;

-- A serial that leaves CONFLICT by a plain update has been decided on as much as by resolve_conflict().
create function machserial._resolve_conflict_of_serial() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    is_kept constant boolean := new.status in ('PENDING', 'ACTIVE');
begin
    update machserial.serial_conflicts as c
    set
        status = 'RESOLVED',
        resolution = case when is_kept then 'KEEP' when new.status = 'INVALID' then 'MARK_INVALID'
            else 'RETIRE' end,
        kept_serial_id = case when is_kept then new.id end,
        retired_serial_ids = case when is_kept then '{}' else array[new.id] end,
        reason = new.status_reason
    -- PENDING, said so that the index of all that are is not read instead.
    where c.serial_id = new.id and c.status <> 'RESOLVED';
    return null;
end
$$;

create function machserial._complete_resolution() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    if new.resolution is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('the conflict about %s needs a resolution', new.serial_number),
            detail = 'resolution is null.',
            hint = 'KEEP, RETIRE or MARK_INVALID; machserial.resolve_conflict(...) also carries it out.';
    end if;
    if new.resolution = 'KEEP' and new.kept_serial_id is null then
        if cardinality(new.conflicting_serial_ids) <> 1 then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('the conflict about %s: KEEP needs kept_serial_id', new.serial_number),
                detail = format('It is between: %s.', machserial._described(
                    new.conflicting_serial_ids || new.serial_id
                )),
                hint = 'Say whose number it is; machserial.resolve_conflict(...) also carries it out.';
        end if;
        new.kept_serial_id := new.conflicting_serial_ids[1];
    end if;
    if (select s.serial_number from machserial.serials as s where s.id = new.kept_serial_id)
        <> new.serial_number
    then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('serial %s does not have the number %s', new.kept_serial_id, new.serial_number),
            detail = format('It is %s.', machserial._described(array[new.kept_serial_id])),
            hint = 'Keep a serial that the conflict is about.';
    end if;
    new.reason := machserial._require_reason(
        new.reason, format('resolve the conflict about %s', new.serial_number)
    );
    new.retired_serial_ids := coalesce(new.retired_serial_ids, '{}');
    -- Only what is imported was resolved by somebody else at another time.
    if tg_op = 'UPDATE' or new.resolved_at is null then
        new.resolved_at := now();
    end if;
    if tg_op = 'UPDATE' or new.resolved_by is null then
        new.resolved_by := machserial._actor();
    end if;
    return new;
end
$$;

create function machserial._refuse_conflict_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    open_columns constant text[] := case old.status when 'PENDING' then array[
        'status', 'resolution', 'kept_serial_id', 'retired_serial_ids', 'resolved_at', 'resolved_by', 'reason'
    ] else '{}' end;
    changes constant jsonb := machserial._changes(to_jsonb(old), to_jsonb(new) - open_columns);
begin
    if changes is not null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format(
                'the conflict about %s is on record: it cannot be changed', old.serial_number
            ),
            detail = format('It is %s; the change is %s.', old.status, machserial._shown(changes::text)),
            hint = 'A PENDING conflict is resolved, once: machserial.resolve_conflict(...).';
    end if;
    return new;
end
$$;

create function machserial._audit_new_conflicts() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, reason, details
    )
    select
        'CONFLICT_DETECTED', current_setting('application_name'), n.serial_id, n.serial_number, n.part_id,
        n.site_id, coalesce(n.reason, nullif(current_setting('machserial.reason', true), '')),
        jsonb_build_object(
            'conflict_id', n.id, 'source', n.source, 'scopes', n.scopes,
            'conflicting_serial_ids', n.conflicting_serial_ids, 'conflicting_scopes', n.conflicting_scopes
        )
        -- Imported with its resolution.
        || case n.status when 'PENDING' then '{}' else jsonb_build_object(
            'status', n.status, 'resolution', n.resolution, 'kept_serial_id', n.kept_serial_id,
            'retired_serial_ids', n.retired_serial_ids, 'resolved_at', n.resolved_at,
            'resolved_by', n.resolved_by
        ) end
    from new_conflicts as n;
    return null;
end
$$;

create function machserial._audit_resolved_conflicts() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, reason, details
    )
    select
        'CONFLICT_RESOLVED', current_setting('application_name'), coalesce(n.kept_serial_id, n.serial_id),
        n.serial_number, n.part_id, n.site_id, n.reason, jsonb_build_object(
            'conflict_id', n.id, 'resolution', n.resolution, 'kept_serial_id', n.kept_serial_id,
            'retired_serial_ids', n.retired_serial_ids
        )
    from new_conflicts as n
    full join old_conflicts as o on o.id = n.id
    where n.status is distinct from o.status;
    return null;
end
$$;

-- The ids of the serials that conflicts about a number are between: those that were found then, and those
-- that want the number in the same scopes now.
create function machserial._conflict_parties(serial_number text, conflict_ids bigint[]) returns bigint[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    return array(
        select s.id
        from machserial.find_serial(serial_number) as s
        inner join machserial.serial_conflicts as c on c.id = any(conflict_ids)
        where
            s.id = c.serial_id or s.id = any(c.conflicting_serial_ids)
            or machserial._shared_scopes(
                s.scopes, s.site_id, s.part_type, c.scopes, c.site_id,
                (select p.part_type from machserial.parts as p where p.id = c.part_id)
            ) <> '{}'
        group by s.id
        order by s.id
    );
end
$$;

-- The ids of those that keep a serial from its number, or want it in the same scopes.
create function machserial._competing_claims(serial_id bigint) returns bigint[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    kept constant machserial.serial := machserial._serial(serial_id);
begin
    return array(
        select s.id
        from machserial.serials as s
        where
            s.id = any(array(select f.id from machserial.find_serial(kept.serial_number) as f))
            and s.id <> kept.id and (s.holds_claim or s.status = 'CONFLICT')
            and machserial._shared_scopes(
                s.scopes, s.site_id, s.part_type, kept.scopes, kept.site_id, kept.part_type
            ) <> '{}'
        order by s.id
    );
end
$$;

create function machserial._described(serial_ids bigint[]) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    return coalesce((
        select string_agg(
            format(
                'serial %s: %s of part %s at site %s, %s', s.id, s.serial_number, s.part_id, s.site_id,
                s.status
            ), '; ' order by s.id
        )
        from machserial.serials as s
        where s.id = any(serial_ids)
    ), 'none');
end
$$;

-- A serial that a resolution names has to be one that the conflict is about.
create function machserial._require_party(
    argument text, serial_id bigint, serial_number text, parties bigint[]
)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if serial_id <> all(parties) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format(
                '%s %s has no part in the conflict about %s', argument, serial_id, serial_number
            ),
            detail = format(
                'This id means: %s. The conflict is between: %s.',
                machserial._described(array[serial_id]), machserial._described(parties)
            ),
            hint = 'Give one of these ids; uniqueness_report(...) tells about them.';
    end if;
end
$$;

-- A retired serial may keep its number, which is not used twice; one that has given it up gets it back never.
create function machserial._require_keepable(serial_id bigint) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    if not exists (
        select from machserial.serials as s
        where s.id = serial_id and (s.holds_claim or s.status = 'CONFLICT')
    ) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('serial %s cannot be kept: it has given up its number', serial_id),
            detail = format('It is %s.', machserial._described(array[serial_id])),
            hint = 'Keep one that has the number; RETIRE frees it, to be registered for another part.';
    end if;
end
$$;

-- Whom RETIRE and MARK_INVALID are against: the one that is named, else all rivals of the one to be kept,
-- else the only one that holds the number.
create function machserial._serials_to_release(
    serial_number text, parties bigint[], keep_serial_id bigint, retired_serial_id bigint
)
returns bigint[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    holders constant bigint[] := array(
        select s.id from machserial.serials as s where s.id = any(parties) and s.holds_claim order by s.id
    );
begin
    if retired_serial_id is not null then
        if not exists (
            select from machserial.serials as s
            where s.id = retired_serial_id and (s.holds_claim or s.status = 'CONFLICT')
        ) then
            raise exception using
                errcode = 'object_not_in_prerequisite_state',
                message = format('serial %s has no claim to give up', retired_serial_id),
                detail = format('It is %s.', machserial._described(array[retired_serial_id])),
                hint = format('The number is held by: %s.', machserial._described(holders));
        end if;
        return array[retired_serial_id];
    elsif keep_serial_id is not null then
        return machserial._competing_claims(keep_serial_id);
    elsif cardinality(holders) > 1 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('which serial is to give up the number %s?', serial_number),
            detail = format('It is held by: %s.', machserial._described(holders)),
            hint = 'Name it as retired_serial_id, or as keep_serial_id the one that all others give way to.';
    end if;
    return holders;
end
$$;

-- Waits for whoever resolves the same conflicts at this moment. Serials are locked before conflicts, as by
-- the trigger that follows a serial out of its conflict.
create function machserial._lock_pending_conflicts(serial_number text, part_id text) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    pending bigint[];
    last_resolved record;
begin
    perform s.id
    from machserial.serials as s
    where s.id = any(array(
        select f.id from machserial.find_serial(_lock_pending_conflicts.serial_number) as f
    ))
    order by s.id
    for no key update;
    pending := array(
        select c.id
        from machserial.serial_conflicts as c
        where
            c.serial_number = _lock_pending_conflicts.serial_number
            and c.part_id = _lock_pending_conflicts.part_id
            -- PENDING, said so that the index of all that are is not read instead.
            and c.status <> 'RESOLVED'
        order by c.id
        for update
    );
    if pending <> '{}' then
        return pending;
    end if;
    select c.* into last_resolved
    from machserial.serial_conflicts as c
    where
        c.serial_number = _lock_pending_conflicts.serial_number
        and c.part_id = _lock_pending_conflicts.part_id
    order by c.resolved_at desc, c.id desc
    limit 1;
    if last_resolved.id is null then
        raise exception using
            errcode = 'no_data_found',
            message = format(
                'there is no conflict about %s of part %s', machserial._shown(serial_number), part_id
            ),
            detail = 'machserial.serial_conflicts has no such row.',
            hint = 'See what is open: select * from machserial.pending_conflicts();';
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('the conflict about %s of part %s is resolved already', serial_number, part_id),
        detail = format(
            'At %s by %s, %s: %s', last_resolved.resolved_at, last_resolved.resolved_by,
            last_resolved.resolution, last_resolved.reason
        ),
        hint = 'There is nothing left to do; machserial.conflict_history(part_id) tells the rest.';
end
$$;

-- KEEP sends back what was not in use yet; what was in use goes out of use and gives its number up. The other
-- two free the number whatever became of the serial.
create function machserial._release_claims(serial_ids bigint[], resolution text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    update machserial.serials as s
    set
        status = case
            when resolution = 'MARK_INVALID' or s.status = 'INVALID' then 'INVALID'
            when resolution = 'KEEP' and s.status in ('PENDING', 'CONFLICT') then 'REJECTED'
            else 'RETIRED'
        end,
        claim_released = resolution <> 'KEEP' or s.status not in ('PENDING', 'CONFLICT')
    where s.id = any(serial_ids);
end
$$;

-- The one that is kept takes its number. What a vendor has sent and nobody has accepted waits for that again.
create function machserial._reactivate(serial_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    kept constant machserial.serial := machserial._serial(serial_id);
    broken_constraint text;
begin
    update machserial.serials as s
    set status = case
        when exists (
            select from machserial.vendor_serials as v where v.id = s.id and v.accepted_at is null offset 0
        ) then 'PENDING'
        else 'ACTIVE'
    end
    where s.id = kept.id and s.status = 'CONFLICT';
exception when unique_violation then
    get stacked diagnostics broken_constraint = constraint_name;
    if not machserial._is_claim(broken_constraint) then
        raise;
    end if;
    raise exception using
        errcode = 'unique_violation',
        message = format('serial %s cannot have the number %s yet', kept.id, kept.serial_number),
        detail = format('It is claimed in %s.', coalesce((
            select c.description
            from machserial._claims_for_number(kept.serial_number, kept.scopes, kept.site_id, kept.part_type) as c
        ), 'a concurrent transaction')),
        hint = 'Leave retired_serial_id out: then all others give way to keep_serial_id.',
        table = 'serials', schema = 'machserial';
end
$$;

-- Which serial keeps the number and which give it up. Without keep_serial_id the only one left keeps it.
create function machserial._decision(
    serial_number text, conflict_ids bigint[], resolution text, keep_serial_id bigint,
    retired_serial_id bigint, out kept_id bigint, out loser_ids bigint[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    parties constant bigint[] := machserial._conflict_parties(serial_number, conflict_ids);
    left_ids bigint[];
    undecided bigint[];
begin
    perform machserial._require_party('keep_serial_id', keep_serial_id, serial_number, parties);
    perform machserial._require_party('retired_serial_id', retired_serial_id, serial_number, parties);
    if resolution = 'KEEP' and keep_serial_id is null or keep_serial_id = retired_serial_id then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s needs the keep_serial_id of another serial', resolution),
            detail = format('The conflict is between: %s.', machserial._described(parties)),
            hint = 'Give as keep_serial_id the serial whose number it is.';
    end if;
    if keep_serial_id is not null then
        perform machserial._require_keepable(keep_serial_id);
    end if;
    if resolution = 'KEEP' then
        loser_ids := machserial._competing_claims(keep_serial_id);
        perform machserial._require_party(
            'retired_serial_id', retired_serial_id, serial_number, loser_ids || keep_serial_id
        );
    else
        loser_ids := machserial._serials_to_release(serial_number, parties, keep_serial_id, retired_serial_id);
    end if;
    left_ids := array(
        select s.id from machserial.serials as s
        where
            s.id = any(parties) and s.id <> all(loser_ids)
            and s.status not in ('REJECTED', 'RETIRED', 'INVALID')
    );
    kept_id := coalesce(keep_serial_id, case when cardinality(left_ids) = 1 then left_ids[1] end);
    undecided := array(
        select c.serial_id from machserial.serial_conflicts as c
        where
            c.id = any(conflict_ids) and c.serial_id = any(left_ids) and c.serial_id is distinct from kept_id
    );
    if undecided <> '{}' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('nothing would be decided about %s', machserial._described(undecided)),
            detail = format('Left would be: %s.', machserial._described(left_ids)),
            hint = 'Give keep_serial_id and no retired_serial_id: then all others give way.';
    end if;
end
$$;

-- "inout": the argument and the result column have one name.
create function machserial.resolve_conflict(
    inout serial_number text, inout part_id text, inout resolution text, keep_serial_id bigint default null,
    retired_serial_id bigint default null, inout reason text default null,
    out conflict_id bigint, out status text, out kept_serial_id bigint, out retired_serial_ids bigint[],
    out resolved_at timestamptz, out resolved_by text
)
returns setof record
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    number constant text := machserial._trimmed(resolve_conflict.serial_number);
    wanted constant text := machserial._require_one_of(
        'resolution', resolve_conflict.resolution, '{KEEP,RETIRE,MARK_INVALID}'
    );
    given_reason constant text := machserial._require_reason(
        resolve_conflict.reason,
        format('resolve the conflict about %s', number)
    );
    reason_before constant text := coalesce(current_setting('machserial.reason', true), '');
    conflict_ids bigint[];
    decision record;
begin
    perform machserial._require_text('serial_number', number);
    perform machserial._require_known_part(resolve_conflict.part_id);
    conflict_ids := machserial._lock_pending_conflicts(
        number, resolve_conflict.part_id
    );
    select d.* into decision
    from machserial._decision(
        number, conflict_ids, wanted, resolve_conflict.keep_serial_id,
        resolve_conflict.retired_serial_id
    ) as d;
    perform set_config('machserial.reason', given_reason, true);
    -- Before the serials, whose leaving CONFLICT would else resolve each conflict by itself.
    update machserial.serial_conflicts as c
    set
        status = 'RESOLVED', resolution = wanted, kept_serial_id = decision.kept_id,
        retired_serial_ids = decision.loser_ids
    where c.id = any(conflict_ids);
    perform machserial._release_claims(decision.loser_ids, wanted);
    if decision.kept_id is not null then
        perform machserial._reactivate(decision.kept_id);
    end if;
    perform set_config('machserial.reason', reason_before, true);
    return query
    select
        c.serial_number, c.part_id, c.resolution, c.reason, c.id, c.status, c.kept_serial_id,
        c.retired_serial_ids, c.resolved_at, c.resolved_by
    from machserial.serial_conflicts as c
    where c.id = any(conflict_ids)
    order by c.id;
end
$$;

comment on function machserial.resolve_conflict(text, text, text, bigint, bigint, text) is
'Decides whose a number is: resolves all PENDING conflicts about it that arose for this part.
resolution KEEP: keep_serial_id has the number; the others that want it in the same scopes are REJECTED if
they were PENDING or in CONFLICT, else RETIRED and their claims released. RETIRE, MARK_INVALID:
retired_serial_id becomes RETIRED or INVALID and its claim is released, so that the number can be registered
anew; left out, it is all others than keep_serial_id, or else the only serial that holds the number. What is
kept and was in CONFLICT becomes ACTIVE (a vendor''s, if not yet accepted, PENDING). reason: why; null means
machserial.reason. Returns the conflicts. Everything happens or nothing, and leaves its events.
Errors: 54000 a text that is too long; 22023 a missing or faulty argument, or a serial that has no part in
it; 23503 unknown part; 23505 the serial to be kept cannot have the number, because another claims it that
was not to give way; 55000 the conflict is resolved already, or the serial named is out of use; P0002 there
never was such a conflict.';

-- What is on record

-- The conflicts that arose for a part and have a status; null means any.
create function machserial._conflicts(part_id text, status text) returns setof machserial.serial_conflict
language plpgsql stable
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan
as $$
begin
    if part_id is not null then
        perform machserial._require_known_part(part_id);
    end if;
    return query
    select
        c.id, c.serial_number, c.part_id, c.site_id, c.scopes, c.source, c.serial_id,
        c.conflicting_serial_ids, c.conflicting_scopes, c.status, c.detected_at, c.detected_by, c.resolution,
        c.kept_serial_id, c.retired_serial_ids, c.resolved_at, c.resolved_by, c.reason
    from machserial.serial_conflicts as c
    where
        (_conflicts.part_id is null or c.part_id = _conflicts.part_id)
        and (_conflicts.status is null or c.status = _conflicts.status);
end
$$;

create function machserial.pending_conflicts(part_id text default null)
returns setof machserial.serial_conflict
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select c.* from machserial._conflicts(part_id, 'PENDING') as c order by c.detected_at, c.id;
end
$$;

comment on function machserial.pending_conflicts(text) is
'The conflicts that wait for a decision, oldest first: those that arose for a part, or with null all.
resolve_conflict() decides them. Errors: 23503 unknown part.';

create function machserial.conflict_history(part_id text default null)
returns setof machserial.serial_conflict
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select c.* from machserial._conflicts(part_id, null) as c order by c.detected_at desc, c.id desc;
end
$$;

comment on function machserial.conflict_history(text) is
'Every conflict that arose for a part, or with null for any, newest first, with how it was resolved.
Errors: 23503 unknown part.';
