"""Which checkout an engine trains with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput
from harness.base.files import expanded
from harness.base.progress import Progress
from harness.engines.spec import EngineSpec, SourceSpec
from harness.environments import sources
from harness.environments.sources import Checkout, Source, parse_source, resolve


class MissingSource(BadInput):
    """No source of `engine` was named, and its default could not be had."""

    def __init__(self, engine: str, message: str) -> None:
        super().__init__(message)
        self.engine = engine


def named_source(spec: SourceSpec, option: str | None) -> str | None:
    """The source that the user names by the option or by the engine's variable."""
    return option or (os.environ.get(spec.variable) if spec.variable else None)


def checkout_of(
    engine: EngineSpec[Any], option: str | None, cache: Path, progress: Progress
) -> Checkout | None:
    """The source that is named, else the engine's default, from the cache if it is there.

    None where the engine trains with what its interpreter has installed.

    Raises:
        BadInput: the source that is named cannot be had; MissingSource where none is.
    """
    spec = engine.source
    if spec is None:
        return None
    if named := named_source(spec, option):
        return resolve(_parse(spec, named), cache, progress)
    if spec.default is None:
        return None
    default = parse_source(spec.default, spec.package)
    if (found := sources.cached(default, cache)) is not None:
        return found
    try:
        return resolve(default, cache, progress)
    except BadInput as error:
        raise MissingSource(
            engine.name,
            f"no {spec.package} checkout is named or cached, and none could be cloned: {error} "
            f"Name one by {spec.way_out}",
        ) from None


def cached_checkout(spec: SourceSpec, option: str | None, cache: Path) -> Checkout | None:
    """What `checkout_of` would find without the network. Raises BadInput for what cannot be."""
    text = named_source(spec, option) or spec.default
    return None if text is None else sources.cached(_parse(spec, text), cache)


def _parse(spec: SourceSpec, text: str) -> Source:
    folder = expanded(text)
    if spec.bare_folders and folder.is_dir():
        text = str(folder.resolve())
    return parse_source(text, spec.package)
