"""What a Record holds, as typed values. docs/record.md describes each field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.record.steady import COMPILING_STEPS


@dataclass(frozen=True)
class Fingerprint:
    """See `harness.probe.fingerprint`: exact bits, a linear sketch and the L2 norm of a tensor."""

    bits: int
    sketch: tuple[float, ...]
    norm: float


@dataclass(frozen=True)
class Parameter:
    """One parameter under its canonical name (the engine's wrapper prefixes removed).

    sharding:     torch_xla's sharding annotation of the live tensor ("" where it has none)
    group:        index of its optimizer group; None if no optimizer holds it
    initial:      its value before the first step
    gradient:     its gradient at step 0, before clipping; None if it had none
    clipped_norm: L2 norm of the gradient that the optimizer saw at step 0
    after:        its value after step 0 and after step 1 (a warm-up's first update is zero)
    final:        its value when training ended
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sharding: str
    group: int | None
    initial: Fingerprint | None = None
    gradient: Fingerprint | None = None
    clipped_norm: float | None = None
    after: tuple[Fingerprint, ...] = ()
    final: Fingerprint | None = None


@dataclass(frozen=True)
class Batch:
    """One micro-batch as the DataLoader gave it, on the host.

    tokens, labels, mask: hashes of the arrays; mask is "" where there is none or it is all ones
    rows:                 hash of each row's tokens and labels, in order
    shape:                [rows, sequence]
    targets:              labels that are not -100, the first column apart (it is never predicted)
    first_targets:        labels in the first column that are not -100
    """

    tokens: str
    labels: str
    mask: str
    rows: tuple[str, ...]
    shape: tuple[int, ...]
    targets: int
    first_targets: int


@dataclass(frozen=True)
class Group:
    """One optimizer group: every hyper-parameter but the parameters, and how many it holds."""

    hyper: dict[str, Any]
    parameters: int


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    loss:           sum of the scalars on which `backward()` was called
    micro_losses:   those scalars
    learning_rates: what each group really used
    gradient_norm:  what `clip_grad_norm_` returned; None where it was not called
    max_norm:       what it was called with; None where it was not called
    """

    index: int
    batches: tuple[Batch, ...] = ()
    loss: float | None = None
    micro_losses: tuple[float, ...] = ()
    learning_rates: tuple[float, ...] = ()
    gradient_norm: float | None = None
    max_norm: float | None = None
    finished: bool = False


@dataclass(frozen=True)
class Window:
    """Consecutive optimizer steps between two device syncs.

    seconds, cpu_seconds: wall clock and process CPU time of the whole window
    compilations:         graphs that XLA compiled within it
    executions:           graphs that were executed
    transfers:            transfers from the device that the trainer asked for
    fallbacks:            calls of `aten::` operations that ran on the host, by name
    profiled:             the profiler ran, started or stopped within it
    compile_seconds:      what XLA's compilations took
    """

    first: int
    last: int
    seconds: float
    cpu_seconds: float
    compilations: int
    executions: int
    transfers: int
    fallbacks: dict[str, int]
    profiled: bool = False
    compile_seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Number of optimizer steps in the window."""
        return self.last - self.first + 1

    @property
    def steady(self) -> bool:
        """Whether it tells the speed of a step: it comes after the compiling steps, XLA compiled
        nothing in it, and no profiler ran."""
        return self.first >= COMPILING_STEPS and not self.compilations and not self.profiled


@dataclass(frozen=True)
class Record:
    """One run, as read from its folder.

    groups:         the optimizer's class and groups, at step 0 and whenever they change
    graph:          the compiled step, where it was dumped
    device_seconds: by device, seconds between successive steps, where a TPU was profiled
    """

    directory: Path
    manifest: dict[str, Any]
    steps: tuple[Step, ...]
    windows: tuple[Window, ...]
    parameters: tuple[Parameter, ...]
    groups: tuple[tuple[int, str, tuple[Group, ...]], ...]
    graph: dict[str, Any] | None = None
    device_seconds: tuple[tuple[float, ...], ...] = ()

    @property
    def engine(self) -> str:
        """Name of the engine that trained."""
        return str(self.manifest["engine"])

    @property
    def label(self) -> str:
        """What a person calls this run: the engine, and its version where that is known."""
        return str(self.manifest.get("label") or self.engine)

    @property
    def asked_steps(self) -> int:
        """Optimizer steps that the case asked for."""
        return int(self.manifest["case"]["steps"])

    @property
    def trained_steps(self) -> int:
        """Optimizer steps that were finished."""
        return sum(step.finished for step in self.steps)

    @property
    def steady_windows(self) -> tuple[Window, ...]:
        """The windows that tell the speed of a step."""
        return tuple(window for window in self.windows if window.steady)

    @property
    def observed(self) -> dict[str, Any]:
        """What the probe saw of the process: versions, devices, mesh, and how the script ended."""
        return dict(self.manifest.get("observed") or {})

    @property
    def ended(self) -> dict[str, Any]:
        """How the process ended: `status`, `reason` and, for a failure, the `log` tail."""
        return dict(self.manifest["ended"])

    @property
    def missing_steps(self) -> tuple[int, ...]:
        """Steps that the case asked for and that were not finished."""
        finished = {step.index for step in self.steps if step.finished}
        return tuple(step for step in range(self.asked_steps) if step not in finished)

    @property
    def complete(self) -> bool:
        """The trainer ended well and trained exactly the steps that were asked for."""
        trained = [step.index for step in self.steps if step.finished]
        return self.ended.get("status") == "ok" and trained == list(range(self.asked_steps))
