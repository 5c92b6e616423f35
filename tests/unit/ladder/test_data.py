"""The rung data: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from builders import (
    IGNORED,
    Trainer,
    comparison,
    with_manifest,
    with_observed,
    with_step,
    without,
)
from golden import Worded

from harness.ladder.result import Result, RungResult
from harness.ladder.rungs.data import data
from harness.record.evidence import Batch, Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


@pytest.fixture(scope="module")
def b() -> Record:
    return Trainer(label="torchprime", groups=2, sums=-1).record()


class Swapped(Trainer):
    """Two batches trade places."""

    def batch(self, micro_step: int) -> Any:
        return super().batch({2: 3, 3: 2}.get(micro_step, micro_step))


class Behind(Trainer):
    """Every step trains on the batch of the step before."""

    def batch(self, micro_step: int) -> Any:
        return super().batch(micro_step + 99 if micro_step == 0 else micro_step - 1)


class RowsSwapped(Trainer):
    """Two rows of one batch trade places."""

    def batch(self, micro_step: int) -> Any:
        tokens, labels = super().batch(micro_step)
        if micro_step == 3:
            tokens, labels = tokens[[1, 0, 2, 3]], labels[[1, 0, 2, 3]]
        return tokens, labels


class RowsOfTwoBatchesSwapped(Trainer):
    """A row of one batch trades places with a row of another one."""

    def batch(self, micro_step: int) -> Any:
        tokens, labels = super().batch(micro_step)
        if micro_step in (2, 5):
            others = super().batch(7 - micro_step)
            tokens[0], labels[0] = others[0][0], others[1][0]
        return tokens, labels


class AnotherText(Trainer):
    def batch(self, micro_step: int) -> Any:
        return super().batch(micro_step + 1000)


class OtherLabels(Trainer):
    """One label of one batch is masked."""

    def batch(self, micro_step: int) -> Any:
        tokens, labels = super().batch(micro_step)
        if micro_step == 5:
            labels[3, 3] = IGNORED
        return tokens, labels


class LastBatch(Trainer):
    """Only the last batch differs, by one token."""

    def batch(self, micro_step: int) -> Any:
        tokens, labels = super().batch(micro_step)
        if micro_step == 7:
            tokens[3, 5] += 1
        return tokens, labels


class Shorter(Trainer):
    def batch(self, micro_step: int) -> Any:
        tokens, labels = super().batch(micro_step)
        return tokens[:, :5], labels[:, :5]


def with_batch(run: Record, step: int, **fields: Any) -> Record:
    batches: tuple[Batch, ...] = run.steps[step].batches
    changed = (dataclasses.replace(batches[0], **fields), *batches[1:])
    given = {name: fields[name] for name in ("tokens", "labels", "mask") if name in fields}
    first, *others = run.steps[step].inputs
    return with_step(run, step, batches=changed, inputs=({**first, **given}, *others))


def judged(a: Record, b: Record) -> RungResult:
    return data(comparison(a, b))


class TestData:
    def test_equal(self, worded: Worded, a: Record, b: Record) -> None:
        result = judged(a, b)
        assert result.result is PASS
        worded(result)

    @pytest.mark.parametrize(
        ("trainer", "step"),
        [
            (Swapped, 2), (Behind, 0), (RowsSwapped, 3), (RowsOfTwoBatchesSwapped, 2),
            (AnotherText, 0), (OtherLabels, 5), (LastBatch, 7), (Shorter, 0),
        ],
    )  # fmt: skip
    def test_different(self, worded: Worded, a: Record, trainer: type[Trainer], step: int) -> None:
        b = trainer(label="b").record()
        result = judged(a, b)
        assert result.result is FAIL
        worded(result)
        assert result.findings[1].step == step
        assert judged(b, a).result is FAIL

    def test_who_lags_behind_whom(self, worded: Worded, a: Record) -> None:
        late = Behind(label="late").record()
        worded(judged(a, late))
        worded(judged(late, a))

    def test_a_swap_in_a_short_run_is_no_lag(self, worded: Worded) -> None:
        runs = [t(steps=4, label=t.__name__).record() for t in (Trainer, Swapped)]
        worded(judged(*runs))

    def test_as_many_as_are_shown(self) -> None:
        """Six micro-steps that differ are named, and no more of them hinted at."""

        class Pairwise(Trainer):
            def batch(self, micro_step: int) -> Any:
                other = {1: 2, 2: 1, 3: 4, 4: 3, 5: 6, 6: 5}
                return super().batch(other.get(micro_step, micro_step))

        text = judged(Trainer().record(), Pairwise(label="b").record()).findings[0].text
        assert "(micro-steps 1, 2, 3, 4, 5, 6 differ)" in text

    def test_two_batches_that_come_late_are_no_lag(self) -> None:
        runs = [t(steps=3, label=t.__name__).record() for t in (Trainer, Behind)]
        assert "lag" not in judged(*runs).findings[0].text

    def test_equal_batches_in_every_step_are_no_lag(self, worded: Worded) -> None:
        class Same(Trainer):
            def batch(self, micro_step: int) -> Any:
                return super().batch(0)

        class Masked(Same):
            def batch(self, micro_step: int) -> Any:
                tokens, labels = super().batch(0)
                labels[3, 3] = IGNORED
                return tokens, labels

        result = judged(Same().record(), Masked().record())
        worded(result)

    @pytest.mark.parametrize("step", [0, 4, 7])
    @pytest.mark.parametrize(
        ("field", "value"),
        [("tokens", "0" * 16), ("labels", "0" * 16), ("mask", "0" * 16), ("shape", (4, 7))],
    )
    def test_any_field_of_any_batch(
        self, a: Record, b: Record, step: int, field: str, value: Any
    ) -> None:
        result = judged(a, with_batch(b, step, **{field: value}))
        assert result.result is FAIL
        assert result.findings[1].step == step

    @pytest.mark.parametrize("field", ["tokens", "labels"])
    def test_what_neither_run_has_is_not_equal(
        self, worded: Worded, a: Record, b: Record, field: str
    ) -> None:
        result = judged(with_batch(a, 3, **{field: ""}), with_batch(b, 3, **{field: ""}))
        assert result.result is INVALID
        worded(result)

    def test_no_batch_at_all(self, a: Record, b: Record) -> None:
        none = []
        for run in (a, b):
            steps = tuple(dataclasses.replace(s, batches=()) for s in run.steps)
            none.append(dataclasses.replace(run, steps=steps))
        for x, y in ((none[0], b), (a, none[1]), (none[0], none[1])):
            assert judged(x, y).result is INVALID

    @pytest.mark.parametrize("step", [0, 7])
    def test_a_batch_that_is_missing_on_both_sides(
        self, worded: Worded, a: Record, b: Record, step: int
    ) -> None:
        result = judged(with_step(a, step, batches=()), with_step(b, step, batches=()))
        assert result.result is INVALID
        worded(result)


class TestSkippedUpdates:
    """A trainer that leaves out an optimizer step goes on to the next batch."""

    def skipping(self, run: Record, step: int, accumulation: int = 1) -> Record:
        """The Record of a run whose update `step` was skipped."""
        batches, inputs = [s.batches for s in run.steps], [s.inputs for s in run.steps]
        batches[step : step + 2] = [batches[step] + batches[step + 1]]
        inputs[step : step + 2] = [inputs[step] + inputs[step + 1]]
        steps = tuple(
            dataclasses.replace(s, batches=b, inputs=i, micro_losses=(1.0,) * len(b))
            for s, b, i in zip(run.steps, batches, inputs, strict=False)
        )
        return dataclasses.replace(run, steps=steps)

    @pytest.mark.parametrize("accumulation", [1, 2])
    def test_it_is_the_first_thing_said(self, worded: Worded, accumulation: int) -> None:
        run = Trainer(label="a", accumulation=accumulation).record()
        other = self.skipping(Trainer(label="b", accumulation=accumulation).record(), 5)
        for pair in ((run, other), (other, run), (other, other)):
            result = judged(*pair)
            assert result.result is FAIL
            worded(result)
            assert result.findings[0].step == 5

    def test_other_accumulation_throughout_is_no_skipped_update(
        self, worded: Worded, a: Record
    ) -> None:
        other = Trainer(label="b", accumulation=2).record()
        other = with_manifest(other, lambda m: m["case"].update(accumulation=1))
        result = judged(a, other)
        assert result.result is FAIL
        worded(result)


@pytest.fixture(scope="module")
def pair() -> tuple[Record, Record]:
    return Trainer(accumulation=2).record(), Trainer(accumulation=2, label="b").record()


def trading_places(run: Record, step: int) -> Record:
    """The Record with the micro-batches of one step in the reverse order."""
    of = run.steps[step]
    return with_step(run, step, batches=of.batches[::-1], inputs=of.inputs[::-1])


class TestDataOfMicroBatches:
    def test_equal(self, worded: Worded, pair: tuple[Record, Record]) -> None:
        worded(judged(*pair))

    @pytest.mark.parametrize("kept", [0, 1])
    def test_one_is_missing_on_both_sides(
        self, worded: Worded, pair: tuple[Record, Record], kept: int
    ) -> None:
        a, b = (with_step(r, 3, batches=(r.steps[3].batches[kept],)) for r in pair)
        result = judged(a, b)
        assert result.result is INVALID
        worded(result)

    @pytest.mark.parametrize("which", [0, 1])
    def test_labels_of_one_were_not_observed_on_either_side(
        self, pair: tuple[Record, Record], which: int
    ) -> None:
        runs = []
        for run in pair:
            batches = list(run.steps[3].batches)
            batches[which] = dataclasses.replace(batches[which], labels="")
            runs.append(with_step(run, 3, batches=tuple(batches)))
        assert judged(*runs).result is INVALID

    def test_another_number_of_them(self, worded: Worded, pair: tuple[Record, Record]) -> None:
        result = judged(pair[0], Trainer(label="b").record())
        assert result.result is FAIL
        worded(result)

    def test_the_second_one_differs(self, worded: Worded, pair: tuple[Record, Record]) -> None:
        b = pair[1]
        first, second = b.steps[4].batches
        other = dataclasses.replace(second, tokens="0" * 16, rows=("0" * 16,) * 4)
        given = (b.steps[4].inputs[0], {**b.steps[4].inputs[1], "tokens": "0" * 16})
        result = judged(pair[0], with_step(b, 4, batches=(first, other), inputs=given))
        worded(result)

    def test_two_trade_places(self, worded: Worded, pair: tuple[Record, Record]) -> None:
        b = pair[1]
        result = judged(pair[0], trading_places(b, 4))
        assert result.result is FAIL
        worded(result)


class TestDataAsTheCaseAsks:
    """Two runs that both train on something else agree, on something else than their name says."""

    def asking(self, run: Record, **fields: Any) -> Record:
        return with_manifest(run, lambda m: m["case"].update(fields))

    @pytest.mark.parametrize(
        "fields", [{"global_batch": 8}, {"accumulation": 2}, {"data": {"sequence_length": 7}}]
    )
    def test_both_are_served_otherwise(
        self, worded: Worded, a: Record, b: Record, fields: dict[str, Any]
    ) -> None:
        x, y = self.asking(a, **fields), self.asking(b, **fields)
        for pair in ((x, y), (y, x)):
            result = judged(*pair)
            assert result.result is FAIL
            worded(result)

    def test_one_micro_batch_of_another_shape_on_both_sides(
        self, pair: tuple[Record, Record]
    ) -> None:
        short = [
            with_step(
                r,
                3,
                batches=(
                    r.steps[3].batches[0],
                    dataclasses.replace(r.steps[3].batches[1], shape=(4, 5)),
                ),
            )
            for r in pair
        ]
        result = judged(*short)
        assert result.result is FAIL
        assert [f.step for f in result.findings] == [3, 3]

    def test_as_shipped_a_trainer_serves_itself(self, a: Record, b: Record) -> None:
        x, y = (self.asking(r, kind="as_shipped", global_batch=8) for r in (a, b))
        assert judged(x, y).result is PASS

    def test_the_same_rows_cut_otherwise(self, worded: Worded, pair: tuple[Record, Record]) -> None:
        """One batch of both micro-batches' rows: not another order."""
        a, b = pair
        joined = tuple(
            dataclasses.replace(
                step,
                batches=(
                    dataclasses.replace(
                        step.batches[0],
                        rows=step.batches[0].rows + step.batches[1].rows,
                        tokens="joined",
                    ),
                ),
                micro_losses=(0.0,),
                inputs=({"tokens": "joined"},),
            )
            for step in b.steps
        )
        result = judged(a, dataclasses.replace(b, steps=joined))
        worded(result)


class TestDataOfTruncatedRuns:
    """Equal as far as both go is not equal."""

    def test_one_stopped_early(self, worded: Worded, a: Record) -> None:
        b = Trainer(label="b", steps=3, requested=8).record()
        for result in (judged(a, b), judged(b, a)):
            assert result.result is FAIL
            worded(result)

    def test_both_stopped_early(self, worded: Worded) -> None:
        a, b = (Trainer(label=label, steps=3, requested=8).record() for label in "ab")
        result = judged(a, b)
        assert result.result is FAIL
        worded(result)

    @pytest.mark.parametrize("step", [0, 3, 7])
    def test_a_step_is_missing(self, worded: Worded, a: Record, b: Record, step: int) -> None:
        for x, y in (
            (without(a, "steps", step), b),
            (a, without(b, "steps", step)),
            (without(a, "steps", step), without(b, "steps", step)),
        ):
            result = judged(x, y)
            assert result.result is FAIL
            worded(result)
            assert len(result.findings) == 2

    def test_steps_that_only_one_has(self, worded: Worded, a: Record) -> None:
        b = Trainer(label="b", steps=10, requested=8).record()
        result = judged(a, b)
        assert result.result is FAIL
        worded(result)
        worded(judged(b, a))
        texts = [f.text for f in judged(a, without(b, "steps", 3)).findings]
        assert "b trained 7 of 8 steps, not step 3" in texts

    def test_a_step_that_was_not_finished(self, a: Record, b: Record) -> None:
        result = judged(a, with_step(b, 7, finished=False))
        assert result.result is FAIL
        assert any("trained 7 of 8 steps, not step 7" in f.text for f in result.findings)

    def test_a_gap_does_not_shift_what_follows(self, worded: Worded, a: Record, b: Record) -> None:
        """Steps are compared by their number, not by their place."""
        result = judged(a, without(b, "steps", 2))
        worded(result)


class TestWhatTheModelIsGiven:
    """A batch that was loaded is not yet one that is trained on."""

    def given(self, run: Record, step: int, **changed: str | None) -> Record:
        """The Record of a run whose model was given something else at a step; None for nothing."""
        inputs = {**run.steps[step].inputs[0], **changed}
        return with_step(run, step, inputs=({n: h for n, h in inputs.items() if h is not None},))

    def again(self, run: Record, step: int) -> Record:
        """The Record of a run that trains on the batch of the step before once more."""
        return with_step(run, step, inputs=run.steps[step - 1].inputs)

    def test_a_batch_that_comes_again(self, worded: Worded, a: Record, b: Record) -> None:
        for pair in ((a, self.again(b, 3)), (self.again(b, 3), a), (self.again(b, 3),) * 2):
            result = judged(*pair)
            assert result.result is FAIL
            worded(result)
            assert result.findings[0].step == 3

    @pytest.mark.parametrize("name", ["tokens", "labels", "mask"])
    def test_something_else_than_was_loaded(
        self, worded: Worded, a: Record, b: Record, name: str
    ) -> None:
        other = self.given(b, 5, **{name: "0" * 16})
        for pair in ((a, other), (other, a)):
            result = judged(*pair)
            assert result.result is FAIL
            worded(result)
            assert result.findings[0].step == 5

    def test_in_which_micro_batch(self, pair: tuple[Record, Record]) -> None:
        first, second = pair[1].steps[4].inputs
        other = with_step(pair[1], 4, inputs=(first, {**second, "tokens": "0" * 16}))
        result = judged(pair[0], other)
        assert result.result is FAIL
        assert result.findings[0].text.startswith("step 4, micro-batch 1: ")

    def test_rows_that_both_change_alike(self, a: Record, b: Record) -> None:
        assert judged(*(self.given(r, 5, tokens="0" * 16) for r in (a, b))).result is PASS
        other = self.given(a, 5, tokens="0" * 16), self.given(b, 5, tokens="1" * 16)
        assert judged(*other).result is FAIL

    def test_a_mask_that_only_the_loader_has(self, worded: Worded, a: Record, b: Record) -> None:
        masked = [with_batch(run, 2, mask="1" * 16) for run in (a, b)]
        assert judged(*masked).result is PASS
        result = judged(masked[0], self.given(masked[1], 2, mask=None))
        assert result.result is FAIL
        worded(result)

    @pytest.mark.parametrize("name", ["position_ids", "segment_ids", "weights"])
    def test_any_other_tensor(self, worded: Worded, a: Record, b: Record, name: str) -> None:
        x, y = (self.given(run, 4, **{name: "2" * 16}) for run in (a, b))
        assert judged(x, y).result is PASS
        for pair in ((a, y), (x, b), (x, self.given(b, 4, **{name: "3" * 16}))):
            result = judged(*pair)
            assert result.result is FAIL
            assert result.findings[0].step == 4
            worded(result)

    def test_under_another_name(self, a: Record, b: Record) -> None:
        given = tuple({"x": s.batches[0].tokens, "y": s.batches[0].labels} for s in b.steps)
        steps = tuple(
            dataclasses.replace(s, inputs=(g,)) for s, g in zip(b.steps, given, strict=True)
        )
        assert judged(a, dataclasses.replace(b, steps=steps)).result is PASS

    def test_what_the_device_computes_is_said(self, worded: Worded, a: Record, b: Record) -> None:
        result = judged(a, self.given(b, 4, tokens=""))
        assert result.result is PASS
        worded(result)

    @pytest.mark.parametrize("inputs", [(), ({},), ({"labels": "x"},), ({"tokens": "x"},) * 2])
    def test_what_was_not_observed(self, a: Record, b: Record, inputs: Any) -> None:
        pair = [with_step(run, 6, inputs=inputs) for run in (a, b)]
        assert judged(*pair).result is INVALID

    def test_what_was_taken_away_is_said(self, worded: Worded, a: Record, b: Record) -> None:
        result = judged(with_observed(a, taken_away=["attention_mask"]), b)
        assert result.result is PASS
        worded(result)
