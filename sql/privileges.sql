-- Who may call and read what. The last thing that runs at every install and update.

-- PostgreSQL lets everyone call a new function; here nobody may who was not granted it.
-- Those of machserial_plpython belong to a superuser, who has seen to it already.
do $privileges$
declare
    routine regprocedure;
begin
    for routine in
        select p.oid from pg_proc as p
        where p.pronamespace = 'machserial'::regnamespace and pg_has_role(p.proowner, 'usage')
    loop
        execute format('revoke execute on routine %s from public', routine);
    end loop;
end
$privileges$;
