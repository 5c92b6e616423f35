"""Functions that are named `module:name`, as in a Spec, and put under watch."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any

Function = Callable[..., Any]


def wrap(names: Iterable[str], around: Callable[[Function], Function]) -> None:
    """Put `around(function)` in the place of each function that is named `module:name`.

    Raises ImportError or AttributeError where there is none.
    """
    for text in names:
        place, _, name = text.partition(":")
        module = importlib.import_module(place)
        original = getattr(module, name)
        setattr(module, name, functools.wraps(original)(around(original)))
