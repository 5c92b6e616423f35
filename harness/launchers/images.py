"""The Docker image that an engine environment is shipped in: what is in it names it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import BadInput
from harness.base.files import expanded
from harness.base.progress import Progress
from harness.environments.interpreters import LOCK, base_python
from harness.environments.sources import default_cache_dir
from harness.launchers.launcher import Run

FOLDER = Path(__file__).parent / "image"
HOST_PROGRAM = Path(__file__).parent / "host.py"

PYTHON = "/opt/engine/bin/python"
"""The engines' interpreter within the image."""

HOST_SCRIPT = "/opt/parity/host.py"
"""`harness.launchers.host` within the image."""

CHARACTERS = 12
"""Of the hash of its contents that tags an image: 48 bits."""


@dataclass(frozen=True)
class Image:
    """What an image is made of.

    base:      image to build upon; it needs a Python 3 with pip
    torch_xla: release to install in place of the lock's, with the torch of the same number
    wheels:    folder of wheels to install on top, such as a torch and torch_xla of one's own
    """

    base: str
    torch_xla: str | None = None
    wheels: Path | None = None

    def files(self) -> dict[str, Path]:
        """Everything that the build reads, by its name there. Raises BadInput for no wheels."""
        files = {
            "Dockerfile": FOLDER / "Dockerfile",
            "base.lock.txt": LOCK,
            "host.py": HOST_PROGRAM,
        }
        files["storage.txt"] = FOLDER / "storage.txt"
        if self.wheels is not None:
            wheels = sorted(expanded(self.wheels).glob("*.whl"))
            if not wheels:
                raise BadInput(
                    f"launcher.options.wheels={self.wheels}: there is no folder with *.whl files. "
                    "Name one that has the wheels of torch and torch_xla, or give none"
                )
            files |= {f"wheels/{wheel.name}": wheel for wheel in wheels}
        return files

    def arguments(self) -> dict[str, str]:
        """The build's arguments."""
        uv = importlib.metadata.version("uv")
        return {"BASE_IMAGE": self.base, "UV_VERSION": uv, "TORCH_XLA": self.torch_xla or ""}

    @property
    def tag(self) -> str:
        """Hash of all that the image is made of: an unchanged one is never built twice."""
        digest = hashlib.sha256(repr(sorted(self.arguments().items())).encode())
        for name, path in sorted(self.files().items()):
            digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:CHARACTERS]

    def build(self, reference: str, context: Path | str) -> tuple[str, ...]:
        """The command that builds it as `reference` from the folder `context`."""
        arguments = [f"--build-arg={k}={v}" for k, v in self.arguments().items()]
        return (
            "docker", "build", "--platform", "linux/amd64", "--network", "host",
            "--tag", reference, *arguments, str(context),
        )  # fmt: skip

    def write_context(self, context: Path) -> None:
        """Put all that the build reads into the folder `context`."""
        (context / "wheels").mkdir(parents=True)
        for name, path in self.files().items():
            shutil.copyfile(path, context / name)


def build(image: Image, reference: str, progress: Progress) -> None:
    """Build `image` as `reference`. Raises BadInput with the end of what Docker said."""
    progress(f"building the image {reference} (minutes, 10 GB)")
    with tempfile.TemporaryDirectory(prefix="parity-image-") as temporary:
        context = Path(temporary) / "context"
        image.write_context(context)
        _succeed(image.build(reference, context), f"the image {reference} cannot be built")


def push(reference: str, progress: Progress) -> None:
    """Push `reference` to its registry. Raises BadInput with the end of what Docker said."""
    progress(f"pushing the image {reference}")
    _succeed(
        ("docker", "push", reference),
        f"the image {reference} cannot be pushed (for a registry of Google's, log in with "
        "`gcloud auth configure-docker`)",
    )


def exists(reference: str, remote: bool = False) -> bool:
    """Whether there is such an image here, or in its registry."""
    kind = "manifest" if remote else "image"
    done = subprocess.run(
        ["docker", kind, "inspect", reference], stdin=subprocess.DEVNULL, capture_output=True
    )
    return done.returncode == 0


def check_engine(launcher: str) -> None:
    """Raises BadInput where there is no Docker, or its engine does not answer."""
    if shutil.which("docker") is None:
        raise BadInput(
            f"launcher={launcher} needs Docker, and there is no `docker` on PATH: install it "
            "(https://docs.docker.com/engine/install), or run with launcher=local"
        )
    try:
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        error = last_words(done.stderr)
    except subprocess.TimeoutExpired:
        error, done = "it did not answer within 60 s", None
    if done is None or done.returncode != 0:
        raise BadInput(
            f"launcher={launcher} needs Docker, and its engine cannot be reached ({error}): start "
            "it (`sudo systemctl start docker`), join the group `docker`, or run with "
            "launcher=local. `parity command` shows what would be run, without an engine"
        )


def check_interpreter(run: Run) -> None:
    """Raises BadInput where a run is to have an interpreter that no image has.

    An image has what the base environment has, and another transformers is put in front of either.
    Any other environment, also one that we made, would silently be replaced by the image's.
    """
    python = run.interpreter.python
    if python != base_python(default_cache_dir().absolute()):
        raise BadInput(
            f"engine.*.python={python} is an interpreter of this machine (torch_xla@VERSION is "
            "gated in one as well), and an image has its own: run with launcher=local; or name "
            "none, and give the image other packages by launcher.options.torch_xla, "
            "launcher.options.wheels or launcher.options.image"
        )


def last_words(text: str, characters: int = 600) -> str:
    """The end of what a command said, in one line, without the rulers and tags of xpk."""
    line = " ".join(re.sub(r"\[XPK\]|\*{5,}|\\n", " ", text).split())
    if len(line) > characters:
        line = "… " + line[-characters:].partition(" ")[2]
    return line or "it said nothing"


def _succeed(argv: tuple[str, ...], otherwise: str) -> None:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    )  # fmt: skip
    if done.returncode != 0:
        raise BadInput(f"{otherwise}: {last_words(done.stdout)}")


@dataclass(frozen=True)
class ImageOptions:
    """`launcher.options` that every launcher has whose runs are in an image.

    image:             an image to run in; null builds one for the environment
    base_image, torch_xla, wheels: what that one is built from; see `Image`
    """

    image: str | None = None
    base_image: str = "python:3.11-slim-bookworm"
    torch_xla: str | None = None
    wheels: str | None = None

    @property
    def built(self) -> Image:
        """The image that is built where none is named."""
        wheels = None if self.wheels is None else Path(self.wheels)
        return Image(self.base_image, self.torch_xla, wheels)
