"""What a run that measures noise may open, and what it may not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from builders import (
    Trainer,
    comparison,
    fingerprint,
    tolerance,
    with_loss,
    with_manifest,
    with_observed,
    with_parameter,
    with_step,
)

from harness.ladder.comparison import Comparison
from harness.ladder.judge import judge
from harness.ladder.ladder import metrics
from harness.ladder.noise_floor import checked, first_difference, needs_repeat, same_run
from harness.ladder.result import Limit, Result
from harness.ladder.rungs.clip import SCALE
from harness.ladder.rungs.forward import LOSS
from harness.ladder.rungs.optimizer import UPDATE
from harness.ladder.series import NEARBY
from harness.ladder.verdict import PairVerdict
from harness.record.evidence import Fingerprint, Record

PASS, FAIL, INCONCLUSIVE = Result.PASS, Result.FAIL, Result.INCONCLUSIVE

A = Trainer().record()
B = Trainer(label="b", groups=2, sums=-1).record()
ULP = Trainer(ulp=True).record()
AGAIN = Trainer().record()

EMULATED = "CPU, scatter-adds in random order"
"""A device kind of which nothing was measured, and that is not known to be deterministic."""


def on(kind: str, *runs: Record) -> tuple[Record, ...]:
    return tuple(with_observed(run, device_kind=kind) for run in runs)


def judged(a: Record, b: Record, **given: Any) -> PairVerdict:
    return judge(comparison(a, b, **given))


# --- forgeries --------------------------------------------------------------------------------


def longer(run: Record, share: float) -> Record:
    """Updates that are longer by a share, in every parameter, and losses that are higher."""

    def stretched(initial: Fingerprint, later: Fingerprint) -> Fingerprint:
        moved = zip(initial.sketch, later.sketch, strict=True)
        sketch = tuple(p + (1 + share) * (q - p) for p, q in moved)
        return Fingerprint(later.bits ^ 1, sketch, later.norm)

    parameters = []
    for p in run.parameters:
        assert p.initial is not None
        assert p.final is not None
        first = p.initial
        after = tuple(stretched(first, value) for value in p.after)
        parameters.append(dataclasses.replace(p, after=after, final=stretched(first, p.final)))
    return dataclasses.replace(run, parameters=tuple(parameters))


def higher(run: Record, share: float, since: int = 1) -> Record:
    """Losses that are higher by a share, from a step on."""
    for step in run.steps[since:]:
        assert step.loss is not None
        run = with_loss(run, step.index, step.loss * (1 + share))
    return run


def noisier(run: Record, share: float, since: int = 1) -> Record:
    """Gradient norms that are larger by a share, from a step on."""
    for step in run.steps[since:]:
        assert step.gradient_norm is not None
        run = with_step(run, step.index, gradient_norm=step.gradient_norm * (1 + share))
    return run


FORGED: list[tuple[str, Callable[[Record], Record], Callable[[Record], Record], str]] = [
    ("updates", lambda r: longer(r, 0.3), lambda r: longer(r, 0.3), "optimizer"),
    ("losses", lambda r: higher(r, 0.04), lambda r: higher(r, 0.04), "loss_curve"),
    ("late losses", lambda r: higher(r, 0.04, 7), lambda r: higher(r, 0.04, 7), "loss_curve"),
    ("norms", lambda r: noisier(r, 0.04), lambda r: noisier(r, 0.04), "grad_norm_curve"),
    ("late norms", lambda r: noisier(r, 0.1, 6), lambda r: noisier(r, 0.1, 6), "grad_norm_curve"),
    (
        "one parameter's updates",
        lambda r: with_parameter(r, 1, after=longer(r, 0.3).parameters[1].after),
        lambda r: with_parameter(r, 2, after=longer(r, 0.3).parameters[2].after),
        "optimizer",
    ),
    (
        "courses",
        lambda r: with_parameter(r, 0, final=longer(r, 0.3).parameters[0].final),
        lambda r: with_parameter(r, 0, final=longer(r, 0.3).parameters[0].final),
        "loss_curve",
    ),
]  # fmt: skip


class TestForgedNoise:
    """A perturbed run that is noisier than rounding opens no limit."""

    @pytest.mark.parametrize(
        ("forge", "fault", "rung"), [f[1:] for f in FORGED], ids=[f[0] for f in FORGED]
    )
    def test_it_lets_nothing_pass(
        self, forge: Callable[[Record], Record], fault: Callable[[Record], Record], rung: str
    ) -> None:
        verdict = judged(A, fault(B), noise_floor=(A, forge(ULP)))
        assert verdict.rung(rung).result is FAIL
        assert verdict.headline_rung is not None
        assert verdict.headline_rung.rung == rung
        assert any("not believed" in note for note in verdict.notes)

    @pytest.mark.parametrize(
        ("forge", "fault", "rung"), [f[1:] for f in FORGED], ids=[f[0] for f in FORGED]
    )
    def test_nor_on_a_device_of_which_nothing_is_known(
        self, forge: Callable[[Record], Record], fault: Callable[[Record], Record], rung: str
    ) -> None:
        a, b, ulp, again = on(EMULATED, A, B, ULP, with_loss(AGAIN, 5, 2.7))
        alone = judged(a, fault(b), noise_floor=(a, forge(ulp)))
        assert alone.result is INCONCLUSIVE
        assert alone.rung(rung).result is INCONCLUSIVE
        # A repeat of almost equal bits tells of no such noise.
        if rung != "loss_curve":
            beside = judged(a, fault(b), noise_floor=(a, forge(ulp)), repeat=(a, again))
            assert beside.rung(rung).result is not PASS

    def test_a_fault_within_the_noise_that_was_forged_and_an_equal_pair(self) -> None:
        """The documented floors still let equal runs pass."""
        forged = higher(longer(ULP, 0.3), 0.04)
        assert judged(A, B, noise_floor=(A, forged)).result is PASS
        both = higher(longer(B, 0.3), 0.04)
        assert judged(A, both, noise_floor=(A, forged)).result is FAIL

    def test_with_a_repeat_of_equal_bits_it_is_what_one_unit_does(self) -> None:
        wild = higher(longer(ULP, 0.3), 0.04)
        verdict = judged(A, B, noise_floor=(A, wild), repeat=(A, AGAIN))
        assert verdict.result is PASS
        assert verdict.notes == ()
        limit = verdict.rung("optimizer").limit
        assert limit is not None
        assert limit > 0.4

    def test_updates_follow_from_gradients(self) -> None:
        """Without a table: gradients that are 1e-6 away do not bring about updates 0.3 away."""
        a, b, ulp, again = on(EMULATED, A, B, longer(ULP, 0.3), with_loss(AGAIN, 5, 2.7))
        c = comparison(a, b, noise_floor=(a, ulp), repeat=(a, again))
        limit = checked(c)[0].limit(UPDATE)
        assert limit.useless or limit.value < 0.1


class TestNoNoiseAtAll:
    """What is not the run that it is taken for measures nothing."""

    def left_out(self, second: Record, first: Record = A, a: Record = A, b: Record = B) -> str:
        changed, notes = checked(comparison(a, b, noise_floor=(first, second)))
        assert changed.noise_floor is None
        (note,) = notes
        return note

    def test_one_that_was_not_perturbed(self) -> None:
        assert "was not perturbed" in self.left_out(AGAIN)
        partly = with_parameter(ULP, 1, initial=A.parameters[1].initial)
        assert "model.norm.weight was not perturbed" in self.left_out(partly)
        a, b, again = on(EMULATED, A, B, AGAIN)
        for repeat in (None, (a, on(EMULATED, Trainer().record())[0])):
            verdict = judged(a, b, noise_floor=(a, again), repeat=repeat)
            assert verdict.result is INCONCLUSIVE

    def test_one_that_is_a_run_of_the_pair(self) -> None:
        assert "the run of hf itself" in self.left_out(A)
        twin = Trainer(label="hf@1", ulp=True).record()
        assert "the run of hf@1 itself" in self.left_out(twin, b=twin)

    @pytest.mark.parametrize(
        ("second", "reason"),
        [
            (Trainer(ulp=True, label="reference").record(), "it is of reference"),
            (Trainer(ulp=True, weight_decay=0.1, learning_rate=2e-2).record(), "another case"),
            (Trainer(ulp=True, dtype="bfloat16").record(), "another case"),
            (with_observed(ULP, device_kind="TPU v6e"), "TPU v6e, highest, 4, the first"),
            (with_observed(ULP, matmul_precision="default"), "default, 4, the first run of"),
            (with_observed(ULP, devices=8), "CPU, highest, 8, the first run of"),
        ],
    )  # fmt: skip
    def test_one_of_something_else(self, second: Record, reason: str) -> None:
        assert reason in self.left_out(second)

    def test_noise_of_other_conditions_than_the_pairs(self) -> None:
        tpu = on("TPU v6e", A, ULP)
        assert (
            "it is of float32, TPU v6e, highest, 4, hf of float32, CPU, highest, 4"
            in self.left_out(tpu[1], tpu[0])
        )
        other = with_observed(B, matmul_precision="high")
        assert "b of float32, CPU, high, 4" in self.left_out(ULP, b=other)
        coarse = Trainer(label="b", dtype="bfloat16").record()
        assert "b of bfloat16, CPU, highest, 4" in self.left_out(ULP, b=coarse)

    def test_a_dtype_whose_last_place_is_not_known(self) -> None:
        half = [
            with_manifest(run, lambda m: m["case"].update(dtype="float16")) for run in (A, B, ULP)
        ]
        a, b, ulp = half
        assert "in float16" in self.left_out(ulp, a, a, b)


class TestRepeat:
    """Whether the engine trains alike twice from equal weights."""

    def checked(self, again: Record, first: Record = A, b: Record = B) -> Comparison:
        return checked(comparison(first, b, repeat=(first, again)))[0]

    def test_of_equal_bits(self) -> None:
        assert self.checked(AGAIN).deterministic is True
        c, notes = checked(comparison(A, B, repeat=(A, AGAIN)))
        assert notes == ()
        assert c.repeat == (A, AGAIN)

    @pytest.mark.parametrize(
        "again",
        [
            A,
            dataclasses.replace(A, directory=AGAIN.directory),
            ULP,
            B,
            Trainer(seed=1).record(),
            with_manifest(AGAIN, lambda m: m["ended"].update(status="killed")),
            with_parameter(AGAIN, 0, initial=None),
            with_observed(AGAIN, device_kind="TPU v6e"),
        ],
    )
    def test_one_that_shows_nothing(self, again: Record) -> None:
        c, notes = checked(comparison(A, B, repeat=(A, again)))
        assert c.repeat is None
        assert c.deterministic is None
        assert notes[0].startswith("the repeat says nothing of noise and was left out: ")

    def test_the_other_run_of_the_pair_is_none(self) -> None:
        """Noise that is measured by the pair that is judged would let any pair pass."""
        twin = Trainer().record()
        assert self.checked(twin, b=twin).repeat is None

    def test_copies_of_one_launch_are_one(self) -> None:
        copy = dataclasses.replace(A, directory=AGAIN.directory)
        assert same_run(A, copy)
        assert same_run(A, dataclasses.replace(AGAIN, directory=A.directory))
        for name in ("key", "started"):
            same: dict[str, Any] = {name: getattr(A.manifest, name)}
            manifest = dataclasses.replace(AGAIN.manifest, **same)
            assert same_run(A, dataclasses.replace(AGAIN, manifest=manifest))
        assert not same_run(A, AGAIN)

    @pytest.mark.parametrize(
        ("change", "where"),
        [
            (lambda r: with_loss(r, 0, 3.0), "the loss of step 0"),
            (lambda r: with_loss(r, 5, 3.0), "the loss of step 5"),
            (lambda r: with_step(r, 5, gradient_norm=0.5), "the gradient norm of step 5"),
            (lambda r: with_parameter(r, 0, gradient=r.parameters[2].gradient),
             "the gradient of step 0 of model.embed_tokens.weight"),
            (lambda r: with_step(with_parameter(r, 1, clipped_norm=0.1), 0, gradient_norm=0.5),
             "the clipped gradient of step 0 of model.norm.weight"),
            (lambda r: with_parameter(r, 1, after=r.parameters[1].after[::-1]),
             "the first updates of model.norm.weight"),
            (lambda r: with_parameter(r, 2, final=r.parameters[2].initial),
             "the final value of lm_head.weight"),
            (lambda r: with_parameter(r, 2, final=None), "the final value of lm_head.weight"),
            (lambda r: dataclasses.replace(r, steps=r.steps[:-1]), "the number of its steps"),
            (lambda r: with_loss(r, 5, math.nan), "the loss of step 5"),
        ],
    )  # fmt: skip
    def test_where_it_begins(self, change: Callable[[Record], Record], where: str) -> None:
        assert first_difference(A, AGAIN) is None
        assert first_difference(A, change(AGAIN)) == where

    def test_what_was_not_observed_is_not_equal(self) -> None:
        for field in ("gradient", "final"):
            first, again = (with_parameter(run, 1, **{field: None}) for run in (A, AGAIN))
            assert first_difference(first, again) is not None

    def test_a_parameter_that_is_not_trained_has_no_gradient_to_be_equal(self) -> None:
        frozen, again = (with_parameter(r, 1, group=None, gradient=None) for r in (A, AGAIN))
        assert first_difference(frozen, again) is None
        drawn = with_parameter(AGAIN, 1, group=None)
        for pair in ((frozen, drawn), (drawn, frozen)):
            assert first_difference(*pair) == "the gradient of step 0 of model.norm.weight"

    def test_an_engine_that_draws_on_a_deterministic_device(self) -> None:
        """That is no rounding: the documented floors count, and a note tells."""
        drawn = higher(AGAIN, 0.04)
        c, notes = checked(comparison(A, B, noise_floor=(A, ULP), repeat=(A, drawn)))
        assert c.repeat is None
        assert c.deterministic is None
        assert "hf does not train alike twice" in notes[0]
        assert "it begins at the loss of step 1" in notes[0]
        fault = higher(B, 0.04)
        assert judged(A, fault, noise_floor=(A, ULP), repeat=(A, drawn)).result is FAIL

    def test_a_device_that_is_not_deterministic(self) -> None:
        """Its own noise is a floor, and the report says where it begins."""
        a, b, ulp, again = on(EMULATED, A, B, ULP, higher(AGAIN, 1e-5, 3))
        verdict = judged(a, b, noise_floor=(a, ulp), repeat=(a, again))
        assert verdict.result is PASS
        assert "it begins at the loss of step 3" in verdict.notes[0]
        within, beyond = higher(b, 4e-5, 3), higher(b, 7e-5, 3)
        for other, result in ((within, PASS), (beyond, FAIL), (higher(b, 5e-5, 1), FAIL)):
            verdict = judged(a, other, noise_floor=(a, ulp), repeat=(a, again))
            assert verdict.rung("loss_curve").result is result

    def test_a_repeat_that_differs_in_step_0_by_more_than_rounding(self) -> None:
        """Masks that are drawn at each launch, whatever the device."""
        a, b, ulp, again = on(EMULATED, A, B, ULP, with_loss(AGAIN, 0, 2.5))
        c, notes = checked(comparison(a, b, noise_floor=(a, ulp), repeat=(a, again)))
        assert c.repeat is None
        assert "its loss of step 0 is" in notes[0]
        assert judge(c).result is INCONCLUSIVE


class TestDevicesWithoutATable:
    def test_nothing_stands_in(self) -> None:
        a, b = on("TPU v6e", A, B)
        for metric in metrics().values():
            limit = comparison(a, b).limit(metric)
            if metric.distance is not None:
                assert limit.useless
                assert f"tolerance.floor.float32.{metric.name} states one" in limit.source
        verdict = judged(a, b)
        assert verdict.result is INCONCLUSIVE
        assert FAIL not in {rung.result for rung in verdict.rungs}

    def test_a_floor_of_nothing_decides_nothing(self) -> None:
        """Two runs that are equal to the last bit tell how a number is not rounded."""
        a, b, ulp, again = on("TPU v6e", A, B, ULP, AGAIN)
        c, _ = checked(comparison(a, b, noise_floor=(a, ulp), repeat=(a, again)))
        for metric in metrics().values():
            if metric.distance is not None:
                limit = c.limit_over(metric, perturbed=0.0, repeated=0.0)
                assert limit.useless is not bool(metric.resolution.get("float32"))
                coarse = dataclasses.replace(metric, resolution={})
                assert c.limit_over(coarse, perturbed=0.0, repeated=0.0).useless
                assert not c.limit_over(coarse, perturbed=1e-9, repeated=0.0).useless

    def test_weights_of_zeros_have_no_last_place(self) -> None:
        zeros = fingerprint(np.zeros(5, np.float32))
        a, b, ulp = (with_parameter(run, 1, initial=zeros) for run in (A, B, ULP))
        assert checked(comparison(a, b, noise_floor=(a, ulp)))[1] == ()
        still = with_parameter(ulp, 0, initial=a.parameters[0].initial)
        assert checked(comparison(a, b, noise_floor=(a, still)))[1] != ()

    def test_the_measured_noise_decides_alone(self) -> None:
        a, b, ulp, again = on("TPU v6e", A, B, ULP, AGAIN)
        assert judged(a, b, noise_floor=(a, ulp)).result is INCONCLUSIVE
        verdict = judged(a, b, noise_floor=(a, ulp), repeat=(a, again))
        assert verdict.result is PASS
        for fault in (longer(b, 0.3), higher(b, 1e-4)):
            assert judged(a, fault, noise_floor=(a, ulp), repeat=(a, again)).result is FAIL

    def test_a_loss_that_comes_out_equal_is_as_exact_as_a_float(self) -> None:
        """A perturbed run often reproduces a loss to the last bit."""
        a, b, ulp, again = on("TPU v6e", A, B, ULP, AGAIN)
        for step in a.steps:
            ulp = with_loss(ulp, step.index, step.loss)
        c = checked(comparison(a, b, noise_floor=(a, ulp), repeat=(a, again)))[0]
        assert c.limit(metrics()["loss"]).value == pytest.approx(2 * 2.0**-22)

    def test_a_first_step_that_comes_out_equal_is_estimated_from_the_next(self) -> None:
        """Its loss and its norm are one draw of the noise, and so is the scale of clipping."""
        a, b, again = on("TPU v6e", A, B, AGAIN)
        ulp = noisier(higher(higher(ULP, 1e-5), 1e-3, NEARBY + 1), 1e-5)  # that is not near
        ulp = with_step(ulp, 0, loss=A.steps[0].loss, gradient_norm=A.steps[0].gradient_norm)
        (ulp,) = on("TPU v6e", ulp)
        noise = {"noise_floor": (a, ulp), "repeat": (a, again)}
        c = checked(comparison(a, b, **noise))[0]
        for metric in (LOSS, SCALE):
            estimated = 3 * 1e-5 * math.sqrt(4 / 5)
            assert c.limit(metric).value == pytest.approx(2 * estimated, rel=0.02)
        assert judged(a, with_loss(b, 0, 2.82494497 * (1 + 4e-5)), **noise).result is PASS
        for fault, rung in (
            (with_loss(b, 0, 2.82494497 * (1 + 7e-5)), "forward"),
            (noisier(b, 7e-5, 1), "grad_norm_curve"),
        ):
            found = judged(a, fault, **noise).headline_rung
            assert found is not None
            assert (found.rung, found.result) == (rung, FAIL)

    def test_with_a_table_a_step_is_judged_by_its_own_differences(self) -> None:
        ulp = with_loss(higher(ULP, 1e-3), 0, A.steps[0].loss)
        c = checked(comparison(A, B, noise_floor=(A, ulp), repeat=(A, AGAIN)))[0]
        assert c.limit(LOSS).value == pytest.approx(2 * 2.4e-7)

    def test_a_norm_in_bfloat16_is_known_to_one_unit_in_the_last_place(self) -> None:
        """Sums in another order round to its neighbour, where a perturbed run's did not."""
        runs = [Trainer(label=label, dtype="bfloat16").record() for label in "ab"]
        ulp = Trainer(label="a", dtype="bfloat16", ulp=True).record()
        for step in ulp.steps:
            ulp = with_step(ulp, step.index, gradient_norm=runs[0].steps[step.index].gradient_norm)
        again = Trainer(label="a", dtype="bfloat16").record()
        a, b, ulp, again = on("TPU v6e", *runs, ulp, again)
        noise = {"noise_floor": (a, ulp), "repeat": (a, again)}
        for share, result in ((2**-7, PASS), (2**-5, FAIL)):
            rung = judged(a, noisier(b, share), **noise).rung("grad_norm_curve")
            assert rung.result is result

    def test_a_run_without_a_table_that_is_equal_to_the_other(self) -> None:
        """Nothing tells how far two runs may be apart, and these are not."""
        a, again = on("TPU v6e", A, AGAIN)
        verdict = judged(a, again)
        assert verdict.result is PASS
        assert verdict.rung("forward").limit == 0
        assert verdict.rung("forward").detects == "any difference"

    def test_a_floor_that_is_stated(self) -> None:
        a, b = on("TPU v6e", A, B)
        floors = {"float32": dict.fromkeys(metrics(), 1e-3)}
        assert judged(a, b, tolerance=tolerance(floor=floors)).result is PASS
        limit = comparison(a, b, tolerance=tolerance(floor=floors)).limit(UPDATE)
        assert "tolerance.floor.float32.update" in limit.source


class TestWhenARepeatIsNeeded:
    @pytest.mark.parametrize(
        ("pair", "needed"),
        [
            ((A, ULP), False),
            ((A, longer(ULP, 0.3)), True),
            ((A, higher(ULP, 0.04, 7)), True),
            ((A, noisier(ULP, 0.1, 6)), True),
            (on(EMULATED, A, ULP), True),
            (on("TPU v6e", A, ULP), True),
        ],
    )
    def test_it(self, pair: tuple[Record, Record], needed: bool) -> None:
        assert needs_repeat(pair, tolerance()) is needed


def test_a_limit_of_two_unrelated_updates_is_useless() -> None:
    assert Limit(1.46, "", "update", math.sqrt(2)).useless
    assert not Limit(1.41, "", "update", math.sqrt(2)).useless
    assert Limit(1.0, "", "loss", 1.0).useless
