"""The long form of bad input and sqlsmith, for a few seconds: make torture."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def test_all_bad_input_is_answered_as_documented(torture):
    run = torture.holds("bad_input", cycles=4)
    assert run.counts["operations"] > 10


def test_a_fault_is_noticed(torture):
    torture.notices("bad_input", "a function with a fault is installed: internal", saying="internal")


def test_what_sqlsmith_writes_has_no_internal_error(torture):
    torture.holds("sqlsmith", cycles=1, seconds=10)


def test_sqlsmith_notices_internal_errors(torture):
    torture.notices("sqlsmith", "a function that views call has internal errors", saying="internal")
