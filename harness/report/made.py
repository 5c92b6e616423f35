"""How a verdict was made: by which command, when, and out of which runs with which versions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from harness import __version__
from harness.base.secrets import public_argv
from harness.record.evidence import Record

MANIFEST_PACKAGES = (
    "torch", "torch_xla", "libtpu", "jax", "transformers", "torchprime", "accelerate", "datasets",
    "numpy",
)  # fmt: skip
"""Whose versions are told, beside what the probe saw in the process itself."""


@dataclass(frozen=True)
class Made:
    """How a verdict was made.

    command: what reproduces it, in a shell; without passwords
    date:    when, in ISO 8601, UTC
    harness: version of the harness
    """

    command: str
    date: str
    harness: str = __version__


def made_by(program: str, arguments: Sequence[str], now: datetime | None = None) -> Made:
    """A verdict that `program` makes now.

    >>> made_by("parity", ["run", "case=a b"], datetime(2025, 2, 1, tzinfo=UTC)).command
    "parity run 'case=a b'"
    """
    when = datetime.now(UTC) if now is None else now
    return Made(shlex.join([program, *public_argv(arguments)]), iso(when.timestamp()))


def iso(seconds: float) -> str:
    """Seconds since 1970 in ISO 8601, to the second, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions(record: Record) -> dict[str, str]:
    """Versions of what a run was made of, by package; "python" is the interpreter's."""
    installed = {
        name.replace("-", "_"): v for name, v in record.manifest.interpreter.packages.items()
    }
    named = {name: installed[name] for name in MANIFEST_PACKAGES if name in installed}
    return dict(sorted({**named, **record.observed.versions}.items()))


def source(record: Record) -> str:
    """What a run was trained with, in a few words: release or commit, and whether it is changed."""
    origin = record.manifest.origin
    text = origin.description or origin.commit or origin.version or ""
    return (
        f"{text}, with uncommitted changes" if origin.dirty and "uncommitted" not in text else text
    )


def run_facts(record: Record) -> dict[str, object]:
    """One run as verdict.json has it."""
    seen, manifest = record.observed, record.manifest
    return {
        "record": str(record.directory),
        "label": record.label,
        "engine": record.engine,
        "role": manifest.role,
        "key": manifest.key,
        "started": iso(manifest.started),
        "source": source(record),
        "commit": manifest.origin.commit,
        "dirty": manifest.origin.dirty,
        "versions": versions(record),
        "device_kind": seen.device_kind,
        "devices": seen.devices,
        "ended": record.ended.status,
        "steps": record.trained_steps,
    }


def run_list(records: Mapping[str, Record]) -> list[dict[str, object]]:
    """All runs, in the order of their folders."""
    return [run_facts(records[folder]) for folder in sorted(records)]
