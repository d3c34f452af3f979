"""machserial vendor, as scripts and people see it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest
from command import COMMAND, OK, REFUSED, USAGE, Command, environment, refusal, usage


@pytest.fixture
def foundry(deployed_dsn: str) -> Command:
    """Two parts that a foundry numbers."""
    command = Command(deployed_dsn)
    command.query("select machserial.register_part('BODY', 'CASTING'), machserial.register_part('LID', 'CASTING')")
    command.query("select machserial.register_site('HAM')")
    return command


def receive(foundry: Command, *numbers: str) -> list[int]:
    """Their ids."""
    rows = foundry.answer("vendor", "receive", *numbers, "--vendor", "Foundry", "--part", "BODY")
    return [row["vendor_serial_id"] for row in rows]


def statuses(foundry: Command) -> dict[str, str]:
    return dict(foundry.query("select serial_number, status from machserial.vendor_serials where status <> 'REJECTED'"))


def written(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


class TestReceive:
    def test_numbers_as_arguments(self, foundry):
        result = foundry.run(
            *("vendor", "receive", "F-1", " F-2 ", "--vendor", "Foundry", "--part", "BODY"),
            *("--site", "HAM", "--received", "2026-03-01 08:00+00"),
        )
        assert result.exit_code == OK
        assert "F-1" in result.stdout and "F-2" in result.stdout
        found = foundry.query("select serial_number, vendor_name, part_id, site_id from machserial.vendor_serials")
        assert sorted(found) == [("F-1", "Foundry", "BODY", "HAM"), ("F-2", "Foundry", "BODY", "HAM")]
        assert foundry.query(
            "select distinct extract(month from received_date)::int from machserial.vendor_serials"
        ) == [(3,)]

    def test_what_is_refused_does_not_keep_the_rest_out(self, foundry):
        receive(foundry, "F-1")
        result = foundry.run("--json", "vendor", "receive", "F-2", "F-1", "--vendor", "Foundry", "--part", "BODY")
        assert result.exit_code == REFUSED
        rows = json.loads(result.stdout)
        assert [(row["serial_number"], row["status"]) for row in rows] == [("F-2", "PENDING"), ("F-1", "REFUSED")]
        assert "taken" in rows[1]["errors"][0]
        assert json.loads(result.stderr)["error"]["message"] == "1 of 2 serial numbers were refused"
        assert set(statuses(foundry)) == {"F-1", "F-2"}

    def test_a_file_whose_lines_go_before_the_options(self, foundry, tmp_path):
        delivery = written(
            tmp_path / "delivery.csv",
            b'\xef\xbb\xbf"Serial_Number";PART_ID;site_id;received_date\r\nF-1;LID;HAM;2026-03-01\r\n\r\nF-2;;;\r\n',
        )
        result = foundry.run("vendor", "receive", "--csv", delivery, "--vendor", "Foundry", "--part", "BODY")
        assert (result.exit_code, result.stdout) == (OK, ""), result.stderr
        assert result.stderr == "2 received\n"
        found = foundry.query("select serial_number, part_id, site_id from machserial.vendor_serials")
        assert sorted(found) == [("F-1", "LID", "HAM"), ("F-2", "BODY", "DEFAULT")]

    def test_a_file_without_a_header_on_standard_input(self, foundry):
        arguments = ("vendor", "receive", "--csv", "-", "--vendor", "Foundry", "--part", "BODY")
        result = foundry.run(*arguments, stdin=b'F-1\n"F,2"\n')
        assert result.exit_code == OK, result.stderr
        assert set(statuses(foundry)) == {"F-1", "F,2"}

    def test_the_file_of_the_refused_can_be_corrected_and_received(self, foundry, tmp_path):
        delivery = written(tmp_path / "delivery.csv", "serial_number,part_id\nF-1,LID\nF-1,LID\n,LID\nF-2,BODY\n")
        refused = tmp_path / "refused.csv"
        arguments = ("vendor", "receive", "--vendor", "Foundry", "--refused", str(refused))
        result = foundry.run(*arguments, "--csv", delivery)
        assert (result.exit_code, result.stdout) == (REFUSED, "")
        assert "2 received" in result.stderr
        assert "2 of 4 serial numbers were refused" in result.stderr
        assert str(refused) in result.stderr
        rows = list(csv.DictReader(refused.read_text().splitlines()))
        assert [(row["serial_number"], row["part_id"], row["line"]) for row in rows] == [
            ("F-1", "LID", "3"),
            ("", "LID", "4"),
        ]
        assert all(row["errors"] for row in rows)
        corrected = refused.read_text().replace("F-1", "F-3").replace("\n,", "\nF-4,")
        assert foundry.run(*arguments, "--csv", written(tmp_path / "corrected.csv", corrected)).exit_code == OK
        assert set(statuses(foundry)) == {"F-1", "F-2", "F-3", "F-4"}
        assert len(refused.read_text().splitlines()) == 1

    def test_a_spreadsheet_runs_nothing_of_the_refused_and_what_it_writes_is_read_as_it_was(self, foundry, tmp_path):
        """Vendors whose names a spreadsheet would take for formulas, and a number of HIBC, which begins with +."""
        names = ["=cmd|' /C calc'!A0", "+1 Foundry", "-Foundry", "@SUM(1)", "'=quoted", "'quoted", "Foundry"]
        delivery, refused = tmp_path / "delivery.csv", tmp_path / "refused.csv"
        with delivery.open("w", newline="") as file:
            head = ["serial_number", "vendor_name", "part_id"]
            csv.writer(file).writerows([head, *([f"+A{n}", name, "BODY"] for n, name in enumerate(names))])
        arguments = ("vendor", "receive", "--csv")
        foundry.query("select machserial.register_serials(%s, 'BODY')", [f"+A{n}" for n in range(len(names))])
        result = foundry.run(*arguments, str(delivery), "--refused", str(refused))
        assert result.exit_code == REFUSED, result.stderr
        rows = list(csv.DictReader(refused.read_text().splitlines()))
        assert [row["vendor_name"] for row in rows] == [
            "'=cmd|' /C calc'!A0", "'+1 Foundry", "'-Foundry", "'@SUM(1)", "'=quoted", "'quoted", "Foundry"
        ]  # fmt: skip
        assert [row["serial_number"] for row in rows] == [f"+A{n}" for n in range(len(names))]
        # The corrected file is received, and its vendors are those of the delivery.
        corrected = refused.read_text().replace("+A", "+B")
        result = foundry.run(*arguments, written(tmp_path / "corrected.csv", corrected))
        assert result.exit_code == OK, result.stderr
        received = foundry.query("select serial_number, vendor_name from machserial.vendor_serials order by id")
        assert sorted(received) == [(f"+B{n}", name.removeprefix("'") if name == "'=quoted" else name)
                                    for n, name in enumerate(names)]  # fmt: skip

    def test_a_broken_rule_is_shown_and_does_not_refuse(self, foundry, tmp_path):
        foundry.answer("vendor", "rule", "set", "Foundry", "--max-length", "3")
        delivery = written(tmp_path / "delivery.csv", "F-1\nF-1234\n")
        result = foundry.run("vendor", "receive", "--csv", delivery, "--vendor", "Foundry", "--part", "BODY")
        assert result.exit_code == OK
        assert "F-1234" in result.stdout and "F-1 " not in result.stdout
        assert "2 received, of which 1 against a rule" in result.stderr

    def test_a_big_file_goes_in_portions_and_comes_out_in_its_order(self, foundry, tmp_path):
        numbers = [f"F-{number % 2_500:05}" for number in range(2_501)][::-1]
        delivery = written(tmp_path / "delivery.csv", "\n".join(numbers))
        result = foundry.run("--json", "vendor", "receive", "--csv", delivery, "--vendor", "Foundry", "--part", "BODY")
        assert result.exit_code == REFUSED
        assert [row["serial_number"] for row in json.loads(result.stdout)] == numbers
        assert foundry.query("select count(*) from machserial.vendor_serials") == [(2_500,)]

    def test_a_file_that_was_received_already_is_not_listed_as_a_whole(self, foundry, tmp_path):
        delivery = written(tmp_path / "delivery.csv", "\n".join(f"F-{number}" for number in range(100)))
        arguments = ("vendor", "receive", "--csv", delivery, "--vendor", "Foundry", "--part", "BODY")
        foundry.run(*arguments)
        result = foundry.run(*arguments)
        assert result.exit_code == REFUSED
        assert result.stdout.count("REFUSED") == 20
        assert "80 more are not shown" in result.stderr

    def test_it_is_all_one_transaction(self, foundry, tmp_path):
        delivery = written(tmp_path / "delivery.csv", "serial_number,part_id\nF-1,BODY\nF-2,NO-SUCH-PART\n")
        assert "NO-SUCH-PART" in foundry.refusal(REFUSED, "vendor", "receive", "--csv", delivery, "--vendor", "Foundry")
        lost = str(tmp_path / "no-such-folder" / "refused.csv")
        line = foundry.refusal(
            *(USAGE, "vendor", "receive", "F-1", "--vendor", "Foundry", "--part", "BODY", "--refused", lost)
        )
        assert "nothing was received" in line
        assert statuses(foundry) == {}

    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            (b"", "holds no serial numbers"),
            (b"serial_number,part_id\n\n", "holds no serial numbers"),
            (b"serial_number,recieved_date\nF-1,2026-01-01\n", 'column "recieved_date" is unknown'),
            (b"serial_number,serial_number\nF-1,F-1\n", 'column "serial_number" comes twice'),
            (b"number,part_id\nF-1,BODY\n", "line 1 has 2 columns instead of 1"),
            (b"serial_number,part_id\nF-1\n", "line 2 has 1 columns instead of 2"),
            ("serial_number\nF-ä\n".encode("latin-1"), "byte 17 is not UTF-8"),
            ("F-1".encode("utf-16"), "byte 1 is not UTF-8"),
            (b"F\0-\x001\0", "null characters"),
            (b'"F-1\n', "line 1: unexpected end of data"),
        ],
    )
    def test_unusable_files(self, tmp_path, content, complaint):
        delivery = written(tmp_path / "delivery.csv", content)
        arguments = ("vendor", "receive", "--csv", delivery, "--vendor", "Foundry", "--part", "BODY")
        line = refusal(USAGE, *arguments)
        assert complaint in line and "delivery.csv" in line and "remedy:" in line

    @pytest.mark.parametrize("path", ["/no/such/file", "/"])
    def test_unreadable_files(self, path):
        arguments = ("vendor", "receive", "--csv", path, "--vendor", "Foundry", "--part", "BODY")
        assert path in refusal(USAGE, *arguments)

    def test_wrong_usage(self, tmp_path):
        delivery = written(tmp_path / "delivery.csv", "serial_number,part_id\nF-1,BODY\nF-2,\n")
        for arguments, complaint in (
            (("--vendor", "V", "--part", "P"), "either serial numbers or --csv"),
            (("F-1", "--csv", delivery, "--vendor", "V", "--part", "P"), "either serial numbers or --csv"),
            (("F-1", "--part", "P"), "--vendor is missing"),
            (("--csv", delivery, "--vendor", "V"), "--part is missing, and line 3 of the file has no part_id"),
        ):
            assert complaint in usage("vendor", "receive", *arguments)

    def test_a_terminal_sees_the_progress(self, foundry, tmp_path):
        delivery = written(tmp_path / "delivery.csv", "\n".join(f"F-{number}" for number in range(1000)))
        shown, terminal = os.openpty()
        process = subprocess.run(
            [*COMMAND, "vendor", "receive", "--csv", delivery, "--vendor", "Foundry", "--part", "BODY"],
            env=environment(DATABASE_URL=foundry.dsn, TERM="xterm"),
            stdout=subprocess.PIPE,
            stderr=terminal,
            timeout=60,
        )
        os.close(terminal)
        assert (process.returncode, process.stdout) == (OK, b"")
        assert b"1000/1000" in os.read(shown, 100_000)
        os.close(shown)


class TestDecide:
    def test_accept_some(self, foundry):
        first, second, _ = receive(foundry, "F-1", "F-2", "F-3")
        accepted = foundry.answer("vendor", "accept", str(second), str(first))
        assert {row["status"] for row in accepted} == {"ACTIVE"}
        assert statuses(foundry) == {"F-1": "ACTIVE", "F-2": "ACTIVE", "F-3": "PENDING"}

    def test_accept_with_our_own_number(self, foundry):
        (received,) = receive(foundry, "F-1")
        ((own,),) = foundry.query("select serial_id from machserial.register_serial('B-1', 'BODY')")
        (accepted,) = foundry.answer("vendor", "accept", str(received), "--internal", str(own))
        assert (accepted["status"], accepted["internal_serial_id"]) == ("ACTIVE", own)

    def test_accept_all_of_a_vendor_but_those_against_its_rule(self, foundry):
        foundry.answer("vendor", "rule", "set", "Foundry", "--max-length", "3")
        receive(foundry, "F-1", "F-1234", "F-2")
        foundry.answer("vendor", "receive", "L-1", "--vendor", "Foundry", "--part", "LID")
        foundry.answer("vendor", "receive", "O-1", "--vendor", "Other", "--part", "BODY")
        result = foundry.run("vendor", "accept", "--all", "--vendor", "Foundry", "--part", "BODY")
        assert result.exit_code == OK
        assert "held back as against a rule: 1" in result.stderr
        expected = {"F-1": "ACTIVE", "F-2": "ACTIVE", "F-1234": "PENDING", "L-1": "PENDING", "O-1": "PENDING"}
        assert statuses(foundry) == expected
        assert foundry.answer("vendor", "accept", "--all", "--vendor", "Foundry", "--part", "BODY") == []

    def test_a_rule_is_waived_with_a_reason(self, foundry):
        foundry.answer("vendor", "rule", "set", "Foundry", "--max-length", "3")
        (received,) = receive(foundry, "F-1234")
        assert "remedy:" in foundry.refusal(REFUSED, "vendor", "accept", str(received))
        (waived,) = foundry.answer("vendor", "waive", str(received), "--reason", "the drawing allows it")
        assert waived["waived_reason"] == "the drawing allows it"
        foundry.answer("vendor", "accept", str(received))
        assert statuses(foundry) == {"F-1234": "ACTIVE"}

    def test_reject_all_or_none(self, foundry):
        first, second = receive(foundry, "F-1", "F-2")
        foundry.refusal(REFUSED, "vendor", "reject", str(first), "999999", "--reason", "blowhole")
        assert statuses(foundry) == {"F-1": "PENDING", "F-2": "PENDING"}
        rejected = foundry.answer("vendor", "reject", str(first), str(second), "--reason", "blowhole")
        assert {row["rejection_reason"] for row in rejected} == {"blowhole"}
        assert statuses(foundry) == {}
        receive(foundry, "F-1")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("accept",),
            ("accept", "1", "--all", "--vendor", "V"),
            ("accept", "--all"),
            ("accept", "1", "--vendor", "V"),
            ("accept", "1", "--part", "P"),
            ("accept", "1", "2", "--internal", "3"),
            ("accept", "F-1"),
            ("accept", "0"),
            ("accept", "9223372036854775808"),
            ("reject", "1"),
            ("reject", "--reason", "x"),
            ("waive", "1"),
        ],
    )
    def test_wrong_usage(self, arguments):
        usage("vendor", *arguments)


class TestList:
    def test_filters(self, foundry):
        first, *_ = receive(foundry, "F-1", "F-2")
        foundry.answer("vendor", "receive", "O-1", "--vendor", "Other", "--part", "LID")
        foundry.answer("vendor", "accept", str(first))

        def numbers(*arguments: str) -> list[str]:
            return [row["serial_number"] for row in foundry.answer("vendor", "list", *arguments)]

        assert numbers() == ["F-1", "F-2", "O-1"]
        assert numbers("--status", "pending") == ["F-2", "O-1"]
        assert numbers("--vendor", "Other") == numbers("--part", "LID") == ["O-1"]

    def test_page_by_page(self, foundry):
        receive(foundry, *(f"F-{number}" for number in range(5)))
        seen, more = [], ()
        for _ in range(3):
            result = foundry.run("--json", "vendor", "list", "--limit", "2", *more)
            seen.append([row["id"] for row in json.loads(result.stdout)])
            more = ("--after", str(seen[-1][-1]))
            assert (f"there are more: --after {more[1]}" in result.stderr) is (len(seen) < 3)
        assert list(map(len, seen)) == [2, 2, 1]
        assert [id for page in seen for id in page] == [row["id"] for row in foundry.answer("vendor", "list")]


class TestRule:
    def test_set_show_and_delete(self, foundry):
        made = foundry.answer(
            *("vendor", "rule", "set", "Foundry", "--part", "BODY", "--pattern", "F-{SEQ:4}", "--check", "luhn"),
            *("--regex", "^F", "--min-length", "3", "--max-length", "9"),
        )
        general = foundry.answer("vendor", "rule", "set", "Foundry", "--max-length", "20")
        listed = foundry.answer("vendor", "rule", "list", "--vendor", "Foundry")
        assert listed == [general, made]
        assert made["pattern"] == "F-{SEQ:4}" and made["min_length"] == 3 and made["check_algorithm"] == "luhn"
        assert foundry.answer("vendor", "rule", "delete", "Foundry", "--part", "BODY") == made
        assert foundry.answer("vendor", "rule", "list") == [general]
        assert "nothing found" in foundry.run("vendor", "rule", "list", "--vendor", "Other").stderr

    def test_refusals(self, foundry):
        for arguments in (
            ("set", "Foundry"),
            ("set", "Foundry", "--regex", "("),
            ("set", "Foundry", "--pattern", "{SEQQ:4}"),
            ("set", "Foundry", "--max-length", "99999999999"),
            ("set", "Foundry", "--part", "NO-SUCH-PART", "--max-length", "9"),
            ("delete", "Foundry"),
        ):
            assert foundry.refusal(REFUSED, "vendor", "rule", *arguments).startswith("machserial: ")
