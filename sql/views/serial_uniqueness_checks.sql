-- A branch for each scope, so that a condition on the scope leaves one branch, and its unique index. A view
-- sees with its owner's eyes: so it says itself what the policies say, and around the branches: PostgreSQL
-- takes a union apart, whatever its barrier.
create or replace view machserial.serial_uniqueness_checks with (security_barrier) as
select
    k.serial_number,
    k.scope,
    k.site_id,
    k.part_type,
    k.part_id,
    k.serial_id,
    k.conflict_id,
    k.status,
    k.claimed_at,
    k.claimed_by
from (
    select
        s.serial_number,
        'ENTERPRISE'::text as scope,
        s.site_id,
        s.part_type,
        s.part_id,
        s.id as serial_id,
        null::bigint as conflict_id,
        s.status,
        s.created_at as claimed_at,
        s.created_by as claimed_by
    from machserial.serials as s
    where s.holds_claim and 'ENTERPRISE' = any(s.scopes)
    union all
    select
        s.serial_number,
        'SITE' as scope,
        s.site_id,
        s.part_type,
        s.part_id,
        s.id as serial_id,
        null as conflict_id,
        s.status,
        s.created_at as claimed_at,
        s.created_by as claimed_by
    from machserial.serials as s
    where s.holds_claim and 'SITE' = any(s.scopes)
    union all
    select
        s.serial_number,
        'PART_TYPE' as scope,
        s.site_id,
        s.part_type,
        s.part_id,
        s.id as serial_id,
        null as conflict_id,
        s.status,
        s.created_at as claimed_at,
        s.created_by as claimed_by
    from machserial.serials as s
    where s.holds_claim and 'PART_TYPE' = any(s.scopes)
    union all
    select
        c.serial_number,
        w.scope,
        c.site_id,
        p.part_type,
        c.part_id,
        c.serial_id,
        c.id as conflict_id,
        'CONFLICT' as status,
        c.detected_at as claimed_at,
        c.detected_by as claimed_by
    from machserial.serial_conflicts as c
    inner join machserial.parts as p on c.part_id = p.id
    cross join unnest(c.scopes) as w (scope)
    where c.status = 'PENDING'
) as k
where
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or k.site_id = any((select machserial._own_sites())::text[]);

comment on view machserial.serial_uniqueness_checks is
'Who claims which number in which scope: a row for each scope of a serial that keeps its number from others,
and for each scope of a duplicate that waits for its decision. Two rows of one number, scope and site or type
are a conflict.';

comment on column machserial.serial_uniqueness_checks.serial_number is 'The number.';
comment on column machserial.serial_uniqueness_checks.scope is 'ENTERPRISE, SITE or PART_TYPE.';
comment on column machserial.serial_uniqueness_checks.site_id is
'Site of the claimant: the reach of scope SITE.';
comment on column machserial.serial_uniqueness_checks.part_type is
'Type of its part: the reach of scope PART_TYPE.';
comment on column machserial.serial_uniqueness_checks.part_id is 'Its part.';
comment on column machserial.serial_uniqueness_checks.serial_id is
'The serial; null for a duplicate that was not put into the registry.';
comment on column machserial.serial_uniqueness_checks.conflict_id is
'The conflict that waits for its decision; null for a claim that holds.';
comment on column machserial.serial_uniqueness_checks.status is
'Status of the serial; CONFLICT for every duplicate.';
comment on column machserial.serial_uniqueness_checks.claimed_at is 'When it was put on record.';
comment on column machserial.serial_uniqueness_checks.claimed_by is 'Who put it on record.';
