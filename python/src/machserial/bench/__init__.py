"""The benchmark: machserial beside what PostgreSQL needs for the same rows, and beside other ways of numbering.

sizes      how much a run measures: full, quick, smoke
targets    what is to be reached, as data
place      where it runs: a private server, or an empty database
registry   one machserial with the bare tables beside it; filling and emptying both
measure    taking turns, timing, memory
pgbench    many clients
subjects/  what is measured, a module each
results    what was found: raw figures, medians, ratios
report, plot   how it is shown
"""
