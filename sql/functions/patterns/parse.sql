-- The token language of number patterns: what the tokens are, and what is wrong with a pattern.

-- What each token is. usage: the ways to write it. kind: DATE follows from the moment by a template of
-- to_char(), CONTEXT from the context by its key (null: by the token's argument). width: how many characters
-- it gives, null where that depends. sample: a text of its shape, null where only the call knows.
create function machserial._tokens()
returns table (
    name text, usage text, kind text, template text, width integer, context_key text, sample text
)
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return query values
        ('YYYY', '{YYYY}', 'DATE', 'YYYY', 4, null, '2026'),
        ('YY', '{YY}', 'DATE', 'YY', 2, null, '26'),
        ('MM', '{MM}', 'DATE', 'MM', 2, null, '11'),
        ('DD', '{DD}', 'DATE', 'DD', 2, null, '26'),
        ('DDD', '{DDD}', 'DATE', 'DDD', 3, null, '326'),
        ('WW', '{WW}', 'DATE', 'IW', 2, null, '48'),
        ('IYYY', '{IYYY}', 'DATE', 'IYYY', 4, null, '2026'),
        ('SEQ', '{SEQ:n} {SEQ:n:alphabet}', 'SEQUENCE', null, null, null, null),
        ('RANDOM', '{RANDOM:n} {RANDOM:type} {RANDOM:type:n}', 'RANDOM', null, null, null, null),
        ('CHECK', '{CHECK:algorithm}', 'CHECK', null, null, null, null),
        ('PREFIX', '{PREFIX:text}', 'TEXT', null, null, null, null),
        ('SITE', '{SITE}', 'PLACE', null, null, null, null),
        ('PART', '{PART}', 'PLACE', null, null, null, null),
        ('WO', '{WO}', 'CONTEXT', null, null, 'work_order_id', null),
        ('LOT', '{LOT}', 'CONTEXT', null, null, 'lot_number', null),
        ('CTX', '{CTX:key}', 'CONTEXT', null, null, null, null),
        ('UUID', '{UUID}', 'RANDOM', null, 36, null, null);
end
$$;

-- These have no arguments: PostgreSQL computes them once, while it plans a query.
create function machserial._token_usages() returns text[]
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(select unnest(string_to_array(t.usage, ' ')) from machserial._tokens() as t);
end
$$;

create function machserial._date_tokens() returns text[]
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(select t.name from machserial._tokens() as t where t.kind = 'DATE');
end
$$;

-- Characters of an alphabet in the order of their values; null if there is no such alphabet.
create function machserial._alphabet(name text) returns text
language sql immutable parallel safe
return case lower(name collate "C")
    when 'numeric' then '0123456789'
    when 'hex' then '0123456789ABCDEF'
    when 'alpha' then 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
    when 'alphanumeric' then '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ'
    when 'base36' then '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ'
    when 'safe' then '23456789ABCDEFGHJKLMNPQRSTUVWXYZ'
end;

-- The token that was probably meant: the name counts, what follows the colon does not.
create function machserial._nearest_token(token text) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    name constant text := split_part(btrim(token, '{} '), ':', 1);
    has_argument constant boolean := position(':' in token) > 0;
begin
    return (
        select u.usage
        from unnest(machserial._token_usages()) with ordinality as u (usage, ordinal)
        order by
            machserial._distance(upper(left(name, 64) collate "C"), split_part(btrim(u.usage, '{}'), ':', 1)),
            has_argument <> (position(':' in u.usage) > 0),
            u.ordinal
        limit 1
    );
end
$$;

-- Highest number that n characters of the alphabet can hold; null if it does not fit a bigint.
create function machserial._highest_value(size integer, alphabet text) returns bigint
language sql immutable parallel safe
return case
    when length(alphabet)::numeric ^ least(size, 64) - 1 <= 9223372036854775807
        then (length(alphabet)::numeric ^ least(size, 64) - 1)::bigint
end;

-- One token between braces, resolved: how many characters of which alphabet, or what is wrong with it.
create function machserial._resolve_token(
    text_in_braces text,
    out token text, out argument text, out size integer, out alphabet text,
    out fault text, out hint text, out kind text, out context_key text
)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    parts text[];
    usage text;
begin
    token := split_part(text_in_braces, ':', 1);
    argument := case when position(':' in text_in_braces) > 0 then substr(
        text_in_braces, length(token) + 2
    ) end;
    select t.usage, t.width, t.kind, coalesce(t.context_key, argument) into usage, size, kind, context_key
    from machserial._tokens() as t
    where t.name = token;
    case
        when position(':' in usage) = 0 then
            if argument is not null then
                fault := format('{%s} takes no argument', token);
                hint := format('Write %s.', usage);
            end if;
        when token = 'SEQ' then
            parts := regexp_match(argument, '^([0-9]{1,4})(?::([A-Za-z0-9]+))?$');
            size := parts[1]::integer;
            alphabet := machserial._alphabet(coalesce(parts[2], 'numeric'));
            if parts is null or lower(parts[2] collate "C") not in ('base36', 'hex', 'alpha', 'safe') then
                fault := 'SEQ takes a number of characters and, if not decimal, an alphabet';
                hint := 'Write {SEQ:n} or {SEQ:n:alphabet} with alphabet base36, hex, alpha or safe.';
            elsif size < 1 or machserial._highest_value(size, alphabet) is null then
                fault := format('SEQ cannot have %s characters', parts[1]);
                hint := 'Write {SEQ:n} with n from 1 to 18 (hex 15, alpha 13, base36 12, safe 12).';
            end if;
        when token = 'RANDOM' then
            parts := regexp_match(argument, '^(?:([0-9]{1,4})|([A-Za-z0-9]+?)(?::([0-9]{1,4}))?)$');
            size := coalesce(parts[1], parts[3], '4')::integer;
            alphabet := machserial._alphabet(coalesce(parts[2], 'alphanumeric'));
            if parts is null or alphabet is null or lower(parts[2] collate "C") = 'base36' then
                fault := 'RANDOM takes a number of characters, a type, or both';
                hint := 'Write {RANDOM:n}, {RANDOM:type} or {RANDOM:type:n} with type numeric, alpha, '
                    'alphanumeric, hex or safe.';
            elsif size not between 1 and 64 then
                fault := format('RANDOM cannot have %s characters', size);
                hint := 'Write {RANDOM:n} with n from 1 to 64.';
            end if;
        when token = 'CHECK' then
            begin
                argument := machserial._check_name(coalesce(argument, ''));
                size := machserial._check_length(argument);
            exception when invalid_parameter_value then
                get stacked diagnostics hint = pg_exception_hint;
                fault := format('%L is no check digit algorithm', machserial._shown(coalesce(argument, '')));
                hint := concat('Write {CHECK:algorithm}. ', hint);
            end;
        when token in ('PREFIX', 'CTX') then
            if coalesce(argument, '') = '' then
                fault := format('%s needs an argument', token);
                hint := format('Write %s.', usage);
            end if;
            size := case when token = 'PREFIX' then length(argument) end;
        else
            fault := format('{%s} is not a token', machserial._shown(text_in_braces));
            hint := format('Did you mean %s?', machserial._nearest_token(text_in_braces));
    end case;
end
$$;

-- Characters that a token can give, null where they may be any.
create function machserial._possible_characters(token text, argument text, alphabet text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when token in ('LITERAL', 'PREFIX') then argument
        when token in ('SEQ', 'RANDOM') then alphabet
        when token = any(machserial._date_tokens()) then '0123456789'
        when token = 'UUID' then '0123456789ABCDEFabcdef-'
        when token = 'CHECK' then machserial._check_alphabet(argument)
    end;
end
$$;

-- The pattern piece by piece, faults included as data; "at" is the 1-based character position.
create function machserial._tokenize(pattern text)
returns table (
    ordinal integer, at integer, token text, argument text, size integer, alphabet text,
    fault text, hint text, kind text, context_key text
)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    piece text;
    has_sequence boolean := false;
    -- What can stand to the left of a token; null where that may be anything.
    left_characters text := '';
    total_length integer := 0;
begin
    -- An ad-hoc pattern is the name of its format, and both stand in an index.
    if length(pattern) > 1000 or octet_length(pattern) > 2000 then
        ordinal := 1;
        at := least(length(pattern), 1001);
        fault := 'a pattern has at most 1000 characters, of 2000 bytes';
        hint := 'Shorten the pattern.';
        return next;
        return;
    end if;
    ordinal := 0;
    at := 1;
    for piece in select (regexp_matches(pattern, '(\{\{|\}\}|\{[^{}]*\}|[^{}]+|.)', 'g'))[1] loop
        ordinal := ordinal + 1;
        token := 'LITERAL';
        kind := 'TEXT';
        context_key := null;
        argument := piece;
        size := length(piece);
        alphabet := null;
        fault := null;
        hint := null;
        if piece in ('{{', '}}') then
            argument := left(piece, 1);
            size := 1;
        elsif piece in ('{', '}') then
            fault := format('%s has no partner', piece);
            hint := format('For a literal brace write %s; a token is written %s.',
                repeat(piece, 2), machserial._nearest_token(substr(pattern, at, 12)));
        elsif left(piece, 1) = '{' then
            select r.token, r.argument, r.size, r.alphabet, r.fault, r.hint, r.kind, r.context_key
            into token, argument, size, alphabet, fault, hint, kind, context_key
            from machserial._resolve_token(substr(piece, 2, length(piece) - 2)) as r;
            if fault is null and token = 'SEQ' and has_sequence then
                fault := 'a pattern has one sequence number only';
                hint := 'Keep one {SEQ:n}.';
            elsif fault is null and token = 'CHECK' and machserial._check_filter(
                argument, left_characters
            ) = '' then
                fault := format('CHECK has nothing to its left that %s knows', argument);
                hint := 'Put {CHECK:algorithm} behind what it protects.';
            end if;
            has_sequence := has_sequence or token = 'SEQ';
        end if;
        total_length := total_length + coalesce(case when fault is null then size end, 1);
        if fault is null and total_length > 255 then
            fault := 'the numbers would be longer than 255 characters';
            hint := 'Shorten the pattern.';
            total_length := 0;
        end if;
        if fault is null then
            left_characters := left_characters || machserial._possible_characters(token, argument, alphabet);
        end if;
        return next;
        at := at + length(piece);
    end loop;
end
$$;

-- What a token writes, with this character for what varies, if the token can give it.
create function machserial._sample(token text, argument text, size integer, alphabet text, filling text)
returns text
language sql immutable parallel safe
return case
    when token in ('LITERAL', 'PREFIX') then argument
    when strpos(machserial._possible_characters(token, argument, alphabet), filling) > 0
        then repeat(filling, size)
    else repeat('0', coalesce(size, 1))
end;

-- The place in a pattern without other faults that would make numbers of it none; nulls if there is none.
create function machserial._unwritable(pattern text, out at integer, out fault text, out hint text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    characters constant text := machserial._serial_characters();
    sample record;
begin
    -- An accent that a pattern puts after a letter that varies makes one character of both.
    select s.written, machserial._strange_place(s.written, characters) as place into sample
    from (
        select string_agg(
            machserial._sample(t.token, t.argument, t.size, t.alphabet, f.filling), '' order by t.ordinal
        ) as written
        from regexp_split_to_table('0ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef', '') as f (filling)
        cross join machserial._tokenize(pattern) as t
        group by f.filling
    ) as s
    where machserial._strange_place(s.written, characters) is not null
    limit 1;
    if not found then
        return;
    end if;
    select p.at + case p.token when 'PREFIX' then length('{PREFIX:') else 0 end + sample.place - p.written_before - 1
    into at
    from (
        select
            t.at, t.token, length(s.text) as size,
            sum(length(s.text)) over (order by t.ordinal) - length(s.text) as written_before
        from machserial._tokenize(pattern) as t
        cross join lateral (
            select machserial._sample(t.token, t.argument, t.size, t.alphabet, '0') as text
        ) as s
    ) as p
    where sample.place between p.written_before + 1 and p.written_before + p.size;
    fault := format('serial numbers cannot have %s', machserial._strange_character(
        sample.written, sample.place, characters
    ));
    hint := machserial._number_hint(sample.written, characters);
end
$$;

create function machserial._raise_faulty_pattern(pattern text, at integer, fault text, hint text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('pattern %L is not valid: %s', machserial._shown(pattern), fault),
        detail = format('At character position %s.', at),
        hint = hint;
end
$$;

create function machserial.parse_pattern(pattern text)
returns table (ordinal integer, token text, argument text, min_length integer, max_length integer)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    piece record;
    written text := '';
begin
    perform machserial._require_text('pattern', pattern);
    for piece in select t.* from machserial._tokenize(pattern) as t order by t.ordinal loop
        if piece.fault is not null then
            perform machserial._raise_faulty_pattern(pattern, piece.at, piece.fault, piece.hint);
        end if;
        written := written || machserial._sample(
            piece.token, piece.argument, piece.size, piece.alphabet, '0'
        );
        ordinal := piece.ordinal;
        token := piece.token;
        argument := piece.argument;
        min_length := coalesce(piece.size, 1);
        max_length := piece.size;
        return next;
    end loop;
    if not machserial._is_serial_number(written, 'ASCII') then
        perform machserial._raise_faulty_pattern(pattern, u.at, u.fault, u.hint)
        from machserial._unwritable(pattern) as u
        where u.at is not null;
    end if;
end
$$;

comment on function machserial.parse_pattern(text) is
'The tokens of a pattern in order; LITERAL is the text between them. max_length is null where only the call
knows.
Errors: 22023 with the character position of the fault in DETAIL and the nearest valid token in HINT.';

create function machserial.validate_pattern(
    pattern text, out is_valid boolean, out errors text[], out warnings text[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    tokens text[];
begin
    warnings := '{}';
    if coalesce(btrim(pattern), '') = '' then
        is_valid := false;
        errors := '{"the pattern is empty"}';
        return;
    end if;
    errors := array(
        select format('position %s: %s. %s', t.at, t.fault, t.hint)
        from machserial._tokenize(pattern) as t
        where t.fault is not null
        order by t.ordinal
    );
    if errors = '{}' then
        errors := array(
            select format('position %s: %s. %s', u.at, u.fault, u.hint)
            from machserial._unwritable(pattern) as u
            where u.at is not null
        );
    end if;
    is_valid := errors = '{}';
    tokens := array(select t.token from machserial._tokenize(pattern) as t);
    if not tokens && '{SEQ,RANDOM,UUID}' then
        warnings := warnings || 'no {SEQ:n}, {RANDOM:n} or {UUID}: each call has one number only'::text;
    end if;
    if tokens @> '{WW}' and tokens && '{YYYY,YY}' and not tokens && '{IYYY,MM,DDD}'
    then
        warnings := warnings
            || '{WW} is the ISO week: beside {YYYY} or {YY} wrong around New Year. Write {IYYY}{WW}'::text;
    end if;
end
$$;

comment on function machserial.validate_pattern(text) is
'Whether a pattern is valid, every fault in it with its position, and what is allowed but seldom meant. Never
raises.';
