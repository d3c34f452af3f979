-- Whether a database can be written to: part of every restore. All of it is undone.

create function machserial._write_and_look() returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    name constant text := concat('machserial write test ', gen_random_uuid());
    found record;
begin
    alter table machserial.serials disable trigger new_serials_are_refused_while_paused;
    update machserial.pauses as p set resumed_at = now(), resumed_by = session_user where p.resumed_at is null;
    perform machserial.register_part(part_id => name, part_type => name);
    perform machserial.create_format(name => name, pattern => 'W{SEQ:6}{CHECK:luhn}');
    perform machserial.create_format(
        name => concat(name, ' gapless'), pattern => 'G{SEQ:6}', allocation => 'GAPLESS'
    );
    perform machserial.generate(part_id => name, quantity => 3, format => name);
    perform machserial.generate(part_id => name, quantity => 3, format => concat(name, ' gapless'));
    perform machserial.register_serial(serial_number => name, part_id => name);
    select
        (select count(*) from machserial.serials as s where s.part_id = name) as serials,
        (
            select count(*) from machserial.audit_events as e
            where e.part_id = name and e.serial_id is not null and e.performed_at >= now()
        ) as events
    into found;
    if found.serials <> 7 or found.events <> 7 then
        raise exception using
            errcode = 'data_exception',
            message = 'the write test found something else than it wrote',
            detail = format('Written: 7 serials. Found: %s, and %s events.', found.serials, found.events),
            hint = 'See what is not as it should be: machserial migrate verify.';
    end if;
    perform machserial.seal_audit();
    select v.problem, v.detail into found from machserial.verify_audit() as v limit 1;
    if found.problem is not null then
        raise exception using
            errcode = 'data_exception',
            message = format('the audit trail is not intact: %s', found.problem),
            detail = found.detail,
            hint = 'See all of it: select * from machserial.verify_audit(full => true);';
    end if;
end
$$;

create function machserial.write_test() returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '500ms'
as $$
begin
    perform machserial._require_administrator('machserial.write_test()');
    begin
        perform machserial._write_and_look();
        raise sqlstate 'MS000';
    exception when sqlstate 'MS000' then null;
    end;
end
$$;

comment on function machserial.write_test() is
'Tries whether everything can be written: registers a part, makes formats, generates (with and without gaps),
registers, looks for the events, seals and verifies the audit trail. All of it is undone, a pause is not in
its
way, and while it runs, for a moment, nobody else issues numbers. Returns if all is well, else raises what is
wrong.
Errors: those of the functions it calls; 22000 something was written and not found, or the audit trail is not
intact; 42501 neither the owner nor an administrator; 55P03 others are issuing numbers: call it again.';
