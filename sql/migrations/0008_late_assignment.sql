-- 0008_late_assignment.sql
select 1;
