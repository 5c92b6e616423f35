"""`parity train torchprime`: the plan of one run of torchprime's train.py."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from harness.base.errors import BadInput
from harness.base.progress import Progress
from harness.compiler.flags import LIBTPU
from harness.config.compose import NotComposed, composed
from harness.config.training import TrainingData, TrainingRequest
from harness.devices.device import device
from harness.engines.command import INPUTS, SCRATCH, SOURCE, Command
from harness.engines.hf.match_arguments import nearest
from harness.engines.sources import checkout_of
from harness.engines.torchprime.engine import (
    CONFIG_FOLDER,
    ENGINE,
    SCRIPT,
    hydra_value,
    read_defaults,
)
from harness.environments.sources import default_cache_dir
from harness.run.plan import Plan
from harness.train import hub
from harness.train.paths import absolute
from harness.train.request import (
    PROFILES,
    TrainingPlan,
    check_device,
    check_mesh,
    directory_of,
    environment_of,
    inputs_of,
    interpreter_of,
    output_folder,
    output_word,
    positive,
    shape_of,
    spec_of,
    trainer_log,
)
from harness.train.settings import TorchprimeTraining


def plan(training: TorchprimeTraining, progress: Progress) -> TrainingPlan:
    """The run of `training`, with all that can be checked before it starts.

    Raises:
        BadInput: it cannot work.
    """
    check_device(training)
    cache, here = default_cache_dir(), Path.cwd()
    directory = directory_of(training, ENGINE.name)
    checkout = checkout_of(ENGINE, training.source, cache, progress)
    assert checkout is not None
    assert checkout.path is not None
    defaults = read_defaults(checkout.path)
    inputs = inputs_of(training)
    words = _words(training, directory, defaults, here)
    prepared = [word.replace(INPUTS, str(inputs.directory)) for word in words]
    config = _composed(checkout.path, training.config_name, prepared)
    if training.launcher.name == "local":
        _check_hub(config, training, progress)
    request = _request(config, training)
    assert request.mesh is not None
    check_mesh(request.mesh, training, "the mesh of torchprime's configuration")
    mesh = math.prod(int(size) for size in config["ici_mesh"].values())
    return TrainingPlan(
        Plan(
            case=request,
            engine=ENGINE.name,
            label=directory.name,
            command=Command(
                argv=(f"{SOURCE}/{SCRIPT}", "--config-name", training.config_name, *words),
                spec=ENGINE.watched(spec_of(request, training)),
                pythonpath=(SOURCE,),
            ),
            interpreter=interpreter_of(training, cache, progress),
            inputs=inputs,
            environment={
                "XLA_USE_SPMD": "1",
                **_compiler_flags(training, checkout.path),
                **environment_of(training, mesh),
            },
            origin={
                "commit": checkout.commit,
                "dirty": checkout.dirty,
                "description": checkout.description,
            },
            source=checkout.path,
            output=output_folder(training),
        ),
        directory,
    )


MEGASCALE = "--megascale_grpc_enable_xor_tracer=false --megascale_grpc_num_channels=64"
"""What torchprime's thunk.py (launcher) adds on a cluster, against a crash (pytorch/xla#8683) and a
slow start of MegaScale's network (torchprime#300)."""


def _compiler_flags(training: TorchprimeTraining, checkout: Path) -> dict[str, str]:
    """LIBTPU_INIT_ARGS as torchprime's own launcher sets them, where nobody else does."""
    if device(training.launcher.device).planes is None or os.environ.get(LIBTPU):
        return {}
    own = ENGINE.compiler_flags(checkout)
    if training.launcher.name == "xpk":
        own = f"{own} {MEGASCALE}".strip()
    return {LIBTPU: own} if own else {}


def _request(config: dict[str, Any], training: TorchprimeTraining) -> TrainingRequest:
    task = config["task"]
    meshes = (config["ici_mesh"], config.get("dcn_mesh", {}))
    return TrainingRequest(
        dtype=str(config.get("torch_dtype", "bfloat16")),
        steps=positive(task, "max_steps", "task.max_steps"),
        global_batch=positive(task, "global_batch_size", "task.global_batch_size"),
        accumulation=1,
        max_norm=task.get("max_grad_norm"),
        mesh={axis: size * meshes[1].get(axis, 1) for axis, size in meshes[0].items()},
        model=shape_of(config["model"]),
        data=TrainingData(config["dataset"].get("block_size")),
        arguments=config,
        comment=training.comment,
    )


def _words(
    training: TorchprimeTraining, directory: Path, defaults: dict[str, Any], here: Path
) -> list[str]:
    """torchprime's command line: ours first, then the user's own, which replace them."""
    ours = {
        **training.overrides,
        "output_dir": output_word(training),
        "run_name": trainer_log(directory),
        "hydra.run.dir": f"{SCRATCH}/hydra",
    }
    if "profile_dir" in defaults:
        folder = here / str(defaults["profile_dir"])
        on_cluster = training.launcher.name == "xpk"
        ours["profile_dir"] = f"{output_word(training)}/{PROFILES}" if on_cluster else str(folder)
    if training.profile or device(training.launcher.device).planes is None:
        # Its profiler ends a finished run with an error where the profile shows no device, and two
        # at a time are one too many. The key was renamed in June 2025 (de79860).
        ours["profile_start_step" if "profile_start_step" in defaults else "profile_step"] = -1
    parsed = OverridesParser.create().parse_overrides(list(training.words))
    explicit = {override.key_or_group for override in parsed}
    words = [f"{k}={hydra_value(v)}" for k, v in ours.items() if k.lstrip("+") not in explicit]
    for word, override in zip(training.words, parsed, strict=True):
        value = override.value()
        moved = absolute(override.key_or_group, value, here)
        words.append(word if moved == value else f"{word.partition('=')[0]}={hydra_value(moved)}")
    return words


def _composed(checkout: Path, name: str, words: Sequence[str]) -> dict[str, Any]:
    """torchprime's configuration under these overrides, as its train.py will compose it.

    Raises:
        BadInput: Hydra refuses an override, in its own words.
    """
    there = sorted(path.stem for path in (checkout / CONFIG_FOLDER).glob("*.yaml"))
    if name not in there:
        raise BadInput(
            f"--config-name {name}: torchprime has no such configuration; it has {', '.join(there)}"
        )
    known: list[str] = []
    plain = [word for word in words if not word.startswith("hydra.")]
    compose = functools.partial(
        composed, checkout / CONFIG_FOLDER, name, version_base=None, resolve=False
    )
    try:
        known = _keys(compose())
        return compose(plain)
    except NotComposed as error:
        text = str(error)
        wrong = next((w for w in plain if w.partition("=")[0].lstrip("+") in text), None)
        key = "" if wrong is None else wrong.partition("=")[0].lstrip("+")
        hint = f" The nearest key is {nearest(key, known)}." if key and known else ""
        raise BadInput(f"torchprime's configuration: {text}{hint}") from None


def _keys(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every key of a configuration, dotted."""
    keys: list[str] = []
    for name, value in config.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, dict):
            keys += _keys(value, f"{prefix}{name}.")
    return keys


def _check_hub(config: dict[str, Any], training: TorchprimeTraining, progress: Progress) -> None:
    dataset, model = config["dataset"], config["model"]
    named = [
        ("model.tokenizer_name", "model", model.get("tokenizer_name")),
        ("model.pretrained_model", "model", model.get("pretrained_model")),
        ("dataset.hf_dataset_name", "dataset", dataset.get("hf_dataset_name")),
    ]
    wanted = [
        hub.HubReference(key, kind, name)
        for key, kind, name in named
        if isinstance(name, str) and "://" not in name
    ]
    caches = [Path(str(dataset["cache_dir"]))] if dataset.get("cache_dir") else []
    hub.check(wanted, {**os.environ, **training.variables}, caches, progress)
