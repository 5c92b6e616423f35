"""The probe: runs in a trainer's own process, around the unmodified script, and writes a Record.

It watches through torch's public hooks and depends on torch, torch_xla and numpy only, so that it
imports in any engine's environment, whatever versions live there. Nothing here imports the
harness outside of `harness.probe`, the writing half of `harness.record` (`layout`, `writer`) and
`harness.base.files`.
"""
