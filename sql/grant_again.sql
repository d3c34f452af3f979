do $grant$
declare
    kept record;
begin
    for kept in
        select p.oid::regprocedure as signature, k.role, k.grantable
        from jsonb_to_recordset(current_setting('machserial.kept_grants')::jsonb)
            as k (function name, role name, grantable boolean)
        inner join pg_proc as p
            on p.proname = k.function and p.pronamespace = 'machserial'::regnamespace
    loop
        execute format(
            'grant execute on function %s to %I%s', kept.signature, kept.role,
            case when kept.grantable then ' with grant option' else '' end
        );
    end loop;
end
$grant$;
