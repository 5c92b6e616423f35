"""What holds of every result of a rung, whichever test asks for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from harness.ladder.distances import exceeds
from harness.ladder.result import Result, RungResult


@pytest.fixture(autouse=True, scope="session")
def no_result_contradicts_itself() -> Iterator[None]:
    """Its fields say what its sentences say: the reports and verdict.json show these."""
    made = RungResult._of

    def checked(cls: type[RungResult], *given: Any) -> RungResult:
        result = made(*given)
        check(result)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RungResult, "_of", classmethod(checked))
        yield


def check(result: RungResult) -> None:
    """The value of a PASS is within its limit, and a finding is of the step that it names."""
    if result.value is not None and result.limit is not None:
        beyond = exceeds(result.value, result.limit)
        assert not (result.result is Result.PASS and beyond), result
        assert not (result.result is Result.FAIL and result.limit == 0 and not beyond), result
    for finding in result.findings:
        named = re.match(r"(?:\S+: )?step (\d+)", finding.text)
        if named and finding.step is not None:
            assert finding.step == int(named[1]), finding
        assert finding.parameter is None or finding.parameter in finding.text, finding
