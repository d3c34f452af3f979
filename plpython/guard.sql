-- The beginning of every script that installs or updates.

-- Names bind to what they mean in PostgreSQL, whatever the caller's search_path finds first.
set local search_path = pg_catalog, pg_temp;

-- The schema may belong to an ordinary role, and what is made here runs with a superuser's rights and the
-- operating system's: nothing of the same name that somebody else made may be adopted or be called instead.
do $guard$
declare
    -- The build writes them.
    names constant text[] := '@FUNCTIONS@';
    stranger text;
begin
    if to_regprocedure('machserial.version()') is null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'machserial is not installed in this database',
            hint = 'Install it first, by the extension or its plain bundle.';
    end if;
    select format('%s is owned by %s', p.oid::regprocedure, pg_get_userbyid(p.proowner)) into stranger
    from pg_proc as p
    inner join pg_roles as r on r.oid = p.proowner
    where p.pronamespace = 'machserial'::regnamespace and p.proname::text = any(names) and not r.rolsuper
    limit 1;
    if stranger is not null then
        raise exception using
            errcode = 'insufficient_privilege',
            message = 'the schema machserial holds functions under names of machserial_plpython',
            detail = stranger,
            hint = 'Drop them: only what a superuser made may be called by these names.';
    end if;
end
$guard$;
