"""What a launcher is and what it is given, and the launcher that runs on this machine."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from harness.base.errors import BadInput
from harness.base.progress import Progress
from harness.base.typed import STRICT, typed
from harness.devices.native import imports_xla
from harness.engines.command import Command
from harness.environments.interpreters import Interpreter
from harness.launchers import forked, local
from harness.launchers.invocation import Invocation, Places, watched
from harness.record.reader import Event
from harness.record.termination import Termination

OnEvent = Callable[[Event], None]
T = TypeVar("T")

OF_XLA = ("torch_xla", "jax")
"""What is not imported ahead of a run without XLA: it would compute by it."""


@dataclass(frozen=True)
class Run:
    """One run, prepared on this machine.

    name:        engine and key, in lower-case letters, digits and `-`
    command:     what the engine wants to run
    places:      where its folders are on this machine; the Record is left in `places.record`
    interpreter: what it runs in here; a launcher that runs elsewhere brings the same packages
    environment: variables of the run besides those of the command
    micro_batch: rows of a micro-batch over all hosts
    libraries:   modules that a process may have imported before it becomes this run's
    """

    name: str
    command: Command
    places: Places
    interpreter: Interpreter
    environment: Mapping[str, str]
    micro_batch: int
    libraries: tuple[str, ...] = ()


class Launcher(Protocol):
    """Runs a Run somewhere, and leaves what was observed in its Record's folder."""

    @property
    def here(self) -> bool:
        """Whether runs take up the devices of this machine."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Variables that name what a run is run in: they are part of its environment and key."""

    def check(self) -> None:
        """Raises BadInput where nothing can be launched; launches nothing itself."""

    def invocation(self, run: Run) -> Invocation:
        """The trainer's process as it is started in the end."""

    def commands(self, run: Run) -> list[tuple[str, ...]]:
        """The command lines that `launch` runs on this machine, in order."""

    def launch(self, run: Run, on_event: OnEvent) -> Termination:
        """Run it, wait for it, and say how it ended. Nothing is left running, Ctrl-C or not."""


@dataclass(frozen=True)
class Local:
    """A process on this machine; `stop` ends it from another thread.

    progress: told why a run was not forked; None where runs are not to be forked at all
    """

    limits: local.Limits
    stop: threading.Event | None = None
    progress: Progress | None = None
    here = True

    @property
    def identity(self) -> Mapping[str, str]:
        """Nothing: a run's key has its interpreter."""
        return {}

    def check(self) -> None:
        """There is nothing to check that planning has not checked."""

    def invocation(self, run: Run) -> Invocation:
        """The probe in the run's own interpreter."""
        return watched(
            run.command,
            run.places,
            str(run.interpreter.python),
            run.interpreter.pythonpath,
            run.environment,
        )

    def commands(self, run: Run) -> list[tuple[str, ...]]:
        """The one process."""
        return [self.invocation(run).argv]

    def launch(self, run: Run, on_event: OnEvent) -> Termination:
        """Start it and wait for it."""
        invocation = self.invocation(run)
        invocation.write_files()
        start = None
        if self.progress is not None:
            start = functools.partial(forked.start, imports=_imports(run), progress=self.progress)
        return local.launch(invocation, run.places.record, self.limits, on_event, self.stop, start)

    def expect(self, run: Run) -> None:
        """Say that `run` is coming, so that what it is forked from is ready by then."""
        if self.progress is not None:
            forked.expect(self.invocation(run), _imports(run))


def _imports(run: Run) -> forked.Imports:
    left_out = () if imports_xla(run.environment) else OF_XLA
    libraries, first = (
        tuple(name for name in names if name.split(".")[0] not in left_out)
        for names in (run.libraries, forked.COMMON_LIBRARIES)
    )
    return forked.Imports(libraries, run.interpreter.pythonpath, run.interpreter.key, first)


@dataclass(frozen=True)
class NoOptions:
    """The options of a launcher that has none."""

    __pydantic_config__ = STRICT


def options_of(kind: type[T], options: Mapping[str, Any]) -> T:
    """`launcher.options` as a `kind`. Raises BadInput that names the key at fault."""
    try:
        return typed(kind, dict(options))
    except BadInput as error:
        raise BadInput(f"launcher.options.{error}") from None
