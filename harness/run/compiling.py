"""Compiles the steps that were recorded with libtpu, for every target that the settings name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import BadInput
from harness.base.progress import Progress
from harness.base.typed import plain_json
from harness.compiler.compiled import CompiledStep, from_json, to_json
from harness.compiler.cycles import CycleStore
from harness.compiler.executed import bare_module, executed_modules, module_protos, steady_step
from harness.compiler.flags import LIBTPU, XLA, CompilerFlags
from harness.compiler.libtpu import (
    CompileLimits,
    StepModule,
    compile_step,
    devices_of,
    digest_of,
)
from harness.compiler.target import Target, parse_targets
from harness.config.settings import TIMED, Settings
from harness.engines.spec import engine
from harness.environments.compilers import TpuCompiler, tpu_compiler
from harness.environments.sources import default_cache_dir
from harness.record import layout, writer
from harness.record.checksums import check
from harness.record.evidence import Record
from harness.run.plan import Plan

CYCLES = "cycles"
"""Folder of the cache with the estimates of operations, a file for each chip and release."""

CompiledPairs = tuple[tuple[CompiledStep, CompiledStep], ...]
"""The steps of both sides, for each target."""


@dataclass(frozen=True)
class Compiling:
    """What steps are to be compiled for, and by which compiler.

    release:  of libtpu
    compiler: installs it on first use: what is compiled already needs none
    timed:    whether the step's time is asked for too
    """

    release: str
    compiler: Callable[[], TpuCompiler]
    targets: tuple[Target, ...]
    limits: CompileLimits
    timed: bool = False

    def limits_on(self, chip: str) -> CompileLimits:
        """Of a compilation for such a chip ("v6e"), with the estimates that are kept for it."""
        store = CycleStore(default_cache_dir() / CYCLES / f"{chip}-libtpu-{self.release}.json")
        return dataclasses.replace(self.limits, cycles=store if self.timed else None, kernels=store)


def plan_compiling(
    settings: Settings, progress: Progress, passing: Path | None = None
) -> Compiling | None:
    """What the settings ask for, checked against libtpu itself; None where they name no target.

    passing: a folder for a release that is not to stay in the cache (`passing_releases`)
    Raises BadInput for a slice that libtpu does not know, and one that the case's mesh does not
    fit.
    """
    if not settings.targets:
        return None
    targets = parse_targets(settings.targets, settings.slices)
    options = settings.compiler
    install = installer(options.libtpu, progress, passing)
    for target in targets:
        devices = devices_of(target, install())
        if devices != settings.case.devices:
            mesh = " × ".join(f"{axis} {size}" for axis, size in settings.case.mesh.items())
            raise BadInput(
                f"target={target.topology}: {target.name} has {devices} devices, and the mesh of "
                f"case {settings.case.name} {settings.case.devices} ({mesh}): name a slice of "
                f"{settings.case.devices}, or another case.mesh"
            )
    limits = CompileLimits(options.time_limit, options.code_seconds, options.memory_limit * 2**30)
    return Compiling(options.libtpu, install, targets, limits, options.depth == TIMED)


def installer(
    release: str, progress: Progress, passing: Path | None = None
) -> Callable[[], TpuCompiler]:
    """What installs a release of libtpu that is not in the cache yet: there, or in `passing`."""
    return lambda: tpu_compiler(release, default_cache_dir(), progress, passing)


def compiled_pairs(
    subjects: tuple[Record, Record],
    modules: tuple[Record, Record],
    flags: tuple[CompilerFlags, CompilerFlags],
    compiling: Compiling,
    progress: Progress,
) -> CompiledPairs:
    """The steps of both runs compiled for each target.

    subjects: the runs; their Records keep what comes out, and are asked first
    modules:  the runs whose dumps have the steps' modules
    flags:    of each run, for the compiler
    """
    pairs = []
    for target in compiling.targets:
        a, b = (
            compiled_for(subject, dumped, given, compiling, target, progress)
            for subject, dumped, given in zip(subjects, modules, flags, strict=True)
        )
        pairs.append((a, b))
    return tuple(pairs)


def compiled_for(
    subject: Record,
    modules: Record,
    flags: CompilerFlags,
    compiling: Compiling,
    target: Target,
    progress: Progress,
) -> CompiledStep:
    """The step of one run compiled for one target, once for each module, flags and compiler."""
    release = compiling.release
    path = subject.directory / layout.COMPILED / f"{target.file_name}-libtpu-{release}.json"
    step = step_modules(modules)
    if isinstance(step, str):
        return _unknown(target.name, release, step)
    given = flags.on(target.chip)
    if path.is_file():
        kept = from_json(plain_json(path.read_bytes()))
        same = (digest_of(step), given.libtpu, given.xla, None)
        timed = kept.predicted is not None or not (compiling.timed and kept.compiles)
        whole = timed and (kept.exchanges is not None or kept.slices == 1)
        if whole and (kept.digest, kept.flags, kept.xla_flags, kept.unknown) == same:
            return kept
    progress(f"{subject.label}: compiling for {target.name} with libtpu {release}")
    lock = default_cache_dir() / "libtpu.lock"
    limits = compiling.limits_on(target.chip)
    made = compile_step(step, compiling.compiler(), target, given, limits, lock, progress)
    path.parent.mkdir(exist_ok=True)
    writer.write_json(path, to_json(made))
    return made


def kept_pairs(a: Record, b: Record) -> CompiledPairs:
    """What both Records keep, for the targets and compilers that they have in common.

    Where they have none in common, the steps of one are paired with none of the other.
    """
    of_a, of_b = kept_steps(a), kept_steps(b)
    if common := same_compilations(of_a, of_b):
        return common
    absent = "its Record keeps no step for this target and libtpu"
    return (
        *((step, _unknown(step.target, step.libtpu, absent)) for step in of_a),
        *((_unknown(step.target, step.libtpu, absent), step) for step in of_b),
    )


def same_compilations(a: Sequence[CompiledStep], b: Sequence[CompiledStep]) -> CompiledPairs:
    """Those of both sides that are for one target, by one compiler."""
    of_b = {(step.target, step.libtpu): step for step in b}
    return tuple((s, of_b[s.target, s.libtpu]) for s in a if (s.target, s.libtpu) in of_b)


def kept_steps(found: Record) -> list[CompiledStep]:
    """The steps that a Record keeps, one for each target and compiler."""
    paths = sorted((found.directory / layout.COMPILED).glob("*.json"))
    return [from_json(plain_json(path.read_bytes())) for path in paths]


def _unknown(target: str, libtpu: str, why: str) -> CompiledStep:
    """A step of which nothing is known."""
    return CompiledStep(target, libtpu, "", "", 0, "", "", None, why, ())


def step_modules(recorded: Record) -> list[StepModule] | str:
    """The modules of a step, out of the Record of the run that dumped them, or why it has none."""
    if not recorded.complete:
        return f"{recorded.label} {recorded.ended.status}: {recorded.ended.reason}"
    path = recorded.directory / layout.MODULES
    if not path.is_file():
        return f"{recorded.label}: it kept no module of its step"
    check(recorded.directory, layout.MODULES)
    kept = plain_json(path.read_bytes())
    if "missing" in kept:
        return f"{recorded.label}: {kept['missing']}"
    unknown = (read for read in kept.get("reads", ()) if read["tracing"] and not read["known"])
    if read := next(unknown, None):
        return (
            f"{recorded.label} reads {read['dtype']} from the device at {read['at']} within the "
            "step that was traced: with another value than 0 it may be another step"
        )
    check(recorded.directory, *(module["file"] for module in kept["step"]))
    return [StepModule(recorded.directory / m["file"], m["executions"]) for m in kept["step"]]


def flags_of(plan: Plan) -> CompilerFlags:
    """The compiler flags of a run's trainer on a TPU.

    LIBTPU_INIT_ARGS are the user's (`engine.<name>.env`, or those of the shell), else those that
    the trainer's own launcher sets. XLA_FLAGS are those of `engine.<name>.env` alone: what the
    shell has of them is for the CPU mesh.
    """
    given = {**plan.environment, **plan.command.environment}
    own = "" if plan.source is None else engine(plan.engine).compiler_flags(plan.source)
    return CompilerFlags(given.get(LIBTPU, own), plan.command.environment.get(XLA, ""))


def keep_modules(dump: Path, log: Path, heaviest: int, directory: Path) -> None:
    """Keep the modules of the steady step, as they were before optimizations, in a Record.

    heaviest: which of the modules of the `dump` is the step or most of it, in order of compilation
    log:      torch_xla's own of compilations and executions
    """
    try:
        if not log.is_file():
            raise BadInput("torch_xla wrote no log of what it executed")
        step = steady_step(executed_modules(log.read_text(errors="replace")), heaviest)
        protos = module_protos(dump)
        if max(step) >= len(protos):
            raise BadInput("torch_xla executed a module that is not in the dump")
        kept: list[dict[str, str | int]] = []
        (directory / "modules").mkdir(exist_ok=True)
        for number, executions in step.items():
            name = f"modules/{len(kept)}.hlo.pb"
            (directory / name).write_bytes(bare_module(protos[number].read_bytes()))
            kept.append({"file": name, "executions": executions})
    except BadInput as error:
        writer.write_json(directory / layout.MODULES, {"missing": str(error)})
    else:
        writer.write_json(directory / layout.MODULES, {"step": kept})
