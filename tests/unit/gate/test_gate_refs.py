"""What can be gated, and the environment of another torch_xla."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.base.errors import BadInput
from harness.config.compose import load
from harness.environments import venv
from harness.environments.interpreters import LOCK
from harness.gate import torch_xla
from harness.gate.gate import GatePair
from harness.gate.refs import Ref, parse
from harness.gate.torch_xla import interpreter_with, requirements


@pytest.mark.parametrize(
    ("text", "ref", "entry"),
    [
        ("transformers@4.57.6", Ref("transformers", "4.57.6"), "hf@4.57.6"),
        ("transformers@pr/12", Ref("transformers", "pr/12"), "hf@pr/12"),
        ("torchprime@main", Ref("torchprime", "main"), "torchprime@main"),
        (
            "transformers@https://example.com/a/b@v1",
            Ref("transformers", "https://example.com/a/b@v1"),
            "hf@https://example.com/a/b@v1",
        ),
        ("torch_xla@2.8.0", Ref("torch_xla", "2.8.0"), "hf@2.8.0"),
    ],
)
def test_parsed(text: str, ref: Ref, entry: str) -> None:
    assert parse(text) == ref
    assert parse(text).entry == entry
    assert str(ref) == text


def test_a_token_is_never_shown(tmp_path: Path) -> None:
    """A Ref's text goes into labels, baselines, reports and the names of tests."""
    secret = "https://x-access-token:TOK@example.com/a/b@v1"
    ref = parse(f"transformers@{secret}")
    assert ref.entry == f"hf@{secret}"
    assert str(ref) == "transformers@https://***@example.com/a/b@v1"
    settings = load([f"workspace='{tmp_path}'"])
    assert "TOK" not in GatePair(settings, ref, ref, False, tmp_path).id
    for wrong in (f"transfomers@{secret}", f"torch_xla@{secret}"):
        with pytest.raises(BadInput) as error:
            parse(wrong)
        assert "TOK" not in str(error.value)


def test_a_folder(tmp_path: Path) -> None:
    assert parse(f"transformers@{tmp_path}").source == str(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "4.57.6", "transformers", "transformers@", "accelerate@1.0", "torch_xla@main",
     "transformers@/no/such/folder", "torchprime@1.0", "transformers@a b"],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse(text)


def test_the_settings_own() -> None:
    assert Ref("torchprime").entry == "torchprime"
    assert str(Ref("torchprime")) == "torchprime"


def test_another_torch_xla_keeps_the_rest() -> None:
    text = LOCK.with_name("base.txt").read_text()
    found = requirements(text, "2.8.1")
    assert found[:2] == ["torch~=2.8.0", "torch_xla[pallas]==2.8.1"]
    names = [line.split("=")[0].split("<")[0].split("~")[0] for line in found]
    assert "transformers" in names
    assert "accelerate" in names
    assert names.count("torch") == 1
    assert not {"libtpu", "numpy", "torch_xla"} & set(names)
    assert not any("#" in line for line in found)


def test_its_environment_is_of_what_is_asked_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[list[str]] = []

    def run_uv(*words: object, **_: object) -> None:
        if words[0] == "venv":
            python = Path(str(words[-1])) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.touch()
        else:
            requested.append([str(word) for word in words])

    def made() -> Path:
        return interpreter_with("2.8.0", tmp_path / "cache", lambda _: None)

    base = tmp_path / "base.txt"
    monkeypatch.setattr(venv, "run_uv", run_uv)
    monkeypatch.setattr(torch_xla, "REQUIREMENTS", base)
    base.write_text("accelerate==1.0\n")
    before = made()
    base.write_text("# a comment asks for nothing\naccelerate==1.0\n")
    assert made() == before
    assert len(requested) == 1
    base.write_text("accelerate==1.1\n")
    assert made() != before
    assert requested[1][-1] == "accelerate==1.1"
    monkeypatch.setattr(sys, "version_info", SimpleNamespace(major=3, minor=99))
    assert made() != before
    assert len(requested) == 3
