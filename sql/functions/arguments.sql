-- What functions ask of their arguments, and how they name what is wrong with one.

-- What somebody gave, as a message can hold it: a text may be as long as a gigabyte.
create function machserial._shown(given text) returns text
language sql immutable parallel safe
return case when length(given) > 255 then left(given, 255) || '...' else given end;

create function machserial._require_text(argument text, value text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(btrim(value), '') = '' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s is missing', argument),
            detail = format('%s is %s.', argument, coalesce(quote_literal(machserial._shown(value)), 'null')),
            hint = format('Give %s as a text that is not empty.', argument);
    end if;
end
$$;

-- For what is looked up by an index, which has no room for a text of any length. Null passes.
create function machserial._require_short(argument text, value text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if length(value) > 255 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s is too long', argument),
            detail = format('It has %s characters: %L.', length(value), machserial._shown(value)),
            hint = format('Give a %s of at most 255 characters.', argument);
    end if;
end
$$;

-- Raises 54000 about a text of which only so much is kept.
create function machserial._raise_too_long(what text, value text, longest integer, unit text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'program_limit_exceeded',
        message = format('%s is too long', what),
        detail = format(
            'It has %s %s, %s is the most: %L.',
            case unit when 'bytes' then octet_length(value) else length(value) end, unit, longest,
            machserial._shown(value)
        ),
        hint = 'Keep long texts elsewhere, and give what refers to them.';
end
$$;

create function machserial._raise_no_object(context text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'check_violation',
        message = 'the context is not a JSON object',
        detail = format('It is %s.', machserial._shown(context)),
        hint = 'Give an object such as {"lot_number": "L-7"}.',
        constraint = 'serials_context_is_an_object', table = 'serials', schema = 'machserial';
end
$$;

-- The trigger of serials; its condition has found a context that is not an object.
create function machserial._refuse_context() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._raise_no_object(new.context::text);
    return null;
end
$$;

-- The trigger of tables that keep a context, a reason or notes; its condition has found one that is too long.
create function machserial._refuse_long_text() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    kept constant jsonb := to_jsonb(new);
    fault record;
begin
    select k.key, k.value into fault
    from jsonb_each_text(kept) as k
    where
        k.key = 'context' and octet_length(k.value) > 8192
        or (k.key = 'notes' or k.key like '%reason') and length(k.value) > 2000
    order by k.key
    limit 1;
    if fault.key = 'context' then
        perform machserial._raise_too_long('the context', fault.value, 8192, 'bytes');
    elsif fault.key is not null then
        perform machserial._raise_too_long(fault.key, fault.value, 2000, 'characters');
    end if;
    return new;
end
$$;

-- The session's actor and reason, which become part of what is written.
create function machserial._require_short_actor() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    actor constant text := current_setting('machserial.actor', true);
    reason constant text := current_setting('machserial.reason', true);
begin
    if length(actor) > 255 then
        perform machserial._raise_too_long('machserial.actor', actor, 255, 'characters');
    elsif length(reason) > 2000 then
        perform machserial._raise_too_long('machserial.reason', reason, 2000, 'characters');
    end if;
end
$$;

-- A time that programs can read: not infinity, and no year before 1 or beyond 9999. Tables say the same.
create function machserial._require_time(argument text, value timestamptz) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if value <= '0001-01-02 00:00:00+00' or value >= '9999-12-31 00:00:00+00' then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s cannot be %s', argument, value),
            detail = 'It is later than the first day of the year 1, and earlier than the last of the year 9999.',
            hint = format('Give a day that has been or will be, or leave %s out.', argument);
    end if;
end
$$;

-- A name by which something is known.
create function machserial._require_name(argument text, value text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform machserial._require_short(argument, value);
    perform machserial._require_text(argument, value);
end
$$;

create function machserial._raise_unknown(kind text, id text, remedy text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'foreign_key_violation',
        message = format('%s %s is unknown', kind, coalesce(quote_literal(machserial._shown(id)), 'null')),
        detail = format('No %s has this id.', kind),
        hint = format('Make it known with %s(...).', remedy);
end
$$;

create function machserial._raise_absent(kind text, id bigint, relation text, hint text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = 'no_data_found',
        message = format('there is no %s with id %s', kind, coalesce(id::text, 'null')),
        detail = format('machserial.%I has no such row.', relation),
        hint = hint;
end
$$;

-- Levenshtein's distance, so that a mistyped token can be answered with the one that was meant.
create function machserial._distance(left_word text, right_word text) returns integer
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    previous integer[] := array(select generate_series(0, length(right_word)));
    present integer[];
begin
    for i in 1..length(left_word) loop
        present := array[i];
        for j in 1..length(right_word) loop
            present[j + 1] := least(
                present[j] + 1,
                previous[j + 1] + 1,
                previous[j] + (substr(left_word, i, 1) <> substr(right_word, j, 1))::integer
            );
        end loop;
        previous := present;
    end loop;
    return previous[length(right_word) + 1];
end
$$;

create function machserial._nearest(word text, candidates text[]) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select c.candidate
        from unnest(candidates) with ordinality as c (candidate, ordinal)
        order by machserial._distance(lower(left(word, 64) collate "C"), lower(c.candidate collate "C")), c.ordinal
        limit 1
    );
end
$$;

create function machserial._require_one_of(argument text, value text, choices text[]) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if upper(value collate "C") = any(choices) then
        return upper(value collate "C");
    end if;
    raise exception using
        errcode = 'invalid_parameter_value',
        message = format(
            '%s cannot be %s', argument, coalesce(quote_literal(machserial._shown(value)), 'null')
        ),
        detail = format('It is one of %s.', array_to_string(choices, ', ')),
        hint = format('Did you mean %s?', machserial._nearest(coalesce(value, ''), choices));
end
$$;

create function machserial._require_number(argument text, value bigint) returns bigint
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if value is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('%s is missing', argument),
            detail = format('%s is null.', argument),
            hint = format('Leave %s out for its default.', argument);
    end if;
    return value;
end
$$;

create function machserial._require_quantity(quantity integer) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if quantity is null or quantity not between 1 and 1000000 then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('quantity cannot be %s', coalesce(quantity::text, 'null')),
            detail = 'It is 1 to 1,000,000.',
            hint = case
                when quantity > 1000000 then 'Split a larger order into several calls.'
                else 'Give 1 to 1,000,000.'
            end;
    end if;
end
$$;

-- Of the function, else of the session; 22023 if there is neither.
create function machserial._require_reason(reason text, action text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    given constant text := coalesce(
        nullif(btrim(reason), ''), nullif(btrim(current_setting('machserial.reason', true)), '')
    );
begin
    if given is null then
        raise exception using
            errcode = 'invalid_parameter_value',
            message = format('a reason is required to %s', action),
            detail = 'None was given, and machserial.reason is not set.',
            hint = 'Give reason, or set it for the transaction: set local machserial.reason = ''...'';';
    elsif length(given) > 2000 then
        perform machserial._raise_too_long('the reason', given, 2000, 'characters');
    end if;
    return given;
end
$$;

-- For what looks at all serials under a lock: a snapshot that is kept is older than the lock.
create function machserial._require_read_committed(what text, detail text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception using
            errcode = 'feature_not_supported',
            message = format(
                '%s in READ COMMITTED only, not in %s', what,
                upper(current_setting('transaction_isolation') collate "C")
            ),
            detail = detail,
            hint = 'Do it in a transaction of its own.';
    end if;
end
$$;

-- The names with "and more" in place of all beyond the fifth.
create function machserial._first_of(names text[]) returns text
language sql immutable parallel safe
return concat_ws(
    ', ', nullif(array_to_string(names[1:5], ', '), ''),
    case when cardinality(names) > 5 then format('and %s more', cardinality(names) - 5) end
);
