"""Trains every cell of a matrix by each of its pairs of engines, and keeps what came of it.

    <workspace>/matrix/<key>.json    the state of one cell for one pair

Runs that are in the workspace are not launched again, so that after a change to one case only its
cells are. What is kept beside the Records is for those who only want to read the states.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput, CannotTrain
from harness.base.typed import typed_json
from harness.config.compose import load
from harness.config.matrix import Cell, Matrix
from harness.config.settings import Settings
from harness.engines.spec import TrainerOptions
from harness.ladder.apart import Apart, apart
from harness.ladder.matrix import REFUSED, UNUSABLE, Entry, State
from harness.record.evidence import Record
from harness.record.writer import write_json
from harness.report.made import iso, source
from harness.run import session
from harness.run.preflight import ready
from harness.run.reporter import Reporter

JUDGING = ("tolerance", "float64")
"""Beginnings of overrides that change no run, and its verdict."""

FOLDER = "matrix"
"""Where states are kept in a workspace."""


def entries_of(matrix: Matrix) -> list[Entry]:
    """Every cell for each of its pairs, none of which was run."""
    return [
        Entry(heading, cell, pair, State())
        for heading, cells in matrix.groups.items()
        for cell in cells
        for pair in matrix.pairs_of(cell)
    ]


def settings_of(cell: Cell, pair: tuple[str, str], words: Sequence[str]) -> Settings:
    """What is asked for by a cell, a pair of engines and the overrides of a command line.

    Raises BadInput where it cannot be composed, and CannotTrain where the matrix refuses it.
    """
    if cell.refused:
        raise CannotTrain(cell.refused)
    asked = load([f"case={cell.case}", *cell.overrides, *words])
    return dataclasses.replace(asked, engines=list(pair))


def run_matrix(
    matrix: Matrix,
    words: Sequence[str],
    reporter: Reporter,
    seconds: float | None = None,
    tell: Callable[[Entry], None] = lambda entry: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Entry]:
    """The state of every cell for each of its pairs, each told as soon as it is known.

    What was never run comes first, the first pair of every cell before the second of any: so that
    a budget goes as far as it can. What is returned has the order of the matrix.

    words:   overrides for every cell
    seconds: after so many nothing is launched any more: what is left has the state that it was
             kept with, or NEVER_RUN
    """
    began, kept = clock(), kept_entries(matrix, words)
    forecast = _Forecast(sum(not entry.state.when for entry in kept))
    found = list(kept)
    for number, index in enumerate(_order(matrix, kept), 1):
        done = entry = kept[index]
        if seconds is None or clock() - began < seconds:
            reporter.note(
                f"{number} of {len(kept)}: {entry.cell.title}, {entry.between}{forecast.left()}"
            )
            start = clock()
            done = dataclasses.replace(
                entry, state=run_cell(entry.cell, entry.pair, words, reporter)
            )
            if not entry.state.when:
                forecast.took(clock() - start, trained=done.state.seconds > 0)
        found[index] = done
        tell(done)
    return found


def _order(matrix: Matrix, entries: Sequence[Entry]) -> list[int]:
    """Places of `entries` in the order in which they are run."""
    return sorted(
        range(len(entries)),
        key=lambda index: (
            bool(entries[index].state.when),
            matrix.pairs_of(entries[index].cell).index(entries[index].pair),
        ),
    )


class _Forecast:
    """When all is done, where what was not run yet takes as long as what was trained now."""

    def __init__(self, missing: int) -> None:
        self._missing, self._seconds, self._runs = missing, 0.0, 0

    def took(self, seconds: float, trained: bool) -> None:
        self._missing -= 1
        if trained:  # and not refused at once
            self._seconds, self._runs = self._seconds + seconds, self._runs + 1

    def left(self) -> str:
        if not self._runs:
            return ""
        minutes = self._missing * self._seconds / self._runs / 60
        return f" (about {minutes:.0f} min left)"


def run_cell(cell: Cell, pair: tuple[str, str], words: Sequence[str], reporter: Reporter) -> State:
    """The state of a cell for a pair, launched where its runs are not in the workspace.

    Whatever is wrong with this cell does not keep others from being run.
    """
    try:
        settings = settings_of(cell, pair, words)
    except BadInput as error:
        return _unplanned(error)
    try:
        planned = session.plan(ready(settings), reporter, may_substitute=False)
        outcome = session.run(planned, reporter)
    except CannotTrain as error:
        state = State(REFUSED, text=str(error), when=iso(time.time()))
    except BadInput as error:
        return State(UNUSABLE, text=str(error))
    else:
        state = dataclasses.replace(_state_of(outcome), words=judged_by(words))
    place = _place(settings, pair)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(place, dataclasses.asdict(state))
    return state


def _unplanned(error: BadInput) -> State:
    """The state of what cannot be composed; there is nothing to keep it by."""
    return State(REFUSED if isinstance(error, CannotTrain) else UNUSABLE, text=str(error))


def _state_of(outcome: session.Outcome) -> State:
    (verdict,) = outcome.verdict.pairs
    sides = [outcome.records.get(folder) for folder in (verdict.a_record, verdict.b_record)]
    a, b = sides
    numbers = Apart() if a is None or b is None else apart(a, b)
    rung = verdict.headline_rung
    runs = {str(r.directory): r for r in (*outcome.records.values(), *outcome.runs)}
    return State(
        state=verdict.result.value,
        rung="" if rung is None else rung.rung,
        text=verdict.headline,
        loss=numbers.loss,
        norm=numbers.norm,
        first=numbers.first,
        seconds=sum(record.ended.seconds for record in runs.values()),
        sources={r.label: told for r in sides if r is not None and (told := _trained_with(r))},
        when=iso(max((r.manifest.started for r in runs.values()), default=time.time())),
    )


def _trained_with(record: Record) -> str:
    """The commit or release that a run trained with: of a checkout not its folder."""
    commit = record.manifest.origin.commit
    if commit is None:
        return source(record)
    return commit[:12] + (", with uncommitted changes" if record.manifest.origin.dirty else "")


def judged_by(words: Sequence[str]) -> tuple[str, ...]:
    """Overrides of a command line that say how runs are judged."""
    return tuple(word for word in words if word.startswith(JUDGING))


def kept_entries(matrix: Matrix, words: Sequence[str]) -> list[Entry]:
    """What the workspace holds of every cell for each of its pairs. Nothing is launched."""
    entries = entries_of(matrix)
    if not (Path(load(list(words)).workspace) / FOLDER).is_dir():
        return entries
    states = _kept(entries, words)
    return [dataclasses.replace(e, state=state) for e, state in zip(entries, states, strict=True)]


def _kept(entries: Sequence[Entry], words: Sequence[str]) -> Iterator[State]:
    composed: dict[str, Settings | BadInput] = {}
    for entry in entries:
        title = entry.cell.title
        if title not in composed:
            try:
                composed[title] = settings_of(entry.cell, entry.pair, words)
            except BadInput as error:
                composed[title] = error
        found = composed[title]
        yield (
            _unplanned(found) if isinstance(found, BadInput) else _read(_place(found, entry.pair))
        )


def _read(file: Path) -> State:
    """The state in a file; one that was never run where there is none that can be read."""
    with suppress(OSError, BadInput):
        return typed_json(State, file.read_bytes())
    return State()


def _place(settings: Settings, pair: tuple[str, str]) -> Path:
    """The file of a state: named by what is trained, and on what device.

    Not by the sources of the trainers, nor by how it is judged: those who read a state name
    neither, and are told which it was. Not by what is left at its default either, so that a key
    which is new loses no state.
    """
    launcher = settings.launcher
    facts = [_chosen(settings.case), list(pair), launcher.device, launcher.condition]
    for name in pair:
        options = settings.engine[name.partition("@")[0]]
        if isinstance(options, TrainerOptions):
            options = dataclasses.replace(options, source=None)
        facts.append(_chosen(options))
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return Path(settings.workspace) / FOLDER / f"{key}.json"


def _chosen(value: Any) -> Any:
    """Plain values of a dataclass, without those that are its defaults."""
    if isinstance(value, list | tuple):
        return [_chosen(each) for each in value]
    if isinstance(value, dict):
        return {key: _chosen(each) for key, each in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    found = {}
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        if given != default:
            found[field.name] = _chosen(given)
    return found
