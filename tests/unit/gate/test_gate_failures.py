"""The root of a traceback, and what a failed run is blamed on."""

from __future__ import annotations

import json
from pathlib import Path

import gate_samples as samples
import pytest

from harness.base.tracebacks import root_of
from harness.gate.failures import broken_rung, why

PLAIN = """Loading weights
Traceback (most recent call last):
  File "/a/b/run.py", line 3, in <module>
    main()
  File "/c/overlays/transformers-5.3.0-ab12/transformers/trainer.py", line 1242, in create
    return LambdaLR(optimizer)
           ^^^^^^^^
AttributeError: 'NoneType' object has no attribute 'param_groups'
"""
CHAINED = """Traceback (most recent call last):
  File "/v/site-packages/transformers/utils/import_utils.py", line 5, in load
    import foo
ModuleNotFoundError: No module named 'foo'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/w/hf_clm.py", line 9, in <module>
    from transformers import Trainer
RuntimeError: Failed to import transformers.trainer because of the following error: look up
"""
HANDLING = CHAINED.replace(
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_the_deepest_frame_is_named_without_this_machines_folders() -> None:
    assert root_of(lines(PLAIN)) == (
        "AttributeError: 'NoneType' object has no attribute 'param_groups' "
        "(transformers/trainer.py:1242 in create)"
    )


@pytest.mark.parametrize("text", [CHAINED, HANDLING])
def test_the_root_of_a_chain_is_its_first_exception(text: str) -> None:
    assert root_of(lines(text)) == (
        "ModuleNotFoundError: No module named 'foo' (transformers/utils/import_utils.py:5 in load)"
    )


def test_an_earlier_exception_that_was_survived_is_not_the_root() -> None:
    assert root_of(lines(CHAINED + "went on\n" + PLAIN)) == root_of(lines(PLAIN))


def test_an_exception_without_a_message() -> None:
    text = 'Traceback (most recent call last):\n  File "/x/a.py", line 1, in f\n    g()\nKeyError\n'
    assert root_of(lines(text)) == "KeyError (/x/a.py:1 in f)"


def test_a_file_that_cannot_be_parsed_is_named_with_its_line() -> None:
    text = (
        PLAIN.partition("    return LambdaLR")[0]
        + """    from transformers import broken
  File "/c/overlays/transformers-5.3.0-ab12/transformers/broken.py", line 12
    def f(:
          ^
SyntaxError: invalid syntax
"""
    )
    assert root_of(lines(text)) == "SyntaxError: invalid syntax (transformers/broken.py:12)"


def test_the_frames_of_an_import_are_nobody_s() -> None:
    """Python leaves its own out, but not where the probe watches imports."""
    text = """Traceback (most recent call last):
  File "/x/run.py", line 3, in <module>
    import transformers
  File "/c/overlays/t-1/transformers/training_args.py", line 17, in <module>
    import nothing
  File "/w/.hf-1.scratch/path/harness/probe/phases.py", line 59, in timed
    return find_and_load(name, import_)
  File "<frozen importlib._bootstrap>", line 1140, in _find_and_load_unlocked
ModuleNotFoundError: No module named 'nothing'
"""
    where = "transformers/training_args.py:17 in <module>"
    assert root_of(lines(text)) == f"ModuleNotFoundError: No module named 'nothing' ({where})"


@pytest.mark.parametrize("text", ["", "done\n", "Traceback (most recent call last):\n  File"])
def test_no_root_where_there_is_none(text: str) -> None:
    assert root_of(lines(text)) is None


def test_how_it_ended_where_there_is_no_traceback(tmp_path: Path) -> None:
    ended = {"status": "killed", "reason": "it was ended by SIGSEGV", "code": -11}
    assert why(samples.run(tmp_path / "a", losses=(), ended=ended)) == "it was ended by SIGSEGV"


def test_a_hang_is_not_explained_by_an_old_traceback(tmp_path: Path) -> None:
    ended = {"status": "timed out", "reason": "it showed no sign of life for 600 s", "code": -15}
    record = samples.run(tmp_path / "a", losses=(), ended=ended, log=PLAIN)
    assert why(record) == "it showed no sign of life for 600 s"


def test_the_rung_that_it_gave_no_evidence_for(tmp_path: Path) -> None:
    ended = {"status": "failed", "reason": "", "code": 1}
    begun = samples.run(tmp_path / "a", losses=(6.5,), ended=ended)
    never = samples.run(tmp_path / "b", losses=(), ended=ended)
    batches = samples.run(tmp_path / "c", losses=(), ended=ended)
    loaded = json.dumps(samples.batch(0))
    (batches.directory / "steps.jsonl").write_text(f'{loaded}\n{{"event": "ba')
    assert broken_rung(begun) == "loss_curve"
    assert broken_rung(never) == "environment"
    assert broken_rung(batches) == "forward"
    assert broken_rung(None) == "environment"
