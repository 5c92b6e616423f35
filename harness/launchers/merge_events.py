"""Puts the events of all hosts together: batches by rank, the slowest host's times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.probe import hashing

OF_STEP = {
    "step": ("micro", "lr", "max_norm"),
    "values": ("losses", "gradient_norm"),
}
"""Fields of a step's events that are the same on all hosts."""


@dataclass
class Disagreements:
    """What hosts disagree about, one line a kind: the first case of it, and how many more."""

    first: dict[str, str] = field(default_factory=dict)
    count: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, text: str) -> None:
        """Note one disagreement of a kind."""
        self.first.setdefault(kind, text)
        self.count[kind] += 1

    def lines(self) -> list[str]:
        """One line for each kind, in the order in which they were found."""
        return [
            text + (f" (and {self.count[kind] - 1} more)" if self.count[kind] > 1 else "")
            for kind, text in self.first.items()
        ]


@dataclass(frozen=True)
class Host:
    """One host: its process's rank, and what it left in its folder."""

    rank: int
    folder: Path
    observed: dict[str, Any]
    events: list[dict[str, Any]]

    def by_step(self, kind: str) -> dict[int, dict[str, Any]]:
        """Events of a kind by their step."""
        return {int(e["step"]): e for e in self.events if e["event"] == kind}

    @property
    def batches(self) -> dict[int, dict[str, Any]]:
        """Batches by their index."""
        return {int(e["index"]): e for e in self.events if e["event"] == "batch"}


def same(kind: str, text: str, values: Iterable[tuple[Host, Any]], found: Disagreements) -> None:
    """Note where a value is not the same on every host."""
    (first, expected), *others = values
    for host, value in others:
        if value != expected:
            found.add(
                kind,
                f"{text} is {_short(expected)} on host {first.rank} and {_short(value)} on host "
                f"{host.rank}",
            )
            return


def _short(value: Any) -> str:
    if isinstance(value, dict) and "bits" in value and "norm" in value:
        return f"a tensor of norm {value['norm']} (bits {value['bits']})"
    if isinstance(value, list) and len(value) == 1:
        return _short(value[0])
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "…"


def merge_events(
    hosts: Sequence[Host], micro_batch: int, found: Disagreements
) -> list[dict[str, Any]]:
    """The first host's events, with the batches and times of all, as far as all hosts came."""
    first, *others = hosts
    for kind, names in OF_STEP.items():
        tables = [host.by_step(kind) for host in hosts]
        for step in sorted(set().union(*tables)):
            for name in names:
                values = [
                    (host, table.get(step, {}).get(name))
                    for host, table in zip(hosts, tables, strict=True)
                ]
                label = name.replace("_", " ")
                same(f"{kind} {name}", f"step {step}: {label}", values, found)
    optimizers = [[e for e in host.events if e["event"] == "optimizer"] for host in hosts]
    same("optimizer", "the optimizer", zip(hosts, optimizers, strict=True), found)
    complete = set.intersection(*(set(host.by_step("values")) for host in hosts))
    events: list[dict[str, Any]] = []
    for event in first.events:
        if event["event"] == "batch":
            parts = [host.batches.get(int(event["index"])) for host in hosts]
            # Loaders read ahead, and not all hosts equally far. What was consumed and is missing
            # is missing from the merged Record as well, and does not pass for equal data.
            if all(part is not None for part in parts):
                joined = [part for part in parts if part is not None]
                events.append(_join_batches(joined, micro_batch, found))
        elif event["event"] == "window":
            window = _merge_windows(event["window"], others, found)
            if window is not None:
                events.append({**event, "window": window})
        elif event["event"] != "values" or int(event["step"]) in complete:
            events.append(event)
    return events


def whole(rows: Sequence[int], micro_batch: int) -> bool:
    """Whether every host loaded the whole micro-batch, rather than a part of it."""
    return all(count == micro_batch for count in rows)


def _join_batches(
    parts: Sequence[dict[str, Any]], micro_batch: int, found: Disagreements
) -> dict[str, Any]:
    """One batch from those of all hosts, in the order of their ranks."""
    index, rows = parts[0]["index"], [int(part["shape"][0]) for part in parts]
    if whole(rows, micro_batch):
        for rank, part in enumerate(parts):
            if part != parts[0]:
                found.add(
                    "batch",
                    f"batch {index}: hosts 0 and {rank} loaded other rows, each a whole "
                    f"micro-batch of {micro_batch}",
                )
        return parts[0]
    if sum(rows) != micro_batch:
        found.add(
            "rows",
            f"batch {index}: the hosts loaded {sum(rows)} rows together, the micro-batch has "
            f"{micro_batch}",
        )
    length = int(parts[0]["shape"][1])
    masks = [_mask(part) if any(p["mask"] for p in parts) else "" for part in parts]
    return {
        "event": "batch",
        "index": index,
        "tokens": hashing.joined([(p["tokens"], n) for p, n in zip(parts, rows, strict=True)]),
        "labels": hashing.joined([(p["labels"], n) for p, n in zip(parts, rows, strict=True)])
        if all(part["labels"] for part in parts)
        else "",
        "mask": hashing.joined(list(zip(masks, rows, strict=True))) if all(masks) else "",
        "rows": [row for part in parts for row in part["rows"]],
        "shape": [sum(rows), length],
        "targets": sum(int(part["targets"]) for part in parts),
        "first_targets": sum(int(part["first_targets"]) for part in parts),
    }


def _mask(part: dict[str, Any]) -> str:
    """The hash of a part's mask; one that masks nothing is recorded as none."""
    if part["mask"]:
        return str(part["mask"])
    rows, length = part["shape"]
    return hashing.of_rows([hashing.of_array(np.ones(length, np.int64))] * rows)


def _merge_windows(
    window: dict[str, Any], others: Sequence[Host], found: Disagreements
) -> dict[str, Any] | None:
    """The slowest host's time, and the largest of every count; None where a host has no such."""
    span = (window["first"], window["last"])
    all_of = [window]
    for host in others:
        same = [
            e["window"] for e in host.events
            if e["event"] == "window" and (e["window"]["first"], e["window"]["last"]) == span
        ]  # fmt: skip
        if not same:
            found.add("window", f"steps {span[0]} to {span[1]} were not timed on host {host.rank}")
            return None
        all_of.append(same[0])
        if same[0]["compilations"] != window["compilations"]:
            found.add(
                "compilations",
                f"steps {span[0]} to {span[1]}: {window['compilations']} compilations on host 0, "
                f"{same[0]['compilations']} on host {host.rank}",
            )
    counts = ("seconds", "cpu_seconds", "compilations", "executions", "transfers")
    names = {name for w in all_of for name in w["fallbacks"]}
    return {
        **{name: max(w[name] for w in all_of) for name in counts},
        "first": span[0],
        "last": span[1],
        "profiled": any(w.get("profiled", False) for w in all_of),
        "fallbacks": {n: max(w["fallbacks"].get(n, 0) for w in all_of) for n in sorted(names)},
    }
