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

-- The local time of a moment at a site; 55000 if the server does not know its time zone.
create function machserial._time_at_site(site_id text, time_zone text, moment timestamptz) returns timestamp
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return moment at time zone time_zone;
exception when invalid_parameter_value then
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format('the server does not know %L, the time zone of site %s', time_zone, site_id),
        detail = 'Time zones come with its operating system (tzdata).',
        hint = format(
            'Give the site one that it knows: register_site(%L, time_zone => ...); '
            'or install the package with the older names (tzdata-legacy).', site_id
        );
end
$$;

-- Names that are only links to present ones, which an operating system may leave out (Debian: tzdata-legacy).
-- PostgreSQL does not tell them from others. From the file "backward" of the IANA time zone database, 2025b:
-- its links whose names are those of no country in zone.tab, without UTC and GMT.
create function machserial._old_time_zones() returns table (name text, present_name text)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select split_part(p.words[1], '=', 1), split_part(p.words[1], '=', 2)
    from regexp_matches(
        '
            Africa/Asmera=Africa/Nairobi Africa/Timbuktu=Africa/Abidjan
            America/Argentina/ComodRivadavia=America/Argentina/Catamarca America/Atka=America/Adak
            America/Buenos_Aires=America/Argentina/Buenos_Aires
            America/Catamarca=America/Argentina/Catamarca America/Coral_Harbour=America/Panama
            America/Cordoba=America/Argentina/Cordoba America/Ensenada=America/Tijuana
            America/Fort_Wayne=America/Indiana/Indianapolis America/Godthab=America/Nuuk
            America/Indianapolis=America/Indiana/Indianapolis America/Jujuy=America/Argentina/Jujuy
            America/Knox_IN=America/Indiana/Knox America/Louisville=America/Kentucky/Louisville
            America/Mendoza=America/Argentina/Mendoza America/Montreal=America/Toronto
            America/Nipigon=America/Toronto America/Pangnirtung=America/Iqaluit
            America/Porto_Acre=America/Rio_Branco America/Rainy_River=America/Winnipeg
            America/Rosario=America/Argentina/Cordoba America/Santa_Isabel=America/Tijuana
            America/Shiprock=America/Denver America/Thunder_Bay=America/Toronto
            America/Virgin=America/Puerto_Rico America/Yellowknife=America/Edmonton
            Antarctica/South_Pole=Pacific/Auckland Asia/Ashkhabad=Asia/Ashgabat
            Asia/Calcutta=Asia/Kolkata Asia/Choibalsan=Asia/Ulaanbaatar Asia/Chongqing=Asia/Shanghai
            Asia/Chungking=Asia/Shanghai Asia/Dacca=Asia/Dhaka Asia/Harbin=Asia/Shanghai
            Asia/Istanbul=Europe/Istanbul Asia/Kashgar=Asia/Urumqi Asia/Katmandu=Asia/Kathmandu
            Asia/Macao=Asia/Macau Asia/Rangoon=Asia/Yangon Asia/Saigon=Asia/Ho_Chi_Minh
            Asia/Tel_Aviv=Asia/Jerusalem Asia/Thimbu=Asia/Thimphu Asia/Ujung_Pandang=Asia/Makassar
            Asia/Ulan_Bator=Asia/Ulaanbaatar Atlantic/Faeroe=Atlantic/Faroe
            Atlantic/Jan_Mayen=Europe/Berlin Australia/ACT=Australia/Sydney
            Australia/Canberra=Australia/Sydney Australia/Currie=Australia/Hobart
            Australia/LHI=Australia/Lord_Howe Australia/NSW=Australia/Sydney
            Australia/North=Australia/Darwin Australia/Queensland=Australia/Brisbane
            Australia/South=Australia/Adelaide Australia/Tasmania=Australia/Hobart
            Australia/Victoria=Australia/Melbourne Australia/West=Australia/Perth
            Australia/Yancowinna=Australia/Broken_Hill Brazil/Acre=America/Rio_Branco
            Brazil/DeNoronha=America/Noronha Brazil/East=America/Sao_Paulo Brazil/West=America/Manaus
            CET=Europe/Brussels CST6CDT=America/Chicago Canada/Atlantic=America/Halifax
            Canada/Central=America/Winnipeg Canada/Eastern=America/Toronto
            Canada/Mountain=America/Edmonton Canada/Newfoundland=America/St_Johns
            Canada/Pacific=America/Vancouver Canada/Saskatchewan=America/Regina
            Canada/Yukon=America/Whitehorse Chile/Continental=America/Santiago
            Chile/EasterIsland=Pacific/Easter Cuba=America/Havana EET=Europe/Athens EST=America/Panama
            EST5EDT=America/New_York Egypt=Africa/Cairo Eire=Europe/Dublin Europe/Belfast=Europe/London
            Europe/Kiev=Europe/Kyiv Europe/Nicosia=Asia/Nicosia Europe/Tiraspol=Europe/Chisinau
            Europe/Uzhgorod=Europe/Kyiv Europe/Zaporozhye=Europe/Kyiv GB=Europe/London
            GB-Eire=Europe/London GMT+0=Etc/GMT GMT-0=Etc/GMT GMT0=Etc/GMT Greenwich=Etc/GMT
            HST=Pacific/Honolulu Hongkong=Asia/Hong_Kong Iceland=Africa/Abidjan Iran=Asia/Tehran
            Israel=Asia/Jerusalem Jamaica=America/Jamaica Japan=Asia/Tokyo Kwajalein=Pacific/Kwajalein
            Libya=Africa/Tripoli MET=Europe/Brussels MST=America/Phoenix MST7MDT=America/Denver
            Mexico/BajaNorte=America/Tijuana Mexico/BajaSur=America/Mazatlan
            Mexico/General=America/Mexico_City NZ=Pacific/Auckland NZ-CHAT=Pacific/Chatham
            Navajo=America/Denver PRC=Asia/Shanghai PST8PDT=America/Los_Angeles
            Pacific/Enderbury=Pacific/Kanton Pacific/Johnston=Pacific/Honolulu
            Pacific/Ponape=Pacific/Guadalcanal Pacific/Samoa=Pacific/Pago_Pago
            Pacific/Truk=Pacific/Port_Moresby Pacific/Yap=Pacific/Port_Moresby Poland=Europe/Warsaw
            Portugal=Europe/Lisbon ROC=Asia/Taipei ROK=Asia/Seoul Singapore=Asia/Singapore
            Turkey=Europe/Istanbul UCT=Etc/UTC US/Alaska=America/Anchorage US/Aleutian=America/Adak
            US/Arizona=America/Phoenix US/Central=America/Chicago
            US/East-Indiana=America/Indiana/Indianapolis US/Eastern=America/New_York
            US/Hawaii=Pacific/Honolulu US/Indiana-Starke=America/Indiana/Knox
            US/Michigan=America/Detroit US/Mountain=America/Denver US/Pacific=America/Los_Angeles
            US/Samoa=Pacific/Pago_Pago Universal=Etc/UTC W-SU=Europe/Moscow WET=Europe/Lisbon
            Zulu=Etc/UTC
        ', '[^[:space:]]+', 'g'
    ) as p (words);
end
$$;

create function machserial._raise_unknown_time_zone(site_id text, time_zone text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('time zone %L is unknown', machserial._shown(time_zone)),
        detail = format('Site %s.', machserial._shown(site_id)),
        hint = 'Give an IANA name such as Europe/Berlin: select name from pg_timezone_names.';
end
$$;

-- The table's own rule is wider than that of register_site(): it takes whatever the server can convert to.
create function machserial._examine_time_zone() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    present_name text;
begin
    if tg_op = 'UPDATE' and new.time_zone = old.time_zone then
        return new;
    end if;
    if machserial._time_at(new.time_zone, now()) is null then
        perform machserial._raise_unknown_time_zone(new.id, new.time_zone);
    end if;
    select o.present_name into present_name
    from machserial._old_time_zones() as o
    where lower(o.name collate "C") = lower(new.time_zone collate "C");
    if found then
        raise warning using
            message = format('time zone %s is an old name of %s', new.time_zone, present_name),
            detail = 'A newer operating system may not have it, and the site would give no numbers then.',
            hint = format('update machserial.sites set time_zone = %L where id = %L;', present_name, new.id);
    end if;
    return new;
end
$$;

-- The time zone of each site, as far as the server knows it: UTC in place of one that it does not know.
create function machserial._zones_of_sites() returns table (site_id text, time_zone text, is_known boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select s.id, case when k.is_known then s.time_zone else 'UTC' end, k.is_known
    from machserial.sites as s
    cross join lateral (select machserial._time_at(s.time_zone, now()) is not null as is_known) as k;
end
$$;

-- Of sites that get no numbers any more, as their time zone is gone.
create function machserial._tell_unknown_time_zones() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    site record;
begin
    for site in
        select s.id, s.time_zone
        from machserial._zones_of_sites() as z
        inner join machserial.sites as s on s.id = z.site_id
        where not z.is_known
        order by s.id
    loop
        raise warning using
            message = format('the server does not know %L, the time zone of site %s', site.time_zone, site.id),
            detail = 'What is due there is left out, and it gives no numbers whose date is written or counted by.',
            hint = format('Call register_site(%L, time_zone => ...).', site.id);
    end loop;
end
$$;
