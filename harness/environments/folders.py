"""The state of a folder of code: its commit, and a hash of what differs from that."""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.environments.git import file_names, git


def state(folder: Path) -> tuple[str | None, str | None]:
    """The commit of ``folder``, and the SHA-256 of what differs from it (None: nothing does).

    Without a commit all files differ. A folder within a checkout of something else has no commit:
    that of the other thing would be a lie.

    Raises:
        GitFailed: git cannot read the checkout.
    """
    if not _is_checkout(folder):
        return None, _digest(folder, _walk(folder))
    commit = git("-C", str(folder), "rev-parse", "--verify", "HEAD^{commit}").strip()
    options = ("--name-only", "--no-renames", "--ignore-submodules=none")
    changed = file_names(folder, "diff", *options, "HEAD")
    untracked = file_names(folder, "ls-files", "--others", "--exclude-standard")
    names = {*changed, *untracked}
    return commit, _digest(folder, names) if names else None


def identity(file: Path) -> dict[str, str]:
    """What tells one file from another, for a Record and its key: its path and its content."""
    return {"path": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def code_files(folder: Path) -> list[str]:
    """What makes up the code in ``folder``: no git data, nothing that git ignores."""
    if _is_checkout(folder):
        options = ("--cached", "--others", "--exclude-standard")
        return list(file_names(folder, "ls-files", *options))
    return list(_walk(folder))


def copy_code(folder: Path, target: Path) -> None:
    """Copy what makes up the code in ``folder``, as `code_files` has it."""
    for name in code_files(folder):
        original, copy = folder / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if original.is_symlink() or original.is_file():
            shutil.copy2(original, copy, follow_symlinks=False)
        elif original.is_dir():  # a submodule
            copy_code(original, copy)


def _is_checkout(folder: Path) -> bool:
    return (folder / ".git").exists()  # a folder, or a file in a worktree or submodule


def _walk(folder: Path) -> Iterator[str]:
    """The files and symbolic links below ``folder``, relative to it, without git's and caches."""
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        links = [name for name in folders if (here / name).is_symlink()]
        folders[:] = [name for name in folders if name not in (".git", "__pycache__")]
        for name in (*files, *links):
            yield os.fspath((here / name).relative_to(folder))


def _digest(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 of names, kinds, executable bits and contents."""
    digest = hashlib.sha256()
    for name in sorted(names):
        for part in (os.fsencode(name), *_content(folder / name)):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _content(path: Path) -> tuple[bytes, bytes]:
    """The kind of ``path``, and what stands for its content."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return b"deleted", b""
    if stat.S_ISLNK(mode):
        return b"link", os.fsencode(path.readlink())
    if stat.S_ISDIR(mode):  # a submodule, or a repository that is not tracked
        return b"folder", _digest(path, _walk(path)).encode()
    if not stat.S_ISREG(mode):
        return b"special", b""
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").digest()
    return (b"program" if mode & stat.S_IXUSR else b"file"), content
