"""Records with step times, and how they are judged by a tolerance of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from builders import comparison, tolerance, with_manifest

from harness.ladder.comparison import Comparison
from harness.record.evidence import Record, Window


def timed(run: Record, *seconds: float, window: int = 1) -> Record:
    """A run whose steady windows took so many seconds a step."""
    windows = [Window(i, i, 5.0, 5.0, 1, 1, 0, {}, False, 0.0) for i in (0, 1)]
    for i, s in enumerate(seconds):
        first = 2 + i * window
        windows.append(Window(first, first + window - 1, s * window, 1.0, 0, 1, 0, {}, False, 0.0))
    steps = 2 + len(seconds) * window
    run = dataclasses.replace(run, windows=tuple(windows))
    return with_manifest(run, lambda m: m["case"].update(steps=steps))


def noisy(ratio: float = 1.0, count: int = 40, seed: int = 0, noise: float = 0.01) -> list[float]:
    """So many step times around 0.1 s × `ratio`, which differ by `noise` of their size."""
    generator = np.random.default_rng(seed)
    return list(ratio * 0.1 * np.exp(noise * generator.standard_normal(count)))


def under(limit: float | None, a: Record, b: Record, **given: Any) -> Comparison:
    """Two runs whose step times may differ by `limit`."""
    return comparison(a, b, tolerance=tolerance(step_time=limit), **given)
