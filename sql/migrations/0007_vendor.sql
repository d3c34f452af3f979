-- 0007_vendor.sql
select 1;
