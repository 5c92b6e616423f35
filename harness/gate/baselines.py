"""Stored baselines: Records as one JSON file each, small enough to be reviewed as text.

    baselines/<device kind>/<case>/<engine>-<version>.json          a run
    baselines/<device kind>/<case>/<engine>-<version>.perturbed.json  its noise floor: the same run
                                                                    from perturbed weights
    baselines/<device kind>/<case>/<engine>-<version>.repeat.json   the same run again, where it is
                                                                    needed (docs/tolerances.md)

A file holds what the ladder judges, and by whom, when and from what it was made; docs/gate.md
describes each field. It is the Record but for its log, its event files, and the paths and the name
of the machine that made it.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import math
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import __version__
from harness.base.dotted import dotted
from harness.base.errors import BadInput
from harness.base.files import write_text
from harness.base.typed import STRICT, Count, plain_json, typed_json
from harness.compiler.compiled import CompiledStep
from harness.record.evidence import Group, Manifest, Parameter, Python, Record, Step, Window
from harness.record.graph import ModuleGraph
from harness.record.reader import check_case, check_parameters
from harness.record.writer import encode
from harness.run.noise import NOT_MEASURED, Noise

SCHEMA = 1
PERTURBED, REPEAT = ".perturbed.json", ".repeat.json"


@dataclass(frozen=True)
class Blessed:
    """Who or what made a baseline, and when (UTC, ISO 8601)."""

    __pydantic_config__ = STRICT

    by: str
    at: str
    harness: str


@dataclass(frozen=True)
class Baseline:
    """A stored run, the runs that measure its noise, and its step as it was compiled for slices of
    TPUs, as far as there are such."""

    record: Record
    blessed: Blessed
    noise: Noise = NOT_MEASURED
    compiled: tuple[CompiledStep, ...] = ()


@dataclass(frozen=True)
class _File:
    """What a baseline's file holds."""

    __pydantic_config__ = STRICT

    schema: int
    blessed: Blessed
    manifest: Manifest
    groups: tuple[tuple[Count, str, tuple[Group, ...]], ...]
    steps: tuple[Step, ...]
    windows: tuple[Window, ...]
    parameters: tuple[Parameter, ...]
    graph: ModuleGraph | None = None
    compiled: tuple[CompiledStep, ...] = ()


def to_json(record: Record, blessed: Blessed, compiled: tuple[CompiledStep, ...] = ()) -> str:
    """The text of the file of a Record: one line for each step, window, parameter and slice that
    its step was compiled for.

    Raises BadInput for a Record that is no evidence of a good run, and for a step that does not
    compile.
    """
    _check(record)
    for step in compiled:
        if not step.compiles:
            raise BadInput(
                f"{record.label} was not compiled for {step.target}, which no baseline can hold: "
                f"{step.error or step.unknown}"
            )
    # What belongs to the machine that made it is left out.
    manifest = dataclasses.replace(
        record.manifest,
        command=None,
        host=None,
        interpreter=Python(record.manifest.interpreter.packages),
        ended=dataclasses.replace(record.ended, log=()),
    )
    value = _File(
        SCHEMA, blessed, manifest, record.groups, record.steps, record.windows, record.parameters,
        record.graph, compiled,
    )  # fmt: skip
    parts = encode(dataclasses.asdict(value))
    lines = ",\n".join(f"{json.dumps(key)}: {_lines(part)}" for key, part in parts.items())
    return f"{{\n{lines}\n}}\n"


def _lines(value: Any) -> str:
    """JSON with each entry on a line of its own, so that a change is a change of few lines."""
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(_compact(entry) for entry in value) + "\n]"
    if isinstance(value, dict) and value:
        entries = (f"{json.dumps(key)}: {_compact(value[key])}" for key in sorted(value))
        return "{\n" + ",\n".join(entries) + "\n}"
    return _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def from_json(text: str, path: Path) -> Baseline:
    """What `to_json` wrote, with `path` in place of the Record's folder.

    Raises BadInput for a file that is damaged, incomplete or of another schema.
    """
    try:
        raw = plain_json(text.encode())
    except BadInput as error:
        raise BadInput(f"The baseline {path} is damaged: {error}") from None
    found = raw.get("schema") if isinstance(raw, dict) else None
    if found != SCHEMA:
        raise BadInput(
            f"The baseline {path} has schema {found!r}, but this version of the harness reads "
            f"{SCHEMA}: make it again by `parity bless`"
        )
    try:
        file = typed_json(_File, text.encode())
        check_case(file.manifest)
        check_parameters(file.parameters)
        record = Record(
            path, file.manifest, file.steps, file.windows, file.parameters, file.groups, file.graph
        )
        _check(record)
    except BadInput as error:
        raise BadInput(f"The baseline {path} is damaged: {error}") from None
    return Baseline(record, file.blessed, compiled=file.compiled)


def _check(record: Record) -> None:
    """A baseline is a whole run: every step, every parameter, and every number finite."""
    if not record.complete:
        raise BadInput(
            f"{record.label} {record.ended.status} with {record.trained_steps} of "
            f"{record.requested_steps} steps: only a whole run can be a baseline"
        )
    if not record.parameters or not all(
        p.initial and p.final and math.isfinite(p.final.norm) for p in record.parameters
    ):
        raise BadInput(f"{record.label}: a parameter was not observed, or is not finite")
    if not all(step.loss is not None and math.isfinite(step.loss) for step in record.steps):
        raise BadInput(f"{record.label}: a loss is missing or not finite")


def version_of(record: Record) -> str:
    """What names the code of a run: its release, or its version and commit.

    Raises BadInput for code that nobody else can have.
    """
    origin = record.manifest.origin
    check_committed(record.label, origin.dirty)
    parts = [origin.version, origin.commit[:12] if origin.commit else None]
    version = "-".join(part for part in parts if part)
    if not version:
        raise BadInput(f"{record.label}: the version that trained is not known")
    return version


def check_committed(label: str, dirty: str | None) -> None:
    """Raise BadInput for code that nobody else can have, where `dirty` is a hash of it."""
    if dirty:
        raise BadInput(
            f"{label} is of changes that are in no commit, or of a wheel, so that nobody could "
            "make this baseline again: commit them, or name what it has to train like by --baseline"
        )


def folder(root: Path, record: Record) -> Path:
    """Where the baselines for the device kind and the case of a Record are."""
    kind = str(record.observed.device_kind)
    return root / _safe(kind) / _safe(record.case.name)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "unknown"


def save(
    root: Path, record: Record, noise: Noise, by: str, compiled: tuple[CompiledStep, ...] = ()
) -> Path:
    """Write a baseline; its file. Raises BadInput where the Record cannot be one."""
    blessed = Blessed(by, datetime.now(UTC).isoformat(timespec="seconds"), __version__)
    path = folder(root, record) / f"{_safe(f'{record.engine}-{version_of(record)}')}.json"
    texts = {path: to_json(record, blessed, compiled)}
    beside = {PERTURBED: noise.floor, REPEAT: noise.repeat}
    for suffix, pair in beside.items():
        if pair is not None and pair[1].complete:
            texts[_beside(path, suffix)] = to_json(pair[1], blessed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            write_text(file, text)
        for suffix in beside:
            if _beside(path, suffix) not in texts:
                _beside(path, suffix).unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"The baseline {path} cannot be written: {error}") from None
    return path


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name.removesuffix(".json") + suffix)


def load(path: Path) -> Baseline:
    """The baseline in a file. Raises BadInput where it cannot be read."""
    found = _read(path)
    files = (_beside(path, suffix) for suffix in (PERTURBED, REPEAT))
    pairs = [(found.record, _read(file).record) if file.is_file() else None for file in files]
    return dataclasses.replace(found, noise=Noise(*pairs))


def _read(path: Path) -> Baseline:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The baseline {path} cannot be read: {error}") from None
    return from_json(text, path)


def latest(root: Path, engine: str, case: str, kind: str | None = None) -> Baseline | None:
    """The baseline that was blessed last for an engine and a case, on a device kind or on any."""
    files = root.glob(f"{'*' if kind is None else _safe(kind)}/{_safe(case)}/{engine}-*.json")
    found = [load(path) for path in sorted(files) if not path.name.endswith((PERTURBED, REPEAT))]
    return max(found, key=lambda baseline: baseline.blessed.at, default=None)


def records_in(folders: Iterable[Path]) -> list[Record]:
    """The runs that are stored as baselines in these folders, wherever below. Raises BadInput."""
    files = [path for folder in folders for path in sorted(folder.glob("**/*.json"))]
    stored = [path for path in files if _is_baseline(path)]
    return [load(path).record for path in stored]


def _is_baseline(path: Path) -> bool:
    """Whether a file is one by what it begins with, as `to_json` writes it."""
    if path.name.endswith((PERTURBED, REPEAT)):
        return False
    with path.open("rb") as stream:
        return stream.read(32).startswith(b'{\n"schema": ')


def differences(baseline: Record, record: Record) -> list[str]:
    """What makes a baseline incomparable: another case, other data or other weights."""
    found = []
    stored, wanted = (dict(dotted(dataclasses.asdict(r.case))) for r in (baseline, record))
    for key in sorted((stored.keys() | wanted.keys()) - {"description"}):
        if stored.get(key) != wanted.get(key):
            found.append(f"case.{key} is {stored.get(key)} there, {wanted.get(key)} here")
    if not found and baseline.manifest.inputs != record.manifest.inputs:
        found.append("the prepared rows or weights are others")
    return found


def author(environ: Mapping[str, str] = os.environ) -> str:
    """Who or what makes a baseline: the run of GitHub Actions, git's user, or the user's name."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return f"{environ.get('GITHUB_ACTOR')} in run {environ.get('GITHUB_RUN_ID')}"
    try:
        named = subprocess.run(
            ["git", "config", "user.name"], capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:
        named = ""
    return named or getpass.getuser()
