"""The JobSet of a workload: made by xpk, without a cluster, and completed by us.

`xpk workload create --dry-run --output-manifest-file` needs no network, no gcloud and no kubectl:
the JobSet that the tests read is the one that is submitted. It cannot refer to a Secret, for which
xpk 1.16 has no option, so that reference is added here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.base import secrets
from harness.base.errors import BadInput
from harness.base.progress import Progress
from harness.environments import venv
from harness.launchers.images import last_words

XPK_LOCK = Path(__file__).parents[1] / "environments" / "requirements" / "xpk.lock.txt"

CONTAINER = "parity"
"""Name of the container in every pod."""


def xpk(cache_dir: Path, progress: Progress) -> Path:
    """The `xpk` command, in an environment of its own that is made once.

    Raises InstallFailed where uv cannot install it.
    """
    digest = hashlib.sha256(f"{sys.version_info[:2]}{XPK_LOCK.read_text()}".encode())
    name = f"xpk-{digest.hexdigest()[:12]}"
    python = venv.made(
        cache_dir / "environments" / name,
        *("sync", XPK_LOCK),
        note="installing xpk into an environment of its own (200 MB)",
        what="xpk",
        way_out="launcher=xpk needs it; see that PyPI can be reached.",
        progress=progress,
    )
    return python.with_name("xpk")


def command_line(argv: Sequence[str]) -> str:
    """`argv` as the one string that xpk puts into the pod's bash script.

    It is read twice: by Kubernetes, which replaces `$(NAME)` and takes `$$` for `$`, and then by
    bash. A line break, which would end the line in the YAML, is written in bash's own notation,
    byte by byte: by its number bash knows a character only in a locale that has it.
    """
    return " ".join(map(_quoted, argv)).replace("$", "$$")


def _quoted(argument: str) -> str:
    if argument.isprintable():
        return shlex.quote(argument)
    escaped = (c if c.isprintable() and c not in "\\'" else _escape(c) for c in argument)
    return "$'" + "".join(escaped) + "'"


def _escape(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def variable(name: str, value: str) -> str:
    """The value of xpk's `--env`, which it puts between double quotes in YAML as it is."""
    return f"{name}={json.dumps(value)[1:-1].replace('$', '$$')}"


def generate(xpk_argv: Sequence[str], manifest: Path) -> dict[str, Any]:
    """The JobSet that `xpk_argv` (with --dry-run) writes into `manifest`.

    Raises BadInput with xpk's own words where it makes none.
    """
    done = subprocess.run(
        xpk_argv,
        # What is only printed concerns nobody: xpk reports its use to Google otherwise.
        env={**os.environ, "TELEMETRY_ENABLED": "false"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    )  # fmt: skip
    if done.returncode != 0 or not manifest.is_file():
        raise BadInput(
            f"xpk makes no workload of launcher.options: {last_words(done.stdout)} (its options "
            "are described by `xpk workload create --help`)"
        )
    jobset = yaml.safe_load(manifest.read_text())
    assert isinstance(jobset, dict)
    return jobset


def with_secret(jobset: Mapping[str, Any], secret: str) -> dict[str, Any]:
    """`jobset` whose pods get every key of the Secret `secret` as a variable, by reference."""
    copy: dict[str, Any] = json.loads(json.dumps(jobset))
    for container in _containers(copy):
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    return copy


COMMENT = "parity-harness/comment"
"""The annotation of a workload that says what it is for."""


def with_comment(jobset: Mapping[str, Any], comment: str) -> dict[str, Any]:
    """`jobset` with what it is for."""
    copy: dict[str, Any] = json.loads(json.dumps(jobset))
    metadata = copy.setdefault("metadata", {})
    metadata["annotations"] = {**(metadata.get("annotations") or {}), COMMENT: comment}
    return copy


def hosts_of(jobset: Mapping[str, Any]) -> int:
    """Number of pods, one on each host."""
    return sum(
        int(job["replicas"]) * int(job["template"]["spec"]["completions"])
        for job in jobset["spec"]["replicatedJobs"]
    )


def _containers(jobset: Mapping[str, Any]) -> list[dict[str, Any]]:
    pods = (j["template"]["spec"]["template"]["spec"] for j in jobset["spec"]["replicatedJobs"])
    return [container for pod in pods for container in pod["containers"]]


def check_no_secret(text: str, where: str, environment: Mapping[str, str]) -> None:
    """Raises BadInput where `text` has the value of a variable of `environment` that is secret.

    The message names the variable, and not its value.
    """
    for name, value in environment.items():
        if not secrets.is_secret(name) or len(value) < secrets.SHORTEST:
            continue
        if value in text or json.dumps(value)[1:-1] in text:
            raise BadInput(
                f"the value of {name} would be readable in {where}: drop it from engine.*.env and "
                "engine.*.arguments, keep it in a Kubernetes Secret, and name that by "
                "launcher.options.secret"
            )
