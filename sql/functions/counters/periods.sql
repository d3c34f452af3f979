-- Periods of a counter that is reset, in the local time of the site.

create function machserial._period(reset text, at timestamp) returns text
language sql immutable parallel safe
return case reset
    when 'DAILY' then to_char(at, 'YYYY-MM-DD')
    when 'WEEKLY' then to_char(at, 'IYYY-"W"IW')
    when 'MONTHLY' then to_char(at, 'YYYY-MM')
    when 'YEARLY' then to_char(at, 'YYYY')
    else ''
end;

-- First moment of the period, null for a counter that is never reset.
create function machserial._period_start(reset text, at timestamp) returns timestamp
language sql immutable parallel safe
return case reset
    when 'DAILY' then date_trunc('day', at)
    when 'WEEKLY' then date_trunc('week', at)
    when 'MONTHLY' then date_trunc('month', at)
    when 'YEARLY' then date_trunc('year', at)
end;

create function machserial._period_length(reset text) returns interval
language sql immutable parallel safe
return case reset
    when 'DAILY' then '1 day'::interval
    when 'WEEKLY' then '7 days'::interval
    when 'MONTHLY' then '1 month'::interval
    when 'YEARLY' then '1 year'::interval
end;

-- What of a part and a site a counter is for: empty where it counts for all of them.
create function machserial._key_part(counter_per text, part_id text) returns text
language sql immutable parallel safe
return case when counter_per in ('PART', 'SITE_PART') then part_id else '' end;

create function machserial._key_site(counter_per text, site_id text) returns text
language sql immutable parallel safe
return case when counter_per in ('SITE', 'SITE_PART') then site_id else '' end;
