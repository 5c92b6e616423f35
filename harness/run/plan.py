"""Plans every run of a session, with all that can be checked before anything is launched."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.base.errors import BadInput
from harness.base.files import expanded
from harness.base.progress import Progress
from harness.base.secrets import redact
from harness.config.case import Case
from harness.config.settings import EngineOptions, Settings
from harness.config.training import TrainingRequest
from harness.devices.device import device as find_device
from harness.engines.command import SHARED, Command, Course, Job
from harness.engines.sources import checkout_of
from harness.engines.spec import EngineSpec, TrainerOptions
from harness.engines.spec import engine as find_engine
from harness.environments.folders import identity
from harness.environments.interpreters import Interpreter, base_interpreter, named_interpreter
from harness.environments.sources import Checkout, default_cache_dir
from harness.inputs.prepared import Inputs, prepare
from harness.launchers.local import device_environment
from harness.record.evidence import Record, Role
from harness.record.layout import DUMP, EXECUTIONS, SAVED
from harness.run.preflight import check_library
from harness.run.workspace import key_of

ORIGIN = ("commit", "dirty", "version", "script", "files")
"""What of a Plan's origin can change what its run does."""


class Planner(Protocol):
    """Plans one side of a comparison again: longer, dumping its graph, or on another course."""

    def __call__(
        self, settings: Settings, inputs: Inputs, course: Course = Course.STRAIGHT
    ) -> Plan: ...


@dataclass(frozen=True)
class Plan:
    """One run, ready to be launched.

    label:  what a person calls it: the engine, with its version where two are compared
    origin: the source that is trained with, as the Record names it
    role:   "subject", "perturbed" (from perturbed weights), "repeat" (again, from equal weights),
            "float64", "graph" (dumps the compiled step), "timing" (takes turns with another run) or
            "staged" (traces its steps, and executes nothing), "saving" or "resumed"
    paired_with: identifies the run that a timed run takes turns with, or that one resumes
    output: where the trainer's own outputs are to be found; None where nobody wants them
    first_step: the case's step that is its first
    saved:  the folder that it resumes from; None where it does not
    of:     `training` of the run without a break that it is held against; "" where it is one
    """

    engine: str
    label: str
    case: Case | TrainingRequest
    command: Command
    interpreter: Interpreter
    inputs: Inputs
    environment: dict[str, str]
    origin: dict[str, Any]
    source: Path | None = None
    role: Role = "subject"
    repeat: int = 0
    paired_with: str = ""
    output: Path | None = None
    first_step: int = 0
    saved: Path | None = None
    of: str = ""

    @property
    def training(self) -> str:
        """Names what is trained, whether or not it is saved and resumed on its way."""
        return self.of or dataclasses.replace(self, repeat=0, paired_with="").key

    @property
    def steps(self) -> int:
        """Optimizer steps that it is to train."""
        return self.case.steps - self.first_step

    @property
    def key(self) -> str:
        """Names the Record: all that can change what this run does."""
        return key_of(
            {
                "case": dataclasses.asdict(self.case),
                "engine": self.engine,
                "command": dataclasses.asdict(self.command),
                "interpreter": self.interpreter.key,
                "inputs": self.inputs.digest,
                "environment": self.environment,
                "origin": {k: self.origin.get(k) for k in ORIGIN},
                "repeat": self.repeat,
                "paired_with": self.paired_with,
            }
        )


def plan_run(
    name: str,
    settings: Settings,
    inputs: Inputs,
    progress: Progress,
    course: Course = Course.STRAIGHT,
) -> Plan:
    """The Plan for one entry of `engines`: an engine's name, or `name@source`.

    Raises BadInput for whatever cannot work, MissingSource where the engine's code cannot be had.
    """
    engine_name, _, named_source = name.partition("@")
    engine = find_engine(engine_name)
    options = settings.engine[engine_name]
    if named_source:
        options = _with_source(engine, options, named_source)
    script, files, source = None, {}, None
    if isinstance(options, TrainerOptions):
        if options.script is not None and settings.launcher.name == "local":
            options, script = _script(engine_name, options)
        files, source = _files(options.arguments), options.source
    cache = default_cache_dir()
    checkout = checkout_of(engine, source, cache, progress)
    interpreter = interpreter_for(options, settings.launcher.device, cache, progress)
    interpreter = engine.interpreter(interpreter, checkout, cache, progress)
    check_library(settings.launcher, interpreter)
    device = settings.launcher.device
    folder = None if checkout is None else checkout.path
    job = Job(settings.case, options, folder, device, settings.stage, course)
    command = engine.command(job)
    if engine.adapt is not None and checkout is not None:
        command = engine.adapt(job, command, checkout, interpreter, progress)
    condition = settings.launcher.condition
    command = dataclasses.replace(
        command, spec=dataclasses.replace(command.spec, condition=condition)
    )
    found = Plan(
        engine=engine_name,
        label=labelled(redact(name) if named_source else engine_name, options),
        case=settings.case,
        command=command,
        interpreter=interpreter,
        inputs=inputs,
        environment=device_environment(
            device, settings.case.devices, settings.launcher.fast_compile
        ),
        origin={
            **_origin(engine, interpreter, checkout),
            "script": script,
            "files": files,
            "workarounds": workarounds_of(options),
        },
        source=folder,
        first_step=job.first_step,
    )
    return _staged(found, settings.case.devices) if settings.stage else found


def inputs_of(settings: Settings) -> Inputs:
    """The prepared inputs of the settings' case; what is staged has no weights. Raises BadInput."""
    root = Path(settings.workspace) / "inputs"
    return prepare(settings.case, root, without_weights=settings.stage)


def workarounds_of(options: EngineOptions) -> list[str]:
    """Names of the workarounds that a trainer trains with."""
    return list(options.workarounds) if isinstance(options, TrainerOptions) else []


def with_workarounds(settings: Settings, name: str, workarounds: Sequence[str]) -> Settings:
    """The settings with `workarounds` besides those that the engine `name` has already."""
    if not workarounds:
        return settings
    options = settings.engine[name]
    assert isinstance(options, TrainerOptions)
    both = dataclasses.replace(options, workarounds=[*options.workarounds, *workarounds])
    return dataclasses.replace(settings, engine={**settings.engine, name: both})


def labelled(name: str, options: EngineOptions) -> str:
    """What a person calls a run of `name`: with its workarounds, without which it is another."""
    return " with ".join([name, *workarounds_of(options)])


def planner(name: str, progress: Progress) -> Planner:
    """The Planner for one entry of `engines`."""

    def plan(settings: Settings, inputs: Inputs, course: Course = Course.STRAIGHT) -> Plan:
        return plan_run(name, settings, inputs, progress, course)

    return plan


def plan_perturbed(subject: Plan, perturbed: Inputs) -> Plan:
    """The same run from weights that are perturbed by one unit in the last place."""
    return dataclasses.replace(
        subject, inputs=perturbed, role="perturbed", label=f"{subject.label} from perturbed weights"
    )


def plan_repeat(subject: Plan) -> Plan:
    """The same run again, from equal weights.

    `paired_with` keeps it apart from a subject that is the same engine: noise that is measured by
    the very pair that is judged would let any pair pass.
    """
    return dataclasses.replace(
        subject, role="repeat", paired_with="noise", label=f"{subject.label} again"
    )


def plan_saving(planner: Planner, settings: Settings, inputs: Inputs, straight: Record) -> Plan:
    """The same run as `straight`, which saves after `case.save_at` steps, and goes on."""
    plan = planner(settings, inputs, Course.SAVING)
    label, of = f"{plan.label} saving", straight.manifest.training
    return dataclasses.replace(plan, role="saving", label=label, of=of)


def plan_resumed(planner: Planner, settings: Settings, inputs: Inputs, saving: Record) -> Plan:
    """The rest of the run, by a fresh process, from what the run `saving` saved."""
    plan = planner(settings, inputs, Course.RESUMED)
    spec = plan.command.spec
    assert spec.saving is not None
    # Batches of its own that the run before was given too are to be known again.
    order = tuple(batch.own for step in saving.steps for batch in step.batches)
    known = dataclasses.replace(spec.saving, order=order if all(order) else ())
    return dataclasses.replace(
        plan,
        command=dataclasses.replace(plan.command, spec=dataclasses.replace(spec, saving=known)),
        role="resumed",
        label=f"{plan.label} resumed",
        paired_with=saving.manifest.key,
        of=saving.manifest.training,
        saved=saving.directory / SAVED,
    )


DUMP_STEPS = 4
"""Enough for the steady step, which is compiled in step 1, to be executed."""


def plan_graph(subject: Plan) -> Plan:
    """A short run that dumps its compiled step, with the operations named after their modules."""
    flags = subject.environment.get("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    # In its working folder: with equal variables, all such runs can be forked from one server.
    dump = f"--xla_dump_to={DUMP} --xla_dump_hlo_as_text --xla_dump_hlo_as_proto"
    return dataclasses.replace(
        _named(subject),
        environment={
            **subject.environment,
            "XLA_FLAGS": f"{flags} {dump}".strip(),
            "XLA_HLO_DEBUG": "1",
            # Which of the modules a step executes: see `harness.compiler.executed`.
            "PT_XLA_DEBUG_LEVEL": "2",
            "PT_XLA_DEBUG_FILE": EXECUTIONS,
        },
        role="graph",
        label=f"{subject.label}'s graph",
    )


STAGED_DEVICES = 4
"""Devices that a process has at most while it traces for a mesh of any size."""


def _staged(subject: Plan, devices: int) -> Plan:
    """The run as a trace for so many devices, with the operations named after their modules."""
    debug = {"XLA_HLO_DEBUG": "1", "CPU_NUM_DEVICES": str(min(devices, STAGED_DEVICES))}
    return dataclasses.replace(
        _named(subject), environment={**subject.environment, **debug}, role="staged"
    )


def _named(subject: Plan) -> Plan:
    """The run with the operations of its modules named after the model's."""
    command = subject.command
    spec = dataclasses.replace(command.spec, scopes=True)
    return dataclasses.replace(subject, command=dataclasses.replace(command, spec=spec))


def plan_turns(subjects: tuple[Plan, Plan], launch: int) -> tuple[Plan, Plan]:
    """Both runs with their windows in turns: the second waits while the first works."""
    first, second = (
        dataclasses.replace(
            subject,
            command=dataclasses.replace(
                subject.command,
                spec=dataclasses.replace(subject.command.spec, turns=SHARED, side=side),
            ),
            role="timing",
            repeat=launch,
            paired_with=f"{subjects[1 - side].key}-{side}",
        )
        for side, subject in enumerate(subjects)
    )
    return first, second


def plan_whole(subjects: tuple[Plan, Plan], launch: int) -> tuple[Plan, Plan]:
    """A whole run of each side, to be timed: neighbours in time, and so made for each other.

    A run of last week, or one that was timed beside a third engine, is no neighbour.
    """
    first, second = (
        dataclasses.replace(
            subject,
            role="timing",
            repeat=launch,
            paired_with=f"whole-{subjects[1 - side].key}-{side}",
        )
        for side, subject in enumerate(subjects)
    )
    return first, second


def _script(engine: str, options: TrainerOptions) -> tuple[TrainerOptions, dict[str, str]]:
    """The options with the script's whole path, and what the script is by now."""
    path = expanded(options.script or "").resolve()
    if not path.is_file():
        raise BadInput(
            f"engine.{engine}.script={options.script}: {path} is not a file. Name the script that "
            "is to be run, or leave the key out for the engine's own"
        )
    return dataclasses.replace(options, script=str(path)), identity(path)


def _files(arguments: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of the files on this machine that arguments of the user name, by argument."""
    named = {k: Path(v) for k, v in arguments.items() if isinstance(v, str)}
    return {k: identity(path)["sha256"] for k, path in sorted(named.items()) if path.is_file()}


def interpreter_for(
    options: EngineOptions, device: str, cache: Path, progress: Progress
) -> Interpreter:
    """The interpreter that is named, or the one that serves every engine on that device."""
    xla = find_device(device).xla
    if options.python is not None:
        return named_interpreter(Path(options.python), cache, xla)
    return base_interpreter(cache, progress, xla)


def _with_source(engine: EngineSpec[Any], options: EngineOptions, source: str) -> EngineOptions:
    if not isinstance(options, TrainerOptions):
        raise BadInput(
            f"engines: {redact(f'{engine.name}@{source}')}: {engine.name} comes with its package, "
            f"and takes no source; write {engine.name}"
        )
    return dataclasses.replace(options, source=source)


def _origin(
    engine: EngineSpec[Any], interpreter: Interpreter, checkout: Checkout | None
) -> dict[str, Any]:
    """What is trained with, for the Record: commits, not names of branches."""
    package = None if engine.source is None else engine.source.package
    installed = package is not None and package.on_pypi
    version = interpreter.packages.get(str(package)) if installed else None
    if checkout is None:
        return {"version": version, "description": f"{package} {version}" if version else ""}
    return {
        "version": version,
        "commit": checkout.commit,
        "dirty": checkout.dirty,
        "description": checkout.description,
    }
