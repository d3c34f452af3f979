-- machserial_plpython for a machserial that was installed by its plain bundle: run this script as a
-- superuser, in one transaction. It may be run again, and by a newer version over an older one.

set local search_path = pg_catalog, pg_temp;

do $guard$
begin
    if exists (select from pg_catalog.pg_extension where extname = 'machserial_plpython') then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'machserial_plpython is installed as an extension in this database',
            hint = 'Update it with: alter extension machserial_plpython update;';
    end if;
    -- The owner of a schema may drop and replace what is in it, unless it belongs to an extension. Functions
    -- that run with a superuser's rights would call the replacement.
    if not (
        select r.rolsuper from pg_catalog.pg_namespace as s
        inner join pg_catalog.pg_roles as r on r.oid = s.nspowner
        where s.nspname = 'machserial'
    ) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = 'the schema machserial does not belong to a superuser',
            detail = 'Its owner could put his own functions in the place of these.',
            hint = 'Install machserial and machserial_plpython as extensions, which are safe from that.';
    end if;
end
$guard$;

create extension if not exists plpython3u;
