"""sql/privileges.sql against the catalog: each role has what its rule and its lists say of each object there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import psycopg
import pytest
from databases import Databases
from psycopg import sql
from roles_support import ROLES, relations
from support import call, mostly_slow, value

pytestmark = pytest.mark.both_modes

PRIVILEGES = {
    "function": ("execute",),
    "table": ("select", "insert", "update", "delete", "truncate", "references", "trigger"),
    "view": ("select", "insert", "update", "delete", "truncate", "references", "trigger"),
    "sequence": ("usage", "select", "update"),
    "type": ("usage",),
    "schema": ("usage", "create"),
}
# kind, name, and what the privilege functions of PostgreSQL take.
OBJECTS = """
    select 'function' as kind, proname::text as name, oid::regprocedure::text as object
    from pg_proc where pronamespace = 'machserial'::regnamespace
    union all
    select case relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end, relname::text,
        oid::regclass::text
    from pg_class where relnamespace = 'machserial'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    union all
    -- The types of tables and arrays have no privileges of their own.
    select 'type', t.typname::text, t.oid::regtype::text
    from pg_type as t left join pg_class as c on c.oid = t.typrelid
    where t.typnamespace = 'machserial'::regnamespace and t.typelem = 0 and coalesce(c.relkind, 'c') = 'c'
    union all
    select 'schema', nspname::text, nspname::text from pg_namespace where nspname = 'machserial'
    order by 1, 2, 3
"""
DEFINERS = """
    select proname::text from pg_proc where pronamespace = 'machserial'::regnamespace and prosecdef
"""


class Listed:
    """What each role may do with each object that is there."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.definers = {name for (name,) in connection.execute(DEFINERS)}
        # Of each kind and name, who (from_role) may do what.
        self.lists: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for from_role, privilege, kind, objects in connection.execute("select * from machserial._privileges()"):
            for name in objects.split():
                self.lists.setdefault((kind, name), []).append((from_role, privilege))

    def of(self, kind: str, name: str) -> list[tuple[str, str]]:
        by_list = self.lists.get((kind, name_in_list(name)), [])
        by_rule = self._by_rule(kind, name)
        if by_rule and by_rule not in {privilege for _, privilege in by_list}:
            return [*by_list, ("viewer", by_rule)]
        return by_list

    def _by_rule(self, kind: str, name: str) -> str | None:
        if kind == "function" and name.startswith("_") and name not in self.definers:
            return "execute"
        return {"table": "select", "view": "select"}.get(kind)

    def may(self, kind: str, name: str, role: str) -> set[str]:
        if kind == "type":
            return set() if name == "limited_to_sites" else {"usage"}
        return {
            privilege
            for from_role, privilege in self.of(kind, name)
            if from_role == "public" or (from_role in ROLES and ROLES.index(role) >= ROLES.index(from_role))
        }


def name_in_list(name: str) -> str:
    return re.sub(r"(_[0-9]+)+$", "_*", name)


def of_nobody(connection: psycopg.Connection) -> list[str]:
    """Functions that no role can call although they are not private: a list was forgotten."""
    known = Listed(connection)
    return [
        name
        for kind, name, _ in connection.execute(OBJECTS).fetchall()
        if kind == "function" and not name.startswith("_") and not known.of(kind, name)
    ]


def differences(connection: psycopg.Connection) -> list[str]:
    """Role by object by privilege: where the catalog says something else than the rule and the lists."""
    known = Listed(connection)
    objects = connection.execute(OBJECTS).fetchall()
    given = held(connection, objects, [f"machserial_{role}" for role in ROLES])
    found = []
    for kind, name, one in objects:
        for role in ROLES:
            may, has = known.may(kind, name, role), given[f"machserial_{role}", kind, one]
            if has != may:
                found.append(f"{role} has {sorted(has)} on {kind} {one}, and should have {sorted(may)}")
    return found


def held(connection: psycopg.Connection, objects: list[tuple], roles: list[str]) -> dict[tuple, set[str]]:
    """What the catalog says that each role may do with each object: of (role, kind, object)."""
    given = {}
    for kind, privileges in PRIVILEGES.items():
        query = sql.SQL(
            "select r.name, o.name, array("
            "select p.name from unnest(%s::text[]) as p (name) where {}(r.name, o.name, p.name)"
            ") from unnest(%s::text[]) as r (name) cross join unnest(%s::text[]) as o (name)"
        ).format(sql.Identifier(f"has_{ {'view': 'table'}.get(kind, kind) }_privilege"))
        names = [one for of_kind, _, one in objects if of_kind == kind]
        for role, one, may in connection.execute(query, (list(privileges), roles, names)):
            given[role, kind, one] = set(may)
    return given


COLUMNS = """
    select format('%%s.%%s', c.relname, a.attname), has_column_privilege(%(role)s, c.oid, a.attnum, %(privilege)s)
        and not has_table_privilege(%(role)s, c.oid, %(privilege)s)
    from pg_class as c inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p', 'v') order by 1
"""


@pytest.fixture(scope="module")
def furnished(databases: Databases, template: Callable[..., str], mode: str) -> Iterator[psycopg.Connection]:
    """With the roles, and what comes into being as machserial runs."""
    with databases.lent("furnished", template(mode)) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        call(connection, "register_part", part_id="P", part_type="T")
        call(connection, "create_format", name="F", pattern="F{SEQ:6}")
        call(connection, "create_roles")
        yield connection
    databases.drop_roles()


@pytest.fixture
def plant(furnished: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """In a transaction that is rolled back."""
    with furnished.transaction(force_rollback=True):
        yield furnished


# The owner's alone, as their comments say.
OWNERS_ALONE = ["change_owner", "create_roles", "drop_archived", "record_archive"]


def test_every_public_function_is_in_a_list(plant):
    assert of_nobody(plant) == OWNERS_ALONE
    plant.execute("create function machserial.planted() returns int language sql as 'select 1'")
    assert of_nobody(plant) == sorted([*OWNERS_ALONE, "planted"])


def test_nothing_is_listed_that_is_not_there(plant):
    there = {(kind, name_in_list(name)) for kind, name, _ in plant.execute(OBJECTS).fetchall()}
    anybody = {"role": "postgres", "privilege": "update"}
    there |= {("column", name) for name, _ in plant.execute(COLUMNS, anybody).fetchall()}
    lists = Listed(plant).lists
    of_superusers = {key for key, rows in lists.items() if rows[0][0] == "superuser"}
    assert sorted(set(lists) - there - of_superusers) == []


def test_a_list_of_private_functions_is_an_exception_to_the_rule(plant):
    """A private function that runs as its caller needs none."""
    known = Listed(plant)
    named = {name for kind, name in known.lists if kind == "function" and name.startswith("_") and "*" not in name}
    needless = {
        name for name in named - known.definers if known.of("function", name)[0][0] in ("viewer", *ROLES)
    }
    assert needless == set()


@pytest.mark.parametrize(
    ("planted", "may"),
    [
        ("create function machserial.planted() returns int language sql as 'select 1'", set()),
        ("create function machserial._planted() returns int language sql as 'select 1'", {"execute"}),
        ("create function machserial._planted() returns int language sql security definer as 'select 1'", set()),
        ("create table machserial.planted (id int)", {"select"}),
        ("create view machserial.planted as select 1 as one", {"select"}),
        ("create sequence machserial.planted", set()),
    ],
)
def test_a_new_object_gets_what_the_rule_says(plant, planted, may):
    plant.execute(planted)
    # Default privileges give functions to everybody.
    call(plant, "migrate")
    plant.execute("select machserial._close_functions()")
    given = held(plant, plant.execute(OBJECTS).fetchall(), ["machserial_viewer"])
    [has] = [has for (_, _, one), has in given.items() if "planted" in one and "planted[]" not in one]
    assert has == may
    assert differences(plant) == []


def test_every_role_may_what_is_listed_and_nothing_else(plant):
    assert differences(plant) == []
    known = Listed(plant)
    for role in ROLES:
        for privilege in ("insert", "update"):
            given = {"role": f"machserial_{role}", "privilege": privilege}
            columns = plant.execute(COLUMNS, given).fetchall()
            listed_columns = {
                name for kind, name in known.lists if kind == "column" and privilege in known.may(kind, name, role)
            }
            assert {name for name, may in columns if may} == listed_columns, (role, privilege)


@pytest.mark.parametrize(
    "fault",
    mostly_slow(
        [
            "grant execute on function machserial.migrate() to machserial_viewer",
            "grant update on machserial.counters to machserial_operator",
            "revoke select on machserial.serials from machserial_viewer",
            "grant usage on sequence machserial.serials_id_seq to machserial_admin",
            "grant insert on machserial.audit_events to machserial_admin",
        ],
        [
            "grant execute on function machserial.migrate() to machserial_viewer",
            "revoke select on machserial.serials from machserial_viewer",
        ],
    ),
)
def test_what_differs_is_noticed_and_mended(plant, fault):
    plant.execute(fault)
    assert len(differences(plant)) == 1
    row = call(plant, "health_check", name="privileges")[0]
    assert row.status == "CRITICAL" and "not as listed" in row.message
    call(plant, "migrate")
    assert differences(plant) == []
    assert call(plant, "health_check", name="privileges")[0].status == "OK"


def test_nobody_else_may_anything(plant):
    plant.execute("create role nobody_else")
    objects = [row for row in plant.execute(OBJECTS).fetchall() if row[0] != "type"]
    known, given = Listed(plant), held(plant, objects, ["nobody_else"])
    for kind, name, one in objects:
        public = {privilege for role, privilege in known.of(kind, name) if role == "public"}
        assert given["nobody_else", kind, one] == public, name


def test_nobody_writes_to_the_trail_counters_and_seals(plant):
    closed = ("audit_events", "audit_seals", "audit_leaves", "counters", "site_grants", "schema_migrations", "pauses")
    for role in ROLES:
        for table in (*closed, *(name for name in relations(plant) if name.startswith("audit_"))):
            for privilege in ("insert", "update", "delete", "truncate", "trigger"):
                assert not value(plant, "select has_table_privilege(%s, %s, %s)", f"machserial_{role}",
                                 f"machserial.{table}", privilege), (role, table, privilege)  # fmt: skip


# A function of an extension cannot be dropped by itself.
@pytest.mark.parametrize("mode", ["plain"], scope="session")
def test_the_rights_of_functions_that_an_update_brings_come_with_migrate(plant):
    """An update replaces a function that has changed by another one, which nobody may call yet."""
    plant.execute("drop function machserial.find_serial(text)")
    plant.execute(
        "create function machserial.find_serial(serial_number text, fuzzy boolean default false) "
        "returns setof machserial.serial language sql as 'select null::machserial.serial'"
    )
    plant.execute("revoke execute on function machserial.find_serial(text, boolean) from public")
    may = "select has_function_privilege('machserial_viewer', 'machserial.find_serial(text, boolean)', 'execute')"
    assert not value(plant, may)
    call(plant, "migrate")
    assert value(plant, may)
