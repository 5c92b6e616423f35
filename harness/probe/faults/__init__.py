"""Defects that are seeded into a run from outside its engine, to show that each one is caught.

`engine.hf.faults=[{name: learning_rate, arguments: {factor: 1.01}}]` seeds one. `catalogue` lists
them without torch, so that a request is checked before anything is launched; docs/faults.md has the
rung that catches each. A fault that finds nothing to change raises, so that no test passes because
its fault was never there.
"""
