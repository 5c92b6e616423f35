"""Workloads on a cluster: the real kubectl, and a double of the API server that it speaks with."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from kubernetes_double import Double, pod, serving

from harness.base.errors import BadInput
from harness.launchers import cluster
from harness.launchers.artifacts import Artifacts
from harness.launchers.cluster import Cluster, State, judge_state
from harness.launchers.local import Limits
from harness.launchers.polling import Patience, wait
from harness.record.reader import parse_event

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is missing")

WORKLOAD = "parity-hf-0123"
PENDING = State(cluster.QUEUED, "its pods are not running yet")
COMPLETED = {"conditions": [{"type": "Completed", "status": "True", "message": "all done"}]}


def jobset(**fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": WORKLOAD, "namespace": "team"},
        "spec": {},
        **fields,
    }


# --- what a JobSet and its pods say ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (COMPLETED["conditions"][0], State(cluster.SUCCEEDED, "all done")),
        ({"type": "Failed", "status": "True", "message": "x"}, State(cluster.FAILED, "x")),
        ({"type": "Completed", "status": "False"}, PENDING),
        ({"type": "StartupPolicyCompleted", "status": "True"}, PENDING),
    ],
)
def test_a_condition_counts_only_where_it_is_true(condition: Any, expected: State) -> None:
    assert judge_state(jobset(status={"conditions": [condition]}), []) == expected


def test_a_jobset_that_is_gone_has_failed() -> None:
    assert judge_state(None, []).name == cluster.FAILED


@pytest.mark.parametrize("reason", cluster.REFUSED)
def test_a_container_that_will_never_start_is_stuck(reason: str) -> None:
    waiting = pod("p", WORKLOAD, waiting={"reason": reason, "message": "no such image"})
    running = pod("q", WORKLOAD, running={})
    assert judge_state(jobset(), [running, waiting]) == State(
        cluster.STUCK, f"{reason}: no such image"
    )


def test_a_container_that_is_being_created_is_waited_for() -> None:
    state = judge_state(jobset(), [pod("p", WORKLOAD, waiting={"reason": "ContainerCreating"})])
    assert state.name == cluster.QUEUED


def test_why_a_workload_waits_is_said() -> None:
    assert "Kueue" in judge_state(jobset(spec={"suspend": True}), []).reason
    unschedulable = pod("p", WORKLOAD)
    unschedulable["status"] = {
        "conditions": [{"reason": "Unschedulable", "message": "0/3 nodes have google.com/tpu"}]
    }
    assert judge_state(jobset(), [unschedulable]) == State(
        cluster.QUEUED, "0/3 nodes have google.com/tpu"
    )


def test_a_host_that_ran_out_of_memory_is_named() -> None:
    killed = pod("p-7", WORKLOAD, terminated={"reason": "OOMKilled"})
    failed = jobset(status={"conditions": [{"type": "Failed", "status": "True", "message": "x"}]})
    assert judge_state(failed, [killed]) == State(
        cluster.FAILED, "OOMKilled: p-7 was killed by Kubernetes"
    )


# --- kubectl --------------------------------------------------------------------------------------


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def on(double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("HOME", str(tmp_path))  # kubectl caches what a server knows
    with serving(double, tmp_path / "kubeconfig"):
        yield Cluster(tmp_path / "kubeconfig", "team")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "jobset.yaml"
    path.write_text(json.dumps(jobset()))
    return path


@needs_kubectl
def test_a_workload_is_created_seen_and_deleted(
    on: Cluster, double: Double, manifest: Path
) -> None:
    on.apply(manifest)
    assert double.jobsets[WORKLOAD]["kind"] == "JobSet"
    assert on.state(WORKLOAD) == PENDING
    on.delete(WORKLOAD)
    assert double.jobsets == {}
    assert on.state(WORKLOAD) == judge_state(None, [])


@needs_kubectl
def test_what_the_cluster_refuses_is_bad_input_in_its_words(
    on: Cluster, double: Double, manifest: Path
) -> None:
    double.refusal = "jobsets is forbidden: User me cannot create"
    with pytest.raises(BadInput, match=r"refused.*User me cannot create"):
        on.apply(manifest)


@needs_kubectl
def test_a_cluster_that_does_not_answer_is_no_failure_of_the_workload(
    on: Cluster, double: Double
) -> None:
    double.silent = True
    assert on.state(WORKLOAD) is None


@needs_kubectl
def test_a_secret_is_looked_for_by_name_only(on: Cluster, double: Double) -> None:
    double.secrets.add("parity-secrets")
    assert on.has_secret("parity-secrets")
    assert not on.has_secret("parity-secret")


def test_the_users_own_context_is_left_alone(on: Cluster) -> None:
    assert on.environment["KUBECONFIG"] == str(on.kubeconfig)
    assert os.environ.get("KUBECONFIG") != str(on.kubeconfig)


# --- waiting --------------------------------------------------------------------------------------

EVENTS = [
    '{"event": "optimizer", "step": 0, "name": "AdamW", "groups": []}\n',
    '{"event": "values", "step": 0, "losses": [5.5], "gradient_norm": null}\n',
]


def script(double: Double, *changes: Callable[[], object]) -> None:
    """Make one change before each look at the JobSet; the last one stays."""
    nothing: Callable[[], object] = lambda: None  # noqa: E731
    steps = itertools.chain(changes, itertools.repeat(nothing))
    double.look = lambda: next(steps)()


@pytest.fixture
def waiting(on: Cluster, tmp_path: Path) -> Callable[..., tuple[State, list[Any], list[str]]]:
    record = tmp_path / "record"
    record.mkdir()

    def run(queue: float = 60, time: float = 60, silence: float = 60) -> Any:
        events: list[Any] = []
        notes: list[str] = []
        patience = Patience(Limits(time, silence), queue, submitted=monotonic())
        artifacts = Artifacts(f"file://{tmp_path}/bucket", WORKLOAD)
        state = wait(
            on, WORKLOAD, record, patience, artifacts, events.append, notes.append, poll=0.02
        )
        return state, events, notes

    return run


@needs_kubectl
def test_a_workload_is_followed_from_the_queue_to_its_end(
    waiting: Any, double: Double, tmp_path: Path
) -> None:
    steps = tmp_path / "bucket" / WORKLOAD / "host-0" / "steps.jsonl"
    steps.parent.mkdir(parents=True)
    double.jobsets[WORKLOAD] = jobset(spec={"suspend": True})
    double.logs["p-0"] = b"compiling\nstep 0 loss 5.5\n"

    def admitted() -> None:
        double.jobsets[WORKLOAD] = jobset()
        double.pods = [
            pod("p-0", WORKLOAD, 0, running={}),
            pod("p-1", WORKLOAD, 1, running={}),
        ]
        steps.write_text(EVENTS[0])

    def ended() -> None:
        double.jobsets[WORKLOAD] = jobset(status=COMPLETED)
        steps.write_text("".join(EVENTS))

    script(double, lambda: None, admitted, lambda: None, ended)
    state, events, notes = waiting()
    assert state == State(cluster.SUCCEEDED, "all done")
    assert events == [parse_event(line.encode()) for line in EVENTS]
    assert [note for note in notes if "Kueue" in note]
    assert b"step 0 loss 5.5" in (tmp_path / "record" / "trainer.log").read_bytes()
    assert not [line for line in double.requested if "pods/p-1/log" in line]
    assert [line for line in double.requested if "pods/p-0/log" in line and "follow=true" in line]


@needs_kubectl
def test_a_workload_that_waits_too_long_for_its_tpus_is_given_up(
    waiting: Any, double: Double
) -> None:
    double.jobsets[WORKLOAD] = jobset(spec={"suspend": True})
    state, _, _ = waiting(queue=0.2)
    assert state.name == cluster.QUEUED
    assert "waited for its TPUs" in state.reason
    assert "Kueue" in state.reason


@needs_kubectl
@pytest.mark.parametrize(
    ("limits", "said"), [({"time": 0.3}, "longer than its limit"), ({"silence": 0.3}, "no sign")]
)
def test_a_run_that_hangs_is_given_up(
    waiting: Any, double: Double, limits: dict[str, float], said: str
) -> None:
    double.jobsets[WORKLOAD] = jobset()
    double.pods = [pod("p-0", WORKLOAD, running={})]
    double.logs["p-0"] = b""
    state, _, _ = waiting(queue=0, **limits)
    assert state.name == cluster.RUNNING
    assert said in state.reason


@needs_kubectl
def test_an_image_that_is_not_there_ends_the_waiting(waiting: Any, double: Double) -> None:
    double.jobsets[WORKLOAD] = jobset()
    double.pods = [pod("p-0", WORKLOAD, waiting={"reason": "ImagePullBackOff", "message": "x:1"})]
    state, _, _ = waiting()
    assert state == State(cluster.STUCK, "ImagePullBackOff: x:1")


def test_limits_count_from_when_it_has_its_tpus() -> None:
    patience = Patience(Limits(10, 5), 100, submitted=0)
    assert patience.lost(99, running=False, size=0) is None
    assert patience.lost(100, running=True, size=0) is None
    assert patience.lost(104, running=True, size=1) is None
    assert patience.lost(109, running=True, size=1) is None
    assert "no sign of life" in str(patience.lost(109.5, running=True, size=1))
    assert "longer than its limit" in str(patience.lost(110.5, running=True, size=2))


def test_a_cluster_that_stays_silent_is_given_up_too() -> None:
    patience = Patience(Limits(10, 5), 100, submitted=0)
    assert patience.lost(101, running=False, size=0) is not None
    patience = Patience(Limits(10, 5), 100, submitted=0, began=0, size=0)
    assert patience.lost(6, running=False, size=0) is not None
