-- Whether a vendor's number follows the rules for it.

-- Whether check characters are right for the text before them, in which separators and the like are skipped.
create function machserial._is_right_check(algorithm text, left_text text, check_text text) returns boolean
language sql immutable parallel safe
return machserial.has_valid_check_digit(
    algorithm, machserial._check_filter(algorithm, left_text) || check_text
);

create function machserial._ends_with_check(algorithm text, serial_number text) returns boolean
language plpgsql immutable strict
set search_path = pg_catalog, pg_temp
as $$
declare
    size constant integer := machserial._check_length(algorithm);
begin
    return machserial._is_right_check(algorithm, left(serial_number, -size), right(serial_number, size));
end
$$;

-- Null if a division gives an algorithm more than it can protect: a receipt is not lost for that.
create function machserial._errors_of_every_division(serial_number text, pattern text) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select v.errors from machserial.validate_serial(serial_number, pattern) as v);
exception when invalid_parameter_value then
    return null;
end
$$;

-- What is wrong with numbers by their most obvious division among the tokens of a pattern.
create function machserial._vendor_pattern_faults(serial_numbers text[], pattern text, compiled jsonb)
returns table (serial_number text, fault text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with divided as materialized (
        select n.number, regexp_match(n.number, compiled ->> 'expression') as pieces
        from unnest(serial_numbers) as n (number)
    ),
    examined as materialized (
        select
            d.number, t.token, t.argument, d.pieces[t.ordinal] as piece,
            array_to_string(d.pieces[:t.ordinal - 1], '') as left_text
        from divided as d
        cross join jsonb_to_recordset(nullif(compiled -> 'examined', 'null')) as t (
            ordinal integer, token text, argument text
        )
        where d.pieces is not null
    ),
    dated as materialized (
        select e.number, jsonb_object_agg(e.token, e.piece) as dates
        from examined as e where e.token <> 'CHECK'
        group by e.number
    ),
    -- A lot has few dates.
    impossible as materialized (
        select d.dates, machserial._date_errors(d.dates) as errors
        from (select distinct dates from dated) as d
    )
    select d.number, format('%L does not have the shape of %s', d.number, pattern)
    from divided as d where d.pieces is null
    union all
    select e.number, format('%L has %s where its %s check stands', e.number, e.piece, e.argument)
    from examined as e
    where e.token = 'CHECK' and not machserial._is_right_check(e.argument, e.left_text, e.piece)
    union all
    select d.number, format('%L: %s', d.number, f.error)
    from impossible as i
    inner join dated as d on d.dates = i.dates
    cross join unnest(i.errors) as f (error)
    where i.errors <> '{}';
end
$$;

-- Of different numbers, those that break a rule, and how.
create function machserial._vendor_rule_errors(serial_numbers text[], rule_id bigint)
returns table (serial_number text, errors text[])
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    rule record;
begin
    select r.* into rule from machserial.vendor_rules as r where r.id = rule_id;
    if rule.id is null then
        return;
    end if;
    return query
    with numbers as materialized (
        select n.number, length(n.number) as length from unnest(serial_numbers) as n (number)
    ),
    faults (criterion, number, fault) as (
        select
            1, n.number,
            format('%L has %s characters, agreed are at least %s', n.number, n.length, rule.min_length)
        from numbers as n where n.length < rule.min_length
        union all
        select
            2, n.number,
            format('%L has %s characters, agreed are at most %s', n.number, n.length, rule.max_length)
        from numbers as n where n.length > rule.max_length
        union all
        select 3, n.number, format('%L does not match the regular expression %s', n.number, rule.regex)
        from numbers as n where n.number !~ rule.regex collate "C"
        union all
        select 4, n.number, format('%L does not end with its %s check', n.number, rule.check_algorithm)
        from numbers as n where not machserial._ends_with_check(rule.check_algorithm, n.number)
        union all
        select 5, s.serial_number, s.fault
        from machserial._stdnum_faults(serial_numbers, rule.stdnum_kind) as s
        union all
        -- Where a number can be divided in several ways, the obvious one may only clear it.
        select 6, p.number, unnest(
            case when (rule.compiled_pattern ->> 'is_open')::boolean
                then coalesce(machserial._errors_of_every_division(p.number, rule.pattern), p.faults)
                else p.faults
            end
        )
        from (
            select f.serial_number as number, array_agg(f.fault) as faults
            from machserial._vendor_pattern_faults(
                case when rule.pattern is not null then serial_numbers end,
                rule.pattern, rule.compiled_pattern
            ) as f
            group by f.serial_number
        ) as p
    )
    select f.number, array_agg(f.fault order by f.criterion, f.fault) from faults as f group by f.number;
end
$$;

-- Receipt

-- The vendor serial as functions return it; P0002 if there is none.
create function machserial._vendor_serial(vendor_serial_id bigint) returns machserial.vendor_serial
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    known machserial.vendor_serial;
begin
    select v.* into known
    from machserial._vendor_serials(array[vendor_serial_id]) as v;
    if known.id is null then
        perform machserial._raise_no_vendor_serial(vendor_serial_id);
    end if;
    return known;
end
$$;

create function machserial._vendor_serials(vendor_serial_ids bigint[]) returns setof machserial.vendor_serial
language plpgsql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    return query
    select
        v.id, v.serial_number, v.part_id, v.site_id, v.vendor_name, v.received_date, v.received_by, v.status,
        v.internal_serial_id, v.validation_errors, v.validated_at, v.waived_at, v.waived_by, v.waived_reason,
        v.accepted_at, v.accepted_by, v.rejected_at, v.rejected_by, v.rejection_reason, v.created_at,
        v.created_by
    from machserial.vendor_serials as v
    where v.id = any(vendor_serial_ids)
    order by v.id;
end
$$;

create function machserial._raise_no_vendor_serial(vendor_serial_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._raise_absent(
        'vendor serial', vendor_serial_id, 'vendor_serials',
        'Look the number up: select * from machserial.vendor_serials where serial_number = ''...''.'
    );
end
$$;

create function machserial.validate_vendor_serial(
    vendor_serial_id bigint, out is_valid boolean, out format_valid boolean, out is_unique boolean,
    out errors text[], out warnings text[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    known constant machserial.vendor_serial := machserial._vendor_serial(vendor_serial_id);
    serial constant machserial.serial := machserial._serial(vendor_serial_id);
    rule_id constant bigint := machserial._vendor_rule_id(known.vendor_name, known.part_id);
    rule_errors constant text[] := coalesce((
        select e.errors from machserial._vendor_rule_errors(array[known.serial_number], rule_id) as e
    ), '{}');
    claim record;
begin
    select c.serial_ids, c.description into claim
    from machserial._claims_for_number(serial.serial_number, serial.scopes, serial.site_id, serial.part_type) as c;
    is_unique := array_remove(coalesce(claim.serial_ids, '{}'), vendor_serial_id) = '{}';
    format_valid := rule_errors = '{}';
    errors := array_remove(array[
        case when not is_unique then format('the number is claimed in %s', claim.description) end
    ], null) || case when known.waived_at is null then rule_errors end;
    warnings := array_remove(array[
        case when rule_id is null
            then format('there is no rule for vendor %s and part %s', known.vendor_name, known.part_id) end,
        case when known.waived_at is not null
            then format('%s has waived the rule: %s', known.waived_by, known.waived_reason) end,
        case when known.waived_at is null and known.validation_errors <> '{}' and format_valid
            then 'on receipt it broke the rule of that time, which nobody has waived' end
    ], null) || case when known.waived_at is not null then rule_errors end;
    is_valid := errors = '{}';
end
$$;

comment on function machserial.validate_vendor_serial(bigint) is
'Looks at a vendor serial again. format_valid: whether it keeps the present rule of its vendor, which may be
another than on receipt. is_unique: whether nobody else holds its number. errors: what stands against it; none
means is_valid. warnings: what was waived, and that there is no rule. Changes nothing.
Errors: P0002 no such vendor serial.';
