"""A run held against its own case: what the case says, the run has to have done.

Two runs that are wrong alike agree with each other. Each function gives the findings of one run, in
the terms of one rung, and none where the run did as its case says. What a case leaves open is not
judged, and neither is a `TrainingRequest` of `parity train`, which repeats what its trainer was
given.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence

from harness.base.errors import BadInput
from harness.config.case import Case
from harness.ladder.distances import exceeds, relative_difference
from harness.ladder.result import Finding
from harness.record.evidence import Group, Record

MOST_FINDINGS = 8
"""Findings of one kind that are listed by themselves; the first says how many there are."""

Tiles = Mapping[tuple[int, ...], frozenset[int]]
"""Which devices hold each tile of a tensor, by the tile's place in the grid of tiles."""


def parameters(record: Record) -> list[Finding]:
    """Where the parameters of a run, or their shapes, are not those of its model."""
    case = record.case
    if not isinstance(case, Case):
        return []
    expected = case.parameter_shapes()
    found = {p.name: tuple(p.shape) for p in record.parameters}
    findings = [
        Finding(f"{name}: {record.label} lacks this parameter of the case's model", None, name,
                None, list(shape), kind="missing parameter")
        for name, shape in expected.items()
        if name not in found
    ]  # fmt: skip
    for name, shape in found.items():
        expected_shape = expected.get(name)
        if expected_shape is None:
            text = f"{name}: {record.label} trains this parameter, the case's model has none such"
            findings.append(Finding(text, None, name, list(shape), kind="unknown parameter"))
        elif shape != expected_shape:
            text = f"{name}: its shape is {list(shape)} in {record.label}, "
            text += f"but {list(expected_shape)} in the case's model"
            findings.append(
                Finding(text, None, name, list(shape), list(expected_shape), kind="shape")
            )
    return findings[:MOST_FINDINGS]


def partition(record: Record) -> list[Finding]:
    """Where parameters or input tokens do not lie on the devices as the case's table says.

    Only of aligned cases: as shipped, a trainer partitions by a table of its own.
    """
    case, mesh = record.case, record.observed.mesh
    if not isinstance(case, Case) or not case.aligned or mesh is None:
        return []
    devices = tuple(mesh.device_order)
    findings = []
    found = record.observed.devices
    # A staged run traces for more devices than its process has.
    if found is not None and found != case.devices and not record.staged:
        text = f"{record.label} trains on {found} devices, but the case's mesh has {case.devices}"
        findings.append(Finding(text, None, None, found, case.devices, kind="devices"))
    shapes = case.parameter_shapes()
    for parameter in record.parameters:
        if parameter.name not in shapes:
            continue  # `parameters` says so
        spec = case.parameter_spec(parameter.name)
        if spec is None or len(spec) != len(shapes[parameter.name]):
            raise BadInput(f"case.sharding does not say how {parameter.name} is cut, but {spec}")
        if tiles_of(parameter.sharding, len(spec), devices) != tiles(spec, case.axes, devices):
            text = f"{parameter.name}: {record.label} partitions it as "
            text += f"{parameter.sharding or 'nothing'}, but the case's table says {spec}"
            findings.append(
                Finding(text, None, parameter.name, parameter.sharding, spec, kind="partition")
            )
    rows = [axis for axis in ("data", "fsdp") if axis in case.mesh]
    inputs = record.observed.input_sharding
    expected: list[str | list[str] | None] = [rows, None]
    if inputs is not None and tiles_of(inputs, 2, devices) != tiles(expected, case.axes, devices):
        text = f"input tokens: {record.label} shards them {inputs or 'not at all'}, but the case's "
        text += f"mesh cuts their rows by {' and '.join(rows)}"
        findings.append(Finding(text, None, None, inputs, expected, kind="input partition"))
    return findings[:MOST_FINDINGS]


def tiles(
    spec: Sequence[str | list[str] | None], mesh: Mapping[str, int], devices: Sequence[int]
) -> Tiles:
    """The tiles that a partition spec asks for: for each dimension None, an axis, or several.

    devices: ids of the mesh's devices, its last axis varying fastest

    Raises BadInput for an axis that the mesh has not, as a damaged Record may name one.
    """
    cut = [[] if axes is None else [axes] if isinstance(axes, str) else axes for axes in spec]
    if unknown := [axis for axes in cut for axis in axes if axis not in mesh]:
        raise BadInput(f"case.sharding names the axis {unknown[0]!r}, which case.mesh has not")
    sizes = list(mesh.values())
    held: dict[tuple[int, ...], set[int]] = {}
    for place, device in zip(
        itertools.product(*(range(size) for size in sizes)), devices, strict=False
    ):
        at = dict(zip(mesh, place, strict=True))
        tile = []
        for axes in cut:
            index = 0
            for axis in axes:
                index = index * mesh[axis] + at[axis]
            tile.append(index)
        held.setdefault(tuple(tile), set()).add(device)
    return {tile: frozenset(ids) for tile, ids in held.items()}


_TILED = re.compile(
    r"\{devices=\[(?P<grid>[\d,]+)\](?P<ids>[\d,]+)(?P<rest> last_tile_dim_replicate)?\}"
)


def tiles_of(annotation: str, dimensions: int, devices: Sequence[int]) -> Tiles | None:
    """The tiles of a sharding annotation as torch_xla prints it; None for one that is not known.

    {devices=[2,1,2]0,1,2,3 last_tile_dim_replicate} cuts the first of two dimensions in halves,
    and each half lies on two devices.
    """
    whole = {(0,) * dimensions: frozenset(devices)}
    if annotation in ("", "{replicated}"):
        return whole
    found = _TILED.fullmatch(annotation)
    if found is None:
        return None
    grid = [int(size) for size in found["grid"].split(",")]
    ids = [int(device) for device in found["ids"].split(",")]
    if math.prod(grid) != len(ids) or len(grid) != dimensions + (found["rest"] is not None):
        return None
    held: dict[tuple[int, ...], set[int]] = {}
    for place, device in zip(itertools.product(*map(range, grid)), ids, strict=True):
        held.setdefault(place[:dimensions], set()).add(device)
    return {tile: frozenset(devices) for tile, devices in held.items()}


def optimizer(record: Record) -> list[Finding]:
    """Where the optimizer's class or hyper-parameters are not those of the case, at any step.

    Weight decay is asked of tensors of two and more dimensions; whether norms and biases decay is
    left to the trainer. What the case says and the optimizer does not is a finding as well.
    """
    case = record.case
    if not isinstance(case, Case):
        return []
    findings = [
        Finding(f"{p.name}: no optimizer of {record.label} holds it", None, p.name)
        for p in record.parameters
        if p.group is None and p.name in case.parameter_shapes()
    ]
    for step, name, groups in record.groups:
        kind = name.rsplit(".", 1)[-1]
        if kind.lower() != case.optimizer.name:
            text = f"step {step}: {record.label} trains with {kind}, but the case asks for "
            findings.append(Finding(text + case.optimizer.name, step, None, kind,
                                    case.optimizer.name))  # fmt: skip
            continue
        for index, group in enumerate(groups):
            decays = any(p.group == index and len(p.shape) > 1 for p in record.parameters)
            findings += _hyper(record, case, step, group, decays)
    return findings[:MOST_FINDINGS]


def _hyper(record: Record, case: Case, step: int, group: Group, decays: bool) -> list[Finding]:
    expected = case.optimizer
    hyper: dict[str, object] = {"weight_decay": expected.weight_decay} if decays else {}
    if expected.name == "adamw":
        hyper |= {"betas": list(expected.betas), "eps": expected.eps}
        # An AdamW that is not torch's own knows no such variants.
        variants = {"amsgrad": False, "maximize": False, "decoupled_weight_decay": True}
        hyper |= {k: value for k, value in variants.items() if k in group.hyper}
    findings = []
    for key, value in hyper.items():
        found = group.hyper.get(key, "nothing")
        if (list(found) if isinstance(found, tuple) else found) != value:
            text = f"step {step}: {key} is {found} in {record.label}, but the case asks for {value}"
            findings.append(Finding(text, step, None, found, value))
    return findings


def checkpointing(record: Record) -> list[Finding]:
    """Where layers are recomputed in the backward pass otherwise than the case asks.

    By what was seen of step 0, and by the barriers of the compiled step where that was dumped:
    without one, XLA takes what is computed twice for what was computed already. (More of them show
    nothing: FSDPv2 puts one around each layer's backward pass, recomputed or not.)
    """
    case, seen = record.case, record.observed.recomputed
    if not isinstance(case, Case) or seen is None:
        return []
    layers = case.model.layers if case.model.remat else 0
    requested = f"the case asks for {'all of ' + str(layers) if layers else 'none'}"
    findings = []
    count = sum(seen.values())
    if count < layers or (count and not layers):
        text = f"{record.label} recomputes {count or 'no'} layers in the backward pass, {requested}"
        findings.append(Finding(text, 0, None, count, layers, kind="recomputed layers"))
    barriers = None if record.graph is None else record.graph.remat
    if barriers == 0 and layers:
        text = f"{record.label}'s compiled step recomputes no blocks, {requested}"
        findings.append(Finding(text, 0, None, barriers, layers, kind="recomputed blocks"))
    return findings


def counted_updates(record: Record) -> list[Finding]:
    """Parameters of which the optimizer itself has counted other updates than there were steps.

    One that began anew, or left some out, also where another run did the same.
    """
    if not isinstance(record.case, Case):
        return []
    findings = []
    for parameter in record.parameters:
        found, steps = parameter.counted, record.trained_steps
        if found is not None and parameter.group is not None and found != steps:
            text = f"{parameter.name}: the optimizer of {record.label} has counted {found:g} "
            text += f"updates in {steps} steps"
            findings.append(Finding(text, None, parameter.name, found, steps))
    return findings[:MOST_FINDINGS]


DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}
"""Share of the peak learning rate after the warm-up, by schedule and progress from 0 to 1."""


def learning_rate(case: Case, step: int) -> float:
    """The rate that 0-based `step` uses by the case: linear warm-up from 0, then the decay.

    Raises BadInput for a schedule that is not known, as a damaged Record may name one.
    """
    if case.schedule.name not in DECAYS:
        known = ", ".join(DECAYS)
        raise BadInput(f"case.schedule.name={case.schedule.name!r}: it is none of {known}")
    peak, warmup = case.optimizer.learning_rate, case.schedule.warmup_steps
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, case.steps - warmup)
    return peak * DECAYS[case.schedule.name](progress)


def schedule(record: Record, limit: float) -> list[Finding]:
    """Steps whose learning rate is not the one of the case's schedule, for any group.

    limit: relative difference that counts as none
    """
    case = record.case
    if not isinstance(case, Case):
        return []
    findings = []
    for step in record.steps:
        if not step.finished:
            continue
        expected = learning_rate(case, step.index)
        for rate in step.learning_rates:
            if exceeds(relative_difference(rate, expected), limit):
                text = f"step {step.index}: {record.label} used a learning rate of {rate:g}, but "
                text += f"the case's schedule says {expected:g}"
                findings.append(Finding(text, step.index, None, rate, expected))
                break
    return findings[:MOST_FINDINGS]
