"""machserial integrity, lineage verify, connections, slow, indexes, privileges, settings: against real faults."""

from __future__ import annotations

import json
import threading
from contextlib import closing

import psycopg
import pytest
from command import OK, PRIVILEGE, REFUSED, Command, machserial, query, usage
from conftest import install
from servers import Server, choose_bin


@pytest.fixture
def works(deployed_dsn: str) -> Command:
    """A part that is numbered."""
    command = Command(deployed_dsn)
    command.query("select machserial.register_part('P', 'T'), machserial.create_format('F', 'F{SEQ:6}')")
    command.query("select machserial.assign_format('P', 'F')")
    command.query("select count(*) from machserial.generate('P', 20)")
    return command


class TestIntegrity:
    def test_sound(self, works):
        result = works.run("integrity")
        assert (result.exit_code, result.stdout, result.stderr) == (OK, "sound: nothing was found\n", "")
        assert works.answer("integrity") == []

    def test_a_finding(self, works):
        works.query("alter table machserial.serials disable trigger serials_are_kept")
        result = works.run("integrity")
        assert result.exit_code == REFUSED
        assert "serials_are_kept" in result.stdout and "enable trigger serials_are_kept" in result.stdout
        assert "1 finding" in result.stderr and len(result.stderr.splitlines()) == 1
        result = works.run("--json", "integrity")
        assert result.exit_code == REFUSED
        (finding,) = json.loads(result.stdout)
        assert set(finding) == {"name", "severity", "object", "message", "remedy"}
        assert works.run("integrity", "--only", "claims").exit_code == OK
        assert works.run("integrity", "--only", "rules").exit_code == REFUSED
        unknown = works.run("integrity", "--only", "colours")
        assert unknown.exit_code == REFUSED and "claims, conflicts" in unknown.stderr
        works.query(finding["remedy"])
        assert works.run("integrity").exit_code == OK


class TestLineage:
    @pytest.fixture
    def circle(self, works) -> Command:
        """Serial 1 became 2; with triggers off, 2 became 1. Part Q has no part in it."""
        works.query("select machserial.register_part('Q', 'T')")
        works.query("select machserial.merge('{1}', 2, 'OP', 1)")
        works.query(
            "set session_replication_role = replica; insert into machserial.serial_propagations "
            "(propagation_type, parent_serial_id, child_serial_id, operation_code, routing_sequence) "
            "values ('MERGE', 2, 1, 'OP', 2)"
        )
        return works

    def test_sound(self, works):
        assert works.run("lineage", "verify").exit_code == OK
        assert works.answer("lineage", "verify", "--part-id", "P") == []
        assert "remedy:" in works.refusal(REFUSED, "lineage", "verify", "--part-id", "NONE")

    def test_a_circle(self, circle):
        result = circle.run("lineage", "verify", "--part-id", "P")
        assert result.exit_code == REFUSED and "comes of serial 2, which comes of it" in result.stdout
        assert circle.run("lineage", "verify").exit_code == REFUSED
        assert circle.run("lineage", "verify", "--part-id", "Q").exit_code == OK


class TestConnections:
    def test_who_is_connected(self, works, connect):
        idle = connect(application_name="line 7", autocommit=True)
        idle.execute("select 1")
        busy = connect(application_name="line 8")
        busy.execute("select 1")
        shown = works.answer("connections")
        states = {(row["application"], row["state"]): row["connections"] for row in shown["connections"]}
        assert states[("line 7", "idle")] == states[("line 8", "idle in transaction")] == 1
        assert states[("machserial", "active")] == 1
        ((limit,),) = works.query("select current_setting('max_connections')::integer")
        assert shown["max_connections"] == limit == shown["used"] + shown["free"] + shown["reserved"]
        table = works.run("connections").stdout
        assert "line 7" in table and f"max_connections = {limit}" in table

    def test_idle_ones_are_ended_and_no_others(self, works, connect, server):
        idle, busy = connect(autocommit=True), connect()
        elsewhere = psycopg.connect(server.dsn("postgres"), autocommit=True)
        for one in (idle, busy, elsewhere):
            one.execute("select 1")
        ((pid,),) = idle.execute("select pg_backend_pid()").fetchall()
        assert works.answer("connections", "--terminate-idle", "10m", "--yes") == []
        ended = works.answer("connections", "--terminate-idle", "0s", "--yes")
        assert [pid] == [row["pid"] for row in ended if row["outcome"] == "ended" and row["pid"] == pid]
        with pytest.raises(psycopg.OperationalError):
            idle.execute("select 1")
        assert busy.execute("select 1").fetchone() == elsewhere.execute("select 1").fetchone() == (1,)
        elsewhere.close()

    def test_it_asks_first(self, works, connect):
        idle = connect(autocommit=True, application_name="line 7")
        idle.execute("select 1")
        refused = machserial("--dsn", works.dsn, "connections", "--terminate-idle", "0s", stdin=b"n\n")
        assert refused.exit_code == REFUSED
        assert "line 7" in refused.stderr and "nothing was done" in refused.stderr and "--yes" in refused.stderr
        assert machserial("--dsn", works.dsn, "connections", "--terminate-idle", "0s").exit_code == REFUSED
        assert idle.execute("select 1").fetchone() == (1,)
        agreed = machserial("--dsn", works.dsn, "connections", "--terminate-idle", "0s", stdin=b"y\n")
        assert agreed.exit_code == OK and "ended" in agreed.stdout

    def test_what_may_not_be_ended_is_said(self, works, connect, clean_roles):
        idle = connect(autocommit=True)
        idle.execute("select 1")
        works.query("create role clerk login")
        works.query("grant pg_read_all_stats, pg_signal_backend to clerk")
        clerk = Command(psycopg.conninfo.make_conninfo(works.dsn, user="clerk"))
        result = clerk.run("connections", "--terminate-idle", "0s", "--yes")
        assert result.exit_code == REFUSED
        assert "may not be ended by you" in result.stdout and "pg_signal_backend" in result.stderr
        assert idle.execute("select 1").fetchone() == (1,)
        works.query("create role worker login")
        with closing(psycopg.connect(works.dsn, user="worker", autocommit=True)) as session:
            session.execute("select 1")
            result = clerk.run("--json", "connections", "--terminate-idle", "0s", "--yes")
            outcomes = {row["user"]: row["outcome"] for row in json.loads(result.stdout)}
            assert outcomes == {"worker": "ended", "postgres": "may not be ended by you"}

    def test_wrong_usage(self):
        for duration in ("10", "m", "10 minutes", "-1m", "'"):
            assert "is not a duration such as" in usage("connections", "--terminate-idle", duration)


@pytest.fixture(scope="module")
def counting(request):
    """A server that counts statements, with machserial."""
    binaries = choose_bin(request.config.getoption("--pg-bin"))
    with Server(binaries) as running:
        offered = running.execute("select 1 from pg_available_extensions where name = 'pg_stat_statements'")
    if not offered:
        pytest.skip("the server has no pg_stat_statements (Debian: apt-get install postgresql-contrib)")
    with Server(binaries, shared_preload_libraries="pg_stat_statements") as running:
        with psycopg.connect(running.dsn("postgres")) as connection:
            install(connection, "plain")
        running.execute("create extension pg_stat_statements")
        command = Command(running.dsn("postgres"))
        command.query("select machserial.register_part('P', 'T')")
        # What installing took is not of interest.
        command.query("select pg_stat_statements_reset()")
        command.query("comment on table machserial.serials is 'Another comment.'")
        for _ in range(3):
            command.query("select * from machserial.serials where part_id = 'P' and serial_number > 'A'")
        command.query("set search_path = machserial, public; select count(*) from serials where id = 17")
        command.query("select count(*) from pg_class where relname = 'nothing of ours'")
        yield command


class TestSlow:
    def test_without_the_extension_it_says_how_to_get_it(self, works):
        line = works.refusal(REFUSED, "slow")
        assert "shared_preload_libraries" in line and "create extension pg_stat_statements" in line
        if works.query("select 1 from pg_available_extensions where name = 'pg_stat_statements'"):
            works.query("create extension pg_stat_statements")
            assert "the server has not loaded it" in works.refusal(REFUSED, "slow")

    def test_the_statements_on_machserial(self, counting):
        rows = counting.answer("slow", "--limit", "100")
        by_query = {row["query"]: row for row in rows}
        found = by_query["select * from machserial.serials where part_id = $1 and serial_number > $2"]
        assert found["calls"] == 3 and found["total_ms"] >= found["mean_ms"] > 0
        assert any(query.startswith("select count(*) from serials") for query in by_query)
        assert not any("relname" in query for query in by_query)
        assert [row["total_ms"] for row in rows] == sorted((row["total_ms"] for row in rows), reverse=True)
        assert len(counting.answer("slow", "--limit", "2")) == 2
        assert "mean ms" in counting.run("slow").stdout

    def test_the_plan_of_one(self, counting):
        rows = counting.answer("slow", "--limit", "100")
        queries = {row["query"]: str(row["queryid"]) for row in rows}
        for text, plan in (("part_id = $1", "serials_part_id_created_at"), ("from serials where id", "serials_pkey")):
            queryid = next(number for query, number in queries.items() if text in query)
            explained = counting.run("slow", "--explain", "--", queryid)
            assert explained.exit_code == OK and plan in explained.stdout, explained.output
            assert any(plan in line for line in counting.answer("slow", "--explain", "--", queryid)["plan"])

    def test_what_has_no_plan(self, counting):
        assert "no such statement" in counting.refusal(REFUSED, "slow", "1", "--explain")
        queryid = next(
            str(row["queryid"])
            for row in counting.answer("slow", "--limit", "1000")
            if "comment on" in row["query"][:20]
        )
        assert "no plan" in counting.refusal(REFUSED, "slow", "--explain", "--", queryid)


class TestIndexes:
    def test_all_is_well(self, works):
        rows = works.answer("indexes")["indexes"]
        assert {row["state"] for row in rows} == {"ok"}
        assert {"serials_site_key", "serials_pkey", "number_blocks_do_not_overlap"} <= {row["index"] for row in rows}
        assert works.answer("indexes", "--repair")["repaired"] == []

    def test_what_nobody_reads_and_what_is_bloated(self, works):
        works.query("select count(*) from machserial.generate('P', 30000)")
        # Half of the serials leave the index, which stays as big as it was.
        works.query(
            "set session_replication_role = replica; update machserial.serials set claim_released = true, "
            "status = 'RETIRED' where sequence_number > 3000"
        )
        works.query("analyze machserial.serials")
        rows = {row["index"]: row for row in works.answer("indexes")["indexes"]}
        assert rows["serials_part_id_created_at"]["bytes"] > 100_000
        assert {row["state"] for row in rows.values()} == {"ok", "unused"}
        assert rows["serials_look_alike"]["state"] == "unused"
        assert rows["serials_site_key"]["bloat_percent"] > 50 > rows["serials_look_alike"]["bloat_percent"]

    def test_missing_and_invalid_ones_are_made_again(self, works):
        works.query("drop index machserial.serials_look_alike, machserial.audit_events_serial_id")
        works.query("drop index machserial.serials_site_key")
        works.query(
            "set allow_system_table_mods = on; update pg_index set indisvalid = false "
            "where indexrelid = 'machserial.serials_part_id_created_at'::regclass"
        )
        result = works.run("--json", "indexes")
        assert result.exit_code == REFUSED and "--repair" in result.stderr
        states = {row["index"]: row["state"] for row in json.loads(result.stdout)["indexes"]}
        lost = ("serials_look_alike", "audit_events_serial_id", "serials_site_key")
        assert [states[name] for name in (*lost, "serials_part_id_created_at")] == ["missing"] * 3 + ["invalid"]
        repaired = works.run("--json", "indexes", "--repair")
        assert repaired.exit_code == OK, repaired.stderr
        done = json.loads(repaired.stdout)["repaired"]
        assert sum("concurrently" in statement for statement in done) == len(done) - 1
        partitions = [statement for statement in done if "audit_events_20" in statement]
        assert len(partitions) == 4
        assert works.answer("integrity") == [] and works.answer("indexes", "--repair")["repaired"] == []
        attached = works.query(
            "select count(*) from pg_inherits where inhparent = 'machserial.audit_events_serial_id'::regclass"
        )
        assert attached == [(4,)]

    def test_it_waits_for_nobody_for_long_and_goes_on_later(self, works, connect):
        works.query("drop index machserial.serials_look_alike")
        holder = connect()
        holder.execute("lock table machserial.serials in share update exclusive mode")
        line = works.refusal(REFUSED, "indexes", "--repair", "--lock-timeout", "1s")
        assert "serials_look_alike" in line and "--lock-timeout" in line
        holder.rollback()
        writer = connect()
        writer.execute("insert into machserial.serials (serial_number, part_id) values ('W', 'P')")
        # Begun, but it cannot be finished while the writer is at it: what is left is invalid.
        assert works.run("indexes", "--repair", "--lock-timeout", "1s").exit_code == REFUSED
        states = {row["index"]: row["state"] for row in json.loads(works.run("--json", "indexes").stdout)["indexes"]}
        assert states["serials_look_alike"] == "invalid"
        writer.commit()
        assert works.run("indexes", "--repair").exit_code == OK

    def test_others_go_on_writing(self, works, connect):
        works.query("drop index machserial.serials_look_alike")
        reader = connect()
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select count(*) from machserial.serials")
        repair = threading.Thread(target=works.run, args=("indexes", "--repair", "--lock-timeout", "1m"))
        repair.start()
        with closing(psycopg.connect(works.dsn, options="-c lock_timeout=20s")) as writer:
            writer.execute("select machserial.generate('P', 5)")
            writer.commit()
        reader.rollback()
        repair.join()
        assert works.answer("indexes", "--repair")["repaired"] == []


class TestPrivileges:
    def test_nothing_is_granted_at_first(self, works):
        assert works.answer("privileges") == []
        assert works.run("privileges", "--drift").exit_code == OK
        assert works.answer("privileges", "--drift") == []

    def test_who_may_do_what(self, works, clean_roles):
        works.query("create role clerk")
        works.query("grant usage on schema machserial to clerk")
        works.query("grant execute on function machserial.version() to clerk")
        works.query("grant select, insert on machserial.serials to clerk")
        works.query("grant update (notes) on machserial.serial_propagations to clerk")
        rows = {(row["role"], row["kind"], row["object"]): row["privileges"] for row in works.answer("privileges")}
        assert rows == {
            ("clerk", "schema", "machserial"): ["USAGE"],
            ("clerk", "function", "version()"): ["EXECUTE"],
            ("clerk", "table", "serials"): ["INSERT", "SELECT"],
            ("clerk", "column", "serial_propagations.notes"): ["UPDATE"],
        }
        table = works.run("privileges").stdout
        assert "clerk" in table and "INSERT, SELECT" in table and "version()" in table
        assert works.answer("privileges", "--drift") == []

    def test_drift_is_named_and_undone_by_its_remedy(self, works, clean_roles):
        works.query("grant execute on function machserial.version() to public")
        works.query("grant select on machserial.serials, machserial.system_generated_serials to public")
        works.query("grant update (notes) on machserial.serial_propagations to public")
        works.query("grant usage on schema machserial to public")
        works.query("create role stranger")
        works.query("create function machserial.planted() returns int language sql return 1")
        works.query("alter function machserial.planted() owner to stranger")
        result = works.run("--json", "privileges", "--drift")
        assert result.exit_code == REFUSED
        found = {row["object"]: row for row in json.loads(result.stdout)}
        assert set(found) == {
            *(
                "version()",
                "serials",
                "system_generated_serials",
                "serial_propagations.notes",
                "machserial",
                "planted()",
            )
        }
        assert "stranger" in found["planted()"]["problem"] and "EXECUTE" in found["version()"]["problem"]
        assert "revoke" in works.run("privileges", "--drift").stdout
        works.query("drop function machserial.planted()")
        for row in found.values():
            if row["remedy"].startswith("revoke"):
                works.query(row["remedy"])
        assert works.answer("privileges", "--drift") == []


class TestSettings:
    def test_list_and_set(self, works):
        values = {row["name"]: row["value"] for row in works.answer("settings", "list")}
        assert values["propagation_depth_limit"] == "50" and len(values) >= 3
        assert "audit_retention_days" in works.run("settings", "list").stdout
        assert works.answer("settings", "set", "propagation_depth_limit", "70")["value"] == "70"
        assert works.query("select machserial._setting('propagation_depth_limit')") == [("70",)]
        told = works.query("select details -> 'new' ->> 'value' from machserial.audit_events "
                           "where event_type = 'SETTING_CHANGED'")  # fmt: skip
        assert told == [("70",)]

    def test_refusals(self, works, clean_roles):
        assert "settings list" in works.refusal(REFUSED, "settings", "set", "no_such", "1")
        assert "whole number" in works.refusal(REFUSED, "settings", "set", "batch_size", "many")
        works.query("create role clerk login")
        works.query("grant usage on schema machserial to clerk")
        clerk = Command(psycopg.conninfo.make_conninfo(works.dsn, user="clerk"))
        clerk.refusal(PRIVILEGE, "settings", "set", "batch_size", "7")
        assert query(works.dsn, "select value from machserial.settings where name = 'batch_size'") == [("100",)]
