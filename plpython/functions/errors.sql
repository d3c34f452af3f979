-- The functions that are called from outside are PL/pgSQL, and let Python do the work in a private function
-- that only they may call. So an error of Python's comes out like any other: without its class before the
-- message, and without a traceback.

create function machserial._plain_message(message text) returns text
language sql immutable parallel safe
return case
    when starts_with(message, 'plpy.Error: ') then substr(message, length('plpy.Error: ') + 1) else message
end;

-- What the functions refuse they say in their own words. An error of Python's own, or of what should run it,
-- is a fault of its installation: a library that breaks or ends, a PL/Python that is gone. Its code tells
-- nothing, or is taken for a lost connection (58P01): 0A000 is what a caller can do without.
create function machserial._raise_of_python(state text, message text, detail text, hint text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if state !~ '^(08|38|39|57|58|XX)' then
        raise exception using
            errcode = state, message = machserial._plain_message(message), detail = detail, hint = hint;
    end if;
    raise exception using
        errcode = 'feature_not_supported',
        message = 'the server''s Python failed: ' || left(machserial._plain_message(message), 500),
        detail = concat_ws(' ', format('SQLSTATE %s.', state), nullif(detail, '')),
        hint = 'Its installation, or that of a library, is broken: see the server''s log, and install again what '
            'it names. On Debian, as root: apt-get install --reinstall postgresql-plpython3-NN python3-stdnum '
            'python3-redis.';
end
$$;
