"""Says what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.base.errors import BadInput
from harness.devices.tpu import tpu_chips, why_no_tpu
from harness.environments.interpreters import LOCK
from harness.environments.sources import cached, default_cache_dir, parse_source
from harness.run.plan import TORCHPRIME_DEFAULT, TORCHPRIME_DIR

NEEDED_DISK = 12e9
"""Bytes: the engine environment is 8 GB, and its packages are downloaded first."""


@dataclass(frozen=True)
class Finding:
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


def diagnose(console: Console, torchprime: str | None) -> int:
    """Print what was found; 0 where the CPU mesh can be used, else 2."""
    findings = list(examine(torchprime))
    table = Table("", "what", "state", "way out", box=None, show_edge=False)
    for finding in findings:
        mark = (
            "[green]ok[/]" if finding.good else ("[red]no[/]" if finding.needed else "[yellow]–[/]")
        )
        table.add_row(mark, finding.what, finding.state, finding.way_out)
    console.print(table)
    return 2 if any(f.needed and not f.good for f in findings) else 0


def examine(torchprime: str | None) -> Iterator[Finding]:
    """Look at this machine. Nothing is downloaded or launched."""
    cache = default_cache_dir()
    folder = next(p for p in (cache, *cache.parents) if p.exists())
    writable = os.access(folder, os.W_OK)
    yield Finding(
        "cache", writable, f"{cache}", "" if writable else "set PARITY_CACHE to a folder", True
    )
    made = _environment_made(cache)
    free = shutil.disk_usage(folder).free
    yield Finding(
        "engine environment",
        made or free > NEEDED_DISK,
        "made" if made else f"not made yet; {free / 1e9:.0f} GB are free",
        ""
        if made
        else "the first `parity run` makes it: 8 GB, minutes; or name an interpreter by "
        "engine.hf.python=…",
        True,
    )
    cores = os.cpu_count() or 1
    yield Finding(
        "processors", cores >= 2, str(cores), "" if cores >= 2 else "collectives may starve"
    )
    yield _torchprime(torchprime, cache)
    chips, reason = tpu_chips(), why_no_tpu()
    yield Finding("TPU", chips > 0, f"{chips} chips", reason or "")
    for tool, use in (("git", "sources by git URL"), ("docker", "launcher=docker")):
        path = shutil.which(tool)
        yield Finding(tool, path is not None, path or "not found", "" if path else f"for {use}")


def _environment_made(cache: Path) -> bool:
    return LOCK.is_file() and any((cache / "environments").glob("*/complete"))


def _torchprime(named: str | None, cache: Path) -> Finding:
    text = named or os.environ.get(TORCHPRIME_DIR)
    try:
        found = cached(parse_source(text or TORCHPRIME_DEFAULT, "torchprime"), cache)
    except BadInput as error:
        return Finding("torchprime", False, str(error))
    if found is None:
        return Finding(
            "torchprime",
            False,
            "no checkout is named or cached",
            f"--torchprime PATH, or {TORCHPRIME_DIR}=PATH, or let `parity run` clone it; without "
            "one, hf is compared with the reference",
        )
    return Finding("torchprime", True, found.description)


def engines_table(torchprime: str | None) -> Table:
    """The engines, what each trains with, and what is missing."""
    cache = default_cache_dir()
    made = _environment_made(cache)
    environment = "environment is made" if made else "environment is made by the first run"
    found = _torchprime(torchprime, cache)
    table = Table("engine", "trains with", "state", box=None)
    table.add_row("hf", "transformers' Trainer, full_shard FSDPv2", environment)
    table.add_row(
        "torchprime", "train.py of a checkout", found.state if found.good else found.way_out
    )
    table.add_row("reference", "plain PyTorch of this harness", environment)
    return table
