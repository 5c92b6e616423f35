"""Runs to launch, for the tests of launchers, and a Kubernetes that reads a JobSet as it would."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.engines.command import INPUTS, RECORD, SCRATCH, SOURCE, Command
from harness.environments.interpreters import Interpreter, base_python
from harness.environments.sources import default_cache_dir
from harness.launchers.invocation import Places
from harness.launchers.launcher import Run
from harness.probe.spec import Spec

NASTY = (
    "a b", "it's", 'say "yes"', "$HOME", "$(HOME)", "$$", "$$(HOME)", "`id`", "back\\slash", "",
    "two\nlines", "tab\there", "{args.workload}", "!x", "*", "~", "# no comment", "é", "a;b&c|d",
    "trailing\\", "--x=[a,b]", "'", '"',
)  # fmt: skip
"""Arguments that a shell, YAML, Kubernetes or a template would change if they could."""


def run(
    root: Path,
    arguments: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    source: bool = False,
    overlay: bool = False,
) -> Run:
    """A run whose folders are all there, in `root`."""
    folders = {name: root / "here" / name for name in ("record", "inputs-1f", "scratch", "harness")}
    if source:
        folders["source"] = root / "here" / "source"
    for folder in folders.values():
        folder.mkdir(parents=True)
    (folders["inputs-1f"] / "rows.npz").write_bytes(b"rows")
    (folders["harness"] / "__init__.py").write_text("NAME = 'the harness'\n")
    if source:
        (folders["source"] / "train.py").write_text("SOURCE = 'the source'\n")
    overlays: tuple[Path, ...] = ()
    if overlay:
        overlays = (root / "here" / "transformers-4.57.6-abc",)
        overlays[0].mkdir()
        (overlays[0] / "transformers.py").write_text("__version__ = '4.57.6'\n")
    script = f"{SOURCE}/train.py" if source else "train.py"
    return Run(
        name="hf-0123456789ab",
        command=Command(
            argv=(script, *arguments),
            spec=Spec(steps=2, micro_batch=4, rows=f"{INPUTS}/rows.npz"),
            environment={"XLA_USE_SPMD": "1", **(environment or {})},
            pythonpath=(SOURCE,) if source else (),
            files={"sharding.yaml": f"record: {RECORD}\nscratch: {SCRATCH}\n"},
        ),
        places=Places(
            record=folders["record"],
            inputs=folders["inputs-1f"],
            scratch=folders["scratch"],
            package=folders["harness"],
            source=folders.get("source"),
        ),
        interpreter=Interpreter(
            base_python(default_cache_dir().absolute()),
            overlays,
            {},
            {},
            "key",
        ),
        environment={"PJRT_DEVICE": "TPU"},
        micro_batch=4,
    )


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """`text` as Kubernetes hands it to a container: `$(NAME)` replaced, `$$` taken for `$`.

    A reference to a variable that is not there is left as it is.
    """

    def one(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, text)


def container_of(jobset: Mapping[str, Any]) -> dict[str, Any]:
    """The one container of the one replicated job of a JobSet."""
    (job,) = jobset["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def variables_of(container: Mapping[str, Any]) -> dict[str, str]:
    """The container's own variables, as a process in it sees them."""
    variables: dict[str, str] = {}
    for variable in container["env"]:
        variables[variable["name"]] = expanded(variable["value"], variables)
    return variables


def start(
    container: Mapping[str, Any], tools: Path, more: Mapping[str, str], replace: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Run a container's command as its pod would; `tools` is where its programs are.

    `replace` maps paths within the image to paths here. xpk's script waits in steps of 5 seconds,
    by a `sleep` that is shorter here.
    """
    tools.mkdir(exist_ok=True)
    sleep = tools / "sleep"
    sleep.write_text("#!/bin/sh\nexec /bin/sleep 0.05\n")
    sleep.chmod(0o755)
    variables = variables_of(container)
    argv = [expanded(part, variables) for part in container["command"]]
    for inside, here in replace.items():
        argv = [part.replace(inside, here) for part in argv]
        variables = {k: v.replace(inside, here) for k, v in variables.items()}
    environment = {**variables, **more, "PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(argv, env=environment, capture_output=True, timeout=60)


def write_events(folder: Path, events: list[dict[str, Any]]) -> None:
    """A steps.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "steps.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
