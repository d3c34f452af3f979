"""What the tests of the command share: running it, its exit codes, and what it prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import psycopg
from click.testing import CliRunner, Result
from machserial.cli import main

OK, REFUSED, USAGE, CONNECTION, NOT_DEPLOYED, PRIVILEGE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
COMMAND = (sys.executable, "-m", "machserial")


def environment(**extra: str) -> dict[str, str]:
    """Without anything that says where a database is, but for extra."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k not in ("DATABASE_URL", "LOG_LEVEL")}
    return clean | extra


def machserial(*arguments: str, stdin: bytes | None = None, **extra: str) -> Result:
    """Runs the command, in this process because that is faster; extra goes into its environment."""
    before, wanted = dict(os.environ), environment(**extra)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        return CliRunner().invoke(main, arguments, input=stdin, prog_name="machserial")
    finally:
        os.environ.clear()
        os.environ.update(before)


def in_a_process(*arguments: str, **extra: str) -> subprocess.CompletedProcess:
    """The same in a process of its own, for what depends on one."""
    return subprocess.run([*COMMAND, *arguments], env=environment(**extra), capture_output=True, text=True, timeout=120)


def heed_interrupts() -> None:
    """For preexec_fn: what a shell without job control starts in the background ignores Ctrl-C, as do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def answer(*arguments: str, **extra: str) -> object:
    """What the command prints with --json, which must succeed."""
    result = machserial("--json", *arguments, **extra)
    assert result.exit_code == OK, result.stderr
    return json.loads(result.stdout)


def refusal(code: int, *arguments: str, **extra: str) -> str:
    """The one line on stderr of a command that must end with that exit code."""
    result = machserial(*arguments, **extra)
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def usage(*arguments: str) -> str:
    """What is said of a command line that is wrong; no database is asked."""
    result = machserial(*arguments)
    assert (result.exit_code, result.stdout) == (USAGE, ""), result.output
    return result.stderr


def query(dsn: str, sql: str, *parameters: object) -> list[tuple]:
    with psycopg.connect(dsn) as connection:
        cursor = connection.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else []


@dataclass(frozen=True)
class Command:
    """The command at one database."""

    dsn: str

    def run(self, *arguments: str, stdin: bytes | None = None) -> Result:
        return machserial("--dsn", self.dsn, *arguments, stdin=stdin)

    def answer(self, *arguments: str) -> object:
        return answer("--dsn", self.dsn, *arguments)

    def refusal(self, code: int, *arguments: str) -> str:
        return refusal(code, "--dsn", self.dsn, *arguments)

    def query(self, sql: str, *parameters: object) -> list[tuple]:
        return query(self.dsn, sql, *parameters)
