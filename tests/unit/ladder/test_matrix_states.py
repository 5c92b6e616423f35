"""The exit code of a matrix, and what it is said to have come to."""

from __future__ import annotations

import pytest

from harness.config.matrix import Cell
from harness.ladder.matrix import (
    NEVER_RUN,
    REFUSED,
    UNUSABLE,
    Entry,
    State,
    by_cell,
    counted,
    exit_code_of,
)


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["PASS", REFUSED, NEVER_RUN], 0),
        (["PASS", "FAIL", UNUSABLE], 1),
        (["PASS", "INCONCLUSIVE"], 3),
        (["PASS", UNUSABLE], 2),
        (["INVALID", UNUSABLE], 2),
        ([REFUSED, NEVER_RUN], 3),
        ([], 3),
    ],
)
def test_the_exit_code(states: list[str], code: int) -> None:
    assert exit_code_of([State(state) for state in states]) == code


def test_states_are_counted() -> None:
    states = [State("FAIL"), State("PASS"), State(REFUSED), State("PASS"), State()]
    assert counted(states) == "2 PASS, 1 FAIL, 1 refused, 1 never run"


def test_the_states_of_a_cases_cells() -> None:
    pairs = (("hf", "torchprime"), ("hf", "reference"))
    one = [Entry("", Cell("one", "mine"), pair, State()) for pair in pairs]
    two = [
        Entry("", Cell("two", "mine"), pair, state)
        for pair, state in zip(pairs, (State("FAIL", "clip"), State("PASS")), strict=True)
    ]
    other = Entry("", Cell("three", "other"), pairs[0], State("PASS"))
    assert by_cell([*one, *two, other], "mine") == [
        "cell one: never run",
        "cell two: hf–torchprime FAIL clip, hf–reference PASS",
    ]
