"""Samples of step times: seconds per optimizer step, as repeats (launches) of windows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Samples = Sequence[Iterable[float]]
"""Repeats of windows, one number a window."""


def checked(name: str, repeats: Samples) -> list[list[float]]:
    """`repeats` as plain floats.

    Raises ValueError where one is missing, not finite or not positive; messages count repeats and
    windows from 0.
    """
    if not len(repeats):
        raise ValueError(f"{name} has no repeats")
    times = [[float(seconds) for seconds in windows] for windows in repeats]
    for i, windows in enumerate(times):
        if not windows:
            raise ValueError(f"repeat {i} of {name} has no windows")
        for j, seconds in enumerate(windows):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(
                    f"window {j} of repeat {i} of {name} is {seconds}: step times are finite and "
                    "positive"
                )
    return times
