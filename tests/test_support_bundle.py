"""The support bundle helps, and betrays nothing: no number, name or text that somebody has put into the database."""

from __future__ import annotations

import contextlib
import json
import stat
import tarfile
from pathlib import Path

import psycopg
import pytest
from command import CONNECTION, OK, REFUSED, Command, machserial
from machserial.operations import support_bundle
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support import call, generated, make_format, make_part, register

# Long, and nothing in it depends on how machserial was installed.
ONE_MODE = True

PASSWORD = "Tr0ub4dor&3"
# In every name and text that is put into the database.
MARK = "Zyxw"


@pytest.fixture
def deployed_dsn(new_database, template):
    """Of a database whose name would be noticed."""
    return new_database(f"{MARK.lower()}_plant", template("extension"))


@pytest.fixture
def connection(deployed_dsn):
    with contextlib.closing(psycopg.connect(deployed_dsn)) as connection:
        yield connection


@pytest.fixture
def plant(connection, deployed_dsn, server):
    """Every table has rows, every text of them holds MARK."""
    role = f"{MARK.lower()}_role"
    server.execute(f"create role {role} login password '{PASSWORD}'")
    connection.execute(f"set machserial.actor = '{MARK} actor'")
    connection.execute(f"set machserial.reason = '{MARK} reason'")
    call(connection, "register_site", site_id=f"{MARK}-SITE", name=f"{MARK} plant")
    make_part(connection, f"{MARK}-PART", f"{MARK}-TYPE", name=f"{MARK} pump")
    make_format(connection, f"{MARK}-FORMAT", f"{MARK}{{SEQ:6}}", description=f"{MARK} text")
    make_format(connection, f"{MARK}-SITES", f"{{SITE}}{{PREFIX:{MARK}}}{{SEQ:6}}", counter_per="SITE")
    call(connection, "assign_format", part_id=f"{MARK}-PART", format=f"{MARK}-FORMAT")
    context = {"work_order_id": f"{MARK}-WO", "lot_number": f"{MARK}-LOT", "operation_code": f"{MARK}-OP", MARK: MARK}
    generated(connection, f"{MARK}-PART", 20, context=context, request_id=f"{MARK}-request")
    ids = [row.serial_id for row in register(connection, [f"{MARK}-A", f"{MARK}-B"], f"{MARK}-PART")]
    register(connection, [f"{MARK}-A"], f"{MARK}-PART", on_conflict="RECORD")
    call(connection, "set_vendor_rule", vendor_name=f"{MARK} vendor", regex=f"^{MARK}")
    call(
        connection, "receive_vendor_serial", serial_number=f"{MARK}-V", vendor_name=f"{MARK} vendor",
        part_id=f"{MARK}-PART",
    )  # fmt: skip
    call(connection, "create_placeholders", part_id=f"{MARK}-PART", work_order_id=f"{MARK}-WO")
    call(connection, "allocate_block", format=f"{MARK}-FORMAT", quantity=5, holder=MARK, part_id=f"{MARK}-PART")
    call(connection, "pass_through", serial_id=ids[0], operation_code=f"{MARK}-OP", routing_sequence=1)
    call(connection, "retire_serial", serial_id=ids[1], reason=f"{MARK} scrapped")
    connection.execute("update machserial.settings set description = %s where name = 'batch_size'", (MARK,))
    connection.execute(f'create table machserial."{MARK}_table" (id integer)')
    connection.execute(f'create index "{MARK}_index" on machserial.serials (created_by)')
    connection.execute(f'alter table machserial.serials add constraint "{MARK}_rule" check (id > 0)')
    connection.execute("drop index machserial.serials_work_order_id")
    connection.execute(f"comment on table machserial.serials is '{MARK}'")
    call(connection, "pause", reason=f"{MARK} audit")
    connection.commit()
    call(connection, "seal_audit")
    connection.commit()
    server.execute(f'alter database "{connection.info.dbname}" set application_name = \'{MARK}\'')
    server.execute(f"alter system set primary_conninfo = 'host={MARK} password={PASSWORD}'")
    server.execute(f"alter system set archive_command = 'copy --to {MARK} --password {PASSWORD}'")
    server.execute("select pg_reload_conf()")
    yield Command(deployed_dsn)
    server.execute("alter system reset all")
    server.execute("select pg_reload_conf()")


def contents(file: Path) -> dict[str, str]:
    with tarfile.open(file) as archive:
        return {
            Path(member.name).name: archive.extractfile(member).read().decode() for member in archive.getmembers()
        }


@pytest.fixture
def bundle(plant, tmp_path):
    dsn = make_conninfo(plant.dsn, password=PASSWORD, application_name=f"{MARK} bundle")
    result = machserial("--dsn", dsn, "support-bundle", str(tmp_path / "bundle.tar.gz"))
    assert result.exit_code == OK, result.stderr
    return contents(tmp_path / "bundle.tar.gz")


def test_nothing_of_the_users_is_in_it(plant, bundle):
    everything = "\n".join([*bundle, *bundle.values()])
    lowered = everything.lower()
    for secret in (MARK, "Tr0ub4dor", "scrapped", "pump"):
        assert secret.lower() not in lowered
    serials = [row[0] for row in plant.query("select serial_number from machserial.serials")]
    assert len(serials) == 23
    assert not [serial for serial in serials if serial.lower() in lowered]
    place = conninfo_to_dict(plant.dsn)
    assert place["host"] not in everything
    assert place["dbname"] not in everything


def test_it_helps(plant, bundle):
    # integrity() is there or is said to be missing.
    assert set(bundle) | {"integrity.json"} == set(support_bundle.names())
    read = {name.removesuffix(".json"): json.loads(text) for name, text in bundle.items() if name.endswith(".json")}
    assert read["versions"]["command"]
    assert read["versions"]["database"]["server"]
    assert read["versions"]["database"]["paused"] is True
    assert {row["state"] for row in read["migrations"]} == {"applied"}
    assert {
        "severity": "DRIFT", "kind": "index", "problem": "missing", "object": "machserial.serials_work_order_id"
    } in read["drift"]  # fmt: skip
    assert {"severity": "DRIFT", "kind": "constraint", "problem": "extra", "object": None} in read["drift"]
    assert {row["name"] for row in read["health"]} >= {"audit_seal_lag"}
    assert {"name": "serial_characters", "value": "ASCII"} in read["settings"]
    assert {"name": "audit_retention_days", "value": "2555"} in read["settings"]
    formats = {row["format"]: row for row in read["counters"]}
    assert formats[1]["tokens"] == ["LITERAL", "SEQ"]
    assert formats[1]["counters"] == 1
    assert formats[1]["highest_used_percent"]
    assert {"serials", "audit_events", "pauses"} <= {row["table"] for row in read["tables"]}
    server = {row["name"]: row["setting"] for row in read["server"]}
    assert server["fsync"] == "off"
    assert server["archive_command"] == server["primary_conninfo"] == "(a text)"
    assert sum(row["sessions"] for row in read["activity"]) > 0


def test_only_its_owner_may_read_it_and_it_is_not_replaced_silently(deployed_dsn, tmp_path):
    command, file = Command(deployed_dsn), tmp_path / "x.tar.gz"
    # integrity() is there or is said to be missing.
    assert set(command.answer("support-bundle", str(file))["missing"]) <= {"integrity"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    old = file.read_bytes()
    assert command.run("support-bundle", str(file), stdin=b"n\n").exit_code == REFUSED
    assert file.read_bytes() == old
    command.answer("support-bundle", str(file), "--yes")
    assert "folder" in command.refusal(REFUSED, "support-bundle", str(tmp_path / "none" / "x"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]


def test_without_a_connection(tmp_path):
    result = machserial("--dsn", f"host={MARK} password={PASSWORD} port=1", "support-bundle", str(tmp_path / "x"))
    assert result.exit_code == OK, result.stderr
    found = contents(tmp_path / "x")
    assert json.loads(found["missing.json"]) == [
        {"section": "all that the database knows", "exit_code": CONNECTION}
    ]
    assert MARK not in "".join(found.values())
    assert json.loads(found["versions.json"])["python"]


def test_a_database_without_machserial(dsn, tmp_path):
    command = Command(dsn)
    missing = command.answer("support-bundle", str(tmp_path / "x"))["missing"]
    assert "counters" in missing
    assert "server" not in missing


def test_a_role_that_may_little(deployed_dsn, server, tmp_path):
    server.execute("create role machserial_test_nobody login")
    command = Command(make_conninfo(deployed_dsn, user="machserial_test_nobody"))
    missing = command.answer("support-bundle", str(tmp_path / "x"))["missing"]
    assert {"drift", "counters", "health"} <= set(missing)
    reasons = json.loads(contents(tmp_path / "x")["missing.json"])
    assert {row["sqlstate"] for row in reasons} == {psycopg.errors.InsufficientPrivilege.sqlstate}
