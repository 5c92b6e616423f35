"""What the harness tells the probe about one run: the file behind `--spec`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.models.layout import Layout
from harness.models.router import Router


@dataclass(frozen=True)
class Fault:
    """A defect to seed into the run from outside the engine; see `harness.probe.faults`."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Watch:
    """What the probe has to know of a trainer. The defaults are those of most.

    Functions are written `module:name`.

    tokens, labels, mask: keys of a batch: token ids, their labels, and what is attended to
    clipping: functions that clip gradients: `f(parameters, max_norm, …)` returns their norm
    names_attention: whether its model is transformers' own, whose configuration names the attention
              implementation
    boundary: functions that send the pending work to an XLA device, once a step at least. Every
              step marker of torch_xla 2.9 (`xm.mark_step`, `torch_xla.compile`, the device
              loaders) goes through one function, under either of two names
    """

    tokens: str = "input_ids"
    labels: str = "labels"
    mask: str = "attention_mask"
    names_attention: bool = False
    clipping: tuple[str, ...] = ("torch.nn.utils:clip_grad_norm_",)
    boundary: tuple[str, ...] = ("torch_xla:sync", "torch_xla.torch_xla:sync")

    def called(self, name: str) -> str:
        """What the trainer calls a part of a batch, of which `name` is transformers' name."""
        return {
            "input_ids": self.tokens, "labels": self.labels, "attention_mask": self.mask
        }.get(name, name)  # fmt: skip


@dataclass(frozen=True)
class Saving:
    """What is watched, beside all else, of a run of a case that saves and resumes.

    after:  optimizer steps after which weights and the optimizer's state are fingerprinted: those
            that are saved; None where nothing is saved
    folder: what was saved, to be loaded as a user would once the script has returned; None for none
    order:  of a run that was resumed: hash of each batch of the trainer's own, in the order in
            which the run that saved had them. Prepared rows take the place of the same ones again
    """

    after: int | None = None
    folder: str | None = None
    order: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """How one run is to be watched, and what is to be made identical in it.

    steps:        optimizer steps that the case asks for
    micro_batch:  rows in one micro-batch over all processes
    window:       optimizer steps in one timing window after the two that compile
    eager:        the trainer computes in eager PyTorch, and not through torch_xla
    slices:       into so many slices devices are cut that are of none; 1 leaves them as they are
    precision:    matmul precision to be set; "default" leaves it as it is
    condition:    what device to compute like, of `harness.base.conditions`; None for none
    watch:        what the probe has to know of the trainer
    layouts:      parameters of its model that hold canonical ones in another layout
    router:       how its model sends each token to some of its experts; None where it has none
    rows:         .npz with `input_ids` and `labels`, each [rows, sequence], and what else a model
                  is given of them (`attention_mask`, `position_ids`); they replace what the
                  engine's DataLoader yields, in order. None leaves the engine's own batches
    inject:       Python file whose `inject` makes identical what the trainer's command line cannot
                  be asked for; None for none
    injected:     its arguments
    saving:       of a case that saves and resumes; None for any other
    save_initial: keep the initial weights and the first batch in the Record, for the float64
                  reference
    turns, side:  folder shared with another run, to run windows in turns with it, and which of the
                  two sides this one is
    scopes:       name the operations of the compiled graph after the modules they come from
    profile:      folder for a profile of one steady window, of a device that a profile shows
    accelerator_type: MODULE:FUNCTION of the trainer's interpreter that tells the machine's
                  accelerator type; None where the device has none
    stage:        number of devices to trace for, without values: nothing is executed
                  (`harness.probe.staging`); None for a run
    faults:       seeded defects
    """

    steps: int
    micro_batch: int
    window: int = 5
    eager: bool = False
    slices: int = 1
    precision: str = "default"
    condition: str | None = None
    watch: Watch = field(default_factory=Watch)
    layouts: tuple[Layout, ...] = ()
    router: Router | None = None
    rows: str | None = None
    inject: str | None = None
    injected: dict[str, Any] = field(default_factory=dict)
    saving: Saving | None = None
    save_initial: bool = False
    turns: str | None = None
    side: int = 0
    scopes: bool = False
    profile: str | None = None
    accelerator_type: str | None = None
    stage: int | None = None
    faults: tuple[Fault, ...] = ()

    def to_json(self) -> str:
        """The file's text; `from_json` reads it back."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Spec:
        """The Spec in `text`, as `to_json` writes it. Raises TypeError on an unknown key."""
        raw = json.loads(text)
        raw["faults"] = tuple(Fault(**fault) for fault in raw.get("faults", ()))
        raw["layouts"] = tuple(map(Layout.of, raw.get("layouts", ())))
        raw["router"] = Router.of(raw.get("router"))
        watch: dict[str, Any] = raw.get("watch", {})
        lists = {k: tuple(v) for k, v in watch.items() if isinstance(v, list)}
        raw["watch"] = Watch(**{**watch, **lists})
        if (saving := raw.get("saving")) is not None:
            raw["saving"] = Saving(**{**saving, "order": tuple(saving["order"])})
        return Spec(**raw)

    @staticmethod
    def read(path: Path) -> Spec:
        """The Spec in the file at `path`."""
        return Spec.from_json(path.read_text())
