"""docs/extending.md: each walk-through is installed as the page shows it, and used from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import walkthroughs

UNIT = Path(__file__).resolve().parent


def used(package: Path, *words: str, **variables: str) -> str:
    """What a command prints in an environment in which `package` is installed."""
    path = os.pathsep.join(map(str, (package, UNIT)))
    done = subprocess.run(
        [sys.executable, *words], cwd=UNIT.parents[1],
        env={**os.environ, "PYTHONPATH": path, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_device(tmp_path: Path) -> None:
    package = walkthroughs.install("Add a device", tmp_path)
    assert "NPU boards" in used(package, "-m", "harness.cli.main", "doctor")
    collect = ("-m", "pytest", "--collect-only", "-q", "-m", "npu", "tests/parity/test_ladder.py")
    ids = [line for line in used(package, *collect).splitlines() if "::" in line]
    assert ids
    assert all("-npu-" in line for line in ids)
    code = """
from harness.config.compose import load
from harness.devices.device import chip
from harness.launchers.local import device_environment
name = load(["launcher.device=npu"]).launcher.device
print(device_environment(name, 2, fast_compile=False)["PJRT_DEVICE"])
print(chip("NPU x1").source)
"""
    assert used(package, "-c", code).splitlines() == ["NPU", "its data sheet"]


ENGINE_IN_USE = """
from pathlib import Path
from harness.config.compose import load
from harness.engines.command import Job
from harness.engines.spec import engine
settings = load(["engines=[hf,mine@v2]", "case.steps=7", "engine.mine.fused=true"])
command = engine("mine").command(Job(settings.case, settings.engine["mine"], Path("checkout")))
print(*command.argv)
print(command.spec.watch.tokens, command.spec.injected, "def inject(" in command.files["inject.py"])
"""


def test_an_engine(tmp_path: Path) -> None:
    package = walkthroughs.install("Add an engine", tmp_path)
    assert "my trainer, of a checkout" in used(package, "-m", "harness.cli.main", "engines")
    is_used(package)


def test_an_engine_without_a_package(tmp_path: Path) -> None:
    """The files of the walk-through as they are, in the user's folder."""
    folder = tmp_path / "mine"
    shown = walkthroughs.files("Add an engine")
    for name, file in (("engine.py", "__init__.py"), ("inject.py", "inject.py")):
        path = folder / "engine" / "mine" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shown[f"my_trainer/{name}"])
    listed = used(tmp_path, "-m", "harness.cli.main", "--configs", str(folder), "engines")
    assert "my trainer, of a checkout" in listed
    assert "engine/mine/__init__.py" in listed.replace("\n    ", "")
    is_used(tmp_path, PARITY_CONFIGS=str(folder))


def is_used(package: Path, **variables: str) -> None:
    """The engine of the walk-through translates a case."""
    printed = used(package, "-c", ENGINE_IN_USE, **variables).splitlines()
    assert printed[0].startswith("{source}/train.py --model={inputs}/model")
    assert {"--steps=7", "--fused=True"} <= set(printed[0].split())
    assert printed[1] == "inputs {'dtype': 'float32'} True"


def test_a_model_family(tmp_path: Path) -> None:
    package = walkthroughs.install("Add a model family", tmp_path)
    code = """
from harness.base.errors import BadInput
from harness.config.compose import load
from harness.models.family import family
named = ["case.model.family=granite"]
case = load([*named, "case.model.options.logits_scaling=4"]).case
granite = family("granite")
print(granite.config(case.model)["logits_scaling"])
print(granite.in_engine("hf").layer)
try:
    load(named)
except BadInput as error:
    print(error)
"""
    scaling, layer, refused = used(package, "-c", code).splitlines()
    assert (scaling, layer) == ("4", "GraniteDecoderLayer")
    assert "case.model.options=None: name logits_scaling" in refused


def test_a_family_whose_parameters_are_stored_otherwise(tmp_path: Path) -> None:
    """What the page's engine stores is what its probe is given to take apart.

    The Trainer does not have that family: its inputs are prepared all the same.
    """
    walkthroughs.install("Add an engine", tmp_path)
    package = walkthroughs.install("Add a family whose parameters are stored otherwise", tmp_path)
    code = """
import json
from pathlib import Path
from harness.config.compose import load
from harness.engines.command import Job
from harness.engines.spec import engine
from harness.inputs.prepared import prepare
from harness.models.family import family
settings = load(["engines=[mine@v2,reference]", "case.model.family=fused-llama", "case.steps=3"])
case, mine = settings.case, engine("mine")
command = mine.command(Job(case, settings.engine["mine"], Path("checkout")))
shapes = family("fused-llama").shapes(case.model)
for layout in command.spec.layouts:
    rows = [shapes[name][layout.dim] for name in layout.holds]
    assert rows == list(layout.sizes) or len(rows) == 1, layout
    print(layout.stored, len(layout.holds), layout.transposed)
print(json.loads((prepare(case, Path("INPUTS")).model / "config.json").read_text())["model_type"])
"""
    printed = used(package, "-c", code.replace("INPUTS", str(tmp_path / "inputs"))).splitlines()
    assert printed[:2] == [
        "model.layers.0.self_attn.qkv.weight 3 False", "model.layers.0.self_attn.out 1 True",
    ]  # fmt: skip
    assert printed[-1] == "llama"


def test_a_case(tmp_path: Path) -> None:
    package = walkthroughs.install("Add a case", tmp_path)
    code = """
from harness.config.compose import case_origins, load
case = load(["case=mine"]).case
print(case_origins()["mine"], case.mesh["tensor"], case.global_batch)
"""
    assert used(package, "-c", code).strip() == "the package my-cases 2 16"


def test_a_rung(tmp_path: Path) -> None:
    is_judged(walkthroughs.install("Add a rung", tmp_path))


def test_a_rung_without_a_package(tmp_path: Path) -> None:
    (tmp_path / "mine" / "rung").mkdir(parents=True)
    text = walkthroughs.files("Add a rung")["last_loss.py"]
    (tmp_path / "mine" / "rung" / "last_loss.py").write_text(text)
    is_judged(tmp_path, PARITY_CONFIGS=str(tmp_path / "mine"))


def is_judged(package: Path, **variables: str) -> None:
    """The rung of the walk-through is a test, and judges."""
    collect = ("--collect-only", "-q", "--parity-case", "llama-tiny", "tests/parity/test_ladder.py")
    ids = used(package, "-m", "pytest", *collect, **variables)
    rungs = re.findall(r"\[llama-tiny-cpu-hf-reference-(\w+)\]", ids)
    assert rungs[rungs.index("last_loss") - 1] == "schedule"
    code = """
from builders import Trainer, comparison, with_loss
from harness.ladder.judge import judge
a, b = Trainer().record(), Trainer(label="b", groups=2, sums=-1).record()
other = with_loss(b, b.steps[-1].index, b.steps[-1].loss * 1.01)
for verdict in (judge(comparison(a, b)), judge(comparison(a, other))):
    print(verdict.rung("last_loss").result.value)
"""
    assert used(package, "-c", code, **variables).split() == ["PASS", "FAIL"]


def test_without_the_package_there_is_no_such_device(tmp_path: Path) -> None:
    """The walk-through's test can fail."""
    assert "NPU boards" not in used(tmp_path, "-m", "harness.cli.main", "doctor")
