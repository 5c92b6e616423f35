"""`parity engines`: what each engine trains with, and whether it can be used here."""

from __future__ import annotations

from harness.base import registry
from harness.cli.doctor import environment_is_made, source_finding
from harness.cli.listing import print_list
from harness.cli.options import Overrides, Torchprime, overrides_of


def engines(overrides: Overrides = None, torchprime: Torchprime = None) -> None:
    """List the engines, with what is missing and how to get it."""
    from harness.config.compose import load
    from harness.engines.spec import engines as registered
    from harness.environments.sources import default_cache_dir

    cache, options = default_cache_dir(), load(overrides_of(overrides, torchprime)).engine
    made = environment_is_made(cache)
    environment = "environment is made" if made else "the first run makes its environment"
    own, entries = registry.modules(registry.ENGINES), []
    for engine in registered():
        state = environment
        if engine.source is not None and engine.source.default is not None:
            found = source_finding(engine, options[engine.name], cache)
            state = found.state if found.good else found.way_out or found.state
        file = own.get(engine.name)
        entries.append(
            (engine.name, (engine.description, state, "" if file is None else str(file)))
        )
    print_list(entries)
