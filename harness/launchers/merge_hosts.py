"""Merges what every host of one run observed into one Record, and says where hosts disagree.

Under SPMD every host runs the same program on its part of the data: losses, gradient norms,
learning rates and parameters are the same on all of them, bit by bit. Where they are not, the run
is broken, however well the losses of one host look. Times are not the same: a step takes as long
as on its slowest host.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.base import files
from harness.base.errors import BadInput
from harness.base.typed import plain_json
from harness.environments.cache import in_one_piece
from harness.launchers.host import HOST_FILE
from harness.launchers.local import PER_HOST
from harness.launchers.merge_events import (
    Disagreements,
    Host,
    merge_events,
    plain,
    same,
    whole,
)
from harness.record import device_times, layout, reader, writer
from harness.record.checksums import write_checksums
from harness.record.evidence import Hosts, Observed, Record
from harness.record.termination import OK

OF_PROCESS = (
    "device", "device_kind", "accelerator_type", "matmul_precision", "products", "condition",
    "devices", "processes", "mesh", "versions", "flags", "input_sharding", "model",
    "attention", "autocast", "dropout", "recomputed", "taken_away", "known_answers",
)  # fmt: skip

OF_PARAMETER = (
    "shape", "dtype", "sharding", "group", "initial", "gradient", "clipped_norm", "after", "final",
    "clipped_by", "state_after", "state_final", "counted",
)  # fmt: skip

COPIED = (layout.PARAMETERS, layout.GRAPH, layout.INITIAL, layout.MODULES, layout.MODULE_FILES)
"""Files and folders that are the same on all hosts: the first host's are taken."""


def merge_hosts(folders: Sequence[Path], target: Path, micro_batch: int, expected: int) -> Hosts:
    """Merge what the hosts left in `folders` into `target`, and write hosts.json there.

    micro_batch: rows of a micro-batch over all hosts
    expected:    number of hosts that the run had

    Returns what the manifest says of hosts: their number, how many were expected, and the
    disagreements, each one line. Nothing that only some hosts have is merged: a step that one of
    them did not finish is not finished.
    """
    found = Disagreements()
    hosts = _read(folders, found)
    _write_log(folders, target)
    if hosts:
        try:
            _merge(hosts, target, micro_batch, found)
        except BadInput as error:
            found.add("damaged", str(error))
    if len(folders) != expected:
        found.add("count", f"{len(folders)} of {expected} hosts left a Record")
    merged = Hosts(len(folders), expected, tuple(found.lines()))
    writer.write_json(target / layout.HOSTS, plain(merged))
    return merged


def _merge(hosts: Sequence[Host], target: Path, micro_batch: int, found: Disagreements) -> None:
    _compare_processes(hosts, found)
    _compare_parameters(hosts, found)
    same("modules", "the modules of a step", [(h, _modules(h)) for h in hosts], found)
    events = merge_events(hosts, micro_batch, found)
    lines = [json.dumps(plain(event), allow_nan=False) for event in events]
    files.write_text(target / layout.STEPS, "".join(line + "\n" for line in lines))
    for name in COPIED:
        if (hosts[0].folder / name).is_dir():
            shutil.copytree(hosts[0].folder / name, target / name)
        elif (hosts[0].folder / name).is_file():
            shutil.copyfile(hosts[0].folder / name, target / name)
    _merge_first_batch(hosts, target, micro_batch)
    writer.write_json(target / layout.OBSERVED, plain(_merge_observed(hosts)))


def _read(folders: Sequence[Path], found: Disagreements) -> list[Host]:
    """The hosts that observed anything, by rank."""
    hosts = []
    for folder in folders:
        try:
            events = reader.read_events(folder / layout.STEPS)
            reader.merge(events)  # what is told twice, or contradicts itself, is damage
            observed = reader.read_observed(folder)
        except BadInput as error:
            found.add("damaged", f"{folder.name}: {error}")
            continue
        if observed.process is None:
            found.add("empty", f"{folder.name} ended before its first step")
            continue
        hosts.append(Host(observed.process, folder, observed, events))
    hosts.sort(key=lambda host: host.rank)
    ranks = [host.rank for host in hosts]
    if ranks != list(range(len(folders))):
        found.add("ranks", f"the hosts' processes are {ranks}, not 0 to {len(folders) - 1}")
    return hosts


def _compare_processes(hosts: Sequence[Host], found: Disagreements) -> None:
    for name in OF_PROCESS:
        values = [
            (h, _shared_flags(h) if name == "flags" else getattr(h.observed, name)) for h in hosts
        ]
        if name in ("versions", "flags"):
            for key in sorted({key for _, value in values for key in value or {}}):
                same(f"{name}.{key}", key, [(h, (v or {}).get(key)) for h, v in values], found)
        else:
            same(name, name.replace("_", " "), values, found)


def _shared_flags(host: Host) -> dict[str, str]:
    flags = host.observed.flags
    return {name: value for name, value in flags.items() if name not in PER_HOST}


def _compare_parameters(hosts: Sequence[Host], found: Disagreements) -> None:
    tables = []
    for host in hosts:
        path = host.folder / layout.PARAMETERS
        try:
            read = reader.read_parameters(path) if path.is_file() else ()
        except BadInput as error:
            found.add("parameters", f"host {host.rank}: {error}")
            return
        tables.append((host, {p.name: p for p in read}))
    for name in dict.fromkeys(name for _, table in tables for name in table):
        for what in OF_PARAMETER:
            values = [(host, getattr(table.get(name), what, None)) for host, table in tables]
            same(f"parameter {what}", f"{name}: {what.replace('_', ' ')}", values, found)


def _modules(host: Host) -> list[int] | None:
    """How often a step executes each of its modules; None where none are kept."""
    path = host.folder / layout.MODULES
    kept = plain_json(path.read_bytes()) if path.is_file() else {}
    return [module["executions"] for module in kept["step"]] if "step" in kept else None


def _merge_first_batch(hosts: Sequence[Host], target: Path, micro_batch: int) -> None:
    """The first batch, where the float64 reference starts: one for all, or parts put together."""
    paths = [host.folder / layout.FIRST_BATCH for host in hosts]
    if not all(path.is_file() for path in paths):
        return
    parts = [dict(np.load(path)) for path in paths]
    if whole([len(part["input_ids"]) for part in parts], micro_batch):
        parts = parts[:1]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    np.savez(target / layout.FIRST_BATCH, allow_pickle=False, **joined)


def _merge_observed(hosts: Sequence[Host]) -> Observed:
    scripts = [host.observed.script for host in hosts]
    bad = [script for script in scripts if script is None or not script.returned]
    return dataclasses.replace(
        hosts[0].observed,
        flags=_shared_flags(hosts[0]),
        script=bad[0] if bad else scripts[0],
    )


def _write_log(folders: Sequence[Path], target: Path) -> None:
    """Every host's log, those that failed last: their end tells why."""

    def failed(folder: Path) -> bool:
        path = folder / HOST_FILE
        return not path.is_file() or json.loads(path.read_text()).get("code") != 0

    with (target / layout.LOG).open("wb") as stream:
        for folder in sorted(folders, key=failed):
            stream.write(f"==> {folder.name} <==\n".encode())
            log = folder / layout.LOG
            if log.is_file():
                with log.open("rb") as source:
                    shutil.copyfileobj(source, stream)
            stream.write(b"\n")


def merge_records(folders: Sequence[Path], target: Path) -> Record:
    """Merge whole Records, one of each host of a pod slice, into a Record in `target`.

    Raises BadInput where a folder is no Record, they are not of one run, none of them has anything
    that could be merged, or `target` is there. Nothing is left in `target` then.
    """
    runs = [reader.read_record(folder) for folder in folders]
    runs.sort(key=lambda run: run.observed.process or 0)
    for run in runs[1:]:
        if run.manifest.key != runs[0].manifest.key:
            raise BadInput(
                f"{run.directory} is not of the same run as {runs[0].directory}: their keys are "
                f"{run.manifest.key} and {runs[0].manifest.key}"
            )
    if target.exists():
        raise BadInput(f"{target} is there already: name a folder that is not")
    expected = runs[0].observed.processes or len(runs)
    micro_batch = runs[0].case.micro_batch
    bad = [run for run in runs if run.ended.status != OK]
    with in_one_piece(target) as making:
        making.mkdir(parents=True)
        hosts = merge_hosts([run.directory for run in runs], making, micro_batch, expected)
        if not (making / layout.OBSERVED).is_file():
            raise BadInput(
                f"Nothing can be merged of {', '.join(str(run.directory) for run in runs)}: "
                f"{'; '.join(hosts.disagreements)}. Name the Records of hosts that trained: "
                f"each has an {layout.OBSERVED}"
            )
        times = {f"host-{n}": r.device_times for n, r in enumerate(runs) if r.device_times}
        if times:
            path = making / layout.DEVICE_TIMES
            writer.write_json(path, dataclasses.asdict(device_times.joined(times)))
        manifest = dataclasses.replace(
            runs[0].manifest,
            hosts=hosts,
            profile=next((r.manifest.profile for r in runs if r.manifest.profile), None),
            observed=reader.read_observed(making),
            ended=(bad or runs)[0].ended,
        )
        writer.write_json(making / layout.MANIFEST, plain(manifest))
        write_checksums(making)
        merged = reader.read_record(making)
    return dataclasses.replace(merged, directory=target)
