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

-- Numbers are used out of an open block only, and only its own; the last of them closes it.
create function machserial._examine_usages() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    block record;
    stray record;
begin
    for block in
        select b.*
        from machserial.number_blocks as b
        where b.id = any(array(select distinct n.block_id from new_usages as n))
        order by b.id
        for no key update
    loop
        if block.status <> 'OPEN' then
            perform machserial._raise_closed(block.id, block.status, block.closed_at, block.closed_by);
        end if;
        select n.sequence_number, n.serial_id into stray
        from new_usages as n
        where
            n.block_id = block.id
            and (
                n.sequence_number not between block.first_value and block.last_value
                or (n.sequence_number - block.first_value) % block.increment <> 0
                or n.sequence_number = any(block.skipped_values)
                or n.serial_id is not null and n.sequence_number is distinct from (
                    select s.sequence_number from machserial.serials as s where s.id = n.serial_id
                )
            )
        limit 1;
        if found then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('%s is no sequence number that block %s can use so',
                    stray.sequence_number, block.id),
                detail = format(
                    'The block has %s to %s in steps of %s, without %s%s.', block.first_value,
                    block.last_value, block.increment, block.skipped_values,
                    coalesce(format('; the serial is %s', stray.serial_id), '')
                ),
                hint = 'Report what was used with machserial.report_block(block_id, used).';
        end if;
        update machserial.number_blocks as b set status = 'USED'
        where
            b.id = block.id
            and (select count(*) from machserial.block_usages as u where u.block_id = block.id) = b.quantity;
    end loop;
    return null;
end
$$;

-- A usage stays as it was reported, but for a duplicate that has become a serial.
create function machserial._refuse_usage_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    if (new.block_id, new.sequence_number) = (old.block_id, old.sequence_number)
        and old.conflict_id is not null and exists (
            select from machserial.serials as s
            where s.id = new.serial_id and s.sequence_number = new.sequence_number
        )
    then
        return new;
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('number %s of block %s has been used', old.sequence_number, old.block_id),
        detail = format('It became %s.',
            coalesce('serial ' || old.serial_id, 'conflict ' || old.conflict_id)),
        hint = 'Take a serial out of use with machserial.retire_serial(serial_id, reason).';
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

-- One event a report: its serials have events of their own.
create function machserial._audit_usages() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (event_type, event_source, part_id, site_id, details)
    select
        'BLOCK_REPORTED', current_setting('application_name'), b.part_id, b.site_id,
        jsonb_build_object(
            'block_id', b.id, 'holder', b.holder, 'used', r.used, 'conflicts', r.conflicts
        )
    from (
        select n.block_id, count(n.serial_id) as used, count(n.conflict_id) as conflicts
        from new_usages as n
        group by n.block_id
    ) as r
    cross join lateral (
        select n.* from machserial.number_blocks as n where n.id = r.block_id offset 0
    ) as b;
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


-- Reports

-- The sequence numbers that stand in these texts where the block's format writes them; nonsense for a text
-- that is none of its numbers.
create function machserial._read_sequence_values(issue machserial._issue, serial_numbers text[])
returns bigint[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    sequence_token record;
    start integer;
    values_read bigint[] := array_fill(0::bigint, array[cardinality(serial_numbers)]);
begin
    with tokens as (
        select t.*, case when f.letter_case = 'UPPER' then upper(v.text collate "C") else v.text end as text
        from machserial.serial_formats as f
        cross join lateral machserial._tokenize(f.pattern) as t
        cross join lateral (
            select case t.token when 'SITE' then issue.site_id when 'PART' then issue.part_id end as text
        ) as v
        where f.id = issue.format_id
    )
    select s.*, (
        select coalesce(sum(coalesce(l.size, length(l.text))), 0) from tokens as l where l.ordinal < s.ordinal
    ) as left_length
    into sequence_token
    from tokens as s
    where s.token = 'SEQ';
    start := sequence_token.left_length;
    for place in 1..sequence_token.size loop
        values_read := array(
            select
                v.value_read * length(sequence_token.alphabet)
                + greatest(strpos(sequence_token.alphabet, substr(v.number, start + place, 1)) - 1, 0)
            from unnest(serial_numbers, values_read) with ordinality as v (number, value_read, ordinal)
            order by v.ordinal
        );
    end loop;
    return values_read;
end
$$;

-- The sequence number of each, null where it is none of the block's numbers.
create function machserial._values_in_block(block_id bigint, serial_numbers text[]) returns bigint[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    issue constant machserial._issue := machserial._issue_of_block(block_id);
    block record;
    -- What each would be if it is the block's; the first of the block for what cannot be.
    candidates bigint[];
begin
    select b.first_value, b.last_value, b.increment, b.skipped_values into block
    from machserial.number_blocks as b
    where b.id = _values_in_block.block_id;
    candidates := array(
        select case
            when
                v.value_read between block.first_value and block.last_value
                and (v.value_read - block.first_value) % block.increment = 0
                and v.value_read not in (select unnest(block.skipped_values))
                then v.value_read
            else block.first_value
        end
        from unnest(machserial._read_sequence_values(issue, serial_numbers))
            with ordinality as v (value_read, ordinal)
        order by v.ordinal
    );
    return array(
        select case when n.written = n.given then n.candidate end
        from unnest(serial_numbers, machserial._render(issue, candidates, null), candidates)
            with ordinality as n (given, written, candidate, ordinal)
        order by n.ordinal
    );
end
$$;

-- The part that numbers of a block are reported for.
create function machserial._reported_part(block_id bigint, part_id text) returns machserial.part
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    block constant machserial.block := machserial._block(block_id);
    wanted_id constant text := coalesce(block.part_id, part_id, machserial._only_part_of(block.format));
    part machserial.part;
begin
    if wanted_id is null or part_id <> wanted_id then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format(
                'block %s cannot be reported for part %s', block_id,
                coalesce(machserial._shown(part_id), 'null')
            ),
            detail = case
                when wanted_id is not null then format('It was allocated for part %s.', wanted_id)
                else format('Neither it nor its format %s says which part the numbers are on.', block.format)
            end,
            hint = 'Give part_id in allocate_block() for the whole block, or else in each report_block().';
    end if;
    select p.id, p.part_type, p.name, p.default_scopes, p.created_at into part
    from machserial.parts as p
    where p.id = wanted_id;
    if part.id is null then
        perform machserial._raise_unknown('part', wanted_id, 'machserial.register_part');
    end if;
    return part;
end
$$;

-- Makes serials of a block's numbers; those that others have registered go on record as conflicts.
create function machserial._use_numbers(
    block_id bigint, part machserial.part, serial_numbers text[], sequence_values bigint[]
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    issue constant machserial._issue := machserial._issue_of_block(_use_numbers.block_id);
    -- Sequence value to serial.
    made jsonb;
    -- Number to conflict.
    conflicts jsonb;
begin
    with recorded as (
        insert into machserial.serials (
            serial_number, sequence_number, part_id, part_type, site_id, source, scopes, format_id
        )
        select
            n.number, n.sequence_value, p.id, p.part_type, issue.site_id, 'SYSTEM_GENERATED', p.default_scopes,
            issue.format_id
        from unnest(_use_numbers.serial_numbers, _use_numbers.sequence_values) as n (number, sequence_value)
        inner join machserial.parts as p on p.id = part.id
        where not (select machserial._claimed_elsewhere(_use_numbers.serial_numbers, part.id)) ? n.number
        -- The same order in every insert, so that two which meet cannot deadlock.
        order by n.number collate "C"
        on conflict do nothing
        returning id, sequence_number
    )
    select coalesce(jsonb_object_agg(r.sequence_number, r.id), '{}') into made from recorded as r;
    perform machserial._require_claimed(
        array(
            select n.number
            from unnest(_use_numbers.serial_numbers, _use_numbers.sequence_values) as n (number, value)
            where not made ? n.value::text
        ),
        _use_numbers.serial_numbers, part.default_scopes, issue.site_id, part.part_type
    );

    -- Sent again, a number may have become free: then its usage is no conflict any more.
    update machserial.block_usages as u
    set serial_id = (made ->> u.sequence_number::text)::bigint, conflict_id = null
    where
        u.block_id = _use_numbers.block_id and u.sequence_number = any(_use_numbers.sequence_values)
        and made ? u.sequence_number::text;

    select coalesce(jsonb_object_agg(c.serial_number, c.conflict_id), '{}') into conflicts
    from machserial._record_conflicts(
        array(
            select n.number
            from unnest(_use_numbers.serial_numbers, _use_numbers.sequence_values) as n (number, value)
            where not made ? n.value::text and not exists (
                select from machserial.block_usages as u
                where u.block_id = _use_numbers.block_id and u.sequence_number = n.value
                offset 0
            )
            order by n.value
        ),
        part.id, issue.site_id, part.part_type, part.default_scopes, 'SYSTEM_GENERATED'
    ) as c;

    insert into machserial.block_usages (block_id, sequence_number, serial_id, conflict_id)
    select
        _use_numbers.block_id, n.value, (made ->> n.value::text)::bigint, (conflicts ->> n.number)::bigint
    from unnest(_use_numbers.serial_numbers, _use_numbers.sequence_values) as n (number, value)
    where not exists (
        select from machserial.block_usages as u
        where u.block_id = _use_numbers.block_id and u.sequence_number = n.value
        offset 0
    )
    order by n.value;
end
$$;

-- Refuses numbers that are not the block's, and new ones of a block that is closed.
create function machserial._require_reportable(
    block_id bigint, serial_numbers text[], sequence_values bigint[], fresh_numbers text[]
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    block constant machserial.block := machserial._block(block_id);
    strange constant text[] := array(
        select coalesce(quote_literal(left(n.number, 255)), 'null')
        from unnest(serial_numbers, sequence_values) as n (number, sequence_value)
        where n.sequence_value is null
    );
    fault text;
begin
    if strange <> '{}' then
        -- A character that cannot be seen is named.
        select f.fault into fault
        from unnest(serial_numbers, sequence_values) as n (number, sequence_value)
        cross join lateral (
            select machserial._number_fault(n.number, machserial._serial_characters()) as fault
        ) as f
        where n.sequence_value is null and f.fault is not null
        limit 1;
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('block %s does not have all of these numbers', block_id),
            detail = format('%s are not its own: %s%s.', cardinality(strange),
                array_to_string(strange[:3], ', '), case when cardinality(strange) > 3 then ', ...' end)
                || coalesce(' ' || machserial._as_sentence(fault), ''),
            hint = format('Its numbers are those of machserial.block_serials(%s).', block_id);
    elsif block.status <> 'OPEN' and fresh_numbers <> '{}' then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('block %s is %s', block_id, block.status),
            detail = format('%s numbers had not been reported when it was closed at %s: %s%s.',
                cardinality(fresh_numbers), block.closed_at, array_to_string(fresh_numbers[:3], ', '),
                case when cardinality(fresh_numbers) > 3 then ', ...' end),
            hint = 'If they are on parts all the same, register them: machserial.register_serials(...).';
    end if;
end
$$;

-- SECURITY DEFINER: only a block's report says that its numbers were issued.
create function machserial.report_block(block_id bigint, used text[], part_id text default null)
returns table (serial_number text, serial_id bigint, has_conflict boolean, conflict_id bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    numbers constant text[] := array(
        select t.number
        from unnest(report_block.used) with ordinality as u (number, ordinal)
        cross join lateral (select machserial._trimmed(u.number) as number) as t
        group by t.number
        order by min(u.ordinal)
    );
    sequence_values bigint[];
    fresh_numbers text[];
    open_numbers text[];
    open_values bigint[];
begin
    if report_block.used is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'used is missing',
            detail = 'used is null.',
            hint = 'Give an array of the numbers that have been used.';
    elsif (
        select b.site_id from machserial.number_blocks as b where b.id = report_block.block_id
    ) <> all(machserial._caller_sites()) then
        perform machserial._raise_no_block(report_block.block_id);
    end if;
    -- Whoever reports out of the same block at the same time, or closes it, comes afterwards.
    perform b.id from machserial.number_blocks as b where b.id = report_block.block_id for no key update;
    sequence_values := machserial._values_in_block(report_block.block_id, numbers);
    -- Not on record yet, or as a conflict that has been resolved since.
    select
        coalesce(array_agg(n.number) filter (where u.block_id is null), '{}'),
        array_agg(n.number), array_agg(n.sequence_value)
    into fresh_numbers, open_numbers, open_values
    from unnest(numbers, sequence_values) as n (number, sequence_value)
    left join lateral (
        select u.block_id, u.conflict_id
        from machserial.block_usages as u
        where u.block_id = report_block.block_id and u.sequence_number = n.sequence_value
        offset 0
    ) as u on true
    where u.block_id is null or 'PENDING' <> (
        select c.status from machserial.serial_conflicts as c where c.id = u.conflict_id
    );
    perform machserial._require_reportable(
        report_block.block_id, numbers, sequence_values, fresh_numbers
    );
    if open_numbers <> '{}' then
        perform machserial._use_numbers(
            report_block.block_id, machserial._reported_part(report_block.block_id, report_block.part_id),
            open_numbers, open_values
        );
    end if;
    return query
    select n.number, u.serial_id, u.serial_id is null, u.conflict_id
    from unnest(numbers, sequence_values) with ordinality as n (number, sequence_value, ordinal)
    cross join lateral (
        select u.serial_id, u.conflict_id
        from machserial.block_usages as u
        where u.block_id = report_block.block_id and u.sequence_number = n.sequence_value
        offset 0
    ) as u
    order by n.ordinal;
end
$$;

comment on function machserial.report_block(bigint, text[], text) is
'Puts numbers on record that the holder of a block has used: each once, however often it is sent. used:
numbers of block_serials(). part_id: which part they are on, if the block was allocated for none and its
format is not assigned to one alone. One row a number, in the order given; a number that somebody else has
registered meanwhile is recorded in serial_conflicts and comes back with has_conflict. Sent again once that
conflict has been resolved, it becomes a serial if it is free. When all numbers are used, the block is USED.
What a closed block was used for is still answered.
Errors: 22023 used is null, numbers that are not the block''s, no part or another than the block''s; 23503
unknown part; 55000 new numbers of a closed block; P0002 no such block.';


-- The end of a block

create function machserial.return_block(block_id bigint) returns machserial.block
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    closed record;
begin
    update machserial.number_blocks as b set status = 'RETURNED'
    where b.id = return_block.block_id and b.status = 'OPEN';
    if not found then
        select b.* into closed from machserial.number_blocks as b where b.id = return_block.block_id;
        if not found then
            perform machserial._raise_no_block(return_block.block_id);
        end if;
        perform machserial._raise_closed(closed.id, closed.status, closed.closed_at, closed.closed_by);
    end if;
    return machserial._block(return_block.block_id);
end
$$;

comment on function machserial.return_block(bigint) is
'Closes a block: what has not been reported is never used, and counts as returned in the view blocks. Set
machserial.reason to say why. Returns the block.
Errors: 54000 a text that is too long; 55000 the block is closed already; P0002 no such block.';

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
