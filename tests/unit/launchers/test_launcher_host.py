"""What runs on a host of a cluster: it fetches, runs and sends, whatever the command does."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest

from harness.base.errors import BadInput
from harness.launchers import host
from harness.launchers.artifacts import Artifacts

WORKLOAD = "parity-hf-0123"


@pytest.mark.parametrize(
    ("environment", "index"),
    [
        ({}, 0),
        ({"TPU_WORKER_ID": "3", "TPU_WORKER_HOSTNAMES": "a,b,c,d"}, 3),
        ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_SLICE_ID": "1"}, 2),
        ({"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_SLICE_ID": "2"}, 5),
        ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_SLICE_ID": "3"}, 3),
        ({"JOB_COMPLETION_INDEX": "2"}, 2),
        ({"TPU_WORKER_ID": "1", "JOB_COMPLETION_INDEX": "2"}, 1),
    ],
)
def test_the_index_is_unique_over_all_slices(environment: dict[str, str], index: int) -> None:
    assert host.index(environment) == index


@pytest.fixture(params=["file", "memory"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An artifact directory behind fsspec, as gs:// is."""
    if request.param == "file":
        yield f"file://{tmp_path}/bucket"
        return
    yield f"memory://{tmp_path.name}"
    fsspec.filesystem("memory").store.clear()


Prepare = Callable[[str], tuple[Artifacts, list[str]]]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Sends a run with one folder and one file; its arguments for the host."""

    def send(bucket: str) -> tuple[Artifacts, list[str]]:
        artifacts = Artifacts(bucket, WORKLOAD)
        folder = tmp_path / "inputs"
        folder.mkdir()
        (folder / "rows.npz").write_bytes(b"rows")
        root = tmp_path / "pod"
        job = {
            "fetch": {artifacts.store("inputs-1f", folder): str(root / "inputs")},
            "record": str(root / "record"),
            "cwd": str(root / "scratch"),
            "dump": str(root / "scratch" / "hlo"),
            "outputs": str(root / "outputs"),
        }
        artifacts.send(job, root, {root / "scratch" / "spec.json": '{"steps": "é"}'})
        return artifacts, [artifacts.url, sys.executable, "-c"]

    return send


def test_a_run_is_fetched_run_and_sent(
    bucket: str, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:  # fmt: skip
    artifacts, arguments = prepare(bucket)
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    script = (
        "import pathlib; print(pathlib.Path('spec.json').read_text());"
        "record = pathlib.Path('../record/tensorboard'); record.mkdir();"
        "(record / 'events').write_bytes(pathlib.Path('../inputs/rows.npz').read_bytes())"
    )
    assert host.main([*arguments, script]) == 0
    (folder,) = artifacts.collect(tmp_path / "collected")
    assert folder.name == "host-1"
    assert (folder / "tensorboard" / "events").read_bytes() == b"rows"
    assert (folder / "trainer.log").read_text() == '{"steps": "é"}\n'
    assert json.loads((folder / "host.json").read_text())["code"] == 0


@pytest.mark.parametrize(("worker", "sent"), [("0", ["module_0000.txt"]), ("1", [])])
def test_the_first_host_sends_the_dump_of_its_graphs(
    bucket: str, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: str,
    sent: list[str],
) -> None:  # fmt: skip
    artifacts, arguments = prepare(bucket)
    monkeypatch.setenv("TPU_WORKER_ID", worker)
    script = "import os; os.mkdir('hlo'); open('hlo/module_0000.txt', 'w').write('HloModule')"
    assert host.main([*arguments, script]) == 0
    (folder,) = artifacts.collect(tmp_path / "collected")
    assert [path.name for path in folder.glob("hlo/*")] == sent


@pytest.mark.parametrize("worker", ["0", "1"])
def test_what_a_trainer_writes_is_sent_by_every_host_and_stays_there(
    bucket: str, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: str
) -> None:
    artifacts, arguments = prepare(bucket)
    monkeypatch.setenv("TPU_WORKER_ID", worker)
    script = (
        "import pathlib; out = pathlib.Path('../outputs/checkpoint-5'); out.mkdir(parents=True);"
        "(out / 'größe.safetensors').write_bytes(b'weights')"
    )
    assert host.main([*arguments, script]) == 0
    (folder,) = artifacts.collect(tmp_path / "collected")
    assert not (folder / host.OUTPUTS).exists()  # checkpoints are not brought back
    name = f"host-{worker}/{host.OUTPUTS}/checkpoint-5/größe.safetensors"
    assert artifacts.fetch_file(name, tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("import sys; print('half'); sys.exit(3)", 3, 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137, -9),
        ("raise ValueError('broken')", 1, 1),
    ],
)
def test_a_run_that_fails_sends_what_it_observed(
    bucket: str, prepare: Prepare, tmp_path: Path, script: str, code: int, said: int
) -> None:
    artifacts, arguments = prepare(bucket)
    assert host.main([*arguments, script]) == code
    (folder,) = artifacts.collect(tmp_path / "collected")
    assert json.loads((folder / "host.json").read_text())["code"] == said
    assert (folder / "trainer.log").is_file()


def test_events_are_sent_while_it_runs(
    bucket: str, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "SYNC", 0.05)
    artifacts, arguments = prepare(bucket)
    seen: list[bytes] = []
    original = host.Sender.send

    def send(sender: host.Sender) -> None:
        original(sender)
        if artifacts.fetch_file("host-0/steps.jsonl", tmp_path / "steps.jsonl"):
            seen.append((tmp_path / "steps.jsonl").read_bytes())

    monkeypatch.setattr(host.Sender, "send", send)
    script = (
        "import time; f = open('../record/steps.jsonl', 'w', buffering=1);"
        "print('one', file=f); time.sleep(0.4); print('two', file=f)"
    )
    assert host.main([*arguments, script]) == 0
    assert seen[0] == b"one\n"
    assert seen[-1] == b"one\ntwo\n"


def test_only_what_has_changed_is_sent_again(tmp_path: Path) -> None:
    (tmp_path / "record").mkdir()
    sender = host.Sender(tmp_path / "record", f"file://{tmp_path}/bucket/host-0")
    (tmp_path / "record" / "a").write_text("1")
    (tmp_path / "record" / ".half").write_text("written")
    sender.send()
    sent = tmp_path / "bucket" / "host-0"
    assert [path.name for path in sent.iterdir()] == ["a"]
    (sent / "a").unlink()
    sender.send()
    assert list(sent.iterdir()) == []
    (tmp_path / "record" / "a").write_text("12")
    sender.send()
    assert (sent / "a").read_text() == "12"


def test_storage_that_fails_once_loses_nothing(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts, arguments = prepare(f"file://{tmp_path}/bucket")
    monkeypatch.setattr("harness.launchers.host.PAUSE", 0.0)
    original, calls = host.Sender.send, []

    def send(sender: host.Sender) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("no network")
        original(sender)

    monkeypatch.setattr(host.Sender, "send", send)
    assert host.main([*arguments, "print('trained')"]) == 0
    assert artifacts.collect(tmp_path / "collected")


def test_storage_that_stays_away_is_a_failure(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, arguments = prepare(f"file://{tmp_path}/bucket")
    monkeypatch.setattr("harness.launchers.host.PAUSE", 0.0)

    def send(sender: host.Sender) -> None:
        raise OSError("no network")

    monkeypatch.setattr(host.Sender, "send", send)
    with pytest.raises(OSError, match="no network"):
        host.main([*arguments, "print('trained')"])


def test_a_pod_that_is_asked_to_end_still_sends_its_record(
    prepare: Prepare, tmp_path: Path
) -> None:
    artifacts, arguments = prepare(f"file://{tmp_path}/bucket")
    script = (
        "import time; open('../record/steps.jsonl', 'w').write('one'); open('../up', 'w');"
        "time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, host.__file__, *arguments, script], stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "pod" / "up").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    (folder,) = artifacts.collect(tmp_path / "collected")
    assert (folder / "steps.jsonl").read_text() == "one"
    assert json.loads((folder / "host.json").read_text())["code"] == -signal.SIGTERM


# --- the other end --------------------------------------------------------------------------------


def test_hosts_are_collected_in_order(bucket: str, tmp_path: Path) -> None:
    artifacts = Artifacts(bucket, WORKLOAD)
    for number in (10, 0, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "steps.jsonl").write_text(str(number))
        host.Sender(folder, f"{artifacts.url}/host-{number}").send()
    other = Artifacts(bucket, f"{WORKLOAD}-2")
    host.Sender(folder, f"{other.url}/host-7").send()
    found = artifacts.collect(tmp_path / "collected")
    assert [folder.name for folder in found] == ["host-0", "host-2", "host-10"]
    assert (found[2] / "steps.jsonl").read_text() == "10"


def test_nothing_is_collected_where_no_host_sent_anything(bucket: str, tmp_path: Path) -> None:
    assert Artifacts(bucket, WORKLOAD).collect(tmp_path) == []


def test_a_folder_is_sent_once(bucket: str, tmp_path: Path) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "a").write_text("1")
    url = Artifacts(bucket, "one").store("inputs-1f", folder)
    (folder / "a").write_text("2")
    assert Artifacts(bucket, "two").store("inputs-1f", folder) == url
    host.fetch({url: str(tmp_path / "out")})
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_code_is_sent_without_what_git_ignores_and_again_when_it_changes(
    bucket: str, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
    subprocess.run(["git", "init", "-q", str(code)], check=True, env=environment)
    (code / "train.py").write_text("1")
    (code / ".gitignore").write_text("outputs/\n")
    (code / "outputs").mkdir()
    (code / "outputs" / "big").write_text("x")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["add", "."], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(code), *command], check=True, env=environment)
    artifacts = Artifacts(bucket, WORKLOAD)
    first = artifacts.store_code("source", code)
    system, path = host.storage(first)
    with system.open(path) as stream, tarfile.open(fileobj=stream) as archive:
        names = sorted(member.name for member in archive if member.isfile())
    assert names == ["./.gitignore", "./train.py"]
    assert artifacts.store_code("source", code) == first
    (code / "train.py").write_text("2")
    assert artifacts.store_code("source", code) != first


def test_a_half_sent_archive_does_not_pass_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "a").write_text("1")
    artifacts = Artifacts(f"file://{tmp_path}/bucket", WORKLOAD)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            artifacts.store("inputs-1f", folder)
    url = artifacts.store("inputs-1f", folder)
    host.fetch({url: str(tmp_path / "out")})
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_storage_without_its_library_names_the_library() -> None:
    try:
        import gcsfs  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
    except ImportError:
        with pytest.raises(BadInput, match=r"artifact_dir=gs://bucket/x.*install gcsfs"):
            Artifacts("gs://bucket/x", WORKLOAD).check()
    else:
        pytest.skip("gcsfs is installed")


def test_storage_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"artifact_dir=file://.*cannot be used"):
        Artifacts(f"file://{tmp_path}/file", WORKLOAD).store("inputs-1f", tmp_path)


def test_a_protocol_that_does_not_exist_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"artifact_dir=gss://bucket"):
        Artifacts("gss://bucket/x", WORKLOAD).check()
