"""The container that a run would get: seen without a Docker engine."""

import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from launcher_samples import NASTY, run

from harness.base.errors import BadInput
from harness.environments.interpreters import LOCK
from harness.environments.sources import default_cache_dir
from harness.launchers import images, local
from harness.launchers.docker import Docker, DockerOptions, by_signal, contained
from harness.launchers.images import Image
from harness.launchers.invocation import Invocation
from harness.launchers.launcher import Launcher, options_of
from harness.record.termination import KILLED, OUT_OF_MEMORY, TIMED_OUT, explain

TOKEN = "hf_ThisIsATokenThatNobodyMaySee"
OPTIONS = DockerOptions(forward=["HF_TOKEN", "LIBTPU_INIT_ARGS"])


def launcher(options: DockerOptions = OPTIONS, limit: float = 60) -> Docker:
    return Docker(options, local.Limits(limit, limit), print)


def values(argv: tuple[str, ...], option: str) -> list[str]:
    """Values of an option that stands before the image."""
    return [argv[i + 1] for i, word in enumerate(argv[: argv.index("-m")]) if word == option]


def mounts(argv: tuple[str, ...]) -> dict[str, set[str]]:
    """Options of each mount by its target, read as Docker reads them."""
    found = {}
    for value in values(argv, "--mount"):
        (fields,) = csv.reader(io.StringIO(value))
        named = dict(f.split("=", 1) for f in fields if "=" in f)
        assert named["type"] == "bind"
        assert named["source"] == named["target"]
        found[named["target"]] = {f for f in fields if "=" not in f}
    return found


def test_it_is_a_launcher() -> None:
    made: Launcher = launcher()
    assert made.here


def test_a_container_has_what_a_tpu_needs_and_a_name_to_end_it_by(tmp_path: Path) -> None:
    argv = launcher().container(run(tmp_path)).argv
    assert argv[:3] == ("docker", "run", "--rm")
    for words in (
        ["--privileged"], ["--net", "host"], ["--shm-size", "16g"],
        ["--name", "parity-hf-0123456789ab"], ["--init"],
    ):  # fmt: skip
        position = argv.index(words[0])
        assert list(argv[position : position + len(words)]) == words


def test_the_command_in_it_is_the_probe_with_every_argument(tmp_path: Path) -> None:
    made, job = launcher(), run(tmp_path, NASTY)
    argv = made.container(job).argv
    command = argv[argv.index(made.image) + 1 :]
    assert command == made.invocation(job).argv
    assert command[:3] == (images.PYTHON, "-m", "harness.probe")
    assert command[command.index("train.py") + 1 :] == NASTY


def test_variables_are_named_and_never_valued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    container = launcher().container(run(tmp_path, environment={"ALSO": TOKEN}))
    assert TOKEN not in " ".join(container.argv)
    names = values(container.argv, "--env")
    assert names == sorted(
        ["ALSO", "HF_TOKEN", "PJRT_DEVICE", "PYTHONPATH", "PYTHONUNBUFFERED", "XLA_USE_SPMD"]
    )
    assert container.environment["PJRT_DEVICE"] == "TPU"
    assert "HF_TOKEN" not in container.environment


def test_folders_are_mounted_at_their_own_paths_and_only_two_can_be_written(
    tmp_path: Path,
) -> None:
    job = run(tmp_path, source=True, overlay=True)
    more = tmp_path / "a, b"
    argv = launcher(replace(OPTIONS, mounts=[str(more)])).container(job).argv
    places = job.places
    writable = {str(places.record), str(places.scratch)}
    outputs = replace(job, places=replace(places, output=Path("/my/outputs")))
    mounted = mounts(launcher(OPTIONS).container(outputs).argv)
    assert {p for p, options in mounted.items() if not options} == {*writable, "/my/outputs"}
    readable = {
        str(places.inputs), str(places.package), str(places.source),
        str(job.interpreter.pythonpath[0]), str(more),
    }  # fmt: skip
    found = mounts(argv)
    assert {path for path, options in found.items() if not options} == writable
    assert {path for path, options in found.items() if options == {"readonly"}} == readable
    assert set(found) == writable | readable
    assert values(argv, "--workdir") == [str(places.scratch)]


def test_the_commands_can_be_shown_without_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    made = launcher()
    build, start = made.commands(run(tmp_path))
    assert build[:2] == ("docker", "build")
    assert build[build.index("--tag") + 1] == made.image
    assert start[:2] == ("docker", "run")
    assert made.image in start
    ready = launcher(replace(OPTIONS, image="mine:1"))
    (only,) = ready.commands(replace(run(tmp_path / "b")))
    assert "mine:1" in only


# --- the image ------------------------------------------------------------------------------------


def test_an_image_is_named_by_all_that_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "torch-2.9.0-cp311-cp311-linux_x86_64.whl"
    wheel.write_bytes(b"one")
    images_ = [Image("python:3.11"), Image("python:3.12"), Image("python:3.11", "2.8.0")]
    images_.append(Image("python:3.11", wheels=tmp_path))
    tags = [image.tag for image in images_]
    wheel.write_bytes(b"two")
    tags.append(images_[-1].tag)
    monkeypatch.setattr("harness.launchers.images.LOCK", wheel)
    tags.append(Image("python:3.11").tag)
    assert len(set(tags)) == len(tags)
    assert Image("python:3.11").tag == tags[-1]


def test_the_image_is_part_of_a_runs_identity() -> None:
    other = launcher(replace(OPTIONS, torch_xla="2.8.0"))
    assert launcher().identity != other.identity
    assert launcher().image.startswith("parity-harness:")


def test_the_build_is_told_everything_and_given_every_file(tmp_path: Path) -> None:
    (tmp_path / "torch.whl").write_bytes(b"")
    image = Image("us-docker.pkg.dev/base:1", "2.8.0", tmp_path)
    arguments = [word for word in image.build("x", "CONTEXT") if word.startswith("--build-arg=")]
    assert "--build-arg=BASE_IMAGE=us-docker.pkg.dev/base:1" in arguments
    assert "--build-arg=TORCH_XLA=2.8.0" in arguments
    context = tmp_path / "context"
    image.write_context(context)
    dockerfile = (context / "Dockerfile").read_text()
    for line in dockerfile.splitlines():
        if line.startswith("COPY "):
            *sources, _ = line.split()[1:]
            assert all((context / source).exists() for source in sources), line
    declared = {line.split()[1].split("=")[0] for line in dockerfile.splitlines()
                if line.startswith("ARG ")}  # fmt: skip
    assert declared == set(image.arguments())
    assert (context / "wheels" / "torch.whl").is_file()


def test_a_folder_without_wheels_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"launcher\.options\.wheels=.*\*\.whl"):
        Image("python:3.11", wheels=tmp_path).files()


def test_the_storage_library_fits_the_lock() -> None:
    """gcsfs has to have the number of fsspec, of which the lock has one."""
    lock = LOCK.read_text().splitlines()
    (fsspec,) = [line.split("==")[1] for line in lock if line.startswith("fsspec==")]
    assert f"gcsfs=={fsspec}" in (images.FOLDER / "storage.txt").read_text().splitlines()


# --- Docker, and none -----------------------------------------------------------------------------


def test_no_docker_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BadInput, match=r"no `docker` on PATH.*launcher=local"):
        launcher().check()


def test_an_engine_that_cannot_be_reached_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker's own client, where it is installed, and a socket behind which nobody is."""
    if subprocess.run(["which", "docker"], capture_output=True).returncode:
        pytest.skip("docker is missing")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(BadInput, match=r"cannot be reached \(.*docker\.sock.*`parity command`"):
        launcher().check()


EVENT = '{"event": "optimizer", "step": 0, "name": "AdamW", "groups": []}'


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A client in place of Docker's, to see what becomes of a container: what it was told.

    Its container writes an event, and hangs.
    """
    log, steps = tmp_path / "docker.log", tmp_path / "here" / "record" / "steps.jsonl"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(
        f"""#!/bin/sh
echo "$@" >> {log}
if [ "$1" = run ]; then echo '{EVENT}' > {steps}; sleep 60; fi
"""
    )
    (tmp_path / "bin" / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return log


def test_a_container_is_removed_when_its_time_is_over(client: Path, tmp_path: Path) -> None:
    ending = launcher(limit=0.5).launch(run(tmp_path), lambda event: None)
    assert ending.status == TIMED_OUT
    calls = client.read_text().splitlines()
    assert calls[-1] == "rm --force parity-hf-0123456789ab"
    assert [line for line in calls if line.startswith("run ")]


def test_a_container_is_removed_on_ctrl_c(client: Path, tmp_path: Path) -> None:
    def interrupt(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launcher().launch(run(tmp_path), interrupt)
    assert client.read_text().splitlines()[-1] == "rm --force parity-hf-0123456789ab"


KILLED_SESSION = """
import sys
from pathlib import Path
from launcher_samples import run
from test_launcher_docker import launcher
launcher().launch(run(Path(sys.argv[1])), lambda event: None)
"""


def test_a_container_is_removed_where_parity_itself_is_killed(client: Path, tmp_path: Path) -> None:
    """The engine's own: no process of this machine that could be ended has it for a child."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *filter(None, sys.path)])
    session = subprocess.Popen(
        [sys.executable, "-c", KILLED_SESSION, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
    )
    wait_for(lambda: "run " in calls(client))
    session.kill()
    session.wait()
    wait_for(lambda: calls(client).rpartition("run ")[2].count("rm --force parity-hf-") == 2)


def calls(client: Path) -> str:
    """What the client was asked for, but for `docker version` and what images it has."""
    return client.read_text() if client.exists() else ""


def wait_for(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("code", [137, 139])
def test_a_process_that_a_signal_ended_in_its_container_was_killed(
    client: Path, tmp_path: Path, code: int
) -> None:
    """Else the machine's doing would be told as the candidate's failure."""
    (tmp_path / "bin" / "docker").write_text(f"#!/bin/sh\n[ $1 != run ] || exit {code}\n")
    ending = launcher().launch(run(tmp_path), lambda event: None)
    assert (ending.status, ending.code) == (KILLED, 128 - code)
    assert signal.Signals(code - 128).name in ending.reason


@pytest.mark.parametrize("code", [-9, 0, 1, 125, 126, 127, 128, 193, 255])
def test_no_other_exit_code_is_a_signals(tmp_path: Path, code: int) -> None:
    log = tmp_path / "trainer.log"
    log.write_text("ValueError: broken\n")
    ending = explain(code, log, None, 1.0)
    assert by_signal(ending, log) == ending


@pytest.mark.parametrize(
    ("text", "given_up", "status"),
    [("RESOURCE_EXHAUSTED", None, OUT_OF_MEMORY), ("x", "it ran for longer", TIMED_OUT)],
)
def test_what_else_is_known_of_an_ending_stays(
    tmp_path: Path, text: str, given_up: str | None, status: str
) -> None:
    log = tmp_path / "trainer.log"
    log.write_text(f"{text}\n")
    ending = explain(137, log, given_up, 1.0)
    assert by_signal(ending, log) == replace(ending, code=-9)
    assert ending.status == status


OURS = default_cache_dir().absolute() / "environments"


@pytest.mark.parametrize("python", ["/my/bin/python", f"{OURS}/torch_xla-2.8.0/bin/python"])
def test_an_interpreter_of_this_machine_is_not_replaced_silently(
    client: Path, tmp_path: Path, python: str
) -> None:
    """Else a torch_xla that is gated would pass as the one that the image has."""
    job = run(tmp_path)
    named = replace(job, interpreter=replace(job.interpreter, python=Path(python)))
    with pytest.raises(BadInput, match=rf"python={python}.*launcher\.options\.image"):
        launcher().launch(named, lambda event: None)
    assert not client.exists()


def test_another_transformers_goes_with_the_image(tmp_path: Path) -> None:
    images.check_interpreter(run(tmp_path, overlay=True))


def test_options_that_do_not_exist_are_named() -> None:
    with pytest.raises(BadInput, match=r"launcher\.options\.shmsize.*did you mean shm_size"):
        options_of(DockerOptions, {"shmsize": "1g"})


def test_a_container_of_nothing_but_a_command() -> None:
    invocation = Invocation(("python", "a b"), {"B": "2", "A": "1"}, Path("/w"))
    argv = contained(invocation, "i:1", "n", [Path("/r")], [], "1g").argv
    assert argv == (
        "docker", "run", "--rm", "--init", "--name", "n", "--privileged", "--net", "host",
        "--shm-size", "1g", "--env", "A", "--env", "B",
        "--mount", "type=bind,source=/r,target=/r", "--workdir", "/w", "i:1", "python", "a b",
    )  # fmt: skip
