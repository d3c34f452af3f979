-- Only superusers may call any of it, and roles to which a superuser grants it (docs/plpython.md).
do $privileges$
declare
    routine regprocedure;
begin
    for routine in
        select p.oid::regprocedure from pg_proc as p
        where p.pronamespace = 'machserial'::regnamespace and p.proname::text = any('@FUNCTIONS@'::text[])
    loop
        execute format('revoke execute on function %s from public', routine);
    end loop;
    -- machserial holds the numbers of vendors against stdnum_kind with the rights of its own owner.
    execute format(
        'grant execute on function machserial.stdnum_are_valid(text, text[]) to %I',
        (
            select pg_get_userbyid(p.proowner) from pg_proc as p
            where p.oid = 'machserial.version()'::regprocedure
        )
    );
end
$privileges$;
