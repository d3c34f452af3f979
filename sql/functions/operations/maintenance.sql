-- Looking after a database that machserial lives in.

create function machserial.set_node(node integer) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    first_id constant bigint := node::bigint << 48;
    last_id constant bigint := first_id + ((1::bigint << 48) - 1);
    identity_column record;
    highest_id bigint;
    settled_audit_id bigint;
begin
    if node is null or node not between 0 and 32767 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('node cannot be %s', coalesce(node::text, 'null')),
            detail = 'It is 0 to 32767.',
            hint = 'Give each database that will be merged a number of its own.';
    end if;
    perform machserial._require_administrator('machserial.set_node()');
    settled_audit_id := machserial._hold_audit_trail();
    for identity_column in
        select
            r.relname as relation, c.attname as name,
            pg_get_serial_sequence(c.attrelid::regclass::text, c.attname)::regclass as sequence
        from pg_attribute as c
        inner join pg_class as r on r.oid = c.attrelid and r.relnamespace = 'machserial'::regnamespace
        where c.attidentity <> '' and not r.relispartition
        order by c.attrelid
    loop
        -- A database that was this node before has ids of its range already.
        execute format(
            'select max(%I) from machserial.%I where %1$I between $1 and $2',
            identity_column.name, identity_column.relation
        )
        into highest_id using first_id, last_id;
        if identity_column.relation = 'audit_events' then
            -- Months that are only in an archive have had ids as well.
            highest_id := greatest(highest_id, (
                select max(s.last_event_id) from machserial.audit_seals as s
                where s.last_event_id between first_id and last_id
            ));
        end if;
        perform setval(
            identity_column.sequence, greatest(coalesce(highest_id, first_id), 1), highest_id is not null
        );
    end loop;
    perform machserial._change_incarnation(settled_audit_id, machserial._last_audit_id());
end
$$;

comment on function machserial.set_node(integer) is
'Moves the ids that this database gives from now on to the range of node (node << 48), so that databases of
several sites can be merged without collisions. node: 0 to 32767. Seals what there is of the audit trail,
which goes on in another range; until its transaction ends nobody else writes.
Errors: 22023 another number; 42501 neither the owner nor an administrator; 55P03 others are writing or
sealing, and go on with it
; 0A000 in a transaction other than READ COMMITTED.';

-- What maintain() may drop: what is older than the setting says. The newest run without a problem stays.
create function machserial._may_drop_verification(verification_id bigint, verified_at timestamptz)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return
        verified_at < machserial._kept_since('verification_retention_days')
        and exists (
            select from machserial.audit_verifications as v
            where v.id > _may_drop_verification.verification_id and v.problems = 0
        );
end
$$;

create function machserial._refuse_loss_of_verification() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from lost) and not exists (
        select from lost as l where not machserial._may_drop_verification(l.id, l.verified_at)
    ) then
        return null;
    end if;
    raise exception using
        errcode = 'insufficient_privilege',
        message = 'records of verifications are kept',
        detail = format('DELETE on machserial.%I.', tg_table_name),
        hint = 'machserial.maintain() drops it when it is older than the setting verification_retention_days, '
            'and a later run has found no problem.';
end
$$;

create function machserial._drop_old_verifications() returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    old_ones constant bigint[] := array(
        select v.id from machserial.audit_verifications as v
        where machserial._may_drop_verification(v.id, v.verified_at)
    );
begin
    if old_ones <> '{}' then
        delete from machserial.audit_verifications as v where v.id = any(old_ones);
    end if;
    return cardinality(old_ones);
end
$$;

-- The same calls are new ones from then on. Returns how many were forgotten.
create function machserial._forget_old_requests() returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    forgotten integer;
begin
    delete from machserial.requests as r
    where r.created_at < machserial._kept_since('request_retention_days');
    get diagnostics forgotten = row_count;
    return forgotten;
end
$$;

create function machserial.maintain() returns table (task text, done integer, remaining integer)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_all_sites('machserial.maintain()');
    perform machserial._tell_unknown_time_zones();
    remaining := 0;
    -- First: what this transaction itself has written can only be sealed after its end.
    task := 'audit events sealed';
    done := case current_setting('transaction_isolation')
        when 'read committed' then machserial.seal_audit() else 0
    end;
    return next;
    task := 'audit partitions made';
    done := machserial._make_audit_partitions(now(), 3);
    return next;
    task := 'counters made ahead';
    select c.done, c.remaining into done, remaining from machserial._make_due_counters() as c;
    return next;
    task := 'counters retired';
    select c.done, c.remaining into done, remaining from machserial._retire_counters() as c;
    return next;
    task := 'unused formats of patterns dropped';
    select f.done, f.remaining into done, remaining from machserial._drop_unused_formats() as f;
    return next;
    remaining := 0;
    task := 'numbering plans dropped';
    done := machserial._drop_outdated_plans();
    return next;
    task := 'blocks expired';
    done := machserial._expire_blocks();
    return next;
    task := 'trigger executions summed up';
    done := machserial._fold_executions();
    return next;
    task := 'records of verifications dropped';
    done := machserial._drop_old_verifications();
    return next;
    task := 'requests forgotten';
    done := machserial._forget_old_requests();
    return next;
end
$$;

comment on function machserial.maintain() is
'What must be done from time to time, safe at any time and from any scheduler: audit partitions for the
coming three months, counters of today and tomorrow for what was counted in the last week, an end to those
whose period is over or whose version was replaced, an end to formats of patterns that no serial has, with
renderer and sequence, an end to blocks past their expires_at, sums in place of single executions of triggers,
seals for the audit events, an end to records of verifications and of repeatable calls that are older than the
settings say. Returns what was done, and what remains: of counters and formats, one call makes and drops a
tenth of what the server''s lock table holds. Where something remains, call it again, in another transaction;
machserial maintain does.
Errors: 42501 a role that is limited to sites.';
