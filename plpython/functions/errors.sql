-- The functions that are called from outside are PL/pgSQL, and let Python do the work in a private function
-- that only they may call. So an error of Python's comes out like any other: without its class before the
-- message, and without a traceback.

create function machserial._plain_message(message text) returns text
language sql immutable parallel safe
return case
    when starts_with(message, 'plpy.Error: ') then substr(message, length('plpy.Error: ') + 1) else message
end;
