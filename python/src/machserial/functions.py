"""machserial's SQL functions, called by the names of their arguments."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

Row = dict[str, Any]


def call(connection: psycopg.Connection, function: str, **arguments: object) -> list[Row]:
    """The rows of machserial.<function>(argument => value, …).

    An argument that is None is left out, so that the function's own default holds.
    """
    given = {name: _adapted(value) for name, value in arguments.items() if value is not None}
    query = sql.SQL("select * from machserial.{}({})").format(
        sql.Identifier(function),
        sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in given),
    )
    return connection.execute(query, given).fetchall()


def call_one(connection: psycopg.Connection, function: str, **arguments: object) -> Row:
    """The same for a function that returns one row."""
    return call(connection, function, **arguments)[0]


def _adapted(value: object) -> object:
    if isinstance(value, dict):
        return Jsonb(value)
    if isinstance(value, int) and not isinstance(value, bool):
        # As text it takes the type of the function's argument. As a number it would have one by its size, and
        # PostgreSQL would look for another function instead of saying that it is too big.
        return str(value)
    return value
