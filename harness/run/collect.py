"""Collects what a run that has ended left, into its Record."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from harness import __version__
from harness.base import secrets
from harness.base.errors import BadInput
from harness.base.text import printable
from harness.compiler.dump import read_dump, steady_state_module
from harness.config.case import Case
from harness.config.training import TrainingRequest
from harness.devices.device import planes_of, with_kind
from harness.engines.spec import engine
from harness.launchers.invocation import Invocation
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
from harness.record.layout import DUMP, EXECUTIONS
from harness.record.log import last_lines
from harness.run.compiling import keep_modules
from harness.run.plan import Plan
from harness.run.workspace import Slot


@dataclass(frozen=True)
class Launch:
    """One launch of a run, which has ended.

    invocation: what was executed
    started:    when, in seconds since 1970
    ended:      how it ended, as far as the launcher can tell
    attempt:    which one of this run it was, from 1
    turns:      identifies the launch of two runs that worked in turns; None for a run alone
    """

    invocation: Invocation
    started: float
    ended: termination.Termination
    attempt: int = 1
    turns: str | None = None


def collect(plan: Plan, place: Slot, launch: Launch) -> Record:
    """The Record of `plan`, of what its launch left in `place`, where it is put.

    Secrets are taken out of it, the compiled step and the device's step times are read out of what
    is thrown away, and a run that exited with 0 is held against the steps that were asked for.
    """
    argv = secrets.public_argv(launch.invocation.argv)
    values = _secrets_of(plan, launch.invocation)
    _scrub(place.running, values)
    observed = with_kind(reader.read_observed(place.running))
    if plan.role == "graph" and launch.ended.status == termination.OK:
        _keep_graph(place)
    manifest = Manifest(
        schema=layout.SCHEMA,
        harness=__version__,
        engine=plan.engine,
        label=plan.label,
        role=plan.role,
        repeat=plan.repeat,
        key=plan.key,
        training=plan.training,
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
        started=launch.started,
        attempts=launch.attempt,
        turns=launch.turns,
        first_step=plan.first_step,
        observed=observed,
        hosts=reader.read_hosts(place.running),
        reported=_reported(plan, place),
        beyond_case=dict(plan.command.beyond_case),
        profile=keep_device_times(place.running, observed),
        ended=_judge_termination(_without(launch.ended, values), plan.steps, place),
    )
    return place.finish(manifest)


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
    dump = place.scratch / DUMP
    modules = read_dump(dump)
    step = steady_state_module(modules)
    kept = {"schema": layout.SCHEMA, "step": dataclasses.asdict(step)}
    writer.write_json(place.running / layout.GRAPH, kept)
    heaviest = next(n for n, module in enumerate(modules) if module is step)
    keep_modules(dump, place.scratch / EXECUTIONS, heaviest, place.running)


def _reported(plan: Plan, place: Slot) -> tuple[Reported, ...]:
    """What the trainer's log says of its training; nothing where it left none."""
    text = "\n".join(last_lines(place.running / layout.LOG))
    return engine(plan.engine).reports(text, plan.steps)


def _public_case(case: Case | TrainingRequest) -> Case | TrainingRequest:
    """The case as the manifest has it. A Case has no secrets, a trainer's arguments may."""
    if isinstance(case, Case):
        return case
    return dataclasses.replace(case, arguments=secrets.public(case.arguments))


SCRUBBED = (".log", ".json", ".jsonl")
"""Endings of the files of a run in which a trainer may have written what it was given."""


def _secrets_of(plan: Plan, invocation: Invocation) -> frozenset[str]:
    """The values of secrets that a run was given, by whatever way."""
    arguments = {} if isinstance(plan.case, Case) else plan.case.arguments
    known = (dict(os.environ), dict(invocation.environment), invocation.argv, arguments)
    return frozenset(value for one in known for value in secrets.secrets_in(one))


def _scrub(folder: Path, values: Collection[str]) -> None:
    """Take the values of secrets out of what the run wrote, before it becomes a Record."""
    for file in folder.rglob("*"):
        if file.suffix in SCRUBBED and file.is_file():
            secrets.scrub(file, values)


def _without(ended: termination.Termination, values: Collection[str]) -> termination.Termination:
    """How a run ended, without the secrets: its log was read before they were taken out of it."""
    return dataclasses.replace(
        ended,
        reason=secrets.without(ended.reason, values),
        log=tuple(secrets.without(line, values) for line in ended.log),
    )


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
