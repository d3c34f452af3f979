-- Months that leave the database for files, and come back. The command machserial audit archive writes and
-- reads the files; here stands what only the database can say: that they are what was sealed.

-- The table of a month whose partition was detached.
create function machserial._detached_partition(month date) returns regclass
language sql stable
return machserial._own_audit_table(machserial._audit_partition(month) || '_archived');

-- Whether nobody can write events of the month any more: it has ended, and so has every transaction that
-- began in it. When a prepared transaction began nobody knows.
create function machserial._is_over(month date) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    ends_at constant timestamptz := (month + '1 month'::interval) at time zone 'UTC';
begin
    return machserial._oldest_transaction_at() >= ends_at
        and not exists (select from pg_prepared_xacts as p where p.database = current_database());
end
$$;

-- How many events of a month no seal holds.
create function machserial._unsealed_events(month date, relation regclass) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    everything constant bigint := 9223372036854775807;
    event_range machserial._event_range;
    in_incarnation bigint;
    unsealed bigint := 0;
begin
    for event_range in
        select relation, i.after_id, i.last_id, u.transaction_id, u.event_id, everything, everything
        from machserial._incarnations() as i
        cross join lateral machserial._sealed_up_to(i.incarnation, _unsealed_events.month, everything) as u
    loop
        execute format('select count(*) from %s as e where %s', relation, machserial._in_event_range(event_range))
        into in_incarnation;
        unsealed := unsealed + in_incarnation;
    end loop;
    return unsealed;
end
$$;

create function machserial.audit_months()
returns table (
    month date, is_attached boolean, relation text, seals bigint, events bigint, first_seal_id bigint,
    last_seal_id bigint, unsealed_events bigint, is_archived boolean, is_over boolean
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform machserial._require_administrator('machserial.audit_months()');
    return query
    with sealed as (
        select
            s.month, count(*) as seals, sum(s.event_count)::bigint as events, min(s.id) as first_seal_id,
            max(s.id) as last_seal_id
        from machserial.audit_seals as s
        where s.month is not null
        group by s.month
    ),
    archived as (
        select a.month, max(a.last_seal_id) as last_seal_id from machserial.audit_archives as a group by a.month
    ),
    detached as (
        select to_date(substring(c.relname from '20[2-9][0-9]_[0-9]{2}'), 'YYYY_MM') as month, c.oid::regclass as relation
        from pg_class as c
        where
            c.relnamespace = 'machserial'::regnamespace
            and c.relname ~ '^audit_events_20[2-9][0-9]_(0[1-9]|1[0-2])_archived$'
            and c.oid = machserial._own_audit_table(c.relname)
    ),
    placed as (
        select m.month, p.relation as attached, d.relation as detached
        from (
            select p.month from machserial._audit_partitions() as p where p.month is not null
            union
            select d.month from detached as d
            union
            select s.month from sealed as s
        ) as m
        left join machserial._audit_partitions() as p on p.month = m.month
        left join detached as d on d.month = m.month
    )
    select
        p.month, p.attached is not null, coalesce(p.attached, p.detached)::text,
        coalesce(s.seals, 0), coalesce(s.events, 0), s.first_seal_id, s.last_seal_id,
        case
            when p.attached is null then 0 else machserial._unsealed_events(p.month, p.attached)
        end,
        coalesce(a.last_seal_id >= s.last_seal_id, false), machserial._is_over(p.month)
    from placed as p
    left join sealed as s on s.month = p.month
    left join archived as a on a.month = p.month
    order by p.month;
end
$$;

comment on function machserial.audit_months() is
'The months of the audit trail: where their events are (relation: the partition, or the table that was
detached; null: only in an archive), how much of them is sealed, whether an archive holds all that is, and
whether the month is over for everybody who could still write to it.';

-- How many events of the month's seals stand in the table, all of them as they were sealed and none besides;
-- 55000 otherwise.
create function machserial._require_intact_month(month date, relation regclass) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    problem record;
    events bigint;
begin
    select p.* into problem
    from machserial._verify_seals(1, 9223372036854775807, _require_intact_month.month, relation) as p
    limit 1;
    if found then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('the audit events of %s are not as they were sealed', to_char(month, 'YYYY-MM')),
            detail = format('Seal %s, %s, event %s: %s', problem.seal_id, problem.problem,
                coalesce(problem.event_id::text, 'unknown'), problem.detail),
            hint = 'See machserial.verify_audit(full => true).';
    end if;
    execute format('select count(*) from %s', relation) into events;
    return events;
end
$$;

-- Whether an archive of the same content is on record, so that this is a further copy of it.
create function machserial._is_archived(
    month date, first_seal_id bigint, last_seal_id bigint, event_count bigint, merkle_root bytea
)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select from machserial.audit_archives as a
        inner join machserial._sound_archives() as s on s.id = a.id
        where (a.month, a.first_seal_id, a.last_seal_id, a.event_count, a.merkle_root) = (
            _is_archived.month, _is_archived.first_seal_id, _is_archived.last_seal_id,
            _is_archived.event_count, _is_archived.merkle_root
        )
    );
end
$$;

-- That what is to be archived of a month is all that is sealed of it and in no archive yet; 55000 otherwise.
create function machserial._require_archivable(
    month date, first_seal_id bigint, last_seal_id bigint, event_count bigint, merkle_root bytea
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    attached regclass;
    expected record;
begin
    select p.relation into attached from machserial._audit_partitions() as p where p.month = _require_archivable.month;
    if attached is null or not machserial._is_over(_require_archivable.month)
        or machserial._unsealed_events(_require_archivable.month, attached) > 0
    then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('the audit events of %s cannot be archived', to_char(month, 'YYYY-MM')),
            detail = case
                when attached is null then 'They have no partition here.'
                when not machserial._is_over(_require_archivable.month)
                    then 'The month is not over for every open transaction.'
                else 'Not all of them are sealed.'
            end,
            hint = 'See machserial.audit_months(), and seal with machserial.seal_audit().';
    end if;
    perform machserial._require_intact_month(_require_archivable.month, attached);
    select
        min(s.id) as first_seal_id, max(s.id) as last_seal_id, sum(s.event_count)::bigint as event_count,
        machserial._archive_root(_require_archivable.month, min(s.id), max(s.id)) as merkle_root
    into expected
    from machserial.audit_seals as s
    where s.month = _require_archivable.month and s.id > coalesce(
        (select max(a.last_seal_id) from machserial.audit_archives as a where a.month = _require_archivable.month),
        0
    );
    if (expected.first_seal_id, expected.last_seal_id, expected.event_count, expected.merkle_root)
        is distinct from (
            _require_archivable.first_seal_id, _require_archivable.last_seal_id,
            _require_archivable.event_count, _require_archivable.merkle_root
        )
    then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('the archive of %s does not hold what is sealed', to_char(month, 'YYYY-MM')),
            detail = format(
                'Sealed: %s events in seals %s to %s, root %s. Archived: %s events in seals %s to %s, root %s.',
                expected.event_count, expected.first_seal_id, expected.last_seal_id,
                encode(expected.merkle_root, 'hex'), _require_archivable.event_count,
                _require_archivable.first_seal_id, _require_archivable.last_seal_id,
                encode(_require_archivable.merkle_root, 'hex')
            ),
            hint = 'Export the month again.';
    end if;
end
$$;

-- Only who can detach a month, the owner, says that it is archived: what is on record may be dropped.
create function machserial.record_archive(
    month date, first_seal_id bigint, last_seal_id bigint, event_count bigint, merkle_root bytea,
    manifest_sha256 text, location text
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    archive_id bigint;
begin
    perform machserial._require_owners_rights('machserial.record_archive()');
    perform machserial._require_month(record_archive.month);
    select a.id into archive_id
    from machserial.audit_archives as a
    where
        a.month = record_archive.month and a.last_seal_id = record_archive.last_seal_id
        and a.merkle_root = record_archive.merkle_root and a.manifest_sha256 = record_archive.manifest_sha256;
    if archive_id is not null then
        return archive_id;
    end if;
    if not machserial._is_archived(month, first_seal_id, last_seal_id, event_count, merkle_root) then
        perform machserial._require_archivable(month, first_seal_id, last_seal_id, event_count, merkle_root);
    end if;
    insert into machserial.audit_archives (
        month, first_seal_id, last_seal_id, event_count, merkle_root, manifest_sha256, location
    )
    values (
        record_archive.month, record_archive.first_seal_id, record_archive.last_seal_id,
        record_archive.event_count, record_archive.merkle_root, record_archive.manifest_sha256,
        record_archive.location
    )
    returning id into archive_id;
    perform machserial._audit('AUDIT_ARCHIVED', null, null, jsonb_build_object(
        'month', record_archive.month, 'archive_id', archive_id, 'events', record_archive.event_count,
        'manifest_sha256', record_archive.manifest_sha256, 'location', record_archive.location
    ));
    return archive_id;
end
$$;

comment on function machserial.record_archive(date, bigint, bigint, bigint, bytea, text, text) is
'Puts on record that a month''s events (of its seals first_seal_id to last_seal_id) are in files as well,
after comparing them with what is here: merkle_root is the root over the seals'' roots (docs/audit.md).
The same archive again gives the same id; another one of the same events, made because the first was lost,
is a further row. Called by machserial audit archive.
Errors: 22023 no month; 55000 the month is not over or not sealed, or the archive is not what is sealed;
42501 not the owner, who alone can detach what is archived.';

-- Leaves go with the last of their month's events, and nobody can delete any that have events here.
create function machserial._refuse_loss_of_leaves() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    away constant int8multirange := machserial._seals_that_are_away(null, null);
    lost record;
begin
    select g.seal_id, s.month into lost
    from old_leaves as g
    left join machserial.audit_seals as s on s.id = g.seal_id
    where not (g.seal_id <@ away) or machserial._detached_partition(s.month) is not null
    limit 1;
    if found then
        raise exception using
            errcode = 'insufficient_privilege',
            message = 'audit_leaves is append-only',
            detail = format('DELETE of what seal %s consists of, whose events are not in an archive only.', lost.seal_id),
            hint = 'Leaves go by machserial audit archive --drop.';
    end if;
    return null;
end
$$;

-- What the seals of a month consist of, if none of its events is here any more: the archive tells it.
create function machserial._forget_leaves(month date) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if machserial._own_audit_table(machserial._audit_partition(month)) is null then
        delete from machserial.audit_leaves as l
        using machserial.audit_seals as s
        where s.id = l.seal_id and s.month = _forget_leaves.month;
    end if;
end
$$;

-- Computes them again from events that came back, where these are as they were sealed.
create function machserial._remember_leaves(month date, relation regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    seal machserial._seal;
    content machserial._content;
begin
    for seal in
        select s.*
        from machserial._seals(1, 9223372036854775807) as s
        where
            s.month = _remember_leaves.month
            and not exists (select from machserial.audit_leaves as l where l.seal_id = s.id)
    loop
        content := machserial._content_of(machserial._event_range_of(seal, relation));
        if content.event_count = seal.event_count and machserial._merkle_root(content.leaves) = seal.merkle_root then
            insert into machserial.audit_leaves (seal_id, event_ids, leaf_hashes)
            values (seal.id, content.event_ids, content.leaves);
        end if;
    end loop;
end
$$;

-- Only who says that a month is archived drops it: an administrator can do neither.
create function machserial.drop_archived(month date) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    detached regclass;
    last_seal_id bigint;
    missing_seal_id bigint;
    unsealed bigint;
    events bigint;
begin
    perform machserial._require_owners_rights('machserial.drop_archived()');
    perform machserial._require_month(drop_archived.month);
    detached := machserial._detached_partition(drop_archived.month);
    if detached is null then
        return false;
    end if;
    last_seal_id := (select max(s.id) from machserial.audit_seals as s where s.month = drop_archived.month);
    -- Each seal must be in an archive that was made of its seals: root and count are theirs.
    missing_seal_id := (
        select min(s.id) from machserial.audit_seals as s
        where s.month = drop_archived.month and not exists (
            select from machserial._sound_archives() as a
            where a.month = s.month and s.id between a.first_seal_id and a.last_seal_id
        )
    );
    unsealed := machserial._unsealed_events(drop_archived.month, detached);
    if unsealed > 0 or missing_seal_id is not null or last_seal_id is null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('%s is not archived', detached),
            detail = case
                when last_seal_id is null then 'Its month has no seals.'
                when unsealed > 0 then format('%s of its events are not even sealed.', unsealed)
                else format('Its seal %s is in no archive on record that is what was sealed.', missing_seal_id)
            end,
            hint = 'Attach it again with machserial.restore_archived(month), seal, and archive the month.';
    end if;
    events := machserial._require_intact_month(drop_archived.month, detached);
    execute format('drop table %s', detached);
    perform machserial._forget_leaves(drop_archived.month);
    perform machserial._audit('AUDIT_DROPPED', null, null, jsonb_build_object(
        'month', drop_archived.month, 'events', events, 'last_seal_id', last_seal_id
    ));
    return true;
end
$$;

comment on function machserial.drop_archived(date) is
'Drops the detached table of an archived month, whose events are then in the archive only, and what its seals
consist of (audit_leaves). Returns whether there was one. Called by machserial audit archive --drop, which verifies the files before.
Errors: 22023 no month; 55000 the month is not archived, or the table is not what was sealed; 42501 not the
owner, who alone records what is archived.';

create function machserial.restore_archived(month date) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    name text;
begin
    perform machserial._require_administrator('machserial.restore_archived()');
    perform machserial._require_month(restore_archived.month);
    name := machserial._audit_partition(restore_archived.month);
    if to_regclass('machserial.' || name) is null
        and machserial._detached_partition(restore_archived.month) is not null
    then
        execute format(
            'alter table %s rename to %I', machserial._detached_partition(restore_archived.month), name
        );
    end if;
    if machserial._own_audit_table(name) is not null and not exists (
        select from machserial._audit_partitions() as p where p.month = restore_archived.month
    ) then
        execute format(
            'alter table machserial.audit_events attach partition machserial.%I for values from (%L) to (%L)',
            name, machserial._month_begins(restore_archived.month),
            machserial._month_begins((restore_archived.month + '1 month'::interval)::date)
        );
    else
        perform machserial._make_audit_partition(restore_archived.month);
    end if;
    return 'machserial.' || name;
end
$$;

comment on function machserial.restore_archived(date) is
'Makes the partition of a month (its first day) to which archived events come back, or attaches the one
that was only detached. Returns its name. Called by machserial audit restore.
Errors: 22023 no month; 42501 neither the owner nor an administrator.';

create function machserial.verify_archived(month date) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    attached regclass;
    events bigint;
begin
    perform machserial._require_administrator('machserial.verify_archived()');
    perform machserial._require_month(verify_archived.month);
    select p.relation into attached from machserial._audit_partitions() as p where p.month = verify_archived.month;
    if attached is null then
        return 0;
    end if;
    -- Events that were copied in are in no range of the index yet, and each seal would read them all.
    perform machserial._summarize(attached);
    perform machserial._remember_leaves(verify_archived.month, attached);
    events := machserial._require_intact_month(verify_archived.month, attached);
    perform machserial._audit('AUDIT_RESTORED', null, null, jsonb_build_object(
        'month', verify_archived.month, 'events', events
    ));
    return events;
end
$$;

comment on function machserial.verify_archived(date) is
'After events have come back: that all of the month that are here are as they were sealed. What their seals
consist of (audit_leaves) comes back as well. Returns how many there are, and puts that on record. Called by machserial audit restore.
Errors: 22023 no month; 55000 one is missing, changed, or was never sealed.';
