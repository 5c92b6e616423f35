"""Folders of configuration: the harness's own, those of packages, and the user's.

All have the same layout (`case/`, `model/`, `mesh/`, `sharding/`, `tolerance/`, …) and are on
Hydra's search path together, so that a case of one may be made of parts of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.base import registry
from harness.base.errors import BadInput
from harness.base.users import CONFIGS_VARIABLE, named_folder, users_folder
from harness.config.overrides import quoted

OWN = "the harness"


@dataclass(frozen=True)
class ConfigFolder:
    """A folder of YAML files.

    origin: whose it is, for a person
    """

    path: Path
    origin: str

    @property
    def files(self) -> dict[str, Path]:
        """Its configurations by what Hydra calls them, such as case/llama-tiny."""
        found = sorted(self.path.rglob("*.yaml"))
        return {str(f.relative_to(self.path).with_suffix("")): f for f in found}


@cache
def config_directory() -> Path:
    """The harness's own folder: within an installed package, beside it in a checkout.

    Raises BadInput where it is at neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "configs", package.parent / "configs"):
        if (candidate / "case").is_dir():
            return candidate
    raise BadInput(f"configs/ is neither in {package} nor beside it: install the harness again")


def config_folders() -> tuple[ConfigFolder, ...]:
    """All of them: the harness's own first, then those of packages, then the user's.

    Raises BadInput for a folder that is not there, and for a name that two of them have: which one
    is meant would depend on what is installed.
    """
    folders = [ConfigFolder(config_directory(), OWN), *_of_packages(), *_of_user()]
    seen: dict[str, ConfigFolder] = {}
    for folder in folders:
        for name, file in folder.files.items():
            if name in seen:
                raise BadInput(
                    f"{file}: {seen[name].origin} has a {name} already "
                    f"({seen[name].files[name]}); give it another name"
                )
            seen[name] = folder
    return tuple(folders)


def search_path(folders: list[Path]) -> str:
    """The Hydra override that looks in these folders too, after the main one."""
    listed = ", ".join(quoted(f"file://{folder}") for folder in folders)
    return f"hydra.searchpath=[{listed}]"


def _of_packages() -> list[ConfigFolder]:
    folders = []
    for name in registry.names(registry.CONFIGS):
        package = registry.load(registry.CONFIGS, name, registry.CONFIGS)
        path = Path(package.__path__[0]).resolve() / "configs"
        if not path.is_dir():
            raise BadInput(
                f"the entry point {name} of {registry.CONFIGS} names the package "
                f"{package.__name__}, which has no folder configs ({path})"
            )
        folders.append(ConfigFolder(path, f"the package {name}"))
    return folders


def _of_user() -> list[ConfigFolder]:
    named, path = named_folder(), users_folder()
    if path is None and named is not None:
        raise BadInput(
            f"{CONFIGS_VARIABLE}={named}: it is no folder (`parity --configs` sets it too)"
        )
    return [] if path is None else [ConfigFolder(path.resolve(), str(path))]
