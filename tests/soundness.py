"""What holds of a database whatever has happened in it, asked of the rows: no rule of machserial is trusted."""

from __future__ import annotations

import psycopg

# Each query gives a row for each fault: what it is.
FAULTS = {
    "a number twice in a scope": """
        select format('%s: %s, serials %s', scope, serial_number, array_agg(id))
        from (
            select 'ENTERPRISE' as scope, null as key, serial_number, id from machserial.serials
            where holds_claim and 'ENTERPRISE' = any(scopes)
            union all
            select 'SITE', site_id, serial_number, id from machserial.serials
            where holds_claim and 'SITE' = any(scopes)
            union all
            select 'PART_TYPE', part_type, serial_number, id from machserial.serials
            where holds_claim and 'PART_TYPE' = any(scopes)
        ) as c
        group by scope, key, serial_number having count(*) > 1""",
    "a sequence number twice in a version of a format": """
        select format('%s: %s, serials %s', f.name, s.sequence_number, array_agg(s.id))
        from machserial.serials as s inner join machserial.serial_formats as f on f.id = s.format_id
        where f.counter_per = 'FORMAT' and f.reset = 'NEVER' and s.sequence_number is not null
        group by f.id, s.sequence_number having count(*) > 1""",
    "a gap in a gapless counter": """
        with missing as materialized (
            select c.id, f.name, f.pattern, v.value
            from machserial.counters as c
            inner join machserial.serial_formats as f on f.id = c.format_id
            cross join lateral generate_series(c.first_value, c.last_value, f.sequence_increment) as v (value)
            where f.allocation = 'GAPLESS' and f.counter_per = 'FORMAT' and f.reset = 'NEVER'
            and not exists (
                select from machserial.serials as s where s.format_id = f.id and s.sequence_number = v.value
            )
            and not exists (
                select from machserial.number_blocks as b
                where b.counter_id = c.id and v.value between b.first_value and b.last_value
            )
            and not exists (
                select from machserial.audit_events as e
                where
                    e.event_type = 'COUNTER_RESET' and e.details ->> 'format' = f.name
                    and v.value < (e.details ->> 'next_value')::bigint
                    and v.value > coalesce((e.details ->> 'last_value')::bigint, c.first_value - 1)
                    or e.event_type = 'COUNTER_FENCED' and e.details ->> 'format' = f.name
                    and v.value >= (e.details ->> 'next_before')::bigint
                    and v.value < (e.details ->> 'next_after')::bigint
            )
        )
        select format('%s: %s', m.name, m.value)
        from missing as m
        -- Somebody had registered that number, and the counter stepped over it.
        cross join lateral machserial.preview(m.pattern, 1, start => m.value) as p (number)
        where not exists (select from machserial.serials as s where s.serial_number = p.number)""",
    "a number beyond its counter": """
        select format('%s: %s, the counter has given %s', f.name, s.serial_number, machserial._last_value(c.id))
        from machserial.serials as s
        inner join machserial.serial_formats as f on f.id = s.format_id
        inner join machserial.counters as c on c.format_id = f.id
        where f.counter_per = 'FORMAT' and f.reset = 'NEVER'
        and s.sequence_number > coalesce(machserial._last_value(c.id), 0)""",
    "a number of a block that was not reported": """
        select format('%s: block %s', s.serial_number, b.id)
        from machserial.number_blocks as b
        inner join machserial.counters as c on c.id = b.counter_id
        inner join machserial.serial_formats as f on f.id = c.format_id and f.counter_per = 'FORMAT'
        inner join machserial.serials as s
            on s.format_id = f.id and s.sequence_number between b.first_value and b.last_value
        where s.sequence_number <> all(b.skipped_values) and not exists (
            select from machserial.block_usages as u where u.block_id = b.id and u.serial_id = s.id
        )""",
    "accounts of a block": """
        select format('block %s: %s, %s, %s, %s of %s', block_id, used, open, returned, expired, quantity)
        from machserial.blocks where used + open + returned + expired <> quantity""",
    "blocks that overlap": """
        select format('blocks %s and %s', a.id, b.id)
        from machserial.number_blocks as a
        inner join machserial.number_blocks as b on b.counter_id = a.counter_id and b.id > a.id
        where a.first_value <= b.last_value and b.first_value <= a.last_value""",
    "a request that was carried out in part": """
        select format('request %s: %s serials', r.request_id, count(s.id))
        from machserial.requests as r
        left join machserial.serials as s on s.generation_request_id = r.id
        where r.verb = 'generate'
        group by r.id having count(s.id) <> (r.arguments ->> 'quantity')::integer""",
    "a child without its parent": """
        select 'serial ' || s.id from machserial.serials as s
        where not exists (
            select from machserial.parts as p where p.id = s.part_id and p.part_type = s.part_type
        ) or not exists (select from machserial.sites as p where p.id = s.site_id)
        or s.format_id is not null and not exists (
            select from machserial.serial_formats as f where f.id = s.format_id
        )
        union all
        select 'placeholder ' || s.id from machserial.late_assignment_placeholders as s
        where not exists (select from machserial.parts as p where p.id = s.part_id)
        or not exists (select from machserial.sites as p where p.id = s.site_id)
        union all
        select 'conflict ' || s.id from machserial.serial_conflicts as s
        where not exists (select from machserial.parts as p where p.id = s.part_id)
        union all
        select 'vendor serial ' || s.id from machserial.vendor_serials as s
        where not exists (select from machserial.serials as p where p.id = s.id and p.source = 'VENDOR')
        union all
        select 'block ' || s.id from machserial.number_blocks as s
        where not exists (select from machserial.sites as p where p.id = s.site_id)
        or s.part_id is not null and not exists (select from machserial.parts as p where p.id = s.part_id)
        union all
        select 'assignment ' || s.id from machserial.format_assignments as s
        where s.part_id is not null and not exists (select from machserial.parts as p where p.id = s.part_id)
        union all
        select 'trigger ' || s.id from machserial.trigger_definitions as s
        where not exists (select from machserial.parts as p where p.id = s.part_id)
        union all
        select 'execution ' || s.id from machserial.trigger_executions as s
        where not exists (select from machserial.trigger_definitions as p where p.id = s.trigger_id)""",
    "a life that the trail does not tell": """
        with steps as (
            select
                e.id, e.serial_id, e.details -> 'status' ->> 'old' as was, e.details -> 'status' ->> 'new' as becomes
            from machserial.audit_events as e
            where
                e.event_type ~ '^(SERIAL_(UPDATED|RETIRED|INVALIDATED)|VENDOR_(ACCEPTED|REJECTED|UPDATED))$'
                and e.details ? 'status'
            union all
            select e.id, e.serial_id, null, coalesce(
                e.details ->> 'status',
                (select case s.source when 'VENDOR' then 'PENDING' else 'ACTIVE' end
                from machserial.serials as s where s.id = e.serial_id)
            )
            from machserial.audit_events as e
            where e.event_type in ('SERIAL_REGISTERED', 'SERIAL_GENERATED', 'VENDOR_RECEIVED')
        ),
        told as (
            select
                t.*, lag(t.becomes) over lives as before,
                row_number() over (partition by t.serial_id order by t.id desc) as age
            from steps as t window lives as (partition by t.serial_id order by t.id)
        )
        select format('serial %s: event %s says %s -> %s after %s', serial_id, id, was, becomes, before)
        from told
        where was is distinct from before or was is not null and becomes <> all(machserial._next_statuses(was))
        union all
        select format('serial %s is %s, its last event says %s', s.id, s.status, t.becomes)
        from machserial.serials as s left join told as t on t.serial_id = s.id and t.age = 1
        where s.status is distinct from t.becomes""",
    "not one event for a serial's beginning": """
        select format('serial %s: %s events', coalesce(s.id, e.serial_id), e.events)
        from machserial.serials as s
        full join (
            select serial_id, count(*) as events from machserial.audit_events
            where event_type in ('SERIAL_REGISTERED', 'SERIAL_GENERATED', 'VENDOR_RECEIVED') group by serial_id
        ) as e on e.serial_id = s.id
        where s.id is null or e.events is distinct from 1""",
    "not one event for a step of something else": """
        with steps (kind, id, event_type, happened) as (
            select 'placeholder_id', id, 'PLACEHOLDER_CREATED', true from machserial.late_assignment_placeholders
            union all
            select 'placeholder_id', id, 'PLACEHOLDER_SERIALIZED', status = 'SERIALIZED'
            from machserial.late_assignment_placeholders
            union all
            select 'placeholder_id', id, 'PLACEHOLDER_FAILED', status = 'FAILED'
            from machserial.late_assignment_placeholders
            union all
            select 'block_id', id, 'BLOCK_ALLOCATED', true from machserial.number_blocks
            union all
            select 'block_id', b.id, 'BLOCK_' || s.status, b.status = s.status
            from machserial.number_blocks as b
            cross join (values ('USED'), ('RETURNED'), ('EXPIRED')) as s (status)
            union all
            select 'conflict_id', id, 'CONFLICT_DETECTED', true from machserial.serial_conflicts
            union all
            select 'conflict_id', id, 'CONFLICT_RESOLVED', status = 'RESOLVED' from machserial.serial_conflicts
            union all
            select 'pause_id', id, 'PAUSED', true from machserial.pauses
            union all
            -- A pause until counters are fenced takes the place of an earlier one without a word about that.
            select 'pause_id', p.id, 'RESUMED', p.resumed_at is not null and not exists (
                select from machserial.pauses as n where n.paused_at = p.resumed_at and n.until_fenced
            )
            from machserial.pauses as p
            union all
            select 'serial_id', id, 'VENDOR_RECEIVED', true from machserial.vendor_serials
            union all
            select 'serial_id', id, 'VENDOR_ACCEPTED', accepted_at is not null from machserial.vendor_serials
            union all
            select 'serial_id', id, 'VENDOR_REJECTED', rejected_at is not null from machserial.vendor_serials
            union all
            select 'serial_id', id, 'VENDOR_WAIVED', waived_at is not null from machserial.vendor_serials
        )
        select format('%s %s: %s %s times', s.kind, s.id, s.event_type, e.events)
        from steps as s
        cross join lateral (
            select count(*) as events from machserial.audit_events as e
            where
                e.event_type = s.event_type
                and coalesce(e.details ->> s.kind, case s.kind when 'serial_id' then e.serial_id::text end) = s.id::text
        ) as e
        where e.events <> s.happened::integer""",
    "a propagation without its events": """
        select format('propagation %s', p.id)
        from machserial.serial_propagations as p
        where not exists (
            select from machserial.audit_events as e
            where
                e.serial_id = p.parent_serial_id
                and e.event_type in ('PROPAGATED', 'SPLIT', 'MERGED', 'TRANSFORMED')
                and e.details ->> 'operation_code' = p.operation_code
        )""",
    "a serial that is part of itself": """
        with recursive comes_of (child, ancestor) as (
            select child_serial_id, parent_serial_id from machserial.serial_propagations
            where child_serial_id is not null
            union
            select c.child, p.parent_serial_id
            from comes_of as c inner join machserial.serial_propagations as p on p.child_serial_id = c.ancestor
        )
        select 'serial ' || child from comes_of where child = ancestor""",
    "a rank": "select format('serial %s: %s', serial_id, problem) from machserial._lineage_problems()",
    "a vendor serial that says something else than its serial": """
        select format('%s: %s, %s', v.id, v.status, s.status)
        from machserial.vendor_serials as v inner join machserial.serials as s on s.id = v.id
        where (v.status, v.serial_number, v.part_id, v.site_id) <> (s.status, s.serial_number, s.part_id, s.site_id)""",
    "a serial of two placeholders, or of another part": """
        select format('placeholder %s', p.id)
        from machserial.late_assignment_placeholders as p
        inner join machserial.serials as s on s.id = p.serial_id
        where s.part_id <> p.part_id or exists (
            select from machserial.late_assignment_placeholders as o where o.serial_id = p.serial_id and o.id <> p.id
        )""",
    "a conflict that is over and pending, or the reverse": """
        select format('serial %s: %s', s.id, s.status)
        from machserial.serials as s
        where (s.status = 'CONFLICT') <> exists (
            select from machserial.serial_conflicts as c where c.serial_id = s.id and c.status = 'PENDING'
        )""",
    "assignments to a version that another has replaced": """
        select format('assignment %s', a.id)
        from machserial.format_assignments as a
        inner join machserial.serial_formats as f on f.id = a.format_id
        where exists (select from machserial.serial_formats as n where n.revises = f.id)""",
    "versions of a format": """
        select format('%s: versions %s', name, array_agg(version order by version))
        from machserial.serial_formats group by name
        having count(*) <> max(version) or count(*) filter (where is_active) > 1""",
    "seals that are not one chain": """
        select format('seal %s', s.id) from machserial.audit_seals as s
        where s.id > 1 and not exists (
            select from machserial.audit_seals as p where p.id = s.id - 1 and p.seal_hash = s.previous_hash
        )""",
}

# What health means and soundness does not: the owner has taken a format out of use that is assigned.
ALLOWED = ("inactive_format",)


def faults(connection: psycopg.Connection) -> list[str]:
    """What is wrong with the rows; cheap where there are few."""
    query = " union all ".join(
        f"select {connection.execute('select quote_literal(%s)', (name,)).fetchone()[0]}, * from ({source}) as faults"
        for name, source in FAULTS.items()
    )
    return [f"{name}: {fault}" for name, fault in connection.execute(query).fetchall()]


def findings(connection: psycopg.Connection) -> list[str]:
    """What integrity() and verify_audit() find, once everything has been sealed."""
    connection.execute("select machserial.seal_audit()")
    found = connection.execute(
        "select concat(name, ': ', object, ': ', message) from machserial.integrity() where name <> all(%s)",
        (list(ALLOWED),),
    ).fetchall()
    verified = connection.execute(
        "select concat('verify_audit: ', problem, ' ', event_id, ' ', detail)"
        " from machserial.verify_audit(full => true)"
    ).fetchall()
    return [row[0] for row in (*found, *verified)]
