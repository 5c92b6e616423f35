"""Watches, and where asked replaces, the batches that a DataLoader yields on the host."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from harness.probe import hashing
from harness.probe.spec import Watch

IGNORED = -100
"""The label that takes no part in the loss, PyTorch's default `ignore_index`."""


class Rows:
    """Prepared rows, handed out in order, one micro-batch after the other.

    tokens, labels: int64 arrays [rows, sequence]
    others:         what else a model is given of them, by transformers' names: a mask, positions
    """

    def __init__(
        self, tokens: np.ndarray, labels: np.ndarray, others: dict[str, np.ndarray] | None = None
    ) -> None:
        self.tokens, self.labels, self.others = tokens, labels, dict(others or {})

    @staticmethod
    def read(path: Path) -> Rows:
        """The rows in an .npz file with `input_ids`, `labels`, and others."""
        with np.load(path) as arrays:
            named = {name: arrays[name] for name in arrays.files}
        return Rows(named.pop("input_ids"), named.pop("labels"), named)

    def batch(
        self, watch: Watch, index: int, size: int, rank: int = 0, ranks: int = 1
    ) -> dict[str, Any] | None:
        """The `index`-th micro-batch of `size` rows for this process; None after the last.

        With several processes (`ranks`), each loads its part of a batch of `size * ranks` rows.
        """
        start = (index * ranks + rank) * size
        if start + size > len(self.tokens):
            return None
        pick = slice(start, start + size)
        others = {watch.called(name): array for name, array in self.others.items()}
        arrays = {watch.tokens: self.tokens, watch.labels: self.labels, **others}
        return {name: torch.from_numpy(array[pick].copy()) for name, array in arrays.items()}


class Order:
    """Which prepared batch takes the place of which batch of the trainer's own.

    The first of the one is that of the other, and so on. In a run that was resumed, one that the
    run before it had takes the place that it had there: what a trainer skips, repeats or draws
    anew is skipped, repeated or drawn anew of what it is trained on.

    known: `identity` of each own batch of the run before, in order; empty where there was none
    """

    def __init__(self, watch: Watch, known: Sequence[str]) -> None:
        self._watch, self._known = watch, known
        self._next = 0

    def place(self, index: int, batch: dict[str, Any]) -> int:
        """The place of `batch`, the `index`-th that the trainer was given in this process."""
        if not self._known:
            return index
        own = identity(self._watch, batch)
        # A later epoch may have the very same batch: the next one is meant, if there is one.
        places = [place for place, known in enumerate(self._known) if known == own]
        found = next((place for place in places if place >= self._next), (*places, index)[0])
        self._next = found + 1
        return found


def identity(watch: Watch, batch: dict[str, Any]) -> str:
    """A hash of a batch's tokens, by which it is known again."""
    return _of_rows(_array(batch[watch.tokens]))


def describe(watch: Watch, batch: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `harness.record.evidence.Batch` for a batch of tensors [rows, sequence]."""
    tokens = _array(batch[watch.tokens])
    labels = _array(batch[watch.labels]) if batch.get(watch.labels) is not None else None
    mask = _array(batch[watch.mask]) if batch.get(watch.mask) is not None else None
    if mask is not None and (mask == 1).all():
        mask = None  # a mask that masks nothing is no mask
    rows = [
        hashing.of_array(row, *([] if labels is None else [labels[i]]))
        for i, row in enumerate(tokens)
    ]
    counted = np.zeros(1) if labels is None else labels != IGNORED
    return {
        "tokens": _of_rows(tokens),
        "labels": "" if labels is None else _of_rows(labels),
        "mask": "" if mask is None else _of_rows(mask),
        "rows": rows,
        "shape": list(tokens.shape),
        "targets": int(counted[..., 1:].sum()),
        "first_targets": int(counted[..., 0].sum()),
    }


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.cpu() if torch.is_tensor(tensor) else tensor, dtype=np.int64)


def _of_rows(array: np.ndarray) -> str:
    return hashing.of_rows(map(hashing.of_array, array))


def watch(
    keys: Watch,
    on_batch: Callable[[int, dict[str, Any], dict[str, Any]], None],
    replace: Callable[[int, dict[str, Any]], dict[str, Any] | None] | None = None,
) -> None:
    """Call `on_batch(index, batch, own)` for each batch with tokens that is trained on.

    Training has the dataset that such a batch first comes from: what a DataLoader over another one
    yields is for evaluation, and is left alone. The index counts over epochs; `own` is what the
    trainer's own loader yielded.
    `replace(index, batch)` may put another batch in its place, or end the data with None: loaders
    read ahead of the steps, and must not run into other rows.
    """
    original = DataLoader.__iter__
    indices = itertools.count()
    training: list[Any] = []  # the dataset, once it is known

    class Tap:
        def __init__(self, loader: DataLoader[Any], iterator: Iterator[Any]) -> None:
            self.dataset, self.iterator = loader.dataset, iterator

        def __iter__(self) -> Tap:
            return self

        def __next__(self) -> Any:
            batch = next(self.iterator)
            if not (hasattr(batch, "keys") and keys.tokens in batch):
                return batch
            if not training:
                training.append(self.dataset)
            if self.dataset is not training[0]:
                return batch
            index, own = next(indices), batch
            if replace is not None:
                replaced = replace(index, batch)
                if replaced is None:
                    raise StopIteration
                batch = replaced
            on_batch(index, batch, own)
            return batch

        def __getattr__(self, name: str) -> Any:
            return getattr(self.iterator, name)

    DataLoader.__iter__ = lambda self: Tap(self, original(self))  # type: ignore[method-assign]
