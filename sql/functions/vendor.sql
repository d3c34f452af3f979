-- Serials that come from vendors: rules for their numbers, receipt, acceptance and rejection.

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

-- Rules

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

-- Whoever receives numbers must not wait for a rule. Only a back reference makes PostgreSQL try one way after
-- another; whatever else a regular expression says costs a step a character.
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


-- Numbers against rules

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


-- Vendor serials on their table

-- A receipt that names no serial brings its own: the number is claimed with it. The receipt comes first, so
-- that one event, VENDOR_RECEIVED, tells of both. Its id is drawn here.
create function machserial._new_serial_id(serial_number text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    drawn constant bigint := nextval('machserial.serials_id_seq');
begin
    if exists (select from machserial.serials as s where s.id = drawn) then
        perform machserial._raise_unclaimed(serial_number, array[serial_number]);
    end if;
    return drawn;
end
$$;

-- Makes the serials of these receipts. Returns those whose number is taken. An id that was not drawn makes
-- none. SECURITY DEFINER: which id a serial has is nobody else's to say. It takes nothing of its caller's but
-- ids: the receipts are on record, at sites that the caller may see.
create function machserial._register_received(ids bigint[]) returns bigint[]
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    last_id constant bigint := pg_sequence_last_value('machserial.serials_id_seq'::regclass);
    drawn bigint[];
    made bigint[];
begin
    drawn := array(
        select i.id from unnest(_register_received.ids) as i (id)
        where
            -- Of this node.
            i.id between greatest((last_id >> 48) << 48, 1) and last_id
            and not exists (select from machserial.serials as s where s.id = i.id)
    );
    with recorded as (
        insert into machserial.serials (
            id, serial_number, part_id, part_type, site_id, source, status, status_reason, scopes
        )
        overriding system value
        select
            v.id, v.serial_number, v.part_id, p.part_type, v.site_id, 'VENDOR', v.status, v.rejection_reason,
            p.default_scopes
        from unnest(drawn) as i (id)
        cross join lateral (
            select r.* from machserial.vendor_serials as r where r.id = i.id offset 0
        ) as v
        inner join machserial.parts as p on p.id = v.part_id
        where not machserial._is_claimed_elsewhere(v.serial_number, p.default_scopes)
        -- The same order in every insert, so that two which meet cannot deadlock.
        order by v.serial_number collate "C"
        on conflict do nothing
        returning id
    )
    select array_agg(r.id) into made from recorded as r;
    return array(select unnest(drawn) except all select unnest(made));
end
$$;

-- The gate: a broken rule keeps a serial from becoming ACTIVE until somebody answers for it.
create function machserial._require_in_order(
    vendor_serial_id bigint, serial_number text, validation_errors text[]
)
returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if validation_errors <> '{}' then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('serial %s breaks the rule of its vendor', serial_number),
            detail = format('On receipt: %s.', array_to_string(validation_errors, '; ')),
            hint = format(
                'Reject it, or answer for it: waive_vendor_rule(%s, reason).', vendor_serial_id
            );
    end if;
end
$$;

-- A receipt that leaves anything out: its serial, what the serial says, what the vendor's rule says to it.
-- A serial of its own is made when the statement's receipts are all on record.
create function machserial._complete_vendor_serial() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    actor constant text := machserial._actor();
begin
    new.vendor_name := machserial._trimmed(new.vendor_name);
    perform machserial._require_name('vendor_name', new.vendor_name);
    if new.id is null then
        new.serial_number := machserial._trimmed(new.serial_number);
        new.site_id := (machserial._place(new.part_id, new.site_id)).site_id;
        new.status := coalesce(new.status, 'PENDING');
        new.id := machserial._new_serial_id(new.serial_number);
    else
        select
            coalesce(new.serial_number, s.serial_number), coalesce(new.part_id, s.part_id),
            coalesce(new.site_id, s.site_id), coalesce(new.status, s.status)
        into new.serial_number, new.part_id, new.site_id, new.status
        from machserial.serials as s where s.id = new.id;
        if not found then
            perform machserial._raise_unknown('serial', new.id::text, 'machserial.register_serial');
        end if;
    end if;
    if new.validated_at is null then
        new.validated_at := now();
        new.validation_errors := coalesce(
            (
                select e.errors from machserial._vendor_rule_errors(
                    array[new.serial_number], machserial._vendor_rule_id(new.vendor_name, new.part_id)
                ) as e
            ),
            '{}'
        );
    end if;
    -- Imported with its history.
    if new.status = 'REJECTED' then
        new.rejection_reason := machserial._require_reason(
            new.rejection_reason, format('vendor serial %s: to be REJECTED', new.serial_number)
        );
        new.rejected_at := coalesce(new.rejected_at, now());
        new.rejected_by := coalesce(new.rejected_by, actor);
    elsif new.status = 'ACTIVE' then
        new.accepted_at := coalesce(new.accepted_at, now());
        new.accepted_by := coalesce(new.accepted_by, actor);
    end if;
    return new;
end
$$;

-- Raises why a number could not be registered that a vendor has sent. proposed: all of the statement.
create function machserial._raise_not_registered(
    serial_number text, proposed text[], part_id text, site_id text
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    place record;
begin
    select p.* into place
    from machserial._place(_raise_not_registered.part_id, _raise_not_registered.site_id) as p;
    perform machserial._require_claimed(
        array[serial_number], proposed, place.scopes, place.site_id, place.part_type
    );
    perform machserial._raise_taken(
        serial_number,
        (
            select c.description
            from machserial._claimants(serial_number, place.scopes, place.site_id, place.part_type) as c
        ),
        'Check the part; machserial.receive_vendor_serials(...) puts the duplicate on record.'
    );
end
$$;

-- Whatever a receipt brought along, it says what the serial says, and does not get past the gate.
create function machserial._examine_new_vendor_serials() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    lonely bigint[];
    taken bigint[];
    wrong record;
begin
    lonely := array(
        select v.id from new_vendor_serials as v
        where not exists (select from machserial.serials as s where s.id = v.id offset 0)
    );
    if lonely <> '{}' then
        taken := machserial._register_received(lonely);
        perform machserial._raise_not_registered(
            v.serial_number, array(select n.serial_number from new_vendor_serials as n), v.part_id, v.site_id
        )
        from new_vendor_serials as v
        where v.id = any(taken);
        perform machserial._raise_unknown('serial', v.id::text, 'machserial.register_serial')
        from new_vendor_serials as v
        where not exists (select from machserial.serials as s where s.id = v.id offset 0);
    end if;
    select
        s.id, row(s.source, s.serial_number, s.part_id, s.site_id, s.status) as is_this,
        row('VENDOR', v.serial_number, v.part_id, v.site_id, v.status) as says_this
    into wrong
    from new_vendor_serials as v
    cross join lateral (select r.* from machserial.serials as r where r.id = v.id offset 0) as s
    where
        (s.source, s.serial_number, s.part_id, s.site_id, s.status)
        <> ('VENDOR', v.serial_number, v.part_id, v.site_id, v.status);
    if wrong.id is not null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('serial %s is not what the vendor serial says', wrong.id),
            detail = format('It is %s; the vendor serial says %s.', wrong.is_this, wrong.says_this),
            hint = 'Leave out id for a new serial, or all but id for one of source VENDOR.';
    end if;
    perform machserial._require_in_order(v.id, v.serial_number, v.validation_errors)
    from new_vendor_serials as v
    where v.status = 'ACTIVE' and v.waived_at is null;
    return null;
end
$$;

-- A waiver is written by giving its reason; when and who follow.
create function machserial._stamp_vendor_waiver() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if old.status <> 'PENDING' or old.validation_errors = '{}' then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('there is nothing to waive for vendor serial %s', old.serial_number),
            detail = case old.status
                when 'PENDING' then 'It broke no rule on receipt.' else format('It is %s.', old.status)
            end,
            hint = 'Only a PENDING serial with validation_errors needs a waiver.';
    end if;
    new.waived_reason := machserial._require_reason(
        new.waived_reason, format('vendor serial %s: to waive its rule', old.serial_number)
    );
    new.waived_at := now();
    new.waived_by := machserial._actor();
    return new;
end
$$;

-- When and by whom a step was taken, whether it came by a function, a direct update or the serial itself.
create function machserial._stamp_vendor_step() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    actor constant text := machserial._actor();
begin
    if new.status = 'ACTIVE' then
        if new.waived_at is null then
            perform machserial._require_in_order(old.id, old.serial_number, old.validation_errors);
        end if;
        new.accepted_at := coalesce(old.accepted_at, now());
        new.accepted_by := coalesce(old.accepted_by, actor);
    elsif new.status = 'REJECTED' then
        -- If the step came from the serial, its reason is there.
        new.rejection_reason := machserial._require_reason(
            coalesce(new.rejection_reason, (
                select s.status_reason from machserial.serials as s
                where s.id = old.id and s.status = 'REJECTED'
            )),
            format('vendor serial %s: to reject it', old.serial_number)
        );
        new.rejected_at := now();
        new.rejected_by := actor;
    end if;
    return new;
end
$$;

-- What was received stays, and so does who answered for it.
create function machserial._refuse_receipt_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    changed constant text := (
        select string_agg(o.key, ', ' order by o.key)
        from jsonb_each(to_jsonb(old)) as o
        where
            o.value <> to_jsonb(new) -> o.key
            and o.key not in ('status', 'received_date', 'internal_serial_id')
            -- Written by the step or the waiver itself.
            and not (o.key ~ '^accepted_' and new.status = 'ACTIVE' and old.status <> 'ACTIVE')
            and not (o.key ~ '^reject' and new.status = 'REJECTED' and old.status <> 'REJECTED')
            and not (o.key ~ '^waived_' and old.waived_at is null and new.waived_at is not null)
    );
begin
    if changed is null then
        return new;
    end if;
    raise exception using
        errcode = 'object_not_in_prerequisite_state',
        message = format(
            'vendor serial %s is on record: what was received cannot be changed', old.serial_number
        ),
        detail = format('The change is of %s.', changed),
        hint = 'Reject it and receive it again as it is; to accept, reject and waive there are functions.';
end
$$;

create function machserial._examine_internal_serial() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    internal record;
begin
    -- Locked, so that it is not retired in the same moment.
    select s.id, s.serial_number, s.status into internal
    from machserial.serials as s where s.id = new.internal_serial_id
    for share;
    if internal.id is null then
        perform machserial._raise_unknown(
            'serial', new.internal_serial_id::text, 'machserial.register_serial'
        );
    elsif internal.id = new.id or internal.status in ('RETIRED', 'INVALID', 'REJECTED') then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format(
                'serial %s cannot be our own number of vendor serial %s',
                internal.serial_number, new.serial_number
            ),
            detail = case internal.id
                when new.id then 'It is the vendor serial itself.' else format('It is %s.', internal.status)
            end,
            hint = 'Give the id of a serial in use: generate or register one.';
    end if;
    return new;
end
$$;

-- The status has one home, serials.status, and its life cycle rules there; these two keep the copy equal in
-- both directions. They end because a statement that finds nothing that differs changes no row.
create function machserial._copy_status_to_vendor_serials() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    ids constant bigint[] := array(
        select n.id
        from new_serials as n
        where
            n.source = 'VENDOR'
            and n.status <> (select v.status from machserial.vendor_serials as v where v.id = n.id)
    );
begin
    if ids <> '{}' then
        update machserial.vendor_serials as v
        set status = (select s.status from machserial.serials as s where s.id = v.id)
        where v.id = any(ids);
    end if;
    return null;
end
$$;

create function machserial._copy_status_from_vendor_serials() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    ids constant bigint[] := array(
        select n.id
        from new_vendor_serials as n
        where n.status <> (select s.status from machserial.serials as s where s.id = n.id)
    );
begin
    if ids <> '{}' then
        update machserial.serials as s
        set (status, status_reason) = (
            select
                v.status, case v.status when 'REJECTED' then v.rejection_reason else s.status_reason end
            from machserial.vendor_serials as v
            where v.id = s.id
        )
        where s.id = any(ids);
    end if;
    return null;
end
$$;

create function machserial._audit_new_vendor_serials() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_audit_partition();
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, reason, details
    )
    select
        'VENDOR_RECEIVED', current_setting('application_name'), n.id, n.serial_number, n.part_id, n.site_id,
        coalesce(n.rejection_reason, nullif(current_setting('machserial.reason', true), '')),
        jsonb_build_object(
            'vendor_name', n.vendor_name, 'received_date', n.received_date,
            'validation_errors', n.validation_errors
        )
        -- Imported with what has become of it.
        || jsonb_strip_nulls(jsonb_build_object(
            'status', nullif(n.status, 'PENDING'), 'internal_serial_id', n.internal_serial_id,
            'waived_at', n.waived_at, 'waived_by', n.waived_by, 'waived_reason', n.waived_reason,
            'accepted_at', n.accepted_at, 'accepted_by', n.accepted_by, 'rejected_at', n.rejected_at,
            'rejected_by', n.rejected_by
        ))
    from new_vendor_serials as n;
    return null;
end
$$;

-- That a vendor serial becomes ACTIVE or REJECTED is told here, whichever of the two rows was written; every
-- other step is told by the event of its serial.
create function machserial._told_of_vendor_serial(status text) returns boolean
language sql immutable parallel safe
return status in ('ACTIVE', 'REJECTED');

create function machserial._audit_changed_vendor_serials() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    -- What the event itself says: when, by whom, why.
    left_out constant text[] := '{
        accepted_at,accepted_by,rejected_at,rejected_by,rejection_reason,waived_at,waived_by,waived_reason
    }'::text[];
begin
    perform machserial._require_audit_partition();
    -- Materialized, or the changes would be found out anew wherever they are mentioned.
    with changed as materialized (
        select
            n.id, n.serial_number, n.part_id, n.site_id, n.vendor_name, n.status, n.rejection_reason,
            n.waived_reason,
            case
                when o.accepted_at is distinct from n.accepted_at then 'VENDOR_ACCEPTED'
                when o.rejected_at is distinct from n.rejected_at then 'VENDOR_REJECTED'
                when o.waived_at is distinct from n.waived_at then 'VENDOR_WAIVED'
                else 'VENDOR_UPDATED'
            end as event_type,
            machserial._changes(to_jsonb(o), to_jsonb(n) - left_out - case
                when machserial._told_of_vendor_serial(n.status) then '' else 'status'
            end) as changes
        from new_vendor_serials as n
        full join old_vendor_serials as o on o.id = n.id
    )
    insert into machserial.audit_events (
        event_type, event_source, serial_id, serial_number, part_id, site_id, reason, details
    )
    select
        c.event_type, current_setting('application_name'), c.id, c.serial_number, c.part_id, c.site_id,
        coalesce(
            case c.event_type
                when 'VENDOR_REJECTED' then c.rejection_reason when 'VENDOR_WAIVED' then c.waived_reason
            end,
            -- If the step came from the serial, its reason is there.
            case when c.changes ? 'status' then (
                select s.status_reason from machserial.serials as s where s.id = c.id and s.status = c.status
            ) end,
            nullif(current_setting('machserial.reason', true), '')
        ),
        coalesce(c.changes, '{}') || jsonb_build_object('vendor_name', c.vendor_name)
    from changed as c
    where c.event_type <> 'VENDOR_UPDATED' or c.changes <> '{}';
    return null;
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

create function machserial.receive_vendor_serial(
    serial_number text, vendor_name text, part_id text, received_date timestamptz default now(),
    site_id text default null
)
returns machserial.vendor_serial
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    number constant text := machserial._serial_number(receive_vendor_serial.serial_number);
    received_id bigint;
begin
    perform machserial._require_time('received_date', receive_vendor_serial.received_date);
    insert into machserial.vendor_serials as v (serial_number, vendor_name, part_id, received_date, site_id)
    values (
        number, receive_vendor_serial.vendor_name, receive_vendor_serial.part_id,
        coalesce(receive_vendor_serial.received_date, now()), receive_vendor_serial.site_id
    )
    returning v.id into received_id;
    return machserial._vendor_serial(received_id);
end
$$;

comment on function machserial.receive_vendor_serial(text, text, text, timestamptz, text) is
'Puts a vendor''s number on record: PENDING, claimed at once in the part''s default scopes, trimmed and else
as it is. What breaks the vendor''s rule is in validation_errors and does not lose the receipt. Returns the
vendor serial.
Errors: 22023 a missing or faulty argument; 23503 unknown part or site; 23505 the number is taken.';

-- Why a number was not received.
create function machserial._receipt_fault(
    serial_number text, characters text, is_repeated boolean, claims text
)
returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(
        machserial._number_fault(serial_number, characters),
        case
            when is_repeated then 'it is given more than once'
            else format('it is taken: %s', coalesce(claims, 'by a concurrent transaction'))
        end
    );
end
$$;

create function machserial.receive_vendor_serials(
    vendor_name text, part_id text, serial_numbers text[], received_date timestamptz default now(),
    site_id text default null
)
returns table (serial_number text, vendor_serial_id bigint, status text, errors text[])
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    characters constant text := machserial._serial_characters();
    place record;
    numbers text[];
    registered record;
    -- One element a number: the serial that it has become, whether it came before, the number if it is taken.
    ids bigint[];
    is_repeated boolean[];
    taken text[];
    broken jsonb;
begin
    perform machserial._require_time('received_date', receive_vendor_serials.received_date);
    perform machserial._require_name('vendor_name', machserial._trimmed(receive_vendor_serials.vendor_name));
    -- The numbers themselves are answered one by one.
    perform machserial._require_registrable(
        case when receive_vendor_serials.serial_numbers is not null then '{}'::text[] end, 'VENDOR', 'RECORD'
    );
    select p.* into place from machserial._place(
        receive_vendor_serials.part_id, receive_vendor_serials.site_id
    ) as p;
    numbers := array(
        select machserial._trimmed(n.number)
        from unnest(receive_vendor_serials.serial_numbers) with ordinality as n (number, ordinal)
        order by n.ordinal
    );
    select jsonb_object_agg(e.serial_number, e.errors) into broken
    from machserial._vendor_rule_errors(
        array(select distinct n.number from unnest(numbers) as n (number) where n.number <> ''),
        machserial._vendor_rule_id(receive_vendor_serials.vendor_name, receive_vendor_serials.part_id)
    ) as e;
    -- One statement: so one event tells of the serial and of its receipt.
    with recorded as (
        insert into machserial.serials (serial_number, part_id, part_type, site_id, source, status, scopes)
        select n.number, p.id, p.part_type, place.site_id, 'VENDOR', 'PENDING', p.default_scopes
        from unnest(numbers) as n (number)
        inner join machserial.parts as p on p.id = receive_vendor_serials.part_id
        where machserial._is_serial_number(n.number, characters) and not (
            select machserial._claimed_elsewhere(array_remove(numbers, null), receive_vendor_serials.part_id)
        ) ? n.number
        -- The same order in every insert, so that two which meet cannot deadlock.
        order by n.number collate "C"
        on conflict do nothing
        returning id, serial_number
    ),

    received as (
        insert into machserial.vendor_serials (
            id, serial_number, part_id, site_id, status, vendor_name, received_date, validated_at,
            validation_errors
        )
        select
            r.id, r.serial_number, receive_vendor_serials.part_id, place.site_id, 'PENDING',
            receive_vendor_serials.vendor_name, coalesce(receive_vendor_serials.received_date, now()), now(),
            array(select jsonb_array_elements_text(broken -> r.serial_number))
        from recorded as r
        returning id, serial_number
    )

    select array_agg(r.id) as ids, array_agg(r.serial_number) as numbers into registered from received as r;
    select array_agg(r.id order by g.ordinal), array_agg(g.occurrence > 1 order by g.ordinal)
    into ids, is_repeated
    from (
        select n.number, n.ordinal, row_number() over (partition by n.number order by n.ordinal) as occurrence
        from unnest(numbers) with ordinality as n (number, ordinal)
    ) as g
    -- Every registered number was given: full only because that is never carried out as a nested loop, for
    -- which the plan may expect few enough numbers.
    full join (
        select n.number, n.id, 1 as occurrence
        from unnest(registered.numbers, registered.ids) as n (number, id)
    ) as r on r.number = g.number and r.occurrence = g.occurrence;
    taken := array(
        select case when n.id is null and machserial._is_serial_number(n.number, characters) then n.number end
        from unnest(numbers, ids) with ordinality as n (number, id, ordinal)
        order by n.ordinal
    );
    perform machserial._require_claimed(
        array_remove(taken, null), numbers, place.scopes, place.site_id, place.part_type
    );
    perform machserial._record_conflicts(
        array_remove(taken, null), receive_vendor_serials.part_id, place.site_id, place.part_type,
        place.scopes, 'VENDOR'
    );
    return query
    select
        n.number, n.id, case when n.id is null then 'REFUSED' else 'PENDING' end,
        case
            when n.id is null then array[
                machserial._receipt_fault(n.number, characters, n.is_repeated, c.description)
            ]
            else array(select jsonb_array_elements_text(broken -> n.number))
        end
    from unnest(numbers, ids, is_repeated) with ordinality as n (number, id, is_repeated, ordinal)
    full join machserial._claims_on(taken, place.scopes, place.site_id, place.part_type) as c
        on c.ordinal = n.ordinal
    order by n.ordinal;
end
$$;

comment on function machserial.receive_vendor_serials(text, text, text[], timestamptz, text) is
'Puts many numbers of a vendor on record in one call. One row a number, in the order given: those that are
good are PENDING, with what they break of the vendor''s rule in errors; the others are REFUSED, without
vendor_serial_id, with the reason in errors. Numbers that are taken, or given again in the call, are also put
on record in serial_conflicts. serial_number: as stored, trimmed.
Errors: 22023 a missing argument; 23503 unknown part or site.';


-- Acceptance and rejection

-- Locks vendor serials that are to take a step, and refuses it unless they are all there and PENDING.
-- The serials come first, as in every change that begins with them, and in one order, so that two calls
-- cannot deadlock.
create function machserial._lock_pending_vendor_serials(vendor_serial_ids bigint[], next_step text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    missing_id bigint;
    done record;
begin
    perform s.id from machserial.serials as s where s.id = any(vendor_serial_ids) order by s.id
    for no key update;
    select i.id into missing_id
    from unnest(vendor_serial_ids) as i (id)
    where not exists (select from machserial.vendor_serials as v where v.id = i.id offset 0)
    limit 1;
    if found then
        perform machserial._raise_no_vendor_serial(missing_id);
    end if;
    select v.* into done
    from machserial.vendor_serials as v
    where v.id = any(vendor_serial_ids) and v.status <> 'PENDING'
    order by v.id
    limit 1;
    if found then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('vendor serial %s cannot be %s', done.serial_number, next_step),
            detail = concat(
                'It is ', done.status, ', accepted by ' || done.accepted_by,
                ', rejected by ' || done.rejected_by || ': ' || done.rejection_reason, '.'
            ),
            hint = case done.status
                when 'REJECTED' then 'If the vendor sends it again, receive it again.'
                when 'ACTIVE' then 'It is accepted; machserial.retire_serial(...) takes it out of use.'
                else 'Only a PENDING serial is accepted or rejected.'
            end;
    end if;
end
$$;

create function machserial.accept_vendor_serial(
    vendor_serial_id bigint, internal_serial_id bigint default null
)
returns machserial.vendor_serial
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    broken_constraint text;
begin
    perform machserial._lock_pending_vendor_serials(array[vendor_serial_id], 'accepted');
    update machserial.vendor_serials as v
    set
        status = 'ACTIVE',
        internal_serial_id = coalesce(accept_vendor_serial.internal_serial_id, v.internal_serial_id)
    where v.id = accept_vendor_serial.vendor_serial_id;
    return machserial._vendor_serial(vendor_serial_id);
exception when unique_violation then
    get stacked diagnostics broken_constraint = constraint_name;
    if broken_constraint <> 'vendor_serials_internal_serial_id_key' then
        raise;
    end if;
    raise exception using
        errcode = 'unique_violation',
        message = format(
            'serial %s is our own number of another vendor serial', accept_vendor_serial.internal_serial_id
        ),
        detail = coalesce((
            select format('Of vendor serial %s: %s of %s.', v.id, v.serial_number, v.vendor_name)
            from machserial.vendor_serials as v
            where v.internal_serial_id = accept_vendor_serial.internal_serial_id
        ), 'Of one that you may not see.'),
        hint = 'Generate or register a serial of its own for this part.';
end
$$;

comment on function machserial.accept_vendor_serial(bigint, bigint) is
'Accepts a PENDING vendor serial: it becomes ACTIVE. internal_serial_id: the serial that is our own number of
the vendor''s part, if it has one. Returns the vendor serial.
Errors: P0002 no such vendor serial; 55000 it is not PENDING, it breaks its vendor''s rule and nobody has
waived that, or the internal serial is RETIRED, INVALID, REJECTED or the vendor serial itself; 23503 unknown
internal serial; 23505 the internal serial belongs to another vendor serial.';

create function machserial.accept_vendor_serials(vendor_serial_ids bigint[])
returns setof machserial.vendor_serial
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    if vendor_serial_ids is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = 'vendor_serial_ids is missing',
            detail = 'vendor_serial_ids is null.',
            hint = 'Give an array of the ids.';
    end if;
    perform machserial._lock_pending_vendor_serials(vendor_serial_ids, 'accepted');
    update machserial.vendor_serials as v set status = 'ACTIVE' where v.id = any(vendor_serial_ids);
    return query select v.* from machserial._vendor_serials(vendor_serial_ids) as v;
end
$$;

comment on function machserial.accept_vendor_serials(bigint[]) is
'Accepts many PENDING vendor serials, all or none. Returns them by id.
Errors: P0002 one does not exist; 55000 one is not PENDING, or breaks its vendor''s rule without a waiver;
22023 no array.';

create function machserial.reject_vendor_serial(vendor_serial_id bigint, reason text)
returns machserial.vendor_serial
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    perform machserial._lock_pending_vendor_serials(array[vendor_serial_id], 'rejected');
    update machserial.vendor_serials as v
    set status = 'REJECTED', rejection_reason = reason
    where v.id = vendor_serial_id;
    return machserial._vendor_serial(vendor_serial_id);
end
$$;

comment on function machserial.reject_vendor_serial(bigint, text) is
'Sends a PENDING vendor serial back: it becomes REJECTED and its number is free. The vendor may send it again,
as a new vendor serial. reason: why; null means machserial.reason. Returns the vendor serial.
Errors: 54000 a text that is too long; P0002 no such vendor serial; 22023 no reason; 55000 it is not
PENDING.';

create function machserial.waive_vendor_rule(vendor_serial_id bigint, reason text)
returns machserial.vendor_serial
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    known machserial.vendor_serial;
    is_waived boolean;
begin
    update machserial.vendor_serials as v
    set waived_reason = machserial._require_reason(
        reason, format('vendor serial %s: to waive its rule', v.serial_number)
    )
    where v.id = vendor_serial_id and v.waived_at is null;
    is_waived := found;
    known := machserial._vendor_serial(vendor_serial_id);
    if not is_waived then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('the rule is waived for vendor serial %s already', known.serial_number),
            detail = format('At %s by %s: %s', known.waived_at, known.waived_by, known.waived_reason),
            hint = 'There is nothing left to do.';
    end if;
    return known;
end
$$;

comment on function machserial.waive_vendor_rule(bigint, text) is
'Lets a PENDING vendor serial be accepted although it breaks its vendor''s rule. reason: why; null means
machserial.reason. Returns the vendor serial.
Errors: 54000 a text that is too long; P0002 no such vendor serial; 22023 no reason; 55000 it is not
PENDING, broke no rule, or the rule is waived already.';

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
    from machserial._claimants(serial.serial_number, serial.scopes, serial.site_id, serial.part_type) as c;
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
