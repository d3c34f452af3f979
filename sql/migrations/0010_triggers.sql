-- 0010_triggers.sql
select 1;
