"""Remembers what Hydra has composed: it takes as long as all else of a verdict that is at hand.

A composition is a function of its files, its overrides and the engines' defaults, and is found by a
hash of all of them. One that asks for anything else, as `${oc.env:HOME}` does, is composed each
time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.base.files import write_text
from harness.environments.sources import default_cache_dir

VERSION = 2
"""Raise it where an override is refused that was composed before: what is found is not checked."""

KEPT = 256
"""Compositions that are kept, those that were made last."""

RESOLVER = re.compile(r"\$\{[^}]*:")
"""The beginning of a value that is computed by a function, and not copied from another key."""


def remembered(
    files: Iterable[Path],
    words: Sequence[str],
    defaults: Any,
    compose: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """What `compose` returns, which depends on these `files`, override `words` and `defaults`."""
    texts = {str(file): file.read_text() for file in files}
    if any(map(RESOLVER.search, (*texts.values(), *words))):
        return compose()
    releases = [importlib.metadata.version(name) for name in ("hydra-core", "omegaconf")]
    facts = json.dumps(
        [VERSION, texts, list(words), defaults, releases], sort_keys=True, default=repr
    )
    folder = default_cache_dir() / "configurations"
    memory = folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:24]}.json"
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(memory.read_text())
        return found
    raw = compose()
    text = json.dumps(raw)
    if json.loads(text) == raw:  # JSON has no keys that are numbers, and a NaN equals nothing
        with contextlib.suppress(OSError):  # it is only composed again
            folder.mkdir(parents=True, exist_ok=True)
            write_text(memory, text)
            _forget(folder)
    return raw


def _forget(folder: Path) -> None:
    """Remove what was made before the last `KEPT`."""
    made = sorted((file.stat().st_mtime, file) for file in folder.glob("*.json"))
    for _, file in made[:-KEPT]:
        file.unlink(missing_ok=True)
