"""The command line, `parity`: one file a command, options that several share in `options.py`.

Each command imports what it works with when it is called, so that `--help` loads only typer.
"""
