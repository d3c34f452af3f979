"""What is printed commands no terminal, and what is written goes through no planted link."""

import ast
import json
import os
import stat
from pathlib import Path

import machserial
import pytest
from machserial import masking, output
from machserial.audit import exporting
from machserial.commands import health
from machserial.errors import ExpectedError
from machserial.files import new_files, receipts
from machserial.operations import support_bundle

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
        exporting.write_file(target, [b"events"])
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
        exporting.write_file(target, [b"events"])
    finally:
        os.umask(before)
    assert target.read_bytes() == b"events"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


WRITERS = {
    "an export": lambda path: exporting.write_file(path, [b"events"]),
    "refused numbers": lambda path: receipts.write_refused(path, [], [receipts.NUMBER]),
    "health for node_exporter": lambda path: health.replace_file(path, "text"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_link_under_the_name_itself_is_refused(tmp_path, write):
    victim, target = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    target.symlink_to(victim)
    with pytest.raises(ExpectedError, match="symbolic link"):
        write(target)
    assert victim.read_text() == "precious" and target.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["out", "victim"]
    target.unlink()
    write(target)
    assert target.read_bytes() and victim.read_text() == "precious"


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_is_no_file_is_not_replaced(tmp_path, write):
    """As root it could: every program would write into a file named /dev/null from then on."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ExpectedError, match="no ordinary file"):
        write(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_only_health_is_for_others_to_read(tmp_path):
    modes = {}
    for name, write in WRITERS.items():
        write(tmp_path / "out")
        modes[name] = stat.S_IMODE((tmp_path / "out").stat().st_mode)
    assert modes == {"an export": 0o600, "refused numbers": 0o600, "health for node_exporter": 0o644}


def test_two_runs_of_health_do_not_share_a_draft(tmp_path):
    """One that is just writing keeps its file, though another begins and ends."""
    draft = tmp_path / ".out.1.partial"
    with new_files.replacing(tmp_path / "out", partial=draft) as file:
        health.replace_file(tmp_path / "out", "whole")
        assert (tmp_path / "out").read_text() == "whole"
        file.write(b"later")
    assert (tmp_path / "out").read_text() == "later"


# Where something else than a new file of the user is written, and why that is safe.
OTHER_WRITERS = {
    "files/new_files.py": "the one place that makes files",
    "errors.py": "mkstemp",
    "connection.py": "mkstemp",
    "operations/prerequisites.py": "NamedTemporaryFile",
    "bench/pgbench.py": "NamedTemporaryFile",
    "bench/subjects/uniqueness.py": "in a folder by mkdtemp",
    "demo/private_server.py": "in the folder of the private server",
    "reference.py": "pages of this project's own docs",
}


def writes(tree: ast.AST) -> bool:
    """Whether it calls something that makes a file: open() for writing, write_text(), os.fdopen(), ..."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            modes = [one.value for one in [*call.args, *(word.value for word in call.keywords)]
                     if isinstance(one, ast.Constant) and isinstance(one.value, str)]  # fmt: skip
            if name in ("write_text", "write_bytes", "savefig") and not _into_a_file_object(call):
                return True
            if name in ("open", "fdopen", "NamedTemporaryFile") and any(set("wax") & set(mode) for mode in modes
                                                                        if len(mode) <= 3):  # fmt: skip
                return True
    return False


def _into_a_file_object(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(call.args[0], ast.Name) and call.args[0].id == "file"


def test_every_file_is_made_in_one_place():
    package = Path(machserial.__file__).parent
    found = {
        str(path.relative_to(package)) for path in package.rglob("*.py") if writes(ast.parse(path.read_text()))
    }
    assert found == set(OTHER_WRITERS)


def test_what_looks_for_writers_finds_them():
    for one in ('open("x", "w")', 'p.open(mode="ab")', 'p.write_text("x")', 'os.fdopen(f, "wb")', "figure.savefig(p)"):
        assert writes(ast.parse(one)), one
    for one in ('open("file")', 'p.open("rb")', "p.read_text()", "figure.savefig(file)"):
        assert not writes(ast.parse(one)), one


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
