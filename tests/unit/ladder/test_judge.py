"""The whole ladder: what each real bug is blamed on, and what can never pass."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    IGNORED,
    Arrays,
    CountsFirst,
    CountsRight,
    Trainer,
    comparison,
    in_turns,
    tolerance,
    total_norm,
    with_loss,
    with_manifest,
    with_observed,
    with_parameter,
    with_step,
    with_window,
    without,
)
from compiled_samples import sample_module, sample_step
from golden import Worded
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.compiler.predicted import Parts, Predicted
from harness.ladder.float64 import who_deviates
from harness.ladder.judge import judge
from harness.ladder.ladder import LADDER, names
from harness.ladder.noise_floor import checked
from harness.ladder.result import Result, RungResult
from harness.ladder.rungs.loss_curve import worst_loss_distance
from harness.ladder.verdict import PairVerdict
from harness.record import termination
from harness.record.evidence import Fingerprint, Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID
INCONCLUSIVE, NOT_EXERCISED = Result.INCONCLUSIVE, Result.NOT_EXERCISED

A = Trainer().record()
B = Trainer(label="b", groups=2, sums=-1).record()
SAME_BITS = Trainer(label="b").record()
"""As A, so that no sentence depends on how a machine rounds."""
"""Two trainers that round otherwise and cut their optimizer groups otherwise, and are at parity."""


@pytest.fixture(scope="module")
def noise_floor() -> tuple[Record, Record]:
    return A, Trainer(ulp=True).record()


def blamed(verdict: PairVerdict) -> str | None:
    return None if verdict.headline_rung is None else verdict.headline_rung.rung


# --- bugs that trainers really had -------------------------------------------------------------


class MeanOfMeans(Trainer):
    """transformers up to 4.45.2: each micro-batch is divided by its own labels, then by their
    number."""

    def divisor(self, batches: list[tuple[Any, Any]], index: int) -> float:
        return float((batches[index][1][:, 1:] != IGNORED).sum() * len(batches))


class Undivided(Trainer):
    """transformers 4.46.0 to 4.47.1: the backward pass is not divided by the micro-batches."""

    def backward(self, gradients: Arrays) -> Arrays:
        return {name: g * self.accumulation for name, g in gradients.items()}


class NextRate(Trainer):
    """A learning rate that is one step early."""

    def rate(self, step: int) -> float:
        return super().rate(step + 1)


class OtherOrder(Trainer):
    """accelerate before 1.6.0: the sampler has another seed."""

    def batch(self, micro_step: int) -> Any:
        return super().batch((micro_step * 3) % 8)


class Untied(Trainer):
    """The loss is the same, but a share of the embedding's gradient is lost."""

    def backward(self, gradients: Arrays) -> Arrays:
        embed = gradients["model.embed_tokens.weight"]
        return gradients | {"model.embed_tokens.weight": embed * np.float32(0.9)}


class ShardsNorm(Trainer):
    """accelerate before 0.34: clips by the norm of the local shard."""

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        assert self.max_norm is not None
        norm = total_norm({n: g[: len(g) // 4] for n, g in gradients.items()})
        scale = np.float32(min(1.0, self.max_norm / (norm + 1e-6)))
        return {n: g * scale for n, g in gradients.items()}, norm, self.max_norm


class NeverClips(Trainer):
    """torchprime before June 2025."""

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        return gradients, None, None


class NormOfParameters(Trainer):
    """Logs the norm of the parameters in place of that of the gradients."""

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        return super().clipped(gradients)[0], total_norm(self.initial()), self.max_norm


class CounterAhead(Trainer):
    """Megatron-LM#5974: Adam's step counter is advanced before training."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        state["step"] = max(1, state["step"])
        return super().updated(weight, gradient, state, rate)


class TwoSteps(Trainer):
    """transformers#6488: two optimizer steps for each batch."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        once = super().updated(weight, gradient, state, rate)
        return super().updated(once, gradient, state, rate)


class LateFault(Trainer):
    """All is well in the first steps; then gradients lose a part."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        share = np.float32(0.5 if state["step"] >= 4 and weight.ndim == 1 else 1.0)
        return super().updated(weight, gradient * share, state, rate)


class Recompiles(Trainer):
    def compilations(self, window: int) -> int:
        return super().compilations(window) + (window == 3)


BUGS: list[tuple[type[Trainer], dict[str, Any], str]] = [
    (OtherOrder, {}, "data"),
    (Trainer, {"seed": 1}, "data"),
    (MeanOfMeans, {"accumulation": 2}, "forward"),
    (Undivided, {"accumulation": 2}, "backward"),
    (Untied, {}, "backward"),
    (ShardsNorm, {}, "clip"),
    (NeverClips, {}, "clip"),
    (NormOfParameters, {}, "clip"),
    (Trainer, {"weight_decay": 0.1}, "optimizer"),
    (Trainer, {"betas": (0.9, 0.95)}, "optimizer"),
    (Trainer, {"eps": 1e-6}, "optimizer"),
    (CounterAhead, {}, "optimizer"),
    (TwoSteps, {}, "optimizer"),
    (NextRate, {}, "schedule"),
    (Trainer, {"learning_rate": 1.01e-2}, "schedule"),
    (Trainer, {"warmup": 0}, "schedule"),
    (LateFault, {}, "loss_curve"),
    (Recompiles, {}, "graph"),
]


class TestRealBugs:
    @pytest.mark.parametrize(
        ("trainer", "arguments", "rung"), BUGS, ids=lambda v: getattr(v, "__name__", str(v))
    )
    def test_each_is_blamed_on_its_rung(
        self, trainer: type[Trainer], arguments: dict[str, Any], rung: str
    ) -> None:
        same = {k: v for k, v in arguments.items() if k == "accumulation"}
        a, b = Trainer(**same).record(), trainer(label="b", **arguments).record()
        for pair in ((a, b), (b, a)):
            verdict = judge(comparison(*pair))
            assert verdict.result is FAIL
            assert blamed(verdict) == rung
            # What follows from it below is not said to be wrong, too.
            own = {rung, "init"} if "seed" in arguments else {rung}  # it draws weights, too
            assert {r.rung for r in verdict.rungs if r.result is FAIL} == own

    @pytest.mark.parametrize("norm", [math.nan, math.inf])
    def test_gradients_that_are_not_finite_are_not_blamed_on_clipping(self, norm: float) -> None:
        """They follow from a loss that is not; each scale is a share of nothing."""
        b = with_step(with_loss(B, 0, math.nan), 0, gradient_norm=norm)
        for index, parameter in enumerate(b.parameters):
            assert parameter.gradient is not None
            gradient = dataclasses.replace(parameter.gradient, norm=norm)
            b = with_parameter(b, index, gradient=gradient, clipped_norm=norm)
        for pair in ((A, b), (b, A)):
            verdict = judge(comparison(*pair))
            assert [r.rung for r in verdict.rungs if r.result is FAIL] == ["forward"]
            assert verdict.rung("clip").result is INVALID

    def test_a_wrong_scale_below_a_wrong_gradient_is_still_seen(self) -> None:
        class Both(ShardsNorm):
            def backward(self, gradients: Arrays) -> Arrays:
                return {name: g * np.float32(2.0) for name, g in gradients.items()}

        verdict = judge(comparison(A, Both(label="b").record()))
        assert blamed(verdict) == "backward"
        assert verdict.rung("clip").result is FAIL

    def test_the_first_label(self, worded: Worded) -> None:
        a, b = CountsFirst().record(), CountsRight(label="b").record()
        verdict = judge(comparison(a, b))
        assert blamed(verdict) == "forward"
        worded(verdict.rung("forward"))

    def test_a_loop_that_returns_after_the_first_batch(self, worded: Worded) -> None:
        b = Trainer(label="b", steps=1, requested=8).record()
        for pair in ((A, b), (b, A)):
            verdict = judge(comparison(*pair))
            assert verdict.result is FAIL
            assert blamed(verdict) == "data"
            worded(verdict.rung("data"))

    def test_a_slower_kernel(self) -> None:
        limits = tolerance(step_time=0.05)
        a = Trainer(steps=60, window=1).record()
        b = Trainer(label="b", steps=60, window=1, seconds=0.1166).record()
        for pair in (in_turns(a, b), in_turns(b, a)):
            verdict = judge(comparison(*pair, tolerance=limits, timing=(pair,) * 3))
            assert blamed(verdict) == "step_time"
            assert verdict.result is FAIL

    def test_weights_that_start_otherwise(self, worded: Worded) -> None:
        b = Trainer(label="b", ulp=True).record()
        verdict = judge(comparison(A, b))
        assert blamed(verdict) == "init"
        for name in ("forward", "backward", "loss_curve", "grad_norm_curve"):
            assert verdict.rung(name).result is INVALID
        worded(verdict.rung("optimizer"))

    def test_a_wrong_rate_is_not_blamed_on_the_updates_that_it_makes(self, worded: Worded) -> None:
        b = Trainer(label="b", learning_rate=2e-2).record()
        verdict = judge(comparison(A, b))
        assert verdict.rung("optimizer").result is PASS
        worded(verdict.rung("optimizer"))


# --- what passes -------------------------------------------------------------------------------

TRAINERS = st.builds(
    Trainer,
    steps=st.integers(3, 9),
    accumulation=st.integers(1, 2),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    learning_rate=st.sampled_from([1e-3, 1e-2]),
    warmup=st.integers(0, 3),
    max_norm=st.sampled_from([None, 0.2, 1.0]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    window=st.integers(1, 3),
    seed=st.integers(0, 99),
)


class TestParity:
    def test_two_trainers_that_only_round_otherwise(
        self, noise_floor: tuple[Record, Record]
    ) -> None:
        for given_ in ({}, {"noise_floor": noise_floor}):
            verdict = judge(comparison(A, B, **given_))
            assert verdict.result is PASS
            assert verdict.notes == ()
            assert [r.rung for r in verdict.rungs] == list(names())
            assert (verdict.a, verdict.b) == ("hf", "b")
            assert verdict.a_record == str(A.directory)
            assert verdict.b_record == str(B.directory)

    def test_every_pass_says_what_it_would_have_caught(self) -> None:
        for rung in judge(comparison(A, B)).rungs:
            assert (rung.result is PASS) == bool(rung.detects)

    @settings(max_examples=40, deadline=None)
    @given(TRAINERS)
    def test_an_equal_pair_always_passes(self, trainer: Trainer) -> None:
        a = trainer.record()
        b = dataclasses.replace(trainer, label="b", groups=2).record()
        verdict = judge(comparison(a, b))
        assert verdict.result is PASS
        assert {r.result for r in verdict.rungs} <= {PASS, NOT_EXERCISED}

    @settings(max_examples=40, deadline=None)
    @given(TRAINERS, TRAINERS)
    def test_swapping_the_runs_changes_no_result(self, one: Trainer, other: Trainer) -> None:
        a, b = one.record(), dataclasses.replace(other, label="b").record()
        forth, back = judge(comparison(a, b)), judge(comparison(b, a))
        assert [r.result for r in forth.rungs] == [r.result for r in back.rungs]
        assert forth.result is back.result


class TestTheNoiseFloor:
    """Its noise loosens every limit: an engine that does not train alike twice is no floor."""

    class Drawing(Trainer):
        """Draws something anew at each launch: gradients and losses of step 0 scatter."""

        def gradients(self, *given: Any) -> Any:
            loss, gradients = super().gradients(*given)
            return loss * 1.01, {name: g * 1.5 for name, g in gradients.items()}

    def test_a_floor_that_is_no_rounding_is_not_taken(self) -> None:
        a, b = Trainer().record(), Trainer(label="b", noise=0.1).record()
        drawn = self.Drawing(ulp=True).record()
        verdict = judge(comparison(a, b, noise_floor=(a, drawn)))
        assert verdict.result is FAIL
        assert any(
            note.startswith("loss: the perturbed run is 0.0099 away") for note in verdict.notes
        )

    def test_rounding_is(self) -> None:
        a, b = Trainer().record(), Trainer(label="b", groups=2, sums=-1).record()
        noise_floor = a, Trainer(ulp=True).record()
        verdict = judge(comparison(a, b, noise_floor=noise_floor))
        assert verdict.notes == ()


def test_equal_runs_as_shipped_are_compared_with_each_other(tmp_path: Path) -> None:
    """Equal weights and batches: what both count otherwise than float64 is no difference."""
    shipped = [
        dataclasses.replace(
            with_manifest(CountsFirst(label=name).record(), lambda m: m["case"].update(
                kind="as_shipped")),
            directory=tmp_path / name,
        )
        for name in "ab"
    ]  # fmt: skip
    exact = CountsRight().record()
    own = {str(run.directory): exact for run in shipped}
    verdict = judge(comparison(*shipped, float64_per_run=own))
    assert verdict.rung("forward").result is PASS
    assert verdict.rung("loss_curve").result is PASS
    other = Trainer(label="b", seed=1).record()
    other = dataclasses.replace(other, directory=shipped[1].directory)
    verdict = judge(comparison(shipped[0], other, float64_per_run=own))
    assert verdict.rung("forward").result is FAIL


# --- what never passes -------------------------------------------------------------------------

LIMITS = tolerance(step_time=0.5)
LONG, OTHER = in_turns(
    Trainer(steps=14, window=1, groups=2).record(),
    Trainer(label="b", steps=14, window=1, groups=2, sums=-1).record(),
)

Change = Callable[[Record], Record]
Move = Callable[[Record, float], Record]


def nested(*path: str) -> Change:
    """Removes something deep in the manifest."""

    def apply(run: Record) -> Record:
        def change(manifest: dict[str, Any]) -> None:
            holder: Any = manifest
            for key in path[:-1]:
                holder = holder[key]
            # What is an object or a list may be empty, and is damaged where it is not there.
            empty: dict[str, Any] = {"observed": {}, "axes": {}, "device_order": []}
            if path[-1] in empty:
                holder[path[-1]] = empty[path[-1]]
            else:
                del holder[path[-1]]

        return with_manifest(run, change)

    return apply


def of_parameter(index: int, **fields: Any) -> Change:
    return lambda run: with_parameter(run, index, **fields)


def of_step(index: int, **fields: Any) -> Change:
    return lambda run: with_step(run, index, **fields)


def of_batch(step: int, **fields: Any) -> Change:
    def apply(run: Record) -> Record:
        batch = dataclasses.replace(run.steps[step].batches[0], **fields)
        return with_step(run, step, batches=(batch,))

    return apply


def cut(what: str, index: int) -> Change:
    return lambda run: without(run, what, index)


def without_after(index: int, step: int) -> Change:
    def apply(run: Record) -> Record:
        after = list(run.parameters[index].after)
        del after[step]
        return with_parameter(run, index, after=tuple(after))

    return apply


def without_hyper(key: str) -> Change:
    def apply(run: Record) -> Record:
        step, kind, groups = run.groups[0]
        less = tuple(
            dataclasses.replace(g, hyper={k: v for k, v in g.hyper.items() if key not in ("*", k)})
            for g in groups
        )
        return dataclasses.replace(run, groups=((step, kind, less),))

    return apply


def removals() -> Iterator[tuple[str, str, Change]]:
    """Every piece of evidence that can be missing: its name, the rung that rests on it, and how."""
    for key in ("device", "device_kind", "devices", "processes", "versions", "flags"):
        yield f"observed {key}", "environment", nested("observed", key)
    for key in ("torch", "torch_xla"):
        yield f"version of {key}", "environment", nested("observed", "versions", key)
    yield "mesh", "sharding", nested("observed", "mesh")
    yield "mesh axes", "sharding", nested("observed", "mesh", "axes")
    yield "device order", "sharding", nested("observed", "mesh", "device_order")
    yield "input sharding", "sharding", nested("observed", "input_sharding")
    yield "everything observed", "environment", nested("observed")
    for step in (0, 1, 6, 13):
        for rung in ("data", "schedule", "loss_curve", "grad_norm_curve"):
            yield f"step {step}", rung, cut("steps", step)
        yield f"finish of step {step}", "loss_curve", of_step(step, finished=False)
        yield f"batches of step {step}", "data", of_step(step, batches=())
        yield f"tokens of step {step}", "data", of_batch(step, tokens="")
        yield f"labels of step {step}", "data", of_batch(step, labels="")
        yield f"loss of step {step}", "loss_curve", of_step(step, loss=None)
        yield f"rate of step {step}", "schedule", of_step(step, learning_rates=())
        yield f"norm of step {step}", "grad_norm_curve", of_step(step, gradient_norm=None)
        yield f"threshold of step {step}", "clip", of_step(step, max_norm=None)
    yield "first loss", "forward", lambda run: with_loss(run, 0, None)
    yield "first step", "clip", cut("steps", 0)
    for index in range(3):
        for rung in ("sharding", "init", "backward", "optimizer"):
            yield f"parameter {index}", rung, cut("parameters", index)
        yield f"initial {index}", "init", of_parameter(index, initial=None)
        yield f"initial {index}", "optimizer", of_parameter(index, initial=None)
        yield f"gradient {index}", "backward", of_parameter(index, gradient=None)
        yield f"clipped norm {index}", "clip", of_parameter(index, clipped_norm=None)
        yield f"first update {index}", "optimizer", without_after(index, 0)
        yield f"second update {index}", "optimizer", without_after(index, 1)
    yield "parameters", "sharding", lambda run: dataclasses.replace(run, parameters=())
    yield "hyper-parameters", "optimizer", without_hyper("*")
    yield "optimizer", "optimizer", cut("groups", 0)
    for window in range(14):
        for rung in ("graph", "step_time"):
            yield f"window {window}", rung, cut("windows", window)
    yield "windows", "graph", lambda run: dataclasses.replace(run, windows=())
    yield "seconds", "step_time", lambda run: with_window(run, 5, seconds=math.nan)


REMOVALS = list(removals())


class TestMissing:
    """Whatever is missing, the rung that rests on it does not pass, even where both lack it."""

    def judged(self, a: Record, b: Record) -> PairVerdict:
        return judge(comparison(a, b, tolerance=LIMITS, timing=((a, b),) * 3))

    def test_with_all_of_it_every_rung_passes(self) -> None:
        verdict = self.judged(LONG, OTHER)
        traced = [rung.name for rung in LADDER if rung.traced]
        judged = [r for r in verdict.rungs if r.rung not in (*traced, "checkpoint", "routing")]
        assert {r.result for r in judged} == {PASS}
        # No target was named, and the model has no router.
        rest = (*traced, "routing")
        assert {verdict.rung(name).result for name in rest} == {Result.NOT_EXERCISED}

    @pytest.mark.parametrize("which", ["a", "b", "both"])
    @pytest.mark.parametrize(
        ("rung", "remove"), [r[1:] for r in REMOVALS], ids=[f"{r[0]}-{r[1]}" for r in REMOVALS]
    )
    def test_never_passes(self, worded: Worded, rung: str, remove: Change, which: str) -> None:
        a = LONG if which == "b" else remove(LONG)
        b = OTHER if which == "a" else remove(OTHER)
        verdict = self.judged(a, b)
        found = verdict.rung(rung)
        if which == "both" and 0 < len(a.parameters) < 3:
            # Two models that both lack a parameter are equal: nothing says that there was one.
            return
        assert verdict.result is not PASS
        if found.result is PASS:
            assert rung == "optimizer"  # its settings are judged by themselves, and then it says so
            worded(found)

    def test_all_gradients(self) -> None:
        def strip(run: Record) -> Record:
            for index in range(3):
                run = with_parameter(run, index, gradient=None)
            return run

        for pair in ((strip(LONG), OTHER), (LONG, strip(OTHER)), (strip(LONG), strip(OTHER))):
            assert self.judged(*pair).rung("backward").result is INVALID

    @pytest.mark.parametrize("length", range(14))
    @pytest.mark.parametrize("which", ["a", "b", "both"])
    def test_truncated_anywhere(self, length: int, which: str) -> None:
        def short(run: Record) -> Record:
            return dataclasses.replace(run, steps=run.steps[:length])

        a = LONG if which == "b" else short(LONG)
        b = OTHER if which == "a" else short(OTHER)
        verdict = self.judged(a, b)
        assert verdict.result is not PASS
        for rung in ("data", "schedule", "loss_curve", "grad_norm_curve"):
            assert verdict.rung(rung).result is not PASS


def leaves() -> Iterator[tuple[str, Move]]:
    """Every number of the evidence that has a limit: its name, and how to move it by a share."""
    for step in range(14):
        for what in ("loss", "gradient_norm", "max_norm"):
            yield f"{what} of step {step}", _of_step(step, what)
        for group in (0, 1):
            if step:  # the first rate is zero
                yield f"rate {group} of step {step}", _rate(step, group)
    for index in range(3):
        for what in ("initial", "gradient"):
            yield f"{what} {index}", _print(index, what)
            yield f"norm of {what} {index}", _norm(index, what)
        yield f"clipped norm {index}", _clipped(index)
        yield f"second update {index}", _update(index)


def _of_step(step: int, what: str) -> Move:
    def move(run: Record, share: float) -> Record:
        return with_step(run, step, **{what: getattr(run.steps[step], what) * (1 + share)})

    return move


def _clipped(index: int) -> Move:
    def move(run: Record, share: float) -> Record:
        norm = run.parameters[index].clipped_norm
        assert norm is not None
        return with_parameter(run, index, clipped_norm=norm * (1 + share))

    return move


def _rate(step: int, group: int) -> Move:
    def move(run: Record, share: float) -> Record:
        rates = list(run.steps[step].learning_rates)
        rates[group] *= 1 + share
        return with_step(run, step, learning_rates=tuple(rates))

    return move


def _print(index: int, what: str) -> Move:
    def move(run: Record, share: float) -> Record:
        exact: Fingerprint = getattr(run.parameters[index], what)
        sketch = tuple(s + share * exact.norm for s in exact.sketch)
        return with_parameter(run, index, **{what: dataclasses.replace(exact, sketch=sketch)})

    return move


def _norm(index: int, what: str) -> Move:
    def move(run: Record, share: float) -> Record:
        exact: Fingerprint = getattr(run.parameters[index], what)
        changed = dataclasses.replace(exact, norm=exact.norm * (1 + share))
        return with_parameter(run, index, **{what: changed})

    return move


def _update(index: int) -> Move:
    def move(run: Record, share: float) -> Record:
        first, second = run.parameters[index].after
        initial = run.parameters[index].initial
        assert initial is not None
        sketch = tuple(
            i + (s - i) * (1 + share) for s, i in zip(second.sketch, initial.sketch, strict=True)
        )
        changed = dataclasses.replace(second, sketch=sketch)
        return with_parameter(run, index, after=(first, changed))

    return move


LEAVES = dict(leaves())


class TestPerturbed:
    """No single number can be beyond its limit and all be well."""

    @settings(max_examples=300, deadline=None)
    @given(
        st.sampled_from(sorted(LEAVES)),
        st.one_of(
            st.floats(0.004, 1e6),
            st.floats(-0.999, -0.004),
            st.sampled_from([math.nan, math.inf, -math.inf]),
        ),
        st.booleans(),
    )
    def test_beyond_its_limit(self, name: str, share: float, first: bool) -> None:
        move = LEAVES[name]
        pair = (move(LONG, share), OTHER) if first else (LONG, move(OTHER, share))
        assert judge(comparison(*pair, tolerance=LIMITS)).result is FAIL

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(sorted(LEAVES)), st.sampled_from([math.nan, math.inf]))
    def test_what_is_not_finite_in_both(self, name: str, share: float) -> None:
        move = LEAVES[name]
        pair = move(LONG, share), move(OTHER, share)
        assert judge(comparison(*pair, tolerance=LIMITS)).result is FAIL

    @pytest.mark.parametrize("bit", range(32))
    def test_any_bit_of_a_weight(self, bit: int) -> None:
        class Flipped(Trainer):
            def initial(self) -> Arrays:
                weights = super().initial()
                flipped = weights["model.norm.weight"].copy()
                flipped.view(np.uint32)[3] ^= np.uint32(1 << bit)
                return weights | {"model.norm.weight": flipped}

        verdict = judge(comparison(A, Flipped(label="b").record()))
        assert blamed(verdict) == "init"


# --- runs that did not end well ------------------------------------------------------------------


def _ended(ended: dict[str, Any], manifest: dict[str, Any]) -> None:
    manifest["ended"] = ended


class TestTerminations:
    @pytest.mark.parametrize(
        "status",
        [
            termination.FAILED,
            termination.KILLED,
            termination.TIMED_OUT,
            termination.OUT_OF_MEMORY,
            termination.STARVED,
            "?",
        ],
    )
    def test_a_run_that_broke_makes_every_rung_invalid(self, status: str) -> None:
        def broke(manifest: dict[str, Any]) -> None:
            manifest["ended"] = {"status": status, "reason": "so it was", "log": ["one", "two"]}

        broken = with_manifest(B, broke)
        for pair in ((A, broken), (broken, A), (broken, broken)):
            verdict = judge(comparison(*pair))
            assert {r.result for r in verdict.rungs} == {INVALID}
            assert verdict.result is INVALID
            assert blamed(verdict) == "environment"
            assert f"{status}: so it was" in verdict.headline
            assert verdict.notes[0] == "last lines of b's log:\none\ntwo"
            assert (verdict.a, verdict.b) == tuple(run.label for run in pair)
            assert [verdict.a_record, verdict.b_record] == [str(run.directory) for run in pair]

    def test_without_a_log(self) -> None:
        broken = with_manifest(B, lambda m: m.update(ended={"status": "killed"}))
        verdict = judge(comparison(A, broken))
        assert verdict.result is INVALID
        assert verdict.notes == ()

    def test_no_step_was_trained(self) -> None:
        """The trainer may well have exited with 0."""
        for status in (termination.OK, termination.STOPPED_EARLY):
            none = with_manifest(
                dataclasses.replace(B, steps=()),
                functools.partial(_ended, {"status": status, "reason": "so it was"}),
            )
            for pair in ((A, none), (none, A), (none, none)):
                verdict = judge(comparison(*pair))
                assert {r.result for r in verdict.rungs} == {INVALID}
        unfinished = dataclasses.replace(
            B, steps=tuple(dataclasses.replace(s, finished=False) for s in B.steps)
        )
        assert judge(comparison(A, unfinished)).result is INVALID

    def test_a_run_that_stopped_early_is_judged_and_never_passes(self) -> None:
        short = [Trainer(label=label, steps=5, requested=8).record() for label in "ab"]
        for pair in ((A, short[1]), (short[0], B), short):
            verdict = judge(comparison(*pair))
            assert verdict.result is FAIL
            assert blamed(verdict) == "data"
            assert verdict.rung("init").result is PASS
            assert verdict.rung("forward").result is INVALID

    def test_a_run_that_trained_on(self) -> None:
        long = [Trainer(label=label, steps=9, requested=8).record() for label in "ab"]
        assert judge(comparison(*long)).result is not PASS


class TestNeeds:
    """A rung says nothing while one above it does not hold."""

    def test_a_pass_below_a_failure_is_none(self, worded: Worded) -> None:
        b = with_step(SAME_BITS, 3, batches=SAME_BITS.steps[4].batches)
        verdict = judge(comparison(A, b))
        assert blamed(verdict) == "data"
        for name in ("forward", "backward", "loss_curve", "grad_norm_curve"):
            rung = verdict.rung(name)
            assert rung.result is INVALID
            worded(rung)
            assert rung.detects == ""

    def test_a_failure_below_a_failure_is_none(self, worded: Worded) -> None:
        verdict = judge(comparison(A, NeverClips(label="b").record()))
        assert verdict.rung("clip").result is FAIL
        assert verdict.rung("loss_curve").result is INVALID
        worded(verdict.rung("loss_curve"))

    def test_every_need_is_above(self) -> None:
        for rung in LADDER:
            assert all(names().index(need) < names().index(rung.name) for need in rung.needs)

    def test_what_was_not_exercised_holds(self) -> None:
        pair = [Trainer(label=label, max_norm=None).record() for label in "ab"]
        verdict = judge(comparison(*pair))
        assert verdict.rung("clip").result is NOT_EXERCISED
        assert verdict.rung("loss_curve").result is PASS
        assert verdict.result is PASS

    def test_an_unobserved_schedule_leaves_updates_unjudged(self, worded: Worded) -> None:
        b = with_step(CounterAhead(label="b").record(), 5, learning_rates=())
        verdict = judge(comparison(A, b))
        worded(verdict.rung("optimizer"))
        assert verdict.result is INVALID

    @pytest.mark.parametrize("rung", ["data", "init", "backward", "clip"])
    def test_updates_are_judged_only_where_what_they_are_made_of_is_equal(
        self, worded: Worded, rung: str
    ) -> None:
        b = CounterAhead(label="b").record()
        broken = {
            "data": lambda: with_step(b, 6, batches=b.steps[4].batches),
            "init": lambda: with_parameter(b, 0, initial=dataclasses.replace(
                b.parameters[0].initial, bits=1)),  # type: ignore[type-var]
            "backward": lambda: LEAVES["gradient 2"](b, 0.1),
            "clip": lambda: with_step(b, 6, max_norm=1.0),
        }[rung]()  # fmt: skip
        verdict = judge(comparison(A, broken))
        assert verdict.rung(rung).result is FAIL
        worded(verdict.rung("optimizer"))
        assert judge(comparison(A, b)).rung("optimizer").result is FAIL

    def test_runs_from_weights_of_their_own(self) -> None:
        a = dataclasses.replace(A, directory=Path("/a"))
        b = dataclasses.replace(Trainer(label="b", seed=1).record(), directory=Path("/b"))
        exact = {"/a": Trainer(sums=-1).record(), "/b": Trainer(seed=1, sums=-1).record()}
        verdict = judge(comparison(a, b, float64_per_run=exact))
        assert verdict.rung("forward").result is PASS
        assert verdict.rung("backward").result is PASS
        assert verdict.rung("loss_curve").result is INVALID
        assert verdict.result is FAIL
        assert judge(comparison(a, b)).rung("forward").result is INVALID


class TestResolution:
    """A limit that nothing could exceed is none."""

    @pytest.mark.parametrize(
        ("rung", "metric", "unrelated"),
        [
            ("forward", "loss", 1.0),
            ("backward", "gradient", math.sqrt(2)),
            ("clip", "scale", 1.0),
            ("clip", "measured_norm", 1.0),
            ("clip", "parameter_scale", 1.0),
            ("optimizer", "update", math.sqrt(2)),
            ("loss_curve", "course", math.sqrt(2)),
        ],
    )
    def test_a_blind_rung_does_not_pass(
        self, worded: Worded, rung: str, metric: str, unrelated: float
    ) -> None:
        for share, expected in ((0.99, PASS), (1.0, INCONCLUSIVE)):
            floors = {"float32": {metric: share * unrelated / 2}}
            verdict = judge(comparison(A, SAME_BITS, tolerance=tolerance(floor=floors)))
            assert verdict.rung(rung).result is expected
            if expected is INCONCLUSIVE:
                assert verdict.result is INCONCLUSIVE
                assert blamed(verdict) == rung
                worded(verdict.rung(rung))
                assert verdict.rung(rung).detects == ""

    @pytest.mark.parametrize(("share", "expected"), [(0.49, PASS), (0.51, INCONCLUSIVE)])
    @pytest.mark.parametrize("rung", ["loss_curve", "grad_norm_curve"])
    def test_a_curve_that_is_blind_at_some_steps(
        self,
        worded: Worded,
        noise_floor: tuple[Record, Record],
        rung: str,
        share: float,
        expected: Result,
    ) -> None:
        first, second = noise_floor
        loss, norm = first.steps[6].loss, first.steps[6].gradient_norm
        assert loss is not None
        assert norm is not None
        if rung == "loss_curve":
            second = with_loss(second, 6, loss * (1 - share))
        else:
            second = with_step(second, 6, gradient_norm=norm * (1 - share))
        again = Trainer().record()  # of equal bits: it is one unit in the last place that did it
        c = comparison(A, SAME_BITS, noise_floor=(first, second), repeat=(first, again))
        found = judge(c).rung(rung)
        assert found.result is expected
        if expected is INCONCLUSIVE:
            worded(found)

    def test_a_failure_stays_one(self) -> None:
        floors = {"float32": {"loss": 0.5}}
        b = with_loss(B, 0, math.nan)
        verdict = judge(comparison(A, b, tolerance=tolerance(floor=floors)))
        assert verdict.rung("forward").result is FAIL


class TestAnUnsoundNoiseFloor:
    """A noise floor loosens every limit, and so it has to be what it is taken for."""

    def left_out(self, first: Record, second: Record) -> str:
        c = comparison(A, B, noise_floor=(first, second))
        changed, notes = checked(c)
        assert changed.noise_floor is None
        (note,) = notes
        assert judge(c).notes == notes
        assert note.startswith("the perturbed run says nothing of noise and was left out: ")
        return note

    def test_a_sound_one_is_kept(self, noise_floor: tuple[Record, Record]) -> None:
        c = comparison(A, B, noise_floor=noise_floor)
        assert checked(c) == (c, ())
        assert checked(comparison(A, B)) == (comparison(A, B), ())

    def test_of_bfloat16(self) -> None:
        a, b, perturbed = (
            Trainer(dtype="bfloat16", ulp=ulp).record() for ulp in (False, False, True)
        )
        again = Trainer(dtype="bfloat16").record()
        given = {"noise_floor": (a, perturbed), "repeat": (a, again)}
        assert checked(comparison(a, b, **given))[1] == ()

    @pytest.mark.parametrize("which", [0, 1])
    def test_one_that_is_not_complete(self, noise_floor: tuple[Record, Record], which: int) -> None:
        runs = list(noise_floor)
        runs[which] = with_manifest(runs[which], lambda m: m["ended"].update(status="killed"))
        assert "is not complete" in self.left_out(*runs)

    def test_one_with_other_batches(self) -> None:
        assert "data: " in self.left_out(A, OtherOrder(ulp=True).record())

    def test_one_from_other_weights(self) -> None:
        class Drawn(Trainer):
            def initial(self) -> Arrays:
                return {n: w * np.float32(1.01) for n, w in super().initial().items()}

        assert "which is more than one unit in the last place" in self.left_out(A, Drawn().record())

    @pytest.mark.parametrize(("places", "sound"), [(3.9, True), (4.1, False)])
    def test_how_far_it_may_start(
        self, noise_floor: tuple[Record, Record], places: float, sound: bool
    ) -> None:
        initial = A.parameters[0].initial
        assert initial is not None
        off = places * 2.0**-23 * initial.norm
        sketch = tuple(s + off for s in initial.sketch)
        moved = with_parameter(
            noise_floor[1], 0, initial=dataclasses.replace(initial, bits=1, sketch=sketch)
        )
        assert (checked(comparison(A, B, noise_floor=(A, moved)))[0].noise_floor is None) != sound

    def test_one_with_other_parameters(self, noise_floor: tuple[Record, Record]) -> None:
        less = without(noise_floor[1], "parameters", 0)
        assert "the same parameters" in self.left_out(noise_floor[0], less)
        neither = (dataclasses.replace(run, parameters=()) for run in noise_floor)
        assert "the same parameters" in self.left_out(*neither)

    @pytest.mark.parametrize("which", [0, 1])
    def test_one_whose_weights_were_not_observed(
        self, noise_floor: tuple[Record, Record], which: int
    ) -> None:
        runs = list(noise_floor)
        runs[which] = with_parameter(runs[which], 1, initial=None)
        assert "model.norm.weight was not observed" in self.left_out(*runs)

    def test_a_bad_noise_floor_lets_no_fault_pass(self) -> None:
        """Its other learning rate would hide one."""
        b = LateFault(label="b").record()
        sound = judge(comparison(A, b))
        wild = judge(comparison(A, b, noise_floor=(A, OtherOrder(ulp=True).record())))
        assert blamed(sound) == blamed(wild) == "loss_curve"


class TestArbitration:
    """Where two runs disagree, the one that is nearer to float64 is to be believed."""

    def noted(self, a: Record, b: Record, reference: Record | None) -> tuple[str, ...]:
        return judge(comparison(a, b, float64=reference)).notes

    @pytest.mark.parametrize("rung", ["forward", "loss_curve"])
    def test_who_deviates(self, rung: str) -> None:
        step = 0 if rung == "forward" else 6
        loss = A.steps[step].loss
        assert loss is not None
        off = with_loss(B, step, loss * 1.01)
        for pair in ((A, off), (off, A)):
            (note,) = self.noted(*pair, A)
            assert note.startswith(f"{rung}: from the float64 reference ")
            assert note.endswith("b is the one that deviates")

    def test_by_gradients(self) -> None:
        off = Untied(label="b").record()
        for pair in ((A, off), (off, A)):
            (note,) = self.noted(*pair, Trainer(sums=-1).record())
            assert note.startswith("backward: ")
            assert note.endswith("b is the one that deviates")

    @pytest.mark.parametrize(
        ("factor", "phrase"), [(2.9, "both are about as far"), (3.1, "hf is the")]
    )
    def test_how_much_nearer(self, factor: float, phrase: str) -> None:
        exact = with_loss(A, 0, 1.0)
        a, b = with_loss(A, 0, 1 - 0.01 * factor), with_loss(B, 0, 1 - 0.01)
        (note,) = self.noted(a, b, exact)
        assert phrase in note
        (note,) = self.noted(b, a, exact)
        assert phrase in note

    def test_only_the_first_failure_is_arbitrated(self) -> None:
        off = LEAVES["gradient 2"](with_loss(B, 6, 9.0), 0.5)
        (note,) = self.noted(A, off, A)
        assert note.startswith("backward: ")

    @pytest.mark.parametrize("loss", [math.nan, None])
    def test_it_cannot_tell_without_a_value(self, loss: float | None) -> None:
        off = with_loss(B, 0, 9.0)
        (note,) = self.noted(A, off, with_loss(A, 0, loss))
        assert "cannot tell" in note
        if loss is not None:
            (note,) = self.noted(A, with_loss(B, 0, loss), A)
            assert "cannot tell" in note
            (note,) = self.noted(with_loss(A, 0, loss), B, A)
            assert "cannot tell" in note

    def test_it_says_nothing_where_nothing_failed(self) -> None:
        assert self.noted(A, B, A) == ()
        assert self.noted(A, with_loss(B, 0, 9.0), None) == ()
        passed = [RungResult(name, PASS, "") for name in names()]
        assert who_deviates(comparison(A, B, float64=A), passed) == ()

    def test_the_worst_loss(self) -> None:
        exact = [step.loss or 0.0 for step in A.steps]
        far = with_loss(with_loss(A, 2, exact[2] * 0.5), 5, exact[5] * 0.9)
        assert worst_loss_distance(A, far) == pytest.approx(0.5)
        assert worst_loss_distance(A, A) == 0
        nan = worst_loss_distance(A, with_loss(far, 4, math.nan))
        assert nan is not None
        assert math.isnan(nan)
        assert worst_loss_distance(A, without(A, "steps", 7)) is None
        assert worst_loss_distance(A, with_step(without(A, "steps", 7), 6, index=7)) is None
        empty = dataclasses.replace(A, steps=())
        assert worst_loss_distance(empty, empty) is None


def test_an_observed_field_that_no_rung_knows_changes_nothing() -> None:
    assert judge(comparison(A, with_observed(B, model="another class"))).result is PASS


# --- what was traced and not executed ----------------------------------------------------------


def staged(run: Record) -> Record:
    """`run` as a trace: its device was asked for no known answer."""
    traced = with_manifest(run, lambda manifest: manifest.update(role="staged"))
    return with_observed(traced, known_answers=None)


def test_of_a_trace_only_what_needs_no_execution_is_judged() -> None:
    verdict = judge(comparison(staged(A), staged(B)))
    assert {rung.result for rung in verdict.rungs} == {NOT_EXERCISED}
    judged = [rung.name for rung in LADDER if rung.traced]
    assert judged == ["compiled", "predicted_time"]
    step = sample_step(modules=(sample_module(predicted=Predicted({"a": Parts(products=1.0)})),))
    found = judge(comparison(staged(A), staged(B), compiled=((step, step),)))
    assert {found.rung(name).result for name in judged} == {PASS}
    assert found.result is PASS


def test_a_trace_says_nothing_of_a_run() -> None:
    for pair in ((staged(A), B), (A, staged(B))):
        verdict = judge(comparison(*pair))
        assert {rung.result for rung in verdict.rungs} == {INVALID}
