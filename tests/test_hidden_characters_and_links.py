"""What is printed commands no terminal, and what is written goes through no planted link."""

import json
import os
import stat
from pathlib import Path

import pytest
from machserial import audit_export, masking, new_files, output, support_bundle
from machserial.errors import ExpectedError

ONE_MODE = True

HOSTILE = "a\x1b]0;owned\x07\x9b2J\r\u202eb\u200bc"
SHOWN = r"a\u001b]0;owned\u0007\u009b2J\r\u202eb\u200bc"


def test_what_a_terminal_obeys_is_shown():
    assert masking.visible(HOSTILE) == SHOWN
    assert masking.visible("Größe 5–7 \u00a0 部品\n") == "Größe 5–7 \u00a0 部品\n"


@pytest.mark.parametrize("count", [1, output.LARGEST_RICH_TABLE + 1])
def test_tables_of_any_size(capsys, count):
    output.print_rows([{"actor": HOSTILE}] * count, as_json=False)
    assert capsys.readouterr().out.count(SHOWN) == count


def test_a_line_break_makes_no_row(capsys):
    output.message_rows([{"actor": "a\nforged"}])
    assert r"a\nforged" in capsys.readouterr().err
    # A line break in a message of the command itself stays one.
    output.message("a\nb")
    assert capsys.readouterr().err == "a\nb\n"


def test_json_is_still_the_same_value(capsys):
    output.print_json({"actor": HOSTILE})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"actor": HOSTILE}
    assert not {"\x9b", "\u202e"} & set(printed)


def test_messages_and_errors(capsys):
    output.message(HOSTILE)
    output.print_record({"reason": HOSTILE}, as_json=False, title=HOSTILE)
    output.print_text(HOSTILE)
    output.print_lines([HOSTILE])
    ExpectedError(HOSTILE, detail=HOSTILE).show()
    printed = "".join(capsys.readouterr())
    assert not set("\x1b\x07\x9b\r\u202e\u200b") & set(printed)
    assert printed.count(r"\u001b]0;owned") == 7


def test_a_planted_link_is_refused(tmp_path):
    victim, target = tmp_path / "victim", tmp_path / "out.csv"
    victim.write_text("precious")
    (tmp_path / "out.csv.partial").symlink_to(victim)
    with pytest.raises(ExpectedError, match="symbolic link"):
        audit_export.write_file(target, [b"events"])
    assert victim.read_text() == "precious" and not target.exists()
    # An ordinary open() follows it.
    (tmp_path / "out.csv.partial").write_bytes(b"events")
    assert victim.read_text() == "events"


def test_a_file_is_its_owners_and_replaces_a_leftover(tmp_path):
    target, leftover = tmp_path / "out.csv", tmp_path / "out.csv.partial"
    leftover.write_text("of a run that was killed")
    leftover.chmod(0o644)
    before = os.umask(0)
    try:
        audit_export.write_file(target, [b"events"])
    finally:
        os.umask(before)
    assert target.read_bytes() == b"events"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_hard_link_is_not_written_through(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.link(victim, tmp_path / "new")
    with new_files.create(tmp_path / "new") as file:
        file.write(b"other")
    assert victim.read_text() == "precious"


def test_a_dangling_trace_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "machserial-trace-a.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "machserial-trace-b.txt").write_text("trace")
    assert {one["name"] for one in support_bundle._traces()} == {
        "machserial-trace-a.txt",
        "machserial-trace-b.txt",
    }
