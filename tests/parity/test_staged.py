"""A step that is traced without values is the step that is executed, text for text.

Of what torch_xla writes, only this differs by nature: the numbers of instructions, the name of the
module, and `{replicated}` on arguments that have no annotation, which is what they are without it.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from harness.config.compose import load
from harness.engines.sources import MissingSource
from harness.record.evidence import Record
from harness.report.progress import ConsoleReporter
from harness.run.compiling import step_modules
from harness.run.plan import inputs_of, planner
from harness.run.timing import compiled_step_of

pytestmark = pytest.mark.cpu

TEXT = """
import sys
from jaxlib import _jax
for path in sys.argv[1:]:
    print(_jax.XlaComputation(open(path, "rb").read()).as_hlo_text())
"""


def traced(request: pytest.FixtureRequest, engine: str, *words: str) -> tuple[Record, Path]:
    """The Record of a run that keeps the modules of its step, and the run's interpreter."""
    from rich.console import Console

    source = request.config.getoption("--parity-torchprime")
    named = [] if source is None else [f"engine.torchprime.source='{source}'"]
    settings = load([*request.config.getoption("--parity-override"), *named, *words])
    replan = planner(engine, lambda line: None)
    try:
        plan = replan(settings, inputs_of(settings))
    except MissingSource as error:
        if "torchprime" in request.config.getoption("--parity-require"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    reporter = ConsoleReporter(Console(quiet=True))
    record = compiled_step_of(replan, settings, inputs_of(settings), reporter)
    assert record.complete, record.ended
    return record, plan.interpreter.python


def texts(record: Record, python: Path) -> str:
    """The modules of a step as text, with how often each is executed."""
    modules = step_modules(record)
    assert isinstance(modules, list), modules
    paths = [str(module.proto) for module in modules]
    text = subprocess.run([python, "-c", TEXT, *paths], check=True, capture_output=True, text=True)
    return f"{[module.executions for module in modules]}\n" + normal(text.stdout)


def normal(text: str) -> str:
    """The text without what differs by nature."""
    text = re.sub(r", metadata=\{[^}]*\}", "", text)
    text = re.sub(r"( parameter\(\d+\)), sharding=\{replicated\}", r"\1", text)
    return re.sub(r"(?<=[\w-])\.\d+\b|SyncTensorsGraph|IrToHlo", "", text)


def test_what_is_normal_and_what_is_not() -> None:
    one = "HloModule SyncTensorsGraph.7, buffer_donor={ (1, {}) }\n  p0.3 = f32[8]{0} parameter(0)"
    assert normal(f"{one}, sharding={{replicated}}") == normal(one.replace(".7", ".9"))
    for other in (one.replace("(1,", "(2,"), f"{one}, sharding={{devices=[4]0,1,2,3}}"):
        assert normal(other) != normal(one)


@pytest.mark.parametrize("engine", ["hf", "torchprime", "reference"])
def test_traced_and_executed_steps_are_one(
    engine: str, request: pytest.FixtureRequest, parity_workspace: Path
) -> None:
    _check(request, engine, "case=llama-tiny", f"workspace='{parity_workspace}'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("hf", ("case=llama-tiny-bf16",)),
        ("torchprime", ("case=llama-tiny-bf16",)),
        ("hf", ("case=llama-tiny-2d",)),
        ("torchprime", ("case=llama-tiny-2d",)),
        ("hf", ("case=llama-tiny-accumulated",)),
        ("hf", ("case=llama-tiny-adafactor",)),
        ("torchprime", ("case=llama-tiny-adafactor",)),
        ("hf@4.48.3", ("case=llama-tiny",)),  # reads the number of labels
        ("hf@5.0.0", ("case=llama-tiny",)),  # reads whether a mask masks anything
        ("hf", ("case=llama-tiny-2d", "case.optimizer.name=adafactor")),
        ("torchprime", ("case=llama-tiny-2d", "case.optimizer.name=adafactor")),
    ],
)
def test_so_are_those_of_other_cases_and_versions(
    engine: str, words: tuple[str, ...], request: pytest.FixtureRequest, parity_workspace: Path
) -> None:
    _check(request, engine, *words, f"workspace='{parity_workspace}'")


def _check(request: pytest.FixtureRequest, engine: str, *words: str) -> None:
    executed = texts(*traced(request, engine, *words, "target=v6e:2x2"))
    staged = texts(*traced(request, engine, *words, "target=v6e:2x2", "stage=true"))
    assert executed.count("\n") > 1000
    assert staged.splitlines() == executed.splitlines()
