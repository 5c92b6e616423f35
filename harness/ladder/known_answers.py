"""A number that a device computed is believed once that device has computed a known answer."""

from __future__ import annotations

import math

from harness.ladder.comparison import Comparison
from harness.ladder.imported import is_imported
from harness.record.evidence import KnownAnswer, Record


def wrong_known_answers(c: Comparison) -> str | None:
    """Why the fingerprints of one of the runs say nothing; None where all can be believed.

    Every Record that numbers are taken from counts, those that measure noise and the float64
    reference too.
    """
    beside = [
        *(c.noise_floor or ()),
        *(c.repeat or ()),
        *c.float64_per_run.values(),
        *(record for record in (c.float64, c.first_float64) if record is not None),
    ]
    records = [c.a, c.b, *(record for record in beside if record.complete)]
    versions: dict[int, Record] = {}
    for record in records:
        if is_imported(record):
            continue  # it has no fingerprints
        answers = record.observed.known_answers
        if answers is None or not answers.tensors:
            return (
                f"{record.label} ({record.directory}): its device was not asked for fingerprints "
                "whose answers are known; run it again"
            )
        wrong = [text for answer in answers.tensors if (text := _wrong(answer))]
        if wrong:
            return (
                f"{record.label}: this device computes fingerprints wrongly: {len(wrong)} of "
                f"{len(answers.tensors)} known answers; {wrong[0]}"
            )
        versions.setdefault(answers.version, record)
    if len(versions) > 1:
        found = " and ".join(f"{r.label}'s of version {v}" for v, r in sorted(versions.items()))
        return f"fingerprints are {found}: they cannot be compared; run the older again"
    return None


def _wrong(answer: KnownAnswer) -> str | None:
    """What is wrong with the device's answer: bits are exact, sums are rounded."""
    device, host = answer.device, answer.host
    if device.bits != host.bits:
        return f"{answer.name}: bits are {device.bits}, not {host.bits}"
    if len(device.sketch) != len(host.sketch):
        return f"{answer.name}: the sketch has {len(device.sketch)} sums, not {len(host.sketch)}"
    sums = [*zip(device.sketch, host.sketch, strict=True), (device.norm, host.norm)]
    for found, exact in sums:
        if not _equal(found, exact, answer.rounding):
            return f"{answer.name}: a sum is {found:.9g}, not {exact:.9g} ± {answer.rounding:.1g}"
    return None


def _equal(found: float, exact: float, rounding: float) -> bool:
    if math.isfinite(exact):
        return abs(found - exact) <= rounding
    return found == exact or (math.isnan(found) and math.isnan(exact))
