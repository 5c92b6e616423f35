"""The project's own tests."""

from __future__ import annotations

from pathlib import Path

import pytest

TRAINERS = Path(__file__).parent / "tests" / "parity"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `-n 2 --dist loadgroup` one worker launches trainers, and the other one runs the rest.

    Trainers would wait for each other's device in any case, and have one fork server in common.
    """
    for item in items:
        if item.path.is_relative_to(TRAINERS):
            item.add_marker(pytest.mark.xdist_group("trainers"))
