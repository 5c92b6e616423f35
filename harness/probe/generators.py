"""States of the random number generators that training may draw from."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

from harness.probe.runtime import Runtime

DIGITS = 16
"""Hexadecimal digits that are kept of a SHA-256: 64 bits."""


def states(runtime: Runtime) -> dict[str, str]:
    """By name of the generator a hash of its state; the device's own, a number, as it is."""
    name, numbers, *place = np.random.get_state(legacy=True)
    found = {
        "python": _hash(repr(random.getstate()).encode()),
        "numpy": _hash(repr((name, place)).encode() + np.asarray(numbers).tobytes()),
        "torch": _hash(torch.random.get_rng_state().numpy().tobytes()),
    }
    own = runtime.generator()
    return found if own is None else {**found, "device": own}


def _hash(state: bytes) -> str:
    return hashlib.sha256(state).hexdigest()[:DIGITS]
