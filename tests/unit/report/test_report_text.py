"""Numbers, values and headlines as text."""

import dataclasses
import math

import pytest
from report_samples import CLIP, pair, rung, verdict

from harness.ladder.result import Result
from harness.report.text import format_number, headline, judged, names, plain, title


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "NaN"),
        (math.inf, "inf"),
        (0.0, "0"),
        (4.76837e-07, "4.77e-07"),
        (0.000625, "0.000625"),
    ],
)
def test_numbers_are_short_and_say_when_there_is_none(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_a_value_just_over_its_limit_does_not_look_like_the_limit() -> None:
    value, limit = judged(rung("forward", Result.FAIL, value=1.00001e-6, limit=1e-6))
    assert float(value) > float(limit)
    value, limit = judged(rung("forward", Result.FAIL, value=math.nextafter(1.0, 2.0), limit=1.0))
    assert float(value) > float(limit)


def test_a_value_and_a_limit_far_apart_stay_short() -> None:
    assert judged(rung("forward", value=1.23456e-7, limit=1e-6)) == ("1.23e-07", "1e-06")
    assert judged(rung("forward", value=1.0, limit=1.0)) == ("1", "1")


def test_a_nan_that_was_judged_is_shown() -> None:
    assert judged(rung("forward", Result.FAIL, value=math.nan, limit=1e-6)) == ("NaN", "1e-06")
    assert judged(rung("forward", value=0.5)) == ("0.5", "–")


def test_evidence_is_exact() -> None:
    assert plain(0.1 + 0.2) == "0.30000000000000004"
    assert plain(math.nan) == "NaN"
    assert plain(None) == "–"
    assert plain({"eps": math.inf, "betas": (0.9, 0.95)}) == '{"eps": "inf", "betas": [0.9, 0.95]}'


def test_two_runs_of_one_label_can_be_told_apart() -> None:
    assert names(pair(a="hf", b="hf")) == ("hf (a)", "hf (b)")
    assert title(pair()) == "hf against torchprime"


def test_the_headline_is_that_of_the_worst_pair() -> None:
    good, bad = pair(), pair(CLIP, b="reference")
    unsure = pair(rung("step_time", Result.INCONCLUSIVE))
    assert headline(verdict(good)) == good.headline
    assert headline(verdict(bad)) == bad.headline
    assert headline(verdict(good, good)) == "all 2 pairs train alike"
    compiled = dataclasses.replace(pair(), rungs=(rung("compiled"),))
    assert "train alike" not in headline(verdict(compiled, compiled))
    assert headline(verdict(good, unsure, bad)) == (
        f"hf against reference: {bad.headline} (1 of 3 pairs FAIL)"
    )


def test_no_pair_is_not_called_alike() -> None:
    assert verdict().result is Result.INVALID
    assert headline(verdict()) == "nothing was compared"
