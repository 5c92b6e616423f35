"""Windows that are slow at the same step of every launch: a trainer's own stalls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.ladder.step_ratio import STALL, Samples, check_samples


@dataclass(frozen=True)
class Stall:
    """A window that is slow in every launch.

    window: its index within the launch
    ratio:  its time over the median window of its launch, the smallest of all launches
    """

    window: int
    ratio: float


def recurring_stalls(
    launches: Samples, others: Samples, *, chance: float = 0.01
) -> tuple[Stall, ...]:
    """Windows that take more than `STALL` times their launch's median in every launch.

    A stall at one step (a checkpoint, a sleep) hardly moves a midmean, and must not: the machine
    stalls too. But the machine does not stall at the same step of every run. With the rate p of
    slow windows elsewhere, one of n indices is slow in all r launches by chance with a probability
    of at most n · p^r (Bonferroni); it is reported where that is at most `chance`. p is estimated
    from the windows of the `others`, which ran beside on the same machine, one added, so it is
    never zero: a side that stalls in every tenth step would excuse itself.

    Raises ValueError for fewer than two launches, or launches of different lengths.
    """
    check_samples("launches", launches)
    check_samples("others", others)
    lengths = {len(windows) for windows in launches}
    if len(launches) < 2 or len(lengths) > 1:
        raise ValueError(
            "stalls recur only over two or more launches with the same windows, not over "
            f"{len(launches)} with {sorted(lengths)} windows"
        )
    chances = sum(ratio > STALL for windows in others for ratio in _of_median(windows))
    rate = (chances + 1) / (sum(map(len, others)) + 1)
    if len(launches[0]) * rate ** len(launches) > chance:
        return ()
    smallest = [min(at) for at in zip(*map(_of_median, launches), strict=True)]
    return tuple(Stall(i, ratio) for i, ratio in enumerate(smallest) if ratio > STALL)


def _of_median(windows: Sequence[float]) -> list[float]:
    middle = median(windows)
    return [seconds / middle for seconds in windows]
