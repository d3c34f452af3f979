-- Rows as functions return them. The code exists before the tables, so no signature may use a table's own row
-- type. A type grows at its end only.

create type machserial.site as (
    id text,
    name text,
    time_zone text,
    created_at timestamptz
);

create type machserial.part as (
    id text,
    part_type text,
    name text,
    default_scopes text[],
    created_at timestamptz
);

create type machserial.serial_format as (
    id bigint,
    name text,
    version integer,
    pattern text,
    description text,
    sequence_start bigint,
    sequence_increment bigint,
    reset text,
    counter_per text,
    allocation text,
    letter_case text,
    is_active boolean,
    created_at timestamptz,
    created_by text
);

create type machserial.serial as (
    id bigint,
    serial_number text,
    part_id text,
    part_type text,
    site_id text,
    source text,
    status text,
    scopes text[],
    format_id bigint,
    sequence_number bigint,
    work_order_id text,
    lot_number text,
    operation_code text,
    context jsonb,
    created_at timestamptz,
    created_by text
);

comment on type machserial.site is 'A row of machserial.sites.';

comment on type machserial.part is 'A row of machserial.parts.';

comment on type machserial.serial_format is 'A row of machserial.serial_formats.';

comment on type machserial.serial is 'A row of machserial.serials.';
