"""Work that needs locks which everybody's work holds: tried for half a second at a time, never waited for.

A session that waits for such a lock makes all sessions behind it wait as well. So each try gives up early, the
transaction ends, and the next begins after a while that differs from try to try.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import psycopg

from machserial.errors import ExpectedError

log = logging.getLogger(__name__)

LOCK_TIMEOUT = "500ms"
LOCK_NOT_AVAILABLE = "55P03"
ATTEMPTS = 10
LONGEST_PAUSE = 3.0  # seconds

Result = TypeVar("Result")

HOLDERS = """
    select
        a.pid, a.usename as user, a.application_name as application, a.state,
        extract(epoch from now() - a.xact_start)::integer as seconds
    from pg_stat_activity as a
    where
        a.pid <> pg_backend_pid()
        and a.pid in (
            select l.pid from pg_locks as l
            where
                l.granted
                and l.relation in (select oid from pg_class where relnamespace = to_regnamespace('machserial'))
        )
    order by a.xact_start
    limit 3
"""


def patiently(
    connect: Callable[[], AbstractContextManager[psycopg.Connection]],
    work: Callable[[psycopg.Connection], Result],
    attempts: int = ATTEMPTS,
) -> Result:
    """What work(connection) gives, in a transaction of its own each time it is tried.

    Raises ExpectedError with the holders of the locks when the last of attempts has found them taken as well.
    """
    for attempt in range(1, attempts + 1):
        try:
            with connect() as connection:
                connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
                return work(connection)
        except ExpectedError as error:
            if error.sqlstate != LOCK_NOT_AVAILABLE:
                raise
            if attempt == attempts:
                raise _given_up(connect, error, attempts) from error
            log.info("attempt %s of %s: %s", attempt, attempts, error.message)
        time.sleep(random.uniform(0.1, min(LONGEST_PAUSE, 0.2 * 2**attempt)))
    raise AssertionError("attempts is at least 1")


def _given_up(connect: Callable, error: ExpectedError, attempts: int) -> ExpectedError:
    with connect() as connection:
        holders = connection.execute(HOLDERS).fetchall()
    found = "; ".join(
        f"process {holder['pid']}, user {holder['user']}, application {holder['application'] or 'unknown'}, "
        f"in a transaction for {holder['seconds']} s"
        for holder in holders
        if holder["seconds"] is not None
    )
    return ExpectedError(
        f"{attempts} attempts, and others held the tables each time: nothing is changed",
        detail=f"now: {found}" if found else error.detail or error.message,
        remedy="run it again when these transactions have ended, or end them",
        sqlstate=error.sqlstate,
    )
