"""Devices: what a kind of accelerator is, one file a kind."""
