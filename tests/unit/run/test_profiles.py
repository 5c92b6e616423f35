"""From a device's profile on disk to what the rung of step time says of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from builders import Trainer, comparison, tolerance, with_observed
from golden import Worded
from profiles import plane, steps, text

from harness.ladder.result import Result
from harness.ladder.rungs.step_time import step_time
from harness.record.evidence import Record, Window
from harness.record.layout import DEVICE_TIMES
from harness.record.reader import read_device_times
from harness.run.collect import keep_device_times

COUNT = 8
STEPS = 20
TPU = {"coords": [0, 0, 0], "core_on_chip": 0}
GPU = {"device_vendor": "NVIDIA"}


def device(
    number: int, *, of: str = "TPU", every: float = 10.0, lost: tuple[int, ...] = ()
) -> bytes:
    """One device of a profile of `STEPS` steps, without the executions that were lost."""
    starts = [every * step for step in range(STEPS) if step not in lost]
    return plane(f"/device:{of}:{number}", steps("step(11)", starts))


def whole() -> list[bytes]:
    return [device(number) for number in range(COUNT)]


def run_with(folder: Path, profile: bytes | dict[str, bytes], attributes: dict[str, Any]) -> Record:
    """A run on eight TPU devices whose third steady window was profiled, on each host."""
    run = Trainer(steps=10, window=1, requested=10 + STEPS).record()
    window = Window(10, 9 + STEPS, 9.0, 1.0, 0, STEPS, 0, {}, True, 0.0)
    calm = tuple(w for w in run.windows if w.first < 10)
    run = with_observed(
        dataclasses.replace(run, windows=(*calm, window)),
        device="TPU", device_kind="TPU v6e", devices=COUNT, attributes=attributes,
    )  # fmt: skip
    for host, written in (profile if isinstance(profile, dict) else {".": profile}).items():
        place = folder / host / "profile" / "plugins" / "host"
        place.mkdir(parents=True)
        (place / "host.xplane.pb").write_bytes(written)
    fault = keep_device_times(folder, run.observed)
    times = folder / DEVICE_TIMES
    return dataclasses.replace(
        run,
        manifest=dataclasses.replace(run.manifest, profile=fault),
        device_times=read_device_times(times) if times.is_file() else None,
    )


PROFILES = {
    "one device missing": whole()[1:],
    "one that never ran the step": [*whole()[1:], plane("/device:TPU:0")],
    "one cut short": [*whole()[1:], device(0, lost=(17, 18, 19))],
    "one with a single execution": [*whole()[1:], device(0, lost=tuple(range(1, 20)))],
    "three of eight slower": [*whole()[3:], *(device(number, every=12.0) for number in range(3))],
    "an event dropped on one device": [*whole()[1:], device(0, lost=(9,))],
    "an event dropped on all": [device(number, lost=(9,)) for number in range(COUNT)],
    "GPU planes": [device(number, of="GPU") for number in range(COUNT)],
    "custom planes": [device(number, of="CUSTOM") for number in range(COUNT)],
    "what the profiler complained of": [*whole(), text(3, "1024 events were dropped")],
    "cut within a plane": [b"".join(whole())[:-7]],
    "cut between two planes": whole()[:-1],
    "empty": [],
}  # fmt: skip


def judged(x: Record, y: Record) -> Any:
    c = comparison(x, y, tolerance=tolerance(step_time=0.05), timing=((x, y),) * 3)
    return step_time(c)


def test_a_whole_profile_passes(worded: Worded, tmp_path: Path) -> None:
    x, y = (run_with(tmp_path / side, b"".join(whole()), TPU) for side in "xy")
    result = judged(x, y)
    assert result.result is Result.PASS
    worded(result)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("broken", ["x", "y", "xy"])
def test_what_is_wrong_is_said_and_never_passes(
    worded: Worded, tmp_path: Path, name: str, broken: str
) -> None:
    parts = PROFILES[name]
    x, y = (
        run_with(tmp_path / side, b"".join(parts if side in broken else whole()), TPU)
        for side in "xy"
    )
    result = judged(x, y)
    assert result.result is Result.INVALID
    worded(result)


HALF = [device(number) for number in range(COUNT // 2)]
SECOND_HOST: dict[str, list[bytes] | None] = {
    "no profile": None,
    "a device missing": HALF[1:],
    "one cut short": [*HALF[1:], device(0, lost=(19,))],
    "one idle": [*HALF[1:], plane("/device:TPU:0")],
    "one slower": [*HALF[1:], device(0, every=12.0)],
    "a complaint": [*HALF, text(3, "dropped")],
    "cut within a plane": [b"".join(HALF)[:-7]],
}


def test_the_devices_of_all_hosts_are_in_the_profile(tmp_path: Path) -> None:
    hosts = {host: b"".join(HALF) for host in ("host-0", "host-1")}
    x, y = (run_with(tmp_path / side, hosts, TPU) for side in "xy")
    assert x.device_times is not None
    assert len(x.device_times.seconds) == COUNT
    assert judged(x, y).result is Result.PASS


@pytest.mark.parametrize("name", SECOND_HOST)
def test_what_is_wrong_on_the_second_host_is_said(
    worded: Worded, tmp_path: Path, name: str
) -> None:
    parts = SECOND_HOST[name]
    hosts = {"host-0": b"".join(HALF)}
    x = run_with(tmp_path / "x", {**hosts, "host-1": b"".join(HALF)}, TPU)
    broken = hosts if parts is None else {**hosts, "host-1": b"".join(parts)}
    result = judged(x, run_with(tmp_path / "y", broken, TPU))
    assert result.result is Result.INVALID
    worded(result)


def test_the_planes_of_a_plugin_that_is_no_tpu_are_not_looked_for(
    worded: Worded, tmp_path: Path
) -> None:
    """Which planes are the device stands in the device's file: this one has none of its own."""
    profile = b"".join(device(number, of="GPU") for number in range(COUNT))
    x, y = (run_with(tmp_path / side, profile, GPU) for side in "xy")
    assert x.manifest.profile is None
    result = judged(x, y)
    assert result.result is Result.PASS
    worded(result)
