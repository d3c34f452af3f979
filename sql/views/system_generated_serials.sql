-- A view sees with its owner's eyes: so it says itself what the policies say.
create or replace view machserial.system_generated_serials with (security_barrier) as
select
    id,
    serial_number,
    part_id,
    part_type,
    site_id,
    status,
    scopes,
    format_id,
    sequence_number,
    work_order_id,
    lot_number,
    operation_code,
    context,
    created_at,
    created_by
from machserial.serials
where
    source = 'SYSTEM_GENERATED' and (
        machserial._is_unlimited('machserial.limited_to_sites'::regtype)
        or site_id = any((select machserial._own_sites())::text[])
    );

comment on view machserial.system_generated_serials is 'The serials that machserial itself has issued.';
