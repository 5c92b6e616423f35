"""Running a matrix: what is launched, what is kept, and what one broken cell costs."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from builders import Trainer
from gate_samples import Silent

from harness.base.errors import BadInput, CannotTrain
from harness.config.matrix import Cell, Matrix
from harness.config.settings import Settings
from harness.ladder.comparison import Comparison
from harness.ladder.judge import judge
from harness.ladder.matrix import NEVER_RUN, REFUSED, UNUSABLE, Entry
from harness.ladder.verdict import Verdict
from harness.record.evidence import Record
from harness.run import matrix as running
from harness.run.matrix import kept_entries, run_matrix
from harness.run.session import Outcome

PAIRS = [["hf", "reference"], ["hf", "hf"]]
ONE, TWO = Cell("one", "llama-tiny"), Cell("two", "llama-tiny", ["case.steps=5"])


class Sessions:
    """In place of real ones: what was asked for, and what comes of it."""

    def __init__(self, a: Record, b: Record) -> None:
        self.a, self.b = a, b
        self.asked: list[tuple[str, int]] = []
        self.errors: dict[int, Exception] = {}

    def plan(self, settings: Settings, reporter: object, may_substitute: bool) -> Settings:
        assert not may_substitute
        if error := self.errors.get(settings.case.steps):
            raise error
        return settings

    def run(self, planned: Settings, reporter: object) -> Outcome:
        self.asked.append(("–".join(planned.engines), planned.case.steps))
        pair = judge(Comparison(self.a, self.b, planned.tolerance))
        records = {str(r.directory): r for r in (self.a, self.b)}
        return Outcome(Verdict("", "mine", (pair,)), records)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sessions:
    found = Sessions(Trainer(key="a").record(), Trainer(label="b", key="b").record())
    monkeypatch.setattr(running, "session", found)
    monkeypatch.chdir(tmp_path)
    return found


def run(*cells: Cell, seconds: float | None = None, tick: float = 1.0) -> list[Entry]:
    clock = itertools.count(0.0, tick)
    matrix = Matrix(PAIRS, {"all": list(cells)})
    return run_matrix(matrix, [], Silent(), seconds, clock=lambda: next(clock))


def states(entries: list[Entry]) -> list[str]:
    return [entry.state.state for entry in entries]


def test_each_cell_is_trained_by_each_pair(sessions: Sessions) -> None:
    found = run(ONE, TWO)
    assert sessions.asked == [
        ("hf–reference", 20), ("hf–reference", 5), ("hf–hf", 20), ("hf–hf", 5),
    ]  # fmt: skip
    assert [(e.cell.title, e.between) for e in found] == [
        ("one", "hf–reference"), ("one", "hf–hf"), ("two", "hf–reference"), ("two", "hf–hf"),
    ]  # fmt: skip
    state = found[0].state
    assert (state.loss, state.first) == (0.0, None)
    assert state.seconds > 0


def test_what_came_of_it_is_kept_and_read_without_running(sessions: Sessions) -> None:
    ran = run(ONE)
    kept = kept_entries(Matrix(PAIRS, {"all": [ONE, TWO]}), [])
    assert [entry.state for entry in kept[:2]] == [entry.state for entry in ran]
    assert states(kept[2:]) == [NEVER_RUN] * 2
    assert states(kept_entries(Matrix(PAIRS, {"all": [ONE]}), ["case.seed=7"])) == [NEVER_RUN] * 2


def test_a_state_is_of_what_was_asked_and_not_of_the_source(sessions: Sessions) -> None:
    """A key that is new, and at its default, names the same state."""
    run(ONE)
    matrix = Matrix(PAIRS, {"all": [ONE]})
    for words, same in [
        (["engine.hf.source=4.56.2"], True),
        (["case.accumulation=1"], True),
        (["case.accumulation=2"], False),
        (["engine.hf.einsum_linear=true"], False),
        (["tolerance.margin=3.0"], True),
    ]:
        assert (NEVER_RUN not in states(kept_entries(matrix, words))) is same, words


def test_a_state_tells_how_it_was_judged(sessions: Sessions) -> None:
    matrix = Matrix(PAIRS, {"all": [ONE]})
    run_matrix(matrix, ["tolerance.margin=3.0", "case.seed=42"], Silent())
    assert kept_entries(matrix, [])[0].state.words == ("tolerance.margin=3.0",)


def test_a_state_that_cannot_be_read_was_never_run(sessions: Sessions, tmp_path: Path) -> None:
    run(ONE)
    for file in (tmp_path / "workspace" / "matrix").iterdir():
        file.write_text('{"state": "PASS", "los')
    assert states(kept_entries(Matrix(PAIRS, {"all": [ONE]}), [])) == [NEVER_RUN] * 2


def test_a_broken_cell_costs_no_other(sessions: Sessions) -> None:
    wrong = Cell("wrong", "llama-tiny", ["case.stepz=5"])
    found = run(wrong, ONE)
    assert states(found)[:2] == [UNUSABLE] * 2
    assert "stepz" in found[0].state.text
    assert len(sessions.asked) == 2


@pytest.mark.parametrize(
    ("error", "state"), [(CannotTrain("not so"), REFUSED), (BadInput("disk"), UNUSABLE)]
)
def test_what_cannot_be_planned(sessions: Sessions, error: Exception, state: str) -> None:
    sessions.errors = {5: error}
    found = run(TWO, ONE)
    assert states(found)[:2] == [state] * 2
    assert found[0].state.text == str(error)
    assert NEVER_RUN not in states(found)


def test_an_axis_that_nobody_honours_is_refused(sessions: Sessions) -> None:
    cell = Cell("expert", "llama-tiny", ["case.mesh.fsdp=2", "+case.mesh.expert=2"])
    assert states(run(cell)) == [REFUSED] * 2
    assert not sessions.asked


def test_what_the_matrix_refuses_is_told_and_not_launched(sessions: Sessions) -> None:
    found = run(Cell("scan", "llama-tiny", refused="nobody scans"), ONE)
    assert states(found)[:2] == [REFUSED] * 2
    assert found[0].state.text == "nobody scans"
    assert len(sessions.asked) == 2


def test_after_the_budget_nothing_is_launched_and_what_was_kept_is_told(
    sessions: Sessions,
) -> None:
    """And what was never run goes first."""
    run(TWO)
    sessions.asked.clear()
    found = run(TWO, ONE, seconds=3.0)
    assert sessions.asked == [("hf–reference", 20)]
    assert states(found)[3] == NEVER_RUN
    assert NEVER_RUN not in states(found)[:3]


def test_how_long_it_will_take_is_told(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(Silent, "note", lambda self, text: told.append(text))
    run(ONE, TWO, tick=60.0)
    assert told[:2] == ["1 of 4: one, hf–reference", "2 of 4: two, hf–reference (about 3 min left)"]
    assert told[-1] == "4 of 4: two, hf–hf (about 1 min left)"


def test_what_is_refused_at_once_foretells_nothing(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(Silent, "note", lambda self, text: told.append(text))
    sessions.errors = {20: CannotTrain("not so")}
    run(ONE, TWO, tick=60.0)
    assert [text.endswith("left)") for text in told] == [False, False, True, True]
