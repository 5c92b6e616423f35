"""What one invocation of the harness is asked to do, as typed, immutable objects."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from harness.base import registry
from harness.base.conditions import CONDITIONS, EXCLUSIVE, is_condition
from harness.base.errors import BadInput
from harness.base.typed import STRICT
from harness.config.case import DTYPES, Case, check


@dataclass(frozen=True)
class SeededFault:
    """A defect to seed into a run: a name and arguments of docs/faults.md."""

    __pydantic_config__ = STRICT

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is to be run (`engine.<name>.*`): what every engine has.

    An engine with options of its own has a dataclass that inherits from this one.

    python: interpreter to run it in; null makes one (`harness.environments`)
    env:    environment variables of the run
    faults: defects to seed
    """

    __pydantic_config__ = STRICT

    python: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    faults: list[SeededFault] = field(default_factory=list)


@dataclass(frozen=True)
class LauncherSettings:
    """Where runs are launched, and when they are given up.

    time_limit: seconds that a run may take
    silence:    seconds that a run may go without an event or a line of output
    fast_compile: cheap compilation flags on the CPU mesh (losses equal to seven digits)
    hosts:        hosts of a slice on each of which this command runs, over one workspace that all
                  share; TPU_WORKER_ID says which of them this is
    condition:    what device to compute like, of `harness.base.conditions`; null for the device
                  itself
    scale_mesh:   scale the case's mesh along fsdp to the devices that there are, and with it a
                  batch that is too small for them
    fork_server: fork runs on the CPU mesh from a process that has their libraries imported
    """

    __pydantic_config__ = STRICT

    name: str = "local"
    device: str = "cpu"
    time_limit: float = 1800.0
    silence: float = 600.0
    fast_compile: bool = True
    fork_server: bool = True
    condition: str | None = None
    hosts: int = 1
    scale_mesh: bool = False
    options: dict[str, Any] = field(default_factory=dict)


BY_DEVICE = "by_device"
"""A `tolerance.step_time` that the device's own default takes the place of."""


@dataclass(frozen=True)
class Tolerance:
    """Where limits come from; docs/tolerances.md explains and sources every number.

    noise_floor: "ulp" measures it for the case by a perturbed run: the first engine again, from
              weights that are perturbed by one unit in the last place. "table" takes the dtype's
              documented floor without such a run
    repeat:   "auto" trains the first engine once more from equal weights where the perturbed run
              needs it to be believed: on a device that is not known to be deterministic, and where
              it differs by more than rounding usually does. "always" or "never" do or do not
    margin:   a limit is this many times the noise floor
    floor:    smallest noise floor that is believed, by dtype and metric, in place of the documented
              one; the metrics are those of the rungs (`harness.ladder.ladder.metrics`)
    step_time: largest relative difference of step times that counts as none; null does not judge,
              by_device is the device's default, where launches are made for it
    """

    __pydantic_config__ = STRICT

    noise_floor: str
    repeat: str
    margin: float
    step_time: float | str | None
    floor: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def judged_step_time(self) -> float | None:
        """The limit for step times; None where they are not judged."""
        return None if isinstance(self.step_time, str) else self.step_time


@dataclass(frozen=True)
class Timing:
    """How step times are compared, where tolerance.step_time asks for it.

    On a device of this machine that two processes can have at once (the CPU mesh) both trainers are
    alive and run one window each in turns, A B B A …. A TPU belongs to one process at a time: there
    whole runs are launched in that order, and their own profiles are judged.

    A launch of both sides is one observation, however many windows it has. `windows` is what gives
    the narrowest interval for the time that it takes (Kalibera and Jones, ISMM 2013): the scatter
    of one window over that of launches (4 % : 0.7 %), times the root of what a launch costs over
    what a window does (20 s : 0.2 s).

    windows:          windows a side in one launch in turns
    steps_per_window: optimizer steps in a window in turns
    launches:         launches of either side in one round; three are the fewest that
                      decide anything
    rounds:           up to so many times, each after as many launches more, until it is decided;
                      each round is the stricter for it (Bonferroni)
    budget:           seconds after which no further round is begun
    """

    __pydantic_config__ = STRICT

    windows: int = 50
    steps_per_window: int = 1
    launches: int = 3
    rounds: int = 2
    budget: float = 1800.0


@dataclass(frozen=True)
class Compiler:
    """The TPU's own compiler, where a target is named.

    libtpu:       its release on PyPI
    time_limit:   seconds until a module's facts have to be there
    code_seconds: seconds that generating machine code may go on after that: it finds failures of
                  its own, and takes most of the time
    memory_limit: GiB that the compiler's process may hold
    depth:        exact ends a compilation where everything but its time is known; timed has code
                  generated for the time of operations that no compilation before has told
    """

    __pydantic_config__ = STRICT

    libtpu: str = "0.0.21"
    depth: str = "exact"
    time_limit: float = 1800.0
    code_seconds: float = 60.0
    memory_limit: float = 16.0


@dataclass(frozen=True)
class Settings:
    """One invocation: the case, the engines to compare pairwise with the first, and how.

    engine: the options of every registered engine by its name
    target: slices of TPUs that steps are compiled for, such as "v6e:2x2"; they need not be there
    slices: number of such slices in one target
    stage:  trace the steps without values for that, and execute nothing: a model of any size
    """

    __pydantic_config__ = STRICT

    case: Case
    tolerance: Tolerance
    engines: list[str] = field(default_factory=lambda: ["hf", "torchprime"])
    engine: dict[str, EngineOptions] = field(default_factory=dict)
    launcher: LauncherSettings = field(default_factory=LauncherSettings)
    float64: str = "auto"
    graph: str = "counters"
    timing: Timing = field(default_factory=Timing)
    target: str | list[str] | None = None
    slices: int = 1
    stage: bool = False
    compiler: Compiler = field(default_factory=Compiler)
    workspace: str = "workspace"

    @property
    def targets(self) -> list[str]:
        """`target` as a list."""
        return [self.target] if isinstance(self.target, str) else list(self.target or ())


EXACT, TIMED = "exact", "timed"
"""What `compiler.depth` may be."""

STAGED_STEPS = 2
"""Optimizer steps that are traced: the first makes the optimizer's state, the second is like every
later one."""


def staged(settings: Settings) -> Settings:
    """The settings with a case of as many steps as are traced, where they are to be staged."""
    if not settings.stage:
        return settings
    case = dataclasses.replace(settings.case, steps=STAGED_STEPS)
    return dataclasses.replace(settings, case=case)


def check_settings(settings: Settings) -> None:
    """Raise BadInput for the first thing in `settings` that cannot work."""
    _check_texts(settings)
    for name in settings.engines:
        engine, at, source = name.partition("@")
        registry.check(registry.ENGINES, engine, "engines")
        if at and not source:
            raise BadInput(
                f"engines: {name} names no source: write {engine}, or {engine}@ and a release, a "
                "git URL with a ref or a folder"
            )
    if len(settings.engines) < 2:
        raise BadInput(
            f"engines={settings.engines}: a comparison takes two, such as engines=[hf,reference] "
            "or engines=[hf,hf]"
        )
    if settings.tolerance.noise_floor not in ("ulp", "table"):
        raise BadInput(
            f"tolerance.noise_floor={settings.tolerance.noise_floor}: it is ulp or table"
        )
    if settings.tolerance.repeat not in ("auto", "always", "never"):
        raise BadInput(f"tolerance.repeat={settings.tolerance.repeat}: it is auto, always or never")
    if settings.float64 not in ("auto", "never"):
        raise BadInput(f"float64={settings.float64}: it is auto or never")
    registry.check(registry.DEVICES, settings.launcher.device, "launcher.device")
    _check_hosts(settings.launcher)
    condition = settings.launcher.condition
    if condition is not None and not is_condition(condition):
        raise BadInput(
            f"launcher.condition={condition}: it has to be one of {', '.join(CONDITIONS)}, or some "
            f"of them joined by +, but {' and '.join(EXCLUSIVE)}"
        )
    if settings.graph not in ("counters", "hlo"):
        raise BadInput(f"graph={settings.graph}: it is counters, or hlo for a run that dumps it")
    if settings.stage:
        _check_staged(settings)
    if settings.compiler.depth not in (EXACT, TIMED):
        raise BadInput(f"compiler.depth={settings.compiler.depth}: it is {EXACT} or {TIMED}")
    if not 0 <= settings.compiler.code_seconds < math.inf:
        seconds = settings.compiler.code_seconds
        raise BadInput(f"compiler.code_seconds={seconds}: it has to be finite, and not negative")
    timing = settings.timing
    for name in ("windows", "steps_per_window", "launches", "rounds"):
        if getattr(timing, name) < 1:
            raise BadInput(f"timing.{name}={getattr(timing, name)}: it has to be at least 1")
    _check_limits(settings.launcher, settings.tolerance, settings.compiler)
    check(settings.case)


def _check_hosts(launcher: LauncherSettings) -> None:
    """Raise BadInput for a number of hosts that no run can have."""
    if launcher.hosts < 1:
        raise BadInput(f"launcher.hosts={launcher.hosts}: it has to be at least 1")
    if launcher.hosts > 1 and launcher.name != "local":
        raise BadInput(
            f"launcher.hosts={launcher.hosts}: launcher={launcher.name} finds its hosts by itself; "
            "leave it out"
        )


def _check_staged(settings: Settings) -> None:
    """Raise BadInput for what can only be had by executing something."""
    if not settings.targets:
        raise BadInput(
            "stage=true: it traces steps to be compiled: name a slice by target=v6e:2x2, for "
            "example"
        )
    if settings.graph != "counters":
        raise BadInput(f"graph={settings.graph}: stage=true executes nothing; it has no such run")
    if settings.tolerance.judged_step_time is not None:
        raise BadInput(
            f"tolerance.step_time={settings.tolerance.step_time}: stage=true executes nothing, so "
            "that no step has a time"
        )


def _check_texts(value: Any, key: str = "") -> None:
    """Raise BadInput for an empty text, which is a slip: null, where it may be, names nothing."""
    for field_ in dataclasses.fields(value):
        at, found = f"{key}{field_.name}", getattr(value, field_.name)
        if found == "" and field_.default != "":
            raise BadInput(f"{at}= is empty: give it a value, or leave it out")
        if dataclasses.is_dataclass(found):
            _check_texts(found, f"{at}.")
        elif isinstance(found, dict):
            for name, one in found.items():
                if dataclasses.is_dataclass(one):
                    _check_texts(one, f"{at}.{name}.")


def _check_limits(launcher: LauncherSettings, tolerance: Tolerance, compiler: Compiler) -> None:
    """A limit that is NaN or infinite is no limit: nothing would ever be beyond it."""
    if isinstance(tolerance.step_time, str) and tolerance.step_time != BY_DEVICE:
        raise BadInput(
            f"tolerance.step_time={tolerance.step_time}: it is a number, null or {BY_DEVICE}"
        )
    limits = {
        "launcher.time_limit": launcher.time_limit,
        "launcher.silence": launcher.silence,
        "tolerance.margin": tolerance.margin,
        "compiler.time_limit": compiler.time_limit,
        "compiler.memory_limit": compiler.memory_limit,
    }
    if tolerance.judged_step_time is not None:
        limits["tolerance.step_time"] = tolerance.judged_step_time
    for dtype, floors in tolerance.floor.items():
        if dtype not in DTYPES:
            raise BadInput(f"tolerance.floor.{dtype}: the dtypes are {', '.join(DTYPES)}")
        limits |= {f"tolerance.floor.{dtype}.{name}": value for name, value in floors.items()}
    for key, value in limits.items():
        if not 0 < value < math.inf:
            raise BadInput(f"{key}={value}: it has to be positive and finite")
