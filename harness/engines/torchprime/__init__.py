"""torchprime's `train.py`, and what is injected into its process."""
