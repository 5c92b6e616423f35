"""Compiles a step with libtpu, in a process of its own that is ended as soon as enough is known.

The optimized, scheduled module and the compiler's memory report are there before machine code is
generated, which takes most of the time. Nothing here needs a TPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.base.errors import BadInput
from harness.base.progress import Progress
from harness.compiler.bundles import executed_bundles
from harness.compiler.compiled import (
    CODE_FAILED,
    GENERATED,
    NOT_WAITED_FOR,
    CompiledModule,
    CompiledStep,
    compiled_module,
)
from harness.compiler.cycles import CycleStore, estimates, signature
from harness.compiler.executions import Executions
from harness.compiler.flags import LIBTPU, XLA, CompilerFlags
from harness.compiler.hlo_text import Module, parse
from harness.compiler.kernels import alone, kernels
from harness.compiler.predicted import Predicted, predicted, unknown
from harness.compiler.roofline import least_time
from harness.compiler.target import Target
from harness.devices.tpu import chip
from harness.environments.compilers import TpuCompiler
from harness.record.graph import Collective

WORKER = Path(__file__).with_name("libtpu_worker.py")

UNOPTIMIZED = "*.before_optimizations.txt"
SCHEDULED = "*.after_optimizations_before_buffer_assignment.txt"
BUFFERS = "*.after_optimizations-buffer-assignment.txt"
REPORT = "*.after_optimizations-memory-usage-report.txt"
OPTIMIZED = "*.after_optimizations.txt"
ASSIGNED = "*.after_optimizations_after_buffer_assignment.txt"
"""Files of a dump. libtpu 0.0.21 writes the optimized module, buffers and report after one another;
then, with more memory, the same module once more, and code after that."""
CODED = "*.after_codegen.txt"
"""The module with its estimates of cycles, once its code is generated."""

DUMP_BUNDLES = "--xla_jf_dump_llo_text=true --xla_jf_dump_to"
"""Flags by which libtpu writes the machine code that it generates, into a folder."""
BUNDLES = "*-final_bundles.txt"
"""The last of the forms that it writes; of a kernel that is compiled alone, the largest file."""

ENDED_BY_SYSTEM = "the system ended the compiler: most likely this machine ran out of memory"

MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**18),
    "MALLOC_TRIM_THRESHOLD_": str(2**18),
}
"""Has glibc give back what the compiler frees between its passes, and the texts that it dumped: the
step of Llama 3 8B takes a quarter less."""

POLL = 0.1
"""Seconds between two looks at the dump."""
SETTLED = 1.0
"""Seconds after which a file that has not grown is taken for whole; its reader proves it."""

_FATAL = re.compile(r"^(?:(?:[-\d]+ [\d:.]+: )?F(?:\d{4})? .*?\] |ERROR: )(.+)$", re.MULTILINE)
"""How libtpu, jaxlib and absl write what they end a process with."""


@dataclass(frozen=True)
class StepModule:
    """A module to compile: its serialized HloModuleProto, and its executions in a step."""

    proto: Path
    executions: int


@dataclass(frozen=True)
class CompileLimits:
    """How long and how large one module's compilation may get.

    seconds: until its facts are there
    code_seconds: that generating code may go on after that; what it would find is not known then
    memory: resident bytes of the compiler's process
    cycles: estimates that are known; where a module has an operation that is not among them, its
            code is waited for, within `seconds` again. None: times are not asked for
    kernels: where cycles of hand-written kernels are kept; one that is not among them is compiled
            by itself. None: they are not asked for
    """

    seconds: float
    code_seconds: float
    memory: float
    cycles: CycleStore | None = None
    kernels: CycleStore | None = None


@dataclass(frozen=True)
class _CompilerExit:
    """How the compiler's process ended.

    devices, device_kind, version: of the target; 0 and "" where libtpu knows no such slice
    error:   the compiler's words where it failed
    stopped: why it was ended before its facts were there
    known_chips: the chips that libtpu knows, where it does not know the target
    code:    what became of the machine code
    seconds: until the facts were there
    memory:  resident bytes of the compiler's process by then
    """

    devices: int
    device_kind: str
    version: str
    error: str | None
    stopped: str | None
    known_chips: tuple[str, ...] | None
    code: str
    seconds: float
    memory: int


def compile_step(
    modules: Sequence[StepModule],
    compiler: TpuCompiler,
    target: Target,
    flags: CompilerFlags,
    limits: CompileLimits,
    lock: Path,
    progress: Progress,
) -> CompiledStep:
    """Compile every module of a step for `target`; what goes wrong in it is a fact as well.

    One compiler runs at a time: `lock` is the file that says so.

    Raises BadInput where libtpu knows no such slice, naming the chips that it knows.
    """
    made: list[CompiledModule] = []
    exited, unreadable = None, None
    with _alone(lock, progress):
        for module in modules:
            with tempfile.TemporaryDirectory(prefix="parity-libtpu-") as folder:
                dump = Path(folder) / "dump"
                exited = _run(module.proto, compiler, target, flags, limits, Path(folder))
                if exited.known_chips is not None:
                    error, chips = exited.error or "", exited.known_chips
                    raise BadInput(_unknown(target, compiler.release, error, chips))
                try:
                    with_kernels = _Alone(compiler, target, flags, limits)
                    if facts := _facts(dump, module, exited, with_kernels):
                        made.append(facts)
                except BadInput as error:  # of the compiler's dump, which no user gave
                    unreadable = str(error)
            if (exited.error or exited.stopped or unreadable) is not None:
                break
    if exited is None:
        raise BadInput("no module of a step was given to compile")
    return CompiledStep(
        target=target.name,
        libtpu=compiler.release,
        version=exited.version,
        flags=flags.libtpu,
        devices=exited.devices,
        device_kind=exited.device_kind,
        digest=digest_of(modules),
        error=exited.error,
        unknown=exited.stopped or unreadable,
        modules=tuple(made),
        xla_flags=flags.xla,
    )


def devices_of(target: Target, compiler: TpuCompiler) -> int:
    """How many devices the target has.

    Raises BadInput where libtpu knows no such slice, naming the chips that it knows.
    """
    limits = CompileLimits(seconds=60.0, code_seconds=0.0, memory=2.0**33)
    with tempfile.TemporaryDirectory(prefix="parity-libtpu-") as folder:
        exited = _run(None, compiler, target, CompilerFlags(), limits, Path(folder))
    if exited.known_chips is not None:
        raise BadInput(_unknown(target, compiler.release, exited.error or "", exited.known_chips))
    if not exited.devices:
        why = exited.error or exited.stopped
        raise BadInput(f"libtpu {compiler.release} cannot be used on this machine: {why}")
    return exited.devices


def digest_of(modules: Sequence[StepModule]) -> str:
    """SHA-256 of the modules and of how often a step executes each."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(f"{module.executions}:".encode() + module.proto.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _alone(lock: Path, progress: Progress) -> Iterator[None]:
    """Two compilers at once would take twice the memory, and half the processor each."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        progress("waiting for another compilation with libtpu")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _run(
    proto: Path | None,
    compiler: TpuCompiler,
    target: Target,
    flags: CompilerFlags,
    limits: CompileLimits,
    folder: Path,
) -> _CompilerExit:
    dump, reported, printed = folder / "dump", folder / "events.jsonl", folder / "stderr.txt"
    request = folder / "request.json"
    to_compile = {
        "library": str(compiler.library),
        "module": None if proto is None else str(proto.resolve()),
        "topology": target.topology,
        "slices": target.slices,
        "dump": str(dump),
    }
    request.write_text(json.dumps(to_compile))
    # What this process has of either is for the CPU mesh, where the module was made.
    kept = {k: v for k, v in os.environ.items() if k not in (XLA, "PYTHONPATH")}
    given = {LIBTPU: flags.libtpu, **({XLA: flags.xla} if flags.xla else {})}
    with reported.open("wb") as events, printed.open("wb") as log:
        process = subprocess.Popen(
            [str(compiler.python), str(WORKER), str(request)],
            env={**MEMORY, **kept, **given, "TF_CPP_MIN_LOG_LEVEL": "2"},
            stdin=subprocess.DEVNULL,
            stdout=events,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
        try:
            watched = _watch(process, dump, limits)
        finally:
            process.kill()
            process.wait()
    found = _events(reported)
    failed, devices = found.get("failed", {}), found.get("devices", {})
    error, stopped, code = None, watched.stopped, NOT_WAITED_FOR
    if "compiled" in found:
        code = GENERATED
    elif failed:
        error, code = str(failed["error"]).strip(), CODE_FAILED
    elif watched.ended_by_itself and process.returncode == -signal.SIGKILL:
        # The machine's failure, not the compiler's: whatever it had made by then counts.
        stopped = None if _written(dump) else ENDED_BY_SYSTEM
    elif watched.ended_by_itself:
        error, code = _last_words(printed, process.returncode), CODE_FAILED
    return _CompilerExit(
        devices=int(devices.get("count", 0)),
        device_kind=str(devices.get("kind", "")),
        version=" ".join(str(devices.get("version", "")).split()),
        error=error,
        stopped=stopped,
        known_chips=tuple(failed["known"]) if "known" in failed else None,
        code=code,
        seconds=watched.seconds,
        memory=watched.memory,
    )


@dataclass(frozen=True)
class _Watched:
    """What was seen of the compiler's process.

    stopped: why it was ended before its facts were there; None where they are, or it ended itself
    seconds: until its facts were there, or it ended
    memory:  the most resident bytes until then
    """

    stopped: str | None
    ended_by_itself: bool
    seconds: float
    memory: int


def _watch(process: subprocess.Popen[bytes], dump: Path, limits: CompileLimits) -> _Watched:
    started, memory = time.time(), 0
    code_seconds: float | None = None
    while process.poll() is None:
        now = time.time()
        written = _written(dump)
        if written is not None and now - written > SETTLED:
            if code_seconds is None:
                code_seconds = _code_seconds(dump, limits)
            if now - written > code_seconds:
                return _Watched(None, False, written - started, memory)
        if written is None:
            memory = max(memory, _resident(process.pid))
            if now - started > limits.seconds:
                text = f"not compiled within its limit of {limits.seconds:.0f} s"
                return _Watched(f"{text} (it was {_stage(dump)})", False, now - started, memory)
            if memory > limits.memory:
                text = f"compiling needs more than its limit of {limits.memory / 2**30:.3g} GiB"
                return _Watched(f"{text} (it was {_stage(dump)})", False, now - started, memory)
        time.sleep(POLL)
    ended = _written(dump) or time.time()
    return _Watched(None, True, ended - started, memory)


def _code_seconds(dump: Path, limits: CompileLimits) -> float:
    """How long code may take: where times are asked for, as long as one is not known."""
    if limits.cycles is None:
        return limits.code_seconds
    optimized = _optimized(dump)
    assert optimized is not None, "it was written"
    try:
        asked = unknown(parse(optimized.read_text()), limits.cycles.known())
    except BadInput:  # still being written: `_facts` says what is wrong with it
        asked = True
    return limits.seconds if asked else 0.0


def _written(dump: Path) -> float | None:
    """When the last of the files with the facts was written; None where it is not there yet."""
    complete = _find(dump, OPTIMIZED) and _find(dump, BUFFERS) and _find(dump, REPORT)
    path = complete or _find(dump, ASSIGNED)
    return None if path is None or path.stat().st_size == 0 else path.stat().st_mtime


def _optimized(dump: Path) -> Path | None:
    """The optimized, scheduled module."""
    return _find(dump, OPTIMIZED) or _find(dump, ASSIGNED)


def _stage(dump: Path) -> str:
    if _find(dump, SCHEDULED) is not None:
        return "assigning memory"
    if _find(dump, UNOPTIMIZED) is not None:
        return "optimizing and scheduling"
    return "reading the module"


def _find(dump: Path, pattern: str) -> Path | None:
    """The file of the step; libtpu compiles helpers of its own beside it, which are smaller."""
    found = list(dump.glob(pattern))
    return max(found, key=lambda path: path.stat().st_size, default=None)


def _resident(process: int) -> int:
    """Resident bytes of a process; 0 where it is gone."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _events(path: Path) -> dict[str, dict[str, Any]]:
    """The worker's events by name; a line that was cut off when it was ended is not one."""
    found = {}
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            found[str(event["event"])] = event
    return found


def _last_words(log: Path, code: int) -> str:
    """Why a process is gone that said nothing by its own means: libtpu aborts it."""
    text = log.read_text(errors="replace")
    if fatal := _FATAL.search(text):
        return fatal[1].strip()
    last = [line for line in text.splitlines() if line.strip()][-1:]
    return f"the compiler ended with code {code}" + (f": {last[0].strip()}" if last else "")


@dataclass(frozen=True)
class _Alone:
    """How a step is compiled, and with it each of its kernels alone."""

    compiler: TpuCompiler
    target: Target
    flags: CompilerFlags
    limits: CompileLimits

    def cycles(self, module: Module) -> dict[str, int | None]:
        """Those of each hand-written kernel of a module, by signature; None where none is told."""
        if self.limits.kernels is None:
            return {}
        known = self.limits.kernels.known()
        for computation, instruction in kernels(module):
            of = signature(module, computation, instruction)
            if of not in known:
                known[of] = self._cycles_of(alone(computation, instruction))
                self.limits.kernels.add({of: known[of]})
        return known

    def _cycles_of(self, text: str) -> int | None:
        with tempfile.TemporaryDirectory(prefix="parity-libtpu-") as folder:
            module, llo = Path(folder) / "kernel.txt", Path(folder) / "llo"
            module.write_text(text)
            flags = dataclasses.replace(
                self.flags, libtpu=f"{self.flags.libtpu} {DUMP_BUNDLES}={llo}".strip()
            )
            code = dataclasses.replace(self.limits, code_seconds=self.limits.seconds, cycles=None)
            _run(module, self.compiler, self.target, flags, code, Path(folder))
            bundles = _find(llo, BUNDLES)
            try:
                return None if bundles is None else executed_bundles(bundles.read_text())
            except BadInput:
                return None


def _facts(
    dump: Path, module: StepModule, exited: _CompilerExit, compiled: _Alone
) -> CompiledModule | None:
    """The facts of a module; None where the compiler did not come to them."""
    optimized, buffers = _optimized(dump), _find(dump, BUFFERS)
    if optimized is None or buffers is None:
        return None
    unoptimized, report = _find(dump, UNOPTIMIZED), _find(dump, REPORT)
    target, cycles = compiled.target, compiled.limits.cycles
    on, devices, predict = chip(target.chip), exited.devices, None

    def least(made: Module, runs: Executions, found: Sequence[Collective]) -> Predicted:
        return least_time(made, runs, found, compiled.cycles(made), on, target, devices)

    if cycles is not None:
        coded = _find(dump, CODED)
        if coded is not None and exited.code == GENERATED:
            cycles.add(estimates(parse(coded.read_text())))
        known = cycles.known()

        def predict(made: Module, runs: Executions, found: Sequence[Collective]) -> Predicted:
            of_kernels = compiled.cycles(made)
            return predicted(made, runs, found, {**of_kernels, **known}, on, target, devices)

    return compiled_module(
        optimized.read_text(),
        None if unoptimized is None else unoptimized.read_text(),
        buffers.read_text(),
        None if report is None else report.read_text(),
        devices=devices,
        slices=target.slices,
        predict=predict,
        least=least,
        code=exited.code,
        executions=module.executions,
        seconds=exited.seconds,
        compiler_bytes=exited.memory,
    )


def _unknown(target: Target, release: str, error: str, chips: tuple[str, ...]) -> str:
    if target.chip in chips:
        return f"target={target.topology}: libtpu {release} knows no such slice: {error}"
    return (
        f"target={target.topology}: libtpu {release} does not know {target.chip}; it knows "
        f"{', '.join(chips)} (compiler.libtpu names another release)"
    )
