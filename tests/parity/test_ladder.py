"""The product: every case, pair of engines and rung is one test."""

from __future__ import annotations

from harness.ladder.result import RungResult
from harness.plugins.ladder import assert_holds


def test_rung(parity_result: RungResult) -> None:
    assert_holds(parity_result)
