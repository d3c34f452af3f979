"""machserial in databases of other languages: it folds letters and orders texts by their bytes, whatever the locale."""

from __future__ import annotations

from collections.abc import Iterator

import lint
import psycopg
import pytest
from command import OK, machserial
from conftest import install
from servers import Server
from support import call, column, generated, make_format, make_part, preview, register, value

# What people write and read: its order in their language is of use to them, and nothing is looked up by it.
PROSE = {"description", "notes", "unit", "location", "sites.name", "parts.name"}


@pytest.fixture
def turkish_dsn(server: Server, clean_roles: None) -> Iterator[str]:
    """An empty database in which upper('i') is not I, and lower('I') not i."""
    if server.major < 15 or server.execute("select count(*) < 100 from pg_collation where collprovider = 'i'")[0][0]:
        pytest.skip("needs a server of PostgreSQL 15 or newer that was built with ICU")
    server.execute("create database turkish template template0 encoding utf8 locale_provider icu icu_locale 'tr'")
    yield server.dsn("turkish")
    server.execute("drop database turkish with (force)")


def told(rows: list) -> list:
    """What is the same wherever it happens: no ids, no times."""
    return [[one for one in row if isinstance(one, str | bool)] for row in rows]


def whole_life(database: psycopg.Connection) -> Iterator[object]:
    """The verbs with their keywords in small letters, and what they answer."""
    database.execute("select machserial.create_roles()")
    yield value(database, "select machserial.migrate()")
    call(database, "register_site", site_id="izmir", time_zone="europe/istanbul")
    for part, scopes in (("ipek", "{site,part_type}"), ("I", "{enterprise}")):
        make_part(database, part, "kilim", scopes=scopes)
    formats = {
        "i": {"pattern": "i{SITE}-{YYYY}{MM}{DD}-{SEQ:4}", "reset": "daily", "counter_per": "site"},
        "I": {"pattern": "I{PREFIX:ii}{SEQ:6:safe}{CHECK:mod37_36}", "allocation": "gapless"},
        "k": {"pattern": "k{LOT}{SEQ:4:hex}{CHECK:luhn}", "letter_case": "upper"},
    }
    for name, arguments in formats.items():
        yield told([make_format(database, name, **arguments)])
    call(database, "assign_format", part_id="ipek", format="k")
    given = {"at": "2026-11-23", "site_id": "izmir", "part_id": "ipek", "context": {"lot_number": "ii1"}}
    yield [preview(database, arguments["pattern"], 3, **given) for arguments in formats.values()]
    yield generated(database, "ipek", 3, context={"lot_number": "ii1"})
    yield generated(database, "I", 200, format="I")
    yield call(database, "validate_serial", serial_number="iI3GZ2", pattern="i{RANDOM:safe:2}{CHECK:MOD97_10}")
    yield [call(database, "check_digit", algorithm=name, payload="INDIGO") for name in ("MOD37_36", "Luhn36")]
    # Numbers that differ by a dot on the i are different numbers, and look alike.
    register(database, ["ISIN-1", "isin-1"], "ipek", source="import", on_conflict="record")
    yield register(database, ["isin-1"], "ipek", on_conflict="record")[0].has_conflict
    yield call(database, "check_uniqueness", serial_number="IsIn1", part_id="ipek")[0].near_matches
    conflict = {"serial_number": "isin-1", "part_id": "ipek"}
    yield told(call(database, "resolve_conflict", **conflict, resolution="mark_invalid", reason="a test"))
    call(database, "set_vendor_rule", vendor_name="iplik", pattern="IT{SEQ:4}", check_algorithm="LUHN")
    receipt = {"vendor_name": "iplik", "part_id": "ipek", "serial_numbers": ["IT0001", "it0009", "IT0018"]}
    yield [(row.status, row.errors) for row in call(database, "receive_vendor_serials", **receipt)]
    (placeholder,) = call(database, "create_placeholders", part_id="ipek", lot_number="i")
    yield told(call(database, "assign_placeholder", placeholder_id=placeholder.id))
    event = {"trigger_type": "quality_checkpoint", "part_id": "ipek"}
    call(database, "create_trigger", **event, assignment_type="system_generated")
    yield told(call(database, "fire", **event, context={"lot_number": "i"}))
    (block,) = call(database, "allocate_block", format="I", quantity=2, holder="izmir", part_id="ipek")
    yield column(database, "select machserial.block_serials(%s)", block.block_id)
    yield [row.event_type for row in call(database, "audit_trail", event_type="serial_generated", page_size=3)]
    first, second = column(database, "select id from machserial.serials order by id limit 2")
    step = {"operation_code": "I", "routing_sequence": 1}
    call(database, "merge", source_serial_ids=[first], target_serial_id=second, **step)
    yield told(call(database, "lineage", serial_id=second))
    yield column(database, "select serial_number from machserial.serials order by serial_number")
    database.commit()
    yield [row.name for row in call(database, "health") if row.status == "CRITICAL"]
    yield call(database, "integrity")


@pytest.mark.own_database
def test_a_turkish_database_answers_as_any_other(connection, turkish_dsn, mode):
    with psycopg.connect(turkish_dsn) as turkish:
        install(turkish, mode)
        assert value(turkish, "select upper('i') <> 'I' and lower('I') <> 'i'"), "the negative control"
        there = list(whole_life(turkish))
    for one, other in zip(there, whole_life(connection), strict=True):
        assert one == other


def test_a_table_that_is_attached_may_compare_its_texts_otherwise(connection, turkish_dsn):
    with psycopg.connect(turkish_dsn) as turkish:
        install(turkish, "extension")
        make_part(turkish, "ipek")
        call(turkish, "create_trigger", part_id="ipek", trigger_type="work_order_create",
             assignment_type="late_assignment")  # fmt: skip
        turkish.execute(
            'create table public.orders (number text collate "de-x-icu" primary key, part varchar collate "de-x-icu")'
        )
        call(turkish, "attach", relation="public.orders", trigger_type="work_order_create", part_column="part")
        turkish.execute("insert into public.orders values ('WO-1', 'ipek')")
        assert [row.work_order_id for row in call(turkish, "pending_placeholders")] == ["WO-1"]


def test_the_command_deploys_again_and_again(turkish_dsn):
    for arguments in (["deploy"], ["roles", "create"], ["deploy"], ["migrate", "verify"], ["privileges", "--drift"]):
        result = machserial("--dsn", turkish_dsn, *arguments)
        assert result.exit_code == OK, (arguments, result.stderr)


def test_keys_compare_by_their_bytes(connection):
    columns = connection.execute(
        "select c.relname || '.' || a.attname, a.attname, k.collname from pg_attribute as a "
        "join pg_class as c on c.oid = a.attrelid join pg_collation as k on k.oid = a.attcollation "
        "where c.relnamespace = 'machserial'::regnamespace and c.relkind in ('r', 'p') and a.atttypid = 'text'::regtype"
    ).fetchall()
    keys = {full for full, name, _ in columns if not ({full, name} & PROSE or name.endswith("reason"))}
    assert {"serials.serial_number", "sites.id", "requests.request_id"} < keys
    assert {full: collation for full, _, collation in columns if full in keys and collation != "C"} == {}
    # What is in an index is a key, whatever it is.
    assert column(
        connection,
        "select i.indexrelid::regclass::text from pg_index as i join pg_class as c on c.oid = i.indrelid "
        "cross join unnest(i.indcollation) as k (id) where c.relnamespace = 'machserial'::regnamespace "
        "and k.id not in (0, '\"C\"'::regcollation)",
    ) == []


def test_what_folds_letters_says_by_which_language():
    script = """
        select upper(a), lower(left(b, 3) collate "C"), initcap((c)), d collate "C" ~* 'x';
        select e ~* 'x' collate "C", f ilike 'x', upperx(g);
    """
    assert list(lint.folding_at_risk(script)) == [2, 2, 3, 3]
