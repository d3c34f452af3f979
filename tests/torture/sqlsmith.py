"""sqlsmith: statements that nobody would write, over every table and function, in the name of an application.

It makes them up from the catalog, runs each in a transaction of its own and undoes it. The answers stand in the
server's log, with the SQLSTATE before it and the functions that it comes from behind.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import ExitStack

import psycopg
from bad_input import Range, application, make_scene
from servers import Server

from torture import Part, Run

# So many statements are one cycle.
STATEMENTS = 300
ANSWER = re.compile(r"^([0-9A-Z]{5}) (ERROR|FATAL|PANIC):  (.*)$")
CRASH = re.compile(r"was terminated by (signal|exception)|server process .* exited with exit code|^\w{5} PANIC:")
# Relations whose rows cannot be read without an internal error, as many as there are others.
PLANTED = """
create function machserial.planted(given bigint) returns bigint language plpgsql as $$ begin
    raise exception using errcode = 'XX000', message = 'cache lookup failed';
end $$;
do $do$ begin
    for i in 1..30 loop
        execute format(
            'create view machserial.planted_%s as select machserial.planted(p.id) as id from machserial.serials as p', i
        );
    end loop;
end $do$
"""


def reason_to_skip() -> str | None:
    return None if shutil.which("sqlsmith") else "sqlsmith is not here: apt-get install sqlsmith"


def prepare(server: Server, planted: str = "") -> tuple[Range, str]:
    """A populated database: who watches it, and the connection string of an application."""
    server.execute("create database deployed")
    with psycopg.connect(server.dsn("deployed")) as owner:
        owner.execute("create extension machserial")
        owner.execute("select machserial.migrate()")
        make_scene(owner)
        if planted:
            owner.execute(planted)
    watch = Range(*(psycopg.connect(server.dsn("deployed"), autocommit=True) for _ in range(2)))
    role = application(watch)
    server.execute(f"alter role {role} set statement_timeout = '2s'")
    return watch, server.dsn("deployed", user=role)


def entries(log: str) -> list[tuple[str, str, str]]:
    """SQLSTATE, message and whole text of each error in a piece of the log."""
    found: list[tuple[str, str, str]] = []
    for line in log.splitlines():
        answer = ANSWER.match(line)
        if answer:
            found.append((answer[1], answer[3], line))
        elif found:
            code, message, text = found[-1]
            found[-1] = (code, message, f"{text}\n{line}")
    return found


def look_at(run: Run, log: str, number: int) -> None:
    """What a cycle left in the log."""
    for line in log.splitlines():
        if CRASH.search(line):
            run.finding(f"the server crashed: {line}", sqlsmith_seed=number)
    errors = entries(log)
    run.count(operations=STATEMENTS, acknowledged=max(0, STATEMENTS - len(errors)))
    for code, message, text in errors:
        if code.startswith("XX") and re.search(r"function machserial\.", text.split("STATEMENT:")[0]):
            run.finding(f"internal: {code} {message}", sqlsmith_seed=number, log=text[:3000])


def smith(run: Run, planted: str = "") -> None:
    # No statement may fill the disk.
    with run.server(log_line_prefix="%e ", temp_file_limit="200MB") as server, ExitStack() as ending:
        watch, target = prepare(server, planted)
        ending.callback(watch.close)
        for cycle in run.cycles():
            number = run.dice(cycle).randrange(2**31)
            begins = server.log.stat().st_size
            command = ["sqlsmith", f"--target={target}", "--exclude-catalog", f"--seed={number}"]
            try:
                done = subprocess.run(
                    [*command, f"--max-queries={STATEMENTS}"],
                    cwd=run.folder,
                    capture_output=True,
                    text=True,
                    timeout=max(30, run.left + 30),
                )
            except subprocess.TimeoutExpired:
                # On a slow machine a cycle has fewer.
                done = None
            with server.log.open(errors="replace") as log:
                log.seek(begins)
                look_at(run, log.read(), number)
            if done is not None and done.returncode and not run.findings:
                run.finding(f"sqlsmith ended with {done.returncode}: {done.stderr[-500:]}", sqlsmith_seed=number)
            if watch.rows() != watch.content:
                run.finding("something was changed for good", sqlsmith_seed=number)
                watch.content = watch.rows()


def torture(run: Run) -> None:
    smith(run)


PART = Part(
    title="sqlsmith: no statement of an application is answered with an internal error or a crash",
    torture=torture,
    controls={"a function that views call has internal errors": lambda run: smith(run, PLANTED)},
    needs=reason_to_skip,
)
