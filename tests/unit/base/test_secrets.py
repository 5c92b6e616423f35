"""What is kept of a run has no secret in it, by whatever name, and in files of any size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.base import secrets
from harness.base.secrets import SECRET, SECRET_NAME, public, public_argv, scrub, secrets_in

VALUE = "hf_" + "abcDEF123"


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "hub_token", "train_script.args.hub_token", "--hub_token", "token", "GITHUB_PAT",
     "DB_PASS", "db_password", "passwd", "my-secret", "WANDB_API_KEY", "api_key", "apikey",
     "AWS_SECRET_ACCESS_KEY", "GOOGLE_CREDENTIALS", "MYSQL_PWD"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert SECRET_NAME.search(name)


@pytest.mark.parametrize(
    "name",
    ["PATH", "PWD", "OLDPWD", "eos_token", "pad_token", "tokenizer_name", "max_new_tokens",
     "TOKENIZERS_PARALLELISM", "XLA_FLAGS", "compass", "MONKEY", "key", "author", "pattern"],
)  # fmt: skip
def test_names_of_others(name: str) -> None:
    assert not SECRET_NAME.search(name)


def test_plain_values_are_kept_without_them() -> None:
    kept = public(
        {"a": [{"hub_token": VALUE, "steps": 3}], "url": f"https://me:{VALUE}@host/x?key=1",
         "db": f"postgres://me:{VALUE}@host/x", "token": None, "use_token": True}
    )  # fmt: skip
    assert VALUE not in json.dumps(kept)
    assert kept["a"][0] == {"hub_token": SECRET, "steps": 3}
    assert (kept["token"], kept["use_token"]) == (None, True)
    assert public(("x", "y")) == ("x", "y")


def test_command_lines_are_kept_without_them() -> None:
    argv = ("python", "--hub_token", VALUE, f"--api_key={VALUE}", f"+a.token={VALUE}", "--steps=3",
            f"git+https://u:{VALUE}@host/x", "--flag", "word")  # fmt: skip
    kept = public_argv(argv)
    assert VALUE not in " ".join(kept)
    assert len(kept) == len(argv)
    assert kept[-3:] == ("git+https://***@host/x", "--flag", "word")
    assert "--steps=3" in kept


def test_their_values_are_found_wherever_they_are_given() -> None:
    given = (
        {"HF_TOKEN": VALUE + "1", "PATH": "/usr/bin:/usr/local/bin", "SHORT_TOKEN": "1"},
        ["--hub_token", VALUE + "2", f"--token={VALUE}3", f"x=ftp://me:{VALUE}4@host"],
        {"nested": {"api_key": VALUE + "5"}},
    )
    found = {value for one in given for value in secrets_in(one)}
    assert found == {f"{VALUE}{n}" for n in range(1, 6)}


@pytest.mark.parametrize("chunk", [4, 7, 16, 1 << 20])
def test_a_file_is_scrubbed_whatever_its_size_and_its_lines(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "_CHUNK", chunk)
    file, quoted = tmp_path / "trainer.log", 'with "quotes"'
    text = f"{VALUE}x{VALUE}{VALUE}\n" + "y" * 50 + VALUE + json.dumps({"a": quoted}) + VALUE[:5]
    file.write_text(text)
    assert scrub(file, [VALUE, quoted])
    hidden = text.replace(VALUE, SECRET).replace(json.dumps(quoted)[1:-1], SECRET)
    assert file.read_text() == hidden


def test_a_file_without_any_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "trainer.log"
    file.write_text("nothing")
    before = file.stat()
    assert not scrub(file, [VALUE])
    assert not scrub(file, [])
    assert file.stat().st_ino == before.st_ino
