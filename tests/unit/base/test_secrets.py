"""What is kept of a run has no secret in it, by whatever name, and in files of any size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.base import secrets
from harness.base.secrets import SECRET, is_secret, public, public_argv, scrub, secrets_in

VALUE = "hf_" + "abcDEF123"


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "hub_token", "train_script.args.hub_token", "--hub_token", "token", "GITHUB_PAT",
     "DB_PASS", "db_password", "passwd", "my-secret", "WANDB_API_KEY", "api_key", "apikey",
     "AWS_SECRET_ACCESS_KEY", "GOOGLE_CREDENTIALS", "MYSQL_PWD", "hubToken", "HubToken",
     "HF_TOKEN_2", "PGPASSWORD", "DBPASS", "ssh_passphrase", "clientSecret", "CLIENT_SECRETS",
     "AWS_ACCESS_KEY_ID", "AZURE_STORAGE_CONNECTION_STRING", "ACCOUNT_KEY", "accountkey",
     "OPENAI_KEY", "signing-key", "HTTP_AUTH", "Authorization", "JWT", "SESSION_COOKIE",
     "SLACK_WEBHOOK_URL", "use_auth_token", "AWS_SESSION_TOKEN", "MY_APIKEY", "api_keys",
     "+engine.hf.arguments.hub_token"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["PATH", "PWD", "OLDPWD", "eos_token", "pad_token", "tokenizer_name", "max_new_tokens",
     "TOKENIZERS_PARALLELISM", "XLA_FLAGS", "compass", "MONKEY", "key", "author", "pattern",
     "HF_TOKEN_PATH", "num_tokens", "tokens", "image_token", "decoder_start_token", "bypass",
     "loss_per_token", "sort_key", "XDG_SESSION_ID", "secretary", "passes",
     "forward", "SSH_AUTH_SOCK", "authority", "PRNG_KEY", "keys", "eosToken", "path", ""],
)  # fmt: skip
def test_names_of_others(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    "value",
    ["hf_" + "a1B2" * 9, "ghp_" + "a1B2" * 9, "github_pat_" + "a1B2_" * 9, "glpat-" + "a1B2" * 6,
     "sk-proj-" + "a1B2" * 8, "xoxb-" + "1234-" * 4 + "x", "AKIA" + "ABCD" * 4,
     "AIza" + "a1B2c" * 7, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.a1-b2",
     "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----"],
)  # fmt: skip
def test_a_value_that_tells_by_its_form(value: str) -> None:
    assert public(f"login {value} now") == f"login {SECRET} now"
    assert list(secrets_in({"anything": f"x {value}"})) == [value]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("{HUB_TOKEN: abcd1234, A: 1}", "{HUB_TOKEN: (secret), A: 1}"),
        ("{'db_pass':'ab cd1234',\"x\":1}", "{'db_pass':'(secret)',\"x\":1}"),
        ('{"token": "abcd1234"}', '{"token": "(secret)"}'),
        ("HF_TOKEN=abcd1234 python x.py", "HF_TOKEN=(secret) python x.py"),
        ("Authorization: Bearer abcd1234", "Authorization: (secret)"),
        ("{eos_token: abcd1234}", "{eos_token: abcd1234}"),
        (
            "DefaultEndpoint=x;AccountKey=abcd1234==;y=1",
            "DefaultEndpoint=x;AccountKey=(secret);y=1",
        ),
    ],
)
def test_what_is_assigned_within_a_text(text: str, kept: str) -> None:
    assert public(text) == kept
    assert public_argv((f"engine.hf.env={text}", "--env", text))[0] == f"engine.hf.env={kept}"
    assert (SECRET in kept) == ("1234" not in public_argv(("--env", text))[1])
    assert all("1234" in value for value in secrets_in(["--env", text]))


def test_all_that_credentials_hold_is_secret() -> None:
    assert public({"credentials": {"user": "me", "n": [1, "abcd1234"]}}) == {
        "credentials": {"user": SECRET, "n": [1, SECRET]}
    }
    assert list(secrets_in({"credentials": {"x": "abcd1234"}})) == ["abcd1234"]


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
