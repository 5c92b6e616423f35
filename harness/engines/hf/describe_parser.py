"""`python describe_parser.py ANSWER script.py`: which arguments does a script take?

Runs in the engine's interpreter, on the standard library alone. The script is run up to the moment
at which it parses its arguments. Its parser is then written to ANSWER as JSON instead, and the
process ends: no data is read and no device is touched.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from typing import Any, NoReturn


def describe(parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    """A list of one mapping for each `--option` of an argparse parser."""
    return [
        {
            "options": [name[2:] for name in action.option_strings if name.startswith("--")],
            "nargs": action.nargs,
            "flag": action.nargs == 0 or action.const is True,
            "type": getattr(action.type, "__name__", None),
            "choices": None if action.choices is None else [str(c) for c in action.choices],
            "default": action.default if isinstance(action.default, (bool, type(None))) else "",
            "required": bool(action.required),
        }
        for action in parser._actions
        if any(name.startswith("--") for name in action.option_strings)
    ]


def main(answer: str, script: str) -> None:
    """Run `script` until it parses its arguments; write the answer and end the process."""

    def parse_known_args(
        parser: argparse.ArgumentParser, *arguments: Any, **options: Any
    ) -> NoReturn:
        with open(answer, "w") as stream:
            json.dump(describe(parser), stream)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # the script's libraries have threads and exit handlers that are not needed

    argparse.ArgumentParser.parse_known_args = parse_known_args  # type: ignore[method-assign,assignment]
    sys.argv = [script, "--help"]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
