create table machserial.settings (
    name text not null primary key,
    value text not null,
    description text not null
);

comment on table machserial.settings is 'What the owner may choose for all who use this database.';
comment on column machserial.settings.name is 'Name of the setting.';
comment on column machserial.settings.value is 'What it is set to.';
comment on column machserial.settings.description is 'What it says, and in which unit.';

insert into machserial.settings (name, value, description) values (
    'audit_retention_days', '2555',
    'How long audit events stay in the database before machserial audit archive takes them, in days.'
);
