"""Fixtures: databases with machserial on a real server.

connection    psycopg connection (superuser, autocommit off) to a database with machserial, migrated. Tests share it and
              each is rolled back; those that use connect or deployed_dsn too, or are marked own_database, have a
              database of their own and may commit. Tests that are marked prepared(setup=…) find in it what setup made
deployed_dsn  connection string of that same database
connect       connect(**options): more connections to it, closed afterwards
dsn           connection string of a fresh database without machserial
server        the running server (tests/servers.py)
mode          how machserial was installed: 'extension' or 'plain'. Both make the same catalog, as tests/test_install.py
              proves: only tests that are marked both_modes run in both, unless --mode says otherwise
torture       a part of the torture for a few seconds, on servers of its own (tests/torture/)
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from psycopg.conninfo import make_conninfo

sys.path.insert(0, str(Path(__file__).parent))
from databases import Databases, RolledBack
from servers import Server, ServerError, ToolMissing, choose_bin, die_with_parent, embedded_bin

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
    # A shell lets what it starts in the background ignore it, and programs inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" in os.environ:
        die_with_parent(signal.SIGTERM)
    _find_client_programs(config.getoption("--pg-bin"))
    # Random input: some of it each time, much of it where slow tests are run too.
    settings.register_profile("short", max_examples=25)
    settings.register_profile("long", max_examples=400)
    settings.load_profile("short" if config.option.markexpr == "not slow" else "long")


def _find_client_programs(wanted: str | None) -> None:
    """The command looks for pg_dump and psql in PATH: the server's first, the embedded one's where it has none."""
    with contextlib.suppress(ServerError):
        folders = [choose_bin(wanted), embedded_bin()]
        os.environ["PATH"] = os.pathsep.join([str(folders[0]), os.environ["PATH"], str(folders[1] or "")]).rstrip(":")


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


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if not (BUILD / "machserial.sql").exists():
        pytest.exit("machserial is not built: run make first", returncode=4)
    running = start_server(request.config)
    running.install_extension(BUILD)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def databases(server: Server) -> Iterator[Databases]:
    made = Databases(server)
    yield made
    made.close()


def install(connection: psycopg.Connection, mode: str, build: Path = BUILD) -> None:
    """machserial as a user installs it, in the connection's transaction."""
    if mode == "extension":
        connection.execute("create extension machserial")
    else:
        connection.execute((build / "machserial.sql").read_text())
    connection.execute("select machserial.migrate()")


Setup = Callable[[psycopg.Connection], object]


@pytest.fixture(scope="session")
def template(databases: Databases) -> Callable[..., str]:
    """template(mode, setup=None): the name of a database to be copied: with machserial, and with what setup makes."""

    @functools.cache
    def made(mode: str, setup: Setup | None) -> str:
        if setup is None:
            name, origin, fill = f"template_{mode}", "template1", functools.partial(install, mode=mode)
        else:
            name, origin, fill = f"{setup.__module__}_{setup.__name__}_{mode}", made(mode, None), setup
        with psycopg.connect(databases.create(name, origin)) as connection:
            fill(connection)
        return name

    return lambda mode, setup=None: made(mode, setup)


@pytest.fixture(scope="session")
def shared(databases: Databases, template: Callable[..., str]) -> Iterator[Callable[..., RolledBack]]:
    """shared(mode, setup): a copy of that template in which nothing stays."""
    with contextlib.ExitStack() as opened:

        @functools.cache
        def made(mode: str, setup: Setup | None) -> RolledBack:
            return opened.enter_context(contextlib.closing(RolledBack(databases, template(mode, setup))))

        yield made


@pytest.fixture
def clean_roles(databases: Databases) -> Iterator[None]:
    """Roles belong to the whole server: drops those that a test left, once its database is gone."""
    yield
    databases.drop_roles()


def shares_its_database(request: pytest.FixtureRequest) -> bool:
    """Whether nobody but the test's own connection is to see what it does."""
    is_alone = {"deployed_dsn", "connect"}.isdisjoint(request.fixturenames)
    return is_alone and request.node.get_closest_marker("own_database") is None


@pytest.fixture
def connection(
    request: pytest.FixtureRequest,
    mode: str,
    databases: Databases,
    template: Callable[..., str],
    shared: Callable[..., RolledBack],
    clean_roles: None,
) -> Iterator[psycopg.Connection]:
    prepared = request.node.get_closest_marker("prepared")
    setup = prepared.kwargs["setup"] if prepared else None
    if shares_its_database(request):
        with shared(mode, setup).transaction() as connection:
            yield connection
    else:
        with databases.lent(mode, template(mode, setup)) as dsn, contextlib.closing(psycopg.connect(dsn)) as connection:
            yield connection


@pytest.fixture
def deployed_dsn(request: pytest.FixtureRequest, server: Server, connection: psycopg.Connection) -> str:
    assert not shares_its_database(request), "ask for this fixture as an argument, or mark the test own_database"
    # Not the connection's own: that holds options of its libpq, which an older psql does not know.
    return server.dsn(connection.info.dbname)


@pytest.fixture
def dsn(databases: Databases, clean_roles: None) -> Iterator[str]:
    with databases.lent("empty") as dsn:
        yield dsn


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
def new_database(databases: Databases, clean_roles: None) -> Iterator[Callable[..., str]]:
    """new_database(name): makes a database, an empty one, to be dropped afterwards; its connection string."""
    with contextlib.ExitStack() as opened:
        yield lambda name, template="template1", owner=None: opened.enter_context(databases.lent(name, template, owner))


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
