-- The machine that the server runs on.

create function machserial._host_health()
returns table (
    name text, status text, value numeric, warning numeric, critical numeric, message text, remedy text
)
language plpython3u
set search_path = pg_catalog, pg_temp
as $python$
@checks.py@
@host.py@
return host_checks(plpy)
$python$;

-- As definer, so that Python runs in a private function. It needs no rights in the database: a server process
-- stands in its data directory and may read what is asked for here.
create function machserial.host_health()
returns table (
    name text, status text, value numeric, warning numeric, critical numeric, message text, remedy text
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    reason text;
    detail text;
    hint text;
begin
    return query select h.* from machserial._host_health() as h;
exception when others then
    get stacked diagnostics reason = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform machserial._raise_of_python(sqlstate, reason, detail, hint);
end
$$;

comment on function machserial.host_health() is
'The state of the server''s machine, one row per check, as in health(). value against warning and critical:
percent used (disk_data, disk_wal, disk_tablespace_NAME, swap, open_files), percent available (memory),
processes that want to run per processor (load), files that a server process may open (file_limit). UNKNOWN: it cannot be read.
Errors: 0A000 the server''s Python is broken.';
