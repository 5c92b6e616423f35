"""Runs a command in a container on this machine."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.base.files import expanded
from harness.base.progress import Progress
from harness.base.typed import STRICT
from harness.launchers import images, local
from harness.launchers.invocation import Invocation, watched
from harness.launchers.launcher import OnEvent, Run
from harness.record import layout
from harness.record.termination import TIMED_OUT, Sign, Termination, explain

REPOSITORY = "parity-harness"


@dataclass(frozen=True)
class DockerOptions(images.ImageOptions):
    """`launcher.options` of launcher=docker, beside the image's.

    shm_size:   size of /dev/shm, through which the loader's workers hand over batches
    forward:    variables of this shell that the run gets where they are set; never by value on a
                command line
    mounts:     further folders that the run may read, at the same path
    """

    __pydantic_config__ = STRICT

    shm_size: str = "16g"
    forward: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Docker:
    """Containers of one image. Every folder of a run is mounted at its own path."""

    options: DockerOptions
    limits: local.Limits
    progress: Progress
    here = True

    @property
    def image(self) -> str:
        """The image's reference."""
        return self.options.image or f"{REPOSITORY}:{self.options.built.tag}"

    @property
    def identity(self) -> Mapping[str, str]:
        """The image: its tag names all that is in it."""
        return {"PARITY_IMAGE": self.image}

    def check(self) -> None:
        """Raises BadInput where Docker cannot be used."""
        images.check_engine("docker")

    def invocation(self, run: Run) -> Invocation:
        """The probe in the image's interpreter."""
        return watched(
            run.command,
            run.places,
            images.PYTHON,
            run.interpreter.pythonpath,
            run.environment,
        )

    def container(self, run: Run) -> Invocation:
        """`docker run …` around the run."""
        places = run.places
        sources = () if places.source is None else (places.source,)
        outputs = () if places.output is None else (places.output,)
        return contained(
            self.invocation(run),
            self.image,
            container_name(run),
            writable=(places.record, places.scratch, *outputs),
            readable=(
                places.inputs, places.package, *sources, *run.interpreter.pythonpath,
                *(expanded(mount).resolve() for mount in self.options.mounts),
            ),
            shm_size=self.options.shm_size,
            forward=[name for name in self.options.forward if name in os.environ],
        )  # fmt: skip

    def commands(self, run: Run) -> list[tuple[str, ...]]:
        """The build, where the image is ours, and the run."""
        build = [] if self.options.image else [self.options.built.build(self.image, "CONTEXT")]
        return [*build, self.container(run).argv]

    def launch(self, run: Run, on_event: OnEvent) -> Termination:
        """Run it in a container, which is removed whatever happens."""
        images.check_interpreter(run)
        if self.options.image is None and not images.exists(self.image):
            images.build(self.options.built, self.image, self.progress)
        container = self.container(run)
        container.write_files()
        with _removed(container_name(run)):
            ended = local.launch(container, run.places.record, self.limits, on_event)
        self._own(run)
        return by_signal(ended, run.places.record / layout.LOG, self.limits.signs)

    def _own(self, run: Run) -> None:
        """Give what root wrote within the container to who runs the harness."""
        if os.getuid() == 0:
            return
        folders = [str(run.places.record), str(run.places.scratch)]
        owner = f"{os.getuid()}:{os.getgid()}"
        mounts = [option for folder in folders for option in ("--mount", _mount(folder))]
        subprocess.run(
            ["docker", "run", "--rm", *mounts, self.image, "chown", "-R", owner, *folders],
            stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip


def by_signal(ended: Termination, log: Path, signs: tuple[Sign, ...] = ()) -> Termination:
    """The Termination of a container, judged as that of the process in it.

    `docker run` exits with 128 and the number of the signal that ended the process. Its own exit
    codes, 125 to 127, are none of these.
    """
    if ended.code is None or ended.code - 128 not in signal.valid_signals():
        return ended
    given_up = ended.reason if ended.status == TIMED_OUT else None
    return explain(128 - ended.code, log, given_up, ended.seconds, signs)


def container_name(run: Run) -> str:
    """The container's name, by which it is ended from outside."""
    return f"parity-{run.name}"


def contained(
    invocation: Invocation,
    image: str,
    name: str,
    writable: Iterable[Path],
    readable: Iterable[Path],
    shm_size: str,
    forward: Iterable[str] = (),
) -> Invocation:
    """`invocation` within a container of `image`.

    Variables are named on the command line and taken from the environment of `docker` itself: a
    command line can be read by every user of the machine.
    """
    names = sorted({*invocation.environment, *forward})
    return dataclasses.replace(
        invocation,
        argv=(
            "docker", "run", "--rm", "--init", "--name", name,
            # What a TPU VM's chips need, and what the hosts of a slice need to find each other.
            "--privileged", "--net", "host", "--shm-size", shm_size,
            *(option for n in names for option in ("--env", n)),
            *(option for p in writable for option in ("--mount", _mount(str(p)))),
            *(option for p in dict.fromkeys(readable)
              for option in ("--mount", _mount(str(p), "readonly"))),
            "--workdir", str(invocation.cwd),
            image,
            *invocation.argv,
        ),
    )  # fmt: skip


def _mount(path: str, *options: str) -> str:
    """The value of `--mount`, which Docker reads as a line of CSV."""
    line = io.StringIO()
    fields = ["type=bind", f"source={path}", f"target={path}", *options]
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


REMOVER = """
read -r ended
docker rm --force "$1"
[ -n "$ended" ] || { sleep 2; docker rm --force "$1"; }
"""
"""A shell that removes a container when it is told that the run has ended, or when whoever would
tell is gone. Docker may have been about to make the container then: it looks a second time."""


@contextlib.contextmanager
def _removed(name: str) -> Iterator[None]:
    """No container of this name is there before, or left after, however this process ends.

    A container is a child of Docker's engine: it outlives `docker run`. Where this process is
    killed, a shell in a session of its own is left to remove it.
    """
    subprocess.run(["docker", "rm", "--force", name], stdin=subprocess.DEVNULL, capture_output=True)
    remover = subprocess.Popen(
        ["sh", "-c", REMOVER, "sh", name],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        remover.communicate(b"ended\n")
