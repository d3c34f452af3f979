-- Rules for the numbers of vendors, and the rows that the functions of vendors return.

create type machserial.vendor_serial as (
    id bigint,
    serial_number text,
    part_id text,
    site_id text,
    vendor_name text,
    received_date timestamptz,
    received_by text,
    status text,
    internal_serial_id bigint,
    validation_errors text[],
    validated_at timestamptz,
    waived_at timestamptz,
    waived_by text,
    waived_reason text,
    accepted_at timestamptz,
    accepted_by text,
    rejected_at timestamptz,
    rejected_by text,
    rejection_reason text,
    created_at timestamptz,
    created_by text
);

create type machserial.vendor_rule as (
    id bigint,
    vendor_name text,
    part_id text,
    pattern text,
    regex text,
    min_length integer,
    max_length integer,
    check_algorithm text,
    stdnum_kind text,
    created_at timestamptz,
    created_by text
);

comment on type machserial.vendor_serial is 'A row of machserial.vendor_serials.';

comment on type machserial.vendor_rule is 'A row of machserial.vendor_rules.';

create function machserial._require_length(argument text, length integer) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if length not between 1 and 255 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s cannot be %s', argument, length),
            detail = 'A serial number has 1 to 255 characters.',
            hint = format('Give %s within them, or leave it out.', argument);
    end if;
end
$$;

-- A receipt must not wait for a rule. Only a back reference makes PostgreSQL try one way after another;
-- everything else in a regular expression costs one step per character.
create function machserial._refers_back(regex text) returns boolean
language sql immutable parallel safe
return replace(regex, repeat(chr(92), 2), '') ~ concat('[', repeat(chr(92), 2), '][1-9]');

create function machserial._require_regex(regex text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if length(regex) > 1000 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'the regular expression is too long',
            detail = format('It has %s characters: %L.', length(regex), machserial._shown(regex)),
            hint = 'Give one of at most 1000 characters.';
    elsif machserial._refers_back(regex) then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%L refers back', machserial._shown(regex)),
            detail = 'To match a back reference may take for ever.',
            hint = 'Write what is to be there again, or check it where the numbers are made.';
    end if;
    perform '' ~ regex collate "C";
exception when invalid_regular_expression then
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format('%L is not a regular expression', machserial._shown(regex)),
        detail = format('PostgreSQL says: %s.', sqlerrm),
        hint = 'Write it as for the operator ~, for instance ^AC-[0-9]{6}$.';
end
$$;

-- Numbering schemes are known to machserial_plpython, which may not be there: it is called by its name alone.
-- As the owner of machserial, who is the one that may call it; the caller learns what the numbers are worth,
-- no more.
create function machserial._stdnum_verdicts(kind text, numbers text[]) returns boolean[]
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    verdicts boolean[];
begin
    -- A superuser's, as all of machserial_plpython is: what somebody else has put there would run as the owner.
    if not exists (
        select from pg_proc as p
        inner join pg_roles as r on r.oid = p.proowner and r.rolsuper
        where p.oid = to_regprocedure('machserial.stdnum_are_valid(text, text[])')
    ) then
        raise exception using
            errcode = 'feature_not_supported',
            message = 'stdnum_kind needs machserial_plpython',
            detail = 'This database has no machserial.stdnum_are_valid().',
            hint = 'Have a superuser run: create extension machserial_plpython cascade;';
    end if;
    execute 'select machserial.stdnum_are_valid($1, $2)' into verdicts using kind, numbers;
    return verdicts;
end
$$;

-- What is wrong with numbers by their numbering scheme. A receipt is not lost because nobody can say: then
-- that is what is wrong with each.
create function machserial._stdnum_faults(serial_numbers text[], kind text)
returns table (serial_number text, fault text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    verdicts boolean[];
    obstacle text;
begin
    if kind is null or serial_numbers is null then
        return;
    end if;
    begin
        verdicts := machserial._stdnum_verdicts(kind, serial_numbers);
    exception
        -- The second extension, plpython3u, Python or the library is gone or broken, or of another version.
        when others then
            obstacle := sqlerrm;
    end;
    return query
    select
        n.number, case
            when obstacle is null then format('%L is no valid %s', n.number, kind)
            else format('%L cannot be examined as %s: %s', n.number, kind, obstacle)
        end
    from unnest(serial_numbers, verdicts) as n (number, is_valid)
    where n.is_valid is not true;
end
$$;

-- A pattern made ready for a hundred thousand numbers:
--   expression  a regular expression with one group a token; a date token that comes again must read the same
--   examined    the tokens that are more than shape: dates and check digits
--   is_open     whether a number can be divided among the tokens in several ways
create function machserial._compile_vendor_pattern(pattern text) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial.parse_pattern(pattern);
    return (
        with tokens as (
            select
                t.ordinal, t.token, t.argument, t.size, t.token = any(machserial._date_tokens()) as is_date,
                machserial._token_expression(t.token, t.argument, t.size, t.alphabet) as expression,
                min(t.ordinal) over (partition by t.token) as first_ordinal
            from machserial._tokenize(pattern) as t
        )
        select jsonb_build_object(
            'expression', '^' || string_agg(
                case
                    when t.is_date and t.first_ordinal < t.ordinal then format('(\%s)', t.first_ordinal)
                    else t.expression
                end, '' order by t.ordinal
            ) || '$',
            'examined', jsonb_agg(
                jsonb_build_object('ordinal', t.ordinal, 'token', t.token, 'argument', t.argument)
                order by t.ordinal
            ) filter (where t.is_date or t.token = 'CHECK'),
            'is_open', bool_or(t.size is null)
        )
        from tokens as t
    );
end
$$;

-- Whatever writes a rule, it is examined on its way in.
create function machserial._examine_vendor_rule() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    new.vendor_name := machserial._trimmed(new.vendor_name);
    perform machserial._require_name('vendor_name', new.vendor_name);
    if new.part_id is not null then
        perform machserial._require_known_part(new.part_id);
    end if;
    if num_nonnulls(
        new.pattern, new.regex, new.min_length, new.max_length, new.check_algorithm, new.stdnum_kind
    ) = 0 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('a rule for vendor %s says nothing', new.vendor_name),
            detail = 'pattern, regex, min_length, max_length, check_algorithm and stdnum_kind are all null.',
            hint = 'Give at least one of them; machserial.delete_vendor_rule(...) takes a rule away.';
    elsif new.min_length > new.max_length then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'min_length is greater than max_length',
            detail = format('No number has %s or more and %s or fewer characters.',
                new.min_length, new.max_length),
            hint = 'Exchange them.';
    end if;
    perform machserial._require_length('min_length', new.min_length);
    perform machserial._require_length('max_length', new.max_length);
    perform machserial._require_regex(new.regex);
    new.check_algorithm := machserial._check_name(new.check_algorithm);
    new.stdnum_kind := lower(btrim(new.stdnum_kind) collate "C");
    -- A rule that stands can be changed where machserial_plpython is gone.
    if new.stdnum_kind is not null
        and (tg_op = 'INSERT' or new.stdnum_kind is distinct from old.stdnum_kind) then
        perform machserial._stdnum_verdicts(new.stdnum_kind, '{}');
    end if;
    new.compiled_pattern := case
        when new.pattern is not null then machserial._compile_vendor_pattern(new.pattern)
    end;
    return new;
end
$$;

create function machserial.set_vendor_rule(
    vendor_name text, part_id text default null, pattern text default null, regex text default null,
    min_length integer default null, max_length integer default null, check_algorithm text default null,
    stdnum_kind text default null
)
returns machserial.vendor_rule
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    rule machserial.vendor_rule;
begin
    insert into machserial.vendor_rules as r (
        vendor_name, part_id, pattern, regex, min_length, max_length, check_algorithm, stdnum_kind
    )
    values (
        set_vendor_rule.vendor_name, set_vendor_rule.part_id, set_vendor_rule.pattern, set_vendor_rule.regex,
        set_vendor_rule.min_length, set_vendor_rule.max_length, set_vendor_rule.check_algorithm,
        set_vendor_rule.stdnum_kind
    )
    on conflict (vendor_name, coalesce(part_id, '')) do update
    set
        pattern = excluded.pattern, regex = excluded.regex, min_length = excluded.min_length,
        max_length = excluded.max_length, check_algorithm = excluded.check_algorithm,
        stdnum_kind = excluded.stdnum_kind
    returning
        r.id, r.vendor_name, r.part_id, r.pattern, r.regex, r.min_length, r.max_length, r.check_algorithm,
        r.stdnum_kind, r.created_at, r.created_by
    into rule;
    return rule;
end
$$;

comment on function machserial.set_vendor_rule(text, text, text, text, integer, integer, text, text) is
'Says what the numbers of a vendor look like; the vendor''s rule for this part, if there is one, is replaced
as a whole. part_id: null is the vendor''s general rule; a part''s own rule comes before it, and then the
general one does not hold. pattern: see parse_pattern(). regex: as for the operator ~ in the
collation "C" (\w is A to Z, a to z, 0 to 9 and _), so anchor it with ^ and $; at most 1000 characters,
without back references. min_length, max_length: characters. check_algorithm:
see check_digit(); what it does not know, such as
separators, is skipped. stdnum_kind: see stdnum_is_valid() of machserial_plpython, such as imei. At least one
of the six. It holds for what is received from now on. Returns the rule.
Errors: 22023 a faulty argument, or no criterion; 23503 unknown part; 0A000 stdnum_kind where
machserial_plpython or its library is not installed.';

create function machserial.delete_vendor_rule(vendor_name text, part_id text default null)
returns machserial.vendor_rule
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    rule machserial.vendor_rule;
begin
    delete from machserial.vendor_rules as r
    where
        r.vendor_name = machserial._trimmed(delete_vendor_rule.vendor_name)
        and coalesce(r.part_id, '') = coalesce(delete_vendor_rule.part_id, '')
    returning
        r.id, r.vendor_name, r.part_id, r.pattern, r.regex, r.min_length, r.max_length, r.check_algorithm,
        r.stdnum_kind, r.created_at, r.created_by
    into rule;
    if rule.id is null then
        raise exception using
            errcode = 'no_data_found',
            message = format(
                'vendor %s has no rule for %s',
                coalesce(machserial._shown(delete_vendor_rule.vendor_name), 'null'),
                coalesce('part ' || machserial._shown(delete_vendor_rule.part_id), 'all parts')
            ),
            detail = 'machserial.vendor_rules has no such row.',
            hint = 'A rule for one part and the general one are deleted each by itself.';
    end if;
    return rule;
end
$$;

comment on function machserial.delete_vendor_rule(text, text) is
'Takes a vendor''s rule for a part away, or with a null part_id the general one. What was found on receipt
stays. Returns the rule as it was. Errors: P0002 there is no such rule.';

-- The rule that a vendor has for a part; null if there is none. The part's own comes before the general one,
-- whose key is empty there.
create function machserial._vendor_rule_id(vendor_name text, part_id text) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select r.id
        from machserial.vendor_rules as r
        where
            r.vendor_name = machserial._trimmed(_vendor_rule_id.vendor_name)
            and coalesce(r.part_id, '') in (_vendor_rule_id.part_id, '')
        order by coalesce(r.part_id, '') desc
        limit 1
    );
end
$$;
