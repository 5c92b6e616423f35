"""Engines: each translates a Case into the Command that makes its trainer train that Case.

An engine is one `EngineSpec` (`harness.engines.spec`), found by the entry point `parity.engines`.
It only translates; it does not run, watch or judge. Nothing is imported here: an engine's
`inject.py` runs inside its trainer.
"""
