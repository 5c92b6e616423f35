"""The rung routing: each way in which it could pass and should not.

The routers are of numpy, and what a Record has of them is computed of them as the probe does.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    Array,
    Trainer,
    as_training,
    comparison,
    fingerprint,
    tolerance,
    with_loss,
    with_observed,
    with_step,
)
from golden import Worded

from harness.base.errors import BadInput
from harness.config.case import Case
from harness.config.compose import load
from harness.ladder.judge import judge
from harness.ladder.loss import first_loss
from harness.ladder.result import Result, RungResult
from harness.ladder.rungs.routing import (
    CHOICE,
    LOGITS,
    SCORES,
    logits_distance,
    permuted,
    routing,
    scores_distance,
)
from harness.record.evidence import Imported, Record, Routed, Sums
from harness.record.layout import STEPS
from harness.record.reader import read_steps
from harness.record.writer import encode

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID
INCONCLUSIVE, NOT_EXERCISED = Result.INCONCLUSIVE, Result.NOT_EXERCISED

TOKENS, WIDTH, EXPERTS, CHOSEN = 64, 8, 4, 2
NAMES = tuple(f"model.layers.{i}.block_sparse_moe.gate" for i in range(2))


@dataclass
class Layer:
    """A router: what it is given, its weights, and what a fault changes of what it makes of it."""

    number: int = 0
    hidden: Array = field(default_factory=lambda: drawn(1, TOKENS, WIDTH))
    weights: Array = field(default_factory=lambda: drawn(2, EXPERTS, WIDTH))
    chosen: int = CHOSEN

    def logits(self) -> Array:
        """[tokens, experts]."""
        return self.hidden @ self.weights.T

    def scores(self) -> Array:
        """[tokens, experts]."""
        grown = np.exp(self.logits())
        return np.asarray(grown / grown.sum(1, keepdims=True))

    def taken(self) -> Any:
        """[tokens, chosen]."""
        return np.argsort(-self.scores(), 1, "stable")[:, : self.chosen]

    def routed(self) -> Routed:
        """As the probe keeps it."""
        best = -np.sort(-self.scores(), 1)
        taken = self.taken()
        load = np.bincount(taken.reshape(-1), minlength=len(self.weights))
        return Routed(
            name=NAMES[self.number],
            tokens=len(self.hidden),
            given=sums(self.hidden),
            logits=sums(self.logits()),
            scores=sums(self.scores()),
            taken=tuple(tuple(map(int, row)) for row in taken),
            margins=tuple(map(float, best[:, self.chosen - 1] - best[:, self.chosen])),
            load=tuple(map(int, load)),
        )


def drawn(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sums(array: Array) -> Sums:
    made = fingerprint(np.asarray(array, np.float32))
    return Sums(made.sketch, made.norm)


FIRST, SECOND = Layer(), Layer(1, drawn(3, TOKENS, WIDTH), drawn(4, EXPERTS, WIDTH))


def run(of: Record, *routed: Routed, routers: tuple[str, ...] = NAMES) -> Record:
    """A Record of a model with routers, whose routers did this."""
    return with_observed(with_step(of, 0, routed=routed), routers=list(routers))


def judged(a: Record, b: Record, first: Any, second: Any = None, **given: Any) -> RungResult:
    """The rung, where b's routers are these and a's as they are."""
    theirs = [r.routed() if isinstance(r, Layer) else r for r in (first, second or SECOND)]
    left = run(a, FIRST.routed(), SECOND.routed())
    return routing(comparison(left, run(b, *theirs), **given))


class TestAgree:
    def test_a_model_without_routers(self, worded: Worded, a: Record, b: Record) -> None:
        result = routing(comparison(a, b))
        assert result.result is NOT_EXERCISED
        worded(result)

    def test_a_model_of_no_known_family(self, worded: Worded, a: Record, b: Record) -> None:
        """What `parity train` trained: it may have routers, of which nothing says so."""
        result = routing(comparison(as_training(a), as_training(b)))
        assert result.result is NOT_EXERCISED
        worded(result)

    def test_equal(self, worded: Worded, a: Record, b: Record) -> None:
        result = judged(a, b, FIRST)
        assert (result.result, result.value, result.metric) == (PASS, 0, "router")
        worded(result)

    def test_within_rounding(self, a: Record, b: Record) -> None:
        result = judged(
            a, b, dataclasses.replace(FIRST, hidden=FIRST.hidden * np.float32(1 + 1e-7))
        )
        assert result.result is PASS
        assert result.value is not None
        assert 0 < result.value < LOGITS.floors[0].value

    def test_whatever_the_order_of_a_token_s_experts(self, a: Record, b: Record) -> None:
        routed = FIRST.routed()
        turned = tuple(taken[::-1] for taken in routed.taken)
        assert judged(a, b, dataclasses.replace(routed, taken=turned)).result is PASS

    def test_first_micro_batches_of_other_rows(self, worded: Worded, a: Record, b: Record) -> None:
        """One training in two configurations: the routers see other tokens first."""
        batch = b.steps[0].batches[0]
        half = with_step(b, 0, batches=(dataclasses.replace(batch, shape=(2, *batch.shape[1:])),))
        left, right = (run(r, FIRST.routed(), SECOND.routed()) for r in (a, half))
        result = routing(comparison(left, right, configurations=True))
        assert result.result is NOT_EXERCISED
        worded(result)
        halves = with_step(half, 0, batches=half.steps[0].batches * 2)
        turned = routing(comparison(run(halves), left, configurations=True))
        assert "of 2 and of 4 rows" in turned.explanation
        assert routing(comparison(left, right)).result is PASS
        same = run(b, FIRST.routed(), SECOND.routed())
        assert routing(comparison(left, same, configurations=True)).result is PASS

    def test_what_routers_do_at_later_steps_is_not_compared(self, a: Record, b: Record) -> None:
        """By then the weights differ by what the updates were apart."""
        wrong = one_elsewhere(FIRST, largest_margin(FIRST))
        left, right = (run(r, FIRST.routed(), SECOND.routed()) for r in (a, b))
        assert routing(comparison(left, with_step(right, 1, routed=(wrong,)))).result is PASS

    def test_it_claims_no_token_that_was_not_kept(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        """Two of those that were not, each in the other one's place, are seen by nothing here."""

        def first_of(layer: Layer) -> Routed:
            routed = layer.routed()
            return dataclasses.replace(routed, taken=routed.taken[:16], margins=routed.margins[:16])

        pair = [run(record, first_of(FIRST), first_of(SECOND)) for record in (a, b)]
        result = routing(comparison(*pair))
        assert result.result is PASS
        assert "the first 16" in result.detects
        worded(result)
        whole = run(b, FIRST.routed(), SECOND.routed())
        for one_sided in ((pair[0], whole), (whole, pair[0])):
            result = routing(comparison(*one_sided))
            assert (result.result, "the first 16" in result.detects) == (PASS, True)
        wrong = run(b, one_elsewhere(FIRST, 3), SECOND.routed())
        for one_sided in ((pair[0], wrong), (wrong, pair[0])):
            result = routing(comparison(*one_sided))
            assert (result.result, result.value) == (FAIL, 1 / 16)
            assert "1 of 16 tokens" in result.explanation

    def test_a_single_router(self, a: Record, b: Record) -> None:
        pair = [run(record, FIRST.routed(), routers=NAMES[:1]) for record in (a, b)]
        assert routing(comparison(*pair)).result is PASS

    def test_scores_that_no_token_can_exceed_claim_no_token(self, a: Record, b: Record) -> None:
        """A score is at most 1."""
        scores = [layer.routed().scores for layer in (FIRST, SECOND)]
        norm = max(s.norm for s in scores if s is not None)
        for margin, claimed in ((0.9, True), (1.5, False)):
            floor = margin / norm / 2 / math.sqrt(2)
            limits = tolerance(floor={"float32": {"router_scores": floor}})
            result = judged(a, b, FIRST, tolerance=limits)
            assert (result.result, "one token" in result.detects) == (PASS, claimed)


class TestMissing:
    @pytest.mark.parametrize("what", ["given", "logits", "scores", "taken"])
    def test_what_was_not_observed(self, worded: Worded, a: Record, b: Record, what: str) -> None:
        empty: Any = () if what == "taken" else None
        lacking = dataclasses.replace(SECOND.routed(), **{what: empty})
        result = judged(a, b, FIRST, lacking)
        assert result.result is INVALID
        worded(result)
        left, right = run(a, FIRST.routed(), lacking), run(b, FIRST.routed(), SECOND.routed())
        assert routing(comparison(left, right)).result is INVALID

    @pytest.mark.parametrize("side", [0, 1])
    def test_what_was_not_observed_of_the_noise_is_no_number(
        self, a: Record, b: Record, side: int
    ) -> None:
        pair = [run(r, FIRST.routed()) for r in (a, b)]
        lacking = dataclasses.replace(FIRST.routed(), logits=None, scores=None)
        pair[side] = run((a, b)[side], lacking)
        for measure in (logits_distance, scores_distance):
            assert math.isnan(measure(*pair) or 0)

    def test_a_layer(self, worded: Worded, a: Record, b: Record) -> None:
        whole, half = run(a, FIRST.routed(), SECOND.routed()), run(b, FIRST.routed())
        for pair in ((whole, half), (half, whole), (half, half)):
            result = routing(comparison(*pair))
            assert result.result is INVALID
            worded(result)

    def test_everything(self, a: Record, b: Record) -> None:
        """Whether by one side or by both: a model with routers is not one without."""
        whole, none = run(a, FIRST.routed(), SECOND.routed()), run(b)
        assert routing(comparison(whole, none)).result is INVALID
        assert routing(comparison(none, none)).result is INVALID
        assert routing(comparison(whole, b)).result is INVALID
        assert routing(comparison(b, whole)).result is INVALID

    def test_other_routers_were_watched(self, worded: Worded, a: Record, b: Record) -> None:
        left = run(a, FIRST.routed(), SECOND.routed())
        result = routing(comparison(left, run(b, FIRST.routed(), routers=NAMES[:1])))
        assert result.result is INVALID
        worded(result)

    @pytest.mark.parametrize(
        ("case", "expected"), [("mixtral-tiny", INVALID), ("llama-tiny", NOT_EXERCISED)]
    )
    def test_a_run_that_was_imported(
        self, a: Record, b: Record, case: str, expected: Result
    ) -> None:
        """What a trainer logs does not show it; of a model without routers nothing is asked."""
        model = load([f"case={case}"]).case.model
        pair = []
        for record in (a, b):
            assert isinstance(record.case, Case)
            of = dataclasses.replace(record.case, model=model)
            made = Imported(("a log",), {})
            manifest = dataclasses.replace(record.manifest, case=of, imported=made)
            pair.append(dataclasses.replace(record, manifest=manifest))
        assert routing(comparison(*pair)).result is expected


class TestDiffer:
    @pytest.mark.parametrize(
        "other",
        [
            Layer(hidden=FIRST.hidden[:32]),
            Layer(weights=drawn(2, 8, WIDTH)),
            Layer(chosen=1),
        ],
        ids=["tokens", "experts", "experts for each token"],
    )
    def test_another_count(self, worded: Worded, a: Record, b: Record, other: Layer) -> None:
        result = judged(a, b, other)
        assert result.result is FAIL
        worded(result)

    def test_logits(self, worded: Worded, a: Record, b: Record) -> None:
        result = judged(a, b, FIRST, dataclasses.replace(SECOND, weights=SECOND.weights * 1.01))
        assert (result.result, result.metric) == (FAIL, "router")
        assert result.value == pytest.approx(0.01, rel=0.5)
        (finding,) = result.findings
        assert finding.step == 0
        assert finding.b == pytest.approx(1.01 * finding.a, rel=1e-3)
        worded(result)

    @pytest.mark.parametrize("what", ["logits", "scores"])
    def test_what_is_not_finite_is_never_equal(self, a: Record, b: Record, what: str) -> None:
        changed: Any = {what: Sums((float("nan"),) * 8, float("nan"))}
        broken = dataclasses.replace(FIRST.routed(), **changed)
        left, right = run(a, broken, SECOND.routed()), run(b, broken, SECOND.routed())
        result = routing(comparison(left, right))
        assert result.result is FAIL
        assert judged(a, b, broken).result is FAIL

    def test_scores_of_equal_logits(self, worded: Worded, a: Record, b: Record) -> None:
        class Sigmoid(Layer):
            def scores(self) -> Array:
                return np.asarray(1 / (1 + np.exp(-self.logits())))

        result = judged(a, b, Sigmoid())
        assert (result.result, result.metric) == (FAIL, "router_scores")
        worded(result)

    def test_another_choice_of_equal_scores(self, worded: Worded, a: Record, b: Record) -> None:
        class NextBest(Layer):
            def taken(self) -> Any:
                return np.argsort(-self.scores(), 1, "stable")[:, CHOSEN:]

        result = judged(a, b, NextBest())
        assert (result.result, result.metric, result.value) == (FAIL, "experts", 1.0)
        assert result.findings[0].step == 0
        worded(result)

    @pytest.mark.parametrize("floor", [1e-4, 0.1])
    def test_one_token_of_all(self, worded: Worded, a: Record, b: Record, floor: float) -> None:
        """However many may go elsewhere at a tie: this one is at none."""
        limits = tolerance(floor={"float32": {"experts": floor}})
        result = judged(a, b, one_elsewhere(FIRST, largest_margin(FIRST)), tolerance=limits)
        assert (result.result, result.metric) == (FAIL, "experts")
        assert result.value == 1 / TOKENS
        worded(result)

    def test_tokens_that_are_not_kept_one_by_one(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        def cut(routed: Routed) -> Routed:
            return dataclasses.replace(routed, taken=routed.taken[:16], margins=routed.margins[:16])

        one, more, *rest = FIRST.routed().load
        moved = dataclasses.replace(cut(FIRST.routed()), load=(one - 4, more + 4, *rest))
        left = run(a, cut(FIRST.routed()), SECOND.routed())
        result = routing(comparison(left, run(b, moved, SECOND.routed())))
        assert (result.result, result.metric, result.value) == (FAIL, "experts", 4 / 128)
        worded(result)

    def test_experts_that_are_permuted(self, worded: Worded, a: Record, b: Record) -> None:
        """The same tokens go together: it is the numbers that differ."""
        turned = Layer(weights=FIRST.weights[[1, 0, 2, 3]])
        result = judged(a, b, turned)
        assert (result.result, result.metric) == (FAIL, "router")
        assert permuted(FIRST.routed(), turned.routed()).endswith(": 0 is 1, 1 is 0")
        worded(result)

    def test_a_choice_under_other_numbers(self, worded: Worded, a: Record, b: Record) -> None:
        class Renumbered(Layer):
            def taken(self) -> Any:
                return np.asarray([2, 0, 1, 3])[super().taken()]

        result = judged(a, b, Renumbered())
        assert (result.result, result.metric) == (FAIL, "experts")
        worded(result)

    def test_nothing_is_called_permuted_that_is_not(self) -> None:
        one, other = FIRST.routed(), one_elsewhere(FIRST, 3)
        assert permuted(one, one) == permuted(one, other) == ""

    def test_both_agree_in_one_layer_only(self, a: Record, b: Record) -> None:
        wrong = one_elsewhere(SECOND, largest_margin(SECOND))
        assert judged(a, b, FIRST, wrong).result is FAIL
        assert (
            judged(a, b, wrong_first := one_elsewhere(FIRST, largest_margin(FIRST))).result is FAIL
        )
        assert (
            routing(
                comparison(run(a, wrong_first, SECOND.routed()), run(b, FIRST.routed(), wrong))
            ).result
            is FAIL
        )


def largest_margin(layer: Layer) -> int:
    return int(np.argmax(layer.routed().margins))


def one_elsewhere(layer: Layer, token: int) -> Routed:
    """One token goes to the expert after its last one."""
    routed = layer.routed()
    order = np.argsort(-layer.scores(), 1, "stable")[token]
    taken = (*map(int, order[: layer.chosen - 1]), int(order[layer.chosen]))
    load = list(routed.load)
    load[order[layer.chosen - 1]] -= 1
    load[order[layer.chosen]] += 1
    moved = (*routed.taken[:token], taken, *routed.taken[token + 1 :])
    return dataclasses.replace(routed, taken=moved, load=tuple(load))


class TestTies:
    """Where rounding decides between two experts."""

    @pytest.fixture
    def tied(self) -> tuple[Routed, Routed]:
        """A token whose second and third scores are as good as equal, and one that goes over."""
        for token in range(TOKENS):
            near = dataclasses.replace(FIRST, hidden=FIRST.hidden.copy())
            last, following = np.argsort(-near.scores()[token])[1:3]
            # Along the difference of both experts' weights, until their logits are equal.
            apart = near.weights[last] - near.weights[following]
            near.hidden[token] -= apart * (near.hidden[token] @ apart) / (apart @ apart)
            if near.routed().margins[token] < 1e-6:  # and not another expert between
                return near.routed(), one_elsewhere(near, token)
        raise AssertionError

    def test_two_right_implementations_part(
        self, worded: Worded, a: Record, b: Record, tied: tuple[Routed, Routed]
    ) -> None:
        pair = run(a, tied[0], SECOND.routed()), run(b, tied[1], SECOND.routed())
        result = routing(comparison(*pair))
        assert result.result is INVALID
        worded(result)
        # What follows from it is neither's fault.
        loss = first_loss(pair[0])
        assert loss is not None
        verdict = judge(comparison(pair[0], with_loss(pair[1], 0, loss * 1.01)))
        assert verdict.rung("forward").result is INVALID
        assert verdict.result is INVALID
        assert verdict.headline_rung is not None
        assert verdict.headline_rung.rung == "routing"

    def test_perturbed_weights_part_there_too(
        self, worded: Worded, a: Record, b: Record, tied: tuple[Routed, Routed]
    ) -> None:
        """Then what follows is within what they do to it."""
        pair = [
            run(record, routed, SECOND.routed())
            for record, routed in zip((a, b), tied, strict=True)
        ]
        given, noisy = tolerance(floor=NOISY), (pair[0], pair[1])
        result = routing(comparison(*pair, tolerance=given, noise_floor=noisy))
        assert result.result is PASS
        worded(result)
        # Without them, or where they part nothing, no limit below knows what comes of it.
        for noise in (None, (pair[0], pair[0])):
            result = routing(comparison(*pair, tolerance=given, noise_floor=noise))
            assert result.result is INVALID

    def test_a_nan_is_no_tie(self, a: Record, b: Record, tied: tuple[Routed, Routed]) -> None:
        margins = tuple(float("nan") if m < 1e-6 else m for m in tied[1].margins)
        other = dataclasses.replace(tied[1], margins=margins)
        left, right = run(a, tied[0], SECOND.routed()), run(b, other, SECOND.routed())
        assert routing(comparison(left, right)).result is FAIL

    def test_one_run_for_which_it_is_no_tie(
        self, a: Record, b: Record, tied: tuple[Routed, Routed]
    ) -> None:
        for side in (0, 1):
            routed = list(tied)
            margins = tuple(0.5 if m < 1e-6 else m for m in routed[side].margins)
            routed[side] = dataclasses.replace(routed[side], margins=margins)
            pair = [run(r, x, SECOND.routed()) for r, x in zip((a, b), routed, strict=True)]
            assert routing(comparison(*pair)).result is FAIL

    def test_many_small_steps_are_no_tie(self, a: Record, b: Record) -> None:
        """Each token by itself may be at one; not all of them."""
        scores = FIRST.routed().scores
        assert scores is not None
        margin = 1.2 * SCORES.floors[0].value * scores.norm
        routed = dataclasses.replace(FIRST.routed(), margins=(margin,) * TOKENS)
        moved = dataclasses.replace(one_elsewhere(FIRST, 0), margins=routed.margins)
        left = run(a, routed, SECOND.routed())
        assert routing(comparison(left, run(b, moved, SECOND.routed()))).result is INVALID
        every = dataclasses.replace(
            routed, taken=tuple(one_elsewhere(FIRST, t).taken[t] for t in range(TOKENS))
        )
        assert routing(comparison(left, run(b, every, SECOND.routed()))).result is FAIL

    def test_a_limit_that_decides_nothing(self, a: Record, b: Record) -> None:
        for name in ("router", "experts"):
            given = tolerance(floor={"float32": {name: 1.0}})
            pair = run(a, FIRST.routed(), SECOND.routed()), run(b, FIRST.routed(), SECOND.routed())
            assert routing(comparison(*pair, tolerance=given)).result is INCONCLUSIVE


NOISY = {"float32": {"experts": 1 / TOKENS}}


class TestWhatComesBefore:
    def test_other_inputs_are_not_the_router_s(self, worded: Worded, a: Record, b: Record) -> None:
        """An attention that is wrong, or experts that drop tokens: `forward` says so."""
        moved = dataclasses.replace(SECOND, hidden=SECOND.hidden * np.float32(1.1))
        result = judged(a, b, FIRST, moved)
        assert result.result is INCONCLUSIVE
        worded(result)
        pair = run(a, FIRST.routed(), SECOND.routed()), run(b, FIRST.routed(), moved.routed())
        loss = first_loss(pair[0])
        assert loss is not None
        verdict = judge(comparison(pair[0], with_loss(pair[1], 0, loss * 1.01)))
        assert verdict.rung("forward").result is FAIL
        assert verdict.headline_rung is not None
        assert verdict.headline_rung.rung == "forward"

    def test_they_are_never_passed_over(self, a: Record, b: Record) -> None:
        """Whatever the loss is: a router that was not compared makes no PASS."""
        moved = dataclasses.replace(FIRST, hidden=FIRST.hidden * np.float32(1.1))
        left = run(a, FIRST.routed(), SECOND.routed())
        right = with_loss(run(b, moved.routed(), SECOND.routed()), 0, first_loss(a))
        assert judge(comparison(left, right)).result is INCONCLUSIVE

    def test_a_wrong_router_is_not_forward_s(self, a: Record, b: Record) -> None:
        wrong = one_elsewhere(FIRST, largest_margin(FIRST))
        left, right = run(a, FIRST.routed(), SECOND.routed()), run(b, wrong, SECOND.routed())
        loss = first_loss(a)
        assert loss is not None
        verdict = judge(comparison(left, with_loss(right, 0, loss * 1.01)))
        assert verdict.rung("routing").result is FAIL
        assert verdict.rung("forward").result is INVALID

    def test_other_weights_say_nothing(self, a: Record) -> None:
        other = Trainer(label="b", seed=1).record()
        left, right = run(a, FIRST.routed(), SECOND.routed()), run(other, SECOND.routed())
        assert judge(comparison(left, right)).rung("routing").result is INVALID


def louder(sketched: Sums) -> Sums:
    return Sums(tuple(s * 1.3 for s in sketched.sketch), sketched.norm * 1.3)


ALTERED: dict[str, Any] = {
    "name": lambda name: f"{name}x",
    "tokens": lambda tokens: tokens + 1,
    "given": louder,
    "logits": louder,
    "scores": louder,
    "taken": lambda taken: (*taken[1:], taken[0]),
    "load": lambda load: (load[0] + 1, load[1] - 1, *load[2:]),
}


class TestEachField:
    """Whatever is altered of one side, the pair passes no longer; or why it may."""

    @pytest.mark.parametrize("layer", [0, 1])
    @pytest.mark.parametrize("what", ALTERED)
    def test_altered(self, a: Record, b: Record, what: str, layer: int) -> None:
        routed = [FIRST.routed(), SECOND.routed()]
        changed = ALTERED[what](getattr(routed[layer], what))
        routed[layer] = dataclasses.replace(routed[layer], **{what: changed})
        assert judged(a, b, *routed).result not in (PASS, NOT_EXERCISED)

    def test_margins_tell_only_of_tokens_that_part(self, a: Record, b: Record) -> None:
        routed = FIRST.routed()
        nearer = dataclasses.replace(routed, margins=tuple(m / 2 for m in routed.margins))
        assert judged(a, b, nearer).result is PASS


class TestRead:
    """What contradicts itself in a Record is damage."""

    def read(self, folder: Path, *routed: Any) -> Any:
        path = Trainer().write(folder) / STEPS
        events = [json.loads(line) for line in path.read_text().splitlines()]
        first = next(event for event in events if event["event"] == "values")
        first["routed"] = encode([dataclasses.asdict(each) for each in routed])
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
        steps, _, _ = read_steps(path, strict=True)
        return steps[0].routed

    def test_as_it_was_written(self, tmp_path: Path) -> None:
        whole = FIRST.routed(), SECOND.routed()
        assert self.read(tmp_path, *whole) == whole

    @pytest.mark.parametrize(
        "changes",
        [
            {"load": (1, 2, 3, 4)},
            {"margins": (0.1,)},
            {"tokens": TOKENS + 1},
            {"taken": ((0, 0), *FIRST.routed().taken[1:])},
            {"taken": ((0, 4), *FIRST.routed().taken[1:])},
            {"taken": ((0,), *FIRST.routed().taken[1:])},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_what_cannot_be(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        with pytest.raises(BadInput, match=r"layers\.0\.block_sparse_moe\.gate chose contradicts"):
            self.read(tmp_path, dataclasses.replace(FIRST.routed(), **changes))

    def test_one_that_is_there_twice(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="a router is there twice"):
            self.read(tmp_path, FIRST.routed(), FIRST.routed())


def test_the_share_of_unrelated_choices_is_beyond_every_limit() -> None:
    assert CHOICE.unrelated <= 1 - 1 / 6  # two of four by chance
