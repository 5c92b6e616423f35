"""When a run is in its steady state: one definition for the probe, the ladder and the charts.

Standard library only: the probe imports it inside the trainer.
"""

COMPILING_STEPS = 2
"""Step 0 compiles, and step 1 again, because the optimizer state has appeared."""
