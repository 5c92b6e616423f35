"""The launcher that the configuration names."""

from __future__ import annotations

import threading

from harness.base.errors import BadInput
from harness.base.nearest import did_you_mean
from harness.base.progress import Progress
from harness.config.settings import LauncherSettings
from harness.devices.device import device
from harness.launchers.docker import Docker, DockerOptions
from harness.launchers.launcher import Launcher, Local, NoOptions, options_of
from harness.launchers.local import Limits
from harness.launchers.saved import saved

LAUNCHERS = ("local", "docker", "xpk")


def limits_of(settings: LauncherSettings) -> Limits:
    """When a run by `settings` is given up, and what its device shows where that fails."""
    chosen = device(settings.device)
    return Limits(settings.time_limit, settings.silence, chosen.signs, chosen.busy)


def local_launcher(
    settings: LauncherSettings, progress: Progress, stop: threading.Event | None = None
) -> Local:
    """The launcher of this machine. Runs are forked where their device is not one process's own."""
    fork = settings.fork_server and device(settings.device).shared
    return Local(limits_of(settings), stop, progress if fork else None)


def devices_of(settings: LauncherSettings) -> int | None:
    """How many devices a run by `settings` has; None where it gets what it asks for, or nobody
    knows beforehand. Raises BadInput for an option of a launcher that is not known."""
    chosen = device(settings.device)
    if settings.name == "xpk":
        from harness.launchers.xpk import XpkOptions

        given = {key: value for key, value in settings.options.items() if value is not None}
        options = options_of(XpkOptions, saved() | given).checked()
        slice_ = chosen.of_type(str(options.tpu_type))
        return None if slice_ is None else slice_ * options.num_slices
    return None if chosen.count is None else chosen.count()


def launcher_for(
    settings: LauncherSettings, progress: Progress, stop: threading.Event | None = None
) -> Launcher:
    """The launcher of `settings`; what it reports while it works goes to `progress`.

    stop: ends its runs from another thread, where they are on this machine

    Raises BadInput for a name or an option that is not known, or one that is missing.
    """
    if settings.name == "local":
        options_of(NoOptions, settings.options)
        return local_launcher(settings, progress, stop)
    limits = limits_of(settings)
    if settings.name == "docker":
        return Docker(options_of(DockerOptions, settings.options), limits, progress)
    if settings.name == "xpk":
        from harness.launchers.xpk import Xpk, XpkOptions

        given = {key: value for key, value in settings.options.items() if value is not None}
        return Xpk(options_of(XpkOptions, saved() | given).checked(), limits, progress)
    hint = did_you_mean(settings.name, LAUNCHERS)
    raise BadInput(f"launcher.name={settings.name} is not one of {', '.join(LAUNCHERS)}{hint}")
