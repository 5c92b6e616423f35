"""Nothing is needed here: `harness.plugins.ladder` is an entry point of the installed package."""
