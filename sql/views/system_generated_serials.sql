create or replace view machserial.system_generated_serials as
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
where source = 'SYSTEM_GENERATED';

comment on view machserial.system_generated_serials is 'The serials that machserial itself has issued.';
