"""Where the seconds of a run went: every second is in one phase, and none in two."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import manifests
import pytest

from harness.config.case import Case
from harness.record.evidence import Record, Window
from harness.record.phases import phases
from harness.report.phases import phase_lines, session_line

MARKS = {"first_window": {"at": 112.0, "imports": 5.5, "probe": 0.5}}
PHASES = {"began": 101.0, "seconds": {"imports": 6.0, "probe": 2.0}, "marks": MARKS}


def window(first: int, last: int, seconds: float, compiling: float = 0.0) -> Window:
    return Window(first, last, seconds, seconds, 0, 0, 0, {}, False, compiling)


def record(**observed: Any) -> Record:
    """A run of 20 seconds that was launched at 100."""
    fields = {"phases": PHASES, "forked": False, **observed}
    manifest = manifests.parsed(
        manifests.raw(Case("toy"), started=100.0, ended={"seconds": 20.0}, observed=fields)
    )
    windows = (window(0, 0, 3.0, 2.0), window(1, 1, 1.5, 1.0), window(2, 6, 0.5, 0.1),
               window(7, 9, 0.3))  # fmt: skip
    return Record(Path("run"), manifest, (), windows, (), ())


def test_every_second_is_in_one_phase() -> None:
    found = phases(record())
    assert found == {
        "start": 1.0, "imports": 6.0, "preparing": 5.0,
        "step 0": 1.0, "compiling step 0": 2.0, "step 1": 0.5, "compiling step 1": 1.0,
        "other steps": 0.8, "probe": 2.0, "ending": pytest.approx(0.7),
    }  # fmt: skip
    assert sum(found.values()) == pytest.approx(20.0)


@pytest.mark.parametrize("spent", [None, {**PHASES, "marks": {}}])
def test_a_run_that_trained_nothing_has_none(spent: Any) -> None:
    assert phases(record(phases=spent)) == {}
    assert phase_lines([record(phases=spent)]) == []


def test_nor_has_one_without_windows() -> None:
    assert phases(dataclasses.replace(record(), windows=())) == {}


def test_a_session_is_told_with_its_sum() -> None:
    line = session_line({"planning": 0.5, "runs": 18.0, "judging": 0.25, "writing": 0.25})
    assert line.split() == [
        "session:", "planning", "0.50,", "runs", "18.00,", "judging", "0.25,", "writing", "0.25,",
        "in", "all", "19.00",
    ]  # fmt: skip


def test_the_table_has_a_column_for_each_run_and_says_how_it_was_launched() -> None:
    lines = phase_lines([record(), record(forked=True)])
    cells = {line.split("  ")[0].strip(): line.split()[-2:] for line in lines}
    assert cells["preparing"] == ["5.00", "5.00"]
    assert cells["in all"] == ["20.00", "20.00"]
    assert lines[-1].split() == ["launched", "by", "itself", "forked"]
