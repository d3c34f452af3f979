-- Findings of integrity(): numbers, their claims, and what refers to them.

-- Claims, recomputed from the rows alone: what an index or a generated column says is what is in doubt.
create function machserial._faults_of_claims() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_indexscan = off
set enable_indexonlyscan = off
set enable_bitmapscan = off
set enable_nestloop = off
set jit = off
as $$
begin
    return query
    select
        'generated_column', 'CRITICAL', format('serial %s', s.id),
        format(
            'holds_claim of serial %s is %s, which does not follow from its status %s', s.serial_number,
            s.holds_claim, s.status
        ),
        format('update machserial.serials set status = status where id = %s;', s.id)
    from machserial.serials as s
    where s.holds_claim <> (s.status not in ('REJECTED', 'CONFLICT') and not s.claim_released);

    return query
    with claims as (
        select
            s.id, s.serial_number, u.scope,
            case u.scope when 'SITE' then s.site_id when 'PART_TYPE' then s.part_type else '' end as reach
        from machserial.serials as s
        cross join lateral unnest(s.scopes) as u (scope)
        where s.status not in ('REJECTED', 'CONFLICT') and not s.claim_released
    ),

    -- A serial may name a scope twice.
    claimed_twice as (
        select c.serial_number, c.scope, c.reach
        from claims as c
        group by c.serial_number, c.scope, c.reach
        having min(c.id) < max(c.id)
    ),

    duplicates as (
        select d.serial_number, d.scope, d.reach, array_agg(distinct c.id order by c.id) as ids
        from claimed_twice as d
        inner join claims as c
            on c.serial_number = d.serial_number and c.scope = d.scope and c.reach = d.reach
        group by d.serial_number, d.scope, d.reach
    )

    select
        'duplicate_claim', 'CRITICAL', format('serial number %s', d.serial_number),
        format(
            'serials %s all claim the number %s in scope %s%s', array_to_string(d.ids, ', '), d.serial_number,
            d.scope, ' of ' || nullif(d.reach, '')
        ),
        format(
            'update machserial.serials set status = ''CONFLICT'', status_reason = ''found by integrity()'' '
            'where id in (%s); then for each of them: select machserial.resolve_conflict('
            'serial_number => %L, part_id => ..., resolution => ''KEEP'', keep_serial_id => %s, reason => ...); '
            'then: reindex index concurrently machserial.serials_%s_key;',
            array_to_string(d.ids[2:], ', '), d.serial_number, d.ids[1], lower(d.scope collate "C")
        )
    from duplicates as d
    order by d.serial_number, d.scope;

    -- No index compares ENTERPRISE with the other scopes.
    return query
    select
        'claim_across_scopes', 'CRITICAL', format('serial number %s', s.serial_number),
        format(
            'serials %s claim the number %s, %s of them in the whole enterprise',
            array_to_string(array_agg(s.id order by s.id), ', '), s.serial_number,
            array_to_string(array_agg(s.id order by s.id) filter (where 'ENTERPRISE' = any(s.scopes)), ', ')
        ),
        format(
            'update machserial.serials set status = ''CONFLICT'', status_reason = ''found by integrity()'' '
            'where id in (%s); then for each of them: select machserial.resolve_conflict('
            'serial_number => %L, part_id => ..., resolution => ''KEEP'', keep_serial_id => %s, reason => ...);',
            array_to_string((array_agg(s.id order by s.id))[2:], ', '), s.serial_number, min(s.id)
        )
    from machserial.serials as s
    where s.status not in ('REJECTED', 'CONFLICT') and not s.claim_released
    group by s.serial_number
    having count(*) > 1 and bool_or('ENTERPRISE' = any(s.scopes)) and not bool_and('ENTERPRISE' = any(s.scopes))
    order by s.serial_number;
end
$$;

-- Serials that claim their number in fewer scopes than their part says: registered so, or behind the back of
-- the trigger of parts. Others may get the number where the part's must not repeat. ENTERPRISE is everywhere.
create function machserial._faults_of_scopes() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
begin
    return query
    select
        'scopes_not_covered', 'WARNING', format('serial %s', s.id),
        format(
            'serial %s claims its number in %s, its part %s says %s', s.serial_number,
            array_to_string(s.scopes, ', '), s.part_id, array_to_string(p.default_scopes, ', ')
        ),
        format(
            'update machserial.serials set scopes = %L where id = %s;',
            machserial._known_scopes(p.default_scopes || array(select unnest(s.scopes))), s.id
        )
    from machserial.serials as s
    inner join machserial.parts as p on p.id = s.part_id
    where
        not s.scopes @> p.default_scopes and not 'ENTERPRISE' = any(s.scopes)
        and s.status <> 'REJECTED' and not s.claim_released
    order by s.id;
end
$$;

create function machserial._faults_of_vendors() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'vendor_serial', 'CRITICAL', format('vendor serial %s', v.id),
        format(
            'vendor serial %s is number %s of part %s at site %s and %s; the serial says number %s of part '
            '%s at site %s and %s', v.id, v.serial_number, v.part_id, v.site_id, v.status, s.serial_number,
            s.part_id, s.site_id, s.status
        ),
        machserial._with_triggers_off('vendor_serials', format(
            'update machserial.vendor_serials as v set serial_number = s.serial_number, part_id = s.part_id, '
            'site_id = s.site_id, status = s.status from machserial.serials as s '
            'where s.id = v.id and v.id = %s', v.id
        ))
    from machserial.vendor_serials as v
    inner join machserial.serials as s on s.id = v.id
    where
        (v.serial_number, v.part_id, v.site_id, v.status)
        <> (s.serial_number, s.part_id, s.site_id, s.status)
    order by v.id;
end
$$;

create function machserial._faults_of_conflicts() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'conflict', 'CRITICAL', format('serial %s', s.id),
        format('serial %s is in CONFLICT, and no conflict of it is pending', s.serial_number),
        format(
            'insert into machserial.serial_conflicts (serial_number, part_id, site_id, scopes, source, '
            'serial_id, conflicting_serial_ids, conflicting_scopes) select s.serial_number, s.part_id, '
            's.site_id, s.scopes, s.source, s.id, %L, %L from machserial.serials as s where s.id = %s;',
            '{}', '{}', s.id
        )
    from machserial.serials as s
    where
        s.status = 'CONFLICT' and not exists (
            select from machserial.serial_conflicts as c where c.serial_id = s.id and c.status = 'PENDING'
        )
    order by s.id;

    return query
    select
        'conflict', 'CRITICAL', format('conflict %s', c.id),
        format('conflict %s is pending, and its serial %s is %s', c.id, s.serial_number, s.status),
        format(
            'update machserial.serial_conflicts set status = ''RESOLVED'', resolution = ''KEEP'', '
            'kept_serial_id = %s, retired_serial_ids = ''{}'', reason = ''found by integrity()'' '
            'where id = %s;', s.id, c.id
        )
    from machserial.serial_conflicts as c
    inner join machserial.serials as s on s.id = c.serial_id
    where c.status = 'PENDING' and s.status <> 'CONFLICT'
    order by c.id;
end
$$;

-- Rows whose foreign key leads nowhere: checked by the data, as whoever switches triggers off leaves no trace
-- in the catalog.
create function machserial._faults_of_references() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_nestloop = off
set jit = off
as $$
declare
    reference record;
    orphans bigint;
    example text;
begin
    for reference in
        select
            k.conname, r.relation, k.conrelid::regclass as child, k.confrelid::regclass as parent,
            string_agg(format('p.%I = c.%I', pa.attname, ca.attname), ' and ' order by n.position) as same,
            string_agg(format('c.%I is not null', ca.attname), ' and ' order by n.position) as is_set,
            (array_agg(format('p.%I', pa.attname) order by n.position))[1] as parent_column
        from machserial._own_relations() as r
        inner join pg_constraint as k on k.conrelid = r.oid and k.contype = 'f'
        -- A standby has no rows of an unlogged table, and cannot read it.
        inner join pg_class as t on t.oid = r.oid and (t.relpersistence = 'p' or not pg_is_in_recovery())
        cross join lateral unnest(k.conkey, k.confkey)
            with ordinality as n (child_number, parent_number, position)
        inner join pg_attribute as ca on ca.attrelid = k.conrelid and ca.attnum = n.child_number
        inner join pg_attribute as pa on pa.attrelid = k.confrelid and pa.attnum = n.parent_number
        group by k.oid, k.conname, r.relation, k.conrelid, k.confrelid
        order by r.relation, k.conname
    loop
        execute format(
            'select count(*), min(left(c::text, 200)) from %s as c left join %s as p on %s '
            'where %s is null and %s',
            reference.child, reference.parent, reference.same, reference.parent_column, reference.is_set
        )
        into orphans, example;
        if orphans > 0 then
            return query
            select
                'orphan', 'CRITICAL', format('table %s', reference.relation),
                format(
                    '%s rows of %s refer to rows of %s that are not there (%s), such as %s', orphans,
                    reference.child, reference.parent, reference.conname, example
                ),
                format('Bring the rows of %s back from a backup, or correct those that refer to them.',
                    reference.parent);
        end if;
    end loop;

    return query
    select
        'orphan', 'CRITICAL', 'table serials',
        format(
            '%s serials refer to generation requests that are not there, such as serial %s', count(*),
            min(s.id)
        ),
        'Bring the rows of machserial.requests back from a backup; without them a repeated '
        'request issues new numbers.'
    from machserial.serials as s
    left join machserial.requests as r on r.id = s.generation_request_id
    where
        s.generation_request_id is not null and r.id is null
        -- What is older is forgotten.
        and s.created_at > (select machserial._kept_since('request_retention_days'))
    having count(*) > 0
    union all
    select
        'orphan', 'CRITICAL', 'table vendor_serials',
        format(
            '%s vendor serials have no serial, such as vendor serial %s', count(*), min(v.id)
        ),
        'Bring the rows of machserial.serials back from a backup.'
    from machserial.vendor_serials as v
    left join machserial.serials as s on s.id = v.id
    where s.id is null
    having count(*) > 0;
end
$$;

-- Serials that the trigger serials_are_admitted would have refused: put in while it was off.
create function machserial._faults_of_serials() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
-- Planned once a session, perhaps while there was nothing.
set enable_nestloop = off
set jit = off
as $$
begin
    return query
    select
        f.name, 'CRITICAL', format('serial %s', f.id), f.message,
        case f.name
            when 'orphan' then 'Bring the part, site or format back from a backup.'
            else 'Correct the row, as the owner and with the triggers of machserial.serials off.'
        end
    from (
        select
            s.id,
            case when p.id is null or t.id is null or f.id is null and s.format_id is not null
                then 'orphan' else 'serial' end as name,
            case
                when p.id is null then format('serial %s is of part %s of type %s, and there is no such part',
                    s.serial_number, s.part_id, s.part_type)
                when t.id is null
                    then format('serial %s is of site %s, and there is no such site', s.serial_number, s.site_id)
                when f.id is null and s.format_id is not null then format(
                    'serial %s is of format %s, and there is no such format', s.serial_number, s.format_id)
                else format('serial %L has source %s, status %s, claim_released %s and scopes %s',
                    left(s.serial_number, 255), s.source, s.status, s.claim_released, s.scopes)
            end as message
        from machserial.serials as s
        left join machserial.parts as p on p.id = s.part_id and p.part_type = s.part_type
        left join machserial.sites as t on t.id = s.site_id
        left join machserial.serial_formats as f on f.id = s.format_id
        where
            p.id is null or t.id is null or f.id is null and s.format_id is not null
            or s.source <> all('{SYSTEM_GENERATED,MANUAL,VENDOR,LATE_ASSIGNMENT,IMPORT}'::text[])
            or s.status <> all('{ACTIVE,PENDING,CONFLICT,REJECTED,RETIRED,INVALID}'::text[])
            or s.claim_released and s.status not in ('RETIRED', 'INVALID')
            or not machserial._are_scopes(s.scopes)
    ) as f
    order by f.id;
end
$$;

-- Numbers that no serial could have today: they came in while the trigger was off, or the setting another.
create function machserial._faults_of_numbers() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    characters constant text := machserial._serial_characters();
begin
    return query
    select
        'serial_number', 'WARNING', n.object,
        format('%s has the number %L: %s', n.object, machserial._shown(n.serial_number),
            machserial._number_fault(n.serial_number, characters)),
        case
            when getdatabaseencoding() = 'UTF8' and machserial._is_serial_number(n.serial_number, 'UNICODE')
                then 'If such numbers are on your parts: '
                    'update machserial.settings set value = ''UNICODE'' where name = ''serial_characters'';'
            else 'Register what stands on the part, and take this out of use with '
                'machserial.invalidate_serial(serial_id, reason).'
        end
    from (
        select s.serial_number, format('serial %s', s.id) as object
        from machserial.serials as s
        where machserial._is_serial_number(s.serial_number, characters) is not true
        union all
        select c.serial_number, format('conflict %s', c.id)
        from machserial.serial_conflicts as c
        where machserial._is_serial_number(c.serial_number, characters) is not true
    ) as n
    order by n.object;
end
$$;

create function machserial._faults_of_placeholders() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'placeholder', 'CRITICAL', format('placeholder %s', p.id),
        format(
            'placeholder %s is of part %s, and its serial %s of part %s', p.id, p.part_id, s.serial_number,
            s.part_id
        ),
        machserial._with_triggers_off('late_assignment_placeholders', format(
            'update machserial.late_assignment_placeholders set status = ''PENDING'', serial_id = null, '
            'assigned_at = null, assigned_by = null, assigned_operation_code = null where id = %s', p.id
        ))
    from machserial.late_assignment_placeholders as p
    inner join machserial.serials as s on s.id = p.serial_id
    where p.part_id <> s.part_id
    order by p.id;
end
$$;
