"""Which engines can train a case, and why the others cannot. Nothing is launched or fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.base.errors import BadInput
from harness.config.case import Case
from harness.engines.command import Job
from harness.engines.sources import cached_checkout
from harness.engines.spec import EngineSpec, engines
from harness.environments.sources import default_cache_dir


def refusals(case: Case, named: Mapping[str, str | None]) -> dict[str, str | None]:
    """By engine, why it cannot train `case`; None where it can.

    An engine whose checkout is neither named nor cached cannot be asked, and says so.

    named: source of an engine by its name, where the user names one
    """
    return {engine.name: _refusal(engine, case, named.get(engine.name)) for engine in engines()}


def _refusal(engine: EngineSpec[Any], case: Case, source: str | None) -> str | None:
    try:
        checkout = (
            None
            if engine.source is None
            else cached_checkout(engine.source, source, default_cache_dir())
        )
        folder = None if checkout is None else checkout.path
        engine.command(Job(case, engine.options(), folder))
    except BadInput as error:
        return str(error)
    return None
