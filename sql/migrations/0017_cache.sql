create table machserial.cache_epochs (
    epoch bigint not null primary key,
    secret bytea not null,
    begun_at timestamptz not null default now(),
    begun_by text collate "C" not null
    default coalesce(nullif(current_setting('machserial.actor', true), ''), session_user),
    reason text not null,
    constraint cache_epochs_secret_is_long_enough check (octet_length(secret) >= 32)
);

comment on table machserial.cache_epochs is
'Caches of taken numbers, such as that in Redis, hold facts of the newest epoch only: with each new one all
that they knew is forgotten. Rows are only ever added.';
comment on column machserial.cache_epochs.epoch is 'Key: 1, 2, 3, ...; the greatest is the present one.';
comment on column machserial.cache_epochs.secret is
'With what entries of the cache are signed, so that none is believed that somebody else has made. Whoever may
read it may write to the cache.';
comment on column machserial.cache_epochs.begun_at is 'Since when.';
comment on column machserial.cache_epochs.begun_by is
'Who began it: machserial.actor, else the session''s user.';
comment on column machserial.cache_epochs.reason is 'Why.';

create trigger cache_epochs_are_kept
before update or delete or truncate on machserial.cache_epochs
for each statement execute function machserial._refuse_removal(
    'cache epochs', 'Begin another one: machserial.begin_cache_epoch(reason).'
);

select machserial.begin_cache_epoch('installed');
