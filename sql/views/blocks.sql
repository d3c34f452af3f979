-- A view sees with its owner's eyes: so it says itself what the policies say.
create or replace view machserial.blocks with (security_barrier) as
select
    b.id as block_id,
    b.first_value,
    b.last_value,
    b.status,
    f.name as format,
    f.version as format_version,
    b.holder,
    b.part_id,
    b.site_id,
    b.quantity,
    n.used,
    n.open,
    n.returned,
    n.expired,
    b.expires_at,
    b.allocated_at,
    b.allocated_by,
    b.closed_at,
    b.closed_by,
    b.closing_reason,
    r.request_id,
    b.skipped_values
from machserial.number_blocks as b
inner join machserial.counters as c on b.counter_id = c.id
inner join machserial.serial_formats as f on c.format_id = f.id
left join machserial.requests as r on b.generation_request_id = r.id
cross join
    lateral (
        select
            count(*) as used,
            case b.status when 'OPEN' then b.quantity - count(*) else 0 end as open,
            case b.status when 'RETURNED' then b.quantity - count(*) else 0 end as returned,
            case b.status when 'EXPIRED' then b.quantity - count(*) else 0 end as expired
        from machserial.block_usages as u
        where u.block_id = b.id
    ) as n
where
    machserial._is_unlimited('machserial.limited_to_sites'::regtype)
    or b.site_id = any((select machserial._own_sites())::text[]);

comment on view machserial.blocks is
'Blocks of numbers and what has become of them: used + open + returned + expired = quantity.';
comment on column machserial.blocks.block_id is 'Key.';
comment on column machserial.blocks.first_value is 'Its first sequence number.';
comment on column machserial.blocks.last_value is 'Its last sequence number.';
comment on column machserial.blocks.skipped_values is
'Sequence numbers between them that were taken when it was allocated, and are not among its numbers.';
comment on column machserial.blocks.status is
'OPEN, USED (all of it), RETURNED or EXPIRED. A block past expires_at is OPEN until maintain() closes it.';
comment on column machserial.blocks.format is 'The format that was allocated from.';
comment on column machserial.blocks.format_version is 'Its version.';
comment on column machserial.blocks.holder is 'The line, plant or manufacturer that numbers.';
comment on column machserial.blocks.part_id is 'The part that is numbered; null: each report says which.';
comment on column machserial.blocks.site_id is 'The site for which it was allocated.';
comment on column machserial.blocks.quantity is 'How many numbers it has.';
comment on column machserial.blocks.used is 'Of these, reported as used.';
comment on column machserial.blocks.open is 'Of these, with the holder.';
comment on column machserial.blocks.returned is 'Of these, returned unused: an accounted gap.';
comment on column machserial.blocks.expired is 'Of these, not reported in time: an accounted gap.';
comment on column machserial.blocks.expires_at is 'When maintain() closes it; null: never.';
comment on column machserial.blocks.allocated_at is 'When it was allocated.';
comment on column machserial.blocks.allocated_by is 'Who allocated it.';
comment on column machserial.blocks.closed_at is 'When it was used up, returned or expired.';
comment on column machserial.blocks.closed_by is 'Who closed it.';
comment on column machserial.blocks.closing_reason is 'Why it was closed.';
comment on column machserial.blocks.request_id is 'The caller''s own id of the allocation.';
