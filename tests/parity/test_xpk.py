"""What xpk makes of a run, by its own dry run: offline, without a cluster, gcloud or kubectl.

Nothing stands in for xpk: it is the pinned release, in an environment of its own. The pods'
command is then run as Kubernetes and bash would, on this machine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_double import Double, serving
from launcher_samples import NASTY, container_of, run, start, variables_of

from harness.base.errors import BadInput
from harness.environments.install import InstallFailed
from harness.environments.sources import default_cache_dir
from harness.launchers import host, images, jobset
from harness.launchers.cluster import Cluster
from harness.launchers.local import Limits
from harness.launchers.xpk import Xpk, XpkOptions
from harness.record.layout import HOSTS, LOG, STEPS
from harness.record.reader import BatchEvent, read_events

TOKEN = "hf_ThisIsATokenThatNobodyMaySee"
VARIABLES = {"XLA_FLAGS": '--a="b c" \\ $(HOME) $$', "EMPTY": "", "LINES": "one\ntwo"}

OPTIONS = XpkOptions(
    cluster="tpus",
    project="my-project",
    zone="us-east5-b",
    tpu_type="v6e-16",
    num_slices=2,
    priority="high",
    artifact_dir="gs://bucket/parity",
    namespace="team",
    image="us-docker.pkg.dev/my-project/parity/engines:1",
    secret="parity-secrets",
)


@pytest.fixture(scope="module")
def xpk() -> Path:
    try:
        return jobset.xpk(default_cache_dir(), print)
    except InstallFailed as error:
        pytest.skip(f"xpk is neither cached nor can it be installed: {error}")


@pytest.fixture(scope="module")
def made(xpk: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JobSet of a run with arguments and variables that anything could spoil."""
    root = tmp_path_factory.mktemp("jobset")
    launcher = Xpk(OPTIONS, Limits(1, 1), print)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("PATH", "/nowhere")  # neither gcloud nor kubectl nor docker
        path = launcher.manifest(run(root, NASTY, VARIABLES), "parity-hf-0123", root)
    text = path.read_text()
    assert TOKEN not in text
    assert "HF_TOKEN" not in text
    jobset_ = yaml.safe_load(text)
    assert isinstance(jobset_, dict)
    return jobset_


def test_the_workload_is_what_the_configuration_says(made: dict[str, Any]) -> None:
    assert made["kind"] == "JobSet"
    assert made["metadata"]["name"] == "parity-hf-0123"
    (job,) = made["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    assert job["template"]["spec"]["completions"] == 4
    assert jobset.hosts_of(made) == 8
    assert made["spec"]["failurePolicy"]["maxRestarts"] == 0
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == "high"
    assert pod["terminationGracePeriodSeconds"] == 120
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v6e-slice"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    container = container_of(made)
    assert container["image"] == OPTIONS.image
    assert container["resources"]["limits"] == {"google.com/tpu": 4}


def test_the_pods_have_every_variable_to_the_letter(made: dict[str, Any]) -> None:
    variables = variables_of(container_of(made))
    assert {name: variables[name] for name in VARIABLES} == VARIABLES
    assert variables["PJRT_DEVICE"] == "TPU"
    assert variables["XLA_USE_SPMD"] == "1"


def test_a_secret_is_a_reference(made: dict[str, Any]) -> None:
    assert container_of(made)["envFrom"] == [{"secretRef": {"name": "parity-secrets"}}]


def test_every_argument_reaches_the_process_to_the_letter(
    made: dict[str, Any], tmp_path: Path
) -> None:
    """The pod's own bash script is run, with a Python that writes down what it was given."""
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"json.dump(sys.argv[1:], open({str(tmp_path / 'argv.json')!r}, 'w'))\nsys.exit(7)\n"
    )
    python.chmod(0o755)
    done = start(container_of(made), tmp_path / "tools", {}, {images.PYTHON: str(python)})
    assert done.returncode == 7, done.stderr
    argv = json.loads((tmp_path / "argv.json").read_text())
    assert argv[:2] == [images.HOST_SCRIPT, "gs://bucket/parity/parity-hf-0123"]
    assert argv[2:6] == [str(python), "-m", "harness.probe", "--record"]
    assert tuple(argv[argv.index("train.py") + 1 :]) == NASTY


def test_without_our_quoting_the_yaml_of_xpk_cannot_be_read(
    xpk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail."""
    monkeypatch.setattr(jobset, "command_line", " ".join)
    launcher = Xpk(OPTIONS, Limits(1, 1), print)
    with pytest.raises(yaml.YAMLError):
        launcher.manifest(run(tmp_path, ("two\nlines",)), "parity-hf-0123", tmp_path)


def test_a_token_never_gets_into_a_jobset(
    xpk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    launcher = Xpk(OPTIONS, Limits(1, 1), print)
    for i, spoiled in enumerate(
        (run(tmp_path / "a", (f"--token={TOKEN}",)), run(tmp_path / "b", (), {"HF_TOKEN": TOKEN}))
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        with pytest.raises(BadInput, match=r"HF_TOKEN.*launcher\.options\.secret") as caught:
            launcher.manifest(spoiled, "parity-hf-0123", folder)
        assert TOKEN not in str(caught.value)
        assert not list(folder.iterdir())


def test_what_xpk_refuses_is_said_in_its_words(xpk: Path, tmp_path: Path) -> None:
    launcher = Xpk(replace(OPTIONS, tpu_type="v99-4"), Limits(1, 1), print)
    with pytest.raises(BadInput, match=r"launcher\.options.*v99-4"):
        launcher.manifest(run(tmp_path), "parity-hf-0123", tmp_path)


TRAINER = """
import json, os, pathlib, sys
record = pathlib.Path(sys.argv[sys.argv.index("--record") + 1])
record.mkdir(parents=True, exist_ok=True)
rank, rows = int(os.environ["TPU_WORKER_ID"]), 2
batch = {"event": "batch", "index": 0, "tokens": "0a", "labels": "0b", "mask": "",
         "rows": [f"row{2 * rank}", f"row{2 * rank + 1}"], "shape": [2, 8], "targets": 14,
         "first_targets": 0}
events = [batch, {"event": "step", "step": 0, "micro": 1, "lr": [0.1], "max_norm": 1.0, "at": 1.0},
          {"event": "values", "step": 0, "losses": [5.5], "gradient_norm": 2.0}]
(record / "steps.jsonl").write_text("".join(json.dumps(e) + "\\n" for e in events))
(record / "observed.json").write_text(json.dumps({"process": rank, "processes": 2,
    "flags": {"TPU_WORKER_ID": str(rank)}, "script": {"returned": True}}))
import source_code, transformers
sys.path.insert(0, "path")
spec = json.loads(pathlib.Path(sys.argv[sys.argv.index("--spec") + 1]).read_text())
assert pathlib.Path(spec["rows"]).read_bytes() == b"rows"
os.mkdir("hlo")
pathlib.Path("hlo/module_0000.txt").write_text("HloModule")
print("trained on host", rank, "with", transformers.__version__, source_code.NAME)
"""


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is missing")
def test_a_workload_of_two_hosts_leaves_one_record(
    xpk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the cluster: its two pods are run here, one after the other.

    xpk and kubectl are real; what kubectl speaks with is a double of an API server. The harness's
    package that the pods fetch holds a trainer in place of the probe, which needs torch.
    """
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    options = replace(OPTIONS, artifact_dir=f"file://{tmp_path}/bucket", tpu_type="v6e-8")
    pods: list[subprocess.CompletedProcess[bytes]] = []
    root = tmp_path / "pod"
    launcher = Xpk(replace(options, num_slices=1), Limits(60, 60), print, root)
    job = run(tmp_path, ("--text", "a $b 'c'"), source=True, overlay=True)
    probe = job.places.package / "probe"
    probe.mkdir()
    (probe / "__main__.py").write_text(TRAINER)
    assert job.places.source is not None
    (job.places.source / "source_code.py").write_text("NAME = 'ours'\n")

    double = Double()

    def run_the_pods() -> None:
        for workload, made in double.jobsets.items():
            if "status" in made:
                continue
            for worker in range(2):
                more = {
                    "TPU_WORKER_ID": str(worker), "TPU_WORKER_HOSTNAMES": "a,b", "HF_TOKEN": TOKEN,
                }  # fmt: skip
                inside = {images.PYTHON: sys.executable, images.HOST_SCRIPT: host.__file__}
                shutil.rmtree(root, ignore_errors=True)  # every host has a disk of its own
                pods.append(start(container_of(made), tmp_path / "tools", more, inside))
            bad = [pod for pod in pods if pod.returncode]
            ended = {"type": "Failed" if bad else "Completed", "status": "True", "message": ""}
            double.jobsets[workload] = {**made, "status": {"conditions": [ended]}}

    double.look = run_the_pods
    monkeypatch.setattr(Xpk, "_cluster", Cluster(tmp_path / "kubeconfig", "team"))
    seen: list[Any] = []
    with serving(double, tmp_path / "kubeconfig"):
        ending = launcher.launch(job, seen.append)
    assert ending.status == "ok", (ending, [pod.stdout for pod in pods])
    record = job.places.record
    assert sorted(path.name for path in record.glob("host-*")) == ["host-0", "host-1"]
    hosts = json.loads((record / HOSTS).read_text())
    assert hosts == {"count": 2, "expected": 2, "disagreements": []}
    (batch,) = (e for e in read_events(record / STEPS) if isinstance(e, BatchEvent))
    assert batch.rows == ("row0", "row1", "row2", "row3")
    assert seen == list(read_events(record / "host-0" / STEPS))
    assert [path.name for path in job.places.scratch.glob("hlo/*")] == ["module_0000.txt"]
    log = (record / LOG).read_text()
    for worker in range(2):
        assert f"trained on host {worker} with 4.57.6 ours" in log
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(b"trained on host" in data for data in kept.values())
    assert not [path for path, data in kept.items() if TOKEN.encode() in data]
