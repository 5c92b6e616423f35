"""Results of pairs and sessions: nothing that is missing counts as a PASS."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from builders import Trainer, comparison
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import BadInput
from harness.ladder.judge import judge
from harness.ladder.ladder import names, rungs
from harness.ladder.result import Finding, Result, RungResult
from harness.ladder.verdict import EXIT_CODES, PairVerdict, Verdict, merged, overall

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID
INCONCLUSIVE, NOT_EXERCISED = Result.INCONCLUSIVE, Result.NOT_EXERCISED


def pair(**results: Result) -> PairVerdict:
    rungs = tuple(
        RungResult(name, results.get(name, PASS), f"what {name} says") for name in names()
    )
    return PairVerdict("hf", "torchprime", "/a", "/b", rungs)


def session(*pairs: PairVerdict) -> Verdict:
    return Verdict("hf against torchprime", "toy", pairs)


class TestOverall:
    @given(st.lists(st.sampled_from(Result)))
    def test_pass_means_that_something_passed_and_nothing_else_was_wrong(
        self, results: list[Result]
    ) -> None:
        passes = PASS in results and set(results) <= {PASS, NOT_EXERCISED}
        assert (overall(results) is PASS) == passes

    @given(st.lists(st.sampled_from(Result)), st.randoms())
    def test_order_does_not_count(self, results: list[Result], random: Any) -> None:
        shuffled = list(results)
        random.shuffle(shuffled)
        assert overall(results) is overall(shuffled)

    @pytest.mark.parametrize(
        ("results", "worst"),
        [
            ([PASS, FAIL, INVALID, INCONCLUSIVE], FAIL), ([PASS, INVALID, INCONCLUSIVE], INVALID),
            ([PASS, INCONCLUSIVE, NOT_EXERCISED], INCONCLUSIVE), ([], INVALID),
            ([NOT_EXERCISED, NOT_EXERCISED], INVALID), ([PASS, NOT_EXERCISED], PASS),
        ],
    )  # fmt: skip
    def test_the_worst(self, results: list[Result], worst: Result) -> None:
        assert overall(results) is worst


class TestPair:
    def test_all_rungs_hold(self) -> None:
        assert pair().result is PASS
        assert pair().headline == "hf and torchprime train alike: 17 rungs hold"
        assert pair(clip=NOT_EXERCISED).headline.endswith("16 rungs hold")
        assert pair().headline_rung is None

    def test_steps_that_only_compile_alike_do_not_train_alike(self) -> None:
        unjudged = dict.fromkeys(names(), NOT_EXERCISED)
        compiled = pair(**{**unjudged, "compiled": PASS})
        assert compiled.result is PASS
        assert compiled.only_traced
        assert "train alike" not in compiled.headline
        for name in set(names()) - {"compiled", "predicted_time"}:
            executed = pair(**{**unjudged, "compiled": PASS, name: PASS})
            assert executed.headline == "hf and torchprime train alike: 2 rungs hold"

    @pytest.mark.parametrize("name", names())
    @pytest.mark.parametrize("result", [FAIL, INVALID, INCONCLUSIVE])
    def test_any_rung_counts(self, name: str, result: Result) -> None:
        found = pair(**{name: result})
        assert found.result is result
        assert found.headline == f"{name}: what {name} says"
        assert found.rung(name).result is result

    def test_the_first_rung_that_fails_is_the_headline(self) -> None:
        found = pair(init=INVALID, clip=FAIL, loss_curve=FAIL)
        assert found.headline_rung is not None
        assert found.headline_rung.rung == "clip"

    def test_without_a_failure_the_first_that_could_not_be_judged(self) -> None:
        for first, second in ((INVALID, INCONCLUSIVE), (INCONCLUSIVE, INVALID)):
            found = pair(data=first, graph=second)
            assert found.headline_rung is not None
            assert found.headline_rung.rung == "data"

    @pytest.mark.parametrize("name", names())
    def test_a_rung_that_is_not_there_is_not_passed(self, name: str) -> None:
        rungs = tuple(r for r in pair().rungs if r.rung != name)
        found = dataclasses.replace(pair(), rungs=rungs)
        assert found.result is INVALID
        assert "train alike" not in found.headline

    def test_nothing_was_judged(self) -> None:
        nothing = dataclasses.replace(pair(), rungs=())
        assert nothing.result is INVALID
        assert nothing.headline == "hf and torchprime: nothing was judged"
        skipped = pair(**dict.fromkeys(names(), NOT_EXERCISED))
        assert skipped.result is INVALID
        assert "train alike" not in skipped.headline

    @pytest.mark.parametrize(
        ("share", "metric", "hidden"), [(1.0, "m", True), (0.99, "m", False), (2.0, "", False)]
    )
    def test_a_pass_of_a_noisy_case_says_what_it_hides(
        self, share: float, metric: str, hidden: bool
    ) -> None:
        first, second = [rung for rung in rungs() if rung.compares][:2]
        limits = {first.name: 1e-9, second.name: share * second.noisy}
        found = dataclasses.replace(
            pair(),
            rungs=tuple(
                dataclasses.replace(r, limit=limits.get(r.rung), metric=metric)
                for r in pair().rungs
            ),
        )
        blind = f"differences up to 1e-09 of a {first.compares}, {second.noisy:.2g} of a "
        assert found.blind_to == (blind + second.compares if hidden else "")
        assert found.headline.endswith("; blind to " + found.blind_to if hidden else "rungs hold")

    def test_the_rungs_are_in_causal_order(self) -> None:
        assert names() == (
            "environment", "sharding", "data", "init", "routing", "forward", "backward", "clip",
            "optimizer", "schedule", "loss_curve", "grad_norm_curve", "checkpoint", "graph",
            "compiled", "predicted_time", "step_time",
        )  # fmt: skip


class TestSession:
    @pytest.mark.parametrize(
        ("pairs", "result", "code"),
        [
            ([pair()], PASS, 0), ([pair(), pair(clip=FAIL)], FAIL, 1),
            ([pair(clip=INCONCLUSIVE), pair()], INCONCLUSIVE, 3),
            ([pair(clip=INVALID)], INVALID, 3), ([pair(clip=INVALID), pair(clip=FAIL)], FAIL, 1),
            ([], INVALID, 3),
        ],
    )  # fmt: skip
    def test_the_worst_pair_counts(
        self, pairs: list[PairVerdict], result: Result, code: int
    ) -> None:
        assert session(*pairs).result is result
        assert session(*pairs).exit_code == code

    def test_only_a_pass_exits_with_0(self) -> None:
        assert {r for r in Result if EXIT_CODES[r] == 0} == {PASS, NOT_EXERCISED}
        assert set(EXIT_CODES) == set(Result)

    def test_several_sessions_as_one(self) -> None:
        other = Verdict("x against y", "other", (pair(data=FAIL),), ("a note",))
        both = merged([session(pair()), other])
        assert both.result is FAIL
        assert both.case == "other, toy"
        assert both.notes == ("a note",)
        assert len(both.pairs) == 2
        assert merged([]).result is INVALID


class TestJson:
    def full(self) -> Verdict:
        rungs = list(pair(loss_curve=FAIL).rungs)
        finding = Finding("a text", 3, "lm_head.weight", math.nan, [1.0, math.inf])
        rungs[4] = RungResult(
            "forward", FAIL, "not finite", math.nan, 1e-7, "a source", "", (finding,)
        )
        return session(dataclasses.replace(pair(), rungs=tuple(rungs), notes=("so",)))

    def test_it_is_strict(self) -> None:
        text = json.dumps(self.full().to_json(), allow_nan=False)
        value = json.loads(text)
        assert value["result"] == "FAIL"
        assert value["pairs"][0]["headline_rung"] == "forward"
        assert value["pairs"][0]["rungs"][4]["value"] == "nan"
        assert value["pairs"][0]["rungs"][4]["evidence"][0]["b"] == [1.0, "inf"]
        assert session(pair()).to_json()["pairs"][0]["headline_rung"] is None

    def test_what_was_written_is_read(self) -> None:
        value = json.loads(json.dumps(self.full().to_json()))
        again = Verdict.from_json(value)
        assert again.to_json() == value
        assert again.result is FAIL

    @pytest.mark.parametrize("schema", [None, 0, 2, "1"])
    def test_another_schema(self, schema: Any) -> None:
        with pytest.raises(BadInput, match="schema"):
            Verdict.from_json({**session(pair()).to_json(), "schema": schema})

    def test_a_rung_that_was_left_out_is_not_passed(self) -> None:
        value = session(pair()).to_json()
        del value["pairs"][0]["rungs"][6]
        assert Verdict.from_json(value).result is INVALID


class TestBlindTo:
    """What a PASS in bfloat16 cannot see is in its headline."""

    @pytest.mark.parametrize(("dtype", "blind"), [("float32", False), ("bfloat16", True)])
    def test_headline(self, dtype: str, blind: bool) -> None:
        runs = (Trainer(label=label, dtype=dtype).record() for label in ("hf", "b"))
        verdict = judge(comparison(*runs))
        assert verdict.result is Result.PASS
        assert bool(verdict.blind_to) is blind
        assert verdict.headline.endswith(verdict.blind_to)
        assert ("0.06 of a gradient" in verdict.headline) is blind
