-- 0011_blocks.sql
select 1;
