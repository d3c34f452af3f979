"""Everything about installing and copying as an ordinary owner: no superuser, who may create databases and roles."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import psycopg
import pytest
from command import NOT_DEPLOYED, Command
from conftest import MODES, install
from databases import Databases
from psycopg import errors
from psycopg.conninfo import make_conninfo
from snapshot import catalog, differences, rows
from support import call, column, generated, make_format, make_part, refused, register, value
from test_dump_restore import populate, refuse, write_on

BOTH_MODES = pytest.mark.parametrize("mode", MODES)


class Owner:
    """The role plant, and databases of its own."""

    def __init__(self, databases: Databases) -> None:
        self.databases, self.server = databases, databases.server
        self.lent = contextlib.ExitStack()

    def dsn(self, name: str) -> str:
        return make_conninfo(self.server.dsn(name), user="plant")

    def empty(self, name: str, template: str = "template1") -> psycopg.Connection:
        self.lent.enter_context(self.databases.lent(name, template, owner="plant"))
        return self.connect(name)

    def installed(self, name: str, mode: str) -> psycopg.Connection:
        return self.empty(name, f"plants_{mode}")

    def connect(self, name: str, user: str = "plant") -> psycopg.Connection:
        connection = psycopg.connect(self.server.dsn(name), user=user, autocommit=True)
        return self.lent.enter_context(contextlib.closing(connection))

    def dump(self, name: str, *options: str) -> str:
        return self.server.run("pg_dump", *options, name, user="plant")


@pytest.fixture(scope="module")
def plant(databases: Databases) -> Iterator[str]:
    """The role, which has installed machserial by itself in a database for each mode: they are copied."""
    databases.server.execute("create role plant login createdb createrole")
    with contextlib.ExitStack() as lent:
        for mode in MODES:
            lent.enter_context(databases.lent(f"plants_{mode}", owner="plant"))
            with psycopg.connect(databases.server.dsn(f"plants_{mode}"), user="plant") as connection:
                install(connection, mode)
        yield "plant"
    databases.drop_roles()


@pytest.fixture
def owner(databases: Databases, plant: str) -> Iterator[Owner]:
    one = Owner(databases)
    with one.lent:
        yield one
    databases.drop_roles(plant)


def limit(connection: psycopg.Connection) -> None:
    """The role line sees the site NORTH only."""
    call(connection, "create_roles")
    connection.execute("create role line login")
    connection.execute("grant machserial_operator to line")
    call(connection, "grant_site", role="line", site_id="NORTH")


def assert_limited(owner: Owner, name: str) -> None:
    line = owner.connect(name, user="line")
    assert set(column(line, "select distinct site_id from machserial.serials")) == {"NORTH"}
    assert value(owner.connect(name), "select count(distinct site_id) from machserial.serials") == 2


def drift(owner: Owner, name: str) -> list[dict]:
    """But for what an owner may add: populate() does."""
    result = Command(owner.dsn(name)).run("--json", "migrate", "verify")
    return [row for row in json.loads(result.stdout) if row["severity"] != "NOTE"]


# Installing


@BOTH_MODES
def test_the_catalog_is_that_of_a_superuser(owner, databases, template, mode):
    """But for the names of the owners: nothing is left out for want of a right, such as a policy."""
    with databases.lent("superusers", template(mode)) as dsn, psycopg.connect(dsn) as connection:
        superusers = {
            kind: sorted(row.replace("postgres", "plant") for row in all) for kind, all in catalog(connection).items()
        }
    assert differences(superusers, catalog(owner.installed("plant", mode))) == []


@BOTH_MODES
def test_the_owner_may_use_all_that_policies_and_the_like_name(owner, mode):
    """PostgreSQL refuses them otherwise, in its newest minors: so this holds on each of them or on none."""
    connection = owner.installed("plant", mode)
    populate(connection)
    unusable = "select kind || ' ' || name from machserial._unusable_by_owner()"
    assert column(connection, unusable) == []
    for statement, what in (
        ("revoke all on type machserial.limited_to_sites from plant", "type machserial.limited_to_sites"),
        ("revoke all on function machserial._own_sites() from plant, public", "function machserial._own_sites()"),
    ):
        connection.execute(statement)
        assert column(connection, unusable) == [what]
        [(remedy,)] = connection.execute(
            "select remedy from machserial.integrity() where name = 'owner_without_privilege' and severity = 'CRITICAL'"
        ).fetchall()
        connection.execute(remedy)
        assert column(connection, unusable) == []


# Dumping and restoring


@pytest.mark.parametrize(("mode", "kind"), [("extension", "custom"), ("plain", "plain")])
def test_what_the_owner_dumps_the_owner_restores(owner, server, tmp_path, mode, kind):
    connection = owner.installed("plant", mode)
    populate(connection)
    limit(connection)
    restored = owner.empty("restored")
    server.dump_and_restore("plant", "restored", tmp_path / "dump", kind, user="plant")
    policies = "select count(*) from pg_policy"
    assert value(restored, policies) == value(connection, policies) > 0
    assert differences(catalog(connection), catalog(restored)) == []
    assert differences(rows(connection), rows(restored)) == []
    assert value(restored, "select machserial.migrate()") == 0
    assert call(restored, "integrity") == []
    assert_limited(owner, "restored")
    restored.autocommit = False
    write_on(restored)
    refuse(restored)


@BOTH_MODES
def test_the_schema_alone_of_a_database_can_be_dumped(owner, server, mode):
    """-n machserial takes tables and rows, and not the extension: that is asked for by -e, or made before."""
    connection = owner.installed("plant", mode)
    populate(connection)
    script = owner.dump("plant", "--schema=machserial", *(["--extension=machserial"] if mode == "extension" else []))
    restored = owner.empty("restored")
    server.psql("restored", script, user="plant")
    assert differences(rows(connection), rows(restored)) == []
    assert value(restored, "select machserial.migrate()") == 0
    assert call(restored, "integrity") == []
    restored.autocommit = False
    write_on(restored)


def test_what_a_dump_of_the_schema_alone_lacks_is_made_by_deploy(owner, server):
    """Without -e: psql goes on after each error, as it does unless it is told otherwise."""
    connection = owner.installed("plant", "extension")
    populate(connection)
    restored = owner.empty("restored")
    script = owner.dump("plant", "--schema=machserial")
    server.psql("restored", script, "--set=ON_ERROR_STOP=0", user="plant")
    assert Command(owner.dsn("restored")).run("deploy").exit_code == 0
    assert differences(catalog(connection), catalog(restored)) == []
    numbers = "select array_agg(s.serial_number order by s.id) from machserial.serials as s"
    assert value(restored, numbers) == value(connection, numbers)
    assert call(restored, "integrity") == []
    restored.autocommit = False
    write_on(restored)


@BOTH_MODES
def test_rows_alone_come_back_with_triggers_off(owner, server, mode):
    """Only a superuser can switch off those of foreign keys. Without that, nothing comes in."""
    connection = owner.installed("plant", mode)
    populate(connection)
    copy = owner.empty("copy")
    server.psql("copy", owner.dump("plant", "--schema-only"), user="plant")
    for options, error in (([], "_render_1|duplicate"), (["--disable-triggers"], "system trigger")):
        with pytest.raises(RuntimeError, match=error):
            server.psql("copy", owner.dump("plant", "--data-only", *options), "--single-transaction", user="plant")
    assert column(copy, "select * from machserial._tables_with_rows()") == [[]]
    server.psql("copy", owner.dump("plant", "--data-only", "--disable-triggers"), "--single-transaction")
    assert differences(rows(connection), rows(copy)) == []
    assert call(copy, "integrity") == []
    # enable trigger all has enabled those of a pause as well.
    for level in ("read committed", "repeatable read", "serializable"):
        with copy.transaction():
            copy.execute(f"set transaction isolation level {level}")
            assert len(generated(copy, "PART")) == 1
    assert value(copy, "select machserial.migrate()") == 0
    assert differences(catalog(connection), catalog(copy)) == []


# A copy of the schema without rows


@BOTH_MODES
def test_a_copy_without_rows_says_what_it_lacks_and_can_be_adopted(owner, server, mode):
    connection = owner.installed("plant", mode)
    populate(connection)
    copy = owner.empty("copy")
    # As frameworks write their structure.sql.
    server.psql("copy", owner.dump("plant", "--schema-only", "--no-owner", "--no-privileges"), user="plant")
    with refused(copy, "55000") as why:
        call(copy, "migrate")
    assert "schema_migrations" in why.detail and "sites (DEFAULT)" in why.detail and "settings" in why.detail
    assert "adopt_schema" in why.hint
    for command in (["deploy"], ["migrate", "up"]):
        result = Command(owner.dsn("copy")).run(*command)
        assert result.exit_code in (1, NOT_DEPLOYED) and "adopt_schema" in result.stderr
    # Whatever is asked says the same.
    adopt = "select machserial.adopt_schema();"
    assert call(copy, "ready")[0].status == "CRITICAL" and call(copy, "ready")[0].remedy == adopt
    check = call(copy, "health_check", name="pending_migrations")[0]
    assert (check.status, check.remedy) == ("CRITICAL", adopt)
    assert ("migrations_not_recorded", adopt) in [(row.name, row.remedy) for row in call(copy, "integrity")]
    [found] = drift(owner, "copy")
    assert (found["object"], found["remedy"]) == ("machserial", adopt)
    migrations = value(connection, "select count(*) from machserial.schema_migrations")
    assert value(copy, "select machserial.adopt_schema()") == migrations
    with refused(copy, "55000"):
        call(copy, "adopt_schema")
    assert value(copy, "select machserial.migrate()") == 0
    assert call(copy, "integrity") == []
    assert drift(owner, "copy") == []
    first = "select s::text from machserial.settings as s order by 1"
    assert column(copy, first) == column(connection, first)
    copy.execute("drop index machserial.made_by_the_owner")
    populate(copy)
    assert value(copy, "select min(serial_number) from machserial.serials") == "BY-HAND"


def test_adopting_is_for_copies(owner, server):
    connection = owner.installed("plant", "extension")
    with refused(connection, "55000") as why:
        call(connection, "adopt_schema")
    assert "Rows are in audit_seals" in why.detail
    empty = owner.empty("empty")
    empty.execute("create extension machserial")
    with refused(empty, "55000") as why:
        call(empty, "adopt_schema")
    assert "migrate()" in why.hint
    # A copy that lacks a table is none.
    copy = owner.empty("copy")
    server.psql("copy", owner.dump("plant", "--schema-only"), user="plant")
    copy.execute("drop table machserial.block_usages cascade")
    with refused(copy, "55000") as why:
        call(copy, "adopt_schema")
    assert "block_usages" in why.detail
    assert value(copy, "select count(*) from machserial.schema_migrations") == 0


@pytest.mark.parametrize("lost", ["delete from machserial.schema_migrations where name = 'pauses'",
                                  "drop table machserial.schema_migrations"])  # fmt: skip
def test_records_that_are_lost_are_asked_for(owner, lost):
    connection = owner.installed("plant", "plain")
    connection.execute(lost)
    with refused(connection, "55000") as why:
        call(connection, "migrate")
    assert "16 pauses" in why.detail or "1 settings" in why.detail
    assert "backup" in why.hint


# After drop extension ... cascade, which is PostgreSQL's own advice


def dropped(connection: psycopg.Connection, mode: str) -> None:
    """The code goes, and with it whatever depends on it."""
    connection.execute("set client_min_messages = warning")
    if mode == "extension":
        connection.execute("drop extension machserial cascade")
        return
    for (function,) in connection.execute(
        "select oid::regprocedure::text from pg_proc where pronamespace = 'machserial'::regnamespace"
    ).fetchall():
        connection.execute(f"drop function if exists {function} cascade")
    connection.execute("drop type machserial.limited_to_sites cascade")


@BOTH_MODES
def test_deploy_makes_again_what_was_dropped(owner, mode):
    connection = owner.installed("plant", mode)
    populate(connection)
    limit(connection)
    connection.execute("create table public.orders (id text primary key, part text)")
    call(connection, "attach", relation="public.orders", trigger_type="WORK_ORDER_CREATE", part_column="part")
    before = catalog(connection)
    dropped(connection, mode)
    result = Command(owner.dsn("plant")).run("deploy", *(["--plain"] if mode == "plain" else []))
    assert result.exit_code == 0, result.stderr
    assert "have been made again" in result.stderr
    # An attachment is somebody else's table: it is named, with what to do.
    assert "machserial.attach(" in result.stderr
    assert [row.name for row in call(connection, "integrity")] == ["attachment_missing"]
    connection.execute(value(connection, "select remedy from machserial.integrity()"))
    assert differences(before, catalog(connection)) == []
    assert value(connection, "select count(*) from machserial.audit_events where event_type = 'SCHEMA_MENDED'") > 0
    assert_limited(owner, "plant")
    connection.autocommit = False
    write_on(connection)
    refuse(connection)


def test_no_number_is_issued_without_the_rules(owner):
    """CREATE EXTENSION brings triggers and policies back, and leaves the rest to migrate()."""
    connection = owner.installed("plant", "extension")
    populate(connection)
    limit(connection)
    dropped(connection, "extension")
    said = []
    connection.add_notice_handler(lambda found: said.append(f"{found.message_primary} {found.message_hint}"))
    connection.execute("create extension machserial")
    assert len(said) == 1 and "made again" in said[0] and "migrate()" in said[0]
    assert len(generated(connection, "PART")) == 1
    generated(connection, "PART", format="per_site", site_id="NORTH")
    assert_limited(owner, "plant")
    without_event = (
        "select count(*) from machserial.serials as s where not exists ("
        "select from machserial.audit_events as e where e.serial_id = s.id)"
    )
    assert value(connection, without_event) == 0
    missing = "select distinct m.kind from machserial._missing_objects() as m"
    assert column(connection, missing) == ["view"]
    check = call(connection, "health_check", name="missing_rules")[0]
    assert check.status == "CRITICAL" and "migrate()" in check.remedy
    members = (
        "select count(*) from pg_depend as d where d.deptype = 'e' "
        "and d.classid in ('pg_trigger'::regclass, 'pg_policy'::regclass)"
    )
    assert value(connection, members) == 0
    assert value(connection, "select machserial.migrate()") == 0
    assert call(connection, "integrity") == []


def test_a_migration_plan_mends_as_well(owner):
    connection = owner.installed("plant", "plain")
    connection.execute("drop trigger serials_are_admitted on machserial.serials")
    result = Command(owner.dsn("plant")).run("migrate", "up")
    assert "made again" in result.stderr
    assert call(connection, "integrity") == []


def test_everything_that_can_be_made_again_is(owner):
    """All triggers, policies, views, constraints, defaults and indexes at once."""
    connection = owner.installed("plant", "plain")
    populate(connection)
    before = catalog(connection)
    for statement in column(
        connection,
        """
        select format('drop view machserial.%I cascade', c.relname)
        from pg_class as c where c.relnamespace = 'machserial'::regnamespace and c.relkind = 'v'
        union all
        select case e.kind
            when 'trigger' then format('drop trigger if exists %I on machserial.%I', e.name, e.relation)
            when 'policy' then format('drop policy %I on machserial.%I', e.name, e.relation)
            when 'row security' then format('alter table machserial.%I disable row level security', e.relation)
            when 'constraint' then format(
                'alter table machserial.%I drop constraint if exists %I cascade', e.relation, e.name
            )
            when 'index' then format('drop index machserial.%I', e.name)
            when 'default' then format('alter table machserial.%I alter column %I drop default', e.relation, e.name)
            else format('alter table machserial.%I alter column %I drop not null', e.relation, e.name)
        end
        from (
            select o.* from machserial._expected_objects() as o
            where o.kind not in ('table', 'column') and to_regclass('machserial.' || o.relation) is not null
            and not (o.kind = 'not null' and exists (
                select from pg_attribute as a
                where a.attrelid = to_regclass('machserial.' || o.relation) and a.attname = o.name
                    and a.attidentity <> ''
            ))
            order by o.kind = 'not null', o.kind, o.relation, o.name
        ) as e
        where e.relation not in (select v.name from machserial._views() as v)
        """,
    ):  # fmt: skip
        connection.execute(statement)
    assert len(differences(before, catalog(connection))) > 500
    assert value(connection, "select machserial.migrate()") == 0
    assert differences(before, catalog(connection)) == []
    assert [row.name for row in call(connection, "integrity")] == []


def test_a_rule_that_was_broken_meanwhile_is_named(owner):
    connection = owner.installed("plant", "plain")
    make_part(connection)
    register(connection, ["A", "B"])
    connection.execute("drop trigger serials_keep_their_identity on machserial.serials")
    connection.execute("drop index machserial.serials_site_key, machserial.serials_part_type_key")
    connection.execute("update machserial.serials set serial_number = 'A'")
    with refused(connection, "55000") as why:
        call(connection, "migrate")
    assert "serials_site_key" in why.detail and "integrity()" in why.hint
    # All or nothing.
    assert value(connection, "select count(*) from machserial._missing_objects()") == 3
    connection.execute("update machserial.serials set serial_number = 'B' where id = 2")
    assert value(connection, "select machserial.migrate()") == 0
    assert value(connection, "select count(*) from machserial._missing_objects()") == 0


def test_tables_and_columns_are_not_made_again(owner):
    connection = owner.installed("plant", "plain")
    for statement, lost in (
        ("drop table machserial.block_usages cascade", "table block_usages"),
        ("alter table machserial.settings drop column description", "column description of settings"),
    ):
        with connection.transaction(force_rollback=True):
            connection.execute(statement)
            with refused(connection, "55000") as why:
                call(connection, "migrate")
            assert lost in why.detail and "backup" in why.hint
            assert any(lost.split()[1] in row.object for row in call(connection, "integrity"))


# Pauses


def test_enabling_all_triggers_pauses_nothing(owner, server):
    """As pg_restore and frameworks do. A pause that is one is seen in every snapshot."""
    connection = owner.installed("plant", "plain")
    make_part(connection)
    make_format(connection, "F", "F{SEQ:6}")
    call(connection, "assign_format", part_id="P", format="F")
    for table in ("serials", "number_blocks"):
        server.execute(f"alter table machserial.{table} enable trigger all", dbname="plant")
    other = owner.connect("plant")
    for level in ("read committed", "repeatable read", "serializable"):
        with other.transaction():
            other.execute(f"set transaction isolation level {level}")
            assert len(generated(other)) == 1
            other.execute("insert into machserial.serials (serial_number, part_id) values (%s, 'P')", (level,))
        stale = errors.ObjectNotInPrerequisiteState if level == "read committed" else errors.SerializationFailure
        with pytest.raises(stale), other.transaction():
            other.execute(f"set transaction isolation level {level}")
            other.execute("select from machserial.parts")
            call(connection, "pause", reason="stock taking")
            generated(other)
        with pytest.raises(errors.ObjectNotInPrerequisiteState), other.transaction():
            other.execute(f"set transaction isolation level {level}")
            generated(other)
        call(connection, "resume")
        server.execute("alter table machserial.serials enable trigger all", dbname="plant")
        with other.transaction():
            other.execute(f"set transaction isolation level {level}")
            assert len(generated(other)) == 1


def test_no_remedy_enables_what_waits_for_a_pause(owner):
    connection = owner.installed("plant", "plain")
    remedy = value(connection, "select machserial._with_triggers_off('number_blocks', 'select 1')")
    for statement in remedy.split("; "):
        connection.execute(statement)
    assert call(connection, "integrity") == []
    assert value(connection, "select count(*) from pg_trigger where tgname ~ 'refused_while' and tgenabled = 'D'") == 2
    assert value(connection, "select count(*) from pg_trigger where not tgisinternal and tgenabled = 'D'") == 2
    call(connection, "pause", reason="stock taking")
    assert "disable trigger new" not in value(connection, "select machserial._with_triggers_off('number_blocks', 'x')")


# Who owns what


def test_the_extension_is_not_put_over_plain_sql(owner):
    connection = owner.installed("plant", "plain")
    with refused(connection, "55000") as why:
        connection.execute("create extension machserial")
    assert "plain SQL" in why.message and "plant" in why.detail and "machserial deploy" in why.hint


def test_what_a_superuser_has_restored_is_told_once_and_put_right(owner, server, tmp_path):
    """PostgreSQL gives an extension to who restores it, and the tables to their owner."""
    connection = owner.installed("plant", "extension")
    populate(connection)
    limit(connection)
    owner.empty("restored")
    server.dump_and_restore("plant", "restored", tmp_path / "dump", "plain")
    superuser = Command(server.dsn("restored"))
    result = superuser.run("--json", "migrate", "verify")
    [found] = json.loads(result.stdout)
    assert "plant" in found["detail"] and found["severity"] == "DRIFT"
    [(message, remedy)] = superuser.query("select message, remedy from machserial.health_check('privileges')")
    assert "plant" in message and found["remedy"].split(";")[0] in remedy
    for asked in (["integrity"], ["deploy"]):
        said = superuser.run("--json", *asked)
        assert said.stdout.count("change_owner") + said.stderr.count("change_owner") == 1, asked
    # The owner is not sent to ask the owner.
    for asked in (["generate", "PART"], ["health"], ["deploy"], ["migrate", "status"]):
        said = Command(owner.dsn("restored")).run("--json", *asked)
        assert said.exit_code in (3, 5) and "change_owner('plant')" in said.stdout + said.stderr, asked
    superuser.query(found["remedy"])
    assert drift(owner, "restored") == []
    restored = owner.connect("restored")
    assert differences(catalog(connection), catalog(restored)) == []
    assert call(restored, "health_check", name="privileges")[0].status == "OK"
    assert value(restored, "select machserial.migrate()") == 0
    assert_limited(owner, "restored")
    restored.autocommit = False
    write_on(restored)
    refuse(restored)


@BOTH_MODES
def test_another_role_takes_over(owner, server, mode):
    connection = owner.installed("plant", mode)
    populate(connection)
    with refused(connection, "42704"):
        call(connection, "change_owner", new_owner="heir")
    server.execute("create role heir login")
    with pytest.raises(errors.InsufficientPrivilege):
        call(connection, "change_owner", new_owner="heir")
    server.execute("grant heir to plant")
    server.execute("grant create on database plant to heir")
    assert call(connection, "change_owner", new_owner="heir")[0][0] > 500
    heir = owner.connect("plant", user="heir")
    assert value(heir, "select machserial.migrate()") == 0
    assert [row.name for row in call(heir, "integrity")] == []
    assert call(heir, "health_check", name="privileges")[0].status == "OK"
    heirs = "select details ->> 'new' from machserial.audit_events where event_type = 'OWNER_CHANGED'"
    assert column(heir, heirs) == ["heir"]
    heir.autocommit = False
    write_on(heir)


@pytest.mark.parametrize("attribute", ["createrole", "nocreaterole"])
def test_the_owner_of_a_second_database_is_told_who_may_grant_the_roles(owner, server, attribute):
    """From PostgreSQL 16 on, only who made a role, or was given the option, grants it; before, CREATEROLE is enough."""
    call(owner.installed("plant", "plain"), "create_roles")
    server.execute(f"create role other login {attribute}")
    server.execute("create role app login")
    owner.lent.enter_context(owner.databases.lent("other", owner="other"))
    with psycopg.connect(server.dsn("other"), user="other", autocommit=True) as other:
        with other.transaction():
            install(other, "plain")
        said = []
        other.add_notice_handler(lambda found: said.append((found.severity, found.message_detail, found.message_hint)))
        assert not any(row.is_new for row in call(other, "create_roles"))
        if attribute == "nocreaterole" or server.major >= 16:
            [(severity, detail, hint)] = said
            assert severity == "WARNING" and ("plant" if server.major >= 16 else "CREATEROLE") in detail
            with pytest.raises(errors.InsufficientPrivilege):
                other.execute("grant machserial_operator to app")
            owner.connect("plant").execute(hint[hint.index("grant ") : hint.index(";")])
            said.clear()
            call(other, "create_roles")
        assert said == []
        other.execute("grant machserial_operator to app")
    with psycopg.connect(server.dsn("other"), user="app") as app:
        assert value(app, "select machserial.version()")
