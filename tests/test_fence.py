"""After a restore no number is issued that has left the building: counters are moved past what is known to."""

from __future__ import annotations

import json

import psycopg
import pytest
from command import CONNECTION, OK, PRIVILEGE, REFUSED, USAGE, Command, machserial
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import call, generated, make_format, make_part, refused, value

# Long, and nothing in it depends on how machserial was installed.
ONE_MODE = True

REASON = "restored"


@pytest.fixture
def plant(connection):
    make_part(connection)
    make_part(connection, "Q")
    call(connection, "register_site", site_id="BER", time_zone="Europe/Berlin")
    call(connection, "register_site", site_id="ber-2")
    return connection


def fenced(connection, name: str, highest: str | None = None, **arguments: object) -> list:
    return call(connection, "fence", format=name, highest=highest, reason=REASON, **arguments)


def next_value(connection, name: str, **arguments: object) -> int:
    return call(connection, "generate", part_id="P", format=name, **arguments)[0].sequence_number


# What is written by a format is read back by it.

PATTERNS = [
    ("F{SEQ:6}", {}),
    ("{SEQ:6}", {}),
    ("{SEQ:5:base36}", {}),
    ("x{SEQ:5:hex}y", {"letter_case": "UPPER"}),
    ("{SEQ:4:alpha}-Z", {}),
    ("{SEQ:4:safe}{CHECK:luhn36}", {}),
    ("{YY}{DDD}-{SEQ:4}{CHECK:mod97_10}", {}),
    ("{{{SEQ:3}}}\\'%", {}),
    ("{SITE}/{PART}/{SEQ:4}", {"counter_per": "SITE_PART"}),
    ("{site}-{SEQ:4}", {"counter_per": "SITE", "letter_case": "UPPER"}),
    ("{WO}-{LOT}-{SEQ:4}", {}),
    ("{RANDOM:4}{SEQ:5}{UUID}", {}),
    ("{IYYY}W{WW}{SEQ:4}", {"reset": "WEEKLY"}),
    ("{YYYY}-{MM}-{SEQ:4}", {"reset": "MONTHLY", "allocation": "GAPLESS"}),
    ("{DD}.{MM}.{YY}-{SEQ:4}", {"reset": "DAILY", "sequence_increment": 7}),
    ("{YY}{SEQ:4}", {"reset": "YEARLY", "sequence_start": 100}),
]


@pytest.mark.parametrize(("pattern", "arguments"), PATTERNS)
def test_a_printed_number_fences_its_counter(plant, pattern, arguments):
    pattern = pattern.replace("{site}", "{SITE}")
    make_format(plant, "X", pattern, **arguments)
    context = {"work_order_id": "WO-7", "lot_number": "L"}
    where = {"format": "X", "site_id": "ber-2", "context": context}
    if "WO" in pattern:
        context["lot_number"] = "7"
    call(plant, "generate", part_id="P", quantity=2, **where)
    with plant.transaction(force_rollback=True):
        ahead = max(call(plant, "generate", part_id="P", quantity=30, **where), key=lambda row: row.sequence_number)
        left = value(plant, "select last_value from machserial.counter_status('X') where last_value > 0")
    # As after a restore: the counter stands where it stood before, the number is unknown.
    if arguments.get("allocation") != "GAPLESS":
        counter = value(
            plant,
            "select c.id from machserial.counters as c where machserial._last_value(c.id) = %s",
            left,
        )
        step = arguments.get("sequence_increment", 1)
        plant.execute("select setval(%s::regclass, %s)", (f"machserial.counter_{counter}", left - 30 * step))
    [row] = fenced(plant, "X", ahead.serial_number)
    assert (row.outcome, row.highest_number, row.burned) == ("MOVED", ahead.sequence_number, 30)
    following = call(plant, "generate", part_id="P", **where)[0]
    assert following.sequence_number == ahead.sequence_number + arguments.get("sequence_increment", 1)


@pytest.mark.parametrize("alphabet", ["numeric", "base36", "hex", "alpha", "safe"])
@given(number=st.integers(0, 10**6))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_sequence_value_is_what_was_written(connection, alphabet, number):
    pattern = "{SEQ:9}" if alphabet == "numeric" else f"{{SEQ:6:{alphabet}}}"
    written = call(connection, "preview", pattern=pattern, quantity=1, start=number)[0][0]
    read = value(connection, "select machserial._sequence_value(%s, machserial._alphabet(%s))", written, alphabet)
    assert read == number


class TestCounters:
    def test_a_bare_number(self, plant):
        make_format(plant, "F", "F{SEQ:4}")
        [row] = fenced(plant, "F", "41")
        assert (row.next_before, row.next_after, row.burned) == (1, 42, 41)
        assert next_value(plant, "F") == 42

    def test_gapless(self, plant):
        make_format(plant, "G", "G{SEQ:4}", allocation="GAPLESS")
        fenced(plant, "G", "G0041")
        assert generated(plant, format="G", quantity=2) == ["G0042", "G0043"]

    def test_it_never_goes_back(self, plant):
        make_format(plant, "F", "F{SEQ:4}")
        generated(plant, format="F", quantity=50)
        [row] = fenced(plant, "F", "F0041")
        assert (row.outcome, row.burned, row.next_after) == ("ALREADY_PAST", 0, 51)
        assert next_value(plant, "F") == 51

    def test_the_margin(self, plant):
        make_format(plant, "F", "F{SEQ:4}", sequence_increment=10)
        [row] = fenced(plant, "F", "F0041", margin=3)
        assert row.next_after == 81
        # Also where nothing is known to have left.
        [row] = fenced(plant, "F", margin=2)
        assert (row.outcome, row.next_after) == ("MOVED", 101)
        assert next_value(plant, "F") == 101

    def test_the_grid_of_the_increment_is_kept(self, plant):
        make_format(plant, "F", "F{SEQ:4}", sequence_start=3, sequence_increment=10)
        fenced(plant, "F", "F0044")
        assert next_value(plant, "F") == 53

    @pytest.mark.parametrize("allocation", ["SEQUENCE", "GAPLESS"])
    def test_up_to_the_end_of_the_pattern(self, plant, allocation):
        make_format(plant, "F", "F{SEQ:2}", allocation=allocation)
        [row] = fenced(plant, "F", "F98", margin=1000)
        assert row.next_after == 100
        with refused(plant, "2200H"):
            generated(plant, format="F")

    def test_the_period_is_read_from_the_number(self, plant):
        make_format(plant, "D", "{YYYY}{MM}{DD}-{SEQ:4}", reset="DAILY")
        with plant.transaction(force_rollback=True):
            today = generated(plant, format="D")[0]
        [row] = fenced(plant, "D", "20200131-0500")
        assert row.period == "2020-01-31"
        assert generated(plant, format="D") != ["20200131-0501"]
        [row] = fenced(plant, "D", today[:-4] + "0700")
        assert next_value(plant, "D") == 701

    def test_part_and_site_are_read_from_the_number(self, plant):
        make_format(plant, "X", "{SITE}-{PART}-{SEQ:4}", counter_per="SITE_PART")
        [row] = fenced(plant, "X", "BER-Q-0041")
        assert row.counter_key == "BER/Q"
        assert call(plant, "generate", part_id="Q", format="X", site_id="BER")[0].sequence_number == 42
        assert next_value(plant, "X", site_id="BER") == 1

    def test_part_and_site_are_given(self, plant):
        make_format(plant, "X", "{SEQ:4}", counter_per="SITE_PART")
        with refused(plant, "22023"):
            fenced(plant, "X", "0041")
        [row] = fenced(plant, "X", "0041", part_id="P", site_id="BER")
        assert row.counter_key == "BER/P"

    @pytest.mark.parametrize("counter_per", ["SITE", "SITE_PART"])
    def test_the_site_is_not_guessed(self, plant, counter_per):
        make_format(plant, "S", "{SEQ:4}", counter_per=counter_per)
        for site_id in ("BER", "ber-2"):
            call(plant, "generate", part_id="P", format="S", site_id=site_id)
        with refused(plant, "22023") as why:
            fenced(plant, "S", "41", part_id="P")
        assert "BER" in why.detail and "ber-2" in why.detail and "site_id" in why.hint
        with refused(plant, "22023"):
            call(plant, "preview_fence", format="S", highest="41", part_id="P")
        [row] = fenced(plant, "S", "41", part_id="P", site_id="BER")
        assert (row.counter_key, row.next_after) == ("BER/P" if counter_per == "SITE_PART" else "BER", 42)
        with refused(plant, "23503"):
            fenced(plant, "S", "41", part_id="P", site_id="NONE")

    def test_a_bare_number_where_sites_are_in_different_days(self, plant):
        """Somewhere it is always another day: between these two zones lie 26 hours."""
        make_format(plant, "D", "{YYYY}{MM}{DD}-{SEQ:4}", reset="DAILY")
        call(plant, "register_site", site_id="EAST", time_zone="Pacific/Kiritimati")
        call(plant, "register_site", site_id="WEST", time_zone="Etc/GMT+12")
        rows = fenced(plant, "D", "41")
        assert {row.next_after for row in rows} == {42} and len({row.period for row in rows}) == len(rows) >= 2
        for site_id in ("DEFAULT", "EAST", "WEST"):
            assert next_value(plant, "D", site_id=site_id) > 41

    def test_the_preview_changes_nothing_and_says_what_will_be(self, plant):
        make_format(plant, "D", "{YYYY}{MM}{DD}-{SEQ:4}", reset="DAILY")
        make_format(plant, "F", "F{SEQ:4}", allocation="GAPLESS")
        for arguments in (
            {"format": "F", "highest": "F0041", "margin": 3},
            {"format": "F"},
            {"format": "D", "highest": "20200131-0500"},
            {"format": "D", "margin": 2},
        ):
            before = value(plant, "select count(*) from machserial.counters")
            planned = call(plant, "preview_fence", **arguments)
            assert planned == call(plant, "preview_fence", **arguments)
            assert value(plant, "select count(*) from machserial.counters") == before
            assert planned == call(plant, "fence", reason=REASON, **arguments)

    def test_an_older_version_that_is_continued(self, plant):
        make_format(plant, "F", "F{SEQ:4}")
        generated(plant, format="F", quantity=3)
        call(plant, "revise_format", name="F", pattern="NEW{SEQ:5}")
        [row] = fenced(plant, "F", "F0041")
        assert row.outcome == "MOVED"
        assert generated(plant, format="F") == ["NEW00042"]

    def test_a_confirmation_takes_all_counters_of_the_format(self, plant):
        make_format(plant, "S", "{SITE}-{SEQ:4}", counter_per="SITE")
        rows = fenced(plant, "S")
        assert {(row.counter_key, row.outcome) for row in rows} == {
            (site, "CONFIRMED") for site in ("DEFAULT", "BER", "ber-2")
        }

    def test_a_period_that_began_after_the_backup(self, plant):
        """Its counter is not in the backup: it is asked for all the same, and given no sequence before it is used."""
        # Today is one day at all sites.
        call(plant, "register_site", site_id="BER", time_zone="UTC")
        make_format(plant, "D", "{PART}-{YYYY}{MM}{DD}-{SEQ:4}", reset="DAILY", counter_per="PART")
        for part in ("P", "Q"):
            call(plant, "generate", part_id=part, format="D")
        with plant.transaction(force_rollback=True):
            today = [call(plant, "generate", part_id=part, format="D")[0].serial_number for part in ("P", "Q")]
        plant.execute(
            "update machserial.counters set period = to_char(period_starts - 4, 'YYYY-MM-DD'), "
            "period_starts = period_starts - 4"
        )
        call(plant, "pause", reason="restored", until_fenced=True)
        missing = call(plant, "unfenced_counters")
        assert [(row.counter_key, row.last_value) for row in missing] == [("P", None), ("Q", None)]
        assert fenced(plant, "D", today[0][:-4] + "0041")[0].outcome == "MOVED"
        assert [row.counter_key for row in call(plant, "unfenced_counters")] == ["Q"]
        with refused(plant, "55000"):
            call(plant, "resume")
        assert {(row.counter_key, row.outcome) for row in fenced(plant, "D")} == {
            ("P", "CONFIRMED"), ("Q", "CONFIRMED")
        }  # fmt: skip
        assert call(plant, "unfenced_counters") == []
        held = "select count(*) from pg_class where relkind = 'S' and relname ~ '^counter_[0-9]+$'"
        assert value(plant, held) == 3
        call(plant, "resume")
        plant.execute("update machserial.serials set status = 'INVALID', claim_released = true, status_reason = 'test'")
        numbers = [call(plant, "generate", part_id=part, format="D")[0].serial_number for part in ("P", "Q")]
        assert numbers == [today[0][:-4] + "0042", today[1][:-4] + "0001"]

    def test_what_a_revised_format_has_not_counted_yet(self, plant):
        make_format(plant, "F", "{PART}-{SEQ:4}", counter_per="PART")
        generated(plant, format="F", quantity=3)
        call(plant, "revise_format", name="F", pattern="N{PART}-{SEQ:4}")
        call(plant, "pause", reason="restored", until_fenced=True)
        assert [row.counter_key for row in call(plant, "unfenced_counters")] == ["P"]
        assert [(row.next_before, row.outcome) for row in fenced(plant, "F")] == [(4, "CONFIRMED")]
        call(plant, "resume")
        assert generated(plant, format="F") == ["NP-0004"]

    def test_it_is_accounted_for(self, plant):
        make_format(plant, "F", "F{SEQ:4}")
        fenced(plant, "F", "F0041", margin=1)
        [(reason, details)] = plant.execute(
            "select reason, details from machserial.audit_events where event_type = 'COUNTER_FENCED'"
        ).fetchall()
        assert reason == REASON
        assert details == {
            "format": "F", "period": "", "highest": 41, "margin": 1, "next_before": 1, "next_after": 43, "burned": 42
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("highest", "arguments", "code"),
        [
            ("X0041", {}, "22023"),
            ("F00041", {}, "22023"),
            ("99999", {}, "22023"),
            ("", {}, "22023"),
            ("F0041", {"margin": -1}, "22023"),
            ("1' or true", {}, "22023"),
        ],
    )
    def test_refusals(self, plant, highest, arguments, code):
        make_format(plant, "F", "F{SEQ:4}")
        with refused(plant, code):
            fenced(plant, "F", highest, **arguments)

    def test_other_refusals(self, plant):
        with refused(plant, "23503"):
            fenced(plant, "NONE", "1")
        make_format(plant, "R", "{RANDOM:8}")
        with refused(plant, "22023"):
            fenced(plant, "R", "ABCDEFGH")
        assert fenced(plant, "R") == []
        make_format(plant, "OPEN", "{LOT}{WO}{SEQ:2}", counter_per="PART")
        with refused(plant, "22023"):
            fenced(plant, "OPEN", "ABC12")
        make_format(plant, "GONE", "X{SEQ:2}")
        call(plant, "deactivate_format", name="GONE")
        with refused(plant, "55000"):
            fenced(plant, "GONE", "X12")
        with refused(plant, "22023"):
            call(plant, "fence", format="OPEN")

    def test_a_number_that_can_be_read_in_two_ways(self, plant):
        make_part(plant, "A-1")
        make_part(plant, "A")
        make_format(plant, "X", "{PART}-{WO}-{SEQ:2}", counter_per="PART")
        with refused(plant, "22023") as why:
            fenced(plant, "X", "A-1-7-12")
        assert "2 ways" in why.message
        assert fenced(plant, "X", "A-1-7-12", part_id="A-1")[0].counter_key == "A-1"


@pytest.fixture
def restored(plant, deployed_dsn):
    """The command at a database that is paused as after a restore."""
    make_format(plant, "F", "F{SEQ:4}")
    make_format(plant, "G", "G{SEQ:4}", allocation="GAPLESS")
    make_format(plant, "S", "{SITE}-{SEQ:4}", counter_per="SITE")
    make_format(plant, "R", "{RANDOM:8}")
    make_format(plant, "ENDED", "E{SEQ:4}")
    call(plant, "deactivate_format", name="ENDED")
    generated(plant, format="F", quantity=7)
    call(plant, "pause", reason="restored from x", until_fenced=True)
    plant.commit()
    return Command(deployed_dsn)


class TestCommand:
    def test_all_at_once(self, restored):
        done = restored.answer(
            "fence", "--format", "F", "--highest", "F0100", "--format", "G", "--highest", "55",
            "--nothing-left", "S", "--reason", "labels in stock", "--yes",
        )  # fmt: skip
        assert {(row["format"], row["counter_key"], row["outcome"], row["next_after"]) for row in done} == {
            ("F", "", "MOVED", 101), ("G", "", "MOVED", 56), ("S", "DEFAULT", "CONFIRMED", 1),
            ("S", "BER", "CONFIRMED", 1), ("S", "ber-2", "CONFIRMED", 1),
        }  # fmt: skip
        assert restored.answer("pause", "--status") == {"paused": False}
        assert restored.answer("generate", "P", "--format", "F")[0]["serial_number"] == "F0101"
        [reason] = {row[0] for row in restored.query(
            "select reason from machserial.audit_events where event_type in ('COUNTER_FENCED', 'RESUMED')"
        )}  # fmt: skip
        assert reason == "labels in stock"

    def test_step_by_step(self, restored):
        result = restored.run("--json", "fence", "--format", "F", "--highest", "F0100", "--yes")
        assert result.exit_code == REFUSED
        outcomes = {(row["format"], row["outcome"]) for row in json.loads(result.stdout)}
        assert outcomes == {("F", "MOVED"), ("G", "NOT CONFIRMED"), ("S", "NOT CONFIRMED")}
        assert "nothing was said of G, S" in result.stderr
        assert restored.answer("pause", "--status")["paused"]
        assert "not fenced" in restored.refusal(REFUSED, "resume")
        restored.answer("fence", "--all-known", "--yes", "--no-resume")
        assert restored.answer("pause", "--status")["paused"]
        assert restored.answer("resume") == {"paused": False}
        assert restored.answer("generate", "P", "--format", "F")[0]["serial_number"] == "F0101"

    def test_by_csv(self, restored, tmp_path):
        table = tmp_path / "highest.csv"
        table.write_text("format,highest,part_id,site_id\nF,F0100,,\nG,,,\nS,BER-0009,,\nS,4,,ber-2\nS,,,DEFAULT\n")
        done = restored.answer("fence", "--csv", str(table), "--yes")
        assert {(row["counter_key"], row["next_after"]) for row in done if row["format"] == "S"} == {
            ("BER", 10), ("ber-2", 5), ("DEFAULT", 1)
        }  # fmt: skip
        assert restored.answer("pause", "--status") == {"paused": False}

    @pytest.mark.parametrize("table", ["", "a,b\n1,2\n", "format,highest\nF,1,2\n", "format,highest\n,1\n"])
    def test_a_faulty_table(self, restored, tmp_path, table):
        (tmp_path / "x.csv").write_text(table)
        restored.refusal(REFUSED, "fence", "--csv", str(tmp_path / "x.csv"), "--yes")
        assert restored.answer("pause", "--status")["paused"]

    def test_a_faulty_number_does_nothing(self, restored):
        line = restored.refusal(
            REFUSED, "fence", "--format", "G", "--highest", "G0100", "--format", "F", "--highest", "X1", "--yes"
        )
        assert "no serial number of format F" in line
        assert restored.query("select count(*) from machserial.counter_fences") == [(0,)]

    def test_it_asks(self, restored):
        result = restored.run("fence", "--all-known", stdin=b"n\n")
        assert (result.exit_code, result.stdout) == (REFUSED, "")
        assert "nothing was done" in result.stderr
        assert "next before" in result.stderr and "next after" in result.stderr
        assert restored.answer("pause", "--status")["paused"]
        # What it shows comes from the database: where there is none, nobody is asked.
        nowhere = Command("host=/nowhere dbname=x user=x").run("fence", "--all-known", stdin=b"n\n")
        assert nowhere.exit_code == CONNECTION and "Go on?" not in nowhere.stderr
        result = restored.run("fence", "--format", "S", "--highest", "7", stdin=b"y\n")
        assert result.exit_code == REFUSED and "counts for each site" in result.stderr and "BER" in result.stderr
        result = restored.run("fence", "--format", "F", "--highest", "F0100", stdin=b"n\n")
        assert [line.split()[:5] for line in result.stderr.splitlines()[1:2]] == [["F", "8", "101", "93", "MOVED"]]
        assert restored.run("fence", "--all-known", stdin=b"y\n").exit_code == OK

    def test_another_pause_goes_on(self, restored):
        restored.answer("fence", "--all-known", "--yes")
        restored.answer("pause", "--reason", "audit")
        restored.answer("fence", "--format", "F", "--highest", "F0100", "--yes")
        assert restored.answer("pause", "--status")["reason"] == "audit"

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("--format", "F"),
            ("--highest", "1"),
            ("--all-known", "--margin", "-1"),
            ("--part", "P", "--all-known"),
            ("--csv", "/no/such/file"),
        ],
    )
    def test_wrong_usage(self, arguments):
        assert machserial("fence", *arguments, "--yes").exit_code == USAGE

    def test_only_the_owner(self, restored, server):
        server.execute("create role machserial_test_operator login")
        restored.query("grant usage on schema machserial to machserial_test_operator")
        restored.query("grant execute on all functions in schema machserial to machserial_test_operator")
        restored.query("grant select on all tables in schema machserial to machserial_test_operator")
        dsn = psycopg.conninfo.make_conninfo(restored.dsn, user="machserial_test_operator")
        Command(dsn).refusal(PRIVILEGE, "fence", "--format", "F", "--highest", "9", "--yes")

    def test_a_promoted_standby_is_paused_by_hand(self, restored):
        restored.answer("fence", "--all-known", "--yes")
        restored.answer("pause", "--reason", "promoted", "--until-fenced")
        assert "not fenced" in restored.refusal(REFUSED, "resume")
        restored.answer("fence", "--all-known", "--yes")
        assert restored.answer("pause", "--status") == {"paused": False}
