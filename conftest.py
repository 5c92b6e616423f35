"""Nothing is needed here: `harness.pytest_plugin` is an entry point of the installed package."""
