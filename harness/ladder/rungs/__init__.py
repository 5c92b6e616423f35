"""The rungs: what two runs have to have in common, one file a rung."""
