"""What the harness tells the probe about one run: the file behind `--spec`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Fault:
    """A defect to seed into the run from outside the engine; see `harness.probe.faults`."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """How one run is to be watched, and what is to be made identical in it.

    engine:       whose adapter injects what cannot be asked for on the command line
    steps:        optimizer steps that the case asks for
    micro_batch:  rows in one micro-batch over all processes
    window:       optimizer steps in one timing window after the two that compile
    device:       "xla", or "cpu" for a trainer in eager PyTorch
    dtype:        dtype of the parameters, a torch name such as "float32"; None leaves the engine's
    rows:         .npz with `input_ids` and `labels`, each [rows, sequence]; they replace what the
                  engine's DataLoader yields, in order. None leaves the engine's own batches
    weights:      safetensors file of initial weights under Hugging Face names, for engines whose
                  command line takes none
    mesh:         sizes of the mesh axes by name, where the engine's own mesh is to be replaced
    sharding:     partition spec by parameter pattern (`*` is a layer number), where the engine
                  takes none from its command line
    einsum_linear: torch_xla's einsum lowering on the engine's plain `nn.Linear` modules
    save_initial: keep the initial weights and the first batch in the Record, for the arbiter
    turns, side:  folder shared with another run, to run windows in turns with it, and which of the
                  two sides this one is
    scopes:       name the operations of the compiled graph after the modules they come from
    profile:      folder for a profile of one steady window, on a TPU
    faults:       seeded defects
    """

    engine: str
    steps: int
    micro_batch: int
    window: int = 5
    device: str = "xla"
    dtype: str | None = None
    rows: str | None = None
    weights: str | None = None
    mesh: dict[str, int] | None = None
    sharding: dict[str, list[Any]] | None = None
    einsum_linear: bool = False
    save_initial: bool = False
    turns: str | None = None
    side: int = 0
    scopes: bool = False
    profile: str | None = None
    faults: tuple[Fault, ...] = ()

    def to_json(self) -> str:
        """The file's text; `from_json` reads it back."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Spec:
        """The Spec in `text`, as `to_json` writes it. Raises TypeError on an unknown key."""
        raw = json.loads(text)
        raw["faults"] = tuple(Fault(**fault) for fault in raw.get("faults", ()))
        return Spec(**raw)

    @staticmethod
    def read(path: Path) -> Spec:
        """The Spec in the file at `path`."""
        return Spec.from_json(path.read_text())
