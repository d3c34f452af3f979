"""Writes what docs/ says of the database from the database itself, so that it cannot say otherwise: make docs.

    .venv/bin/python tests/make_docs.py

tests/test_docs.py fails while a file differs from what this would write.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from machserial.cli import main as command
from machserial.operations.health import number
from servers import Server, choose_bin

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
GENERATED = "<!-- Made by make docs. What is wrong here is wrong in the database or in tests/make_docs.py. -->\n"

HEALTH = """# How the database is

{generated}
`machserial health` asks the database everything that follows and says what was found, from when on it is bad, and
what mends it. `select * from machserial.health()` is the same in SQL, for every role that may call it;
`machserial.health_check('connections')` is one of them. What cannot be measured is UNKNOWN, never OK: what the role may
not see (grant it `pg_monitor`, and what the remedy names), what only the primary of a standby knows, and what the
server does not count, without data checksums or pg_stat_statements.

```
{help}
```

- `--live` asks for no login and runs no SQL: it tells a server that is there from one that is not.
- `--ready` is one query, `select * from machserial.ready()`: OK when applications can read and get numbers, WARNING
  when they can only read (on a standby, where transactions are read-only, or while machserial is paused), CRITICAL
  when the schema is not that of the code.
- Everything: a check that takes longer than a second is UNKNOWN, and the others are asked.

## The checks

{table}

A value that has reached a threshold counts. The thresholds are rows of `machserial.health_thresholds`, which the owner
of machserial may change; each change is an audit event. `null` means: never. Where both are null, the check is
switched off: it is OK whatever it finds or cannot measure.

```sql
update machserial.health_thresholds set warning = 14, critical = 3 where name = 'counter_days_left';
update machserial.health_thresholds set warning = null, critical = null where name = 'slow_statements';
```

On a standby the checks `read_only` and `prepared_transactions` are always UNKNOWN. Watch there what is its own:

```
machserial health --check replication_lag --check connections --check xid_age
```

The command itself adds:

| Check | What it says |
|---|---|
| `connection` | whether the database can be reached, and keeps answering; if not, it is CRITICAL |
| `command_version` | WARNING when the command and the code in the database are not of one version |
| `redis` | where `REDIS_URL` is set: WARNING when Redis does not answer within 50 ms |

and, where the extension `machserial_plpython` is installed, the rows of `machserial.host_health()`.

## Monitoring

Nagios, Icinga and their kin take the exit status and the output as they are:

```
machserial health --format nagios
```

For Prometheus, let a timer write into the folder of node_exporter's textfile collector. The file is replaced as a
whole:

```
machserial health --format prometheus --output /var/lib/node_exporter/textfile/machserial.prom
```

`machserial_health_status` is 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, by check; `machserial_health_value`, `…_warning`
and `…_critical` are the figures; `machserial_health_worst` is the exit status. `machserial_health_time_seconds` says
when it was asked: raise an alarm when that is long ago, because then the timer does not run.
"""


def health_page(connection: psycopg.Connection) -> str:
    return HEALTH.format(generated=GENERATED, help=help_of("health"), table=table_of_checks(connection))


def help_of(*arguments: str) -> str:
    """What the command says of itself, in the width of the docs."""
    result = CliRunner().invoke(
        command, [*arguments, "--help"], prog_name="machserial", terminal_width=100, max_content_width=100
    )
    return result.stdout.rstrip()


def table_of_checks(connection: psycopg.Connection) -> str:
    lines = ["| Check | What the value is | Unit | WARNING | CRITICAL |", "|---|---|---|---|---|"]
    checks = connection.execute(
        "select name, description, unit, warning, critical, lower_is_worse "
        "from machserial.health_thresholds order by name"
    )
    for name, description, unit, warning, critical, lower_is_worse in checks:
        sign = "≤" if lower_is_worse else "≥"
        limits = [f"{sign} {number(limit)}" if limit is not None else "" for limit in (warning, critical)]
        lines.append(f"| `{name}` | {description} | {unit} | {' | '.join(limits)} |")
    return "\n".join(lines)


PAGES: dict[str, Callable[[psycopg.Connection], str]] = {
    "docs/health.md": health_page,
}


def main() -> int:
    with Server(choose_bin(os.environ.get("MACHSERIAL_TEST_BIN"))) as server:
        server.install_extension(BUILD)
        with psycopg.connect(server.dsn("postgres")) as connection:
            connection.execute("create extension machserial")
            connection.execute("select machserial.migrate()")
            for path, page in PAGES.items():
                (ROOT / path).write_text(page(connection))
                print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
