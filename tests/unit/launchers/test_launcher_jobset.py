"""Command lines and variables that are read by YAML, Kubernetes and bash, and tokens in none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from launcher_samples import NASTY, expanded

from harness.base.errors import BadInput
from harness.base.secrets import is_secret
from harness.launchers.jobset import (
    check_no_secret,
    command_line,
    hosts_of,
    variable,
    with_secret,
)

PRINT = "import json, sys; print(json.dumps(sys.argv[1:]))"


@pytest.mark.parametrize("argument", NASTY)
def test_an_argument_survives_kubernetes_and_bash(argument: str, tmp_path: Path) -> None:
    line = command_line([sys.executable, "-c", PRINT, argument])
    assert "\n" not in line
    script = expanded(line, {"HOME": "/somewhere", "args.workload": "x"})
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert json.loads(done.stdout) == [argument]


@pytest.mark.parametrize("value", NASTY)
def test_a_variable_survives_yaml_and_kubernetes(value: str) -> None:
    name, _, written = variable("NAME", value).partition("=")
    assert name == "NAME"
    assert "\n" not in written
    read = yaml.safe_load(f'- name: NAME\n  value: "{written}"\n')
    assert expanded(read[0]["value"], {"HOME": "/somewhere"}) == value


JOBSET = {
    "spec": {
        "replicatedJobs": [
            {
                "replicas": 3,
                "template": {
                    "spec": {
                        "completions": 4,
                        "template": {"spec": {"containers": [{"name": "parity", "env": []}]}},
                    }
                },
            }
        ]
    }
}


def test_hosts_are_counted_over_all_slices() -> None:
    assert hosts_of(JOBSET) == 12


def test_a_secret_is_added_by_name_and_the_rest_is_left_alone() -> None:
    before = json.dumps(JOBSET)
    text = json.dumps(with_secret(JOBSET, "parity-secrets"))
    assert json.dumps(JOBSET) == before
    reference = ', "envFrom": [{"secretRef": {"name": "parity-secrets"}}]'
    assert text == before.replace('"env": []', f'"env": []{reference}')


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "TOKEN", "WANDB_API_KEY", "DB_PASSWORD", "AWS_SECRET", "AWS_SECRET_ACCESS_KEY",
     "GOOGLE_CREDENTIALS", "HUGGING_FACE_HUB_TOKEN"],
)  # fmt: skip
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["TOKENIZERS_PARALLELISM", "XLA_FLAGS", "PYTHONPATH", "HF_HOME", "MONKEY"]
)
def test_names_of_other_variables_are_not(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize("value", ["hf_secretsecret", 'with "quotes" and \\'])
def test_a_value_is_found_as_it_is_and_as_yaml_writes_it(value: str) -> None:
    for text in (f"--token={value}", json.dumps({"token": value})):
        with pytest.raises(BadInput, match="HF_TOKEN") as caught:
            check_no_secret(text, "the JobSet", {"HF_TOKEN": value})
        assert value not in str(caught.value)


def test_short_values_and_other_variables_are_no_secrets() -> None:
    check_no_secret("a 1 b somewhere", "x", {"USE_TOKEN": "1", "PLACE": "somewhere"})
    check_no_secret("nothing of it", "x", {"HF_TOKEN": "hf_secretsecret"})
