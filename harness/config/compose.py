"""Composes configurations from folders and the overrides of a command line, by Hydra."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.base import registry
from harness.base.errors import BadInput
from harness.base.nearest import did_you_mean
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
    check_own(overrides)
    folders = config_folders()
    own, *others = folders
    search = search_path([folder.path for folder in others])
    kinds = {
        name: registry.load(registry.ENGINES, name, "engine").options
        for name in registry.names(registry.ENGINES)
    }
    defaults = {name: dataclasses.asdict(kind()) for name, kind in kinds.items()}
    files = [file for folder in folders for file in folder.files.values()]
    groups = {str(Path(name).parent) for folder in folders for name in folder.files}

    def compose() -> dict[str, Any]:
        words = [search, *(added(readable(word, Settings), groups) for word in overrides)]
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


def check_own(overrides: Sequence[str]) -> None:
    """Raise BadInput for an override of Hydra's own settings: no job of its is started here."""
    for word in overrides:
        if re.match(r"[+~]*hydra[./=@]", word):
            raise BadInput(
                f"{word}: nothing would change by it, as Hydra only composes the settings here and "
                "writes no folder; workspace=PATH says where Records are kept"
            )


def added(override: str, groups: Collection[str]) -> str:
    """`override` so that Hydra takes any key: whether there is such a key, `typed` says.

    Hydra itself would only say how to add it. An override of one of its `groups`, such as
    `case=llama-tiny`, and one with a sign of its own stay as they are.
    """
    key = override.partition("=")[0]
    is_plain = "=" in override and "@" not in key and key[:1] not in "+~"
    return f"++{override}" if is_plain and key not in groups else override


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
    return _names_in("case")


def case_names() -> list[str]:
    """Names of all cases."""
    return list(case_origins())


def _names_in(group: str) -> dict[str, str]:
    """What can be chosen for a group of Hydra, and whose each is, in the order of names."""
    found = {
        name.removeprefix(f"{group}/"): folder.origin
        for folder in config_folders()
        for name in folder.files
        if name.startswith(f"{group}/")
    }
    return dict(sorted(found.items()))


def _explain(text: str) -> str:
    """Hydra's error, with the nearest name that exists."""
    if match := re.search(r"Could not find '([\w/]+)/([^'/]+)'", text):
        group, wanted = match.groups()
        there = _names_in(group)
        hint = did_you_mean(wanted, there)
        return f"{group}={wanted}: it is not one of {', '.join(there)}{hint}"
    return f"{text} (`parity run --help` shows how overrides are written)"
