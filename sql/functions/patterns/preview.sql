-- What a pattern would give, without a format, a counter or a trace.

-- One lateral level for each declaration, since a later one may use an earlier one.
create function machserial._preview_query(compiled machserial._compiled_pattern) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return concat(
        format('select %s from (select $1::bigint[] as sequence_values, $2::bigint[] as random_values, '
            '$3::timestamp as issued_at, $4::text as site_id, $5::text as part_id, $6::jsonb as context) '
            'as given',
            compiled.expression),
        (
            select string_agg(
                format(' cross join lateral (select (%s)::%s as %I offset 0) as declared_%s',
                    d.expression, d.type, d.name, d.ordinal),
                '' order by d.ordinal
            )
            from rows from (
                jsonb_to_recordset(compiled.declarations) as (name text, type text, expression text)
            )
                with ordinality as d (name, type, expression, ordinal)
        ),
        ' cross join lateral ', machserial._row_source(compiled)
    );
end
$$;

create function machserial.preview(
    pattern text, quantity integer default 5, at timestamptz default now(), site_id text default null,
    part_id text default null, context jsonb default '{}', start bigint default 1
)
returns setof text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    compiled constant machserial._compiled_pattern := machserial._compile_pattern(pattern, 'EXACT');
    site constant text := coalesce(preview.site_id, 'DEFAULT');
    zone constant text := (select s.time_zone from machserial.sites as s where s.id = site);
    last_value constant numeric := start::numeric + quantity - 1;
    numbers text[];
begin
    perform machserial._require_quantity(quantity);
    perform machserial._require_time('at', preview.at);
    if start is null or start < 0 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'start must not be negative',
            detail = format('start is %s.', coalesce(start::text, 'null')),
            hint = 'Leave it out to begin with 1.';
    elsif last_value > coalesce(compiled.sequence_maximum, 9223372036854775807) then
        raise exception using
            errcode = 'sequence_generator_limit_exceeded',
            message = format('pattern %L cannot write sequence number %s', pattern, last_value),
            detail = format('Its highest is %s.', coalesce(compiled.sequence_maximum, 9223372036854775807)),
            hint = 'Give {SEQ:n} more characters, or begin lower.';
    elsif zone is null then
        perform machserial._raise_unknown_site(site);
    end if;
    execute format('select array(%s)', machserial._preview_query(compiled)) into numbers
    using
        array(select v from generate_series(start, last_value::bigint) as v),
        array(
            select machserial._random_number(coalesce(compiled.random_space, 1))
            from generate_series(1, quantity)
        ),
        machserial._time_at_site(site, zone, coalesce(preview.at, now())), site, preview.part_id, preview.context;
    perform machserial._require_writable(pattern, numbers[1]);
    return query select n.number from unnest(numbers) with ordinality as n (number, ordinal) order by n.ordinal;
end
$$;

comment on function machserial.preview(text, integer, timestamptz, text, text, jsonb, bigint) is
'Serial numbers as a pattern would give them, from sequence number start on; consumes nothing. at: the moment
whose date is written, in the time zone of the site. Errors: 22023 a faulty pattern, a part or context that
it needs, a moment that is none of the years 1 to 9999; 23503 unknown site; 2200H the sequence numbers do not fit.';
