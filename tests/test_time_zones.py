"""Time zones come with the operating system: names that are old, and names that are gone after an upgrade."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from zoneinfo import available_timezones

import psycopg
import pytest
from command import OK, REFUSED, Command
from support import call, column, generated, make_format, make_part, refused, value

ONE_MODE = True
GONE = "Europe/Atlantis"


@pytest.fixture
def plant(connection):
    make_part(connection)
    call(connection, "register_site", site_id="KIR", time_zone="Pacific/Kiritimati")
    call(connection, "register_site", site_id="OLD", time_zone="Asia/Tokyo")
    make_format(connection, "D", "{YYYY}{MM}{DD}-{SEQ:4}", reset="DAILY")
    make_format(connection, "S", "{SEQ:6}", counter_per="SITE")
    call(connection, "assign_format", part_id="P", format="D")
    for site_id in ("DEFAULT", "KIR", "OLD"):
        generated(connection, quantity=3, site_id=site_id)
        generated(connection, quantity=3, site_id=site_id, format="S")
    return connection


@pytest.fixture
def upgraded(plant):
    """The operating system was upgraded, and has the time zone of OLD no longer."""
    plant.execute("set session_replication_role = replica")
    plant.execute("update machserial.sites set time_zone = %s where id = 'OLD'", (GONE,))
    plant.execute("update machserial.numbering_plans set time_zone = %s where site_id = 'OLD'", (GONE,))
    plant.execute("reset session_replication_role")
    return plant


def told(connection: psycopg.Connection, work: Callable[[], object]) -> list[SimpleNamespace]:
    """The warnings while it works: message, detail, hint."""
    said = []

    def note(found: psycopg.errors.Diagnostic) -> None:
        if found.severity_nonlocalized == "WARNING":
            texts = {name: getattr(found, f"message_{name}") for name in ("primary", "detail", "hint")}
            said.append(SimpleNamespace(**texts))

    connection.add_notice_handler(note)
    work()
    connection.remove_notice_handler(note)
    return said


class TestGone:
    def test_the_others_go_on(self, upgraded):
        call(upgraded, "maintain")
        make_format(upgraded, "NEW", "{YYYY}{MM}{DD}-N{SEQ:4}", reset="DAILY", counter_per="SITE")
        make_part(upgraded, "Q")
        call(upgraded, "assign_format", part_id="Q", format="NEW")
        call(upgraded, "register_site", site_id="FOURTH")
        for site_id in ("DEFAULT", "KIR", "FOURTH"):
            assert generated(upgraded, site_id=site_id)
            assert generated(upgraded, "Q", site_id=site_id)
        call(upgraded, "pause", reason="restored", until_fenced=True)
        call(upgraded, "unfenced_counters")
        call(upgraded, "fence", format="D", reason="nothing left")

    @pytest.mark.parametrize("statement", [
        "generate('P', site_id => 'OLD')",
        "generate('P', 3, site_id => 'OLD')",
        "generate('P', format => 'S', site_id => 'OLD', context => '{\"note\": \"x\"}')",
        "generate('P', site_id => 'OLD', request_id => 'once')",
        "generate('P', pattern => 'NEW-{YYYY}-{SEQ:3}', site_id => 'OLD')",
        "generate('P', format => 'CHECKED', site_id => 'OLD')",
        "preview('{YYYY}-{SEQ:3}', site_id => 'OLD')",
        "allocate_block('D', 5, 'LINE', site_id => 'OLD', part_id => 'P')",
        "reset_counter('S', 100, site_id => 'OLD', reason => 'r')",
        "fence('D', '100', site_id => 'OLD', reason => 'r')",
        "fire('WORK_ORDER_CREATE', 'P', '{\"site_id\": \"OLD\"}', 2)",
    ])  # fmt: skip
    def test_there_it_says_why(self, upgraded, statement):
        make_format(upgraded, "CHECKED", "C{SEQ:4}{CHECK:luhn}")
        call(upgraded, "create_trigger", part_id="P", trigger_type="WORK_ORDER_CREATE",
             assignment_type="SYSTEM_GENERATED")  # fmt: skip
        with refused(upgraded, "55000") as why:
            upgraded.execute(f"select machserial.{statement}")
        assert "OLD" in why.message and GONE in why.message and "register_site('OLD'" in why.hint and why.detail

    def test_maintain_warns(self, upgraded):
        (warning,) = told(upgraded, lambda: call(upgraded, "maintain"))
        assert "OLD" in warning.primary and GONE in warning.primary
        assert "register_site" in warning.hint

    def test_health_and_integrity_report_it(self, upgraded):
        check = call(upgraded, "health_check", name="time_zones")[0]
        assert (check.status, check.value) == ("CRITICAL", 1) and f"OLD ({GONE})" in check.message
        (finding,) = call(upgraded, "integrity")
        assert (finding.name, finding.severity, finding.object) == ("unknown_time_zone", "CRITICAL", "site OLD")
        upgraded.execute(finding.remedy.replace("...", "'Asia/Tokyo'"))
        assert call(upgraded, "integrity") == []
        assert call(upgraded, "health_check", name="time_zones")[0].status == "OK"
        assert generated(upgraded, site_id="OLD")

    def test_what_does_not_go_by_dates_is_examined_there_too(self, upgraded):
        """The counter of OLD that is never reset is behind, and that is found."""
        counter = value(upgraded, "select max(id) from machserial.counters where site_id = 'OLD'")
        upgraded.execute("select setval(%s::regclass, 1)", (f"machserial.counter_{counter}",))
        assert {row.name for row in call(upgraded, "integrity")} == {"unknown_time_zone", "counter_behind"}

    def test_the_site_can_be_renamed(self, upgraded):
        assert call(upgraded, "register_site", site_id="OLD", name="Atlantis")[0].name == "Atlantis"

    def test_a_backup_comes_back(self, server, upgraded, deployed_dsn, new_database, tmp_path):
        programs = ("--bin", str(server.tool("pg_dump").parent))
        upgraded.commit()
        command = Command(deployed_dsn)
        command.answer("backup", str(tmp_path / "x"), *programs)
        copy = Command(new_database("machserial_test_zones"))
        restored = copy.run("restore", str(tmp_path / "x"), *programs)
        assert restored.exit_code == OK, restored.stderr
        assert copy.query("select time_zone from machserial.sites where id = 'OLD'") == [(GONE,)]
        assert copy.run("integrity").exit_code == REFUSED


class TestOldNames:
    def test_a_warning_names_the_present_one(self, connection):
        (warning,) = told(connection, lambda: call(connection, "register_site", site_id="A", time_zone="US/Eastern"))
        assert "US/Eastern is an old name of America/New_York" in warning.primary
        assert warning.detail
        assert told(connection, lambda: connection.execute(warning.hint)) == []
        assert column(connection, "select time_zone from machserial.sites where id = 'A'") == ["America/New_York"]
        insert = "insert into machserial.sites (id, time_zone) values ('B', 'asia/calcutta')"
        (warning,) = told(connection, lambda: connection.execute(insert))
        assert "Asia/Kolkata" in warning.primary
        # Said when it is given, and not again when something else changes.
        assert told(connection, lambda: call(connection, "register_site", site_id="B", name="Kolkata")) == []

    @pytest.mark.parametrize("zone", ["UTC", "GMT", "Etc/GMT+5", "Europe/Berlin", "Europe/Oslo"])
    def test_of_others_nothing_is_said(self, connection, zone):
        assert told(connection, lambda: call(connection, "register_site", site_id="A", time_zone=zone)) == []

    def test_health_warns(self, connection):
        call(connection, "register_site", site_id="A", time_zone="US/Eastern")
        check = call(connection, "health_check", name="time_zones")[0]
        assert (check.status, check.value) == ("WARNING", 1) and "A (US/Eastern)" in check.message
        assert call(connection, "integrity") == []

    def test_the_list(self, connection):
        """Every old name stands for another that is not old; where the operating system has both, they are the same."""
        pairs = connection.execute("select name, present_name from machserial._old_time_zones()").fetchall()
        names = {name for name, _ in pairs}
        assert len(names) == len(pairs) > 130
        assert names.isdisjoint(present for _, present in pairs)
        assert {present for _, present in pairs} <= available_timezones() or len(available_timezones()) < 300
        differing = column(
            connection,
            "select o.name from machserial._old_time_zones() as o "
            "cross join generate_series('2000-01-01'::timestamptz, '2026-01-01', '3 months') as t "
            "where machserial._time_at(o.name, t) <> machserial._time_at(o.present_name, t)",
        )
        assert set(differing) <= {"CET", "MET", "EET", "WET"}
