-- What is hashed, and how: the canonical form of events and seals, and Merkle trees over them. docs/audit.md
-- describes it for those who verify without this code.
--
-- Whatever a session may set (time zone, style of dates, client encoding, ...) must not reach a hash.

-- One column as it enters a canonical form; nothing if it is null, so that a column which is added later
-- leaves the hashes of old rows as they are.
create function machserial._canonical_line(name text, value text) returns text
language sql stable parallel safe
return name || '='
|| case
    when getdatabaseencoding() in ('UTF8', 'SQL_ASCII') then octet_length(value)
    else octet_length(convert_to(value, 'UTF8'))
end::text
|| ':' || value || E'\n';

-- The whole of it. A database without encoding may hold bytes that are none of any: they are taken as they
-- are.
create function machserial._canonical_bytes(form text) returns bytea
language sql stable parallel safe
return convert_to(form, case getdatabaseencoding() when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end);

-- The same of a number, whose digits are the same in every encoding.
create function machserial._canonical_line(name text, value bigint) returns text
language sql stable parallel safe
return name || '=' || octet_length(value::text)::text || ':' || value::text || E'\n';

-- Microseconds since 1970-01-01 00:00 UTC; none of infinity, which nobody but a forger writes.
create function machserial._microseconds(at timestamptz) returns bigint
language sql stable parallel safe
return case when isfinite(at) then (extract(epoch from at) * 1000000)::bigint end;

-- RFC 6962, section 2.1: the hash of a leaf.
create function machserial._event_leaf(
    id bigint, event_type text, event_source text, serial_id bigint, serial_number text, part_id text,
    site_id text, performed_by text, db_user text, performed_at timestamptz, reason text, details jsonb,
    transaction_id bigint
)
returns bytea
language sql stable parallel safe
return sha256(decode('00', 'hex') || machserial._canonical_bytes(
    concat(
        E'machserial.event.1\n',
        machserial._canonical_line('id', id),
        machserial._canonical_line('event_type', event_type),
        machserial._canonical_line('event_source', event_source),
        machserial._canonical_line('serial_id', serial_id),
        machserial._canonical_line('serial_number', serial_number),
        machserial._canonical_line('part_id', part_id),
        machserial._canonical_line('site_id', site_id),
        machserial._canonical_line('performed_by', performed_by),
        machserial._canonical_line('db_user', db_user),
        -- 16 digits from 2001 to 2286; to count them would be to compute them twice.
        'performed_at=16:' || machserial._microseconds(performed_at)::text || E'\n',
        machserial._canonical_line('reason', reason),
        machserial._canonical_line('details', details::text),
        machserial._canonical_line('transaction_id', transaction_id)
    )
));

-- A row of audit_seals, in the order of its columns.
create type machserial._seal as (
    id bigint,
    incarnation integer,
    begins_after_id bigint,
    system_identifier bigint,
    timeline integer,
    month date,
    event_count integer,
    first_event_id bigint,
    last_event_id bigint,
    up_to_transaction_id bigint,
    up_to_event_id bigint,
    horizon bigint,
    next_transaction_id bigint,
    oldest_transaction_at timestamptz,
    last_given_id bigint,
    not_before timestamptz,
    merkle_root bytea,
    previous_hash bytea,
    sealed_at timestamptz,
    sealed_by text,
    seal_hash bytea
);

create function machserial._seal_hash(seal machserial._seal) returns bytea
language sql stable parallel safe
return sha256(machserial._canonical_bytes(
    concat(
        E'machserial.seal.1\n',
        machserial._canonical_line('id', (seal).id),
        machserial._canonical_line('incarnation', (seal).incarnation),
        machserial._canonical_line('begins_after_id', (seal).begins_after_id),
        machserial._canonical_line('system_identifier', (seal).system_identifier),
        machserial._canonical_line('timeline', (seal).timeline),
        machserial._canonical_line('month', to_char((seal).month, 'YYYY-MM-DD')),
        machserial._canonical_line('event_count', (seal).event_count),
        machserial._canonical_line('first_event_id', (seal).first_event_id),
        machserial._canonical_line('last_event_id', (seal).last_event_id),
        machserial._canonical_line('up_to_transaction_id', (seal).up_to_transaction_id),
        machserial._canonical_line('up_to_event_id', (seal).up_to_event_id),
        machserial._canonical_line('horizon', (seal).horizon),
        machserial._canonical_line('next_transaction_id', (seal).next_transaction_id),
        machserial._canonical_line(
            'oldest_transaction_at', machserial._microseconds((seal).oldest_transaction_at)
        ),
        machserial._canonical_line('last_given_id', (seal).last_given_id),
        machserial._canonical_line('not_before', machserial._microseconds((seal).not_before)),
        machserial._canonical_line('merkle_root', encode((seal).merkle_root, 'hex')),
        machserial._canonical_line('previous_hash', encode((seal).previous_hash, 'hex')),
        machserial._canonical_line('sealed_at', machserial._microseconds((seal).sealed_at)),
        machserial._canonical_line('sealed_by', (seal).sealed_by)
    )
));

-- The level above a level of a tree. Levels are strings of 32 bytes a node; RFC 6962 splits a tree at the
-- largest power of two below its size, which is the same as to pair nodes level by level and to pass a last
-- one without partner on as it is.
create function machserial._merkle_level_above(level bytea) returns bytea
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    nodes constant integer := length(level) / 32;
    pairs bytea;
begin
    select string_agg(sha256(decode('01', 'hex') || substr(level, i * 64 + 1, 64)), ''::bytea) into pairs
    from generate_series(0, nodes / 2 - 1) as i;
    return case nodes % 2 when 1 then pairs || substr(level, (nodes - 1) * 32 + 1) else pairs end;
end
$$;

-- Root of the tree over these leaf hashes, 32 bytes each.
create function machserial._merkle_root(leaves bytea) returns bytea
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    level bytea := leaves;
begin
    if leaves = '' then
        return sha256('');
    end if;
    while length(level) > 32 loop
        level := machserial._merkle_level_above(level);
    end loop;
    return level;
end
$$;

-- What leads from a leaf (the first is 0) to the root: at each level the node beside, if there is one.
create function machserial._merkle_path(leaves bytea, leaf_index integer) returns bytea[]
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    level bytea := leaves;
    position integer := leaf_index;
    beside bytea;
    path bytea[] := '{}'::bytea[];
begin
    while length(level) > 32 loop
        beside := substr(level, (position # 1) * 32 + 1, 32);
        if beside <> '' then
            path := path || beside;
        end if;
        level := machserial._merkle_level_above(level);
        position := position / 2;
    end loop;
    return path;
end
$$;

create function machserial.verify_inclusion(
    leaf_hash bytea, leaf_index integer, tree_size integer, path bytea[], merkle_root bytea
)
returns boolean
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    reached bytea := leaf_hash;
    position integer := leaf_index;
    last_position integer := greatest(tree_size, 0) - 1;
    beside bytea;
begin
    if leaf_index is null or tree_size is null or leaf_index < 0 or leaf_index >= tree_size then
        return false;
    end if;
    foreach beside in array coalesce(path, '{}'::bytea[]) loop
        if last_position = 0 then
            return false;
        end if;
        if position % 2 = 1 or position = last_position then
            reached := sha256(decode('01', 'hex') || beside || reached);
            -- Levels at which it had nothing beside it.
            while position % 2 = 0 and position > 0 loop
                position := position / 2;
                last_position := last_position / 2;
            end loop;
        else
            reached := sha256(decode('01', 'hex') || reached || beside);
        end if;
        position := position / 2;
        last_position := last_position / 2;
    end loop;
    return last_position = 0 and coalesce(reached = merkle_root, false);
end
$$;

comment on function machserial.verify_inclusion(bytea, integer, integer, bytea[], bytea) is
'Whether a proof of inclusion_proof() holds: that a leaf with this hash stands at leaf_index (from 0) among
tree_size leaves of a tree with this root. RFC 9162, section 2.1.3.2 (the tree is that of RFC 6962).';
