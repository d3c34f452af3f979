-- Check digits: fifteen algorithms, first over a text, then compiled for the digits of a pattern that vary.
--
-- Each algorithm has an alphabet for what it protects (_check_payload), one for its result (_check_signs),
-- and as many results as its modulus says; an index, 0 to modulus - 1, numbers them. By what a compiled
-- pattern can make of them there are two kinds:
--   sums      luhn, luhn36, mod10, mod11, gs1_pair and the pure systems of ISO/IEC 7064: each character moves
--             the index by an amount that depends on the character and on how many others follow it only;
--   automata  damm, verhoeff and the hybrid systems: each character leads to another state (_check_step).

create function machserial._check_name(algorithm text) returns text
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    known constant text[] := array[
        'luhn', 'luhn36', 'mod10', 'gs1_pair', 'mod11', 'verhoeff', 'damm', 'mod11_2', 'mod37_2', 'mod97_10',
        'mod661_26', 'mod1271_36', 'mod11_10', 'mod27_26', 'mod37_36'
    ];
    -- Left: names of the original system.
    name constant text := case lower(algorithm collate "C")
        when 'modulo11' then 'mod11' when 'custom' then 'verhoeff' else lower(algorithm collate "C")
    end;
    nearest text;
begin
    if name = any (known) then
        return name;
    end if;
    select k.candidate into nearest
    from unnest(known) as k (candidate)
    where replace(k.candidate, '_', '') = regexp_replace(name, '[^a-z0-9]|^iso7064', '', 'g');
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('check digit algorithm %L is unknown', machserial._shown(algorithm)),
        detail = format('Given: %L.', machserial._shown(algorithm)),
        hint = concat(
            'Did you mean ' || nearest || '? ', 'Known are ', array_to_string(known, ', '),
            ', and modulo11 for mod11, custom for verhoeff.'
        );
end
$$;

-- The characters that an algorithm protects, in the order of their values. This and the next functions take
-- the name that _check_name returns. They are not strict, as a strict function with a case is never inlined.
create function machserial._check_payload(name text) returns text
language sql immutable parallel safe
return case
    when name in ('luhn', 'mod10', 'mod11', 'verhoeff', 'damm', 'mod11_2', 'mod11_10') then '0123456789'
    when name in ('luhn36', 'mod37_2', 'mod97_10', 'mod1271_36', 'mod37_36')
        then '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ'
    when name in ('mod661_26', 'mod27_26') then 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
    when name = 'gs1_pair'
        then '!"%&''()*+,-./0123456789:;<=>?ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz'
end;

-- The characters that check characters are written with, in the order of their values.
create function machserial._check_signs(name text) returns text
language sql immutable parallel safe
return case
    when name in ('luhn', 'mod10', 'verhoeff', 'damm', 'mod97_10', 'mod11_10') then '0123456789'
    when name in ('mod11', 'mod11_2') then '0123456789X'
    when name in ('luhn36', 'mod1271_36', 'mod37_36') then '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ'
    when name = 'mod37_2' then '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ*'
    when name in ('mod661_26', 'mod27_26') then 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
    when name = 'gs1_pair' then '23456789ABCDEFGHJKLMNPQRSTUVWXYZ'
end;

create function machserial._check_modulus(name text) returns integer
language sql immutable parallel safe
return case name
    when 'gs1_pair' then 1021
    when 'mod97_10' then 97
    when 'mod661_26' then 661
    when 'mod1271_36' then 1271
    else length(machserial._check_signs(name))
end;

create function machserial._is_check_pair(name text) returns boolean
language sql immutable parallel safe
return name in ('gs1_pair', 'mod97_10', 'mod661_26', 'mod1271_36');

-- How many check characters an algorithm yields.
create function machserial._check_length(algorithm text) returns integer
language sql immutable parallel safe
return case when machserial._is_check_pair(machserial._check_name(algorithm)) then 2 else 1 end;

-- Which characters the result of an algorithm can have.
create function machserial._check_alphabet(algorithm text) returns text
language sql immutable parallel safe
return machserial._check_signs(machserial._check_name(algorithm));

-- The value without the characters that the algorithm does not know.
create function machserial._check_known(name text, value text) returns text
language sql immutable parallel safe
return translate(value, translate(value, machserial._check_payload(name), ''), '');

create function machserial._check_filter(algorithm text, value text) returns text
language sql immutable parallel safe
return machserial._check_known(machserial._check_name(algorithm), value);

-- From an index to check characters, and back. mod97_10 counts from 02 to 98.
create function machserial._check_write(name text, index integer) returns text
language sql immutable parallel safe
return case
    when name = 'mod97_10' then lpad((index + 2)::text, 2, '0')
    when machserial._is_check_pair(name)
        then
            substr(machserial._check_signs(name), index / length(machserial._check_signs(name)) + 1, 1)
            || substr(machserial._check_signs(name), index % length(machserial._check_signs(name)) + 1, 1)
    else substr(machserial._check_signs(name), index + 1, 1)
end;

-- Not in SQL, which would evaluate a call for signs several times or, to avoid that, not be inlined.
create function machserial._check_index(name text, signs text) returns integer
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    alphabet constant text := machserial._check_signs(name);
begin
    if name = 'mod97_10' then
        return signs::integer - 2;
    elsif machserial._is_check_pair(name) then
        return (strpos(alphabet, left(signs, 1)) - 1) * length(alphabet)
            + strpos(alphabet, right(signs, 1)) - 1;
    end if;
    return strpos(alphabet, signs) - 1;
end
$$;

-- One character of an automaton: from a state, by the character's value, to the next state. following is how
-- many characters follow; only verhoeff minds. Its state is the inverse of the product that Verhoeff forms
-- from the right to the left, so that it too can be read in the order of writing: the first table is the
-- dihedral group, the second the inverses of its permutations. mod97_10 is an automaton where letters, which
-- count as two digits, make the weights depend on the number itself.
create function machserial._check_step(
    name text, modulus integer, state integer, value integer, following integer
)
returns integer
language sql immutable parallel safe
return case name
    when 'damm'
        then
            get_byte(
                '03175986427092154863420687135917509834266123045978'
                '36742095815869720134894536201794386172052581436790'::bytea,
                state * 10 + value
            ) - 48
    when 'verhoeff'
        then
            get_byte(
                '01234567891234067895234017895634012895674012395678'
                '59876043216598710432765982104387659321049876543210'::bytea,
                state * 10 - 48 + get_byte(
                    '0432156789457638209158027964138946012537'
                    '9152436870138657290437928061457016942358'::bytea,
                    (following + 1) % 8 * 10 + value
                )
            ) - 48
    when 'mod97_10' then (state * case when value < 10 then 10 else 100 end + value) % 97
    else ((case state when 0 then modulus else state end) * 2 % (modulus + 1) + value) % modulus
end;

create function machserial._check_start(name text) returns integer
language sql immutable parallel safe
return case
    when name in ('mod11_10', 'mod27_26', 'mod37_36') then machserial._check_modulus(name) / 2 else 0
end;

-- The index of the check characters, when everything before them has led to this state.
create function machserial._check_finish(name text, state integer) returns integer
language sql immutable parallel safe
return case
    when name in ('damm', 'verhoeff') then state
    when name = 'mod97_10' then 96 - state * 100 % 97
    else
        (
            machserial._check_modulus(name) + 1
            - (case state when 0 then machserial._check_modulus(name) else state end) * 2
            % (machserial._check_modulus(name) + 1)
        ) % machserial._check_modulus(name)
end;

-- The check characters of a text: all fifteen algorithms as their sources describe them. Characters that the
-- algorithm does not know are skipped or refused.
create function machserial._check_characters(algorithm text, payload text, skip_unknown boolean) returns text
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    name constant text := case
        when machserial._check_payload(algorithm) is null then machserial._check_name(algorithm)
        else algorithm
    end;
    letters constant text := machserial._check_payload(name);
    modulus constant integer := machserial._check_modulus(name);
    foreign_characters constant text := translate(payload, letters, '');
    known text := payload;
    weighted_letters text;
    primes constant integer[] := array[
        2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83
    ];
    radix integer;
    letter text;
    total integer := 0;
    following integer := 0;
    index integer;
begin
    if foreign_characters <> '' then
        if not skip_unknown then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('%s does not know the character %L', name, left(foreign_characters, 1)),
                detail = format(
                    'Position %s of %L.',
                    strpos(payload collate "C", left(foreign_characters, 1) collate "C"),
                    machserial._shown(payload)
                ),
                hint = format('Use only these characters: %s', letters);
        end if;
        known := translate(payload, foreign_characters, '');
    end if;
    if known = '' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('there is nothing for %s to check', name),
            detail = format('The text is %L.', machserial._shown(payload)),
            hint = format('Give at least one of these characters: %s', letters);
    end if;
    if name in ('luhn', 'luhn36', 'mod10') then
        -- From the right, every other character counts as its place in weighted_letters: for luhn the sum of
        -- the digits of its double, for mod10 three times its value.
        weighted_letters := case name
            when 'luhn' then '0516273849'
            when 'luhn36' then '0I1J2K3L4M5N6O7P8Q9RASBTCUDVEWFXGYHZ'
            else '0741852963'
        end;
        foreach letter in array string_to_array(reverse(known), null) loop
            total := total - 1 + strpos(
                (case following % 2 when 0 then weighted_letters else letters end) collate "C",
                letter collate "C"
            );
            following := following + 1;
        end loop;
        index := (modulus - total % modulus) % modulus;
    elsif name = 'mod11' then
        foreach letter in array string_to_array(reverse(known), null) loop
            total := total + (following % 11 + 2) * (strpos(letters collate "C", letter collate "C") - 1);
            following := following + 1;
        end loop;
        index := (modulus - total % modulus) % modulus;
    elsif name = 'gs1_pair' then
        if length(known) > cardinality(primes) then
            raise exception using
                errcode = 'invalid_parameter_value',
                message = format('gs1_pair protects at most %s characters', cardinality(primes)),
                detail = format('There are %s: %L.', length(known), known),
                hint = 'Use mod1271_36, mod661_26 or mod97_10 for a longer number.';
        end if;
        foreach letter in array string_to_array(reverse(known), null) loop
            following := following + 1;
            total := total + primes[following] * (strpos(letters collate "C", letter collate "C") - 1);
        end loop;
        index := total % modulus;
    elsif name in ('mod11_2', 'mod37_2', 'mod661_26', 'mod1271_36') then
        radix := case when machserial._is_check_pair(name) then length(letters) else 2 end;
        foreach letter in array string_to_array(known, null) loop
            total := (total * radix + strpos(letters collate "C", letter collate "C") - 1) % modulus;
        end loop;
        total := total * case when machserial._is_check_pair(name) then radix * radix else radix end;
        index := (modulus + 1 - total % modulus) % modulus;
    else
        following := length(known);
        total := machserial._check_start(name);
        foreach letter in array string_to_array(known, null) loop
            following := following - 1;
            total := machserial._check_step(
                name, modulus, total, strpos(letters collate "C", letter collate "C") - 1, following
            );
        end loop;
        index := machserial._check_finish(name, total);
    end if;
    return machserial._check_write(name, index);
end
$$;

create function machserial.check_digit(algorithm text, payload text) returns text
language sql immutable strict parallel safe
return machserial._check_characters(algorithm, payload, false);

comment on function machserial.check_digit(text, text) is
'The check character, or the two check characters, that protect payload. algorithm, in any letter case:
luhn (US patent 2,950,048), luhn36 (Luhn mod N over 0-9A-Z), mod10 (GS1 General Specifications: weights 3 and
1 from the right), gs1_pair (GS1 General Specifications: check character pair of the Global Model Number; at
most 23 characters before it), mod11 (ISBN-10 of ISO 2108: weights 2, 3, 4 ... from the right, X is 10; also
modulo11), verhoeff (Verhoeff 1969; also custom), damm (Damm 2004), and of ISO/IEC 7064:2003 mod11_2, mod37_2
(* is 36), mod97_10 (digits; letters count as 10 to 35, as in IBAN and LEI; result 02 to 98), mod661_26,
mod1271_36, mod11_10, mod27_26, mod37_36. Letters are capital ones, except for gs1_pair. Null in gives null.
Errors: 22023 unknown algorithm, empty payload, a character outside the alphabet (its position is in DETAIL),
more than 23 characters for gs1_pair.';

create function machserial.has_valid_check_digit(algorithm text, value text) returns boolean
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    name constant text := machserial._check_name(algorithm);
    payload constant text := left(value, case when machserial._is_check_pair(name) then -2 else -1 end);
begin
    -- What check_digit would refuse is not valid.
    if payload = '' or translate(payload, machserial._check_payload(name), '') <> ''
        or name = 'gs1_pair' and length(payload) > 23 then
        return false;
    end if;
    return value collate "C" = payload || machserial._check_characters(name, payload, false) collate "C";
end
$$;

comment on function machserial.has_valid_check_digit(text, text) is
'Whether value ends with the check character(s) that check_digit(algorithm, ...) yields for what stands before
them. One payload has one valid ending: mod97_10 accepts 02 to 98 only, as ISO 13616 and ISO 17442 do. A value
that is too short or has characters, spaces and hyphens among them, that the algorithm does not know is not
valid. Null in gives null. Sources: see check_digit.
Errors: 22023 unknown algorithm.';

-- The check characters of a pattern for the text to their left: the way that is always right. For most
-- patterns _compile_check finds a quicker one.
create function machserial._check_in_pattern(algorithm text, left_text text) returns text
language sql immutable strict parallel safe
return machserial._check_characters(algorithm, left_text, true);

-- The same for what only the number or the call knows: a text in which the algorithm finds nothing, such as
-- AB of {SEQ:2:hex} for luhn, counts as its zero. A free number is never refused for that.
create function machserial._check_in_pattern_or_zero(algorithm text, left_text text) returns text
language sql immutable strict parallel safe
return machserial._check_in_pattern(
    algorithm,
    coalesce(
        nullif(machserial._check_filter(algorithm, left_text), ''),
        left(machserial._check_payload(machserial._check_name(algorithm)), 1)
    )
);

-- The SQL text expression that writes a number in fixed width.
create function machserial._encode_expression(
    value_expression text, width integer, alphabet text
)
returns text
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if alphabet = '0123456789' then
        return format('lpad((%s)::text, %s, ''0'')', value_expression, width);
    elsif alphabet = '0123456789ABCDEF' then
        return format('lpad(upper(to_hex(%s) collate "C"), %s, ''0'')', value_expression, width);
    end if;
    return (
        select string_agg(
            format(
                'chr(get_byte(%L::bytea, %s))',
                alphabet,
                machserial._digits_expression(value_expression, width, length(alphabet), d.place, 1)
            ),
            ' || ' order by d.place desc
        )
        from generate_series(0, width - 1) as d (place)
    );
end
$$;

-- The SQL integer expression for the value of some digits of a number: size digits, and place others right of
-- them. The number must fit into width: its leading digits are not reduced.
create function machserial._digits_expression(
    value_expression text, width integer, base integer, place integer, size integer
)
returns text
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    divisor constant numeric := base::numeric ^ place;
begin
    if divisor > 9223372036854775807 then
        return '0';
    end if;
    return format(
        '((%s)%s%s)::integer',
        value_expression,
        case when place > 0 then ' / ' || round(divisor) else '' end,
        case when place + size < width then ' % ' || round(base::numeric ^ size) else '' end
    );
end
$$;

create function machserial._single_byte(value integer) returns bytea
language sql immutable strict parallel safe
return set_byte('\x00', 0, value);

-- How many characters of a text count; for mod97_10, where a letter stands for two digits, how many digits.
create function machserial._check_width(name text, value text) returns integer
language sql immutable parallel safe
return length(machserial._check_known(name, value)) + case name
    when 'mod97_10' then length(translate(machserial._check_known(name, value), '0123456789', '')) else 0
end;

-- By how much the index moves when a character, with so many others right of it, takes the place of another.
create function machserial._check_difference(name text, old_letter text, new_letter text, following integer)
returns integer
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    filler constant text := repeat(left(machserial._check_payload(name), 1), following);
    modulus constant integer := machserial._check_modulus(name);
begin
    return (
        modulus
        + machserial._check_index(name, machserial._check_characters(name, new_letter || filler, false))
        - machserial._check_index(name, machserial._check_characters(name, old_letter || filler, false))
    ) % modulus;
end
$$;

-- For a sum: by how much size digits, with so many characters right of them, move the index, as a table with
-- one byte for each value of the digits. byte 1 is the higher byte, for the moduli above 256.
create function machserial._check_sum_table(
    name text, alphabet text, size integer, following integer, byte integer
)
returns bytea
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    base constant integer := length(alphabet);
    unit constant integer := machserial._check_width(name, left(alphabet, 1));
    modulus constant integer := machserial._check_modulus(name);
    -- amounts[place * base + digit + 1]
    amounts constant integer[] := array(
        select machserial._check_difference(
            name, left(alphabet, 1), substr(alphabet, d.number % base + 1, 1),
            following + d.number / base * unit
        )
        from generate_series(0, size * base - 1) as d (number) order by d.number
    );
    moved bytea := ''::bytea;
    amount integer;
begin
    for number in 0 .. (base ^ size)::integer - 1 loop
        amount := 0;
        for place in 0 .. size - 1 loop
            amount := amount + amounts[place * base + number / (base ^ place)::integer % base + 1];
        end loop;
        moved := moved || machserial._single_byte(amount % modulus >> byte * 8 & 255);
    end loop;
    return moved;
end
$$;

-- For an automaton: the states that a text leads to from these states, one byte each.
create function machserial._check_run(name text, states integer[], value text, following integer)
returns bytea
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    modulus constant integer := machserial._check_modulus(name);
    letters constant text := machserial._check_payload(name);
    known constant text[] := string_to_array(machserial._check_known(name, value), null);
    reached bytea := ''::bytea;
    state integer;
    place integer;
    letter text;
begin
    foreach state in array states loop
        place := following + cardinality(known);
        foreach letter in array known loop
            place := place - 1;
            state := machserial._check_step(
                name, modulus, state, strpos(letters collate "C", letter collate "C") - 1, place
            );
        end loop;
        reached := reached || machserial._single_byte(state);
    end loop;
    return reached;
end
$$;

-- For an automaton: the state that size digits lead to from each state; row by row the states, in a row the
-- values of the digits.
create function machserial._check_step_table(name text, alphabet text, size integer, following integer)
returns bytea
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    base constant integer := length(alphabet);
    modulus constant integer := machserial._check_modulus(name);
    letters constant text := machserial._check_payload(name);
    values_of constant integer[] := array(
        select strpos(letters collate "C", substr(alphabet, i.value + 1, 1) collate "C") - 1
        from generate_series(0, base - 1) as i (value) order by i.value
    );
    reached bytea := ''::bytea;
    state integer;
begin
    for start_state in 0 .. modulus - 1 loop
        for number in 0 .. (base ^ size)::integer - 1 loop
            state := start_state;
            for place in reverse size - 1 .. 0 loop
                state := machserial._check_step(
                    name, modulus, state, values_of[number / (base ^ place)::integer % base + 1],
                    following + place
                );
            end loop;
            reached := reached || machserial._single_byte(state);
        end loop;
    end loop;
    return reached;
end
$$;

-- What stands left of a check token, piece by piece. kind: fixed (the same for all numbers of a call), digits
-- (they vary, and the algorithm knows all of their alphabet), skipped (it knows none of it), slow (all else).
-- place: the SQL expression for how many characters that count stand right of the piece. unit: what one digit
-- counts.
create function machserial._check_pieces(name text, segments jsonb)
returns table (
    ordinal bigint, kind text, digits text, width integer, alphabet text, unit integer, sample text,
    text_expression text, zero_expression text, place text, is_place_known boolean
)
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with segment as (
        select
            s.ordinal, s.piece ->> 'fixed' as fixed, s.piece ->> 'sample' as sample,
            s.piece ->> 'digits' as digits, (s.piece ->> 'width')::integer as width,
            s.piece ->> 'alphabet' as alphabet, s.piece ->> 'text' as text_value,
            machserial._check_known(name, s.piece ->> 'alphabet') as known
        from jsonb_array_elements(segments) with ordinality as s (piece, ordinal)
    ),
    piece as (
        select
            s.*,
            case
                when s.fixed is not null then 'fixed'
                when s.known = '' then 'skipped'
                when s.known = s.alphabet then 'digits'
                else 'slow'
            end as kind,
            machserial._check_width(name, left(s.alphabet, 1)) as unit
        from segment as s
    ),
    measured as (
        select
            p.*,
            case
                when p.kind = 'fixed' and p.sample is null
                    then format(' + machserial._check_width(%L, %s)', name, p.fixed)
            end as unknown_width,
            case p.kind
                when 'fixed' then machserial._check_width(name, p.sample) when 'digits' then p.width * p.unit
            end as known_width
        from piece as p
    )
    select
        m.ordinal, m.kind, m.digits, m.width, m.alphabet, m.unit,
        case m.kind
            when 'fixed' then m.sample when 'skipped' then '' else repeat(left(m.alphabet, 1), m.width)
        end,
        case
            when m.fixed is not null then format('(%s)', m.fixed)
            when m.text_value is not null then format('(%s)', m.text_value)
            else machserial._encode_expression(m.digits, m.width, m.alphabet)
        end,
        case m.kind
            when 'fixed' then format('(%s)', m.fixed)
            when 'digits' then quote_literal(repeat(left(m.alphabet, 1), m.width))
            else ''''''
        end,
        concat(
            coalesce(sum(m.known_width) over right_of_it, 0), string_agg(m.unknown_width, '') over right_of_it
        ),
        coalesce(bool_and(m.unknown_width is null) over right_of_it, true)
    from measured as m
    window right_of_it as (order by m.ordinal desc rows between unbounded preceding and 1 preceding)
    order by m.ordinal;
end
$$;

-- Adds a declaration, unless there is one with the same expression, and says its name.
create function machserial._check_declare(
    inout declarations jsonb, prefix text, type text, expression text, out name text
)
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    select d.declaration ->> 'name' into name
    from jsonb_array_elements(declarations) as d (declaration)
    where d.declaration ->> 'expression' = _check_declare.expression;
    if name is null then
        name := format('%s_%s', prefix, jsonb_array_length(declarations) + 1);
        declarations := declarations
            || jsonb_build_object('name', name, 'type', type, 'expression', expression);
    end if;
end
$$;

-- For a sum: the SQL expression for by how much the digits of a number move the index, as a polynomial in the
-- number and its quotients, without tables. Null where there is none, or tables are quicker.
--
-- Where each step of a digit at place j moves the index by w(j), the sum of w(j) * digit(j) is, because
-- digit(j) = v / base^j - base * (v / base^(j + 1)), the sum of (w(j) - base * w(j - 1)) * (v / base^j).
-- For mod97_10, and whenever else w(j) is base * w(j - 1), all terms but the first vanish.
create function machserial._check_polynomial(
    name text, value_expression text, width integer, alphabet text, unit integer, following integer,
    table_count integer
)
returns text
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    base constant integer := length(alphabet);
    modulus constant integer := machserial._check_modulus(name);
    weights constant integer[] := array(
        select machserial._check_difference(
            name, left(alphabet, 1), substr(alphabet, 2, 1), following + p.place * unit
        )
        from generate_series(0, width - 1) as p (place) order by p.place
    );
    factors constant integer[] := array(
        select mod(weights[i] - base * coalesce(weights[i - 1], 0) + base * modulus, modulus)
        from generate_series(1, width) as p (i) order by p.i
    );
    largest constant numeric := (
        select sum(factors[i] * base::numeric ^ (width - i + 1)) from generate_series(1, width) as p (i)
    );
begin
    if modulus <= 256 and cardinality(array_remove(factors, 0)) > table_count then
        return null;
    end if;
    for digit in 2 .. base - 1 loop
        for i in 1 .. width loop
            if machserial._check_difference(
                name, left(alphabet, 1), substr(alphabet, digit + 1, 1), following + (i - 1) * unit
            ) <> digit * weights[i] % modulus then
                return null;
            end if;
        end loop;
    end loop;
    return (
        select string_agg(
            format(
                case when largest > 9e18 then '(%s)%s %% %s%s' else '(%1$s)%2$s%4$s' end,
                value_expression,
                case when i > 1 then ' / ' || round(base::numeric ^ (i - 1)) else '' end,
                modulus,
                case when factors[i] > 1 then ' * ' || factors[i] else '' end
            ),
            ' + ' order by p.i
        )
        from generate_series(1, width) as p (i)
        where factors[i] > 0 and base::numeric ^ (i - 1) <= 9223372036854775807
    );
end
$$;

-- The check token of a pattern as declarations, evaluated once a call, and an expression, evaluated once a
-- number. segments: what stands left of it, an array of {"fixed": SQL text expression, "sample": text of that
-- shape or absent}, {"digits": SQL bigint expression, "width", "alphabet"} and {"text": SQL text expression}.
-- declarations: an array of {"name", "type", "expression"} in the order of their evaluation, all names
-- beginning with prefix.
create function machserial._compile_check(algorithm text, segments jsonb, prefix text)
returns table (declarations jsonb, expression text)
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    name constant text := machserial._check_name(algorithm);
    modulus constant integer := machserial._check_modulus(name);
    is_automaton constant boolean := name in ('damm', 'verhoeff', 'mod11_10', 'mod27_26', 'mod37_36')
    -- Digits count once and letters twice: what stands left of them has no fixed weight.
    or name = 'mod97_10' and exists (
        select from machserial._check_pieces(name, segments) as p
        where p.kind = 'digits' and p.alphabet ~ '[0-9]' and p.alphabet ~ '[A-Z]'
    );
    -- What the expression yields an index into: the check characters for each index, or for each state.
    signs constant text := (
        select string_agg(
            machserial._check_write(
                name, case when is_automaton then machserial._check_finish(name, i.index) else i.index end
            ),
            '' order by i.index
        )
        from generate_series(0, modulus - 1) as i (index)
    );
    text_expression text;
    sample text;
    declared text;
begin
    declarations := '[]';
    select string_agg(p.text_expression, ' || ' order by p.ordinal) into text_expression
    from machserial._check_pieces(name, segments) as p;
    if exists (select from machserial._check_pieces(name, segments) as p where p.kind = 'slow') then
        expression := format('machserial._check_in_pattern_or_zero(%L, %s)', name, text_expression);
        return next;
        return;
    end if;
    select coalesce(string_agg(p.sample, '' order by p.ordinal), '') into sample
    from machserial._check_pieces(name, segments) as p
    having count(*) = count(p.sample);
    -- Refuses what can never work, such as nothing that the algorithm knows, before the first number is asked
    -- for.
    perform machserial._check_in_pattern(name, sample);
    if not exists (select from machserial._check_pieces(name, segments) as p where p.kind = 'digits') then
        -- Digits that the algorithm skips may be any: zeros are known before the first number is.
        select string_agg(p.zero_expression, ' || ' order by p.ordinal) into text_expression
        from machserial._check_pieces(name, segments) as p;
        select d.declarations, d.name into declarations, expression
        from machserial._check_declare(
            declarations, prefix, 'text',
            format('machserial._check_in_pattern_or_zero(%L, %s)', name, text_expression)
        ) as d;
        return next;
        return;
    end if;
    if is_automaton then
        select c.declarations, c.expression into declarations, expression
        from machserial._compile_automaton(name, segments, prefix) as c;
    else
        select c.declarations, c.expression into declarations, expression
        from machserial._compile_sum(name, segments, prefix) as c;
    end if;
    if machserial._is_check_pair(name) then
        select d.declarations, d.name into declarations, declared
        from machserial._check_declare(declarations, prefix, 'bytea', format('%L::bytea', signs)) as d;
        expression := format('encode(substring(%s, %s * 2 + 1, 2), ''escape'')', declared, expression);
    else
        expression := format('chr(get_byte(%L::bytea, %s))', signs, expression);
    end if;
    return next;
end
$$;

-- The index for a sum: that of the text with zeros for the digits, moved by what each group of digits amounts
-- to.
create function machserial._compile_sum(name text, segments jsonb, prefix text)
returns table (declarations jsonb, expression text)
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    modulus constant integer := machserial._check_modulus(name);
    piece record;
    base integer;
    size integer;
    group_size integer;
    polynomial text;
    source text;
    declared text;
begin
    select d.declarations, d.name into declarations, expression
    from machserial._check_declare(
        '[]', prefix, 'integer',
        format(
            'machserial._check_index(%L, machserial._check_in_pattern(%1$L, %s))', name,
            (
                select string_agg(p.zero_expression, ' || ' order by p.ordinal)
                from machserial._check_pieces(name, segments) as p
            )
        )
    ) as d;
    for piece in
        select p.* from machserial._check_pieces(name, segments) as p
        where p.kind = 'digits' order by p.ordinal
    loop
        base := length(piece.alphabet);
        size := floor(ln(1296) / ln(base))::integer;
        polynomial := case when piece.is_place_known then machserial._check_polynomial(
            name, piece.digits, piece.width, piece.alphabet, piece.unit, piece.place::integer,
            (piece.width + size - 1) / size
        ) end;
        if polynomial is not null then
            expression := format('%s + %s', expression, polynomial);
            continue;
        end if;
        for place in 0 .. piece.width - 1 by size loop
            group_size := least(size, piece.width - place);
            for byte in 0 .. case when modulus > 256 then 1 else 0 end loop
                if piece.is_place_known then
                    source := format('%L::bytea', machserial._check_sum_table(
                        name, piece.alphabet, group_size, piece.place::integer + place * piece.unit, byte
                    ));
                else
                    source := format(
                        'machserial._check_sum_table(%L, %L, %s, (%s + %s)::integer, %s)',
                        name, piece.alphabet, group_size, piece.place, place * piece.unit, byte
                    );
                end if;
                select d.declarations, d.name into declarations, declared
                from machserial._check_declare(declarations, prefix, 'bytea', source) as d;
                expression := format(
                    '%s + %sget_byte(%s, %s)',
                    expression, case byte when 1 then '256 * ' else '' end, declared,
                    machserial._digits_expression(piece.digits, piece.width, base, place, group_size)
                );
            end loop;
        end loop;
    end loop;
    expression := format('((%s) %% %s)::integer', expression, modulus);
    return next;
end
$$;

-- The state of an automaton: from that after the leading text, through a table for each group of digits and
-- for each text behind them.
create function machserial._compile_automaton(name text, segments jsonb, prefix text)
returns table (declarations jsonb, expression text)
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    modulus constant integer := machserial._check_modulus(name);
    piece record;
    base integer;
    size integer;
    group_size integer;
    waiting text;
    waiting_place text;
    source text;
    declared text;
    is_position_needed constant boolean := name = 'verhoeff';
begin
    declarations := '[]';
    for piece in
        select p.* from machserial._check_pieces(name, segments) as p
        where p.kind = 'digits'
            or p.kind = 'fixed' and machserial._check_width(name, p.sample) is distinct from 0
        union all
        -- Takes up the text behind the last digits.
        select null, 'end', null, null, null, null, null, null, null, null, null
        order by ordinal nulls last
    loop
        if piece.kind = 'fixed' then
            waiting := concat(waiting || ' || ', piece.text_expression);
            waiting_place := piece.place;
            continue;
        end if;
        if expression is null then
            expression := machserial._check_start(name)::text;
            if waiting is not null then
                select d.declarations, d.name into declarations, expression
                from machserial._check_declare(declarations, prefix, 'integer', format(
                    'get_byte(machserial._check_run(%L, array[%s], %s, (%s)::integer), 0)',
                    name, expression, waiting, case when is_position_needed then waiting_place else '0' end
                )) as d;
            end if;
        elsif waiting is not null then
            select d.declarations, d.name into declarations, declared
            from machserial._check_declare(declarations, prefix, 'bytea', format(
                'machserial._check_run(%L, %L::integer[], %s, (%s)::integer)',
                name,
                array(select s.state from generate_series(0, modulus - 1) as s (state) order by s.state),
                waiting, case when is_position_needed then waiting_place else '0' end
            )) as d;
            expression := format('get_byte(%s, %s)', declared, expression);
        end if;
        waiting := null;
        exit when piece.kind = 'end';
        base := length(piece.alphabet);
        size := greatest(1, floor(ln(4096.0 / modulus) / ln(base))::integer);
        for place in reverse (piece.width - 1) / size * size .. 0 by size loop
            group_size := least(size, piece.width - place);
            if piece.is_place_known or not is_position_needed then
                source := format('%L::bytea', machserial._check_step_table(
                    name, piece.alphabet, group_size,
                    case when is_position_needed then (piece.place::integer + place) % 8 else 0 end
                ));
            else
                source := format(
                    'machserial._check_step_table(%L, %L, %s, (%s + %s)::integer)',
                    name, piece.alphabet, group_size, piece.place, place
                );
            end if;
            select d.declarations, d.name into declarations, declared
            from machserial._check_declare(declarations, prefix, 'bytea', source) as d;
            expression := format(
                'get_byte(%s, %s * %s + %s)',
                declared, expression, (base ^ group_size)::integer,
                machserial._digits_expression(piece.digits, piece.width, base, place, group_size)
            );
        end loop;
    end loop;
    return next;
end
$$;

-- How the check digit of a number follows from its digits where nothing else varies. middle: what stands
-- between. start: where the computation begins. moves: of sums, by how much each digit of each place moves it
-- on. steps: of automata, the next state for each state and digit, one table for all places or one for each.
-- signs: the check characters for each result.
create type machserial._digit_check as (
    middle text,
    start integer,
    moves smallint[],
    steps bytea,
    signs text[]
);

create function machserial._digit_check(algorithm text, head text, width integer, middle text)
returns machserial._digit_check
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    name constant text := machserial._check_name(algorithm);
    modulus constant integer := machserial._check_modulus(name);
    middle_width constant integer := machserial._check_width(name, middle);
    made machserial._digit_check;
    after_middle bytea;
begin
    made.middle := middle;
    if name in ('damm', 'verhoeff', 'mod11_10', 'mod27_26', 'mod37_36') then
        made.start := get_byte(machserial._check_run(
            name, array[machserial._check_start(name)], head, width + middle_width
        ), 0);
        made.steps := (
            select string_agg(
                machserial._check_step_table(name, '0123456789', 1, width - p.place + middle_width), ''::bytea
                order by p.place
            )
            from generate_series(1, case name when 'verhoeff' then width else 1 end) as p (place)
        );
        after_middle := machserial._check_run(name, array(select generate_series(0, modulus - 1)), middle, 0);
        made.signs := array(
            select machserial._check_write(name, machserial._check_finish(name, get_byte(after_middle, s.state)))
            from generate_series(0, modulus - 1) as s (state)
            order by s.state
        );
        return made;
    end if;
    made.start := machserial._check_index(
        name, machserial._check_in_pattern(name, head || repeat('0', width) || middle)
    );
    made.moves := array(
        select machserial._check_difference(name, '0', d.digit::text, width - p.place + middle_width)
        from generate_series(1, width) as p (place)
        cross join generate_series(0, 9) as d (digit)
        order by p.place, d.digit
    );
    made.signs := array(
        select machserial._check_write(name, i.index) from generate_series(0, modulus - 1) as i (index)
        order by i.index
    );
    return made;
end
$$;

-- A number with such a check digit.
create function machserial._checked_number(
    head text, digits text, tail text, middle text, start integer, moves smallint[], steps bytea, signs text[]
)
returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    modulus constant integer := cardinality(signs);
    reached integer := start;
begin
    if moves is not null then
        for place in 1..length(digits) loop
            reached := reached + moves[10 * place + ascii(substr(digits, place, 1)) - 57];
        end loop;
    else
        for place in 1..length(digits) loop
            reached := get_byte(
                steps,
                (place - 1) * modulus * 10 % length(steps) + reached * 10 + ascii(substr(digits, place, 1)) - 48
            );
        end loop;
    end if;
    return head || digits || middle || signs[reached % modulus + 1] || tail;
end
$$;
