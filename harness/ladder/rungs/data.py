"""The rung of data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from harness.config.case import ALIGNED
from harness.ladder.comparison import Comparison
from harness.ladder.result import Finding, RungResult
from harness.ladder.rung import Rung
from harness.ladder.same_work import skipped_updates
from harness.record.evidence import Record, Step

TOKENS = "tokens"
LOADED = (TOKENS, "labels", "mask")
"""What a model is given and a loader yields, by the names of a Batch."""


def data(c: Comparison) -> RungResult:
    """Tokens, labels and masks of every batch, in the same order."""
    name_a, name_b = c.names
    finished = [
        {step.index: step for step in record.steps if step.finished} for record in (c.a, c.b)
    ]
    for name, steps in zip(c.names, finished, strict=True):
        if not any(step.batches for step in steps.values()):
            return RungResult.invalid("data", f"{name}: no batch was observed")
    left, right = finished
    common = [(left[index], right[index]) for index in sorted(left.keys() & right.keys())]
    for pair in common:
        for name, step in zip(c.names, pair, strict=True):
            if unknown := _unobserved_batches(name, step):
                return RungResult.invalid("data", unknown)
    given = _compare_given(c, common)
    otherwise = cut_otherwise(c)
    compare = _compare_rows if otherwise else _compare_batches
    findings = [
        finding for x, y in common if (finding := compare(x, y, name_a, name_b)) is not None
    ]
    if findings:
        findings.insert(0, _overview(c, *zip(*common, strict=True)))
    findings = given + findings
    skipped = [f for r in (c.a, c.b) for f in _skipped_updates(r)]
    findings = skipped + findings
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        findings += _other_batches_than_expected(name, record)
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        missing, expected = record.first_missing_step, record.requested_steps
        if missing is not None:
            trained = sum(step.finished and step.index < expected for step in record.steps)
            text = f"{name} trained {trained} of {expected} steps, not step {missing}"
            findings.append(Finding(text, missing))
    for index in sorted(left.keys() ^ right.keys()):
        has, lacks = (name_a, name_b) if index in left else (name_b, name_a)
        findings.append(Finding(f"step {index}: {has} has it, {lacks} does not", index))
    count = sum(len(step.batches) for step in left.values())
    text = f"{count} batches with equal tokens, labels and masks{_beside(c)}"
    if otherwise:
        parts = " and ".join(f"{r.case.accumulation} in {r.label}" for r in (c.a, c.b))
        text = f"{len(common)} steps of equal tokens and labels, cut into micro-batches ({parts})"
        text += _beside(c)
    return RungResult.identity("data", tuple(findings), text)


def _unobserved_batches(name: str, step: Step) -> str | None:
    """What is not known of a step's batches: unknown and unknown are not equal."""
    if not step.batches or len(step.batches) != len(step.micro_losses):
        return (
            f"step {step.index}: {len(step.batches)} of {name}'s {len(step.micro_losses)} "
            "micro-batches were observed"
        )
    if len(step.inputs) != len(step.batches):
        return (
            f"step {step.index}: {name}'s model was called {len(step.inputs)} times for "
            f"{len(step.batches)} micro-batches: what it was given cannot be told"
        )
    for batch, given in zip(step.batches, step.inputs, strict=True):
        if TOKENS not in given and batch.tokens not in given.values():
            return f"step {step.index}: the tokens that {name}'s model was given were not observed"
    if not all(batch.tokens and batch.labels for batch in step.batches):
        return f"step {step.index}: tokens or labels of {name} were not observed"
    return None


def _skipped_updates(record: Record) -> list[Finding]:
    """Where a run went on to the next batches without an update, which other steps have."""
    expected = record.case.accumulation
    return [
        Finding(
            f"an update was skipped at step {step}: {record.label} took {taken} micro-batches"
            f" until the next one, and the case asks for {expected}", step, None, taken, expected,
        )
        for step, taken in skipped_updates(record).items()
    ]  # fmt: skip


def _compare_given(c: Comparison, common: Sequence[tuple[Step, Step]]) -> list[Finding]:
    """Where a model was given something else than its loader yielded, or than the other model.

    Rows that both trainers change alike, by a shift, are none; a batch that comes again is.
    """
    findings = []
    for record, steps in ((c.a, [x for x, _ in common]), (c.b, [y for _, y in common])):
        loaded: dict[str, int] = {}
        for step in steps:
            for batch, given in zip(step.batches, step.inputs, strict=True):
                tokens = given.get(TOKENS, "")
                if tokens and tokens != batch.tokens and tokens in loaded:
                    text = f"step {step.index}: {record.label}'s model was given the tokens of "
                    text += f"step {loaded[tokens]} again, and not those that its loader yielded"
                    findings.append(Finding(text, step.index, None, tokens, batch.tokens))
                loaded.setdefault(batch.tokens, step.index)
    for x, y in common:
        for i in range(0 if cut_otherwise(c) else min(len(x.inputs), len(y.inputs))):
            findings += _other_inputs(c, x, y, i)
    return findings


def _other_inputs(c: Comparison, x: Step, y: Step, i: int) -> Iterator[Finding]:
    """What two models were given in micro-batch `i` of a step that is not equal."""
    left, right = _changed(x, i), _changed(y, i)
    where = f"step {x.index}" + (f", micro-batch {i}" if len(x.batches) > 1 else "")
    for name in sorted(left.keys() | right.keys()):
        p, q = left.get(name), right.get(name)
        if p == q or "" in (p, q):
            continue
        if name in LOADED:
            who = c.names[0] if p is not None else c.names[1]
            text = f"{where}: {who}'s model was given other {name} than its loader yielded"
        elif p is None or q is None:
            has, lacks = c.names if q is None else c.names[::-1]
            text = f"{where}: {has}'s model was also given {name}, {lacks}'s was not"
        else:
            text = f"{where}: the models were given other {name}"
        yield Finding(text, x.index, None, p, q)


def _changed(step: Step, i: int) -> dict[str, str]:
    """What a model was given that its loader did not yield just so, by name."""
    batch, given = step.batches[i], step.inputs[i]
    if batch.mask and "mask" not in given:
        given = {**given, "mask": "none"}
    loaded = (batch.tokens, batch.labels, batch.mask)
    return {name: h for name, h in given.items() if h not in loaded}


def _beside(c: Comparison) -> str:
    """What of equal batches is left out or was not seen, for the explanation of a PASS."""
    text = ""
    for record in (c.a, c.b):
        if record.observed.taken_away:
            text += f"; {record.label}'s own {', '.join(record.observed.taken_away)} left out"
        unread = {n for s in record.steps for given in s.inputs for n, h in given.items() if not h}
        if unread:
            text += f"; {record.label} computes {', '.join(sorted(unread))} on the device, unseen"
    return text


def _other_batches_than_expected(name: str, record: Record) -> list[Finding]:
    """Where a run of an aligned case was served in other portions than the case asks for.

    Two runs that both train on half a batch agree, on something else than their name says.
    """
    case = record.case
    if not case.aligned:
        return []
    expected = [case.micro_batch, case.data.sequence_length]
    for step in record.steps:
        shapes = [list(batch.shape) for batch in step.batches]
        as_expected = len(shapes) == case.accumulation and all(
            shape == expected for shape in shapes
        )
        if step.finished and not as_expected:
            text = (
                f"step {step.index}: {name} was served {shapes}, but the case asks for "
                f"{case.accumulation} of {expected}"
            )
            return [Finding(text, step.index, None, shapes, expected)]
    return []


def _compare_batches(x: Step, y: Step, name_a: str, name_b: str) -> Finding | None:
    step = x.index
    if len(x.batches) != len(y.batches):
        return Finding(
            f"step {step}: {name_a} consumed {len(x.batches)} micro-batches, {name_b} "
            f"{len(y.batches)}", step, None, len(x.batches), len(y.batches),
        )  # fmt: skip
    for i, (p, q) in enumerate(zip(x.batches, y.batches, strict=True)):
        where = f"step {step}" + (f", micro-batch {i}" if len(x.batches) > 1 else "")
        if p.shape != q.shape:
            text = f"{where}: {name_a} has a batch of {list(p.shape)}, {name_b} of {list(q.shape)}"
            return Finding(text, step, None, list(p.shape), list(q.shape))
        if p.tokens != q.tokens and Counter(p.rows) == Counter(q.rows):
            text = f"{where}: the same rows in another order within the batch"
            return Finding(text, step, None, list(p.rows), list(q.rows))
        if p.tokens != q.tokens:
            return Finding(f"{where}: other tokens", step, None, p.tokens, q.tokens)
        if p.labels != q.labels:
            text = f"{where}: equal tokens, but other labels ({p.targets} and {q.targets} count)"
            return Finding(text, step, None, p.targets, q.targets)
        if p.mask != q.mask:
            return Finding(f"{where}: another attention mask", step, None, p.mask, q.mask)
    return None


def cut_otherwise(c: Comparison) -> bool:
    """Whether both cases ask for one training whose steps are cut into other micro-batches."""
    return c.configurations and c.a.case.accumulation != c.b.case.accumulation


def _compare_rows(x: Step, y: Step, name_a: str, name_b: str) -> Finding | None:
    """The rows of a step, tokens and labels of each, in whatever micro-batches they come."""
    left, right = ([row for batch in step.batches for row in batch.rows] for step in (x, y))
    where = f"step {x.index}"
    if left == right:
        masked = [name for name, s in ((name_a, x), (name_b, y)) if any(b.mask for b in s.batches)]
        if len(masked) == 1:
            return Finding(f"{where}: only {masked[0]} has an attention mask", x.index)
        return None
    if Counter(left) == Counter(right):
        return Finding(f"{where}: the same rows in another order", x.index, None, left, right)
    text = f"{where}: other tokens or labels in {name_a} than in {name_b}"
    return Finding(text, x.index, None, left, right)


def _overview(c: Comparison, left: Sequence[Step], right: Sequence[Step]) -> Finding:
    """What kind of difference it is, over all steps that both runs have."""
    batches_a, batches_b = ([b.tokens for s in steps for b in s.batches] for steps in (left, right))
    if batches_a == batches_b:
        return Finding("equal tokens in equal order, but labels, masks or shapes differ")
    for late, early, x, y in (
        (*c.names, batches_a, batches_b),
        (*c.names[::-1], batches_b, batches_a),
    ):
        if len(x) > 3 and len(x) == len(y) and x[1:] == y[:-1]:
            return Finding(f"{late}'s batches lag one step behind {early}'s")
    if Counter(batches_a) == Counter(batches_b):
        moved = [i for i, (x, y) in enumerate(zip(batches_a, batches_b, strict=True)) if x != y]
        return Finding(f"the same batches in another order (micro-steps {_some(moved)} differ)")
    in_order = [
        [row for s in steps for b in s.batches for row in b.rows] for steps in (left, right)
    ]
    if in_order[0] == in_order[1]:
        return Finding("the same rows in the same order, cut into other micro-batches")
    rows_a, rows_b = map(Counter, in_order)
    if rows_a == rows_b:
        return Finding("the same rows over the whole run, in another order")
    common = sum((rows_a & rows_b).values())
    total = max(sum(rows_a.values()), sum(rows_b.values()))
    return Finding(f"{common} of {total} rows are in both runs: another text, cut or order of data")


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:6])) + (" …" if len(numbers) > 6 else "")


RUNG = Rung(
    name="data",
    what="tokens, labels and masks of every batch, in order",
    judge=data,
    prepared=(ALIGNED,),
)
