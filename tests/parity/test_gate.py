"""The branch gate: `pytest tests/parity/test_gate.py --candidate transformers@REF`."""

from __future__ import annotations

from harness.ladder.verdict import RungResult
from harness.pytest_plugin import assert_holds


def test_gate(gate_result: RungResult) -> None:
    assert_holds(gate_result)
