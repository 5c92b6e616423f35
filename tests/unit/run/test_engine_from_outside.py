"""An engine of a package outside of the tree: one file there, and no line of ours is changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import outside
import pytest
from gate_samples import INTERPRETER, Silent
from typer.testing import CliRunner

from harness.base.errors import BadInput
from harness.cli.main import app
from harness.config.compose import load
from harness.engines.spec import engine
from harness.gate.refs import parse
from harness.gate.selection import gate_pairs
from harness.run import plan as planning
from harness.run import session

ENGINE = """
from dataclasses import dataclass
from pathlib import Path

from harness.base.typed import STRICT
from harness.engines.command import SCRATCH, Command, common_environment, spec_for
from harness.engines.spec import EngineSpec, SourceSpec, TrainerOptions
from harness.environments.sources import Package
from harness.probe.spec import Watch


@dataclass(frozen=True)
class Options(TrainerOptions):
    __pydantic_config__ = STRICT

    width: int = 3


def translate(job):
    return Command(
        argv=(f"{SCRATCH}/train.py", f"--steps={job.case.steps}", f"--width={job.options.width}"),
        spec=spec_for(job, seed=job.case.seed),
        environment=common_environment(job),
        files={"train.py": "print('training')"},
    )


ENGINE = EngineSpec(
    name="mine",
    description="a trainer of my own",
    options=Options,
    translate=translate,
    source=SourceSpec(Package("minetrain", "https://example.com/mine"), way_out="MINE=PATH"),
    gates=("minetrain",),
    watch=Watch(tokens="inputs", labels="targets", clipping=("mine.clip:clip",)),
    injection=Path(__file__).with_name("inject.py"),
)
"""
INJECT = "def inject(seed):\n    pass\n"


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with the engine `mine`, in a folder of its own."""
    folder = tmp_path / "site"
    files = {
        "mine_engine/__init__.py": "",
        "mine_engine/engine.py": ENGINE,
        "mine_engine/inject.py": INJECT,
    }
    monkeypatch.setattr(planning, "interpreter_for", lambda *_: INTERPRETER)
    with outside.installed(
        folder, files, {"parity.engines": {"mine": "mine_engine.engine:ENGINE"}}
    ):
        yield folder
    for name in ("mine_engine", "mine_engine.engine"):
        sys.modules.pop(name, None)


def planned(tmp_path: Path, *words: str) -> session.Planned:
    return session.plan(load([f"workspace='{tmp_path}'", *words]), Silent())


def test_it_is_planned_with_the_defaults_of_its_options(tmp_path: Path) -> None:
    hf, mine = planned(tmp_path, "engines=[hf,mine]", "case.steps=7").subjects
    assert (hf.engine, mine.engine) == ("hf", "mine")
    assert mine.command.argv == ("{scratch}/train.py", "--steps=7", "--width=3")
    assert mine.command.files["inject.py"] == INJECT
    spec = mine.command.spec
    assert spec.inject == "{scratch}/inject.py"
    assert spec.injected == {"seed": 42}
    assert (spec.watch.tokens, spec.watch.labels) == ("inputs", "targets")
    assert spec.watch.clipping == ("mine.clip:clip",)
    assert spec.watch.boundary == hf.command.spec.watch.boundary


def test_its_options_are_set_and_name_the_record(tmp_path: Path) -> None:
    (_, before) = planned(tmp_path, "engines=[hf,mine]").subjects
    (_, after) = planned(tmp_path, "engines=[hf,mine]", "engine.mine.width=4").subjects
    assert after.command.argv[-1] == "--width=4"
    assert after.key != before.key


def test_what_is_injected_names_the_record(tmp_path: Path, mine: Path) -> None:
    """It runs inside the trainer: a run with another injection is another run."""
    (_, before) = planned(tmp_path, "engines=[hf,mine]").subjects
    (mine / "mine_engine" / "inject.py").write_text(INJECT + "    # and more\n")
    (_, after) = planned(tmp_path, "engines=[hf,mine]").subjects
    assert after.key != before.key


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "+engine.mine.wdth=4",
            r"engine\.mine\.wdth: there is no such key; did you mean engine\.mine\.width\?",
        ),
        ("engine.mine.width=wide", r"engine\.mine\.width='wide'"),
        ("engines=[hf,min]", "engines=min: it is not one of hf, mine, reference, torchprime"),
    ],
)
def test_bad_input(word: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load([word])


def test_it_is_listed() -> None:
    printed = CliRunner().invoke(app, ["engines"], env={"COLUMNS": "200"}).stdout.splitlines()
    assert "a trainer of my own" in printed[printed.index("mine") + 1]


def test_its_versions_are_gated() -> None:
    ref = parse("minetrain@v2")
    assert ref.entry == "mine@v2"
    pairs = gate_pairs([], ref, parse("minetrain@v1"), ["llama-tiny"])
    assert [(pair.parity, str(pair.against)) for pair in pairs] == [
        (False, "minetrain@v1"), (True, "transformers"),
    ]  # fmt: skip


def test_what_is_registered_has_to_be_that_engine(mine: Path) -> None:
    text = (mine / "mine_engine" / "engine.py").read_text()
    (mine / "mine_engine" / "engine.py").write_text(text.replace('name="mine"', 'name="other"'))
    with pytest.raises(BadInput, match="registered as mine is not the EngineSpec of that name"):
        engine("mine")
