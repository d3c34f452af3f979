-- Numbers for many units at once: one draw and one insert, however many units and contexts.

-- What of a context the numbers of a pattern depend on.
create function machserial._context_keys(format_id bigint) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select distinct t.context_key
        from machserial.serial_formats as f
        cross join lateral machserial._tokenize(f.pattern) as t
        where f.id = _context_keys.format_id and t.kind = 'CONTEXT'
    );
end
$$;

-- Raises what was raised, about the units that have these labels: the detail begins with the first of them. A
-- unit that is alone needs no label.
create function machserial._raise_about(
    labels text[], sqlstate text, message text, detail text, hint text, broken_constraint text default ''
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = sqlstate,
        message = message,
        detail = concat(
            labels[1],
            case when cardinality(labels) > 1 then format(' and %s more', cardinality(labels) - 1) end,
            case when labels[1] is not null then ': ' end,
            coalesce(nullif(detail, ''), 'this was refused.')
        ),
        hint = coalesce(nullif(hint, ''), 'Nothing of the statement is kept: correct this and repeat it.'),
        constraint = broken_constraint;
end
$$;

-- Units whose contexts agree in what their pattern needs, one element a number.
create type machserial._numbered as (
    ordinals integer[],
    numbers text[],
    sequence_values bigint[]
);

-- Numbers for such units. sequence_values: those that they have drawn; null if they still have to.
create function machserial._number_alike(
    issue machserial._issue, ordinals integer[], sequence_values bigint[], attempt integer
)
returns machserial._numbered
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    wanted constant integer := cardinality(ordinals);
    numbers text[];
begin
    if issue.sequence_maximum is null then
        numbers := machserial._draw_unsequenced(issue, wanted);
    elsif sequence_values is null then
        select d.numbers, d.sequence_values into numbers, sequence_values
        from machserial._draw_sequenced(issue, wanted, attempt) as d;
    else
        numbers := machserial._render(issue, sequence_values, machserial._draw_random(issue, wanted));
    end if;
    return (ordinals, numbers, sequence_values)::machserial._numbered;
end
$$;

-- Puts numbers on record with the contexts of their units, but for those that are taken.
create function machserial._record_each(
    issue machserial._issue, drawn machserial._numbered[], contexts jsonb[],
    out ordinals integer[], out ids bigint[], out numbers text[], out sequence_values bigint[]
)
language plpgsql
set search_path = pg_catalog, pg_temp
set jit = off
as $$
#variable_conflict use_column
declare
    proposed constant text[] := array(
        select distinct u.number
        from unnest(_record_each.drawn) as d
        cross join lateral unnest(d.numbers) as u (number)
    );
begin
    with fresh as materialized (
        -- Units of different contexts may come to the same number: then it is the first one's.
        select distinct on (u.number collate "C") u.ordinal, u.number, u.sequence_value
        from unnest(_record_each.drawn) as d
        cross join lateral unnest(d.ordinals, d.numbers, d.sequence_values)
            as u (ordinal, number, sequence_value)
        order by u.number collate "C", u.ordinal
    ),

    recorded as (
        insert into machserial.serials (
            serial_number, sequence_number, part_id, part_type, site_id, source, scopes, format_id,
            work_order_id, lot_number, operation_code, context
        )
        select
            f.number, f.sequence_value, issue.part_id, issue.part_type, issue.site_id, 'SYSTEM_GENERATED',
            (select p.default_scopes from machserial.parts as p where p.id = issue.part_id), issue.format_id,
            c.context ->> 'work_order_id', c.context ->> 'lot_number', c.context ->> 'operation_code',
            nullif(c.context - '{work_order_id,lot_number,operation_code}'::text[], '{}')
        from fresh as f
        inner join unnest(_record_each.contexts) with ordinality as c (context, ordinal)
            on c.ordinal = f.ordinal
        where not (select machserial._claimed_elsewhere(proposed, issue.part_id)) ? f.number
        -- The same order in every insert, so that two which meet cannot deadlock.
        order by f.number collate "C"
        on conflict do nothing
        returning id, serial_number
    )

    select
        coalesce(array_agg(f.ordinal) filter (where r.id is not null), '{}'),
        array_agg(r.id) filter (where r.id is not null),
        array_agg(f.number) filter (where r.id is not null),
        array_agg(f.sequence_value) filter (where r.id is not null)
    into ordinals, ids, numbers, sequence_values
    -- A full join is never a loop in a loop, whatever the planner expects of the numbers.
    from recorded as r
    full join fresh as f on f.number = r.serial_number;
    if cardinality(ordinals) < cardinality(proposed) then
        perform machserial._require_claimed(
            proposed, proposed, issue.scopes, issue.site_id, issue.part_type
        );
    end if;
end
$$;

-- Numbers for many units at once, each with a context of its own: unit i gets quantities[i] numbers, with
-- contexts[i] on record. labels: what to call the units in the detail of an error.
create function machserial._generate_each(
    part_id text, site_id text, format text, quantities integer[], contexts jsonb[],
    labels text[] default null
)
returns table (ordinal integer, serial_id bigint, serial_number text, sequence_number bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
-- The planner takes the arrays to be far longer than they are, and would compile every query.
set jit = off
as $$
#variable_conflict use_column
declare
    quantity constant bigint := (
        select coalesce(sum(q.quantity), 0) from unnest(_generate_each.quantities) as q (quantity)
    );
    -- An ordinal for each number that is still to be made.
    wanted integer[];
    issue machserial._issue;
    keys text[];
    attempt integer := 0;
    sequence_values bigint[];
    alike record;
    drawn machserial._numbered[];
    recorded record;
    concerned integer[];
    detail text;
    hint text;
    broken_constraint text;
begin
    if machserial._may_be_limited() then
        perform machserial._require_visible_site(coalesce(_generate_each.site_id, 'DEFAULT'));
    end if;
    if quantity = 0 then
        return;
    end if;
    if cardinality(_generate_each.contexts) is distinct from cardinality(_generate_each.quantities)
        or exists (
            select from unnest(_generate_each.quantities) as q (quantity)
            where (q.quantity >= 0) is not true
        )
    then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'quantities and contexts do not belong together',
            detail = format(
                'There are %s quantities and %s contexts; no quantity is null or negative.',
                cardinality(_generate_each.quantities), coalesce(cardinality(_generate_each.contexts), 0)
            ),
            hint = 'Give each unit its quantity and its context, {} if it has none.';
    end if;
    concerned := array(select generate_series(1, cardinality(_generate_each.quantities)));
    perform machserial._require_quantity(least(quantity, 2147483647)::integer);
    wanted := array(
        select q.ordinal
        from unnest(_generate_each.quantities) with ordinality as q (quantity, ordinal)
        cross join lateral generate_series(1, q.quantity)
        order by q.ordinal
    );
    issue := machserial._resolve(
        _generate_each.part_id, quantity::integer, _generate_each.format, null, _generate_each.site_id, '{}'
    );
    keys := machserial._context_keys(issue.format_id);
    loop
        if keys <> '{}' and attempt = 0 and issue.sequence_maximum is not null then
            -- One draw for all contexts. It writes numbers too: any context serves, they are written again.
            issue.context := (select jsonb_object_agg(k.key, '0') from unnest(keys) as k (key));
            sequence_values := (machserial._draw_sequenced(issue, cardinality(wanted), 0)).sequence_values;
        else
            sequence_values := null;
        end if;
        drawn := '{}';
        for alike in
            select
                (array_agg(c.context))[1] as context,
                array_agg(u.ordinal order by u.position) as ordinals,
                case when sequence_values is not null then array_agg(u.value order by u.position) end
                    as sequence_values
            from unnest(wanted, sequence_values) with ordinality as u (ordinal, value, position)
            inner join unnest(_generate_each.contexts) with ordinality as c (context, ordinal)
                on c.ordinal = u.ordinal
            group by array(select c.context ->> k.key from unnest(keys) as k (key))
            order by min(u.position)
        loop
            concerned := alike.ordinals;
            issue.context := alike.context;
            drawn := drawn
                || machserial._number_alike(issue, alike.ordinals, alike.sequence_values, attempt);
        end loop;
        concerned := wanted;
        issue.drawn_from := coalesce(issue.drawn_from, (drawn[1]).sequence_values[1]);
        if current_setting('machserial.debug', true) in ('on', 'true', 'yes', '1') then
            perform machserial._tell_choice(
                issue,
                case when _generate_each.format is null then 'assigned to the part or its type' else 'by name' end,
                attempt, (drawn[cardinality(drawn)]).numbers, (drawn[cardinality(drawn)]).sequence_values
            );
        end if;
        select r.* into recorded from machserial._record_each(issue, drawn, _generate_each.contexts) as r;
        return query
        select r.* from unnest(
            recorded.ordinals, recorded.ids, recorded.numbers, recorded.sequence_values
        ) as r;
        wanted := array(
            select unnest(wanted) as ordinal except all select unnest(recorded.ordinals) order by ordinal
        );
        exit when wanted = '{}';
        attempt := attempt + 1;
    end loop;
exception when others then
    if _generate_each.labels[1] is null then
        raise;
    end if;
    get stacked diagnostics
        detail = pg_exception_detail, hint = pg_exception_hint, broken_constraint = constraint_name;
    perform machserial._raise_about(
        array(
            select l.label
            from unnest(_generate_each.labels) with ordinality as l (label, ordinal)
            inner join (select distinct o.ordinal from unnest(concerned) as o (ordinal)) as c
                on c.ordinal = l.ordinal
            order by l.ordinal
        ),
        sqlstate, sqlerrm, detail, hint, broken_constraint
    );
end
$$;
