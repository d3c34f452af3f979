-- What is known of a month that has left the database.

-- The root of an archive: a tree like that of a seal, whose leaves are the roots of the seals.
create function machserial._archive_root(month date, first_seal_id bigint, last_seal_id bigint) returns bytea
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select machserial._merkle_root(
            coalesce(string_agg(sha256(decode('00', 'hex') || s.merkle_root), ''::bytea order by s.id), '')
        )
        from machserial.audit_seals as s
        where
            s.month = _archive_root.month
            and s.id between _archive_root.first_seal_id and _archive_root.last_seal_id
    );
end
$$;
