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
end
$guard$;

create extension if not exists plpython3u;
