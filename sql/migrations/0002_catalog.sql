create table machserial.sites (
    id text collate "C" not null primary key,
    name text,
    time_zone text collate "C" not null default 'UTC',
    created_at timestamptz not null default now(),
    constraint sites_id_is_given check (id <> '' and length(id) <= 255)
);

comment on table machserial.sites is 'Plants and other places that number parts.';
comment on column machserial.sites.id is 'The site''s own code.';
comment on column machserial.sites.name is 'Name for people.';
comment on column machserial.sites.time_zone is 'IANA time zone: date tokens and counter resets follow it.';
comment on column machserial.sites.created_at is 'When the site was registered.';

insert into machserial.sites (id, name) values ('DEFAULT', 'What a null site means');

create table machserial.parts (
    id text collate "C" not null primary key,
    part_type text collate "C" not null,
    name text,
    default_scopes text[] not null default '{SITE,PART_TYPE}',
    created_at timestamptz not null default now(),
    constraint parts_id_is_given check (id <> '' and length(id) <= 255),
    constraint parts_part_type_is_given check (part_type <> '' and length(part_type) <= 255),
    constraint parts_default_scopes_are_known
    check (
        default_scopes <@ '{ENTERPRISE,SITE,PART_TYPE}'::text[] and cardinality(default_scopes) > 0
        and array_ndims(default_scopes) = 1
    ),
    -- What serials refer to, so that a serial cannot claim its number under another type than its part's.
    constraint parts_id_part_type_key unique (id, part_type)
);

comment on table machserial.parts is 'What gets serial numbers.';
comment on column machserial.parts.id is 'Part number.';
comment on column machserial.parts.part_type is 'Kind of part: the reach of the scope PART_TYPE.';
comment on column machserial.parts.name is 'Name for people.';
comment on column machserial.parts.default_scopes is
'Where this part''s numbers must not repeat: ENTERPRISE, SITE, PART_TYPE.';
comment on column machserial.parts.created_at is 'When the part was registered.';

-- No constraint: a backup must come back also where the server does not know a zone any more.
create trigger sites_have_a_known_time_zone
before insert or update of time_zone on machserial.sites
for each row execute function machserial._examine_time_zone();

create trigger sites_are_audited
after insert or update or delete on machserial.sites
for each row execute function machserial._audit_configuration();

create trigger sites_are_not_truncated
before truncate on machserial.sites
for each statement execute function machserial._refuse_removal(
    'sites', 'Delete a site that nothing refers to: delete from machserial.sites where id = ''...''.'
);

create trigger parts_are_audited
after insert or update or delete on machserial.parts
for each row execute function machserial._audit_configuration();

create trigger parts_are_not_truncated
before truncate on machserial.parts
for each statement execute function machserial._refuse_removal(
    'parts', 'Delete a part that nothing refers to: delete from machserial.parts where id = ''...''.'
);

alter table machserial.sites enable row level security;
create policy open_to_the_privileged on machserial.sites using (true);
create policy own_sites_only on machserial.sites as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or id = any((select machserial._own_sites())::text[])
);
