-- The machine that the server runs on. As invoker: a server process stands in its data directory and may read
-- what is asked for here, so that nobody's rights in the database are needed.

create function machserial.host_health()
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

comment on function machserial.host_health() is
'How the server''s machine is, a row a check, as in health(). value against warning and critical: percent used
(disk_data, disk_wal, disk_tablespace_NAME, swap, open_files), percent available (memory), processes that want
to run per processor (load), files that a server process may open (file_limit). UNKNOWN: it cannot be read.';
