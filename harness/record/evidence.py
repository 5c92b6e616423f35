"""What a Record holds, as typed values. docs/record.md describes each field.

`harness.record.reader` reads the files into them. Importing them imports nothing that is slow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

from harness.base.typed import STRICT, Count, Finite, Number
from harness.config.case import ALIGNED, AS_SHIPPED, Case
from harness.config.training import TRAINING, TrainingRequest
from harness.record.graph import ModuleGraph
from harness.record.steady import COMPILING_STEPS
from harness.record.termination import OK, Termination


class _ByKind:
    """A Case or a TrainingRequest, by its key `kind`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.tagged_union_schema(
            {"<case>": handler.generate_schema(Case),
             "<request>": handler.generate_schema(TrainingRequest)},
            discriminator=_tag,
            custom_error_type="kind",
            custom_error_message=f"its kind is none of {', '.join(TAGS)}",
        )  # fmt: skip


TAGS = {ALIGNED: "<case>", AS_SHIPPED: "<case>", TRAINING: "<request>"}


def _tag(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return TAGS.get(kind) if isinstance(kind, str) else None


AnyCase = Annotated[Case | TrainingRequest, _ByKind()]
"""What was to be trained: a Case, or what `parity train` was given."""


@dataclass(frozen=True)
class Origin:
    """What was trained with.

    version, commit: its release, or its version, and the commit of a checkout
    dirty:           hash of uncommitted changes; None where there are none
    description:     what a person calls it
    script:          `path` and `sha256` of a script that was named in place of the engine's own
    files:           SHA-256 of files that arguments name, by argument
    workarounds:     names of those that it trained with
    """

    __pydantic_config__ = STRICT

    version: str | None = None
    commit: str | None = None
    dirty: str | None = None
    description: str = ""
    script: dict[str, str] | None = None
    files: dict[str, str] = field(default_factory=dict)
    workarounds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Launched:
    """The command of the run, without secrets."""

    __pydantic_config__ = STRICT

    argv: tuple[str, ...]
    environment: dict[str, str]
    pythonpath: tuple[str, ...]


@dataclass(frozen=True)
class Python:
    """The interpreter of the run: its path, the hash of what is installed, and its packages.

    A stored baseline keeps the packages alone.
    """

    __pydantic_config__ = STRICT

    packages: dict[str, str]
    python: str = ""
    key: str = ""


@dataclass(frozen=True)
class Machine:
    """The machine that the harness ran on."""

    __pydantic_config__ = STRICT

    name: str
    machine: str


@dataclass(frozen=True)
class Mesh:
    """The SPMD mesh: sizes of its axes by name, and the order of the devices in it."""

    __pydantic_config__ = STRICT

    axes: dict[str, Count]
    device_order: tuple[Count, ...]


@dataclass(frozen=True)
class ScriptEnd:
    """How the training script ended: by itself, by an exit code, or by an exception."""

    __pydantic_config__ = STRICT

    returned: bool
    exit: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Mark:
    """When something began, and what imports and the probe had taken by then, in seconds."""

    __pydantic_config__ = STRICT

    at: Finite
    imports: Finite
    probe: Finite


@dataclass(frozen=True)
class Spent:
    """Seconds that imports and the probe itself took."""

    __pydantic_config__ = STRICT

    imports: Finite
    probe: Finite


@dataclass(frozen=True)
class ProcessClock:
    """The clock of the process (`harness.probe.phases`): when it began, in seconds since 1970."""

    __pydantic_config__ = STRICT

    began: Finite
    seconds: Spent
    marks: dict[str, Mark]


@dataclass(frozen=True)
class Fingerprint:
    """See `harness.probe.fingerprint`: exact bits, a linear sketch and the L2 norm of a tensor."""

    __pydantic_config__ = STRICT

    bits: Count
    sketch: tuple[Number, ...]
    norm: Number


@dataclass(frozen=True)
class KnownAnswer:
    """A tensor whose fingerprint is known, and what the run's device made of it.

    device:   what the device computed
    host:     what numpy computed, with exact sums
    rounding: how far rounding can take a sum over the elements from the exact one
    """

    __pydantic_config__ = STRICT

    name: str
    device: Fingerprint
    host: Fingerprint
    rounding: Finite


@dataclass(frozen=True)
class KnownAnswers:
    """What shows, before step 0, that this device computes fingerprints as they are defined.

    version: of that definition; fingerprints of two versions cannot be compared
    """

    __pydantic_config__ = STRICT

    version: Count
    tensors: tuple[KnownAnswer, ...]


@dataclass(frozen=True)
class Observed:
    """What the probe saw of the process. None and empty are what it did not see.

    device, device_kind:   PJRT's device, and the chip, such as "TPU v6e"
    devices, processes:    their number in the whole run
    process:               index of this process
    versions, flags:       of packages, and variables that can change what is computed
    input_sharding:        annotation of the input tokens, "" where they have none
    attributes:            what PJRT says of the first device
    accelerator_type:      the TPU VM's own name of it, such as "v6e-8"
    matmul_precision:      "default", "high" or "highest", as torch_xla told it at the end
    products:              by each operation that the run multiplied matrices with, such as
                           "aten::mm", the precision that it asks for of float32 ones, as its HLO
                           says; empty without XLA, where no product asks for one of its own
    condition:             what device was computed like, of `harness.base.conditions`
    autocast:              dtype that operations are cast to by `torch.autocast`; None for none
    dropout:               by the name of a part of the model, the share that it drops in training
    recomputed:            by the name of a kind of layer, such as "model.layers.*", how many are
                           computed again in the backward pass of step 0 (checkpointing)
    routers:               modules that choose experts for each token, as the model's family names
                           them, whether they were seen or not
    taken_away:            what batches of the trainer's own have, and prepared ones have not
    model:                 the root module's class
    attention:             transformers' name of its attention implementation
    names_attention:       whether the engine's models have such a name
    known_answers:         None where the run ended before the device was asked
    script:                how the script ended
    phases:                where its seconds went
    forked:                from a process that had imported its libraries
    """

    __pydantic_config__ = STRICT

    device: str | None = None
    device_kind: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    accelerator_type: str | None = None
    matmul_precision: str | None = None
    products: dict[str, str] = field(default_factory=dict)
    condition: str | None = None
    devices: Count | None = None
    processes: Count | None = None
    process: Count | None = None
    mesh: Mesh | None = None
    versions: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    input_sharding: str | None = None
    autocast: str | None = None
    dropout: dict[str, Finite] = field(default_factory=dict)
    recomputed: dict[str, Count] | None = None
    routers: tuple[str, ...] = ()
    taken_away: tuple[str, ...] = ()
    model: str | None = None
    attention: str | None = None
    names_attention: bool = False
    known_answers: KnownAnswers | None = None
    script: ScriptEnd | None = None
    phases: ProcessClock | None = None
    forked: bool = False


@dataclass(frozen=True)
class Hosts:
    """Of a run on several hosts: how many left evidence, and what they disagree about."""

    __pydantic_config__ = STRICT

    count: Count
    expected: Count
    disagreements: tuple[str, ...]


@dataclass(frozen=True)
class Reported:
    """What a trainer's own log says of its training.

    first, last:   the optimizer steps that it speaks of, both included
    loss:          their mean loss
    gradient_norm: what was measured in step `last`; None where it does not say
    """

    __pydantic_config__ = STRICT

    first: Count
    last: Count
    loss: Number
    gradient_norm: Number | None = None


Role = Literal[
    "subject", "perturbed", "repeat", "float64", "graph", "timing", "staged", "saving", "resumed"
]


@dataclass(frozen=True)
class Imported:
    """Of a run that the harness did not launch: what `parity import` read of it.

    It shows numbers that a trainer logged, and no weights, batches, sharding or counters.

    sources:  what was read, in a few words each
    rounding: by quantity ("loss", "learning_rate", "gradient_norm"): how far, relatively, a number
              may be from what it was, as only so many digits were printed
    assumed:  rungs that a person takes to hold, though nothing here shows that they do
    findings: what was noticed in the numbers: steps that are missing, slow steps, a lag
    """

    __pydantic_config__ = STRICT

    sources: tuple[str, ...]
    rounding: dict[str, Finite]
    assumed: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What was run, with what, where, and how it ended.

    harness:  version of the harness
    label:    what a person calls this run: the engine, and its version where that is known
    role:     what it was run for: to be judged ("subject"), to measure noise, for its compiled
              step; of one that is "staged" nothing was executed, its steps were traced. One that
              is "saving" saves within training, and one that is "resumed" goes on from there
    first_step: the case's step that is step 0 of this run: of one that was resumed not 0
    repeat:   which of several equal launches
    key:      hash of all that can change what the run does
    training: hash of all that can change what it trains: of a run without a break, of one that
              saves on its way and of one that goes on from there it is the same
    inputs:   hash of its prepared inputs
    started:  seconds since 1970
    attempts: launches until the machine did not starve the collectives
    turns:    the launch whose windows took turns with these
    hosts:    None where there was only one
    profile:  what is wrong with the device's profile, or None
    reported: what the trainer's own log says
    beyond_case: arguments of the trainer's own that its user gave, that can change what is trained,
              and that the case does not say, by name
    imported: of a run that was not launched here, else None

    A stored baseline leaves out what belongs to the machine that made it: `command`, `host`.
    """

    __pydantic_config__ = STRICT

    schema: int
    harness: str
    engine: str
    label: str
    role: Role
    repeat: Count
    key: str
    case: AnyCase
    inputs: str
    origin: Origin
    interpreter: Python
    started: Finite
    observed: Observed
    ended: Termination
    command: Launched | None = None
    host: Machine | None = None
    first_step: Count = 0
    attempts: Count = 1
    turns: str | None = None
    training: str = ""
    hosts: Hosts | None = None
    profile: str | None = None
    reported: tuple[Reported, ...] = ()
    beyond_case: dict[str, str] = field(default_factory=dict)
    imported: Imported | None = None


@dataclass(frozen=True)
class DeviceTimes:
    """Step times from the device's profile.

    module:       XLA module that is the training step
    seconds:      by device, seconds between its successive executions
    idle_devices: devices in the profile that never ran it
    complaints:   errors and warnings that the profiler itself wrote into the profile
    """

    __pydantic_config__ = STRICT

    module: str
    seconds: dict[str, tuple[Finite, ...]]
    idle_devices: tuple[str, ...]
    complaints: tuple[str, ...]


@dataclass(frozen=True)
class Parameter:
    """One parameter under its canonical name (the engine's wrapper prefixes removed).

    sharding:     torch_xla's sharding annotation of the live tensor ("" where it has none)
    group:        index of its optimizer group; None if no optimizer holds it
    initial:      its value before the first step
    gradient:     its gradient at step 0, before clipping; None if it had none
    clipped_norm: L2 norm of the gradient that the optimizer saw at step 0
    clipped_by:   indices of the calls of step 0 that clipped it (`Clip`)
    after:        its value after step 0 and after step 1 (a warm-up's first update is zero)
    final:        its value when training ended
    state_after:  what the optimizer keeps of it, by torch's names such as "exp_avg", after step 0
                  and after step 1; scalars are left out
    state_final:  the same when training ended
    counted:      updates that the optimizer itself had counted of it by then (torch's "step"); None
                  where it counts none
    saved:        its value when `case.save_at` steps were trained, of a run that saves
    state_saved, counted_saved: as `state_final` and `counted`, by then
    state_loaded, counted_loaded: the same before the first step, where the optimizer had any
    """

    __pydantic_config__ = STRICT

    name: str
    shape: tuple[Count, ...]
    dtype: str
    sharding: str
    group: Count | None
    initial: Fingerprint | None = None
    gradient: Fingerprint | None = None
    clipped_norm: Number | None = None
    clipped_by: tuple[Count, ...] = ()
    after: tuple[Fingerprint, ...] = ()
    final: Fingerprint | None = None
    state_after: tuple[dict[str, Fingerprint], ...] = ()
    state_final: dict[str, Fingerprint] = field(default_factory=dict)
    counted: Number | None = None
    saved: Fingerprint | None = None
    state_saved: dict[str, Fingerprint] = field(default_factory=dict)
    counted_saved: Number | None = None
    state_loaded: dict[str, Fingerprint] = field(default_factory=dict)
    counted_loaded: Number | None = None


@dataclass(frozen=True)
class Batch:
    """One micro-batch as the DataLoader gave it, on the host.

    tokens, labels, mask: hashes of the arrays; mask is "" where there is none or it is all ones
    rows:                 hash of each row's tokens and labels, in order
    shape:                [rows, sequence]
    targets:              labels that are not -100, the first column apart (it is never predicted)
    first_targets:        labels in the first column that are not -100
    own:                  hash of the tokens of the trainer's own batch, which these rows took the
                          place of; "" where that is not recorded
    """

    __pydantic_config__ = STRICT

    tokens: str
    labels: str
    mask: str
    rows: tuple[str, ...]
    shape: tuple[Count, ...]
    targets: Count
    first_targets: Count
    own: str = ""


@dataclass(frozen=True)
class Group:
    """One optimizer group: every hyper-parameter but the parameters, and how many it holds."""

    __pydantic_config__ = STRICT

    hyper: dict[str, Any]
    parameters: Count


@dataclass(frozen=True)
class Clip:
    """One call of a function that clips gradients.

    kind:       "norm" for a largest norm, "value" for a largest absolute value
    limit:      that largest norm or value
    parameters: how many it was called for
    norm:       what it measured, or was given; None for values, and where it was not read
    """

    __pydantic_config__ = STRICT

    kind: Literal["norm", "value"]
    limit: Number
    parameters: Count
    norm: Number | None = None


@dataclass(frozen=True)
class CrossEntropy:
    """What one call of `cross_entropy` returned: the "mean" over its labels, or their "sum"."""

    __pydantic_config__ = STRICT

    reduction: str
    value: Number


@dataclass(frozen=True)
class Output:
    """What a module, by its canonical name, returned first in the first forward pass of step 0."""

    __pydantic_config__ = STRICT

    name: str
    shape: tuple[Count, ...]
    sketch: tuple[Number, ...]
    norm: Number


@dataclass(frozen=True)
class Sums:
    """A linear sketch of a tensor, and its L2 norm (`harness.probe.fingerprint`)."""

    __pydantic_config__ = STRICT

    sketch: tuple[Number, ...]
    norm: Number


@dataclass(frozen=True)
class Routed:
    """Which experts a router chose in the first forward pass of step 0.

    name:    of the router's module, canonical
    tokens:  how many it was given
    given:   what it was given, [tokens, hidden]
    logits:  what its matrix product came to, [tokens, experts]; None where that was not seen
    scores:  what the highest were chosen of, [tokens, experts]; None where no choice was seen
    taken:   of the first tokens the indices of their experts, those of the highest scores first
    margins: of the same tokens, how far the last chosen score was above the best of those not
             chosen
    load:    by expert, how many of all tokens chose it
    """

    __pydantic_config__ = STRICT

    name: str
    tokens: Count
    given: Sums | None
    logits: Sums | None
    scores: Sums | None
    taken: tuple[tuple[Count, ...], ...]
    margins: tuple[Number, ...]
    load: tuple[Count, ...]


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    loss:            sum of the scalars on which `backward()` was called
    micro_losses:    those scalars
    learning_rates:  what each group really used
    gradient_norm:   L2 norm of the gradients as it was measured for clipping; None where it was not
    max_norm:        the one norm that they were clipped to; None for none, and for several
    clips:           every call of a function that clips; empty where one call for all parameters
                     is all that there was: `max_norm` and `gradient_norm` tell of it
    inputs:          for each call of the root module, the hash of each tensor that it was given, by
                     name: as in Batch; "" for one that the device had yet to compute. Masks of ones
                     and positions 0, 1, 2 … are left out
    outputs:         of step 0: what each part of the model computed, in that order
    routed:          of step 0: which experts each router chose, in the order of their calls
    cross_entropies: of step 0, in order, for each call that is part of a loss
    generators:      by name, the state of each random number generator when its first forward pass
                     began; of a case that saves
    """

    __pydantic_config__ = STRICT

    index: Count
    batches: tuple[Batch, ...] = ()
    loss: Number | None = None
    micro_losses: tuple[Number, ...] = ()
    learning_rates: tuple[Number, ...] = ()
    gradient_norm: Number | None = None
    max_norm: Number | None = None
    clips: tuple[Clip, ...] = ()
    inputs: tuple[dict[str, str], ...] = ()
    outputs: tuple[Output, ...] = ()
    routed: tuple[Routed, ...] = ()
    cross_entropies: tuple[CrossEntropy, ...] = ()
    generators: dict[str, str] = field(default_factory=dict)
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
    inner_graphs:         graphs that were sent to the device between the beginning of a forward
                          pass and the end of its backward pass; None where they were not counted
    """

    __pydantic_config__ = STRICT

    first: Count
    last: Count
    seconds: Finite
    cpu_seconds: Finite
    compilations: Count
    executions: Count
    transfers: Count
    fallbacks: dict[str, Count]
    profiled: bool
    compile_seconds: Finite
    inner_graphs: Count | None = None

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
class Loaded:
    """What a user finds who loads what a trainer saved, as that trainer's users do.

    how:         what it was loaded by
    stored:      names of the tensors in what was saved
    refused:     why it cannot be loaded; None where it was
    missing:     parameters of the model that were not in it
    unexpected:  what was in it, and the model has not
    parameters:  every parameter of the loaded model, by its name
    """

    __pydantic_config__ = STRICT

    how: str
    stored: tuple[str, ...]
    refused: str | None = None
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    parameters: dict[str, Fingerprint] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One run, as read from its folder.

    groups:       the optimizer's class and groups, at step 0 and whenever they change
    graph:        the compiled step, where it was dumped
    device_times: step times as the device itself has them, where a TPU was profiled
    loaded:       what comes of loading what it saved, where it was run to save
    """

    directory: Path
    manifest: Manifest
    steps: tuple[Step, ...]
    windows: tuple[Window, ...]
    parameters: tuple[Parameter, ...]
    groups: tuple[tuple[int, str, tuple[Group, ...]], ...]
    graph: ModuleGraph | None = None
    device_times: DeviceTimes | None = None
    loaded: Loaded | None = None

    @property
    def case(self) -> Case | TrainingRequest:
        """What was to be trained."""
        return self.manifest.case

    @property
    def engine(self) -> str:
        """Name of the engine that trained."""
        return self.manifest.engine

    @property
    def label(self) -> str:
        """What a person calls this run: the engine, and its version where that is known."""
        return self.manifest.label

    @property
    def dtype(self) -> str:
        """Dtype of the parameters, whatever the case asks for; "" where they have several."""
        seen = {parameter.dtype for parameter in self.parameters}
        return seen.pop() if len(seen) == 1 else ""

    @property
    def staged(self) -> bool:
        """Whether its steps were traced and not executed: nothing of it was computed."""
        return self.manifest.role == "staged"

    @property
    def requested_steps(self) -> int:
        """Optimizer steps that this run was asked for: those of the case, or what was left."""
        return self.case.steps - self.manifest.first_step

    @property
    def trained_steps(self) -> int:
        """Optimizer steps that were finished."""
        return sum(step.finished for step in self.steps)

    @property
    def steady_windows(self) -> tuple[Window, ...]:
        """The windows that tell the speed of a step."""
        return tuple(window for window in self.windows if window.steady)

    @property
    def observed(self) -> Observed:
        """What the probe saw of the process: versions, devices, mesh, and how the script ended."""
        return self.manifest.observed

    @property
    def ended(self) -> Termination:
        """How the process ended."""
        return self.manifest.ended

    @property
    def first_missing_step(self) -> int | None:
        """The first step that the case asked for and that was not finished; None for none."""
        finished = {step.index for step in self.steps if step.finished}
        first = next(step for step in count() if step not in finished)
        return first if first < self.requested_steps else None

    @property
    def complete(self) -> bool:
        """The trainer ended well and trained exactly the steps that were asked for."""
        trained = [step.index for step in self.steps if step.finished]
        whole = len(trained) == self.requested_steps and trained == list(range(len(trained)))
        return self.ended.status == OK and whole
