-- Time zones come with the operating system: a zone that a site was given may be gone after an upgrade.

-- The local time of a moment; null in a zone that the server does not know.
create function machserial._time_at(time_zone text, moment timestamptz) returns timestamp
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return moment at time zone time_zone;
exception when invalid_parameter_value then
    return null;
end
$$;
