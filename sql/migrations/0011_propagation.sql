create table machserial.serial_propagations (
    id bigint not null generated always as identity primary key,
    propagation_type text collate "C" not null,
    parent_serial_id bigint not null references machserial.serials (id),
    child_serial_id bigint references machserial.serials (id),
    operation_code text collate "C" not null,
    routing_sequence integer not null,
    work_center_id text collate "C",
    quantity numeric not null default 1,
    notes text,
    created_at timestamptz not null default now(),
    created_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    constraint serial_propagations_type_is_known
    check (propagation_type in ('PASS_THROUGH', 'SPLIT', 'MERGE', 'TRANSFORM')),
    constraint serial_propagations_child_fits_type
    check (
        case propagation_type
            when 'PASS_THROUGH' then child_serial_id is null
            when 'TRANSFORM' then true
            else child_serial_id is not null
        end
    ),
    constraint serial_propagations_operation_code_is_given check (operation_code <> ''),
    constraint serial_propagations_routing_sequence_is_not_negative check (routing_sequence >= 0),
    constraint serial_propagations_quantity_is_positive check (quantity > 0 and quantity < 'infinity')
);

create index serial_propagations_parent_serial_id on machserial.serial_propagations (parent_serial_id);
create index serial_propagations_child_serial_id on machserial.serial_propagations (child_serial_id)
where child_serial_id is not null;

comment on table machserial.serial_propagations is
'What became of what: every step of a serial through production, and every serial that came of another.';
comment on column machserial.serial_propagations.id is 'Key.';
comment on column machserial.serial_propagations.propagation_type is
'PASS_THROUGH (the serial goes on), SPLIT (one becomes several), MERGE (several become one) or TRANSFORM (it
becomes something else).';
comment on column machserial.serial_propagations.parent_serial_id is 'The serial that there was before.';
comment on column machserial.serial_propagations.child_serial_id is
'The serial that came of it; null: the serial itself went on.';
comment on column machserial.serial_propagations.operation_code is 'Operation at which it happened.';
comment on column machserial.serial_propagations.routing_sequence is
'Place of the operation in the routing, from 0.';
comment on column machserial.serial_propagations.work_center_id is 'Work center at which it happened.';
comment on column machserial.serial_propagations.quantity is
'How much of the parent went into it, in the unit of the part.';
comment on column machserial.serial_propagations.notes is
'Free text; the one column that may change later.';
comment on column machserial.serial_propagations.created_at is
'When it was put on record: start of the transaction.';
comment on column machserial.serial_propagations.created_by is
'Who put it on record: machserial.actor, else the session''s user.';

create trigger propagations_keep_texts_short
before insert or update on machserial.serial_propagations
for each row when (length(new.notes) > 2000)
execute function machserial._refuse_long_text();

create trigger propagations_keep_what_they_say
before update on machserial.serial_propagations
for each row execute function machserial._refuse_propagation_change();

create trigger propagations_are_kept
before delete or truncate on machserial.serial_propagations
for each statement execute function machserial._refuse_removal(
    'propagations',
    'Lineage is kept for good. Say in notes what was wrong, or machserial.invalidate_serial(...).'
);

create trigger lineage_stays_free_of_cycles
after insert on machserial.serial_propagations
referencing new table as new_propagations
for each statement execute function machserial._refuse_impossible_lineage();

create trigger new_propagations_are_audited
after insert on machserial.serial_propagations
referencing new table as new_propagations
for each statement execute function machserial._audit_new_propagations();

create trigger changed_propagations_are_audited
after update on machserial.serial_propagations
referencing old table as old_propagations new table as new_propagations
for each statement execute function machserial._audit_changed_propagations();

create trigger serials_keep_their_lineage_rank
before update of lineage_rank on machserial.serials
for each row when (old.lineage_rank is distinct from new.lineage_rank)
execute function machserial._refuse_rank_change();

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
