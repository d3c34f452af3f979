-- Counters: made ahead or on first use, and how values are taken from them.
--
-- A SEQUENCE counter counts in a PostgreSQL sequence of its own, machserial.counter_<id>: taking a value
-- never waits for another transaction. A GAPLESS counter counts in its row: taking one waits until the
-- previous taker has ended.
--
-- Two advisory locks guard a sequence, each for a moment and never until the end of a transaction:
--   machserial.block    shared by sessions that draw; exclusive for one that moves the sequence, so that no
--                       number is drawn out of a block
--   machserial.counter  exclusive for one session at a time that looks ahead and draws what it saw, or moves
-- Transaction-level locks, taken in a subtransaction that always raises (MS000 = success): the rollback
-- frees the lock, also after a cancellation, and drawn values stay drawn. A shared lock that is free is
-- taken for the session, which costs less.

-- For functions that run with the owner's rights and take a counter: a limited role may not use one of
-- another site.
create function machserial._require_visible_counter(counter_id bigint) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Which site's it is stays unsaid.
    if exists (
        select from machserial.counters as c
        where c.id = counter_id and c.site_id <> '' and c.site_id <> all(machserial._caller_sites())
    ) then
        raise exception using
            errcode = 'foreign_key_violation',
            message = format('counter %s is unknown', counter_id),
            detail = 'No counter of the sites of this role has this id.',
            hint = 'See select id from machserial.counters.';
    end if;
end
$$;

-- What generate() has resolved of a call, and all that allocation and rendering need to know.
create type machserial._issue as (
    part_id text,
    part_type text,
    scopes text[],
    site_id text,
    issued_at timestamp,
    format_id bigint,
    format_name text,
    allocation text,
    sequence_increment bigint,
    sequence_maximum bigint,
    random_space bigint,
    counter_id bigint,
    context jsonb,
    quantity integer,
    drawn_from bigint
);

create function machserial._raise_exhausted(format_name text, quantity integer, detail text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'sequence_generator_limit_exceeded',
        message = format(
            'format %s has not enough free numbers left for a quantity of %s', format_name, quantity
        ),
        detail = detail,
        hint = 'Ask for fewer, or make room: revise_format(name, pattern => ...) with a longer '
            '{SEQ:n} or {RANDOM:n}.';
end
$$;

create function machserial._sequence_of(counter_id bigint) returns text
language sql immutable parallel safe
return 'machserial.counter_' || counter_id;

-- Whether a counter should have its sequence and has none: somebody has dropped it. Volatile, and looks at
-- the sequence first: where that has just been retired, the row says so by now.
create function machserial._lacks_sequence(counter_id bigint) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if machserial._may_be_limited() then
        perform machserial._require_visible_counter(counter_id);
    end if;
    if to_regclass(machserial._sequence_of(counter_id)) is not null then
        return false;
    end if;
    return exists (
        select
        from machserial.counters as c
        inner join machserial.serial_formats as f on f.id = c.format_id
        where c.id = _lacks_sequence.counter_id and c.retired_at is null and f.allocation = 'SEQUENCE'
    );
end
$$;

-- The sequence of a counter; 55000 if somebody has dropped it.
create function machserial._sequence(counter_id bigint) returns regclass
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    sequence constant regclass := to_regclass(machserial._sequence_of(counter_id));
begin
    if sequence is null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('the sequence %s is not there', machserial._sequence_of(counter_id)),
            detail = format(
                'Counter %s of format %s counts in it. Somebody has dropped it.', counter_id, (
                    select f.name
                    from machserial.counters as c
                    inner join machserial.serial_formats as f on f.id = c.format_id
                    where c.id = _sequence.counter_id
                )
            ),
            hint = 'The remedy of the finding counter_sequence_missing of integrity() makes it again.';
    end if;
    return sequence;
end
$$;

-- Where a counter stands: the last value that it has given, or one step below where it was moved to; null
-- while it stands where it began. Volatile, and looks twice: it may be retired while the caller's query runs.
-- Ending the block by an exception lets go of the sequence. pg_sequence_last_value() would keep its lock
-- until the transaction ends, and the lock table may have no room for all. The one row of a sequence is read
-- by its place, as callers may have sequential scans off.
create function machserial._last_value(counter_id bigint) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    counter record;
    reached bigint;
begin
    if machserial._may_be_limited() then
        perform machserial._require_visible_counter(counter_id);
    end if;
    for look in 1..2 loop
        select c.first_value, c.last_value, f.allocation, f.sequence_increment, c.retired_at into counter
        from machserial.counters as c
        inner join machserial.serial_formats as f on f.id = c.format_id
        where c.id = _last_value.counter_id;
        if not found then
            return null;
        end if;
        if counter.allocation = 'GAPLESS' or counter.retired_at is not null then
            return counter.last_value;
        end if;
        begin
            execute format(
                $query$select case when s.is_called then s.last_value end from %s as s where s.ctid = '(0,1)'$query$,
                machserial._sequence_of(counter_id)
            )
            into reached;
            raise sqlstate 'MS000';
        exception
            when sqlstate 'MS000' then
                return nullif(reached, counter.first_value - counter.sequence_increment);
            when undefined_table then null;
        end;
    end loop;
    perform machserial._sequence(counter_id);
    return null;
end
$$;

-- What the counter gives next, if nobody comes in between.
create function machserial._next_value(issue machserial._issue) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(
        machserial._last_value(issue.counter_id) + issue.sequence_increment,
        (select c.first_value from machserial.counters as c where c.id = issue.counter_id)
    );
end
$$;

-- Before a sequence is moved: nobody else looks ahead, moves or draws.
create function machserial._hold_sequence(counter_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._wait_for_lock('machserial.counter', hashint8(counter_id), false);
    perform machserial._wait_for_lock('machserial.block', hashint8(counter_id), false);
end
$$;

-- Where a new version's counter begins: behind the version that it continues, if that has counted here.
create function machserial._first_value(
    format_id bigint, part_id text, site_id text, period text
)
returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    heir record;
    ancestor bigint;
    reached bigint;
begin
    select f.* into heir from machserial.serial_formats as f where f.id = _first_value.format_id;
    ancestor := heir.continues;
    while ancestor is not null and reached is null loop
        select machserial._last_value(c.id) into reached
        from machserial.counters as c
        where
            c.format_id = ancestor and c.part_id = _first_value.part_id and c.site_id = _first_value.site_id
            and c.period = _first_value.period;
        select f.continues into ancestor from machserial.serial_formats as f where f.id = ancestor;
    end loop;
    if reached + heir.sequence_increment <= heir.sequence_maximum then
        return reached + heir.sequence_increment;
    end if;
    return heir.sequence_start;
end
$$;

-- A sequence stands one step below what it gives next, from its first value on: so "how far" has one meaning.
-- PostgreSQL keeps sequences in no tablespace, but asks whether one may be made in the session's.
create function machserial._create_sequence(counter_id bigint, first_value bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set default_tablespace = ''
as $$
declare
    counting record;
begin
    select f.sequence_increment, f.sequence_start, f.sequence_maximum into counting
    from machserial.counters as c
    inner join machserial.serial_formats as f on f.id = c.format_id
    where c.id = _create_sequence.counter_id;
    execute format(
        'create sequence %s as bigint increment %s minvalue %s maxvalue %s',
        machserial._sequence_of(counter_id), counting.sequence_increment,
        counting.sequence_start - counting.sequence_increment, counting.sequence_maximum
    );
    -- Default privileges may say otherwise.
    execute format('revoke all on sequence %s from public', machserial._sequence_of(counter_id));
    perform setval(
        machserial._sequence_of(counter_id)::regclass, first_value - counting.sequence_increment
    );
end
$$;

-- The counter of this key and period, made if nobody has made it yet. Sessions that meet here wait for the
-- one that came first, since only its commit tells where to go on. That is why some are made ahead. Without
-- its sequence a counter is as one that has been retired: its first use makes the sequence.
create function machserial._make_counter(
    format_id bigint, part_id text, site_id text, at timestamp, with_sequence boolean default true
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    format record;
    counter_period text;
    begin_with bigint;
    counter_id bigint;
begin
    select f.* into format from machserial.serial_formats as f where f.id = _make_counter.format_id;
    counter_period := machserial._period(format.reset, at);
    -- Looked at first: an insert would wait for the session that counts in the row.
    select c.id into counter_id
    from machserial.counters as c
    where
        c.format_id = format.id and c.part_id = _make_counter.part_id
        and c.site_id = _make_counter.site_id and c.period = counter_period;
    if counter_id is not null then
        return counter_id;
    end if;
    begin_with := machserial._first_value(format_id, part_id, site_id, counter_period);
    insert into machserial.counters as c (
        format_id, part_id, site_id, period, period_starts, first_value, has_runway, retired_at
    )
    values (
        format.id, _make_counter.part_id, _make_counter.site_id, counter_period,
        machserial._period_start(format.reset, at)::date, begin_with,
        (format.reset = 'NEVER' or format.allocation = 'GAPLESS') and not machserial._is_paused(),
        case when not with_sequence and format.allocation = 'SEQUENCE' then now() end
    )
    on conflict on constraint counters_key do nothing
    returning c.id into counter_id;
    if counter_id is not null then
        if format.allocation = 'SEQUENCE' and with_sequence then
            perform machserial._create_sequence(counter_id, begin_with);
        end if;
        return counter_id;
    end if;
    select c.id into counter_id
    from machserial.counters as c
    where
        c.format_id = format.id and c.part_id = _make_counter.part_id
        and c.site_id = _make_counter.site_id and c.period = counter_period;
    if counter_id is null then
        raise exception using
            errcode = 'serialization_failure',
            message = format('the counter of format %s was made by a concurrent transaction', format.name),
            detail = 'This transaction''s snapshot is older than the counter.',
            hint = 'Run the transaction again.';
    end if;
    return counter_id;
end
$$;

-- As many objects as one call may make or drop: each takes an entry of the server's lock table until the
-- transaction ends, and everybody needs those.
create function machserial._objects_per_call() returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return greatest(machserial._lock_table_size() / 10, 10);
end
$$;

-- Makes the counters of today and tomorrow for what was counted in the last week, as many as a call may make.
-- Days go by UTC: at most half a day from any site's. remaining: what is left for another call.
create function machserial._make_due_counters(out done integer, out remaining integer)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    today constant timestamp := now() at time zone 'UTC';
    most constant integer := machserial._objects_per_call();
    due record;
begin
    done := 0;
    remaining := 0;
    for due in
        select distinct on (c.format_id, c.part_id, c.site_id, p.period)
            c.format_id, c.part_id, c.site_id, p.at
        from machserial.counters as c
        inner join machserial.serial_formats as f on f.id = c.format_id
        cross join unnest('{0 days,1 day}'::interval[]) as later
        cross join lateral (
            select machserial._period(f.reset, today + later) as period, today + later as at
        ) as p
        where
            f.is_active and f.allocation = 'SEQUENCE' and f.reset <> 'NEVER'
            and c.period_starts + machserial._period_length(f.reset) > today - '7 days'::interval
            -- Used: one that was only made ahead has no runway, and is retired without a value.
            and (c.has_runway or c.retired_at is not null and c.last_value is not null)
            and not exists (
                select from machserial.counters as n
                where
                    n.format_id = c.format_id and n.part_id = c.part_id and n.site_id = c.site_id
                    and n.period = p.period
            )
        order by c.format_id, c.part_id, c.site_id, p.period
    loop
        if done = most then
            remaining := remaining + 1;
        else
            perform machserial._make_counter(due.format_id, due.part_id, due.site_id, due.at);
            done := done + 1;
        end if;
    end loop;
end
$$;

-- Makes the counter of the next period, so that sessions do not meet at midnight. If another session is
-- making it, or now and then another counter, skip: a transaction that uses thousands of counters takes 256
-- locks.
create function machserial._extend_runway(counter_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from machserial.counters as c where c.id = _extend_runway.counter_id and c.has_runway)
        or not pg_try_advisory_xact_lock(hashtext('machserial.runway'), (counter_id & 255)::integer)
    then
        return;
    end if;
    perform machserial._make_counter(
        c.format_id, c.part_id, c.site_id, c.period_starts + machserial._period_length(f.reset)
    )
    from machserial.counters as c
    inner join machserial.serial_formats as f on f.id = c.format_id
    where c.id = _extend_runway.counter_id;
    -- In a pause generate() must go on asking.
    update machserial.counters as c set has_runway = true
    where c.id = _extend_runway.counter_id and not machserial._is_paused();
end
$$;

-- A period that was thought to be over is counted again: the clock was set back, or the transaction is very
-- old.
create function machserial._revive_counter(counter_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    counter record;
begin
    -- Only a retired one is locked: those who allocate blocks of one that counts do not wait for each other.
    select c.* into counter from machserial.counters as c
    where c.id = _revive_counter.counter_id and c.retired_at is not null
    for update;
    if found then
        perform machserial._create_sequence(counter_id, counter.first_value);
        if counter.last_value is not null then
            perform setval(machserial._sequence_of(counter_id)::regclass, counter.last_value);
        end if;
        update machserial.counters as c set retired_at = null, last_value = null where c.id = counter.id;
    end if;
end
$$;

-- The next values of a GAPLESS counter, or null if it does not hold so many. The row stays locked until the
-- transaction ends, so that what is rolled back is given again.
create function machserial._draw_gapless(issue machserial._issue, quantity integer) returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    first_free bigint;
    last_drawn bigint;
begin
    select coalesce(c.last_value + issue.sequence_increment, c.first_value) into first_free
    from machserial.counters as c
    where c.id = issue.counter_id
    for update;
    if first_free + (quantity - 1) * issue.sequence_increment::numeric > issue.sequence_maximum then
        return null;
    end if;
    last_drawn := first_free + (quantity - 1) * issue.sequence_increment;
    update machserial.counters as c set last_value = last_drawn where c.id = issue.counter_id;
    return array(select generate_series(first_free, last_drawn, issue.sequence_increment));
end
$$;

-- Random values for so many numbers; nulls where the pattern draws its own or has none.
create function machserial._draw_random(issue machserial._issue, quantity integer) returns bigint[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(issue.random_space, 1) = 1 then
        return array_fill(0::bigint, array[quantity]);
    end if;
    return array(select machserial._random_number(issue.random_space) from generate_series(1, quantity));
end
$$;

-- The serial numbers for these values, in their order. Renderers are nobody's to call directly.
create function machserial._render(issue machserial._issue, sequence_values bigint[], random_values bigint[])
returns text[]
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    numbers text[];
begin
    execute 'select machserial._render_' || issue.format_id || '($1, $2, $3, $4, $5, $6)' into numbers
    using sequence_values, random_values, issue.issued_at, issue.site_id, issue.part_id, issue.context;
    if not machserial._is_serial_number(numbers[1], 'ASCII') then
        perform machserial._require_writable(issue.format_name, numbers[1]);
    end if;
    return numbers;
end
$$;

-- The serial number for one value: the same, for the call that needs no more.
create function machserial._render_one(
    format_id bigint, format_name text, sequence_value bigint, random_space bigint, time_zone text,
    site_id text, part_id text, context jsonb
)
returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    number text;
begin
    execute 'select (machserial._render_' || format_id || '($1, $2, $3, $4, $5, $6))[1]' into number
    using
        array[sequence_value],
        array[case when random_space > 1 then machserial._random_number(random_space) else 0 end],
        machserial._time_at_site(site_id, time_zone, now()), site_id, part_id, context;
    if not machserial._is_serial_number(number, 'ASCII') then
        perform machserial._require_writable(format_name, number);
    end if;
    return number;
end
$$;

-- Which of these numbers are free as far as this transaction can see, each once: positions in the array, in
-- order. This saves work; only the unique indexes decide.
create function machserial._free_positions(issue machserial._issue, numbers text[]) returns integer[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    in_enterprise constant boolean := 'ENTERPRISE' = any(issue.scopes);
    in_site constant boolean := 'SITE' = any(issue.scopes);
    in_part_type constant boolean := 'PART_TYPE' = any(issue.scopes);
begin
    return array(
        select min(n.ordinal)::integer as first_position
        from unnest(numbers) with ordinality as n (number, ordinal)
        -- One look into an index for each number: "limit 1" keeps the planner from reading the whole registry
        -- instead, which "exists" would let it do.
        where
            (not in_enterprise or (
                select s.id from machserial.serials as s
                where s.serial_number = n.number and s.holds_claim
                limit 1
            ) is null)
            and (in_enterprise or (
                select s.id from machserial.serials as s
                where s.serial_number = n.number and s.holds_claim and 'ENTERPRISE' = any(s.scopes)
                limit 1
            ) is null)
            and (not in_site or (
                select s.id from machserial.serials as s
                where
                    s.serial_number = n.number and s.site_id = issue.site_id
                    and s.holds_claim and 'SITE' = any(s.scopes)
                limit 1
            ) is null)
            and (not in_part_type or (
                select s.id from machserial.serials as s
                where
                    s.serial_number = n.number and s.part_type = issue.part_type
                    and s.holds_claim and 'PART_TYPE' = any(s.scopes)
                limit 1
            ) is null)
        group by n.number
        order by first_position
    );
end
$$;

-- The elements at these positions, in the order of the array. A text array is searched from its start for
-- each subscript, so it is joined instead.
create function machserial._pick(elements anyarray, positions integer[]) returns anyarray
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(array_agg(e.element order by e.position), elements[:0])
        from unnest(elements) with ordinality as e (element, position)
        inner join unnest(positions) as p (position) on p.position = e.position
    );
end
$$;

-- So many sequence values from this one on, fewer at the end of the counter.
create function machserial._window(issue machserial._issue, first_value bigint, length bigint)
returns bigint[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select v from generate_series(
            first_value::numeric,
            least(first_value + (length - 1) * issue.sequence_increment::numeric, issue.sequence_maximum),
            issue.sequence_increment
        ) as v
    );
end
$$;

-- The next free numbers of the counter: looked for, not drawn. distance: how many values must be drawn to
-- have them. Raises 2200H if the counter holds fewer.
create function machserial._look_ahead(
    issue machserial._issue, wanted integer,
    out numbers text[], out sequence_values bigint[], out next_value bigint, out distance integer
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    window_start bigint;
    window_length integer := least(2 * wanted + 100, 100000);
    window_values bigint[];
    window_numbers text[];
    positions integer[];
begin
    next_value := machserial._next_value(issue);
    window_start := next_value;
    numbers := '{}';
    sequence_values := '{}';
    distance := 0;
    loop
        window_values := machserial._window(issue, window_start, window_length);
        if window_values = '{}' then
            perform machserial._raise_exhausted(issue.format_name, issue.quantity, format(
                'Free: %s. The last sequence number drawn is %s, the highest is %s.',
                cardinality(numbers) + issue.quantity - wanted,
                coalesce(machserial._last_value(issue.counter_id)::text, 'none'), issue.sequence_maximum
            ));
        end if;
        window_numbers := machserial._render(
            issue, window_values, machserial._draw_random(issue, cardinality(window_values))
        );
        positions := (machserial._free_positions(issue, window_numbers))[:wanted - cardinality(numbers)];
        numbers := numbers || machserial._pick(window_numbers, positions);
        sequence_values := sequence_values || machserial._pick(window_values, positions);
        if cardinality(numbers) = wanted then
            distance := distance + positions[cardinality(positions)];
            return;
        end if;
        distance := distance + cardinality(window_values);
        window_start := window_values[cardinality(window_values)] + issue.sequence_increment;
        window_length := least(window_length * 4, 100000);
    end loop;
end
$$;

-- What a call has drawn on trust before it was refused goes back, unless somebody has drawn or moved since.
-- The caller ends by an exception, which lets go of the sequence.
create function machserial._give_back(issue machserial._issue) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    sequence constant regclass := machserial._sequence(issue.counter_id);
begin
    perform machserial._hold_sequence(issue.counter_id);
    if pg_sequence_last_value(sequence)
        = issue.drawn_from + (issue.quantity - 1) * issue.sequence_increment::numeric
    then
        perform setval(sequence, issue.drawn_from - issue.sequence_increment);
    end if;
end
$$;

-- Draws past taken numbers, and to the very end of a counter. For the moment of looking and drawing it keeps
-- others who do the same away, so that a refusal consumes nothing.
create function machserial._draw_free(
    issue machserial._issue, wanted integer, out numbers text[], out sequence_values bigint[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    ahead record;
    drawn bigint[];
    positions integer[];
begin
    if issue.allocation = 'GAPLESS' then
        perform c.id from machserial.counters as c where c.id = issue.counter_id for update;
        select l.* into ahead from machserial._look_ahead(issue, wanted) as l;
        numbers := ahead.numbers;
        sequence_values := ahead.sequence_values;
        update machserial.counters as c set last_value = sequence_values[wanted]
        where c.id = issue.counter_id;
        return;
    end if;
    begin
        perform machserial._wait_for_lock('machserial.counter', hashint8(issue.counter_id), false);
        select l.* into ahead from machserial._look_ahead(issue, wanted) as l;
        perform machserial._wait_for_lock('machserial.block', hashint8(issue.counter_id), true);
        drawn := array(
            select nextval(machserial._sequence_of(issue.counter_id)::regclass)
            from generate_series(1, ahead.distance)
        );
        raise sqlstate 'MS000';
    exception
        when sqlstate 'MS000' then null;
        when sequence_generator_limit_exceeded then
            perform machserial._give_back(issue);
            raise;
    end;
    if drawn[1] = ahead.next_value and drawn[ahead.distance] = ahead.sequence_values[wanted] then
        numbers := ahead.numbers;
        sequence_values := ahead.sequence_values;
        return;
    end if;
    -- Somebody who trusts has drawn in between: what came instead is looked at again.
    numbers := machserial._render(issue, drawn, machserial._draw_random(issue, cardinality(drawn)));
    positions := (machserial._free_positions(issue, numbers))[:wanted];
    numbers := machserial._pick(numbers, positions);
    sequence_values := machserial._pick(drawn, positions);
end
$$;

-- The next value of a SEQUENCE counter that is not near its end; else null. This is the commonest draw of
-- all, and an exception would cost a tenth of the call: so the lock is the session's. No cancellation comes
-- within an expression that waits for nothing. generate() does the same in place, for who may use the
-- sequence.
create function machserial._draw_one(counter_id bigint, trusted_until numeric) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    lock_class constant integer := hashtext('machserial.block');
    lock_object constant integer := hashint8(counter_id);
    sequence constant regclass := machserial._sequence(counter_id);
begin
    if pg_sequence_last_value(sequence) < trusted_until
        and current_setting('transaction_read_only') = 'off'
    then
        return (case
            when pg_try_advisory_lock_shared(lock_class, lock_object) then array[
                case when pg_sequence_last_value(sequence) < trusted_until then nextval(sequence) end,
                pg_advisory_unlock_shared(lock_class, lock_object)::integer
            ]
        end)[1];
    end if;
    return null;
end
$$;

-- So many values of a SEQUENCE counter that is not near its end; else null. Nobody is waited for but who is
-- moving the sequence. The lock is the session's where it can be had at once, because ending the block by an
-- exception costs as much as thirty serials; whatever happens while it is held, it is let go.
create function machserial._draw_on_trust(counter_id bigint, trusted_until numeric, wanted integer)
returns bigint[]
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    lock_class constant integer := hashtext('machserial.block');
    lock_object constant integer := hashint8(counter_id);
    sequence constant regclass := machserial._sequence(counter_id);
    is_held boolean := false;
    drawn bigint[];
begin
    begin
        is_held := pg_try_advisory_lock_shared(lock_class, lock_object);
        if is_held then
            if pg_sequence_last_value(sequence) < trusted_until then
                drawn := array(select nextval(sequence) from generate_series(1, wanted));
            end if;
            is_held := not pg_advisory_unlock_shared(lock_class, lock_object);
            return drawn;
        end if;
    exception when query_canceled or others then
        if is_held then
            perform pg_advisory_unlock_shared(lock_class, lock_object);
        end if;
        raise;
    end;
    begin
        perform machserial._wait_for_lock('machserial.block', lock_object, true);
        if pg_sequence_last_value(sequence) < trusted_until then
            drawn := array(select nextval(sequence) from generate_series(1, wanted));
        end if;
        raise sqlstate 'MS000';
    exception when sqlstate 'MS000' then null;
    end;
    return drawn;
end
$$;

-- What a sequence pattern gives next: numbers and their sequence values. The first attempt trusts that they
-- are free, a later one looks.
create function machserial._draw_sequenced(
    issue machserial._issue, wanted integer, attempt integer, out numbers text[], out sequence_values bigint[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    trusted_until numeric;
begin
    if attempt = 0 and issue.allocation = 'GAPLESS' then
        sequence_values := machserial._draw_gapless(issue, wanted);
    elsif attempt = 0 then
        -- Not near the end: twice the quantity and a thousand more cover what others may take meanwhile.
        trusted_until := issue.sequence_maximum
            - (2 * wanted::bigint + 1000) * issue.sequence_increment::numeric;
        if wanted = 1 then
            sequence_values := array[machserial._draw_one(issue.counter_id, trusted_until)];
        end if;
        if sequence_values[1] is null then
            sequence_values := machserial._draw_on_trust(issue.counter_id, trusted_until, wanted);
        end if;
    end if;
    if sequence_values is null then
        select d.numbers, d.sequence_values into numbers, sequence_values
        from machserial._draw_free(issue, wanted) as d;
        return;
    end if;
    numbers := machserial._render(
        issue, sequence_values,
        case when issue.random_space > 1 then machserial._draw_random(issue, wanted) end
    );
end
$$;
