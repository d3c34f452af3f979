-- What a cache of taken numbers asks of the database. It holds committed claims only, never that a number is
-- free, and what it says is of one epoch: of this database, since its last restore, failover and flush.

create function machserial.cache_epoch(
    out database_name text, out epoch_name text, out secret bytea, out ttl text, out horizon bigint,
    out next_transaction_id bigint
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_all_sites('machserial.cache_epoch()');
    select
        format('%s/%s', c.system_identifier, d.oid),
        -- The file of the registry is another one when a dump was restored over it.
        format('%s/%s/%s', c.timeline, pg_relation_filenode('machserial.serials'), e.epoch),
        e.secret
    into database_name, epoch_name, secret
    from machserial._cluster() as c
    inner join pg_database as d on d.datname = current_database()
    left join lateral (
        select n.epoch, n.secret from machserial.cache_epochs as n order by n.epoch desc limit 1
    ) as e on true;
    ttl := (select s.value from machserial.settings as s where s.name = 'uniqueness_cache_ttl');
    horizon := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    next_transaction_id := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
end
$$;

comment on function machserial.cache_epoch() is
'What facts a cache may hold now. database_name: cluster and database; epoch_name: timeline, file of the
registry and newest epoch of machserial.cache_epochs; secret: with what it signs. ttl: the setting
uniqueness_cache_ttl. horizon: every transaction below it has ended; next_transaction_id: none has reached it.
Errors: 42501 a role that is limited to sites: what a cache knows is of all.';

create function machserial.begin_cache_epoch(reason text) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_administrator('machserial.begin_cache_epoch()');
    perform machserial._require_text('reason', reason);
    insert into machserial.cache_epochs (epoch, secret, reason)
    select
        coalesce(max(e.epoch), 0) + 1, uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
        begin_cache_epoch.reason
    from machserial.cache_epochs as e
    -- Somebody else has begun one at the same time: it is as new.
    on conflict on constraint cache_epochs_pkey do nothing;
    return (select max(e.epoch) from machserial.cache_epochs as e);
end
$$;

comment on function machserial.begin_cache_epoch(text) is
'Has every cache of taken numbers forget what it knows. reason: why. Returns the new epoch.
Errors: 22023 no reason; 42501 neither the owner nor an administrator.';

create function machserial.claims_of(
    serial_numbers text[], part_id text, site_id text default null, scopes text[] default null
)
returns table (serial_number text, serial_ids bigint[], claimed_scopes text[])
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- The plan is always the same three look-ups by index, and making it takes longer than they do.
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    place record;
begin
    perform machserial._require_text('a serial number', n.number)
    from unnest(coalesce(claims_of.serial_numbers, array[null::text])) as n (number)
    where coalesce(btrim(n.number), '') = '';
    select p.* into place from machserial._place(claims_of.part_id, claims_of.site_id) as p;
    return query
    select claims_of.serial_numbers[c.ordinal], c.serial_ids, c.claimed_scopes
    from machserial._claims_on(
        claims_of.serial_numbers, machserial._known_scopes(coalesce(claims_of.scopes, place.scopes)),
        place.site_id, place.part_type
    ) as c;
end
$$;

comment on function machserial.claims_of(text[], text, text, text[]) is
'Which of many numbers are taken for a part, by whom and in which scopes; no row for one that is free. It is
advice, as check_uniqueness(), of which it is the form for many. site_id: null means DEFAULT; scopes: null
means the part''s default.
Errors: 22023 no number, unknown scope; 23503 unknown part or site.';

-- For every scope of some serials, whether their number is taken there, by them or by others. place: the
-- site, or the type of the part, within which the scope holds.
create function machserial._claims_around(serial_ids bigint[])
returns table (serial_number text, scope text, place text, is_taken boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- Planned once a session, perhaps while the registry was small: it is never read as a whole.
set enable_seqscan = off
as $$
#variable_conflict use_column
begin
    return query
    select
        k.serial_number, k.scope, k.place,
        case k.scope
            when 'ENTERPRISE' then exists (
                select from machserial.serials as c
                where c.serial_number = k.serial_number and c.holds_claim and 'ENTERPRISE' = any(c.scopes)
            )
            when 'SITE' then exists (
                select from machserial.serials as c
                where
                    c.serial_number = k.serial_number and c.site_id = k.place
                    and c.holds_claim and 'SITE' = any(c.scopes)
            )
            else exists (
                select from machserial.serials as c
                where
                    c.serial_number = k.serial_number and c.part_type = k.place
                    and c.holds_claim and 'PART_TYPE' = any(c.scopes)
            )
        end
    from (
        select distinct
            s.serial_number, w.scope,
            case w.scope when 'SITE' then s.site_id when 'PART_TYPE' then s.part_type else '' end as place
        from machserial.serials as s
        cross join lateral unnest(s.scopes) as w (scope)
        where s.id = any(_claims_around.serial_ids)
    ) as k;
end
$$;
