"""The benchmark measures: every subject runs on a real server, and what is shown follows from the raw figures.

Nothing here is about how fast anything is.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import util
from pathlib import Path
from xml.etree import ElementTree

import psycopg
import pytest
from command import OK, REFUSED, machserial, query, refusal, usage
from machserial.bench import report, runner, targets
from machserial.bench.registry import Registry, require_same_rows
from machserial.bench.results import Case, Comparison, Run
from machserial.bench.sizes import FULL, QUICK, SMOKE
from machserial.bench.targets import Target
from machserial.demo.private_server import PrivateServer
from machserial.errors import ExpectedError
from machserial.operations import deployment
from psycopg.conninfo import make_conninfo
from servers import Server
from support import value

ONE_MODE = True
SAFE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


@pytest.fixture(scope="module")
def pgbench(server: Server) -> None:
    """Skips where there is no pgbench for this server."""
    server.run("pgbench", "--version")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One that the private server's user can pass through."""
    path = Path(tempfile.mkdtemp(prefix="machserial-bench-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def done(server: Server, pgbench: None, folder: Path) -> dict:
    """One run of everything on a private server; what it wrote, and where."""
    page = folder / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    result = machserial(
        *("bench", "--smoke", "--rounds", "1", "--dir", str(folder / "server"), "--bin", str(server.bin)),
        *("--save", str(folder / "run.json"), "--plot", str(folder / "run.svg"), "--write", str(page)),
    )
    assert result.exit_code == OK, result.stderr
    return {"folder": folder, "output": result.stdout, **json.loads((folder / "run.json").read_text())}


@pytest.mark.slow
class TestEverything:
    def test_all_subjects_are_there(self, done):
        found = {row["subject"] for row in done["results"]}
        left_out = {one["subject"] for one in done["skipped"]}
        assert found | left_out == set(runner.NAMES)
        has_redis = shutil.which("redis-server") and util.find_spec("redis")
        assert left_out == (set() if has_redis else {"uniqueness"})

    def test_every_figure_is_a_measured_one(self, done):
        for case in done["raw"]:
            assert case["figures"], case
            for name, figures in case["figures"].items():
                assert figures and all(figure > 0 for figure in figures), (case["case"], name)

    def test_medians_and_ratios_follow_from_the_raw_figures(self, done):
        raw = {(case["subject"], case["case"]): case["figures"] for case in done["raw"]}
        for row in done["results"]:
            figures = raw[row["subject"], row["case"]]
            assert row["median"] == statistics.median(figures[row["measured"]])
            if row["against"]:
                assert row["base_median"] == statistics.median(figures[row["against"]])
                assert row["ratio"] == row["median"] / row["base_median"]
            else:
                assert row["ratio"] is None

    def test_every_comparison_of_the_table_is_in_the_terminal_and_on_the_page(self, done):
        page = (done["folder"] / "page.md").read_text()
        assert page.startswith(f"before\n{report.BEGIN}\n") and page.endswith(f"{report.END}\nafter\n")
        assert "\nold\n" not in page
        for row in done["results"]:
            assert row["measured"] in done["output"] and row["measured"] in page

    def test_the_plot_is_an_image_with_every_panel_drawn(self, done):
        text = (done["folder"] / "run.svg").read_text()
        ElementTree.fromstring(text)
        assert all(label in text for label in ("serials in one call", "generate()", "filled"))

    def test_the_private_server_commits_safely_and_is_gone(self, done):
        assert {name: done["machine"]["settings"][name] for name in SAFE} == SAFE
        assert not (done["folder"] / "server" / "data").exists()
        assert not PrivateServer(done["folder"] / "server").is_running()

    def test_targets_of_full_sizes_are_not_judged_by_tiny_ones(self, done):
        sized = [row for row in done["results"] if row["target"]]
        assert {row["subject"] for row in sized} >= {"singles", "check_digits", "lineage", "audit", "growth"}
        assert all(row["met"] is None for row in sized)


class TestInPlace:
    def run(self, dsn: str, *arguments: str):
        return machserial("bench", "--in-place", "--dsn", dsn, "--smoke", *arguments)

    def test_an_empty_database_is_empty_again_afterwards(self, dsn, pgbench, server):
        result = self.run(
            dsn, "--only", "batches", "--only", "growth", "--rounds", "3", "--json", "--bin", str(server.bin)
        )
        assert result.exit_code == OK, result.stderr
        found = json.loads(result.stdout)
        # The figures of the tests' server, which waits for no disk.
        assert "does not commit safely: fsync = off" in result.stderr
        assert {row["subject"] for row in found["results"]} == {"batches"}
        assert [one["subject"] for one in found["skipped"]] == ["growth"]
        rounds = {len(some) for case in found["raw"] if case["unit"] == "ms" for some in case["figures"].values()}
        assert rounds == {3}
        assert query(dsn, "select relname from pg_class where oid >= 16384 and relkind in ('r', 'p', 'v')") == []
        assert query(dsn, "select nspname from pg_namespace where nspname in ('machserial', 'bare')") == []

    def test_a_database_that_holds_something_is_refused_and_untouched(self, dsn):
        query(dsn, "create table public.orders (id integer)")
        said = refusal(REFUSED, "bench", "--in-place", "--dsn", dsn, "--smoke")
        assert "public.orders" in said
        assert query(dsn, "select count(*) from public.orders") == [(0,)]


class TestBareRows:
    def test_they_have_the_same_columns_defaults_and_indexes_and_nothing_else(self, deployed_dsn, connection):
        Registry(deployed_dsn)
        columns = (
            "select attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, "
            "pg_get_expr(adbin, adrelid) "
            "from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum "
            "where attrelid = %s::regclass and attnum > 0 order by attnum"
        )
        indexes = "select count(*), count(*) filter (where indisunique) from pg_index where indrelid = %s::regclass"
        rules = (
            "select (select count(*) from pg_trigger where tgrelid = %s::regclass) + "
            "(select count(*) from pg_constraint where conrelid = %s::regclass and contype in ('c', 'f'))"
        )
        for table in ("serials", "audit_events"):
            for asked in (columns, indexes):
                ours, bare = (
                    connection.execute(asked, [f"{schema}.{table}"]).fetchall() for schema in ("machserial", "bare")
                )
                assert ours == bare
            assert value(connection, rules, f"bare.{table}", f"bare.{table}") == 0

    def test_a_row_that_differs_from_what_generate_stores_stops_the_run(self, deployed_dsn, connection):
        registry = Registry(deployed_dsn)
        connection.execute("alter table bare.serials alter created_by set default 'somebody'")
        connection.commit()
        with registry.session() as session, pytest.raises(ExpectedError, match="not what generate") as raised:
            require_same_rows(registry, session)
        assert raised.value.detail == "different: created_by"

    def test_filling_and_emptying_leave_every_rule_as_it_was(self, deployed_dsn, connection):
        # No lock of this session may be in the way.
        connection.autocommit = True
        enabled = "select tgrelid::regclass::text, tgname, tgenabled from pg_trigger order by 1, 2"
        registry = Registry(deployed_dsn)
        before = connection.execute(enabled).fetchall()
        with registry.session() as session:
            registry.fill_serials(session, "machserial", 50)
            registry.fill_events(session, "bare", 50)
        assert value(connection, "select count(*) from machserial.serials") == 51
        assert value(connection, "select count(*) from bare.audit_events") == 51
        registry.empty("bare")
        assert value(connection, "select count(*) from machserial.serials") == 0
        assert connection.execute(enabled).fetchall() == before
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("truncate machserial.audit_events")

    def test_an_owner_who_is_no_superuser_can_fill_and_empty_too(self, server, new_database):
        server.execute("create role filler login")
        dsn = make_conninfo(new_database("filled", owner="filler"), user="filler")
        with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as session:
            deployment.deploy(session)
        registry = Registry(dsn)
        enabled = "select tgrelid::regclass::text, tgname, tgenabled from pg_trigger order by 1, 2"
        with registry.session() as session:
            before = session.execute(enabled).fetchall()
            registry.fill_serials(session, "machserial", 50)
            counts = "select (select count(*) from machserial.serials), (select count(*) from machserial.audit_events "
            assert session.execute(counts + "where serial_id is not null)").fetchone() == (51, 1)
            registry.empty("bare")
            assert session.execute("select count(*) from machserial.serials").fetchone() == (0,)
            assert session.execute(enabled).fetchall() == before


def run_of(*cases: Case, sizes=FULL) -> Run:
    return Run(sizes, {"machserial": "1", "settings": {}}, list(cases))


RAW = {"ours": [4.0, 1.0, 2.0], "bare": [1.0, 9.0, 2.5]}


class TestResults:
    case = Case("s", "c", "ms", RAW, [Comparison("ours", "bare", Target(at_most=0.8))])

    def test_the_ratio_is_that_of_the_medians(self):
        (row,) = run_of(self.case).rows()
        assert (row["median"], row["base_median"], row["ratio"], row["met"]) == (2.0, 2.5, 0.8, True)

    @pytest.mark.parametrize(
        ("target", "met"),
        [
            (Target(at_most=0.79), False),
            (Target(at_least=0.8), True),
            (Target(at_least=0.81), False),
            (Target(at_most=0.8, about=("edges",)), True),
        ],
    )
    def test_a_target_is_met_or_missed(self, target, met):
        case = Case("s", "c", "ms", RAW, [Comparison("ours", "bare", target)])
        assert [row["met"] for row in run_of(case).rows()] == [met]
        assert len(run_of(case).missed()) == (not met)

    def test_a_target_about_larger_sizes_is_not_judged(self):
        case = Case("s", "c", "ms", RAW, [Comparison("ours", "bare", Target(at_most=0.1, about=("edges",)))])
        assert [row["met"] for row in run_of(case, sizes=QUICK).rows()] == [None]
        assert run_of(case, sizes=SMOKE).missed() == []

    def test_every_target_is_one_of_some_comparison(self):
        named = {name for name, one in vars(targets).items() if isinstance(one, Target)}
        sources = "".join(path.read_text() for path in Path(runner.__file__).parent.glob("subjects/*.py"))
        assert {name for name in named if f"targets.{name}" not in sources} == set()


class TestCommandLine:
    def test_it_lists_its_subjects(self):
        result = machserial("bench", "--list", "--json")
        assert [row["subject"] for row in json.loads(result.stdout)] == list(runner.NAMES)

    def test_an_unknown_subject_is_refused_before_anything_is_started(self):
        assert "choose from batches" in refusal(REFUSED, "bench", "--only", "nothing")

    def test_a_page_without_marks_is_refused_before_anything_is_started(self, tmp_path):
        page = tmp_path / "page.md"
        page.write_text("no marks")
        assert "has no place for the table" in refusal(REFUSED, "bench", "--write", str(page))
        assert page.read_text() == "no marks"

    def test_a_database_is_only_measured_in_if_that_is_said(self):
        assert "--in-place" in usage("--dsn", "dbname=x", "bench")
        assert "exclude" in usage("bench", "--quick", "--smoke")

    def test_missed_targets_end_with_a_code_of_their_own_only_if_asked(self, monkeypatch):
        missing = run_of(Case("s", "c", "ms", RAW, [Comparison("ours", "bare", Target(at_most=0.5))]))
        missing.machine |= {
            name: 1
            for name in (
                *("postgresql", "cores", "processor", "memory_gb", "system", "load_before"),
                *("rounds", "seconds_of_a_run", "minutes"),
            )
        }
        monkeypatch.setattr("machserial.bench.runner.run", lambda *_: missing)
        monkeypatch.setattr("machserial.commands.bench.place", lambda *_: nullcontext())
        assert machserial("bench").exit_code == OK
        assert "MISSED" in machserial("bench").stdout
        result = machserial("bench", "--require-targets")
        assert result.exit_code == REFUSED and "1 target was missed" in result.stderr
