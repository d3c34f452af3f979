-- What the holder of a block has used.

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
    -- A concurrent report of the same block, or its end, waits for this one.
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
