"""A plant with two sites for the tests of roles: everything at site ZZZ has ZZZ in it, so that any of it is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from conftest import install
from psycopg import sql
from servers import Server
from support import call, value

OWN, FOREIGN = "AAA", "ZZZ"
ROLES = ("viewer", "operator", "supervisor", "admin")


def populate(connection: psycopg.Connection, site: str) -> None:
    """Something of every kind at a site."""
    call(connection, "register_site", site_id=site, name=f"plant {site}")
    context = {"work_order_id": f"{site}-WO", "lot_number": f"{site}-LOT", "secret": f"{site}-CTX"}
    call(connection, "generate", part_id="P", quantity=3, site_id=site, context=context, request_id=f"{site}-REQUEST")
    first = call(connection, "register_serial", serial_number=f"{site}-HAND-1", part_id="P", site_id=site)[0]
    second = call(connection, "register_serial", serial_number=f"{site}-HAND-2", part_id="P", site_id=site)[0]
    call(
        connection, "transform", source_serial_id=first.serial_id, target_serial_id=second.serial_id,
        operation_code=f"{site}-OP", routing_sequence=1,
    )  # fmt: skip
    call(
        connection, "register_serial", serial_number=f"{site}-HAND-1", part_id="P", site_id=site, on_conflict="RECORD"
    )
    call(connection, "receive_vendor_serial", serial_number=f"{site}-V", vendor_name=f"{site} Ltd", part_id="P",
         site_id=site)  # fmt: skip
    connection.execute(
        "insert into machserial.late_assignment_placeholders (part_id, site_id, work_order_id) values ('P', %s, %s)",
        (site, f"{site}-PLACE"),
    )
    block = call(connection, "allocate_block", format="PER SITE", quantity=5, holder=f"{site} line", part_id="P",
                 site_id=site, request_id=f"{site}-BLOCK")[0]  # fmt: skip
    used = connection.execute("select s from machserial.block_serials(%s) as s limit 1", (block.block_id,)).fetchone()
    call(connection, "report_block", block_id=block.block_id, used=list(used))
    call(connection, "register_serial", serial_number=f"{site}-EVERYWHERE", part_id="E", site_id=site)


def make_plant(connection: psycopg.Connection) -> None:
    """Two sites, and the roles. P is unique per site and type, E everywhere."""
    call(connection, "register_part", part_id="P", part_type="T")
    call(connection, "register_part", part_id="E", part_type="T", scopes=["ENTERPRISE"])
    call(connection, "create_format", name="PER SITE", pattern="{SITE}-{SEQ:6}", counter_per="SITE")
    call(connection, "create_format", name="SHARED", pattern="SHARED-{SEQ:6}")
    call(connection, "assign_format", part_id="P", format="PER SITE")
    for site in (OWN, FOREIGN):
        populate(connection, site)
    call(connection, "create_roles")
    connection.execute("select machserial.seal_audit()")


def make_logins(connection: psycopg.Connection, limited: bool) -> None:
    """A login for each role; those that are limited to OWN are called own_<role>."""
    for role in ROLES:
        name = f"own_{role}" if limited else f"all_{role}"
        connection.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
        connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(f"machserial_{role}"), sql.Identifier(name)))
        if limited:
            call(connection, "grant_site", role=name, site_id=OWN)


class Plant:
    """A database with both sites, and connections to it by login."""

    def __init__(self, dsn: str, owner: str) -> None:
        self.dsn = dsn
        self.opened: list[psycopg.Connection] = []
        self.owner = self.as_login(owner)
        make_plant(self.owner)
        make_logins(self.owner, limited=True)
        make_logins(self.owner, limited=False)
        # As README once said, and as many do: nothing of it may lead past the limits.
        self.owner.execute("grant select on all tables in schema machserial to own_operator, all_operator")

    def as_login(self, login: str) -> psycopg.Connection:
        self.opened.append(psycopg.connect(self.dsn, user=login, autocommit=True))
        return self.opened[-1]

    def close(self) -> None:
        for one in self.opened:
            one.close()


@contextmanager
def limited_plant(server: Server, ordinary: bool) -> Iterator[Plant]:
    """Owned by a superuser, with the extension, or by somebody who is none, by the bundle."""
    owner = "plant" if ordinary else server.user
    if ordinary:
        server.execute("create role plant login createrole")
    server.execute(f"create database limited owner {owner}")
    with psycopg.connect(server.dsn("limited"), user=owner) as connection:
        install(connection, "plain" if ordinary else "extension")
    made = Plant(server.dsn("limited"), owner)
    yield made
    made.close()
    server.execute("drop database limited with (force)")
    made_roles = "select quote_ident(rolname) from pg_roles where rolname !~ '^pg_' and rolname <> %s"
    # At once: from PostgreSQL 16 on a role that granted another to a third depends on that.
    server.execute(f"drop role {', '.join(name for (name,) in server.execute(made_roles, (server.user,)))}")


def ordinary_database(new_database: Callable[..., str], server: Server, mode: str = "plain") -> str:
    """A database with machserial of an owner who is no superuser: plant."""
    server.execute("create role plant login createrole")
    dsn = new_database("plant", owner="plant")
    with psycopg.connect(dsn, user="plant") as connection:
        install(connection, mode)
    return dsn


def everything(connection: psycopg.Connection, relation: str) -> str:
    """All that a relation shows, as one text."""
    return value(connection, f"select coalesce(string_agg(r::text, ' '), '') from machserial.{relation} as r")


def relations(connection: psycopg.Connection) -> list[str]:
    """Tables and views, and the partitions by themselves."""
    return [
        row[0]
        for row in connection.execute(
            "select relname::text from pg_class where relnamespace = 'machserial'::regnamespace "
            "and relkind in ('r', 'p', 'v') order by 1"
        ).fetchall()
    ]


def text_of(error: psycopg.Error) -> str:
    """All that an error says."""
    diag = error.diag
    parts = (diag.message_primary, diag.message_detail, diag.message_hint, diag.context, diag.constraint_name)
    return " ".join(part or "" for part in parts)


ROOT = Path(__file__).resolve().parent.parent
