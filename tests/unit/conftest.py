"""Two runs of one case that ought to agree, for whatever judges a pair."""

from __future__ import annotations

import pytest
from builders import Trainer

from harness.record.evidence import Record


@pytest.fixture(scope="session")
def a() -> Record:
    """A run of the Trainer's twin."""
    return Trainer().record()


@pytest.fixture(scope="session")
def b() -> Record:
    """Another engine's run of the same case: two groups, and sums in another order."""
    return Trainer(label="b", groups=2, sums=-1).record()
