"""machserial audit, as scripts and people see it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from pathlib import Path

import psycopg
import pytest
from audit_history import NOVEMBER, OCTOBER, History
from command import COMMAND, OK, REFUSED, USAGE, Command, environment, usage
from machserial import audit_verifier
from machserial.audit import archiving, database, exporting
from psycopg.rows import dict_row

ARCHIVE = ("audit", "archive", "--older-than", "30d")


@pytest.fixture
def history(deployed_dsn: str) -> History:
    return History(deployed_dsn)


@pytest.fixture
def command(history: History) -> Command:
    return Command(history.dsn)


@pytest.fixture
def shop(deployed_dsn: str) -> Command:
    """Two parts, which have the serials A-1 to A-3; one of them is retired."""
    command = Command(deployed_dsn)
    command.query("select machserial.register_part('PUMP', 'T'), machserial.register_part('LID', 'L')")
    command.query("select machserial.register_site('HAM')")
    command.query("select * from machserial.register_serials(array['A-1', 'A-2', 'A-3'], 'PUMP')")
    command.query("select * from machserial.register_serials(array['A-1'], 'LID', 'HAM')")
    (row,) = command.query("select id from machserial.find_serial('A-2')")
    command.query("select set_config('machserial.actor', 'eve', false), machserial.retire_serial(%s, 'worn')", row[0])
    return command


def tamper(history: History) -> None:
    with history.connect() as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute("update machserial.audit_events set performed_by = 'eve' where id in (1, 3)")


class TestList:
    def test_newest_first(self, command):
        ids = [event["id"] for event in command.answer("audit", "list")]
        assert ids[:3] == [22, 23, 21] and ids[-1] == 1
        assert len(ids) == 24

    def test_filters(self, shop):
        (serial,) = shop.query("select id from machserial.find_serial('A-2')")

        def found(*arguments: str) -> list[tuple[str, str]]:
            events = shop.answer("audit", "list", *arguments)
            return sorted((event["event_type"], event["serial_number"]) for event in events if event["serial_id"])

        both = [("SERIAL_REGISTERED", "A-2"), ("SERIAL_RETIRED", "A-2")]
        assert found("--serial", str(serial[0])) == found("--number", "A-2") == both
        assert found("--type", "serial_retired") == found("--by", "eve") == both[1:]
        assert found("--part", "LID") == [("SERIAL_REGISTERED", "A-1")]
        assert found("--number", "A-1", "--part", "LID") == [("SERIAL_REGISTERED", "A-1")]
        assert len(found("--since", "2020-01-01")) == len(found("--until", "2099-01-01")) == 5
        assert found("--since", "2099-01-01") == found("--until", "2020-01-01") == []

    def test_a_number_of_two_serials(self, shop):
        line = shop.refusal(REFUSED, "audit", "list", "--number", "A-1")
        assert "2 serials have the number A-1" in line and "say which with --serial" in line
        assert "there is no serial X" in shop.refusal(REFUSED, "audit", "list", "--number", "X")

    def test_page_by_page(self, command):
        seen, more = [], ()
        for _ in range(3):
            result = command.run("--json", "audit", "list", "--limit", "10", *more)
            seen += [event["id"] for event in json.loads(result.stdout)]
            more = ("--after", str(seen[-1]))
            assert (f"there are more: --after {more[1]}" in result.stderr) is (len(seen) < 24)
        assert seen == [event["id"] for event in command.answer("audit", "list")]

    def test_a_table_has_what_a_terminal_has_room_for(self, shop):
        result = shop.run("audit", "list", "--type", "SERIAL_RETIRED")
        assert result.exit_code == OK
        assert "worn" in result.stdout and "eve" in result.stdout
        assert "transaction" not in result.stdout
        assert "nothing found" in shop.run("audit", "list", "--by", "nobody").stderr

    def test_wrong_usage(self, command):
        for arguments, complaint in (
            (("--serial", "1", "--number", "A-1"), "either --serial or --number"),
            (("--limit", "10000"), "10000 is not in the range"),
            (("--after", "x"), "'x' is not an id"),
        ):
            assert complaint in usage("audit", "list", *arguments)
        assert "write the time as" in command.refusal(REFUSED, "audit", "list", "--since", "yesterdayish")
        assert "no audit event with id 4711" in command.refusal(REFUSED, "audit", "list", "--after", "4711")


class TestExport:
    def test_csv_with_all_events_oldest_first(self, command, history):
        result = command.run("audit", "export")
        assert result.exit_code == OK
        rows = list(csv.DictReader(io.StringIO(result.stdout_bytes.decode(), newline="")))
        assert [int(row["id"]) for row in rows] == [event["id"] for event in command.answer("audit", "list")][::-1]
        assert tuple(rows[0]) == audit_verifier.EVENT_COLUMNS
        assert rows[0]["performed_at"] == "2025-10-01T00:00:00.000000Z"
        assert rows[5]["details"] == '{"a": 1.10, "b": [null, "\\n", "\\u0001", "é 漢"]}'

    def test_json_an_object_a_line(self, command):
        result = command.run("audit", "export", "--format", "json")
        events = [json.loads(line) for line in result.stdout_bytes.splitlines()]
        listed = command.answer("audit", "list")[::-1]
        for name in ("id", "reason", "details", "site_id", "transaction_id"):
            assert [event[name] for event in events] == [event[name] for event in listed]
        assert result.stdout == command.run("--json", "audit", "export").stdout

    def test_filters(self, shop):
        for arguments, numbers in (
            (("--number", "A-2"), ["A-2", "A-2"]),
            (("--part", "LID", "--number", "A-1"), ["A-1"]),
            (("--type", "serial_retired", "--by", "eve"), ["A-2"]),
            (("--since", "2099-01-01"), []),
            (("--until", "2020-01-01"), []),
            (("--by", "'; drop table machserial.settings; --"), []),
        ):
            lines = shop.run("audit", "export", "--format", "json", *arguments).stdout.splitlines()
            assert [json.loads(line)["serial_number"] for line in lines] == numbers
        assert shop.run("audit", "export", "--by", "nobody").stdout == ",".join(audit_verifier.EVENT_COLUMNS) + "\n"

    def test_a_file_as_a_whole_or_not_at_all(self, command, tmp_path):
        file = tmp_path / "events.csv"
        result = command.run("audit", "export", "--to", str(file))
        assert (result.exit_code, result.stdout) == (OK, "")
        assert file.read_bytes() == command.run("audit", "export").stdout_bytes
        before = file.read_bytes()
        command.refusal(REFUSED, "audit", "export", "--since", "x", "--to", str(file))
        assert file.read_bytes() == before
        assert os.listdir(tmp_path) == ["events.csv"]
        line = command.refusal(USAGE, "audit", "export", "--to", str(tmp_path / "no" / "events.csv"))
        assert "cannot be written" in line

    def test_on_paper(self, shop):
        shop.query("select * from machserial.seal_audit()")
        arguments = ("audit", "export", "--printable", "--part", "PUMP", "--since", "2020-01-01 01:00+01")
        result = shop.run(*arguments)
        assert result.exit_code == OK, result.stderr
        text = result.stdout
        for fact in (
            "Audit trail of ",
            "Page 1",
            "PostgreSQL ",
            "2020-01-01 00:00:00 UTC to the present",
            "part PUMP",
            " UTC by postgres",
            "SERIAL_RETIRED",
            "reason: worn",
            f"Events: {len(shop.answer('audit', 'list', '--part', 'PUMP'))}",
            f"Anchor: {shop.query('select machserial.audit_anchor()')[0][0]}",
        ):
            assert fact in text
        assert text.endswith("\f")
        assert all(len(line) <= exporting.PAGE_WIDTH for line in text.splitlines())

    def test_pages(self, command, monkeypatch):
        monkeypatch.setattr(exporting, "PAGE_LINES", 20)
        pages = command.run("audit", "export", "--printable").stdout.split("\f")[:-1]
        assert [f"Page {number}" in page for number, page in enumerate(pages, start=1)] == [True] * len(pages)
        assert all("Time (UTC)" in page for page in pages)
        assert "Filters:   none" in pages[0]
        assert "Events: 24" in pages[-1]

    def test_nothing_reaches_the_printer_as_a_command(self, command):
        text = command.run("audit", "export", "--printable").stdout
        assert all(one.isprintable() or one in "\n\f" for one in text)
        assert 'details: {"a": 1.10, "b": [null, "\\n", "\\u0001", "é 漢"]}' in " ".join(text.split())

    def test_a_reader_that_goes_away(self, command):
        """As head does."""
        command.query(
            """
            insert into machserial.audit_events (event_type, event_source, reason)
            select 'TEST', 'test', repeat('x', 1000) from generate_series(1, 2000)
            """
        )
        process = subprocess.Popen(
            [*COMMAND, "audit", "export"],
            env=environment(DATABASE_URL=command.dsn),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141
        process.stderr.close()

    def test_wrong_usage(self):
        assert "either --format or --printable" in usage("audit", "export", "--printable", "--format", "csv")
        assert "either --serial or --number" in usage("audit", "export", "--serial", "1", "--number", "A-1")
        usage("audit", "export", "--format", "xml")


class TestSeal:
    def test_seal_and_anchor(self, shop):
        sealed = shop.answer("audit", "seal")
        assert sealed["events_sealed"] > 0
        assert (
            sealed["anchor"] == shop.run("audit", "anchor").stdout.strip() == shop.answer("audit", "anchor")["anchor"]
        )
        assert shop.answer("audit", "seal") == {"events_sealed": 0, "anchor": sealed["anchor"]}
        assert sealed["anchor"] in shop.run("audit", "seal").stdout

    def test_stats(self, shop):
        counts = {row["event_type"]: row["events"] for row in shop.answer("audit", "stats")}
        assert (counts["SERIAL_REGISTERED"], counts["SERIAL_RETIRED"]) == (4, 1)
        assert "SERIAL_RETIRED" in shop.run("audit", "stats").stdout
        assert shop.answer("audit", "stats", "--since", "2099-01-01") == []


class TestVerify:
    def test_intact(self, command):
        anchor = command.answer("audit", "anchor")["anchor"]
        for arguments in ((), ("--full",), ("--anchor", anchor)):
            result = command.run("audit", "verify", *arguments)
            assert (result.exit_code, result.stdout) == (OK, "")
            assert result.stderr.startswith("intact: ") and f"up to seal {anchor}" in result.stderr
        result = command.run("--json", "audit", "verify")
        assert (json.loads(result.stdout), result.exit_code) == ([], OK)

    def test_problems(self, command, history):
        tamper(history)
        result = command.run("audit", "verify", "--full")
        assert result.exit_code == REFUSED
        assert result.stdout.count("EVENT_CHANGED") == 2
        assert "2 problems were found" in result.stderr and "intact" not in result.stderr
        result = command.run("--json", "audit", "verify", "--full")
        assert [(row["problem"], row["event_id"]) for row in json.loads(result.stdout)] == [
            *(("EVENT_CHANGED", 1), ("EVENT_CHANGED", 3)),
        ]
        assert json.loads(result.stderr)["error"]["message"] == "2 problems were found"

    def test_the_command_does_not_take_the_databases_word(self, command, history):
        """Who can change events can replace what would tell: the command computes by itself, and names what differs."""
        anchor = command.answer("audit", "anchor")["anchor"]
        full = ("audit", "verify", "--full", "--anchor", anchor)
        assert "copied out as postgres" in command.run(*full).stderr
        tamper(history)
        with history.connect() as connection:
            connection.execute(
                "do $$ begin execute (select replace(pg_get_functiondef(p.oid), p.prosrc, ' begin return; end ') "
                "from pg_proc as p where p.oid = 'machserial.verify_audit'::regproc); end $$"
            )
        result = command.run(*full)
        assert result.exit_code == REFUSED
        assert "EVENT_CHANGED" in result.stdout and "DEFINITION_CHANGED" in result.stdout
        assert "verify_audit" in result.stdout and "intact" not in result.stderr

    def test_a_policy_that_hides_events(self, command, history):
        with history.connect() as connection:
            connection.execute("create policy hidden on machserial.audit_events as restrictive using (id <> 7)")
            connection.execute("create policy hidden on machserial.audit_events_2025_11 as restrictive using (id <> 7)")
        result = command.run("audit", "verify", "--full")
        assert result.exit_code == REFUSED and result.stdout.count("policy hidden on ") == 2

    def test_rows_that_are_hidden_from_who_verifies(self, deployed_dsn):
        with psycopg.connect(deployed_dsn, autocommit=True, row_factory=dict_row) as connection:
            connection.execute("select machserial.create_roles()")
            assert database.verify(connection, None)[0] == []
            with connection.transaction(force_rollback=True):
                connection.execute("set local role machserial_admin")
                (found,), _ = database.verify(connection, None)
            assert found.problem == "ROWS_HIDDEN" and "machserial_admin" in found.detail

    def test_another_anchor(self, command):
        result = command.run("audit", "verify", "--anchor", "5:" + "0" * 64)
        assert result.exit_code == REFUSED
        assert "ANCHOR_MISMATCH" in result.stdout and "a problem was found" in result.stderr
        assert "ID:HASH" in command.refusal(REFUSED, "audit", "verify", "--anchor", "5")

    def test_archives_without_a_database(self, command, tmp_path):
        anchor = command.answer("audit", "anchor")["anchor"]
        command.answer(*ARCHIVE, "--to", str(tmp_path))
        nowhere = Command("host=/nowhere")
        for place, archives in ((tmp_path, 2), (tmp_path / "audit_2025_11.json", 1)):
            arguments = ("audit", "verify", "--archive", str(place), "--anchor", anchor)
            result = nowhere.run(*arguments)
            assert (result.exit_code, result.stdout) == (OK, "")
            assert f"intact: archives: {archives}, events: " in result.stderr
            assert nowhere.answer(*arguments) == []

    def test_a_tampered_archive(self, command, tmp_path):
        command.answer(*ARCHIVE, "--to", str(tmp_path))
        (tmp_path / "audit_events_2025_11.csv.gz").write_bytes(b"")
        result = command.run("--json", "audit", "verify", "--archive", str(tmp_path))
        assert result.exit_code == REFUSED
        assert {row["problem"] for row in json.loads(result.stdout)} == {"FILE_CHANGED", "FILE_DAMAGED"}

    def test_more_problems_than_anybody_reads(self, command, tmp_path, monkeypatch):
        monkeypatch.setattr("machserial.commands.audit.LISTED", 2)
        for name in ("a", "b", "c"):
            (tmp_path / f"audit_2025_1{'abc'.index(name)}.json").write_text("")
        result = command.run("audit", "verify", "--archive", str(tmp_path))
        assert result.stdout.count("MANIFEST_DAMAGED") == 2
        assert "only the first 2 are shown" in result.stderr

    def test_wrong_usage(self, tmp_path):
        (tmp_path / "audit_2025_11.json").write_text("")
        for arguments, complaint in (
            (("--archive", str(tmp_path / "no")), "does not exist"),
            (("--archive", str(tmp_path), "--full"), "--full is for the database"),
            (("--archive", str(tmp_path), "--anchor", "x"), "is not an anchor"),
        ):
            assert complaint in usage("audit", "verify", *arguments)
        (tmp_path / "audit_2025_11.json").unlink()
        assert "there is no manifest" in usage("audit", "verify", "--archive", str(tmp_path))


class TestArchive:
    def test_archive_and_drop(self, command, history, tmp_path):
        rows = command.answer(*ARCHIVE, "--to", str(tmp_path))
        assert [(row["month"], row["events"]) for row in rows] == [(OCTOBER, 3), (NOVEMBER, 21)]
        assert Path(rows[0]["manifest"]) == tmp_path / "audit_2025_10.json"
        result = command.run(*ARCHIVE, "--to", str(tmp_path), "--drop", stdin=b"y\n")
        assert result.exit_code == OK
        assert "Drop the 24 events of 2025-10, 2025-11" in result.stderr
        assert NOVEMBER in result.stdout
        assert history.tables() == []
        assert command.answer(*ARCHIVE, "--to", str(tmp_path), "--drop") == []

    def test_a_month_that_cannot_be_done_does_not_keep_the_others_waiting(self, command, history, tmp_path):
        command.answer(*ARCHIVE, "--to", str(tmp_path))
        events = tmp_path / "audit_events_2025_10.csv.gz"
        events.write_bytes(events.read_bytes()[:-1] + b"\1")
        result = command.run(*ARCHIVE, "--to", str(tmp_path), "--drop", "--yes")
        assert result.exit_code == REFUSED
        assert NOVEMBER in result.stdout and OCTOBER not in result.stdout
        assert "2025-10 stays as it is: " in result.stderr and "FILE_CHANGED" in result.stderr
        assert "1 of 2 months could not be done: 2025-10" in result.stderr.splitlines()[-1]
        assert history.tables() == ["audit_events_2025_10_archived (detached)"]
        # Put right, it is the only one that is left; a lost one can be made again.
        events.unlink()
        (row,) = command.answer(*ARCHIVE, "--to", str(tmp_path), "--drop", "--yes")
        assert (row["month"], row["done"]) == (OCTOBER, ["export", "record", "drop"])

    def test_dropping_is_asked_for(self, command, history, tmp_path):
        for answer in (b"n\n", b""):
            result = command.run(*ARCHIVE, "--to", str(tmp_path), "--drop", stdin=answer)
            assert result.exit_code == REFUSED
            assert "nothing was done" in result.stderr and "--yes" in result.stderr
        assert len(history.events()) == 24
        rows = command.answer(*ARCHIVE, "--to", str(tmp_path), "--drop", "--yes")
        assert rows[0]["done"] == ["export", "record", "detach", "rename", "drop"]
        assert history.events() == {}

    def test_only_to_see(self, command, history, tmp_path):
        folder = tmp_path / "archive"
        rows = command.answer(*ARCHIVE, "--to", str(folder), "--drop", "--dry-run")
        assert rows[1] == {
            "month": NOVEMBER,
            "events": 21,
            "to_do": ["export", "record", "detach", "rename", "drop"],
        }
        assert not folder.exists()
        assert len(history.events()) == 24
        assert "export, record, detach, rename" in command.run(*ARCHIVE, "--to", str(folder), "--dry-run").stdout

    def test_the_retention_of_the_database(self, command, history, tmp_path):
        arguments = ("audit", "archive", "--to", str(tmp_path))
        command.query("update machserial.settings set value = '10000' where name = 'audit_retention_days'")
        assert command.answer(*arguments) == []
        command.query("update machserial.settings set value = '30' where name = 'audit_retention_days'")
        assert len(command.answer(*arguments)) == 2

    def test_what_must_wait(self, command, history, tmp_path):
        with history.connect() as connection:
            history.add(connection, "2025-11-15 08:00:00+00")
        result = command.run(*ARCHIVE, "--to", str(tmp_path))
        assert "2025-11 must wait: 1 of its events are not sealed" in result.stderr
        assert OCTOBER in result.stdout and NOVEMBER not in result.stdout

    def test_who_is_in_the_way(self, command, history, tmp_path):
        with history.connect() as other, archiving.exclusively(other):
            line = command.refusal(REFUSED, *ARCHIVE, "--to", str(tmp_path))
            assert f"process {other.info.backend_pid}" in line

    @pytest.mark.parametrize(
        ("written", "interval"),
        [("365d", "365 days"), ("12w", "12 weeks"), ("6mo", "6 months"), ("2y", "2 years"), ("0d", "0 days")],
    )
    def test_durations(self, command, tmp_path, monkeypatch, written, interval):
        asked = []
        monkeypatch.setattr(archiving, "due", lambda *arguments: (asked.append(arguments[2]), ([], []))[1])
        command.answer("audit", "archive", "--older-than", written, "--to", str(tmp_path))
        assert asked == [interval]

    @pytest.mark.parametrize("written", ["", "12", "d", "1h", "-1d", "1.5y", "99999d", "1d1w", "6m", "99999999999y"])
    def test_what_is_no_duration(self, tmp_path, written):
        line = usage("audit", "archive", "--to", str(tmp_path), "--older-than", written)
        assert "is not a duration such as" in line

    def test_wrong_usage(self, tmp_path):
        assert "--to" in usage("audit", "archive")
        (tmp_path / "file").write_text("")
        usage("audit", "archive", "--to", str(tmp_path / "file"))


class TestRestore:
    @pytest.fixture
    def archived(self, command: Command, tmp_path: Path) -> Path:
        command.answer(*ARCHIVE, "--to", str(tmp_path), "--drop", "--yes")
        return tmp_path

    def test_by_manifest_or_by_month(self, command, history, archived):
        restored = command.answer("audit", "restore", str(archived / "audit_2025_10.json"))
        assert restored == {
            "month": OCTOBER,
            "relation": "machserial.audit_events_2025_10",
            "events": 3,
            "copied": 3,
        }
        result = command.run("audit", "restore", str(archived), "--month", NOVEMBER)
        assert result.exit_code == OK and NOVEMBER in result.stdout
        assert len(history.events()) == 24
        result = command.run("audit", "restore", str(archived), "--month", NOVEMBER)
        assert "nothing was copied" in result.stderr
        assert "intact" in command.run("audit", "verify", "--full").stderr

    def test_refusals(self, command, archived):
        line = command.refusal(USAGE, "audit", "restore", str(archived))
        assert "several months" in line and "--month" in line
        assert "there is no manifest" in command.refusal(USAGE, "audit", "restore", str(archived), "--month", "2025-12")
        (archived / "audit_seals_2025_10.csv.gz").unlink()
        line = command.refusal(REFUSED, "audit", "restore", str(archived), "--month", OCTOBER)
        assert "FILE_MISSING" in line

    def test_wrong_usage(self, tmp_path):
        usage("audit", "restore")
        assert "does not exist" in usage("audit", "restore", str(tmp_path / "no"))
        assert "is not a month such as" in usage("audit", "restore", str(tmp_path), "--month", "2025-13")
