"""Launches planned runs and returns their Records; a complete Record is used again."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from harness import __version__
from harness.base import secrets
from harness.base.errors import BadInput
from harness.base.text import printable
from harness.config.case import Case
from harness.config.settings import LauncherSettings
from harness.config.training import TrainingRequest
from harness.devices.device import device as find_device
from harness.devices.device import planes_of, with_kind
from harness.engines.spec import engine
from harness.environments.sources import default_cache_dir
from harness.launchers.invocation import Invocation, Places, make_scratch
from harness.launchers.launcher import Launcher, Local, Run
from harness.launchers.registry import launcher_for, limits_of, local_launcher
from harness.record import layout, reader, termination, writer
from harness.record.device_times import joined
from harness.record.evidence import (
    DeviceTimes,
    Launched,
    Machine,
    Manifest,
    Observed,
    Origin,
    Python,
    Record,
    Reported,
)
from harness.record.log import last_lines
from harness.run.plan import Plan
from harness.run.workspace import Slot, slot

ATTEMPTS = 3
"""Launches of one run at most. Only starved collectives, the machine's own failure, are tried
again: no run that trained is ever repeated until it pleases."""


class Reporter(Protocol):
    """Shows a person what is going on."""

    def note(self, text: str) -> None:
        """A line about what is being done or waited for."""

    def expects(self, runs: int) -> None:
        """So many more runs are coming, as far as is known now; some may be there already."""

    def started(self, label: str, steps: int) -> None:
        """A run was launched."""

    def event(self, label: str, event: reader.Event) -> None:
        """The probe wrote an event."""

    def ended(self, label: str, ended: termination.Termination) -> None:
        """A run ended."""

    def reused(self, label: str, directory: Path) -> None:
        """A complete Record of this very run was there already."""


def expect(
    plans: Iterable[Plan], workspace: Path, settings: LauncherSettings, reporter: Reporter
) -> None:
    """Say which runs are coming, before the first is launched: those that have no Record yet."""
    launcher = launcher_for(settings, reporter.note)
    if isinstance(launcher, Local):
        for plan in plans:
            place = slot(
                workspace, plan.case.name, _folder(plan), with_launcher_identity(plan, launcher).key
            )
            if not place.directory.exists():
                launcher.expect(run_of(plan, place))


def run_or_reuse(
    plan: Plan, workspace: Path, settings: LauncherSettings, reporter: Reporter
) -> Record:
    """The Record of `plan`: the one that is there, or that of a new run.

    A run that fails gives a Record too, which says how it ended. Raises BadInput where the
    launcher cannot launch anything.
    """
    launcher = _launcher(plan, settings, reporter)
    plan = with_launcher_identity(plan, launcher)
    place = slot(workspace, plan.case.name, _folder(plan), plan.key)
    with place.locked():
        found = place.complete_record()
        if found is not None:
            reporter.reused(plan.label, place.directory)
            return found
        devices = launcher.here and plan.role not in ("float64", "staged")
        with DeviceLock(settings.device, reporter) if devices else contextlib.nullcontext():
            return launch_alone(plan, place, settings, reporter)


def run_or_reuse_in_turns(
    plans: tuple[Plan, Plan], workspace: Path, settings: LauncherSettings, reporter: Reporter
) -> tuple[Record, Record]:
    """The Records of two runs that are alive at once on this machine, and work in turns.

    Both are launched anew unless both are there, from one and the same launch.
    """
    places = [slot(workspace, p.case.name, _folder(p), p.key) for p in plans]
    with contextlib.ExitStack() as held:
        for place in sorted(places, key=lambda place: place.directory):
            held.enter_context(place.locked())
        found = [place.complete_record() for place in places]
        a, b = found
        if a is not None and b is not None and a.manifest.turns == b.manifest.turns:
            for plan, place in zip(plans, places, strict=True):
                reporter.reused(f"{plan.label} in turns", place.directory)
            return a, b
        held.enter_context(DeviceLock(settings.device, reporter))
        return _launch_in_turns(plans, (places[0], places[1]), settings, reporter)


def _launch_in_turns(
    plans: tuple[Plan, Plan],
    places: tuple[Slot, Slot],
    settings: LauncherSettings,
    reporter: Reporter,
) -> tuple[Record, Record]:
    stop, launch_id = threading.Event(), uuid.uuid4().hex
    launcher = local_launcher(settings, reporter.note, stop)
    labels = " and ".join(plan.label for plan in plans)
    reporter.started(f"{labels} in turns", plans[0].case.steps)

    def run_side(side: int, shared: Path) -> Record:
        plan, place = plans[side], places[side]
        # The first side's progress stands for both: they are never more than two windows apart.
        follow = reporter.event if side == 0 else _ignore
        try:
            return _launch(plan, place, launcher, follow, shared, launch_id)
        finally:
            (shared / f"done-{side}").touch()  # also after a crash, which ends no turns itself

    with (
        tempfile.TemporaryDirectory(prefix="parity-turns-") as folder,
        ThreadPoolExecutor(2) as pool,
    ):
        futures = [pool.submit(run_side, side, Path(folder)) for side in (0, 1)]
        try:
            records = [future.result() for future in futures]
        except BaseException:
            stop.set()
            raise
    reporter.ended(f"{labels} in turns", records[0].ended)
    return records[0], records[1]


def _ignore(label: str, event: reader.Event) -> None:
    return None


def _launcher(plan: Plan, settings: LauncherSettings, reporter: Reporter) -> Launcher:
    if plan.role == "float64":
        # It needs no accelerator, only this machine's processor.
        return Local(limits_of(settings), None, reporter.note if settings.fork_server else None)
    return launcher_for(settings, reporter.note)


def _folder(plan: Plan) -> str:
    return plan.engine if plan.role == "subject" else f"{plan.engine}-{plan.role}"


class DeviceLock:
    """Holds the machine's devices: two trainers at once would starve each other's collectives.

    Raises BadInput where a process that is not a run of the harness has them.
    """

    def __init__(self, device: str, reporter: Reporter) -> None:
        cache = default_cache_dir()
        cache.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(cache / f"device-{device}.lock")
        self.device, self.reporter = device, reporter

    def __enter__(self) -> None:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            self.reporter.note("waiting for another run on this machine's devices")
            self.lock.acquire()
        # Whoever has them now is none of ours.
        if (reason := find_device(self.device).busy()) is not None:
            self.lock.release()
            raise BadInput(f"launcher.device={self.device}: {reason}")

    def __exit__(self, *exception: object) -> None:
        self.lock.release()


def launch_alone(plan: Plan, place: Slot, settings: LauncherSettings, reporter: Reporter) -> Record:
    """Launch one run; it is retried only if the machine starved its collectives."""
    launcher = _launcher(plan, settings, reporter)
    launcher.check()
    for attempt in range(1, ATTEMPTS + 1):
        reporter.started(plan.label, plan.case.steps)
        result = _launch(plan, place.again(), launcher, reporter.event, attempt=attempt)
        ended = result.ended
        reporter.ended(plan.label, ended)
        if ended.status != termination.STARVED or attempt == ATTEMPTS:
            break
        reporter.note(f"{plan.label}: trying again")
    return result


def _launch(
    plan: Plan,
    place: Slot,
    launcher: Launcher,
    on_event: Callable[[str, reader.Event], None],
    shared: Path | None = None,
    turns: str | None = None,
    attempt: int = 1,
) -> Record:
    """Launch one run, wait for it, and put its Record in its place."""
    # TensorBoard takes 0.4 s: it is imported while the trainer's own libraries are.
    from harness.report.tensorboard import write_events

    started = time.time()
    run = run_of(plan, place, shared)
    place.begin()
    make_scratch(run.places)
    ended = launcher.launch(run, lambda event: on_event(plan.label, event))
    invocation = launcher.invocation(run)
    argv = secrets.public_argv(invocation.argv)
    _scrub(plan, invocation, place.running)
    observed = with_kind(reader.read_observed(place.running))
    if plan.role == "graph" and ended.status == termination.OK:
        _keep_graph(place)
    manifest = Manifest(
        schema=layout.SCHEMA,
        harness=__version__,
        engine=plan.engine,
        label=plan.label,
        role=plan.role,
        repeat=plan.repeat,
        key=plan.key,
        case=_public_case(plan.case),
        inputs=plan.inputs.digest,
        origin=Origin(**plan.origin),
        command=Launched(
            argv,
            secrets.public({**plan.environment, **plan.command.environment}),
            tuple(plan.command.pythonpath),
        ),
        interpreter=Python(dict(plan.interpreter.packages), argv[0], plan.interpreter.key),
        host=Machine(platform.node(), platform.machine()),
        started=started,
        attempts=attempt,
        turns=turns,
        observed=observed,
        hosts=reader.read_hosts(place.running),
        reported=_reported(plan, place),
        beyond_case=dict(plan.command.beyond_case),
        profile=keep_device_times(place.running, observed),
        ended=_judge_termination(ended, plan.case.steps, place),
    )
    result = place.finish(manifest)
    if result.steps:
        write_events(result)
    return result


def keep_device_times(folder: Path, observed: Observed) -> str | None:
    """Write device_times.json from the profile in a Record's folder.

    Returns what is wrong with the profile; None for a good one, and where there is none.
    """
    planes = planes_of(observed)
    if planes is None:
        return None
    hosts = {}
    for place in (folder, *sorted(folder.glob("host-*"))):
        files = sorted((place / layout.PROFILE).rglob("*.xplane.pb"))
        if not files:
            continue
        try:
            hosts[place.name] = device_times_of(files[-1], planes)
        except BadInput as error:
            return str(error)
    if not hosts:
        return None
    kept = hosts[folder.name] if folder.name in hosts else joined(hosts)
    writer.write_json(folder / layout.DEVICE_TIMES, dataclasses.asdict(kept))
    return None


def device_times_of(profile: Path, planes: re.Pattern[str]) -> DeviceTimes:
    """The step times in a profile, as a Record keeps them. Raises BadInput where it shows none."""
    from harness.compiler.xplane import step_seconds

    times = step_seconds(profile, planes)
    return DeviceTimes(
        times.module, dict(times.seconds), times.idle_devices, tuple(times.complaints)
    )


def _keep_graph(place: Slot) -> None:
    """Write graph.json from the HLO dump, which is thrown away with the scratch folder."""
    from harness.compiler import read_dump, steady_state_module
    from harness.run.compiling import keep_modules

    dump = place.scratch / "hlo"
    modules = read_dump(dump)
    step = steady_state_module(modules)
    kept = {"schema": layout.SCHEMA, "step": dataclasses.asdict(step)}
    writer.write_json(place.running / layout.GRAPH, kept)
    heaviest = next(n for n, module in enumerate(modules) if module is step)
    keep_modules(dump, place.scratch / "executions.log", heaviest, place.running)


def _reported(plan: Plan, place: Slot) -> tuple[Reported, ...]:
    """What the trainer's log says of its training; nothing where it left none."""
    text = "\n".join(last_lines(place.running / layout.LOG))
    return engine(plan.engine).reports(text, plan.case.steps)


def with_launcher_identity(plan: Plan, launcher: Launcher) -> Plan:
    """`plan` with the variables that identify where `launcher` runs it, such as a Docker image.

    They are part of the environment, and so of the key: another image is another run.
    """
    return dataclasses.replace(plan, environment={**plan.environment, **launcher.identity})


def places_of(plan: Plan, record: Path, scratch: Path, shared: Path | None = None) -> Places:
    """The folders on this machine that the placeholders of the plan's Command stand for."""
    return Places(
        record=record.resolve(),
        inputs=plan.inputs.directory.resolve(),
        scratch=scratch.resolve(),
        package=Path(__file__).resolve().parents[1],
        source=plan.source,
        shared=shared,
    )


def run_of(plan: Plan, place: Slot, shared: Path | None = None) -> Run:
    """`plan` as a launcher takes it, with its Record to be written in `place`."""
    places = places_of(plan, place.running, place.scratch, shared)
    name = f"{_folder(plan)}-{plan.key}"
    return Run(
        name,
        plan.command,
        places,
        plan.interpreter,
        plan.environment,
        plan.case.micro_batch,
        engine(plan.engine).libraries,
    )


def _public_case(case: Case | TrainingRequest) -> Case | TrainingRequest:
    """The case as the manifest has it. A Case has no secrets, a trainer's arguments may."""
    if isinstance(case, Case):
        return case
    return dataclasses.replace(case, arguments=secrets.public(case.arguments))


SCRUBBED = (".log", ".json", ".jsonl")
"""Endings of the files of a run in which a trainer may have written what it was given."""


def _scrub(plan: Plan, invocation: Invocation, folder: Path) -> None:
    """Take the values of secrets out of what the run wrote, before it becomes a Record."""
    arguments = {} if isinstance(plan.case, Case) else plan.case.arguments
    known = (dict(os.environ), dict(invocation.environment), invocation.argv, arguments)
    values = {value for one in known for value in secrets.secrets_in(one)}
    for file in folder.rglob("*"):
        if file.suffix in SCRUBBED and file.is_file():
            secrets.scrub(file, values)


def _judge_termination(
    ended: termination.Termination, steps_of_case: int, place: Slot
) -> termination.Termination:
    """A process that exits with 0 is not enough: every step has to have been trained."""
    if ended.status != termination.OK:
        return ended
    # Read as a run that may be cut short, which is what is to be found out.
    events = reader.read_events(place.running / layout.STEPS)
    ends = (e for e in events if isinstance(e, reader.ValuesEvent | reader.StepEvent))
    steps = len({e.step for e in ends if isinstance(e, reader.ValuesEvent) or e.staged})
    if steps == steps_of_case:
        return ended
    log = printable("\n".join(last_lines(place.running / layout.LOG))).splitlines()
    return dataclasses.replace(
        ended,
        status=termination.STOPPED_EARLY,
        reason=f"it exited with 0, but trained {steps} of {steps_of_case} steps",
        log=tuple(line for line in log if line.strip())[-termination.TAIL_LINES :],
    )
