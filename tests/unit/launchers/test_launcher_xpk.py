"""Workloads on a cluster: options, what is checked before, and how they end. No xpk is run here."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from launcher_samples import run

from harness.base.errors import BadInput
from harness.launchers import cluster, images, jobset
from harness.launchers.cluster import State
from harness.launchers.launcher import Launcher
from harness.launchers.local import Limits
from harness.launchers.xpk import Xpk, XpkOptions, termination_of, workload_name
from harness.record import termination

OPTIONS = XpkOptions(
    cluster="tpus",
    project="my-project",
    zone="us-east5-b",
    tpu_type="v6e-16",
    artifact_dir="memory://bucket/parity",
    image="us-docker.pkg.dev/my-project/parity/engines:1",
)


def launcher(**options: object) -> Xpk:
    return Xpk(replace(OPTIONS, **options), Limits(1, 1), lambda text: None)  # type: ignore[arg-type]


def test_it_is_a_launcher_that_leaves_this_machine_free() -> None:
    made: Launcher = launcher()
    assert not made.here


@pytest.mark.parametrize("name", ["cluster", "project", "zone", "tpu_type", "artifact_dir"])
def test_what_is_missing_is_named_with_the_way_out(name: str) -> None:
    with pytest.raises(BadInput, match=rf"launcher\.options\.{name} is not set.*`parity use"):
        replace(OPTIONS, **{name: None}).checked()  # type: ignore[arg-type]


def test_an_artifact_directory_on_this_machine_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"artifact_dir=/tmp/x.*gs://"):
        replace(OPTIONS, artifact_dir="/tmp/x").checked()


def test_no_slices_are_bad_input() -> None:
    with pytest.raises(BadInput, match="num_slices=0"):
        replace(OPTIONS, num_slices=0).checked()


def test_the_image_and_the_tpus_are_part_of_a_runs_identity() -> None:
    identities = [
        launcher(), launcher(tpu_type="v6e-32"), launcher(num_slices=2), launcher(image="other"),
        launcher(image=None), launcher(image=None, torch_xla="2.8.0"),
    ]  # fmt: skip
    assert len({json.dumps(dict(made.identity)) for made in identities}) == len(identities)


def test_an_image_of_ours_is_pushed_to_the_projects_registry() -> None:
    assert launcher(image=None).image.startswith("gcr.io/my-project/parity-harness:")
    made = launcher(image=None, registry="us-docker.pkg.dev/p/r/")
    assert made.image.startswith("us-docker.pkg.dev/p/r/parity-harness:")


@pytest.mark.parametrize("name", ["hf-0123456789ab", "torchprime-perturbed-0123456789ab", "x"])
def test_the_name_of_a_workload_is_one_that_kubernetes_takes(tmp_path: Path, name: str) -> None:
    job = replace(run(tmp_path), name=name)
    names = {workload_name(job) for _ in range(20)}
    assert len(names) == 20
    for made in names:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made)
        assert len(made) < 40


def test_the_commands_can_be_shown_without_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    made = launcher(image=None, num_slices=2, arguments=["--spot"])
    build, push, create, submit = made.commands(run(tmp_path))
    assert build[:2] == ("docker", "build")
    assert push == ("docker", "push", made.image)
    assert create[:4] == ("xpk", "workload", "create", "--dry-run")
    assert create[create.index("--num-slices") + 1] == "2"
    assert "--spot" in create
    assert submit[0] == "kubectl"


def test_everything_of_a_pod_is_below_one_folder(tmp_path: Path) -> None:
    job = run(tmp_path, source=True, overlay=True)
    invocation = launcher().invocation(job)
    here = str(tmp_path)
    for text in (*invocation.argv, *invocation.environment.values(), *invocation.files.values()):
        assert here not in text
    assert all(path.is_relative_to("/parity") for path in invocation.files)
    assert invocation.environment["PYTHONPATH"].split(":") == [
        "/parity/scratch/path", "/parity/source", "/parity/overlay-0",
    ]  # fmt: skip


def test_a_pod_is_not_told_what_tpus_this_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPU_TOPOLOGY", "2x2")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    chosen = {"TPU_MEGACORE": "chosen by env=", "ACCELERATE_MIXED_PRECISION": "no"}
    job = replace(run(tmp_path), environment={"TPU_TOPOLOGY": "2x2", **chosen})
    environment = launcher().invocation(job).environment
    assert "TPU_TOPOLOGY" not in environment
    assert chosen.items() <= environment.items()


# --- before anything is launched ------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it but what a test puts there."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    return folder


def tool(folder: Path, name: str, script: str = "exit 0") -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(("there", "missing"), [([], "gcloud"), (["gcloud"], "kubectl")])
def test_a_tool_that_is_missing_is_named(tools: Path, there: list[str], missing: str) -> None:
    for name in there:
        tool(tools, name)
    with pytest.raises(BadInput, match=f"needs `{missing}`.*not on PATH"):
        launcher().check()


def test_an_image_that_has_to_be_built_needs_docker(tools: Path) -> None:
    tool(tools, "gcloud")
    tool(tools, "kubectl")
    with pytest.raises(BadInput, match="launcher=xpk needs Docker"):
        launcher(image=None).check()


def test_a_cluster_that_cannot_be_used_is_bad_input_in_the_words_of_xpk(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tools, "gcloud")
    tool(tools, "kubectl")
    tool(tools, "xpk", 'echo "[XPK] *********** ERROR: no active account" >&2; exit 1')
    monkeypatch.setattr(jobset, "xpk", lambda cache, note: tools / "xpk")
    with pytest.raises(
        BadInput, match=r"cluster tpus .*ERROR: no active account .*gcloud auth"
    ) as caught:
        launcher().check()
    assert "***" not in str(caught.value)


def test_a_secret_that_is_not_there_is_bad_input(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tools, "gcloud")
    tool(tools, "kubectl", "exit 1")
    tool(tools, "xpk")
    monkeypatch.setattr(jobset, "xpk", lambda cache, note: tools / "xpk")
    with pytest.raises(BadInput, match=r"secret=parity-secrets.*create secret generic") as caught:
        launcher(secret="parity-secrets").check()
    assert "--from-file=HF_TOKEN=FILE" in str(caught.value)
    launcher().check()


# --- nothing is left on the cluster ---------------------------------------------------------------

SILENT = "exec /bin/sleep 30"
INTERRUPT = "kill -INT $PPID; exit 1"


@pytest.fixture
def submit(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Launches a run by a kubectl that does as it is told on `create` and `delete`."""
    monkeypatch.setattr(cluster, "KUBECTL_TIMEOUT", 0.3)
    monkeypatch.setattr(cluster, "POD_GRACE", 0)
    monkeypatch.setattr(Xpk, "_send", lambda *_: None)

    def manifest(self: Xpk, job: object, workload: str, folder: Path) -> Path:
        (folder / "jobset.yaml").write_text("{spec: {replicatedJobs: []}}")
        return folder / "jobset.yaml"

    monkeypatch.setattr(Xpk, "manifest", manifest)

    def launch(notes: list[str], create: str = "exit 0", delete: str = "exit 0") -> None:
        cases = f'case "$*" in *" create "*) {create};; *" delete "*) {delete};; esac; exit 1'
        tool(tools, "kubectl", f'echo "$*" >> {tmp_path}/kubectl.log; {cases}')
        made = Xpk(OPTIONS, Limits(1, 1), notes.append)
        made.launch(run(tmp_path), lambda event: None)

    return launch


def recorded(tmp_path: Path) -> list[str]:
    """The verbs that kubectl was told."""
    return [line.split()[2] for line in (tmp_path / "kubectl.log").read_text().splitlines()]


def test_a_silent_cluster_did_not_refuse_and_may_have_the_workload(
    submit: Callable[..., None], tmp_path: Path
) -> None:
    notes: list[str] = []
    with pytest.raises(BadInput, match=r"did not say .*no answer.*get jobsets") as caught:
        submit(notes, create=SILENT)
    assert "refused" not in str(caught.value)
    assert recorded(tmp_path) == ["create", "delete"]
    assert notes == []


def test_ctrl_c_while_it_is_submitted_deletes_it(
    submit: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        submit([], create=INTERRUPT)
    assert recorded(tmp_path) == ["create", "delete"]


@pytest.mark.parametrize(
    ("delete", "said"),
    [("echo 'jobsets is forbidden' >&2; exit 1", "jobsets is forbidden"), (SILENT, "no answer")],
)
def test_a_workload_that_cannot_be_deleted_is_told_with_the_command(
    submit: Callable[..., None], tmp_path: Path, delete: str, said: str
) -> None:
    notes: list[str] = []
    with pytest.raises(BadInput, match="refused"):
        submit(notes, create="exit 1", delete=delete)
    (note,) = notes
    assert said in note
    command = r"kubectl --namespace default delete jobset parity-hf-\S+ --ignore-not-found"
    assert re.search(rf"`KUBECONFIG=\S+/my-project-us-east5-b-tpus\.yaml {command}", note)


def test_ctrl_c_while_it_is_deleted_says_how_to(submit: Callable[..., None]) -> None:
    notes: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        submit(notes, create="exit 1", delete=INTERRUPT)
    assert ["delete jobset" in note for note in notes] == [True]


# --- how a workload ended -------------------------------------------------------------------------


def hosts(root: Path, *codes: int | None) -> list[Path]:
    """Folders of hosts that ended with these codes; None for one that could not say."""
    folders = []
    for number, code in enumerate(codes):
        folder = root / f"host-{number}"
        folder.mkdir()
        if code is not None:
            (folder / "host.json").write_text(json.dumps({"code": code}))
        folders.append(folder)
    return folders


@pytest.mark.parametrize(
    ("state", "codes", "status", "reason"),
    [
        (State(cluster.SUCCEEDED), (0, 0), termination.OK, "by itself"),
        (State(cluster.SUCCEEDED), (0,), termination.FAILED, "only 1 of 2 hosts sent a Record"),
        (State(cluster.SUCCEEDED), (0, None), termination.FAILED, "only 1 of 2 hosts"),
        (State(cluster.SUCCEEDED), (), termination.FAILED, "only 0 of 2 hosts"),
        (State(cluster.FAILED, "x"), (0, 1), termination.FAILED, "ValueError: broken"),
        (State(cluster.FAILED, "x"), (0, -9), termination.KILLED, "SIGKILL"),
        (State(cluster.FAILED, "evicted"), (0, 0), termination.KILLED, "evicted"),
        (State(cluster.FAILED, "evicted"), (), termination.KILLED, "evicted"),
        (
            State(cluster.FAILED, "OOMKilled: p"),
            (0, None),
            termination.OUT_OF_MEMORY,
            "OOMKilled: p",
        ),
        (State(cluster.STUCK, "ErrImagePull"), (), termination.FAILED, "ErrImagePull"),
        (State(cluster.RUNNING, "no sign"), (0, 0), termination.TIMED_OUT, "no sign"),
        (State(cluster.QUEUED, "it waited"), (), termination.TIMED_OUT, "it waited"),
    ],
)
def test_a_workload_ends_well_only_where_every_host_says_so(
    tmp_path: Path, state: State, codes: tuple[int | None, ...], status: str, reason: str
) -> None:
    log = tmp_path / "trainer.log"
    log.write_text("ValueError: broken\n")
    found = termination_of(state, hosts(tmp_path, *codes), 2, log, 1.0)
    assert (found.status, reason in found.reason) == (status, True), found


def test_the_end_of_what_a_command_said_starts_with_a_whole_word() -> None:
    assert images.last_words("[XPK] *******\n a\\nb\n") == "a b"
    assert images.last_words("one two three", 9) == "… three"
    assert images.last_words(" \n") == "it said nothing"
