"""docs/recovery.md from its first command to its last, on two servers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import psycopg
import pytest
from command import machserial
from conftest import BUILD, start_server
from support import call, generated, make_format, make_part

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "recovery.md"
BLOCK = re.compile(r"^```(console|sql)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def servers(request, connection, deployed_dsn, tmp_path):
    """Host in the guide: connection string. The factory has what the guide speaks of."""
    make_part(connection, "PART-001")
    make_format(connection, "pumps", "P-{SEQ:6}")
    make_format(connection, "valves", "V{SEQ:4}", allocation="GAPLESS")
    make_format(connection, "seals", "{YYYY}{DDD}{SEQ:5:base36}", reset="DAILY")
    call(connection, "assign_format", part_id="PART-001", format="pumps")
    for name in ("pumps", "valves", "seals"):
        generated(connection, "PART-001", 7, format=name)
    connection.commit()
    running = start_server(request.config)
    running.install_extension(BUILD)
    yield {"old-server": deployed_dsn, "new-server": running.dsn("factory")}
    running.stop()


def test_the_guide(servers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url, ran = "", []
    for kind, text in BLOCK.findall(GUIDE.read_text()):
        if kind == "sql":
            with psycopg.connect(servers["new-server"]) as connection:
                connection.execute(text)
                connection.rollback()
            continue
        for line in text.splitlines():
            prompt, _, rest = line.partition(" ")
            assert prompt == "$"
            words = shlex.split(rest, comments=True)
            expected = int(found[1]) if (found := re.search(r"# ends with (\d+)$", line)) else 0
            if words[0] == "export":
                url = servers[re.fullmatch(r"DATABASE_URL=postgresql://([\w-]+)/factory", words[1])[1]]
            elif words[0] == "psql":
                with psycopg.connect(url) as connection:
                    assert connection.execute(words[2]).description
            else:
                result = machserial(*words[1:], DATABASE_URL=url)
                assert result.exit_code == expected, f"{line}\n{result.output}"
                ran.append(words[1])
    assert {"backup", "restore", "pause", "fence", "migrate", "support-bundle"} <= set(ran)
    with psycopg.connect(servers["new-server"]) as connection:
        newest = connection.execute("select serial_number from machserial.serials order by id desc limit 1").fetchone()
        assert newest == ("P-000121",)
        assert generated(connection, "PART-001", format="valves") == ["V0096"]
        gone = connection.execute("select * from machserial.verify_audit(full => true)").fetchall()
        assert gone == []
