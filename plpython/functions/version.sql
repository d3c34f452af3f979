create function machserial._plpython_version() returns text
language sql immutable parallel safe
return '@VERSION@';
