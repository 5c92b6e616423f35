"""`harness.probe.fingerprint` and `known_answers`, as a mesh of 4 CPU devices computes them.

on_device.py runs there, in the engine's interpreter.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import Trainer, comparison, fingerprint, round_bfloat16, with_observed
from filelock import FileLock

from harness.ladder.judge import judge
from harness.ladder.result import Result
from harness.record.evidence import Record

ROOT = Path(__file__).parents[3]

BROKEN = (
    "signs", "one sign", "iota", "iota that starts at 0", "shift", "overflow", "sum",
    "values rounded to bfloat16", "NaN taken for 0", "bit patterns of float32 alone",
)  # fmt: skip


@pytest.fixture(scope="session")
def on_device(tmp_path_factory: pytest.TempPathFactory, engine_python: Path) -> Any:
    """The JSON that on_device.py writes: once for all, however many processes the tests run in."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of the session, which all of its processes have
    out = folder / "on_device.json"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            _run(engine_python, out)
    return json.loads(out.read_text())


def _run(python: Path, out: Path) -> None:
    devices = {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "4", "PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("on_device.py")
    done = subprocess.run(
        [python, script, f"{out}.new"],
        env={**os.environ, **devices}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    Path(f"{out}.new").rename(out)


def requested(run: Record, answers: dict[str, Any]) -> Record:
    """The Record of a run whose device answered so."""
    known = {"version": answers["version"], "tensors": answers["tensors"]}
    return with_observed(run, known_answers=known)


class TestTheFormula:
    @pytest.mark.parametrize("what", ["shapes", "shardings"])
    def test_is_that_of_numpy(self, on_device: Any, what: str) -> None:
        for each in on_device[what]:
            device, expected = each["device"], each["expected"]
            assert device["bits"] == expected["bits"], each["what"]
            assert device["norm"] == pytest.approx(expected["norm"], rel=1e-5), each["what"]
            slack = 1e-5 * expected["norm"]
            assert device["sketch"] == pytest.approx(expected["sketch"], abs=slack), each["what"]

    def test_every_sharding_was_one(self, on_device: Any) -> None:
        shardings = {each["sharding"] for each in on_device["shardings"]}
        assert len(shardings) >= 5
        assert all("devices=" in sharding for sharding in shardings)

    def test_is_that_of_the_builders(self, on_device: Any) -> None:
        array = np.random.default_rng(5).standard_normal((16, 8)).astype(np.float32)
        for dtype, values in (("float32", array), ("bfloat16", round_bfloat16(array))):
            mine, device = fingerprint(values, dtype), on_device["builders"][dtype]
            assert mine.bits == device["bits"]
            assert mine.sketch == pytest.approx(device["sketch"], abs=1e-4)
            assert mine.norm == pytest.approx(device["norm"], rel=1e-5)


class TestTheGraph:
    def test_does_not_grow_with_the_tensor(self, on_device: Any) -> None:
        sizes = [graph["bytes"] for graph in on_device["graphs"]]
        assert max(sizes) < 20_000
        assert max(sizes) < 1.2 * min(sizes)

    def test_is_compiled_once_however_its_tensor_was_updated(self, on_device: Any) -> None:
        first, *again = on_device["updated"].values()
        assert first == 1
        assert again == [0, 0, 0, 0]

    def test_are_taken_once_at_the_start_of_eager_training(self, on_device: Any) -> None:
        # Of a whole model, and not of each of its modules: each time is one of all parameters.
        assert on_device["boundaries"] == {"start": 1, "in all": 3}

    def test_holds_no_literal(self, on_device: Any) -> None:
        for graph in on_device["graphs"]:
            assert not re.search(r"constant\(\{", graph["text"])

    def test_shifts_nothing_and_reshapes_nothing_large(self, on_device: Any) -> None:
        large = on_device["graphs"][1]["text"]
        assert "shift" not in large
        assert not re.search(r"\[2101346304\]", large)


class TestKnownAnswers:
    @pytest.mark.parametrize("where", ["xla", "eager"])
    def test_a_device_that_computes_well_is_believed(self, on_device: Any, where: str) -> None:
        run = requested(Trainer().record(), on_device["known"][where])
        assert judge(comparison(run, run)).result is Result.PASS

    def test_cost_two_compilations_a_dtype(self, on_device: Any) -> None:
        assert on_device["known"]["xla"]["compilations"] <= 4

    @pytest.mark.parametrize("name", BROKEN)
    def test_a_broken_operation_is_seen(self, on_device: Any, name: str) -> None:
        good = requested(Trainer().record(), on_device["known"]["xla"])
        bad = requested(good, on_device["broken"][name])
        for pair in ((good, bad), (bad, good), (bad, bad)):
            rungs = judge(comparison(*pair)).rungs
            assert {rung.result for rung in rungs} == {Result.INVALID}

    def test_every_breakage_is_tried(self, on_device: Any) -> None:
        assert set(on_device["broken"]) == set(BROKEN)

    def test_an_exchange_and_one_bit_have_answers_of_their_own(self, on_device: Any) -> None:
        tensors = on_device["known"]["xla"]["tensors"]
        host = {tensor["name"]: tensor["host"] for tensor in tensors}
        for dtype in ("float32", "bfloat16"):
            plain = host[f"{dtype}, odd length"]
            exchanged = host[f"{dtype}, two elements exchanged"]
            flipped = host[f"{dtype}, one bit flipped"]
            assert len({plain["bits"], exchanged["bits"], flipped["bits"]}) == 3
            away = np.abs(np.subtract(plain["sketch"], exchanged["sketch"])).max()
            assert away > 10 * max(tensor["rounding"] for tensor in tensors)
