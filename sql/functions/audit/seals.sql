-- Seals: what has been written becomes provable.
--
-- Writers only insert. Each event carries the transaction that wrote it; once no transaction below some
-- number can still write (the horizon of a snapshot), everything below it stands in an order that never
-- changes again: (transaction_id, id). A seal takes the next range of a month in that order, and records
-- the root of a Merkle tree over it and the hash of the seal before.
--
-- Transaction ids are those of one cluster. A database that was dumped and restored elsewhere goes on with
-- lower ones; so the chain is divided into incarnations, which begin with a seal of their own. Ids tell to
-- which an event belongs: they always go up, also in the copy.

create function machserial._seals(first_id bigint, last_id bigint) returns setof machserial._seal
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        s.id, s.incarnation, s.begins_after_id, s.system_identifier, s.timeline, s.month, s.event_count,
        s.first_event_id, s.last_event_id, s.up_to_transaction_id, s.up_to_event_id, s.horizon,
        s.next_transaction_id, s.oldest_transaction_at, s.last_given_id, s.not_before, s.merkle_root,
        s.previous_hash, s.sealed_at, s.sealed_by, s.seal_hash
    from machserial.audit_seals as s
    where s.id between first_id and last_id
    order by s.id;
end
$$;

create function machserial._newest_seal() returns machserial._seal
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    newest constant bigint := (select max(s.id) from machserial.audit_seals as s);
    seal machserial._seal;
begin
    select s.* into seal from machserial._seals(newest, newest) as s;
    return seal;
end
$$;

-- The last id that is sealed in an incarnation.
create function machserial._last_sealed_id(incarnation integer) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select max(coalesce(s.last_event_id, s.begins_after_id))
        from machserial.audit_seals as s
        where s.incarnation = _last_sealed_id.incarnation
    );
end
$$;

-- The ids of each incarnation: above after_id, up to last_id. An id belongs to the incarnation that begins
-- most closely below it; of two that begin at the same id, to the later one. In a copy that has not been
-- sealed yet, what lies above the sealed ids belongs to none.
create function machserial._incarnations()
returns table (incarnation integer, after_id bigint, last_id bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    newest constant machserial._seal := machserial._newest_seal();
    is_copy constant boolean := machserial._is_other_cluster(newest);
begin
    return query
    select
        o.incarnation, o.begins_after_id,
        least(
            lead(o.begins_after_id) over (order by o.begins_after_id, o.incarnation),
            case
                when is_copy and o.incarnation = newest.incarnation
                    then machserial._last_sealed_id(o.incarnation)
                else 9223372036854775807
            end
        )
    from machserial.audit_seals as o
    where o.month is null;
end
$$;

-- A range of the order: what lies between two positions in the partition of a month. The
-- positions are (transaction_id, id), the first exclusive, the second inclusive.
create type machserial._event_range as (
    relation regclass,
    after_id bigint,
    last_id bigint,
    from_transaction_id bigint,
    from_event_id bigint,
    to_transaction_id bigint,
    to_event_id bigint
);

-- The condition that says what a range is. Everything in it that BRIN indexes understand is said apart:
-- within one big transaction only the ids tell which pages to read.
-- A forged seal may lack one of the numbers.
create function machserial._in_event_range(event_range machserial._event_range) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    is_one_transaction constant boolean := event_range.from_transaction_id = event_range.to_transaction_id;
    after_id constant bigint := case
        when is_one_transaction then greatest(event_range.after_id, event_range.from_event_id) else event_range.after_id
    end;
    last_id constant bigint := case
        when is_one_transaction then least(event_range.last_id, event_range.to_event_id) else event_range.last_id
    end;
begin
    return format(
        'e.transaction_id between %1$s and %3$s and e.id > %5$s and e.id <= %6$s '
        'and (e.transaction_id, e.id) > (%1$s, %2$s) and (e.transaction_id, e.id) <= (%3$s, %4$s)',
        coalesce(event_range.from_transaction_id, 0), coalesce(event_range.from_event_id, 0),
        coalesce(event_range.to_transaction_id, 0), coalesce(event_range.to_event_id, 0), coalesce(after_id, 0),
        coalesce(last_id, 0)
    );
end
$$;

-- What a seal is made of: ids and leaf hashes (32 bytes each) in their order, and what stands out in it.
create type machserial._content as (
    event_count integer,
    first_event_id bigint,
    last_event_id bigint,
    first_transaction_id bigint,
    earliest timestamptz,
    event_ids bigint[],
    leaves bytea
);

create function machserial._content_of(event_range machserial._event_range) returns machserial._content
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- A seal's events stand together, and the BRIN index finds them whatever the statistics say.
set enable_seqscan = off
set enable_indexscan = off
set jit = off
as $$
declare
    content machserial._content;
begin
    execute format(
        $query$
        select
            count(*)::integer, min(o.id), max(o.id), min(o.transaction_id), min(o.performed_at),
            coalesce(array_agg(o.id), '{}'), coalesce(string_agg(o.leaf, ''::bytea), '')
        from (
            select
                e.id, e.transaction_id, e.performed_at,
                machserial._event_leaf(
                    e.id, e.event_type, e.event_source, e.serial_id, e.serial_number, e.part_id, e.site_id,
                    e.performed_by, e.db_user, e.performed_at, e.reason, e.details, e.transaction_id
                ) as leaf
            from %s as e
            where %s
            order by e.transaction_id, e.id
        ) as o
        $query$,
        (event_range).relation, machserial._in_event_range(event_range)
    )
    into
        content.event_count, content.first_event_id, content.last_event_id, content.first_transaction_id,
        content.earliest, content.event_ids, content.leaves;
    return content;
end
$$;

-- Which cluster this is. Its timeline changes when a standby is promoted or a backup recovered; the control
-- file has it only after the next checkpoint. A role that may not read the control file goes by the ids that
-- database and table have here: a copy made by rows has others. timeline: null on a standby, to such a role.
create function machserial._cluster(out system_identifier bigint, out timeline integer)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not pg_is_in_recovery() then
        timeline := ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer;
    end if;
    select s.system_identifier, coalesce(_cluster.timeline, c.timeline_id) into system_identifier, timeline
    from pg_control_system() as s, pg_control_checkpoint() as c;
exception when insufficient_privilege then
    system_identifier := (
        select ('x' || encode(substr(sha256(format('%s %s', d.oid, c.oid)::bytea), 1, 8), 'hex'))::bit(64)::bigint
        from pg_database as d
        cross join pg_class as c
        where d.datname = current_database() and c.oid = to_regclass('machserial.audit_seals')
    );
end
$$;

create function machserial._is_other_cluster(seal machserial._seal) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    cluster record;
begin
    select c.* into cluster from machserial._cluster() as c;
    return seal.system_identifier <> cluster.system_identifier
        or seal.timeline <> coalesce(cluster.timeline, seal.timeline)
        -- In one cluster they never go back.
        or seal.next_transaction_id > greatest(
            pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
            pg_current_xact_id_if_assigned()::text::bigint
        );
end
$$;

-- Adds a seal to the chain.
create function machserial._add_seal(seal machserial._seal, content machserial._content) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    newest constant machserial._seal := machserial._newest_seal();
    made machserial._seal := seal;
begin
    made.id := coalesce(newest.id, 0) + 1;
    made.previous_hash := newest.seal_hash;
    made.event_count := content.event_count;
    made.first_event_id := content.first_event_id;
    made.last_event_id := content.last_event_id;
    made.merkle_root := machserial._merkle_root(content.leaves);
    made.sealed_at := clock_timestamp();
    made.sealed_by := machserial._actor();
    made.seal_hash := machserial._seal_hash(made);
    -- The type begins with the columns of the table, in their order.
    insert into machserial.audit_seals values (made.*);
    if content.event_count > 0 then
        insert into machserial.audit_leaves (seal_id, event_ids, leaf_hashes)
        values (made.id, content.event_ids, content.leaves);
    end if;
end
$$;

-- The start of the oldest transaction that may still write, a little earlier: nobody who writes from now on
-- can have begun before. Of sessions which the sealer may not look into, a day is assumed. Clocks are
-- corrected by seconds now and then.
create function machserial._oldest_transaction_at() returns timestamptz
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- What the session has seen earlier in the transaction is no longer true.
    perform pg_stat_clear_snapshot();
    return (
        select
            least(min(a.xact_start), clock_timestamp()) - case
                when bool_or(a.backend_start is null or a.state = 'disabled') then '1 day'
                else '5 minutes'
            end::interval
        from pg_stat_activity as a
        where a.datname = current_database()
    );
end
$$;

-- The last id that has been given to an event.
create function machserial._last_audit_id() returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    last_id bigint;
begin
    execute format(
        'select case when s.is_called then s.last_value else s.last_value - 1 end from %s as s',
        pg_get_serial_sequence('machserial.audit_events', 'id')
    )
    into last_id;
    return last_id;
end
$$;

-- Whether ids are given one by one. A session that takes some in advance gives low ones late.
create function machserial._gives_ids_in_order() returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select from pg_sequence as s
        where
            s.seqrelid = pg_get_serial_sequence('machserial.audit_events', 'id')::regclass and s.seqcache = 1
    );
end
$$;

-- What the seals of one round have in common: as far as the transactions are known to have ended.
create function machserial._round(newest machserial._seal) returns machserial._seal
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    -- A transaction with a higher id than this one is running now or begins later, and gets its event ids
    -- later. An id that this transaction has had for long does not prove this.
    is_witness constant boolean := pg_current_xact_id_if_assigned() is null;
    oldest constant timestamptz := case when is_witness then machserial._oldest_transaction_at() end;
    last_given_id constant bigint := case
        when is_witness and machserial._gives_ids_in_order() then machserial._last_audit_id()
    end;
    round machserial._seal := newest;
begin
    round.oldest_transaction_at := oldest;
    round.last_given_id := last_given_id;
    round.next_transaction_id := pg_current_xact_id()::text::bigint;
    round.horizon := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    return round;
end
$$;

-- Before which no event of a transaction from first_transaction_id on can have happened, as far as earlier
-- rounds tell: the last one that knew none of them, and what all later ones knew. A clock that was set back
-- since then takes that knowledge away.
create function machserial._not_before(round machserial._seal, first_transaction_id bigint)
returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    witness record;
    later record;
begin
    select s.id, s.sealed_at, s.oldest_transaction_at into witness
    from machserial.audit_seals as s
    where s.incarnation = round.incarnation and s.next_transaction_id <= _not_before.first_transaction_id
    order by s.next_transaction_id desc, s.id desc
    limit 1;
    select min(s.oldest_transaction_at) as oldest, min(s.sealed_at) as first_at, max(s.sealed_at) as last_at
    into later
    from machserial.audit_seals as s
    where s.id >= witness.id;
    return case
        when
            witness.oldest_transaction_at is not null and later.first_at >= witness.sealed_at
            and clock_timestamp() >= later.last_at
            then later.oldest
    end;
end
$$;

-- The position up to which a month is sealed in an incarnation.
create function machserial._sealed_up_to(
    incarnation integer, month date, up_to_seal_id bigint, out transaction_id bigint, out event_id bigint
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    select s.up_to_transaction_id, s.up_to_event_id into transaction_id, event_id
    from machserial.audit_seals as s
    where
        s.month = _sealed_up_to.month and s.incarnation = _sealed_up_to.incarnation
        and s.id <= up_to_seal_id
    order by s.id desc
    limit 1;
    transaction_id := coalesce(transaction_id, -9223372036854775808);
    event_id := coalesce(event_id, -9223372036854775808);
end
$$;

-- Leads the index by which seals find their events up to the end of the table: what is not summarized yet is
-- read for every seal. A concurrent VACUUM of the partition does the same.
create function machserial._summarize(relation regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '50ms'
as $$
begin
    perform brin_summarize_new_values(i.indexrelid)
    from pg_index as i
    inner join pg_class as c on c.oid = i.indexrelid
    inner join pg_am as m on m.oid = c.relam and m.amname = 'brin'
    where i.indrelid = relation;
exception when lock_not_available then
    null;
end
$$;

-- Seals what is new in one month of the round's incarnation: of the transactions from settled_before on,
-- below which everything was sealed before, and below "before", from where on nothing is settled yet.
create function machserial._seal_month(
    round machserial._seal, month date, relation regclass, last_id bigint, settled_before bigint,
    before bigint
)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_indexscan = off
set jit = off
as $$
declare
    -- Small enough for the tree of a seal to be looked at as a whole, big enough for seals to be few.
    seal_size constant integer := 8192;
    event_range machserial._event_range;
    content machserial._content;
    seal machserial._seal := round;
    border_transaction_id bigint;
    border_event_id bigint;
    is_new boolean;
    sealed integer := 0;
begin
    seal.month := month;
    select relation, round.begins_after_id, last_id, u.transaction_id, u.event_id, before - 1, last_id
    into event_range
    from machserial._sealed_up_to(round.incarnation, month, 9223372036854775807) as u;
    if event_range.from_transaction_id < settled_before - 1 then
        -- What turns up below that has been put there: it stays outside, and is found.
        event_range.from_transaction_id := settled_before - 1;
        event_range.from_event_id := 9223372036854775807;
    end if;
    execute format('select exists (select from %s as e where %s)', relation, machserial._in_event_range(event_range))
    into is_new;
    if not is_new then
        return 0;
    end if;
    perform machserial._summarize(relation);
    for border_transaction_id, border_event_id in execute format(
        $query$
        select o.transaction_id, o.id
        from (
            select
                e.transaction_id, e.id,
                row_number() over (order by e.transaction_id, e.id) as ordinal, count(*) over () as events
            from %s as e
            where %s
        ) as o
        where o.ordinal %% %s = 0 or o.ordinal = o.events
        order by o.ordinal
        $query$,
        relation, machserial._in_event_range(event_range), seal_size
    )
    loop
        event_range.to_transaction_id := border_transaction_id;
        event_range.to_event_id := border_event_id;
        content := machserial._content_of(event_range);
        seal.up_to_transaction_id := border_transaction_id;
        seal.up_to_event_id := border_event_id;
        seal.not_before := machserial._not_before(round, content.first_transaction_id);
        perform machserial._add_seal(seal, content);
        sealed := sealed + content.event_count;
        event_range.from_transaction_id := border_transaction_id;
        event_range.from_event_id := border_event_id;
    end loop;
    return sealed;
end
$$;

-- Seals everything of the round's incarnation, up to last_id, that is below "before": month by month.
create function machserial._seal_months(
    round machserial._seal, last_id bigint, settled_before bigint, before bigint
)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    partition record;
    in_month integer;
    sealed integer := 0;
begin
    for partition in select p.month, p.relation from machserial._audit_partitions() as p order by p.month loop
        in_month := machserial._seal_month(
            round, partition.month, partition.relation, last_id, settled_before, before
        );
        sealed := sealed + in_month;
    end loop;
    return sealed;
end
$$;

-- The last id that has been given, at a moment when nobody is writing: whatever has a lower one is there or
-- will never be. Null if somebody goes on writing. The lock is given back at once.
create function machserial._settled_id() returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
as $$
declare
    settled bigint;
begin
    begin
        lock table machserial.audit_events in share mode;
        settled := machserial._last_audit_id();
        raise sqlstate 'MS000';
    exception
        when sqlstate 'MS000' then null;
        when lock_not_available then null;
    end;
    return settled;
end
$$;

-- Begins an incarnation: what has an id above this one, and is not of a later incarnation, belongs to it.
create function machserial._open_incarnation(begins_after_id bigint) returns machserial._seal
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    newest constant machserial._seal := machserial._newest_seal();
    opening machserial._seal;
begin
    opening.incarnation := coalesce(newest.incarnation, 0) + 1;
    opening.begins_after_id := begins_after_id;
    select c.system_identifier, c.timeline into opening.system_identifier, opening.timeline
    from machserial._cluster() as c;
    opening.next_transaction_id := pg_current_xact_id()::text::bigint;
    perform machserial._add_seal(opening, (0, null, null, null, null, '{}', '')::machserial._content);
    return machserial._newest_seal();
end
$$;

-- Seals what is left of the newest incarnation, up to last_id. Nothing more will come, so no horizon holds
-- it back.
create function machserial._close_incarnation(last_id bigint) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    closing machserial._seal := machserial._newest_seal();
    settled_before constant bigint := closing.horizon;
begin
    closing.horizon := null;
    closing.next_transaction_id := null;
    closing.oldest_transaction_at := null;
    closing.last_given_id := null;
    return machserial._seal_months(closing, last_id, settled_before, 9223372036854775807);
end
$$;

-- Ends the present incarnation, when of the ids up to settled_id nothing more will come, and begins the
-- next, above begins_after_id. Returns how many events that has sealed.
create function machserial._change_incarnation(settled_id bigint, begins_after_id bigint) returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    present constant machserial._seal := machserial._newest_seal();
    sealed_id bigint := settled_id;
    sealed integer;
begin
    if machserial._is_other_cluster(present) then
        -- What has an id up to the last one that was sealed is of the cluster that was before. What lies
        -- above may be of either, and all of it is there: it is an incarnation by itself.
        sealed_id := machserial._last_sealed_id(present.incarnation);
    end if;
    sealed := machserial._close_incarnation(sealed_id);
    if sealed_id < settled_id then
        perform machserial._open_incarnation(sealed_id);
        sealed := sealed + machserial._close_incarnation(settled_id);
    end if;
    perform machserial._open_incarnation(begins_after_id);
    return sealed;
end
$$;

-- Sealing is for one at a time: seals stand in one chain.
create function machserial._try_to_seal() returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception using
            errcode = 'feature_not_supported',
            message = 'audit events are sealed in READ COMMITTED transactions only',
            detail = format('This one is %s: it may not see the newest seal.', upper(
                current_setting('transaction_isolation') collate "C"
            )),
            hint = 'Call it in a transaction of its own.';
    end if;
    return pg_try_advisory_xact_lock(hashtext('machserial.seal'), 0);
end
$$;

create function machserial.seal_audit() returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    settled_id bigint;
    sealed integer := 0;
    newest machserial._seal;
    round machserial._seal;
begin
    perform machserial._require_all_sites('machserial.seal_audit()');
    if not machserial._try_to_seal() then
        raise notice 'another session is sealing the audit trail';
        return 0;
    end if;
    if machserial._is_other_cluster(machserial._newest_seal()) then
        settled_id := machserial._settled_id();
        if settled_id is null then
            raise notice 'the audit trail has come to another cluster: it is sealed when no transaction is writing';
            return 0;
        end if;
        sealed := machserial._change_incarnation(settled_id, settled_id);
    end if;
    newest := machserial._newest_seal();
    round := machserial._round(newest);
    return sealed + machserial._seal_months(
        round,
        (select i.last_id from machserial._incarnations() as i where i.incarnation = round.incarnation),
        newest.horizon, round.horizon
    );
end
$$;

comment on function machserial.seal_audit() is
'Seals the audit events of all transactions that have ended before the oldest one that is still open: from
then on no change of them goes unnoticed by verify_audit(). Returns how many events; 0 also while another
session is sealing. Writers are not held up, and a long or prepared transaction only delays it.
Errors: 0A000 in a transaction other than READ COMMITTED; 42501 a role that is limited to sites.';

-- For those who are about to change the incarnation: nobody else writes or seals until this transaction has
-- ended. Returns the last id that has been given.
create function machserial._hold_audit_trail() returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
as $$
begin
    if not machserial._try_to_seal() then
        raise exception using
            errcode = 'lock_not_available',
            message = 'another session is sealing the audit trail',
            detail = 'It holds the lock until its transaction ends.',
            hint = 'Try again when it has ended.';
    end if;
    lock table machserial.audit_events in share mode;
    return machserial._last_audit_id();
end
$$;

create function machserial.audit_anchor() returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    newest constant machserial._seal := machserial._newest_seal();
begin
    perform machserial._require_all_sites('machserial.audit_anchor()');
    return newest.id || ':' || encode(newest.seal_hash, 'hex');
end
$$;

comment on function machserial.audit_anchor() is
'The newest seal as ID:HASH. Keep it where nobody who could change the database can change it, and give it to
verify_audit(anchor => ...) later: it also tells of a history that was rewritten as a whole.
Errors: 42501 a role that is limited to sites.';

create function machserial.inclusion_proof(
    event_id bigint, out seal_id bigint, out leaf_index integer, out tree_size integer, out leaf_hash bytea,
    out path bytea[], out merkle_root bytea, out seal_hash bytea
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    seal record;
begin
    perform machserial._require_all_sites('machserial.inclusion_proof()');
    select s.id, s.event_count, s.merkle_root, s.seal_hash, l.event_ids, l.leaf_hashes into seal
    from machserial.audit_seals as s
    inner join machserial.audit_leaves as l on l.seal_id = s.id
    where
        inclusion_proof.event_id between s.first_event_id and s.last_event_id
        and inclusion_proof.event_id = any(l.event_ids);
    if seal.id is null and machserial._event_happened_at(inclusion_proof.event_id) is not null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('event %s is not sealed yet', event_id),
            detail = 'It is newer than the newest seal, or a transaction that is older than it is still open.',
            hint = 'Call machserial.seal_audit().';
    elsif seal.id is null and exists (
        select from machserial.audit_seals as s
        where
            inclusion_proof.event_id between s.first_event_id and s.last_event_id
            and not exists (select from machserial.audit_leaves as l where l.seal_id = s.id)
    ) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('event %s is not in the database', event_id),
            detail = 'If there is such an event, it is in an archive only.',
            hint = 'Bring its month back: machserial audit restore.';
    elsif seal.id is null then
        perform machserial._raise_absent(
            'audit event', event_id, 'audit_events', 'Look it up: select * from machserial.audit_trail(...).'
        );
    end if;
    seal_id := seal.id;
    leaf_index := array_position(seal.event_ids, event_id) - 1;
    tree_size := seal.event_count;
    leaf_hash := substr(seal.leaf_hashes, leaf_index * 32 + 1, 32);
    path := machserial._merkle_path(seal.leaf_hashes, leaf_index);
    merkle_root := seal.merkle_root;
    seal_hash := seal.seal_hash;
end
$$;

comment on function machserial.inclusion_proof(bigint) is
'That an event stands in its seal, for somebody who has only the event and the seal: place (from 0), number of
leaves, hash of the event''s canonical form (docs/audit.md) and the nodes beside the way to the root, as in
RFC 6962, section 2.1.1. verify_inclusion() checks it.
Errors: 42501 a role that is limited to sites; 55000 not sealed yet, or in an archive only; P0002 no such
event.';
