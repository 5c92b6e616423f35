"""Numbers, values and headlines as text, the same in every report."""

from __future__ import annotations

import json
import math
from typing import Any

from harness.base.text import printable
from harness.ladder.result import Result, RungResult
from harness.ladder.verdict import NOT_COMPARED, PairVerdict, Verdict
from harness.record.writer import encode

MISSING = "–"


def format_number(value: float | None, digits: int = 3) -> str:
    """`value` to so many significant digits; a missing one is a dash, a NaN says so."""
    if value is None:
        return MISSING
    if math.isnan(value):
        return "NaN"
    return f"{value:.{digits}g}"


def judged(rung: RungResult) -> tuple[str, str]:
    """Value and limit, with as many digits as it takes to tell them apart: never "1 > 1"."""
    value, limit = rung.value, rung.limit
    if value is None or limit is None or value == limit or math.isnan(value) or math.isnan(limit):
        return format_number(value), format_number(limit)
    for digits in range(3, 18):
        shown = format_number(value, digits), format_number(limit, digits)
        if shown[0] != shown[1]:
            break
    return shown


def plain(value: Any) -> str:
    """One piece of evidence, in full: floats to the last bit, lists and mappings as JSON."""
    if value is None:
        return MISSING
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else repr(value)
    if isinstance(value, dict | list | tuple):
        return printable(json.dumps(encode(value), ensure_ascii=False, default=str))
    return printable(str(value))


def names(pair: PairVerdict) -> tuple[str, str]:
    """What to call the two runs. Two runs under one label are told apart by a letter."""
    if pair.a != pair.b:
        return pair.a, pair.b
    return f"{pair.a} (a)", f"{pair.b} (b)"


def title(pair: PairVerdict) -> str:
    """The pair in a few words."""
    return " against ".join(names(pair))


def headline(verdict: Verdict) -> str:
    """The whole session in one line: its worst pair, and how many pairs share that result."""
    if not verdict.pairs:
        return "nothing was compared"
    worst = [pair for pair in verdict.pairs if pair.result is verdict.result]
    if len(verdict.pairs) == 1:
        return worst[0].headline
    if verdict.result is Result.PASS:
        if any(pair.only_traced for pair in worst):
            return f"the steps of all {len(worst)} pairs compile alike; {NOT_COMPARED}"
        return f"all {len(worst)} pairs train alike"
    share = f"{len(worst)} of {len(verdict.pairs)} pairs {verdict.result.value}"
    return f"{title(worst[0])}: {worst[0].headline} ({share})"
