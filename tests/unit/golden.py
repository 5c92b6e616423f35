"""What each rung says, in words: one golden file a rung, the only place that holds wording.

Tests assert logic by the fields of results. What only the sentence says, such as the cause that a
rung finds, is held here too: a test hands the result to the fixture `worded`, which compares all
that it says with the section of the test's name. The other sections are typical results of the
whole ladder (`scenarios`). After a change of wording, write the files anew, and review the
difference:

    python tests/unit/golden.py
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    Arrays,
    CountsFirst,
    CountsRight,
    Trainer,
    comparison,
    compiled_step,
    in_turns,
    tolerance,
    total_norm,
    with_loss,
    with_manifest,
    with_observed,
    with_parameter,
    with_step,
    with_window,
    without,
)

from harness.ladder.comparison import Comparison
from harness.ladder.judge import judge
from harness.ladder.ladder import LADDER
from harness.ladder.result import RungResult
from harness.record.evidence import Record

UNIT = Path(__file__).parent
FOLDER = UNIT / "ladder" / "golden"
SHOWN = 3
"""Findings of a result that are written out."""

A, B = Trainer().record(), Trainer(label="b").record()
"""Equal to the last bit, so that no text depends on how a machine rounds."""


def _perturbed(run: Record) -> Record:
    """Other initial bits, and nothing that would come of them."""
    for index, parameter in enumerate(run.parameters):
        assert parameter.initial is not None
        other = dataclasses.replace(parameter.initial, bits=parameter.initial.bits ^ 1)
        run = with_parameter(run, index, initial=other)
    return run


PERTURBED = _perturbed(Trainer().record())


# --- faults that trainers have ------------------------------------------------------------------


class OtherOrder(Trainer):
    """Batches in another order."""

    def batch(self, micro_step: int) -> Any:
        return super().batch((micro_step * 3) % 8)


class OneBatchLate(Trainer):
    """Each batch a step late."""

    def batch(self, micro_step: int) -> Any:
        return super().batch(micro_step - 1 if micro_step else 99)


class Unmasked(Trainer):
    """Labels of what ought to be ignored."""

    def batch(self, micro_step: int) -> Any:
        tokens, _ = super().batch(micro_step)
        return tokens, tokens.copy()


class SharesLost(Trainer):
    """A share of one gradient is lost."""

    def backward(self, gradients: Arrays) -> Arrays:
        lost = gradients["model.embed_tokens.weight"] * np.float32(0.9)
        return gradients | {"model.embed_tokens.weight": lost}


class Halved(Trainer):
    """All gradients are halved."""

    def backward(self, gradients: Arrays) -> Arrays:
        return {name: g * np.float32(0.5) for name, g in gradients.items()}


class NeverClips(Trainer):
    """Gradients are not clipped."""

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        return gradients, None, None


class ClipsHalf(Trainer):
    """Gradients are scaled by half of what the norm asks for."""

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        scaled, norm, threshold = super().clipped(gradients)
        return {name: g * np.float32(0.5) for name, g in scaled.items()}, norm, threshold


class NormOfParameters(Trainer):
    """The norm of the parameters is measured in place of that of the gradients."""

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        return super().clipped(gradients)[0], total_norm(self.initial()), self.max_norm


class LongerUpdates(Trainer):
    """Updates are a tenth too long."""

    def updated(self, weight: Any, *rest: Any) -> Any:
        return weight + np.float32(1.1) * (super().updated(weight, *rest) - weight)


class LateFault(Trainer):
    """From step 4 on a gradient loses a half."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        share = np.float32(0.5 if state["step"] >= 4 and weight.ndim == 1 else 1.0)
        return super().updated(weight, gradient * share, state, rate)


class EarlyRate(Trainer):
    """A learning rate that is one step early."""

    def rate(self, step: int) -> float:
        return super().rate(step + 1)


class Recompiles(Trainer):
    """XLA compiles once more in the fourth window."""

    def compilations(self, window: int) -> int:
        return super().compilations(window) + (window == 3)


class CompilesAlways(Trainer):
    """XLA compiles in every window."""

    def compilations(self, window: int) -> int:
        return 1


class FallsBack(Trainer):
    """An operation runs on the host."""

    def fallbacks(self, window: int) -> dict[str, int]:
        return {"aten::nonzero": 2}


FAULTS: tuple[tuple[type[Trainer], dict[str, Any]], ...] = (
    (OtherOrder, {}), (OneBatchLate, {}), (Unmasked, {}), (Trainer, {"seed": 1}),
    (SharesLost, {}), (Halved, {}), (NeverClips, {}), (ClipsHalf, {}), (NormOfParameters, {}),
    (Trainer, {"max_norm": 0.3}), (Trainer, {"weight_decay": 0.1}), (Trainer, {"eps": 1e-6}),
    (LongerUpdates, {}), (EarlyRate, {}), (Trainer, {"learning_rate": 2e-2}),
    (Trainer, {"warmup": 0}), (LateFault, {}), (Recompiles, {}), (FallsBack, {}),
    (CompilesAlways, {}),
    (Trainer, {"steps": 5, "requested": 8}), (Trainer, {"ulp": True}), (Trainer, {"groups": 2}),
    (Trainer, {"dtype": "bfloat16"}),
)  # fmt: skip


# --- what is judged -----------------------------------------------------------------------------


def scenarios() -> Iterator[tuple[str, Comparison]]:
    """Titles and what is to be judged; typical, not complete."""
    yield "equal", comparison(A, B)
    yield "each against float64 of its own", _own(B)
    yield "each against float64 of its own, one loss off", _own(with_loss(B, 0, 3.0))
    for trainer, given in FAULTS:
        title = trainer.__doc__ if trainer is not Trainer else f"trained with {given}"
        yield f"b: {title}", comparison(A, trainer(label="b", **given).record())
    yield "no clipping", comparison(*(Trainer(label=n, max_norm=None).record() for n in "ab"))
    yield (
        "never above the maximum",
        comparison(*(Trainer(label=n, max_norm=50.0).record() for n in "ab")),
    )
    yield (
        "all rates zero",
        comparison(*(Trainer(label=n, learning_rate=0.0).record() for n in "ab")),
    )
    yield (
        "one divides by labels that are never predicted",
        comparison(CountsFirst().record(), CountsRight(label="b").record()),
    )
    for loss in (None, math.nan, 0.0):
        yield f"b: loss {loss} at step 0", comparison(A, with_loss(B, 0, loss))
    yield "both losses 0", comparison(with_loss(A, 0, 0.0), with_loss(B, 0, 0.0))
    yield "b: loss of step 6", comparison(A, with_loss(B, 6, 1.0))
    yield "b: no loss at step 6", comparison(A, with_loss(B, 6, None))
    yield "b: norm of step 6", comparison(A, with_step(B, 6, gradient_norm=1.0))
    yield "b: no norm", comparison(A, _without_norms(B))
    yield (
        "a noise floor as wide as the loss",
        comparison(A, B, tolerance=tolerance(floor={"float32": {"loss": 1.0, "course": 1.0}})),
    )
    yield (
        "a noise floor as wide as the course",
        comparison(A, B, tolerance=tolerance(floor={"float32": {"course": 1.0}})),
    )
    yield (
        "a perturbed run whose loss moves at step 6",
        comparison(
            A,
            with_loss(B, 6, 2.55),
            noise_floor=(A, with_loss(PERTURBED, 6, 2.5)),
            repeat=(A, Trainer().record()),
        ),
    )
    yield (
        "the same without a repeat",
        comparison(A, with_loss(B, 6, 2.55), noise_floor=(A, with_loss(PERTURBED, 6, 2.5))),
    )
    yield (
        "a repeat that is not equal",
        comparison(A, B, repeat=(A, with_loss(Trainer().record(), 6, 2.5))),
    )
    yield (
        "b: another optimizer",
        comparison(
            A, dataclasses.replace(B, groups=((0, "torch.optim.adam.Adam", B.groups[0][2]),))
        ),
    )
    yield "b: no update observed", comparison(A, with_parameter(B, 1, after=()))
    yield (
        "b: one gradient clipped otherwise",
        comparison(
            A,
            # The norm of all is 0.2 as before.
            with_parameter(
                with_parameter(B, 1, clipped_norm=0.05), 0, clipped_norm=0.14945347122574726
            ),
        ),
    )
    for what in ("steps", "parameters", "windows", "groups"):
        yield f"b: without one of its {what}", comparison(A, without(B, what, 0))
    for field in ("initial", "gradient", "clipped_norm", "final"):
        yield f"b: {field} not observed", comparison(A, with_parameter(B, 1, **{field: None}))
    for fields in (
        {"dtype": "bfloat16"}, {"shape": (4, 2)}, {"sharding": "{replicated}"}, {"group": None},
    ):  # fmt: skip
        yield f"b: {fields}", comparison(A, with_parameter(B, 0, **fields))
    for observed in (
        {"device_kind": "TPU v6e"}, {"devices": 8}, {"devices": None}, {"attention": "sdpa"},
        {"matmul_precision": "default"}, {"matmul_precision": None},
        {"mesh": {"axes": {"fsdp": 1}, "device_order": [0]}},
        {"versions": {"torch": "2.8.0", "torch_xla": "2.9.0"}}, {"input_sharding": None},
        {"input_sharding": ""}, {"mesh": None},
        {"mesh": {"axes": {"fsdp": 2, "tensor": 2}, "device_order": [0, 2, 1, 3]}},
    ):  # fmt: skip
        yield f"b: {observed}", comparison(A, with_observed(B, **observed))
    yield "hf: no attention observed", comparison(with_observed(A, attention=None), B)
    yield from _graphs()
    yield from _timings()


def _own(b: Record) -> Comparison:
    a, b = (
        dataclasses.replace(A, directory=Path("/a")),
        dataclasses.replace(b, directory=Path("/b")),
    )
    b = with_parameter(b, 0, initial=dataclasses.replace(b.parameters[0].initial, bits=1))  # type: ignore[type-var]
    return comparison(a, b, float64_per_run={"/a": A, "/b": A})


def _without_norms(run: Record) -> Record:
    steps = tuple(dataclasses.replace(step, gradient_norm=None) for step in run.steps)
    return dataclasses.replace(run, steps=steps)


def _graphs() -> Iterator[tuple[str, Comparison]]:
    again = with_manifest(B, lambda manifest: manifest.update(engine=A.engine))
    for fields in ({}, {"flops": 2000, "fingerprint": "x"}, {"peak_memory_bytes": None}):
        dumped = [compiled_step(**given) for given in ({}, fields)]
        for engines, b in (("one engine", again), ("two engines", B)):
            graphs = tuple(
                dataclasses.replace(run, graph=graph)
                for run, graph in zip((A, b), dumped, strict=True)
            )
            yield f"compiled steps of {engines}: {fields}", comparison(A, b, graphs=graphs)
    twice = [
        dataclasses.replace(
            run,
            graph=compiled_step(),
            windows=tuple(dataclasses.replace(w, executions=2 * w.steps) for w in run.windows),
        )
        for run in (A, B)
    ]
    yield "the heaviest of two modules a step", comparison(*twice, graphs=(twice[0], twice[1]))
    yield "no compiled step", comparison(A, B, graphs=(A, B))


def _timings() -> Iterator[tuple[str, Comparison]]:
    limits = tolerance(step_time=0.05)
    a = Trainer(steps=60, window=1).record()
    for seconds in (0.1, 0.104, 0.12, 0.08):
        b = Trainer(label="b", steps=60, window=1, seconds=seconds).record()
        pair = in_turns(a, b)
        yield (
            f"a step of b takes {seconds} s",
            comparison(*pair, tolerance=limits, timing=(pair,) * 3),
        )
    sides = [
        Trainer(label="b", steps=30, window=1, seconds=s).record() for s in (0.10, 0.103, 0.106)
    ]
    short = Trainer(steps=30, window=1).record()
    undecided = tuple(in_turns(short, side, launch) for launch, side in enumerate(sides))
    yield "undecided", comparison(*undecided[0], tolerance=limits, timing=undecided)
    now_and_then = Trainer(label="b", steps=60, window=1).record()
    for step in range(12, 60, 9):
        now_and_then = with_window(now_and_then, step, seconds=0.14)
    pair = in_turns(a, now_and_then)
    yield "b is slow now and then", comparison(*pair, tolerance=limits, timing=(pair,) * 3)
    yield "one launch", comparison(a, a, tolerance=limits)
    stalls = with_window(Trainer(label="b", steps=60, window=1).record(), 20, seconds=1.5)
    launches = tuple(in_turns(a, stalls, launch) for launch in range(3))
    yield (
        "b stalls at one step of each launch",
        comparison(a, stalls, tolerance=limits, timing=launches),
    )
    yield "a window of b took no time", comparison(A, with_window(B, 3, seconds=0.0))
    yield "few windows", comparison(*(Trainer(steps=3).record() for _ in "ab"))


# --- what is said -------------------------------------------------------------------------------


def sections() -> dict[str, dict[str, str]]:
    """What the rungs say of the scenarios: text by title, by the name of the rung.

    Each form of a sentence once: two results that differ by their numbers only are one. What says
    nothing, as a rung above does not hold, is left out.
    """
    found: dict[str, dict[str, str]] = {rung.name: {} for rung in LADDER}
    forms: set[tuple[str, str]] = set()
    for title, given in scenarios():
        for result in judge(given).rungs:
            if not result.explanation.startswith("says nothing while"):
                text = rendered(result)
                form = (result.rung, re.sub(r"[\d.]+|\b(hf|b|a)\b", "#", text))
                if form not in forms:
                    assert title not in found[result.rung], title
                    found[result.rung][title] = text
                    forms.add(form)
    return found


def rendered(result: RungResult) -> str:
    """All that a result says, and the first of its findings."""
    lines = [f"{result.result.value}: {result.explanation}"]
    if result.limit_source:
        lines.append(f"  {result.metric or 'limit'}: {result.limit_source}")
    if result.detects:
        lines.append(f"  detects: {result.detects}")
    lines += [f"  - {finding.text}" for finding in result.findings[:SHOWN]]
    return "".join(_rounded(line) + "\n" for line in lines)


def _rounded(text: str) -> str:
    """Numbers to three digits: the last ones depend on how a machine adds up."""
    return re.sub(r"\d+\.\d+(e[+-]\d+)?", lambda number: f"{float(number[0]):.3g}", text)


# --- where it is kept ---------------------------------------------------------------------------


@functools.cache
def kept(rung: str) -> dict[str, str]:
    """The sections of a rung's golden file: text by title."""
    path = FOLDER / f"{rung}.txt"
    text = path.read_text() if path.exists() else ""
    sections = re.split(r"^# ", text, flags=re.M)[1:]
    return {title: said.rstrip() + "\n" for title, _, said in (s.partition("\n") for s in sections)}


class Renewal:
    """A pytest plugin that takes what results say to be right, and keeps it."""

    def __init__(self) -> None:
        self.sections = sections()

    def keep(self, rung: str, title: str, text: str) -> None:
        self.sections.setdefault(rung, {})[title] = text


class Worded:
    """Holds results of one test against the golden files of their rungs.

    test:    titles its sections
    renewal: takes what is said to be right; None compares
    folder:  of the test's own: no part of what is said
    """

    def __init__(
        self, test: str, renewal: Renewal | None = None, folder: Path | None = None
    ) -> None:
        self._test, self._renewal, self._folder = test, renewal, folder
        self._seen: Counter[str] = Counter()

    def __call__(self, result: RungResult) -> None:
        """`result` says, word for word, what this test's section in the golden file says."""
        self._seen[result.rung] += 1
        count = self._seen[result.rung]
        title = f"{self._test} ({count})" if count > 1 else self._test
        text = rendered(result)
        if self._folder is not None:
            text = text.replace(str(self._folder), "FOLDER")
        if self._renewal is not None:
            self._renewal.keep(result.rung, title, text)
        else:
            assert text == kept(result.rung).get(title), title


def renew() -> None:
    """Write all golden files anew, by running the tests that are held against them."""
    renewal = Renewal()
    tests = [str(path) for path in UNIT.glob("*/test_*.py") if "worded(" in path.read_text()]
    options = ["-q", "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is imported here
    if pytest.main([*options, *sorted(tests)], plugins=[renewal]) != pytest.ExitCode.OK:
        raise SystemExit("the golden files are left as they were: tests fail by other assertions")
    FOLDER.mkdir(exist_ok=True)
    for rung, texts in renewal.sections.items():
        text = "\n".join(f"# {title}\n{said}" for title, said in texts.items())
        (FOLDER / f"{rung}.txt").write_text(text)


if __name__ == "__main__":
    import golden  # the module that the tests import, not this script

    golden.renew()
