"""What came of one cell of a matrix: a row of its table, and the exit code of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.base.typed import STRICT, Number
from harness.config.matrix import Cell
from harness.ladder.result import Result
from harness.ladder.verdict import EXIT_CODES, overall

REFUSED = "refused"
"""An engine has no way to train the case."""
UNUSABLE = "bad input"
"""The cell cannot be composed, planned or launched: the matrix or this machine is at fault."""
NEVER_RUN = "never run"
"""There is nothing of it in the workspace."""


@dataclass(frozen=True)
class State:
    """What came of one cell for one pair of engines.

    state:   value of a `Result`, or REFUSED, UNUSABLE or NEVER_RUN
    rung:    the rung that decides, where it does not pass
    text:    the headline, or why there is none
    loss, norm, first: see `harness.ladder.apart.Apart`
    seconds: that its runs took, those that noise was measured by among them
    sources: what was trained with, by engine
    when:    in ISO 8601, UTC
    words:   overrides of how it is judged
    """

    __pydantic_config__ = STRICT

    state: str = NEVER_RUN
    rung: str = ""
    text: str = ""
    loss: Number | None = None
    norm: Number | None = None
    first: int | None = None
    seconds: Number = 0.0
    sources: dict[str, str] = field(default_factory=dict)
    when: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One cell for one pair of engines, under the heading of its group, and its state."""

    heading: str
    cell: Cell
    pair: tuple[str, str]
    state: State

    @property
    def between(self) -> str:
        """The pair in a few words."""
        return "–".join(self.pair)


def exit_code_of(states: Sequence[State]) -> int:
    """The exit code of a matrix: 1 for a FAIL, 2 for a cell that is unusable, 3 for an INVALID one.

    What is refused, and what was not reached, is no result. A matrix without one is INVALID.
    """
    known = {result.value: result for result in Result}
    judged = overall([known[state.state] for state in states if state.state in known])
    if judged is not Result.FAIL and any(state.state == UNUSABLE for state in states):
        return 2
    return EXIT_CODES[judged]


def counted(states: Sequence[State]) -> str:
    """How many there are of each state: "12 PASS, 1 FAIL, 3 refused"."""
    order = (*(result.value for result in Result), REFUSED, UNUSABLE, NEVER_RUN)
    counts = {name: sum(state.state == name for state in states) for name in order}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def by_cell(entries: Sequence[Entry], case: str) -> list[str]:
    """What came of each cell of a case, a line each."""
    cells: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.cell.case == case:
            cells.setdefault(entry.cell.title, []).append(entry)
    return [f"cell {title}: {_states(of_cell)}" for title, of_cell in cells.items()]


def _states(entries: Sequence[Entry]) -> str:
    """Of each pair; of all at once where they are in one state."""
    said = {entry.between: f"{entry.state.state} {entry.state.rung}".strip() for entry in entries}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return ", ".join(f"{between} {state}" for between, state in said.items())
