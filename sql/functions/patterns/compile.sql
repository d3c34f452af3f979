-- From a pattern to a renderer: a function of its own for each format, machserial._render_<id>, whose
-- expression has the constants folded and the check digits computed from the digits that vary. It is made
-- once, with the format.

-- How a pattern is evaluated: declarations once a call, row_values once a number, then the expression.
-- Both lists hold objects {"name", "type", "expression"}.
create type machserial._compiled_pattern as (
    declarations jsonb,
    row_values jsonb,
    expression text,
    sequence_maximum bigint,
    random_space bigint
);

-- Above this many values a random space is drawn piece by piece and never counted through.
create function machserial._countable_space() returns bigint
language sql immutable parallel safe
return 1073741824;

-- A random number from 0 to below the limit, at most 2^30, from 60 cryptographic random bits: the bias is
-- below 2^-30.
create function machserial._random_number(below bigint) returns bigint
language sql volatile parallel safe
return ('x' || translate(substr(gen_random_uuid()::text, 21), '-', ''))::bit(60)::bigint % below;

create function machserial._context_value(context jsonb, key text, token text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(context ->> key, '') = '' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('the pattern needs %s, and the context has no %s', token, key),
            detail = format('The context is %s.', coalesce(context::text, 'null')),
            hint = format('The context says it: %s.', jsonb_build_object(key, '...'));
    end if;
    return context ->> key;
end
$$;

create function machserial._needed_part(part_id text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if part_id is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'the pattern needs {PART}, and no part is given',
            detail = 'part_id is null.',
            hint = 'Give part_id.';
    end if;
    return part_id;
end
$$;

-- The SQL expression of a token that is the same for all numbers of one call, and what it looks like: a
-- sample of the same length and kinds of characters, or null where only the call knows.
create function machserial._constant_expression(
    token text, argument text, out expression text, out sample text
)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    known record;
begin
    select t.* into known from machserial._tokens() as t where t.name = token;
    sample := known.sample;
    case
        when token in ('LITERAL', 'PREFIX') then
            expression := quote_literal(argument);
            sample := argument;
        when known.kind = 'DATE' then
            expression := format('to_char(issued_at, %L)', known.template);
        when known.kind = 'CONTEXT' then
            expression := format(
                'machserial._context_value(context, %L, %L)', coalesce(known.context_key, argument),
                format('{%s}', concat_ws(':', token, argument))
            );
        when token = 'SITE' then
            expression := 'site_id';
        when token = 'PART' then
            expression := 'machserial._needed_part(part_id)';
    end case;
end
$$;

-- Product of the random spaces of all RANDOM tokens if it can be counted through, null if not or if there are
-- none.
create function machserial._random_space(pattern text) returns bigint
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    space numeric := 1;
    piece record;
begin
    for piece in select t.token, t.size, t.alphabet from machserial._tokenize(pattern) as t loop
        if piece.token = 'UUID' then
            return null;
        elsif piece.token = 'RANDOM' then
            space := space * length(piece.alphabet)::numeric ^ piece.size;
        end if;
    end loop;
    return case when space <= machserial._countable_space() then space end;
end
$$;

-- A RANDOM token whose space is too large to count through: drawn in pieces of at most 2^30 values each.
create function machserial._large_random_segments(name_prefix text, size integer, alphabet text)
returns table (row_value jsonb, segment jsonb)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    longest constant integer := floor(ln(machserial._countable_space()) / ln(length(alphabet)));
    width integer;
    left_over integer := size;
    name text;
begin
    while left_over > 0 loop
        width := least(left_over, longest);
        name := format('%s_%s', name_prefix, left_over);
        row_value := jsonb_build_object(
            'name', name, 'type', 'bigint',
            'expression', format(
                'machserial._random_number(%s)', machserial._highest_value(width, alphabet) + 1
            )
        );
        segment := jsonb_build_object('digits', name, 'width', width, 'alphabet', alphabet);
        return next;
        left_over := left_over - width;
    end loop;
end
$$;

-- Highest sequence number that the pattern can hold, null without {SEQ}.
create function machserial._sequence_maximum(pattern text) returns bigint
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select machserial._highest_value(t.size, t.alphabet)
        from machserial._tokenize(pattern) as t
        where t.token = 'SEQ'
    );
end
$$;

-- The text of a segment, as an SQL expression.
create function machserial._segment_text(segment jsonb) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(
        segment ->> 'fixed',
        segment ->> 'text',
        machserial._encode_expression(
            segment ->> 'digits', (segment ->> 'width')::integer, segment ->> 'alphabet'
        )
    );
end
$$;

create function machserial._compile_pattern(pattern text, letter_case text)
returns machserial._compiled_pattern
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    compiled machserial._compiled_pattern;
    segments jsonb := '[]'::jsonb;
    space constant bigint := machserial._random_space(pattern);
    stride bigint := 1;
    token_space bigint;
    piece record;
    drawn record;
    name text;
    constant_value record;
    check_value record;
begin
    perform machserial.parse_pattern(pattern);
    compiled.declarations := '[]';
    compiled.row_values := '[]';
    for piece in select t.* from machserial._tokenize(pattern) as t order by t.ordinal loop
        case piece.token
            when 'SEQ' then
                segments := segments || jsonb_build_object(
                    'digits', 'sequence_value', 'width', piece.size, 'alphabet', piece.alphabet
                );
            when 'RANDOM' then
                if space is null then
                    for drawn in
                        select s.row_value, s.segment
                        from machserial._large_random_segments(
                            format('random_%s', piece.ordinal), piece.size, piece.alphabet
                        ) as s
                    loop
                        compiled.row_values := compiled.row_values || drawn.row_value;
                        segments := segments || drawn.segment;
                    end loop;
                else
                    -- One random number for all RANDOM tokens: each takes its own digits of it.
                    token_space := machserial._highest_value(piece.size, piece.alphabet) + 1;
                    segments := segments || jsonb_build_object(
                        'digits', format('(random_value / %s %% %s)', stride, token_space),
                        'width', piece.size, 'alphabet', piece.alphabet
                    );
                    stride := stride * token_space;
                end if;
            when 'UUID' then
                name := format('uuid_%s', piece.ordinal);
                compiled.row_values := compiled.row_values || jsonb_build_object(
                    'name', name, 'type', 'text',
                    'expression', case letter_case
                        when 'UPPER' then 'upper(gen_random_uuid()::text collate "C")' else 'gen_random_uuid()::text'
                    end
                );
                segments := segments || jsonb_build_object('text', name);
            when 'CHECK' then
                select c.declarations, c.expression into check_value
                from machserial._compile_check(
                    piece.argument, segments, format('check_%s', piece.ordinal)
                ) as c;
                compiled.declarations := compiled.declarations || check_value.declarations;
                segments := segments || jsonb_build_object('text', check_value.expression);
            else
                select c.expression, c.sample into constant_value
                from machserial._constant_expression(piece.token, piece.argument) as c;
                if letter_case = 'UPPER' then
                    constant_value.expression := format('upper(%s collate "C")', constant_value.expression);
                    constant_value.sample := upper(constant_value.sample collate "C");
                end if;
                -- A literal stays one, so that what follows from it alone is computed once a session.
                if piece.token not in ('LITERAL', 'PREFIX') then
                    name := format('fixed_%s', piece.ordinal);
                    compiled.declarations := compiled.declarations || jsonb_build_object(
                        'name', name, 'type', 'text', 'expression', constant_value.expression
                    );
                    constant_value.expression := name;
                end if;
                segments := segments || jsonb_strip_nulls(
                    jsonb_build_object('fixed', constant_value.expression, 'sample', constant_value.sample)
                );
        end case;
    end loop;
    compiled.sequence_maximum := machserial._sequence_maximum(pattern);
    compiled.random_space := space;
    compiled.expression := (
        select string_agg(machserial._segment_text(s.segment), ' || ' order by s.ordinal)
        from jsonb_array_elements(segments) with ordinality as s (segment, ordinal)
    );
    return compiled;
end
$$;

-- The source of the rows that one evaluation of a pattern reads.
create function machserial._row_source(compiled machserial._compiled_pattern) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Without "offset 0" the planner would copy a drawn random number into each place that uses it.
    return format(
        '(select drawn.sequence_value, drawn.random_value%s '
        'from unnest(sequence_values, random_values) as drawn (sequence_value, random_value) offset 0) '
        'as numbers',
        (
            select string_agg(format(', %s as %I', v.expression, v.name), '' order by v.ordinal)
            from rows from (jsonb_to_recordset(compiled.row_values) as (name text, expression text))
                with ordinality as v (name, expression, ordinal)
        )
    );
end
$$;

-- Makes machserial._render_<id>. One number is the commonest call: it gets by without a query.
create function machserial._create_renderer(
    format_id bigint, compiled machserial._compiled_pattern
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    name constant text := '_render_' || format_id;
    declarations text;
    row_declarations text;
    row_assignments text;
begin
    select string_agg(
        format(E'    %I constant %s := %s;\n', d.name, d.type, d.expression), '' order by d.ordinal
    )
    into declarations
    from rows from (jsonb_to_recordset(compiled.declarations) as (name text, type text, expression text))
        with ordinality as d (name, type, expression, ordinal);
    select
        string_agg(format(E'    %I %s;\n', v.name, v.type), '' order by v.ordinal),
        string_agg(format(E'        %I := %s;\n', v.name, v.expression), '' order by v.ordinal)
    into row_declarations, row_assignments
    from rows from (jsonb_to_recordset(compiled.row_values) as (name text, type text, expression text))
        with ordinality as v (name, type, expression, ordinal);
    execute format(
        'create function machserial.%I('
        'sequence_values bigint[], random_values bigint[], issued_at timestamp, site_id text, part_id text, '
        'context jsonb) returns text[] language plpgsql volatile set search_path = pg_catalog, pg_temp as %L',
        name,
        concat(
            E'#variable_conflict use_column\ndeclare\n', declarations, row_declarations,
            E'    sequence_value bigint;\n    random_value bigint;\nbegin\n',
            E'    if cardinality(sequence_values) = 1 then\n',
            E'        sequence_value := sequence_values[1];\n        random_value := random_values[1];\n',
            row_assignments,
            format(E'        return array[%s];\n    end if;\n', compiled.expression),
            format(E'    return array(select %s from %s);\nend',
                compiled.expression, machserial._row_source(compiled))
        )
    );
    execute format('revoke execute on function machserial.%I from public', name);
end
$$;
