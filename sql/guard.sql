-- The beginning of every script that installs or updates.

-- Names bind to what they mean in PostgreSQL, whatever the caller's search_path finds first.
set local search_path = pg_catalog, pg_temp;

-- Whoever owns something in the schema could have put it there to be adopted and run with the owner's rights.
-- The database's owner is trusted, and so are superusers, who own machserial_plpython. So is, in a restore,
-- the owner of the still empty schema, to whom the tables will belong as well; a dump tells itself by
-- switching row_security off.
do $guard$
declare
    stranger text;
begin
    select format('%s %s is owned by %s', kind, name, pg_get_userbyid(owner)) into stranger
    from (
        select 'schema' as kind, nspname::text as name, nspowner as owner
        from pg_namespace where nspname = 'machserial'
        union all
        select 'function', oid::regprocedure::text, proowner
        from pg_proc where pronamespace = 'machserial'::regnamespace
        union all
        select 'relation', oid::regclass::text, relowner
        from pg_class where relnamespace = 'machserial'::regnamespace
        union all
        select 'type', oid::regtype::text, typowner
        from pg_type where typnamespace = 'machserial'::regnamespace
    ) as objects
    where
        owner <> (select oid from pg_roles where rolname = current_user)
        and owner <> (select datdba from pg_database where datname = current_database())
        and not (select rolsuper from pg_roles where oid = owner)
        and not (kind = 'schema' and current_setting('row_security') = 'off')
    limit 1;
    if stranger is not null then
        raise exception using
            errcode = 'insufficient_privilege',
            message = format('the schema machserial holds what %I did not make', current_user),
            detail = stranger,
            hint = 'Install as the owner of the schema, or remove what does not belong there.';
    end if;
end
$guard$;
