-- The server's own log.

create function machserial._recent_errors(n integer)
returns table (
    logged_at timestamptz, severity text, sqlstate text, message text, detail text, hint text, context text,
    statement text, user_name text, database_name text, application_name text, process_id integer
)
language plpython3u
set search_path = pg_catalog, pg_temp
as $python$
@log_files.py@
@log_entries.py@
@log_secrets.py@
@log.py@
return recent_errors(plpy, n)
$python$;

-- As definer: where the log is, and what is in it, is a secret of superusers. Whom one of them lets call this
-- gets errors, with passwords left out, and nothing else of the files.
create function machserial.recent_errors(n integer default 20)
returns table (
    logged_at timestamptz, severity text, sqlstate text, message text, detail text, hint text, context text,
    statement text, user_name text, database_name text, application_name text, process_id integer
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query select e.* from machserial._recent_errors(n) as e;
exception when others then
    get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform machserial._raise_of_python(sqlstate, message, detail, hint);
end
$$;

comment on function machserial.recent_errors(integer) is
'The last n errors (ERROR, FATAL, PANIC) in the server''s log, newest first, whatever its format: jsonlog,
csvlog or stderr, there as log_line_prefix says; what the log does not say is null. n: 1 to 1000. At most the
last 16 MiB are read, earlier files of the same log included. What may be a password is left out, and with it
the rest of its text; texts end after 4000 characters.
Errors: 22023 another n; 0A000 the log goes to where the server cannot read it, or its Python is broken;
55000 there is no file yet, or it cannot be read.';
