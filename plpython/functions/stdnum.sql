-- Numbering schemes of the world, by python-stdnum: IMEI, EAN, ISBN, container and company numbers. Stable
-- and not immutable: another version of the library may judge otherwise.

create function machserial._stdnum_are_valid(kind text, numbers text[]) returns boolean[]
language plpython3u stable
set search_path = pg_catalog, pg_temp
as $python$
@paths.py@
@libraries.py@
@stdnum.py@
return are_valid(plpy, kind, numbers)
$python$;

-- Both as definer only because the library's folder stands in a superuser's table: they compute, and read
-- nothing else.
create function machserial.stdnum_are_valid(kind text, numbers text[]) returns boolean[]
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    message text;
    detail text;
    hint text;
begin
    return machserial._stdnum_are_valid(kind, numbers);
exception when others then
    get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform machserial._raise_of_python(sqlstate, message, detail, hint);
    return null;
end
$$;

comment on function machserial.stdnum_are_valid(text, text[]) is
'Whether numbers are valid, one answer a number in their order; null of a null. kind and errors: see
stdnum_is_valid(). An empty array only examines the kind.';

create function machserial.stdnum_is_valid(kind text, number text) returns boolean
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return (machserial.stdnum_are_valid(kind, array[number]))[1];
end
$$;

comment on function machserial.stdnum_is_valid(text, text) is
'Whether a number is valid by a numbering scheme of the world, as python-stdnum knows them; null of a null.
kind: the name of its module, such as imei, ean, isbn, iso6346, luhn, gs1_128, us.ein, in any case. Separators
that the scheme allows are skipped. Errors: 22023 unknown kind; 0A000 the server''s Python lacks
stdnum, or is broken.';
