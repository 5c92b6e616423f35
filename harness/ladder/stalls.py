"""Windows that are slow at the same step of every launch: a trainer's own stalls."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from harness.ladder.samples import Samples, checked

STALL = 1.5
"""A window that takes more than this many times the median window of its launch is a stall."""


@dataclass(frozen=True)
class Stall:
    """A window that is slow in every repeat.

    window: its index within the repeat
    ratio:  its time over the median window of its repeat, the smallest of all repeats
    """

    window: int
    ratio: float


def recurring_stalls(
    repeats: Samples, others: Samples, *, chance: float = 0.01
) -> tuple[Stall, ...]:
    """Windows that take more than `STALL` times their repeat's median in every repeat.

    A stall at one step (a checkpoint, a sleep) hardly moves a midmean, and must not: the machine
    stalls too. But the machine does not stall at the same step of every run. With the rate p of
    slow windows elsewhere, one of n indices is slow in all r repeats by chance with a probability
    of at most n · p^r (Bonferroni); it is reported where that is at most `chance`. p is estimated
    from the windows of the `others`, which ran beside on the same machine, one added, so it is
    never zero: a side that stalls in every tenth step would excuse itself.

    Raises ValueError for fewer than two repeats, or repeats of different lengths.
    """
    times, beside = checked("repeats", repeats), checked("others", others)
    lengths = {len(r) for r in times}
    if len(times) < 2 or len(lengths) > 1:
        raise ValueError(
            "stalls recur only over two or more repeats with the same windows, not over "
            f"{len(times)} with {sorted(lengths)} windows"
        )
    chances = sum(ratio > STALL for windows in beside for ratio in _of_median(windows))
    rate = (chances + 1) / (sum(map(len, beside)) + 1)
    windows = len(times[0])
    if windows * rate ** len(times) > chance:
        return ()
    smallest = [min(at) for at in zip(*map(_of_median, times), strict=True)]
    return tuple(Stall(i, ratio) for i, ratio in enumerate(smallest) if ratio > STALL)


def _of_median(windows: list[float]) -> list[float]:
    middle = median(windows)
    return [seconds / middle for seconds in windows]
