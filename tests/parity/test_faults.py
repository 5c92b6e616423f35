"""Faults, seeded one at a time into the real Trainer: each has to fail at its own rung.

The faulty run is compared with a clean run of another engine, torchprime where one is at hand and
the reference elsewhere, with limits from the clean engine's measured noise floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from harness.ladder.ladder import names
from harness.ladder.result import Result
from harness.plugins.ladder import EnginePair, pair_outcome


@dataclass(frozen=True)
class Seeded:
    """A fault, and the first rung that has to fail.

    bf16: whether it stands out from bfloat16's noise floor (docs/faults.md has the numbers)
    """

    name: str
    rung: str
    arguments: str = "{}"
    bf16: bool = True
    text: str = ""

    @property
    def override(self) -> str:
        """The Hydra override that seeds it into hf."""
        return f"engine.hf.faults=[{{name: {self.name}, arguments: {self.arguments}}}]"


UP_PROJ = "model.layers.*.mlp.up_proj.weight"
FAULTS = (
    Seeded("sharding", "sharding", f"{{{UP_PROJ}: [null, fsdp]}}", text="up_proj"),
    Seeded("swap_batches", "data", text="the same batches in another order"),
    Seeded("swap_rows", "data", text="the same rows over the whole run, in another order"),
    Seeded("repeat_batch", "data", text="was given the tokens of step 2 again"),
    Seeded("skip_update", "data", text="an update was skipped at step 7"),
    Seeded("perturb_weight", "init", "{by: 1e-3}", text="up_proj"),
    Seeded("rope_theta", "forward", bf16=False),
    Seeded("rms_norm_eps", "forward", bf16=False),
    Seeded("attention_scale", "forward"),
    Seeded("kv_order", "forward"),
    Seeded("label_shift", "forward"),
    Seeded("loss_dtype", "forward"),
    Seeded("no_clipping", "clip", text="does not clip"),
    Seeded("clipping_each_parameter", "clip", text="each by a norm of its own"),
    Seeded("unwatched_clipping", "clip", "{factor: 0.5}", text="a function that is not watched"),
    Seeded("clip_threshold", "clip", text="the thresholds differ"),
    Seeded("clipping_without_effect", "clip"),
    Seeded("hyper_parameter", "optimizer", "{name: weight_decay, value: 0.1}", text="weight_decay"),
    Seeded("hyper_parameter", "optimizer", "{name: eps, value: 1e-6}", text="eps"),
    Seeded("hyper_parameter", "optimizer", "{name: betas, value: [0.9, 0.95]}", text="betas"),
    Seeded("learning_rate_lag", "schedule", text="a lag of one step"),
    Seeded("learning_rate", "schedule", "{factor: 1.01}", text="1.01 times as much"),
    Seeded("nan_loss", "loss_curve", text="step 7"),
    Seeded("lost_update", "loss_curve", "{step: 19}", bf16=False, text="parameters end elsewhere"),
    Seeded("exit_early", "data", "{after: 8}", text="hf trained 7 of 20 steps"),
    Seeded("recompile", "graph", text="after warm-up"),
    Seeded("host_transfer", "graph", text="runs on the host 0 times a step in reference, 1 in hf"),
)


def _id(fault: Seeded) -> str:
    detail = fault.arguments.split("name: ")[1].split(",")[0] if "name: " in fault.arguments else ""
    return f"{fault.name}-{detail}" if detail else fault.name


@pytest.mark.cpu
@pytest.mark.parametrize("fault", FAULTS, ids=_id)
def test_fault_fails_at_its_own_rung(fault: Seeded, request: pytest.FixtureRequest) -> None:
    _check(fault, "llama-tiny", request.config)


@pytest.mark.cpu
@pytest.mark.slow
@pytest.mark.parametrize("fault", [f for f in FAULTS if f.bf16], ids=_id)
def test_fault_fails_at_its_own_rung_in_bf16(fault: Seeded, request: pytest.FixtureRequest) -> None:
    _check(fault, "llama-tiny-bf16", request.config)


@pytest.mark.cpu
def test_gradients_of_half_the_loss(request: pytest.FixtureRequest) -> None:
    """The losses do not differ, and the first rung that fails says what `backward()` was given."""
    fault = Seeded("divided_loss", "backward", text="its loss divided by 2, once too often")
    words = ("case.accumulation=2", "tolerance.noise_floor=table")
    _check(fault, "llama-tiny", request.config, *words)


@pytest.mark.cpu
def test_rotary_embeddings_without_their_scaling(request: pytest.FixtureRequest) -> None:
    _check(Seeded("rope_unscaled", "forward"), "llama-3.1-tiny", request.config)


@pytest.mark.cpu
@pytest.mark.parametrize("form", ["two_call_clipping", "unwatched_clipping"])
def test_another_form_of_the_same_clipping_passes(
    form: str, request: pytest.FixtureRequest
) -> None:
    pair = EnginePair("llama-tiny", "reference", "hf", "cpu")
    overrides = ("float64=never", Seeded(form, "").override)
    verdict = pair_outcome(request.config, pair, *overrides).verdict.pairs[0]
    assert verdict.rung("backward").result is Result.PASS
    assert verdict.rung("clip").result is Result.PASS


def _check(fault: Seeded, case: str, config: Any, *overrides: str) -> None:
    pair = EnginePair(case, "reference", "hf", "cpu")
    overrides = ("float64=never", fault.override, *overrides)
    verdict = pair_outcome(config, pair, *overrides).verdict.pairs[0]
    # Also where a fault that acts in the middle of a run compiles a graph of its own there.
    failing = [r.rung for r in verdict.rungs if r.result is Result.FAIL]
    # A batch that is put in the place of another one is no device loader's: its graph is another.
    allowed = {"graph"} if fault.name == "repeat_batch" else set()
    assert [name for name in failing if name not in allowed] == [fault.rung], verdict.headline
    assert fault.text in verdict.rung(fault.rung).explanation
    above = names()[: names().index(fault.rung)]
    assert all(verdict.rung(r).result in (Result.PASS, Result.NOT_EXERCISED) for r in above)
