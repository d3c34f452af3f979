"""Months go to files and come back; and whatever ends a run, no event is lost."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from archives import ArchiveOnDisk, an_event
from audit_history import NOVEMBER, OCTOBER, History
from command import COMMAND, environment
from machserial import audit_verifier
from machserial.audit import archiving, restoring
from machserial.errors import ExpectedError
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from support import mostly_slow

# Long, and nothing in it depends on how machserial was installed.
ONE_MODE = True

DRIVER = Path(__file__).with_name("archiver_to_kill.py")


@pytest.fixture
def history(deployed_dsn: str) -> History:
    return History(deployed_dsn)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def archive(history: History, folder: Path, *, drop: bool = False, older_than: str = "30 days") -> list[dict]:
    """What was done to which month."""
    with history.connect() as connection:
        jobs, _ = archiving.due(connection, folder, older_than, drop)
        return [archiving.archive_month(job) for job in jobs]


def waiting(history: History, folder: Path) -> dict[str, str]:
    with history.connect() as connection:
        _, months = archiving.due(connection, folder, "30 days", False)
    return {month["month"]: month["reason"] for month in months}


def restore(history: History, *manifests: Path) -> dict:
    with history.connect() as connection:
        return restoring.restore(connection, list(manifests))


def verify(folder: Path, anchor: str | None = None) -> list[audit_verifier.Problem]:
    return list(audit_verifier.Verification(anchor).problems(audit_verifier.manifests_in(folder)))


def verify_one(manifest: Path) -> list[audit_verifier.Problem]:
    return list(audit_verifier.Verification().problems([manifest]))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".parquet")}


def archived_ids(folder: Path) -> set[int]:
    """Events in archives that the verifier has nothing against."""
    found = set()
    for manifest in audit_verifier.manifests_in(folder) if folder.exists() else []:
        if not verify_one(manifest):
            archive = audit_verifier.Archive(audit_verifier.read_manifest(manifest), folder)
            found |= {int(event["id"]) for event in archive.events()}
    return found


def database_ids(history: History) -> set[int]:
    """Events in the table, and in tables that were detached from it."""
    found = set(history.events())
    for name in history.tables():
        if name.endswith(")"):
            found |= set(history.events(name.split(" ")[0]))
    return found


class TestRoundTrip:
    def test_there_and_back(self, history, folder):
        before, anchor = history.events(), history.value("select machserial.audit_anchor()")
        assert history.problems() == []
        assert archive(history, folder) == [
            {
                "month": month,
                "events": events,
                "done": ["export", "record", "detach", "rename"],
                "manifest": str(folder / f"audit_{month.replace('-', '_')}.json"),
            }
            for month, events in ((OCTOBER, 3), (NOVEMBER, 21))
        ]
        assert names(folder) == {
            *("audit_2025_10.json", "audit_events_2025_10.csv.gz", "audit_seals_2025_10.csv.gz"),
            *("audit_2025_11.json", "audit_events_2025_11.csv.gz", "audit_seals_2025_11.csv.gz"),
        }
        assert history.events() == {}
        assert history.tables() == [
            "audit_events_2025_10_archived (detached)",
            "audit_events_2025_11_archived (detached)",
        ]
        assert verify(folder, anchor) == [] == history.problems()
        assert [month["done"] for month in archive(history, folder, drop=True)] == [["drop"], ["drop"]]
        assert history.tables() == []
        assert verify(folder) == [] == history.problems()
        assert archive(history, folder, drop=True) == []
        for month, events in ((NOVEMBER, 21), (OCTOBER, 3)):
            restored = restore(history, folder / f"audit_{month.replace('-', '_')}.json")
            assert (restored["month"], restored["events"], restored["copied"]) == (month, events, events)
            assert history.problems() == []
        assert history.events() == before
        # A month that came back goes again.
        assert archive(history, folder)[1]["done"] == ["detach", "rename"]
        assert history.problems() == []

    def test_the_record_and_the_manifest(self, history, folder):
        archive(history, folder)
        rows = history.query("select * from machserial.audit_archives order by id")
        for row, month in zip(rows, ("2025_10", "2025_11"), strict=True):
            path = folder / f"audit_{month}.json"
            manifest = json.loads(path.read_text())
            assert row["location"] == str(path)
            assert row["manifest_sha256"] == audit_verifier.sha256_of(path)[0]
            assert row["merkle_root"].hex() == manifest["merkle_root"]
            for name in ("event_count", "first_seal_id", "last_seal_id"):
                assert row[name] == manifest[name]
        assert manifest["month"] == NOVEMBER
        assert (manifest["first_seal_id"], manifest["last_seal_id"], manifest["event_count"]) == (3, 6, 21)

    def test_the_section_of_the_chain(self, history, folder):
        """All seals from the month's first to its last, of whatever month they are."""
        archive(history, folder)
        seals = audit_verifier.read_seals(folder / "audit_seals_2025_11.csv.gz")
        assert [(seal["id"], seal["month"]) for seal in seals] == [
            *((b"3", b"2025-11-01"), (b"4", None), (b"5", b"2025-10-01"), (b"6", b"2025-11-01")),
        ]

    def test_the_same_events_make_the_same_files(self, history, folder, tmp_path):
        archive(history, folder)
        for month in ("2025_10", "2025_11"):
            restore(history, folder / f"audit_{month}.json")
        with history.connect() as connection:
            job = archiving.Job(connection, tmp_path, archiving.date(2025, 11, 1))
            job.first_seal_id, job.last_seal_id = 3, 6
            archiving.export_events(job)
        again = tmp_path / "audit_events_2025_11.csv.gz.partial"
        assert again.read_bytes() == (folder / "audit_events_2025_11.csv.gz").read_bytes()

    def test_whatever_the_session_prints_otherwise(self, history, folder):
        with history.connect() as connection:
            for setting in (
                *("timezone = 'Asia/Kathmandu'", "datestyle = 'SQL, DMY'", "bytea_output = 'escape'"),
                *("client_encoding = 'LATIN1'", "intervalstyle = 'sql_standard'"),
            ):
                connection.execute(f"set {setting}")
            before = history.events()
            jobs, _ = archiving.due(connection, folder, "30 days", True)
            for job in jobs:
                archiving.archive_month(job)
            assert verify(folder) == []
            for manifest in audit_verifier.manifests_in(folder):
                restoring.restore(connection, [manifest])
        assert history.events() == before

    def test_in_parquet(self, history, folder):
        parquet = pytest.importorskip("pyarrow.parquet")
        archive(history, folder)
        table = parquet.read_table(folder / "audit_events_2025_11.parquet").to_pylist()
        rows = audit_verifier.read_events(folder / "audit_events_2025_11.csv.gz")
        for event, row in zip(table, rows, strict=True):
            for name, written in row.items():
                if name == "performed_at":
                    assert event[name].strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode() == written
                else:
                    expected = written.decode() if written is not None else None
                    assert (None if event[name] is None else str(event[name])) == expected
        manifest = json.loads((folder / "audit_2025_11.json").read_text())
        assert [(file["content"], file["rows"]) for file in manifest["files"]] == [
            *(("events", 21), ("seals", 4), ("events in parquet", 21)),
        ]

    def test_without_pyarrow(self, history, folder, monkeypatch):
        monkeypatch.setattr(archiving.importlib.util, "find_spec", lambda name: None)
        archive(history, folder)
        assert not list(folder.glob("*.parquet"))
        assert verify(folder) == []


class TestWhichMonths:
    def test_only_old_ones(self, history, folder):
        assert archive(history, folder, older_than="50 years") == []
        assert history.value("select count(*) from machserial.audit_archives") == 0

    def test_the_end_of_the_month_counts(self, history, folder):
        days = history.value("select ceil(extract(epoch from now() - '2025-11-01 00:00+00') / 86400)::integer")
        assert archive(history, folder, older_than=f"{days} days") == []
        assert [month["month"] for month in archive(history, folder, older_than=f"{days - 1} days")] == [OCTOBER]

    def test_the_retention_is_a_setting(self, history):
        with history.connect() as connection:
            assert archiving.retention(connection) == "2555 days"
            connection.execute("update machserial.settings set value = '30' where name = 'audit_retention_days'")
            assert archiving.retention(connection) == "30 days"
            connection.execute("delete from machserial.settings")
            assert archiving.retention(connection) == "2555 days"

    def test_unsealed_events_wait(self, history, folder):
        with history.connect() as connection:
            history.add(connection, "2025-11-15 08:00:00+00")
        assert [month["month"] for month in archive(history, folder)] == [OCTOBER]
        assert waiting(history, folder) == {NOVEMBER: "1 of its events are not sealed; see machserial audit seal"}

    def test_present_events_stay(self, history, folder):
        history.query("select 1 from machserial.register_part('P', 'T')")
        history.query("select * from machserial.seal_audit()")
        assert [month["month"] for month in archive(history, folder, older_than="0 days")] == [OCTOBER, NOVEMBER]

    def test_one_that_was_detached_by_hand_waits(self, history, folder):
        with history.connect() as connection:
            connection.execute("alter table machserial.audit_events detach partition machserial.audit_events_2025_10")
        assert list(waiting(history, folder)) == [OCTOBER]

    def test_a_second_archive_of_a_month(self, history, folder):
        archive(history, folder, drop=True)
        before = archived_ids(folder)
        with history.connect() as connection:
            connection.execute("select machserial._make_audit_partitions('2025-11-15', 0)")
            history.add(connection, "2025-11-20 08:00:00+00", "2025-11-21 08:00:00+00")
            history.seal(connection)
        late = history.events()
        (done,) = archive(history, folder, drop=True)
        assert Path(done["manifest"]).name == "audit_2025_11_2.json"
        assert verify(folder) == [] == history.problems()
        assert archived_ids(folder) == before | set(late)
        restored = restore(history, folder / "audit_2025_11_2.json")
        assert (restored["events"], restored["copied"]) == (2, 2)
        assert history.problems() == []
        restored = restore(history, folder / "audit_2025_11.json", folder / "audit_2025_11_2.json")
        assert (restored["events"], restored["copied"]) == (23, 21)
        assert history.problems() == []

    def test_a_second_archive_beside_the_detached_table_of_the_first(self, history, folder):
        archive(history, folder)
        with history.connect() as connection:
            connection.execute("select machserial._make_audit_partitions('2025-11-15', 0)")
            history.add(connection, "2025-11-20 08:00:00+00")
            history.seal(connection)
        with pytest.raises(ExpectedError, match="audit_events_2025_11 cannot be detached") as refused:
            archive(history, folder)
        assert "--drop" in refused.value.remedy
        assert verify(folder) == [] == history.problems()
        archive(history, folder, drop=True)
        assert history.tables() == []
        assert history.problems() == []

    def test_another_folder_later(self, history, folder, tmp_path):
        """The number of an archive is its own even where its predecessors are not at hand."""
        archive(history, folder, drop=True)
        with history.connect() as connection:
            connection.execute("select machserial._make_audit_partitions('2025-11-15', 0)")
            history.add(connection, "2025-11-20 08:00:00+00")
            history.seal(connection)
        archive(history, tmp_path / "other")
        assert "audit_2025_11_2.json" in names(tmp_path / "other")


class TestLost:
    """The files are gone, and the events are still here."""

    @pytest.mark.parametrize("name", ["2025_10.json", "events_2025_10.csv.gz", "seals_2025_10.csv.gz"])
    @pytest.mark.parametrize("state", ["detached", "attached"])
    def test_it_is_made_again(self, history, folder, name, state):
        archive(history, folder)
        if state == "attached":
            restore(history, folder / "audit_2025_10.json")
        before = archived_ids(folder)
        (folder / f"audit_{name}").unlink()
        (done, *_) = archive(history, folder)
        assert (done["month"], done["done"][:2]) == (OCTOBER, ["export", "record"])
        assert Path(done["manifest"]).name == "audit_2025_10.json"
        assert archived_ids(folder) == before
        copies = history.query(
            "select manifest_sha256 from machserial.audit_archives where month = '2025-10-01' order by id"
        )
        # One, if it was made again within the second that is in the manifest.
        assert len(copies) in (1, 2)
        assert audit_verifier.sha256_of(folder / "audit_2025_10.json")[0] == copies[-1]["manifest_sha256"]
        assert [month["done"][-1] for month in archive(history, folder, drop=True)] == ["drop", "drop"]
        assert verify(folder) == [] == history.problems()
        assert restore(history, folder / "audit_2025_10.json")["copied"] == 3

    def test_in_another_folder(self, history, folder, tmp_path):
        archive(history, folder)
        shutil.rmtree(folder)
        done = archive(history, tmp_path / "other", drop=True)
        assert [month["done"] for month in done] == [["export", "record", "drop"]] * 2
        assert archived_ids(tmp_path / "other") == set(range(1, 25)) & archived_ids(tmp_path / "other")
        assert verify(tmp_path / "other") == [] == history.problems()

    def test_one_of_two_archives_of_a_month(self, history, folder):
        archive(history, folder)
        restore(history, folder / "audit_2025_11.json")
        with history.connect() as connection:
            history.add(connection, "2025-11-20 08:00:00+00")
            history.seal(connection)
        archive(history, folder)
        before = archived_ids(folder)
        (folder / "audit_2025_11.json").unlink()
        (done,) = archive(history, folder)
        assert (done["done"], Path(done["manifest"]).name) == (["export", "record"], "audit_2025_11.json")
        assert archived_ids(folder) == before
        archive(history, folder, drop=True)
        assert verify(folder) == [] == history.problems()

    def test_one_that_is_changed_is_not_lost(self, history, folder):
        archive(history, folder)
        (folder / "audit_2025_10.json").write_text("")
        assert archive(history, folder) == []

    def test_what_was_changed_meanwhile_is_not_archived_again(self, history, folder):
        archive(history, folder)
        (folder / "audit_2025_11.json").unlink()
        with history.connect() as connection:
            connection.execute("set session_replication_role = replica")
            connection.execute("update machserial.audit_events_2025_11_archived set reason = 'none' where id = 5")
        with pytest.raises(ExpectedError, match="the export of 2025-11 is not what was sealed"):
            archive(history, folder)
        assert history.value("select count(*) from machserial.audit_archives") == 2

    def test_of_a_month_that_is_gone_nothing_is_made(self, history, folder):
        archive(history, folder, drop=True)
        shutil.rmtree(folder)
        assert archive(history, folder, drop=True) == []


class TestLeaves:
    LEAVES = """
        select l.* from machserial.audit_leaves as l
        inner join machserial.audit_seals as s on s.id = l.seal_id
        where s.month < '2026-01-01' order by l.seal_id
    """

    def test_they_go_and_come_back_with_the_events(self, history, folder):
        before = history.query(self.LEAVES)
        archive(history, folder)
        assert history.query(self.LEAVES) == before
        archive(history, folder, drop=True)
        assert history.query(self.LEAVES) == []
        with history.connect() as connection, pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
            connection.execute("select machserial.inclusion_proof(5)")
        assert "audit restore" in refused.value.diag.message_hint
        for month in ("2025_11", "2025_10"):
            restore(history, folder / f"audit_{month}.json")
        assert history.query(self.LEAVES) == before
        assert history.value("select (machserial.inclusion_proof(5)).seal_id") == 3
        assert history.problems() == []

    def test_those_of_events_that_are_here_stay(self, history, folder):
        """In the trail, and in a table that was only detached."""
        archive(history, folder)
        restore(history, folder / "audit_2025_11.json")
        for seal_id in (2, 3):
            with history.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
                connection.execute("delete from machserial.audit_leaves where seal_id = %s", [seal_id])
            assert f"seal {seal_id} " in refused.value.diag.message_detail

    def test_a_later_archive_of_the_month(self, history, folder):
        """Leaves of the one that is gone stay gone, those of the other are there while its events are."""
        archive(history, folder, drop=True)
        with history.connect() as connection:
            connection.execute("select machserial._make_audit_partitions('2025-11-15', 0)")
            history.add(connection, "2025-11-20 08:00:00+00")
            history.seal(connection)
        assert len(history.query(self.LEAVES)) == 1
        assert history.problems() == []
        archive(history, folder, drop=True)
        assert history.query(self.LEAVES) == []
        restore(history, folder / "audit_2025_11.json", folder / "audit_2025_11_2.json")
        assert sum(len(leaves["event_ids"]) for leaves in history.query(self.LEAVES)) == 22
        assert history.problems() == []


class TestRefusals:
    def test_what_was_changed_in_the_table_is_not_archived(self, history, folder):
        with history.connect() as connection:
            connection.execute("set session_replication_role = replica")
            connection.execute("update machserial.audit_events_2025_10 set performed_by = 'eve' where id = 1")
        with pytest.raises(ExpectedError, match="the export of 2025-10 is not what was sealed") as refused:
            archive(history, folder)
        assert "EVENT_CHANGED: seal 2" in refused.value.detail
        assert history.tables() == ["audit_events_2025_10", "audit_events_2025_11"]
        assert audit_verifier.manifests_in(folder) == []

    def test_files_that_changed_keep_the_table_from_being_dropped(self, history, folder):
        archive(history, folder)
        events = folder / "audit_events_2025_11.csv.gz"
        events.write_bytes(events.read_bytes()[:-1] + b"\1")
        with pytest.raises(ExpectedError, match="is not what was sealed") as refused:
            archive(history, folder, drop=True)
        assert "FILE_CHANGED" in refused.value.detail
        assert history.tables() == ["audit_events_2025_11_archived (detached)"]

    def test_a_manifest_that_is_not_the_one_on_record(self, history, folder):
        archive(history, folder)
        manifest = folder / "audit_2025_10.json"
        manifest.write_text(manifest.read_text() + " ")
        with pytest.raises(ExpectedError, match=r"audit_2025_10\.json is not what was sealed"):
            archive(history, folder, drop=True)

    def test_files_that_are_elsewhere(self, history, folder, tmp_path):
        archive(history, folder)
        folder.rename(tmp_path / "moved")
        assert [month["done"] for month in archive(history, tmp_path / "moved", drop=True)] == [["drop"], ["drop"]]

    def test_a_record_of_other_events(self, history, folder):
        """Sound files, and on record: but what they hold is not what was sealed."""
        archive(history, folder)
        forged = ArchiveOnDisk(folder, OCTOBER)
        forged.add_seal([an_event(1, performed_at="2025-10-01T00:00:00.000000Z")])
        forged.write()
        assert verify_one(forged.path) == []
        with history.connect() as connection:
            connection.execute("set session_replication_role = replica")
            connection.execute(
                "update machserial.audit_archives set manifest_sha256 = %s where month = '2025-10-01'",
                [audit_verifier.sha256_of(forged.path)[0]],
            )
        with pytest.raises(ExpectedError, match="is not what was sealed") as refused:
            archive(history, folder, drop=True)
        assert "other events than the record says" in refused.value.detail
        assert history.tables()[0] == "audit_events_2025_10_archived (detached)"

    def test_a_folder_that_cannot_be_written(self, history, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ExpectedError, match="cannot be written"):
            archive(history, tmp_path / "file" / "archive")
        assert history.tables() == ["audit_events_2025_10", "audit_events_2025_11"]

    def test_a_detached_table_that_was_changed_is_not_dropped(self, history, folder):
        archive(history, folder)
        with history.connect() as connection:
            connection.execute("set session_replication_role = replica")
            connection.execute("update machserial.audit_events_2025_11_archived set reason = 'none' where id = 5")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
            archive(history, folder, drop=True)
        assert "event 5" in refused.value.diag.message_detail
        assert history.tables() == ["audit_events_2025_11_archived (detached)"]

    def test_events_that_came_after_the_archive_are_neither_detached_nor_dropped(self, history, folder):
        archive(history, folder)
        restore(history, folder / "audit_2025_11.json")
        with history.connect() as connection:
            history.add(connection, "2025-11-20 08:00:00+00")
        assert archive(history, folder, drop=True)[0]["month"] == OCTOBER
        assert waiting(history, folder) == {NOVEMBER: "1 of its events are not sealed; see machserial audit seal"}
        assert history.tables() == ["audit_events_2025_11"]

    @pytest.mark.parametrize("is_sealed", [True, False])
    def test_a_detached_table_that_holds_more_than_its_archive_is_not_dropped(self, history, folder, is_sealed):
        archive(history, folder)
        restore(history, folder / "audit_2025_11.json")
        with history.connect() as connection:
            history.add(connection, "2025-11-20 08:00:00+00")
            if is_sealed:
                history.seal(connection)
            connection.execute("alter table machserial.audit_events detach partition machserial.audit_events_2025_11")
            connection.execute("alter table machserial.audit_events_2025_11 rename to audit_events_2025_11_archived")
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="is not archived"):
                connection.execute("select machserial.drop_archived('2025-11-01')")
        assert len(history.events("audit_events_2025_11_archived")) == 22

    def test_only_who_archives_may_record(self, history, folder):
        """An administrator who could would say that a month is in files of his own, and have the owner drop it."""
        forged = (
            "select machserial.record_archive(month, first_seal_id, last_seal_id, event_count, merkle_root, "
            "repeat('0', 64), '/tmp/of-the-forger.json') from machserial.audit_archives"
        )
        archive(history, folder)
        with history.connect() as connection, connection.transaction(force_rollback=True):
            connection.execute("select machserial.create_roles()")
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute("set local role machserial_admin")
                connection.execute(forged)
            # The owner may: what keeps the administrator out is not the archive.
            connection.execute(forged)

    def test_only_who_archives_may_drop(self, history, folder):
        archive(history, folder)
        drop = "select machserial.drop_archived('2025-11-01')"
        with history.connect() as connection, connection.transaction(force_rollback=True):
            connection.execute("select machserial.create_roles()")
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute("set local role machserial_admin")
                connection.execute(drop)
            # The month is ready to be dropped.
            assert list(connection.execute(drop).fetchone().values()) == [True]

    def test_a_month_is_dropped_only_if_each_of_its_seals_is_in_an_archive(self, history, folder):
        archive(history, folder)
        with history.connect() as connection:
            connection.execute("alter table machserial.audit_archives disable trigger user")
            connection.execute(
                "update machserial.audit_archives set first_seal_id = last_seal_id, "
                "merkle_root = machserial._archive_root(month, last_seal_id, last_seal_id), "
                "event_count = (select event_count from machserial.audit_seals as s where s.id = last_seal_id) "
                "where month = '2025-11-01'"
            )
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
                connection.execute("select machserial.drop_archived('2025-11-01')")
            assert "is in no archive on record" in refused.value.diag.message_detail
            assert history.value("select machserial.drop_archived('2025-10-01')") is True

    def test_files_that_agree_with_their_record_and_not_with_the_seals_are_not_relied_upon(self, history, folder):
        """Record and files may be forged together; the seals in the database are asked as well."""
        archive(history, folder)
        manifest = folder / "audit_2025_11.json"
        content = json.loads(manifest.read_text())
        with history.connect() as connection:
            jobs, _ = archiving.due(connection, folder, "30 days", True)
            job = next(job for job in jobs if job.label == NOVEMBER)
            (copies,) = archiving.archives_on_record(job)
            archiving._require_kept(job, copies)
            connection.execute("alter table machserial.audit_seals disable trigger user")
            connection.execute(
                "update machserial.audit_seals set event_count = event_count + 1 where id = %s",
                [content["last_seal_id"]],
            )
            with pytest.raises(ExpectedError) as refused:
                archiving._require_kept(job, copies)
            assert "than the seals in the database say" in refused.value.detail

    def test_archives_join_up(self, history, folder):
        """Whatever seals lie between two months: none is left out, and a missing archive shows."""
        archive(history, folder)
        manifests = audit_verifier.manifests_in(folder)
        first, second = (audit_verifier.Archive(audit_verifier.read_manifest(path), folder) for path in manifests)
        last = [int(seal["id"]) for seal in first.seals()][-1]
        assert next(int(seal["id"]) for seal in second.seals()) <= last + 1
        assert verify(folder) == []

    def test_one_archiver_at_a_time(self, history, folder):
        with history.connect() as other, archiving.exclusively(other):
            for work in (lambda: archive(history, folder), lambda: self.restore_something(history, folder)):
                with pytest.raises(ExpectedError, match="another session archives or restores") as refused:
                    work()
                assert f"process {other.info.backend_pid} of the server (postgres, " in refused.value.detail
        assert len(archive(history, folder)) == 2

    def restore_something(self, history: History, folder: Path) -> None:
        with history.connect() as connection, archiving.exclusively(connection):
            pass

    def test_an_archive_of_another_database(self, history, folder, new_database):
        from conftest import install

        archive(history, folder)
        other = new_database("another")
        with psycopg.connect(other) as connection:
            install(connection, "plain")
        with pytest.raises(ExpectedError, match="is not an archive of this database"):
            restore(History(other), folder / "audit_2025_11.json")


class TestRestore:
    def test_what_is_there_already_is_not_copied(self, history, folder):
        archive(history, folder)
        before = history.problems()
        for _ in range(2):
            restored = restore(history, folder / "audit_2025_11.json")
            assert restored == {
                "month": NOVEMBER,
                "relation": "machserial.audit_events_2025_11",
                "events": 21,
                "copied": 0,
            }
        assert history.problems() == before == []

    def test_a_damaged_archive_is_not_restored(self, history, folder):
        archive(history, folder, drop=True)
        path = folder / "audit_events_2025_11.csv.gz"
        text = gzip.decompress(path.read_bytes()).replace(b'"SN-1"', b'"SN-2"')
        path.write_bytes(gzip.compress(text, mtime=0))
        with pytest.raises(ExpectedError, match="is not what was sealed"):
            restore(history, folder / "audit_2025_11.json")
        assert history.tables() == []

    def test_a_month_of_which_a_part_is_there(self, history, folder):
        archive(history, folder)
        restore(history, folder / "audit_2025_11.json")
        with history.connect() as connection:
            connection.execute("set session_replication_role = replica")
            connection.execute("delete from machserial.audit_events where id = 5")
        with pytest.raises(ExpectedError, match="some are not"):
            restore(history, folder / "audit_2025_11.json")

    def test_a_detachment_that_was_broken_off_is_ended_first(self, history, folder):
        before = history.events()
        archive(history, folder)
        with history.connect() as connection:
            connection.execute("alter table machserial.audit_events_2025_11_archived rename to audit_events_2025_11")
        assert restore(history, folder / "audit_2025_11.json")["copied"] == 0
        restore(history, folder / "audit_2025_10.json")
        assert history.events() == before

    def test_archives_of_two_months(self, history, folder):
        archive(history, folder)
        with pytest.raises(ExpectedError, match="several months"):
            restore(history, *audit_verifier.manifests_in(folder))

    def test_which_manifests(self, history, folder):
        archive(history, folder)
        (folder / "audit_2025_11_2.json").write_text("{}")
        found = restoring.manifests([folder], NOVEMBER)
        assert [path.name for path in found] == ["audit_2025_11.json", "audit_2025_11_2.json"]
        assert restoring.manifests(found) == found
        for places, month in (([folder], "2025-12"), ([folder / "no.json"], None)):
            with pytest.raises(ExpectedError):
                restoring.manifests(places, month)


class TestOwner:
    def test_the_owner_of_the_database_needs_to_be_no_superuser(self, server, new_database, folder):
        from conftest import install

        server.execute("create role keeper login")
        owned = make_conninfo(new_database("owned", owner="keeper"), user="keeper")
        with psycopg.connect(owned) as connection:
            install(connection, "plain")
        history = History(owned)
        before = history.events()
        archive(history, folder)
        archive(history, folder, drop=True)
        for manifest in audit_verifier.manifests_in(folder):
            restore(history, manifest)
        assert history.events() == before
        assert history.problems() == []


class TestDetach:
    def test_a_long_transaction_only_delays_it(self, history, folder, monkeypatch):
        """The detachment that was begun is found pending, and the next run ends it."""
        monkeypatch.setattr(archiving, "ATTEMPTS", 2)
        with psycopg.connect(history.dsn) as reader:
            reader.execute("select count(*) from machserial.audit_events").fetchone()
            with pytest.raises(ExpectedError, match="audit_events_2025_10 is in use") as refused:
                archive(history, folder)
            assert "run it again" in refused.value.remedy
            assert history.tables() == ["audit_events_2025_10 (pending)", "audit_events_2025_11"]
        assert history.problems() == []
        assert [month["done"] for month in archive(history, folder)] == [
            ["detach", "rename"],
            ["export", "record", "detach", "rename"],
        ]
        assert history.problems() == []

    def test_the_lock_timeout_is_given_back(self, history, folder):
        options = {"options": "-c lock_timeout=7s", "autocommit": True, "row_factory": dict_row}
        with psycopg.connect(history.dsn, **options) as connection:
            jobs, _ = archiving.due(connection, folder, "30 days", False)
            archiving.archive_month(jobs[0])
            assert connection.execute("show lock_timeout").fetchone() == {"lock_timeout": "7s"}

    @pytest.mark.parametrize("state", ["recorded", "detached", "renamed"])
    def test_every_state_is_recognised(self, history, folder, state):
        archive(history, folder)
        name = "machserial.audit_events_2025_11"
        with history.connect() as connection:
            if state != "renamed":
                connection.execute(f"alter table {name}_archived rename to audit_events_2025_11")
            if state == "recorded":
                connection.execute(
                    f"alter table machserial.audit_events attach partition {name} "
                    "for values from ('2025-11-01 00:00+00') to ('2025-12-01 00:00+00')"
                )
        expected = {"recorded": ["detach", "rename", "drop"], "detached": ["rename", "drop"], "renamed": ["drop"]}
        assert archive(history, folder, drop=True)[1]["done"] == expected[state]
        assert history.tables() == []


def killed(history: History, folder: Path, moment: str, step: str) -> None:
    """Runs machserial audit archive until it is killed, and waits until the server has noticed."""
    arguments = ("audit", "archive", "--older-than", "30d", "--to", str(folder), "--drop", "--yes")
    process = subprocess.run(
        [sys.executable, str(DRIVER), moment, step, "--dsn", history.dsn, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    await_the_end(history)


def await_the_end(history: History) -> None:
    """Of the server's part of a command that was killed."""
    others = "select count(*) from pg_stat_activity where datname = current_database() and application_name = %s"
    while history.value(others, "machserial"):
        time.sleep(0.01)


# Files are written as events, seals, perhaps parquet, manifest. Whether there is parquet depends on what is installed.
CALLS = ["os.fsync:1", "os.fsync:2", "os.fsync:3", "os.replace:1", "os.replace:2", "os.replace:3"]


@pytest.mark.parametrize("mode", ["plain"])
class TestKilled:
    # Before a step is mostly after another.
    @pytest.mark.parametrize("moment", mostly_slow(["before", "after"], ["after"]))
    @pytest.mark.parametrize("step", mostly_slow([*archiving.STEPS, *CALLS], [*archiving.STEPS, CALLS[-1]]))
    def test_no_event_is_lost_and_the_next_run_finishes(self, history, folder, step, moment):
        before = set(history.events())
        killed(history, folder, moment, step)
        assert database_ids(history) | archived_ids(folder) >= before
        assert history.problems() == []
        archive(history, folder, drop=True)
        assert history.tables() == []
        assert archived_ids(folder) == before
        assert verify(folder, history.value("select machserial.audit_anchor()")) == []
        assert not list(folder.glob("*.partial"))
        assert len(audit_verifier.manifests_in(folder)) == 2
        assert history.value("select count(*) from machserial.audit_archives") == 2
        assert history.problems() == []

    def test_a_whole_archive_that_is_not_on_record_is_used(self, history, folder):
        killed(history, folder, "before", "record")
        written = (folder / "audit_2025_10.json").stat().st_mtime_ns
        archive(history, folder)
        assert (folder / "audit_2025_10.json").stat().st_mtime_ns == written

    def test_a_whole_archive_that_was_damaged_since_is_not(self, history, folder):
        killed(history, folder, "before", "record")
        (folder / "audit_seals_2025_10.csv.gz").write_bytes(b"")
        with pytest.raises(ExpectedError, match=r"audit_2025_10\.json is not what was sealed"):
            archive(history, folder)
        assert history.tables() == ["audit_events_2025_10", "audit_events_2025_11"]

    def test_more_was_sealed_since(self, history, folder):
        killed(history, folder, "before", "record")
        with history.connect() as connection:
            history.add(connection, "2025-10-22 12:00:00+00")
            history.seal(connection)
        assert Path(archive(history, folder)[0]["manifest"]).name == "audit_2025_10_2.json"
        assert verify(folder) == [] == history.problems()

    def test_while_it_waits_for_readers(self, history, folder):
        """The detachment has begun, and is found pending."""
        with psycopg.connect(history.dsn) as reader:
            reader.execute("select count(*) from machserial.audit_events").fetchone()
            process = subprocess.Popen(
                [*COMMAND, "--dsn", history.dsn, "audit", "archive", "--older-than", "30d", "--to", str(folder)],
                env=environment(),
            )
            while "audit_events_2025_10 (pending)" not in history.tables():
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
            process.wait()
            # Nobody tells the server's part, which would wait for the reader as long as statement_timeout lets it.
            history.query(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name = %s",
                "machserial",
            )
            await_the_end(history)
        assert history.problems() == []
        assert archive(history, folder)[0]["done"] == ["detach", "rename"]
        assert history.tables()[0] == "audit_events_2025_10_archived (detached)"

    def test_the_driver_kills_where_it_is_told(self, history, folder):
        """So that the tests above are about what they say."""
        killed(history, folder, "before", "detach")
        assert history.value("select count(*) from machserial.audit_archives") == 1
        assert history.tables() == ["audit_events_2025_10", "audit_events_2025_11"]
        assert (folder / "audit_2025_10.json").exists()
