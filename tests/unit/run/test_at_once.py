"""Runs that are launched at the same time, where the machine carries them."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from builders import Trainer
from gate_samples import Silent, plan

from harness.config.compose import load
from harness.config.settings import Settings
from harness.devices import cpu, native
from harness.devices.device import device
from harness.record.evidence import Record
from harness.run import execute
from harness.run.device_lock import DeviceLock
from harness.run.execute import run_or_reuse_each
from harness.run.plan import Plan

NATIVE = "launcher.device=cpu-native"
WAIT = 20.0
"""Seconds after which a test that waits for another thread is given up."""


def settings(tmp_path: Path, *words: str) -> Settings:
    return load([f"workspace='{tmp_path}'", *words])


def plans(chosen: Settings, **changed: Any) -> list[Plan]:
    return [plan(label, chosen, **changed) for label in ("a", "b", "c")]


class Launches:
    """Stands in for `run_or_reuse`; each run waits until it is let go.

    together: the most that were going on at the same time
    """

    def __init__(self, at_once: int = 1) -> None:
        self.all_here = threading.Barrier(at_once)
        self.lock = threading.Lock()
        self.labels: list[str] = []
        self.going, self.together = 0, 0
        self.stopped: list[str] = []

    def __call__(
        self, wanted: Plan, workspace: Path, launcher: object, reporter: object,
        stop: threading.Event | None = None,
    ) -> Record:  # fmt: skip
        with self.lock:
            self.labels.append(wanted.label)
            self.going += 1
            self.together = max(self.together, self.going)
        if wanted.label == "broken":
            raise ValueError("of a thread")
        if wanted.label == "endless":
            assert stop is not None
            assert stop.wait(WAIT)
            self.stopped.append(wanted.label)
        elif self.all_here.parties > 1:
            with contextlib.suppress(threading.BrokenBarrierError):
                self.all_here.wait(WAIT)
        with self.lock:
            self.going -= 1
        return Trainer(label=wanted.label).record()


def launched(
    monkeypatch: pytest.MonkeyPatch, chosen: Settings, wanted: list[Plan], at_once: int = 1
) -> tuple[Launches, list[str]]:
    """What was launched, and the labels of what came back."""
    launches = Launches(at_once)
    monkeypatch.setattr(execute, "run_or_reuse", launches)
    runs = run_or_reuse_each(wanted, Path(chosen.workspace), chosen.launcher, Silent())
    return launches, [run.label for run in runs]


def test_as_many_as_there_are_processors_in_the_order_of_the_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(tmp_path, NATIVE)
    launches, found = launched(monkeypatch, chosen, plans(chosen)[:2], at_once=2)
    assert launches.together == 2
    assert found == ["a", "b"]
    launches, found = launched(monkeypatch, chosen, plans(chosen))
    assert launches.together <= 2
    assert found == ["a", "b", "c"]


@pytest.mark.parametrize(
    "words",
    [(), (NATIVE, "launcher.hosts=2"), ("launcher=docker", NATIVE)],
    ids=["a mesh of four devices", "hosts of a slice", "elsewhere"],
)
def test_one_after_the_other_where_the_machine_carries_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    chosen = settings(tmp_path)
    given = settings(tmp_path, *words)
    launches, found = launched(monkeypatch, given, plans(chosen))
    assert (launches.together, found) == (1, ["a", "b", "c"])


def test_one_after_the_other_where_a_model_may_want_all_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(tmp_path, NATIVE)
    model = dataclasses.replace(chosen.case.model, vocab_size=10**7)
    large = dataclasses.replace(chosen, case=dataclasses.replace(chosen.case, model=model))
    assert large.case.parameters > execute.MOST_AT_ONCE
    launches, _ = launched(monkeypatch, large, plans(large))
    assert launches.together == 1


def test_steps_that_are_only_traced_are_traced_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(tmp_path, NATIVE)
    launches, _ = launched(monkeypatch, chosen, plans(chosen, role="staged"))
    assert launches.together == 1


def test_who_has_seen_enough_ends_what_is_still_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(tmp_path, NATIVE)
    launches = Launches()
    monkeypatch.setattr(execute, "run_or_reuse", launches)
    wanted = [plan(label, chosen) for label in ("a", "endless", "endless", "c")]
    runs = run_or_reuse_each(wanted, tmp_path, chosen.launcher, Silent())
    with contextlib.closing(runs):
        assert next(runs).label == "a"
    assert launches.going == 0
    assert set(launches.stopped) == {"endless"}
    assert "c" not in launches.labels


def test_what_one_raises_is_raised_and_ends_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(tmp_path, NATIVE)
    launches = Launches()
    monkeypatch.setattr(execute, "run_or_reuse", launches)
    wanted = [plan(label, chosen) for label in ("broken", "endless")]
    with pytest.raises(ValueError, match="of a thread"):
        list(run_or_reuse_each(wanted, tmp_path, chosen.launcher, Silent()))
    assert launches.stopped == ["endless"] or "endless" not in launches.labels


@pytest.mark.parametrize(
    ("processors", "devices", "runs"), [(1, 4, 1), (2, 4, 1), (2, 2, 2), (4, 4, 2), (8, 4, 4)]
)
def test_a_mesh_takes_a_processor_for_two_of_its_devices(
    monkeypatch: pytest.MonkeyPatch, processors: int, devices: int, runs: int
) -> None:
    monkeypatch.setattr(cpu, "processors", lambda: processors)
    assert device("cpu").at_once(devices) == runs


def test_without_xla_each_run_takes_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "processors", lambda: 3)
    assert device("cpu-native").at_once(1) == 3


def test_a_tpu_carries_one() -> None:
    assert device("tpu").at_once(4) == 1


OTHER = """
from types import SimpleNamespace
from harness.run.device_lock import DeviceLock
with DeviceLock("cpu", SimpleNamespace(note=lambda text: print(text, flush=True))):
    print("held", flush=True)
"""


def test_runs_of_one_process_hold_the_devices_together_and_keep_others_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path))
    with DeviceLock("cpu", Silent()):
        thread = threading.Thread(target=lambda: _take_and_leave("cpu"))
        thread.start()
        thread.join(WAIT)
        assert not thread.is_alive()
        # The other run has ended: this one still has them.
        process = subprocess.Popen([sys.executable, "-c", OTHER], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting for another run on this machine's devices\n"
        assert process.poll() is None
    out, _ = process.communicate(timeout=WAIT)
    assert out == "held\n"


def _take_and_leave(name: str) -> None:
    with DeviceLock(name, Silent()):
        pass
