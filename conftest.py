"""The project's own tests."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

TRAINERS = "tests/parity/"
ENGINE = tuple(f"tests/unit/probe/test_{name}.py" for name in ("fingerprint", "observer", "scopes"))
"""Each has an engine's interpreter compute something once, for all of its tests."""


class OneLaunchesTrainers(LoadScopeScheduling):
    """Under `-n 2` one worker launches trainers, and the other one runs the rest.

    Trainers would wait for each other's device in any case, and have one fork server in common.
    Tests that have one thing computed, in seconds, do not make the other worker wait for it. By
    marks of groups it cannot be said: pytest-xdist 3.8 puts them where pytest 9.2 does not look.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith(TRAINERS):
            return TRAINERS
        return file if file in ENGINE else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneLaunchesTrainers:
    """What each worker runs."""
    return OneLaunchesTrainers(config, log)
