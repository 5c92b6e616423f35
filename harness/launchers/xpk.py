"""Runs a command as an XPK workload on a GKE cluster of TPUs.

The JobSet is made by the real xpk (`harness.launchers.jobset`) and submitted by kubectl. Code and
inputs go into the artifact directory, every host fetches them from there, and sends its Record
back (`harness.launchers.host`). Never run on a cluster: see docs/launchers.md.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from harness.base import files
from harness.base.errors import BadInput
from harness.base.progress import Progress
from harness.base.typed import STRICT
from harness.environments.sources import default_cache_dir
from harness.launchers import cluster, images, jobset
from harness.launchers.artifacts import Artifacts
from harness.launchers.cluster import Cluster, State
from harness.launchers.host import HOST_FILE, OUTPUTS
from harness.launchers.invocation import Invocation, Places, watched
from harness.launchers.launcher import OnEvent, Run
from harness.launchers.local import MACHINE_VARIABLES, Limits
from harness.launchers.merge_hosts import merge_hosts
from harness.launchers.polling import Patience, wait
from harness.record import layout
from harness.record.termination import (
    FAILED,
    KILLED,
    OF_MACHINE,
    OUT_OF_MEMORY,
    Sign,
    Termination,
    explain,
)

ROOT = Path("/parity")
"""Where everything of a run is within its pods."""

JOBSET = "jobset.yaml"
"""The submitted JobSet, kept with the Record."""

WORKLOAD = re.compile(r"[a-z]([-a-z0-9]{0,37}[a-z0-9])?")
"""What xpk accepts: names of pods and of Kueue take the rest of the 63 characters."""

NEEDED = ("cluster", "project", "zone", "tpu_type", "artifact_dir")


@dataclass(frozen=True)
class XpkOptions(images.ImageOptions):
    """`launcher.options` of launcher=xpk, beside the image's; what is null is from `parity use`.

    cluster, project, zone: the GKE cluster, as `xpk cluster create` was told
    tpu_type:     TPU of one slice, such as v6e-256
    num_slices:   number of slices
    priority:     very-low, low, medium, high or very-high
    artifact_dir: folder in a bucket, such as gs://bucket/parity, that you and the pods can write
    namespace:    Kubernetes namespace of the workloads
    secret:       Kubernetes Secret whose keys become variables of the pods, such as HF_TOKEN
    workload:     name of the workload; null makes one
    comment:      what it is for, as an annotation of the workload
    registry:     where an image that is built is pushed; null takes gcr.io/<project>
    queue_limit:  seconds that a workload may wait for its TPUs
    arguments:    further arguments of `xpk workload create`, such as --spot
    """

    __pydantic_config__ = STRICT

    cluster: str | None = None
    project: str | None = None
    zone: str | None = None
    tpu_type: str | None = None
    num_slices: int = 1
    priority: str = "medium"
    artifact_dir: str | None = None
    namespace: str = "default"
    secret: str | None = None
    workload: str | None = None
    comment: str | None = None
    registry: str | None = None
    queue_limit: float = 3600.0
    arguments: list[str] = field(default_factory=list)

    def checked(self) -> XpkOptions:
        """These options. Raises BadInput where one is missing or cannot be used."""
        for name in NEEDED:
            if not getattr(self, name):
                raise BadInput(
                    f"launcher=xpk: launcher.options.{name} is not set. Run `parity use --cluster "
                    "NAME --project NAME --zone ZONE --tpu-type TYPE --artifact-dir "
                    f"gs://BUCKET/FOLDER` once, or give launcher.options.{name}=VALUE"
                )
        if "://" not in str(self.artifact_dir):
            raise BadInput(
                f"launcher.options.artifact_dir={self.artifact_dir}: it is a folder that the hosts "
                "of the cluster share with you, such as gs://bucket/parity"
            )
        if self.workload is not None and not WORKLOAD.fullmatch(self.workload):
            raise BadInput(
                f"launcher.options.workload={self.workload}: a name of a workload is of at most 39 "
                "lower-case letters, digits and dashes, and begins with a letter"
            )
        if self.num_slices < 1:
            raise BadInput(f"launcher.options.num_slices={self.num_slices}: at least 1 is needed")
        return self


@dataclass(frozen=True)
class Xpk:
    """Workloads on one cluster."""

    options: XpkOptions
    limits: Limits
    progress: Progress
    root: Path = ROOT
    here = False

    # --- what is run ----------------------------------------------------------------------------

    @property
    def image(self) -> str:
        """The image's reference."""
        registry = self.options.registry or f"gcr.io/{self.options.project}"
        return (
            self.options.image or f"{registry.rstrip('/')}/parity-harness:{self.options.built.tag}"
        )

    @property
    def identity(self) -> Mapping[str, str]:
        """The image, and the TPUs."""
        slices = f"{self.options.tpu_type} x {self.options.num_slices}"
        return {"PARITY_IMAGE": self.image, "PARITY_TPU": slices}

    def places(self, run: Run) -> Places:
        """Where the run's folders are in a pod."""
        scratch = self.root / "scratch"
        return Places(
            record=self.root / "record",
            inputs=self.root / "inputs",
            scratch=scratch,
            package=scratch / "path" / "harness",
            source=None if run.places.source is None else self.root / "source",
            output=None if run.places.output is None else self.root / OUTPUTS,
        )

    def invocation(self, run: Run) -> Invocation:
        """The probe in a pod."""
        overlays = tuple(self.root / f"overlay-{i}" for i in range(len(run.interpreter.pythonpath)))
        # What TPUs this machine has is nothing to a pod: GKE and xpk tell it of its own.
        environment = {
            name: value
            for name, value in run.environment.items()
            if not name.startswith(MACHINE_VARIABLES) or os.environ.get(name) != value
        }
        # A pod may have no locale, or one without UTF-8, and names of files and texts are in it.
        environment["PYTHONUTF8"] = "1"
        return watched(run.command, self.places(run), images.PYTHON, overlays, environment)

    def create(self, run: Run, workload: str, xpk: Path, manifest: Path) -> tuple[str, ...]:
        """The `xpk workload create …` that writes the run's JobSet into `manifest`.

        Raises BadInput where a token would be in it.
        """
        invocation, options = self.invocation(run), self.options
        url = Artifacts(str(options.artifact_dir), workload).url
        command = (images.PYTHON, images.HOST_SCRIPT, url, *invocation.argv)
        variables = (jobset.variable(*item) for item in sorted(invocation.environment.items()))
        argv = (
            str(xpk), "workload", "create", "--dry-run", "--output-manifest-file", str(manifest),
            "--workload", workload, "--cluster", str(options.cluster),
            "--project", str(options.project), "--zone", str(options.zone),
            "--namespace", options.namespace, "--tpu-type", str(options.tpu_type),
            "--num-slices", str(options.num_slices), "--priority", options.priority,
            "--docker-image", self.image, "--docker-name", jobset.CONTAINER, "--max-restarts", "0",
            "--termination-grace-period-seconds", str(cluster.POD_GRACE),
            *options.arguments,
            *(f"--env={variable}" for variable in variables),
            f"--command={jobset.command_line(command)}",
        )  # fmt: skip
        texts = "\n".join((*argv, *command, *invocation.files.values()))
        jobset.check_no_secret(texts, "the workload", self._variables(run))
        return argv

    def _variables(self, run: Run) -> dict[str, str]:
        """All variables whose values may be secret."""
        return {**os.environ, **self.invocation(run).environment}

    def manifest(self, run: Run, workload: str, folder: Path) -> Path:
        """Write the JobSet of `run` into `folder`. Raises BadInput where a token would be in it."""
        path = folder / JOBSET
        argv = self.create(run, workload, jobset.xpk(default_cache_dir(), self.progress), path)
        made = jobset.generate(argv, path)
        if self.options.secret is not None:
            made = jobset.with_secret(made, self.options.secret)
        if self.options.comment is not None:
            made = jobset.with_comment(made, self.options.comment)
        text = yaml.safe_dump(made, sort_keys=False, width=10_000)
        jobset.check_no_secret(text, "the JobSet", self._variables(run))
        files.write_text(path, text)
        return path

    def commands(self, run: Run) -> list[tuple[str, ...]]:
        """Building and pushing the image, where it is ours; making and submitting the JobSet."""
        image: list[tuple[str, ...]] = []
        if self.options.image is None:
            image = [
                self.options.built.build(self.image, "CONTEXT"),
                ("docker", "push", self.image),
            ]
        workload = self.options.workload or f"parity-{run.name}"
        create = self.create(run, workload, Path("xpk"), Path(JOBSET))
        return [*image, create, self._cluster.argv("create", "--filename", JOBSET)]

    # --- where it is run ------------------------------------------------------------------------

    @property
    def _cluster(self) -> Cluster:
        name = f"{self.options.project}-{self.options.zone}-{self.options.cluster}"
        folder = default_cache_dir() / "kubeconfig"
        return Cluster(
            folder / f"{re.sub('[^a-zA-Z0-9-]', '-', name)}.yaml", self.options.namespace
        )

    def check(self) -> None:
        """Raises BadInput where the cluster, its Secret or the artifact directory is not there."""
        sdk = "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install)"
        cluster.need("gcloud", "to find the cluster", sdk)
        cluster.need("kubectl", "to submit workloads", "`gcloud components install kubectl`")
        if self.options.image is None:
            images.check_engine("xpk")
        Artifacts(str(self.options.artifact_dir), "check").check()
        self._log_in()
        if self.options.secret is not None and not self._cluster.has_secret(self.options.secret):
            raise BadInput(
                f"launcher.options.secret={self.options.secret}: there is no such Secret in the "
                f"namespace {self.options.namespace} of {self.options.cluster}. Make it from a "
                f"file that holds the token: `kubectl create secret generic {self.options.secret} "
                "--from-file=HF_TOKEN=FILE`"
            )

    def _log_in(self) -> None:
        """Have xpk find the cluster, and write its address and our credentials for kubectl."""
        self.progress(f"looking for the cluster {self.options.cluster}")
        self._cluster.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        xpk = jobset.xpk(default_cache_dir(), self.progress)
        done = subprocess.run(
            [
                str(xpk), "workload", "list", "--cluster", str(self.options.cluster),
                "--project", str(self.options.project), "--zone", str(self.options.zone),
                "--namespace", self.options.namespace,
            ],
            env=self._cluster.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        if done.returncode != 0:
            raise BadInput(
                f"launcher=xpk: the cluster {self.options.cluster} (project "
                f"{self.options.project}, zone {self.options.zone}) cannot be used: "
                f"{images.last_words(done.stdout)} Log in with `gcloud auth login`, and see that "
                "`xpk cluster list` names it; `parity use` changes it"
            )

    def launch(self, run: Run, on_event: OnEvent) -> Termination:
        """Submit it, wait for it, and put its hosts' Records together."""
        images.check_interpreter(run)
        if self.options.image is None and not images.exists(self.image, remote=True):
            images.build(self.options.built, self.image, self.progress)
            images.push(self.image, self.progress)
        workload = self.options.workload or workload_name(run)
        artifacts = Artifacts(str(self.options.artifact_dir), workload)
        manifest = self.manifest(run, workload, run.places.record)
        self._send(run, artifacts)
        hosts = jobset.hosts_of(yaml.safe_load(manifest.read_text()))
        started = time.monotonic()
        log = run.places.record / layout.LOG
        state: State | None = None
        try:
            # Within: a cluster that is silent, or that Ctrl-C comes before, may have taken it.
            self._cluster.apply(manifest)
            self.progress(f"submitted {workload} ({hosts} hosts) to {self.options.cluster}")
            state = wait(
                self._cluster, workload, run.places.record,
                Patience(self.limits, self.options.queue_limit, started), artifacts, on_event,
                self.progress,
            )  # fmt: skip
        finally:
            if state is None or state.name not in (cluster.SUCCEEDED, cluster.FAILED):
                self._delete(workload)
        if run.places.output is not None:
            self.progress(f"outputs of every host: {artifacts.url}/host-*/{OUTPUTS}")
        folders = artifacts.collect(run.places.record)
        for folder in folders:
            if (folder / layout.DUMP).is_dir():
                shutil.move(folder / layout.DUMP, run.places.scratch / layout.DUMP)
        if folders:
            merge_hosts(folders, run.places.record, run.micro_batch, hosts)
        seconds = time.monotonic() - started
        return termination_of(state, folders, hosts, log, seconds, self.limits.signs)

    def _delete(self, workload: str) -> None:
        """End `workload`; where that fails, say how to: it may hold its TPUs for hours."""
        error: str | None = "it was interrupted"
        try:
            error = self._cluster.delete(workload)
        finally:
            if error is not None:
                self.progress(
                    f"{workload} could not be deleted ({error}): if it is there, it holds its TPUs."
                    f" Delete it by `{self._cluster.deletion(workload)}`"
                )

    def _send(self, run: Run, artifacts: Artifacts) -> None:
        """Put all that the pods need into the artifact directory."""
        self.progress(f"sending code and inputs to {artifacts.directory}")
        places, pod = run.places, self.places(run)
        fetch = {
            artifacts.store(f"inputs-{places.inputs.name}", places.inputs): pod.inputs,
            artifacts.store_code("harness", places.package): pod.package,
        }
        if places.source is not None and pod.source is not None:
            fetch[artifacts.store_code("source", places.source)] = pod.source
        for i, folder in enumerate(run.interpreter.pythonpath):
            fetch[artifacts.store(f"overlay-{folder.name}", folder)] = self.root / f"overlay-{i}"
        job = {
            "fetch": {url: str(folder) for url, folder in fetch.items()},
            "record": str(pod.record),
            "cwd": str(pod.scratch),
            "dump": str(pod.scratch / layout.DUMP),
            "outputs": None if pod.output is None else str(pod.output),
        }
        artifacts.send(job, self.root, self.invocation(run).files)


def workload_name(run: Run) -> str:
    """A name that no other workload has; names of pods and of Kueue leave it few characters."""
    return f"parity-{run.name[:18].rstrip('-')}-{secrets.token_hex(3)}"


def termination_of(
    state: State,
    folders: list[Path],
    hosts: int,
    log: Path,
    seconds: float,
    signs: tuple[Sign, ...] = (),
) -> Termination:
    """How a workload ended: by its JobSet, and by what each of its hosts says."""
    codes = [_code(folder) for folder in folders]
    failed = [code for code in codes if code]
    if state.name == cluster.SUCCEEDED and codes == [0] * hosts:
        return explain(0, log, None, seconds)
    if state.name in (cluster.QUEUED, cluster.RUNNING):
        return explain(1, log, state.reason, seconds)  # it was given up
    if failed:
        return explain(failed[0], log, None, seconds, signs)
    told_by_log = explain(1, log, None, seconds, signs)
    if told_by_log.status in OF_MACHINE:
        return told_by_log
    tail = told_by_log.log
    if state.name == cluster.STUCK:
        return Termination(FAILED, state.reason, None, seconds, tail)
    if state.name == cluster.SUCCEEDED:
        reason = f"it ended well, but only {codes.count(0)} of {hosts} hosts sent a Record"
        return Termination(FAILED, reason, None, seconds, tail)
    if state.reason.startswith(cluster.OOM_KILLED):
        return Termination(OUT_OF_MEMORY, state.reason, None, seconds, tail)
    return Termination(KILLED, state.reason or "its JobSet failed", None, seconds, tail)


def _code(folder: Path) -> int | None:
    path = folder / HOST_FILE
    return int(json.loads(path.read_text())["code"]) if path.is_file() else None
