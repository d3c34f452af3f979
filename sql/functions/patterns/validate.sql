-- Does a number that somebody shows have the shape, the dates and the check digits of a pattern?

-- A token as a regular expression. Where only the call knew the text, anything goes.
create function machserial._token_expression(
    token text, argument text, size integer, alphabet text
)
returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when token in ('LITERAL', 'PREFIX')
            then '(' || regexp_replace(argument, '([!-/:-@[-`{-~])', '\\\1', 'g') || ')'
        when token = any(machserial._date_tokens()) then format('([0-9]{%s})', size)
        when token in ('SEQ', 'RANDOM') then format('([%s]{%s})', alphabet, size)
        when token = 'UUID' then '([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})'
        when token = 'CHECK' then format('([0-9A-Z*]{%s})', size)
        else '(.+)'
    end;
end
$$;

-- Where the number stops looking like the pattern: the first token that does not fit any more.
create function machserial._shape_error(serial_number text, pattern text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    expression text := '^';
    fitting text := '';
    piece record;
begin
    for piece in select t.* from machserial._tokenize(pattern) as t order by t.ordinal loop
        expression := expression || machserial._token_expression(
            piece.token, piece.argument, piece.size, piece.alphabet
        );
        if serial_number !~ expression then
            return format(
                'position %s: expected %s, found %L', length(fitting) + 1,
                case piece.token
                    when 'LITERAL' then quote_literal(piece.argument)
                    else format('{%s}', concat_ws(':', piece.token, piece.argument))
                end,
                substr(serial_number, length(fitting) + 1)
            );
        end if;
        fitting := substring(serial_number from replace(expression, '(', '(?:'));
    end loop;
    return format(
        'position %s: %L is left over', length(fitting) + 1, substr(serial_number, length(fitting) + 1)
    );
end
$$;

-- The day that the date tokens name together, null if they leave it open or name none.
create function machserial._date_of_tokens(dates jsonb) returns date
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    year constant integer := coalesce((dates ->> 'YYYY')::integer, 2000 + (dates ->> 'YY')::integer);
begin
    if dates ? 'DDD' then
        return make_date(year, 1, 1) + (dates ->> 'DDD')::integer - 1;
    end if;
    return make_date(year, (dates ->> 'MM')::integer, (dates ->> 'DD')::integer);
exception when datetime_field_overflow then
    return null;
end
$$;

-- Dates that do not exist, from what stands for each date token.
create function machserial._date_errors(dates jsonb) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    year constant integer := coalesce((dates ->> 'YYYY')::integer, 2000 + (dates ->> 'YY')::integer);
    month constant integer := (dates ->> 'MM')::integer;
    day constant integer := (dates ->> 'DD')::integer;
    day_of_year constant integer := (dates ->> 'DDD')::integer;
    week constant integer := (dates ->> 'WW')::integer;
    iso_year constant integer := (dates ->> 'IYYY')::integer;
    -- Without a year a leap year is possible; without a month, one of 31 days.
    any_year constant integer := coalesce(nullif(year, 0), 2000);
    named_day constant date := machserial._date_of_tokens(dates);
    errors text[] := '{}'::text[];
begin
    if month not between 1 and 12 then
        errors := errors || format('there is no month %s', dates ->> 'MM');
    elsif day not between 1 and extract(
        day from make_date(any_year, coalesce(month, 1), 1) + '1 month - 1 day'::interval
    )::integer then
        errors := errors || format(
            'there is no day %s',
            concat_ws('-', dates ->> 'YYYY', dates ->> 'YY', dates ->> 'MM', dates ->> 'DD')
        );
    end if;
    if day_of_year not between 1 and make_date(any_year, 12, 31) - make_date(any_year, 1, 1) + 1 then
        errors := errors || format('there is no day %s in the year', dates ->> 'DDD');
    end if;
    -- 28 December is always in the last ISO week of its year.
    if week not between 1 and extract(
        week from make_date(coalesce(nullif(iso_year, 0), 2020), 12, 28)
    )::integer then
        errors := errors || format('there is no week %s', concat_ws('-W', dates ->> 'IYYY', dates ->> 'WW'));
    end if;
    if right(dates ->> 'YYYY', 2) <> dates ->> 'YY' then
        errors := errors || format('YYYY is %s and YY is %s', dates ->> 'YYYY', dates ->> 'YY');
    end if;
    if errors = '{}' then
        errors := array(
            select format(
                '%s is %s, but on %s it is %s', d.key, d.value, named_day, to_char(named_day, t.template)
            )
            from jsonb_each_text(dates) as d
            inner join machserial._tokens() as t on t.name = d.key
            where to_char(named_day, t.template) <> d.value
            order by d.key
        );
    end if;
    return errors;
end
$$;

-- In which ways the text can be divided among the tokens so that every piece and check digit is right: for
-- each, what stands for the named tokens. Where several tokens are open (a lot, a work order) there are many
-- divisions; they are followed all at once, by how far each has come. Null: there are more than anybody waits
-- for.
create function machserial._divisions(serial_number text, pattern text, letter_case text, named text[])
returns jsonb[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Each way so far: {"at": characters used up, "named": what stands for each named token}.
    ways jsonb[] := array['{"at": 0, "named": {}}'::jsonb];
    -- The check digits of what is used up, by its length.
    checks jsonb;
    piece record;
begin
    for piece in
        select t.*, '^' || machserial._token_expression(
            t.token,
            case
                when letter_case = 'UPPER' and t.token in ('LITERAL', 'PREFIX') then upper(t.argument collate "C")
                else t.argument
            end,
            t.size, t.alphabet
        ) || '$' as expression
        from machserial._tokenize(pattern) as t order by t.ordinal
    loop
        if piece.size is null and piece.token <> all(_divisions.named) then
            -- It may end anywhere behind where it can begin first.
            ways := array(
                select jsonb_build_object('at', ending, 'named', w.named)
                from (
                    select way -> 'named' as named, min((way ->> 'at')::integer) as at
                    from unnest(ways) as way
                    group by way -> 'named'
                ) as w
                cross join lateral generate_series(w.at + 1, length(serial_number)) as ending
            );
            continue when cardinality(ways) <= 20000;
            return null;
        end if;
        if piece.token = 'CHECK' then
            checks := (
                select jsonb_object_agg(
                    w.at, machserial._check_in_pattern_or_zero(piece.argument, left(serial_number, w.at))
                )
                from (select distinct (way ->> 'at')::integer as at from unnest(ways) as way) as w
                where substr(serial_number, w.at + 1, piece.size) ~ piece.expression
            );
        end if;
        ways := array(
            select distinct jsonb_build_object('at', w.at + w.size, 'named', w.named || n.named)
            from (
                select (way ->> 'at')::integer as at, way -> 'named' as named, size
                from unnest(ways) as way
                cross join lateral generate_series(
                    coalesce(piece.size, 1),
                    coalesce(piece.size, length(serial_number) - (way ->> 'at')::integer)
                ) as size
            ) as w
            cross join lateral (select substr(serial_number, w.at + 1, w.size) as text) as s
            cross join lateral (
                select case
                    when piece.token = any(_divisions.named) then jsonb_build_object(piece.token, s.text)
                    else '{}'
                end as named
            ) as n
            where
                s.text ~ piece.expression
                and coalesce(w.named ->> piece.token, s.text) = s.text
                and (piece.token <> 'CHECK' or checks ->> w.at::text = s.text)
        );
        if cardinality(ways) > 20000 then
            return null;
        end if;
    end loop;
    return array(
        select way -> 'named'
        from unnest(ways) as way
        where (way ->> 'at')::integer = length(serial_number)
    );
end
$$;

-- Whether there is a way in which the dates exist, too.
create function machserial._fits(serial_number text, pattern text) returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (
        select
        from unnest(
            machserial._divisions(serial_number, pattern, 'EXACT', machserial._date_tokens())
        ) as named
        where machserial._date_errors(named) = '{}'
    );
end
$$;

create function machserial._check_errors(pieces text[], pattern text) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    errors text[] := '{}'::text[];
    left_text text;
    expected text;
    piece record;
begin
    for piece in
        select t.* from machserial._tokenize(pattern) as t where t.token = 'CHECK' order by t.ordinal
    loop
        left_text := array_to_string(pieces[:piece.ordinal - 1], '');
        expected := machserial._check_in_pattern_or_zero(piece.argument, left_text);
        if pieces[piece.ordinal] <> expected then
            errors := errors || format(
                'position %s: the %s check is %s, found %s', length(left_text) + 1, piece.argument, expected,
                pieces[piece.ordinal]
            );
        end if;
    end loop;
    return errors;
end
$$;

-- What is wrong with a number that does not fit: by its most obvious division.
create function machserial._serial_errors(serial_number text, pattern text) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    expression text;
    pieces text[];
    errors text[];
begin
    select string_agg(
        machserial._token_expression(t.token, t.argument, t.size, t.alphabet), '' order by t.ordinal
    ) into expression
    from machserial._tokenize(pattern) as t;
    pieces := regexp_match(serial_number, '^' || expression || '$');
    if pieces is null then
        return array[machserial._shape_error(serial_number, pattern)];
    end if;
    errors := array(
        select format('%s is %s', t.token, string_agg(distinct pieces[t.ordinal], ' and also '))
        from machserial._tokenize(pattern) as t
        where t.token = any(machserial._date_tokens())
        group by t.token
        having count(distinct pieces[t.ordinal]) > 1
        order by t.token
    );
    return errors || machserial._date_errors((
        select coalesce(jsonb_object_agg(t.token, pieces[t.ordinal]), '{}')
        from machserial._tokenize(pattern) as t
        where t.token = any(machserial._date_tokens())
    )) || machserial._check_errors(pieces, pattern);
end
$$;

create function machserial.validate_serial(
    serial_number text, pattern text, out is_valid boolean, out errors text[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    number constant text := machserial._trimmed(serial_number);
begin
    perform machserial.parse_pattern(pattern);
    if number is null or number <> '' and not machserial._is_serial_number(number, 'ASCII') then
        errors := array_remove(
            array[machserial._number_fault(number, machserial._serial_characters())], null
        );
        if errors <> '{}' then
            is_valid := false;
            return;
        end if;
    end if;
    is_valid := machserial._fits(number, pattern);
    errors := case when is_valid then '{}' else machserial._serial_errors(number, pattern) end;
    if errors = '{}' and not is_valid then
        errors := '{"it can be divided among the tokens in too many ways"}';
    end if;
end
$$;

comment on function machserial.validate_serial(text, text) is
'Whether a serial number, trimmed, has the shape of a pattern, dates that exist and right check digits; every
error found. One that could be divided among open tokens in more than 20,000 ways is not valid.
Errors: 22023 a faulty pattern.';
