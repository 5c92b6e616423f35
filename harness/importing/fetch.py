"""Brings evidence here from wherever fsspec reaches: a path, gs://, s3://, hf://."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from harness.base.errors import BadInput
from harness.base.files import expanded

WANTED = (
    "trainer_state.json", "train_config.json", "train_metrics.json", "*tfevents*", "*.xplane.pb",
    "*.xplane.pb.gz", "*.log", "*.out", "*.txt",
)  # fmt: skip
"""Names of files that say something of a run; the others of a folder, weights above all, are left.
"""
EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3"}
"""What is installed for a protocol: `pip install 'parity-harness[…]'`; hf:// needs nothing."""


def wanted(name: str) -> bool:
    """Whether a file of that name is read."""
    return any(fnmatch(name, pattern) for pattern in WANTED)


def fetch(source: str, folder: Path) -> Path:
    """`source` as a path on this machine; what is elsewhere is copied into `folder`.

    Raises BadInput where it does not exist or cannot be read.
    """
    if "://" not in source:
        path = expanded(source)
        if not path.exists():
            raise BadInput(f"{source} does not exist: name a file or a folder that a trainer wrote")
        return path
    try:
        return _copied(source, folder)
    except ImportError as error:
        protocol = source.partition("://")[0]
        extra = EXTRAS.get(protocol)
        way_out = f"pip install 'parity-harness[{extra}]'" if extra else "install what serves it"
        raise BadInput(f"{source}: {error}; {way_out}") from None
    except ValueError as error:  # a protocol that nobody serves
        raise BadInput(f"{source}: {error}") from None
    except Exception as error:  # whatever the storage raises: OSError, or an error of its own
        raise BadInput(f"{source} cannot be read: {type(error).__name__}: {error}") from None


def _copied(source: str, folder: Path) -> Path:
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    system, root = url_to_fs(source)
    if system.isfile(root):
        target = folder / PurePosixPath(root).name
        system.get_file(root, str(target))
        return target
    files = [file for file in system.find(root) if wanted(PurePosixPath(file).name)]
    if not files:
        raise BadInput(f"{source}: there is no file in it that a trainer writes ({_names()})")
    for file in files:
        target = folder / PurePosixPath(file).relative_to(PurePosixPath(root))
        target.parent.mkdir(parents=True, exist_ok=True)
        system.get_file(file, str(target))
    return folder


def _names() -> str:
    return ", ".join(WANTED)
