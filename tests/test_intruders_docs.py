"""docs/security.md names a test for each promise: it is there, and its file asserts something."""

from __future__ import annotations

import ast
import re

import pytest
from conftest import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", TEXT)))


def functions(file: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_each_promise_names_a_test_that_exists(file: str, test: str) -> None:
    assert (ROOT / "tests" / file).exists()
    assert not test or test in functions(file)


def test_each_promise_has_a_test() -> None:
    promised = TEXT[TEXT.index("## What is promised") : TEXT.index("## What is not promised")]
    rows = [line for line in promised.splitlines() if line.startswith("| ") and not line.startswith("| Promise")]
    assert len(rows) > 25
    assert [row for row in rows if "`test_" not in row] == []


def test_each_attack_is_named() -> None:
    """An attack that no promise names would be one that nobody was promised to withstand."""
    said = " ".join(test for _, test in NAMED)
    for path in sorted((ROOT / "tests").glob("test_intruders_*.py")):
        if path.name == "test_intruders_docs.py":
            continue
        for name, node in functions(path.name).items():
            if name.startswith("test_") and "Negative control" not in (ast.get_docstring(node) or ""):
                assert name in said, f"{path.name}::{name}"
