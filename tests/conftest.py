"""Fixtures: every test gets a database of its own, cloned from a template, on a real server.

connection    psycopg connection (superuser, autocommit off) to a fresh database with machserial, migrated
deployed_dsn  connection string of that same database
connect       connect(**options): more connections to it, closed afterwards
dsn           connection string of a fresh database without machserial
server        the running server (tests/servers.py)
mode          how machserial was installed: 'extension' or 'plain'. Both make the same catalog (tests/test_install.py), so
              only tests that are marked both_modes run in both, unless --mode says otherwise
torture       a part of the torture for a few seconds, on servers of its own (tests/torture/)
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pytest_postgresql import factories
from pytest_postgresql.janitor import DatabaseJanitor

sys.path.insert(0, str(Path(__file__).parent))
from servers import Server, ServerError, ToolMissing, choose_bin, die_with_parent

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
MODES = ("extension", "plain")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("machserial")
    group.addoption(
        "--mode",
        choices=(*MODES, "both"),
        help="how machserial is installed (default: extension, and both ways for tests that are marked both_modes)",
    )
    group.addoption(
        "--pg-bin",
        default=os.environ.get("MACHSERIAL_TEST_BIN") or None,
        help="folder of initdb and postgres, or 'embedded' (default: MACHSERIAL_TEST_BIN, else an installed server, "
        "else the embedded one)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """A terminated run tears down like an interrupted one, so that servers are stopped and folders removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" in os.environ:
        die_with_parent(signal.SIGTERM)


def pytest_report_header(config: pytest.Config) -> list[str]:
    try:
        header = [f"server: {choose_bin(config.getoption('--pg-bin'))}"]
    except ServerError as error:
        header = [f"server: {error}"]
    built = (BUILD / "machserial.sql").stat().st_mtime if BUILD.exists() else 0
    if any(path.stat().st_mtime > built for folder in ("sql", "plpython") for path in (ROOT / folder).rglob("*.*")):
        header.append("build/ is older than sql/ or plpython/: run make first, or the old code is tested")
    return header


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen_by_test = any("mode" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "mode" in metafunc.fixturenames and not chosen_by_test:
        usual = "both" if metafunc.definition.get_closest_marker("both_modes") else MODES[0]
        wanted = metafunc.config.getoption("--mode") or usual
        metafunc.parametrize("mode", MODES if wanted == "both" else [wanted], scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that needs a client program which this server lacks is skipped, and says so."""
    try:
        return (yield)
    except ToolMissing as missing:
        pytest.skip(str(missing))


def start_server(config: pytest.Config) -> Server:
    """A server of its own for who needs one, to be stopped by the caller."""
    try:
        running = Server(choose_bin(config.getoption("--pg-bin")))
        running.start()
    except ServerError as error:
        pytest.exit(str(error), returncode=4)
    return running


def clone_by_copying_files(patch: pytest.MonkeyPatch) -> None:
    """Makes databases in a quarter of the time: PostgreSQL 15 and later else write the whole clone to their log."""
    create = DatabaseJanitor._build_create_database_sql
    patch.setattr(
        DatabaseJanitor, "_build_create_database_sql", lambda self: create(self) + sql.SQL(" STRATEGY file_copy")
    )


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if not (BUILD / "machserial.sql").exists():
        pytest.exit("machserial is not built: run make first", returncode=4)
    running = start_server(request.config)
    running.install_extension(BUILD)
    with pytest.MonkeyPatch.context() as patch:
        if running.major >= 15:
            clone_by_copying_files(patch)
        yield running
    running.stop()


def install(connection: psycopg.Connection, mode: str, build: Path = BUILD) -> None:
    """machserial as a user installs it, in the connection's transaction."""
    if mode == "extension":
        connection.execute("create extension machserial")
    else:
        connection.execute((build / "machserial.sql").read_text())
    connection.execute("select machserial.migrate()")


def load_extension(**options: object) -> None:
    with psycopg.connect(**options) as connection:
        install(connection, "extension")


def load_plain(**options: object) -> None:
    with psycopg.connect(**options) as connection:
        install(connection, "plain")


extension_template = factories.postgresql_noproc(depends_on="server", dbname="extension", load=[load_extension])
plain_template = factories.postgresql_noproc(depends_on="server", dbname="plain", load=[load_plain])
extension_client = factories.postgresql("extension_template")
plain_client = factories.postgresql("plain_template")
empty_client = factories.postgresql("server")


@pytest.fixture
def clean_roles(server: Server) -> Iterator[None]:
    """Roles belong to the whole server: drops those that a test left, once its database is gone."""
    yield
    names = server.execute("select rolname from pg_roles where rolname <> %s and rolname !~ '^pg_'", (server.user,))
    if names:
        # At once: from PostgreSQL 16 on a role that granted another to a third depends on that.
        roles = sql.SQL(", ").join(sql.Identifier(name) for (name,) in names)
        server.execute(sql.SQL("drop role {}").format(roles).as_string())


@pytest.fixture
def connection(request: pytest.FixtureRequest, mode: str, clean_roles: None) -> psycopg.Connection:
    return request.getfixturevalue(f"{mode}_client")


@pytest.fixture
def deployed_dsn(server: Server, connection: psycopg.Connection) -> str:
    # Not the connection's own: that holds options of its libpq, which an older psql does not know.
    return server.dsn(connection.info.dbname)


@pytest.fixture
def dsn(request: pytest.FixtureRequest, server: Server, clean_roles: None) -> str:
    return server.dsn(request.getfixturevalue("empty_client").info.dbname)


@pytest.fixture
def connect(deployed_dsn: str) -> Iterator[Callable[..., psycopg.Connection]]:
    opened: list[psycopg.Connection] = []

    def open_connection(*, autocommit: bool = False, **options: str) -> psycopg.Connection:
        opened.append(psycopg.connect(make_conninfo(deployed_dsn, **options), autocommit=autocommit))
        return opened[-1]

    yield open_connection
    for one in opened:
        one.close()


@pytest.fixture
def new_database(server: Server, clean_roles: None) -> Iterator[Callable[..., str]]:
    """new_database(name, owner=None): makes an empty database, to be dropped afterwards; its connection string."""
    janitors = []

    def create(name: str, owner: str | None = None) -> str:
        janitor = DatabaseJanitor(user=server.user, host=server.host, port=server.port, dbname=name)
        janitor.init()
        janitors.append(janitor)
        if owner:
            command = sql.SQL("alter database {} owner to {}").format(sql.Identifier(name), sql.Identifier(owner))
            server.execute(command.as_string())
        return server.dsn(name)

    yield create
    for janitor in janitors:
        janitor.drop()


@pytest.fixture
def torture(request: pytest.FixtureRequest) -> object:
    """torture.holds("crash", cycles=3), torture.notices("crash", "…"); see tests/torture/short.py."""
    from torture.short import Short

    return Short(choose_bin(request.config.getoption("--pg-bin")))


@pytest.fixture
def redis_server() -> Iterator[object]:
    """A Redis of the test's own; tests/redis_server.py."""
    # Here, because everybody else can do without the package.
    from redis_server import RedisServer

    running = RedisServer()
    yield running
    running.remove()


@pytest.fixture
def bouncer_dsn(server: Server, deployed_dsn: str) -> Iterator[str]:
    """The connection string of the test's database through a PgBouncer in transaction mode."""
    from redis_server import PgBouncer

    bouncer = PgBouncer(server)
    yield bouncer.dsn(psycopg.conninfo.conninfo_to_dict(deployed_dsn)["dbname"])
    bouncer.stop()
