"""Plans every run of a session, with all that can be checked before anything is launched."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput
from harness.config.case import Case, to_dict
from harness.config.settings import Engine, Settings
from harness.engines import ENGINES
from harness.engines.command import SCRATCH, SHARED, Command, Job
from harness.engines.hf.engine import wanted
from harness.engines.hf.scripts import arguments_for, identity
from harness.engines.reference import arbiter
from harness.environments.git import redact
from harness.environments.interpreters import (
    Interpreter,
    base_interpreter,
    named_interpreter,
    with_transformers,
)
from harness.environments.sources import (
    Checkout,
    cached,
    default_cache_dir,
    parse_source,
    resolve,
)
from harness.inputs.prepared import Inputs
from harness.launchers.local import device_environment
from harness.run.workspace import key_of

TORCHPRIME_DIR = "TORCHPRIME_DIR"
TORCHPRIME_DEFAULT = "main"

ORIGIN = ("commit", "dirty", "version", "script", "files")
"""What of a Plan's origin can change what its run does."""

Note = Callable[[str], None]

Planner = Callable[[Settings, Inputs], "Plan"]
"""Plans one side of a comparison again, with other settings: longer, or dumping its graph."""


@dataclass(frozen=True)
class Plan:
    """One run, ready to be launched.

    label:  what a person calls it: the engine, with its version where two are compared
    origin: the source that is trained with, as the Record names it
    role:   "subject", "control" (from perturbed weights), "arbiter", "graph" (dumps the compiled
            step) or "timing" (takes turns with another run)
    partner: what tells a run that is timed from the one that it takes turns with
    """

    engine: str
    label: str
    case: Case
    command: Command
    interpreter: Interpreter
    inputs: Inputs
    environment: dict[str, str]
    origin: dict[str, Any]
    source: Path | None = None
    role: str = "subject"
    repeat: int = 0
    partner: str = ""

    @property
    def key(self) -> str:
        """Names the Record: all that can change what this run does."""
        return key_of(
            {
                "case": to_dict(self.case),
                "engine": self.engine,
                "command": dataclasses.asdict(self.command),
                "interpreter": self.interpreter.key,
                "inputs": self.inputs.digest,
                "environment": self.environment,
                "origin": {k: self.origin.get(k) for k in ORIGIN},
                "repeat": self.repeat,
                "partner": self.partner,
            }
        )


class MissingTorchprime(BadInput):
    """No torchprime checkout was named, and none could be had."""


def plan_run(name: str, settings: Settings, inputs: Inputs, note: Note) -> Plan:
    """The Plan for one entry of `engines`: an engine's name, or `name@source`.

    Raises BadInput for whatever cannot work, MissingTorchprime where there is no checkout.
    """
    engine, _, named_source = name.partition("@")
    options = settings.engine.get(engine, Engine())
    if named_source:
        options = dataclasses.replace(options, source=named_source)
    script = None
    if options.script is not None and settings.launcher.name == "local":
        options, script = _script(engine, options)
    cache = default_cache_dir()
    checkout = _checkout(engine, options, cache, note)
    interpreter = _interpreter(engine, options, checkout, cache, note)
    source = None if checkout is None else checkout.path
    device = settings.launcher.device
    job = Job(settings.case, options, source, device)
    command = ENGINES[engine](job)
    if engine == "hf" and checkout is not None and options.script is None:
        argv = arguments_for(checkout, wanted(job), interpreter, cache, note, options.arguments)
        command = dataclasses.replace(command, argv=argv)
    return Plan(
        engine=engine,
        label=redact(name) if named_source else engine,
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
            "files": _files(options.arguments),
        },
        source=source,
    )


def planner(name: str, note: Note) -> Planner:
    """The Planner for one entry of `engines`."""
    return lambda settings, inputs: plan_run(name, settings, inputs, note)


def plan_control(subject: Plan, perturbed: Inputs) -> Plan:
    """The same run from weights that are perturbed by one unit in the last place."""
    return dataclasses.replace(
        subject, inputs=perturbed, role="control", label=f"{subject.label} from perturbed weights"
    )


DUMP_STEPS = 4
"""Enough for the steady step, which is compiled in step 1, to be executed."""


def plan_graph(subject: Plan) -> Plan:
    """A short run that dumps its compiled step, with the operations named after their modules."""
    flags = subject.environment.get("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    dump = f"--xla_dump_to={SCRATCH}/hlo --xla_dump_hlo_as_text"
    command = dataclasses.replace(
        subject.command, spec=dataclasses.replace(subject.command.spec, scopes=True)
    )
    return dataclasses.replace(
        subject,
        command=command,
        environment={
            **subject.environment,
            "XLA_FLAGS": f"{flags} {dump}".strip(),
            "XLA_HLO_DEBUG": "1",
        },
        role="graph",
        label=f"{subject.label}'s graph",
    )


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
            partner=f"{subjects[1 - side].key}-{side}",
        )
        for side, subject in enumerate(subjects)
    )
    return first, second


def plan_whole(subject: Plan, launch: int, side: int) -> Plan:
    """A whole run of one side, to be timed: one of several that take turns with the other side's.

    `side` keeps the runs apart where both sides are the same engine.
    """
    return dataclasses.replace(subject, role="timing", repeat=launch, partner=f"whole-{side}")


def plan_arbiter(settings: Settings, inputs: Inputs, note: Note) -> Plan:
    """The case trained by the reference on the host in float64."""
    options = settings.engine.get("reference", Engine())
    interpreter = _interpreter("reference", options, None, default_cache_dir(), note)
    return Plan(
        engine="reference",
        label="float64 reference",
        case=settings.case,
        command=arbiter(Job(settings.case, options)),
        interpreter=interpreter,
        inputs=inputs,
        environment={},
        origin={},
        role="arbiter",
    )


def _script(engine: str, options: Engine) -> tuple[Engine, dict[str, str]]:
    """The options with the script's whole path, and what the script is by now."""
    path = Path(options.script or "").expanduser().resolve()
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


def _checkout(engine: str, options: Engine, cache: Path, note: Note) -> Checkout | None:
    if engine == "torchprime":
        return torchprime_checkout(options, cache, note)
    if engine == "hf" and options.source is not None:
        return resolve(parse_source(options.source, "transformers"), cache, note)
    return None


def torchprime_checkout(options: Engine, cache: Path, note: Note) -> Checkout:
    """The checkout that is named, else the cached one, else a clone of the official repository."""
    named = options.source or os.environ.get(TORCHPRIME_DIR)
    if named:
        text = str(Path(named).expanduser()) if Path(named).expanduser().is_dir() else named
        if Path(text).is_dir():
            text = str(Path(text).resolve())
        return resolve(parse_source(text, "torchprime"), cache, note)
    default = parse_source(TORCHPRIME_DEFAULT, "torchprime")
    found = cached(default, cache)
    if found is not None:
        return found
    try:
        return resolve(default, cache, note)
    except BadInput as error:
        raise MissingTorchprime(
            f"no torchprime checkout is named or cached, and none could be cloned: {error} Name "
            f"one by --torchprime PATH or {TORCHPRIME_DIR}=PATH"
        ) from None


def _interpreter(
    engine: str, options: Engine, checkout: Checkout | None, cache: Path, note: Note
) -> Interpreter:
    if options.python is not None:
        interpreter = named_interpreter(Path(options.python), cache)
    else:
        interpreter = base_interpreter(cache, note)
    if engine == "hf" and checkout is not None:
        interpreter = with_transformers(interpreter, checkout, cache, note)
    return interpreter


def _origin(engine: str, interpreter: Interpreter, checkout: Checkout | None) -> dict[str, Any]:
    """What is trained with, for the Record: commits, not names of branches."""
    version = interpreter.packages.get("transformers") if engine == "hf" else None
    if checkout is None:
        return {"version": version, "description": f"transformers {version}" if version else ""}
    return {
        "version": version,
        "commit": checkout.commit,
        "dirty": checkout.dirty,
        "description": checkout.description,
    }
