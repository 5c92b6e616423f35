"""Runs git without prompts, and hides credentials in what it prints."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.base.errors import BadInput
from harness.base.secrets import redact

# Set by git for its hooks: inherited, they would turn our commands onto another repository.
_OF_A_REPOSITORY = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)


class GitFailed(Exception):
    """A git command failed; the message is git's own, without credentials."""


def git(*arguments: str, environment: Mapping[str, str] | None = None, seconds: float = 600) -> str:
    """What git printed. It asks for nothing: no password, no passphrase, no unknown host.

    Raises:
        GitFailed: git said that it could not, or took longer than `seconds`.
        BadInput: there is no git.
    """
    inherited = {k: v for k, v in os.environ.items() if k not in _OF_A_REPOSITORY}
    unless_set = {"GIT_ASKPASS": "true", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}
    always = {
        "GIT_TERMINAL_PROMPT": "0",
        "GCM_INTERACTIVE": "never",
        "GIT_OPTIONAL_LOCKS": "0",  # looking at a checkout does not write into it
        "LC_ALL": "C",  # messages are told apart by their English text
    }
    try:
        done = subprocess.run(
            ["git", *arguments],
            env={**unless_set, **inherited, **always, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        raise BadInput(
            "git is not installed, and this source needs it: install git, or name a release on "
            "PyPI, or a folder that is not a git checkout."
        ) from None
    except subprocess.TimeoutExpired:
        raise GitFailed(f"git did not end in {seconds:.0f} s") from None
    if done.returncode != 0:
        raise GitFailed(_words(os.fsdecode(done.stderr)) or f"git ended with {done.returncode}")
    return os.fsdecode(done.stdout)


def file_names(folder: Path, command: str, *arguments: str) -> list[str]:
    """The file names that ``git command -z`` prints for the checkout ``folder``."""
    printed = git("-C", str(folder), command, "-z", *arguments)
    return [name for name in printed.split("\0") if name]


def _words(stderr: str) -> str:
    """The lines of git's output that say what went wrong, as one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "ssh:"))]
    return redact(" ".join(errors or lines[-1:])).rstrip(".")
