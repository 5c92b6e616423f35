"""What a test of one rung leaves behind: its numbers for JUnit, and its verdict for the summary.

A test's report carries the verdict to the end of the session, also from xdist's workers: as an
attribute, which JUnit does not write. Properties, which it writes, are numbers and short texts.
"""

from __future__ import annotations

from typing import Any

import pytest

from harness.ladder.result import RungResult
from harness.ladder.verdict import Verdict
from harness.report.junit import properties

ATTRIBUTE = "parity_verdict"
"""Of a test's report: the verdict, as plain values."""

_VERDICT: pytest.StashKey[dict[str, Any]] = pytest.StashKey()


def attach(item: pytest.Item, verdict: Verdict, result: RungResult) -> None:
    """Leave the judgement of one rung with the test that asks for it."""
    item.stash[_VERDICT] = verdict.to_json()
    item.user_properties += properties(verdict.case, verdict.pairs[0], result).items()


def carry(item: pytest.Item, report: pytest.TestReport) -> None:
    """Give the report of a test the verdict that was left with it."""
    if report.when == "call" and _VERDICT in item.stash:
        setattr(report, ATTRIBUTE, item.stash[_VERDICT])


def verdicts_of(terminal: Any) -> list[Verdict]:
    """Every verdict of a session, once, whatever the number of its tests.

    What is compared does not always name its case: of two cases, neither may hide the other.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for reports in terminal.stats.values():
        for report in reports:
            if (value := getattr(report, ATTRIBUTE, None)) is not None:
                found[value["compared"], value["case"]] = value
    return [Verdict.from_json(value) for value in found.values()]
