"""The generated pages of docs/ say what the database says."""

from __future__ import annotations

import pytest
from make_docs import PAGES, ROOT
from support import column


@pytest.mark.parametrize("path", PAGES)
def test_it_is_what_make_docs_writes_now(connection, path):
    assert (ROOT / path).read_text() == PAGES[path](connection), f"{path} is stale: make docs"


def test_the_page_on_health_follows_the_thresholds(connection):
    page = PAGES["docs/health.md"]
    before = page(connection)
    names = column(connection, "select name from machserial.health_thresholds")
    assert all(f"| `{name}` |" in before for name in names)
    connection.execute("update machserial.health_thresholds set warning = 81 where name = 'connections'")
    assert page(connection) == before.replace("| ≥ 80 | ≥ 95 |", "| ≥ 81 | ≥ 95 |", 1)
