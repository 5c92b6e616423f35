"""How a case did over time, and when a step time is one that the runs before do not explain."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from record_files import window_event
from report_samples import MADE, of, record, verdict

from harness.record.evidence import Record
from harness.record.graph import ModuleGraph
from harness.report.bounds import bound, judged
from harness.report.history import COMPILATIONS, MEMORY, STEP_TIME, HistoryLine, history
from harness.report.history_text import history_lines, remarks
from harness.report.html import render
from harness.report.step_times import median_interval, step_times

DAY = 86400.0
GRAPH = ModuleGraph("step", 1, {}, (), 1, 4096, 1, None, 0, 0, {}, "f")


def run(folder: Path, day: int, seconds: float, **fields: Any) -> Record:
    """A run on some day, whose every step takes so long."""
    events = [window_event(2 * i, 2 * i + 1, 2 * seconds) for i in range(4)]
    manifest = {"started": 1_750_000_000 + DAY * day, **fields.pop("manifest", {})}
    return record(folder / str(day), losses=fields.pop("losses", [6.0] * 8), events=events,
                  manifest=manifest, **fields)  # fmt: skip


def days(folder: Path, seconds: Sequence[float]) -> list[Record]:
    return [run(folder, day, each) for day, each in enumerate(seconds)]


def only(lines: Sequence[HistoryLine]) -> HistoryLine:
    (line,) = lines
    return line


def test_runs_are_in_the_order_of_their_dates(tmp_path: Path) -> None:
    runs = days(tmp_path, [0.5, 0.6, 0.7])
    line = only(history(reversed(runs)))
    assert [e.seconds and e.seconds.median for e in line.entries] == [0.5, 0.6, 0.7]
    assert line.entries[0].started == "2025-06-15T15:06:40Z"
    assert (line.case, line.engine, line.device) == ("llama-tiny", "hf", "4 × CPU")


def test_a_step_time_beyond_what_the_runs_before_show_is_told(tmp_path: Path) -> None:
    usual = [0.5, 0.505, 0.495, 0.5, 0.502]
    line = only(history(days(tmp_path, [*usual, 0.6, 0.4])))
    flagged = [entry.judged[STEP_TIME].side for entry in line.entries]
    assert flagged == [0] * 5 + [1, -1]
    assert line.entries[2].judged[STEP_TIME].bound is None  # two runs tell nothing of a third
    told = [text for index in (5, 6) for text in remarks(line.entries, index)]
    assert [text.split()[0] for text in told] == ["slower", "faster"]


class TestMoves:
    """A bound that has to move says so, and since what."""

    def test_three_in_a_row_on_one_side(self) -> None:
        values = [0.5, 0.505, 0.495, 0.6, 0.602, 0.598, 0.601]
        found = [j for j in judged(values) if j is not None]
        assert [j.side for j in found] == [0, 0, 0, 1, 1, 1, 0]
        assert [j.moves for j in found] == [0, 0, 0, 0, 0, 3, 0]
        last = found[-1].bound
        assert last is not None
        assert (last.runs, last.low < 0.6 < last.high, last.low > 0.5) == (3, True, True)

    def test_one_outlier_moves_nothing_and_widens_nothing(self) -> None:
        found = [j for j in judged([0.5, 0.505, 0.495, 5.0, 0.5]) if j is not None]
        before, after = found[3].bound, found[4].bound
        assert before == after
        assert not any(j.moves for j in found)

    def test_two_on_either_side_move_nothing(self) -> None:
        found = [j for j in judged([1.0, 1.0, 1.0, 2.0, 2.0, 0.5, 2.0, 2.0]) if j is not None]
        assert [j.side for j in found][3:] == [1, 1, -1, 1, 1]
        assert not any(j.moves for j in found)

    def test_what_never_varied_is_beyond_by_one(self) -> None:
        found = [j for j in judged([4096] * 4 + [4097] * 3) if j is not None]
        assert [j.side for j in found] == [0, 0, 0, 0, 1, 1, 1]
        assert found[-1].moves == 3

    def test_it_names_what_was_changed_where_it_began(self, tmp_path: Path) -> None:
        def at(day: int, seconds: float, release: str) -> Record:
            packages = {"python": "3.11.7", "torch": "2.9.0", "transformers": release}
            observed = {"devices": 4, "device_kind": "CPU", "versions": packages}
            return run(tmp_path, day, seconds, manifest={"observed": observed})

        times = [0.5, 0.505, 0.495, 0.6, 0.61, 0.605]
        runs = [at(n, s, "4.56.2" if n < 3 else "4.57.6") for n, s in enumerate(times)]
        entries = only(history(runs)).entries
        assert entries[3].changed == ("transformers 4.56.2 → 4.57.6",)
        assert not entries[4].changed
        *_, moved = remarks(entries, 5)
        assert "transformers 4.56.2 → 4.57.6" in moved
        assert entries[3].started in moved


def test_compilations_are_counted(tmp_path: Path) -> None:
    runs = days(tmp_path, [0.5] * 3)
    events = [window_event(0, 1, 1.0, compilations=2), window_event(2, 7, 3.0)]
    runs.append(
        record(tmp_path / "x", losses=[6.0] * 8, events=events, manifest={"started": 1_760_000_000})
    )
    entries = only(history(runs)).entries
    assert [e.judged[COMPILATIONS].value for e in entries if COMPILATIONS in e.judged] == [2]


def test_a_bound_moves_by_evidence() -> None:
    narrow, wide = bound([1.0, 1.01, 0.99]), bound([1.0, 1.2, 0.8])
    assert narrow is not None
    assert wide is not None
    assert wide.high > narrow.high
    many = bound([1.0, 1.01, 0.99] * 10)
    assert many is not None
    assert many.high < narrow.high
    assert bound([1.0, 1.0]) is None


def test_a_bound_holds_one_more_run_as_often_as_it_says() -> None:
    random.seed(1)
    beyond = 0
    for _ in range(4000):
        *before, one = [random.lognormvariate(0, 0.05) for _ in range(6)]
        found = bound(before)
        assert found is not None
        beyond += found.side(one) != 0
    assert 0.004 < beyond / 4000 < 0.018


def test_other_cases_engines_and_devices_are_lines_of_their_own(tmp_path: Path) -> None:
    runs = days(tmp_path / "a", [0.5, 0.5])
    runs += [run(tmp_path / "b", day, 0.5, label="other") for day in (0, 1)]
    tpu = {"observed": {"devices": 4, "device_kind": "TPU v6e"}}
    runs += [run(tmp_path / "c", day, 0.5, manifest=tpu) for day in (0, 1)]
    runs += [run(tmp_path / "d", day, 0.5, losses=[6.0] * 7) for day in (0, 1)]  # another case
    assert len(history(runs)) == 4


def test_only_whole_runs_that_are_compared_count(tmp_path: Path) -> None:
    runs = days(tmp_path / "a", [0.5, 0.5])
    runs += [run(tmp_path / "b", 2, 0.5, manifest={"role": "timing"})]
    runs += [run(tmp_path / "c", 3, 0.5, manifest={"ended": {"status": "failed"}})]
    assert len(only(history(runs)).entries) == 2
    assert history(runs[:1]) == ()


def test_a_baseline_of_a_run_that_is_there_too_is_told_once(tmp_path: Path) -> None:
    runs = [*days(tmp_path / "a", [0.5, 0.5]), run(tmp_path / "baselines", 1, 0.5)]
    assert len(only(history(runs)).entries) == 2


def test_how_far_losses_moved_is_from_one_run_to_the_next(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, 0, 0.5),
        run(tmp_path, 1, 0.5, losses=[6.0] * 7 + [6.06]),
        run(tmp_path, 2, 0.5, losses=[6.0] * 7 + [6.06]),
    ]
    entries = only(history(runs)).entries
    assert [entry.moved for entry in entries] == [None, pytest.approx(0.06 / 6.06), 0.0]
    assert entries[1].last_loss == 6.06


def test_memory_is_that_of_the_compiled_step(tmp_path: Path) -> None:
    runs = days(tmp_path / "a", [0.5, 0.5])
    dumped = run(tmp_path / "b", 1, 0.5, manifest={"role": "graph"})
    entries = only(history([*runs, dataclasses.replace(dumped, graph=GRAPH)])).entries
    assert [entry.judged[MEMORY].value for entry in entries] == [4096, 4096]


def test_the_page_shows_it(tmp_path: Path) -> None:
    runs = days(tmp_path, [0.5, 0.505, 0.495, 0.5, 0.6])
    records = {str(r.directory): r for r in runs}
    text = render(verdict(of(runs[0], runs[1])), records, MADE, history(runs))
    assert "Over time" in text
    assert text.count("slower than the 4 runs before explain") == 1
    assert "slower than the 4 runs before explain" in "\n".join(history_lines(history(runs)))
    assert "2025-06-19T15:06:40Z" in text
    assert "Over time" not in render(verdict(of(runs[0], runs[1])), records, MADE)


class TestMedian:
    def test_of_few_samples_there_is_no_interval(self) -> None:
        found = median_interval([3.0, 1.0, 2.0])
        assert (found.median, found.low, found.high, found.samples) == (2.0, None, None, 3)

    def test_the_ranks_are_those_of_the_tables(self) -> None:
        """Conover, "Practical nonparametric statistics": n = 10 → 2nd and 9th, n = 20 → 6th."""
        assert median_interval(range(1, 11)).low == 2
        assert median_interval(range(1, 11)).high == 9
        assert median_interval(range(1, 21)).low == 6

    def test_it_holds_the_median_as_often_as_it_says(self) -> None:
        random.seed(2)
        held = 0
        for _ in range(3000):
            found = median_interval([random.expovariate(1.0) for _ in range(15)])
            assert found.low is not None
            assert found.high is not None
            held += found.low <= 0.6931 <= found.high
        assert held / 3000 > 0.94

    def test_windows_that_are_not_steady_do_not_count(self, tmp_path: Path) -> None:
        events = [window_event(0, 1, 9.0, compilations=1), window_event(2, 3, 1.0)]
        times = step_times(record(tmp_path / "a", losses=[6.0] * 4, events=events))
        assert times is not None
        assert (times.median, times.samples) == (0.5, 1)
        assert step_times(record(tmp_path / "b")) is None
