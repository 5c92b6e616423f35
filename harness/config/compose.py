"""Composes configurations from folders and the overrides of a command line, by Hydra."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.base import registry
from harness.base.errors import BadInput
from harness.base.typed import typed
from harness.config.folders import config_folders, search_path
from harness.config.overrides import readable
from harness.config.remembered import remembered
from harness.config.settings import EngineOptions, Settings, check_settings, staged

OPTIONS = "engine_options"
"""Name under which configs/config.yaml finds the options of every registered engine."""


class NotComposed(Exception):
    """Hydra refuses a configuration; the message is its own, as one line."""


def composed(
    folder: Path,
    name: str,
    words: Sequence[str] = (),
    version_base: str | None = "1.3",
    resolve: bool = True,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The configuration `name` of `folder` under the overrides `words`.

    version_base: release of Hydra whose defaults hold; None takes those of the installed one
    resolve:      whether interpolations such as `${case.steps}` are replaced by their values
    defaults:     the options of every engine, where the configuration asks for them

    Raises:
        NotComposed: it cannot be composed.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    GlobalHydra.instance().clear()
    if defaults is not None:
        ConfigStore.instance().store(OPTIONS, {"engine": defaults})
    try:
        with initialize_config_dir(str(folder), version_base=version_base):
            raw = OmegaConf.to_container(compose(name, list(words)), resolve=resolve)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Hydra raises a ValueError of its own for a group that is null, such as `case=null`.
        raise NotComposed(in_one_line(error)) from error
    assert isinstance(raw, dict)
    return {str(key): value for key, value in raw.items()}


def in_one_line(error: Exception) -> str:
    """The message of Hydra's error, which has several lines, as one."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def load(overrides: list[str]) -> Settings:
    """Settings composed from configs/config.yaml and Hydra `overrides`, checked.

    Raises BadInput that names the key or value at fault and the nearest that exists.
    """
    folders = config_folders()
    own, *others = folders
    search = search_path([folder.path for folder in others])
    kinds = {
        name: registry.load(registry.ENGINES, name, "engine").options
        for name in registry.names(registry.ENGINES)
    }
    defaults = {name: dataclasses.asdict(kind()) for name, kind in kinds.items()}
    files = [file for folder in folders for file in folder.files.values()]

    def compose() -> dict[str, Any]:
        words = [search, *(_added_floor(readable(word, Settings)) for word in overrides)]
        return composed(own.path, "config", words, defaults=defaults)

    try:
        raw = remembered(files, [search, *overrides], defaults, compose)
    except NotComposed as error:
        raise BadInput(_explain(str(error))) from None
    if not isinstance(engines := raw.get("engine", {}), dict):
        raise BadInput(f"engine={engines}: it holds the options of each engine, by its name")
    settings = typed(Settings, {**raw, "engine": _options(engines, kinds)})
    check_settings(settings)
    return staged(settings)


def _added_floor(override: str) -> str:
    """An override of a noise floor, as Hydra adds a key: configs/ has no table of them."""
    return f"++{override}" if override.startswith("tolerance.floor.") else override


def _options(
    raw: Mapping[str, Any], kinds: Mapping[str, type[EngineOptions]]
) -> dict[str, EngineOptions]:
    """The options of every engine as its own dataclass, so that what it does not read is refused.

    Raises BadInput that names the key at fault.
    """
    for name in raw:
        registry.check(registry.ENGINES, name, "engine")
    return {name: typed(kinds[name], value, f"engine.{name}") for name, value in raw.items()}


def case_origins() -> dict[str, str]:
    """Whose each case is, by its name, in the order of names."""
    found = {
        name.removeprefix("case/"): folder.origin
        for folder in config_folders()
        for name in folder.files
        if name.startswith("case/")
    }
    return dict(sorted(found.items()))


def case_names() -> list[str]:
    """Names of all cases."""
    return list(case_origins())


def _explain(text: str) -> str:
    """Hydra's error, with the nearest name that exists."""
    if "Could not find 'case/" in text:
        wanted = text.split("Could not find 'case/")[1].split("'")[0]
        near = difflib.get_close_matches(wanted, case_names(), 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return (
            f"case={wanted}: there is no such case.{hint} The cases are {', '.join(case_names())}."
        )
    return f"{text} (`parity run --help` shows how overrides are written)"
