-- Counters that are made before their first use.

-- Makes the counters of new formats, or of new sites, so that their first use waits for nobody. formats,
-- sites: null means all. Only those that count per format or site: what counts per part, or per site and
-- part, has too many keys, most of which may never be used. A day after or before UTC's is the day at some
-- site.
create function machserial._make_first_counters(formats bigint[], sites text[]) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    own_sites constant text[] := machserial._caller_sites();
begin
    perform machserial._make_counter(k.format_id, '', k.key_site, k.at)
    from (
        select distinct on (f.id, t.key_site, p.period) f.id as format_id, t.key_site, p.period, p.at
        from machserial.serial_formats as f
        inner join machserial.sites as s on sites is null or s.id = any(sites)
        cross join lateral (select case f.counter_per when 'SITE' then s.id else '' end as key_site) as t
        cross join unnest('{-1 day,0 days,1 day}'::interval[]) as later
        cross join lateral (
            select machserial._period(f.reset, u.at) as period, u.at
            from (values (now() at time zone 'UTC' + later)) as u (at)
        ) as p
        where
            (formats is null or f.id = any(formats)) and f.is_active and f.sequence_maximum is not null
            and (f.counter_per = 'SITE' or f.counter_per = 'FORMAT' and sites is null)
            -- The counters of other sites are made by those who may use them.
            and (f.counter_per = 'FORMAT' or own_sites is null or s.id = any(own_sites))
        order by f.id, t.key_site, p.period, p.at
        limit machserial._objects_per_call()
    ) as k;
end
$$;

create function machserial._make_counters_of_sites() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._make_first_counters(null, array(select r.id from registered as r));
    return null;
end
$$;
