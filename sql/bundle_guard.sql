-- machserial for servers whose files are out of reach (RDS, Cloud SQL, Azure): run this script over a
-- connection, in one transaction, then: select machserial.migrate(); It may be run again, and by a newer
-- version over an older one.

create schema if not exists machserial;

-- Whoever owns something in the schema could have put it there to be adopted and run with the owner's rights.
do $guard$
declare
    stranger text;
begin
    if exists (select from pg_catalog.pg_extension where extname = 'machserial') then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'machserial is installed as an extension in this database',
            hint = 'Update it with: alter extension machserial update; select machserial.migrate();';
    end if;
    select pg_catalog.format(
        '%s %s is owned by %s', kind, name, pg_catalog.pg_get_userbyid(owner)
    ) into stranger
    from (
        select 'schema' as kind, nspname::text as name, nspowner as owner
        from pg_catalog.pg_namespace where nspname = 'machserial'
        union all
        select 'function', oid::regprocedure::text, proowner
        from pg_catalog.pg_proc where pronamespace = 'machserial'::regnamespace
        union all
        select 'relation', oid::regclass::text, relowner
        from pg_catalog.pg_class where relnamespace = 'machserial'::regnamespace
        union all
        select 'type', oid::regtype::text, typowner
        from pg_catalog.pg_type where typnamespace = 'machserial'::regnamespace
    ) as objects
    where owner <> (select oid from pg_catalog.pg_roles where rolname = current_user)
    limit 1;
    if stranger is not null then
        raise exception using
            errcode = 'insufficient_privilege',
            message = pg_catalog.format('the schema machserial holds what %I did not make', current_user),
            detail = stranger,
            hint = 'Install as the owner of the schema, or remove what does not belong there.';
    end if;
end
$guard$;
