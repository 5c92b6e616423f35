"""Nested plain values by dotted keys, as they are written on a command line."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any


def dotted(
    values: Mapping[str, Any], whole: Container[str] = (), prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping, with its key; an empty mapping is a value.

    whole: keys whose values are not taken apart

    >>> dict(dotted({"steps": 3, "mesh": {"fsdp": 4}, "dcn": {}}))
    {'steps': 3, 'mesh.fsdp': 4, 'dcn': {}}
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and value and key not in whole:
            yield from dotted(value, whole, f"{prefix}{key}.")
        else:
            yield prefix + key, value
