"""`harness.probe.scopes`: which operations are named after which modules, forward and backward."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def scoped(tmp_path_factory: pytest.TempPathFactory, engine_python: Path) -> Any:
    """The JSON that scoped.py writes."""
    out = tmp_path_factory.mktemp("scoped") / "out.json"
    environment = {"PJRT_DEVICE": "CPU", "XLA_HLO_DEBUG": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [engine_python, Path(__file__).with_name("scoped.py"), out],
        check=True, capture_output=True, env={**os.environ, **environment},
    )  # fmt: skip
    return json.loads(out.read_text())


def paths(scoped: Any) -> set[str]:
    """The modules that operations are named after."""
    names = [re.sub(r"\.\d+(?=/)", "", name) for name in scoped["names"]]
    return {name.rpartition("/")[0] for name in names}


def test_nothing_that_is_computed_changes(scoped: Any) -> None:
    assert scoped["same"]


def test_forward_without_wrappers(scoped: Any) -> None:
    assert {"layers/0", "layers/0/up", "layers/1/up", "head"} <= paths(scoped)
    assert not any("_orig_module" in path for path in paths(scoped))


def test_backward_by_the_innermost_module(scoped: Any) -> None:
    assert {"backward/layers/0", "backward/layers/0/up", "backward/head"} <= paths(scoped)


def test_what_is_computed_again_belongs_to_the_backward_pass(scoped: Any) -> None:
    assert any(path.startswith("backward/layers/1/up") for path in paths(scoped))
    assert not any(path.count("backward") > 1 for path in paths(scoped))


def test_the_path_of_a_name(scoped: Any) -> None:
    assert scoped["paths"] == ["", "model/layers/0/mlp"]
