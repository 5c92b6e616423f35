"""Where the seconds of a session go: each is counted once."""

from __future__ import annotations

import dataclasses
import os
import time

import pytest
from gate_samples import plan

from harness.config.compose import load
from harness.ladder.comparison import Comparison
from harness.record.evidence import Record
from harness.run.clock import SessionClock, since_start
from harness.run.session import launch_order


def launched(run: Record, at: float, seconds: float) -> Record:
    ended = dataclasses.replace(run.manifest.ended, seconds=seconds)
    return dataclasses.replace(
        run, manifest=dataclasses.replace(run.manifest, started=at, ended=ended)
    )


def test_runs_of_an_earlier_session_took_none_of_it(
    a: Record, b: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SessionClock()
    monkeypatch.setattr(time, "time", lambda: clock.began + 10.0)
    runs = [launched(a, clock.began + 1, 6.0), launched(b, clock.began - 100, 50.0)]
    assert clock.seconds(runs) == {"runs": 6.0, "judging": 0.0, "writing": pytest.approx(4.0)}


def test_runs_at_the_same_time_take_it_once(
    a: Record, b: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SessionClock()
    monkeypatch.setattr(time, "time", lambda: clock.began + 10.0)
    runs = [launched(a, clock.began + 1, 6.0), launched(b, clock.began + 3, 5.0)]
    runs.append(launched(a, clock.began + 2, 1.0))
    assert clock.seconds(runs) == {"runs": 7.0, "judging": 0.0, "writing": pytest.approx(3.0)}


def test_judging_is_no_writing(a: Record, b: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SessionClock()
    ticks = iter([3.0, 5.0, 5.0, 6.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    tolerance = load(["case=llama-tiny"]).tolerance
    for _ in range(2):
        assert clock.judge(Comparison(a, b, tolerance)).rungs
    monkeypatch.setattr(time, "time", lambda: clock.began + 4.0)
    assert clock.seconds([]) == {"runs": 0.0, "judging": 3.0, "writing": pytest.approx(1.0)}


def test_a_process_knows_since_when_it_runs() -> None:
    first = since_start()
    assert 0 < time.process_time() <= first + 1 / os.sysconf("SC_CLK_TCK")
    time.sleep(0.05)
    assert 0.05 <= since_start() - first < 5


def test_who_needs_few_libraries_is_launched_first() -> None:
    settings = load([])
    plans = [plan(name, settings, engine=name) for name in ("hf", "reference", "hf")]
    assert launch_order(plans) == [1, 0, 2]
