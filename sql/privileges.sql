-- Who may call and read what. The last thing that runs at every install and update.
--
-- The rule (machserial._listed_privileges() applies it):
--   * A function without "_" at the front goes to the lowest role whose work it is: the lists below. One that
--     no list names is the owner's alone.
--   * A private function that is SECURITY INVOKER goes to the first role: it can do nothing that its caller
--     cannot. A private one that is SECURITY DEFINER is the owner's alone, unless a list says otherwise.
--   * Tables and views can be read by the first role, unless a list says otherwise. What else a role may do
--     with them, the lists say.
--   * Sequences are the owner's alone. Types go with the functions that return them.

-- The lists. from_role: of viewer, operator, supervisor, admin the first that has it, and those after it
-- have it too; public: everybody; owner: the owner alone, against the rule; superuser: what superusers grant.
-- objects: names, separated by blanks; functions with all their forms, columns as table.column, _* at the end
-- for what is numbered. create_roles() and migrate() carry it out; a test compares it with the catalog.
create function machserial._privileges()
returns table (from_role text, privilege text, kind text, objects text)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    values
    -- Reads. A role that is limited to sites sees theirs.
    ('viewer', 'usage', 'schema', 'machserial'),
    ('viewer', 'execute', 'function', '
        audit_anchor audit_statistics audit_trail block_serials check_digit check_uniqueness claims_of
        conflict_history counter_status explain_triggers find_serial format_for has_valid_check_digit health
        health_check inclusion_proof lineage parse_pattern pending_conflicts pending_migrations
        pending_placeholders placeholder_statistics preview propagation_history propagation_statistics ready
        trigger_statistics uniqueness_report uniqueness_statistics validate_pattern validate_serial
        validate_vendor_serial verify_audit verify_inclusion version
    '),
    -- Runs the workflows, by functions or by SQL: the rules are on the tables.
    -- A writer does not say by whom and when a row was written, nor which id it has.
    ('operator', 'insert', 'column', '
        late_assignment_placeholders.part_id
        late_assignment_placeholders.site_id late_assignment_placeholders.work_order_id
        late_assignment_placeholders.lot_number late_assignment_placeholders.operation_code
        late_assignment_placeholders.context serial_conflicts.serial_number serial_conflicts.part_id
        serial_conflicts.site_id serial_conflicts.scopes serial_conflicts.source
        serial_conflicts.serial_id serial_conflicts.conflicting_serial_ids
        serial_conflicts.conflicting_scopes serial_propagations.propagation_type
        serial_propagations.parent_serial_id serial_propagations.child_serial_id
        serial_propagations.operation_code serial_propagations.routing_sequence
        serial_propagations.work_center_id serial_propagations.quantity serial_propagations.notes
        serials.serial_number serials.part_id serials.part_type serials.site_id serials.source
        serials.status serials.scopes serials.work_order_id
        serials.lot_number serials.operation_code serials.context
        serials.status_reason vendor_serials.id vendor_serials.serial_number vendor_serials.part_id
        vendor_serials.site_id vendor_serials.vendor_name vendor_serials.received_date
        vendor_serials.status vendor_serials.validation_errors vendor_serials.validated_at
    '),
    ('operator', 'update', 'column', '
        serials.context serials.lot_number serials.operation_code serials.scopes serials.status
        serials.status_reason serials.work_order_id vendor_serials.internal_serial_id
        vendor_serials.rejection_reason vendor_serials.status
        late_assignment_placeholders.assigned_operation_code late_assignment_placeholders.context
        late_assignment_placeholders.failure_reason late_assignment_placeholders.lot_number
        late_assignment_placeholders.notes late_assignment_placeholders.operation_code
        late_assignment_placeholders.serial_id late_assignment_placeholders.status
        number_blocks.closing_reason number_blocks.expires_at number_blocks.status
        serial_propagations.notes
    '),
    ('operator', 'execute', 'function', '
        accept_vendor_serial accept_vendor_serials allocate_block assign_placeholder assign_placeholders
        create_placeholders fail_placeholder fire generate invalidate_serial maintain merge
        pass_through receive_vendor_serial receive_vendor_serials register_serial register_serials
        reject_vendor_serial report_block retire_serial return_block split transform
    '),
    -- Configures, resolves conflicts, and answers for what a vendor's rule refuses.
    ('supervisor', 'insert', 'column', '
        format_assignments.part_id format_assignments.part_type format_assignments.format_id
        format_assignments.priority format_assignments.effective_from format_assignments.effective_until
        parts.id parts.part_type parts.name parts.default_scopes serial_formats.name
        serial_formats.version serial_formats.pattern serial_formats.description
        serial_formats.sequence_start serial_formats.sequence_increment serial_formats.reset
        serial_formats.counter_per serial_formats.allocation serial_formats.letter_case
        serial_formats.is_ad_hoc serial_formats.revises serial_formats.continues sites.id sites.name
        sites.time_zone trigger_definitions.part_id trigger_definitions.trigger_type
        trigger_definitions.assignment_type trigger_definitions.format
        trigger_definitions.operation_code trigger_definitions.conditions trigger_definitions.batch_size
        trigger_definitions.enabled vendor_rules.vendor_name vendor_rules.part_id vendor_rules.pattern
        vendor_rules.regex vendor_rules.min_length vendor_rules.max_length vendor_rules.check_algorithm
        vendor_rules.stdnum_kind
    '),
    ('supervisor', 'update', 'column', '
        format_assignments.part_id format_assignments.part_type format_assignments.format_id
        format_assignments.priority format_assignments.effective_from format_assignments.effective_until
        parts.id parts.part_type parts.name parts.default_scopes serial_formats.description
        serial_formats.is_active sites.id sites.name sites.time_zone trigger_definitions.part_id
        trigger_definitions.trigger_type trigger_definitions.assignment_type trigger_definitions.format
        trigger_definitions.operation_code trigger_definitions.conditions trigger_definitions.batch_size
        trigger_definitions.enabled trigger_definitions.count_offset vendor_rules.vendor_name
        vendor_rules.part_id vendor_rules.pattern vendor_rules.regex vendor_rules.min_length
        vendor_rules.max_length vendor_rules.check_algorithm vendor_rules.stdnum_kind
    '),
    ('supervisor', 'delete', 'table', 'format_assignments parts sites trigger_definitions vendor_rules'),
    ('supervisor', 'update', 'view', 'serial_assignment_triggers'),
    ('supervisor', 'update', 'column', '
        serials.claim_released serial_conflicts.kept_serial_id serial_conflicts.reason
        serial_conflicts.resolution serial_conflicts.retired_serial_ids serial_conflicts.status
        vendor_serials.waived_reason
    '),
    ('supervisor', 'execute', 'function', '
        assign_format assign_format_to_type attach create_format create_trigger deactivate_format
        delete_trigger delete_vendor_rule detach disable_trigger enable_trigger register_part register_site
        resolve_conflict revise_format seal_audit set_vendor_rule unassign_format update_trigger
        waive_vendor_rule
    '),
    -- Looks after it. Most of these run with the owner's rights, and ask who calls.
    ('admin', 'insert', 'table', 'health_thresholds settings'),
    ('admin', 'update', 'table', 'health_thresholds settings'),
    ('admin', 'delete', 'table', 'health_thresholds settings'),
    ('admin', 'execute', 'function', '
        account_for_serial
        adopt_schema
        audit_months fence grant_site integrity
        lift_site_limits limited_roles migrate migration_script pause reset_counter
        preview_fence
        verify_lineage
        restore_archived resume revoke_site set_node unfenced_counters verify_archived write_test
    '),
    -- Policies call these for every role that reads or writes. They tell a role its own sites, and no more.
    ('public', 'execute', 'function', '_is_unlimited _own_sites _sees_block _sees_serial _site_limits'),
    -- SECURITY DEFINER, and called by functions that run as their caller. Each says at its head what it looks up
    -- or writes for a caller who could not, and checks what it takes.
    ('viewer', 'execute', 'function', '
        _caller_sites _claims_for_numbers _id_sequences _is_paused _lacks_sequence _last_value _near_matches _render
        _serial_characters _setting _stdnum_verdicts _unlisted_privileges _waiting_events
    '),
    ('operator', 'execute', 'function', '
        _claimed_elsewhere _count_executions _generate_each _hold_gapless _hold_triggers _new_serial_id
        _raise_unclaimed _register_received
    '),
    ('supervisor', 'execute', 'function', '_audit_attachment'),
    -- They ask sequences how far they are. Newer servers answer null to a caller without rights: no refusal.
    ('owner', 'execute', 'function', '_draw_on_trust _draw_one _give_back _set_counter'),
    -- Renderers are made as formats are, and called by _render() alone.
    ('owner', 'execute', 'function', '_render_*'),
    -- Who is limited to what is told by site_grants to nobody but the owner; partitions are read through
    -- audit_events; the switch of a pause is locked, not read.
    ('owner', 'select', 'table', 'site_grants pause_switch audit_events_*'),
    -- Of machserial_plpython, where it is: a superuser's to grant (docs/plpython.md), and left as it is.
    ('superuser', 'execute', 'function', '
        _examined_python_path _plain_message _plpython_version _python_paths _recent_errors _redis_health
        _stdnum_are_valid host_health recent_errors redis_health set_python_path stdnum_are_valid
        stdnum_is_valid
        _host_health
        _raise_of_python
    '),
    ('superuser', 'select', 'table', 'python_paths')
    ;
end
$$;

-- PostgreSQL lets everyone call a new function, and use a new type; here nobody may who was not granted it.
-- Those of machserial_plpython belong to a superuser, who has seen to it already.
create function machserial._close_functions() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    routine regprocedure;
begin
    for routine in
        select p.oid from pg_proc as p
        where p.pronamespace = 'machserial'::regnamespace and pg_has_role(p.proowner, 'usage')
    loop
        execute format('revoke execute on routine %s from public', routine);
    end loop;
    for routine in
        select l.oid from machserial._listed_privileges() as l
        where l.role = 'public' and l.kind = 'function'
    loop
        execute format('grant execute on function %s to public', routine);
    end loop;
    -- The owner keeps it: policies and views name the type.
    revoke all on type machserial.limited_to_sites from public;
end
$$;

do $privileges$
begin
    perform machserial._close_functions();
    -- Where tables were there before the code, their triggers, policies and limits went with the code that was
    -- there. They come back with it, so that nothing is ever written or read without them. Views and functions
    -- are left to migrate(): made here, they would belong to the extension.
    if to_regclass('machserial.site_grants') is not null then
        perform machserial._tell_made_again(
            machserial._make_missing('{trigger,policy}') || machserial._limit_again(),
            'machserial.migrate() makes the rest; then see: select * from machserial.integrity();'
        );
    end if;
end
$privileges$;
