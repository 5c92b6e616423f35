"""A script is asked which arguments it takes: its own parser answers, once for each state of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.base.errors import BadInput, CannotStart
from harness.engines.hf import script_arguments as arguments
from harness.engines.hf.script_arguments import Accepted, ask
from harness.environments.interpreters import Interpreter

SCRIPT = """
import argparse, sys

def string_to_bool(text):
    return text.lower() == "true"

parser = argparse.ArgumentParser()
parser.add_argument("input")
parser.add_argument("--max_steps", "--max-steps", type=int, default=-1)
parser.add_argument("--do_train", type=string_to_bool, nargs="?", const=True, default=False)
parser.add_argument("--group", type=string_to_bool, nargs="?", const=True, default=True)
parser.add_argument("--no_group", action="store_false", dest="group")
parser.add_argument("--optim", choices=["adamw", "adafactor"], default="adamw")
parser.add_argument("--names", nargs="+")
parser.add_argument("--output_dir", required=True)
print("noise on stdout")
options = parser.parse_args()
open(sys.argv[0] + ".trained", "w").close()
"""


@pytest.fixture
def interpreter() -> Interpreter:
    return Interpreter(Path(sys.executable), (), {}, {}, "one interpreter")


class Asker:
    """Asks, and keeps what was reported while it was done."""

    def __init__(self, folder: Path, interpreter: Interpreter) -> None:
        self.script = folder / "scripts" / "run_clm.py"
        self.script.parent.mkdir()
        self.cache, self.interpreter, self.said = folder / "cache", interpreter, list[str]()

    def __call__(self, text: str | None = None) -> Accepted:
        if text is not None:
            self.script.write_text(text)
        return ask(self.script, self.interpreter, self.cache, self.said.append)


@pytest.fixture
def asker(tmp_path: Path, interpreter: Interpreter) -> Asker:
    return Asker(tmp_path, interpreter)


class TestAnswer:
    def test_what_its_parser_has(self, asker: Asker) -> None:
        accepted = asker(SCRIPT)
        known = accepted.parameters
        assert set(known) == {
            "help", "max_steps", "max-steps", "do_train", "group", "no_group", "optim", "names",
            "output_dir",
        }  # fmt: skip
        assert known["max_steps"] is known["max-steps"]
        assert known["max_steps"].type == "int"
        assert not known["max_steps"].flag
        assert known["do_train"].flag
        assert known["do_train"].default is False
        assert known["group"].default is True
        assert known["no_group"].nargs == 0
        assert known["optim"].choices == ("adamw", "adafactor")
        assert known["names"].nargs == "+"
        assert known["output_dir"].required
        assert accepted.script == str(asker.script)

    def test_nothing_is_trained(self, asker: Asker) -> None:
        asker(SCRIPT)
        assert not asker.script.with_name("run_clm.py.trained").exists()

    def test_the_script_sees_its_own_folder_and_not_ours(self, asker: Asker) -> None:
        (asker.script.parent / "settings.py").write_text("NAME = 'learning_rate'\n")
        text = "import argparse, settings\np = argparse.ArgumentParser()\n"
        accepted = asker(text + "p.add_argument('--' + settings.NAME)\np.parse_args()\n")
        assert "learning_rate" in accepted.parameters

    def test_known_arguments_are_asked_for_as_well(self, asker: Asker) -> None:
        text = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--x')\n"
        assert "x" in asker(text + "p.parse_known_args()\n").parameters


def test_code_that_does_not_start_names_file_and_line(asker: Asker) -> None:
    """A gate takes it for the candidate's fault, and says where it is."""
    (asker.script.parent / "broken.py").write_text("x = 1\ndef f(:\n    pass\n")
    with pytest.raises(CannotStart, match=r"SyntaxError: invalid syntax \(.*broken\.py:2\)"):
        asker("import broken\n")
    with pytest.raises(CannotStart, match=r"ImportError: .* \(.*run_clm\.py:1 in <module>\)"):
        asker("from json import nothing_such\n")


class TestMemory:
    def test_it_is_asked_once(self, asker: Asker) -> None:
        first = asker(SCRIPT)
        assert len(asker.said) == 1
        assert asker() == first
        assert len(asker.said) == 1

    def test_a_changed_script_is_asked_again(self, asker: Asker) -> None:
        asker(SCRIPT)
        assert "added" in asker(SCRIPT.replace("--names", "--added")).parameters

    def test_a_changed_file_beside_it_too(self, asker: Asker) -> None:
        text = "import argparse, own\np = argparse.ArgumentParser()\n"
        text += "p.add_argument('--' + own.NAME)\np.parse_args()\n"
        own = asker.script.parent / "own.py"
        own.write_text("NAME = 'a'\n")
        assert "a" in asker(text).parameters
        own.write_text("NAME = 'bc'\n")
        assert "bc" in asker().parameters

    def test_another_interpreter_is_asked_itself(self, asker: Asker) -> None:
        asker(SCRIPT)
        asker.interpreter = Interpreter(Path(sys.executable), (), {}, {}, "another")
        asker()
        assert len(asker.said) == 2

    def test_a_failure_is_not_remembered(self, asker: Asker) -> None:
        with pytest.raises(BadInput):
            asker("import there_is_no_such_module\n")
        with pytest.raises(BadInput):
            asker()
        assert len(asker.said) == 2


class TestNoAnswer:
    def test_a_missing_package_is_named(self, asker: Asker) -> None:
        with pytest.raises(BadInput, match=r"imports 'evaluate_of_nobody'.*install it there"):
            asker("import evaluate_of_nobody\n")

    def test_an_error_is_quoted(self, asker: Asker) -> None:
        with pytest.raises(BadInput, match="before it parses them: ValueError: too old"):
            asker("raise ValueError('too old')\n")

    def test_a_script_without_a_parser(self, asker: Asker) -> None:
        with pytest.raises(BadInput, match="without parsing any arguments"):
            asker("print('trained')\n")

    def test_a_script_that_takes_too_long(
        self, asker: Asker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(arguments, "PARSER_TIMEOUT", 0.5)
        with pytest.raises(BadInput, match="did not parse its arguments"):
            asker("import time\ntime.sleep(30)\n")
