"""Is one trainer as fast as the other? The statistics of step times, and nothing else.

A sample is one number per timing window: seconds per optimizer step. Samples come as repeats (runs
of the trainer) of windows. All functions are pure.

How the ratio of step times is estimated, and why
-------------------------------------------------
*On the log scale*, so that b/a and a/b are judged alike: swapping the engines inverts the ratio and
its interval.

*Paired.* The noise of a shared machine is one-sided, has heavy tails, and drifts. When the engines
are timed in turns (A B B A ...), window j of A and window j of B are neighbours in time. The log of
their ratio is free of what both saw, and its noise is symmetric even though each side's is not.
Alternating the order inside the pairs makes a linear drift cancel between two pairs. (Fleming and
Wallace, CACM 1986, for ratios on the log scale; Georges et al., OOPSLA 2007, and Kalibera and
Jones, ISMM 2013, for the levels of variation of a benchmark.)

*Located by the midmean*, the mean of the middle half (25 % trimmed mean). It ignores spikes in up
to a quarter of the pairs on either side. It needs fewer windows than the median where the noise is
normal (efficiency 0.84 against 0.64) and, unlike the median, still moves when only some of the
windows are slower. (Rosenberger and Gasko in Hoaglin, Mosteller and Tukey, "Understanding robust
and exploratory data analysis", 1983.) What fewer than one window in four does it does not see:
`mean_ratio` does, and nothing passes without it.

*With a bootstrap over repeats and over windows.* Resampling whole repeats gives the variance that
holds if launches of the same trainer differ; resampling windows within their repeats gives the one
that holds if they do not. Windows are drawn in blocks of neighbours, because a disturbance that
lasts for several windows leaves fewer independent ones than there are (circular blocks of n^(1/3)
of n windows: Politis and Romano in LePage and Billard, "Exploring the limits of bootstrap", 1992;
the length is that of Hall, Horowitz and Jing, Biometrika 1995). The first variance estimates the
second plus one that cannot be negative, so the larger of the two is taken. (Davison and Hinkley,
"Bootstrap methods and their application", 1997, section 3.8.) The interval is estimate ± t ·
standard error (Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 12) with
Satterthwaite's degrees of freedom (Biometrics Bulletin 1946), because percentiles of a bootstrap
over two or four repeats are far too narrow. Simulated with the noise of
tests/unit/test_statistics.py, intervals of 95 % cover the truth in 95 to 98 % of 500 trials (1 to
40 repeats, 20 to 160 windows), and in 83 to 97 % where there are only 2 or 4 repeats and launches
differ by 3 %. With noise that is correlated by 0.4 from one window to the next they cover it in 91
to 94 % (windows drawn one by one: 79 to 85 %).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from harness.ladder.intervals import RatioInterval
from harness.ladder.samples import Samples, checked

Floats = NDArray[np.float64]

_TRIM = 0.25  # the share cut off at either end; see the module's docstring


def ratio_interval(
    a: Samples,
    b: Samples,
    *,
    paired: bool,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RatioInterval:
    """Estimate time of b / time of a.

    a, b:   repeats of windows, in seconds per step
    paired: window j of repeat i of a ran next to window j of repeat i of b. Both sides must then
            have the same shape: leave a window out on both sides or on none. Without pairs the two
            sides are located apart and their variances add.

    The same input gives the same result to the last bit. Raises ValueError where a sample is
    missing, not finite or not positive, where pairs do not match, or where there is but one window.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    if resamples < 100:
        raise ValueError(f"resamples must be at least 100, not {resamples}")
    logs_a, logs_b = _logs("a", a), _logs("b", b)
    if paired:
        shapes = [len(r) for r in logs_a], [len(r) for r in logs_b]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"pairs need the same windows on both sides: a has {shapes[0]} windows in its "
                f"repeats, b has {shapes[1]}"
            )
        location, spread = _locate(
            [y - x for x, y in zip(logs_a, logs_b, strict=True)], resamples, seed
        )
        spreads = [spread]
    else:
        # The same draws for both sides, so that swapping them inverts the ratio and no more.
        location_a, spread_a = _locate(logs_a, resamples, seed)
        location_b, spread_b = _locate(logs_b, resamples, seed)
        location, spreads = location_b - location_a, [spread_a, spread_b]
    return _interval(location, _half_width(spreads, confidence), confidence, logs_a, logs_b)


def mean_ratio(
    a: Samples,
    b: Samples,
    *,
    paired: bool,
    clip: float = math.inf,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RatioInterval:
    """Estimate mean time of b / mean time of a, outliers included.

    The midmean is blind to what happens in fewer than a quarter of the windows; a trainer that
    stalls in every tenth step is slower all the same. One spike of the machine widens this interval
    instead of moving it past a limit. Where there are many of them it tells nothing any more: with
    `clip`, no window counts for more than that many times its repeat's median, so that a spike is
    but a slow window. Other arguments, blocks and errors as in `ratio_interval`.
    """
    logs_a, logs_b = _logs("a", a), _logs("b", b)
    # Paired windows are drawn together; otherwise each side by itself.
    seeds = (seed, seed) if paired else (seed, seed + 1)
    means, spreads = [], []
    for logs, own_seed in zip((logs_a, logs_b), seeds, strict=True):
        rng = np.random.default_rng(own_seed)
        counts = np.concatenate([_draw_blocks(rng, len(r), resamples) for r in logs], axis=1)
        times = np.exp(np.concatenate([np.minimum(r, np.median(r) + math.log(clip)) for r in logs]))
        means.append(times.mean())
        spreads.append(np.log(counts @ times / counts.sum(axis=1)))
    location = math.log(means[1] / means[0])
    half = NormalDist().inv_cdf((1 + confidence) / 2) * float(np.std(spreads[1] - spreads[0]))
    return _interval(location, half, confidence, logs_a, logs_b)


def _interval(
    location: float, half: float, confidence: float, logs_a: list[Floats], logs_b: list[Floats]
) -> RatioInterval:
    """The interval of `half` a width about `location`, both on the log scale."""
    half = min(half, 100.0)  # a factor of e^100 either way is no knowledge; more would overflow
    return RatioInterval(
        ratio=math.exp(location),
        low=math.exp(location - half),
        high=math.exp(location + half),
        confidence=confidence,
        windows_a=sum(map(len, logs_a)),
        windows_b=sum(map(len, logs_b)),
        repeats=min(len(logs_a), len(logs_b)),
    )


@dataclass(frozen=True)
class _Spread:
    """Bootstrap variances of one location, with their degrees of freedom (0: there is none)."""

    between: float
    between_freedom: float
    within: float
    within_freedom: float


def _logs(name: str, repeats: Samples) -> list[Floats]:
    return [np.log(np.array(windows)) for windows in checked(name, repeats)]


def _locate(repeats: list[Floats], resamples: int, seed: int) -> tuple[float, _Spread]:
    """The midmean of all windows, and its variances by resampling repeats and windows.

    A bootstrap variance is too small by (n - 1)/n for n units: it is scaled back (Davison and
    Hinkley, section 2.3). The midmean rests on half of the windows, and so do its degrees of
    freedom (Tukey and McLaughlin, Sankhya 1963).
    """
    rng = np.random.default_rng(seed)
    sizes = [len(r) for r in repeats]
    groups, windows = len(sizes), sum(sizes)
    if windows < 2:
        raise ValueError("one window has no scatter: at least two are needed on each side")
    values = np.concatenate(repeats)
    order = np.argsort(values, kind="stable")
    location = float(_midmeans(values[order], np.ones((1, windows)))[0])

    between = within = between_freedom = within_freedom = 0.0
    if groups > 1:
        drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
        counts = np.repeat(drawn, sizes, axis=1)[:, order]
        between = float(_midmeans(values[order], counts).var()) * groups / (groups - 1)
        between_freedom = groups - 1
    if windows > groups:
        counts = np.concatenate([_draw_blocks(rng, n, resamples) for n in sizes], axis=1)
        blocks = sum(n / _block_length(n) for n in sizes)
        spread = float(_midmeans(values[order], counts[:, order]).var())
        within = spread * blocks / (blocks - groups)
        within_freedom = max(1.0, blocks - groups)
    return location, _Spread(between, between_freedom, within, within_freedom)


def _block_length(windows: int) -> int:
    return max(1, min(math.ceil(math.cbrt(windows)), windows // 2))


def _draw_blocks(rng: np.random.Generator, windows: int, resamples: int) -> Floats:
    """How often each window is drawn: whole blocks, which go on at the first window after the last.

    Returns shape (resamples, windows). Each row sums to `windows`: blocks that do not divide it are
    drawn often enough to cover it, and weigh less for it.
    """
    length = _block_length(windows)
    blocks = math.ceil(windows / length)
    starts = rng.multinomial(blocks, np.full(windows, 1 / windows), size=resamples)
    counts = np.zeros(starts.shape)
    for shift in range(length):
        counts += np.roll(starts, shift, axis=1)
    return counts * (windows / (blocks * length))


def _midmeans(ordered: Floats, counts: NDArray[np.int64] | Floats) -> Floats:
    """The midmean of each resample.

    ordered: values in ascending order, shape (windows,)
    counts:  how often each value was drawn, shape (resamples, windows)

    A value on the edge of the middle half counts with the part of it that lies inside, so that
    samples of any size are trimmed alike.
    """
    upto = np.cumsum(counts, axis=1, dtype=np.float64)
    total = upto[:, -1:]
    first, last = _TRIM * total, (1 - _TRIM) * total
    weights = np.clip(upto, first, last) - np.clip(upto - counts, first, last)
    means: Floats = (weights @ ordered) / (last - first)[:, 0]
    return means


def _half_width(spreads: list[_Spread], confidence: float) -> float:
    between, within = sum(s.between for s in spreads), sum(s.within for s in spreads)
    variance = max(between, within)
    if variance == 0:
        return 0.0
    parts = [(s.between, s.between_freedom) for s in spreads]
    parts += [(s.within, s.within_freedom) for s in spreads]
    freedom = (between + within) ** 2 / sum(v * v / f for v, f in parts if f)
    return _t_quantile((1 + confidence) / 2, freedom) * math.sqrt(variance)


def _t_quantile(p: float, freedom: float) -> float:
    """A quantile (p > 0.5) of Student's t for any number of degrees of freedom from 1 on.

    Wallace (Ann. Math. Statist. 1959). Never too small: +39 % for 1 degree of freedom at p = 0.975,
    +4 % for 2, +1 % for 3, below 0.5 % from 4 on.
    """
    z = NormalDist().inv_cdf(p) * (8 * freedom + 3) / (8 * freedom + 1)
    return math.sqrt(freedom * math.expm1(z * z / freedom))
