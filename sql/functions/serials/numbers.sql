-- What a serial number may be: one rule for every way in. The table asks it of each new row, functions before
-- they write, integrity() of all that is on record.

-- 1 to 255 characters that can be seen, with single blanks between them at most. characters: what the setting
-- serial_characters says. ASCII is asked first: what holds under it holds under UNICODE as well, so who has a
-- number of ASCII need not know the setting. An SQL function, so that it becomes part of the statement that
-- uses it.
--
-- Under UNICODE no character is of the categories Cc, Cf, Zs, Zl, Zp or Co, none can be ignored (variation
-- selectors, fillers) or is blank (U+2800), none is of the block Specials, none is no character (U+FDD0,
-- U+1FFFE and the like) or beyond plane 3; and the text is in normal form NFC.
create function machserial._is_serial_number(serial_number text, characters text) returns boolean
language sql immutable parallel safe
return
octet_length(serial_number) <= 255 and serial_number collate "C" ~ '^[!-~]+( [!-~]+)*$'
or characters = 'UNICODE' and length(serial_number) between 1 and 255
and serial_number collate "C" !~ (
    '^ |  | $|[\u0001-\u001F\u007F-\u00A0\u00AD\u034F\u0600-\u0605\u061C\u06DD\u070F\u0890\u0891\u08E2\u115F'
    '\u1160\u1680\u17B4\u17B5\u180B-\u180F\u2000-\u200F\u2028-\u202F\u205F-\u206F\u2800\u3000\u3164'
    '\uE000-\uF8FF\uFDD0-\uFDEF\uFE00-\uFE0F\uFEFF\uFFA0\uFFF0-\uFFFF\U000110BD\U000110CD'
    '\U00013430-\U0001343F\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A\U0001FFFE\U0001FFFF\U0002FFFE\U0002FFFF'
    '\U0003FFFE-\U0010FFFF]'
)
and serial_number is nfc normalized;

-- What people and scanners add around a number.
create function machserial._trimmed(serial_number text) returns text
language sql immutable parallel safe
return btrim(serial_number, ' ' || chr(9) || chr(10) || chr(13));

-- ASCII or UNICODE. SECURITY DEFINER: settings hold for all, also for who may not read their table.
create function machserial._serial_characters() returns text
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when machserial._setting('serial_characters') = 'UNICODE' and getdatabaseencoding() = 'UTF8'
            then 'UNICODE'
        else 'ASCII'
    end;
end
$$;

-- Where the first character stands that keeps a text from being a serial number; null if none does.
create function machserial._strange_place(given text, characters text) returns integer
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(
        (
            select min(p.place)
            from generate_series(1, length(given)) as p (place)
            cross join lateral substr(given, p.place, 1) as c (one)
            where case c.one
                when ' ' then p.place in (1, length(given)) or substr(given, p.place - 1, 1) = ' '
                else not machserial._is_serial_number(c.one, characters)
            end
        ),
        case when characters = 'UNICODE' then (
            select min(p.place)
            from generate_series(1, length(given)) as p (place)
            where substr(given, p.place, 1) <> substr(normalize(given, nfc), p.place, 1)
        ) end
    );
end
$$;

-- A character in an error: U+200B (ZERO WIDTH SPACE). The databases of some encodings have bytes.
create function machserial._described_character(one text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    bytes bytea;
    size integer;
    code text;
    name text;
begin
    if getdatabaseencoding() = 'SQL_ASCII' and ascii(one) > 127 then
        return format('the byte 0x%s', upper(to_hex(ascii(one)) collate "C"));
    end if;
    bytes := convert_to(one, 'UTF8');
    size := length(bytes);
    code := upper(to_hex((
        select sum(
            (get_byte(bytes, i) & case when i > 0 then 63 when size = 1 then 127 else (1 << (7 - size)) - 1 end)
            << 6 * (size - 1 - i)
        )
        from generate_series(0, size - 1) as i
    )) collate "C");
    code := lpad(code, greatest(length(code), 4), '0');
    name := case code
        when '0009' then 'TAB' when '000A' then 'LINE FEED' when '000D' then 'CARRIAGE RETURN'
        when '001D' then 'GROUP SEPARATOR' when '0020' then 'SPACE' when '007F' then 'DELETE'
        when '00A0' then 'NO-BREAK SPACE' when '00AD' then 'SOFT HYPHEN' when '200B' then 'ZERO WIDTH SPACE'
        when '200C' then 'ZERO WIDTH NON-JOINER' when '200D' then 'ZERO WIDTH JOINER'
        when '200E' then 'LEFT-TO-RIGHT MARK' when '200F' then 'RIGHT-TO-LEFT MARK'
        when '202F' then 'NARROW NO-BREAK SPACE' when '2060' then 'WORD JOINER'
        when '3000' then 'IDEOGRAPHIC SPACE' when 'FEFF' then 'BYTE ORDER MARK'
        when 'FFFD' then 'REPLACEMENT CHARACTER'
        else case
            when getdatabaseencoding() <> 'UTF8' and code > '00A0' or machserial._is_serial_number(one, 'UNICODE')
                then one
        end
    end;
    return concat('U+', code, ' (' || name || ')');
end
$$;

-- The character at this place, which keeps a text from being a serial number.
create function machserial._strange_character(given text, place integer, characters text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    one constant text := substr(given, place, 1);
begin
    return concat(machserial._described_character(one), case
        when one = ' ' then ': a blank stands alone, between others'
        when machserial._is_serial_number(one, characters) then ': in normal form (NFC) there is another'
    end);
end
$$;

-- Why a text cannot be a serial number; null if it can.
create function machserial._number_fault(given text, characters text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    place integer;
begin
    if given is null then
        return 'it is null';
    elsif given = '' then
        return 'it is empty';
    elsif length(given) > 255 then
        return format('it has %s characters, more than 255', length(given));
    elsif machserial._is_serial_number(given, characters) then
        return null;
    end if;
    place := machserial._strange_place(given, characters);
    return format(
        'position %s has %s', place, machserial._strange_character(given, place, characters)
    );
end
$$;

-- A fault as a DETAIL says it.
create function machserial._as_sentence(fault text) returns text
language sql immutable parallel safe
return concat(upper(left(fault, 1) collate "C"), substr(fault, 2), '.');

-- What to do about it.
create function machserial._number_hint(given text, characters text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when characters = 'ASCII' and getdatabaseencoding() = 'UTF8'
            and machserial._is_serial_number(given, 'UNICODE')
            then 'Give what stands on the part, in ASCII; if such numbers are on your parts: '
                'update machserial.settings set value = ''UNICODE'' where name = ''serial_characters'';'
        else 'Give what stands on the part: 1 to 255 characters that can be seen, single blanks between them.'
    end;
end
$$;

-- 22023 about a number that somebody gave. which: which of several it is, else null.
create function machserial._raise_no_number(given text, which text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    characters constant text := machserial._serial_characters();
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = case
            when given is null then 'serial_number cannot be null'
            when given = '' then 'serial_number cannot be empty'
            else format('%L cannot be a serial number', machserial._shown(given))
        end,
        detail = machserial._as_sentence(concat_ws('; ', which, machserial._number_fault(given, characters))),
        hint = machserial._number_hint(given, characters);
end
$$;

-- Numbers that somebody gave, as they are stored: trimmed. 22023 for one that cannot be a serial number.
create function machserial._serial_numbers(given text[]) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    trimmed text[];
    characters text;
    strange record;
begin
    -- Nearly always: then there is nothing to trim, and the setting does not matter.
    if not exists (
        select from unnest(given) as g (number) where machserial._is_serial_number(g.number, 'ASCII') is not true
    ) then
        return given;
    end if;
    trimmed := array(
        select machserial._trimmed(g.number) from unnest(given) with ordinality as g (number, ordinal)
        order by g.ordinal
    );
    characters := machserial._serial_characters();
    select n.number, n.ordinal into strange
    from unnest(trimmed) with ordinality as n (number, ordinal)
    where machserial._is_serial_number(n.number, characters) is not true
    order by n.ordinal
    limit 1;
    if found then
        perform machserial._raise_no_number(
            strange.number,
            case when cardinality(given) > 1 then format('it is number %s of those given', strange.ordinal) end
        );
    end if;
    return trimmed;
end
$$;

create function machserial._serial_number(given text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (machserial._serial_numbers(array[given]))[1];
end
$$;

-- What a format or pattern writes must be serial numbers. Those of one call differ in nothing but letters and
-- digits: so one of them tells of all.
create function machserial._require_writable(format_name text, number text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    fault text;
begin
    if not machserial._is_serial_number(number, 'ASCII') then
        fault := machserial._number_fault(number, machserial._serial_characters());
    end if;
    if fault is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format(
                'format %s would write %L, which cannot be a serial number', machserial._shown(format_name),
                machserial._shown(number)
            ),
            detail = machserial._as_sentence(fault),
            hint = 'Change the pattern, or what the context, the site or the part gives to it.';
    end if;
end
$$;
