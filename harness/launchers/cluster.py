"""A GKE cluster, through kubectl: submit a JobSet, watch it, read its log, delete it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.base.errors import BadInput
from harness.launchers.images import last_words

KUBECTL_TIMEOUT = 120.0
"""How long one call of kubectl may take."""

POD_GRACE = 120
"""Seconds in which a pod that is asked to end may send what it has observed."""

NO_ANSWER = 124
"""Exit code of a kubectl that had no answer within that time; its own is 1."""

REFUSED = (
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError",
    "CreateContainerError", "RunContainerError",
)  # fmt: skip
"""Reasons for which a container waits and will wait for ever."""

OOM_KILLED = "OOMKilled"

QUEUED, RUNNING, SUCCEEDED, FAILED, STUCK = "queued", "running", "succeeded", "failed", "stuck"


@dataclass(frozen=True)
class State:
    """How a workload is doing: one of the words above, and one line about it."""

    name: str
    reason: str = ""


def judge_state(jobset: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]]) -> State:
    """The State of a workload, from its JobSet and its pods as Kubernetes describes them."""
    if jobset is None:
        return State(FAILED, "its JobSet is gone: somebody deleted it, or its time to live ended")
    for condition in jobset.get("status", {}).get("conditions", []):
        if condition.get("status") == "True" and condition.get("type") in ("Completed", "Failed"):
            name = SUCCEEDED if condition["type"] == "Completed" else FAILED
            return State(name, _out_of_memory(pods) or condition.get("message", ""))
    started = False
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses", []):
            waiting = container.get("state", {}).get("waiting", {})
            if waiting.get("reason") in REFUSED:
                return State(STUCK, f"{waiting['reason']}: {waiting.get('message', '')}".strip())
            started = started or bool(container.get("state", {}).keys() & {"running", "terminated"})
    if started:
        return State(RUNNING)
    if jobset.get("spec", {}).get("suspend"):
        return State(QUEUED, "Kueue has not admitted it: its quota is taken, or too small for it")
    reasons = [
        condition.get("message", "")
        for pod in pods
        for condition in pod.get("status", {}).get("conditions", [])
        if condition.get("reason") == "Unschedulable"
    ]
    return State(QUEUED, reasons[0] if reasons else "its pods are not running yet")


def _out_of_memory(pods: Sequence[Mapping[str, Any]]) -> str:
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses", []):
            if container.get("state", {}).get("terminated", {}).get("reason") == OOM_KILLED:
                return f"{OOM_KILLED}: {pod['metadata']['name']} was killed by Kubernetes"
    return ""


@dataclass(frozen=True)
class Cluster:
    """The cluster that `kubeconfig` points at; one's own kubectl context stays as it is."""

    kubeconfig: Path
    namespace: str = "default"

    @property
    def environment(self) -> dict[str, str]:
        """Variables for every command that is to speak with this cluster."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def argv(self, *arguments: str) -> tuple[str, ...]:
        """A kubectl command."""
        return ("kubectl", "--namespace", self.namespace, *arguments)

    def apply(self, manifest: Path) -> None:
        """Create what `manifest` describes.

        Raises BadInput where the cluster refuses, or does not answer: it may have been created.
        """
        done = self._run("create", "--filename", str(manifest))
        if done.returncode == NO_ANSWER:
            raise BadInput(
                f"the cluster did not say whether it takes the workload: {done.stderr}. See that "
                f"`{self.shown('get', 'jobsets')}` has an answer, and run it again"
            )
        if done.returncode != 0:
            raise BadInput(
                f"the cluster refused the workload: {last_words(done.stderr)}. Look at it with "
                f"`kubectl create --dry-run=server --filename {manifest}`, and see that the "
                "cluster was made by `xpk cluster create`, which installs JobSet and Kueue"
            )

    def state(self, workload: str) -> State | None:
        """The State of a workload; None where the cluster does not answer."""
        done = self._run("get", "jobset", workload, "--ignore-not-found", "--output", "json")
        if done.returncode != 0:
            return None
        jobset = json.loads(done.stdout) if done.stdout.strip() else None
        done = self._run("get", "pods", "--selector", _of(workload), "--output", "json")
        if done.returncode != 0:
            return None
        return judge_state(jobset, json.loads(done.stdout)["items"])

    def follow(self, workload: str, log: IO[bytes], since: str | None) -> subprocess.Popen[bytes]:
        """Stream the log of the first slice's first host into `log`, from time `since` on."""
        selector = (
            f"{_of(workload)},jobset.sigs.k8s.io/job-index=0,"
            "batch.kubernetes.io/job-completion-index=0"
        )
        times = ("--tail", "-1") if since is None else ("--since-time", since)
        return subprocess.Popen(
            self.argv("logs", "--follow", "--selector", selector, *times),
            env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def delete(self, workload: str) -> str | None:
        """End a workload and all its pods, if it is there; why it could not be, or None."""
        # kubectl waits until the pods have ended.
        done = self._run(*_deletion(workload), more=POD_GRACE)
        return None if done.returncode == 0 else last_words(done.stderr)

    def deletion(self, workload: str) -> str:
        """The command with which a person ends a workload, from any shell."""
        return self.shown(*_deletion(workload))

    def shown(self, *arguments: str) -> str:
        """A kubectl command for a person, whose own context is another one."""
        return f"KUBECONFIG={shlex.quote(str(self.kubeconfig))} {shlex.join(self.argv(*arguments))}"

    def has_secret(self, name: str) -> bool:
        """Whether there is a Secret of this name. Its values are not asked for."""
        return self._run("get", "secret", name, "--output", "name").returncode == 0

    def _run(self, *arguments: str, more: float = 0.0) -> subprocess.CompletedProcess[str]:
        argv, seconds = self.argv(*arguments), KUBECTL_TIMEOUT + more
        try:
            return subprocess.run(
                argv, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, errors="replace", timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            error = f"no answer within {seconds:.0f} s"
            return subprocess.CompletedProcess(argv, NO_ANSWER, "", error)


def _deletion(workload: str) -> tuple[str, ...]:
    return ("delete", "jobset", workload, "--ignore-not-found", "--cascade", "foreground")


def _of(workload: str) -> str:
    return f"jobset.sigs.k8s.io/jobset-name={workload}"


def need(command: str, what_for: str, way_out: str) -> None:
    """Raises BadInput where `command` is not on PATH."""
    if shutil.which(command) is None:
        raise BadInput(
            f"launcher=xpk needs `{command}` {what_for}, and it is not on PATH: {way_out}"
        )
