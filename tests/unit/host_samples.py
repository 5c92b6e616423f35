"""What the hosts of one run leave behind, for the tests of their merging."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import manifests
import numpy as np
import record_files

from harness.config.case import Case
from harness.launchers.merge_hosts import merge_hosts
from harness.probe import hashing
from harness.record.evidence import Hosts, Record
from harness.record.layout import MANIFEST
from harness.record.reader import read_hosts, read_record
from harness.record.writer import write_json

ROWS, LENGTH, STEPS = 8, 6, 3
"""Rows of a micro-batch, tokens of a row, optimizer steps."""

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 100, (STEPS, ROWS, LENGTH))
LABELS = np.where(RNG.random((STEPS, ROWS, LENGTH)) < 0.2, -100, TOKENS)
MASKS = np.ones((STEPS, ROWS, LENGTH), np.int64)
MASKS[1, 5, 4:] = 0  # one row of the second batch is padded


def batch(index: int, rows: slice) -> dict[str, Any]:
    """What a host that loads these rows of a micro-batch observes."""
    tokens, labels, masks = TOKENS[index][rows], LABELS[index][rows], MASKS[index][rows]
    return {
        "event": "batch",
        "index": index,
        "tokens": hashing.of_rows(map(hashing.of_array, tokens)),
        "labels": hashing.of_rows(map(hashing.of_array, labels)),
        "mask": "" if masks.all() else hashing.of_rows(map(hashing.of_array, masks)),
        "rows": [hashing.of_array(*pair) for pair in zip(tokens, labels, strict=True)],
        "shape": list(tokens.shape),
        "targets": int((labels[:, 1:] != -100).sum()),
        "first_targets": int((labels[:, 0] != -100).sum()),
    }


def fingerprint(value: int) -> dict[str, Any]:
    return {"bits": value, "sketch": [0.5, value / 3], "norm": 1.5}


PARAMETER = {
    "name": "lm_head.weight",
    "shape": [4, 2],
    "dtype": "float32",
    "sharding": "{devices=[8,1]}",
    "group": 0,
    "initial": fingerprint(1),
    "gradient": fingerprint(2),
    "clipped_norm": 0.5,
    "after": [fingerprint(3), fingerprint(4)],
    "final": fingerprint(5),
}

OBSERVED = {
    "device": "TPU",
    "device_kind": "TPU v6e",
    "devices": 8,
    "processes": 2,
    "mesh": {"axes": {"fsdp": 8}, "device_order": list(range(8))},
    "versions": {"torch": "2.9.0", "torch_xla": "2.9.0"},
    "flags": {"LIBTPU_INIT_ARGS": "--a=1"},
    "input_sharding": "{devices=[8,1]}",
    "model": "LlamaForCausalLM",
    "script": {"returned": True},
}


@dataclasses.dataclass
class Host:
    """What one host leaves; a test changes it before it is written."""

    events: list[dict[str, Any]]
    observed: dict[str, Any]
    parameters: list[dict[str, Any]]
    log: str = "trained\n"
    code: int = 0

    def event(self, kind: str, step: int) -> dict[str, Any]:
        """The event of a kind for a step, to be changed."""
        return next(e for e in self.events if e["event"] == kind and e["step"] == step)

    def window(self, index: int = 0) -> dict[str, Any]:
        """A window, to be changed."""
        found = [e["window"] for e in self.events if e["event"] == "window"][index]
        assert isinstance(found, dict)
        return found


def hosts(count: int = 2, whole: bool = False) -> list[Host]:
    """A run on several hosts that agree. Each loads its part of a batch, or `whole` ones."""
    made = []
    size = ROWS // count
    for rank in range(count):
        rows = slice(None) if whole else slice(rank * size, (rank + 1) * size)
        groups = [{"hyper": {"eps": 1e-8}, "parameters": 1}]
        events = [batch(0, rows), batch(1, rows)]  # loaders read ahead
        events.append({"event": "optimizer", "step": 0, "name": "AdamW", "groups": groups})
        for step in range(STEPS):
            if step == 1:
                events.append(batch(2, rows))
            events += [
                record_files.step_event(step, lr=[0.1 / (step + 1)], at=1000.0 + rank),
                record_files.values_event(step, [5.5 - step], 2.0),
                record_files.window_event(
                    *(step, step, 1.0 + rank),
                    cpu_seconds=2.0 - rank / 8,
                    compilations=int(step < 2),
                    transfers=rank,
                    fallbacks={"aten::nonzero": rank} if rank else {},
                ),
            ]
        flags = {**OBSERVED["flags"], "TPU_WORKER_ID": str(rank), "TPU_WORKER_HOSTNAMES": "a,b"}  # type: ignore[dict-item]
        observed = {**OBSERVED, "processes": count, "process": rank, "flags": flags}
        made.append(Host(events, copy.deepcopy(observed), [copy.deepcopy(PARAMETER)]))
    return made


def write(root: Path, run: list[Host]) -> list[Path]:
    """The hosts' folders."""
    folders = []
    for index, host in enumerate(run):
        folder = root / f"host-{index}"
        record_files.write(folder, host.events, host.parameters, log=host.log)
        write_json(folder / "observed.json", host.observed)
        write_json(folder / "host.json", {"code": host.code})
        folders.append(folder)
    return folders


CASE = Case("llama-tiny", steps=STEPS, global_batch=ROWS)


def complete(folder: Path, observed: dict[str, Any], merged: Hosts | None) -> Record:
    """Write the manifest that the harness writes, and read the Record."""
    hosts = None if merged is None else dataclasses.asdict(merged)
    write_json(folder / MANIFEST, manifests.raw(CASE, key="k1", observed=observed, hosts=hosts))
    return read_record(folder)


def merge(root: Path, run: list[Host], expected: int | None = None) -> Record:
    """The merged Record."""
    merged = merge_hosts(write(root, run), root, ROWS, expected or len(run))
    assert read_hosts(root) == merged
    path = root / "observed.json"
    return complete(root, json.loads(path.read_text()) if path.is_file() else {}, merged)


# --- batches --------------------------------------------------------------------------------------


def records(root: Path, run: list[Host]) -> list[Path]:
    folders = write(root, run)
    for folder, host in zip(folders, run, strict=True):
        complete(folder, host.observed, None)
    return folders
