"""Fits wanted arguments to a script: checked, renamed or left out, and put on its command line.

What run_clm.py takes differs between releases of transformers, and between them and the TPU fork.
Whatever a user wrote is trained with or refused. Of what we give by default, only what `OPTIONAL`
lists may be left out, and that is said.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from harness.base.errors import BadInput
from harness.engines.hf.script_arguments import Accepted, ScriptArgument

SYNONYMS = (
    ("torch_dtype", "dtype"),  # renamed in transformers 4.57
    ("evaluation_strategy", "eval_strategy"),  # renamed in 4.41
)
"""Names of the same argument in different releases."""

OPTIONAL = {
    "disable_tqdm": "it only hides the progress bar",
    "logging_dir": "it only says where the trainer's own event files go",
    "overwrite_output_dir": "since transformers 5 no output folder needs a permission",
    "flash_attention": "only the TPU fork has this switch for its attention kernel",
}
"""Arguments of ours that may be left out where a script does not know them, and why."""

OF_THE_FORK = ("flash_attention", "spmd_2d_sharding")
FORK = "source=https://github.com/pytorch-tpu/transformers@flash_attention"

NOT_ANYWHERE = {
    "log_loss": "no branch of transformers has it, though torchprime's adapter documents it; the "
    "harness keeps the loss of every step, and logging_steps=1 has the Trainer log it too",
}
"""Arguments that are written down elsewhere and that no script takes."""

SECRET_ARGUMENTS = ("token", "hub_token", "push_to_hub_token", "use_auth_token")


@dataclass(frozen=True)
class Matched:
    """What goes on the command line.

    arguments: values by the names under which the script takes them
    notes:     what was renamed or left out, a line each
    """

    arguments: dict[str, Any]
    notes: tuple[str, ...] = ()


def match(wanted: Mapping[str, Any], accepted: Accepted, explicit: Collection[str] = ()) -> Matched:
    """`wanted` as far as the script takes it; None drops an argument.

    explicit: names that the user wrote, which are never left out

    Raises:
        BadInput: the script does not know an argument or its value, or wants one that is missing.
    """
    arguments: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in wanted.items():
        if value is None:
            continue
        if name in SECRET_ARGUMENTS and not isinstance(value, bool):
            raise BadInput(
                f"train_script.args.{name}: a token on a command line is seen by everyone on the "
                "machine and kept in the Record. Set the variable HF_TOKEN: it is used and written "
                "nowhere."
            )
        known = _known_name(name, accepted)
        if known is None and name in OPTIONAL and (name not in explicit or value is False):
            if value is not False:
                notes.append(f"{name}={value} is left out: {OPTIONAL[name]}")
            continue
        if known is None:
            raise BadInput(_unknown(name, accepted))
        if known != name:
            notes.append(f"{name} is given as {known}, its name in this script")
        _check_value(name, value, accepted.parameters[known], accepted.script)
        arguments[known] = value
    _check_required(arguments, accepted)
    return Matched(arguments, tuple(notes))


def command_line(matched: Matched, accepted: Accepted) -> list[str]:
    """The script's arguments: `--x` for true, `--x=value`, `--x a b` for lists, JSON for mappings.

    False gives nothing where that is the default, else `--x=False`: dropping it would leave the
    argument true.

    Raises:
        BadInput: the script has no way to take a value.
    """
    words: list[str] = []
    for name, value in matched.arguments.items():
        parameter = accepted.parameters[name]
        if value is False and parameter.flag:
            words += _switched_off(name, parameter, accepted)
        elif value is True and parameter.flag:
            words.append(f"--{name}")
        elif isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif isinstance(value, Mapping):
            words.append(f"--{name}={json.dumps(value)}")
        else:
            words.append(f"--{name}={value}")
    return words


def nearest(name: str, names: Collection[str]) -> str:
    """The most similar of `names`, however little that may be."""
    return difflib.get_close_matches(name, sorted(names), 1, cutoff=0.0)[0]


def _known_name(name: str, accepted: Accepted) -> str | None:
    if name in accepted.parameters:
        return name
    same = next((group for group in SYNONYMS if name in group), ())
    return next((other for other in same if other in accepted.parameters), None)


def _unknown(name: str, accepted: Accepted) -> str:
    names = [known for known in accepted.parameters if "-" not in known]
    way_out = f"drop it by train_script.args.{name}=null"
    if name in NOT_ANYWHERE:
        return f"train_script.args.{name}: {NOT_ANYWHERE[name]}. Leave it out"
    if name in OF_THE_FORK:
        way_out = f"the TPU fork of transformers takes it ({FORK}), or {way_out}"
    return (
        f"train_script.args.{name}: {accepted.script} takes no such argument; the nearest that it "
        f"takes is {nearest(name, names)}. Correct the name, or {way_out}."
    )


def _check_value(name: str, value: Any, parameter: ScriptArgument, script: str) -> None:
    where = f"train_script.args.{name}={value}"
    values = value if isinstance(value, list) else [value]
    if isinstance(value, list) and parameter.nargs not in ("*", "+"):
        raise BadInput(f"{where}: {script} takes one value for {name}, not a list.")
    if value == [] and parameter.nargs == "+":
        raise BadInput(f"{where}: {script} takes at least one value for {name}; null drops it.")
    for one in values:
        if isinstance(one, bool) and parameter.flag:
            continue
        if parameter.choices is not None and str(one) not in parameter.choices:
            raise BadInput(
                f"{where}: {script} takes no such value; the nearest that it takes is "
                f"{nearest(str(one), parameter.choices)}, of {len(parameter.choices)} "
                f"({', '.join(parameter.choices[:8])}{', …' * (len(parameter.choices) > 8)})."
            )
        converter = {"int": int, "float": float}.get(parameter.type or "")
        if converter is not None:
            try:
                converter(str(one))
            except ValueError:
                raise BadInput(f"{where}: {script} takes a {parameter.type} for {name}.") from None


def _check_required(arguments: Mapping[str, Any], accepted: Accepted) -> None:
    for name, parameter in accepted.parameters.items():
        if parameter.required and not set(parameter.options) & set(arguments):
            raise BadInput(
                f"{accepted.script} wants the argument {name}: give it by "
                f"+train_script.args.{name}=VALUE."
            )


def _switched_off(name: str, parameter: ScriptArgument, accepted: Accepted) -> list[str]:
    if parameter.default in (False, None):
        return []
    if parameter.nargs == "?":
        return [f"--{name}=False"]
    for opposite in (f"no_{name}", f"no-{name}"):
        if opposite in accepted.parameters:
            return [f"--{opposite}"]
    raise BadInput(
        f"train_script.args.{name}=false: {accepted.script} has {name} on by default, and no way "
        "to switch it off."
    )
