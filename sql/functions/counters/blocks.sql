-- Blocks: runs of numbers for lines, plants and contract manufacturers that number while offline. Nobody else
-- is given a number of the run; what the holder has used becomes a serial when it is reported.

create type machserial.block as (
    block_id bigint,
    first_value bigint,
    last_value bigint,
    status text,
    format text,
    format_version integer,
    holder text,
    part_id text,
    site_id text,
    quantity integer,
    used bigint,
    open bigint,
    returned bigint,
    expired bigint,
    expires_at timestamptz,
    allocated_at timestamptz,
    allocated_by text,
    closed_at timestamptz,
    closed_by text,
    closing_reason text,
    request_id text,
    skipped_values bigint[]
);

comment on type machserial.block is 'A row of machserial.blocks.';

-- Rules of the tables

-- Whatever writes a block, its run lies where the counter has been: nobody is given its numbers afterwards.
create function machserial._examine_block() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    reached bigint;
begin
    select f.sequence_increment into new.increment
    from machserial.counters as c
    inner join machserial.serial_formats as f on f.id = c.format_id
    where c.id = new.counter_id;
    -- Its foreign key refuses a counter that there is none of.
    if not found then
        new.increment := 1;
        return new;
    end if;
    reached := machserial._last_value(new.counter_id);
    if new.last_value <= reached then
        return new;
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('a block from %s to %s would be given out again', new.first_value, new.last_value),
        detail = format('The last number of its counter is %s.', coalesce(reached::text, 'none yet')),
        hint = 'Take numbers from the counter with machserial.allocate_block(format, quantity, holder).';
end
$$;

create function machserial._refuse_block_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    changeable constant text[] := '{status,expires_at,closed_at,closed_by,closing_reason}'::text[];
    used bigint;
begin
    if to_jsonb(new) - changeable <> to_jsonb(old) - changeable then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('block %s is on record: what it is cannot be changed', old.id),
            detail = format(
                'The change says %s.',
                machserial._shown(
                    machserial._changes(to_jsonb(old) - changeable, to_jsonb(new) - changeable)::text
                )
            ),
            hint = 'Return the block, and allocate another.';
    elsif old.status <> 'OPEN' and to_jsonb(new) <> to_jsonb(old) then
        perform machserial._raise_closed(old.id, old.status, old.closed_at, old.closed_by);
    end if;
    if new.status = 'USED' then
        used := (select count(*) from machserial.block_usages as u where u.block_id = new.id);
        if used < new.quantity then
            raise exception using
                errcode = 'object_not_in_prerequisite_state',
                message = format('block %s is not used up', new.id),
                detail = format('%s of %s numbers have been reported.', used, new.quantity),
                hint = 'Report what was used, or return the block.';
        end if;
    end if;
    if new.status <> old.status then
        new.closed_at := now();
        new.closed_by := machserial._actor();
        new.closing_reason := nullif(current_setting('machserial.reason', true), '');
    else
        new.closed_at := old.closed_at;
        new.closed_by := old.closed_by;
        new.closing_reason := old.closing_reason;
    end if;
    return new;
end
$$;

create function machserial._raise_closed(block_id bigint, status text, closed_at timestamptz, closed_by text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('block %s is %s', block_id, status),
        detail = format('It was closed at %s by %s.', closed_at, closed_by),
        hint = 'A closed block stays closed; allocate another.';
end
$$;

-- Audit

create function machserial._audit_new_blocks() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (event_type, event_source, part_id, site_id, details)
    select
        'BLOCK_ALLOCATED', current_setting('application_name'), n.part_id, n.site_id,
        jsonb_build_object(
            'block_id', n.id, 'holder', n.holder, 'counter_id', n.counter_id, 'first_value', n.first_value,
            'last_value', n.last_value, 'quantity', n.quantity, 'expires_at', n.expires_at
        )
    from new_blocks as n;
    return null;
end
$$;

create function machserial._audit_changed_blocks() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    left_out constant text[] := '{closed_at,closed_by,closing_reason}'::text[];
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (event_type, event_source, part_id, site_id, reason, details)
    select
        case when c.changes ? 'status' then 'BLOCK_' || n.status else 'BLOCK_UPDATED' end,
        current_setting('application_name'), n.part_id, n.site_id,
        coalesce(n.closing_reason, nullif(current_setting('machserial.reason', true), '')),
        jsonb_build_object('block_id', n.id, 'holder', n.holder) || c.changes
    from new_blocks as n
    full join old_blocks as o on o.id = n.id
    cross join lateral (
        select machserial._changes(to_jsonb(o), to_jsonb(n) - left_out) as changes
        offset 0
    ) as c
    where c.changes is not null;
    return null;
end
$$;

-- Looking a block up

create function machserial._raise_no_block(block_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._raise_absent(
        'block', block_id, 'blocks', 'See select block_id, holder, status from machserial.blocks.'
    );
end
$$;

-- The block as functions return it.
create function machserial._block(block_id bigint) returns machserial.block
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    block machserial.block;
begin
    select b.* into block from machserial.blocks as b where b.block_id = _block.block_id;
    return block;
end
$$;

-- All that is needed to write the numbers of a block; P0002 if there is none.
create function machserial._issue_of_block(block_id bigint) returns machserial._issue
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    issue machserial._issue;
begin
    select
        b.part_id, null::text, null::text[], b.site_id, b.issued_at, f.id, f.name, f.allocation,
        f.sequence_increment, f.sequence_maximum, f.random_space, b.counter_id, '{}'::jsonb, b.quantity,
        null::bigint
    into issue
    from machserial.number_blocks as b
    inner join machserial.counters as c on c.id = b.counter_id
    inner join machserial.serial_formats as f on f.id = c.format_id
    where b.id = _issue_of_block.block_id;
    if issue.format_id is null then
        perform machserial._raise_no_block(block_id);
    end if;
    return issue;
end
$$;

create function machserial.block_serials(block_id bigint) returns setof text
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    issue constant machserial._issue := machserial._issue_of_block(block_id);
    sequence_values constant bigint[] := array(
        select generate_series(b.first_value, b.last_value, b.increment) as sequence_value
        from machserial.number_blocks as b
        where b.id = block_serials.block_id
        except
        select unnest(b.skipped_values)
        from machserial.number_blocks as b
        where b.id = block_serials.block_id
        order by sequence_value
    );
begin
    return query select unnest(machserial._render(issue, sequence_values, null));
end
$$;

comment on function machserial.block_serials(bigint) is
'All numbers of a block in order, whatever has become of them: always the same. They are written by the
version of the format, at the site and with the date of the allocation.
Errors: P0002 no such block.';

-- Allocation

-- The part that a format numbers, if it is one alone.
create function machserial._only_part_of(format text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select case when count(distinct a.part_id) = 1 then min(a.part_id) end
        from machserial.format_assignments as a
        inner join machserial.serial_formats as f on f.id = a.format_id
        where
            f.name = _only_part_of.format and a.part_id is not null and a.effective_from <= now()
            and (a.effective_until is null or a.effective_until > now())
    );
end
$$;

-- A holder who is offline must know the numbers of the block, each from its sequence number.
create function machserial._require_predictable(format machserial.serial_format, part_id text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    tokens constant text[] := array(select t.token from machserial._tokenize(format.pattern) as t);
    fault constant text := case
        when not 'SEQ' = any(tokens) then 'it has no {SEQ:n}'
        when tokens && '{RANDOM,UUID}' then 'it has random characters'
        when tokens && '{WO,LOT,CTX}' then 'it needs a context, which each unit has for itself'
        when part_id is null and 'PART' = any(tokens) then 'it needs a part, and part_id is missing'
        when part_id is null and format.counter_per in ('PART', 'SITE_PART')
            then 'it counts for each part, and part_id is missing'
    end;
begin
    if fault is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = pg_catalog.format('format %s cannot number a block', format.name),
            detail = pg_catalog.format('Its pattern is %L: %s.', format.pattern, fault),
            hint = 'Use a format of fixed text, dates, {SITE}, {SEQ:n} and {CHECK:algorithm}; with {PART}, or '
                'one counter a part, give part_id.';
    end if;
end
$$;

-- Everything that an allocation says and implies. While the part is open, so is its type: then a number
-- counts as taken if it is taken in the enterprise or at the site.
create function machserial._resolve_block(format text, quantity integer, part_id text, site_id text)
returns machserial._issue
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    active constant machserial.serial_format := machserial._active_format(_resolve_block.format);
    site constant text := coalesce(_resolve_block.site_id, 'DEFAULT');
    issued_at constant timestamp := machserial._local_time(site);
    part constant text := coalesce(_resolve_block.part_id, machserial._only_part_of(active.name));
    issue machserial._issue;
begin
    perform machserial._require_predictable(active, part);
    if part is not null then
        perform machserial._require_known_part(part);
    end if;
    select
        part, p.part_type, coalesce(p.default_scopes, '{SITE}'), site, issued_at, f.id, f.name,
        f.allocation, f.sequence_increment, f.sequence_maximum, f.random_space,
        machserial._present_counter(active, part, site, issued_at), '{}'::jsonb, _resolve_block.quantity,
        null::bigint
    into issue
    from machserial.serial_formats as f
    left join machserial.parts as p on p.id = part
    where f.id = active.id;
    return issue;
end
$$;

-- Looks at values from this one on until so many are free: which are taken, and how far it has looked.
create function machserial._look_for_taken(
    issue machserial._issue, first_value bigint, wanted bigint,
    out taken_values bigint[], out looked_until bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    still_wanted bigint := wanted;
    window_start bigint := first_value;
    window_values bigint[];
    positions integer[];
begin
    taken_values := '{}';
    while still_wanted > 0 loop
        window_values := machserial._window(issue, window_start, least(still_wanted, 100000));
        if window_values = '{}' then
            looked_until := issue.sequence_maximum;
            return;
        end if;
        positions := machserial._free_positions(issue, machserial._render(issue, window_values, null));
        if cardinality(positions) < cardinality(window_values) then
            taken_values := taken_values || array(
                select unnest(window_values) as taken_value
                except
                select unnest(machserial._pick(window_values, positions))
                order by taken_value
            );
        end if;
        still_wanted := still_wanted - cardinality(positions);
        looked_until := window_values[cardinality(window_values)];
        window_start := looked_until + issue.sequence_increment;
    end loop;
end
$$;

-- The run that the counter gives next, long enough to step over what is taken. Raises 2200H if the counter
-- holds fewer.
create function machserial._next_run(
    issue machserial._issue, taken_values bigint[],
    out first_value bigint, out last_value bigint, out skipped_values bigint[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    increment constant bigint := issue.sequence_increment;
    last_number numeric;
begin
    first_value := machserial._next_value(issue);
    -- As many free values precede a taken one as lie below it, without those that are taken too.
    select
        first_value + (issue.quantity - 1 + count(*)) * increment::numeric,
        coalesce(array_agg(t.taken_value order by t.taken_value), '{}')
    into last_number, skipped_values
    from (
        select v as taken_value, row_number() over (order by v) as rank
        from unnest(taken_values) as v
        where v >= first_value
    ) as t
    where (t.taken_value - first_value) / increment - (t.rank - 1) < issue.quantity;
    if last_number > issue.sequence_maximum then
        perform machserial._raise_exhausted(issue.format_name, issue.quantity, format(
            'Free: %s. The highest sequence number is %s.',
            greatest(
                (issue.sequence_maximum - first_value) / increment + 1 - cardinality(skipped_values), 0
            ),
            issue.sequence_maximum
        ));
    end if;
    last_value := last_number;
    -- Nothing of the run before the block's first number.
    select first_value + count(*) * increment, skipped_values[count(*) + 1:] into first_value, skipped_values
    from unnest(skipped_values) with ordinality as s (skipped_value, ordinal)
    where s.skipped_value = first_value + (s.ordinal - 1) * increment;
end
$$;

-- Takes a run from the counter, in one piece. Looking takes longer than others should wait, so it is done
-- before the sequence is held, and far enough beyond for what others draw meanwhile; it is done again if that
-- was not far enough.
create function machserial._take_run(
    issue machserial._issue, out first_value bigint, out last_value bigint, out skipped_values bigint[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    looked record;
    run record;
    margin bigint := 100 + issue.quantity / 8;
begin
    if issue.allocation = 'GAPLESS' then
        perform c.id from machserial.counters as c where c.id = issue.counter_id for update;
        looked := machserial._look_for_taken(issue, machserial._next_value(issue), issue.quantity);
        run := machserial._next_run(issue, looked.taken_values);
        update machserial.counters as c set last_value = run.last_value where c.id = issue.counter_id;
    else
        loop
            looked := machserial._look_for_taken(
                issue, machserial._next_value(issue), issue.quantity + margin
            );
            begin
                perform machserial._hold_sequence(issue.counter_id);
                run := machserial._next_run(issue, looked.taken_values);
                if run.last_value <= looked.looked_until then
                    perform setval(machserial._sequence_of(issue.counter_id)::regclass, run.last_value);
                end if;
                raise sqlstate 'MS000';
            exception when sqlstate 'MS000' then null;
            end;
            exit when run.last_value <= looked.looked_until;
            margin := margin * 8;
        end loop;
    end if;
    first_value := run.first_value;
    last_value := run.last_value;
    skipped_values := run.skipped_values;
end
$$;

-- SECURITY DEFINER, as generate(): nobody may draw a run and leave it unrecorded.
create function machserial.allocate_block(
    format text, quantity integer, holder text, part_id text default null, site_id text default null,
    request_id text default null, expires_at timestamptz default null
)
returns machserial.block
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    request record;
    issue machserial._issue;
    run record;
    made_id bigint;
begin
    perform machserial._require_time('expires_at', allocate_block.expires_at);
    if machserial._may_be_limited() then
        perform machserial._require_visible_site(coalesce(allocate_block.site_id, 'DEFAULT'));
    end if;
    perform machserial._require_quantity(allocate_block.quantity);
    perform machserial._require_name('holder', allocate_block.holder);
    select null::bigint as id, false as is_repeated into request;
    if allocate_block.request_id is not null then
        request := machserial._claim_request(
            'allocate_block', allocate_block.site_id, allocate_block.request_id, jsonb_build_object(
                'format', allocate_block.format, 'quantity', allocate_block.quantity,
                'holder', allocate_block.holder, 'part_id', allocate_block.part_id
            )
        );
    end if;
    if request.is_repeated then
        return machserial._block((
            select b.id from machserial.number_blocks as b where b.generation_request_id = request.id
        ));
    elsif allocate_block.expires_at <= now() then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'expires_at is not in the future',
            detail = pg_catalog.format('It is %s.', allocate_block.expires_at),
            hint = 'Give a later moment, or leave it out for a block that does not expire.';
    end if;
    perform machserial._require_no_pause();
    issue := machserial._resolve_block(
        allocate_block.format, allocate_block.quantity, allocate_block.part_id, allocate_block.site_id
    );
    run := machserial._take_run(issue);
    insert into machserial.number_blocks as b (
        counter_id, part_id, site_id, holder, first_value, last_value, quantity, skipped_values, issued_at,
        expires_at, generation_request_id
    )
    values (
        issue.counter_id, issue.part_id, issue.site_id, allocate_block.holder, run.first_value,
        run.last_value, issue.quantity, run.skipped_values, issue.issued_at, allocate_block.expires_at, request.id
    )
    returning b.id into made_id;
    return machserial._block(made_id);
end
$$;

comment on function machserial.allocate_block(text, integer, text, text, text, text, timestamptz) is
'Gives a holder a run of a format''s numbers, to be used while offline: neither generate() nor another block
has any of them. quantity: 1 to 1,000,000. The run is first_value to last_value, both of them the block''s;
numbers between them that are taken already do not count and stand in skipped_values, so a holder that counts
for itself must leave them out: block_serials() does. holder: the line, plant or manufacturer. part_id: null
means the only part that the format is assigned
to, else each report says which. site_id: null means DEFAULT. request_id: the same call with the same
request_id gives the same block, whatever expires_at says (it is often counted from now). expires_at: from
then on maintain() closes the block; until it has, the
holder may still report. The block of a SEQUENCE format that is rolled back stays a gap, as with generate().
Returns the block.
Errors: 22023 a bad argument, a pattern whose numbers cannot be known beforehand, a request_id used for
something else; 23503 unknown format, part or site; 55000 a deactivated format; 2200H not so many numbers
left.';

-- Closes the blocks whose time is over; returns how many. One that is being reported is left for the next
-- time.
create function machserial._expire_blocks() returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    expired integer;
begin
    with due as (
        select b.id
        from machserial.number_blocks as b
        where b.status = 'OPEN' and b.expires_at <= now()
        order by b.id
        for no key update skip locked
    )
    update machserial.number_blocks as b set status = 'EXPIRED' from due where b.id = due.id;
    get diagnostics expired = row_count;
    return expired;
end
$$;
