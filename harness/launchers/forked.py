"""Launches trainers from servers that have their libraries imported: see `probe/fork_server.py`.

A run is forked only where nothing tells it from a launch of its own. A server belongs to one
interpreter and one environment, and whatever a library may read while it is imported has to be the
same for all of its runs. Where it is not, or may not be, the run is launched by itself.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.base.processes import REAPER, RUN_VARIABLE
from harness.base.progress import Progress
from harness.launchers import local
from harness.launchers.invocation import Invocation
from harness.launchers.local import Process
from harness.probe.fork_server import LIMITS

COMMON_LIBRARIES = ("torch", "torch_xla", "harness.probe.observer")
"""Modules that every trainer has before its script begins."""

OF_ONE_RUN = ("PYTHONPATH", "PYTEST_CURRENT_TEST", RUN_VARIABLE)
"""Variables that may differ between the runs of a server. The first is honoured by hand, the others
are read by no library while it is imported."""

AT_MOST = 3
"""Interpreters and environments that have servers at a time. One takes about 0.7 GB of memory, most
of which its branches and its runs share."""

PADDING = " " * 16_384
"""Room for the arguments of a run, as `ps` shows them."""


IMPORT_TIMEOUT = 300.0
"""Seconds within which a server has imported everything, or is given up."""

SERVER_GRACE = 5.0
"""Seconds between asking a server to end and ending it."""


@dataclass(frozen=True)
class Imports:
    """What a run's process may have imported before it begins.

    libraries:   modules, as far as they are installed
    path:        folders of PYTHONPATH that the interpreter's libraries come from
    interpreter: hash of the interpreter and its packages
    first:       modules that are there before the probe's hooks are
    """

    libraries: tuple[str, ...]
    path: tuple[Path, ...]
    interpreter: str
    first: tuple[str, ...] = COMMON_LIBRARIES


class Refused(Exception):
    """The run cannot be forked, for this reason."""


SERVER_ENDED = "the server that has its libraries imported has ended"


class Gone(Refused):
    """The server that was asked has ended, or does not answer."""


class Forked:
    """A trainer that a server has forked; to be used like a `subprocess.Popen`."""

    def __init__(self, pid: int, answers: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.answers = answers

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired` after `timeout` seconds."""
        if self.returncode is None:
            if not select.select([self.answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked trainer", timeout or 0.0)
            # A server that is gone has taken its children with it.
            answer = _read(self.answers)
            self.returncode = -signal.SIGKILL if answer is None else int(answer["returncode"])
            self.answers.close()
        return self.returncode


@dataclass
class ServerHandle:
    """The socket that a server listens to, and what it has forked."""

    control: socket.socket
    forked: list[Forked]

    @property
    def busy(self) -> bool:
        """Whether something runs that it has forked."""
        return any(process.poll() is None for process in self.forked)

    def ask(self, message: Mapping[str, Any], standard: tuple[int, int, int]) -> socket.socket:
        """Ask for a process. Returns the socket on which `answered` waits for it. Raises Gone."""
        own, theirs = socket.socketpair()
        own.settimeout(IMPORT_TIMEOUT)
        try:
            with theirs:
                socket.send_fds(self.control, [b"1"], [*standard, theirs.fileno()])
            own.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            own.close()
            raise Gone(SERVER_ENDED) from None
        return own

    def answered(self, own: socket.socket) -> Forked:
        """The process that was asked for, once it is there. Raises Refused where there is none."""
        try:
            answer = _read(own)
        except OSError:
            answer = None
        except BaseException:
            own.close()
            raise
        if answer is None:
            own.close()
            raise Gone(SERVER_ENDED)
        if "refused" in answer:
            own.close()
            raise Refused(str(answer["refused"]))
        process = Forked(int(answer["pid"]), own)
        self.forked = [*(p for p in self.forked if p.returncode is None), process]
        return process


class WarmInterpreter:
    """One interpreter in one environment: a server that has imported `first`, and its branches."""

    def __init__(self, python: str, environment: Mapping[str, str], first: tuple[str, ...]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="parity-server-"))
        (self.folder / "harness").symlink_to(Path(__file__).resolve().parents[1])
        own, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, (str(self.folder), environment.get("PYTHONPATH"))))
        with theirs, self._messages() as messages:
            self.process = subprocess.Popen(
                (
                    python, "-m", "harness.probe.fork_server", str(theirs.fileno()),
                    json.dumps(first), PADDING,
                ),
                cwd=self.folder,
                env={**environment, "PYTHONPATH": path, RUN_VARIABLE: REAPER.mark()},
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )  # fmt: skip
        self.server = ServerHandle(own, [])
        self.requested: dict[tuple[str, ...], socket.socket] = {}
        self.branches: dict[tuple[str, ...], ServerHandle] = {}

    def expect(self, libraries: tuple[str, ...]) -> None:
        """Begin to import these in a branch, if it is not there yet. Waits for nothing."""
        if libraries not in self.requested and libraries not in self.branches:
            with self._messages() as messages, open(os.devnull, "rb") as nothing:
                standard = (nothing.fileno(), messages.fileno(), messages.fileno())
                self.requested[libraries] = self.server.ask({"libraries": libraries}, standard)

    def branch(self, libraries: tuple[str, ...]) -> ServerHandle:
        """The server that has imported these as well. Raises Refused where there can be none."""
        self.expect(libraries)
        if libraries in self.requested:
            process = self.server.answered(self.requested.pop(libraries))
            self.branches[libraries] = ServerHandle(process.answers, [])
        return self.branches[libraries]

    def _messages(self) -> IO[bytes]:
        """A file for what imports print: every trainer's log begins with it."""
        return tempfile.TemporaryFile(dir=self.folder)

    @property
    def busy(self) -> bool:
        """Whether a run is alive that it has forked."""
        return any(server.busy for server in self.branches.values())

    def close(self) -> None:
        """End it, its branches, and whatever still runs that they have forked."""
        servers = (*self.branches.values(), self.server)
        for control in (*self.requested.values(), *(server.control for server in servers)):
            control.close()
        try:
            self.process.wait(SERVER_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the kernel ends what it has forked, see PR_SET_PDEATHSIG
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Pool:
    """The interpreters of this process that have servers, the one that was used last at the end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.interpreters: dict[str, WarmInterpreter] = {}

    def expect(self, invocation: Invocation, imports: Imports) -> None:
        """Begin to import what `invocation` needs, if it can be forked. Waits for nothing."""
        environment = {**os.environ, **invocation.environment}
        if why_not_forked(invocation, environment) is None:
            with self.lock, self._interpreter(invocation, environment, imports) as interpreter:
                interpreter.expect(imports.libraries)

    def fork(self, invocation: Invocation, stream: IO[bytes], imports: Imports) -> Forked:
        """Start `invocation` in a process that has its libraries imported. Raises Refused."""
        environment = {**os.environ, **invocation.environment}
        reason = why_not_forked(invocation, environment)
        if reason is not None:
            raise Refused(reason)
        message = {
            "argv": invocation.argv,
            "cwd": str(invocation.cwd),
            "folders": [f for f in environment.get("PYTHONPATH", "").split(os.pathsep) if f],
            "variables": {name: environment.get(name) for name in OF_ONE_RUN},
            "limits": {name: resource.getrlimit(number) for name, number in LIMITS.items()},
            "umask": _umask(),
        }
        with (
            self.lock,
            open(os.devnull, "rb") as nothing,
            self._interpreter(invocation, environment, imports) as interpreter,
        ):
            server = interpreter.branch(imports.libraries)
            standard = (nothing.fileno(), stream.fileno(), stream.fileno())
            return server.answered(server.ask(message, standard))

    @contextlib.contextmanager
    def _interpreter(
        self, invocation: Invocation, environment: Mapping[str, str], imports: Imports
    ) -> Iterator[WarmInterpreter]:
        """The one that the run belongs to. It is ended where it is gone, or nobody waits for it."""
        shared = {name: value for name, value in environment.items() if name not in OF_ONE_RUN}
        shared["PYTHONPATH"] = os.pathsep.join(map(str, imports.path))
        python = invocation.argv[0]
        key = json.dumps([python, imports.interpreter, imports.first, sorted(shared.items())])
        found = self.interpreters.pop(key, None) or WarmInterpreter(python, shared, imports.first)
        self.interpreters[key] = found
        self._end_unused(key)
        try:
            yield found
        except BaseException as error:
            if isinstance(error, Gone) or not isinstance(error, Refused):
                self.interpreters.pop(key).close()
            raise

    def _end_unused(self, key: str) -> None:
        """End what has not been used for longest, but for that of `key`, as there are too many."""
        for other in list(self.interpreters):
            if len(self.interpreters) <= AT_MOST:
                break
            if other != key and not self.interpreters[other].busy:
                self.interpreters.pop(other).close()

    def close(self) -> None:
        """End every server."""
        with self.lock:
            while self.interpreters:
                self.interpreters.popitem()[1].close()


POOL = Pool()
atexit.register(POOL.close)


def why_not_forked(invocation: Invocation, environment: Mapping[str, str]) -> str | None:
    """Why this run is to be launched by itself; None where it may be forked."""
    if sys.platform != "linux":
        return f"{sys.platform} has no /proc"
    if invocation.argv[1] != "-m":
        return "it is no module of Python that is run"
    folder = str(invocation.cwd)
    for name, value in environment.items():
        if folder in value and name not in OF_ONE_RUN:
            return f"{name} names a folder of this run, and may be read by what is imported"
    return None


def expect(invocation: Invocation, imports: Imports) -> None:
    """Say that this run is coming, so that its server is ready by then."""
    with contextlib.suppress(Refused):  # that is told when it comes
        POOL.expect(invocation, imports)


def start(
    invocation: Invocation, stream: IO[bytes], imports: Imports, progress: Progress
) -> Process:
    """Fork the run, or launch it by itself where it cannot be forked, and say so."""
    try:
        return POOL.fork(invocation, stream, imports)
    except Refused as reason:
        progress(f"launched in an interpreter of its own: {reason}")
        return local.launch_interpreter(invocation, stream)


def _read(answers: socket.socket) -> dict[str, Any] | None:
    """The next line of JSON; None where the other end is closed."""
    line = b""
    while not line.endswith(b"\n"):
        byte = answers.recv(1)  # never more than the line, which is short
        if not byte:
            return None
        line += byte
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def _umask() -> int:
    """This process's; asking the system call for it would change it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("Umask:", 1)[1].split(None, 1)[0], 8)
