"""Launches planned runs, once each, and gives back their Records."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from harness import __version__, record
from harness.case import to_dict
from harness.environments.sources import default_cache_dir
from harness.launchers import ending, local
from harness.launchers.invocation import Invocation, Places, make_scratch, watched
from harness.plan import Plan
from harness.record import Record
from harness.report.tensorboard import write_events
from harness.settings import Launcher
from harness.workspace import Slot, slot

ATTEMPTS = 3
"""Launches of one run at most. Only starved collectives, the machine's own failure, are tried
again: no run that trained is ever repeated until it pleases."""


class Reporter(Protocol):
    """Shows a person what is going on."""

    def note(self, text: str) -> None:
        """A line about what is being done or waited for."""

    def started(self, label: str, steps: int) -> None:
        """A run was launched."""

    def event(self, label: str, event: Mapping[str, Any]) -> None:
        """The probe wrote an event."""

    def ended(self, label: str, outcome: ending.Ending) -> None:
        """A run ended."""

    def reused(self, label: str, directory: Path) -> None:
        """A complete Record of this very run was there already."""


def obtain(plan: Plan, workspace: Path, launcher: Launcher, reporter: Reporter) -> Record:
    """The Record of `plan`: the one that is there, or that of a new run.

    A run that fails gives a Record too, which says how it ended.
    """
    place = slot(workspace, plan.case.name, _folder(plan), plan.key)
    with place.locked():
        found = place.complete_record()
        if found is not None:
            reporter.reused(plan.label, place.directory)
            return found
        with _device(launcher.device, reporter):
            return _launch(plan, place, launcher, reporter)


def _folder(plan: Plan) -> str:
    return plan.engine if plan.role == "subject" else f"{plan.engine}-{plan.role}"


class _device:
    """Holds the machine's devices: two trainers at once would starve each other's collectives."""

    def __init__(self, device: str, reporter: Reporter) -> None:
        cache = default_cache_dir()
        cache.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(cache / f"device-{device}.lock")
        self.reporter = reporter

    def __enter__(self) -> None:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            self.reporter.note("waiting for another run on this machine's devices")
            self.lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self.lock.release()


def _launch(plan: Plan, place: Slot, launcher: Launcher, reporter: Reporter) -> Record:
    limits = local.Limits(launcher.time_limit, launcher.silence)
    started = time.time()
    for attempt in range(1, ATTEMPTS + 1):
        invocation = _prepare(plan, place)
        reporter.started(plan.label, plan.case.steps)
        outcome = local.launch(
            invocation, place.running, limits, lambda event: reporter.event(plan.label, event)
        )
        if outcome.status != ending.STARVED or attempt == ATTEMPTS:
            break
        reporter.note(f"{plan.label}: {outcome.reason}; trying again")
    manifest = {
        "schema": record.SCHEMA,
        "harness": __version__,
        "engine": plan.engine,
        "label": plan.label,
        "role": plan.role,
        "repeat": plan.repeat,
        "key": plan.key,
        "case": to_dict(plan.case),
        "inputs": plan.inputs.digest,
        "origin": plan.origin,
        "command": {
            "argv": list(invocation.argv),
            "environment": dict(plan.environment) | dict(plan.command.environment),
            "pythonpath": list(plan.command.pythonpath),
        },
        "interpreter": {
            "python": str(plan.interpreter.python),
            "key": plan.interpreter.key,
            "packages": dict(plan.interpreter.packages),
        },
        "host": {"name": platform.node(), "machine": platform.machine()},
        "started": started,
        "attempts": attempt,
        "observed": _observed(place.running),
        "ended": outcome.to_json(),
    }
    result = place.finish(_judge_ending(manifest, place))
    reporter.ended(plan.label, ending.Ending(**result.ended))
    if result.steps:
        write_events(result)
    return result


def _prepare(plan: Plan, place: Slot) -> Invocation:
    place.begin()
    places = Places(
        record=place.running.resolve(),
        inputs=plan.inputs.directory.resolve(),
        scratch=place.scratch.resolve(),
        package=Path(__file__).resolve().parent,
        source=plan.source,
    )
    make_scratch(places)
    invocation = watched(
        plan.command,
        places,
        str(plan.interpreter.python),
        plan.interpreter.pythonpath,
        plan.environment,
    )
    invocation.write_files()
    return invocation


def _observed(directory: Path) -> dict[str, Any]:
    import json

    path = directory / record.OBSERVED
    observed = json.loads(path.read_text()) if path.is_file() else {}
    assert isinstance(observed, dict)
    return observed


def _judge_ending(manifest: dict[str, Any], place: Slot) -> dict[str, Any]:
    """A process that exits with 0 is not enough: every step has to have been trained."""
    ended = manifest["ended"]
    if ended["status"] != ending.OK:
        return manifest
    steps, asked = 0, manifest["case"]["steps"]
    path = place.running / record.STEPS
    if path.is_file():
        # Read as a run that may be cut short, which is what is to be found out.
        events = record.read_events(path)
        steps = len({e["step"] for e in events if e["event"] == "values"})
    if steps != asked:
        log = (place.running / record.LOG).read_text(errors="replace").splitlines()
        ended.update(
            status=ending.SHORT,
            reason=f"it exited with 0, but trained {steps} of {asked} steps",
            log=[line for line in log if line.strip()][-ending.TAIL_LINES :],
        )
    return manifest
