-- Comes after guard.sql in the script of CREATE EXTENSION, which replaces nothing.
do $guard$
declare
    owner name;
begin
    select pg_get_userbyid(p.proowner) into owner
    from pg_proc as p
    where p.oid = to_regprocedure('machserial.version()');
    if owner is not null then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = 'machserial is installed as plain SQL in this database',
            detail = format('Its functions are there, belong to %I, and are no extension.', owner),
            hint = 'It stays plain SQL: to update it, run machserial deploy, or the script machserial.sql of '
                'the new version and then select machserial.migrate();';
    end if;
end
$guard$;
