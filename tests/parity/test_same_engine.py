"""The same engine twice is bitwise equal; an unchanged run is never launched twice."""

from __future__ import annotations

import pytest

from harness.ladder.result import Result
from harness.plugins.ladder import EnginePair, pair_outcome


@pytest.mark.cpu
@pytest.mark.parametrize("engine", ["hf", "reference"])
def test_twice_is_bitwise_equal(engine: str, request: pytest.FixtureRequest) -> None:
    pair = EnginePair("llama-tiny", engine, engine, "cpu")
    outcome = pair_outcome(request.config, pair)
    verdict = outcome.verdict.pairs[0]
    assert verdict.result is Result.PASS, verdict.headline
    first, second = outcome.records[verdict.a_record], outcome.records[verdict.b_record]
    assert first.directory != second.directory, "one Record was compared with itself"
    assert [s.loss for s in first.steps] == [s.loss for s in second.steps]
    for x, y in zip(first.parameters, second.parameters, strict=True):
        assert x.final is not None
        assert x.final == y.final, x.name
        assert x.initial != x.final, f"{x.name} was not trained"
