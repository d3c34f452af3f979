"""CSV that a spreadsheet opens runs nothing, and reading it gives what was written."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machserial.audit import exporting
from machserial.files import receipts, spreadsheets
from machserial.operations import fencing
from psycopg import sql

ONE_MODE = True

HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\r=x", "'=1", "''+1"]
HARMLESS = ["", "1-1", "'", "'quoted'", "a=b", " =1"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_formula_becomes_a_text(text):
    assert spreadsheets.guarded({"reason": text}) == {"reason": "'" + text}
    assert spreadsheets.plain("reason", "'" + text) == text


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_none_stays(text):
    assert spreadsheets.guarded({"reason": text}) == {"reason": text}
    assert spreadsheets.plain("reason", text) == text


@pytest.mark.parametrize("column", ["serial_number", "part_id", "site_id", "id", "transaction_id", "highest"])
def test_numbers_and_ids_stay(column):
    assert spreadsheets.guarded({column: "+A123BJC5D6E71G"}) == {column: "+A123BJC5D6E71G"}
    assert spreadsheets.plain(column, "'+A123") == "'+A123"


@given(st.text(alphabet="'=+-@\t\rab"), st.sampled_from(["vendor_name", "serial_number", "part_id"]))
def test_reading_gives_what_was_written(text, column):
    assert spreadsheets.plain(column, spreadsheets.guarded({column: text})[column]) == text


def test_what_was_refused_is_read_again(tmp_path):
    file = tmp_path / "refused.csv"
    vendors = [text for text in [*HOSTILE, *HARMLESS] if text == text.strip() and text]
    refused = [
        {receipts.NUMBER: "+A1", "vendor_name": name, "line": 2, "errors": ["=1", "taken"]} for name in vendors
    ]
    receipts.write_refused(file, refused, (receipts.NUMBER, "vendor_name"))
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert not [row for row in rows if (row["vendor_name"] + row["errors"]).startswith(spreadsheets.FORMULA)]
    assert {row[receipts.NUMBER] for row in rows} == {"+A1"}
    assert [row["vendor_name"] for row in receipts.read_numbers(file, ["vendor_name"])] == vendors


def test_formats_to_be_fenced(tmp_path):
    file = tmp_path / "known.csv"
    file.write_text("format,highest,part_id\n'=F,+A9,'+P\n'F,,\n")
    assert fencing.read_csv(file) == [fencing.Known("=F", "+A9", "'+P"), fencing.Known("'F", None)]


def test_the_database_guards_as_python_does(connection):
    """The export of the audit trail is written by COPY."""
    texts = [*HOSTILE, *HARMLESS, *(f"{mark}{text}" for mark in "'=" for text in HARMLESS)]
    others = [name for name in exporting.COLUMNS if name not in ("id", "reason")]
    columns = sql.SQL(", ").join(sql.SQL("t.reason as {}").format(sql.Identifier(name)) for name in others)

    class Given:
        def query(self):
            rows = "select t.id, t.reason, {} from unnest({}::text[]) with ordinality as t (reason, id)"
            return sql.SQL(rows).format(columns, sql.Literal(texts))

    written = b"".join(exporting.csv(connection, Given())).decode()
    rows = list(csv.DictReader(io.StringIO(written)))
    for name in ("event_type", "event_source", "performed_by", "db_user", "reason"):
        assert [row[name] for row in rows] == [spreadsheets.guarded({name: text})[name] for text in texts]
    for name in ("serial_number", "part_id", "site_id"):
        assert [row[name] for row in rows] == texts
