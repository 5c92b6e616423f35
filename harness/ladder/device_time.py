"""Step time as the device itself has it, from its profile, and what follows from it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from harness.config.training import Shape
from harness.devices.chips import model_flops_utilization
from harness.devices.device import chip
from harness.models.family import Model, dense_flops_per_token, family
from harness.record.evidence import Record

FEWEST = 2
"""Gaps of one device that tell a scatter at all."""


def device_samples(
    launches: Sequence[tuple[Record, Record]],
) -> tuple[list[list[float]], list[list[float]]] | None:
    """The device's step times by side and launch; None where not every run was profiled."""
    sides = [[steps_of(pair[side]) for pair in launches] for side in (0, 1)]
    return (sides[0], sides[1]) if all(all(side) for side in sides) else None


def steps_of(record: Record) -> list[float]:
    """Seconds of each profiled step; empty where there are too few.

    The median over devices: they step together, so that more of them are not more measurements.
    """
    gaps = [device for device in device_seconds(record) if len(device) >= FEWEST]
    # Profiles begin and end within a step, not in the same one on every device.
    return [statistics.median(at) for at in zip(*gaps, strict=False)]


def device_seconds(record: Record) -> tuple[tuple[float, ...], ...]:
    """Seconds between successive steps, by device; empty where no profile was taken."""
    return () if record.device_times is None else tuple(record.device_times.seconds.values())


def throughput(record: Record, seconds: float) -> str:
    """Tokens per second, and the model FLOPs utilization where the chip's peak is known."""
    case = record.case
    model, length = case.model, case.data.sequence_length
    if length is None:
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
