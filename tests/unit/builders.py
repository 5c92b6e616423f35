"""Records to be judged, made by a little trainer in numpy that really trains.

Its weights, gradients and updates are arrays, and their fingerprints are computed from them as the
probe computes them. So a fault that is put into the trainer leaves the evidence that it would leave
in a real run, and a perturbed array has a truthful fingerprint. Each fault is a subclass with one
method overridden.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import manifests
import numpy as np
import record_files
from numpy.typing import NDArray

from harness.config.case import Case, Data, Optimizer, Schedule
from harness.config.compose import load
from harness.config.settings import Tolerance
from harness.config.training import Shape, TrainingData, TrainingRequest
from harness.ladder.comparison import Comparison
from harness.models.family import Model
from harness.probe.expected import fingerprint_of
from harness.record.evidence import Fingerprint, Imported, Parameter, Record, Step, Window
from harness.record.graph import Collective, ModuleGraph
from harness.record.reader import read_record

Array = NDArray[Any]
"""Of float32; arithmetic may widen it in between."""
Arrays = dict[str, Array]

IGNORED = -100
STARTED = itertools.count(1_000_000_000)
"""When each Record's run began: no two are one launch."""

VOCABULARY, WIDTH, ROWS, LENGTH = 16, 8, 4, 6

MODEL = Model(family="toy", vocab_size=VOCABULARY, hidden_size=WIDTH)

SHARDING: dict[str, list[str | list[str] | None]] = {
    "model.embed_tokens.weight": ["fsdp", None],
    "model.norm.weight": ["fsdp"],
    "lm_head.weight": ["fsdp", None],
}

DEVICES = {
    "device": "CPU",
    "device_kind": "CPU",
    "devices": 4,
    "matmul_precision": "highest",
    "products": {"aten::bmm": "highest", "aten::mm": "highest"},
    "processes": 1,
    "process": 0,
    "mesh": {"axes": {"fsdp": 4, "tensor": 1}, "device_order": [0, 1, 2, 3]},
    "versions": {"python": "3.11.7", "torch": "2.9.0", "torch_xla": "2.9.0"},
    "flags": {"PJRT_DEVICE": "CPU", "XLA_FLAGS": "--xla_x=1", "XLA_USE_SPMD": "1"},
    "input_sharding": "{devices=[4,1]0,1,2,3}",
    "model": "Toy",
    "attention": "eager",
    "names_attention": True,
    "script": {"returned": True},
}


def round_bfloat16(array: Array) -> Array:
    """The nearest bfloat16 values, ties to even, as float32."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def fingerprint(array: Array, dtype: str = "float32") -> Fingerprint:
    """What `harness.probe.fingerprint` makes of a tensor of `dtype` with these values."""
    values = np.ascontiguousarray(array, np.float32)
    patterns = values.view(np.int32)
    if dtype == "bfloat16":
        patterns = (patterns >> 16).astype(np.int16)
    answer = fingerprint_of(values, patterns)
    return Fingerprint(answer["bits"], tuple(answer["sketch"]), answer["norm"])


def known_answers(*arrays: Array) -> dict[str, Any]:
    """What a device that computes well makes of `arrays`, as in observed.json."""
    answers = [dataclasses.asdict(fingerprint(array)) for array in arrays]
    tensors = [
        {"name": f"tensor {index}", "device": answer, "host": answer, "rounding": 1e-4}
        for index, answer in enumerate(answers)
    ]
    return {"version": 1, "tensors": tensors}


KNOWN_ANSWERS = known_answers(np.ones(6), np.arange(5))


@dataclass(frozen=True)
class Trainer:
    """A language model of three parameters, trained by clipped AdamW, and observed.

    label:        what its Record is called
    asked:        steps that the case asks for; None for as many as are trained
    groups:       1 for one optimizer group, 2 for another one that holds the norm
    ulp:          the initial weights are moved by one unit in the last place
    sums:         1 or -1: the order in which rows are summed, so that two trainers round otherwise
    noise:        relative noise on gradients, for a bfloat16 trainer
    key:          its Record's; "" for one of its own
    """

    label: str = "hf"
    steps: int = 8
    requested: int | None = None
    dtype: str = "float32"
    accumulation: int = 1
    learning_rate: float = 1e-2
    warmup: int = 2
    max_norm: float | None = 0.2
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    groups: int = 1
    window: int = 2
    seconds: float = 0.1
    seed: int = 0
    ulp: bool = False
    sums: int = 1
    noise: float = 0.0
    key: str = ""

    # --- what a fault overrides -------------------------------------------------------------

    def initial(self) -> Arrays:
        """Weights before the first step."""
        generator = np.random.default_rng(self.seed)
        shapes = {
            "model.embed_tokens.weight": (VOCABULARY, WIDTH),
            "model.norm.weight": (WIDTH,),
            "lm_head.weight": (VOCABULARY, WIDTH),
        }
        weights = {}
        for name, shape in shapes.items():
            drawn = generator.standard_normal(shape)
            value = 1 + 0.2 * drawn if len(shape) == 1 else 0.5 * drawn
            weights[name] = self.rounded(value.astype(np.float32))
        return {n: self._moved(w) for n, w in weights.items()} if self.ulp else weights

    def batch(self, micro_step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens and labels [rows, length] of a micro-batch; rows count unevenly."""
        generator = np.random.default_rng([self.seed, micro_step])
        tokens = generator.integers(0, VOCABULARY, (ROWS, LENGTH))
        labels = tokens.copy()
        labels[:, 0] = IGNORED
        labels[0, : 1 + micro_step % 4] = IGNORED
        return tokens, labels

    def given(self, step: int, tokens: Any, labels: Any) -> dict[str, str]:
        """Hashes of what the model is given."""
        return {"tokens": _hash(tokens), "labels": _hash(labels)}

    def divisor(self, batches: list[tuple[Any, Any]], index: int) -> float:
        """What the summed cross-entropy of micro-batch `index` is divided by."""
        return float(sum((labels[:, 1:] != IGNORED).sum() for _, labels in batches))

    def gradients(
        self, weights: Arrays, tokens: Any, labels: Any, divisor: float
    ) -> tuple[float, Arrays]:
        """Loss and gradients of one micro-batch."""
        embed, norm, head = weights.values()
        inputs, targets = tokens[:, :-1].reshape(-1), labels[:, 1:].reshape(-1)
        hidden = embed[inputs]
        logits = (hidden * norm) @ head.T
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        probability = shifted / shifted.sum(1, keepdims=True)
        counted = targets != IGNORED
        chosen = probability[np.arange(len(targets)), np.where(counted, targets, 0)]
        loss = -np.log(chosen[counted][:: self.sums]).sum(dtype=np.float32) / np.float32(divisor)
        delta = probability.copy()
        delta[np.arange(len(targets)), np.where(counted, targets, 0)] -= 1
        delta = (delta * counted[:, None] / np.float32(divisor)).astype(np.float32)[:: self.sums]
        hidden, inputs = hidden[:: self.sums], inputs[:: self.sums]
        into = delta @ head
        gradient = np.zeros_like(embed)
        np.add.at(gradient, inputs, into * norm)
        return float(loss), {
            "model.embed_tokens.weight": gradient,
            "model.norm.weight": (into * hidden).sum(0, dtype=np.float32),
            "lm_head.weight": delta.T @ (hidden * norm),
        }

    def backward(self, gradients: Arrays) -> Arrays:
        """The gradients as clipping sees them."""
        return gradients

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        """Gradients that the optimizer sees, the norm that was measured, and the threshold."""
        if self.max_norm is None:
            return gradients, None, None
        norm = total_norm(gradients)
        scale = np.float32(min(1.0, self.max_norm / (norm + 1e-6)))
        return {n: g * scale for n, g in gradients.items()}, norm, self.max_norm

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up from 0, linear decay."""
        if step < self.warmup:
            return self.learning_rate * step / self.warmup
        return self.learning_rate * (1 - (step - self.warmup) / max(1, self.steps - self.warmup))

    def updated(self, weight: Array, gradient: Array, state: dict[str, Any], rate: float) -> Array:
        """One weight after one step of AdamW; `state` holds its moments and counter."""
        state["step"] += 1
        b1, b2 = self.betas
        state["m"] = b1 * state["m"] + (1 - b1) * gradient
        state["v"] = b2 * state["v"] + (1 - b2) * gradient * gradient
        m = state["m"] / (1 - b1 ** state["step"])
        v = state["v"] / (1 - b2 ** state["step"])
        moved: Array = weight - rate * (m / (np.sqrt(v) + self.eps) + self.weight_decay * weight)
        return moved

    def hyper(self, group: int, step: int) -> dict[str, Any]:
        """Hyper-parameters of a group, as the probe finds them."""
        return {
            "betas": list(self.betas), "eps": self.eps, "weight_decay": self.weight_decay,
            "amsgrad": False, "maximize": False, "foreach": None, "fused": None,
        }  # fmt: skip

    def compilations(self, window: int) -> int:
        """Graphs that XLA compiled in a window."""
        return 1 if window < 2 else 0

    def fallbacks(self, window: int) -> dict[str, int]:
        """Operations that ran on the host in a window."""
        return {}

    # --- training ---------------------------------------------------------------------------

    def rounded(self, array: Array) -> Array:
        """An array in the trainer's dtype."""
        return round_bfloat16(array) if self.dtype == "bfloat16" else array.astype(np.float32)

    def _moved(self, weight: Array) -> Array:
        """Each weight one unit in the last place away, up or down."""
        place = 0x10000 if self.dtype == "bfloat16" else 1
        up = np.random.default_rng(weight.size).random(weight.shape) < 0.5
        bits = weight.view(np.uint32)
        return np.where(up, bits + place, bits - place).astype(np.uint32).view(np.float32)

    def _train(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Events of steps.jsonl, and parameters of parameters.json."""
        weights = self.initial()
        parameters: list[dict[str, Any]] = [
            {
                "name": name,
                "shape": list(weight.shape),
                "dtype": self.dtype,
                "sharding": "{devices=[4,1]0,1,2,3}" if weight.ndim > 1 else "{devices=[4]0,1,2,3}",
                "group": int(self.groups == 2 and "norm" in name),
                "initial": self._print(weight),
                "after": [],
            }
            for name, weight in weights.items()
        ]
        states: dict[str, dict[str, Any]] = {
            n: {"step": 0, "m": np.zeros_like(w), "v": np.zeros_like(w)} for n, w in weights.items()
        }
        noise = np.random.default_rng(1)
        events: list[dict[str, Any]] = []
        previous: Any = None
        windows = self._windows()
        for step in range(self.steps):
            index = range(step * self.accumulation, (step + 1) * self.accumulation)
            batches = [self.batch(i) for i in index]
            losses, gradients = [], {n: np.zeros_like(w) for n, w in weights.items()}
            for i, (tokens, labels) in enumerate(batches):
                events.append({"event": "batch", "index": index[i], **describe(tokens, labels)})
                loss, micro = self.gradients(weights, tokens, labels, self.divisor(batches, i))
                losses.append(loss)
                gradients = {n: gradients[n] + micro[n] for n in gradients}
            gradients = {
                n: self.rounded(g * (1 + self.noise * noise.standard_normal(g.shape)))
                for n, g in self.backward(gradients).items()
            }
            clipped, norm, threshold = self.clipped(gradients)
            clipped = {n: self.rounded(g) for n, g in clipped.items()}
            held = [
                {"hyper": self.hyper(g, step), "parameters": [[3], [2, 1]][self.groups - 1][g]}
                for g in range(self.groups)
            ]
            if held != previous:
                previous = held
                events.append({"event": "optimizer", "step": step, "groups": held,
                               "name": "torch.optim.adamw.AdamW"})  # fmt: skip
            rate = self.rate(step)
            weights = {
                n: self.rounded(self.updated(w, clipped[n], states[n], rate))
                for n, w in weights.items()
            }
            events.append(
                record_files.step_event(
                    step, lr=[rate] * self.groups, micro=len(losses), max_norm=threshold,
                    at=1e9 + step,
                )
            )  # fmt: skip
            if windows and windows[0]["window"]["last"] == step:
                events.append(windows.pop(0))
            events.append(
                record_files.values_event(
                    step, losses, norm, inputs=[self.given(step, *batch) for batch in batches]
                )
            )
            for entry in parameters:
                name = entry["name"]
                if step == 0:
                    entry["gradient"] = self._print(gradients[name])
                    entry["clipped_norm"] = fingerprint(clipped[name]).norm
                if step < 2:
                    entry["after"].append(self._print(weights[name]))
                entry["final"] = self._print(weights[name])
                moments = {"exp_avg": states[name]["m"], "exp_avg_sq": states[name]["v"]}
                if step < 2:
                    kept = {n: self._print(m) for n, m in moments.items()}
                    entry.setdefault("state_after", []).append(kept)
                entry["counted"] = float(states[name]["step"])
                entry["state_final"] = {n: self._print(m) for n, m in moments.items()}
        return events, parameters

    def _print(self, array: Array) -> dict[str, Any]:
        return dataclasses.asdict(fingerprint(array, self.dtype))

    def _windows(self) -> list[record_files.Event]:
        """Steps 0 and 1 alone, then `window` steps each."""
        ends = [0, 1, *range(1 + self.window, self.steps - 1, self.window), self.steps - 1]
        ends = sorted({end for end in ends if end < self.steps})
        generator = np.random.default_rng([self.seed, 7])
        windows, first = [], 0
        for number, last in enumerate(ends):
            steps = last - first + 1
            seconds = self.seconds * steps * float(1 + 0.01 * generator.standard_normal())
            windows.append(
                record_files.window_event(
                    first, last, seconds, compilations=self.compilations(number),
                    fallbacks=self.fallbacks(number),
                )
            )  # fmt: skip
            first = last + 1
        return windows

    # --- Records ----------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """manifest.json of a run that ended well, but for steps that it did not train."""
        requested = self.steps if self.requested is None else self.requested
        case = Case(
            "toy", dtype=self.dtype, steps=requested, mesh={"fsdp": 4}, max_norm=self.max_norm,
            global_batch=ROWS * self.accumulation, accumulation=self.accumulation,
            data=Data(sequence_length=LENGTH), model=MODEL, sharding=SHARDING,
            optimizer=Optimizer(learning_rate=self.learning_rate, betas=list(self.betas),
                                eps=self.eps, weight_decay=self.weight_decay),
            schedule=Schedule(warmup_steps=self.warmup),
        )  # fmt: skip
        ended = {}
        if requested != self.steps:
            reason = f"it exited with 0, but trained {self.steps} of {requested} steps"
            ended = {"status": "stopped early", "reason": reason}
        engine = self.label.split("@")[0]
        observed = {**DEVICES, "known_answers": KNOWN_ANSWERS}
        started = next(STARTED)
        return manifests.raw(
            case, engine=engine, label=self.label, observed=observed, ended=ended,
            started=started, key=self.key or f"{started:012x}",
        )  # fmt: skip

    def write(self, folder: Path) -> Path:
        """Train, and write the Record into `folder` as the probe and the harness would."""
        return record_files.write(folder, *self._train(), self.manifest())

    def record(self) -> Record:
        """Train, and give back the Record in memory, under a folder's name of its own."""
        with tempfile.TemporaryDirectory() as folder, np.errstate(all="ignore"):
            return read_record(self.write(Path(folder)))


def total_norm(arrays: Arrays) -> float:
    """L2 norm over all arrays."""
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in arrays.values())))


def describe(tokens: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, Any]:
    """A batch as the probe describes it."""
    return {
        "tokens": _hash(tokens),
        "labels": _hash(labels),
        "mask": "",
        "rows": [_hash(*row) for row in zip(tokens, labels, strict=True)],
        "shape": list(tokens.shape),
        "targets": int((labels[:, 1:] != IGNORED).sum()),
        "first_targets": int((labels[:, 0] != IGNORED).sum()),
    }


def _hash(*arrays: NDArray[np.int64]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, np.int64).tobytes())
    return digest.hexdigest()[:16]


# --- comparing -------------------------------------------------------------------------------

TOLERANCE = load([]).tolerance
"""The tolerance that ships."""


def compiled_step(**fields: Any) -> ModuleGraph:
    """A compiled step."""
    gathered = Collective("all-gather", "f32[64]", "f32", 256, "", "aten__mm", 2)
    return ModuleGraph(
        **{
            "name": "step", "instructions": 9, "opcodes": {"dot": 2}, "collectives": (gathered,),
            "flops": 1000, "peak_memory_bytes": 4096, "parameters_bytes": 1024, "remat": 0,
            "xla_remat": 0, "unbounded_loops": 0, "custom_calls": {}, "fingerprint": "abc",
            **fields,
        }
    )  # fmt: skip


class CountsFirst(Trainer):
    """transformers from 4.46.2: the first label, which is never predicted, is counted too."""

    def batch(self, micro_step: int) -> Any:
        tokens, labels = super().batch(micro_step)
        labels[1:, 0] = tokens[1:, 0]
        return tokens, labels

    def divisor(self, batches: list[tuple[Any, Any]], index: int) -> float:
        return float(sum((labels != IGNORED).sum() for _, labels in batches))


class CountsRight(CountsFirst):
    """The same batches; only labels that are predicted are counted."""

    def divisor(self, batches: list[tuple[Any, Any]], index: int) -> float:
        return float(sum((labels[:, 1:] != IGNORED).sum() for _, labels in batches))


def tolerance(**changed: Any) -> Tolerance:
    """The tolerance that ships, with some of it changed."""
    return dataclasses.replace(TOLERANCE, **changed)


def comparison(a: Record, b: Record, **given: Any) -> Comparison:
    """A comparison under the tolerance that ships."""
    return Comparison(a, b, **{"tolerance": TOLERANCE, **given})


# --- changing evidence -----------------------------------------------------------------------


def with_manifest(run: Record, change: Callable[[dict[str, Any]], Any]) -> Record:
    """The Record with a changed copy of its manifest."""
    manifest = manifests.plain(run.manifest)
    change(manifest)
    return dataclasses.replace(run, manifest=manifests.parsed(manifest))


def as_training(run: Record, **fields: Any) -> Record:
    """The Record as `parity train` would have left it: its case is what the trainer was told."""
    case = run.case
    assert isinstance(case, Case)
    names = (field.name for field in dataclasses.fields(Shape))
    request = TrainingRequest(
        case.dtype, case.steps, case.global_batch, case.accumulation, case.max_norm, case.mesh,
        Shape(**{name: getattr(case.model, name) for name in names}),
        TrainingData(case.data.sequence_length),
    )  # fmt: skip
    requested = dataclasses.replace(request, **fields)
    return dataclasses.replace(run, manifest=dataclasses.replace(run.manifest, case=requested))


def imported(
    run: Record, assumed: tuple[str, ...] = (), findings: tuple[str, ...] = (), **rounding: float
) -> Record:
    """The Record, if it had been imported from what a trainer printed, with so many digits."""
    made = Imported(("a log",), rounding, assumed, findings)
    return dataclasses.replace(run, manifest=dataclasses.replace(run.manifest, imported=made))


def with_observed(run: Record, **observed: Any) -> Record:
    """The Record of a process of which something else was observed; None leaves it out."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["observed"] = {
            k: v for k, v in {**manifest["observed"], **observed}.items() if v is not None
        }

    return with_manifest(run, change)


def with_step(run: Record, index: int, /, **fields: Any) -> Record:
    """The Record with some fields of one step changed."""
    return _changed(run, "steps", index, fields)


def with_loss(run: Record, index: int, loss: float | None) -> Record:
    """The Record with another loss at one step."""
    return with_step(run, index, loss=loss, micro_losses=() if loss is None else (loss,))


def in_turns(a: Record, b: Record, launch: int = 0) -> tuple[Record, Record]:
    """Both as sides of one launch whose windows took turns."""
    x, y = (with_manifest(run, lambda m: m.update(turns=f"launch {launch}")) for run in (a, b))
    return x, y


def with_parameter(run: Record, index: int, /, **fields: Any) -> Record:
    """The Record with some fields of one parameter changed."""
    return _changed(run, "parameters", index, fields)


def with_window(run: Record, index: int, /, **fields: Any) -> Record:
    """The Record with some fields of one window changed."""
    return _changed(run, "windows", index, fields)


def without(run: Record, what: str, index: int) -> Record:
    """The Record without one of its steps, parameters, windows or groups."""
    left = list(getattr(run, what))
    del left[index]
    changed: dict[str, Any] = {what: tuple(left)}
    return dataclasses.replace(run, **changed)


def _changed(run: Record, what: str, index: int, fields: dict[str, Any]) -> Record:
    entries: list[Step | Parameter | Window] = list(getattr(run, what))
    entries[index] = dataclasses.replace(entries[index], **fields)
    changed: dict[str, Any] = {what: tuple(entries)}
    return dataclasses.replace(run, **changed)
