-- Verification: every event against its seal, every seal against the chain, and nothing beside them.

create type machserial.audit_problem as (
    seal_id bigint,
    problem text,
    event_id bigint,
    detail text
);

comment on type machserial.audit_problem is 'Something that verify_audit() found.';

-- Seals one by one: hashes, and that each follows the one before.
create function machserial._verify_chain(first_id bigint, last_id bigint)
returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
set jit = off
as $$
begin
    return query
    select p.*
    from (
        select
            s.id, s.seal_hash, s.previous_hash, machserial._seal_hash(s.*) as computed_hash,
            lag(s.id) over (order by s.id) as previous_id, lag(s.seal_hash) over (order by s.id) as expected_hash
        from machserial._seals(first_id - 1, last_id) as s
    ) as s
    cross join lateral (
        select
            s.id, 'SEAL_CHANGED', null::bigint, 'Its seal_hash is not that of what it says.'
        where s.seal_hash is distinct from s.computed_hash
        union all
        select
            s.id, 'CHAIN_BROKEN', null::bigint,
            format('Its previous_hash is not the seal_hash of seal %s.', s.previous_id)
        where s.previous_id = s.id - 1 and s.previous_hash is distinct from s.expected_hash
    ) as p
    where s.id >= first_id;
end
$$;

-- What can be told of all seals without looking at them: that they are 1, 2, 3, ... up to the newest.
create function machserial._verify_seal_count(newest_id bigint) returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select s.id, 'SEAL_INSERTED', null::bigint, 'Seals are counted from 1.'
    from machserial.audit_seals as s
    where s.id < 1
    union all
    select l.seal_id, 'SEAL_MISSING', null::bigint, 'Only its leaves are left.'
    from machserial.audit_leaves as l
    where
        l.seal_id > newest_id
        and not exists (select from machserial.audit_seals as s where s.id = l.seal_id);
    if (select count(*) from machserial.audit_seals as s where s.id >= 1) = newest_id then
        return;
    end if;
    return query
    select g.next_id, 'SEAL_MISSING', null::bigint, format('Between %s and %s there is none.', g.id, g.next_id)
    from (
        select s.id, lead(s.id) over (order by s.id) as next_id
        from (select a.id from machserial.audit_seals as a where a.id >= 1 union select 0) as s
    ) as g
    where g.next_id - g.id > 1;
end
$$;

-- Which events make a seal false, told by the leaves on record. no_more_than: how many are named.
create function machserial._name_culprits(
    seal machserial._seal, content machserial._content, no_more_than integer
)
returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
declare
    recorded record;
    culprits bigint;
begin
    select l.event_ids, l.leaf_hashes into recorded from machserial.audit_leaves as l where l.seal_id = seal.id;
    if recorded.leaf_hashes is null then
        return query values (
            seal.id, 'LEAVES_MISSING', null::bigint,
            'Its events are not as they were sealed, and what it consisted of is gone from audit_leaves.'
        );
        return;
    elsif recorded.leaf_hashes = content.leaves and recorded.event_ids = content.event_ids then
        return query values (
            seal.id, 'SEAL_CHANGED', null::bigint, 'Its merkle_root or event_count is not that of its events.'
        );
        return;
    elsif machserial._merkle_root(recorded.leaf_hashes) <> seal.merkle_root
        or cardinality(recorded.event_ids) <> seal.event_count
    then
        return query values (
            seal.id, 'LEAVES_CHANGED', null::bigint,
            'Neither its events nor what audit_leaves says of them is as it was sealed.'
        );
        return;
    end if;
    return query
    with sealed as materialized (
        select i.event_id, substr(recorded.leaf_hashes, (i.ordinal - 1)::integer * 32 + 1, 32) as leaf
        from unnest(recorded.event_ids) with ordinality as i (event_id, ordinal)
    ),
    found as materialized (
        select i.event_id, substr(content.leaves, (i.ordinal - 1)::integer * 32 + 1, 32) as leaf
        from unnest(content.event_ids) with ordinality as i (event_id, ordinal)
    )
    select
        seal.id,
        case
            when f.event_id is null then 'EVENT_MISSING'
            when s.event_id is null then 'EVENT_INSERTED'
            else 'EVENT_CHANGED'
        end,
        coalesce(s.event_id, f.event_id),
        case
            when f.event_id is null then 'It was sealed and is not there.'
            when s.event_id is null then 'It is among the sealed events and was not sealed.'
            else 'It is not as it was sealed.'
        end
    from sealed as s
    full join found as f on f.event_id = s.event_id
    where s.leaf is distinct from f.leaf
    order by 3
    limit no_more_than;
    get diagnostics culprits = row_count;
    if culprits = no_more_than then
        return query values (
            seal.id, 'EVENT_CHANGED', null::bigint,
            format('Only the first %s events of this seal are named.', no_more_than)
        );
    end if;
end
$$;

-- Events of a seal from before the moment at which the first of its transactions can have begun.
create function machserial._backdated(
    seal_id bigint, event_range machserial._event_range, not_before timestamptz, no_more_than integer
)
returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    return query execute format(
        $query$
        select
            $1, 'EVENT_BACKDATED', e.id, format(
                'It says %%s; its transaction %%s began no earlier than %%s.', e.performed_at,
                e.transaction_id, $2
            )
        from %s as e
        where %s and e.performed_at < $2
        order by e.id
        limit %s
        $query$,
        (event_range).relation, machserial._in_event_range(event_range), no_more_than
    )
    using seal_id, not_before;
end
$$;

-- Events of a seal that have an id which had been given before their transaction began.
create function machserial._with_used_ids(
    seal machserial._seal, event_range machserial._event_range, content machserial._content,
    no_more_than integer
)
returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    last_given_id constant bigint := (
        select s.last_given_id
        from machserial.audit_seals as s
        where
            s.incarnation = seal.incarnation and s.next_transaction_id < seal.up_to_transaction_id
            and s.last_given_id is not null
        order by s.next_transaction_id desc, s.id desc
        limit 1
    );
begin
    -- Only who began before that seal may have such an id: not many, if any.
    if content.first_event_id > coalesce(last_given_id, content.first_event_id - 1) then
        return;
    end if;
    return query execute format(
        $query$
        select $1, 'EVENT_INSERTED', e.id, 'Its id had been given before its transaction began.'
        from %s as e
        where %s and e.id <= $2 and e.id <= (
            select s.last_given_id
            from machserial.audit_seals as s
            where
                s.incarnation = $3 and s.next_transaction_id < e.transaction_id
                and s.last_given_id is not null
            order by s.next_transaction_id desc, s.id desc
            limit 1
        )
        order by e.id
        limit %s
        $query$,
        (event_range).relation, machserial._in_event_range(event_range), no_more_than
    )
    using seal.id, last_given_id, seal.incarnation;
end
$$;

-- Archives on record whose seals say the same, and of whose making there is an event: here, or in a month
-- that was archived later and is sound itself.
create function machserial._sound_archives()
returns table (id bigint, month date, first_seal_id bigint, last_seal_id bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    with recursive plausible as (
        select a.*
        from machserial.audit_archives as a
        where
            a.merkle_root = machserial._archive_root(a.month, a.first_seal_id, a.last_seal_id)
            and a.event_count = (
                select sum(s.event_count) from machserial.audit_seals as s
                where s.month = a.month and s.id between a.first_seal_id and a.last_seal_id
            )
    ),
    sound as (
        select p.*
        from plausible as p
        where exists (
            select from machserial.audit_events as e
            where
                e.event_type = 'AUDIT_ARCHIVED' and e.performed_at = p.archived_at
                and e.details ->> 'archive_id' = p.id::text
                and e.details ->> 'manifest_sha256' = p.manifest_sha256
        )
        union
        select p.*
        from sound as s
        inner join plausible as p
            on s.month = date_trunc('month', p.archived_at at time zone 'UTC')
            and p.id < s.id and p.month < s.month
    )
    select s.id, s.month, s.first_seal_id, s.last_seal_id from sound as s;
end
$$;

create function machserial._verify_archives() returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        a.first_seal_id, 'ARCHIVE_CHANGED', null::bigint,
        format('Archive %s of %s is not one that was made of its seals.', a.id, to_char(a.month, 'YYYY-MM'))
    from machserial.audit_archives as a
    where a.id not in (select s.id from machserial._sound_archives() as s);
end
$$;

-- Seals whose events are in an archive only. An archive is there as a whole or not at all: where one of its
-- events is here, all must be. month, relation: the events of that month are looked for there.
create function machserial._seals_that_are_away(month date, relation regclass) returns int8multirange
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    archive record;
    is_here boolean;
    away int8multirange := '{}'::int8multirange;
begin
    for archive in
        select
            a.id,
            case a.month when _seals_that_are_away.month then _seals_that_are_away.relation else p.relation end
                as relation,
            e.first_event_id, e.last_event_id, e.seals
        from machserial._sound_archives() as a
        left join machserial._audit_partitions() as p on p.month = a.month
        cross join lateral (
            select
                min(s.first_event_id) as first_event_id, max(s.last_event_id) as last_event_id,
                range_agg(int8range(s.id, s.id, '[]')) as seals
            from machserial.audit_seals as s
            where s.month = a.month and s.id between a.first_seal_id and a.last_seal_id
        ) as e
    loop
        is_here := false;
        if archive.relation is not null then
            execute format('select exists (select from %s as e where e.id between $1 and $2)', archive.relation)
            into is_here using archive.first_event_id, archive.last_event_id;
        end if;
        if not is_here then
            away := away + archive.seals;
        end if;
    end loop;
    return away;
end
$$;

-- Where a seal's events are in a table: behind the seal before it in its month and incarnation.
create function machserial._event_range_of(seal machserial._seal, relation regclass)
returns machserial._event_range
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    event_range machserial._event_range;
begin
    select
        relation, seal.begins_after_id,
        -- Of an incarnation that is not on record everything may be.
        coalesce(i.last_id, 9223372036854775807),
        u.transaction_id, u.event_id, seal.up_to_transaction_id, seal.up_to_event_id
    into event_range
    from machserial._sealed_up_to(seal.incarnation, seal.month, seal.id - 1) as u
    left join machserial._incarnations() as i on i.incarnation = seal.incarnation;
    return event_range;
end
$$;

-- One seal against its events.
create function machserial._verify_seal(
    seal machserial._seal, event_range machserial._event_range, is_away boolean
)
returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    named constant integer := 100;
    content machserial._content;
    leaves record;
begin
    if (event_range).relation is not null then
        content := machserial._content_of(event_range);
    else
        content := (0, null, null, null, null, '{}', '');
    end if;
    select l.seal_id, l.event_ids, l.leaf_hashes into leaves
    from machserial.audit_leaves as l where l.seal_id = seal.id;
    if content.event_count = 0 and is_away then
        return;
    elsif machserial._merkle_root(content.leaves) <> seal.merkle_root
        or content.event_count <> seal.event_count
    then
        return query select c.* from machserial._name_culprits(seal, content, named) as c;
    elsif leaves.seal_id is null then
        return query values (
            seal.id, 'LEAVES_MISSING', null::bigint,
            'The events are as they were sealed, but what the seal consists of is gone from audit_leaves.'
        );
    elsif leaves.event_ids is distinct from content.event_ids
        or leaves.leaf_hashes is distinct from content.leaves
    then
        return query values (
            seal.id, 'LEAVES_CHANGED', null::bigint,
            'The events are as they were sealed, but audit_leaves says otherwise.'
        );
    elsif (content.first_event_id, content.last_event_id) is distinct from (
        seal.first_event_id, seal.last_event_id
    ) then
        return query values (
            seal.id, 'SEAL_CHANGED', null::bigint, 'Its range of ids is not that of its events.'
        );
    end if;
    if content.earliest < seal.not_before then
        return query select b.* from machserial._backdated(seal.id, event_range, seal.not_before, named) as b;
    end if;
    if content.event_count > 0 then
        return query select w.* from machserial._with_used_ids(seal, event_range, content, named) as w;
    end if;
end
$$;

-- All seals from first_id to last_id against their events: of one month only, if one is given, and then
-- against those in that table.
create function machserial._verify_seals(
    first_id bigint, last_id bigint, month date default null, relation regclass default null
)
returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
set jit = off
as $$
declare
    away constant int8multirange := machserial._seals_that_are_away(month, relation);
    seal machserial._seal;
    place regclass;
begin
    for seal in
        select s.*
        from machserial._seals(first_id, last_id) as s
        where s.month is not null and s.month = coalesce(_verify_seals.month, s.month)
    loop
        place := coalesce(
            _verify_seals.relation,
            (select p.relation from machserial._audit_partitions() as p where p.month = seal.month)
        );
        return query
        select v.*
        from machserial._verify_seal(seal, machserial._event_range_of(seal, place), seal.id <@ away) as v;
    end loop;
end
$$;

-- Events that no seal holds, although their time to be sealed is over; and such as cannot have happened when
-- they say.
create function machserial._verify_unsealed(newest machserial._seal) returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    everything constant bigint := 9223372036854775807;
    named constant integer := 100;
    is_copy constant boolean := machserial._is_other_cluster(newest);
    place record;
    event_range machserial._event_range;
begin
    for place in
        select
            p.month, p.relation, i.incarnation, i.after_id, i.last_id, u.transaction_id, u.event_id,
            i.incarnation = newest.incarnation as is_present
        from machserial._audit_partitions() as p
        cross join machserial._incarnations() as i
        cross join lateral machserial._sealed_up_to(i.incarnation, p.month, newest.id) as u
        where i.incarnation <= newest.incarnation
        order by p.month, i.incarnation
    loop
        event_range := (
            place.relation, place.after_id, place.last_id, place.transaction_id, place.event_id,
            case when place.is_present then coalesce(newest.horizon, 1) else everything end - 1, place.last_id
        );
        if event_range.to_transaction_id >= event_range.from_transaction_id then
            return query execute format(
                $query$
                select
                    null::bigint, 'EVENT_INSERTED', e.id,
                    'No seal holds it, although everything of its time has been sealed.'
                from %s as e
                where %s
                order by e.id
                limit %s
                $query$,
                place.relation, machserial._in_event_range(event_range), named
            );
        end if;
        -- What follows tells of transactions: only those of this cluster are known.
        continue when is_copy or not place.is_present;
        -- Only this transaction's own events can be of one that has not ended.
        return query execute format(
            $query$
            select null::bigint, 'EVENT_INSERTED', e.id, 'There has been no such transaction.'
            from %s as e
            where
                e.transaction_id is null
                or (
                    e.id > $1 and e.id <= $2
                    and e.transaction_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
                    and e.transaction_id is distinct from pg_current_xact_id_if_assigned()::text::bigint
                )
            order by e.id
            limit %s
            $query$,
            place.relation, named
        )
        using place.after_id, place.last_id;
        if clock_timestamp() > newest.sealed_at and newest.oldest_transaction_at is not null then
            event_range.from_transaction_id := newest.next_transaction_id - 1;
            event_range.from_event_id := everything;
            event_range.to_transaction_id := everything;
            event_range.to_event_id := everything;
            return query
            select b.* from machserial._backdated(null, event_range, newest.oldest_transaction_at, named) as b;
        end if;
        if newest.last_given_id is not null then
            return query execute format(
                $query$
                select null::bigint, 'EVENT_INSERTED', e.id, 'Its id had been given before its transaction began.'
                from %s as e
                where e.transaction_id > $1 and e.id > $2 and e.id <= $3
                order by e.id
                limit %s
                $query$,
                place.relation, named
            )
            using newest.next_transaction_id, place.after_id, newest.last_given_id;
        end if;
    end loop;
end
$$;

-- Events that no index leads to: a month is read as a whole, and must hold what its seals hold and what is
-- not sealed yet, no more.
create function machserial._verify_counts(newest machserial._seal) returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_indexscan = off
set enable_indexonlyscan = off
set enable_bitmapscan = off
set enable_nestloop = off
set jit = off
as $$
declare
    everything constant bigint := 9223372036854775807;
    named constant integer := 100;
    away constant int8multirange := machserial._seals_that_are_away(null, null);
    place record;
    event_range machserial._event_range;
    settled_events bigint;
    named_here bigint;
begin
    if (machserial._newest_seal()).incarnation <> newest.incarnation then
        -- Another one has begun meanwhile: the next run will see.
        return;
    end if;
    for place in
        select
            p.month, p.relation, i.after_id, i.last_id, u.transaction_id, u.event_id,
            (
                select coalesce(sum(s.event_count), 0) from machserial.audit_seals as s
                where s.month = p.month and s.id <= newest.id and not s.id <@ away
            ) as sealed_events
        from machserial._audit_partitions() as p
        inner join machserial._incarnations() as i on i.incarnation = newest.incarnation
        cross join lateral machserial._sealed_up_to(i.incarnation, p.month, newest.id) as u
        order by p.month
    loop
        event_range := (
            place.relation, place.after_id, place.last_id, place.transaction_id, place.event_id, everything,
            everything
        );
        execute format('select count(*) from %s as e where not (%s)', place.relation, machserial._in_event_range(event_range))
        into settled_events;
        continue when settled_events <= place.sealed_events;
        return query execute format(
            $query$
            select null::bigint, 'EVENT_INSERTED', e.id, 'No seal holds it, and no index leads to it.'
            from %s as e
            where not (%s) and not exists (
                select from machserial.audit_seals as s
                inner join machserial.audit_leaves as l on l.seal_id = s.id
                cross join lateral unnest(l.event_ids) as i (event_id)
                where s.month = $1 and i.event_id = e.id
            )
            order by e.id
            limit %s
            $query$,
            place.relation, machserial._in_event_range(event_range), named
        )
        using place.month;
        get diagnostics named_here = row_count;
        if named_here = 0 then
            return query values (
                null::bigint, 'EVENT_INSERTED', null::bigint, format(
                    '%s holds %s settled events, its seals %s.', place.relation, settled_events,
                    place.sealed_events
                )
            );
        end if;
    end loop;
end
$$;

-- Tables that take part in the audit trail and should not, or for another time than their name says.
create function machserial._verify_partitions() returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- In which bounds are printed.
set datestyle = 'ISO'
set timezone = 'UTC'
as $$
begin
    return query
    select
        null::bigint, 'PARTITION_UNKNOWN', null::bigint,
        format('%s is attached to the audit trail %s.', p.relation, b.bounds)
    from machserial._audit_partitions() as p
    inner join pg_class as c on c.oid = p.relation
    cross join lateral (select pg_get_expr(c.relpartbound, c.oid) as bounds) as b
    where b.bounds is distinct from format(
        'FOR VALUES FROM (%L) TO (%L)', machserial._month_begins(p.month),
        machserial._month_begins((p.month + '1 month'::interval)::date)
    );
end
$$;

-- An anchor of audit_anchor() against the chain.
create function machserial._verify_anchor(anchor text) returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    anchored_id bigint;
    anchored_hash bytea;
    present_hash bytea;
begin
    if anchor !~ '^[0-9]{1,18}:[0-9a-fA-F]{64}$' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'anchor is none of machserial.audit_anchor()',
            detail = format('It is %L.', left(anchor, 100)),
            hint = 'Give it as it was printed: ID:HASH.';
    end if;
    anchored_id := split_part(anchor, ':', 1)::bigint;
    anchored_hash := decode(split_part(anchor, ':', 2), 'hex');
    select s.seal_hash into present_hash from machserial.audit_seals as s where s.id = anchored_id;
    if present_hash is distinct from anchored_hash then
        return query values (
            anchored_id, 'ANCHOR_MISMATCH', null::bigint, case
                when present_hash is null then 'The seal that the anchor names is gone.'
                else 'The seal is not the one that the anchor was taken of: the history was rewritten.'
            end
        );
    end if;
end
$$;

-- What clean runs saw as the newest seal must still be there.
create function machserial._verify_remembered() returns setof machserial.audit_problem
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        r.newest_seal_id, case when s.id is null then 'SEAL_MISSING' else 'SEAL_CHANGED' end, null::bigint,
        format(
            'It was verified at %s, and now it is %s.', r.verified_at,
            case when s.id is null then 'gone' else 'another' end
        )
    from (
        select distinct on (v.newest_seal_id, v.newest_seal_hash)
            v.newest_seal_id, v.newest_seal_hash, v.verified_at
        from machserial.audit_verifications as v
        where v.problems = 0
        order by v.newest_seal_id, v.newest_seal_hash, v.id
    ) as r
    left join machserial.audit_seals as s on s.id = r.newest_seal_id
    where s.seal_hash is distinct from r.newest_seal_hash;
end
$$;

-- Which seals a run looks at: the new ones, and a share of the old.
create type machserial._verification as (
    is_full boolean,
    new_from bigint,
    rolling_from bigint,
    rolling_to bigint
);

create function machserial._plan_verification(is_full boolean, newest_id bigint)
returns machserial._verification
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    last_clean record;
    plan machserial._verification := (is_full, 1, 1, 0);
begin
    -- A run that found something is no reason to look less closely.
    select v.* into last_clean from machserial.audit_verifications as v
    where v.problems = 0
    order by v.id desc
    limit 1;
    if not is_full and last_clean.id is not null then
        plan.new_from := least(last_clean.newest_seal_id, newest_id) + 1;
        plan.rolling_from := last_clean.rolling_seal_id + 1;
        if plan.rolling_from >= plan.new_from then
            plan.rolling_from := 1;
        end if;
        -- All of them in 32 runs at the latest, also while they become more.
        plan.rolling_to := least(
            plan.rolling_from + greatest(16, (plan.new_from + 23) / 24) - 1, plan.new_from - 1
        );
    end if;
    return plan;
end
$$;

create function machserial._record_verification(
    plan machserial._verification, newest machserial._seal, problems bigint
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into machserial.audit_verifications (
        is_full, seals, events, problems, newest_seal_id, newest_seal_hash, rolling_seal_id
    )
    select
        plan.is_full, count(*), coalesce(sum(s.event_count), 0), problems, newest.id, newest.seal_hash,
        -- At the end of the old ones it begins anew, however many have come meanwhile.
        case when plan.rolling_to < plan.new_from - 1 then plan.rolling_to else 0 end
    from machserial.audit_seals as s
    where
        s.id between plan.new_from and newest.id or s.id between plan.rolling_from and plan.rolling_to;
end
$$;

create function machserial.verify_audit(full boolean default false, anchor text default null)
returns table (seal_id bigint, problem text, event_id bigint, detail text)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    newest constant machserial._seal := machserial._newest_seal();
    plan machserial._verification;
    found_now bigint;
    problems bigint := 0;
begin
    perform machserial._require_all_sites('machserial.verify_audit()');
    if newest.id is null then
        return query values (null::bigint, 'SEAL_MISSING', null::bigint, 'There is not a single seal.');
        return;
    end if;
    plan := machserial._plan_verification(coalesce(verify_audit.full, false), newest.id);
    return query
    select p.*
    from machserial._verify_partitions() as p
    union all
    select p.* from machserial._verify_remembered() as p
    union all
    select p.* from machserial._verify_anchor(verify_audit.anchor) as p where verify_audit.anchor is not null
    union all
    select p.* from machserial._verify_seal_count(newest.id) as p
    union all
    select p.* from machserial._verify_archives() as p
    union all
    select p.* from machserial._verify_chain(plan.rolling_from, plan.rolling_to) as p
    union all
    select p.* from machserial._verify_chain(plan.new_from, newest.id) as p;
    get diagnostics found_now = row_count;
    problems := problems + found_now;
    return query select p.* from machserial._verify_seals(plan.rolling_from, plan.rolling_to) as p;
    get diagnostics found_now = row_count;
    problems := problems + found_now;
    return query select p.* from machserial._verify_seals(plan.new_from, newest.id) as p;
    get diagnostics found_now = row_count;
    problems := problems + found_now;
    return query select p.* from machserial._verify_unsealed(newest) as p;
    get diagnostics found_now = row_count;
    problems := problems + found_now;
    if plan.is_full and not machserial._is_other_cluster(newest) then
        return query select p.* from machserial._verify_counts(newest) as p;
        get diagnostics found_now = row_count;
        problems := problems + found_now;
    end if;
    -- On a standby, or in a transaction that only reads, it can be verified but not remembered.
    if current_setting('transaction_read_only') = 'off' then
        perform machserial._record_verification(plan, newest, problems);
    end if;
end
$$;

comment on function machserial.verify_audit(boolean, text) is
'What is wrong with the audit trail; no rows: it is intact, as far as it is sealed. full: every event; else
those that were sealed since the last clean run, and a share of the old ones, so that 32 runs go through
all. anchor: of audit_anchor(), taken earlier.
problem: EVENT_CHANGED, EVENT_MISSING, EVENT_INSERTED, EVENT_BACKDATED; SEAL_CHANGED, SEAL_MISSING,
CHAIN_BROKEN; LEAVES_CHANGED, LEAVES_MISSING; ANCHOR_MISMATCH; PARTITION_UNKNOWN;
ARCHIVE_CHANGED. Of a seal at most 100
events are named. Months whose partitions were dropped after they were archived are not missing.
Errors: 22023 an anchor that is none; 42501 a role that is limited to sites.';
