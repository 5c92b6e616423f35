"""The workflow's shell blocks, in order, in a clean folder, with the real uv, gate and trainers.

tests/unit/test_workflows.py looks at what they ask for, with a double of uv.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import uv
import yaml

from harness.environments.sources import default_cache_dir

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "parity.yml"


@pytest.mark.slow
@pytest.mark.cpu
def test_the_blocks_of_a_job_in_a_clean_folder(tmp_path: Path) -> None:
    """What is checked out is the last commit. Two releases that train alike, without torch_xla."""
    for program in ("git", "jq"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: GitHub's runners have it")
    folder = tmp_path / "work"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    workflow = yaml.safe_load(WORKFLOW.read_text())
    environment = {
        **{k: v for k, v in os.environ.items() if k in ("HOME", "SSL_CERT_FILE")},
        **{k: v for k, v in os.environ.items() if k.startswith(("UV_", "PIP_"))},
        **dict.fromkeys(workflow["env"], ""),  # an input that is not given
        "PATH": f"{Path(uv.find_uv_bin()).parent}:/usr/local/bin:/usr/bin:/bin",
        "PARITY_CACHE": str(default_cache_dir()),  # what the step before these restores
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),
        "UV_PYTHON": "3.11",
        "CANDIDATE": "transformers@4.57.6",
        "BASELINE": "transformers@4.57.5",
        "CASES": "llama-tiny-every-label",
        "OVERRIDES": "launcher.device=cpu-native case.steps=5",
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_ENV": str(tmp_path / "env"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    for step in workflow["jobs"]["cpu-mesh"]["steps"]:
        if "run" in step:
            subprocess.run(
                ["bash", "-e", "-c", step["run"]], cwd=folder, env=environment, check=True
            )
    assert (tmp_path / "output").read_text() == "result=PASS\n"
    assert "PASS" in (tmp_path / "summary.md").read_text()
    made = {path.name for path in (folder / "out").iterdir()}
    assert made == {"gate.json", "gate.html", "gate.xml"}
    assert (folder / "out" / "gate.xml").read_text().count("<testcase") > 10
