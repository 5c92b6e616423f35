"""A process that has imported an engine's libraries, and forks: once for every run.

`python -m harness.probe.fork_server FD LIBRARIES PADDING`, started by `harness.launchers.forked`.
Importing torch, torch_xla and a trainer's libraries takes longer than the few steps of a case; a
fork takes milliseconds. It is made before any device is touched: torch_xla makes its client, and
every thread of it, at the first use of a device.

Over the socket FD comes one byte for every process that is wanted, with four descriptors: its
standard input, output and error, and a socket of its own. The forked child reads from there, as
one line of JSON, what it is to become: a trainer, or a server itself, with more libraries. What it
becomes has a session, working folder, limits, sys.path and arguments as if it had been started by
itself. The server writes to the same socket how the child ended. It ends, and ends its children,
when the other end of FD is closed, however that came about.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.base.processes import RUN_VARIABLE, die_with_parent
from harness.probe import preimported
from harness.probe.exit import freeze

FORKABLE = {"jemalloc_bg_thd"}
"""Threads that may run in a process that forks: jemalloc (in pyarrow) stops and starts its own
around a fork. OpenBLAS ends its threads before one (`pthread_atfork`, see `settle`)."""

LIMITS = {
    name: getattr(resource, name) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")
}
"""Every resource limit of this platform, by its name."""

CHILD_GRACE = 3.0
"""Seconds in which the children of a server that ends have to be gone."""


class Server:
    """One server: what it has imported, and the children that it has forked.

    refusal:  why it forks nothing; None if it does
    branches: what it forks are servers, which end by themselves when it does
    """

    def __init__(
        self, control: socket.socket, libraries: Iterable[str], branches: bool = False
    ) -> None:
        self.control, self.branches = control, branches
        self.children: dict[int, socket.socket] = {}
        before = set(sys.modules)
        gc.disable()  # imports allocate a million objects, hardly any of them garbage
        self.refusal = import_all(libraries)
        preimported.remember(before)
        settle()

    def serve(self) -> list[int] | None:
        """Fork for whatever is asked for. Returns the descriptors in a child, None at the end."""
        wakened, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready, _, _ = select.select([self.control, wakened], [], [])
            if wakened in ready:
                os.read(wakened, 4096)
                self.reap()
            if self.control in ready:
                data, descriptors, _, _ = socket.recv_fds(self.control, 1, 4)
                if not data:
                    self.end()
                    return None
                if self.fork(descriptors) == 0:
                    signal.set_wakeup_fd(-1)
                    for descriptor in (wakened, waker):
                        os.close(descriptor)
                    return descriptors

    def fork(self, descriptors: list[int]) -> int:
        """Fork; in the parent, remember the child's socket. Returns 0 in the child."""
        answers = socket.socket(fileno=os.dup(descriptors[3]))
        refusal = self.refusal or foreign_threads()
        if refusal is None:
            pid = os.fork()
            if pid == 0:
                for other in (answers, self.control, *self.children.values()):
                    other.close()
                return 0
            self.children[pid] = answers
        else:
            send(answers, {"refused": refusal})
            pid = -1
            answers.close()
        for descriptor in descriptors:
            os.close(descriptor)
        return pid

    def reap(self) -> None:
        """Tell how children ended, as `subprocess` tells it: a signal is a negative number."""
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self.children.pop(pid) as answers, contextlib.suppress(OSError):
                send(answers, {"returncode": os.waitstatus_to_exitcode(status)})

    def end(self) -> None:
        """End every child with all that it has started."""
        if not self.branches:
            for pid in self.children:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
        deadline = time.monotonic() + CHILD_GRACE
        while self.children and time.monotonic() < deadline:
            time.sleep(0.01)
            self.reap()


def import_all(libraries: Iterable[str]) -> str | None:
    """Import what is installed of `libraries`; why that failed, or None."""
    with preimported.missing():
        for name in libraries:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                if not f"{name}.".startswith(f"{error.name}."):
                    return f"importing {name} failed: {error}"
            except Exception as error:
                return f"importing {name} failed: {type(error).__name__}: {error}"
    return None


def settle() -> None:
    """Let libraries end the threads that they end before a fork, by forking once.

    What has been imported is here to stay: no collection in a child looks through it, for 0.2 s a
    time, and copies the pages that it is on.
    """
    freeze()
    gc.enable()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def foreign_threads() -> str | None:
    """Threads that a child would miss, or hold the locks of, by name; None where there are none."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != os.getpid():
            names.append((task / "comm").read_text().strip())
    found = sorted(set(names) - FORKABLE)
    return f"what was imported has started threads: {', '.join(found)}" if found else None


def become(descriptors: list[int]) -> tuple[socket.socket, dict[str, Any]]:
    """Make this forked child a process of its own. Returns its socket, and what it is to become.

    It says its process id as soon as it leads a session, so that whoever ends its process group
    by that number ends it.
    """
    die_with_parent()
    os.setsid()
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    *standard, own = descriptors
    messages = os.pread(2, 1 << 20, 0)  # what the imports of the server had to say
    for place, descriptor in enumerate(standard):
        os.dup2(descriptor, place)
        os.close(descriptor)
    while messages:
        messages = messages[os.write(2, messages) :]
    answers = socket.socket(fileno=own)
    with answers.makefile("rb") as lines:
        request = json.loads(lines.readline())  # nothing more comes before the answer
    found = preimported.shadowed(request.get("folders", []))
    if found is not None:
        send(answers, {"refused": f"{found} is another one than the module that was imported"})
        os._exit(0)
    send(answers, {"pid": os.getpid()})
    return answers, request


def take_place(request: dict[str, Any], library_path: list[str]) -> None:
    """Working folder, limits, variables, arguments and sys.path of the run.

    library_path: the part of sys.path that does not come from PYTHONPATH or the working folder
    """
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    for name, limit in request["limits"].items():
        resource.setrlimit(LIMITS[name], tuple(limit))
    for name, value in request["variables"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    sys.path[:] = list(dict.fromkeys([request["cwd"], *request["folders"], *library_path]))
    sys.orig_argv = list(request["argv"])
    sys.argv = ["-m", *request["argv"][3:]]
    show_arguments(request["argv"])
    show_mark(os.environ.get(RUN_VARIABLE, ""))
    preimported.reseed()


def show_arguments(argv: Iterable[str]) -> None:
    """Let `ps` show these arguments: they are written over those that the server came with."""
    start, end = _places_in_memory(45)
    text = b"\0".join(map(os.fsencode, argv))[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def show_mark(mark: str) -> None:
    """Let /proc/PID/environ have this process's own mark, in place of the server's.

    What it starts by forking alone has the same memory there. All marks are of one length.
    """
    start, end = _places_in_memory(47)
    name = f"{RUN_VARIABLE}=".encode()
    found = ctypes.string_at(start, end - start).find(name)
    if found >= 0:
        ctypes.memmove(start + found + len(name), mark.encode(), len(mark))


def _places_in_memory(index: int) -> tuple[int, int]:
    """Two fields of /proc/self/stat (proc(5)), counted from the one behind the command's name."""
    start, end = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[index : index + 2]
    return int(start), int(end)


def send(answers: socket.socket, message: dict[str, Any]) -> None:
    """Write one line of JSON."""
    answers.sendall(json.dumps(message).encode() + b"\n")


def main(arguments: list[str]) -> str | None:
    """Serve. Returns, in a child that is to be a trainer, the name of the module to run."""
    own_folders = {os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    control = socket.socket(fileno=int(arguments[0]))
    server = Server(control, json.loads(arguments[1]), branches=True)
    while True:
        descriptors = server.serve()
        if descriptors is None:
            return None
        control, request = become(descriptors)
        if "libraries" not in request:
            break
        server = Server(control, request["libraries"])
    control.close()
    take_place(request, [entry for entry in sys.path if entry not in own_folders])
    return str(request["argv"][2])


if __name__ == "__main__":
    module = main(sys.argv[1:])
    if module is None:
        os._exit(0)  # there is nothing to be written, and much that would be taken apart
    runpy.run_module(module, run_name="__main__", alter_sys=True)
