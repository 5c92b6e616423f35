"""The command line, `parity`: one file a command."""
