"""The clock of a run counts what it is asked to count, once."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.probe.phases import Phases


@pytest.fixture
def slow_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`slow_outer` imports `slow_inner`; each takes a tenth of a second by itself."""
    bootstrap: Any = importlib._bootstrap
    monkeypatch.setattr(bootstrap, "_find_and_load", bootstrap._find_and_load)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "slow_inner.py").write_text("import time\ntime.sleep(0.1)")
    (tmp_path / "slow_outer.py").write_text("import time\ntime.sleep(0.1)\nimport slow_inner")
    yield
    for name in ("slow_inner", "slow_outer"):
        sys.modules.pop(name, None)


def test_imports_within_imports_count_once(slow_modules: None) -> None:
    phases = Phases()
    phases.watch_imports()
    start = time.perf_counter()
    importlib.import_module("slow_outer")
    assert 0.2 <= phases.seconds["imports"] <= time.perf_counter() - start
    before = phases.seconds["imports"]
    exec("import slow_outer")
    assert phases.seconds["imports"] == before


def test_time_within_is_counted_also_after_an_error() -> None:
    phases = Phases()

    def fail() -> None:
        with phases.spending("probe"), phases.spending("probe"):
            time.sleep(0.05)
            raise ValueError("x")

    start = time.perf_counter()
    with pytest.raises(ValueError, match="x"):
        fail()
    assert 0.05 <= phases.seconds["probe"] <= time.perf_counter() - start


def test_a_mark_says_what_was_spent_by_then() -> None:
    phases = Phases()
    with phases.spending("probe"):
        time.sleep(0.02)
    phases.mark("first_window")
    with phases.spending("probe"):
        time.sleep(0.02)
    mark = phases.to_json()["marks"]["first_window"]
    assert 0.02 <= mark["probe"] < phases.seconds["probe"]
    assert phases.began <= mark["at"] <= time.time()
