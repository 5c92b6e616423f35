"""The project's own tests."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent / "tests"
TRAINERS = TESTS / "parity"
ENGINE = [
    TESTS / "unit" / "probe" / f"test_{name}.py" for name in ("fingerprint", "observer", "scopes")
]
"""Each has an engine's interpreter compute something once, for all of its tests."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `-n 2 --dist loadgroup` one worker launches trainers, and the other one runs the rest.

    Trainers would wait for each other's device in any case, and have one fork server in common.
    Tests that have one thing computed, in seconds, do not make the other worker wait for it.
    """
    for item in items:
        if item.path in ENGINE:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if item.path.is_relative_to(TRAINERS):
            item.add_marker(pytest.mark.xdist_group("trainers"))
