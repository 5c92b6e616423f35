"""Relative paths in arguments: a run has a folder of its own, so that they are made absolute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.base.files import expanded

MADE = ("cache_dir", "dir", "logging_dir", "output_dir", "profile_dir")
"""Arguments, by their last name, that are folders even before there is one."""

READ = (
    "config_name", "dataset_name", "file_dataset_path", "fsdp_config", "hf_dataset_name",
    "model_name_or_path", "pretrained_model", "resume_from_checkpoint", "tokenizer_name",
    "train_file", "validation_file",
)  # fmt: skip
"""Arguments that are a path if there is one, and else a name on the hub."""


def absolute(name: str, value: Any, folder: Path) -> Any:
    """`value` of the argument `name` as an absolute path, where it is one relative to `folder`.

    Any value with a slash in it is a path if something is there. URLs and placeholders are left.
    """
    if not isinstance(value, str) or not value or "://" in value or value.startswith("{"):
        return value
    path = folder / expanded(value)
    last = name.rsplit(".", 1)[-1]
    if last in MADE or (("/" in value or last in READ) and path.exists()):
        return str(path.absolute())
    return value
