-- What integrity() can see, and what it was done with.

create type machserial.integrity_finding as (
    name text,
    severity text,
    object text,
    message text,
    remedy text
);

comment on type machserial.integrity_finding is 'A row of integrity().';

-- How to do what a trigger refuses, for the table's owner.
create function machserial._with_triggers_off(relation text, statement text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return format(
        'alter table machserial.%1$I disable trigger user; %2$s; '
        'alter table machserial.%1$I enable trigger user%3$s;',
        relation, statement,
        -- Those that are disabled now stay so.
        (
            select string_agg(format(', disable trigger %I', t.tgname), '' order by t.tgname)
            from pg_trigger as t
            where
                t.tgrelid = to_regclass(format('machserial.%I', relation)) and not t.tgisinternal
                and t.tgenabled = 'D'
        )
    );
end
$$;

-- A caller who does not see every row cannot be told that all is well.
create function machserial._require_sight_of_all() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    hidden text;
begin
    select string_agg(r.relation, ', ' order by r.relation) into hidden
    from machserial._own_relations() as r
    where not r.is_partition and row_security_active(r.oid);
    if hidden is not null then
        raise exception using
            errcode = 'insufficient_privilege',
            message = 'integrity can only be judged by who sees all rows',
            detail = format('Row-level security holds for %s in %s.', current_user, hidden),
            hint = 'Run it as the owner of machserial.';
    end if;
end
$$;

-- What a standby cannot know.
create function machserial._find_standby() returns setof machserial.integrity_finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select
        'standby', 'UNKNOWN', 'server',
        format(
            'this is a standby, which has replayed transactions up to %s: what its primary has written since was '
            'not examined', coalesce(pg_last_xact_replay_timestamp()::text, 'an unknown moment')
        ),
        'Run it on the primary.'
    where pg_is_in_recovery();
end
$$;
