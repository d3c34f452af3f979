"""What can go wrong, as one line for people, one object for programs, and one exit code for scripts."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import traceback
from enum import IntEnum
from typing import TextIO

import click
import psycopg

from machserial import __version__
from machserial.masking import masked, visible


class Exit(IntEnum):
    """The exit codes of the command. A released one never changes its meaning."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    CONNECTION = 3
    NOT_DEPLOYED = 4
    PRIVILEGE = 5
    UNEXPECTED = 70
    INTERRUPTED = 130
    READER_GONE = 141


EXIT_CODES = {
    Exit.OK: "done",
    Exit.REFUSED: "refused by machserial: bad argument, unknown part, duplicate, wrong state, …",
    Exit.USAGE: "wrong usage of the command line",
    Exit.CONNECTION: "no connection to the database",
    Exit.NOT_DEPLOYED: "machserial is absent in the database, or older or newer than this command",
    Exit.PRIVILEGE: "the database role lacks a privilege",
    Exit.UNEXPECTED: "unexpected; a trace file is left behind",
    Exit.INTERRUPTED: "interrupted; what was not committed is undone",
    Exit.READER_GONE: "done, but whoever read the output went away before its end",
}

# What machserial refuses on purpose: the classes of arguments and constraints, and single conditions.
REFUSED_CLASSES = ("22", "23")
REFUSED_STATES = ("P0002", "53200", "55000", "55P03", "0A000", "25006", "40001", "40P01", "57014")
# What PostgreSQL says of objects that are not there.
ABSENT_STATES = ("3F000", "42883", "42P01", "42703", "42704")
PRIVILEGE_STATE = "42501"
READ_ONLY_STATE = "25006"
CONNECTION_CLASSES = ("08", "57P")

# For conditions that PostgreSQL itself reports without a hint.
REMEDIES = {
    "22003": "give a smaller number",
    "22007": "write the time as 2026-12-31 23:59+01",
    "22008": "write the time as 2026-12-31 23:59+01",
    "22021": "the database is not in UTF8 and holds bytes that are not UTF-8: store the text again as UTF-8",
    "22P05": "use characters that the encoding of the database has, or move to a database in UTF8",
    READ_ONLY_STATE: "connect to a server that can be written to: target_session_attrs=read-write",
    "40001": "run it again",
    "40P01": "run it again",
    "42501": "ask the owner of machserial in this database for the privilege, or connect as another role",
    "53200": "see the check lock_table of 'machserial health', and how much memory the server has left",
    "55P03": "run it again when the other session has ended",
    "57014": "raise the role's statement_timeout, or ask for less at once",
}


def takes_any_text(stream: TextIO) -> bool:
    """Whether every character can be written there. What cannot is escaped: see output.escape_what_cannot_be_printed().

    JSON has escapes of its own, which its readers understand.
    """
    return (stream.encoding or "").lower().startswith("utf")


def one_line(message: str, detail: str | None, remedy: str | None) -> str:
    """What is to say, what was found, and what to do about it."""
    if detail:
        message += f" ({detail.rstrip('.')})"
    if remedy:
        message += f"; remedy: {remedy}"
    return " ".join(message.split())


class ExpectedError(click.ClickException):
    """An error whose cause and remedy are known.

    message: what is wrong; detail: what was found; remedy: what to do about it; code: the exit code;
    sqlstate: of the error in the database, if it came from there.
    """

    def __init__(
        self,
        message: str,
        *,
        detail: str | None = None,
        remedy: str | None = None,
        code: Exit = Exit.REFUSED,
        sqlstate: str | None = None,
    ) -> None:
        super().__init__(message)
        self.detail = detail
        self.remedy = remedy
        self.exit_code = int(code)
        self.sqlstate = sqlstate
        self.shown_as_json = False

    def show(self, file=None) -> None:
        """Writes the error to stderr: one line, or one JSON object where --json was asked for."""
        print(self.as_json() if self.shown_as_json else self.as_line(), file=sys.stderr)

    def as_line(self) -> str:
        return visible(masked(one_line(f"machserial: {self.message}", self.detail, self.remedy)))

    def as_json(self) -> str:
        fields = ("message", "detail", "remedy", "sqlstate", "exit_code")
        values = {name: getattr(self, name) for name in fields}
        error = {name: masked(one) if isinstance(one, str) else one for name, one in values.items() if one is not None}
        return visible(json.dumps({"error": error}, ensure_ascii=not takes_any_text(sys.stderr)))


class NotDeployed(ExpectedError):
    """machserial is absent in the database, or not of the version that this command needs."""

    def __init__(self, message: str, detail: str | None = None, remedy: str = "machserial deploy") -> None:
        super().__init__(message, detail=detail, remedy=remedy, code=Exit.NOT_DEPLOYED)


def from_database(error: psycopg.Error) -> ExpectedError | None:
    """The expected error that error stands for; None if it is unexpected or concerns an absent object."""
    if _is_lost_connection(error):
        return ExpectedError(
            "the connection to the database was lost",
            detail=str(error),
            remedy="run it again; with the same --request-id the same serials come back",
            code=Exit.CONNECTION,
        )
    code = Exit.REFUSED if is_an_unknown_object(error) else _exit_code(error.sqlstate)
    if code is None:
        return None
    return ExpectedError(
        error.diag.message_primary or str(error),
        detail=error.diag.message_detail,
        remedy=error.diag.message_hint or REMEDIES.get(error.sqlstate),
        code=code,
        sqlstate=error.sqlstate,
    )


def is_an_unknown_object(error: psycopg.Error) -> bool:
    """Whether machserial itself says so, of a role that was named; not PostgreSQL, which misses one of machserial's."""
    return error.sqlstate in ABSENT_STATES and error.diag.source_function == "exec_stmt_raise"


def _is_lost_connection(error: psycopg.Error) -> bool:
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(CONNECTION_CLASSES)


def _exit_code(sqlstate: str | None) -> Exit | None:
    if sqlstate is None:
        return None
    if sqlstate == PRIVILEGE_STATE:
        return Exit.PRIVILEGE
    if sqlstate in REFUSED_STATES or sqlstate.startswith(REFUSED_CLASSES):
        return Exit.REFUSED
    return None


def unexpected(error: BaseException) -> ExpectedError:
    """Leaves a trace file in the folder for temporary files; the error that names it."""
    handle, path = tempfile.mkstemp(prefix="machserial-trace-", suffix=".txt")
    report = [
        f"machserial {__version__}, Python {platform.python_version()}, psycopg {psycopg.__version__}, "
        f"{platform.platform()}\n\n",
        *traceback.format_exception(error),
    ]
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(masked("".join(report)))
    # The rest of it is in the trace.
    summary = str(error).strip().partition("\n")[0] or type(error).__name__
    return ExpectedError(
        f"unexpected error: {summary}",
        remedy=f"report it with the trace in {path}",
        code=Exit.UNEXPECTED,
        sqlstate=getattr(error, "sqlstate", None),
    )
