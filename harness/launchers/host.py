"""Runs on every host of a workload: fetches the run, runs it, and sends its Record back.

`python host.py URL COMMAND…`, where URL is the run's folder in object storage:

    job.json        what to fetch, and where the Record, the working folder and a dump are
    host-<index>/   what this host observed, sent again and again while it runs
    host-<index>/outputs/   what the trainer itself writes (checkpoints, event files, a profile, a
                    dump of compiled graphs), sent as it comes
    host-0/hlo/     the first host's dump of compiled graphs, where there is one: sent in the end

It is copied into the image by itself, so that it imports nothing of the harness.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]

JOB = "job.json"
HOST_FILE = "host.json"
LOG = "trainer.log"
OUTPUTS = "outputs"

SYNC = 30.0
"""Seconds between two looks for something to send."""

TRIES = 5
PAUSE = 2.0
"""How often to try to send the whole Record, and seconds before the second try, then twice that."""


def index(environment: Mapping[str, str]) -> int:
    """This host's index among all hosts of all slices, from what GKE sets in a TPU pod.

    Without a TPU, the index that an Indexed Job gives its pods. It names a folder and nothing
    else: which part of a batch a host loads is said by its own Record.
    """
    worker = environment.get("TPU_WORKER_ID") or environment.get("JOB_COMPLETION_INDEX") or "0"
    workers = [name for name in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    return int(environment.get("MEGASCALE_SLICE_ID") or "0") * len(workers) + int(worker)


def storage(url: str) -> tuple[Any, str]:
    """The file system of `url`, and the path within it."""
    options = {"auto_mkdir": True} if url.startswith("file:") else {}
    found: tuple[Any, str] = fsspec.core.url_to_fs(url, **options)
    return found


def fetch(sources: Mapping[str, str]) -> None:
    """Unpack every archive, by URL, into its folder."""
    for url, folder in sources.items():
        Path(folder).mkdir(parents=True, exist_ok=True)
        system, path = storage(url)
        with system.open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            archive.extractall(folder, filter="fully_trusted")


class Sender:
    """Sends the files of a folder that are new or changed."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.sent: dict[Path, tuple[int, int]] = {}

    def send(self) -> None:
        """Send what has changed since the last time."""
        system, target = storage(self.url)
        for path in sorted(self.folder.rglob("*")):
            if not path.is_file() or path.name.startswith("."):
                continue
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if self.sent.get(path) != stamp:
                system.put_file(str(path), f"{target}/{path.relative_to(self.folder).as_posix()}")
                self.sent[path] = stamp


def run(command: list[str], cwd: str, log: Path, senders: list[Sender]) -> int:
    """Run `command`, its output into `log` and onto ours; send as it goes. Its exit code."""
    process = subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    # Kubernetes asks a pod to end before it ends it: what was observed so far is still sent.
    before = signal.signal(signal.SIGTERM, lambda number, _: os.killpg(process.pid, number))
    copier = threading.Thread(target=_copy, args=(process.stdout, log))
    copier.start()
    while True:
        try:
            process.wait(SYNC)
            break
        except subprocess.TimeoutExpired:
            try:
                for sender in senders:
                    sender.send()
            except Exception as error:  # the network may be back next time
                print(f"host.py: nothing was sent: {error!r}", flush=True)
    copier.join()
    signal.signal(signal.SIGTERM, before)
    return process.returncode


def _copy(stream: Any, log: Path) -> None:
    with stream, log.open("wb", buffering=0) as file:
        while data := stream.read1(65536):
            file.write(data)
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def main(arguments: list[str]) -> int:
    """Fetch, run and send. Returns the command's exit code, 128 + n for signal n."""
    url, *command = arguments
    number = index(os.environ)
    system, path = storage(f"{url}/{JOB}")
    job = json.loads(system.cat_file(path))
    fetch(job["fetch"])
    record = Path(job["record"])
    record.mkdir(parents=True, exist_ok=True)
    Path(job["cwd"]).mkdir(parents=True, exist_ok=True)
    senders = [Sender(record, f"{url}/host-{number}")]
    if job.get("outputs"):
        outputs = Path(job["outputs"])
        outputs.mkdir(parents=True, exist_ok=True)
        senders.append(Sender(outputs, f"{url}/host-{number}/{OUTPUTS}"))
    code = run(command, job["cwd"], record / LOG, senders)
    (record / HOST_FILE).write_text(json.dumps({"code": code, "name": socket.gethostname()}))
    if number == 0:
        dump = Path(job["dump"])
        senders.append(Sender(dump, f"{url}/host-{number}/{dump.name}"))
    for left in reversed(range(TRIES)):
        try:
            for each in senders:
                each.send()
            break
        except Exception as error:
            print(f"host.py: the Record was not sent: {error!r}", flush=True)
            if left == 0:
                raise
            time.sleep(PAUSE * 2 ** (TRIES - 1 - left))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
