"""Step times by the device's own clock."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from builders import (
    as_training,
    comparison,
    tolerance,
    with_manifest,
    with_observed,
)

from harness.config.training import Rows
from harness.ladder.comparison import Comparison
from harness.ladder.device_time import steps_of, throughput
from harness.ladder.result import Result
from harness.ladder.rungs.step_time import (
    judge_launches,
    step_time,
)
from harness.record.evidence import DeviceTimes, Record, Window

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


INCONCLUSIVE, NOT_EXERCISED = Result.INCONCLUSIVE, Result.NOT_EXERCISED


def timed(run: Record, *seconds: float, window: int = 1) -> Record:
    """A run whose steady windows took so many seconds a step."""
    windows = [Window(i, i, 5.0, 5.0, 1, 1, 0, {}) for i in (0, 1)]
    for i, s in enumerate(seconds):
        first = 2 + i * window
        windows.append(Window(first, first + window - 1, s * window, 1.0, 0, 1, 0, {}))
    steps = 2 + len(seconds) * window
    run = dataclasses.replace(run, windows=tuple(windows))
    return with_manifest(run, lambda m: m["case"].update(steps=steps))


def noisy(ratio: float = 1.0, count: int = 40, seed: int = 0, noise: float = 0.01) -> list[float]:
    generator = np.random.default_rng(seed)
    return list(ratio * 0.1 * np.exp(noise * generator.standard_normal(count)))


def under(limit: float | None, a: Record, b: Record, **given: Any) -> Comparison:
    return comparison(a, b, tolerance=tolerance(step_time=limit), **given)


def profiled(run: Record, *devices: list[float]) -> Record:
    """A run of which a TPU's profile was taken: seconds between steps, by device."""
    seconds = {f"/device:TPU:{n}": tuple(gaps) for n, gaps in enumerate(devices)}
    return dataclasses.replace(run, device_times=DeviceTimes("step", seconds, (), ()))


class TestDeviceTime:
    # six FLOPs for each weight of a matrix, and attention's, against 918 TFLOP/s of a v6e
    share = 51_200_000 * (6 * (2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192) + 64 * 512)
                          + 12 * 2 * 128 * 4 * 16) / 918e12  # fmt: skip

    def judged(self, a: Record, b: Record, x: Record, y: Record, limit: float | None) -> Any:
        windows = [timed(run, *noisy()) for run in (a, b)]
        pair = [
            dataclasses.replace(w, device_times=run.device_times)
            for w, run in zip(windows, (x, y), strict=True)
        ]
        return step_time(under(limit, *pair))

    @pytest.mark.parametrize(("ratio", "expected"), [(1.0, PASS), (1.2, FAIL), (1 / 1.2, FAIL)])
    def test_it_counts_more_than_the_hosts_windows(
        self, a: Record, b: Record, ratio: float, expected: Result
    ) -> None:
        x, y = profiled(a, noisy(seed=5)), profiled(b, noisy(ratio, seed=6))
        result = self.judged(a, b, x, y, 0.05)
        assert result.result is expected
        assert "40 and 40 gaps between device steps" in result.explanation

    @pytest.mark.parametrize("gaps", [[], [[]], [[0.3]]])
    def test_where_only_one_was_profiled_windows_count(
        self, a: Record, b: Record, gaps: list[list[float]]
    ) -> None:
        for x, y in (
            (profiled(a, noisy(3.0)), profiled(b, *gaps)),
            (profiled(a, *gaps), profiled(b, noisy(3.0))),
        ):
            result = self.judged(a, b, x, y, 0.05)
            assert result.result is INCONCLUSIVE
            assert "40 and 40 windows" in result.explanation

    def test_more_devices_are_not_more_measurements(self, a: Record, b: Record) -> None:
        """They step together: with three steps of 256 devices one knows three steps."""
        few, more = noisy(count=3, noise=0.05), noisy(count=3, seed=1, noise=0.05)
        one = self.judged(a, b, profiled(a, few), profiled(b, more), 0.05)
        many = self.judged(a, b, profiled(a, *[few] * 256), profiled(b, *[more] * 256), 0.05)
        assert many == one
        assert one.result is INCONCLUSIVE
        assert steps_of(profiled(a, *[few] * 256)) == few

    def test_steps_of_two_runs_are_no_pairs(self, a: Record, b: Record) -> None:
        """What happens to coincide in two profiles is noise all the same."""
        wild = noisy(count=4, noise=0.5)
        x, y = profiled(a, wild), profiled(b, [t * 1.001 for t in wild])
        assert self.judged(a, b, x, y, 0.05).result is INCONCLUSIVE

    def test_whole_runs_are_repeats(self, a: Record, b: Record) -> None:
        """Launches that differ by 5 % are known to differ once there are several of them."""
        levels = (1.0, 1.05, 0.95, 1.0)
        launches = tuple(
            (profiled(timed(a, *noisy()), noisy(seed=2 * i)),
             profiled(timed(b, *noisy()), noisy(level, seed=2 * i + 1)))
            for i, level in enumerate(levels)
        )  # fmt: skip
        result = step_time(under(0.03, a, b, timing=launches))
        assert result.result is INCONCLUSIVE
        assert "160 and 160 gaps between device steps" in result.explanation
        assert judge_launches(launches, tolerance(step_time=0.03), 1) == result
        alike = tuple(
            (profiled(timed(a, *noisy()), noisy(seed=2 * i)),
             profiled(timed(b, *noisy()), noisy(seed=2 * i + 1)))
            for i in range(4)
        )  # fmt: skip
        assert step_time(under(0.03, a, b, timing=alike)).result is PASS
        assert judge_launches(alike, tolerance(step_time=0.03), 1).result is PASS

    def test_one_launch_without_a_profile_leaves_the_windows(self, a: Record, b: Record) -> None:
        whole = profiled(timed(a, *noisy()), noisy()), profiled(timed(b, *noisy()), noisy(3.0))
        lost = whole[0], profiled(timed(b, *noisy()))
        result = step_time(under(0.05, a, b, timing=(whole, lost)))
        assert "80 and 80 windows)" in result.explanation
        assert result.result is PASS

    def test_devices_that_began_within_another_step(self, a: Record) -> None:
        run = profiled(a, [0.1, 0.2, 0.3], [0.1, 0.4], [0.3, 0.2, 0.5], [0.9])
        assert steps_of(run) == [0.1, 0.2]

    @pytest.mark.parametrize("seconds", [math.nan, math.inf, 0.0, -1.0])
    @pytest.mark.parametrize("limit", [0.05, None])
    def test_a_time_that_is_none(
        self, a: Record, b: Record, seconds: float, limit: float | None
    ) -> None:
        fine, broken = profiled(a, noisy()), profiled(b, noisy(), [0.1, seconds, 0.1])
        for x, y in ((fine, broken), (broken, fine), (broken, broken)):
            result = self.judged(a, b, x, y, limit)
            assert result.result is INVALID
            assert f"a step took {seconds} s on a device" in result.explanation

    def test_tokens_per_second(self, a: Record) -> None:
        a = with_manifest(a, lambda m: m["case"]["data"].update(sequence_length=128))
        # 4 rows of 128 tokens in half a second
        assert throughput(a, 0.5) == "hf: 1,024 tokens a second"
        for devices in (1, 4):
            text = throughput(with_observed(a, device_kind="TPU v6e", devices=devices), 1e-5)
            assert (
                text == f"hf: 51,200,000 tokens a second, {self.share / devices:.1%} of peak FLOPs"
            )
        text = throughput(with_observed(a, device_kind="TPU v6e", devices=None), 1e-5)
        assert text.endswith(f", {self.share:.1%} of peak FLOPs")
        unknown = as_training(a, model=None)
        assert throughput(unknown, 0.5) == "hf: 1,024 tokens a second"
        nothing = as_training(a, data=Rows(None))
        assert throughput(nothing, 0.5) == "hf: 0.5 s a step"
