-- Reading the audit trail.

create type machserial.audit_event as (
    id bigint,
    event_type text,
    event_source text,
    serial_id bigint,
    serial_number text,
    part_id text,
    site_id text,
    performed_by text,
    db_user text,
    performed_at timestamptz,
    reason text,
    details jsonb,
    transaction_id bigint
);

comment on type machserial.audit_event is 'A row of machserial.audit_events.';

-- When the event of this id happened; null if there is none.
create function machserial._event_happened_at(event_id bigint) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- The BRIN index knows where an id stands; of the others each would be read from one end to the other.
set enable_seqscan = off
set enable_indexscan = off
set enable_indexonlyscan = off
as $$
begin
    return (select e.performed_at from machserial.audit_events as e where e.id = event_id limit 1);
end
$$;

-- When the event happened behind which a page begins; P0002 if there is none.
create function machserial._page_begins_at(after bigint) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    begins_at constant timestamptz := machserial._event_happened_at(after);
begin
    if after is not null and begins_at is null then
        perform machserial._raise_absent(
            'audit event', after, 'audit_events', 'after is the id of the last event of the page before.'
        );
    end if;
    return begins_at;
end
$$;

-- The types that come with every serial; of the others the index audit_events_rare knows.
create function machserial._is_frequent(event_type text) returns boolean
language sql immutable parallel safe
return event_type in (
    'SERIAL_GENERATED', 'SERIAL_REGISTERED', 'VENDOR_RECEIVED', 'VENDOR_ACCEPTED', 'PLACEHOLDER_CREATED',
    'PLACEHOLDER_SERIALIZED', 'PROPAGATED', 'SPLIT', 'MERGED', 'TRANSFORMED'
);

create function machserial.audit_trail(
    serial_id bigint default null, part_id text default null, event_type text default null,
    performed_by text default null, since timestamptz default null, until timestamptz default null,
    after bigint default null, page_size integer default 50
)
returns setof machserial.audit_event
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    begins_at constant timestamptz := machserial._page_begins_at(after);
    conditions constant text := concat_ws(
        ' and ', 'true',
        case when serial_id is not null then 'e.serial_id = $1' end,
        case when part_id is not null then 'e.part_id = $2' end,
        case when event_type is not null then 'e.event_type = $3' end,
        case when performed_by is not null then 'e.performed_by = $4' end,
        case when since is not null then 'e.performed_at >= $5' end,
        case when until is not null then 'e.performed_at < $6' end,
        -- The first alone tells which months to leave out. The second is said in the words of the index that
        -- is to be read: thousands of events have one and the same moment, and the planner would take them
        -- for few.
        case
            when after is null then null
            when serial_id is not null
                then 'e.performed_at <= $7 and (e.serial_id, e.performed_at, e.id) < ($1, $7, $8)'
            when part_id is not null
                then 'e.performed_at <= $7 and (e.part_id, e.performed_at, e.id) < ($2, $7, $8)'
            when not machserial._is_frequent(upper(event_type collate "C"))
                then 'e.performed_at <= $7 and (e.event_type, e.performed_at, e.id) < ($3, $7, $8)'
            else 'e.performed_at <= $7 and (e.performed_at, e.id) < ($7, $8)'
        end
    );
begin
    if page_size is null or page_size not between 1 and 10000 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('page_size cannot be %s', coalesce(page_size::text, 'null')),
            detail = 'It is 1 to 10,000.',
            hint = 'Read on with after => the id of the last event of a page.';
    end if;
    -- Planned for these very values: only so it is known which months and which index to read.
    return query execute format(
        $query$
        select
            e.id, e.event_type, e.event_source, e.serial_id, e.serial_number, e.part_id, e.site_id,
            e.performed_by, e.db_user, e.performed_at, e.reason, e.details, e.transaction_id
        from machserial.audit_events as e
        where %s
        order by e.performed_at desc, e.id desc
        limit %s
        $query$,
        conditions, page_size
    )
    using serial_id, part_id, upper(event_type collate "C"), performed_by, since, until, begins_at, after;
end
$$;

comment on function machserial.audit_trail(
    bigint, text, text, text, timestamptz, timestamptz, bigint, integer
) is
'The audit events, newest first, page by page. Of what is given (serial, part, type, who; from since on,
before until) all must hold. after: id of the last event of the page before. page_size: 1 to 10,000.
Errors: 22023 a bad page_size; P0002 after is no event.';

create function machserial.audit_statistics(since timestamptz default null)
returns table (
    event_type text, events bigint, first_performed_at timestamptz, last_performed_at timestamptz,
    performers bigint
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    select
        e.event_type, count(*), min(e.performed_at), max(e.performed_at), count(distinct e.performed_by)
    from machserial.audit_events as e
    where e.performed_at >= coalesce(audit_statistics.since, '-infinity')
    group by e.event_type
    order by count(*) desc, e.event_type;
end
$$;

comment on function machserial.audit_statistics(timestamptz) is
'How many audit events there are of each type, since a moment or in all; the first, the last, and how many
people performed them.';
