"""The databases of a test server: copies of templates, and one for each install mode in which nothing stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row
from servers import Server

# A shared database that has grown by this is made anew: what was rolled back still fills its tables.
GROWTH = 16 * 1024**2


class Databases:
    """Makes and drops databases of a server, over one session."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.session = psycopg.connect(server.dsn("postgres"), autocommit=True)

    def close(self) -> None:
        self.session.close()

    def create(self, name: str, template: str = "template1", owner: str | None = None) -> str:
        """Makes a database; its connection string."""
        command = sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        if owner:
            command += sql.SQL(" owner {}").format(sql.Identifier(owner))
        if self.server.major >= 15:
            # PostgreSQL 15 and later else write the whole copy to their log.
            command += sql.SQL(" strategy file_copy")
        self.session.execute(command)
        return self.server.dsn(name)

    def drop(self, name: str) -> None:
        """Drops a database, if it is there, and ends its sessions."""
        self.session.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    @contextmanager
    def lent(self, name: str, template: str = "template1", owner: str | None = None) -> Iterator[str]:
        """A database for the block; its connection string."""
        dsn = self.create(name, template, owner)
        try:
            yield dsn
        finally:
            self.drop(name)

    def drop_roles(self, *but: str) -> None:
        """Drops all roles but the superuser, PostgreSQL's own and these."""
        names = self.session.execute(
            "select rolname from pg_roles where rolname <> all(%s) and rolname !~ '^pg_'", ([self.server.user, *but],)
        ).fetchall()
        if names:
            # At once: from PostgreSQL 16 on a role that granted another to a third depends on that.
            roles = sql.SQL(", ").join(sql.Identifier(name) for (name,) in names)
            self.session.execute(sql.SQL("drop role {}").format(roles))


class SharedSession(psycopg.Connection):
    """What tests share: it commits nothing."""

    def _refuse(self, *_: object) -> None:
        raise AssertionError("this test shares its database: mark it own_database, so that it may commit and roll back")

    commit = rollback = set_autocommit = _refuse


class RolledBack:
    """One session of one database, for tests in which nothing commits: each undoes what it did.

    What the server has compiled and planned stays for the next test; that is most of what a small test costs.
    """

    def __init__(self, databases: Databases, template: str) -> None:
        self.databases, self.template, self.name = databases, template, f"shared_{template}"
        self.session: psycopg.Connection | None = None

    def close(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None
        self.databases.drop(self.name)

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        """The session, in a transaction that is rolled back at the end."""
        if self.session is None or self.session.broken or self._has_grown():
            self._renew()
        self.session.row_factory = tuple_row
        try:
            with self.session.transaction(force_rollback=True):
                yield self.session
            with self.session.transaction():
                self.session.execute("select pg_advisory_unlock_all()")
        except psycopg.Error:
            self.close()
            raise

    def _renew(self) -> None:
        self.close()
        self.session = SharedSession.connect(self.databases.create(self.name, self.template))
        with self.session.transaction():
            # No rollback takes back what earlier tests have drawn from sequences. The first test finds it so as well:
            # else it could pass when it runs alone and fail among others.
            self.session.execute(
                "select case when s.last_value is null then setval(q.name, 1000 + row_number() over ())"
                " else nextval(q.name) end from pg_sequences as s"
                " cross join lateral (select format('%I.%I', s.schemaname, s.sequencename)) as q (name)"
                " where s.schemaname = 'machserial'"
            )
        self.size = self._size()

    def _has_grown(self) -> bool:
        return self._size() > self.size + GROWTH

    def _size(self) -> int:
        query = "select pg_database_size(%s)"
        return self.databases.session.execute(query, (self.name,)).fetchone()[0]
