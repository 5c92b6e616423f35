"""The rung of routers: through which experts each token goes, in a mixture of experts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from harness.ladder.comparison import Comparison
from harness.ladder.distances import (
    SKETCH_CERTAINTY,
    exceeds,
    largest,
    nan_last,
    sums_distance,
)
from harness.ladder.imported import is_imported
from harness.ladder.metric import UNRELATED, Floor, Metric
from harness.ladder.result import Finding, Limit, RungResult
from harness.ladder.rung import Rung
from harness.ladder.rungs.forward import OUTPUT, VALUES
from harness.models.family import Model, family
from harness.record.evidence import Record, Routed, Sums


def routing(c: Comparison) -> RungResult:
    """What each router makes of equal inputs at step 0: its logits, its scores, its choice.

    Routers are gone through in the order of their calls. What is given to one may differ as what
    comes before it does, which is for `forward` to tell. A token whose scores are so near to each
    other that rounding decides between two experts is at a tie: two right implementations part
    there, and what follows from it says nothing of either.
    """
    if not any(_routers(record) for record in (c.a, c.b)):
        text = "the model has no router: every token goes through all of it"
        if not all(isinstance(record.case.model, Model) for record in (c.a, c.b)):
            text = "nothing says that the model has routers"  # `parity train` knows no family
        return RungResult.not_exercised("routing", text)
    first = [step.batches[:1] for record in (c.a, c.b) for step in record.steps[:1]]
    rows = [batch.shape[0] for batches in first for batch in batches]
    if c.configurations and len({*rows}) > 1:
        text = f"the first forward passes are of {rows[0]} and of {rows[1]} rows"
        return RungResult.not_exercised("routing", text)
    if (missing := _missing(c)) is not None:
        return RungResult.invalid("routing", missing)
    limits = _Limits(*(c.limit(metric) for metric in (OUTPUT, LOGITS, SCORES, CHOICE)))
    pairs = list(_pairs(c.a, c.b))
    for index, (x, y) in enumerate(pairs):
        if (found := _judged(c, x, y, limits, index)) is not None:
            return found
    return _passed(c, pairs, limits)


@dataclass(frozen=True)
class _Limits:
    """Limits of what a router is given, of its logits, of its scores, and of its choice."""

    given: Limit
    logits: Limit
    scores: Limit
    choice: Limit

    def at_a_tie(self, x: Routed, y: Routed, tokens: list[int]) -> bool:
        """Whether scores that are within their limit can part these tokens.

        A choice that differs takes a score across the margin of each of the two: the differences
        of a token's scores then have a sum of squares of half the margin's square at least. Over
        all tokens, the scores differ by no more than their limit.
        """
        squares = math.fsum(_margin(x, y, token) ** 2 for token in tokens)
        return squares <= 2 * (self.scores.value * _norm(x, y)) ** 2


def _missing(c: Comparison) -> str | None:
    """What was not observed, in words; None for nothing."""
    expected = _routers(c.a) or _routers(c.b)
    for record in (c.a, c.b):
        if _routers(record) != expected:
            return f"{record.label}: other routers were watched than in the other run"
        seen = _by_name(record)
        for name in expected:
            if name not in seen or seen[name].given is None:
                return f"{record.label}: nothing was observed of {name} at step 0"
            if seen[name].logits is None:
                return f"{record.label}: no logits of {name} were observed at step 0"
            if seen[name].scores is None or not seen[name].taken:
                return f"{record.label}: it was not observed which experts {name} chooses at step 0"
    return None


def _judged(c: Comparison, x: Routed, y: Routed, limits: _Limits, before: int) -> RungResult | None:
    """What is to be said of one router, after so many that agree; None where it agrees too."""
    name_a, name_b = c.names
    where = f"step 0: {x.name}"
    for what, p, q in (
        ("tokens", x.tokens, y.tokens),
        ("experts", len(x.load), len(y.load)),
        ("experts for each token", len(x.taken[0]), len(y.taken[0])),
    ):
        if p != q:
            text = f"{where} has {p} {what} in {name_a}, {q} in {name_b}"
            return RungResult.failed("routing", text, findings=(Finding(text, 0, None, p, q),))
    given = _distance(x.given, y.given)
    if exceeds(given, limits.given.value):
        text = f"{where} is given other values, {given:.2g} of their size apart: what comes before "
        text += f"it differs, and it cannot be compared (routers before it that agree: {before})"
        return RungResult.inconclusive("routing", text, given, limits.given)
    for what, p_, q_, limit in (
        ("logits", x.logits, y.logits, limits.logits),
        ("scores", x.scores, y.scores, limits.scores),
    ):
        value = _distance(p_, q_)
        if exceeds(value, limit.value):
            text = f"{where} is given the same, and its {what} are {value:.2g} of their size apart"
            text += permuted(x, y)
            norms = [None if s is None else s.norm for s in (p_, q_)]
            finding = Finding(text, 0, None, norms[0], norms[1])
            return RungResult.failed("routing", text, value, limit, (finding,))
    return _choice(c, x, y, limits)


def _choice(c: Comparison, x: Routed, y: Routed, limits: _Limits) -> RungResult | None:
    """What is to be said of choices that differ; None where they agree, as far as noise lets them.

    Where perturbed weights send tokens that are at a tie elsewhere, too, what follows from it is no
    more than noise. Where they do not, or were not trained, no limit below knows of it.
    """
    apart, share = parted(x, y), _share(x, y)
    tie = limits.at_a_tie(x, y, apart)
    noisy = bool(c.noise(CHOICE, c.noise_floor)) or not apart
    if not exceeds(share, limits.choice.value) and tie and noisy:
        return None
    name_a, name_b = c.names
    kept = min(len(x.taken), len(y.taken))
    text = (
        f"step 0: {x.name} has the same scores, and sends {len(apart)} of {kept} tokens to other "
    )
    text += "experts"
    if not apart:
        text = f"step 0: {x.name} has the same scores, and of all {x.tokens} tokens {x.load} go to "
        text += f"each expert in {name_a}, {y.load} in {name_b}"
        return RungResult.failed("routing", text, share, limits.choice)
    token = max(apart, key=lambda t: nan_last(_margin(x, y, t)))
    first = f"token {token} to {_shown(x, token)} in {name_a}, to {_shown(y, token)} in {name_b}, "
    first += f"where the last score chosen is {_margin(x, y, token):.2g} above the next one"
    if tie:
        text += f", {'each ' if apart[1:] else ''}at a tie: {first}. Rounding decides there, so "
        text += "that two right implementations part; take another case.seed"
        return RungResult.invalid("routing", text)
    findings = tuple(
        Finding(
            f"{x.name}: token {t} goes to {_shown(x, t)} in {name_a}, {_shown(y, t)} in {name_b}",
            0, None, sorted(x.taken[t]), sorted(y.taken[t]),
        )
        for t in apart[:FINDINGS]
    )  # fmt: skip
    text = f"{text}: {first}{permuted(x, y)}"
    return RungResult.failed("routing", text, share, limits.choice, findings)


FINDINGS = 20
"""Tokens that are told one by one."""


def _passed(c: Comparison, pairs: list[tuple[Routed, Routed]], limits: _Limits) -> RungResult:
    tokens, layers = pairs[0][0].tokens, len(pairs)
    apart = sum(len(parted(x, y)) for x, y in pairs)
    kept = min(len(routed.taken) for pair in pairs for routed in pair)
    seen, which = f"{tokens} tokens", ""
    if kept < tokens:  # of all others it is only known how many went to each expert
        seen, which = f"the first {kept} of {tokens} tokens", f" of the first {kept}"
    text = f"{layers} routers send {seen} to the same experts"
    if apart:
        text += f", but for {apart} at a tie, no more than perturbed weights send elsewhere"
    shares = largest(_share(x, y) for x, y in pairs)
    if limits.choice.blind_to(shares):
        return RungResult.passed("routing", text, shares, limits.choice, detects="")
    value = largest(_distance(x.logits, y.logits) for x, y in pairs)
    margin = math.sqrt(2) * limits.scores.value * largest(_norm(x, y) for x, y in pairs)
    detects = f"logits that are off by {SKETCH_CERTAINTY * limits.logits.value:.2g}"
    if margin < 1:
        detects += f", or one token{which} that goes past a score that is {margin:.2g} higher"
    return RungResult.passed("routing", text, value, limits.logits, detects=detects)


# --- of two routers -----------------------------------------------------------------------------


def parted(x: Routed, y: Routed) -> list[int]:
    """The tokens, of those that are kept one by one, that go to other experts."""
    both = zip(x.taken, y.taken, strict=False)
    return [token for token, (p, q) in enumerate(both) if {*p} != {*q}]


def _share(x: Routed, y: Routed) -> float:
    """The share of tokens that go elsewhere: of those that are kept, and of all at least."""
    kept = min(len(x.taken), len(y.taken))
    moved = sum(abs(p - q) for p, q in zip(x.load, y.load, strict=False)) / 2
    return max(len(parted(x, y)) / max(1, kept), moved / max(1, sum(x.load)))


def _margin(x: Routed, y: Routed, token: int) -> float:
    """How far a token's choice is from another one, in the run where it is further."""
    return max(x.margins[token], y.margins[token], key=nan_last)


def _norm(x: Routed, y: Routed) -> float:
    return largest([0.0 if s is None else s.norm for s in (x.scores, y.scores)])


def _distance(x: Sums | None, y: Sums | None) -> float:
    return math.nan if x is None or y is None else sums_distance(x, y)


def _shown(x: Routed, token: int) -> str:
    return " and ".join(str(expert) for expert in sorted(x.taken[token]))


def permuted(x: Routed, y: Routed) -> str:
    """Which experts of one run are which of the other, where all tokens agree on that; else ""."""
    names: dict[frozenset[int], set[int]] = {}
    for routed, sign in ((x, 1), (y, -1)):
        for expert in range(len(routed.load)):
            tokens = frozenset(t for t, taken in enumerate(routed.taken) if expert in taken)
            names.setdefault(tokens, set()).add(sign * (expert + 1))
    pairs = sorted(sorted(found, reverse=True) for found in names.values())
    alike = all(len(found) == 2 and found[0] > 0 > found[1] for found in pairs)
    moved = [(p - 1, -q - 1) for p, q in pairs if p != -q] if alike else []
    if not moved:
        return ""
    shown = ", ".join(f"{p} is {q}" for p, q in moved)
    return f"; the same tokens go together, under other numbers of experts: {shown}"


def _routers(record: Record) -> tuple[str, ...]:
    """Names of the routers that a run has; one that was imported has those of its case."""
    if not is_imported(record):
        return record.observed.routers
    model = record.case.model
    found = family(model.family).router(model) if isinstance(model, Model) else None
    return () if found is None else found.modules


# --- of two runs --------------------------------------------------------------------------------


def _by_name(record: Record) -> dict[str, Routed]:
    return {routed.name: routed for step in record.steps[:1] for routed in step.routed}


def _pairs(a: Record, b: Record) -> Iterator[tuple[Routed, Routed]]:
    """Routers that both have, in the order of their calls."""
    theirs = _by_name(b)
    yield from ((x, theirs[name]) for name, x in _by_name(a).items() if name in theirs)


def logits_distance(a: Record, b: Record) -> float | None:
    """How far the logits of the worst router are apart."""
    found = [_distance(x.logits, y.logits) for x, y in _pairs(a, b)]
    return largest(found) if found else None


def scores_distance(a: Record, b: Record) -> float | None:
    """How far the scores of the worst router are apart."""
    found = [_distance(x.scores, y.scores) for x, y in _pairs(a, b)]
    return largest(found) if found else None


def choice_distance(a: Record, b: Record) -> float | None:
    """The largest share of tokens that a router sends elsewhere."""
    found = [_share(x, y) for x, y in _pairs(a, b)]
    return largest(found) if found else None


LOGITS = Metric(
    name="router",
    what="worst router's logits at step 0",
    distance=logits_distance,
    unrelated=UNRELATED,
    by_float64=True,
    floors=(
        Floor("CPU", "float32", "", 1e-6, "measured: torchprime and hf against the reference 0, "
              "perturbed weights 5.6e-7"),
        Floor("CPU", "bfloat16", "", 2e-2, "measured: torchprime against the reference "
              "1.9e-2, perturbed weights 3.4e-2"),
    ),
)  # fmt: skip

SCORES = Metric(
    name="router_scores",
    what="worst router's scores at step 0, of which the highest are chosen",
    distance=scores_distance,
    unrelated=UNRELATED,
    by_float64=True,
    floors=(
        Floor("CPU", "float32", "", 1e-6, "measured: torchprime and hf against the reference 0, "
              "perturbed weights 5.1e-7"),
        Floor("CPU", "bfloat16", "", 2e-2, "measured: torchprime against the reference "
              "1.1e-2, perturbed weights 4.1e-2"),
    ),
)  # fmt: skip

CHOICE = Metric(
    name="experts",
    what="share of tokens that a router sends to other experts at step 0",
    distance=choice_distance,
    unrelated=0.5,
    by_float64=True,
    floors=(
        Floor("CPU", "float32", "", 1e-4, "measured: none of 2048 choices, by whomever and from "
              "perturbed weights"),
        Floor("CPU", "bfloat16", "", 1e-2, "measured: torchprime against the reference "
              "3.9e-3, perturbed weights 1.9e-2"),
    ),
)  # fmt: skip

RUNG = Rung(
    name="routing",
    what="experts that each token of step 0 goes through, and the router's logits",
    judge=routing,
    needs=VALUES,
    follows=("environment", "sharding"),
    metrics=(LOGITS, SCORES, CHOICE),
    # Where there is no router, nothing is asked of a run: what logs do not show, it says by itself.
    from_numbers=True,
)
