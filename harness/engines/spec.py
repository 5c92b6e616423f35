"""What an engine is: one `EngineSpec`, found by the entry point group `parity.engines`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.base import registry
from harness.base.errors import BadInput, CannotTrain
from harness.base.progress import Progress
from harness.base.typed import STRICT
from harness.config.settings import EngineOptions
from harness.devices.device import KEY, device
from harness.engines.command import SAVED_TO, SCRATCH, Command, Job
from harness.engines.faults import seeded
from harness.environments.interpreters import Interpreter
from harness.environments.sources import Checkout, Package
from harness.models.family import family
from harness.probe.spec import Spec, Watch
from harness.record.evidence import Reported

INJECTION = "inject.py"
"""Name of the injected file in the run's scratch folder."""

Options = TypeVar("Options", bound=EngineOptions)


@dataclass(frozen=True)
class TrainerOptions(EngineOptions):
    """Options of an engine that runs the training script of a package.

    source:    what is trained with: a release, a git ref, a URL with a ref or a folder
               (`harness.environments.sources`); null takes the engine's default
    script:    the script to run in place of the engine's own
    arguments: further arguments in the trainer's own terms; null drops one that we would give
    workarounds: names of the engine's `Workaround`s to train with
    """

    __pydantic_config__ = STRICT

    source: str | None = None
    script: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    workarounds: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Workaround:
    """What lets a trainer train in spite of a defect of its own; its injection knows how.

    name:    as in `engine.<name>.workarounds`
    what:    the defect, and the versions that have it
    symptom: pattern of the exception that it ends with
    """

    name: str
    what: str
    symptom: str


@dataclass(frozen=True)
class SourceSpec:
    """Where the code that an engine trains with comes from.

    package:      what a source of it is a checkout of
    default:      source where none is named; None for what the interpreter has installed
    variable:     environment variable that names one
    bare_folders: a single word that is a folder is that folder, not a ref
    way_out:      how a user names one, for messages
    """

    package: Package
    default: str | None = None
    variable: str | None = None
    bare_folders: bool = False
    way_out: str = ""


def as_it_is(
    interpreter: Interpreter, checkout: Checkout | None, cache: Path, progress: Progress
) -> Interpreter:
    """The interpreter of an engine that needs no more than torch and torch_xla in it."""
    return interpreter


def nothing(log: str, steps: int) -> tuple[Reported, ...]:
    """What a trainer says of itself that says nothing."""
    return ()


def no_flags(checkout: Path) -> str:
    """The compiler flags of a trainer that sets none."""
    return ""


Adapt = Callable[[Job[Options], Command, Checkout, Interpreter, Progress], Command]


@dataclass(frozen=True)
class EngineSpec(Generic[Options]):
    """One engine: everything that the harness knows of it.

    name:        as in `engines=[…]` and `engine.<name>.*`; that of its entry point
    description: what it trains with, for `parity engines`
    options:     dataclass of what it reads under `engine.<name>`. Every field has a default; with
                 a `source` it is a `TrainerOptions`
    translate:   a Job to the Command that trains its case: a pure function, which raises BadInput
                 for what its trainer cannot do, CannotTrain where that is a matter of the case
    source:      where its code comes from; None for one that comes with its package
    interpreter: puts in front of an interpreter what its trainer needs besides torch and torch_xla
    adapt:       brings a Command into the terms of a checkout, for a trainer whose arguments differ
                 between versions
    gates:       packages whose versions `parity gate` trains through it
    stand_in:    engine that takes its place in a comparison where its source cannot be had
    reports:     what the trainer says of its training, out of its log and the number of steps that
                 it was asked for
    watch:       what the probe has to know of its trainer
    injection:   file whose `inject(**spec.injected)` is called in the trainer's process before its
                 script. It is copied into the run, so that it may import the standard library,
                 torch, torch_xla, numpy and `harness.probe`, and nothing beside it
    workarounds: what lets some versions of its trainer train at all
    compiler_flags: LIBTPU_INIT_ARGS that its trainer's own launcher sets on a TPU, out of a
                 checkout
    eager:       its trainer trains without torch_xla too, on a device that has no XLA
    saved:       the folder in which its trainer's checkpoint of so many steps is, within the one
                 that it is told to save to; its injection has a function `load_saved` for it
                 (`harness.probe.saved`). None where it cannot resume
    cannot_resume: why it cannot
    libraries:   modules that its trainer imports, where they are installed, before it touches a
                 device: a fork server has them imported (docs/launchers.md)
    """

    name: str
    description: str
    options: type[Options]
    translate: Callable[[Job[Options]], Command]
    source: SourceSpec | None = None
    interpreter: Callable[[Interpreter, Checkout | None, Path, Progress], Interpreter] = as_it_is
    adapt: Adapt[Options] | None = None
    gates: tuple[str, ...] = ()
    stand_in: str | None = None
    reports: Callable[[str, int], tuple[Reported, ...]] = nothing
    watch: Watch = field(default_factory=Watch)
    injection: Path | None = None
    workarounds: tuple[Workaround, ...] = ()
    compiler_flags: Callable[[Path], str] = no_flags
    eager: bool = False
    saved: Callable[[int], str] | None = None
    cannot_resume: str = "it is not known how its trainer saves and resumes"
    libraries: tuple[str, ...] = ()

    def watched(self, spec: Spec) -> Spec:
        """`spec` with what the probe has to know of this engine's trainer."""
        return dataclasses.replace(spec, watch=self.watch)

    def command(self, job: Job[Options]) -> Command:
        """The translation of `job`, with the engine's injection and the faults to be seeded.

        Raises BadInput for what the trainer cannot do, and for a fault or a workaround that does
        not exist; CannotTrain for a device without XLA where it needs that.
        """
        if not (self.eager or device(job.device).xla):
            able = ", ".join(spec.name for spec in engines() if spec.eager)
            raise CannotTrain(
                f"{KEY}={job.device}: {self.name} trains through torch_xla alone; without XLA "
                f"train {able}"
            )
        self._check_workarounds(job.options)
        if job.case.save_at is not None and self.saved is None:
            raise CannotTrain(
                f"case.save_at={job.case.save_at}: {self.name} cannot resume: {self.cannot_resume}"
            )
        command = self.translate(job)
        model = job.case.model
        layouts = family(model.family).layouts_in(self.name, model)
        spec = dataclasses.replace(self.watched(command.spec), layouts=layouts)
        files: Mapping[str, str] = command.files
        if self.injection is not None:
            spec = dataclasses.replace(spec, inject=f"{SCRATCH}/{INJECTION}")
            files = {**files, INJECTION: self.injection.read_text()}
        if self.saved is not None and spec.saving is not None and spec.saving.after is not None:
            folder = f"{SAVED_TO}/{self.saved(spec.saving.after)}"
            spec = dataclasses.replace(spec, saving=dataclasses.replace(spec.saving, folder=folder))
        spec = seeded(spec, job.options.faults, f"engine.{self.name}.faults", job.course)
        return dataclasses.replace(command, spec=spec, files=files)

    def _check_workarounds(self, options: EngineOptions) -> None:
        known = [workaround.name for workaround in self.workarounds]
        for name in options.workarounds if isinstance(options, TrainerOptions) else ():
            if name not in known:
                there = ", ".join(known) or "none"
                raise BadInput(
                    f"engine.{self.name}.workarounds: there is no {name}; there is {there}"
                )


def engine(name: str, key: str = "engines") -> EngineSpec[Any]:
    """The engine that is registered as `name`.

    Raises BadInput, which names `key`, where there is none or it cannot be used.
    """
    found = registry.load(registry.ENGINES, name, key)
    if not isinstance(found, EngineSpec) or found.name != name:
        raise BadInput(f"{key}: what is registered as {name} is not the EngineSpec of that name")
    return found


def engines() -> tuple[EngineSpec[Any], ...]:
    """Every registered engine, by name."""
    return tuple(engine(name) for name in registry.names(registry.ENGINES))
