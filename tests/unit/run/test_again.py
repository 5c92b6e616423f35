"""What a workspace holds, judged again from Records alone."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders import Trainer, comparison, with_manifest
from golden import Worded
from report_samples import record

from harness.base.errors import BadInput
from harness.config.settings import Tolerance
from harness.ladder.result import Result
from harness.record.checksums import CHECKSUMS, write_checksums
from harness.record.evidence import Record
from harness.record.layout import MANIFEST, STEPS
from harness.run.again import Found, _resumption, find_records, judge_again
from harness.run.session import Outcome


def run(label: str, started: float = 1e9, role: str = "subject", **trainer: Any) -> Record:
    """A run of an engine of that name."""

    def change(manifest: dict[str, Any]) -> None:
        manifest.update(engine=label, label=label, role=role, started=started, inputs="same")

    return with_manifest(Trainer(label=label, **trainer).record(), change)


def tolerance() -> Tolerance:
    return comparison(*(Trainer().record() for _ in "ab")).tolerance


def judged(*records: Record) -> Outcome:
    return judge_again(Found(records, ()), tolerance())


def test_every_engine_is_held_against_the_one_whose_noise_was_measured() -> None:
    hf, other, third = run("hf", 3.0), run("reference", 1.0), run("torchprime", 2.0)
    perturbed = run("hf", 4.0, role="perturbed", ulp=True)
    outcome = judged(other, third, perturbed, hf)
    assert [(p.a, p.b) for p in outcome.verdict.pairs] == [
        ("hf", "reference"),
        ("hf", "torchprime"),
    ]
    assert outcome.verdict.result is Result.PASS
    assert str(perturbed.directory) in outcome.records


def of(run: Record, training: str) -> Record:
    """The run as one of that training."""
    return dataclasses.replace(run, manifest=dataclasses.replace(run.manifest, training=training))


def test_a_run_is_resumed_from_what_its_own_training_saved() -> None:
    """Between its runs, another training of the same engine and case was saved and resumed."""
    straight = of(run("hf", 1.0), "clean")
    saving, resumed = (of(run("hf", 2.0, role), "clean") for role in ("saving", "resumed"))
    other = [of(run("hf", 3.0, role), "faulty") for role in ("saving", "resumed")]
    found = _resumption(straight, [straight, saving, resumed, *other])
    assert found is not None
    assert (found.saving, found.resumed) == (saving, resumed)
    assert _resumption(straight, [straight, *other]) is None
    later = of(run("hf", 4.0, "saving"), "clean")
    again = _resumption(straight, [saving, later, resumed])
    assert again is not None
    assert again.saving == later


def test_of_several_runs_the_newest_is_judged() -> None:
    old, new = run("hf", 1.0, learning_rate=2e-2), run("hf", 2.0)
    outcome = judged(new, old, run("reference", 3.0))
    (pair,) = outcome.verdict.pairs
    assert pair.a_record == str(new.directory)


def test_runs_of_other_cases_inputs_or_devices_are_no_pair() -> None:
    hf = run("hf")
    others = [
        with_manifest(run("reference"), lambda m: m.update(inputs="others")),
        with_manifest(run("reference"), lambda m: m["observed"].update(device_kind="TPU v6e")),
        run("reference", steps=7),
    ]
    for other in others:
        with pytest.raises(BadInput, match="nothing to compare"):
            judged(hf, other)


def set_turns(turns: str, manifest: dict[str, Any]) -> None:
    manifest["turns"] = turns


def test_launches_in_turns_are_timed_together(worded: Worded) -> None:
    pairs = []
    for launch in range(3):
        for label in ("hf", "reference"):
            timed = run(label, 10.0 + launch, role="timing", steps=40, window=2)
            pairs.append(with_manifest(timed, partial(set_turns, f"t{launch}")))
    asked = dataclasses.replace(tolerance(), step_time=0.05)
    found = Found((run("hf"), run("reference", 2.0), *pairs), ())
    rung = judge_again(found, asked).verdict.pairs[0].rung("step_time")
    assert rung.result is Result.PASS
    worded(rung)


class TestFinding:
    def test_records_are_found_below_a_folder_and_runs_in_progress_are_not(
        self, tmp_path: Path
    ) -> None:
        for name in ("case/hf-1", "case/.hf-2.running", "deep/er/x"):
            record(tmp_path / name)
        found = find_records([tmp_path, tmp_path / "case"])
        names = sorted(str(r.directory.relative_to(tmp_path)) for r in found.records)
        assert names == ["case/hf-1", "deep/er/x"]

    def test_one_that_cannot_be_read_is_said_and_costs_no_other(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            record(tmp_path / name)
        (tmp_path / "b" / MANIFEST).write_text("{")
        found = find_records([tmp_path])
        assert len(found.records) == 1
        assert "manifest.json" in found.unreadable[0]
        outcome = judge_again(Found((run("hf"), run("b")), found.unreadable), tolerance())
        assert "1 Records could not be read" in outcome.verdict.notes[0]

    def test_a_file_that_is_another_than_it_was_is_named(self, tmp_path: Path) -> None:
        for name, label in (("a", "hf"), ("b", "reference")):
            Trainer(label=label).write(tmp_path / name)
            write_checksums(tmp_path / name)
        assert not judge_again(find_records([tmp_path]), tolerance()).verdict.notes
        with (tmp_path / "a" / STEPS).open("a") as stream:
            stream.write("\n")
        (note,) = judge_again(find_records([tmp_path]), tolerance()).verdict.notes
        assert note.startswith(f"{tmp_path / 'a' / STEPS} is damaged, or was changed")

    def test_checksums_that_are_damaged_cost_no_record(self, tmp_path: Path) -> None:
        for name, label in (("a", "hf"), ("b", "reference")):
            Trainer(label=label).write(tmp_path / name)
            write_checksums(tmp_path / name)
        (tmp_path / "a" / CHECKSUMS).write_text("nothing of the kind\n")
        verdict = judge_again(find_records([tmp_path]), tolerance()).verdict
        assert len(verdict.pairs) == 1
        assert [note.endswith("line 1 is none of it") for note in verdict.notes] == [True]

    def test_nothing_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="there is no Record in"):
            find_records([tmp_path])
        with pytest.raises(BadInput, match="is no folder"):
            find_records([tmp_path / "nowhere"])
