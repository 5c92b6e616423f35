"""A perturbed run serves every comparison of the same run, and no other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import manifests
import pytest
from builders import Trainer
from gate_samples import Silent, plan

from harness.config.compose import load
from harness.config.settings import Settings
from harness.engines.command import Command
from harness.environments.interpreters import Interpreter
from harness.inputs.prepared import Inputs
from harness.probe.spec import Spec
from harness.record.evidence import Record
from harness.run import execute, noise
from harness.run.noise import Noise, measure_noise, perturbed_of
from harness.run.plan import Plan
from harness.run.workspace import Slot


@pytest.fixture
def launched(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """The labels of what was launched; each leaves a Record."""
    labels: list[str] = []
    # The lock of this machine's devices is there, and may be held.
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path_factory.mktemp("cache")))

    def launch(plan: Plan, place: Slot, *_: Any) -> Record:
        labels.append(plan.label)
        trainer = Trainer(key=plan.key)
        place.begin()
        trainer.write(place.running)
        return place.finish(manifests.parsed(trainer.manifest()))

    monkeypatch.setattr(execute, "launch_alone", launch)
    monkeypatch.setattr(noise, "with_perturbed_weights", lambda *_: Inputs(Path("perturbed")))
    return labels


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return dataclasses.replace(load(["engines=[hf,reference]"]), workspace=str(tmp_path))


def measured(subject: Plan, settings: Settings, a: Record) -> tuple[Noise, list[str]]:
    """The noise of a run, and what a person is told meanwhile."""
    reporter = Silent()
    perturbed = perturbed_of(subject, settings)
    assert perturbed is not None
    moved = execute.run_or_reuse(perturbed, Path(settings.workspace), settings.launcher, reporter)
    return measure_noise(subject, a, moved, settings, reporter), reporter.lines


def test_every_pair_with_the_same_first_engine_has_the_same(
    settings: Settings, launched: list[str], a: Record
) -> None:
    one, reported = measured(plan("hf", settings), settings, a)
    assert reported == []
    other = dataclasses.replace(settings, engines=["hf", "torchprime"])
    again, reported = measured(plan("hf", other), other, a)
    assert launched == ["hf from perturbed weights"]
    assert reported == ["hf from perturbed weights reused"]
    assert one.floor is not None
    assert again.floor is not None
    assert one.floor[1].directory == again.floor[1].directory


def test_another_name_of_the_same_engine_has_the_same(
    settings: Settings, launched: list[str], a: Record
) -> None:
    same = {"command": Command(("train.py",), Spec(4, 8)), "origin": {"version": "4.57.6"}}
    for label in ("hf", "hf@4.57.6"):
        measured(plan(label, settings, **same), settings, a)
    assert launched == ["hf from perturbed weights"]


def test_a_later_session_has_the_same(settings: Settings, launched: list[str], a: Record) -> None:
    for _ in range(2):
        words = ["engines=[hf,reference]", f"workspace={settings.workspace}"]
        later = load(words)
        measured(plan("hf", later), later, a)
    assert launched == ["hf from perturbed weights"]


@pytest.mark.parametrize(
    "changed",
    [
        {"engine": "reference"},
        {"interpreter": Interpreter(Path("python"), (), {}, {}, "another")},
        {"environment": {"XLA_FLAGS": "--xla_x=1"}},
        {"origin": {"commit": "0123456"}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_run_has_another(
    settings: Settings, launched: list[str], a: Record, changed: dict[str, Any]
) -> None:
    same = {"command": Command(("train.py",), Spec(4, 8)), "origin": {}}
    measured(plan("first", settings, **same), settings, a)
    measured(plan("other", settings, **same | changed), settings, a)
    assert launched == ["first from perturbed weights", "other from perturbed weights"]


def test_a_run_is_not_its_own_noise(settings: Settings, launched: list[str], a: Record) -> None:
    """Not even where it was perturbed: the weights are part of its key."""
    subject = plan("hf", settings)
    found, _ = measured(subject, settings, a)
    assert [run.manifest.key for run in found.runs] != [subject.key]
    assert len(found.runs) == 1
