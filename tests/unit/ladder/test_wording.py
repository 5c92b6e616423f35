"""What each rung says, word for word: see `golden`."""

from __future__ import annotations

import dataclasses
import re

import golden
import pytest
from builders import comparison

from harness.ladder.judge import judge
from harness.ladder.ladder import LADDER

RUNGS = [rung.name for rung in LADDER]


@pytest.fixture(scope="module")
def sections() -> dict[str, dict[str, str]]:
    return golden.sections()


@pytest.mark.parametrize("rung", RUNGS)
def test_what_it_says(sections: dict[str, dict[str, str]], rung: str) -> None:
    """After a change of wording: python tests/unit/golden.py, and review the difference."""
    kept = golden.kept(rung)
    assert sections[rung] == {title: text for title, text in kept.items() if "::" not in title}


@pytest.mark.parametrize("rung", RUNGS)
def test_every_other_section_is_of_a_test(rung: str) -> None:
    """What a test no longer says is not kept."""
    for title in golden.kept(rung):
        if match := re.match(r"(test_\w+\.py)::(?:\w+::)*(\w+)", title):
            (path,) = golden.UNIT.glob(f"*/{match[1]}")
            assert f"def {match[2]}(" in path.read_text(), title


def test_another_wording_is_noticed() -> None:
    """A sentence that no golden file has, and one that differs from what it has, fail."""
    result = judge(comparison(golden.A, golden.B)).rung("schedule")
    golden.Worded("equal")(result)
    for title, said in (("no such section", result.explanation), ("equal", "otherwise")):
        with pytest.raises(AssertionError, match=title):
            golden.Worded(title)(dataclasses.replace(result, explanation=said))
