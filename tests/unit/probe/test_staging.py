"""`harness.probe.staging`: a training loop runs without values, and what is kept of its step."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

TEXT = """
import sys
from jaxlib import _jax
print(_jax.XlaComputation(open(sys.argv[1], "rb").read()).as_hlo_text())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("staged")


@pytest.fixture(scope="module")
def staged(folder: Path, engine_python: Path) -> Any:
    """The JSON that staged.py writes."""
    out = folder / "out.json"
    environment = {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "2", "PYTHONPATH": str(ROOT)}
    environment["JAX_PLATFORMS"] = "cpu"
    subprocess.run(
        [engine_python, Path(__file__).with_name("staged.py"), out, folder],
        check=True, capture_output=True, env={**os.environ, **environment},
    )  # fmt: skip
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def modules(staged: Any, folder: Path) -> Any:
    """What modules.json says."""
    return json.loads((folder / "modules.json").read_text())


@pytest.fixture(scope="module")
def texts(modules: Any, folder: Path, engine_python: Path) -> list[str]:
    """The modules of the last step."""
    return [
        subprocess.run(
            [engine_python, "-c", TEXT, folder / module["file"]],
            check=True, capture_output=True, text=True,
        ).stdout
        for module in modules["step"]
    ]  # fmt: skip


def test_nothing_is_compiled_or_executed(staged: Any) -> None:
    assert (staged["executions"], staged["compilations"]) == (None, None)


def test_a_step_does_not_grow(staged: Any) -> None:
    """What an earlier step computed is no part of a later one."""
    first, second, third = staged["lengths"]
    assert first != second == third


def test_what_is_read_is_zero_and_listed(staged: Any, modules: Any) -> None:
    """Also what an operation takes that torch_xla executes on the host."""
    assert staged["read"] == [False, 0.0, [0.0] * 3, [0.0] * 3, [0.0] * 3]
    reads: Counter[tuple[str, bool]] = Counter()
    for read in modules["reads"]:
        if not read["known"]:
            reads[read["dtype"], read["tracing"]] += read["times"]
            assert "value" not in read
    assert reads == {("bool", True): 1, ("float32", True): 6, ("float32", False): 1}
    assert {r["at"].split(":")[0] for r in modules["reads"]} == {"probe/staged.py"}


def test_what_follows_from_a_batch_is_known(staged: Any, modules: Any) -> None:
    """A number of labels, a mask of them, the labels, a mask of constants; the last takes more."""
    assert staged["known"] == [3, True, [[-100, 3, 4], [-100, 5, -100]], True, 0]
    known = [read for read in modules["reads"] if read["known"]]
    assert [read.get("value") for read in known] == [3, True, None, True]
    assert all(read["tracing"] for read in known)


def test_shardings_stay(staged: Any) -> None:
    assert staged["sharding"].startswith("{devices=[256,1]")
    assert staged["moment"] == staged["sharding"]
    assert not staged["later view"]


def test_kernels_of_a_tpu_are_lowered(staged: Any) -> None:
    """Forward, and backward for keys with values and for queries; splash attention has one
    backward kernel. It and gmm are called by torchax, which the environment lacks flax for."""
    assert (staged["kernels"], staged["splash"], staged["gmm"]) == (3, 2, 1)


def test_every_module_of_the_last_step_is_kept(modules: Any, texts: list[str]) -> None:
    """Two micro-batches, of which the second adds to the first's gradients, and the update; before
    them three that are executed for what is read."""
    assert [module["executions"] for module in modules["step"]] == [1] * 6
    weights = f"f32[{1 << 18},{1 << 18}]"
    parameters = [text.count(f"{weights}{{1,0}} parameter(") for text in texts]
    assert parameters == [0, 0, 0, 1, 2, 4]  # weight; and gradient; and moments


def test_what_is_changed_in_place_is_donated(texts: list[str]) -> None:
    donated = [text.split("\n", 1)[0].count(", {})") for text in texts]
    # The gradient is added to; weight and moments are updated, and what is counted.
    assert donated == [0, 0, 0, 0, 1, 4]


def test_arguments_are_annotated(texts: list[str]) -> None:
    lines = [line for text in texts for line in text.splitlines() if " parameter(" in line]
    weights = [line for line in lines if f"f32[{1 << 18},{1 << 18}]" in line]
    assert all("sharding={devices=[256,1]" in line for line in weights)
