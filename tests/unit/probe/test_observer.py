"""What `harness.probe` sees of a trainer, in the engine's interpreter where there is one."""

from __future__ import annotations

import json
import math
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from harness.ladder.loss import division, mean_cross_entropy
from harness.record.evidence import Parameter, Step
from harness.record.layout import LOADED, PARAMETERS, STEPS
from harness.record.reader import read_observed, read_parameters, read_steps

ROOT, HERE = Path(__file__).parents[3], Path(__file__).parent
MAX_NORM = 0.1
"""What the trainer clips to."""

SAVING = {"mask": 1, "accumulation": 2}

RUNS: list[dict[str, Any]] = [
    {}, {"clip": "imported early"}, {"clip": "two calls"}, {"clip": "two calls for each group"},
    {"clip": "each parameter"}, {"clip": "values"}, {"clip": "own"}, {"clip": "none"},
    {"device": "xla", "clip": "own"}, {"device": "xla", "accumulation": 2, "divide": 4},
    {"repeat": 2}, {"device": "xla", "repeat": 2}, {"mask": 1}, {"mask": 0},
    {"accumulation": 2, "divide": 2}, {"accumulation": 2, "divide": 4}, {"accumulation": 2},
    {"drop": 0.25}, {"cast": True}, {"remat": True}, {"device": "xla", "cut": "sync"},
    {"device": "xla", "cut": "marker"}, {"device": "xla", "cut": "materialised"},
    {"device": "xla", "backward": "autograd"}, {"device": "xla", "backward": "grad"},
    {"backward": "two heads"},
    {"layout": "fused", "clip": "none"}, {"layout": "stacked", "clip": "none"},
    {"layout": "transposed", "clip": "none"}, {"device": "xla", "layout": "fused", "clip": "none"},
    *({**SAVING, "save": 2}, {**SAVING, "resume": 2, "of": 30}, {**SAVING, "resume": 1, "of": 30}),
    {"route": True}, {"device": "xla", "route": True}, {"route": "gate"},
    {"backward": "within forward"},
]  # fmt: skip


@dataclass(frozen=True)
class Watched:
    """What a run left."""

    steps: tuple[Step, ...]
    parameters: tuple[Parameter, ...]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, engine_python: Path) -> Path:
    """The Records of all runs: made once, however many processes the tests run in."""
    base = tmp_path_factory.getbasetemp()
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "watched_runs"
    with FileLock(f"{out}.lock"):
        if not (out / "done").exists():
            done = subprocess.run(
                [engine_python, HERE / "watch_runs.py", out], capture_output=True, text=True,
                input="".join(json.dumps(run) + "\n" for run in RUNS),
                env={
                    **os.environ, "PYTHONPATH": f"{ROOT}:{HERE}",
                    "PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "4",
                },
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr[-3000:]
            (out / "done").touch()
    return out


def watched(folder: Path, **run: Any) -> Watched:
    """What the run with these arguments left."""
    place = folder / str(RUNS.index(run))
    steps, _, _ = read_steps(place / STEPS, strict=True)
    return Watched(steps, read_parameters(place / PARAMETERS))


def norms(run: Watched) -> list[tuple[float, float]]:
    """Norms of each gradient of step 0, before and after clipping."""
    found = [(p.gradient, p.clipped_norm) for p in run.parameters]
    return [(g.norm, n) for g, n in found if g is not None and n is not None]


class TestClipping:
    @pytest.mark.parametrize(
        "clip", ["imported early", "two calls", "two calls for each group", "each parameter", "own"]
    )
    def test_gradients_are_taken_before_it(self, folder: Path, clip: str) -> None:
        plain, other = watched(folder), watched(folder, clip=clip)
        assert len(norms(plain)) == 2
        for x, y in zip(norms(plain), norms(other), strict=True):
            assert y[0] == pytest.approx(x[0], rel=1e-5)

    def test_plain(self, folder: Path) -> None:
        run = watched(folder)
        total = math.hypot(*(before for before, _ in norms(run)))
        assert total > MAX_NORM
        assert [step.max_norm for step in run.steps] == [MAX_NORM] * 4
        assert run.steps[0].gradient_norm == pytest.approx(total, rel=1e-6)
        assert not run.steps[0].clips
        for before, after in norms(run):
            assert after == pytest.approx(before * MAX_NORM / total, rel=1e-4)

    @pytest.mark.parametrize("clip", ["imported early", "two calls"])
    def test_another_form_of_the_same(self, folder: Path, clip: str) -> None:
        plain, other = watched(folder), watched(folder, clip=clip)
        assert np.allclose(norms(other), norms(plain), rtol=1e-5)
        for x, y in zip(plain.steps, other.steps, strict=True):
            assert (x.max_norm, x.clips) == (y.max_norm, y.clips)
            assert y.gradient_norm == pytest.approx(x.gradient_norm, rel=1e-5)

    def test_one_norm_for_calls_for_each_group(self, folder: Path) -> None:
        plain, other = watched(folder), watched(folder, clip="two calls for each group")
        assert np.allclose(norms(other), norms(plain), rtol=1e-5)
        for x, y in zip(plain.steps, other.steps, strict=True):
            assert x.max_norm == y.max_norm
            assert y.gradient_norm == pytest.approx(x.gradient_norm, rel=1e-5)
            assert [(c.kind, c.parameters, c.norm) for c in y.clips] == [
                ("norm", 1, y.gradient_norm)
            ] * 2
        assert [p.clipped_by for p in other.parameters] == [(0,), (1,)]

    def test_each_parameter_by_its_own_norm(self, folder: Path) -> None:
        run = watched(folder, clip="each parameter")
        assert [c.norm for c in run.steps[0].clips] == pytest.approx(
            [before for before, _ in norms(run)], rel=1e-6
        )
        assert run.steps[0].gradient_norm == pytest.approx(
            watched(folder).steps[0].gradient_norm, rel=1e-6
        )

    def test_values(self, folder: Path) -> None:
        run = watched(folder, clip="values")
        for step in run.steps:
            assert (step.max_norm, step.gradient_norm) == (None, None)
            assert [(c.kind, c.limit, c.parameters) for c in step.clips] == [("value", 0.01, 2)]
        assert all(after < before for before, after in norms(run))

    def test_a_function_that_is_not_watched(self, folder: Path) -> None:
        run = watched(folder, clip="own")
        for (before, after), plain in zip(norms(run), norms(watched(folder)), strict=True):
            assert (before, after) == pytest.approx(plain, rel=1e-5)
        assert all(step.max_norm is None and not step.clips for step in run.steps)

    def test_none(self, folder: Path) -> None:
        run = watched(folder, clip="none")
        assert all(before == after for before, after in norms(run))


class TestOnMesh:
    """The same on lazy tensors, sharded over four devices."""

    def test_gradients_before_a_function_that_is_not_watched(self, folder: Path) -> None:
        host, mesh = norms(watched(folder)), norms(watched(folder, device="xla", clip="own"))
        for expected, found in zip(host, mesh, strict=True):
            assert found == pytest.approx(expected, rel=1e-5)

    def test_what_backward_was_called_on(self, folder: Path) -> None:
        step = watched(folder, device="xla", accumulation=2, divide=4).steps[0]
        host = watched(folder, accumulation=2, divide=4).steps[0]
        assert step.micro_losses == pytest.approx(host.micro_losses, rel=1e-6)
        assert division(step) == 2.0

    def test_later_steps_keep_their_graph(self, folder: Path) -> None:
        place = folder / str(RUNS.index({"device": "xla", "clip": "own"}))
        _, windows, _ = read_steps(place / STEPS, strict=True)
        assert [(w.compilations, w.executions) for w in windows] == [(1, 1), (1, 1), (0, 2)]
        assert [w.inner_graphs for w in windows] == [0, 0, 0]

    @pytest.mark.parametrize("cut", ["sync", "marker", "materialised"])
    def test_cuts_within_a_forward_and_a_backward_pass(self, folder: Path, cut: str) -> None:
        """Whichever function sends what is pending to the device."""
        place = folder / str(RUNS.index({"device": "xla", "cut": cut}))
        _, windows, _ = read_steps(place / STEPS, strict=True)
        assert [w.inner_graphs for w in windows] == [2, 2, 4]
        assert [w.executions for w in windows] == [3, 3, 6]

    def test_a_pass_ends_with_its_backward_pass(self, folder: Path) -> None:
        """Also of a trainer that calls `torch.autograd.backward`: what it cuts off then is none."""
        place = folder / str(RUNS.index({"device": "xla", "backward": "autograd"}))
        steps, windows, _ = read_steps(place / STEPS, strict=True)
        assert [w.inner_graphs for w in windows] == [0, 0, 0]
        assert [w.executions for w in windows] == [2, 2, 4]
        plain = watched(folder, device="xla", clip="own").steps
        assert steps[0].micro_losses == pytest.approx(plain[0].micro_losses, rel=1e-6)

    def test_a_pass_without_an_end_was_not_counted(self, folder: Path) -> None:
        place = folder / str(RUNS.index({"device": "xla", "backward": "grad"}))
        _, windows, _ = read_steps(place / STEPS, strict=True)
        assert [w.inner_graphs for w in windows] == [None, None, None]


def test_the_loss_of_several_heads_is_their_sum(folder: Path) -> None:
    plain, other = watched(folder).steps, watched(folder, backward="two heads").steps
    for x, y in zip(plain, other, strict=True):
        assert y.micro_losses == pytest.approx(x.micro_losses, rel=1e-5)


def test_a_backward_pass_of_no_scalars_is_not_the_trainings_own(folder: Path) -> None:
    assert watched(folder, backward="within forward").steps == watched(folder).steps


class TestRouting:
    """What routers choose."""

    def test_on_the_host_and_on_a_mesh(self, folder: Path) -> None:
        runs = watched(folder, route=True), watched(folder, device="xla", route=True)
        host, mesh = (run.steps[0].routed for run in runs)
        assert [each.name for each in host] == [each.name for each in mesh] == ["gate"]
        (one,), (other,) = host, mesh
        assert one.tokens == other.tokens == 24  # rows of 6
        assert len(one.taken) == len(one.margins) == 24
        assert (one.taken, one.load) == (other.taken, other.load)
        assert sum(one.load) == 48
        assert [sum(n in taken for taken in one.taken) for n in range(4)] == list(one.load)
        assert min(one.margins) >= 0
        assert one.margins == pytest.approx(other.margins, abs=1e-6)
        for what in ("given", "logits", "scores"):
            left, right = getattr(one, what), getattr(other, what)
            assert left.sketch == pytest.approx(right.sketch, abs=1e-5)
            assert left.norm == pytest.approx(right.norm, rel=1e-6)
        assert one.scores is not None
        # Scores are shares: of four, no token has less than a quarter at best, or more than all.
        assert (24 / 4) ** 0.5 <= one.scores.norm <= 24**0.5

    def test_a_router_that_chooses_by_itself(self, folder: Path) -> None:
        """It returns indices and weights; its logits are seen all the same."""
        plain, deciding = (watched(folder, route=who).steps[0].routed for who in (True, "gate"))
        assert deciding == plain

    def test_of_the_first_step_alone(self, folder: Path) -> None:
        for run in (watched(folder, route=True), watched(folder, device="xla", route=True)):
            assert [len(step.routed) for step in run.steps] == [1, 0, 0, 0]

    def test_later_steps_keep_their_graph(self, folder: Path) -> None:
        place = folder / str(RUNS.index({"device": "xla", "route": True}))
        _, windows, _ = read_steps(place / STEPS, strict=True)
        assert [(w.compilations, w.executions) for w in windows] == [(1, 1), (1, 1), (0, 2)]
        assert [w.inner_graphs for w in windows] == [0, 0, 0]

    def test_what_was_to_be_watched(self, folder: Path) -> None:
        for run, expected in (({"route": True}, ("gate",)), ({}, ())):
            place = folder / str(RUNS.index(run))
            assert read_observed(place).routers == expected


class TestInputs:
    """What the model is given, whatever its loader yields."""

    @pytest.mark.parametrize("device", [None, "xla"])
    def test_a_batch_that_comes_again(self, folder: Path, device: str | None) -> None:
        steps = watched(folder, **({"device": device} if device else {}), repeat=2).steps
        loaded = [step.batches[0].tokens for step in steps]
        assert len(set(loaded)) == 4
        given = [{"tokens": loaded[i], "labels": loaded[i]} for i in (0, 1, 1, 3)]
        assert [step.inputs for step in steps] == [(g,) for g in given]

    def test_each_micro_batch(self, folder: Path) -> None:
        for step in watched(folder, device="xla", accumulation=2, divide=4).steps:
            assert [g["tokens"] for g in step.inputs] == [b.tokens for b in step.batches]

    def test_a_mask_of_ones_is_taken_away(self, folder: Path) -> None:
        assert len(watched(folder, mask=1).steps) == 4
        observed = read_observed(folder / str(RUNS.index({"mask": 1})))
        assert observed.taken_away == ("attention_mask",)

    def test_a_mask_that_the_model_would_use_is_refused(self, folder: Path) -> None:
        observed = read_observed(folder / str(RUNS.index({"mask": 0})))
        assert observed.script is not None
        assert not observed.script.returned
        assert "attention_mask, which its model would use" in str(observed.script.error)
        assert not (folder / str(RUNS.index({"mask": 0})) / STEPS).read_text().count('"step"')


class TestOutputs:
    """What the parts of the model compute in step 0."""

    def test_on_the_host_and_on_a_mesh(self, folder: Path) -> None:
        host = watched(folder).steps[0].outputs
        mesh = watched(folder, device="xla", repeat=2).steps[0].outputs
        assert [(o.name, o.shape) for o in mesh] == [("embed", (4, 6, 8)), ("head", (4, 6, 16))]
        for x, y in zip(host, mesh, strict=True):
            assert (x.name, x.shape) == (y.name, y.shape)
            assert y.norm == pytest.approx(x.norm, rel=1e-5)
            assert y.sketch == pytest.approx(x.sketch, rel=1e-4, abs=1e-4)

    def test_only_the_first_forward_pass(self, folder: Path) -> None:
        first, *later = watched(folder, accumulation=2).steps
        expected = watched(folder).steps[0].outputs
        assert [o.name for o in first.outputs] == [o.name for o in expected]
        assert [o.norm for o in first.outputs] == pytest.approx([o.norm for o in expected])
        assert not any(step.outputs for step in later)


class TestLoss:
    @pytest.mark.parametrize(("divide", "by"), [(2, 1.0), (4, 2.0), (None, 0.5)])
    def test_what_backward_was_called_on(
        self, folder: Path, divide: float | None, by: float
    ) -> None:
        run = watched(folder, accumulation=2, **({} if divide is None else {"divide": divide}))
        step = run.steps[0]
        assert step.loss is not None
        assert len(step.micro_losses) == len(step.cross_entropies) == 2
        assert mean_cross_entropy(step) == pytest.approx(by * step.loss, rel=1e-6)
        assert division(step) == by

    def test_only_step_0_is_looked_into(self, folder: Path) -> None:
        assert [len(step.cross_entropies) for step in watched(folder).steps] == [1, 0, 0, 0]


class TestBeyondTheLayers:
    """What changes a model's numbers and is in no argument of a case."""

    def test_a_plain_run_has_none_of_it(self, folder: Path) -> None:
        observed = read_observed(folder / str(RUNS.index({})))
        assert (observed.autocast, observed.dropout) == (None, {})

    def test_dropout_of_layers_and_of_what_is_handed_to_functions(self, folder: Path) -> None:
        observed = read_observed(folder / str(RUNS.index({"drop": 0.25})))
        assert observed.dropout == {"layers.*": 0.25, "residual_dropout": 0.25}

    def test_autocasting(self, folder: Path) -> None:
        assert read_observed(folder / str(RUNS.index({"cast": True}))).autocast == "bfloat16"


class TestRecomputed:
    def test_layers_that_are_checkpointed(self, folder: Path) -> None:
        plain, other = (
            read_observed(folder / str(RUNS.index(run))) for run in ({}, {"remat": True})
        )
        assert plain.recomputed == {}
        assert other.recomputed == {"layers.*": 2}

    def test_nothing_else_is_disturbed(self, folder: Path) -> None:
        plain, other = watched(folder), watched(folder, remat=True)
        assert [s.loss for s in plain.steps] == [s.loss for s in other.steps]


class TestLayouts:
    """A trainer that keeps its matrices in another layout leaves the canonical parameters."""

    @pytest.mark.parametrize("layout", ["fused", "stacked"])
    def test_equal_bits_all_the_way(self, folder: Path, layout: str) -> None:
        plain, own = watched(folder, clip="none"), watched(folder, layout=layout, clip="none")
        assert [p.name for p in own.parameters] == ["embed.weight", "head.weight"]
        for x, y in zip(plain.parameters, own.parameters, strict=True):
            assert (x.name, x.shape, x.dtype, x.group) == (y.name, y.shape, y.dtype, y.group)
            assert bits(x) == bits(y)
            assert y.clipped_norm == pytest.approx(x.clipped_norm)

    def test_transposed(self, folder: Path) -> None:
        """Its products round otherwise."""
        plain, own = watched(folder, clip="none"), watched(folder, layout="transposed", clip="none")
        for x, y in zip(plain.parameters, own.parameters, strict=True):
            assert (x.name, x.shape, x.group) == (y.name, y.shape, y.group)
            assert bits(x)[0] == bits(y)[0]
            assert x.gradient is not None
            assert y.gradient is not None
            assert y.gradient.sketch == pytest.approx(x.gradient.sketch, rel=1e-4, abs=1e-5)
            assert y.clipped_norm == pytest.approx(x.clipped_norm, rel=1e-5)

    def test_on_a_mesh(self, folder: Path) -> None:
        """Also where the tensor that is taken apart is cut, and lazy."""
        host = watched(folder, layout="fused", clip="none")
        mesh = watched(folder, device="xla", layout="fused", clip="none")
        for x, y in zip(host.parameters, mesh.parameters, strict=True):
            assert (x.name, x.shape, y.sharding) == (y.name, y.shape, "{devices=[4,1]0,1,2,3}")
            assert x.initial is not None
            assert y.initial is not None
            assert x.gradient is not None
            assert y.gradient is not None
            assert x.initial.bits == y.initial.bits
            assert y.gradient.norm == pytest.approx(x.gradient.norm, rel=1e-5)


def bits(parameter: Parameter) -> list[int]:
    """Bits of all that is observed of a parameter: its values, gradient and Adam's moments."""
    states = [*parameter.state_after, parameter.state_final or {}]
    values = [parameter.initial, parameter.gradient, *parameter.after, parameter.final]
    values += [state[name] for state in states for name in sorted(state)]
    return [value.bits for value in values if value is not None]


class TestSaveAndResume:
    """A trainer that saves after two of four steps, and what resumes from there."""

    @pytest.fixture
    def saving(self, folder: Path) -> Watched:
        return watched(folder, **SAVING, save=2)

    @pytest.fixture
    def resumed(self, folder: Path) -> Watched:
        return watched(folder, **SAVING, resume=2, of=30)

    def test_what_is_saved_is_fingerprinted_then(self, saving: Watched) -> None:
        for parameter in saving.parameters:
            assert parameter.saved == parameter.after[1]  # two steps were trained
            assert parameter.state_saved == parameter.state_after[1]
            assert (parameter.counted_saved, parameter.counted) == (2, 4)

    def test_what_is_resumed_from_is_fingerprinted_before_the_first_step(
        self, saving: Watched, resumed: Watched
    ) -> None:
        pairs = zip(saving.parameters, resumed.parameters, strict=True)
        for before, after in pairs:
            assert after.initial == before.saved
            assert after.state_loaded == before.state_saved
            assert after.counted_loaded == 2
            assert after.final == before.final

    def test_the_others_load_nothing(self, saving: Watched) -> None:
        assert all(not p.state_loaded and p.counted_loaded is None for p in saving.parameters)

    def test_own_batches_are_known_again(self, saving: Watched, resumed: Watched) -> None:
        later = [batch for step in saving.steps[2:] for batch in step.batches]
        assert [batch for step in resumed.steps for batch in step.batches] == later
        assert len({batch.own for batch in later}) == 4
        assert all(batch.own != batch.tokens for batch in later)

    def test_a_batch_of_its_own_that_comes_again_is_trained_on_again(
        self, folder: Path, saving: Watched
    ) -> None:
        early = watched(folder, **SAVING, resume=1, of=30)
        again = [batch for step in early.steps for batch in step.batches]
        assert again == [batch for step in saving.steps[1:] for batch in step.batches]

    def test_generators(self, saving: Watched, resumed: Watched, folder: Path) -> None:
        assert all({*step.generators} == {"python", "numpy", "torch"} for step in saving.steps)
        assert all(not step.generators for step in watched(folder).steps)
        assert len({step.generators["torch"] for step in saving.steps}) == 1  # none draws

    def test_what_a_user_finds_in_it(self, folder: Path, saving: Watched) -> None:
        text = (folder / "30" / LOADED).read_text()
        loaded = json.loads(text)["loaded"]
        assert loaded["missing"] == ["head.weight"]
        assert loaded["stored"] == ["embed.weight", "module.head.weight"]
        (embed,) = (p.saved for p in saving.parameters if p.name == "embed.weight")
        assert embed is not None
        assert loaded["parameters"]["embed.weight"]["bits"] == embed.bits
