"""The rung checkpoint: what has to come back when a training is resumed, each thing by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from builders import (
    Trainer,
    comparison,
    fingerprint,
    with_loss,
    with_observed,
    with_parameter,
    with_step,
    without,
)
from golden import Worded

from harness.config.case import Case
from harness.ladder.comparison import Resumption
from harness.ladder.result import Finding, Result, RungResult
from harness.ladder.rungs.checkpoint import checkpoint
from harness.record.evidence import Loaded, Record, Step
from harness.record.termination import FAILED, OK, STARVED, STOPPED_EARLY

PASS, FAIL, INVALID, NOT_EXERCISED = (
    Result.PASS, Result.FAIL, Result.INVALID, Result.NOT_EXERCISED,
)  # fmt: skip
SAVE_AT = 5
OTHER = fingerprint(np.full((3, 3), 0.25, np.float32))


def role(run: Record, name: str, first_step: int = 0) -> Record:
    """The Record of a run of this role, of a case that saves after `SAVE_AT` steps."""
    assert isinstance(run.case, Case)
    case = dataclasses.replace(run.case, save_at=SAVE_AT)
    manifest = dataclasses.replace(run.manifest, role=name, case=case, first_step=first_step)  # type: ignore[arg-type]
    return dataclasses.replace(run, manifest=manifest)


def watched(step: Step) -> Step:
    """The step with what is watched of a case that saves."""
    generators = {"torch": f"host {step.index}", "device": f"device {step.index}"}
    batches = tuple(dataclasses.replace(b, own=f"own {b.tokens}") for b in step.batches)
    return dataclasses.replace(step, generators=generators, batches=batches)


def resumption(label: str = "hf", **trainer: Any) -> Resumption:
    """A training that comes back to the last bit."""
    run = Trainer(label=label, **trainer).record()
    straight = role(dataclasses.replace(run, steps=tuple(map(watched, run.steps))), "subject")
    kept = tuple(
        dataclasses.replace(
            p,
            saved=p.after[1],
            state_saved={"exp_avg": p.state_final["exp_avg_sq"]},
            counted_saved=float(SAVE_AT),
        )
        for p in straight.parameters
    )
    loaded = Loaded(
        "from_pretrained",
        tuple(p.name for p in kept),
        parameters={p.name: p.saved for p in kept if p.saved is not None},
    )
    saving = role(dataclasses.replace(straight, parameters=kept, loaded=loaded), "saving")
    rest = tuple(
        dataclasses.replace(step, index=index)
        for index, step in enumerate(straight.steps[SAVE_AT:])
    )
    back = tuple(
        dataclasses.replace(
            p,
            initial=saved.saved,
            state_loaded=saved.state_saved,
            counted_loaded=saved.counted_saved,
        )
        for p, saved in zip(straight.parameters, kept, strict=True)
    )
    resumed = dataclasses.replace(straight, steps=rest, parameters=back)
    return Resumption(straight, saving, role(resumed, "resumed", SAVE_AT))


SOUND = resumption()


def resumed(change: Any, **fields: Any) -> Resumption:
    """`SOUND`, resumed with something else; `change` is of `builders`, of a step or a parameter."""
    assert SOUND.resumed is not None
    return dataclasses.replace(SOUND, resumed=change(SOUND.resumed, 0, **fields))


def judged(a: Resumption | None, b: Resumption | None = SOUND, **given: Any) -> RungResult:
    runs = [SOUND.straight if r is None else r.straight for r in (a, b)]
    return checkpoint(comparison(*runs, resumptions=(a, b), **given))


def found(a: Resumption) -> Finding:
    """The first finding of a resumption that fails."""
    result = judged(a)
    assert result.result is FAIL
    assert {finding.run for finding in result.findings} == {"a"}
    return result.findings[0]


class TestHolds:
    def test_bit_by_bit(self, worded: Worded) -> None:
        result = judged(SOUND, resumption("b"))
        assert (result.result, result.value) == (PASS, 0)
        worded(result)

    def test_a_case_that_does_not_save(self, a: Record, b: Record) -> None:
        result = checkpoint(comparison(a, b))
        assert result.result is NOT_EXERCISED
        assert "the case saves nothing" in result.explanation

    def test_nothing_beside(self) -> None:
        result = judged(None, None)
        assert result.result is NOT_EXERCISED
        assert "the case saves nothing" not in result.explanation

    def test_of_one_side_alone_it_says_nothing(self) -> None:
        other = resumption("b")
        for pair, left in (((SOUND, None), "b"), ((None, other), "hf")):
            runs = SOUND.straight, other.straight
            result = checkpoint(comparison(*runs, resumptions=pair))
            assert result.result is INVALID
            assert result.explanation.startswith(f"{left} was not saved")


class TestFails:
    def test_names_of_a_wrapper(self, worded: Worded) -> None:
        assert SOUND.saving.loaded is not None
        stored = tuple(f"_orig_module.{name}" for name in SOUND.saving.loaded.stored)
        loaded = Loaded("from_pretrained", stored, "checkpoint-5 has no config.json")
        saving = dataclasses.replace(SOUND.saving, loaded=loaded)
        result = judged(dataclasses.replace(SOUND, saving=saving))
        assert [finding.kind for finding in result.findings] == ["keys", "refused"]
        model = SOUND.saving.parameters[0].name
        assert (result.findings[0].a, result.findings[0].b) == (f"_orig_module.{model}", model)
        worded(result)

    @pytest.mark.parametrize("kind", ["missing", "unexpected"])
    def test_keys(self, kind: str) -> None:
        assert SOUND.saving.loaded is not None
        fields: dict[str, Any] = {kind: ("lm_head.weight", "model.norm.weight")}
        loaded = dataclasses.replace(SOUND.saving.loaded, **fields)
        saving = dataclasses.replace(SOUND.saving, loaded=loaded)
        finding = found(dataclasses.replace(SOUND, saving=saving))
        assert (finding.kind, finding.parameter) == (kind, "lm_head.weight")
        assert finding.text.endswith(f"{kind} lm_head.weight (and 1 more)")

    def test_what_was_saved_has_another_value(self) -> None:
        assert SOUND.saving.loaded is not None
        values = {**SOUND.saving.loaded.parameters, "model.norm.weight": OTHER}
        loaded = dataclasses.replace(SOUND.saving.loaded, parameters=values)
        saving = dataclasses.replace(SOUND.saving, loaded=loaded)
        finding = found(dataclasses.replace(SOUND, saving=saving))
        assert (finding.kind, finding.parameter) == ("loaded", "model.norm.weight")

    @pytest.mark.parametrize("left", [0, 1])
    def test_a_loaded_value_that_was_not_observed(self, left: int) -> None:
        """Neither is it said to be missing: nothing shows that it came back."""
        assert SOUND.saving.loaded is not None
        values = dict(list(SOUND.saving.loaded.parameters.items())[:left])
        loaded = dataclasses.replace(SOUND.saving.loaded, parameters=values)
        saving = dataclasses.replace(SOUND.saving, loaded=loaded)
        assert judged(dataclasses.replace(SOUND, saving=saving)).result is INVALID

    def test_where_nothing_is_known_of_the_noise_any_loss_counts(self) -> None:
        assert SOUND.resumed is not None
        loss = SOUND.resumed.steps[0].loss
        assert loss is not None

        def moved(run: Record) -> Record:
            return with_observed(run, device_kind="TPU v6e")

        there = dataclasses.replace(
            SOUND, straight=moved(SOUND.straight), saving=moved(SOUND.saving)
        )
        for factor, result in ((1.0, PASS), (1 + 1e-6, FAIL)):
            run = moved(with_loss(SOUND.resumed, 0, loss * factor))
            broken = dataclasses.replace(there, resumed=run)
            assert judged(broken, broken).result is result

    def test_the_initial_weights(self, worded: Worded) -> None:
        first = SOUND.straight.parameters[0]
        broken = resumed(with_parameter, initial=first.initial)
        finding = found(broken)
        assert (finding.kind, finding.parameter, finding.step) == ("weights", first.name, SAVE_AT)
        worded(judged(broken))

    def test_one_bit_of_a_weight(self) -> None:
        saved = SOUND.saving.parameters[0].saved
        assert saved is not None
        flipped = dataclasses.replace(saved, bits=saved.bits ^ 1)
        finding = found(resumed(with_parameter, initial=flipped))
        assert finding.kind == "weights"
        assert "from another value than was saved" in finding.text

    @pytest.mark.parametrize(
        ("fields", "kind"),
        [
            ({"state_loaded": {}}, "exp_avg"),
            ({"state_loaded": {"exp_avg": OTHER}}, "exp_avg"),
            ({"counted_loaded": 0.0}, "counted"),
            ({"counted_loaded": None}, "counted"),
            ({"sharding": ""}, "sharding"),
            ({"final": OTHER}, "end"),
        ],
    )
    def test_of_a_parameter(self, fields: dict[str, Any], kind: str) -> None:
        finding = found(resumed(with_parameter, **fields))
        assert (finding.kind, finding.parameter) == (kind, SOUND.straight.parameters[0].name)

    def test_where_weights_end_is_told_of_the_last_step_and_by_the_way_to_it(self) -> None:
        """Without a break one that does not move any more, and that one moves all of the way."""
        first = SOUND.saving.parameters[0]
        straight = with_parameter(SOUND.straight, 0, final=first.saved)
        finding = found(dataclasses.replace(SOUND, straight=straight))
        assert (finding.kind, finding.step) == ("end", SOUND.straight.case.steps - 1)
        assert "ends elsewhere, by 1 of what" in finding.text

    def test_moments_of_an_optimizer_that_counts_no_updates(self) -> None:
        assert SOUND.resumed is not None
        saving, back = (
            dataclasses.replace(
                run,
                parameters=tuple(
                    dataclasses.replace(p, counted_saved=None, counted_loaded=None)
                    for p in run.parameters
                ),
            )
            for run in (SOUND.saving, SOUND.resumed)
        )
        sound = dataclasses.replace(SOUND, saving=saving, resumed=back)
        assert judged(sound, sound).result is PASS
        lost = dataclasses.replace(sound, resumed=with_parameter(back, 0, state_loaded={}))
        assert found(lost).kind == "exp_avg"

    @pytest.mark.parametrize(
        ("fields", "kind"),
        [
            ({"learning_rates": (0.5,)}, "learning_rate"),
            ({"batches": ()}, "batch"),
            ({"generators": {"torch": "host 5", "device": "anew"}}, "generator_device"),
            ({"generators": {"torch": "anew", "device": "device 5"}}, "generator_torch"),
            ({"gradient_norm": 7.0}, "gradient_norm"),
            ({"loss": 7.0, "micro_losses": (7.0,)}, "loss"),
            ({"micro_losses": ()}, "loss"),
        ],
    )
    def test_of_a_step(self, fields: dict[str, Any], kind: str) -> None:
        finding = found(resumed(with_step, **fields))
        assert (finding.kind, finding.step) == (kind, SAVE_AT)

    def test_the_loss_of_one_micro_batch(self) -> None:
        two = resumption(accumulation=2)
        assert two.resumed is not None
        first, second = two.resumed.steps[0].micro_losses
        other = with_step(two.resumed, 0, micro_losses=(first, second * 1.1))
        assert found(dataclasses.replace(two, resumed=other)).kind == "loss"

    def test_another_batch_of_its_own(self) -> None:
        """Though prepared rows took its place."""
        assert SOUND.resumed is not None
        (batch,) = SOUND.resumed.steps[0].batches
        other = dataclasses.replace(batch, own="another")
        finding = found(resumed(with_step, batches=(other,)))
        assert (finding.kind, finding.a, finding.b) == ("batch", batch.own, "another")

    def test_inputs_that_are_no_longer_sharded(self) -> None:
        assert SOUND.resumed is not None
        manifest = SOUND.resumed.manifest
        observed = dataclasses.replace(manifest.observed, input_sharding="{replicated}")
        manifest = dataclasses.replace(manifest, observed=observed)
        after = dataclasses.replace(SOUND.resumed, manifest=manifest)
        finding = found(dataclasses.replace(SOUND, resumed=after))
        assert (finding.kind, finding.b) == ("input_sharding", "{replicated}")

    @pytest.mark.parametrize(("before", "after"), [("{replicated}", ""), ("", "{replicated}")])
    def test_how_it_was_and_is_sharded_is_told(self, before: str, after: str) -> None:
        assert SOUND.resumed is not None
        straight, back = (
            with_observed(with_parameter(run, 0, sharding=spec), input_sharding=spec)
            for run, spec in ((SOUND.straight, before), (SOUND.resumed, after))
        )
        result = judged(dataclasses.replace(SOUND, straight=straight, resumed=back))
        assert [finding.kind for finding in result.findings] == ["sharding", "input_sharding"]
        told = f"sharded {after or 'not at all'}, without a break {before or 'not at all'}"
        assert all(finding.text.endswith(told) for finding in result.findings)

    def test_saving_changes_the_training_that_saves(self) -> None:
        saving = with_step(SOUND.saving, SAVE_AT, loss=7.0, micro_losses=(7.0,))
        finding = found(dataclasses.replace(SOUND, saving=saving))
        assert (finding.kind, finding.step) == ("disturbed", SAVE_AT)

    def test_saving_draws(self) -> None:
        """The process that saves draws other masks from then on, whatever a resume sets back."""
        saving = with_step(SOUND.saving, SAVE_AT, generators={"torch": "host 5", "device": "on"})
        finding = found(dataclasses.replace(SOUND, saving=saving))
        assert (finding.kind, finding.step) == ("disturbed_device", SAVE_AT)

    def test_the_first_of_all_is_what_others_follow_from(self) -> None:
        broken = resumed(
            with_parameter, initial=OTHER, state_loaded={}, final=OTHER, counted_loaded=0.0
        )
        kinds = [finding.kind for finding in judged(broken).findings]
        assert kinds == ["weights", "exp_avg", "counted", "end"]

    def test_each_side_is_named(self, worded: Worded) -> None:
        lost = resumed(with_parameter, state_loaded={})
        result = judged(lost, resumed(with_step, learning_rates=(0.5,)))
        assert [finding.run for finding in result.findings] == ["a", "b"]
        worded(result)


class TestEnds:
    @staticmethod
    def ended(which: str, status: str, steps: int | None = None) -> Resumption:
        run = getattr(SOUND, which)
        ended = dataclasses.replace(run.manifest.ended, status=status, reason="an error")
        run = dataclasses.replace(run, manifest=dataclasses.replace(run.manifest, ended=ended))
        run = run if steps is None else dataclasses.replace(run, steps=SOUND.straight.steps[:steps])
        return dataclasses.replace(SOUND, **{which: run})

    @pytest.mark.parametrize(
        ("which", "kind"), [("saving", "saving_ended"), ("resumed", "resume_ended")]
    )
    def test_by_an_error(self, which: str, kind: str) -> None:
        assert found(self.ended(which, FAILED)).kind == kind

    def test_nothing_came_to_be_saved(self) -> None:
        """So that nothing could be loaded, which is no fault of its own."""
        crashed = self.ended("saving", FAILED, 2)
        saving = dataclasses.replace(crashed.saving, loaded=None)
        crashed = dataclasses.replace(crashed, saving=saving, resumed=None)
        assert found(crashed).kind == "saving_ended"

    def test_what_cannot_be_loaded_comes_before_what_follows_from_it(self) -> None:
        assert SOUND.saving.loaded is not None
        loaded = dataclasses.replace(SOUND.saving.loaded, refused="it has no config.json")
        saving = dataclasses.replace(SOUND.saving, loaded=loaded)
        result = judged(dataclasses.replace(self.ended("resumed", FAILED), saving=saving))
        assert [finding.kind for finding in result.findings] == ["refused", "resume_ended"]

    def test_it_begins_anew(self) -> None:
        """A trainer that does not heed what it is to resume from trains all steps."""
        assert "does not go on" in found(self.ended("resumed", STOPPED_EARLY, 8)).text

    @pytest.mark.parametrize("steps", [1, 3])
    def test_it_does_not_get_to_its_end(self, steps: int) -> None:
        assert (
            "does not resume: stopped early"
            in found(self.ended("resumed", STOPPED_EARLY, steps)).text
        )

    @pytest.mark.parametrize("which", ["saving", "resumed"])
    def test_by_the_machine(self, which: str) -> None:
        assert judged(self.ended(which, STARVED)).result is INVALID

    @pytest.mark.parametrize(
        ("which", "steps"), [("resumed", 1), ("resumed", 8), ("saving", 7), ("straight", 7)]
    )
    def test_other_steps_than_were_left(self, which: str, steps: int) -> None:
        """Of no run anything is shown that is not whole, of the one without a break neither."""
        assert judged(self.ended(which, OK, steps)).result is INVALID


class TestNotObserved:
    @pytest.mark.parametrize("what", ["initial", "final"])
    def test_of_a_parameter(self, what: str) -> None:
        assert judged(resumed(with_parameter, **{what: None})).result is INVALID

    def test_where_the_run_without_a_break_ends(self) -> None:
        straight = with_parameter(SOUND.straight, 0, final=None)
        assert judged(dataclasses.replace(SOUND, straight=straight)).result is INVALID

    @pytest.mark.parametrize("which", ["straight", "resumed"])
    def test_a_loss(self, which: str) -> None:
        run, index = getattr(SOUND, which), SAVE_AT if which == "straight" else 0
        lost = {which: with_step(run, index, loss=None)}
        assert judged(dataclasses.replace(SOUND, **lost)).result is INVALID

    def test_what_was_saved(self) -> None:
        saving = dataclasses.replace(SOUND.saving, loaded=None)
        assert judged(dataclasses.replace(SOUND, saving=saving)).result is INVALID
        for refused in (None, "it has no config.json"):
            assert SOUND.saving.loaded is not None
            loaded = dataclasses.replace(SOUND.saving.loaded, refused=refused)
            saving = with_parameter(dataclasses.replace(SOUND.saving, loaded=loaded), 0, saved=None)
            assert judged(dataclasses.replace(SOUND, saving=saving)).result is INVALID

    def test_a_parameter_that_the_resumed_run_lacks(self) -> None:
        assert SOUND.resumed is not None
        back = without(SOUND.resumed, "parameters", 0)
        assert judged(dataclasses.replace(SOUND, resumed=back)).result is INVALID

    def test_generators(self) -> None:
        straight = with_step(SOUND.straight, SAVE_AT, generators={})
        assert judged(dataclasses.replace(SOUND, straight=straight)).result is INVALID

    def test_a_generator_that_nobody_seeds_is_no_difference(self) -> None:
        """It is in another state in every process, long before anything is saved."""
        saving = with_step(SOUND.saving, 0, generators={"torch": "host 0", "device": "another"})
        broken = resumed(with_step, generators={"torch": "host 5", "device": "anew"})
        assert judged(dataclasses.replace(broken, saving=saving)).result is PASS


class TestRounding:
    """A resumed run's first step is compiled by itself, and may round otherwise."""

    def test_a_loss_within_the_noise(self, worded: Worded) -> None:
        loss = SOUND.straight.steps[SAVE_AT].loss
        assert loss is not None
        near = loss * (1 + 1e-7)
        result = judged(resumed(with_step, loss=near, micro_losses=(near,)))
        assert result.result is PASS
        worded(result)

    def test_where_weights_end(self) -> None:
        final = SOUND.straight.parameters[0].final
        assert final is not None
        sketch = tuple(s + 1e-9 for s in final.sketch)
        near = dataclasses.replace(final, bits=final.bits ^ 1, sketch=sketch)
        assert judged(resumed(with_parameter, final=near)).result is PASS

    def test_nothing_that_comes_back_is_rounded(self) -> None:
        saved = SOUND.saving.parameters[0].state_saved["exp_avg"]
        flipped = {"exp_avg": dataclasses.replace(saved, bits=saved.bits ^ 1)}
        assert found(resumed(with_parameter, state_loaded=flipped)).kind == "exp_avg"


def test_two_versions_that_lose_the_same() -> None:
    """To the gate that is no change."""
    lost = resumed(with_parameter, state_loaded={})
    assert judged(lost, lost, versions=True).result is PASS
    assert judged(lost, SOUND, versions=True).result is FAIL
    assert judged(lost, lost).result is FAIL
