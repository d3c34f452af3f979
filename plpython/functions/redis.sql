-- The Redis that keeps the cache of numbers that are taken.

create function machserial._redis_health(url text)
returns table (
    name text, status text, value numeric, warning numeric, critical numeric, message text, remedy text
)
language plpython3u
set search_path = pg_catalog, pg_temp
as $python$
@paths.py@
@libraries.py@
@checks.py@
@redis.py@
return redis_checks(plpy, url)
$python$;

-- As definer only because the library's folder stands in a superuser's table. A caller can have the
-- server connect to any address.
create function machserial.redis_health(url text)
returns table (
    name text, status text, value numeric, warning numeric, critical numeric, message text, remedy text
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    detail text;
    hint text;
begin
    return query select h.* from machserial._redis_health(url) as h;
exception when others then
    get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform machserial._raise_of_python(sqlstate, message, detail, hint);
end
$$;

comment on function machserial.redis_health(text) is
'The state of a Redis, one row per check, as in health(), seen from the database server. url: redis://,
rediss:// or unix://, as in REDIS_URL; its password is never shown. value against warning and critical: milliseconds
(redis_ping: to connect and be answered; redis_latency: to be answered, the median of five), percent of
maxmemory, or of the machine''s memory where there is no maxmemory (redis_memory), keys that were pushed out
since the last CONFIG RESETSTAT (redis_evictions). Waits 50 ms for a connection, 200 ms for an answer.
UNKNOWN: Redis does not tell, or Python lacks redis. Errors: 22023 a faulty url;
0A000 the server''s Python is broken.';
