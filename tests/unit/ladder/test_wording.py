"""What each rung says, word for word: see `golden`."""

from __future__ import annotations

import golden
import pytest

from harness.ladder.ladder import LADDER


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    return golden.sections()


@pytest.mark.parametrize("name", [rung.name for rung in LADDER])
def test_what_it_says(sections: dict[str, str], name: str) -> None:
    """After a change of wording: python tests/unit/golden.py, and review the difference."""
    assert sections[name] == (golden.FOLDER / f"{name}.txt").read_text()
