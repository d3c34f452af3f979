-- What generation chooses, told while machserial.debug is on.

create function machserial._token_values(
    issue machserial._issue, pattern text, number text, sequence_value bigint
)
returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    piece record;
    written text;
    value text;
    at integer := 1;
    told text[] := '{}'::text[];
begin
    for piece in
        select p.token, p.argument, p.max_length from machserial.parse_pattern(pattern) as p order by p.ordinal
    loop
        written := format('{%s}', concat_ws(':', piece.token, piece.argument));
        if piece.token = 'LITERAL' then
            at := at + length(piece.argument);
            continue;
        elsif piece.max_length is not null then
            value := substr(number, at, piece.max_length);
        else
            -- As long as what the call brings along.
            value := (
                select v from machserial.preview(
                    written, 1, site_id => issue.site_id, part_id => issue.part_id, context => issue.context,
                    start => coalesce(sequence_value, 1)
                ) as v
            );
            value := substr(number, at, length(value));
        end if;
        at := at + length(value);
        told := told || format('%s = %s', written, value);
    end loop;
    return array_to_string(told, ', ');
end
$$;

-- Tells the caller how the numbers of this call came about.
create function machserial._tell_choice(
    issue machserial._issue, chosen text, attempt integer, numbers text[], sequence_values bigint[]
)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    format record;
    counter record;
begin
    select f.name, f.version, f.pattern into format
    from machserial.serial_formats as f where f.id = issue.format_id;
    select c.id, c.site_id, c.part_id, c.period into counter
    from machserial.counters as c where c.id = issue.counter_id;
    raise notice using
        message = pg_catalog.format(
            'part %s is numbered by format %s, version %s (%s): %s', issue.part_id, format.name, format.version,
            chosen, format.pattern
        ),
        detail = concat_ws(
            ' ',
            case when attempt > 0 then pg_catalog.format('Attempt %s, as numbers were taken.', attempt + 1) end,
            case
                when counter.id is null then 'No counter.'
                else pg_catalog.format(
                    'Counter %s (%s) gives %s to %s.', counter.id,
                    coalesce(nullif(concat_ws(', ',
                        'site ' || nullif(counter.site_id, ''), 'part ' || nullif(counter.part_id, ''),
                        'period ' || nullif(counter.period, '')
                    ), ''), 'for all'),
                    sequence_values[1], sequence_values[cardinality(sequence_values)]
                )
            end,
            pg_catalog.format(
                '%s, the first of %s: %s.', numbers[1], cardinality(numbers),
                machserial._token_values(issue, format.pattern, numbers[1], sequence_values[1])
            )
        );
end
$$;
