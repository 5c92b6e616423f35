"""tests/unit mirrors the rooms of the harness."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

UNIT = Path(__file__).parent
HARNESS = UNIT.parents[1] / "harness"
OF_THE_REPOSITORY = {"test_docs.py", "test_extending.py", "test_house.py", "test_workflows.py"}
FILES = sorted(UNIT.glob("*/**/test_*.py"))


def test_only_tests_of_the_repository_lie_outside_of_a_room() -> None:
    assert {path.name for path in UNIT.glob("test_*.py")} == OF_THE_REPOSITORY


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(UNIT)))
def test_a_test_lies_in_the_room_that_it_tests(path: Path) -> None:
    room = path.relative_to(UNIT).parts[0]
    assert (HARNESS / room).is_dir()
    assert re.search(rf"\bharness\.{room}\b", path.read_text()), f"imports nothing of {room}"
