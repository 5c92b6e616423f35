"""Which engines can train a case, and why the others cannot. Nothing is launched or fetched."""

from __future__ import annotations

from typing import Any

from harness.base.errors import BadInput
from harness.config.settings import Settings
from harness.engines.command import Job
from harness.engines.sources import cached_checkout
from harness.engines.spec import EngineSpec, engines
from harness.environments.sources import default_cache_dir


def refusals(settings: Settings) -> dict[str, str | None]:
    """By engine, why it cannot train the case with its options; None where it can.

    An engine whose checkout is neither named nor cached cannot be asked, and says so.
    """
    return {engine.name: _refusal(engine, settings) for engine in engines()}


def _refusal(engine: EngineSpec[Any], settings: Settings) -> str | None:
    options: Any = settings.engine[engine.name]
    folder = None
    try:
        if engine.source is not None:
            checkout = cached_checkout(engine.source, options.source, default_cache_dir())
            folder = None if checkout is None else checkout.path
        engine.command(Job(settings.case, options, folder, settings.launcher.device))
    except BadInput as error:
        return str(error)
    return None
