"""Functions that are named `module:name`, as in a Spec, and put under watch."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

Function = Callable[..., Any]


def wrap(names: Iterable[str], around: Callable[[Function], Function]) -> None:
    """Put `around(function)` in the place of each function that is named `module:name`.

    Every module that is loaded by then and holds the function, under whatever name, is given the
    new one: `from torch.nn.utils import clip_grad_norm_` may have been run already. A function
    with several names is wrapped once.

    Raises ImportError or AttributeError where there is none.
    """
    originals = {id(function): function for function in map(find, names)}
    replacements = {
        key: functools.wraps(original)(around(original)) for key, original in originals.items()
    }
    for module in list(sys.modules.values()):
        held = getattr(module, "__dict__", {})
        for name, value in list(held.items()):
            if id(value) in originals:
                held[name] = replacements[id(value)]


def find(text: str) -> Function:
    """The function that is named `module:name`. Raises ImportError or AttributeError."""
    place, _, name = text.partition(":")
    function: Function = getattr(importlib.import_module(place), name)
    return function
