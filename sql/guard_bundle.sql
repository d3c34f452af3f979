-- machserial for servers whose files are out of reach (RDS, Cloud SQL, Azure): run this script over a
-- connection, in one transaction, then: select machserial.migrate(); It may be run again, and by a newer
-- version over an older one.

set local search_path = pg_catalog, pg_temp;

do $guard$
begin
    if exists (select from pg_catalog.pg_extension where extname = 'machserial') then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'machserial is installed as an extension in this database',
            hint = 'Update it with: alter extension machserial update; select machserial.migrate();';
    end if;
end
$guard$;

create schema if not exists machserial;
