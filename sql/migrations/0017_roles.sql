-- Who sees which site. A restrictive policy for each table with rows of sites; privileges decide the rest.
-- For those who are not limited _is_unlimited() leaves nothing of it in their plans.

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

create trigger granted_sites_are_audited
after insert on machserial.site_grants
referencing new table as site_grants_now
for each statement execute function machserial._audit_site_grants();

create trigger revoked_sites_are_audited
after delete on machserial.site_grants
referencing old table as site_grants_now
for each statement execute function machserial._audit_site_grants();

create trigger granted_sites_are_not_changed
before update on machserial.site_grants
for each statement execute function machserial._refuse_grant_change();

create trigger granted_sites_are_not_truncated
before truncate on machserial.site_grants
for each statement execute function machserial._refuse_grant_change();

alter table machserial.sites enable row level security;
create policy open_to_the_privileged on machserial.sites using (true);
create policy own_sites_only on machserial.sites as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or id = any((select machserial._own_sites())::text[])
);

alter table machserial.serials enable row level security;
create policy open_to_the_privileged on machserial.serials using (true);
create policy own_sites_only on machserial.serials as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
);

-- Only functions that act as the owner say that a number was issued.
create policy only_issued_numbers_are_generated on machserial.serials as restrictive for insert
with check (source <> 'SYSTEM_GENERATED');

alter table machserial.serial_conflicts enable row level security;
create policy open_to_the_privileged on machserial.serial_conflicts using (true);
create policy own_sites_only on machserial.serial_conflicts as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
)
with check (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or (
        site_id = any((select machserial._own_sites())::text[])
        and (serial_id is null or machserial._sees_serial(serial_id))
        and (kept_serial_id is null or machserial._sees_serial(kept_serial_id))
    )
);

alter table machserial.vendor_serials enable row level security;
create policy open_to_the_privileged on machserial.vendor_serials using (true);
create policy own_sites_only on machserial.vendor_serials as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
)
with check (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or (
        -- And so is its serial: new_vendor_serials_are_examined compares the two.
        site_id = any((select machserial._own_sites())::text[])
        and (internal_serial_id is null or machserial._sees_serial(internal_serial_id))
    )
);

alter table machserial.late_assignment_placeholders enable row level security;
create policy open_to_the_privileged on machserial.late_assignment_placeholders using (true);
create policy own_sites_only on machserial.late_assignment_placeholders as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
)
with check (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or (
        site_id = any((select machserial._own_sites())::text[])
        and (serial_id is null or machserial._sees_serial(serial_id))
    )
);

-- An edge shows both of its ends, so who sees but one of them does not see it.
alter table machserial.serial_propagations enable row level security;
create policy open_to_the_privileged on machserial.serial_propagations using (true);
create policy own_sites_only on machserial.serial_propagations as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or (exists (
        select from machserial.serials as s
        where s.id = serial_propagations.parent_serial_id
    ) and (
        child_serial_id is null
        or exists (
            select from machserial.serials as s
            where s.id = serial_propagations.child_serial_id
        )
    ))
)
with check (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or (
        machserial._sees_serial(parent_serial_id)
        and (child_serial_id is null or machserial._sees_serial(child_serial_id))
    )
);

-- Of the events without a site those of formats, rules and the like are everybody's.
alter table machserial.audit_events enable row level security;
create policy open_to_the_privileged on machserial.audit_events using (true);
create policy own_sites_only on machserial.audit_events as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
    or (site_id is null and event_type ~ '^(FORMAT|PART|TRIGGER|VENDOR_RULE)_|^(PAUSED|RESUMED)$')
);

alter table machserial.counters enable row level security;
create policy open_to_the_privileged on machserial.counters using (true);
create policy own_sites_only on machserial.counters as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or (site_id = '' or site_id = any((select machserial._own_sites())::text[]))
);

alter table machserial.numbering_plans enable row level security;
create policy open_to_the_privileged on machserial.numbering_plans using (true);
create policy own_sites_only on machserial.numbering_plans as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
);

alter table machserial.number_blocks enable row level security;
create policy open_to_the_privileged on machserial.number_blocks using (true);
create policy own_sites_only on machserial.number_blocks as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
);

alter table machserial.block_usages enable row level security;
create policy open_to_the_privileged on machserial.block_usages using (true);
create policy own_sites_only on machserial.block_usages as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or exists (
        select from machserial.number_blocks as b
        where b.id = block_usages.block_id
    )
)
with check (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or (
        machserial._sees_block(block_id)
        and (serial_id is null or machserial._sees_serial(serial_id))
    )
);

alter table machserial.requests enable row level security;
create policy open_to_the_privileged on machserial.requests using (true);
create policy own_sites_only on machserial.requests as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or site_id = any((select machserial._own_sites())::text[])
);

alter table machserial.counter_fences enable row level security;
create policy open_to_the_privileged on machserial.counter_fences using (true);
create policy own_sites_only on machserial.counter_fences as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or exists (
        select from machserial.counters as c
        where c.id = counter_fences.counter_id
    )
);

-- Seals, leaves and archives are of the whole trail.
alter table machserial.audit_seals enable row level security;
create policy open_to_the_privileged on machserial.audit_seals using (true);
create policy own_sites_only on machserial.audit_seals as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
);

alter table machserial.audit_leaves enable row level security;
create policy open_to_the_privileged on machserial.audit_leaves using (true);
create policy own_sites_only on machserial.audit_leaves as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
);

alter table machserial.audit_verifications enable row level security;
create policy open_to_the_privileged on machserial.audit_verifications using (true);
create policy own_sites_only on machserial.audit_verifications as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
);

alter table machserial.audit_archives enable row level security;
create policy open_to_the_privileged on machserial.audit_archives using (true);
create policy own_sites_only on machserial.audit_archives as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
);

-- Firings count together what all sites do.
alter table machserial.trigger_executions enable row level security;
create policy open_to_the_privileged on machserial.trigger_executions using (true);
create policy own_sites_only on machserial.trigger_executions as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
);

alter table machserial.site_grants enable row level security;
create policy open_to_the_privileged on machserial.site_grants using (true);
create policy own_sites_only on machserial.site_grants as restrictive
using (
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
);
