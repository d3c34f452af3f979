-- create or replace cannot change what a function takes or returns. Where that has changed since the version
-- that is installed, the function goes, its grants are kept, and grant_again.sql gives them to its successor.
do $drop$
declare
    -- Version: names of the functions that are no longer as they were in it. The build writes it.
    changed constant jsonb := '@CHANGED@';
    installed text;
    gone record;
    kept jsonb := '[]'::jsonb;
begin
    if to_regprocedure('machserial.version()') is not null then
        execute 'select machserial.version()' into installed;
    end if;
    for gone in
        select p.oid::regprocedure as signature, p.proname as name, p.proowner as owner, p.proacl as acl
        from pg_proc as p
        where p.pronamespace = 'machserial'::regnamespace and (changed -> installed) ? p.proname::text
    loop
        kept := kept || coalesce(
            (
                select jsonb_agg(jsonb_build_object(
                    'function', gone.name, 'role', pg_get_userbyid(a.grantee), 'grantable', a.is_grantable
                ))
                from aclexplode(gone.acl) as a
                where a.grantee not in (0, gone.owner)
            ),
            '[]'::jsonb
        );
        execute format('drop function %s', gone.signature);
    end loop;
    perform set_config('machserial.kept_grants', kept::text, true);
end
$drop$;
