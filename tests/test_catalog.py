"""Sites and parts: what gets numbered, and where."""

from __future__ import annotations

import pytest
from support import call, column, generated, make_part, refused, value, violated


def test_a_site_default_exists_from_the_start_in_utc(connection):
    assert connection.execute("select id, time_zone from machserial.sites").fetchall() == [("DEFAULT", "UTC")]


def test_registering_a_site_again_changes_it(connection):
    first = call(connection, "register_site", site_id="BER", name="Berlin", time_zone="Europe/Berlin")[0]
    assert (first.id, first.name, first.time_zone) == ("BER", "Berlin", "Europe/Berlin")
    again = call(connection, "register_site", site_id="BER", time_zone="Europe/Paris")[0]
    assert (again.name, again.time_zone) == ("Berlin", "Europe/Paris")
    assert column(connection, "select time_zone from machserial.sites where id = 'BER'") == ["Europe/Paris"]


def test_a_site_is_in_utc_unless_it_says_otherwise(connection):
    assert call(connection, "register_site", site_id="X")[0].time_zone == "UTC"


@pytest.mark.own_database
def test_what_is_left_out_stays(connection):
    call(connection, "register_site", site_id="KIR", name="Kirchheim", time_zone="Europe/Berlin")
    connection.execute("select machserial.register_site('KIR', 'New name')")
    read = "select name, time_zone from machserial.sites where id = 'KIR'"
    assert connection.execute(read).fetchone() == ("New name", "Europe/Berlin")
    call(connection, "register_site", site_id="KIR", name=None, time_zone=None)
    assert connection.execute(read).fetchone() == ("New name", "Europe/Berlin")
    call(connection, "register_site", site_id="KIR", time_zone="Asia/Tokyo")
    assert connection.execute(read).fetchone() == ("New name", "Asia/Tokyo")
    make_part(connection, "P", "T", name="Bracket", scopes=["SITE"])
    rows = "select xmin::text, name, default_scopes from machserial.parts"
    before = connection.execute(rows).fetchone()
    connection.commit()
    call(connection, "register_part", part_id="P", part_type="T")
    call(connection, "register_part", part_id="P", part_type="T", name="Bracket", scopes=["site"])
    assert connection.execute(rows).fetchone() == before
    changed = "select event_type, details from machserial.audit_events where event_type ~ '^(SITE|PART)_UPDATED'"
    assert connection.execute(f"{changed} order by id").fetchall() == [
        ("SITE_UPDATED", {"name": {"old": "Kirchheim", "new": "New name"}}),
        ("SITE_UPDATED", {"time_zone": {"old": "Europe/Berlin", "new": "Asia/Tokyo"}}),
    ]


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "", "+25:99", "UTC'; --"])
def test_an_unknown_time_zone_is_refused(connection, zone):
    with refused(connection, "22023"):
        call(connection, "register_site", site_id="X", time_zone=zone)
    assert value(connection, "select count(*) from machserial.sites") == 1


def test_a_site_cannot_be_inserted_with_an_unknown_time_zone_either(connection):
    with violated(connection, "22023"):
        connection.execute("insert into machserial.sites (id, time_zone) values ('X', 'Europe/Atlantis')")


def test_registering_a_part_again_changes_what_is_given_and_keeps_the_rest(connection):
    first = call(connection, "register_part", part_id="P", part_type="T", name="Bracket", scopes=["ENTERPRISE"])[0]
    assert (first.id, first.part_type, first.name, first.default_scopes) == ("P", "T", "Bracket", ["ENTERPRISE"])
    again = call(connection, "register_part", part_id="P", part_type="U")[0]
    assert (again.part_type, again.name, again.default_scopes) == ("U", "Bracket", ["ENTERPRISE"])
    assert value(connection, "select count(*) from machserial.parts") == 1


def test_a_part_is_unique_within_its_site_and_type_unless_it_says_otherwise(connection):
    assert set(call(connection, "register_part", part_id="P", part_type="T")[0].default_scopes) == {
        "SITE",
        "PART_TYPE",
    }
    connection.execute("insert into machserial.parts (id, part_type) values ('Q', 'T')")
    assert set(value(connection, "select default_scopes from machserial.parts where id = 'Q'")) == {
        "SITE",
        "PART_TYPE",
    }


def test_unknown_scopes_are_refused(connection):
    for scopes in (["PLANET"], ["SITE", "PLANET"], [], [None], ["SITE", None], [["SITE"], ["PART_TYPE"]]):
        with refused(connection, "22023"):
            call(connection, "register_part", part_id="P", part_type="T", scopes=scopes)
        with violated(connection, "23514"):
            connection.execute(
                "insert into machserial.parts (id, part_type, default_scopes) values ('P', 'T', %s)", (scopes,)
            )
    assert column(connection, "select id from machserial.parts") == []


def test_ids_and_types_must_be_given(connection):
    for missing in (None, "", "  "):
        with refused(connection, "22023"):
            call(connection, "register_site", site_id=missing)
        with refused(connection, "22023"):
            call(connection, "register_part", part_id=missing, part_type="T")
        with refused(connection, "22023"):
            call(connection, "register_part", part_id="P", part_type=missing)
    with violated(connection, "23514"):
        connection.execute("insert into machserial.sites (id) values ('')")
    with violated(connection, "23514"):
        connection.execute("insert into machserial.parts (id, part_type) values ('', 'T')")
    with violated(connection, "23514"):
        connection.execute("insert into machserial.parts (id, part_type) values ('P', '')")


def test_a_part_with_serials_keeps_its_type(connection):
    make_part(connection, part_type="T")
    generated(connection, pattern="A{SEQ:3}")
    with refused(connection, "55000"):
        call(connection, "register_part", part_id="P", part_type="OTHER")
    with violated(connection, "23503"):
        connection.execute("update machserial.parts set part_type = 'OTHER' where id = 'P'")
    # The same type, and whatever else, may still be said again.
    assert call(connection, "register_part", part_id="P", part_type="T", name="New name")[0].name == "New name"


def test_a_part_or_site_with_serials_cannot_be_deleted(connection):
    make_part(connection)
    generated(connection, pattern="A{SEQ:3}")
    with violated(connection, "23503"):
        connection.execute("delete from machserial.parts")
    with violated(connection, "23503"):
        connection.execute("delete from machserial.sites")
