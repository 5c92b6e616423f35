"""Which launcher a configuration gets, what `parity use` remembers, and the commands about both."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from host_samples import hosts, records
from typer.testing import CliRunner, Result

from harness.base.errors import BadInput
from harness.config.compose import load
from harness.config.folders import config_directory
from harness.launchers import saved
from harness.launchers.docker import Docker
from harness.launchers.launcher import Local
from harness.launchers.registry import LAUNCHERS, launcher_for
from harness.launchers.xpk import Xpk
from harness.record.layout import MANIFEST

USE = (
    "use --cluster tpus --project my-project --zone us-east5-b --tpu-type v6e-256 "
    "--artifact-dir gs://bucket/parity"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, so that one's own configuration is neither read nor written."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def parity(line: str) -> Result:
    from harness.cli.main import app

    return CliRunner().invoke(app, shlex.split(line))


def chosen(*overrides: str) -> Any:
    return launcher_for(load(list(overrides)).launcher, lambda text: None)


def test_every_launcher_has_a_configuration_and_the_other_way_round() -> None:
    names = {path.stem for path in (config_directory() / "launcher").glob("*.yaml")}
    assert names == set(LAUNCHERS)


def test_the_configuration_chooses() -> None:
    assert isinstance(chosen(), Local)
    assert isinstance(chosen("launcher=docker"), Docker)
    assert parity(USE).exit_code == 0
    assert isinstance(chosen("launcher=xpk"), Xpk)


def test_runs_are_forked_where_their_device_is_not_one_processs_own() -> None:
    assert chosen().progress is not None
    assert chosen("launcher.device=tpu").progress is None
    assert chosen("launcher.fork_server=false").progress is None


def test_limits_are_those_of_the_configuration() -> None:
    for name in ("local", "docker"):
        made = chosen(f"launcher={name}", "launcher.time_limit=7", "launcher.silence=5")
        assert (made.limits.time_limit, made.limits.silence) == (7, 5)


def test_a_launcher_that_does_not_exist_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"launcher\.name=dokcer.*did you mean docker"):
        chosen("launcher.name=dokcer")


@pytest.mark.parametrize(
    "override", ["+launcher.options.shm_size=1g", "launcher=docker,+launcher.options.zone=x"]
)
def test_an_option_of_another_launcher_is_bad_input(override: str) -> None:
    with pytest.raises(BadInput, match=r"launcher\.options\.(shm_size|zone): there is no such key"):
        chosen(*override.split(","))


def test_an_option_of_the_wrong_type_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"launcher\.options\.num_slices"):
        chosen("launcher=xpk", "launcher.options.num_slices=many")


def test_without_parity_use_the_way_out_is_named() -> None:
    with pytest.raises(BadInput, match=r"launcher\.options\.cluster is not set.*`parity use"):
        chosen("launcher=xpk")


def test_use_is_remembered_and_the_command_line_wins(home: Path) -> None:
    done = parity(f"{USE} --num-slices 2 --secret parity-secrets")
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(saved.config_file().read_text()) == {
        "cluster": "tpus", "project": "my-project", "zone": "us-east5-b", "tpu_type": "v6e-256",
        "artifact_dir": "gs://bucket/parity", "num_slices": 2, "priority": "medium",
        "namespace": "default", "secret": "parity-secrets",
    }  # fmt: skip
    assert saved.config_file().is_relative_to(home)
    made = chosen("launcher=xpk", "launcher.options.zone=us-west1-a")
    assert (made.options.cluster, made.options.zone) == ("tpus", "us-west1-a")
    assert (made.options.num_slices, made.options.secret) == (2, "parity-secrets")


def test_use_again_forgets_what_it_was_told_before() -> None:
    assert parity(f"{USE} --secret parity-secrets").exit_code == 0
    assert parity(USE).exit_code == 0
    assert "secret" not in saved.saved()


def test_an_artifact_directory_that_is_no_bucket_is_not_remembered() -> None:
    done = parity(USE.replace("gs://bucket/parity", "/tmp/x"))
    assert isinstance(done.exception, BadInput)
    assert not saved.config_file().exists()


@pytest.mark.parametrize("text", ["a: [", "just text", "clutser: tpus"])
def test_a_damaged_file_is_named(text: str) -> None:
    saved.config_file().parent.mkdir(parents=True)
    saved.config_file().write_text(text)
    with pytest.raises(BadInput, match=r"xpk\.yaml .*`parity use` again"):
        saved.saved()


def test_records_of_hosts_are_merged_and_what_is_wrong_is_said(tmp_path: Path) -> None:
    run = hosts(2)
    run[1].event("values", 2).update(losses=[9.0])
    folders = records(tmp_path, run)
    target = tmp_path / "merged"
    done = parity(shlex.join(["merge", str(target), *map(str, folders)]))
    assert done.exit_code == 1
    assert "step 2: losses is 3.5 on host 0 and 9.0 on host 1" in done.output
    assert (target / MANIFEST).is_file()
