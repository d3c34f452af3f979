-- Where Python looks for libraries beyond those that the operating system installed.
--
-- Python runs what is in that folder as the server's user. So the folder is not a setting, which any user can
-- SET, but a row of a table that belongs to a superuser; and all others must be unable to write to the
-- folder, to what is above it and to what is in it. The table is data: it is made when it is needed, belongs
-- to no extension, and is in every dump.

create function machserial._examined_python_path(path text) returns text
language plpython3u
set search_path = pg_catalog, pg_temp
as $python$
@paths.py@
reason = fault(path)
if reason:
    plpy.error(
        f"Python cannot look for libraries in {path}",
        detail=reason,
        hint="Name a folder, or a virtual environment made with /usr/bin/python3 -m venv, that only root or the"
        " server's user can write to.",
        sqlstate="22023",
    )
return os.path.realpath(path)
$python$;

create function machserial.set_python_path(path text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    examined text;
    message text;
    detail text;
    hint text;
begin
    if not (select r.rolsuper from pg_roles as r where r.rolname = current_user) then
        raise exception using
            errcode = 'insufficient_privilege',
            message = 'only a superuser may say where Python finds its libraries',
            detail = format('The current user is %I.', current_user),
            hint = 'What is in that folder runs with the rights of the server''s user.';
    end if;
    if to_regclass('machserial.python_paths') is null then
        create table machserial.python_paths (
            path text not null primary key,
            set_at timestamptz not null default now(),
            set_by text not null default session_user
        );
        comment on table machserial.python_paths is
        'Where the functions of machserial_plpython find Python libraries that the operating system does not '
        'install. Only superusers write and read it: machserial.set_python_path().';
        comment on column machserial.python_paths.path is 'The folder, or virtual environment.';
        comment on column machserial.python_paths.set_at is 'When it was set.';
        comment on column machserial.python_paths.set_by is 'The session''s user who set it.';
    end if;
    perform machserial._python_paths();
    if set_python_path.path is not null then
        examined := machserial._examined_python_path(set_python_path.path);
    end if;
    delete from machserial.python_paths;
    if examined is not null then
        insert into machserial.python_paths (path) values (examined);
    end if;
    return examined;
exception when invalid_parameter_value or external_routine_exception or undefined_file or internal_error then
    get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform machserial._raise_of_python(sqlstate, message, detail, hint);
    return null;
end
$$;

comment on function machserial.set_python_path(text) is
'Says where the functions of machserial_plpython find Python libraries that the operating system does not
install. path: a folder of libraries, or a virtual environment made with /usr/bin/python3 -m venv; absolute;
it, all that is above it and all that is in it may be written to by root and the server''s user only, and by
no group. Null: only the operating system''s. Libraries that a session has loaded it keeps. Returns the folder, without symbolic links.
Errors: 42501 not a superuser; 22023 another folder; 0A000 the server''s Python is broken.';

-- The owner of the schema can put another table in the place of this one, or a view that runs his functions:
-- whatever a superuser does not own is not read. The lock keeps what was looked at in its place.
create function machserial._python_paths() returns text[]
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    owner record;
begin
    if to_regclass('machserial.python_paths') is null then
        return array[]::text[];
    end if;
    lock table only machserial.python_paths in access share mode;
    select
        r.rolname, r.rolsuper and c.relkind = 'r' and not exists (
            select from aclexplode(c.relacl) as a
            where a.grantee <> c.relowner and a.privilege_type <> 'SELECT'
        ) and not exists (
            select from pg_attribute as a where a.attrelid = c.oid and a.attacl is not null
        ) as is_trusted
    into owner
    from pg_class as c
    inner join pg_roles as r on r.oid = c.relowner
    where c.relname = 'python_paths' and c.relnamespace = 'machserial'::regnamespace;
    if not owner.is_trusted then
        raise exception using
            errcode = 'insufficient_privilege',
            message = 'machserial.python_paths is not the table of machserial_plpython',
            detail = format(
                'It is no plain table, others may write to it, or its owner %I is no superuser.', owner.rolname
            ),
            hint = 'Drop it, and set the path again: select machserial.set_python_path(...);';
    end if;
    return array(select p.path from only machserial.python_paths as p order by p.path);
end
$$;
