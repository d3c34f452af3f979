"""Pausing: what the database says of it."""

from __future__ import annotations

import psycopg

from machserial.functions import Row

OPEN_PAUSE = """
    select reason, paused_at, paused_by, until_fenced from machserial.pauses where resumed_at is null
"""
LAST_PAUSES = """
    select id, reason, paused_at, paused_by, resumed_at, resumed_by, resume_reason
    from machserial.pauses
    order by id desc
    limit 20
"""


def status(connection: psycopg.Connection) -> Row:
    """Whether new numbers are refused; who said so, when and why."""
    pause = connection.execute(OPEN_PAUSE).fetchone()
    return {"paused": pause is not None} | (pause or {})


def history(connection: psycopg.Connection) -> list[Row]:
    """The pauses, the newest first."""
    return connection.execute(LAST_PAUSES).fetchall()
