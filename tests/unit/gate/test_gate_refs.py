"""What can be gated, and the environment of another torch_xla."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.base.errors import BadInput
from harness.config.compose import load
from harness.gate.refs import Ref, parse
from harness.gate.selection import GatePair


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
        ("torch_xla@2.8.0", Ref("torch_xla", "2.8.0"), "hf"),
        ("accelerate@main", Ref("accelerate", "main"), "hf"),
        (
            "transformers@main,accelerate@1.10.0",
            Ref("transformers", "main", (Ref("accelerate", "1.10.0"),)),
            "hf@main",
        ),
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
    ["", "4.57.6", "transformers", "transformers@", "numpy@1.0", "torch_xla@main",
     "transformers@/no/such/folder", "torchprime@1.0", "transformers@a b",
     "transformers@main,transformers@4.57.6", "torchprime@main,accelerate@1.10.0",
     "torch_xla@/no/such/torch_xla-2.9.0-py3-none-any.whl", "jax@main"],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse(text)


def test_the_settings_own() -> None:
    assert Ref("torchprime").entry == "torchprime"
    assert str(Ref("torchprime")) == "torchprime"


def test_several_are_one_whatever_their_order() -> None:
    one, other = (
        parse("accelerate@1.10.0,transformers@main"),
        parse("transformers@main,accelerate@1.10.0"),
    )
    assert one == other
    assert one.packages == {"transformers", "accelerate"}
    assert one.in_environment == (Ref("accelerate", "1.10.0"),)
    assert str(one) == "transformers@main,accelerate@1.10.0"


def test_a_comma_in_the_name_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a,b"
    folder.mkdir()
    assert parse(f"transformers@{folder}").source == str(folder)
