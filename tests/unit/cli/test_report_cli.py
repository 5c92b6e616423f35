"""`parity report`: every report again, from Records alone."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from report_samples import record
from typer.testing import CliRunner

from harness.base.errors import BadInput
from harness.cli.main import app
from harness.gate.baselines import records_in
from harness.report.verdict_file import SCHEMA_FILE


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Two engines, on three days. No device was asked for known answers: nothing is believed."""
    for day, engine in ((1, "hf"), (2, "torchprime"), (3, "hf")):
        folder = tmp_path / "w" / "llama-tiny" / f"{engine}-{day}"
        record(folder, engine, manifest={"started": 1e9 + day * 86400.0})
    return tmp_path / "w"


def test_all_reports_are_made_and_where_they_went_is_said(tmp_path: Path, workspace: Path) -> None:
    files = {name: tmp_path / "out" / name for name in ("json", "html", "junit", "tensorboard")}
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    done = CliRunner().invoke(app, ["report", str(workspace), *words], env={"COLUMNS": "300"})
    assert done.exit_code == 3
    assert all(str(path) in done.stdout for path in files.values())
    verdict = json.loads(files["json"].read_text())
    jsonschema.validate(verdict, json.loads(SCHEMA_FILE.read_text()))
    (pair,) = verdict["pairs"]
    assert {pair["a_record"], pair["b_record"]} == {run["record"] for run in verdict["runs"]}
    assert pair["b_record"].endswith("hf-3")  # the newest of its label
    assert "Over time" in files["html"].read_text()
    assert len(list(ElementTree.parse(files["junit"]).iter("testcase"))) == len(pair["rungs"])
    assert sorted(p.name for p in (files["tensorboard"] / "llama-tiny").iterdir()) == [
        "hf", "torchprime", "torchprime and hf",
    ]  # fmt: skip
    assert "llama-tiny: hf on 4 × CPU" in done.stdout
    assert "2001-09-12" in done.stdout


def test_history_is_of_records_and_of_baselines(tmp_path: Path, workspace: Path) -> None:
    done = CliRunner().invoke(app, ["history", str(workspace), "baselines", "--case", "llama-tiny"])
    assert done.exit_code == 0
    assert "llama-tiny: hf on 4 × CPU" in done.stdout
    assert done.stdout.count("2001-09-1") == 2  # torchprime has one run, which is no history
    for words in (["history", str(workspace), "--case", "none"], ["history", str(tmp_path / "no")]):
        assert isinstance(CliRunner().invoke(app, words).exception, BadInput)


def test_a_stored_baseline_is_a_run_of_its_date(tmp_path: Path) -> None:
    """A baseline of a release, and the runs that measure its noise, which are none."""
    stored = records_in([Path("baselines")])
    assert {r.case.name for r in stored} >= {"llama-tiny", "llama-tiny-every-label"}
    assert {r.manifest.role for r in stored} == {"subject"}
    (tmp_path / "verdict.json").write_text('{"schema": 1}')
    assert records_in([tmp_path]) == []


def test_a_file_that_cannot_be_written_is_told_first(tmp_path: Path, workspace: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(workspace), "--junit", str(tmp_path)])
    assert isinstance(done.exception, BadInput)
    assert "--junit" in str(done.exception)
