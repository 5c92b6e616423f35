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

    bf16:      whether it stands out from bfloat16's noise floor (docs/faults.md has the numbers)
    quick:     whether it is the first of its kind: the others are marked slow
    metric:    of that rung, where it is judged by one of several
    step, parameter, value: of one of its findings: where, and what the faulty run has there
    """

    name: str
    rung: str
    arguments: str = "{}"
    bf16: bool = True
    quick: bool = True
    metric: str | None = None
    step: int | None = None
    parameter: str | None = None
    value: Any = None

    @property
    def override(self) -> str:
        """The Hydra override that seeds it into hf."""
        return f"engine.hf.faults=[{{name: {self.name}, arguments: {self.arguments}}}]"


FIRST_UP_PROJ = "model.layers.0.mlp.up_proj.weight"
UP_PROJ = "model.layers.*.mlp.up_proj.weight"
FAULTS = (
    Seeded("sharding", "sharding", f"{{{UP_PROJ}: [null, fsdp]}}", parameter=FIRST_UP_PROJ),
    Seeded("swap_batches", "data", step=2),
    Seeded("swap_rows", "data", step=0, quick=False),
    Seeded("repeat_batch", "data", step=3, quick=False),
    Seeded("skip_update", "data", step=7, value=1),
    Seeded("perturb_weight", "init", "{by: 1e-3}", parameter=FIRST_UP_PROJ),
    Seeded("rope_theta", "forward", bf16=False),
    Seeded("rms_norm_eps", "forward", bf16=False, quick=False),
    Seeded("attention_scale", "forward", quick=False),
    Seeded("kv_order", "forward"),
    Seeded("label_shift", "forward", quick=False),
    Seeded("loss_dtype", "forward"),
    Seeded("no_clipping", "clip", metric="scale", step=0, value=1.0),
    Seeded("clipping_each_parameter", "clip", metric="parameter_scale", step=0),
    Seeded("unwatched_clipping", "clip", "{factor: 0.5}", metric="scale", step=0, quick=False),
    Seeded("clip_threshold", "clip", metric="scale", step=0, quick=False),
    Seeded("clipping_without_effect", "clip", metric="parameter_scale", step=0, value=1.0,
           quick=False),
    Seeded("hyper_parameter", "optimizer", "{name: weight_decay, value: 0.1}", step=0, value="0.1"),
    Seeded("hyper_parameter", "optimizer", "{name: eps, value: 1e-6}", step=0, value="1e-06",
           quick=False),
    Seeded("hyper_parameter", "optimizer", "{name: betas, value: [0.9, 0.95]}",
           step=0, value="[0.9, 0.95]", quick=False),
    Seeded("coarse_moments", "optimizer", bf16=False, metric="moment", step=0),
    Seeded("learning_rate_lag", "schedule", step=1, value=(0.0, 0.0), quick=False),
    Seeded("learning_rate", "schedule", "{factor: 1.01}", step=1, value=(0.0002525, 0.0002525)),
    Seeded("nan_loss", "loss_curve", step=7),
    Seeded("lost_update", "loss_curve", "{step: 19}", bf16=False, metric="course", quick=False),
    Seeded("scaled_gradient", "loss_curve"),
    Seeded("exit_early", "data", "{after: 8}", step=7),
    Seeded("recompile", "graph", step=11),
    Seeded("host_transfer", "graph", value=1.0),
)  # fmt: skip


def _id(fault: Seeded) -> str:
    detail = fault.arguments.split("name: ")[1].split(",")[0] if "name: " in fault.arguments else ""
    return f"{fault.name}-{detail}" if detail else fault.name


@pytest.mark.cpu
@pytest.mark.parametrize(
    "fault",
    [pytest.param(f, id=_id(f), marks=[] if f.quick else pytest.mark.slow) for f in FAULTS],
)
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
    fault = Seeded("divided_loss", "backward", metric="gradient", step=0)
    words = ("case.accumulation=2", "tolerance.noise_floor=table")
    _check(fault, "llama-tiny", request.config, *words)


@pytest.mark.cpu
@pytest.mark.slow
def test_rotary_embeddings_without_their_scaling(request: pytest.FixtureRequest) -> None:
    _check(Seeded("rope_unscaled", "forward"), "llama-3.1-tiny", request.config)


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("lost_mask", ("case.data.padding=0.3",), marks=pytest.mark.slow),
        pytest.param(
            "lost_positions", ("case.data.documents=3", "case.data.positions=true"),
            marks=pytest.mark.slow,
        ),
        ("lost_smoothing", ("case.label_smoothing=0.1",)),
    ],
)  # fmt: skip
def test_a_feature_that_is_lost(
    name: str, words: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    _check(Seeded(name, "forward"), "llama-tiny", request.config, *words)


@pytest.mark.cpu
@pytest.mark.slow
def test_embeddings_that_are_untied(request: pytest.FixtureRequest) -> None:
    words = ("launcher.device=cpu-native", "case.model.tie_embeddings=true", "case.mesh.fsdp=1")
    clean = pair_outcome(
        request.config, EnginePair("llama-tiny", "reference", "hf", "cpu"), *words
    ).verdict.pairs[0]
    assert clean.result is Result.PASS, clean.headline
    _check(
        Seeded("lost_tie", "sharding", parameter="lm_head.weight"),
        "llama-tiny",
        request.config,
        *words,
    )


@pytest.mark.cpu
@pytest.mark.parametrize(
    "form",
    ["two_call_clipping", pytest.param("unwatched_clipping", marks=pytest.mark.slow)],
)
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
    result = verdict.rung(fault.rung)
    assert fault.metric in (None, result.metric)
    assert any(
        fault.step in (None, found.step)
        and fault.parameter in (None, found.parameter)
        and fault.value in (None, found.b)
        for found in result.findings
    ), result.findings
    above = names()[: names().index(fault.rung)]
    assert all(verdict.rung(r).result in (Result.PASS, Result.NOT_EXERCISED) for r in above)
