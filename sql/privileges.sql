-- Who may call and read what. The last thing that runs at every install and update.

-- The one list. from_role: of viewer, operator, supervisor, admin the first that has it, and those after it
-- have it too; public: everybody; owner: nobody else; superuser: what superusers say. objects: names,
-- separated by blanks; functions with all their forms, columns as table.column, <n> and <month> for what is
-- made as machserial runs. create_roles() and migrate() carry it out; a test compares it with the catalog,
-- and refuses what is not in it.
create function machserial._privileges()
returns table (from_role text, privilege text, kind text, objects text)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    values
    -- Policies and views call these for whoever asks; they tell nobody more than his own sites.
    ('public', 'execute', 'function', '_is_unlimited _own_sites _sees_block _sees_serial _site_limits'),
    -- Types go with the functions that return them.
    ('public', 'usage', 'type', '
        _compiled_pattern _content _event _issue _lineage_step _named_number _numbered _seal
        _fence_step
        _stretch _verification attachment audit_event audit_problem block health_result integrity_finding
        late_assignment_placeholder part role_limit serial serial_assignment_trigger serial_conflict
        serial_format serial_propagation site vendor_rule vendor_serial
    '),
    -- Reads. A role that is limited to sites sees theirs.
    ('viewer', 'usage', 'schema', 'machserial'),
    ('viewer', 'select', 'table', '
        audit_archives audit_events audit_leaves audit_seals audit_verifications block_usages
        configuration_changes counter_fences counters format_assignments requests
        health_thresholds late_assignment_placeholders number_blocks numbering_plans parts pauses
        schema_migrations serial_conflicts serial_formats serial_propagations serials settings sites
        trigger_definitions trigger_executions vendor_rules vendor_serials
    '),
    ('viewer', 'select', 'view', '
        attachments blocks serial_assignment_triggers serial_uniqueness_checks system_generated_serials
    '),
    ('viewer', 'execute', 'function', '
        audit_anchor audit_statistics audit_trail block_serials check_digit check_uniqueness claims_of
        conflict_history counter_status explain_triggers find_serial format_for has_valid_check_digit health
        health_check inclusion_proof lineage parse_pattern pending_conflicts pending_migrations
        pending_placeholders placeholder_statistics preview propagation_history propagation_statistics ready
        trigger_statistics uniqueness_report uniqueness_statistics validate_pattern validate_serial
        validate_vendor_serial verify_audit verify_inclusion version
    '),
    -- What these call in turn.
    ('viewer', 'execute', 'function', '
        _lock_table_size
        _alphabet _applied_migrations _attachment_settings _audit_partitions _caller_sites
        _check_alphabet _check_archiver _check_audit_partitions _check_audit_seal_lag
        _check_audit_verification _check_cache_hit_ratio _check_characters _check_checksum_failures
        _check_connections _check_counter_days_left _check_counter_used _check_declare _check_difference
        _check_errors _check_filter _check_finish _check_id_sequences _check_idle_in_transaction
        _check_in_pattern _check_in_pattern_or_zero _check_index
        _check_index_collations
        _check_invalid_indexes _check_known
        _check_length
        _check_lock_table
        _check_longest_transaction _check_memory _check_missing_indexes _check_modulus
        _check_missing_rules
        _check_foreign_locks
        _check_foreign_rules
        _foreign_rules
        _advisory_locks
        _foreign_locks
        _lock_holders
        _suspected_locks
        _are_scopes
        _check_missing_sequences
        _check_server_version
        _supported_releases
        _version_result
        _lacks_sequence
        _sequence_of
        _check_name _check_paused _check_payload _check_pending_migrations _check_pieces _check_polynomial
        _check_prepared_transactions _check_privileges _check_replication_lag _check_replication_slot_wal
        _check_replication_slots
        _check_read_only
        _check_time_zones
        _old_time_zones
        _raise_unknown_time_zone
        _raise_unknown_site
        _raise_no_object
        _read_only_places
        _remedy_for_read_only
        _time_at
        _time_at_site
        _zones_of_sites
        _check_schema_version
        _check_sequence_behind
        _id_sequences
        _check_signs _check_slow_statements _check_start
        _check_step _check_step_table _check_sum_table _check_synchronous_commit _check_unsafe_settings
        _check_width _check_write _check_xid_age _checked _claimants _claims_on _client_sessions _cluster
        _compile_automaton _compile_check _compile_pattern _compile_sum _conflicts _constant_expression
        _context_keys _countable_space _counter_message _counter_outlook _date_errors _date_tokens
        _digits_expression _disagreements _distance _divisions _encode_expression _ends_with_check
        _errors_of_every_division _event_happened_at _failed_check _first_of _fits
        _foreign_objects _format _format_id_for _health_checks _highest_value _is_check_pair _is_frequent
        _is_right_check _issue_of_block _known_scopes _lacks_for_receipt _large_random_segments _last_value
        _listed_privileges _made_critical _meets _merkle_level_above _merkle_path _migrations _named_day
        _near_matches _nearest _nearest_token _newest_seal _nothing_wrong _oldest_writer _page_begins_at
        _period_length _place _placeholders _possible_characters _preview_query _privileges _public_objects
        _raise_absent _raise_no_block _raise_no_vendor_serial _raise_unknown _random_number _random_space
        _render _require_all_sites _require_context _require_known_part _require_known_site _require_one_of
        _require_quantity _require_short _require_text _require_trigger_type _resolve_token _row_source
        _seals _seconds_since _seen_in_part _segment_text _sequence_maximum _serial _serial_errors _setting
        _shape_error _shared_scopes _shown _single_byte _stdnum_faults _stdnum_verdicts _strange_migrations
        _tell_cut _token_expression _token_usages _tokenize _trimmed _unlisted_privileges _unmet _unprepared
        _vendor_pattern_faults _vendor_rule_errors _vendor_rule_id _vendor_serial _vendor_serials
        _waiting_events _wal_position _walk_lineage
        _column_effects
        _disabled_triggers
        _expected_objects
        _faults_of_rules
        _remedy_for_pending
        _unrecorded_tables
        _is_own_table
        _is_paused
        _migration_record
        _missing_objects
        _own_relations
        _owner_of_tables
        _statement_effects
        _statements
        _table_items
        _views
        _lag_of_standbys _lag_of_this_standby
        _standby_name
        _as_sentence
        _described_character
        _is_serial_number
        _number_fault
        _number_hint
        _raise_faulty_pattern
        _raise_no_number
        _require_time
        _require_ad_hoc_room
        _raise_too_long
        _require_short_actor
        _require_writable
        _sample
        _serial_characters
        _serial_number
        _serial_numbers
        _strange_character
        _strange_place
        _unwritable
    '),
    -- Runs the workflows, by functions or by SQL: the rules are on the tables.
    -- By whom and when is not the writer's to say, nor is an id.
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
    ('operator', 'execute', 'function', '
        _new_serial_id
        _register_received
        _active_format _actor _assign_serials _attached_queries _block _changes _columns_of
        _compile_vendor_pattern _context_columns _context_value _count_executions _described
        _end_serial _fire_each _generate_each _generate_for _hold_gapless _hold_triggers _key_of
        _known_settings _lock_pending _lock_pending_vendor_serials _lock_work_order _make
        _make_placeholders _make_receipts _needed_part _needs_reason _next_statuses _numbers_received
        _numbers_to_receive _only_part_of _period _place_of _propagate _raise_about _raise_closed
        _raise_given_twice
        _raise_finished _raise_not_received _raise_number_taken _raise_taken
        _is_claim
        _claimed_elsewhere
        _raise_unclaimed
        _require_claimed
        _raise_unchangeable_trigger _read_sequence_values _receipt_fault _received_date
        _record_conflicts _refers_back _refuse_serial _register_for
        _raise_not_registered
        _reported_part _require_assignment_type _require_batch_size _require_columns
        _require_conditions _require_different_serials _require_distinct_periods
        _require_fitting_serial _require_in_order _require_length _require_name _require_operation
        _require_possible_quantity _require_reason _require_regex _require_registrable
        _require_reportable _require_units _serial_column_code _serials_for _type_of _units_of
        _use_numbers _values_in_block
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
    ('supervisor', 'execute', 'function', '
        _assign _attachment _audit_attachment _bring_back _conflict_parties _decision _fire_attached
        _hold_format _insert_format _lock_pending_conflicts _losers
        _make_first_counters
        _require_attachable _require_keepable _require_number _require_party
        _require_settings _require_time_zone _require_type _rivals _set_enabled _trigger _yield
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
    -- The owner's alone.
    ('owner', 'none', 'table', 'site_grants pause_switch audit_events_<month>'),
    ('owner', 'none', 'sequence', '
        audit_archives_id_seq audit_events_id_seq audit_verifications_id_seq configuration_changes_id_seq
        counter_fences_id_seq counters_id_seq format_assignments_id_seq requests_id_seq
        late_assignment_placeholders_id_seq number_blocks_id_seq pauses_id_seq serial_conflicts_id_seq
        serial_formats_id_seq serial_propagations_id_seq serials_id_seq trigger_definitions_id_seq
        trigger_executions_id_seq vendor_rules_id_seq counter_<n>
    '),
    -- To use it is to be limited: grant_site() grants it.
    ('owner', 'none', 'type', 'limited_to_sites'),
    ('owner', 'none', 'function', '
        change_owner
        create_roles
        drop_archived
        record_archive
    '),
    ('owner', 'none', 'function', '
        _told_of_vendor_serial
        _wait_for_lock
        _drop_old_verifications
        _forget_old_requests
        _may_drop_verification
        _lower_parents
        _counting_keys
        _is_being_dumped
        _make_due_counters
        _objects_per_call
        _close_functions
        _may_grant
        _statements_for_roles
        _tell_two_owners
        _tell_who_may_grant
        _drop_leftovers
        _finish_migration
        _first_rows
        _make_missing
        _limit_again
        _make_missing_renderers
        _mend_schema
        _put_pause_triggers_right
        _require_records
        _require_tables
        _tables_with_rows
        _tell_made_again
        _unlimited_roles
        _ad_hoc_format _add_seal _admission_details _apply_privileges _archive_root
        _assignment_details _audit _audit_fence _audit_partition _audit_pause _audited_until
        _backdated _begin_migration _below_parent _canonical_bytes _canonical_line _change_incarnation
        _check_run _claim_request _close_incarnation _close_to_everybody _content_of
        _examined
        _integrity_parts
        _wanted_parts
        _faults_of_sites
        _find_standby
        _fence_outcome
        _fence_steps
        _fenced_value
        _named_counters
        _present_counters
        _sites_that_count
        _tablespace_of
        _tablespace_of_trail
        _take_fence_step
        _tell_unknown_time_zones
        _understand_fence
        _create_migration_record _create_renderer _create_sequence _day_named
        _detached_partition _draw_free _draw_gapless _draw_on_trust _draw_one _draw_random
        _draw_sequenced _draw_unsequenced _drop_outdated_plans _end_of_steps _event_leaf
        _events_are_here_since _expire_blocks _extend_runway
        _faults_of_attachments _faults_of_blocks _faults_of_claims _faults_of_conflicts
        _faults_of_counters _faults_of_formats _faults_of_history _faults_of_lineage
        _faults_of_numbers_in_blocks
        _faults_of_sequences
        _faults_of_references _faults_of_placeholders _faults_of_schema
        _faults_of_serials _faults_of_vendors _first_liftable _first_value _fold_executions
        _faults_of_identity
        _faults_of_numbers
        _faults_of_scopes
        _refuse_shared_numbers
        _rescoped
        _scopes_beyond
        _is_claimed_elsewhere
        _forget_plans _free_positions _generate _give_back _given_privileges _gives_ids_in_order
        _granted_sites _has_audit_partition _has_roles _hold_audit_trail _hold_sequence _in_stretch
        _incarnations _index_problems _is_continued _is_other_cluster _is_over
        _keep_plan _known_role _last_audit_id _last_sealed_id _lift_children _liftable
        _lineage_finding _lineage_problems _local_time _lock_migrations _lock_serials _look
        _look_ahead _look_for_taken _make_audit_partition _make_audit_partitions _make_counter
        _may_be_limited _merkle_root _microseconds _month_begins _name_culprits _next_run _next_value
        _not_before _number_alike _numbers_reached _oldest_transaction_at _open_incarnation
        _outdate_plans _own_audit_table _period_start _pick _plain_parts
        _plan_verification _present_counter _privilege_changes _raise_cycle _raise_exhausted
        _raise_no_format _raise_no_part _raise_no_site _raise_paused_already _raise_stranger
        _raise_unresolved _read_highest _read_serial _record_each _record_verification
        _refuse_cycle_behind _render_one _require_administrator _require_audit_partition
        _require_fence_arguments _require_fenced _require_intact_month _require_known_schema
        _require_locked_references _require_month _require_no_pause _require_owner
        _require_predictable _require_propagable _require_sane_clock _require_sight_of_all
        _require_sight_of_others _require_visible_counter _require_visible_site _resolve
        _resolve_block _retire_counters _revive_counter _round _seal_hash _seal_month _seal_months
        _serials_of_request
        _sequence
        _sealed_up_to _seals_that_are_away _search_random _sequence_value _set_counter
        _settled_id _sites_of_role _sound_archives _statuses_told
        _step_back _summarize _take_run _tell_choice _token_values _too_low _trigger_details
        _try_to_seal _unsealed_events _unusable_by_owner _vendor_rule_details _verify_anchor _verify_archives
        _verify_chain _verify_counts _verify_partitions _verify_remembered _verify_seal
        _verify_seal_count _verify_seals _verify_unsealed _window _with_triggers_off _with_used_ids
        _write_and_look _render_<n>
        _forget_leaves
        _is_archived
        _remember_leaves
        _require_archivable
        _require_owners_rights
        _owner
        _kept_since
        _require_read_committed
        _refuse_texts_of_serial
        _stretch_of
    '),
    -- Called by triggers only.
    ('owner', 'none', 'function', '
        _admit_new_serials _audit_assignments _audit_changed_assignments _audit_changed_blocks
        _audit_changed_formats _audit_changed_placeholders _audit_changed_places_and_parts
        _audit_changed_propagations _audit_changed_serials _audit_changed_settings _audit_changed_triggers
        _audit_changed_vendor_rules _audit_changed_vendor_serials _audit_new_blocks _audit_new_conflicts
        _audit_new_formats _audit_new_placeholders _audit_new_propagations _audit_new_vendor_serials
        _audit_places_and_parts _audit_resolved_conflicts _audit_settings_that_come_and_go
        _audit_site_grants _audit_triggers_that_come_and_go _audit_usages _audit_vendor_rules
        _complete_resolution _complete_serial _complete_vendor_serial _copy_status_from_vendor_serials
        _copy_status_to_vendor_serials _equip_format _examine_block _examine_format _examine_internal_serial
        _examine_new_vendor_serials _examine_setting _examine_time_zone _examine_trigger _examine_usages _examine_vendor_rule
        _finish_placeholder _mark_limited _outdate_plans_by_change _outdate_plans_by_counter
        _give_scopes
        _outdate_plans_by_part _outdate_plans_by_site _record_conflict_of_serial _refuse_audit_change
        _refuse_block_change _refuse_conflict_change _refuse_format_change _refuse_grant_change
        _refuse_identity_change _refuse_illegal_step _refuse_impossible_lineage _refuse_narrower_scopes
        _refuse_orphaned_serials _refuse_placeholder_change _refuse_propagation_change _refuse_rank_change
        _refuse_context
        _refuse_long_text
        _refuse_loss_of_verification
        _refuse_reason_change _refuse_receipt_change _refuse_removal _refuse_usage_change
        _examine_new_conflicts
        _refuse_while_paused _resolve_conflict_of_serial _stamp_vendor_step _stamp_vendor_waiver
        _update_trigger_row
        _refuse_loss_of_leaves
    '),
    -- Of machserial_plpython, where it is: a superuser's to grant (docs/plpython.md), and left as it is.
    ('superuser', 'none', 'function', '
        _examined_python_path _plain_message _plpython_version _python_paths _recent_errors _redis_health
        _stdnum_are_valid host_health recent_errors redis_health set_python_path stdnum_are_valid
        stdnum_is_valid
        _host_health
        _raise_of_python
    '),
    ('superuser', 'none', 'table', 'python_paths')
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
