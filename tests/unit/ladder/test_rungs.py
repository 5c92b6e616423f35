"""The list of rungs: what each knows of itself, and what another package adds to it."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import Trainer, comparison, tolerance, with_loss

from harness.base import registry
from harness.base.errors import BadInput
from harness.config.case import DTYPES
from harness.ladder import ladder
from harness.ladder.judge import judge
from harness.ladder.ladder import LADDER, check_floors, metrics, names, with_added
from harness.ladder.metric import Floor, Metric
from harness.ladder.result import EQUAL, Result, RungResult
from harness.ladder.rung import Rung, Stage
from harness.record.evidence import Record

ROOT = Path(__file__).resolve().parents[3]

ORDER = (
    "environment", "sharding", "data", "init", "routing", "forward", "backward", "clip",
    "optimizer", "schedule", "loss_curve", "grad_norm_curve", "checkpoint", "graph", "compiled",
    "predicted_time", "step_time",
)  # fmt: skip


def holding(name: str, **fields: Any) -> Rung:
    """A rung that always holds."""

    def judged(c: object) -> RungResult:
        return RungResult.passed(name, "it holds", 0, EQUAL, detects="nothing")

    return dataclasses.replace(Rung(name, f"{name} of it", judged), **fields)


class TestOurs:
    def test_the_causal_order(self) -> None:
        assert tuple(rung.name for rung in LADDER) == ORDER

    def test_a_rung_is_a_file_of_its_name(self) -> None:
        files = {p.stem for p in (ROOT / "harness/ladder/rungs").glob("*.py")} - {"__init__"}
        assert files == set(ORDER)

    def test_readme_lists_them(self) -> None:
        rows = re.findall(r"^\| (\w+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
        listed = [(name, what) for name, what in rows if name in ORDER]
        assert listed == [(rung.name, rung.what) for rung in LADDER]

    def test_every_metric_has_a_floor_for_every_dtype_with_its_source(self) -> None:
        for metric in metrics().values():
            assert {floor.dtype for floor in metric.floors} == set(DTYPES)
            for floor in metric.floors:
                assert 0 < floor.value < metric.unrelated
                assert floor.source

    def test_docs_list_their_metrics_and_floors(self) -> None:
        text = (ROOT / "docs/tolerances.md").read_text()
        rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
        documented = {
            name.strip(): (what.strip(), *(float(cell.split()[0]) for cell in (first, second)))
            for name, what, first, _, _, second, *_ in (row for row in rows if len(row) == 8)
            if name.strip() in metrics()
        }
        assert documented == {
            metric.name: (metric.what, *(floor.value for floor in metric.floors))
            for metric in metrics().values()
        }

    def test_one_rung_is_blamed_for_each_stage_that_a_version_fails_at(self) -> None:
        for stage in Stage:
            assert len([rung for rung in LADDER if rung.blamed_for is stage]) == 1


class TestAdded:
    def test_right_after_the_one_that_it_names(self) -> None:
        added = with_added(LADDER, [holding("loads", after="routing")])
        assert [rung.name for rung in added][3:6] == ["init", "routing", "loads"]
        assert len(added) == len(LADDER) + 1

    def test_at_the_end_by_default(self) -> None:
        assert with_added(LADDER, [holding("cost")])[-1].name == "cost"

    def test_one_may_follow_another_added_one(self) -> None:
        first, second = holding("second", after="first"), holding("first", after="clip")
        placed = [rung.name for rung in with_added(LADDER, [first, second])]
        assert placed[7:10] == ["clip", "first", "second"]

    @pytest.mark.parametrize(
        ("name", "fields", "message"),
        [
            ("clip", {}, "rung clip: there is one of that name already"),
            ("x", {"after": "clap"}, "rung x: after='clap' is none of environment, "),
            ("x", {"after": "init", "needs": ("clip",)}, "rung x needs clip, which is no"),
        ],
    )
    def test_what_has_no_place(self, name: str, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(BadInput, match=message):
            with_added(LADDER, [holding(name, **fields)])

    def test_a_metric_of_one_name_has_one_table_of_floors(self) -> None:
        other = Metric("loss", "another", (Floor("CPU", "float32", "", 1.0, "none"),))
        with pytest.raises(BadInput, match="metric loss has other floors elsewhere"):
            with_added(LADDER, [holding("x", metrics=(other,))])


class TestFloors:
    METRIC = Metric(
        "m", "", (
            Floor("CPU", "float32", "", 1.0, ""), Floor("TPU", "float32", "high", 2.0, ""),
            Floor("TPU", "float32", "highest", 3.0, ""),
        ),
    )  # fmt: skip

    @pytest.mark.parametrize(
        ("device", "precision", "value"),
        [("TPU", "high", 2.0), ("TPU", "highest", 3.0), ("CPU", "", 1.0), ("CPU", "highest", 1.0)],
    )
    def test_by_device_and_precision(self, device: str, precision: str, value: float) -> None:
        floor = self.METRIC.floor(device, "float32", precision)
        assert floor is not None
        assert floor.value == value

    @pytest.mark.parametrize(
        ("device", "dtype", "precision"),
        [
            ("CPU", "float16", ""), ("TPU", "float32", "default"), ("TPU v6e", "float32", "high"),
            ("CPU, products in bfloat16", "float32", ""), ("None", "float32", ""),
        ],
    )  # fmt: skip
    def test_none_where_none_was_measured(self, device: str, dtype: str, precision: str) -> None:
        assert self.METRIC.floor(device, dtype, precision) is None

    def test_a_floor_that_is_given_takes_its_place(self, a: Record) -> None:
        loss = metrics()["loss"]
        assert comparison(a, a).limit(loss).value == 2 * 2.4e-7
        given = tolerance(floor={"float32": {"loss": 1e-3}})
        assert comparison(a, a, tolerance=given).limit(loss).value == 2e-3

    def test_one_that_no_rung_asks_for_is_refused(self) -> None:
        check_floors(tolerance(floor={"float32": dict.fromkeys(metrics(), 1e-3)}))
        with pytest.raises(BadInput, match=r"tolerance\.floor\.float32\.los: .*did you mean loss"):
            check_floors(tolerance(floor={"float32": {"los": 1e-3}}))


PACKAGE = """
from harness.ladder.distances import exceeds, relative_difference
from harness.ladder.metric import Floor, Metric
from harness.ladder.result import RungResult
from harness.ladder.rung import Rung


def last_loss(record):
    return record.steps[-1].loss


def distance(a, b):
    return relative_difference(last_loss(a), last_loss(b))


def judge(c):
    limit, value = c.limit(LAST), distance(c.a, c.b)
    if exceeds(value, limit.value):
        return RungResult.failed("last_loss", "the last losses differ", value, limit)
    return RungResult.passed("last_loss", "equal ends", value, limit, detects="another end")


FLOOR = Floor("CPU", "float32", "", 1e-3, "a test")
LAST = Metric("last_loss", "the last loss", (FLOOR,), distance=distance, unrelated=1.0)
RUNG = Rung(
    "last_loss", "loss of the last step", judge, needs=("data",), metrics=(LAST,), after="schedule"
)
"""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with an installed package that adds a rung, as pip would leave it."""
    (tmp_path / "last_loss.py").write_text(PACKAGE)
    info = tmp_path / "last_loss-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: last-loss\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[parity.rungs]\nlast_loss = last_loss:RUNG\n")
    return tmp_path


class TestFromAnotherPackage:
    @pytest.fixture
    def installed(self, outside: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.syspath_prepend(outside)
        caches = (registry._registered, ladder.rungs)
        for cache in caches:
            cache.cache_clear()
        yield
        for cache in caches:
            cache.cache_clear()
        sys.modules.pop("last_loss", None)

    @pytest.mark.usefixtures("installed")
    def test_it_is_judged_at_its_place(self, a: Record, b: Record) -> None:
        assert names()[9:12] == ("schedule", "last_loss", "loss_curve")
        found = judge(comparison(a, b)).rung("last_loss")
        assert (found.result, found.metric, found.limit) == (Result.PASS, "last_loss", 2e-3)
        loss = b.steps[7].loss
        assert loss is not None
        verdict = judge(comparison(a, with_loss(b, 7, loss * 1.01)))
        assert verdict.rung("last_loss").result is Result.FAIL
        assert verdict.headline == "last_loss: the last losses differ"
        other = Trainer(label="b", seed=1).record()
        assert judge(comparison(a, other)).rung("last_loss").result is Result.INVALID

    @pytest.mark.usefixtures("installed")
    def test_its_floor_can_be_given(self, a: Record, b: Record) -> None:
        given = tolerance(floor={"float32": {"last_loss": 0.1}})
        check_floors(given)
        found = judge(comparison(a, b, tolerance=given)).rung("last_loss")
        assert found.limit == 0.2

    def test_a_verdict_is_red_by_it_where_it_is_not_installed(self, a: Record, b: Record) -> None:
        verdict = judge(comparison(a, b))
        failed = RungResult.failed("last_loss", "the last losses differ")
        assert dataclasses.replace(verdict, rungs=(*verdict.rungs, failed)).result is Result.FAIL

    def test_pytest_has_a_test_for_it(self, outside: Path) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "--parity-case"]
        done = subprocess.run(
            [*command, "llama-tiny", "tests/parity/test_ladder.py"],
            env={**os.environ, "PYTHONPATH": str(outside)},
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        ids = re.findall(r"\[llama-tiny-cpu-hf-reference-(\w+)\]", done.stdout)
        assert ids[9:12] == ["schedule", "last_loss", "loss_curve"]


def test_what_judges_is_light() -> None:
    """A cached verdict waits for the ladder, and the next trainer for the verdict."""
    code = "import sys, harness.ladder.judge; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert {f"harness.ladder.rungs.{name}" for name in ORDER} <= loaded
    heavy = {"hydra", "omegaconf", "numpy", "pydantic", "torch", "torch_xla", "yaml", "rich"}
    assert not loaded & heavy
    rooms = ("harness.launchers", "harness.probe", "harness.engines", "harness.run")
    assert not [name for name in loaded if name.startswith(rooms)]
