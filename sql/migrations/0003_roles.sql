-- Limits of roles to sites. Each table with rows of sites has a restrictive policy; privileges decide the
-- rest. For roles without limits _is_unlimited() leaves nothing of it in their plans.

create table machserial.site_grants (
    role regrole not null,
    site_id text collate "C" not null references machserial.sites (id) on delete cascade,
    granted_at timestamptz not null default now(),
    granted_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    constraint site_grants_pkey primary key (role, site_id)
);

comment on table machserial.site_grants is
'The sites of roles that are limited to sites: written by grant_site() and revoke_site(). A role without a
row may be
limited to none: limited_roles() tells.';
comment on column machserial.site_grants.role is 'The role, a login or a group.';
comment on column machserial.site_grants.site_id is 'A site that it may see.';
comment on column machserial.site_grants.granted_at is 'When it was granted: start of the transaction.';
comment on column machserial.site_grants.granted_by is
'Who granted it: machserial.actor, else the session''s user.';

create trigger granted_sites_limit_their_role
after insert on machserial.site_grants
referencing new table as site_grants_now
for each statement execute function machserial._mark_limited();

create trigger site_grants_are_audited
after insert or update or delete on machserial.site_grants
for each row execute function machserial._audit_configuration('site_id');

create trigger granted_sites_are_not_changed
before update on machserial.site_grants
for each statement execute function machserial._refuse_grant_change();

create trigger granted_sites_are_not_truncated
before truncate on machserial.site_grants
for each statement execute function machserial._refuse_grant_change();

alter table machserial.site_grants enable row level security;
create policy open_to_the_privileged on machserial.site_grants using (true);
create policy own_sites_only on machserial.site_grants as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
);
