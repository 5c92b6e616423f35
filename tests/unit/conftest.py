"""What many tests have in common: two runs that ought to agree, and where engines run."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from builders import Trainer
from golden import Renewal, Worded

from harness.devices import cpu, native
from harness.environments.interpreters import base_python
from harness.environments.sources import default_cache_dir
from harness.ladder.distances import exceeds
from harness.ladder.result import Result, RungResult
from harness.record.evidence import Record


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_interrupts() -> None:
    """Also where a shell started the tests in the background, and had them ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is launched at once is the same on every machine that runs these tests."""
    for device in (cpu, native):
        monkeypatch.setattr(device, "processors", lambda: 2)


@pytest.fixture(autouse=True)
def no_result_contradicts_itself(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a rung finds says in its fields what its sentences say: reports show both."""
    made = RungResult._of

    def checked(cls: type[RungResult], *given: Any) -> RungResult:
        result = made(*given)
        _check(result)
        return result

    if request.path.parent.name == "ladder":
        monkeypatch.setattr(RungResult, "_of", classmethod(checked))


def _check(result: RungResult) -> None:
    """The value of a PASS is within its limit, and a finding is of the step that it names."""
    if result.value is not None and result.limit is not None:
        beyond = exceeds(result.value, result.limit)
        assert not (result.result is Result.PASS and beyond), result
        assert not (result.result is Result.FAIL and result.limit == 0 and not beyond), result
    for finding in result.findings:
        named = re.match(r"(?:\S+: )?step (\d+)", finding.text)
        if named and finding.step is not None:
            assert finding.step == int(named[1]), finding
        assert finding.parameter is None or finding.parameter in finding.text, finding


@pytest.fixture(scope="session")
def a() -> Record:
    """A run of the Trainer's twin."""
    return Trainer().record()


@pytest.fixture(scope="session")
def b() -> Record:
    """Another engine's run of the same case: two groups, and sums in another order."""
    return Trainer(label="b", groups=2, sums=-1).record()


@pytest.fixture
def worded(request: pytest.FixtureRequest) -> Worded:
    """Holds what a result says, word for word, against the golden file of its rung."""
    _, name = request.node.nodeid.split("::", 1)
    plugins = request.config.pluginmanager.get_plugins()
    renewal = next((plugin for plugin in plugins if isinstance(plugin, Renewal)), None)
    has_folder = "tmp_path" in request.fixturenames
    folder = request.getfixturevalue("tmp_path") if has_folder else None
    return Worded(f"{request.path.name}::{name}", renewal, folder)


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """The interpreter of the engines' environment, which has torch and torch_xla."""
    python = base_python(default_cache_dir())
    if not python.exists():
        pytest.skip(f"there is no engine environment at {python}: `parity run` makes it")
    return python
