"""Launches planned runs and returns their Records; a complete Record is used again."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.base.errors import BadInput
from harness.config.case import Case
from harness.config.settings import LauncherSettings
from harness.devices.device import device
from harness.engines.spec import engine
from harness.launchers.invocation import Places, make_scratch
from harness.launchers.launcher import Launcher, Local, Run
from harness.launchers.registry import launcher_for, limits_of, local_launcher
from harness.record import reader, termination
from harness.record.evidence import (
    Record,
)
from harness.run.collect import Launch, collect
from harness.run.device_lock import DeviceLock
from harness.run.hosts import meeting
from harness.run.plan import Plan
from harness.run.reporter import Reporter
from harness.run.workspace import Slot, slot

ATTEMPTS = 3
"""Launches of one run at most. Only starved collectives, the machine's own failure, are tried
again: no run that trained is ever repeated until it pleases."""


MOST_AT_ONCE = 10**8
"""Parameters of the largest model that is trained beside others. Weights, moments, gradients and
what the harness keeps of them are some 40 bytes a parameter: a larger one may want all memory."""


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


def run_or_reuse_each(
    plans: Sequence[Plan], workspace: Path, settings: LauncherSettings, reporter: Reporter
) -> Generator[Record]:
    """The Record of each plan, in their order.

    As many are launched at the same time as this machine carries. Whoever has seen enough closes
    the iterator: the next is not launched, and what is still going on is ended.
    """
    carried = _at_once(plans, settings)
    if carried == 1:
        for plan in plans:
            yield run_or_reuse(plan, workspace, settings, reporter)
        return
    stop = threading.Event()
    with ThreadPoolExecutor(carried) as pool:
        futures = [
            pool.submit(run_or_reuse, plan, workspace, settings, reporter, stop) for plan in plans
        ]
        try:
            for future in futures:
                yield future.result()
        finally:
            stop.set()
            for future in futures:
                future.cancel()


def _at_once(plans: Sequence[Plan], settings: LauncherSettings) -> int:
    """How many of `plans` this machine carries at the same time."""
    elsewhere = settings.name != "local" or settings.hosts > 1
    if elsewhere or any(plan.role == "staged" for plan in plans):
        return 1
    cases = [plan.case for plan in plans if isinstance(plan.case, Case)]
    if len(cases) < len(plans) or max(case.parameters for case in cases) > MOST_AT_ONCE:
        return 1
    carried = device(settings.device).at_once(max(case.devices for case in cases))
    return min(carried, len(plans))


def run_or_reuse(
    plan: Plan,
    workspace: Path,
    settings: LauncherSettings,
    reporter: Reporter,
    stop: threading.Event | None = None,
) -> Record:
    """The Record of `plan`: the one that is there, or that of a new run.

    A run that fails gives a Record too, which says how it ended; `stop` ends it from another
    thread. Raises BadInput where the launcher cannot launch anything.
    """
    launcher = _launcher(plan, settings, reporter)
    plan = with_launcher_identity(plan, launcher)
    place = slot(workspace, plan.case.name, _folder(plan), plan.key)
    if settings.hosts > 1:
        return _on_all_hosts(plan, workspace, place, settings, reporter)
    with place.locked():
        found = place.complete_record()
        if found is not None:
            reporter.reused(plan.label, place.directory)
            return found
        devices = launcher.here and plan.role not in ("float64", "staged")
        with DeviceLock(settings.device, reporter) if devices else contextlib.nullcontext():
            return launch_alone(plan, place, settings, reporter, stop)


def _on_all_hosts(
    plan: Plan, workspace: Path, place: Slot, settings: LauncherSettings, reporter: Reporter
) -> Record:
    """The Record of a run that every host of a slice launches, merged of the parts of all."""
    met = meeting(workspace, settings.hosts, settings.silence)
    name = place.directory.name
    if met.decided(name, lambda: place.complete_record() is not None):
        reporter.reused(plan.label, place.directory)
        return reader.read_record(place.directory)
    if plan.role in ("float64", "staged"):  # on a processor, and with no other process
        if met.first:
            with place.locked():
                launch_alone(plan, place, settings, reporter)
    else:
        parts = met.folder / name
        with DeviceLock(settings.device, reporter):
            launch_alone(plan, Slot(parts / f"host-{met.index}"), settings, reporter)
        met.all_here(f"launched-{name}")
        if met.first:
            with place.locked():
                _put_together([parts / f"host-{number}" for number in range(met.count)], place)
    met.decided(f"{name} is there", lambda: None)
    return reader.read_record(place.directory)


def _put_together(parts: list[Path], place: Slot) -> None:
    """Merge what the hosts left, into the Record's place; a failed run before it is replaced.

    The parts lie in it. Where nothing can be merged, the first host's stands for the run, as it
    ended.
    """
    from harness.launchers.merge_hosts import merge_records
    from harness.report.tensorboard import write_events

    try:
        merged = merge_records(parts, place.running)
        if merged.steps:
            write_events(merged)
        for part in parts:
            shutil.move(part, place.running / part.name)
    except BadInput:
        shutil.copytree(parts[0], place.running, dirs_exist_ok=True)
    place.take(place.running)
    shutil.rmtree(parts[0].parent, ignore_errors=True)


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
    label = f"{' and '.join(plan.label for plan in plans)} in turns"
    reporter.started(label, plans[0].case.steps)

    def follow(event: reader.Event) -> None:
        reporter.event(label, event)

    def run_side(side: int, shared: Path) -> Record:
        plan, place = plans[side], places[side]
        # The first side's progress stands for both: they are never more than two windows apart.
        on_event = follow if side == 0 else _ignore
        try:
            return _launch(plan, place, launcher, on_event, shared, launch_id)
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
    reporter.ended(label, records[0].ended)
    return records[0], records[1]


def _ignore(event: reader.Event) -> None:
    return None


def _launcher(
    plan: Plan,
    settings: LauncherSettings,
    reporter: Reporter,
    stop: threading.Event | None = None,
) -> Launcher:
    if plan.role == "float64":
        # It needs no accelerator, only this machine's processor.
        return Local(limits_of(settings), None, reporter.note if settings.fork_server else None)
    return launcher_for(settings, reporter.note, stop)


def _folder(plan: Plan) -> str:
    return plan.engine if plan.role == "subject" else f"{plan.engine}-{plan.role}"


def launch_alone(
    plan: Plan,
    place: Slot,
    settings: LauncherSettings,
    reporter: Reporter,
    stop: threading.Event | None = None,
) -> Record:
    """Launch one run; it is retried only if the machine starved its collectives."""
    launcher = _launcher(plan, settings, reporter, stop)
    launcher.check()
    label = plan.label
    if plan.role == "subject" and plan.repeat:  # one engine twice: both may be going on at once
        label += f", launch {plan.repeat + 1}"

    def follow(event: reader.Event) -> None:
        reporter.event(label, event)

    for attempt in range(1, ATTEMPTS + 1):
        reporter.started(label, plan.steps)
        result = _launch(plan, place.again(), launcher, follow, attempt=attempt)
        ended = result.ended
        reporter.ended(label, ended)
        if ended.status != termination.STARVED or attempt == ATTEMPTS:
            break
        reporter.note(f"{label}: trying again")
    return result


def _launch(
    plan: Plan,
    place: Slot,
    launcher: Launcher,
    on_event: Callable[[reader.Event], None],
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
    ended = launcher.launch(run, on_event)
    launch = Launch(launcher.invocation(run), started, ended, attempt, turns)
    result = collect(plan, place, launch)
    if result.steps:
        write_events(result)
    return result


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
        output=plan.output,
        saved=None if plan.saved is None else plan.saved.resolve(),
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
