"""Escape, control and direction characters that somebody has put into the database reach no terminal, by no command.

Also times that programs cannot read, which a superuser has put there.
"""

from __future__ import annotations

import os
import pty
import subprocess

import click
import psycopg
import pytest
from command import COMMAND, OK, REFUSED, Command, environment
from machserial import options, output
from machserial.cli import main
from machserial.commands import lineage

ONE_MODE = True

UNEXPECTED = 70

# What a terminal obeys (ESC, BEL, the CSI of one byte, a return to the line's begin) or hides (direction, no width).
OBEYED = "\x1b\x07\x9b\r\u202e\u200b"
HOSTILE = "x\x1b]0;owned\x07\x9b2J\r\u202ey\u200bz"
SHOWN = r"x\u001b]0;owned\u0007\u009b2J\r\u202ey\u200bz"

FILL = """
    select set_config('machserial.actor', %(h)s, false), set_config('machserial.reason', %(h)s, false);
    select machserial.register_site(%(h)s, %(h)s);
    select machserial.register_part(%(h)s, %(h)s, %(h)s, scopes => '{PART_TYPE}');
    select machserial.register_part('P', 'T', %(h)s);
    select machserial.create_format(%(h)s, 'F{SEQ:6}', %(h)s);
    select machserial.assign_format(%(h)s, %(h)s);
    select machserial.assign_format('P', %(h)s);
    select machserial.generate(%(h)s, 2001, site_id => %(h)s, context => jsonb_build_object(
        'work_order_id', %(h)s::text, 'lot_number', %(h)s::text, 'operation_code', %(h)s::text
    ));
    select machserial.register_serials('{A,B,C}', 'P');
    select machserial.register_serials('{A}', 'P', on_conflict => 'RECORD');
    select machserial.transform(
        (machserial.find_serial('A')).id, %(h)s, 10, target_serial_id => (machserial.find_serial('B')).id
    );
    select machserial.set_vendor_rule(%(h)s, regex => '^Z', min_length => 2);
    select machserial.receive_vendor_serial('Y1', %(h)s, 'P');
    select machserial.allocate_block(%(h)s, 5, %(h)s, part_id => 'P');
    select machserial.create_placeholders(%(h)s, 2, %(h)s, %(h)s, %(h)s);
    select machserial.create_trigger(%(h)s, 'WORK_ORDER_CREATE', 'LATE_ASSIGNMENT');
    select machserial.pause(%(h)s);
"""

# What shows something, and with what; a part whose name is hostile is {h}.
SHOWING = [
    "audit list", "audit list --limit 2001", "audit export --printable", "audit stats", "audit verify",
    "audit verify --full", "audit archive --to . --dry-run", "audit anchor", "blocks list", "blocks serials 1",
    "blocks report 1 F999999", "blocks return 99", "conflicts list", "connections",
    "fence --format {h} --highest 1 --yes", "format list", "format preview {h}", "generate {h}",
    "generate {h} --site {h}", "health", "health --ready", "health --format nagios", "health --format prometheus",
    "indexes", "integrity", "lineage show A", "lineage show {h}", "lineage verify", "migrate history", "migrate plan",
    "migrate status", "pause --reason {h}", "placeholders list", "placeholders stats {h}",
    "placeholders fail 99 --reason {h}", "privileges", "roles list", "roles grant-site {h} {h}",
    "roles lift-limits {h}", "roles revoke-site {h} {h}", "serial find A", "serial find {h}", "serial find F000001",
    "settings list", "settings set {h} 1", "slow", "triggers attachments", "triggers list", "triggers disable 99",
    "triggers explain WORK_ORDER_CREATE {h}", "vendor accept 99", "vendor list",
    "vendor receive Z --vendor {h} --part {h}", "vendor rule list", "vendor rule set {h} --part {h}",
    "vendor rule delete {h} --part P", "vendor waive 99 --reason {h}", "version", "{h}", "health --check {h}",
    "vendor list --status {h}", "--dsn host={h} version", "conflicts resolve {h} {h} --reason {h}",
    "format create {h} {h}", "format assign {h} {h}",
]  # fmt: skip
# The others make something, and show one row of it as `print_record()` does; or have no texts of the database.
OTHERS = {
    "audit restore", "audit seal", "backup", "bench", "blocks allocate", "cache flush", "cache stats", "cache sync",
    "cache warm", "completion", "demo", "deploy", "maintain", "migrate up", "migrate verify", "placeholders assign",
    "placeholders create", "restore", "resume", "roles create", "serial invalidate", "serial retire", "support-bundle",
    "triggers enable", "vendor reject",
}  # fmt: skip


def commands(group: click.Group, *before: str) -> list[str]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, *before, name) if isinstance(command, click.Group) else [" ".join([*before, name])]
    return found


def fill(connection: psycopg.Connection) -> None:
    for statement in FILL.split(";\n"):
        if statement.strip():
            connection.execute(statement, {"h": HOSTILE})
    connection.commit()
    connection.execute("select machserial.seal_audit()")


pytestmark = pytest.mark.prepared(setup=fill)


@pytest.fixture
def place(deployed_dsn: str) -> Command:
    return Command(deployed_dsn)


def test_no_command_is_left_out():
    known = {*OTHERS, *(one.replace(" {h}", "") for one in SHOWING)}
    assert [name for name in commands(main) if not any(one.startswith(name) for one in known)] == []


def test_what_somebody_has_put_there_is_shown_and_not_obeyed(place, monkeypatch):
    """Also what somebody gives on the command line, and errors that repeat it."""
    place.query("select machserial.create_roles()")
    place.query("select machserial.grant_site('machserial_viewer', %s)", HOSTILE)
    obeyed, shown = [], set()
    for line in SHOWING:
        result = place.run(*(word.replace("{h}", HOSTILE) for word in line.split(" ")))
        assert result.exit_code != UNEXPECTED, (line, result.stderr)
        if set(OBEYED) & set(result.stdout + result.stderr):
            obeyed.append(line)
        if SHOWN in result.stdout + result.stderr:
            shown.add(line)
    assert obeyed == []
    # It is there to be shown: that nothing is obeyed is not for lack of it.
    assert {
        "audit list --limit 2001", "blocks list", "vendor list", "vendor rule list", "lineage show A", "format list",
        "health", "health --format nagios", "placeholders list", "triggers list", "serial find F000001",
        "roles list",
    } - shown == set()  # fmt: skip
    # Negative control.
    for module in (output, options):
        monkeypatch.setattr(module, "visible", lambda text: text)
    for line in ("audit list --limit 2001", "vendor list"):
        assert set(OBEYED) & set(place.run(*line.split(" ")).stdout), line


def test_a_question(place, tmp_path):
    file = tmp_path / HOSTILE
    file.write_text("an older one")
    result = place.run("backup", str(file), stdin=b"n\n")
    assert result.exit_code == REFUSED
    assert f"{SHOWN} exists. Replace it?" in result.stderr
    assert not set(OBEYED) & set(result.stderr)


def test_an_export_on_a_terminal(place):
    """Into a pipe or a file it is as it is: programs read it."""
    line = ("audit", "export", "--type", "BLOCK_ALLOCATED")
    assert HOSTILE.encode() in place.run(*line).stdout_bytes
    screen, terminal = pty.openpty()
    try:
        command = [*COMMAND, "--dsn", place.dsn, *line]
        done = subprocess.run(command, env=environment(), stdout=terminal, stderr=subprocess.PIPE, timeout=60)
        printed = os.read(screen, 1 << 16).decode()
    finally:
        os.close(screen)
        os.close(terminal)
    assert done.returncode == OK, done.stderr
    assert SHOWN in printed and not set(OBEYED) - {"\r"} & set(printed)


def test_a_line_break_makes_no_line_in_a_tree():
    row = {"serial_number": "A", "part_id": "P", "propagation_type": "SPLIT", "operation_code": "10\n└── forged"}
    assert "\n" not in lineage.label(row).plain


# Tables without those whose columns something is partitioned, planned or switched by.
TIMES = """
    select c.relname as table, a.attname as column
    from pg_attribute as a inner join pg_class as c on c.oid = a.attrelid
    where
        c.relnamespace = 'machserial'::regnamespace and c.relkind = 'r' and a.atttypid = 'timestamptz'::regtype
        and c.relname !~ '^(audit_|numbering_plans|pause_switch)'
"""
LISTS = (
    "blocks list", "vendor list", "vendor rule list", "placeholders list", "conflicts list", "format list",
    "triggers list", "serial find A", "lineage show A", "migrate history", "migrate status",
)  # fmt: skip


@pytest.mark.parametrize("when", ["infinity", "-infinity", "12026-01-01", "0044-03-15 BC"])
def test_times_that_programs_cannot_read(place, when):
    """Tables refuse them; a superuser who has taken the rules away can put them there all the same."""
    with psycopg.connect(place.dsn) as connection:
        with pytest.raises(psycopg.errors.CheckViolation), connection.transaction():
            connection.execute("update machserial.number_blocks set expires_at = %s", [when])
        connection.execute("set session_replication_role = replica")
        for table, check in connection.execute(
            "select conrelid::regclass::text, quote_ident(conname) from pg_constraint where contype = 'c' "
            "and connamespace = 'machserial'::regnamespace and conislocal and coninhcount = 0"
        ).fetchall():
            connection.execute(f"alter table {table} drop constraint {check}")
        for table, column in connection.execute(TIMES).fetchall():
            connection.execute(f"update machserial.{table} set {column} = %s", [when])
        connection.commit()
        # Negative control: so they end whoever reads them without care.
        with pytest.raises(psycopg.DataError):
            connection.execute("select expires_at from machserial.number_blocks").fetchall()
    year = when.partition("-01-01")[0].removesuffix(" BC")
    for line in LISTS:
        result = place.run(*line.split(" "))
        assert result.exit_code == OK, (line, result.stderr)
        assert place.answer(*line.split(" ")), line
    for line, column in (("blocks list", "expires_at"), ("vendor list", "received_date")):
        assert place.answer(*line.split(" "))[0][column].startswith(year), line
