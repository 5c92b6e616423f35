"""The end of a pytest session: the verdicts of all cases, and the files that were asked for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from report_samples import CLIP, pair, verdict

from harness.base.errors import BadInput
from harness.config import compose
from harness.ladder.verdict import Verdict
from harness.plugins import ladder as plugin
from harness.plugins.verdict_report import ATTRIBUTE


def configured(**options: Path) -> Any:
    """A session that has begun with the options --parity-json and --parity-html."""
    named = {f"--parity-{name}": str(path) for name, path in options.items()}
    config: Any = SimpleNamespace(
        getoption=named.get,
        get_verbosity=lambda: 0,
        invocation_params=SimpleNamespace(args=("-m", "cpu")),
    )
    plugin.pytest_configure(config)
    return config


def end_of_session(*verdicts: Verdict, **options: Path) -> None:
    """Begin and end a session whose tests told of `verdicts`, with the options --parity-json and
    --parity-html."""
    config = configured(**options)
    reports = [SimpleNamespace(**{ATTRIBUTE: shown.to_json()}) for shown in verdicts]
    terminal = SimpleNamespace(
        stats={"passed": reports},
        section=lambda title: None,
        write_line=lambda line: None,
        _tw=SimpleNamespace(fullwidth=100, hasmarkup=False),
    )
    plugin.pytest_terminal_summary(terminal, config)


def of_case(case: str, *rungs: Any) -> Verdict:
    """A verdict whose first line does not name its case."""
    return dataclasses.replace(
        verdict(pair(*rungs), compared="hf against the stored baseline"), case=case
    )


def test_the_user_s_overrides_are_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is appended after them: whatever an option says, an override says otherwise."""
    requested: list[list[str]] = []

    def load(words: list[str]) -> None:
        requested.append(words)
        raise BadInput("that was all")

    monkeypatch.setattr(compose, "load", load)
    options = {
        "--parity-require": [], "--parity-workspace": "w", "--parity-scale-mesh": True,
        "--parity-until-decided": 0.02, "--parity-torchprime": "x",
        "--parity-target": ["v6e:2x2", "v5p:2x2x1"], "--parity-override": ["case.mesh.fsdp=2"],
    }  # fmt: skip
    config: Any = SimpleNamespace(
        getoption=options.get, stash=pytest.Stash(), get_verbosity=lambda: 0
    )
    pair_ = plugin.EnginePair("llama-tiny-2d", "hf", "reference", "cpu")
    with pytest.raises(pytest.fail.Exception, match="bad input: that was all"):
        plugin.pair_outcome(config, pair_, "case.steps=3")
    (words,) = requested
    assert words[-2:] == ["case.mesh.fsdp=2", "case.steps=3"]
    assert "launcher.scale_mesh=true" in words
    assert "target=[v6e:2x2,v5p:2x2x1]" in words
    assert [word for word in words if word.startswith("case.mesh")] == ["case.mesh.fsdp=2"]


def test_a_side_without_a_record_does_not_cost_the_report(tmp_path: Path) -> None:
    """The candidate that does not train is what the report is wanted for."""
    end_of_session(verdict(pair(CLIP, a_record="")), html=tmp_path / "x.html")
    assert "torchprime" in (tmp_path / "x.html").read_text()


@pytest.mark.parametrize("order", [1, -1])
def test_no_case_hides_another(tmp_path: Path, order: int) -> None:
    both = [of_case("one", CLIP), of_case("two")][::order]
    end_of_session(*both, json=tmp_path / "x.json")
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["result"] == "FAIL"
    assert written["case"] == "one, two"
    assert len(written["pairs"]) == 2


def test_a_pair_is_told_once_whatever_its_number_of_tests(tmp_path: Path) -> None:
    end_of_session(of_case("one"), of_case("one"), json=tmp_path / "x.json")
    assert len(json.loads((tmp_path / "x.json").read_text())["pairs"]) == 1


def test_folders_of_the_files_are_made(tmp_path: Path) -> None:
    files = {"json": tmp_path / "a" / "b" / "x.json", "html": tmp_path / "c" / "x.html"}
    end_of_session(verdict(pair()), **files)
    assert all(path.is_file() for path in files.values())


@pytest.mark.parametrize("name", ["json", "html"])
def test_a_file_that_cannot_be_written_is_told_before_anything_runs(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(pytest.UsageError, match=f"--parity-{name} .* is a folder: name a file"):
        configured(**{name: tmp_path})
