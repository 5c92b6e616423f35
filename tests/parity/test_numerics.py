"""What a device computes with: matmul precision, and devices that the CPU mesh computes like."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness
from harness.base.conditions import CONDITIONS
from harness.environments.interpreters import base_interpreter
from harness.environments.sources import default_cache_dir
from harness.ladder.result import Result
from harness.plugins.ladder import EnginePair, pair_outcome
from harness.record.evidence import Record

pytestmark = pytest.mark.cpu
SCRIPT = Path(__file__).with_name("dot_operands.py")
BITS = {"bf16_products": 8, "tf32_products": 11}


HIGHEST = ("none@highest", "bf16_products@highest")
LAUNCHES = {"none": 2, "random_scatter": 2, **dict.fromkeys((*BITS, *HIGHEST), 1)}
"""How often each condition, and a precision, is computed with, in a process of its own."""


def computed(condition: str, launch: int = 0) -> dict[str, Any]:
    """What a launch under a condition computed."""
    return all_computed()[condition][launch]


@cache
def all_computed() -> dict[str, list[dict[str, Any]]]:
    """What dot_operands.py prints under each condition, in an engine's interpreter."""
    conditions = [name for name, launches in LAUNCHES.items() for _ in range(launches)]
    python = base_interpreter(default_cache_dir(), lambda _: None).python
    package = str(Path(harness.__file__).parents[1])
    environment = {
        "PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "1", "PYTHONPATH": package,
        # As torch_xla sets it on a TPU, where it says its own version.
        "TPU_ML_PLATFORM_VERSION": "2.9.0",
    }  # fmt: skip
    ended = subprocess.run(
        [str(python), str(SCRIPT), *conditions],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in LAUNCHES}
    for condition, line in zip(conditions, ended.stdout.splitlines(), strict=True):
        found[condition].append(json.loads(line))
    return found


def rounded(array: Any, bits: int) -> Any:
    """The nearest float32 of so many significand bits, ties to even, by frexp."""
    mantissa, exponent = np.frexp(np.asarray(array, np.float64))
    return np.ldexp(np.rint(mantissa * 2.0**bits), exponent - bits)


@pytest.mark.parametrize("condition", BITS)
def test_the_operands_of_every_product_are_rounded(condition: str) -> None:
    """Forward and backward, however the product is written: in the HLO, and in the values."""
    found, bits = computed(condition), BITS[condition]
    x, w = (np.array(found["inputs"][name]) for name in ("x", "w"))
    x, w = rounded(x, bits), rounded(w, bits)
    gradient = rounded(np.full((8, 16, 24), 1.0 + 2.0**-9), bits)
    wanted = [x @ w.T, gradient @ w, np.einsum("abm,abn->mn", gradient, x)]
    for name, product in found["products"].items():
        assert len(product["operands"]) == 6, name
        assert all(f"parity_round_{bits}" in line for line in product["operands"]), name
        added = 1.0 if name == "linear with bias" else 0.0
        for value, exact in zip(product["values"], (wanted[0] + added, *wanted[1:]), strict=True):
            assert np.abs(np.array(value).reshape(exact.shape) - exact).max() < 1e-4, name


def test_without_a_condition_no_operand_is_rounded() -> None:
    for product in computed("none")["products"].values():
        assert len(product["operands"]) == 6
        assert not any("parity_round" in line for line in product["operands"])


def test_every_product_asks_for_the_precision_of_the_case() -> None:
    """However it is written: torch_xla 2.9.0 itself leaves einsum at the device's own precision.

    Only what the products ask for changes, and none of their values where the device heeds nothing.
    """
    asked, left = computed("none@highest"), computed("none")
    for name, product in asked["products"].items():
        assert product["asked"] == ["highest,highest"] * 3, name
        assert product["values"] == left["products"][name]["values"], name
    assert not any(any(product["asked"]) for product in left["products"].values())
    seen = set()
    for found, precision in ((asked, "highest"), (left, "default")):
        for name, product in found["products"].items():
            assert set(product["asking"].values()) == {precision}, name  # none goes unseen
            seen |= product["asking"].keys()
    assert seen == {"aten::mm", "aten::bmm", "aten::einsum"}


def test_a_product_that_asks_for_more_is_not_rounded() -> None:
    """As on a TPU, which heeds what each of them asks for."""
    like, exact = computed("bf16_products@highest"), computed("none")
    for name, product in like["products"].items():
        assert not any("parity_round" in line for line in product["operands"]), name
        assert product["values"] == exact["products"][name]["values"], name


def test_what_torch_xla_says_of_itself_is_no_flag() -> None:
    """Another torch_xla would differ by a flag as well."""
    flags = computed("none")["flags"]
    assert "TPU_ML_PLATFORM_VERSION" not in flags
    assert flags["PJRT_DEVICE"] == "CPU"


@pytest.mark.parametrize("operation", ["embedding", "index_add", "scatter_add"])
def test_scatter_adds_add_in_another_order_at_each_launch(operation: str) -> None:
    """The same sums but for their last bits, and other ones each time."""
    exact = np.array(computed("none")["scattered"][operation])
    launches = [
        np.array(computed("random_scatter", launch)["scattered"][operation]) for launch in range(2)
    ]
    for launch in launches:
        assert 0 < np.abs(launch - exact).max() < 1e-4
    assert (launches[0] != launches[1]).any()
    assert np.array(computed("none", 1)["scattered"][operation]).tolist() == exact.tolist()


def _runs(request: pytest.FixtureRequest, *overrides: str) -> tuple[Record, ...]:
    pair = EnginePair("llama-tiny", "hf", "torchprime", "cpu")
    more = ("case.steps=6", "float64=never", "tolerance.noise_floor=table", *overrides)
    return tuple(pair_outcome(request.config, pair, *more).records.values())


def test_highest_precision_changes_no_number_on_the_cpu_mesh(
    request: pytest.FixtureRequest,
) -> None:
    """Its products are float32 whatever is asked for: stored baselines hold."""
    requested, left = _runs(request), _runs(request, "case.precision=default")
    for one, other in zip(requested, left, strict=True):
        assert one.observed.matmul_precision == "highest"
        assert other.observed.matmul_precision == "default"
        assert one.parameters == other.parameters
        assert one.steps == other.steps


@pytest.mark.slow
@pytest.mark.parametrize("fault", [False, True])
def test_products_that_do_not_ask_are_told_of(fault: bool, request: pytest.FixtureRequest) -> None:
    """On a device that heeds what is asked for, as a TPU does; with torch_xla's own einsum."""
    pair = EnginePair("llama-tiny", "hf", "torchprime", "cpu")
    seeded = ["engine.torchprime.faults=[{name: einsum_precision}]"] if fault else []
    words = ("launcher.condition=bf16_products", "float64=never", *seeded)
    verdict = pair_outcome(request.config, pair, *words).verdict.pairs[0]
    if not fault:
        assert verdict.result is Result.PASS, verdict.headline
        return
    failing = [r.rung for r in verdict.rungs if r.result is Result.FAIL]
    assert failing == ["environment"], verdict.headline
    forward = verdict.rung("forward")
    assert forward.result is Result.INVALID
    assert "model.layers.0.self_attn" in forward.explanation


def test_a_run_says_what_it_was_computed_like(request: pytest.FixtureRequest) -> None:
    """Both trainers compute otherwise than on the CPU mesh, and near it."""
    like = _runs(request, "launcher.condition=bf16_products", "case.precision=default")
    for one, exact in zip(like, _runs(request), strict=True):
        assert one.observed.device_kind == f"CPU, {CONDITIONS['bf16_products']}"
        first, wanted = one.steps[0].loss, exact.steps[0].loss
        assert first is not None
        assert wanted is not None
        assert 1e-6 < abs(first - wanted) < 0.02
