create or replace view machserial.attachments as
select
    t.tgrelid::regclass as relation,
    t.tgname::text as trigger_name,
    s.settings ->> 'trigger_type' as trigger_type,
    s.settings ->> 'part_column' as part_column,
    s.settings ->> 'quantity_column' as quantity_column,
    case
        when s.settings ? 'context_columns' then array(
            select c.name
            from
                jsonb_array_elements_text(s.settings -> 'context_columns')
                with ordinality as c (name, position)
            order by c.position
        )
    end as context_columns,
    s.settings ->> 'serial_column' as serial_column,
    t.tgenabled <> 'D' as enabled
from pg_catalog.pg_trigger as t
cross join lateral machserial._attachment_settings(t.tgargs) as s (settings)
where t.tgfoid = 'machserial._fire_attached()'::regprocedure;

comment on view machserial.attachments is
'The tables of applications whose inserts are events, as attach() has set them up.';
comment on column machserial.attachments.relation is 'The table.';
comment on column machserial.attachments.trigger_name is 'The table''s own trigger.';
comment on column machserial.attachments.trigger_type is 'What event an insert is.';
comment on column machserial.attachments.part_column is 'The column with the part''s id.';
comment on column machserial.attachments.quantity_column is
'The column that says how many units a row is; null: one.';
comment on column machserial.attachments.context_columns is
'What else goes into the context: columns, or key=column.';
comment on column machserial.attachments.serial_column is 'The column that gets the generated numbers.';
comment on column machserial.attachments.enabled is
'Whether the table''s own trigger is on: alter table ... disable trigger turns it off.';
