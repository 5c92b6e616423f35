"""Step time as the device itself has it, from its profile, and what follows from it."""

from __future__ import annotations

import math

from harness.config.training import Shape
from harness.devices.chips import model_flops_utilization
from harness.devices.device import chip, planes_of
from harness.ladder.step_ratio import midmean
from harness.models.family import Model, dense_flops_per_token, family
from harness.record.evidence import DeviceTimes, Record

FEWEST_STEPS = 3
"""Steps of a profile that tell of more than one gap between two."""


def is_profiled(record: Record) -> bool:
    """Whether the device's own clock is what tells this run's step times."""
    return record.device_times is not None or planes_of(record.observed) is not None


def profile_fault(record: Record, tolerance: float | None) -> str | None:
    """What is wrong with the profile of a run that has to have one; None where it can be believed.

    tolerance: of step times; where devices that step together differ by more, there is no one step
               time of all. None does not compare them.

    A profile is of one whole window, between two syncs: every device executes the step equally
    often in it, a whole number of times for each step. So whatever is missing shows.
    """
    if record.manifest.profile is not None:
        return record.manifest.profile
    times = record.device_times
    if times is None:
        return "the device was not profiled: ask for more case.steps, at least two steady windows"
    if times.complaints:
        return f"the profiler complained: {times.complaints[0]}"
    if times.idle_devices:
        return f"{', '.join(times.idle_devices)} never ran {times.module} in the profile"
    if len(times.seconds) != record.observed.devices:
        return f"the profile shows {len(times.seconds)} of {record.observed.devices} devices"
    return _lost_executions(record, times) or _apart(times, tolerance)


def _lost_executions(record: Record, times: DeviceTimes) -> str | None:
    executions = {device: len(gaps) + 1 for device, gaps in times.seconds.items()}
    most = max(executions.values())
    for device, count in executions.items():
        if count != most:
            return (
                f"{device} ran {times.module} {count} times in the profile, another device {most} "
                "times: events were dropped, or it was cut short"
            )
    steps = _profiled_steps(record)
    if steps == 0 or most % steps:
        return f"the profile shows {most} executions in {steps} steps: events were dropped"
    if steps < FEWEST_STEPS:
        return f"the profile shows {steps} steps: ask for a longer case.window"
    return None


def _profiled_steps(record: Record) -> int:
    return sum(window.steps for window in record.windows if window.profiled)


def _apart(times: DeviceTimes, tolerance: float | None) -> str | None:
    if tolerance is None:
        return None
    means = {device: midmean(gaps) for device, gaps in times.seconds.items()}
    fastest = min(means, key=means.__getitem__)
    slower = [device for device, mean in means.items() if mean > (1 + tolerance) * means[fastest]]
    if not slower:
        return None
    return (
        f"{len(slower)} of {len(means)} devices are slower ({slower[0]}: {means[slower[0]]:.4g} s "
        f"a step; {fastest}: {means[fastest]:.4g} s), and devices of one run step together"
    )


def device_steps(record: Record) -> list[float]:
    """Seconds between the profiled steps, on the slowest device: the others wait for it.

    A step in which the module runs more than once (gradient accumulation) takes all of its gaps.
    """
    assert record.device_times is not None
    seconds = record.device_times.seconds
    gaps = seconds[max(seconds, key=lambda device: midmean(seconds[device]))]
    runs = (len(gaps) + 1) // _profiled_steps(record)
    return [math.fsum(gaps[i : i + runs]) for i in range(0, len(gaps) - runs + 1, runs)]


def throughput(record: Record, seconds: float) -> str:
    """Tokens per second, and the model FLOPs utilization where the chip's peak is known."""
    case = record.case
    model, length = case.model, case.data.sequence_length
    if length is None or case.global_batch is None:
        return f"{record.label}: {seconds:.4g} s a step"
    tokens = case.global_batch * length / seconds
    text = f"{record.label}: {tokens:,.0f} tokens a second"
    if model is None:  # `parity train` knows no shape of models of other families
        return text
    known = chip(record.observed.device_kind or "")
    if known is None:
        return text
    utilization = model_flops_utilization(
        tokens,
        _flops_per_token(model, length),
        known,
        record.observed.devices or 1,
    )
    return f"{text}, {utilization:.1%} of peak FLOPs"


def _flops_per_token(model: Model | Shape, sequence_length: int) -> float:
    """Model FLOPs on one token; `parity train` knows only the shape of a dense transformer."""
    if isinstance(model, Model):
        return family(model.family).flops_per_token(model, sequence_length)
    return dense_flops_per_token(
        layers=model.layers,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.hidden_size // model.heads,
        vocab_size=model.vocab_size,
        sequence_length=sequence_length,
    )
