"""Sessions whose tables grow under them, for two cycles; and that a reading of everything would have been noticed."""

from __future__ import annotations

import pytest
from torture.long import PART

ONE_MODE = True


def test_it_holds(torture):
    run = torture.holds("long", cycles=2)
    assert run.counts["acknowledged"] > 50


@pytest.mark.parametrize("what", PART.controls)
def test_it_would_have_noticed(torture, what):
    torture.notices("long", what, saying="examine_usages()")
