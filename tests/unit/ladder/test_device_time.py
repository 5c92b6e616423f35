"""Step times by the device's own clock."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from builders import (
    as_training,
    tolerance,
    with_manifest,
    with_observed,
)
from golden import Worded
from timing_samples import noisy, timed, under

from harness.config.training import TrainingData
from harness.ladder.device_time import device_steps, profile_fault, throughput
from harness.ladder.result import Result
from harness.ladder.rungs.step_time import (
    judge_launches,
    step_time,
)
from harness.models.family import Model
from harness.record.evidence import DeviceTimes, Record, Window

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID
INCONCLUSIVE, NOT_EXERCISED = Result.INCONCLUSIVE, Result.NOT_EXERCISED


def profiled(run: Record, *devices: list[float], **fields: Any) -> Record:
    """A run of which a profile was taken: seconds between steps, by device, four of them."""
    gaps = devices if len(devices) != 1 else devices * 4
    seconds = {f"/device:TPU:{n}": tuple(gaps) for n, gaps in enumerate(gaps)}
    steps = len(gaps[0]) + 1
    last = run.windows[-1].last
    window = Window(last + 1, last + steps, 9.0, 1.0, 0, steps, 0, {}, True, 0.0)
    run = with_manifest(run, lambda m: m["case"].update(steps=last + steps + 1))
    return dataclasses.replace(
        run,
        windows=(*run.windows, window),
        device_times=dataclasses.replace(DeviceTimes("step", seconds, (), ()), **fields),
    )


class TestDeviceTime:
    # six FLOPs for each weight of a matrix, and attention's, against 918 TFLOP/s of a v6e
    share = 51_200_000 * (6 * (2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192) + 64 * 512)
                          + 12 * 2 * 128 * 4 * 16) / 918e12  # fmt: skip

    @pytest.mark.parametrize(("ratio", "expected"), [(1.0, PASS), (1.2, FAIL), (1 / 1.2, FAIL)])
    def test_it_counts_more_than_the_hosts_windows(
        self, worded: Worded, a: Record, b: Record, ratio: float, expected: Result
    ) -> None:
        x = profiled(timed(a, *noisy(3.0)), noisy(seed=5))
        y = profiled(timed(b, *noisy()), noisy(ratio, seed=6))
        result = step_time(under(0.05, x, y, timing=((x, y),) * 3))
        assert result.result is expected
        worded(result)

    def test_one_launch_decides_nothing(self, a: Record, b: Record) -> None:
        x, y = profiled(timed(a, *noisy()), noisy()), profiled(timed(b, *noisy()), noisy())
        assert step_time(under(0.05, x, y)).result is INCONCLUSIVE

    def test_the_slowest_device_counts(self, a: Record) -> None:
        run = profiled(timed(a, *noisy()), [0.1] * 4, [0.11] * 4, [0.1] * 4, [0.1] * 4)
        assert device_steps(run) == [0.11] * 4

    def test_whole_runs_are_launches(self, a: Record, b: Record) -> None:
        """Launches that differ by 5 % are known to differ once there are several of them."""
        levels = (1.0, 1.05, 0.95, 1.0)

        def launches(*levels: float) -> tuple[tuple[Record, Record], ...]:
            return tuple(
                (profiled(timed(a, *noisy()), noisy(seed=2 * i)),
                 profiled(timed(b, *noisy()), noisy(level, seed=2 * i + 1)))
                for i, level in enumerate(levels)
            )  # fmt: skip

        different = launches(*levels)
        result = step_time(under(0.03, a, b, timing=different))
        assert result.result is INCONCLUSIVE
        assert judge_launches(different, tolerance(step_time=0.03), 1) == result
        assert step_time(under(0.03, a, b, timing=launches(1, 1, 1, 1))).result is PASS

    @pytest.mark.parametrize("seconds", [math.nan, math.inf, 0.0, -1.0])
    @pytest.mark.parametrize("limit", [0.05, None])
    def test_a_time_that_is_none(
        self, worded: Worded, a: Record, b: Record, seconds: float, limit: float | None
    ) -> None:
        fine, broken = (
            profiled(timed(run, *noisy()), [0.1] * 3, [0.1, gap, 0.1], [0.1] * 3, [0.1] * 3)
            for run, gap in ((a, 0.1), (b, seconds))
        )
        for x, y in ((fine, broken), (broken, fine), (broken, broken)):
            result = step_time(under(limit, x, y))
            assert result.result is INVALID
            worded(result)

    def test_tokens_per_second(self, a: Record) -> None:
        def change(manifest: dict[str, Any]) -> None:
            manifest["case"]["data"].update(sequence_length=128)
            manifest["case"]["model"] = dataclasses.asdict(Model())

        a = with_manifest(a, change)
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
        nothing = as_training(a, data=TrainingData(None))
        assert throughput(nothing, 0.5) == "hf: 0.5 s a step"


Damage = Callable[[Record], Record]


def with_times(run: Record, **fields: Any) -> Record:
    assert run.device_times is not None
    return dataclasses.replace(run, device_times=dataclasses.replace(run.device_times, **fields))


def of_device(
    number: int, change: Callable[[tuple[float, ...]], tuple[float, ...] | None]
) -> Damage:
    """Changes the gaps of one device, or leaves it out."""

    def apply(run: Record) -> Record:
        assert run.device_times is not None
        seconds = dict(run.device_times.seconds)
        changed = change(seconds.pop(f"/device:TPU:{number}"))
        if changed is not None:
            seconds[f"/device:TPU:{number}"] = changed
        return with_times(run, seconds=seconds)

    return apply


def every(*damages: Damage) -> Damage:
    def apply(run: Record) -> Record:
        for damage in damages:
            run = damage(run)
        return run

    return apply


def merged(gaps: tuple[float, ...]) -> tuple[float, ...]:
    """An execution in the middle was dropped: two gaps are one."""
    return (*gaps[:5], gaps[5] + gaps[6], *gaps[7:])


DAMAGES: dict[str, Damage] = {
    "a device is missing": of_device(5, lambda gaps: None),
    "a device is idle": every(of_device(5, lambda gaps: None),
              lambda run: with_times(run, idle_devices=("/device:TPU:5",))),
    "one is cut short": of_device(2, lambda gaps: gaps[:-1]),
    "one lost half": of_device(0, lambda gaps: gaps[:10]),
    "one lost its first": of_device(7, lambda gaps: gaps[1:]),
    "one event of one device": of_device(3, merged),
    "one event of all": every(*(of_device(n, merged) for n in range(8))),
    "three are slower": every(
        *(of_device(n, lambda gaps: tuple(1.2 * g for g in gaps)) for n in (1, 4, 6))
    ),
    "events were dropped": lambda run: with_times(run, complaints=("dropped 1,024 events",)),
    "another plane's name": lambda run: dataclasses.replace(
            with_manifest(run, lambda m: m.update(profile="no plane of the device: /device:GPU:0")),
            device_times=None,
        ),
    "no profile": lambda run: dataclasses.replace(run, device_times=None),
    "no profiled window": lambda run: dataclasses.replace(
            run, windows=(*run.windows[:-1], dataclasses.replace(run.windows[-1], profiled=False))
        ),
}  # fmt: skip


class TestProfilesThatLie:
    """Each used to leave the others to be judged, or the windows, and to PASS."""

    def eight(self, run: Record, seed: int = 0) -> Record:
        run = with_observed(timed(run, *noisy(seed=seed)), device="TPU", devices=8,
                            attributes={"coords": [0, 0, 0], "core_on_chip": 0})  # fmt: skip
        gaps = noisy(count=19, seed=seed)
        return profiled(run, *[gaps] * 8)

    def test_whole_ones_pass(self, a: Record, b: Record) -> None:
        launches = tuple((self.eight(a, 2 * i), self.eight(b, 2 * i + 1)) for i in range(3))
        assert step_time(under(0.05, a, b, timing=launches)).result is PASS

    @pytest.mark.parametrize("name", DAMAGES)
    @pytest.mark.parametrize("side", ["a", "b", "both"])
    @pytest.mark.parametrize("everywhere", [True, False])
    def test_it_is_said_and_never_passes(
        self, worded: Worded, a: Record, b: Record, name: str, side: str, everywhere: bool
    ) -> None:
        damage = DAMAGES[name]
        launches = []
        for i in range(3):
            x, y = self.eight(a, 2 * i), self.eight(b, 2 * i + 1)
            if everywhere or i == 1:
                x = x if side == "b" else damage(x)
                y = y if side == "a" else damage(y)
            launches.append((x, y))
        result = step_time(under(0.05, a, b, timing=tuple(launches)))
        assert result.result is INVALID
        worded(result)
        if name != "three are slower":  # by a tolerance, and there is none
            unasked = step_time(under(None, *launches[1]))
            assert unasked.result is NOT_EXERCISED
            worded(unasked)

    def test_the_hosts_clock_may_still_fail_it(self, worded: Worded, a: Record, b: Record) -> None:
        damage = DAMAGES["a device is missing"]
        x = damage(self.eight(a))
        y = damage(profiled(with_observed(timed(b, *noisy(1.2)), devices=8), *[[0.1] * 19] * 8))
        result = step_time(under(0.05, x, y, timing=((x, y),) * 3))
        assert result.result is FAIL
        worded(result)

    def test_several_executions_a_step_are_whole_too(self, a: Record) -> None:
        """Gradient accumulation: the module runs twice for each step of the window."""
        run = self.eight(a)
        window = dataclasses.replace(run.windows[-1], last=run.windows[-1].first + 9)
        run = dataclasses.replace(run, windows=(*run.windows[:-1], window))
        assert profile_fault(run, 0.05) is None
        assert run.device_times is not None
        gaps = run.device_times.seconds["/device:TPU:0"]
        assert device_steps(run) == [gaps[i] + gaps[i + 1] for i in range(0, 18, 2)]

    def test_each_host_has_to_profile_its_devices(self, a: Record) -> None:
        run = with_observed(self.eight(a), devices=16, processes=2)
        assert "8 of 16 devices" in str(profile_fault(run, 0.05))

    def test_a_plugin_that_is_no_tpu_is_judged_by_the_hosts_clock(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        """A GPU behind TPU_LIBRARY_PATH: its profile has no plane that the TPU's file names."""
        attributes = {"device_vendor": "NVIDIA"}
        pairs = []
        for i in range(3):
            x, y = (
                with_observed(timed(run, *noisy(seed=seed)), device="TPU",
                              device_kind="PJRT plugin (NVIDIA)", attributes=attributes)
                for run, seed in ((a, 2 * i), (b, 2 * i + 1))
            )  # fmt: skip
            pairs.append((x, y))
        result = step_time(under(0.05, a, b, timing=tuple(pairs)))
        assert result.result is PASS
        worded(result)
