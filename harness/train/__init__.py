"""Trains one side alone: the drop-in for torchprime's adapter over the Hugging Face Trainer.

`parity train hf` runs `run_clm.py` of any transformers, `parity train torchprime` runs torchprime's
`train.py`: each by its own arguments, watched by the probe, with curves under the same tags.
docs/adapter.md is its manual.
"""
