-- 0009_propagation.sql
select 1;
