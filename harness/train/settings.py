"""Options of `parity train`, composed by Hydra from configs/train."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.base import registry, secrets
from harness.base.errors import BadInput
from harness.base.typed import STRICT, typed
from harness.config.compose import NotComposed, added, composed
from harness.config.folders import config_directory, config_folders, search_path
from harness.config.overrides import parsed, readable
from harness.config.settings import LauncherSettings
from harness.devices.device import device
from harness.engines.hf.engine import ENGINE as HF
from harness.engines.hf.match_arguments import nearest
from harness.engines.torchprime.engine import ENGINE as TORCHPRIME

CONFIGS_PLACEHOLDER = "{configs}/"
"""Begins a value that names a file of ours under configs/train."""

ARGUMENTS = "train_script.args."

EXAMPLE = "for example train_script.args.max_steps=20"


@dataclass(frozen=True)
class InputSettings:
    """A tokenizer and a text, made by the harness, so that nothing is downloaded.

    Arguments refer to them as `{inputs}/model`, `{inputs}/text.txt` and `{inputs}/text.jsonl`.
    """

    __pydantic_config__ = STRICT

    text: str
    vocab_size: int


@dataclass(frozen=True)
class Training:
    """Options of both engines.

    source:     what is trained with: a checkout or a git URL with a ref; for hf also a release
    python:     interpreter to run it in; null makes one
    output_dir: where the trainer writes; Records and curves are in its folder runs
    run_name:   name of the run's folder there; null takes the engine and the time
    env:        variables of the training script, each a mapping of one name to a value
    window:     optimizer steps in one timing window
    comment:    what the run is for; kept in its Record, and on a cluster with the workload
    profile:    the probe takes a profile of one steady window, of a device that a profile shows
    xla_dump:   XLA dumps compiled graphs into output_dir/xla_dumps; null does so on a cluster alone
    inputs:     a tokenizer and a text to be prepared; null prepares none
    """

    __pydantic_config__ = STRICT

    launcher: LauncherSettings
    source: str | None = None
    python: str | None = None
    output_dir: str = "outputs"
    run_name: str | None = None
    env: list[dict[str, Any]] = field(default_factory=list)
    window: int = 5
    comment: str | None = None
    profile: bool = False
    xla_dump: bool | None = None
    inputs: InputSettings | None = None

    @property
    def variables(self) -> dict[str, str]:
        """`env` as one mapping; later entries win."""
        return {str(name): str(value) for entry in self.env for name, value in entry.items()}


@dataclass(frozen=True)
class TrainScript:
    """The Hugging Face training script, and its arguments; null drops one."""

    __pydantic_config__ = STRICT

    path: str | None = None
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HfTraining(Training):
    """One run of the Hugging Face Trainer.

    devices:     devices of the CPU mesh (`launcher.device=cpu`)
    profile_dir: where the TPU fork writes its profile (PROFILE_LOGDIR); null for none
    explicit:    arguments of the script that the user wrote
    """

    __pydantic_config__ = STRICT

    devices: int = 4
    profile_dir: str | None = None
    train_script: TrainScript = field(default_factory=TrainScript)
    explicit: tuple[str, ...] = ()


@dataclass(frozen=True)
class TorchprimeTraining(Training):
    """One run of torchprime.

    config_name: its configuration, one of torchprime's own files
    overrides: overrides of torchprime's configuration, before the user's own
    words:     the user's own, as they were written
    """

    __pydantic_config__ = STRICT

    config_name: str = "default"
    overrides: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def load_hf(words: Sequence[str]) -> HfTraining:
    """The run that configs/train/hf.yaml and the user's Hydra overrides describe.

    Raises:
        BadInput: it names the key or value at fault.
    """
    words = [_readable(word, HfTraining) for word in words]
    overrides = [parsed(word) for word in words]
    for override in overrides:
        first = override.key_or_group.split(".")[0]
        if first in ("overrides", "config_name"):
            raise BadInput(f"{first}: this key is for `parity train torchprime` alone")
        if first == "hydra":
            raise BadInput(
                f"{override.key_or_group}: the script is no Hydra program, and writes no folder of "
                "Hydra's. Name the output folder by output_dir=PATH"
            )
    raw = _compose(HF.name, words)
    for name in ("overrides", "config_name"):
        raw.pop(name, None)
    explicit = tuple(
        o.key_or_group.removeprefix(ARGUMENTS)
        for o in overrides
        if o.key_or_group.startswith(ARGUMENTS)
    )
    training = typed(HfTraining, {**raw, "explicit": explicit})
    if "output_dir" in training.train_script.args:
        raise BadInput(
            f"{ARGUMENTS}output_dir: the output folder is not an argument of the script here. Name "
            "it by output_dir=PATH, and the script gets it."
        )
    _check(training)
    return training


def load_torchprime(words: Sequence[str], config_name: str = "default") -> TorchprimeTraining:
    """The run that configs/train/torchprime.yaml and the user's overrides describe.

    Overrides whose first key is one of ours are ours; torchprime gets all others as they are.

    Raises:
        BadInput: it names the key or value at fault.
    """
    ours: list[str] = []
    theirs: list[str] = []
    keys = {*Training.__dataclass_fields__, "workload"}
    for word in words:
        readable_word = _readable(word, TorchprimeTraining)
        key = parsed(readable_word).key_or_group
        (ours if key.split(".")[0] in keys else theirs).append(readable_word)
    raw = _compose(TORCHPRIME.name, ours)
    raw.pop("train_script", None)
    given = {**raw, "words": tuple(theirs), "config_name": config_name}
    training = typed(TorchprimeTraining, given)
    _check(training)
    return training


T = TypeVar("T", bound=Training)


def checked(training: T) -> T:
    """The training, which can be begun. Raises BadInput."""
    _check(training)
    return training


def _readable(word: str, schema: type[Training]) -> str:
    """`word` as an override. Raises BadInput where it is none."""
    if word.endswith(".py") and "=" not in word:
        raise BadInput(
            f"`{word}`: a script is named by train_script.path={word} (`parity train hf`); "
            "torchprime's own is run by `parity train torchprime` as it is"
        )
    return readable(word, schema, EXAMPLE)


def _compose(name: str, words: Sequence[str]) -> dict[str, Any]:
    own, *others = (folder.path for folder in config_folders())
    workloads = [path / "train" for path in others if (path / "train").is_dir()]
    search = search_path([own, *workloads, *others])
    # Arguments of the script are compared with its defaults first: see `_explain`.
    ours = [w if "." not in w.partition("=")[0] or ARGUMENTS in w else added(w, ()) for w in words]
    try:
        raw = composed(own / "train", name, [search, *ours])
    except NotComposed as error:
        raise BadInput(_explain(str(error), name)) from None
    return {key: _absolute(value) for key, value in raw.items()}


def _absolute(value: Any) -> Any:
    """`value` with `{configs}/` as the folder configs/train, wherever that is installed."""
    if isinstance(value, str) and value.startswith(CONFIGS_PLACEHOLDER):
        return str(config_directory() / "train" / value.removeprefix(CONFIGS_PLACEHOLDER))
    if isinstance(value, dict):
        return {key: _absolute(one) for key, one in value.items()}
    return value


def _explain(text: str, name: str) -> str:
    """Hydra's error, with the nearest name that exists."""
    match = re.search(r"Could not find '(\w+)/([^']+)'", text)
    if match:
        group, wanted = match.groups()
        folder = config_directory() / ("train" if group == "workload" else "") / group
        there = sorted(path.stem for path in folder.glob("*.yaml"))
        return (
            f"{group}={wanted}: there is no such {group}. The nearest is {nearest(wanted, there)}; "
            f"there are {', '.join(there)}."
        )
    match = re.search(r"Could not override '([\w.]+)'", text)
    if match and match[1].startswith(ARGUMENTS):
        argument = match[1].removeprefix(ARGUMENTS)
        defaults = _compose(name, [])["train_script"]["args"]
        return (
            f"{match[1]} is not among the defaults, where the nearest is "
            f"{nearest(argument, defaults)}: correct it, or add it by +{match[1]}=VALUE."
        )
    if match:
        keys = [*HfTraining.__dataclass_fields__, "workload"]
        keys.remove("explicit")
        key = match[1].split(".")[0]
        return f"{match[1]}: there is no such key. The nearest is {nearest(key, keys)}."
    return f"{text} (`parity train {name} --help` shows how overrides are written)"


def _check(training: Training) -> None:
    for key in ("devices", "window"):
        value = getattr(training, key, 1)
        if value < 1:
            raise BadInput(f"{key}={value}: it has to be at least 1")
    if "://" in training.output_dir:
        raise BadInput(
            f"output_dir={training.output_dir}: a trainer writes to a folder of its own machine. "
            "Name a folder; launcher=xpk brings Records to the bucket that "
            "launcher.options.artifact_dir names"
        )
    for name in training.variables:
        if secrets.is_secret(name):
            raise BadInput(
                f"env: {name} looks like a secret, and what env names is kept in the Record. Set "
                f"it in the environment of `parity` instead: the training script inherits it."
            )
    registry.check(registry.DEVICES, training.launcher.device, "launcher.device")
    used = device(training.launcher.device)
    if training.profile and used.planes is None:
        raise BadInput(
            f"profile=true: a profile does not show what launcher.device={used.name} does; leave "
            "it out, and step times are told by the host's clock"
        )
    if not used.xla:
        raise BadInput(
            f"launcher.device={used.name}: `parity train` trains through torch_xla; `parity run` "
            "and `parity gate` take it"
        )
    if training.run_name is not None and (
        not training.run_name or "/" in training.run_name or training.run_name.startswith(".")
    ):
        raise BadInput(
            f"run_name={training.run_name}: it names a folder under {training.output_dir}/runs, so "
            "that it has no slash in it and no dot at its beginning"
        )
