"""`parity doctor`: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from harness.base.errors import BadInput
from harness.base.processors import processors
from harness.cli.listing import print_list
from harness.cli.options import Overrides, Torchprime, overrides_of

if TYPE_CHECKING:
    from harness.config.settings import EngineOptions
    from harness.engines.spec import EngineSpec

NEEDED_DISK = 12e9
"""Bytes: the engine environment is 8 GB, and its packages are downloaded first."""


@dataclass(frozen=True)
class Check:
    """One thing that a session needs or can use.

    good:     whether it is there
    needed:   whether nothing works without it
    way_out:  how to get it, where it is not there
    """

    what: str
    good: bool
    state: str
    way_out: str = ""
    needed: bool = False


def doctor(overrides: Overrides = None, torchprime: Torchprime = None) -> None:
    """Check this machine: interpreter, devices, sources, and how to get what is missing.

    Exits with 2 where a session on the CPU mesh would not work.
    """
    from harness.config.compose import load

    findings = list(examine(load(overrides_of(overrides, torchprime)).engine))
    for finding in findings:
        word, style = _mark(finding)
        print_list([(f"{word} {finding.what}", (finding.state, finding.way_out))], style)
    raise typer.Exit(2 if any(f.needed and not f.good for f in findings) else 0)


def _mark(finding: Check) -> tuple[str, str]:
    """A word for the state of a finding, and its colour."""
    if finding.good:
        return "ok", "green"
    return ("no", "red") if finding.needed else ("–", "yellow")


def examine(options: Mapping[str, EngineOptions]) -> Iterator[Check]:
    """Examine this machine. Nothing is downloaded or launched.

    options: how each engine would be run, by its name: its source may be named there
    """
    from harness.devices.device import devices
    from harness.engines.spec import engines
    from harness.environments.sources import default_cache_dir

    cache = default_cache_dir()
    folder = next(p for p in (cache, *cache.parents) if p.exists())
    writable = os.access(folder, os.W_OK)
    yield Check(
        "cache", writable, f"{cache}", "" if writable else "set PARITY_CACHE to a folder", True
    )
    made = environment_is_made(cache)
    free = shutil.disk_usage(folder).free
    yield Check(
        "engine environment",
        made or free > NEEDED_DISK,
        "made" if made else f"not made yet; {free / 1e9:.0f} GB are free",
        ""
        if made
        else "the first `parity run` makes it: 8 GB, minutes; or name an interpreter by "
        "engine.hf.python=…",
        True,
    )
    cores = processors()
    yield Check(
        "processors", cores >= 2, str(cores), "" if cores >= 2 else "collectives may starve"
    )
    for engine in engines():
        if engine.source is not None and engine.source.default is not None:
            yield source_finding(engine, options[engine.name], cache)
    for found in devices():
        reason = found.missing()
        count = found.count and found.count()
        number = (
            "as many as asked for"
            if found.count is None
            else "unknown"
            if count is None
            else str(count)
        )
        state = f"{number}; float32 products in {found.matmul_precision}"
        yield Check(found.title, reason is None, state, reason or "")
    for tool, use in (("git", "sources by git URL"), ("docker", "launcher=docker")):
        path = shutil.which(tool)
        yield Check(tool, path is not None, path or "not found", "" if path else f"for {use}")


def environment_is_made(cache: Path) -> bool:
    """Whether the engines' environment is in the cache."""
    from harness.environments.interpreters import LOCK

    return LOCK.is_file() and any((cache / "environments").glob("*/complete"))


def source_finding(engine: EngineSpec[Any], options: Any, cache: Path) -> Check:
    """The checkout that a session with `engine` would use; it has a `source`, and so options of
    `TrainerOptions`."""
    from harness.engines.sources import cached_checkout

    spec = engine.source
    assert spec is not None
    try:
        found = cached_checkout(spec, options.source, cache)
    except BadInput as error:
        return Check(engine.name, False, str(error))
    if found is not None:
        return Check(engine.name, True, found.description)
    stand_in = engine.stand_in
    without = "" if stand_in is None else f"; without one, the {stand_in} takes its place"
    way_out = f"{spec.way_out}, or let `parity run` clone it{without}"
    return Check(engine.name, False, "no checkout is named or cached", way_out)
