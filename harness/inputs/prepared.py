"""Prepares what the engines are given: text, tokenizer, rows of tokens and initial weights.

Everything is derived from the Case by seeded, version-independent means, once, into a folder that
is named by the hash of what it depends on:

    text.txt, text.jsonl   the text as the two trainers' pipelines read it
    rows.npz               input_ids and labels, int64 [rows, sequence] (aligned cases)
    model/                 config.json, model.safetensors (fp32), and a byte-level BPE tokenizer,
                           trained on that text
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from harness.base.errors import BadInput
from harness.base.files import expanded
from harness.config.case import Case
from harness.config.folders import config_folders
from harness.environments.cache import in_one_piece

RECIPE = 4
"""Version of `harness.inputs.recipe`: raise it when anything that is prepared changes."""


NEWER = {"epochs": 1, "padding": 0.0, "documents": 1, "positions": False, "prompts": 0.0}
"""Keys of `case.data` that are newer than what was prepared, and what they were then."""


MOST_PARAMETERS = 10**9
"""Parameters that weights are prepared for: more would be over 4 GB of file, and of memory in every
engine at once. What is larger can be traced without any."""


def has_weights(case: Case) -> bool:
    """Whether weights are prepared for a model of that size."""
    return case.parameters <= MOST_PARAMETERS


@dataclass(frozen=True)
class Inputs:
    """The folder of prepared inputs."""

    directory: Path

    @property
    def text(self) -> Path:
        """The text, one paragraph a line, as `run_clm.py` reads it."""
        return self.directory / "text.txt"

    @property
    def json_lines(self) -> Path:
        """The same lines as `{"text": …}` objects, as torchprime reads them."""
        return self.directory / "text.jsonl"

    @property
    def rows(self) -> Path:
        """Token rows of an aligned case."""
        return self.directory / "rows.npz"

    @property
    def model(self) -> Path:
        """A Hugging Face model folder."""
        return self.directory / "model"

    @property
    def weights(self) -> Path:
        """Initial weights in fp32 under Hugging Face names."""
        return self.model / "model.safetensors"

    @property
    def digest(self) -> str:
        """Hash of everything that the inputs were derived from."""
        return self.directory.name


@contextmanager
def writing(key: str, folder: Path) -> Iterator[None]:
    """What is done within writes to `folder`, which the user names by `key`.

    Raises BadInput where that cannot be done.
    """
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"{key}={folder}: it cannot be written ({error}). Name another folder by {key}=PATH"
        ) from None


def prepare(
    case: Case, root: Path, key: str = "workspace", without_weights: bool = False
) -> Inputs:
    """The inputs of `case` under `root`, made if they are not there yet.

    without_weights: there is no `weights` file, for a model that is only traced

    `root` is in the folder that the user names by `key`. Raises BadInput where that cannot be
    written, for a text that is missing or too short for the case's steps, and for a model that is
    too large.
    """
    if not (without_weights or has_weights(case)):
        raise BadInput(
            f"case={case.name}: no weights are prepared for a model of {case.parameters / 1e9:.3g} "
            f"billion parameters (at most {MOST_PARAMETERS / 1e9:.0f}); trace it without any by "
            "stage=true target=v6e:2x2, or another slice"
        )
    if not without_weights:
        _check_size(case)
    text = _read_text(case)
    inputs = Inputs(root / (_digest(case, text) + ("-staged" if without_weights else "")))

    def fill(folder: Path) -> None:
        from harness.inputs.recipe import make

        folder.mkdir()
        make(case, text, Inputs(folder), without_weights)

    with writing(key, root.parent):
        _make_once(inputs.directory, fill)
    return inputs


def with_perturbed_weights(inputs: Inputs, dtype: str) -> Inputs:
    """The same inputs, each weight moved by one unit in the last place of `dtype`, up or down.

    That is the smallest change that can be made to a run: what comes of it is the noise floor.
    Raises BadInput where the workspace cannot be written.
    """
    root = inputs.directory.parent
    directory = root / f"{inputs.digest}-ulp-{dtype}"

    def fill(folder: Path) -> None:
        from harness.inputs.recipe import perturb

        shutil.copytree(inputs.directory, folder)
        perturb(Inputs(folder).weights, dtype)

    with writing("workspace", root.parent):
        _make_once(directory, fill)
    return Inputs(directory)


def _check_size(case: Case) -> None:
    """Raise BadInput for a model whose weights are larger than the memory that they are drawn in.

    The largest parameter is drawn in float64.
    """
    sizes = [math.prod(shape) for shape in case.parameter_shapes().values()]
    needed = 4 * sum(sizes) + 8 * max(sizes)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise BadInput(
            f"case.model has {sum(sizes):.3g} parameters: making their weights takes "
            f"{needed / 2**30:.3g} GiB, and this machine has {memory / 2**30:.3g} GiB of memory; "
            "make case.model.vocab_size, hidden_size, intermediate_size or layers smaller"
        )


FILE_LIST = "files.json"
"""Sizes and times of all files of a folder of inputs: what was damaged since is made again."""


def _make_once(directory: Path, fill: Callable[[Path], None]) -> None:
    """`directory` as `fill` makes it, unless it is there; sessions side by side make it once."""
    if _is_as_made(directory):
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f".{directory.name}.lock")):
        if not _is_as_made(directory):
            shutil.rmtree(directory, ignore_errors=True)
            with in_one_piece(directory) as partial:
                fill(partial)
                (partial / FILE_LIST).write_text(json.dumps(_files(partial)))


def _is_as_made(directory: Path) -> bool:
    try:
        return bool(json.loads((directory / FILE_LIST).read_text()) == _files(directory))
    except (OSError, ValueError):
        return False


def _files(directory: Path) -> dict[str, list[int]]:
    """Size in bytes and time of the last change in nanoseconds of every file but FILES."""
    return {
        path.relative_to(directory).as_posix(): [path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != FILE_LIST
    }


def _digest(case: Case, text: str) -> str:
    relevant = {
        "recipe": RECIPE,
        "text": hashlib.sha256(text.encode()).hexdigest(),
        # A key that is not set is no part of a model: it may be newer than what was prepared.
        "model": {k: v for k, v in asdict(case.model).items() if v is not None},
        # Like it, as long as it is at its default.
        "data": {k: v for k, v in asdict(case.data).items() if (k, v) not in NEWER.items()},
        "rows": case.steps * case.global_batch if case.aligned else None,
        "kind": case.kind,
        "seed": case.seed,
    }
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


def _read_text(case: Case) -> str:
    path = expanded(case.data.text)
    if not path.is_absolute() and not path.is_file():
        texts = [folder.path / "data" / "text" / case.data.text for folder in config_folders()]
        path = next((text for text in texts if text.is_file()), texts[0])
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"case.data.text={case.data.text}: {path} cannot be read as text ({error}). Name a "
            "UTF-8 text file, by an absolute path or one under data/text of a configuration folder"
        ) from None
    return "\n".join(line.strip() for line in text.splitlines() if line.strip()) + "\n"
