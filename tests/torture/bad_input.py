"""Bad input, all of it: every bad value for every argument and column, then calls that hypothesis makes up."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bad_input import PLANTED, Range, application, functions, made_up, make_scene
from servers import Server

from torture import Part, Run

# So many made-up calls are one cycle.
CALLS = 200


def prepare(server: Server, run: Run, planted: str = "") -> tuple[Range, Range]:
    """A populated database; who asks as its owner, and who as an application."""
    server.execute("create database deployed")
    with psycopg.connect(server.dsn("deployed")) as owner:
        owner.execute("create extension machserial")
        owner.execute("select machserial.migrate()")
        make_scene(owner)
        if planted:
            owner.execute(planted)
    owners = Range(*(psycopg.connect(server.dsn("deployed"), autocommit=True) for _ in range(2)), is_thorough=True)
    return owners, connected(server, application(owners))


def connected(server: Server, role: str) -> Range:
    asker = psycopg.connect(server.dsn("deployed", user=role), autocommit=True)
    return Range(asker, psycopg.connect(server.dsn("deployed"), autocommit=True), is_thorough=True)


def tell(run: Run, tried: Range, subject: str, calls: list) -> None:
    """Asks, and reports what was wrong."""
    try:
        answers = tried.ask_all(calls)
    except psycopg.OperationalError as error:
        run.finding(f"the server is gone: {error}", subject=subject, statements=[call.statement for call in calls][-5:])
        raise
    run.count(operations=len(answers), acknowledged=sum(answer.sqlstate is None for answer in answers))
    for fault in tried.faults:
        run.finding(fault, subject=subject)
    tried.faults.clear()


def torture(run: Run) -> None:
    with run.server() as server, ExitStack() as ending:
        owners, applications = prepare(server, run)
        ending.callback(owners.close)
        ending.callback(applications.close)
        works = [(f.name, owners, lambda f=f: list(owners.calls(f))) for f in owners.functions]
        works += [(t, owners, lambda t=t, c=c: list(owners.writes(t, c))) for t, c in owners.tables()]
        private = functions(owners.witness, "^_")
        # Whoever calls those directly may wait for ever: they trust that their callers have looked at what they get.
        privates = connected(server, applications.asker.info.user)
        ending.callback(privates.close)
        privates.asker.execute("set statement_timeout = '1s'")
        works += [(f.name, privates, lambda f=f: list(privates.careless_calls(f))) for f in private]
        # In another order each time, so that a short run tries other things than the one before.
        run.dice("order").shuffle(works)
        for cycle in run.cycles():
            if works:
                subject, tried, calls = works.pop()
                tell(run, tried, subject, calls())
            else:
                number = run.dice(cycle).randrange(2**32)
                tell(run, applications, f"made_up(…, {number}, {CALLS})", made_up(applications, number, CALLS))
        leave_sound(run, owners)


def leave_sound(run: Run, tried: Range) -> None:
    """After all of that the database says of itself that it is sound."""
    for query in (
        "select name, object, message from machserial.integrity()",
        "select * from machserial.verify_audit()",
    ):
        for row in tried.witness.execute(query).fetchall():
            run.finding(f"not sound any more: {row}", query=query)


def notices(planted: str) -> object:
    """A control: a function with a fault is installed."""

    def control(run: Run) -> None:
        with run.server() as server, ExitStack() as ending:
            owners, applications = prepare(server, run, planted)
            ending.callback(owners.close)
            ending.callback(applications.close)
            function = next(function for function in owners.functions if function.name == "planted")
            owners.asker.execute("set statement_timeout = '1s'")
            tell(run, owners, "planted", list(owners.calls(function))[:5])

    return control


PART = Part(
    title="bad input: a result or a documented error, and nothing changed",
    torture=torture,
    controls={f"a function with a fault is installed: {fault}": notices(sql) for fault, sql in PLANTED.items()},
)
