-- Which format numbers a part.

-- The format as functions return it, null for null.
create function machserial._format(id bigint) returns machserial.serial_format
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    format machserial.serial_format;
begin
    select
        f.id, f.name, f.version, f.pattern, f.description, f.sequence_start, f.sequence_increment, f.reset,
        f.counter_per, f.allocation, f.letter_case, f.is_active, f.created_at, f.created_by
    into format
    from machserial.serial_formats as f
    where f.id = _format.id;
    return format;
end
$$;

-- A part's own format before its type's, higher priority first; null if there is none.
create function machserial._format_id_for(part_id text, part_type text, at timestamptz) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    format_id bigint;
begin
    select f.id into format_id
    from machserial.format_assignments as a
    inner join machserial.serial_formats as f on f.id = a.format_id and f.is_active
    where
        a.part_id = _format_id_for.part_id and a.effective_from <= _format_id_for.at
        and (a.effective_until is null or a.effective_until > _format_id_for.at)
    order by a.priority desc, a.effective_from desc, a.id desc
    limit 1;
    if format_id is null then
        select f.id into format_id
        from machserial.format_assignments as a
        inner join machserial.serial_formats as f on f.id = a.format_id and f.is_active
        where
            a.part_type = _format_id_for.part_type and a.effective_from <= _format_id_for.at
            and (a.effective_until is null or a.effective_until > _format_id_for.at)
        order by a.priority desc, a.effective_from desc, a.id desc
        limit 1;
    end if;
    return format_id;
end
$$;

create function machserial.format_for(
    part_id text, at timestamptz default now()
)
returns machserial.serial_format
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    type_of_part constant text := (
        select p.part_type from machserial.parts as p where p.id = format_for.part_id
    );
begin
    if type_of_part is null then
        perform machserial._raise_unknown('part', part_id, 'machserial.register_part');
    end if;
    return machserial._format(machserial._format_id_for(part_id, type_of_part, at));
end
$$;

comment on function machserial.format_for(text, timestamptz) is
'The format that a part uses at that moment: its own before its type''s, higher priority first; null if there
is none.
Errors: 23503 unknown part.';
